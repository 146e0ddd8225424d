//! A sparse extent to which guest data is written.

use crate::error::{Error, Result};
use crate::formats::vmdk::SECTOR;
use crate::formats::vmdk::sparse::{GTE_ZEROED, SparseExtent};
use crate::storage::edit::pending::PendingTables;
use crate::storage::edit::{Edit, Edits, Storage};
use crate::storage::number::{to_u32, to_u64, to_usize};
use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Number of table entries in a sector.
const SECTOR_ENTRIES: usize = 128;

/// What a grain table says about a grain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grain {
    /// Read from the parent.
    Unallocated,
    Zero,
    /// Stored at this host offset.
    Stored(u64),
}

/// The tables of a sparse extent and what changes in them.
#[derive(Debug)]
pub(super) struct SparseTables {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) grain_bytes: u64,
    pub(super) table_cover: u64,
    zeroed_grains: bool,
    /// Number of entries in a table.
    pub(super) gtes: usize,
    /// Host offsets and sector numbers of the grain directory and, if there is one, the redundant
    /// one.
    pub(super) directories: Vec<(u64, Vec<u32>)>,
    /// The tables that were read or created, by index.
    tables: PendingTables<Table>,
    /// Host ranges of metadata, in ascending order.
    pub(super) metadata: Vec<Range<u64>>,
    /// The header says that the extent was not closed properly.
    pub(super) unclean: bool,
    /// Indexes of the tables whose redundant copy is older.
    pub(super) outdated: Vec<usize>,
    /// Host offset of the end of the file.
    end: u64,
    /// Host offset from which the file reads as zeros where nothing has been written yet.
    zeroed_from: u64,
}

#[derive(Debug, Default)]
struct Table {
    entries: Vec<u32>,
    /// Sectors that differ from what is stored.
    changed: BTreeSet<usize>,
}

/// Modifications of the tables of an extent, by the phase in which they are made.
#[derive(Debug, Default)]
pub(super) struct TableEdits {
    /// Space for new tables, in which all entries are zero.
    pub(super) new_tables: Vec<Edit>,
    /// Entries of the directory and of the redundant one.
    pub(super) directories: [Vec<Edit>; 2],
    pub(super) primary: Vec<Edit>,
    pub(super) redundant: Vec<Edit>,
}

impl SparseTables {
    /// Returns the tables of `extent`.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if structures overlap.
    pub(super) fn new(extent: &SparseExtent, storage: Arc<dyn Storage>) -> Result<Self> {
        let header = extent.header();
        let mut directories = vec![(header.gd_offset * SECTOR, extent.directory().to_vec())];
        if let Some(sector) = header.redundant() {
            let entries = extent.read_entries(sector, header.tables(), "redundant directory")?;
            directories.push((sector * SECTOR, entries));
        }
        let end = storage.current_len().next_multiple_of(header.grain_bytes());
        let mut tables = Self {
            grain_bytes: header.grain_bytes(),
            table_cover: header.table_cover(),
            zeroed_grains: header.zeroed_grains(),
            gtes: to_usize(u64::from(header.gtes)),
            directories,
            tables: PendingTables::default(),
            metadata: Vec::new(),
            unclean: header.unclean,
            outdated: Vec::new(),
            end,
            zeroed_from: if storage.has_fixed_len() { u64::MAX } else { end },
            storage,
        };
        let descriptor = header.descriptor_offset * SECTOR;
        let descriptor = descriptor..descriptor + header.descriptor_sectors * SECTOR;
        tables.find_metadata(descriptor)?;
        tables.verify(extent.check_bytes())?;
        Ok(tables)
    }

    /// Host offset of the end of the file, with what was reserved.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Returns the entries of a table that point to stored grains.
    pub(super) fn stored(&self, table: &[u32]) -> impl Iterator<Item = u32> {
        let zeroed = self.zeroed_grains.then_some(GTE_ZEROED);
        table.iter().copied().filter(move |&entry| entry != 0 && Some(entry) != zeroed)
    }

    /// Returns the entries of the grain table at a sector.
    pub(super) fn read_table(&self, sector: u32) -> Result<Vec<u32>> {
        read_table(&*self.storage, sector, self.gtes)
    }

    pub(super) fn table_bytes(&self) -> u64 {
        (to_u64(self.gtes) * 4).next_multiple_of(SECTOR)
    }

