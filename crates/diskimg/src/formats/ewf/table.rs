//! The tables: where the chunks are.
//!
//! ```text
//!   section table   0        8      16  20         24                        24 + 4 n
//!                   ┌────────┬──────┬───┬──────────┬───────┬───────┬───┬───┬──────────┐
//!                   │ n      │ base │ 0 │ checksum │ entry │ entry │ … │   │ checksum │
//!                   └────────┴──────┴───┴──────────┴───────┴───────┴───┴───┴──────────┘
//!   entry           bit 31: compressed; 31 bits: offset of the chunk from the base
//!   chunk           zlib, or bytes and their checksum; it ends where the next one begins
//! ```
//!
//! The chunks are in the section `sectors` before the table or, in images of SMART and EnCase 1, in
//! the table's section after the entries. The section `table2` is a copy of the table.
//!
//! EnCase 6.7 writes more than 2 GiB of chunks for a table. The offset then takes all 32 bits of the
//! entries of the last chunks, and nothing says which of these are compressed: a stored one is as
//! long as a chunk and its checksum.

use super::section::Section;
use super::{read, wrong_checksum};
use crate::error::{Error, Result};
use crate::formats::table_cache::{MemoryBudget, TableCache};
use crate::model::extent::{Encoded, Extent, HostOffset, Kind, push};
use crate::storage::codec::{Adler32, Codec, adler32};
use crate::storage::number::{to_index, to_u32, to_u64, to_usize};
use crate::storage::source::Source;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// How messages call a table.
pub(super) const STRUCTURE: &str = "EWF chunk table";

/// Length in bytes of the header of a table.
const HEADER_BYTES: u64 = 24;

/// The bit of an entry whose chunk is compressed.
const COMPRESSED: u32 = 1 << 31;

/// Number of entries that are read together.
const PAGE: u32 = 8192;

/// Length in bytes of the checksum of entries and of stored chunks.
const CHECKSUM: u64 = 4;

#[derive(FromBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawHeader {
    count: U32,
    padding_1: [u8; 4],
    base: U64,
    padding_2: [u8; 4],
    checksum: U32,
}

const _: () = assert!(to_u64(size_of::<RawHeader>()) == HEADER_BYTES);

/// The header of a table, and where its entries are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) count: u32,
    base: u64,
    /// Host offset of the entries.
    entries_at: u64,
    /// True if a checksum follows the entries.
    has_checksum: bool,
    /// Host offset of the end of the section.
    section_end: u64,
}

impl Header {
    /// Reads the header of the table in `section`. With `is_smart`, chunks follow the entries
    /// directly.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is invalid, [`Io`](crate::ErrorKind::Io).
    pub(super) fn read(section: &Section, source: &dyn Source, is_smart: bool) -> Result<Self> {
        let at = section.contents.start;
        let bytes: [u8; to_usize(HEADER_BYTES)] = section.read_structure(source, STRUCTURE)?;
        let raw: RawHeader = zerocopy::transmute!(bytes);
        let found = adler32(&bytes[..bytes.len() - 4]);
        if found != raw.checksum.get() {
            return Err(wrong_checksum(STRUCTURE, at, found, raw.checksum.get()));
        }
        let count = raw.count.get();
        let entries_at = at + HEADER_BYTES;
        let end = entries_at + u64::from(count) * 4;
        if end > section.contents.end {
            let message = format!("{count} entries are more than its section has room for");
            return Err(Error::corrupt(STRUCTURE, message).at(at));
        }
        let has_checksum = !is_smart && section.contents.end - end >= CHECKSUM;
        let (base, section_end) = (raw.base.get(), section.contents.end);
        Ok(Self { count, base, entries_at, has_checksum, section_end })
    }

    /// Returns true if the first chunk begins in `range`, as far as its entry can be read.
    fn starts_in(&self, source: &dyn Source, range: &Range<u64>) -> bool {
        let mut entry = [0; 4];
        let is_read = read(source, &mut entry, self.entries_at, STRUCTURE).is_ok();
        // The first entry does not have an offset of 32 bits.
        let offset = u32::from_le_bytes(entry) & !COMPRESSED;
        is_read && range.contains(&self.base.saturating_add(offset.into()))
    }

    /// Returns true if `other` can be a copy of this header.
    pub(super) fn is_alike(&self, other: &Self) -> bool {
        (self.count, self.base) == (other.count, other.base)
    }

