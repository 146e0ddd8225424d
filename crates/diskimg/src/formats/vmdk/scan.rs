//! Finding the grains of a stream without its tables, which are at its end or damaged.
//!
//! ```text
//!   ┌ lba, size, zlib ┐┌ lba, size, zlib ┐ damage ┌ lba, size, zlib ┐┌ lba, size, z…  end of file
//!   grain 0            grain 3                    grain 9            cut short
//!                                  lost: grains 4 to 8         lost: grain 10 to the last
//! ```
//!
//! The markers say which grain follows and where the next marker is. Grains that no marker leads to
//! are zeros, unless the walk was interrupted there. After an interruption, every sector is tried;
//! the first grain that is found then must be intact.

use super::SECTOR;
use super::header::Header;
use super::sparse::{GrainMarker, grain_start, is_zlib_header, max_compressed};
use super::stream::{
    MARKER_EOS, MARKER_FOOTER, MARKER_GD, MARKER_GT, MARKER_PROGRESS, MAX_PADDING, MetaDataMarker,
};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::codec::{Codec, Decoder};
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;
use std::ops::Range;
use zerocopy::FromBytes;

/// Maximum number of interruptions after which the walk is continued.
const MAX_INTERRUPTIONS: usize = 1024;

/// Maximum number of grains that are decoded because a marker may be one by chance.
const MAX_CANDIDATES: u32 = 4096;

/// Bytes of grains that are read for this, for each byte of the file. Grains that are found do not
/// overlap.
const READ_PER_BYTE: u64 = 4;

/// Bytes to which such grains may expand, however short the file is.
const MAX_EXPANDED: u64 = 256 << 20;

/// Maximum number of bytes to which deflate expands a byte.
const MAX_RATIO: u64 = 1032;

/// Number of bytes that are read at a time while every sector is tried.
const WINDOW: u64 = 64 << 10;

/// The grains of a stream that were found by their markers.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Number and sector of each grain (`number << 32 | sector`), in ascending order.
    grains: Vec<u64>,
    /// Ranges of the numbers of grains that may be missing, in ascending order, not adjacent.
    lost: Vec<Range<u64>>,
}

impl Scan {
    /// Walks the markers of the stream in `source`.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) if the list of grains would exceed `max_bytes`,
    /// [`Transient`](crate::ErrorKind::Transient) if reading fails and may succeed later. Sectors
    /// that cannot be read are damage.
    pub(super) fn of(source: &dyn Source, header: &Header, max_bytes: u64) -> Result<Self> {
        let mut walk = Walk {
            source,
            header,
            max_bytes,
            grains: Vec::new(),
            end: 0,
            is_ascending: true,
            has_all: false,
            interruptions: Vec::new(),
            candidates: 0,
            read: 0,
            expanded: 0,
            decoder: Decoder::default(),
        };
        walk.run()?;
        Ok(walk.into_scan())
    }

    /// Number of grains.
    pub(super) fn len(&self) -> usize {
        self.grains.len()
    }

    /// Size of the list in bytes.
    pub(super) fn memory(&self) -> u64 {
        to_u64(size_of_val(self.grains.as_slice()))
    }

    /// Returns the sector of a grain's marker.
    pub(super) fn sector(&self, grain: u64) -> Option<u32> {
        let index = self.grains.partition_point(|&entry| entry >> 32 < grain);
        let entry = self.grains.get(index).filter(|&&entry| entry >> 32 == grain)?;
        u32::try_from(entry & u64::from(u32::MAX)).ok()
    }

    /// Returns the range of the numbers of grains that may be missing, which contains `grain`.
    pub(super) fn lost_at(&self, grain: u64) -> Option<Range<u64>> {
        let index = self.lost.partition_point(|range| range.end <= grain);
        self.lost.get(index).filter(|range| range.start <= grain).cloned()
    }

    /// Ranges of the numbers of grains that may be missing.
    pub(super) fn lost(&self) -> &[Range<u64>] {
        &self.lost
    }
}

