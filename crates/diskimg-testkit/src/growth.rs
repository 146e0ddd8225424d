//! Tests that work grows no faster than its input.
//!
//! Work is measured at three sizes, `n`, `2n` and `4n`. Linear work grows fourfold, quadratic work
//! sixteenfold; more than eightfold is an error, for times more than twelvefold. Count what is done where that is possible (reads
//! of a [`CountingSource`], extents, findings, decoded units). Where only the processor's time
//! tells, [`require_linear_time`] compares the best of several runs.

use diskimg::Source;
use diskimg::storage::source::{Segment, SourceError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The largest factor by which work may grow if its input grows by [`SIZES`]`[2]`.
const MAX_GROWTH: f64 = 8.0;

/// The same for times: from one size to the next, data may cease to fit in a cache.
const MAX_TIME_GROWTH: f64 = 12.0;

/// The sizes that are measured, as multiples of the smallest.
const SIZES: [usize; 3] = [1, 2, 4];

/// Runs at each size, of which the fastest counts.
const RUNS: usize = 5;

/// The shortest time at the smallest size that is measured reliably.
const MIN_TIME: Duration = Duration::from_millis(4);

/// Measures `work`, a count, for inputs of size `n`, `2n` and `4n`.
///
/// # Panics
/// Panics if it grows more than eightfold.
pub fn require_linear(what: &str, n: usize, mut work: impl FnMut(usize) -> u64) {
    let counts = SIZES.map(|factor| work(n * factor));
    let growth = counts[2] as f64 / counts[0].max(1) as f64;
    assert!(growth <= MAX_GROWTH, "{what}: {counts:?} for sizes {n} × {SIZES:?}");
}

/// Measures the processor time that `run` takes on the calling thread, for inputs of size `n`,
/// `2n` and `4n` that `prepare` makes. `n` starts at `first` and is doubled until the time can be
/// measured reliably, but not beyond `max`.
///
/// # Panics
/// Panics if the time grows more than twelvefold.
pub fn require_linear_time<T>(
    what: &str,
    first: usize,
    max: usize,
    mut prepare: impl FnMut(usize) -> T,
    mut run: impl FnMut(&T),
) {
    let mut best = |size: usize, runs: usize| {
        let input = prepare(size);
        let times = (0..runs).map(|_| {
            let before = thread_time();
            run(&input);
            thread_time().saturating_sub(before)
        });
        times.min().unwrap_or_default()
    };
    let mut n = first;
    while n * 2 <= max && best(n, 1) < MIN_TIME {
        n *= 2;
    }
    let times = SIZES.map(|factor| best(n * factor, RUNS));
    // Below this, the clock's resolution and interrupts decide.
    let smallest = times[0].max(MIN_TIME / 8).as_secs_f64();
    let growth = times[2].as_secs_f64() / smallest;
    assert!(growth <= MAX_TIME_GROWTH, "{what}: {times:?} for sizes {n} × {SIZES:?}");
}

/// Returns the processor time of the calling thread.
fn thread_time() -> Duration {
    #[cfg(unix)]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }
    #[cfg(not(unix))]
    {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        START.get_or_init(std::time::Instant::now).elapsed()
    }
}

/// A source that counts its reads.
#[derive(Debug)]
pub struct CountingSource {
    inner: Arc<dyn Source>,
    reads: AtomicU64,
    bytes: AtomicU64,
}

impl CountingSource {
    pub fn new(inner: Arc<dyn Source>) -> Self {
        Self { inner, reads: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }

    /// Returns the number of reads so far.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Returns the number of bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Source for CountingSource {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.inner.read_exact_at(buf, offset)
    }

    fn segment_at(&self, offset: u64) -> Result<Segment, SourceError> {
        self.inner.segment_at(offset)
    }
}
