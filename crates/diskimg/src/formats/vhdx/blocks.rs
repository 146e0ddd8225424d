//! The blocks of a disk, and which of their sectors a child has.
//!
//! ```text
//!   guest offset ──► entry of the block ──► block in the file
//!                    64 bits, read in pages
//!   partial block ──► entry of the chunk's bitmap ──► bit of the sector: the child's or the
//!                                                     parent's
//! ```
//!
//! Neither the table nor a bitmap is in memory as a whole. The first time that a stored block is
//! mapped, the whole table is read once: to learn which blocks are stored, and which overlap others.

use super::bat::{BatLayout, ENTRY_BYTES, Entry, State};
use super::metadata::Metadata;
use super::places::Places;
use super::region::Regions;
use super::{MIB, read};
use crate::error::{Error, Result};
use crate::formats::table_cache::{MemoryBudget, TableCache};
use crate::model::extent::{Extent, HostOffset, Kind, push};
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// How messages call the block allocation table.
pub(super) const STRUCTURE: &str = "VHDX block allocation table";

/// How messages call a bitmap.
const BITMAP: &str = "VHDX sector bitmap";

/// Length in bytes of a page of the table, or of a bitmap, that is read and cached.
const PAGE: u64 = 64 << 10;

/// Entries of a page.
const PAGE_ENTRIES: u64 = PAGE / ENTRY_BYTES;

/// The blocks of a disk.
#[derive(Debug)]
pub(super) struct Blocks {
    source: Arc<dyn Source>,
    /// Size of the disk in bytes.
    pub(super) size: u64,
    pub(super) block_bytes: u64,
    /// Logical sector size: what a bit of a bitmap stands for.
    logical: u64,
    pub(super) layout: BatLayout,
    /// Host offset of the table.
    pub(super) table_at: u64,
    /// Host ranges in which no block can be, in ascending order.
    reserved: Vec<Range<u64>>,
    entries: TableCache<u64>,
    bitmaps: TableCache<u8>,
    scan: OnceLock<Scan>,
    /// Whether the file was created by QEMU, some versions of which damaged the table.
    is_of_qemu: bool,
}

/// What reading the whole table tells.
#[derive(Debug)]
struct Scan {
    /// One bit for each block that is not skipped: at most 8 MiB.
    allocated: Vec<u64>,
    /// `None` if the blocks are in too many places of the file.
    places: Option<Places>,
}

impl Blocks {
    /// The blocks of a disk with this metadata.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the table is too short.
    pub(super) fn new(
        source: Arc<dyn Source>,
        metadata: &Metadata,
        regions: &Regions,
        log: &Range<u64>,
        is_of_qemu: bool,
    ) -> Result<Self> {
        let has_parent = metadata.parent.is_some();
        let Metadata { size, block_bytes, logical, .. } = *metadata;
        let layout = BatLayout::new(size, block_bytes, logical, has_parent);
        let (needed, region) = (layout.bytes(), regions.bat.end - regions.bat.start);
        if needed > region {
            let message = format!(
                "it has {region} bytes, but a disk of {size} bytes in blocks of {block_bytes} \
                 needs {needed}"
            );
            return Err(Error::corrupt(STRUCTURE, message).at(regions.bat.start));
        }
        let mut reserved = vec![0..MIB, log.clone()];
        reserved.extend(regions.all.iter().map(|region| region.range.clone()));
        reserved.retain(|range| !range.is_empty());
        reserved.sort_by_key(|range| range.start);
        let budget = MemoryBudget::default();
        Ok(Self {
            source,
            size,
            block_bytes,
            logical,
            layout,
            table_at: regions.bat.start,
            reserved,
            entries: TableCache::new(budget.clone()),
            bitmaps: TableCache::new(budget),
            scan: OnceLock::new(),
            is_of_qemu,
        })
    }

    /// Returns the end of the metadata in the file: no block is before it unless between metadata.
    pub(super) fn reserved_end(&self) -> u64 {
        self.reserved.iter().map(|range| range.end).max().unwrap_or(0)
    }

