//! Compressed units that several threads need parts of.
//!
//! Tasks are cut where the target's clusters end, which may be within a unit of the source. Without
//! this, each task would decode the unit again.

use crate::error::Result;
use crate::model::extent::Encoded;
use crate::storage::{buffer, lock};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex};

/// Total bytes of decoded units that are kept, at most, except of [`MIN_KEPT`] units.
const MAX_KEPT: u64 = 16 << 20;

/// Number of decoded units that are kept, however long they are: the one of which parts are fetched,
/// and the next one.
const MIN_KEPT: usize = 2;

/// Decoded units, each of which is kept until all of its bytes were fetched.
#[derive(Debug, Default)]
pub(crate) struct SharedUnits {
    state: Mutex<State>,
    /// Notified when a unit was decoded, or could not be.
    decoded: Condvar,
}

#[derive(Debug, Default)]
struct State {
    units: Vec<Unit>,
    /// Buffers for reuse.
    idle: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Unit {
    depth: usize,
    encoded: Encoded,
    /// `None` while a thread decodes it.
    bytes: Option<Arc<Vec<u8>>>,
    /// Number of bytes that were not fetched yet.
    left: u64,
}

impl State {
    fn find(&self, depth: usize, encoded: &Encoded) -> Option<usize> {
        self.units.iter().position(|unit| unit.depth == depth && unit.encoded == *encoded)
    }

    fn remove(&mut self, index: usize) {
        let unit = self.units.remove(index);
        self.idle.extend(unit.bytes.and_then(Arc::into_inner));
    }

    /// Removes the units that were added first until the others are within the bound.
    fn bound(&mut self) {
        let exceeds = |units: &[Unit]| {
            let ready = units.iter().filter(|unit| unit.bytes.is_some());
            let lens = ready.map(|unit| unit.encoded.unit.end - unit.encoded.unit.start);
            let (count, sum) = lens.fold((0, 0), |(count, sum), len| (count + 1, sum + len));
            count > MIN_KEPT && sum > MAX_KEPT
        };
        while exceeds(&self.units)
            && let Some(first) = self.units.iter().position(|unit| unit.bytes.is_some())
        {
            self.remove(first);
        }
        self.idle.truncate(2);
    }
}

impl SharedUnits {
    /// Returns true if another thread is decoding the unit.
    pub(crate) fn is_busy(&self, depth: usize, encoded: &Encoded) -> bool {
        let state = lock(&self.state);
        state.find(depth, encoded).is_some_and(|index| state.units[index].bytes.is_none())
    }

