//! Limits the write rate.

use std::time::{Duration, Instant};

/// Keeps the average write rate below a limit.
#[derive(Debug)]
pub(super) struct Throttle {
    bytes_per_second: Option<u64>,
    started: Instant,
}

impl Throttle {
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, started: Instant::now() }
    }

    /// Returns how long to sleep before asking again, or `None` if `bytes` may have been written by
    /// now. At most 100 ms, so that the caller can cancel meanwhile.
    pub(super) fn delay(&self, bytes: u64) -> Option<Duration> {
        let due = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second? as f64);
        let wait = due.saturating_sub(self.started.elapsed()).min(Duration::from_millis(100));
        (!wait.is_zero()).then_some(wait)
    }
}
