//! Handling of Ctrl-C with a flag that is polled between runs, so that files are removed and file
//! systems unmounted.

use anyhow::{Result, bail};
use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Installs the signal handler, which sets the flag. The running tool also receives the signal from
/// the terminal and ends.
pub(crate) fn watch() {
    // If this fails, the default action ends the process, which is acceptable.
    let _ = ctrlc::set_handler(|| REQUESTED.store(true, Ordering::Relaxed));
}

/// Returns whether there was a signal.
pub(crate) fn is_requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Returns an error after a signal.
pub(crate) fn check() -> Result<()> {
    if is_requested() {
        bail!("interrupted");
    }
    Ok(())
}
