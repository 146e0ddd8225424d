//! Tables of two levels that map clusters, as QED and QCOW version 1 have them.
//!
//! ```text
//!   guest offset   ├── L1 index ──┼── L2 index ──┼── within the cluster ──┤
//!                        │              │                 cluster_bits
//!                        │              │ table_bits
//!   L1 table ────────────┴─► L2 table ──┴─► cluster
//!   (in memory)              (on demand,
//!                             in chunks)
//! ```
//!
//! Neither format records free space: new tables and clusters are appended to the file.

pub(crate) mod check;
pub(crate) mod edit;
#[cfg(feature = "qed")]
pub(crate) mod repair;
pub(crate) mod write;

use crate::error::{Error, Result};
use crate::formats::distinct::SharedTables;
use crate::formats::holes::require_stored;
use crate::formats::table_cache::{MemoryBudget, TableCache};
use crate::model::extent::{Encoded, Extent, HostOffset, Kind, push};
use crate::model::layer::{entries_for, next_allocated_in_table};
use crate::open::limits::Limits;
use crate::storage::codec::Codec;
use crate::storage::number::{to_u32, to_u64, to_usize};
use crate::storage::source::Source;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// The L2 entry of a compressed cluster has this bit.
const COMPRESSED: u64 = 1 << 63;

/// The smallest alignment of clusters that are stored verbatim.
const SECTOR: u64 = 512;

/// Maximum number of entries of an L2 table that are read at a time.
const CHUNK_ENTRIES: u64 = 8192;

/// What distinguishes the tables of one format from those of another.
#[derive(Debug)]
pub(crate) struct TableFormat {
    /// Name of the format.
    pub(crate) name: &'static str,
    /// How errors call the header.
    pub(crate) header: &'static str,
    /// How errors call the L1 table.
    pub(crate) l1: &'static str,
    /// How errors call an L2 table.
    pub(crate) l2: &'static str,
    /// Decodes a word of a table.
    pub(crate) from_bytes: fn([u8; 8]) -> u64,
    /// Encodes a word of a table.
    pub(crate) to_bytes: fn(u64) -> [u8; 8],
    /// The L2 entry of a cluster that reads as zeros, if the format has one.
    pub(crate) zero: Option<u64>,
    /// Whether clusters may be compressed.
    pub(crate) compressed: bool,
    /// Whether the file consists of whole clusters, to which all offsets are aligned.
    pub(crate) whole_clusters: bool,
}

impl TableFormat {
    /// Encodes the words of a table.
    fn encode(&self, words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|&word| (self.to_bytes)(word)).collect()
    }
}

/// The dimensions of the tables of an image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) format: &'static TableFormat,
    /// The cluster size is `1 << cluster_bits` bytes.
    pub(crate) cluster_bits: u32,
    /// An L2 table has `1 << table_bits` entries.
    pub(crate) table_bits: u32,
}

/// A decoded L2 entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Read from the backing file.
    Unallocated,
    /// Reads as zeros.
    Zero,
    /// Stored verbatim at this host offset.
    Data(u64),
    /// Stored as a deflate stream.
    Compressed { offset: u64, len: u32 },
}

impl Layout {
    pub(crate) fn cluster_size(self) -> u64 {
        1 << self.cluster_bits
    }

    /// Returns the number of entries of an L2 table.
    pub(crate) fn entries(self) -> u64 {
        1 << self.table_bits
    }

    /// Returns the length of an L2 table in bytes.
    pub(crate) fn table_bytes(self) -> u64 {
        self.entries() * 8
    }

    /// Returns the binary logarithm of the number of guest bytes that an L2 table maps.
    pub(crate) fn l1_shift(self) -> u32 {
        self.cluster_bits + self.table_bits
    }

    /// Returns the number of L1 entries for a disk of `size` bytes.
    pub(crate) fn l1_entries(self, size: u64) -> u64 {
        size.div_ceil(1 << self.l1_shift())
    }

    /// Returns the number of entries of the L2 table `l1_index` that a disk of `size` bytes needs.
    pub(crate) fn used_entries(self, l1_index: u64, size: u64) -> u64 {
        let clusters = size.div_ceil(self.cluster_size());
        clusters.saturating_sub(l1_index << self.table_bits).min(self.entries())
    }

