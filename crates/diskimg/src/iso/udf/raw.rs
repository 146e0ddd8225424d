//! On-disk structures of UDF: little-endian, without padding, unchecked.
//!
//! Names are those of ECMA-167, 3rd edition, with part and section in parentheses.

use crate::iso::time::Timestamp;
use byteorder::{ByteOrder, LittleEndian};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Tag identifiers (3/7.2.1, 4/7.2.1).
pub(in crate::iso) mod id {
    pub(crate) const PRIMARY_VOLUME: u16 = 1;
    pub(crate) const ANCHOR: u16 = 2;
    pub(crate) const VOLUME_POINTER: u16 = 3;
    pub(crate) const IMPLEMENTATION_USE: u16 = 4;
    pub(crate) const PARTITION: u16 = 5;
    pub(crate) const LOGICAL_VOLUME: u16 = 6;
    pub(crate) const UNALLOCATED_SPACE: u16 = 7;
    pub(crate) const TERMINATING: u16 = 8;
    pub(crate) const INTEGRITY: u16 = 9;
    pub(crate) const FILE_SET: u16 = 256;
    pub(crate) const FILE_IDENTIFIER: u16 = 257;
    pub(crate) const ALLOCATION_EXTENT: u16 = 258;
    pub(crate) const INDIRECT_ENTRY: u16 = 259;
    pub(crate) const FILE_ENTRY: u16 = 261;
    pub(crate) const ATTRIBUTE_HEADER: u16 = 262;
    pub(crate) const EXTENDED_FILE_ENTRY: u16 = 266;
}

/// Descriptor tag (3/7.2).
#[derive(Debug, Clone, Copy, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Tag {
    pub(super) id: U16,
    pub(super) version: U16,
    pub(super) checksum: u8,
    pub(super) reserved: u8,
    pub(super) serial: U16,
    pub(super) crc: U16,
    pub(super) crc_length: U16,
    /// Block number of the descriptor.
    pub(super) location: U32,
}

/// Extent descriptor (3/7.1): length in bytes, and first sector of the volume.
#[derive(Debug, Clone, Copy, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Extent {
    pub(super) length: U32,
    pub(super) location: U32,
}

/// Recorded address (4/7.1): a block, and the index of its partition's map.
#[derive(Debug, Clone, Copy, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Address {
    pub(super) block: U32,
    pub(super) partition: U16,
}

/// Short allocation descriptor (4/14.14.1).
#[derive(Debug, Clone, Copy, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct ShortAllocation {
    pub(super) length: U32,
    pub(super) block: U32,
}

/// Long allocation descriptor (4/14.14.2).
#[derive(Debug, Clone, Copy, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct LongAllocation {
    pub(super) length: U32,
    pub(super) address: Address,
    pub(super) implementation_use: [u8; 6],
}

/// Entity identifier (1/7.4).
#[derive(Debug, Clone, Copy, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Entity {
    pub(super) flags: u8,
    pub(super) identifier: [u8; 23],
    pub(super) suffix: [u8; 8],
}

impl Entity {
    /// Returns true if the identifier is `name`, padded with zeros.
    pub(super) fn is(&self, name: &[u8]) -> bool {
        self.identifier.strip_prefix(name).is_some_and(|rest| rest.iter().all(|&b| b == 0))
    }

    /// Returns the UDF revision in the suffix (UDF, 2.1.5.3): 0x0260 is 2.60.
    pub(super) fn revision(&self) -> u16 {
        LittleEndian::read_u16(&self.suffix)
    }
}

/// Timestamp (1/7.3).
#[derive(Debug, Clone, Copy, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Stamp {
    /// Type in the upper four bits; offset from UTC in minutes in the lower twelve.
    type_and_zone: U16,
    year: U16,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
    centiseconds: u8,
    hundreds_of_microseconds: u8,
    microseconds: u8,
}

impl Stamp {
    /// Converts to a timestamp. Returns `None` for an invalid date. Without a time zone, UTC is
    /// assumed.
    pub(super) fn timestamp(&self) -> Option<Timestamp> {
        let civil = [self.year.get().cast_signed().into(), self.month.into(), self.day.into()];
        let clock = [self.hour.into(), self.minute.into(), self.second.into()];
        // Fractions of a second that are out of range are ignored.
        let part = |n: u8| if n < 100 { u32::from(n) } else { 0 };
        let nanoseconds = part(self.centiseconds) * 10_000_000
            + part(self.hundreds_of_microseconds) * 100_000
            + part(self.microseconds) * 1000;
        let mut timestamp = Timestamp::from_civil(civil, clock, nanoseconds, 0)?;
        timestamp.seconds -= i64::from(self.zone_minutes()) * 60;
        Some(timestamp)
    }

