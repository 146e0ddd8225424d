//! File objects as sources.

use super::{Raised, Seekable};
use diskimg::storage::source::{IoHints, Source, SourceError};
use pyo3::exceptions::{PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::fmt;
use std::io::{self, Read};

/// Maximum number of bytes per call of `read`, each of which allocates a `bytes` object.
const CHUNK: usize = 1 << 20;

/// A seekable file object.
pub(crate) struct ObjectSource {
    object: Seekable,
    len: u64,
}

impl ObjectSource {
    /// Reads `object` by offset, from its beginning to its end.
    pub(super) fn new(object: &Bound<'_, PyAny>, raised: Raised) -> PyResult<Self> {
        object.call_method1("seek", (0, 2))?;
        let len = object.call_method0("tell")?.extract()?;
        if len > i64::MAX as u64 {
            return Err(PyValueError::new_err(
                "the file object claims a length of more than 63 bits",
            ));
        }
        Ok(Self { object: Seekable::new(object, raised), len })
    }
}

impl fmt::Debug for ObjectSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectSource({} bytes)", self.len)
    }
}

impl Source for ObjectSource {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        let len = buf.len() as u64;
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(SourceError::OutOfRange { offset, len, source_len: self.len });
        }
        let object = self.object.lock()?;
        object.with(|object| object.call_method1("seek", (offset,)).map(drop))?;
        let mut filled = 0;
        while filled < buf.len() {
            match object.with(|object| read(object, &mut buf[filled..]))? {
                // The object ends before the length that it reported.
                0 => {
                    let source_len = offset + filled as u64;
                    return Err(SourceError::OutOfRange { offset, len, source_len });
                }
                n => filled += n,
            }
        }
        Ok(())
    }
}

/// A file behind a network, which several threads can read at any offset at once: a
/// `diskimg.fsspec.RemoteFile`.
pub(crate) struct RemoteSource {
    /// The file's method `_read_ranges`.
    read: Py<PyAny>,
    len: u64,
    raised: Raised,
}

impl RemoteSource {
    /// Reads a file with `read`, which returns the `bytes` of each pair of offset and length in a
    /// list.
    pub(super) fn new(read: Bound<'_, PyAny>, len: u64, raised: Raised) -> Self {
        Self { read: read.unbind(), len, raised }
    }
}

impl fmt::Debug for RemoteSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteSource({} bytes)", self.len)
    }
}

impl Source for RemoteSource {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        self.read_ranges(&mut [(offset, buf)])
    }

    fn read_ranges(&self, ranges: &mut [(u64, &mut [u8])]) -> Result<(), SourceError> {
        for (offset, buf) in ranges.iter() {
            let len = buf.len() as u64;
            if offset.checked_add(len).is_none_or(|end| end > self.len) {
                return Err(SourceError::OutOfRange { offset: *offset, len, source_len: self.len });
            }
        }
        let wanted: Vec<_> = ranges.iter().map(|(offset, buf)| (*offset, buf.len())).collect();
        self.raised.record(|py| {
            let answers: Vec<Bound<'_, PyBytes>> =
                self.read.bind(py).call1((wanted,))?.extract()?;
            if answers.len() != ranges.len() {
                return Err(PyValueError::new_err("the remote file returned too few ranges"));
            }
            for ((_, buf), bytes) in ranges.iter_mut().zip(&answers) {
                let bytes = bytes.as_bytes();
                if bytes.len() != buf.len() {
                    let message = format!(
                        "the remote file returned {} bytes instead of {}; has it changed?",
                        bytes.len(),
                        buf.len()
                    );
                    return Err(PyOSError::new_err(message));
                }
                buf.copy_from_slice(bytes);
            }
            Ok(())
        })?;
        Ok(())
    }

    fn io(&self) -> IoHints {
        IoHints::remote()
    }
}

/// A file object that is read once, sequentially.
pub(crate) struct ObjectReader(Py<PyAny>, Raised);

impl ObjectReader {
    /// Reads from the current position of `object`.
    pub(super) fn new(object: &Bound<'_, PyAny>, raised: Raised) -> Self {
        Self(object.clone().unbind(), raised)
    }
}

impl Read for ObjectReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.1.record(|py| read(self.0.bind(py), buf))
    }
}

/// Reads some bytes at the object's position. Returns their number, 0 at the end.
fn read(object: &Bound<'_, PyAny>, buf: &mut [u8]) -> PyResult<usize> {
    let wanted = buf.len().min(CHUNK);
    let answer = object.call_method1("read", (wanted,))?;
    if answer.is_none() {
        return Err(PyValueError::new_err("a non-blocking file has no bytes right now"));
    }
    let bytes = answer
        .cast::<PyBytes>()
        .map_err(|_| PyTypeError::new_err("the file object's read() did not return bytes"))?
        .as_bytes();
    if bytes.len() > wanted {
        return Err(PyValueError::new_err(
            "the file object's read() returned more bytes than requested",
        ));
    }
    buf[..bytes.len()].copy_from_slice(bytes);
    Ok(bytes.len())
}
