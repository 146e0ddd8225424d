//! Order, limits and errors of the pipeline.

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
        Threads::of_workers(threads),
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
        Threads::of_workers(8),
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
        let outcome = run(
            &Failing,
            Threads::of_workers(threads),
            || Ok(numbers.next()),
            |()| Ok(ControlFlow::Continue(())),
        );
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
        Threads::of_workers(4),
        || Ok(numbers.next()),
        |n| Ok(if n > 900 { ControlFlow::Break(()) } else { ControlFlow::Continue(n) }),
    );
    outcome.expect("ends early");
}
