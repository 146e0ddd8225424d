//! The partition tables that the options describe.
//!
//! The MBR is one of three kinds. With a **GPT**, it is protective and partitions do not overlap:
//! gaps between them get their own partitions, so that they are not treated as free space. With the
//! **isohybrid MBR**, a partition covers the whole volume, and EFI boot images inside the volume
//! are further partitions; a GPT can be added for firmware that requires one. Otherwise, the first
//! partition is the volume, and appended partitions follow. xorriso creates the same tables, except
//! that the entries of its isohybrid GPT overlap.

use super::encode::{NewApm, NewGpt, NewMbr, Tables};
use super::{
    DISK_SECTORS, GRUB2_CODE, HybridLayout, ImagePartition, LayoutInput, SectorRange, geometry,
};
use crate::error::{Error, Result};
use crate::iso::boot::system_area::{GRUB2_MBR_SKIPS, LOADER_ADDRESS, SYSTEM_AREA};
use crate::iso::write::{AppendedPartition, Hybrid, PartitionKind};
use crate::partition::ApmPartition;
use crate::partition::gpt::{self, GptPartition, Guid, Placement};
use crate::partition::mbr::{self, MbrPartition};
use crate::storage::number::{to_u8, to_u32, to_u64};
use sha2::{Digest, Sha256};

/// Type of the partition for an isohybrid volume: "hidden NTFS", which is not mounted
/// automatically.
const ISOHYBRID_KIND: u8 = 0x17;

/// Type of that partition if it contains EFI partitions: "empty", because firmware rejects
/// overlapping partitions.
const ISOHYBRID_OVER_EFI: u8 = 0x00;

/// Partition type of Linux.
pub(super) const LINUX: u8 = 0x83;

/// Partition type that xorriso records for a volume with a protective partition table.
const ISO_9660: u8 = 0xcd;

/// Partition type of an EFI system partition.
pub(super) const EFI: u8 = 0xef;

/// GPT partition attributes "required" and "read-only".
const REQUIRED_READ_ONLY: u64 = 1 | 1 << 60;

/// Block size of an Apple partition map: 2048 bytes leave the second sector to a GPT or an
/// isohybrid MBR.
const APM_BLOCKS: [u32; 2] = [512, 2048];

/// The first bytes of block 0 of an Apple partition map are the first code of the MBR: here
/// `inc bp; push dx; or [bx+si], al; jmp $+4`.
const APM_BLOCK_0: [u8; 8] = [b'E', b'R', 0x08, 0x00, 0xeb, 0x02, 0xff, 0xff];

/// Number of bytes at the start of the isohybrid MBR that have no effect and that block 0 of an
/// Apple partition map replaces.
const ISOHYBRID_UNUSED: usize = 32;

impl Hybrid {
    /// Returns true if appended partitions are listed in a GPT, with a protective MBR.
    pub(super) fn has_appended_gpt(&self) -> bool {
        self.appended_as_gpt && !self.appended.is_empty()
    }

    fn has_code(&self) -> bool {
        self.isohybrid_mbr.is_some() || self.grub2_mbr.is_some()
    }
}

/// Returns true if there is to be an Apple partition map.
fn has_apm(hybrid: &Hybrid, images: &[ImagePartition]) -> bool {
    images.iter().any(|image| image.apm) || hybrid.appended_as_apm && !hybrid.appended.is_empty()
}

/// Returns the block size of the Apple partition map, which is larger if other tables need the
/// second sector.
fn apm_block(hybrid: &Hybrid, gpt: bool) -> u32 {
    APM_BLOCKS[usize::from(gpt || hybrid.isohybrid_mbr.is_some())]
}

/// Returns where the GPT is placed, if there is to be one: its entries follow the map.
pub(super) fn gpt_placement(hybrid: &Hybrid, input: &LayoutInput<'_>) -> Option<Placement> {
    let listed = input.images.iter().any(|image| image.gpt.is_some());
    if !listed && (input.appended.is_empty() || !hybrid.appended_as_gpt) {
        return None;
    }
    let mut placement = Placement::new(SYSTEM_AREA / gpt::SECTOR);
    if has_apm(hybrid, input.images) {
        let partitions = ApmList::count(hybrid, input.images);
        placement.entries_at = (to_u64(partitions) + 1) * u64::from(APM_BLOCKS[1]) / gpt::SECTOR;
    }
    Some(placement)
}

