//! Reading Parallels images and bundles.

use super::bundle::{BundleFiles, Expandable, ImageData, Storage, StoredImage};
use super::check;
use super::clusters::Clusters;
use super::descriptor::{Descriptor, Guid, looks_like_one};
use crate::error::{Error, Result};
use crate::model::bitmap::{self, DirtyBitmap};
use crate::model::extent::{Extent, HostOffset, Kind, push};
use crate::model::format::Format;
use crate::model::layer::{DiskLayout, Layer};
use crate::model::options::Options;
use crate::model::sealed::Sealed;
use crate::open::{OpenContext, SnapshotSelector};
use crate::report::check::{CheckReport, Finding};
use crate::report::info::{self, Details, Snapshot, Value};
use crate::storage::number::to_usize;
use crate::storage::source::Source;
use std::ops::Range;
use std::sync::Arc;

/// Bytes in which a descriptor is recognized.
const HEAD: u64 = 4096;

/// A Parallels image, or a bundle.
#[derive(Debug)]
pub(crate) struct Parallels {
    files: Vec<Arc<dyn Source>>,
    /// Size of the disk in bytes.
    size: u64,
    /// In ascending order; each starts where the one before ends. One for an image.
    storages: Vec<Storage>,
    /// `None` if it is not a bundle.
    pub(super) descriptor: Option<Descriptor>,
    /// Maximum size in bytes of the table of a bitmap.
    table_bytes: u64,
}

impl Parallels {
    pub(super) fn open(source: Arc<dyn Source>, context: &OpenContext<'_>) -> Result<Self> {
        let mut head = vec![0; to_usize(source.len().min(HEAD))];
        super::read(&*source, &mut head, 0, super::header::STRUCTURE)?;
        if looks_like_one(&head) {
            return Self::open_bundle(source, context);
        }
        context.refuse_snapshot(Format::Parallels)?;
        let image = Expandable::open(Arc::clone(&source), context.limits)?;
        let size = image.clusters.size();
        let image =
            StoredImage { entry: None, file: 0, data: ImageData::Expandable(Box::new(image)) };
        let storages = vec![Storage { guest: 0..size, cluster_sectors: None, images: vec![image] }];
        let table_bytes = context.limits.table_bytes;
        Ok(Self { files: vec![source], size, storages, descriptor: None, table_bytes })
    }

    fn open_bundle(source: Arc<dyn Source>, context: &OpenContext<'_>) -> Result<Self> {
        let descriptor = Descriptor::read(&*source, context.limits)?;
        let snapshot = match context.snapshot {
            Some(selector) => selected(&descriptor, selector)?,
            None => descriptor.top.clone(),
        };
        let BundleFiles { files, storages } =
            BundleFiles::open(source, &descriptor, &snapshot, context)?;
        let (size, table_bytes) = (descriptor.size, context.limits.table_bytes);
        Ok(Self { files, size, storages, descriptor: Some(descriptor), table_bytes })
    }

    /// Returns all images of all storages.
    pub(super) fn images(&self) -> impl Iterator<Item = &StoredImage> {
        self.storages.iter().flat_map(|storage| &storage.images)
    }

    /// Returns the storages.
    pub(super) fn storages(&self) -> &[Storage] {
        &self.storages
    }

    /// Returns the image; `None` for a bundle.
    pub(super) fn single(&self) -> Option<&Expandable> {
        match (&self.descriptor, &self.storages[..]) {
            (None, [Storage { images, .. }]) => images.first()?.expandable(),
            _ => None,
        }
    }

    /// Returns the image that stores the whole disk, if there is only one. The bitmaps of others
    /// describe a part of the disk, or its changes since a snapshot.
    fn only_image(&self) -> Option<&Expandable> {
        match &self.storages[..] {
            [Storage { images, .. }] if images.len() == 1 => images.first()?.expandable(),
            _ => None,
        }
    }

    fn clusters(&self) -> impl Iterator<Item = &Clusters> {
        self.images().filter_map(|image| image.expandable()).map(|image| &image.clusters)
    }

