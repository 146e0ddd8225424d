//! What is verified of a sparse extent before anything is written, and repaired.

use super::sparse::{SparseTables, TableEdits};
use crate::error::{Error, Result};
use crate::formats::vmdk::SECTOR;
use crate::formats::vmdk::check::Occupied;
use crate::storage::edit::Edit;
use crate::storage::number::{to_u32, to_u64};
use std::ops::Range;

/// Number of redundant tables that are repaired together.
const REPAIRED: usize = 1024;

/// The structure in errors about a copy of a table.
const REDUNDANT: &str = "redundant grain table";

impl SparseTables {
    /// Finds all metadata, which must not overlap.
    pub(super) fn find_metadata(&mut self, descriptor: Range<u64>) -> Result<()> {
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

    /// Verifies every table.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if a stored grain is not in the file, where a
    /// grain that is appended could be taken for it; if grains overlap each other or metadata; or if
    /// the copies of a table contradict each other. Returns
    /// [`Limit`](crate::ErrorKind::Limit) if that takes more than `max_bytes` of memory.
    pub(super) fn verify(&mut self, max_bytes: u64) -> Result<()> {
        let file_end = self.storage.current_len().next_multiple_of(SECTOR);
        // All bits of the sector numbers at which grains begin.
        let mut bits = to_u32(self.grain_bytes / SECTOR);
        for index in 0..self.directories[0].1.len() {
            if self.directories.iter().all(|(_, entries)| entries[index] == 0) {
                continue;
            }
            let table = self.read_copy(self.directories[0].1[index])?;
            for entry in self.stored(&table) {
                let start = u64::from(entry) * SECTOR;
                if start + self.grain_bytes > file_end {
                    let message = "a grain is beyond the end of the file";
                    return Err(Error::corrupt("grain table", message)
                        .at(start)
                        .hint("the file is probably truncated"));
                }
                bits |= entry;
            }
            self.compare_copies(index, &table)?;
        }
        self.require_separate(bits.trailing_zeros(), max_bytes)
    }

    /// Verifies that no grains overlap each other or metadata. Grains begin at multiples of
    /// `1 << shift` sectors.
    fn require_separate(&self, shift: u32, max_bytes: u64) -> Result<()> {
        let mut occupied = Occupied::new(self.storage.current_len(), shift, max_bytes)?;
        for range in &self.metadata {
            // Structures may be adjacent within one unit, unlike grains.
            let (start, end) = (range.start / SECTOR, range.end.div_ceil(SECTOR));
            occupied.mark_all(start, end - start);
        }
        for &sector in self.directories[0].1.iter().filter(|&&sector| sector != 0) {
            for entry in self.stored(&self.read_table(sector)?) {
                if !occupied.mark(entry.into(), self.grain_bytes / SECTOR) {
                    let message = "a grain overlaps another grain or metadata";
                    return Err(
                        Error::corrupt("grain table", message).at(u64::from(entry) * SECTOR)
                    );
                }
            }
        }
        Ok(())
    }

    /// Compares the copies of a table. A redundant table that lacks entries is older than the primary
    /// one; after a crash, so is any that differs.
    fn compare_copies(&mut self, index: usize, primary: &[u32]) -> Result<()> {
        let Some((_, redundant)) = self.directories.get(1) else { return Ok(()) };
        let sector = redundant[index];
        if sector == self.directories[0].1[index] {
            return Ok(());
        }
        let copy = self.read_copy(sector)?;
        if copy == primary {
            return Ok(());
        }
        let is_older = copy.iter().zip(primary).all(|(&copy, &entry)| copy == 0 || copy == entry);
        if !is_older && !self.unclean {
            let message = format!("that of grain table {index} contradicts it");
            return Err(Error::corrupt(REDUNDANT, message).at(u64::from(sector) * SECTOR));
        }
        self.outdated.push(index);
        Ok(())
    }

    /// Returns the entries of the table at a sector, which are zero if that is 0.
    fn read_copy(&self, sector: u32) -> Result<Vec<u32>> {
        match sector {
            0 => Ok(vec![0; self.gtes]),
            sector => self.read_table(sector),
        }
    }

    /// Stores the primary tables again as redundant tables where those are older, and marks the
    /// extent as closed properly.
    pub(super) fn repair_redundant(&mut self) -> Result<()> {
        let outdated = std::mem::take(&mut self.outdated);
        let was_unclean = std::mem::take(&mut self.unclean);
        for indexes in outdated.chunks(REPAIRED) {
            let mut edits = TableEdits::default();
            for &index in indexes {
                let entries = self.read_copy(self.directories[0].1[index])?;
                self.add_copy(1, index, &entries, None, &mut edits)?;
            }
            self.apply(edits)?;
        }
        match was_unclean && outdated.is_empty() {
            true => {
                self.apply(TableEdits { redundant: vec![self.mark(false)], ..Default::default() })
            }
            false => Ok(()),
        }
    }

    /// Returns the modification of the header that says whether the tables may be inconsistent.
    pub(super) fn mark(&self, unclean: bool) -> Edit {
        uncleanness(unclean)
    }
}

/// Returns the modification of the header that says whether the tables may be inconsistent.
pub(in super::super) fn uncleanness(unclean: bool) -> Edit {
    Edit::Write { offset: UNCLEAN_SHUTDOWN, bytes: vec![unclean.into()] }
}

/// Host offset of `uncleanShutdown` in the header.
const UNCLEAN_SHUTDOWN: u64 = 72;
