//! A sparse extent to which guest data is written.

use crate::error::{Error, Result};
use crate::formats::vmdk::SECTOR;
use crate::formats::vmdk::sparse::{GTE_ZEROED, SparseExtent};
use crate::storage::edit::{Edit, Storage};
use crate::storage::number::{to_u32, to_u64, to_usize};
use std::collections::{BTreeMap, BTreeSet};
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
    storage: Arc<dyn Storage>,
    grain_bytes: u64,
    table_cover: u64,
    zeroed_grains: bool,
    /// Number of entries in a table.
    gtes: usize,
    /// Host offsets and sector numbers of the grain directory and, if there is one, the redundant
    /// one.
    directories: Vec<(u64, Vec<u32>)>,
    /// The tables that were read or created, by index.
    tables: BTreeMap<u64, Table>,
    /// Host ranges of metadata, in ascending order.
    metadata: Vec<Range<u64>>,
    /// Host offset of the end of the file.
    end: u64,
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
    pub(super) new_tables: Vec<Edit>,
    pub(super) directories: Vec<Edit>,
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
        let mut tables = Self {
            grain_bytes: header.grain_bytes(),
            table_cover: header.table_cover(),
            zeroed_grains: header.zeroed_grains(),
            gtes: to_usize(u64::from(header.gtes)),
            directories,
            tables: BTreeMap::new(),
            metadata: Vec::new(),
            end: storage.current_len().next_multiple_of(header.grain_bytes()),
            storage,
        };
        let descriptor = header.descriptor_offset * SECTOR;
        let descriptor = descriptor..descriptor + header.descriptor_sectors * SECTOR;
        tables.find_metadata(descriptor)?;
        tables.check_grains()?;
        Ok(tables)
    }

    /// Verifies, before anything is written, that every stored grain is in the file. Otherwise a
    /// grain that is appended could be taken for it.
    fn check_grains(&self) -> Result<()> {
        let file_end = self.storage.current_len().next_multiple_of(SECTOR);
        for &sector in self.directories[0].1.iter().filter(|&&sector| sector != 0) {
            for entry in self.read_table(sector)? {
                let start = u64::from(entry) * SECTOR;
                let is_stored = entry != 0 && !(self.zeroed_grains && entry == GTE_ZEROED);
                if is_stored && start + self.grain_bytes > file_end {
                    let message = "a grain is beyond the end of the file";
                    return Err(Error::corrupt("grain table", message)
                        .at(start)
                        .hint("the file is probably truncated"));
                }
            }
        }
        Ok(())
    }

    /// Returns the entries of the grain table at a sector.
    fn read_table(&self, sector: u32) -> Result<Vec<u32>> {
        let mut bytes = vec![0; self.gtes * 4];
        self.storage
            .read_exact_at(&mut bytes, u64::from(sector) * SECTOR)
            .map_err(|e| Error::io("cannot read", e).in_structure("grain table"))?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|&word| u32::from_le_bytes(word)).collect())
    }

    fn table_bytes(&self) -> u64 {
        (to_u64(self.gtes) * 4).next_multiple_of(SECTOR)
    }

    /// Finds all metadata, which must not overlap.
    fn find_metadata(&mut self, descriptor: Range<u64>) -> Result<()> {
        let mut found = vec![0..SECTOR, descriptor];
        for (number, (offset, entries)) in self.directories.iter().enumerate() {
            found.push(*offset..*offset + to_u64(entries.len()) * 4);
            for (index, &sector) in entries.iter().enumerate() {
                // Some programs let both directories point to the same tables.
                let is_shared = number > 0 && self.directories[0].1.get(index) == Some(&sector);
                if sector != 0 && !is_shared {
                    let start = u64::from(sector) * SECTOR;
                    found.push(start..start + self.table_bytes());
                }
            }
        }
        found.retain(|range| !range.is_empty());
        found.sort_unstable_by_key(|range| range.start);
        if let Some(pair) = found.windows(2).find(|pair| pair[0].end > pair[1].start) {
            let message = "its structures overlap";
            return Err(Error::corrupt("sparse extent", message).at(pair[1].start));
        }
        self.metadata = found;
        Ok(())
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

    /// Returns the number of tables in memory for guest offsets before `end`, and their size in
    /// bytes.
    pub(super) fn memory_before(&self, end: u64) -> u64 {
        let complete = self.tables.range(..end / self.table_cover).count();
        to_u64(complete) * self.table_bytes()
    }

    /// Returns the end of what the directories say is not allocated, from guest offset `at`.
    pub(super) fn unallocated_until(&self, at: u64) -> u64 {
        let index = at / self.table_cover;
        let is_absent = !self.tables.contains_key(&index)
            && self.directories[0].1.get(to_usize(index)) == Some(&0);
        if is_absent { (index + 1) * self.table_cover } else { at }
    }

    fn table(&mut self, index: u64) -> Result<&mut Table> {
        if !self.tables.contains_key(&index) {
            let sector = self.directories[0].1.get(to_usize(index)).copied().unwrap_or(0);
            let entries = match sector {
                0 => vec![0; self.gtes],
                sector => self.read_table(sector)?,
            };
            self.tables.insert(index, Table { entries, changed: BTreeSet::new() });
        }
        Ok(self.tables.get_mut(&index).expect("it was read"))
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

    /// Returns the host offset at which the data of a grain is written.
    pub(super) fn allocate(&mut self, at: u64) -> Result<u64> {
        if let Grain::Stored(offset) = self.grain(at)? {
            return Ok(offset);
        }
        let offset = self.append(self.grain_bytes)?;
        self.set(at, to_u32(offset / SECTOR))?;
        Ok(offset)
    }

    /// Reserves space at the end of the file, in whole grains.
    fn append(&mut self, len: u64) -> Result<u64> {
        let offset = self.end;
        let end = offset + len.next_multiple_of(self.grain_bytes);
        if end / SECTOR > u64::from(u32::MAX) {
            return Err(Error::limit("the extent's file would exceed 2 TiB"));
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

    /// Takes the changes of the tables for guest offsets before `end`.
    ///
    /// # Errors
    /// Returns [`Limit`](crate::ErrorKind::Limit) if the file would become too large.
    pub(super) fn take_edits(&mut self, end: u64) -> Result<TableEdits> {
        let later = self.tables.split_off(&(end / self.table_cover));
        let complete = std::mem::replace(&mut self.tables, later);
        let mut edits = TableEdits::default();
        for (index, table) in complete {
            if !table.changed.is_empty() {
                self.add_edits(to_usize(index), &table, &mut edits)?;
            }
        }
        if !self.storage.has_fixed_len() && self.end > self.storage.current_len() {
            edits.new_tables.insert(0, Edit::SetLen(self.end));
        }
        Ok(edits)
    }

    fn add_edits(&mut self, index: usize, table: &Table, edits: &mut TableEdits) -> Result<()> {
        let mut written = 0;
        for number in 0..self.directories.len() {
            let mut sector = self.directories[number].1[index];
            if sector == 0 {
                let len = self.table_bytes();
                let offset = self.append(len)?;
                edits.new_tables.push(Edit::Zero { offset, len });
                sector = to_u32(offset / SECTOR);
                let (directory, entries) = &mut self.directories[number];
                entries[index] = sector;
                let bytes = sector.to_le_bytes().to_vec();
                edits
                    .directories
                    .push(Edit::Write { offset: *directory + to_u64(index) * 4, bytes });
            }
            if sector == written {
                continue; // Both directories point to the same table.
            }
            written = sector;
            let copy = if number == 0 { &mut edits.primary } else { &mut edits.redundant };
            for &changed in &table.changed {
                let start = changed * SECTOR_ENTRIES;
                let end = table.entries.len().min(start + SECTOR_ENTRIES);
                let entries = table.entries[start..end].iter();
                let offset = u64::from(sector) * SECTOR + to_u64(start) * 4;
                let bytes = entries.flat_map(|entry| entry.to_le_bytes()).collect();
                copy.push(Edit::Write { offset, bytes });
            }
        }
        Ok(())
    }
}
