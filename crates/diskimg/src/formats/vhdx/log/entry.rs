//! Entries of the log: parsing and verification.
//!
//! ```text
//!   header   loge, checksum, length, tail, sequence number, number of descriptors, GUID,
//!            flushed and last file offset                                    64 bytes
//!   desc     the last 4 and the first 8 bytes of a page, its offset          32 bytes
//!   zero     the length of a range that becomes zeros, its offset            32 bytes
//!   data     sequence number (high) │ bytes 8 to 4091 of a page │ (low)      4096 bytes
//! ```

use super::super::guid::Guid;
use super::super::region;
use super::{SECTOR, STRUCTURE};
use crate::error::{Error, Result};
use crate::storage::number::{to_index, to_u64, to_usize};
use crate::storage::source::Source;
use std::ops::Range;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of an entry's header in bytes.
const HEADER_BYTES: usize = 64;

/// Length of a descriptor in bytes.
pub(super) const DESCRIPTOR_BYTES: usize = 32;

const SIGNATURE: [u8; 4] = *b"loge";
const DATA_DESCRIPTOR: [u8; 4] = *b"desc";
const ZERO_DESCRIPTOR: [u8; 4] = *b"zero";
const DATA_SECTOR: [u8; 4] = *b"data";

/// Offset of the checksum in the header.
const CHECKSUM_AT: usize = 4;

/// The header on disk.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawHeader {
    signature: [u8; 4],
    checksum: U32,
    len: U32,
    tail: U32,
    sequence: U64,
    descriptors: U32,
    reserved: U32,
    guid: [u8; 16],
    flushed: U64,
    last: U64,
}

/// A descriptor on disk.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawDescriptor {
    signature: [u8; 4],
    /// The last bytes of a page.
    trailing: [u8; 4],
    /// The first bytes of a page, or the length of a range.
    leading: [u8; 8],
    offset: U64,
    sequence: U64,
}

/// A valid entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Index of its first sector in the log.
    pub(super) sector: u32,
    /// Number of its sectors.
    pub(super) sectors: u32,
    /// Index of the sector at which the entry with the oldest change starts that is needed.
    pub(super) tail: u32,
    pub(super) sequence: u64,
    pub(super) descriptors: u32,
    /// Length that the file must have at least: that much was flushed.
    pub(super) flushed: u64,
    /// Length that the file needs after the changes.
    pub(super) last: u64,
}

/// What a descriptor says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// A page is replaced.
    Page(u64),
    /// A range becomes zeros.
    Zeros(Range<u64>),
}

impl Entry {
    /// Returns the number of sectors before the data sectors.
    pub(super) fn descriptor_sectors(&self) -> u32 {
        descriptor_sectors(self.descriptors)
    }
}

/// Returns the number of sectors of a header and of this many descriptors.
fn descriptor_sectors(descriptors: u32) -> u32 {
    let bytes = to_u64(HEADER_BYTES) + u64::from(descriptors) * to_u64(DESCRIPTOR_BYTES);
    crate::storage::number::to_u32(bytes.div_ceil(to_u64(SECTOR)))
}

/// The sectors of a log, read in larger pieces.
#[derive(Debug)]
pub(super) struct Sectors<'a> {
    source: &'a dyn Source,
    /// Host range of the log.
    log: Range<u64>,
    buffer: Vec<u8>,
    /// Index of the first sector in the buffer.
    first: u64,
}

/// Sectors that are read at once.
const READ_SECTORS: u64 = 128;

impl<'a> Sectors<'a> {
    /// The sectors of the log in the host range `log`, whose length is a multiple of 1 MiB.
    pub(super) fn new(source: &'a dyn Source, log: Range<u64>) -> Self {
        Self { source, log, buffer: Vec::new(), first: 0 }
    }

    /// Returns the number of sectors.
    pub(super) fn count(&self) -> u32 {
        crate::storage::number::to_u32((self.log.end - self.log.start) / to_u64(SECTOR))
    }

    /// Returns the host range of the log.
    pub(super) fn log(&self) -> &Range<u64> {
        &self.log
    }

