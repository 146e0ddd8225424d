//! Allocation of host clusters in a new image, and their refcounts.
//!
//! ```text
//!   │ header │ refcount table │ refcount block │ run of clusters │ blocks it requires │ next run …
//!   0        1                2                3
//! ```
//!
//! The first clusters are those of an image that QEMU creates. Clusters are allocated in ascending
//! order and never freed, so only the last refcount block can still change. Earlier ones have been
//! written and are not kept, except the first: if the refcount table outgrows its cluster, it moves
//! to the end of the image, and its cluster becomes free. Memory use is two blocks and the refcount
//! table, which has 8 bytes for each block.

use super::header::MAX_REFCOUNT_TABLE_BYTES;
use super::refcount;
use super::tables::to_bytes;
use crate::error::{Error, Result};
use crate::storage::buffer;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::sink::Sink;
use std::sync::Arc;

/// Index of the cluster that is reserved for the refcount table. The first block follows.
const TABLE_CLUSTER: u64 = 1;

/// Number of clusters in use before the first allocation: header, refcount table and first block.
const FIRST_FREE_CLUSTER: u64 = 3;

/// Granularity in bytes of the length of an image file that ends with a compressed cluster, as in
/// QEMU.
const SECTOR: u64 = 512;

/// Allocates host clusters and counts the references to them.
#[derive(Debug)]
pub(super) struct Allocator {
    sink: Arc<dyn Sink>,
    cluster_bits: u32,
    refcount_order: u32,
    /// Index of the first free cluster.
    next: u64,
    /// The refcount table: host offset of each refcount block.
    table: Vec<u64>,
    /// Index of the refcount block in memory.
    block: u64,
    /// Content of that block, as words that are written in big-endian order.
    words: Vec<u64>,
    /// Content of the first block, if it is not the one in memory.
    first_words: Option<Vec<u64>>,
    /// Host offset at which the next compressed cluster may start: the end of the data in a partly
    /// filled cluster.
    tail: Option<u64>,
}

/// Location of the refcount table.
#[derive(Debug, Clone, Copy)]
pub(super) struct TablePosition {
    /// Host offset.
    pub(super) offset: u64,
    /// Length in clusters.
    pub(super) clusters: u64,
}

impl Allocator {
    /// Creates an allocator for an image whose header, refcount table and first refcount block have
    /// a cluster each.
    pub(super) fn new(sink: Arc<dyn Sink>, cluster_bits: u32, refcount_order: u32) -> Self {
        let mut allocator = Self {
            sink,
            cluster_bits,
            refcount_order,
            next: FIRST_FREE_CLUSTER,
            table: vec![(TABLE_CLUSTER + 1) << cluster_bits],
            block: 0,
            words: buffer::zeroed(1 << (cluster_bits - 3)),
            first_words: None,
            tail: None,
        };
        for cluster in 0..FIRST_FREE_CLUSTER {
            allocator.set_count(cluster, 1);
        }
        allocator
    }

    fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Returns the number of refcounts in a block.
    fn per_block(&self) -> u64 {
        refcount::per_block(self.cluster_size(), self.refcount_order)
    }

    /// Returns the host offset of the end of the last allocated cluster.
    pub(super) fn end(&self) -> u64 {
        self.next << self.cluster_bits
    }

    /// Returns the host offset at which the image file ends. It is less than [`end`](Self::end) if
    /// the last cluster contains compressed data.
    pub(super) fn file_end(&self) -> u64 {
        match self.tail {
            Some(tail) if tail >> self.cluster_bits == self.next - 1 => {
                tail.next_multiple_of(SECTOR)
            }
            _ => self.end(),
        }
    }

    /// Returns how many new refcount blocks are needed for `clusters` more clusters and for the
    /// blocks themselves.
    fn blocks_for(&self, clusters: u64) -> u64 {
        let mut blocks = 0;
        loop {
            let end = self.next + clusters + blocks;
            let missing = end.div_ceil(self.per_block()).saturating_sub(to_u64(self.table.len()));
            if missing == blocks {
                return blocks;
            }
            blocks = missing;
        }
    }

