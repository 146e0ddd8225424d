//! A flat file being written: guest bytes where they belong, and nothing else.
//!
//! A raw image is one such file; the flat layouts of other formats have one or
//! more beside a file that describes them.

use crate::error::{Error, Result};
use crate::storage::sink::Sink;
use std::sync::Arc;

/// The space that a flat file takes before anything is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Preallocation {
    /// None: what is never written stays a hole.
    Off,
    /// All of it is reserved.
    Falloc,
    /// All of it is written.
    Full,
}

impl Preallocation {
    /// Reads the option `preallocation` of the format (or layout) `name`.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if there is no such mode.
    pub(crate) fn parse(mode: Option<&str>, name: &str) -> Result<Self> {
        match mode {
            None | Some("off") => Ok(Self::Off),
            Some("falloc") => Ok(Self::Falloc),
            Some("full") => Ok(Self::Full),
            Some(other) => Err(Error::invalid(format!(
                "Unsupported preallocation mode '{other}' for {name}: off, falloc or full"
            ))),
        }
    }
}

/// A flat file being written. Offsets in it are guest offsets.
#[derive(Debug)]
pub(crate) struct FlatFile {
    sink: Arc<dyn Sink>,
    len: u64,
    /// Zeros are written out, so that every block of the file is allocated.
    full: bool,
}

impl FlatFile {
    /// Zeros are looked for, and left out, in blocks of this size: what file
    /// systems allocate.
    pub(crate) const BLOCK: u64 = 4096;

    /// Starts a file of `len` bytes.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io): a device is too small, or the space cannot
    /// be reserved.
    pub(crate) fn start(
        sink: Arc<dyn Sink>,
        len: u64,
        preallocation: Preallocation,
    ) -> Result<Self> {
        // At once: a device that is too small shows it before anything is written.
        if !sink.is_sequential() {
            set_len(&*sink, len)?;
        }
        if preallocation == Preallocation::Falloc {
            sink.preallocate(0, len).map_err(|e| Error::io("cannot preallocate", e))?;
        }
        // A pipe gets every byte anyway, and each in its turn.
        let full = preallocation == Preallocation::Full && !sink.is_sequential();
        Ok(Self { sink, len, full })
    }

    /// Makes the range read as zeros.
    ///
    /// # Errors
    /// What writing said.
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

    /// Gives the file its full length.
    ///
    /// # Errors
    /// What the system said.
    pub(crate) fn finish(&self) -> Result<()> {
        set_len(&*self.sink, self.len)
    }
}

fn set_len(sink: &dyn Sink, len: u64) -> Result<()> {
    sink.set_len(len).map_err(|e| Error::io(format!("cannot set the length to {len}"), e))
}
