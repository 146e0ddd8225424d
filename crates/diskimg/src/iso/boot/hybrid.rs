//! The disk layout of a new image: MBR and GPT in the system area, and everything after the file
//! system.
//!
//! ```text
//!   system area   MBR with boot code; primary GPT header and entries
//!   volume        the file system; with isohybrid, extended to a whole MiB (its cylinder size)
//!   appended      partitions, each in whole sectors of 2048 bytes
//!   padding       part of the volume if there are no appended partitions
//!   backup        GPT entries and backup header, up to the last byte
//! ```
//!
//! There are two kinds of layout. With a **GPT**, the MBR is protective and partitions do not
//! overlap: gaps in the volume between them get their own partitions, so that they are not treated
//! as free space. With the **isohybrid MBR**, a partition covers the whole volume, and EFI boot
//! images inside the volume are further partitions. A GPT can be added for firmware that requires
//! one. xorriso creates the same layouts, except that the entries of its isohybrid GPT overlap.

use super::system_area::{GRUB2_MBR_SKIPS, LOADER_ADDRESS, SYSTEM_AREA};
use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::iso::write::Hybrid;
use crate::partition::gpt::{self, GptPartition, Guid};
use crate::partition::mbr::{self, Mbr, MbrPartition};
use crate::storage::number::{to_u8, to_u64, to_usize};
use sha2::{Digest, Sha256};

/// Number of disk sectors (512 bytes) in a sector of 2048 bytes.
const DISK_SECTORS: u64 = SECTOR / mbr::SECTOR;

/// isohybrid cylinder size, 1 MiB, in sectors of 2048 bytes. An isohybrid volume is a multiple of
/// it.
const CYLINDER: u64 = mbr::HEADS * mbr::TRACK / DISK_SECTORS;

/// Length of the backup GPT in sectors of 2048 bytes.
const BACKUP: u64 = (gpt::ARRAY_SECTORS + 1).div_ceil(DISK_SECTORS);

/// Length of the code in GRUB's MBR in bytes. The code of isohybrid ends at its address.
const GRUB2_CODE: usize = 440;

/// Type of the partition for an isohybrid volume: "hidden NTFS", which is not mounted
/// automatically.
const ISOHYBRID_KIND: u8 = 0x17;

/// Type of that partition if it contains EFI partitions: "empty", because firmware rejects
/// overlapping partitions.
const ISOHYBRID_OVER_EFI: u8 = 0x00;

/// Partition type of Linux.
const LINUX: u8 = 0x83;

/// Partition type of an EFI system partition.
const EFI: u8 = 0xef;

/// GPT partition attributes "required" and "read-only".
const REQUIRED_READ_ONLY: u64 = 1 | 1 << 60;

/// A range of sectors of the new image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SectorRange {
    /// First sector, in sectors of 2048 bytes.
    pub(crate) start: u64,
    /// Length in sectors of 2048 bytes.
    pub(crate) sectors: u64,
}

impl SectorRange {
    /// Returns start and end (exclusive) in sectors of 512 bytes.
    fn on_disk(self) -> (u64, u64) {
        (self.start * DISK_SECTORS, (self.start + self.sectors) * DISK_SECTORS)
    }
}

/// Layout of everything after the file system, in sectors of 2048 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HybridLayout {
    /// Volume space size, as recorded in the volume descriptors.
    pub(crate) volume: u64,
    /// The appended partitions, in the order of [`Hybrid::appended`].
    pub(crate) appended: Vec<SectorRange>,
    /// True if there is a GPT.
    gpt: bool,
    /// Length of the image.
    pub(crate) total: u64,
}

/// The encoded MBR and GPT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskAreas {
    /// Contents of the system area, up to the last byte used.
    pub(crate) system_area: Vec<u8>,
    /// Contents of the end of the image.
    pub(crate) backup: Vec<u8>,
}

