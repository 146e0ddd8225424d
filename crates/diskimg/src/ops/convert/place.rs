//! Placement: lets the target allocate space in guest order, one task at a time.

use super::hash::GuestHash;
use super::share::Origin;
use super::task::{Bytes, EncodedTask, Placed, TaskRun, Write};
use super::throttle::Throttle;
use crate::error::{Error, Result};
use crate::model::extent::HostOffset;
use crate::model::target::{Allocate, Slot, Target};
use crate::ops::progress::{Callback, report};
use crate::storage::lock;
use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};
use std::sync::Mutex;

/// Maximum number of calls for the zeros of a disk, however large it is.
const MAX_ZERO_CALLS: u64 = 4096;

/// Bytes of zeros placed in one call, a multiple of every cluster size.
const ZEROS_PER_CALL: u64 = 8 << 30;

/// The same for an existing target, which may have a table entry for every cluster.
const ZEROS_PER_CALL_IF_EXISTING: u64 = 1 << 30;

/// The part of a conversion that runs in guest order.
pub(super) struct Placer<'a> {
    pub(super) target: &'a mut dyn Target,
    /// Whether the target has a backing file. Known zeros between tasks are zero in it too.
    pub(super) overlay: bool,
    /// Whether the target is an existing image.
    pub(super) existing: bool,
    /// Whether what is the same in the backing file is left as it is in the target.
    pub(super) keeps_same: bool,
    /// Whether the target is known to read as zeros, so that zeros are not placed.
    pub(super) is_zero: bool,
    /// The tasks that are placed and not yet written.
    pub(super) in_flight: &'a InFlight,
    /// Size of the disk in bytes, for progress.
    pub(super) total: u64,
    /// Bytes handed to the workers for writing so far.
    pub(super) stored: u64,
    /// Digest of the guest bytes so far, if the target wants it.
    pub(super) digest: u64,
    /// Hash of the guest bytes so far, if the caller wants it.
    pub(super) hash: Option<GuestHash<'a>>,
    pub(super) throttle: Throttle,
    pub(super) progress: Option<Callback<'a>>,
}

/// The tasks that are placed and not yet written, by the guest offset at which they start.
#[derive(Debug, Default)]
pub(super) struct InFlight(Mutex<BTreeSet<u64>>);

impl InFlight {
    /// Adds the task of a range. One without data has nothing that is written, and the next task may
    /// start where it does.
    fn add(&self, range: &Range<u64>) {
        if !range.is_empty() {
            lock(&self.0).insert(range.start);
        }
    }

    /// Returns the guest offset before which everything is written of what was placed before `at`.
    fn written_before(&self, at: u64) -> u64 {
        lock(&self.0).first().map_or(at, |&first| first.min(at))
    }

    /// Removes a task that is written.
    pub(super) fn remove(&self, range: &Range<u64>) {
        if !range.is_empty() {
            lock(&self.0).remove(&range.start);
        }
    }
}

