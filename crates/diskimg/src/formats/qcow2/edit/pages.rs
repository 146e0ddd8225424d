//! Parts of refcount blocks in memory.

use crate::formats::qcow2::tables::to_bytes;
use crate::storage::edit::Edit;
use crate::storage::number::{to_u64, to_usize};
use std::collections::BTreeMap;

/// Number of words in a sector, which is written as a whole.
const SECTOR_WORDS: usize = 64;

/// Length in bytes of a page, unless clusters are smaller.
const PAGE_BYTES: u64 = 4096;

/// Number of unchanged pages that are kept.
const MAX_CLEAN: usize = 256;

/// Number of changed pages from which they should be stored: 8 MiB.
const MAX_CHANGED: usize = 2048;

/// Pages of refcount blocks, by their number: the first page of the first block has number 0.
///
/// A block has up to 2 MiB, of which a modification may change a few bytes, so that whole blocks
/// would take much more memory than what is changed in them.
#[derive(Debug)]
pub(super) struct Pages {
    /// Length of a page in bytes.
    bytes: u64,
    /// Pages that are equal to what is stored.
    clean: BTreeMap<u64, Vec<u64>>,
    /// Pages that were changed, until they are known to be stored.
    changed: BTreeMap<u64, Changed>,
}

#[derive(Debug)]
struct Changed {
    words: Vec<u64>,
    /// One bit per sector that differs from what is stored.
    sectors: u8,
}

impl Pages {
    pub(super) fn new(cluster_size: u64) -> Self {
        let bytes = cluster_size.min(PAGE_BYTES);
        Self { bytes, clean: BTreeMap::new(), changed: BTreeMap::new() }
    }

    /// Returns the length of a page in bytes.
    pub(super) fn page_bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the words of a page, if it is in memory.
    pub(super) fn get(&self, number: u64) -> Option<&[u64]> {
        let changed = self.changed.get(&number).map(|page| &page.words);
        changed.or_else(|| self.clean.get(&number)).map(Vec::as_slice)
    }

    /// Adds a page as it is stored.
    pub(super) fn add(&mut self, number: u64, words: Vec<u64>) {
        if self.clean.len() >= MAX_CLEAN {
            self.clean.clear();
        }
        self.clean.insert(number, words);
    }

    /// Sets a word of a page that is in memory.
    pub(super) fn set(&mut self, number: u64, index: usize, word: u64) {
        if let Some(words) = self.clean.remove(&number) {
            self.changed.insert(number, Changed { words, sectors: 0 });
        }
        if let Some(page) = self.changed.get_mut(&number) {
            page.words[index] = word;
            page.sectors |= 1 << (index / SECTOR_WORDS);
        }
    }

    /// Returns the size in bytes of the changed pages.
    pub(super) fn changed_bytes(&self) -> u64 {
        to_u64(self.changed.len()) * self.bytes
    }

    /// Returns true if the changed pages take so much memory that they should be stored.
    pub(super) fn should_be_stored(&self) -> bool {
        self.changed.len() >= MAX_CHANGED
    }

    /// Calls `each` with the number of each page that was changed since the last call and the
    /// writes that store it, for a page at offset 0.
    pub(super) fn take_changes(&mut self, mut each: impl FnMut(u64, Vec<Edit>)) {
        for (&number, page) in &mut self.changed {
            let sectors = std::mem::take(&mut page.sectors);
            let writes = page.words.chunks(SECTOR_WORDS).enumerate();
            let writes = writes.filter(|(sector, _)| sectors >> sector & 1 == 1);
            let writes = writes.map(|(sector, words)| Edit::Write {
                offset: to_u64(sector * SECTOR_WORDS) * 8,
                bytes: to_bytes(words),
            });
            each(number, writes.collect());
        }
    }

    /// Removes the pages from memory that were not changed since [`take_changes`], whose edits were
    /// applied.
    ///
    /// [`take_changes`]: Self::take_changes
    pub(super) fn forget_stored(&mut self) {
        self.changed.retain(|_, page| page.sectors != 0);
    }

    /// Returns the number of words in a page.
    pub(super) fn words(&self) -> usize {
        to_usize(self.bytes / 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unchanged_pages_take_a_mebibyte_and_changed_ones_are_kept_until_they_are_stored() {
        let mut pages = Pages::new(2 << 20);
        let page = || vec![0; pages_words()];
        for number in 0..100_000 {
            pages.add(number, page());
            assert!(to_u64(pages.clean.len()) * pages.page_bytes() <= 1 << 20);
        }
        let mut number = 0;
        while !pages.should_be_stored() {
            pages.add(number, page());
            pages.set(number, 70, 5);
            number += 1;
        }
        assert_eq!(pages.changed_bytes(), 8 << 20);
        let mut writes = Vec::new();
        pages.take_changes(|number, edits| writes.push((number, edits)));
        assert_eq!(to_u64(writes.len()), number);
        let [Edit::Write { offset: 512, bytes }] = &writes[3].1[..] else { panic!("{writes:?}") };
        assert_eq!((bytes.len(), bytes[6 * 8 + 7]), (512, 5));
        // One is changed again before the others are stored.
        pages.set(7, 0, 1);
        pages.forget_stored();
        assert_eq!(pages.changed_bytes(), pages.page_bytes());
        assert_eq!(pages.get(7).map(|words| (words[0], words[70])), Some((1, 5)));
    }

    fn pages_words() -> usize {
        to_usize(PAGE_BYTES / 8)
    }
}
