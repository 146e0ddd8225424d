//! What is to be task, in which runs.

use super::Sparse;
use super::input::{Input, InputRun};
use super::pass;
use super::salvage::{SALVAGE_BLOCK, SalvageLog};
use super::share::{Origin, Sharing};
use crate::error::{Error, Result};
use crate::model::image::{Image, WINDOW};
use std::collections::VecDeque;
use std::ops::Range;

/// Guest bytes that a worker carries at a time, if the target's unit is not
/// larger: small enough to stay in the processor's cache, large enough that a
/// system call's cost vanishes.
const CHUNK: u64 = 512 << 10;

/// The source is asked about no more units than this at a time, each of which
/// may be an extent of its own.
const UNITS_PER_WINDOW: u64 = 32 << 10;

/// After so many windows of zeros a task tells of them: it shows that the work
/// goes on, and lets the caller stop it.
const SILENT_WINDOWS: u64 = 64;

/// A piece of the conversion.
#[derive(Debug)]
pub(super) struct Task {
    /// Known zeros before `range`, to be told to the target and no more.
    pub(super) zeros: Range<u64>,
    /// Bytes to carry; empty after a long run of zeros, and in the last task of
    /// a disk that ends with zeros.
    pub(super) range: Range<u64>,
    /// Covers `range`.
    pub(super) input_runs: Vec<InputRun>,
    /// All of `range` lies verbatim here, in whole units: it may go from file
    /// to file without being read.
    pub(super) origin: Option<Origin>,
}

/// Cuts the input into tasks, lazily.
pub(super) struct Plan<'a> {
    input: &'a Input,
    backing: Option<&'a Image>,
    unit: u64,
    /// Tasks start and end at multiples of this: whole units, and whole blocks
    /// of those that may become holes, so that holes depend on content alone.
    granule: u64,
    sparse: Sparse,
    salvaged: &'a SalvageLog,
    chunk: u64,
    /// Guest bytes asked about at a time.
    step: u64,
    sharing: &'a Sharing,
    /// Encoded units may be passed through.
    passes: bool,
    /// Where the next window starts.
    window: u64,
    /// Where the zeros start that no task has mentioned yet.
    told: u64,
    ready: VecDeque<Task>,
    ended: bool,
}

impl<'a> Plan<'a> {
    pub(super) fn new(
        input: &'a Input,
        backing: Option<&'a Image>,
        unit: u64,
        sparse: Sparse,
        salvaged: &'a SalvageLog,
        sharing: &'a Sharing,
    ) -> Self {
        debug_assert!(unit.is_power_of_two());
        let granule = match sparse {
            Sparse::Off => unit,
            Sparse::Blocks(block) => unit.max(block),
        };
        let chunk = CHUNK.max(granule);
        let step = input.finest_unit().saturating_mul(UNITS_PER_WINDOW).min(WINDOW).max(chunk);
        Self {
            input,
            backing,
            unit,
            granule,
            sparse,
            salvaged,
            chunk,
            step,
            sharing,
            passes: false,
            window: 0,
            told: 0,
            ready: VecDeque::new(),
            ended: false,
        }
    }

    /// Whether encoded units may be passed through as they are stored.
    pub(super) fn passes(mut self, yes: bool) -> Self {
        self.passes = yes;
        self
    }

    /// The next task, in guest order.
    pub(super) fn next_task(&mut self) -> Result<Option<Task>> {
        while self.ready.is_empty() && self.window < self.input.size() {
            let end = self.next_window();
            self.plan_window(self.window..end)?;
            self.window = end;
            if self.ready.is_empty() && end - self.told >= SILENT_WINDOWS * WINDOW {
                return Ok(self.zeros_up_to(end));
            }
        }
        if let Some(task) = self.ready.pop_front() {
            return Ok(Some(task));
        }
        if self.ended {
            return Ok(None);
        }
        self.ended = true;
        Ok(self.zeros_up_to(self.input.size()))
    }

    /// Where the next window ends: far off where there is nothing.
    fn next_window(&self) -> u64 {
        let (start, end) = (self.window, self.input.size());
        let usual = end.min(start.saturating_add(self.step));
        if self.sparse == Sparse::Off || self.salvaged.active() {
            return usual;
        }
        let mut far = self.input.next_window(start, end, self.step);
        if let Some(backing) = self.backing.filter(|backing| start < backing.size()) {
            far = far.min(backing.next_window(start, backing.size(), self.step));
        }
        // Windows start at whole steps, and so at whole units.
        if far < end { usual.max(start + (far - start) / self.step * self.step) } else { end }
    }

    /// A task that only tells of zeros, if there are any.
    fn zeros_up_to(&mut self, end: u64) -> Option<Task> {
        let zeros = self.told..end;
        self.told = end;
        let task = |zeros| Task { zeros, range: end..end, input_runs: Vec::new(), origin: None };
        (!zeros.is_empty()).then(|| task(zeros))
    }

