//! The boot structure of an image, in terms of what each partition contains.
//!
//! Partition tables have only sector numbers. Here, each partition is assigned an object (a file, a
//! range after the file system, or a range inside it that no file has) or boundaries relative to
//! objects and to the volume. The objects keep their order in the new image.

use super::Droppable;
use super::foreign;
use super::partitions::{Partition, Partitions};
use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::iso::boot::hybrid::kept::{
    Edge, KeptApm, KeptGpt, KeptLoader, KeptObject, KeptTables, Span,
};
use crate::iso::boot::system_area::{GRUB2_MBR_SKIPS, LOADER_ADDRESS, SYSTEM_AREA};
use crate::iso::boot::{BootCatalog, Loader, SystemArea};
use crate::iso::write::{AppendedPartition, BootImage, PartitionContents};
use crate::partition::mbr::{self, Geometry};
use crate::partition::{apm, le64};
use crate::remedy::Remedy;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::{Source, WindowSource, read_if_inside};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

/// Number of disk sectors (512 bytes) in a sector of 2048 bytes.
const DISK_SECTORS: u64 = SECTOR / mbr::SECTOR;

/// Length of the boot code in an MBR in bytes.
const MBR_CODE: usize = 440;

/// First disk sector after the system area.
const SYSTEM_AREA_END: u64 = SYSTEM_AREA / mbr::SECTOR;

/// Where the contents of files are. Offsets and lengths are in bytes.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// Path and length of each file that is stored without a gap, by its offset.
    pub(super) by_offset: BTreeMap<u64, (Vec<u8>, u64)>,
    /// End of each file extent and directory, by its offset.
    pub(super) extents: BTreeMap<u64, u64>,
}

impl Files {
    /// Returns true if a part of `range` belongs to a file or directory.
    fn overlap(&self, range: &Range<u64>) -> bool {
        let before = self.extents.range(..range.end).next_back();
        before.is_some_and(|(_, &end)| end > range.start)
    }

    /// Returns the end of the last file or directory.
    fn end(&self) -> u64 {
        self.extents.values().copied().max().unwrap_or(0)
    }
}

/// The boot structure.
#[derive(Debug, Default)]
pub(super) struct Structure {
    pub(super) kept: Option<KeptTables>,
    pub(super) appended: Vec<AppendedPartition>,
    pub(super) unlisted: Vec<PartitionContents>,
    /// The boot image of each entry of the catalog.
    pub(super) images: Vec<BootImage>,
    /// First sector of a partition with a second set of volume descriptors; 0 if there is none.
    pub(super) partition_offset: u32,
    /// What was left out.
    pub(super) warnings: Vec<String>,
}

/// An object, with its range in bytes.
struct Object {
    range: Range<u64>,
    image: BootImage,
}

impl Object {
    fn first(&self) -> u64 {
        self.range.start / mbr::SECTOR
    }

    /// Returns the first sector after the object, which ends at a multiple of 2048 bytes.
    fn end(&self) -> u64 {
        self.range.end.div_ceil(SECTOR) * DISK_SECTORS
    }
}

/// Finds the objects, and expresses partitions in terms of them.
pub(super) struct Finder<'a> {
    source: &'a Arc<dyn Source>,
    catalog: Option<&'a BootCatalog>,
    files: &'a Files,
    dropped: &'a [Droppable],
    area: SystemArea,
    partitions: Vec<Partition>,
    objects: Vec<Object>,
    /// The objects, by first sector and by the first sector after them.
    by_start: HashMap<u64, usize>,
    by_end: HashMap<u64, usize>,
    /// Leave out the code in the MBR.
    drops_code: bool,
    found: Structure,
    /// Ends of the volume, in disk sectors.
    volume_ends: Vec<u64>,
}

