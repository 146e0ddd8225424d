//! The footer: what kind of disk the file contains, its size and its identity.
//!
//! *Virtual Hard Disk Image Format Specification 1.0* (Microsoft, 2006), "Hard Disk Footer Format".
//! All numbers are big endian. Dynamic and differencing disks have a copy of the footer at the start
//! of the file; a fixed disk has none there, because its first byte is the guest's.

use super::geometry::Geometry;
use super::{COOKIE, checksum, read, require_valid};
use crate::error::{Error, Result};
use crate::formats::uuid::Uuid;
use crate::storage::number::to_usize;
use crate::storage::source::Source;
use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of a footer in bytes.
pub(super) const FOOTER_BYTES: u64 = 512;

/// Length of the footer of Virtual PC before 2004, whose last byte, which is reserved, is missing.
const SHORT_FOOTER_BYTES: u64 = 511;

/// The data offset of a fixed disk, which has no dynamic header.
const NO_HEADER: u64 = u64::MAX;

/// The kind of disk that a file contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DiskType {
    /// The guest's bytes, then the footer.
    Fixed,
    /// Blocks that are allocated when they are written.
    Dynamic,
    /// Blocks with the sectors that differ from a parent's.
    Differencing,
}

impl DiskType {
    /// Returns the name, as in the create option `subformat`.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Dynamic => "dynamic",
            Self::Differencing => "differencing",
        }
    }
}

/// The footer on disk.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawFooter {
    cookie: [u8; 8],
    features: U32,
    version: U32,
    data_offset: U64,
    timestamp: U32,
    creator: [u8; 4],
    creator_version: U32,
    creator_os: [u8; 4],
    original_size: U64,
    current_size: U64,
    cylinders: U16,
    heads: u8,
    sectors: u8,
    disk_type: U32,
    checksum: U32,
    uuid: [u8; 16],
    saved_state: u8,
    reserved: [u8; 427],
}

/// Offset of the checksum in the footer.
const CHECKSUM_AT: usize = 64;

/// A valid footer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) disk_type: DiskType,
    /// Size of the disk in bytes, a multiple of 512.
    pub(super) current_size: u64,
    /// Size of the disk when it was created, in bytes.
    pub(super) original_size: u64,
    /// The size of the disk for programs that use cylinders, heads and sectors.
    pub(super) geometry: Geometry,
    /// Host offset of the dynamic header; `None` for a fixed disk.
    pub(super) header_at: Option<u64>,
    /// The program that created the disk.
    pub(super) creator: [u8; 4],
    pub(super) creator_version: u32,
    pub(super) creator_os: [u8; 4],
    /// Creation time: seconds since 2000-01-01 00:00:00 UTC.
    pub(super) timestamp: u32,
    pub(super) uuid: Uuid,
    /// The virtual machine was suspended.
    pub(super) saved_state: bool,
}

impl Footer {
    /// Parses the footer at host offset `at`.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the cookie or the checksum is wrong or a value is
    /// invalid, [`Unsupported`](crate::ErrorKind::Unsupported) for another version.
    pub(super) fn parse(bytes: &[u8; to_usize(FOOTER_BYTES)], at: u64) -> Result<Self> {
        let corrupt = |field: u64, message: String| {
            Error::corrupt("VHD footer", message).at(at.saturating_add(field))
        };
        let raw: RawFooter = zerocopy::transmute!(*bytes);
        if raw.cookie != COOKIE {
            return Err(corrupt(0, "expected \"conectix\"".into()));
        }
        require_valid("VHD footer", bytes, at, CHECKSUM_AT, raw.version.get())?;
        let disk_type = match raw.disk_type.get() {
            2 => DiskType::Fixed,
            3 => DiskType::Dynamic,
            4 => DiskType::Differencing,
            other => return Err(corrupt(60, format!("disk type {other}; expected 2, 3 or 4"))),
        };
        let header_at = match (disk_type, raw.data_offset.get()) {
            // Some programs write 32 bits of ones only.
            (DiskType::Fixed, _) => None,
            (_, NO_HEADER) => {
                let message = format!("a {} disk without a dynamic header", disk_type.name());
                return Err(corrupt(16, message));
            }
            (_, offset) => Some(offset),
        };
        let current_size = raw.current_size.get();
        if !current_size.is_multiple_of(super::SECTOR) || current_size > i64::MAX.cast_unsigned() {
            let message = format!("a disk of {current_size} bytes, not a multiple of 512");
            return Err(corrupt(48, message));
        }
        Ok(Self {
            disk_type,
            current_size,
            original_size: raw.original_size.get(),
            geometry: Geometry {
                cylinders: raw.cylinders.get(),
                heads: raw.heads,
                sectors: raw.sectors,
            },
            header_at,
            creator: raw.creator,
            creator_version: raw.creator_version.get(),
            creator_os: raw.creator_os,
            timestamp: raw.timestamp.get(),
            uuid: Uuid(raw.uuid),
            saved_state: raw.saved_state != 0,
        })
    }