    fn decode(self, entry: u64) -> Entry {
        match entry {
            0 => Entry::Unallocated,
            _ if Some(entry) == self.format.zero => Entry::Zero,
            _ if self.format.compressed && entry & COMPRESSED != 0 => {
                let bits = 63 - self.cluster_bits;
                Entry::Compressed {
                    offset: entry & ((1 << bits) - 1),
                    len: to_u32((entry & !COMPRESSED) >> bits),
                }
            }
            _ => Entry::Data(entry),
        }
    }

    /// Returns the entry for `len` compressed bytes at host offset `offset`; `None` if the format
    /// cannot represent it.
    fn encode_compressed(self, offset: u64, len: u64) -> Option<u64> {
        let bits = 63 - self.cluster_bits;
        let fits = offset >> bits == 0 && (1..self.cluster_size()).contains(&len);
        fits.then_some(COMPRESSED | len << bits | offset)
    }

    /// Returns the alignment of the host offsets of tables and clusters in new space.
    fn align(self, offset: u64) -> u64 {
        offset.next_multiple_of(self.cluster_size())
    }
}

/// Where the tables of an image are.
#[derive(Debug, Clone)]
pub(crate) struct Location {
    pub(crate) layout: Layout,
    /// Size of the disk in bytes.
    pub(crate) size: u64,
    /// Host offset of the end of the header with all that belongs to it.
    pub(crate) header_end: u64,
    /// Host offset of the L1 table.
    pub(crate) l1_at: u64,
    /// Length of the L1 table in bytes, as far as it takes space in the file.
    pub(crate) l1_bytes: u64,
}

/// The tables of an image.
#[derive(Debug)]
pub(crate) struct Tables {
    source: Arc<dyn Source>,
    pub(crate) location: Location,
    l1: Vec<u64>,
    /// Host offset of the end of the space for tables and clusters.
    end: u64,
    /// The L2 tables that several L1 entries refer to; found when guest data is first mapped.
    shared: OnceLock<SharedTables>,
    chunks: TableCache<u64>,
}

impl Tables {
    /// Returns host offset and length of the parts of tables that describe what is behind the end of
    /// the disk.
    #[cfg(feature = "qed")]
    pub(crate) fn behind_end(&self) -> Vec<(u64, u64)> {
        let Location { layout, size, l1_at, l1_bytes, .. } = self.location;
        let used = to_u64(self.l1.len()) * 8;
        let mut parts = vec![(l1_at + used, l1_bytes.saturating_sub(used))];
        if let Some(last) = to_u64(self.l1.len()).checked_sub(1)
            && let Some(&table) = self.l1.last().filter(|&&table| table != 0)
        {
            let used = layout.used_entries(last, size) * 8;
            parts.push((table + used, layout.table_bytes() - used));
        }
        parts.retain(|&(_, len)| len > 0);
        parts
    }

    /// Reads the L1 table.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is not within the file,
    /// [`Limit`](crate::ErrorKind::Limit) if it is too large, [`Io`](crate::ErrorKind::Io).
    pub(crate) fn open(
        source: Arc<dyn Source>,
        location: Location,
        limits: &Limits,
    ) -> Result<Self> {
        let Location { layout, size, l1_at, .. } = location;
        let len = source.len();
        let end = match layout.format.whole_clusters {
            true => len - len % layout.cluster_size(),
            false => len,
        };
        let bytes = layout.l1_entries(size).saturating_mul(8);
        if bytes > limits.table_bytes {
            let found = format!("an L1 table of {bytes} bytes");
            return Err(Error::over_limit("table_bytes", found, limits.table_bytes)
                .in_structure(layout.format.header));
        }
        if l1_at.checked_add(bytes).is_none_or(|l1_end| l1_end > end) {
            let message = format!("its {bytes} bytes extend beyond the end of the file");
            return Err(Error::corrupt(layout.format.l1, message)
                .at(l1_at)
                .hint("the file is probably truncated"));
        }
        let l1 = read_words(&*source, layout, layout.format.l1, l1_at, bytes / 8)?;
        let (shared, chunks) = (OnceLock::new(), TableCache::new(MemoryBudget::default()));
        Ok(Self { source, location, l1, end, shared, chunks })
    }

    pub(crate) fn layout(&self) -> Layout {
        self.location.layout
    }

    fn size(&self) -> u64 {
        self.location.size
    }

