//! Dirty bitmaps of an image that is resized.
//!
//! The length of a bitmap follows from the size of the disk. A bitmap that changes is marked as in
//! use before the disk gets its new size, so that it counts as inconsistent after a crash.

use super::Qcow2Mut;
use super::references;
use super::space::{Space, TableLocation};
use crate::error::{Error, Result};
use crate::formats::qcow2::bitmaps::{Bitmap, FLAGS_OFFSET, Flags, OFFSET_MASK, table_entries};
use crate::formats::qcow2::tables::{read_words, to_bytes};
use crate::model::bitmap::inconsistent;
use crate::storage::edit::{Edit, Edits};
use crate::storage::number::{to_u32, to_u64, to_usize};
use std::ops::Range;

/// The bitmaps that change.
#[derive(Debug)]
pub(super) struct ResizedBitmaps {
    bitmaps: Vec<Bitmap>,
    /// The new size of the disk in bytes.
    size: u64,
}

/// Modifications of bitmaps.
#[derive(Debug, Default)]
struct Changes {
    /// In new clusters, and in bitmaps, which are in use.
    bitmaps: Vec<Edit>,
    /// Directory entries that refer to new tables.
    locations: Vec<Edit>,
    /// Directory entries with the new lengths, which are no longer in use.
    lengths: Vec<Edit>,
    /// Host ranges that nothing refers to afterwards.
    unused: Vec<Range<u64>>,
}

impl ResizedBitmaps {
    /// Finds the bitmaps that change if the disk gets `size` bytes.
    ///
    /// # Errors
    /// Returns [`Unsupported`](crate::ErrorKind::Unsupported) if a bitmap is inconsistent, and
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if one is damaged, or if something else uses its
    /// clusters.
    pub(super) fn find(image: &Qcow2Mut, size: u64) -> Result<Self> {
        let (old_size, cluster_size) = (image.header().size, image.header().cluster_size());
        let mut bitmaps = Vec::new();
        for bitmap in image.bitmaps()? {
            if bitmap.flags.contains(Flags::IN_USE) {
                return Err(inconsistent(&bitmap.name()));
            }
            if bitmap.table.entries < table_entries(bitmap.granularity, old_size, cluster_size) {
                let message = "it is too short for the disk";
                return Err(Error::corrupt("bitmap table", message).at(bitmap.table.offset));
            }
            if size < old_size
                || table_entries(bitmap.granularity, size, cluster_size) != bitmap.table.entries
            {
                bitmaps.push(bitmap.clone());
            }
        }
        let found = Self { bitmaps, size };
        if !found.bitmaps.is_empty() {
            found.verify(image)?;
        }
        Ok(found)
    }

    /// Verifies that nothing else uses what is modified or released.
    fn verify(&self, image: &Qcow2Mut) -> Result<()> {
        let mut space = Space::open(image)?;
        references::verify(image, &mut space)?;
        for bitmap in &self.bitmaps {
            let table = read_table(image, bitmap)?;
            let clusters = table.iter().map(|entry| entry & OFFSET_MASK).filter(|&at| at != 0);
            let end = bitmap.table.offset + bitmap.table.bytes();
            let tables = (bitmap.table.offset..end).step_by(to_usize(space.cluster_size()));
            for offset in clusters.chain(tables) {
                let count = space.count_at(offset)?;
                if count != 1 {
                    let message =
                        format!("the refcount of a bitmap's cluster is {count} instead of 1");
                    return Err(Error::corrupt("bitmap table", message)
                        .at(offset)
                        .hint("repair the image first, for example with qemu-img"));
                }
            }
        }
        Ok(())
    }

    /// Marks the bitmaps as in use.
    pub(super) fn begin(&self, image: &Qcow2Mut) -> Result<()> {
        let mark = |bitmap: &Bitmap| {
            let flags = bitmap.flags.union(Flags::IN_USE).bits();
            Edit::Write { offset: bitmap.flags_at, bytes: flags.to_be_bytes().to_vec() }
        };
        let mut edits = Edits::new();
        edits.phase(self.bitmaps.iter().map(mark));
        edits.apply(&*image.storage).map_err(|e| Error::io("cannot modify the image", e))
    }

