//! El Torito's boot catalog: entries of 32 bytes, in sections by platform.
//!
//! ```text
//!    0   validation entry   01 platform .. .. identifier(24) checksum 55 aa
//!   32   default entry      88 media segment(2) system .. sectors(2) start(4)
//!   64   section header     90 or, the last, 91; platform, entries(2), identifier(28)
//!   96   section entries    as the default one, and selection criteria(20)
//!        extensions         44 flags criteria(30): as long as bit 5 of flags or media is set
//! ```
//!
//! Specification: El Torito 1.0, 2; UEFI, "ISO-9660 and El Torito". Images in the wild have
//! section entries without a header, headers that count wrong, and no last header.

use super::Platform;
use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::partition::{Oddity, le16, le32, note};
use crate::storage::number::{to_u16, to_u64, to_usize};
use crate::storage::source::Source;
use serde::{Serialize, Serializer};
use std::fmt;

/// Bytes of every entry.
const ENTRY: usize = 32;

/// Entries that are read: a catalog of 64 KiB. Those of real images fit one sector.
const MAX_ENTRIES: usize = 2048;

/// What the boot record calls the system that it is for (El Torito, figure 7), padded with zeros.
const BOOT_SYSTEM: &[u8; 23] = b"EL TORITO SPECIFICATION";

const VALIDATION: u8 = 0x01;
const BOOTABLE: u8 = 0x88;
const HEADER: u8 = 0x90;
const LAST_HEADER: u8 = 0x91;
const EXTENSION: u8 = 0x44;

/// Bit 5: an extension follows (El Torito, figures 5 and 6).
const CONTINUES: u8 = 0x20;

/// Bytes of a sector as a boot catalog counts them: those of an emulated disk.
const VIRTUAL_SECTOR: u64 = 512;

/// What a boot image poses as (El Torito, figure 3). Serialized as the text that it displays as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Media {
    /// It is loaded and started: 0.
    NoEmulation,
    /// A floppy disk of 1.2 MB: 1.
    Floppy1200,
    /// A floppy disk of 1.44 MB: 2.
    Floppy1440,
    /// A floppy disk of 2.88 MB: 3.
    Floppy2880,
    /// A hard disk: 4.
    HardDisk,
    /// Any other number.
    Other(u8),
}

impl Media {
    /// By the low four bits of the media byte.
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

    /// Its number.
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

    /// The floppy disk of that many bytes.
    pub const fn floppy(bytes: u64) -> Option<Self> {
        match bytes {
            1_228_800 => Some(Self::Floppy1200),
            1_474_560 => Some(Self::Floppy1440),
            2_949_120 => Some(Self::Floppy2880),
            _ => None,
        }
    }

    /// Bytes of a floppy disk.
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

/// What a vendor's firmware decides by whether an entry is for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct SelectionCriteria {
    /// What kind they are: 1 is language and version (IBM).
    pub kind: u8,
    /// Nineteen bytes, and thirty of every extension.
    pub bytes: Vec<u8>,
}

/// One thing that can be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct CatalogEntry {
    /// Where the entry is: bytes from the start of the image.
    pub offset: u64,
    /// Which firmware it is for.
    pub platform: Platform,
    /// Whether it may be started.
    pub bootable: bool,
    /// What it poses as.
    pub media: Media,
    /// The segment that a BIOS loads it to; 0 is 0x7C0.
    pub load_segment: u16,
    /// The type of the partition on an emulated hard disk.
    pub system_type: u8,
    /// How many sectors of 512 bytes are loaded; to UEFI, 0 and 1 mean: to the end.
    pub load_sectors: u16,
    /// Where the boot image begins: a sector of 2048 bytes.
    pub start_sector: u32,
    /// Whether the entry belongs to a section that has a header, or is the default one.
    pub in_section: bool,
    /// Who made the section, as its header (of the default entry: the validation entry) says;
    /// without the zeros and blanks behind.
    pub identifier: String,
    /// Vendors' own, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub criteria: Option<SelectionCriteria>,
}

impl CatalogEntry {
    /// Where the boot image begins: bytes from the start of the disc, or of the session's.
    pub fn start(&self) -> u64 {
        u64::from(self.start_sector) * SECTOR
    }

    /// Bytes that the entry tells to load; `None`: all there are.
    pub fn load_bytes(&self) -> Option<u64> {
        let whole = self.platform == Platform::Efi && self.load_sectors < 2;
        (!whole).then(|| u64::from(self.load_sectors) * VIRTUAL_SECTOR)
    }

