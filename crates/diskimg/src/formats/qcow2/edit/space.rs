//! Host clusters of an image that is modified in place: allocation, and refcounts.
//!
//! Clusters are allocated beyond the end of the file, where nothing can be overwritten even if the
//! refcounts are wrong; what is freed becomes a hole, which takes no space. On a device, clusters
//! are allocated beyond the last one with a refcount, and where the device ends, free clusters
//! before that are used. That they are free is known from the refcounts alone, but those of
//! [metadata](Metadata) are never used.
//!
//! Refcounts take at most 9 MiB of memory, 1 MiB of them for those that are unchanged, if the caller
//! stores them whenever they [should be](Space::should_be_stored).

mod trim;

use super::Qcow2Mut;
use super::metadata::Metadata;
use super::pages::Pages;
use crate::error::{Error, Result};
use crate::formats::qcow2::header::{Header, MAX_REFCOUNT_TABLE_BYTES};
use crate::formats::qcow2::refcount::{self, OFFSET_MASK};
use crate::formats::qcow2::tables::{read_words, to_bytes};
use crate::remedy::Remedy;
use crate::storage::edit::{Edit, Storage};
use crate::storage::number::{to_u32, to_u64, to_usize};
use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Hint for offsets beyond the end of the file.
pub(super) const TRUNCATED: &str = "the file may be truncated; check the image first";

/// Location of a table, as the header records it: host offset, and length (of an L1 table in
/// entries, of the refcount table in clusters).
#[derive(Debug, Clone, Copy)]
pub(super) struct TableLocation {
    pub(super) offset: u64,
    pub(super) len: u32,
}

impl TableLocation {
    /// Returns where the header says that the L1 table is.
    pub(super) fn of_l1(header: &Header) -> Self {
        Self { offset: header.l1.offset, len: to_u32(header.l1.entries) }
    }
}

/// Modifications of refcounts, by the phase in which they are made.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// New refcount blocks and a new refcount table, which nothing refers to yet.
    pub(super) new_tables: Vec<Edit>,
    /// Changed refcounts in existing blocks.
    pub(super) counts: Vec<Edit>,
}

/// The refcounts of an image, and what changes in them.
#[derive(Debug)]
pub(super) struct Space {
    storage: Arc<dyn Storage>,
    /// Where the metadata was when the image was opened.
    metadata: Metadata,
    cluster_bits: u32,
    refcount_order: u32,
    /// The refcount table, with the entries of new blocks.
    table: Vec<u64>,
    /// Where the table is stored or will be stored.
    location: TableLocation,
    /// Indexes of blocks that are not stored yet.
    new_blocks: BTreeSet<u64>,
    /// The table has entries of new blocks, which are not stored yet.
    has_new_entries: bool,
    pages: Pages,
    /// Index of the next cluster to be allocated at the end of the file or of the used clusters.
    next: u64,
    /// The search for free clusters before that, on a device that is full.
    free: FreeClusters,
}

/// The search for free clusters.
#[derive(Debug, Default)]
struct FreeClusters {
    /// Index of the cluster at which the search for a single cluster continues.
    from: u64,
    /// Lowest index of the clusters that were freed since the search began.
    freed: Option<u64>,
    /// Index of the cluster at which the search ends: where the used clusters ended when the image
    /// was opened.
    end: u64,
}

