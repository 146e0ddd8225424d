//! Raw sectors: images as they come from a drive, with what stands around the 2048 bytes.
//!
//! ```text
//!   2352  mode 1          12 sync   4 header              2048 data   288 EDC, ECC
//!   2352  mode 2 form 1   12 sync   4 header   8 subheader 2048 data   280 EDC, ECC
//!   2448  either, and 96 bytes of subchannel behind it
//!   2336  mode 2 form 1 without sync and header
//! ```
//!
//! (ECMA-130, 14; form 1 and 2: the CD-ROM XA specification.) Form 2 holds 2324 bytes, of sound
//! or pictures, without error correction; no file system is in it.

use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::{Source, check_range};
use std::io;
use std::sync::Arc;

/// What a raw sector begins with (ECMA-130, 14.1).
const SYNC: [u8; 12] = [0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0];

/// The bit of a subheader's third byte that means form 2.
const FORM_2: u8 = 1 << 5;

/// Sectors that are read together.
const AT_ONCE: u64 = 64;

/// Sectors that are searched for a volume descriptor's name.
const DESCRIPTORS: std::ops::Range<u64> = 16..18;

/// How raw sectors are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    /// Bytes from one sector to the next.
    raw: u64,
    /// Where the 2048 bytes start in it.
    data: u64,
    /// Where the subheader starts in it.
    subheader: Option<u64>,
    /// True if there is a sync pattern.
    sync: bool,
}

const LAYOUTS: [Layout; 5] = [
    Layout { raw: 2352, data: 16, subheader: None, sync: true },
    Layout { raw: 2352, data: 24, subheader: Some(16), sync: true },
    Layout { raw: 2448, data: 16, subheader: None, sync: true },
    Layout { raw: 2448, data: 24, subheader: Some(16), sync: true },
    Layout { raw: 2336, data: 8, subheader: Some(0), sync: false },
];

/// The sectors' 2048 bytes, one after the other; `source` itself if there is nothing around them.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) if the sectors that should hold the
/// volume descriptors are of mode 2 form 2.
pub(crate) fn cooked(source: Arc<dyn Source>) -> Result<Arc<dyn Source>> {
    if DESCRIPTORS.into_iter().any(|sector| is_descriptor(&*source, sector * SECTOR)) {
        return Ok(source);
    }
    for layout in LAYOUTS {
        match layout.fits(&*source)? {
            Some(true) => return Ok(Arc::new(RawSectors::new(source, layout))),
            Some(false) => {
                let what = "sectors of mode 2 form 2 hold no file system";
                return Err(Error::unsupported(what).at(DESCRIPTORS.start * layout.raw));
            }
            None => {}
        }
    }
    Ok(source)
}

/// True if a volume descriptor (ECMA-119, 8.1; ECMA-167, 2/9.1) starts there.
fn is_descriptor(source: &dyn Source, at: u64) -> bool {
    let mut head = [0; 6];
    source.read_exact_at(&mut head, at).is_ok()
        && matches!(&head[1..], b"CD001" | b"BEA01" | b"NSR02" | b"NSR03" | b"CDROM")
}

impl Layout {
    /// `None` if the source is not laid out so; false if it is, and of form 2.
    fn fits(&self, source: &dyn Source) -> Result<Option<bool>> {
        let first = DESCRIPTORS.start * self.raw;
        let mut head = [0; 24];
        match source.read_exact_at(&mut head, first) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(Error::io("cannot read", e).at(first)),
        }
        // The header's last byte is the mode (ECMA-130, 14.2).
        let mode = if self.subheader.is_some() { 2 } else { 1 };
        if self.sync && (head[..12] != SYNC || head[15] != mode) {
            return Ok(None);
        }
        let found =
            DESCRIPTORS.into_iter().any(|n| is_descriptor(source, n * self.raw + self.data));
        let form_2 = self.subheader.is_some_and(|at| head[to_usize(at) + 2] & FORM_2 != 0);
        // The pattern alone says that these are raw sectors, whatever is in them.
        Ok((self.sync || found).then_some(!form_2))
    }
}

/// Raw sectors, read as 2048 bytes each.
#[derive(Debug)]
struct RawSectors {
    raw: Arc<dyn Source>,
    layout: Layout,
    sectors: u64,
}

impl RawSectors {
    fn new(raw: Arc<dyn Source>, layout: Layout) -> Self {
        // The last one may lack what stands behind its data.
        let (whole, rest) = (raw.len() / layout.raw, raw.len() % layout.raw);
        let sectors = whole + u64::from(rest >= layout.data + SECTOR);
        Self { raw, layout, sectors }
    }

    /// The 2048 bytes of a raw sector.
    fn data<'a>(&self, sector: &'a [u8], number: u64) -> io::Result<&'a [u8]> {
        let Layout { data, subheader, .. } = self.layout;
        if subheader.is_some_and(|at| sector[to_usize(at) + 2] & FORM_2 != 0) {
            let what = format!("sector {number} is of mode 2 form 2, which holds no file system");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(&sector[to_usize(data)..][..to_usize(SECTOR)])
    }
}

impl Source for RawSectors {
    fn len(&self) -> u64 {
        self.sectors * SECTOR
    }

    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        check_range(offset, buf.len(), self.len())?;
        let Layout { raw, data, .. } = self.layout;
        let mut bytes = Vec::new();
        while !buf.is_empty() {
            let first = offset / SECTOR;
            let end = (offset + to_u64(buf.len())).div_ceil(SECTOR).min(first + AT_ONCE);
            // Of the last one no more than is wanted: it may be cut behind its data.
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

    /// Twenty sectors, with a volume descriptor's name in the 17th.
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
            source.read_exact_at(&mut [0; 2], source.len() - 1).expect_err("behind the end");
        }
    }

    #[test]
    fn more_sectors_than_are_read_at_once() {
        let mut plain = plain();
        plain.resize(300 * 2048, 5);
        let source = cook(raw(&plain, LAYOUTS[0])).expect("cooks");
        let mut buf = vec![0; plain.len() - 100];
        source.read_exact_at(&mut buf, 50).expect("inside");
        assert!(buf == plain[50..plain.len() - 50]);
    }

    #[test]
    fn what_is_plain_or_nothing_known_stays_as_it_is() {
        for bytes in [plain(), vec![0; 100_000], b"short".to_vec()] {
            let source: Arc<dyn Source> = Arc::new(MemorySource::new(bytes));
            let same = cooked(source.clone()).expect("cooks");
            assert!(Arc::ptr_eq(&source, &same));
        }
    }

    #[test]
    fn form_2_is_refused_at_once_or_where_it_is_met() {
        let right = raw(&plain(), LAYOUTS[1]);
        let mut bytes = right.clone();
        bytes[16 * 2352 + 18] |= FORM_2;
        cook(bytes).expect_err("where descriptors should be");
        let mut bytes = right;
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
