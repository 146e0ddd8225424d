//! Detection of UDF, and location of the volume descriptor sequences.
//!
//! ```text
//!   byte 32768   volume recognition sequence (2/8.3): BEA01, NSR02 or NSR03, TEA01; may follow
//!                ISO 9660 descriptors. One structure per 2048 bytes, or per sector if longer
//!   sector 256, N - 256, N or 512, where N is the last sector
//!                anchor volume descriptor pointer (3/8.4.2.1; UDF, 2.2.3): location of the
//!                volume descriptor sequences
//! ```
//!
//! The sector size is not recorded. It is the one for which an anchor's own location is correct.

use super::raw::{self, id};
use super::tag;
use crate::error::{Error, Result};
use crate::storage::source::Source;
use std::ops::Range;

/// Byte offset of the volume recognition sequence, for any sector size.
const RECOGNITION_START: u64 = 32768;

/// Maximum number of structures of the recognition sequence that are read, including those of ISO
/// 9660.
const MAX_STRUCTURES: u64 = 64;

/// Possible sector sizes, the most common first.
const SECTOR_SIZES: [u32; 7] = [2048, 512, 4096, 1024, 8192, 16384, 32768];

/// Distances of anchors from the end of the image, in sectors: those of the sectors N - 256 and N.
/// Some writers take the number of sectors for N.
const FROM_END: [u64; 3] = [257, 256, 1];

/// An anchor volume descriptor pointer, with lengths and offsets in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Anchor {
    /// Offset of the anchor.
    pub(super) offset: u64,
    /// Sector size.
    pub(super) sector: u32,
    /// Offset and length of the main volume descriptor sequence.
    pub(super) main: (u64, u64),
    /// Offset and length of the reserve volume descriptor sequence.
    pub(super) reserve: (u64, u64),
}

/// Returns the standard identifier in the recognition sequence: "NSR02" or "NSR03".
pub(super) fn standard(source: &dyn Source) -> Result<Option<&'static str>> {
    for index in 0..MAX_STRUCTURES {
        let offset = RECOGNITION_START + index * 2048;
        let mut head = [0; 6];
        if offset + 6 > source.len() {
            break;
        }
        let cannot_read =
            |e| Error::io("cannot read", e).in_structure("volume recognition sequence");
        source.read_exact_at(&mut head, offset).map_err(cannot_read)?;
        match &head[1..] {
            b"NSR02" => return Ok(Some("NSR02")),
            b"NSR03" => return Ok(Some("NSR03")),
            b"TEA01" => break,
            // With longer sectors there are gaps of zeros in the sequence (2/8.3.1).
            b"BEA01" | b"BOOT2" | b"CD001" | b"CDW02" | [0, 0, 0, 0, 0] => {}
            _ => break,
        }
    }
    Ok(None)
}

/// Returns all anchors of the volume, the most likely first.
pub(super) fn anchors(source: &dyn Source) -> Result<Vec<Anchor>> {
    let mut found: Vec<Anchor> = Vec::new();
    for size in SECTOR_SIZES {
        let sectors = source.len() / u64::from(size);
        let from_end = FROM_END.iter().filter_map(|&n| sectors.checked_sub(n));
        for sector in [256].into_iter().chain(from_end).chain([512]) {
            if sector < sectors
                && let Some(anchor) = anchor_at(source, sector, size)?
                && !found.contains(&anchor)
            {
                found.push(anchor);
            }
        }
    }
    Ok(found)
}

/// Returns true if the anchors name several volumes: programs try the sizes of sectors, and the
/// places, in different orders.
///
/// # Errors
/// Returns [`Io`](crate::ErrorKind::Io) if reading fails.
#[cfg(feature = "inspect")]
pub(crate) fn names_several_volumes(source: &dyn Source) -> Result<bool> {
    let anchors = anchors(source)?;
    Ok(anchors.windows(2).any(|pair| {
        let [first, second] = [&pair[0], &pair[1]].map(|anchor| (anchor.sector, anchor.main));
        first != second
    }))
}

