//! What was acquired: the sections `volume`, `disk` and `data`, and those with digests and errors.
//!
//! ```text
//!   EnCase, 1052 bytes                               SMART, 94 bytes
//!     0  type of the medium                            4  chunks
//!     4  chunks                                        8  sectors of a chunk
//!     8  sectors of a chunk                           12  bytes of a sector
//!    12  bytes of a sector                            16  sectors, in 32 bits
//!    16  sectors                                      85  "SMART"
//!    36  flags                                        90  checksum
//!    52  level of compression
//!    64  identifier of the set of segments
//!  1048  checksum
//! ```

use super::section::Section;
use super::{read, wrong_checksum};
use crate::error::{Error, Result};
use crate::formats::uuid::Uuid;
use crate::open::limits::Limits;
use crate::storage::codec::adler32;
use crate::storage::number::to_usize;
use crate::storage::source::Source;
use std::ops::Range;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// How messages call the section.
pub(super) const STRUCTURE: &str = "EWF volume section";

/// How messages call the sections with digests.
const DIGESTS: &str = "EWF digest section";

/// How messages call the list of sectors that could not be read.
const ERRORS: &str = "EWF error2 section";

/// Maximum size of a chunk in bytes. EnCase writes up to 16 MiB.
const MAX_CHUNK: u64 = 1 << 30;

/// Length in bytes of the contents that SMART writes.
const SMART_BYTES: u64 = 94;

#[derive(FromBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawVolume {
    media_type: u8,
    unknown_1: [u8; 3],
    chunks: U32,
    chunk_sectors: U32,
    sector_bytes: U32,
    sectors: U64,
    geometry: [U32; 3],
    media_flags: u8,
    unknown_2: [u8; 15],
    compression: u8,
    unknown_3: [u8; 3],
    error_sectors: U32,
    unknown_4: [u8; 4],
    set: [u8; 16],
    unknown_5: [u8; 968],
    checksum: U32,
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawSmartVolume {
    unknown_1: U32,
    chunks: U32,
    chunk_sectors: U32,
    sector_bytes: U32,
    sectors: U32,
    unknown_2: [u8; 70],
    checksum: U32,
}

const _: () = assert!(size_of::<RawVolume>() == 1052 && size_of::<RawSmartVolume>() == 94);

/// What was acquired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Volume {
    /// Number of chunks, as recorded. The tables decide.
    pub(super) chunks: u32,
    /// Guest bytes of a chunk; not 0.
    pub(super) chunk_bytes: u64,
    /// Bytes of a sector of the medium; not 0.
    pub(super) sector_bytes: u64,
    /// Number of sectors of the medium, as recorded: 0 if the writer did not know it.
    pub(super) sectors: u64,
    /// What only EnCase's structure has.
    pub(super) medium: Option<Medium>,
}

/// What EnCase records of a medium, and SMART does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Medium {
    /// The type of the medium: see [`name`](Self::name).
    media_type: u8,
    /// True if a whole device was acquired, and not a volume.
    pub(super) is_physical: bool,
    /// The level of compression: see [`compression`](Self::compression).
    compression: u8,
    /// The identifier of the set of segments; all zeros if there is none.
    pub(super) set: Uuid,
}

impl Medium {
    /// Returns the name of the type of the medium, if it is known.
    pub(super) const fn name(&self) -> Option<&'static str> {
        Some(match self.media_type {
            0x00 => "removable",
            0x01 => "fixed",
            0x03 => "optical",
            0x0e => "logical",
            0x10 => "memory",
            _ => return None,
        })
    }

    /// Returns the name of the level of compression, if it is known.
    pub(super) const fn compression(&self) -> Option<&'static str> {
        Some(match self.compression {
            0 => "none",
            1 => "fast",
            2 => "best",
            _ => return None,
        })
    }
}

impl Volume {
    /// Reads the contents of a section.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if they are invalid,
    /// [`Limit`](crate::ErrorKind::Limit) if chunks are too large, [`Io`](crate::ErrorKind::Io).
    pub(super) fn read(section: &Section, source: &dyn Source, limits: &Limits) -> Result<Self> {
        let at = section.contents.start;
        let volume = if section.len() == SMART_BYTES {
            let bytes: [u8; size_of::<RawSmartVolume>()] =
                section.read_structure(source, STRUCTURE)?;
            let raw: RawSmartVolume = zerocopy::transmute!(bytes);
            require_checksum(&bytes, STRUCTURE, at)?;
            Self {
                chunks: raw.chunks.get(),
                chunk_bytes: chunk_bytes(raw.chunk_sectors, raw.sector_bytes),
                sector_bytes: raw.sector_bytes.get().into(),
                sectors: raw.sectors.get().into(),
                medium: None,
            }
        } else {
            let bytes: [u8; size_of::<RawVolume>()] = section.read_structure(source, STRUCTURE)?;
            let raw: RawVolume = zerocopy::transmute!(bytes);
            require_checksum(&bytes, STRUCTURE, at)?;
            Self {
                chunks: raw.chunks.get(),
                chunk_bytes: chunk_bytes(raw.chunk_sectors, raw.sector_bytes),
                sector_bytes: raw.sector_bytes.get().into(),
                sectors: raw.sectors.get(),
                medium: Some(Medium {
                    media_type: raw.media_type,
                    is_physical: raw.media_flags & 2 != 0,
                    compression: raw.compression,
                    set: Uuid(Uuid::swapped(raw.set)),
                }),
            }
        };
        volume.validate(at, limits)
    }

