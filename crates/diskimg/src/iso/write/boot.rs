//! Boot data of a new image. First, the boot images that the options name are looked up in the
//! tree. When all addresses are assigned, the boot catalog, the patches of boot images, and the
//! partition tables are encoded.

use super::builder::Builder;
use super::contents::{Content, Contents, Data};
use super::descriptors;
use super::host::{self, HostDirs, HostFile, OpenDirs};
use super::options::{BootEntry, BootImage, CreateOptions, Emulation, PartitionContents};
use super::plan::Plan;
use super::tree::{Kind, NodeId, ROOT, Tree, TreeNode, components};
use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::iso::boot::hybrid::kept::ObjectPlace;
use crate::iso::boot::hybrid::{
    DiskAreas, HybridLayout, ImagePartition, LayoutInput, SectorRange, Trailer,
};
use crate::iso::boot::tables::{self, Patch, PatchedSource};
use crate::iso::boot::{Media, NewEntry, Platform, encode_catalog, encode_record};
use crate::partition::{Guid, only_partition_kind as system_type};
use crate::remedy::Remedy;
use crate::storage::number::{to_index, to_u32, to_u64, to_usize};
use crate::storage::source::{MemorySource, Source};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// Length in bytes of a virtual sector, in which El Torito counts the data to load.
const VIRTUAL_SECTOR: u64 = 512;

/// Minimum number of sectors after the last file of a bootable image. GRUB reads 32 KiB at once,
/// and hangs if the disc ends within.
const READ_AHEAD: u64 = 16;

/// The image of a boot entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// A file or unlisted contents, as a number in [`Contents`].
    Content(u32),
    /// A partition, as an index in [`Boot::appended`].
    Appended(usize),
}

/// A boot entry whose image was found.
#[derive(Debug)]
struct Entry {
    options: BootEntry,
    target: Target,
    len: u64,
    media: Media,
    system_type: u8,
    load_sectors: u16,
}

/// The boot data of an image.
#[derive(Debug, Default)]
pub(super) struct Boot {
    entries: Vec<Entry>,
    /// Content number of the boot catalog.
    catalog: Option<u32>,
    /// Content numbers of the appended partitions.
    appended: Vec<u32>,
    /// Content numbers of the contents without a name.
    unlisted: Vec<u32>,
    /// What the partitions of an image that is rebuilt refer to.
    objects: Vec<Target>,
    /// The EFI system partition inside the volume.
    efi_partition: Option<u32>,
    /// The encoded boot catalog, once all addresses are assigned.
    catalog_bytes: Vec<u8>,
    /// The patches of boot images, by content number, once all addresses are assigned.
    patches: HashMap<u32, Vec<Patch>>,
    /// Disk layout, MBR and GPT, once all addresses are assigned.
    disk: Option<(HybridLayout, DiskAreas)>,
}

impl Boot {
    /// Looks up the boot images that the options name, and adds the boot catalog to the tree.
    pub(super) fn new(builder: &mut Builder) -> Result<Self> {
        let mut boot = Self::default();
        let CreateOptions { boot: entries, hybrid, .. } = &builder.options;
        let (entries, hybrid) = (entries.clone(), hybrid.clone());
        for partition in &hybrid.appended {
            boot.appended.push(builder.partition_contents(&partition.contents)?);
        }
        for contents in &hybrid.unlisted {
            boot.unlisted.push(builder.partition_contents(contents)?);
        }
        for options in entries {
            if let BootImage::File(path) = &options.image
                && (options.info_table || options.grub2_info)
            {
                builder.unshare(path)?;
            }
            let entry = boot.entry(builder, options)?;
            boot.entries.push(entry);
        }
        for object in hybrid.kept.iter().flat_map(|kept| &kept.objects) {
            boot.objects.push(boot.target(builder, &object.image)?);
        }
        if let Some(image) = &hybrid.efi_partition {
            boot.efi_partition = match boot.target(builder, image)? {
                Target::Content(content) => Some(content),
                Target::Appended(_) => {
                    let message = "an appended partition is not inside the volume";
                    return Err(Error::invalid(message).in_file(image.name()));
                }
            };
        }
        if !boot.entries.is_empty() {
            let len = to_u64(boot.encode(|_| Ok(0))?.len());
            let catalog = builder.catalog(len)?;
            if boot.entries.iter().any(|entry| entry.is_replaced(builder)) {
                let message = "a boot image and the boot catalog have the same path";
                return Err(Error::invalid(message).with_remedy(Remedy::MoveBootCatalog));
            }
            boot.catalog = Some(catalog);
        }
        Ok(boot)
    }

