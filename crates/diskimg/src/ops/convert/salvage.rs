//! Going on where bytes cannot be had.

use super::Salvaged;
use crate::error::Error;
use crate::storage::lock;
use std::ops::Range;
use std::sync::Mutex;

/// Bytes that cannot be had are given up in blocks of this size.
pub(super) const SALVAGE_BLOCK: u64 = 4096;

/// What could not be read and was replaced by zeros.
#[derive(Debug)]
pub(super) struct SalvageLog {
    active: bool,
    lost: Mutex<Vec<Salvaged>>,
}

impl SalvageLog {
    pub(super) fn new(active: bool) -> Self {
        Self { active, lost: Mutex::default() }
    }

    /// True if the caller asked to go on after errors.
    pub(super) fn active(&self) -> bool {
        self.active
    }

    pub(super) fn add(&self, guest: Range<u64>, error: &Error) {
        push_lost(&mut lock(&self.lost), Salvaged { guest, error: error.to_string() });
    }

    pub(super) fn into_ordered(self) -> Vec<Salvaged> {
        let mut lost = self.lost.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        lost.sort_by_key(|s| s.guest.start);
        let mut merged = Vec::with_capacity(lost.len());
        lost.into_iter().for_each(|next| push_lost(&mut merged, next));
        merged
    }
}

/// Appends what was lost; neighbours that were lost for one reason are one loss.
fn push_lost(lost: &mut Vec<Salvaged>, next: Salvaged) {
    match lost.last_mut() {
        Some(last) if last.guest.end == next.guest.start && last.error == next.error => {
            last.guest.end = next.guest.end;
        }
        _ => lost.push(next),
    }
}
