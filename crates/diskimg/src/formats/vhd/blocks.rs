//! The blocks of a dynamic or differencing disk.
//!
//! ```text
//!   guest offset ──► block allocation table ──► bitmap, one bit per sector ──► sector
//!                    u32 per block              before the block's data        of the block
//!                    (in memory)                (on demand)
//!   entry ffffffff, bit 0: zeros or, in a differencing disk, the parent's bytes
//! ```
//!
//! QEMU does not read the bitmaps: it returns what is stored in sectors whose bit is 0. So does the
//! reader if it is to follow QEMU.

use super::header::Header;
use super::{SECTOR, read};
use crate::error::{Error, Result};
use crate::formats::distinct::SharedTables;
use crate::formats::holes::require_stored;
use crate::formats::table_cache::{MemoryBudget, TableCache};
use crate::model::extent::{Extent, HostOffset, Kind, push};
use crate::model::layer::{entries_for, next_allocated_in_table};
use crate::open::OpenContext;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use zerocopy::IntoBytes;
use zerocopy::byteorder::big_endian::U32;

/// The table entry of a block that is not allocated.
pub(super) const FREE: u32 = u32::MAX;

/// The blocks of a disk.
#[derive(Debug)]
pub(super) struct Blocks {
    source: Arc<dyn Source>,
    /// Size of the disk in bytes.
    pub(super) size: u64,
    pub(super) block_bytes: u64,
    /// Length of a block's bitmap in bytes, a multiple of 512.
    pub(super) bitmap_bytes: u64,
    /// Host offset of the table.
    pub(super) table_at: u64,
    /// The first sector of each block, which is that of its bitmap.
    pub(super) table: Vec<u32>,
    /// The blocks that overlap others; found when guest data is first mapped.
    shared: OnceLock<SharedTables>,
    /// Ranges of the file in which no block can be: the first footer, the header, the table.
    reserved: [Range<u64>; 3],
    /// The end of the space for blocks.
    pub(super) data_end: u64,
    /// Whether sectors that are not allocated are the parent's.
    pub(super) differencing: bool,
    /// Whether all sectors of a block are allocated, as for QEMU.
    ignores_bitmaps: bool,
    bitmaps: TableCache<u8>,
}

impl Blocks {
    /// Reads the table of a disk of `size` bytes.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the table is too short or not within the file,
    /// [`Limit`](crate::ErrorKind::Limit) if it is too large, [`Io`](crate::ErrorKind::Io).
    pub(super) fn open(
        source: Arc<dyn Source>,
        header: &Header,
        header_at: u64,
        data_end: u64,
        size: u64,
        differencing: bool,
        context: &OpenContext<'_>,
    ) -> Result<Self> {
        let count = header.blocks(size, context.limits)?;
        let (at, len) = (header.table_at, count * 4);
        if at.checked_add(len).is_none_or(|end| end > data_end) {
            let message = format!("its {len} bytes extend beyond the end of the file");
            return Err(Error::corrupt(TABLE, message)
                .at(at)
                .hint("the file is probably truncated"));
        }
        require_stored(&*source, TABLE, at, len)?;
        let mut raw = vec![U32::ZERO; to_usize(count)];
        read(&*source, raw.as_mut_bytes(), at, TABLE)?;
        let header_end = header_at.saturating_add(super::header::HEADER_BYTES);
        Ok(Self {
            source,
            size,
            block_bytes: header.block_bytes,
            bitmap_bytes: bitmap_bytes(header.block_bytes),
            table_at: at,
            table: raw.iter().map(|entry| entry.get()).collect(),
            shared: OnceLock::new(),
            reserved: [0..super::footer::FOOTER_BYTES, header_at..header_end, at..at + len],
            data_end,
            differencing,
            ignores_bitmaps: context.like_qemu && !differencing,
            bitmaps: TableCache::new(MemoryBudget::default()),
        })
    }

