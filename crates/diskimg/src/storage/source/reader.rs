//! Sources as streams.

use super::Source;
use std::io::{self, Read};
use std::ops::Range;

/// Reads a range of a source as a stream.
#[derive(Debug)]
pub(crate) struct SourceReader<'a> {
    source: &'a dyn Source,
    range: Range<u64>,
}

impl<'a> SourceReader<'a> {
    pub(crate) fn new(source: &'a dyn Source, range: Range<u64>) -> Self {
        Self { source, range }
    }

    /// Reads the whole source.
    pub(crate) fn whole(source: &'a dyn Source) -> Self {
        Self::new(source, 0..source.len())
    }
}

impl Read for SourceReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = (buf.len() as u64).min(self.range.end.saturating_sub(self.range.start));
        let n = read_some(self.source, &mut buf[..n as usize], self.range.start)?;
        self.range.start += n as u64;
        Ok(n)
    }
}

/// Reads up to `buf.len()` bytes at `offset`; fewer only at the end of the source.
pub(crate) fn read_some(source: &dyn Source, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let n = source.len().saturating_sub(offset).min(buf.len() as u64) as usize;
    if n > 0 {
        source.read_exact_at(&mut buf[..n], offset)?;
    }
    Ok(n)
}
