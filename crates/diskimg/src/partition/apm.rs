//! The Apple partition map: a block that gives the size of blocks, and one block a partition.
//!
//! ```text
//!   block 0   "ER" block size(2) blocks(4)
//!         1   "PM" 0(2) entries(4) first(4) blocks(4) name(32) type(32)       big-endian
//! ```
//!
//! Specification: Apple, "Inside Macintosh: Devices", chapter 3. isohybrid counts blocks of 512
//! bytes in a map that is said to have blocks of 2048; so the numbers are given as they are.

use super::{Oddity, note};
use crate::storage::number::{to_index, to_u32, to_u64};
use serde::Serialize;

/// Partitions that are read: as many as fit before the volume descriptors.
const MAX_PARTITIONS: usize = 63;

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct ApmPartition {
    /// Its place in the map, from 1.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// What it is for: "Apple_HFS", …
    pub kind: String,
    /// Where it begins, in the map's blocks.
    pub first_block: u32,
    /// How long it is, in the map's blocks.
    pub blocks: u32,
}

/// An Apple partition map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Apm {
    /// Bytes of a block.
    pub block_bytes: u32,
    /// The partitions; the map itself is one.
    pub partitions: Vec<ApmPartition>,
}

impl Apm {
    /// Reads the map in the first bytes of a disk. `None` if there is none.
    pub(crate) fn parse(start: &[u8], oddities: &mut Vec<Oddity>) -> Option<Self> {
        let block = usize::from(be16(start, 2)?);
        // Without a single entry the two letters are an accident.
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
            });
        }
        if partitions.len() != count {
            let message =
                format!("APM: {count} partitions are announced, {} found", partitions.len());
            note(oddities, to_u64(block), message);
        }
        Some(Self { block_bytes: to_u32(block), partitions })
    }
}

/// The used bytes of that partition's block.
fn entry(start: &[u8], block: usize, number: usize) -> Option<&[u8]> {
    let at = block * number;
    start.get(at..at + 136).filter(|entry| entry.starts_with(b"PM"))
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
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
    fn partitions_are_found_at_any_block_size() {
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
    fn wrong_counts_and_sizes_are_no_trouble() {
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
