//! Buffers as storage.

use super::Storage;
use crate::storage::lock;
use crate::storage::sink::{MemorySink, Sink};
use crate::storage::source::{Source, SourceError, check_range};
use std::io;

/// A growable buffer in memory, for tests and small images.
#[derive(Debug)]
pub struct MemoryStorage {
    bytes: MemorySink,
    len: u64,
}

impl MemoryStorage {
    /// Creates storage with these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { len: bytes.len() as u64, bytes: MemorySink::of(bytes) }
    }

    /// Returns a copy of the bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        lock(&self.bytes.bytes).clone()
    }
}

impl Source for MemoryStorage {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        let bytes = lock(&self.bytes.bytes);
        check_range(offset, buf.len(), bytes.len() as u64)?;
        let start = offset as usize;
        buf.copy_from_slice(&bytes[start..start + buf.len()]);
        Ok(())
    }
}

impl Sink for MemoryStorage {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.bytes.write_all_at(buf, offset)
    }

    fn is_zeroed(&self) -> bool {
        false
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes.set_len(len)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Storage for MemoryStorage {
    fn current_len(&self) -> u64 {
        lock(&self.bytes.bytes).len() as u64
    }

    fn discard_at(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
}
