//! The table of blocks.

use super::header::{Header, TABLE_AT};
use super::read;
use crate::error::{Error, Result};
use crate::formats::table_cache::{MemoryBudget, TableCache};
use crate::model::extent::{Encoded, Extent, HostOffset, Kind, push};
use crate::storage::codec::Codec;
use crate::storage::number::{to_index, to_usize};
use crate::storage::source::Source;
use std::ops::Range;
use zerocopy::IntoBytes;
use zerocopy::byteorder::big_endian::U64;

/// How messages call the table.
pub(super) const STRUCTURE: &str = "cloop block table";

/// Number of blocks whose entries are read together.
const PAGE: u32 = 8192;

/// The blocks of a disk.
#[derive(Debug)]
pub(super) struct Blocks {
    pub(super) header: Header,
    file_len: u64,
    cache: TableCache<u64>,
}

impl Blocks {
    pub(super) fn new(header: Header, file_len: u64) -> Self {
        let cache = TableCache::new(MemoryBudget::default());
        Self { header, file_len, cache }
    }

    /// Appends the extents that cover `range`.
    ///
    /// # Errors
    /// As [`Layer::map`](crate::Layer::map).
    pub(super) fn map(
        &self,
        source: &dyn Source,
        range: Range<u64>,
        out: &mut Vec<Extent>,
    ) -> Result<()> {
        let bytes = self.header.block_bytes;
        let mut at = range.start;
        while at < range.end {
            let start = at / bytes * bytes;
            let unit = start..start + bytes;
            let stored = self.place(source, at / bytes).map_err(|e| e.losing(unit.clone()))?;
            // What follows the stream is ignored.
            let len = (stored.end - stored.start).min(max_compressed(bytes));
            let Ok(len) = u32::try_from(len) else {
                return Err(Error::limit(format!("a block of {len} stored bytes")));
            };
            let end = unit.end.min(range.end);
            let encoded = Encoded {
                host: HostOffset { file: 0, offset: stored.start },
                stored: len,
                least_stored: len,
                unit,
                codec: Codec::Zlib,
            };
            push(out, at..end, Kind::Encoded(encoded));
            at = end;
        }
        Ok(())
    }

    /// Returns the host offsets of a block.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the entries are invalid,
    /// [`Io`](crate::ErrorKind::Io).
    pub(super) fn place(&self, source: &dyn Source, block: u64) -> Result<Range<u64>> {
        let page = block / u64::from(PAGE);
        let entries = self.cache.get(page, || self.read_page(source, page))?;
        let index = to_usize(block % u64::from(PAGE));
        let pair = entries.get(index).zip(entries.get(index + 1));
        let (&start, &end) = pair.unwrap_or((&0, &0));
        let corrupt = |message: String| {
            Err(Error::corrupt(STRUCTURE, message).at(TABLE_AT.saturating_add(block * 8)))
        };
        if start < self.header.table_end() {
            return corrupt(format!("block {block} at {start:#x} overlaps the table"));
        }
        if end <= start {
            return corrupt(format!("block {block} at {start:#x} is said to end at {end:#x}"));
        }
        if end > self.file_len {
            return corrupt(format!(
                "block {block} extends to {end:#x}, beyond the end of the file at {:#x}",
                self.file_len
            ))
            .map_err(|error| error.hint("the file is probably truncated"));
        }
        Ok(start..end)
    }

    /// Reads the entries of a page, and the first one of the next.
    fn read_page(&self, source: &dyn Source, page: u64) -> Result<Vec<u64>> {
        let first = page * u64::from(PAGE);
        let rest = (u64::from(self.header.blocks) + 1).saturating_sub(first);
        let count = to_usize(rest).min(to_index(PAGE) + 1);
        let mut raw = vec![U64::ZERO; count];
        read(source, raw.as_mut_bytes(), TABLE_AT + first * 8, STRUCTURE)?;
        Ok(raw.iter().map(|entry| entry.get()).collect())
    }
}

/// Returns the length in bytes that a compressed block has at most, whatever compressed it: fixed
/// codes take nine bits for a byte.
fn max_compressed(block_bytes: u64) -> u64 {
    block_bytes + block_bytes / 8 + 1024
}
