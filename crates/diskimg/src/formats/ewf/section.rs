//! The sections of a segment file.
//!
//! ```text
//!   0        16       24      32          72         76
//!   ┌────────┬────────┬───────┬───────────┬──────────┬──────────┐
//!   │ type   │ next   │ size  │ 0         │ checksum │ contents │   next = offset of this + size
//!   └────────┴────────┴───────┴───────────┴──────────┴──────────┘
//! ```
//!
//! The last section is `next` or, in the last segment, `done`; it refers to itself.

use super::header::HEADER_BYTES;
use super::{read, wrong_checksum};
use crate::error::{Error, Result};
use crate::storage::codec::adler32;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;
use std::ops::Range;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Length in bytes of a section's descriptor.
const DESCRIPTOR_BYTES: u64 = 76;

/// How messages call a section's descriptor.
const STRUCTURE: &str = "EWF section descriptor";

#[derive(FromBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawDescriptor {
    kind: [u8; 16],
    next: U64,
    size: U64,
    padding: [u8; 40],
    checksum: U32,
}

const _: () = assert!(to_u64(size_of::<RawDescriptor>()) == DESCRIPTOR_BYTES);

/// What a section contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Values in text, compressed (`header`).
    Header,
    /// The same values in UTF-16 (`header2`).
    Header2,
    /// What was acquired (`volume`, `disk`).
    Volume,
    /// A copy of it, in the other segments (`data`).
    Data,
    /// Chunks (`sectors`).
    Sectors,
    /// Where the chunks are (`table`).
    Table,
    /// A copy of the table (`table2`).
    Table2,
    /// The MD5 of the disk (`hash`).
    Hash,
    /// The MD5 and SHA-1 of the disk (`digest`).
    Digest,
    /// Sectors that could not be read (`error2`).
    Errors,
    /// Files of logical evidence (`ltree`).
    LogicalFiles,
    /// The acquisition was not finished (`incomplete`).
    Incomplete,
    /// The end of a segment that another one follows (`next`).
    Next,
    /// The end of the last segment (`done`).
    Done,
    /// Anything else: nothing that a disk needs.
    Other,
}

impl Kind {
    fn parse(name: &[u8; 16]) -> Self {
        let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
        match &name[..end] {
            b"header" => Self::Header,
            b"header2" => Self::Header2,
            b"volume" | b"disk" => Self::Volume,
            b"data" => Self::Data,
            b"sectors" => Self::Sectors,
            b"table" => Self::Table,
            b"table2" => Self::Table2,
            b"hash" => Self::Hash,
            b"digest" => Self::Digest,
            b"error2" => Self::Errors,
            b"ltree" => Self::LogicalFiles,
            b"incomplete" => Self::Incomplete,
            b"next" => Self::Next,
            b"done" => Self::Done,
            _ => Self::Other,
        }
    }
}

/// A section of a segment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) kind: Kind,
    /// Host offsets of the contents. Those of [`Kind::Next`] and [`Kind::Done`] are empty.
    pub(super) contents: Range<u64>,
}

impl Section {
    /// Returns the number of bytes of the contents.
    pub(super) fn len(&self) -> u64 {
        self.contents.end - self.contents.start
    }

    /// Reads contents that have to be a structure of this size or longer; returns the structure.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if they are shorter, [`Io`](crate::ErrorKind::Io).
    pub(super) fn read_structure<const N: usize>(
        &self,
        source: &dyn Source,
        structure: &'static str,
    ) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        if self.len() < to_u64(N) {
            let message = format!("its section has only {} bytes instead of {N}", self.len());
            return Err(Error::corrupt(structure, message).at(self.contents.start));
        }
        read(source, &mut bytes, self.contents.start, structure)?;
        Ok(bytes)
    }
}

/// Returns the sections of a segment file, one at a time.
pub(super) struct Sections<'a> {
    source: &'a dyn Source,
    /// Host offset of the next section's descriptor; `None` at the end.
    at: Option<u64>,
}

impl<'a> Sections<'a> {
    pub(super) fn new(source: &'a dyn Source) -> Self {
        Self { source, at: Some(HEADER_BYTES) }
    }

    fn section_at(&mut self, at: u64) -> Result<Section> {
        let (mut bytes, len) = ([0; to_usize(DESCRIPTOR_BYTES)], self.source.len());
        let start = at.saturating_add(DESCRIPTOR_BYTES);
        if start > len {
            let message = format!("the file ends at {len:#x} without a section 'next' or 'done'");
            return Err(Error::corrupt(STRUCTURE, message)
                .at(at)
                .hint("the file is truncated, or the acquisition was not finished"));
        }
        read(self.source, &mut bytes, at, STRUCTURE)?;
        let raw: RawDescriptor = zerocopy::transmute!(bytes);
        let found = adler32(&bytes[..bytes.len() - 4]);
        if found != raw.checksum.get() {
            return Err(wrong_checksum(STRUCTURE, at, found, raw.checksum.get()));
        }
        let (kind, next, size) = (Kind::parse(&raw.kind), raw.next.get(), raw.size.get());
        if matches!(kind, Kind::Next | Kind::Done) {
            return Ok(Section { kind, contents: start..start });
        }
        if next < start {
            let message = format!("the next section is said to be at {next:#x}");
            return Err(Error::corrupt(STRUCTURE, message).at(at));
        }
        // Expert Witness 1.35 does not record the size.
        if size != 0 && size != next - at {
            let message = format!(
                "the next section is at {next:#x}, but after the size of this one at {:#x}: \
                 programs read different images",
                at.saturating_add(size)
            );
            return Err(Error::corrupt(STRUCTURE, message).at(at));
        }
        if next > len {
            let message =
                format!("it extends to {next:#x}, beyond the end of the file at {len:#x}");
            return Err(Error::corrupt(STRUCTURE, message)
                .at(at)
                .hint("the file is probably truncated"));
        }
        self.at = Some(next);
        Ok(Section { kind, contents: start..next })
    }
}

impl Iterator for Sections<'_> {
    type Item = Result<Section>;

    /// Returns the next section. An error, and a section [`Kind::Next`] or [`Kind::Done`], is the
    /// last item.
    fn next(&mut self) -> Option<Self::Item> {
        let at = self.at.take()?;
        Some(self.section_at(at))
    }
}
