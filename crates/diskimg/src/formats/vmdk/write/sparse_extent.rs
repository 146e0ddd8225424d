//! Writing a sparse extent: a whole monolithicSparse image, or one of the files of a split disk,
//! which does not embed a descriptor.
//!
//! ```text
//!   0        1            21                     gd                     overHead
//!   ┌────────┬────────────┬───────────┬──────────┬───────────┬──────────┬───────┬──
//!   │ header │ descriptor │ redundant │ tables   │ directory │ tables   │ grain │ …
//!   └────────┴────────────┴───────────┴──────────┴───────────┴──────────┴───────┴──
//!             (if embedded)
//! ```
//!
//! The tables have fixed offsets, which are the same as in QEMU's images. Grains are appended as
//! they arrive. Since they arrive in guest order, one grain table is in memory at a time. Its two
//! copies are written when placement has moved past it, unless it is empty.

use super::super::SECTOR;
use super::super::header::{Flags, Header};
use super::super::sparse::GTE_ZEROED;
use super::descriptor::{DESCRIPTOR_OFFSET, DESCRIPTOR_SECTORS};
use super::{GRAIN_SECTORS, GTES, cannot_write, require_readable};
use crate::error::{Error, Result};
use crate::storage::number::{to_index, to_u32, to_usize};
use crate::storage::sink::Sink;
use std::sync::Arc;

/// Maximum size of the file in sectors: table entries are sector numbers of 32 bits.
const MAX_SECTORS: u64 = 1 << 32;

/// A sparse extent being written. Guest offsets are relative to its first byte.
#[derive(Debug)]
pub(super) struct SparseExtentWriter {
    sink: Arc<dyn Sink>,
    header: Header,
    /// The first free sector.
    next: u64,
    table: GrainTable,
}

/// What a new extent is.
#[derive(Debug, Clone, Copy)]
pub(super) struct ExtentKind {
    /// It has space for a descriptor.
    pub(super) embedded: bool,
    /// Grains of zeros are recorded as such.
    pub(super) zeroed_grains: bool,
    /// Grains that other programs will write are compressed.
    pub(super) compressed: bool,
}

/// The current grain table.
#[derive(Debug)]
struct GrainTable {
    index: u64,
    /// An empty vector until the first entry is set.
    entries: Vec<u32>,
}

impl SparseExtentWriter {
    /// Starts an extent of `sectors` guest sectors.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for a pipe,
    /// [`Limit`](crate::ErrorKind::Limit) if the disk is too large, [`Io`](crate::ErrorKind::Io) if
    /// writing fails.
    pub(super) fn start(sink: Arc<dyn Sink>, sectors: u64, kind: ExtentKind) -> Result<Self> {
        if sink.is_sequential() {
            return Err(Error::unsupported("a sparse extent cannot be written to a pipe")
                .hint("subformat=streamOptimized can"));
        }
        let header = layout(sectors, kind);
        require_readable(&header)?;
        let extent = Self {
            sink,
            next: header.over_head,
            header,
            table: GrainTable { index: 0, entries: Vec::new() },
        };
        if !extent.sink.is_zeroed() {
            extent.zero(0, extent.header.over_head)?;
        }
        extent.write_directory(extent.header.rgd_offset)?;
        extent.write_directory(extent.header.gd_offset)?;
        Ok(extent)
    }

    /// Allocates grains for `len` bytes at guest offset `at` and returns their host offset.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) if the file would grow too large,
    /// [`Io`](crate::ErrorKind::Io) if writing a table or padding fails.
    pub(super) fn store(&mut self, at: u64, len: u64) -> Result<u64> {
        let offset = self.append(at, len)? * SECTOR;
        // The disk may end within its last grain, but the file contains the whole grain.
        let short = len.next_multiple_of(self.header.grain_bytes()) - len;
        if short > 0 && !self.sink.is_zeroed() {
            let end = offset + len;
            self.sink.write_zeros_at(end, short).map_err(|e| cannot_write(e, "zeros", end))?;
        }
        Ok(offset)
    }

    /// Stores zeros that hide the parent's data.
    ///
    /// # Errors
    /// As [`store`](Self::store).
    pub(super) fn store_zeros(&mut self, at: u64, len: u64) -> Result<()> {
        if self.header.zeroed_grains() {
            let grain_bytes = to_usize(self.header.grain_bytes());
            return (at..at + len).step_by(grain_bytes).try_for_each(|at| self.set(at, GTE_ZEROED));
        }
        let start = self.append(at, len)?;
        if self.sink.is_zeroed() { Ok(()) } else { self.zero(start, self.next - start) }
    }

    /// Writes the embedded descriptor, which is padded to whole sectors.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if writing fails.
    pub(super) fn write_descriptor(&self, descriptor: &[u8]) -> Result<()> {
        self.write(descriptor, DESCRIPTOR_OFFSET, "the descriptor")
    }

