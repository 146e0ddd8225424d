//! The header of an expandable image.
//!
//! *Parallels Expandable Image File Format*, "Header".

use super::{SECTOR, read};
use crate::error::{Error, Result};
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// How errors call the header.
pub(super) const STRUCTURE: &str = "Parallels header";

/// Length of the header in bytes, after which the table follows.
pub(super) const HEADER_BYTES: u64 = 64;

/// The only version.
pub(super) const VERSION: u32 = 2;

/// Maximum size of a cluster in sectors: QEMU's, a little less than 2 GiB.
pub(super) const MAX_CLUSTER_SECTORS: u32 = 0x7fff_ffff / 513;

/// Maximum number of entries of the table: QEMU's.
pub(super) const MAX_ENTRIES: u32 = 0x7fff_ffff / 4;

/// The image was opened for writing and not closed.
pub(super) const IN_USE: u32 = 0x746f_6e59;

/// The image was closed by a program that knows format extensions.
pub(super) const CLOSED: u32 = 0x312e_3276;

/// In the flags: the image has no data.
pub(super) const FLAG_EMPTY: u32 = 1;

/// The header on disk.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 16],
    version: U32,
    heads: U32,
    cylinders: U32,
    cluster_sectors: U32,
    entries: U32,
    sectors: U64,
    in_use: U32,
    data_off: U32,
    flags: U32,
    ext_off: U64,
}

const _: () = assert!(size_of::<RawHeader>() == 64);

/// The magic, which determines what the entries of the table count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Magic {
    /// `WithoutFreeSpace`: sectors.
    Sectors,
    /// `WithouFreSpacExt`: clusters.
    Clusters,
}

impl Magic {
    /// Returns the magic at the start of `head`.
    pub(super) fn of(head: &[u8]) -> Option<Self> {
        let magics = [Self::Sectors, Self::Clusters];
        magics.into_iter().find(|magic| head.starts_with(magic.bytes()))
    }

    /// Returns the bytes on disk.
    pub(super) const fn bytes(self) -> &'static [u8; 16] {
        match self {
            Self::Sectors => b"WithoutFreeSpace",
            Self::Clusters => b"WithouFreSpacExt",
        }
    }

    /// Returns the bytes as text.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Sectors => "WithoutFreeSpace",
            Self::Clusters => "WithouFreSpacExt",
        }
    }
}

/// A valid header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) magic: Magic,
    pub(super) heads: u32,
    pub(super) cylinders: u32,
    /// Guest bytes of a cluster: a multiple of 512, not always a power of two.
    pub(super) cluster_bytes: u64,
    /// Number of entries of the table. At least as many as the disk needs.
    pub(super) entries: u32,
    /// Size of the disk in bytes.
    pub(super) size: u64,
    /// Whether and by which kind of program the image was closed.
    pub(super) in_use: u32,
    /// Start of the data area in sectors, as stored.
    pub(super) data_off: u32,
    pub(super) flags: u32,
    /// Host offset of the format extension, if there is one.
    pub(super) extension_at: Option<u64>,
}

impl Header {
    /// Reads the header at the start of `source`.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is not valid,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for another version,
    /// [`Io`](crate::ErrorKind::Io) if it cannot be read.
    pub(super) fn read(source: &dyn Source) -> Result<Self> {
        if source.len() < HEADER_BYTES {
            let message = format!("the file has only {} bytes", source.len());
            return Err(Error::corrupt(STRUCTURE, message).at(0));
        }
        let mut raw = RawHeader::new_zeroed();
        read(source, raw.as_mut_bytes(), 0, STRUCTURE)?;
        Self::validate(&raw)
    }

    fn validate(raw: &RawHeader) -> Result<Self> {
        let corrupt = |message: String, at| Err(Error::corrupt(STRUCTURE, message).at(at));
        let Some(magic) = Magic::of(&raw.magic) else {
            return corrupt("it does not start with the magic of an image".into(), 0);
        };
        if raw.version.get() != VERSION {
            let message = format!("version {} of the format", raw.version);
            return Err(Error::unsupported(message).in_structure(STRUCTURE).at(16));
        }
        let cluster_sectors = raw.cluster_sectors.get();
        if cluster_sectors == 0 || cluster_sectors > MAX_CLUSTER_SECTORS {
            let message = format!(
                "clusters of {cluster_sectors} sectors: expected 1 to {MAX_CLUSTER_SECTORS}"
            );
            return corrupt(message, 28);
        }
        let cluster_bytes = u64::from(cluster_sectors) * SECTOR;
        let sectors = match magic {
            // The upper half is undefined.
            Magic::Sectors => raw.sectors.get() & 0xffff_ffff,
            Magic::Clusters => raw.sectors.get(),
        };
        let size = sectors.checked_mul(SECTOR).filter(|&size| size <= i64::MAX.cast_unsigned());
        let Some(size) = size else {
            return corrupt(format!("a disk of {sectors} sectors exceeds 8 EiB"), 36);
        };
        let (entries, needed) = (raw.entries.get(), size.div_ceil(cluster_bytes));
        if needed > u64::from(entries) {
            let message = format!(
                "the table has {entries} entries, but the disk of {size} bytes needs {needed}"
            );
            return corrupt(message, 32);
        }
        let extension_at = raw.ext_off.get().saturating_mul(SECTOR);
        Ok(Self {
            magic,
            heads: raw.heads.get(),
            cylinders: raw.cylinders.get(),
            cluster_bytes,
            entries,
            size,
            in_use: raw.in_use.get(),
            data_off: raw.data_off.get(),
            flags: raw.flags.get(),
            extension_at: (extension_at != 0).then_some(extension_at),
        })
    }

