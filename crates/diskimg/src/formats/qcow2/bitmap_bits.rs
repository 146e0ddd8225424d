//! The bits of dirty bitmaps: reading their tables, and storing new ones.

use super::bitmaps::{
    ALL_ONES, Bitmap, Flags, MAX_BITS_BYTES, MAX_TABLE_ENTRIES, decode_table_entry, table_entries,
};
use super::layer::Qcow2;
use super::tables::read_words;
use crate::error::{Error, Result};
use crate::formats::stored_bits::{CLEAR, SET, StoredBits};
use crate::model::bitmap::{self, DirtyBitmap};
use crate::model::layer::Layer;
use crate::report::info;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;
use std::ops::Range;
use std::sync::Arc;

/// How errors call the table of a bitmap.
const TABLE: &str = "bitmap table";

impl Qcow2 {
    /// Returns what is known of the bitmaps, or `None` if the image cannot have any.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if the directory is damaged.
    pub(super) fn bitmap_list(&self) -> Result<Option<Vec<info::Bitmap>>> {
        if self.header.version < 3 {
            return Ok(None);
        }
        Ok(Some(self.bitmap_entries()?.iter().map(Bitmap::info).collect()))
    }

    /// Returns the entries of the bitmap directory.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if it is damaged.
    pub(super) fn bitmap_entries(&self) -> Result<&[Bitmap]> {
        let damaged = |error: &Error| Error::corrupt("bitmap directory", error.without_remedy());
        self.bitmaps.as_deref().map_err(damaged)
    }

    /// Opens a bitmap for reading.
    ///
    /// # Errors
    /// As [`Layer::dirty_bitmap`].
    pub(super) fn open_bitmap(&self, bitmap: &Bitmap) -> Result<DirtyBitmap> {
        if bitmap.flags.contains(Flags::IN_USE) {
            return Err(bitmap::inconsistent(&bitmap.name()));
        }
        let file = Arc::clone(&self.files()[0]);
        let max = self.limits.table_bytes;
        let (size, cluster_size) = (self.header.size, self.header.cluster_size());
        let bits = read_bits(file, bitmap, size, cluster_size, max)?;
        Ok(DirtyBitmap::new(bitmap.info(), size, Arc::new(bits)))
    }
}

/// Reads the table of a bitmap, and verifies it.
fn read_bits(
    file: Arc<dyn Source>,
    bitmap: &Bitmap,
    disk_size: u64,
    cluster_size: u64,
    max_bytes: u64,
) -> Result<StoredBits> {
    let (granularity, at) = (bitmap.granularity, bitmap.table.offset);
    require_fit(bitmap, disk_size, cluster_size)?;
    let entries = bitmap.table.entries;
    require_memory(entries, max_bytes).map_err(|e| e.at(at))?;
    let mut table = read_words(&*file, TABLE, at, entries)?;
    for entry in &mut table {
        let offset = decode_table_entry(*entry, cluster_size).map_err(|e| e.at(at))?;
        *entry = offset.unwrap_or(if *entry & ALL_ONES == 0 { CLEAR } else { SET });
    }
    let bits = StoredBits { file, table, granularity, disk_size, cluster_size };
    bits.require_separate(TABLE).map_err(|e| e.at(at).hint("remove the bitmap"))?;
    Ok(bits)
}

/// Sets bits, of which the least significant of each byte is the first.
pub(super) fn set_bits(bytes: &mut [u8], range: Range<u64>) {
    let whole = range.start.next_multiple_of(8)..range.end - range.end % 8;
    if whole.start >= whole.end {
        for bit in range {
            bytes[to_usize(bit / 8)] |= 1 << (bit % 8);
        }
        return;
    }
    bytes[to_usize(whole.start / 8)..to_usize(whole.end / 8)].fill(0xff);
    for bit in (range.start..whole.start).chain(whole.end..range.end) {
        bytes[to_usize(bit / 8)] |= 1 << (bit % 8);
    }
}

/// A bitmap that is to be stored: dirty is what is dirty in at least one of several others.
#[derive(Debug)]
pub(super) struct NewBits<'a> {
    pub(super) sources: &'a [DirtyBitmap],
    pub(super) granularity: u64,
    pub(super) disk_size: u64,
    pub(super) cluster_size: u64,
    /// Maximum length in bytes of the table.
    pub(super) max_table_bytes: u64,
}

