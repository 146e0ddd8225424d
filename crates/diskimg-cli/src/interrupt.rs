//! Requests to stop, as flags that long operations poll: signals on Unix (`interrupt/unix.rs`), console
//! events on Windows (`interrupt/windows.rs`).

use crate::memory;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

#[cfg_attr(unix, path = "interrupt/unix.rs")]
#[cfg_attr(windows, path = "interrupt/windows.rs")]
mod imp;

pub(crate) use imp::{clean_up_on_abort, clean_up_until_watched, prepare, watch};

static REQUESTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
/// The number of the last signal that asked the operation to stop.
static SIGNAL: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);
static PROGRESS_WANTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// What shells add to the number of the signal that ended a process.
const EXIT_CODE_BASE: u8 = 128;

/// The message when an operation stops because memory is short.
pub(crate) const NO_MEMORY: &str =
    "there is not enough memory (the limit on this process is shown by 'ulimit -v')";

/// Returns whether the operation must stop: because a signal has asked for it, or because memory is
/// short.
pub(crate) fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed) || memory::is_short()
}

/// Returns why the operation had to stop, unless a user asked for it, and the exit code.
pub(crate) fn reason() -> (Option<&'static str>, u8) {
    let signal = SIGNAL.load(Ordering::Relaxed);
    let code = u8::try_from(signal).map_or(EXIT_CODE_BASE, |n| EXIT_CODE_BASE.saturating_add(n));
    match signal {
        0 if memory::is_short() => (Some(NO_MEMORY), 1),
        // Another program that runs the command has asked for it.
        0 => (None, EXIT_CODE_BASE + 2),
        _ => (imp::explain(signal), code),
    }
}

/// Returns whether a signal has asked for a line of progress since the last call.
pub(crate) fn progress_wanted() -> bool {
    PROGRESS_WANTED.swap(false, Ordering::Relaxed)
}
