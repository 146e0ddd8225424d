//! A pipeline of parallel work with an ordered step in between.
//!
//! ```text
//!   plan ──► task 0, 1, 2, …        one at a time, lazily
//!              │  │  │
//!            load load load         only for slow storage: in parallel, by threads of its own
//!              │  │  │
//!            work work work         in parallel: fetch, detect zeros, encode
//!              │  │  │
//!   commit ◄── 0, 1, 2, …           in order, one at a time: place
//!              │  │  │
//!            write …                in parallel again: write
//! ```
//!
//! `commit` sees the tasks in order, however fast the workers are, so its decisions do not depend
//! on their number. A worker that finishes early leaves its result and takes the next task. The
//! number of tasks in flight is bounded, and so is memory. An error of `plan` or `work` is such a
//! result too: it ends the run when its turn comes, so the first error in order is returned.
//!
//! For storage that answers slowly, an [`IoStage`] reads what consecutive tasks need, in requests
//! that are longer than a task. It is bounded by bytes.

mod io_stage;

pub(crate) use io_stage::IoStage;

use crate::error::{Error, Result};
use crate::storage::{lock, threads};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};

/// Maximum number of tasks between `plan` and the end of `write`, per worker.
const IN_FLIGHT_PER_WORKER: u64 = 3;

/// Maximum number of workers.
pub(crate) const MAX_THREADS: usize = 16;

/// The work that a pipeline does.
pub(crate) trait Job: Sync {
    /// A part of the work.
    type Task: Send;
    /// The result of [`work`](Self::work).
    type Done: Send;
    /// What `commit` returns: the work that is left to [`write`](Self::write).
    type Rest: Send;
    /// The state of one worker.
    type Worker;

    /// Creates the state of a worker.
    fn worker(&self) -> Self::Worker;
    /// Returns how much a task reads, and how much memory it needs. Used with an [`IoStage`].
    fn weight(&self, task: &Self::Task) -> Weight {
        let _ = task;
        Weight::default()
    }
    /// Reads what consecutive tasks need from storage, so that [`work`](Self::work) does not wait
    /// for it. Called in parallel by the threads of an [`IoStage`]. An error is kept in the task.
    fn load(&self, tasks: &mut [&mut Self::Task]) {
        let _ = tasks;
    }
    /// Does one task. Called in parallel.
    fn work(&self, worker: &mut Self::Worker, task: Self::Task) -> Result<Self::Done>;
    /// Does the rest of a task after `commit`. Called in parallel, unless the job is
    /// [`sequential`](Self::sequential).
    fn write(&self, worker: &mut Self::Worker, rest: Self::Rest) -> Result<()>;
    /// Returns true if each task must be written before the next one is committed.
    fn sequential(&self) -> bool {
        false
    }
}

/// The size of a task, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weight {
    /// Bytes that are read from storage.
    pub(crate) read: u64,
    /// Bytes that are in memory while the task is in flight.
    pub(crate) memory: u64,
}

/// The threads of a pipeline.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Threads {
    /// Number of workers, including the calling thread.
    pub(crate) workers: usize,
    /// The stage that reads ahead of the workers, if the storage answers slowly.
    pub(crate) io: Option<IoStage>,
}

impl Threads {
    /// Returns `workers` threads that read what they need.
    pub(crate) fn of_workers(workers: usize) -> Self {
        Self { workers: workers.clamp(1, MAX_THREADS), io: None }
    }
}

