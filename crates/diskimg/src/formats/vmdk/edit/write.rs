//! The extents of a disk to which guest data is written.

use super::content_id;
use super::sparse::{Grain, SparseTables};
use crate::error::{Error, Result};
use crate::formats::vmdk::descriptor::NO_PARENT;
use crate::formats::vmdk::extent::Layout;
use crate::formats::vmdk::layer::Vmdk;
use crate::model::target::{Allocate, Slot, Target};
use crate::storage::edit::{Edits, Storage};
use crate::storage::sink::Sink;
use std::ops::Range;
use std::sync::Arc;

/// Memory for grain tables in bytes from which tables are stored before the end.
const MAX_TABLE_BYTES: u64 = 16 << 20;

/// A disk to which guest data is written.
#[derive(Debug)]
pub(super) struct Writer {
    storages: Vec<Arc<dyn Storage>>,
    sinks: Vec<Arc<dyn Sink>>,
    extents: Vec<WrittenExtent>,
    /// Unallocated grains are read from a parent.
    has_parent: bool,
}

#[derive(Debug)]
struct WrittenExtent {
    guest: Range<u64>,
    /// Index of its file.
    file: usize,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Stored verbatim from this host offset.
    Flat(u64),
    /// Reads as zeros and has no file.
    Zero,
    Sparse(SparseTables),
}

impl Writer {
    /// Gives the disk a new content ID and prepares its extents.
    pub(super) fn start(image: &Vmdk, storages: Vec<Arc<dyn Storage>>) -> Result<Self> {
        let mut extents = Vec::new();
        for extent in image.extents() {
            let kind = match &extent.layout {
                Layout::Flat { offset } => Kind::Flat(*offset),
                Layout::Sparse(sparse) => {
                    let storage = Arc::clone(&storages[extent.file]);
                    Kind::Sparse(SparseTables::new(sparse, storage)?)
                }
                _ => Kind::Zero,
            };
            extents.push(WrittenExtent { guest: extent.guest.clone(), file: extent.file, kind });
        }
        for extent in &mut extents {
            if let Kind::Sparse(tables) = &mut extent.kind {
                tables.repair_redundant()?;
            }
        }
        let storage = &*storages[0];
        let old = image.content_id().unwrap_or(NO_PARENT);
        let mut edits = Edits::new();
        edits.phase(content_id::renew(storage, image.descriptor_range(storage.len())?, old)?);
        edits.apply(storage).map_err(cannot_modify)?;
        let mut sinks: Vec<Arc<dyn Sink>> = Vec::with_capacity(storages.len());
        for storage in &storages {
            sinks.push(storage.clone());
        }
        Ok(Self { storages, sinks, extents, has_parent: image.has_parent() })
    }

    /// Returns the index of the extent that contains a guest offset.
    fn extent_at(&self, at: u64) -> Result<usize> {
        let index = self.extents.partition_point(|extent| extent.guest.end <= at);
        match self.extents.get(index) {
            Some(_) => Ok(index),
            None => Err(Error::invalid("the range is beyond the end of the disk")),
        }
    }

    fn place_data(&mut self, at: u64, len: u64) -> Result<Slot> {
        let index = self.extent_at(at)?;
        let extent = &mut self.extents[index];
        let file = extent.file;
        let inside = at - extent.guest.start;
        let max = len.min(extent.guest.end - at);
        match &mut extent.kind {
            Kind::Flat(offset) => {
                Ok(Slot { file, offset: *offset + inside, len: max, is_zeroed: false })
            }
            Kind::Zero => Err(Error::unsupported(format!(
                "guest offset {at:#x} is in an extent that always reads as zeros"
            ))),
            Kind::Sparse(tables) => {
                let offset = tables.allocate(inside)?;
                let is_zeroed = tables.is_zeroed(offset);
                let mut end = tables.grain_bytes - inside % tables.grain_bytes;
                while end < max
                    && tables.allocate(inside + end)? == offset + end
                    && tables.is_zeroed(offset + end) == is_zeroed
                {
                    end += tables.grain_bytes;
                }
                Ok(Slot { file, offset, len: max.min(end), is_zeroed })
            }
        }
    }