    /// Finds the contents of a boot image.
    fn target(&self, builder: &Builder, image: &BootImage) -> Result<Target> {
        Ok(match image {
            BootImage::File(path) => Target::Content(find(&builder.tree, path)?.1),
            BootImage::AppendedPartition(number) => {
                let appended = &builder.options.hybrid.appended;
                let at = appended.iter().position(|partition| partition.number == *number);
                let message =
                    || format!("no appended partition has the number {number} of a boot entry");
                Target::Appended(at.ok_or_else(|| Error::invalid(message()))?)
            }
            BootImage::Unlisted(index) => {
                let content = self.unlisted.get(*index).copied();
                let message = || format!("there are no unlisted contents with the index {index}");
                Target::Content(content.ok_or_else(|| Error::invalid(message()))?)
            }
        })
    }

    /// Returns the number of the contents in [`Contents`].
    fn content(&self, target: Target) -> u32 {
        match target {
            Target::Content(content) => content,
            Target::Appended(at) => self.appended[at],
        }
    }

    fn entry(&self, builder: &Builder, options: BootEntry) -> Result<Entry> {
        let target = self.target(builder, &options.image)?;
        let content = self.content(target);
        let len = builder.contents.get(content).len;
        let mut entry = Entry {
            options,
            target,
            len,
            media: Media::NoEmulation,
            system_type: 0,
            load_sectors: 1,
        };
        let named = |e: Error| e.in_file(entry.options.image.name());
        if len == 0 {
            return Err(named(Error::invalid("the boot image is empty")));
        }
        if matches!(target, Target::Appended(_))
            && (entry.options.info_table || entry.options.grub2_info)
        {
            let message =
                "boot info table and GRUB address cannot be written to an appended partition";
            return Err(named(Error::invalid(message)));
        }
        (entry.media, entry.system_type) = match entry.options.emulation {
            Emulation::None => {
                let kept = entry.options.media.filter(|(media, _)| *media == Media::NoEmulation);
                kept.unwrap_or((Media::NoEmulation, 0))
            }
            Emulation::Floppy => {
                let message = || {
                    format!(
                        "the boot image has {len} bytes; an emulated floppy disk must have \
                         1228800, 1474560 or 2949120"
                    )
                };
                let media = Media::floppy(len).map(|media| (media, 0)).or(entry.options.media);
                media.ok_or_else(|| named(Error::invalid(message())))?
            }
            Emulation::HardDisk => {
                let mut start = vec![0; to_usize(len.min(VIRTUAL_SECTOR))];
                let source = source_of(
                    &builder.contents,
                    &builder.dirs,
                    &builder.tree,
                    &mut OpenDirs::default(),
                    content,
                )?;
                let read = source.read_exact_at(&mut start, 0);
                read.map_err(|e| named(Error::io("cannot read", e)))?;
                let message = "an emulated hard disk must have an MBR with exactly one partition";
                let media = system_type(&start).map(|kind| (Media::HardDisk, kind));
                media.or(entry.options.media).ok_or_else(|| named(Error::invalid(message)))?
            }
        };
        let load_sectors = entry.load_sectors().map_err(named)?;
        Ok(Entry { load_sectors, ..entry })
    }

    /// Returns the contents that precede all others: the boot catalog, what the partitions of an
    /// image that is rebuilt refer to, in their original order, boot images, contents without a
    /// name.
    pub(super) fn first(&self) -> impl Iterator<Item = u32> {
        let entries = self.entries.iter().map(|entry| entry.target);
        let targets = self.objects.iter().copied().chain(entries);
        let files = targets.filter_map(|target| match target {
            Target::Content(content) => Some(content),
            Target::Appended(_) => None,
        });
        let unlisted = self.unlisted.iter().copied();
        self.catalog.into_iter().chain(files).chain(self.efi_partition).chain(unlisted)
    }

    pub(super) fn has_catalog(&self) -> bool {
        self.catalog.is_some()
    }

    /// Returns the length of the image in sectors, once all addresses are assigned.
    pub(super) fn total(&self) -> u64 {
        self.disk.as_ref().map_or(0, |(layout, _)| layout.total)
    }

