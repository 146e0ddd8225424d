//! Encoding of file entries (4/14.9), with allocation extents and the contents of symbolic links.

use super::encode::{Encoder, TAG};
use super::names::UdfNames;
use super::{block, unique_id};
use crate::iso::SECTOR;
use crate::iso::time::Timestamp;
use crate::iso::udf::{DEVICE_SPECIFICATION, file_type, id};
use crate::iso::write::identifier::Naming;
use crate::iso::write::tree::Kind;
use crate::storage::number::{to_u8, to_u16, to_u32, to_u64, to_usize};

/// Length of a file entry without its extended attributes and allocation descriptors.
const FIXED: usize = 176;

/// Length of a short allocation descriptor (4/14.14.1).
const SHORT: usize = 8;

/// Length in bytes of all extents of a file but the last: the maximum number of whole blocks whose
/// length fits in 30 bits.
const EXTENT: u64 = (1 << 30) - SECTOR;

/// Type of an extent that contains more allocation descriptors, in the upper bits of its length.
const CONTINUATION: u32 = 3 << 30;

/// Number of allocation descriptors in a file entry without extended attributes, and in an
/// allocation extent (4/14.5), whose own descriptor takes 24 bytes.
const IN_ENTRY: usize = (to_usize(SECTOR) - FIXED) / SHORT;
const IN_EXTENT: usize = (to_usize(SECTOR) - TAG - 8) / SHORT;

/// Attributes that are recorded for a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes {
    /// User and group ID; `u32::MAX` if not specified (UDF, 2.3.6.1).
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The low twelve bits of the POSIX mode.
    pub(super) mode: u32,
    /// Number of names.
    pub(super) links: u16,
    /// Times of modification, access and attribute change.
    pub(super) times: [Timestamp; 3],
}

/// Contents of a file, as recorded in its entry.
#[derive(Debug, Clone, Copy)]
pub(super) enum Contents<'c> {
    /// Bytes that follow each other, from sector `first`.
    Extent { first: u32, len: u64 },
    /// Bytes in the entry itself or, if it has no space, directly after it.
    Inline(&'c [u8]),
    /// None.
    Device { major: u32, minor: u32 },
}

/// A file entry and everything that belongs to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'e> {
    /// First sector.
    pub(super) sector: u32,
    /// File type of the ICB tag.
    pub(super) file_type: u8,
    pub(super) attributes: Attributes,
    pub(super) contents: Contents<'e>,
}

impl Entry<'_> {
    /// Encodes the entry in whole sectors.
    pub(super) fn encode(&self) -> Vec<u8> {
        match self.contents {
            Contents::Extent { first, len } => self.with_extents(first, len),
            Contents::Inline(bytes) if bytes.len() <= to_usize(SECTOR) - FIXED => {
                self.head(EMBEDDED, to_u64(bytes.len()), 0, &[], bytes)
            }
            Contents::Inline(bytes) => {
                let mut sectors = self.with_extents(self.sector + 1, to_u64(bytes.len()));
                sectors.extend_from_slice(bytes);
                sectors.resize(sectors.len().next_multiple_of(to_usize(SECTOR)), 0);
                sectors
            }
            Contents::Device { major, minor } => {
                let attribute = device(self.sector, major, minor);
                self.head(SHORT_DESCRIPTORS, 0, 0, &attribute, &[])
            }
        }
    }

    fn with_extents(&self, first: u32, len: u64) -> Vec<u8> {
        let mut areas = areas(first, len, self.sector).into_iter();
        let blocks = len.div_ceil(SECTOR);
        let own = areas.next().unwrap_or_default();
        let mut sectors = self.head(SHORT_DESCRIPTORS, len, blocks, &[], &own);
        for (area, sector) in areas.zip(self.sector + 1..) {
            let mut extent = Encoder::new();
            extent.u32(0); // no previous allocation extent
            extent.u32(to_u32(area.len()));
            extent.bytes(&area);
            sectors.extend(extent.sector(id::ALLOCATION_EXTENT, block(sector)));
        }
        sectors
    }

    /// Encodes the file entry itself.
    fn head(&self, form: u16, len: u64, blocks: u64, attribute: &[u8], own: &[u8]) -> Vec<u8> {
        let Attributes { uid, gid, mode, links, times } = self.attributes;
        let [modified, accessed, changed] = times;
        let mut entry = Encoder::new();
        // ICB tag (4/14.6): strategy 4, one entry.
        entry.u32(0);
        entry.u16(4);
        entry.u16(0);
        entry.u16(1);
        entry.u8(0);
        entry.u8(self.file_type);
        entry.zeros(6); // no parent ICB
        entry.u16(form | flags(mode));
        entry.u32(uid);
        entry.u32(gid);
        entry.u32(permissions(mode));
        entry.u16(links);
        entry.zeros(6); // no records
        entry.u64(len);
        entry.u64(blocks);
        [accessed, modified, changed].into_iter().for_each(|time| entry.time(time));
        entry.u32(1); // checkpoint
        entry.zeros(16); // no extended attribute ICB
        entry.implementation();
        entry.u64(unique_id(self.sector).into());
        entry.u32(to_u32(attribute.len()));
        entry.u32(to_u32(own.len()));
        debug_assert_eq!(entry.len(), FIXED);
        entry.bytes(attribute);
        entry.bytes(own);
        entry.sector(id::FILE_ENTRY, block(self.sector))
    }
}

