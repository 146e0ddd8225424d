//! How a source is read efficiently.

use std::cmp::Reverse;
use std::ops::Range;

/// How a source is read efficiently: the size, number and spacing of requests.
///
/// The defaults describe a local file. Readers start a separate stage of I/O threads for a source
/// with more than one request in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct IoHints {
    /// Length in bytes of a request that is long compared with the latency.
    pub optimal: u64,
    /// Number of requests that should be in flight at a time.
    pub in_flight: usize,
    /// Two ranges that are at most this many bytes apart are read with one request, as long as the
    /// request consists mostly of what is wanted.
    pub gap: u64,
}

impl Default for IoHints {
    fn default() -> Self {
        Self { optimal: 512 << 10, in_flight: 1, gap: 0 }
    }
}

impl IoHints {
    /// Returns hints for a source behind a network: 16 requests of 4 MiB in flight, which fill
    /// 1 Gbit/s at a latency of up to 500 ms, and gaps of 256 KiB.
    pub fn remote() -> Self {
        Self { optimal: 4 << 20, in_flight: 16, gap: 256 << 10 }
    }

    /// Returns hints for reading two sources at the same time, or a source made of both.
    #[must_use]
    pub fn combine(self, other: Self) -> Self {
        Self {
            optimal: self.optimal.max(other.optimal),
            in_flight: self.in_flight.max(other.in_flight),
            gap: self.gap.max(other.gap),
        }
    }

    /// Returns true if reads wait for something other than this machine.
    pub(crate) fn is_remote(&self) -> bool {
        self.in_flight > 1
    }

    /// Returns the requests that read all of `ranges`, in ascending order: adjacent ranges are
    /// merged, and so are ranges that are close, as long as a request has the optimal length and at
    /// most half of it is gaps. Each range is within one request; one that is longer than the
    /// optimal length is a request of its own.
    pub(crate) fn requests(&self, mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
        ranges.retain(|range| !range.is_empty());
        // A range that contains others comes before them.
        ranges.sort_unstable_by_key(|range| (range.start, Reverse(range.end)));
        let mut requests: Vec<Range<u64>> = Vec::new();
        // Bytes of the last request that are wanted.
        let mut wanted = 0;
        for range in ranges {
            if let Some(last) = requests.last_mut() {
                let more = range.end.saturating_sub(last.end.max(range.start));
                let len = range.end.max(last.end) - last.start;
                let is_near = range.start <= last.end.saturating_add(self.gap);
                let is_mostly_wanted = len <= 2 * (wanted + more);
                if more == 0 || is_near && is_mostly_wanted && len <= self.optimal {
                    last.end = last.end.max(range.end);
                    wanted += more;
                    continue;
                }
            }
            wanted = range.end - range.start;
            requests.push(range);
        }
        requests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hints(optimal: u64, gap: u64) -> IoHints {
        IoHints { optimal, gap, ..IoHints::remote() }
    }

    #[test]
    fn close_ranges_share_a_request_of_at_most_the_optimal_length() {
        let mut ranges = vec![40..50, 0..10, 12..20, 100..110, 15..18];
        assert_eq!(hints(64, 2).requests(ranges.clone()), [0..20, 40..50, 100..110]);
        assert_eq!(hints(64, 20).requests(ranges.clone()), [0..50, 100..110]);
        assert_eq!(hints(20, 20).requests(ranges.clone()), [0..20, 40..50, 100..110]);
        ranges.push(50..90);
        let all = hints(1000, 1000).requests(ranges);
        assert!(matches!(&all[..], [only] if *only == (0..110)), "{all:?}");
    }

    #[test]
    fn a_range_within_another_is_read_once() {
        let all = hints(20, 0).requests(vec![0..100, 50..60, 90..95, 7..7, 0..100, 0..3]);
        assert!(matches!(&all[..], [only] if *only == (0..100)), "{all:?}");
    }

    #[test]
    fn at_most_half_of_a_request_is_gaps() {
        let scattered = (0..1000).map(|i| i * 50..i * 50 + 10);
        let requests = hints(1 << 20, 100).requests(scattered.collect());
        assert_eq!(requests.len(), 1000);
        let dense = (0..1000).map(|i| i * 50..i * 50 + 30);
        assert_eq!(hints(1 << 20, 100).requests(dense.collect()).len(), 1);
    }
}