    /// Verifies that a stored grain is in the file and not where metadata is.
    fn require_data(&self, offset: u64) -> Result<()> {
        let after = self.metadata.partition_point(|range| range.end <= offset);
        let overlaps =
            self.metadata.get(after).is_some_and(|range| range.start < offset + self.grain_bytes);
        if overlaps || offset >= self.end {
            let message = "a grain is where metadata is, or beyond the end of the file";
            return Err(Error::corrupt("grain table", message).at(offset));
        }
        Ok(())
    }

    /// Returns the size in bytes of the tables in memory for guest offsets before `end`, which does
    /// not decrease from call to call.
    pub(super) fn memory_before(&mut self, end: u64) -> u64 {
        to_u64(self.tables.complete_before(end / self.table_cover)) * self.table_bytes()
    }

    /// Returns the end of what the directories say is not allocated, from guest offset `at`.
    pub(super) fn unallocated_until(&self, at: u64) -> u64 {
        let index = at / self.table_cover;
        let is_absent =
            !self.tables.contains(index) && self.directories[0].1.get(to_usize(index)) == Some(&0);
        if is_absent { (index + 1) * self.table_cover } else { at }
    }

    fn table(&mut self, index: u64) -> Result<&mut Table> {
        let sector = self.directories[0].1.get(to_usize(index)).copied().unwrap_or(0);
        let (storage, gtes) = (&*self.storage, self.gtes);
        self.tables.get_or_try_insert(index, || {
            let entries = match sector {
                0 => vec![0; gtes],
                sector => read_table(storage, sector, gtes)?,
            };
            Ok(Table { entries, changed: BTreeSet::new() })
        })
    }

    fn position(&self, at: u64) -> (u64, usize) {
        (at / self.table_cover, to_usize(at / self.grain_bytes) % self.gtes)
    }

    /// Returns what is stored for the grain at a guest offset of the extent.
    pub(super) fn grain(&mut self, at: u64) -> Result<Grain> {
        let (index, entry) = self.position(at);
        let zeroed_grains = self.zeroed_grains;
        match self.table(index)?.entries[entry] {
            0 => Ok(Grain::Unallocated),
            GTE_ZEROED if zeroed_grains => Ok(Grain::Zero),
            sector => {
                let offset = u64::from(sector) * SECTOR;
                self.require_data(offset)?;
                Ok(Grain::Stored(offset))
            }
        }
    }

    fn set(&mut self, at: u64, value: u32) -> Result<()> {
        let (index, entry) = self.position(at);
        let table = self.table(index)?;
        if table.entries[entry] != value {
            table.entries[entry] = value;
            table.changed.insert(entry / SECTOR_ENTRIES);
        }
        Ok(())
    }

    /// Returns the host offset at which the data of guest offset `at` is written.
    pub(super) fn allocate(&mut self, at: u64) -> Result<u64> {
        let inside = at % self.grain_bytes;
        if let Grain::Stored(offset) = self.grain(at)? {
            return Ok(offset + inside);
        }
        let offset = self.append(self.grain_bytes)?;
        self.set(at, to_u32(offset / SECTOR))?;
        Ok(offset + inside)
    }

    /// Returns true if the file reads as zeros at `offset` unless the caller has written there.
    pub(super) fn is_zeroed(&self, offset: u64) -> bool {
        offset >= self.zeroed_from
    }

    /// Reserves space at the end of the file, in whole grains.
    pub(super) fn append(&mut self, len: u64) -> Result<u64> {
        let offset = self.end;
        let end = offset + len.next_multiple_of(self.grain_bytes);
        if end / SECTOR > u64::from(u32::MAX) {
            return Err(Error::limit("the extent's file would exceed 2 TiB"));
        }
        if self.storage.has_fixed_len() && end > self.storage.current_len() {
            let full = io::Error::from(io::ErrorKind::StorageFull);
            return Err(Error::io("the device has no room for another grain or table", full));
        }
        self.end = end;
        Ok(offset)
    }

    /// Marks a grain as zero. Returns false if the extent has no such mark.
    pub(super) fn mark_zero(&mut self, at: u64) -> Result<bool> {
        if self.zeroed_grains {
            self.set(at, GTE_ZEROED)?;
        }
        Ok(self.zeroed_grains)
    }

    /// Makes a grain unallocated. Its space in the file is not used again.
    pub(super) fn unallocate(&mut self, at: u64) -> Result<()> {
        self.set(at, 0)
    }