    /// Returns the offset from UTC in minutes: a signed 12-bit number. Values of more than a day,
    /// including -2047 for unspecified, are treated as 0.
    fn zone_minutes(&self) -> i16 {
        let zone = (self.type_and_zone.get() << 4).cast_signed() >> 4;
        if (-1440..=1440).contains(&zone) { zone } else { 0 }
    }
}

/// Anchor volume descriptor pointer (3/10.2), without the reserved bytes.
#[derive(Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Anchor {
    pub(super) tag: Tag,
    pub(super) main: Extent,
    pub(super) reserve: Extent,
}

/// Volume descriptor pointer (3/10.3).
#[derive(Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct VolumePointer {
    pub(super) tag: Tag,
    pub(super) sequence: U32,
    pub(super) next: Extent,
}

/// Start of the primary volume descriptor (3/10.1).
#[derive(Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct PrimaryVolume {
    pub(super) tag: Tag,
    pub(super) sequence: U32,
    pub(super) number: U32,
    pub(super) volume_identifier: [u8; 32],
    pub(super) volume_sequence: [U16; 2],
    pub(super) interchange_levels: [U16; 2],
    pub(super) character_sets: [U32; 2],
    pub(super) volume_set_identifier: [u8; 128],
}

/// Start of the partition descriptor (3/10.5).
#[derive(Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Partition {
    pub(super) tag: Tag,
    pub(super) sequence: U32,
    pub(super) flags: U16,
    pub(super) number: U16,
    pub(super) contents: Entity,
    pub(super) contents_use: [u8; 128],
    pub(super) access: U32,
    pub(super) start: U32,
    pub(super) length: U32,
}

/// Logical volume descriptor (3/10.6); the partition maps follow.
#[derive(Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct LogicalVolume {
    pub(super) tag: Tag,
    pub(super) sequence: U32,
    pub(super) character_set: [u8; 64],
    pub(super) identifier: [u8; 128],
    pub(super) block_size: U32,
    pub(super) domain: Entity,
    /// Location of the file set descriptor (UDF, 2.2.4.4).
    pub(super) file_set: LongAllocation,
    pub(super) maps_length: U32,
    pub(super) maps: U32,
    pub(super) implementation: Entity,
    pub(super) implementation_use: [u8; 128],
    pub(super) integrity: Extent,
}

/// Type 2 partition map (UDF, 2.2.8 to 2.2.10). The meaning of `rest` depends on the identifier.
#[derive(Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Map2 {
    pub(super) map_type: u8,
    pub(super) length: u8,
    pub(super) reserved: [u8; 2],
    pub(super) identifier: Entity,
    pub(super) volume: U16,
    pub(super) partition: U16,
    pub(super) rest: [u8; 24],
}

/// Rest of the partition map of a sparable partition (UDF, 2.2.9).
#[derive(Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct SparableMap {
    /// Length of a packet in blocks.
    pub(super) packet: U16,
    pub(super) tables: u8,
    pub(super) reserved: u8,
    /// Length of a sparing table in bytes.
    pub(super) table_length: U32,
    /// Sectors of the volume at which the sparing tables start.
    pub(super) locations: [U32; 4],
}

/// Rest of the partition map of a metadata partition (UDF, 2.2.10).
#[derive(Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct MetadataMap {
    pub(super) file: U32,
    pub(super) mirror: U32,
    pub(super) bitmap: U32,
    pub(super) unit: U32,
    pub(super) align: U16,
    pub(super) flags: u8,
    pub(super) reserved: [u8; 5],
}

/// Sparing table (UDF, 2.2.12); the entries follow.
#[derive(Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct SparingTable {
    pub(super) tag: Tag,
    pub(super) identifier: Entity,
    pub(super) entries: U16,
    pub(super) reserved: U16,
    pub(super) sequence: U32,
}

/// Entry of a sparing table.
#[derive(Debug, Clone, Copy, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct SparingEntry {
    /// First block of the packet in the partition.
    pub(super) original: U32,
    /// First sector of the replacement packet in the volume.
    pub(super) mapped: U32,
}

