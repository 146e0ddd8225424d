//! Finds tables that several entries of another table refer to.
//!
//! ```text
//!   L1 table, grain directory    │ 0 │ 1 │ 2 │ … │      each entry maps gigabytes of the disk
//!                                  └───┴─┬─┘
//!   L2 table, grain table             one table          a few kilobytes of the file
//! ```
//!
//! In a valid image, no two entries refer to the same table, and tables do not overlap. Otherwise,
//! a small file would map a huge disk, and mapping it would take hours.

use crate::error::Error;

/// The tables that overlap others, by where they start.
#[derive(Debug, Default)]
pub(crate) struct SharedTables {
    /// Their starts, in ascending order, without duplicates.
    starts: Vec<u64>,
    /// The indices of two entries that refer to such tables.
    entries: (usize, usize),
}

impl SharedTables {
    /// Finds the tables of `len` bytes (or sectors) among those that start at `starts`: one for
    /// each entry, or `None` if the entry refers to no table. Takes time in proportion to the
    /// number of entries, but for sorting; eight bytes of memory for each if they
    /// are not in ascending order.
    pub(crate) fn find<I>(starts: I, len: u64) -> Self
    where
        I: Iterator<Item = Option<u64>> + Clone,
    {
        debug_assert!(len > 0);
        let mut end = 0;
        let is_disjoint = starts.clone().flatten().all(|start| {
            let is_after = start >= end;
            end = start.saturating_add(len);
            is_after
        });
        if is_disjoint {
            return Self::default();
        }
        let mut sorted = Vec::with_capacity(starts.clone().flatten().count());
        sorted.extend(starts.clone().flatten());
        sorted.sort_unstable();
        let overlaps = |pair: &[u64]| pair[1] - pair[0] < len;
        let Some(&[a, b]) = sorted.windows(2).find(|pair| overlaps(pair)) else {
            return Self::default();
        };
        // The starts that are kept are moved to the front, because a copy would take memory.
        let (mut kept, mut is_after_overlap) = (0, false);
        for i in 0..sorted.len() {
            let overlaps_next = sorted.get(i..i + 2).is_some_and(overlaps);
            if (overlaps_next || is_after_overlap) && (kept == 0 || sorted[kept - 1] != sorted[i]) {
                sorted[kept] = sorted[i];
                kept += 1;
            }
            is_after_overlap = overlaps_next;
        }
        sorted.truncate(kept);
        sorted.shrink_to_fit();
        Self { starts: sorted, entries: indices_of(starts, a, b) }
    }

    /// Returns true if the table that starts there overlaps another.
    pub(crate) fn contains(&self, start: u64) -> bool {
        !self.starts.is_empty() && self.starts.binary_search(&start).is_ok()
    }

    /// The error for reading such a table, a `child` ("L2 table") that entries of a `parent` ("L1
    /// table") refer to. It is the same for all of them, so that the ranges that are lost can be
    /// reported together.
    pub(crate) fn error(&self, parent: &'static str, child: &'static str) -> Error {
        let (a, b) = self.entries;
        Error::corrupt(
            parent,
            format!("entries {a} and {b} refer to the same {child}, or to two that overlap"),
        )
    }
}

/// Returns the indices, in ascending order, of an entry that refers to `a` and of another that
/// refers to `b`.
fn indices_of(starts: impl Iterator<Item = Option<u64>> + Clone, a: u64, b: u64) -> (usize, usize) {
    let index = |of: u64, nth: usize| {
        let mut found = starts.clone().enumerate().filter(|(_, start)| *start == Some(of));
        found.nth(nth).map_or(0, |(index, _)| index)
    };
    let (a, b) = (index(a, 0), index(b, usize::from(a == b)));
    (a.min(b), a.max(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(starts: &[u64], len: u64) -> SharedTables {
        SharedTables::find(starts.iter().map(|&start| (start != 0).then_some(start)), len)
    }

    #[test]
    fn tables_that_overlap_are_found_in_any_order() {
        for disjoint in [&[][..], &[0, 0, 0], &[7], &[10, 0, 14, 18], &[18, 10, 0, 14]] {
            assert!(find(disjoint, 4).starts.is_empty(), "{disjoint:?}");
        }
        let shared = find(&[30, 10, 0, 20, 10], 4);
        assert_eq!((&shared.starts[..], shared.entries), (&[10][..], (1, 4)));
        let shared = find(&[50, 17, 40, 10, 13, 53], 4);
        assert_eq!((&shared.starts[..], shared.entries), (&[10, 13, 50, 53][..], (3, 4)));
        assert!(shared.contains(53) && !shared.contains(40) && !shared.contains(17));
        let shared = find(&[u64::MAX, 5, u64::MAX], 4);
        assert_eq!((&shared.starts[..], shared.entries), (&[u64::MAX][..], (0, 2)));
        let text = shared.error("L1 table", "L2 table").to_string();
        assert!(text.contains("entries 0 and 2 refer to the same L2 table"), "{text}");
    }
}
