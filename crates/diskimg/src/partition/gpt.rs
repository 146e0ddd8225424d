//! The GUID partition table: a header and an array of entries, at both ends of a disk.
//!
//! ```text
//!   sector 0  protective MBR
//!          1  header     "EFI PART" revision(4) size(4) CRC(4) 0(4) own LBA(8) backup LBA(8)
//!                        first usable(8) last usable(8) disk GUID(16)
//!                        entries LBA(8) count(4) size(4) CRC(4)
//!          2  entries    type GUID(16) own GUID(16) first(8) last(8) attributes(8) name(72)
//!        ...
//!         -n  backup of the entries
//!         -1  backup header: own LBA and backup LBA exchanged, another entries LBA
//! ```
//!
//! Specification: UEFI, "GUID Partition Table (GPT) Disk Layout". Sectors have
//! 512 bytes, unless a caller says otherwise.

mod relocate;

pub(crate) use relocate::{Piece, relocate};

use super::{Oddity, le16, le32, le64, note};
use crate::error::{Error, Result};
use crate::storage::number::{to_index, to_u32, to_u64, to_usize};
use crate::storage::source::Source;
use crc32fast::hash as crc32;
use serde::{Serialize, Serializer};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// Sector size in bytes.
pub(crate) const SECTOR: u64 = 512;

const SIGNATURE: &[u8; 8] = b"EFI PART";

/// Length of the header in bytes.
const HEADER: usize = 92;

/// Minimum length of an entry in bytes.
const ENTRY: usize = 128;

/// Number of entries of a new table: the minimum of the UEFI specification.
const NEW_ENTRIES: u32 = 128;

/// Maximum length in bytes of the entries that are read: 8,192 entries of the usual size.
const MAX_ARRAY: u64 = 1 << 20;

