//! Dirty bitmaps of an image to which guest data is written.
//!
//! A bitmap that tracks writes is marked as in use before the first write, so that it counts as
//! inconsistent after a crash. At the end, what was written is marked in it.

use super::Qcow2Mut;
use super::metadata::Metadata;
use super::space::Space;
use super::table::{sector_of, sectors};
use crate::error::{Error, Result};
use crate::formats::qcow2::bitmaps::{ALL_ONES, Bitmap, Flags, OFFSET_MASK};
use crate::formats::qcow2::tables::read_words;
use crate::storage::edit::{Edit, Storage};
use crate::storage::number::{to_u64, to_usize};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

/// The bitmaps of an image that track writes.
#[derive(Debug)]
pub(super) struct TrackedBitmaps {
    storage: Arc<dyn Storage>,
    cluster_size: u64,
    /// Size of the disk in bytes.
    size: u64,
    bitmaps: Vec<Tracked>,
    /// The guest ranges that were written, in ascending order.
    written: Vec<Range<u64>>,
}

#[derive(Debug)]
struct Tracked {
    bitmap: Bitmap,
    /// The bitmap table.
    table: Vec<u64>,
}

impl TrackedBitmaps {
    /// Reads the tables of the bitmaps that track writes and are consistent.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if the directory, a table or an entry of it is
    /// invalid, and [`Limit`](crate::ErrorKind::Limit) if the tables need too much memory.
    pub(super) fn find(image: &Qcow2Mut, metadata: &Metadata) -> Result<Self> {
        let bitmaps = image
            .old
            .bitmaps
            .as_ref()
            .map_err(|error| Error::corrupt("bitmap directory", error.without_remedy()))?;
        let (size, cluster_size) = (image.header().size, image.header().cluster_size());
        let max = image.old.limits.table_bytes;
        let mut left = max;
        let mut tracked = Vec::new();
        for bitmap in bitmaps {
            if !bitmap.flags.contains(Flags::AUTO) || bitmap.flags.contains(Flags::IN_USE) {
                continue;
            }
            let per_entry = cluster_size.saturating_mul(8).saturating_mul(bitmap.granularity);
            let needed = size.div_ceil(per_entry);
            let bytes = needed * 8;
            left = left.checked_sub(bytes).ok_or_else(|| {
                Error::over_limit("table_bytes", "bitmap tables that are too large", max)
            })?;
            if bitmap.table.entries < needed {
                let message = "it is too short for the disk";
                return Err(Error::corrupt("bitmap table", message).at(bitmap.table.offset));
            }
            let storage = &*image.storage;
            let table = read_words(storage, "bitmap table", bitmap.table.offset, needed)?;
            for offset in table.iter().map(|entry| entry & OFFSET_MASK).filter(|&at| at != 0) {
                if !offset.is_multiple_of(cluster_size) {
                    let message = "an entry is not aligned to a cluster";
                    return Err(Error::corrupt("bitmap table", message).at(offset));
                }
                metadata.require_none(&(offset..offset + cluster_size))?;
            }
            tracked.push(Tracked { bitmap: bitmap.clone(), table });
        }
        let storage = Arc::clone(&image.storage);
        Ok(Self { storage, cluster_size, size, bitmaps: tracked, written: Vec::new() })
    }

    /// Returns the modification that marks the bitmaps as in use.
    pub(super) fn mark_in_use(&self) -> Vec<Edit> {
        self.write_flags(Flags::IN_USE)
    }

    /// Returns the modification that marks the bitmaps as consistent.
    pub(super) fn mark_consistent(&self) -> Vec<Edit> {
        self.write_flags(Flags::empty())
    }

    fn write_flags(&self, added: Flags) -> Vec<Edit> {
        let edit = |Tracked { bitmap, .. }: &Tracked| {
            let flags = bitmap.flags.union(added).bits();
            Edit::Write { offset: bitmap.flags_at, bytes: flags.to_be_bytes().to_vec() }
        };
        self.bitmaps.iter().map(edit).collect()
    }

