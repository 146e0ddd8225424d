//! Placement: the target is asked in guest order, one task at a time.

use super::carry::{Carried, From, Piece, Placed, Write};
use crate::verbs::progress::{Callback, report};
use crate::vocabulary::error::{Error, Result};
use crate::vocabulary::target::{Slot, Target, Unit};
use std::ops::{ControlFlow, Range};
use std::time::{Duration, Instant};

/// The ordered half of a conversion.
pub(super) struct Placer<'a> {
    pub(super) target: &'a mut dyn Target,
    /// The target builds on another image: what is zero in both needs no word.
    pub(super) overlay: bool,
    /// Guest bytes in all.
    pub(super) total: u64,
    /// Bytes given to the workers to write.
    pub(super) stored: u64,
    pub(super) throttle: Throttle,
    pub(super) progress: Option<Callback<'a>>,
}

impl Placer<'_> {
    /// Tells the caller that `done` guest bytes are dealt with.
    pub(super) fn tell(&self, done: u64) -> Result<()> {
        report(self.progress, done, self.total)
    }

    /// Makes room for one task's pieces.
    pub(super) fn place(&mut self, carried: Carried) -> Result<ControlFlow<(), Placed>> {
        let mut writes = Vec::new();
        if !self.overlay {
            self.zeros(carried.zeros.clone())?;
        }
        for piece in &carried.pieces {
            match piece {
                Piece::Same => {}
                Piece::Zero(range) => self.zeros(range.clone())?,
                Piece::Stored(range) => self.stored(range.clone(), &mut writes)?,
                Piece::Encoded(at, part) => {
                    let unit = Unit::Encoded(carried.encoded(part));
                    if let Some(slot) = self.target.place(*at, unit)? {
                        push_write(&mut writes, slot, From::Encoded(part.start));
                        self.stored += slot.len;
                    }
                }
            }
        }
        self.tell(carried.end())?;
        while let Some(nap) = self.throttle.nap(self.stored) {
            std::thread::sleep(nap);
            self.tell(carried.end())?;
        }
        Ok(ControlFlow::Continue(Placed { carried, writes }))
    }

    fn zeros(&mut self, range: Range<u64>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let unit = Unit::Zero { len: range.end - range.start };
        match self.target.place(range.start, unit)? {
            None => Ok(()),
            // Zeros are the target's own business: it writes them if they must be written.
            Some(_) => Err(Error::invalid("the target asks for zeros to be written")),
        }
    }

    fn stored(&mut self, range: Range<u64>, writes: &mut Vec<Write>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let len = range.end - at;
            let Some(slot) = self.target.place(at, Unit::Stored { len })? else {
                return Err(Error::invalid("the target has no room for stored bytes"));
            };
            debug_assert!(slot.len > 0 && slot.len <= len);
            push_write(writes, slot, From::Guest(at));
            self.stored += slot.len;
            at += slot.len;
        }
        Ok(())
    }
}

/// Appends a write, merging it with the last where both sides continue.
fn push_write(writes: &mut Vec<Write>, slot: Slot, from: From) {
    if let Some(last) = writes.last_mut()
        && last.slot.file == slot.file
        && last.slot.offset + last.slot.len == slot.offset
        && match (&last.from, &from) {
            (From::Guest(a), From::Guest(b)) => a + last.slot.len == *b,
            (From::Encoded(a), From::Encoded(b)) => a + last.slot.len as usize == *b,
            _ => false,
        }
    {
        last.slot.len += slot.len;
        return;
    }
    writes.push(Write { slot, from });
}

/// Keeps the average rate of writing below a limit.
#[derive(Debug)]
pub(super) struct Throttle {
    bytes_per_second: Option<u64>,
    started: Instant,
}

impl Throttle {
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, started: Instant::now() }
    }

    /// How long to sleep before asking again; `None` once `bytes` are due. Never
    /// long: the caller may want to stop meanwhile.
    fn nap(&self, bytes: u64) -> Option<Duration> {
        let due = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second? as f64);
        let wait = due.saturating_sub(self.started.elapsed()).min(Duration::from_millis(100));
        (!wait.is_zero()).then_some(wait)
    }
}
