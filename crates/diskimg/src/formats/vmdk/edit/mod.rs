//! Writing guest data into an existing VMDK.
//!
//! Flat extents are overwritten. In sparse extents, new grains are appended to the file, and the
//! grain tables that point to them are written when the grains are durable, first the primary copy
//! and then the redundant one:
//!
//! ```text
//!   written                                    then
//!   guest data, new grain tables,              nothing refers to new grains and tables
//!     uncleanShutdown in the header
//!   entries of the grain directory             the new tables are in use; they are empty
//!   entries of the redundant directory
//!   sectors of the primary grain tables        the grains are in use
//!   sectors of the redundant grain tables      both copies are equal
//!   uncleanShutdown in the header
//! ```
//!
//! Readers use the primary tables unless these are damaged. After a crash, redundant tables may be
//! older, which is what `uncleanShutdown` means: VMware's programs then check the extent, our check
//! does not count it as a corruption, and the next modification stores the primary tables again as
//! redundant ones.
//!
//! The descriptor gets a new content ID before that, so that children of the disk are recognized
//! as out of date. [`resize`] has the order of writes when its size changes. Streams, COWD and seSparse extents can only be written as a whole.

mod content_id;
mod parent;
mod resize;
mod sparse;
mod text;
mod verify;
mod write;

pub(super) use verify::uncleanness;

use super::extent::{Layout, VmdkExtent};
use super::extent_line::Access;
use super::header::MAGIC;
use super::layer::Vmdk;
use super::read;
use crate::error::{Error, Result};
use crate::model::backing::Backing;
use crate::model::layer::Layer;
use crate::model::mutable::{MutableLayer, ResizeRequest, WriteRequest};
use crate::model::target::{Target, TargetSpec};
use crate::open::OpenContext;
use crate::open::limits::Limits;
use crate::storage::edit::{Edits, FileStorage, Storage};
use crate::storage::lock;
use crate::storage::output::Output;
use crate::storage::source::{HostFileId, Source};
use std::sync::{Arc, Mutex};
use write::Writer;

/// Quantum of a disk that has only flat extents, in bytes.
const FLAT_QUANTUM: u64 = 64 << 10;

/// Maximum quantum in bytes of a disk whose grains may be written in parts.
const MAX_PART: u64 = 1 << 20;

/// A VMDK open for modification.
#[derive(Debug)]
struct VmdkMut {
    storage: Arc<dyn Storage>,
    image: Vmdk,
    limits: Limits,
}

/// Opens an image for modification.
pub(super) fn open(
    storage: Arc<dyn Storage>,
    context: &OpenContext<'_>,
) -> Result<Box<dyn MutableLayer>> {
    let source: Arc<dyn Source> = storage.clone();
    let limits = context.limits.clone();
    Ok(Box::new(VmdkMut { image: Vmdk::open(source, context)?, storage, limits }))
}

impl MutableLayer for VmdkMut {
    fn resize(&mut self, request: &ResizeRequest<'_>) -> Result<()> {
        self.change_size(request)
    }

    fn backing_edits(&self, backing: Option<&Backing>) -> Result<Edits> {
        let descriptor = self.image.descriptor_range(self.storage.current_len())?;
        let is_whole_file = descriptor == (0..self.storage.current_len());
        parent::edits(&*self.storage, descriptor, is_whole_file, backing)
    }

    fn into_target(self: Box<Self>, request: &WriteRequest) -> Result<Option<Box<dyn TargetSpec>>> {
        if request.hides_backing && !self.image.has_parent() {
            let message = "a VMDK without a parent cannot get one in place";
            return Err(Error::unsupported(message));
        }
        for extent in self.image.extents() {
            if !can_be_written(extent)? {
                return Ok(None);
            }
        }
        if let Some(warning) = self.image.warnings().into_iter().next() {
            let message = format!("{warning}: a damaged disk is not modified");
            return Err(Error::corrupt("grain directory", message));
        }
        refuse_own_descriptor(&self.image)?;
        let mut grains = self.image.extents().iter().filter_map(VmdkExtent::grain_bytes);
        let quantum = grains.next();
        let starts_at_grain = |extent: &VmdkExtent| {
            quantum.is_none_or(|grain| extent.guest.start.is_multiple_of(grain))
        };
        if grains.any(|grain| Some(grain) != quantum)
            || !self.image.extents().iter().all(starts_at_grain)
        {
            return Err(Error::unsupported(
                "a disk whose extents have grains of several sizes cannot be modified in place",
            ));
        }
        let mut files = vec![Arc::clone(&self.storage)];
        for file in &self.image.files()[1..] {
            files.push(open_to_write(&**file)?);
        }
        let size = self.image.disk_layout().size;
        let quantum = match quantum {
            Some(grain) => quantum_of(grain, &self.image, &files, self.limits.unit_bytes)?,
            None => FLAT_QUANTUM,
        };
        let opened = Mutex::new(Some(Opened { image: self.image, files }));
        Ok(Some(Box::new(ExistingSpec { size, quantum, opened })))
    }
}

