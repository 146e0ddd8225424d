//! Making an image anew, with changes.

use crate::error::{Error, Result};
use crate::iso::boot::{BootCatalog, CatalogEntry, Loader, Media, SystemArea, tables};
use crate::iso::image::{IsoImage, Namespace};
use crate::iso::node::FileType;
use crate::iso::read::VolumeKind;
use crate::iso::write::{
    AppendedPartition, BootEntry, BootImage, Builder, CreateOptions, Emulation, Hybrid, Joliet,
    PartitionContents, RockRidge,
};
use crate::partition::{Guid, mbr};
use crate::storage::number::to_usize;
use crate::storage::source::WindowSource;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Where boot images go that have no name in the image's tree.
const NAMELESS: &str = "boot/nameless";

/// Bytes of boot code that an MBR has room for, in front of where a loader finds its address.
const BOOT_CODE: usize = 432;

impl IsoImage {
    /// A builder that holds all that this image holds: its files by the names that are shown, its
    /// descriptors' words, Joliet if it has it, what it starts from. Changes to it make another
    /// image, whose addresses are its own.
    ///
    /// Packed files are stored unpacked. Boot images without a name get one in `boot/nameless`.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) and [`Limit`](crate::ErrorKind::Limit) if not all of
    /// it can be read: nothing is left out in silence; [`Io`](crate::ErrorKind::Io).
    pub fn remaster(&self) -> Result<Builder> {
        let catalog = self.boot_catalog()?;
        let mut options = self.same_words();
        // Files by the sector that they begin with: a boot entry has no more to say.
        let mut files = HashMap::new();
        let mut catalog_path = None;
        let mut nodes = Vec::new();
        for found in self.walk() {
            let found = found?;
            let first = found.node.extents().first().and_then(|extent| extent.offset);
            if let (FileType::Regular, Some(offset)) = (found.node.file_type, first) {
                if catalog.as_ref().is_some_and(|catalog| catalog.offset == offset) {
                    catalog_path = Some(found.path);
                    continue;
                }
                files.entry(offset).or_insert_with(|| found.path.clone());
            }
            nodes.push(found);
        }
        let mut nameless = Vec::new();
        options.boot_catalog_visible = catalog_path.is_some();
        if let Some(path) = catalog_path {
            options.boot_catalog = utf8(&path)?;
        }
        let (hybrid, partitions) = self.hybrid(catalog.as_ref())?;
        options.hybrid = hybrid;
        let entries = catalog.as_ref().map_or(&[][..], |catalog| &catalog.entries);
        let starts: Vec<_> = entries.iter().map(CatalogEntry::start).collect();
        for (index, entry) in entries.iter().enumerate() {
            let partition = partitions.iter().find(|(start, _)| *start == entry.start());
            let image = match (files.get(&entry.start()), partition) {
                (_, Some((_, number))) => BootImage::AppendedPartition(*number),
                (Some(path), None) => BootImage::File(utf8(path)?),
                (None, None) => {
                    let path = format!("{NAMELESS}/{index}.img");
                    nameless.push((path.clone(), self.nameless_boot_image(entry, &starts)?));
                    BootImage::File(path)
                }
            };
            options.boot.push(self.boot_entry(entry, image)?);
        }
        let mut builder = Builder::new(options);
        builder.add_node(b"", self.root(), None)?;
        for found in nodes {
            let regular = found.node.file_type == FileType::Regular;
            let contents = if regular { Some(self.contents(&found.node)?) } else { None };
            builder.add_node(&found.path, &found.node, contents)?;
        }
        for (path, image) in nameless {
            builder.add_source(path.as_bytes(), Arc::new(image))?;
        }
        Ok(builder)
    }

    /// What the descriptors say, and which trees there are.
    fn same_words(&self) -> CreateOptions {
        let mut options = CreateOptions::default();
        let has = |namespace| self.namespaces().any(|one| one == namespace);
        options.rock_ridge = Some(RockRidge::Preserved);
        if self.namespace() != Namespace::RockRidge {
            // Owners and permissions are not known.
            options.rock_ridge = Some(RockRidge::Rationalized);
        }
        options.joliet = has(Namespace::Joliet).then_some(Joliet::Long);
        let volumes = &self.descriptors.volumes;
        if let Some(volume) = volumes.iter().find(|v| v.kind == VolumeKind::Primary) {
            options.volume_id.clone_from(&volume.volume_id);
            options.system_id.clone_from(&volume.system_id);
            options.volume_set_id.clone_from(&volume.volume_set_id);
            options.publisher.clone_from(&volume.publisher);
            options.preparer.clone_from(&volume.preparer);
            options.application.clone_from(&volume.application);
        } else if let Some(udf) = &self.udf {
            options.volume_id = udf.info().label.chars().take(32).collect();
        }
        options
    }

