//! The partitions of a disk, independent of the kind of its partition table.
//!
//! ```text
//!   GPT   if the MBR has a partition that protects it (type 0xEE), or the MBR is empty
//!   MBR   four entries; an extended partition contains a list of logical ones:
//!
//!         MBR ──► extended partition
//!                 ├ EBR ─► logical 5     an EBR has the format of an MBR with two entries:
//!                 ├ EBR ─► logical 6     the logical partition, relative to the EBR; the next
//!                 ┆                      EBR, relative to the extended partition
//!   APM   if there is no other
//! ```
//!
//! This is the order in which Linux looks for them.

use super::kinds;
use super::mbr::PROTECTIVE;
use super::{Apm, Gpt, Mbr, MbrPartition, Oddity, le16, note};
use crate::error::{Error, Result};
use crate::storage::number::to_usize;
use crate::storage::source::Source;
use serde::Serialize;

/// Maximum number of logical partitions that are read: as many partitions as Linux supports.
const MAX_LOGICAL: usize = 252;

/// Length of the start of the disk in which an Apple partition map is searched for.
const APM_BYTES: u64 = 128 << 10;

/// Sector sizes that are looked for, in bytes.
const SECTORS: [u64; 2] = [512, 4096];

/// Kind of a partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Scheme {
    /// Master boot record.
    Mbr,
    /// GUID partition table.
    Gpt,
    /// Apple partition map.
    Apm,
}

/// What a partition of an MBR is; partitions of other tables are primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// An ordinary partition.
    Primary,
    /// A partition that contains the logical partitions.
    Extended,
    /// A partition inside the extended one.
    Logical,
}

/// A partition of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Partition {
    /// Number, as Linux counts them: logical partitions begin at 5.
    pub number: u32,
    /// Offset in bytes from the start of the disk. May be beyond the disk's end.
    pub start: u64,
    /// Length in bytes. The end may be beyond the disk's end.
    pub length: u64,
    /// Type: "0x83" in an MBR, a GUID in a GPT, a name such as "Apple_HFS" in an Apple partition
    /// map.
    #[serde(rename = "type")]
    pub kind: String,
    /// The name by which fdisk calls the type, if it is well known.
    #[serde(rename = "type-name", skip_serializing_if = "Option::is_none")]
    pub kind_name: Option<&'static str>,
    /// Name, if the table has names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Unique identifier (PARTUUID): a GUID, or the disk's signature with the number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// True if it is marked as bootable by a BIOS.
    pub bootable: bool,
    /// Primary, extended or logical.
    pub role: Role,
}

/// The partition table of a disk; returned by [`table`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Table {
    /// Kind of the table that the partitions are from.
    pub scheme: Scheme,
    /// Other tables of the disk: hybrid images have two or three, for different firmware.
    pub others: Vec<Scheme>,
    /// Sector size in bytes by which the table counts.
    pub sector_bytes: u64,
    /// Identifier of the disk: a GUID, or the signature of an MBR.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Partitions in use, by number. Entries without a type are left out, as are those of an MBR
    /// without a length.
    pub partitions: Vec<Partition>,
    /// Violations of the specifications.
    pub oddities: Vec<Oddity>,
}

