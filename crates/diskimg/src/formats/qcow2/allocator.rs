//! Host clusters of a new image and their reference counts.
//!
//! Clusters are handed out in ascending order and never given back, so only
//! the refcount block at the end of the file can still change; those before it
//! are written and forgotten. Memory holds one block and the table, whatever
//! the image's size.
//!
//! ```text
//!   │ run of clusters │ refcount blocks that the run made necessary │ next run …
//! ```

use super::header::MAX_REFCOUNT_TABLE_BYTES;
use super::refcount;
use super::tables::to_bytes;
use crate::error::{Error, Result};
use crate::storage::number::{to_u32, to_u64, to_usize};
use crate::storage::sink::Sink;
use std::sync::Arc;

/// Hands out host clusters and counts references to them.
#[derive(Debug)]
pub(super) struct Allocator {
    sink: Arc<dyn Sink>,
    cluster_bits: u32,
    refcount_order: u32,
    /// The first cluster that is free, an index.
    next: u64,
    /// Host offset of each refcount block.
    table: Vec<u64>,
    /// The block in memory: which, and its words.
    block: u64,
    words: Vec<u64>,
    /// Where the next compressed cluster may start: a host offset inside the
    /// last partly filled cluster.
    tail: Option<u64>,
}

/// Where the refcount table was written.
#[derive(Debug, Clone, Copy)]
pub(super) struct TablePosition {
    /// Host offset.
    pub(super) offset: u64,
    /// Its length, in clusters.
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

    /// Refcounts in a block.
    fn per_block(&self) -> u64 {
        (self.cluster_size() * 8) >> self.refcount_order
    }

    /// Host offset behind the last cluster in use.
    pub(super) fn end(&self) -> u64 {
        self.next << self.cluster_bits
    }

    /// Refcount blocks needed besides those that exist, if `clusters` more and
    /// the blocks themselves are to be counted.
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

    /// Takes `clusters` adjacent clusters, each referred to once. Gives the
    /// first one's host offset.
    pub(super) fn allocate(&mut self, clusters: u64) -> Result<u64> {
        let first = self.next;
        let blocks = self.blocks_for(clusters);
        for i in 0..blocks {
            self.table.push((first + clusters + i) << self.cluster_bits);
        }
        if to_u64(self.table.len()) * 8 > MAX_REFCOUNT_TABLE_BYTES {
            return Err(Error::limit(format!(
                "the image file would grow beyond what its refcounts can cover ({} bytes)",
                self.end()
            ))
            .hint("use a larger cluster_size or smaller refcount_bits"));
        }
        let end = first + clusters + blocks;
        for cluster in first..end {
            self.refer(cluster)?;
        }
        self.next = end;
        Ok(first << self.cluster_bits)
    }

    /// Takes `len` bytes, fewer than a cluster, packed behind the compressed
    /// cluster before. Gives their host offset.
    pub(super) fn allocate_bytes(&mut self, len: u64) -> Result<u64> {
        let size = self.cluster_size();
        if let Some(tail) = self.tail {
            let cluster = tail >> self.cluster_bits;
            let room = size - tail % size;
            let fits = len <= room;
            // What does not fit goes on in the next cluster, if that is free
            // and no refcount block gets between.
            let spills = !fits
                && cluster + 1 == self.next
                && self.next / self.per_block() == cluster / self.per_block();
            if (fits || spills) && self.may_refer_again(cluster) {
                if spills {
                    self.allocate(1)?;
                }
                self.refer(cluster)?;
                self.set_tail(tail + len);
                return Ok(tail);
            }
        }
        let start = self.allocate(1)?;
        self.set_tail(start + len);
        Ok(start)
    }

    /// A filled cluster has no tail.
    fn set_tail(&mut self, end: u64) {
        let open = !end.is_multiple_of(self.cluster_size());
        self.tail = Some(end).filter(|_| open);
    }

    /// True if the cluster's count is in memory and below its maximum.
    fn may_refer_again(&self, cluster: u64) -> bool {
        let max = refcount::mask(self.refcount_order);
        cluster / self.per_block() == self.block && self.count(cluster % self.per_block()) < max
    }

    /// Counts one more reference to `cluster`. Blocks are left for good when a
    /// later one is needed.
    fn refer(&mut self, cluster: u64) -> Result<()> {
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

    /// The count at `index` of the block in memory.
    fn count(&self, index: u64) -> u64 {
        let (word, bit) = self.place_of(index);
        refcount::extract(self.words[word], self.refcount_order, bit)
    }

    fn set_count(&mut self, index: u64, count: u64) {
        let (word, bit) = self.place_of(index);
        self.words[word] = refcount::insert(self.words[word], self.refcount_order, bit, count);
    }

    /// Which word holds the count at `index`, and where in it that begins.
    fn place_of(&self, index: u64) -> (usize, u32) {
        let bit = index << self.refcount_order;
        (to_usize(bit / 64), to_u32(bit % 64))
    }

    fn write_block(&self) -> Result<()> {
        let offset = self.table[to_usize(self.block)];
        self.sink
            .write_all_at(&to_bytes(&self.words), offset)
            .map_err(|e| Error::io("cannot write a refcount block", e).at(offset))
    }

    /// Writes what is still in memory: the last block, and the table behind
    /// everything else.
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

    /// Reads back the count of a cluster, by way of the written table.
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
    fn every_cluster_handed_out_is_counted_once_for_every_width() {
        for order in 0..=6 {
            let sink = Arc::new(MemorySink::new());
            let mut allocator = Allocator::new(sink.clone(), 9, order);
            // Long runs cross several blocks; single clusters fill the gaps.
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
    fn compressed_clusters_pack_without_slack_until_a_count_is_full() {
        let sink = Arc::new(MemorySink::new());
        let mut allocator = Allocator::new(sink, 16, 4);
        let offsets: Vec<_> =
            (0..10).map(|_| allocator.allocate_bytes(10_000).expect("allocates")).collect();
        let first = offsets[0];
        let packed: Vec<_> = (0..10).map(|i| first + i * 10_000).collect();
        // The refcount block stands behind the first cluster, so the second run starts anew.
        assert_eq!(offsets[..6], packed[..6]);
        assert_eq!(offsets[9] - offsets[6], 30_000);

        // One-bit counts admit one reference: nothing can share.
        let mut single = Allocator::new(Arc::new(MemorySink::new()), 16, 0);
        let offsets: Vec<_> =
            (0..4).map(|_| single.allocate_bytes(100).expect("allocates") % 65536).collect();
        assert_eq!(offsets, [0; 4]);
    }
}
