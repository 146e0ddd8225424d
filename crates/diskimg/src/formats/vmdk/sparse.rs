//! A hosted sparse extent: from a grain to where it is.
//!
//! ```text
//!   guest offset ──► grain directory ──► grain table ──► grain
//!                    u32 per table       u32 per grain   sector × 512
//!                    (in memory)         (on demand)
//!   0: nobody wrote it, the parent answers      1: zeros (zeroed-grain flag)
//! ```
//!
//! *Virtual Disk Format 5.0*, "Hosted Sparse Extents": a directory entry is the
//! sector of a grain table, a table entry the sector of a grain.

use super::header::{GD_AT_END, Header};
use super::stream::{self, GrainMarker};
use super::{SECTOR, read, read_sector};
use crate::host::codec::Codec;
use crate::host::lock;
use crate::host::source::Source;
use crate::vocabulary::error::{Error, Result};
use crate::vocabulary::extent::{Encoded, Extent, Kind, Place, push};
use crate::vocabulary::limits::Limits;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use zerocopy::IntoBytes;

/// Grain tables kept in memory: 16 of them speak for 512 MiB.
const CACHED_TABLES: usize = 16;

/// How far a compressed grain may exceed twice its size. Deflate does not
/// expand by more than a few bytes; QEMU too reads two grains at most.
const COMPRESSED_SLACK: u64 = 4096;

/// A table entry that stands for zeros, where the header allows it.
pub(super) const GTE_ZEROED: u32 = 1;

/// One sparse extent. Guest offsets count from its own first byte.
#[derive(Debug)]
pub(super) struct SparseExtent {
    source: Arc<dyn Source>,
    /// The footer's, where that counts.
    header: Header,
    /// Host offset where the stream's footer is.
    footer_at: Option<u64>,
    /// Sectors of grain tables; entries the primary directory has wrong are
    /// the redundant one's.
    directory: Vec<u32>,
    /// How many those are.
    replaced: u64,
    tables: Mutex<Vec<(u64, Arc<[u32]>)>>,
}

