//! Changing the size of a disk.
//!
//! The first sector of the file has the size of the disk and the locations of the block map and of
//! the blocks, so one write of it changes all of them:
//!
//! ```text
//!   grow                                          then
//!   zeros behind the old end of the disk          the old disk does not show them
//!   if the map needs more space:
//!     copies of the first blocks, at the end      nothing refers to the copies
//!     entries of the map                          the copies are in use
//!   the new entries, or the whole map in the      nothing refers to them
//!     place of the first blocks
//!   the first sector                              the disk has its new size
//!
//!   shrink
//!   the first sector                              the blocks beyond the disk are not used
//!   blocks moved into the gaps                    the file is shorter
//! ```

use super::blocks::BlockWriter;
use crate::error::{Error, Result};
use crate::formats::vdi::SECTOR;
use crate::formats::vdi::blocks::{FREE, MAP, ZERO, is_index};
use crate::formats::vdi::header::{HEADER, Header, ImageType, Places};
use crate::open::limits::Limits;
use crate::storage::edit::{Edit, Edits};
use crate::storage::number::{to_u64, to_usize};

impl BlockWriter {
    /// Changes the size of the disk to `size` bytes. The parent, if there is one, has `parent_size`
    /// bytes.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid), [`Limit`](crate::ErrorKind::Limit) or
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if the image cannot have this size,
    /// [`Io`](crate::ErrorKind::Io) if the file cannot be read or written.
    pub(super) fn resize(&mut self, size: u64, parent_size: u64, limits: &Limits) -> Result<()> {
        let new = self.resized_header(size, limits)?;
        if size < self.size {
            self.renew_modification()?;
            self.map.truncate(to_usize(new.blocks.into()));
            self.switch(new)?;
            return self.fill_gaps();
        }
        let within = self.size % self.header.block_bytes;
        let shows_parent = self.is_child && within > 0 && parent_size > self.size;
        if shows_parent && self.entry(self.block_of(self.size)) == FREE {
            return Err(Error::unsupported(
                "the disk ends within a block of its parent, of which more would become visible",
            ));
        }
        self.renew_modification()?;
        self.zero_end()?;
        let old_blocks = to_u64(self.map.len());
        let block_bytes = self.header.block_bytes;
        let added = (old_blocks..new.blocks.into()).map(|block| {
            let hides_parent = self.is_child && block * block_bytes < parent_size;
            if hides_parent { ZERO } else { FREE }
        });
        let added: Vec<_> = added.collect();
        let new = match new.map_at + new.map_bytes() <= new.data_at {
            true => {
                self.map.extend(added);
                self.allocate_static(old_blocks)?;
                self.write_map(&new, to_usize(old_blocks))?;
                new
            }
            false => {
                let room = self.room_for(&new)?;
                if let Err(error) = self.make_room(room) {
                    // Blocks that were moved are beyond what the map has entries for.
                    let _ = self.fill_gaps();
                    return Err(error);
                }
                let moved = self.behind_room(new, room);
                self.map.extend(added);
                self.allocate_static(old_blocks)?;
                self.write_map(&moved, 0)?;
                moved
            }
        };
        self.switch(new)?;
        self.fill_gaps()
    }

    /// Returns the header for a disk of `size` bytes.
    fn resized_header(&self, size: u64, limits: &Limits) -> Result<Header> {
        if !size.is_multiple_of(SECTOR) {
            return Err(Error::invalid("The new size must be a multiple of 512"));
        }
        if self.header.places != Places::CURRENT {
            let message = "an image of version 0.2, whose block map cannot be moved, cannot be \
                           resized";
            return Err(Error::unsupported(message));
        }
        let header = Header { size, ..self.header.clone() };
        let blocks = u32::try_from(header.needed_blocks(limits)?);
        let blocks = blocks.ok().filter(|&blocks| is_index(blocks));
        let blocks = blocks.ok_or_else(|| Error::limit("the image would have too many blocks"))?;
        Ok(Header { blocks, ..header })
    }