/// Returns the partition table of a disk, or `None` if it has none. A [disk
/// image](crate::Image) is a [`Source`] of the disk's bytes.
///
/// `sector_bytes` is the sector size of the disk; `None` is 4096 if there is a GPT that counts such
/// sectors, else 512. An MBR does not say which it counts.
///
/// The boot sector of a FAT, exFAT or NTFS file system ends with the same bytes as an MBR. It is a
/// table only if all of its entries have valid status bytes and one is in use and begins within the
/// disk.
///
/// ```
/// # use diskimg::Image;
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("disk.img");
/// # let mut disk = vec![0; 4 << 20];
/// # disk[446..462].copy_from_slice(&[0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0]);
/// # disk[510..512].copy_from_slice(&[0x55, 0xaa]);
/// # std::fs::write(&path, disk).unwrap();
/// let image = Image::open(&path)?;
/// if let Some(table) = diskimg::partition::table(&image, None)? {
///     for partition in &table.partitions {
///         println!("{}: {} bytes at {}", partition.number, partition.length, partition.start);
///     }
/// #     assert_eq!((table.partitions[0].start, table.partitions[0].length), (1 << 20, 2 << 20));
/// }
/// # Ok::<(), diskimg::Error>(())
/// ```
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) if `sector_bytes` is neither 512 nor 4096, and
/// [`Io`](crate::ErrorKind::Io) or the error of the image if reading fails.
pub fn table(source: &dyn Source, sector_bytes: Option<u64>) -> Result<Option<Table>> {
    if let Some(bytes) = sector_bytes.filter(|bytes| !SECTORS.contains(bytes)) {
        return Err(Error::invalid(format!("a sector size of {bytes} bytes, not 512 or 4096")));
    }
    let mut oddities = Vec::new();
    let mbr = read_mbr(source, &mut oddities)?;
    let gpt = read_gpt(source, sector_bytes, &mut oddities)?;
    let apm = read_apm(source, &mut oddities)?;
    let protects = |mbr: &Mbr| mbr.partitions.iter().any(|p| p.kind == PROTECTIVE);
    let protected = mbr.as_ref().is_some_and(protects);
    let foreign = |mbr: &Mbr| mbr.partitions.iter().any(|p| p.kind != PROTECTIVE && p.sectors > 0);
    let uses_mbr = mbr.as_ref().is_some_and(foreign);
    let mut found = Vec::new();
    if uses_mbr {
        found.push(Scheme::Mbr);
    }
    if gpt.is_some() {
        found.push(Scheme::Gpt);
    }
    if apm.is_some() {
        found.push(Scheme::Apm);
    }
    let unit = gpt.as_ref().map(|(unit, _)| *unit).or(sector_bytes).unwrap_or(SECTORS[0]);
    let table = match (gpt, mbr, apm) {
        (Some((_, gpt)), mbr, _) if protected || !uses_mbr => {
            if !protected {
                let found =
                    if mbr.is_some() { "an MBR that does not protect it" } else { "no MBR" };
                let message = format!("GPT with {found}: other programs ignore it");
                note(&mut oddities, 0, message);
            }
            let table = of_gpt(gpt, unit);
            note_beyond(&table.partitions, source.len(), &mut oddities);
            table
        }
        (gpt, Some(mbr), _) if uses_mbr => {
            if gpt.is_some() {
                note(&mut oddities, unit, "a GPT that the MBR does not protect is not used");
            }
            of_mbr(source, &mbr, unit, &mut oddities)?
        }
        (_, _, Some(apm)) => of_apm(apm, source.len(), &mut oddities),
        (None, Some(mbr), None) if protected => {
            note(&mut oddities, 0, "a protective MBR without a GPT");
            of_mbr(source, &mbr, unit, &mut oddities)?
        }
        _ => return Ok(None),
    };
    let others = found.into_iter().filter(|&scheme| scheme != table.scheme).collect();
    Ok(Some(Table { others, oddities, ..table }))
}

/// Reads the MBR, unless the sector is that of a file system or has no partitions.
fn read_mbr(source: &dyn Source, oddities: &mut Vec<Oddity>) -> Result<Option<Mbr>> {
    let Some(sector) = read_sector(source, 0)? else { return Ok(None) };
    let mut found = Vec::new();
    let Some(mbr) = Mbr::parse(&sector, source.len(), &mut found) else { return Ok(None) };
    let in_use: Vec<_> = mbr.partitions.iter().filter(|p| p.kind != 0 && p.sectors > 0).collect();
    let in_disk =
        |p: &&MbrPartition| u64::from(p.first_sector).saturating_mul(SECTORS[0]) < source.len();
    let valid = match is_boot_sector(&sector) {
        true => {
            let statuses = sector[446..510].iter().step_by(16);
            in_use.iter().all(in_disk) && statuses.into_iter().all(|status| status & 0x7f == 0)
        }
        false => in_use.iter().any(in_disk),
    };
    if in_use.is_empty() || !valid {
        return Ok(None);
    }
    oddities.append(&mut found);
    Ok(Some(mbr))
}

/// Returns true for the boot sector of a FAT, exFAT or NTFS file system, in which parameters of the
/// file system follow a jump. Boot loaders in an MBR have zeros or code there.
fn is_boot_sector(sector: &[u8; 512]) -> bool {
    let sector_bytes = le16(sector, 11);
    let has_parameters = matches!(sector_bytes, 512 | 1024 | 2048 | 4096)
        && (sector[13].is_power_of_two() || sector[13] > 0xf0);
    matches!(sector[0], 0xeb | 0xe9) && (has_parameters || sector[3..11] == *b"EXFAT   ")
}

