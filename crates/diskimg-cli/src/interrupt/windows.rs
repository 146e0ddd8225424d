//! Console events.
//!
//! | event | effect |
//! |---|---|
//! | Ctrl-C, Ctrl-Break | the operation stops and cleans up; a second one ends it |
//! | the console is closed, the user logs off, the system shuts down | the same, within four seconds |
//!
//! The exit code is 130 after Ctrl-C and 129 after the others, as on Unix. Handlers run in a thread of
//! their own. A process that is ended in the Task Manager leaves its temporary files; the next run
//! that writes the same output removes them.

use super::{EXIT_CODE_BASE, REQUESTED, SIGNAL};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use windows_sys::Win32::System::Console::{CTRL_BREAK_EVENT, CTRL_C_EVENT, SetConsoleCtrlHandler};
use windows_sys::core::BOOL;

/// The numbers of the signals that correspond to the events.
const SIGHUP: usize = 1;
const SIGINT: usize = 2;

/// How long the operation may take to clean up when the console is closed. The system ends the
/// process after five seconds.
const MAX_CLEAN_UP: Duration = Duration::from_secs(4);

static INSTALL: Once = Once::new();
/// An operation polls the flags.
static WATCHED: AtomicBool = AtomicBool::new(false);

/// Nothing is needed.
pub(crate) fn prepare() {}

/// Makes console events end the process at once until [`watch`] is called, and remove temporary files
/// first. If an allocation fails twice, temporary files remain.
pub(crate) fn clean_up_on_abort() {
    install();
}

/// Nothing is needed: [`clean_up_on_abort`] was called.
pub(crate) fn clean_up_until_watched() {}

/// Makes console events stop the operation, which polls the flags.
pub(crate) fn watch() {
    install();
    WATCHED.store(true, Ordering::Relaxed);
}

fn install() {
    INSTALL.call_once(|| {
        // SAFETY: the handler is a function, and so exists as long as the process.
        #[allow(unsafe_code)]
        let _ = unsafe { SetConsoleCtrlHandler(Some(handle), 1) };
    });
}

extern "system" fn handle(event: u32) -> BOOL {
    let by_key = matches!(event, CTRL_C_EVENT | CTRL_BREAK_EVENT);
    let signal = if by_key { SIGINT } else { SIGHUP };
    SIGNAL.store(signal, Ordering::Relaxed);
    let is_polled = WATCHED.load(Ordering::Relaxed);
    let is_second = REQUESTED.swap(true, Ordering::Relaxed);
    if !by_key && is_polled {
        // The process ends when this function returns, or earlier, when it has cleaned up.
        std::thread::sleep(MAX_CLEAN_UP);
    }
    if is_second || !by_key || !is_polled {
        diskimg::storage::output::remove_temporary_files();
        let code = usize::from(EXIT_CODE_BASE) + signal;
        std::process::exit(i32::try_from(code).unwrap_or(1));
    }
    1
}

/// All events come from a user.
pub(super) fn explain(_: usize) -> Option<&'static str> {
    None
}