/// Returns the tables. The arguments are those of [`HybridLayout::encode`].
pub(super) fn tables(
    layout: &HybridLayout,
    hybrid: &Hybrid,
    loader: Option<u32>,
    images: &[ImagePartition],
    seed: &[u8],
) -> Result<Tables> {
    let mut tables =
        Tables { template: hybrid.system_area.clone().unwrap_or_default(), ..Tables::default() };
    let (code, skipped) = match (&hybrid.isohybrid_mbr, &hybrid.grub2_mbr) {
        (Some(code), _) => (&code[..LOADER_ADDRESS], 0),
        (None, Some(code)) => (&code[..GRUB2_CODE], GRUB2_MBR_SKIPS),
        (None, None) => (&[][..], 0),
    };
    if hybrid.has_code() {
        let message = "the boot code in the MBR requires a BIOS boot image without emulation";
        let image = loader.ok_or_else(|| Error::invalid(message))?;
        tables.loader_address = Some(u64::from(image) * DISK_SECTORS + skipped);
        let len = tables.template.len().max(code.len());
        tables.template.resize(len, 0);
        tables.template[..code.len()].copy_from_slice(code);
    }
    let apm = has_apm(hybrid, images);
    let partitioned = hybrid.has_code()
        || hybrid.protective_label
        || hybrid.partition_offset > 0
        || !layout.appended.is_empty()
        || layout.gpt.is_some();
    if !partitioned && !apm {
        return Ok(tables);
    }
    let ids = Identifiers::new(seed, &tables.template, tables.loader_address, hybrid);
    let deriver = Deriver { layout, hybrid, images };
    if partitioned {
        let partitions = deriver.mbr_partitions()?;
        tables.mbr = Some(NewMbr { disk_id: ids.disk(), geometry: geometry(hybrid), partitions });
    }
    if let Some(placement) = layout.gpt {
        let partitions = deriver.gpt_partitions(&ids)?;
        tables.gpt = Some(NewGpt { disk_id: ids.guid(0), placement, partitions });
    }
    if apm {
        let map = ApmList::map(&deriver)?;
        write_block_0(&mut tables.template, hybrid, map.block)?;
        tables.apm = Some(map);
    }
    Ok(tables)
}

/// Writes block 0 of the Apple partition map over the first bytes of the boot code.
fn write_block_0(template: &mut Vec<u8>, hybrid: &Hybrid, block: u32) -> Result<()> {
    let mut block_0 = APM_BLOCK_0.to_vec();
    block_0[2..4].copy_from_slice(&[to_u8(block >> 8), to_u8(block & 0xff)]);
    if let Some(code) = &hybrid.isohybrid_mbr {
        // `xor bp, bp` and `nop`, in any number.
        let pairs = code[..ISOHYBRID_UNUSED].chunks_exact(2);
        if !pairs.into_iter().all(|pair| matches!(pair, [0x33, 0xed] | [0x90, 0x90])) {
            let message = format!(
                "the isohybrid MBR does not begin with {ISOHYBRID_UNUSED} bytes that an Apple \
                 partition map can replace"
            );
            return Err(Error::invalid(message).hint("use isohdpfx.bin from syslinux"));
        }
        // As syslinux's isohybrid does.
        block_0[4..].copy_from_slice(&[0, 0, 0x90, 0x90]);
        block_0.resize(ISOHYBRID_UNUSED, 0);
    }
    template.resize(template.len().max(block_0.len()), 0);
    template[..block_0.len()].copy_from_slice(&block_0);
    Ok(())
}

/// Derives partitions from the options.
struct Deriver<'a> {
    layout: &'a HybridLayout,
    hybrid: &'a Hybrid,
    images: &'a [ImagePartition],
}

