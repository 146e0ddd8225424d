//! The requests of a client that has chosen the export.
//!
//! Each connection has several threads. One of them receives the next request, and processes it and
//! sends the reply while another one receives. There is no queue: what is received and not answered
//! yet is bounded by the number of threads and by [`MAX_IN_FLIGHT`].

use super::export::{self, MAX_DESCRIPTORS, Part};
use super::handshake::Chosen;
use super::listener::{Peer, Receiver, send_all};
use super::{MAX_IN_FLIGHT, MAX_REQUEST, Server, lock};
use crate::nbd::wire::{
    BlockStatus, Chunk, ChunkFlags, CommandFlags as Flags, Descriptor, ErrorChunk, HoleChunk,
    Request, SimpleReply, chunk, command, error, read_array,
};
use diskimg::{Error, Fetcher, GuestWriter};
use std::io::{self, BufReader, IoSlice, Read};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::{Builder, Scope};

/// Maximum number of threads for one connection, and so of requests that are processed.
const MAX_THREADS: usize = 16;

/// Bytes that are received at a time, unless the data of a request are longer.
const RECEIVE_BUFFER: usize = 64 << 10;

/// Bytes of zeros that are written at a time, before it is asked whether the connection has ended.
const ZEROS_AT_A_TIME: u64 = 32 << 20;

/// Bytes of a buffer that a thread keeps for the next request.
const KEPT_BUFFER: usize = 1 << 20;

/// Bytes that a BLOCK_STATUS holds at most, for one context at a time: the descriptors, whose list
/// doubles when it grows, the payload, and entries of the map.
const STATUS_BYTES: usize = 4 * MAX_DESCRIPTORS * size_of::<Descriptor>();

/// The error number of a request that fails, and whether it is an error of the image.
type Outcome<T> = Result<T, Failure>;

#[derive(Debug)]
enum Failure {
    /// The client's mistake.
    Request(u32),
    /// An error of the image.
    Image(Error),
    /// The connection cannot be used any more.
    Connection(io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Image(error)
    }
}

/// A request and its data.
struct Received {
    request: Request,
    /// The error number with which it fails.
    fails: Option<u32>,
    /// Bytes that are to be released when it was answered.
    reserved: usize,
}

/// A client and what it has chosen.
pub(super) struct Connection<'a> {
    server: &'a Server,
    peer: &'a dyn Peer,
    chosen: Chosen,
    input: Mutex<BufReader<Receiver<'a>>>,
    /// Held while a reply is sent.
    output: Mutex<()>,
    in_flight: InFlight,
    threads: AtomicUsize,
    /// Threads that receive, or wait to receive, the next request.
    receiving: AtomicUsize,
    /// The client has disconnected, or no more requests can be received.
    ended: AtomicBool,
    /// Why the connection has failed.
    failure: Mutex<Option<io::Error>>,
}

impl<'a> Connection<'a> {
    pub(super) fn new(server: &'a Server, peer: &'a dyn Peer, chosen: Chosen) -> Self {
        Self {
            server,
            peer,
            chosen,
            input: Mutex::new(BufReader::with_capacity(RECEIVE_BUFFER, Receiver(peer))),
            output: Mutex::default(),
            in_flight: InFlight::default(),
            threads: AtomicUsize::new(1),
            receiving: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            failure: Mutex::default(),
        }
    }

    /// Serves the client until it disconnects.
    ///
    /// # Errors
    /// The error of receiving or sending, and `InvalidData` if the client violates the protocol.
    pub(super) fn run(self) -> io::Result<()> {
        std::thread::scope(|scope| self.work(scope));
        match lock(&self.failure).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Receives and processes requests.
    fn work<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        let mut buf = Vec::new();
        let mut fetcher = Fetcher::default();
        loop {
            let received = match self.receive(&mut buf) {
                Ok(Some(received)) => received,
                Ok(None) => return,
                Err(error) => return self.fail(error),
            };
            self.add_thread(scope);
            let answered = self.answer(&received, &mut buf, &mut fetcher);
            self.in_flight.release(received.reserved);
            if let Err(error) = answered {
                return self.fail(error);
            }
            if buf.capacity() > KEPT_BUFFER {
                buf = Vec::new();
            }
        }
    }

