//! A hosted sparse extent: from a grain to where it is.
//!
//! ```text
//!   guest offset ──► grain directory ──► grain table ──► grain
//!                    u32 per table       u32 per grain   sector × 512
//!                    (in memory)         (on demand)
//!   0: nobody wrote it, the parent answers      1: zeros (zeroed-grain flag)
//! ```
//!
//! *Virtual Disk Format 5.0*, "Hosted Sparse Extents": a directory entry is the
//! sector of a grain table, a table entry the sector of a grain.

use super::header::{GD_AT_END, Header};
use super::stream::{self, GrainMarker};
use super::tables::{MemoryBudget, TableCache};
use super::{SECTOR, read, read_sector};
use crate::error::{Error, ErrorKind, Result};
use crate::model::extent::{Encoded, Extent, HostOffset, Kind, push};
use crate::model::layer::next_allocated_in_table;
use crate::open::limits::Limits;
use crate::storage::codec::Codec;
use crate::storage::number::{to_u32, to_u64, to_usize};
use crate::storage::source::Source;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use zerocopy::IntoBytes;

/// How far a compressed grain may exceed twice its size. Deflate does not
/// expand by more than a few bytes; QEMU too reads two grains at most.
const COMPRESSED_SLACK: u64 = 4096;

/// A table entry that stands for zeros, where the header allows it.
pub(super) const GTE_ZEROED: u32 = 1;

/// One sparse extent. Guest offsets count from its own first byte.
#[derive(Debug)]
pub(super) struct SparseExtent {
    source: Arc<dyn Source>,
    /// The footer's, where that counts.
    header: Header,
    /// Host offset where the stream's footer is.
    footer_at: Option<u64>,
    /// Sectors of grain tables; entries the primary directory has wrong are
    /// the redundant one's.
    directory: Vec<u32>,
    /// The redundant directory, if it can be read; otherwise empty.
    redundant: Vec<u32>,
    /// How many entries of the directory are the redundant one's.
    replaced: u64,
    /// How often a damaged table was replaced by the redundant one.
    replaced_tables: AtomicU64,
    tables: TableCache<u32>,
    /// Of the limits.
    check_bytes: u64,
}

impl SparseExtent {
    /// Opens the extent whose header is the first sector of `source`.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if neither directory can be read;
    /// as [`Header::parse`] and [`stream::read_footer`].
    pub(super) fn open(
        source: Arc<dyn Source>,
        header: Header,
        limits: &Limits,
        budget: MemoryBudget,
    ) -> Result<Self> {
        if header.over_head * SECTOR > source.len() {
            return Err(Error::corrupt(
                "VMDK header",
                format!(
                    "the first grain is at {}, behind the end of the file at {}",
                    header.over_head * SECTOR,
                    source.len()
                ),
            )
            .at(0)
            .hint("the file is probably truncated"));
        }
        let grain = header.grain_sectors * SECTOR;
        if header.compressed && grain > limits.unit_bytes {
            let found = format!("compressed grains of {grain} bytes");
            return Err(Error::over_limit("unit_bytes", found, limits.unit_bytes)
                .in_structure("VMDK header"));
        }
        let (header, footer_at) = if header.gd_offset == GD_AT_END {
            let (footer, at) = stream::read_footer(&*source, &header)?;
            (footer, Some(at))
        } else {
            (header, None)
        };
        let mut extent = Self {
            source,
            header,
            footer_at,
            directory: Vec::new(),
            redundant: Vec::new(),
            replaced: 0,
            replaced_tables: AtomicU64::new(0),
            tables: TableCache::new(budget),
            check_bytes: limits.check_bytes,
        };
        extent.load_directory(limits)?;
        Ok(extent)
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    pub(super) fn source(&self) -> &dyn Source {
        &*self.source
    }

    pub(super) fn footer_at(&self) -> Option<u64> {
        self.footer_at
    }

    /// Bytes of memory that a check may take.
    pub(super) fn check_bytes(&self) -> u64 {
        self.check_bytes
    }

    pub(super) fn directory(&self) -> &[u32] {
        &self.directory
    }

    /// Directory entries that had to be taken from the redundant directory.
    pub(super) fn replaced(&self) -> u64 {
        self.replaced
    }

    /// Guest bytes.
    pub(super) fn size(&self) -> u64 {
        self.header.capacity * SECTOR
    }

    /// Bytes of the tables that are held in memory as a whole.
    pub(super) fn table_memory(&self) -> u64 {
        to_u64(self.directory.len() + self.redundant.len()) * 4
    }

    /// What is damaged and was made up for, so far.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let from = "the redundant copy is used instead";
        if self.replaced > 0 {
            let replaced = self.replaced;
            warnings.push(format!("damaged entries of the grain directory: {replaced}; {from}"));
        }
        let tables = self.replaced_tables.load(Ordering::Relaxed);
        if tables > 0 {
            warnings.push(format!("damaged grain tables: {tables}; {from}"));
        }
        warnings
    }

