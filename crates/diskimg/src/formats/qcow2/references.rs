//! References: how often each host cluster is used, as counted by a check.

use crate::vocabulary::error::{Error, Result};
use std::collections::HashMap;

/// Clusters of a page: pages are made where something is counted, so that a
/// sparse file costs what is in it and not what it is long.
const PAGE: usize = 1024;

/// Bytes of all pages: 2^29 clusters in use (32 TiB in clusters of 64 KiB).
const MAX_BYTES: usize = 1 << 30;

/// A count that did not fit in 16 bits.
const OVERFLOWN: u16 = u16::MAX;

/// Counts per cluster.
#[derive(Debug, Default)]
pub(super) struct References {
    pages: Vec<Option<Box<[u16; PAGE]>>>,
    page_count: usize,
    /// The counts marked as [`OVERFLOWN`].
    large: HashMap<u64, u64>,
}

impl References {
    /// Counts `times` more uses of a cluster, to at most `most`; answers
    /// whether that was enough.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) if more clusters are in use than can
    /// be counted.
    pub(super) fn add(&mut self, cluster: u64, times: u64, most: u64) -> Result<bool> {
        let (page, index) = (cluster as usize / PAGE, cluster as usize % PAGE);
        if page >= self.pages.len() {
            self.pages.resize_with(page + 1, || None);
        }
        if self.pages[page].is_none() {
            self.page_count += 1;
            if self.page_count * PAGE * 2 > MAX_BYTES {
                return Err(Error::limit("too many clusters are in use for them to be counted"));
            }
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
                self.large.insert(cluster, kept);
            }
        }
        Ok(sum <= most)
    }

    /// The uses of a cluster.
    pub(super) fn get(&self, cluster: u64) -> u64 {
        let page = self.pages.get(cluster as usize / PAGE).and_then(Option::as_ref);
        match page.map(|page| page[cluster as usize % PAGE]) {
            Some(OVERFLOWN) => self.large.get(&cluster).copied().unwrap_or(0),
            Some(count) => count.into(),
            None => 0,
        }
    }

    /// The first cluster from `cluster` on that may be in use, up to `end`.
    pub(super) fn next_counted(&self, cluster: u64, end: u64) -> u64 {
        let first = cluster as usize / PAGE;
        let last = (end as usize).div_ceil(PAGE).min(self.pages.len());
        (first..last)
            .find(|&page| self.pages[page].is_some())
            .map_or(end, |page| cluster.max((page * PAGE) as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_beyond_16_bits_and_stop_at_the_most() {
        let mut references = References::default();
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
    }
}
