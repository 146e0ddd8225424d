//! Where the metadata of an image is, so that guest data is never written over it.
//!
//! The tables of a damaged or crafted image may say that a guest cluster is where the header, an L1
//! table or a refcount block is. QEMU has the same check (`overlap-check`).

use super::Qcow2Mut;
use super::space::TRUNCATED;
use crate::error::{Error, Result};
use crate::formats::qcow2::bitmaps;
use crate::formats::qcow2::header::{Autoclear, Table};
use crate::formats::qcow2::tables::{Cluster, L2Layout, OFFSET_MASK, read_words};
use crate::storage::number::{to_u64, to_usize};
use std::ops::Range;

/// The host ranges of all metadata, including that of snapshots and bitmaps.
///
/// What takes a cluster is recorded by its host offset, in ascending order.
#[derive(Debug)]
pub(super) struct Metadata {
    cluster_size: u64,
    /// L2 tables, of the disk and of snapshots.
    l2_tables: Vec<u64>,
    /// What refers to each of them, in the same order.
    l2_uses: Vec<L2Use>,
    /// Refcount blocks and the clusters of bitmaps.
    clusters: Vec<u64>,
    /// The last cluster of bitmaps.
    last_bitmap_cluster: Option<u64>,
    /// Other structures in ascending order, with their names.
    others: Vec<(Range<u64>, &'static str)>,
}

/// The L1 entries that refer to an L2 table.
#[derive(Debug, Clone, Copy)]
pub(super) struct L2Use {
    /// The lowest index among them in their L1 tables.
    pub(super) l1_index: u64,
    /// Their number, of the disk and of snapshots.
    pub(super) count: u64,
}

impl Metadata {
    /// Finds the metadata of an image, whose refcount table has these entries.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if structures overlap each other (so that two
    /// entries of a table point to the same one, for example), are not aligned, or extend beyond the
    /// end of the file, and if the snapshot table or the bitmap directory is damaged;
    /// [`Limit`](crate::ErrorKind::Limit) if the tables of snapshots and bitmaps need too much
    /// memory.
    pub(super) fn find(image: &Qcow2Mut, refcount_blocks: &[u64]) -> Result<Self> {
        let header = image.header();
        let cluster_size = header.cluster_size();
        let mut found = Self {
            cluster_size,
            l2_tables: Vec::new(),
            l2_uses: Vec::new(),
            clusters: offsets(refcount_blocks, u64::MAX).collect(),
            last_bitmap_cluster: None,
            others: Vec::new(),
        };
        let mut l1_entries: Vec<_> = l2_offsets(&image.old.l1).collect();
        l1_entries.sort_unstable();
        if let Some(pair) = l1_entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(overlap(L2_TABLE, pair[0].0));
        }
        found.add("header", 0, cluster_size)?;
        found.add_table("L1 table", header.l1)?;
        found.add_table("refcount table", header.refcount_table)?;
        let mut budget = Budget::new(image);
        found.find_snapshots(image, &mut budget, &mut l1_entries)?;
        found.set_l2_tables(l1_entries);
        found.find_bitmaps(image, &mut budget)?;
        if let Some(luks) = header.extensions.encryption {
            found.add("encryption header", luks.offset, luks.bytes)?;
        }
        found.clusters.sort_unstable();
        found.others.sort_unstable_by_key(|(range, _)| range.start);
        found.require_valid(header.padded(image.storage.current_len()))?;
        Ok(found)
    }

    /// Appends the L1 entries of snapshots: offset of the L2 table, and index.
    fn find_snapshots(
        &mut self,
        image: &Qcow2Mut,
        budget: &mut Budget<'_>,
        l1_entries: &mut Vec<(u64, u64)>,
    ) -> Result<()> {
        let header = image.header();
        let snapshots = image.snapshots()?;
        self.add("snapshot table", header.snapshots_offset, snapshots.bytes)?;
        for snapshot in &snapshots.entries {
            self.add_table(SNAPSHOT_L1, snapshot.l1)?;
            l1_entries.extend(l2_offsets(&budget.read(SNAPSHOT_L1, snapshot.l1)?));
        }
        Ok(())
    }