/// Forms of the allocation descriptors, in bits 0 to 2 of the ICB flags (4/14.6.8).
const SHORT_DESCRIPTORS: u16 = 0;
const EMBEDDED: u16 = 3;

/// Returns the number of sectors of the entry of a regular file with `len` bytes.
pub(super) fn regular_sectors(len: u64) -> u64 {
    let descriptors = len.div_ceil(EXTENT);
    let in_entry = to_u64(IN_ENTRY);
    if descriptors <= in_entry {
        return 1;
    }
    // The last descriptor of every area but the last refers to the next area.
    let rest = descriptors - (in_entry - 1);
    let whole = to_u64(IN_EXTENT - 1);
    1 + (rest - 1).div_ceil(whole).max(1)
}

/// Returns the number of sectors of the entry of a symbolic link with `len` bytes.
pub(super) fn link_sectors(len: usize) -> u64 {
    match len <= to_usize(SECTOR) - FIXED {
        true => 1,
        false => 1 + to_u64(len).div_ceil(SECTOR),
    }
}

/// Encodes the allocation descriptors for `len` bytes from sector `first`: those in the entry, which
/// is in sector `entry`, then those of each allocation extent, of which the first follows the entry.
fn areas(first: u32, len: u64, entry: u32) -> Vec<Vec<u8>> {
    let mut areas = Vec::new();
    let mut area = Vec::new();
    let mut room = IN_ENTRY;
    let (mut at, mut left) = (block(first), len);
    while left > 0 {
        if area.len() == (room - 1) * SHORT && left > EXTENT {
            let next = block(entry) + 1 + to_u32(areas.len());
            area.extend(short(CONTINUATION | to_u32(SECTOR), next));
            areas.push(std::mem::take(&mut area));
            room = IN_EXTENT;
        }
        let now = left.min(EXTENT);
        area.extend(short(to_u32(now), at));
        left -= now;
        at = at.wrapping_add(to_u32(EXTENT / SECTOR));
    }
    areas.push(area);
    areas
}

fn short(len: u32, block: u32) -> [u8; SHORT] {
    let mut bytes = [0; SHORT];
    bytes[..4].copy_from_slice(&len.to_le_bytes());
    bytes[4..].copy_from_slice(&block.to_le_bytes());
    bytes
}

/// Converts the mode to permissions (4/14.9.5). The permissions to delete a file and to change its
/// attributes are not set.
fn permissions(mode: u32) -> u32 {
    let class = |shift: u32| mode >> shift & 7;
    class(6) << 10 | class(3) << 5 | class(0)
}

/// Converts set-user-ID, set-group-ID and sticky bit to ICB flags (4/14.6.8).
fn flags(mode: u32) -> u16 {
    let special = to_u16(mode >> 9 & 7);
    (special >> 2 | special & 2 | (special & 1) << 2) << 6
}

/// Encodes the extended attributes of a device (4/14.10.1, 4/14.10.7), whose entry is in sector
/// `sector`.
fn device(sector: u32, major: u32, minor: u32) -> Vec<u8> {
    let mut header = Encoder::new();
    // The attributes of implementations and applications would begin here.
    let end = to_u32(TAG + 8 + 24);
    header.u32(end);
    header.u32(end);
    let mut attributes = header.finish(id::ATTRIBUTE_HEADER, block(sector));
    // Type, subtype, length of the attribute, length of its implementation use field, numbers.
    for n in [DEVICE_SPECIFICATION, 1, 24, 0, major, minor] {
        attributes.extend_from_slice(&n.to_le_bytes());
    }
    attributes
}

