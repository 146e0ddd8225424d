//! Ctrl-C: a flag looked at between runs, so that what was made is removed and
//! unmounted on the way out.

use anyhow::{Result, bail};
use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// From now on a signal only raises the flag. The running tool gets the
/// terminal's signal itself, and ends.
pub(crate) fn watch() {
    // Without a handler the system's default ends the process: acceptable.
    let _ = ctrlc::set_handler(|| REQUESTED.store(true, Ordering::Relaxed));
}

/// An error if a signal has come.
pub(crate) fn check() -> Result<()> {
    if REQUESTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}