impl HybridLayout {
    /// Creates the layout for a file system that ends before sector `end`, followed by `padding`
    /// sectors of zeros. `appended_bytes` has the lengths of the appended partitions, which start
    /// at multiples of `alignment` bytes. `in_gpt` is true if a boot image is to be a partition of
    /// the GPT.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for invalid or contradictory
    /// options.
    pub(crate) fn new(
        hybrid: &Hybrid,
        appended_bytes: &[u64],
        in_gpt: bool,
        end: u64,
        padding: u64,
        alignment: u64,
    ) -> Result<Self> {
        check_options(hybrid)?;
        let appends = !appended_bytes.is_empty();
        let gpt = in_gpt || (hybrid.appended_as_gpt && appends);
        let backup = if gpt { BACKUP } else { 0 };
        let trailing = padding + backup;
        let mut volume = if appends { end } else { end + trailing };
        if hybrid.isohybrid_mbr.is_some() {
            volume = volume.next_multiple_of(CYLINDER);
        }
        let mut total = volume;
        let mut appended = Vec::with_capacity(appended_bytes.len());
        for bytes in appended_bytes {
            let start = total.next_multiple_of((alignment / SECTOR).max(1));
            let sectors = bytes.div_ceil(SECTOR);
            appended.push(SectorRange { start, sectors });
            total = start + sectors;
        }
        if appends {
            total += trailing;
        }
        Ok(Self { volume, appended, gpt, total })
    }

    /// Encodes the MBR and the GPT.
    ///
    /// `loader` is the first sector of the BIOS boot image (in sectors of 2048 bytes); `images` are
    /// the boot images that are to be partitions. All identifiers are derived from `seed`.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if there is boot code without a
    /// boot image or there are too many partitions, [`ErrorKind::Limit`](crate::ErrorKind::Limit)
    /// if the disk is too large for an MBR.
    pub(crate) fn encode(
        &self,
        hybrid: &Hybrid,
        loader: Option<u32>,
        images: &[SectorRange],
        seed: &[u8],
    ) -> Result<DiskAreas> {
        let base = hybrid.system_area.clone().unwrap_or_default();
        let mut areas = DiskAreas { system_area: base, backup: Vec::new() };
        if hybrid.isohybrid_mbr.is_none() && hybrid.grub2_mbr.is_none() {
            if !self.gpt && self.appended.is_empty() {
                return Ok(areas);
            }
        } else if loader.is_none() {
            let message = "the boot code in the MBR requires a BIOS boot image without emulation";
            return Err(Error::invalid(message));
        }
        let mut sector = [0; to_usize(mbr::SECTOR)];
        let kept = areas.system_area.len().min(sector.len());
        sector[..kept].copy_from_slice(&areas.system_area[..kept]);
        write_code(&mut sector, hybrid, loader.unwrap_or(0));
        let ids = Identifiers::new(seed, &sector);
        let partitions = if self.is_protective(hybrid) {
            let sectors = u32::try_from(self.total * DISK_SECTORS - 1).unwrap_or(u32::MAX);
            vec![MbrPartition {
                number: 1,
                active: false,
                kind: mbr::PROTECTIVE,
                first_sector: 1,
                sectors,
            }]
        } else {
            self.mbr_partitions(hybrid, images)?
        };
        Mbr { disk_id: ids.disk(), has_code: true, partitions }.encode(&mut sector);
        let mut start = sector.to_vec();
        if self.gpt {
            let partitions = self.gpt_partitions(hybrid, images, &ids)?;
            let reserved = SYSTEM_AREA / gpt::SECTOR;
            let sectors = self.total * DISK_SECTORS;
            let gpt = gpt::encode(ids.guid(0), &partitions, reserved, sectors);
            start.extend_from_slice(&[gpt.header, gpt.entries.clone()].concat());
            areas.backup = [gpt.entries, gpt.backup_header].concat();
        }
        let len = areas.system_area.len().max(start.len());
        areas.system_area.resize(len, 0);
        areas.system_area[..start.len()].copy_from_slice(&start);
        Ok(areas)
    }

    /// Returns true if the MBR is a protective one for a GPT without overlapping partitions.
    fn is_protective(&self, hybrid: &Hybrid) -> bool {
        let appended = hybrid.appended_as_gpt && !self.appended.is_empty();
        self.gpt && (appended || hybrid.isohybrid_mbr.is_none())
    }

