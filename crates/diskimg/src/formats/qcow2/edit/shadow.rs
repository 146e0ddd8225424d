//! Shadow metadata: everything that changes is written to free clusters, also the refcounts, and
//! takes effect with one write of the header's first sector.
//!
//! ```text
//!   written                                             then
//!   new tables, refcount blocks and refcount table,     nothing refers to them: their old
//!     in clusters with refcount 0                         refcount is 0, so the image is clean
//!   the header's first sector                           the image is clean: the new refcounts
//!                                                         do not count the old tables
//!   old tables are deallocated, the file is cut         nothing refers to them
//! ```
//!
//! Before anything is written, all references are counted ([`references`]), so that a cluster with
//! refcount 0 is known to be free, and refcounts that would become too large are found. What is new
//! is then written part by part: memory is needed for counts, two bytes per cluster that is used,
//! and not for tables.

use super::Qcow2Mut;
use super::references::{self, Tree};
use super::space::{Space, TRUNCATED, TableLocation};
use crate::error::{Error, Result};
use crate::formats::qcow2::header::{MAX_REFCOUNT_TABLE_BYTES, RawHeader};
use crate::formats::qcow2::refcount;
use crate::formats::qcow2::tables::{read_words, to_bytes};
use crate::formats::qcow2::use_counts::UseCounts;
use crate::storage::edit::{Edits, Storage};
use crate::storage::number::{to_u32, to_u64, to_usize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::ops::Range;

/// Maximum number of free ranges in the file that are considered; what else is needed is allocated
/// at the end of the file.
const MAX_FREE_RANGES: usize = 1 << 16;

/// Length in bytes from which adjacent tables are written together.
const BATCH_BYTES: usize = 1 << 20;

/// New metadata of an image, which nothing refers to until the [switch](Self::switch).
#[derive(Debug)]
pub(super) struct Shadow<'a> {
    image: &'a Qcow2Mut,
    /// The refcounts of the image as it is, which are not changed.
    space: Space,
    /// References that are added to each cluster.
    added: UseCounts,
    /// References that are removed from each cluster.
    removed: UseCounts,
    /// Free clusters in the file.
    free: VecDeque<Range<u64>>,
    /// Index of the next cluster at the end of the file, or of the used clusters of a device.
    next: u64,
    /// Adjacent writes that were not made yet.
    pending: Vec<u8>,
    /// Host offset of the first of them.
    pending_at: u64,
    /// What was allocated in the file.
    taken: Vec<Range<u64>>,
    /// All refcount blocks are written again.
    moves_blocks: bool,
    /// The header may refer to what is new.
    is_switched: bool,
}

impl<'a> Shadow<'a> {
    /// Verifies the image, and counts the references of two L1 tables, one of which are added, and
    /// one of which are removed.
    ///
    /// # Errors
    /// As [`Space::open`] and [`references::verify`]; [`Corrupt`](crate::ErrorKind::Corrupt) if the
    /// refcount of metadata is 0, and [`Limit`](crate::ErrorKind::Limit) if a refcount would be
    /// larger than it can be.
    pub(super) fn open(image: &'a Qcow2Mut, added: Tree, removed: Tree) -> Result<Self> {
        let mut space = Space::open(image)?;
        let mut trees = [added, removed];
        references::verify_and_count(image, &mut space, &mut trees)?;
        require_metadata_counts(&mut space)?;
        let [added, removed] = trees.map(Tree::into_counts);
        let next = space.end() >> image.header().cluster_bits;
        let mut shadow = Self {
            image,
            added,
            removed,
            free: VecDeque::new(),
            next,
            pending: Vec::new(),
            pending_at: 0,
            taken: Vec::new(),
            moves_blocks: false,
            is_switched: false,
            space,
        };
        shadow.examine_counts()?;
        Ok(shadow)
    }

