//! The metadata region: a table of items, then the items.
//!
//! ```text
//!   0        metadata, number of entries, [ GUID, offset, length, flags ], at most 2047
//!   64 KiB   file parameters, size, identifier, sector sizes, parent locator, …
//! ```
//!
//! Offsets are relative to the start of the region. MS-VHDX 2.6.

use super::guid::Guid;
use super::locator::Locator;
use super::region::{MAX_ENTRIES, TABLE_BYTES};
use super::{KIB, MIB, read};
use crate::error::{Error, Result};
use crate::storage::number::{to_index, to_u16, to_u32, to_u64, to_usize};
use crate::storage::source::Source;
use std::ops::Range;
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const SIGNATURE: [u8; 8] = *b"metadata";

/// Maximum length in bytes of an item.
const MAX_ITEM: u64 = MIB;

/// Maximum size of a disk in bytes.
pub(super) const MAX_SIZE: u64 = 64 << 40;

/// How messages call the metadata table.
pub(super) const STRUCTURE: &str = "VHDX metadata";

/// The known items.
pub(super) mod item {
    use super::Guid;

    /// Block size, and whether the disk is fixed or has a parent.
    pub(in super::super) const FILE_PARAMETERS: Guid =
        Guid::new(0xcaa1_6737, 0xfa36, 0x4d43, [0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b]);
    /// Size of the disk in bytes.
    pub(in super::super) const SIZE: Guid =
        Guid::new(0x2fa5_4224, 0xcd1b, 0x4876, [0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8]);
    /// The identifier of the disk that a guest sees (SCSI page 83); children have the same.
    pub(in super::super) const DISK_ID: Guid =
        Guid::new(0xbeca_12ab, 0xb2e6, 0x4523, [0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46]);
    /// Logical sector size.
    pub(in super::super) const LOGICAL: Guid =
        Guid::new(0x8141_bf1d, 0xa96f, 0x4709, [0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f]);
    /// Physical sector size.
    pub(in super::super) const PHYSICAL: Guid =
        Guid::new(0xcda3_48c7, 0x445d, 0x4471, [0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56]);
    /// The names of the parent.
    pub(in super::super) const PARENT_LOCATOR: Guid =
        Guid::new(0xa8d3_5f2d, 0xb30b, 0x454d, [0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c]);
    /// The file is not complete yet: a program that creates it has not finished.
    pub(in super::super) const INCOMPLETE: Guid =
        Guid::new(0x71cc_85f0, 0x1b69, 0x4e28, [0x95, 0x58, 0xc3, 0xbf, 0x83, 0xae, 0x75, 0xd3]);
}

/// The items that this program understands; others may be present if they are not required.
const KNOWN: [Guid; 6] = [
    item::FILE_PARAMETERS,
    item::SIZE,
    item::DISK_ID,
    item::LOGICAL,
    item::PHYSICAL,
    item::PARENT_LOCATOR,
];

/// The start of the table on disk.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawTable {
    signature: [u8; 8],
    reserved: [u8; 2],
    count: U16,
    reserved_end: [u8; 20],
}

/// An entry on disk.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawEntry {
    guid: [u8; 16],
    offset: U32,
    len: U32,
    flags: U32,
    reserved: U32,
}

/// The item belongs to a user, not to the format.
const IS_USER: u32 = 1;
/// The item describes the disk, not the file.
const IS_VIRTUAL_DISK: u32 = 1 << 1;
/// A program that does not know the item must not open the file.
const IS_REQUIRED: u32 = 1 << 2;

/// Flag of the file parameters: blocks are never given back, the disk is fixed.
const LEAVE_BLOCKS_ALLOCATED: u32 = 1;
/// Flag of the file parameters: a differencing disk.
const HAS_PARENT: u32 = 1 << 1;

