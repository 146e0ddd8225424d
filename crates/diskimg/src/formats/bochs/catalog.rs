//! The catalog, and the bitmaps of the extents.
//!
//! ```text
//!   guest offset ──► catalog ──► index ──► extents + index · stride: bitmap, sectors
//!                    u32 per extent                  bit 0 of byte 0: sector 0; 0: zeros
//! ```

use super::header::Header;
use super::{SECTOR, read};
use crate::error::{Error, Result};
use crate::formats::distinct::SharedTables;
use crate::formats::table_cache::{MemoryBudget, TableCache};
use crate::model::extent::{Extent, HostOffset, Kind, push};
use crate::model::layer::next_allocated_in_table;
use crate::open::OpenContext;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::U32;

/// The entry of an extent that is not stored.
pub(super) const ABSENT: u32 = u32::MAX;

/// How messages call the catalog.
pub(super) const STRUCTURE: &str = "Bochs catalog";

/// How messages call a bitmap.
const BITMAP: &str = "Bochs bitmap";

/// The extents of a disk.
#[derive(Debug)]
pub(super) struct Catalog {
    pub(super) header: Header,
    /// The entries that the disk needs.
    pub(super) entries: Vec<u32>,
    /// The extents that several entries refer to; found when guest data is first mapped.
    shared: OnceLock<SharedTables>,
    bitmaps: TableCache<u8>,
    /// Length of the file in bytes.
    file_len: u64,
    /// What is beyond the end of the file reads as zeros, as in QEMU.
    zeros_beyond_end: bool,
}

impl Catalog {
    /// Reads the catalog.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is not within the file,
    /// [`Io`](crate::ErrorKind::Io).
    pub(super) fn open(
        source: &dyn Source,
        header: Header,
        context: &OpenContext<'_>,
    ) -> Result<Self> {
        let mut raw = vec![U32::ZERO; to_usize(header.extents())];
        read(source, raw.as_mut_bytes(), header.catalog_at, STRUCTURE)?;
        Ok(Self {
            header,
            entries: raw.iter().map(|entry| entry.get()).collect(),
            shared: OnceLock::new(),
            bitmaps: TableCache::new(MemoryBudget::default()),
            file_len: source.len(),
            zeros_beyond_end: context.like_qemu,
        })
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
        let bytes = self.header.extent_bytes;
        let mut at = range.start;
        while at < range.end {
            let index = at / bytes;
            let start = index * bytes;
            let end = (start + bytes).min(range.end);
            match self.entry(index) {
                ABSENT => push(out, at..end, Kind::Unallocated),
                entry => {
                    let lost = start..(start + bytes).min(self.header.size());
                    self.map_extent(source, index, entry, at..end, out)
                        .map_err(|error| error.losing(lost))?;
                }
            }
            at = end;
        }
        Ok(())
    }

    /// Appends the sectors of an extent that are in `range`.
    fn map_extent(
        &self,
        source: &dyn Source,
        index: u64,
        entry: u32,
        range: Range<u64>,
        out: &mut Vec<Extent>,
    ) -> Result<()> {
        let bitmap = self.bitmap(source, index, entry)?;
        let start = index * self.header.extent_bytes;
        let data = self.data_of(entry);
        let mut at = range.start;
        while at < range.end {
            let sector = (at - start) / SECTOR;
            let sector_end = start + (sector + 1) * SECTOR;
            let end = sector_end.min(range.end);
            let byte = bitmap.get(to_usize(sector / 8)).copied().unwrap_or(0);
            // Guest bytes of the extent that are in the file.
            let stored = self.file_len.saturating_sub(data);
            if byte >> (sector % 8) & 1 == 0 {
                push(out, at..end, Kind::Unallocated);
            } else if sector_end - start <= stored || self.zeros_beyond_end {
                let stored_end = start.saturating_add(stored).clamp(at, end);
                let host = HostOffset { file: 0, offset: data.saturating_add(at - start) };
                push(out, at..stored_end, Kind::Data(host));
                push(out, stored_end..end, Kind::Zero(None));
            } else {
                let message = format!(
                    "sector {sector} of extent {index} is beyond the end of the file at {:#x}",
                    self.file_len
                );
                return Err(Error::corrupt(BITMAP, message)
                    .at(self.bitmap_of(entry))
                    .hint("the file is probably truncated"));
            }
            at = end;
        }
        Ok(())
    }

    /// Returns the entry of an extent.
    fn entry(&self, index: u64) -> u32 {
        self.entries.get(to_usize(index)).copied().unwrap_or(ABSENT)
    }

    /// Returns the host offset of the bitmap of the extent with this index in the file.
    fn bitmap_of(&self, entry: u32) -> u64 {
        // Less than 2^32 + 2^32 · (2^33 + 2^23).
        self.header
            .extents_at()
            .saturating_add(u64::from(entry).saturating_mul(self.header.stride()))
    }

    /// Returns the host offset of the sectors of the extent with this index in the file.
    pub(super) fn data_of(&self, entry: u32) -> u64 {
        self.bitmap_of(entry).saturating_add(self.header.bitmap_stride())
    }

    /// Returns the bitmap of extent `index`, whose entry is `entry`, as far as it needs one.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if another entry refers to the same extent, or if the
    /// file ends before, [`Io`](crate::ErrorKind::Io).
    pub(super) fn bitmap(&self, source: &dyn Source, index: u64, entry: u32) -> Result<Arc<[u8]>> {
        let shared = self.shared.get_or_init(|| {
            let place = |&entry: &u32| (entry != ABSENT).then_some(u64::from(entry));
            SharedTables::find(self.entries.iter().map(place), 1)
        });
        if shared.contains(entry.into()) {
            return Err(shared.error(STRUCTURE, "extent"));
        }
        let at = self.bitmap_of(entry);
        let needed = to_usize(self.header.extent_bytes / SECTOR / 8).max(1);
        if self.zeros_beyond_end && at.saturating_add(to_u64(needed)) > self.file_len {
            return Ok(Arc::from([]));
        }
        self.bitmaps.get(index, || {
            let mut bitmap = vec![0; needed];
            read(source, &mut bitmap, at, BITMAP)?;
            Ok(bitmap)
        })
    }

    /// As [`Layer::next_allocated_hint`](crate::Layer::next_allocated_hint).
    pub(super) fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        next_allocated_in_table(&self.entries, self.header.extent_bytes, range, |&entry| {
            entry == ABSENT
        })
    }
}
