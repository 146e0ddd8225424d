//! Writing flat files: guest bytes at their guest offsets, without metadata.
//!
//! A raw image is one such file. The flat layouts of other formats consist of one or more flat
//! files and a descriptor.

use crate::error::{Error, Result};
use crate::storage::sink::Sink;
use std::sync::Arc;

/// How much space is allocated up front for bytes that are not written yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Preallocation {
    /// None: ranges that are never written remain holes.
    #[default]
    Off,
    /// The metadata exists, without space for the bytes. Formats without metadata do not have it.
    Metadata,
    /// All blocks are reserved, as by `fallocate`.
    Falloc,
    /// All bytes are written, zeros included.
    Full,
}

impl Preallocation {
    /// Parses the create option `preallocation` of the format (or layout) `name`.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) for an unknown mode.
    pub(crate) fn parse(mode: Option<&str>, name: &str) -> Result<Self> {
        let Some(mode) = mode else { return Ok(Self::Off) };
        let parsed = mode.parse().ok().filter(|&mode| mode != Self::Metadata);
        parsed.ok_or_else(|| {
            Error::invalid(format!(
                "Unsupported preallocation mode '{mode}' for {name}: off, falloc or full"
            ))
        })
    }
}

/// A flat file that is being written. Offsets in it are guest offsets.
#[derive(Debug)]
pub(crate) struct FlatFile {
    sink: Arc<dyn Sink>,
    len: u64,
    /// Zeros are written explicitly, so that every block of the file is allocated.
    full: bool,
}

impl FlatFile {
    /// Granularity of zero detection in bytes: the usual block size of file systems.
    pub(crate) const BLOCK: u64 = 4096;

    /// Starts a file of `len` bytes.
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) if the output is a device that is too small, or if
    /// space cannot be reserved.
    pub(crate) fn start(
        sink: Arc<dyn Sink>,
        len: u64,
        preallocation: Preallocation,
    ) -> Result<Self> {
        // Set the length first, so that a device that is too small fails before any write.
        if !sink.is_sequential() {
            set_len(&*sink, len)?;
        }
        if preallocation == Preallocation::Falloc {
            sink.preallocate(0, len).map_err(|e| Error::io("cannot preallocate", e))?;
        }
        // A pipe receives every byte in order anyway.
        let full = preallocation == Preallocation::Full && !sink.is_sequential();
        Ok(Self { sink, len, full })
    }

    /// Makes `len` bytes at `at` read as zeros.
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) if writing fails.
    pub(crate) fn write_zeros(&self, at: u64, len: u64) -> Result<()> {
        let outcome = if self.full {
            self.sink.fill_zeros_at(at, len)
        } else if self.sink.is_zeroed() {
            Ok(())
        } else {
            self.sink.write_zeros_at(at, len)
        };
        outcome.map_err(|e| Error::io("cannot write zeros", e).at(at))
    }

    /// Sets the file's final length.
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) if the length cannot be set.
    pub(crate) fn finish(&self) -> Result<()> {
        set_len(&*self.sink, self.len)
    }
}

fn set_len(sink: &dyn Sink, len: u64) -> Result<()> {
    sink.set_len(len).map_err(|e| Error::io(format!("cannot set the length to {len}"), e))
}
