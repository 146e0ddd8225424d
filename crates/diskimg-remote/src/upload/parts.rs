//! The parts of an object on their way to the store.

use super::Store;
use super::layout::Layout;
use crate::http::transport::{Attempt, Failure, MAX_WAIT};
use diskimg::storage::source::{RetryPolicy, SourceError};
use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Number of parts that are uploaded at a time.
const IN_FLIGHT: usize = 4;

/// Parts that are this many parts behind the last byte that was written are uploaded even if not all
/// of their bytes were written: the rest are zeros.
const LAG: usize = 40;

/// Bytes per second with which a part is uploaded at least, if attempts are repeated.
const SLOWEST: u64 = 1 << 20;

/// How often a caller that waits for the parts is asked whether the upload stops.
const POLL: Duration = Duration::from_millis(100);

/// How long requests may take to end when the upload stops. What they send later is refused, because
/// the upload is aborted then.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

/// Maximum number of attempts to remove what is not needed.
const REMOVAL_ATTEMPTS: u32 = 3;

/// Size in bytes of the stack of a thread that uploads.
const STACK: usize = 1 << 20;

/// An upload that is not completed.
#[derive(Debug)]
pub(crate) struct Upload<S: Store> {
    pub(crate) store: S,
    pub(crate) retry: RetryPolicy,
    file: File,
    state: Mutex<State<S::Receipt>>,
    /// Notified when a part is queued or done, and when the upload stops.
    changed: Condvar,
    stops: AtomicBool,
}

#[derive(Debug)]
struct State<R> {
    layout: Layout,
    parts: Vec<Part<R>>,
    queue: VecDeque<usize>,
    /// Number of parts that are being uploaded.
    active: usize,
    /// The last part that was written to, without leaps: some formats write at the end first.
    frontier: usize,
    /// Parts before this one were considered because they are [`LAG`] parts behind.
    passed: usize,
    failed: Option<(io::ErrorKind, String)>,
    threads: Vec<JoinHandle<()>>,
}

/// A part as it was written and sent.
#[derive(Debug, Clone)]
struct Part<R> {
    /// Sum of the lengths of what was written.
    written: u64,
    /// Number of changes.
    changes: u64,
    queued: bool,
    /// The changes that are being sent.
    sending: Option<u64>,
    /// It was queued before all was written, which is done once.
    was_early: bool,
    sent: Option<Sent<R>>,
}

impl<R> Default for Part<R> {
    fn default() -> Self {
        Self { written: 0, changes: 0, queued: false, sending: None, was_early: false, sent: None }
    }
}

/// What the store has of a part.
#[derive(Debug, Clone)]
struct Sent<R> {
    /// The changes that it includes.
    changes: u64,
    range: Range<u64>,
    receipt: R,
}