    fn load_directory(&mut self, limits: &Limits) -> Result<()> {
        let bytes = self.header.tables().saturating_mul(4);
        if bytes > limits.table_bytes {
            let found = format!("a grain directory of {bytes} bytes");
            return Err(Error::over_limit("table_bytes", found, limits.table_bytes)
                .in_structure("VMDK header"));
        }
        let count = self.header.tables();
        let redundant = self.header.redundant();
        let redundant = redundant.map(|at| self.read_entries(at, count, "redundant directory"));
        self.redundant = redundant.and_then(Result::ok).unwrap_or_default();
        match self.read_entries(self.header.gd_offset, count, "grain directory") {
            Ok(primary) => self.directory = primary,
            // A directory that names no table cannot stand in for a lost one, and
            // what cannot be read today may be read tomorrow.
            Err(error)
                if error.kind() != ErrorKind::Corrupt
                    || self.redundant.iter().all(|&entry| entry == 0) =>
            {
                return Err(error);
            }
            Err(_) => self.directory = vec![0; self.redundant.len()],
        }
        self.mend();
        Ok(())
    }

    /// Takes from the redundant directory what cannot be right in the other:
    /// tables out of the file, and tables that are missing in one of the two.
    fn mend(&mut self) {
        let mut directory = std::mem::take(&mut self.directory);
        for (entry, &other) in directory.iter_mut().zip(&self.redundant) {
            let wrong = *entry == 0 || !self.table_fits(*entry);
            if wrong && other != 0 && self.table_fits(other) {
                *entry = other;
                self.replaced += 1;
            }
        }
        self.directory = directory;
    }

    fn table_fits(&self, sector: u32) -> bool {
        sector == 0 || u64::from(sector) * SECTOR + self.table_bytes() <= self.source.len()
    }

    fn table_bytes(&self) -> u64 {
        u64::from(self.header.gtes) * 4
    }

    /// Reads `count` entries from a directory or a table at `sector`.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if they leave the file.
    pub(super) fn read_entries(
        &self,
        sector: u64,
        count: u64,
        structure: &'static str,
    ) -> Result<Vec<u32>> {
        let (at, bytes) = (sector.saturating_mul(SECTOR), count.saturating_mul(4));
        let end = at.checked_add(bytes);
        if sector == 0 || end.is_none_or(|end| end > self.source.len()) {
            return Err(Error::corrupt(
                structure,
                format!(
                    "{bytes} bytes of it would leave the file, which ends at {:#x}",
                    self.source.len()
                ),
            )
            .at(at)
            .hint("the file is probably truncated"));
        }
        let mut entries = vec![0u32; to_usize(count)];
        read(&*self.source, entries.as_mut_bytes(), at, structure)?;
        entries.iter_mut().for_each(|entry| *entry = u32::from_le(*entry));
        Ok(entries)
    }

    /// Reads the grain table at `sector`.
    ///
    /// # Errors
    /// As [`read_entries`](Self::read_entries).
    pub(super) fn read_table(&self, sector: u32) -> Result<Vec<u32>> {
        self.read_entries(sector.into(), self.header.gtes.into(), "grain table")
    }