/// Returns the file type of the ICB tag (4/14.6.6).
pub(super) fn file_type(kind: &Kind) -> u8 {
    match kind {
        Kind::Directory(_) => file_type::DIRECTORY,
        Kind::File(_) => file_type::REGULAR,
        Kind::Symlink(_) => file_type::SYMLINK,
        Kind::Device { block: true, .. } => file_type::BLOCK_DEVICE,
        Kind::Device { block: false, .. } => file_type::CHARACTER_DEVICE,
        Kind::Fifo => file_type::FIFO,
        Kind::Socket => file_type::SOCKET,
    }
}

/// Encodes the target of a symbolic link as path components (4/14.16). Redundant slashes are not
/// recorded. Names are converted like those of files; calls `changed` if that changes one.
pub(super) fn link(target: &[u8], naming: UdfNames, changed: &mut dyn FnMut()) -> Vec<u8> {
    /// Component types (4/14.16.1.1).
    const ROOT: u8 = 2;
    const PARENT: u8 = 3;
    const CURRENT: u8 = 4;
    const NAME: u8 = 5;
    let mut bytes = Vec::new();
    let mut add = |kind: u8, name: &[u8]| {
        bytes.extend_from_slice(&[kind, to_u8(name.len()), 0, 0]);
        bytes.extend_from_slice(name);
    };
    if target.first() == Some(&b'/') {
        add(ROOT, &[]);
    }
    let mut name = Vec::new();
    for part in target.split(|&byte| byte == b'/').filter(|part| !part.is_empty()) {
        match part {
            b".." => add(PARENT, &[]),
            b"." => add(CURRENT, &[]),
            part => {
                name.clear();
                if !naming.make(part, false, None, &mut name) {
                    changed();
                }
                add(NAME, &name);
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iso::write::charset::Charset;

    #[test]
    fn the_mode_is_converted_to_permissions_and_flags() {
        assert_eq!(permissions(0o751), 0b00111_00101_00001);
        assert_eq!(flags(0o4000), 1 << 6);
        assert_eq!(flags(0o2777), 1 << 7);
        assert_eq!(flags(0o1000), 1 << 8);
    }

    #[test]
    fn extents_of_long_files_continue_in_allocation_extents() {
        let capacity = |areas: usize| match areas {
            0 => IN_ENTRY,
            _ => IN_ENTRY - 1 + (areas - 1) * (IN_EXTENT - 1) + IN_EXTENT,
        };
        for extents in 0..3 {
            for more in 0..2 {
                let len = (capacity(extents) + more) as u64 * EXTENT;
                let areas = areas(300, len, 258);
                assert_eq!(areas.len(), 1 + extents + more);
                assert_eq!(regular_sectors(len), areas.len() as u64);
                // All descriptors but those of continuations are adjacent.
                let mut at = u64::from(block(300)) * SECTOR;
                for (index, area) in areas.iter().enumerate() {
                    for descriptor in area.chunks(SHORT) {
                        let [len, block] = [0, 4].map(|i| {
                            u32::from_le_bytes(descriptor[i..i + 4].try_into().expect("four"))
                        });
                        if len >> 30 == 3 {
                            assert_eq!(block, super::block(258) + 1 + index as u32);
                            continue;
                        }
                        assert_eq!(u64::from(block) * SECTOR, at);
                        at += u64::from(len);
                    }
                }
                assert_eq!(at, u64::from(block(300)) * SECTOR + len);
            }
        }
        assert_eq!((regular_sectors(0), areas(0, 0, 258)), (1, vec![vec![]]));
    }

    #[test]
    fn a_link_has_a_component_for_each_part() {
        let naming = UdfNames { charset: Charset::UTF_8 };
        let exact =
            |target: &str| link(target.as_bytes(), naming, &mut || panic!("{target} changed"));
        assert_eq!(exact("../a//./"), b"\x03\0\0\0\x05\x02\0\0\x08a\x04\0\0\0");
        assert_eq!(exact("é/名"), b"\x05\x02\0\0\x08\xe9\x05\x03\0\0\x10\x54\x0d");
        assert_eq!(exact("/usr"), b"\x02\0\0\0\x05\x04\0\0\x08usr");
        let mut changes = 0;
        let cut = link(&[b'x'; 255], naming, &mut || changes += 1);
        assert_eq!((cut.len(), changes), (4 + 1 + 254, 1));
    }
}
