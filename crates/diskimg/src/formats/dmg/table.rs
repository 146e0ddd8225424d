//! A table of chunks (`mish`): a resource of the type `blkx`, usually one for each partition.

use super::SECTOR;
use super::trailer::{Checksum, Trailer};
use crate::error::{Error, Result};
use crate::storage::number::{to_u32, to_u64};
use std::io::{self, Read};
use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// How messages call a table.
pub(super) const TABLE: &str = "DMG block table";

/// Maximum number of characters of a name that are kept.
const MAX_NAME: usize = 255;

/// Types of chunks.
pub(super) mod chunk_type {
    /// Zeros.
    pub(in super::super) const ZERO: u32 = 0;
    /// Bytes as they are.
    pub(in super::super) const RAW: u32 = 1;
    /// Sectors that are not in use, and not in the checksum: zeros.
    pub(in super::super) const IGNORE: u32 = 2;
    /// Not a chunk.
    pub(in super::super) const COMMENT: u32 = 0x7fff_fffe;
    pub(in super::super) const ADC: u32 = 0x8000_0004;
    pub(in super::super) const ZLIB: u32 = 0x8000_0005;
    pub(in super::super) const BZIP2: u32 = 0x8000_0006;
    pub(in super::super) const LZFSE: u32 = 0x8000_0007;
    /// Called LZMA; it is an xz stream.
    pub(in super::super) const LZMA: u32 = 0x8000_0008;
    /// The end of the table. Not a chunk.
    pub(in super::super) const END: u32 = 0xffff_ffff;
}

/// The header of a table on disk. The entries follow.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    signature: [u8; 4],
    version: U32,
    first_sector: U64,
    sectors: U64,
    data_offset: U64,
    buffers: U32,
    descriptor: U32,
    reserved: [u8; 24],
    checksum: [u8; 136],
    count: U32,
}

/// An entry of a table on disk.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawEntry {
    entry_type: U32,
    comment: U32,
    /// Relative to the table's first sector.
    sector: U64,
    sectors: U64,
    /// Relative to the table's data offset.
    offset: U64,
    len: U64,
}

const _: () = assert!(size_of::<RawHeader>() == 204 && size_of::<RawEntry>() == 40);

/// A chunk of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Guest offset in bytes of the first one.
    pub(super) start: u64,
    /// Guest offset after the last byte; larger than `start`.
    pub(super) end: u64,
    /// Host offset of the stored bytes. Nothing is known about it but that it was computed without
    /// an overflow.
    pub(super) offset: u64,
    /// Number of stored bytes.
    pub(super) stored: u64,
    pub(super) chunk_type: u32,
    /// Number of the table.
    pub(super) table: u32,
}

/// A table, without its chunks.
#[derive(Debug, Clone)]
pub(super) struct Table {
    /// Name of the partition, for people.
    pub(super) name: String,
    /// First sector of the partition, and the one after the last.
    pub(super) sectors: (u64, u64),
    pub(super) checksum: Checksum,
    /// Whether an entry marks the end.
    pub(super) has_end: bool,
}

/// All tables of a file.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) tables: Vec<Table>,
    /// In the order of the tables.
    pub(super) chunks: Vec<Chunk>,
    /// Number of bytes of the headers, entries and names that were read. A resource fork may refer
    /// to a table many times: it counts each time.
    bytes: u64,
    /// Maximum of `bytes`.
    max_bytes: u64,
}

impl Tables {
    /// Returns no tables. Those that are added have at most `max_bytes` bytes together.
    pub(super) fn new(max_bytes: u64) -> Self {
        Self { tables: Vec::new(), chunks: Vec::new(), bytes: 0, max_bytes }
    }

