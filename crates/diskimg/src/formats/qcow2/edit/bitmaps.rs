//! Dirty bitmaps of an image to which guest data is written.
//!
//! A bitmap that tracks writes is marked as in use before the first write, so that it counts as
//! inconsistent after a crash. At the end, what was written is marked in it.

use super::Qcow2Mut;
use super::space::Space;
use super::table::{sector_of, sectors};
use crate::error::{Error, Result};
use crate::formats::qcow2::bitmap_bits::set_bits;
use crate::formats::qcow2::bitmaps::{ALL_ONES, Bitmap, Flags, OFFSET_MASK, table_entries};
use crate::formats::qcow2::tables::read_words;
use crate::remedy::Remedy;
use crate::storage::edit::{Edit, Storage};
use crate::storage::number::{to_u64, to_usize};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

/// Length in bytes of the clusters of bitmaps that are modified together.
const BATCH_BYTES: u64 = 8 << 20;

/// Maximum number of written ranges that are recorded one by one.
const MAX_RANGES: usize = 1 << 18;

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
    /// Where the next batch begins.
    next: Position,
    /// Table entries that refer to the new clusters of the last batch.
    unconfirmed: Vec<Position>,
}

#[derive(Debug)]
struct Tracked {
    bitmap: Bitmap,
    /// The bitmap table.
    table: Vec<u64>,
}

/// An entry of a bitmap table.
#[derive(Debug, Clone, Copy, Default)]
struct Position {
    bitmap: usize,
    entry: usize,
}

/// Modifications of some clusters of bitmaps.
#[derive(Debug, Default)]
pub(super) struct BitmapEdits {
    /// New clusters, which nothing refers to yet.
    pub(super) new: Vec<Edit>,
    /// Existing clusters, and table entries, some of which refer to the new clusters.
    pub(super) in_place: Vec<Edit>,
}

impl TrackedBitmaps {
    /// Reads the tables of the bitmaps that track writes and are consistent.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if the directory, a table or an entry of it is
    /// invalid, or if something else uses a cluster of a bitmap, and
    /// [`Limit`](crate::ErrorKind::Limit) if the tables need too much memory.
    pub(super) fn find(image: &Qcow2Mut, space: &mut Space) -> Result<Self> {
        let (size, cluster_size) = (image.header().size, image.header().cluster_size());
        let max = image.old.limits.table_bytes;
        let mut left = max;
        let mut found = Self {
            storage: Arc::clone(&image.storage),
            cluster_size,
            size,
            bitmaps: Vec::new(),
            written: Vec::new(),
            next: Position::default(),
            unconfirmed: Vec::new(),
        };
        for bitmap in image.bitmaps()? {
            if !bitmap.flags.contains(Flags::AUTO) || bitmap.flags.contains(Flags::IN_USE) {
                continue;
            }
            let needed = table_entries(bitmap.granularity, size, cluster_size);
            left = left.checked_sub(needed * 8).ok_or_else(|| {
                Error::over_limit("table_bytes", "bitmap tables that are too large", max)
            })?;
            if bitmap.table.entries < needed {
                let message = "it is too short for the disk";
                return Err(Error::corrupt("bitmap table", message).at(bitmap.table.offset));
            }
            let storage = &*image.storage;
            let table = read_words(storage, "bitmap table", bitmap.table.offset, needed)?;
            found.bitmaps.push(Tracked { bitmap: bitmap.clone(), table });
        }
        found.require_own_clusters(space)?;
        Ok(found)
    }

