//! Reading a hosted sparse extent: locating its grains.
//!
//! ```text
//!   guest offset ──► grain directory ──► grain table ──► grain
//!                    u32 per table       u32 per grain   sector × 512
//!                    (in memory)         (on demand)
//!   0: unallocated, read from the parent      1: zeros (with the zeroed-grain flag)
//! ```
//!
//! *Virtual Disk Format 5.0*, "Hosted Sparse Extents": a directory entry is the sector number of a
//! grain table, a table entry the sector number of a grain.

mod map;

use super::header::{GD_AT_END, Header};
use super::scan::Scan;
use super::stream;
pub(super) use super::stream::GrainMarker;
use super::{SECTOR, read, read_sector};
use crate::error::{Error, ErrorKind, Result};
use crate::formats::distinct::SharedTables;
use crate::formats::holes::require_stored;
use crate::formats::table_cache::{MemoryBudget, TableCache};
use crate::model::layer::{entries_for, next_allocated_in_table};
use crate::open::limits::Limits;
use crate::remedy::Remedy;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use zerocopy::IntoBytes;

/// Number of bytes by which a compressed grain may exceed twice the grain size, which is all that
/// QEMU reads. Valid grains need far less: deflate expands data by a few bytes at most.
const COMPRESSED_SLACK: u64 = 4096;

/// The table entry of a zeroed grain, if the header enables these.
pub(super) const GTE_ZEROED: u32 = 1;

/// One sparse extent. Guest offsets are relative to its first byte.
#[derive(Debug)]
pub(super) struct SparseExtent {
    source: Arc<dyn Source>,
    /// The header, or the footer if there is one.
    header: Header,
    /// Host offset of a stream's footer.
    footer_at: Option<u64>,
    /// Sector numbers of the grain tables. Invalid entries of the primary directory are replaced by
    /// those of the redundant one.
    directory: Vec<u32>,
    /// The redundant directory; empty if there is none or it cannot be read.
    redundant: Vec<u32>,
    /// Number of directory entries taken from the redundant directory.
    replaced: u64,
    /// Why the redundant directory could not be read, if the storage failed.
    unread_redundant: Option<String>,
    /// Number of times that a redundant table was used instead of a damaged one.
    replaced_tables: AtomicU64,
    tables: TableCache<u32>,
    /// The grain tables that several directory entries point to; found when guest data is first
    /// mapped.
    shared: OnceLock<SharedTables>,
    /// Why directory and tables cannot be read, if the extent was opened nevertheless.
    missing: Option<String>,
    /// The grains that were found by their markers, if damage is to be salvaged.
    scan: Option<Scan>,
    /// [`Limits::check_bytes`].
    check_bytes: u64,
}

/// What happens if the tables of an extent are missing or damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnDamage {
    /// Opening fails.
    Fail,
    /// The extent is opened for its metadata.
    Report,
    /// The grains are searched for, if they have markers.
    Scan,
}

