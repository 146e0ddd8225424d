//! Repairing tables whose entries refer to places where nothing can be.
//!
//! ```text
//!   an invalid entry                                             becomes
//!   it is the only one, no file could have had it, and one       that place
//!     bit differs from the place of exactly one table or
//!     cluster that has data and that nothing refers to
//!   other                                                        0
//! ```
//!
//! A file that was cut off has entries that its earlier length explains, and more than one as a rule.
//!
//! No byte of the file is lost: what an entry meant stays where it is. Entries that share what they
//! refer to are left, and if a table shares its place with anything else, all entries are: what is
//! stored there may be guest data.

use super::check::UsedSpace;
use super::{Entry, Tables, read_words};
use crate::error::{Error, Result};
use crate::open::limits::Limits;
use crate::storage::edit::Edit;
use crate::storage::number::to_usize;
use crate::storage::zeros::is_zero;
use std::collections::BTreeMap;

/// Maximum number of invalid entries that are recorded.
const MAX_INVALID: usize = 1 << 20;

/// An entry of a table.
#[derive(Debug, Clone, Copy)]
struct Word {
    /// Where it is stored.
    at: u64,
    value: u64,
}

/// What the tables of an image refer to.
pub(crate) struct Survey<'a> {
    tables: &'a Tables,
    limits: &'a Limits,
    used: UsedSpace,
    /// L1 entries that refer to no place for a table, each with its index.
    invalid_tables: Vec<(u64, Word)>,
    /// L2 entries that refer to no place for a cluster.
    invalid_clusters: Vec<Word>,
    /// There are more of these.
    is_incomplete: bool,
    /// The place of a table is used for something else as well, or a table is no table.
    is_ambiguous: bool,
}

impl<'a> Survey<'a> {
    /// Reads the tables, which take up whole clusters.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) if recording what is in use needs too much memory,
    /// [`Io`](crate::ErrorKind::Io) if a table cannot be read.
    pub(crate) fn of(tables: &'a Tables, limits: &'a Limits) -> Result<Self> {
        let layout = tables.layout();
        debug_assert!(layout.format.whole_clusters);
        let needed = 2 * UsedSpace::bytes(tables.end, layout.cluster_size());
        if needed > limits.check_bytes {
            let found = format!("recording which clusters are in use needs {needed} bytes");
            return Err(Error::over_limit("check_bytes", found, limits.check_bytes));
        }
        let mut used = UsedSpace::new(tables.end, layout.cluster_size());
        let location = &tables.location;
        used.insert(0..location.header_end);
        used.insert(location.l1_at..location.l1_at.saturating_add(location.l1_bytes));
        let mut survey = Self {
            tables,
            limits,
            used,
            invalid_tables: Vec::new(),
            invalid_clusters: Vec::new(),
            is_incomplete: false,
            is_ambiguous: false,
        };
        survey.find_tables();
        let only_tables = survey.used.clone();
        for (l1_index, &table) in (0..).zip(&tables.l1) {
            if table != 0 && survey.is_place_of_table(table) {
                survey.find_clusters(l1_index, table, &only_tables)?;
            }
        }
        Ok(survey)
    }

    fn is_place_of_table(&self, table: u64) -> bool {
        let len = self.tables.layout().table_bytes();
        self.tables.misplaced(table, len, len).is_none()
    }

    fn is_place_of_cluster(&self, offset: u64) -> bool {
        let size = self.tables.layout().cluster_size();
        self.tables.misplaced(offset, size, size).is_none()
    }

    fn find_tables(&mut self) {
        let len = self.tables.layout().table_bytes();
        for (l1_index, &value) in (0..).zip(&self.tables.l1).filter(|(_, value)| **value != 0) {
            if !self.is_place_of_table(value) {
                let at = self.tables.location.l1_at + l1_index * 8;
                self.invalid_tables.push((l1_index, Word { at, value }));
                continue;
            }
            self.is_ambiguous |= self.used.overlaps(value..value + len);
            self.used.insert(value..value + len);
        }
    }

    /// Finds what an L2 table refers to.
    fn find_clusters(&mut self, l1_index: u64, table: u64, only_tables: &UsedSpace) -> Result<()> {
        let (tables, layout) = (self.tables, self.tables.layout());
        let per_chunk = tables.chunk_entries();
        let first = l1_index << layout.table_bits;
        // Where guest data is taken for a table, most entries are between clusters.
        let (mut plausible, mut implausible) = (0, 0);
        for chunk in first / per_chunk..(first + layout.entries()) / per_chunk {
            let words = match tables.chunk(chunk, table) {
                Ok(words) => words,
                Err(error) if error.is_storage_failure() => return Err(error),
                Err(_) => {
                    self.is_ambiguous = true;
                    return Ok(());
                }
            };
            let within = chunk * per_chunk - first;
            for (index, &value) in (within..).zip(words.iter()) {
                let Entry::Data(offset) = layout.decode(value) else { continue };
                let is_aligned = offset.is_multiple_of(layout.cluster_size());
                *if is_aligned { &mut plausible } else { &mut implausible } += 1;
                if !self.is_place_of_cluster(offset) {
                    self.note_invalid(Word { at: table + index * 8, value });
                    continue;
                }
                let range = offset..offset + layout.cluster_size();
                self.is_ambiguous |= only_tables.overlaps(range.clone());
                self.used.insert(range);
            }
        }
        self.is_ambiguous |= implausible > plausible + 1;
        Ok(())
    }

    fn note_invalid(&mut self, word: Word) {
        match self.invalid_clusters.len() < MAX_INVALID {
            true => self.invalid_clusters.push(word),
            false => self.is_incomplete = true,
        }
    }

