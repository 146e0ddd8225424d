//! An export as a file that is written in place. Its length is fixed.

use super::source::NbdSource;
use diskimg::storage::edit::Storage;
use diskimg::storage::sink::Sink;
use diskimg::storage::source::{HostFileId, IoHints, Segment, Source, SourceError};
use std::io;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// An export that is read and written.
#[derive(Debug)]
pub(super) struct NbdStorage {
    source: NbdSource,
    /// Held while a part of a block is replaced.
    partial: Mutex<()>,
}

impl NbdStorage {
    pub(super) fn new(source: NbdSource) -> Self {
        Self { source, partial: Mutex::new(()) }
    }

    fn min_block(&self) -> u64 {
        self.source.client.export().min_block().into()
    }

    fn check_range(&self, offset: u64, len: u64) -> io::Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len() => Ok(()),
            _ => {
                let message = format!("the export has only {} bytes", self.len());
                Err(io::Error::new(io::ErrorKind::StorageFull, message))
            }
        }
    }

    /// Returns the whole blocks within a range.
    fn whole_blocks(&self, offset: u64, len: u64) -> Range<u64> {
        let (min, end) = (self.min_block(), offset + len);
        let start = offset.next_multiple_of(min);
        start..(end - end % min).max(start)
    }

    /// Replaces a part of one block.
    fn write_partial(&self, data: &[u8], offset: u64) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let min = self.min_block();
        let start = offset - offset % min;
        let first = (offset - start) as usize;
        let _guard = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        let mut block = vec![0; min as usize];
        self.source.client.read(&mut [(start, &mut block)])?;
        block[first..first + data.len()].copy_from_slice(data);
        Ok(self.source.client.write(start, &block)?)
    }

    /// Splits a range at the first and the last boundary of blocks: a part of a block, whole blocks,
    /// and a part of a block.
    fn split(&self, offset: u64, len: u64) -> [Range<u64>; 3] {
        let (whole, end) = (self.whole_blocks(offset, len), offset + len);
        if whole.is_empty() {
            // Up to the boundary within the range, if there is one.
            let middle = whole.start.min(end);
            return [offset..middle, middle..middle, middle..end];
        }
        [offset..whole.start, whole.clone(), whole.end..end]
    }

    fn zero(&self, offset: u64, len: u64, may_be_hole: bool) -> io::Result<()> {
        let [before, whole, after] = self.split(offset, len);
        for part in [before, after] {
            self.write_partial(&vec![0; (part.end - part.start) as usize], part.start)?;
        }
        let len = whole.end - whole.start;
        if self.source.client.export().can_write_zeroes() {
            match self.source.client.write_zeroes(whole.start, len, may_be_hole) {
                // Some servers offer it for disks that cannot.
                Err(SourceError::Storage(e)) if is_not_supported(&e) => {}
                outcome => return Ok(outcome?),
            }
        }
        let zeros = vec![0; len.min(ZEROS) as usize];
        for at in whole.clone().step_by(ZEROS as usize) {
            let len = (whole.end - at).min(ZEROS) as usize;
            self.source.client.write(at, &zeros[..len])?;
        }
        Ok(())
    }

    /// Calls `write`, and notes that what is known about ranges may be wrong by then: a server may
    /// have told it before the write, in an answer that came meanwhile.
    fn changing(&self, write: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.source.status.note_change();
        let outcome = write();
        self.source.status.note_change();
        outcome
    }
}

/// Returns true if a request is not known to the server, or not to the disk behind it.
fn is_not_supported(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput)
}

/// Bytes of zeros that are sent at a time, to a server that cannot write zeros itself: a multiple of
/// each block size.
const ZEROS: u64 = 1 << 20;

impl Source for NbdStorage {
    fn len(&self) -> u64 {
        self.source.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        self.source.read_exact_at(buf, offset)
    }

    fn read_ranges(&self, ranges: &mut [(u64, &mut [u8])]) -> Result<(), SourceError> {
        self.source.read_ranges(ranges)
    }

    fn segment_at(&self, offset: u64) -> Result<Segment, SourceError> {
        self.source.segment_at(offset)
    }

    fn identity(&self) -> Option<HostFileId> {
        self.source.identity()
    }

    fn protocol(&self) -> Option<&'static str> {
        self.source.protocol()
    }

    fn io(&self) -> IoHints {
        self.source.io()
    }
}

impl Sink for NbdStorage {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.check_range(offset, buf.len() as u64)?;
        let [before, whole, after] = self.split(offset, buf.len() as u64);
        let part = |range: &Range<u64>| {
            &buf[(range.start - offset) as usize..(range.end - offset) as usize]
        };
        self.changing(|| {
            self.write_partial(part(&before), before.start)?;
            self.source.client.write(whole.start, part(&whole))?;
            self.write_partial(part(&after), after.start)
        })
    }

    fn is_zeroed(&self) -> bool {
        false
    }

    fn has_fixed_len(&self) -> bool {
        true
    }

    fn fill_zeros_at(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check_range(offset, len)?;
        self.changing(|| self.zero(offset, len, false))
    }

    fn write_zeros_at(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check_range(offset, len)?;
        self.changing(|| self.zero(offset, len, true))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_range(0, len)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(self.source.client.flush()?)
    }
}

impl Storage for NbdStorage {
    fn current_len(&self) -> u64 {
        self.len()
    }

    fn discard_at(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check_range(offset, len)?;
        let whole = self.whole_blocks(offset, len);
        if whole.is_empty() || !self.source.client.export().can_trim() {
            return Ok(());
        }
        self.changing(|| Ok(self.source.client.trim(whole.start, whole.end - whole.start)?))
    }
}
