//! Many workers, one order.
//!
//! ```text
//!   plan ──► task 0, 1, 2, …        one at a time, lazily
//!              │  │  │
//!            work work work         in parallel: fetch, look for zeros, encode
//!              │  │  │
//!   commit ◄── 0, 1, 2, …           in order, one at a time: place
//!              │  │  │
//!            write …               in parallel again: write
//! ```
//!
//! Because `commit` sees the tasks in order whatever the workers' pace, its
//! decisions do not depend on how many workers there are. A worker that is
//! done early leaves its result and takes the next task; how far it may run
//! ahead is bounded, and memory with it. An error of `plan` or `work` is such a
//! result: it ends the run when its turn comes, so that the first one in order
//! comes out.

use crate::error::{Error, Result};
use crate::storage::lock;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Condvar, Mutex};

/// Tasks that may be between `plan` and the end of `write`, per worker.
const IN_FLIGHT_PER_WORKER: u64 = 3;

/// No more workers than this, however many processors there are.
pub(crate) const MAX_THREADS: usize = 16;

/// What runs in a pipeline.
pub(crate) trait Job: Sync {
    /// A piece of work.
    type Task: Send;
    /// Its result.
    type Done: Send;
    /// What `commit` leaves to be done in parallel.
    type Rest: Send;
    /// A worker's own state.
    type Worker;

    /// State for one more worker.
    fn worker(&self) -> Self::Worker;
    /// Does one task. In parallel.
    fn work(&self, worker: &mut Self::Worker, task: Self::Task) -> Result<Self::Done>;
    /// Does what follows from `commit`. In parallel, unless [`sequential`](Self::sequential).
    fn write(&self, worker: &mut Self::Worker, rest: Self::Rest) -> Result<()>;
    /// True if each task must be settled before the next is committed.
    fn sequential(&self) -> bool {
        false
    }
}

/// Runs `job` over `plan` with `threads` workers, the calling thread among
/// them. `commit` may break off early, which is no error.
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
        progress: Mutex::new(Status { settled: 0, outcome: None, planned_out: false }),
        moved: Condvar::new(),
        ahead: threads as u64 * IN_FLIGHT_PER_WORKER,
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Under a tight limit on memory or processes we go on with fewer.
            if std::thread::Builder::new().spawn_scoped(scope, || pipeline.run_worker()).is_err() {
                break;
            }
        }
        pipeline.run_worker();
    });
    lock(&pipeline.progress).outcome.take().unwrap_or(Ok(()))
}

/// As many workers as there are processors, and as fit under the limit on this
/// process's address space.
pub(crate) fn default_threads() -> usize {
    // glibc reserves 64 MiB of address space for each thread's heap, besides
    // its stack; leave room for tables and buffers.
    const PER_THREAD: u64 = 80 << 20;
    const RESERVE: u64 = 256 << 20;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let fit = match crate::storage::os::address_space_limit() {
        Some(limit) => (limit.saturating_sub(RESERVE) / PER_THREAD) as usize,
        None => MAX_THREADS,
    };
    processors.min(fit).clamp(1, MAX_THREADS)
}

struct Pipeline<'a, J: Job, P, C> {
    job: &'a J,
    plan: Mutex<Plan<P>>,
    commit: Mutex<Commit<C, Result<J::Done>>>,
    progress: Mutex<Status>,
    moved: Condvar,
    /// How many tasks may be planned and not settled.
    ahead: u64,
}

struct Plan<P> {
    next: P,
    ticket: u64,
}

struct Commit<C, D> {
    commit: C,
    /// Results whose predecessors are not there yet.
    waiting: BTreeMap<u64, D>,
    next: u64,
}

struct Status {
    settled: u64,
    /// Set once: the first error, or `Ok` when `commit` broke off.
    outcome: Option<Result<()>>,
    planned_out: bool,
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

