//! A digest of the guest's bytes, which depends on nothing but them.
//!
//! ```text
//!   guest    │ data │ 0…0 │ data │ data │ 0…0 │ …          blocks of 4 KiB
//!               │            │      │
//!            hash(0)   + hash(2) + hash(3)   + …           each with its own offset
//! ```
//!
//! A sum, so that it does not matter how the disk is cut into tasks and who
//! carries them. Zeros count for nothing, whether they were read, found or
//! never asked for. It tells disks apart by accident's measure, 64 bits; it
//! keeps nobody out.

use crate::storage::zeros::is_zero;
use std::ops::Range;
use twox_hash::XxHash3_64;

/// Bytes hashed at a time. Another number gives every disk another digest.
pub(super) const BLOCK: u64 = 4096;

/// The digest of whole blocks from guest offset `start`, a multiple of a block.
/// Digests of disjoint ranges are to be added, wrapping around.
pub(super) fn of_bytes(start: u64, bytes: &[u8]) -> u64 {
    let blocks = (start..).step_by(BLOCK as usize).zip(bytes.chunks(BLOCK as usize));
    let stored = blocks.filter(|(_, block)| !is_zero(block));
    stored.map(|(at, block)| XxHash3_64::oneshot_with_seed(at, block)).fold(0, u64::wrapping_add)
}

/// The digest of a range that goes from file to file unread: all that is known
/// of it is where it is, and the `revision` of the file that it comes from. Two
/// disks that differ only in such bytes have another digest if the source was
/// written to in between.
pub(super) fn of_unread(range: &Range<u64>, revision: u64) -> u64 {
    XxHash3_64::oneshot_with_seed(range.start ^ revision, &range.end.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks 1, 2 and 5 of 8 hold something.
    fn sample() -> Vec<u8> {
        let mut bytes = vec![0; 8 * BLOCK as usize];
        for (block, byte) in [(1, 1), (2, 1), (5, 7)] {
            bytes[block * BLOCK as usize + 100] = byte;
        }
        bytes
    }

    #[test]
    fn the_parts_of_a_disk_add_up_to_the_whole_wherever_it_is_cut() {
        let bytes = sample();
        let whole = of_bytes(1 << 30, &bytes);
        for cut in 0..=8 {
            let (low, high) = bytes.split_at(cut * BLOCK as usize);
            let high = of_bytes((1 << 30) + cut as u64 * BLOCK, high);
            assert_eq!(of_bytes(1 << 30, low).wrapping_add(high), whole);
        }
    }

    #[test]
    fn zeros_count_for_nothing_and_every_other_byte_and_its_place_count() {
        assert_eq!(of_bytes(0, &vec![0; 8 * BLOCK as usize]), 0);
        let digest = of_bytes(0, &sample());
        assert_ne!(of_bytes(BLOCK, &sample()), digest);
        for at in [0, 4196, 8292, 32767] {
            let mut other = sample();
            other[at] ^= 0x80;
            assert_ne!(of_bytes(0, &other), digest, "{at}");
        }
        let mut swapped = sample();
        swapped.rotate_left(BLOCK as usize);
        assert_ne!(of_bytes(0, &swapped), digest);
    }

    #[test]
    fn of_unread_bytes_place_length_and_revision_count() {
        let ranges = [(0..BLOCK, 7), (0..2 * BLOCK, 7), (BLOCK..2 * BLOCK, 7), (0..BLOCK, 8)];
        let mut digests = ranges.map(|(range, revision)| of_unread(&range, revision));
        digests.sort_unstable();
        assert!(digests.windows(2).all(|pair| pair[0] != pair[1]));
    }

    /// As Python's xxhash computes XXH3 with a seed: the IDs of today are those
    /// of tomorrow.
    #[test]
    fn the_digest_of_a_block_is_its_xxh3() {
        let block: Vec<u8> = (0..BLOCK).map(|i| i as u8).collect();
        assert_eq!(of_bytes(4096, &block), 0xb28e_ad20_80a9_3e62);
    }
}
