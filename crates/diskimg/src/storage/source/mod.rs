//! Where bytes come from: anything that can be read by position.

mod file;
mod joined;
mod mapped;
mod memory;
mod read_mode;
mod stream;
mod window;

pub use file::FileSource;
pub use joined::JoinedSource;
pub use mapped::MappedSource;
pub use memory::MemorySource;
pub(crate) use read_mode::ReadMode;
pub use stream::spool;
pub(crate) use stream::{fill, spool_up_to, stdin, stdin_up_to};
pub use window::WindowSource;

pub use crate::storage::os::{FileId as HostFileId, Segment};
use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

/// Host bytes, by position. Read-only, shared between threads.
///
/// A source says nothing of what the bytes mean; a [`Layer`](crate::Layer)
/// does. Reads name their offset, so that any number of threads may read at
/// once.
pub trait Source: Send + Sync + Debug {
    /// Length in bytes, the same as long as it lives: what becomes shorter later fails to be
    /// read.
    fn len(&self) -> u64;

    /// True if there is not a single byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the range leaves the source,
    /// otherwise what the system said.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// The stretch of all-data or all-hole that holds `offset` (which must be
    /// below [`len`](Self::len)). A source that cannot tell says "data, to the
    /// end".
    ///
    /// # Errors
    /// What the system said.
    fn segment_at(&self, offset: u64) -> io::Result<Segment> {
        let _ = offset;
        Ok(Segment { end: self.len(), hole: false })
    }

    /// All bytes at once, as many as [`len`](Self::len) says, where they are in
    /// memory already: in a buffer, or mapped.
    fn as_slice(&self) -> Option<&[u8]> {
        None
    }

    /// The open file behind this source and the file offset of its byte 0, if
    /// there is just one: what in-kernel copies need.
    fn as_file(&self) -> Option<(&File, u64)> {
        None
    }

    /// The path it was opened by.
    fn path(&self) -> Option<&Path> {
        None
    }

    /// True for a block device.
    fn is_device(&self) -> bool {
        false
    }

    /// Bytes occupied on the host's file system.
    ///
    /// # Errors
    /// What the system said.
    fn allocated_bytes(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }

    /// What tells that two sources are the same file on disk.
    fn identity(&self) -> Option<HostFileId> {
        None
    }
}

/// The stretches of all-data (`false`) or all-hole (`true`) that `range` of a
/// source consists of. Where the system does not tell, the rest is data: reading
/// it will show what is the matter.
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

/// The `len` bytes at `offset`, borrowed; `None` if the source is not in memory.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] if the range leaves the source.
pub(crate) fn borrow(source: &dyn Source, offset: u64, len: usize) -> io::Result<Option<&[u8]>> {
    let Some(bytes) = source.as_slice() else { return Ok(None) };
    check_range(offset, len, bytes.len() as u64)?;
    let start = offset as usize;
    Ok(Some(&bytes[start..start + len]))
}

/// Checks `offset..offset + len` against a source's length.
pub(crate) fn check_range(offset: u64, len: usize, source_len: u64) -> io::Result<()> {
    match offset.checked_add(len as u64) {
        Some(end) if end <= source_len => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("{len} bytes at {offset} leave the file, which ends at {source_len}"),
        )),
    }
}