    /// Returns the modifications of L1 entries that refer to a table again. Then the L2 entries are
    /// to be surveyed again.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if a table cannot be read.
    pub(crate) fn restored_tables(&self) -> Result<Vec<Edit>> {
        let layout = self.tables.layout();
        let most = layout.used_entries(0, self.tables.size()) * 8;
        let is_only = self.invalid_tables.len() == 1 && self.invalid_clusters.is_empty();
        if self.is_ambiguous || !is_only || most > self.limits.table_bytes {
            return Ok(Vec::new());
        }
        let mut candidates = Vec::new();
        for &(l1_index, word) in &self.invalid_tables {
            if !self.is_impossible(word.value) {
                continue;
            }
            for place in neighbors(word.value).filter(|&place| self.is_place_of_table(place)) {
                if !self.used.overlaps(place..place + layout.table_bytes())
                    && self.clusters_of_lost_table(l1_index, place)?.is_some()
                {
                    candidates.push((word, place));
                }
            }
        }
        let restored = unique(&candidates);
        // No two tables may have the same clusters.
        let mut used = self.used.clone();
        for &(word, place) in &restored {
            let l1_index = (word.at - self.tables.location.l1_at) / 8;
            let clusters = self.clusters_of_lost_table(l1_index, place)?.unwrap_or_default();
            let tables = std::iter::once(place..place + layout.table_bytes());
            let clusters = clusters.into_iter().map(|start| start..start + layout.cluster_size());
            for range in tables.chain(clusters) {
                if used.overlaps(range.clone()) {
                    return Ok(Vec::new());
                }
                used.insert(range);
            }
        }
        Ok(self.write_all(restored))
    }

    /// Returns the clusters that a table refers to; `None` if it can hardly be one that was lost.
    fn clusters_of_lost_table(&self, l1_index: u64, place: u64) -> Result<Option<Vec<u64>>> {
        let (tables, layout) = (self.tables, self.tables.layout());
        let count = layout.used_entries(l1_index, tables.size());
        let words = match read_words(&*tables.source, layout, layout.format.l2, place, count) {
            Err(error) if !error.is_storage_failure() => return Ok(None),
            words => words?,
        };
        let mut clusters = Vec::new();
        for word in words {
            let Entry::Data(offset) = layout.decode(word) else { continue };
            let range = offset..offset.saturating_add(layout.cluster_size());
            if !self.is_place_of_cluster(offset) || self.used.overlaps(range) {
                return Ok(None);
            }
            clusters.push(offset);
        }
        Ok((!clusters.is_empty()).then_some(clusters))
    }

    /// Returns true if a file whose length is of the same order could not have had an entry.
    fn is_impossible(&self, value: u64) -> bool {
        let is_aligned = value.is_multiple_of(self.tables.layout().cluster_size());
        !is_aligned || value / 4 >= self.tables.end
    }

    /// Returns the modifications of L2 entries that refer to a cluster again.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if a cluster cannot be read.
    pub(crate) fn restored_clusters(&self) -> Result<Vec<Edit>> {
        let [word] = self.invalid_clusters[..] else { return Ok(Vec::new()) };
        let is_only = self.invalid_tables.is_empty() && !self.is_incomplete;
        if self.is_ambiguous || !is_only || !self.is_impossible(word.value) {
            return Ok(Vec::new());
        }
        let size = self.tables.layout().cluster_size();
        let is_lost = |&place: &u64| {
            self.is_place_of_cluster(place) && !self.used.overlaps(place..place + size)
        };
        let mut candidates = Vec::new();
        for place in neighbors(word.value).filter(is_lost) {
            // Zeros may hide a backing file.
            if self.has_data(place, size)? {
                candidates.push((word, place));
            }
        }
        Ok(self.write_all(unique(&candidates)))
    }

    /// Returns true if a cluster is not all zeros.
    fn has_data(&self, place: u64, len: u64) -> Result<bool> {
        let mut buf = vec![0; to_usize(len)];
        let read = self.tables.source.read_exact_at(&mut buf, place);
        read.map_err(|e| Error::io("cannot read a cluster", e).at(place))?;
        Ok(!is_zero(&buf))
    }

    /// Returns the modifications that remove invalid entries. If there are many, they are not all,
    /// and the tables are to be surveyed again.
    pub(crate) fn removed(&self) -> Vec<Edit> {
        if self.is_ambiguous {
            return Vec::new();
        }
        let tables = self.invalid_tables.iter().map(|&(_, word)| word);
        self.write_all(tables.chain(self.invalid_clusters.iter().copied()).map(|word| (word, 0)))
    }

    fn write_all(&self, words: impl IntoIterator<Item = (Word, u64)>) -> Vec<Edit> {
        let to_bytes = self.tables.layout().format.to_bytes;
        let write = |(word, value): (Word, u64)| Edit::Write {
            offset: word.at,
            bytes: to_bytes(value).to_vec(),
        };
        words.into_iter().map(write).collect()
    }
}

/// Returns the numbers of which one bit is different.
fn neighbors(value: u64) -> impl Iterator<Item = u64> {
    (0..u64::BITS).map(move |bit| value ^ 1 << bit)
}

/// Returns the entries with only one candidate, which is not one of another entry.
fn unique(candidates: &[(Word, u64)]) -> Vec<(Word, u64)> {
    let (mut of_word, mut of_place) = (BTreeMap::new(), BTreeMap::new());
    for (word, place) in candidates {
        *of_word.entry(word.at).or_insert(0usize) += 1;
        *of_place.entry(*place).or_insert(0usize) += 1;
    }
    let is_unique = |(word, place): &&(Word, u64)| of_word[&word.at] == 1 && of_place[place] == 1;
    candidates.iter().filter(is_unique).copied().collect()
}
