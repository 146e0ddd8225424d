//! Changing the size of a disk.
//!
//! ```text
//!   grow                                          then
//!   header: in use
//!   copies of the clusters in the way of the      nothing refers to the copies
//!     longer table, at the end of the file
//!   sectors of the table                          the copies are in use
//!   zeros in the longer table, and behind the     the old disk has neither
//!     old end of the disk
//!   header: the new size, closed
//!
//!   shrink
//!   header: the new size, in use                  the clusters beyond it are not used
//!   length of the file
//!   header: closed
//! ```

use super::clusters::ClusterWriter;
use crate::error::{Error, Result};
use crate::formats::parallels::SECTOR;
use crate::formats::parallels::clusters::TABLE;
use crate::formats::parallels::header::{Header, MAX_ENTRIES, Magic};
use crate::storage::edit::{Edit, Edits};
use crate::storage::number::{to_u64, to_usize};

/// Bytes that are copied together.
const CHUNK: u64 = 1 << 20;

impl ClusterWriter {
    /// Changes the size of the disk to `size` bytes. `max_table` is the largest table in bytes.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) or [`Limit`](crate::ErrorKind::Limit) if the image
    /// cannot have this size, [`Io`](crate::ErrorKind::Io) if the file cannot be read or written.
    pub(super) fn resize(&mut self, size: u64, max_table: u64) -> Result<()> {
        let new = self.resized_header(size, max_table)?;
        if size < self.header.size {
            self.header = new;
            self.table.truncate(to_usize(self.header.needed_entries()));
            self.begin()?;
            self.cut_off()?;
            return self.close();
        }
        self.begin()?;
        self.make_room(&new)?;
        self.zero_end(size)?;
        self.zero_entries(&new)?;
        self.header = new;
        self.close()
    }

    /// Returns the header for a disk of `size` bytes.
    fn resized_header(&self, size: u64, max_table: u64) -> Result<Header> {
        if !size.is_multiple_of(SECTOR) {
            return Err(Error::invalid("The new size must be a multiple of 512"));
        }
        let header = Header { size, ..self.header.clone() };
        let needed = header.needed_entries();
        if needed * 4 > max_table {
            let found = format!("a table of {} bytes", needed * 4);
            return Err(Error::over_limit("table_bytes", found, max_table));
        }
        let is_too_large = header.magic == Magic::Sectors && u32::try_from(size / SECTOR).is_err();
        let entries = u32::try_from(needed).ok().filter(|&entries| entries <= MAX_ENTRIES);
        let Some(entries) = entries.filter(|_| !is_too_large) else {
            return Err(Error::limit("Image size is too large for this cluster size"));
        };
        let header = Header { entries, ..header };
        // Clusters stay a whole number of clusters from the start of the data area.
        let room = header.table_end().saturating_sub(self.base);
        let data_at = self.base + room.next_multiple_of(header.cluster_bytes);
        let data_off = u32::try_from(data_at / SECTOR);
        let data_off = data_off.map_err(|_| Error::limit("the data area would start too late"))?;
        Ok(Header { data_off, ..header })
    }

    /// Moves the clusters in the way of the table to the end of the file.
    fn make_room(&mut self, new: &Header) -> Result<()> {
        let table_end = new.table_end();
        // The file may end within what will be the table.
        self.end = self.end.max(u64::from(new.data_off) * SECTOR);
        let in_the_way: Vec<_> = (0..to_u64(self.table.len()))
            .filter_map(|index| Some((index, self.host_of(index)?)))
            .filter(|&(_, start)| start < table_end)
            .collect();
        for (index, from) in in_the_way {
            // The last cluster may be cut off.
            let stored = self.storage.current_len().saturating_sub(from);
            let to = self.append(index)?;
            self.copy(from, to, stored.min(self.header.cluster_bytes))?;
        }
        self.store_table()
    }

    fn copy(&self, from: u64, to: u64, len: u64) -> Result<()> {
        let mut buf = vec![0; to_usize(CHUNK.min(len))];
        let mut done = 0;
        while done < len {
            let part = &mut buf[..to_usize(CHUNK.min(len - done))];
            let at = from + done;
            let read = self.storage.read_exact_at(part, at);
            read.map_err(|e| Error::io("cannot read a cluster", e).at(at))?;
            let written = self.storage.write_all_at(part, to + done);
            written.map_err(|e| Error::io("cannot write a cluster", e).at(to + done))?;
            done += to_u64(part.len());
        }
        Ok(())
    }

    /// Zeros what the last cluster has beyond the end of the disk, as far as a disk of `size` bytes
    /// shows it.
    fn zero_end(&self, size: u64) -> Result<()> {
        let (cluster, old) = (self.header.cluster_bytes, self.header.size);
        let within = old % cluster;
        let Some(start) = self.host_of(old / cluster).filter(|_| within > 0 && size > old) else {
            return Ok(());
        };
        let (len, end) = (self.storage.current_len(), start + cluster);
        let mut edits = Edits::new();
        if len < end {
            edits.phase([Edit::SetLen(end)]);
        }
        let offset = start + within;
        edits.phase([Edit::Zero { offset, len: cluster - within }]);
        self.apply(&edits)
    }

    /// Zeros the entries that the table will have in addition.
    fn zero_entries(&self, new: &Header) -> Result<()> {
        let (offset, end) = (self.header.table_end(), new.table_end());
        let mut edits = Edits::new();
        let needed = end.max(u64::from(new.data_off) * SECTOR);
        if self.storage.current_len() < needed {
            edits.phase([Edit::SetLen(needed)]);
        }
        if end > offset {
            edits.phase([Edit::Zero { offset, len: end - offset }]);
        }
        self.apply(&edits)
    }

    /// Removes the clusters at the end of the file that are not used.
    fn cut_off(&self) -> Result<()> {
        let starts = (0..to_u64(self.table.len())).filter_map(|index| self.host_of(index));
        let used = starts.max().map_or(0, |start| start + self.header.cluster_bytes);
        let end = used.max(u64::from(self.header.data_off) * SECTOR);
        let mut edits = Edits::new();
        if end < self.storage.current_len() && !self.storage.has_fixed_len() {
            edits.phase([Edit::SetLen(end)]);
        }
        self.apply(&edits)
    }

    fn apply(&self, edits: &Edits) -> Result<()> {
        let applied = edits.apply(&*self.storage);
        applied.map_err(|e| Error::io("cannot modify the image", e).in_structure(TABLE))
    }
}
