//! Directory records (ECMA-119, 9.1).

use crate::error::Result;
use crate::iso::SECTOR;
use crate::iso::finding::{Finding, FindingCode, Findings};
use crate::iso::read::both::{Both16, Both32};
use crate::report::finding::Severity;
use crate::storage::number::{to_u64, to_usize};
use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Length of the fields before the file identifier in bytes.
const FIXED: usize = 33;

bitflags! {
    /// File flags (ECMA-119, 9.1.6).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct Flags: u8 {
        /// A directory.
        const DIRECTORY = 0x02;
        /// An associated file: it belongs to another file of the same name (such as an Apple
        /// resource fork).
        const ASSOCIATED = 0x04;
        /// Not the last file section of its file.
        const MORE_SECTIONS = 0x80;
    }
}

/// On-disk layout of a directory record.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRecord {
    len: u8,
    attribute_blocks: u8,
    extent: Both32,
    size: Both32,
    time: [u8; 7],
    flags: u8,
    unit_blocks: u8,
    gap_blocks: u8,
    sequence: Both16,
    name_len: u8,
}

/// A directory record whose length fields are valid.
#[derive(Debug, Clone)]
pub(crate) struct Record<'a> {
    /// Byte offset of the record in the directory.
    pub(crate) at: usize,
    /// Byte offset of the extent's data in the image, after the extended attribute record.
    pub(crate) offset: u64,
    /// Data length of the extent in bytes.
    pub(crate) size: u32,
    /// Recording time.
    pub(crate) time: [u8; 7],
    pub(crate) flags: Flags,
    /// File unit size in blocks. Not zero if the file is interleaved (6.4.3).
    pub(crate) unit_blocks: u8,
    /// True if there is an extended attribute record, or a gap although the file is not
    /// interleaved: fields that not all programs use.
    #[cfg(feature = "inspect")]
    pub(crate) has_rare_fields: bool,
    /// Sequence number of the volume that contains the extent.
    pub(crate) sequence: u16,
    pub(crate) name: &'a [u8],
    /// System use field.
    pub(crate) system_use: &'a [u8],
    /// True if the halves of the both-endian fields are equal.
    agrees: bool,
}

impl<'a> Record<'a> {
    /// Parses the record at the start of `bytes`, which is at offset `at` of its directory. Returns
    /// `None` if its length fields contradict each other.
    pub(crate) fn parse(bytes: &'a [u8], at: usize) -> Option<Self> {
        let (raw, _) = RawRecord::ref_from_prefix(bytes).ok()?;
        let len = usize::from(raw.len);
        let name_len = usize::from(raw.name_len);
        let name = bytes.get(FIXED..FIXED + name_len)?;
        if name_len == 0 || len < FIXED + name_len || len > bytes.len() {
            return None;
        }
        // A padding byte follows a name of even length (9.1.12).
        let system_use = FIXED + name_len + usize::from(name_len.is_multiple_of(2));
        let agrees = raw.extent.agrees() && raw.size.agrees();
        // A size of zero is valid. The big-endian half is used only if the little-endian half of
        // the record was not written at all.
        let big_only = raw.extent.little() == 0 && !raw.extent.agrees();
        let size = if big_only { raw.size.get() } else { raw.size.little() };
        let block = u64::from(raw.extent.get()) + u64::from(raw.attribute_blocks);
        Some(Self {
            at,
            offset: block * SECTOR,
            size,
            time: raw.time,
            flags: Flags::from_bits_retain(raw.flags),
            unit_blocks: raw.unit_blocks,
            #[cfg(feature = "inspect")]
            has_rare_fields: raw.attribute_blocks != 0 || raw.gap_blocks != 0,
            sequence: raw.sequence.get(),
            name,
            system_use: bytes.get(system_use..len).unwrap_or(&[]),
            agrees,
        })
    }

    /// Returns true for the records of the directory itself and its parent (6.8.2.2).
    pub(crate) fn is_dot(&self) -> bool {
        matches!(self.name, [0 | 1])
    }

    /// Returns true if another file section of the same file follows.
    pub(crate) fn has_more(&self) -> bool {
        self.flags.contains(Flags::MORE_SECTIONS)
    }

    /// Returns true for a directory.
    pub(crate) fn is_dir(&self) -> bool {
        self.flags.contains(Flags::DIRECTORY)
    }
}

/// Calls `take` with each record in `bytes`, the contents of the directory at `offset` of the
/// image. After an invalid record, continues with the next sector, because records do not cross
/// sectors (6.8.1.1).
///
/// # Errors
/// Returns the errors of `findings` and `take`.
pub(crate) fn each<'a>(
    bytes: &'a [u8],
    offset: u64,
    findings: &mut Findings<'_>,
    mut take: impl FnMut(Record<'a>, &mut Findings<'_>) -> Result<()>,
) -> Result<()> {
    let mut at = 0;
    while at < bytes.len() {
        let next_sector = (at / to_usize(SECTOR) + 1) * to_usize(SECTOR);
        let len = usize::from(bytes[at]);
        if len == 0 {
            at = next_sector;
            continue;
        }
        let here = offset.saturating_add(to_u64(at));
        let Some(record) = Record::parse(&bytes[at..], at) else {
            // The next position at which a record must start is the next sector.
            findings.report(|| {
                let what =
                    format!("the length fields of a {len}-byte directory record are invalid");
                Finding::new(FindingCode::DirectoryRecord, Severity::Error, what).at(here)
            })?;
            at = next_sector;
            continue;
        };
        if at + len > next_sector {
            findings.warn(FindingCode::DirectoryRecord, here, || {
                "a directory record crosses a sector boundary".into()
            })?;
        }
        if !record.agrees {
            findings.warn(FindingCode::EndianMismatch, here, || {
                "the halves of a both-endian field differ in a directory record".into()
            })?;
        }
        take(record, findings)?;
        at += len;
    }
    Ok(())
}