/// Start of the logical volume integrity descriptor (3/10.10).
#[derive(Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Integrity {
    pub(super) tag: Tag,
    pub(super) recorded: Stamp,
    /// 0: open, 1: closed.
    pub(super) state: U32,
    pub(super) next: Extent,
    pub(super) contents_use: [u8; 32],
    pub(super) partitions: U32,
    pub(super) implementation_use: U32,
}

/// Start of the implementation use field of the integrity descriptor (UDF, 2.2.6.4).
#[derive(Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct IntegrityUse {
    pub(super) implementation: Entity,
    pub(super) files: U32,
    pub(super) directories: U32,
}

/// Header of a virtual allocation table since UDF 2.00 (UDF, 2.2.11).
#[derive(Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct VirtualTable {
    pub(super) header_length: U16,
    pub(super) implementation_use: U16,
    pub(super) identifier: [u8; 128],
    pub(super) previous: U32,
    pub(super) files: U32,
    pub(super) directories: U32,
}

/// File set descriptor (4/14.1), up to the root directory's ICB.
#[derive(Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct FileSet {
    pub(super) tag: Tag,
    pub(super) recorded: Stamp,
    pub(super) interchange_levels: [U16; 2],
    pub(super) character_sets: [U32; 2],
    pub(super) number: U32,
    pub(super) descriptor_number: U32,
    pub(super) volume_character_set: [u8; 64],
    pub(super) volume_identifier: [u8; 128],
    pub(super) character_set: [u8; 64],
    pub(super) identifier: [u8; 32],
    pub(super) copyright: [u8; 32],
    pub(super) abstract_file: [u8; 32],
    pub(super) root: LongAllocation,
}

/// File identifier descriptor (4/14.4); implementation use and name follow.
#[derive(Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct FileIdentifier {
    pub(super) tag: Tag,
    pub(super) version: U16,
    pub(super) characteristics: u8,
    pub(super) name_length: u8,
    pub(super) icb: LongAllocation,
    pub(super) implementation_use: U16,
}

/// File characteristics (4/14.4.3).
pub(in crate::iso) mod characteristics {
    pub(crate) const HIDDEN: u8 = 1;
    pub(crate) const DIRECTORY: u8 = 1 << 1;
    pub(crate) const DELETED: u8 = 1 << 2;
    pub(crate) const PARENT: u8 = 1 << 3;
}

/// Allocation extent descriptor (4/14.5); allocation descriptors follow.
#[derive(Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct AllocationExtent {
    pub(super) tag: Tag,
    pub(super) previous: U32,
    pub(super) length: U32,
}

/// ICB tag (4/14.6).
#[derive(Debug, Clone, Copy, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct IcbTag {
    pub(super) prior_entries: U32,
    pub(super) strategy: U16,
    pub(super) parameter: [u8; 2],
    pub(super) entries: U16,
    pub(super) reserved: u8,
    pub(super) file_type: u8,
    pub(super) parent: Address,
    pub(super) flags: U16,
}

/// Indirect entry (4/14.7).
#[derive(Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct IndirectEntry {
    pub(super) tag: Tag,
    pub(super) icb_tag: IcbTag,
    pub(super) icb: LongAllocation,
}

/// Common start of the file entry (4/14.9) and the extended file entry (4/14.17).
#[derive(Debug, Clone, Copy, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct EntryHead {
    pub(super) tag: Tag,
    pub(super) icb_tag: IcbTag,
    pub(super) uid: U32,
    pub(super) gid: U32,
    pub(super) permissions: U32,
    pub(super) links: U16,
    pub(super) record: [u8; 6],
    pub(super) information_length: U64,
}

/// Rest of the file entry.
#[derive(Debug, Clone, Copy, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct FileEntryTail {
    pub(super) blocks: U64,
    pub(super) accessed: Stamp,
    pub(super) modified: Stamp,
    pub(super) changed: Stamp,
    pub(super) checkpoint: U32,
    pub(super) attribute_icb: LongAllocation,
    pub(super) implementation: Entity,
    pub(super) unique_id: U64,
    pub(super) attributes_length: U32,
    pub(super) allocations_length: U32,
}

