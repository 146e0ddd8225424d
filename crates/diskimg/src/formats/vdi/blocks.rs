//! The block map.
//!
//! ```text
//!   guest offset ──► block map ──► index ──► data + index · (extra + block) + extra
//!                    u32 per block
//!                    (in memory)
//!   entry ffffffff: free     entry fffffffe: zeros
//! ```

use super::header::Header;
use super::read;
use crate::error::{Error, Result};
use crate::formats::distinct::SharedTables;
use crate::formats::holes::require_stored;
use crate::model::extent::{Extent, HostOffset, Kind, push};
use crate::model::layer::next_allocated_in_table;
use crate::open::OpenContext;
use crate::storage::number::to_usize;
use crate::storage::source::Source;
use std::ops::Range;
use std::sync::OnceLock;
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::U32;

/// The entry of a free block: zeros or, in a differencing image, the parent's bytes.
pub(super) const FREE: u32 = u32::MAX;

/// The entry of a block of zeros.
pub(super) const ZERO: u32 = u32::MAX - 1;

/// How messages call the block map.
pub(super) const MAP: &str = "VDI block map";

/// Returns true if an entry of the block map is the index of a block in the file.
pub(super) const fn is_index(entry: u32) -> bool {
    entry < ZERO
}

/// The blocks of a disk.
#[derive(Debug)]
pub(super) struct Blocks {
    /// Size of the disk in bytes.
    pub(super) size: u64,
    pub(super) block_bytes: u64,
    block_extra: u64,
    data_at: u64,
    /// The block map, as far as the disk needs it.
    pub(super) map: Vec<u32>,
    /// The blocks that several entries refer to; found when guest data is first mapped.
    shared: OnceLock<SharedTables>,
    /// Length of the file in bytes.
    file_len: u64,
    /// Blocks beyond the end of the file read as zeros, as in QEMU.
    zeros_beyond_end: bool,
}

/// Where the guest bytes of a block are.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockPlace {
    /// Host offset of the first one.
    pub(super) data: u64,
    /// Number of bytes that are in the file; the rest are zeros.
    stored: u64,
}

impl Blocks {
    /// Reads the block map.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is not within the file,
    /// [`Limit`](crate::ErrorKind::Limit) if it is too large, [`Io`](crate::ErrorKind::Io).
    pub(super) fn open(
        source: &dyn Source,
        header: &Header,
        context: &OpenContext<'_>,
    ) -> Result<Self> {
        let count = header.needed_blocks(context.limits)?;
        require_stored(source, MAP, header.map_at, count * 4)?;
        let map_end = header.map_at + count * 4;
        if map_end > source.len() {
            let message = format!("its {} bytes extend beyond the end of the file", count * 4);
            return Err(Error::corrupt(MAP, message)
                .at(header.map_at)
                .hint("the file is probably truncated"));
        }
        let mut raw = vec![U32::ZERO; to_usize(count)];
        read(source, raw.as_mut_bytes(), header.map_at, MAP)?;
        Ok(Self {
            size: header.disk_size(),
            block_bytes: header.block_bytes,
            block_extra: header.block_extra,
            data_at: header.data_at,
            map: raw.iter().map(|entry| entry.get()).collect(),
            shared: OnceLock::new(),
            file_len: source.len(),
            zeros_beyond_end: context.like_qemu,
        })
    }

    /// Appends the extents that cover `range`.
    ///
    /// # Errors
    /// As [`Layer::map`](crate::Layer::map).
    pub(super) fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let block = at / self.block_bytes;
            let start = block * self.block_bytes;
            let guest = start..(start + self.block_bytes).min(self.size);
            let end = guest.end.min(range.end);
            match self.entry(block) {
                FREE => push(out, at..end, Kind::Unallocated),
                ZERO => push(out, at..end, Kind::Zero(None)),
                index => {
                    let place = self.place(block, index).map_err(|e| e.losing(guest.clone()))?;
                    let stored_end = (start + place.stored).clamp(at, end);
                    if at < stored_end {
                        let host = HostOffset { file: 0, offset: place.data + (at - start) };
                        push(out, at..stored_end, Kind::Data(host));
                    }
                    if stored_end < end {
                        push(out, stored_end..end, Kind::Zero(None));
                    }
                }
            }
            at = end;
        }
        Ok(())
    }

    /// Returns the entry of a block.
    fn entry(&self, block: u64) -> u32 {
        self.map.get(to_usize(block)).copied().unwrap_or(FREE)
    }

    /// Returns the host offset of the guest bytes of the block with this index in the file.
    pub(super) fn data_of(&self, index: u32) -> u64 {
        self.data_at + u64::from(index) * self.stride() + self.block_extra
    }

    /// Returns the host bytes of a block.
    pub(super) fn stride(&self) -> u64 {
        self.block_extra + self.block_bytes
    }

    /// Returns where the guest bytes of a block are, whose entry is `index`.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if another entry refers to it, or if the file ends
    /// before the last guest byte in it.
    pub(super) fn place(&self, block: u64, index: u32) -> Result<BlockPlace> {
        let shared = self.shared.get_or_init(|| {
            let place = |&entry: &u32| is_index(entry).then_some(u64::from(entry));
            SharedTables::find(self.map.iter().map(place), 1)
        });
        if shared.contains(index.into()) {
            return Err(shared.error(MAP, "block"));
        }
        let (data, needed) = (self.data_of(index), self.needed(block));
        let stored = self.file_len.saturating_sub(data).min(needed);
        if stored == needed || self.zeros_beyond_end {
            return Ok(BlockPlace { data, stored });
        }
        let message = format!(
            "block {block} extends to {:#x}, beyond the end of the file at {:#x}",
            data + needed,
            self.file_len
        );
        Err(Error::corrupt(MAP, message).at(data).hint("the file is probably truncated"))
    }

    /// Returns the number of guest bytes of a block: those of the last one may be fewer.
    fn needed(&self, block: u64) -> u64 {
        (self.size - block * self.block_bytes).min(self.block_bytes)
    }

    /// As [`Layer::next_allocated_hint`](crate::Layer::next_allocated_hint).
    pub(super) fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        next_allocated_in_table(&self.map, self.block_bytes, range, |&entry| entry == FREE)
    }
}
