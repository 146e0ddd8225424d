//! Raw CD sectors: sync pattern, header and error correction codes around the 2048 bytes of data.
//!
//! ```text
//!   2352  mode 1          12 sync   4 header               2048 data   288 EDC, ECC
//!   2352  mode 2 form 1   12 sync   4 header   8 subheader 2048 data   280 EDC, ECC
//!   2448  either of these, followed by 96 bytes of subchannel data
//!   2336  mode 2 form 1 without sync and header
//! ```
//!
//! See ECMA-130, 14; form 1 and 2 are defined by CD-ROM XA. Form 2 sectors have 2324 bytes of audio
//! or video data without error correction and contain no file system.

use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::{HostFileId, Source, SourceError, check_range, read_if_inside};
use std::path::Path;
use std::sync::Arc;

/// Sync pattern at the start of a raw sector (ECMA-130, 14.1).
const SYNC: [u8; 12] = [0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0];

/// Bit in the third byte of the subheader that indicates form 2.
const FORM_2: u8 = 1 << 5;

/// Maximum number of sectors read at once.
const SECTORS_PER_READ: u64 = 64;

/// Sectors in which a volume descriptor is searched for.
const DESCRIPTORS: std::ops::Range<u64> = 16..18;

/// Layout of a raw sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Length of the sector in bytes.
    raw: u64,
    /// Offset of the 2048 bytes of data.
    data: u64,
    /// Offset of the subheader.
    subheader: Option<u64>,
    /// True if the sector starts with a sync pattern.
    sync: bool,
}

const LAYOUTS: [Layout; 5] = [
    Layout { raw: 2352, data: 16, subheader: None, sync: true },
    Layout { raw: 2352, data: 24, subheader: Some(16), sync: true },
    Layout { raw: 2448, data: 16, subheader: None, sync: true },
    Layout { raw: 2448, data: 24, subheader: Some(16), sync: true },
    Layout { raw: 2336, data: 8, subheader: Some(0), sync: false },
];

/// Returns the layout of the raw sectors whose first bytes are `head`, up to and including the
/// beginning of the first volume descriptor; `None` for anything else.
pub(crate) fn layout_of(head: &[u8]) -> Option<Layout> {
    let slice = |at: u64, len: usize| head.get(to_usize(at)..)?.get(..len);
    let fits = |layout: &&Layout| {
        let first = DESCRIPTORS.start * layout.raw;
        let is_synchronized = |at| slice(at, SYNC.len()).is_some_and(|bytes| bytes == SYNC);
        let is_mode = || slice(first + 15, 1).is_some_and(|mode| mode[0] == layout.mode());
        // The subheader is recorded twice (CD-ROM XA).
        let is_doubled = |at| slice(first + at, 8).is_some_and(|bytes| bytes[..4] == bytes[4..]);
        let valid = match layout.sync {
            true => is_synchronized(0) && is_synchronized(first) && is_mode(),
            false => layout.subheader.is_some_and(is_doubled),
        };
        valid && slice(first + layout.data, 6).is_some_and(is_descriptor_head)
    };
    LAYOUTS.iter().find(fits).copied()
}

/// Returns the data of raw sectors as one sequence of 2048-byte sectors, or `source` itself if it
/// does not consist of raw sectors.
///
/// # Errors
/// Returns [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) if the sector of the first
/// volume descriptor is of mode 2 form 2, [`ErrorKind::Io`](crate::ErrorKind::Io) if reading fails.
pub(crate) fn cooked(source: Arc<dyn Source>) -> Result<Arc<dyn Source>> {
    match layout(&*source)? {
        Some(layout) => Ok(Arc::new(RawSectors::new(source, layout)?)),
        None => Ok(source),
    }
}