/// Rest of the extended file entry.
#[derive(Debug, Clone, Copy, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct ExtendedEntryTail {
    pub(super) object_size: U64,
    pub(super) blocks: U64,
    pub(super) accessed: Stamp,
    pub(super) modified: Stamp,
    pub(super) created: Stamp,
    pub(super) changed: Stamp,
    pub(super) checkpoint: U32,
    pub(super) reserved: U32,
    pub(super) attribute_icb: LongAllocation,
    pub(super) stream_icb: LongAllocation,
    pub(super) implementation: Entity,
    pub(super) unique_id: U64,
    pub(super) attributes_length: U32,
    pub(super) allocations_length: U32,
}

/// Extended attribute header descriptor (4/14.10.1).
#[derive(Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct AttributeHeader {
    pub(super) tag: Tag,
    pub(super) implementation: U32,
    pub(super) application: U32,
}

/// Common start of extended attributes (4/14.10.2).
#[derive(Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Attribute {
    pub(super) kind: U32,
    pub(super) subtype: u8,
    pub(super) reserved: [u8; 3],
    pub(super) length: U32,
}

/// File types of the ICB tag (4/14.6.6).
pub(in crate::iso) mod file_type {
    pub(crate) const DIRECTORY: u8 = 4;
    pub(crate) const REGULAR: u8 = 5;
    pub(crate) const BLOCK_DEVICE: u8 = 6;
    pub(crate) const CHARACTER_DEVICE: u8 = 7;
    pub(crate) const FIFO: u8 = 9;
    pub(crate) const SOCKET: u8 = 10;
    pub(crate) const SYMLINK: u8 = 12;
}

/// Attribute type of the device specification (4/14.10.7).
pub(in crate::iso) const DEVICE_SPECIFICATION: u32 = 12;

/// Rest of the device specification attribute.
#[derive(Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct DeviceSpecification {
    pub(super) implementation_use: U32,
    pub(super) major: U32,
    pub(super) minor: U32,
}

/// Path component (4/14.16.1); its name follows.
#[derive(Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct PathComponent {
    pub(super) kind: u8,
    pub(super) name_length: u8,
    pub(super) version: U16,
}

/// Returns the structure at the start of `bytes`, and the bytes after it, or `None` if `bytes` is
/// too short.
pub(super) fn read<T: FromBytes + KnownLayout + Immutable + Unaligned>(
    bytes: &[u8],
) -> Option<(&T, &[u8])> {
    T::ref_from_prefix(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_sizes_of_the_standard() {
        assert_eq!(size_of::<PrimaryVolume>(), 200);
        assert_eq!(size_of::<Partition>(), 196);
        assert_eq!(size_of::<LogicalVolume>(), 440);
        assert_eq!(size_of::<Map2>(), 64);
        assert_eq!(size_of::<SparableMap>(), 24);
        assert_eq!(size_of::<MetadataMap>(), 24);
        assert_eq!(size_of::<SparingTable>(), 56);
        assert_eq!(size_of::<Integrity>(), 80);
        assert_eq!(size_of::<FileSet>(), 416);
        assert_eq!(size_of::<FileIdentifier>(), 38);
        assert_eq!(size_of::<AllocationExtent>(), 24);
        assert_eq!(size_of::<IcbTag>(), 20);
        assert_eq!(size_of::<EntryHead>() + size_of::<FileEntryTail>(), 176);
        assert_eq!(size_of::<EntryHead>() + size_of::<ExtendedEntryTail>(), 216);
    }

    #[test]
    fn a_stamp_is_converted_with_its_zone_and_microseconds() {
        // 2024-02-29 13:34:56.789012 +01:00.
        let bytes = [0x3c, 0x10, 0xe8, 0x07, 2, 29, 13, 34, 56, 78, 90, 12];
        let (stamp, _) = read::<Stamp>(&bytes).expect("twelve bytes");
        let timestamp = Timestamp { seconds: 1_709_210_096, nanoseconds: 789_012_000 };
        assert_eq!(stamp.timestamp(), Some(timestamp));
        // An unspecified zone, and -03:00.
        for (zone, hours) in [([0x01, 0x18], 1), ([0x4c, 0x1f], 4)] {
            let mut other = bytes;
            other[..2].copy_from_slice(&zone);
            let (stamp, _) = read::<Stamp>(&other).expect("twelve bytes");
            assert_eq!(stamp.timestamp().map(|m| m.seconds), Some(1_709_210_096 + hours * 3600));
        }
        let (none, _) = read::<Stamp>(&[0; 12]).expect("twelve bytes");
        assert_eq!(none.timestamp(), None);
    }
}
