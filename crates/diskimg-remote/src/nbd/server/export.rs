//! What requests do to the disk.

use super::handshake::Context;
use crate::nbd::wire::{
    ALLOCATION_HOLE, ALLOCATION_ZERO, Descriptor, TransmissionFlags as Flags, error,
};
use diskimg::storage::zeros::is_zero;
use diskimg::{DirtyBitmap, Error, ErrorKind, Fetcher, GuestWriter, Image, MapEntry, Result};
use std::io;
use std::ops::Range;

/// Length in bytes from which zeros are not sent.
const MIN_HOLE: u64 = 4096;

/// Maximum number of descriptors of one context in a reply.
pub(super) const MAX_DESCRIPTORS: usize = 64 << 10;

/// Entries of the map that are in memory at a time.
const MAP_ENTRIES: usize = 1024;

/// Length in bytes of requests that clients are told to prefer. QEMU's number.
const PREFERRED_BLOCK: u64 = 4096;

/// Maximum of what is told as the preferred length, for images with large units.
const MAX_PREFERRED_BLOCK: u64 = 1 << 20;

/// The disk.
#[derive(Debug)]
pub(super) enum Export {
    Read { image: Image, bitmaps: Vec<DirtyBitmap> },
    Write(Box<GuestWriter>),
}

/// A part of what was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// The range in the buffer.
    pub(super) range: Range<usize>,
    pub(super) is_zero: bool,
}

impl Export {
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Read { image, .. } => image.size(),
            Self::Write(disk) => disk.size(),
        }
    }

    pub(super) fn bitmaps(&self) -> &[DirtyBitmap] {
        match self {
            Self::Read { bitmaps, .. } => bitmaps,
            Self::Write(_) => &[],
        }
    }

    /// Returns what the export can do, for a client with structured replies or without.
    pub(super) fn flags(&self, structured: bool) -> Flags {
        // A flush has no effect on what is only read, but clients that send it need no other case.
        let all = Flags::HAS_FLAGS
            | Flags::SEND_FLUSH
            | Flags::SEND_FUA
            | Flags::CAN_MULTI_CONN
            | Flags::SEND_CACHE;
        let reads = if structured { Flags::SEND_DF } else { Flags::empty() };
        let writes = match self {
            Self::Read { .. } => Flags::READ_ONLY,
            Self::Write(disk) => {
                let zeroes = Flags::SEND_TRIM | Flags::SEND_WRITE_ZEROES;
                // How a raw disk gets zeros is up to the file system.
                if disk.unit() > 1 { zeroes | Flags::SEND_FAST_ZERO } else { zeroes }
            }
        };
        all | reads | writes
    }

    /// Returns true if the disk can be written.
    pub(super) fn is_writable(&self) -> bool {
        matches!(self, Self::Write(_))
    }

    pub(super) fn preferred_block(&self) -> u32 {
        let unit = match self {
            Self::Read { .. } => PREFERRED_BLOCK,
            Self::Write(disk) => disk.unit().clamp(PREFERRED_BLOCK, MAX_PREFERRED_BLOCK),
        };
        // Below the maximum.
        u32::try_from(unit).unwrap_or(u32::MAX)
    }

    /// Fills `buf` with the bytes at `at`, which are within the disk.
    pub(super) fn read(&self, buf: &mut [u8], at: u64) -> Result<()> {
        match self {
            Self::Read { image, .. } => image.read_at(buf, at),
            Self::Write(disk) => disk.read_at(buf, at),
        }
    }

    /// As [`read`](Self::read), but does not fill the parts that are known to be zeros. Returns all
    /// parts in ascending order, of which neighbors differ.
    pub(super) fn read_sparsely(
        &self,
        fetcher: &mut Fetcher,
        buf: &mut [u8],
        at: u64,
    ) -> Result<Vec<Part>> {
        let image = match self {
            Self::Read { image, .. } => image,
            Self::Write(disk) => {
                disk.read_at(buf, at)?;
                return Ok(vec![Part { range: 0..buf.len(), is_zero: is_zero(buf) }]);
            }
        };
        let mut parts: Vec<Part> = Vec::new();
        for extent in image.extents(at..at + buf.len() as u64)? {
            let extent = extent?;
            let len = extent.guest.end - extent.guest.start;
            let start = (extent.guest.start - at) as usize;
            let range = start..start + len as usize;
            let is_zero = extent.kind.is_zero() && len >= MIN_HOLE;
            if !is_zero {
                fetcher.fetch(image, &extent, &mut buf[range.clone()])?;
            }
            match parts.last_mut() {
                Some(last) if last.is_zero == is_zero => last.range.end = range.end,
                _ => parts.push(Part { range, is_zero }),
            }
        }
        Ok(parts)
    }

    /// Returns the writer.
    ///
    /// # Errors
    /// Returns the error number for a request that would write to a disk that is only read.
    pub(super) fn writer(&self) -> std::result::Result<&GuestWriter, u32> {
        match self {
            Self::Read { .. } => Err(error::EPERM),
            Self::Write(disk) => Ok(disk),
        }
    }

    /// Makes what was written durable.
    pub(super) fn flush(&self) -> Result<()> {
        match self {
            Self::Read { .. } => Ok(()),
            Self::Write(disk) => disk.flush(),
        }
    }

    /// Returns the status of a range that is not empty and within the disk, in one descriptor if
    /// `one`. They may cover only the beginning of the range.
    pub(super) fn status(
        &self,
        context: Context,
        range: Range<u64>,
        one: bool,
    ) -> Result<Vec<Descriptor>> {
        let max = if one { 1 } else { MAX_DESCRIPTORS };
        let mut status = Descriptors { list: Vec::new(), max };
        match (context, self) {
            (Context::Bitmap(index), _) => {
                let mut clean = range.start;
                if let Some(bitmap) = self.bitmaps().get(index) {
                    bitmap.for_each_dirty(range.clone(), |dirty| {
                        status.push(dirty.start - clean, 0);
                        status.push(dirty.end - dirty.start, 1);
                        clean = dirty.end;
                    })?;
                }
                status.push(range.end - clean, 0);
            }
            (Context::Allocation, Self::Read { image, .. }) => {
                for entry in diskimg::map(image, range) {
                    if !status.push_entry(&entry?) {
                        break;
                    }
                }
            }
            (Context::Allocation, Self::Write(disk)) => {
                let mut at = range.start;
                // The list is full when it refuses an entry.
                let mut fits = true;
                while fits && at < range.end {
                    let entries = disk.map(at..range.end, MAP_ENTRIES)?;
                    let Some(last) = entries.last() else { break };
                    at = last.start + last.length;
                    fits = entries.iter().all(|entry| status.push_entry(entry));
                }
            }
        }
        Ok(status.list)
    }
}

