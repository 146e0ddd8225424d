//! Planning: divides the source into tasks.

use super::Sparse;
use super::input::{Input, InputRun};
use super::load::Loaded;
use super::pass;
use super::salvage::{SALVAGE_BLOCK, SalvageLog};
use super::selection::{Part, Selection};
use super::share::{Origin, Sharing};
use crate::error::{Error, ErrorKind, Result};
use crate::model::budget::{Budget, Budgets};
use crate::model::extent::Kind;
use crate::model::image::{Image, WINDOW};
use std::collections::VecDeque;
use std::ops::Range;

/// Guest bytes per task, unless the target's clusters are larger. Small enough for the processor's
/// cache, large enough that the cost of a system call does not matter.
const CHUNK: u64 = 512 << 10;

/// Clusters of the source that are mapped at a time. In the worst case each of them is a separate
/// extent.
const CLUSTERS_PER_WINDOW: u64 = 32 << 10;

/// Number of consecutive windows of zeros after which a task without data is issued, so that
/// progress is reported and the conversion can be cancelled.
const MAX_ZERO_WINDOWS: u64 = 64;

/// A part of the conversion that one worker handles.
#[derive(Debug)]
pub(super) struct Task {
    /// Known zeros before `range`. The target is informed of them; nothing is read.
    pub(super) zeros: Range<u64>,
    /// Guest bytes to transfer. Empty after a long run of zeros, and in the last task of a disk
    /// that ends with zeros. If a part of the disk is [selected](Selection), tasks do not cover the
    /// rest of it.
    pub(super) range: Range<u64>,
    /// Runs of the input that cover `range` exactly.
    pub(super) input_runs: Vec<InputRun>,
    /// Where all of `range` is stored verbatim in the source, if it can be shared or copied by the
    /// kernel without being read. `range` consists of whole clusters then.
    pub(super) origin: Option<Origin>,
    /// Stored bytes that were read ahead of the worker.
    pub(super) loaded: Loaded,
}

/// Divides the input into tasks, lazily.
pub(super) struct Plan<'a> {
    input: &'a Input,
    backing: Option<&'a Image>,
    /// The target's quantum in bytes.
    quantum: u64,
    sparse: Sparse,
    salvaged: &'a SalvageLog,
    /// Maximum length of a task in bytes. Longer runs are cut at multiples of it.
    chunk: u64,
    /// Guest bytes that are mapped at a time.
    step: u64,
    sharing: &'a Sharing,
    /// The part of the disk that is transferred, if it is not the whole one.
    selection: Option<&'a Selection>,
    /// Compressed units may be copied as stored.
    passes: bool,
    /// Tasks end at multiples of this many bytes: of the target's quantum, and of the blocks of zero
    /// detection.
    grain: u64,
    /// Start of the next window.
    window: u64,
    /// End of the planned range of the input.
    end: u64,
    /// End of the guest range that the tasks so far cover.
    planned: u64,
    ready: VecDeque<Task>,
    ended: bool,
    /// Of the input's images.
    budgets: Budgets,
    backing_budget: Option<Budget>,
    /// End of the range that was last found to be lost.
    lost_end: u64,
    /// Number of ranges that may still be divided to find out which part of them is lost.
    divisions: u32,
}

/// Maximum number of bytes by which a task is extended so that it has a whole compressed unit.
const MAX_REST: u64 = 4 << 20;

/// Maximum number of ranges that are divided because an error does not tell which part is lost.
const MAX_DIVISIONS: u32 = 1 << 18;

