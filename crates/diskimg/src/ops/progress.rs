//! Progress reports and cancellation.

use crate::error::{Error, Result};
use crate::storage::output::Transferred;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

/// Progress of an operation, in guest bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes processed so far, holes included.
    pub done: u64,
    /// Total number of bytes.
    pub total: u64,
}

impl Progress {
    /// Returns the progress of an operation that has processed `done` of `total` bytes.
    pub fn new(done: u64, total: u64) -> Self {
        Self { done, total }
    }
}

/// A progress callback. It is called regularly, from any thread but never from two at once.
/// Returning [`ControlFlow::Break`] ends the operation with
/// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled).
pub type Callback<'a> = &'a (dyn Fn(Progress) -> ControlFlow<()> + Sync);

/// Returns a callback that reports no more than what has been transferred, and never less than before.
pub(crate) fn limited<'a>(
    callback: Callback<'a>,
    transferred: Transferred,
) -> impl Fn(Progress) -> ControlFlow<()> + Sync + 'a {
    let highest = AtomicU64::new(0);
    move |Progress { done, total }| {
        let done = (done as f64 * transferred().clamp(0.0, 1.0)) as u64;
        let done = highest.fetch_max(done, Ordering::Relaxed).max(done);
        callback(Progress { done, total })
    }
}

/// Reports progress if there is a callback.
///
/// # Errors
/// Returns [`Cancelled`](crate::ErrorKind::Cancelled) if the callback returns
/// [`ControlFlow::Break`].
pub(crate) fn report(callback: Option<Callback<'_>>, done: u64, total: u64) -> Result<()> {
    match callback.map(|callback| callback(Progress { done, total })) {
        Some(ControlFlow::Break(())) => Err(Error::cancelled()),
        _ => Ok(()),
    }
}