    /// Sets the L2 tables. Snapshots share those that do not change with the disk.
    fn set_l2_tables(&mut self, mut l1_entries: Vec<(u64, u64)>) {
        l1_entries.sort_unstable();
        for same in l1_entries.chunk_by(|a, b| a.0 == b.0) {
            let (offset, l1_index) = same[0];
            self.l2_tables.push(offset);
            self.l2_uses.push(L2Use { l1_index, count: to_u64(same.len()) });
        }
    }

    fn find_bitmaps(&mut self, image: &Qcow2Mut, budget: &mut Budget<'_>) -> Result<()> {
        let header = image.header();
        if let Some(directory) = header.extensions.bitmaps
            && header.autoclear.contains(Autoclear::BITMAPS)
        {
            self.add("bitmap directory", directory.offset, directory.bytes)?;
        }
        for bitmap in image.bitmaps()? {
            self.add_table("bitmap table", bitmap.table)?;
            let table = budget.read("bitmap table", bitmap.table)?;
            let clusters = offsets(&table, bitmaps::OFFSET_MASK);
            self.last_bitmap_cluster = clusters.clone().max().max(self.last_bitmap_cluster);
            self.clusters.extend(clusters);
        }
        Ok(())
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
        for pair in self.others.windows(2) {
            if pair[0].0.end > pair[1].0.start {
                return Err(overlap(pair[1].1, pair[1].0.start));
            }
        }
        let beyond = self.others.iter().find(|(range, _)| range.end > file_end);
        if let Some((range, name)) = beyond {
            let message = "it extends beyond the end of the file";
            return Err(Error::corrupt(*name, message).at(range.start).hint(TRUNCATED));
        }
        require_distinct(CLUSTER, &self.clusters)?;
        for (name, offsets) in [(L2_TABLE, &self.l2_tables), (CLUSTER, &self.clusters)] {
            for &offset in offsets {
                if !offset.is_multiple_of(self.cluster_size) || offset >= file_end {
                    let message =
                        "its offset is not aligned to a cluster or beyond the end of the file";
                    return Err(Error::corrupt(name, message).at(offset).hint(TRUNCATED));
                }
                let is_both = name == L2_TABLE && self.clusters.binary_search(&offset).is_ok();
                if is_both || self.other_at(&(offset..offset + self.cluster_size)).is_some() {
                    return Err(overlap(name, offset));
                }
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

    /// Returns the name of a structure in a range of host offsets.
    pub(super) fn name_at(&self, range: &Range<u64>) -> Option<&'static str> {
        let first_in = |offsets: &[u64]| {
            let first = offsets.partition_point(|&at| at + self.cluster_size <= range.start);
            offsets.get(first).is_some_and(|&at| at < range.end)
        };
        self.other_at(range)
            .or_else(|| first_in(&self.l2_tables).then_some(L2_TABLE))
            .or_else(|| first_in(&self.clusters).then_some(CLUSTER))
    }

    /// Verifies that guest data can be at a range of host offsets: that there is no metadata.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if there is.
    pub(super) fn require_none(&self, range: &Range<u64>) -> Result<()> {
        match self.name_at(range) {
            None => Ok(()),
            Some(name) => Err(Error::corrupt(
                L2_TABLE,
                format!("guest data is mapped to {:#x}, which is metadata ({name})", range.start),
            )
            .hint("check the image")),
        }
    }

    /// Returns the end of the range without metadata that begins at `offset`, where there is none.
    pub(super) fn gap_end(&self, offset: u64) -> u64 {
        let next = |offsets: &[u64]| {
            offsets.get(offsets.partition_point(|&at| at <= offset)).copied().unwrap_or(u64::MAX)
        };
        let other = self.others.partition_point(|(range, _)| range.start <= offset);
        let other = self.others.get(other).map_or(u64::MAX, |(range, _)| range.start);
        other.min(next(&self.l2_tables)).min(next(&self.clusters))
    }

    /// Returns the host cluster to which an entry for guest offset `at` points, after verifying that
    /// guest data can be there: in an image file that ends at `end`, or at the same offset of the
    /// external data file.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if it cannot.
    pub(super) fn host_cluster(
        &self,
        layout: L2Layout,
        at: u64,
        cluster: Cluster,
        end: u64,
    ) -> Result<Option<u64>> {
        let offset = match cluster {
            Cluster::Data { offset } => Some(offset),
            Cluster::Zero { offset } => offset,
            Cluster::Subclusters(subclusters) if subclusters.is_valid() => subclusters.offset,
            Cluster::Subclusters(_) => {
                let message = format!("the subcluster bitmap of guest offset {at:#x} is invalid");
                return Err(Error::corrupt(L2_TABLE, message));
            }
            Cluster::Unallocated | Cluster::Compressed { .. } => None,
        };
        let Some(offset) = offset else { return Ok(None) };
        let is_valid = match layout.data_file {
            true => offset == at,
            false => offset.is_multiple_of(self.cluster_size),
        };
        if !is_valid {
            let message = format!("guest offset {at:#x} maps to {offset:#x}, which is invalid");
            return Err(Error::corrupt(L2_TABLE, message));
        }
        if !layout.data_file {
            let range = offset..offset + self.cluster_size;
            if range.end > end {
                let message = format!("guest offset {at:#x} maps beyond the end of the file");
                return Err(Error::corrupt(L2_TABLE, message).at(offset).hint(TRUNCATED));
            }
            self.require_none(&range)?;
        }
        Ok(Some(offset))
    }

    /// Returns the host offset of the end of all structures except L2 tables and refcount blocks:
    /// bitmaps, for example.
    pub(super) fn end_of_others(&self) -> u64 {
        let clusters = self.last_bitmap_cluster.iter().map(|offset| offset + self.cluster_size);
        let others = self.others.iter().map(|(range, _)| range.end);
        clusters.chain(others).max().unwrap_or(0)
    }

    /// Returns the host clusters of all metadata except L2 tables, with its name, as offsets.
    pub(super) fn clusters_without_l2(&self) -> impl Iterator<Item = (u64, &'static str)> {
        let others = self.others.iter().flat_map(|(range, name)| {
            range.clone().step_by(to_usize(self.cluster_size)).map(move |offset| (offset, *name))
        });
        others.chain(self.clusters.iter().map(|&offset| (offset, CLUSTER)))
    }

    /// Returns the host offsets of all L2 tables.
    pub(super) fn l2_tables(&self) -> &[u64] {
        &self.l2_tables
    }

    /// Returns what refers to each of the [L2 tables](Self::l2_tables).
    pub(super) fn l2_uses(&self) -> &[L2Use] {
        &self.l2_uses
    }
}

const L2_TABLE: &str = "L2 table";

const SNAPSHOT_L1: &str = "snapshot's L1 table";

/// What is in [`Metadata::clusters`].
const CLUSTER: &str = "refcount block or bitmap";

/// The offsets in the entries of a table that are not zero.
fn offsets(entries: &[u64], mask: u64) -> impl Iterator<Item = u64> + Clone {
    entries.iter().map(move |entry| entry & mask).filter(|&offset| offset != 0)
}

/// The offsets of L2 tables in the entries of an L1 table, and the indexes of the entries.
pub(super) fn l2_offsets(l1: &[u64]) -> impl Iterator<Item = (u64, u64)> {
    let offsets = l1.iter().map(|entry| entry & OFFSET_MASK);
    offsets.zip(0..).filter(|&(offset, _)| offset != 0)
}

fn overlap(name: &'static str, at: u64) -> Error {
    Error::corrupt(name, "it overlaps other metadata").at(at)
}

/// Verifies that sorted offsets differ.
fn require_distinct(name: &'static str, sorted: &[u64]) -> Result<()> {
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(overlap(name, pair[0])),
        None => Ok(()),
    }
}

/// The memory that the tables of snapshots and bitmaps may take.
struct Budget<'a> {
    image: &'a Qcow2Mut,
    left: u64,
}

impl<'a> Budget<'a> {
    fn new(image: &'a Qcow2Mut) -> Self {
        Self { image, left: image.old.limits.table_bytes }
    }

    fn read(&mut self, name: &'static str, table: Table) -> Result<Vec<u64>> {
        self.left = self.left.checked_sub(table.bytes()).ok_or_else(|| {
            let max = self.image.old.limits.table_bytes;
            Error::over_limit("table_bytes", "tables of snapshots and bitmaps", max)
                .in_structure(name)
        })?;
        read_words(&*self.image.storage, name, table.offset, table.entries)
    }
}