    /// Appends the extents that cover `range`.
    ///
    /// # Errors
    /// As [`Layer::map`](crate::Layer::map).
    pub(crate) fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        let shift = self.layout().l1_shift();
        let mut at = range.start;
        while at < range.end {
            let l1_index = at >> shift;
            let covered = self.range_of_table(l1_index);
            let end = covered.end.min(range.end);
            match self.l1.get(to_usize(l1_index)).copied().unwrap_or(0) {
                0 => push(out, at..end, Kind::Unallocated),
                table => {
                    self.require_table(l1_index, table).map_err(|e| e.losing(covered))?;
                    self.map_table(table, at..end, out)?;
                }
            }
            at = end;
        }
        Ok(())
    }

    /// Appends the extents of a range that the L2 table at host offset `table` maps.
    fn map_table(&self, table: u64, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        let bits = self.layout().cluster_bits;
        let mut at = range.start;
        while at < range.end {
            let chunk = (at >> bits) / self.chunk_entries();
            let first = chunk * self.chunk_entries();
            let start = first << bits;
            let words = self.chunk(chunk, table).map_err(|e| {
                let end = start.saturating_add(self.chunk_entries() << bits).min(self.size());
                e.losing(start..end)
            })?;
            let end = start.saturating_add(to_u64(words.len()) << bits).min(range.end);
            while at < end {
                let cluster = at >> bits;
                let next = ((cluster + 1) << bits).min(end);
                let entry = words[to_usize(cluster - first)];
                self.map_cluster(entry, at..next, out).map_err(|e| {
                    e.losing(cluster << bits..((cluster + 1) << bits).min(self.size()))
                })?;
                at = next;
            }
        }
        Ok(())
    }

    /// Appends the extents of a part of one cluster.
    fn map_cluster(&self, entry: u64, guest: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        let start = guest.start & !(self.layout().cluster_size() - 1);
        let kind = match self.layout().decode(entry) {
            Entry::Unallocated => Kind::Unallocated,
            Entry::Zero => Kind::Zero(None),
            Entry::Data(offset) => {
                self.require_cluster(offset, start)?;
                let data = HostOffset { file: 0, offset: offset + (guest.start - start) };
                // A writer need not fill the last cluster of the file.
                let stored = self.end.saturating_sub(data.offset).min(guest.end - guest.start);
                let split = guest.start + stored;
                push(out, guest.start..split, Kind::Data(data));
                push(out, split..guest.end, Kind::Zero(None));
                return Ok(());
            }
            Entry::Compressed { offset, len } => {
                self.require_compressed(offset, len, start)?;
                Kind::Encoded(Encoded {
                    host: HostOffset { file: 0, offset },
                    stored: len,
                    least_stored: len,
                    unit: start..start + self.layout().cluster_size(),
                    codec: Codec::Deflate,
                })
            }
        };
        push(out, guest, kind);
        Ok(())
    }

    /// Verifies where the L2 table of an L1 entry is, and that no other entry refers to it.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is unaligned, overlaps the header, the L1 table
    /// or another L2 table, or is not within the file.
    fn require_table(&self, l1_index: u64, table: u64) -> Result<()> {
        let layout = self.layout();
        let shared = self.shared.get_or_init(|| {
            let starts = self.l1.iter().map(|&entry| (entry != 0).then_some(entry));
            SharedTables::find(starts, layout.table_bytes())
        });
        if let Some(problem) = self.misplaced(table, layout.table_bytes(), layout.table_bytes()) {
            let message = format!("entry {l1_index} refers to {table:#x}, which {problem}");
            let error = Error::corrupt(layout.format.l1, message);
            return Err(error.at(self.location.l1_at + l1_index * 8));
        }
        if shared.contains(table) {
            return Err(shared.error(layout.format.l1, layout.format.l2));
        }
        Ok(())
    }

    /// Verifies where the cluster for guest offset `guest` is.
    fn require_cluster(&self, offset: u64, guest: u64) -> Result<()> {
        let size = self.layout().cluster_size();
        let whole_clusters = self.layout().format.whole_clusters;
        let least = if whole_clusters { size } else { 1 };
        let problem = match offset.is_multiple_of(SECTOR) || whole_clusters {
            true => self.misplaced(offset, size, least),
            // QEMU does not read such a cluster.
            false => Some("is not aligned to a sector".to_owned()),
        };
        match problem {
            None => Ok(()),
            Some(problem) => Err(self.bad_cluster(offset, guest, problem)),
        }
    }

    /// Verifies where the compressed cluster for guest offset `guest` is.
    fn require_compressed(&self, offset: u64, len: u32, guest: u64) -> Result<()> {
        let problem = match len {
            0 => Some("has no bytes".to_owned()),
            _ => self.misplaced_bytes(offset, len.into(), len.into()),
        };
        match problem {
            None => Ok(()),
            Some(problem) => Err(self.bad_cluster(offset, guest, problem)),
        }
    }

    fn bad_cluster(&self, offset: u64, guest: u64, problem: String) -> Error {
        let message = format!("guest offset {guest:#x} is stored at {offset:#x}, which {problem}");
        Error::corrupt(self.layout().format.l2, message)
    }

    /// Describes what is wrong with the place of `len` bytes, of which `least` must be in the file.
    fn misplaced(&self, offset: u64, len: u64, least: u64) -> Option<String> {
        let whole_clusters = self.layout().format.whole_clusters;
        if whole_clusters && !offset.is_multiple_of(self.layout().cluster_size()) {
            return Some("is not aligned to a cluster".to_owned());
        }
        self.misplaced_bytes(offset, len, least)
    }

    fn misplaced_bytes(&self, offset: u64, len: u64, least: u64) -> Option<String> {
        if offset.checked_add(least).is_none_or(|end| end > self.end) {
            return Some(format!("is beyond the end of the file at {:#x}", self.end));
        }
        let end = offset.saturating_add(len);
        let Location { header_end, l1_at, l1_bytes, .. } = self.location;
        if offset < header_end {
            return Some("is in the header".to_owned());
        }
        let overlaps_l1 = offset < l1_at.saturating_add(l1_bytes) && end > l1_at;
        overlaps_l1.then(|| "overlaps the L1 table".to_owned())
    }

    /// Returns the guest range that an L1 entry maps.
    fn range_of_table(&self, l1_index: u64) -> Range<u64> {
        let (shift, size) = (self.layout().l1_shift(), self.size());
        let start = l1_index << shift;
        start..start.saturating_add(1 << shift).min(size)
    }

    /// Returns the number of entries that are read at a time.
    fn chunk_entries(&self) -> u64 {
        self.layout().entries().min(CHUNK_ENTRIES)
    }

    /// Returns the entries of a chunk, counted from the start of the disk, of the L2 table at host
    /// offset `table`.
    fn chunk(&self, chunk: u64, table: u64) -> Result<Arc<[u64]>> {
        let (layout, count) = (self.layout(), self.chunk_entries());
        let within = chunk * count % layout.entries();
        self.chunks.get(chunk, || {
            read_words(&*self.source, layout, layout.format.l2, table + within * 8, count)
        })
    }

    /// As [`Layer::next_allocated_hint`](crate::Layer::next_allocated_hint).
    pub(crate) fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        let cover = 1 << self.layout().l1_shift();
        next_allocated_in_table(&self.l1, cover, range, |&entry| entry == 0)
    }

    /// As [`Layer::prefetch_tables`](crate::Layer::prefetch_tables).
    pub(crate) fn prefetch_tables(&self, range: Range<u64>) {
        let layout = self.layout();
        let first = range.start >> layout.l1_shift();
        let used = entries_for(&self.l1, 1 << layout.l1_shift(), range.clone());
        let part = |(l1_index, table): (u64, u64)| {
            // Of a large table, only what maps the range.
            let covered = self.range_of_table(l1_index);
            let from = (range.start.max(covered.start) - covered.start) >> layout.cluster_bits;
            let to = (range.end.min(covered.end) - covered.start).div_ceil(layout.cluster_size());
            table.saturating_add(from * 8)..table.saturating_add(to * 8)
        };
        let tables = (first..).zip(used.iter().copied()).filter(|&(_, table)| table != 0);
        self.source.prefetch(&tables.map(part).collect::<Vec<_>>());
    }
}

/// Reads `count` words at host offset `at`. The caller must bound `count`.
fn read_words(
    source: &dyn Source,
    layout: Layout,
    structure: &'static str,
    at: u64,
    count: u64,
) -> Result<Vec<u64>> {
    require_stored(source, structure, at, count * 8)?;
    let mut bytes = vec![0; to_usize(count * 8)];
    source
        .read_exact_at(&mut bytes, at)
        .map_err(|e| Error::io("cannot read it", e).in_structure(structure).at(at))?;
    Ok(bytes.as_chunks::<8>().0.iter().map(|word| (layout.format.from_bytes)(*word)).collect())
}