    /// Returns the host offset of the end of the entries and their checksum.
    fn end(&self) -> u64 {
        let checksum = if self.has_checksum { CHECKSUM } else { 0 };
        self.entries_at + u64::from(self.count) * 4 + checksum
    }
}

/// A table, and the chunks that it locates.
#[derive(Debug)]
pub(super) struct Table {
    /// Index of the file in the layer's files.
    file: usize,
    /// Index of the first chunk.
    pub(super) first_chunk: u64,
    /// The table, or its copy if that is the only valid one.
    header: Header,
    /// The copy, if it is valid.
    copy: Option<Header>,
    /// Host offsets of the section with the chunks.
    data: Range<u64>,
    /// What reading all entries showed. The copy is used if the table is damaged.
    scan: OnceLock<Scan>,
}

/// What reading all entries of a table shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scan {
    /// True if the entries are those of the copy.
    is_copy: bool,
    /// Index of the first entry that has an offset of 32 bits.
    overflow: u32,
}

/// Where a chunk begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    /// Host offset.
    at: u64,
    storage: Storage,
}

/// How a chunk is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Storage {
    Compressed,
    Stored,
    /// Its length says how.
    ByLength,
}

impl Table {
    /// Creates a table of the file `source`. Its chunks are in the last section `sectors`, at
    /// `sectors`, if the first one is or if its own section has no room for them, and otherwise in
    /// its own section after the entries: there may also be bytes without a meaning.
    pub(super) fn new(
        source: &dyn Source,
        file: usize,
        first_chunk: u64,
        header: Header,
        copy: Option<Header>,
        sectors: Option<Range<u64>>,
    ) -> Self {
        let own = header.end()..header.section_end;
        // An entry of the table may be damaged, and that of the copy valid.
        let starts_in = |range: &Range<u64>| {
            header.starts_in(source, range)
                || copy.as_ref().is_some_and(|copy| copy.starts_in(source, range))
        };
        let data = match sectors {
            Some(sectors) if own.is_empty() || starts_in(&sectors) => sectors,
            _ => own,
        };
        Self { file, first_chunk, header, copy, data, scan: OnceLock::new() }
    }

    /// Returns the index of the file in the layer's files.
    pub(super) fn file(&self) -> usize {
        self.file
    }

    /// Returns the index of the chunk after the last one.
    pub(super) fn end_chunk(&self) -> u64 {
        self.first_chunk + u64::from(self.header.count)
    }

    /// Reads all entries, unless that was done before.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the checksum of table and copy is wrong,
    /// [`Io`](crate::ErrorKind::Io).
    fn scan(&self, source: &dyn Source) -> Result<Scan> {
        if let Some(scan) = self.scan.get() {
            return Ok(*scan);
        }
        let scan = match self.scan_entries(source, &self.header) {
            Ok(overflow) => Scan { is_copy: false, overflow },
            Err(error) => match &self.copy {
                Some(copy) if error.kind() == crate::ErrorKind::Corrupt => {
                    // The table's error is reported if both are damaged.
                    let overflow = self.scan_entries(source, copy).map_err(|_| error)?;
                    Scan { is_copy: true, overflow }
                }
                _ => return Err(error),
            },
        };
        Ok(*self.scan.get_or_init(|| scan))
    }

    /// Verifies the checksum of entries and returns the index of the first one with an offset of 32
    /// bits, or their number.
    fn scan_entries(&self, source: &dyn Source, header: &Header) -> Result<u32> {
        let mut checksum = Adler32::default();
        let (mut overflow, mut last) = (header.count, 0);
        // Less than 2 GiB cannot have such offsets.
        let may_overflow = self.data.end.saturating_sub(header.base) > u64::from(COMPRESSED);
        for first in (0..header.count).step_by(to_index(PAGE)) {
            let raw = read_entries(source, header, first..(first + PAGE).min(header.count))?;
            checksum.update(raw.as_bytes());
            for (index, entry) in (first..).zip(&raw).filter(|_| may_overflow) {
                let offset = entry.get() & !COMPRESSED;
                if overflow == header.count && offset < last && entry.get() & COMPRESSED != 0 {
                    overflow = index;
                }
                last = offset;
            }
        }
        if header.has_checksum {
            let at = header.entries_at + u64::from(header.count) * 4;
            let mut recorded = [0; 4];
            read(source, &mut recorded, at, STRUCTURE)?;
            let (found, recorded) = (checksum.finish(), u32::from_le_bytes(recorded));
            if found != recorded {
                return Err(wrong_checksum(STRUCTURE, header.entries_at, found, recorded));
            }
        }
        Ok(overflow)
    }

