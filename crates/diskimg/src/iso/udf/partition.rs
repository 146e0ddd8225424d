//! Translation of partition blocks to byte offsets in the image.
//!
//! ```text
//!   type 1        block → start of the partition + block
//!   virtual       block → VAT → block of the partition                 write-once media, e.g. CD-R
//!   sparable      block → sparing table → replacement packet           rewritable media
//!   metadata      block → offset in the metadata file → block          UDF 2.50 and later
//! ```
//!
//! The last three (UDF, 2.2.8 to 2.2.10) are stored in the type 1 partition of the same number.

use crate::error::{Error, Result};
use crate::iso::node::FileExtent;
use crate::storage::number::to_usize;

/// Address of a block: the index of the partition's map, and the block within the partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct BlockAddress {
    pub(super) partition: u16,
    pub(super) block: u32,
}

/// A partition, and how its blocks are mapped.
#[derive(Debug)]
pub(super) enum Partition {
    /// Blocks are contiguous.
    Plain(BlockRange),
    /// Blocks are mapped by the virtual allocation table. An entry of 2^32 - 1 is unused.
    Virtual { range: BlockRange, table: Vec<u32> },
    /// Blocks are contiguous, except for packets that were replaced.
    Sparable {
        range: BlockRange,
        /// Length of a packet in blocks.
        packet: u32,
        /// For each replaced packet, its first block in the partition and the first sector of its
        /// replacement in the volume; ascending.
        spared: Vec<(u32, u32)>,
    },
    /// Blocks are in these extents of the metadata file.
    Metadata(ExtentList),
}

/// A contiguous range of blocks of the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockRange {
    pub(super) start: u32,
    pub(super) blocks: u32,
}

/// Concatenated extents of the image.
#[derive(Debug)]
pub(super) struct ExtentList {
    extents: Vec<FileExtent>,
    /// Offset of each extent in the concatenation; ascending.
    starts: Vec<u64>,
    len: u64,
}

impl ExtentList {
    pub(super) fn new(extents: Vec<FileExtent>) -> Self {
        let mut len = 0u64;
        let mut starts = Vec::with_capacity(extents.len());
        for extent in &extents {
            starts.push(len);
            len = len.saturating_add(extent.len);
        }
        Self { extents, starts, len }
    }
}

/// The partitions of a volume, in the order of the partition maps.
#[derive(Debug)]
pub(crate) struct Partitions {
    pub(super) block_size: u32,
    pub(super) all: Vec<Partition>,
}

impl Partitions {
    /// Returns true if the volume is on write-once media that may not be completely recorded: its
    /// partition has the length of the medium, and the second anchor is recorded last.
    pub(crate) fn is_incremental(&self) -> bool {
        self.all.iter().any(|partition| matches!(partition, Partition::Virtual { .. }))
    }

    /// Returns the offset in bytes of the end of the last partition whose blocks are contiguous.
    pub(crate) fn end(&self) -> u64 {
        let ends = self.all.iter().filter_map(|partition| match partition {
            Partition::Plain(range) | Partition::Sparable { range, .. } => {
                Some(u64::from(range.start) + u64::from(range.blocks))
            }
            _ => None,
        });
        ends.max().unwrap_or(0) * u64::from(self.block_size)
    }

    /// Maps `len` bytes, starting at the start of a block, to extents of the image, and passes
    /// these to `push` in order.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if the bytes are not within the partition,
    /// and the errors of `push`.
    pub(super) fn map(
        &self,
        address: BlockAddress,
        len: u64,
        mut push: impl FnMut(FileExtent) -> Result<()>,
    ) -> Result<()> {
        let size = u64::from(self.block_size);
        let partition = self.all.get(usize::from(address.partition)).ok_or_else(|| {
            corrupt(format!("partition reference {} has no partition map", address.partition))
        })?;
        let blocks = len.div_ceil(size);
        let first = u64::from(address.block);
        let beyond = || {
            corrupt(format!(
                "{len} bytes at block {} are not within partition {}",
                address.block, address.partition
            ))
        };
        let at = |sector: u64, len| FileExtent { offset: Some(sector * size), len };
        match partition {
            Partition::Plain(range) => {
                push(at(range.sector(first, blocks).ok_or_else(beyond)?, len))
            }
            Partition::Virtual { range, table } => {
                for index in 0..blocks {
                    let entry = table.get(to_usize(first + index)).ok_or_else(beyond)?;
                    let sector = range.sector((*entry).into(), 1).ok_or_else(beyond)?;
                    push(at(sector, size.min(len - index * size)))?;
                }
                Ok(())
            }
            Partition::Sparable { range, packet, spared } => {
                let start = range.sector(first, blocks).ok_or_else(beyond)?;
                let mut done = 0;
                while done < blocks {
                    let block = first + done;
                    let (sector, until) = match spare(spared, *packet, block) {
                        (Some(sector), until) => (sector, until),
                        (None, until) => (start + done, until),
                    };
                    let now = (until - block).min(blocks - done);
                    push(at(sector, (now * size).min(len - done * size)))?;
                    done += now;
                }
                Ok(())
            }
            Partition::Metadata(file) => {
                let mut offset = first * size;
                let end = offset + len;
                if end > file.len {
                    return Err(beyond());
                }
                while offset < end {
                    let index = file.starts.partition_point(|&start| start <= offset) - 1;
                    let (extent, start) = (file.extents[index], file.starts[index]);
                    let now = (start + extent.len - offset).min(end - offset);
                    let at = extent.offset.map(|at| at + (offset - start));
                    push(FileExtent { offset: at, len: now })?;
                    offset += now;
                }
                Ok(())
            }
        }
    }

