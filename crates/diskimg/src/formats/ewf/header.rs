//! The header of a segment file.
//!
//! ```text
//!   0                        8   9         11
//!   ┌────────────────────────┬───┬─────────┬───┐
//!   │ "EVF" 09 0d 0a ff 00   │ 1 │ segment │ 0 │   13 bytes
//!   └────────────────────────┴───┴─────────┴───┘
//! ```

use super::read;
use crate::error::{Error, Result};
use crate::storage::source::Source;
use zerocopy::byteorder::little_endian::U16;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// The signature of a segment file.
pub(super) const SIGNATURE: [u8; 8] = *b"EVF\x09\x0d\x0a\xff\0";

/// The signature of a segment file of logical evidence (`.L01`), which has files and no disk.
const LOGICAL: [u8; 8] = *b"LVF\x09\x0d\x0a\xff\0";

/// The signatures of the second version of the format: `.Ex01` and `.Lx01`.
const VERSION_2: [[u8; 8]; 2] = [*b"EVF2\x0d\x0a\x81\0", *b"LEF2\x0d\x0a\x81\0"];

/// Length in bytes of the header: the first section follows.
pub(super) const HEADER_BYTES: u64 = 13;

/// How messages call the header.
const STRUCTURE: &str = "EWF file header";

#[derive(FromBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawHeader {
    signature: [u8; 8],
    start: u8,
    segment: U16,
    end: [u8; 2],
}

const _: () = assert!(size_of::<RawHeader>() == 13);

/// Reads the header of a segment file and returns the number of the segment: the first one is 1.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if it is invalid or the file is too short,
/// [`Unsupported`](crate::ErrorKind::Unsupported) for logical evidence and version 2,
/// [`Io`](crate::ErrorKind::Io).
pub(super) fn read_segment_number(source: &dyn Source) -> Result<u16> {
    let mut bytes = [0; size_of::<RawHeader>()];
    read(source, &mut bytes, 0, STRUCTURE)?;
    let raw: RawHeader = zerocopy::transmute!(bytes);
    match raw.signature {
        SIGNATURE => {}
        LOGICAL => {
            return Err(Error::unsupported("logical evidence (L01), which has files and no disk")
                .in_structure(STRUCTURE)
                .at(0));
        }
        signature if VERSION_2.contains(&signature) => {
            return Err(Error::unsupported("version 2 of the format (Ex01, Lx01)")
                .in_structure(STRUCTURE)
                .at(0)
                .hint("acquire or export it as E01"));
        }
        _ => {
            return Err(Error::corrupt(STRUCTURE, "expected the signature EVF").at(0));
        }
    }
    match raw.segment.get() {
        0 => Err(Error::corrupt(STRUCTURE, "the segment number 0; the first is 1").at(9)),
        number => Ok(number),
    }
}