/// Returns the first anchor in a range of sectors for which `is_wanted` is true.
pub(super) fn anchor_in(
    source: &dyn Source,
    mut sectors: Range<u64>,
    size: u32,
    is_wanted: impl Fn(&Anchor) -> bool,
) -> Result<Option<Anchor>> {
    sectors.end = sectors.end.min(source.len() / u64::from(size));
    for sector in sectors {
        let found = anchor_at(source, sector, size)?;
        if found.as_ref().is_some_and(&is_wanted) {
            return Ok(found);
        }
    }
    Ok(None)
}

fn anchor_at(source: &dyn Source, sector: u64, size: u32) -> Result<Option<Anchor>> {
    let offset = sector * u64::from(size);
    let mut bytes = [0; 32];
    let cannot_read = |e| Error::io("cannot read", e).in_structure("anchor").at(offset);
    source.read_exact_at(&mut bytes, offset).map_err(cannot_read)?;
    let Some((anchor, _)) = raw::read::<raw::Anchor>(&bytes) else { return Ok(None) };
    let is_valid = tag::tag(&bytes).is_some()
        && anchor.tag.id.get() == id::ANCHOR
        && u64::from(anchor.tag.location.get()) == sector;
    let bytes = |extent: &raw::Extent| {
        (u64::from(extent.location.get()) * u64::from(size), u64::from(extent.length.get()))
    };
    Ok(is_valid.then(|| Anchor {
        offset,
        sector: size,
        main: bytes(&anchor.main),
        reserve: bytes(&anchor.reserve),
    }))
}

#[cfg(test)]
mod tests {
    use super::super::tag::seal;
    use super::*;
    use crate::storage::source::MemorySource;

    fn image(sectors: u64, size: u32, at: &[u64]) -> MemorySource {
        let mut bytes = vec![0; (sectors * u64::from(size)) as usize];
        for &sector in at {
            let start = (sector * u64::from(size)) as usize;
            let anchor = &mut bytes[start..start + 512];
            anchor[16..20].copy_from_slice(&8192u32.to_le_bytes());
            anchor[20..24].copy_from_slice(&32u32.to_le_bytes());
            seal(anchor, id::ANCHOR, sector as u32);
        }
        MemorySource::new(bytes)
    }

    #[test]
    fn an_anchor_is_found_at_each_location_for_every_sector_size() {
        for size in SECTOR_SIZES {
            for sector in [256, 999 - 256, 999 - 255, 999, 512] {
                let found = anchors(&image(1000, size, &[sector])).expect("readable");
                assert_eq!(found.len(), 1, "{sector} of {size}");
                assert_eq!(found[0].sector, size);
                assert_eq!(found[0].main, (32 * u64::from(size), 8192));
            }
            assert_eq!(anchors(&image(1000, size, &[300])).expect("readable"), []);
        }
        assert_eq!(anchors(&MemorySource::new(*b"short")).expect("readable"), []);
    }

    #[test]
    fn the_standard_is_found_after_iso_9660_descriptors_and_with_longer_sectors() {
        let found = |structures: &[(u64, &[u8; 5])]| {
            let mut bytes = vec![0; 32768 + 32 * 2048];
            for (index, name) in structures {
                let start = (32768 + index * 2048) as usize;
                bytes[start + 1..start + 6].copy_from_slice(&name[..]);
            }
            standard(&MemorySource::new(bytes)).expect("readable")
        };
        assert_eq!(found(&[(0, b"BEA01"), (1, b"NSR02"), (2, b"TEA01")]), Some("NSR02"));
        assert_eq!(found(&[(0, b"CD001"), (1, b"CD001"), (3, b"NSR03")]), Some("NSR03"));
        assert_eq!(found(&[(0, b"BEA01"), (2, b"NSR03"), (4, b"TEA01")]), Some("NSR03"));
        assert_eq!(found(&[(0, b"CD001"), (1, b"junk!"), (2, b"NSR03")]), None);
        assert_eq!(found(&[]), None);
    }
}
