//! A cache of blocks, for the tables of images whose storage answers slowly.

use super::{IoHints, Segment, Source, SourceError, check_range};
use crate::storage::lock;
use crate::storage::threads;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex};

/// Length of a block in bytes. A table of an image is usually at most this long.
const BLOCK: u64 = 64 << 10;

/// Default capacity in bytes.
const CAPACITY: u64 = 64 << 20;

/// Reads of at least this many bytes are of data, which is read once, and go around the cache.
const BYPASS: usize = 1 << 20;

/// Maximum number of blocks that one sequential read loads: 8 MiB.
const MAX_READ_AHEAD: u64 = 128;

/// Keeps blocks of a source in memory.
///
/// Made for the tables of an image: short reads are answered from blocks of 64 KiB, of which the
/// least recently used ones are dropped. Several threads that need the same block wait for one
/// read of it. A read that continues the previous block loads up to 8 MiB.
/// [`prefetch`](Source::prefetch) loads many blocks at once. Data is not kept: long reads and
/// [`read_ranges`](Source::read_ranges) go around the cache, unless it has all of the bytes.
///
/// For a source that may fail temporarily, use `Cached::new(Arc::new(Retrying::new(source)))`.
#[derive(Debug)]
pub struct Cached {
    inner: Arc<dyn Source>,
    capacity: usize,
    blocks: Mutex<Blocks>,
    /// Notified when a block that was being read is there, or is not being read any more.
    changed: Condvar,
}

/// The blocks, by their number.
#[derive(Debug, Default)]
struct Blocks {
    all: HashMap<u64, Block>,
    /// Counts uses, to find the least recently used block.
    clock: u64,
}

#[derive(Debug)]
enum Block {
    /// A thread is reading it.
    Reading,
    Ready {
        bytes: Arc<[u8]>,
        used: u64,
    },
}

impl Cached {
    /// Creates a cache of 64 MiB.
    pub fn new(inner: Arc<dyn Source>) -> Self {
        Self::with_capacity(inner, CAPACITY)
    }

    /// Creates a cache of `capacity` bytes, at least 16 MiB.
    pub fn with_capacity(inner: Arc<dyn Source>, capacity: u64) -> Self {
        let capacity = usize::try_from(capacity.max(2 * MAX_READ_AHEAD * BLOCK) / BLOCK);
        let capacity = capacity.unwrap_or(usize::MAX);
        Self { inner, capacity, blocks: Mutex::default(), changed: Condvar::new() }
    }

    /// Returns a block, which is read if necessary.
    fn block(&self, index: u64) -> Result<Arc<[u8]>, SourceError> {
        let mut blocks = lock(&self.blocks);
        loop {
            match blocks.find(index) {
                Some(Block::Ready { bytes, .. }) => return Ok(Arc::clone(bytes)),
                Some(Block::Reading) => {
                    blocks = self.changed.wait(blocks).unwrap_or_else(|e| e.into_inner());
                }
                None => break,
            }
        }
        let run = blocks.claim_run(index, self.inner.len().div_ceil(BLOCK));
        drop(blocks);
        self.read_run(Claim { cache: self, run })?;
        // A statement of its own: `read_block` must not run with the lock held.
        let ready = match lock(&self.blocks).find(index) {
            Some(Block::Ready { bytes, .. }) => Some(Arc::clone(bytes)),
            _ => None,
        };
        // Other blocks may have replaced it already.
        ready.map_or_else(|| self.read_block(index), Ok)
    }

    fn read_block(&self, index: u64) -> Result<Arc<[u8]>, SourceError> {
        let start = index * BLOCK;
        let mut bytes = vec![0; self.inner.len().saturating_sub(start).min(BLOCK) as usize];
        self.inner.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }

    /// Marks the missing blocks of `ranges` as being read, at most half as many as the cache holds,
    /// and returns them, the last ones first.
    fn claim_missing(&self, ranges: impl Iterator<Item = Range<u64>>) -> Vec<Claim<'_>> {
        let mut blocks = lock(&self.blocks);
        let wanted = ranges.flat_map(|range| range.start / BLOCK..range.end.div_ceil(BLOCK));
        let missing = wanted.filter(|index| !blocks.all.contains_key(index));
        let missing =
            missing.take(self.capacity / 2).map(|index| index * BLOCK..(index + 1) * BLOCK);
        // A request may include blocks that are there already, in a gap between missing ones.
        let mut runs: Vec<Range<u64>> = Vec::new();
        for request in self.io().requests(missing.collect()) {
            let mut run = request.start / BLOCK..request.start / BLOCK;
            for index in request.start / BLOCK..request.end / BLOCK {
                if blocks.all.contains_key(&index) {
                    runs.push(std::mem::replace(&mut run, index + 1..index + 1));
                } else {
                    run.end = index + 1;
                }
            }
            runs.push(run);
        }
        runs.retain(|run| !run.is_empty());
        runs.iter().for_each(|run| blocks.claim(run.clone()));
        runs.into_iter().rev().map(|run| Claim { cache: self, run }).collect()
    }

    /// Reads the blocks of a run.
    fn read_run(&self, claim: Claim<'_>) -> Result<(), SourceError> {
        let run = claim.run.clone();
        let start = run.start * BLOCK;
        let end = (run.end * BLOCK).min(self.inner.len());
        let mut bytes = vec![0; (end - start) as usize];
        self.inner.read_exact_at(&mut bytes, start)?;
        let mut blocks = lock(&self.blocks);
        for (index, part) in run.zip(bytes.chunks(BLOCK as usize)) {
            blocks.insert(index, part.into(), self.capacity);
        }
        Ok(())
    }

    /// Fills `buf` if all of its blocks are in the cache. Returns false otherwise.
    fn read_cached(&self, buf: &mut [u8], offset: u64) -> bool {
        let mut blocks = lock(&self.blocks);
        let last = (offset + buf.len() as u64).div_ceil(BLOCK);
        let is_ready = |index| matches!(blocks.all.get(&index), Some(Block::Ready { .. }));
        if !(offset / BLOCK..last).all(is_ready) {
            return false;
        }
        copy_blocks(buf, offset, |index| match blocks.find(index) {
            Some(Block::Ready { bytes, .. }) => Ok(Arc::clone(bytes)),
            _ => Err(io::ErrorKind::NotFound.into()),
        })
        .is_ok()
    }
}