    fn storage(&self) -> &'a dyn Storage {
        &*self.image.storage
    }

    fn cluster_bits(&self) -> u32 {
        self.image.header().cluster_bits
    }

    pub(super) fn cluster_size(&self) -> u64 {
        self.image.header().cluster_size()
    }

    /// Returns the number of refcounts in a block.
    fn per_block(&self) -> u64 {
        refcount::per_block(self.cluster_size(), self.image.header().refcount_order)
    }

    /// Verifies that no refcount becomes too large, and finds the free clusters in the file.
    fn examine_counts(&mut self) -> Result<()> {
        let max = refcount::mask(self.image.header().refcount_order);
        let (mut free, mut too_large): (VecDeque<Range<u64>>, _) = (VecDeque::new(), None);
        let (per_block, end) = (self.per_block(), self.next);
        let (added, removed) = (&self.added, &self.removed);
        let mut each = |cluster, count: u64| {
            if count == 0 {
                let is_full = free.len() == MAX_FREE_RANGES;
                match free.back_mut() {
                    Some(last) if last.end == cluster => last.end += 1,
                    _ if is_full => {}
                    _ => free.push_back(cluster..cluster + 1),
                }
                return;
            }
            let more = added.get(cluster);
            if more > 0 {
                let count = count.saturating_add(more).saturating_sub(removed.get(cluster));
                if count > max {
                    too_large.get_or_insert((cluster, count));
                }
            }
        };
        let mut beyond = None;
        for block in 0..to_u64(self.space.table().len()) {
            let first = block * per_block;
            // A free cluster without a block would need one.
            if self.space.has_block(first) {
                let middle = end.clamp(first, first + per_block);
                self.space.for_counts(first..middle, &mut each)?;
                self.space.for_counts(middle..first + per_block, |cluster, count| {
                    if count > 0 {
                        beyond.get_or_insert(cluster);
                    }
                })?;
            }
        }
        self.free = free;
        if let Some(cluster) = beyond {
            return Err(self.in_use_beyond_end(cluster));
        }
        let Some((cluster, count)) = too_large else { return Ok(()) };
        Err(Error::limit(format!(
            "the cluster at {:#x} would be used {count} times, but refcounts of {} bits are at most \
             {max}",
            cluster << self.cluster_bits(),
            self.image.header().refcount_bits(),
        ))
        .hint("delete snapshots, or convert it to an image with more refcount_bits"))
    }

    /// Returns the future refcount of a cluster.
    fn count(&mut self, cluster: u64) -> Result<u64> {
        let old = self.space.count_at(cluster << self.cluster_bits())?;
        let new = old.saturating_add(self.added.get(cluster));
        Ok(new.saturating_sub(self.removed.get(cluster)))
    }

    /// Returns the future refcount of the cluster at a host offset.
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) if reading fails.
    pub(super) fn count_at(&mut self, offset: u64) -> Result<u64> {
        self.count(offset >> self.cluster_bits())
    }

    /// Adds references to the cluster at a host offset.
    pub(super) fn retain(&mut self, offset: u64, times: u64) -> Result<()> {
        self.added.add(offset >> self.cluster_bits(), times, u64::MAX).map(drop)
    }

    /// Removes references to the clusters that `len` bytes at a host offset touch.
    pub(super) fn release(&mut self, offset: u64, len: u64, times: u64) -> Result<()> {
        let bits = self.cluster_bits();
        for cluster in offset >> bits..(offset + len).div_ceil(self.cluster_size()) {
            self.removed.add(cluster, times, u64::MAX)?;
        }
        Ok(())
    }

    /// Allocates clusters that are adjacent and free now, with refcount 1. Returns the host offset
    /// of the first.
    ///
    /// # Errors
    /// - [`Io`](crate::ErrorKind::Io) if the image is on a device without enough adjacent free
    ///   clusters, or if reading fails;
    /// - [`Corrupt`](crate::ErrorKind::Corrupt) if a cluster beyond the end of the file is in use.
    pub(super) fn allocate(&mut self, clusters: u64) -> Result<u64> {
        let fits = |run: &Range<u64>| run.end - run.start >= clusters;
        let run = match self.free.iter().position(fits) {
            Some(index) => {
                let run = &mut self.free[index];
                let start = run.start;
                run.start += clusters;
                if run.is_empty() {
                    self.free.remove(index);
                }
                start..start + clusters
            }
            None => self.extend(clusters)?,
        };
        for cluster in run.clone() {
            self.added.add(cluster, 1, u64::MAX)?;
        }
        match self.taken.last_mut() {
            Some(last) if last.end == run.start => last.end = run.end,
            _ => self.taken.push(run.clone()),
        }
        Ok(run.start << self.cluster_bits())
    }

    /// Returns clusters at the end of the file, or of the used clusters of a device.
    fn extend(&mut self, clusters: u64) -> Result<Range<u64>> {
        let bits = self.cluster_bits();
        let run = self.next..self.next + clusters;
        let storage = self.storage();
        if storage.has_fixed_len() && run.end > storage.current_len() >> bits {
            return Err(self.space.full(clusters));
        }
        for cluster in run.clone() {
            if self.space.count_at(cluster << bits)? != 0 {
                return Err(self.in_use_beyond_end(cluster));
            }
        }
        self.next = run.end;
        Ok(run)
    }

    fn in_use_beyond_end(&self, cluster: u64) -> Error {
        let message = "a cluster beyond the end of the file is in use";
        let at = cluster << self.cluster_bits();
        Error::corrupt("refcount block", message).at(at).hint(TRUNCATED)
    }

    /// Writes bytes to allocated clusters.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        if self.pending_at + to_u64(self.pending.len()) != offset {
            self.write_pending()?;
            self.pending_at = offset;
        }
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= BATCH_BYTES {
            self.write_pending()?;
        }
        Ok(())
    }

    fn write_pending(&mut self) -> Result<()> {
        let written = self.storage().write_all_at(&self.pending, self.pending_at);
        self.pending_at += to_u64(self.pending.len());
        self.pending.clear();
        written.map_err(cannot_modify)
    }

    /// Allocates and writes a table of whole clusters. Returns its host offset, 0 for an empty one.
    pub(super) fn store(&mut self, bytes: &[u8]) -> Result<u64> {
        let size = self.cluster_size();
        if bytes.is_empty() {
            return Ok(0);
        }
        let len = to_u64(bytes.len()).next_multiple_of(size);
        let offset = self.allocate(len / size)?;
        self.write(offset, bytes)?;
        let padding = len - to_u64(bytes.len());
        self.write(offset + to_u64(bytes.len()), &vec![0; to_usize(padding)])?;
        Ok(offset)
    }

    /// Writes all refcount blocks to other clusters, not only those that change, except those without
    /// refcounts.
    pub(super) fn move_blocks(&mut self) {
        self.moves_blocks = true;
    }

    /// Writes the refcounts and makes everything durable, changes fields of the header, which makes
    /// it effective, and deallocates what is no longer used.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate), and [`Limit`](crate::ErrorKind::Limit) if the refcount table
    /// would become larger than QEMU accepts.
    pub(super) fn switch(self, change: impl FnOnce(&mut RawHeader)) -> Result<()> {
        self.switch_by(|image, set_location| {
            let mut edits = Edits::new();
            edits.phase([image.change_header(|raw| {
                set_location(raw);
                change(raw);
            })?]);
            Ok(edits)
        })
    }

    /// As [`switch`](Self::switch), with all that `edits` returns: modifications of the header's
    /// cluster, of which one write of sector 0 makes everything effective. It gets a function that
    /// sets the location of the new refcount table.
    ///
    /// # Errors
    /// As [`switch`](Self::switch), and the errors of `edits`.
    pub(super) fn switch_by(
        mut self,
        edits: impl FnOnce(&Qcow2Mut, &dyn Fn(&mut RawHeader)) -> Result<Edits>,
    ) -> Result<()> {
        let (table, location) = self.store_refcounts()?;
        self.write_pending()?;
        let storage = self.storage();
        let end = self.next << self.cluster_bits();
        if !storage.has_fixed_len() && end > storage.current_len() {
            storage.set_len(end).map_err(cannot_modify)?;
        }
        let edits = edits(self.image, &|raw| {
            raw.refcount_table_offset = location.offset.into();
            raw.refcount_table_clusters = location.len.into();
        })?;
        storage.barrier().map_err(cannot_modify)?;
        self.is_switched = true;
        edits.apply(storage).map_err(cannot_modify)?;
        self.deallocate(&table)
    }

    /// Writes the changed refcount blocks and the refcount table. Returns the table and where it is.
    fn store_refcounts(&mut self) -> Result<(Vec<u64>, TableLocation)> {
        let mut blocks = Blocks { queue: self.changed_blocks(), ..Blocks::default() };
        if self.moves_blocks {
            let table = self.space.table().iter().zip(0..);
            blocks.queue.extend(table.filter(|(offset, _)| **offset != 0).map(|(_, block)| block));
        }
        self.place_blocks(&mut blocks)?;
        let old = self.space.table_location();
        let clusters = self.table_clusters(&blocks)?;
        let offset = self.allocate(clusters)?;
        let old_bytes = u64::from(old.len) * self.cluster_size();
        self.release(old.offset, old_bytes, 1)?;
        for (start, bytes) in [(offset, clusters * self.cluster_size()), (old.offset, old_bytes)] {
            let bits = self.cluster_bits();
            for cluster in start >> bits..(start + bytes) >> bits {
                blocks.add(cluster / self.per_block());
            }
        }
        self.place_blocks(&mut blocks)?;
        let mut table = self.space.table().to_vec();
        let entries = to_usize(clusters * self.cluster_size() / 8);
        if blocks.placed.last_key_value().is_some_and(|(&last, _)| to_usize(last) >= entries) {
            return Err(Error::limit("the new refcount table does not fit into its clusters"));
        }
        table.resize(entries, 0);
        blocks.unused.iter().for_each(|&block| table[to_usize(block)] = 0);
        for (&block, &offset) in &blocks.placed {
            let words = self.new_block(block)?;
            self.write(offset, &to_bytes(&words))?;
            table[to_usize(block)] = offset;
        }
        self.write(offset, &to_bytes(&table))?;
        Ok((table, TableLocation { offset, len: to_u32(clusters) }))
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
            let old = self.space.table().get(to_usize(block)).copied().unwrap_or(0);
            let is_unused = self.moves_blocks && self.is_unused(block)?;
            let was_released = match is_unused {
                true => !blocks.unused.insert(block),
                false => blocks.unused.remove(&block),
            };
            if !is_unused {
                let offset = self.allocate(1)?;
                blocks.placed.insert(block, offset);
                blocks.add((offset >> bits) / per_block);
            }
            if old != 0 && !was_released {
                self.release(old, self.cluster_size(), 1)?;
                blocks.add((old >> bits) / per_block);
            }
        }
        Ok(())
    }

    /// Returns true if a block has no refcounts, and will have none.
    fn is_unused(&mut self, block: u64) -> Result<bool> {
        let (first, mut is_unused) = (block * self.per_block(), true);
        let (added, clusters) = (&self.added, first..first + self.per_block());
        self.space.for_counts(clusters, |cluster, count| {
            is_unused &= count == 0 && added.get(cluster) == 0;
        })?;
        Ok(is_unused)
    }

    /// Returns the number of clusters of the new refcount table.
    fn table_clusters(&self, blocks: &Blocks) -> Result<u64> {
        let per_cluster = self.cluster_size() / 8;
        let last = blocks.placed.last_key_value().map_or(0, |(&last, _)| last);
        let mut clusters = to_u64(self.space.table().len()).max(last + 1).div_ceil(per_cluster);
        // The blocks that describe the table's own clusters, and those that describe these blocks.
        let end = |clusters: u64| self.next + clusters + clusters / 32 + 16;
        while end(clusters).div_ceil(self.per_block()) > clusters * per_cluster {
            clusters += 1;
        }
        if clusters * self.cluster_size() > MAX_REFCOUNT_TABLE_BYTES.max(self.cluster_size()) {
            return Err(Error::limit(
                "the image file would grow beyond what its refcounts can cover",
            ));
        }
        Ok(clusters)
    }

    /// Returns the words of a refcount block with all changes.
    fn new_block(&self, block: u64) -> Result<Vec<u64>> {
        let words = self.cluster_size() / 8;
        let old = self.space.table().get(to_usize(block)).copied().unwrap_or(0);
        let mut words = match old {
            0 => vec![0; to_usize(words)],
            offset => read_words(self.storage(), "refcount block", offset, words)?,
        };
        let order = self.image.header().refcount_order;
        let first = block * self.per_block();
        for cluster in first..first + self.per_block() {
            let (added, removed) = (self.added.get(cluster), self.removed.get(cluster));
            if added == removed {
                continue;
            }
            let (word, bit) = refcount::position(cluster - first, order);
            let count = refcount::extract(words[word], order, bit);
            let count = count.checked_add(added).and_then(|count| count.checked_sub(removed));
            let count = count.filter(|&count| count <= refcount::mask(order)).ok_or_else(|| {
                Error::corrupt("refcount block", "the refcount of a cluster is too low or too high")
                    .at(cluster << self.cluster_bits())
            })?;
            words[word] = refcount::insert(words[word], order, bit, count);
        }
        Ok(words)
    }

    /// Shortens the file to the clusters that are used, and deallocates those before that.
    fn deallocate(&mut self, table: &[u64]) -> Result<()> {
        let (storage, bits) = (self.storage(), self.cluster_bits());
        let mut counts = NewCounts { shadow: self, table, block: None };
        let mut end = storage.current_len();
        if !storage.has_fixed_len() {
            let used = counts.end_of_used()? << bits;
            if used < end {
                storage.set_len(used).map_err(cannot_modify)?;
                end = used;
            }
        }
        let mut run = 0..0;
        let mut at = 0;
        while let Some(cluster) = next_counted(&counts.shadow.removed, at, end >> bits) {
            at = cluster + 1;
            if counts.get(cluster)? != 0 {
                continue;
            }
            if run.end != cluster {
                discard(storage, &run, bits)?;
                run = cluster..cluster;
            }
            run.end = cluster + 1;
        }
        discard(storage, &run, bits)?;
        storage.barrier().map_err(cannot_modify)
    }
}