impl SparseExtent {
    /// Opens the extent whose header is the first sector of `source`.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if neither directory can be read;
    /// as [`Header::parse`] and [`stream::read_footer`].
    pub(super) fn open(source: Arc<dyn Source>, header: Header, limits: &Limits) -> Result<Self> {
        if header.over_head * SECTOR > source.len() {
            return Err(Error::corrupt(
                "VMDK header",
                format!(
                    "the first grain is at {}, behind the end of the file at {}",
                    header.over_head * SECTOR,
                    source.len()
                ),
            )
            .at(0)
            .hint("the file is probably truncated"));
        }
        let (header, footer_at) = if header.gd_offset == GD_AT_END {
            let (footer, at) = stream::read_footer(&*source, &header)?;
            (footer, Some(at))
        } else {
            (header, None)
        };
        let mut extent = Self {
            source,
            header,
            footer_at,
            directory: Vec::new(),
            replaced: 0,
            tables: Mutex::default(),
        };
        extent.load_directory(limits)?;
        Ok(extent)
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

    pub(super) fn directory(&self) -> &[u32] {
        &self.directory
    }

    /// Directory entries that had to be taken from the redundant directory.
    pub(super) fn replaced(&self) -> u64 {
        self.replaced
    }

    /// Guest bytes.
    pub(super) fn size(&self) -> u64 {
        self.header.capacity * SECTOR
    }

    fn load_directory(&mut self, limits: &Limits) -> Result<()> {
        let bytes = self.header.tables().saturating_mul(4);
        if bytes > limits.table_bytes {
            return Err(Error::limit(format!(
                "a grain directory of {bytes} bytes; at most {} are allowed",
                limits.table_bytes
            ))
            .in_structure("VMDK header"));
        }
        let redundant = match self.header.redundant() {
            Some(sector) => {
                self.read_entries(sector, self.header.tables(), "redundant directory").ok()
            }
            None => None,
        };
        let primary =
            self.read_entries(self.header.gd_offset, self.header.tables(), "grain directory");
        self.directory = match (primary, redundant) {
            (Ok(mut primary), Some(redundant)) => {
                self.replaced = self.mend(&mut primary, &redundant);
                primary
            }
            (Ok(primary), None) => primary,
            (Err(_), Some(redundant)) => {
                self.replaced = redundant.len() as u64;
                redundant
            }
            (Err(error), None) => return Err(error),
        };
        Ok(())
    }

    /// Takes from `redundant` what cannot be right in `primary`.
    fn mend(&self, primary: &mut [u32], redundant: &[u32]) -> u64 {
        let mut mended = 0;
        for (entry, &other) in primary.iter_mut().zip(redundant) {
            if !self.table_fits(*entry) && other != 0 && self.table_fits(other) {
                *entry = other;
                mended += 1;
            }
        }
        mended
    }

    fn table_fits(&self, sector: u32) -> bool {
        sector == 0 || u64::from(sector) * SECTOR + self.table_bytes() <= self.source.len()
    }

    fn table_bytes(&self) -> u64 {
        u64::from(self.header.gtes) * 4
    }

    /// Reads `count` entries from a directory or a table at `sector`.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if they leave the file.
    pub(super) fn read_entries(
        &self,
        sector: u64,
        count: u64,
        structure: &'static str,
    ) -> Result<Vec<u32>> {
        let (at, bytes) = (sector.saturating_mul(SECTOR), count.saturating_mul(4));
        let end = at.checked_add(bytes);
        if sector == 0 || end.is_none_or(|end| end > self.source.len()) {
            return Err(Error::corrupt(
                structure,
                format!(
                    "{bytes} bytes of it would leave the file, which ends at {:#x}",
                    self.source.len()
                ),
            )
            .at(at)
            .hint("the file is probably truncated"));
        }
        let mut entries = vec![0u32; count as usize];
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

    /// The grain table for a directory entry that is not 0.
    fn table(&self, index: u64, sector: u32) -> Result<Arc<[u32]>> {
        if let Some(table) = self.cached(index) {
            return Ok(table);
        }
        let table: Arc<[u32]> = self.read_table(sector)?.into();
        let mut tables = lock(&self.tables);
        tables.truncate(CACHED_TABLES - 1);
        tables.insert(0, (index, Arc::clone(&table)));
        Ok(table)
    }

    /// The table entry for the grain at a guest offset.
    ///
    /// # Errors
    /// As [`read_entries`](Self::read_entries).
    pub(super) fn entry(&self, guest: u64) -> Result<u32> {
        let index = guest / self.header.table_cover();
        match self.directory[index as usize] {
            0 => Ok(0),
            sector => {
                let table = self.table(index, sector)?;
                Ok(table[(guest / self.header.grain_bytes()) as usize % table.len()])
            }
        }
    }

    fn cached(&self, index: u64) -> Option<Arc<[u32]>> {
        let mut tables = lock(&self.tables);
        let found = tables.iter().position(|(i, _)| *i == index)?;
        tables[..=found].rotate_right(1);
        Some(Arc::clone(&tables[0].1))
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
            match self.directory[index as usize] {
                0 => push(out, base + at..base + end, Kind::Parent),
                sector => {
                    let table = self.table(index, sector)?;
                    self.map_table(&table, at..end, base, file, out)?;
                }
            }
            at = end;
        }
        Ok(())
    }

    fn map_table(
        &self,
        table: &[u32],
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
            let entry = table[(start / grain_bytes) as usize % table.len()];
            let kind = self.grain(entry, &grain, base, file)?.forward(at - start);
            push(out, base + at..base + end, kind);
            at = end;
        }
        Ok(())
    }