    /// Returns the footer's bytes, with its checksum.
    pub(super) fn encode(&self) -> [u8; to_usize(FOOTER_BYTES)] {
        let raw = RawFooter {
            cookie: COOKIE,
            // Bit 1 is reserved and always set.
            features: 2.into(),
            version: super::VERSION.into(),
            data_offset: self.header_at.unwrap_or(NO_HEADER).into(),
            timestamp: self.timestamp.into(),
            creator: self.creator,
            creator_version: self.creator_version.into(),
            creator_os: self.creator_os,
            original_size: self.original_size.into(),
            current_size: self.current_size.into(),
            cylinders: self.geometry.cylinders.into(),
            heads: self.geometry.heads,
            sectors: self.geometry.sectors,
            disk_type: match self.disk_type {
                DiskType::Fixed => 2,
                DiskType::Dynamic => 3,
                DiskType::Differencing => 4,
            }
            .into(),
            checksum: 0.into(),
            uuid: self.uuid.0,
            saved_state: self.saved_state.into(),
            reserved: [0; 427],
        };
        let mut bytes: [u8; to_usize(FOOTER_BYTES)] = zerocopy::transmute!(raw);
        let sum = checksum(&bytes, CHECKSUM_AT);
        bytes[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// Returns true if QEMU computes the size of the disk from its geometry: for disks of Virtual PC
    /// and its own, unless the geometry is the largest one.
    pub(super) fn qemu_uses_geometry(&self) -> bool {
        matches!(&self.creator, b"vpc " | b"qemu") && self.geometry != Geometry::MAX
    }

    /// Describes the first difference to `other` that matters for reading the disk.
    pub(super) fn contradiction(&self, other: &Self) -> Option<String> {
        let differ = |what: &str, a: String, b: String| {
            Some(format!("the {what} is {a} in one and {b} in the other"))
        };
        if self.disk_type != other.disk_type {
            return differ(
                "disk type",
                self.disk_type.name().into(),
                other.disk_type.name().into(),
            );
        }
        if self.current_size != other.current_size {
            let bytes = |footer: &Self| format!("{} bytes", footer.current_size);
            return differ("size", bytes(self), bytes(other));
        }
        if self.header_at != other.header_at {
            let offset = |footer: &Self| format!("{:#x}", footer.header_at.unwrap_or(NO_HEADER));
            return differ("offset of the dynamic header", offset(self), offset(other));
        }
        if self.uuid != other.uuid {
            return differ("UUID", self.uuid.to_string(), other.uuid.to_string());
        }
        None
    }
}

/// The two copies of the footer.
#[derive(Debug)]
pub(super) struct Footers {
    /// The copy at the start of the file. An error if there is a damaged one, `None` if the file
    /// does not begin with the cookie.
    pub(super) head: Option<Result<Footer>>,
    /// The footer at the end of the file, as for `head`, and its host offset.
    pub(super) tail: Option<(u64, Result<Footer>)>,
}

impl Footers {
    /// Reads the copies.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the file cannot be read.
    pub(super) fn read(source: &dyn Source) -> Result<Self> {
        let head = at(source, 0, FOOTER_BYTES)?;
        let mut tail = None;
        for len in [FOOTER_BYTES, SHORT_FOOTER_BYTES] {
            let Some(start) = source.len().checked_sub(len) else { continue };
            // In a file of 512 bytes, both are the same.
            if let Some(footer) = at(source, start, len)? {
                tail = Some((start, footer));
                break;
            }
        }
        Ok(Self { head, tail })
    }

    /// Returns the footer to use, preferring the one at the end, which the specification calls the
    /// footer; the other one is its copy.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if no copy is valid, or if two valid ones contradict
    /// each other, unless `tolerant`. The first sector of a fixed disk is the guest's, except for
    /// QEMU (`like_qemu`), which takes it for the footer.
    pub(super) fn choose(self, tolerant: bool, like_qemu: bool) -> Result<Footer> {
        match (self.head, self.tail) {
            (Some(Ok(head)), Some((at, Ok(tail)))) => {
                let is_copy = tail.disk_type != DiskType::Fixed || like_qemu;
                let contradiction = head.contradiction(&tail).filter(|_| is_copy && !tolerant);
                match contradiction {
                    Some(what) => Err(Error::corrupt(
                        "VHD footer",
                        format!("it and its copy at the start of the file differ: {what}"),
                    )
                    .at(at)),
                    None => Ok(tail),
                }
            }
            (_, Some((_, Ok(footer)))) => Ok(footer),
            (Some(Ok(footer)), _) if footer.disk_type != DiskType::Fixed => Ok(footer),
            (_, Some((_, Err(error)))) | (Some(Err(error)), None) => Err(error),
            (Some(Ok(_)), None) => Err(Error::corrupt(
                "VHD footer",
                "the footer of a fixed disk is at the end of the file, but there is none",
            )
            .hint("the file is probably truncated")),
            (None, None) => {
                Err(Error::corrupt("VHD footer", "expected \"conectix\" in the last sector")
                    .hint("the file is not a VHD, or it is truncated"))
            }
        }
    }

    /// Describes how two valid copies of a dynamic disk's footer contradict each other.
    pub(super) fn contradiction(&self) -> Option<String> {
        match (&self.head, &self.tail) {
            (Some(Ok(head)), Some((_, Ok(tail)))) if tail.disk_type != DiskType::Fixed => {
                head.contradiction(tail)
            }
            _ => None,
        }
    }

    /// Returns the end of the space for blocks: the start of the footer at the end, if there is one.
    pub(super) fn data_end(&self, source: &dyn Source) -> u64 {
        self.tail.as_ref().map_or(source.len(), |(start, _)| *start)
    }

    /// Describes the damage of a copy, if the other one is used.
    pub(super) fn damage(&self) -> Option<String> {
        let is_dynamic = |footer: &Footer| footer.disk_type != DiskType::Fixed;
        match (&self.head, &self.tail) {
            (Some(Ok(_)), None) => Some("the footer at the end of the file is missing".into()),
            (Some(Ok(_)), Some((_, Err(error)))) => {
                Some(format!("the footer at the end of the file is damaged: {error}"))
            }
            (Some(Err(error)), Some((_, Ok(tail)))) if is_dynamic(tail) => {
                Some(format!("the copy of the footer at the start of the file is damaged: {error}"))
            }
            (None, Some((_, Ok(tail)))) if is_dynamic(tail) => {
                Some("the copy of the footer at the start of the file is missing".into())
            }
            _ => None,
        }
    }
}

/// Reads the footer of `len` bytes at `start`; `None` if the cookie is not there.
fn at(source: &dyn Source, start: u64, len: u64) -> Result<Option<Result<Footer>>> {
    if start.checked_add(len).is_none_or(|end| end > source.len()) {
        return Ok(None);
    }
    let mut bytes = [0; to_usize(FOOTER_BYTES)];
    read(source, &mut bytes[..to_usize(len)], start, "VHD footer")?;
    Ok(bytes.starts_with(&COOKIE).then(|| Footer::parse(&bytes, start)))
}