    /// The entry that loads this, as the given one does.
    fn boot_entry(&self, entry: &CatalogEntry, image: BootImage) -> Result<BootEntry> {
        let mut new = BootEntry::new(entry.platform, image);
        new.emulation = match entry.media {
            Media::NoEmulation => Emulation::None,
            Media::HardDisk => Emulation::HardDisk,
            _ => Emulation::Floppy,
        };
        new.load_segment = entry.load_segment;
        // 0 and 1 stand for "see for yourself" where the true number has no room.
        new.load_sectors = Some(entry.load_sectors).filter(|&sectors| sectors > 1);
        let start = self.window(entry.start()..self.source.len())?;
        new.info_table = tables::has_info_table(&start, entry.start_sector);
        new.grub2_info = tables::has_grub2_address(&start, entry.start_sector);
        Ok(new)
    }

    /// A boot image that no file is: as far as the next thing that begins, or as
    /// the firmware loads.
    fn nameless_boot_image(&self, entry: &CatalogEntry, starts: &[u64]) -> Result<WindowSource> {
        let next = starts.iter().copied().filter(|&start| start > entry.start()).min();
        let len = entry.image_bytes(None, next.or(Some(self.source.len())));
        self.window(entry.start()..entry.start().saturating_add(len))
    }

    fn window(&self, range: Range<u64>) -> Result<WindowSource> {
        let at = range.start;
        WindowSource::new(Arc::clone(&self.source), range)
            .map_err(|e| Error::io("what the image starts from lies outside of it", e).at(at))
    }

    /// What makes the image start from a disk; and the appended partitions, where they begin and
    /// their numbers.
    fn hybrid(&self, catalog: Option<&BootCatalog>) -> Result<(Hybrid, Vec<(u64, u32)>)> {
        let mut hybrid = Hybrid::default();
        let area = SystemArea::read(&*self.source, catalog)?;
        let mut code = vec![0; BOOT_CODE.min(to_usize(self.source.len()))];
        self.source
            .read_exact_at(&mut code, 0)
            .map_err(|e| Error::io("cannot read the boot code", e))?;
        match area.loader {
            Some(Loader::Isohybrid { .. }) => hybrid.isohybrid_mbr = Some(code),
            Some(Loader::Grub2 { .. }) => hybrid.grub2_mbr = Some(code),
            None => {}
        }
        let behind = self.descriptors.volumes.first().map_or(u64::MAX, |volume| volume.bytes());
        let mut partitions = Vec::new();
        for (number, kind, range) in appended(&area, &mut hybrid.appended_as_gpt) {
            if range.start >= behind && range.end <= self.source.len() {
                let contents = PartitionContents::Source(Arc::new(self.window(range.clone())?));
                let mut partition = AppendedPartition::new(number, kind, "");
                partition.contents = contents;
                hybrid.appended.push(partition);
                partitions.push((range.start, number));
            }
        }
        hybrid.appended_as_gpt &= !partitions.is_empty();
        Ok((hybrid, partitions))
    }
}

/// Numbers, types by the MBR's count, and bytes of partitions that a maker of images appended:
/// of the GPT, if it is the one that counts, without what only fills gaps.
fn appended(area: &SystemArea, in_gpt: &mut bool) -> Vec<(u32, u8, Range<u64>)> {
    let disk_sectors = |first: u64, behind: u64| {
        first.saturating_mul(mbr::SECTOR)..behind.saturating_mul(mbr::SECTOR)
    };
    if let Some(gpt) = area.gpt.as_ref().filter(|gpt| gpt.primary_valid || gpt.backup_valid) {
        *in_gpt = true;
        let named = gpt.partitions.iter().filter(|partition| !partition.name.starts_with("Gap"));
        return named
            .map(|partition| {
                let kind = if partition.kind == Guid::EFI_SYSTEM { 0xEF } else { 0x83 };
                let behind = partition.last_sector.saturating_add(1);
                (partition.number, kind, disk_sectors(partition.first_sector, behind))
            })
            .collect();
    }
    let partitions = area.mbr.iter().flat_map(|mbr| &mbr.partitions);
    partitions
        .map(|partition| {
            let first = u64::from(partition.first_sector);
            let behind = first + u64::from(partition.sectors);
            (partition.number.into(), partition.kind, disk_sectors(first, behind))
        })
        .collect()
}

/// A path of a boot file, which options hold as text.
fn utf8(path: &[u8]) -> Result<String> {
    String::from_utf8(path.to_vec()).map_err(|_| {
        let shown = String::from_utf8_lossy(path).into_owned();
        Error::unsupported(format!("the boot file '{shown}' has a name that is not UTF-8"))
    })
}
