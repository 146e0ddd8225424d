//! A GPT for a disk whose size changes: its backup copy belongs at the end of the disk.
//!
//! ```text
//!   written                                    then
//!   backup entries and header at the new end   the primary header is as it was
//!   primary header                             both copies agree
//!   size in the protective MBR
//!   zeros in place of the old backup header    no program can find it by searching
//! ```
//!
//! The primary header is one sector, and its entries do not change, so that it is valid at any time.

use super::{Header, SECTOR, SIGNATURE, read};
use crate::error::{Error, Result};
use crate::partition::mbr;
use crate::partition::{le32, le64};
use crate::storage::number::{to_index, to_usize};
use crate::storage::source::Source;
use crc32fast::hash as crc32;

/// Sizes of sectors in bytes.
const UNITS: [u64; 2] = [512, 4096];

/// Structure in errors.
const GPT: &str = "GPT";

/// Bytes to be written at an offset of the disk.
pub(crate) type Piece = (u64, Vec<u8>);

/// The parts of a GPT that change with the size of the disk, in the order in which they are written.
#[derive(Debug)]
pub(crate) struct Relocated {
    /// What is durable before the next step begins.
    pub(crate) steps: Vec<Vec<Piece>>,
}

/// Returns what changes in the GPT of `disk` if its size becomes `size` bytes.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) if the disk has no GPT, or the size is not a number of
/// its sectors; [`Corrupt`](crate::ErrorKind::Corrupt) if the GPT is damaged;
/// [`Refused`](crate::ErrorKind::Refused) if a partition would be beyond the end;
/// [`Io`](crate::ErrorKind::Io) if the disk cannot be read.
pub(crate) fn relocate(disk: &dyn Source, size: u64) -> Result<Relocated> {
    let (unit, mut header) = primary(disk)?;
    let mut oddities = Vec::new();
    let partitions = header.partitions(disk, &mut oddities)?;
    if !header.valid || header.own != 1 {
        return Err(damaged("the primary header or its entries are damaged", unit));
    }
    if !size.is_multiple_of(unit) {
        let message = format!("the new size must be a multiple of the {unit} bytes of a sector");
        return Err(Error::invalid(message).in_structure(GPT));
    }
    let array = u64::from(header.count) * u64::from(header.size);
    let backup_sectors = array.div_ceil(unit) + 1;
    let last = (size / unit).saturating_sub(1);
    let usable_end = (last + 1).saturating_sub(backup_sectors);
    for partition in &partitions {
        if partition.first_sector > partition.last_sector {
            return Err(damaged("a partition ends before it starts", unit));
        }
        if partition.last_sector >= usable_end {
            let needed = partition.last_sector.saturating_add(1 + backup_sectors);
            return Err(Error::refused(format!(
                "partition {} ends at byte {}, and the backup of the GPT needs the last {} bytes of \
                 the disk",
                partition.number,
                partition.last_sector.saturating_add(1).saturating_mul(unit),
                backup_sectors * unit
            ))
            .in_structure(GPT)
            .hint(format!("the disk needs at least {} bytes", needed.saturating_mul(unit))));
        }
    }
    let first_free = header.first_usable.max(header.entries_at.saturating_add(backup_sectors - 1));
    if usable_end <= first_free {
        let message = format!("a disk of {size} bytes has no room for both copies of the table");
        return Err(Error::invalid(message).in_structure(GPT));
    }
    require_same_backup(disk, &header, unit, array)?;
    let sector = bytes_at(disk, unit, unit)?;
    let entries_at = header.entries_at * unit;
    let entries = bytes_at(disk, entries_at, array)?;
    let primary = encode(&sector, [1, last], usable_end - 1, header.entries_at);
    let backup = encode(&sector, [last, 1], usable_end - 1, usable_end);
    let mut steps =
        vec![vec![(usable_end * unit, entries), (last * unit, backup)], vec![(unit, primary)]];
    steps.push(protective_mbr(disk, last)?.map(|sector| (0, sector)).into_iter().collect());
    steps.push(old_backup(disk, &header, unit, usable_end..last + 1)?.into_iter().collect());
    steps.retain(|step| !step.is_empty());
    Ok(Relocated { steps })
}

/// Returns the size of a sector and the primary header.
fn primary(disk: &dyn Source) -> Result<(u64, Header)> {
    let mut damage = None;
    for unit in UNITS {
        if let Some(header) = Header::read(disk, 1, unit, &mut Vec::new())? {
            if header.valid {
                return Ok((unit, header));
            }
            damage.get_or_insert(unit);
        }
    }
    if let Some(unit) = damage {
        return Err(damaged("the primary header is damaged", unit));
    }
    for unit in UNITS {
        let last = (disk.len() / unit).saturating_sub(1);
        if last > 1 && Header::read(disk, last, unit, &mut Vec::new())?.is_some() {
            return Err(damaged("the primary header is missing, and only a backup is left", unit));
        }
    }
    Err(Error::invalid("the disk has no GUID partition table, so that its backup cannot be moved")
        .hint("resize it without that option, or create a partition table first"))
}

