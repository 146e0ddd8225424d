//! Reading an seSparse extent: locating its grains. ESXi stores the changes since a snapshot in
//! this format (on VMFS 6, and for disks larger than 2 TiB).
//!
//! ```text
//!   guest offset ──► grain directory ──► grain table ──► grain
//!                    u64 per table       u64 per grain   4 KiB
//!                    (in memory)         (on demand)
//!
//!   directory entry   0: no table, read from the parent
//!                     10000000 iiiiiiii: grain table number i
//!   table entry       0: unallocated, read from the parent
//!                     1…: unmapped by the guest, zeros    2…: zeros
//!                     3hhh llll llllllll: grain number l << 12 | h
//! ```
//!
//! The free bitmap and the back map serve to reclaim space, and the journal to recover from a
//! crash. Reading needs none of them, unless the journal has to be replayed.
//!
//! VMware has not published the format. The structures are those of QEMU's reader (commit
//! 98eb9733f) and of its author's description of how they work together (qemu-devel, 2020-03-09).

mod check;
mod header;
#[cfg(test)]
mod tests;

use super::{SECTOR, read, sectors_to_bytes};
use crate::error::{Error, Result};
use crate::formats::distinct::SharedTables;
use crate::formats::holes::require_stored;
use crate::formats::table_cache::{MemoryBudget, TableCache};
use crate::model::extent::{Extent, HostOffset, Kind, push};
use crate::model::layer::{entries_for, next_allocated_in_table};
use crate::open::limits::Limits;
use crate::report::check::{CheckReport, Finding};
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;
use header::SeSparseHeader;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use zerocopy::IntoBytes;

/// The upper half of a directory entry that points to a table.
const GDE_ALLOCATED: u64 = 0x1000_0000;

/// One seSparse extent. Guest offsets are relative to its first byte.
#[derive(Debug)]
pub(super) struct SeSparseExtent {
    source: Arc<dyn Source>,
    header: SeSparseHeader,
    /// The directory's entries, as on disk.
    directory: Vec<u64>,
    tables: TableCache<u64>,
    /// The grain tables that several directory entries point to; found when guest data is first
    /// mapped.
    shared: OnceLock<SharedTables>,
    /// [`Limits::check_bytes`].
    check_bytes: u64,
}

/// A grain table entry.
enum Gte {
    Unallocated,
    Zero,
    /// Allocated; the number of the grain in the region of grains.
    Grain(u64),
}

impl Gte {
    fn parse(entry: u64) -> Result<Self, String> {
        match entry >> 60 {
            0 if entry == 0 => Ok(Self::Unallocated),
            1 | 2 => Ok(Self::Zero),
            3 => Ok(Self::Grain((entry & 0xffff_ffff_ffff) << 12 | entry >> 48 & 0xfff)),
            _ => Err(format!("entry {entry:#018x} is of an unknown type")),
        }
    }
}

impl SeSparseExtent {
    /// Opens the extent whose header is the first sector of `source`.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) if the grain directory is too large,
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it extends beyond the end of the file; otherwise
    /// as [`SeSparseHeader::read`].
    pub(super) fn open(
        source: Arc<dyn Source>,
        limits: &Limits,
        budget: MemoryBudget,
    ) -> Result<Self> {
        let header = SeSparseHeader::read(&*source)?;
        let bytes = header.tables().saturating_mul(8);
        if bytes > limits.table_bytes {
            let found = format!("a grain directory of {bytes} bytes");
            return Err(Error::over_limit("table_bytes", found, limits.table_bytes)
                .in_structure("seSparse header"));
        }
        let at = header.grain_directory().offset * SECTOR;
        let directory = read_entries(&*source, at, bytes, "grain directory")?;
        let (tables, check_bytes) = (TableCache::new(budget), limits.check_bytes);
        Ok(Self { source, header, directory, tables, shared: OnceLock::new(), check_bytes })
    }

    /// Number of guest bytes.
    pub(super) fn size(&self) -> u64 {
        self.header.capacity * SECTOR
    }

    /// Grain size in bytes.
    pub(super) fn grain_bytes(&self) -> u64 {
        self.header.grain_bytes()
    }

    /// Size in bytes of the directory, which is kept in memory.
    pub(super) fn table_memory(&self) -> u64 {
        to_u64(self.directory.len()) * 8
    }

