//! Storing what a [`Writer`] has changed.
//!
//! New clusters are referenced when their data is durable, and released when nothing refers to
//! them:
//!
//! ```text
//!   written                                             then
//!   guest data                                          new clusters are not referenced
//!   new L2 tables and refcount blocks                   nor are these
//!   refcounts of new clusters                           they are leaks
//!   the header, if the refcount table was moved
//!   changed sectors of L2 tables and of the L1 table    they are in use; old clusters are leaks
//!   refcounts of old clusters                           the image is clean
//! ```
//!
//! This happens at the end, and before that for the tables of what is completely written whenever
//! they need too much memory. Refcounts of new clusters alone may be stored at any time.

use super::space::{Space, TableLocation};
use super::table::{sector_of, sectors};
use super::write::Writer;
use crate::error::{Error, Result};
use crate::formats::qcow2::tables::{COPIED, to_bytes};
use crate::storage::edit::{Edit, Edits, Storage};
use crate::storage::number::{to_u64, to_usize};
use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Memory for L2 tables in bytes from which tables are stored before the end.
const MAX_TABLE_BYTES: u64 = 16 << 20;

/// Maximum number of ranges that are deallocated together.
const MAX_FREED: usize = 1 << 16;

/// Modifications, by the phase in which they are made.
#[derive(Debug, Default)]
struct Update {
    /// New clusters.
    new: Vec<Edit>,
    /// Tables that refer to them.
    in_place: Vec<Edit>,
    /// Host ranges that nothing refers to afterwards.
    unused: Vec<Range<u64>>,
}

impl Writer {
    /// Stores tables if they need much memory. The workers have written all data below `end`.
    pub(super) fn settle_tables(&mut self, end: u64) -> Result<()> {
        let per_table = self.cluster_size();
        self.settled = end;
        let complete = self.tables.complete_before(self.tables_before(end));
        // Most of the memory must be of tables that can be stored.
        if to_u64(complete) * per_table >= MAX_TABLE_BYTES.max(4 * per_table) {
            self.store_tables(end)?;
        }
        Ok(())
    }

    /// Returns the number of L2 tables that describe only guest offsets below `end`.
    fn tables_before(&self, end: u64) -> u64 {
        end >> self.image.old.layout.l1_shift()
    }

    /// Allocates 1 to `max` adjacent clusters. Returns the host offset of the first and their
    /// number.
    ///
    /// # Errors
    /// As [`Space::allocate_some`].
    pub(super) fn allocate(&mut self, max: u64) -> Result<(u64, u64)> {
        self.with_room(|writer| writer.space.allocate_some(max))
    }

    /// Allocates `len` bytes for a compressed cluster. Returns their host offset.
    ///
    /// # Errors
    /// As [`CompressedSpace::allocate`](super::compressed::CompressedSpace::allocate).
    pub(super) fn allocate_compressed(&mut self, len: u64) -> Result<u64> {
        let size = self.cluster_size();
        self.with_room(|writer| writer.compressed.allocate(&mut writer.space, len, size))
    }

    /// Calls `allocate`, after storing what takes the memory or the clusters that this needs.
    fn with_room<T>(&mut self, mut allocate: impl FnMut(&mut Self) -> Result<T>) -> Result<T> {
        if self.space.should_be_stored() {
            self.apply(Update::default())?;
        }
        match allocate(self) {
            Err(error) if is_full(&error) => {
                // Clusters become free when the tables are stored that do not refer to them.
                self.store_tables(self.settled)?;
                allocate(self)
            }
            outcome => outcome,
        }
    }

    /// Makes everything durable that was written so far, and then the L2 tables that describe only
    /// guest offsets below `end`. The workers have written all data below it.
    fn store_tables(&mut self, end: u64) -> Result<()> {
        let mut tables = self.tables.take_before(self.tables_before(end));
        tables.retain(|_, table| table.is_changed());
        let mut update = Update::default();
        let mut l1_sectors = BTreeSet::new();
        for (l1_index, table) in tables {
            if let Some(offset) = table.stored {
                update.in_place.extend(table.changes(offset));
            } else {
                let offset = self.space.allocate(1)?;
                let bytes = to_bytes(&table.words);
                update.new.push(Edit::Write { offset, bytes });
                let index = to_usize(l1_index);
                self.l1[index] = offset | COPIED;
                l1_sectors.insert(sector_of(index));
            }
            update.unused.extend(table.unused);
        }
        update.in_place.extend(sectors(&self.l1, &l1_sectors, self.header().l1.offset));
        self.apply(update)
    }

