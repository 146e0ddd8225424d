//! Repeating reads that failed temporarily.

use super::{IoHints, Segment, Source, SourceError};
use std::collections::hash_map::RandomState;
use std::error::Error;
use std::fmt;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// When a read that failed temporarily is repeated, and when it is given up.
///
/// The delay before each attempt is random, between [`first_delay`](Self::first_delay) and three
/// times the previous delay, so that clients that failed together do not return together.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// Maximum number of attempts, including the first one. 0 is the same as 1.
    pub attempts: u32,
    /// Shortest delay before an attempt.
    pub first_delay: Duration,
    /// Longest delay before an attempt.
    pub max_delay: Duration,
    /// No attempt starts later than this after the first one.
    pub deadline: Duration,
}

impl Default for RetryPolicy {
    /// 10 attempts within 3 minutes, with delays of 100 ms to 15 s.
    fn default() -> Self {
        Self {
            attempts: 10,
            first_delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(15),
            deadline: Duration::from_secs(180),
        }
    }
}

impl RetryPolicy {
    /// Calls `attempt` until it succeeds, fails with another error than
    /// [`Transient`](SourceError::Transient), or must not be repeated. Waits between the attempts.
    ///
    /// # Errors
    /// Returns the error of the last attempt.
    pub fn repeat<T>(
        &self,
        mut attempt: impl FnMut() -> Result<T, SourceError>,
    ) -> Result<T, SourceError> {
        let &Self { attempts, first_delay, max_delay, deadline } = self;
        let started = Instant::now();
        let mut delay = first_delay;
        let mut number = 1;
        loop {
            let error = match attempt() {
                Err(SourceError::Transient(error)) => error,
                outcome => return outcome,
            };
            let longest = delay.saturating_mul(3).clamp(first_delay, max_delay.max(first_delay));
            delay = random(first_delay..longest);
            if number >= attempts || started.elapsed().saturating_add(delay) > deadline {
                let error = io::Error::new(error.kind(), GaveUp { attempts: number, error });
                return Err(SourceError::Transient(error));
            }
            std::thread::sleep(delay);
            number += 1;
        }
    }
}

/// Repeats the reads of a source that fail with [`SourceError::Transient`].
///
/// Other errors are returned at once. When the [`RetryPolicy`] is exhausted, the last error is
/// returned; it is still transient and states the number of attempts. Use one `Retrying` per
/// source: nested ones would multiply the attempts. An operation that is cancelled ends when the
/// current attempts do, which takes up to the deadline.
#[derive(Debug)]
pub struct Retrying {
    inner: Arc<dyn Source>,
    policy: RetryPolicy,
}

impl Retrying {
    /// Creates a source that repeats reads according to the default policy.
    pub fn new(inner: Arc<dyn Source>) -> Self {
        Self::with_policy(inner, RetryPolicy::default())
    }

    /// Creates a source that repeats reads according to `policy`.
    pub fn with_policy(inner: Arc<dyn Source>, policy: RetryPolicy) -> Self {
        Self { inner, policy }
    }

    fn retry<T>(&self, read: impl FnMut() -> Result<T, SourceError>) -> Result<T, SourceError> {
        self.policy.repeat(read)
    }
}

/// Returns a random duration of the range.
fn random(range: Range<Duration>) -> Duration {
    // Each `RandomState` has other keys.
    let fraction = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
    range.start + (range.end - range.start).mul_f64(fraction)
}

/// The last error of several attempts.
#[derive(Debug)]
struct GaveUp {
    attempts: u32,
    error: io::Error,
}

impl fmt::Display for GaveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (attempts: {})", self.error, self.attempts)
    }
}

impl Error for GaveUp {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}

impl Source for Retrying {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        self.retry(|| self.inner.read_exact_at(buf, offset))
    }

    fn read_ranges(&self, ranges: &mut [(u64, &mut [u8])]) -> Result<(), SourceError> {
        match self.inner.read_ranges(ranges) {
            // One failed request must not repeat all others.
            Err(SourceError::Transient(_)) => ranges.iter_mut().try_for_each(|(offset, buf)| {
                self.retry(|| self.inner.read_exact_at(buf, *offset))
            }),
            outcome => outcome,
        }
    }

    fn segment_at(&self, offset: u64) -> Result<Segment, SourceError> {
        self.retry(|| self.inner.segment_at(offset))
    }

    fn prefetch(&self, ranges: &[Range<u64>]) {
        self.inner.prefetch(ranges);
    }

    fn io(&self) -> IoHints {
        self.inner.io()
    }

    fn as_slice(&self) -> Option<&[u8]> {
        self.inner.as_slice()
    }

    fn as_file(&self) -> Option<(&File, u64)> {
        self.inner.as_file()
    }

    forward_file!();

    fn is_device(&self) -> bool {
        self.inner.is_device()
    }

    fn allocated_bytes(&self) -> io::Result<Option<u64>> {
        self.inner.allocated_bytes()
    }
}
