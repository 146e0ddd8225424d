//! The block status that was asked for, so that it is not asked for again.

use super::pool::Client;
use crate::nbd::wire::Descriptor;
use diskimg::storage::source::SourceError;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Maximum number of ranges that are kept: 32 MiB or so.
const MAX_KEPT: usize = 1 << 20;

/// A range of an export with the same flags in a context of metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nbd) struct StatusRange {
    pub(in crate::nbd) end: u64,
    pub(in crate::nbd) flags: u32,
}

/// Ranges of a context of metadata.
#[derive(Debug)]
pub(in crate::nbd) struct BlockStatusCache {
    context: String,
    /// Flags that matter.
    mask: u32,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// By their start.
    ranges: BTreeMap<u64, StatusRange>,
    /// Counts changes of the export.
    changes: u64,
}

impl Known {
    fn at(&self, offset: u64) -> Option<StatusRange> {
        let (_, found) = self.ranges.range(..=offset).next_back()?;
        (found.end > offset).then_some(*found)
    }

    /// Returns the range at `offset`, with those after it that have the same flags.
    fn run_at(&self, offset: u64) -> Option<StatusRange> {
        let mut run = self.at(offset)?;
        for (&start, next) in self.ranges.range(run.end..) {
            if start != run.end || next.flags != run.flags {
                break;
            }
            run.end = next.end;
        }
        Some(run)
    }

    fn insert(&mut self, offset: u64, descriptors: &[Descriptor], mask: u32, size: u64) {
        if self.ranges.len() + descriptors.len() > MAX_KEPT {
            self.ranges.clear();
        }
        let mut start = offset;
        for part in descriptors {
            let end = start.saturating_add(part.len.into()).min(size);
            let flags = part.flags & mask;
            // What is known already is as good.
            match self.ranges.range_mut(..start).next_back() {
                Some((_, last)) if last.end == start && last.flags == flags => last.end = end,
                Some((_, last)) if last.end > start => {}
                _ => drop(self.ranges.entry(start).or_insert(StatusRange { end, flags })),
            }
            start = end;
            if start >= size {
                break;
            }
        }
    }
}

impl BlockStatusCache {
    pub(in crate::nbd) fn new(context: impl Into<String>, mask: u32) -> Self {
        Self { context: context.into(), mask, known: Mutex::default() }
    }

    /// Returns the range at `offset`, which must be within the export.
    ///
    /// # Errors
    /// Returns the error of the connection or of the server.
    pub(in crate::nbd) fn at(
        &self,
        client: &Client,
        offset: u64,
    ) -> Result<StatusRange, SourceError> {
        let lock = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (changes, next) = {
            let known = lock();
            if let Some(run) = known.run_at(offset) {
                return Ok(run);
            }
            let next = known.ranges.range(offset..).next();
            (known.changes, next.map_or(client.size(), |(&start, _)| start))
        };
        let min = u64::from(client.export().min_block);
        let start = offset - offset % min;
        let descriptors = client.block_status(&self.context, start, next)?;
        // Only what was found now is sure to begin at `start`.
        let mut fresh = Known::default();
        fresh.insert(start, &descriptors, self.mask, client.size());
        let mut known = lock();
        // What was asked for before a change may be wrong after it.
        if known.changes == changes {
            known.insert(start, &descriptors, self.mask, client.size());
        }
        match fresh.run_at(offset) {
            Some(run) => Ok(run),
            None => Err(super::violation("the block status ends before what was asked for")),
        }
    }

    /// Forgets everything, because the export is changed.
    pub(in crate::nbd) fn note_change(&self) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.changes += 1;
        known.ranges.clear();
    }
}
