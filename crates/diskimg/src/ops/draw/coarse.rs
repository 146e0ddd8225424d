//! Lists of parts and places whose length is bounded: where there are too many, short neighbors are
//! merged.
//!
//! ```text
//!   cells        ├───────┼───────┼───────┼───────┤
//!   extents      ▇ ▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇ ▇ ▇  ▇ ▇
//!   parts        ▒ ▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇ ▒▒  ▒▒▒▒     within a cell: merged; across cells: exact
//! ```
//!
//! If the list is still too long, the cells are made twice as large.

use crate::report::picture::{Part, Place, State};
use std::collections::BTreeMap;
use std::ops::Range;

/// Maximum number of parts, and of places. With it, a page has about two megabytes.
pub(super) const MAX: usize = 16 << 10;

/// Number of cells along an axis when merging begins.
const CELLS: u64 = 1 << 16;

/// Returns the size of the first cells along an axis.
fn first_cell(length: u64) -> u64 {
    (length / CELLS).checked_next_power_of_two().unwrap_or(1 << 63)
}

/// Parts of the guest's disk, which cover it without gaps.
pub(super) struct Parts {
    parts: Vec<Part>,
    /// Size of the cells in which parts are merged; `None` if none were yet.
    cell: Option<u64>,
    first_cell: u64,
}

impl Parts {
    pub(super) fn new(size: u64) -> Self {
        Self { parts: Vec::new(), cell: None, first_cell: first_cell(size) }
    }

    /// Appends a part, which must start where the last one ends.
    pub(super) fn push(&mut self, guest: Range<u64>, depth: usize, state: State) {
        let (start, length) = (guest.start, guest.end - guest.start);
        if let Some(last) = self.parts.last_mut()
            && last.bytes == last.length
            && last.start + last.length == start
            && (last.depth, last.state) == (depth, state)
        {
            last.length += length;
            last.bytes += length;
            return;
        }
        self.parts.push(Part { start, length, depth, state, bytes: length });
        if self.parts.len() >= 2 * MAX {
            self.shrink();
        }
    }

    /// Returns the parts, and the length below which they may be merged.
    pub(super) fn finish(mut self) -> (Vec<Part>, u64) {
        if self.parts.len() > MAX {
            self.shrink();
        }
        (self.parts, self.cell.unwrap_or(1))
    }

    fn shrink(&mut self) {
        let mut cell = self.cell.unwrap_or(self.first_cell);
        loop {
            self.parts = merged(&self.parts, cell);
            self.cell = Some(cell);
            if self.parts.len() <= MAX || cell == 1 << 63 {
                return;
            }
            cell *= 2;
        }
    }
}

/// Returns the number of the cell that contains all of a range.
fn cell_of(start: u64, length: u64, cell: u64) -> Option<u64> {
    let number = start / cell;
    (number == start.saturating_add(length.saturating_sub(1)) / cell).then_some(number)
}

/// Merges the parts in each cell.
fn merged(parts: &[Part], cell: u64) -> Vec<Part> {
    let mut out = Vec::with_capacity(parts.len());
    let number = |part: &Part| cell_of(part.start, part.length, cell);
    // Parts that are not within a cell are groups of their own.
    for group in parts.chunk_by(|a, b| number(a).is_some() && number(a) == number(b)) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        if group.len() == 1 {
            out.push(*first);
            continue;
        }
        let (start, length) = (first.start, last.start + last.length - first.start);
        let mut sums: BTreeMap<(usize, State), u64> = BTreeMap::new();
        for part in group {
            *sums.entry((part.depth, part.state)).or_default() += part.bytes;
        }
        let part = |((depth, state), bytes)| Part { start, length, depth, state, bytes };
        out.extend(sums.into_iter().map(part));
    }
    out
}

/// Ranges of the guest's disk with a place on the host axis.
pub(super) struct Places {
    places: Vec<Place>,
    /// Sizes of the cells along the guest and the host axis; `None` if nothing was merged yet.
    cells: Option<(u64, u64)>,
    first_cells: (u64, u64),
}

impl Places {
    pub(super) fn new(size: u64, host_size: u64) -> Self {
        let first_cells = (first_cell(size), first_cell(host_size));
        Self { places: Vec::new(), cells: None, first_cells }
    }

    /// Appends a place, whose guest offset must not precede that of the last one.
    pub(super) fn push(&mut self, place: Place) {
        if let Some(last) = self.places.last_mut()
            && continues(last, &place)
        {
            last.length += place.length;
            last.bytes += place.bytes;
            last.host_length += place.host_length;
            return;
        }
        self.places.push(place);
        if self.places.len() >= 2 * MAX {
            self.shrink();
        }
    }

    /// Returns the places, and the length below which they may be merged.
    pub(super) fn finish(mut self) -> (Vec<Place>, u64) {
        if self.places.len() > MAX {
            self.shrink();
        }
        (self.places, self.cells.map_or(1, |(guest, _)| guest))
    }

    fn shrink(&mut self) {
        let mut cells = self.cells.unwrap_or(self.first_cells);
        loop {
            merge_places(&mut self.places, cells);
            self.cells = Some(cells);
            if self.places.len() <= MAX || cells == (1 << 63, 1 << 63) {
                return;
            }
            let doubled = |cell: u64| cell.checked_mul(2).unwrap_or(1 << 63);
            cells = (doubled(cells.0), doubled(cells.1));
        }
    }
}

