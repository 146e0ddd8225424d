//! Files as sinks.

use super::Sink;
use crate::storage::caching::{Caching, DirectFile};
use crate::storage::hints::AllocationHints;
use crate::storage::os;
use crate::storage::source::Source;
use std::fs::File;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Number of bytes written between two requests to write back the page cache.
const WRITE_BEHIND_INTERVAL: u64 = 64 << 20;

/// A regular file or block device, opened for writing.
#[derive(Debug)]
pub struct FileSink {
    file: File,
    zeroed: bool,
    regular: bool,
    /// Bytes written so far.
    written: AtomicU64,
    /// Value of `written` from which pages are written back and dropped from the page cache.
    write_behind_threshold: u64,
    /// The file opened for direct I/O, if that is used.
    direct: OnceLock<DirectFile>,
}

impl FileSink {
    /// Creates a sink that writes to `file`. `zeroed` must be true only if ranges that are never
    /// written read as zeros.
    ///
    /// # Errors
    /// Returns the error of the system if the file's metadata cannot be read.
    pub fn new(file: File, zeroed: bool) -> io::Result<Self> {
        let regular = file.metadata()?.is_file();
        let write_behind_threshold = os::total_memory().map_or(u64::MAX, |memory| memory / 4);
        Ok(Self {
            file,
            zeroed,
            regular,
            written: AtomicU64::new(0),
            write_behind_threshold,
            direct: OnceLock::new(),
        })
    }

    /// Returns the open file.
    pub(in crate::storage) fn file(&self) -> &File {
        &self.file
    }

    /// Returns the file of `source` and the source's offset in it, if the kernel can copy from it
    /// to this sink.
    fn file_of<'s>(&self, source: &'s dyn Source) -> Option<(&'s File, u64)> {
        source.as_file().filter(|_| self.regular)
    }

    /// Counts `len` written bytes. Has large outputs written back and dropped from the page cache,
    /// so that they do not evict other files.
    fn count_written(&self, len: u64) -> io::Result<()> {
        let before = self.written.fetch_add(len, Ordering::Relaxed);
        let after = before.saturating_add(len);
        let is_due = before / WRITE_BEHIND_INTERVAL != after / WRITE_BEHIND_INTERVAL;
        if after > self.write_behind_threshold && is_due {
            os::write_behind(&self.file)?;
        }
        Ok(())
    }
}

impl Sink for FileSink {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let Some(direct) = self.direct.get() else {
            os::write_all_at(&self.file, buf, offset)?;
            return self.count_written(buf.len() as u64);
        };
        // Whole pages are written with direct I/O, partial pages through the page cache. The
        // system keeps both consistent as long as no byte is written in both ways at once.
        let pages = DirectFile::pages(offset, buf.len());
        os::write_all_at(&self.file, &buf[..pages.start], offset)?;
        direct.write_all_at(&buf[pages.clone()], offset + pages.start as u64)?;
        os::write_all_at(&self.file, &buf[pages.end..], offset + pages.end as u64)
    }

    fn set_caching(&self, caching: Caching) -> io::Result<()> {
        if caching == Caching::Direct && self.direct.get().is_none() {
            let direct = DirectFile::reopen(&self.file, true)?;
            self.direct.get_or_init(|| direct);
        }
        Ok(())
    }

    fn set_allocation_hints(&self, hints: AllocationHints) {
        if self.regular {
            os::set_allocation_hints(&self.file, hints);
        }
    }

    fn is_zeroed(&self) -> bool {
        self.zeroed
    }

    fn has_fixed_len(&self) -> bool {
        !self.regular
    }

    fn write_zeros_at(&self, offset: u64, len: u64) -> io::Result<()> {
        if os::punch_hole(&self.file, offset, len)? {
            if self.regular && self.file.metadata()?.len() < offset + len {
                self.file.set_len(offset + len)?;
            }
            return Ok(());
        }
        self.fill_zeros_at(offset, len)
    }

    fn preallocate(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 || os::preallocate(&self.file, offset, len)? {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "Unsupported preallocation mode: the file system cannot reserve space",
        ))
    }

    fn shareable_block(&self, source: &dyn Source) -> io::Result<Option<u64>> {
        let Some((file, start)) = self.file_of(source).filter(|_| self.zeroed) else {
            return Ok(None);
        };
        let Some(block) = os::block_size(&self.file)? else { return Ok(None) };
        let from = start.next_multiple_of(block);
        let len = self.file.metadata()?.len();
        if from + block > start + source.len() || len > i64::MAX as u64 - 2 * block {
            return Ok(None);
        }
        // If the trial fails (no space, quota exceeded), writing may still succeed.
        let trial = len.next_multiple_of(block);
        let shared = os::reflink(file, from, &self.file, trial, block).unwrap_or(false);
        self.file.set_len(len)?;
        Ok(shared.then_some(block))
    }

    fn share(
        &self,
        source: &dyn Source,
        source_offset: u64,
        offset: u64,
        len: u64,
    ) -> io::Result<bool> {
        let Some((file, start)) = self.file_of(source) else { return Ok(false) };
        os::reflink(file, start + source_offset, &self.file, offset, len)
    }

    fn copy_from(
        &self,
        source: &dyn Source,
        source_offset: u64,
        offset: u64,
        len: u64,
    ) -> io::Result<bool> {
        let Some((file, start)) = self.file_of(source) else { return Ok(false) };
        os::copy_in_kernel(file, start + source_offset, &self.file, offset, len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.regular {
            return self.file.set_len(len);
        }
        let size = os::device_len(&self.file)?;
        if len > size {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("the device has {size} bytes, but {len} are needed"),
            ));
        }
        Ok(())
    }

    fn start_flush(&self) {
        // What direct I/O has written is not in the page cache.
        if self.direct.get().is_none() {
            os::start_writeback(&self.file);
        }
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}
