//! Progress reports and cancellation.

use crate::error::{Error, Result};
use std::ops::ControlFlow;

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