    /// Allocates `clusters` adjacent clusters with refcount 1. Returns the host offset of the
    /// first.
    ///
    /// # Errors
    /// Returns [`Limit`](crate::ErrorKind::Limit) if the refcount table would become larger than
    /// QEMU accepts, and [`Io`](crate::ErrorKind::Io) if writing a refcount block fails.
    pub(super) fn allocate(&mut self, clusters: u64) -> Result<u64> {
        let first = self.next;
        let blocks = self.blocks_for(clusters);
        for i in 0..blocks {
            self.table.push((first + clusters + i) << self.cluster_bits);
        }
        if to_u64(self.table.len()) * 8 > MAX_REFCOUNT_TABLE_BYTES {
            return Err(Error::limit(format!(
                "the image file has {} bytes and would grow beyond what its refcounts can cover",
                self.end()
            ))
            .hint("use a larger cluster_size or smaller refcount_bits"));
        }
        let end = first + clusters + blocks;
        for cluster in first..end {
            self.add_reference(cluster)?;
        }
        self.next = end;
        Ok(first << self.cluster_bits)
    }

    /// Allocates `len` bytes, less than a cluster, directly after the previous compressed cluster
    /// if possible. Returns their host offset.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate).
    pub(super) fn allocate_bytes(&mut self, len: u64) -> Result<u64> {
        let size = self.cluster_size();
        if let Some(tail) = self.tail {
            let cluster = tail >> self.cluster_bits;
            let room = size - tail % size;
            let fits = len <= room;
            // The rest continues in the next cluster, if that is free and its refcount is in the
            // same refcount block, so that this block stays in memory.
            let spills = !fits
                && cluster + 1 == self.next
                && self.next / self.per_block() == cluster / self.per_block();
            if (fits || spills) && self.can_add_reference(cluster) {
                if spills {
                    self.allocate(1)?;
                }
                self.add_reference(cluster)?;
                self.set_tail(tail + len);
                return Ok(tail);
            }
        }
        let start = self.allocate(1)?;
        self.set_tail(start + len);
        Ok(start)
    }

    /// Sets the end of the last compressed cluster. A cluster that is full has no tail.
    fn set_tail(&mut self, end: u64) {
        let open = !end.is_multiple_of(self.cluster_size());
        self.tail = Some(end).filter(|_| open);
    }

    /// Returns true if the cluster's refcount is in memory and below the maximum.
    fn can_add_reference(&self, cluster: u64) -> bool {
        let max = refcount::mask(self.refcount_order);
        cluster / self.per_block() == self.block && self.count(cluster % self.per_block()) < max
    }

    /// Increments the refcount of `cluster`. Writes the block in memory if a later one is needed.
    fn add_reference(&mut self, cluster: u64) -> Result<()> {
        let block = cluster / self.per_block();
        if block != self.block {
            if self.block == 0 {
                self.first_words = Some(self.words.clone());
            } else {
                self.write_block(self.block, &self.words)?;
            }
            self.words.fill(0);
            self.block = block;
        }
        let index = cluster % self.per_block();
        self.set_count(index, self.count(index) + 1);
        Ok(())
    }

    /// Returns the refcount at `index` of the block in memory.
    fn count(&self, index: u64) -> u64 {
        let (word, bit) = refcount::position(index, self.refcount_order);
        refcount::extract(self.words[word], self.refcount_order, bit)
    }

    fn set_count(&mut self, index: u64, count: u64) {
        let (word, bit) = refcount::position(index, self.refcount_order);
        self.words[word] = refcount::insert(self.words[word], self.refcount_order, bit, count);
    }

    fn write_block(&self, block: u64, words: &[u64]) -> Result<()> {
        let offset = self.table[to_usize(block)];
        self.sink
            .write_all_at(&to_bytes(words), offset)
            .map_err(|e| Error::io("cannot write a refcount block", e).at(offset))
    }

    /// Writes the first and the last refcount block, and the refcount table. A table that does not
    /// fit into the cluster reserved for it is allocated.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate).
    pub(super) fn finish(&mut self) -> Result<TablePosition> {
        let table = self.place_table()?;
        self.write_block(self.block, &self.words)?;
        if let Some(words) = &self.first_words {
            self.write_block(0, words)?;
        }
        let mut bytes = to_bytes(&self.table);
        bytes.resize(to_usize(table.clusters << self.cluster_bits), 0);
        self.sink
            .write_all_at(&bytes, table.offset)
            .map_err(|e| Error::io("cannot write the refcount table", e).at(table.offset))?;
        Ok(table)
    }

