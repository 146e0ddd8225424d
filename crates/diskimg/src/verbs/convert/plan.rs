//! What is to be carried, in which pieces.

use super::Sparse;
use super::carry::SalvageLog;
use super::input::{Input, Span};
use crate::vocabulary::error::Result;
use crate::vocabulary::extent::{Kind, Place};
use crate::vocabulary::image::Image;
use std::collections::VecDeque;
use std::ops::Range;

/// Guest bytes asked about at a time: the answer stays small, and a sparse
/// disk of any size is walked without ever being mapped as a whole.
const WINDOW: u64 = 128 << 20;

/// Guest bytes without a task at the most: the caller is told how far it is,
/// and may stop, on a disk of exabytes that holds nothing.
const QUIET: u64 = 1 << 10 << 30;

/// Guest bytes that a worker carries at a time, if the target's unit is not
/// larger: small enough to stay in the processor's cache, large enough that a
/// system call's cost vanishes.
const CHUNK: u64 = 512 << 10;

/// Stored runs at least this long are asked for holes of their file: an image
/// preallocated as a whole is one long run of mostly nothing.
const HOLE_WORTH_ASKING: u64 = 64 << 10;

/// A piece of the conversion.
#[derive(Debug)]
pub(super) struct Task {
    /// Known zeros before `range`, to be told to the target and no more.
    pub(super) zeros: Range<u64>,
    /// Bytes to carry; none where nothing but zeros was found for long, or up
    /// to the end of the disk.
    pub(super) range: Range<u64>,
    /// Covers `range`.
    pub(super) spans: Vec<Span>,
}

/// Cuts the input into tasks, lazily.
pub(super) struct Plan<'a> {
    input: &'a Input,
    backing: Option<&'a Image>,
    unit: u64,
    sparse: Sparse,
    salvaged: &'a SalvageLog,
    chunk: u64,
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
    ) -> Self {
        let chunk = CHUNK.max(unit);
        debug_assert!(unit.is_power_of_two());
        Self {
            input,
            backing,
            unit,
            sparse,
            salvaged,
            chunk,
            window: 0,
            told: 0,
            ready: VecDeque::new(),
            ended: false,
        }
    }

    /// The next task, in guest order.
    pub(super) fn next_task(&mut self) -> Result<Option<Task>> {
        let quiet = self.window.saturating_add(QUIET);
        while self.ready.is_empty() && self.window < self.input.size().min(quiet) {
            let end = self.input.size().min(self.window + WINDOW.max(self.chunk));
            self.plan_window(self.window..end)?;
            self.window = end;
        }
        if let Some(task) = self.ready.pop_front() {
            return Ok(Some(task));
        }
        if self.window < self.input.size() {
            let zeros = self.told..self.window;
            self.told = self.window;
            return Ok(Some(Task { range: zeros.end..zeros.end, zeros, spans: Vec::new() }));
        }
        if self.ended {
            return Ok(None);
        }
        self.ended = true;
        let end = self.input.size();
        Ok((self.told < end).then(|| Task {
            zeros: self.told..end,
            range: end..end,
            spans: Vec::new(),
        }))
    }

    fn plan_window(&mut self, window: Range<u64>) -> Result<()> {
        let spans = self.refine(self.spans(window.clone())?)?;
        let busy = self.busy_units(&spans, &window)?;
        let mut first = 0;
        for run in busy {
            let mut at = run.start;
            while at < run.end {
                // Cut at multiples of the chunk, so that the cuts do not depend on the runs.
                let end = run.end.min((at / self.chunk + 1) * self.chunk);
                while spans[first].at.end <= at {
                    first += 1;
                }
                let range = at..end;
                let covering = spans[first..].iter().take_while(|s| s.at.start < end);
                self.ready.push_back(Task {
                    zeros: self.told..at,
                    spans: covering.map(|s| s.clip(&range)).collect(),
                    range,
                });
                self.told = end;
                at = end;
            }
        }
        Ok(())
    }

    /// What the input says; under salvage, what cannot be mapped becomes zeros.
    fn spans(&self, range: Range<u64>) -> Result<Vec<Span>> {
        let error = match self.input.spans(range.clone()) {
            Ok(spans) => return Ok(spans),
            Err(error) if !self.salvaged.active() => return Err(error),
            Err(error) => error,
        };
        let middle = range.start + (range.end - range.start) / 2 / self.unit * self.unit;
        if middle <= range.start {
            self.salvaged.add(range.clone(), &error);
            return Ok(vec![Span::zeros(range)]);
        }
        let mut spans = self.spans(range.start..middle)?;
        spans.extend(self.spans(middle..range.end)?);
        Ok(spans)
    }

    /// Splits long stored runs at the holes of their file.
    fn refine(&self, spans: Vec<Span>) -> Result<Vec<Span>> {
        let mut out = Vec::with_capacity(spans.len());
        for span in spans {
            match (&span.extent.kind, span.image) {
                (Kind::Data(place), Some(image)) if span.extent.len() >= HOLE_WORTH_ASKING => {
                    self.split_at_holes(&span, *place, image, &mut out);
                }
                _ => out.push(span),
            }
        }
        Ok(out)
    }

    fn split_at_holes(&self, span: &Span, place: Place, image: usize, out: &mut Vec<Span>) {
        let file = self.input.image(image).file(span.extent.depth, place.file);
        let mut at = span.at.start;
        while at < span.at.end {
            let offset = place.offset + (at - span.at.start);
            // If the system does not tell, reading the run will.
            let (end, hole) = match file.segment_at(offset) {
                Ok(segment) if segment.end > offset => {
                    (span.at.end.min(at + (segment.end - offset)), segment.hole)
                }
                _ => (span.at.end, false),
            };
            let part = span.clip(&(at..end));
            out.push(if hole { Span::zeros(part.at) } else { part });
            at = end;
        }
    }

    /// The runs of whole units of which something must be carried: in order,
    /// apart, clipped to the window.
    fn busy_units(&self, spans: &[Span], window: &Range<u64>) -> Result<Vec<Range<u64>>> {
        if self.sparse == Sparse::Off {
            return Ok(vec![window.clone()]);
        }
        let busy = spans.iter().filter(|s| !s.extent.kind.is_zero()).map(|s| s.at.clone());
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
            let start = range.start / self.unit * self.unit;
            let end = range.end.next_multiple_of(self.unit).min(window.end);
            match runs.last_mut() {
                Some(last) if start <= last.end => last.end = last.end.max(end),
                _ => runs.push(start..end),
            }
        }
        Ok(runs)
    }
}