/// Returns the layout of the raw sectors in `source`; `None` if it does not consist of raw sectors.
///
/// # Errors
/// As [`cooked`].
pub(crate) fn layout(source: &dyn Source) -> Result<Option<Layout>> {
    for sector in DESCRIPTORS {
        if is_descriptor(source, sector * SECTOR)? {
            return Ok(None);
        }
    }
    for layout in LAYOUTS {
        match layout.fits(source)? {
            Some(true) => return Ok(Some(layout)),
            Some(false) => {
                let what = "mode 2 form 2 sectors, which contain no file system";
                return Err(Error::unsupported(what).at(DESCRIPTORS.start * layout.raw));
            }
            None => {}
        }
    }
    Ok(None)
}

/// Returns true if there is a volume descriptor at byte offset `at` (ECMA-119, 8.1; ECMA-167,
/// 2/9.1).
fn is_descriptor(source: &dyn Source, at: u64) -> Result<bool> {
    let mut head = [0; 6];
    let inside = read(source, &mut head, at)?;
    Ok(inside && is_descriptor_head(&head))
}

/// Returns true if these are the first 6 bytes of a volume descriptor.
fn is_descriptor_head(head: &[u8]) -> bool {
    matches!(&head[1..], b"CD001" | b"BEA01" | b"NSR02" | b"NSR03" | b"CDROM")
}

/// Fills `buf` from the bytes at offset `at`. Returns false if the source ends before that.
pub(super) fn read(source: &dyn Source, buf: &mut [u8], at: u64) -> Result<bool> {
    read_if_inside(source, buf, at).map_err(|e| Error::io("cannot read", e).at(at))
}

impl Layout {
    /// The mode in the header of a sector (ECMA-130, 14.2).
    fn mode(&self) -> u8 {
        if self.subheader.is_some() { 2 } else { 1 }
    }

    /// Returns the length and the mode of a sector, for people.
    pub(crate) fn describe(&self) -> String {
        format!("{} bytes, mode {}", self.raw, self.mode())
    }

    /// Returns `Some(true)` if the source has this layout and form 1 sectors, `Some(false)` if it
    /// has this layout and form 2 sectors, and `None` otherwise.
    fn fits(&self, source: &dyn Source) -> Result<Option<bool>> {
        let first = DESCRIPTORS.start * self.raw;
        let mut head = [0; 24];
        if !read(source, &mut head, first)? {
            return Ok(None);
        }
        // The last byte of the header is the mode.
        if self.sync && (head[..12] != SYNC || head[15] != self.mode()) {
            return Ok(None);
        }
        let mut found = false;
        for sector in DESCRIPTORS {
            found |= is_descriptor(source, sector * self.raw + self.data)?;
        }
        let form_2 = self.subheader.is_some_and(|at| head[to_usize(at) + 2] & FORM_2 != 0);
        // The sync pattern is sufficient, even if there is no volume descriptor.
        Ok((self.sync || found).then_some(!form_2))
    }
}

/// The data of raw sectors, 2048 bytes each.
#[derive(Debug)]
struct RawSectors {
    raw: Arc<dyn Source>,
    layout: Layout,
    sectors: u64,
}

impl RawSectors {
    /// # Errors
    /// Returns [`ErrorKind::Io`](crate::ErrorKind::Io) if reading fails.
    fn new(raw: Arc<dyn Source>, layout: Layout) -> Result<Self> {
        // The last sector may end after its data.
        let (whole, rest) = (raw.len() / layout.raw, raw.len() % layout.raw);
        let sectors = whole + u64::from(rest >= layout.data + SECTOR);
        let mut track = Self { raw, layout, sectors };
        if let Some(end) = track.end_of_volume()?.filter(|&end| end < sectors)
            && !track.is_data(end)?
        {
            track.sectors = end;
        }
        Ok(track)
    }

    /// Returns the number of the sector after the volume; `None` without a primary volume
    /// descriptor (ECMA-119, 8.4).
    fn end_of_volume(&self) -> Result<Option<u64>> {
        let mut descriptor = [0; 132];
        let at = DESCRIPTORS.start * self.layout.raw + self.layout.data;
        if !read(&*self.raw, &mut descriptor, at)? || !descriptor.starts_with(b"\x01CD001") {
            return Ok(None);
        }
        let blocks = u32::from_le_bytes([80, 81, 82, 83].map(|i| descriptor[i]));
        let block = u16::from_le_bytes([128, 129].map(|i| descriptor[i]));
        Ok(Some((u64::from(blocks) * u64::from(block)).div_ceil(SECTOR)))
    }

