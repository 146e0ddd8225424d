//! Changing the capacity of a sparse extent.
//!
//! One sector, the header, has the capacity and the locations of the directories and of the
//! descriptor. What becomes longer is written at the end of the file, and the header is changed when
//! that is durable. Since many programs expect the descriptor in its old place, it is written there
//! again while the header refers to a copy:
//!
//! ```text
//!   grow                                            then
//!   entries and bytes beyond the old end are        the old disk does not show them
//!     removed, as after an interrupted change
//!   longer directories, new tables, and a copy      nothing refers to them
//!     of the new descriptor, at the end
//!   header                                          the disk has its new size
//!   descriptor in its old place                     nothing refers to it
//!   header                                          nothing refers to the copy
//!   length of the file
//!
//!   shrink
//!   a copy of the new descriptor, at the end
//!   header                                          the disk has its new size
//!   descriptor, header, as above
//!   entries and bytes beyond the new end            nothing refers to grains there
//!   these grains and tables, length of the file     they take no space
//! ```
//!
//! New tables are allocated, although an entry of 0 in a directory means the same: QEMU cannot write
//! where there is no table.

use crate::error::{Error, Result};
use crate::formats::vmdk::SECTOR;
use crate::formats::vmdk::edit::sparse::SparseTables;
use crate::formats::vmdk::header::Header;
use crate::formats::vmdk::sparse::SparseExtent;
use crate::open::limits::Limits;
use crate::storage::edit::{Edit, Edits, Storage};
use crate::storage::number::{to_u32, to_u64, to_usize};
use std::sync::Arc;

/// Number of ranges that are deallocated together.
const DISCARDED: usize = 1 << 16;

/// A sparse extent whose capacity changes.
#[derive(Debug)]
pub(super) struct ResizedExtent {
    storage: Arc<dyn Storage>,
    header: Header,
    tables: SparseTables,
    /// The new embedded descriptor, if there is one.
    text: Option<Vec<u8>>,
}

impl ResizedExtent {
    /// Opens an extent. `text` is its new descriptor, if it embeds one.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) if there is no room for the descriptor,
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the extent is damaged,
    /// [`Io`](crate::ErrorKind::Io) if it cannot be read.
    pub(super) fn open(
        extent: &SparseExtent,
        storage: Arc<dyn Storage>,
        text: Option<Vec<u8>>,
    ) -> Result<Self> {
        let header = extent.header().clone();
        let room = header.descriptor_sectors * SECTOR;
        let text = text.map(|mut text| {
            if to_u64(text.len()) > room {
                let found = format!("the new descriptor needs {} bytes", text.len());
                return Err(Error::limit(format!("{found}, and there is room for {room}"))
                    .in_structure("VMDK descriptor"));
            }
            text.resize(to_usize(room), 0);
            Ok(text)
        });
        let text = text.transpose()?;
        let tables = SparseTables::new(extent, Arc::clone(&storage))?;
        Ok(Self { storage, header, tables, text })
    }

    /// Gives the extent more sectors than the `old` ones that the disk uses.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) if the tables or the file would become too large,
    /// [`Io`](crate::ErrorKind::Io) if writing fails.
    pub(super) fn grow(mut self, old: u64, new: u64, limits: &Limits) -> Result<()> {
        let mut header = Header { capacity: new, ..self.header.clone() };
        let bytes = header.tables() * 4;
        if bytes > limits.table_bytes {
            let found = format!("a grain directory of {bytes} bytes");
            return Err(Error::over_limit("table_bytes", found, limits.table_bytes));
        }
        self.require_room(&header, old)?;
        self.tables.repair_redundant()?;
        self.tables.clear_beyond(old * SECTOR)?;
        let added = self.add_tables(&mut header, old)?;
        self.switch(header, added)
    }

    /// Requires that the end of the file can be addressed, before anything is written.
    fn require_room(&self, new: &Header, old: u64) -> Result<()> {
        let tables =
            new.tables() - (old * SECTOR).div_ceil(self.tables.table_cover).min(new.tables());
        let copies = to_u64(self.tables.directories.len());
        let one = new.directory_sectors() * SECTOR + tables * self.tables.table_bytes();
        let more = copies * (one + self.tables.grain_bytes) + self.tables.grain_bytes;
        if (self.tables.end() + more) / SECTOR > u64::from(u32::MAX) {
            return Err(Error::limit("the extent's file would exceed 2 TiB"));
        }
        Ok(())
    }