/// What the marker at an offset says.
enum Step {
    /// A grain, and the offset of the next marker.
    Grain { number: u64, next: u64 },
    /// Something else, and the offset of the next marker.
    Next(u64),
    /// The grain directory, which follows all grains, and the offset of the next marker.
    Directory(u64),
    /// The stream ends here, completely.
    End,
    /// Not a marker, or the file ends before the end of what follows it.
    Interrupted,
}

struct Walk<'a> {
    source: &'a dyn Source,
    header: &'a Header,
    max_bytes: u64,
    /// As [`Scan::grains`], in the order of the stream.
    grains: Vec<u64>,
    /// Number of the last grain, plus 1.
    end: u64,
    /// Whether the grains are in ascending order, so far.
    is_ascending: bool,
    /// Whether the walk has passed the last grain.
    has_all: bool,
    /// Ranges of grains between the last one before and the first one after an interruption.
    interruptions: Vec<Range<u64>>,
    candidates: u32,
    /// Stored bytes of candidates that were read.
    read: u64,
    /// Bytes to which candidates may have expanded.
    expanded: u64,
    decoder: Decoder,
}

impl Walk<'_> {
    fn run(&mut self) -> Result<()> {
        let mut at = self.header.over_head.max(1) * SECTOR;
        // Start of the last marker, after which an interruption may have begun.
        let mut last = at;
        while at + SECTOR <= self.source.len() {
            match self.step(at)? {
                Step::End => return Ok(()),
                Step::Next(next) => (last, at) = (at, next),
                Step::Directory(next) => {
                    self.has_all = true;
                    (last, at) = (at, next);
                }
                Step::Grain { number, next } => {
                    self.add(number, at)?;
                    (last, at) = (at, next);
                }
                Step::Interrupted => {
                    let before = self.end;
                    let from = if last < at { last + SECTOR } else { at + SECTOR };
                    let Some((number, found, next)) = self.search(from)? else { break };
                    self.interruptions.push(before..number);
                    self.add(number, found)?;
                    (last, at) = (found, next);
                }
            }
        }
        if !self.has_all {
            self.interruptions.push(self.end..self.header.grains());
        }
        Ok(())
    }

    /// Adds the grain whose marker is at host offset `at`.
    fn add(&mut self, number: u64, at: u64) -> Result<()> {
        let (Ok(grain), Ok(sector)) = (u32::try_from(number), u32::try_from(at / SECTOR)) else {
            return Ok(());
        };
        if (to_u64(self.grains.len()) + 1) * 8 > self.max_bytes {
            let found = format!("a list of more than {} grains", self.grains.len());
            return Err(Error::over_limit("table_bytes", found, self.max_bytes));
        }
        self.is_ascending &= number >= self.end;
        self.end = number + 1;
        self.grains.push(u64::from(grain) << 32 | u64::from(sector));
        Ok(())
    }

    /// Interprets the sector at `at`.
    fn step(&mut self, at: u64) -> Result<Step> {
        let Some(sector) = self.read(at, SECTOR)? else { return Ok(Step::Interrupted) };
        Ok(self.interpret(&sector, at))
    }

    fn interpret(&self, sector: &[u8], at: u64) -> Step {
        let Ok((marker, _)) = MetaDataMarker::read_from_prefix(sector) else {
            return Step::Interrupted;
        };
        let (value, size) = (marker.value.get(), marker.size.get());
        let metadata = |sectors: u64, step: fn(u64) -> Step| {
            let next = at + SECTOR + sectors * SECTOR;
            let fits = value == sectors && next <= self.source.len();
            if fits { step(next) } else { Step::Interrupted }
        };
        if size > 0 {
            return self.grain(value, size, sector, at);
        }
        match marker.kind.get() {
            MARKER_EOS
                if value == 0 && self.source.len().saturating_sub(at) <= SECTOR + MAX_PADDING =>
            {
                Step::End
            }
            MARKER_GT => metadata(self.header.table_sectors(), Step::Next),
            MARKER_GD => metadata(self.header.directory_sectors(), Step::Directory),
            MARKER_FOOTER => metadata(1, Step::Next),
            MARKER_PROGRESS => Step::Next(at + SECTOR),
            _ => Step::Interrupted,
        }
    }

    fn grain(&self, lba: u64, size: u32, sector: &[u8], at: u64) -> Step {
        let header = self.header;
        let guest = grain_start(lba, header);
        let data = at + GrainMarker::BYTES;
        let size = u64::from(size);
        let is_zlib = match sector[to_usize(GrainMarker::BYTES)..] {
            [cmf, flg, ..] => is_zlib_header(cmf, flg),
            _ => false,
        };
        match guest {
            Some(guest) if is_zlib && size <= max_compressed(header) => {
                let end = data + size;
                match end <= self.source.len() {
                    true => Step::Grain {
                        number: guest / header.grain_bytes(),
                        next: end.next_multiple_of(SECTOR),
                    },
                    false => Step::Interrupted,
                }
            }
            _ => Step::Interrupted,
        }
    }

    /// Searches for an intact grain from `from` on. Returns its number, the offset of its marker
    /// and that of the next marker.
    fn search(&mut self, from: u64) -> Result<Option<(u64, u64, u64)>> {
        if self.interruptions.len() >= MAX_INTERRUPTIONS {
            return Ok(None);
        }
        let mut at = from;
        while at + SECTOR <= self.source.len() {
            let len = WINDOW.min(self.source.len().saturating_sub(at)) / SECTOR * SECTOR;
            let Some(window) = self.read(at, len)? else {
                // A part of it may be readable.
                at += SECTOR;
                continue;
            };
            for (sector, here) in window.chunks_exact(to_usize(SECTOR)).zip((at..).step_by(512)) {
                let Step::Grain { number, next } = self.interpret(sector, here) else { continue };
                if !self.spend(next - here) {
                    return Ok(None);
                }
                if self.is_intact(number, here)? {
                    return Ok(Some((number, here, next)));
                }
            }
            at += len;
        }
        Ok(None)
    }

    /// Counts a candidate of `stored` bytes. Returns false if it is one too many.
    fn spend(&mut self, stored: u64) -> bool {
        let len = self.source.len();
        self.candidates += 1;
        self.read = self.read.saturating_add(stored);
        let expanded = stored.saturating_mul(MAX_RATIO).min(self.header.grain_bytes());
        self.expanded = self.expanded.saturating_add(expanded);
        self.candidates <= MAX_CANDIDATES
            && self.read <= len.saturating_mul(READ_PER_BYTE)
            && self.expanded <= len.saturating_mul(READ_PER_BYTE).max(MAX_EXPANDED)
    }

    /// Decodes the grain whose marker is at `at`.
    fn is_intact(&mut self, number: u64, at: u64) -> Result<bool> {
        let Some(sector) = self.read(at, GrainMarker::BYTES)? else { return Ok(false) };
        let Ok((marker, _)) = GrainMarker::read_from_prefix(&sector) else { return Ok(false) };
        let start = number * self.header.grain_bytes();
        let len = self.header.grain_bytes().min(self.header.capacity * SECTOR - start);
        let mut unit = vec![0; to_usize(len)];
        let stored = self.read(at + GrainMarker::BYTES, marker.size.get().into())?;
        Ok(stored.is_some_and(|s| self.decoder.decode(Codec::Zlib, &s, &mut unit).is_ok()))
    }

    /// Reads `len` bytes; `None` if they cannot be read.
    fn read(&self, at: u64, len: u64) -> Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; to_usize(len)];
        match self.source.read_exact_at(&mut bytes, at) {
            Ok(()) => Ok(Some(bytes)),
            Err(e) => match Error::io("cannot read it", e) {
                e if e.kind() == ErrorKind::Transient => Err(e.in_structure("marker").at(at)),
                _ => Ok(None),
            },
        }
    }

    fn into_scan(self) -> Scan {
        let Self { mut grains, interruptions, is_ascending, header, .. } = self;
        // Of several with the same number, the last one counts.
        grains.reverse();
        grains.sort_by_key(|entry| entry >> 32);
        grains.dedup_by_key(|entry| *entry >> 32);
        // Without an order, any grain may be missing at an interruption.
        let mut lost = match is_ascending || interruptions.is_empty() {
            true => interruptions,
            false => std::iter::once(0..header.grains()).collect(),
        };
        lost.retain(|range| !range.is_empty());
        Scan { grains, lost }
    }
}
