//! Rebuilding an existing image, with changes.

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

/// Directory for boot images that are not files in the image's tree.
const NAMELESS: &str = "boot/nameless";

/// Length of the boot code in an MBR, in bytes. The address of the loader follows it.
const BOOT_CODE: usize = 432;

impl IsoImage {
    /// Returns a builder with the contents of this image: the files of the selected name space, the
    /// identifiers in the volume descriptors, Joliet if present, and everything needed to boot. The
    /// files can then be changed; all addresses are assigned anew.
    ///
    /// Files compressed with zisofs are stored uncompressed. Boot images that are not files in the
    /// tree are added as files in `boot/nameless`.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) or [`Limit`](crate::ErrorKind::Limit) if the
    /// image cannot be read completely (nothing is skipped), [`Io`](crate::ErrorKind::Io) if
    /// reading fails.
    pub fn remaster(&self) -> Result<Builder> {
        let catalog = self.boot_catalog()?;
        let mut options = self.create_options();
        // A boot entry refers to its file only by the offset of its first byte.
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

    /// Returns the options for the same identifiers and the same trees.
    fn create_options(&self) -> CreateOptions {
        let mut options = CreateOptions::default();
        let has = |namespace| self.namespaces().any(|one| one == namespace);
        options.rock_ridge = Some(RockRidge::Preserved);
        if self.namespace() != Namespace::RockRidge {
            // Other namespaces do not record owners and permissions.
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
            options.copyright_file.clone_from(&volume.copyright_file);
            options.abstract_file.clone_from(&volume.abstract_file);
            options.bibliographic_file.clone_from(&volume.bibliographic_file);
        } else if let Some(udf) = &self.udf {
            options.volume_id = udf.info().label.chars().take(32).collect();
        }
        options
    }

    /// Returns a boot entry for `image` with the parameters of `entry`.
    fn boot_entry(&self, entry: &CatalogEntry, image: BootImage) -> Result<BootEntry> {
        let mut new = BootEntry::new(entry.platform, image);
        new.emulation = match entry.media {
            Media::NoEmulation => Emulation::None,
            Media::HardDisk => Emulation::HardDisk,
            _ => Emulation::Floppy,
        };
        new.load_segment = entry.load_segment;
        // Makers of images record 0 or 1 if the number of sectors does not fit in the field.
        new.load_sectors = Some(entry.load_sectors).filter(|&sectors| sectors > 1);
        let start = self.window(entry.start()..self.source.len())?;
        let cannot_read = |e| Error::io("cannot read the boot image", e).at(entry.start());
        let sector = entry.start_sector;
        new.info_table = tables::has_info_table(&start, sector).map_err(cannot_read)?;
        new.grub2_info = tables::has_grub2_address(&start, sector).map_err(cannot_read)?;
        Ok(new)
    }

    /// Returns a boot image that is not a file. It ends at the next boot image, or after the
    /// sectors that the firmware loads.
    fn nameless_boot_image(&self, entry: &CatalogEntry, starts: &[u64]) -> Result<WindowSource> {
        let next = starts.iter().copied().filter(|&start| start > entry.start()).min();
        let len = entry.image_bytes(None, next.or(Some(self.source.len())));
        self.window(entry.start()..entry.start().saturating_add(len))
    }

    fn window(&self, range: Range<u64>) -> Result<WindowSource> {
        let at = range.start;
        WindowSource::new(Arc::clone(&self.source), range)
            .map_err(|e| Error::io("a boot image or partition is not within the image", e).at(at))
    }

    /// Returns the options for booting the image from a disk, and the byte offset and number of
    /// each appended partition.
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
        let volume_end = self.descriptors.volumes.first().map_or(u64::MAX, |volume| volume.bytes());
        let mut partitions = Vec::new();
        for (number, kind, range) in appended(&area, &mut hybrid.appended_as_gpt) {
            if range.start >= volume_end && range.end <= self.source.len() {
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

/// Returns number, MBR partition type and byte range of all partitions: those of the GPT if it is
/// valid, without the ones that only fill gaps, else those of the MBR.
fn appended(area: &SystemArea, in_gpt: &mut bool) -> Vec<(u32, u8, Range<u64>)> {
    let byte_range =
        |first: u64, end: u64| first.saturating_mul(mbr::SECTOR)..end.saturating_mul(mbr::SECTOR);
    if let Some(gpt) = area.gpt.as_ref().filter(|gpt| gpt.primary_valid || gpt.backup_valid) {
        *in_gpt = true;
        let named = gpt.partitions.iter().filter(|partition| !partition.name.starts_with("Gap"));
        return named
            .map(|partition| {
                let kind = if partition.kind == Guid::EFI_SYSTEM { 0xEF } else { 0x83 };
                let end = partition.last_sector.saturating_add(1);
                (partition.number, kind, byte_range(partition.first_sector, end))
            })
            .collect();
    }
    let partitions = area.mbr.iter().flat_map(|mbr| &mbr.partitions);
    partitions
        .map(|partition| {
            let first = u64::from(partition.first_sector);
            let end = first + u64::from(partition.sectors);
            (partition.number.into(), partition.kind, byte_range(first, end))
        })
        .collect()
}

/// Converts the path of a boot file to the text that the options require.
fn utf8(path: &[u8]) -> Result<String> {
    String::from_utf8(path.to_vec()).map_err(|_| {
        let shown = String::from_utf8_lossy(path).into_owned();
        Error::unsupported(format!("the path of the boot file '{shown}' is not UTF-8"))
    })
}