    /// How long the boot image is. The catalog does not tell: what is loaded is often a first
    /// part, and sixteen bits do not count more than 32 MiB. So, the first of these that is
    /// known: the length of the `file` (or of the partition) that begins at the same place; what
    /// an emulated floppy disk has; what lies up to `next`, the byte where something else begins,
    /// or the image ends; what is loaded.
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

/// What can be started from a disc.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct BootCatalog {
    /// Where the catalog is: bytes from the start of the image.
    pub offset: u64,
    /// Bytes of the catalog, up to the end of its last entry.
    pub len: u64,
    /// What can be started; the first is the default.
    pub entries: Vec<CatalogEntry>,
    /// What is odd about the catalog.
    pub oddities: Vec<Oddity>,
}

impl BootCatalog {
    /// Reads the catalog that begins at that sector of 2048 bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) if there is none: the image ends before,
    /// or something else is there. [`ErrorKind::Io`](crate::ErrorKind::Io) if reading fails.
    pub fn read(source: &dyn Source, sector: u32) -> Result<Self> {
        let offset = u64::from(sector) * SECTOR;
        let mut reader = Reader::new(source, offset);
        let catalog = Self { offset, len: 0, entries: Vec::new(), oddities: Vec::new() };
        let Some(validation) = reader.next()? else {
            let message =
                format!("is said to be at offset {offset}, the image ends at {}", source.len());
            return Err(Error::corrupt("boot catalog", message).at(offset));
        };
        let mut parser = Parser::new(catalog, &validation)?;
        while let Some(entry) = reader.next()? {
            if !parser.take(&entry) {
                break;
            }
        }
        Ok(parser.finish(reader.at))
    }
}

/// Entries, one after the other.
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

    /// The next entry; `None` behind the image's end, or behind as many as are read.
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

/// The section that entries belong to.
struct Section {
    platform: Platform,
    identifier: String,
    has_header: bool,
    /// Entries that are still to come.
    left: u16,
    last: bool,
}

struct Parser {
    catalog: BootCatalog,
    section: Section,
    /// Where the next entry is.
    at: u64,
    /// An extension must follow.
    continues: bool,
    /// Where the catalog ends, if it is known to.
    end: Option<u64>,
}

impl Parser {
    fn new(mut catalog: BootCatalog, validation: &[u8; ENTRY]) -> Result<Self> {
        let at = catalog.offset;
        if validation[0] != VALIDATION || validation[30..] != [0x55, 0xaa] {
            let message = "does not begin with a validation entry";
            return Err(Error::corrupt("boot catalog", message).at(at));
        }
        let sum = checksum(validation);
        if sum != 0 {
            let message = format!("the validation entry's words add up to {sum:#06x} instead of 0");
            note(&mut catalog.oddities, at + 28, message);
        }
        let section = Section {
            platform: Platform::from_number(validation[1]),
            identifier: text(&validation[4..28]),
            has_header: true,
            left: 1,
            last: false,
        };
        Ok(Self { catalog, section, at: at + to_u64(ENTRY), continues: false, end: None })
    }

    fn note(&mut self, message: impl Into<std::borrow::Cow<'static, str>>) {
        note(&mut self.catalog.oddities, self.at, message);
    }

    /// Takes the next entry; false if the catalog ends before it.
    fn take(&mut self, entry: &[u8; ENTRY]) -> bool {
        let goes_on = match entry[0] {
            EXTENSION if !self.catalog.entries.is_empty() => self.extension(entry),
            HEADER | LAST_HEADER => self.header(entry),
            BOOTABLE => self.entry(entry),
            // Not bootable, but there; a default entry that is all zeros is none.
            0 if self.section.left > 0 && entry.iter().any(|&byte| byte != 0) => self.entry(entry),
            _ => {
                self.end(entry);
                false
            }
        };
        if goes_on {
            self.at += to_u64(ENTRY);
        } else {
            self.end = Some(self.at);
        }
        goes_on
    }

    fn end(&mut self, entry: &[u8; ENTRY]) {
        if self.section.left > 0 {
            let message = format!("{} entries of the section are missing", self.section.left);
            self.note(message);
        } else if !self.section.last && self.section.has_header && self.catalog.entries.len() > 1 {
            self.note("the last section is not marked as such");
        }
        // What lies behind a complete catalog is nobody's business.
        if entry[0] != 0 && !self.section.last {
            self.note(format!("an entry of unknown kind {:#04x}", entry[0]));
        }
    }

