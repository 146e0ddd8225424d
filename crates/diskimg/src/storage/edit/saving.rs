//! Storage that saves what is overwritten.

use super::Storage;
use crate::storage::caching::Caching;
use crate::storage::lock;
use crate::storage::locking::Lock;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::sink::Sink;
use crate::storage::source::{HostFileId, Segment, Source, SourceError};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// First bytes of a file of saved bytes.
const MAGIC: &[u8; 16] = b"diskimg backup 1";

/// Bytes of writes that are postponed until the next barrier.
const MAX_POSTPONED: usize = 8 << 20;

/// Bytes that are saved together.
const MAX_RANGE: u64 = 8 << 20;

/// Storage that saves all bytes which it overwrites or cuts off, before it does. Those beyond the
/// end of the file are not saved.
///
/// ```text
///    0 "diskimg backup 1"   16 length of the file before
///   24 offset   32 length   40 bytes …   the next offset …
/// ```
///
/// Numbers have 8 bytes, the most significant first. Writing the ranges back in reverse order and
/// then setting the length gives the file as it was.
#[derive(Debug)]
pub(crate) struct SavingStorage {
    inner: Arc<dyn Storage>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    backup: File,
    /// Length of the file before.
    old_len: u64,
    /// What is from here on needs not be saved: it is, or was not there before.
    kept_len: u64,
    has_header: bool,
    /// Writes that are postponed until what they overwrite is saved durably.
    postponed: Vec<(u64, Vec<u8>)>,
    bytes: usize,
}

impl SavingStorage {
    /// Creates storage that saves the bytes of `inner` in `backup`, which is empty.
    pub(crate) fn new(inner: Arc<dyn Storage>, backup: File) -> Self {
        let len = inner.current_len();
        let state = State {
            backup,
            old_len: len,
            kept_len: len,
            has_header: false,
            postponed: Vec::new(),
            bytes: 0,
        };
        Self { inner, state: Mutex::new(state) }
    }

    /// Saves `len` bytes at `offset`. They are durable when the backup is flushed.
    fn save(&self, state: &mut State, mut offset: u64, len: u64) -> io::Result<()> {
        if !std::mem::replace(&mut state.has_header, true) {
            state.backup.write_all(MAGIC)?;
            state.backup.write_all(&state.old_len.to_be_bytes())?;
        }
        let end = offset + len;
        while offset < end {
            let mut old = vec![0; to_usize((end - offset).min(MAX_RANGE))];
            self.inner.read_exact_at(&mut old, offset).map_err(io::Error::from)?;
            state.backup.write_all(&offset.to_be_bytes())?;
            state.backup.write_all(&to_u64(old.len()).to_be_bytes())?;
            state.backup.write_all(&old)?;
            offset += to_u64(old.len());
        }
        Ok(())
    }

    /// Saves what the postponed writes overwrite, and makes them.
    fn write_postponed(&self, state: &mut State) -> io::Result<()> {
        if state.postponed.is_empty() {
            return Ok(());
        }
        let postponed = std::mem::take(&mut state.postponed);
        for (offset, bytes) in &postponed {
            let len = state.kept_len.saturating_sub(*offset).min(to_u64(bytes.len()));
            self.save(state, *offset, len)?;
        }
        state.backup.sync_all()?;
        state.bytes = 0;
        for (offset, bytes) in postponed {
            self.inner.write_all_at(&bytes, offset)?;
        }
        Ok(())
    }
}

impl Source for SavingStorage {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        let end = offset.saturating_add(buf.len() as u64);
        let mut state = lock(&self.state);
        let overlaps =
            |(start, bytes): &(u64, Vec<u8>)| *start < end && offset < start + bytes.len() as u64;
        if state.postponed.iter().any(overlaps) {
            self.write_postponed(&mut state).map_err(SourceError::from)?;
        }
        self.inner.read_exact_at(buf, offset)
    }

    fn segment_at(&self, offset: u64) -> Result<Segment, SourceError> {
        self.inner.segment_at(offset)
    }

    fn path(&self) -> Option<&Path> {
        self.inner.path()
    }

    fn is_device(&self) -> bool {
        self.inner.is_device()
    }

    fn lock(&self, lock: Lock) -> io::Result<()> {
        self.inner.lock(lock)
    }

    fn identity(&self) -> Option<HostFileId> {
        self.inner.identity()
    }
}

impl Sink for SavingStorage {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut state = lock(&self.state);
        if offset >= state.kept_len {
            return self.inner.write_all_at(buf, offset);
        }
        state.postponed.push((offset, buf.to_vec()));
        state.bytes += buf.len();
        match state.bytes > MAX_POSTPONED {
            true => self.write_postponed(&mut state),
            false => Ok(()),
        }
    }

    fn set_caching(&self, caching: Caching) -> io::Result<()> {
        self.inner.set_caching(caching)
    }

    fn is_zeroed(&self) -> bool {
        false
    }

    fn has_fixed_len(&self) -> bool {
        self.inner.has_fixed_len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let state = &mut *lock(&self.state);
        self.write_postponed(state)?;
        if len < state.kept_len {
            self.save(state, len, state.kept_len - len)?;
            state.backup.sync_all()?;
            state.kept_len = len;
        }
        self.inner.set_len(len)
    }

    fn start_flush(&self) {
        self.inner.start_flush();
    }

    fn flush(&self) -> io::Result<()> {
        self.write_postponed(&mut lock(&self.state))?;
        self.inner.flush()
    }
}

impl Storage for SavingStorage {
    fn note_replaced(&self) {
        self.inner.note_replaced();
    }

    fn current_len(&self) -> u64 {
        self.inner.current_len()
    }

    /// Keeps the bytes.
    fn discard_at(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
}