    /// Calls `each` for the parts of a range in different extents, with the index of the extent and
    /// the range within it.
    fn for_extents(
        &mut self,
        range: Range<u64>,
        mut each: impl FnMut(&mut Self, usize, Range<u64>) -> Result<()>,
    ) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let index = self.extent_at(at)?;
            let guest = self.extents[index].guest.clone();
            let end = range.end.min(guest.end);
            each(self, index, at - guest.start..end - guest.start)?;
            at = end;
        }
        Ok(())
    }

    fn zero(&mut self, index: usize, range: Range<u64>) -> Result<()> {
        let has_parent = self.has_parent;
        let extent = &mut self.extents[index];
        let storage = &*self.storages[extent.file];
        let write = |offset: u64, len: u64| {
            let written = storage.write_zeros_at(offset, len);
            written.map_err(|e| Error::io("cannot write zeros", e).at(offset))
        };
        let tables = match &mut extent.kind {
            Kind::Zero => return Ok(()),
            Kind::Flat(offset) => return write(*offset + range.start, range.end - range.start),
            Kind::Sparse(tables) => tables,
        };
        let mut at = range.start;
        while at < range.end {
            let skipped = if has_parent { at } else { tables.unallocated_until(at) };
            if skipped > at {
                at = skipped;
                continue;
            }
            let (grain_bytes, inside) = (tables.grain_bytes, at % tables.grain_bytes);
            let end = range.end.min(at - inside + grain_bytes);
            let offset = match tables.grain(at)? {
                Grain::Zero => None,
                Grain::Unallocated if !has_parent || tables.mark_zero(at)? => None,
                Grain::Unallocated => Some(tables.allocate(at)?),
                Grain::Stored(offset) => Some(offset + inside),
            };
            // Each part of a disk is placed once: nothing was written there.
            if let Some(offset) = offset.filter(|&offset| !tables.is_zeroed(offset)) {
                write(offset, end - at)?;
            }
            at = end;
        }
        Ok(())
    }

    fn unallocate_in(&mut self, index: usize, range: Range<u64>) -> Result<()> {
        let Kind::Sparse(tables) = &mut self.extents[index].kind else {
            let message = "a flat extent cannot show a backing file";
            return Err(Error::unsupported(message));
        };
        let mut at = range.start;
        while at < range.end {
            let skipped = tables.unallocated_until(at);
            if skipped > at {
                at = skipped;
                continue;
            }
            if tables.grain(at)? != Grain::Unallocated {
                tables.unallocate(at)?;
            }
            at += tables.grain_bytes;
        }
        Ok(())
    }

    /// Makes everything durable that was written so far, and then the tables for guest offsets
    /// before `end`.
    fn store_tables(&mut self, end: u64) -> Result<()> {
        self.storages.iter().try_for_each(|file| file.flush()).map_err(cannot_modify)?;
        for extent in &mut self.extents {
            if let Kind::Sparse(tables) = &mut extent.kind {
                tables.store(end.saturating_sub(extent.guest.start))?;
            }
        }
        Ok(())
    }
}

impl Target for Writer {
    fn files(&self) -> &[Arc<dyn Sink>] {
        &self.sinks
    }

    fn place(&mut self, at: u64, unit: Allocate) -> Result<Option<Slot>> {
        match unit {
            Allocate::Data { len } => self.place_data(at, len).map(Some),
            Allocate::Zero { len } => self.for_extents(at..at + len, Self::zero).map(|()| None),
            Allocate::Backed { len } => {
                self.for_extents(at..at + len, Self::unallocate_in).map(|()| None)
            }
            Allocate::Compressed { .. } => {
                Err(Error::invalid("the extents of this disk are not compressed"))
            }
        }
    }

    fn settle(&mut self, end: u64) -> Result<()> {
        let memory = self.extents.iter_mut().map(|extent| match &mut extent.kind {
            Kind::Sparse(tables) => tables.memory_before(end.saturating_sub(extent.guest.start)),
            _ => 0,
        });
        match memory.sum::<u64>() >= MAX_TABLE_BYTES {
            true => self.store_tables(end),
            false => Ok(()),
        }
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.store_tables(u64::MAX)
    }
}

fn cannot_modify(error: std::io::Error) -> Error {
    Error::io("cannot modify the image", error)
}
