//! The El Torito boot catalog: entries of 32 bytes, in sections by platform.
//!
//! ```text
//!    0   validation entry   01 platform .. .. identifier(24) checksum 55 aa
//!   32   default entry      88 media segment(2) system .. sectors(2) start(4)
//!   64   section header     90 (the last one 91) platform entries(2) identifier(28)
//!   96   section entries    like the default entry, with selection criteria(20)
//!        extensions         44 flags criteria(30); present while bit 5 of media or flags is set
//! ```
//!
//! Specification: El Torito 1.0, 2; UEFI, "ISO-9660 and El Torito". Some real images have section
//! entries without a header, section headers with wrong counts, or no final header.

use super::Platform;
use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::partition::{Oddity, le16, le32, note};
use crate::storage::number::{to_u16, to_u64, to_usize};
use crate::storage::source::Source;
use serde::{Serialize, Serializer};
use std::fmt;

/// Length of an entry in bytes.
const ENTRY: usize = 32;

/// Maximum number of entries that are read: 64 KiB. Real catalogs fit in one sector.
const MAX_ENTRIES: usize = 2048;

/// Boot system identifier in the boot record (El Torito, figure 7); padded with zeros.
const BOOT_SYSTEM: &[u8; 23] = b"EL TORITO SPECIFICATION";

const VALIDATION: u8 = 0x01;
const BOOTABLE: u8 = 0x88;
const HEADER: u8 = 0x90;
const LAST_HEADER: u8 = 0x91;
const EXTENSION: u8 = 0x44;

/// Bit 5: an extension follows (El Torito, figures 5 and 6).
const CONTINUES: u8 = 0x20;

/// Length in bytes of a virtual sector, which the sector count of an entry refers to.
const VIRTUAL_SECTOR: u64 = 512;

/// Boot media type: the disk that a boot image is emulated as (El Torito, figure 3). Serialized as
/// its `Display` text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Media {
    /// No emulation; the image is loaded and executed: 0.
    NoEmulation,
    /// 1.2 MB floppy disk: 1.
    Floppy1200,
    /// 1.44 MB floppy disk: 2.
    Floppy1440,
    /// 2.88 MB floppy disk: 3.
    Floppy2880,
    /// Hard disk: 4.
    HardDisk,
    /// Any other number.
    Other(u8),
}

impl Media {
    /// Creates a media type from the low four bits of the media byte.
    pub const fn from_number(number: u8) -> Self {
        match number & 0x0f {
            0 => Self::NoEmulation,
            1 => Self::Floppy1200,
            2 => Self::Floppy1440,
            3 => Self::Floppy2880,
            4 => Self::HardDisk,
            other => Self::Other(other),
        }
    }

    /// Returns the number of the media type.
    pub const fn number(self) -> u8 {
        match self {
            Self::NoEmulation => 0,
            Self::Floppy1200 => 1,
            Self::Floppy1440 => 2,
            Self::Floppy2880 => 3,
            Self::HardDisk => 4,
            Self::Other(number) => number,
        }
    }

    /// Returns the floppy disk type with a capacity of `bytes` bytes.
    pub const fn floppy(bytes: u64) -> Option<Self> {
        match bytes {
            1_228_800 => Some(Self::Floppy1200),
            1_474_560 => Some(Self::Floppy1440),
            2_949_120 => Some(Self::Floppy2880),
            _ => None,
        }
    }

    /// Returns the capacity of a floppy disk in bytes.
    pub const fn floppy_bytes(self) -> Option<u64> {
        match self {
            Self::Floppy1200 => Some(1_228_800),
            Self::Floppy1440 => Some(1_474_560),
            Self::Floppy2880 => Some(2_949_120),
            _ => None,
        }
    }
}

impl fmt::Display for Media {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoEmulation => "none",
            Self::Floppy1200 => "floppy-1.2",
            Self::Floppy1440 => "floppy-1.44",
            Self::Floppy2880 => "floppy-2.88",
            Self::HardDisk => "hard-disk",
            Self::Other(number) => return write!(f, "{number}"),
        })
    }
}