    /// Returns the entries of a page of the table, as they are stored.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if it cannot be read.
    fn page(&self, page: u64) -> Result<Arc<[u64]>> {
        self.entries.get(page, || self.read_page(page))
    }

    fn read_page(&self, page: u64) -> Result<Vec<u64>> {
        let start = page * PAGE;
        let len = self.layout.bytes().saturating_sub(start).min(PAGE);
        let mut bytes = vec![0; to_usize(len)];
        read(&*self.source, &mut bytes, self.table_at + start, STRUCTURE)?;
        let words = bytes.chunks_exact(8).filter_map(|word| word.first_chunk());
        Ok(words.map(|word| u64::from_le_bytes(*word)).collect())
    }

    /// Calls `visit` for each entry of the table that is not 0, with its index. Holes of the file
    /// are skipped, and nothing is cached.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the table cannot be read, and the errors of `visit`.
    pub(super) fn for_each_entry(
        &self,
        mut visit: impl FnMut(u64, u64) -> Result<()>,
    ) -> Result<()> {
        let mut page = 0;
        while page * PAGE < self.layout.bytes() {
            let at = self.table_at + page * PAGE;
            let hole = self.source.segment_at(at).ok().filter(|segment| segment.hole);
            let skipped = hole.map_or(0, |hole| hole.end.saturating_sub(at) / PAGE);
            if skipped > 0 {
                page += skipped;
                continue;
            }
            let first = page * PAGE_ENTRIES;
            for (index, raw) in (first..).zip(self.read_page(page)?) {
                if raw != 0 {
                    visit(index, raw)?;
                }
            }
            page += 1;
        }
        Ok(())
    }

    /// Returns the index of the block that an entry of the table is for, or that of the chunk whose
    /// bitmap it is for.
    pub(super) fn subject_of(&self, index: u64) -> Subject {
        let (chunk, in_chunk) = (index / (self.layout.ratio + 1), index % (self.layout.ratio + 1));
        if in_chunk == self.layout.ratio {
            return Subject::Bitmap(chunk);
        }
        let block = chunk * self.layout.ratio + in_chunk;
        if block < self.layout.blocks { Subject::Block(block) } else { Subject::Nothing }
    }

    /// Reads the whole table, unless that was done before.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if it cannot be read.
    fn scan(&self) -> Result<&Scan> {
        if let Some(scan) = self.scan.get() {
            return Ok(scan);
        }
        let mut allocated = vec![0_u64; to_usize(self.layout.blocks.div_ceil(64))];
        let mut places = Some(Places::default());
        let len = self.source.len();
        self.for_each_entry(|index, raw| {
            let entry = Entry::parse(raw);
            // What is not valid is an error when the block is mapped.
            let is_present = match entry {
                Some(entry) if self.layout.has_parent => entry.state != State::NotPresent,
                Some(entry) => entry.is_stored(),
                None => true,
            };
            let subject = self.subject_of(index);
            if let (Subject::Block(block), true) = (subject, is_present)
                && let Some(word) = allocated.get_mut(to_usize(block / 64))
            {
                *word |= 1 << (block % 64);
            }
            let stored = entry.filter(|entry| entry.is_stored() && entry.offset < len);
            let range = stored.and_then(|entry| self.range_of(subject, entry.offset));
            // That there are too many is remembered: to find it out again for each block would take
            // time in proportion to the square of their number.
            if let (Some(range), Some(found)) = (range, &mut places)
                && found.add(&range).is_err()
            {
                places = None;
            }
            Ok(())
        })?;
        let scan = Scan { allocated, places: places.map(Places::finish) };
        Ok(self.scan.get_or_init(|| scan))
    }

    /// Returns the host range of a block or bitmap at `offset`; `None` if the entry has none.
    fn range_of(&self, subject: Subject, offset: u64) -> Option<Range<u64>> {
        match subject {
            Subject::Block(_) => Some(offset..offset.saturating_add(self.block_bytes)),
            Subject::Bitmap(_) if self.layout.has_parent => {
                Some(offset..offset.saturating_add(MIB))
            }
            Subject::Bitmap(_) | Subject::Nothing => None,
        }
    }

