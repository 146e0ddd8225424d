//! Modifying a VDI in place. [`resize`] has the order of writes when its size changes; when guest data
//! is written, it is:
//!
//! ```text
//!   written                                   then
//!   uuidModify                                children notice that their parent changes
//!   guest data, in free space                 nothing refers to new blocks
//!   number of allocated blocks                other programs append behind the new blocks
//!   entries of the block map                  the new blocks are in use
//! ```
//!
//! Each line is durable before the next one begins. QEMU and VirtualBox append a block at the index
//! that is the number of allocated blocks. If it were written last and a crash came before it, they
//! would overwrite the new blocks. Too large a number costs space only, and `check` reports it.
//!
//! For the same reason, no index is left free below that number: blocks at the end are moved into
//! the gaps that blocks of a child leave which became the parent's again.

mod blocks;
mod resize;

use super::SECTOR;
use super::layer::Vdi;
use crate::error::{Error, Result};
use crate::model::flat::{FlatFile, Preallocation};
use crate::model::image::Image;
use crate::model::mutable::{MutableLayer, ResizeRequest, WriteRequest};
use crate::model::target::{Allocate, Slot, Target, TargetSpec};
use crate::open::OpenContext;
use crate::open::limits::Limits;
use crate::storage::edit::Storage;
use crate::storage::lock;
use crate::storage::output::Output;
use crate::storage::sink::Sink;
use crate::storage::source::Source;
use blocks::BlockWriter;
use std::sync::{Arc, Mutex};

/// Maximum size of the blocks of a differencing image that is written: they are compared and written
/// as a whole. VirtualBox creates blocks of 512 KiB to 8 MiB.
const MAX_CHILD_BLOCK: u64 = 8 << 20;

/// A VDI open for modification.
#[derive(Debug)]
struct VdiMut {
    storage: Arc<dyn Storage>,
    image: Vdi,
    limits: Limits,
}

/// Opens an image for modification.
pub(super) fn open(
    storage: Arc<dyn Storage>,
    context: &OpenContext<'_>,
) -> Result<Box<dyn MutableLayer>> {
    let source: Arc<dyn Source> = storage.clone();
    Ok(Box::new(VdiMut {
        image: Vdi::open(source, context)?,
        storage,
        limits: context.limits.clone(),
    }))
}

impl MutableLayer for VdiMut {
    fn resize(&mut self, request: &ResizeRequest<'_>) -> Result<()> {
        if request.preallocation != Preallocation::Off {
            let message = "images of format vdi cannot be resized with preallocation";
            return Err(Error::unsupported(message));
        }
        let mut writer = BlockWriter::new(&self.image, Arc::clone(&self.storage))?;
        let parent_size = request.backing.map_or(0, Image::size);
        writer.resize(request.size, parent_size, &self.limits)
    }

    fn into_target(self: Box<Self>, _: &WriteRequest) -> Result<Option<Box<dyn TargetSpec>>> {
        let (header, blocks) = (self.image.header(), self.image.blocks());
        let is_child = header.image_type.has_parent();
        if is_child && header.block_bytes > MAX_CHILD_BLOCK {
            return Err(Error::unsupported(format!(
                "a differencing image with blocks of {} bytes cannot be written in place: at most \
                 {MAX_CHILD_BLOCK} are supported",
                header.block_bytes
            )));
        }
        let quantum = if is_child { u64::MAX } else { FlatFile::BLOCK };
        // The blocks of old images are at any offset.
        let offsets = SECTOR | blocks.data_of(0) | blocks.stride();
        let spec = ExistingSpec {
            size: header.disk_size(),
            quantum: quantum.min(header.block_bytes),
            alignment: 1 << offsets.trailing_zeros(),
            target: Mutex::new(Some(ExistingTarget {
                sinks: [self.storage.clone()],
                writer: BlockWriter::new(&self.image, Arc::clone(&self.storage))?,
                storage: self.storage,
            })),
        };
        Ok(Some(Box::new(spec)))
    }
}

/// An existing image as the target of a conversion, before anything is written.
#[derive(Debug)]
struct ExistingSpec {
    size: u64,
    quantum: u64,
    alignment: u64,
    /// Taken when writing starts.
    target: Mutex<Option<ExistingTarget>>,
}

impl TargetSpec for ExistingSpec {
    fn size(&self) -> u64 {
        self.size
    }

    fn quantum(&self) -> u64 {
        self.quantum
    }

    fn alignment(&self) -> u64 {
        self.alignment
    }

    fn start(&self, _: &mut Output) -> Result<Box<dyn Target>> {
        match lock(&self.target).take() {
            Some(mut target) => {
                target.writer.renew_modification()?;
                Ok(Box::new(target))
            }
            None => Err(Error::invalid("the image is being written already")),
        }
    }
}

/// A disk to which guest data is written.
#[derive(Debug)]
struct ExistingTarget {
    storage: Arc<dyn Storage>,
    sinks: [Arc<dyn Sink>; 1],
    writer: BlockWriter,
}

impl Target for ExistingTarget {
    fn files(&self) -> &[Arc<dyn Sink>] {
        &self.sinks
    }

    fn place(&mut self, at: u64, unit: Allocate) -> Result<Option<Slot>> {
        match unit {
            Allocate::Data { len } => self.writer.allocate(at..at + len).map(Some),
            Allocate::Zero { len } => self.writer.zero(at..at + len).map(|()| None),
            Allocate::Backed { len } => self.writer.unallocate(at..at + len).map(|()| None),
            Allocate::Compressed { .. } => {
                Err(Error::invalid("a VDI cannot store compressed units"))
            }
        }
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.storage.flush().map_err(|e| Error::io("cannot modify the image", e))?;
        self.writer.store()?;
        self.writer.fill_gaps()
    }
}
