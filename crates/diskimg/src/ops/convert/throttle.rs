//! Writing no faster than asked.

use std::time::{Duration, Instant};

/// Keeps the average rate of writing below a limit.
#[derive(Debug)]
pub(super) struct Throttle {
    bytes_per_second: Option<u64>,
    started: Instant,
}

impl Throttle {
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, started: Instant::now() }
    }

    /// How long to sleep before asking again; `None` once `bytes` are due. Never
    /// long: the caller may want to stop meanwhile.
    pub(super) fn nap(&self, bytes: u64) -> Option<Duration> {
        let due = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second? as f64);
        let wait = due.saturating_sub(self.started.elapsed()).min(Duration::from_millis(100));
        (!wait.is_zero()).then_some(wait)
    }
}