impl SparseExtent {
    /// Opens the extent whose header is the first sector of `source`.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the grains or both directories are beyond the end
    /// of the file, unless `on_damage` allows it; [`Limit`](crate::ErrorKind::Limit) if the grains
    /// or the directory are too large, [`Io`](crate::ErrorKind::Io); otherwise as
    /// [`stream::read_footer`].
    pub(super) fn open(
        source: Arc<dyn Source>,
        header: Header,
        limits: &Limits,
        budget: MemoryBudget,
        on_damage: OnDamage,
    ) -> Result<Self> {
        let grain = header.grain_sectors * SECTOR;
        if header.compressed && grain > limits.unit_bytes {
            let found = format!("compressed grains of {grain} bytes");
            return Err(Error::over_limit("unit_bytes", found, limits.unit_bytes)
                .in_structure("VMDK header"));
        }
        let mut extent = Self {
            source,
            header,
            footer_at: None,
            directory: Vec::new(),
            redundant: Vec::new(),
            replaced: 0,
            unread_redundant: None,
            replaced_tables: AtomicU64::new(0),
            tables: TableCache::new(budget),
            shared: OnceLock::new(),
            missing: None,
            scan: None,
            check_bytes: limits.check_bytes,
        };
        let is_stream = extent.header.compressed && extent.has_markers();
        match extent.load_tables(limits) {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let error = if is_stream { error.with_remedy(Remedy::Salvage) } else { error };
                match on_damage {
                    OnDamage::Report => {}
                    OnDamage::Scan if is_stream => {}
                    OnDamage::Scan | OnDamage::Fail => return Err(error),
                }
                extent.missing = Some(error.without_remedy());
                extent.directory = Vec::new();
            }
            outcome => outcome?,
        }
        if on_damage == OnDamage::Scan && is_stream {
            extent.scan = Some(Scan::of(&*extent.source, &extent.header, limits.table_bytes)?);
        }
        Ok(extent)
    }

    /// Reads the footer, if there is one, and the grain directory.
    fn load_tables(&mut self, limits: &Limits) -> Result<()> {
        let (first, len) = (self.header.over_head * SECTOR, self.source.len());
        if first > len {
            let message =
                format!("the first grain is at {first:#x}, beyond the end of the file at {len:#x}");
            return Err(Error::corrupt("VMDK header", message)
                .at(0)
                .hint("the file is probably truncated"));
        }
        if self.header.gd_offset == GD_AT_END {
            let (footer, at) = stream::read_footer(&*self.source, &self.header)?;
            (self.header, self.footer_at) = (footer, Some(at));
        }
        self.load_directory(limits)
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

    /// Maximum number of bytes that a check may allocate.
    pub(super) fn check_bytes(&self) -> u64 {
        self.check_bytes
    }

    pub(super) fn directory(&self) -> &[u32] {
        &self.directory
    }

    /// Why directory and tables cannot be read.
    pub(super) fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
    }

    /// Number of directory entries that were taken from the redundant directory.
    pub(super) fn replaced(&self) -> u64 {
        self.replaced
    }

    /// Number of guest bytes.
    pub(super) fn size(&self) -> u64 {
        self.header.capacity * SECTOR
    }

    /// Size in bytes of the directories and of the list of grains, which are kept in memory.
    pub(super) fn table_memory(&self) -> u64 {
        let scanned = self.scan.as_ref().map_or(0, Scan::memory);
        to_u64(self.directory.len() + self.redundant.len()) * 4 + scanned
    }

    /// Describes the damaged entries and tables for which the redundant copy has been used so far.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let (Some(why), Some(scan)) = (&self.missing, &self.scan) {
            let found = scan.len();
            warnings.push(format!("{why}; {found} grains were found by their markers"));
        }
        if let Some(error) = &self.unread_redundant {
            warnings.push(format!(
                "the redundant grain directory cannot be read, so that missing entries of the grain \
                 directory are not found: {error}"
            ));
        }
        let remedy = "the redundant copy is used instead";
        if self.replaced > 0 {
            let replaced = self.replaced;
            warnings.push(format!("damaged entries of the grain directory: {replaced}; {remedy}"));
        }
        let tables = self.replaced_tables.load(Ordering::Relaxed);
        if tables > 0 {
            warnings.push(format!("damaged grain tables: {tables}; {remedy}"));
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
        match redundant.transpose() {
            Ok(entries) => self.redundant = entries.unwrap_or_default(),
            // It may have entries that the primary one lacks, so it is read, now or later.
            Err(error) if error.kind() == ErrorKind::Transient => return Err(error),
            Err(error) if error.is_storage_failure() => {
                self.unread_redundant = Some(error.without_remedy());
            }
            Err(_) => {}
        }
        match self.read_entries(self.header.gd_offset, count, "grain directory") {
            Ok(primary) => self.directory = primary,
            // An empty redundant directory cannot replace the primary one, and an I/O error may
            // be temporary.
            Err(error)
                if error.kind() != ErrorKind::Corrupt
                    || self.redundant.iter().all(|&entry| entry == 0) =>
            {
                return Err(error);
            }
            Err(_) => self.directory = vec![0; self.redundant.len()],
        }
        self.repair_directory();
        Ok(())
    }

    /// Replaces entries that are 0 or point beyond the end of the file by valid entries of the
    /// redundant directory.
    fn repair_directory(&mut self) {
        let mut directory = std::mem::take(&mut self.directory);
        for (entry, &other) in directory.iter_mut().zip(&self.redundant) {
            let unusable = *entry == 0 || !self.table_fits(*entry);
            if unusable && other != 0 && self.table_fits(other) {
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

    /// Reads `count` entries of the directory or table at `sector`.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if `sector` is 0 or they extend beyond the end of the
    /// file, [`Io`](crate::ErrorKind::Io).
    pub(super) fn read_entries(
        &self,
        sector: u64,
        count: u64,
        structure: &'static str,
    ) -> Result<Vec<u32>> {
        if sector == 0 {
            return Err(Error::corrupt(structure, "its offset is 0").at(0));
        }
        let (at, bytes) = (sector.saturating_mul(SECTOR), count.saturating_mul(4));
        let end = at.checked_add(bytes);
        if end.is_none_or(|end| end > self.source.len()) {
            return Err(Error::corrupt(
                structure,
                format!(
                    "its {bytes} bytes extend beyond the end of the file at {:#x}",
                    self.source.len()
                ),
            )
            .at(at)
            .hint("the file is probably truncated"));
        }
        require_stored(&*self.source, structure, at, bytes)?;
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

    /// Returns the grain table at `sector`, the nonzero value of directory entry `index`.
    ///
    /// # Errors
    /// As [`read_entries`](Self::read_entries), and [`Corrupt`](crate::ErrorKind::Corrupt) if
    /// another entry points to the table as well.
    fn table(&self, index: u64, sector: u32) -> Result<Arc<[u32]>> {
        let shared = self.shared.get_or_init(|| {
            let sectors =
                self.directory.iter().map(|&sector| (sector != 0).then_some(sector.into()));
            SharedTables::find(sectors, self.table_bytes().div_ceil(SECTOR))
        });
        if shared.contains(sector.into()) {
            return Err(shared.error("grain directory", "grain table"));
        }
        self.tables.get(index, || {
            let table = self.read_table(sector)?;
            if table.iter().all(|&entry| self.starts_in_file(entry)) {
                return Ok(table);
            }
            // Without an intact copy, reading a grain with an invalid entry fails.
            Ok(self.intact_copy(index, sector, &table)?.unwrap_or(table))
        })
    }

    /// Returns the redundant copy of a damaged table, if it has the same entry wherever the
    /// damaged table has a valid one, and a valid nonzero entry everywhere else. A copy that
    /// lacks an entry describes an older state of the disk.
    ///
    /// # Errors
    /// Returns the error of the storage if reading the copy fails.
    fn intact_copy(&self, index: u64, sector: u32, damaged: &[u32]) -> Result<Option<Vec<u32>>> {
        let other = self.redundant.get(to_usize(index)).copied();
        let Some(other) = other.filter(|&o| o != 0 && o != sector) else { return Ok(None) };
        let copy = match self.read_table(other) {
            Ok(copy) => copy,
            Err(error) if error.is_storage_failure() => return Err(error),
            Err(_) => return Ok(None),
        };
        let intact = damaged.iter().zip(&copy).all(|(&entry, &other)| match other {
            _ if self.starts_in_file(entry) => entry == other,
            0 => false,
            other => self.starts_in_file(other),
        });
        Ok(intact.then(|| {
            self.replaced_tables.fetch_add(1, Ordering::Relaxed);
            copy
        }))
    }

    /// True if the grain that the entry points to, if any, starts within the file.
    fn starts_in_file(&self, entry: u32) -> bool {
        entry <= GTE_ZEROED || u64::from(entry) < self.source.len().div_ceil(SECTOR)
    }

    /// Returns an entry of the grain directory.
    fn directory_entry(&self, index: u64) -> Result<u32> {
        self.directory.get(to_usize(index)).copied().ok_or_else(|| {
            let why = self.missing.clone().unwrap_or_default();
            Error::corrupt("grain directory", format!("it cannot be read: {why}"))
        })
    }

    /// Returns the table entry of the grain at a guest offset.
    ///
    /// # Errors
    /// As [`read_entries`](Self::read_entries).
    pub(super) fn entry(&self, guest: u64) -> Result<u32> {
        let index = guest / self.header.table_cover();
        match self.directory_entry(index)? {
            0 => Ok(0),
            sector => {
                let table = self.table(index, sector)?;
                Ok(table[to_usize(guest / self.header.grain_bytes()) % table.len()])
            }
        }
    }

    /// As [`Layer::next_allocated_hint`](crate::Layer::next_allocated_hint).
    pub(super) fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        if self.scan.is_some() || self.missing.is_some() {
            return range.start;
        }
        next_allocated_in_table(&self.directory, self.header.table_cover(), range, |&entry| {
            entry == 0
        })
    }

    /// As [`Layer::prefetch_tables`](crate::Layer::prefetch_tables).
    pub(super) fn prefetch_tables(&self, range: Range<u64>) {
        let tables = entries_for(&self.directory, self.header.table_cover(), range).iter();
        let starts = tables.filter(|&&sector| sector != 0).map(|&s| u64::from(s) * SECTOR);
        let ranges: Vec<_> = starts.map(|at| at..at + self.table_bytes()).collect();
        self.source.prefetch(&ranges);
    }

    fn has_markers(&self) -> bool {
        self.header.flags.contains(super::header::Flags::MARKERS)
    }
}

/// Maximum number of bytes of a compressed grain.
pub(super) fn max_compressed(header: &Header) -> u64 {
    header.grain_bytes() * 2 + COMPRESSED_SLACK
}

/// Returns the guest offset in bytes of the grain that starts at guest sector `lba`; `None` if none
/// starts there.
pub(super) fn grain_start(lba: u64, header: &Header) -> Option<u64> {
    let guest = lba.checked_mul(SECTOR)?;
    let starts = lba < header.capacity && guest.is_multiple_of(header.grain_bytes());
    starts.then_some(guest)
}

/// True if `cmf` and `flg` are valid according to RFC 1950: deflate, a window of at most 32 KiB,
/// and correct check bits.
pub(super) fn is_zlib_header(cmf: u8, flg: u8) -> bool {
    cmf & 0x0f == 8 && cmf >> 4 <= 7 && u16::from_be_bytes([cmf, flg]).is_multiple_of(31)
}

/// Reads the header of the sparse extent in `source`.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io) if it cannot be read; otherwise as [`Header::parse`].
pub(super) fn read_header(source: &dyn Source) -> Result<Header> {
    Header::parse(&read_sector(source, 0, "VMDK header")?, 0)
}