    fn plan_window(&mut self, window: Range<u64>) -> Result<()> {
        let mut input_runs = self.input_runs(window.clone())?;
        if self.passes {
            pass::tighten(&mut input_runs);
        }
        let busy = self.busy_units(&input_runs, &window)?;
        let mut first = 0;
        for run in busy {
            let mut at = run.start;
            while at < run.end {
                while input_runs[first].at.end <= at {
                    first += 1;
                }
                let (end, origin) = self.cut(at..run.end, &input_runs[first..])?;
                let range = at..end;
                let covering = input_runs[first..].iter().take_while(|s| s.at.start < end);
                self.ready.push_back(Task {
                    zeros: self.told..at,
                    input_runs: covering.map(|s| s.clip(&range)).collect(),
                    range,
                    origin,
                });
                self.told = end;
                at = end;
            }
        }
        Ok(())
    }

    /// Where the task that starts with `run` ends, and where all of it lies if
    /// it can be left to the kernel. `input_runs` begin with the one at its start.
    fn cut(&self, run: Range<u64>, input_runs: &[InputRun]) -> Result<(u64, Option<Origin>)> {
        // At multiples of the chunk, so that the cuts do not depend on the runs.
        let chunk_end = run.end.min((run.start / self.chunk + 1) * self.chunk);
        if !self.sharing.is_possible() {
            return Ok((chunk_end, None));
        }
        for input_run in input_runs.iter().take_while(|s| s.at.start < chunk_end) {
            let part = self.sharing.part_of(input_run, &run, self.unit);
            let part = part.map_err(|e| match input_run.image {
                Some(image) => self.input.image(image).in_layer(e, input_run.extent.depth),
                None => e,
            })?;
            let Some((part, origin)) = part else { continue };
            return Ok(if part.start == run.start {
                (part.end, Some(origin))
            } else {
                (part.start.min(chunk_end), None)
            });
        }
        Ok((chunk_end, None))
    }

    /// What the input says; under salvage, what cannot be mapped becomes zeros.
    fn input_runs(&self, range: Range<u64>) -> Result<Vec<InputRun>> {
        let mut input_runs = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let rest = at..range.end;
            let error = match self.input.runs(rest.clone()) {
                Err(error) if self.salvaged.active() => error,
                outcome => {
                    input_runs.extend(outcome?);
                    break;
                }
            };
            let lost = match error.lost() {
                Some(lost) => lost.start.max(at)..lost.end.min(range.end),
                None => at..at,
            };
            if lost.is_empty() {
                input_runs.extend(self.halves(rest, &error)?);
                break;
            }
            if at < lost.start {
                input_runs.extend(self.input_runs(at..lost.start)?);
            }
            self.salvaged.add(lost.clone(), &error);
            input_runs.push(InputRun::zeros(lost.clone()));
            at = lost.end;
        }
        Ok(input_runs)
    }

    /// The same for a range of which nobody knows how much is lost.
    fn halves(&self, range: Range<u64>, error: &Error) -> Result<Vec<InputRun>> {
        let half = range.start + (range.end - range.start) / 2;
        let middle = (half / SALVAGE_BLOCK * SALVAGE_BLOCK)
            .max((range.start + 1).next_multiple_of(SALVAGE_BLOCK));
        if middle >= range.end {
            self.salvaged.add(range.clone(), error);
            return Ok(vec![InputRun::zeros(range)]);
        }
        let mut input_runs = self.input_runs(range.start..middle)?;
        input_runs.extend(self.input_runs(middle..range.end)?);
        Ok(input_runs)
    }

    /// The runs of whole granules of which something must be task: in order,
    /// apart, clipped to the window.
    fn busy_units(&self, input_runs: &[InputRun], window: &Range<u64>) -> Result<Vec<Range<u64>>> {
        if self.sparse == Sparse::Off {
            return Ok(vec![window.clone()]);
        }
        let busy = input_runs.iter().filter(|s| !s.extent.kind.is_zero()).map(|s| s.at.clone());
        let mut ranges: Vec<_> = busy.collect();
        if let Some(backing) = self.backing {
            // Zeros over a backing file that is not zero must be said.
            let end = window.end.min(backing.size()).max(window.start);
            for extent in backing.extents(window.start.min(end)..end)? {
                if !extent.kind.is_zero() {
                    ranges.push(extent.guest);
                }
            }
            ranges.sort_unstable_by_key(|r| r.start);
        }
        let mut runs: Vec<Range<u64>> = Vec::new();
        for range in ranges {
            let start = range.start / self.granule * self.granule;
            let end = range.end.next_multiple_of(self.granule).min(window.end);
            match runs.last_mut() {
                Some(last) if start <= last.end => last.end = last.end.max(end),
                _ => runs.push(start..end),
            }
        }
        Ok(runs)
    }
}
