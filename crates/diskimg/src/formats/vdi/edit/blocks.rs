//! The blocks of a disk to which guest data is written.

use crate::error::{Error, Result};
use crate::formats::uuid::Uuid;
use crate::formats::vdi::blocks::{FREE, MAP, ZERO, is_index};
use crate::formats::vdi::header::{HEADER, Header};
use crate::formats::vdi::layer::Vdi;
use crate::formats::vdi::read;
use crate::model::target::Slot;
use crate::storage::edit::{Edit, Edits, Storage};
use crate::storage::number::{to_u32, to_u64, to_usize};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::U32;

/// Number of entries of the block map that are written together.
const CHUNK: usize = 128;

/// Maximum number of bytes that are copied together when a block is moved.
const COPY_BYTES: u64 = 1 << 20;

/// Maximum length in bytes of the entries of the map that the disk does not need.
const MAX_FURTHER_BYTES: u64 = 1 << 20;

/// The blocks, and what changes in their map.
#[derive(Debug)]
pub(super) struct BlockWriter {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) header: Header,
    /// Size of the disk in bytes.
    pub(super) size: u64,
    /// Entries that are free are the parent's.
    pub(super) is_child: bool,
    pub(super) map: Vec<u32>,
    /// Chunks of the map that differ from what is stored.
    pub(super) changed: BTreeSet<usize>,
    /// The indices that no entry used when writing began, up to the largest one that is used.
    pub(super) free: VecDeque<Range<u32>>,
    /// The first index that is beyond all that are in use.
    pub(super) end: u32,
    /// Blocks that were allocated by this writer: they read as zeros until they are written.
    new: BTreeSet<u64>,
    /// Number of allocated blocks, as stored.
    pub(super) counter: u32,
}

impl BlockWriter {
    /// Returns the blocks of an image.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if several entries refer to the same block, or if one
    /// is not in the file; [`Unsupported`](crate::ErrorKind::Unsupported) if entries of the map may
    /// be written in part, or if some are not the disk's.
    pub(super) fn new(image: &Vdi, storage: Arc<dyn Storage>) -> Result<Self> {
        let (header, blocks) = (image.header(), image.blocks());
        if !header.map_at.is_multiple_of(4) {
            let message = "a block map that is not aligned to 4 bytes cannot be written safely";
            return Err(Error::unsupported(message).in_structure(HEADER).at(340));
        }
        for (block, &index) in (0..).zip(&blocks.map) {
            if is_index(index) {
                blocks.place(block, index)?;
            }
        }
        require_no_further_blocks(header, blocks.map.len(), &*storage)?;
        let used = used(&blocks.map);
        Ok(Self {
            header: header.clone(),
            size: header.disk_size(),
            is_child: header.image_type.has_parent(),
            map: blocks.map.clone(),
            changed: BTreeSet::new(),
            free: gaps(&used).into(),
            end: used.last().map_or(0, |&last| last + 1),
            new: BTreeSet::new(),
            counter: header.allocated,
            storage,
        })
    }

    /// Gives the image a new UUID of its last modification, by which its children know it.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the file cannot be written.
    pub(super) fn renew_modification(&mut self) -> Result<()> {
        let bytes = Uuid::swapped(Uuid::random().0).to_vec();
        let mut edits = Edits::new();
        edits.phase([Edit::Write { offset: self.header.places.modification, bytes }]);
        self.apply(&edits, HEADER)
    }

    pub(super) fn apply(&self, edits: &Edits, structure: &'static str) -> Result<()> {
        let applied = edits.apply(&*self.storage);
        applied.map_err(|e| Error::io("cannot modify the image", e).in_structure(structure))
    }

    pub(super) fn block_of(&self, at: u64) -> u64 {
        at / self.header.block_bytes
    }

    /// Returns the part of `range` in its first block.
    fn first_part(&self, range: &Range<u64>) -> Range<u64> {
        let end = (self.block_of(range.start) + 1) * self.header.block_bytes;
        range.start..range.end.min(end)
    }

    pub(super) fn entry(&self, block: u64) -> u32 {
        self.map.get(to_usize(block)).copied().unwrap_or(FREE)
    }

    fn set_entry(&mut self, block: u64, entry: u32) {
        let block = to_usize(block);
        if let Some(old) = self.map.get_mut(block).filter(|old| **old != entry) {
            *old = entry;
            self.changed.insert(block / CHUNK);
        }
    }

