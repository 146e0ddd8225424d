//! A source without data.

use diskimg::Source;
use diskimg::storage::source::{Segment, SourceError};

/// A source of any length that is one hole.
#[derive(Debug)]
pub struct Hole(pub u64);

impl Source for Hole {
    fn len(&self) -> u64 {
        self.0
    }

    fn read_exact_at(&self, buf: &mut [u8], _offset: u64) -> Result<(), SourceError> {
        buf.fill(0);
        Ok(())
    }

    fn segment_at(&self, _offset: u64) -> Result<Segment, SourceError> {
        Ok(Segment { end: self.0, hole: true })
    }
}