fn damaged(message: &'static str, at: u64) -> Error {
    Error::corrupt(GPT, message)
        .at(at)
        .hint("restore the table first, for example with sgdisk or gdisk")
}

/// Verifies that a backup that is valid has the same entries.
fn require_same_backup(disk: &dyn Source, header: &Header, unit: u64, array: u64) -> Result<()> {
    let Some(mut backup) = Header::read(disk, header.other, unit, &mut Vec::new())? else {
        return Ok(());
    };
    backup.partitions(disk, &mut Vec::new())?;
    if header.other < 2 || !backup.valid {
        return Ok(());
    }
    let same = backup.disk_id == header.disk_id
        && u64::from(backup.count) * u64::from(backup.size) == array
        && backup.array_crc == header.array_crc;
    match same {
        true => Ok(()),
        false => Err(damaged("both copies are valid, but differ", header.other * unit)),
    }
}

/// Returns the sector of a header with other places, whose CRC is updated.
fn encode(sector: &[u8], places: [u64; 2], last_usable: u64, entries_at: u64) -> Vec<u8> {
    let mut bytes = sector.to_vec();
    let numbers = [(24, places[0]), (32, places[1]), (48, last_usable), (72, entries_at)];
    for (at, number) in numbers {
        bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
    }
    let len = to_index(le32(&bytes, 12));
    bytes[16..20].fill(0);
    let crc = crc32(&bytes[..len]);
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Returns the first sector of the disk with another size of the protective partition, unless it has
/// none.
fn protective_mbr(disk: &dyn Source, last: u64) -> Result<Option<Vec<u8>>> {
    let mut sector = bytes_at(disk, 0, SECTOR)?;
    let Some(first) = sector.first_chunk_mut() else { return Ok(None) };
    Ok(mbr::resize_protective(first, last).then_some(sector))
}

/// Returns zeros in place of the old backup header, if it is still there and not among the `new`
/// sectors.
fn old_backup(
    disk: &dyn Source,
    header: &Header,
    unit: u64,
    new: std::ops::Range<u64>,
) -> Result<Option<Piece>> {
    let at = header.other;
    if at < 2 || at >= new.start {
        return Ok(None);
    }
    let Some(bytes) = read(disk, at.saturating_mul(unit), SECTOR)? else { return Ok(None) };
    // Another structure may be there by now.
    let is_backup = bytes.starts_with(SIGNATURE) && le64(&bytes, 24) == at;
    Ok(is_backup.then(|| (at * unit, vec![0; to_usize(SECTOR)])))
}

fn bytes_at(disk: &dyn Source, offset: u64, len: u64) -> Result<Vec<u8>> {
    read(disk, offset, len)?.ok_or_else(|| damaged("it is beyond the end of the disk", offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::gpt::tests::{disk, with_header};
    use crate::storage::source::MemorySource;

    fn relocated(disk: Vec<u8>, size: u64) -> Result<Relocated> {
        relocate(&MemorySource::new(disk), size)
    }

    #[test]
    fn what_cannot_be_moved_is_an_error() {
        let size = 400 * SECTOR;
        relocated(disk(), size).expect("moves");
        let last = to_usize(199 * SECTOR);
        let mut only_backup = disk();
        only_backup[512..520].fill(0);
        let mut wrong_crc = disk();
        wrong_crc[512 + 60] ^= 1;
        let mut wrong_entries = disk();
        wrong_entries[1024 + 3] ^= 1;
        let mut other_backup = disk();
        other_backup[last + 56] ^= 1;
        let other = crc32(&{
            let mut header = other_backup[last..last + 92].to_vec();
            header[16..20].fill(0);
            header
        });
        other_backup[last + 16..last + 20].copy_from_slice(&other.to_le_bytes());
        for (disk, message) in [
            (vec![0; 1 << 16], "no GUID partition table"),
            (only_backup, "only a backup is left"),
            (wrong_crc, "primary header is damaged"),
            (wrong_entries, "its entries are damaged"),
            (other_backup, "both copies are valid, but differ"),
            (with_header(|header| header[24] = 2), "damaged"),
        ] {
            let error = relocated(disk, size).expect_err(message).to_string();
            assert!(error.contains(message), "{error}");
        }
        // The last partition ends with sector 120; the backup has 33 sectors.
        relocated(disk(), 154 * SECTOR).expect("fits");
        let error = relocated(disk(), 153 * SECTOR).expect_err("too small");
        assert_eq!(error.kind(), crate::ErrorKind::Refused);
        assert!(error.to_string().contains("partition 3 ends at byte 61952"), "{error}");
        relocated(disk(), 400 * SECTOR + 1).expect_err("not a number of sectors");
        // A backup that is lost is written again.
        let mut lost = disk();
        lost[last..last + 512].fill(0);
        relocated(lost, size).expect("moves");
    }
}