    /// Counts `bytes` of the table that is being read.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) if the tables have too many bytes.
    fn count(&mut self, bytes: usize) -> Result<()> {
        self.bytes = self.bytes.saturating_add(to_u64(bytes));
        if self.bytes > self.max_bytes {
            let tables = self.tables.len() + 1;
            let found = format!("at least {} bytes in the first {tables} tables", self.bytes);
            let error = Error::over_limit("table_bytes", found, self.max_bytes);
            return Err(error.in_structure(TABLE));
        }
        Ok(())
    }

    /// Reads a table. Chunks without sectors are omitted.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is not valid,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for another version,
    /// [`Limit`](crate::ErrorKind::Limit) if it and the tables before it have too many bytes.
    pub(super) fn add(
        &mut self,
        name: &str,
        mut bytes: impl Read,
        trailer: &Trailer,
    ) -> Result<()> {
        let number = self.tables.len();
        let error = |message: String| corrupt(number, name, &message);
        let kept_name: String = name.trim().chars().take(MAX_NAME).collect();
        self.count(size_of::<RawHeader>() + kept_name.len())?;
        let mut raw = RawHeader::new_zeroed();
        let incomplete = |_: io::Error| error("it is not complete, or not valid base64".into());
        bytes.read_exact(raw.as_mut_bytes()).map_err(incomplete)?;
        if raw.signature != *b"mish" {
            return Err(error("it does not start with 'mish'".into()));
        }
        if raw.version.get() != 1 {
            let message = format!("table {number} has the unknown version {}", raw.version.get());
            return Err(Error::unsupported(message).in_structure(TABLE));
        }
        let data_at = trailer.data_fork.start.checked_add(raw.data_offset.get());
        let first = raw.first_sector.get();
        let overflow = || error("its sectors or offsets are too large".into());
        let end = sector_end(first, raw.sectors.get()).ok_or_else(overflow)?;
        let mut has_end = false;
        for _ in 0..raw.count.get() {
            self.count(size_of::<RawEntry>())?;
            let mut entry = RawEntry::new_zeroed();
            bytes.read_exact(entry.as_mut_bytes()).map_err(incomplete)?;
            let chunk_type = entry.entry_type.get();
            if chunk_type == chunk_type::END {
                has_end = true;
                break;
            }
            let sectors = entry.sectors.get();
            if chunk_type == chunk_type::COMMENT || sectors == 0 {
                continue;
            }
            let start = first.checked_add(entry.sector.get()).ok_or_else(overflow)?;
            let end = sector_end(start, sectors).ok_or_else(overflow)?;
            // The offsets of chunks that store nothing have no meaning.
            let offset = data_at.and_then(|at| at.checked_add(entry.offset.get()));
            let stores = !matches!(chunk_type, chunk_type::ZERO | chunk_type::IGNORE);
            let (offset, stored) = match stores {
                true => (offset.ok_or_else(overflow)?, entry.len.get()),
                false => (0, 0),
            };
            self.chunks.push(Chunk {
                start: start * SECTOR,
                end: end * SECTOR,
                offset,
                stored,
                chunk_type,
                table: to_u32(number),
            });
        }
        let checksum = Checksum::read_from_bytes(&raw.checksum).map_err(|_| overflow())?;
        self.tables.push(Table { name: kept_name, sectors: (first, end), checksum, has_end });
        Ok(())
    }
}

impl Table {
    /// Returns how messages call table number `number`.
    pub(super) fn label(&self, number: usize) -> String {
        label(number, &self.name)
    }
}

fn label(number: usize, name: &str) -> String {
    match name {
        "" => format!("table {number}"),
        name => format!("table {number} '{name}'"),
    }
}

fn corrupt(number: usize, name: &str, message: &str) -> Error {
    let name: String = name.trim().chars().take(MAX_NAME).collect();
    Error::corrupt(TABLE, format!("{}: {message}", label(number, &name)))
}

/// Returns the sector after the last of these, if its offset in bytes fits in 63 bits.
fn sector_end(first: u64, sectors: u64) -> Option<u64> {
    first.checked_add(sectors).filter(|&end| end <= i64::MAX.unsigned_abs() / SECTOR)
}
