//! Python's file objects.
//!
//! | object | as a source | as an output |
//! |---|---|---|
//! | regular file, buffered or not | the file itself, reopened | the same |
//! | seekable | [`source::ObjectSource`] | [`sink::ObjectSink`] |
//! | of `diskimg.fsspec` | [`source::RemoteSource`], with a cache | — |
//! | not seekable | a stream, spooled to a temporary file | a stream |
//!
//! Two locks are involved: the object's own, which protects its position, and the GIL. The object's
//! lock is always taken first, by a thread that does not hold the GIL, because a thread that calls
//! Python may release the GIL and take it again meanwhile.

mod sink;
mod source;

use diskimg::Output;
use diskimg::storage::source::{Cached, FileSource, HostFileId, Source, spool};
use pyo3::exceptions::{
    PyConnectionError, PyOSError, PyRuntimeError, PyTimeoutError, PyTypeError, PyValueError,
};
use pyo3::prelude::*;
use std::fs::{File, OpenOptions};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

/// The first exception that a file object raised while the library used it. The library handles
/// the failed read like any other: it adds context, tolerates it or retries. The caller gets the
/// original exception.
#[derive(Clone, Default)]
pub(crate) struct Raised(Arc<Mutex<Option<PyErr>>>);

impl Raised {
    fn slot(&self) -> MutexGuard<'_, Option<PyErr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the exception out.
    pub(crate) fn take(&self) -> Option<PyErr> {
        self.slot().take()
    }

    /// Returns the exception if there is one, otherwise `outcome`.
    pub(crate) fn or<T>(&self, outcome: PyResult<T>) -> PyResult<T> {
        self.take().map_or(outcome, Err)
    }

    /// Runs `f` with the GIL and records an exception that it raises. Works in any thread.
    fn record<T>(&self, f: impl FnOnce(Python<'_>) -> PyResult<T>) -> io::Result<T> {
        let finalized = || io::Error::other("the Python interpreter has been finalized");
        let outcome = Python::try_attach(|py| {
            f(py).inspect_err(|error| {
                self.slot().get_or_insert_with(|| error.clone_ref(py));
            })
        });
        outcome.ok_or_else(finalized)?.map_err(|error| io::Error::new(kind(&error), error))
    }
}

/// Returns the kind of an error that a file object raised: that of a lost or slow connection, or
/// `Other`. Callers interpret other kinds, such as `UnexpectedEof` and `Interrupted`, which the
/// exception does not mean.
fn kind(error: &PyErr) -> io::ErrorKind {
    let kind = Python::try_attach(|py| {
        if error.is_instance_of::<PyTimeoutError>(py) {
            io::ErrorKind::TimedOut
        } else if error.is_instance_of::<PyConnectionError>(py) {
            io::ErrorKind::ConnectionReset
        } else {
            io::ErrorKind::Other
        }
    });
    kind.unwrap_or(io::ErrorKind::Other)
}

/// A seekable file object that one thread uses at a time.
struct Seekable {
    object: Py<PyAny>,
    /// Held while the object's position is in use.
    lock: Mutex<()>,
    /// The thread that holds the lock.
    owner: Mutex<Option<ThreadId>>,
    raised: Raised,
}

/// Exclusive use of a seekable file object.
struct Locked<'a> {
    seekable: &'a Seekable,
    _guard: MutexGuard<'a, ()>,
}

impl Seekable {
    fn new(object: &Bound<'_, PyAny>, raised: Raised) -> Self {
        let object = object.clone().unbind();
        Self { object, lock: Mutex::default(), owner: Mutex::default(), raised }
    }

    fn owner(&self) -> MutexGuard<'_, Option<ThreadId>> {
        self.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the object for this thread.
    ///
    /// # Errors
    /// Raises `RuntimeError` if this thread has already locked it.
    fn lock(&self) -> io::Result<Locked<'_>> {
        let this = std::thread::current().id();
        if *self.owner() == Some(this) {
            let message = "reentrant call: this thread is already using the file object";
            return self.raised.record(|_| Err(PyRuntimeError::new_err(message)));
        }
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        *self.owner() = Some(this);
        Ok(Locked { seekable: self, _guard: guard })
    }
}

impl Locked<'_> {
    fn with<T>(&self, f: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>) -> io::Result<T> {
        self.seekable.raised.record(|py| f(self.seekable.object.bind(py)))
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        *self.seekable.owner() = None;
    }
}

/// A file object that is read.
pub(crate) enum InputFile {
    /// Can be read at any offset.
    Seekable(Arc<dyn Source>),
    /// Can be read once, sequentially.
    Stream(source::ObjectReader),
}

impl InputFile {
    /// Returns the contents as a source. A stream is read to its end first. Must not be called with
    /// the GIL held.
    pub(crate) fn source(self) -> io::Result<Arc<dyn Source>> {
        match self {
            Self::Seekable(source) => Ok(source),
            Self::Stream(reader) => spool(reader),
        }
    }
}