    /// Marks in the bitmaps what was written, and then that they are consistent.
    fn store_bitmaps(&mut self) -> Result<()> {
        while let Some(edits) = self.bitmaps.next_batch(Some(&mut self.space))? {
            self.apply(Update { new: edits.new, in_place: edits.in_place, unused: Vec::new() })?;
        }
        let mut edits = Edits::new();
        edits.phase(self.bitmaps.mark_consistent());
        edits.apply(&*self.image.storage).map_err(cannot_modify)
    }

    /// Makes modifications in the order that keeps the image consistent.
    fn apply(&mut self, mut update: Update) -> Result<()> {
        update.unused.sort_unstable_by_key(|range| range.start);
        // Before anything refers to other clusters.
        self.space.require_counts(&update.unused)?;
        let old_table = self.space.move_table()?;
        let used = self.space.take_changes();
        let storage = Arc::clone(&self.image.storage);
        let end = self.space.end().max(storage.current_len());
        let is_longer = !storage.has_fixed_len() && end > storage.current_len();
        let longer = is_longer.then_some(Edit::SetLen(end)).into_iter();
        let mut edits = Edits::new();
        edits.phase(longer.chain(update.new).chain(used.new_tables)).phase(used.counts);
        if let Some(table) = old_table {
            let len = u64::from(table.len) * self.cluster_size();
            update.unused.push(table.offset..table.offset + len);
            let header = self.header();
            let l1 = TableLocation::of_l1(header);
            edits.phase([self.image.switch(header.size, l1, self.space.table_location())?]);
        }
        edits.phase(update.in_place);
        // From now on, something may refer to what is before it.
        self.end = end;
        // Guest data first: nothing may refer to it before it is durable.
        let flushed = self.files.iter().try_for_each(|file| file.flush());
        flushed.and_then(|()| edits.apply(&*storage)).map_err(cannot_modify)?;
        self.space.forget_stored();
        release(&mut self.space, &*storage, &update.unused)
    }

    /// Stores everything.
    pub(super) fn store_all(&mut self) -> Result<()> {
        self.store_tables(u64::MAX)?;
        self.store_bitmaps()
    }

    /// After a failure, forgets what is not stored, and makes the bitmaps consistent, in which all
    /// that may have been written is marked. The image is usable without this.
    pub(super) fn abandon(&mut self) -> Result<()> {
        let storage = Arc::clone(&self.image.storage);
        let shortened = match storage.has_fixed_len() {
            true => Ok(()),
            false => storage.set_len(self.end),
        };
        self.bitmaps.restart();
        while let Some(batch) = self.bitmaps.next_batch(None)? {
            let mut edits = Edits::new();
            edits.phase(batch.in_place);
            edits.apply(&*storage).map_err(cannot_modify)?;
        }
        let mut edits = Edits::new();
        edits.phase(self.bitmaps.mark_consistent());
        edits.apply(&*storage).and(shortened).map_err(cannot_modify)
    }
}

/// Decrements the refcounts of ranges that nothing refers to any more, and deallocates the clusters
/// that are not used by anything else. Stores that part by part.
pub(super) fn release(
    space: &mut Space,
    storage: &dyn Storage,
    unused: &[Range<u64>],
) -> Result<()> {
    let mut freed = Freed { ranges: Vec::new(), cluster_size: space.cluster_size() };
    let mut rest = unused.iter().peekable();
    while let Some(range) = rest.next() {
        space.release(range.start, range.end - range.start, |cluster| freed.push(cluster))?;
        if rest.peek().is_none() || space.should_be_stored() || freed.ranges.len() >= MAX_FREED {
            let mut edits = Edits::new();
            edits.phase(space.take_changes().counts).phase(freed.take());
            edits.apply(storage).map_err(cannot_modify)?;
            space.forget_stored();
        }
    }
    Ok(())
}

/// Clusters that are not used any more.
struct Freed {
    ranges: Vec<Range<u64>>,
    cluster_size: u64,
}

impl Freed {
    /// Adds the cluster at a host offset.
    fn push(&mut self, offset: u64) {
        let end = offset + self.cluster_size;
        match self.ranges.last_mut() {
            Some(last) if last.end == offset => last.end = end,
            _ => self.ranges.push(offset..end),
        }
    }

    /// Takes the clusters, as modifications that deallocate them.
    fn take(&mut self) -> impl Iterator<Item = Edit> {
        let discard =
            |range: Range<u64>| Edit::Discard { offset: range.start, len: range.end - range.start };
        std::mem::take(&mut self.ranges).into_iter().map(discard)
    }
}

fn is_full(error: &Error) -> bool {
    error.io_error().is_some_and(|error| error.kind() == io::ErrorKind::StorageFull)
}

fn cannot_modify(error: io::Error) -> Error {
    Error::io("cannot modify the image", error)
}