    /// Reserves longer directories and new tables, if the disk needs more than those of the first
    /// `old` sectors. Returns the directories.
    fn add_tables(&mut self, header: &mut Header, old: u64) -> Result<Vec<Edit>> {
        let kept = (old * SECTOR).div_ceil(self.tables.table_cover);
        let tables = header.tables();
        if tables <= kept {
            return Ok(Vec::new());
        }
        let (table_bytes, directory_bytes) =
            (self.tables.table_bytes(), header.directory_sectors() * SECTOR);
        let mut edits = Vec::new();
        // The redundant copy comes first, as in the files of other programs.
        for number in (0..self.tables.directories.len()).rev() {
            let offset = self.tables.append(directory_bytes + (tables - kept) * table_bytes)?;
            let (at, entries) = &mut self.tables.directories[number];
            *at = offset;
            entries.truncate(to_usize(kept));
            let first = offset + directory_bytes;
            let new =
                (0..tables - kept).map(|index| to_u32((first + index * table_bytes) / SECTOR));
            entries.extend(new);
            let bytes = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
            edits.push(Edit::Write { offset, bytes });
            match number {
                0 => header.gd_offset = offset / SECTOR,
                _ => header.rgd_offset = offset / SECTOR,
            }
        }
        Ok(edits)
    }

    /// Makes the new header valid, with what it refers to.
    fn switch(&mut self, mut header: Header, mut added: Vec<Edit>) -> Result<()> {
        let mut edits = Edits::new();
        let Some(text) = self.text.clone() else {
            self.extend(&mut added);
            edits.phase(added).phase([self.write_header(&header)?]);
            return self.apply(&edits);
        };
        let home = self.descriptor_home();
        let copy = self.tables.append(to_u64(text.len()))?;
        added.push(Edit::Write { offset: copy, bytes: text.clone() });
        self.extend(&mut added);
        header.descriptor_offset = copy / SECTOR;
        edits.phase(added).phase([self.write_header(&header)?]);
        header.descriptor_offset = home;
        edits
            .phase([Edit::Write { offset: home * SECTOR, bytes: text }])
            .phase([self.write_header(&header)?])
            .phase([Edit::SetLen(copy)]);
        self.header = header;
        self.apply(&edits)
    }

    /// Appends the length that the file has with everything that was reserved.
    fn extend(&self, edits: &mut Vec<Edit>) {
        if !edits.is_empty() && self.tables.end() > self.storage.current_len() {
            edits.push(Edit::SetLen(self.tables.end()));
        }
    }

    /// Returns the sector where the descriptor belongs: where it is, unless that is the copy of an
    /// interrupted change and the usual place is free.
    fn descriptor_home(&self) -> u64 {
        let Header { descriptor_offset, descriptor_sectors, over_head, .. } = self.header;
        let usual = SECTOR..(1 + descriptor_sectors) * SECTOR;
        let is_free = self
            .tables
            .metadata
            .iter()
            .all(|range| range.end <= usual.start || range.start >= usual.end);
        let is_copy = descriptor_offset >= over_head;
        if is_copy && is_free && usual.end <= over_head * SECTOR { 1 } else { descriptor_offset }
    }

    /// Returns the modification of the fields in the header that may change.
    fn write_header(&self, new: &Header) -> Result<Edit> {
        let mut bytes = vec![0; to_usize(SECTOR)];
        self.storage
            .read_exact_at(&mut bytes, 0)
            .map_err(|e| Error::io("cannot read", e).in_structure("VMDK header"))?;
        let fields = new.encode();
        for range in [CAPACITY, DESCRIPTOR_OFFSET, DIRECTORIES, UNCLEAN_SHUTDOWN] {
            bytes[range.clone()].copy_from_slice(&fields[range]);
        }
        Ok(Edit::Write { offset: 0, bytes })
    }

    fn apply(&self, edits: &Edits) -> Result<()> {
        edits.apply(&*self.storage).map_err(|e| Error::io("cannot modify the image", e))
    }