    /// Returns the contents of the system area.
    pub(super) fn system_area(&self) -> &[u8] {
        self.disk.as_ref().map_or(&[], |(_, areas)| &areas.system_area)
    }

    /// Returns the sector of the last UDF anchor, once all addresses are assigned.
    pub(super) fn last_anchor(&self) -> Option<u64> {
        self.disk.as_ref().and_then(|(layout, _)| layout.anchor)
    }

    /// Returns the backup GPT, which is at the end of the image.
    pub(super) fn backup(&self) -> &[u8] {
        self.disk.as_ref().map_or(&[], |(_, areas)| &areas.backup)
    }

    /// Returns first sector and content of each appended partition.
    pub(super) fn partitions(&self) -> impl Iterator<Item = (u64, u32)> {
        let ranges = self.disk.iter().flat_map(|(layout, _)| &layout.appended);
        ranges.map(|range| range.start).zip(self.appended.iter().copied())
    }

    /// Returns the boot catalog if it is this content.
    pub(super) fn catalog_bytes(&self, content: u32) -> Option<&[u8]> {
        (self.catalog == Some(content)).then_some(&*self.catalog_bytes)
    }

    /// Returns the boot record with the location of the boot catalog, or nothing if there is no
    /// catalog.
    pub(super) fn record(&self, content_lba: &[u32]) -> Vec<u8> {
        let sector = self.catalog.map(|content| content_lba[to_index(content)]);
        sector.map(encode_record).unwrap_or_default()
    }

    /// Returns the patches of this content.
    pub(super) fn patches(&self, content: u32) -> Option<&[Patch]> {
        self.patches.get(&content).map(|patches| &**patches)
    }

    /// Encodes the catalog. `start_sector` returns the first sector of an entry's boot image.
    fn encode(&self, start_sector: impl Fn(&Entry) -> Result<u32>) -> Result<Vec<u8>> {
        let entries = self.entries.iter().map(|entry| {
            Ok(NewEntry {
                platform: entry.options.platform,
                bootable: entry.options.bootable,
                new_section: entry.options.new_section,
                identifier: entry.options.identifier.clone(),
                criteria: entry.options.criteria.clone(),
                media: entry.media,
                load_segment: entry.options.load_segment,
                system_type: entry.system_type,
                load_sectors: entry.load_sectors,
                start_sector: start_sector(entry)?,
            })
        });
        Ok(encode_catalog(&entries.collect::<Result<Vec<_>>>()?))
    }
}

impl Entry {
    fn load_sectors(&self) -> Result<u16> {
        match (self.options.load_sectors, self.media, self.options.platform) {
            (Some(sectors), ..) => Ok(sectors),
            (None, Media::NoEmulation, platform) => {
                // In whole sectors of 2048 bytes, as with mkisofs, if the number fits.
                let count = self.len.div_ceil(VIRTUAL_SECTOR);
                let whole = u16::try_from(self.len.div_ceil(SECTOR) * (SECTOR / VIRTUAL_SECTOR));
                match (whole.or_else(|_| u16::try_from(count)), platform) {
                    (Ok(sectors), _) => Ok(sectors),
                    // For UEFI, 0 means the whole image.
                    (Err(_), Platform::Efi) => Ok(0),
                    (Err(_), _) => {
                        let message = "a boot image of 32 MiB or more cannot be loaded completely";
                        Err(Error::invalid(message).with_remedy(Remedy::SetLoadSectors))
                    }
                }
            }
            (None, ..) => Ok(1),
        }
    }

    /// Returns true if the boot catalog replaced the file of the entry.
    fn is_replaced(&self, builder: &Builder) -> bool {
        let (Target::Content(content), BootImage::File(path)) = (self.target, &self.options.image)
        else {
            return false;
        };
        find(&builder.tree, path).map(|(_, content)| content).ok() != Some(content)
    }
}

impl BootImage {
    /// Returns a name for error messages.
    fn name(&self) -> String {
        match self {
            Self::File(path) => path.clone(),
            Self::AppendedPartition(number) => format!("partition {number}"),
            Self::Unlisted(index) => format!("unlisted contents {index}"),
        }
    }
}

