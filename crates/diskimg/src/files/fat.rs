//! The directories of FAT12, FAT16 and FAT32.
//!
//! ```text
//!   boot sector │ reserved │ FAT │ FAT copy │ root (FAT12, FAT16) │ cluster 2 │ cluster 3 │ …
//!                            └ one number per cluster: the next cluster of the file
//! ```
//!
//! A directory is a list of entries of 32 bytes. A long name is stored in entries before the file's
//! own, last part first, each with 13 UTF-16 units and a checksum of the short name.
//!
//! Specification: Microsoft, "FAT: General Overview of On-Disk Format" 1.03.

use crate::error::{Error, Result};
use crate::iso::{
    Attributes, Content, Entry, FileTree, FileType, Findings, Listing, MAX_COST_RATIO, Node,
    Timestamp,
};
use crate::storage::number::{to_index, to_u64, to_usize};
use crate::storage::source::Source;
use byteorder::{ByteOrder, LittleEndian};
use std::collections::HashSet;
use std::sync::Arc;

/// Maximum length of a directory in bytes: 65,536 entries.
const MAX_DIRECTORY: u64 = 2 << 20;

/// Maximum length of the part of the root directory in which the label is looked for, in bytes.
const MAX_LABEL_SEARCH: u64 = 64 << 10;

/// Length of a directory entry in bytes.
const ENTRY: usize = 32;

/// The characters of code page 437, in which short names are, from 0x80.
const CP437: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀\
αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// Length of a number in the FAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    Bits12,
    Bits16,
    Bits32,
}

/// A FAT file system.
#[derive(Debug)]
pub(super) struct FatTree {
    source: Arc<dyn Source>,
    width: Width,
    /// Offset of the first FAT in bytes.
    fat: u64,
    /// Offset and length of the root directory of FAT12 and FAT16, in bytes.
    fixed_root: (u64, u64),
    /// First cluster of the root directory of FAT32.
    root_cluster: u32,
    /// Offset of cluster 2 in bytes.
    data: u64,
    cluster_bytes: u64,
    clusters: u32,
    /// Label in the boot sector.
    boot_label: Vec<u8>,
    serial: u32,
}

/// The entries of a directory, with its label.
#[derive(Default)]
struct Directory {
    entries: Vec<Entry>,
    label: Option<String>,
    error: Option<Error>,
    bytes: u64,
}

