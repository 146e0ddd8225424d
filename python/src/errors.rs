//! The library's errors as Python's exceptions.
//!
//! The classes are Python's own (`lib/diskimg/_errors.py`): some of them derive from
//! two bases, which is plain there.

use diskimg::{Error, ErrorKind};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::error::Error as StdError;
use std::io;

/// The exception for `error`: one that Python raised in a file object or a
/// callback and that came through the library comes out unchanged.
pub(crate) fn exception(py: Python<'_>, error: &Error) -> PyErr {
    if let Some(raised) = raised_in_python(py, error) {
        return raised;
    }
    build(py, error).unwrap_or_else(|failed| failed)
}

/// A bad argument that Python's types let pass.
pub(crate) fn bad_value(message: impl Into<String>) -> PyErr {
    PyValueError::new_err(message.into())
}

fn build(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let os_error = error.io_error().filter(|_| error.kind() == ErrorKind::Io);
    let errors = py.import("diskimg._errors")?;
    let text = error.to_string();
    let path = error.path().map(|path| path.as_os_str().to_owned());
    let exception = match os_error {
        Some(os_error) => errors.call_method1("io_error", (errno(os_error), text, path))?,
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

/// The class in `lib/diskimg/_errors.py`.
fn class(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Corrupt => "CorruptError",
        ErrorKind::Unsupported => "UnsupportedError",
        ErrorKind::Refused => "RefusedError",
        ErrorKind::Limit => "LimitError",
        ErrorKind::Invalid => "InvalidError",
        _ => "Error",
    }
}

/// Python tells I/O errors apart by number. What the library found out itself
/// has none: it gets the one that the system would have given (POSIX's, which are
/// the same on all the systems that matter here, but for one).
fn errno(error: &io::Error) -> i32 {
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
        io::ErrorKind::Unsupported => EOPNOTSUPP,
        _ => 5,
    })
}

/// The Python exception at the bottom of `error`, if there is one.
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

/// Raises the library's errors.
pub(crate) trait Raise<T> {
    /// The value, or the exception.
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> Raise<T> for diskimg::Result<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|e| exception(py, &e))
    }
}