/// Reads a GPT that counts sectors of one of the sizes, and returns the size.
fn read_gpt(
    source: &dyn Source,
    sector_bytes: Option<u64>,
    oddities: &mut Vec<Oddity>,
) -> Result<Option<(u64, Gpt)>> {
    for unit in SECTORS.into_iter().filter(|&unit| sector_bytes.is_none_or(|wanted| wanted == unit))
    {
        let mut found = Vec::new();
        if let Some(gpt) = Gpt::read_sectors(source, unit, &mut found)? {
            found.into_iter().for_each(|oddity| note(oddities, oddity.offset, oddity.message));
            return Ok(Some((unit, gpt)));
        }
    }
    Ok(None)
}

fn read_apm(source: &dyn Source, oddities: &mut Vec<Oddity>) -> Result<Option<Apm>> {
    // Most disks have none, and what is read may be unreadable without concern to others.
    if !read_sector(source, 0)?.is_some_and(|sector| sector.starts_with(b"ER")) {
        return Ok(None);
    }
    let mut start = vec![0; to_usize(source.len().min(APM_BYTES))];
    read_exact(source, &mut start, 0)?;
    Ok(Apm::parse(&start, oddities))
}

fn read_exact(source: &dyn Source, buf: &mut [u8], offset: u64) -> Result<()> {
    let read = source.read_exact_at(buf, offset);
    read.map_err(|e| Error::io("cannot read", e).in_structure("partition table").at(offset))
}

/// Reads the sector at an offset in bytes. Returns `None` if it exceeds the disk.
fn read_sector(source: &dyn Source, offset: u64) -> Result<Option<[u8; 512]>> {
    let mut sector = [0; 512];
    if offset.checked_add(512).is_none_or(|end| end > source.len()) {
        return Ok(None);
    }
    read_exact(source, &mut sector, offset)?;
    Ok(Some(sector))
}

fn of_gpt(gpt: Gpt, unit: u64) -> Table {
    let partitions = gpt.partitions.into_iter().map(|p| {
        let sectors = p.last_sector.checked_sub(p.first_sector);
        let sectors = sectors.map_or(0, |before_last| before_last.saturating_add(1));
        Partition {
            number: p.number,
            start: p.first_sector.saturating_mul(unit),
            length: sectors.saturating_mul(unit),
            kind: p.kind.to_string(),
            kind_name: kinds::gpt(&p.kind),
            name: Some(p.name),
            id: Some(p.id.to_string()),
            bootable: p.attributes & 4 != 0,
            role: Role::Primary,
        }
    });
    Table {
        scheme: Scheme::Gpt,
        others: Vec::new(),
        sector_bytes: unit,
        id: Some(gpt.disk_id.to_string()),
        partitions: partitions.collect(),
        oddities: Vec::new(),
    }
}

/// Notes partitions that end beyond the end of the disk, as the parser of an MBR does.
fn note_beyond(partitions: &[Partition], disk_bytes: u64, oddities: &mut Vec<Oddity>) {
    for partition in partitions {
        let end = partition.start.saturating_add(partition.length);
        if end > disk_bytes {
            let message = format!(
                "GPT partition {} ends at byte {end}, past the image's end at {disk_bytes}",
                partition.number
            );
            note(oddities, partition.start, message);
        }
    }
}

fn of_mbr(source: &dyn Source, mbr: &Mbr, unit: u64, oddities: &mut Vec<Oddity>) -> Result<Table> {
    let partition = |number: u32, entry: &MbrPartition, first_sector: u64, role| Partition {
        number,
        start: first_sector.saturating_mul(unit),
        length: u64::from(entry.sectors).saturating_mul(unit),
        kind: format!("{:#04x}", entry.kind),
        kind_name: kinds::mbr(entry.kind),
        name: None,
        id: Some(format!("{:08x}-{number:02x}", mbr.disk_id)),
        bootable: entry.active,
        role,
    };
    let used = mbr.partitions.iter().filter(|entry| entry.kind != 0 && entry.sectors > 0);
    let mut partitions: Vec<_> = used
        .clone()
        .map(|entry| {
            let role = if is_extended(entry.kind) { Role::Extended } else { Role::Primary };
            partition(entry.number.into(), entry, entry.first_sector.into(), role)
        })
        .collect();
    for extended in used.filter(|entry| is_extended(entry.kind)) {
        for (first_sector, entry) in logical(source, extended, unit, oddities)? {
            let number = partitions.last().map_or(5, |last| last.number.max(4) + 1);
            partitions.push(partition(number, &entry, first_sector, Role::Logical));
        }
    }
    Ok(Table {
        scheme: Scheme::Mbr,
        others: Vec::new(),
        sector_bytes: unit,
        id: Some(format!("{:#010x}", mbr.disk_id)),
        partitions,
        oddities: Vec::new(),
    })
}

fn is_extended(kind: u8) -> bool {
    matches!(kind, 0x05 | 0x0f | 0x85)
}

