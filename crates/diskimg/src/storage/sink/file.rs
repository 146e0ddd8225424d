//! A regular file or block device.

use super::Sink;
use crate::storage::caching::{Caching, DirectFile};
use crate::storage::os;
use crate::storage::source::Source;
use std::fs::File;
use std::io::{self, Seek};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// How much is written between two reminders to write back.
const BEHIND: u64 = 64 << 20;

/// A regular file or block device, written by position.
#[derive(Debug)]
pub struct FileSink {
    file: File,
    zeroed: bool,
    regular: bool,
    /// Bytes written so far.
    written: AtomicU64,
    /// From how many on the cache is not to be flooded any more.
    flood: u64,
    /// The way past the page cache, if it is taken.
    direct: OnceLock<DirectFile>,
}

impl FileSink {
    /// Writes to `file`. `zeroed` promises that what is never written reads as
    /// zeros.
    ///
    /// # Errors
    /// What the system said when asked what kind of file it is.
    pub fn new(file: File, zeroed: bool) -> io::Result<Self> {
        let regular = file.metadata()?.is_file();
        let flood = os::total_memory().map_or(u64::MAX, |memory| memory / 4);
        Ok(Self {
            file,
            zeroed,
            regular,
            written: AtomicU64::new(0),
            flood,
            direct: OnceLock::new(),
        })
    }

    /// The file behind `source` and where it begins there, if the kernel may move
    /// bytes from that one to ours.
    fn file_of<'s>(&self, source: &'s dyn Source) -> Option<(&'s File, u64)> {
        source.as_file().filter(|_| self.regular)
    }

    /// Keeps what is written behind us from driving out what others have in the cache.
    fn written(&self, len: u64) -> io::Result<()> {
        let before = self.written.fetch_add(len, Ordering::Relaxed);
        let after = before.saturating_add(len);
        if after > self.flood && before / BEHIND != after / BEHIND {
            os::write_behind(&self.file)?;
        }
        Ok(())
    }
}

impl Sink for FileSink {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let Some(direct) = self.direct.get() else {
            os::write_all_at(&self.file, buf, offset)?;
            return self.written(buf.len() as u64);
        };
        // A page is written by one of the two ways as a whole, or by parts through the cache:
        // the system keeps both in step as long as no byte goes both ways at once.
        let pages = DirectFile::pages(offset, buf.len());
        os::write_all_at(&self.file, &buf[..pages.start], offset)?;
        direct.write_all_at(&buf[pages.clone()], offset + pages.start as u64)?;
        os::write_all_at(&self.file, &buf[pages.end..], offset + pages.end as u64)
    }

    fn set_caching(&self, caching: Caching) -> io::Result<()> {
        if caching == Caching::Direct && self.direct.get().is_none() {
            let direct = DirectFile::beside(&self.file, true)?;
            self.direct.get_or_init(|| direct);
        }
        Ok(())
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
        // An error of the trial (no space, over quota) is no error of the output yet.
        let behind = len.next_multiple_of(block);
        let shared = os::reflink(file, from, &self.file, behind, block).unwrap_or(false);
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
        match self.file_of(source) {
            Some((file, start)) => {
                os::reflink(file, start + source_offset, &self.file, offset, len)
            }
            None => Ok(false),
        }
    }

    fn copy_from(
        &self,
        source: &dyn Source,
        source_offset: u64,
        offset: u64,
        len: u64,
    ) -> io::Result<bool> {
        match self.file_of(source) {
            Some((file, start)) => {
                os::copy_in_kernel(file, start + source_offset, &self.file, offset, len)
            }
            None => Ok(false),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.regular {
            return self.file.set_len(len);
        }
        let size = (&self.file).seek(io::SeekFrom::End(0))?;
        if len > size {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("the device has {size} bytes, {len} are needed"),
            ));
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}