/// The valid metadata of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metadata {
    /// Guest bytes of a block: a power of two from 1 to 256 MiB.
    pub(super) block_bytes: u64,
    /// Blocks are never given back: the disk is fixed.
    pub(super) leaves_blocks_allocated: bool,
    /// Size of the disk in bytes, a multiple of the logical sector size.
    pub(super) size: u64,
    /// The identifier that a guest sees.
    pub(super) disk_id: Guid,
    /// Logical sector size: 512 or 4096.
    pub(super) logical: u64,
    /// Physical sector size: 512 or 4096.
    pub(super) physical: u64,
    /// The parent of a differencing disk.
    pub(super) parent: Option<Locator>,
}

/// An item that the table lists.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    guid: Guid,
    /// Range in the region.
    range: Range<u64>,
    flags: u32,
}

impl Metadata {
    /// Reads the metadata in the host range `region`.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if an item is missing or invalid,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for an unknown item that is required,
    /// [`Io`](crate::ErrorKind::Io) if it cannot be read.
    pub(super) fn read(source: &dyn Source, region: &Range<u64>) -> Result<Self> {
        let items = items(source, region)?;
        let file = field::<8>(source, region, &items, item::FILE_PARAMETERS, "file parameters")?;
        let size = field::<8>(source, region, &items, item::SIZE, "size of the disk")?;
        let id = field::<16>(source, region, &items, item::DISK_ID, "identifier of the disk")?;
        let logical = field::<4>(source, region, &items, item::LOGICAL, "logical sector size")?;
        let physical = field::<4>(source, region, &items, item::PHYSICAL, "physical sector size")?;
        let word = |bytes: [u8; 4]| u32::from_le_bytes(bytes);
        let [block, flags] = [0, 4].map(|at| {
            word([file.bytes[at], file.bytes[at + 1], file.bytes[at + 2], file.bytes[at + 3]])
        });
        let block_bytes = u64::from(block);
        if !block.is_power_of_two() || !(MIB..=256 * MIB).contains(&block_bytes) {
            let message = format!("blocks of {block} bytes; expected a power of two, 1 to 256 MiB");
            return Err(file.corrupt(message));
        }
        if flags & !(LEAVE_BLOCKS_ALLOCATED | HAS_PARENT) != 0 {
            return Err(file.corrupt(format!("flags {flags:#x}, of which some are not defined")));
        }
        for sector in [&logical, &physical] {
            if ![512, 4096].contains(&word(sector.bytes)) {
                let message = format!("{} bytes; expected 512 or 4096", word(sector.bytes));
                return Err(sector.corrupt(message));
            }
        }
        let logical = u64::from(word(logical.bytes));
        let bytes = u64::from_le_bytes(size.bytes);
        if bytes > MAX_SIZE || !bytes.is_multiple_of(logical) {
            let message = format!(
                "a disk of {bytes} bytes; expected a multiple of {logical}, at most 64 TiB"
            );
            return Err(size.corrupt(message));
        }
        let parent = match flags & HAS_PARENT != 0 {
            true => Some(locator(source, region, &items)?),
            false => None,
        };
        Ok(Self {
            block_bytes,
            leaves_blocks_allocated: flags & LEAVE_BLOCKS_ALLOCATED != 0,
            size: bytes,
            disk_id: Guid(id.bytes),
            logical,
            physical: u64::from(word(physical.bytes)),
            parent,
        })
    }

