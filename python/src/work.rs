//! Long work: the GIL released, Ctrl-C and the caller's progress looked after.
//!
//! ```text
//!   calling thread                         thread of the work
//!   ─────────────                          ──────────────────
//!   starts it ───────────────────────────▶ the verb, on all cores
//!   waits, the GIL released   ◀─ how far ─  reports, and looks whether to stop
//!   now and then: handles signals,
//!   calls `progress(done, total)`
//!   an exception: says stop ─────────────▶ ends, cleans up
//!   joins, raises
//! ```
//!
//! Python runs signal handlers in its main thread only, and a callback belongs to
//! the thread that gave it; so the caller's thread stays where it is and the work
//! goes elsewhere. The price is a thread for every call.

use crate::errors::Raise;
use diskimg::Progress;
use pyo3::prelude::*;
use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Between two looks at the signals and two calls of the caller's function.
const TICK: Duration = Duration::from_millis(20);

/// What both threads know.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    progress: Option<Progress>,
    ended: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the library calls as it goes along.
    fn report(&self, progress: Progress) -> ControlFlow<()> {
        self.state().progress = Some(progress);
        match self.stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// Waits for the end, a tick at most; tells how far it is.
    fn wait(&self) -> (bool, Option<Progress>) {
        let running = |state: &mut State| !state.ended;
        let (state, _) = self
            .ended
            .wait_timeout_while(self.state(), TICK, running)
            .unwrap_or_else(PoisonError::into_inner);
        (state.ended, state.progress)
    }
}

/// Tells the waiting thread, whatever became of the work.
struct End<'a>(&'a Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.state().ended = true;
        self.0.ended.notify_one();
    }
}

/// Runs `work` with the GIL released, and gives what it gave. `progress` is a
/// callable that takes the bytes done and the bytes in all.
pub(crate) fn run<T: Send>(
    py: Python<'_>,
    progress: Option<&Bound<'_, PyAny>>,
    work: impl FnOnce(diskimg::Callback<'_>) -> diskimg::Result<T> + Send,
) -> PyResult<T> {
    let shared = &Shared::default();
    std::thread::scope(|scope| {
        let work = move || {
            let _end = End(shared);
            work(&|progress| shared.report(progress))
        };
        let thread = std::thread::Builder::new()
            .name("diskimg".to_owned())
            .spawn_scoped(scope, work)
            .map_err(io_error)?;
        let watched = watch(py, shared, progress);
        if watched.is_err() {
            shared.stop.store(true, Ordering::Relaxed);
        }
        let outcome = py.detach(|| thread.join()).unwrap_or_else(|p| std::panic::resume_unwind(p));
        watched?;
        outcome.or_raise(py)
    })
}

/// Until the work has ended, or something was raised in its caller's thread.
fn watch(py: Python<'_>, shared: &Shared, progress: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
    let mut told = None;
    loop {
        let (ended, now) = py.detach(|| shared.wait());
        py.check_signals()?;
        if let (Some(call), Some(Progress { done, total })) = (progress, now)
            && told != now
        {
            told = now;
            call.call1((done, total))?;
        }
        if ended {
            return Ok(());
        }
    }
}

fn io_error(error: io::Error) -> PyErr {
    io::Error::new(error.kind(), format!("cannot start a thread: {error}")).into()
}
