//! A pipeline of parallel work with an ordered step in between.
//!
//! ```text
//!   plan ──► task 0, 1, 2, …        one at a time, lazily
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

use crate::error::{Error, Result};
use crate::storage::lock;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
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

/// Runs `job` for all tasks of `plan` with `threads` workers, including the calling thread.
/// `commit` may end the run early, which is not an error.
///
/// # Errors
/// Returns the first error of `plan`, `work` and `commit` in task order, or an error of `write`.
pub(crate) fn run<J: Job>(
    job: &J,
    threads: usize,
    plan: impl FnMut() -> Result<Option<J::Task>> + Send,
    commit: impl FnMut(J::Done) -> Result<ControlFlow<(), J::Rest>> + Send,
) -> Result<()> {
    let threads = threads.clamp(1, MAX_THREADS);
    let pipeline = Pipeline {
        job,
        plan: Mutex::new(Plan { next: plan, ticket: 0 }),
        commit: Mutex::new(Commit { commit, waiting: BTreeMap::new(), next: 0 }),
        progress: Mutex::new(Status { written: 0, outcome: None, no_more_tasks: false }),
        progressed: Condvar::new(),
        max_in_flight: threads as u64 * IN_FLIGHT_PER_WORKER,
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Continue with fewer workers under a tight limit on memory or processes.
            if std::thread::Builder::new().spawn_scoped(scope, || pipeline.run_worker()).is_err() {
                break;
            }
        }
        pipeline.run_worker();
    });
    lock(&pipeline.progress).outcome.take().unwrap_or(Ok(()))
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
    progress: Mutex<Status>,
    /// Notified when `progress` changes.
    progressed: Condvar,
    /// Maximum number of tasks that are planned and not written.
    max_in_flight: u64,
}

struct Plan<P> {
    next: P,
    /// Number of the next task.
    ticket: u64,
}

struct Commit<C, D> {
    commit: C,
    /// Results that wait for an earlier task.
    waiting: BTreeMap<u64, D>,
    /// Number of the task to be committed next.
    next: u64,
}

struct Status {
    /// Number of tasks that are completely done.
    written: u64,
    /// Set once: to the first error, or to `Ok` when `commit` ended the run.
    outcome: Option<Result<()>>,
    /// The plan has ended or failed.
    no_more_tasks: bool,
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
        let Some((ticket, task)) = self.take() else { return Ok(ControlFlow::Break(())) };
        let done = task.and_then(|task| self.job.work(worker, task));
        if done.is_err() {
            lock(&self.progress).no_more_tasks = true;
            self.progressed.notify_all();
        }
        let mut rests = Vec::new();
        {
            let mut state = lock(&self.commit);
            state.waiting.insert(ticket, done);
            loop {
                let next = state.next;
                let Some(done) = state.waiting.remove(&next) else { break };
                match (state.commit)(done?)? {
                    ControlFlow::Continue(rest) if self.job.sequential() => {
                        self.write(worker, rest)?;
                    }
                    ControlFlow::Continue(rest) => rests.push(rest),
                    ControlFlow::Break(()) => {
                        self.end(Ok(()));
                        return Ok(ControlFlow::Break(()));
                    }
                }
                state.next += 1;
            }
        }
        for rest in rests {
            self.write(worker, rest)?;
        }
        Ok(ControlFlow::Continue(()))
    }

    fn write(&self, worker: &mut J::Worker, rest: J::Rest) -> Result<()> {
        self.job.write(worker, rest)?;
        lock(&self.progress).written += 1;
        self.progressed.notify_all();
        Ok(())
    }

    /// Waits until another task may be in flight, and returns the next one with its number.
    fn take(&self) -> Option<(u64, Result<J::Task>)> {
        let mut plan = lock(&self.plan);
        let mut status = lock(&self.progress);
        loop {
            if status.outcome.is_some() || status.no_more_tasks {
                return None;
            }
            if plan.ticket < status.written + self.max_in_flight {
                break;
            }
            status = self.progressed.wait(status).unwrap_or_else(|e| e.into_inner());
        }
        drop(status);
        let Some(task) = (plan.next)().transpose() else {
            lock(&self.progress).no_more_tasks = true;
            self.progressed.notify_all();
            return None;
        };
        let ticket = plan.ticket;
        plan.ticket += 1;
        // Set under the plan's lock: no task is planned after an error.
        lock(&self.progress).no_more_tasks |= task.is_err();
        Some((ticket, task))
    }

    fn end(&self, outcome: Result<()>) {
        lock(&self.progress).outcome.get_or_insert(outcome);
        self.progressed.notify_all();
    }
}

/// Ends the pipeline if its worker panics.
struct EndOnPanic<'a, 'b, J: Job, P, C>(&'a Pipeline<'b, J, P, C>);