    /// Records that a guest range was written. Ranges ascend.
    pub(super) fn mark(&mut self, range: Range<u64>) {
        let range = range.start..range.end.min(self.size);
        match self.written.last_mut() {
            _ if self.bitmaps.is_empty() || range.is_empty() => {}
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.written.push(range),
        }
    }

    /// Appends the modifications that mark what was written: new clusters, and what is modified in
    /// place after them. Without `space`, marks more instead of allocating clusters.
    pub(super) fn store(
        &mut self,
        mut space: Option<&mut Space>,
        new: &mut Vec<Edit>,
        in_place: &mut Vec<Edit>,
    ) -> Result<()> {
        let cluster_size = self.cluster_size;
        for Tracked { bitmap, table } in &mut self.bitmaps {
            let bits = self.size.div_ceil(bitmap.granularity);
            let mut changed = BTreeSet::new();
            for (index, entry) in table.iter_mut().enumerate() {
                let first = to_u64(index) * cluster_size * 8;
                let all = first..bits.min(first + cluster_size * 8);
                let marked = marked_bits(&self.written, bitmap.granularity, &all);
                let is_complete = marked == [all.clone()];
                let offset = *entry & OFFSET_MASK;
                if marked.is_empty() || offset == 0 && *entry & ALL_ONES != 0 {
                    continue;
                }
                if offset == 0 && (is_complete || space.is_none()) {
                    *entry = ALL_ONES;
                    changed.insert(sector_of(index));
                    continue;
                }
                let mut bytes = vec![0; to_usize(cluster_size)];
                if offset != 0 {
                    self.storage
                        .read_exact_at(&mut bytes, offset)
                        .map_err(|e| Error::io("cannot read", e).in_structure("bitmap"))?;
                }
                for range in marked {
                    set_bits(&mut bytes, range.start - first..range.end - first);
                }
                match &mut space {
                    Some(space) if offset == 0 => {
                        let offset = space.allocate(1)?;
                        new.push(Edit::Write { offset, bytes });
                        *entry = offset;
                        changed.insert(sector_of(index));
                    }
                    _ => in_place.push(Edit::Write { offset, bytes }),
                }
            }
            in_place.extend(sectors(table, &changed, bitmap.table.offset));
        }
        Ok(())
    }
}

/// Returns the bits of `all` that stand for written ranges, as ascending, separate ranges.
fn marked_bits(written: &[Range<u64>], granularity: u64, all: &Range<u64>) -> Vec<Range<u64>> {
    let mut marked: Vec<Range<u64>> = Vec::new();
    let from = written.partition_point(|range| range.end.div_ceil(granularity) <= all.start);
    for range in &written[from..] {
        let start = (range.start / granularity).max(all.start);
        let end = range.end.div_ceil(granularity).min(all.end);
        if start >= end {
            break;
        }
        match marked.last_mut() {
            Some(last) if last.end >= start => last.end = end,
            _ => marked.push(start..end),
        }
    }
    marked
}

/// Sets bits, of which the least significant of each byte is the first.
fn set_bits(bytes: &mut [u8], range: Range<u64>) {
    for bit in range {
        bytes[to_usize(bit / 8)] |= 1 << (bit % 8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_ranges_mark_every_bit_that_they_touch() {
        let written = [0..100, 700..701, 1024..4096];
        let marked = |written: &[Range<u64>], all: Range<u64>| -> Vec<_> {
            marked_bits(written, 512, &all).iter().map(|bits| (bits.start, bits.end)).collect()
        };
        assert_eq!(marked(&written, 0..8), [(0, 8)]);
        assert_eq!(marked(&written, 0..20), [(0, 8)]);
        assert_eq!(marked(&written, 3..5), [(3, 5)]);
        assert_eq!(marked(&written, 8..20), []);
        assert_eq!(marked(&[600..601, 2000..2001], 0..8), [(1, 2), (3, 4)]);
        let mut bytes = [0; 2];
        set_bits(&mut bytes, 3..9);
        assert_eq!(bytes, [0xf8, 1]);
    }
}
