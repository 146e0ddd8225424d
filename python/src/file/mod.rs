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
use diskimg::host::source::{FileSource, Source, spool};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use std::fs::{File, OpenOptions};
use std::io;
use std::sync::Arc;

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
pub(crate) fn given(object: &Bound<'_, PyAny>) -> PyResult<Given> {
    require_binary(object, "read")?;
    if !seeks(object)? {
        return Ok(Given::Stream(source::ObjectReader::new(object)));
    }
    if let Some(file) = plain_file(object, OpenOptions::new().read(true))? {
        return Ok(Given::Positioned(Arc::new(FileSource::from_file(file)?)));
    }
    Ok(Given::Positioned(Arc::new(source::ObjectSource::new(object)?)))
}

/// An output into the file object `object`: from its beginning if it seeks, and
/// nothing else is in it afterwards; else from where it is.
///
/// # Errors
/// `TypeError` for what is no binary file, `ValueError` for one opened to append;
/// what the object raised.
pub(crate) fn output(object: &Bound<'_, PyAny>) -> PyResult<Output> {
    require_binary(object, "write")?;
    let mode = object.getattr_opt("mode")?.and_then(|mode| mode.extract::<String>().ok());
    if mode.is_some_and(|mode| mode.contains('a')) {
        let message = "a file that appends cannot hold an image: open it with 'wb' or 'r+b'";
        return Err(PyValueError::new_err(message));
    }
    if !seeks(object)? || !object.hasattr("truncate")? {
        return Ok(Output::writer(sink::ObjectWriter::new(object)));
    }
    object.call_method1("truncate", (0,))?;
    if let Some(file) = plain_file(object, OpenOptions::new().write(true))? {
        return Ok(Output::to_sink(Arc::new(diskimg::host::sink::FileSink::new(file, true)?)));
    }
    Ok(Output::to_sink(Arc::new(sink::ObjectSink::new(object))))
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
    match object.hasattr(method)? {
        true => Ok(()),
        false => Err(PyTypeError::new_err(format!(
            "expected str, bytes, os.PathLike or a binary file object, not {}",
            object.get_type().qualname()?
        ))),
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

/// Runs `f` with the interpreter, from a thread that may never have had it.
fn with_python<T>(f: impl FnOnce(Python<'_>) -> PyResult<T>) -> io::Result<T> {
    let ended = || io::Error::other("Python has ended");
    Python::try_attach(f).ok_or_else(ended)?.map_err(raised)
}

/// As the library carries it until it comes out again.
fn raised(error: PyErr) -> io::Error {
    // Not by its kind: some kinds of error have a meaning to who reads (an end of
    // file, an interruption) that an exception does not.
    io::Error::other(error)
}