    fn mbr_partitions(&self, hybrid: &Hybrid, images: &[SectorRange]) -> Result<Vec<MbrPartition>> {
        let has_code = hybrid.isohybrid_mbr.is_some() || hybrid.grub2_mbr.is_some();
        let partition = |number, kind, first: u64, end: u64| {
            let narrow = |sector: u64| {
                u32::try_from(sector)
                    .map_err(|_| Error::limit("the image is too large for an MBR (2 TiB)"))
            };
            let (first_sector, sectors) = (narrow(first)?, narrow(end - first)?);
            let active = has_code && number == 1;
            Ok::<_, Error>(MbrPartition { number, active, kind, first_sector, sectors })
        };
        let mut partitions = Vec::new();
        for (appended, range) in hybrid.appended.iter().zip(&self.appended) {
            let (first, end) = range.on_disk();
            partitions.push(partition(to_u8(appended.number), appended.kind, first, end)?);
        }
        let mut free =
            (1..=4u8).filter(|&n| !hybrid.appended.iter().any(|a| a.number == u32::from(n)));
        // An appended partition with the number 1 replaces that of the volume.
        if free.clone().next() == Some(1) {
            let kind = match (&hybrid.isohybrid_mbr, images) {
                (Some(_), []) => ISOHYBRID_KIND,
                (Some(_), _) => ISOHYBRID_OVER_EFI,
                (None, _) => LINUX,
            };
            let first = u64::from(hybrid.partition_offset) * DISK_SECTORS;
            let end = self.volume * DISK_SECTORS;
            if first >= end {
                return Err(Error::invalid("the partition offset is beyond the end of the volume"));
            }
            partitions.push(partition(1, kind, first, end)?);
            free.next();
        }
        for (image, number) in images.iter().zip(free) {
            let (first, end) = image.on_disk();
            partitions.push(partition(number, EFI, first, end)?);
        }
        partitions.sort_by_key(|partition| partition.number);
        Ok(partitions)
    }

    fn gpt_partitions(
        &self,
        hybrid: &Hybrid,
        images: &[SectorRange],
        ids: &Identifiers,
    ) -> Result<Vec<GptPartition>> {
        let taken = |n: u32| hybrid.appended.iter().any(|appended| appended.number == n);
        let mut free = (1..=128).filter(|&n| !taken(n));
        let mut partitions = Vec::new();
        let mut add = |number: Option<u32>, kind, (first, end): (u64, u64), attributes, name| {
            let number = number
                .or_else(|| free.next())
                .ok_or_else(|| Error::invalid("more than 128 partitions for the GPT"))?;
            partitions.push(GptPartition {
                number,
                kind,
                id: ids.guid(number),
                first_sector: first,
                last_sector: end - 1,
                attributes,
                name,
            });
            Ok::<_, Error>(())
        };
        let backup = if self.appended.is_empty() { BACKUP } else { 0 };
        let usable = (self.volume - backup) * DISK_SECTORS;
        let offset = u64::from(hybrid.partition_offset) * DISK_SECTORS;
        let mut at = offset.max(SYSTEM_AREA / gpt::SECTOR);
        let mut sorted = images.to_vec();
        sorted.sort_by_key(|image| image.start);
        sorted.dedup();
        let mut gaps = 0..;
        let mut gap_name = |at: u64| {
            let number = gaps.next().unwrap_or(0);
            if at == offset { "ISO9660".to_owned() } else { format!("Gap{number}") }
        };
        for (index, image) in sorted.iter().enumerate() {
            let (first, end) = image.on_disk();
            if at < first {
                add(None, Guid::BASIC_DATA, (at, first), REQUIRED_READ_ONLY, gap_name(at))?;
            }
            let name = format!("Boot{}", index + 1);
            add(None, Guid::BASIC_DATA, (first, end), REQUIRED_READ_ONLY, name)?;
            at = end;
        }
        if at < usable {
            add(None, Guid::BASIC_DATA, (at, usable), REQUIRED_READ_ONLY, gap_name(at))?;
        }
        for (appended, range) in hybrid.appended.iter().zip(&self.appended) {
            let kind = if appended.kind == EFI { Guid::EFI_SYSTEM } else { Guid::BASIC_DATA };
            let name = format!("Appended{}", appended.number);
            add(Some(appended.number), kind, range.on_disk(), 0, name)?;
        }
        partitions.sort_by_key(|partition| partition.number);
        Ok(partitions)
    }
}