impl NewBits<'_> {
    /// Stores the bits, a cluster at a time: `put` writes the bytes of one and returns its host
    /// offset. Returns the bitmap table.
    ///
    /// # Errors
    /// As [`DirtyBitmap::for_each_dirty`], and the errors of `put`; [`Limit`](crate::ErrorKind::Limit)
    /// if the table has too many entries.
    pub(super) fn store(&self, mut put: impl FnMut(&[u8]) -> Result<u64>) -> Result<Vec<u64>> {
        let entries = table_entries(self.granularity, self.disk_size, self.cluster_size);
        if entries > MAX_TABLE_ENTRIES.into() {
            return Err(too_fine());
        }
        require_memory(entries, self.max_table_bytes)?;
        let mut table = vec![0; to_usize(entries)];
        if self.sources.is_empty() {
            return Ok(table);
        }
        let mut bytes = vec![0; to_usize(self.cluster_size)];
        let mut is_clear = true;
        for (index, entry) in (0..).zip(&mut table) {
            if !std::mem::replace(&mut is_clear, true) {
                bytes.fill(0);
            }
            let count = self.fill(index, &mut bytes, &mut is_clear)?;
            *entry = match is_clear {
                true => 0,
                // QEMU takes the bits beyond the end of the disk for set, too, and keeps them if the
                // disk grows.
                false if count == to_u64(bytes.len()) * 8 && is_full(&bytes) => ALL_ONES,
                false => put(&bytes)?,
            };
        }
        Ok(table)
    }

    /// Sets the bits of a cluster. Returns how many it has, those that are clear included.
    fn fill(&self, index: u64, bytes: &mut [u8], is_clear: &mut bool) -> Result<u64> {
        let per_cluster = self.cluster_size * 8;
        let first = index * per_cluster;
        let end = self.disk_size.div_ceil(self.granularity).min(first + per_cluster);
        let guest = first * self.granularity..end.saturating_mul(self.granularity);
        for source in self.sources {
            source.for_each_dirty(guest.clone(), |range| {
                let start = range.start / self.granularity - first;
                set_bits(bytes, start..range.end.div_ceil(self.granularity) - first);
                *is_clear = false;
            })?;
        }
        Ok(end - first)
    }
}

fn is_full(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0xff)
}

/// Verifies that a bitmap of this granularity can be stored, in QEMU's words.
///
/// # Errors
/// Returns [`Limit`](crate::ErrorKind::Limit) if it would have too many bits.
pub(super) fn require_size(granularity: u64, disk_size: u64) -> Result<()> {
    match disk_size.div_ceil(granularity).div_ceil(8) > MAX_BITS_BYTES {
        true => Err(too_fine()),
        false => Ok(()),
    }
}

fn too_fine() -> Error {
    Error::limit("Too much space will be occupied by the bitmap. Use larger granularity")
}

/// Verifies that a stored bitmap has as many bits as the disk needs, and not more than QEMU reads.
///
/// # Errors
/// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if not.
pub(super) fn require_fit(bitmap: &Bitmap, disk_size: u64, cluster_size: u64) -> Result<()> {
    let (found, granularity) = (bitmap.table.entries, bitmap.granularity);
    let entries = table_entries(granularity, disk_size, cluster_size);
    let message = if found != entries {
        format!("it has {found} entries instead of {entries}")
    } else if require_size(granularity, disk_size).is_err() {
        format!("the bitmap has more than {} MiB", MAX_BITS_BYTES >> 20)
    } else {
        return Ok(());
    };
    Err(Error::corrupt("bitmap table", message).at(bitmap.table.offset).hint("remove the bitmap"))
}

/// Verifies that a bitmap table of `entries` entries has at most `max` bytes.
///
/// # Errors
/// Returns [`Limit`](crate::ErrorKind::Limit) if not.
fn require_memory(entries: u64, max: u64) -> Result<()> {
    match entries.saturating_mul(8) > max {
        true => {
            let found = format!("a bitmap table of {entries} entries");
            Err(Error::over_limit("table_bytes", found, max))
        }
        false => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "lists of ranges")]
