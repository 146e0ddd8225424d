//! The header.
//!
//! ```text
//!    0 "QED\0"              4 cluster_size          8 table_size    12 header_size
//!   16 features            24 compat_features      32 autoclear_features
//!   40 l1_table_offset     48 image_size
//!   56 backing_filename_offset                     60 backing_filename_size
//! ```
//!
//! The last two are ranges of the header, whose size is `header_size` clusters. All features are
//! bits; a program must not open an image with features that it does not know, and clears unknown
//! autoclear features when it modifies an image.

use super::{SECTOR, TABLES};
use crate::error::{Error, Result};
use crate::formats::two_level::{Layout, Location};
use crate::storage::number::{to_u32, to_u64, to_usize};
use crate::storage::source::Source;
use bitflags::bitflags;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// How errors call the header.
pub(super) const HEADER: &str = "QED header";

pub(super) const MAGIC: [u8; 4] = *b"QED\0";

/// Smallest and largest size of a cluster in bytes.
pub(super) const CLUSTER_SIZES: [u64; 2] = [4 << 10, 64 << 20];

/// Largest size of a table in clusters.
pub(super) const MAX_TABLE_SIZE: u64 = 16;

/// Maximum length in bytes of a backing file's name: QEMU's limit.
pub(super) const MAX_BACKING_NAME: u32 = 1023;

/// Host offset of the fields for features.
pub(super) const FEATURES_AT: u64 = 16;

/// Host offset of the size of the disk.
pub(super) const SIZE_AT: u64 = 48;

bitflags! {
    /// Features that a program must support to open the image.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Features: u64 {
        /// The image has a backing file.
        const BACKING_FILE = 1 << 0;
        /// The image was not closed properly.
        const NEED_CHECK = 1 << 1;
        /// The backing file is a raw disk and must not be probed.
        const BACKING_IS_RAW = 1 << 2;
    }
}

/// The header as stored.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawHeader {
    pub(super) magic: [u8; 4],
    /// Size of a cluster in bytes.
    pub(super) cluster_size: U32,
    /// Size of the L1 table and of an L2 table in clusters.
    pub(super) table_size: U32,
    /// Size of the header in clusters.
    pub(super) header_size: U32,
    pub(super) features: U64,
    pub(super) compat_features: U64,
    pub(super) autoclear_features: U64,
    pub(super) l1_table_offset: U64,
    /// Size of the disk in bytes.
    pub(super) image_size: U64,
    pub(super) backing_filename_offset: U32,
    pub(super) backing_filename_size: U32,
}

impl RawHeader {
    pub(super) const BYTES: usize = 64;
}

const _: () = assert!(size_of::<RawHeader>() == RawHeader::BYTES);

/// A validated header.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub(super) location: Location,
    pub(super) features: Features,
    /// Name of the backing file.
    pub(super) backing: Option<String>,
}

/// Returns the dimensions of tables, if an image can have clusters of this many bytes and tables of
/// this many clusters.
pub(super) fn layout(cluster_size: u64, table_size: u64) -> Result<Layout> {
    let [min, max] = CLUSTER_SIZES;
    if !(min..=max).contains(&cluster_size) || !cluster_size.is_power_of_two() {
        let range = format!("QED cluster size must be within range [{min}, {max}] and power of 2");
        return Err(Error::invalid(range));
    }
    if !(1..=MAX_TABLE_SIZE).contains(&table_size) || !table_size.is_power_of_two() {
        let message =
            format!("QED table size must be within range [1, {MAX_TABLE_SIZE}] and power of 2");
        return Err(Error::invalid(message));
    }
    let entries = cluster_size * table_size / 8;
    let (cluster_bits, table_bits) = (cluster_size.trailing_zeros(), entries.trailing_zeros());
    Ok(Layout { format: &TABLES, cluster_bits, table_bits })
}

/// Returns the size in bytes of the largest disk with these tables.
pub(super) fn max_size(layout: Layout) -> u64 {
    let bits = layout.table_bits + layout.l1_shift();
    if bits < 63 { 1 << bits } else { u64::MAX >> 1 & !(SECTOR - 1) }
}

