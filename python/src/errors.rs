//! Conversion of the library's errors to Python exceptions.
//!
//! The classes are defined in Python (`lib/diskimg/_errors.py`) because some of them have two
//! base classes.

use crate::remedy;
use diskimg::{Error, ErrorKind};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::IntoPyDict;
use std::error::Error as StdError;
use std::io;

/// Returns the exception for `error`. If the cause is an exception raised by a file object or a
/// callback, returns that exception unchanged.
pub(crate) fn exception(py: Python<'_>, error: &Error) -> PyErr {
    if let Some(raised) = raised_in_python(py, error) {
        return raised;
    }
    build(py, error).unwrap_or_else(|failed| failed)
}

/// Returns a `ValueError` for an invalid argument.
pub(crate) fn bad_value(message: impl Into<String>) -> PyErr {
    PyValueError::new_err(message.into())
}

fn build(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let transient = error.kind() == ErrorKind::Transient;
    let os_error = error.io_error().filter(|_| transient || error.kind() == ErrorKind::Io);
    let errors = py.import("diskimg._errors")?;
    let mut text = error.describe(remedy::argument);
    if error.kind() == ErrorKind::Unsupported && text.contains("Unknown protocol '") {
        text += "; diskimg.fsspec opens URLs";
    }
    let path = error.path().map(|path| path.as_os_str().to_owned());
    let exception = match os_error {
        Some(os_error) => {
            let transient = [("transient", transient)].into_py_dict(py)?;
            let arguments = (errno(os_error), text, path);
            errors.call_method("io_error", arguments, Some(&transient))?
        }
        None => {
            let exception = errors.getattr(class(error.kind()))?.call1((text,))?;
            exception.setattr("path", path)?;
            exception
        }
    };
    exception.setattr("structure", error.structure())?;
    exception.setattr("offset", error.offset())?;
    if let Some(limit) = error.exceeded() {
        exception.setattr("limit", limit)?;
    }
    Ok(PyErr::from_value(exception))
}

/// Returns the name of the class in `lib/diskimg/_errors.py`.
fn class(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Corrupt => "CorruptError",
        ErrorKind::Unsupported => "UnsupportedError",
        ErrorKind::Refused => "RefusedError",
        ErrorKind::Limit => "LimitError",
        ErrorKind::Locked => "LockedError",
        ErrorKind::Invalid => "InvalidError",
        _ => "Error",
    }
}

/// Returns the errno value of `error`, by which Python selects the exception class. An error that
/// the library created itself has none and gets the one that the system would have returned.
/// These values are the same on all supported systems, with two exceptions.
fn errno(error: &io::Error) -> i32 {
    const ETIMEDOUT: i32 = if cfg!(target_os = "macos") { 60 } else { 110 };
    const EOPNOTSUPP: i32 = if cfg!(target_os = "macos") { 102 } else { 95 };
    error.raw_os_error().unwrap_or(match error.kind() {
        io::ErrorKind::NotFound => 2,
        io::ErrorKind::PermissionDenied => 13,
        io::ErrorKind::AlreadyExists => 17,
        io::ErrorKind::NotADirectory => 20,
        io::ErrorKind::IsADirectory => 21,
        io::ErrorKind::InvalidInput => 22,
        io::ErrorKind::StorageFull => 28,
        io::ErrorKind::BrokenPipe => 32,
        io::ErrorKind::TimedOut => ETIMEDOUT,
        io::ErrorKind::Unsupported => EOPNOTSUPP,
        _ => 5,
    })
}

/// Returns the Python exception that caused `error`, if there is one.
fn raised_in_python(py: Python<'_>, error: &Error) -> Option<PyErr> {
    let mut next: Option<&(dyn StdError + 'static)> =
        error.io_error().and_then(io::Error::get_ref).map(|inner| inner as _);
    while let Some(inner) = next {
        if let Some(raised) = inner.downcast_ref::<PyErr>() {
            return Some(raised.clone_ref(py));
        }
        next = match inner.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped as _),
            None => inner.source(),
        };
    }
    None
}

/// Converts results of the library.
pub(crate) trait Raise<T> {
    /// Returns the value, or the error as a Python exception.
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> Raise<T> for diskimg::Result<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|e| exception(py, &e))
    }
}
