//! A disk that stores nothing: QEMU's `null-co` and `null-aio`.

use super::options::NodeOptions;
use crate::error::Result;
use crate::storage::source::{Segment, Source, SourceError};
use std::fmt::Write;
use std::io;

/// Size in bytes if none is given.
const DEFAULT_SIZE: u64 = 1 << 30;

/// Zeros that are not stored anywhere.
#[derive(Debug)]
pub(super) struct NullSource {
    /// Length in bytes, if it is given.
    size: Option<u64>,
    /// Whether the zeros are a hole, if it is given. Otherwise, they are data.
    read_zeroes: Option<bool>,
}

impl NullSource {
    /// Removes the options of the node.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if one has no valid value.
    pub(super) fn take(node: &mut NodeOptions) -> Result<Self> {
        Ok(Self { size: node.take_size("size")?, read_zeroes: node.take_switch("read-zeroes")? })
    }

    /// Returns the node as a JSON object.
    pub(super) fn node(&self, driver: &str) -> String {
        let mut json = format!("{{\"driver\": \"{driver}\"");
        if let Some(size) = self.size {
            let _ = write!(json, ", \"size\": {size}");
        }
        if let Some(read_zeroes) = self.read_zeroes {
            let _ = write!(json, ", \"read-zeroes\": {read_zeroes}");
        }
        json + "}"
    }
}

impl Source for NullSource {
    fn len(&self) -> u64 {
        self.size.unwrap_or(DEFAULT_SIZE)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        let (len, source_len) = (buf.len() as u64, self.len());
        if offset.checked_add(len).is_none_or(|end| end > source_len) {
            return Err(SourceError::OutOfRange { offset, len, source_len });
        }
        buf.fill(0);
        Ok(())
    }

    fn segment_at(&self, _: u64) -> Result<Segment, SourceError> {
        Ok(Segment { end: self.len(), hole: self.read_zeroes == Some(true) })
    }

    fn allocated_bytes(&self) -> io::Result<Option<u64>> {
        Ok(Some(0))
    }
}
