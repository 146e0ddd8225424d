//! Decompression to unnamed temporary files, for data that does not allow random access.

use crate::error::{Error, Result};
use crate::open::limits::Limits;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::{Source, spool_up_to};
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

/// Reads a range of a source as a stream.
#[derive(Debug)]
pub(super) struct SourceReader<'a> {
    source: &'a dyn Source,
    range: Range<u64>,
}

impl<'a> SourceReader<'a> {
    pub(super) fn new(source: &'a dyn Source, range: Range<u64>) -> Self {
        Self { source, range }
    }

    /// Reads the whole source.
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

/// Reads up to `buf.len()` bytes at `offset`; fewer only at the end of the source.
pub(super) fn read_some(source: &dyn Source, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let n = to_usize(source.len().saturating_sub(offset).min(to_u64(buf.len())));
    if n > 0 {
        source.read_exact_at(&mut buf[..n], offset)?;
    }
    Ok(n)
}

/// The maximum decompressed size, and the limit that determines it.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnpackBudget {
    /// Maximum decompressed size in bytes.
    pub(super) bytes: u64,
    /// Name of the limit.
    name: &'static str,
    /// Value of the limit.
    max: u64,
}

impl UnpackBudget {
    /// Returns the budget for `packed` bytes of compressed data.
    pub(super) fn of(packed: u64, limits: &Limits) -> Self {
        let by_ratio = packed.saturating_mul(limits.unpacked_ratio);
        match by_ratio < limits.unpacked_bytes {
            true => Self { bytes: by_ratio, name: "unpacked_ratio", max: limits.unpacked_ratio },
            false => {
                let bytes = limits.unpacked_bytes;
                Self { bytes, name: "unpacked_bytes", max: bytes }
            }
        }
    }

    /// Requires that `bytes` bytes are within the budget.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) if they exceed it.
    pub(super) fn require(&self, bytes: u64) -> Result<()> {
        if bytes <= self.bytes { Ok(()) } else { Err(self.exceeded()) }
    }

    /// Returns the error for data that exceeds the budget.
    pub(super) fn exceeded(&self) -> Error {
        let found = format!("it decompresses to more than {} bytes", self.bytes);
        Error::over_limit(self.name, found, self.max)
    }
}

/// Writes a stream to an unnamed temporary file.
///
/// # Errors
/// [`Limit`](crate::ErrorKind::Limit) if it exceeds `budget`,
/// [`Corrupt`](crate::ErrorKind::Corrupt) if it cannot be decoded, [`Io`](crate::ErrorKind::Io).
pub(super) fn to_temporary_file(
    stream: impl Read,
    budget: UnpackBudget,
) -> Result<Arc<dyn Source>> {
    let source = spool_up_to(stream, budget.bytes).map_err(failed)?;
    source.ok_or_else(|| budget.exceeded())
}

/// Converts an error of decompression: one of the data, unless reading it failed.
pub(super) fn failed(e: io::Error) -> Error {
    Error::decode("cannot decompress it", e).in_structure("compressed data")
}