    /// The grain table for a directory entry that is not 0.
    fn table(&self, index: u64, sector: u32) -> Result<Arc<[u32]>> {
        self.tables.get(index, || {
            let table = self.read_table(sector)?;
            if table.iter().all(|&entry| self.starts_in_file(entry)) {
                return Ok(table);
            }
            // What is wrong in both will be an error where it is needed.
            Ok(self.sound_copy(index, sector, &table).unwrap_or(table))
        })
    }

    /// The redundant copy of a damaged table: another one that says the same
    /// wherever that can be right, and something where it cannot. A copy that
    /// says less is an older state of the disk.
    fn sound_copy(&self, index: u64, sector: u32, damaged: &[u32]) -> Option<Vec<u32>> {
        let other = *self.redundant.get(to_usize(index))?;
        let copy = self.read_table(Some(other).filter(|&o| o != 0 && o != sector)?).ok()?;
        let sound = damaged.iter().zip(&copy).all(|(&entry, &other)| match other {
            _ if self.starts_in_file(entry) => entry == other,
            0 => false,
            other => self.starts_in_file(other),
        });
        sound.then(|| {
            self.replaced_tables.fetch_add(1, Ordering::Relaxed);
            copy
        })
    }

    /// Whether a grain, if the entry names one, starts in the file.
    fn starts_in_file(&self, entry: u32) -> bool {
        entry <= GTE_ZEROED || u64::from(entry) < self.source.len().div_ceil(SECTOR)
    }

    /// The table entry for the grain at a guest offset.
    ///
    /// # Errors
    /// As [`read_entries`](Self::read_entries).
    pub(super) fn entry(&self, guest: u64) -> Result<u32> {
        let index = guest / self.header.table_cover();
        match self.directory[to_usize(index)] {
            0 => Ok(0),
            sector => {
                let table = self.table(index, sector)?;
                Ok(table[to_usize(guest / self.header.grain_bytes()) % table.len()])
            }
        }
    }

