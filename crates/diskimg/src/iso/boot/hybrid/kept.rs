//! The boot structure of an image that is rebuilt: partitions refer to what they contain, so that
//! they have the right addresses when everything has been moved.
//!
//! ```text
//!   GPT  1 "Gap0"       64 .. 148      Fixed(64) .. Start(efi.img)
//!        2 "EFI boot"  148 .. 3028     Start(efi.img) .. End(efi.img)
//!        3 "Gap1"     3028 .. 5192     End(efi.img) .. UsableEnd
//! ```

use super::encode::{NewApm, NewGpt, NewMbr, Tables};
use super::{DISK_SECTORS, DiskAreas, HybridLayout, SectorRange};
use crate::error::{Error, Result};
use crate::iso::boot::system_area::GRUB2_MBR_SKIPS;
use crate::iso::write::BootImage;
use crate::partition::ApmPartition;
use crate::partition::gpt::{GptPartition, Guid, Placement};
use crate::partition::mbr::{Geometry, MbrPartition};
use sha2::{Digest, Sha256};
use std::collections::HashSet;

/// A boundary of a partition. Sectors have 512 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edge {
    /// A sector of the system area, or of the descriptors that follow it.
    Fixed(u64),
    /// The first sector of an object.
    Start(usize),
    /// The first sector after an object, which ends at a multiple of 2048 bytes.
    End(usize),
    /// A sector of an object, counted from its start. If the length of the object has changed, as
    /// [`End`](Self::End).
    Within(usize, u64),
    /// The end of the volume.
    VolumeEnd,
    /// The end of the image.
    ImageEnd,
    /// The end of the sectors that partitions of the GPT can use.
    UsableEnd,
}

/// The boundaries of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: Edge,
    pub(crate) end: Edge,
}

/// What a partition or the boot code refers to: a file, or contents without a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeptObject {
    pub(crate) image: BootImage,
    /// Length in bytes in the original image.
    pub(crate) len: u64,
}

/// The boot loader that the code in the MBR loads, as the index of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeptLoader {
    Isohybrid(usize),
    Grub2(usize),
}

/// The GPT of the original image.
#[derive(Debug, Clone)]
pub(crate) struct KeptGpt {
    pub(crate) disk_id: Guid,
    pub(crate) placement: Placement,
    pub(crate) partitions: Vec<(GptPartition, Span)>,
    /// A partition that fills a gap between others. If there is one, no gaps are left.
    pub(crate) gap: Option<GptPartition>,
    /// True if that includes the gap after the last partition.
    pub(crate) to_end: bool,
}

/// The Apple partition map of the original image.
#[derive(Debug, Clone)]
pub(crate) struct KeptApm {
    /// Block size in bytes.
    pub(crate) block: u32,
    /// Length in bytes of the blocks in which addresses are counted.
    pub(crate) unit: u64,
    pub(crate) partitions: Vec<(ApmPartition, Span)>,
}

/// The boot structure of the original image.
#[derive(Debug, Clone)]
pub(crate) struct KeptTables {
    /// The system area, with its old tables.
    pub(crate) area: Vec<u8>,
    pub(crate) geometry: Geometry,
    /// True if the volume is a multiple of the cylinder size.
    pub(crate) aligned: bool,
    /// What partitions and the boot code refer to, in the order of the original image.
    pub(crate) objects: Vec<KeptObject>,
    pub(crate) loader: Option<KeptLoader>,
    /// Disk signature, and partitions of the MBR.
    pub(crate) mbr: Option<(u32, Vec<(MbrPartition, Span)>)>,
    pub(crate) gpt: Option<KeptGpt>,
    pub(crate) apm: Option<KeptApm>,
}

/// Position and length of an object in the new image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ObjectPlace {
    pub(crate) range: SectorRange,
    /// Length in bytes.
    pub(crate) len: u64,
}

impl HybridLayout {
    /// Encodes the tables of an image that is rebuilt. `places` are the positions of its objects.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Limit`](crate::ErrorKind::Limit) if the disk is too large for one of
    /// the tables, [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if a table does not fit.
    pub(crate) fn encode_kept(
        &self,
        kept: &KeptTables,
        places: &[ObjectPlace],
    ) -> Result<DiskAreas> {
        let resolver = Resolver { layout: self, kept, places };
        let start = |object: usize| resolver.sector(Edge::Start(object));
        let tables = Tables {
            template: kept.area.clone(),
            loader_address: kept.loader.map(|loader| match loader {
                KeptLoader::Isohybrid(object) => start(object),
                KeptLoader::Grub2(object) => start(object) + GRUB2_MBR_SKIPS,
            }),
            mbr: resolver.mbr()?,
            gpt: resolver.gpt()?,
            apm: resolver.apm()?,
        };
        tables.encode(self.disk_sectors())
    }
}

struct Resolver<'a> {
    layout: &'a HybridLayout,
    kept: &'a KeptTables,
    places: &'a [ObjectPlace],
}

