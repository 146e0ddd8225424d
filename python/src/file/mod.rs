//! Python's file objects.
//!
//! | object | as a source | as an output |
//! |---|---|---|
//! | a plain file, perhaps buffered | the file itself, opened anew | the same |
//! | seeks | [`source::ObjectSource`] | [`sink::ObjectSink`] |
//! | does not seek | a stream, spooled to a temporary file | a stream |
//!
//! Two locks are at work, an object's own (its position belongs to one reader at
//! a time) and the GIL. The object's is always taken first, by a thread that does
//! not hold the GIL: who holds both and calls Python may lose the GIL on the way.

mod sink;
mod source;

use diskimg::Output;
use diskimg::storage::source::{FileSource, HostFileId, Source, spool};
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use std::fs::{File, OpenOptions};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

/// What a file object raised first while the library used it. The library makes of
/// it what it makes of any failed read: an error with a context, a note, a second
/// try. For who called it is an exception that comes out as it is.
#[derive(Clone, Default)]
pub(crate) struct Raised(Arc<Mutex<Option<PyErr>>>);

impl Raised {
    fn slot(&self) -> MutexGuard<'_, Option<PyErr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was raised, once.
    pub(crate) fn take(&self) -> Option<PyErr> {
        self.slot().take()
    }

    /// What an operation gave, unless something was raised in its course.
    pub(crate) fn or<T>(&self, outcome: PyResult<T>) -> PyResult<T> {
        self.take().map_or(outcome, Err)
    }

    /// Runs `f` with the interpreter, from a thread that may never have had it.
    fn noting<T>(&self, f: impl FnOnce(Python<'_>) -> PyResult<T>) -> io::Result<T> {
        let ended = || io::Error::other("Python has ended");
        let outcome = Python::try_attach(|py| {
            f(py).inspect_err(|error| {
                self.slot().get_or_insert_with(|| error.clone_ref(py));
            })
        });
        // Not by its kind: some kinds of error have a meaning to who reads (an end of
        // file, an interruption) that an exception does not.
        outcome.ok_or_else(ended)?.map_err(io::Error::other)
    }
}

/// A file object whose position belongs to one caller at a time.
struct Seekable {
    object: Py<PyAny>,
    turn: Mutex<()>,
    /// Whose turn it is.
    owner: Mutex<Option<ThreadId>>,
    raised: Raised,
}

/// Whoever has it may move the object's position.
struct Turn<'a> {
    seekable: &'a Seekable,
    _turn: MutexGuard<'a, ()>,
}

impl Seekable {
    fn new(object: &Bound<'_, PyAny>, raised: Raised) -> Self {
        let object = object.clone().unbind();
        Self { object, turn: Mutex::default(), owner: Mutex::default(), raised }
    }

    fn owner(&self) -> MutexGuard<'_, Option<ThreadId>> {
        self.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn of this thread.
    fn turn(&self) -> io::Result<Turn<'_>> {
        let this = std::thread::current().id();
        if *self.owner() == Some(this) {
            let message = "reentrant call: this file object is being used by this very thread";
            return self.raised.noting(|_| Err(PyRuntimeError::new_err(message)));
        }
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        *self.owner() = Some(this);
        Ok(Turn { seekable: self, _turn: turn })
    }
}

impl Turn<'_> {
    fn with<T>(&self, f: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>) -> io::Result<T> {
        self.seekable.raised.noting(|py| f(self.seekable.object.bind(py)))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.seekable.owner() = None;
    }
}

/// A file object to be read.
pub(crate) enum Given {
    /// It can be read by position.
    Positioned(Arc<dyn Source>),
    /// It can be read once, in order.
    Stream(source::ObjectReader),
}

impl Given {
    /// Its bytes, by position. A stream is read to its end first. Not to be
    /// called with the GIL held.
    pub(crate) fn source(self) -> io::Result<Arc<dyn Source>> {
        match self {
            Self::Positioned(source) => Ok(source),
            Self::Stream(reader) => Ok(Arc::new(spool(reader)?)),
        }
    }
}

/// The file object `object`, for reading.
///
/// # Errors
/// `TypeError` for what is no binary file; what the object raised.
pub(crate) fn given(object: &Bound<'_, PyAny>, raised: Raised) -> PyResult<Given> {
    require_binary(object, "read")?;
    if !seeks(object)? {
        return Ok(Given::Stream(source::ObjectReader::new(object, raised)));
    }
    if let Some(file) = plain_file(object, OpenOptions::new().read(true))? {
        return Ok(Given::Positioned(Arc::new(FileSource::from_file(file)?)));
    }
    Ok(Given::Positioned(Arc::new(source::ObjectSource::new(object, raised)?)))
}

/// A file object that can take an image.
///
/// # Errors
/// `TypeError` for what is no binary file, `ValueError` for one opened to append;
/// what the object raised.
pub(crate) fn require_output(object: &Bound<'_, PyAny>) -> PyResult<()> {
    require_binary(object, "write")?;
    if appends(object)? {
        let message = "a file that appends cannot hold an image: open it with 'wb' or 'r+b'";
        return Err(PyValueError::new_err(message));
    }
    Ok(())
}