mod tests {
    use super::*;
    use crate::formats::qcow2::header::Table;
    use crate::storage::source::MemorySource;

    const CLUSTER: u64 = 512;

    fn stored(table: Vec<u64>, bytes: Vec<u8>, granularity: u64, disk_size: u64) -> DirtyBitmap {
        let file = Arc::new(MemorySource::new(bytes));
        let bits = StoredBits { file, table, granularity, disk_size, cluster_size: CLUSTER };
        let info = info::Bitmap { granularity, ..info::Bitmap::default() };
        DirtyBitmap::new(info, disk_size, Arc::new(bits))
    }

    fn dirty(bitmap: &DirtyBitmap, range: Range<u64>) -> Vec<Range<u64>> {
        let mut ranges = Vec::new();
        bitmap.for_each_dirty(range, |range| ranges.push(range)).expect("reads");
        ranges
    }

    /// Stores a bitmap in memory, and returns it.
    fn merged(sources: &[DirtyBitmap], granularity: u64) -> (Vec<u64>, DirtyBitmap) {
        let disk_size = sources[0].disk_size();
        let mut bytes = vec![0; 512];
        let new = NewBits {
            sources,
            granularity,
            disk_size,
            cluster_size: CLUSTER,
            max_table_bytes: 1 << 20,
        };
        let table = new.store(|cluster| {
            let offset = to_u64(bytes.len());
            bytes.extend_from_slice(cluster);
            Ok(offset)
        });
        let table = table.expect("reads");
        (table.clone(), stored(table, bytes, granularity, disk_size))
    }

    #[test]
    fn ranges_are_joined_across_clusters_and_cut_at_the_ends() {
        // The file ends in the second cluster of bits.
        let mut bytes = vec![0; 1000];
        bytes[1 + 512] = 0b1010_0001;
        bytes[999] = 0x80;
        let disk_size = 3 * CLUSTER * 8 * 1024 - 100;
        let bitmap = stored(vec![512, 1, 0], bytes, 1024, disk_size);
        let cluster = CLUSTER * 8 * 1024;
        let all = dirty(&bitmap, 0..u64::MAX);
        let bit = |n: u64| n * 1024;
        assert_eq!(all[..3], [bit(8)..bit(9), bit(13)..bit(14), bit(15)..bit(16)]);
        assert_eq!(all[3..], [bit(487 * 8 + 7)..bit(487 * 8 + 8), cluster..2 * cluster]);
        assert_eq!(dirty(&bitmap, 9000..13_500), [9000..9216, 13_312..13_500]);
        assert_eq!(dirty(&bitmap, cluster - 1..cluster + 1), vec![cluster..cluster + 1]);
        assert_eq!(dirty(&bitmap, 2 * cluster..disk_size), []);
        let last = stored(vec![0, 0, 1], Vec::new(), 1024, disk_size);
        assert_eq!(dirty(&last, 0..u64::MAX), vec![2 * cluster..disk_size]);
    }

    #[test]
    fn bitmaps_are_merged_whatever_their_granularities_are() {
        let disk_size = 20 << 20;
        let mut bits = vec![0; 8 * 512];
        let mut random = 99u64;
        for byte in &mut bits {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (random >> 56) as u8 & (random >> 48) as u8 & (random >> 40) as u8;
        }
        bits[2048..3072].fill(0);
        let fine =
            stored(vec![0, 512, 1024, 1536, 2048, 2560, 3072, 1, 0, 0], bits, 512, disk_size);
        let coarse = stored(vec![512], vec![0x11; 1024], 1 << 20, disk_size);
        let sources = [fine.clone(), coarse.clone()];
        for granularity in [512, 4096, 65_536, 1 << 20, 1 << 31] {
            let (_, merged) = merged(&sources, granularity);
            let mut expected = vec![false; to_usize(u64::div_ceil(disk_size, granularity))];
            for source in &sources {
                for range in dirty(source, 0..disk_size) {
                    let bits = range.start / granularity..range.end.div_ceil(granularity);
                    bits.for_each(|bit| expected[to_usize(bit)] = true);
                }
            }
            let mut found = vec![false; expected.len()];
            for range in dirty(&merged, 0..disk_size) {
                let bits = range.start / granularity..range.end.div_ceil(granularity);
                bits.for_each(|bit| found[to_usize(bit)] = true);
            }
            assert!(found == expected, "{granularity}");
        }
    }