/// Returns true if `next` continues `last` on both axes.
fn continues(last: &Place, next: &Place) -> bool {
    let exact = |place: &Place| place.bytes == place.length && place.host_length == place.length;
    exact(last)
        && exact(next)
        && (last.depth, last.state) == (next.depth, next.state)
        && last.start + last.length == next.start
        && last.position.checked_add(last.host_length) == Some(next.position)
}

/// Merges the places in each cell of a grid.
fn merge_places(places: &mut Vec<Place>, (guest, host): (u64, u64)) {
    let key = |place: &Place| {
        let number = cell_of(place.start, place.length, guest);
        number.map(|number| (number, place.position / host, place.depth, place.state))
    };
    places.sort_by_key(key);
    let mut out: Vec<Place> = Vec::with_capacity(places.len());
    for group in places.chunk_by(|a, b| key(a).is_some() && key(a) == key(b)) {
        out.extend(group.iter().copied().reduce(union));
    }
    out.sort_by_key(|place| (place.start, place.position));
    *places = out;
}

/// Returns the smallest place that contains both.
fn union(a: Place, b: Place) -> Place {
    let (start, end) = (a.start.min(b.start), (a.start + a.length).max(b.start + b.length));
    let host_end = |place: &Place| place.position.saturating_add(place.host_length);
    let position = a.position.min(b.position);
    Place {
        start,
        length: end - start,
        position,
        host_length: host_end(&a).max(host_end(&b)) - position,
        bytes: a.bytes.saturating_add(b.bytes),
        ..a
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 62;

    /// A pseudo-random sequence.
    fn random(seed: u64) -> impl FnMut() -> u64 {
        let mut x = seed;
        move || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x
        }
    }

    #[test]
    fn few_parts_are_exact() {
        let mut parts = Parts::new(100);
        parts.push(0..10, 0, State::Data);
        parts.push(10..20, 0, State::Data);
        parts.push(20..90, 1, State::Data);
        parts.push(90..100, 1, State::Unallocated);
        let (parts, size) = parts.finish();
        let ranges: Vec<_> = parts.iter().map(|p| (p.start, p.length, p.bytes)).collect();
        assert_eq!((ranges, size), (vec![(0, 20, 20), (20, 70, 70), (90, 10, 10)], 1));
    }

    #[test]
    fn many_parts_are_merged_and_their_sums_are_exact() {
        let mut next = random(7);
        let mut parts = Parts::new(SIZE);
        let mut sums: BTreeMap<(usize, State), u64> = BTreeMap::new();
        let (mut at, mut longest) = (0, 0);
        for n in 0..500_000u64 {
            // A long part now and then.
            let length = if n % 1000 == 0 { next() % (SIZE / 2000) } else { next() % 100_000 } + 1;
            let (depth, state) = (next() as usize % 3, State::ALL[next() as usize % 4]);
            parts.push(at..at + length, depth, state);
            *sums.entry((depth, state)).or_default() += length;
            at += length;
            longest = longest.max(length);
            assert!(parts.parts.len() <= 2 * MAX);
        }
        let (parts, cell) = parts.finish();
        assert!(parts.len() <= MAX && parts.len() > MAX / 4, "{}", parts.len());
        assert!(cell > 1 && parts.iter().any(|part| part.length == longest));
        let mut end = 0;
        for group in parts.chunk_by(|a, b| a.start == b.start) {
            assert!(group.iter().all(|part| part.length == group[0].length));
            assert_eq!(group[0].start, end);
            assert_eq!(group.iter().map(|part| part.bytes).sum::<u64>(), group[0].length);
            end += group[0].length;
        }
        assert_eq!(end, at);
        let mut found: BTreeMap<(usize, State), u64> = BTreeMap::new();
        for part in parts {
            *found.entry((part.depth, part.state)).or_default() += part.bytes;
        }
        assert_eq!(found, sums);
    }

    #[test]
    fn many_places_are_merged_and_contain_all_of_them() {
        let mut next = random(9);
        let host = 1 << 40;
        let mut places = Places::new(SIZE, host);
        let (mut at, mut sum) = (0, 0);
        let mut sample = Vec::new();
        for n in 0..300_000u64 {
            at += next() % (SIZE / 300_000);
            let length = next() % 65_536 + 1;
            let place = Place {
                start: at,
                length,
                position: next() % host,
                host_length: length,
                depth: 0,
                state: State::Data,
                bytes: length,
            };
            places.push(place);
            at += length;
            sum += length;
            if n % 1000 == 0 {
                sample.push(place);
            }
        }
        let (places, cell) = places.finish();
        // Random places fill a grid of 128 × 128.
        assert!(cell > 1 && places.len() <= MAX && places.len() > 4000, "{}", places.len());
        assert_eq!(places.iter().map(|place| place.bytes).sum::<u64>(), sum);
        let contains = |outer: &Place, inner: &Place| {
            outer.start <= inner.start
                && outer.start + outer.length >= inner.start + inner.length
                && outer.position <= inner.position
                && outer.position + outer.host_length >= inner.position + inner.host_length
        };
        for inner in &sample {
            assert!(places.iter().any(|outer| contains(outer, inner)), "{inner:?}");
        }
        assert!(places.is_sorted_by_key(|place| place.start));
    }

    #[test]
    fn a_contiguous_file_is_one_place() {
        let mut places = Places::new(SIZE, SIZE);
        for n in 0..100_000u64 {
            let (start, length) = (n * 512, 512);
            let place = Place {
                start,
                length,
                position: start + 7,
                host_length: length,
                depth: 0,
                state: State::Data,
                bytes: length,
            };
            places.push(place);
        }
        let (places, cell) = places.finish();
        assert_eq!((places.len(), places[0].length, cell), (1, 512 * 100_000, 1));
    }
}