    /// Verifies that nothing else uses the clusters of the bitmaps, which are overwritten.
    /// [`Metadata`](super::metadata::Metadata) has found that they differ from each other and from
    /// other metadata, and [`references`](super::references) that no guest data is there.
    fn require_own_clusters(&self, space: &mut Space) -> Result<()> {
        let entries = self.bitmaps.iter().flat_map(|tracked| &tracked.table);
        for offset in entries.map(|entry| entry & OFFSET_MASK).filter(|&offset| offset != 0) {
            let count = space.count_at(offset)?;
            if count != 1 {
                let message = format!("the refcount of a bitmap's cluster is {count} instead of 1");
                return Err(Error::corrupt("bitmap table", message)
                    .at(offset)
                    .with_remedy(Remedy::Repair));
            }
        }
        Ok(())
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
        let is_full = self.written.len() >= MAX_RANGES;
        match self.written.last_mut() {
            _ if self.bitmaps.is_empty() || range.is_empty() => {}
            // A bitmap may say that more was written.
            Some(last) if last.end == range.start || is_full => last.end = range.end,
            _ => self.written.push(range),
        }
    }

    /// Returns the next modifications that mark what was written, or `None` if there are no more.
    /// Those of the last call must be durable. Without `space`, marks more instead of allocating
    /// clusters.
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) if reading fails, and the errors of
    /// [`Space::allocate`].
    pub(super) fn next_batch(
        &mut self,
        mut space: Option<&mut Space>,
    ) -> Result<Option<BitmapEdits>> {
        self.unconfirmed.clear();
        if self.next.bitmap == self.bitmaps.len() {
            return Ok(None);
        }
        let mut edits = BitmapEdits::default();
        let mut left = BATCH_BYTES;
        while left > 0
            && let Some(tracked) = self.bitmaps.get_mut(self.next.bitmap)
        {
            let mut changed = BTreeSet::new();
            while left > 0 && self.next.entry < tracked.table.len() {
                let work = Marking {
                    storage: &*self.storage,
                    cluster_size: self.cluster_size,
                    written: &self.written,
                    bits: self.size.div_ceil(tracked.bitmap.granularity),
                };
                let marked =
                    work.mark(tracked, self.next.entry, space.as_deref_mut(), &mut edits)?;
                if matches!(marked, Marked::New | Marked::Flag) {
                    changed.insert(sector_of(self.next.entry));
                }
                if marked == Marked::New {
                    self.unconfirmed.push(self.next);
                }
                if matches!(marked, Marked::New | Marked::InPlace) {
                    left = left.saturating_sub(self.cluster_size);
                }
                self.next.entry += 1;
            }
            let at = tracked.bitmap.table.offset;
            edits.in_place.extend(sectors(&tracked.table, &changed, at));
            if self.next.entry == tracked.table.len() {
                self.next = Position { bitmap: self.next.bitmap + 1, entry: 0 };
            }
        }
        Ok(Some(edits))
    }

    /// Begins again with the first batch. Entries that refer to clusters that may not be stored are
    /// empty again.
    pub(super) fn restart(&mut self) {
        for Position { bitmap, entry } in std::mem::take(&mut self.unconfirmed) {
            self.bitmaps[bitmap].table[entry] = 0;
        }
        self.next = Position::default();
    }
}

/// How the bits of an entry's cluster were set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marked {
    /// None is set, or all were.
    Nothing,
    /// In the cluster, which is stored.
    InPlace,
    /// In a new cluster.
    New,
    /// With a flag of the entry for all of them.
    Flag,
}

/// What marking bits depends on.
struct Marking<'a> {
    storage: &'a dyn Storage,
    cluster_size: u64,
    written: &'a [Range<u64>],
    /// Number of bits of the bitmap.
    bits: u64,
}