impl FatTree {
    /// Opens the file system. Returns `None` if there is none.
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) if reading fails.
    pub(super) fn open(source: Arc<dyn Source>) -> Result<Option<Self>> {
        let mut boot = [0; 512];
        if source.len() < 512 {
            return Ok(None);
        }
        let read = source.read_exact_at(&mut boot, 0);
        read.map_err(|e| Error::io("cannot read", e).in_structure("boot sector"))?;
        Ok(Self::parse(source, &boot))
    }

    fn parse(source: Arc<dyn Source>, boot: &[u8; 512]) -> Option<Self> {
        let number = |at| u64::from(LittleEndian::read_u16(&boot[at..]));
        let long = |at| u64::from(LittleEndian::read_u32(&boot[at..]));
        let (sector, per_cluster) = (number(11), u64::from(boot[13]));
        let (reserved, fats, root_entries) = (number(14), u64::from(boot[16]), number(17));
        let sectors = if number(19) > 0 { number(19) } else { long(32) };
        let is_32 = number(22) == 0;
        let fat_sectors = if is_32 { long(36) } else { number(22) };
        let plausible = boot[510..] == [0x55, 0xaa]
            && matches!(boot[0], 0xeb | 0xe9)
            && matches!(sector, 512 | 1024 | 2048 | 4096)
            && per_cluster.is_power_of_two()
            && matches!(boot[21], 0xf0 | 0xf8..)
            && reserved > 0
            && (1..=4).contains(&fats)
            && fat_sectors > 0
            && (root_entries > 0) != is_32;
        if !plausible {
            return None;
        }
        let root = reserved + fats * fat_sectors;
        let root_bytes = root_entries * to_u64(ENTRY);
        let data = root + root_bytes.div_ceil(sector);
        let clusters = sectors.checked_sub(data)? / per_cluster;
        let width = match (is_32, clusters) {
            (_, 0) => return None,
            (true, _) => Width::Bits32,
            (false, ..4085) => Width::Bits12,
            (false, ..65_525) => Width::Bits16,
            (false, _) => return None,
        };
        let extended = if is_32 { 66 } else { 38 };
        let has_label = boot[extended] == 0x29;
        Some(Self {
            source,
            width,
            fat: reserved * sector,
            fixed_root: (root * sector, root_bytes),
            root_cluster: LittleEndian::read_u32(&boot[44..]),
            data: data * sector,
            cluster_bytes: sector * per_cluster,
            clusters: u32::try_from(clusters).ok()?.min(0x0fff_fff5),
            boot_label: if has_label { boot[extended + 5..][..11].to_vec() } else { Vec::new() },
            serial: LittleEndian::read_u32(&boot[extended + 1..]),
        })
    }

    /// Returns the serial number of the volume.
    pub(super) fn serial(&self) -> String {
        format!("{:04X}-{:04X}", self.serial >> 16, self.serial & 0xffff)
    }

    /// Returns the label: that in the first 64 KiB of the root directory or else that in the boot
    /// sector.
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) if reading fails.
    pub(super) fn label(&self) -> Result<Option<String>> {
        let found = self.read(&self.root_node(), MAX_LABEL_SEARCH)?.label;
        let boot = decode(&self.boot_label).trim_end().to_owned();
        Ok(found.or(Some(boot)).filter(|label| !label.is_empty() && label != "NO NAME"))
    }

    fn root_node(&self) -> Node {
        let location = match self.width {
            Width::Bits32 => self.offset(self.root_cluster).unwrap_or_default(),
            _ => self.fixed_root.0,
        };
        directory(location, Attributes::default())
    }

    /// Returns the offset of a cluster in bytes, or `None` if there is no such cluster.
    fn offset(&self, cluster: u32) -> Option<u64> {
        let index = cluster.checked_sub(2).filter(|&index| index < self.clusters)?;
        Some(self.data + u64::from(index) * self.cluster_bytes)
    }

    fn bytes(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; to_usize(len)];
        let read = self.source.read_exact_at(&mut bytes, offset);
        read.map_err(|e| Error::io("cannot read", e).in_structure("FAT").at(offset))?;
        Ok(bytes)
    }

    /// Returns the number of `cluster` in the FAT: the next cluster, or `None` at the end.
    fn next(&self, cluster: u32) -> Result<Option<u32>> {
        let n = u64::from(cluster);
        let (next, end) = match self.width {
            Width::Bits12 => {
                let pair = LittleEndian::read_u16(&self.bytes(self.fat + n + n / 2, 2)?);
                let next = if n % 2 == 0 { pair & 0xfff } else { pair >> 4 };
                (u32::from(next), 0xff8)
            }
            Width::Bits16 => {
                (u32::from(LittleEndian::read_u16(&self.bytes(self.fat + 2 * n, 2)?)), 0xfff8)
            }
            Width::Bits32 => {
                let number = LittleEndian::read_u32(&self.bytes(self.fat + 4 * n, 4)?);
                (number & 0x0fff_ffff, 0x0fff_fff8)
            }
        };
        Ok((next < end).then_some(next))
    }

    /// Reads a directory, up to its end or to the first damage; at most its first `max` bytes.
    fn read(&self, dir: &Node, max: u64) -> Result<Directory> {
        let mut found = Directory::default();
        let mut long = LongName::default();
        if self.width != Width::Bits32 && dir.location == self.fixed_root.0 {
            let (offset, len) = self.fixed_root;
            let len = len.min(max);
            found.bytes = len;
            self.parse_entries(&self.bytes(offset, len)?, offset, &mut long, &mut found);
            return Ok(found);
        }
        let fault = |message: String, offset| Err(Error::corrupt("FAT", message).at(offset));
        let index = dir.location.checked_sub(self.data).map(|from| from / self.cluster_bytes + 2);
        let mut cluster = index.and_then(|index| u32::try_from(index).ok()).unwrap_or(0);
        let mut visited = HashSet::new();
        loop {
            let Some(offset) = self.offset(cluster) else {
                return found.damaged(fault(format!("no cluster {cluster}"), self.fat));
            };
            if !visited.insert(cluster) {
                let message = format!("the clusters of a directory form a loop at {cluster}");
                return found.damaged(fault(message, self.fat));
            }
            found.bytes += self.cluster_bytes;
            if found.bytes > MAX_DIRECTORY.max(self.cluster_bytes) {
                let message = format!("a directory of more than {MAX_DIRECTORY} bytes");
                return found.damaged(fault(message, offset));
            }
            let bytes = match self.bytes(offset, self.cluster_bytes.min(max)) {
                Ok(bytes) => bytes,
                Err(error) => return found.damaged(Err(error)),
            };
            let is_end = self.parse_entries(&bytes, offset, &mut long, &mut found);
            if is_end || found.bytes >= max {
                return Ok(found);
            }
            match self.next(cluster) {
                Ok(Some(next)) => cluster = next,
                Ok(None) => return Ok(found),
                Err(error) => return found.damaged(Err(error)),
            }
        }
    }

    /// Adds the entries in a part of a directory. Returns true if it has the end of the directory.
    fn parse_entries(
        &self,
        bytes: &[u8],
        offset: u64,
        long: &mut LongName,
        found: &mut Directory,
    ) -> bool {
        for (entry, at) in bytes.chunks_exact(ENTRY).zip((offset..).step_by(ENTRY)) {
            match (entry[0], entry[11] & 0x3f) {
                (0, _) => return true,
                (0xe5, _) => *long = LongName::default(),
                (_, 0x0f) => long.add(entry),
                (_, attributes) if attributes & 0x08 != 0 => {
                    let label = decode(&entry[..11]).trim_end().to_owned();
                    found.label.get_or_insert(label);
                    *long = LongName::default();
                }
                _ => {
                    let name = std::mem::take(long).name_of(entry);
                    let name = name.unwrap_or_else(|| short_name(entry));
                    if name != "." && name != ".." {
                        let node = self.node(entry, at);
                        found.entries.push(Entry { name: name.into_bytes(), node });
                    }
                }
            }
        }
        false
    }

    /// Returns the file of an entry at an offset.
    fn node(&self, entry: &[u8], at: u64) -> Node {
        let number = |at: usize| LittleEndian::read_u16(&entry[at..]);
        let attributes = Attributes {
            modified: timestamp(number(24), number(22), 0),
            accessed: timestamp(number(18), 0, 0),
            created: timestamp(number(16), number(14), entry[13]),
            ..Attributes::default()
        };
        if entry[11] & 0x10 != 0 {
            let high = if self.width == Width::Bits32 { number(20) } else { 0 };
            let cluster = u32::from(high) << 16 | u32::from(number(26));
            return directory(self.offset(cluster).unwrap_or_default(), attributes);
        }
        Node {
            file_type: FileType::Regular,
            size: u64::from(LittleEndian::read_u32(&entry[28..])),
            attributes,
            link_target: None,
            content: Content::Unsupported("in a FAT file system, whose files are not read"),
            location: at,
        }
    }
}