impl Placer<'_> {
    /// Reports that `done` guest bytes have been processed.
    ///
    /// # Errors
    /// Returns [`Cancelled`](crate::ErrorKind::Cancelled) if the callback stops the conversion.
    pub(super) fn report_progress(&self, done: u64) -> Result<()> {
        report(self.progress, done, self.total)
    }

    /// Allocates space for one task's runs.
    pub(super) fn place(&mut self, task: EncodedTask) -> Result<ControlFlow<(), Placed>> {
        let mut writes = Vec::new();
        if let Some(hash) = &mut self.hash {
            let (progress, done, total) = (self.progress, task.zeros.start, self.total);
            hash.update(&task, &|| report(progress, done, total))?;
        }
        self.in_flight.add(&task.range);
        if self.overlay && !self.keeps_same {
            self.place_backed(task.zeros.clone())?;
        } else {
            self.place_zeros(task.zeros.clone())?;
        }
        for run in &task.runs {
            match run {
                TaskRun::Same(_) if self.keeps_same => {}
                TaskRun::Same(range) => self.place_backed(range.clone())?,
                TaskRun::Zero(range) => self.place_zeros(range.clone())?,
                TaskRun::Stored(range) => self.place_data(range.clone(), None, &mut writes)?,
                TaskRun::Offloaded(range, origin) => {
                    self.place_data(range.clone(), Some(*origin), &mut writes)?;
                }
                TaskRun::Encoded(at, part) => {
                    let unit = Allocate::Compressed { len: part.len() as u64 };
                    if let Some(slot) = self.target.place(*at, unit)? {
                        push_write(&mut writes, slot, Bytes::Encoded(part.start));
                        self.stored += slot.len;
                    }
                }
            }
        }
        self.digest = self.digest.wrapping_add(task.digest);
        self.target.settle(self.in_flight.written_before(task.end()))?;
        self.report_progress(task.end())?;
        while let Some(delay) = self.throttle.delay(self.stored) {
            std::thread::sleep(delay);
            self.report_progress(task.end())?;
        }
        Ok(ControlFlow::Continue(Placed { task, writes }))
    }

    /// Places a range that reads as the backing file.
    fn place_backed(&mut self, range: Range<u64>) -> Result<()> {
        self.step_through(range, |target, at, len| {
            if target.place(at, Allocate::Backed { len })?.is_some() {
                let message = "the target returned a slot for unallocated clusters";
                return Err(Error::invalid(message));
            }
            Ok(())
        })
    }

    fn place_zeros(&mut self, range: Range<u64>) -> Result<()> {
        if self.is_zero {
            return Ok(());
        }
        self.step_through(range, |target, at, len| {
            if target.place(at, Allocate::Zero { len })?.is_some() {
                // A target writes zeros itself if they must be written.
                return Err(Error::invalid("the target returned a slot for zeros"));
            }
            Ok(())
        })
    }

    /// Returns the maximum length in bytes of a run of zeros that is placed at a time.
    fn zeros_per_call(&self) -> u64 {
        if self.existing {
            return ZEROS_PER_CALL_IF_EXISTING;
        }
        // To a pipe every zero is written, so the caller must be able to cancel.
        match self.target.files().iter().any(|file| file.is_sequential()) {
            true => ZEROS_PER_CALL,
            false => (self.total / MAX_ZERO_CALLS).next_multiple_of(ZEROS_PER_CALL),
        }
        .max(ZEROS_PER_CALL)
    }

    /// Calls `step` for parts of a range, with their start and length, between which the target may
    /// store tables and the caller may cancel.
    fn step_through(
        &mut self,
        range: Range<u64>,
        mut step: impl FnMut(&mut dyn Target, u64, u64) -> Result<()>,
    ) -> Result<()> {
        let max = self.zeros_per_call();
        let mut at = range.start;
        while at < range.end {
            let len = (range.end - at).min(max);
            step(&mut *self.target, at, len)?;
            at += len;
            self.target.settle(self.in_flight.written_before(at))?;
            self.report_progress(at)?;
        }
        Ok(())
    }

    /// Allocates space for data that is stored verbatim and comes from the task's buffers or from
    /// `origin`.
    fn place_data(
        &mut self,
        range: Range<u64>,
        origin: Option<Origin>,
        writes: &mut Vec<Write>,
    ) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let len = range.end - at;
            let Some(slot) = self.target.place(at, Allocate::Data { len })? else {
                return Err(Error::invalid("the target returned no slot for data"));
            };
            debug_assert!(slot.len > 0 && slot.len <= len);
            let from = match origin {
                None => Bytes::Guest(at),
                Some(Origin { image, depth, host }) => {
                    let offset = host.offset + (at - range.start);
                    Bytes::Origin(Origin { image, depth, host: HostOffset { offset, ..host } })
                }
            };
            push_write(writes, slot, from);
            self.stored += slot.len;
            at += slot.len;
        }
        Ok(())
    }
}

/// Appends a write. Merges it with the last one if source and destination are both adjacent.
fn push_write(writes: &mut Vec<Write>, slot: Slot, from: Bytes) {
    if let Some(last) = writes.last_mut()
        && last.slot.file == slot.file
        && last.slot.offset + last.slot.len == slot.offset
        && last.slot.is_zeroed == slot.is_zeroed
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_without_data_does_not_stand_for_the_one_that_starts_where_it_does() {
        let in_flight = InFlight::default();
        in_flight.add(&(10..10));
        in_flight.add(&(10..20));
        in_flight.remove(&(10..10));
        assert_eq!(in_flight.written_before(30), 10);
        in_flight.remove(&(10..20));
        assert_eq!(in_flight.written_before(30), 30);
    }
}