impl Serialize for Media {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Vendor-specific selection criteria of a section entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct SelectionCriteria {
    /// Selection criteria type: 1 is language and version (IBM).
    pub kind: u8,
    /// Nineteen bytes from the entry, and thirty from each extension.
    pub bytes: Vec<u8>,
}

impl SelectionCriteria {
    /// Returns type and bytes, as they are recorded.
    pub(crate) fn encoded(&self) -> impl Iterator<Item = u8> {
        std::iter::once(self.kind).chain(self.bytes.iter().copied())
    }
}

/// A boot entry: the default entry or a section entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct CatalogEntry {
    /// Byte offset of the entry in the image.
    pub offset: u64,
    /// Platform of the section.
    pub platform: Platform,
    /// Boot indicator.
    pub bootable: bool,
    /// Boot media type.
    pub media: Media,
    /// Segment that a BIOS loads the image to; 0 means 0x7C0.
    pub load_segment: u16,
    /// Partition type of an emulated hard disk.
    pub system_type: u8,
    /// Number of 512-byte sectors to load. For UEFI, 0 and 1 mean the whole image.
    pub load_sectors: u16,
    /// First sector of the boot image, in sectors of 2048 bytes.
    pub start_sector: u32,
    /// True for the default entry and for entries of a section with a header.
    pub in_section: bool,
    /// Identifier in the section header (for the default entry, in the validation entry), without
    /// trailing zeros and spaces.
    pub identifier: String,
    /// Selection criteria, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub criteria: Option<SelectionCriteria>,
    /// True if a section header directly precedes the entry.
    #[serde(skip)]
    pub(crate) begins_section: bool,
}

impl CatalogEntry {
    /// Returns the byte offset of the boot image on the disc.
    pub fn start(&self) -> u64 {
        u64::from(self.start_sector) * SECTOR
    }

    /// Returns the number of bytes to load, or `None` for the whole image.
    pub fn load_bytes(&self) -> Option<u64> {
        let whole = self.platform == Platform::Efi && self.load_sectors < 2;
        (!whole).then(|| u64::from(self.load_sectors) * VIRTUAL_SECTOR)
    }

    /// Returns the length of the boot image in bytes. The catalog does not contain it: often only a
    /// first part is loaded, and the 16-bit sector count is limited to 32 MiB. This is the first of
    /// the following that is known:
    ///
    /// 1. `file`, the length of the file or partition that starts at the same offset.
    /// 2. The capacity of the emulated floppy disk, but not beyond `next`.
    /// 3. The distance to `next`, the byte offset of the next file, or of the end of the image.
    /// 4. The number of bytes to load.
    pub fn image_bytes(&self, file: Option<u64>, next: Option<u64>) -> u64 {
        let gap = next.and_then(|next| next.checked_sub(self.start()));
        let floppy = self.media.floppy_bytes();
        let loaded = self.load_bytes().unwrap_or(0);
        match (file, floppy, gap) {
            (Some(file), ..) => file,
            (None, Some(floppy), Some(gap)) => floppy.min(gap),
            (None, Some(floppy), None) => floppy,
            (None, None, Some(gap)) => gap,
            (None, None, None) => loaded,
        }
    }
}

/// A boot catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct BootCatalog {
    /// Byte offset of the catalog in the image.
    pub offset: u64,
    /// Length of the catalog in bytes, up to the end of its last entry.
    pub len: u64,
    /// Boot entries. The first one is the default entry.
    pub entries: Vec<CatalogEntry>,
    /// Violations of the specification.
    pub oddities: Vec<Oddity>,
}