impl Deriver<'_> {
    /// Returns true if the MBR is a protective one for a GPT without overlapping partitions.
    fn is_protective(&self) -> bool {
        let gpt = self.layout.gpt.is_some();
        gpt && (self.hybrid.has_appended_gpt() || self.hybrid.isohybrid_mbr.is_none())
    }

    fn appended(&self) -> impl Iterator<Item = (&AppendedPartition, SectorRange)> {
        self.hybrid.appended.iter().zip(self.layout.appended.iter().copied())
    }

    /// Returns the boot images in a GPT, in the order of their addresses.
    fn gpt_images(&self) -> Vec<(SectorRange, Guid)> {
        let listed = self.images.iter().filter_map(|image| Some((image.range, image.gpt?)));
        let mut images: Vec<_> = listed.collect();
        images.sort_by_key(|(range, _)| range.start);
        images.dedup_by_key(|(range, _)| *range);
        images
    }

    fn mbr_partitions(&self) -> Result<Vec<MbrPartition>> {
        let hybrid = self.hybrid;
        let mut partitions = match self.is_protective() {
            true => {
                let sectors = u32::try_from(self.layout.disk_sectors() - 1).unwrap_or(u32::MAX);
                vec![MbrPartition {
                    number: 1,
                    active: false,
                    kind: mbr::PROTECTIVE,
                    first_sector: 1,
                    sectors,
                }]
            }
            false => self.mbr_volume_and_partitions()?,
        };
        partitions.sort_by_key(|partition| partition.number);
        let bootable = hybrid.has_code() || hybrid.protective_label || hybrid.force_active;
        let can_be_active = |p: &&mut MbrPartition| !matches!(p.kind, mbr::PROTECTIVE | EFI);
        if bootable && let Some(partition) = partitions.iter_mut().find(can_be_active) {
            partition.active = true;
        } else if hybrid.force_active {
            let taken = |n: &u8| partitions.iter().any(|partition| partition.number == *n);
            let number = (1..=4).find(|n| !taken(n));
            let message = "no entry of the MBR is unused for an active partition";
            let number = number.ok_or_else(|| Error::invalid(message))?;
            let (active, kind, first_sector, sectors) = (true, 0, 0, 1);
            partitions.push(MbrPartition { number, active, kind, first_sector, sectors });
        }
        partitions.sort_by_key(|partition| partition.number);
        Ok(partitions)
    }

    fn mbr_volume_and_partitions(&self) -> Result<Vec<MbrPartition>> {
        let hybrid = self.hybrid;
        let partition = |number, kind, first: u64, end: u64| {
            let narrow = |sector: u64| {
                u32::try_from(sector)
                    .map_err(|_| Error::limit("the image is too large for an MBR (2 TiB)"))
            };
            let (first_sector, sectors) = (narrow(first)?, narrow(end - first)?);
            Ok::<_, Error>(MbrPartition { number, active: false, kind, first_sector, sectors })
        };
        let mut partitions = Vec::new();
        for (appended, range) in self.appended() {
            let (first, end) = range.on_disk();
            partitions.push(partition(to_u8(appended.number), appended.kind, first, end)?);
        }
        let mut free =
            (1..=4u8).filter(|&n| !hybrid.appended.iter().any(|a| a.number == u32::from(n)));
        // An appended partition with the number 1 replaces that of the volume.
        if free.clone().next() == Some(1) {
            let mut first = u64::from(hybrid.partition_offset) * DISK_SECTORS;
            if hybrid.protective_label && first == 0 {
                first = 1;
            }
            let end = self.layout.volume * DISK_SECTORS;
            if first >= end {
                return Err(Error::invalid("the partition offset is beyond the end of the volume"));
            }
            partitions.push(partition(1, self.volume_kind(), first, end)?);
            free.next();
        }
        for ((range, kind), number) in self.gpt_images().into_iter().zip(free) {
            let (first, end) = range.on_disk();
            let kind = if kind == Guid::APPLE_HFS { ISOHYBRID_OVER_EFI } else { EFI };
            partitions.push(partition(number, kind, first, end)?);
        }
        Ok(partitions)
    }

    /// Returns the type of the volume's partition in the MBR.
    fn volume_kind(&self) -> u8 {
        let hybrid = self.hybrid;
        let listed = !self.images.is_empty();
        let alone = self.layout.appended.is_empty() && hybrid.grub2_mbr.is_none();
        match hybrid.volume_kind {
            Some(PartitionKind::Mbr(kind)) => kind,
            Some(PartitionKind::Gpt(kind)) => mbr_kind(kind),
            None if hybrid.isohybrid_mbr.is_some() && listed => ISOHYBRID_OVER_EFI,
            None if hybrid.isohybrid_mbr.is_some() => ISOHYBRID_KIND,
            None if hybrid.protective_label || alone => ISO_9660,
            None => LINUX,
        }
    }

    fn gpt_partitions(&self, ids: &Identifiers) -> Result<Vec<GptPartition>> {
        let hybrid = self.hybrid;
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
        let sectors = self.layout.disk_sectors();
        let usable = match (self.layout.appended.is_empty(), self.layout.gpt) {
            (true, Some(placement)) => placement.usable_end(sectors) / DISK_SECTORS * DISK_SECTORS,
            _ => self.layout.volume * DISK_SECTORS,
        };
        let offset = u64::from(hybrid.partition_offset) * DISK_SECTORS;
        let mut at = offset.max(SYSTEM_AREA / gpt::SECTOR);
        let volume_kind = match hybrid.volume_kind {
            Some(PartitionKind::Gpt(kind)) => kind,
            _ => Guid::BASIC_DATA,
        };
        let mut gaps = 0..;
        let mut gap = |at: u64| {
            let number = gaps.next().unwrap_or(0);
            match at == offset {
                true => (volume_kind, "ISO9660".to_owned()),
                false => (Guid::BASIC_DATA, format!("Gap{number}")),
            }
        };
        for (index, (range, kind)) in self.gpt_images().into_iter().enumerate() {
            let (first, end) = range.on_disk();
            if at < first {
                let (kind, name) = gap(at);
                add(None, kind, (at, first), REQUIRED_READ_ONLY, name)?;
            }
            let name = match kind {
                Guid::EFI_SYSTEM => "EFI boot partition".to_owned(),
                _ => format!("Boot{}", index + 1),
            };
            add(None, kind, (first, end), REQUIRED_READ_ONLY, name)?;
            at = end;
        }
        if at < usable {
            let (kind, name) = gap(at);
            add(None, kind, (at, usable), REQUIRED_READ_ONLY, name)?;
        }
        for (appended, range) in self.appended() {
            let name = format!("Appended{}", appended.number);
            add(Some(appended.number), appended.gpt_kind(), range.on_disk(), 0, name)?;
        }
        partitions.sort_by_key(|partition| partition.number);
        Ok(partitions)
    }
}

