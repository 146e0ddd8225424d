//! How often host clusters are used, counted before anything is written.
//!
//! Guest data is overwritten in place where an entry and the refcount say that nothing else uses the
//! cluster. In a damaged or crafted image, another entry of the disk, or one of a snapshot, may use
//! it all the same.

use super::Qcow2Mut;
use super::metadata::{L2Use, l2_offsets};
use super::space::{Space, TRUNCATED};
use crate::error::{Error, Result};
use crate::formats::qcow2::check::MAX_CLUSTERS;
use crate::formats::qcow2::tables::{Cluster, L2Layout, read_words};
use crate::formats::qcow2::use_counts::UseCounts;
use crate::storage::number::to_u64;
use crate::storage::source::Source;
use std::ops::Range;

/// The references of one L1 table to L2 tables and, through them, to other clusters, which are
/// counted separately.
#[derive(Debug)]
pub(super) struct Tree {
    /// Host offset and L1 index of each L2 table, in ascending order of the offsets.
    tables: Vec<(u64, u64)>,
    /// Guest offset, a multiple of the cluster size, before which nothing is counted.
    from: u64,
    /// References to each host cluster.
    counts: UseCounts,
}

impl Tree {
    /// Creates the tree of an L1 table without what describes guest bytes before `from`. Counting
    /// takes at most `max_bytes` of memory.
    pub(super) fn new(l1: &[u64], from: u64, max_bytes: u64) -> Self {
        let mut tables: Vec<_> = l2_offsets(l1).collect();
        tables.sort_unstable();
        Self { tables, from, counts: UseCounts::new(max_bytes) }
    }

    /// Returns the references.
    pub(super) fn into_counts(self) -> UseCounts {
        self.counts
    }

    /// Returns the L1 indexes of the entries that refer to an L2 table.
    fn l1_indexes(&self, offset: u64) -> impl Iterator<Item = u64> {
        let start = self.tables.partition_point(|table| table.0 < offset);
        let same = self.tables[start..].iter().take_while(move |table| table.0 == offset);
        same.map(|table| table.1)
    }
}

/// Reads every L2 table once, those of snapshots too, and verifies that guest data can be where they
/// say, and that no cluster is used more often than its refcount says.
///
/// # Errors
/// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if that is not so, or if an image with an external
/// data file has snapshots, whose data would be in the same place;
/// [`Limit`](crate::ErrorKind::Limit) if counting takes too much memory.
pub(super) fn verify(image: &Qcow2Mut, space: &mut Space) -> Result<()> {
    verify_and_count(image, space, &mut [], u64::MAX)
}

/// As [`verify`], and counts the references of some L1 tables. A cluster that is used more often than
/// `max` may have this refcount.
///
/// # Errors
/// See [`verify`].
pub(super) fn verify_and_count(
    image: &Qcow2Mut,
    space: &mut Space,
    trees: &mut [Tree],
    max: u64,
) -> Result<()> {
    let (header, storage) = (image.header(), &*image.storage);
    let layout = image.old.layout;
    if layout.data_file && !image.snapshots()?.entries.is_empty() {
        let message = "an image with an external data file cannot have snapshots";
        return Err(Error::corrupt("snapshot table", message).at(header.snapshots_offset));
    }
    let end = header.padded(storage.current_len());
    if end >> layout.cluster_bits > MAX_CLUSTERS {
        let message = format!("the file has more than {MAX_CLUSTERS} clusters");
        return Err(Error::limit(message));
    }
    let counts = UseCounts::new(image.old.limits.check_bytes);
    let mut references =
        References { space, layout, end, counts, gap: 0..0, trees, times: Vec::new() };
    for number in 0..references.space.metadata().l2_tables().len() {
        let offset = references.space.metadata().l2_tables()[number];
        let uses = references.space.metadata().l2_uses()[number];
        references.add_table(storage, offset, uses)?;
    }
    references.compare(max)
}

