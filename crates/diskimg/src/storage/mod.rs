//! Storage: positioned I/O, codecs, operating system interfaces, and output files that appear under
//! their names only when complete.
//!
//! This layer knows nothing about disk images. Errors are [`std::io::Error`]s, those of an
//! [`output`] with a path; the layers above add the path, the structure and a hint.

pub(crate) mod buffer;
pub mod caching;
pub mod codec;
#[cfg(feature = "compressed")]
pub(crate) mod compressed;
pub mod edit;
pub mod hints;
pub mod locking;
pub(crate) mod number;
pub(crate) mod os;
pub mod output;
pub mod sink;
pub mod source;
pub(crate) mod threads;
pub mod zeros;

use std::sync::{Mutex, MutexGuard};

/// Locks a mutex and ignores poisoning: no code in this library leaves data inconsistent while it
/// holds a lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