    /// Decides where the refcount table is.
    fn place_table(&mut self) -> Result<TablePosition> {
        let per_cluster = self.cluster_size() / 8;
        if to_u64(self.table.len()) <= per_cluster {
            return Ok(TablePosition { offset: TABLE_CLUSTER << self.cluster_bits, clusters: 1 });
        }
        let mut clusters = 0;
        loop {
            let entries = to_u64(self.table.len()) + self.blocks_for(clusters);
            if entries.div_ceil(per_cluster) == clusters {
                break;
            }
            clusters = entries.div_ceil(per_cluster);
        }
        let offset = self.allocate(clusters)?;
        self.tail = None;
        self.free_table_cluster();
        Ok(TablePosition { offset, clusters })
    }

    /// Sets the refcount of the cluster reserved for the refcount table to 0.
    fn free_table_cluster(&mut self) {
        let (word, bit) = refcount::position(TABLE_CLUSTER, self.refcount_order);
        let words = self.first_words.as_mut().unwrap_or(&mut self.words);
        words[word] = refcount::insert(words[word], self.refcount_order, bit, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::sink::MemorySink;
    use crate::storage::source::Source;

    /// Returns the refcount of a cluster according to the written table.
    fn stored_count(
        bytes: &[u8],
        table: TablePosition,
        bits: u32,
        order: u32,
        cluster: u64,
    ) -> u64 {
        let per_block = (1u64 << bits << 3) >> order;
        let entry = table.offset as usize + (cluster / per_block) as usize * 8;
        let block = u64::from_be_bytes(bytes[entry..entry + 8].try_into().expect("8 bytes"));
        let mut reader = Allocator::new(Arc::new(MemorySink::new()), bits, order);
        let block = block as usize;
        let (words, _) = bytes[block..block + (1 << bits)].as_chunks::<8>();
        reader.words = words.iter().map(|word| u64::from_be_bytes(*word)).collect();
        reader.count(cluster % per_block)
    }

    #[test]
    fn every_allocated_cluster_has_refcount_one_for_every_refcount_width() {
        for order in 0..=6 {
            let sink = Arc::new(MemorySink::new());
            let mut allocator = Allocator::new(sink.clone(), 9, order);
            // Long runs cross several blocks; short ones end within a block.
            for n in [1, 3, 700, 1, 1, 2000] {
                allocator.allocate(n).expect("allocates");
            }
            let table = allocator.finish().expect("finishes");
            let end = allocator.end() >> 9;
            sink.set_len(allocator.end()).expect("grows");
            let source = sink.to_source();
            let bytes = source.as_slice().expect("memory");
            // With wide refcounts, the table is larger than a cluster, and moved.
            let moved = table.offset != 512;
            assert_eq!(moved, table.clusters > 1, "order {order}");
            for cluster in 0..end {
                let expected = u64::from(cluster != 1 || !moved);
                assert_eq!(stored_count(bytes, table, 9, order, cluster), expected, "{order}");
            }
        }
    }

    #[test]
    fn compressed_clusters_are_packed_until_a_refcount_reaches_its_maximum() {
        let sink = Arc::new(MemorySink::new());
        let mut allocator = Allocator::new(sink, 16, 4);
        let offsets: Vec<_> =
            (0..10).map(|_| allocator.allocate_bytes(10_000).expect("allocates")).collect();
        let first = offsets[0];
        let packed: Vec<_> = (0..10).map(|i| first + i * 10_000).collect();
        assert_eq!(offsets, packed);
        assert_eq!(allocator.file_end(), (first + 100_000).next_multiple_of(512));

        // Refcounts of one bit allow one reference, so clusters cannot be shared.
        let mut single = Allocator::new(Arc::new(MemorySink::new()), 16, 0);
        let offsets: Vec<_> =
            (0..4).map(|_| single.allocate_bytes(100).expect("allocates") % 65536).collect();
        assert_eq!(offsets, [0; 4]);
    }
}
