//! An seSparse extent: from a grain to where it is. ESXi keeps the changes of a
//! disk in it since a snapshot was taken (VMFS 6, and disks beyond 2 TiB).
//!
//! ```text
//!   guest offset ──► grain directory ──► grain table ──► grain
//!                    u64 per table       u64 per grain   4 KiB
//!                    (in memory)         (on demand)
//!
//!   directory entry   0: no table, the parent answers
//!                     10000000 iiiiiiii: the i-th of the grain tables
//!   table entry       0: nobody wrote it, the parent answers
//!                     1…: unmapped by the guest, zeros    2…: zeros
//!                     3hhh llll llllllll: the (l << 12 | h)-th of the grains
//! ```
//!
//! Free bitmap and back map serve whoever gives space back; the journal whoever
//! lost power. A reader needs neither, unless the journal has the last word.
//!
//! VMware has not published the format. This is what QEMU's reader takes for
//! granted (its commit 98eb9733f and its author's account of how the parts
//! interplay, qemu-devel, 2020-03-09).

mod check;
mod header;
#[cfg(test)]
mod tests;

use super::tables::{MemoryBudget, TableCache};
use super::{SECTOR, read, sectors_to_bytes};
use crate::error::{Error, Result};
use crate::model::extent::{Extent, HostOffset, Kind, push};
use crate::model::layer::next_allocated_in_table;
use crate::open::limits::Limits;
use crate::report::check::{CheckReport, Finding};
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;
use header::SeSparseHeader;
use std::ops::Range;
use std::sync::Arc;
use zerocopy::IntoBytes;

/// The upper half of a directory entry that names a table.
const GDE_ALLOCATED: u64 = 0x1000_0000;

/// One seSparse extent. Guest offsets count from its own first byte.
#[derive(Debug)]
pub(super) struct SeSparseExtent {
    source: Arc<dyn Source>,
    header: SeSparseHeader,
    /// As on disk.
    directory: Vec<u64>,
    tables: TableCache<u64>,
    /// Of the limits: what a check may take.
    check_bytes: u64,
}

/// What a table entry says.
enum Gte {
    Unallocated,
    Zero,
    /// Which of the grains it is.
    Grain(u64),
}

impl Gte {
    fn parse(entry: u64) -> Result<Self, String> {
        match entry >> 60 {
            0 if entry == 0 => Ok(Self::Unallocated),
            1 | 2 => Ok(Self::Zero),
            3 => Ok(Self::Grain((entry & 0xffff_ffff_ffff) << 12 | entry >> 48 & 0xfff)),
            _ => Err(format!("entry {entry:#018x} is of no known type")),
        }
    }
}

impl SeSparseExtent {
    /// Opens the extent whose header is the first sector of `source`.
    ///
    /// # Errors
    /// As [`SeSparseHeader::read`]; [`Limit`](crate::ErrorKind::Limit) if the
    /// grain directory is too large, [`Corrupt`](crate::ErrorKind::Corrupt) if
    /// it leaves the file.
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
        Ok(Self { source, header, directory, tables, check_bytes })
    }

    /// Guest bytes.
    pub(super) fn size(&self) -> u64 {
        self.header.capacity * SECTOR
    }

    /// Bytes of a grain.
    pub(super) fn grain_bytes(&self) -> u64 {
        self.header.grain_bytes()
    }

    /// Bytes of the tables that are held in memory as a whole.
    pub(super) fn table_memory(&self) -> u64 {
        to_u64(self.directory.len()) * 8
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
            match self.table_number(index)? {
                None => push(out, base + at..base + end, Kind::Unallocated),
                Some(number) => {
                    let table = self.tables.get(index, || self.read_table(number))?;
                    self.map_table(&table, at..end, base, file, out)?;
                }
            }
            at = end;
        }
        Ok(())
    }

    /// Adds to `counts` what is wrong with the tables, and reports it; what
    /// cannot be read is a finding, too.
    pub(super) fn check(&self, report: &mut dyn FnMut(Finding), counts: &mut CheckReport) {
        check::check(self, report, counts);
    }

    /// Which of the grain tables the directory's entry `index` names.
    fn table_number(&self, index: u64) -> Result<Option<u64>> {
        let entry = self.directory[to_usize(index)];
        if entry == 0 {
            return Ok(None);
        }
        if entry >> 32 != GDE_ALLOCATED {
            return Err(Error::corrupt(
                "grain directory",
                format!("entry {entry:#018x} is of no known type"),
            )
            .at(self.header.grain_directory().offset * SECTOR + index * 8));
        }
        Ok(Some(entry & 0xffff_ffff))
    }

    /// Reads the grain table `number`, below 2³².
    fn read_table(&self, number: u64) -> Result<Vec<u64>> {
        let region = self.header.grain_tables();
        let sector = number * self.header.table_sectors;
        if sector + self.header.table_sectors > region.size {
            return Err(Error::corrupt(
                "grain table",
                format!("number {number} is beyond the {} sectors of grain tables", region.size),
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
            let kind = self.grain(entry, &grain, base, file)?.forward(at - start);
            push(out, base + at..base + end, kind);
            at = end;
        }
        Ok(())
    }

    /// What a table entry says about a grain; the disk's last one may be short.
    fn grain(&self, entry: u64, grain: &Range<u64>, base: u64, file: usize) -> Result<Kind> {
        let broken = |structure, message: String| {
            let place = format!("{message} (grain of guest offset {:#x})", base + grain.start);
            Error::corrupt(structure, place)
        };
        let index = match Gte::parse(entry).map_err(|message| broken("grain table", message))? {
            Gte::Unallocated => return Ok(Kind::Unallocated),
            Gte::Zero => return Ok(Kind::Zero(None)),
            Gte::Grain(index) => index,
        };
        let offset = self.grain_offset(index).filter(|offset| {
            let end = offset.checked_add(grain.end - grain.start);
            end.is_some_and(|end| end <= self.source.len())
        });
        offset.map(|offset| Kind::Data(HostOffset { file, offset })).ok_or_else(|| {
            let end = self.source.len();
            broken("grain", format!("number {index:#x} leaves the file, which ends at {end:#x}"))
                .hint("the file is probably truncated")
        })
    }

    /// The host offset of a grain, if it fits in 63 bits.
    fn grain_offset(&self, index: u64) -> Option<u64> {
        let sector = index.checked_mul(self.header.grain_sectors)?;
        sectors_to_bytes(sector.checked_add(self.header.grains().offset)?)
    }
}

/// Reads a directory or a table of `bytes` bytes.
fn read_entries(
    source: &dyn Source,
    at: u64,
    bytes: u64,
    structure: &'static str,
) -> Result<Vec<u64>> {
    if at.checked_add(bytes).is_none_or(|end| end > source.len()) {
        return Err(Error::corrupt(
            structure,
            format!("its {bytes} bytes leave the file, which ends at {:#x}", source.len()),
        )
        .at(at)
        .hint("the file is probably truncated"));
    }
    let mut entries = vec![0u64; to_usize(bytes) / 8];
    read(source, entries.as_mut_bytes(), at, structure)?;
    entries.iter_mut().for_each(|entry| *entry = u64::from_le(*entry));
    Ok(entries)
}