impl Header {
    /// Reads the header.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if a value is invalid,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for unknown features,
    /// [`Io`](crate::ErrorKind::Io) if it cannot be read.
    pub(super) fn read(source: &dyn Source) -> Result<Self> {
        let raw = read_raw(source)?;
        let corrupt = |at: u64, message: String| Error::corrupt(HEADER, message).at(at);
        if raw.magic != MAGIC {
            return Err(corrupt(0, "the file does not start with \"QED\\0\"".into()));
        }
        let features = Features::from_bits(raw.features.get()).ok_or_else(|| {
            let unknown = raw.features.get() & !Features::all().bits();
            let message = format!("unknown incompatible features {unknown:#x}");
            Error::unsupported(message).in_structure(HEADER).at(FEATURES_AT)
        })?;
        let cluster_size = u64::from(raw.cluster_size.get());
        let layout = layout(cluster_size, raw.table_size.get().into())
            .map_err(|error| corrupt(4, error.to_string()))?;
        let header_size = u64::from(raw.header_size.get());
        if header_size == 0 || header_size > source.len() / cluster_size {
            let message = format!("the header has {header_size} clusters of {cluster_size} bytes");
            return Err(corrupt(12, message).hint("the file is probably truncated"));
        }
        let (size, max) = (raw.image_size.get(), max_size(layout));
        if !size.is_multiple_of(SECTOR) || size > max {
            let message = format!(
                "a disk of {size} bytes; expected a multiple of {SECTOR}, at most {max} with this \
                 size of tables"
            );
            return Err(corrupt(48, message));
        }
        let (header_end, l1_at) = (header_size * cluster_size, raw.l1_table_offset.get());
        if !l1_at.is_multiple_of(cluster_size) || l1_at < header_end {
            let message = format!("the L1 table at {l1_at:#x} is unaligned or in the header");
            return Err(corrupt(40, message));
        }
        let backing = match features.contains(Features::BACKING_FILE) {
            true => Some(backing_name(&raw, header_end, source)?),
            false => None,
        };
        let location = Location { layout, size, header_end, l1_at, l1_bytes: layout.table_bytes() };
        Ok(Self { location, features, backing })
    }

    /// Returns the bytes of the header of a new image.
    pub(super) fn encode(&self) -> Vec<u8> {
        let layout = self.location.layout;
        let name = self.backing.as_deref().unwrap_or_default();
        let raw = RawHeader {
            magic: MAGIC,
            cluster_size: to_u32(layout.cluster_size()).into(),
            table_size: to_u32(layout.table_bytes() / layout.cluster_size()).into(),
            header_size: to_u32(self.location.header_end / layout.cluster_size()).into(),
            features: self.features.bits().into(),
            compat_features: 0.into(),
            autoclear_features: 0.into(),
            l1_table_offset: self.location.l1_at.into(),
            image_size: self.location.size.into(),
            backing_filename_offset: match name.is_empty() {
                true => 0,
                false => to_u32(RawHeader::BYTES),
            }
            .into(),
            backing_filename_size: to_u32(name.len()).into(),
        };
        [raw.as_bytes(), name.as_bytes()].concat()
    }
}

fn read_raw(source: &dyn Source) -> Result<RawHeader> {
    let mut bytes = [0; RawHeader::BYTES];
    if source.len() < to_u64(bytes.len()) {
        return Err(Error::corrupt(HEADER, "the file ends within it"));
    }
    source
        .read_exact_at(&mut bytes, 0)
        .map_err(|e| Error::io("cannot read it", e).in_structure(HEADER))?;
    Ok(zerocopy::transmute!(bytes))
}

fn backing_name(raw: &RawHeader, header_end: u64, source: &dyn Source) -> Result<String> {
    let (offset, len) = (raw.backing_filename_offset.get(), raw.backing_filename_size.get());
    let end = u64::from(offset) + u64::from(len);
    if len > MAX_BACKING_NAME || end > header_end {
        let message = format!(
            "the backing file name has {len} bytes at {offset:#x}, but must have at most \
             {MAX_BACKING_NAME} and be in the header"
        );
        return Err(Error::corrupt(HEADER, message).at(56));
    }
    let mut bytes = vec![0; to_usize(len.into())];
    source.read_exact_at(&mut bytes, offset.into()).map_err(|e| {
        Error::io("cannot read it", e).in_structure("backing file name").at(offset.into())
    })?;
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let name = String::from_utf8_lossy(&bytes[..end]).into_owned();
    if name.is_empty() {
        let message = "the image has a backing file without a name";
        return Err(Error::corrupt(HEADER, message).at(60));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_disk_depends_on_the_size_of_clusters_and_tables() {
        let max = |cluster, table| max_size(layout(cluster, table).expect("valid"));
        assert_eq!(max(4 << 10, 1), 1 << 30);
        assert_eq!(max(64 << 10, 4), 64 << 40);
        assert_eq!(max(64 << 20, 16), (1 << 63) - 512);
        for (cluster, table) in [(2048, 4), (128 << 20, 4), (5000, 4), (65536, 0), (65536, 3)] {
            assert!(layout(cluster, table).is_err(), "{cluster} {table}");
        }
        assert!(layout(65536, 32).is_err());
    }
}
