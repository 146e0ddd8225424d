//! An export as a file that is read.

use super::client::{BlockStatusCache, Client};
use super::wire::{ALLOCATION_ZERO, BASE_ALLOCATION};
use diskimg::storage::source::{HostFileId, IoHints, Segment, Source, SourceError};
use std::io;

/// An export that is read. It tells which ranges are zeros, if the server does.
#[derive(Debug)]
pub(super) struct NbdSource {
    pub(super) client: Client,
    pub(super) status: BlockStatusCache,
    identity: HostFileId,
}

impl NbdSource {
    pub(super) fn new(client: Client, identity: HostFileId) -> Self {
        // Not the flag HOLE: what is not allocated may have any contents.
        let status = BlockStatusCache::new(BASE_ALLOCATION, ALLOCATION_ZERO);
        Self { client, status, identity }
    }

    fn check_range(&self, offset: u64, len: usize) -> Result<(), SourceError> {
        let (len, source_len) = (len as u64, self.client.size());
        match offset.checked_add(len) {
            Some(end) if end <= source_len => Ok(()),
            _ => Err(SourceError::OutOfRange { offset, len, source_len }),
        }
    }
}

impl Source for NbdSource {
    fn len(&self) -> u64 {
        self.client.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        self.read_ranges(&mut [(offset, buf)])
    }

    fn read_ranges(&self, ranges: &mut [(u64, &mut [u8])]) -> Result<(), SourceError> {
        ranges.iter().try_for_each(|(offset, buf)| self.check_range(*offset, buf.len()))?;
        self.client.read(ranges)
    }

    fn segment_at(&self, offset: u64) -> Result<Segment, SourceError> {
        if !self.client.export().has_context(BASE_ALLOCATION) || offset >= self.len() {
            return Ok(Segment { end: self.len(), hole: false });
        }
        let range = self.status.at(&self.client, offset)?;
        Ok(Segment { end: range.end, hole: range.flags & ALLOCATION_ZERO != 0 })
    }

    fn identity(&self) -> Option<HostFileId> {
        Some(self.identity)
    }

    fn protocol(&self) -> Option<&'static str> {
        Some("nbd")
    }

    fn io(&self) -> IoHints {
        let mut hints = IoHints::remote();
        // A server has at most a few requests of a connection in work.
        hints.optimal = 2 << 20;
        hints.in_flight = 8;
        hints.gap = 64 << 10;
        hints
    }
}

/// A context of metadata of an export, such as a dirty bitmap of QEMU. It has segments, but no data:
/// what is marked (dirty) is a hole.
#[derive(Debug)]
pub(super) struct ContextSource {
    client: Client,
    status: BlockStatusCache,
}

/// The flag of a range that is marked. QEMU takes it for "not allocated".
const MARKED: u32 = 1;

impl ContextSource {
    pub(super) fn new(client: Client, context: String) -> Self {
        Self { client, status: BlockStatusCache::new(context, MARKED) }
    }
}

impl Source for ContextSource {
    fn len(&self) -> u64 {
        self.client.size()
    }

    fn read_exact_at(&self, _: &mut [u8], _: u64) -> Result<(), SourceError> {
        let message = "a dirty bitmap of an export has no data";
        Err(SourceError::Storage(io::Error::new(io::ErrorKind::Unsupported, message)))
    }

    fn segment_at(&self, offset: u64) -> Result<Segment, SourceError> {
        let range = self.status.at(&self.client, offset)?;
        Ok(Segment { end: range.end, hole: range.flags & MARKED != 0 })
    }

    fn has_data(&self) -> bool {
        false
    }

    fn protocol(&self) -> Option<&'static str> {
        Some("nbd")
    }
}