    /// Returns false for a sector of an audio track, which may follow the data track.
    fn is_data(&self, sector: u64) -> Result<bool> {
        let mut head = [0; 16];
        let inside = read(&*self.raw, &mut head, sector * self.layout.raw)?;
        Ok(!self.layout.sync || (inside && head[..12] == SYNC && head[15] == self.layout.mode()))
    }

    /// Returns the 2048 bytes of data of a raw sector.
    fn data<'a>(&self, sector: &'a [u8], number: u64) -> Result<&'a [u8]> {
        let Layout { data, subheader, .. } = self.layout;
        if subheader.is_some_and(|at| sector[to_usize(at) + 2] & FORM_2 != 0) {
            let what = format!("sector {number} is a mode 2 form 2 sector; expected form 1");
            return Err(Error::corrupt("raw sector", what));
        }
        Ok(&sector[to_usize(data)..][..to_usize(SECTOR)])
    }
}

impl Source for RawSectors {
    fn len(&self) -> u64 {
        self.sectors * SECTOR
    }

    fn path(&self) -> Option<&Path> {
        self.raw.path()
    }

    fn identity(&self) -> Option<HostFileId> {
        self.raw.identity()
    }

    fn identities(&self) -> Vec<HostFileId> {
        self.raw.identities()
    }

    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> Result<(), SourceError> {
        check_range(offset, buf.len(), self.len())?;
        let Layout { raw, data, .. } = self.layout;
        let mut bytes = Vec::new();
        while !buf.is_empty() {
            let first = offset / SECTOR;
            let end = (offset + to_u64(buf.len())).div_ceil(SECTOR).min(first + SECTORS_PER_READ);
            // The last sector of the source may end after its data.
            let len = (end - first - 1) * raw + data + SECTOR;
            bytes.resize(to_usize(len), 0);
            self.raw.read_exact_at(&mut bytes, first * raw)?;
            for (sector, number) in bytes.chunks(to_usize(raw)).zip(first..) {
                let inside = to_usize(offset % SECTOR);
                let sector = &self.data(sector, number)?[inside..];
                let (now, later) = buf.split_at_mut(buf.len().min(sector.len()));
                now.copy_from_slice(&sector[..now.len()]);
                offset += to_u64(now.len());
                buf = later;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::source::MemorySource;

    /// Returns twenty sectors, with the identifier of a volume descriptor in sector 16.
    fn plain() -> Vec<u8> {
        let mut plain: Vec<u8> = (0..20 * 2048u32).map(|n| (n / 7) as u8).collect();
        plain[16 * 2048 + 1..][..5].copy_from_slice(b"CD001");
        plain
    }

    fn raw(plain: &[u8], layout: Layout) -> Vec<u8> {
        let mut bytes = Vec::new();
        for sector in plain.chunks(2048) {
            let start = bytes.len();
            bytes.resize(start + layout.raw as usize, 0xee);
            let raw = &mut bytes[start..];
            if layout.sync {
                raw[..12].copy_from_slice(&SYNC);
                raw[15] = if layout.subheader.is_some() { 2 } else { 1 };
            }
            if let Some(at) = layout.subheader {
                raw[at as usize..][..8].copy_from_slice(&[0, 0, 8, 0, 0, 0, 8, 0]);
            }
            raw[layout.data as usize..][..2048].copy_from_slice(sector);
        }
        bytes
    }

    fn cook(bytes: Vec<u8>) -> Result<Arc<dyn Source>> {
        cooked(Arc::new(MemorySource::new(bytes)))
    }

    #[test]
    fn every_layout_reads_as_the_plain_image() {
        let plain = plain();
        for layout in LAYOUTS {
            let source = cook(raw(&plain, layout)).expect("cooks");
            assert_eq!(source.len(), plain.len() as u64, "{layout:?}");
            for (start, end) in [(0, plain.len()), (2047, 2049), (5000, 30000), (4096, 6144)] {
                let mut buf = vec![0; end - start];
                source.read_exact_at(&mut buf, start as u64).expect("inside");
                assert!(buf == plain[start..end], "{start}..{end} of {layout:?}");
            }
            source.read_exact_at(&mut [0; 2], source.len() - 1).expect_err("past the end");
        }
    }

    #[test]
    fn the_layout_is_recognized_by_the_first_bytes() {
        let plain = plain();
        for layout in LAYOUTS {
            let mut bytes = raw(&plain, layout);
            bytes.truncate(40 << 10);
            assert_eq!(layout_of(&bytes), Some(layout));
            bytes[16 * layout.raw as usize + layout.data as usize + 3] ^= 1;
            assert_eq!(layout_of(&bytes), None, "no volume descriptor");
        }
        assert_eq!(layout_of(&plain), None);
        let mut unsynchronized = raw(&plain, LAYOUTS[0]);
        unsynchronized[5] = 0;
        assert_eq!(layout_of(&unsynchronized), None);
    }

    #[test]
    fn audio_tracks_after_the_volume_are_left_out() {
        let mut plain = plain();
        plain[16 * 2048] = 1;
        plain[16 * 2048 + 80..][..4].copy_from_slice(&20u32.to_le_bytes());
        plain[16 * 2048 + 128..][..2].copy_from_slice(&2048u16.to_le_bytes());
        for layout in LAYOUTS.into_iter().filter(|layout| layout.sync) {
            let mut bytes = raw(&plain, layout);
            bytes.resize(bytes.len() + 10 * layout.raw as usize, 0x55);
            assert_eq!(cook(bytes).expect("cooks").len(), plain.len() as u64, "audio");
            let mut longer = plain.clone();
            longer.resize(30 * 2048, 0x55);
            let cooked = cook(raw(&longer, layout)).expect("cooks");
            assert_eq!(cooked.len(), longer.len() as u64, "data after the volume");
        }
    }

    #[test]
    fn a_read_may_span_more_sectors_than_are_read_at_once() {
        let mut plain = plain();
        plain.resize(300 * 2048, 5);
        let source = cook(raw(&plain, LAYOUTS[0])).expect("cooks");
        let mut buf = vec![0; plain.len() - 100];
        source.read_exact_at(&mut buf, 50).expect("inside");
        assert!(buf == plain[50..plain.len() - 50]);
    }

    #[test]
    fn plain_images_and_unknown_data_are_returned_unchanged() {
        for bytes in [plain(), vec![0; 100_000], b"short".to_vec()] {
            let source: Arc<dyn Source> = Arc::new(MemorySource::new(bytes));
            let same = cooked(source.clone()).expect("cooks");
            assert!(Arc::ptr_eq(&source, &same));
        }
    }

    #[test]
    fn form_2_is_an_error_on_opening_or_when_the_sector_is_read() {
        let form_1 = raw(&plain(), LAYOUTS[1]);
        let mut bytes = form_1.clone();
        bytes[16 * 2352 + 18] |= FORM_2;
        cook(bytes).expect_err("in the sector of the first volume descriptor");
        let mut bytes = form_1;
        bytes[3 * 2352 + 18] |= FORM_2;
        let source = cook(bytes).expect("cooks");
        source.read_exact_at(&mut [0; 2048], 2 * 2048).expect("form 1");
        source.read_exact_at(&mut [0; 2], 4 * 2048 - 1).expect_err("form 2");
    }

    #[test]
    fn the_last_sector_may_end_with_its_data() {
        let plain = plain();
        for layout in LAYOUTS {
            let mut bytes = raw(&plain, layout);
            bytes.truncate(bytes.len() - (layout.raw - layout.data - 2048) as usize);
            let source = cook(bytes.clone()).expect("cooks");
            let mut buf = vec![0; plain.len()];
            source.read_exact_at(&mut buf, 0).expect("inside");
            assert!(buf == plain);
            bytes.pop();
            assert_eq!(cook(bytes).expect("cooks").len(), plain.len() as u64 - 2048);
        }
    }
}