    /// Writes the last table, sets the file's length and writes the header. The header comes last,
    /// so that an unfinished extent has none.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if writing fails.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.write_table()?;
        let len = self.next * SECTOR;
        self.sink
            .set_len(len)
            .map_err(|e| Error::io(format!("cannot set the length to {len}"), e))?;
        self.write(&self.header.encode(), 0, "the header")
    }

    fn write(&self, bytes: &[u8], sector: u64, what: &'static str) -> Result<()> {
        let at = sector * SECTOR;
        self.sink.write_all_at(bytes, at).map_err(|e| cannot_write(e, what, at))
    }

    fn zero(&self, sector: u64, sectors: u64) -> Result<()> {
        let at = sector * SECTOR;
        self.sink.write_zeros_at(at, sectors * SECTOR).map_err(|e| cannot_write(e, "zeros", at))
    }

    /// Writes the directory at `sector`, whose tables follow it.
    fn write_directory(&self, sector: u64) -> Result<()> {
        const ENTRIES: u64 = 16 << 10;
        let (tables, each) = (self.header.tables(), self.header.table_sectors());
        let first = sector + self.header.directory_sectors();
        let mut bytes = Vec::new();
        for start in (0..tables).step_by(to_usize(ENTRIES)) {
            bytes.clear();
            for index in start..tables.min(start + ENTRIES) {
                // Fits in 32 bits, because require_readable bounds the number of tables.
                bytes.extend(to_u32(first + index * each).to_le_bytes());
            }
            self.write(&bytes, sector + start * 4 / SECTOR, "the grain directory")?;
        }
        Ok(())
    }

    /// Writes the current grain table, and starts table `index`.
    fn switch_table(&mut self, index: u64) -> Result<()> {
        if index == self.table.index {
            return Ok(());
        }
        self.write_table()?;
        self.table.index = index;
        self.table.entries.clear();
        Ok(())
    }

    /// Writes both copies of the current grain table unless it is empty.
    fn write_table(&mut self) -> Result<()> {
        if self.table.entries.is_empty() {
            return Ok(());
        }
        let bytes: Vec<u8> = self.table.entries.iter().flat_map(|e| e.to_le_bytes()).collect();
        let distance =
            self.header.directory_sectors() + self.table.index * self.header.table_sectors();
        for directory in [self.header.rgd_offset, self.header.gd_offset] {
            self.write(&bytes, directory + distance, "a grain table")?;
        }
        Ok(())
    }

    /// Sets the entry of the grain at guest offset `at`.
    fn set(&mut self, at: u64, entry: u32) -> Result<()> {
        let grain = at / self.header.grain_bytes();
        self.switch_table(grain / u64::from(GTES))?;
        self.table.entries.resize(to_index(GTES), 0);
        self.table.entries[to_usize(grain % u64::from(GTES))] = entry;
        Ok(())
    }

    /// Allocates grains for `len` guest bytes at `at` and returns the sector of the first.
    fn append(&mut self, at: u64, len: u64) -> Result<u64> {
        let start = self.next;
        let grains = len.div_ceil(self.header.grain_bytes());
        if start + grains * GRAIN_SECTORS > MAX_SECTORS {
            return Err(Error::limit(
                "the file would exceed 2 TiB, the maximum that grain tables can address",
            )
            .hint(
                "use subformat=twoGbMaxExtentSparse, which splits the disk into many files, or \
                 streamOptimized, which compresses it",
            ));
        }
        for i in 0..grains {
            // Less than 2^32, as just verified.
            self.set(at + i * self.header.grain_bytes(), to_u32(start + i * GRAIN_SECTORS))?;
        }
        self.next += grains * GRAIN_SECTORS;
        Ok(start)
    }
}

/// Returns the header of a new extent, with the offsets of all structures.
fn layout(sectors: u64, kind: ExtentKind) -> Header {
    let (descriptor_offset, descriptor_sectors) =
        if kind.embedded { (DESCRIPTOR_OFFSET, DESCRIPTOR_SECTORS) } else { (0, 0) };
    let mut header = Header {
        version: match kind {
            ExtentKind { compressed: true, .. } => 3,
            ExtentKind { zeroed_grains: true, .. } => 2,
            _ => 1,
        },
        flags: Flags::NEWLINE_TEST | Flags::REDUNDANT,
        capacity: sectors,
        grain_sectors: GRAIN_SECTORS,
        descriptor_offset,
        descriptor_sectors,
        gtes: GTES,
        rgd_offset: 1 + descriptor_sectors,
        gd_offset: 0,
        over_head: 0,
        unclean: false,
        compressed: kind.compressed,
    };
    header.flags.set(Flags::ZEROED_GRAIN, kind.zeroed_grains);
    header.flags.set(Flags::COMPRESSED | Flags::MARKERS, kind.compressed);
    let one_copy = header.directory_sectors() + header.tables() * header.table_sectors();
    header.gd_offset = header.rgd_offset + one_copy;
    header.over_head = (header.gd_offset + one_copy).next_multiple_of(GRAIN_SECTORS);
    header
}
