//! `compare`: do two images show the guest the same bytes?

use crate::error::{Error, Result};
use crate::model::image::{Image, WINDOW};
use crate::ops::disk::{Disk, Fetchers, Run};
use crate::ops::pipeline::{self, Job};
use crate::ops::progress::{Callback, report};
use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, Ordering};

/// Guest bytes without a task at the most, so that the caller may stop.
const QUIET: u64 = 1 << 40;

/// Guest bytes compared at a time.
const CHUNK: u64 = 512 << 10;

/// The outcome of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// The guest sees the same bytes; a shorter image counts as padded with zeros.
    Identical {
        /// One image is shorter.
        size_mismatch: bool,
    },
    /// The first guest byte that differs.
    ContentMismatch {
        /// Its offset.
        offset: u64,
    },
    /// Strict mode: the sizes differ.
    SizeMismatch,
    /// Strict mode: one image holds bytes here, the other does not.
    StatusMismatch {
        /// The first such guest offset.
        offset: u64,
    },
}

/// Where a comparison failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompareStage {
    /// Asking where bytes are.
    Status,
    /// Reading them.
    Read,
}

/// A comparison that could not be made.
#[derive(Debug)]
pub struct CompareError {
    /// Where it failed.
    pub stage: CompareStage,
    /// Why.
    pub error: Error,
}

/// Compares what the guest sees in `a` and `b`. `strict` also asks for equal
/// sizes and for bytes held in both or in neither.
///
/// # Errors
/// What mapping or reading the images said.
pub fn compare(
    a: &Image,
    b: &Image,
    strict: bool,
    threads: Option<usize>,
    progress: Option<Callback<'_>>,
) -> Result<Comparison, CompareError> {
    compare_disks([a, b], strict, threads, progress)
}

/// As [`compare`].
pub(super) fn compare_disks(
    disks: [&dyn Disk; 2],
    strict: bool,
    threads: Option<usize>,
    progress: Option<Callback<'_>>,
) -> Result<Comparison, CompareError> {
    let [a, b] = disks;
    if strict && a.size() != b.size() {
        return Ok(Comparison::SizeMismatch);
    }
    let total = a.size().max(b.size());
    let mut plan = Plan { disks, strict, at: 0, total, ready: VecDeque::new() };
    let planning_failed = AtomicBool::new(false);
    let mut found = None;
    let outcome = pipeline::run(
        &Pair(disks),
        threads.unwrap_or_else(pipeline::default_threads),
        || plan.next_task().inspect_err(|_| planning_failed.store(true, Ordering::Relaxed)),
        |done: Done| {
            report(progress, done.end, total)?;
            found = done.difference;
            Ok(if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        },
    );
    match outcome {
        Ok(()) => {
            Ok(found.unwrap_or(Comparison::Identical { size_mismatch: a.size() != b.size() }))
        }
        Err(error) if planning_failed.into_inner() => {
            Err(CompareError { stage: CompareStage::Status, error })
        }
        Err(error) => Err(CompareError { stage: CompareStage::Read, error }),
    }
}

/// Something to look at.
enum Task {
    /// Bytes to compare; none where there was nothing but zeros for long.
    Read(Range<u64>),
    /// A difference that the extents show already, found in its turn.
    Differs(Comparison),
}

/// What was seen.
struct Done {
    end: u64,
    difference: Option<Comparison>,
}

/// Walks both disks' runs; what is zero in both is passed over.
struct Plan<'a> {
    disks: [&'a dyn Disk; 2],
    strict: bool,
    at: u64,
    total: u64,
    ready: VecDeque<Task>,
}

impl Plan<'_> {
    fn next_task(&mut self) -> Result<Option<Task>> {
        let quiet = self.at.saturating_add(QUIET);
        while self.ready.is_empty() && self.at < self.total.min(quiet) {
            let end = self.next_window();
            self.plan_window(self.at..end)?;
            self.at = end;
        }
        let nothing = (self.at < self.total).then_some(Task::Read(self.at..self.at));
        Ok(self.ready.pop_front().or(nothing))
    }

    /// Where the next window ends: far off where neither disk has anything.
    fn next_window(&self) -> u64 {
        let longer = self.disks.into_iter().filter(|disk| disk.size() > self.at);
        let ends = longer.map(|disk| {
            let end = self.total.min(disk.size());
            disk.next_window(self.at, end, WINDOW)
        });
        ends.min().unwrap_or(self.total).max(self.total.min(self.at + WINDOW))
    }

    fn plan_window(&mut self, window: Range<u64>) -> Result<()> {
        let [a, b] = [
            stretches_padded(self.disks[0], window.clone())?,
            stretches_padded(self.disks[1], window.clone())?,
        ];
        let (mut i, mut j, mut at) = (0, 0, window.start);
        while at < window.end {
            let end = a[i].at.end.min(b[j].at.end);
            if self.strict && a[i].held != b[j].held {
                self.ready.push_back(Task::Differs(Comparison::StatusMismatch { offset: at }));
                return Ok(());
            }
            if !(a[i].zero && b[j].zero) {
                self.push_read(at..end);
            }
            i += usize::from(a[i].at.end == end);
            j += usize::from(b[j].at.end == end);
            at = end;
        }
        Ok(())
    }

    /// Cuts at multiples of the chunk; short neighbours share a task.
    fn push_read(&mut self, mut range: Range<u64>) {
        while !range.is_empty() {
            let end = range.end.min((range.start / CHUNK + 1) * CHUNK);
            match self.ready.back_mut() {
                Some(Task::Read(last)) if last.start / CHUNK == range.start / CHUNK => {
                    last.end = end;
                }
                _ => self.ready.push_back(Task::Read(range.start..end)),
            }
            range.start = end;
        }
    }
}

/// What `range` consists of, with zeros behind the end of a shorter disk.
fn stretches_padded(disk: &dyn Disk, range: Range<u64>) -> Result<Vec<Run>> {
    let inside = range.start.min(disk.size())..range.end.min(disk.size());
    let tail = inside.end.max(range.start)..range.end;
    let mut runs = disk.runs(inside)?;
    if !tail.is_empty() {
        runs.push(Run { at: tail, zero: true, held: false });
    }
    Ok(runs)
}

/// The two disks, compared by many workers.
struct Pair<'a>([&'a dyn Disk; 2]);

/// One side's readers and buffer, twice.
#[derive(Default)]
struct Sides([(Fetchers, Vec<u8>); 2]);

impl Job for Pair<'_> {
    type Task = Task;
    type Done = Done;
    type Rest = ();
    type Worker = Sides;

    fn worker(&self) -> Sides {
        Sides::default()
    }

    fn work(&self, Sides(sides): &mut Sides, task: Task) -> Result<Done> {
        let range = match task {
            Task::Read(range) => range,
            Task::Differs(difference) => {
                return Ok(Done { end: 0, difference: Some(difference) });
            }
        };
        for (disk, (fetchers, buf)) in self.0.iter().zip(&mut *sides) {
            let inside = disk.size().clamp(range.start, range.end) - range.start;
            buf.resize((range.end - range.start) as usize, 0);
            let (inside, behind) = buf.split_at_mut(inside as usize);
            disk.read(fetchers, inside, range.start)?;
            behind.fill(0);
        }
        let [(_, a), (_, b)] = sides;
        let at = if a == b { None } else { a.iter().zip(b).position(|(x, y)| x != y) };
        let difference =
            at.map(|at| Comparison::ContentMismatch { offset: range.start + at as u64 });
        Ok(Done { end: range.end, difference })
    }

    fn write(&self, _: &mut Sides, (): ()) -> Result<()> {
        Ok(())
    }
}