impl Resolver<'_> {
    fn sector(&self, edge: Edge) -> u64 {
        let place = |object: usize| self.places[object];
        let end = |object| place(object).range.on_disk().1;
        match edge {
            Edge::Fixed(sector) => sector,
            Edge::Start(object) => place(object).range.on_disk().0,
            Edge::End(object) => end(object),
            Edge::Within(object, sector) if place(object).len == self.kept.objects[object].len => {
                place(object).range.on_disk().0 + sector
            }
            Edge::Within(object, _) => end(object),
            Edge::VolumeEnd => self.layout.volume * DISK_SECTORS,
            Edge::ImageEnd => self.layout.disk_sectors(),
            Edge::UsableEnd => self.usable_end(),
        }
    }

    fn usable_end(&self) -> u64 {
        let sectors = self.layout.disk_sectors();
        self.layout.gpt.map_or(sectors, |placement| placement.usable_end(sectors))
    }

    /// Returns first sector and end (exclusive), or `None` if nothing is left of the partition,
    /// which filled a gap.
    fn range(&self, span: Span) -> Option<(u64, u64)> {
        let (start, end) = (self.sector(span.start), self.sector(span.end));
        (start < end).then_some((start, end))
    }

    fn mbr(&self) -> Result<Option<NewMbr>> {
        let Some((disk_id, partitions)) = &self.kept.mbr else { return Ok(None) };
        let too_large = |_| Error::limit("the image is too large for an MBR (2 TiB)");
        let moved = partitions.iter().filter_map(|(old, span)| {
            // An entry without sectors has no range.
            if old.sectors == 0 {
                return Some(Ok(*old));
            }
            let (first, end) = self.range(*span)?;
            let protective = old.kind == crate::partition::mbr::PROTECTIVE;
            let sectors = match u32::try_from(end - first) {
                Err(_) if protective => Ok(u32::MAX),
                sectors => sectors.map_err(too_large),
            };
            Some(sectors.and_then(|sectors| {
                let first_sector = u32::try_from(first).map_err(too_large)?;
                Ok(MbrPartition { first_sector, sectors, ..*old })
            }))
        });
        let partitions = moved.collect::<Result<Vec<_>>>()?;
        Ok(Some(NewMbr { disk_id: *disk_id, geometry: self.kept.geometry, partitions }))
    }

    fn gpt(&self) -> Result<Option<NewGpt>> {
        let Some(gpt) = &self.kept.gpt else { return Ok(None) };
        let moved = gpt.partitions.iter().filter_map(|(old, span)| {
            let (first, end) = self.range(*span)?;
            let end = end.min(self.usable_end());
            (first < end).then(|| GptPartition {
                first_sector: first,
                last_sector: end - 1,
                ..old.clone()
            })
        });
        let mut partitions: Vec<_> = moved.collect();
        if let Some(gap) = &gpt.gap {
            self.fill_gaps(gpt, gap, &mut partitions)?;
        }
        partitions.sort_by_key(|partition| partition.number);
        Ok(Some(NewGpt { disk_id: gpt.disk_id, placement: gpt.placement, partitions }))
    }

    /// Adds a partition for each range between the others that none of them covers.
    fn fill_gaps(
        &self,
        gpt: &KeptGpt,
        gap: &GptPartition,
        partitions: &mut Vec<GptPartition>,
    ) -> Result<()> {
        let mut covered: Vec<_> =
            partitions.iter().map(|p| (p.first_sector, p.last_sector + 1)).collect();
        covered.sort_unstable();
        if gpt.to_end {
            covered.push((self.usable_end(), self.usable_end()));
        }
        let taken: HashSet<_> = partitions.iter().map(|p| p.number).collect();
        let mut free = (1..=gpt.placement.count).filter(|n| !taken.contains(n));
        let mut at = covered.first().map_or(0, |(first, _)| *first);
        for (first, end) in covered {
            if at < first {
                let number = free.next();
                let number =
                    number.ok_or_else(|| Error::invalid("no entry of the GPT is unused"))?;
                partitions.push(GptPartition {
                    number,
                    id: derived_id(gpt.disk_id, number),
                    first_sector: at,
                    last_sector: first - 1,
                    name: format!("Gap{number}"),
                    ..gap.clone()
                });
            }
            at = at.max(end);
        }
        Ok(())
    }

    fn apm(&self) -> Result<Option<NewApm>> {
        let Some(apm) = &self.kept.apm else { return Ok(None) };
        let per_unit = (apm.unit / crate::partition::mbr::SECTOR).max(1);
        let too_large = |_| Error::limit("the image is too large for an Apple partition map");
        let moved = apm.partitions.iter().filter_map(|(old, span)| {
            let (first, end) = self.range(*span)?;
            let (first, end) = (first / per_unit, end.div_ceil(per_unit));
            let narrow = |blocks: u64| u32::try_from(blocks).map_err(too_large);
            Some(narrow(first).and_then(|first_block| {
                Ok(ApmPartition { first_block, blocks: narrow(end)? - first_block, ..old.clone() })
            }))
        });
        let partitions = moved.collect::<Result<Vec<_>>>()?;
        let partitions = (1..).zip(partitions).map(|(number, p)| ApmPartition { number, ..p });
        Ok(Some(NewApm { block: apm.block, partitions: partitions.collect() }))
    }
}

/// Returns an identifier for a new partition of a disk with this identifier.
fn derived_id(disk: Guid, number: u32) -> Guid {
    let digest = Sha256::new().chain_update(disk.0).chain_update(number.to_le_bytes()).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Guid::from_digest(bytes)
}