/// Collects descriptors, neighbors with the same flags as one.
struct Descriptors {
    list: Vec<Descriptor>,
    max: usize,
}

impl Descriptors {
    /// Appends a range. Returns false if it does not fit, and then no later range may follow.
    fn push(&mut self, len: u64, flags: u32) -> bool {
        // Requests have at most this length.
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        if len == 0 {
            return true;
        }
        match self.list.last_mut() {
            Some(last) if last.flags == flags && self.max > 0 => {
                last.len = last.len.saturating_add(len);
                return true;
            }
            _ => {}
        }
        if self.list.len() < self.max {
            self.list.push(Descriptor { len, flags });
            return true;
        }
        // What follows would not continue what is here.
        self.max = 0;
        false
    }

    fn push_entry(&mut self, entry: &MapEntry) -> bool {
        let hole = if entry.data { 0 } else { ALLOCATION_HOLE };
        let zero = if entry.zero { ALLOCATION_ZERO } else { 0 };
        self.push(entry.length, hole | zero)
    }
}

/// Returns the error number that a client gets.
pub(super) fn number(e: &Error) -> u32 {
    match (e.kind(), e.io_error().map(io::Error::kind)) {
        (_, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) => error::ENOSPC,
        (_, Some(io::ErrorKind::FileTooLarge)) => error::ENOSPC,
        (_, Some(io::ErrorKind::OutOfMemory)) => error::ENOMEM,
        (ErrorKind::Invalid, _) => error::EINVAL,
        (ErrorKind::Unsupported, _) => error::ENOTSUP,
        _ => error::EIO,
    }
}
