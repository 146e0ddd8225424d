//! Rebuilding an existing image, with changes.
//!
//! * `structure`: boot images and partitions, in terms of what they contain.
//! * `partitions`: the partitions of all tables, in one form.
//! * `foreign`: boot sectors that cannot be kept.

mod foreign;
mod partitions;
mod structure;

use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::iso::boot::{CatalogEntry, Media, tables};
use crate::iso::image::{IsoImage, Namespace};
use crate::iso::node::{FileExtent, FileType, Node};
use crate::iso::read::VolumeKind;
use crate::iso::walk::Found;
use crate::iso::write::{
    BootEntry, BootImage, Builder, CreateOptions, Emulation, Joliet, PartitionContents, RockRidge,
};
use crate::storage::source::WindowSource;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use structure::{Files, Finder, Structure};

/// Maximum offset in bytes of files that boot images or partitions can be: the sectors of an image
/// are counted with 32 bits.
const MAX_OFFSET: u64 = (1 << 32) * SECTOR;

/// A part of an image that cannot be kept when the image is rebuilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Droppable {
    /// HFS and HFS+ file systems that contain the same files as the image, with their partitions.
    HfsPlus,
    /// Partitions that contain neither a boot image nor an appended partition.
    Partitions,
    /// Boot code in the system area whose addresses are not known, as for computers other than PCs
    /// and Macs.
    SystemArea,
}

/// Options for rebuilding an image.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RemasterOptions {
    /// What may be left out if it cannot be kept. Each part that is left out is a warning of the
    /// [plan](crate::iso::write::Plan::warnings); anything else that cannot be kept is an error.
    pub drop: Vec<Droppable>,
}

impl IsoImage {
    /// Returns a builder with the contents of this image: the files of the selected name space, the
    /// identifiers and the time in the volume descriptors, Joliet and UDF if present, and everything
    /// needed to boot. The files can then be changed; all addresses are assigned anew.
    ///
    /// The boot structure is kept: the boot catalog, the code in the system area, and the entries
    /// of MBR, GPT and Apple partition map, which get the new addresses of what they contain.
    /// Contents of partitions that are neither files nor after the file system are stored without
    /// a name.
    ///
    /// Files compressed with zisofs are stored uncompressed. Directory trees that are not written
    /// again are warnings of the [plan](crate::iso::write::Plan::warnings).
    ///
    /// # Errors
    /// Returns [`Unsupported`](crate::ErrorKind::Unsupported) if a part of the boot structure
    /// cannot be kept, [`Corrupt`](crate::ErrorKind::Corrupt) or
    /// [`Limit`](crate::ErrorKind::Limit) if the image cannot be read completely (nothing is
    /// skipped) or its files overlap (see
    /// [`require_little_overlap`](Self::require_little_overlap)), [`Io`](crate::ErrorKind::Io) if
    /// reading fails.
    pub fn remaster(&self) -> Result<Builder> {
        self.remaster_with(&RemasterOptions::default())
    }

    /// As [`remaster`](Self::remaster), with options.
    ///
    /// # Errors
    /// As [`remaster`](Self::remaster).
    pub fn remaster_with(&self, remaster: &RemasterOptions) -> Result<Builder> {
        let catalog = self.boot_catalog()?;
        let mut options = self.create_options();
        let catalog_offset = catalog.as_ref().map(|catalog| catalog.offset);
        let (nodes, files, catalog_path) = self.nodes(catalog_offset)?;
        self.require_little_overlap(nodes.iter().map(|found| &found.node))?;
        options.boot_catalog_visible = catalog_path.is_some();
        if let Some(path) = catalog_path {
            options.boot_catalog = utf8(&path)?;
        }
        let volumes = self.descriptors.volumes.iter();
        let ends = volumes.map(|volume| volume.bytes().div_ceil(SECTOR));
        let finder = Finder::new(&self.source, catalog.as_ref(), &files, ends, &remaster.drop)?;
        let Structure { kept, appended, unlisted, images, partition_offset, warnings } =
            finder.find()?;
        let entries = catalog.as_ref().map_or(&[][..], |catalog| &catalog.entries);
        for (entry, image) in entries.iter().zip(images) {
            let len = self.image_len(&files, &image, &unlisted, entry);
            options.boot.push(self.boot_entry(entry, image, len)?);
        }
        let hybrid = &mut options.hybrid;
        hybrid.partition_offset = partition_offset;
        (hybrid.appended, hybrid.unlisted, hybrid.kept) = (appended, unlisted, kept.map(Arc::new));
        options.udf &= partition_offset == 0;
        let lost = self.lost_trees(options.udf);
        let mut builder = Builder::new(options);
        warnings.into_iter().for_each(|warning| builder.warn(warning));
        lost.into_iter().for_each(|warning| builder.warn(warning));
        builder.add_node(b"", self.root(), None)?;
        // All names of a file get the same source: the builder compares the bytes of others.
        let mut opened = HashMap::new();
        for Found { path, node } in &nodes {
            let regular = node.file_type == FileType::Regular;
            let contents = match opened.entry(node.contents_key()) {
                _ if !regular => None,
                Entry::Occupied(known) => Some(Arc::clone(known.get())),
                Entry::Vacant(new) => Some(Arc::clone(new.insert(self.contents(node)?))),
            };
            builder.add_node(path, node, contents)?;
        }
        Ok(builder)
    }