/// Runs `job` for all tasks of `plan`. `commit` may end the run early, which is not an error.
///
/// # Errors
/// Returns the first error of `plan`, `work` and `commit` in task order, or an error of `write`.
pub(crate) fn run<J: Job>(
    job: &J,
    threads: Threads,
    plan: impl FnMut() -> Result<Option<J::Task>> + Send,
    commit: impl FnMut(J::Done) -> Result<ControlFlow<(), J::Rest>> + Send,
) -> Result<()> {
    let Threads { workers, io } = threads;
    let pipeline = Pipeline {
        job,
        plan: Mutex::new(Plan { next: plan, ticket: 0 }),
        commit: Mutex::new(Commit { commit, waiting: BTreeMap::new(), next: 0 }),
        status: Mutex::new(Status::default()),
        changed: Condvar::new(),
        max_in_flight: io.map_or(workers as u64 * IN_FLIGHT_PER_WORKER, |io| io.memory),
        io,
        reads_ahead: AtomicBool::new(false),
    };
    std::thread::scope(|scope| {
        let loaders = io.map_or(0, |io| pipeline.start_loaders(scope, io));
        pipeline.reads_ahead.store(loaders > 0, Ordering::Relaxed);
        for _ in 1..workers {
            // Continue with fewer workers under a tight limit on memory or processes.
            if threads::spawn(scope, || pipeline.run_worker()).is_none() {
                break;
            }
        }
        pipeline.run_worker();
    });
    lock(&pipeline.status).outcome.take().unwrap_or(Ok(()))
}

/// Returns the number of processors, reduced to what fits under the limit on this process's address
/// space.
pub(crate) fn default_threads() -> usize {
    // glibc reserves 64 MiB of address space for each thread's heap, in addition to its stack.
    // The rest is for tables and buffers.
    const PER_THREAD: u64 = 80 << 20;
    const RESERVE: u64 = 256 << 20;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let max = match crate::storage::os::address_space_limit() {
        Some(limit) => (limit.saturating_sub(RESERVE) / PER_THREAD) as usize,
        None => MAX_THREADS,
    };
    processors.min(max).clamp(1, MAX_THREADS)
}

struct Pipeline<'a, J: Job, P, C> {
    job: &'a J,
    plan: Mutex<Plan<P>>,
    commit: Mutex<Commit<C, Result<J::Done>>>,
    status: Mutex<Status<J::Task>>,
    /// Notified when `status` changes.
    changed: Condvar,
    /// Tasks are planned while less than this is in flight: a number of tasks, or of bytes if an
    /// I/O stage reads ahead.
    max_in_flight: u64,
    io: Option<IoStage>,
    /// Whether threads of the I/O stage are running.
    reads_ahead: AtomicBool,
}

struct Plan<P> {
    next: P,
    /// Number of the next task.
    ticket: u64,
}

/// A task and its number.
struct Planned<T> {
    ticket: u64,
    /// Its part of what is in flight.
    weight: u64,
    task: Result<T>,
}

struct Commit<C, D> {
    commit: C,
    /// Results that wait for an earlier task, with their weight.
    waiting: BTreeMap<u64, (u64, D)>,
    /// Number of the task to be committed next.
    next: u64,
}

struct Status<T> {
    /// Sum of the weights of the tasks that are planned and not written.
    in_flight: u64,
    /// Set once: to the first error, or to `Ok` when `commit` ended the run.
    outcome: Option<Result<()>>,
    /// The plan has ended or failed.
    no_more_tasks: bool,
    /// Number of threads of the I/O stage that are running.
    loaders: usize,
    /// Tasks that the I/O stage has loaded, by their number.
    loaded: BTreeMap<u64, Planned<T>>,
}

impl<T> Default for Status<T> {
    fn default() -> Self {
        let loaded = BTreeMap::new();
        Self { in_flight: 0, outcome: None, no_more_tasks: false, loaders: 0, loaded }
    }
}