    /// Appends the extents that cover `range`.
    ///
    /// # Errors
    /// As [`Layer::map`](crate::Layer::map).
    pub(super) fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        let mut at = range.start;
        let mut held: Option<(u64, Arc<[u64]>)> = None;
        while at < range.end {
            let index = at / self.block_bytes;
            let block = self.guest_range(index);
            let end = block.end.min(range.end);
            let entry = self.layout.entry_of_block(index);
            let page = entry / PAGE_ENTRIES;
            let entries = match held.take() {
                Some((number, entries)) if number == page => entries,
                _ => self.page(page).map_err(|e| e.losing(at..end))?,
            };
            let raw = entries.get(to_usize(entry % PAGE_ENTRIES)).copied().unwrap_or(0);
            held = Some((page, entries));
            self.map_block(index, raw, at..end, out).map_err(|e| e.losing(block))?;
            at = end;
        }
        Ok(())
    }

    /// Returns the guest range of a block, as far as the disk goes.
    fn guest_range(&self, index: u64) -> Range<u64> {
        index * self.block_bytes..((index + 1) * self.block_bytes).min(self.size)
    }

    /// Appends the extents of a part of a block whose entry is `raw`.
    fn map_block(
        &self,
        index: u64,
        raw: u64,
        range: Range<u64>,
        out: &mut Vec<Extent>,
    ) -> Result<()> {
        let entry = Entry::parse(raw).ok_or_else(|| self.invalid(index, raw))?;
        let start = index * self.block_bytes;
        match entry.state {
            State::NotPresent => push(out, range, Kind::Unallocated),
            State::Undefined | State::Zero | State::Unmapped => push(out, range, Kind::Zero(None)),
            State::Partial if self.layout.has_parent => {
                self.require_valid(index, entry)?;
                self.map_partial(index, entry.offset, range, out)?;
            }
            State::Full | State::Partial => {
                self.require_valid(index, entry)?;
                let offset = entry.offset + (range.start - start);
                push(out, range, Kind::Data(HostOffset { file: 0, offset }));
            }
        }
        Ok(())
    }

    /// The error for an entry of a block that is not valid.
    pub(super) fn invalid(&self, index: u64, raw: u64) -> Error {
        let message = format!("the entry of block {index} is {raw:#x}, which is not valid");
        Error::corrupt(STRUCTURE, message)
            .at(self.place_of_entry(self.layout.entry_of_block(index)))
    }

    /// Returns the host offset of an entry of the table.
    pub(super) fn place_of_entry(&self, entry: u64) -> u64 {
        self.table_at + entry * ENTRY_BYTES
    }

    /// Requires that a block that is stored is within the file as far as the disk needs it, and
    /// overlaps neither metadata nor another block.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is not, and the errors of reading the table.
    pub(super) fn require_valid(&self, index: u64, entry: Entry) -> Result<()> {
        let guest = self.guest_range(index);
        let place = self.place_of_entry(self.layout.entry_of_block(index));
        let range = entry.offset..entry.offset.saturating_add(self.block_bytes);
        self.require_place(&format!("block {index}"), &range, guest.end - guest.start, place)
    }

    /// Requires that `range`, where the table says that `what` is, is in the file for its first
    /// `needed` bytes and overlaps nothing.
    fn require_place(&self, what: &str, range: &Range<u64>, needed: u64, place: u64) -> Result<()> {
        let corrupt = |message: String| Error::corrupt(STRUCTURE, message).at(place);
        let next = self.reserved.partition_point(|reserved| reserved.end <= range.start);
        let overlapping = self.reserved.get(next).filter(|reserved| reserved.start < range.end);
        if let Some(reserved) = overlapping {
            let message =
                format!("{what} at {:#x} overlaps metadata at {:#x}", range.start, reserved.start);
            return Err(self.advise(corrupt(message)));
        }
        let len = self.source.len();
        if range.start.checked_add(needed).is_none_or(|end| end > len) {
            let message = format!(
                "{what} at {:#x} extends beyond the end of the file at {len:#x}",
                range.start
            );
            return Err(corrupt(message).hint("the file is probably truncated"));
        }
        let places = self.scan()?.places.as_ref().ok_or_else(Places::too_many)?;
        if places.is_shared(range) {
            let message = format!("{what} at {:#x} overlaps another block", range.start);
            return Err(self.advise(corrupt(message)));
        }
        Ok(())
    }

    /// Returns true if QEMU created the file.
    pub(super) fn is_of_qemu(&self) -> bool {
        self.is_of_qemu
    }

    /// Adds what is known about such damage in files of QEMU.
    fn advise(&self, error: Error) -> Error {
        match self.is_of_qemu {
            true => error.hint(SHIFTED),
            false => error,
        }
    }

    /// Appends the extents of a part of a partial block, whose data is at host offset `data`.
    fn map_partial(
        &self,
        index: u64,
        data: u64,
        range: Range<u64>,
        out: &mut Vec<Extent>,
    ) -> Result<()> {
        let start = index * self.block_bytes;
        let chunk = index / self.layout.ratio;
        let bitmap = self.bitmap(chunk)?;
        let first = index % self.layout.ratio * (self.block_bytes / self.logical);
        let mut at = range.start;
        while at < range.end {
            let bit = first + (at - start) / self.logical;
            let (page, in_page) = (bit / (8 * PAGE), bit % (8 * PAGE));
            let bits = self.bitmap_page(chunk, bitmap, page)?;
            let (is_set, next) = run_of_bits(&bits, in_page);
            let end = (page * 8 * PAGE + next - first) * self.logical + start;
            let end = end.min(range.end);
            let kind = match is_set {
                true => Kind::Data(HostOffset { file: 0, offset: data + (at - start) }),
                false => Kind::Unallocated,
            };
            push(out, at..end, kind);
            at = end;
        }
        Ok(())
    }

    /// Returns the host offset of a chunk's bitmap.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if there is none, or its place is not valid.
    pub(super) fn bitmap(&self, chunk: u64) -> Result<u64> {
        let index = self.layout.entry_of_bitmap(chunk);
        let page = self.page(index / PAGE_ENTRIES)?;
        let raw = page.get(to_usize(index % PAGE_ENTRIES)).copied().unwrap_or(0);
        let place = self.place_of_entry(index);
        let Some(entry) = Entry::parse(raw).filter(|entry| entry.is_stored()) else {
            let message = format!(
                "the entry of the bitmap of chunk {chunk} is {raw:#x}, but a block needs the bitmap"
            );
            return Err(Error::corrupt(STRUCTURE, message).at(place));
        };
        let range = entry.offset..entry.offset.saturating_add(MIB);
        self.require_place(&format!("the bitmap of chunk {chunk}"), &range, MIB, place)?;
        Ok(entry.offset)
    }

    /// Returns a page of the bitmap of a chunk, which is at host offset `bitmap`.
    fn bitmap_page(&self, chunk: u64, bitmap: u64, page: u64) -> Result<Arc<[u8]>> {
        self.bitmaps.get(chunk * (MIB / PAGE) + page, || {
            let mut bytes = vec![0; to_usize(PAGE)];
            read(&*self.source, &mut bytes, bitmap + page * PAGE, BITMAP)?;
            Ok(bytes)
        })
    }

    /// As [`Layer::next_allocated_hint`](crate::Layer::next_allocated_hint). Blocks of zeros are
    /// skipped as well, if there is no parent.
    pub(super) fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        // Reading the table once is what makes large steps possible.
        let Ok(scan) = self.scan() else { return range.start };
        let first = range.start / self.block_bytes;
        let end = range.end.div_ceil(self.block_bytes);
        // Not beyond the range: it may be one of many.
        let words = scan.allocated.get(..to_usize(end.div_ceil(64))).unwrap_or(&scan.allocated);
        let next = next_set(words, first).min(end);
        next.saturating_mul(self.block_bytes).clamp(range.start, range.end)
    }

    /// As [`Layer::prefetch_tables`](crate::Layer::prefetch_tables).
    pub(super) fn prefetch_tables(&self, range: Range<u64>) {
        if range.is_empty() || self.layout.blocks == 0 {
            return;
        }
        let entry = |at: u64| self.layout.entry_of_block(at / self.block_bytes);
        let (first, last) = (entry(range.start), entry(range.end - 1));
        let start = first / PAGE_ENTRIES * PAGE;
        let end = ((last / PAGE_ENTRIES + 1) * PAGE).min(self.layout.bytes());
        let pages = self.table_at + start..self.table_at + end.max(start);
        self.source.prefetch(std::slice::from_ref(&pages));
    }
}