    /// Removes what is stored beyond guest offset `end`, as far as the last table covers it: grains
    /// become unallocated, and the rest of the last one zero.
    ///
    /// # Errors
    /// As [`store`](Self::store).
    pub(super) fn clear_beyond(&mut self, end: u64) -> Result<()> {
        let grain_bytes = self.grain_bytes;
        let inside = end % grain_bytes;
        if inside > 0
            && let Grain::Stored(offset) = self.grain(end - inside)?
        {
            let mut edits = Edits::new();
            edits.phase([Edit::Zero { offset: offset + inside, len: grain_bytes - inside }]);
            let applied = edits.apply(&*self.storage);
            applied.map_err(|e| Error::io("cannot modify the image", e))?;
        }
        let covered = end.next_multiple_of(self.table_cover);
        for at in (end.next_multiple_of(grain_bytes)..covered).step_by(to_usize(grain_bytes)) {
            self.unallocate(at)?;
        }
        self.store(u64::MAX)
    }

    /// Stores the changes of the tables for guest offsets before `end`. The grains must be durable.
    ///
    /// # Errors
    /// Returns [`Limit`](crate::ErrorKind::Limit) if the file would become too large, and
    /// [`Io`](crate::ErrorKind::Io) if it cannot be written.
    pub(super) fn store(&mut self, end: u64) -> Result<()> {
        let mut edits = TableEdits::default();
        for (index, table) in self.tables.take_before(end / self.table_cover) {
            if !table.changed.is_empty() {
                for number in 0..self.directories.len() {
                    let changed = Some(&table.changed);
                    self.add_copy(number, to_usize(index), &table.entries, changed, &mut edits)?;
                }
            }
        }
        self.apply(edits)
    }

    /// Appends the modifications that store one copy of a table: the changed sectors or, without
    /// them, all.
    pub(super) fn add_copy(
        &mut self,
        number: usize,
        index: usize,
        entries: &[u32],
        changed: Option<&BTreeSet<usize>>,
        edits: &mut TableEdits,
    ) -> Result<()> {
        let mut sector = self.directories[number].1[index];
        if sector == 0 {
            let len = self.table_bytes();
            let offset = self.append(len)?;
            edits.new_tables.push(Edit::Zero { offset, len });
            sector = to_u32(offset / SECTOR);
            let (directory, entries) = &mut self.directories[number];
            entries[index] = sector;
            let bytes = sector.to_le_bytes().to_vec();
            let offset = *directory + to_u64(index) * 4;
            edits.directories[number].push(Edit::Write { offset, bytes });
        } else if number > 0 && sector == self.directories[0].1[index] {
            return Ok(()); // Both directories point to the same table.
        }
        let copy = if number == 0 { &mut edits.primary } else { &mut edits.redundant };
        for (sector_index, entries) in entries.chunks(SECTOR_ENTRIES).enumerate() {
            if changed.is_none_or(|changed| changed.contains(&sector_index)) {
                let offset = (u64::from(sector) + to_u64(sector_index)) * SECTOR;
                let bytes = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
                copy.push(Edit::Write { offset, bytes });
            }
        }
        Ok(())
    }

    /// Makes modifications in the order that keeps the extent consistent. Meanwhile, its header says
    /// that the copies of a table may differ.
    pub(super) fn apply(&mut self, edits: TableEdits) -> Result<()> {
        let TableEdits { new_tables, directories, primary, redundant } = edits;
        let is_longer = !self.storage.has_fixed_len() && self.end > self.storage.current_len();
        let mut phases = Edits::new();
        if !(primary.is_empty() && redundant.is_empty()) {
            let longer = is_longer.then_some(Edit::SetLen(self.end)).into_iter();
            phases.phase(longer.chain(new_tables).chain([self.mark(true)]));
            directories.into_iter().chain([primary, redundant]).for_each(|edits| {
                phases.phase(edits);
            });
            phases.phase([self.mark(false)]);
        }
        let applied = phases.apply(&*self.storage);
        applied.map_err(|e| Error::io("cannot modify the image", e))
    }
}

/// Returns the entries of the grain table at a sector.
fn read_table(storage: &dyn Storage, sector: u32, gtes: usize) -> Result<Vec<u32>> {
    let mut bytes = vec![0; gtes * 4];
    storage
        .read_exact_at(&mut bytes, u64::from(sector) * SECTOR)
        .map_err(|e| Error::io("cannot read", e).in_structure("grain table"))?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|&word| u32::from_le_bytes(word)).collect())
}
