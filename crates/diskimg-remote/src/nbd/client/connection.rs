//! A connection with several requests in flight.
//!
//! Any number of threads send requests, each all of its own at once, and wait for the replies. One
//! of the waiting threads reads. It reads its own replies to their places. When the header of another
//! thread's reply arrives, that thread continues to read, if it is waiting. If it is still sending, it
//! may be blocked until the server can send more, so the reply is kept for it.
//!
//! A thread that has not received all of its replies sends nothing more. So there is always one that
//! reads while others are blocked because the server does not accept more before it has sent replies.

use super::call::Call;
use super::export::Export;
use super::replies::absorb;
use super::stream::{Socket, is_tick, read_full, timed_out};
use super::transport::{ReadHalf, WriteHalf};
use super::{Timeouts, lost};
use crate::nbd::wire::{CommandFlags, Reply, Request, command, malformed};
use diskimg::storage::source::SourceError;
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A connection to an export.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) export: Export,
    timeouts: Timeouts,
    /// To end waiting.
    socket: Socket,
    sender: Mutex<WriteHalf>,
    next_cookie: AtomicU64,
    inbox: Mutex<Inbox>,
    is_broken: AtomicBool,
}

/// What arrives.
#[derive(Debug)]
struct Inbox {
    /// Taken by the thread that reads.
    reader: Option<Box<BufReader<ReadHalf>>>,
    /// The header of a reply, which was read by a thread whose reply it is not.
    header: Option<Reply>,
    /// By cookie.
    waiting: HashMap<u64, Waiting>,
    /// When a reply or much of one arrived last, or a request was sent.
    progress: Instant,
    /// Why the connection cannot be used any more.
    failure: Option<Failure>,
}

/// A reply that is waited for.
#[derive(Debug)]
struct Waiting {
    thread: Arc<Thread>,
    /// When the request was sent.
    since: Option<Instant>,
    patience: Duration,
    /// Length of the data after a simple reply without an error.
    data: usize,
    /// Bytes that can be kept for the thread.
    room: usize,
    /// Replies that arrived while the thread was sending, with their payloads.
    kept: Vec<(Reply, Vec<u8>)>,
}

/// A thread with requests.
#[derive(Debug, Default)]
struct Thread {
    turn: Condvar,
    /// It waits for `turn`. Changed with the inbox locked.
    is_asleep: AtomicBool,
}

impl Thread {
    fn is_asleep(&self) -> bool {
        self.is_asleep.load(Ordering::Relaxed)
    }
}

/// What a thread has to do for its replies.
enum Turn {
    /// Read them.
    Read(Box<BufReader<ReadHalf>>, Option<Reply>),
    /// Use one that was kept.
    Kept(Reply, Vec<u8>),
}

/// An error that all threads return.
#[derive(Debug, Clone)]
struct Failure {
    transient: bool,
    kind: io::ErrorKind,
    text: String,
}

impl Failure {
    fn new(error: &SourceError) -> Self {
        let kind = match error {
            SourceError::Storage(e) | SourceError::Damaged(e) | SourceError::Transient(e) => {
                e.kind()
            }
            _ => io::ErrorKind::Other,
        };
        Self { transient: error.is_transient(), kind, text: error.to_string() }
    }

    fn error(&self) -> SourceError {
        let error = io::Error::new(self.kind, self.text.clone());
        match self.transient {
            true => SourceError::Transient(error),
            false => SourceError::Storage(error),
        }
    }
}

/// Bytes of messages about one request, beyond its data.
const OVERHEAD: usize = 64 << 10;

/// Received bytes that count as progress, even if no reply is complete.
const PROGRESS: u32 = 64 << 10;