    /// As [`Layer::next_allocated_hint`](crate::Layer::next_allocated_hint).
    pub(super) fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        next_allocated_in_table(&self.directory, self.header.table_cover(), range, |&entry| {
            entry == 0
        })
    }

    /// As [`Layer::prefetch_tables`](crate::Layer::prefetch_tables).
    pub(super) fn prefetch_tables(&self, range: Range<u64>) {
        let region = self.header.grain_tables();
        let tables = entries_for(&self.directory, self.header.table_cover(), range).iter();
        let numbers = tables.filter(|&&entry| entry != 0).map(|entry| entry & 0xffff_ffff);
        let start = |number| (region.offset + number * self.header.table_sectors) * SECTOR;
        let ranges: Vec<_> = numbers
            .map(|number| start(number)..start(number) + self.header.table_bytes())
            .collect();
        self.source.prefetch(&ranges);
    }

    /// Appends mappings for `range` of this extent, which starts at offset `base` of the disk and
    /// is stored in the layer's file number `file`.
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
            let table = self.table(index).map_err(|e| {
                let end = ((index + 1) * cover).min(self.size());
                e.losing(base + index * cover..base + end)
            })?;
            match table {
                None => push(out, base + at..base + end, Kind::Unallocated),
                Some(table) => self.map_table(&table, at..end, base, file, out)?,
            }
            at = end;
        }
        Ok(())
    }

    /// Checks the tables, reports the findings and adds them to `counts`. Tables that cannot be
    /// read are findings, too.
    pub(super) fn check(&self, report: &mut dyn FnMut(Finding), counts: &mut CheckReport) {
        check::check(self, report, counts);
    }

    /// Returns the grain table that directory entry `index` points to.
    fn table(&self, index: u64) -> Result<Option<Arc<[u64]>>> {
        let Some(number) = self.table_number(index)? else { return Ok(None) };
        self.require_own_table(number)?;
        self.tables.get(index, || self.read_table(number)).map(Some)
    }

    /// Returns the number of the grain table that directory entry `index` points to.
    fn table_number(&self, index: u64) -> Result<Option<u64>> {
        let entry = self.directory[to_usize(index)];
        if entry == 0 {
            return Ok(None);
        }
        if entry >> 32 != GDE_ALLOCATED {
            return Err(Error::corrupt(
                "grain directory",
                format!("entry {entry:#018x} is of an unknown type"),
            )
            .at(self.header.grain_directory().offset * SECTOR + index * 8));
        }
        Ok(Some(entry & 0xffff_ffff))
    }

    /// Verifies that only one directory entry points to grain table `number`.
    fn require_own_table(&self, number: u64) -> Result<()> {
        let shared = self.shared.get_or_init(|| {
            let numbers = self.directory.iter();
            SharedTables::find(numbers.map(|&e| (e != 0).then_some(e & 0xffff_ffff)), 1)
        });
        match shared.contains(number) {
            true => Err(shared.error("grain directory", "grain table")),
            false => Ok(()),
        }
    }

    /// Reads the grain table `number`, which must be less than 2³².
    fn read_table(&self, number: u64) -> Result<Vec<u64>> {
        let region = self.header.grain_tables();
        let sector = number * self.header.table_sectors;
        if sector + self.header.table_sectors > region.size {
            return Err(Error::corrupt(
                "grain table",
                format!(
                    "number {number} is beyond the end of the grain tables, which take {} sectors",
                    region.size
                ),
            )
            .at((region.offset + region.size) * SECTOR));
        }
        let at = (region.offset + sector) * SECTOR;
        read_entries(&*self.source, at, self.header.table_bytes(), "grain table")
    }

    fn map_table(
        &self,
        table: &[u64],
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

    /// Interprets the table entry of a grain. The last grain of the disk may be short.
    fn grain(&self, entry: u64, grain: &Range<u64>, base: u64, file: usize) -> Result<Kind> {
        let corrupt = |structure, message: String| {
            let message = format!("{message} (guest offset {:#x})", base + grain.start);
            Error::corrupt(structure, message)
        };
        let number = match Gte::parse(entry).map_err(|message| corrupt("grain table", message))? {
            Gte::Unallocated => return Ok(Kind::Unallocated),
            Gte::Zero => return Ok(Kind::Zero(None)),
            Gte::Grain(number) => number,
        };
        let offset = self.grain_offset(number).filter(|offset| {
            let end = offset.checked_add(grain.end - grain.start);
            end.is_some_and(|end| end <= self.source.len())
        });
        offset.map(|offset| Kind::Data(HostOffset { file, offset })).ok_or_else(|| {
            let end = self.source.len();
            let message =
                format!("number {number:#x} extends beyond the end of the file at {end:#x}");
            corrupt("grain", message).hint("the file is probably truncated")
        })
    }

    /// Returns the host offset of a grain, if it fits in 63 bits.
    fn grain_offset(&self, number: u64) -> Option<u64> {
        let sector = number.checked_mul(self.header.grain_sectors)?;
        sectors_to_bytes(sector.checked_add(self.header.grains().offset)?)
    }
}

/// Reads the directory or table of `bytes` bytes at host offset `at`.
fn read_entries(
    source: &dyn Source,
    at: u64,
    bytes: u64,
    structure: &'static str,
) -> Result<Vec<u64>> {
    if at.checked_add(bytes).is_none_or(|end| end > source.len()) {
        return Err(Error::corrupt(
            structure,
            format!("its {bytes} bytes extend beyond the end of the file at {:#x}", source.len()),
        )
        .at(at)
        .hint("the file is probably truncated"));
    }
    require_stored(source, structure, at, bytes)?;
    let mut entries = vec![0u64; to_usize(bytes) / 8];
    read(source, entries.as_mut_bytes(), at, structure)?;
    entries.iter_mut().for_each(|entry| *entry = u64::from_le(*entry));
    Ok(entries)
}
