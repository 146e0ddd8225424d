//! Signals, as flags that long operations poll.
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

use crate::memory;
use signal_hook::consts;
use signal_hook::flag;
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Once};

static REQUESTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
/// The number of the last signal that asked the operation to stop.
static SIGNAL: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);
static PROGRESS_WANTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
static INSTALL: Once = Once::new();
/// The handlers of [`watch`] are installed.
static WATCHED: AtomicBool = AtomicBool::new(false);

/// The signals that were ignored at the start, signal 1 in the lowest bit.
static IGNORED: LazyLock<u64> = LazyLock::new(ignored);

/// What shells add to the number of the signal that ended a process.
const EXIT_CODE_BASE: u8 = 128;

#[cfg(unix)]
const ENDING: &[c_int] = &[consts::SIGINT, consts::SIGTERM, consts::SIGHUP, consts::SIGQUIT];
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
    // Any handler makes the write fail with EFBIG; without one, the process would be killed.
    #[cfg(unix)]
    let _ = flag::register(consts::SIGXFSZ, Arc::default());
}

/// Makes SIGABRT, which ends the process if an allocation fails or a thread cannot be started for lack
/// of memory, remove temporary files first.
#[cfg(unix)]
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

#[cfg(not(unix))]
pub(crate) fn clean_up_on_abort() {}

/// Makes the signals that [`watch`] handles end the process at once until then, and remove temporary
/// files first. Must be called before the first one is created.
#[cfg(unix)]
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

#[cfg(not(unix))]
pub(crate) fn clean_up_until_watched() {}

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
        #[cfg(unix)]
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
        #[cfg(unix)]
        _ if signal == consts::SIGXCPU as usize => {
            (Some("the limit on processor time is reached"), code)
        }
        _ => (None, code),
    }
}

/// The message when an operation stops because memory is short.
pub(crate) const NO_MEMORY: &str =
    "there is not enough memory (the limit on this process is shown by 'ulimit -v')";

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
