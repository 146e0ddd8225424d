//! Telling the caller how far a verb is, and being told to stop.

use crate::error::{Error, Result};
use std::ops::ControlFlow;

/// How far a verb is, in guest bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes dealt with, holes included.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// Called now and then, from any thread but never from two at once.
/// [`ControlFlow::Break`] stops the verb with
/// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled).
pub type Callback<'a> = &'a (dyn Fn(Progress) -> ControlFlow<()> + Sync);

/// Reports to the caller, if it wants to know.
pub(crate) fn report(callback: Option<Callback<'_>>, done: u64, total: u64) -> Result<()> {
    match callback.map(|tell| tell(Progress { done, total })) {
        Some(ControlFlow::Break(())) => Err(Error::cancelled()),
        _ => Ok(()),
    }
}
