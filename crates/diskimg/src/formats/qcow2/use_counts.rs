//! How often each host cluster is referenced, as counted by a check.

use crate::error::{Error, Result};
use crate::storage::number::{to_u64, to_usize};
use std::collections::HashMap;

/// Clusters per page. A page is allocated when one of its clusters is counted, so that memory use
/// depends on the data of a sparse file and not on its length.
const PAGE: usize = 1024;

/// Size of a page in bytes.
const PAGE_BYTES: u64 = to_u64(size_of::<[u16; PAGE]>());

/// Approximate size in bytes of an entry in [`UseCounts::large`].
const LARGE_BYTES: u64 = 32;

/// Stored in a page instead of a count that does not fit into 16 bits.
const OVERFLOWN: u16 = u16::MAX;

/// Counts per cluster, with bounded memory use.
#[derive(Debug)]
pub(super) struct UseCounts {
    pages: Vec<Option<Box<[u16; PAGE]>>>,
    /// The counts that are stored as [`OVERFLOWN`] in their page.
    large: HashMap<u64, u64>,
    /// Maximum memory use in bytes.
    max_bytes: u64,
    /// Bytes that may still be used.
    left: u64,
}

impl UseCounts {
    /// Creates counts of zero that use at most `max_bytes` of memory.
    pub(super) fn new(max_bytes: u64) -> Self {
        Self { pages: Vec::new(), large: HashMap::new(), max_bytes, left: max_bytes }
    }

    /// Reserves `bytes` of the memory, for these counts or for other data of the check.
    ///
    /// # Errors
    /// Returns [`Limit`](crate::ErrorKind::Limit) if fewer are left.
    pub(super) fn spend(&mut self, bytes: u64) -> Result<()> {
        let left = self.left.checked_sub(bytes).ok_or_else(|| {
            let found = "counting all clusters in use needs more memory";
            Error::over_limit("check_bytes", found, self.max_bytes)
        })?;
        self.left = left;
        Ok(())
    }

    /// Adds `times` to the count of a cluster. Returns false if it exceeds `max` now.
    ///
    /// # Errors
    /// Returns [`Limit`](crate::ErrorKind::Limit) if that needs more memory than allowed.
    pub(super) fn add(&mut self, cluster: u64, times: u64, max: u64) -> Result<bool> {
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
        match u16::try_from(sum) {
            Ok(small) if small != OVERFLOWN => *slot = small,
            _ => {
                *slot = OVERFLOWN;
                if self.large.insert(cluster, sum).is_none() {
                    self.spend(LARGE_BYTES)?;
                }
            }
        }
        Ok(sum <= max)
    }

    /// Subtracts one from the count of a cluster, unless it is 0.
    pub(super) fn remove(&mut self, cluster: u64) {
        let count = self.get(cluster).saturating_sub(1);
        let (page, index) = (to_usize(cluster) / PAGE, to_usize(cluster) % PAGE);
        if let Some(Some(page)) = self.pages.get_mut(page) {
            match u16::try_from(count) {
                Ok(small) if small != OVERFLOWN => {
                    page[index] = small;
                    self.large.remove(&cluster);
                }
                _ => drop(self.large.insert(cluster, count)),
            }
        }
    }

    /// Returns the count of a cluster.
    pub(super) fn get(&self, cluster: u64) -> u64 {
        let page = self.pages.get(to_usize(cluster) / PAGE).and_then(Option::as_ref);
        match page.map(|page| page[to_usize(cluster) % PAGE]) {
            Some(OVERFLOWN) => self.large.get(&cluster).copied().unwrap_or(0),
            Some(count) => count.into(),
            None => 0,
        }
    }

    /// Returns the first cluster at or after `cluster` whose count may not be zero, or `end`.
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
    fn counts_may_exceed_16_bits_and_say_when_they_exceed_the_maximum() {
        let mut counts = UseCounts::new(2 * PAGE_BYTES + LARGE_BYTES);
        for _ in 0..3 {
            assert!(counts.add(5000, 65_534, u64::MAX).expect("counts"));
        }
        assert_eq!(counts.get(5000), 3 * 65_534);
        assert_eq!((counts.get(4999), counts.get(1 << 40)), (0, 0));
        assert!(counts.add(7, 1, 1).expect("counts"));
        assert!(!counts.add(7, 1, 1).expect("counts"));
        assert_eq!(counts.get(7), 2);
        counts.remove(7);
        counts.remove(8);
        assert_eq!((counts.get(7), counts.get(8)), (1, 0));
        counts.remove(5000);
        assert_eq!(counts.get(5000), 3 * 65_534 - 1);
        assert_eq!(counts.next_counted(1500, 9999), 4096);
        assert_eq!(counts.next_counted(4500, 9999), 4500);
        assert_eq!(counts.next_counted(6000, 9999), 9999);
        let error = counts.add(1 << 20, 1, 1).expect_err("a third page");
        assert_eq!(error.exceeded(), Some("check_bytes"));
    }
}
