//! Writing monolithicSparse.
//!
//! ```text
//!   0        1            21                     gd                     overHead
//!   ┌────────┬────────────┬───────────┬──────────┬───────────┬──────────┬───────┬──
//!   │ header │ descriptor │ redundant │ tables   │ directory │ tables   │ grain │ …
//!   └────────┴────────────┴───────────┴──────────┴───────────┴──────────┴───────┴──
//! ```
//!
//! The tables' places are known beforehand: QEMU lays its images out the same
//! way. Grains are appended as they come. Since they come in guest order, one
//! grain table is in memory at a time; it is written, twice, when the disk has
//! passed it, and not at all if nothing is in it.

use super::SECTOR;
use super::header::{Flags, Header};
use super::new_descriptor::{DESCRIPTOR_OFFSET, DESCRIPTOR_SECTORS, Digest, NewDescriptor};
use super::sparse::GTE_ZEROED;
use crate::host::sink::Sink;
use crate::vocabulary::error::{Error, Result};
use crate::vocabulary::layer::Geometry;
use crate::vocabulary::limits::Limits;
use crate::vocabulary::target::{Slot, Target, Unit};
use std::io;
use std::sync::Arc;

/// Sectors of a grain and entries of a grain table: what every writer uses.
pub(super) const GRAIN_SECTORS: u64 = 128;
pub(super) const GTES: u32 = 512;

/// A table entry is a sector number of 32 bits.
const MAX_SECTORS: u64 = 1 << 32;

/// A monolithicSparse image being written.
#[derive(Debug)]
pub(super) struct SparseTarget {
    files: [Arc<dyn Sink>; 1],
    descriptor: NewDescriptor,
    header: Header,
    /// The first sector that no grain has yet.
    next: u64,
    table: GrainTable,
    /// Of all tables: the content ID tells images apart that differ in them.
    digest: Digest,
}

/// The grain table that placement is in.
#[derive(Debug)]
struct GrainTable {
    index: u64,
    entries: [u32; GTES as usize],
    used: bool,
}

impl GrainTable {
    fn empty(index: u64) -> Self {
        Self { index, entries: [0; GTES as usize], used: false }
    }
}

impl SparseTarget {
    pub(super) fn start(
        sink: Arc<dyn Sink>,
        descriptor: NewDescriptor,
        zeroed_grains: bool,
    ) -> Result<Self> {
        if sink.is_sequential() {
            return Err(Error::unsupported("monolithicSparse cannot go through a pipe")
                .hint("subformat=streamOptimized can"));
        }
        let header = layout(descriptor.sectors, zeroed_grains);
        require_readable(&header)?;
        let target = Self {
            files: [sink],
            next: header.over_head,
            descriptor,
            header,
            table: GrainTable::empty(0),
            digest: Digest::default(),
        };
        if !target.sink().is_zeroed() {
            target.zero(0, target.header.over_head)?;
        }
        target.write_directory(target.header.rgd_offset)?;
        target.write_directory(target.header.gd_offset)?;
        Ok(target)
    }

    fn sink(&self) -> &dyn Sink {
        &*self.files[0]
    }

    fn write(&self, bytes: &[u8], sector: u64, what: &'static str) -> Result<()> {
        let at = sector * SECTOR;
        self.sink().write_all_at(bytes, at).map_err(|e| cannot_write(e, what, at))
    }

    fn zero(&self, sector: u64, sectors: u64) -> Result<()> {
        let at = sector * SECTOR;
        self.sink().write_zeros_at(at, sectors * SECTOR).map_err(|e| cannot_write(e, "zeros", at))
    }

    /// Writes the directory at `sector`, whose tables follow it.
    fn write_directory(&self, sector: u64) -> Result<()> {
        const ENTRIES: u64 = 16 << 10;
        let (tables, each) = (self.header.tables(), self.header.table_sectors());
        let first = sector + self.header.directory_sectors();
        let mut bytes = Vec::new();
        for start in (0..tables).step_by(ENTRIES as usize) {
            bytes.clear();
            for index in start..tables.min(start + ENTRIES) {
                // Checked by the first grain's place, which is behind all of them.
                bytes.extend(((first + index * each) as u32).to_le_bytes());
            }
            self.write(&bytes, sector + start * 4 / SECTOR, "the grain directory")?;
        }
        Ok(())
    }

    /// Writes the table in memory, and starts the one numbered `index`.
    fn turn_to(&mut self, index: u64) -> Result<()> {
        if index == self.table.index {
            return Ok(());
        }
        self.write_table()?;
        self.table = GrainTable::empty(index);
        Ok(())
    }

    fn write_table(&mut self) -> Result<()> {
        if !self.table.used {
            return Ok(());
        }
        let bytes = self.table.entries.map(u32::to_le_bytes);
        let behind =
            self.header.directory_sectors() + self.table.index * self.header.table_sectors();
        for directory in [self.header.rgd_offset, self.header.gd_offset] {
            self.write(bytes.as_flattened(), directory + behind, "a grain table")?;
        }
        self.digest.add(self.table.index);
        self.table.entries.iter().for_each(|&entry| self.digest.add(entry.into()));
        Ok(())
    }

