//! From a block of a partition to bytes of the image.
//!
//! ```text
//!   type 1        block → start of the partition + block
//!   virtual       block → table (the VAT) → block of the partition     written once, e. g. CD-R
//!   sparable      block → table of packets that went elsewhere         rewritable media
//!   metadata      block → place in the metadata file → block           UDF 2.50 and later
//! ```
//!
//! The last three (UDF, 2.2.8 to 2.2.10) stand on a type 1 partition that has the same number.

use crate::error::{Error, Result};
use crate::iso::node::FileExtent;
use crate::storage::number::to_usize;

/// A block of a partition: of which one, is told by its place among the partition maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct BlockAddress {
    pub(super) partition: u16,
    pub(super) block: u32,
}

/// How a partition's blocks are found.
#[derive(Debug)]
pub(super) enum Partition {
    /// One after the other.
    Plain(BlockRange),
    /// Wherever the table says. An entry of 2^32 - 1 is not used.
    Virtual { run: BlockRange, table: Vec<u32> },
    /// One after the other, but for some packets.
    Sparable {
        run: BlockRange,
        /// Blocks of a packet.
        packet: u32,
        /// First block of a packet and the sector of the volume where it is; ascending.
        spared: Vec<(u32, u32)>,
    },
    /// In these stretches of the image.
    Metadata(ExtentList),
}

/// Blocks of the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockRange {
    pub(super) start: u32,
    pub(super) blocks: u32,
}

/// ExtentList of the image, one after the other.
#[derive(Debug)]
pub(super) struct ExtentList {
    extents: Vec<FileExtent>,
    /// Where each starts; ascending.
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
pub(super) struct Partitions {
    pub(super) block_size: u32,
    pub(super) all: Vec<Partition>,
}

impl Partitions {
    /// The bytes of the image that `len` bytes from the start of a block are. They are given to
    /// `push` in order; whatever that refuses, ends it.
    pub(super) fn map(
        &self,
        place: BlockAddress,
        len: u64,
        mut push: impl FnMut(FileExtent) -> Result<()>,
    ) -> Result<()> {
        let size = u64::from(self.block_size);
        let partition = self.all.get(usize::from(place.partition)).ok_or_else(|| {
            corrupt(format!("partition {} is referred to, but not described", place.partition))
        })?;
        let blocks = len.div_ceil(size);
        let first = u64::from(place.block);
        let beyond = || {
            corrupt(format!(
                "{len} bytes at block {} leave partition {}",
                place.block, place.partition
            ))
        };
        let at = |sector: u64, len| FileExtent { offset: Some(sector * size), len };
        match partition {
            Partition::Plain(run) => push(at(run.sector(first, blocks).ok_or_else(beyond)?, len)),
            Partition::Virtual { run, table } => {
                for index in 0..blocks {
                    let entry = table.get(to_usize(first + index)).ok_or_else(beyond)?;
                    let sector = run.sector((*entry).into(), 1).ok_or_else(beyond)?;
                    push(at(sector, size.min(len - index * size)))?;
                }
                Ok(())
            }
            Partition::Sparable { run, packet, spared } => {
                let start = run.sector(first, blocks).ok_or_else(beyond)?;
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
            Partition::Metadata(stretches) => {
                let mut offset = first * size;
                let end = offset + len;
                if end > stretches.len {
                    return Err(beyond());
                }
                while offset < end {
                    let index = stretches.starts.partition_point(|&start| start <= offset) - 1;
                    let (extent, start) = (stretches.extents[index], stretches.starts[index]);
                    let now = (start + extent.len - offset).min(end - offset);
                    let at = extent.offset.map(|at| at + (offset - start));
                    push(FileExtent { offset: at, len: now })?;
                    offset += now;
                }
                Ok(())
            }
        }
    }

    /// Where a block is, in bytes of the image.
    pub(super) fn block(&self, place: BlockAddress) -> Result<u64> {
        let mut found = None;
        self.map(place, u64::from(self.block_size), |extent| {
            // Only a metadata file cut in the middle of a block has a second part.
            found.get_or_insert(extent.offset);
            Ok(())
        })?;
        let unrecorded = || corrupt(format!("block {} is not recorded", place.block));
        found.flatten().ok_or_else(unrecorded)
    }
}

impl BlockRange {
    /// The sector of the volume that `block` is, if that and those after it lie inside.
    fn sector(&self, block: u64, blocks: u64) -> Option<u64> {
        (block + blocks <= self.blocks.into()).then(|| u64::from(self.start) + block)
    }
}

/// The sector of the volume where `block` is, if its packet went elsewhere, and the block up to
/// which that holds.
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

    const RUN: BlockRange = BlockRange { start: 100, blocks: 50 };

    #[test]
    fn a_plain_partition_ends_where_it_ends() {
        let plain = || Partition::Plain(RUN);
        assert_eq!(mapped(plain(), 3, 1000).expect("inside"), [(Some(103), 1000)]);
        assert_eq!(mapped(plain(), 49, 512).expect("inside"), [(Some(149), 512)]);
        mapped(plain(), 49, 513).expect_err("behind it");
        mapped(plain(), u32::MAX, 1 << 30).expect_err("far behind it");
    }

    #[test]
    fn a_virtual_partition_goes_through_its_table_block_by_block() {
        let table = || Partition::Virtual { run: RUN, table: vec![7, 2, u32::MAX] };
        let extents = mapped(table(), 0, 600).expect("inside");
        assert_eq!(extents, [(Some(107), 512), (Some(102), 88)]);
        mapped(table(), 2, 512).expect_err("not used");
        mapped(table(), 3, 512).expect_err("behind it");
    }

    #[test]
    fn a_spared_packet_is_read_where_it_went() {
        let sparable =
            || Partition::Sparable { run: RUN, packet: 4, spared: vec![(8, 900), (12, 800)] };
        let extents = mapped(sparable(), 6, 12 * 512 - 12).expect("inside");
        let wanted = [(Some(106), 1024), (Some(900), 2048), (Some(800), 2048), (Some(116), 1012)];
        assert_eq!(extents, wanted);
        assert_eq!(mapped(sparable(), 9, 512).expect("inside"), [(Some(901), 512)]);
        mapped(sparable(), 49, 513).expect_err("behind it");
    }

    #[test]
    fn a_metadata_partition_lies_in_its_file() {
        let extent = |sector: u64, len| FileExtent { offset: Some(sector * 512), len };
        let file = || {
            let stretches = vec![extent(300, 1024), extent(20, 512)];
            Partition::Metadata(ExtentList::new(stretches))
        };
        let extents = mapped(file(), 1, 1024).expect("inside");
        assert_eq!(extents, [(Some(301), 512), (Some(20), 512)]);
        mapped(file(), 1, 1025).expect_err("behind it");
    }
}