    /// Returns a sector by its index, which wraps around.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if it cannot be read.
    pub(super) fn get(&mut self, index: u64) -> Result<&[u8; SECTOR]> {
        let (index, count) = (index % u64::from(self.count()), u64::from(self.count()));
        let held = to_u64(self.buffer.len() / SECTOR);
        if !(self.first..self.first + held).contains(&index) {
            let sectors = READ_SECTORS.min(count - index);
            self.buffer.resize(to_usize(sectors) * SECTOR, 0);
            let at = self.log.start + index * to_u64(SECTOR);
            // Nothing is held if it cannot be read.
            let outcome = super::super::read(self.source, &mut self.buffer, at, STRUCTURE);
            if let Err(error) = outcome {
                self.buffer.clear();
                return Err(error);
            }
            self.first = index;
        }
        let start = to_usize(index - self.first) * SECTOR;
        let sector = self.buffer.get(start..).and_then(|rest| rest.first_chunk());
        sector.ok_or_else(|| Error::corrupt(STRUCTURE, "it is too short").at(self.log.start))
    }

    /// Returns the index of the first sector from `index` on that is stored: not in a hole of the
    /// file, which is read as zeros.
    pub(super) fn skip_hole(&self, index: u64) -> u64 {
        let at = self.log.start + index * to_u64(SECTOR);
        match self.source.segment_at(at) {
            Ok(segment) if segment.hole && segment.end > at => {
                let end = segment.end.min(self.log.end);
                ((end - self.log.start) / to_u64(SECTOR)).max(index)
            }
            _ => index,
        }
    }
}

/// Returns true if an entry may start with this sector.
pub(super) fn is_start(sector: &[u8; SECTOR]) -> bool {
    sector.starts_with(&SIGNATURE)
}

/// Reads and verifies the entry at a sector. The inner error says why it is not valid.
///
/// Each sector of an entry starts with a signature of its own, so that this reads no further than
/// the start of the next entry: searching all of a log takes time in proportion to its length.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io) if the log cannot be read.
pub(super) fn verify(
    sectors: &mut Sectors<'_>,
    index: u32,
    guid: Guid,
) -> Result<std::result::Result<Entry, &'static str>> {
    let count = sectors.count();
    let first = sectors.get(index.into())?;
    let (entry, checksum) = match header(first, index, count, guid) {
        Ok(parsed) => parsed,
        Err(why) => return Ok(Err(why)),
    };
    let (before, after) = (&first[..CHECKSUM_AT], &first[CHECKSUM_AT + 4..]);
    let mut sum = crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]);
    sum = crc32c::crc32c_append(sum, after);
    let log = sectors.log().clone();
    let (mut left, mut pages) = (entry.descriptors, 0);
    for sector in 0..entry.descriptor_sectors() {
        let bytes = sectors.get(u64::from(index) + u64::from(sector))?;
        let skipped = if sector == 0 { HEADER_BYTES } else { 0 };
        for raw in bytes[skipped..].chunks_exact(DESCRIPTOR_BYTES).take(to_index(left)) {
            match change(raw, entry.sequence, &log) {
                Ok(Change::Page(_)) => pages += 1,
                Ok(Change::Zeros(_)) => {}
                Err(why) => return Ok(Err(why)),
            }
            left -= 1;
        }
        if sector > 0 {
            sum = crc32c::crc32c_append(sum, bytes);
        }
    }
    if entry.sectors != entry.descriptor_sectors() + pages {
        return Ok(Err("its length is not that of its descriptors"));
    }
    for sector in entry.descriptor_sectors()..entry.sectors {
        let bytes = sectors.get(u64::from(index) + u64::from(sector))?;
        let number = entry.sequence.to_le_bytes();
        if !bytes.starts_with(&DATA_SECTOR) {
            return Ok(Err("a data sector has no signature"));
        }
        if bytes[4..8] != number[4..] || bytes[SECTOR - 4..] != number[..4] {
            return Ok(Err("a data sector has the sequence number of another entry"));
        }
        sum = crc32c::crc32c_append(sum, bytes);
    }
    Ok(if sum == checksum { Ok(entry) } else { Err("its checksum is wrong") })
}

