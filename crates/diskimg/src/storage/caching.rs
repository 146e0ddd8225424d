//! The page cache, and the way past it.

use crate::storage::buffer::{AlignedBuffer, PAGE};
use crate::storage::{lock, os};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Mutex;

/// What becomes of the page cache while a file is read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Caching {
    /// The file goes through the cache and stays there. An output that is larger than
    /// a quarter of this machine's memory is written back and dropped as it grows,
    /// so that it drives out nobody else's pages.
    #[default]
    Buffered,
    /// Whole pages pass by the cache (O_DIRECT).
    Direct,
}

/// What one direct read or write moves at most.
const CAPACITY: usize = 1 << 20;

/// A file opened past the page cache.
#[derive(Debug)]
pub(crate) struct DirectFile {
    file: File,
    /// Those that wait for the next thread that needs one.
    buffers: Mutex<Vec<AlignedBuffer>>,
}

impl DirectFile {
    /// Opens `file` once more.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] if its file system cannot do that.
    pub(crate) fn beside(file: &File, write: bool) -> io::Result<Self> {
        Ok(Self { file: os::open_direct(file, write)?, buffers: Mutex::default() })
    }

    /// Which part of `len` bytes from `offset` are whole pages.
    pub(crate) fn pages(offset: u64, len: usize) -> Range<usize> {
        let head = (offset.next_multiple_of(PAGE as u64) - offset).min(len as u64) as usize;
        head..head + (len - head) / PAGE * PAGE
    }

    /// Reads whole pages.
    pub(crate) fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.with_buffer(|aligned| {
            let pieces = (offset..).step_by(CAPACITY).zip(buf.chunks_mut(CAPACITY));
            for (at, part) in pieces {
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
            for (at, part) in (offset..).step_by(CAPACITY).zip(buf.chunks(CAPACITY)) {
                let aligned = &mut aligned[..part.len()];
                aligned.copy_from_slice(part);
                os::write_all_at(&self.file, aligned, at)?;
            }
            Ok(())
        })
    }

    fn with_buffer<T>(&self, work: impl FnOnce(&mut [u8]) -> T) -> T {
        let mut buffer = lock(&self.buffers).pop().unwrap_or_default();
        let outcome = work(buffer.set_len(CAPACITY));
        lock(&self.buffers).push(buffer);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_fills_pages_goes_past_the_cache() {
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
