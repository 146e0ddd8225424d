//! Storage that is modified again.

use super::Storage;
use crate::storage::caching::Caching;
use crate::storage::locking::Lock;
use crate::storage::sink::Sink;
use crate::storage::source::{HostFileId, Segment, Source, SourceError};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Storage as if it had been opened now: [`Source::len`] is the length that it has by now.
#[derive(Debug)]
pub(crate) struct Reopened {
    storage: Arc<dyn Storage>,
    len: u64,
}

impl Reopened {
    pub(crate) fn of(storage: &Arc<dyn Storage>) -> Arc<Self> {
        Arc::new(Self { len: storage.current_len(), storage: Arc::clone(storage) })
    }
}

impl Source for Reopened {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        self.storage.read_exact_at(buf, offset)
    }

    fn segment_at(&self, offset: u64) -> Result<Segment, SourceError> {
        self.storage.segment_at(offset)
    }

    fn as_file(&self) -> Option<(&File, u64)> {
        self.storage.as_file()
    }

    fn path(&self) -> Option<&Path> {
        self.storage.path()
    }

    fn is_device(&self) -> bool {
        self.storage.is_device()
    }

    fn allocated_bytes(&self) -> io::Result<Option<u64>> {
        self.storage.allocated_bytes()
    }

    fn lock(&self, lock: Lock) -> io::Result<()> {
        self.storage.lock(lock)
    }

    fn identity(&self) -> Option<HostFileId> {
        self.storage.identity()
    }
}

impl Sink for Reopened {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.storage.write_all_at(buf, offset)
    }

    fn set_caching(&self, caching: Caching) -> io::Result<()> {
        self.storage.set_caching(caching)
    }

    fn is_zeroed(&self) -> bool {
        false
    }

    fn has_fixed_len(&self) -> bool {
        self.storage.has_fixed_len()
    }

    fn write_zeros_at(&self, offset: u64, len: u64) -> io::Result<()> {
        self.storage.write_zeros_at(offset, len)
    }

    fn preallocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.storage.preallocate(offset, len)
    }

    fn shareable_block(&self, source: &dyn Source) -> io::Result<Option<u64>> {
        self.storage.shareable_block(source)
    }

    fn share(
        &self,
        source: &dyn Source,
        source_offset: u64,
        offset: u64,
        len: u64,
    ) -> io::Result<bool> {
        self.storage.share(source, source_offset, offset, len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.storage.set_len(len)
    }

    fn start_flush(&self) {
        self.storage.start_flush();
    }

    fn flush(&self) -> io::Result<()> {
        self.storage.flush()
    }
}

impl Storage for Reopened {
    fn note_replaced(&self) {
        self.storage.note_replaced();
    }

    fn current_len(&self) -> u64 {
        self.storage.current_len()
    }

    fn discard_at(&self, offset: u64, len: u64) -> io::Result<()> {
        self.storage.discard_at(offset, len)
    }

    fn barrier(&self) -> io::Result<()> {
        self.storage.barrier()
    }
}