/// A GUID in on-disk byte order, in which the first three numbers are little-endian. Displayed and
/// serialized in the notation of the UEFI specification.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// Type of an EFI system partition: C12A7328-F81F-11D2-BA4B-00A0C93EC93B.
    pub const EFI_SYSTEM: Self = Self([
        0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9,
        0x3b,
    ]);

    /// Type of a basic data partition: EBD0A0A2-B9E5-4433-87C0-68B6B72699C7.
    pub const BASIC_DATA: Self = Self([
        0xa2, 0xa0, 0xd0, 0xeb, 0xe5, 0xb9, 0x33, 0x44, 0x87, 0xc0, 0x68, 0xb6, 0xb7, 0x26, 0x99,
        0xc7,
    ]);

    /// Type of a partition with an HFS or HFS+ file system: 48465300-0000-11AA-AA11-00306543ECAC.
    pub const APPLE_HFS: Self = Self([
        0x00, 0x53, 0x46, 0x48, 0x00, 0x00, 0xaa, 0x11, 0xaa, 0x11, 0x00, 0x30, 0x65, 0x43, 0xec,
        0xac,
    ]);

    /// Type of an unused entry.
    const ZERO: Self = Self([0; 16]);

    /// Creates a GUID from a digest, marked as version 8 (custom, RFC 9562).
    pub(crate) fn from_digest(mut bytes: [u8; 16]) -> Self {
        bytes[7] = bytes[7] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    fn at(bytes: &[u8], at: usize) -> Self {
        let mut guid = [0; 16];
        guid.copy_from_slice(&bytes[at..at + 16]);
        Self(guid)
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = &self.0;
        let [a, b, c] = [le32(bytes, 0), le16(bytes, 4).into(), le16(bytes, 6).into()];
        write!(f, "{a:08X}-{b:04X}-{c:04X}-{:02X}{:02X}-", bytes[8], bytes[9])?;
        bytes[10..].iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

impl FromStr for Guid {
    type Err = Error;

    /// Parses the notation of the UEFI specification, or 32 hexadecimal digits in on-disk byte
    /// order.
    fn from_str(text: &str) -> Result<Self> {
        let invalid = || {
            Error::invalid(format!("'{text}' is not a GUID"))
                .hint("a GUID is such as C12A7328-F81F-11D2-BA4B-00A0C93EC93B")
        };
        let parts: Vec<_> = text.split('-').collect();
        let dashed = parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12]);
        let digits = parts.concat();
        if !(dashed || parts.len() == 1) || digits.len() != 32 {
            return Err(invalid());
        }
        let number = u128::from_str_radix(&digits, 16).map_err(|_| invalid())?;
        if digits.starts_with('+') {
            return Err(invalid());
        }
        let mut bytes = number.to_be_bytes();
        if dashed {
            for part in [0..4, 4..6, 6..8] {
                bytes[part].reverse();
            }
        }
        Ok(Self(bytes))
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Guid {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A partition of a GPT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct GptPartition {
    /// Number in the table, counted from 1.
    pub number: u32,
    /// Type.
    pub kind: Guid,
    /// Unique identifier.
    pub id: Guid,
    /// First sector, in sectors of 512 bytes.
    pub first_sector: u64,
    /// Last sector (inclusive), in sectors of 512 bytes.
    pub last_sector: u64,
    /// Attributes. Bit 0: required by the platform; bit 2: bootable by a legacy BIOS; bit 60:
    /// read-only.
    pub attributes: u64,
    /// Name.
    pub name: String,
}

/// A GUID partition table, read from its primary or its backup copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Gpt {
    /// Unique identifier of the disk.
    pub disk_id: Guid,
    /// First sector that a partition may use.
    pub first_usable: u64,
    /// Last sector that a partition may use.
    pub last_usable: u64,
    /// True if the primary header (in sector 1) and its entries are valid.
    pub primary_valid: bool,
    /// True if the backup header (at the end of the disk) and its entries are valid.
    pub backup_valid: bool,
    /// First sector of the primary copy's entries, in sectors of 512 bytes; 2 without a primary
    /// copy.
    pub entries_sector: u64,
    /// Number of entries, used or not.
    pub entry_count: u32,
    /// Partitions.
    pub partitions: Vec<GptPartition>,
}

impl Gpt {
    /// Returns where a copy of this table with the same number of entries is placed on a disk.
    pub(crate) fn placement(&self) -> Placement {
        let limit = to_u32(MAX_ARRAY / to_u64(ENTRY));
        Placement {
            entries_at: self.entries_sector.max(2),
            count: self.entry_count.clamp(1, limit),
            reserved: self.first_usable,
        }
    }
}

/// A parsed header.
struct Header {
    /// Sector from which it was read.
    at: u64,
    /// Length of a sector in bytes.
    unit: u64,
    own: u64,
    other: u64,
    first_usable: u64,
    last_usable: u64,
    disk_id: Guid,
    entries_at: u64,
    count: u32,
    size: u32,
    array_crc: u32,
    valid: bool,
}

impl Gpt {
    /// Reads both copies. Returns `None` if there is neither a primary nor a backup header.
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) if reading fails.
    pub(crate) fn read(source: &dyn Source, oddities: &mut Vec<Oddity>) -> Result<Option<Self>> {
        Self::read_sectors(source, SECTOR, oddities)
    }

    /// Like [`read`](Self::read), on a disk with sectors of `unit` bytes: all sector numbers of the
    /// table count those.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn read_sectors(
        source: &dyn Source,
        unit: u64,
        oddities: &mut Vec<Oddity>,
    ) -> Result<Option<Self>> {
        let sectors = source.len() / unit;
        let primary = Header::read(source, 1, unit, oddities)?;
        let backup_at = primary.as_ref().map(|primary| primary.other);
        let backup_at = backup_at.filter(|&at| at > 1).unwrap_or(sectors.saturating_sub(1));
        let backup = match backup_at {
            2.. => Header::read(source, backup_at, unit, oddities)?,
            _ => None,
        };
        match (&primary, &backup) {
            (None, None) => return Ok(None),
            (Some(_), None) => {
                let at = backup_at.saturating_mul(unit);
                note(oddities, at, "GPT: no backup header where the primary header says");
            }
            (None, Some(_)) => note(oddities, unit, "GPT: no primary header, only a backup"),
            (Some(_), Some(_)) if backup_at != sectors - 1 => {
                note(
                    oddities,
                    backup_at * unit,
                    "GPT: the backup header is not in the last sector",
                );
            }
            (Some(_), Some(_)) => {}
        }
        let (mut primary, mut backup) = (primary, backup);
        let first = primary.as_mut().map(|header| header.partitions(source, oddities));
        let second = backup.as_mut().map(|header| header.partitions(source, oddities));
        let (first, second) = (first.transpose()?, second.transpose()?);
        if let (Some(first), Some(second)) = (&first, &second)
            && first != second
        {
            note(oddities, backup_at * unit, "GPT: primary and backup entries differ");
        }
        let primary_valid = primary.as_ref().is_some_and(|header| header.valid);
        let backup_valid = backup.as_ref().is_some_and(|header| header.valid);
        // Prefer the first valid copy, or else the first copy.
        let first = primary.zip(first).filter(|_| primary_valid || !backup_valid);
        let Some((header, partitions)) = first.or(backup.zip(second)) else { return Ok(None) };
        check_ranges(&header, &partitions, oddities);
        let entries_sector = if header.at == 1 { header.entries_at } else { 2 };
        Ok(Some(Self {
            disk_id: header.disk_id,
            first_usable: header.first_usable,
            last_usable: header.last_usable,
            primary_valid,
            backup_valid,
            entries_sector,
            entry_count: header.count,
            partitions,
        }))
    }
}