impl Builder {
    /// Gives a boot image that will be patched a content of its own, because other files may share
    /// its content. Host files do not share contents yet at this point.
    fn unshare(&mut self, path: &str) -> Result<()> {
        let (node, content) = find(&self.tree, path)?;
        let Content { len, data } = self.contents.get(content);
        let (len, data) = match data {
            Data::Bytes(bytes) => (*len, Data::Bytes(Arc::clone(bytes))),
            Data::Source(source) => (*len, Data::Source(Arc::clone(source))),
            Data::Host(_) => return Ok(()),
        };
        let own = self.contents.add(Content { len, data })?;
        self.tree.node_mut(node).kind = Kind::File(own);
        self.tree.separate(node);
        Ok(())
    }

    /// Adds contents that have no name in the image.
    fn partition_contents(&mut self, contents: &PartitionContents) -> Result<u32> {
        match contents {
            PartitionContents::File(path) => self.partition(path),
            PartitionContents::Interval(interval) => self.contents.add_source(interval.open(None)?),
            PartitionContents::Source(source) => self.contents.add_source(Arc::clone(source)),
        }
    }

    /// Adds the content of a host file that has no name in the image.
    fn partition(&mut self, path: &Path) -> Result<u32> {
        let no_file = || {
            Error::invalid("an appended partition must be a non-empty regular file").in_file(path)
        };
        let (parent, own) = host::split(path).ok_or_else(no_file)?;
        let dir = self.dirs.add(None, &parent, true)?;
        let status = self.open.status(&self.dirs, dir, &own, true)?;
        if !status.is_regular() || status.size == 0 {
            return Err(no_file());
        }
        let name = self.tree.store_name(&own)?;
        let (modified, sparse) = (status.modified, status.sparse);
        let file = HostFile { dir, name, modified, follow: true, sparse };
        self.contents.add(Content { len: status.size, data: Data::Host(file) })
    }

    /// Adds the content of the boot catalog, which is encoded later.
    fn catalog(&mut self, len: u64) -> Result<u32> {
        let content = Content { len, data: Data::Bytes(Arc::default()) };
        let content = self.contents.add(content)?;
        if self.options.boot_catalog_visible {
            let path = self.options.boot_catalog.clone();
            let no_name = || Error::invalid("the path of the boot catalog is empty");
            let (parent, name) = self.parent_and_name(path.as_bytes())?.ok_or_else(no_name)?;
            let hidden = self.rules.hidden(name, || path.clone().into_bytes());
            let name = self.tree.store_name(name)?;
            let node = TreeNode { hidden, ..TreeNode::plain(name, Kind::File(content)) };
            self.tree.insert(parent, node)?;
        }
        Ok(content)
    }
}

impl Plan {
    /// Assigns addresses to everything after the file system, which ends before sector `end`. Then
    /// encodes boot catalog, patches, MBR and GPT.
    pub(super) fn place_disk(&mut self, end: u32) -> Result<()> {
        let CreateOptions { hybrid, padding, alignment, .. } = &self.options;
        let boot = &self.boot;
        let len_of = |content: u32| self.contents.get(content).len;
        let appended: Vec<_> = boot.appended.iter().map(|&content| len_of(content)).collect();
        let images = self.image_partitions()?;
        let min = if boot.entries.is_empty() { 0 } else { READ_AHEAD };
        let input = LayoutInput {
            appended: &appended,
            images: &images,
            end: end.into(),
            trailer: Trailer { padding: u64::from(*padding).max(min), anchor: self.udf.is_some() },
            alignment: (*alignment).into(),
        };
        let layout = HybridLayout::new(hybrid, input)?;
        let too_large = |_| Error::limit("the image would exceed 2^32 sectors (8 TiB)");
        u32::try_from(layout.total).map_err(too_large)?;
        self.volume.sectors = u32::try_from(layout.volume).map_err(too_large)?;

        let start = |target: Target| match target {
            Target::Content(content) => self.content_lba[to_index(content)],
            // Cannot overflow, because the total fits in 32 bits.
            Target::Appended(at) => to_u32(layout.appended[at].start),
        };
        let catalog_bytes = boot.encode(|entry| Ok(start(entry.target)))?;
        let patches = self.find_patches()?;
        let areas = if let Some(kept) = &hybrid.kept {
            let places = boot.objects.iter().map(|&target| {
                let len = len_of(boot.content(target));
                let range =
                    SectorRange { start: start(target).into(), sectors: len.div_ceil(SECTOR) };
                ObjectPlace { range, len }
            });
            layout.encode_kept(kept, &places.collect::<Vec<_>>())?
        } else {
            let loader = boot.entries.iter().find(|entry| {
                let file = matches!(entry.target, Target::Content(_));
                let bios = entry.options.platform == Platform::Bios;
                file && bios && entry.media == Media::NoEmulation
            });
            // Different images have different primary volume descriptors.
            let seed = descriptors::primary(&self.options, &self.primary_tables, &self.volume);
            layout.encode(hybrid, loader.map(|entry| start(entry.target)), &images, &seed)?
        };
        (self.boot.catalog_bytes, self.boot.patches) = (catalog_bytes, patches);
        self.boot.disk = Some((layout, areas));
        Ok(())
    }

