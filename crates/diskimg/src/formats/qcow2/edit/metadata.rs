//! Where the metadata of an image is, so that guest data is never written over it.
//!
//! The tables of a damaged or crafted image may say that a guest cluster is where the header, an L1
//! table or a refcount block is. QEMU has the same check (`overlap-check`).

use super::Qcow2Mut;
use super::space::Space;
use crate::error::{Error, Result};
use crate::formats::qcow2::header::{Autoclear, Table};
use crate::formats::qcow2::tables::OFFSET_MASK;
use std::ops::Range;

/// The host ranges of all metadata, except the tables of snapshots below their L1 tables.
#[derive(Debug)]
pub(super) struct Metadata {
    cluster_size: u64,
    /// Host offsets of L2 tables and refcount blocks, one cluster each, in ascending order.
    tables: Vec<u64>,
    /// Other structures in ascending order, with their names.
    others: Vec<(Range<u64>, &'static str)>,
}

impl Metadata {
    /// Finds the metadata of an image.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if structures overlap each other, are not
    /// aligned, or extend beyond the end of the file.
    pub(super) fn find(image: &Qcow2Mut, space: &Space) -> Result<Self> {
        let header = image.header();
        let cluster_size = header.cluster_size();
        let l2 = image.old.l1.iter().map(|entry| entry & OFFSET_MASK).filter(|&offset| offset != 0);
        let mut tables: Vec<_> = l2.chain(space.block_offsets()).collect();
        tables.sort_unstable();
        let mut found = Self { cluster_size, tables, others: Vec::new() };
        found.add("header", 0, cluster_size)?;
        found.add_table("L1 table", header.l1)?;
        found.add_table("refcount table", header.refcount_table)?;
        if let Ok(snapshots) = &image.old.snapshots {
            found.add("snapshot table", header.snapshots_offset, snapshots.bytes)?;
            for snapshot in &snapshots.entries {
                found.add_table("snapshot's L1 table", snapshot.l1)?;
            }
        }
        if let Some(directory) = header.extensions.bitmaps
            && header.autoclear.contains(Autoclear::BITMAPS)
        {
            found.add("bitmap directory", directory.offset, directory.bytes)?;
        }
        for bitmap in image.old.bitmaps.as_deref().unwrap_or_default() {
            found.add_table("bitmap table", bitmap.table)?;
        }
        found.others.sort_unstable_by_key(|(range, _)| range.start);
        found.require_valid(header.padded(image.storage.current_len()))?;
        Ok(found)
    }

    fn add_table(&mut self, name: &'static str, table: Table) -> Result<()> {
        self.add(name, table.offset, table.bytes())
    }

    fn add(&mut self, name: &'static str, offset: u64, len: u64) -> Result<()> {
        let end =
            offset.checked_add(len).and_then(|end| end.checked_next_multiple_of(self.cluster_size));
        let Some(end) = end else {
            return Err(Error::corrupt(name, "it extends beyond the end of the file").at(offset));
        };
        if len > 0 {
            self.others.push((offset..end, name));
        }
        Ok(())
    }

    /// Verifies that no structures overlap, and that all are in the file.
    fn require_valid(&self, file_end: u64) -> Result<()> {
        let overlap = |name, at| Err(Error::corrupt(name, "it overlaps other metadata").at(at));
        for pair in self.others.windows(2) {
            if pair[0].0.end > pair[1].0.start {
                return overlap(pair[1].1, pair[1].0.start);
            }
        }
        let beyond = self.others.iter().find(|(range, _)| range.end > file_end);
        if let Some((range, name)) = beyond {
            let message = "it extends beyond the end of the file";
            return Err(Error::corrupt(*name, message).at(range.start));
        }
        for (i, &table) in self.tables.iter().enumerate() {
            if !table.is_multiple_of(self.cluster_size) || table >= file_end {
                let message =
                    "its offset is not aligned to a cluster or beyond the end of the file";
                return Err(Error::corrupt(TABLE, message).at(table));
            }
            let next = self.tables.get(i + 1);
            let end = table + self.cluster_size;
            if next == Some(&table) || self.other_at(&(table..end)).is_some() {
                return overlap(TABLE, table);
            }
        }
        Ok(())
    }

    /// Returns the first of the other structures in a range.
    fn other_at(&self, range: &Range<u64>) -> Option<&'static str> {
        let after = self.others.partition_point(|(other, _)| other.end <= range.start);
        let (other, name) = self.others.get(after)?;
        (other.start < range.end).then_some(name)
    }

    /// Verifies that guest data can be at a range of host offsets: that there is no metadata.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if there is.
    pub(super) fn require_none(&self, range: &Range<u64>) -> Result<()> {
        let first = self.tables.partition_point(|&table| table + self.cluster_size <= range.start);
        let table = self.tables.get(first).filter(|&&table| table < range.end).map(|_| TABLE);
        match self.other_at(range).or(table) {
            None => Ok(()),
            Some(name) => Err(Error::corrupt(
                "L2 table",
                format!("guest data is mapped to {:#x}, which is in the {name}", range.start),
            )
            .hint("repair the image first, for example with qemu-img")),
        }
    }
}

/// What is in [`Metadata::tables`].
const TABLE: &str = "L2 table or refcount block";
