//! Allocation of host clusters in a new image, and their refcounts.
//!
//! Clusters are allocated in ascending order and never freed, so only the last refcount block can
//! still change. Earlier ones have been written and are not kept. Memory use is one block and the
//! refcount table, which has 8 bytes for each block.
//!
//! ```text
//!   │ run of clusters │ refcount blocks that the run requires │ next run …
//! ```

use super::header::MAX_REFCOUNT_TABLE_BYTES;
use super::refcount;
use super::tables::to_bytes;
use crate::error::{Error, Result};
use crate::storage::number::{to_u64, to_usize};
use crate::storage::sink::Sink;
use std::sync::Arc;

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
    pub(super) fn new(sink: Arc<dyn Sink>, cluster_bits: u32, refcount_order: u32) -> Self {
        Self {
            sink,
            cluster_bits,
            refcount_order,
            next: 0,
            table: Vec::new(),
            block: 0,
            words: vec![0; 1 << (cluster_bits - 3)],
            tail: None,
        }
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
            self.write_block()?;
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

    fn write_block(&self) -> Result<()> {
        let offset = self.table[to_usize(self.block)];
        self.sink
            .write_all_at(&to_bytes(&self.words), offset)
            .map_err(|e| Error::io("cannot write a refcount block", e).at(offset))
    }

    /// Allocates the refcount table, then writes the last refcount block and the table.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate).
    pub(super) fn finish(&mut self) -> Result<TablePosition> {
        let per_cluster = self.cluster_size() / 8;
        let mut clusters = 0;
        loop {
            let entries = to_u64(self.table.len()) + self.blocks_for(clusters);
            if entries.div_ceil(per_cluster) == clusters {
                break;
            }
            clusters = entries.div_ceil(per_cluster);
        }
        let offset = self.allocate(clusters)?;
        self.write_block()?;
        let mut bytes = to_bytes(&self.table);
        bytes.resize(to_usize(clusters << self.cluster_bits), 0);
        self.sink
            .write_all_at(&bytes, offset)
            .map_err(|e| Error::io("cannot write the refcount table", e).at(offset))?;
        Ok(TablePosition { offset, clusters })
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
            for cluster in 0..end {
                assert_eq!(stored_count(bytes, table, 9, order, cluster), 1, "order {order}");
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
        // The refcount block follows the first cluster, so the seventh starts a new run.
        assert_eq!(offsets[..6], packed[..6]);
        assert_eq!(offsets[9] - offsets[6], 30_000);

        // Refcounts of one bit allow one reference, so clusters cannot be shared.
        let mut single = Allocator::new(Arc::new(MemorySink::new()), 16, 0);
        let offsets: Vec<_> =
            (0..4).map(|_| single.allocate_bytes(100).expect("allocates") % 65536).collect();
        assert_eq!(offsets, [0; 4]);
    }
}