impl Drop for Shadow<'_> {
    /// After a failure, frees the space that was written. Errors are ignored.
    fn drop(&mut self) {
        if self.is_switched || self.taken.is_empty() {
            return;
        }
        let storage = self.storage();
        if !storage.has_fixed_len() && storage.current_len() > storage.len() {
            let _ = storage.set_len(storage.len());
        }
        let end = storage.current_len() >> self.cluster_bits();
        for run in &self.taken {
            let _ = discard(storage, &(run.start..run.end.min(end)), self.cluster_bits());
        }
    }
}

/// The refcount blocks that are written.
#[derive(Default)]
struct Blocks {
    /// Indexes of those without a place yet.
    queue: BTreeSet<u64>,
    /// The host offsets of the others.
    placed: BTreeMap<u64, u64>,
    /// Indexes of blocks without refcounts, which are left out.
    unused: BTreeSet<u64>,
}

impl Blocks {
    fn add(&mut self, block: u64) {
        if !self.placed.contains_key(&block) {
            self.queue.insert(block);
        }
    }
}

/// The refcounts after the switch.
struct NewCounts<'a, 'b> {
    shadow: &'a Shadow<'b>,
    table: &'a [u64],
    /// The block that was read last, and its index.
    block: Option<(u64, Vec<u64>)>,
}