    /// Appends what the images of `storage` from `level` on have in `range`, relative to the storage.
    fn map_images(
        &self,
        storage: &Storage,
        level: usize,
        range: Range<u64>,
        out: &mut Vec<Extent>,
    ) -> Result<()> {
        let base = storage.guest.start;
        let on_disk = |range: &Range<u64>| base + range.start..base + range.end;
        let Some(image) = storage.images.get(level).filter(|_| !range.is_empty()) else {
            if !range.is_empty() {
                push(out, on_disk(&range), Kind::Unallocated);
            }
            return Ok(());
        };
        let stored_len = match &image.data {
            ImageData::Plain { len } => *len,
            ImageData::Expandable(image) => image.clusters.size(),
            ImageData::Unopened(why) => {
                let why = why.as_deref().unwrap_or("only the image's metadata was requested");
                return Err(Error::invalid(format!("an image is not open: {why}"))
                    .losing(storage.guest.clone()));
            }
        };
        // An image may be smaller than the one above, if the disk was made larger.
        let inside = range.start.min(stored_len)..range.end.min(stored_len);
        let mut at = inside.start;
        while at < inside.end {
            let (end, host) = match &image.data {
                ImageData::Expandable(own) => own.clusters.run(&(at..inside.end)).map_err(|e| {
                    let lost = own.clusters.guest(at / own.clusters.header.cluster_bytes);
                    self.in_image_file(e, image).losing(on_disk(&lost))
                })?,
                ImageData::Plain { .. } | ImageData::Unopened(_) => (inside.end, Some(at)),
            };
            match host {
                Some(offset) => {
                    let host = HostOffset { file: image.file, offset };
                    push(out, on_disk(&(at..end)), Kind::Data(host));
                }
                None => self.map_images(storage, level + 1, at..end, out)?,
            }
            at = end;
        }
        if inside.end < range.end {
            push(out, on_disk(&(inside.end.max(range.start)..range.end)), Kind::Unallocated);
        }
        Ok(())
    }

    /// Attributes an error to the file of an image of a bundle.
    fn in_image_file(&self, error: Error, image: &StoredImage) -> Error {
        match self.files[image.file].path().filter(|_| image.file != 0) {
            Some(path) => error.in_file(path),
            None => error,
        }
    }

    /// Returns what `info` lists for an image of a bundle.
    fn image_info(&self, storage: &Storage, image: &StoredImage) -> Value {
        let mut info = Vec::new();
        if let Some(entry) = &image.entry {
            info.push(("guid", Value::Text(entry.guid.in_braces())));
            info.push(("type", Value::from(entry.image_type.name())));
            info.push(("filename", Value::Text(entry.file.clone())));
        }
        info.push(("offset", Value::from(storage.guest.start)));
        info.push(("virtual-size", Value::from(storage.guest.end - storage.guest.start)));
        if let Some(image) = image.expandable() {
            info.push(("cluster-size", Value::from(image.clusters.header.cluster_bytes)));
        }
        Value::Map(info)
    }

    fn bitmaps(&self) -> Vec<Value> {
        let mut bitmaps = Vec::new();
        for image in self.images().filter_map(StoredImage::expandable) {
            for bitmap in image.extension.iter().flatten().flat_map(|e| &e.bitmaps) {
                let in_use = image.bitmap_info(bitmap).inconsistent.then(|| Value::from("in-use"));
                bitmaps.push(Value::Map(vec![
                    ("flags", Value::List(in_use.into_iter().collect())),
                    ("name", Value::Text(bitmap.name())),
                    ("granularity", Value::from(bitmap.granularity_bytes())),
                ]));
            }
        }
        bitmaps
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = self.warnings();
        for image in self.images() {
            if let (ImageData::Unopened(Some(why)), Some(entry)) = (&image.data, &image.entry) {
                notes.push(format!("the image '{}' cannot be opened: {why}", entry.file));
            }
        }
        notes
    }
}

/// Returns the snapshot of a bundle that a selector denotes.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid), with a list of the snapshots, if there is none.
fn selected(descriptor: &Descriptor, selector: &SnapshotSelector) -> Result<Guid> {
    /// Maximum number of snapshots in the hint.
    const MAX_LISTED: usize = 20;
    let text = match selector {
        SnapshotSelector::IdOrName(text) | SnapshotSelector::Exactly { id: Some(text), .. } => text,
        // Snapshots of bundles have no names.
        SnapshotSelector::Exactly { id: None, name } => name.as_deref().unwrap_or_default(),
    };
    let found =
        Guid::parse(text).and_then(|guid| descriptor.shots.iter().find(|shot| shot.guid == guid));
    if let Some(shot) = found {
        return Ok(shot.guid.clone());
    }
    let known: Vec<_> =
        descriptor.snapshots().take(MAX_LISTED).map(|shot| shot.guid.in_braces()).collect();
    let hint = match known.is_empty() {
        true => "the bundle has no snapshots".to_owned(),
        false => format!("its snapshots: {}", known.join(", ")),
    };
    Err(Error::invalid(format!("there is no snapshot '{text}'")).hint(hint))
}

impl Sealed for Parallels {}