    /// What a table entry says about a grain; the disk's last one may be short.
    fn grain(&self, entry: u32, grain: &Range<u64>, base: u64, file: usize) -> Result<Kind> {
        match entry {
            0 => return Ok(Kind::Parent),
            GTE_ZEROED if self.header.zeroed_grains() => return Ok(Kind::Zero(None)),
            _ => {}
        }
        let offset = u64::from(entry) * SECTOR;
        let broken = |message: String| {
            let place = format!("{message} (grain of guest offset {:#x})", base + grain.start);
            Error::corrupt("grain", place).at(offset)
        };
        if u64::from(entry) < self.header.over_head.min(2) {
            return Err(broken("its table points at the header".into()));
        }
        if self.header.compressed {
            let (skip, stored) = self.compressed_grain(offset, grain).map_err(broken)?;
            return Ok(Kind::Encoded(Encoded {
                place: Place { file, offset: offset + skip },
                stored,
                unit: base + grain.start..base + grain.end,
                codec: Codec::Zlib,
            }));
        }
        if offset + (grain.end - grain.start) > self.source.len() {
            let end = self.source.len();
            return Err(broken(format!("it leaves the file, which ends at {end:#x}"))
                .hint("the file is probably truncated"));
        }
        Ok(Kind::Data(Place { file, offset }))
    }

    /// Bytes to skip before the zlib stream at `offset`, and its bytes.
    fn compressed_grain(&self, offset: u64, grain: &Range<u64>) -> Result<(u64, u32), String> {
        let mut bytes = [0; GrainMarker::BYTES as usize];
        self.source
            .read_exact_at(&mut bytes, offset)
            .map_err(|e| format!("cannot read its marker: {e}"))?;
        let most = self.header.grain_bytes() * 2 + COMPRESSED_SLACK;
        let left = self.source.len() - offset;
        let bounded = |size: u32, skip: u64| {
            let size = u64::from(size);
            if size == 0 || size > most {
                return Err(format!("a compressed size of {size} bytes; 1 to {most} are allowed"));
            }
            if size > left - skip {
                return Err(format!("{size} compressed bytes leave the file; it is truncated"));
            }
            Ok((skip, size as u32))
        };
        if self.has_markers() {
            let marker: GrainMarker = zerocopy::transmute!(bytes);
            let (lba, wanted) = (marker.lba.get(), grain.start / SECTOR);
            if lba != wanted {
                return Err(format!("its marker says sector {lba}, its table {wanted}"));
            }
            return bounded(marker.size.get(), GrainMarker::BYTES);
        }
        // Without markers the specification says nothing. VMware's own tools
        // put the size in front of the data, QEMU reads the data alone: see
        // where a zlib header is. (Bare data whose bytes 4 and 5 look like one
        // would have to start with an empty stored block of odd length.)
        let [a, b, c, d, e, f, ..] = bytes;
        let sized = bounded(u32::from_le_bytes([a, b, c, d]), 4);
        match (is_zlib_header(e, f), is_zlib_header(a, b)) {
            (true, _) if sized.is_ok() => sized,
            // The stream knows its own end.
            (_, true) => Ok((0, most.min(left) as u32)),
            _ => Err("no zlib stream".into()),
        }
    }

    fn has_markers(&self) -> bool {
        self.header.flags.contains(super::header::Flags::MARKERS)
    }
}

/// `CMF` and `FLG` of RFC 1950: deflate, a window of at most 32 KiB, and the
/// check bits right.
fn is_zlib_header(cmf: u8, flg: u8) -> bool {
    cmf & 0x0f == 8 && cmf >> 4 <= 7 && u16::from_be_bytes([cmf, flg]).is_multiple_of(31)
}

/// Reads the header of the sparse extent in `source`.
///
/// # Errors
/// As [`Header::parse`].
pub(super) fn read_header(source: &dyn Source) -> Result<Header> {
    Header::parse(&read_sector(source, 0, "VMDK header")?, 0)
}