impl NewCounts<'_, '_> {
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

    fn get(&mut self, cluster: u64) -> Result<u64> {
        let (order, per_block) =
            (self.shadow.image.header().refcount_order, self.shadow.per_block());
        let (word, bit) = refcount::position(cluster % per_block, order);
        Ok(refcount::extract(self.block(cluster / per_block)?[word], order, bit))
    }

    /// Returns the index of the cluster after the last one that is used.
    fn end_of_used(&mut self) -> Result<u64> {
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

/// Verifies that all metadata has a refcount, so that clusters without one are free.
fn require_metadata_counts(space: &mut Space) -> Result<()> {
    let clusters: Vec<_> = space.metadata().clusters_without_l2().collect();
    for (offset, name) in clusters {
        if space.count_at(offset)? == 0 {
            return Err(Error::corrupt(name, "its refcount is 0")
                .at(offset)
                .hint("repair the image first, for example with qemu-img"));
        }
    }
    Ok(())
}

/// Returns the first cluster from `at` on with a count.
fn next_counted(counts: &UseCounts, at: u64, end: u64) -> Option<u64> {
    let mut cluster = counts.next_counted(at, end);
    while cluster < end && counts.get(cluster) == 0 {
        cluster = counts.next_counted(cluster + 1, end);
    }
    (cluster < end).then_some(cluster)
}

/// Deallocates clusters.
fn discard(storage: &dyn Storage, clusters: &Range<u64>, bits: u32) -> Result<()> {
    if clusters.is_empty() {
        return Ok(());
    }
    let len = (clusters.end - clusters.start) << bits;
    storage.discard_at(clusters.start << bits, len).map_err(cannot_modify)
}

fn cannot_modify(error: io::Error) -> Error {
    Error::io("cannot modify the image", error)
}