/// Returns the quantum of a disk with grains of `grain` bytes. A grain whose rest reads as zeros when
/// a part of it is written is written in parts.
///
/// # Errors
/// Returns [`Limit`](crate::ErrorKind::Limit) if whole grains must be in memory and are too large.
fn quantum_of(
    grain: u64,
    image: &Vmdk,
    files: &[Arc<dyn Storage>],
    unit_bytes: u64,
) -> Result<u64> {
    if !image.has_parent() && !files.iter().any(|file| file.has_fixed_len()) {
        return Ok(grain.min(MAX_PART));
    }
    if grain > unit_bytes {
        let found = format!("grains of {grain} bytes, which are written as a whole");
        return Err(Error::over_limit("unit_bytes", found, unit_bytes).in_structure("VMDK header"));
    }
    Ok(grain)
}

/// Verifies that no flat extent is in the file of the descriptor, and that no two files are the same
/// under different names.
fn refuse_own_descriptor(image: &Vmdk) -> Result<()> {
    let is_flat = |extent: &VmdkExtent| matches!(extent.layout, Layout::Flat { .. });
    let identities = image.files().iter().filter_map(|file| file.identity());
    if HostFileId::any_share_data(identities)
        || image.extents().iter().any(|e| e.file == 0 && is_flat(e))
    {
        let message = "an extent is in the file of the descriptor or of another extent";
        return Err(Error::corrupt("VMDK descriptor", message));
    }
    Ok(())
}

/// Returns false for extents that can only be written as a whole.
///
/// # Errors
/// Returns [`Unsupported`](crate::ErrorKind::Unsupported) for an extent that must not be written.
fn can_be_written(extent: &VmdkExtent) -> Result<bool> {
    let is_modifiable = match &extent.layout {
        Layout::Flat { .. } | Layout::Zero => true,
        Layout::Sparse(sparse) => {
            let mut magic = [0; 4];
            read(sparse.source(), &mut magic, 0, "extent header")?;
            magic == MAGIC && !sparse.header().compressed
        }
        Layout::SeSparse(_) | Layout::Forbidden | Layout::Unopened(_) => false,
    };
    if is_modifiable && extent.line.access == Access::ReadOnly {
        let message = format!("the descriptor forbids writing the extent '{}'", extent.line.text);
        return Err(Error::unsupported(message));
    }
    Ok(is_modifiable)
}

/// Opens and locks an extent's file for writing. This process must not have locked it yet.
pub(super) fn open_to_write(file: &dyn Source) -> Result<Arc<dyn Storage>> {
    let Some(path) = file.path() else {
        return Err(Error::unsupported("an extent of the disk is not a file of this host"));
    };
    let storage = FileStorage::reopen(path, file)
        .map_err(|e| Error::io("cannot open the extent", e).in_file(path))?;
    Ok(Arc::new(storage))
}

/// An existing image as the target of a conversion, before anything is written.
#[derive(Debug)]
struct ExistingSpec {
    size: u64,
    quantum: u64,
    /// Taken when writing starts.
    opened: Mutex<Option<Opened>>,
}

/// An image and its files, opened for writing.
#[derive(Debug)]
struct Opened {
    image: Vmdk,
    files: Vec<Arc<dyn Storage>>,
}

impl TargetSpec for ExistingSpec {
    fn size(&self) -> u64 {
        self.size
    }

    fn quantum(&self) -> u64 {
        self.quantum
    }

    fn start(&self, _: &mut Output) -> Result<Box<dyn Target>> {
        let opened = lock(&self.opened).take();
        let Opened { image, files } =
            opened.ok_or_else(|| Error::invalid("the image is being written already"))?;
        Ok(Box::new(Writer::start(&image, files)?))
    }
}