impl<S: Store> Upload<S> {
    pub(super) fn new(store: S, retry: RetryPolicy, layout: Layout, file: File) -> Self {
        let state = State {
            layout,
            parts: Vec::new(),
            queue: VecDeque::new(),
            active: 0,
            frontier: 0,
            passed: 1,
            failed: None,
            threads: Vec::new(),
        };
        Self {
            store,
            retry,
            file,
            state: Mutex::new(state),
            changed: Condvar::new(),
            stops: AtomicBool::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<S::Receipt>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the sizes of the parts to those of an object of at most `len` bytes. Must be called before
    /// anything is written.
    pub(super) fn expect_len(&self, len: u64) {
        let mut state = self.state();
        state.layout = Layout::new(len, state.layout.limits());
    }

    /// Returns the temporary file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Returns the length of the object.
    pub(crate) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Returns the error of an earlier part, if one failed.
    pub(super) fn require_running(&self) -> io::Result<()> {
        self.state().require_running()
    }

    /// Records that a range was written, and uploads the parts that are complete.
    pub(super) fn wrote(self: &Arc<Self>, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let mut state = self.state();
        let layout = state.layout;
        let (first, last) = (layout.index(range.start), layout.index(range.end - 1));
        if last as u64 >= layout.limits().max_parts {
            state.fail(&too_many_parts());
            self.changed.notify_all();
            return;
        }
        for index in first..=last {
            let whole = layout.range(index, u64::MAX);
            let len = whole.end.min(range.end) - whole.start.max(range.start);
            let part = state.part(index);
            part.changes += 1;
            part.written = part.written.saturating_add(len);
            if part.written >= whole.end - whole.start {
                state.queue_early(index);
            }
        }
        if last > state.frontier && last <= state.frontier + LAG {
            state.frontier = last;
        }
        while state.passed + LAG < state.frontier {
            let index = state.passed;
            state.queue_early(index);
            state.passed += 1;
        }
        if !state.queue.is_empty() {
            self.add_threads(&mut state);
        }
    }

    /// Returns which fraction of what was written the store has, from 0 to 1. An object of one part is
    /// not sent before it is complete, and counts as sent.
    pub(super) fn fraction_sent(&self) -> f64 {
        let state = self.state();
        let (mut sent, mut written) = (0, 0);
        for (index, part) in state.parts.iter().enumerate() {
            let whole = state.layout.range(index, u64::MAX);
            let len = part.written.min(whole.end - whole.start);
            written += len;
            sent += if part.sent.is_some() { len } else { 0 };
        }
        match state.parts.len() {
            0 | 1 => 1.0,
            _ => sent as f64 / written.max(1) as f64,
        }
    }

    /// Records that a range has changed, because the length has.
    pub(super) fn changed(&self, range: Range<u64>) {
        let mut state = self.state();
        let first = state.layout.index(range.start);
        // A part that was never written has nothing that was sent.
        for part in state.parts.iter_mut().skip(first) {
            part.changes += 1;
        }
    }

    /// Starts threads for the parts in the queue.
    fn add_threads(self: &Arc<Self>, state: &mut State<S::Receipt>) {
        self.changed.notify_all();
        while state.threads.len() < IN_FLIGHT.min(state.active + state.queue.len()) {
            let upload = Arc::clone(self);
            let builder = std::thread::Builder::new().name("upload".into()).stack_size(STACK);
            match builder.spawn(move || upload.run()) {
                Ok(thread) => state.threads.push(thread),
                Err(_) if !state.threads.is_empty() => return,
                Err(e) => {
                    state.fail(&e);
                    return;
                }
            }
        }
    }

    /// Uploads parts until the upload stops.
    fn run(&self) {
        let mut state = self.state();
        loop {
            if self.stops.load(Ordering::Relaxed) || state.failed.is_some() {
                return;
            }
            let Some(index) = state.queue.pop_front() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.active += 1;
            let layout = state.layout;
            let part = state.part(index);
            let changes = part.changes;
            (part.queued, part.sending) = (false, Some(changes));
            drop(state);
            // A panic must not leave others waiting for this part.
            let sent = catch_unwind(AssertUnwindSafe(|| self.send(index, layout, changes)));
            let sent = sent.unwrap_or_else(|_| Err(io::Error::other("a part was not uploaded")));
            state = self.state();
            state.active -= 1;
            state.part(index).sending = None;
            match sent {
                Ok(sent) => state.part(index).sent = Some(sent),
                // The store noticed that the part changed while it was sent.
                Err(_) if state.part(index).changes != changes => {}
                Err(e) => state.fail(&e),
            }
            self.changed.notify_all();
        }
    }

    /// Uploads a part.
    fn send(&self, index: usize, layout: Layout, changes: u64) -> io::Result<Sent<S::Receipt>> {
        let range = layout.range(index, self.len()?);
        self.store.begin(self)?;
        let time = Duration::from_secs((range.end - range.start) / SLOWEST);
        self.repeat_within(time, || {
            let receipt = self.store.put_part(self, index, &range)?;
            Ok(Sent { changes, range: range.clone(), receipt })
        })
    }

    /// Returns a reader of a range of the temporary file. It fails when the upload stops.
    pub(crate) fn reader(&self, range: &Range<u64>) -> Box<dyn Read + '_> {
        Box::new(PartReader {
            file: &self.file,
            stops: &self.stops,
            at: range.start,
            end: range.end,
        })
    }

    /// Repeats what fails temporarily, unless the upload stops.
    pub(crate) fn repeat<T>(&self, attempt: impl FnMut() -> Attempt<T>) -> io::Result<T> {
        self.repeat_within(Duration::ZERO, attempt)
    }

    /// As [`repeat`](Self::repeat), even if the upload is over.
    pub(crate) fn repeat_lookup<T>(
        &self,
        mut attempt: impl FnMut() -> Attempt<T>,
    ) -> io::Result<T> {
        let found = self.retry.repeat(|| attempt().map_err(SourceError::from));
        found.map_err(into_io)
    }

    /// As [`repeat`](Self::repeat), once the upload has stopped, for requests that remove what is not
    /// needed. Nobody is left who could be told of errors, and the user may be waiting for the end of
    /// the program.
    pub(crate) fn repeat_removal(&self, mut attempt: impl FnMut() -> Attempt<()>) {
        let mut retry = self.retry.clone();
        retry.attempts = retry.attempts.min(REMOVAL_ATTEMPTS);
        let _ = retry.repeat(|| {
            attempt().map_err(|failure| match failure {
                Failure::Temporary(error, _) => SourceError::Transient(error),
                Failure::Final(error) => SourceError::Storage(error),
            })
        });
    }

    /// Waits, and fails as soon as the upload stops.
    fn pause(&self, time: Duration) -> io::Result<()> {
        let state = self.state();
        let goes_on = |_: &mut State<S::Receipt>| !self.stops.load(Ordering::Relaxed);
        drop(self.changed.wait_timeout_while(state, time, goes_on));
        self.require_not_stopped()
    }

    pub(crate) fn require_not_stopped(&self) -> io::Result<()> {
        match self.stops.load(Ordering::Relaxed) {
            true => Err(stopped()),
            false => Ok(()),
        }
    }

    /// As [`repeat`](Self::repeat), for requests that may take `time` more.
    fn repeat_within<T>(
        &self,
        time: Duration,
        mut attempt: impl FnMut() -> Attempt<T>,
    ) -> io::Result<T> {
        let mut retry = self.retry.clone();
        retry.deadline = retry.deadline.saturating_add(time);
        // What the policy would wait ends when the upload stops.
        let (shortest, longest) = (retry.first_delay, retry.max_delay.max(retry.first_delay));
        (retry.first_delay, retry.max_delay) = (Duration::ZERO, Duration::ZERO);
        let mut delay = shortest;
        let mut number = 0;
        let attempt = || {
            self.require_not_stopped()?;
            number += 1;
            match attempt() {
                Err(Failure::Temporary(error, wait)) => {
                    if number < retry.attempts {
                        delay = random(shortest..delay.saturating_mul(3).clamp(shortest, longest));
                        let wait = wait.unwrap_or_default().min(MAX_WAIT);
                        self.pause(wait.saturating_add(delay))?;
                    }
                    Err(SourceError::Transient(error))
                }
                Err(Failure::Final(error)) => Err(SourceError::Storage(error)),
                Ok(done) => Ok(done),
            }
        };
        retry.repeat(attempt).map_err(into_io)
    }

    /// Uploads what is missing of an object that is longer than a part, and waits for it.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::Interrupted`] if `stopped` returns true meanwhile, and the error of
    /// the first part that fails.
    pub(super) fn finish_parts(
        self: &Arc<Self>,
        stopped: &mut dyn FnMut() -> bool,
    ) -> io::Result<()> {
        let len = self.len()?;
        let mut state = self.state();
        state.require_running()?;
        if state.active == 0 && len <= state.layout.part() && !self.store.has_begun() {
            return Ok(());
        }
        let layout = state.layout;
        let count = layout.count(len).ok_or_else(too_many_parts)?;
        loop {
            state.require_running()?;
            let mut is_complete = state.active == 0;
            for index in 0..count {
                let range = layout.range(index, len);
                let part = state.part(index);
                if part.is_sent(&range) {
                    continue;
                }
                is_complete = false;
                // One that is being sent is queued again if that is not the last change.
                if !part.queued && part.sending != Some(part.changes) {
                    part.queued = true;
                    state.queue.push_back(index);
                }
            }
            if is_complete {
                return Ok(());
            }
            self.add_threads(&mut state);
            while state.failed.is_none() && (state.active > 0 || !state.queue.is_empty()) {
                let waited = self.changed.wait_timeout(state, POLL);
                drop(waited.unwrap_or_else(PoisonError::into_inner));
                if stopped() {
                    self.stops.store(true, Ordering::Relaxed);
                    self.changed.notify_all();
                    return self.require_not_stopped();
                }
                state = self.state();
            }
        }
    }

    /// Makes the object visible.
    pub(super) fn publish(self: &Arc<Self>) -> io::Result<()> {
        self.finish_parts(&mut || false)?;
        match self.store.has_begun() {
            true => self.store.complete(self, &self.sent()?),
            false => self.store.put(self),
        }
    }

    /// Ends the upload, and removes its parts unless it was completed.
    pub(super) fn stop(&self) {
        self.join();
        self.store.abort(self);
    }

    /// Returns the receipts of the parts of the finished object.
    fn sent(&self) -> io::Result<Vec<S::Receipt>> {
        let len = self.len()?;
        let state = self.state();
        let count = state.layout.count(len).unwrap_or(0);
        let parts = state
            .parts
            .iter()
            .take(count)
            .filter_map(|part| Some(part.sent.as_ref()?.receipt.clone()));
        let parts: Vec<_> = parts.collect();
        match parts.len() == count {
            true => Ok(parts),
            false => Err(io::Error::other("a part of the object was not uploaded")),
        }
    }

    /// Ends the threads, except those that wait for an answer too long.
    pub(crate) fn join(&self) {
        self.stops.store(true, Ordering::Relaxed);
        let mut state = self.state();
        state.queue.clear();
        let threads = std::mem::take(&mut state.threads);
        self.changed.notify_all();
        let is_busy = |state: &mut State<S::Receipt>| state.active > 0;
        let waited = self.changed.wait_timeout_while(state, LAST_REQUESTS, is_busy);
        let is_busy = waited.unwrap_or_else(PoisonError::into_inner).0.active > 0;
        // A thread that waits for an answer ends by itself.
        for thread in threads.into_iter().filter(|thread| !is_busy || thread.is_finished()) {
            let _ = thread.join();
        }
    }
}

impl<R: Clone> State<R> {
    fn require_running(&self) -> io::Result<()> {
        match &self.failed {
            Some((kind, message)) => Err(io::Error::new(*kind, message.clone())),
            None => Ok(()),
        }
    }

