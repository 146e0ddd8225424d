//! The refcounts of shadow metadata.

use super::{Shadow, next_counted};
use crate::error::{Error, Result};
use crate::formats::qcow2::edit::space::TableLocation;
use crate::formats::qcow2::header::MAX_REFCOUNT_TABLE_BYTES;
use crate::formats::qcow2::refcount;
use crate::formats::qcow2::tables::{read_words, to_bytes};
use crate::storage::number::{to_u32, to_u64, to_usize};
use std::collections::{BTreeMap, BTreeSet};

impl Shadow<'_> {
    /// Writes the changed refcount blocks, or all of them, and the refcount table. Returns the table
    /// and where it is.
    pub(super) fn store_refcounts(&mut self) -> Result<(Vec<u64>, TableLocation)> {
        let old = self.space.table_location();
        self.release(old.offset, u64::from(old.len) * self.cluster_size(), 1)?;
        let mut blocks = Blocks { queue: self.changed_blocks(), ..Blocks::default() };
        if self.writes_all() {
            for offset in self.space.table().to_vec() {
                self.release(offset, if offset == 0 { 0 } else { self.cluster_size() }, 1)?;
            }
            blocks.queue = self.blocks_in_use()?;
        }
        self.place_blocks(&mut blocks)?;
        let clusters = self.table_clusters(&blocks)?;
        let offset = self.allocate(clusters)?;
        let first = offset >> self.cluster_bits();
        (first..first + clusters).for_each(|cluster| blocks.add(cluster / self.per_block()));
        self.place_blocks(&mut blocks)?;
        let mut table = self.old_table().to_vec();
        let entries = to_usize(clusters * self.cluster_size() / 8);
        if blocks.placed.last_key_value().is_some_and(|(&last, _)| to_usize(last) >= entries) {
            return Err(Error::limit("the new refcount table does not fit into its clusters"));
        }
        table.resize(entries, 0);
        for (&block, &offset) in &blocks.placed {
            let words = self.new_block(block)?;
            self.write(offset, &to_bytes(&words))?;
            table[to_usize(block)] = offset;
        }
        self.write(offset, &to_bytes(&table))?;
        Ok((table, TableLocation { offset, len: to_u32(clusters) }))
    }

    /// Returns the refcount table of which the entries of unchanged blocks are kept.
    fn old_table(&self) -> &[u64] {
        if self.writes_all() { &[] } else { self.space.table() }
    }

    /// Returns true if all refcount blocks are written.
    fn writes_all(&self) -> bool {
        self.moves_blocks || self.changes_width()
    }

    /// Returns the indexes of the future blocks that have refcounts.
    fn blocks_in_use(&mut self) -> Result<BTreeSet<u64>> {
        let (old, new) = (self.old_per_block(), self.per_block());
        let max = MAX_REFCOUNT_TABLE_BYTES.max(self.cluster_size()) / 8;
        let mut blocks = BTreeSet::new();
        for block in self.changed_blocks() {
            if self.is_in_use(block)? {
                blocks.insert(block);
            }
        }
        for (offset, block) in self.space.table().to_vec().into_iter().zip(0..) {
            if offset == 0 {
                continue;
            }
            for block in block * old / new..((block + 1) * old).div_ceil(new) {
                if blocks.contains(&block) || !self.is_in_use(block)? {
                    continue;
                }
                if block >= max {
                    return Err(table_too_large());
                }
                blocks.insert(block);
            }
        }
        Ok(blocks)
    }

    /// Returns the indexes of the blocks in which a refcount changes.
    fn changed_blocks(&self) -> BTreeSet<u64> {
        let mut blocks = BTreeSet::new();
        for counts in [&self.added, &self.removed] {
            let mut at = 0;
            while let Some(cluster) = next_counted(counts, at, self.next) {
                let block = cluster / self.per_block();
                blocks.insert(block);
                at = (block + 1) * self.per_block();
            }
        }
        blocks
    }

    /// Allocates new clusters for blocks, which may change refcounts in further ones.
    fn place_blocks(&mut self, blocks: &mut Blocks) -> Result<()> {
        let (bits, per_block) = (self.cluster_bits(), self.per_block());
        while let Some(block) = blocks.queue.pop_first() {
            let offset = self.allocate(1)?;
            blocks.placed.insert(block, offset);
            blocks.add((offset >> bits) / per_block);
            let old = self.old_table().get(to_usize(block)).copied().unwrap_or(0);
            if old != 0 {
                self.release(old, self.cluster_size(), 1)?;
                blocks.add((old >> bits) / per_block);
            }
        }
        Ok(())
    }

    /// Returns true if a future block has refcounts.
    fn is_in_use(&mut self, block: u64) -> Result<bool> {
        let (first, mut is_in_use) = (block * self.per_block(), false);
        let (added, removed) = (&self.added, &self.removed);
        self.space.for_counts(first..first + self.per_block(), |cluster, count| {
            is_in_use |= count.saturating_add(added.get(cluster)) > removed.get(cluster);
        })?;
        Ok(is_in_use)
    }

    /// Returns the number of clusters of the new refcount table.
    fn table_clusters(&self, blocks: &Blocks) -> Result<u64> {
        let per_cluster = self.cluster_size() / 8;
        let last = blocks.placed.last_key_value().map_or(0, |(&last, _)| last);
        let mut clusters = to_u64(self.old_table().len()).max(last + 1).div_ceil(per_cluster);
        // The blocks that describe the table's own clusters, and those that describe these blocks.
        let end = |clusters: u64| self.next + clusters + clusters / 32 + 16;
        while end(clusters).div_ceil(self.per_block()) > clusters * per_cluster {
            clusters += 1;
        }
        if clusters * self.cluster_size() > MAX_REFCOUNT_TABLE_BYTES.max(self.cluster_size()) {
            return Err(table_too_large());
        }
        Ok(clusters)
    }

    /// Returns the words of a future refcount block.
    fn new_block(&mut self, block: u64) -> Result<Vec<u64>> {
        let words = self.cluster_size() / 8;
        let old = self.old_table().get(to_usize(block)).copied().unwrap_or(0);
        let mut words = match old {
            0 => vec![0; to_usize(words)],
            offset => read_words(self.storage(), "refcount block", offset, words)?,
        };
        let (first, order, max) = (block * self.per_block(), self.order, self.max_count());
        let clusters = first..first + self.per_block();
        let (added, removed, writes_all) = (&self.added, &self.removed, self.writes_all());
        let mut wrong = None;
        self.space.for_counts(clusters, |cluster, old| {
            let (more, fewer) = (added.get(cluster), removed.get(cluster));
            if more == fewer && !writes_all {
                return;
            }
            let count = old.checked_add(more).and_then(|count| count.checked_sub(fewer));
            let Some(count) = count.filter(|&count| count <= max) else {
                wrong.get_or_insert(cluster);
                return;
            };
            let (word, bit) = refcount::position(cluster - first, order);
            words[word] = refcount::insert(words[word], order, bit, count);
        })?;
        match wrong {
            None => Ok(words),
            Some(cluster) => Err(Error::corrupt(
                "refcount block",
                "the refcount of a cluster is too low or too high",
            )
            .at(cluster << self.cluster_bits())),
        }
    }
}

