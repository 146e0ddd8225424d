//! The trailer: where the parts of the file are, the size of the disk, and checksums.

use super::SECTOR;
use crate::error::{Error, Result};
use crate::open::probe::ProbeBuffer;
use crate::report::check::DigestValue;
use crate::storage::number::{to_index, to_u64, to_usize};
use crate::storage::source::Source;
use std::ops::Range;
use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// How messages call the trailer.
pub(super) const TRAILER: &str = "DMG trailer";

/// Length in bytes.
pub(super) const LEN: usize = 512;

/// Signature, version 4, and the length: what programs recognize a trailer by.
const SIGNATURE: &[u8; 12] = b"koly\0\0\0\x04\0\0\x02\0";

/// The kind of checksum that is a CRC-32.
const CRC32: u32 = 2;

/// A checksum on disk.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Checksum {
    kind: U32,
    /// Number of bits in use.
    bits: U32,
    value: [u8; 128],
}

impl Checksum {
    /// Returns the value, or `None` if there is none or if its kind is not known.
    pub(super) fn value(&self) -> Option<DigestValue> {
        let [a, b, c, d, ..] = self.value;
        let is_crc = self.kind.get() == CRC32 && self.bits.get() == 32;
        is_crc.then_some(DigestValue::Crc32(u32::from_be_bytes([a, b, c, d])))
    }

    /// Returns the kind and the number of bits of a value whose kind is not known.
    pub(super) fn unknown(&self) -> Option<(u32, u32)> {
        let is_none = self.bits.get() == 0 || self.kind.get() == 0;
        (!is_none && self.value().is_none()).then_some((self.kind.get(), self.bits.get()))
    }

    /// Returns the bytes in use, which the master checksum covers.
    pub(super) fn bytes(&self) -> &[u8] {
        let len = to_index(self.bits.get() / 8).min(self.value.len());
        &self.value[..len]
    }
}

/// A part of the file on disk.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawPart {
    offset: U64,
    len: U64,
}

/// The trailer on disk.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawTrailer {
    signature: [u8; 12],
    flags: U32,
    running_data_fork_offset: U64,
    data_fork: RawPart,
    resource_fork: RawPart,
    segment: U32,
    segments: U32,
    segment_id: [u8; 16],
    data_checksum: Checksum,
    plist: RawPart,
    reserved: [u8; 120],
    master_checksum: Checksum,
    variant: U32,
    sectors: U64,
    reserved_2: [u8; 12],
}

const _: () = assert!(size_of::<RawTrailer>() == LEN);

/// A valid trailer.
#[derive(Debug)]
pub(super) struct Trailer {
    /// Its host offset.
    pub(super) at: u64,
    /// Host range of the data fork. May extend beyond the end of the file.
    pub(super) data_fork: Range<u64>,
    /// Host offset and length of the resource fork; the length may be 0.
    pub(super) resource_fork: (u64, u64),
    /// Host offset and length of the property list; the length may be 0.
    pub(super) plist: (u64, u64),
    pub(super) data_checksum: Checksum,
    pub(super) master_checksum: Checksum,
    /// Size of the disk in sectors; may be 0 or too small.
    pub(super) sectors: u64,
}

/// Returns the index of the last trailer in `tail`, the last bytes of a file.
pub(super) fn find(tail: &[u8]) -> Option<usize> {
    let last = tail.len().checked_sub(LEN)?;
    // Programs add some bytes after it, and 7-Zip none: the last one counts.
    (0..=last).rev().find(|&at| tail[at..].starts_with(SIGNATURE))
}

/// Returns true if a file that starts with `head` starts with a trailer.
pub(super) fn is_at_start(head: &[u8]) -> bool {
    head.starts_with(SIGNATURE) && head.len() >= LEN
}

/// Returns true if the file is encrypted: version 2 has a header, version 1 a trailer.
pub(crate) fn is_encrypted(head: &[u8], tail: &[u8]) -> bool {
    head.starts_with(b"encrcdsa") || tail.ends_with(b"cdsaencr")
}

impl Trailer {
    /// Finds and reads the trailer.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if there is none or if it is not valid,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for an encrypted image and for a segment of
    /// one, [`Io`](crate::ErrorKind::Io).
    pub(super) fn read(source: &dyn Source) -> Result<Self> {
        let io = |e, at| Error::io("cannot read it", e).in_structure(TRAILER).at(at);
        let len = source.len();
        let tail_at = len.saturating_sub(to_u64(ProbeBuffer::TAIL));
        let mut tail = vec![0; to_usize(len - tail_at)];
        source.read_exact_at(&mut tail, tail_at).map_err(|e| io(e, tail_at))?;
        if let Some(found) = find(&tail) {
            return Self::parse(&tail[found..], tail_at + to_u64(found));
        }
        let mut head = vec![0; to_usize(len.min(to_u64(LEN)))];
        source.read_exact_at(&mut head, 0).map_err(|e| io(e, 0))?;
        if is_at_start(&head) {
            return Self::parse(&head, 0);
        }
        if is_encrypted(&head, &tail) {
            return Err(Error::unsupported("an encrypted DMG")
                .hint("decrypt it first: hdiutil convert -format UDZO -o OUTPUT.dmg INPUT.dmg"));
        }
        Err(Error::corrupt(TRAILER, "it is not in the last bytes of the file").hint(
            "the file is truncated, or it is a disk image without a trailer: \
             such an image is raw",
        ))
    }

    fn parse(bytes: &[u8], at: u64) -> Result<Self> {
        let corrupt = |message: &'static str| Error::corrupt(TRAILER, message).at(at);
        let Ok((raw, _)) = RawTrailer::read_from_prefix(bytes) else {
            return Err(corrupt("it is not complete"));
        };
        if raw.segments.get() > 1 {
            let message =
                format!("segment {} of {} of a DMG", raw.segment.get(), raw.segments.get());
            return Err(Error::unsupported(message)
                .in_structure(TRAILER)
                .at(at)
                .hint("join the segments: hdiutil convert -format UDZO -o OUTPUT.dmg FIRST.dmg"));
        }
        let part = |part: RawPart| (part.offset.get(), part.len.get());
        let (data_at, data_len) = part(raw.data_fork);
        let end = data_at.checked_add(data_len);
        let end = end.ok_or_else(|| corrupt("the length of the data fork is not valid"))?;
        let sectors = raw.sectors.get();
        if sectors > i64::MAX.unsigned_abs() / SECTOR {
            return Err(corrupt("the size of the disk is not valid"));
        }
        Ok(Self {
            at,
            data_fork: data_at..end,
            resource_fork: part(raw.resource_fork),
            plist: part(raw.plist),
            data_checksum: raw.data_checksum,
            master_checksum: raw.master_checksum,
            sectors,
        })
    }
}
