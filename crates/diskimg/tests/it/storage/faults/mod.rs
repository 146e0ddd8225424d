//! Storage faults at every operation of a small conversion: the result is an error or a correct
//! image, never a reported success with wrong data, a panic or a hang.
//!
//! Sources and sinks are those of `diskimg_testkit::faulty`, which can fail in every way. Outputs
//! of several files, renaming and flushing are covered by the command's tests, which inject faults
//! into system calls.
//!
//! `DISKIMG_FULL=1` injects a fault at every operation, otherwise at a sample.

// The numbers of a full run are printed.
#![allow(clippy::print_stdout)]

mod disks;
mod iso;
mod matrix;
mod queries;
mod salvage;

use diskimg_testkit::tool::full;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// Returns the numbers of the operations to fail, out of `count`: all, or a few and the last two.
/// `seed` shifts the choice, so that different samples cover different operations.
fn points(count: u64, seed: u64) -> Vec<u64> {
    /// Operations of a sample, besides the last two.
    const SAMPLE: u64 = 3;
    if full() {
        return (0..count).collect();
    }
    let step = (count / SAMPLE).max(1);
    let mut points: Vec<_> =
        (0..count).skip((seed % step) as usize).step_by(step as usize).collect();
    points.extend(count.saturating_sub(2)..count);
    points.sort_unstable();
    points.dedup();
    points
}

/// Runs `work` and panics with `what` if it panics or does not return within two minutes.
fn guarded<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    const TIMEOUT: Duration = Duration::from_secs(120);
    let (done, wait) = channel();
    let thread = std::thread::spawn(move || drop(done.send(work())));
    match wait.recv_timeout(TIMEOUT) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => panic!("{what}: hangs"),
        Err(RecvTimeoutError::Disconnected) => {
            let panic = thread.join().expect_err("no result");
            let text = panic.downcast_ref::<String>().map(String::as_str);
            panic!("{what}: {}", text.or(panic.downcast_ref().copied()).unwrap_or("panics"))
        }
    }
}