    /// Sets the entry of the grain at guest offset `at`.
    fn set(&mut self, at: u64, entry: u32) -> Result<()> {
        let grain = at / self.header.grain_bytes();
        self.turn_to(grain / u64::from(GTES))?;
        self.table.entries[(grain % u64::from(GTES)) as usize] = entry;
        self.table.used = true;
        Ok(())
    }

    /// Appends grains for `len` guest bytes from `at`; gives the first one's sector.
    fn append(&mut self, at: u64, len: u64) -> Result<u64> {
        let start = self.next;
        let grains = len.div_ceil(self.header.grain_bytes());
        if start + grains * GRAIN_SECTORS > MAX_SECTORS {
            return Err(Error::limit(
                "the file would exceed 2 TiB, beyond which a grain table cannot point",
            )
            .hint("subformat=streamOptimized compresses"));
        }
        for i in 0..grains {
            // Below 2^32 as just checked.
            self.set(at + i * self.header.grain_bytes(), (start + i * GRAIN_SECTORS) as u32)?;
        }
        self.next += grains * GRAIN_SECTORS;
        Ok(start)
    }

    /// Zeros: nothing, unless there is a parent to be hidden.
    fn place_zeros(&mut self, at: u64, len: u64) -> Result<()> {
        if self.descriptor.parent.is_none() {
            return Ok(());
        }
        if self.header.zeroed_grains() {
            let grain_bytes = self.header.grain_bytes() as usize;
            return (at..at + len).step_by(grain_bytes).try_for_each(|at| self.set(at, GTE_ZEROED));
        }
        let start = self.append(at, len)?;
        if self.sink().is_zeroed() { Ok(()) } else { self.zero(start, self.next - start) }
    }
}

impl Target for SparseTarget {
    fn geometry(&self) -> Geometry {
        Geometry { size: self.header.capacity * SECTOR, unit: self.header.grain_bytes() }
    }

    fn files(&self) -> &[Arc<dyn Sink>] {
        &self.files
    }

    fn place(&mut self, at: u64, unit: Unit<'_>) -> Result<Option<Slot>> {
        match unit {
            Unit::Zero { len } => self.place_zeros(at, len).map(|()| None),
            Unit::Stored { len } => {
                let sector = self.append(at, len)?;
                // The disk may end within its last grain, never the file.
                let short = len.next_multiple_of(self.header.grain_bytes()) - len;
                if short > 0 && !self.sink().is_zeroed() {
                    let end = sector * SECTOR + len;
                    self.sink()
                        .write_zeros_at(end, short)
                        .map_err(|e| cannot_write(e, "zeros", end))?;
                }
                Ok(Some(Slot { file: 0, offset: sector * SECTOR, len }))
            }
            Unit::Encoded(_) => Err(Error::invalid("monolithicSparse stores nothing encoded")),
        }
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.write_table()?;
        let descriptor = self.descriptor.sectors(self.digest.value())?;
        self.write(&descriptor, DESCRIPTOR_OFFSET, "the descriptor")?;
        let len = self.next * SECTOR;
        self.sink()
            .set_len(len)
            .map_err(|e| Error::io(format!("cannot set the length to {len}"), e))?;
        // Last: an image that was not finished has no header.
        self.write(&self.header.encode(), 0, "the header")
    }
}

/// Where everything is in a new image.
fn layout(sectors: u64, zeroed_grains: bool) -> Header {
    let mut header = Header {
        version: if zeroed_grains { 2 } else { 1 },
        flags: Flags::NEWLINE_TEST | Flags::REDUNDANT,
        capacity: sectors,
        grain_sectors: GRAIN_SECTORS,
        descriptor_offset: DESCRIPTOR_OFFSET,
        descriptor_sectors: DESCRIPTOR_SECTORS,
        gtes: GTES,
        rgd_offset: DESCRIPTOR_OFFSET + DESCRIPTOR_SECTORS,
        gd_offset: 0,
        over_head: 0,
        unclean: false,
        compressed: false,
    };
    header.flags.set(Flags::ZEROED_GRAIN, zeroed_grains);
    let one_copy = header.directory_sectors() + header.tables() * header.table_sectors();
    header.gd_offset = header.rgd_offset + one_copy;
    header.over_head = (header.gd_offset + one_copy).next_multiple_of(GRAIN_SECTORS);
    header
}

/// What is written must not be refused when it is read again. This bounds the
/// tables in front of the grains, too.
pub(super) fn require_readable(header: &Header) -> Result<()> {
    let most = Limits::default().table_bytes;
    if header.tables() * 4 > most {
        return Err(Error::limit(format!(
            "a disk of {} sectors: its grain directory would exceed {most} bytes",
            header.capacity
        )));
    }
    Ok(())
}

pub(super) fn cannot_write(error: io::Error, what: &'static str, at: u64) -> Error {
    Error::io(format!("cannot write {what}"), error).at(at)
}
