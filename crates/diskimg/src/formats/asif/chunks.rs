//! Tables, chunk groups and bitmaps: where the chunks of the disk are.
//!
//! ```text
//!   guest offset ──► table ──► chunk group ──► entry ──┬─► zeros
//!                   (directory)  N + 1 entries         ├─► chunk of the file
//!                                                      └─► sectors of it, by two bits each
//!   entry N of a group: the chunk of its bitmap
//! ```
//!
//! A chunk group of the usual size maps 2 GiB in 16 KiB, so groups are read and cached rather than
//! tables. Of a bitmap, only the bytes of one chunk of the disk are read at a time.

use super::directory::Directory;
use super::header::{Header, Layout};
use super::read;
use crate::error::{Error, Result};
use crate::formats::table_cache::{MemoryBudget, TableCache};
use crate::model::extent::{Extent, HostOffset, Kind, push};
use crate::open::limits::Limits;
use crate::storage::number::to_usize;
use crate::storage::source::Source;
use std::ops::Range;
use std::sync::Arc;
use zerocopy::byteorder::big_endian::U64;
use zerocopy::{FromZeros, IntoBytes};

/// How messages call a table.
pub(super) const TABLE: &str = "ASIF table";

/// How messages call a bitmap.
pub(super) const BITMAP: &str = "ASIF bitmap";

/// The bits of an entry that are the chunk of the file.
const CHUNK: u64 = (1 << 55) - 1;

/// The lower bits of an entry that are reserved: 55 to 61.
const RESERVED: u64 = 0x3f80_0000_0000_0000;

/// What an entry says about a chunk of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// All sectors are zeros.
    Absent,
    /// All sectors are in this chunk of the file.
    Full(u64),
    /// The sectors that the bitmap says are in this chunk of the file, the others are zeros.
    Partial(u64),
}

/// A chunk group: the entries of N chunks, and that of their bitmap.
#[derive(Debug)]
pub(super) struct Group {
    /// The entries, then the chunks of the file to which several of them refer.
    words: Arc<[U64]>,
    /// Number of entries.
    entries: usize,
    /// Host offset of the first entry.
    at: u64,
    /// Number of the first chunk.
    pub(super) first: u64,
}

/// The chunks of a disk.
#[derive(Debug)]
pub(super) struct Chunks {
    source: Arc<dyn Source>,
    pub(super) header: Header,
    layout: Layout,
    pub(super) directory: Directory,
    groups: TableCache<U64>,
}

impl Chunks {
    /// Reads the header and the directory.
    ///
    /// # Errors
    /// As [`Header::read`] and [`Directory::open`].
    pub(super) fn open(source: Arc<dyn Source>, limits: &Limits) -> Result<Self> {
        let header = Header::read(&*source)?;
        let directory = Directory::open(&*source, &header, limits)?;
        let groups = TableCache::new(MemoryBudget::default());
        Ok(Self { source, layout: header.layout(), header, directory, groups })
    }

    /// Returns the number of chunks of the disk.
    pub(super) fn count(&self) -> u64 {
        self.header.size.div_ceil(self.header.chunk_bytes)
    }

    /// Returns the range of guest offsets of a chunk of the disk.
    pub(super) fn guest(&self, chunk: u64) -> Range<u64> {
        let start = chunk * self.header.chunk_bytes;
        start..start.saturating_add(self.header.chunk_bytes).min(self.header.size)
    }

    /// Returns the chunk group in which chunk number `chunk` of the disk is; `None` if its table
    /// does not exist.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it cannot be located,
    /// [`Unsupported`](crate::ErrorKind::Unsupported), [`Io`](crate::ErrorKind::Io).
    pub(super) fn group(&self, chunk: u64) -> Result<Option<Group>> {
        let Layout { group_chunks, group_bytes, groups } = self.layout;
        let number = chunk / group_chunks;
        let Some(table) = self.directory.table(number / groups)? else { return Ok(None) };
        let at = table.saturating_mul(self.header.chunk_bytes);
        let at = at.saturating_add(number % groups * group_bytes);
        let entries = to_usize(group_chunks + 1);
        let words = self.groups.get(number, || {
            let mut words = vec![U64::new_zeroed(); entries];
            read(&*self.source, words.as_mut_bytes(), at, TABLE)?;
            words.extend(shared_chunks(&words));
            Ok(words)
        })?;
        Ok(Some(Group { words, entries, at, first: number * group_chunks }))
    }

    /// Returns the first chunk of each chunk group of a table.
    pub(super) fn groups_of(&self, table: u64) -> impl Iterator<Item = u64> + use<> {
        let Layout { group_chunks, groups, .. } = self.layout;
        let first = table * groups;
        (first..first + groups).map(move |group| group * group_chunks)
    }

    /// Returns the numbers of the chunks of a group.
    pub(super) fn chunks_of(&self, group: &Group) -> Range<u64> {
        group.first..group.first + self.layout.group_chunks
    }