    /// Returns the bytes on disk.
    pub(super) fn encode(&self) -> [u8; to_usize(HEADER_BYTES)] {
        let raw = RawHeader {
            magic: *self.magic.bytes(),
            version: VERSION.into(),
            heads: self.heads.into(),
            cylinders: self.cylinders.into(),
            cluster_sectors: crate::storage::number::to_u32(self.cluster_bytes / SECTOR).into(),
            entries: self.entries.into(),
            sectors: (self.size / SECTOR).into(),
            in_use: self.in_use.into(),
            data_off: self.data_off.into(),
            flags: self.flags.into(),
            ext_off: (self.extension_at.unwrap_or(0) / SECTOR).into(),
        };
        let mut bytes = [0; to_usize(HEADER_BYTES)];
        bytes.copy_from_slice(raw.as_bytes());
        bytes
    }

    /// Returns true if the image was opened for writing and not closed. Programs of Parallels write
    /// other values than the specification lists when they close an image.
    pub(super) fn is_dirty(&self) -> bool {
        self.in_use == IN_USE
    }

    /// Returns the number of table entries that the disk needs.
    pub(super) fn needed_entries(&self) -> u64 {
        self.size.div_ceil(self.cluster_bytes)
    }

    /// Returns the number of bytes that an entry of the table counts.
    pub(super) fn entry_unit(&self) -> u64 {
        match self.magic {
            Magic::Sectors => SECTOR,
            Magic::Clusters => self.cluster_bytes,
        }
    }

    /// Returns the host offset of the end of the table.
    pub(super) fn table_end(&self) -> u64 {
        table_end(self.entries)
    }

    /// Returns the first host offset at which the data area may start.
    fn min_data_at(&self) -> u64 {
        self.table_end().next_multiple_of(self.entry_unit())
    }

    /// Describes what is wrong with the start of the data area in a file of `len` bytes. Reading does
    /// not need it.
    pub(super) fn data_off_problem(&self, len: u64) -> Option<String> {
        let (at, min) = (u64::from(self.data_off) * SECTOR, self.min_data_at());
        let is_optional = self.magic == Magic::Sectors;
        match at {
            0 if is_optional => None,
            _ if at < min => Some(format!("it starts at {at:#x}, before {min:#x}")),
            _ if at > len => Some(format!("it starts at {at:#x}, beyond the end of the file")),
            _ => None,
        }
    }

    /// Returns the host offset of the data area in a file of `len` bytes: the first at which it may
    /// start if the recorded one is wrong.
    pub(super) fn data_at(&self, len: u64) -> u64 {
        match self.data_off {
            0 => self.min_data_at(),
            _ if self.data_off_problem(len).is_some() => self.min_data_at(),
            sectors => u64::from(sectors) * SECTOR,
        }
    }
}

/// Returns the host offset of the end of a table with this number of entries.
pub(super) fn table_end(entries: u32) -> u64 {
    HEADER_BYTES + u64::from(entries) * to_u64(size_of::<u32>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw() -> RawHeader {
        RawHeader {
            magic: *b"WithouFreSpacExt",
            version: 2.into(),
            heads: 16.into(),
            cylinders: 4.into(),
            cluster_sectors: 8.into(),
            entries: 3.into(),
            sectors: 17.into(),
            in_use: 0.into(),
            data_off: 8.into(),
            flags: 0.into(),
            ext_off: 16.into(),
        }
    }

    #[test]
    fn a_header_is_encoded_as_it_was_read() {
        let header = Header::validate(&raw()).expect("valid");
        assert_eq!(header.encode(), raw().as_bytes());
        assert_eq!((header.size, header.cluster_bytes), (17 * 512, 4096));
        assert_eq!(header.extension_at, Some(16 * 512));
    }

    #[test]
    fn invalid_fields_are_errors_with_their_offset() {
        type Change = fn(&mut RawHeader);
        let changes: [(Change, u64); 6] = [
            (|raw| raw.magic[3] = 0, 0),
            (|raw| raw.version = 1.into(), 16),
            (|raw| raw.cluster_sectors = 0.into(), 28),
            (|raw| raw.cluster_sectors = u32::MAX.into(), 28),
            (|raw| raw.entries = 2.into(), 32),
            (|raw| raw.sectors = u64::MAX.into(), 36),
        ];
        for (change, at) in changes {
            let mut raw = raw();
            change(&mut raw);
            let error = Header::validate(&raw).expect_err("invalid");
            assert_eq!(error.offset(), Some(at), "{error}");
        }
    }

    #[test]
    fn the_old_magic_has_32_bits_of_the_size_and_an_optional_data_offset() {
        let raw = RawHeader {
            magic: *b"WithoutFreeSpace",
            sectors: (0xdead_beef << 32 | 17).into(),
            data_off: 0.into(),
            ..raw()
        };
        let header = Header::validate(&raw).expect("valid");
        assert_eq!((header.size, header.entry_unit()), (17 * 512, 512));
        assert_eq!((header.data_off_problem(0), header.data_at(0)), (None, 512));
    }

    #[test]
    fn a_wrong_data_offset_is_replaced() {
        let header = Header::validate(&raw()).expect("valid");
        assert_eq!((header.data_off_problem(4096), header.data_at(4096)), (None, 4096));
        for data_off in [0, 7, 9] {
            let header = Header { data_off, ..header.clone() };
            assert!(header.data_off_problem(4096).is_some(), "{data_off}");
            assert_eq!(header.data_at(4096), 4096);
        }
    }
}