impl BootCatalog {
    /// Reads the catalog at `sector`, a sector of 2048 bytes.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) if `sector` is beyond the end of
    /// the image or has no validation entry, [`ErrorKind::Io`](crate::ErrorKind::Io) if reading
    /// fails.
    pub fn read(source: &dyn Source, sector: u32) -> Result<Self> {
        let offset = u64::from(sector) * SECTOR;
        let mut reader = Reader::new(source, offset);
        let catalog = Self { offset, len: 0, entries: Vec::new(), oddities: Vec::new() };
        let Some(validation) = reader.next()? else {
            let message =
                format!("its offset {offset} is beyond the end of the image at {}", source.len());
            return Err(Error::corrupt("boot catalog", message).at(offset));
        };
        let mut parser = Parser::new(catalog, &validation)?;
        while let Some(entry) = reader.next()? {
            if !parser.add(&entry) {
                break;
            }
        }
        Ok(parser.finish(reader.at))
    }
}

/// Reads the entries in order.
struct Reader<'a> {
    source: &'a dyn Source,
    start: u64,
    at: u64,
    sector: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn new(source: &'a dyn Source, start: u64) -> Self {
        Self { source, start, at: start, sector: Vec::new() }
    }

    /// Returns the next entry, or `None` at the end of the image or after [`MAX_ENTRIES`].
    fn next(&mut self) -> Result<Option<[u8; ENTRY]>> {
        let inside = self.at - self.start;
        if inside >= to_u64(MAX_ENTRIES * ENTRY) {
            return Ok(None);
        }
        let within = to_usize(inside % SECTOR);
        if within == 0 {
            let left = self.source.len().saturating_sub(self.at);
            self.sector.resize(to_usize(left.min(SECTOR)), 0);
            self.source.read_exact_at(&mut self.sector, self.at).map_err(|e| {
                Error::io("cannot read", e).in_structure("boot catalog").at(self.at)
            })?;
        }
        let entry = self.sector.get(within..).and_then(|rest| rest.first_chunk::<ENTRY>());
        self.at += entry.map_or(0, |_| to_u64(ENTRY));
        Ok(entry.copied())
    }
}

/// The current section.
struct Section {
    platform: Platform,
    identifier: String,
    has_header: bool,
    /// True until the first entry.
    is_new: bool,
    /// Number of entries that must follow.
    left: u16,
    last: bool,
}

struct Parser {
    catalog: BootCatalog,
    section: Section,
    /// Byte offset of the next entry.
    at: u64,
    /// An extension must follow.
    continues: bool,
    /// Byte offset of the end of the catalog, once found.
    end: Option<u64>,
}

impl Parser {
    fn new(mut catalog: BootCatalog, validation: &[u8; ENTRY]) -> Result<Self> {
        let at = catalog.offset;
        if validation[0] != VALIDATION || validation[30..] != [0x55, 0xaa] {
            let message = "it does not start with a validation entry";
            return Err(Error::corrupt("boot catalog", message).at(at));
        }
        let sum = checksum(validation);
        if sum != 0 {
            let message = format!("the checksum of the validation entry is {sum:#06x}; expected 0");
            note(&mut catalog.oddities, at + 28, message);
        }
        let section = Section {
            platform: Platform::from_number(validation[1]),
            identifier: text(&validation[4..28]),
            has_header: true,
            is_new: true,
            left: 1,
            last: false,
        };
        Ok(Self { catalog, section, at: at + to_u64(ENTRY), continues: false, end: None })
    }

    fn note(&mut self, message: impl Into<std::borrow::Cow<'static, str>>) {
        note(&mut self.catalog.oddities, self.at, message);
    }

    /// Parses the next entry. Returns false if the catalog ends before it.
    fn add(&mut self, entry: &[u8; ENTRY]) -> bool {
        let is_part = match entry[0] {
            EXTENSION if !self.catalog.entries.is_empty() => self.extension(entry),
            HEADER | LAST_HEADER => self.header(entry),
            BOOTABLE => self.entry(entry),
            // An entry that is not bootable. An entry of zeros ends the catalog.
            0 if self.section.left > 0 && entry.iter().any(|&byte| byte != 0) => self.entry(entry),
            _ => {
                self.end(entry);
                false
            }
        };
        if is_part {
            self.at += to_u64(ENTRY);
        } else {
            self.end = Some(self.at);
        }
        is_part
    }

