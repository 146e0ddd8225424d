//! The dynamic disk header: where the block allocation table is and, in a differencing disk, what
//! the parent is.
//!
//! *Virtual Hard Disk Image Format Specification 1.0*, "Dynamic Disk Header Format".

use super::{SECTOR, VERSION, checksum, read, require_valid};
use crate::error::{Error, ErrorKind, Result};
use crate::formats::uuid::Uuid;
use crate::open::limits::Limits;
use crate::storage::number::to_usize;
use crate::storage::source::Source;
use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of the header in bytes.
pub(super) const HEADER_BYTES: u64 = 1024;

const COOKIE: [u8; 8] = *b"cxsparse";

/// Offset of the checksum in the header.
const CHECKSUM_AT: usize = 36;

/// Maximum block size in bytes. All known programs write 512 KiB or 2 MiB.
const MAX_BLOCK: u32 = 1 << 30;

/// Number of locators in a header.
const LOCATORS: usize = 8;

/// Maximum length of a parent's name in bytes: a path of 32,767 UTF-16 units.
const MAX_NAME: u32 = 64 << 10;

/// The header on disk.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawHeader {
    cookie: [u8; 8],
    data_offset: U64,
    table_at: U64,
    version: U32,
    entries: U32,
    block_bytes: U32,
    checksum: U32,
    parent_uuid: [u8; 16],
    parent_timestamp: U32,
    reserved: U32,
    parent_name: [u8; 512],
    locators: [RawLocator; LOCATORS],
    reserved_end: [u8; 256],
}

/// A parent locator on disk.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawLocator {
    code: [u8; 4],
    space: U32,
    len: U32,
    reserved: U32,
    offset: U64,
}

/// A valid header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// Host offset of the block allocation table.
    pub(super) table_at: u64,
    /// Number of entries of the table. The disk may need fewer.
    pub(super) entries: u32,
    /// Guest bytes of a block, a power of two.
    pub(super) block_bytes: u64,
    pub(super) parent_uuid: Uuid,
    /// When the parent was last modified: seconds since 2000-01-01 00:00:00 UTC.
    pub(super) parent_timestamp: u32,
    /// The parent's name, which may be a path of Windows; empty if there is none.
    pub(super) parent_name: String,
    /// Where further names of the parent are stored.
    pub(super) locators: Vec<Locator>,
}

/// Where a name of the parent is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Locator {
    /// The platform, and whether the path is relative or absolute.
    pub(super) code: [u8; 4],
    /// Length of the name in bytes.
    pub(super) len: u32,
    /// Host offset of the name.
    pub(super) offset: u64,
}

impl Locator {
    /// A relative path of Windows, in UTF-16.
    pub(super) const RELATIVE: [u8; 4] = *b"W2ru";
    /// An absolute path of Windows, in UTF-16.
    pub(super) const ABSOLUTE: [u8; 4] = *b"W2ku";
    /// A URL of a file, in UTF-8.
    pub(super) const MAC: [u8; 4] = *b"MacX";

    /// Reads the name; `None` if the locator's code is not a known one.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is too long or not text,
    /// [`Io`](crate::ErrorKind::Io) if it cannot be read.
    pub(super) fn name(&self, source: &dyn Source) -> Result<Option<String>> {
        if !matches!(self.code, Self::RELATIVE | Self::ABSOLUTE | Self::MAC) {
            return Ok(None);
        }
        let corrupt = |message: &str| {
            Error::corrupt("VHD parent locator", message.to_owned()).at(self.offset)
        };
        if self.len > MAX_NAME {
            return Err(corrupt(&format!("a name of {} bytes; at most {MAX_NAME}", self.len)));
        }
        let mut bytes = vec![0; to_usize(self.len.into())];
        read(source, &mut bytes, self.offset, "VHD parent locator")?;
        let name = match self.code {
            Self::MAC => String::from_utf8(bytes).ok(),
            _ => utf16(&bytes, u16::from_le_bytes),
        };
        let name = name.ok_or_else(|| corrupt("its name is not valid Unicode"))?;
        Ok(Some(name.trim_end_matches('\0').to_owned()))
    }
}

impl Header {
    /// Reads the header at host offset `at`.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is not within the file or a value is invalid,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for another version,
    /// [`Io`](crate::ErrorKind::Io) if it cannot be read.
    pub(super) fn read(source: &dyn Source, at: u64) -> Result<Self> {
        if at.checked_add(HEADER_BYTES).is_none_or(|end| end > source.len()) {
            let message = format!("the dynamic header at {at:#x} is beyond the end of the file");
            return Err(Error::corrupt("VHD footer", message).at(16));
        }
        let mut bytes = [0; to_usize(HEADER_BYTES)];
        read(source, &mut bytes, at, "VHD dynamic header")?;
        Self::parse(&bytes, at)
    }