    #[test]
    fn clusters_of_equal_bits_take_no_space() {
        let disk_size = (4096 * 3 + 5) * 512;
        let all = stored(vec![1; 4], Vec::new(), 512, disk_size);
        // The last cluster has bits beyond the end of the disk.
        let (table, bitmap) = merged(&[all], 512);
        assert_eq!(table, [1, 1, 1, 512]);
        assert_eq!(dirty(&bitmap, 0..disk_size), vec![0..disk_size]);
        let one =
            stored(vec![0, 0, 0, 512], [vec![0; 512], vec![0x10; 512]].concat(), 512, disk_size);
        let (table, bitmap) = merged(&[one], 512);
        assert_eq!(table, [0, 0, 0, 512]);
        assert_eq!(dirty(&bitmap, 0..disk_size), vec![disk_size - 512..disk_size]);
    }

    #[test]
    fn tables_that_lie_are_refused() {
        let read = |table: &[u64], entries: u64, max: u64| {
            let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
            let file = Arc::new(MemorySource::new([vec![0; 512], bytes, vec![0; 4096]].concat()));
            let mut bitmap = Bitmap::of_granularity(512);
            bitmap.table = Table { offset: 512, entries };
            let size = CLUSTER * 8 * 512 * 2;
            read_bits(file, &bitmap, size, CLUSTER, max).map_err(|e| e.to_string())
        };
        read(&[1024, 1536], 2, 16).expect("reads");
        let error = |table: &[u64], entries, max| read(table, entries, max).expect_err("refused");
        assert!(error(&[1024, 1024], 2, 16).contains("two entries refer to the same cluster"));
        assert!(error(&[1024, 1025], 2, 16).contains("entry 0x401 is invalid"));
        assert!(error(&[1024, 1536], 3, 16).contains("has 3 entries instead of 2"));
        assert!(error(&[1024, 1536], 2, 15).contains("table_bytes"));
        // The file has 4624 bytes.
        read(&[1024, 4608], 2, 16).expect("begins within the file");
        assert!(error(&[5120, 1024], 2, 16).contains("0x1400 is beyond the end of the file"));
    }

    #[test]
    fn tables_that_are_too_large_are_not_made() {
        let store = |disk_size: u64| {
            let new = NewBits {
                sources: &[],
                granularity: 512,
                disk_size,
                cluster_size: CLUSTER,
                max_table_bytes: 80,
            };
            new.store(|_| Ok(CLUSTER)).map_err(|e| e.to_string())
        };
        let per_entry = CLUSTER * 8 * 512;
        assert_eq!(store(10 * per_entry).expect("fits"), [0; 10]);
        assert!(store(10 * per_entry + 1).expect_err("over the limit").contains("table_bytes"));
        let error = store(1 << 61).expect_err("is too large");
        assert!(error.contains("Use larger granularity"), "{error}");
        let mut bitmap = Bitmap::of_granularity(512);
        let cluster_size = 2 << 20;
        for (size, fits) in [((2u64 << 40), true), ((2 << 40) + 512, false), (1 << 61, false)] {
            bitmap.table.entries = table_entries(512, size, cluster_size);
            assert_eq!(require_fit(&bitmap, size, cluster_size).is_ok(), fits, "{size}");
            bitmap.table.entries += 1;
            require_fit(&bitmap, size, cluster_size).expect_err("has an entry too many");
        }
    }

    #[test]
    fn bits_are_set_whatever_byte_they_begin_in() {
        for start in 0..20 {
            for end in start..40 {
                let mut bytes = [0; 5];
                set_bits(&mut bytes, start..end);
                let mut word = [0; 8];
                word[..5].copy_from_slice(&bytes);
                let expected = (1u64 << end) - (1 << start);
                assert_eq!(u64::from_le_bytes(word), expected, "{start} {end}");
            }
        }
    }
}
