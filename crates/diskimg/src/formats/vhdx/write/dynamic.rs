//! Writing a dynamic or differencing disk.
//!
//! Blocks are appended in guest order. The engine's unit is 4 KiB: a block gets its place with the
//! first unit that has data, and what is not written of it are zeros.
//!
//! A block of a differencing disk is in one of four states when it is complete:
//!
//! ```text
//!   nothing was written        not present: all of it is the parent's
//!   zeros everywhere           zero: nothing is stored
//!   data or zeros everywhere   fully present
//!   anything else              partially present: a bitmap tells the sectors apart
//! ```
//!
//! The bitmap of a chunk, 1 MiB, follows its blocks in the file if one of them needs it. One bitmap
//! is in memory at a time.

use super::table::TableWriter;
use super::{NewFile, VhdxSpec, write};
use crate::error::{Error, Result};
use crate::formats::vhdx::bat::{Entry, State};
use crate::formats::vhdx::{MIB, bits};
use crate::model::target::{Allocate, Slot, Target};
use crate::storage::number::to_usize;
use crate::storage::sink::Sink;
use std::ops::Range;
use std::sync::Arc;

/// A dynamic or differencing disk being written.
#[derive(Debug)]
pub(super) struct DynamicTarget {
    new: NewFile,
    spec: VhdxSpec,
    table: TableWriter,
    /// Host offset of the end of the blocks.
    end: u64,
    block: Option<Block>,
    /// The bitmap of the last block's chunk, in a differencing disk.
    chunk: Option<Chunk>,
    /// `None` if the disk is created empty.
    digest: Option<u64>,
}

/// The block that is being written.
#[derive(Debug)]
struct Block {
    index: u64,
    /// Its host offset, if it has a place in the file.
    at: Option<u64>,
    /// End of what the engine writes, or of what was zeroed, in bytes from the start of the block.
    written: u64,
    /// In a differencing disk, the sectors that hide the parent's.
    sectors: Vec<u8>,
}

/// The bitmap of a chunk of blocks.
#[derive(Debug)]
struct Chunk {
    index: u64,
    bits: Vec<u8>,
    is_needed: bool,
}

impl DynamicTarget {
    /// Starts a disk.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if writing fails.
    pub(super) fn start(sink: Arc<dyn Sink>, spec: &VhdxSpec) -> Result<Self> {
        let has_parent = spec.metadata.parent.is_some();
        // In a differencing disk, zeros would hide the parent.
        let zero_state = spec.zero_state && !has_parent;
        let others = if zero_state { State::Zero } else { State::NotPresent };
        let target = Self {
            new: NewFile([sink]),
            spec: spec.clone(),
            table: TableWriter::new(&spec.layout, others),
            end: spec.layout.blocks_at(),
            block: None,
            chunk: None,
            digest: None,
        };
        if !target.new.sink().is_zeroed() {
            target.new.zero(0, target.end)?;
        }
        Ok(target)
    }

    fn has_parent(&self) -> bool {
        self.spec.metadata.parent.is_some()
    }

    fn block_bytes(&self) -> u64 {
        self.spec.layout.block_bytes
    }

    /// Returns the part of `range` in its first block.
    fn first_part(&self, range: &Range<u64>) -> Range<u64> {
        let end = (range.start / self.block_bytes() + 1) * self.block_bytes();
        range.start..range.end.min(end)
    }

    /// Returns the number of sectors of a block that are on the disk.
    fn sectors_of(&self, block: u64) -> u64 {
        let start = block * self.block_bytes();
        let len = self.block_bytes().min(self.spec.size() - start);
        len / self.spec.metadata.logical
    }

    /// Makes the block that contains the guest bytes at `at` the current one, and completes the one
    /// before it.
    fn enter(&mut self, at: u64) -> Result<()> {
        let index = at / self.block_bytes();
        if self.block.as_ref().is_some_and(|block| block.index == index) {
            return Ok(());
        }
        self.complete_block()?;
        let bytes = self.block_bytes() / self.spec.metadata.logical / 8;
        let sectors = vec![0; if self.has_parent() { to_usize(bytes) } else { 0 }];
        self.block = Some(Block { index, at: None, written: 0, sectors });
        Ok(())
    }

    /// Takes `len` bytes at the end of the file.
    fn append(&mut self, len: u64) -> u64 {
        let at = self.end;
        self.end += len;
        at
    }

    /// Records that the guest bytes in `part`, which is in the current block, are data or zeros, not
    /// the parent's.
    fn hide(&mut self, part: &Range<u64>) {
        let (block_bytes, sector) = (self.block_bytes(), self.spec.metadata.logical);
        if let Some(block) = self.block.as_mut().filter(|block| !block.sectors.is_empty()) {
            let start = part.start % block_bytes;
            let end = start + (part.end - part.start);
            bits::set(&mut block.sectors, start / sector..end.div_ceil(sector));
        }
    }

    /// Allocates space for the start of `range`, up to the end of the block. Returns its host offset
    /// and length.
    fn allocate(&mut self, range: &Range<u64>) -> Result<(u64, u64)> {
        let part = self.first_part(range);
        self.enter(part.start)?;
        self.hide(&part);
        let (within, len) = (part.start % self.block_bytes(), part.end - part.start);
        let at = self.place_block()?;
        self.zero_until(within)?;
        if let Some(block) = &mut self.block {
            block.written = within + len;
        }
        Ok((at + within, len))
    }