    /// Returns the host offset of the block with this index, with its extra bytes.
    pub(super) fn start_of(&self, index: u32) -> u64 {
        self.header.data_at + u64::from(index) * self.header.stride()
    }

    /// Allocates space for the start of `range`.
    pub(super) fn allocate(&mut self, range: Range<u64>) -> Result<Slot> {
        let part = self.first_part(&range);
        let block = self.block_of(part.start);
        let index = match self.entry(block) {
            FREE | ZERO => self.add_block(block)?,
            index => index,
        };
        let within = part.start % self.header.block_bytes;
        Ok(Slot {
            file: 0,
            offset: self.start_of(index) + self.header.block_extra + within,
            len: part.end - part.start,
            is_zeroed: self.new.contains(&block),
        })
    }

    /// Allocates a block that reads as zeros: the first one that is not in use, or one at the end.
    pub(super) fn add_block(&mut self, block: u64) -> Result<u32> {
        let index = match self.free.front_mut() {
            Some(gap) => {
                let index = gap.start;
                gap.start += 1;
                if gap.start >= gap.end {
                    self.free.pop_front();
                }
                index
            }
            None if is_index(self.end) => {
                self.end += 1;
                self.end - 1
            }
            None => return Err(Error::limit("the image would have more than 2^32 blocks")),
        };
        let (start, len) = (self.start_of(index), self.storage.current_len());
        let end = start + self.header.stride();
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let outcome = match end.checked_sub(len).filter(|&missing| missing > 0) {
            Some(_) if self.storage.has_fixed_len() => Err(full()),
            Some(_) => self.storage.set_len(end),
            None => Ok(()),
        };
        let stale = len.min(end).saturating_sub(start);
        outcome
            .and_then(|()| match stale {
                0 => Ok(()),
                stale => self.storage.write_zeros_at(start, stale),
            })
            .map_err(|e| Error::io("cannot allocate a block", e).at(start))?;
        self.set_entry(block, index);
        self.new.insert(block);
        Ok(index)
    }