/// Prepares the file object `object` for reading.
///
/// # Errors
/// `TypeError` if it is not a readable binary file; exceptions that the object raises.
pub(crate) fn input(object: &Bound<'_, PyAny>, raised: Raised) -> PyResult<InputFile> {
    require_binary(object, "read")?;
    if !seeks(object)? {
        return Ok(InputFile::Stream(source::ObjectReader::new(object, raised)));
    }
    if let Some(file) = regular_file(object, OpenOptions::new().read(true))? {
        return Ok(InputFile::Seekable(Arc::new(FileSource::from_file(file)?)));
    }
    if let Some(read) = object.getattr_opt("_read_ranges")? {
        let len = object.getattr("size")?.extract()?;
        let remote = Arc::new(source::RemoteSource::new(read, len, raised));
        return Ok(InputFile::Seekable(Arc::new(Cached::new(remote))));
    }
    Ok(InputFile::Seekable(Arc::new(source::ObjectSource::new(object, raised)?)))
}

/// Verifies that an image can be written to a file object.
///
/// # Errors
/// `TypeError` if it is not a writable binary file, `ValueError` if it was opened for appending;
/// exceptions that the object raises.
pub(crate) fn require_output(object: &Bound<'_, PyAny>) -> PyResult<()> {
    require_binary(object, "write")?;
    if appends(object)? {
        let message =
            "cannot write an image to a file opened for appending: open it with 'wb' or 'r+b'";
        return Err(PyValueError::new_err(message));
    }
    Ok(())
}

/// Creates an output that writes to such a file object. If the object can seek and truncate, it is
/// emptied and written from its beginning; otherwise it is written from its current position. Also
/// returns whether it is written by offset, which leaves its position undefined.
///
/// # Errors
/// `RefusedError` if the object is one of the `read` files; exceptions that the object raises.
pub(crate) fn output(
    object: &Bound<'_, PyAny>,
    read: &[HostFileId],
    raised: Raised,
) -> PyResult<(Output, bool)> {
    let stream = |raised| (Output::writer(sink::ObjectWriter::new(object, raised)), false);
    if !seeks(object)? || !object.hasattr("truncate")? {
        return Ok(stream(raised));
    }
    let regular = regular_file(object, OpenOptions::new().write(true))?;
    if regular.as_ref().is_some_and(|file| is_among(file, read)) {
        let error = diskimg::Error::refused("the output is one of the source's own files");
        return Err(crate::errors::exception(object.py(), &error.in_file(name(object))));
    }
    match object.call_method1("truncate", (0,)) {
        // Some seekable classes only inherit a `truncate` that raises `UnsupportedOperation`.
        Err(error) if error.is_instance_of::<PyOSError>(object.py()) => return Ok(stream(raised)),
        other => other.map(drop)?,
    }
    let output = match regular {
        Some(file) => Output::to_sink(Arc::new(diskimg::storage::sink::FileSink::new(file, true)?)),
        None => Output::to_sink(Arc::new(sink::ObjectSink::new(object, raised))),
    };
    Ok((output, true))
}

/// Returns the identities of the files that an image consists of.
pub(crate) fn files_of(image: &diskimg::Image) -> impl Iterator<Item = HostFileId> {
    image.layers().flat_map(|layer| layer.files()).flat_map(|file| file.identities())
}

fn is_among(file: &File, others: &[HostFileId]) -> bool {
    let id = file.try_clone().ok().and_then(|file| FileSource::from_file(file).ok()?.identity());
    id.is_some_and(|id| others.contains(&id))
}

/// Returns whether the file is in append mode, where every write goes to the end.
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

/// Returns the name of a file object for messages and `info`.
pub(crate) fn name(object: &Bound<'_, PyAny>) -> String {
    let name = object.getattr("name").ok().and_then(|name| name.extract::<String>().ok());
    let kind = || object.get_type().name().map_or_else(|_| "file".to_owned(), |k| k.to_string());
    name.unwrap_or_else(|| format!("<{}>", kind()))
}

fn require_binary(object: &Bound<'_, PyAny>, method: &str) -> PyResult<()> {
    let py = object.py();
    if object.is_instance(&py.import("io")?.getattr("TextIOBase")?)? {
        return Err(PyTypeError::new_err(
            "expected a binary file, not a text file: open it with 'b' in its mode",
        ));
    }
    if !object.hasattr(method)? {
        return Err(PyTypeError::new_err(format!(
            "expected str, bytes, os.PathLike or a binary file object, not {}",
            object.get_type().qualname()?
        )));
    }
    // A regular file is reopened with the permissions of this process, so the object's own mode
    // must be checked.
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

/// Reopens the regular file behind `object`, which can then be read and written without Python.
/// Only exact `io` classes qualify: an object with a descriptor may still be something else, such
/// as a `GzipFile` with the descriptor of the compressed file.
///
/// Returns `None` also if the system cannot open descriptors by name.
fn regular_file(object: &Bound<'_, PyAny>, how: &OpenOptions) -> PyResult<Option<File>> {
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
    // Write out what Python has buffered.
    object.call_method0("flush")?;
    let descriptor: i32 = raw.call_method0("fileno")?.extract()?;
    let name = format!("/proc/self/fd/{descriptor}");
    let regular = std::fs::metadata(&name).is_ok_and(|metadata| metadata.is_file());
    Ok(if regular { how.open(name).ok() } else { None })
}
