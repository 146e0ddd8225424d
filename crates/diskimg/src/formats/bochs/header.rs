//! The header: what kind of image it is, and its sizes.
//!
//! ```text
//!     0  "Bochs Virtual HD Image"        64  version: 1 or 2, in 16.16
//!    32  "Redolog"                       68  header size     76  bitmap size
//!    48  "Growing"                       72  entries         80  extent size
//!                                        84  disk size, or a time stamp and the disk size
//! ```

use super::{SECTOR, read};
use crate::error::{Error, Result};
use crate::open::limits::Limits;
use crate::storage::source::Source;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// The magic of all images with a catalog.
pub(super) const MAGIC: &[u8] = b"Bochs Virtual HD Image";

/// The magic of "sparse" images, which have another structure.
pub(super) const SPARSE_MAGIC: [u8; 4] = 0x0246_8ace_u32.to_le_bytes();

/// The type of images with a catalog.
const TYPE: &[u8] = b"Redolog";

/// The subtype of images that contain a whole disk.
const GROWING: &[u8] = b"Growing";

/// Subtypes of images with changes to another image.
const CHANGES: [&[u8]; 2] = [b"Undoable", b"Volatile"];

const VERSION_1: u32 = 0x0001_0000;
const VERSION_2: u32 = 0x0002_0000;

/// Length in bytes of the header.
const HEADER_BYTES: u64 = 512;

/// Maximum number of entries of the catalog, as in Bochs and QEMU.
const MAX_ENTRIES: u32 = 1 << 20;

/// Maximum size of an extent in bytes, as in QEMU.
const MAX_EXTENT: u32 = 8 << 20;

/// How messages call the header.
pub(super) const STRUCTURE: &str = "Bochs header";

#[derive(FromBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 32],
    kind: [u8; 16],
    subtype: [u8; 16],
    version: U32,
    header_bytes: U32,
    entries: U32,
    bitmap_bytes: U32,
    extent_bytes: U32,
    /// In version 1, the first half of the size.
    timestamp: U32,
    size: U64,
}

/// A valid header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// The version: 1 or 2.
    pub(super) version: u32,
    /// Number of entries of the catalog. The disk may need fewer.
    pub(super) entries: u32,
    /// Host offset of the catalog.
    pub(super) catalog_at: u64,
    /// Length in bytes of a bitmap.
    pub(super) bitmap_bytes: u64,
    /// Guest bytes of an extent, a power of two.
    pub(super) extent_bytes: u64,
    /// Size of the disk in bytes, as recorded.
    recorded_size: u64,
}