impl<'a> Plan<'a> {
    pub(super) fn new(
        input: &'a Input,
        backing: Option<&'a Image>,
        quantum: u64,
        sparse: Sparse,
        salvaged: &'a SalvageLog,
        sharing: &'a Sharing,
    ) -> Self {
        debug_assert!(quantum.is_power_of_two());
        // Tasks are cut at whole blocks of zero detection, so that holes do not depend on the cuts.
        let grain = match sparse {
            Sparse::Off => quantum,
            Sparse::Blocks(block) => quantum.max(block),
        };
        let chunk = CHUNK.max(grain);
        let step =
            input.min_cluster_size().saturating_mul(CLUSTERS_PER_WINDOW).min(WINDOW).max(chunk);
        Self {
            input,
            backing,
            quantum,
            sparse,
            salvaged,
            chunk,
            step,
            sharing,
            selection: None,
            passes: false,
            grain,
            window: 0,
            end: input.size(),
            planned: 0,
            ready: VecDeque::new(),
            ended: false,
            budgets: input.budgets(),
            backing_budget: backing.map(Budget::new),
            lost_end: 0,
            divisions: MAX_DIVISIONS,
        }
    }

    /// Sets whether compressed units may be copied as stored.
    pub(super) fn passes(mut self, yes: bool) -> Self {
        self.passes = yes;
        self
    }

    /// Restricts the plan to a part of the disk.
    pub(super) fn select(mut self, selection: Option<&'a Selection>) -> Self {
        self.selection = selection;
        self
    }

    /// Restricts the plan to a part of the input. Parts that start and end at multiples of
    /// [`step`](Self::step) have together the same tasks as the whole, except that zeros at a border
    /// between two parts are in two tasks.
    #[cfg(test)]
    pub(super) fn part(mut self, range: Range<u64>) -> Self {
        debug_assert!(range.start.is_multiple_of(self.step) && range.end <= self.input.size());
        (self.window, self.planned, self.end) = (range.start, range.start, range.end);
        self
    }

    /// Returns the number of guest bytes that are mapped at a time.
    #[cfg(test)]
    pub(super) fn step(&self) -> u64 {
        self.step
    }

    /// Returns the guest offset up to which the input has been mapped.
    pub(super) fn position(&self) -> u64 {
        self.window
    }

    /// Returns the next task in guest order, or `None` at the end of the disk.
    pub(super) fn next_task(&mut self) -> Result<Option<Task>> {
        while self.ready.is_empty() && self.window < self.end {
            let end = self.next_window();
            self.plan_window(self.window..end)?;
            self.window = end;
            if self.ready.is_empty() && end - self.planned >= MAX_ZERO_WINDOWS * WINDOW {
                return Ok(Some(match self.selection {
                    None => self.empty_task(end),
                    Some(_) => self.skip_to(end),
                }));
            }
        }
        if let Some(task) = self.ready.pop_front() {
            return Ok(Some(task));
        }
        if self.ended {
            return Ok(None);
        }
        self.ended = true;
        let has_rest = self.planned < self.end && self.selection.is_none();
        Ok(has_rest.then(|| self.empty_task(self.end)))
    }

    /// Returns the end of the next window. Windows are larger where nothing is allocated.
    fn next_window(&self) -> u64 {
        let (start, end) = (self.window, self.end);
        let one_step = end.min(start.saturating_add(self.step));
        if let Some(selection) = self.selection {
            return selection.next_window(start, end, self.step).max(one_step);
        }
        if self.sparse == Sparse::Off {
            return one_step;
        }
        let mut next = self.input.next_window(start, end, self.step);
        // What cannot be mapped is not mapped step by step.
        next = next.max(self.lost_end.min(end));
        if let Some(backing) = self.backing.filter(|backing| start < backing.size()) {
            next = next.min(backing.next_window(start, backing.size(), self.step));
        }
        // Windows start at multiples of a step, hence at multiples of a cluster.
        if next < end { one_step.max(start + (next - start) / self.step * self.step) } else { end }
    }

    /// Returns a task without data for the zeros from the end of the last task to `end`.
    fn empty_task(&mut self, end: u64) -> Task {
        let zeros = self.planned..end;
        self.planned = end;
        Task {
            zeros,
            range: end..end,
            input_runs: Vec::new(),
            origin: None,
            loaded: Loaded::default(),
        }
    }

    /// Returns a task that neither has data nor zeros, for what is not selected before `end`.
    fn skip_to(&mut self, end: u64) -> Task {
        self.planned = end;
        self.empty_task(end)
    }

