//! Where bytes go: files written by position, and pipes written in order.

mod file;
mod memory;
mod pipe;

pub use file::FileSink;
pub use memory::MemorySink;
pub use pipe::PipeSink;

use crate::storage::caching::Caching;
use crate::storage::source::Source;
use crate::storage::zeros::ZEROS;
use std::fmt::Debug;
use std::io;

/// Bytes going out, by position. Shared between threads that write disjoint
/// ranges.
pub trait Sink: Send + Sync + Debug {
    /// Writes all of `buf` at `offset`.
    ///
    /// # Errors
    /// What the system said; for a [sequential](Self::is_sequential) sink also
    /// [`io::ErrorKind::Unsupported`] if `offset` lies before what was written.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// True if bytes can only leave in ascending order of their offsets.
    fn is_sequential(&self) -> bool {
        false
    }

    /// True if what is never written reads as zeros: a fresh file, but not a
    /// device or a file that was there before.
    fn is_zeroed(&self) -> bool;

    /// True if the end of the file is not where writing ends: a device.
    fn has_fixed_len(&self) -> bool {
        false
    }

    /// Writes zeros, byte for byte: the range takes space afterwards.
    ///
    /// # Errors
    /// What the system said.
    fn fill_zeros_at(&self, mut offset: u64, mut len: u64) -> io::Result<()> {
        while len > 0 {
            let n = len.min(ZEROS.len() as u64);
            self.write_all_at(&ZEROS[..n as usize], offset)?;
            offset += n;
            len -= n;
        }
        Ok(())
    }

    /// Makes the range read as zeros, freeing its space where the sink can.
    ///
    /// # Errors
    /// What the system said.
    fn write_zeros_at(&self, offset: u64, len: u64) -> io::Result<()> {
        self.fill_zeros_at(offset, len)
    }

    /// Reserves space for the range. What was written in it stays; the rest reads as zeros.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] where space cannot be reserved; otherwise
    /// what the system said.
    fn preallocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let _ = (offset, len);
        Err(io::Error::new(io::ErrorKind::Unsupported, "this output cannot reserve space"))
    }

    /// The size of the blocks that [`share`](Self::share) can share with `source`, in bytes,
    /// a power of two; `None` if it cannot. Found out by trying, behind the end of what is
    /// written, so ask before anything else writes: a fresh file only.
    ///
    /// # Errors
    /// What the system said when the trial was taken back.
    fn shareable_block(&self, source: &dyn Source) -> io::Result<Option<u64>> {
        let _ = source;
        Ok(None)
    }

    /// Takes a range of `source` by sharing its blocks, which takes no space: reflinks. `false`
    /// if the two do not allow it, and the range is still to be written.
    ///
    /// # Errors
    /// What the system said.
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

    /// Takes a range of `source` by a copy that the kernel makes. `false` if the two do not
    /// allow it, and the range is still to be written.
    ///
    /// # Errors
    /// What the system said.
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

    /// Says what shall become of the page cache; before anything is written. A
    /// sink that has none has nothing to do.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] if the file system cannot do it so.
    fn set_caching(&self, caching: Caching) -> io::Result<()> {
        let _ = caching;
        Ok(())
    }

    /// Sets the file's length; bytes that appear read as zeros. A device keeps its length.
    ///
    /// # Errors
    /// What the system said; [`io::ErrorKind::StorageFull`] if a device is shorter.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Brings everything written to stable storage (or, for a pipe, out of our
    /// buffers).
    ///
    /// # Errors
    /// What the system said: a full disk may first show here.
    fn flush(&self) -> io::Result<()>;
}
