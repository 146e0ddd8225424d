//! Sparse members of a tar archive: files of which the holes are not stored.
//!
//! ```text
//!   header: offset and length of up to 4 pieces ─► more headers of 21 pieces ─► the pieces' bytes
//!
//!   file     ▒▒▒▒▒▒▒▒········▒▒▒▒····························▒▒▒▒
//!   stored   ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒
//! ```
//!
//! GNU tar's manual, "Old GNU Format" (`tar --sparse`).

use crate::error::{Error, Result};
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::{HostFileId, Segment, Source, SourceError, check_range};
use std::path::Path;
use std::sync::Arc;

/// A piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    /// Offset in the file.
    start: u64,
    /// Offset in the stored bytes.
    stored: u64,
    /// Length in bytes; not 0.
    len: u64,
}

impl Piece {
    const BYTES: u64 = to_u64(size_of::<Self>());

    fn end(&self) -> u64 {
        self.start + self.len
    }
}

/// The pieces of a file, in ascending order and not overlapping.
#[derive(Debug, Clone, Default)]
pub(super) struct Pieces(Vec<Piece>);

impl Pieces {
    /// Adds a piece.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is not after the others or not within a file of
    /// `size` bytes, [`Limit`](crate::ErrorKind::Limit) if the list would exceed `max_bytes`.
    pub(super) fn add(&mut self, start: u64, len: u64, size: u64, max_bytes: u64) -> Result<()> {
        // The last piece marks the end of the file.
        if len == 0 {
            return Ok(());
        }
        let last = self.0.last().map_or(0, Piece::end);
        if start < last || start.checked_add(len).is_none_or(|end| end > size) {
            let message = format!("a piece of {len} bytes at {start:#x} of a file of {size} bytes");
            return Err(Error::corrupt("sparse member", message));
        }
        if self.memory() + Piece::BYTES > max_bytes {
            let found = format!("a sparse member of more than {} pieces", self.0.len());
            return Err(Error::over_limit("table_bytes", found, max_bytes));
        }
        self.0.push(Piece { start, stored: self.stored(), len });
        Ok(())
    }

    /// Size of the list in bytes.
    pub(super) fn memory(&self) -> u64 {
        to_u64(self.0.len()) * Piece::BYTES
    }

    /// Total length of the pieces in bytes.
    pub(super) fn stored(&self) -> u64 {
        self.0.last().map_or(0, |last| last.stored + last.len)
    }
}

/// A sparse file: the pieces of `stored`, and zeros between them.
#[derive(Debug)]
pub(super) struct SparseSource {
    stored: Arc<dyn Source>,
    pieces: Arc<Pieces>,
    size: u64,
}

impl SparseSource {
    pub(super) fn new(stored: Arc<dyn Source>, pieces: Arc<Pieces>, size: u64) -> Self {
        Self { stored, pieces, size }
    }

    /// Returns the piece that contains `offset`, and otherwise the end of the hole there.
    fn piece_at(&self, offset: u64) -> Result<Piece, u64> {
        let pieces = &self.pieces.0;
        let index = pieces.partition_point(|piece| piece.end() <= offset);
        match pieces.get(index) {
            Some(piece) if piece.start <= offset => Ok(*piece),
            Some(piece) => Err(piece.start),
            None => Err(self.size),
        }
    }
}

impl Source for SparseSource {
    fn len(&self) -> u64 {
        self.size
    }

    fn stored_len(&self) -> u64 {
        self.pieces.stored()
    }

    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> Result<(), SourceError> {
        check_range(offset, buf.len(), self.size)?;
        while !buf.is_empty() {
            let found = self.piece_at(offset);
            let end = found.map_or_else(|hole| hole, |piece| piece.end());
            let len = to_usize((end - offset).min(to_u64(buf.len())));
            let (now, later) = buf.split_at_mut(len);
            match found {
                Ok(piece) => {
                    self.stored.read_exact_at(now, piece.stored + (offset - piece.start))?;
                }
                Err(_) => now.fill(0),
            }
            offset += to_u64(len);
            buf = later;
        }
        Ok(())
    }

    fn segment_at(&self, offset: u64) -> Result<Segment, SourceError> {
        Ok(match self.piece_at(offset) {
            Ok(piece) => Segment { end: piece.end(), hole: false },
            Err(end) => Segment { end, hole: true },
        })
    }

    fn path(&self) -> Option<&Path> {
        self.stored.path()
    }

    fn identity(&self) -> Option<HostFileId> {
        self.stored.identity()
    }

    fn identities(&self) -> Vec<HostFileId> {
        self.stored.identities()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::source::MemorySource;

    #[test]
    fn pieces_are_read_at_their_offsets_and_holes_as_zeros() {
        let mut pieces = Pieces::default();
        for (start, len) in [(2, 3), (5, 1), (8, 2), (12, 0)] {
            pieces.add(start, len, 12, 1 << 10).expect("is valid");
        }
        let stored = Arc::new(MemorySource::new(*b"abcdef"));
        let source = SparseSource::new(stored, Arc::new(pieces), 12);
        let whole = b"\0\0abcd\0\0ef\0\0";
        for start in 0..12 {
            for end in start..=12 {
                let mut buf = vec![9; end - start];
                source.read_exact_at(&mut buf, start as u64).expect("is inside");
                assert_eq!(buf, whole[start..end]);
            }
        }
        source.read_exact_at(&mut [0; 2], 11).expect_err("is outside");
        let ends: Vec<_> = [0, 2, 5, 6, 8, 10]
            .map(|at| source.segment_at(at).map(|segment| (segment.end, segment.hole)))
            .into_iter()
            .map(|segment| segment.expect("is inside"))
            .collect();
        assert_eq!(ends, [(2, true), (5, false), (6, false), (8, true), (10, false), (12, true)]);
    }

    #[test]
    fn pieces_that_overlap_or_are_outside_are_errors_and_their_number_is_limited() {
        let mut pieces = Pieces::default();
        pieces.add(4, 4, 100, 1 << 10).expect("is valid");
        for (start, len) in [(7, 1), (0, 1), (99, 2), (u64::MAX, 2)] {
            pieces.add(start, len, 100, 1 << 10).expect_err("is not valid");
        }
        let error = pieces.add(50, 1, 100, 2 * Piece::BYTES - 1).expect_err("too many");
        assert_eq!(error.exceeded(), Some("table_bytes"));
    }
}