impl<'a> Finder<'a> {
    /// `volume_ends` are the ends of the volumes that the volume descriptors describe, in sectors
    /// of 2048 bytes.
    pub(super) fn new(
        source: &'a Arc<dyn Source>,
        catalog: Option<&'a BootCatalog>,
        files: &'a Files,
        volume_ends: impl Iterator<Item = u64>,
        dropped: &'a [Droppable],
    ) -> Result<Self> {
        let area = SystemArea::read(&**source, catalog)?;
        let volume_ends = volume_ends.map(|end| end * DISK_SECTORS).collect();
        Ok(Self {
            source,
            catalog,
            files,
            dropped,
            area,
            partitions: Vec::new(),
            objects: Vec::new(),
            by_start: HashMap::new(),
            by_end: HashMap::new(),
            drops_code: false,
            found: Structure::default(),
            volume_ends,
        })
    }

    /// Returns the structure.
    ///
    /// # Errors
    /// Returns [`Unsupported`](crate::ErrorKind::Unsupported) if a part of it cannot be kept and is
    /// not to be dropped.
    pub(super) fn find(mut self) -> Result<Structure> {
        let mut bytes = vec![0; to_usize(self.source.len().min(SYSTEM_AREA))];
        self.source
            .read_exact_at(&mut bytes, 0)
            .map_err(|e| Error::io("cannot read", e).in_structure("system area").at(0))?;
        if let Some(what) = foreign::boot_sector(&bytes) {
            self.drop(Droppable::SystemArea, format!("the {what} in the system area"))?;
            (self.area.mbr, self.area.gpt, self.area.apm) = (None, None, None);
            (self.area.loader, self.area.used) = (None, false);
        }
        let is_object = |first| self.files.by_offset.contains_key(&(first * mbr::SECTOR));
        self.partitions = Partitions::of(&self.area, is_object);
        self.check_gpt()?;
        self.find_objects()?;
        self.found.images = self.boot_images()?;
        let loader = self.loader(&bytes)?;
        self.objects.sort_by_key(|object| object.range.start);
        let objects = self.objects.iter().enumerate();
        (self.by_start, self.by_end) =
            objects.map(|(at, object)| ((object.first(), at), (object.end(), at))).unzip();
        if let Some(first) = self.objects.iter().find(|object| self.is_appended(object)) {
            self.volume_ends.push(first.first());
        }
        self.found.partition_offset = self.second_descriptors()?;
        if self.area.used {
            self.found.kept = Some(self.tables(bytes, loader)?);
        }
        Ok(self.found)
    }

    /// Records what is left out, or returns an error if it must not be.
    fn drop(&mut self, what: Droppable, description: String) -> Result<()> {
        if !self.dropped.contains(&what) {
            let message = format!("{description} cannot be kept");
            return Err(Error::unsupported(message).with_remedy(Remedy::DropFromImage(what.name())));
        }
        self.found.warnings.push(format!("{description} is left out"));
        Ok(())
    }

    fn check_gpt(&mut self) -> Result<()> {
        let valid = |gpt: &crate::partition::Gpt| gpt.primary_valid || gpt.backup_valid;
        if self.area.gpt.as_ref().is_some_and(|gpt| !valid(gpt)) {
            self.drop(Droppable::Partitions, "the GPT, of which both copies are damaged,".into())?;
            self.area.gpt = None;
            self.partitions.retain(|partition| !partition.is_gpt());
        }
        Ok(())
    }

    fn is_appended(&self, object: &Object) -> bool {
        matches!(object.image, BootImage::AppendedPartition(_))
    }

    fn window(&self, range: Range<u64>) -> Result<PartitionContents> {
        let at = range.start;
        let window = WindowSource::new(Arc::clone(self.source), range).map_err(|e| {
            Error::io("a boot image or partition is not within the image", e).at(at)
        })?;
        Ok(PartitionContents::Source(Arc::new(window)))
    }