/// Checks that partitions do not overlap and are within the usable sectors.
fn check_ranges(header: &Header, partitions: &[GptPartition], oddities: &mut Vec<Oddity>) {
    let at = header.at * header.unit;
    for partition in partitions {
        let number = partition.number;
        let GptPartition { first_sector: first, last_sector: last, .. } = *partition;
        if first > last {
            note(oddities, at, format!("GPT partition {number} ends before it starts"));
        } else if first < header.first_usable || last > header.last_usable {
            let message = format!(
                "GPT partition {number}, sectors {first} to {last}, exceeds the usable {} to {}",
                header.first_usable, header.last_usable
            );
            note(oddities, at, message);
        }
    }
    let mut sorted: Vec<_> = partitions.iter().collect();
    sorted.sort_by_key(|partition| partition.first_sector);
    for pair in sorted.windows(2) {
        if pair[1].first_sector <= pair[0].last_sector {
            let message =
                format!("GPT partitions {} and {} overlap", pair[0].number, pair[1].number);
            note(oddities, at, message);
        }
    }
}

impl Header {
    /// Reads the header in sector `at`. Returns `None` if there is none or the disk is too short.
    fn read(
        source: &dyn Source,
        at: u64,
        unit: u64,
        oddities: &mut Vec<Oddity>,
    ) -> Result<Option<Self>> {
        let Some(offset) = at.checked_mul(unit) else { return Ok(None) };
        let Some(bytes) = read(source, offset, SECTOR)? else { return Ok(None) };
        if !bytes.starts_with(SIGNATURE) {
            return Ok(None);
        }
        let mut header = Self {
            at,
            unit,
            own: le64(&bytes, 24),
            other: le64(&bytes, 32),
            first_usable: le64(&bytes, 40),
            last_usable: le64(&bytes, 48),
            disk_id: Guid::at(&bytes, 56),
            entries_at: le64(&bytes, 72),
            count: le32(&bytes, 80),
            size: le32(&bytes, 84),
            array_crc: le32(&bytes, 88),
            valid: true,
        };
        header.check(bytes, offset, oddities);
        Ok(Some(header))
    }