    /// One task from plan to settlement, and whatever became committable by it.
    fn step(&self, worker: &mut J::Worker) -> Result<ControlFlow<()>> {
        let Some((ticket, task)) = self.take() else { return Ok(ControlFlow::Break(())) };
        let done = task.and_then(|task| self.job.work(worker, task));
        if done.is_err() {
            lock(&self.progress).planned_out = true;
            self.moved.notify_all();
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
        lock(&self.progress).settled += 1;
        self.moved.notify_all();
        Ok(())
    }

    /// The next task, when there is room for it.
    fn take(&self) -> Option<(u64, Result<J::Task>)> {
        let mut plan = lock(&self.plan);
        let mut status = lock(&self.progress);
        loop {
            if status.outcome.is_some() || status.planned_out {
                return None;
            }
            if plan.ticket < status.settled + self.ahead {
                break;
            }
            status = self.moved.wait(status).unwrap_or_else(|e| e.into_inner());
        }
        drop(status);
        let Some(task) = (plan.next)().transpose() else {
            lock(&self.progress).planned_out = true;
            self.moved.notify_all();
            return None;
        };
        let ticket = plan.ticket;
        plan.ticket += 1;
        // Before the next worker plans: behind an error there is nothing to plan.
        lock(&self.progress).planned_out |= task.is_err();
        Some((ticket, task))
    }

    fn end(&self, outcome: Result<()>) {
        lock(&self.progress).outcome.get_or_insert(outcome);
        self.moved.notify_all();
    }
}

/// Ends the pipeline if its worker unwinds.
struct EndOnPanic<'a, 'b, J: Job, P, C>(&'a Pipeline<'b, J, P, C>);

impl<J: Job, P, C> Drop for EndOnPanic<'_, '_, J, P, C> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = Error::new(crate::ErrorKind::Io, "a worker thread failed");
            lock(&self.0.progress).outcome.get_or_insert(Err(error));
            self.0.moved.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Squares numbers at an uneven pace.
    struct Squares {
        settled: AtomicU64,
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
            self.settled.fetch_add(n, Ordering::Relaxed);
            Ok(())
        }
    }

    fn run_squares(threads: usize, fail_at: Option<u64>) -> (Result<()>, Vec<u64>, u64) {
        let job = Squares { settled: AtomicU64::new(0), fail_at };
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
        (outcome, seen, job.settled.into_inner())
    }

    #[test]
    fn results_are_committed_in_order_whatever_the_number_of_workers() {
        let squares: Vec<u64> = (0..100).map(|n| n * n).collect();
        for threads in [1, 2, 5, 16] {
            let (outcome, seen, settled) = run_squares(threads, None);
            outcome.expect("runs");
            assert_eq!(seen, squares, "{threads} threads");
            assert_eq!(settled, squares.iter().sum::<u64>(), "{threads} threads");
        }
    }

    #[test]
    fn an_error_in_a_worker_ends_the_run_and_comes_out() {
        for threads in [1, 4] {
            let (outcome, seen, _) = run_squares(threads, Some(40));
            assert_eq!(outcome.expect_err("fails").kind(), crate::ErrorKind::Invalid);
            assert!(seen.len() <= 40, "nothing behind the failure was committed");
        }
    }

    /// Counts tasks that are planned and not settled.
    struct Alive {
        now: AtomicU64,
        most: AtomicU64,
    }

    impl Job for Alive {
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
    fn tasks_that_wait_to_be_settled_are_bounded_too() {
        let job = Alive { now: AtomicU64::new(0), most: AtomicU64::new(0) };
        let mut numbers = 0..400;
        let outcome = run(
            &job,
            8,
            || {
                let next = numbers.next();
                let now = job.now.fetch_add(u64::from(next.is_some()), Ordering::SeqCst) + 1;
                job.most.fetch_max(now, Ordering::SeqCst);
                Ok(next)
            },
            |()| Ok(ControlFlow::Continue(())),
        );
        outcome.expect("runs");
        assert_eq!(job.now.into_inner(), 0);
        let most = job.most.into_inner();
        assert!(most <= 8 * IN_FLIGHT_PER_WORKER + 1, "{most}");
    }

    /// Fails at every task from the third on, at the third last.
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
    fn the_first_error_in_order_comes_out_whatever_the_number_of_workers() {
        for threads in [1, 2, 4] {
            let mut numbers = 0..;
            let outcome =
                run(&Failing, threads, || Ok(numbers.next()), |()| Ok(ControlFlow::Continue(())));
            let kind = outcome.expect_err("fails").kind();
            assert_eq!(kind, crate::ErrorKind::Invalid, "{threads} threads");
        }
    }

    #[test]
    fn breaking_off_is_no_error() {
        let job = Squares { settled: AtomicU64::new(0), fail_at: None };
        let mut numbers = 0..;
        let outcome = run(
            &job,
            4,
            || Ok(numbers.next()),
            |n| Ok(if n > 900 { ControlFlow::Break(()) } else { ControlFlow::Continue(n) }),
        );
        outcome.expect("breaks off");
    }
}