    /// As [`read`](Self::read), also if nothing but the checksum seems to be wrong. Returns what is
    /// wrong then.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(super) fn read_damaged(source: &dyn Source, at: u64) -> Result<(Self, Option<String>)> {
        let error = match Self::read(source, at) {
            Ok(header) => return Ok((header, None)),
            Err(error) => error,
        };
        if error.kind() != ErrorKind::Corrupt || at.saturating_add(HEADER_BYTES) > source.len() {
            return Err(error);
        }
        let bytes = Self::with_checksum(source, at)?;
        match Self::parse(&bytes, at) {
            Ok(header) => Ok((header, Some(error.without_remedy()))),
            Err(_) => Err(error),
        }
    }

    /// Returns the bytes of the header at host offset `at`, with the checksum that they should have.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if they cannot be read.
    pub(super) fn with_checksum(
        source: &dyn Source,
        at: u64,
    ) -> Result<[u8; to_usize(HEADER_BYTES)]> {
        let mut bytes = [0; to_usize(HEADER_BYTES)];
        read(source, &mut bytes, at, "VHD dynamic header")?;
        let sum = checksum(&bytes, CHECKSUM_AT);
        bytes[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&sum.to_be_bytes());
        Ok(bytes)
    }

    fn parse(bytes: &[u8; to_usize(HEADER_BYTES)], at: u64) -> Result<Self> {
        let corrupt = |field: u64, message: String| {
            Error::corrupt("VHD dynamic header", message).at(at.saturating_add(field))
        };
        let raw: RawHeader = zerocopy::transmute!(*bytes);
        if raw.cookie != COOKIE {
            return Err(corrupt(0, "expected \"cxsparse\"".into()));
        }
        require_valid("VHD dynamic header", bytes, at, CHECKSUM_AT, raw.version.get())?;
        let block = raw.block_bytes.get();
        if !block.is_power_of_two() || u64::from(block) < SECTOR || block > MAX_BLOCK {
            let message =
                format!("blocks of {block} bytes; expected a power of two from 512 to {MAX_BLOCK}");
            return Err(corrupt(32, message));
        }
        let is_used = |raw: &&RawLocator| raw.code != [0; 4];
        let locator = |raw: &RawLocator| Locator {
            code: raw.code,
            len: raw.len.get(),
            offset: raw.offset.get(),
        };
        Ok(Self {
            table_at: raw.table_at.get(),
            entries: raw.entries.get(),
            block_bytes: block.into(),
            parent_uuid: Uuid(raw.parent_uuid),
            parent_timestamp: raw.parent_timestamp.get(),
            // Some programs write names with unpaired surrogates.
            parent_name: utf16_lossy(&raw.parent_name),
            locators: raw.locators.iter().filter(is_used).map(locator).collect(),
        })
    }

    /// Returns the header's bytes, with its checksum. A name that is too long is cut off: it is for
    /// display, the locators have the whole name.
    pub(super) fn encode(&self) -> [u8; to_usize(HEADER_BYTES)] {
        let mut raw = RawHeader {
            cookie: COOKIE,
            // The specification says 32 bits of ones; all programs write and expect 64.
            data_offset: u64::MAX.into(),
            table_at: self.table_at.into(),
            version: VERSION.into(),
            entries: self.entries.into(),
            block_bytes: crate::storage::number::to_u32(self.block_bytes).into(),
            checksum: 0.into(),
            parent_uuid: self.parent_uuid.0,
            parent_timestamp: self.parent_timestamp.into(),
            reserved: 0.into(),
            parent_name: [0; 512],
            locators: [RawLocator {
                code: [0; 4],
                space: 0.into(),
                len: 0.into(),
                reserved: 0.into(),
                offset: 0.into(),
            }; LOCATORS],
            reserved_end: [0; 256],
        };
        let units = self.parent_name.encode_utf16().flat_map(u16::to_be_bytes);
        // The last unit remains zero.
        raw.parent_name[..510].iter_mut().zip(units).for_each(|(to, from)| *to = from);
        for (raw, locator) in raw.locators.iter_mut().zip(&self.locators) {
            *raw = RawLocator {
                code: locator.code,
                space: locator.len.next_multiple_of(512).into(),
                len: locator.len.into(),
                reserved: 0.into(),
                offset: locator.offset.into(),
            };
        }
        let mut bytes: [u8; to_usize(HEADER_BYTES)] = zerocopy::transmute!(raw);
        let sum = checksum(&bytes, CHECKSUM_AT);
        bytes[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// Returns the number of blocks of a disk of `size` bytes.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the table has fewer entries,
    /// [`Limit`](crate::ErrorKind::Limit) if the table is too large.
    pub(super) fn blocks(&self, size: u64, limits: &Limits) -> Result<u64> {
        let blocks = size.div_ceil(self.block_bytes);
        if blocks > self.entries.into() {
            let message = format!(
                "the disk has {blocks} blocks of {} bytes, but the table has {} entries",
                self.block_bytes, self.entries
            );
            return Err(Error::corrupt("VHD dynamic header", message));
        }
        if blocks * 4 > limits.table_bytes {
            let found = format!("a block allocation table of {} bytes", blocks * 4);
            return Err(Error::over_limit("table_bytes", found, limits.table_bytes));
        }
        Ok(blocks)
    }
}

/// Decodes UTF-16; `None` if it is invalid or has an odd number of bytes.
fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Option<String> {
    let units: Vec<u16> =
        bytes.chunks(2).map(|pair| Some(unit(pair.try_into().ok()?))).collect::<Option<_>>()?;
    String::from_utf16(&units).ok()
}

/// Decodes the big-endian name in the header, which ends with the first zero.
fn utf16_lossy(bytes: &[u8; 512]) -> String {
    let units = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let units: Vec<u16> = units.take_while(|&unit| unit != 0).collect();
    String::from_utf16_lossy(&units)
}
