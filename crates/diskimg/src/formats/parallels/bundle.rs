//! The files of a bundle.
//!
//! A name in the descriptor is a path relative to the bundle, or an absolute one, which is wrong after
//! the bundle was moved, and names the images of another one after it was copied. A file in the bundle
//! with the last component of the path is therefore preferred. Otherwise, the policy for external
//! files decides whether the path may be opened.

use super::SECTOR;
use super::clusters::Clusters;
use super::descriptor::{Descriptor, Guid, ImageEntry, ImageType, STRUCTURE, StorageEntry};
use super::extension::{Bitmap, Extension};
use super::header::CLOSED;
use crate::error::{Error, ErrorKind, Result};
use crate::open::OpenContext;
use crate::open::external_files::{ExternalFiles, Resolver};
use crate::open::limits::Limits;
use crate::report::info;
use crate::storage::number::to_u64;
use crate::storage::source::{HostFileId, Source};
use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The name of the descriptor in a bundle.
const DESCRIPTOR: &str = "DiskDescriptor.xml";

/// How error messages call the images of a bundle.
const ROLE: &str = "image";

/// Returns the path of the descriptor if `path` stands for a bundle: its directory, or the empty file
/// with the extension `.hdd` in it, by which Parallels Desktop opens it.
pub(crate) fn file_of_bundle(path: &Path) -> Option<PathBuf> {
    let metadata = std::fs::metadata(path).ok()?;
    let is_hdd = || path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("hdd"));
    let descriptor = match metadata.is_dir() {
        true => path.join(DESCRIPTOR),
        false if metadata.is_file() && metadata.len() == 0 && is_hdd() => {
            path.with_file_name(DESCRIPTOR)
        }
        false => return None,
    };
    descriptor.is_file().then_some(descriptor)
}

/// A part of the disk, and the images that store it.
#[derive(Debug)]
pub(super) struct Storage {
    /// Guest bytes.
    pub(super) guest: Range<u64>,
    /// Size of a cluster in sectors, if the descriptor records it.
    pub(super) cluster_sectors: Option<u64>,
    /// The top image first, the root last.
    pub(super) images: Vec<StoredImage>,
}

/// An image of a storage.
#[derive(Debug)]
pub(super) struct StoredImage {
    /// What the descriptor says; `None` if the image is not in a bundle.
    pub(super) entry: Option<ImageEntry>,
    /// Index into the layer's files.
    pub(super) file: usize,
    pub(super) data: ImageData,
}

/// How an image stores its data.
#[derive(Debug)]
pub(super) enum ImageData {
    /// At its offset.
    Plain {
        /// Length of the file in bytes.
        len: u64,
    },
    /// In clusters.
    Expandable(Box<Expandable>),
    /// Unknown: the image was not opened, for this reason.
    Unopened(Option<String>),
}

/// An expandable image.
#[derive(Debug)]
pub(super) struct Expandable {
    pub(super) clusters: Clusters,
    /// The format extension, or why it cannot be read.
    pub(super) extension: Result<Option<Extension>>,
}

impl Expandable {
    /// Opens the image that is stored in `source`.
    ///
    /// # Errors
    /// As [`Clusters::open`].
    pub(super) fn open(source: Arc<dyn Source>, limits: &Limits) -> Result<Self> {
        let clusters = Clusters::open(source, limits)?;
        let extension = Extension::of(&clusters);
        Ok(Self { clusters, extension })
    }

    /// Returns the format extension, if there is one.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it cannot be read.
    pub(super) fn extension_or_error(&self) -> Result<Option<&Extension>> {
        match &self.extension {
            Ok(extension) => Ok(extension.as_ref()),
            Err(error) => Err(Error::corrupt("dirty bitmaps", error.without_remedy())),
        }
    }

    /// Returns what is known of a bitmap of the image. It is inconsistent if the image was not
    /// closed, or not by a program that knows bitmaps.
    pub(super) fn bitmap_info(&self, bitmap: &Bitmap) -> info::Bitmap {
        let inconsistent = self.clusters.header.in_use != CLOSED;
        info::Bitmap { inconsistent, ..bitmap.info() }
    }

    /// Returns warnings about what reading tolerates.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = self.clusters.warnings();
        match &self.extension {
            Ok(None) => {}
            Ok(Some(extension)) => {
                if let Some(unknown) = extension.unknown.iter().find(|f| f.is_necessary()) {
                    warnings.push(format!(
                        "the image has the unknown feature {unknown}, without which it must not be \
                         written"
                    ));
                }
            }
            Err(error) => warnings.push(error.without_remedy()),
        }
        warnings
    }
}

impl StoredImage {
    /// Returns the expandable image, if it is one and open.
    pub(super) fn expandable(&self) -> Option<&Expandable> {
        match &self.data {
            ImageData::Expandable(image) => Some(image),
            ImageData::Plain { .. } | ImageData::Unopened(_) => None,
        }
    }
}

/// The open files of a bundle.
#[derive(Debug)]
pub(super) struct BundleFiles {
    /// The descriptor first.
    pub(super) files: Vec<Arc<dyn Source>>,
    pub(super) storages: Vec<Storage>,
}

