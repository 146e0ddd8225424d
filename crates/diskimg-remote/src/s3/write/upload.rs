//! The parts of an object on their way to the store.

use super::digest::{Checksum, Digests, md5_of_etag};
use super::layout::Layout;
use super::resume::Resume;
use crate::http::answer::Unexpected;
use crate::http::transport::{Attempt, Failure, MAX_WAIT, wrong};
use crate::s3::object::{Call, Object, Payload, text};
use crate::s3::xml::Reply;
use diskimg::storage::source::{RetryPolicy, SourceError};
use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use ureq::http::{HeaderMap, HeaderName, Method, header};

/// Number of parts that are uploaded at a time.
const IN_FLIGHT: usize = 4;

/// Parts that are this many parts behind the last byte that was written are uploaded even if not all
/// of their bytes were written: the rest are zeros.
const LAG: usize = 40;

/// How long a store may take to confirm a part.
const CONFIRMATION: Duration = Duration::from_secs(120);

/// Bytes per second with which a part is uploaded at least, if attempts are repeated.
const SLOWEST: u64 = 1 << 20;

/// How often a caller that waits for the parts is asked whether the upload stops.
const POLL: Duration = Duration::from_millis(100);

/// How long requests may take to end when the upload stops. What they send later is refused, because
/// the upload is aborted then.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

/// Size in bytes of the stack of a thread that uploads.
const STACK: usize = 1 << 20;

/// An upload that is not completed.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) object: Object,
    pub(super) retry: RetryPolicy,
    pub(super) create_only: bool,
    pub(super) checksum: Checksum,
    /// What a later run needs.
    pub(super) resume: Option<Resume>,
    file: File,
    state: Mutex<State>,
    /// Notified when a part is queued or done, and when the upload stops.
    changed: Condvar,
    /// The identifier of a multipart upload, once there is one. Locked while it is created.
    id: Mutex<Option<String>>,
    stops: AtomicBool,
}

#[derive(Debug)]
struct State {
    layout: Layout,
    parts: Vec<Part>,
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
#[derive(Debug, Clone, Default)]
struct Part {
    /// Sum of the lengths of what was written.
    written: u64,
    /// Number of changes.
    changes: u64,
    queued: bool,
    /// The changes that are being sent.
    sending: Option<u64>,
    /// It was queued before all was written, which is done once.
    was_early: bool,
    sent: Option<Sent>,
}

/// What the store has of a part.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    /// The changes that it includes.
    changes: u64,
    range: Range<u64>,
    pub(super) etag: String,
    pub(super) digests: Digests,
}