impl Directory {
    /// Returns what was read before `error`.
    fn damaged(mut self, error: Result<std::convert::Infallible>) -> Result<Self> {
        self.error = error.err();
        Ok(self)
    }
}

fn directory(location: u64, attributes: Attributes) -> Node {
    Node {
        file_type: FileType::Directory,
        size: 0,
        attributes,
        link_target: None,
        content: Content::Extents(Vec::new()),
        location,
    }
}

impl FileTree for FatTree {
    fn root(&self) -> Result<Node> {
        Ok(self.root_node())
    }

    fn read_dir_reporting(&self, dir: &Node, _: &mut Findings<'_>) -> Result<Listing> {
        let Directory { entries, error, bytes, .. } = self.read(dir, u64::MAX)?;
        // No two directories share clusters, so all together are not longer than the file system.
        Ok(Listing { entries, cost: bytes.saturating_mul(MAX_COST_RATIO), error })
    }
}

/// The parts of a long name that have been read: the name's end first.
#[derive(Default)]
struct LongName {
    units: Vec<u16>,
    checksum: u8,
    /// Number of the part that was read last; 1 when the name is complete.
    part: u8,
}

impl LongName {
    /// Maximum number of parts.
    const MAX_PARTS: u8 = 20;

    fn add(&mut self, entry: &[u8]) {
        let part = entry[0] & 0x3f;
        let continues = entry[0] & 0x40 == 0 && part + 1 == self.part && entry[13] == self.checksum;
        if entry[0] & 0x40 != 0 && (1..=Self::MAX_PARTS).contains(&part) {
            *self = Self { units: Vec::new(), checksum: entry[13], part };
        } else if continues && part > 0 {
            self.part = part;
        } else {
            *self = Self::default();
            return;
        }
        let fields = [&entry[1..11], &entry[14..26], &entry[28..32]];
        let units: Vec<u16> = fields
            .iter()
            .flat_map(|field| field.chunks_exact(2))
            .map(LittleEndian::read_u16)
            .collect();
        self.units.splice(0..0, units);
    }

