//! Signals.
//!
//! | signal | effect |
//! |---|---|
//! | SIGINT, SIGTERM, SIGHUP, SIGQUIT | the operation stops and cleans up; a second one ends it |
//! | SIGXCPU | the operation stops and cleans up: its processor time is used up |
//! | SIGUSR1, SIGINFO | a line of progress on standard error, as from qemu-img |
//! | SIGABRT | the process removes temporary files and ends |
//! | SIGXFSZ | none: a write beyond the limit on the size of files fails instead |
//!
//! The exit code is 128 + the number of the signal, as in shells. A second signal leaves the
//! temporary files; the next run that writes the same output removes them.
//!
//! A signal that was ignored when the process started remains ignored: `nohup` and shells that start
//! background jobs in scripts rely on it.

use super::{EXIT_CODE_BASE, NO_MEMORY, PROGRESS_WANTED, REQUESTED, SIGNAL};
use crate::memory;
use signal_hook::consts;
use signal_hook::flag;
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Once};

static INSTALL: Once = Once::new();
/// The handlers of [`watch`] are installed.
static WATCHED: AtomicBool = AtomicBool::new(false);

/// The signals that were ignored at the start, signal 1 in the lowest bit.
static IGNORED: LazyLock<u64> = LazyLock::new(ignored);

const ENDING: &[c_int] = &[consts::SIGINT, consts::SIGTERM, consts::SIGHUP, consts::SIGQUIT];

#[cfg(any(
    target_os = "macos",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd"
))]
const PROGRESS: &[c_int] = &[consts::SIGUSR1, consts::SIGINFO];
#[cfg(not(any(
    target_os = "macos",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd"
)))]
const PROGRESS: &[c_int] = &[consts::SIGUSR1];

/// Finds out which signals are ignored. Must be called before access to files is restricted.
pub(crate) fn prepare() {
    LazyLock::force(&IGNORED);
    // Any handler makes the write fail with EFBIG; without one, the process would be killed.
    let _ = flag::register(consts::SIGXFSZ, Arc::default());
}

/// Makes SIGABRT, which ends the process if an allocation fails or a thread cannot be started for lack
/// of memory, remove temporary files first.
pub(crate) fn clean_up_on_abort() {
    let clean_up = || {
        diskimg::storage::output::remove_temporary_files();
        if memory::is_short() {
            let message = ["diskimg: ", NO_MEMORY, "\n"].map(str::as_bytes);
            for part in message {
                let _ = rustix::io::write(rustix::stdio::stderr(), part);
            }
            signal_hook::low_level::exit(1);
        }
        let _ = signal_hook::low_level::emulate_default_handler(consts::SIGABRT);
    };
    // SAFETY: the handler reads atomics and makes system calls, and nothing else.
    #[allow(unsafe_code)]
    let _ = unsafe { signal_hook::low_level::register(consts::SIGABRT, clean_up) };
}

/// Makes the signals that [`watch`] handles end the process at once until then, and remove temporary
/// files first. Must be called before the first one is created.
pub(crate) fn clean_up_until_watched() {
    for &signal in ENDING.iter().chain([&consts::SIGXCPU]).filter(|&&signal| !is_ignored(signal)) {
        let clean_up = move || {
            if !WATCHED.load(Ordering::Relaxed) {
                diskimg::storage::output::remove_temporary_files();
                signal_hook::low_level::exit(c_int::from(EXIT_CODE_BASE) + signal);
            }
        };
        // SAFETY: as above.
        #[allow(unsafe_code)]
        let _ = unsafe { signal_hook::low_level::register(signal, clean_up) };
    }
}

/// Returns whether a signal was ignored at the start.
fn is_ignored(signal: c_int) -> bool {
    *IGNORED >> (signal - 1) & 1 == 1
}

/// Installs the signal handlers, when an operation begins that polls the flags.
pub(crate) fn watch() {
    INSTALL.call_once(|| {
        // If a handler cannot be installed, the default action ends the process, which is
        // acceptable.
        for &signal in ENDING.iter().filter(|&&signal| !is_ignored(signal)) {
            let exit_code = c_int::from(EXIT_CODE_BASE) + signal;
            let _ = flag::register_conditional_shutdown(signal, exit_code, REQUESTED.clone());
            request_on(signal);
        }
        // Repeated each second, until the hard limit is reached and the process is killed.
        request_on(consts::SIGXCPU);
        for &signal in PROGRESS.iter().filter(|&&signal| !is_ignored(signal)) {
            let _ = flag::register(signal, PROGRESS_WANTED.clone());
        }
        WATCHED.store(true, Ordering::Relaxed);
    });
}

fn request_on(signal: c_int) {
    let number = usize::try_from(signal).unwrap_or(0);
    let _ = flag::register_usize(signal, SIGNAL.clone(), number);
    let _ = flag::register(signal, REQUESTED.clone());
}

/// Returns the message for a signal that did not come from a user.
pub(super) fn explain(signal: usize) -> Option<&'static str> {
    (signal == consts::SIGXCPU as usize).then_some("the limit on processor time is reached")
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
