//! The Apple partition map: a block that contains the block size, and one block per partition.
//!
//! ```text
//!   block 0   "ER" block size(2) blocks(4)
//!         1   "PM" 0(2) entries(4) first(4) blocks(4) name(32) type(32)       big-endian
//! ```
//!
//! Specification: Apple, "Inside Macintosh: Devices", chapter 3. isohybrid counts blocks of 512
//! bytes in a map whose block size is 2048, so block numbers are not converted to bytes.

use super::{Oddity, note};
use crate::storage::number::{to_index, to_u32, to_u64};
use byteorder::{BigEndian, ByteOrder};
use serde::Serialize;

/// Maximum number of partitions that are read: as many as fit before the volume descriptors.
const MAX_PARTITIONS: usize = 63;

/// A partition of an Apple partition map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct ApmPartition {
    /// Number in the map, counted from 1.
    pub number: u32,
    /// Name.
    pub name: String,
    /// Type, such as "Apple_HFS".
    pub kind: String,
    /// First block, in blocks of the map.
    pub first_block: u32,
    /// Length in blocks of the map.
    pub blocks: u32,
    /// Status flags. Bit 0: valid; bit 1: allocated; bit 4: readable; bit 30: mounted at startup.
    pub status: u32,
}

/// An Apple partition map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Apm {
    /// Block size in bytes.
    pub block_bytes: u32,
    /// Partitions, including the map itself.
    pub partitions: Vec<ApmPartition>,
}

impl Apm {
    /// Parses the map in the first bytes of a disk. Returns `None` if there is none.
    pub(crate) fn parse(start: &[u8], oddities: &mut Vec<Oddity>) -> Option<Self> {
        let block = usize::from(be16(start, 2)?);
        // Without an entry, the signature is a coincidence.
        if !start.starts_with(b"ER") || block < 512 || entry(start, block, 1).is_none() {
            return None;
        }
        let count = to_index(be32(start, block + 4)?);
        let mut partitions = Vec::new();
        for number in 1..=count.min(MAX_PARTITIONS) {
            let Some(entry) = entry(start, block, number) else { break };
            partitions.push(ApmPartition {
                number: to_u32(number),
                name: text(&entry[16..48]),
                kind: text(&entry[48..80]),
                first_block: be32(entry, 8)?,
                blocks: be32(entry, 12)?,
                status: be32(entry, 88)?,
            });
        }
        if partitions.len() != count {
            let message =
                format!("APM: {} partitions found, but the map lists {count}", partitions.len());
            note(oddities, to_u64(block), message);
        }
        Some(Self { block_bytes: to_u32(block), partitions })
    }
}

/// Returns the used bytes of the block of partition `number`.
fn entry(start: &[u8], block: usize, number: usize) -> Option<&[u8]> {
    let at = block * number;
    start.get(at..at + 136).filter(|entry| entry.starts_with(b"PM"))
}

/// Writes the map of `partitions` to `start`, the first bytes of a disk, in blocks of `block`
/// bytes: one block for each partition after block 0. The first of the partitions is the map
/// itself.
///
/// Returns false, and writes nothing, if the map does not fit.
pub(crate) fn encode(start: &mut [u8], block: u32, partitions: &[ApmPartition]) -> bool {
    let size = to_index(block);
    if partitions.len() > MAX_PARTITIONS
        || size < 512
        || start.len() < size * (partitions.len() + 1)
    {
        return false;
    }
    let count = to_u32(partitions.len());
    for (entry, partition) in start[size..].chunks_exact_mut(size).zip(partitions) {
        entry[..136].fill(0);
        entry[..2].copy_from_slice(b"PM");
        let ApmPartition { first_block, blocks, status, .. } = *partition;
        for (at, number) in [(4, count), (8, first_block), (12, blocks), (84, blocks), (88, status)]
        {
            BigEndian::write_u32(&mut entry[at..], number);
        }
        for (at, text) in [(16, &partition.name), (48, &partition.kind)] {
            let len = text.len().min(32);
            entry[at..at + len].copy_from_slice(&text.as_bytes()[..len]);
        }
    }
    true
}