impl BundleFiles {
    /// Opens the images of a snapshot. `source` is the file of the descriptor.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the images contradict the descriptor,
    /// [`Refused`](crate::ErrorKind::Refused) if the policy forbids an image,
    /// [`Io`](crate::ErrorKind::Io) if it cannot be opened, [`Limit`](crate::ErrorKind::Limit) if
    /// there are too many; otherwise as [`Clusters::open`].
    pub(super) fn open(
        source: Arc<dyn Source>,
        descriptor: &Descriptor,
        snapshot: &Guid,
        context: &OpenContext<'_>,
    ) -> Result<Self> {
        let chain = descriptor.chain(snapshot, context.limits)?;
        let mut opener = Opener {
            context,
            seen: source.identity().into_iter().collect(),
            files: vec![source],
            limits: context.limits.clone(),
        };
        let mut storages = Vec::with_capacity(descriptor.storages.len());
        for storage in &descriptor.storages {
            storages.push(opener.storage(storage, &chain, descriptor.shots.is_empty())?);
        }
        Ok(Self { files: opener.files, storages })
    }
}

/// Opens the images of a bundle.
struct Opener<'a> {
    context: &'a OpenContext<'a>,
    seen: HashSet<HostFileId>,
    files: Vec<Arc<dyn Source>>,
    /// The limits, reduced by what the images opened so far use.
    limits: Limits,
}

impl Opener<'_> {
    /// Opens the images of a storage. Without snapshots, it has only one.
    fn storage(
        &mut self,
        storage: &StorageEntry,
        chain: &[Guid],
        without_snapshots: bool,
    ) -> Result<Storage> {
        let guest = storage.start * SECTOR..storage.end * SECTOR;
        let mut images = Vec::with_capacity(chain.len());
        for (level, guid) in chain.iter().enumerate() {
            let entry = match &storage.images[..] {
                [only] if without_snapshots => Some(only),
                _ => storage.image(guid),
            };
            let entry = entry.ok_or_else(|| {
                let message = format!(
                    "the storage of sectors {} to {} has no image of the snapshot {}",
                    storage.start,
                    storage.end,
                    guid.in_braces()
                );
                Error::corrupt(STRUCTURE, message)
            })?;
            if entry.image_type == ImageType::Plain && level + 1 < chain.len() {
                let message = format!("the plain image '{}' has a parent", entry.file);
                return Err(Error::corrupt(STRUCTURE, message));
            }
            images.push(self.image(entry, &guest, level == 0)?);
        }
        Ok(Storage { guest, cluster_sectors: storage.cluster_sectors, images })
    }

    fn image(
        &mut self,
        entry: &ImageEntry,
        guest: &Range<u64>,
        is_top: bool,
    ) -> Result<StoredImage> {
        let unopened = |why| StoredImage {
            entry: Some(entry.clone()),
            file: 0,
            data: ImageData::Unopened(why),
        };
        if self.context.metadata_only && !self.context.with_extents {
            return Ok(unopened(None));
        }
        let opened = self.open(entry).and_then(|source| {
            let path = source.path().map(Path::to_owned);
            let data = self.data(&source, entry, guest, is_top).map_err(|error| match path {
                Some(path) => error.in_file(path),
                None => error,
            })?;
            Ok((source, data))
        });
        match opened {
            Ok((source, data)) => {
                self.files.push(source);
                Ok(StoredImage { entry: Some(entry.clone()), file: self.files.len() - 1, data })
            }
            // The rest of the metadata can still be reported.
            Err(e) if self.context.metadata_only => Ok(unopened(Some(e.without_remedy()))),
            Err(e) => Err(e),
        }
    }

    fn open(&mut self, entry: &ImageEntry) -> Result<Arc<dyn Source>> {
        let (files, max) = (to_u64(self.files.len()), self.limits.extent_files);
        if files > max {
            let found = format!("the disk is stored in at least {files} files");
            return Err(Error::over_limit("extent_files", found, max));
        }
        let resolver = self.resolver();
        let last = entry.file.rsplit(['/', '\\']).next().unwrap_or_default();
        // Of an absolute path, `last` is the only part that can mean a file of this bundle.
        let source = match resolver.open_path(ROLE, last) {
            Ok(source) => source,
            Err(error) if last == entry.file || error.kind() == ErrorKind::Transient => {
                return Err(error);
            }
            Err(_) => resolver.open_path(ROLE, &entry.file)?,
        };
        if source.identity().is_some_and(|id| !self.seen.insert(id)) {
            let message = format!("the file '{}' is named twice", entry.file);
            return Err(Error::corrupt(STRUCTURE, message));
        }
        Ok(source)
    }

    /// Returns the resolver for images. If only metadata is requested, no files outside the bundle are
    /// opened.
    fn resolver(&self) -> Resolver<'_> {
        match self.context.resolver.policy {
            ExternalFiles::Any if self.context.metadata_only => {
                Resolver { policy: ExternalFiles::SameDir, ..self.context.resolver }
            }
            _ => self.context.resolver,
        }
    }

    fn data(
        &mut self,
        source: &Arc<dyn Source>,
        entry: &ImageEntry,
        guest: &Range<u64>,
        is_top: bool,
    ) -> Result<ImageData> {
        let needed = guest.end - guest.start;
        let contradiction = |size: u64| {
            let message =
                format!("the image '{}' has {size} bytes, but its storage {needed}", entry.file);
            Error::corrupt(STRUCTURE, message)
        };
        match entry.image_type {
            // What is above an image that was made larger is read as zeros from smaller ones.
            ImageType::Plain if source.len() < needed && is_top => {
                Err(contradiction(source.len()).hint("the file is probably truncated"))
            }
            ImageType::Plain => Ok(ImageData::Plain { len: source.len() }),
            ImageType::Expandable => {
                let image = Expandable::open(Arc::clone(source), &self.limits)?;
                let used = image.clusters.count() * 4;
                self.limits.table_bytes = self.limits.table_bytes.saturating_sub(used);
                match image.clusters.size() {
                    size if size < needed && is_top => Err(contradiction(size)),
                    _ => Ok(ImageData::Expandable(Box::new(image))),
                }
            }
        }
    }
}
