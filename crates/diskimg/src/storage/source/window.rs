//! Parts of sources.

use super::{IoHints, Segment, Source, SourceError};
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

/// A range of another source, such as an image inside a larger file.
#[derive(Debug)]
pub struct WindowSource {
    inner: Arc<dyn Source>,
    range: Range<u64>,
}

impl WindowSource {
    /// Creates a source of the bytes `range` of `inner`.
    ///
    /// # Errors
    /// Returns [`SourceError::OutOfRange`] if the range is reversed or exceeds `inner`.
    pub fn new(inner: Arc<dyn Source>, range: Range<u64>) -> Result<Self, SourceError> {
        let Range { start: offset, end } = range;
        if offset > end || end > inner.len() {
            let len = end.saturating_sub(offset);
            return Err(SourceError::OutOfRange { offset, len, source_len: inner.len() });
        }
        Ok(Self { inner, range })
    }
}

impl Source for WindowSource {
    fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        super::check_range(offset, buf.len(), self.len())?;
        self.inner.read_exact_at(buf, self.range.start + offset)
    }

    fn segment_at(&self, offset: u64) -> Result<Segment, SourceError> {
        let outer = self.inner.segment_at(self.range.start + offset)?;
        Ok(Segment { end: outer.end.min(self.range.end) - self.range.start, hole: outer.hole })
    }

    fn read_ranges(&self, ranges: &mut [(u64, &mut [u8])]) -> Result<(), SourceError> {
        let mut outer = Vec::with_capacity(ranges.len());
        for (offset, buf) in ranges {
            super::check_range(*offset, buf.len(), self.len())?;
            outer.push((self.range.start + *offset, &mut **buf));
        }
        self.inner.read_ranges(&mut outer)
    }

    fn prefetch(&self, ranges: &[Range<u64>]) {
        let outer = |offset: u64| (self.range.start + offset).min(self.range.end);
        let ranges: Vec<_> = ranges.iter().map(|r| outer(r.start)..outer(r.end)).collect();
        self.inner.prefetch(&ranges);
    }

    fn io(&self) -> IoHints {
        self.inner.io()
    }

    fn as_slice(&self) -> Option<&[u8]> {
        let bytes = self.inner.as_slice()?;
        bytes.get(self.range.start as usize..self.range.end as usize)
    }

    fn as_file(&self) -> Option<(&File, u64)> {
        self.inner.as_file().map(|(file, start)| (file, start + self.range.start))
    }

    forward_file!();
}