impl Connection {
    /// Takes a connection after its handshake.
    pub(super) fn new(
        mut reader: ReadHalf,
        mut writer: WriteHalf,
        export: Export,
        timeouts: Timeouts,
    ) -> io::Result<Self> {
        reader.socket().set_deadline(None);
        writer.socket().set_deadline(None);
        let socket = reader.socket().try_clone()?;
        let reader = BufReader::new(reader);
        Ok(Self {
            export,
            timeouts,
            socket,
            sender: Mutex::new(writer),
            next_cookie: AtomicU64::new(1),
            inbox: Mutex::new(Inbox {
                reader: Some(Box::new(reader)),
                header: None,
                waiting: HashMap::new(),
                progress: Instant::now(),
                failure: None,
            }),
            is_broken: AtomicBool::new(false),
        })
    }

    /// Returns true if requests fail.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Acquire)
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the requests that are not done, and waits for all of their replies. Errors that the
    /// server reports are in the calls.
    ///
    /// # Errors
    /// Returns the error of the connection. Calls whose replies arrived before are done.
    pub(super) fn run(&self, calls: &mut [Call<'_>]) -> Result<(), SourceError> {
        let first = self.next_cookie.fetch_add(calls.len() as u64, Ordering::Relaxed);
        let cookies = first..first + calls.len() as u64;
        let mut waits = Waits { connection: self, thread: Arc::default(), cookies };
        waits.register(calls)?;
        if let Err(error) = self.send(first, calls) {
            return Err(self.fail(lost(error)));
        }
        waits.note_sent();
        let outcome = waits.receive(calls);
        outcome.map_err(|error| self.fail(error))
    }

    fn send(&self, first: u64, calls: &[Call<'_>]) -> io::Result<()> {
        let mut headers = Vec::with_capacity(calls.len() * Request::LEN);
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        for (call, cookie) in calls.iter().zip(first..).filter(|(call, _)| !call.done) {
            let (request, data) = call.request(cookie);
            headers.extend(request.encode());
            if !data.is_empty() {
                sender.write_both(&headers, data)?;
                headers.clear();
                // Over a slow network, replies to others are not late as long as data are accepted.
                self.inbox().progress = Instant::now();
            }
        }
        sender.write_all(&headers)
    }

    /// Ends the connection for all threads.
    pub(super) fn give_up(&self) {
        let error = io::Error::new(io::ErrorKind::ConnectionAborted, "the server is shutting down");
        self.fail(SourceError::Transient(error));
    }

    /// Ends the connection for all threads. Returns the error that ended it first.
    fn fail(&self, error: SourceError) -> SourceError {
        self.is_broken.store(true, Ordering::Release);
        let mut inbox = self.inbox();
        let failure = inbox.failure.get_or_insert_with(|| Failure::new(&error)).clone();
        for waiting in inbox.waiting.values() {
            waiting.thread.turn.notify_all();
        }
        drop(inbox);
        self.socket.shut_down();
        failure.error()
    }
}

/// Says goodbye, so that the server knows that nothing was lost.
impl Drop for Connection {
    fn drop(&mut self) {
        if !self.is_broken() {
            let (flags, command) = (CommandFlags::empty(), command::DISC);
            let request = Request { flags, command, cookie: 0, offset: 0, len: 0 };
            let sender = self.sender.get_mut().unwrap_or_else(PoisonError::into_inner);
            sender.socket().set_deadline(Some(Instant::now() + Duration::from_secs(1)));
            // Without a reply.
            let _ = sender.write_all(&request.encode());
        }
    }
}

/// The replies that a thread waits for, until it is dropped.
struct Waits<'a> {
    connection: &'a Connection,
    thread: Arc<Thread>,
    cookies: Range<u64>,
}

impl Waits<'_> {
    /// Notes that this thread waits for the replies to `calls`.
    fn register(&mut self, calls: &[Call<'_>]) -> Result<(), SourceError> {
        let mut inbox = self.connection.inbox();
        if let Some(failure) = &inbox.failure {
            return Err(failure.error());
        }
        let Timeouts { stall, flush, .. } = self.connection.timeouts;
        let thread = Arc::new(Thread::default());
        for (call, cookie) in calls.iter().zip(self.cookies.clone()).filter(|(c, _)| !c.done) {
            let data = call.expected_len();
            let waiting = Waiting {
                thread: Arc::clone(&thread),
                since: None,
                patience: if call.is_slow() { flush.max(stall) } else { stall },
                data,
                // Each chunk has an offset.
                room: data + data / 16 + OVERHEAD,
                kept: Vec::new(),
            };
            inbox.waiting.insert(cookie, waiting);
        }
        self.thread = thread;
        Ok(())
    }

    /// Notes that all requests are sent.
    fn note_sent(&self) {
        let mut inbox = self.connection.inbox();
        for cookie in self.cookies.clone() {
            if let Some(waiting) = inbox.waiting.get_mut(&cookie) {
                waiting.since = Some(Instant::now());
            }
        }
    }

    /// Waits for all replies.
    fn receive(&self, calls: &mut [Call<'_>]) -> Result<(), SourceError> {
        let mut left = calls.iter().filter(|call| !call.done).count();
        while left > 0 {
            match self.wait_for_turn()? {
                Turn::Kept(reply, payload) => {
                    let mut payload = &*payload;
                    self.absorb(calls, reply, &mut payload, &mut left)?;
                    if !payload.is_empty() {
                        return Err(lost(malformed("a payload is longer than its contents")));
                    }
                }
                Turn::Read(mut reader, header) => {
                    let header = self.read(&mut reader, header, calls, &mut left)?;
                    let mut inbox = self.connection.inbox();
                    inbox.header = header;
                    inbox.reader = Some(reader);
                    inbox.wake_next();
                }
            }
        }
        Ok(())
    }

    /// Waits until it is up to this thread to read, or a reply was kept for it.
    fn wait_for_turn(&self) -> Result<Turn, SourceError> {
        let mut inbox = self.connection.inbox();
        loop {
            if let Some(failure) = &inbox.failure {
                return Err(failure.error());
            }
            for cookie in self.cookies.clone() {
                let kept = inbox.waiting.get_mut(&cookie).map(|waiting| &mut waiting.kept);
                if let Some(kept) = kept.filter(|kept| !kept.is_empty()) {
                    let (reply, payload) = kept.remove(0);
                    return Ok(Turn::Kept(reply, payload));
                }
            }
            let is_own = inbox.header.is_none_or(|header| self.cookies.contains(&cookie(header)));
            if let Some(reader) = inbox.reader.take_if(|_| is_own) {
                return Ok(Turn::Read(reader, inbox.header.take()));
            }
            self.thread.is_asleep.store(true, Ordering::Relaxed);
            inbox = self.thread.turn.wait(inbox).unwrap_or_else(PoisonError::into_inner);
            self.thread.is_asleep.store(false, Ordering::Relaxed);
        }
    }

    /// Reads replies to `calls` until there are no more, or until the header of another's reply is
    /// read, which is returned.
    fn read(
        &self,
        reader: &mut BufReader<ReadHalf>,
        mut header: Option<Reply>,
        calls: &mut [Call<'_>],
        left: &mut usize,
    ) -> Result<Option<Reply>, SourceError> {
        while *left > 0 {
            let reply = match header.take() {
                Some(reply) => reply,
                None => self.wait_for_header(reader).map_err(lost)?,
            };
            if self.cookies.contains(&cookie(reply)) {
                self.absorb(calls, reply, reader, left)?;
            } else if !self.keep(reply, reader).map_err(lost)? {
                return Ok(Some(reply));
            }
        }
        Ok(None)
    }

    /// Reads what follows the header of a reply to one of `calls`.
    fn absorb(
        &self,
        calls: &mut [Call<'_>],
        reply: Reply,
        reader: &mut impl Read,
        left: &mut usize,
    ) -> Result<(), SourceError> {
        let Connection { export, timeouts, .. } = self.connection;
        let cookie = cookie(reply);
        let call = &mut calls[(cookie - self.cookies.start) as usize];
        if call.done {
            return Err(lost(malformed("a second reply to a request")));
        }
        let outcome = absorb(call, reply, export.structured, reader, timeouts.stall);
        call.done = outcome.map_err(lost)?;
        let mut inbox = self.connection.inbox();
        if call.done {
            inbox.waiting.remove(&cookie);
            *left -= 1;
        } else if !matches!(reply, Reply::Chunk(chunk) if chunk.len >= PROGRESS) {
            // Many small chunks are as slow as none.
            return inbox.check_patience().map_err(lost);
        }
        inbox.progress = Instant::now();
        Ok(())
    }

    /// Keeps another thread's reply for it, unless it waits to read it. Returns false then.
    fn keep(&self, reply: Reply, reader: &mut impl Read) -> io::Result<bool> {
        let mut inbox = self.connection.inbox();
        let unknown = || malformed("a reply to a request that was not sent");
        let waiting = inbox.waiting.get_mut(&cookie(reply)).ok_or_else(unknown)?;
        if waiting.thread.is_asleep() {
            return Ok(false);
        }
        let len = match reply {
            Reply::Simple(reply) if reply.error == 0 && !self.connection.export.structured => {
                waiting.data
            }
            Reply::Simple(_) => 0,
            Reply::Chunk(chunk) => chunk.len as usize,
        };
        let room = waiting.room.checked_sub(len.max(1));
        waiting.room = room.ok_or_else(|| malformed("a reply is too long"))?;
        drop(inbox);
        let mut payload = vec![0; len];
        read_full(reader, &mut payload, self.connection.timeouts.stall)?;
        let mut inbox = self.connection.inbox();
        if let Some(waiting) = inbox.waiting.get_mut(&cookie(reply)) {
            waiting.kept.push((reply, payload));
            // It may have fallen asleep meanwhile.
            waiting.thread.turn.notify_all();
        }
        Ok(true)
    }

    /// Waits for the header of a reply, as long as any thread is patient.
    fn wait_for_header(&self, reader: &mut BufReader<ReadHalf>) -> io::Result<Reply> {
        loop {
            match reader.fill_buf() {
                Ok([]) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => break,
                Err(e) if is_tick(&e) => self.connection.inbox().check_patience()?,
                Err(e) => return Err(e),
            }
        }
        Reply::read(&mut Steady { reader, stall: self.connection.timeouts.stall })
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let mut inbox = self.connection.inbox();
        for cookie in self.cookies.clone() {
            inbox.waiting.remove(&cookie);
        }
    }
}

impl Inbox {
    /// Wakes the thread that is to read next, if one waits.
    fn wake_next(&self) {
        let next = match self.header {
            Some(header) => self.waiting.get(&cookie(header)),
            None => self.waiting.values().find(|waiting| waiting.thread.is_asleep()),
        };
        if let Some(next) = next {
            next.thread.turn.notify_all();
        }
    }

    /// # Errors
    /// Returns an error if a reply has been waited for too long.
    fn check_patience(&self) -> io::Result<()> {
        let is_late = |waiting: &Waiting| {
            let since = waiting.since.map(|since| since.max(self.progress));
            since.is_some_and(|since| since.elapsed() > waiting.patience)
        };
        match self.waiting.values().any(is_late) {
            true => Err(timed_out()),
            false => Ok(()),
        }
    }
}

fn cookie(reply: Reply) -> u64 {
    match reply {
        Reply::Simple(reply) => reply.cookie,
        Reply::Chunk(chunk) => chunk.cookie,
    }
}

/// Reads through ticks.
struct Steady<'a, R> {
    reader: &'a mut R,
    stall: Duration,
}

impl<R: Read> Read for Steady<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let started = Instant::now();
        loop {
            match self.reader.read(buf) {
                Err(e) if is_tick(&e) && started.elapsed() <= self.stall => {}
                Err(e) if is_tick(&e) => return Err(timed_out()),
                outcome => return outcome,
            }
        }
    }
}