    fn end(&mut self, entry: &[u8; ENTRY]) {
        if self.section.left > 0 {
            let message = format!("{} entries of the section are missing", self.section.left);
            self.note(message);
        } else if !self.section.last && self.section.has_header && self.catalog.entries.len() > 1 {
            self.note("the last section header is not marked as the last one");
        }
        // Data after a complete catalog is not part of it.
        if entry[0] != 0 && !self.section.last {
            self.note(format!("unknown header ID {:#04x}", entry[0]));
        }
    }

    fn header(&mut self, entry: &[u8; ENTRY]) -> bool {
        if self.section.last && self.section.left == 0 && self.section.has_header {
            self.note("a section header follows the last section");
        }
        if self.section.left > 0 {
            self.note(format!("{} entries of the section are missing", self.section.left));
        }
        self.section = Section {
            platform: Platform::from_number(entry[1]),
            identifier: text(&entry[4..]),
            has_header: true,
            is_new: true,
            left: le16(entry, 2),
            last: entry[0] == LAST_HEADER,
        };
        self.continues = false;
        true
    }

    fn entry(&mut self, entry: &[u8; ENTRY]) -> bool {
        let default = self.catalog.entries.is_empty();
        if self.continues {
            self.note("the extension of the previous entry is missing");
        }
        match self.section.left.checked_sub(1) {
            Some(left) => self.section.left = left,
            None => {
                self.note("a section entry without a section header");
                self.section.has_header = false;
            }
        }
        self.continues = !default && entry[1] & CONTINUES != 0;
        let criteria = &entry[12..];
        let criteria = (!default && criteria.iter().any(|&byte| byte != 0))
            .then(|| SelectionCriteria { kind: criteria[0], bytes: criteria[1..].to_vec() });
        self.catalog.entries.push(CatalogEntry {
            offset: self.at,
            platform: self.section.platform,
            bootable: entry[0] == BOOTABLE,
            media: Media::from_number(entry[1]),
            load_segment: le16(entry, 2),
            system_type: entry[4],
            load_sectors: le16(entry, 6),
            start_sector: le32(entry, 8),
            in_section: self.section.has_header,
            begins_section: !default && std::mem::take(&mut self.section.is_new),
            identifier: self.section.identifier.clone(),
            criteria,
        });
        true
    }

    fn extension(&mut self, entry: &[u8; ENTRY]) -> bool {
        if !self.continues {
            self.note("unexpected extension: bit 5 is not set in the previous entry");
        }
        self.continues = entry[1] & CONTINUES != 0;
        if let Some(last) = self.catalog.entries.last_mut() {
            let criteria =
                last.criteria.get_or_insert(SelectionCriteria { kind: 0, bytes: Vec::new() });
            criteria.bytes.extend_from_slice(&entry[2..]);
        }
        true
    }

    /// Completes the catalog. `read_end` is the byte offset up to which entries were read.
    fn finish(mut self, read_end: u64) -> BootCatalog {
        let end = self.end.unwrap_or(read_end);
        if self.end.is_none() {
            self.note(format!(
                "the catalog has no end within the image or its first {MAX_ENTRIES} entries"
            ));
        }
        self.catalog.len = end - self.catalog.offset;
        self.catalog
    }
}

/// Returns the sum of the 16-bit words of an entry, which is 0 for a valid validation entry (El
/// Torito, 2.1).
fn checksum(entry: &[u8; ENTRY]) -> u16 {
    (0..ENTRY).step_by(2).fold(0, |sum, at| sum.wrapping_add(le16(entry, at)))
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().rposition(|&b| b != 0 && b != b' ').map_or(0, |last| last + 1);
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// An entry of a new catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewEntry {
    pub(crate) platform: Platform,
    pub(crate) bootable: bool,
    pub(crate) media: Media,
    pub(crate) load_segment: u16,
    pub(crate) system_type: u8,
    pub(crate) load_sectors: u16,
    pub(crate) start_sector: u32,
    /// Begin a section, even if the platform and the identifier are those of the entry before.
    pub(crate) new_section: bool,
    /// Identifier of the catalog or section; longer ones are truncated.
    pub(crate) identifier: Vec<u8>,
    /// Type and bytes of the selection criteria. Bytes after the twentieth are in extensions.
    pub(crate) criteria: Vec<u8>,
}

