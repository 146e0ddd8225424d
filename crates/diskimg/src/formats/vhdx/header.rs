//! The file type identifier and the two headers.
//!
//! ```text
//!   0        vhdxfile, the name of the program that created the file
//!   64 KiB   header     sequence number, GUIDs, where the log is
//!   128 KiB  header     the same; the one with the higher sequence number counts
//! ```
//!
//! A header is updated by writing the other one, so that one of the two is always valid.
//!
//! MS-VHDX 2.2.1, 2.2.2.

use super::guid::Guid;
use super::{KIB, MIB, checksum, read, require_checksum};
use crate::error::{Error, Result};
use crate::storage::number::to_usize;
use crate::storage::source::Source;
use std::ops::Range;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first bytes of a VHDX.
pub(super) const FILE_SIGNATURE: [u8; 8] = *b"vhdxfile";

/// Length in bytes of the file type identifier.
pub(super) const IDENTIFIER_BYTES: usize = 8 + 512;

/// Host offsets of the headers.
pub(super) const HEADERS_AT: [u64; 2] = [64 * KIB, 128 * KIB];

/// Length of a header in bytes.
pub(super) const HEADER_BYTES: usize = 4096;

/// The first bytes of a header.
const SIGNATURE: [u8; 4] = *b"head";

/// Offset of the checksum in the header.
const CHECKSUM_AT: usize = 4;

/// The version of the format.
const VERSION: u16 = 1;

/// Maximum length of the log in bytes.
pub(super) const MAX_LOG: u64 = 1 << 30;

/// How messages call a header.
pub(super) const STRUCTURE: &str = "VHDX header";

/// The start of a header on disk; the rest is zeros.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawHeader {
    signature: [u8; 4],
    checksum: U32,
    sequence: U64,
    file_write: [u8; 16],
    data_write: [u8; 16],
    log: [u8; 16],
    log_version: U16,
    version: U16,
    log_len: U32,
    log_at: U64,
}

/// A valid header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// The header with the higher number counts.
    pub(super) sequence: u64,
    /// Changes whenever the file is opened for writing.
    pub(super) file_write: Guid,
    /// Changes before the guest's data does. A child records it.
    pub(super) data_write: Guid,
    /// That of the valid entries of the log; nil if the log is empty.
    pub(super) log: Guid,
    /// Version of the log's format.
    pub(super) log_version: u16,
    /// Host range of the log.
    pub(super) log_range: Range<u64>,
}

impl Header {
    /// Parses the header at host offset `at`.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if its checksum or a value is wrong,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for another version.
    pub(super) fn parse(bytes: &[u8; HEADER_BYTES], at: u64) -> Result<Self> {
        let corrupt =
            |field: u64, message: String| Err(Error::corrupt(STRUCTURE, message).at(at + field));
        let (raw, _) = RawHeader::read_from_prefix(bytes)
            .map_err(|_| Error::corrupt(STRUCTURE, "it is too short").at(at))?;
        if raw.signature != SIGNATURE {
            return corrupt(0, "expected \"head\"".into());
        }
        require_checksum(STRUCTURE, bytes, at, CHECKSUM_AT)?;
        if raw.version.get() != VERSION {
            let message = format!("version {} of the format", raw.version);
            return Err(Error::unsupported(message).in_structure(STRUCTURE).at(at + 66));
        }
        let (log_at, log_len) = (raw.log_at.get(), u64::from(raw.log_len.get()));
        if log_len > MAX_LOG || !log_len.is_multiple_of(MIB) {
            let message = format!(
                "a log of {log_len} bytes; expected a multiple of 1 MiB, at most {MAX_LOG}"
            );
            return corrupt(68, message);
        }
        let log_end = log_at.checked_add(log_len);
        let Some(log_end) =
            log_end.filter(|_| log_len == 0 || (log_at >= MIB && log_at.is_multiple_of(MIB)))
        else {
            return corrupt(72, format!("a log at {log_at:#x}; expected a multiple of 1 MiB"));
        };
        Ok(Self {
            sequence: raw.sequence.get(),
            file_write: Guid(raw.file_write),
            data_write: Guid(raw.data_write),
            log: Guid(raw.log),
            log_version: raw.log_version.get(),
            log_range: log_at..log_end,
        })
    }