impl Layer for Parallels {
    fn format(&self) -> Format {
        Format::Parallels
    }

    fn disk_layout(&self) -> DiskLayout {
        let cluster_size = self.clusters().map(Clusters::unit).min().unwrap_or(1);
        DiskLayout { size: self.size, cluster_size }
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &self.files
    }

    fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        let first = self.storages.partition_point(|storage| storage.guest.end <= range.start);
        let Some(storage) = self.storages.get(first) else { return range.start };
        let base = storage.guest.start;
        let inside = range.start - base..range.end.min(storage.guest.end) - base;
        // No image of the storage may have data.
        let next = |image: &StoredImage| match image.expandable() {
            Some(image) => image.clusters.next_allocated_hint(inside.clone()),
            None => inside.start,
        };
        base + storage.images.iter().map(next).min().unwrap_or(inside.start)
    }

    fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        let first = self.storages.partition_point(|storage| storage.guest.end <= range.start);
        for storage in self.storages[first..].iter().take_while(|s| s.guest.start < range.end) {
            let base = storage.guest.start;
            let inside = range.start.max(base) - base..range.end.min(storage.guest.end) - base;
            self.map_images(storage, 0, inside, out)?;
        }
        Ok(())
    }

    fn is_preallocated(&self) -> bool {
        let is_plain = |image: &StoredImage| matches!(image.data, ImageData::Plain { .. });
        self.images().any(is_plain)
    }

    fn details(&self) -> Details {
        let mut sizes: Vec<_> = self.clusters().map(|c| c.header.cluster_bytes).collect();
        sizes.dedup();
        let mut specific = Vec::new();
        if let Some(image) = self.single() {
            specific.push(("magic", Value::from(image.clusters.header.magic.name())));
        }
        if let Some(descriptor) = &self.descriptor {
            specific.push(("top-guid", Value::Text(descriptor.top.in_braces())));
            let images = self.storages.iter().flat_map(|storage| {
                storage.images.iter().map(|image| self.image_info(storage, image))
            });
            specific.push(("images", Value::List(images.collect())));
        }
        let bitmaps = self.bitmaps();
        if !bitmaps.is_empty() {
            specific.push(("bitmaps", Value::List(bitmaps)));
        }
        let images = (1..self.files.len()).map(|file| (format!("images.{}", file - 1), file));
        Details {
            cluster_size: if let [size] = sizes[..] { Some(size) } else { None },
            dirty: self.clusters().any(|clusters| clusters.header.is_dirty()),
            snapshots: self.snapshots(),
            specific,
            children: [("file".into(), 0)].into_iter().chain(images).collect(),
            notes: self.notes(),
            ..Details::default()
        }
    }

    fn warnings(&self) -> Vec<String> {
        self.images().filter_map(StoredImage::expandable).flat_map(Expandable::warnings).collect()
    }

    fn create_options(&self) -> Options {
        let mut options = Options::default();
        if let Some(clusters) = self.clusters().next() {
            options.set("cluster_size", clusters.header.cluster_bytes.to_string());
        }
        options
    }

    fn dirty_bitmaps(&self) -> Result<Option<Vec<info::Bitmap>>> {
        let Some(image) = self.only_image() else { return Ok(None) };
        let bitmaps = image.extension_or_error()?.map_or(&[][..], |e| &e.bitmaps);
        Ok(Some(bitmaps.iter().map(|bitmap| image.bitmap_info(bitmap)).collect()))
    }

    fn dirty_bitmap(&self, index: usize) -> Result<DirtyBitmap> {
        let no_bitmap = || Error::invalid("there is no such bitmap");
        let image = self.only_image().ok_or_else(no_bitmap)?;
        let extension = image.extension_or_error()?.ok_or_else(no_bitmap)?;
        let found = extension.bitmaps.get(index).ok_or_else(no_bitmap)?;
        if image.bitmap_info(found).inconsistent {
            return Err(bitmap::inconsistent(&found.name()));
        }
        extension.require_intact(&*image.clusters.source)?;
        found.open(&image.clusters, self.table_bytes)
    }

    fn check(&self, report: &mut dyn FnMut(Finding)) -> Result<Option<CheckReport>> {
        check::check(self, report).map(Some)
    }
}

impl Parallels {
    fn snapshots(&self) -> Vec<Snapshot> {
        let snapshots = self.descriptor.iter().flat_map(Descriptor::snapshots);
        let snapshot = |shot: &super::descriptor::Shot| Snapshot {
            id: shot.guid.in_braces(),
            ..Snapshot::default()
        };
        snapshots.map(snapshot).collect()
    }
}
