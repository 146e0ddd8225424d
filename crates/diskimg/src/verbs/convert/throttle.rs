//! Writing no faster than asked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Keeps the average rate of writing below a limit.
#[derive(Debug)]
pub(super) struct Throttle {
    bytes_per_second: Option<u64>,
    started: Instant,
    written: AtomicU64,
}

impl Throttle {
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, started: Instant::now(), written: AtomicU64::new(0) }
    }

    /// Counts `bytes` and sleeps until they are due.
    pub(super) fn wait_for(&self, bytes: u64) {
        let Some(rate) = self.bytes_per_second else { return };
        let written = self.written.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let due = Duration::from_secs_f64(written as f64 / rate as f64);
        std::thread::sleep(due.saturating_sub(self.started.elapsed()));
    }
}
