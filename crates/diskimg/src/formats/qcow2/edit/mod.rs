//! Modifying qcow2 in place.
//!
//! New metadata is written to free clusters and takes effect with one write of the header's first
//! sector, which holds the size of the disk and the locations of the L1 table and the refcount
//! table. The order of writes keeps the image consistent at every point:
//!
//! ```text
//!   written                                             then
//!   new tables and data, in clusters with refcount 0    nothing refers to them
//!   refcounts of these clusters, in existing blocks     the new tables and data are leaks
//!   the header's first sector                           they are in use; old tables are leaks
//!   refcounts of the old tables                         the image is clean
//! ```
//!
//! Guest data is written by [`Writer`](write::Writer), which modifies L2 tables in place.
//!
//! Before anything is written, [`Space::open`](space::Space::open) finds all metadata. An image in
//! which structures overlap, or in which two entries of a table point to the same one, is not
//! modified; nor is one whose guest data is used more often than its refcounts say
//! ([`references::verify`]).

mod amend;
mod backing;
mod bitmap_changes;
mod bitmaps;
mod compressed;
mod empty;
mod header_area;
mod metadata;
mod pages;
mod references;
mod resize;
mod resized_bitmaps;
mod shadow;
mod shrink;
mod snapshots;
mod space;
mod spec;
mod store;
mod table;
mod write;
mod zero_clusters;

pub(super) use amend::amend;

use super::bitmaps::Bitmap;
use super::header::{Autoclear, Header, Incompatible, RawHeader};
use super::layer::Qcow2;
use super::snapshot::Snapshots;
use crate::error::{Error, Result};
use crate::model::backing::Backing;
use crate::model::image::{Image, Link};
use crate::model::layer::Layer;
use crate::model::mutable::{MutableLayer, ResizeRequest, WriteRequest};
use crate::model::target::TargetSpec;
use crate::open::OpenContext;
use crate::remedy::Remedy;
use crate::storage::edit::{Edit, Edits, Reopened, Storage};
use crate::storage::source::{HostFileId, Source};
pub(super) use bitmap_changes::{BitmapChanges, Disk};
use space::{Changes, TableLocation};
use std::sync::Arc;
use zerocopy::FromBytes;

/// Length in bytes of the part of the header that is written as a whole.
const SECTOR: usize = 512;

/// A qcow2 image open for modification.
#[derive(Debug)]
pub(super) struct Qcow2Mut {
    storage: Arc<dyn Storage>,
    /// The external data file, if there is one and guest data is written.
    data_file: Option<Arc<dyn Storage>>,
    /// The image as it was when it was opened.
    old: Qcow2,
}

/// Opens an image for modification.
pub(super) fn open(
    storage: Arc<dyn Storage>,
    context: &OpenContext<'_>,
) -> Result<Box<dyn MutableLayer>> {
    let image = read(storage, context)?;
    // The reference to the backing file can be changed whatever the state of the refcounts is.
    match context.metadata_only {
        true => image.require_not_corrupt()?,
        false => {
            image.require_intact()?;
            image.require_unencrypted()?;
        }
    }
    Ok(Box::new(image))
}

/// Opens an image for modification, also one that is encrypted.
pub(super) fn open_image(storage: Arc<dyn Storage>, context: &OpenContext<'_>) -> Result<Qcow2Mut> {
    let image = read(storage, context)?;
    image.require_intact()?;
    Ok(image)
}

/// Opens an image in any state.
fn read(storage: Arc<dyn Storage>, context: &OpenContext<'_>) -> Result<Qcow2Mut> {
    let source: Arc<dyn Source> = storage.clone();
    let image = Qcow2Mut { old: Qcow2::open(source, context)?, storage, data_file: None };
    if HostFileId::any_share_data(image.old.files().iter().filter_map(|file| file.identity())) {
        let message = "its data file has bytes of the image file itself, which would be changed";
        return Err(Error::refused(message));
    }
    Ok(image)
}

/// Returns the modification that changes fields of the header, all at once.
///
/// # Errors
/// Returns [`Io`](crate::ErrorKind::Io) if the header cannot be read, and
/// [`Corrupt`](crate::ErrorKind::Corrupt) if the file ends within it.
pub(super) fn change_header(
    storage: &dyn Storage,
    change: impl FnOnce(&mut RawHeader),
) -> Result<Edit> {
    let mut sector = vec![0; SECTOR];
    storage
        .read_exact_at(&mut sector, 0)
        .map_err(|e| Error::io("cannot read", e).in_structure("header"))?;
    let (raw, _) = RawHeader::mut_from_prefix(&mut sector)
        .map_err(|_| Error::corrupt("header", "the file ends within it"))?;
    change(raw);
    clear_unknown_autoclear(raw);
    Ok(Edit::Write { offset: 0, bytes: sector })
}

