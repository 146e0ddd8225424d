//! Placement: the target is asked in guest order, one task at a time.

use super::hash::GuestHash;
use super::share::Origin;
use super::task::{Bytes, EncodedTask, Placed, TaskRun, Write};
use super::throttle::Throttle;
use crate::error::{Error, Result};
use crate::model::extent::HostOffset;
use crate::model::target::{Allocate, Slot, Target};
use crate::ops::progress::{Callback, report};
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

    /// Makes room for one task's runs.
    pub(super) fn place(&mut self, task: EncodedTask) -> Result<ControlFlow<(), Placed>> {
        let mut writes = Vec::new();
        if let Some(hash) = &mut self.hash {
            let (progress, done, total) = (self.progress, task.zeros.start, self.total);
            hash.take(&task, &|| report(progress, done, total))?;
        }
        if !self.overlay {
            self.zeros(task.zeros.clone())?;
        }
        for piece in &task.runs {
            match piece {
                TaskRun::Same => {}
                TaskRun::Zero(range) => self.zeros(range.clone())?,
                TaskRun::Stored(range) => self.stored(range.clone(), None, &mut writes)?,
                TaskRun::Offloaded(range, origin) => {
                    self.stored(range.clone(), Some(*origin), &mut writes)?;
                }
                TaskRun::Encoded(at, part) => {
                    let unit = Allocate::Compressed(task.encoded(part));
                    if let Some(slot) = self.target.place(*at, unit)? {
                        push_write(&mut writes, slot, Bytes::Encoded(part.start));
                        self.stored += slot.len;
                    }
                }
            }
        }
        self.digest = self.digest.wrapping_add(task.digest);
        self.tell(task.end())?;
        while let Some(nap) = self.throttle.nap(self.stored) {
            std::thread::sleep(nap);
            self.tell(task.end())?;
        }
        Ok(ControlFlow::Continue(Placed { task, writes }))
    }

    fn zeros(&mut self, range: Range<u64>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let mut at = range.start;
        while at < range.end {
            // A pipe is told every byte of them: the caller may stop that.
            let len = (range.end - at).min(ZEROS_AT_A_TIME);
            if self.target.place(at, Allocate::Zero { len })?.is_some() {
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
            let Some(slot) = self.target.place(at, Allocate::Data { len })? else {
                return Err(Error::invalid("the target has no room for stored bytes"));
            };
            debug_assert!(slot.len > 0 && slot.len <= len);
            let from = match origin {
                None => Bytes::Guest(at),
                Some(Origin { image, depth, place }) => {
                    let offset = place.offset + (at - range.start);
                    Bytes::Origin(Origin { image, depth, place: HostOffset { offset, ..place } })
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