    /// Returns the byte offset of a block in the image.
    pub(super) fn block(&self, address: BlockAddress) -> Result<u64> {
        let mut found = None;
        self.map(address, u64::from(self.block_size), |extent| {
            // There is a second extent only if one of a metadata file ends within the block.
            found.get_or_insert(extent.offset);
            Ok(())
        })?;
        let unrecorded = || corrupt(format!("block {} is not recorded", address.block));
        found.flatten().ok_or_else(unrecorded)
    }
}

impl BlockRange {
    /// Returns the sector of the volume for `block` if `blocks` blocks from there are within the
    /// range.
    fn sector(&self, block: u64, blocks: u64) -> Option<u64> {
        (block + blocks <= self.blocks.into()).then(|| u64::from(self.start) + block)
    }
}

/// Returns the sector of the volume that replaces `block`, if its packet was replaced, and the end
/// of the blocks for which the same applies.
fn spare(spared: &[(u32, u32)], packet: u32, block: u64) -> (Option<u64>, u64) {
    let next = spared.partition_point(|&(original, _)| u64::from(original) <= block);
    let until = spared.get(next).map_or(u64::MAX, |&(original, _)| original.into());
    if let Some(&(original, mapped)) = next.checked_sub(1).and_then(|i| spared.get(i)) {
        let end = u64::from(original) + u64::from(packet);
        if block < end {
            let inside = block - u64::from(original);
            return (Some(u64::from(mapped) + inside), end.min(until));
        }
    }
    (None, until)
}

fn corrupt(what: String) -> Error {
    Error::corrupt("partition", what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(partition: Partition, block: u32, len: u64) -> Result<Vec<(Option<u64>, u64)>> {
        let partitions = Partitions { block_size: 512, all: vec![partition] };
        let mut extents = Vec::new();
        partitions.map(BlockAddress { partition: 0, block }, len, |extent| {
            extents.push((extent.offset.map(|at| at / 512), extent.len));
            Ok(())
        })?;
        Ok(extents)
    }

    const RANGE: BlockRange = BlockRange { start: 100, blocks: 50 };

    #[test]
    fn blocks_beyond_the_end_of_a_plain_partition_are_an_error() {
        let plain = || Partition::Plain(RANGE);
        assert_eq!(mapped(plain(), 3, 1000).expect("inside"), [(Some(103), 1000)]);
        assert_eq!(mapped(plain(), 49, 512).expect("inside"), [(Some(149), 512)]);
        mapped(plain(), 49, 513).expect_err("past the end");
        mapped(plain(), u32::MAX, 1 << 30).expect_err("far past the end");
    }

    #[test]
    fn a_virtual_partition_is_mapped_by_its_table_block_by_block() {
        let table = || Partition::Virtual { range: RANGE, table: vec![7, 2, u32::MAX] };
        let extents = mapped(table(), 0, 600).expect("inside");
        assert_eq!(extents, [(Some(107), 512), (Some(102), 88)]);
        mapped(table(), 2, 512).expect_err("unused");
        mapped(table(), 3, 512).expect_err("past the end");
    }

    #[test]
    fn a_spared_packet_is_read_from_its_replacement() {
        let sparable =
            || Partition::Sparable { range: RANGE, packet: 4, spared: vec![(8, 900), (12, 800)] };
        let extents = mapped(sparable(), 6, 12 * 512 - 12).expect("inside");
        let wanted = [(Some(106), 1024), (Some(900), 2048), (Some(800), 2048), (Some(116), 1012)];
        assert_eq!(extents, wanted);
        assert_eq!(mapped(sparable(), 9, 512).expect("inside"), [(Some(901), 512)]);
        mapped(sparable(), 49, 513).expect_err("past the end");
    }

    #[test]
    fn a_metadata_partition_is_mapped_by_the_extents_of_its_file() {
        let extent = |sector: u64, len| FileExtent { offset: Some(sector * 512), len };
        let file = || {
            let extents = vec![extent(300, 1024), extent(20, 512)];
            Partition::Metadata(ExtentList::new(extents))
        };
        let extents = mapped(file(), 1, 1024).expect("inside");
        assert_eq!(extents, [(Some(301), 512), (Some(20), 512)]);
        mapped(file(), 1, 1025).expect_err("past the end");
    }
}
