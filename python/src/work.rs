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
//!   the same once more    ◀─ all is done ─  waits for the word to go on,
//!   go on ───────────────────────────────▶ gives the output its name
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
    changed: Condvar,
}

#[derive(Default)]
struct State {
    progress: Option<Progress>,
    /// The work is complete, but for what cannot be taken back: may it go on?
    asks: bool,
    ended: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the library calls as it goes along.
    fn report(&self, progress: Progress) -> ControlFlow<()> {
        let mut state = self.state();
        state.progress = Some(progress);
        if progress.done >= progress.total {
            state.asks = true;
            self.changed.notify_all();
            while state.asks && !self.stop.load(Ordering::Relaxed) {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
        match self.stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// Lets the work go on that asks, or stops it.
    fn answer(&self, stop: bool) {
        let mut state = self.state();
        self.stop.fetch_or(stop, Ordering::Relaxed);
        state.asks = false;
        self.changed.notify_all();
    }

    /// Waits for the end or a question, a tick at most; tells how far it is.
    fn wait(&self) -> (bool, bool, Option<Progress>) {
        let running = |state: &mut State| !state.ended && !state.asks;
        let (state, _) = self
            .changed
            .wait_timeout_while(self.state(), TICK, running)
            .unwrap_or_else(PoisonError::into_inner);
        (state.ended, state.asks, state.progress)
    }
}

/// Tells the waiting thread, whatever became of the work.
struct End<'a>(&'a Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.state().ended = true;
        self.0.changed.notify_all();
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
            shared.answer(true);
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
        let (ended, asks, now) = py.detach(|| shared.wait());
        if ended {
            // What comes now comes too late: a signal waits for Python's next look.
            return Ok(());
        }
        py.check_signals()?;
        if let (Some(call), Some(Progress { done, total })) = (progress, now)
            && told != now
        {
            told = now;
            call.call1((done, total))?;
        }
        if asks {
            shared.answer(false);
        }
    }
}

fn io_error(error: io::Error) -> PyErr {
    io::Error::new(error.kind(), format!("cannot start a thread: {error}")).into()
}