    /// Returns entries of a page, and the start of what follows them: another chunk or the end of
    /// the chunks.
    fn read_page(&self, source: &dyn Source, page: u32) -> Result<Vec<Entry>> {
        let scan = self.scan(source)?;
        let header = match &self.copy {
            Some(copy) if scan.is_copy => copy,
            _ => &self.header,
        };
        let first = page * PAGE;
        let end = first.saturating_add(PAGE).saturating_add(1).min(header.count);
        let raw = read_entries(source, header, first..end)?;
        let entry = |(index, raw): (u32, &U32)| {
            let (raw, is_full) = (raw.get(), index >= scan.overflow);
            let storage = match raw & COMPRESSED {
                _ if is_full => Storage::ByLength,
                0 => Storage::Stored,
                _ => Storage::Compressed,
            };
            let offset = if is_full { raw } else { raw & !COMPRESSED };
            Entry { at: header.base.saturating_add(offset.into()), storage }
        };
        let mut entries: Vec<_> = (first..).zip(&raw).map(entry).collect();
        if end == header.count {
            entries.push(Entry { at: self.data.end, storage: Storage::Stored });
        }
        Ok(entries)
    }

    /// Returns whether the table and its copy can be used, for a check.
    pub(super) fn verify(&self, source: &dyn Source) -> (Result<()>, Option<Result<()>>) {
        let verify = |header: &Header| self.scan_entries(source, header).map(|_| ());
        (verify(&self.header), self.copy.as_ref().map(verify))
    }
}

/// Reads entries of a table.
fn read_entries(source: &dyn Source, header: &Header, range: Range<u32>) -> Result<Vec<U32>> {
    let mut raw = vec![U32::ZERO; to_index(range.end - range.start)];
    let at = header.entries_at + u64::from(range.start) * 4;
    read(source, raw.as_mut_bytes(), at, STRUCTURE)?;
    Ok(raw)
}

/// The chunks of a disk.
#[derive(Debug)]
pub(super) struct Chunks {
    /// The tables, by their first chunk.
    pub(super) tables: Vec<Table>,
    /// Guest bytes of a chunk.
    pub(super) chunk_bytes: u64,
    /// Size of the medium in bytes.
    pub(super) size: u64,
    cache: TableCache<Entry>,
}

/// A chunk in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Index of the file.
    pub(super) file: usize,
    /// Host offset.
    pub(super) at: u64,
    /// Number of stored bytes, at most.
    pub(super) stored: u32,
    /// Number of stored bytes, at least.
    least_stored: u32,
    pub(super) codec: Codec,
}

impl Chunks {
    pub(super) fn new(tables: Vec<Table>, chunk_bytes: u64, size: u64) -> Self {
        let cache = TableCache::new(MemoryBudget::default());
        Self { tables, chunk_bytes, size, cache }
    }

    /// Returns the number of chunks in the tables. The disk may need fewer or more.
    pub(super) fn located(&self) -> u64 {
        self.tables.last().map_or(0, Table::end_chunk)
    }

    /// Returns the number of chunks that the disk needs.
    pub(super) fn needed(&self) -> u64 {
        self.size.div_ceil(self.chunk_bytes)
    }