    /// Returns the long name of a file, if it belongs to the entry.
    fn name_of(self, entry: &[u8]) -> Option<String> {
        let sum = entry[..11].iter().fold(0u8, |sum, &byte| sum.rotate_right(1).wrapping_add(byte));
        let end = self.units.iter().position(|&unit| unit == 0).unwrap_or(self.units.len());
        let name = String::from_utf16_lossy(&self.units[..end]);
        (self.part == 1 && sum == self.checksum && !name.is_empty()).then_some(name)
    }
}

/// Returns the short name, in lower case where Windows NT has recorded that.
fn short_name(entry: &[u8]) -> String {
    let mut bytes = [0; 11];
    bytes.copy_from_slice(&entry[..11]);
    if bytes[0] == 0x05 {
        bytes[0] = 0xe5;
    }
    let part = |range: std::ops::Range<usize>, lower: bool| {
        let text = decode(&bytes[range]);
        let text = text.trim_end_matches(' ');
        if lower { text.to_lowercase() } else { text.to_owned() }
    };
    let (base, extension) = (part(0..8, entry[12] & 0x08 != 0), part(8..11, entry[12] & 0x10 != 0));
    if extension.is_empty() { base } else { format!("{base}.{extension}") }
}

/// Decodes code page 437.
fn decode(bytes: &[u8]) -> String {
    let decode = |&byte: &u8| match byte {
        0x80.. => CP437.chars().nth(to_index(u32::from(byte - 0x80))).unwrap_or('?'),
        _ => char::from(byte),
    };
    bytes.iter().map(decode).collect()
}