    /// Checks the length, CRC and LBA of the header.
    fn check(&mut self, mut bytes: Vec<u8>, offset: u64, oddities: &mut Vec<Oddity>) {
        let size = to_index(le32(&bytes, 12));
        let crc = le32(&bytes, 16);
        bytes[16..20].fill(0);
        if !(HEADER..=to_usize(SECTOR)).contains(&size) {
            let message = format!("GPT: header size of {size} bytes, not {HEADER} to {SECTOR}");
            note(oddities, offset, message);
            self.valid = false;
        } else if crc32(&bytes[..size]) != crc {
            note(oddities, offset, "GPT: wrong CRC of the header");
            self.valid = false;
        }
        if self.own != self.at {
            let message = format!("GPT: the header in sector {} has the LBA {}", self.at, self.own);
            note(oddities, offset, message);
            self.valid = false;
        }
    }

    /// Reads the entries in use. Returns none if the table is invalid or too large.
    fn partitions(
        &mut self,
        source: &dyn Source,
        oddities: &mut Vec<Oddity>,
    ) -> Result<Vec<GptPartition>> {
        let offset = self.at * self.unit;
        let size = u64::from(self.size);
        // The specification requires 128 times a power of two.
        if !self.size.is_power_of_two() || !(to_u64(ENTRY)..=SECTOR * 8).contains(&size) {
            note(oddities, offset, format!("GPT: invalid entry size of {size} bytes"));
            self.valid = false;
            return Ok(Vec::new());
        }
        let len = u64::from(self.count) * size;
        let array = match self.entries_at.checked_mul(self.unit) {
            Some(at) if len <= MAX_ARRAY => read(source, at, len)?,
            _ => None,
        };
        let Some(array) = array else {
            let message = format!(
                "GPT: {} entries of {size} bytes at sector {} are too many or exceed the image",
                self.count, self.entries_at
            );
            note(oddities, offset, message);
            self.valid = false;
            return Ok(Vec::new());
        };
        if crc32(&array) != self.array_crc {
            note(oddities, offset, "GPT: wrong CRC of the entries");
            self.valid = false;
        }
        let entries = array.chunks_exact(to_index(self.size)).zip(1..);
        Ok(entries.filter_map(|(entry, number)| GptPartition::parse(entry, number)).collect())
    }
}

/// Reads `len` bytes at `offset`. Returns `None` if the disk is too short.
fn read(source: &dyn Source, offset: u64, len: u64) -> Result<Option<Vec<u8>>> {
    if offset.checked_add(len).is_none_or(|end| end > source.len()) {
        return Ok(None);
    }
    let mut bytes = vec![0; to_usize(len)];
    source
        .read_exact_at(&mut bytes, offset)
        .map_err(|e| Error::io("cannot read", e).in_structure("GPT").at(offset))?;
    Ok(Some(bytes))
}

impl GptPartition {
    /// Parses an entry. Returns `None` if it is not in use.
    fn parse(entry: &[u8], number: u32) -> Option<Self> {
        let kind = Guid::at(entry, 0);
        let units = entry[56..ENTRY].chunks_exact(2).map(|unit| le16(unit, 0));
        let name: Vec<u16> = units.take_while(|&unit| unit != 0).collect();
        (kind != Guid::ZERO).then(|| Self {
            number,
            kind,
            id: Guid::at(entry, 16),
            first_sector: le64(entry, 32),
            last_sector: le64(entry, 40),
            attributes: le64(entry, 48),
            name: String::from_utf16_lossy(&name),
        })
    }

    fn encode(&self) -> [u8; ENTRY] {
        let mut entry = [0; ENTRY];
        entry[..16].copy_from_slice(&self.kind.0);
        entry[16..32].copy_from_slice(&self.id.0);
        entry[32..40].copy_from_slice(&self.first_sector.to_le_bytes());
        entry[40..48].copy_from_slice(&self.last_sector.to_le_bytes());
        entry[48..56].copy_from_slice(&self.attributes.to_le_bytes());
        for (field, unit) in entry[56..].chunks_exact_mut(2).zip(self.name.encode_utf16()) {
            field.copy_from_slice(&unit.to_le_bytes());
        }
        entry
    }
}

