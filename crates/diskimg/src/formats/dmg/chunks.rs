//! The chunks of the disk, in guest order.

use super::table::{Chunk, TABLE, Table, Tables, chunk_type};
use crate::error::{Error, Result};
use crate::model::extent::{Encoded, Extent, HostOffset, Kind, push};
use crate::storage::codec::Codec;
use crate::storage::number::to_index;
use std::ops::Range;

/// Compressed chunks may be stored in this many bytes, however short they are: headers.
const MIN_STORED: u64 = 64 << 10;

/// The chunks of a disk.
#[derive(Debug)]
pub(super) struct Chunks {
    /// Size of the disk in bytes.
    pub(super) size: u64,
    /// In ascending order of their guest offsets.
    pub(super) chunks: Vec<Chunk>,
    pub(super) tables: Vec<Table>,
    /// Guest ranges in which chunks overlap: nothing says which of them is valid. In ascending
    /// order, disjoint.
    pub(super) overlaps: Vec<Range<u64>>,
    /// Length of the file in bytes.
    file_len: u64,
    /// Maximum length of a compressed chunk.
    max_unit: u64,
}

/// Returns the codec of compressed chunks of a type.
pub(super) fn codec_of(chunk_type: u32) -> Option<Codec> {
    Some(match chunk_type {
        chunk_type::ADC => Codec::Adc,
        chunk_type::ZLIB => Codec::Zlib,
        chunk_type::BZIP2 => Codec::Bzip2,
        chunk_type::LZFSE => Codec::Lzfse,
        chunk_type::LZMA => Codec::Xz,
        _ => return None,
    })
}

impl Chunks {
    /// Sorts the chunks and finds those that overlap. The size of the disk is at least `size`.
    pub(super) fn new(tables: Tables, size: u64, file_len: u64, max_unit: u64) -> Self {
        let Tables { tables, mut chunks, .. } = tables;
        chunks.sort_unstable_by_key(|chunk| (chunk.start, chunk.end));
        let ends = tables.iter().map(|table| table.sectors.1 * super::SECTOR);
        let ends = ends.chain(chunks.iter().map(|chunk| chunk.end));
        let size = ends.fold(size, u64::max);
        let mut overlaps: Vec<Range<u64>> = Vec::new();
        let mut group = 0..0;
        for chunk in &chunks {
            if chunk.start >= group.end {
                group = chunk.start..chunk.end;
                continue;
            }
            group.end = group.end.max(chunk.end);
            match overlaps.last_mut() {
                Some(last) if last.start == group.start => last.end = group.end,
                _ => overlaps.push(group.clone()),
            }
        }
        Self { size, chunks, tables, overlaps, file_len, max_unit }
    }

