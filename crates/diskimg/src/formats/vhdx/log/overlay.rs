//! A file with the changes of its log. Pages are read from the log when they are needed; in memory
//! is only where they are.

use super::entry::{self, DESCRIPTOR_BYTES};
use super::{SECTOR, STRUCTURE};
use crate::error::{Error, Result};
use crate::storage::locking::Lock;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::{HostFileId, IoHints, Segment, Source, SourceError};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Maximum number of ranges that a log changes: at most 64 MiB of memory. A log of 1 GiB, the
/// largest, has room for 260,000 pages, but for many more ranges of zeros.
const MAX_CHANGES: usize = 1 << 20;

/// Where the new bytes of a range are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum New {
    /// A page, which is in this sector of the log; its first and last bytes are in a descriptor, by
    /// its offset in the log in units of its length.
    Page { sector: u32, descriptor: u32 },
    /// Zeros up to this host offset.
    Zeros { end: u64 },
}

/// Changed ranges by their starts. They do not overlap.
#[derive(Debug)]
pub(super) struct Changes(BTreeMap<u64, New>);

impl Changes {
    pub(super) fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Replaces the page at host offset `at`.
    pub(super) fn page(&mut self, at: u64, sector: u32, descriptor: u32) {
        self.remove(at..at + to_u64(SECTOR));
        self.0.insert(at, New::Page { sector, descriptor });
    }

    /// Replaces a range by zeros.
    pub(super) fn zeros(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        self.remove(range.clone());
        if let Some((_, New::Zeros { end })) = self.0.range_mut(..range.start).next_back()
            && *end == range.start
        {
            *end = range.end;
            return;
        }
        self.0.insert(range.start, New::Zeros { end: range.end });
    }

    /// Removes the changes of a range: a later entry changes it.
    fn remove(&mut self, range: Range<u64>) {
        let mut rest = None;
        if let Some((_, New::Zeros { end })) = self.0.range_mut(..range.start).next_back()
            && *end > range.start
        {
            rest = Some(*end);
            *end = range.start;
        }
        while let Some((&start, &new)) = self.0.range(range.clone()).next() {
            self.0.remove(&start);
            if let New::Zeros { end } = new {
                rest = Some(end);
            }
        }
        if let Some(end) = rest.filter(|&end| end > range.end) {
            self.0.insert(range.end, New::Zeros { end });
        }
    }

    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) if there are too many changes.
    pub(super) fn require_limit(&self) -> Result<()> {
        if self.0.len() <= MAX_CHANGES {
            return Ok(());
        }
        let message = format!("it changes more than {MAX_CHANGES} ranges of the file");
        Err(Error::limit(message).in_structure(STRUCTURE))
    }

    /// Returns the end of the last range.
    fn end(&self) -> u64 {
        self.0.last_key_value().map_or(0, |(&start, new)| end_of(start, new))
    }
}

fn end_of(start: u64, new: &New) -> u64 {
    match new {
        New::Page { .. } => start + to_u64(SECTOR),
        New::Zeros { end } => *end,
    }
}

/// A file with the changes of its log.
#[derive(Debug)]
pub(in super::super) struct Overlay {
    inner: Arc<dyn Source>,
    /// Host offset of the log.
    log_at: u64,
    changes: Changes,
    /// Length of the file after the changes.
    len: u64,
    /// Number of entries of the log that were applied.
    entries: usize,
}

impl Overlay {
    /// A file that is extended to `last` bytes, rounded up to 1 MiB, if it is shorter.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if that is too long for a file.
    pub(super) fn new(
        inner: Arc<dyn Source>,
        log: Range<u64>,
        changes: Changes,
        last: u64,
        entries: usize,
    ) -> Result<Self> {
        let Some(last) = last
            .checked_next_multiple_of(super::super::MIB)
            .filter(|&last| last <= i64::MAX.unsigned_abs())
        else {
            let message = format!("the file is to have {last} bytes, more than a file can have");
            return Err(Error::corrupt(STRUCTURE, message).at(log.start));
        };
        let len = if inner.len() < last { last } else { inner.len() };
        let len = len.max(changes.end());
        Ok(Self { inner, log_at: log.start, changes, len, entries })
    }

    /// Returns the number of entries of the log whose changes this file has.
    pub(in super::super) fn entries(&self) -> usize {
        self.entries
    }

    /// Returns the host ranges that differ from the file or may, in ascending order. Reading this
    /// source returns their bytes.
    pub(in super::super) fn changed_ranges(&self) -> impl Iterator<Item = Range<u64>> {
        self.changes.0.iter().map(|(&start, new)| start..end_of(start, new))
    }

    /// Returns the change that `offset` is in, if there is one, and the end of it or the start of
    /// the next one.
    fn change_at(&self, offset: u64) -> (Option<(u64, New)>, u64) {
        if let Some((&start, new)) = self.changes.0.range(..=offset).next_back()
            && end_of(start, new) > offset
        {
            return (Some((start, *new)), end_of(start, new));
        }
        let next = self.changes.0.range(offset..).next();
        (None, next.map_or(self.len, |(&start, _)| start.min(self.len)))
    }

