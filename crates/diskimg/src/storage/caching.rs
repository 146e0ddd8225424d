//! The page cache, and direct I/O.

use crate::storage::buffer::{AlignedBuffer, PAGE};
use crate::storage::{lock, os};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Mutex;

/// How reading or writing a file uses the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Caching {
    /// Buffered I/O. Once more bytes than a quarter of the machine's memory have been written to an
    /// output, its pages are regularly written back and dropped, so that they do not evict other
    /// pages.
    #[default]
    Buffered,
    /// Direct I/O (`O_DIRECT`) for whole pages.
    Direct,
}

/// Maximum size in bytes of one direct read or write.
const MAX_TRANSFER: usize = 1 << 20;

/// A file opened for direct I/O.
#[derive(Debug)]
pub(crate) struct DirectFile {
    file: File,
    /// Idle buffers.
    buffers: Mutex<Vec<AlignedBuffer>>,
}

impl DirectFile {
    /// Opens `file` again, for direct I/O.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::Unsupported`] if the file system does not support direct I/O.
    pub(crate) fn reopen(file: &File, write: bool) -> io::Result<Self> {
        Ok(Self { file: os::open_direct(file, write)?, buffers: Mutex::default() })
    }

    /// Returns the part of `len` bytes at `offset` that consists of whole pages, relative to
    /// `offset`.
    pub(crate) fn pages(offset: u64, len: usize) -> Range<usize> {
        let head = (offset.next_multiple_of(PAGE as u64) - offset).min(len as u64) as usize;
        head..head + (len - head) / PAGE * PAGE
    }

    /// Reads whole pages.
    pub(crate) fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.with_buffer(|aligned| {
            let parts = (offset..).step_by(MAX_TRANSFER).zip(buf.chunks_mut(MAX_TRANSFER));
            for (at, part) in parts {
                let aligned = &mut aligned[..part.len()];
                os::read_exact_at(&self.file, aligned, at)?;
                part.copy_from_slice(aligned);
            }
            Ok(())
        })
    }

    /// Writes whole pages.
    pub(crate) fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.with_buffer(|aligned| {
            for (at, part) in (offset..).step_by(MAX_TRANSFER).zip(buf.chunks(MAX_TRANSFER)) {
                let aligned = &mut aligned[..part.len()];
                aligned.copy_from_slice(part);
                os::write_all_at(&self.file, aligned, at)?;
            }
            Ok(())
        })
    }

    fn with_buffer<T>(&self, work: impl FnOnce(&mut [u8]) -> T) -> T {
        let mut buffer = lock(&self.buffers).pop().unwrap_or_default();
        let outcome = work(buffer.set_len(MAX_TRANSFER));
        lock(&self.buffers).push(buffer);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_pages_bypass_the_page_cache() {
        for (offset, len, pages) in [
            (0, 0, 0..0),
            (0, 4096, 0..4096),
            (0, 10_000, 0..8192),
            (1, 4096, 4095..4095),
            (1, 8191, 4095..8191),
            (4095, 3, 1..1),
            (5000, 100, 100..100),
        ] {
            assert_eq!(DirectFile::pages(offset, len), pages, "{len} at {offset}");
        }
    }
}
