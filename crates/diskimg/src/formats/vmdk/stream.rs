//! The structures that only streamOptimized extents have: markers and the footer.
//!
//! ```text
//!   grain:     ┌ lba: u64 ┬ size: u32 ┬ size bytes of zlib data … padded to a sector
//!   metadata:  ┌ sectors: u64 ┬ 0: u32 ┬ type: u32 ┬ zeros up to 512 ┐ sectors × 512 bytes
//!   progress:  ┌ 0: u64 ┬ 0: u32 ┬ 4: u32 ┬ sector: u64, zeros up to 512 ┐
//!   tail:      ┌ footer marker ┬ footer (SparseExtentHeader) ┬ EOS marker (all zero) ┐
//! ```
//!
//! *Virtual Disk Format 5.0*, "Stream-Optimized Compressed Sparse Extents"
//! (`GrainMarker`, `MetaDataMarker`, `MARKER_EOS`, …).

use super::header::{Flags, GD_AT_END, Header, MAGIC};
use super::{SECTOR, read};
use crate::error::{Error, Result};
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `MARKER_EOS`, `MARKER_GT`, `MARKER_GD`, `MARKER_FOOTER`.
pub(super) const MARKER_EOS: u32 = 0;
pub(super) const MARKER_GT: u32 = 1;
pub(super) const MARKER_GD: u32 = 2;
pub(super) const MARKER_FOOTER: u32 = 3;

/// The marker that VMware's exports write while they find no data, so that the connection stays
/// open. Not in the specification. The sector of the guest that was reached follows the type; no
/// metadata follows the marker.
pub(super) const MARKER_PROGRESS: u32 = 4;

/// Size in bytes of the end of a stream: footer marker, footer and end-of-stream marker.
const TAIL: u64 = 3 * SECTOR;

/// Maximum number of zero bytes after the end of a stream, as transports and block devices append
/// them.
pub(super) const MAX_PADDING: u64 = 64 << 10;

/// The marker before a compressed grain.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct GrainMarker {
    /// First guest sector of the grain.
    pub(super) lba: U64,
    /// Number of bytes of compressed data that follow.
    pub(super) size: U32,
}

impl GrainMarker {
    pub(super) const BYTES: u64 = to_u64(size_of::<Self>());
}

/// The marker before a table, a directory or the footer, and at the end of the stream. A grain
/// marker, in contrast, has a nonzero size.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct MetaDataMarker {
    /// Number of sectors of metadata that follow (in a grain marker: the lba).
    pub(super) value: U64,
    /// 0 (in a grain marker: the size).
    pub(super) size: U32,
    /// One of the `MARKER_` constants.
    pub(super) kind: U32,
}

impl MetaDataMarker {
    /// Returns a marker, padded to a sector.
    pub(super) fn sector(kind: u32, sectors: u64) -> [u8; to_usize(SECTOR)] {
        let marker = Self { value: sectors.into(), size: 0.into(), kind: kind.into() };
        let mut sector = [0; to_usize(SECTOR)];
        sector[..size_of::<Self>()].copy_from_slice(marker.as_bytes());
        sector
    }
}

/// Reads the footer of an extent whose header does not locate the grain directory. Returns it with
/// its host offset.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if the file does not end with a footer, or if header and
/// footer contradict each other; [`Io`](crate::ErrorKind::Io); otherwise as [`Header::parse`].
pub(super) fn read_footer(source: &dyn Source, header: &Header) -> Result<(Header, u64)> {
    // Every structure of a stream is aligned to a sector.
    let start = source.len().saturating_sub(TAIL + MAX_PADDING).next_multiple_of(SECTOR);
    let mut tail = vec![0; to_usize(source.len().saturating_sub(start))];
    read(source, &mut tail, start, "footer")?;
    let Some(found) = find_footer(&tail) else {
        return Err(Error::corrupt(
            "footer",
            "the header refers to a footer, but the file does not end with one",
        )
        .hint("the file is probably truncated by an incomplete transfer"));
    };
    let at = start + to_u64(found);
    let sector = super::read_sector(source, at, "footer")?;
    let footer = Header::parse(&sector, at).map_err(|e| e.in_structure("footer"))?;
    let common = |h: &Header| {
        (h.capacity, h.grain_sectors, h.gtes, h.compressed, h.flags.contains(Flags::MARKERS))
    };
    if common(&footer) != common(header) {
        return Err(Error::corrupt(
            "footer",
            format!(
                "capacity, grain size, table size, compression and markers are {:?} in the \
                 footer, but {:?} in the header",
                common(&footer),
                common(header)
            ),
        )
        .at(at));
    }
    if footer.gd_offset == GD_AT_END {
        return Err(Error::corrupt("footer", "gdOffset refers to another footer").at(at));
    }
    Ok((footer, at))
}

/// Returns the index of the footer in the last bytes of a file. A footer follows a footer marker,
/// and is followed by a whole end-of-stream marker and only zeros.
fn find_footer(tail: &[u8]) -> Option<usize> {
    let last = tail.iter().rposition(|&b| b != 0)?;
    // The end-of-stream marker is all zeros, so the last nonzero byte belongs to the footer.
    let footer = last / to_usize(SECTOR) * to_usize(SECTOR);
    let marker = tail.get(footer.checked_sub(to_usize(SECTOR))?..footer)?;
    let (marker, _) = MetaDataMarker::read_from_prefix(marker).ok()?;
    let complete = footer + 2 * to_usize(SECTOR) <= tail.len();
    let valid = marker.size == 0
        && marker.kind == MARKER_FOOTER
        && tail[footer..].starts_with(&MAGIC)
        && complete;
    valid.then_some(footer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail() -> Vec<u8> {
        let mut tail = vec![0xee; 1024];
        tail.extend(MetaDataMarker::sector(MARKER_FOOTER, 1));
        let mut footer = [0; 512];
        footer[..4].copy_from_slice(&MAGIC);
        footer[77] = 1;
        tail.extend(footer);
        tail.extend(MetaDataMarker::sector(MARKER_EOS, 0));
        tail
    }

    #[test]
    fn a_footer_is_found_between_its_marker_and_zeros() {
        assert_eq!(find_footer(&tail()), Some(1536));
        let mut padded = tail();
        padded.resize(padded.len() + 5000, 0);
        assert_eq!(find_footer(&padded), Some(1536));
    }

    #[test]
    fn an_incomplete_or_damaged_tail_has_no_footer() {
        let whole = tail();
        for cut in [2559, 2048, 2047, 1700, 1536, 1024, 0] {
            assert_eq!(find_footer(&whole[..cut]), None, "cut at {cut}");
        }
        for damage in [1024 + 8, 1024 + 12, 1536, 2048 + 3] {
            let mut tail = tail();
            tail[damage] ^= 0x55;
            assert_eq!(find_footer(&tail), None, "damaged at {damage}");
        }
        assert_eq!(find_footer(&[0; 4096]), None);
    }
}