    /// Appends the extents that cover `range`, which is within the medium. `missing` is the error for
    /// a chunk that no table has.
    ///
    /// # Errors
    /// As [`Layer::map`](crate::Layer::map).
    pub(super) fn map(
        &self,
        files: &[Arc<dyn Source>],
        range: Range<u64>,
        missing: impl Fn() -> Error,
        out: &mut Vec<Extent>,
    ) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let chunk = at / self.chunk_bytes;
            let unit = self.unit(chunk);
            let found = match self.chunk(files, chunk) {
                Ok(Some(found)) => found,
                Ok(None) => return Err(missing().losing(unit.start..self.size)),
                Err(error) => return Err(error),
            };
            let end = unit.end.min(range.end);
            let encoded = Encoded {
                host: HostOffset { file: found.file, offset: found.at },
                stored: found.stored,
                least_stored: found.least_stored,
                unit,
                codec: found.codec,
            };
            push(out, at..end, Kind::Encoded(encoded));
            at = end;
        }
        Ok(())
    }

    /// Returns the guest bytes of a chunk: those of the last one may be fewer.
    fn unit(&self, chunk: u64) -> Range<u64> {
        let start = chunk.saturating_mul(self.chunk_bytes).min(self.size);
        start..start.saturating_add(self.chunk_bytes).min(self.size)
    }

    /// Returns where a chunk is; `None` if no table has it.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if its entry is invalid, with the guest bytes that are
    /// lost, [`Io`](crate::ErrorKind::Io).
    fn chunk(&self, files: &[Arc<dyn Source>], chunk: u64) -> Result<Option<Chunk>> {
        let after = self.tables.partition_point(|table| table.first_chunk <= chunk);
        let index = after.saturating_sub(1);
        let Some(table) = self.tables.get(index).filter(|table| chunk < table.end_chunk()) else {
            return Ok(None);
        };
        let file = &files[table.file];
        let (page, entry) = {
            let entry = to_u32(chunk - table.first_chunk);
            (entry / PAGE, to_index(entry % PAGE))
        };
        let key = to_u64(index) << 32 | u64::from(page);
        let entries = self.cache.get(key, || table.read_page(&**file, page)).map_err(|error| {
            let lost = self.unit(table.first_chunk).start..self.unit(table.end_chunk() - 1).end;
            in_file(error, files, table.file).losing(lost)
        })?;
        let pair = entries.get(entry).zip(entries.get(entry + 1));
        let found = pair.and_then(|(entry, next)| self.place(table, *entry, next.at, chunk));
        match found {
            Some(found) => Ok(Some(found)),
            None => {
                let message = format!(
                    "chunk {chunk} is not within the section of its chunks at {:#x} to {:#x}, or \
                     not before the next one",
                    table.data.start, table.data.end
                );
                let error = Error::corrupt(STRUCTURE, message).at(table.header.entries_at);
                Err(in_file(error, files, table.file).losing(self.unit(chunk)))
            }
        }
    }

    /// Returns where the chunk of an entry is, if the next one begins at `next`.
    fn place(&self, table: &Table, entry: Entry, next: u64, chunk: u64) -> Option<Chunk> {
        let len = next.checked_sub(entry.at).filter(|&len| len > 0)?;
        if entry.at < table.data.start || next > table.data.end {
            return None;
        }
        let unit = self.unit(chunk);
        let whole = self.chunk_bytes + CHECKSUM;
        let is_stored = match entry.storage {
            Storage::Compressed => false,
            Storage::Stored => true,
            Storage::ByLength => len == whole || len == unit.end - unit.start + CHECKSUM,
        };
        let (codec, max) = match is_stored {
            true => (Codec::StoredAdler32, whole),
            false => (Codec::Zlib, max_compressed(self.chunk_bytes)),
        };
        let stored = u32::try_from(len.min(max)).ok()?;
        // Chunks of another table may follow the last one.
        let is_last = chunk + 1 == table.end_chunk();
        let least_stored = if is_last { 0 } else { stored };
        Some(Chunk { file: table.file, at: entry.at, stored, least_stored, codec })
    }

    /// Passes each chunk that the disk needs to `found`, with its index, or the error of its entry.
    /// Leaves out the chunks of tables that cannot be read.
    pub(super) fn for_each(
        &self,
        files: &[Arc<dyn Source>],
        mut found: impl FnMut(u64, Result<Chunk>),
    ) {
        for table in &self.tables {
            let chunks = table.first_chunk..table.end_chunk().min(self.needed());
            if table.scan(&*files[table.file]).is_err() {
                continue;
            }
            for chunk in chunks {
                match self.chunk(files, chunk) {
                    Ok(Some(place)) => found(chunk, Ok(place)),
                    Ok(None) => {}
                    Err(error) => found(chunk, Err(error)),
                }
            }
        }
    }
}

/// Returns the length in bytes that a compressed chunk has at most, whatever compressed it: fixed
/// codes take nine bits for a byte.
fn max_compressed(chunk_bytes: u64) -> u64 {
    chunk_bytes + chunk_bytes / 8 + 1024
}

/// Adds the path of a segment file to an error. The first one is the image.
pub(super) fn in_file(error: Error, files: &[Arc<dyn Source>], file: usize) -> Error {
    match files.get(file).filter(|_| file > 0).and_then(|file| file.path()) {
        Some(path) => error.in_file(path),
        None => error,
    }
}