impl AppendedPartition {
    /// Returns the type of the partition in a GPT.
    fn gpt_kind(&self) -> Guid {
        let derived = if self.kind == EFI { Guid::EFI_SYSTEM } else { Guid::BASIC_DATA };
        self.gpt_kind.unwrap_or(derived)
    }
}

/// Returns the type in an MBR for a type in a GPT, as xorriso does.
fn mbr_kind(kind: Guid) -> u8 {
    if kind == Guid::EFI_SYSTEM { EFI } else { LINUX }
}

/// Collects the partitions of an Apple partition map: the map, boot images, appended partitions
/// and, without an isohybrid MBR, the gaps before them.
struct ApmList {
    /// Length of a block in sectors of 512 bytes.
    unit: u64,
    partitions: Vec<ApmPartition>,
}

impl ApmList {
    /// Returns the largest number of partitions, including the map.
    fn count(hybrid: &Hybrid, images: &[ImagePartition]) -> usize {
        let images = images.iter().filter(|image| image.apm).count();
        let listed = images + if hybrid.appended_as_apm { hybrid.appended.len() } else { 0 };
        let gaps = if hybrid.isohybrid_mbr.is_none() { listed } else { 0 };
        1 + listed + gaps
    }

    fn map(deriver: &Deriver<'_>) -> Result<NewApm> {
        let Deriver { layout, hybrid, images } = deriver;
        let block = apm_block(hybrid, layout.gpt.is_some());
        let mut list = Self { unit: u64::from(block) / mbr::SECTOR, partitions: Vec::new() };
        let count = Self::count(hybrid, images);
        list.add("Apple", ApmPartition::MAP, (list.unit, (to_u64(count) + 1) * list.unit))?;
        let mut at = SYSTEM_AREA / mbr::SECTOR;
        let mut images: Vec<_> = images.iter().filter(|image| image.apm).collect();
        images.sort_by_key(|image| image.range.start);
        images.dedup_by_key(|image| image.range);
        for image in images {
            list.gap(hybrid, at, image.range)?;
            list.add("EFI", ApmPartition::HFS, image.range.on_disk())?;
            at = image.range.on_disk().1;
        }
        for (appended, range) in deriver.appended().filter(|_| hybrid.appended_as_apm) {
            list.gap(hybrid, at, range)?;
            let hfs = appended.gpt_kind() == Guid::APPLE_HFS;
            let kind = if hfs { ApmPartition::HFS } else { "Data" };
            list.add(&format!("Appended{}", appended.number), kind, range.on_disk())?;
            at = range.on_disk().1;
        }
        // The map covers its own blocks, of which fewer may be needed than were expected.
        let used = to_u32(list.partitions.len());
        list.partitions[0].blocks = used;
        Ok(NewApm { block, partitions: list.partitions })
    }