    /// Returns all files except the boot catalog, where their contents are, and the path of the
    /// boot catalog.
    fn nodes(&self, catalog: Option<u64>) -> Result<(Vec<Found>, Files, Option<Vec<u8>>)> {
        let mut files = Files::default();
        let mut catalog_path = None;
        let mut nodes = Vec::new();
        if let Some(catalog) = catalog {
            files.extents.insert(catalog, catalog + SECTOR);
        }
        files.add(b"", self.root());
        for found in self.walk() {
            let found = found?;
            let first = found.node.extents().first().and_then(|extent| extent.offset);
            if found.node.file_type == FileType::Regular && catalog.is_some() && first == catalog {
                catalog_path = Some(found.path);
                continue;
            }
            files.add(&found.path, &found.node);
            nodes.push(found);
        }
        Ok((nodes, files, catalog_path))
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
        options.udf = has(Namespace::Udf);
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
            // Boot loaders and systems find the volume by this time, its "UUID".
            options.volume_time = volume.modified.or(volume.created);
            options.volume_zone = volume.zone;
        } else if let Some(udf) = &self.udf {
            options.volume_id = udf.info().label.chars().take(32).collect();
        }
        options
    }

    /// Returns a warning for each directory tree that is not written again, and for sessions.
    fn lost_trees(&self, writes_udf: bool) -> Vec<String> {
        let mut lost = Vec::new();
        let mut lose = |what: &str| lost.push(format!("the new image has no {what}"));
        if self.udf.is_some() && !writes_udf {
            lose("UDF, which cannot be combined with a partition offset");
        }
        let enhanced =
            |volume: &crate::iso::read::VolumeDescriptor| volume.kind == VolumeKind::Enhanced;
        if self.descriptors.volumes.iter().any(enhanced) {
            lose("ISO 9660:1999 tree");
        }
        if self.sessions.len() > 1 {
            lose("earlier sessions");
        }
        lost
    }

    /// Returns the length in bytes of a boot image, if it is known.
    fn image_len(
        &self,
        files: &Files,
        image: &BootImage,
        unlisted: &[PartitionContents],
        entry: &CatalogEntry,
    ) -> Option<u64> {
        match image {
            BootImage::File(_) => files.by_offset.get(&entry.start()).map(|(_, len)| *len),
            BootImage::Unlisted(index) => match unlisted.get(*index)? {
                PartitionContents::Source(source) => Some(source.len()),
                _ => None,
            },
            BootImage::AppendedPartition(_) => None,
        }
    }

    /// Returns a boot entry for `image` with the parameters of `entry`. `len` is the length of the
    /// boot image in bytes.
    fn boot_entry(
        &self,
        entry: &CatalogEntry,
        image: BootImage,
        len: Option<u64>,
    ) -> Result<BootEntry> {
        let mut new = BootEntry::new(entry.platform, image);
        new.emulation = match entry.media {
            Media::NoEmulation => Emulation::None,
            Media::HardDisk => Emulation::HardDisk,
            _ => Emulation::Floppy,
        };
        new.media = Some((entry.media, entry.system_type));
        new.load_segment = entry.load_segment;
        new.bootable = entry.bootable;
        new.new_section = entry.begins_section;
        new.identifier = entry.identifier.clone().into_bytes();
        new.criteria = entry.criteria.iter().flat_map(|c| c.encoded()).collect();
        // The whole image, even if another file takes its place.
        let whole = len.is_some_and(|len| {
            let sectors = len.div_ceil(512);
            let count = u64::from(entry.load_sectors);
            count == sectors || count == sectors.next_multiple_of(4)
        });
        // Makers of images record 0 or 1 if the number of sectors does not fit in the field.
        let is_count = entry.load_bytes().is_some() && entry.load_sectors > 0;
        new.load_sectors = Some(entry.load_sectors).filter(|_| is_count && !whole);
        let range = entry.start()..self.source.len();
        let start = WindowSource::new(Arc::clone(&self.source), range)
            .map_err(|e| Error::io("a boot image is not within the image", e).at(entry.start()))?;
        let cannot_read = |e| Error::io("cannot read the boot image", e).at(entry.start());
        let sector = entry.start_sector;
        new.info_table = tables::has_info_table(&start, sector).map_err(cannot_read)?;
        new.grub2_info = tables::has_grub2_address(&start, sector).map_err(cannot_read)?;
        Ok(new)
    }
}

impl Files {
    /// Adds a file or directory.
    fn add(&mut self, path: &[u8], node: &Node) {
        let extents = node.extents();
        for extent in extents {
            if let Some(offset) = extent.offset
                && extent.len > 0
            {
                let end = offset.saturating_add(extent.len);
                let known = self.extents.entry(offset).or_insert(end);
                *known = end.max(*known);
            }
        }
        let Some(start) = extents.first().and_then(|extent| extent.offset) else { return };
        let end = |extent: &FileExtent| Some(extent.offset?.saturating_add(extent.len));
        let contiguous = extents
            .windows(2)
            .all(|pair| pair[1].offset.is_some() && end(&pair[0]) == pair[1].offset);
        let recorded = extents.last().and_then(end).filter(|&end| end <= MAX_OFFSET);
        let recorded = recorded.and_then(|end| end.checked_sub(start));
        let complete = recorded.is_some_and(|len| (1..=len).contains(&node.size));
        if node.file_type == FileType::Regular && contiguous && complete && !node.is_zisofs() {
            self.by_offset.entry(start).or_insert_with(|| (path.to_vec(), node.size));
        }
    }
}

/// Converts the path of a boot file to the text that the options require.
fn utf8(path: &[u8]) -> Result<String> {
    String::from_utf8(path.to_vec()).map_err(|_| {
        let shown = String::from_utf8_lossy(path).into_owned();
        Error::unsupported(format!("the path of the boot file '{shown}' is not UTF-8"))
    })
}
