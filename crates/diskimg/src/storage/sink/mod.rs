//! Sinks: files that are written by offset, and pipes that are written sequentially.

mod capped;
mod file;
mod memory;
mod pipe;

pub(crate) use capped::{Cap, CappedSink};
pub use file::FileSink;
pub use memory::MemorySink;
pub use pipe::PipeSink;

use crate::storage::caching::Caching;
use crate::storage::hints::AllocationHints;
use crate::storage::source::Source;
use crate::storage::zeros::ZEROS;
use std::fmt::Debug;
use std::io;

/// Write access to host bytes by offset. Several threads may write disjoint ranges concurrently.
pub trait Sink: Send + Sync + Debug {
    /// Writes all of `buf` at `offset`.
    ///
    /// # Errors
    /// Returns the underlying error if writing fails, and [`io::ErrorKind::Unsupported`] if the
    /// sink is [sequential](Self::is_sequential) and `offset` is before the current position.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Returns true if bytes can only be written in ascending order of offsets.
    fn is_sequential(&self) -> bool {
        false
    }

    /// Returns true if ranges that are never written read as zeros: for a new file, but not for a
    /// device or an existing file.
    fn is_zeroed(&self) -> bool;

    /// Returns true if the length cannot change: for a device.
    fn has_fixed_len(&self) -> bool {
        false
    }

    /// Writes zeros explicitly, so that the range is allocated.
    ///
    /// # Errors
    /// Returns the underlying error if writing fails.
    fn fill_zeros_at(&self, mut offset: u64, mut len: u64) -> io::Result<()> {
        while len > 0 {
            let n = len.min(ZEROS.len() as u64);
            self.write_all_at(&ZEROS[..n as usize], offset)?;
            offset += n;
            len -= n;
        }
        Ok(())
    }

    /// Makes the range read as zeros and deallocates its space if possible.
    ///
    /// # Errors
    /// Returns the underlying error if writing fails.
    fn write_zeros_at(&self, offset: u64, len: u64) -> io::Result<()> {
        self.fill_zeros_at(offset, len)
    }

    /// Reserves space for the range. Data already written in it is kept; the rest reads as zeros.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::Unsupported`] if the sink cannot reserve space, and the underlying
    /// error if reserving fails.
    fn preallocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let _ = (offset, len);
        Err(io::Error::new(io::ErrorKind::Unsupported, "this output cannot reserve space"))
    }

    /// Returns the block size in bytes, a power of two, with which [`share`](Self::share) can share
    /// data with `source`, or `None` if it cannot. Tries it with a block past the end of the file;
    /// must therefore be called before anything is written to a new file.
    ///
    /// # Errors
    /// Returns the underlying error if the trial cannot be undone.
    fn shareable_block(&self, source: &dyn Source) -> io::Result<Option<u64>> {
        let _ = source;
        Ok(None)
    }

    /// Shares the blocks of a range of `source` (a reflink), which takes no space. Returns `false`
    /// if the files do not support this; the caller must then write the range.
    ///
    /// # Errors
    /// Returns the underlying error if sharing fails for another reason.
    fn share(
        &self,
        source: &dyn Source,
        source_offset: u64,
        offset: u64,
        len: u64,
    ) -> io::Result<bool> {
        let _ = (source, source_offset, offset, len);
        Ok(false)
    }

    /// Copies a range of `source` within the kernel. Returns `false` if the files do not support
    /// this; the caller must then write the range.
    ///
    /// # Errors
    /// Returns the underlying error if copying fails for another reason.
    fn copy_from(
        &self,
        source: &dyn Source,
        source_offset: u64,
        offset: u64,
        len: u64,
    ) -> io::Result<bool> {
        let _ = (source, source_offset, offset, len);
        Ok(false)
    }

    /// Sets how the page cache is used. Must be called before anything is written. Sinks that do
    /// not use the page cache ignore it.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::Unsupported`] if the file system does not support it.
    fn set_caching(&self, caching: Caching) -> io::Result<()> {
        let _ = caching;
        Ok(())
    }

    /// Tells the file system how to allocate the file's space. Must be called before anything is
    /// written. The default does nothing.
    fn set_allocation_hints(&self, hints: AllocationHints) {
        let _ = hints;
    }

    /// Sets the file's length. Added bytes read as zeros. The length of a device does not change.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::StorageFull`] if a device is smaller than `len`, and the underlying
    /// error if setting the length fails.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Asks the system to begin writing to stable storage what was written, without waiting for it,
    /// so that less is left to do when it is [flushed](Self::flush). The default does nothing.
    fn start_flush(&self) {}

    /// Flushes all written data to stable storage. For a pipe, flushes the writer's buffers.
    ///
    /// # Errors
    /// Returns the underlying error if flushing fails, including errors of earlier writes that were
    /// delayed (such as a full disk).
    fn flush(&self) -> io::Result<()>;
}