    /// Makes the bitmaps as long as the disk, which has its new size by now, and marks them as
    /// consistent.
    pub(super) fn finish(&self, image: &Qcow2Mut) -> Result<()> {
        if self.bitmaps.is_empty() {
            return Ok(());
        }
        let image = image.reread()?;
        let (storage, cluster_size) = (&*image.storage, image.header().cluster_size());
        let mut space = Space::open(&image)?;
        let mut changes = Changes::default();
        for bitmap in &self.bitmaps {
            self.resize(&image, &mut space, bitmap, &mut changes)?;
        }
        changes.unused.sort_unstable_by_key(|range| range.start);
        space.require_counts(&changes.unused)?;
        let old_table = space.move_table()?;
        let used = space.take_changes();
        let mut edits = Edits::new();
        let end = space.end();
        let is_longer = !storage.has_fixed_len() && end > storage.current_len();
        let longer = is_longer.then_some(Edit::SetLen(end)).into_iter();
        edits.phase(longer.chain(changes.bitmaps).chain(used.new_tables)).phase(used.counts);
        if let Some(table) = old_table {
            let len = u64::from(table.len) * cluster_size;
            changes.unused.push(table.offset..table.offset + len);
            let l1 = TableLocation::of_l1(image.header());
            edits.phase([image.switch(image.header().size, l1, space.table_location())?]);
        }
        edits.phase(changes.locations).phase(changes.lengths);
        let mut freed = Vec::new();
        for range in &changes.unused {
            space.release(range.start, range.end - range.start, |offset| {
                freed.push(Edit::Discard { offset, len: cluster_size });
            })?;
        }
        edits.phase(space.take_changes().counts).phase(freed);
        edits.apply(storage).map_err(|e| Error::io("cannot modify the image", e))
    }

    /// Adds what changes in one bitmap.
    fn resize(
        &self,
        image: &Qcow2Mut,
        space: &mut Space,
        bitmap: &Bitmap,
        changes: &mut Changes,
    ) -> Result<()> {
        let cluster_size = space.cluster_size();
        let padded = |entries: u64| (entries * 8).next_multiple_of(cluster_size);
        let (old, new) =
            (bitmap.table.entries, table_entries(bitmap.granularity, self.size, cluster_size));
        let at = bitmap.table.offset;
        let mut table = read_table(image, bitmap)?;
        let removed = table.iter().skip(to_usize(new)).map(|entry| entry & OFFSET_MASK);
        let removed = removed.filter(|&offset| offset != 0);
        changes.unused.extend(removed.map(|offset| offset..offset + cluster_size));
        table.resize(to_usize(new), 0);
        changes.bitmaps.extend(self.clear_end(image, bitmap, &table)?);
        if padded(new) > padded(old) {
            let offset = space.allocate(padded(new) / cluster_size)?;
            let mut bytes = to_bytes(&table);
            bytes.resize(to_usize(padded(new)), 0);
            changes.bitmaps.push(Edit::Write { offset, bytes });
            let location = bitmap.flags_at - FLAGS_OFFSET;
            let bytes = offset.to_be_bytes().to_vec();
            changes.locations.push(Edit::Write { offset: location, bytes });
            changes.unused.push(at..at + padded(old));
        } else {
            if new > old {
                let (offset, len) = (at + old * 8, (new - old) * 8);
                changes.bitmaps.push(Edit::Write { offset, bytes: vec![0; to_usize(len)] });
            }
            if padded(new) < padded(old) {
                changes.unused.push(at + padded(new)..at + padded(old));
            }
        }
        // The number of entries and the flags are in one word.
        let mut bytes = to_u32(new).to_be_bytes().to_vec();
        bytes.extend(bitmap.flags.bits().to_be_bytes());
        changes.lengths.push(Edit::Write { offset: bitmap.flags_at - 4, bytes });
        Ok(())
    }

    /// Returns the modification that clears the bits beyond the end of the disk.
    fn clear_end(&self, image: &Qcow2Mut, bitmap: &Bitmap, table: &[u64]) -> Result<Option<Edit>> {
        let cluster_size = image.header().cluster_size();
        let offset = table.last().map_or(0, |entry| entry & OFFSET_MASK);
        if offset == 0 {
            return Ok(None);
        }
        let bits = self.size.div_ceil(bitmap.granularity);
        let kept = bits - to_u64(table.len() - 1) * cluster_size * 8;
        let mut bytes = vec![0; to_usize(cluster_size)];
        let read = image.storage.read_exact_at(&mut bytes, offset);
        read.map_err(|e| Error::io("cannot read", e).in_structure("bitmap"))?;
        let old = bytes.clone();
        for (index, byte) in bytes.iter_mut().enumerate().skip(to_usize(kept / 8)) {
            let kept = kept.saturating_sub(to_u64(index) * 8).min(7);
            *byte &= (1 << kept) - 1;
        }
        Ok((bytes != old).then_some(Edit::Write { offset, bytes }))
    }
}

fn read_table(image: &Qcow2Mut, bitmap: &Bitmap) -> Result<Vec<u64>> {
    let table = bitmap.table;
    read_words(&*image.storage, "bitmap table", table.offset, table.entries)
}
