//! Salvage: the record of ranges that could not be read.

use super::Salvaged;
use crate::error::{Error, ErrorKind};
use crate::storage::lock;
use std::ops::Range;
use std::sync::Mutex;

/// Granularity in bytes in which unreadable data is given up: that of the page cache.
pub(super) const SALVAGE_BLOCK: u64 = 4096;

/// The same for data that is not read from a file of the host.
pub(super) const SALVAGE_SECTOR: u64 = 512;

/// Maximum number of ranges that are listed with their errors.
pub(super) const MAX_LISTED: usize = 4096;

/// The ranges that could not be read and were replaced by zeros.
#[derive(Debug)]
pub(super) struct SalvageLog {
    active: bool,
    /// All ranges are needed, not only those that are listed.
    keeps_all: bool,
    lost: Mutex<Lost>,
}

/// What was lost so far.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// The first ranges in guest order, if they are not too many.
    pub(super) listed: Vec<Salvaged>,
    /// Guest offset from which ranges are not listed.
    unlisted: Option<u64>,
    /// All ranges, if these are kept.
    pub(super) all: Vec<Range<u64>>,
    /// Number of bytes in all ranges.
    pub(super) bytes: u64,
}

impl SalvageLog {
    /// Creates a log, which keeps all ranges on request.
    pub(super) fn new(active: bool, keeps_all: bool) -> Self {
        Self { active, keeps_all, lost: Mutex::default() }
    }

    /// Returns true if data that is unreadable because of `error` is to be replaced by zeros. Data
    /// that may become readable again is not lost.
    pub(super) fn covers(&self, error: &Error) -> bool {
        self.active && error.kind() != ErrorKind::Transient
    }

    /// Records that `guest` was replaced by zeros because of `error`.
    pub(super) fn add(&self, guest: Range<u64>, error: &Error) {
        let mut lost = lock(&self.lost);
        lost.bytes += guest.end - guest.start;
        if self.keeps_all {
            push_range(&mut lost.all, guest.clone());
        }
        if lost.unlisted.is_some_and(|end| guest.start >= end) {
            return;
        }
        push_lost(&mut lost.listed, Salvaged { guest, error: error.without_remedy() });
        if lost.listed.len() >= 2 * MAX_LISTED {
            lost.shorten();
        }
    }

    /// Returns what was lost, in guest order.
    pub(super) fn into_ordered(self) -> Lost {
        let mut lost = self.lost.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        lost.shorten();
        lost.all.sort_unstable_by_key(|range| range.start);
        let mut all = Vec::new();
        std::mem::take(&mut lost.all).into_iter().for_each(|next| push_range(&mut all, next));
        Lost { all, ..lost }
    }
}

impl Lost {
    /// Sorts the list, merges adjacent ranges that have the same error, and removes what is too
    /// much.
    fn shorten(&mut self) {
        let mut listed = std::mem::take(&mut self.listed);
        listed.sort_by_key(|s| s.guest.start);
        listed.into_iter().for_each(|next| push_lost(&mut self.listed, next));
        if let Some(first) = self.listed.get(MAX_LISTED) {
            self.unlisted = Some(first.guest.start);
            self.listed.truncate(MAX_LISTED);
        }
    }
}

/// Appends a range, merging it with the last one if it is adjacent.
fn push_range(ranges: &mut Vec<Range<u64>>, next: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if last.end == next.start => last.end = next.end,
        _ => ranges.push(next),
    }
}

/// Appends a range, merging it with the last one if it is adjacent and has the same error.
fn push_lost(lost: &mut Vec<Salvaged>, next: Salvaged) {
    match lost.last_mut() {
        Some(last) if last.guest.end == next.guest.start && last.error == next.error => {
            last.guest.end = next.guest.end;
        }
        _ => lost.push(next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjacent_losses_with_the_same_error_are_merged() {
        let log = SalvageLog::new(true, true);
        // As two workers report them, each in guest order.
        for block in [0, 1, 2, 8, 9, 3, 4, 7] {
            let reason = if block == 4 { "another" } else { "bad table" };
            log.add(block * 4096..(block + 1) * 4096, &Error::invalid(reason));
        }
        let lost = log.into_ordered();
        let blocks = |range: &Range<u64>| range.start / 4096..range.end / 4096;
        let listed: Vec<_> = lost.listed.iter().map(|s| blocks(&s.guest)).collect();
        assert_eq!(listed, [0..4, 4..5, 7..10]);
        assert_eq!(lost.all.iter().map(blocks).collect::<Vec<_>>(), [0..5, 7..10]);
        assert_eq!(lost.bytes, 8 * 4096);
    }

    #[test]
    fn the_first_ranges_are_listed_and_all_bytes_are_counted() {
        const COUNT: u64 = 10 * MAX_LISTED as u64;
        let log = SalvageLog::new(true, false);
        // Every other block, as two workers report them.
        for n in (0..COUNT).step_by(2).chain((1..COUNT).step_by(2)) {
            log.add(n * 8192..n * 8192 + 4096, &Error::invalid(format!("block {n}")));
            assert!(lock(&log.lost).listed.len() < 2 * MAX_LISTED);
        }
        let lost = log.into_ordered();
        assert_eq!(lost.bytes, COUNT * 4096);
        assert!(lost.all.is_empty());
        let starts: Vec<_> = lost.listed.iter().map(|s| s.guest.start / 8192).collect();
        assert_eq!(starts, (0..MAX_LISTED as u64).collect::<Vec<_>>());
    }
}