    fn validate(self, at: u64, limits: &Limits) -> Result<Self> {
        if self.chunk_bytes == 0 {
            let message = "chunks without sectors, or sectors without bytes";
            return Err(Error::corrupt(STRUCTURE, message).at(at + 8));
        }
        if self.chunk_bytes > MAX_CHUNK {
            let message = format!("chunks of {} bytes; at most {MAX_CHUNK}", self.chunk_bytes);
            return Err(Error::corrupt(STRUCTURE, message).at(at + 8));
        }
        if self.chunk_bytes > limits.unit_bytes {
            let found = format!("chunks of {} bytes", self.chunk_bytes);
            return Err(Error::over_limit("unit_bytes", found, limits.unit_bytes)
                .in_structure(STRUCTURE)
                .at(at + 8));
        }
        let size = self.sectors.checked_mul(self.sector_bytes);
        if size.is_none_or(|size| size > i64::MAX.cast_unsigned() - SLACK) {
            let (sectors, bytes) = (self.sectors, self.sector_bytes);
            let message = format!("{sectors} sectors of {bytes} bytes are more than 8 EiB");
            return Err(Error::corrupt(STRUCTURE, message).at(at + 16));
        }
        Ok(self)
    }

    /// Returns the recorded size of the disk in bytes; `None` if the writer did not know it.
    pub(super) fn size(&self) -> Option<u64> {
        Some(self.sectors * self.sector_bytes).filter(|&size| size > 0)
    }

    /// Returns the identifier of the set of segments, if there is one.
    pub(super) fn set(&self) -> Option<Uuid> {
        self.medium.as_ref().map(|medium| medium.set).filter(|set| !set.is_nil())
    }
}

/// Room for rounding the size of a disk up to whole sectors and chunks.
const SLACK: u64 = 1 << 32;

/// Returns the bytes of a chunk, less than 2^64.
fn chunk_bytes(sectors: U32, bytes: U32) -> u64 {
    u64::from(sectors.get()) * u64::from(bytes.get())
}

/// Verifies the checksum in the last four bytes of a structure at `at`.
fn require_checksum(bytes: &[u8], structure: &'static str, at: u64) -> Result<()> {
    let Some((bytes, checksum)) = bytes.split_last_chunk() else { return Ok(()) };
    let (found, recorded) = (adler32(bytes), u32::from_le_bytes(*checksum));
    match found == recorded {
        true => Ok(()),
        false => Err(wrong_checksum(structure, at, found, recorded)),
    }
}

/// Digests of the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Digests {
    pub(super) md5: Option<[u8; 16]>,
    pub(super) sha1: Option<[u8; 20]>,
}

impl Digests {
    /// Reads a section `hash`.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is invalid, [`Io`](crate::ErrorKind::Io).
    pub(super) fn read_hash(section: &Section, source: &dyn Source) -> Result<Self> {
        let bytes: [u8; 36] = section.read_structure(source, DIGESTS)?;
        require_checksum(&bytes, DIGESTS, section.contents.start)?;
        Ok(Self { md5: digest(&bytes, 0), sha1: None })
    }

    /// Reads a section `digest`.
    ///
    /// # Errors
    /// As [`read_hash`](Self::read_hash).
    pub(super) fn read_digest(section: &Section, source: &dyn Source) -> Result<Self> {
        let bytes: [u8; 80] = section.read_structure(source, DIGESTS)?;
        require_checksum(&bytes, DIGESTS, section.contents.start)?;
        Ok(Self { md5: digest(&bytes, 0), sha1: digest(&bytes, 16) })
    }
}

/// Returns the digest at `at`, unless it is all zeros: then it was not computed.
fn digest<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    let digest = *bytes.get(at..)?.first_chunk()?;
    (digest != [0; N]).then_some(digest)
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Default)]
#[repr(C)]
struct RawErrors {
    first: U32,
    count: U32,
}

/// Reads a section `error2`: the sectors that could not be read.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if it is invalid, [`Limit`](crate::ErrorKind::Limit) if it
/// is too long, [`Io`](crate::ErrorKind::Io).
pub(super) fn read_errors(
    section: &Section,
    source: &dyn Source,
    limits: &Limits,
) -> Result<Vec<Range<u64>>> {
    let at = section.contents.start;
    let header: [u8; 520] = section.read_structure(source, ERRORS)?;
    require_checksum(&header, ERRORS, at)?;
    let count = u64::from(u32::from_le_bytes([header[0], header[1], header[2], header[3]]));
    let bytes = count * 8;
    if bytes > section.len() - 520 {
        let message = format!("{count} entries are more than its section has room for");
        return Err(Error::corrupt(ERRORS, message).at(at));
    }
    if bytes > limits.table_bytes {
        let found = format!("an error2 section of {bytes} bytes");
        return Err(Error::over_limit("table_bytes", found, limits.table_bytes));
    }
    let mut raw = vec![RawErrors::default(); to_usize(count)];
    read(source, raw.as_mut_bytes(), at + 520, ERRORS)?;
    if section.len() >= 520 + bytes + 4 {
        let mut checksum = [0; 4];
        read(source, &mut checksum, at + 520 + bytes, ERRORS)?;
        let (found, recorded) = (adler32(raw.as_bytes()), u32::from_le_bytes(checksum));
        if found != recorded {
            return Err(wrong_checksum(ERRORS, at + 520, found, recorded));
        }
    }
    let range = |raw: &RawErrors| {
        let first = u64::from(raw.first.get());
        first..first + u64::from(raw.count.get())
    };
    Ok(raw.iter().map(range).collect())
}

/// Returns the number of sectors in `ranges`.
pub(super) fn sectors_in(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).fold(0, u64::saturating_add)
}
