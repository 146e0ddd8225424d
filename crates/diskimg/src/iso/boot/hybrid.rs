//! A new image as a disk: the MBR and the GPT in its system area, and what lies behind its file
//! system.
//!
//! ```text
//!   system area   MBR with the code; GPT's first header and its entries
//!   volume        the file system. isohybrid: up to a whole MiB, its cylinder
//!   appended      partitions, each in whole sectors of 2048 bytes
//!   padding       without appended partitions, part of the volume
//!   backup        GPT's entries and its second header, up to the last byte
//! ```
//!
//! Two ways to divide the disk. **A GPT that counts** has a protective MBR and partitions that
//! do not overlap: the volume's unclaimed stretches have partitions of their own, so that nobody
//! takes them for free space. **isohybrid's MBR** has a partition over the whole volume, and EFI
//! boot images inside of it as others; a GPT is there as well if asked for, for firmware that
//! looks at nothing else. As xorriso does both, but for the GPT's overlapping entries.

use super::system_area::{GRUB2_MBR_SKIPS, LOADER_ADDRESS, SYSTEM_AREA};
use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::iso::write::Hybrid;
use crate::partition::gpt::{self, GptPartition, Guid};
use crate::partition::mbr::{self, Mbr, MbrPartition};
use crate::storage::number::{to_u8, to_usize};
use sha2::{Digest, Sha256};

/// Sectors of 512 bytes, in which disks count, of one sector of 2048.
const DISK_SECTORS: u64 = SECTOR / mbr::SECTOR;

/// isohybrid's cylinder, 1 MiB, in sectors of 2048 bytes: what its images end at.
const CYLINDER: u64 = mbr::HEADS * mbr::TRACK / DISK_SECTORS;

/// Sectors of 2048 bytes that hold GPT's second copy.
const BACKUP: u64 = (gpt::ARRAY_SECTORS + 1).div_ceil(DISK_SECTORS);

/// Bytes of code that GRUB's MBR has; isohybrid's has those before its address.
const GRUB2_CODE: usize = 440;

/// The kind of the partition over an isohybrid volume: "hidden NTFS", which nobody mounts.
const ISOHYBRID_KIND: u8 = 0x17;

/// The same beside EFI partitions inside of it: "empty", or firmware refuses the overlap.
const ISOHYBRID_OVER_EFI: u8 = 0x00;

/// Linux.
const LINUX: u8 = 0x83;

/// EFI system partition.
const EFI: u8 = 0xef;

/// GPT's attributes "required" and "read-only".
const KEEP_OFF: u64 = 1 | 1 << 60;

/// A stretch of the new image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SectorRange {
    /// A sector of 2048 bytes.
    pub(crate) start: u64,
    /// Whole sectors of 2048 bytes.
    pub(crate) sectors: u64,
}

impl SectorRange {
    /// The first sector of 512 bytes, and the one behind.
    fn on_disk(self) -> (u64, u64) {
        (self.start * DISK_SECTORS, (self.start + self.sectors) * DISK_SECTORS)
    }
}

/// Where everything behind the file system is. All in sectors of 2048 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HybridLayout {
    /// Sectors of the volume, as its descriptors tell.
    pub(crate) volume: u64,
    /// The appended partitions, in the order of [`Hybrid::appended`].
    pub(crate) appended: Vec<SectorRange>,
    /// Whether there is a GPT.
    gpt: bool,
    /// Sectors of the whole image.
    pub(crate) total: u64,
}

/// What the MBR and the GPT say, encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskAreas {
    /// The system area, as far as it is used.
    pub(crate) system_area: Vec<u8>,
    /// The image's last bytes.
    pub(crate) backup: Vec<u8>,
}

