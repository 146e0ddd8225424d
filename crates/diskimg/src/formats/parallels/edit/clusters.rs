//! The clusters of an image to which guest data is written.

use crate::error::{Error, Result};
use crate::formats::parallels::clusters::{Clusters, TABLE};
use crate::formats::parallels::header::{CLOSED, HEADER_BYTES, Header, IN_USE, STRUCTURE};
use crate::storage::edit::{Edit, Edits, Storage};
use crate::storage::number::{to_u64, to_usize};
use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Number of table entries in a sector.
const SECTOR_ENTRIES: usize = 128;

/// Number of table entries in the first sector, after the header.
const FIRST_ENTRIES: usize = 112;

/// The clusters, and what changes in their table.
#[derive(Debug)]
pub(super) struct ClusterWriter {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) header: Header,
    /// The entries that the disk needs.
    pub(super) table: Vec<u32>,
    /// The host offset from which clusters are counted.
    pub(super) base: u64,
    /// Sectors of the file with entries that differ from what is stored.
    changed: BTreeSet<usize>,
    /// Where the clusters start that are appended: all bytes from here on are new.
    old_end: u64,
    /// Host offset of the next cluster.
    pub(super) end: u64,
    /// The image is marked as in use.
    is_open: bool,
}

impl ClusterWriter {
    /// Returns the clusters of an image.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if clusters overlap each other or metadata, or are not
    /// in the file.
    pub(super) fn new(clusters: &Clusters, storage: Arc<dyn Storage>) -> Result<Self> {
        for (index, &entry) in (0..).zip(&clusters.table) {
            if let Some(start) = clusters.host_of(entry) {
                clusters.require_valid(index, start)?;
            }
        }
        let len = storage.current_len();
        let header = clusters.header.clone();
        // Clusters are counted from the start of the data area, or of the file.
        let base = clusters.data_base();
        let used = clusters.data_end().max(len).saturating_sub(base);
        let end = base + used.next_multiple_of(header.cluster_bytes);
        let data_off = crate::storage::number::to_u32(base / crate::formats::parallels::SECTOR);
        // A wrong start of the data area is corrected, as QEMU does.
        let header = match header.data_off_problem(len) {
            Some(_) => Header { data_off, ..header },
            None => header,
        };
        Ok(Self {
            storage,
            header,
            base,
            table: clusters.table.clone(),
            changed: BTreeSet::new(),
            old_end: end,
            end,
            is_open: false,
        })
    }

    /// Marks the image as in use, and drops its format extension.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the file cannot be written.
    pub(super) fn begin(&mut self) -> Result<()> {
        self.is_open = true;
        self.write_header(IN_USE)
    }

    /// Marks the image as closed, if it is in use. What was written must be consistent.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the file cannot be written.
    pub(super) fn close(&mut self) -> Result<()> {
        if self.is_open {
            self.write_header(CLOSED)?;
            self.is_open = false;
        }
        Ok(())
    }

    /// Writes the header, after all that was written before.
    fn write_header(&self, in_use: u32) -> Result<()> {
        let mut edits = Edits::new();
        edits.phase([self.header(in_use)]);
        let flushed = self.storage.flush().and_then(|()| edits.apply(&*self.storage));
        flushed.map_err(|e| Error::io("cannot modify the image", e).in_structure(STRUCTURE))
    }

    fn header(&self, in_use: u32) -> Edit {
        let header = Header { in_use, extension_at: None, flags: 0, ..self.header.clone() };
        Edit::Write { offset: 0, bytes: header.encode().to_vec() }
    }

    /// Returns the host offset of a guest cluster; `None` if it is not allocated.
    pub(super) fn host_of(&self, index: u64) -> Option<u64> {
        let entry = self.table.get(to_usize(index)).copied().unwrap_or(0);
        (entry != 0).then(|| u64::from(entry) * self.header.entry_unit())
    }

    /// Allocates space for `len` guest bytes at `at`. Returns its host offset and length, up to the
    /// end of the cluster, and whether it reads as zeros until it is written.
    pub(super) fn allocate(&mut self, at: u64, len: u64) -> Result<(u64, u64, bool)> {
        let cluster = self.header.cluster_bytes;
        let (index, within) = (at / cluster, at % cluster);
        let start = match self.host_of(index) {
            Some(start) => start,
            None => self.append(index)?,
        };
        Ok((start + within, len.min(cluster - within), start >= self.old_end))
    }

    /// Appends a cluster to the file. Returns its host offset.
    pub(super) fn append(&mut self, index: u64) -> Result<u64> {
        if self.storage.has_fixed_len() {
            let full = io::Error::from(io::ErrorKind::StorageFull);
            return Err(Error::io("the device has no room for another cluster", full));
        }
        let start = self.end;
        let Ok(entry) = u32::try_from(start / self.header.entry_unit()) else {
            return Err(Error::limit("the file would have more than 2³² clusters or sectors"));
        };
        self.table[to_usize(index)] = entry;
        self.changed.insert(sector_of(to_usize(index)));
        self.end = start + self.header.cluster_bytes;
        Ok(start)
    }

    /// Makes `range` read as zeros.
    pub(super) fn zero(&mut self, mut range: Range<u64>) -> Result<()> {
        let cluster = self.header.cluster_bytes;
        while !range.is_empty() {
            let (index, within) = (range.start / cluster, range.start % cluster);
            let len = (range.end - range.start).min(cluster - within);
            range.start += len;
            if let Some(start) = self.host_of(index).filter(|&start| start < self.old_end) {
                let offset = start + within;
                let written = self.storage.write_zeros_at(offset, len);
                written.map_err(|e| Error::io("cannot write zeros", e).at(offset))?;
            }
        }
        Ok(())
    }

    /// Stores the table, and marks the image as closed.
    ///
    /// # Errors
    /// As [`store_table`](Self::store_table).
    pub(super) fn store(&mut self) -> Result<()> {
        self.store_table()?;
        self.close()
    }

    /// Stores the table, after the data that was written before.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the file cannot be written.
    pub(super) fn store_table(&mut self) -> Result<()> {
        let mut phases = Edits::new();
        if self.end > self.old_end {
            phases.phase([Edit::SetLen(self.end)]);
        }
        phases.phase(self.changed.iter().map(|&sector| self.table_sector(sector)));
        self.changed.clear();
        let applied = self.storage.flush().and_then(|()| phases.apply(&*self.storage));
        applied.map_err(|e| Error::io("cannot modify the image", e).in_structure(TABLE))
    }

    /// Returns the entries in a sector of the file.
    fn table_sector(&self, sector: usize) -> Edit {
        let (first, count) = match sector {
            0 => (0, FIRST_ENTRIES),
            _ => (FIRST_ENTRIES + (sector - 1) * SECTOR_ENTRIES, SECTOR_ENTRIES),
        };
        let entries = self.table[first..].iter().take(count);
        let bytes = entries.flat_map(|entry| entry.to_le_bytes()).collect();
        Edit::Write { offset: HEADER_BYTES + to_u64(first) * 4, bytes }
    }
}

/// Returns the sector of the file with a table entry.
fn sector_of(index: usize) -> usize {
    match index.checked_sub(FIRST_ENTRIES) {
        Some(after) => 1 + after / SECTOR_ENTRIES,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_in_the_sector_of_its_offset() {
        for index in [0, 1, 111, 112, 239, 240, 1000] {
            let offset = HEADER_BYTES + to_u64(index) * 4;
            assert_eq!(to_u64(sector_of(index)), offset / 512, "{index}");
        }
    }
}