    /// Appends the extents that cover `range`.
    ///
    /// # Errors
    /// As [`Layer::map`](crate::Layer::map).
    pub(super) fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let index = at / self.block_bytes;
            let block = index * self.block_bytes..((index + 1) * self.block_bytes).min(self.size);
            let end = block.end.min(range.end);
            match self.table[to_usize(index)] {
                FREE => push(out, at..end, Kind::Unallocated),
                sector => {
                    self.map_block(index, sector, at..end, out).map_err(|e| e.losing(block))?
                }
            }
            at = end;
        }
        Ok(())
    }

    /// Appends the extents of a part of the block that starts at `sector`.
    fn map_block(
        &self,
        index: u64,
        sector: u32,
        range: Range<u64>,
        out: &mut Vec<Extent>,
    ) -> Result<()> {
        let bitmap = self.bitmap(index, sector)?;
        let (start, data) = (index * self.block_bytes, self.data_at(sector));
        let mut at = range.start;
        while at < range.end {
            let (is_set, run) = match self.ignores_bitmaps {
                true => (true, u64::MAX),
                false => run_of_bits(&bitmap, (at - start) / SECTOR),
            };
            let end = run.saturating_mul(SECTOR).saturating_add(start).min(range.end);
            let kind = match (is_set, self.differencing) {
                (true, _) => Kind::Data(HostOffset { file: 0, offset: data + (at - start) }),
                (false, true) => Kind::Unallocated,
                (false, false) => Kind::Zero(None),
            };
            // A file may end within its last block, if the disk does.
            if is_set {
                self.require_stored_to(index, sector, data + (end - start))?;
            }
            push(out, at..end, kind);
            at = end;
        }
        Ok(())
    }

    /// Returns the host offset of the data of the block that starts at `sector`.
    pub(super) fn data_at(&self, sector: u32) -> u64 {
        u64::from(sector) * SECTOR + self.bitmap_bytes
    }

    /// Returns the bitmap of a block.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the block overlaps another or metadata, or if its
    /// bitmap is not within the file; [`Io`](crate::ErrorKind::Io) if it cannot be read.
    pub(super) fn bitmap(&self, index: u64, sector: u32) -> Result<Arc<[u8]>> {
        let at = u64::from(sector) * SECTOR;
        let shared = self.shared.get_or_init(|| {
            let start = |&entry: &u32| (entry != FREE).then(|| u64::from(entry) * SECTOR);
            let starts = self.table.iter().map(start);
            // The last block may be cut off.
            SharedTables::find(starts, self.bitmap_bytes + self.block_bytes)
        });
        if shared.contains(at) {
            return Err(shared.error(TABLE, "block"));
        }
        if let Some(problem) = self.misplaced(index, sector) {
            return Err(Error::corrupt(TABLE, problem).at(at));
        }
        self.bitmaps.get(index, || {
            let mut bitmap = vec![0; to_usize(self.bitmap_bytes)];
            read(&*self.source, &mut bitmap, at, "VHD sector bitmap")?;
            Ok(bitmap)
        })
    }

    /// Verifies that a block is in the file as far as the disk needs it, whether its sectors are
    /// allocated or not.
    ///
    /// # Errors
    /// As [`map`](Self::map).
    pub(super) fn check_block(&self, index: u64, sector: u32) -> Result<()> {
        self.bitmap(index, sector)?;
        let needed = (self.size - index * self.block_bytes).min(self.block_bytes);
        self.require_stored_to(index, sector, self.data_at(sector) + needed)
    }

    /// Requires that a block's space up to host offset `end` is in the file, before the footer.
    fn require_stored_to(&self, index: u64, sector: u32, end: u64) -> Result<()> {
        if end <= self.data_end {
            return Ok(());
        }
        let message = format!(
            "block {index} extends to {end:#x}, beyond the end of the space for blocks at {:#x}",
            self.data_end
        );
        Err(Error::corrupt(TABLE, message)
            .at(u64::from(sector) * SECTOR)
            .hint("the file is probably truncated"))
    }

    /// Returns the host ranges of sectors whose bit is 0 in the block that starts at `sector`, as far
    /// as the disk goes.
    ///
    /// # Errors
    /// As [`bitmap`](Self::bitmap).
    pub(super) fn unallocated_sectors(&self, index: u64, sector: u32) -> Result<Vec<Range<u64>>> {
        let bitmap = self.bitmap(index, sector)?;
        let (mut at, mut found, data) = (0, Vec::new(), self.data_at(sector));
        let end = (self.size - index * self.block_bytes).min(self.block_bytes) / SECTOR;
        while at < end {
            let (is_set, next) = run_of_bits(&bitmap, at);
            if !is_set {
                found.push(data + at * SECTOR..data + next.min(end) * SECTOR);
            }
            at = next;
        }
        Ok(found)
    }

    /// Describes what is wrong with the place of a block.
    pub(super) fn misplaced(&self, index: u64, sector: u32) -> Option<String> {
        let start = u64::from(sector) * SECTOR;
        let end = self.data_at(sector);
        if end > self.data_end {
            return Some(format!("the bitmap of block {index} is beyond the end of the file"));
        }
        let end = end + self.block_bytes;
        let overlaps = |range: &&Range<u64>| start < range.end && range.start < end;
        let reserved = self.reserved.iter().find(overlaps)?;
        Some(format!("block {index} overlaps metadata at {:#x}", reserved.start))
    }

    /// As [`Layer::next_allocated_hint`](crate::Layer::next_allocated_hint).
    pub(super) fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        next_allocated_in_table(&self.table, self.block_bytes, range, |&entry| entry == FREE)
    }

    /// As [`Layer::prefetch_tables`](crate::Layer::prefetch_tables).
    pub(super) fn prefetch_tables(&self, range: Range<u64>) {
        let entries = entries_for(&self.table, self.block_bytes, range);
        let allocated = entries.iter().filter(|&&entry| entry != FREE);
        let bitmap = |&entry: &u32| {
            let at = u64::from(entry) * SECTOR;
            at..at + self.bitmap_bytes
        };
        self.source.prefetch(&allocated.map(bitmap).collect::<Vec<_>>());
    }
}

