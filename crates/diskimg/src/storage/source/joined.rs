//! Concatenation of sources.

use super::{HostFileId, IoHints, Segment, Source, SourceError};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// A concatenation of sources, such as the parts of a split file.
#[derive(Debug)]
pub struct JoinedSource {
    /// The non-empty parts.
    parts: Vec<Arc<dyn Source>>,
    /// Offset of each part in the whole; ascending.
    starts: Vec<u64>,
    len: u64,
}

impl JoinedSource {
    /// Concatenates `parts`.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::InvalidInput`] if the total length exceeds 2^64 - 1 bytes.
    pub fn new(parts: impl IntoIterator<Item = Arc<dyn Source>>) -> io::Result<Self> {
        let mut joined = Self { parts: Vec::new(), starts: Vec::new(), len: 0 };
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            let end = joined.len.checked_add(part.len());
            joined.starts.push(joined.len);
            joined.len = end.ok_or(io::ErrorKind::InvalidInput)?;
            joined.parts.push(part);
        }
        Ok(joined)
    }

    /// Returns the part that contains `offset`, which must be less than the length, and the offset
    /// of the part.
    fn part_at(&self, offset: u64) -> (&dyn Source, u64) {
        let index = self.starts.partition_point(|&start| start <= offset) - 1;
        (&*self.parts[index], self.starts[index])
    }
}

impl Source for JoinedSource {
    fn len(&self) -> u64 {
        self.len
    }

    fn stored_len(&self) -> u64 {
        self.parts.iter().map(|part| part.stored_len()).sum()
    }

    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> Result<(), SourceError> {
        super::check_range(offset, buf.len(), self.len)?;
        while !buf.is_empty() {
            let (part, start) = self.part_at(offset);
            let here = (part.len() - (offset - start)).min(buf.len() as u64);
            let (now, later) = buf.split_at_mut(here as usize);
            part.read_exact_at(now, offset - start)?;
            buf = later;
            offset += here;
        }
        Ok(())
    }

    fn segment_at(&self, offset: u64) -> Result<Segment, SourceError> {
        let (part, start) = self.part_at(offset);
        let segment = part.segment_at(offset - start)?;
        Ok(Segment { end: segment.end + start, hole: segment.hole })
    }

    fn prefetch(&self, ranges: &[Range<u64>]) {
        for (part, &start) in self.parts.iter().zip(&self.starts) {
            let here = |range: &Range<u64>| {
                let inside = |offset: u64| offset.clamp(start, start + part.len()) - start;
                inside(range.start)..inside(range.end)
            };
            let ranges: Vec<_> = ranges.iter().map(here).filter(|r| !r.is_empty()).collect();
            part.prefetch(&ranges);
        }
    }

    fn io(&self) -> IoHints {
        let hints = self.parts.iter().map(|part| part.io());
        hints.reduce(IoHints::combine).unwrap_or_default()
    }

    fn path(&self) -> Option<&Path> {
        self.parts.first()?.path()
    }

    fn identity(&self) -> Option<HostFileId> {
        self.parts.first()?.identity()
    }

    fn identities(&self) -> Vec<HostFileId> {
        self.parts.iter().flat_map(|part| part.identities()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::source::MemorySource;

    fn joined(parts: &[&[u8]]) -> JoinedSource {
        let part = |bytes: &&[u8]| Arc::new(MemorySource::new(*bytes)) as Arc<dyn Source>;
        JoinedSource::new(parts.iter().map(part)).expect("fits")
    }

    #[test]
    fn every_range_reads_as_from_a_single_file() {
        let source = joined(&[b"abc", b"", b"d", b"efghi"]);
        let whole = b"abcdefghi";
        assert_eq!(source.len(), 9);
        for start in 0..=whole.len() {
            for end in start..=whole.len() {
                let mut buf = vec![0; end - start];
                source.read_exact_at(&mut buf, start as u64).expect("inside");
                assert_eq!(buf, whole[start..end]);
            }
        }
        let error = source.read_exact_at(&mut [0; 2], 8).expect_err("outside");
        assert!(matches!(error, SourceError::OutOfRange { .. }));
    }

    #[test]
    fn a_segment_ends_with_its_part() {
        let source = joined(&[b"abc", b"d", b"efghi"]);
        let ends: Vec<_> = (0..9).map(|at| source.segment_at(at).expect("inside").end).collect();
        assert_eq!(ends, [3, 3, 3, 4, 9, 9, 9, 9, 9]);
    }

    #[test]
    fn a_concatenation_of_empty_parts_is_empty() {
        assert!(joined(&[b"", b""]).is_empty());
    }
}