/// What an entry of the table is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    /// The payload block of this index.
    Block(u64),
    /// The bitmap of this chunk.
    Bitmap(u64),
    /// No block: the last chunk is not full.
    Nothing,
}

/// Advice on a table that a bug of QEMU may have damaged.
pub(super) const SHIFTED: &str = "QEMU before version 8.0 shifted entries of this table by one when it wrote the first entry of \
     4 KiB (QEMU's issue 727): use a copy from before that";

/// Returns the index of the first set bit from `first` on, or that of the end.
fn next_set(bits: &[u64], first: u64) -> u64 {
    let mut index = to_usize(first / 64);
    let mut word = bits.get(index).copied().unwrap_or(0) & u64::MAX << (first % 64);
    while word == 0 {
        index += 1;
        match bits.get(index) {
            Some(&next) => word = next,
            None => return to_u64(bits.len()) * 64,
        }
    }
    to_u64(index) * 64 + u64::from(word.trailing_zeros())
}

/// Returns the bit of sector `first`, and the number of the first sector after it with the opposite
/// bit. The first sector's bit is the least significant one of its byte.
fn run_of_bits(bitmap: &[u8], first: u64) -> (bool, u64) {
    let byte_of = |sector: u64| bitmap.get(to_usize(sector / 8)).copied().unwrap_or(0);
    let bit_of = |sector: u64| byte_of(sector) >> (sector % 8) & 1 != 0;
    let is_set = bit_of(first);
    let (whole, sectors) = (if is_set { 0xff } else { 0 }, to_u64(bitmap.len()) * 8);
    let mut next = first + 1;
    while next < sectors {
        if next.is_multiple_of(8) {
            let rest = bitmap.get(to_usize(next / 8)..).unwrap_or_default();
            let equal = rest.iter().take_while(|&&byte| byte == whole).count();
            next += to_u64(equal) * 8;
            if next >= sectors {
                break;
            }
        }
        if bit_of(next) != is_set {
            break;
        }
        next += 1;
    }
    (is_set, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_bits_start_with_the_least_significant_one() {
        let bitmap = [0b0000_0111, 0xff, 0xff, 0b1000_0000, 0, 0];
        assert_eq!(run_of_bits(&bitmap, 0), (true, 3));
        assert_eq!(run_of_bits(&bitmap, 3), (false, 8));
        assert_eq!(run_of_bits(&bitmap, 9), (true, 24));
        assert_eq!(run_of_bits(&bitmap, 24), (false, 31));
        assert_eq!(run_of_bits(&bitmap, 31), (true, 32));
        assert_eq!(run_of_bits(&bitmap, 40), (false, 48));
    }

    #[test]
    fn the_next_bit_that_is_set_may_be_in_a_later_word() {
        let bits = [0b1000, 0, 1 << 5];
        assert_eq!(next_set(&bits, 0), 3);
        assert_eq!(next_set(&bits, 3), 3);
        assert_eq!(next_set(&bits, 4), 133);
        assert_eq!(next_set(&bits, 134), 192);
        assert_eq!(next_set(&[], 0), 0);
    }
}