impl Space {
    /// Reads the refcount table and finds the metadata.
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) if reading fails, and
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if an entry of the table is invalid, or as
    /// [`Metadata::find`].
    pub(super) fn open(image: &Qcow2Mut) -> Result<Self> {
        let (storage, header) = (Arc::clone(&image.storage), image.header());
        let stored = header.refcount_table;
        let file_end = header.padded(storage.current_len());
        let end = stored.offset.checked_add(stored.bytes());
        if end.is_none_or(|end| end > file_end) {
            return Err(Error::corrupt("refcount table", "it extends beyond the end of the file")
                .at(stored.offset));
        }
        let mut table = read_words(&*storage, "refcount table", stored.offset, stored.entries)?;
        table.iter_mut().for_each(|entry| *entry &= OFFSET_MASK);
        require_valid(&table, header.cluster_size(), file_end)?;
        let clusters = to_u32(stored.bytes() >> header.cluster_bits);
        let mut space = Self {
            metadata: Metadata::find(image, &table)?,
            cluster_bits: header.cluster_bits,
            refcount_order: header.refcount_order,
            table,
            location: TableLocation { offset: stored.offset, len: clusters },
            new_blocks: BTreeSet::new(),
            has_new_entries: false,
            pages: Pages::new(header.cluster_size()),
            next: 0,
            free: FreeClusters::default(),
            storage,
        };
        space.next = match space.storage.has_fixed_len() {
            true => space.end_of_used()?,
            false => space.storage.current_len().div_ceil(space.cluster_size()),
        };
        space.free.end = space.next;
        Ok(space)
    }

    /// Returns where the metadata was when the image was opened.
    pub(super) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Returns the cluster size in bytes.
    pub(super) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Returns the number of refcounts in a block.
    fn per_block(&self) -> u64 {
        refcount::per_block(self.cluster_size(), self.refcount_order)
    }

    /// Returns the number of refcounts in a page of a block.
    fn per_page(&self) -> u64 {
        refcount::per_block(self.pages.page_bytes(), self.refcount_order)
    }

    /// Returns the host offset of the end of the allocated clusters.
    pub(super) fn end(&self) -> u64 {
        self.next << self.cluster_bits
    }

    /// Returns where the refcount table will be.
    pub(super) fn table_location(&self) -> TableLocation {
        self.location
    }

    /// Returns the host offsets of the refcount blocks, 0 where there is none.
    pub(super) fn table(&self) -> &[u64] {
        &self.table
    }

    /// Returns true if a block describes a cluster.
    pub(super) fn has_block(&self, cluster: u64) -> bool {
        let entry = self.table.get(to_usize(cluster / self.per_block()));
        entry.is_some_and(|&offset| offset != 0)
    }

    /// Returns the index of the cluster after the last one with a refcount.
    fn end_of_used(&mut self) -> Result<u64> {
        for index in (0..to_u64(self.table.len())).rev() {
            let first = index * self.per_block();
            if !self.has_block(first) {
                continue;
            }
            for cluster in (first..first + self.per_block()).rev() {
                if self.count(cluster)? != 0 {
                    return Ok(cluster + 1);
                }
            }
        }
        Ok(0)
    }

    /// Allocates `clusters` adjacent clusters with refcount 1. Returns the host offset of the
    /// first.
    ///
    /// # Errors
    /// - [`Io`](crate::ErrorKind::Io) if the image is on a device without enough adjacent free
    ///   clusters, or if reading fails;
    /// - [`Limit`](crate::ErrorKind::Limit) if the refcount table would become larger than QEMU
    ///   accepts;
    /// - [`Corrupt`](crate::ErrorKind::Corrupt) if a cluster beyond the end of the file is in use.
    pub(super) fn allocate(&mut self, clusters: u64) -> Result<u64> {
        Ok(self.allocate_between(clusters, clusters)?.0)
    }

    /// Allocates 1 to `max` adjacent clusters with refcount 1. Returns the host offset of the first
    /// and their number.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate).
    pub(super) fn allocate_some(&mut self, max: u64) -> Result<(u64, u64)> {
        self.allocate_between(1, max)
    }

    fn allocate_between(&mut self, min: u64, max: u64) -> Result<(u64, u64)> {
        let clusters = self.reserve(min, max)?;
        for cluster in clusters.clone() {
            self.set(cluster, 1)?;
        }
        Ok((clusters.start << self.cluster_bits, clusters.end - clusters.start))
    }

    /// Reserves `min` to `max` adjacent clusters with refcount 0.
    fn reserve(&mut self, min: u64, max: u64) -> Result<Range<u64>> {
        let room = match self.storage.has_fixed_len() {
            true => (self.storage.current_len() >> self.cluster_bits).saturating_sub(self.next),
            false => max,
        };
        if room < min {
            return self.find_free(min, max)?.ok_or_else(|| self.full(min));
        }
        let clusters = self.next..self.next + room.min(max);
        for cluster in clusters.clone() {
            if self.count(cluster)? != 0 {
                // Extending the file over it would make lost data read as zeros.
                return Err(Error::corrupt(
                    "refcount block",
                    "a cluster beyond the end of the file is in use",
                )
                .at(cluster << self.cluster_bits)
                .hint(TRUNCATED));
            }
        }
        self.next = clusters.end;
        Ok(clusters)
    }

    /// Returns the error for a device without enough adjacent free clusters.
    pub(super) fn full(&self, clusters: u64) -> Error {
        let size = self.cluster_size();
        let needed = match clusters {
            1 => format!("a free cluster of {size} bytes"),
            many => format!("{many} adjacent free clusters of {size} bytes"),
        };
        let full = io::Error::from(io::ErrorKind::StorageFull);
        Error::io(format!("the device does not have {needed}"), full)
            .hint("make the device larger, or write a new image to a larger one")
    }

    /// Searches for `min` to `max` adjacent free clusters among those that were before the end of
    /// the used ones when the image was opened.
    fn find_free(&mut self, min: u64, max: u64) -> Result<Option<Range<u64>>> {
        loop {
            // Tables of several clusters are rare, and may fit where the search has passed.
            let from = if min == 1 { self.free.from } else { 0 };
            let found = self.first_run(from..self.free.end, min, max)?;
            if min == 1 {
                self.free.from = found.as_ref().map_or(self.free.end, |run| run.end);
            }
            match self.free.freed.take() {
                Some(freed) if found.is_none() && min == 1 => self.free.from = freed,
                freed => {
                    self.free.freed = freed;
                    return Ok(found);
                }
            }
        }
    }

    /// Returns the first free clusters of a range: the first `max` of the first run of at least
    /// `min`.
    fn first_run(&mut self, range: Range<u64>, min: u64, max: u64) -> Result<Option<Range<u64>>> {
        let mut run = range.start..range.start;
        while run.end < range.end && run.end - run.start < max {
            let cluster = run.end;
            // A block that does not exist would take a cluster itself.
            let has_block = self.has_block(cluster);
            if has_block && self.is_free(cluster)? {
                run.end += 1;
            } else if run.end - run.start >= min {
                break;
            } else {
                let next = match has_block {
                    true => cluster + 1,
                    false => (cluster / self.per_block() + 1) * self.per_block(),
                };
                run = next..next;
            }
        }
        Ok((run.end - run.start >= min).then_some(run))
    }

    fn is_free(&mut self, cluster: u64) -> Result<bool> {
        let offset = cluster << self.cluster_bits;
        let range = offset..offset + self.cluster_size();
        Ok(self.count(cluster)? == 0 && self.metadata.name_at(&range).is_none())
    }

    /// Decrements the refcounts of all clusters that `len` bytes at `offset` touch, and calls `freed`
    /// with the host offsets of those that are not used any more.
    ///
    /// They may be allocated again, so that nothing that is durable may refer to them, unless
    /// nothing is allocated later.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if a refcount is 0 already, and the errors of
    /// [`allocate`](Self::allocate).
    pub(super) fn release(
        &mut self,
        offset: u64,
        len: u64,
        mut freed: impl FnMut(u64),
    ) -> Result<()> {
        for cluster in self.clusters(offset, len) {
            let count = self.count(cluster)?.checked_sub(1).ok_or_else(|| self.too_low(cluster))?;
            self.set(cluster, count)?;
            if count == 0 {
                freed(cluster << self.cluster_bits);
                let first = self.free.freed.map_or(cluster, |first| first.min(cluster));
                self.free.freed = Some(first).filter(|&first| first < self.free.end);
            }
        }
        Ok(())
    }

    /// Verifies that every cluster of sorted ranges has a refcount that is not smaller than the
    /// number of ranges that touch it, so that they can be [released](Self::release).
    ///
    /// # Errors
    /// As [`release`](Self::release).
    pub(super) fn require_counts(&mut self, ranges: &[Range<u64>]) -> Result<()> {
        let mut last = (0, 0);
        for range in ranges {
            for cluster in self.clusters(range.start, range.end - range.start) {
                last = if last.0 == cluster { (cluster, last.1 + 1) } else { (cluster, 1) };
                if self.count(cluster)? < last.1 {
                    return Err(self.too_low(cluster));
                }
            }
        }
        Ok(())
    }

    /// Verifies that no refcount of a range of clusters, of which `uses` returns how often they are
    /// used, is smaller than that.
    ///
    /// # Errors
    /// As [`release`](Self::release).
    pub(super) fn require_uses(
        &mut self,
        clusters: Range<u64>,
        uses: impl Fn(u64) -> u64,
    ) -> Result<()> {
        let mut wrong = None;
        self.for_counts(clusters, |cluster, count| {
            if count < uses(cluster) {
                wrong.get_or_insert(cluster);
            }
        })?;
        wrong.map_or(Ok(()), |cluster| Err(self.too_low(cluster)))
    }

    /// Calls `each` with every cluster of a range and its refcount.
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) if reading fails.
    pub(super) fn for_counts(
        &mut self,
        clusters: Range<u64>,
        mut each: impl FnMut(u64, u64),
    ) -> Result<()> {
        let (order, per_page) = (self.refcount_order, self.per_page());
        let mut at = clusters.start;
        while at < clusters.end {
            let end = (at - at % per_page + per_page).min(clusters.end);
            let words = self.page(at / per_page)?.unwrap_or_default();
            for cluster in at..end {
                let (word, bit) = refcount::position(cluster % per_page, order);
                let count = words.get(word).map_or(0, |&word| refcount::extract(word, order, bit));
                each(cluster, count);
            }
            at = end;
        }
        Ok(())
    }

    fn too_low(&self, cluster: u64) -> Error {
        Error::corrupt("refcount block", "the refcount of a cluster that is in use is too low")
            .at(cluster << self.cluster_bits)
            .with_remedy(Remedy::Repair)
    }

    /// Returns the indexes of the clusters that `len` bytes at `offset` touch.
    fn clusters(&self, offset: u64, len: u64) -> Range<u64> {
        let end = (offset + len).div_ceil(self.cluster_size());
        (offset >> self.cluster_bits).min(end)..end
    }

    /// Returns the refcount of the cluster at a host offset.
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) if reading fails.
    pub(super) fn count_at(&mut self, offset: u64) -> Result<u64> {
        self.count(offset >> self.cluster_bits)
    }

    /// Increments the refcount of the cluster at a host offset. Returns false if it is as large as
    /// it can be.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate).
    pub(super) fn retain(&mut self, offset: u64) -> Result<bool> {
        let cluster = offset >> self.cluster_bits;
        let count = self.count(cluster)?;
        if count == refcount::mask(self.refcount_order) {
            return Ok(false);
        }
        self.set(cluster, count + 1)?;
        Ok(true)
    }

    /// Returns the words of the page with this number, or `None` if its block does not exist.
    fn page(&mut self, number: u64) -> Result<Option<&[u64]>> {
        if self.pages.get(number).is_none() {
            let Some(offset) = self.page_offset(number) else { return Ok(None) };
            let block = number * self.pages.page_bytes() / self.cluster_size();
            let words = match self.new_blocks.contains(&block) {
                true => vec![0; self.pages.words()],
                false => self.read_page(offset)?,
            };
            self.pages.add(number, words);
        }
        Ok(self.pages.get(number))
    }

    /// Returns the host offset of a page, or `None` if its block does not exist.
    fn page_offset(&self, number: u64) -> Option<u64> {
        let at = number * self.pages.page_bytes();
        let block = usize::try_from(at / self.cluster_size()).ok();
        let offset = *self.table.get(block?)?;
        (offset != 0).then_some(offset + at % self.cluster_size())
    }

    /// Reads a page. What is beyond the end of the file, which may end within a cluster, is zero.
    fn read_page(&self, offset: u64) -> Result<Vec<u64>> {
        let stored = self.storage.current_len().saturating_sub(offset);
        let mut bytes = vec![0; to_usize(self.pages.page_bytes())];
        let len = to_usize(stored.min(self.pages.page_bytes()));
        self.storage
            .read_exact_at(&mut bytes[..len], offset)
            .map_err(|e| Error::io("cannot read", e).in_structure("refcount block").at(offset))?;
        Ok(bytes.as_chunks::<8>().0.iter().map(|word| u64::from_be_bytes(*word)).collect())
    }

    /// Returns the number of the page with the refcount of a cluster, the index of its word in that
    /// page, and the bit offset in the word.
    fn position(&self, cluster: u64) -> (u64, usize, u32) {
        let (word, bit) = refcount::position(cluster % self.per_page(), self.refcount_order);
        (cluster / self.per_page(), word, bit)
    }

    /// Returns the refcount of a cluster.
    fn count(&mut self, cluster: u64) -> Result<u64> {
        let (page, word, bit) = self.position(cluster);
        let order = self.refcount_order;
        let page = self.page(page)?;
        Ok(page.map_or(0, |words| refcount::extract(words[word], order, bit)))
    }

    /// Sets the refcount of a cluster. Creates its block if there is none.
    fn set(&mut self, cluster: u64, count: u64) -> Result<()> {
        if !self.has_block(cluster) {
            self.add_block(cluster / self.per_block())?;
        }
        let (page, word, bit) = self.position(cluster);
        let order = self.refcount_order;
        if let Some(words) = self.page(page)? {
            let changed = refcount::insert(words[word], order, bit, count);
            self.pages.set(page, word, changed);
        }
        Ok(())
    }

    /// Creates the block with this index. Its own refcount may be in itself or in a later block.
    fn add_block(&mut self, index: u64) -> Result<()> {
        if (index + 1) * 8 > MAX_REFCOUNT_TABLE_BYTES {
            return Err(Error::limit(
                "the image file would grow beyond what its refcounts can cover",
            ));
        }
        let cluster = self.reserve(1, 1)?.start;
        let entry = to_usize(index);
        if self.table.len() <= entry {
            self.table.resize(entry + 1, 0);
        }
        self.table[entry] = cluster << self.cluster_bits;
        self.has_new_entries = true;
        self.new_blocks.insert(index);
        self.set(cluster, 1)
    }

    /// Allocates a new refcount table if there are new blocks. Returns the old one, which is to be
    /// released.
    ///
    /// The stored table is not changed: its entries could not all be written at once, although the
    /// refcount of a new block may be in another new block.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate).
    pub(super) fn move_table(&mut self) -> Result<Option<TableLocation>> {
        if !self.has_new_entries {
            return Ok(None);
        }
        // The table must have entries for the blocks that its own clusters need.
        let per_cluster = self.cluster_size() / 8;
        let mut clusters = to_u64(self.table.len()).div_ceil(per_cluster);
        let end = |clusters: u64| self.next + clusters + 1 + clusters.div_ceil(self.per_block());
        while end(clusters).div_ceil(self.per_block()) > clusters * per_cluster {
            clusters += 1;
        }
        let offset = self.allocate(clusters)?;
        if to_u64(self.table.len()) > clusters * per_cluster {
            return Err(Error::limit("the new refcount table does not fit into its clusters"));
        }
        self.table.resize(to_usize(clusters * per_cluster), 0);
        let old = self.location;
        self.location = TableLocation { offset, len: to_u32(clusters) };
        Ok(Some(old))
    }

    /// Returns the memory in bytes of changed refcounts.
    pub(super) fn changed_bytes(&self) -> u64 {
        self.pages.changed_bytes()
    }

    /// Returns true if changed refcounts take so much memory that they should be stored.
    pub(super) fn should_be_stored(&self) -> bool {
        self.pages.should_be_stored()
    }

    /// Takes the changes since the last call.
    pub(super) fn take_changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        let new_blocks = std::mem::take(&mut self.new_blocks);
        for &index in &new_blocks {
            let (offset, len) = (self.table[to_usize(index)], self.cluster_size());
            changes.new_tables.push(Edit::Zero { offset, len });
        }
        let (table, cluster_size) = (&self.table, self.cluster_size());
        let page_bytes = self.pages.page_bytes();
        self.pages.take_changes(|number, writes| {
            let at = number * page_bytes;
            let block = at / cluster_size;
            let start = table[to_usize(block)] + at % cluster_size;
            let list = match new_blocks.contains(&block) {
                true => &mut changes.new_tables,
                false => &mut changes.counts,
            };
            list.extend(writes.into_iter().map(|write| write.moved(start)));
        });
        if std::mem::take(&mut self.has_new_entries) {
            let bytes = to_bytes(&self.table);
            changes.new_tables.push(Edit::Write { offset: self.location.offset, bytes });
        }
        changes
    }

    /// Removes from memory what was taken with [`take_changes`](Self::take_changes) and is stored
    /// now. It is read again if needed.
    pub(super) fn forget_stored(&mut self) {
        self.pages.forget_stored();
    }
}

/// Verifies that the entries of the refcount table point to different blocks in the file: changing
/// the refcounts of one would change those of another.
fn require_valid(table: &[u64], cluster_size: u64, file_end: u64) -> Result<()> {
    for (index, &offset) in table.iter().enumerate() {
        if !offset.is_multiple_of(cluster_size) || offset >= file_end {
            let message = format!("entry {index} has an invalid refcount block offset {offset:#x}");
            return Err(Error::corrupt("refcount table", message).at(offset).hint(TRUNCATED));
        }
    }
    let mut offsets: Vec<_> = table.iter().copied().filter(|&offset| offset != 0).collect();
    offsets.sort_unstable();
    match offsets.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => {
            Err(Error::corrupt("refcount table", "two entries point to the same refcount block")
                .at(pair[0]))
        }
        None => Ok(()),
    }
}
