//! Signals, as flags that long operations poll.
//!
//! | signal | effect |
//! |---|---|
//! | SIGINT, SIGTERM, SIGHUP | the operation stops and cleans up; the second one ends the process |
//! | SIGUSR1, SIGINFO | a line of progress on standard error, as from qemu-img |
//! | SIGXFSZ | none: a write beyond the limit on the size of files fails instead |
//!
//! A signal that was ignored when the process started remains ignored: `nohup` and shells that start
//! background jobs in scripts rely on it.

use signal_hook::consts;
use signal_hook::flag;
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Once};

static REQUESTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
static PROGRESS_WANTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
static INSTALL: Once = Once::new();

/// The signals that were ignored at the start, signal 1 in the lowest bit.
static IGNORED: LazyLock<u64> = LazyLock::new(ignored);

/// Exit code of a process that a second signal ends.
const INTERRUPTED: c_int = 130;

#[cfg(unix)]
const ENDING: &[c_int] = &[consts::SIGINT, consts::SIGTERM, consts::SIGHUP];
#[cfg(not(unix))]
const ENDING: &[c_int] = &[consts::SIGINT, consts::SIGTERM];

#[cfg(any(
    target_os = "macos",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd"
))]
const PROGRESS: &[c_int] = &[consts::SIGUSR1, consts::SIGINFO];
#[cfg(all(
    unix,
    not(any(
        target_os = "macos",
        target_os = "freebsd",
        target_os = "netbsd",
        target_os = "openbsd"
    ))
))]
const PROGRESS: &[c_int] = &[consts::SIGUSR1];
#[cfg(not(unix))]
const PROGRESS: &[c_int] = &[];

/// Finds out which signals are ignored. Must be called before access to files is restricted.
pub(crate) fn prepare() {
    LazyLock::force(&IGNORED);
}

/// Installs the signal handlers, when an operation begins that polls the flags.
pub(crate) fn watch() {
    INSTALL.call_once(|| {
        let is_ignored = |signal: c_int| *IGNORED >> (signal - 1) & 1 == 1;
        // If a handler cannot be installed, the default action ends the process, which is
        // acceptable.
        for &signal in ENDING.iter().filter(|&&signal| !is_ignored(signal)) {
            let _ = flag::register_conditional_shutdown(signal, INTERRUPTED, REQUESTED.clone());
            let _ = flag::register(signal, REQUESTED.clone());
        }
        for &signal in PROGRESS.iter().filter(|&&signal| !is_ignored(signal)) {
            let _ = flag::register(signal, PROGRESS_WANTED.clone());
        }
        // Any handler makes the write fail with EFBIG; without one, the process would be killed.
        #[cfg(unix)]
        let _ = flag::register(consts::SIGXFSZ, Arc::default());
    });
}

/// Returns whether a signal has asked the operation to stop.
pub(crate) fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Returns whether a signal has asked for a line of progress since the last call.
pub(crate) fn progress_wanted() -> bool {
    PROGRESS_WANTED.swap(false, Ordering::Relaxed)
}

#[cfg(target_os = "linux")]
fn ignored() -> u64 {
    // proc(5): a mask in hexadecimal.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Asking the system for the action of a signal takes unsafe code, which this crate does not have.
#[cfg(not(target_os = "linux"))]
fn ignored() -> u64 {
    0
}
