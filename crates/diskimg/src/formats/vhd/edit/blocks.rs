//! The blocks of a disk to which guest data is written.

use crate::error::{Error, Result};
use crate::formats::vhd::SECTOR;
use crate::formats::vhd::blocks::{Blocks, FREE, TABLE, clear_bits, set_bits};
use crate::formats::vhd::footer::{FOOTER_BYTES, Footer};
use crate::storage::edit::pending::PendingTables;
use crate::storage::edit::{Edit, Edits, Storage};
use crate::storage::number::{to_u64, to_usize};
use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Alignment of the data of new blocks in the file, in bytes.
const ALIGNMENT: u64 = 4096;

/// Number of table entries in a sector.
const SECTOR_ENTRIES: usize = 128;

/// The blocks, and what changes in their table and bitmaps.
#[derive(Debug)]
pub(super) struct BlockWriter {
    storage: Arc<dyn Storage>,
    footer: [u8; to_usize(FOOTER_BYTES)],
    /// Size of the disk in bytes.
    size: u64,
    block_bytes: u64,
    bitmap_bytes: u64,
    differencing: bool,
    table_at: u64,
    table: Vec<u32>,
    /// Sectors of the table that differ from what is stored.
    changed: BTreeSet<usize>,
    /// The bitmaps that were read or created, by the index of their block.
    bitmaps: PendingTables<Bitmap>,
    /// The new blocks whose bitmaps are not stored yet.
    unstored: BTreeSet<u64>,
    /// Host offset of the end of the file, with its footer.
    end: u64,
    /// A copy of the footer is damaged or missing: both are written.
    restore_footers: bool,
}

#[derive(Debug)]
struct Bitmap {
    bits: Vec<u8>,
    is_changed: bool,
}

impl BlockWriter {
    /// Returns the blocks of an image with this footer, of which a copy may be `damaged`.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if blocks overlap each other or metadata, or are not
    /// in the file; [`Io`](crate::ErrorKind::Io) if a bitmap cannot be read.
    pub(super) fn new(
        blocks: &Blocks,
        footer: &Footer,
        damaged: bool,
        storage: Arc<dyn Storage>,
    ) -> Result<Self> {
        for (index, &sector) in (0..).zip(&blocks.table) {
            if sector != FREE {
                blocks.check_block(index, sector)?;
            }
        }
        // The footer may be shorter than a sector and, after a crash, missing.
        let end = blocks.data_end.next_multiple_of(SECTOR) + FOOTER_BYTES;
        Ok(Self {
            footer: footer.encode(),
            size: blocks.size,
            block_bytes: blocks.block_bytes,
            bitmap_bytes: blocks.bitmap_bytes,
            differencing: blocks.differencing,
            table_at: blocks.table_at,
            table: blocks.table.clone(),
            changed: BTreeSet::new(),
            bitmaps: PendingTables::default(),
            unstored: BTreeSet::new(),
            end,
            restore_footers: damaged,
            storage,
        })
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
        start / SECTOR..end.div_ceil(SECTOR)
    }

    /// Returns the host offset of the data of a block.
    fn data_at(&self, block: u64) -> u64 {
        u64::from(self.table[to_usize(block)]) * SECTOR + self.bitmap_bytes
    }

    /// Returns the bitmap of an allocated block.
    fn bitmap(&mut self, block: u64) -> Result<&mut Bitmap> {
        let at = u64::from(self.table[to_usize(block)]) * SECTOR;
        let (storage, len) = (&*self.storage, to_usize(self.bitmap_bytes));
        self.bitmaps.get_or_try_insert(block, || {
            let mut bits = vec![0; len];
            crate::formats::vhd::read(storage, &mut bits, at, "VHD sector bitmap")?;
            Ok(Bitmap { bits, is_changed: false })
        })
    }

    /// Allocates space for the start of `range`. Returns its host offset and length, and whether it
    /// reads as zeros until it is written.
    pub(super) fn allocate(&mut self, range: Range<u64>) -> Result<(u64, u64, bool)> {
        let part = self.first_part(&range);
        let block = self.block_of(part.start);
        if self.table[to_usize(block)] == FREE {
            self.append(block)?;
        }
        let sectors = self.sectors(&part);
        let bitmap = self.bitmap(block)?;
        let before = bitmap.bits.clone();
        set_bits(&mut bitmap.bits, sectors);
        bitmap.is_changed |= before != bitmap.bits;
        let is_new = self.unstored.contains(&block);
        let offset = self.data_at(block) + part.start % self.block_bytes;
        Ok((offset, part.end - part.start, is_new))
    }