impl NewEntry {
    fn encode(&self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        bytes[0] = if self.bootable { BOOTABLE } else { 0 };
        bytes[1] = self.media.number();
        bytes[2..4].copy_from_slice(&self.load_segment.to_le_bytes());
        bytes[4] = self.system_type;
        bytes[6..8].copy_from_slice(&self.load_sectors.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.start_sector.to_le_bytes());
        bytes
    }

    /// Encodes a section entry with its selection criteria.
    fn encode_section_entry(&self, bytes: &mut Vec<u8>) {
        let mut entry = self.encode();
        let (first, rest) = self.criteria.split_at(self.criteria.len().min(ENTRY - 12));
        entry[12..][..first.len()].copy_from_slice(first);
        if !rest.is_empty() {
            entry[1] |= CONTINUES;
        }
        bytes.extend_from_slice(&entry);
        let mut chunks = rest.chunks(ENTRY - 2).peekable();
        while let Some(chunk) = chunks.next() {
            let mut extension = [0; ENTRY];
            extension[0] = EXTENSION;
            extension[1] = if chunks.peek().is_some() { CONTINUES } else { 0 };
            extension[2..][..chunk.len()].copy_from_slice(chunk);
            bytes.extend_from_slice(&extension);
        }
    }
}

/// Copies as much of `text` as fits.
fn put(field: &mut [u8], text: &[u8]) {
    let len = text.len().min(field.len());
    field[..len].copy_from_slice(&text[..len]);
}

/// Encodes a catalog of these entries, the first of which is the default entry. Consecutive entries
/// of one platform and one identifier share a section. The result is padded to whole sectors.
pub(crate) fn encode_catalog(entries: &[NewEntry]) -> Vec<u8> {
    let Some((default, others)) = entries.split_first() else { return Vec::new() };
    let mut validation = [0; ENTRY];
    validation[..2].copy_from_slice(&[VALIDATION, default.platform.number()]);
    put(&mut validation[4..28], &default.identifier);
    validation[30..].copy_from_slice(&[0x55, 0xaa]);
    let sum = checksum(&validation).wrapping_neg();
    validation[28..30].copy_from_slice(&sum.to_le_bytes());

    let mut bytes = [validation, default.encode()].concat();
    let same = |a: &NewEntry, b: &NewEntry| {
        !b.new_section
            && a.platform == b.platform
            && (b.identifier.is_empty() || a.identifier == b.identifier)
    };
    let mut sections = others.chunk_by(same).peekable();
    while let Some(section) = sections.next() {
        let mut header = [0; ENTRY];
        header[0] = if sections.peek().is_some() { HEADER } else { LAST_HEADER };
        header[1] = section[0].platform.number();
        // There are far fewer than 65,536 entries.
        header[2..4].copy_from_slice(&to_u16(section.len()).to_le_bytes());
        put(&mut header[4..], &section[0].identifier);
        bytes.extend_from_slice(&header);
        section.iter().for_each(|entry| entry.encode_section_entry(&mut bytes));
    }
    bytes.resize(bytes.len().next_multiple_of(to_usize(SECTOR)), 0);
    bytes
}

/// Encodes the boot record volume descriptor, which is one sector long (El Torito, figure 7;
/// ECMA-119, 8.2).
pub(crate) fn encode_record(catalog: u32) -> Vec<u8> {
    let mut bytes = vec![0; to_usize(SECTOR)];
    bytes[1..7].copy_from_slice(b"CD001\x01");
    bytes[7..30].copy_from_slice(BOOT_SYSTEM);
    bytes[71..75].copy_from_slice(&catalog.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests;