    /// Returns the header's bytes, with its checksum.
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let raw = RawHeader {
            signature: SIGNATURE,
            checksum: 0.into(),
            sequence: self.sequence.into(),
            file_write: self.file_write.0,
            data_write: self.data_write.0,
            log: self.log.0,
            log_version: self.log_version.into(),
            version: VERSION.into(),
            log_len: crate::storage::number::to_u32(self.log_range.end - self.log_range.start)
                .into(),
            log_at: self.log_range.start.into(),
        };
        let mut bytes = [0; HEADER_BYTES];
        bytes[..size_of::<RawHeader>()].copy_from_slice(raw.as_bytes());
        let sum = checksum(&bytes, CHECKSUM_AT);
        bytes[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&sum.to_le_bytes());
        bytes
    }
}

/// Both headers.
#[derive(Debug)]
pub(super) struct Headers([Result<Header>; 2]);

impl Headers {
    /// Reads the file type identifier and both headers.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the file is not a VHDX,
    /// [`Io`](crate::ErrorKind::Io) if it cannot be read. A header that is damaged is no error.
    pub(super) fn read(source: &dyn Source) -> Result<Self> {
        let mut signature = [0; 8];
        read(source, &mut signature, 0, "VHDX file type identifier")?;
        if signature != FILE_SIGNATURE {
            return Err(Error::corrupt("VHDX file type identifier", "expected \"vhdxfile\"").at(0));
        }
        let header = |at: u64| {
            let mut bytes = [0; HEADER_BYTES];
            match read(source, &mut bytes, at, STRUCTURE) {
                Ok(()) => Ok(Header::parse(&bytes, at)),
                Err(error) if error.is_storage_failure() => Err(error),
                Err(error) => Ok(Err(error)),
            }
        };
        Ok(Self([header(HEADERS_AT[0])?, header(HEADERS_AT[1])?]))
    }

    /// Returns the index of the header that counts: the one with the higher sequence number. disk2vhd
    /// writes two equal ones.
    fn current(&self) -> Option<usize> {
        match &self.0 {
            [Ok(first), Ok(second)] if first.sequence == second.sequence => {
                (first == second).then_some(0)
            }
            [Ok(first), Ok(second)] => Some(usize::from(second.sequence > first.sequence)),
            [Ok(_), Err(_)] => Some(0),
            [Err(_), Ok(_)] => Some(1),
            [Err(_), Err(_)] => None,
        }
    }

    /// Returns what is wrong with a header that does not count.
    pub(super) fn damage(&self) -> Option<String> {
        let current = self.current()?;
        let other = self.0[1 - current].as_ref().err()?;
        Some(format!("one of the two headers is damaged: {}", other.without_remedy()))
    }

    /// Returns the header that counts, and its index.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if none is valid or two differ but have the same
    /// sequence number, [`Unsupported`](crate::ErrorKind::Unsupported) for another version.
    pub(super) fn choose(self) -> Result<(usize, Header)> {
        match (self.current(), self.0) {
            (Some(0), [Ok(header), _]) => Ok((0, header)),
            (Some(_), [_, Ok(header)]) => Ok((1, header)),
            (_, [Ok(header), _]) => {
                let message = format!(
                    "the two headers differ, but both have the sequence number {}",
                    header.sequence
                );
                Err(Error::corrupt(STRUCTURE, message).at(HEADERS_AT[0] + 8))
            }
            (_, [Err(error), _]) => Err(error),
        }
    }
}

/// Returns the bytes of the file type identifier. A name of a creator that is too long is cut off.
pub(super) fn encode_identifier(creator: &str) -> [u8; IDENTIFIER_BYTES] {
    let mut bytes = [0; IDENTIFIER_BYTES];
    bytes[..8].copy_from_slice(&FILE_SIGNATURE);
    let units = creator.encode_utf16().flat_map(u16::to_le_bytes);
    // The last unit remains zero.
    bytes[8..IDENTIFIER_BYTES - 2].iter_mut().zip(units).for_each(|(to, from)| *to = from);
    bytes
}

/// Reads the name of the program that created the file; empty if it is not stored.
pub(super) fn creator(source: &dyn Source) -> String {
    let mut bytes = [0; IDENTIFIER_BYTES];
    if source.read_exact_at(&mut bytes, 0).is_err() {
        return String::new();
    }
    let units = bytes[8..].chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let units: Vec<u16> = units.take_while(|&unit| unit != 0).collect();
    String::from_utf16_lossy(&units)
}

const _: () = assert!(to_usize(HEADERS_AT[0]) + HEADER_BYTES <= to_usize(HEADERS_AT[1]));