    /// Divides the selected parts of a window into tasks.
    fn plan_selected(&mut self, selection: &Selection, window: Range<u64>) -> Result<()> {
        for part in selection.parts(self.input, window, self.quantum)? {
            match part {
                Part::Zero(range) => {
                    self.planned = range.start;
                    let task = self.empty_task(range.end);
                    self.ready.push_back(task);
                }
                Part::Data(range) => {
                    self.planned = range.start;
                    self.charge_backing(&range)?;
                    let input_runs = self.input_runs(range.clone())?;
                    self.input.charge(&input_runs, &mut self.budgets)?;
                    self.push_tasks(vec![range], &input_runs)?;
                }
            }
        }
        Ok(())
    }

    /// Charges what a range takes in the backing file to its budget.
    fn charge_backing(&mut self, range: &Range<u64>) -> Result<()> {
        let (Some(backing), Some(budget)) = (self.backing, &mut self.backing_budget) else {
            return Ok(());
        };
        let end = range.end.min(backing.size());
        budget.spend(backing, &backing.extents_in(range.start.min(end)..end)?)
    }

    /// Divides a window into tasks.
    fn plan_window(&mut self, window: Range<u64>) -> Result<()> {
        if let Some(selection) = self.selection {
            return self.plan_selected(selection, window);
        }
        let mut input_runs = self.input_runs(window.clone())?;
        self.input.charge(&input_runs, &mut self.budgets)?;
        if self.passes {
            pass::trim_lengths(&mut input_runs);
        }
        let allocated = self.allocated_runs(&input_runs, &window)?;
        self.push_tasks(allocated, &input_runs)
    }

    /// Divides the ranges `allocated`, which `input_runs` cover, into tasks.
    fn push_tasks(&mut self, allocated: Vec<Range<u64>>, input_runs: &[InputRun]) -> Result<()> {
        let mut first = 0;
        for run in allocated {
            let mut at = run.start;
            while at < run.end {
                while input_runs[first].at.end <= at {
                    first += 1;
                }
                let (end, origin) = self.cut(at..run.end, &input_runs[first..])?;
                let range = at..end;
                let covering = input_runs[first..].iter().take_while(|s| s.at.start < end);
                self.ready.push_back(Task {
                    zeros: self.planned..at,
                    input_runs: covering.map(|s| s.clip(&range)).collect(),
                    range,
                    origin,
                    loaded: Loaded::default(),
                });
                self.planned = end;
                at = end;
            }
        }
        Ok(())
    }