    /// Appends a block to the file. All sectors of a new block of a dynamic disk are allocated,
    /// because QEMU does not read the bitmaps.
    fn append(&mut self, block: u64) -> Result<()> {
        if self.storage.has_fixed_len() {
            let full = io::Error::from(io::ErrorKind::StorageFull);
            return Err(Error::io("the device has no room for another block", full));
        }
        let data = (self.end + self.bitmap_bytes).next_multiple_of(ALIGNMENT);
        let start = data - self.bitmap_bytes;
        let Some(sector) = u32::try_from(start / SECTOR).ok().filter(|&sector| sector != FREE)
        else {
            return Err(Error::limit("the file would exceed 2 TiB"));
        };
        let bits = if self.differencing { 0 } else { 0xff };
        let bits = vec![bits; to_usize(self.bitmap_bytes)];
        self.bitmaps
            .get_or_try_insert(block, || Ok::<_, Error>(Bitmap { bits, is_changed: true }))?;
        self.unstored.insert(block);
        self.table[to_usize(block)] = sector;
        self.changed.insert(to_usize(block) / SECTOR_ENTRIES);
        // The footer is behind the block.
        self.end = data + self.block_bytes + FOOTER_BYTES;
        Ok(())
    }

    /// Makes `range` read as zeros.
    pub(super) fn zero(&mut self, mut range: Range<u64>) -> Result<()> {
        while !range.is_empty() {
            let part = self.first_part(&range);
            range.start = part.end;
            let is_free = self.table[to_usize(self.block_of(part.start))] == FREE;
            if is_free && !self.differencing {
                continue;
            }
            let (offset, len, is_zeroed) = self.allocate(part)?;
            if !is_zeroed {
                let written = self.storage.write_zeros_at(offset, len);
                written.map_err(|e| Error::io("cannot write zeros", e).at(offset))?;
            }
        }
        Ok(())
    }

    /// Makes `range` read from the parent.
    pub(super) fn unallocate(&mut self, mut range: Range<u64>) -> Result<()> {
        if !self.differencing {
            return self.zero(range);
        }
        while !range.is_empty() {
            let part = self.first_part(&range);
            range.start = part.end;
            let block = self.block_of(part.start);
            if self.table[to_usize(block)] != FREE {
                let sectors = self.sectors(&part);
                let bitmap = self.bitmap(block)?;
                clear_bits(&mut bitmap.bits, sectors);
                bitmap.is_changed = true;
            }
        }
        Ok(())
    }

    /// Returns the size in bytes of the bitmaps in memory for guest offsets before `end`.
    pub(super) fn memory_before(&mut self, end: u64) -> u64 {
        let blocks = self.block_of(end.min(self.size));
        to_u64(self.bitmaps.complete_before(blocks)) * self.bitmap_bytes
    }

    /// Stores the changes for guest offsets before `end`, and the footer. The data must be durable.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the file cannot be written.
    pub(super) fn store(&mut self, end: u64) -> Result<()> {
        let end = if end >= self.size { u64::MAX } else { self.block_of(end) };
        let (mut new, mut old) = (Vec::new(), Vec::new());
        for (block, bitmap) in self.bitmaps.take_before(end) {
            if bitmap.is_changed {
                let offset = u64::from(self.table[to_usize(block)]) * SECTOR;
                let is_new = self.unstored.remove(&block);
                let edits = if is_new { &mut new } else { &mut old };
                edits.push(Edit::Write { offset, bytes: bitmap.bits });
            }
        }
        let mut table = Vec::new();
        for sector in std::mem::take(&mut self.changed) {
            let first = sector * SECTOR_ENTRIES;
            let entries = self.table[first..].iter().take(SECTOR_ENTRIES);
            let bytes = (to_u64(first)..).zip(entries).flat_map(|(block, &entry)| {
                if self.unstored.contains(&block) { FREE } else { entry }.to_be_bytes()
            });
            let offset = self.table_at + to_u64(first) * 4;
            table.push(Edit::Write { offset, bytes: bytes.collect() });
        }
        let rest = self.unstored.iter().map(|&block| to_usize(block) / SECTOR_ENTRIES);
        self.changed = rest.collect();
        let mut phases = Edits::new();
        let footer = |offset| Edit::Write { offset, bytes: self.footer.to_vec() };
        if self.restore_footers || self.end > self.storage.current_len() {
            new.push(footer(self.end - FOOTER_BYTES));
        }
        if std::mem::take(&mut self.restore_footers) {
            new.push(footer(0));
        }
        phases.phase(new);
        phases.phase(table);
        phases.phase(old);
        let applied = phases.apply(&*self.storage);
        applied.map_err(|e| Error::io("cannot modify the image", e).in_structure(TABLE))
    }
}