    fn gap(&mut self, hybrid: &Hybrid, at: u64, next: SectorRange) -> Result<()> {
        let first = next.on_disk().0;
        if hybrid.isohybrid_mbr.is_none() && at < first {
            let name = format!("Gap{}", self.gaps());
            self.add(&name, "ISO9660_data", (at, first))?;
        }
        Ok(())
    }

    fn gaps(&self) -> usize {
        self.partitions.iter().filter(|partition| partition.name.starts_with("Gap")).count()
    }

    fn add(&mut self, name: &str, kind: &str, (first, end): (u64, u64)) -> Result<()> {
        let narrow = |sector: u64| {
            u32::try_from(sector / self.unit)
                .map_err(|_| Error::limit("the image is too large for an Apple partition map"))
        };
        let first_block = narrow(first)?;
        self.partitions.push(ApmPartition {
            number: to_u32(self.partitions.len() + 1),
            name: name.to_owned(),
            kind: kind.to_owned(),
            first_block,
            blocks: narrow(end)? - first_block,
            status: ApmPartition::usual_status(kind),
        });
        Ok(())
    }
}

/// Generator of identifiers. They look random, but are the same for the same image.
struct Identifiers {
    state: Sha256,
    /// The disk GUID that the options set.
    disk: Option<Guid>,
}

impl Identifiers {
    /// `seed` differs between images, as do the boot code and its address.
    fn new(seed: &[u8], code: &[u8], address: Option<u64>, hybrid: &Hybrid) -> Self {
        let mut sector = code.to_vec();
        sector.resize(512, 0);
        if let Some(address) = address {
            sector[LOADER_ADDRESS..][..8].copy_from_slice(&address.to_le_bytes());
        }
        let state = Sha256::new().chain_update(seed).chain_update(&sector[..512]);
        Self { state, disk: hybrid.gpt_disk_id }
    }

    fn bytes<const N: usize>(&self, label: u32) -> [u8; N] {
        let digest = self.state.clone().chain_update(label.to_le_bytes()).finalize();
        let mut bytes = [0; N];
        bytes.copy_from_slice(&digest[..N]);
        bytes
    }

    /// Returns the disk GUID (number 0), or the GUID of a partition.
    fn guid(&self, number: u32) -> Guid {
        match (self.disk, number) {
            (Some(disk), 0) => disk,
            (Some(disk), number) => {
                // As xorriso does.
                let Guid(mut bytes) = disk;
                bytes[9] ^= to_u8(number);
                Guid(bytes)
            }
            (None, number) => Guid::from_digest(self.bytes(number)),
        }
    }

    /// Returns the disk signature for the MBR. It is not 0, because 0 means that there is none.
    fn disk(&self) -> u32 {
        u32::from_le_bytes(self.bytes(u32::MAX)).max(1)
    }
}