/// Clears the autoclear bits that are not known. What they say may be wrong after a modification by
/// a program that does not know them.
fn clear_unknown_autoclear(raw: &mut RawHeader) {
    if raw.version.get() >= 3 {
        let known = Autoclear::from_bits_truncate(raw.autoclear_features.get());
        raw.autoclear_features = known.bits().into();
    }
}

impl MutableLayer for Qcow2Mut {
    fn resize(&mut self, request: &ResizeRequest<'_>) -> Result<()> {
        resize::resize(self, request)
    }

    fn into_target(self: Box<Self>, request: &WriteRequest) -> Result<Option<Box<dyn TargetSpec>>> {
        spec::specify(*self, request).map(Some)
    }

    fn backing_edits(&self, backing: Option<&Backing>) -> Result<Edits> {
        // The data file is read as the whole disk, without this image.
        if backing.is_some() && self.header().data_file_raw() {
            return Err(Error::invalid(
                "Backing file and data-file-raw cannot be used at the same time",
            ));
        }
        backing::edits(&*self.storage, self.header().cluster_size(), backing)
    }

    fn make_empty(self: Box<Self>) -> Result<bool> {
        empty::make_empty(&self).map(|()| true)
    }
}

impl Qcow2Mut {
    /// Verifies that the image is not encrypted: guest data of such an image is not written.
    fn require_unencrypted(&self) -> Result<()> {
        match self.old.header.encryption {
            Some(_) => {
                Err(Error::unsupported("an encrypted image cannot be modified in place yet"))
            }
            None => Ok(()),
        }
    }

    /// Verifies that the image is not marked as dirty or corrupt.
    fn require_intact(&self) -> Result<()> {
        let header = &self.old.header;
        self.require_not_corrupt()?;
        if header.incompatible.contains(Incompatible::DIRTY) {
            return Err(Error::corrupt(
                "header",
                "the image was not closed properly: its refcounts may be wrong",
            )
            .at(72)
            .with_remedy(Remedy::Repair));
        }
        Ok(())
    }

    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if the image is marked as corrupt.
    fn require_not_corrupt(&self) -> Result<()> {
        if self.header().incompatible.contains(Incompatible::CORRUPT) {
            return Err(Error::corrupt("header", "the image is marked as corrupt")
                .at(72)
                .with_remedy(Remedy::Repair));
        }
        Ok(())
    }

    /// Returns the image without its backing file, with a disk of `size` bytes.
    fn padded(&self, size: u64) -> Image {
        Image::from_links(vec![Link {
            layer: Arc::new(self.old.with_size(size)),
            name: String::new(),
            is_local: true,
            compression: None,
            limits: Arc::default(),
        }])
    }

    /// Returns the image as it is after a modification of its metadata, without its data file.
    fn reread(&self) -> Result<Self> {
        let context =
            OpenContext { metadata_only: true, ..OpenContext::isolated(&self.old.limits) };
        open_image(Reopened::of(&self.storage), &context)
    }

    /// Returns the modification that changes the size of the disk and the locations of tables, all
    /// at once.
    fn switch(&self, size: u64, l1: TableLocation, refcounts: TableLocation) -> Result<Edit> {
        self.change_header(|raw| {
            raw.size = size.into();
            raw.l1_size = l1.len.into();
            raw.l1_table_offset = l1.offset.into();
            raw.refcount_table_offset = refcounts.offset.into();
            raw.refcount_table_clusters = refcounts.len.into();
        })
    }

    /// Returns the modification that changes fields of the header, all at once.
    fn change_header(&self, change: impl FnOnce(&mut RawHeader)) -> Result<Edit> {
        change_header(&*self.storage, change)
    }

    /// Makes modifications in the order that keeps the image consistent: those in free clusters,
    /// the changed refcounts, the header, and the refcounts of what is no longer used.
    fn apply(&self, free: Vec<Edit>, used: Changes, switch: Edit, unused: Changes) -> Result<()> {
        let mut edits = Edits::new();
        edits
            .phase(free.into_iter().chain(used.new_tables))
            .phase(used.counts)
            .phase([switch])
            .phase(unused.counts);
        edits.apply(&*self.storage).map_err(|e| Error::io("cannot modify the image", e))
    }

    pub(super) fn header(&self) -> &Header {
        &self.old.header
    }

    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if the snapshot table is damaged.
    fn snapshots(&self) -> Result<&Snapshots> {
        let damaged = |error: &Error| Error::corrupt("snapshot table", error.without_remedy());
        self.old.snapshots.as_ref().map_err(damaged)
    }

    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if the bitmap directory is damaged.
    fn bitmaps(&self) -> Result<&[Bitmap]> {
        self.old.bitmap_entries()
    }
}