/// How messages call the block allocation table.
pub(super) const TABLE: &str = "VHD block allocation table";

/// Returns the length in bytes of the bitmap of a block: whole sectors.
pub(super) fn bitmap_bytes(block_bytes: u64) -> u64 {
    (block_bytes / SECTOR).div_ceil(8).next_multiple_of(SECTOR)
}

/// Returns the bit of `first`, and the number of the first sector after it with the opposite bit.
/// The first sector's bit is the most significant one of its byte.
fn run_of_bits(bitmap: &[u8], first: u64) -> (bool, u64) {
    let byte_of = |sector: u64| bitmap.get(to_usize(sector / 8)).copied().unwrap_or(0);
    let bit_of = |sector: u64| byte_of(sector) << (sector % 8) & 0x80 != 0;
    let is_set = bit_of(first);
    let (whole, sectors) = (if is_set { 0xff } else { 0 }, to_u64(bitmap.len()) * 8);
    let mut next = first + 1;
    while next < sectors {
        if next.is_multiple_of(8) {
            let rest = &bitmap[to_usize(next / 8)..];
            let equal = rest.iter().take_while(|&&byte| byte == whole).count();
            next += to_u64(equal) * 8;
            if next >= sectors {
                break;
            }
        }
        if bit_of(next) != is_set {
            break;
        }
        next += 1;
    }
    (is_set, next)
}

/// Sets the bits of the sectors.
pub(super) fn set_bits(bitmap: &mut [u8], sectors: Range<u64>) {
    for sector in sectors {
        bitmap[to_usize(sector / 8)] |= 0x80 >> (sector % 8);
    }
}

/// Clears the bits of the sectors.
pub(super) fn clear_bits(bitmap: &mut [u8], sectors: Range<u64>) {
    for sector in sectors {
        bitmap[to_usize(sector / 8)] &= !(0x80 >> (sector % 8));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_bits_start_with_the_most_significant_one() {
        let bitmap = [0b1110_0000, 0xff, 0xff, 0b0000_0001, 0, 0];
        assert_eq!(run_of_bits(&bitmap, 0), (true, 3));
        assert_eq!(run_of_bits(&bitmap, 3), (false, 8));
        assert_eq!(run_of_bits(&bitmap, 9), (true, 24));
        assert_eq!(run_of_bits(&bitmap, 24), (false, 31));
        assert_eq!(run_of_bits(&bitmap, 31), (true, 32));
        assert_eq!(run_of_bits(&bitmap, 40), (false, 48));
        let mut set = [0; 6];
        for run in [0..3, 8..24, 31..32] {
            set_bits(&mut set, run);
        }
        assert_eq!(set, bitmap);
        clear_bits(&mut set, 1..24);
        assert_eq!(set, [0x80, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn a_bitmap_fills_whole_sectors() {
        assert_eq!(bitmap_bytes(2 << 20), 512);
        assert_eq!(bitmap_bytes(512 << 10), 512);
        assert_eq!(bitmap_bytes(4 << 20), 1024);
        assert_eq!(bitmap_bytes(512), 512);
    }
}