/// Returns the logical partitions of an extended one, with their first sectors.
fn logical(
    source: &dyn Source,
    extended: &MbrPartition,
    unit: u64,
    oddities: &mut Vec<Oddity>,
) -> Result<Vec<(u64, MbrPartition)>> {
    let base = u64::from(extended.first_sector);
    let (mut at, mut visited, mut found) = (base, Vec::new(), Vec::new());
    loop {
        let offset = at.saturating_mul(unit);
        if visited.contains(&at) || visited.len() == MAX_LOGICAL {
            let why = if visited.contains(&at) { "form a loop" } else { "are too many" };
            note(oddities, offset, format!("the extended boot records {why}"));
            return Ok(found);
        }
        visited.push(at);
        let ebr = match read_sector(source, offset)? {
            Some(sector) => Mbr::parse(&sector, u64::MAX, &mut Vec::new()),
            None => None,
        };
        let Some(ebr) = ebr else {
            note(oddities, offset, "no extended boot record where one is expected");
            return Ok(found);
        };
        let used = || ebr.partitions.iter().filter(|entry| entry.kind != 0 && entry.sectors > 0);
        if let Some(entry) = used().find(|entry| !is_extended(entry.kind)) {
            found.push((at.saturating_add(entry.first_sector.into()), *entry));
        }
        match used().find(|entry| is_extended(entry.kind)) {
            Some(next) => at = base.saturating_add(next.first_sector.into()),
            None => return Ok(found),
        }
    }
}

fn of_apm(apm: Apm, disk_bytes: u64, oddities: &mut Vec<Oddity>) -> Table {
    // isohybrid counts 512 bytes in a map whose block size is 2048.
    let end = |p: &super::ApmPartition, unit: u64| {
        (u64::from(p.first_block) + u64::from(p.blocks)).saturating_mul(unit)
    };
    let block = u64::from(apm.block_bytes);
    let fits = |unit| apm.partitions.iter().all(|p| end(p, unit) <= disk_bytes);
    let unit = if !fits(block) && fits(SECTORS[0]) { SECTORS[0] } else { block };
    if unit != block {
        let message = format!("APM: the block size is {block}, but the blocks have {unit} bytes");
        note(oddities, 2, message);
    }
    let partitions = apm.partitions.into_iter().map(|p| Partition {
        number: p.number,
        start: u64::from(p.first_block).saturating_mul(unit),
        length: u64::from(p.blocks).saturating_mul(unit),
        kind: p.kind,
        kind_name: None,
        name: Some(p.name),
        id: None,
        bootable: false,
        role: Role::Primary,
    });
    Table {
        scheme: Scheme::Apm,
        others: Vec::new(),
        sector_bytes: unit,
        id: None,
        partitions: partitions.collect(),
        oddities: Vec::new(),
    }
}

impl Partition {
    /// Returns the range of bytes of the partition within a disk of `disk_bytes` bytes, or `None`
    /// if it begins beyond the disk's end or is empty.
    pub fn range(&self, disk_bytes: u64) -> Option<std::ops::Range<u64>> {
        let end = self.start.saturating_add(self.length).min(disk_bytes);
        (self.start < end).then_some(self.start..end)
    }
}

impl Table {
    /// Returns the partition with this number.
    pub fn partition(&self, number: u32) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.number == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::GptPartition;
    use crate::partition::gpt::{self, Guid, Placement};
    use crate::storage::source::MemorySource;

    const DISK: usize = 8 << 20;