struct References<'a> {
    space: &'a mut Space,
    layout: L2Layout,
    /// Host offset of the end of the last cluster of the file.
    end: u64,
    counts: UseCounts,
    /// Host offsets without metadata, around the last cluster.
    gap: Range<u64>,
    trees: &'a mut [Tree],
    /// How often each tree refers to what is being counted.
    times: Vec<u64>,
}

impl References<'_> {
    /// Counts an L2 table and what it refers to.
    fn add_table(&mut self, file: &dyn Source, offset: u64, uses: L2Use) -> Result<()> {
        let layout = self.layout;
        let guest_at = |l1_index: u64| l1_index << layout.l1_shift();
        let times = |tree: &Tree, at: u64| {
            to_u64(tree.l1_indexes(offset).filter(|&l1| guest_at(l1) + at >= tree.from).count())
        };
        self.times = self.trees.iter().map(|tree| times(tree, 0)).collect();
        self.add(offset, layout.cluster_size(), uses.count)?;
        let is_partial = |tree: &Tree| tree.from > 0 && tree.l1_indexes(offset).next().is_some();
        let is_partial = self.trees.iter().any(is_partial);
        let words = read_words(file, "L2 table", offset, layout.cluster_size() / 8)?;
        let words_per_entry = if layout.extended { 2 } else { 1 };
        for (index, entry) in words.chunks_exact(words_per_entry).enumerate() {
            if entry[0] == 0 && (!layout.extended || entry[1] == 0) {
                continue;
            }
            let cluster = layout.decode(entry[0], if layout.extended { entry[1] } else { 0 });
            let at = to_u64(index) << layout.cluster_bits;
            let guest = at.wrapping_add(guest_at(uses.l1_index));
            if is_partial {
                self.times = self.trees.iter().map(|tree| times(tree, at)).collect();
            }
            self.add_cluster(guest, cluster, uses.count)?;
        }
        Ok(())
    }

    /// Counts the host clusters to which an entry for a guest offset refers.
    fn add_cluster(&mut self, guest: u64, cluster: Cluster, times: u64) -> Result<()> {
        let size = self.layout.cluster_size();
        if let Cluster::Data { offset } = cluster
            && self.gap.start <= offset
            && offset.saturating_add(size) <= self.gap.end
            && offset.is_multiple_of(size)
        {
            return self.add(offset, size, times);
        }
        let metadata = self.space.metadata();
        let host = metadata.host_cluster(self.layout, guest, cluster, self.end)?;
        if self.layout.data_file {
            return Ok(());
        }
        match (cluster, host) {
            (Cluster::Compressed { offset, len }, _) => {
                let range = offset..offset + u64::from(len);
                if range.end > self.end {
                    let message =
                        format!("guest offset {guest:#x} maps beyond the end of the file");
                    return Err(Error::corrupt("L2 table", message).at(offset).hint(TRUNCATED));
                }
                metadata.require_none(&range)?;
                self.add(offset, len.into(), times)
            }
            (_, Some(offset)) => {
                self.gap = offset..metadata.gap_end(offset).min(self.end);
                self.add(offset, size, times)
            }
            _ => Ok(()),
        }
    }

    /// Counts the clusters that `len` bytes at a host offset touch.
    fn add(&mut self, offset: u64, len: u64, times: u64) -> Result<()> {
        let bits = self.layout.cluster_bits;
        for cluster in offset >> bits..=(offset + len - 1) >> bits {
            self.counts.add(cluster, times, u64::MAX)?;
            for (tree, &times) in self.trees.iter_mut().zip(&self.times) {
                if times > 0 {
                    tree.counts.add(cluster, times, u64::MAX)?;
                }
            }
        }
        Ok(())
    }

    /// Compares the counts with the refcounts.
    fn compare(self, max: u64) -> Result<()> {
        /// Number of clusters that are compared at a time.
        const STEP: u64 = 1024;
        let end = self.end >> self.layout.cluster_bits;
        let mut next = self.counts.next_counted(0, end);
        while next < end {
            let clusters = next..(next - next % STEP + STEP).min(end);
            next = self.counts.next_counted(clusters.end, end);
            self.space.require_uses(clusters, |cluster| self.counts.get(cluster).min(max))?;
        }
        Ok(())
    }
}