    /// Returns the number of chunks of the file, including one that is cut off.
    pub(super) fn file_chunks(&self) -> u64 {
        self.source.len().div_ceil(self.header.chunk_bytes)
    }

    /// Requires that all bytes of a chunk of the disk can be located.
    ///
    /// # Errors
    /// As [`map`](Self::map).
    pub(super) fn require_readable(&self, group: &Group, chunk: u64) -> Result<()> {
        self.map_chunk(group, chunk, self.guest(chunk), &mut Vec::new())
    }

    /// Returns what `group` says about chunk number `chunk` of the disk.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it refers to a chunk of the file in which
    /// something else is; [`Unsupported`](crate::ErrorKind::Unsupported) for unknown states and
    /// bits.
    pub(super) fn entry(&self, group: &Group, chunk: u64) -> Result<Entry> {
        let (entry, at) = group.word(chunk - group.first);
        let unsupported = |what: &str| {
            let message = format!("the entry of chunk {chunk}, {entry:#x}, has {what}");
            Error::unsupported(message).in_structure(TABLE).at(at)
        };
        if entry & RESERVED != 0 {
            return Err(unsupported("unknown bits"));
        }
        let host = entry & CHUNK;
        match entry >> 62 {
            0 if host == 0 => return Ok(Entry::Absent),
            0 => return Err(unsupported("a chunk of the file, but the state 0 (absent)")),
            2 => return Err(unsupported("the unknown state 2")),
            _ => self.require_free(host, at)?,
        }
        group.require_only(host)?;
        Ok(if entry >> 62 == 1 { Entry::Full(host) } else { Entry::Partial(host) })
    }

    /// Returns the chunk of the file in which the bitmap of a group is; `None` if there is none.
    ///
    /// # Errors
    /// As [`entry`](Self::entry).
    pub(super) fn bitmap(&self, group: &Group) -> Result<Option<u64>> {
        let (entry, at) = group.word(self.layout.group_chunks);
        let host = entry & CHUNK;
        // The states 0 and 1 have the same meaning for a bitmap, which is written as a whole.
        if entry & RESERVED != 0 || entry >> 62 > 1 {
            let message = format!("the entry of a bitmap, {entry:#x}, has unknown bits");
            return Err(Error::unsupported(message).in_structure(TABLE).at(at));
        }
        if host == 0 {
            return Ok(None);
        }
        self.require_free(host, at)?;
        group.require_only(host)?;
        Ok(Some(host))
    }

    /// Requires that no metadata that is always in memory is in a chunk of the file, to which the
    /// entry at `at` refers.
    fn require_free(&self, host: u64, at: u64) -> Result<()> {
        let what = match host {
            host if self.directory.is_reserved(host) => "the header or a directory",
            host if self.directory.is_table(host) => "a table",
            _ => return Ok(()),
        };
        let message = format!("an entry refers to chunk {host}, in which {what} is");
        Err(Error::corrupt(TABLE, message).at(at))
    }

    /// Returns the host offset of `len` bytes at `offset` of a chunk of the file.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the file ends before their end.
    fn host(&self, chunk: u64, offset: u64, len: u64) -> Result<u64> {
        let start = chunk.saturating_mul(self.header.chunk_bytes).saturating_add(offset);
        let end = start.saturating_add(len);
        if end <= self.source.len() {
            return Ok(start);
        }
        let message = format!(
            "chunk {chunk} is needed up to {end:#x}, beyond the end of the file at {:#x}",
            self.source.len()
        );
        Err(Error::corrupt(TABLE, message).at(start).hint("the file is probably truncated"))
    }

