//! Salvage: the record of ranges that could not be read.

use super::Salvaged;
use crate::error::{Error, ErrorKind};
use crate::storage::lock;
use std::ops::Range;
use std::sync::Mutex;

/// Granularity in bytes in which unreadable data is given up.
pub(super) const SALVAGE_BLOCK: u64 = 4096;

/// The ranges that could not be read and were replaced by zeros.
#[derive(Debug)]
pub(super) struct SalvageLog {
    active: bool,
    lost: Mutex<Vec<Salvaged>>,
}

impl SalvageLog {
    pub(super) fn new(active: bool) -> Self {
        Self { active, lost: Mutex::default() }
    }

    /// Returns true if data that is unreadable because of `error` is to be replaced by zeros. Data
    /// that may become readable again is not lost.
    pub(super) fn covers(&self, error: &Error) -> bool {
        self.active && error.kind() != ErrorKind::Transient
    }

    /// Records that `guest` was replaced by zeros because of `error`.
    pub(super) fn add(&self, guest: Range<u64>, error: &Error) {
        push_lost(&mut lock(&self.lost), Salvaged { guest, error: error.without_remedy() });
    }

    /// Returns the ranges in guest order, merged where adjacent ones have the same error.
    pub(super) fn into_ordered(self) -> Vec<Salvaged> {
        let mut lost = self.lost.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        lost.sort_by_key(|s| s.guest.start);
        let mut merged = Vec::with_capacity(lost.len());
        lost.into_iter().for_each(|next| push_lost(&mut merged, next));
        merged
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
        let log = SalvageLog::new(true);
        // As two workers report them, each in guest order.
        for block in [0, 1, 2, 8, 9, 3, 4, 7] {
            let reason = if block == 4 { "another" } else { "bad table" };
            log.add(block * 4096..(block + 1) * 4096, &Error::invalid(reason));
        }
        let lost: Vec<_> = log
            .into_ordered()
            .into_iter()
            .map(|s| s.guest.start / 4096..s.guest.end / 4096)
            .collect();
        assert_eq!(lost, [0..4, 4..5, 7..10]);
    }
}
