//! Finds blocks that overlap others: one bit for each MiB of the file.
//!
//! Blocks start at multiples of 1 MiB and have a multiple of that length. In a valid image, no two
//! use the same MiB. Otherwise, a small file would hold a huge disk.

use super::MIB;
use crate::error::{Error, Result};
use crate::storage::number::to_usize;
use std::collections::HashMap;
use std::ops::Range;

/// Words of 64 bits in a page of the set: 32 GiB of the file.
const PAGE_WORDS: usize = 512;

/// Maximum number of pages: 16 MiB of memory, for blocks in 128 TiB of a file.
const MAX_PAGES: usize = 4096;

/// A set of MiBs of a file. Its memory depends on how many places of the file are in use, not on
/// the length of the file.
#[derive(Debug, Default)]
struct Set(HashMap<u64, Box<[u64; PAGE_WORDS]>>);

impl Set {
    /// Calls `visit` for each word of the set that the MiBs `range` are in, with their bits.
    fn for_each_word(
        &mut self,
        range: Range<u64>,
        mut visit: impl FnMut(u64, &mut u64, u64),
    ) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let (word, bit) = (at / 64, at % 64);
            let count = (64 - bit).min(range.end - at);
            let mask = u64::MAX >> (64 - count) << bit;
            let words = u64::try_from(PAGE_WORDS).unwrap_or(1);
            if self.0.len() >= MAX_PAGES && !self.0.contains_key(&(word / words)) {
                return Err(Places::too_many());
            }
            let page = self.0.entry(word / words).or_insert_with(|| Box::new([0; PAGE_WORDS]));
            if let Some(bits) = page.get_mut(to_usize(word % words)) {
                visit(word, bits, mask);
            }
            at += count;
        }
        Ok(())
    }

    fn contains_any(&self, range: Range<u64>) -> bool {
        let words = u64::try_from(PAGE_WORDS).unwrap_or(1);
        !self.0.is_empty()
            && range.into_iter().any(|mib| {
                let (word, bit) = (mib / 64, mib % 64);
                let page = self.0.get(&(word / words));
                let bits = page.and_then(|page| page.get(to_usize(word % words)));
                bits.is_some_and(|bits| bits >> bit & 1 != 0)
            })
    }
}

/// The places of all blocks, and those that several blocks use.
#[derive(Debug, Default)]
pub(super) struct Places {
    used: Set,
    shared: Set,
}

impl Places {
    /// Adds the block in a host range of whole MiBs.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) if the blocks are in too many places of the file.
    pub(super) fn add(&mut self, block: &Range<u64>) -> Result<()> {
        let shared = &mut self.shared;
        let mut outcome = Ok(());
        self.used.for_each_word(mibs(block), |word, used, mask| {
            let both = *used & mask;
            *used |= mask;
            if both != 0 && outcome.is_ok() {
                outcome = shared.for_each_word(word * 64..(word + 1) * 64, |_, bits, _| {
                    *bits |= both;
                });
            }
        })?;
        outcome
    }

    /// The error for blocks in too many places of the file.
    pub(super) fn too_many() -> Error {
        let message = "blocks in more than 128 TiB of the file";
        Error::limit(message).in_structure(super::blocks::STRUCTURE)
    }

    /// Returns true if another block uses a part of this one.
    pub(super) fn is_shared(&self, block: &Range<u64>) -> bool {
        self.shared.contains_any(mibs(block))
    }

    /// Forgets which places are in use, when all blocks were added.
    pub(super) fn finish(mut self) -> Self {
        self.used = Set::default();
        self
    }
}

/// Returns the MiBs of a host range.
fn mibs(range: &Range<u64>) -> Range<u64> {
    range.start / MIB..range.end.div_ceil(MIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_overlap_in_part_are_found_in_any_order() {
        let range = |start: u64, len: u64| start * MIB..(start + len) * MIB;
        let mut places = Places::default();
        let blocks =
            [range(100_000, 32), range(60, 8), range(4, 32), range(36, 24), range(67, 200)];
        for block in &blocks {
            places.add(block).expect("adds");
        }
        let places = places.finish();
        let shared: Vec<_> = blocks.iter().map(|block| places.is_shared(block)).collect();
        assert_eq!(shared, [false, true, false, false, true]);
        assert!(places.is_shared(&range(67, 1)) && !places.is_shared(&range(68, 1)));
    }

    #[test]
    fn blocks_all_over_a_huge_file_are_limited() {
        let mut places = Places::default();
        let page = 32 << 30;
        for n in 0..4096 {
            places.add(&(n * page..n * page + MIB)).expect("fits");
        }
        let error = places.add(&(4096 * page..4096 * page + MIB)).expect_err("too many");
        assert_eq!(error.kind(), crate::ErrorKind::Limit);
    }
}
