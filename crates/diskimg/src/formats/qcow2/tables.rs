//! L1 and L2 tables: from guest clusters to host offsets.
//!
//! ```text
//!   guest offset   ├── L1 index ──┼── L2 index ──┼── within the cluster ──┤
//!   L1 entry   63 copied │ 62–56 0 │ 55–9 offset of the L2 table │ 8–0 0
//!   L2 entry   63 copied │ 62 = 0 │ 61–56 0 │ 55–9 host offset │ 8–1 0 │ 0 reads as zeros
//!              63 = 0    │ 62 = 1 │ sectors beyond the first │ host offset, any byte
//!                                  └ cluster_bits - 8 bits ──┘
//!   extended   the same 8 bytes, bit 0 unused, and 8 more:
//!              63–32 subcluster reads as zeros │ 31–0 subcluster is allocated
//! ```
//!
//! Specification: "Cluster mapping" and "Extended L2 Entries". L2 tables are read on demand, in
//! chunks, through a small cache.

use crate::error::{Error, Result};
use crate::formats::holes::require_stored;
use crate::storage::lock;
use crate::storage::number::{to_u32, to_u64, to_usize};
use crate::storage::source::Source;
use std::sync::{Arc, Mutex};

/// The refcount of the cluster that the entry points to is exactly one.
pub(crate) const COPIED: u64 = 1 << 63;

/// The L2 entry describes a compressed cluster.
pub(crate) const COMPRESSED: u64 = 1 << 62;

/// The cluster reads as zeros (version 3, not with extended L2 entries).
pub(crate) const ZERO: u64 = 1;

/// Bits that hold the host offset in L1 entries and in L2 entries of standard clusters.
pub(crate) const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;

/// Bits of an L1 entry that must be zero.
pub(crate) const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;

/// Bits of an L2 entry of a standard cluster that must be zero.
pub(crate) const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;

/// Bitmap of an extended L2 entry all of whose subclusters read as zeros.
pub(crate) const ALL_ZERO: u64 = 0xffff_ffff << 32;

/// Bitmap of an extended L2 entry all of whose subclusters are stored.
pub(crate) const ALL_STORED: u64 = 0xffff_ffff;

/// Number of subclusters of a cluster with extended L2 entries.
pub(crate) const SUBCLUSTERS: u32 = 32;

/// The layout of the L2 tables of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct L2Layout {
    /// The cluster size is `1 << cluster_bits` bytes.
    pub(crate) cluster_bits: u32,
    /// Entries have 16 bytes and describe subclusters.
    pub(crate) extended: bool,
    /// Guest clusters are in an external data file, where offset 0 is valid.
    pub(crate) data_file: bool,
}

/// A decoded L2 entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cluster {
    /// Not allocated: reads from the backing file.
    Unallocated,
    /// Stored verbatim.
    Data {
        /// Host offset; not necessarily aligned.
        offset: u64,
    },
    /// Reads as zeros, with or without preallocated space.
    Zero {
        /// Host offset of the preallocated space; not necessarily aligned.
        offset: Option<u64>,
    },
    /// Compressed.
    Compressed {
        /// Host offset of the first byte.
        offset: u64,
        /// Length in bytes up to the end of the last sector.
        len: u32,
    },
    /// Described by subclusters (extended L2 entries).
    Subclusters(Subclusters),
}

/// The state of the 32 subclusters of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subclusters {
    /// Host offset of the host cluster, if any; not necessarily aligned.
    pub(crate) offset: Option<u64>,
    /// One bit per subcluster: stored in the host cluster.
    pub(crate) allocated: u32,
    /// One bit per subcluster: reads as zeros.
    pub(crate) zero: u32,
}

impl Subclusters {
    /// Returns false if a subcluster is both allocated and zero, or allocated without a host
    /// cluster.
    pub(crate) fn is_valid(self) -> bool {
        self.allocated & self.zero == 0 && (self.offset.is_some() || self.allocated == 0)
    }
}

impl L2Layout {
    /// Returns the size of an entry in bytes: 8 or 16.
    pub(crate) fn entry_bytes(self) -> u64 {
        if self.extended { 16 } else { 8 }
    }

    /// Returns the cluster size in bytes, which is also the size of an L2 table.
    pub(crate) fn cluster_size(self) -> u64 {
        1 << self.cluster_bits
    }

    /// Returns the number of entries of an L2 table.
    pub(crate) fn entries(self) -> u64 {
        self.cluster_size() / self.entry_bytes()
    }

    /// Returns the number of guest bytes that an L2 table describes.
    pub(crate) fn guest_bytes_per_table(self) -> u64 {
        1 << self.l1_shift()
    }

    /// Returns the binary logarithm of [`guest_bytes_per_table`](Self::guest_bytes_per_table).
    pub(crate) fn l1_shift(self) -> u32 {
        self.cluster_bits + self.entries().trailing_zeros()
    }