/// Fills `buf` from the blocks that contain its range.
fn copy_blocks(
    mut buf: &mut [u8],
    mut offset: u64,
    mut block: impl FnMut(u64) -> Result<Arc<[u8]>, SourceError>,
) -> Result<(), SourceError> {
    while !buf.is_empty() {
        let bytes = block(offset / BLOCK)?;
        let inside = (offset % BLOCK) as usize;
        let (now, later) = buf.split_at_mut(buf.len().min(bytes.len() - inside));
        now.copy_from_slice(&bytes[inside..inside + now.len()]);
        offset += now.len() as u64;
        buf = later;
    }
    Ok(())
}

impl Blocks {
    /// Returns a block and marks it as used.
    fn find(&mut self, index: u64) -> Option<&Block> {
        self.clock += 1;
        let clock = self.clock;
        let block = self.all.get_mut(&index)?;
        if let Block::Ready { used, .. } = block {
            *used = clock;
        }
        Some(block)
    }

    /// Marks a missing block as being read, and some that follow it if the read continues a run of
    /// blocks. `end` is the number of blocks of the source.
    fn claim_run(&mut self, index: u64, end: u64) -> Range<u64> {
        let is_ready = |i: &u64| matches!(self.all.get(i), Some(Block::Ready { .. }));
        let before = (0..index).rev().take(MAX_READ_AHEAD as usize / 2).take_while(is_ready);
        // As many again as there are, so that the length doubles with each read.
        let wanted = (2 * before.count() as u64).max(1);
        let missing = (index..end.min(index + wanted)).take_while(|i| !self.all.contains_key(i));
        let run = index..index + missing.count() as u64;
        self.claim(run.clone());
        run
    }

    fn claim(&mut self, run: Range<u64>) {
        self.all.extend(run.map(|index| (index, Block::Reading)));
    }

    /// Adds a block; drops the least recently used one if there are more than `capacity`.
    fn insert(&mut self, index: u64, bytes: Arc<[u8]>, capacity: usize) {
        self.clock += 1;
        self.all.insert(index, Block::Ready { bytes, used: self.clock });
        if self.all.len() > capacity {
            let ready = self.all.iter().filter_map(|(&other, block)| match block {
                Block::Ready { used, .. } => Some((*used, other)),
                Block::Reading => None,
            });
            let ready = ready.filter(|&(_, other)| other != index);
            if let Some((_, oldest)) = ready.min() {
                self.all.remove(&oldest);
            }
        }
    }
}

/// Blocks that are marked as being read. When dropped, those that were not read are missing again, so
/// that other threads do not wait for them.
struct Claim<'a> {
    cache: &'a Cached,
    run: Range<u64>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut blocks = lock(&self.cache.blocks);
        for index in self.run.clone() {
            if matches!(blocks.all.get(&index), Some(Block::Reading)) {
                blocks.all.remove(&index);
            }
        }
        self.cache.changed.notify_all();
    }
}

impl Source for Cached {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        check_range(offset, buf.len(), self.len())?;
        match buf.len() >= BYPASS && !self.read_cached(buf, offset) {
            true => self.inner.read_exact_at(buf, offset),
            false => copy_blocks(buf, offset, |index| self.block(index)),
        }
    }

    fn read_ranges(&self, ranges: &mut [(u64, &mut [u8])]) -> Result<(), SourceError> {
        let mut missing = Vec::with_capacity(ranges.len());
        for (offset, buf) in ranges {
            check_range(*offset, buf.len(), self.len())?;
            if !self.read_cached(buf, *offset) {
                missing.push((*offset, &mut **buf));
            }
        }
        self.inner.read_ranges(&mut missing)
    }

    fn prefetch(&self, ranges: &[Range<u64>]) {
        let (hints, len) = (self.io(), self.len());
        let claims = self.claim_missing(ranges.iter().map(|r| r.start.min(len)..r.end.min(len)));
        let threads = hints.in_flight.min(claims.len());
        let claims = Mutex::new(claims);
        let read_some = || {
            loop {
                // In a statement of its own, so that it is not locked while a block is read.
                let claim = lock(&claims).pop();
                let Some(claim) = claim else { break };
                // An error is reported when the block is read.
                let _ = self.read_run(claim);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                if threads::spawn(scope, read_some).is_none() {
                    break;
                }
            }
            read_some();
        });
    }

    fn io(&self) -> IoHints {
        self.inner.io()
    }

    fn segment_at(&self, offset: u64) -> Result<Segment, SourceError> {
        self.inner.segment_at(offset)
    }

    fn as_file(&self) -> Option<(&File, u64)> {
        self.inner.as_file()
    }

    forward_file!();

    fn is_device(&self) -> bool {
        self.inner.is_device()
    }

    fn allocated_bytes(&self) -> io::Result<Option<u64>> {
        self.inner.allocated_bytes()
    }
}