/// Decodes a date, a time in units of two seconds, and hundredths of a second up to 199. FAT records
/// local times and no time zone; they are taken as UTC.
fn timestamp(date: u16, time: u16, hundredths: u8) -> Option<Timestamp> {
    let (date, time, hundredths) = (i64::from(date), i64::from(time), u32::from(hundredths));
    let civil = [1980 + (date >> 9), date >> 5 & 15, date & 31];
    let clock = [time >> 11, time >> 5 & 63, (time & 31) * 2 + i64::from(hundredths / 100)];
    Timestamp::from_civil(civil, clock, hundredths % 100 * 10_000_000, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_page_437_has_128_characters_above_ascii() {
        assert_eq!(CP437.chars().count(), 128);
        assert_eq!(decode(&[b'A', 0x80, 0x9a, 0xe1, 0xff]), "AÇÜß\u{a0}");
    }

    #[test]
    fn the_label_is_looked_for_in_the_first_64_kib_of_the_root() {
        let label_at = |index: usize| {
            let mut disk = vec![0; (1 + 32 + 4096 + 5000) * 512];
            disk[..3].copy_from_slice(&[0xeb, 0x3c, 0x90]);
            for (at, value) in [(11, 512), (14, 1), (17, 65_535), (19, 9129), (22, 32)] {
                disk[at..at + 2].copy_from_slice(&u16::to_le_bytes(value));
            }
            for (at, value) in [(13, 1), (16, 1), (21, 0xf8), (38, 0x29), (510, 0x55), (511, 0xaa)]
            {
                disk[at] = value;
            }
            disk[43..54].copy_from_slice(b"BOOT       ");
            let root = &mut disk[33 * 512..][..65_535 * ENTRY];
            root.chunks_mut(ENTRY).for_each(|entry| entry[..11].fill(b'A'));
            root[index * ENTRY..][..12].copy_from_slice(b"ROOT       \x08");
            let source = Arc::new(crate::storage::source::MemorySource::new(disk));
            let tree = FatTree::open(source).expect("reads").expect("is FAT");
            tree.label().expect("reads")
        };
        assert_eq!(label_at(2047).as_deref(), Some("ROOT"));
        assert_eq!(label_at(2048).as_deref(), Some("BOOT"));
    }

    #[test]
    fn short_names_are_decoded() {
        let mut entry = [b' '; 32];
        entry[..11].copy_from_slice(b"\x05BC     TXT");
        entry[12] = 0x10;
        assert_eq!(short_name(&entry), "σBC.txt");
        entry[8..11].copy_from_slice(b"   ");
        assert_eq!(short_name(&entry), "σBC");
    }

    #[test]
    fn times_are_decoded() {
        // 2024-02-29 12:34:57.50
        let date = (44 << 9) | (2 << 5) | 29;
        let time = (12 << 11) | (34 << 5) | 28;
        let wanted = Timestamp { seconds: 1_709_210_097, nanoseconds: 500_000_000 };
        assert_eq!(timestamp(date, time, 150), Some(wanted));
        assert_eq!(timestamp(0, 0, 0), None);
    }

    #[test]
    fn a_long_name_must_be_complete_and_belong_to_its_entry() {
        let short = *b"LONGNA~1TXT";
        let sum = short.iter().fold(0u8, |sum, &byte| sum.rotate_right(1).wrapping_add(byte));
        let part = |number: u8, sum: u8, text: &str| {
            let mut entry = [0xff; 32];
            (entry[0], entry[11], entry[12], entry[13]) = (number, 0x0f, 0, sum);
            let mut units = text.encode_utf16().chain([0]).chain(std::iter::repeat(0xffff));
            for at in (1..11).chain(14..26).chain(28..32).step_by(2).filter(|at| *at != 11) {
                let unit = units.next().expect("endless");
                entry[at..at + 2].copy_from_slice(&unit.to_le_bytes());
            }
            entry
        };
        let name = |parts: &[[u8; 32]]| {
            let mut long = LongName::default();
            parts.iter().for_each(|part| long.add(part));
            let mut entry = [0; 32];
            entry[..11].copy_from_slice(&short);
            long.name_of(&entry)
        };
        assert_eq!(name(&[part(0x41, sum, "é.txt")]).as_deref(), Some("é.txt"));
        assert_eq!(name(&[part(0x41, sum ^ 1, "é.txt")]), None);
        assert_eq!(name(&[part(0x42, sum, "é.txt")]), None, "the first part is missing");
        assert_eq!(name(&[part(0x01, sum, "é.txt")]), None, "the last part is missing");
    }
}