    /// Fills `buf` with the guest bytes `range` of a unit. Waits if another thread is decoding it.
    ///
    /// # Errors
    /// Returns the error of `decode`.
    pub(crate) fn fetch(
        &self,
        depth: usize,
        encoded: &Encoded,
        range: &Range<u64>,
        buf: &mut [u8],
        decode: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let len = range.end - range.start;
        let from = (range.start - encoded.unit.start) as usize;
        let copy = |bytes: &[u8], buf: &mut [u8]| {
            buf.copy_from_slice(&bytes[from..from + buf.len()]);
        };
        let mut state = lock(&self.state);
        while let Some(index) = state.find(depth, encoded) {
            let unit = &mut state.units[index];
            let Some(bytes) = unit.bytes.clone() else {
                state = self.decoded.wait(state).unwrap_or_else(|e| e.into_inner());
                continue;
            };
            unit.left = unit.left.saturating_sub(len);
            let is_last = unit.left == 0;
            drop(state);
            copy(&bytes, buf);
            drop(bytes);
            if is_last {
                let mut state = lock(&self.state);
                if let Some(index) = state.find(depth, encoded) {
                    state.remove(index);
                }
            }
            return Ok(());
        }
        let size = encoded.unit.end - encoded.unit.start;
        let left = size - len;
        state.units.push(Unit { depth, encoded: encoded.clone(), bytes: None, left });
        let mut bytes = state.idle.pop().unwrap_or_default();
        drop(state);
        // Also removes the unit if the decoder panics, for which other threads would wait.
        let mut pending = Pending { units: self, depth, encoded, bytes: None };
        buffer::resize(&mut bytes, size as usize);
        decode(&mut bytes)?;
        copy(&bytes, buf);
        pending.bytes = Some(bytes);
        Ok(())
    }
}

/// A unit that a thread is decoding.
struct Pending<'a> {
    units: &'a SharedUnits,
    depth: usize,
    encoded: &'a Encoded,
    /// `None` if it cannot be decoded.
    bytes: Option<Vec<u8>>,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.units.state);
        if let Some(index) = state.find(self.depth, self.encoded) {
            match self.bytes.take() {
                Some(bytes) => state.units[index].bytes = Some(Arc::new(bytes)),
                None => state.remove(index),
            }
            state.bound();
        }
        drop(state);
        self.units.decoded.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::model::extent::HostOffset;
    use crate::storage::codec::Codec;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn encoded(number: u64, len: u64) -> Encoded {
        Encoded {
            host: HostOffset { file: 0, offset: number },
            stored: 1,
            least_stored: 1,
            unit: number * len..(number + 1) * len,
            codec: Codec::Zlib,
        }
    }

    #[test]
    fn a_unit_is_decoded_once_for_all_threads() {
        let units = SharedUnits::default();
        let decoded = AtomicUsize::new(0);
        let one = encoded(3, 1000);
        std::thread::scope(|scope| {
            for part in 0..10 {
                let (units, decoded, one) = (&units, &decoded, &one);
                scope.spawn(move || {
                    let start = 3000 + part * 100;
                    let mut buf = [0; 100];
                    let decode = |bytes: &mut [u8]| {
                        decoded.fetch_add(1, Ordering::Relaxed);
                        (0..).zip(bytes).for_each(|(i, byte): (u64, _)| *byte = (i / 100) as u8);
                        Ok(())
                    };
                    units.fetch(0, one, &(start..start + 100), &mut buf, decode).expect("decodes");
                    assert_eq!(buf, [part as u8; 100]);
                });
            }
        });
        assert_eq!(decoded.into_inner(), 1);
        assert!(lock(&units.state).units.is_empty());
    }

    #[test]
    fn a_unit_that_cannot_be_decoded_is_an_error_for_each_part() {
        let units = SharedUnits::default();
        let one = encoded(0, 1000);
        for part in 0..3 {
            let range = part * 100..part * 100 + 100;
            let decode = |_: &mut [u8]| Err(Error::corrupt("unit", "damaged"));
            units.fetch(0, &one, &range, &mut [0; 100], decode).expect_err("damaged");
        }
        assert!(!units.is_busy(0, &one));
    }

    #[test]
    fn units_of_which_parts_are_never_fetched_are_not_kept_forever() {
        let units = SharedUnits::default();
        for number in 0..100 {
            let one = encoded(number, 1 << 20);
            let range = one.unit.start..one.unit.start + 1;
            units.fetch(0, &one, &range, &mut [0], |_| Ok(())).expect("decodes");
        }
        assert!(lock(&units.state).units.len() <= 16);
    }

    #[test]
    fn a_unit_longer_than_the_bound_is_decoded_once_as_well() {
        let (units, decoded) = (SharedUnits::default(), AtomicUsize::new(0));
        let long = [encoded(0, MAX_KEPT + 1), encoded(1, MAX_KEPT + 1)];
        for part in 0..8 {
            for one in &long {
                let range = one.unit.start + part..one.unit.start + part + 1;
                let decode = |_: &mut [u8]| {
                    decoded.fetch_add(1, Ordering::Relaxed);
                    Ok(())
                };
                units.fetch(0, one, &range, &mut [0], decode).expect("decodes");
            }
        }
        assert_eq!(decoded.into_inner(), 2);
    }
}
