//! What is written to an image and not stored yet.

use crate::error::Result;
use std::collections::BTreeMap;
use std::ops::Range;

/// What an entry without data counts, in bytes, so that their number is bounded.
const ENTRY: usize = 128;

/// Whole units of a disk, by their guest offset. The last one of the disk may be shorter.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// They do not overlap.
    units: BTreeMap<u64, Unit>,
    bytes: usize,
}

/// The new content of one unit or of several.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// The bytes of one unit.
    Data(Vec<u8>),
    /// Zeros in all units before this guest offset.
    Zeros { end: u64 },
}

impl Unit {
    fn end(&self, start: u64) -> u64 {
        match self {
            Self::Data(bytes) => start + bytes.len() as u64,
            Self::Zeros { end } => *end,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Data(bytes) => bytes.len() + ENTRY,
            Self::Zeros { .. } => ENTRY,
        }
    }
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// Returns the memory that is used, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the units in ascending order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Unit)> {
        self.units.iter().map(|(&start, unit)| (start, unit))
    }

    /// Returns the entry that contains the unit at `start`.
    fn entry(&self, start: u64) -> Option<(u64, &Unit)> {
        let (&found, unit) = self.units.range(..=start).next_back()?;
        (unit.end(found) > start).then_some((found, unit))
    }

    /// Returns true if the unit at `start` is here.
    pub(super) fn contains(&self, start: u64) -> bool {
        self.entry(start).is_some()
    }

    /// Returns true if the bytes of the unit at `start` are here, so that replacing them takes no more
    /// memory.
    pub(super) fn has_data(&self, start: u64) -> bool {
        matches!(self.units.get(&start), Some(Unit::Data(_)))
    }

    /// Returns the bytes of the unit at `start`. If it is not here, `read` fills `len` bytes.
    ///
    /// # Errors
    /// Those of `read`; nothing has changed then.
    pub(super) fn unit_mut(
        &mut self,
        start: u64,
        len: usize,
        read: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<&mut [u8]> {
        if !self.has_data(start) {
            let mut bytes = vec![0; len];
            if !self.contains(start) {
                read(&mut bytes)?;
            }
            self.insert(start, Unit::Data(bytes));
        }
        match self.units.get_mut(&start) {
            Some(Unit::Data(bytes)) => Ok(bytes),
            _ => Ok(&mut []),
        }
    }

    /// Sets the bytes of the unit at `start`.
    pub(super) fn put_unit(&mut self, start: u64, bytes: Vec<u8>) {
        self.insert(start, Unit::Data(bytes));
    }

    /// Makes units zeros.
    pub(super) fn zero(&mut self, units: Range<u64>) {
        if !units.is_empty() {
            self.insert(units.start, Unit::Zeros { end: units.end });
        }
    }

    /// Puts an entry in the place of whatever is in its range.
    fn insert(&mut self, start: u64, unit: Unit) {
        let end = unit.end(start);
        // Zeros that begin before the range, and may end after it.
        if let Some((before, &Unit::Zeros { end: old })) = self.entry(start)
            && before < start
        {
            self.put(before, Unit::Zeros { end: start });
            if old > end {
                self.put(end, Unit::Zeros { end: old });
            }
        }
        while let Some((&at, _)) = self.units.range(start..end).next() {
            let Some(old) = self.units.remove(&at) else { break };
            self.bytes -= old.bytes();
            if let Unit::Zeros { end: old } = old
                && old > end
            {
                self.put(end, Unit::Zeros { end: old });
            }
        }
        self.put(start, unit);
    }

    fn put(&mut self, start: u64, unit: Unit) {
        self.bytes += unit.bytes();
        if let Some(old) = self.units.insert(start, unit) {
            self.bytes -= old.bytes();
        }
    }

    /// Overwrites in `buf`, which are the stored bytes at `at`, what is here.
    pub(super) fn overlay(&self, buf: &mut [u8], at: u64) {
        let end = at + buf.len() as u64;
        let first = self.units.range(..=at).next_back().map_or(at, |(&start, _)| start);
        for (&start, unit) in self.units.range(first..end) {
            let from = start.max(at);
            let to = unit.end(start).min(end);
            if from >= to {
                continue;
            }
            let part = &mut buf[(from - at) as usize..(to - at) as usize];
            match unit {
                Unit::Data(bytes) => {
                    part.copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
                }
                Unit::Zeros { .. } => part.fill(0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: u64 = 4;

    fn fill(pending: &mut Pending, start: u64, byte: u8) {
        let unit = pending.unit_mut(start, UNIT as usize, |_| Ok(())).expect("is there");
        unit.fill(byte);
    }

    fn content(pending: &Pending, len: usize) -> Vec<u8> {
        let mut buf = vec![9; len];
        pending.overlay(&mut buf, 0);
        // Any part reads as the same part of the whole.
        for from in 0..len {
            let mut part = vec![9; len - from];
            pending.overlay(&mut part, from as u64);
            assert_eq!(part, buf[from..]);
        }
        buf
    }

    #[test]
    fn units_replace_what_is_in_their_place() {
        let mut pending = Pending::default();
        pending.zero(0..20);
        fill(&mut pending, 8, 1);
        assert_eq!(
            content(&pending, 21),
            [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 9]
        );
        assert_eq!(pending.iter().count(), 3);
        pending.zero(4..16);
        assert_eq!(content(&pending, 21), [[0; 20].as_slice(), &[9]].concat());
        fill(&mut pending, 0, 2);
        fill(&mut pending, 16, 3);
        let expected = [[2; 4].as_slice(), &[0; 12], &[3; 4], &[9; 2]].concat();
        assert_eq!(content(&pending, 22), expected);
        pending.zero(0..20);
        assert_eq!((pending.iter().count(), pending.bytes()), (1, ENTRY));
    }

    #[test]
    fn a_unit_of_zeros_is_not_read_again() {
        let mut pending = Pending::default();
        pending.zero(4..12);
        let unit = pending.unit_mut(8, 4, |_| panic!("was read")).expect("is there");
        assert_eq!(unit, [0; 4]);
        assert!(pending.contains(4) && pending.contains(8));
        assert!(!pending.contains(0) && !pending.contains(12));
    }
}