    /// Zeros what the last block has beyond the end of the disk.
    fn zero_end(&self) -> Result<()> {
        let block = self.header.block_bytes;
        let within = self.size % block;
        let index = self.entry(self.block_of(self.size));
        if within == 0 || !is_index(index) {
            return Ok(());
        }
        let start = self.start_of(index) + self.header.block_extra;
        let mut edits = Edits::new();
        if self.storage.current_len() < start + block {
            edits.phase([Edit::SetLen(start + block)]);
        }
        edits.phase([Edit::Zero { offset: start + within, len: block - within }]);
        self.apply(&edits, MAP)
    }

    /// Returns the number of blocks at the start that make room for the map.
    fn room_for(&self, new: &Header) -> Result<u32> {
        let map_at = new.data_at.next_multiple_of(SECTOR);
        let needed = map_at - new.data_at + new.map_bytes();
        let count = u32::try_from(needed.div_ceil(new.stride()));
        let count = count.map_err(|_| Error::limit("the block map would be too large"))?;
        let data_at = new.data_at + u64::from(count) * new.stride();
        match u32::try_from(data_at) {
            Ok(_) => Ok(count),
            Err(_) => Err(Error::limit("the block map would be too large")),
        }
    }

    /// Moves the first `count` blocks to the end of the file.
    fn make_room(&mut self, count: u32) -> Result<()> {
        self.free.clear();
        self.end = self.end.max(count);
        for block in 0..to_u64(self.map.len()) {
            let old = self.entry(block);
            if old < count {
                let moved = self.add_block(block)?;
                self.copy_block(old, moved)?;
            }
        }
        self.storage.flush().map_err(|e| Error::io("cannot modify the image", e))?;
        self.store()
    }

    /// Returns the header of a disk whose map takes the place of the first `count` blocks. From then
    /// on, indices are counted from the first block behind the map, the entries in memory too.
    fn behind_room(&mut self, new: Header, count: u32) -> Header {
        let moved = self.map.iter_mut().filter(|entry| is_index(**entry));
        moved.for_each(|entry| *entry -= count);
        self.end -= count;
        let data_at = new.data_at + u64::from(count) * new.stride();
        self.header.data_at = data_at;
        Header { map_at: new.data_at.next_multiple_of(SECTOR), data_at, ..new }
    }

    /// Allocates the blocks from number `first` on if the image has a place for each.
    fn allocate_static(&mut self, first: u64) -> Result<()> {
        if self.header.image_type != ImageType::Static {
            return Ok(());
        }
        for block in first..to_u64(self.map.len()) {
            self.add_block(block)?;
        }
        Ok(())
    }

    /// Writes the entries of the map from number `first` on to where `header` says that the map is.
    /// The stored header does not refer to them.
    fn write_map(&mut self, header: &Header, first: usize) -> Result<()> {
        self.changed.clear();
        let bytes: Vec<u8> =
            self.map[first..].iter().flat_map(|entry| entry.to_le_bytes()).collect();
        let offset = header.map_at + to_u64(first) * 4;
        let mut edits = Edits::new();
        if self.storage.current_len() < header.data_at {
            edits.phase([Edit::SetLen(header.data_at)]);
        }
        edits.phase([Edit::Write { offset, bytes }]);
        self.apply(&edits, MAP)
    }

    /// Makes a header effective. Only its size, locations and number of blocks change.
    fn switch(&mut self, new: Header) -> Result<()> {
        let mut sector = vec![0; to_usize(SECTOR)];
        let read = self.storage.read_exact_at(&mut sector, 0);
        read.map_err(|e| Error::io("cannot read", e).in_structure(HEADER))?;
        new.store_layout(&mut sector, self.end);
        let mut edits = Edits::new();
        edits.phase([Edit::Write { offset: 0, bytes: sector }]);
        self.apply(&edits, HEADER)?;
        self.size = new.disk_size();
        self.counter = self.end;
        self.header = new;
        Ok(())
    }
}
