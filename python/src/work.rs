//! Long operations: run without the GIL, with handling of Ctrl-C and progress.
//!
//! ```text
//!   calling thread                          worker thread
//!   ──────────────                          ─────────────
//!   starts the worker ───────────────────▶  runs the operation, on all cores
//!   waits without the GIL     ◀─ progress ─  reports, and checks whether to stop
//!   every tick: handles signals,
//!   calls `progress(done, total)`
//!   exception: requests a stop ──────────▶  ends, cleans up
//!   the same once more         ◀─ all done ─  waits for permission to finish
//!   grants it ───────────────────────────▶  gives the output its name
//!   joins the worker, raises
//! ```
//!
//! Python runs signal handlers only in its main thread, and a callback must run in the thread that
//! passed it. So the calling thread waits and the operation runs in another thread. The cost is one
//! thread per call.
//!
//! A third thread can stop the operation with a [`Stop`], which the calling thread looks at in every
//! tick: `diskimg.aio` does, when a task is cancelled.

use crate::errors::Raise;
use diskimg::Progress;
use pyo3::prelude::*;
use std::cell::RefCell;
use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Interval at which signals are checked and the progress callback is called.
const TICK: Duration = Duration::from_millis(20);

thread_local! {
    /// Set if the operations of this thread are to be stopped.
    static STOP: RefCell<Option<Arc<AtomicBool>>> = const { RefCell::new(None) };
}

/// A request to stop the operations of one thread, which any thread can make.
#[pyclass(frozen)]
#[derive(Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

#[pymethods]
impl Stop {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Stops the operation in progress, and those that begin later.
    fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Calls `function` in this thread. An operation that is stopped in it raises `StoppedError`.
    fn run<'py>(&self, function: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let before = STOP.replace(Some(Arc::clone(&self.0)));
        let outcome = function.call0();
        STOP.set(before);
        outcome
    }
}

/// Returns `StoppedError` if a stop was requested in this thread.
fn check_stop(py: Python<'_>) -> PyResult<()> {
    let requested =
        STOP.with_borrow(|stop| stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed)));
    if !requested {
        return Ok(());
    }
    let class = py.import("diskimg._errors")?.getattr("StoppedError")?;
    Err(PyErr::from_value(class.call1(("the operation was stopped",))?))
}

/// State shared by the two threads.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    progress: Option<Progress>,
    /// The worker has done everything that can be undone and waits for permission to finish.
    waiting: bool,
    ended: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The progress callback that the library calls.
    fn report(&self, progress: Progress) -> ControlFlow<()> {
        let mut state = self.state();
        state.progress = Some(progress);
        if progress.done >= progress.total {
            state.waiting = true;
            self.changed.notify_all();
            while state.waiting && !self.stop.load(Ordering::Relaxed) {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
        match self.stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// Lets the waiting worker finish, or stops it.
    fn answer(&self, stop: bool) {
        let mut state = self.state();
        self.stop.fetch_or(stop, Ordering::Relaxed);
        state.waiting = false;
        self.changed.notify_all();
    }

    /// Waits at most a tick for the worker to end or to ask for permission. Returns whether it has
    /// ended, whether it is waiting, and its progress.
    fn wait(&self) -> (bool, bool, Option<Progress>) {
        let running = |state: &mut State| !state.ended && !state.waiting;
        let (state, _) = self
            .changed
            .wait_timeout_while(self.state(), TICK, running)
            .unwrap_or_else(PoisonError::into_inner);
        (state.ended, state.waiting, state.progress)
    }
}

/// Marks the work as ended when dropped, also after a panic.
struct End<'a>(&'a Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.state().ended = true;
        self.0.changed.notify_all();
    }
}

/// Runs `work` without the GIL and returns its result. `progress` is called with the number of
/// bytes done and the total.
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

/// Handles signals and calls `progress` until the work has ended or an exception is raised.
fn watch(py: Python<'_>, shared: &Shared, progress: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
    let mut reported = None;
    loop {
        let (ended, waiting, now) = py.detach(|| shared.wait());
        if ended {
            // Too late to stop the work: Python handles a pending signal at its next check.
            return Ok(());
        }
        py.check_signals()?;
        check_stop(py)?;
        if let (Some(call), Some(Progress { done, total, .. })) = (progress, now)
            && reported != now
        {
            reported = now;
            call.call1((done, total))?;
        }
        if waiting {
            shared.answer(false);
        }
    }
}

fn io_error(error: io::Error) -> PyErr {
    io::Error::new(error.kind(), format!("cannot start a thread: {error}")).into()
}