impl Upload {
    pub(super) fn new(
        object: Object,
        retry: RetryPolicy,
        create_only: bool,
        resume: Option<Resume>,
        file: File,
    ) -> Self {
        let checksum = if object.is_amazon() { Checksum::Crc32c } else { Checksum::Md5 };
        let state = State {
            layout: Layout::new(0),
            parts: Vec::new(),
            queue: VecDeque::new(),
            active: 0,
            frontier: 0,
            passed: 1,
            failed: None,
            threads: Vec::new(),
        };
        Self {
            object,
            retry,
            create_only,
            checksum,
            resume,
            file,
            state: Mutex::new(state),
            changed: Condvar::new(),
            id: Mutex::default(),
            stops: AtomicBool::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the sizes of the parts. Must be called before anything is written.
    pub(super) fn set_layout(&self, layout: Layout) {
        self.state().layout = layout;
    }

    /// Returns the temporary file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Returns the length of the object.
    pub(super) fn len(&self) -> io::Result<u64> {
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
    fn add_threads(self: &Arc<Self>, state: &mut State) {
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
            let sent = self.send(index, layout, changes);
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
    fn send(&self, index: usize, layout: Layout, changes: u64) -> io::Result<Sent> {
        let range = layout.range(index, self.len()?);
        let id = self.id()?;
        let len = range.end - range.start;
        let part = index as u32 + 1;
        let number = part.to_string();
        let time = Duration::from_secs(len / SLOWEST);
        self.repeat_within(time, || {
            let digests = self.digests(&range)?;
            let kept = self.resume.as_ref().and_then(|state| state.kept(part, len, &digests));
            if let Some(etag) = kept {
                return Ok(Sent { changes, range: range.clone(), etag, digests });
            }
            let headers = self.checksum_headers(&digests);
            let headers: Vec<_> = headers.iter().map(|(name, v)| (name.clone(), &**v)).collect();
            let response = self.object.attempt(&Call {
                query: &[("partNumber", &number), ("uploadId", &id)],
                headers: &headers,
                body: self.payload(&range, &digests, &|| self.reader(&range)),
                time: Some(CONFIRMATION),
                ..Call::new(Method::PUT)
            })?;
            let etag = response.headers().get("etag").and_then(|etag| etag.to_str().ok());
            let etag =
                etag.ok_or_else(|| unexpected("the server confirmed a part without ETag"))?;
            let etag = etag.to_owned();
            self.require_kept(response.headers(), &digests)?;
            drop(text(response, self.object.transport.stall_timeout));
            if let Some(state) = &self.resume {
                state.sent(part, len, &digests, &etag).map_err(Failure::Final)?;
            }
            Ok(Sent { changes, range: range.clone(), etag, digests })
        })
    }

    /// Verifies what the store says that it kept of a body: the hash of it, which is the `ETag` unless
    /// the store encrypts with keys of others. Returns true if it could be verified.
    pub(super) fn require_kept(&self, headers: &HeaderMap, digests: &Digests) -> Attempt<bool> {
        const MESSAGE: &str =
            "the store has not kept what was sent: its ETag is that of other bytes";
        let etag = headers.get(header::ETAG).and_then(|etag| etag.to_str().ok());
        match etag.and_then(md5_of_etag).filter(|_| self.checksum == Checksum::Md5) {
            Some(hash) if hash == digests.checksum => Ok(true),
            Some(_) if !has_other_etags(headers) => Err(unexpected(MESSAGE)),
            _ => Ok(false),
        }
    }

    /// Returns the identifier of the multipart upload, which is created if there is none.
    fn id(&self) -> io::Result<String> {
        let mut id = self.id.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = &*id {
            return Ok(id.clone());
        }
        if let Some(kept) = self.resumed()? {
            return Ok(id.insert(kept).clone());
        }
        let algorithm = HeaderName::from_static("x-amz-checksum-algorithm");
        let headers = [(algorithm, "CRC32C")];
        let new = self.repeat(|| {
            let response = self.object.attempt(&Call {
                query: &[("uploads", "")],
                headers: if self.checksum == Checksum::Crc32c { &headers } else { &[] },
                ..Call::new(Method::POST)
            })?;
            let text = text(response, self.object.transport.stall_timeout)?;
            let id = Reply::parse(&text).and_then(|r| r.find("UploadId").map(str::to_owned));
            id.ok_or_else(|| unexpected("the server began an upload without an identifier"))
        })?;
        if let Some(state) = &self.resume {
            state.begin(&new)?;
        }
        Ok(id.insert(new).clone())
    }

    /// Returns the identifier of the multipart upload if there is one.
    pub(super) fn known_id(&self) -> Option<String> {
        self.id.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn digests(&self, range: &Range<u64>) -> Attempt<Digests> {
        let signs = self.object.credentials.is_some() && !self.object.is_encrypted();
        let signs = signs || self.resume.is_some();
        Digests::of(self.reader(range), self.checksum, signs).map_err(Failure::Final)
    }

    /// Returns the headers by which the store verifies a body.
    pub(super) fn checksum_headers(&self, digests: &Digests) -> Vec<(HeaderName, String)> {
        let name = match self.checksum {
            Checksum::Crc32c => "x-amz-checksum-crc32c",
            Checksum::Md5 => "content-md5",
        };
        vec![(HeaderName::from_static(name), digests.base64())]
    }

    pub(super) fn payload<'a>(
        &self,
        range: &Range<u64>,
        digests: &'a Digests,
        open: &'a dyn Fn() -> Box<dyn Read + 'a>,
    ) -> Payload<'a> {
        let len = range.end - range.start;
        Payload::Stream { len, open, sha256: digests.sha256.as_deref() }
    }

    /// Returns a reader of a range of the temporary file. It fails when the upload stops.
    pub(super) fn reader(&self, range: &Range<u64>) -> Box<dyn Read + '_> {
        Box::new(PartReader { upload: self, at: range.start, end: range.end })
    }

    /// Repeats what fails temporarily, unless the upload stops.
    pub(super) fn repeat<T>(&self, attempt: impl FnMut() -> Attempt<T>) -> io::Result<T> {
        self.repeat_within(Duration::ZERO, attempt)
    }

    /// Waits, and fails as soon as the upload stops.
    fn pause(&self, time: Duration) -> io::Result<()> {
        let state = self.state();
        let goes_on = |_: &mut State| !self.stops.load(Ordering::Relaxed);
        drop(self.changed.wait_timeout_while(state, time, goes_on));
        self.require_not_stopped()
    }

    fn require_not_stopped(&self) -> io::Result<()> {
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
        // The identifier is locked while it is created.
        if state.active == 0 && len <= state.layout.part() && self.known_id().is_none() {
            return Ok(());
        }
        let layout = state.layout;
        let count = layout.count(len).ok_or_else(|| {
            io::Error::new(io::ErrorKind::FileTooLarge, "the object has too many parts")
        })?;
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

    /// Returns the parts of the finished object.
    pub(super) fn sent(&self) -> io::Result<Vec<Sent>> {
        let len = self.len()?;
        let state = self.state();
        let count = state.layout.count(len).unwrap_or(0);
        let parts = state.parts.iter().take(count).filter_map(|part| part.sent.clone());
        let parts: Vec<_> = parts.collect();
        match parts.len() == count {
            true => Ok(parts),
            false => Err(io::Error::other("a part of the object was not uploaded")),
        }
    }

    /// Ends the threads, except those that wait for an answer too long.
    pub(super) fn join(&self) {
        self.stops.store(true, Ordering::Relaxed);
        let mut state = self.state();
        state.queue.clear();
        let threads = std::mem::take(&mut state.threads);
        self.changed.notify_all();
        let is_busy = |state: &mut State| state.active > 0;
        let waited = self.changed.wait_timeout_while(state, LAST_REQUESTS, is_busy);
        let is_busy = waited.unwrap_or_else(PoisonError::into_inner).0.active > 0;
        // A thread that waits for an answer ends by itself.
        for thread in threads.into_iter().filter(|thread| !is_busy || thread.is_finished()) {
            let _ = thread.join();
        }
    }

    /// Forgets the multipart upload, which was completed or aborted.
    pub(super) fn forget(&self) {
        *self.id.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl State {
    fn require_running(&self) -> io::Result<()> {
        match &self.failed {
            Some((kind, message)) => Err(io::Error::new(*kind, message.clone())),
            None => Ok(()),
        }
    }

    fn fail(&mut self, error: &io::Error) {
        self.failed.get_or_insert_with(|| (error.kind(), error.to_string()));
    }

    fn part(&mut self, index: usize) -> &mut Part {
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

impl Part {
    /// Returns true if the store has the part as it is.
    fn is_sent(&self, range: &Range<u64>) -> bool {
        let sent = self.sent.as_ref();
        sent.is_some_and(|sent| sent.changes == self.changes && sent.range == *range)
    }
}

/// A range of the temporary file.
struct PartReader<'u> {
    upload: &'u Upload,
    at: u64,
    end: u64,
}

impl Read for PartReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.upload.stops.load(Ordering::Relaxed) {
            return Err(stopped());
        }
        let len = (self.end - self.at).min(buf.len() as u64) as usize;
        let n = read_at(&self.upload.file, &mut buf[..len], self.at)?;
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

/// Returns true for an answer about an encrypted object, whose `ETag` is not a hash of its content.
fn has_other_etags(headers: &HeaderMap) -> bool {
    let has_own_key = headers.contains_key("x-amz-server-side-encryption-customer-algorithm");
    let method = headers.get("x-amz-server-side-encryption").and_then(|v| v.to_str().ok());
    has_own_key || method.is_some_and(|method| method.starts_with("aws:kms"))
}

pub(super) fn unexpected(message: &str) -> Failure {
    wrong(Unexpected(message.into()))
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