impl HybridLayout {
    /// For a file system that ends before sector `end` and `padding` sectors of zeros. Appended
    /// partitions have that many bytes, and begin at a multiple of `alignment` bytes. `in_gpt`:
    /// a boot image is to be in the GPT.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for options that contradict each other.
    pub(crate) fn new(
        hybrid: &Hybrid,
        appended_bytes: &[u64],
        in_gpt: bool,
        end: u64,
        padding: u64,
        alignment: u64,
    ) -> Result<Self> {
        check(hybrid)?;
        let appends = !appended_bytes.is_empty();
        let gpt = in_gpt || (hybrid.appended_as_gpt && appends);
        let backup = if gpt { BACKUP } else { 0 };
        let behind = padding + backup;
        let mut volume = if appends { end } else { end + behind };
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
            total += behind;
        }
        Ok(Self { volume, appended, gpt, total })
    }

    /// Encodes what the disk says of itself.
    ///
    /// `loader` is where the boot image for BIOS begins (a sector of 2048 bytes), `images` are
    /// the boot images that are to be in the GPT. Every identifier comes from `seed`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if there is code but no boot image for
    /// it, or too many partitions; [`ErrorKind::Limit`](crate::ErrorKind::Limit) for a disk that
    /// an MBR cannot describe.
    pub(crate) fn encode(
        &self,
        hybrid: &Hybrid,
        loader: Option<u32>,
        images: &[SectorRange],
        seed: &[u8],
    ) -> Result<DiskAreas> {
        let mut areas = DiskAreas { system_area: Vec::new(), backup: Vec::new() };
        if hybrid.isohybrid_mbr.is_none() && hybrid.grub2_mbr.is_none() {
            if !self.gpt && self.appended.is_empty() {
                return Ok(areas);
            }
        } else if loader.is_none() {
            let message = "the MBR's code needs a boot image for BIOS, without emulation";
            return Err(Error::invalid(message));
        }
        let mut sector = [0; to_usize(mbr::SECTOR)];
        put_code(&mut sector, hybrid, loader.unwrap_or(0));
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
        areas.system_area.extend_from_slice(&sector);
        if self.gpt {
            let partitions = self.gpt_partitions(hybrid, images, &ids)?;
            let reserved = SYSTEM_AREA / gpt::SECTOR;
            let sectors = self.total * DISK_SECTORS;
            let gpt = gpt::encode(ids.guid(0), &partitions, reserved, sectors);
            areas.system_area.extend_from_slice(&[gpt.header, gpt.entries.clone()].concat());
            areas.backup = [gpt.entries, gpt.backup_header].concat();
        }
        Ok(areas)
    }

    /// Whether the GPT is what counts.
    fn is_protective(&self, hybrid: &Hybrid) -> bool {
        let appended = hybrid.appended_as_gpt && !self.appended.is_empty();
        self.gpt && (appended || hybrid.isohybrid_mbr.is_none())
    }

    fn mbr_partitions(&self, hybrid: &Hybrid, images: &[SectorRange]) -> Result<Vec<MbrPartition>> {
        let has_code = hybrid.isohybrid_mbr.is_some() || hybrid.grub2_mbr.is_some();
        let partition = |number, kind, first: u64, end: u64| {
            let narrow = |sector: u64| {
                u32::try_from(sector)
                    .map_err(|_| Error::limit("an MBR cannot describe a disk of 2 TiB and more"))
            };
            let (first_sector, sectors) = (narrow(first)?, narrow(end - first)?);
            let active = has_code && number == 1;
            Ok::<_, Error>(MbrPartition { number, active, kind, first_sector, sectors })
        };
        let mut partitions = Vec::new();
        for (appended, stretch) in hybrid.appended.iter().zip(&self.appended) {
            let (first, end) = stretch.on_disk();
            partitions.push(partition(to_u8(appended.number), appended.kind, first, end)?);
        }
        let mut free =
            (1..=4u8).filter(|&n| !hybrid.appended.iter().any(|a| a.number == u32::from(n)));
        // An appended partition with number 1 takes the volume's place.
        if free.clone().next() == Some(1) {
            let kind = match (&hybrid.isohybrid_mbr, images) {
                (Some(_), []) => ISOHYBRID_KIND,
                (Some(_), _) => ISOHYBRID_OVER_EFI,
                (None, _) => LINUX,
            };
            let first = u64::from(hybrid.partition_offset) * DISK_SECTORS;
            let end = self.volume * DISK_SECTORS;
            if first >= end {
                return Err(Error::invalid("the first partition would begin behind the volume"));
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
                .ok_or_else(|| Error::invalid("a GPT has 128 partitions, not more"))?;
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
                add(None, Guid::BASIC_DATA, (at, first), KEEP_OFF, gap_name(at))?;
            }
            let name = format!("Boot{}", index + 1);
            add(None, Guid::BASIC_DATA, (first, end), KEEP_OFF, name)?;
            at = end;
        }
        if at < usable {
            add(None, Guid::BASIC_DATA, (at, usable), KEEP_OFF, gap_name(at))?;
        }
        for (appended, stretch) in hybrid.appended.iter().zip(&self.appended) {
            let kind = if appended.kind == EFI { Guid::EFI_SYSTEM } else { Guid::BASIC_DATA };
            let name = format!("Appended{}", appended.number);
            add(Some(appended.number), kind, stretch.on_disk(), 0, name)?;
        }
        partitions.sort_by_key(|partition| partition.number);
        Ok(partitions)
    }
}