    /// Appends the extents that cover `range`.
    ///
    /// # Errors
    /// As [`Layer::map`](crate::Layer::map).
    pub(super) fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let chunk = at / self.header.chunk_bytes;
            let table = at / self.header.table_cover();
            let group = self
                .group(chunk)
                .map_err(|error| error.losing(self.covered_by(table, self.header.table_cover())))?;
            let Some(group) = group else {
                let end = self.covered_by(table, self.header.table_cover()).end.min(range.end);
                push(out, at..end, Kind::Unallocated);
                at = end;
                continue;
            };
            let cover = self.header.group_cover();
            let end = self.covered_by(at / cover, cover).end.min(range.end);
            self.map_group(&group, at..end, out)?;
            at = end;
        }
        Ok(())
    }

    /// Returns the range of guest offsets of table or group number `number`, each of which covers
    /// `cover` bytes.
    fn covered_by(&self, number: u64, cover: u64) -> Range<u64> {
        let start = number.saturating_mul(cover);
        start..start.saturating_add(cover).min(self.header.size)
    }

    fn map_group(&self, group: &Group, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let chunk = at / self.header.chunk_bytes;
            let guest = self.guest(chunk);
            let part = at..guest.end.min(range.end);
            at = part.end;
            self.map_chunk(group, chunk, part, out).map_err(|error| error.losing(guest))?;
        }
        Ok(())
    }

    /// Appends the extents of `range`, which is within chunk number `chunk` of the disk.
    fn map_chunk(
        &self,
        group: &Group,
        chunk: u64,
        range: Range<u64>,
        out: &mut Vec<Extent>,
    ) -> Result<()> {
        let start = chunk * self.header.chunk_bytes;
        match self.entry(group, chunk)? {
            Entry::Absent => push(out, range, Kind::Unallocated),
            Entry::Full(host) => {
                let len = range.end - range.start;
                let offset = self.host(host, range.start - start, len)?;
                push(out, range, Kind::Data(HostOffset { file: 0, offset }));
            }
            Entry::Partial(host) => {
                for (sectors, is_written) in self.runs(group, chunk, &range)? {
                    if is_written {
                        let len = sectors.end - sectors.start;
                        let offset = self.host(host, sectors.start - start, len)?;
                        push(out, sectors, Kind::Data(HostOffset { file: 0, offset }));
                    } else {
                        push(out, sectors, Kind::Unallocated);
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns the parts of `range`, which is within a partial chunk of the disk, and whether each
    /// is written.
    fn runs(
        &self,
        group: &Group,
        chunk: u64,
        range: &Range<u64>,
    ) -> Result<Vec<(Range<u64>, bool)>> {
        let states = self.states(group, chunk)?;
        let (start, sector_bytes) = (chunk * self.header.chunk_bytes, self.header.sector_bytes);
        let mut runs: Vec<(Range<u64>, bool)> = Vec::new();
        let first = (range.start - start) / sector_bytes;
        let end = (range.end - start).div_ceil(sector_bytes);
        for sector in first..end {
            let state = states[to_usize(sector / 4)] >> (sector % 4 * 2) & 3;
            let is_written = match state {
                0 => false,
                1 => true,
                state => {
                    let sector = start / sector_bytes + sector;
                    let message = format!("sector {sector} has the unknown state {state}");
                    return Err(Error::unsupported(message).in_structure(BITMAP));
                }
            };
            let part = start + sector * sector_bytes..start + (sector + 1) * sector_bytes;
            let part = part.start.max(range.start)..part.end.min(range.end);
            match runs.last_mut() {
                Some((last, same)) if *same == is_written => last.end = part.end,
                _ => runs.push((part, is_written)),
            }
        }
        Ok(runs)
    }

    /// Returns the bytes of the bitmap for a chunk of the disk: two bits for each sector.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if there is no bitmap or the file ends before its
    /// end, [`Io`](crate::ErrorKind::Io).
    pub(super) fn states(&self, group: &Group, chunk: u64) -> Result<Vec<u8>> {
        let Some(bitmap) = self.bitmap(group)? else {
            let message = format!("chunk {chunk} is partial, but its group has no bitmap");
            let (_, at) = group.word(self.layout.group_chunks);
            return Err(Error::corrupt(TABLE, message).at(at));
        };
        let len = self.header.chunk_bytes / self.header.sector_bytes / 4;
        let at = bitmap.saturating_mul(self.header.chunk_bytes);
        let at = at.saturating_add((chunk - group.first) * len);
        let mut states = vec![0; to_usize(len)];
        read(&*self.source, &mut states, at, BITMAP)?;
        Ok(states)
    }

    /// As [`Layer::next_allocated_hint`](crate::Layer::next_allocated_hint).
    pub(super) fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        let cover = self.header.table_cover();
        let mut at = range.start;
        while at < range.end && self.directory.is_absent(at / cover) {
            at = self.covered_by(at / cover, cover).end.max(at + 1);
        }
        at.min(range.end)
    }
}

impl Group {
    /// Returns entry number `index` and its host offset.
    fn word(&self, index: u64) -> (u64, u64) {
        let word = self.words.get(to_usize(index)).map_or(0, |word| word.get());
        (word, self.at.saturating_add(8 * index))
    }

    /// Requires that only one entry of the group refers to a chunk of the file.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if several do.
    fn require_only(&self, host: u64) -> Result<()> {
        if self.shared().binary_search_by_key(&host, |chunk| chunk.get()).is_err() {
            return Ok(());
        }
        let message = format!(
            "several entries of the group of chunk {} refer to the same chunk {host} of the file",
            self.first
        );
        Err(Error::corrupt(TABLE, message).at(self.at))
    }

    /// Returns the chunks of the file to which several entries refer, in ascending order.
    fn shared(&self) -> &[U64] {
        self.words.get(self.entries..).unwrap_or_default()
    }
}

/// Returns the chunks of the file to which several of a group's entries refer, in ascending order.
fn shared_chunks(entries: &[U64]) -> Vec<U64> {
    let chunks = entries.iter().map(|entry| entry.get() & CHUNK).filter(|&chunk| chunk != 0);
    let mut sorted: Vec<_> = chunks.collect();
    sorted.sort_unstable();
    let equal = sorted.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
    let mut shared: Vec<_> = equal.map(U64::new).collect();
    shared.dedup();
    shared
}