    /// Finds what the partitions contain.
    fn find_objects(&mut self) -> Result<()> {
        let data_end = self.files.end();
        let mut starts = HashSet::new();
        // Gaps may overlap. If they do, those that remain are kept like partitions with contents.
        let mut left = self.source.len().saturating_mul(2);
        for at in 0..self.partitions.len() {
            let range = self.partitions[at].bytes();
            // A partition with the name of a gap may have been appended by a user.
            if self.partitions[at].gap && range.start >= data_end {
                let len = range.end.min(self.source.len()).saturating_sub(range.start);
                let is_read = left.checked_sub(len).inspect(|&rest| left = rest).is_some();
                self.partitions[at].gap = is_read && self.is_zero(range.clone())?;
            }
            let partition = &self.partitions[at];
            let possible = !partition.gap && partition.first >= SYSTEM_AREA_END;
            let inside = range.end <= self.source.len() && !range.is_empty();
            // Contents that overlap would be stored several times.
            let overlaps = |object: &Object| {
                let is_file = matches!(object.image, BootImage::File(_));
                !is_file && object.range.start < range.end && range.start < object.range.end
            };
            let new = !starts.contains(&range.start) && !self.objects.iter().any(overlaps);
            if possible && inside && new {
                let known = self.objects.len();
                self.find_object(partition.clone(), range, data_end)?;
                starts.extend(self.objects[known..].iter().map(|object| object.range.start));
            }
        }
        // Appended partitions keep their order in the image.
        let number = |object: &Object| match object.image {
            BootImage::AppendedPartition(number) => Some((number, object.range.start)),
            _ => None,
        };
        let starts: HashMap<_, _> = self.objects.iter().filter_map(number).collect();
        self.found.appended.sort_by_key(|appended| starts.get(&appended.number));
        Ok(())
    }

    /// Returns true if the image has only zeros in a range, or ends before it.
    fn is_zero(&self, range: Range<u64>) -> Result<bool> {
        let mut buf = vec![0; 64 << 10];
        let mut at = range.start;
        let end = range.end.min(self.source.len());
        while at < end {
            let len = to_usize(to_u64(buf.len()).min(end - at));
            self.source
                .read_exact_at(&mut buf[..len], at)
                .map_err(|e| Error::io("cannot read a partition", e).at(at))?;
            if !crate::storage::zeros::is_zero(&buf[..len]) {
                return Ok(false);
            }
            at += to_u64(len);
        }
        Ok(true)
    }

    /// Adds what a partition contains to the objects, if it is something that can be moved.
    fn find_object(
        &mut self,
        partition: Partition,
        range: Range<u64>,
        data_end: u64,
    ) -> Result<()> {
        if let Some((path, len)) = self.files.by_offset.get(&range.start) {
            // A partition may be shorter than its file, or as long as the sectors of the file.
            if range.end <= range.start + len.next_multiple_of(SECTOR) {
                let image = BootImage::File(super::utf8(path)?);
                self.objects.push(Object { range: range.start..range.start + len, image });
            }
        } else if range.start >= data_end {
            let contents = self.window(range.clone())?;
            let number = self.free_number(partition.number);
            let (kind, gpt_kind) = partition.kinds();
            let mut appended = AppendedPartition::with_contents(number, kind, contents);
            appended.gpt_kind = gpt_kind;
            self.found.appended.push(appended);
            self.objects.push(Object { range, image: BootImage::AppendedPartition(number) });
        } else if !self.files.overlap(&range) {
            self.add_unlisted(range)?;
        }
        Ok(())
    }

    /// Returns a number for an appended partition, which only identifies it.
    fn free_number(&self, wanted: u32) -> u32 {
        let taken: HashSet<_> = self.found.appended.iter().map(|one| one.number).collect();
        let is_free = |n: &u32| *n > 0 && !taken.contains(n);
        std::iter::once(wanted).chain(1..).find(is_free).unwrap_or(wanted)
    }

    /// Adds contents that no file has. Returns the index of their object.
    fn add_unlisted(&mut self, range: Range<u64>) -> Result<usize> {
        let contents = self.window(range.clone())?;
        let image = BootImage::Unlisted(self.found.unlisted.len());
        self.found.unlisted.push(contents);
        self.objects.push(Object { range, image });
        Ok(self.objects.len() - 1)
    }