/// Options that contradict each other, or what they are about.
fn check(hybrid: &Hybrid) -> Result<()> {
    match (&hybrid.isohybrid_mbr, &hybrid.grub2_mbr) {
        (Some(_), Some(_)) => return Err(Error::invalid("there is room for one MBR, not for two")),
        (Some(code), None) if code.len() < LOADER_ADDRESS => {
            let message = format!("isohybrid's MBR has {LOADER_ADDRESS} bytes, not {}", code.len());
            return Err(Error::invalid(message).hint("give syslinux's isohdpfx.bin"));
        }
        (None, Some(code)) if code.len() < GRUB2_CODE => {
            let message = format!("GRUB's MBR has {GRUB2_CODE} bytes at least, not {}", code.len());
            return Err(Error::invalid(message).hint("give GRUB's boot_hybrid.img"));
        }
        _ => {}
    }
    let most = if hybrid.appended_as_gpt { 128 } else { 4 };
    for (index, appended) in hybrid.appended.iter().enumerate() {
        let number = appended.number;
        if !(1..=most).contains(&number) {
            let message = format!("a partition of number {number}: 1 to {most} are possible");
            return Err(Error::invalid(message));
        }
        if hybrid.appended[..index].iter().any(|other| other.number == number) {
            return Err(Error::invalid(format!("two partitions of number {number}")));
        }
    }
    Ok(())
}

/// The code, and where it finds the boot image.
fn put_code(sector: &mut [u8; to_usize(mbr::SECTOR)], hybrid: &Hybrid, image: u32) {
    let image = u64::from(image) * DISK_SECTORS;
    let (code, address) = match (&hybrid.isohybrid_mbr, &hybrid.grub2_mbr) {
        (Some(code), _) => (&code[..LOADER_ADDRESS], image),
        (None, Some(code)) => (&code[..GRUB2_CODE], image + GRUB2_MBR_SKIPS),
        (None, None) => return,
    };
    sector[..code.len()].copy_from_slice(code);
    sector[LOADER_ADDRESS..][..8].copy_from_slice(&address.to_le_bytes());
}

/// Identifiers that look random and are not: the same image gets the same ones.
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

    /// The GPT's own, 0, or that of a partition.
    fn guid(&self, number: u32) -> Guid {
        Guid::from_digest(self.bytes(number))
    }

    /// The MBR's; not 0, which means that there is none.
    fn disk(&self) -> u32 {
        u32::from_le_bytes(self.bytes(u32::MAX)).max(1)
    }
}

#[cfg(test)]
mod tests;