    /// Appends the extents that cover `range`.
    ///
    /// # Errors
    /// As [`Layer::map`](crate::Layer::map).
    pub(super) fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        let overlap = self.overlaps.partition_point(|overlap| overlap.end <= range.start);
        if let Some(overlap) = self.overlaps.get(overlap).filter(|o| o.start < range.end) {
            let message = format!(
                "several chunks have guest bytes in {:#x}..{:#x}",
                overlap.start, overlap.end
            );
            return Err(Error::corrupt(TABLE, message).losing(overlap.clone()));
        }
        let first = self.chunks.partition_point(|chunk| chunk.end <= range.start);
        let mut at = range.start;
        for chunk in self.chunks[first..].iter().take_while(|chunk| chunk.start < range.end) {
            push(out, at..chunk.start.max(at), Kind::Unallocated);
            let part = chunk.start.max(at)..chunk.end.min(range.end);
            let kind = self.kind(chunk).map_err(|e| e.losing(chunk.start..chunk.end))?;
            push(out, part.clone(), kind.forward(part.start - chunk.start));
            at = part.end;
        }
        push(out, at..range.end, Kind::Unallocated);
        Ok(())
    }

    /// Returns how a chunk is stored.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if its bytes are not within the file or are too few or
    /// too many, [`Unsupported`](crate::ErrorKind::Unsupported) if its type is not known,
    /// [`Limit`](crate::ErrorKind::Limit) if it is too long.
    pub(super) fn kind(&self, chunk: &Chunk) -> Result<Kind> {
        let len = chunk.end - chunk.start;
        let host = HostOffset { file: 0, offset: chunk.offset };
        let (max_stored, codec) = match chunk.chunk_type {
            chunk_type::ZERO => return Ok(Kind::Zero(None)),
            chunk_type::IGNORE => return Ok(Kind::Unallocated),
            chunk_type::RAW => (len, None),
            other => match codec_of(other) {
                Some(codec) => (len.saturating_mul(2).max(MIN_STORED), Some(codec)),
                None => {
                    let what = self.describe(chunk);
                    return Err(Error::unsupported(format!("{what} has an unknown type"))
                        .in_structure(TABLE)
                        .at(chunk.offset)
                        .hint("convert the image on a Mac: hdiutil convert -format UDZO"));
                }
            },
        };
        let corrupt = |message: String| {
            Error::corrupt(TABLE, format!("{}: {message}", self.describe(chunk))).at(chunk.offset)
        };
        if chunk.stored > max_stored || codec.is_none() && chunk.stored < len {
            return Err(corrupt(format!("{} stored bytes for {len} bytes", chunk.stored)));
        }
        if chunk.offset.checked_add(chunk.stored).is_none_or(|end| end > self.file_len) {
            let message = format!("its {} bytes extend beyond the end of the file", chunk.stored);
            return Err(corrupt(message).hint("the file is probably truncated"));
        }
        let Some(codec) = codec else { return Ok(Kind::Data(host)) };
        if len > self.max_unit {
            let found = format!("{} of {len} bytes", self.describe(chunk));
            return Err(Error::over_limit("unit_bytes", found, self.max_unit).at(chunk.offset));
        }
        let Ok(stored) = u32::try_from(chunk.stored) else {
            return Err(corrupt(format!("{} stored bytes", chunk.stored)));
        };
        let unit = chunk.start..chunk.end;
        Ok(Kind::Encoded(Encoded { host, stored, least_stored: stored, unit, codec }))
    }

    /// Returns how messages call a chunk.
    pub(super) fn describe(&self, chunk: &Chunk) -> String {
        let table = self.tables.get(to_index(chunk.table));
        let table = table.map(|table| table.label(to_index(chunk.table))).unwrap_or_default();
        format!("{table}: chunk of type {:#x} at guest offset {:#x}", chunk.chunk_type, chunk.start)
    }

    /// As [`Layer::next_allocated_hint`](crate::Layer::next_allocated_hint). Chunks of zeros are
    /// skipped as well, because there is no backing file: a disk may have exabytes of them.
    pub(super) fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        // Mapping fails where chunks overlap. Elsewhere, their ends are in ascending order.
        let overlap = self.overlaps.partition_point(|overlap| overlap.end <= range.start);
        let until = self.overlaps.get(overlap).map_or(range.end, |overlap| overlap.start);
        let until = until.clamp(range.start, range.end);
        let first = self.chunks.partition_point(|chunk| chunk.end <= range.start);
        let is_stored =
            |chunk: &&Chunk| !matches!(chunk.chunk_type, chunk_type::ZERO | chunk_type::IGNORE);
        match self.chunks[first..].iter().take(MAX_SKIPPED).find(is_stored) {
            Some(next) => next.start.clamp(range.start, until),
            // Only chunks that store nothing, as far as the search went.
            None => match self.chunks.get(first + MAX_SKIPPED - 1) {
                Some(last) => last.end.clamp(range.start, until),
                None => until,
            },
        }
    }

    /// Returns the number of the table of a chunk.
    pub(super) fn table_of(chunk: &Chunk) -> usize {
        to_index(chunk.table)
    }
}

/// Number of chunks that a hint skips at most.
const MAX_SKIPPED: usize = 1024;