    /// Decodes an L2 entry. `bitmap` is the second half of an extended entry.
    pub(crate) fn decode(self, entry: u64, bitmap: u64) -> Cluster {
        if entry & COMPRESSED != 0 {
            let (offset, len) = self.decode_compressed(entry);
            return Cluster::Compressed { offset, len };
        }
        let offset = entry & OFFSET_MASK;
        // Offset 0 is the header, so it means "no host cluster". In a data file offset 0 is valid
        // and the copied flag distinguishes it from an unallocated cluster.
        let has_host_cluster = offset != 0 || (self.data_file && entry & COPIED != 0);
        if self.extended {
            return Cluster::Subclusters(Subclusters {
                offset: has_host_cluster.then_some(offset),
                allocated: to_u32(bitmap & 0xffff_ffff),
                zero: to_u32(bitmap >> 32),
            });
        }
        if entry & ZERO != 0 {
            return Cluster::Zero { offset: (offset != 0).then_some(offset) };
        }
        if has_host_cluster { Cluster::Data { offset } } else { Cluster::Unallocated }
    }

    /// Returns the number of offset bits in the entry of a compressed cluster ("x" in the
    /// specification).
    fn compressed_offset_bits(self) -> u32 {
        62 - (self.cluster_bits - 8)
    }

    /// Returns host offset and length in bytes of a compressed cluster. The length includes the
    /// rest of the last sector.
    pub(crate) fn decode_compressed(self, entry: u64) -> (u64, u32) {
        let bits = self.compressed_offset_bits();
        let offset = entry & ((1 << bits) - 1);
        // At most 2^13 more sectors: 4 MiB.
        let additional_sectors = (entry & !(COPIED | COMPRESSED)) >> bits;
        (offset, (to_u32(additional_sectors) + 1) * 512 - to_u32(offset % 512))
    }

    /// Returns the entry for `len` compressed bytes at host offset `offset`, or `None` if the
    /// format cannot represent the length or the offset.
    pub(crate) fn encode_compressed(self, offset: u64, len: u64) -> Option<u64> {
        let bits = self.compressed_offset_bits();
        let additional_sectors = (offset.checked_add(len)?.checked_sub(1)? >> 9) - (offset >> 9);
        let fits = len > 0
            && offset >> bits == 0
            && offset & !(OFFSET_MASK | 511) == 0
            && additional_sectors >> (self.cluster_bits - 8) == 0;
        fits.then_some(COMPRESSED | additional_sectors << bits | offset)
    }
}

/// Number of chunks in the cache of a [`TableReader`]: 2 MiB with chunks of 64 KiB.
const CACHED_CHUNKS: usize = 32;

/// A chunk of the image file, as big-endian words.
#[derive(Debug, Clone)]
pub(crate) struct TableChunk {
    /// Host offset of the first word.
    pub(crate) start: u64,
    /// The words; those beyond the end of the file are zero.
    pub(crate) words: Arc<[u64]>,
}

impl TableChunk {
    /// Returns true if it contains the word at host offset `offset`.
    pub(crate) fn contains(&self, offset: u64) -> bool {
        offset.checked_sub(self.start).is_some_and(|at| at / 8 < to_u64(self.words.len()))
    }
}

/// Reads tables in chunks through a cache.
#[derive(Debug)]
pub(crate) struct TableReader {
    /// Size of a chunk in bytes, a power of two.
    chunk: u64,
    /// The cache, indexed by chunk number modulo [`CACHED_CHUNKS`].
    slots: Mutex<Vec<Option<TableChunk>>>,
}

impl TableReader {
    /// Creates a reader for tables of one cluster each.
    pub(crate) fn new(cluster_size: u64) -> Self {
        Self {
            chunk: cluster_size.clamp(4 << 10, 64 << 10),
            slots: Mutex::new(vec![None; CACHED_CHUNKS]),
        }
    }

    /// Returns the host offset of the end of the chunk that contains host offset `offset`.
    pub(crate) fn end_of_chunk(&self, offset: u64) -> u64 {
        (offset & !(self.chunk - 1)).saturating_add(self.chunk)
    }

    /// Returns the chunk that contains host offset `offset`. `table` names the structure in errors.
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) if the file cannot be read.
    pub(crate) fn chunk(
        &self,
        file: &dyn Source,
        table: &'static str,
        offset: u64,
    ) -> Result<TableChunk> {
        let start = offset & !(self.chunk - 1);
        let slot = to_usize(start / self.chunk) % CACHED_CHUNKS;
        let cached = lock(&self.slots)[slot].clone();
        if let Some(chunk) = cached.filter(|chunk| chunk.start == start) {
            return Ok(chunk);
        }
        // Read without holding the lock, so that other readers need not wait.
        let chunk =
            TableChunk { start, words: read_words(file, table, start, self.chunk / 8)?.into() };
        lock(&self.slots)[slot] = Some(chunk.clone());
        Ok(chunk)
    }
}