    /// Reads a page from the log.
    fn read_page(
        &self,
        sector: u32,
        descriptor: u32,
    ) -> std::result::Result<[u8; SECTOR], SourceError> {
        let mut page = [0; SECTOR];
        self.inner.read_exact_at(&mut page, self.log_at + u64::from(sector) * to_u64(SECTOR))?;
        let mut raw = [0; DESCRIPTOR_BYTES];
        let at = self.log_at + u64::from(descriptor) * to_u64(DESCRIPTOR_BYTES);
        self.inner.read_exact_at(&mut raw, at)?;
        let (leading, trailing) = entry::edges(&raw);
        page[..8].copy_from_slice(&leading);
        page[SECTOR - 4..].copy_from_slice(&trailing);
        Ok(page)
    }

    /// Reads bytes that are not changed: those beyond the end of the file are zeros.
    fn read_inner(&self, buf: &mut [u8], offset: u64) -> std::result::Result<(), SourceError> {
        let stored = to_usize(self.inner.len().saturating_sub(offset)).min(buf.len());
        let (stored, beyond) = buf.split_at_mut(stored);
        beyond.fill(0);
        if stored.is_empty() { Ok(()) } else { self.inner.read_exact_at(stored, offset) }
    }
}

impl Source for Overlay {
    fn len(&self) -> u64 {
        self.len
    }

    fn stored_len(&self) -> u64 {
        self.inner.stored_len()
    }

    fn read_exact_at(
        &self,
        mut buf: &mut [u8],
        mut offset: u64,
    ) -> std::result::Result<(), SourceError> {
        crate::storage::source::check_range(offset, buf.len(), self.len)?;
        while !buf.is_empty() {
            let (change, end) = self.change_at(offset);
            let part = to_usize(end - offset).min(buf.len());
            let (now, rest) = buf.split_at_mut(part);
            match change {
                None => self.read_inner(now, offset)?,
                Some((_, New::Zeros { .. })) => now.fill(0),
                Some((start, New::Page { sector, descriptor })) => {
                    let page = self.read_page(sector, descriptor)?;
                    let skipped = to_usize(offset - start);
                    now.copy_from_slice(&page[skipped..skipped + part]);
                }
            }
            offset += to_u64(part);
            buf = rest;
        }
        Ok(())
    }

    fn prefetch(&self, ranges: &[Range<u64>]) {
        let len = self.inner.len();
        let inside = ranges.iter().map(|range| range.start.min(len)..range.end.min(len));
        self.inner.prefetch(&inside.collect::<Vec<_>>());
    }

    fn io(&self) -> IoHints {
        self.inner.io()
    }

    fn segment_at(&self, offset: u64) -> std::result::Result<Segment, SourceError> {
        match self.change_at(offset) {
            (Some((_, New::Zeros { .. })), end) => {
                Ok(Segment { end: end.min(self.len), hole: true })
            }
            (Some(_), end) => Ok(Segment { end, hole: false }),
            (None, end) if offset >= self.inner.len() => Ok(Segment { end, hole: true }),
            (None, end) => {
                let inner = self.inner.segment_at(offset)?;
                Ok(Segment { end: inner.end.min(end), ..inner })
            }
        }
    }

    fn path(&self) -> Option<&Path> {
        self.inner.path()
    }

    fn is_device(&self) -> bool {
        self.inner.is_device()
    }

    fn allocated_bytes(&self) -> io::Result<Option<u64>> {
        self.inner.allocated_bytes()
    }

    fn lock(&self, lock: Lock) -> io::Result<()> {
        self.inner.lock(lock)
    }

    fn identity(&self) -> Option<HostFileId> {
        self.inner.identity()
    }

    fn identities(&self) -> Vec<HostFileId> {
        self.inner.identities()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(changes: &Changes) -> Vec<(u64, u64, bool)> {
        let is_page = |new: &New| matches!(new, New::Page { .. });
        changes.0.iter().map(|(&start, new)| (start, end_of(start, new), is_page(new))).collect()
    }

    #[test]
    fn later_changes_replace_earlier_ones_in_part() {
        const P: u64 = 4096;
        let mut changes = Changes::new();
        changes.zeros(0..10 * P);
        changes.page(3 * P, 1, 1);
        assert_eq!(
            ranges(&changes),
            [(0, 3 * P, false), (3 * P, 4 * P, true), (4 * P, 10 * P, false)]
        );
        changes.zeros(2 * P..5 * P);
        assert_eq!(ranges(&changes), [(0, 5 * P, false), (5 * P, 10 * P, false)]);
        changes.page(9 * P, 1, 1);
        changes.page(9 * P, 2, 2);
        changes.zeros(20 * P..20 * P);
        assert_eq!(
            ranges(&changes),
            [(0, 5 * P, false), (5 * P, 9 * P, false), (9 * P, 10 * P, true)]
        );
        changes.zeros(0..10 * P);
        assert_eq!(ranges(&changes), [(0, 10 * P, false)]);
    }
}
