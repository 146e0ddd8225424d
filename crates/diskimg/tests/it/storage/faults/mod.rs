//! Faults of storage, at every operation of a small conversion: the result is an error or a
//! right image, never a wrong one called right, never a panic, never a hang.
//!
//! Here the storage is ours (`storage.rs`), so that sources and sinks of one file can be made to fail
//! in every way. Outputs of several files, names and flushing are the matter of the command's own
//! tests, where the system's calls fail.
//!
//! `DISKIMG_FAULTS=full` goes through every operation; else it is a sample.

// The figures of a full run.
#![allow(clippy::print_stdout)]

mod disks;
mod iso;
mod matrix;
mod questions;
mod rescue;

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// Whether every operation fails once, or only some of them.
fn full() -> bool {
    std::env::var("DISKIMG_FAULTS").is_ok_and(|word| word == "full")
}

/// Which of `count` operations fail: all, or some that lie apart, the last ones always. `seed`
/// moves them, so that many samples see more than one.
fn points(count: u64, seed: u64) -> Vec<u64> {
    /// Of one sample, besides the last ones.
    const SOME: u64 = 3;
    if full() {
        return (0..count).collect();
    }
    let step = (count / SOME).max(1);
    let mut points: Vec<_> =
        (0..count).skip((seed % step) as usize).step_by(step as usize).collect();
    points.extend(count.saturating_sub(2)..count);
    points.sort_unstable();
    points.dedup();
    points
}

/// Does what must end, and not in a panic.
fn guarded<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    const LONG: Duration = Duration::from_secs(120);
    let (done, wait) = channel();
    let thread = std::thread::spawn(move || drop(done.send(work())));
    match wait.recv_timeout(LONG) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => panic!("{what}: hangs"),
        Err(RecvTimeoutError::Disconnected) => {
            let panic = thread.join().expect_err("sent nothing");
            let text = panic.downcast_ref::<String>().map(String::as_str);
            panic!("{what}: {}", text.or(panic.downcast_ref().copied()).unwrap_or("panics"))
        }
    }
}
