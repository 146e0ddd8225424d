//! An export that is reached by one or more connections, which are made again if they are lost.

use super::call::{Call, Kind};
use super::connection::Connection;
use super::export::Export;
use super::handshake::{Wanted, shake_hands};
use super::{Timeouts, lost, transport};
use crate::nbd::uri::Address;
use crate::nbd::wire::{CommandFlags, Descriptor, TransmissionFlags, command};
use diskimg::storage::source::{RetryPolicy, SourceError};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Bytes of a READ or WRITE. Several are in flight, so that the server works while others are
/// transferred.
const PART: u32 = 256 << 10;

/// Maximum number of requests that a thread has in flight.
const BATCH: usize = 16;

/// Bytes of a request that writes zeros or deallocates.
const MAX_RANGE: u32 = 1 << 30;

/// Maximum length of a BLOCK_STATUS: 32 bits, and a multiple of any minimum.
const MAX_STATUS: u64 = (1 << 32) - (64 << 10);

/// How a server is reached.
#[derive(Debug)]
pub(in crate::nbd) struct Access {
    pub(in crate::nbd) address: Address,
    pub(in crate::nbd) wanted: Wanted,
    pub(in crate::nbd) timeouts: Timeouts,
    pub(in crate::nbd) forbid_private: bool,
    /// When a request is repeated after a connection was lost.
    pub(in crate::nbd) retry: RetryPolicy,
    /// When the first connection is tried again, if it is.
    pub(in crate::nbd) open_retry: Option<RetryPolicy>,
    /// Maximum number of connections.
    pub(in crate::nbd) connections: usize,
}

impl Access {
    fn connect(&self) -> Result<Connection, SourceError> {
        let socket = transport::connect(&self.address, &self.timeouts, self.forbid_private);
        let mut socket = socket.map_err(lost)?;
        socket.set_deadline(Some(Instant::now() + self.timeouts.connect));
        let (reader, writer, export) = shake_hands(socket, &self.wanted)?;
        Connection::new(reader, writer, export, self.timeouts).map_err(lost)
    }

    /// Connects to a server that may be about to start.
    fn connect_when_there(&self) -> Result<Connection, SourceError> {
        self.connect().map_err(|e| match e {
            SourceError::Storage(e) if is_absent(&e) => SourceError::Transient(e),
            e => e,
        })
    }
}

/// An export of a server.
#[derive(Debug)]
pub(in crate::nbd) struct Client {
    access: Access,
    export: Export,
    slots: Vec<Slot>,
    changes: Changes,
}

/// A place for a connection.
#[derive(Debug, Default)]
struct Slot {
    connection: Mutex<Option<Arc<Connection>>>,
    /// Threads that use it.
    users: AtomicUsize,
}

/// Changes that a server may forget.
#[derive(Debug, Default)]
struct Changes {
    /// Number of changes that the server has confirmed.
    confirmed: AtomicU64,
    /// Number of those that are durable.
    flushed: AtomicU64,
    /// Some that were not durable may be lost.
    lost: AtomicBool,
}

impl Changes {
    fn confirm(&self, count: u64) {
        self.confirmed.fetch_add(count, Ordering::SeqCst);
    }

    /// Notes that a connection was lost.
    fn note_lost_connection(&self) {
        if self.confirmed.load(Ordering::SeqCst) > self.flushed.load(Ordering::SeqCst) {
            self.lost.store(true, Ordering::SeqCst);
        }
    }

    fn check(&self) -> Result<(), SourceError> {
        match self.lost.load(Ordering::SeqCst) {
            true => Err(SourceError::Storage(io::Error::other(
                "the connection was lost, and with it perhaps writes that were not flushed",
            ))),
            false => Ok(()),
        }
    }
}

impl Client {
    /// Connects to a server.
    ///
    /// # Errors
    /// Returns the error of the connection or of the server.
    pub(in crate::nbd) fn open(access: Access) -> Result<Self, SourceError> {
        let first = match &access.open_retry {
            Some(retry) => retry.repeat(|| access.connect_when_there())?,
            None => access.connect()?,
        };
        let export = first.export.clone();
        let is_shared = export.flags.contains(TransmissionFlags::CAN_MULTI_CONN);
        let count = if is_shared { access.connections.max(1) } else { 1 };
        let mut slots: Vec<_> = (0..count).map(|_| Slot::default()).collect();
        slots[0].connection = Mutex::new(Some(Arc::new(first)));
        Ok(Self { access, export, slots, changes: Changes::default() })
    }

