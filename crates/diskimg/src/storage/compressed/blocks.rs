//! A compressed file that is read in place: the blocks that are needed are decoded.

use super::{Block, BlockBounds, Blocks, Compression};
use crate::storage::source::{HostFileId, Source, SourceError, check_range};
use crate::storage::{buffer, lock};
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

/// Bytes of decoded blocks that are kept, if blocks are short.
const CAPACITY: u64 = 16 << 20;

/// Number of blocks that are kept, however long they are: the one that is read, the next one, which
/// another thread decodes in the meantime, and the previous one.
const MIN_KEPT: usize = 3;

/// Maximum number of blocks that are kept, however short they are: each access looks through all of
/// them. Those of bgzip, of 64 KiB, are as many.
const MAX_KEPT: usize = 256;

/// The uncompressed contents of a file with blocks.
///
/// Threads that need the same block wait for one that decodes it. Those that would wait decode the
/// next blocks instead, so that several threads that read a file in order keep all processors busy.
#[derive(Debug)]
pub(crate) struct BlockSource {
    inner: Arc<dyn Source>,
    compression: Compression,
    blocks: Blocks,
    /// Number of decoded blocks that are kept.
    capacity: usize,
    cache: Mutex<Cache>,
    /// Notified when a block was decoded, or could not be decoded.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Cache {
    entries: Vec<Entry>,
    /// Counts uses, to find the least recently used block.
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    index: usize,
    /// `None` while a thread decodes it.
    bytes: Option<Arc<[u8]>>,
    used: u64,
}

impl BlockSource {
    /// Opens a file whose blocks can be decoded independently and are within the bounds; `None` if
    /// it has no such blocks.
    ///
    /// # Errors
    /// Returns the errors of the source.
    pub(crate) fn open(
        inner: Arc<dyn Source>,
        compression: Compression,
        bounds: BlockBounds,
    ) -> io::Result<Option<Self>> {
        let Some(blocks) = compression.blocks(&*inner, bounds)? else { return Ok(None) };
        let ends = blocks.list.iter().skip(1).map(|block| block.start).chain([blocks.len]);
        let lens = ends.zip(&blocks.list).map(|(end, block)| end - block.start);
        let longest = lens.max().unwrap_or(1).max(1);
        let capacity = usize::try_from(CAPACITY / longest).unwrap_or(MAX_KEPT);
        let capacity = capacity.clamp(MIN_KEPT, MAX_KEPT);
        let (cache, changed) = (Mutex::default(), Condvar::new());
        Ok(Some(Self { inner, compression, blocks, capacity, cache, changed }))
    }

    /// Returns the index of the block that contains `offset`.
    fn index_at(&self, offset: u64) -> usize {
        self.blocks.list.partition_point(|block| block.start <= offset).saturating_sub(1)
    }

    /// Returns the uncompressed end of a block.
    fn end_of(&self, index: usize) -> u64 {
        self.blocks.list.get(index + 1).map_or(self.blocks.len, |next| next.start)
    }

    /// Returns a block, which is decoded if necessary.
    fn block(&self, index: usize) -> Result<Arc<[u8]>, SourceError> {
        let mut cache = lock(&self.cache);
        loop {
            if let Some(bytes) = cache.find(index) {
                return Ok(bytes);
            }
            let wanted = match cache.contains(index) {
                // Another thread decodes it. The next ones will be needed, too.
                true => (index + 1..self.blocks.list.len())
                    .take(self.capacity.min(2 * MIN_KEPT) - 2)
                    .find(|&next| !cache.contains(next)),
                false => Some(index),
            };
            let claimed = wanted.filter(|&wanted| cache.claim(wanted, self.capacity, index));
            let Some(claimed) = claimed else {
                cache = self.changed.wait(cache).unwrap_or_else(|e| e.into_inner());
                continue;
            };
            drop(cache);
            let claim = Claim { source: self, index: claimed };
            match self.decode(claimed) {
                Ok(bytes) => {
                    lock(&self.cache).insert(claimed, Arc::clone(&bytes));
                    if claimed == index {
                        return Ok(bytes);
                    }
                }
                Err(error) if claimed == index => return Err(error),
                // The thread that needs the block reports its error.
                Err(_) => {
                    drop(claim);
                    return self.decode_now(index);
                }
            }
            drop(claim);
            cache = lock(&self.cache);
        }
    }