    /// Returns the boot images in the volume that are to be partitions.
    fn image_partitions(&self) -> Result<Vec<ImagePartition>> {
        let range = |content: u32| SectorRange {
            start: self.content_lba[to_index(content)].into(),
            sectors: self.contents.get(content).len.div_ceil(SECTOR),
        };
        let listed = self.boot.entries.iter().filter_map(|entry| {
            let BootEntry { in_gpt, in_apm, gpt_kind, .. } = entry.options;
            let Target::Content(content) = entry.target else { return None };
            let gpt = in_gpt.then_some(gpt_kind);
            (in_gpt || in_apm).then(|| ImagePartition { range: range(content), gpt, apm: in_apm })
        });
        let mut images: Vec<_> = listed.collect();
        if let Some(content) = self.boot.efi_partition {
            if self.options.hybrid.isohybrid_mbr.is_some() {
                let message = "an isohybrid MBR cannot be combined with an EFI system partition \
                               inside the volume";
                return Err(Error::invalid(message));
            }
            let gpt = Some(Guid::EFI_SYSTEM);
            images.insert(0, ImagePartition { range: range(content), gpt, apm: false });
        }
        Ok(images)
    }

    fn find_patches(&self) -> Result<HashMap<u32, Vec<Patch>>> {
        let mut found: HashMap<u32, Vec<Patch>> = HashMap::new();
        let mut open = OpenDirs::default();
        for entry in &self.boot.entries {
            let Target::Content(content) = entry.target else { continue };
            let named = |e: Error| e.in_file(entry.options.image.name());
            let sector = self.content_lba[to_index(content)];
            let patches = found.entry(content).or_default();
            if entry.options.grub2_info {
                patches.push(tables::grub2_address(entry.len, sector).map_err(named)?);
            }
            if entry.options.info_table {
                // The sum in the table includes the other patches.
                let source = self.source_of(&mut open, content)?;
                let source = PatchedSource::new(source, patches.clone());
                patches.push(tables::info_table(&source, sector).map_err(named)?);
            }
        }
        found.retain(|_, patches| !patches.is_empty());
        Ok(found)
    }

    /// Returns the bytes of a content, without patches.
    pub(super) fn source_of(&self, open: &mut OpenDirs, content: u32) -> Result<Arc<dyn Source>> {
        source_of(&self.contents, &self.dirs, &self.tree, open, content)
    }
}

/// Returns the node and the content of the regular file at `path` in the image.
fn find(tree: &Tree, path: &str) -> Result<(NodeId, u32)> {
    let missing = || {
        let error = Error::invalid("no such boot image in the image").in_file(path);
        error.hint("the path of a boot image is its path in the image")
    };
    let names = components(path.as_bytes())?;
    let mut node = ROOT;
    for name in names {
        node = tree.find(node, name).map_err(|_| missing())?;
    }
    match tree.node(node).kind {
        Kind::File(content) => Ok((node, content)),
        _ => Err(Error::invalid("the boot image is not a regular file").in_file(path)),
    }
}

fn source_of(
    contents: &Contents,
    dirs: &HostDirs,
    tree: &Tree,
    open: &mut OpenDirs,
    content: u32,
) -> Result<Arc<dyn Source>> {
    let content = contents.get(content);
    Ok(match &content.data {
        Data::Bytes(bytes) => Arc::new(MemorySource::new(&**bytes)),
        Data::Source(source) => Arc::clone(source),
        Data::Host(file) => {
            let opened = open.open_file(dirs, tree, file, content.len)?;
            let source = host::source(opened).map_err(|e| {
                let path = host::path_of(dirs, file.dir, tree.bytes(file.name));
                Error::io("cannot read", e).in_file(path)
            })?;
            Arc::new(source)
        }
    })
}