    /// Makes `range` read as zeros. In a child, it consists of whole blocks.
    pub(super) fn zero(&mut self, mut range: Range<u64>) -> Result<()> {
        while !range.is_empty() {
            let part = self.first_part(&range);
            range.start = part.end;
            let block = self.block_of(part.start);
            match self.entry(block) {
                ZERO => {}
                FREE if !self.is_child => {}
                // As free, it would be the parent's.
                FREE => self.set_entry(block, ZERO),
                _ => {
                    let slot = self.allocate(part)?;
                    if !slot.is_zeroed {
                        let written = self.storage.write_zeros_at(slot.offset, slot.len);
                        written.map_err(|e| Error::io("cannot write zeros", e).at(slot.offset))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes `range` read from the parent. In a child, it consists of whole blocks.
    pub(super) fn unallocate(&mut self, range: Range<u64>) -> Result<()> {
        if !self.is_child {
            return self.zero(range);
        }
        debug_assert!(range.start.is_multiple_of(self.header.block_bytes));
        debug_assert!(range.end.is_multiple_of(self.header.block_bytes) || range.end == self.size);
        let blocks = self.block_of(range.start)..range.end.div_ceil(self.header.block_bytes);
        blocks.for_each(|block| self.set_entry(block, FREE));
        Ok(())
    }

    /// Stores the changes. The data must be durable.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the file cannot be written.
    pub(super) fn store(&mut self) -> Result<()> {
        let mut edits = Edits::new();
        // Beyond all blocks that the old or the new map refers to.
        edits.phase(self.set_counter(self.end));
        edits.phase(self.take_changed());
        self.apply(&edits, MAP)
    }

    /// Returns the modification of the number of allocated blocks.
    fn set_counter(&mut self, counter: u32) -> Option<Edit> {
        let old = std::mem::replace(&mut self.counter, counter);
        let (offset, bytes) = (self.header.places.allocated, counter.to_le_bytes().to_vec());
        (old != counter).then_some(Edit::Write { offset, bytes })
    }

    /// Returns the modifications of the map.
    fn take_changed(&mut self) -> Vec<Edit> {
        let edit = |chunk: usize| {
            let first = chunk * CHUNK;
            let entries = self.map[first..].iter().take(CHUNK);
            let bytes = entries.flat_map(|entry| entry.to_le_bytes()).collect();
            Edit::Write { offset: self.header.map_at + to_u64(first) * 4, bytes }
        };
        std::mem::take(&mut self.changed).into_iter().map(edit).collect()
    }

    /// Moves blocks from the end into gaps, so that the indices of all blocks are smaller than their
    /// number. Everything must be stored. A block is copied before its entry changes, so that both
    /// copies are right at any time.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the file cannot be read or written.
    pub(super) fn fill_gaps(&mut self) -> Result<()> {
        let used = used(&self.map);
        let count = to_u32(used.len());
        let mut free = gaps(&used).into_iter().flatten();
        let mut moves = 0;
        for block in 0..to_u64(self.map.len()) {
            let old = self.entry(block);
            if is_index(old) && old >= count {
                let Some(new) = free.next() else { break };
                self.copy_block(old, new)?;
                self.set_entry(block, new);
                moves += 1;
            }
        }
        let end = self.start_of(count);
        let is_shorter = count < self.end && end < self.storage.current_len();
        let shorten = is_shorter && !self.storage.has_fixed_len();
        if moves > 0 {
            self.storage.flush().map_err(|e| Error::io("cannot modify the image", e))?;
        }
        let mut edits = Edits::new();
        edits.phase(self.take_changed());
        let counter = self.set_counter(count);
        edits.phase(shorten.then_some(Edit::SetLen(end)).into_iter().chain(counter));
        self.end = count;
        self.apply(&edits, MAP)
    }

    /// Copies a block, with its extra bytes.
    pub(super) fn copy_block(&self, from: u32, to: u32) -> Result<()> {
        let (from, to) = (self.start_of(from), self.start_of(to));
        let (mut at, len) = (0, self.header.stride());
        let mut buf = vec![0; to_usize(len.min(COPY_BYTES))];
        while at < len {
            let part = &mut buf[..to_usize((len - at).min(COPY_BYTES))];
            part.fill(0);
            // The file may end within the last block.
            let rest = self.storage.current_len().saturating_sub(from + at);
            let stored = to_usize(rest).min(part.len());
            self.storage
                .read_exact_at(&mut part[..stored], from + at)
                .map_err(|e| Error::io("cannot read a block", e).at(from + at))?;
            self.storage
                .write_all_at(part, to + at)
                .map_err(|e| Error::io("cannot move a block", e).at(to + at))?;
            at += to_u64(part.len());
        }
        Ok(())
    }
}

/// Requires that the entries of the map that the disk does not need, those from number `needed` on,
/// are free. The blocks that they refer to would be overwritten.
fn require_no_further_blocks(header: &Header, needed: usize, storage: &dyn Storage) -> Result<()> {
    let unsupported = |message: &str| Err(Error::unsupported(message.to_owned()).in_structure(MAP));
    let (at, len) = (header.map_at + to_u64(needed) * 4, header.map_bytes() - to_u64(needed) * 4);
    if len > MAX_FURTHER_BYTES {
        return unsupported("it has far more entries than the disk needs");
    }
    let mut entries = vec![U32::ZERO; to_usize(len / 4)];
    read(storage, entries.as_mut_bytes(), at, MAP)?;
    match entries.iter().any(|entry| is_index(entry.get())) {
        true => unsupported("entries that the disk does not need refer to blocks"),
        false => Ok(()),
    }
}

/// Returns the indices in use, in ascending order.
fn used(map: &[u32]) -> Vec<u32> {
    let mut used: Vec<_> = map.iter().copied().filter(|&entry| is_index(entry)).collect();
    used.sort_unstable();
    used
}

/// Returns the indices between those in use, which are in ascending order.
fn gaps(used: &[u32]) -> Vec<Range<u32>> {
    let mut next = 0;
    let mut gaps = Vec::new();
    for &index in used {
        if index > next {
            gaps.push(next..index);
        }
        next = index + 1;
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_between_the_indices_in_use() {
        let map = [5, FREE, 1, ZERO, 2];
        assert_eq!(used(&map), [1, 2, 5]);
        assert_eq!(gaps(&used(&map)), [0..1, 3..5]);
        assert_eq!(gaps(&used(&[FREE, ZERO])), []);
        assert_eq!(gaps(&[0, 1]), []);
    }
}