    /// Decodes a block for the caller only, if no other thread has decoded it in the meantime.
    fn decode_now(&self, index: usize) -> Result<Arc<[u8]>, SourceError> {
        let found = lock(&self.cache).find(index);
        found.map_or_else(|| self.decode(index), Ok)
    }

    fn decode(&self, index: usize) -> Result<Arc<[u8]>, SourceError> {
        let block = &self.blocks.list[index];
        let mut bytes = buffer::zeroed((self.end_of(index) - block.start) as usize);
        self.compression.decode(&*self.inner, block, &mut bytes).map_err(|e| damage(block, e))?;
        Ok(bytes.into())
    }
}

/// Returns the error of decoding a block: of the storage, or of the data.
fn damage(block: &Block, error: io::Error) -> SourceError {
    if error.raw_os_error().is_some() || SourceError::find(&error).is_some() {
        return error.into();
    }
    let message = format!("the compressed block at offset {}: {error}", block.stored.start);
    SourceError::Damaged(io::Error::new(error.kind(), message))
}

impl Cache {
    fn find(&mut self, index: usize) -> Option<Arc<[u8]>> {
        self.clock += 1;
        let clock = self.clock;
        let entry = self.entries.iter_mut().find(|entry| entry.index == index)?;
        entry.used = clock;
        entry.bytes.clone()
    }

    fn contains(&self, index: usize) -> bool {
        self.entries.iter().any(|entry| entry.index == index)
    }

    /// Marks a block as being decoded, in place of the least recently used one if there are
    /// `capacity`. Keeps the block `needed`. Returns false if all others are being decoded.
    fn claim(&mut self, index: usize, capacity: usize, needed: usize) -> bool {
        if self.entries.len() >= capacity {
            let idle = |entry: &&Entry| entry.bytes.is_some() && entry.index != needed;
            let oldest = self.entries.iter().filter(idle).min_by_key(|entry| entry.used);
            let Some(oldest) = oldest.map(|entry| entry.index) else { return false };
            self.entries.retain(|entry| entry.index != oldest);
        }
        self.entries.push(Entry { index, bytes: None, used: self.clock });
        true
    }

    fn insert(&mut self, index: usize, bytes: Arc<[u8]>) {
        self.clock += 1;
        let clock = self.clock;
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.index == index) {
            (entry.bytes, entry.used) = (Some(bytes), clock);
        }
    }
}

/// A block that is marked as being decoded. If it was not, it is missing again when this is dropped,
/// so that other threads do not wait for it.
struct Claim<'a> {
    source: &'a BlockSource,
    index: usize,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut cache = lock(&self.source.cache);
        cache.entries.retain(|entry| entry.index != self.index || entry.bytes.is_some());
        self.source.changed.notify_all();
    }
}

impl Source for BlockSource {
    fn len(&self) -> u64 {
        self.blocks.len
    }

    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> Result<(), SourceError> {
        check_range(offset, buf.len(), self.len())?;
        while !buf.is_empty() {
            let index = self.index_at(offset);
            let bytes = self.block(index)?;
            let inside = (offset - self.blocks.list[index].start) as usize;
            let (now, later) = buf.split_at_mut(buf.len().min(bytes.len() - inside));
            now.copy_from_slice(&bytes[inside..inside + now.len()]);
            offset += now.len() as u64;
            buf = later;
        }
        Ok(())
    }

    fn path(&self) -> Option<&Path> {
        self.inner.path()
    }

    fn allocated_bytes(&self) -> io::Result<Option<u64>> {
        self.inner.allocated_bytes()
    }

    fn identity(&self) -> Option<HostFileId> {
        self.inner.identity()
    }

    fn identities(&self) -> Vec<HostFileId> {
        self.inner.identities()
    }
}