/// Parses the header of an entry; returns its checksum as well.
fn header(
    bytes: &[u8; SECTOR],
    sector: u32,
    count: u32,
    guid: Guid,
) -> std::result::Result<(Entry, u32), &'static str> {
    let (raw, _) = RawHeader::read_from_prefix(bytes).map_err(|_| "it is too short")?;
    if raw.signature != SIGNATURE {
        return Err("it has no signature");
    }
    if Guid(raw.guid) != guid {
        return Err("it has another GUID than the header");
    }
    let (len, tail) = (to_index(raw.len.get()), to_index(raw.tail.get()));
    let sectors = raw.len.get() / 4096;
    if !len.is_multiple_of(SECTOR) || sectors == 0 || sectors >= count {
        return Err("its length is not a multiple of 4 KiB, or not that of a part of the log");
    }
    if !tail.is_multiple_of(SECTOR) || raw.tail.get() / 4096 >= count {
        return Err("its tail is not in the log");
    }
    let descriptors = raw.descriptors.get();
    // Of 2^32 descriptors, the first sectors alone would have 128 GiB.
    let room = (len - HEADER_BYTES) / DESCRIPTOR_BYTES;
    if to_index(descriptors) > room {
        return Err("its descriptors exceed its length");
    }
    let entry = Entry {
        sector,
        sectors,
        tail: raw.tail.get() / 4096,
        sequence: raw.sequence.get(),
        descriptors,
        flushed: raw.flushed.get(),
        last: raw.last.get(),
    };
    Ok((entry, raw.checksum.get()))
}

/// Parses a descriptor of an entry.
pub(super) fn change(
    bytes: &[u8],
    sequence: u64,
    log: &Range<u64>,
) -> std::result::Result<Change, &'static str> {
    let raw = RawDescriptor::read_from_bytes(bytes).map_err(|_| "it is too short")?;
    let start = raw.offset.get();
    let change = match raw.signature {
        DATA_DESCRIPTOR => Change::Page(start),
        ZERO_DESCRIPTOR => {
            let len = u64::from_le_bytes(raw.leading);
            if !len.is_multiple_of(to_u64(SECTOR)) {
                return Err("a descriptor has a length that is not a multiple of 4 KiB");
            }
            Change::Zeros(start..start.saturating_add(len))
        }
        _ => return Err("a descriptor has no signature"),
    };
    if raw.sequence.get() != sequence {
        return Err("a descriptor has the sequence number of another entry");
    }
    let end = match &change {
        Change::Page(_) => start.saturating_add(to_u64(SECTOR)),
        Change::Zeros(range) => range.end,
    };
    if !start.is_multiple_of(to_u64(SECTOR)) || end > i64::MAX.unsigned_abs() {
        return Err("a descriptor has an offset that is not a multiple of 4 KiB, or too large");
    }
    if start < region::TABLES_AT[0] {
        return Err("a descriptor changes a header");
    }
    if start < log.end && log.start < end {
        return Err("a descriptor changes the log");
    }
    Ok(change)
}

/// Returns the first and the last bytes of a page, which its descriptor has.
pub(super) fn edges(bytes: &[u8; DESCRIPTOR_BYTES]) -> ([u8; 8], [u8; 4]) {
    let raw: RawDescriptor = zerocopy::transmute!(*bytes);
    (raw.leading, raw.trailing)
}

/// Returns the offset in the log's sectors of descriptor `n` of an entry: its sector, relative to
/// the entry's first, and the offset in it.
pub(super) fn place_of_descriptor(n: u32) -> (u32, u32) {
    let at = to_u64(HEADER_BYTES) + u64::from(n) * to_u64(DESCRIPTOR_BYTES);
    let (sector, offset) = (at / to_u64(SECTOR), at % to_u64(SECTOR));
    (crate::storage::number::to_u32(sector), crate::storage::number::to_u32(offset))
}
