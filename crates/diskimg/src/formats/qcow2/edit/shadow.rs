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

mod refcounts;

use super::Qcow2Mut;
use super::references::{self, Tree};
use super::space::{Space, TRUNCATED, TableLocation};
use crate::error::{Error, Result};
use crate::formats::qcow2::header::RawHeader;
use crate::formats::qcow2::refcount;
use crate::formats::qcow2::use_counts::UseCounts;
use crate::storage::edit::{Edits, Storage};
use crate::storage::number::{to_u64, to_usize};
use refcounts::NewCounts;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;

/// Maximum number of free ranges in the file that are considered; what else is needed is allocated
/// at the end of the file.
const MAX_FREE_RANGES: usize = 1 << 16;

/// Length in bytes from which adjacent tables are written together.
const BATCH_BYTES: usize = 1 << 20;

/// Maximum length in bytes of what is made zero at once.
const MAX_ZERO_BYTES: u64 = 1 << 30;

/// New metadata of an image, which nothing refers to until the [switch](Self::switch).
#[derive(Debug)]
pub(super) struct Shadow<'a> {
    image: &'a Qcow2Mut,
    /// The refcounts of the image as it is, which are not changed.
    space: Space,
    /// Width of the future refcounts: `1 << order` bits.
    order: u32,
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
    /// Index of the cluster after the last one of the file, or of those that are used of a device,
    /// before anything was allocated.
    old_end: u64,
    /// Host offsets of what is made zero later.
    zeros: Range<u64>,
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
        Self::open_with_order(image, added, removed, image.header().refcount_order)
    }

    /// As [`open`](Self::open), for an image whose refcounts will be `1 << order` bits wide.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(super) fn open_with_order(
        image: &'a Qcow2Mut,
        added: Tree,
        removed: Tree,
        order: u32,
    ) -> Result<Self> {
        let mut space = Space::open(image)?;
        let mut trees = [added, removed];
        let old_order = image.header().refcount_order;
        // Wider refcounts help where a cluster is used more often than the old ones can say.
        let max = if order > old_order { refcount::mask(old_order) } else { u64::MAX };
        references::verify_and_count(image, &mut space, &mut trees, max)?;
        require_metadata_counts(&mut space)?;
        let [added, removed] = trees.map(Tree::into_counts);
        let next = space.end() >> image.header().cluster_bits;
        let mut shadow = Self {
            image,
            order,
            added,
            removed,
            free: VecDeque::new(),
            next,
            pending: Vec::new(),
            pending_at: 0,
            old_end: next,
            zeros: 0..0,
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

    /// Returns the number of refcounts in a future block.
    fn per_block(&self) -> u64 {
        refcount::per_block(self.cluster_size(), self.order)
    }

    /// Returns the number of refcounts in a block of the image as it is.
    fn old_per_block(&self) -> u64 {
        refcount::per_block(self.cluster_size(), self.image.header().refcount_order)
    }

    /// Returns true if all refcounts get another width.
    fn changes_width(&self) -> bool {
        self.order != self.image.header().refcount_order
    }

    /// Verifies that no refcount becomes too large, and finds the free clusters in the file.
    fn examine_counts(&mut self) -> Result<()> {
        let max = self.max_count();
        let (mut free, mut too_large): (VecDeque<Range<u64>>, _) = (VecDeque::new(), None);
        let (per_block, end, is_new_width) =
            (self.old_per_block(), self.next, self.changes_width());
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
            if more > 0 || is_new_width {
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
        match too_large {
            Some((cluster, count)) => Err(self.too_large(cluster, count)),
            None => Ok(()),
        }
    }

    fn too_large(&self, cluster: u64, count: u64) -> Error {
        let (at, bits, max) = (cluster << self.cluster_bits(), 1 << self.order, self.max_count());
        match self.changes_width() {
            true => Error::limit(format!(
                "Cannot decrease refcount entry width to {bits} bits: Cluster at offset {at:#x} has \
                 a refcount of {count}"
            )),
            false => Error::limit(format!(
                "the cluster at {at:#x} would be used {count} times, but refcounts of {bits} bits \
                 are at most {max}"
            ))
            .hint("delete snapshots, or amend it to more refcount_bits"),
        }
    }

    /// Returns the largest future refcount.
    fn max_count(&self) -> u64 {
        refcount::mask(self.order)
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

    /// Returns the refcount of the cluster at a host offset in the image as it is.
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) if reading fails.
    pub(super) fn old_count_at(&mut self, offset: u64) -> Result<u64> {
        self.space.count_at(offset)
    }

    /// Returns the number of L1 entries, of the disk and of snapshots, that refer to the L2 table at
    /// a host offset in the image as it is.
    pub(super) fn l2_uses(&self, offset: u64) -> u64 {
        let metadata = self.space.metadata();
        let found = metadata.l2_tables().binary_search(&offset);
        found.ok().and_then(|index| metadata.l2_uses().get(index)).map_or(0, |uses| uses.count)
    }

    /// Returns the host offsets of all L2 tables, of the disk and of snapshots.
    pub(super) fn l2_tables(&self) -> &[u64] {
        self.space.metadata().l2_tables()
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

    /// Returns true if no refcount changes.
    fn is_unchanged(&self) -> bool {
        let clusters = self.next;
        let has_none = |counts| next_counted(counts, 0, clusters).is_none();
        !self.changes_width()
            && !self.moves_blocks
            && has_none(&self.added)
            && has_none(&self.removed)
    }

    /// Makes the cluster at a host offset zero. It is an allocated one, or one that is not read in the
    /// image as it is.
    pub(super) fn zero(&mut self, offset: u64) -> Result<()> {
        let size = self.cluster_size();
        // What the file is extended by is zero.
        if offset >= self.old_end << self.cluster_bits() && !self.storage().has_fixed_len() {
            return Ok(());
        }
        if self.zeros.end != offset || self.zeros.end - self.zeros.start >= MAX_ZERO_BYTES {
            self.write_zeros()?;
            self.zeros = offset..offset;
        }
        self.zeros.end = offset + size;
        Ok(())
    }

    fn write_zeros(&mut self) -> Result<()> {
        let zeros = std::mem::take(&mut self.zeros);
        let len = zeros.end - zeros.start;
        match len {
            0 => Ok(()),
            _ => self.storage().write_zeros_at(zeros.start, len).map_err(cannot_modify),
        }
    }

    fn write_pending(&mut self) -> Result<()> {
        let written = self.storage().write_all_at(&self.pending, self.pending_at);
        self.pending_at += to_u64(self.pending.len());
        self.pending.clear();
        written.map_err(cannot_modify)
    }

    /// Allocates and writes a table of whole clusters. Returns its host offset, 0 for an empty one.
    pub(super) fn store(&mut self, mut bytes: Vec<u8>) -> Result<u64> {
        let size = self.cluster_size();
        if bytes.is_empty() {
            return Ok(0);
        }
        bytes.resize(bytes.len().next_multiple_of(to_usize(size)), 0);
        let offset = self.allocate(to_u64(bytes.len()) / size)?;
        self.write(offset, &bytes)?;
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
        let image = self.image;
        self.switch_with(|location| {
            let edit = image.change_header(|raw| {
                raw.refcount_table_offset = location.offset.into();
                raw.refcount_table_clusters = location.len.into();
                change(raw);
            })?;
            let mut edits = Edits::new();
            edits.phase([edit]);
            Ok(edits)
        })
    }

    /// As [`switch`](Self::switch), with the modifications that `header` returns for a refcount table
    /// at a location. One of them makes what is new effective.
    ///
    /// # Errors
    /// As [`switch`](Self::switch), and those of `header`.
    pub(super) fn switch_with(
        mut self,
        header: impl FnOnce(TableLocation) -> Result<Edits>,
    ) -> Result<()> {
        if self.is_unchanged() {
            // Not even the refcount table moves.
            let edits = header(self.space.table_location())?;
            return edits.apply(self.storage()).map_err(cannot_modify);
        }
        let (table, location) = self.store_refcounts()?;
        self.write_zeros()?;
        self.write_pending()?;
        let storage = self.storage();
        let end = self.next << self.cluster_bits();
        if !storage.has_fixed_len() && end > storage.current_len() {
            storage.set_len(end).map_err(cannot_modify)?;
        }
        let edits = header(location)?;
        storage.barrier().map_err(cannot_modify)?;
        self.is_switched = true;
        edits.apply(storage).map_err(cannot_modify)?;
        self.deallocate(&table)
    }

    /// Shortens the file to the clusters that are used, and deallocates those before that.
    fn deallocate(&self, table: &[u64]) -> Result<()> {
        let (storage, bits) = (self.storage(), self.cluster_bits());
        let mut counts = NewCounts::new(self, table);
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
        while let Some(cluster) = next_counted(&self.removed, at, end >> bits) {
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
