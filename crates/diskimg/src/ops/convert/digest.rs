//! A digest of the guest's bytes that depends on nothing else.
//!
//! ```text
//!   guest    │ data │ 0…0 │ data │ data │ 0…0 │ …          blocks of 4 KiB
//!               │            │      │
//!            hash(0)   + hash(2) + hash(3)   + …           each seeded with its offset
//! ```
//!
//! The digest is a sum, so it does not depend on how the disk is divided into tasks or on the order
//! in which they are processed. Zero blocks do not contribute, whether they were read, detected or
//! never mapped. With 64 bits and no key it detects accidental differences only.

use crate::storage::zeros::is_zero;
use std::ops::Range;

/// Bytes hashed at a time. Changing this changes the digest of every disk.
pub(super) const BLOCK: u64 = 4096;

/// Returns the digest of whole blocks from guest offset `start`, a multiple of [`BLOCK`]. The
/// digest of disjoint ranges is the wrapping sum of their digests.
pub(super) fn of_bytes(start: u64, bytes: &[u8]) -> u64 {
    let blocks = (start..).step_by(BLOCK as usize).zip(bytes.chunks(BLOCK as usize));
    let stored = blocks.filter(|(_, block)| !is_zero(block));
    stored.map(|(at, block)| hash(at, block)).fold(0, u64::wrapping_add)
}

/// Returns the digest of a range that is shared or copied by the kernel and so never read. It is
/// computed from the range and the `revision` of the source file, which changes when the file is
/// modified.
pub(super) fn of_unread(range: &Range<u64>, revision: u64) -> u64 {
    hash(range.start ^ revision, &range.end.to_le_bytes())
}

#[cfg(any(feature = "vmdk", feature = "vhd", feature = "vhdx", feature = "vdi"))]
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot_with_seed(seed, bytes)
}

/// Only targets with identifiers need the digest.
#[cfg(not(any(feature = "vmdk", feature = "vhd", feature = "vhdx", feature = "vdi")))]
fn hash(_seed: u64, _bytes: &[u8]) -> u64 {
    0
}

#[cfg(all(test, feature = "vmdk"))]
mod tests {
    use super::*;

    /// Eight blocks, of which 1, 2 and 5 are not zero.
    fn sample() -> Vec<u8> {
        let mut bytes = vec![0; 8 * BLOCK as usize];
        for (block, byte) in [(1, 1), (2, 1), (5, 7)] {
            bytes[block * BLOCK as usize + 100] = byte;
        }
        bytes
    }

    #[test]
    fn the_digest_does_not_depend_on_where_the_disk_is_cut() {
        let bytes = sample();
        let whole = of_bytes(1 << 30, &bytes);
        for cut in 0..=8 {
            let (low, high) = bytes.split_at(cut * BLOCK as usize);
            let high = of_bytes((1 << 30) + cut as u64 * BLOCK, high);
            assert_eq!(of_bytes(1 << 30, low).wrapping_add(high), whole);
        }
    }

    #[test]
    fn zeros_do_not_contribute_and_every_other_byte_and_its_offset_do() {
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
    fn the_digest_of_unread_bytes_depends_on_offset_length_and_revision() {
        let ranges = [(0..BLOCK, 7), (0..2 * BLOCK, 7), (BLOCK..2 * BLOCK, 7), (0..BLOCK, 8)];
        let mut digests = ranges.map(|(range, revision)| of_unread(&range, revision));
        digests.sort_unstable();
        assert!(digests.windows(2).all(|pair| pair[0] != pair[1]));
    }

    /// The expected value is from Python's `xxhash`. It must not change: content IDs depend on it.
    #[test]
    fn the_digest_of_a_block_is_its_xxh3() {
        let block: Vec<u8> = (0..BLOCK).map(|i| i as u8).collect();
        assert_eq!(of_bytes(4096, &block), 0xb28e_ad20_80a9_3e62);
    }
}