impl<J, P, C> Pipeline<'_, J, P, C>
where
    J: Job,
    P: FnMut() -> Result<Option<J::Task>>,
    C: FnMut(J::Done) -> Result<ControlFlow<(), J::Rest>>,
{
    fn run_worker(&self) {
        // A panic in one worker must not leave the others waiting for its result.
        let _guard = EndOnPanic(self);
        let mut worker = self.job.worker();
        loop {
            match self.step(&mut worker) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return,
                Err(e) => return self.end(Err(e)),
            }
        }
    }

    /// Takes one task through the pipeline, and commits all tasks that were waiting for it.
    fn step(&self, worker: &mut J::Worker) -> Result<ControlFlow<()>> {
        let Some(Planned { ticket, weight, task }) = self.take() else {
            return Ok(ControlFlow::Break(()));
        };
        let done = task.and_then(|task| self.job.work(worker, task));
        if done.is_err() {
            lock(&self.status).no_more_tasks = true;
            self.changed.notify_all();
        }
        let mut rests = Vec::new();
        {
            let mut state = lock(&self.commit);
            state.waiting.insert(ticket, (weight, done));
            loop {
                let next = state.next;
                let Some((weight, done)) = state.waiting.remove(&next) else { break };
                match (state.commit)(done?)? {
                    ControlFlow::Continue(rest) if self.job.sequential() => {
                        self.write(worker, weight, rest)?;
                    }
                    ControlFlow::Continue(rest) => rests.push((weight, rest)),
                    ControlFlow::Break(()) => {
                        self.end(Ok(()));
                        return Ok(ControlFlow::Break(()));
                    }
                }
                state.next += 1;
            }
        }
        for (weight, rest) in rests {
            self.write(worker, weight, rest)?;
        }
        Ok(ControlFlow::Continue(()))
    }

    fn write(&self, worker: &mut J::Worker, weight: u64, rest: J::Rest) -> Result<()> {
        self.job.write(worker, rest)?;
        lock(&self.status).in_flight -= weight;
        self.changed.notify_all();
        Ok(())
    }

    /// Returns the next task for a worker.
    fn take(&self) -> Option<Planned<J::Task>> {
        if self.reads_ahead.load(Ordering::Relaxed) {
            return self.take_loaded();
        }
        let mut plan = lock(&self.plan);
        if !self.wait_for_room() {
            return None;
        }
        self.plan_task(&mut plan, |task| self.io.map_or(1, |_| self.job.weight(task).memory))
    }

    /// Waits until another task may be in flight. Returns false if there will be none.
    fn wait_for_room(&self) -> bool {
        let mut status = lock(&self.status);
        loop {
            if status.outcome.is_some() || status.no_more_tasks {
                return false;
            }
            if status.in_flight < self.max_in_flight {
                return true;
            }
            status = self.changed.wait(status).unwrap_or_else(|e| e.into_inner());
        }
    }

    /// Plans the next task, which is in flight then.
    fn plan_task(
        &self,
        plan: &mut Plan<P>,
        weigh: impl FnOnce(&J::Task) -> u64,
    ) -> Option<Planned<J::Task>> {
        let task = (plan.next)().transpose();
        let weight = task.as_ref().and_then(|task| task.as_ref().ok()).map_or(0, weigh);
        let mut status = lock(&self.status);
        status.in_flight += weight;
        // Set under the plan's lock: no task is planned after an error.
        status.no_more_tasks |= task.as_ref().is_none_or(Result::is_err);
        drop(status);
        let Some(task) = task else {
            self.changed.notify_all();
            return None;
        };
        let ticket = plan.ticket;
        plan.ticket += 1;
        Some(Planned { ticket, weight, task })
    }

    fn end(&self, outcome: Result<()>) {
        lock(&self.status).outcome.get_or_insert(outcome);
        self.changed.notify_all();
    }
}

/// Ends the pipeline if its worker panics.
struct EndOnPanic<'a, 'b, J, P, C>(&'a Pipeline<'b, J, P, C>)
where
    J: Job,
    P: FnMut() -> Result<Option<J::Task>>,
    C: FnMut(J::Done) -> Result<ControlFlow<(), J::Rest>>;

impl<J, P, C> Drop for EndOnPanic<'_, '_, J, P, C>
where
    J: Job,
    P: FnMut() -> Result<Option<J::Task>>,
    C: FnMut(J::Done) -> Result<ControlFlow<(), J::Rest>>,
{
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = Error::new(crate::ErrorKind::Io, "a worker thread panicked");
            self.0.end(Err(error));
        }
    }
}

#[cfg(test)]
mod tests;
