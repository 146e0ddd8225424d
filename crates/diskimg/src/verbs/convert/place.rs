//! Placement: the target is asked in guest order, one task at a time.

use super::hash::GuestHash;
use super::piece::{Bytes, Carried, Piece, Placed, Write};
use super::share::Origin;
use super::throttle::Throttle;
use crate::verbs::progress::{Callback, report};
use crate::vocabulary::error::{Error, Result};
use crate::vocabulary::extent::Place;
use crate::vocabulary::target::{Slot, Target, Unit};
use std::ops::{ControlFlow, Range};

/// Zeros that the target is told of in one go: whole units of any.
const ZEROS_AT_A_TIME: u64 = 8 << 30;

/// The ordered half of a conversion.
pub(super) struct Placer<'a> {
    pub(super) target: &'a mut dyn Target,
    /// The target builds on another image: what is zero in both needs no word.
    pub(super) overlay: bool,
    /// Guest bytes in all.
    pub(super) total: u64,
    /// Bytes given to the workers to write.
    pub(super) stored: u64,
    /// Of the guest bytes so far, if the target wants it.
    pub(super) digest: u64,
    /// Of the guest bytes so far, if the caller wants it.
    pub(super) hash: Option<GuestHash<'a>>,
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
        if let Some(hash) = &mut self.hash {
            let (progress, done, total) = (self.progress, carried.zeros.start, self.total);
            hash.take(&carried, &|| report(progress, done, total))?;
        }
        if !self.overlay {
            self.zeros(carried.zeros.clone())?;
        }
        for piece in &carried.pieces {
            match piece {
                Piece::Same => {}
                Piece::Zero(range) => self.zeros(range.clone())?,
                Piece::Stored(range) => self.stored(range.clone(), None, &mut writes)?,
                Piece::Offloaded(range, origin) => {
                    self.stored(range.clone(), Some(*origin), &mut writes)?;
                }
                Piece::Encoded(at, part) => {
                    let unit = Unit::Encoded(carried.encoded(part));
                    if let Some(slot) = self.target.place(*at, unit)? {
                        push_write(&mut writes, slot, Bytes::Encoded(part.start));
                        self.stored += slot.len;
                    }
                }
            }
        }
        self.digest = self.digest.wrapping_add(carried.digest);
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
        let mut at = range.start;
        while at < range.end {
            // A pipe is told every byte of them: the caller may stop that.
            let len = (range.end - at).min(ZEROS_AT_A_TIME);
            if self.target.place(at, Unit::Zero { len })?.is_some() {
                // Zeros are the target's own business: it writes them if they must be written.
                return Err(Error::invalid("the target asks for zeros to be written"));
            }
            at += len;
            self.tell(at)?;
        }
        Ok(())
    }

    /// Makes room for stored bytes, which come from the buffers or from `origin`.
    fn stored(
        &mut self,
        range: Range<u64>,
        origin: Option<Origin>,
        writes: &mut Vec<Write>,
    ) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let len = range.end - at;
            let Some(slot) = self.target.place(at, Unit::Stored { len })? else {
                return Err(Error::invalid("the target has no room for stored bytes"));
            };
            debug_assert!(slot.len > 0 && slot.len <= len);
            let from = match origin {
                None => Bytes::Guest(at),
                Some(Origin { image, depth, place }) => {
                    let offset = place.offset + (at - range.start);
                    Bytes::Origin(Origin { image, depth, place: Place { offset, ..place } })
                }
            };
            push_write(writes, slot, from);
            self.stored += slot.len;
            at += slot.len;
        }
        Ok(())
    }
}

/// Appends a write, merging it with the last where both sides continue.
fn push_write(writes: &mut Vec<Write>, slot: Slot, from: Bytes) {
    if let Some(last) = writes.last_mut()
        && last.slot.file == slot.file
        && last.slot.offset + last.slot.len == slot.offset
        && match (&last.from, &from) {
            (Bytes::Guest(a), Bytes::Guest(b)) => a + last.slot.len == *b,
            (Bytes::Encoded(a), Bytes::Encoded(b)) => a + last.slot.len as usize == *b,
            _ => false,
        }
    {
        last.slot.len += slot.len;
        return;
    }
    writes.push(Write { slot, from });
}