    /// Returns the end of the task that starts at `run.start`, and where its bytes are stored in
    /// the source if the task can be shared or copied by the kernel. The first of `input_runs`
    /// contains `run.start`.
    fn cut(&self, run: Range<u64>, input_runs: &[InputRun]) -> Result<(u64, Option<Origin>)> {
        // Cut at multiples of the chunk, so that the cuts do not depend on where runs start.
        let chunk_end = run.end.min((run.start / self.chunk + 1) * self.chunk);
        let chunk_end = self.end_of_unit(chunk_end, input_runs).min(run.end);
        if !self.sharing.is_possible() {
            return Ok((chunk_end, None));
        }
        for input_run in input_runs.iter().take_while(|s| s.at.start < chunk_end) {
            let part = self.sharing.part_of(input_run, &run, self.quantum);
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

    /// Returns the end of the compressed unit of which bytes before and after `at` are in
    /// `input_runs`, extended to the grain: a unit that is not in two tasks is decoded once. Returns
    /// `at` if there is none, or if it is too long.
    fn end_of_unit(&self, at: u64, input_runs: &[InputRun]) -> u64 {
        let mut covering = input_runs.iter().skip_while(|run| run.at.end <= at);
        match covering.next().map(|run| (run, &run.extent.kind)) {
            Some((run, Kind::Encoded(_))) if run.at.start < at && run.at.end - at <= MAX_REST => {
                run.at.end.next_multiple_of(self.grain)
            }
            _ => at,
        }
    }

    /// Returns the runs of `range`. With salvage, ranges that cannot be mapped become zeros.
    fn input_runs(&mut self, range: Range<u64>) -> Result<Vec<InputRun>> {
        let mut input_runs = Vec::new();
        let mut at = range.start;
        // A loss in a backing file is found after the layers above are mapped. So that each loss does
        // not cost the rest of the window, what follows is mapped in parts that become longer.
        let mut span = u64::MAX;
        while at < range.end {
            let end = at.saturating_add(span).checked_next_multiple_of(self.chunk);
            let part = at..end.map_or(range.end, |end| end.min(range.end));
            let error = match self.input.runs(part.clone()) {
                Err(error) if self.salvaged.covers(&error) => error,
                outcome => {
                    input_runs.extend(outcome?);
                    (at, span) = (part.end, span.saturating_mul(2));
                    continue;
                }
            };
            let lost = match error.lost() {
                Some(lost) => {
                    self.lost_end = lost.end;
                    lost.start.max(at)..lost.end.min(range.end)
                }
                None => at..at,
            };
            if lost.is_empty() {
                input_runs.extend(self.bisect(part.clone(), error)?);
                at = part.end;
                continue;
            }
            if at < lost.start {
                input_runs.extend(self.input_runs(at..lost.start)?);
            }
            self.salvaged.add(lost.clone(), &error);
            span = (lost.end - at).saturating_mul(2);
            at = lost.end;
            input_runs.push(InputRun::zeros(lost));
        }
        Ok(input_runs)
    }

    /// As [`input_runs`](Self::input_runs), after mapping `range` failed with an error that does
    /// not tell which part of it is lost: maps each half separately.
    ///
    /// # Errors
    /// Returns the error if it is not damage: it concerns all of the disk then.
    fn bisect(&mut self, range: Range<u64>, error: Error) -> Result<Vec<InputRun>> {
        if !matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Io) {
            return Err(error);
        }
        let half = range.start + (range.end - range.start) / 2;
        let middle = (half / SALVAGE_BLOCK * SALVAGE_BLOCK)
            .max((range.start + 1).next_multiple_of(SALVAGE_BLOCK));
        if middle >= range.end || self.divisions == 0 {
            self.salvaged.add(range.clone(), &error);
            return Ok(vec![InputRun::zeros(range)]);
        }
        self.divisions -= 1;
        let mut input_runs = self.input_runs(range.start..middle)?;
        input_runs.extend(self.input_runs(middle..range.end)?);
        Ok(input_runs)
    }

    /// Returns the ranges that are not known to be zero in both the input and the backing file,
    /// extended to whole quanta: in order, disjoint, clipped to the window. Zeros between them are
    /// holes of the output, however short they are.
    fn allocated_runs(
        &mut self,
        input_runs: &[InputRun],
        window: &Range<u64>,
    ) -> Result<Vec<Range<u64>>> {
        if self.sparse == Sparse::Off {
            return Ok(vec![window.clone()]);
        }
        let stored = input_runs.iter().filter(|s| !s.extent.kind.is_zero()).map(|s| s.at.clone());
        let mut ranges: Vec<_> = stored.collect();
        if let Some(backing) = self.backing {
            // Zeros must be recorded where the backing file is not zero.
            let end = window.end.min(backing.size()).max(window.start);
            let extents = backing.extents_in(window.start.min(end)..end)?;
            if let Some(budget) = &mut self.backing_budget {
                budget.spend(backing, &extents)?;
            }
            for extent in extents {
                if !extent.kind.is_zero() {
                    ranges.push(extent.guest);
                }
            }
            ranges.sort_unstable_by_key(|r| r.start);
        }
        let mut runs: Vec<Range<u64>> = Vec::new();
        for range in ranges {
            let start = range.start / self.quantum * self.quantum;
            let end = range.end.next_multiple_of(self.quantum).min(window.end);
            match runs.last_mut() {
                Some(last) if start <= last.end => last.end = last.end.max(end),
                _ => runs.push(start..end),
            }
        }
        Ok(runs)
    }
}
