//! Ctrl-C, SIGTERM and SIGHUP: a flag that long work looks at.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);
static INSTALL: Once = Once::new();

/// From now on a signal asks the running work to stop and clean up; a second
/// one ends the process where it stands.
///
/// Waiting for signals takes a thread, so only verbs that can be stopped
/// half-way call this.
pub(crate) fn watch() {
    INSTALL.call_once(|| {
        // Without a handler the system's default ends the process: acceptable.
        let _ = ctrlc::set_handler(|| {
            if REQUESTED.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
        });
    });
}

/// Whether a signal has come.
pub(crate) fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}
