//! Changing the size of a disk.
//!
//! ```text
//!   grow                                          then
//!   log, header (`start.rs`)
//!   zeros behind the old end of the disk          the old disk does not show them
//!   if the table needs more space:
//!     a copy of the table, at the end             nothing refers to it
//!     the region tables, one after the other      the copy counts
//!   the new entries                               the old disk does not have them
//!   size of the disk in the metadata              the disk has its new size
//!
//!   shrink
//!   size of the disk in the metadata              the blocks beyond it are not used
//!   their entries
//!   the blocks                                    they take no space
//! ```

use super::{VhdxMut, require_sound, start};
use crate::error::{Error, Result};
use crate::formats::vhdx::MIB;
use crate::formats::vhdx::bat::{BatLayout, ENTRY_BYTES, Entry, State};
use crate::formats::vhdx::blocks::{STRUCTURE as TABLE, Subject};
use crate::formats::vhdx::metadata::{MAX_SIZE, Metadata};
use crate::formats::vhdx::region::{self, Region, Regions, TABLES_AT};
use crate::model::flat::Preallocation;
use crate::model::image::Image;
use crate::model::mutable::ResizeRequest;
use crate::storage::edit::{Edit, Edits};
use crate::storage::number::{to_u64, to_usize};
use std::ops::Range;

/// Bytes of a table that are copied at a time.
const CHUNK: u64 = 1 << 20;

impl VhdxMut {
    /// Changes the size of the disk.
    ///
    /// # Errors
    /// As [`MutableLayer::resize`](crate::model::mutable::MutableLayer::resize).
    pub(super) fn change_size(&self, request: &ResizeRequest<'_>) -> Result<()> {
        self.require_possible(request)?;
        let blocks_end = require_sound(&self.image)?;
        let stored_beyond = self.stored_beyond(request.size)?;
        let (regions, _) = Regions::read(&**self.image.source(), &self.header.log_range)?;
        let size_at = Metadata::size_at(&**self.image.source(), &regions.metadata)?;
        start::start(&self.storage, &self.header, self.header_index, self.image.damage())?;
        let switch = Edit::Write { offset: size_at, bytes: request.size.to_le_bytes().to_vec() };
        let mut edits = Edits::new();
        if request.size < self.image.metadata().size {
            let (old, new) = (self.image.blocks().layout, self.layout(request.size));
            let discards =
                stored_beyond.into_iter().map(|(offset, len)| Edit::Discard { offset, len });
            edits
                .phase([switch])
                .phase(zeros(self.image.blocks().table_at, &unused(&new, old.entries())))
                .phase(discards);
        } else {
            self.grow(request.size, &regions, blocks_end, &mut edits)?;
            edits.phase([switch]);
        }
        self.apply(&edits)
    }

    fn apply(&self, edits: &Edits) -> Result<()> {
        edits.apply(&*self.storage).map_err(|e| Error::io("cannot modify the image", e))
    }

    fn require_possible(&self, request: &ResizeRequest<'_>) -> Result<()> {
        let unsupported = |message: &str| Err(Error::unsupported(message.to_owned()));
        let metadata = self.image.metadata();
        if request.preallocation != Preallocation::Off {
            return unsupported("images of format vhdx cannot be resized with preallocation");
        }
        if !request.size.is_multiple_of(metadata.logical) {
            let message = format!("The new size must be a multiple of {}", metadata.logical);
            return Err(Error::invalid(message));
        }
        if request.size > MAX_SIZE {
            return Err(Error::limit("a VHDX can have at most 64 TiB"));
        }
        if request.size < metadata.size && metadata.parent.is_some() {
            return unsupported("a differencing VHDX cannot be shrunk");
        }
        if request.size > metadata.size && request.backing.map_or(0, Image::size) > metadata.size {
            return unsupported(
                "the disk is shorter than its parent, of which more would become visible",
            );
        }
        Ok(())
    }

    /// Returns the layout of the table for a disk of `size` bytes.
    fn layout(&self, size: u64) -> BatLayout {
        let metadata = self.image.metadata();
        let has_parent = metadata.parent.is_some();
        BatLayout::new(size, metadata.block_bytes, metadata.logical, has_parent)
    }

    /// Returns host offset and length of the blocks that a disk of `size` bytes does not need.
    fn stored_beyond(&self, size: u64) -> Result<Vec<(u64, u64)>> {
        let (blocks, needed) = (self.image.blocks(), self.layout(size).blocks);
        let mut stored = Vec::new();
        if size < self.image.metadata().size {
            blocks.for_each_entry(|index, raw| {
                let entry = Entry::parse(raw).filter(|entry| entry.is_stored());
                if let (Some(entry), Subject::Block(block)) = (entry, blocks.subject_of(index))
                    && block >= needed
                {
                    stored.push((entry.offset, blocks.block_bytes));
                }
                Ok(())
            })?;
        }
        Ok(stored)
    }