/// Encoded parts of a new table.
#[derive(Debug)]
pub(crate) struct NewGpt {
    /// Primary header, for sector 1; one sector.
    pub(crate) header: Vec<u8>,
    /// Entries in whole sectors, for [`Placement::entries_at`] and for the sectors before the
    /// backup header.
    pub(crate) entries: Vec<u8>,
    /// Backup header, for the last sector; one sector.
    pub(crate) backup_header: Vec<u8>,
}

/// Where a new table is placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placement {
    /// First sector of the primary copy's entries.
    pub(crate) entries_at: u64,
    /// Number of entries, used or not.
    pub(crate) count: u32,
    /// Number of sectors at the start of the disk that partitions cannot use.
    pub(crate) reserved: u64,
}

impl Placement {
    /// Returns the usual placement, in which the entries follow the header.
    pub(crate) const fn new(reserved: u64) -> Self {
        Self { entries_at: 2, count: NEW_ENTRIES, reserved }
    }

    /// Returns the number of sectors of the entries.
    pub(crate) fn array_sectors(&self) -> u64 {
        (u64::from(self.count) * to_u64(ENTRY)).div_ceil(SECTOR)
    }

    /// Returns the sectors of the primary copy's entries.
    pub(crate) fn entries(&self) -> Range<u64> {
        self.entries_at..self.entries_at.saturating_add(self.array_sectors())
    }

    /// Returns the number of sectors of the backup copy, at the end of the disk.
    pub(crate) fn backup_sectors(&self) -> u64 {
        self.array_sectors() + 1
    }

    /// Returns the first sector after those that partitions can use, of a disk of `sectors`
    /// sectors.
    pub(crate) fn usable_end(&self, sectors: u64) -> u64 {
        sectors.saturating_sub(self.backup_sectors())
    }
}

/// Encodes a table for a disk of `sectors` sectors. Partitions whose number exceeds the number of
/// entries are left out.
pub(crate) fn encode(
    disk_id: Guid,
    partitions: &[GptPartition],
    placement: Placement,
    sectors: u64,
) -> NewGpt {
    let mut entries = vec![0; to_index(placement.count) * ENTRY];
    for partition in partitions {
        let at = (to_index(partition.number).max(1) - 1) * ENTRY;
        if let Some(entry) = entries.get_mut(at..at + ENTRY) {
            entry.copy_from_slice(&partition.encode());
        }
    }
    let sum = crc32(&entries);
    entries.resize(to_usize(placement.array_sectors() * SECTOR), 0);
    let (last, usable_end) = (sectors.saturating_sub(1), placement.usable_end(sectors));
    let usable = [placement.reserved, usable_end.saturating_sub(1)];
    let header = |own: u64, other: u64, entries_at: u64| {
        let mut bytes = vec![0; to_usize(SECTOR)];
        bytes[..8].copy_from_slice(SIGNATURE);
        bytes[8..12].copy_from_slice(&[0, 0, 1, 0]);
        bytes[12..16].copy_from_slice(&to_u32(HEADER).to_le_bytes());
        for (at, number) in [(24, own), (32, other), (40, usable[0]), (48, usable[1])] {
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        bytes[56..72].copy_from_slice(&disk_id.0);
        bytes[72..80].copy_from_slice(&entries_at.to_le_bytes());
        for (at, number) in [(80, placement.count), (84, to_u32(ENTRY)), (88, sum)] {
            bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32(&bytes[..HEADER]);
        bytes[16..20].copy_from_slice(&crc.to_le_bytes());
        bytes
    };
    let (header, backup_header) =
        (header(1, last, placement.entries_at), header(last, 1, usable_end));
    NewGpt { header, entries, backup_header }
}

#[cfg(test)]
mod tests;