    /// Returns the boot image of each entry of the catalog.
    fn boot_images(&mut self) -> Result<Vec<BootImage>> {
        let entries = self.catalog.map_or(&[][..], |catalog| &catalog.entries);
        let mut images = Vec::new();
        for entry in entries {
            let start = entry.start();
            let object = match self.object_at(start)? {
                Some(object) => object,
                None => {
                    // It ends at the next file or boot image.
                    let files = self.files.extents.range(start + 1..).next().map(|(&at, _)| at);
                    let others = entries.iter().map(|entry| entry.start());
                    let objects = self.objects.iter().map(|object| object.range.start);
                    let next = files.into_iter().chain(others).chain(objects);
                    let next = next.filter(|&next| next > start).min();
                    let next = next.unwrap_or(self.source.len());
                    let len = entry.image_bytes(None, Some(next));
                    self.add_unlisted(start..start.saturating_add(len))?
                }
            };
            images.push(self.objects[object].image.clone());
        }
        Ok(images)
    }

    /// Returns the index of the object that starts at `offset`. Adds the file that starts there if
    /// it is not an object yet.
    fn object_at(&mut self, offset: u64) -> Result<Option<usize>> {
        if let Some(at) = self.objects.iter().position(|object| object.range.start == offset) {
            return Ok(Some(at));
        }
        let Some((path, len)) = self.files.by_offset.get(&offset) else { return Ok(None) };
        let image = BootImage::File(super::utf8(path)?);
        self.objects.push(Object { range: offset..offset + len, image });
        Ok(Some(self.objects.len() - 1))
    }

    /// Returns the offset of the boot image that the code in the MBR loads, and whether it is
    /// GRUB's.
    fn loader(&mut self, bytes: &[u8]) -> Result<Option<(u64, bool)>> {
        match self.area.loader {
            Some(Loader::Isohybrid { start_sector }) => {
                return Ok(Some((u64::from(start_sector) * SECTOR, false)));
            }
            Some(Loader::Grub2 { start_sector }) => {
                return Ok(Some((u64::from(start_sector) * SECTOR, true)));
            }
            None => {}
        }
        let Some(sector) = bytes.get(..512).filter(|_| self.area.mbr.is_some()) else {
            return Ok(None);
        };
        let address = le64(sector, LOADER_ADDRESS);
        let image_end = self.source.len() / mbr::SECTOR;
        if !(SYSTEM_AREA_END..image_end).contains(&address) {
            return Ok(None);
        }
        // The boot image need not be in the catalog.
        for (skipped, grub2) in [(0, false), (GRUB2_MBR_SKIPS, true)] {
            let offset = address.saturating_sub(skipped).saturating_mul(mbr::SECTOR);
            if self.object_at(offset)?.is_some() {
                return Ok(Some((offset, grub2)));
            }
        }
        // Other boot code after the MBR is part of the system area, and so is what it refers to.
        if bytes.get(512..).is_some_and(|rest| foreign::has_code(rest, &self.area)) {
            return Ok(None);
        }
        let description = format!(
            "the boot code in the MBR, which refers to sector {address} (512 bytes each), where no \
             boot image begins,"
        );
        self.drop(Droppable::SystemArea, description)?;
        self.drops_code = true;
        Ok(None)
    }