/// Encodes the words of a table in big-endian order.
pub(crate) fn to_bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// Reads `count` big-endian words. Those beyond the end of the file are zero. The caller must bound
/// `count`. `table` names the structure in errors.
///
/// # Errors
/// Returns [`Io`](crate::ErrorKind::Io) if the file cannot be read.
pub(crate) fn read_words(
    file: &dyn Source,
    table: &'static str,
    offset: u64,
    count: u64,
) -> Result<Vec<u64>> {
    /// Bytes read at a time, so that a large table is not held in memory twice.
    const CHUNK: usize = 64 << 10;
    let len = to_usize(file.len().saturating_sub(offset).min(count * 8));
    require_stored(file, table, offset, to_u64(len))?;
    let mut words = Vec::with_capacity(to_usize(count));
    let mut bytes = vec![0; len.min(CHUNK).next_multiple_of(8)];
    let mut at = 0;
    while at < len {
        let part = (len - at).min(CHUNK);
        // The file may end within its last word.
        let bytes = &mut bytes[..part.next_multiple_of(8)];
        bytes[part..].fill(0);
        file.read_exact_at(&mut bytes[..part], offset + to_u64(at))
            .map_err(|e| Error::io("cannot read", e).in_structure(table).at(offset))?;
        words.extend(bytes.as_chunks::<8>().0.iter().map(|word| u64::from_be_bytes(*word)));
        at += part;
    }
    words.resize(to_usize(count), 0);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::source::MemorySource;

    fn layout(cluster_bits: u32) -> L2Layout {
        L2Layout { cluster_bits, extended: false, data_file: false }
    }

    #[test]
    fn standard_entries_are_decoded() {
        let l = layout(16);
        assert_eq!(l.decode(0, 0), Cluster::Unallocated);
        assert_eq!(l.decode(COPIED, 0), Cluster::Unallocated);
        assert_eq!(l.decode(COPIED | 0x50000, 0), Cluster::Data { offset: 0x50000 });
        assert_eq!(l.decode(ZERO, 0), Cluster::Zero { offset: None });
        assert_eq!(l.decode(COPIED | 0x50000 | ZERO, 0), Cluster::Zero { offset: Some(0x50000) });
        let d = L2Layout { data_file: true, ..l };
        assert_eq!(d.decode(COPIED, 0), Cluster::Data { offset: 0 });
        assert_eq!(d.decode(0, 0), Cluster::Unallocated);
    }

    #[test]
    fn compressed_entries_survive_encoding_and_decoding() {
        for bits in 9..=21 {
            let l = layout(bits);
            for (offset, len) in [(0x50000, 1), (0x500ff, 300), (0x501ff, 2), (1 << 40, 512)] {
                let entry = l.encode_compressed(offset, len).expect("fits");
                let (back, stored) = l.decode_compressed(entry);
                assert_eq!(back, offset);
                assert!(u64::from(stored) >= len && u64::from(stored) < len + 512, "{bits} {len}");
                assert_eq!((offset + u64::from(stored)) % 512, 0);
            }
            assert_eq!(l.encode_compressed(1 << l.compressed_offset_bits(), 1), None);
            assert_eq!(l.encode_compressed(1 << 56, 1), None);
            assert_eq!(l.encode_compressed(0, (1 << (bits + 1)) + 1), None);
            assert!(l.encode_compressed(0, 1 << (bits + 1)).is_some());
        }
    }

    #[test]
    fn a_subcluster_that_is_both_allocated_and_zero_is_invalid() {
        let l = L2Layout { extended: true, ..layout(16) };
        let subclusters = |entry, bitmap| match l.decode(entry, bitmap) {
            Cluster::Subclusters(subclusters) => subclusters,
            other => panic!("{other:?}"),
        };
        assert!(subclusters(0x50000, 0x0000_0002_0000_0001).is_valid());
        assert!(!subclusters(0x50000, 0x0000_0001_0000_0001).is_valid());
        assert!(subclusters(0, 0x0000_0001_0000_0000).is_valid());
        assert!(!subclusters(0, 1).is_valid());
    }

    #[test]
    fn words_beyond_the_end_of_the_file_are_zero() {
        let file = MemorySource::new([[0xff; 8].as_slice(), &[1; 4]].concat());
        let words = read_words(&file, "table", 0, 3).expect("reads");
        assert_eq!(words, [u64::MAX, 0x0101_0101_0000_0000, 0]);
        assert_eq!(read_words(&file, "table", 100, 2).expect("reads"), [0, 0]);
    }
}