    fn fail(&mut self, error: &io::Error) {
        self.failed.get_or_insert_with(|| (error.kind(), error.to_string()));
    }

    fn part(&mut self, index: usize) -> &mut Part<R> {
        if self.parts.len() <= index {
            self.parts.resize(index + 1, Part::default());
        }
        &mut self.parts[index]
    }

    /// Queues a part that will probably not change any more. Headers are in the first one, so that
    /// it does.
    fn queue_early(&mut self, index: usize) {
        let part = self.part(index);
        if index > 0 && !part.was_early && !part.queued {
            (part.was_early, part.queued) = (true, true);
            self.queue.push_back(index);
        }
    }
}

impl<R> Part<R> {
    /// Returns true if the store has the part as it is.
    fn is_sent(&self, range: &Range<u64>) -> bool {
        let sent = self.sent.as_ref();
        sent.is_some_and(|sent| sent.changes == self.changes && sent.range == *range)
    }
}

/// A range of the temporary file.
struct PartReader<'u> {
    file: &'u File,
    stops: &'u AtomicBool,
    at: u64,
    end: u64,
}

impl Read for PartReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.stops.load(Ordering::Relaxed) {
            return Err(stopped());
        }
        let len = (self.end - self.at).min(buf.len() as u64) as usize;
        let n = read_at(self.file, &mut buf[..len], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

#[cfg(unix)]
fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buf, offset)
}

#[cfg(windows)]
fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buf, offset)
}

fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::Interrupted, "the upload was stopped")
}

/// Returns a random duration of the range.
fn random(range: Range<Duration>) -> Duration {
    // Each `RandomState` has other keys.
    let fraction = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
    range.start + (range.end - range.start).mul_f64(fraction)
}

fn into_io(error: SourceError) -> io::Error {
    match error {
        SourceError::Storage(error) | SourceError::Transient(error) => error,
        other => io::Error::other(other),
    }
}

fn too_many_parts() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "the object has too many parts")
}