/// Removes the map of `count` partitions from the first bytes of a disk.
pub(crate) fn erase(start: &mut [u8], block: u32, count: usize) {
    let size = to_index(block);
    if start.starts_with(b"ER") {
        start[..4].fill(0);
    }
    let entries = start.get_mut(size..).unwrap_or_default().chunks_exact_mut(size);
    entries.take(count).filter(|entry| entry.starts_with(b"PM")).for_each(|entry| entry.fill(0));
}

impl ApmPartition {
    /// Type of the partition of the map itself.
    pub(crate) const MAP: &'static str = "Apple_partition_map";

    /// Type of a partition with an HFS or HFS+ file system.
    pub(crate) const HFS: &'static str = "Apple_HFS";

    /// Returns the status that xorriso records for a partition of this type.
    pub(crate) fn usual_status(kind: &str) -> u32 {
        match kind {
            Self::MAP => 3,
            Self::HFS => 0x4000_0013,
            _ => 0x13,
        }
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).map(BigEndian::read_u16)
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).map(BigEndian::read_u32)
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(block: usize, count: u32) -> Vec<u8> {
        let mut bytes = vec![0; 32 << 10];
        bytes[..4].copy_from_slice(&[b'E', b'R', (block >> 8) as u8, block as u8]);
        for number in 1..=2 {
            let entry = &mut bytes[block * number..];
            entry[..2].copy_from_slice(b"PM");
            entry[4..8].copy_from_slice(&count.to_be_bytes());
            entry[8..12].copy_from_slice(&(number as u32).to_be_bytes());
            entry[12..16].copy_from_slice(&7u32.to_be_bytes());
            entry[16..19].copy_from_slice(b"EFI");
            entry[48..57].copy_from_slice(b"Apple_HFS");
        }
        bytes
    }

    #[test]
    fn partitions_are_found_with_any_block_size() {
        for block in [512, 2048] {
            let mut oddities = Vec::new();
            let apm = Apm::parse(&map(block, 2), &mut oddities).expect("a map");
            assert_eq!(oddities, []);
            assert_eq!(apm.partitions.len(), 2);
            let second = &apm.partitions[1];
            assert_eq!((second.first_block, second.blocks), (2, 7));
            assert_eq!((&*second.name, &*second.kind), ("EFI", "Apple_HFS"));
        }
    }

    #[test]
    fn an_encoded_map_is_parsed_and_erased() {
        for block in [512u32, 2048] {
            let bytes = map(block as usize, 2);
            let partitions = Apm::parse(&bytes, &mut Vec::new()).expect("a map").partitions;
            let mut again = vec![0; bytes.len()];
            again[..4].copy_from_slice(&bytes[..4]);
            assert!(encode(&mut again, block, &partitions));
            let mut oddities = Vec::new();
            assert_eq!(Apm::parse(&again, &mut oddities).expect("a map").partitions, partitions);
            assert_eq!(oddities, []);
            erase(&mut again, block, 2);
            assert!(again.iter().all(|&byte| byte == 0));
            assert!(!encode(&mut again[..block as usize * 2], block, &partitions));
        }
    }

    #[test]
    fn invalid_counts_and_block_sizes_are_tolerated() {
        let mut oddities = Vec::new();
        let apm = Apm::parse(&map(2048, u32::MAX), &mut oddities).expect("a map");
        assert_eq!((apm.partitions.len(), oddities.len()), (2, 1));
        assert_eq!(Apm::parse(b"ER", &mut oddities), None);
        for block in [0, 1, 0xffff] {
            let mut bytes = map(512, 2);
            bytes[2..4].copy_from_slice(&u16::to_be_bytes(block));
            assert_eq!(Apm::parse(&bytes, &mut oddities), None);
        }
    }
}