    /// Adds what precedes the new size of a larger disk.
    fn grow(&self, size: u64, regions: &Regions, blocks_end: u64, edits: &mut Edits) -> Result<()> {
        let blocks = self.image.blocks();
        let (old, new) = (blocks.layout, self.layout(size));
        self.zero_last_block(edits)?;
        let file_end = self.storage.current_len().max(blocks_end).max(blocks.reserved_end());
        let mut end = file_end.next_multiple_of(MIB);
        let mut table_at = blocks.table_at;
        if regions.bat.end - regions.bat.start < new.bytes() {
            if self.storage.has_fixed_len() {
                return Err(Error::unsupported("on a device, the table cannot become larger"));
            }
            let moved = end..end + new.bytes().next_multiple_of(MIB);
            self.move_table(regions, &moved, edits)?;
            (table_at, end) = (moved.start, moved.end);
        }
        edits.phase(zeros(table_at, &unused(&old, new.entries())));
        if self.image.metadata().leaves_blocks_allocated {
            let added = old.blocks..new.blocks;
            let len = (added.end - added.start) * blocks.block_bytes;
            let entries = added.zip(0..).map(|(block, number)| {
                let entry = Entry { state: State::Full, offset: end + number * blocks.block_bytes };
                let offset = table_at + new.entry_of_block(block) * ENTRY_BYTES;
                Edit::Write { offset, bytes: entry.encode().to_le_bytes().to_vec() }
            });
            edits.phase([Edit::SetLen(end + len)]).phase(entries);
        }
        Ok(())
    }

    /// Zeros what the last block has beyond the end of the disk, if it is stored.
    fn zero_last_block(&self, edits: &mut Edits) -> Result<()> {
        let blocks = self.image.blocks();
        let (block, within) = (blocks.size / blocks.block_bytes, blocks.size % blocks.block_bytes);
        if within == 0 {
            return Ok(());
        }
        let mut raw = [0; 8];
        let at = blocks.table_at + blocks.layout.entry_of_block(block) * ENTRY_BYTES;
        crate::formats::vhdx::read(&*self.storage, &mut raw, at, TABLE)?;
        let entry = Entry::parse(u64::from_le_bytes(raw)).filter(|entry| entry.is_stored());
        if let Some(entry) = entry {
            let end = entry.offset + blocks.block_bytes;
            if self.storage.current_len() < end {
                edits.phase([Edit::SetLen(end)]);
            }
            let offset = entry.offset + within;
            edits.phase([Edit::Zero { offset, len: blocks.block_bytes - within }]);
        }
        Ok(())
    }

    /// Copies the table to the host range `moved`, and adds what makes the copy effective.
    fn move_table(&self, regions: &Regions, moved: &Range<u64>, edits: &mut Edits) -> Result<()> {
        let blocks = self.image.blocks();
        self.apply(Edits::new().phase([Edit::SetLen(moved.end)]))?;
        let (mut at, len) = (0, blocks.layout.bytes());
        while at < len {
            let mut bytes = vec![0; to_usize((len - at).min(CHUNK))];
            crate::formats::vhdx::read(&*self.storage, &mut bytes, blocks.table_at + at, TABLE)?;
            let written = self.storage.write_all_at(&bytes, moved.start + at);
            written.map_err(|e| Error::io("cannot modify the image", e).in_structure(TABLE))?;
            at += to_u64(bytes.len());
        }
        self.storage.barrier().map_err(|e| Error::io("cannot modify the image", e))?;
        let place = |region: &Region| match region.guid == region::BAT {
            true => Region { range: moved.clone(), ..region.clone() },
            false => region.clone(),
        };
        // Offset and checksum are in the first sector, so that the table changes as a whole.
        let all: Vec<_> = regions.all.iter().map(place).collect();
        if all.len() > region::ENTRIES_IN_SECTOR {
            return Err(Error::unsupported("the file has too many regions to move one"));
        }
        let table = region::encode(&all);
        for offset in TABLES_AT {
            edits.phase([Edit::Write { offset, bytes: table.to_vec() }]);
        }
        Ok(())
    }
}

/// Returns the ranges of entries, up to number `end`, that are for blocks beyond those of `layout`.
/// In a differencing disk, the last chunk's bitmap is between them.
fn unused(layout: &BatLayout, end: u64) -> Vec<Range<u64>> {
    let first = layout.entry_of_block(layout.blocks);
    let ranges = match layout.has_parent && !layout.blocks.is_multiple_of(layout.ratio) {
        true => {
            let bitmap = layout.entry_of_bitmap(layout.blocks / layout.ratio);
            [first..bitmap.min(end), bitmap + 1..end]
        }
        false => [first..end, end..end],
    };
    ranges.into_iter().filter(|range| !range.is_empty()).collect()
}

/// Returns the modifications that zero entries of the table at a host offset.
fn zeros(table_at: u64, entries: &[Range<u64>]) -> impl Iterator<Item = Edit> {
    entries.iter().map(move |range| Edit::Zero {
        offset: table_at + range.start * ENTRY_BYTES,
        len: (range.end - range.start) * ENTRY_BYTES,
    })
}
