//! Floor 0: the machine below. Bytes by position, codecs, what the operating
//! system can do with holes, and output files that are never half there.
//!
//! Nothing here knows what a disk image is. Errors are plain [`std::io::Error`]
//! (an output's say of which file); the floors above add the path, the
//! structure and what to do about it.

pub(crate) mod buffer;
pub mod caching;
pub mod codec;
pub(crate) mod number;
pub(crate) mod os;
pub mod output;
pub mod sink;
pub mod source;
pub mod zeros;

use std::sync::{Mutex, MutexGuard};

/// Locks; what a panicking holder left behind is taken as it is. Nothing in
/// this library leaves data half-changed under a lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