    /// Returns the host offset of the current block, which gets a place if it has none.
    fn place_block(&mut self) -> Result<u64> {
        let placed = self.block.as_ref().and_then(|block| block.at);
        let at = placed.unwrap_or_else(|| self.append(self.block_bytes()));
        match &mut self.block {
            Some(block) => block.at = Some(at),
            None => return Err(Error::invalid("no block is being written")),
        }
        Ok(at)
    }

    /// Zeros the current block from the end of what was written up to `within` bytes from its
    /// start, if the file does not read as zeros there.
    fn zero_until(&mut self, within: u64) -> Result<()> {
        let Some(Block { at: Some(at), written, .. }) = self.block else { return Ok(()) };
        if written < within && !self.new.sink().is_zeroed() {
            self.new.zero(at + written, within - written)?;
        }
        Ok(())
    }

    /// Puts the entry of the current block.
    fn complete_block(&mut self) -> Result<()> {
        let Some(Block { index, at, .. }) = self.block else { return Ok(()) };
        let state = match self.has_parent() {
            true => self.state_of_child(index)?,
            false if at.is_some() => State::Full,
            false => State::NotPresent,
        };
        if state != State::NotPresent {
            let is_stored = matches!(state, State::Full | State::Partial);
            let offset = if is_stored { self.place_block()? } else { 0 };
            self.zero_until(self.block_bytes())?;
            let entry = self.spec.layout.table.entry_of_block(index);
            self.table.put(self.new.sink(), entry, Entry { state, offset })?;
        }
        self.block = None;
        Ok(())
    }

    /// Returns the state of the current block, and stores its bits in the bitmap of its chunk.
    fn state_of_child(&mut self, index: u64) -> Result<State> {
        self.enter_chunk(index)?;
        let (count, ratio) = (self.sectors_of(index), self.spec.layout.table.ratio);
        let (Some(Block { at, sectors, .. }), Some(chunk)) = (&mut self.block, &mut self.chunk)
        else {
            return Ok(State::NotPresent);
        };
        if sectors.iter().all(|&byte| byte == 0) {
            return Ok(State::NotPresent);
        }
        let is_whole = bits::all_set(sectors, 0..count);
        if is_whole && at.is_none() {
            return Ok(State::Zero);
        }
        if is_whole {
            sectors.fill(0xff);
        }
        let first = to_usize(index % ratio) * sectors.len();
        chunk.bits[first..first + sectors.len()].copy_from_slice(sectors);
        chunk.is_needed |= !is_whole;
        Ok(if is_whole { State::Full } else { State::Partial })
    }

    /// Makes the chunk of a block the current one, and completes the one before it, whose entry
    /// precedes that of the block.
    fn enter_chunk(&mut self, block: u64) -> Result<()> {
        let index = block / self.spec.layout.table.ratio;
        if self.chunk.as_ref().is_none_or(|chunk| chunk.index != index) {
            self.complete_chunk()?;
            self.chunk = Some(Chunk { index, bits: vec![0; to_usize(MIB)], is_needed: false });
        }
        Ok(())
    }

    /// Writes the bitmap of the current chunk.
    fn complete_chunk(&mut self) -> Result<()> {
        let Some(chunk) = self.chunk.take().filter(|chunk| chunk.is_needed) else { return Ok(()) };
        let offset = self.append(MIB);
        write(self.new.sink(), &chunk.bits, offset, "a sector bitmap")?;
        let entry = self.spec.layout.table.entry_of_bitmap(chunk.index);
        self.table.put(self.new.sink(), entry, Entry { state: State::Full, offset })
    }

    /// Makes `range` zeros, which hide the parent's data.
    fn zero(&mut self, mut range: Range<u64>) -> Result<()> {
        while !range.is_empty() {
            let part = self.first_part(&range);
            self.enter(part.start)?;
            self.hide(&part);
            range.start = part.end;
        }
        Ok(())
    }
}

impl Target for DynamicTarget {
    fn files(&self) -> &[Arc<dyn Sink>] {
        &self.new.0
    }

    fn place(&mut self, at: u64, unit: Allocate) -> Result<Option<Slot>> {
        match unit {
            // New blocks read as zeros.
            Allocate::Zero { .. } if !self.has_parent() => Ok(None),
            Allocate::Zero { len } => self.zero(at..at + len).map(|()| None),
            Allocate::Backed { .. } => Ok(None),
            Allocate::Data { len } => {
                let (offset, len) = self.allocate(&(at..at + len))?;
                Ok(Some(Slot { file: 0, offset, len, is_zeroed: false }))
            }
            Allocate::Compressed { .. } => {
                Err(Error::invalid("a VHDX cannot store compressed units"))
            }
        }
    }

    fn take_digest(&mut self, digest: u64) {
        self.digest = Some(digest);
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.complete_block()?;
        self.complete_chunk()?;
        self.new.set_len(self.end)?;
        self.table.finish(self.new.sink())?;
        self.spec.write_headers(self.new.sink(), self.digest)
    }
}
