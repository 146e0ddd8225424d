//! UseCounts: how often each host cluster is used, as counted by a check.

use crate::error::{Error, Result};
use crate::storage::number::{to_u64, to_usize};
use std::collections::HashMap;

/// Clusters of a page: pages are made where something is counted, so that a
/// sparse file costs what is in it and not what it is long.
const PAGE: usize = 1024;

/// Bytes that a page takes.
const PAGE_BYTES: u64 = to_u64(size_of::<[u16; PAGE]>());

/// Bytes that a count takes which does not fit in its page.
const LARGE_BYTES: u64 = 32;

/// A count that did not fit in 16 bits.
const OVERFLOWN: u16 = u16::MAX;

/// Counts per cluster, within a bound on memory.
#[derive(Debug)]
pub(super) struct UseCounts {
    pages: Vec<Option<Box<[u16; PAGE]>>>,
    /// The counts marked as [`OVERFLOWN`].
    large: HashMap<u64, u64>,
    /// Bytes that may be taken, and what is left of them.
    most: u64,
    left: u64,
}

impl UseCounts {
    /// No uses, to be counted in `most` bytes.
    pub(super) fn new(most: u64) -> Self {
        Self { pages: Vec::new(), large: HashMap::new(), most, left: most }
    }

    /// Takes `bytes` of the memory, for these counts or for what goes with them.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) if they are not left.
    pub(super) fn spend(&mut self, bytes: u64) -> Result<()> {
        let left = self.left.checked_sub(bytes).ok_or_else(|| {
            let found = "to count all clusters that are in use takes more memory";
            Error::over_limit("check_bytes", found, self.most)
        })?;
        self.left = left;
        Ok(())
    }

    /// Counts `times` more uses of a cluster, to at most `most`; answers
    /// whether that was enough.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) if more clusters are in use than can
    /// be counted.
    pub(super) fn add(&mut self, cluster: u64, times: u64, most: u64) -> Result<bool> {
        let (page, index) = (to_usize(cluster) / PAGE, to_usize(cluster) % PAGE);
        if page >= self.pages.len() {
            self.pages.resize_with(page + 1, || None);
        }
        if self.pages[page].is_none() {
            self.spend(PAGE_BYTES)?;
        }
        let slot = &mut self.pages[page].get_or_insert_with(|| Box::new([0; PAGE]))[index];
        let count = match *slot {
            OVERFLOWN => self.large.get(&cluster).copied().unwrap_or(0),
            count => count.into(),
        };
        let sum = count.saturating_add(times);
        let kept = sum.min(most);
        match u16::try_from(kept) {
            Ok(small) if small != OVERFLOWN => *slot = small,
            _ => {
                *slot = OVERFLOWN;
                if self.large.insert(cluster, kept).is_none() {
                    self.spend(LARGE_BYTES)?;
                }
            }
        }
        Ok(sum <= most)
    }

    /// The uses of a cluster.
    pub(super) fn get(&self, cluster: u64) -> u64 {
        let page = self.pages.get(to_usize(cluster) / PAGE).and_then(Option::as_ref);
        match page.map(|page| page[to_usize(cluster) % PAGE]) {
            Some(OVERFLOWN) => self.large.get(&cluster).copied().unwrap_or(0),
            Some(count) => count.into(),
            None => 0,
        }
    }

    /// The first cluster from `cluster` on that may be in use, up to `end`.
    pub(super) fn next_counted(&self, cluster: u64, end: u64) -> u64 {
        let first = to_usize(cluster) / PAGE;
        let last = to_usize(end).div_ceil(PAGE).min(self.pages.len());
        (first..last)
            .find(|&page| self.pages[page].is_some())
            .map_or(end, |page| cluster.max(to_u64(page * PAGE)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_beyond_16_bits_and_stop_at_the_most() {
        let mut references = UseCounts::new(2 * PAGE_BYTES + LARGE_BYTES);
        for _ in 0..3 {
            assert!(references.add(5000, 65_534, u64::MAX).expect("counts"));
        }
        assert_eq!(references.get(5000), 3 * 65_534);
        assert_eq!((references.get(4999), references.get(1 << 40)), (0, 0));
        assert!(references.add(7, 1, 1).expect("counts"));
        assert!(!references.add(7, 1, 1).expect("counts"));
        assert_eq!(references.get(7), 1);
        assert_eq!(references.next_counted(1500, 9999), 4096);
        assert_eq!(references.next_counted(4500, 9999), 4500);
        assert_eq!(references.next_counted(6000, 9999), 9999);
        let error = references.add(1 << 20, 1, 1).expect_err("a third page");
        assert_eq!(error.exceeded(), Some("check_bytes"));
    }
}