/// Checks the options.
fn check_options(hybrid: &Hybrid) -> Result<()> {
    match (&hybrid.isohybrid_mbr, &hybrid.grub2_mbr) {
        (Some(_), Some(_)) => {
            return Err(Error::invalid("isohybrid MBR and GRUB MBR cannot be combined"));
        }
        (Some(code), None) if code.len() < LOADER_ADDRESS => {
            let message = format!(
                "the isohybrid MBR has {} bytes; at least {LOADER_ADDRESS} are required",
                code.len()
            );
            return Err(Error::invalid(message).hint("use isohdpfx.bin from syslinux"));
        }
        (None, Some(code)) if code.len() < GRUB2_CODE => {
            let message = format!(
                "the GRUB MBR has {} bytes; at least {GRUB2_CODE} are required",
                code.len()
            );
            return Err(Error::invalid(message).hint("use boot_hybrid.img from GRUB"));
        }
        _ => {}
    }
    if let Some(area) = hybrid.system_area.as_ref().filter(|area| to_u64(area.len()) > SYSTEM_AREA)
    {
        let message =
            format!("the system area has {} bytes; the maximum is {SYSTEM_AREA}", area.len());
        return Err(Error::invalid(message));
    }
    let max = if hybrid.appended_as_gpt { 128 } else { 4 };
    for (index, appended) in hybrid.appended.iter().enumerate() {
        let number = appended.number;
        if !(1..=max).contains(&number) {
            let message = format!("partition number {number} is not between 1 and {max}");
            return Err(Error::invalid(message));
        }
        if hybrid.appended[..index].iter().any(|other| other.number == number) {
            return Err(Error::invalid(format!("two partitions have the number {number}")));
        }
    }
    Ok(())
}

/// Writes the boot code and the address of the boot image to the MBR.
fn write_code(sector: &mut [u8; to_usize(mbr::SECTOR)], hybrid: &Hybrid, image: u32) {
    let image = u64::from(image) * DISK_SECTORS;
    let (code, address) = match (&hybrid.isohybrid_mbr, &hybrid.grub2_mbr) {
        (Some(code), _) => (&code[..LOADER_ADDRESS], image),
        (None, Some(code)) => (&code[..GRUB2_CODE], image + GRUB2_MBR_SKIPS),
        (None, None) => return,
    };
    sector[..code.len()].copy_from_slice(code);
    sector[LOADER_ADDRESS..][..8].copy_from_slice(&address.to_le_bytes());
}

/// Generator of identifiers. They look random, but are the same for the same image.
struct Identifiers {
    state: Sha256,
}

impl Identifiers {
    fn new(seed: &[u8], mbr: &[u8]) -> Self {
        Self { state: Sha256::new().chain_update(seed).chain_update(mbr) }
    }

    fn bytes<const N: usize>(&self, label: u32) -> [u8; N] {
        let digest = self.state.clone().chain_update(label.to_le_bytes()).finalize();
        let mut bytes = [0; N];
        bytes.copy_from_slice(&digest[..N]);
        bytes
    }

    /// Returns the disk GUID (number 0), or the GUID of a partition.
    fn guid(&self, number: u32) -> Guid {
        Guid::from_digest(self.bytes(number))
    }

    /// Returns the disk signature for the MBR. It is not 0, because 0 means that there is none.
    fn disk(&self) -> u32 {
        u32::from_le_bytes(self.bytes(u32::MAX)).max(1)
    }
}

#[cfg(test)]
mod tests;