    /// Reduces the extent to `new` sectors.
    ///
    /// # Errors
    /// As [`grow`](Self::grow).
    pub(super) fn shrink(mut self, new: u64) -> Result<()> {
        self.tables.repair_redundant()?;
        let header = Header { capacity: new, ..self.header.clone() };
        let old_tables = to_u64(self.tables.directories[0].1.len());
        let kept = header.tables().min(old_tables);
        let mut unused = self.stored_beyond(new, kept)?;
        self.switch(header, Vec::new())?;
        self.tables.clear_beyond(new * SECTOR)?;
        let mut edits = Edits::new();
        let beyond = (old_tables - kept) * 4;
        let cleared = self.tables.directories.iter().filter(|_| beyond > 0);
        edits.phase(
            cleared.map(|(offset, _)| Edit::Zero { offset: offset + kept * 4, len: beyond }),
        );
        self.apply(&edits)?;
        for index in to_usize(kept)..to_usize(old_tables) {
            self.add_unused(index, &mut unused)?;
            if unused.len() >= DISCARDED {
                self.discard(&mut unused)?;
            }
        }
        self.discard(&mut unused)?;
        self.cut_off(to_usize(kept))
    }

    /// Returns the grains beyond the end that the last table refers to that is kept.
    fn stored_beyond(&self, new: u64, kept: u64) -> Result<Vec<Edit>> {
        let grain = (new * SECTOR).div_ceil(self.tables.grain_bytes);
        let first = to_usize(grain.saturating_sub((kept - 1) * to_u64(self.tables.gtes)));
        let Some(&sector) = self.tables.directories[0].1.get(to_usize(kept - 1)) else {
            return Ok(Vec::new());
        };
        if sector == 0 || first >= self.tables.gtes {
            return Ok(Vec::new());
        }
        let table = self.tables.read_table(sector)?;
        Ok(self.grains(&table[first..]))
    }

    /// Returns the modifications that deallocate the grains to which entries refer.
    fn grains(&self, entries: &[u32]) -> Vec<Edit> {
        let len = self.tables.grain_bytes;
        let edit = |entry| Edit::Discard { offset: u64::from(entry) * SECTOR, len };
        self.tables.stored(entries).map(edit).collect()
    }

    /// Adds the copies of a table that is not used any more, and its grains.
    fn add_unused(&self, index: usize, unused: &mut Vec<Edit>) -> Result<()> {
        let mut sectors: Vec<_> =
            self.tables.directories.iter().map(|(_, entries)| entries[index]).collect();
        sectors.dedup();
        sectors.retain(|&sector| sector != 0);
        if let Some(&sector) = sectors.first() {
            unused.extend(self.grains(&self.tables.read_table(sector)?));
        }
        let len = self.tables.table_bytes();
        let edit = |sector| Edit::Discard { offset: u64::from(sector) * SECTOR, len };
        unused.extend(sectors.into_iter().map(edit));
        Ok(())
    }

    fn discard(&self, unused: &mut Vec<Edit>) -> Result<()> {
        let mut edits = Edits::new();
        edits.phase(std::mem::take(unused));
        self.apply(&edits)
    }

    /// Removes what is behind everything that is still used.
    fn cut_off(&self, kept: usize) -> Result<()> {
        let header = &self.header;
        let descriptor = header.descriptor_offset + header.descriptor_sectors;
        let mut end = header.over_head.max(descriptor) * SECTOR;
        for (offset, entries) in &self.tables.directories {
            end = end.max(offset + to_u64(kept) * 4);
            for &sector in entries[..kept].iter().filter(|&&sector| sector != 0) {
                end = end.max(u64::from(sector) * SECTOR + self.tables.table_bytes());
            }
        }
        for &sector in self.tables.directories[0].1[..kept].iter().filter(|&&s| s != 0) {
            for entry in self.tables.stored(&self.tables.read_table(sector)?) {
                end = end.max(u64::from(entry) * SECTOR + self.tables.grain_bytes);
            }
        }
        let end = end.next_multiple_of(SECTOR);
        let mut edits = Edits::new();
        edits.phase((end < self.storage.current_len()).then_some(Edit::SetLen(end)));
        self.apply(&edits)
    }
}

/// Places of fields in the header.
const CAPACITY: std::ops::Range<usize> = 12..20;
const DESCRIPTOR_OFFSET: std::ops::Range<usize> = 28..36;
const DIRECTORIES: std::ops::Range<usize> = 48..64;
const UNCLEAN_SHUTDOWN: std::ops::Range<usize> = 72..73;
