//! Buffers as sinks.

use super::Sink;
use crate::storage::lock;
use crate::storage::source::MemorySource;
use std::io;
use std::sync::Mutex;

/// A growable buffer in memory, for tests and small images.
#[derive(Debug, Default)]
pub struct MemorySink {
    pub(in crate::storage) bytes: Mutex<Vec<u8>>,
}

impl MemorySink {
    /// Creates an empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a buffer with these bytes.
    pub(in crate::storage) fn of(bytes: Vec<u8>) -> Self {
        Self { bytes: Mutex::new(bytes) }
    }

    /// Returns a copy of the written bytes as a source.
    pub fn to_source(&self) -> MemorySource {
        MemorySource::new(self.lock().clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        lock(&self.bytes)
    }
}

impl Sink for MemorySink {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start.checked_add(buf.len()).ok_or(io::ErrorKind::OutOfMemory)?;
        let mut bytes = self.lock();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(buf);
        Ok(())
    }

    fn is_zeroed(&self) -> bool {
        true
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.lock().resize(usize::try_from(len).map_err(io::Error::other)?, 0);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}
