//! Modifying a VHDX in place. [`resize`] has the order of writes when its size changes.
//!
//! Before anything else is written, the changes in the log are made in their places, and the header
//! gets new GUIDs (`start.rs`). Guest data is written to the blocks that are stored, and to new
//! blocks at the end of the file. What refers to it follows in phases (`blocks.rs`):
//!
//! ```text
//!   written                                 then
//!   guest data                              nothing refers to new blocks and sectors
//!   bits of a child's sectors               partial blocks show their new sectors
//!   entries of new bitmaps                  nothing refers to the blocks that need them
//!   entries of blocks                       the new blocks are in use
//! ```
//!
//! The log remains empty: each bit and each entry changes the bytes of its own sectors or block
//! only, so that no two of them need to be written as a whole.

mod blocks;
mod resize;
mod start;
mod table;

pub(super) use start::restore;

use super::check;
use super::header::{Header, Headers};
use super::layer::Vhdx;
use crate::error::{Error, Result};
use crate::model::layer::Layer;
use crate::model::mutable::{MutableLayer, ResizeRequest, WriteRequest};
use crate::model::target::{Allocate, Slot, Target, TargetSpec};
use crate::open::OpenContext;
use crate::report::finding::Severity;
use crate::storage::edit::Storage;
use crate::storage::lock;
use crate::storage::output::Output;
use crate::storage::sink::Sink;
use crate::storage::source::Source;
use blocks::BlockWriter;
use std::sync::{Arc, Mutex};

/// Bytes of the disk that are written together.
const QUANTUM: u64 = 4096;

/// Alignment in bytes of blocks in the file, and of sectors in blocks.
const ALIGNMENT: u64 = 512;

/// Memory in bytes for changes of the metadata from which they are stored before the end.
const MAX_PENDING_BYTES: u64 = 16 << 20;

/// A VHDX open for modification.
#[derive(Debug)]
struct VhdxMut {
    storage: Arc<dyn Storage>,
    image: Vhdx,
    header: Header,
    /// Index of the header's place.
    header_index: usize,
}

/// Opens an image for modification.
pub(super) fn open(
    storage: Arc<dyn Storage>,
    context: &OpenContext<'_>,
) -> Result<Box<dyn MutableLayer>> {
    let source: Arc<dyn Source> = storage.clone();
    let (header_index, header) = Headers::read(&*source)?.choose()?;
    let image = Vhdx::open(source, context)?;
    Ok(Box::new(VhdxMut { storage, image, header, header_index }))
}

impl MutableLayer for VhdxMut {
    fn resize(&mut self, request: &ResizeRequest<'_>) -> Result<()> {
        self.change_size(request)
    }

    fn into_target(self: Box<Self>, _: &WriteRequest) -> Result<Option<Box<dyn TargetSpec>>> {
        let blocks_end = require_sound(&self.image)?;
        let writer = BlockWriter::new(&self.image, Arc::clone(&self.storage), blocks_end);
        let size = self.image.disk_layout().size;
        let sink: Arc<dyn Sink> = self.storage.clone();
        let target = ExistingTarget { opened: *self, sinks: [sink], writer };
        Ok(Some(Box::new(ExistingSpec { size, target: Mutex::new(Some(target)) })))
    }
}

/// Requires that the table is consistent: writing to a block that overlaps another would destroy
/// that. Returns the end of the blocks in the file.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if something is found.
fn require_sound(image: &Vhdx) -> Result<u64> {
    let mut first = None;
    let report = check::check(image, &mut |finding| {
        if finding.severity == Severity::Error {
            first.get_or_insert(finding.message);
        }
    })?;
    match first {
        Some(message) => Err(Error::corrupt("VHDX image", message)
            .hint("an image is modified only if its metadata is consistent")),
        None => Ok(report.image_end_offset.unwrap_or(0)),
    }
}

/// An existing image as the target of a conversion, before anything is written.
#[derive(Debug)]
struct ExistingSpec {
    size: u64,
    /// Taken when writing starts.
    target: Mutex<Option<ExistingTarget>>,
}

impl TargetSpec for ExistingSpec {
    fn size(&self) -> u64 {
        self.size
    }

    fn quantum(&self) -> u64 {
        QUANTUM
    }

    fn alignment(&self) -> u64 {
        ALIGNMENT
    }

    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the log or the header cannot be written.
    fn start(&self, _: &mut Output) -> Result<Box<dyn Target>> {
        let Some(target) = lock(&self.target).take() else {
            return Err(Error::invalid("the image is being written already"));
        };
        let VhdxMut { storage, header, header_index, image } = &target.opened;
        start::start(storage, header, *header_index, image.damage())?;
        Ok(Box::new(target))
    }
}

/// A disk to which guest data is written.
#[derive(Debug)]
struct ExistingTarget {
    opened: VhdxMut,
    sinks: [Arc<dyn Sink>; 1],
    writer: BlockWriter,
}

impl ExistingTarget {
    fn store(&mut self, end: u64) -> Result<()> {
        let durable = self.opened.storage.barrier();
        durable.map_err(|e| Error::io("cannot modify the image", e))?;
        self.writer.store(end)
    }
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
                Err(Error::invalid("a VHDX cannot store compressed units"))
            }
        }
    }

    fn settle(&mut self, end: u64) -> Result<()> {
        if self.writer.memory_before(end) >= MAX_PENDING_BYTES { self.store(end) } else { Ok(()) }
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.store(u64::MAX)
    }
}
