//! Sources: host files and buffers that are read by offset.

/// Defines the methods of [`Source`] about the underlying file for a source with a field `inner`.
macro_rules! forward_file {
    () => {
        fn stored_len(&self) -> u64 {
            self.inner.stored_len().min(self.len())
        }

        fn path(&self) -> Option<&std::path::Path> {
            self.inner.path()
        }

        fn lock(&self, lock: crate::storage::locking::Lock) -> std::io::Result<()> {
            self.inner.lock(lock)
        }

        fn identity(&self) -> Option<super::HostFileId> {
            self.inner.identity()
        }

        fn identities(&self) -> Vec<super::HostFileId> {
            self.inner.identities()
        }

        fn protocol(&self) -> Option<&'static str> {
            self.inner.protocol()
        }

        fn has_data(&self) -> bool {
            self.inner.has_data()
        }
    };
}

mod cached;
mod error;
mod file;
mod hints;
mod joined;
#[cfg(feature = "mmap")]
mod mapped;
mod memory;
mod read_mode;
mod reader;
mod retrying;
mod stream;
mod temporary;
mod window;

pub use cached::Cached;
pub use error::SourceError;
pub(crate) use error::is_transient;
pub use file::FileSource;
pub(in crate::storage) use file::{read_file, segment_of_file};
pub use hints::IoHints;
pub use joined::JoinedSource;
#[cfg(feature = "mmap")]
pub use mapped::MappedSource;
pub use memory::MemorySource;
pub(crate) use read_mode::ReadMode;
pub(crate) use reader::{SourceReader, read_some};
pub use retrying::{RetryPolicy, Retrying};
pub use stream::spool;
pub(crate) use stream::{fill, spool_up_to, stdin, stdin_up_to};
pub use temporary::{reserve_temporary_files, temporary_file};
pub use window::WindowSource;

use crate::storage::locking::Lock;
pub use crate::storage::os::{FileId as HostFileId, Segment, note_block_devices};
use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

/// Read-only access to host bytes by offset.
///
/// A source does not interpret the bytes; a [`Layer`](crate::Layer) does. A source has no file
/// position, so any number of threads can read concurrently.
pub trait Source: Send + Sync + Debug {
    /// Returns the length in bytes. It never changes: if the underlying file is truncated later,
    /// reads beyond its end fail.
    fn len(&self) -> u64;

    /// Returns true if the length is 0.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how many of the [`len`](Self::len) bytes are stored: fewer than all for a file in an
    /// archive that does not store the file's holes. Those of a sparse host file count as stored.
    fn stored_len(&self) -> u64 {
        self.len()
    }

    /// Fills `buf` with the bytes at `offset`.
    ///
    /// # Errors
    /// Returns [`SourceError::OutOfRange`] if the range exceeds the source, and
    /// [`SourceError::Storage`] or [`SourceError::Transient`] if reading fails.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError>;

    /// Fills several buffers with the bytes at their offsets, in any order. Meant for data, which is
    /// read once: [`Cached`] does not keep it. The default reads one range after the other.
    ///
    /// # Errors
    /// As [`read_exact_at`](Self::read_exact_at). The contents of all buffers are unspecified then.
    fn read_ranges(&self, ranges: &mut [(u64, &mut [u8])]) -> Result<(), SourceError> {
        ranges.iter_mut().try_for_each(|(offset, buf)| self.read_exact_at(buf, *offset))
    }

    /// Loads ranges that will be read soon, if the source has a cache ([`Cached`]). May return when
    /// they are loaded. Errors are ignored: reading the range reports them.
    fn prefetch(&self, ranges: &[Range<u64>]) {
        let _ = ranges;
    }

    /// Returns how the source is read efficiently. The default describes a local file.
    fn io(&self) -> IoHints {
        IoHints::default()
    }

    /// Returns the segment (all data or all hole) that contains `offset`, which must be less than
    /// [`len`](Self::len). A source that cannot detect holes returns data up to its end.
    ///
    /// # Errors
    /// Returns the underlying error if the segment cannot be determined.
    fn segment_at(&self, offset: u64) -> Result<Segment, SourceError> {
        let _ = offset;
        Ok(Segment { end: self.len(), hole: false })
    }

    /// Returns all [`len`](Self::len) bytes as a slice, if they are in memory (in a buffer or
    /// mapped).
    fn as_slice(&self) -> Option<&[u8]> {
        None
    }