impl Marking<'_> {
    /// Sets the bits of what was written in the cluster of one entry.
    fn mark(
        &self,
        Tracked { bitmap, table }: &mut Tracked,
        index: usize,
        space: Option<&mut Space>,
        edits: &mut BitmapEdits,
    ) -> Result<Marked> {
        let per_cluster = self.cluster_size * 8;
        let first = to_u64(index) * per_cluster;
        let all = first..self.bits.min(first + per_cluster);
        let marked = marked_bits(self.written, bitmap.granularity, &all);
        let offset = table[index] & OFFSET_MASK;
        if marked.is_empty() || offset == 0 && table[index] & ALL_ONES != 0 {
            return Ok(Marked::Nothing);
        }
        // QEMU takes the bits beyond the end of the disk for set, too, and keeps them if it grows.
        let is_whole = all.end - all.start == per_cluster;
        let space = space.filter(|_| !is_whole || marked != [all]);
        if offset == 0 && space.is_none() {
            table[index] = ALL_ONES;
            return Ok(Marked::Flag);
        }
        let mut bytes = vec![0; to_usize(self.cluster_size)];
        if offset != 0 {
            self.storage
                .read_exact_at(&mut bytes, offset)
                .map_err(|e| Error::io("cannot read", e).in_structure("bitmap"))?;
        }
        for range in marked {
            set_bits(&mut bytes, range.start - first..range.end - first);
        }
        match space {
            Some(space) if offset == 0 => {
                let offset = space.allocate(1)?;
                table[index] = offset;
                edits.new.push(Edit::Write { offset, bytes });
                Ok(Marked::New)
            }
            _ => {
                edits.in_place.push(Edit::Write { offset, bytes });
                Ok(Marked::InPlace)
            }
        }
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

    /// Returns a bitmap of granularity 512 of a disk of `size` bytes whose clusters, of 64 KiB, are
    /// stored one after the other. All of them were written in part.
    fn tracked(size: u64) -> TrackedBitmaps {
        const CLUSTER: u64 = 64 << 10;
        let table: Vec<_> =
            (0..size.div_ceil(CLUSTER * 8 * 512)).map(|n| (n + 1) * CLUSTER).collect();
        let bytes = vec![0; to_usize((to_u64(table.len()) + 1) * CLUSTER)];
        let written = table.iter().map(|offset| offset * 8 * 512 - 100..offset * 8 * 512 - 50);
        TrackedBitmaps {
            storage: Arc::new(crate::storage::edit::MemoryStorage::new(bytes)),
            cluster_size: CLUSTER,
            size,
            written: written.map(|range| range.start - CLUSTER..range.end - CLUSTER).collect(),
            bitmaps: vec![Tracked { bitmap: Bitmap::of_granularity(512), table }],
            next: Position::default(),
            unconfirmed: Vec::new(),
        }
    }

    #[test]
    fn a_large_bitmap_is_stored_in_batches() {
        let mut bitmaps = tracked(64 << 30);
        let mut stored = 0;
        let mut batches = 0;
        while let Some(edits) = bitmaps.next_batch(None).expect("reads") {
            let bytes = edits.in_place.iter().map(|edit| match edit {
                Edit::Write { bytes, .. } => to_u64(bytes.len()),
                _ => 0,
            });
            let bytes = bytes.sum::<u64>();
            assert!(bytes <= BATCH_BYTES, "{bytes}");
            stored += bytes;
            batches += 1;
        }
        assert_eq!((stored, batches), (16 << 20, 2));
    }

    #[test]
    fn entries_of_clusters_that_may_not_be_stored_are_forgotten() {
        let mut bitmaps = tracked(1 << 30);
        let table = bitmaps.bitmaps[0].table.clone();
        bitmaps.unconfirmed = vec![Position { bitmap: 0, entry: 1 }];
        bitmaps.restart();
        assert_eq!(bitmaps.bitmaps[0].table[..3], [table[0], 0, table[2]]);
        // Without space, all of such a cluster is marked.
        let edits = bitmaps.next_batch(None).expect("reads").expect("is first");
        assert_eq!(bitmaps.bitmaps[0].table[1], ALL_ONES);
        assert!(edits.new.is_empty());
    }

    #[test]
    fn many_written_ranges_are_recorded_as_one() {
        let mut bitmaps = tracked(1 << 40);
        bitmaps.written.clear();
        for n in 0..to_u64(MAX_RANGES) + 1000 {
            bitmaps.mark(n * 4096..n * 4096 + 512);
        }
        assert_eq!(bitmaps.written.len(), MAX_RANGES);
        assert_eq!(bitmaps.written[MAX_RANGES - 1].end, (to_u64(MAX_RANGES) + 999) * 4096 + 512);
    }
}
