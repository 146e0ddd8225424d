//! Refcounts: how often each host cluster is used, as the image records it.
//!
//! ```text
//!   refcount table   63–9 offset of a refcount block │ 8–0 0
//!   refcount block   one cluster of counts, 1 to 64 bits each; counts of less
//!                    than a byte start at the byte's least significant bit
//! ```
//!
//! Specification: "Host cluster management". Reading guest bytes never asks
//! for refcounts; checking does.

use super::header::Header;
use super::tables::{TableChunk, TableReader, read_words};
use crate::error::{Error, Result};
use crate::storage::number::{to_u32, to_usize};
use crate::storage::source::Source;

/// The offset in an entry of the refcount table.
pub(crate) const OFFSET_MASK: u64 = !0x1ff;

/// The recorded refcounts of an image.
#[derive(Debug)]
pub(crate) struct Refcounts<'a> {
    file: &'a dyn Source,
    cluster_size: u64,
    order: u32,
    /// The refcount table.
    pub(crate) table: Vec<u64>,
    blocks: TableReader,
    /// The chunk of a block read last: neighbours are asked for in turn.
    last: Option<TableChunk>,
}

impl<'a> Refcounts<'a> {
    /// Reads the refcount table, whose size the header's validation bounds.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io).
    pub(crate) fn read(file: &'a dyn Source, header: &Header) -> Result<Self> {
        let table = header.refcount_table;
        Ok(Self {
            file,
            cluster_size: header.cluster_size(),
            order: header.refcount_order,
            table: read_words(file, "refcount table", table.offset, table.entries)?,
            blocks: TableReader::new(header.cluster_size()),
            last: None,
        })
    }

    /// Clusters that a refcount block describes: 64 to 2^24.
    pub(crate) fn clusters_per_block(&self) -> u64 {
        (self.cluster_size * 8) >> self.order
    }

    /// Where the refcount block of a cluster is; `None`: all its counts are 0.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is not aligned, or no file
    /// is that long.
    pub(crate) fn block_of(&self, cluster: u64) -> Result<Option<u64>> {
        let index = cluster / self.clusters_per_block();
        let entry = usize::try_from(index).ok().and_then(|index| self.table.get(index));
        let offset = entry.copied().unwrap_or(0) & OFFSET_MASK;
        if !offset.is_multiple_of(self.cluster_size) || i64::try_from(offset).is_err() {
            return Err(Error::corrupt(
                "refcount table",
                format!("entry {index} leads to no place that a refcount block can be at"),
            )
            .at(offset));
        }
        // Behind the end of the file there is nothing but zeros.
        Ok((offset != 0 && offset < self.file.len()).then_some(offset))
    }

    /// The refcount of a cluster (an index, not an offset).
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt), [`Io`](crate::ErrorKind::Io).
    pub(crate) fn get(&mut self, cluster: u64) -> Result<u64> {
        match self.block_of(cluster)? {
            Some(block) => self.get_in(block, cluster % self.clusters_per_block()),
            None => Ok(0),
        }
    }

    /// The refcount at `index` in the block at `block`.
    pub(crate) fn get_in(&mut self, block: u64, index: u64) -> Result<u64> {
        let bit = index << self.order;
        let offset = block + bit / 8;
        let chunk = match self.last.take().filter(|chunk| chunk.contains(offset)) {
            Some(chunk) => chunk,
            None => self.blocks.chunk(self.file, "refcount block", offset)?,
        };
        let word = chunk.words[to_usize((offset - chunk.start) / 8)];
        self.last = Some(chunk);
        Ok(extract(word, self.order, to_u32(bit % 64)))
    }
}

/// The count of 1 << `order` bits that begins `bit` bits into a big-endian word.
pub(super) fn extract(word: u64, order: u32, bit: u32) -> u64 {
    word >> shift(order, bit) & mask(order)
}

/// The word with that count replaced.
pub(super) fn insert(word: u64, order: u32, bit: u32, count: u64) -> u64 {
    let shift = shift(order, bit);
    word & !(mask(order) << shift) | count << shift
}

/// All bits of a count.
pub(super) fn mask(order: u32) -> u64 {
    u64::MAX >> (64 - (1 << order))
}

/// Where in a word a count is.
fn shift(order: u32, bit: u32) -> u32 {
    let width = 1 << order;
    if width >= 8 {
        64 - width - bit
    } else {
        // Bytes count from the most significant end, bits within from the least.
        56 - bit / 8 * 8 + bit % 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_every_width_are_where_the_specification_says() {
        let word = u64::from_be_bytes([0x81, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]);
        for (order, index, count) in [
            (0, 0, 1),
            (0, 1, 0),
            (0, 7, 1),
            (0, 8, 1),
            (1, 0, 1),
            (1, 3, 2),
            (2, 0, 1),
            (2, 1, 8),
            (2, 15, 0xe),
            (3, 1, 0x23),
            (4, 0, 0x8123),
            (4, 3, 0xcdef),
            (5, 1, 0x89ab_cdef),
            (6, 0, word),
        ] {
            assert_eq!(extract(word, order, index << order), count, "order {order} index {index}");
        }
    }
}