    /// Returns the open file and the file offset of the first byte of this source, if it is (part
    /// of) a single file. In-kernel copies use it.
    fn as_file(&self) -> Option<(&File, u64)> {
        None
    }

    /// Returns the path that the source was opened with.
    fn path(&self) -> Option<&Path> {
        None
    }

    /// Returns QEMU's name of the protocol by which the source is read, such as `https`, unless it is
    /// a file or device of this host.
    fn protocol(&self) -> Option<&'static str> {
        None
    }

    /// Returns false if only the segments can be asked for, which then tell something else about the
    /// bytes, such as a dirty bitmap on a server. The holes do not read as zeros then.
    fn has_data(&self) -> bool {
        true
    }

    /// Returns true for a block device.
    fn is_device(&self) -> bool {
        false
    }

    /// Returns the number of bytes allocated in the host's file system, if known.
    ///
    /// # Errors
    /// Returns the underlying error if the file's metadata cannot be read.
    fn allocated_bytes(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }

    /// Locks the underlying file until the source is dropped. Does nothing if it is not a file.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::WouldBlock`] with a [`LockConflict`] if another process uses the
    /// file in a way that conflicts with `lock`, and the underlying error if locking fails.
    ///
    /// [`LockConflict`]: crate::storage::locking::LockConflict
    fn lock(&self, lock: Lock) -> io::Result<()> {
        let _ = lock;
        Ok(())
    }

    /// Returns an identifier that is equal for sources of the same host file.
    fn identity(&self) -> Option<HostFileId> {
        None
    }

    /// Returns the identifiers of all host files that are read: several for a concatenation, or for
    /// an image that is read like a file.
    fn identities(&self) -> Vec<HostFileId> {
        self.identity().into_iter().collect()
    }
}

/// Returns the number of bytes in a range of a source that are stored, as
/// [`stored_len`](Source::stored_len) counts them.
pub(crate) fn stored_in(source: &dyn Source, range: Range<u64>) -> u64 {
    if source.stored_len() == source.len() {
        return range.end - range.start;
    }
    let range = range.start..range.end.min(source.len());
    let stored = segments(source, range).filter(|(_, hole)| !hole);
    stored.map(|(part, _)| part.end - part.start).sum()
}

/// Returns the segments of `range` of a source and whether each is a hole. If a segment cannot be
/// determined, the rest of the range is treated as data: reading it will return the error.
pub(crate) fn segments(
    source: &dyn Source,
    range: Range<u64>,
) -> impl Iterator<Item = (Range<u64>, bool)> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let start = at;
        if start >= range.end {
            return None;
        }
        let (end, hole) = match source.segment_at(start) {
            Ok(segment) if segment.end > start => (segment.end.min(range.end), segment.hole),
            _ => (range.end, false),
        };
        at = end;
        Some((start..end, hole))
    })
}

/// Borrows `len` bytes at `offset`. Returns `None` if the source is not in memory.
///
/// # Errors
/// Returns [`SourceError::OutOfRange`] if the range exceeds the source.
pub(crate) fn borrow(
    source: &dyn Source,
    offset: u64,
    len: usize,
) -> Result<Option<&[u8]>, SourceError> {
    let Some(bytes) = source.as_slice() else { return Ok(None) };
    check_range(offset, len, bytes.len() as u64)?;
    let start = offset as usize;
    Ok(Some(&bytes[start..start + len]))
}

/// Fills `buf` with the bytes at `offset`. Returns false if the range exceeds the source.
///
/// # Errors
/// Returns [`SourceError::Storage`] or [`SourceError::Transient`] if reading fails.
pub(crate) fn read_if_inside(
    source: &dyn Source,
    buf: &mut [u8],
    offset: u64,
) -> Result<bool, SourceError> {
    match source.read_exact_at(buf, offset) {
        Ok(()) => Ok(true),
        Err(SourceError::OutOfRange { .. }) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Checks that `len` bytes at `offset` are within a source of length `source_len`.
pub(crate) fn check_range(offset: u64, len: usize, source_len: u64) -> Result<(), SourceError> {
    match offset.checked_add(len as u64) {
        Some(end) if end <= source_len => Ok(()),
        _ => Err(SourceError::OutOfRange { offset, len: len as u64, source_len }),
    }
}
