//! Handling of SIGINT, SIGTERM and SIGHUP with a flag that long operations poll.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);
static INSTALL: Once = Once::new();

/// Installs the signal handlers. The first signal asks the current operation to stop and clean up;
/// the second ends the process at once.
///
/// Signals are handled in a thread, so only commands that can be interrupted call this.
pub(crate) fn watch() {
    INSTALL.call_once(|| {
        // If this fails, the default action ends the process, which is acceptable.
        let _ = ctrlc::set_handler(|| {
            if REQUESTED.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
        });
    });
}

/// Returns whether a signal has arrived.
pub(crate) fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}
