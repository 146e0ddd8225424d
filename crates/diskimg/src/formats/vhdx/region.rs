//! The two region tables: where the block allocation table and the metadata are.
//!
//! ```text
//!   192 KiB  region table   [ GUID, offset, length, required ], at most 2047
//!   256 KiB  copy           used if the first is damaged
//! ```
//!
//! MS-VHDX 2.2.3.

use super::guid::Guid;
use super::{KIB, MIB, checksum, read, require_checksum};
use crate::error::{Error, Result};
use crate::storage::number::{to_index, to_u32, to_u64, to_usize};
use crate::storage::source::Source;
use std::ops::Range;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Host offsets of the region tables.
pub(super) const TABLES_AT: [u64; 2] = [192 * KIB, 256 * KIB];

/// Length of a region table in bytes.
pub(super) const TABLE_BYTES: usize = 64 << 10;

/// The region of the block allocation table.
pub(super) const BAT: Guid =
    Guid::new(0x2dc2_7766, 0xf623, 0x4200, [0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08]);

/// The region of the metadata.
pub(super) const METADATA: Guid =
    Guid::new(0x8b7c_a206, 0x4790, 0x4b9a, [0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e]);

/// Maximum number of entries of a region table, and of the metadata table.
pub(super) const MAX_ENTRIES: u32 = 2047;

/// Maximum length in bytes of the region of the block allocation table: that of a disk of 64 TiB
/// with blocks of 1 MiB, with its entries for bitmaps.
const MAX_BAT: u64 = 513 * MIB;

/// Maximum length in bytes of the metadata region.
const MAX_METADATA: u64 = 128 * MIB;

/// Number of entries that are in the first sector of a region table, with its checksum.
pub(super) const ENTRIES_IN_SECTOR: usize = 15;

const SIGNATURE: [u8; 4] = *b"regi";

/// Offset of the checksum in the table.
const CHECKSUM_AT: usize = 4;

/// How messages call a region table.
pub(super) const STRUCTURE: &str = "VHDX region table";

/// The start of a table on disk.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawTable {
    signature: [u8; 4],
    checksum: U32,
    count: U32,
    reserved: U32,
}

/// An entry on disk.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawEntry {
    guid: [u8; 16],
    offset: U64,
    len: U32,
    /// Bit 0: a program that does not know the region must not open the file.
    flags: U32,
}

/// A region of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) guid: Guid,
    /// Host range.
    pub(super) range: Range<u64>,
    /// Whether a program that does not know the region must not open the file.
    pub(super) required: bool,
}

/// The valid regions of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Regions {
    /// Host range of the block allocation table.
    pub(super) bat: Range<u64>,
    /// Host range of the metadata.
    pub(super) metadata: Range<u64>,
    /// All regions, in the order of their offsets.
    pub(super) all: Vec<Region>,
}

/// Parses the table at host offset `at`.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if its checksum or a value is wrong.
pub(super) fn parse(bytes: &[u8; TABLE_BYTES], at: u64) -> Result<Vec<Region>> {
    let too_short = |_| Error::corrupt(STRUCTURE, "it is too short").at(at);
    let (raw, rest) = RawTable::read_from_prefix(bytes).map_err(|e| too_short(e.to_string()))?;
    if raw.signature != SIGNATURE {
        return Err(Error::corrupt(STRUCTURE, "expected \"regi\"").at(at));
    }
    require_checksum(STRUCTURE, bytes, at, CHECKSUM_AT)?;
    let count = raw.count.get();
    if count > MAX_ENTRIES {
        let message = format!("{count} entries; at most {MAX_ENTRIES}");
        return Err(Error::corrupt(STRUCTURE, message).at(at + 8));
    }
    let (entries, _) = <[RawEntry]>::ref_from_prefix_with_elems(rest, to_index(count))
        .map_err(|e| too_short(e.to_string()))?;
    let mut regions = Vec::with_capacity(entries.len());
    for (entry, at) in entries.iter().zip((at + 16..).step_by(size_of::<RawEntry>())) {
        let (guid, start) = (Guid(entry.guid), entry.offset.get());
        let (len, flags) = (u64::from(entry.len.get()), entry.flags.get());
        let is_aligned = start.is_multiple_of(MIB) && len.is_multiple_of(MIB);
        let end = start.checked_add(len);
        let Some(end) = end.filter(|_| is_aligned && start >= MIB && len > 0) else {
            let message = format!(
                "the region {guid} of {len} bytes is at {start:#x}; expected multiples of 1 MiB"
            );
            return Err(Error::corrupt(STRUCTURE, message).at(at + 16));
        };
        if flags & !1 != 0 {
            let message = format!("the region {guid} has the flags {flags:#x}; expected 0 or 1");
            return Err(Error::corrupt(STRUCTURE, message).at(at + 28));
        }
        regions.push(Region { guid, range: start..end, required: flags == 1 });
    }
    Ok(regions)
}

