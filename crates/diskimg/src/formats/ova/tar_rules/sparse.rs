//! The maps of sparse members in GNU tar's old format.

use super::header::{Header, number};
use super::{BLOCK, Walk};
use crate::error::Result;
use crate::storage::number::to_usize;

impl Walk<'_> {
    /// Verifies the map of a sparse file in GNU tar's old format, of which `size` bytes are stored,
    /// and returns the number of blocks with further pieces.
    pub(super) fn sparse_blocks(&mut self, header: &Header<'_>, size: u64) -> Result<u64> {
        const HEADER_MORE: usize = 482;
        const BLOCK_MORE: usize = 504;
        let mut map = SparseMap::default();
        map.add(&header.0[386..HEADER_MORE]);
        let mut more = header.0[HEADER_MORE] != 0;
        let mut blocks = 0;
        while more {
            let mut list = [0; to_usize(BLOCK)];
            blocks += 1;
            let is_whole = self.read(self.at + blocks * BLOCK, &mut list)? == list.len();
            map.add(&list[..BLOCK_MORE]);
            more = is_whole && list[BLOCK_MORE] != 0;
        }
        if !map.describes(size, number(&header.0[483..495])) {
            self.problem(self.at, "a map of a sparse member that programs read differently");
        }
        Ok(blocks)
    }
}

/// The pieces of a sparse member in GNU tar's old format: pairs of offset and length.
#[derive(Default)]
struct SparseMap {
    /// Length in bytes of all pieces.
    stored: u64,
    /// Offset of the end of the last piece.
    end: u64,
    /// Whether the last piece has been read: one that is empty, or an unused pair.
    complete: bool,
    invalid: bool,
}

impl SparseMap {
    /// Length in bytes of a pair.
    const PAIR: usize = 24;

    fn add(&mut self, pairs: &[u8]) {
        for pair in pairs.chunks_exact(Self::PAIR) {
            if pair.iter().all(|&byte| byte == 0) {
                self.complete = true;
                continue;
            }
            let piece = number(&pair[..12]).zip(number(&pair[12..]));
            let end = piece.and_then(|(start, len)| start.checked_add(len));
            match (piece, end) {
                (Some((start, len)), Some(end)) if !self.complete && start >= self.end => {
                    self.stored = self.stored.saturating_add(len);
                    self.end = end;
                    self.complete = len == 0;
                }
                _ => self.invalid = true,
            }
        }
    }

    /// Returns true if all programs read the same: `size` bytes are stored, and the last piece ends
    /// where the file does.
    fn describes(&self, size: u64, real_size: Option<u64>) -> bool {
        !self.invalid && self.stored == size && real_size == Some(self.end)
    }
}
