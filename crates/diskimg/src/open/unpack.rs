//! Decompression to unnamed temporary files, for data that does not allow random access.

use crate::error::{Error, Result};
use crate::open::limits::Limits;
use crate::storage::source::{Source, spool_up_to};
use std::io::{self, Read};
use std::sync::Arc;

/// The maximum decompressed size, and the limit that determines it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UnpackBudget {
    /// Maximum decompressed size in bytes.
    pub(crate) bytes: u64,
    /// Name of the limit.
    name: &'static str,
    /// Value of the limit.
    max: u64,
}

impl UnpackBudget {
    /// Returns the budget for `packed` bytes of compressed data.
    pub(crate) fn of(packed: u64, limits: &Limits) -> Self {
        let by_ratio = packed.saturating_mul(limits.unpacked_ratio);
        match by_ratio < limits.unpacked_bytes {
            true => Self { bytes: by_ratio, name: "unpacked_ratio", max: limits.unpacked_ratio },
            false => {
                let bytes = limits.unpacked_bytes;
                Self { bytes, name: "unpacked_bytes", max: bytes }
            }
        }
    }

    /// Returns the budget for `packed` bytes that are compressed by another method than deflate: they
    /// may have any ratio up to 1 GiB, and [`expansion`](Limits::expansion) above.
    #[cfg(feature = "compressed")]
    pub(crate) fn by_expansion(packed: u64, limits: &Limits) -> Self {
        const ANY_RATIO: u64 = 1 << 30;
        let by_ratio = packed.saturating_mul(limits.expansion).max(ANY_RATIO);
        match by_ratio < limits.unpacked_bytes {
            true => Self { bytes: by_ratio, name: "expansion", max: limits.expansion },
            false => Self::of(u64::MAX, limits),
        }
    }

    /// Requires that `bytes` bytes are within the budget.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) if they exceed it.
    pub(crate) fn require(&self, bytes: u64) -> Result<()> {
        if bytes <= self.bytes { Ok(()) } else { Err(self.exceeded()) }
    }

    /// Returns the error for data that exceeds the budget.
    pub(crate) fn exceeded(&self) -> Error {
        let found = format!("it decompresses to more than {} bytes", self.bytes);
        Error::over_limit(self.name, found, self.max)
    }
}

/// Writes a stream to an unnamed temporary file.
///
/// # Errors
/// [`Limit`](crate::ErrorKind::Limit) if it exceeds `budget`,
/// [`Corrupt`](crate::ErrorKind::Corrupt) if it cannot be decoded, [`Io`](crate::ErrorKind::Io).
pub(crate) fn to_temporary_file(
    stream: impl Read,
    budget: UnpackBudget,
) -> Result<Arc<dyn Source>> {
    let source = spool_up_to(stream, budget.bytes).map_err(failed)?;
    source.ok_or_else(|| budget.exceeded())
}

/// Converts an error of decompression: one of the data, unless reading it failed.
pub(crate) fn failed(e: io::Error) -> Error {
    Error::decode("cannot decompress it", e).in_structure("compressed data")
}
