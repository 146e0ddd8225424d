//! Finds out which standard streams are closed, before Rust's runtime opens them on `/dev/null`.

use diskimg_cli::ClosedStreams;

#[cfg(target_os = "linux")]
mod imp {
    use super::ClosedStreams;
    use std::sync::atomic::{AtomicBool, Ordering};

    static CLOSED: [AtomicBool; 3] = [const { AtomicBool::new(false) }; 3];

    /// Called by the C library before `main`, and thus before Rust's runtime starts.
    // SAFETY: the section is an array of pointers to functions with the C calling convention, whose
    // arguments may be ignored. The function needs nothing of Rust's runtime: it makes system calls
    // and stores to statics.
    #[allow(unsafe_code)]
    #[used]
    #[unsafe(link_section = ".init_array")]
    static DETECT: extern "C" fn() = detect;

    extern "C" fn detect() {
        let closed: [bool; 3] = ClosedStreams::detect().into();
        for (stored, is_closed) in CLOSED.iter().zip(closed) {
            stored.store(is_closed, Ordering::Relaxed);
        }
    }

    pub(super) fn at_start() -> ClosedStreams {
        ClosedStreams::new(CLOSED.each_ref().map(|closed| closed.load(Ordering::Relaxed)))
    }
}

/// Returns the streams that were closed when the process started.
#[cfg(target_os = "linux")]
pub(crate) fn at_start() -> ClosedStreams {
    imp::at_start()
}

/// Returns the streams that were closed when the process started, which are not known on this
/// system.
#[cfg(not(target_os = "linux"))]
pub(crate) fn at_start() -> ClosedStreams {
    ClosedStreams::default()
}
