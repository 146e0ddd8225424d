//! Modifying a VHD in place. [`resize`] has the order of writes when its size changes; when guest data
//! is written, it is as follows.
//!
//! A fixed disk is overwritten. In a dynamic or differencing disk, new blocks are appended after the
//! footer, which is written again behind them:
//!
//! ```text
//!   written                                    then
//!   guest data, bitmaps of new blocks,         nothing refers to new blocks
//!     footer at the new end
//!   sectors of the block allocation table      the new blocks are in use
//!   bitmaps of other blocks                    their new sectors are in use
//! ```
//!
//! While the file is longer and has no footer at its end, the copy at its start is used. After a crash,
//! the next modification writes the footer at the end again.

mod blocks;
mod resize;

use super::SECTOR;
use super::layer::Vhd;
use crate::error::{Error, Result};
use crate::model::layer::Layer;
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

/// Bytes of the disk that are written together.
const QUANTUM: u64 = 4096;

/// Memory for bitmaps in bytes from which they are stored before the end.
const MAX_BITMAP_BYTES: u64 = 16 << 20;

/// A VHD open for modification.
#[derive(Debug)]
struct VhdMut {
    storage: Arc<dyn Storage>,
    image: Vhd,
    limits: Limits,
}

/// Opens an image for modification.
pub(super) fn open(
    storage: Arc<dyn Storage>,
    context: &OpenContext<'_>,
) -> Result<Box<dyn MutableLayer>> {
    let source: Arc<dyn Source> = storage.clone();
    Ok(Box::new(VhdMut {
        image: Vhd::open(source, context)?,
        storage,
        limits: context.limits.clone(),
    }))
}

impl MutableLayer for VhdMut {
    fn resize(&mut self, request: &ResizeRequest<'_>) -> Result<()> {
        resize::resize(&self.image, &*self.storage, request, &self.limits)
    }

    fn into_target(self: Box<Self>, _: &WriteRequest) -> Result<Option<Box<dyn TargetSpec>>> {
        let size = self.image.disk_layout().size;
        let writer = match self.image.blocks() {
            Some(blocks) => {
                let (footer, damaged) = (self.image.footer(), self.image.damage().is_some());
                Some(BlockWriter::new(blocks, footer, damaged, Arc::clone(&self.storage))?)
            }
            None => None,
        };
        let sink: Arc<dyn Sink> = self.storage.clone();
        let target = ExistingTarget { storage: self.storage, sinks: [sink], writer };
        Ok(Some(Box::new(ExistingSpec { size, target: Mutex::new(Some(target)) })))
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
        SECTOR
    }

    fn start(&self, _: &mut Output) -> Result<Box<dyn Target>> {
        match lock(&self.target).take() {
            Some(target) => Ok(Box::new(target)),
            None => Err(Error::invalid("the image is being written already")),
        }
    }
}

/// A disk to which guest data is written.
#[derive(Debug)]
struct ExistingTarget {
    storage: Arc<dyn Storage>,
    sinks: [Arc<dyn Sink>; 1],
    /// `None` for a fixed disk.
    writer: Option<BlockWriter>,
}

impl ExistingTarget {
    fn store(&mut self, end: u64) -> Result<()> {
        self.storage.flush().map_err(|e| Error::io("cannot modify the image", e))?;
        self.writer.as_mut().map_or(Ok(()), |writer| writer.store(end))
    }
}

impl Target for ExistingTarget {
    fn files(&self) -> &[Arc<dyn Sink>] {
        &self.sinks
    }

    fn place(&mut self, at: u64, unit: Allocate) -> Result<Option<Slot>> {
        match (&mut self.writer, unit) {
            (None, Allocate::Data { len }) => {
                Ok(Some(Slot { file: 0, offset: at, len, is_zeroed: false }))
            }
            (None, Allocate::Zero { len }) => {
                let written = self.storage.write_zeros_at(at, len);
                written.map_err(|e| Error::io("cannot write zeros", e).at(at))?;
                Ok(None)
            }
            (None, Allocate::Backed { .. }) => {
                Err(Error::unsupported("a fixed disk cannot show a backing file"))
            }
            (Some(writer), Allocate::Data { len }) => {
                let (offset, len, is_zeroed) = writer.allocate(at..at + len)?;
                Ok(Some(Slot { file: 0, offset, len, is_zeroed }))
            }
            (Some(writer), Allocate::Zero { len }) => writer.zero(at..at + len).map(|()| None),
            (Some(writer), Allocate::Backed { len }) => {
                writer.unallocate(at..at + len).map(|()| None)
            }
            (_, Allocate::Compressed { .. }) => {
                Err(Error::invalid("a VHD cannot store compressed units"))
            }
        }
    }

    fn settle(&mut self, end: u64) -> Result<()> {
        let memory = self.writer.as_mut().map_or(0, |writer| writer.memory_before(end));
        if memory >= MAX_BITMAP_BYTES { self.store(end) } else { Ok(()) }
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.store(u64::MAX)
    }
}
