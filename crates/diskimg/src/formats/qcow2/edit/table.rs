//! L2 tables of an image to which guest data is written.

use crate::formats::qcow2::tables::to_bytes;
use crate::storage::edit::Edit;
use crate::storage::number::to_u64;
use std::collections::BTreeSet;
use std::ops::Range;

/// Number of words in a sector, which is written as a whole.
const SECTOR_WORDS: usize = 64;

/// An L2 table in memory.
#[derive(Debug)]
pub(super) struct L2Table {
    pub(super) words: Vec<u64>,
    /// Host offset of the stored table, if it may be modified: `None` for a new table, and for one
    /// that a snapshot uses too.
    pub(super) stored: Option<u64>,
    /// Sectors that differ from what is stored.
    changed: BTreeSet<usize>,
    /// Host ranges that are no longer used once the table is stored.
    pub(super) unused: Vec<Range<u64>>,
}

impl L2Table {
    pub(super) fn new(words: Vec<u64>, stored: Option<u64>) -> Self {
        Self { words, stored, changed: BTreeSet::new(), unused: Vec::new() }
    }

    pub(super) fn is_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    pub(super) fn set(&mut self, index: usize, word: u64) {
        if self.words[index] != word {
            self.words[index] = word;
            self.changed.insert(index / SECTOR_WORDS);
        }
    }

    /// Returns the writes of the changed sectors of the table at `offset`.
    pub(super) fn changes(&self, offset: u64) -> impl Iterator<Item = Edit> {
        sectors(&self.words, &self.changed, offset)
    }
}

/// Returns the writes of some sectors of a table at host offset `offset`.
pub(super) fn sectors<'a>(
    words: &'a [u64],
    changed: &'a BTreeSet<usize>,
    offset: u64,
) -> impl Iterator<Item = Edit> + 'a {
    changed.iter().map(move |&sector| {
        let start = sector * SECTOR_WORDS;
        let words = &words[start..words.len().min(start + SECTOR_WORDS)];
        Edit::Write { offset: offset + to_u64(start) * 8, bytes: to_bytes(words) }
    })
}

/// Returns the sector of a table that contains the word with this index.
pub(super) fn sector_of(index: usize) -> usize {
    index / SECTOR_WORDS
}
