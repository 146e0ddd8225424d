//! File objects as outputs.

use super::{Raised, Seekable};
use diskimg::storage::sink::Sink;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::fmt;
use std::io::{self, Write};

/// A file object that is written sequentially.
pub(crate) struct ObjectWriter(Py<PyAny>, Raised);

impl ObjectWriter {
    /// Writes from the current position of `object`.
    pub(super) fn new(object: &Bound<'_, PyAny>, raised: Raised) -> Self {
        Self(object.clone().unbind(), raised)
    }
}

impl Write for ObjectWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.1.record(|py| write(self.0.bind(py), buf))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.1.record(|py| flush(self.0.bind(py)))
    }
}

/// A seekable file object that is initially empty.
pub(crate) struct ObjectSink(Seekable);

impl ObjectSink {
    /// Writes to `object` by offset.
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
        self.0.lock()?.with(|object| {
            object.call_method1("seek", (offset,))?;
            write_all(object, buf)
        })
    }

    /// The object was emptied, and gaps in a file or a `BytesIO` read as zeros.
    fn is_zeroed(&self) -> bool {
        true
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock()?.with(|object| {
            object.call_method1("seek", (0, 2))?;
            let end: u64 = object.call_method0("tell")?.extract()?;
            // `truncate` need not extend the file: that of a `BytesIO` does not.
            if end < len {
                object.call_method1("seek", (len - 1,))?;
                write_all(object, &[0])
            } else {
                object.call_method1("truncate", (len,)).map(drop)
            }
        })
    }

    fn flush(&self) -> io::Result<()> {
        self.0.lock()?.with(flush)
    }
}

fn write_all(object: &Bound<'_, PyAny>, mut buf: &[u8]) -> PyResult<()> {
    while !buf.is_empty() {
        match write(object, buf)? {
            0 => return Err(PyValueError::new_err("the file object's write() wrote nothing")),
            n => buf = &buf[n..],
        }
    }
    Ok(())
}

/// Writes a part of `buf` and returns its length.
fn write(object: &Bound<'_, PyAny>, buf: &[u8]) -> PyResult<usize> {
    let py = object.py();
    let answer = object.call_method1("write", (PyBytes::new(py, buf),))?;
    if answer.is_none() {
        // A raw file returns `None` if it would block; other objects if they return no count.
        return match object.is_instance(&py.import("io")?.getattr("RawIOBase")?)? {
            true => Err(PyValueError::new_err("a non-blocking file cannot be written right now")),
            false => Ok(buf.len()),
        };
    }
    let written: usize = answer.extract()?;
    match written <= buf.len() {
        true => Ok(written),
        false => Err(PyValueError::new_err(
            "the file object's write() returned more than the length of the data",
        )),
    }
}

fn flush(object: &Bound<'_, PyAny>) -> PyResult<()> {
    match object.getattr_opt("flush")? {
        Some(flush) => flush.call0().map(drop),
        None => Ok(()),
    }
}
