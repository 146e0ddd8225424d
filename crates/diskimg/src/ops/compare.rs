//! `compare`: compares the guest bytes of two images.

use crate::error::{Error, Result};
use crate::model::budget::Budgets;
use crate::model::image::{Image, WINDOW};
use crate::ops::disk::{Disk, Fetchers, Run};
use crate::ops::pipeline::{self, Job};
use crate::ops::progress::{Callback, report};
use crate::storage::buffer;
use std::collections::VecDeque;
use std::fmt;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, Ordering};

/// Guest bytes after which a task is issued even if there is nothing to read, so that the operation
/// can be cancelled.
const MAX_IDLE: u64 = 1 << 40;

/// Guest bytes per task. Longer runs are cut at multiples of it.
const CHUNK: u64 = 512 << 10;

/// The outcome of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// The guest bytes are the same. A shorter image is treated as if padded with zeros.
    Identical {
        /// The sizes differ.
        size_mismatch: bool,
    },
    /// The guest bytes differ.
    ContentMismatch {
        /// Guest offset of the first byte that differs.
        offset: u64,
    },
    /// Strict mode: the sizes differ.
    SizeMismatch,
    /// Strict mode: a range is allocated in one image and not in the other.
    StatusMismatch {
        /// Guest offset of the first such range.
        offset: u64,
    },
}

/// The stage at which a comparison failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompareStage {
    /// Mapping an image.
    Status,
    /// Reading guest bytes.
    Read,
}

/// The error of a comparison that could not be completed.
#[derive(Debug, thiserror::Error)]
#[error("the images cannot be compared")]
#[non_exhaustive]
pub struct CompareError {
    /// The stage at which it failed.
    pub stage: CompareStage,
    /// The cause.
    #[source]
    pub error: Error,
}

/// Compares the guest bytes of two images: a builder that is configured and then run.
///
/// ```
/// use diskimg::{Compare, Comparison, Image};
///
/// # let dir = tempfile::tempdir().unwrap();
/// # let (a, b) = (dir.path().join("a.img"), dir.path().join("b.img"));
/// # std::fs::write(&a, [3; 512]).unwrap();
/// # std::fs::write(&b, [3; 512]).unwrap();
/// let (a, b) = (Image::open(&a)?, Image::open(&b)?);
/// let outcome = Compare::new(&a, &b).strict(true).run().map_err(|failed| failed.error)?;
/// assert_eq!(outcome, Comparison::Identical { size_mismatch: false });
/// # Ok::<(), diskimg::Error>(())
/// ```
pub struct Compare<'a> {
    images: [&'a Image; 2],
    strict: bool,
    threads: Option<usize>,
    progress: Option<Callback<'a>>,
}

impl fmt::Debug for Compare<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compare")
            .field("images", &self.images)
            .field("strict", &self.strict)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

impl<'a> Compare<'a> {
    /// Compares `a` with `b`.
    pub fn new(a: &'a Image, b: &'a Image) -> Self {
        Self { images: [a, b], strict: false, threads: None, progress: None }
    }

    /// Requires the sizes and the allocated ranges to be the same, too. Otherwise, a shorter image
    /// is treated as if padded with zeros. Off by default.
    #[must_use]
    pub fn strict(mut self, yes: bool) -> Self {
        self.strict = yes;
        self
    }

    /// Sets the maximum number of threads, which is capped at 16. The default is the number of
    /// processors, or fewer if the address space is limited.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Sets a callback for progress reports and cancellation.
    #[must_use]
    pub fn progress(mut self, callback: Callback<'a>) -> Self {
        self.progress = Some(callback);
        self
    }

    /// Runs the comparison, which ends at the first difference.
    ///
    /// # Errors
    /// Returns any error from mapping or reading the images, and
    /// [`Cancelled`](crate::ErrorKind::Cancelled) if the callback requests it.
    pub fn run(self) -> Result<Comparison, CompareError> {
        let [a, b] = self.images;
        for image in [a, b] {
            let stage = CompareStage::Read;
            image.require_data().map_err(|error| CompareError { stage, error })?;
        }
        compare_disks([a, b], self.strict, self.threads, self.progress)
    }
}

/// As [`Compare::run`], for any disks.
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
    let mut plan = Plan {
        disks,
        budgets: disks.map(|disk| disk.budgets()),
        strict,
        at: 0,
        total,
        ready: VecDeque::new(),
    };
    let planning_failed = AtomicBool::new(false);
    let mut found = None;
    let outcome = pipeline::run(
        &Pair(disks),
        pipeline::Threads::of_workers(threads.unwrap_or_else(pipeline::default_threads)),
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

/// A part of the comparison.
enum Task {
    /// A range to compare; empty after a long run of zeros.
    Read(Range<u64>),
    /// A difference that mapping found. A task, so that earlier differences are found first.
    Differs(Comparison),
}

/// The result of a task.
struct Done {
    /// Guest offset up to which the disks have been compared.
    end: u64,
    difference: Option<Comparison>,
}

/// Maps both disks and skips what is zero in both.
struct Plan<'a> {
    disks: [&'a dyn Disk; 2],
    budgets: [Budgets; 2],
    strict: bool,
    /// Start of the next window.
    at: u64,
    /// Size of the larger disk.
    total: u64,
    ready: VecDeque<Task>,
}

impl Plan<'_> {
    fn next_task(&mut self) -> Result<Option<Task>> {
        let idle_end = self.at.saturating_add(MAX_IDLE);
        while self.ready.is_empty() && self.at < self.total.min(idle_end) {
            let end = self.next_window();
            self.plan_window(self.at..end)?;
            self.at = end;
        }
        let idle = (self.at < self.total).then_some(Task::Read(self.at..self.at));
        Ok(self.ready.pop_front().or(idle))
    }

    /// Returns the end of the next window. Windows are larger where neither disk has anything
    /// allocated.
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
            padded_runs(self.disks[0], window.clone(), &mut self.budgets[0])?,
            padded_runs(self.disks[1], window.clone(), &mut self.budgets[1])?,
        ];
        let (mut i, mut j, mut at) = (0, 0, window.start);
        while at < window.end {
            let end = a[i].at.end.min(b[j].at.end);
            if self.strict && a[i].allocated != b[j].allocated {
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

    /// Appends `range`, cut at multiples of the chunk. Short ranges within a chunk share a task.
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

/// Returns the runs of `range`, with zeros beyond the end of a shorter disk.
fn padded_runs(disk: &dyn Disk, range: Range<u64>, budgets: &mut Budgets) -> Result<Vec<Run>> {
    let inside = range.start.min(disk.size())..range.end.min(disk.size());
    let tail = inside.end.max(range.start)..range.end;
    let mut runs = disk.runs(inside, budgets)?;
    if !tail.is_empty() {
        runs.push(Run { at: tail, zero: true, allocated: false });
    }
    Ok(runs)
}

/// The two disks, compared by several workers.
struct Pair<'a>([&'a dyn Disk; 2]);

/// The fetchers and the buffer for each disk.
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
            buffer::resize(buf, (range.end - range.start) as usize);
            let (inside, beyond) = buf.split_at_mut(inside as usize);
            disk.read(fetchers, inside, range.start)?;
            beyond.fill(0);
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