    /// Expresses the tables in terms of the objects.
    fn tables(&mut self, mut bytes: Vec<u8>, loader: Option<(u64, bool)>) -> Result<KeptTables> {
        let index = |offset| self.objects.iter().position(|object| object.range.start == offset);
        let loader = loader.and_then(|(offset, grub2)| {
            let object = index(offset)?;
            Some(if grub2 { KeptLoader::Grub2(object) } else { KeptLoader::Isohybrid(object) })
        });
        let geometry = bytes.first_chunk().map(Geometry::of).unwrap_or_default();
        let mut spans = Vec::new();
        for partition in std::mem::take(&mut self.partitions) {
            let description = &partition.description;
            let is_object = self.by_start.contains_key(&partition.first);
            if !is_object && self.has_hfs(&partition)? {
                let description = format!("the HFS+ file system in {description}");
                self.drop(Droppable::HfsPlus, description)?;
            } else if let Some(span) = self.span(&partition) {
                spans.push((partition, span));
            } else if !partition.gap {
                let description = format!(
                    "{description}, which contains neither a boot image nor an appended partition,"
                );
                self.drop(Droppable::Partitions, description)?;
            }
        }
        erase_tables(&mut bytes, &self.area);
        if self.drops_code {
            bytes.iter_mut().take(MBR_CODE).for_each(|byte| *byte = 0);
        }
        let mbr = self.area.mbr.as_ref().map(|mbr| {
            let kept = mbr.partitions.iter();
            (
                mbr.disk_id,
                kept.filter_map(|p| Some((*p, Partition::find_mbr(&spans, p)?))).collect(),
            )
        });
        let gpt = self.area.gpt.as_ref().map(|gpt| {
            let is_gap = |p: &&crate::partition::GptPartition| Partition::of_gpt(p).gap;
            let kept = gpt.partitions.iter();
            let kept = kept.filter_map(|p| Some((p.clone(), Partition::find_gpt(&spans, p)?)));
            let appends = !self.found.appended.is_empty();
            let is_last = |(partition, span): &(Partition, Span)| match span.end {
                Edge::UsableEnd | Edge::ImageEnd => partition.is_gpt(),
                Edge::VolumeEnd => partition.is_gpt() && !appends,
                _ => false,
            };
            KeptGpt {
                to_end: spans.iter().any(is_last),
                disk_id: gpt.disk_id,
                placement: gpt.placement(),
                partitions: kept.collect(),
                gap: gpt.partitions.iter().find(is_gap).cloned(),
            }
        });
        let apm = self.apm(&spans, &mut bytes);
        let cylinder = geometry.cylinder();
        let ends = [self.source.len() / mbr::SECTOR].into_iter().chain(self.volume_ends.clone());
        let aligned = matches!(loader, Some(KeptLoader::Isohybrid(_)))
            && cylinder.is_multiple_of(DISK_SECTORS)
            && ends.into_iter().any(|end| end > 0 && end.is_multiple_of(cylinder));
        let objects = self.objects.iter().map(|object| KeptObject {
            image: object.image.clone(),
            len: object.range.end - object.range.start,
        });
        let objects = objects.collect();
        Ok(KeptTables { area: bytes, geometry, aligned, objects, loader, mbr, gpt, apm })
    }

    /// Returns the Apple partition map, unless only the map itself and gaps are left of it.
    fn apm(&self, spans: &[(Partition, Span)], bytes: &mut [u8]) -> Option<KeptApm> {
        let old = self.area.apm.as_ref()?;
        let unit = Partitions::apm_unit(old, |first| self.by_start.contains_key(&first));
        let kept = old.partitions.iter();
        let kept = kept.filter_map(|p| Some((p.clone(), Partition::find_apm(spans, p)?)));
        let kept: Vec<_> = kept.collect();
        let complete = kept.len() == old.partitions.len();
        if !complete && kept.iter().all(|(p, _)| Partition::of_apm(p, unit).gap) {
            apm::erase(bytes, old.block_bytes, old.partitions.len());
            return None;
        }
        Some(KeptApm { block: old.block_bytes, unit, partitions: kept })
    }

    /// Returns the boundaries of a partition in terms of objects and the volume.
    fn span(&self, partition: &Partition) -> Option<Span> {
        let Partition { first, end, gap, .. } = *partition;
        if partition.is_extended() {
            return None;
        }
        if partition.is_map || first == end {
            return Some(Span { start: Edge::Fixed(first), end: Edge::Fixed(end) });
        }
        let end_of = |sector| self.by_end.get(&sector).copied();
        // A partition that is longer than the object at its start fills a gap if it begins where
        // another object ends.
        let fills_gap = |at: usize| end > self.objects[at].end() && end_of(first).is_some();
        let object = self.by_start.get(&first).copied().filter(|&at| !gap && !fills_gap(at));
        if let Some(at) = object {
            let object = &self.objects[at];
            let end = match end < object.end() {
                true => Edge::Within(at, end - object.first()),
                false => Edge::End(at),
            };
            return Some(Span { start: Edge::Start(at), end });
        }
        let data_end = self.files.end().div_ceil(mbr::SECTOR);
        let start = match end_of(first) {
            _ if first <= SYSTEM_AREA_END => Edge::Fixed(first),
            Some(object) => Edge::End(object),
            None if self.volume_ends.contains(&first) => Edge::VolumeEnd,
            None if gap && first >= data_end => Edge::VolumeEnd,
            None => return None,
        };
        let end = self.end_edge(partition, end_of(end), data_end)?;
        Some(Span { start, end })
    }

