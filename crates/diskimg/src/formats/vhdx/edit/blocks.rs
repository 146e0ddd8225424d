//! The blocks of a disk to which guest data is written.

use super::table::Table;
use crate::error::{Error, Result};
use crate::formats::vhdx::bat::{BatLayout, Entry, State};
use crate::formats::vhdx::blocks::STRUCTURE;
use crate::formats::vhdx::layer::Vhdx;
use crate::formats::vhdx::{MIB, bits, read};
use crate::model::target::Slot;
use crate::storage::edit::pending::PendingTables;
use crate::storage::edit::{Edit, Edits, Storage};
use crate::storage::number::{to_u64, to_usize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// The blocks, and what changes in the table and the bitmaps.
#[derive(Debug)]
pub(super) struct BlockWriter {
    storage: Arc<dyn Storage>,
    /// Size of the disk in bytes.
    size: u64,
    block_bytes: u64,
    /// Logical sector size in bytes.
    sector: u64,
    layout: BatLayout,
    table: Table,
    /// The blocks of a child that were changed or looked at, by their index.
    children: PendingTables<ChildBlock>,
    /// The new blocks that are not stored yet: what is not written of them are zeros.
    new: BTreeSet<u64>,
    /// Host offset of the end of the file.
    end: u64,
}

/// A block of a child.
#[derive(Debug)]
struct ChildBlock {
    /// Its host offset, if it has a place in the file.
    at: Option<u64>,
    /// The sectors that are the child's: data or zeros.
    sectors: Vec<u8>,
    is_changed: bool,
}

impl BlockWriter {
    /// The blocks of a consistent image, whose last block in the file ends at `blocks_end`.
    pub(super) fn new(image: &Vhdx, storage: Arc<dyn Storage>, blocks_end: u64) -> Self {
        let (blocks, metadata) = (image.blocks(), image.metadata());
        let file_end = image.source().len().max(storage.current_len());
        let end = file_end.max(blocks_end).max(blocks.reserved_end()).next_multiple_of(MIB);
        Self {
            table: Table::new(Arc::clone(&storage), blocks.table_at, blocks.layout.entries()),
            storage,
            size: metadata.size,
            block_bytes: metadata.block_bytes,
            sector: metadata.logical,
            layout: blocks.layout,
            children: PendingTables::default(),
            new: BTreeSet::new(),
            end,
        }
    }

    fn block_of(&self, at: u64) -> u64 {
        at / self.block_bytes
    }

    /// Returns the part of `range` in its first block.
    fn first_part(&self, range: &Range<u64>) -> Range<u64> {
        let end = (self.block_of(range.start) + 1) * self.block_bytes;
        range.start..range.end.min(end)
    }

    /// Returns the sectors of a range within its block.
    fn sectors(&self, range: &Range<u64>) -> Range<u64> {
        let start = range.start % self.block_bytes;
        let end = start + (range.end - range.start);
        start / self.sector..end.div_ceil(self.sector)
    }

    /// Returns the number of bytes of a block's bits in a bitmap.
    fn bits_len(&self) -> usize {
        to_usize(self.block_bytes / self.sector / 8)
    }

    /// Returns the offset of a block's bits in the bitmap of its chunk.
    fn bits_at(&self, block: u64) -> u64 {
        block % self.layout.ratio * to_u64(self.bits_len())
    }

    /// Takes `len` bytes at the end of the file.
    fn append(&mut self, len: u64) -> Result<u64> {
        if self.storage.has_fixed_len() {
            let full = io::Error::from(io::ErrorKind::StorageFull);
            return Err(Error::io("the device has no room for another block", full));
        }
        let at = self.end;
        self.end += len;
        Ok(at)
    }

    /// Returns a block of a child.
    fn child(&mut self, block: u64) -> Result<&mut ChildBlock> {
        if !self.children.contains(block) {
            let entry = self.table.get(self.layout.entry_of_block(block))?;
            let at = entry.is_stored().then_some(entry.offset);
            let mut sectors = vec![0; self.bits_len()];
            match entry.state {
                State::NotPresent => {}
                State::Undefined | State::Zero | State::Unmapped | State::Full => {
                    sectors.fill(0xff);
                }
                State::Partial => {
                    let bitmap = self.bitmap(block / self.layout.ratio)?;
                    let bitmap = bitmap.ok_or_else(|| {
                        let message = format!("block {block} needs a bitmap, but has none");
                        Error::corrupt(STRUCTURE, message)
                    })?;
                    let bits_at = bitmap + self.bits_at(block);
                    read(&*self.storage, &mut sectors, bits_at, "VHDX sector bitmap")?;
                }
            }
            let child = ChildBlock { at, sectors, is_changed: false };
            return self.children.get_or_try_insert(block, || Ok(child));
        }
        self.children.get_or_try_insert(block, || Err(Error::invalid("the block is missing")))
    }

    /// Returns the host offset of the bitmap of a chunk, if it has one.
    fn bitmap(&mut self, chunk: u64) -> Result<Option<u64>> {
        let entry = self.table.get(self.layout.entry_of_bitmap(chunk))?;
        Ok(entry.is_stored().then_some(entry.offset))
    }

    /// Allocates space for the start of `range`.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if there is no room, or the metadata cannot be read.
    pub(super) fn allocate(&mut self, range: Range<u64>) -> Result<Slot> {
        let part = self.first_part(&range);
        let block = self.block_of(part.start);
        let at = match self.layout.has_parent {
            true => self.allocate_in_child(block, &part)?,
            false => self.allocate_in_base(block)?,
        };
        Ok(Slot {
            file: 0,
            offset: at + part.start % self.block_bytes,
            len: part.end - part.start,
            is_zeroed: self.new.contains(&block),
        })
    }

    fn allocate_in_base(&mut self, block: u64) -> Result<u64> {
        let index = self.layout.entry_of_block(block);
        let entry = self.table.get(index)?;
        if entry.is_stored() {
            return Ok(entry.offset);
        }
        let offset = self.append(self.block_bytes)?;
        self.table.set(index, Entry { state: State::Full, offset });
        self.new.insert(block);
        Ok(offset)
    }

    fn allocate_in_child(&mut self, block: u64, part: &Range<u64>) -> Result<u64> {
        let sectors = self.sectors(part);
        let child = self.child(block)?;
        bits::set(&mut child.sectors, sectors);
        child.is_changed = true;
        match child.at {
            Some(at) => Ok(at),
            None => self.append_for(block),
        }
    }

    /// Gives a block of a child a place in the file.
    fn append_for(&mut self, block: u64) -> Result<u64> {
        let at = self.append(self.block_bytes)?;
        self.child(block)?.at = Some(at);
        self.new.insert(block);
        Ok(at)
    }

    /// Makes `range` read as zeros.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if reading or writing fails.
    pub(super) fn zero(&mut self, mut range: Range<u64>) -> Result<()> {
        while !range.is_empty() {
            let part = self.first_part(&range);
            range.start = part.end;
            let block = self.block_of(part.start);
            let at = match self.layout.has_parent {
                false => {
                    let entry = self.table.get(self.layout.entry_of_block(block))?;
                    entry.is_stored().then_some(entry.offset)
                }
                true => {
                    let sectors = self.sectors(&part);
                    let child = self.child(block)?;
                    bits::set(&mut child.sectors, sectors);
                    child.is_changed = true;
                    child.at
                }
            };
            if let Some(at) = at.filter(|_| !self.new.contains(&block)) {
                let (offset, len) = (at + part.start % self.block_bytes, part.end - part.start);
                let written = self.storage.write_zeros_at(offset, len);
                written.map_err(|e| Error::io("cannot write zeros", e).at(offset))?;
            }
        }
        Ok(())
    }

    /// Makes `range` read from the parent.
    ///
    /// # Errors
    /// As [`zero`](Self::zero).
    pub(super) fn unallocate(&mut self, mut range: Range<u64>) -> Result<()> {
        if !self.layout.has_parent {
            return self.zero(range);
        }
        while !range.is_empty() {
            let part = self.first_part(&range);
            range.start = part.end;
            let block = self.block_of(part.start);
            let entry = self.table.get(self.layout.entry_of_block(block))?;
            if entry.state == State::NotPresent && !self.children.contains(block) {
                continue;
            }
            let sectors = self.sectors(&part);
            let child = self.child(block)?;
            bits::clear(&mut child.sectors, sectors);
            child.is_changed = true;
        }
        Ok(())
    }

    /// Returns the size in bytes of what is in memory for guest offsets before `end`.
    pub(super) fn memory_before(&mut self, end: u64) -> u64 {
        let blocks = self.block_of(end.min(self.size));
        let children = to_u64(self.children.complete_before(blocks)) * to_u64(self.bits_len());
        children + self.table.memory()
    }

    /// Stores the changes for guest offsets before `end`. The data must be durable.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the file cannot be read or written.
    pub(super) fn store(&mut self, end: u64) -> Result<()> {
        let end = if end >= self.size { self.layout.blocks } else { self.block_of(end) };
        let (mut bitmaps, mut new_bitmaps) = (Vec::new(), BTreeMap::new());
        for (block, child) in self.children.take_before(end) {
            if child.is_changed {
                self.settle_child(block, child, &mut bitmaps, &mut new_bitmaps)?;
            }
        }
        if self.end > self.storage.current_len() && !self.storage.has_fixed_len() {
            // The file contains each block as a whole.
            bitmaps.push(Edit::SetLen(self.end));
        }
        let bitmap_entries: Vec<_> = new_bitmaps
            .into_iter()
            .map(|(chunk, offset)| {
                let entry = Entry { state: State::Full, offset };
                self.table.write(self.layout.entry_of_bitmap(chunk), entry)
            })
            .collect();
        let limit =
            if end == self.layout.blocks { u64::MAX } else { self.layout.entry_of_block(end) };
        let entries = self.table.take_before(limit);
        self.new = self.new.split_off(&end);
        let mut phases = Edits::new();
        phases.phase(bitmaps).phase(bitmap_entries).phase(entries);
        let applied = phases.apply(&*self.storage);
        applied.map_err(|e| Error::io("cannot modify the image", e).in_structure(STRUCTURE))
    }

    /// Sets the entry of a block of a child, and adds the write of its bits if they are needed. The
    /// place of a new bitmap is added to `new_bitmaps`, by its chunk.
    fn settle_child(
        &mut self,
        block: u64,
        mut child: ChildBlock,
        bitmaps: &mut Vec<Edit>,
        new_bitmaps: &mut BTreeMap<u64, u64>,
    ) -> Result<()> {
        let len = self.block_bytes.min(self.size - block * self.block_bytes);
        let is_whole = bits::all_set(&child.sectors, 0..len / self.sector);
        let is_empty = child.sectors.iter().all(|&byte| byte == 0);
        let state = match (is_whole, is_empty) {
            (true, _) if child.at.is_none() => State::Zero,
            (true, _) => State::Full,
            (_, true) if child.at.is_none() => State::NotPresent,
            _ => State::Partial,
        };
        if state == State::Partial {
            if child.at.is_none() {
                // Some of it are zeros, the rest is the parent's.
                child.at = Some(self.append(self.block_bytes)?);
            }
            let chunk = block / self.layout.ratio;
            let bitmap = match new_bitmaps.get(&chunk) {
                Some(&at) => at,
                None => match self.bitmap(chunk)? {
                    Some(at) => at,
                    None => *new_bitmaps.entry(chunk).or_insert(self.append(MIB)?),
                },
            };
            let offset = bitmap + self.bits_at(block);
            bitmaps.push(Edit::Write { offset, bytes: child.sectors });
        }
        let offset = child.at.filter(|_| matches!(state, State::Full | State::Partial));
        let entry = Entry { state, offset: offset.unwrap_or(0) };
        let index = self.layout.entry_of_block(block);
        if self.table.get(index)? != entry {
            self.table.set(index, entry);
        }
        Ok(())
    }
}