    fn entry(disk: &mut [u8], sector: usize, index: usize, kind: u8, first: u32, sectors: u32) {
        let at = sector * 512 + 446 + 16 * index;
        disk[at + 4] = kind;
        disk[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
        disk[sector * 512 + 510..][..2].copy_from_slice(&[0x55, 0xaa]);
    }

    fn read(disk: Vec<u8>) -> Option<Table> {
        table(&MemorySource::new(disk), None).expect("memory can be read")
    }

    /// Writes a GPT with a partition in sector 64, of a disk with sectors of `unit` bytes.
    fn put_gpt(disk: &mut [u8], unit: usize) {
        let sectors = (disk.len() / unit) as u64;
        let partition = GptPartition {
            number: 3,
            kind: Guid::EFI_SYSTEM,
            id: Guid([7; 16]),
            first_sector: 64,
            last_sector: 71,
            attributes: 4,
            name: "ESP".into(),
        };
        let placement = Placement::new(40);
        let new = gpt::encode(Guid([9; 16]), &[partition], placement, sectors);
        let usable_end = placement.usable_end(sectors) as usize;
        for (sector, bytes) in [
            (1, &new.header),
            (2, &new.entries),
            (usable_end, &new.entries),
            (sectors as usize - 1, &new.backup_header),
        ] {
            disk[sector * unit..][..bytes.len()].copy_from_slice(bytes);
        }
    }

    #[test]
    fn a_gpt_counts_sectors_of_either_size() {
        for unit in [512, 4096] {
            let mut disk = vec![0; DISK];
            put_gpt(&mut disk, unit);
            entry(&mut disk, 0, 0, PROTECTIVE, 1, u32::MAX);
            let table = read(disk).expect("a table");
            assert_eq!((table.scheme, table.sector_bytes), (Scheme::Gpt, unit as u64));
            assert_eq!((&table.others[..], &table.oddities[..]), (&[][..], &[][..]), "{unit}");
            let partition = table.partition(3).expect("a partition");
            assert_eq!((partition.start, partition.length), (64 * unit as u64, 8 * unit as u64));
            assert_eq!(partition.kind_name, Some("EFI System"));
            assert!(partition.bootable);
        }
    }

    #[test]
    fn an_mbr_with_partitions_has_precedence_over_a_gpt_that_it_does_not_protect() {
        let mut disk = vec![0; DISK];
        put_gpt(&mut disk, 512);
        let table = read(disk.clone()).expect("a table");
        assert_eq!((table.scheme, table.oddities.len()), (Scheme::Gpt, 1));
        entry(&mut disk, 0, 1, 0x83, 100, 50);
        let table = read(disk.clone()).expect("a table");
        assert_eq!((table.scheme, &table.others[..]), (Scheme::Mbr, &[Scheme::Gpt][..]));
        assert_eq!(table.oddities.len(), 1);
        // A hybrid.
        entry(&mut disk, 0, 0, PROTECTIVE, 1, 99);
        let table = read(disk).expect("a table");
        assert_eq!((table.scheme, &table.others[..]), (Scheme::Gpt, &[Scheme::Mbr][..]));
    }

    #[test]
    fn logical_partitions_are_relative_to_their_record_and_loops_end() {
        let mut disk = vec![0; DISK];
        entry(&mut disk, 0, 0, 0x0f, 1000, 5000);
        entry(&mut disk, 0, 2, 0x83, 10, 20);
        entry(&mut disk, 1000, 0, 0x83, 63, 100);
        entry(&mut disk, 1000, 1, 0x05, 500, 500);
        entry(&mut disk, 1500, 0, 0x82, 1, 10);
        let table = read(disk.clone()).expect("a table");
        let found: Vec<_> = table.partitions.iter().map(|p| (p.number, p.start / 512)).collect();
        assert_eq!(found, [(1, 1000), (3, 10), (5, 1063), (6, 1501)]);
        assert_eq!(table.oddities, []);
        entry(&mut disk, 1500, 1, 0x05, 0, 500);
        let table = read(disk.clone()).expect("a table");
        assert_eq!((table.partitions.len(), table.oddities.len()), (4, 1));
        assert!(table.oddities[0].message.contains("form a loop"));
        // Beyond the end of the disk.
        entry(&mut disk, 1500, 1, 0x05, u32::MAX, 500);
        let table = read(disk).expect("a table");
        assert!(table.oddities[0].message.contains("no extended boot record"));
    }

    #[test]
    fn the_boot_sector_of_a_file_system_is_no_table() {
        let mut disk = vec![0; DISK];
        disk[..3].copy_from_slice(&[0xeb, 0x3c, 0x90]);
        disk[11..14].copy_from_slice(&[0, 2, 1]);
        // Boot code where the entries of a table are.
        disk[446..510].fill(0x41);
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(read(disk.clone()), None);
        // A boot loader whose MBR begins with a jump.
        disk[446..510].fill(0);
        entry(&mut disk, 0, 0, 0x83, 100, 50);
        assert!(read(disk).is_some());
        assert_eq!(read(vec![0; DISK]), None);
        assert_eq!(read(vec![0; 100]), None);
    }

    #[test]
    fn ranges_end_at_the_end_of_the_disk() {
        let mut disk = vec![0; DISK];
        entry(&mut disk, 0, 0, 0x83, 100, u32::MAX);
        entry(&mut disk, 0, 1, 0x83, u32::MAX, 1);
        let table = read(disk).expect("a table");
        assert_eq!(table.partitions[0].range(DISK as u64), Some(51_200..DISK as u64));
        assert_eq!(table.partitions[1].range(DISK as u64), None);
    }
}