fn table_too_large() -> Error {
    Error::limit("the image file would grow beyond what its refcounts can cover")
}

/// The refcount blocks that are written.
#[derive(Default)]
struct Blocks {
    /// Indexes of those without a place yet.
    queue: BTreeSet<u64>,
    /// The host offsets of the others.
    placed: BTreeMap<u64, u64>,
}

impl Blocks {
    fn add(&mut self, block: u64) {
        if !self.placed.contains_key(&block) {
            self.queue.insert(block);
        }
    }
}

/// The refcounts after the switch.
pub(super) struct NewCounts<'a, 'b> {
    shadow: &'a Shadow<'b>,
    table: &'a [u64],
    /// The block that was read last, and its index.
    block: Option<(u64, Vec<u64>)>,
}

impl<'a, 'b> NewCounts<'a, 'b> {
    pub(super) fn new(shadow: &'a Shadow<'b>, table: &'a [u64]) -> Self {
        Self { shadow, table, block: None }
    }

    /// Returns the words of a block, which are in memory afterwards.
    fn block(&mut self, index: u64) -> Result<&[u64]> {
        if self.block.as_ref().is_none_or(|block| block.0 != index) {
            let storage = self.shadow.storage();
            let mut bytes = vec![0; to_usize(self.shadow.cluster_size())];
            let offset = self.table.get(to_usize(index)).copied().unwrap_or(0);
            if offset != 0 {
                let len = storage.current_len().saturating_sub(offset).min(to_u64(bytes.len()));
                let read = storage.read_exact_at(&mut bytes[..to_usize(len)], offset);
                read.map_err(|e| Error::io("cannot read", e).in_structure("refcount block"))?;
            }
            let words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_be_bytes(*word));
            self.block = Some((index, words.collect()));
        }
        Ok(self.block.as_ref().map_or(&[], |block| &block.1))
    }

    pub(super) fn get(&mut self, cluster: u64) -> Result<u64> {
        let (order, per_block) = (self.shadow.order, self.shadow.per_block());
        let (word, bit) = refcount::position(cluster % per_block, order);
        Ok(refcount::extract(self.block(cluster / per_block)?[word], order, bit))
    }

    /// Returns the index of the cluster after the last one that is used.
    pub(super) fn end_of_used(&mut self) -> Result<u64> {
        let per_block = self.shadow.per_block();
        for block in (0..to_u64(self.table.len())).rev() {
            if self.table[to_usize(block)] == 0 || self.block(block)?.iter().all(|&w| w == 0) {
                continue;
            }
            for cluster in (block * per_block..(block + 1) * per_block).rev() {
                if self.get(cluster)? != 0 {
                    return Ok(cluster + 1);
                }
            }
        }
        Ok(0)
    }
}
