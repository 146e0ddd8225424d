//! The header: the size of the disk, and where the directories are.

use super::read;
use crate::error::{Error, Result};
use crate::formats::uuid::Uuid;
use crate::storage::source::Source;
use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// The signature.
const SIGNATURE: [u8; 4] = *b"shdw";

/// The bytes by which an image is recognized: the signature, and the upper half of the version.
pub(super) const PROBED: &[u8] = b"shdw\0\0";

/// The only known version.
const VERSION: u32 = 1;

/// Maximum size of a chunk in bytes. Chunks of 1 MiB are the only ones that have been seen.
const MAX_CHUNK: u32 = 64 << 20;

/// Length in bytes of the header: the only one that has been seen.
const MIN_HEADER: u64 = 512;

/// How messages call the header.
pub(super) const HEADER: &str = "ASIF header";

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    signature: [u8; 4],
    version: U32,
    header_bytes: U32,
    flags: U32,
    directories: [U64; 2],
    uuid: [u8; 16],
    sectors: U64,
    max_sectors: U64,
    chunk_bytes: U32,
    sector_bytes: U16,
    segments: U16,
    metadata_chunk: U64,
}

const _: () = assert!(size_of::<RawHeader>() == 0x50);

/// A valid header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// Size of the disk in bytes.
    pub(super) size: u64,
    /// Size in bytes to which the disk can grow.
    pub(super) max_size: u64,
    /// Size of a chunk in bytes: a power of two.
    pub(super) chunk_bytes: u64,
    /// Size of a sector in bytes: a power of two.
    pub(super) sector_bytes: u64,
    /// Host offsets of the directories.
    pub(super) directories: [u64; 2],
    header_bytes: u64,
    pub(super) flags: u32,
    pub(super) uuid: Uuid,
}

/// How chunks are divided among tables. The letters are those of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// N: chunks of the disk in a chunk group.
    pub(super) group_chunks: u64,
    /// S: length of a chunk group in bytes.
    pub(super) group_bytes: u64,
    /// C: chunk groups of a table.
    pub(super) groups: u64,
}

impl Header {
    /// Reads and validates the header.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is invalid,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for unknown versions,
    /// [`Io`](crate::ErrorKind::Io).
    pub(super) fn read(source: &dyn Source) -> Result<Self> {
        let mut bytes = [0; size_of::<RawHeader>()];
        read(source, &mut bytes, 0, HEADER)?;
        let raw: RawHeader = zerocopy::transmute!(bytes);
        let corrupt = |at: u64, message: String| Error::corrupt(HEADER, message).at(at);
        let unsupported =
            |at: u64, message: String| Error::unsupported(message).in_structure(HEADER).at(at);
        if raw.signature != SIGNATURE {
            return Err(corrupt(0, "it does not start with the signature 'shdw'".to_owned()));
        }
        let version = raw.version.get();
        if version != VERSION {
            let message = format!("version {version} of the format; only {VERSION} is known");
            return Err(unsupported(4, message));
        }
        let (sector, chunk) = (raw.sector_bytes.get(), raw.chunk_bytes.get());
        if !sector.is_power_of_two() || !(512..=4096).contains(&sector) {
            let message = format!("sectors of {sector} bytes; expected a power of two from 512");
            return Err(corrupt(0x44, message));
        }
        if raw.segments.get() != 0 {
            let message = format!("the unknown field at 0x46 is {}, not 0", raw.segments);
            return Err(unsupported(0x46, message));
        }
        let (sector_bytes, chunk_bytes) = (u64::from(sector), u64::from(chunk));
        let layout = Layout::of(sector_bytes, chunk_bytes);
        if !chunk.is_power_of_two() || chunk > MAX_CHUNK || layout.groups == 0 {
            let message = format!(
                "chunks of {chunk} bytes; expected a power of two from {} to {MAX_CHUNK}",
                layout.group_bytes.next_power_of_two()
            );
            return Err(corrupt(0x40, message));
        }
        let bytes = |at: u64, sectors: U64| {
            let bytes = sectors.get().checked_mul(sector_bytes);
            bytes.filter(|&bytes| bytes <= i64::MAX.cast_unsigned()).ok_or_else(|| {
                corrupt(at, format!("a disk of {sectors} sectors, which exceeds 8 EiB"))
            })
        };
        let (size, max_size) = (bytes(0x30, raw.sectors)?, bytes(0x38, raw.max_sectors)?);
        if size > max_size {
            let message = format!("the disk has {size} bytes, but can have only {max_size}");
            return Err(corrupt(0x30, message));
        }
        Ok(Self {
            size,
            max_size,
            chunk_bytes,
            sector_bytes,
            directories: raw.directories.map(U64::get),
            header_bytes: raw.header_bytes.get().into(),
            flags: raw.flags.get(),
            uuid: Uuid(raw.uuid),
        })
    }

    /// Returns the host offset of the end of the header.
    pub(super) fn header_end(&self) -> u64 {
        self.header_bytes.max(MIN_HEADER)
    }

    /// Returns how chunks are divided among tables.
    pub(super) fn layout(&self) -> Layout {
        Layout::of(self.sector_bytes, self.chunk_bytes)
    }

    /// Returns the guest bytes of a chunk group.
    pub(super) fn group_cover(&self) -> u64 {
        self.layout().group_chunks * self.chunk_bytes
    }

    /// Returns D: the guest bytes of a table.
    pub(super) fn table_cover(&self) -> u64 {
        self.layout().groups * self.group_cover()
    }

    /// Returns T: the number of tables of a disk of the maximum size.
    pub(super) fn tables(&self) -> u64 {
        self.max_size.div_ceil(self.table_cover())
    }
}

impl Layout {
    fn of(sector_bytes: u64, chunk_bytes: u64) -> Self {
        let group_chunks = 4 * sector_bytes;
        let group_bytes = 8 * (group_chunks + 1);
        Self { group_chunks, group_bytes, groups: chunk_bytes / group_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of the specification for the images that diskutil creates.
    #[test]
    fn a_table_of_the_usual_size_maps_126_gib() {
        let layout = Layout::of(512, 1 << 20);
        assert_eq!((layout.group_chunks, layout.group_bytes, layout.groups), (2048, 16_392, 63));
        assert_eq!((layout.groups * layout.group_chunks) << 20, 126 << 30);
    }
}
