//! File objects that are written.

use super::{Raised, Seekable};
use diskimg::storage::sink::Sink;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::fmt;
use std::io::{self, Write};

/// A file object that takes bytes in order.
pub(crate) struct ObjectWriter(Py<PyAny>, Raised);

impl ObjectWriter {
    /// Bytes follow what `object` got already.
    pub(super) fn new(object: &Bound<'_, PyAny>, raised: Raised) -> Self {
        Self(object.clone().unbind(), raised)
    }
}

impl Write for ObjectWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.1.noting(|py| write(self.0.bind(py), buf))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.1.noting(|py| flush(self.0.bind(py)))
    }
}

/// A file object that seeks, and is empty at first.
pub(crate) struct ObjectSink(Seekable);

impl ObjectSink {
    /// All of `object`.
    pub(super) fn new(object: &Bound<'_, PyAny>, raised: Raised) -> Self {
        Self(Seekable::new(object, raised))
    }
}

impl fmt::Debug for ObjectSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ObjectSink")
    }
}

impl Sink for ObjectSink {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.turn()?.with(|object| {
            object.call_method1("seek", (offset,))?;
            write_all(object, buf)
        })
    }

    /// It was emptied, and what is skipped in a file or a `BytesIO` reads as zeros.
    fn is_zeroed(&self) -> bool {
        true
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.turn()?.with(|object| {
            object.call_method1("seek", (0, 2))?;
            let end: u64 = object.call_method0("tell")?.extract()?;
            // `truncate` need not lengthen: that of a `BytesIO` does not.
            if end < len {
                object.call_method1("seek", (len - 1,))?;
                write_all(object, &[0])
            } else {
                object.call_method1("truncate", (len,)).map(drop)
            }
        })
    }

    fn flush(&self) -> io::Result<()> {
        self.0.turn()?.with(flush)
    }
}

fn write_all(object: &Bound<'_, PyAny>, mut buf: &[u8]) -> PyResult<()> {
    while !buf.is_empty() {
        match write(object, buf)? {
            0 => return Err(PyValueError::new_err("the file object's write() took nothing")),
            n => buf = &buf[n..],
        }
    }
    Ok(())
}

/// How much of `buf` the object took.
fn write(object: &Bound<'_, PyAny>, buf: &[u8]) -> PyResult<usize> {
    let py = object.py();
    let answer = object.call_method1("write", (PyBytes::new(py, buf),))?;
    if answer.is_none() {
        // A raw file says so that it would block; others, that they have nothing to say.
        return match object.is_instance(&py.import("io")?.getattr("RawIOBase")?)? {
            true => Err(PyValueError::new_err("a non-blocking file takes no bytes right now")),
            false => Ok(buf.len()),
        };
    }
    let taken: usize = answer.extract()?;
    match taken <= buf.len() {
        true => Ok(taken),
        false => Err(PyValueError::new_err("the file object's write() took more than there was")),
    }
}

fn flush(object: &Bound<'_, PyAny>) -> PyResult<()> {
    match object.getattr_opt("flush")? {
        Some(flush) => flush.call0().map(drop),
        None => Ok(()),
    }
}