    /// As [`Layer::next_allocated_hint`](crate::Layer::next_allocated_hint).
    pub(super) fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        next_allocated_in_table(&self.directory, self.header.table_cover(), range, |&entry| {
            entry == 0
        })
    }

    /// Appends extents for `range` of this extent, whose first byte is the
    /// disk's byte `base` and whose file is the layer's number `file`.
    ///
    /// # Errors
    /// As [`Layer::map`](crate::Layer::map).
    pub(super) fn map(
        &self,
        range: Range<u64>,
        base: u64,
        file: usize,
        out: &mut Vec<Extent>,
    ) -> Result<()> {
        let cover = self.header.table_cover();
        let mut at = range.start;
        while at < range.end {
            let index = at / cover;
            let end = ((index + 1) * cover).min(range.end);
            match self.directory[to_usize(index)] {
                0 => push(out, base + at..base + end, Kind::Unallocated),
                sector => {
                    let lost = |e: Error| e.losing(base + at..base + end);
                    let table = self.table(index, sector).map_err(lost)?;
                    self.map_table(&table, at..end, base, file, out)?;
                }
            }
            at = end;
        }
        Ok(())
    }

    fn map_table(
        &self,
        table: &[u32],
        range: Range<u64>,
        base: u64,
        file: usize,
        out: &mut Vec<Extent>,
    ) -> Result<()> {
        let grain_bytes = self.header.grain_bytes();
        let mut at = range.start;
        while at < range.end {
            let start = at / grain_bytes * grain_bytes;
            let grain = start..(start + grain_bytes).min(self.size());
            let end = grain.end.min(range.end);
            let entry = table[to_usize(start / grain_bytes) % table.len()];
            let kind = self
                .grain(entry, &grain, base, file)
                .map_err(|e| e.losing(base + grain.start..base + grain.end))?
                .forward(at - start);
            push(out, base + at..base + end, kind);
            at = end;
        }
        Ok(())
    }

    /// What a table entry says about a grain; the disk's last one may be short.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the grain cannot be there.
    pub(super) fn grain(
        &self,
        entry: u32,
        grain: &Range<u64>,
        base: u64,
        file: usize,
    ) -> Result<Kind> {
        match entry {
            0 => return Ok(Kind::Unallocated),
            GTE_ZEROED if self.header.zeroed_grains() => return Ok(Kind::Zero(None)),
            _ => {}
        }
        let offset = u64::from(entry) * SECTOR;
        let broken = |message: String| {
            let place = format!("{message} (grain of guest offset {:#x})", base + grain.start);
            Error::corrupt("grain", place).at(offset)
        };
        if u64::from(entry) < self.header.over_head.min(2) {
            return Err(broken("its table points at the header".into()));
        }
        if self.header.compressed {
            let (skip, stored) = self.compressed_grain(offset, grain).map_err(broken)?;
            return Ok(Kind::Encoded(Encoded {
                place: HostOffset { file, offset: offset + skip },
                stored,
                unit: base + grain.start..base + grain.end,
                codec: Codec::Zlib,
            }));
        }
        if offset + (grain.end - grain.start) > self.source.len() {
            let end = self.source.len();
            return Err(broken(format!("it leaves the file, which ends at {end:#x}"))
                .hint("the file is probably truncated"));
        }
        Ok(Kind::Data(HostOffset { file, offset }))
    }

    /// Bytes to skip before the zlib stream at `offset`, and its bytes.
    fn compressed_grain(&self, offset: u64, grain: &Range<u64>) -> Result<(u64, u32), String> {
        let mut bytes = [0; to_usize(GrainMarker::BYTES)];
        self.source
            .read_exact_at(&mut bytes, offset)
            .map_err(|e| format!("cannot read its marker: {e}"))?;
        let most = self.header.grain_bytes() * 2 + COMPRESSED_SLACK;
        let left = self.source.len() - offset;
        let bounded = |size: u32, skip: u64| {
            let size = u64::from(size);
            if size == 0 || size > most {
                return Err(format!("a compressed size of {size} bytes; 1 to {most} are allowed"));
            }
            if size > left - skip {
                return Err(format!("{size} compressed bytes leave the file; it is truncated"));
            }
            Ok((skip, to_u32(size)))
        };
        if self.has_markers() {
            let marker: GrainMarker = zerocopy::transmute!(bytes);
            let (lba, wanted) = (marker.lba.get(), grain.start / SECTOR);
            if lba != wanted {
                return Err(format!("its marker says sector {lba}, its table {wanted}"));
            }
            return bounded(marker.size.get(), GrainMarker::BYTES);
        }
        // Without markers the specification says nothing. VMware's own tools
        // put the size in front of the data, QEMU reads the data alone: see
        // where a zlib header is. (Bare data whose bytes 4 and 5 look like one
        // would have to start with an empty stored block of odd length.)
        let [a, b, c, d, e, f, ..] = bytes;
        let sized = bounded(u32::from_le_bytes([a, b, c, d]), 4);
        match (is_zlib_header(e, f), is_zlib_header(a, b)) {
            (true, _) if sized.is_ok() => sized,
            // The stream knows its own end.
            (_, true) => Ok((0, to_u32(most.min(left)))),
            _ => Err("no zlib stream".into()),
        }
    }

    fn has_markers(&self) -> bool {
        self.header.flags.contains(super::header::Flags::MARKERS)
    }
}

/// `CMF` and `FLG` of RFC 1950: deflate, a window of at most 32 KiB, and the
/// check bits right.
fn is_zlib_header(cmf: u8, flg: u8) -> bool {
    cmf & 0x0f == 8 && cmf >> 4 <= 7 && u16::from_be_bytes([cmf, flg]).is_multiple_of(31)
}

/// Reads the header of the sparse extent in `source`.
///
/// # Errors
/// As [`Header::parse`].
pub(super) fn read_header(source: &dyn Source) -> Result<Header> {
    Header::parse(&read_sector(source, 0, "VMDK header")?, 0)
}
