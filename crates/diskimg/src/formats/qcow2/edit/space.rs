//! Host clusters of an image that is modified in place: allocation, and refcounts.
//!
//! Clusters are allocated beyond the end of the file, where nothing can be overwritten even if the
//! refcounts are wrong; on a device, beyond the last cluster with a refcount.

use crate::error::{Error, Result};
use crate::formats::qcow2::header::{Header, MAX_REFCOUNT_TABLE_BYTES};
use crate::formats::qcow2::refcount::{self, OFFSET_MASK};
use crate::formats::qcow2::tables::{read_words, to_bytes};
use crate::storage::edit::{Edit, Storage};
use crate::storage::number::{to_u32, to_u64, to_usize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Number of words in a sector, which is written as a whole.
const SECTOR_WORDS: usize = 64;

/// Location of a table, as the header records it: host offset, and length (of an L1 table in
/// entries, of the refcount table in clusters).
#[derive(Debug, Clone, Copy)]
pub(super) struct TableLocation {
    pub(super) offset: u64,
    pub(super) len: u32,
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
    cluster_bits: u32,
    refcount_order: u32,
    /// The refcount table, with the entries of new blocks.
    table: Vec<u64>,
    /// Where the table is stored or will be stored.
    location: TableLocation,
    /// The table has entries of new blocks, which are not stored yet.
    has_new_entries: bool,
    /// The refcount blocks that were read or created, by their index in the table.
    blocks: BTreeMap<u64, Block>,
    /// Index of the first cluster that may be allocated.
    next: u64,
}

/// A refcount block in memory.
#[derive(Debug)]
struct Block {
    offset: u64,
    words: Vec<u64>,
    /// It is not stored yet.
    is_new: bool,
    /// Sectors that differ from what is stored.
    changed: BTreeSet<usize>,
}

impl Block {
    /// Returns true if the block can be read again. Only the first `readable` bytes of the file
    /// can: the length that it had when it was opened.
    fn is_stored(&self, readable: u64) -> bool {
        let end = self.offset + to_u64(self.words.len()) * 8;
        !self.is_new && self.changed.is_empty() && end <= readable
    }
}

impl Space {
    /// Reads the refcount table.
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) if reading fails, and
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if an entry of the table is invalid.
    pub(super) fn new(storage: Arc<dyn Storage>, header: &Header) -> Result<Self> {
        let stored = header.refcount_table;
        let end = stored.offset.checked_add(stored.bytes());
        if end.is_none_or(|end| end > header.padded(storage.current_len())) {
            return Err(Error::corrupt("refcount table", "it extends beyond the end of the file")
                .at(stored.offset));
        }
        let mut table = read_words(&*storage, "refcount table", stored.offset, stored.entries)?;
        table.iter_mut().for_each(|entry| *entry &= OFFSET_MASK);
        require_distinct(&table)?;
        let clusters = to_u32(stored.bytes() >> header.cluster_bits);
        let mut space = Self {
            storage: Arc::clone(&storage),
            cluster_bits: header.cluster_bits,
            refcount_order: header.refcount_order,
            table,
            location: TableLocation { offset: stored.offset, len: clusters },
            has_new_entries: false,
            blocks: BTreeMap::new(),
            next: 0,
        };
        space.next = match storage.has_fixed_len() {
            true => space.end_of_used()?,
            false => storage.current_len().div_ceil(space.cluster_size()),
        };
        Ok(space)
    }

    fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Returns the number of refcounts in a block.
    fn per_block(&self) -> u64 {
        refcount::per_block(self.cluster_size(), self.refcount_order)
    }

    /// Returns the host offset of the end of the allocated clusters.
    pub(super) fn end(&self) -> u64 {
        self.next << self.cluster_bits
    }

    /// Returns where the refcount table will be.
    pub(super) fn table_location(&self) -> TableLocation {
        self.location
    }

    /// Returns the index of the cluster after the last one with a refcount.
    fn end_of_used(&mut self) -> Result<u64> {
        for index in (0..to_u64(self.table.len())).rev() {
            let first = index * self.per_block();
            if self.block(index)?.is_none() {
                continue;
            }
            for cluster in (first..first + self.per_block()).rev() {
                if self.count(cluster)? != 0 {
                    return Ok(cluster + 1);
                }
            }
            self.forget(index);
        }
        Ok(0)
    }

    /// Allocates `clusters` adjacent clusters with refcount 1. Returns the host offset of the
    /// first.
    ///
    /// # Errors
    /// - [`Io`](crate::ErrorKind::Io) if the image is on a device without enough free space, or if
    ///   reading fails;
    /// - [`Limit`](crate::ErrorKind::Limit) if the refcount table would become larger than QEMU
    ///   accepts;
    /// - [`Corrupt`](crate::ErrorKind::Corrupt) if an entry of the refcount table is invalid.
    pub(super) fn allocate(&mut self, clusters: u64) -> Result<u64> {
        let first = self.reserve(clusters)?;
        for cluster in first..first + clusters {
            self.set(cluster, 1)?;
        }
        Ok(first << self.cluster_bits)
    }

    /// Decrements the refcounts of all clusters that `len` bytes at `offset` touch.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if a refcount is 0 already, and the errors of
    /// [`allocate`](Self::allocate).
    pub(super) fn release(&mut self, offset: u64, len: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        for cluster in offset >> self.cluster_bits..=(offset + len - 1) >> self.cluster_bits {
            let count = self.count(cluster)?.checked_sub(1).ok_or_else(|| {
                Error::corrupt("refcount block", "a cluster that is in use has refcount 0")
                    .at(cluster << self.cluster_bits)
                    .hint("repair the image first, for example with qemu-img")
            })?;
            self.set(cluster, count)?;
        }
        Ok(())
    }

    /// Reserves adjacent clusters with refcount 0. Returns the index of the first.
    fn reserve(&mut self, clusters: u64) -> Result<u64> {
        let first = self.next;
        for cluster in first..first + clusters {
            if self.count(cluster)? != 0 {
                // Extending the file over it would make lost data read as zeros.
                return Err(Error::corrupt(
                    "refcount block",
                    "a cluster beyond the end of the file is in use",
                )
                .at(cluster << self.cluster_bits)
                .hint(
                    "the file may be truncated; check and repair the image first, for example \
                     with qemu-img",
                ));
            }
            if (cluster + 1).is_multiple_of(self.per_block()) {
                self.forget(cluster / self.per_block());
            }
        }
        let end = first + clusters;
        let room = self.storage.current_len() >> self.cluster_bits;
        if self.storage.has_fixed_len() && end > room {
            return Err(Error::io(
                "the device has no room for new metadata",
                std::io::Error::from(std::io::ErrorKind::StorageFull),
            ));
        }
        self.next = end;
        Ok(first)
    }

    /// Removes a block from memory, unless it must be stored. It is read again if needed.
    fn forget(&mut self, index: u64) {
        let readable = self.storage.len();
        if self.blocks.get(&index).is_some_and(|block| block.is_stored(readable)) {
            self.blocks.remove(&index);
        }
    }

    /// Removes all blocks from memory that need not be stored.
    pub(super) fn forget_stored(&mut self) {
        let readable = self.storage.len();
        self.blocks.retain(|_, block| !block.is_stored(readable));
    }

    /// Returns the host offsets of the refcount blocks.
    pub(super) fn block_offsets(&self) -> impl Iterator<Item = u64> {
        self.table.iter().copied().filter(|&offset| offset != 0)
    }

    /// Returns the refcount of the cluster at a host offset.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate).
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
        let max = u64::MAX >> (64 - (1u32 << self.refcount_order));
        if count == max {
            return Ok(false);
        }
        self.set(cluster, count + 1)?;
        Ok(true)
    }

    /// Returns the block with this index, or `None` if there is none.
    fn block(&mut self, index: u64) -> Result<Option<&mut Block>> {
        if !self.blocks.contains_key(&index) {
            let entry = usize::try_from(index).ok().and_then(|index| self.table.get(index));
            let offset = entry.copied().unwrap_or(0);
            if offset == 0 {
                return Ok(None);
            }
            // The file may end within its last cluster.
            let inside = offset < self.storage.current_len();
            if !offset.is_multiple_of(self.cluster_size()) || !inside {
                return Err(Error::corrupt(
                    "refcount table",
                    format!("entry {index} has an invalid refcount block offset {offset:#x}"),
                )
                .at(offset));
            }
            let words =
                read_words(&*self.storage, "refcount block", offset, self.cluster_size() / 8)?;
            let block = Block { offset, words, is_new: false, changed: BTreeSet::new() };
            self.blocks.insert(index, block);
        }
        Ok(self.blocks.get_mut(&index))
    }

    /// Returns the index of the word that holds the refcount of a cluster in its block, and the bit
    /// offset in that word.
    fn position(&self, cluster: u64) -> (usize, u32) {
        refcount::position(cluster % self.per_block(), self.refcount_order)
    }

    /// Returns the refcount of a cluster.
    fn count(&mut self, cluster: u64) -> Result<u64> {
        let (word, bit) = self.position(cluster);
        let order = self.refcount_order;
        let block = self.block(cluster / self.per_block())?;
        Ok(block.map_or(0, |block| refcount::extract(block.words[word], order, bit)))
    }

    /// Sets the refcount of a cluster. Creates its block if there is none.
    fn set(&mut self, cluster: u64, count: u64) -> Result<()> {
        let index = cluster / self.per_block();
        let (word, bit) = self.position(cluster);
        let order = self.refcount_order;
        if self.block(index)?.is_none() {
            self.add_block(index)?;
        }
        if let Some(block) = self.block(index)? {
            block.words[word] = refcount::insert(block.words[word], order, bit, count);
            block.changed.insert(word / SECTOR_WORDS);
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
        let cluster = self.reserve(1)?;
        let offset = cluster << self.cluster_bits;
        let entry = to_usize(index);
        if self.table.len() <= entry {
            self.table.resize(entry + 1, 0);
        }
        self.table[entry] = offset;
        self.has_new_entries = true;
        let words = vec![0; to_usize(self.cluster_size() / 8)];
        self.blocks.insert(index, Block { offset, words, is_new: true, changed: BTreeSet::new() });
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

    /// Takes the changes since the last call.
    pub(super) fn take_changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        for block in self.blocks.values_mut() {
            let changed = std::mem::take(&mut block.changed);
            if std::mem::take(&mut block.is_new) {
                let bytes = to_bytes(&block.words);
                changes.new_tables.push(Edit::Write { offset: block.offset, bytes });
                continue;
            }
            for sector in changed {
                let start = sector * SECTOR_WORDS;
                let words = &block.words[start..start + SECTOR_WORDS];
                let offset = block.offset + to_u64(start) * 8;
                changes.counts.push(Edit::Write { offset, bytes: to_bytes(words) });
            }
        }
        if std::mem::take(&mut self.has_new_entries) {
            let bytes = to_bytes(&self.table);
            changes.new_tables.push(Edit::Write { offset: self.location.offset, bytes });
        }
        changes
    }
}

/// Verifies that no two entries of the refcount table point to the same block: changing the
/// refcounts of one would change those of the other.
fn require_distinct(table: &[u64]) -> Result<()> {
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
