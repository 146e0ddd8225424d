//! Unpacking: what cannot be read by position goes to an unnamed temporary
//! file first.

use crate::error::{Error, Result};
use crate::open::limits::Limits;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::{Source, spool_up_to};
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

/// A range of a source as a stream.
#[derive(Debug)]
pub(super) struct SourceReader<'a> {
    source: &'a dyn Source,
    range: Range<u64>,
}

impl<'a> SourceReader<'a> {
    pub(super) fn new(source: &'a dyn Source, range: Range<u64>) -> Self {
        Self { source, range }
    }

    /// All of it.
    pub(super) fn whole(source: &'a dyn Source) -> Self {
        Self::new(source, 0..source.len())
    }
}

impl Read for SourceReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = to_u64(buf.len()).min(self.range.end.saturating_sub(self.range.start));
        let n = read_some(self.source, &mut buf[..to_usize(n)], self.range.start)?;
        self.range.start += to_u64(n);
        Ok(n)
    }
}

/// Reads as much as fits and is there.
pub(super) fn read_some(source: &dyn Source, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let n = to_usize(source.len().saturating_sub(offset).min(to_u64(buf.len())));
    if n > 0 {
        source.read_exact_at(&mut buf[..n], offset)?;
    }
    Ok(n)
}

/// Bytes that something may unpack to, and which limit says so.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnpackBudget {
    pub(super) bytes: u64,
    name: &'static str,
    most: u64,
}

impl UnpackBudget {
    /// For what is packed into so many bytes.
    pub(super) fn of(packed: u64, limits: &Limits) -> Self {
        let by_ratio = packed.saturating_mul(limits.unpacked_ratio);
        match by_ratio < limits.unpacked_bytes {
            true => Self { bytes: by_ratio, name: "unpacked_ratio", most: limits.unpacked_ratio },
            false => {
                let bytes = limits.unpacked_bytes;
                Self { bytes, name: "unpacked_bytes", most: bytes }
            }
        }
    }

    /// The error of what needs more.
    pub(super) fn exceeded(&self) -> Error {
        let found = format!("it unpacks to more than {} bytes", self.bytes);
        Error::over_limit(self.name, found, self.most)
    }
}

/// Writes a stream for which there is `budget` to an unnamed temporary file.
///
/// # Errors
/// [`Limit`](crate::ErrorKind::Limit) if it is longer,
/// [`Corrupt`](crate::ErrorKind::Corrupt) if it does not decode,
/// [`Io`](crate::ErrorKind::Io).
pub(super) fn to_temporary_file(
    stream: impl Read,
    budget: UnpackBudget,
) -> Result<Arc<dyn Source>> {
    let source = spool_up_to(stream, budget.bytes).map_err(failed)?;
    Ok(Arc::new(source.ok_or_else(|| budget.exceeded())?))
}

/// Unpacking failed: what the system did not say, the packed bytes did.
pub(super) fn failed(e: io::Error) -> Error {
    match e.raw_os_error() {
        Some(_) => Error::io("cannot unpack it", e),
        None => Error::corrupt("packed data", format!("cannot unpack it: {e}")),
    }
}