/// Returns the bytes of a table of these regions, with its checksum.
pub(super) fn encode(regions: &[Region]) -> Box<[u8; TABLE_BYTES]> {
    let raw = RawTable {
        signature: SIGNATURE,
        checksum: 0.into(),
        count: to_u32(regions.len()).into(),
        reserved: 0.into(),
    };
    let mut bytes = Box::new([0; TABLE_BYTES]);
    bytes[..size_of::<RawTable>()].copy_from_slice(raw.as_bytes());
    let places = bytes[size_of::<RawTable>()..].chunks_exact_mut(size_of::<RawEntry>());
    for (region, place) in regions.iter().zip(places) {
        let entry = RawEntry {
            guid: region.guid.0,
            offset: region.range.start.into(),
            len: to_u32(region.range.end - region.range.start).into(),
            flags: u32::from(region.required).into(),
        };
        place.copy_from_slice(entry.as_bytes());
    }
    let sum = checksum(&*bytes, CHECKSUM_AT);
    bytes[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&sum.to_le_bytes());
    bytes
}

impl Regions {
    /// Reads the region table, or its copy if the first is damaged, and validates it: it must have
    /// the known regions, no unknown one that is required, and none that overlaps another or the
    /// log. Returns what is wrong with one of the two tables as well.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if both tables are damaged or the regions are invalid,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for an unknown region that is required,
    /// [`Io`](crate::ErrorKind::Io) if the tables cannot be read.
    pub(super) fn read(source: &dyn Source, log: &Range<u64>) -> Result<(Self, Option<String>)> {
        let table = |at: u64| {
            let mut bytes = vec![0; TABLE_BYTES];
            match read(source, &mut bytes, at, STRUCTURE) {
                Err(error) if error.is_storage_failure() => return Err(error),
                Err(error) => return Ok(Err(error)),
                Ok(()) => {}
            }
            let short = || Error::corrupt(STRUCTURE, "it is too short").at(at);
            Ok(bytes.first_chunk().ok_or_else(short).and_then(|bytes| parse(bytes, at)))
        };
        let copy_damage = |error: &Error| {
            format!("one of the two region tables is damaged: {}", error.without_remedy())
        };
        let (regions, damage, at) = match (table(TABLES_AT[0])?, table(TABLES_AT[1])?) {
            (Ok(first), Ok(second)) => {
                let differ = first != second;
                let damage = differ.then(|| "the two region tables differ".to_owned());
                (first, damage, TABLES_AT[0])
            }
            (Ok(first), Err(error)) => (first, Some(copy_damage(&error)), TABLES_AT[0]),
            (Err(error), Ok(second)) => (second, Some(copy_damage(&error)), TABLES_AT[1]),
            (Err(error), Err(_)) => return Err(error),
        };
        Ok((Self::validate(regions, log, source.len(), at)?, damage))
    }

    fn validate(mut all: Vec<Region>, log: &Range<u64>, len: u64, at: u64) -> Result<Self> {
        let corrupt = |message: String| Error::corrupt(STRUCTURE, message).at(at);
        all.sort_by_key(|region| region.range.start);
        for pair in all.windows(2) {
            if pair[1].range.start < pair[0].range.end {
                let (a, b) = (pair[0].guid, pair[1].guid);
                return Err(corrupt(format!("the regions {a} and {b} overlap")));
            }
        }
        for region in &all {
            let Region { guid, range, required } = region;
            if range.start < log.end && log.start < range.end {
                return Err(corrupt(format!("the region {guid} overlaps the log")));
            }
            if *required && ![BAT, METADATA].contains(guid) {
                let message = format!("it requires the unknown region {guid}");
                return Err(Error::unsupported(message).in_structure(STRUCTURE).at(at));
            }
        }
        let find = |guid: Guid, name: &str, max: u64| {
            let mut found = all.iter().filter(|region| region.guid == guid);
            let (Some(region), None) = (found.next(), found.next()) else {
                return Err(corrupt(format!("expected one region {guid} ({name})")));
            };
            let range = region.range.clone();
            if range.end - range.start > max {
                let bytes = range.end - range.start;
                return Err(corrupt(format!("{name} of {bytes} bytes; at most {max}")));
            }
            if range.end > len {
                let message = format!("{name} at {:#x} is beyond the end of the file", range.start);
                return Err(corrupt(message).hint("the file is probably truncated"));
            }
            Ok(range)
        };
        let bat = find(BAT, "the block allocation table", MAX_BAT)?;
        let metadata = find(METADATA, "the metadata", MAX_METADATA)?;
        Ok(Self { bat, metadata, all })
    }
}

const _: () = assert!(
    size_of::<RawTable>() + 2047 * size_of::<RawEntry>() <= TABLE_BYTES
        && to_u64(TABLE_BYTES) == TABLES_AT[1] - TABLES_AT[0]
        && to_usize(TABLES_AT[1]) + TABLE_BYTES <= to_usize(MIB)
);