impl<J: Job, P, C> Drop for EndOnPanic<'_, '_, J, P, C> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = Error::new(crate::ErrorKind::Io, "a worker thread panicked");
            lock(&self.0.progress).outcome.get_or_insert(Err(error));
            self.0.progressed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Squares numbers, some of them slowly.
    struct Squares {
        /// Sum of all results.
        sum: AtomicU64,
        fail_at: Option<u64>,
    }

    impl Job for Squares {
        type Task = u64;
        type Done = u64;
        type Rest = u64;
        type Worker = ();

        fn worker(&self) {}

        fn work(&self, (): &mut (), n: u64) -> Result<u64> {
            if self.fail_at == Some(n) {
                return Err(Error::invalid("asked to fail"));
            }
            if n.is_multiple_of(7) {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            Ok(n * n)
        }

        fn write(&self, (): &mut (), n: u64) -> Result<()> {
            self.sum.fetch_add(n, Ordering::Relaxed);
            Ok(())
        }
    }

    fn run_squares(threads: usize, fail_at: Option<u64>) -> (Result<()>, Vec<u64>, u64) {
        let job = Squares { sum: AtomicU64::new(0), fail_at };
        let mut numbers = 0..100u64;
        let mut seen = Vec::new();
        let outcome = run(
            &job,
            threads,
            || Ok(numbers.next()),
            |n| {
                seen.push(n);
                Ok(ControlFlow::Continue(n))
            },
        );
        (outcome, seen, job.sum.into_inner())
    }

    #[test]
    fn results_are_committed_in_order_whatever_the_number_of_workers() {
        let squares: Vec<u64> = (0..100).map(|n| n * n).collect();
        for threads in [1, 2, 5, 16] {
            let (outcome, seen, sum) = run_squares(threads, None);
            outcome.expect("runs");
            assert_eq!(seen, squares, "{threads} threads");
            assert_eq!(sum, squares.iter().sum::<u64>(), "{threads} threads");
        }
    }

    #[test]
    fn an_error_in_a_worker_ends_the_run_and_is_returned() {
        for threads in [1, 4] {
            let (outcome, seen, _) = run_squares(threads, Some(40));
            assert_eq!(outcome.expect_err("fails").kind(), crate::ErrorKind::Invalid);
            assert!(seen.len() <= 40, "nothing after the failure is committed");
        }
    }

    /// Counts tasks that are planned and not written.
    struct InFlight {
        now: AtomicU64,
        max: AtomicU64,
    }

    impl Job for InFlight {
        type Task = u64;
        type Done = ();
        type Rest = ();
        type Worker = ();

        fn worker(&self) {}

        fn work(&self, (): &mut (), n: u64) -> Result<()> {
            if n.is_multiple_of(20) {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            Ok(())
        }

        fn write(&self, (): &mut (), (): ()) -> Result<()> {
            std::thread::sleep(std::time::Duration::from_millis(1));
            self.now.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        }
    }

    #[test]
    fn the_number_of_tasks_in_flight_is_bounded() {
        let job = InFlight { now: AtomicU64::new(0), max: AtomicU64::new(0) };
        let mut numbers = 0..400;
        let outcome = run(
            &job,
            8,
            || {
                let next = numbers.next();
                let now = job.now.fetch_add(u64::from(next.is_some()), Ordering::SeqCst) + 1;
                job.max.fetch_max(now, Ordering::SeqCst);
                Ok(next)
            },
            |()| Ok(ControlFlow::Continue(())),
        );
        outcome.expect("runs");
        assert_eq!(job.now.into_inner(), 0);
        let max = job.max.into_inner();
        assert!(max <= 8 * IN_FLIGHT_PER_WORKER + 1, "{max}");
    }

    /// Fails at every task from the third on, slowly at the third.
    struct Failing;

    impl Job for Failing {
        type Task = u64;
        type Done = ();
        type Rest = ();
        type Worker = ();

        fn worker(&self) {}

        fn work(&self, (): &mut (), n: u64) -> Result<()> {
            match n {
                0 | 1 => Ok(()),
                2 => {
                    std::thread::sleep(std::time::Duration::from_millis(50));
                    Err(Error::invalid("the first in order"))
                }
                _ => Err(Error::limit("the first in time")),
            }
        }

        fn write(&self, (): &mut (), (): ()) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_first_error_in_order_is_returned_whatever_the_number_of_workers() {
        for threads in [1, 2, 4] {
            let mut numbers = 0..;
            let outcome =
                run(&Failing, threads, || Ok(numbers.next()), |()| Ok(ControlFlow::Continue(())));
            let kind = outcome.expect_err("fails").kind();
            assert_eq!(kind, crate::ErrorKind::Invalid, "{threads} threads");
        }
    }

    #[test]
    fn ending_early_is_not_an_error() {
        let job = Squares { sum: AtomicU64::new(0), fail_at: None };
        let mut numbers = 0..;
        let outcome = run(
            &job,
            4,
            || Ok(numbers.next()),
            |n| Ok(if n > 900 { ControlFlow::Break(()) } else { ControlFlow::Continue(n) }),
        );
        outcome.expect("ends early");
    }
}