    /// Returns the host offset of the size of the disk.
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`Unsupported`](crate::ErrorKind::Unsupported) if it is in two
    /// sectors, so that it cannot be changed as a whole.
    pub(super) fn size_at(source: &dyn Source, region: &Range<u64>) -> Result<u64> {
        let items = items(source, region)?;
        let at = field::<8>(source, region, &items, item::SIZE, "size of the disk")?.at;
        if at % 512 > 504 {
            let message = "the size of the disk is in two sectors";
            return Err(Error::unsupported(message).in_structure(STRUCTURE).at(at));
        }
        Ok(at)
    }

    /// Returns the bytes of the region up to the end of the last item: the table, and at 64 KiB the
    /// items.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut flags = 0;
        flags |= if self.leaves_blocks_allocated { LEAVE_BLOCKS_ALLOCATED } else { 0 };
        flags |= if self.parent.is_some() { HAS_PARENT } else { 0 };
        let parameters = [to_u32(self.block_bytes).to_le_bytes(), flags.to_le_bytes()].concat();
        let disk = IS_VIRTUAL_DISK | IS_REQUIRED;
        let mut items = vec![
            (item::FILE_PARAMETERS, IS_REQUIRED, parameters),
            (item::SIZE, disk, self.size.to_le_bytes().to_vec()),
            (item::DISK_ID, disk, self.disk_id.0.to_vec()),
            (item::LOGICAL, disk, to_u32(self.logical).to_le_bytes().to_vec()),
            (item::PHYSICAL, disk, to_u32(self.physical).to_le_bytes().to_vec()),
        ];
        if let Some(parent) = &self.parent {
            items.push((item::PARENT_LOCATOR, IS_REQUIRED, parent.encode()));
        }
        let table = RawTable {
            signature: SIGNATURE,
            reserved: [0; 2],
            count: to_u16(items.len()).into(),
            reserved_end: [0; 20],
        };
        let mut bytes = table.as_bytes().to_vec();
        let mut offset = to_u64(TABLE_BYTES);
        for (guid, flags, content) in &items {
            let entry = RawEntry {
                guid: guid.0,
                offset: to_u32(offset).into(),
                len: to_u32(content.len()).into(),
                flags: (*flags).into(),
                reserved: 0.into(),
            };
            bytes.extend_from_slice(entry.as_bytes());
            offset += to_u64(content.len());
        }
        bytes.resize(TABLE_BYTES, 0);
        items.iter().for_each(|(_, _, content)| bytes.extend_from_slice(content));
        bytes
    }
}

/// The content of an item of a fixed length.
struct Field<const N: usize> {
    bytes: [u8; N],
    /// Host offset.
    at: u64,
    name: &'static str,
}

impl<const N: usize> Field<N> {
    fn corrupt(&self, message: String) -> Error {
        Error::corrupt(STRUCTURE, format!("{}: {message}", self.name)).at(self.at)
    }
}

/// Reads an item of `N` bytes.
fn field<const N: usize>(
    source: &dyn Source,
    region: &Range<u64>,
    items: &[Item],
    guid: Guid,
    name: &'static str,
) -> Result<Field<N>> {
    let Some(item) = items.iter().find(|item| item.guid == guid) else {
        return Err(Error::corrupt(STRUCTURE, format!("it has no {name}")).at(region.start));
    };
    let at = region.start + item.range.start;
    let len = item.range.end - item.range.start;
    if len != to_u64(N) {
        let message = format!("{name} of {len} bytes; expected {N}");
        return Err(Error::corrupt(STRUCTURE, message).at(at));
    }
    let mut bytes = [0; N];
    read(source, &mut bytes, at, STRUCTURE)?;
    Ok(Field { bytes, at, name })
}

/// Reads the parent locator.
fn locator(source: &dyn Source, region: &Range<u64>, items: &[Item]) -> Result<Locator> {
    let Some(item) = items.iter().find(|item| item.guid == item::PARENT_LOCATOR) else {
        let message = "a differencing disk without a parent locator";
        return Err(Error::corrupt(STRUCTURE, message).at(region.start));
    };
    let at = region.start + item.range.start;
    let mut bytes = vec![0; to_usize(item.range.end - item.range.start)];
    read(source, &mut bytes, at, STRUCTURE)?;
    Locator::parse(&bytes, at)
}