/// Returns true if QEMU recognizes an image in the first bytes of a file: a growing one.
pub(super) fn is_growing(head: &[u8]) -> bool {
    let text = |at: usize, len: usize| head.get(at..at + len).map(until_nul);
    let version = head.get(64..68).and_then(|bytes| bytes.first_chunk());
    text(0, 32) == Some(MAGIC)
        && text(32, 16) == Some(TYPE)
        && text(48, 16) == Some(GROWING)
        && matches!(version.map(|v| u32::from_le_bytes(*v)), Some(VERSION_1 | VERSION_2))
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

impl Header {
    /// Reads the header.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is invalid,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for another kind of image,
    /// [`Limit`](crate::ErrorKind::Limit) if the catalog is too large, [`Io`](crate::ErrorKind::Io).
    pub(super) fn read(source: &dyn Source, limits: &Limits) -> Result<Self> {
        let mut magic = [0; 4];
        read(source, &mut magic, 0, STRUCTURE)?;
        if magic == SPARSE_MAGIC {
            return Err(Error::unsupported("a sparse image of Bochs (mode 'sparse')")
                .in_structure(STRUCTURE)
                .at(0)
                .hint("convert it to a growing or flat image with bximage"));
        }
        let mut bytes = [0; size_of::<RawHeader>()];
        read(source, &mut bytes, 0, STRUCTURE)?;
        let raw: RawHeader = zerocopy::transmute!(bytes);
        if until_nul(&raw.magic) != MAGIC {
            return Err(Error::corrupt(STRUCTURE, "expected 'Bochs Virtual HD Image'").at(0));
        }
        require_kind(&raw)?;
        let version = raw.version.get();
        let recorded_size = match version {
            VERSION_1 => u64::from(raw.timestamp.get()) | raw.size.get() << 32,
            VERSION_2 => raw.size.get(),
            _ => {
                let message = format!("version {}.{}", version >> 16, version & 0xffff);
                return Err(Error::unsupported(message)
                    .in_structure(STRUCTURE)
                    .at(64)
                    .hint("versions 1.0 and 2.0 are supported"));
            }
        };
        let header = Self {
            version: version >> 16,
            entries: raw.entries.get(),
            catalog_at: raw.header_bytes.get().into(),
            bitmap_bytes: raw.bitmap_bytes.get().into(),
            extent_bytes: raw.extent_bytes.get().into(),
            recorded_size,
        };
        header.validate(limits)
    }

    fn validate(self, limits: &Limits) -> Result<Self> {
        let corrupt = |at: u64, message: String| Err(Error::corrupt(STRUCTURE, message).at(at));
        if self.catalog_at < HEADER_BYTES {
            return corrupt(68, format!("a header of {} bytes; expected 512", self.catalog_at));
        }
        if self.entries > MAX_ENTRIES {
            let message = format!("a catalog of {} entries; at most {MAX_ENTRIES}", self.entries);
            return corrupt(72, message);
        }
        let extent = self.extent_bytes;
        if !extent.is_power_of_two() || extent < SECTOR || extent > MAX_EXTENT.into() {
            return corrupt(
                80,
                format!("extents of {extent} bytes; a power of two from 512 to {MAX_EXTENT}"),
            );
        }
        let sectors = extent / SECTOR;
        if self.bitmap_bytes.saturating_mul(8) < sectors {
            let message = format!(
                "a bitmap of {} bytes is too small for the {sectors} sectors of an extent",
                self.bitmap_bytes
            );
            return corrupt(76, message);
        }
        if self.extents() > self.entries.into() {
            let message = format!(
                "the disk has {} extents of {extent} bytes, but the catalog has {} entries",
                self.extents(),
                self.entries
            );
            return corrupt(if self.version == 1 { 84 } else { 88 }, message);
        }
        let catalog = u64::from(self.entries) * 4;
        if catalog > limits.table_bytes {
            let found = format!("a catalog of {catalog} bytes");
            return Err(Error::over_limit("table_bytes", found, limits.table_bytes));
        }
        Ok(self)
    }

    /// Returns the size of the disk in bytes. Bochs and QEMU ignore what is not a whole sector.
    pub(super) fn size(&self) -> u64 {
        self.recorded_size / SECTOR * SECTOR
    }

    /// Returns the number of bytes at the end of the recorded size that are not a whole sector.
    pub(super) fn rest(&self) -> u64 {
        self.recorded_size % SECTOR
    }

    /// Returns the number of extents that the disk needs.
    pub(super) fn extents(&self) -> u64 {
        self.size().div_ceil(self.extent_bytes)
    }

    /// Returns the host offset of the first extent's bitmap.
    pub(super) fn extents_at(&self) -> u64 {
        self.catalog_at + u64::from(self.entries) * 4
    }

    /// Returns the host bytes of a bitmap: whole sectors.
    pub(super) fn bitmap_stride(&self) -> u64 {
        self.bitmap_bytes.next_multiple_of(SECTOR)
    }

    /// Returns the host bytes of an extent and its bitmap.
    pub(super) fn stride(&self) -> u64 {
        self.bitmap_stride() + self.extent_bytes
    }
}

/// Returns an error unless an image is a growing one.
fn require_kind(raw: &RawHeader) -> Result<()> {
    let (kind, subtype) = (until_nul(&raw.kind), until_nul(&raw.subtype));
    let unsupported =
        |message: String, at: u64| Err(Error::unsupported(message).in_structure(STRUCTURE).at(at));
    if kind != TYPE {
        return unsupported(format!("the type '{}'", String::from_utf8_lossy(kind)), 32);
    }
    if CHANGES.contains(&subtype) {
        let name = String::from_utf8_lossy(subtype).to_lowercase();
        let message = format!(
            "an image of the subtype {name}: it has changes to a base image, which it does not name"
        );
        return unsupported(message, 48)
            .map_err(|error| error.hint("commit it to its base image with bximage"));
    }
    match subtype == GROWING {
        true => Ok(()),
        false => unsupported(format!("the subtype '{}'", String::from_utf8_lossy(subtype)), 48),
    }
}