    pub(in crate::nbd) fn export(&self) -> &Export {
        &self.export
    }

    pub(in crate::nbd) fn size(&self) -> u64 {
        self.export.size
    }

    /// Returns the connection of a slot, which is made if there is none.
    fn connection(&self, slot: &Slot) -> Result<Arc<Connection>, SourceError> {
        let mut place = slot.connection.lock().unwrap_or_else(PoisonError::into_inner);
        match &*place {
            Some(connection) if !connection.is_broken() => return Ok(Arc::clone(connection)),
            Some(_) => self.changes.note_lost_connection(),
            None => {}
        }
        self.changes.check()?;
        *place = None;
        let new = self.access.connect_when_there()?;
        if !new.export.is_same(&self.export) {
            let message = "the export changed while it was used";
            return Err(SourceError::Storage(io::Error::other(message)));
        }
        let new = Arc::new(new);
        *place = Some(Arc::clone(&new));
        Ok(new)
    }

    /// Sends requests over one connection and waits for the replies. Repeats those that were lost
    /// with a connection.
    fn run(&self, calls: &mut [Call<'_>]) -> Result<(), SourceError> {
        self.access.retry.repeat(|| self.attempt(calls))?;
        calls.iter_mut().find_map(|call| call.error.take()).map_or(Ok(()), Err)
    }

    fn attempt(&self, calls: &mut [Call<'_>]) -> Result<(), SourceError> {
        calls.iter_mut().filter(|call| !call.done).for_each(Call::reset);
        // The first one of those that are used least, so that few requests need one connection.
        let slot = self.slots.iter().min_by_key(|slot| slot.users.load(Ordering::Relaxed));
        let slot = slot.unwrap_or(&self.slots[0]);
        slot.users.fetch_add(1, Ordering::Relaxed);
        let outcome =
            self.connection(slot).and_then(|connection| self.attempt_on(&connection, calls));
        slot.users.fetch_sub(1, Ordering::Relaxed);
        outcome
    }

    fn attempt_on(
        &self,
        connection: &Connection,
        calls: &mut [Call<'_>],
    ) -> Result<(), SourceError> {
        self.changes.check()?;
        let was_done = calls.iter().filter(|call| is_confirmed(call)).count();
        let outcome = connection.run(calls);
        let confirmed = calls.iter().filter(|call| is_confirmed(call)).count() - was_done;
        self.changes.confirm(confirmed as u64);
        // Another thread that lost it has not seen what is confirmed here.
        if connection.is_broken() {
            self.changes.note_lost_connection();
            self.changes.check()?;
        }
        outcome?;
        // A server that shuts down answers no more; another one may.
        let transient = |error: &Option<SourceError>| matches!(error, Some(e) if e.is_transient());
        match calls.iter_mut().find(|call| transient(&call.error)) {
            None => Ok(()),
            Some(_) => {
                connection.give_up();
                self.changes.note_lost_connection();
                self.changes.check()?;
                let mut first = None;
                for call in calls.iter_mut().filter(|call| transient(&call.error)) {
                    call.done = false;
                    first = first.or(call.error.take());
                }
                first.map_or(Ok(()), Err)
            }
        }
    }

    /// Fills buffers with the bytes at their offsets. All must be within the export.
    pub(in crate::nbd) fn read(&self, ranges: &mut [(u64, &mut [u8])]) -> Result<(), SourceError> {
        let min = u64::from(self.export.min_block);
        let mut aligned = Vec::with_capacity(ranges.len());
        for (offset, buf) in ranges {
            match (*offset | buf.len() as u64) % min {
                0 => aligned.push((*offset, &mut **buf)),
                _ => self.read_unaligned(*offset, buf)?,
            }
        }
        let part = PART.min(self.export.max_payload) as usize;
        let mut calls = Vec::new();
        for (offset, buf) in aligned {
            let parts = buf.chunks_mut(part).zip((offset..).step_by(part));
            calls.extend(parts.map(|(buf, offset)| Call::read(offset, buf)));
        }
        calls.chunks_mut(BATCH).try_for_each(|calls| self.run(calls))
    }

    /// Reads whole blocks, and takes a part of them.
    fn read_unaligned(&self, offset: u64, buf: &mut [u8]) -> Result<(), SourceError> {
        let min = u64::from(self.export.min_block);
        let start = offset - offset % min;
        let end = (offset + buf.len() as u64).next_multiple_of(min);
        let mut blocks = vec![0; (end - start) as usize];
        self.read(&mut [(start, &mut blocks)])?;
        let first = (offset - start) as usize;
        buf.copy_from_slice(&blocks[first..first + buf.len()]);
        Ok(())
    }

    /// Writes whole blocks.
    pub(in crate::nbd) fn write(&self, offset: u64, data: &[u8]) -> Result<(), SourceError> {
        let part = PART.min(self.export.max_payload) as usize;
        let parts = data.chunks(part).zip((offset..).step_by(part));
        let mut calls: Vec<_> = parts.map(|(data, offset)| Call::write(offset, data)).collect();
        calls.chunks_mut(BATCH).try_for_each(|calls| self.run(calls))
    }

    /// Makes whole blocks zeros; deallocated, if they may be and the server can.
    ///
    /// # Errors
    /// Returns `Storage` with the kind `Unsupported` if the server cannot, and the error of the
    /// server.
    pub(in crate::nbd) fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        may_be_hole: bool,
    ) -> Result<(), SourceError> {
        let flags = if may_be_hole { CommandFlags::empty() } else { CommandFlags::NO_HOLE };
        self.run_ranges(command::WRITE_ZEROES, flags, offset, len)
    }

    /// Allows whole blocks to be deallocated.
    pub(in crate::nbd) fn trim(&self, offset: u64, len: u64) -> Result<(), SourceError> {
        self.run_ranges(command::TRIM, CommandFlags::empty(), offset, len)
    }

    fn run_ranges(
        &self,
        command: u16,
        flags: CommandFlags,
        mut offset: u64,
        mut len: u64,
    ) -> Result<(), SourceError> {
        while len > 0 {
            let part = len.min(u64::from(MAX_RANGE));
            let kind = Kind::Plain { command, flags, offset, len: part as u32 };
            self.run(&mut [Call::new(kind)])?;
            offset += part;
            len -= part;
        }
        Ok(())
    }

    /// Makes all changes durable that were confirmed before.
    ///
    /// # Errors
    /// Returns the error of the server, and one if the connection was lost before.
    pub(in crate::nbd) fn flush(&self) -> Result<(), SourceError> {
        self.changes.check()?;
        let confirmed = self.changes.confirmed.load(Ordering::SeqCst);
        if self.changes.flushed.load(Ordering::SeqCst) >= confirmed {
            return Ok(());
        }
        for slot in &self.slots {
            let place = slot.connection.lock().unwrap_or_else(PoisonError::into_inner).clone();
            // Each connection by itself: another one may be to a server that was started again.
            let Some(connection) = place else { continue };
            if self.export.flags.contains(TransmissionFlags::SEND_FLUSH) {
                let (command, flags) = (command::FLUSH, CommandFlags::empty());
                let kind = Kind::Plain { command, flags, offset: 0, len: 0 };
                let mut calls = [Call::new(kind)];
                self.attempt_on(&connection, &mut calls)?;
                calls[0].error.take().map_or(Ok(()), Err)?;
            }
        }
        self.changes.flushed.fetch_max(confirmed, Ordering::SeqCst);
        Ok(())
    }

    /// Returns descriptors of a context of metadata from `offset`, a multiple of the smallest block,
    /// on. They may end earlier than the export, and later than `end`.
    pub(in crate::nbd) fn block_status(
        &self,
        context: &str,
        offset: u64,
        end: u64,
    ) -> Result<Vec<Descriptor>, SourceError> {
        let len = end.next_multiple_of(self.export.min_block.into()).min(self.export.size) - offset;
        let len = len.min(MAX_STATUS) as u32;
        // The number is that of a connection.
        self.access.retry.repeat(|| {
            let slot = &self.slots[0];
            let connection = self.connection(slot)?;
            let unknown =
                || io::Error::new(io::ErrorKind::Unsupported, "the server tells no status");
            let number = connection.export.context(context);
            let number = number.ok_or_else(|| SourceError::Storage(unknown()))?;
            let found = Vec::new();
            let mut calls = [Call::new(Kind::Status { offset, len, context: number, found })];
            self.attempt_on(&connection, &mut calls)?;
            let [call] = calls;
            match (call.error, call.kind) {
                (Some(error), _) => Err(error),
                (None, Kind::Status { found, .. }) => Ok(found),
                (None, _) => Ok(Vec::new()),
            }
        })
    }
}

/// Returns true if the server has confirmed a change.
fn is_confirmed(call: &Call<'_>) -> bool {
    call.done && call.is_change()
}

/// The socket or the host is not there, which may change.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound && error.raw_os_error().is_some()
}