    fn end_edge(&self, partition: &Partition, ends: Option<usize>, data_end: u64) -> Option<Edge> {
        let Partition { first, end, .. } = *partition;
        let image_end = self.source.len() / mbr::SECTOR;
        let usable_end = self.area.gpt.as_ref().map(|gpt| gpt.last_usable.saturating_add(1));
        let starts = self.by_start.get(&end).copied();
        let last = self.by_end.keys().copied().max().unwrap_or(0).max(data_end);
        Some(match (starts, ends) {
            _ if partition.is_protective() => Edge::ImageEnd,
            _ if end <= SYSTEM_AREA_END => Edge::Fixed(end),
            _ if end == image_end => Edge::ImageEnd,
            _ if Some(end) == usable_end => Edge::UsableEnd,
            _ if partition.gap && end > last => Edge::UsableEnd,
            _ if self.volume_ends.contains(&end) => Edge::VolumeEnd,
            (Some(object), _) => Edge::Start(object),
            (None, Some(object)) => Edge::End(object),
            _ if end > image_end && first <= SYSTEM_AREA_END => Edge::ImageEnd,
            _ if end >= data_end && end <= image_end => Edge::VolumeEnd,
            _ => return None,
        })
    }

    /// Returns the first sector of a partition with volume descriptors of its own, or 0.
    fn second_descriptors(&self) -> Result<u32> {
        for partition in &self.partitions {
            let sector = partition.first / DISK_SECTORS;
            // They precede the directories and files.
            let before = self.files.extents.keys().next().copied().unwrap_or(0) / SECTOR;
            let possible = SYSTEM_AREA / SECTOR..before.saturating_sub(SYSTEM_AREA / SECTOR);
            if !partition.first.is_multiple_of(DISK_SECTORS) || !possible.contains(&sector) {
                continue;
            }
            let mut start = [0; 6];
            let offset = (sector + SYSTEM_AREA / SECTOR).saturating_mul(SECTOR);
            let inside = read_if_inside(&**self.source, &mut start, offset)
                .map_err(|e| Error::io("cannot read", e).at(offset))?;
            // In a boot image or appended partition, they would be those of another file system.
            let is_object = self.by_start.contains_key(&partition.first);
            if inside && !is_object && start == *b"\x01CD001" {
                return Ok(u32::try_from(sector).unwrap_or(0));
            }
        }
        Ok(0)
    }

    /// Returns true if a partition begins with an HFS or HFS+ file system.
    fn has_hfs(&self, partition: &Partition) -> Result<bool> {
        let mut signature = [0; 2];
        let offset = partition.bytes().start.saturating_add(1024);
        let inside = read_if_inside(&**self.source, &mut signature, offset)
            .map_err(|e| Error::io("cannot read", e).at(offset))?;
        Ok(inside && matches!(&signature, b"H+" | b"HX" | b"BD"))
    }
}

/// Removes the GPT from the system area. The other tables are overwritten.
fn erase_tables(bytes: &mut [u8], area: &SystemArea) {
    let Some(gpt) = &area.gpt else { return };
    let placement = gpt.placement();
    let entries = placement.entries();
    for sectors in [1..2, entries] {
        let offset = |sector: u64| to_usize(sector.saturating_mul(mbr::SECTOR)).min(bytes.len());
        let range = offset(sectors.start)..offset(sectors.end);
        bytes[range].fill(0);
    }
}
