//! Refcounts: the number of references to each host cluster, as the image records it.
//!
//! ```text
//!   refcount table   bits 63–9: offset of a refcount block │ bits 8–0: reserved (0)
//!   refcount block   one cluster of refcounts of 1 to 64 bits; refcounts smaller than a byte
//!                    start at its least significant bit
//! ```
//!
//! Specification: "Host cluster management". Refcounts are needed for a check, not for reading
//! guest bytes.

use super::header::Header;
use super::tables::{TableChunk, TableReader, read_words};
use crate::error::{Error, Result};
use crate::storage::number::{to_u32, to_usize};
use crate::storage::source::Source;

/// Bits of a refcount table entry that hold the offset of the refcount block.
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
    /// The chunk of a refcount block that was read last. Refcounts are read in ascending order.
    last: Option<TableChunk>,
}

impl<'a> Refcounts<'a> {
    /// Reads the refcount table, whose size was checked when the header was validated.
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) if the file cannot be read.
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

    /// Returns the number of clusters that a refcount block describes: 64 to 2^24.
    pub(crate) fn clusters_per_block(&self) -> u64 {
        per_block(self.cluster_size, self.order)
    }

    /// Returns the host offset of the refcount block of a cluster, or `None` if there is no such
    /// block, in which case the refcounts are 0.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if the offset is not aligned to a cluster or
    /// exceeds `i64::MAX`.
    pub(crate) fn block_of(&self, cluster: u64) -> Result<Option<u64>> {
        let index = cluster / self.clusters_per_block();
        let entry = usize::try_from(index).ok().and_then(|index| self.table.get(index));
        let offset = entry.copied().unwrap_or(0) & OFFSET_MASK;
        if !offset.is_multiple_of(self.cluster_size) || i64::try_from(offset).is_err() {
            return Err(Error::corrupt(
                "refcount table",
                format!("entry {index} has an invalid refcount block offset {offset:#x}"),
            )
            .at(offset));
        }
        // A block beyond the end of the file reads as zeros.
        Ok((offset != 0 && offset < self.file.len()).then_some(offset))
    }

    /// Returns the refcount of the cluster with this index.
    ///
    /// # Errors
    /// As [`block_of`](Self::block_of), and [`Io`](crate::ErrorKind::Io) if the file cannot be
    /// read.
    pub(crate) fn get(&mut self, cluster: u64) -> Result<u64> {
        match self.block_of(cluster)? {
            Some(block) => self.get_in(block, cluster % self.clusters_per_block()),
            None => Ok(0),
        }
    }

    /// Returns the refcount at `index` in the refcount block at host offset `block`.
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) if the file cannot be read.
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

/// Returns the number of refcounts of `1 << order` bits in a refcount block: 64 to 2^24.
pub(super) fn per_block(cluster_size: u64, order: u32) -> u64 {
    (cluster_size * 8) >> order
}

/// Returns the index of the word that holds the refcount at `index` of a block, and its bit offset
/// in that word.
pub(super) fn position(index: u64, order: u32) -> (usize, u32) {
    let bit = index << order;
    (to_usize(bit / 64), to_u32(bit % 64))
}

/// Returns the refcount of `1 << order` bits at bit offset `bit` of a big-endian word.
pub(super) fn extract(word: u64, order: u32, bit: u32) -> u64 {
    word >> shift(order, bit) & mask(order)
}

/// Returns `word` with the refcount at bit offset `bit` replaced by `count`.
pub(super) fn insert(word: u64, order: u32, bit: u32, count: u64) -> u64 {
    let shift = shift(order, bit);
    word & !(mask(order) << shift) | count << shift
}

/// Returns the largest refcount, which is a mask of all its bits.
pub(super) fn mask(order: u32) -> u64 {
    u64::MAX >> (64 - (1 << order))
}

/// Returns the number of bits in the word below the refcount at bit offset `bit`.
fn shift(order: u32, bit: u32) -> u32 {
    let width = 1 << order;
    if width >= 8 {
        64 - width - bit
    } else {
        // Bytes are in big-endian order; bits within a byte start at the least significant one.
        56 - bit / 8 * 8 + bit % 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refcounts_of_every_width_are_extracted_as_specified() {
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