/// An output into such a file object: from its beginning if it seeks and can be cut, and
/// nothing else is in it afterwards; else from where it is. None of the files that are
/// `read` may be this one. Also tells whether it is written by
/// position: then the object's own is anywhere afterwards.
///
/// # Errors
/// `RefusedError`; what the object raised.
pub(crate) fn output(
    object: &Bound<'_, PyAny>,
    read: &[HostFileId],
    raised: Raised,
) -> PyResult<(Output, bool)> {
    let stream = |raised| (Output::writer(sink::ObjectWriter::new(object, raised)), false);
    if !seeks(object)? || !object.hasattr("truncate")? {
        return Ok(stream(raised));
    }
    let plain = plain_file(object, OpenOptions::new().write(true))?;
    if plain.as_ref().is_some_and(|file| is_among(file, read)) {
        let error = diskimg::Error::refused("the output is one of the source's own files");
        return Err(crate::errors::exception(object.py(), &error.in_file(name(object))));
    }
    match object.call_method1("truncate", (0,)) {
        // Many a class seeks and has no such thing but by inheritance.
        Err(error) if error.is_instance_of::<PyOSError>(object.py()) => return Ok(stream(raised)),
        other => other.map(drop)?,
    }
    let output = match plain {
        Some(file) => Output::to_sink(Arc::new(diskimg::storage::sink::FileSink::new(file, true)?)),
        None => Output::to_sink(Arc::new(sink::ObjectSink::new(object, raised))),
    };
    Ok((output, true))
}

/// What tells the files apart that an image is in.
pub(crate) fn files_of(image: &diskimg::Image) -> impl Iterator<Item = HostFileId> {
    image.layers().flat_map(|layer| layer.files()).filter_map(|file| file.identity())
}

fn is_among(file: &File, others: &[HostFileId]) -> bool {
    let id = file.try_clone().ok().and_then(|file| FileSource::from_file(file).ok()?.identity());
    id.is_some_and(|id| others.contains(&id))
}

/// Whether what is written goes to the end, wherever it was meant for.
fn appends(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    let mode = object.getattr_opt("mode")?.and_then(|mode| mode.extract::<String>().ok());
    if mode.is_some_and(|mode| mode.contains('a')) {
        return Ok(true);
    }
    let py = object.py();
    let (Ok(descriptor), Ok(fcntl)) = (object.call_method0("fileno"), py.import("fcntl")) else {
        return Ok(false);
    };
    let Ok(flags) = fcntl.call_method1("fcntl", (descriptor, fcntl.getattr("F_GETFL")?)) else {
        return Ok(false);
    };
    flags.bitand(py.import("os")?.getattr("O_APPEND")?)?.is_truthy()
}

/// What messages and `info` call it.
pub(crate) fn name(object: &Bound<'_, PyAny>) -> String {
    let name = object.getattr("name").ok().and_then(|name| name.extract::<String>().ok());
    let kind = || object.get_type().name().map_or_else(|_| "file".to_owned(), |k| k.to_string());
    name.unwrap_or_else(|| format!("<{}>", kind()))
}

fn require_binary(object: &Bound<'_, PyAny>, method: &str) -> PyResult<()> {
    let py = object.py();
    if object.is_instance(&py.import("io")?.getattr("TextIOBase")?)? {
        return Err(PyTypeError::new_err(
            "a text file holds no image: open it with 'b' in its mode",
        ));
    }
    if !object.hasattr(method)? {
        return Err(PyTypeError::new_err(format!(
            "expected str, bytes, os.PathLike or a binary file object, not {}",
            object.get_type().qualname()?
        )));
    }
    // A plain file is opened anew, with the rights of this process: ask the object for its own.
    let able = match method {
        "read" => "readable",
        _ => "writable",
    };
    match object.getattr_opt(able)? {
        Some(able) if !able.call0()?.is_truthy()? => {
            Err(PyTypeError::new_err(format!("this file object was not opened to {method}")))
        }
        _ => Ok(()),
    }
}

fn seeks(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    match object.getattr_opt("seekable")? {
        Some(seekable) => seekable.call0()?.is_truthy(),
        None => object.hasattr("seek"),
    }
}

/// The regular file that `object` is, opened anew, if it is nothing but that:
/// reading and writing it needs no Python. (What has a descriptor may still be
/// something else: a `GzipFile` has that of the compressed file.)
///
/// `None` also where the system does not open descriptors by name.
fn plain_file(object: &Bound<'_, PyAny>, how: &OpenOptions) -> PyResult<Option<File>> {
    let io = object.py().import("io")?;
    let is =
        |object: &Bound<'_, PyAny>, class| PyResult::Ok(object.get_type().is(&io.getattr(class)?));
    let buffered = is(object, "BufferedReader")?
        || is(object, "BufferedWriter")?
        || is(object, "BufferedRandom")?;
    let raw = if buffered { object.getattr("raw")? } else { object.clone() };
    if !is(&raw, "FileIO")? {
        return Ok(None);
    }
    // What Python still holds back belongs to the file.
    object.call_method0("flush")?;
    let descriptor: i32 = raw.call_method0("fileno")?.extract()?;
    let name = format!("/proc/self/fd/{descriptor}");
    let regular = std::fs::metadata(&name).is_ok_and(|metadata| metadata.is_file());
    Ok(if regular { how.open(name).ok() } else { None })
}