    /// Starts another thread if none is left to receive the next request.
    fn add_thread<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        if self.receiving.load(Ordering::Relaxed) > 0 {
            return;
        }
        if self.threads.fetch_add(1, Ordering::Relaxed) >= MAX_THREADS {
            self.threads.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        // Without it, this thread receives the next request later.
        if Builder::new().spawn_scoped(scope, || self.work(scope)).is_err() {
            self.threads.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn fail(&self, error: io::Error) {
        self.ended.store(true, Ordering::Relaxed);
        lock(&self.failure).get_or_insert(error);
        self.peer.end();
    }

    /// Receives a request and its data, which are in `buf` then. Returns `None` if there are no more.
    fn receive(&self, buf: &mut Vec<u8>) -> io::Result<Option<Received>> {
        self.receiving.fetch_add(1, Ordering::Relaxed);
        let received = self.receive_next(buf);
        self.receiving.fetch_sub(1, Ordering::Relaxed);
        received
    }

    fn receive_next(&self, buf: &mut Vec<u8>) -> io::Result<Option<Received>> {
        let mut input = lock(&self.input);
        if self.ended.load(Ordering::Relaxed) || self.peer.is_stopping() {
            return Ok(None);
        }
        let header = read_array(&mut *input);
        let request = match header {
            Ok(bytes) => Request::decode(&bytes)?,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                self.ended.store(true, Ordering::Relaxed);
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        if request.command == command::DISC {
            self.ended.store(true, Ordering::Relaxed);
            return Ok(None);
        }
        let mut fails = self.check(&request);
        if request.command == command::WRITE && fails.is_some() {
            // The next request follows the data.
            let len = u64::from(request.len);
            if io::copy(&mut input.by_ref().take(len), &mut io::sink())? < len {
                return self.cut_off(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let reserved = match request.command {
            _ if fails.is_some() => 0,
            command::READ | command::WRITE => request.len as usize,
            command::BLOCK_STATUS => STATUS_BYTES,
            _ => 0,
        };
        if reserved > 0 {
            self.in_flight.reserve(reserved);
        }
        if reserved > 0 && request.command != command::BLOCK_STATUS {
            buf.truncate(reserved);
            let more = reserved - buf.len();
            if buf.try_reserve_exact(more).is_ok() {
                buf.resize(reserved, 0);
            } else if request.command == command::READ {
                fails = Some(error::ENOMEM);
            } else {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            if request.command == command::WRITE
                && let Err(error) = input.read_exact(buf)
            {
                self.in_flight.release(reserved);
                return self.cut_off(error);
            }
        }
        Ok(Some(Received { request, fails, reserved }))
    }

    /// Returns that there are no more requests, if the data of one are incomplete because the server
    /// stops: those that were received before are still answered.
    ///
    /// # Errors
    /// `error` in any other case.
    fn cut_off(&self, error: io::Error) -> io::Result<Option<Received>> {
        match error.kind() == io::ErrorKind::UnexpectedEof && self.peer.is_stopping() {
            true => {
                self.ended.store(true, Ordering::Relaxed);
                Ok(None)
            }
            false => Err(error),
        }
    }

    /// Returns the error number of a request that is invalid or not allowed.
    fn check(&self, request: &Request) -> Option<u32> {
        let export = &self.server.export;
        let (allowed, writes) = match request.command {
            command::READ if self.chosen.structured => (Flags::FUA | Flags::DF, false),
            command::READ | command::CACHE => (Flags::FUA, false),
            command::WRITE | command::TRIM => (Flags::FUA, true),
            command::WRITE_ZEROES => (Flags::FUA | Flags::NO_HOLE | Flags::FAST_ZERO, true),
            command::FLUSH => {
                return (!Flags::FUA.contains(request.flags)).then_some(error::EINVAL);
            }
            command::BLOCK_STATUS if !self.chosen.contexts.is_empty() => {
                (Flags::FUA | Flags::REQ_ONE, false)
            }
            _ => return Some(error::EINVAL),
        };
        let has_data = matches!(request.command, command::READ | command::WRITE);
        let end = request.offset.checked_add(request.len.into());
        if writes && !export.is_writable() {
            return Some(error::EPERM);
        }
        if !allowed.contains(request.flags) || request.len == 0 {
            return Some(error::EINVAL);
        }
        if has_data && request.len > MAX_REQUEST {
            return Some(error::EINVAL);
        }
        match end {
            Some(end) if end <= export.size() => None,
            _ if matches!(request.command, command::WRITE | command::WRITE_ZEROES) => {
                Some(error::ENOSPC)
            }
            _ => Some(error::EINVAL),
        }
    }

    /// Processes a request and sends the reply.
    ///
    /// # Errors
    /// The error of sending.
    fn answer(&self, received: &Received, buf: &mut [u8], fetcher: &mut Fetcher) -> io::Result<()> {
        let request = &received.request;
        let processed = match received.fails {
            Some(number) => Err(Failure::Request(number)),
            None => match request.command {
                command::READ => self.read(request, buf, fetcher),
                command::BLOCK_STATUS => self.status(request),
                command::CACHE => self.send_simple(request, 0),
                _ => self.write(request, buf).and_then(|()| self.send_simple(request, 0)),
            },
        };
        let number = match processed {
            Ok(()) => return Ok(()),
            Err(Failure::Connection(error)) => return Err(error),
            Err(Failure::Request(number)) => number,
            Err(Failure::Image(error)) => {
                (self.server.on_error)(&error);
                export::number(&error)
            }
        };
        self.send_error(request, number)
    }

    /// Processes a request that writes, or FLUSH.
    fn write(&self, request: &Request, buf: &[u8]) -> Outcome<()> {
        let export = &self.server.export;
        if request.command == command::FLUSH {
            return Ok(export.flush()?);
        }
        let disk = export.writer().map_err(Failure::Request)?;
        let range = request.offset..request.offset + u64::from(request.len);
        match request.command {
            command::WRITE => disk.write_at(buf, request.offset)?,
            command::TRIM => disk.discard(range)?,
            _ if request.flags.contains(Flags::NO_HOLE) => {
                if request.flags.contains(Flags::FAST_ZERO) {
                    return Err(Failure::Request(error::ENOTSUP));
                }
                self.fill_zeroes(disk, range)?;
            }
            _ if request.flags.contains(Flags::FAST_ZERO) && disk.unit() == 1 => {
                return Err(Failure::Request(error::ENOTSUP));
            }
            _ => disk.write_zeroes(range)?,
        }
        if request.flags.contains(Flags::FUA) {
            export.flush()?;
        }
        Ok(())
    }

    /// Writes zeros, which takes as long as the client wants: up to 4 GiB. That ends with the
    /// connection, so that a server can stop.
    fn fill_zeroes(&self, disk: &GuestWriter, range: Range<u64>) -> Outcome<()> {
        let mut at = range.start;
        while at < range.end {
            if self.peer.is_ended() {
                return Err(Failure::Connection(io::ErrorKind::ConnectionAborted.into()));
            }
            let end = range.end.min(at + ZEROS_AT_A_TIME);
            disk.fill_zeroes(at..end)?;
            at = end;
        }
        Ok(())
    }

    fn read(&self, request: &Request, buf: &mut [u8], fetcher: &mut Fetcher) -> Outcome<()> {
        let export = &self.server.export;
        if !self.chosen.structured {
            export.read(buf, request.offset)?;
            let header = SimpleReply { error: 0, cookie: request.cookie }.encode();
            return self.send(&mut [IoSlice::new(&header), IoSlice::new(buf)]);
        }
        let parts = match request.flags.contains(Flags::DF) {
            true => {
                export.read(buf, request.offset)?;
                vec![Part { range: 0..buf.len(), is_zero: false }]
            }
            false => export.read_sparsely(fetcher, buf, request.offset)?,
        };
        self.send_parts(request, buf, &parts).map_err(Failure::Connection)
    }

    /// Sends the parts of what was read, of which there is at least one.
    fn send_parts(&self, request: &Request, buf: &[u8], parts: &[Part]) -> io::Result<()> {
        let _sending = lock(&self.output);
        for (index, part) in parts.iter().enumerate() {
            let is_last = index + 1 == parts.len();
            let offset = request.offset + part.range.start as u64;
            // A part is at most as long as the request.
            let len = part.range.len() as u32;
            if part.is_zero {
                let payload = HoleChunk { offset, len }.encode();
                let header = header(request, chunk::OFFSET_HOLE, payload.len() as u32, is_last);
                let mut slices = [IoSlice::new(&header), IoSlice::new(&payload)];
                send_all(self.peer, &mut slices)?;
            } else {
                let header = header(request, chunk::OFFSET_DATA, 8 + len, is_last);
                let offset = offset.to_be_bytes();
                let mut slices = [
                    IoSlice::new(&header),
                    IoSlice::new(&offset),
                    IoSlice::new(&buf[part.range.clone()]),
                ];
                send_all(self.peer, &mut slices)?;
            }
        }
        Ok(())
    }

    fn status(&self, request: &Request) -> Outcome<()> {
        let range = request.offset..request.offset + u64::from(request.len);
        let one = request.flags.contains(Flags::REQ_ONE);
        for (index, &context) in self.chosen.contexts.iter().enumerate() {
            let descriptors = self.server.export.status(context, range.clone(), one)?;
            let payload = BlockStatus { context: context.id(), descriptors }.encode();
            let is_last = index + 1 == self.chosen.contexts.len();
            let header = header(request, chunk::BLOCK_STATUS, payload.len() as u32, is_last);
            // One at a time: chunks of several replies may be mixed.
            self.send(&mut [IoSlice::new(&header), IoSlice::new(&payload)])?;
        }
        Ok(())
    }

    fn send(&self, bytes: &mut [IoSlice<'_>]) -> Outcome<()> {
        let _sending = lock(&self.output);
        send_all(self.peer, bytes).map_err(Failure::Connection)
    }

    fn send_simple(&self, request: &Request, error: u32) -> Outcome<()> {
        let reply = SimpleReply { error, cookie: request.cookie }.encode();
        self.send(&mut [IoSlice::new(&reply)])
    }

    /// Sends an error: as a chunk if the reply to this command is structured.
    fn send_error(&self, request: &Request, error: u32) -> io::Result<()> {
        let is_structured = self.chosen.structured
            && matches!(request.command, command::READ | command::BLOCK_STATUS);
        let sent = if is_structured {
            let payload = ErrorChunk { error, message: String::new(), offset: None }.encode();
            let header = header(request, chunk::ERROR, payload.len() as u32, true);
            self.send(&mut [IoSlice::new(&header), IoSlice::new(&payload)])
        } else {
            self.send_simple(request, error)
        };
        match sent {
            Err(Failure::Connection(error)) => Err(error),
            _ => Ok(()),
        }
    }
}

fn header(request: &Request, kind: u16, len: u32, is_last: bool) -> [u8; Chunk::LEN] {
    let flags = if is_last { ChunkFlags::DONE } else { ChunkFlags::empty() };
    Chunk { flags, kind, cookie: request.cookie, len }.encode()
}

/// Bytes of the requests of a connection that are being processed.
#[derive(Debug, Default)]
struct InFlight {
    bytes: Mutex<usize>,
    released: Condvar,
}

impl InFlight {
    /// Waits until there is room for a request.
    fn reserve(&self, len: usize) {
        let mut bytes = lock(&self.bytes);
        while *bytes > 0 && *bytes + len > MAX_IN_FLIGHT {
            bytes = self.released.wait(bytes).unwrap_or_else(PoisonError::into_inner);
        }
        *bytes += len;
    }

    fn release(&self, len: usize) {
        *lock(&self.bytes) -= len;
        self.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::super::handshake::Context;
    use super::super::listener::Pipe;
    use super::*;
    use diskimg::{Create, Format, Image, OpenOptions};

    #[test]
    fn what_a_request_holds_is_counted() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("image");
        Create::new(Format::Qcow2).size(1 << 20).run(&path).expect("is created");
        let server = Server::new(Image::open(&path).expect("opens"));
        let request = |command, len| {
            Request { flags: Flags::empty(), command, cookie: 1, offset: 0, len }.encode()
        };
        let input = [request(command::READ, 5000), request(command::BLOCK_STATUS, 1 << 20)];
        let peer = Pipe::new(io::Cursor::new(input.concat()), io::sink());
        let chosen = Chosen { structured: true, contexts: vec![Context::Allocation] };
        let connection = Connection::new(&server, &peer, chosen);
        let receive = || connection.receive(&mut Vec::new()).expect("receives");
        assert_eq!(receive().expect("is a request").reserved, 5000);
        assert_eq!(receive().expect("is a request").reserved, STATUS_BYTES);
        assert!(receive().is_none());
        assert_eq!(*lock(&connection.in_flight.bytes), 5000 + STATUS_BYTES);
        const { assert!(STATUS_BYTES * MAX_THREADS <= MAX_IN_FLIGHT) };
    }

    #[test]
    fn zeros_are_not_written_after_the_connection_has_ended() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("image");
        Create::new(Format::Qcow2).size(1 << 20).run(&path).expect("is created");
        let options = OpenOptions::new().format(Format::Qcow2);
        let server = Server::writable(GuestWriter::open(&path, &options).expect("opens"));
        let peer = Pipe::new(io::empty(), io::sink());
        let connection = Connection::new(&server, &peer, Chosen::default());
        let (flags, command) = (Flags::NO_HOLE, command::WRITE_ZEROES);
        let request = Request { flags, command, cookie: 1, offset: 0, len: 1 << 20 };
        connection.write(&request, &[]).expect("writes");
        peer.end();
        let failed = connection.write(&request, &[]).expect_err("nobody waits for it");
        assert!(matches!(failed, Failure::Connection(_)), "{failed:?}");
    }
}