    fn header(&mut self, entry: &[u8; ENTRY]) -> bool {
        if self.section.last && self.section.left == 0 && self.section.has_header {
            self.note("a section behind the last one");
        }
        if self.section.left > 0 {
            self.note(format!("{} entries of the section are missing", self.section.left));
        }
        self.section = Section {
            platform: Platform::from_number(entry[1]),
            identifier: text(&entry[4..]),
            has_header: true,
            left: le16(entry, 2),
            last: entry[0] == LAST_HEADER,
        };
        self.continues = false;
        true
    }

    fn entry(&mut self, entry: &[u8; ENTRY]) -> bool {
        let default = self.catalog.entries.is_empty();
        if self.continues {
            self.note("the extension of the entry before is missing");
        }
        match self.section.left.checked_sub(1) {
            Some(left) => self.section.left = left,
            None => {
                self.note("an entry that belongs to no section");
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
            identifier: self.section.identifier.clone(),
            criteria,
        });
        true
    }

    fn extension(&mut self, entry: &[u8; ENTRY]) -> bool {
        if !self.continues {
            self.note("an extension that the entry before does not announce");
        }
        self.continues = entry[1] & CONTINUES != 0;
        if let Some(last) = self.catalog.entries.last_mut() {
            let criteria =
                last.criteria.get_or_insert(SelectionCriteria { kind: 0, bytes: Vec::new() });
            criteria.bytes.extend_from_slice(&entry[2..]);
        }
        true
    }

    /// `read`: where reading stopped.
    fn finish(mut self, read: u64) -> BootCatalog {
        let end = self.end.unwrap_or(read);
        if self.end.is_none() {
            self.note("the catalog does not end before the image or 2,048 entries do");
        }
        self.catalog.len = end - self.catalog.offset;
        self.catalog
    }
}

/// The sum of an entry's words; of a right validation entry, 0 (El Torito, 2.1).
fn checksum(entry: &[u8; ENTRY]) -> u16 {
    (0..ENTRY).step_by(2).fold(0, |sum, at| sum.wrapping_add(le16(entry, at)))
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().rposition(|&b| b != 0 && b != b' ').map_or(0, |last| last + 1);
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// An entry of a new catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NewEntry {
    pub(crate) platform: Platform,
    pub(crate) media: Media,
    pub(crate) load_segment: u16,
    pub(crate) system_type: u8,
    pub(crate) load_sectors: u16,
    pub(crate) start_sector: u32,
}

impl NewEntry {
    fn encode(&self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        bytes[0] = BOOTABLE;
        bytes[1] = self.media.number();
        bytes[2..4].copy_from_slice(&self.load_segment.to_le_bytes());
        bytes[4] = self.system_type;
        bytes[6..8].copy_from_slice(&self.load_sectors.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.start_sector.to_le_bytes());
        bytes
    }
}

/// A catalog of these entries, the first of them the default. Neighbours of one platform share
/// a section. Whole sectors; one for up to 31 entries of their own section.
pub(crate) fn encode_catalog(entries: &[NewEntry]) -> Vec<u8> {
    let Some((default, others)) = entries.split_first() else { return Vec::new() };
    let mut validation = [0; ENTRY];
    validation[..2].copy_from_slice(&[VALIDATION, default.platform.number()]);
    validation[30..].copy_from_slice(&[0x55, 0xaa]);
    let sum = checksum(&validation).wrapping_neg();
    validation[28..30].copy_from_slice(&sum.to_le_bytes());

    let mut bytes = [validation, default.encode()].concat();
    let mut sections = others.chunk_by(|a, b| a.platform == b.platform).peekable();
    while let Some(section) = sections.next() {
        let mut header = [0; ENTRY];
        header[0] = if sections.peek().is_some() { HEADER } else { LAST_HEADER };
        header[1] = section[0].platform.number();
        // A plan has far fewer than 65,536.
        header[2..4].copy_from_slice(&to_u16(section.len()).to_le_bytes());
        bytes.extend_from_slice(&header);
        section.iter().for_each(|entry| bytes.extend_from_slice(&entry.encode()));
    }
    bytes.resize(bytes.len().next_multiple_of(to_usize(SECTOR)), 0);
    bytes
}

/// The boot record volume descriptor: a sector (El Torito, figure 7; ECMA-119, 8.2).
pub(crate) fn encode_record(catalog: u32) -> Vec<u8> {
    let mut bytes = vec![0; to_usize(SECTOR)];
    bytes[1..7].copy_from_slice(b"CD001\x01");
    bytes[7..30].copy_from_slice(BOOT_SYSTEM);
    bytes[71..75].copy_from_slice(&catalog.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests;