/// Reads and validates the table of items.
fn items(source: &dyn Source, region: &Range<u64>) -> Result<Vec<Item>> {
    let at = region.start;
    let corrupt = |field: u64, message: String| Error::corrupt(STRUCTURE, message).at(at + field);
    let mut bytes = vec![0; TABLE_BYTES];
    read(source, &mut bytes, at, STRUCTURE)?;
    let (raw, rest) = RawTable::read_from_prefix(&bytes)
        .map_err(|_| corrupt(0, "the table is too short".into()))?;
    if raw.signature != SIGNATURE {
        return Err(corrupt(0, "expected \"metadata\"".into()));
    }
    let count = u32::from(raw.count.get());
    if count > MAX_ENTRIES {
        return Err(corrupt(10, format!("{count} entries; at most {MAX_ENTRIES}")));
    }
    let (entries, _) = <[RawEntry]>::ref_from_prefix_with_elems(rest, to_index(count))
        .map_err(|_| corrupt(10, "the table is too short".into()))?;
    let region_len = region.end - region.start;
    let mut items = Vec::with_capacity(entries.len());
    for (entry, field) in entries.iter().zip((32..).step_by(size_of::<RawEntry>())) {
        let (guid, flags) = (Guid(entry.guid), entry.flags.get());
        let (start, len) = (u64::from(entry.offset.get()), u64::from(entry.len.get()));
        if flags & !(IS_USER | IS_VIRTUAL_DISK | IS_REQUIRED) != 0 {
            let message = format!("the item {guid} has the flags {flags:#x}, some not defined");
            return Err(corrupt(field + 24, message));
        }
        if guid == item::INCOMPLETE {
            let message = "the file is not complete: the program that creates it has not finished";
            return Err(Error::unsupported(message)
                .in_structure(STRUCTURE)
                .at(at + field)
                .hint("create the image again"));
        }
        let is_known = flags & IS_USER == 0 && KNOWN.contains(&guid);
        if flags & IS_REQUIRED != 0 && !is_known {
            let message = format!("it requires the unknown item {guid}");
            return Err(Error::unsupported(message).in_structure(STRUCTURE).at(at + field));
        }
        let end = start + len;
        let is_inside = start >= 64 * KIB && len <= MAX_ITEM && end <= region_len;
        if !(is_inside || (len == 0 && start == 0)) {
            let message = format!(
                "the item {guid} of {len} bytes at {start:#x} is not in the region, or too long"
            );
            return Err(corrupt(field + 16, message));
        }
        items.push(Item { guid, range: start..end, flags });
    }
    require_distinct(&items, at)?;
    items.retain(|item| item.flags & IS_USER == 0);
    Ok(items)
}

/// Requires that no two items overlap or have the same name.
fn require_distinct(items: &[Item], at: u64) -> Result<()> {
    let mut sorted: Vec<_> = items.iter().collect();
    sorted.sort_by_key(|item| item.range.start);
    let mut end = 0;
    for item in sorted.iter().filter(|item| !item.range.is_empty()) {
        if item.range.start < end {
            let message = format!("the item {} overlaps another", item.guid);
            return Err(Error::corrupt(STRUCTURE, message).at(at));
        }
        end = item.range.end;
    }
    sorted.sort_by_key(|item| (item.guid.0, item.flags & IS_USER));
    for pair in sorted.windows(2) {
        if pair[0].guid == pair[1].guid && pair[0].flags & IS_USER == pair[1].flags & IS_USER {
            let message = format!("it has two items {}", pair[0].guid);
            return Err(Error::corrupt(STRUCTURE, message).at(at));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::source::MemorySource;

    #[test]
    fn metadata_is_read_as_it_is_encoded() {
        let metadata = Metadata {
            block_bytes: 2 << 20,
            leaves_blocks_allocated: true,
            size: 10 << 30,
            disk_id: Guid([7; 16]),
            logical: 4096,
            physical: 512,
            parent: None,
        };
        let locator = Locator { entries: vec![("parent_linkage".into(), "{x}".into())] };
        for metadata in [metadata.clone(), Metadata { parent: Some(locator), ..metadata }] {
            let mut bytes = vec![0; 1 << 20];
            bytes.extend(metadata.encode());
            bytes.resize(2 << 20, 0);
            let source = MemorySource::new(bytes);
            let region = 1 << 20..2 << 20;
            assert_eq!(Metadata::read(&source, &region).expect("reads"), metadata);
        }
    }
}
