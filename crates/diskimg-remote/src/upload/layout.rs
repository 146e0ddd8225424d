//! How an object is divided into parts.

use std::ops::Range;

/// What parts a store accepts, and which of them are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Smallest part that is used, in bytes.
    pub(crate) min_part: u64,
    /// Largest part that the store accepts, in bytes.
    pub(crate) max_part: u64,
    /// Number of parts of the same size.
    pub(crate) equal_parts: u64,
    /// Maximum number of parts.
    pub(crate) max_parts: u64,
}

/// The sizes of the parts. An object that becomes longer than expected has larger parts at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    part: u64,
    limits: Limits,
}

impl Layout {
    /// Returns the layout of an object of at most `len` bytes.
    pub(super) fn new(len: u64, limits: Limits) -> Self {
        let part = len.div_ceil(limits.equal_parts).next_multiple_of(1 << 20);
        Self { part: part.clamp(limits.min_part, limits.max_part), limits }
    }

    pub(super) fn limits(self) -> Limits {
        self.limits
    }

    /// Returns the size of the first part.
    pub(super) fn part(self) -> u64 {
        self.part
    }

    /// Returns the index of the part that contains a byte.
    pub(super) fn index(self, offset: u64) -> usize {
        let Limits { max_part, equal_parts, .. } = self.limits;
        let equal = equal_parts * self.part;
        let index = match offset < equal {
            true => offset / self.part,
            false => equal_parts + (offset - equal) / max_part,
        };
        usize::try_from(index).unwrap_or(usize::MAX)
    }

    /// Returns the bytes of a part of an object of `len` bytes.
    pub(super) fn range(self, index: usize, len: u64) -> Range<u64> {
        let Limits { max_part, equal_parts, .. } = self.limits;
        let start = |index: u64| {
            let (equal, large) = (index.min(equal_parts), index.saturating_sub(equal_parts));
            equal * self.part + large * max_part
        };
        let index = index as u64;
        start(index).min(len)..start(index + 1).min(len)
    }

    /// Returns the number of parts of an object of `len` bytes; `None` if it is too long.
    pub(super) fn count(self, len: u64) -> Option<usize> {
        let count = if len == 0 { 1 } else { self.index(len - 1) + 1 };
        (count as u64 <= self.limits.max_parts).then_some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { min_part: 8 << 20, max_part: 5 << 30, equal_parts: 9500, max_parts: 10_000 };

    #[test]
    fn parts_follow_each_other() {
        let mib = 1 << 20;
        for (expected, part) in
            [(0, 8 * mib), (76_000 * mib, 8 * mib), (76_001 * mib, 9 * mib), (10 << 40, 1104 * mib)]
        {
            let layout = Layout::new(expected, LIMITS);
            assert_eq!(layout.part(), part);
            assert!(layout.count(expected).is_some_and(|count| count <= 9500));
            for index in [0, 1, 9499, 9500, 9501] {
                let range = layout.range(index, u64::MAX);
                assert_eq!(layout.index(range.start), index);
                assert_eq!(layout.index(range.end - 1), index);
                assert_eq!(layout.range(index + 1, u64::MAX).start, range.end);
            }
        }
        let layout = Layout::new(0, LIMITS);
        assert_eq!(layout.range(1, 9 * mib), 8 * mib..9 * mib);
        assert_eq!(layout.count(0), Some(1));
        assert_eq!(layout.count(16 * mib), Some(2));
        assert_eq!(layout.count(2 << 40), Some(9500 + 395));
        assert_eq!(layout.count(3 << 40), None);
    }
}
