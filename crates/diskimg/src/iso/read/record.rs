//! Directory records (ECMA-119, 9.1).

use crate::error::Result;
use crate::iso::SECTOR;
use crate::iso::finding::{Finding, FindingCode, Findings, Severity};
use crate::iso::read::both::{Both16, Both32};
use crate::storage::number::{to_u64, to_usize};
use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Bytes before the name.
const FIXED: usize = 33;

bitflags! {
    /// File flags (ECMA-119, 9.1.6).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct Flags: u8 {
        /// A directory.
        const DIRECTORY = 0x02;
        /// What belongs to another file of the same name (Apple's resource fork).
        const ASSOCIATED = 0x04;
        /// Not the last section of its file.
        const MORE_SECTIONS = 0x80;
    }
}

/// A directory record as it is recorded.
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

/// A directory record whose lengths are right.
#[derive(Debug, Clone)]
pub(crate) struct Record<'a> {
    /// Where it is in the directory, in bytes.
    pub(crate) at: usize,
    /// First byte of the extent's data, behind its extended attribute record.
    pub(crate) offset: u64,
    /// Bytes of the extent.
    pub(crate) size: u32,
    /// Recording time.
    pub(crate) time: [u8; 7],
    pub(crate) flags: Flags,
    /// Not 0: file units and gaps alternate.
    pub(crate) unit_blocks: u8,
    /// Which volume of the set has it.
    pub(crate) sequence: u16,
    pub(crate) name: &'a [u8],
    /// What follows the name.
    pub(crate) system_use: &'a [u8],
    /// The halves of its numbers say the same.
    agrees: bool,
}

impl<'a> Record<'a> {
    /// Reads the record that `bytes` begins with, which is `at` bytes into its directory.
    /// `None` if its lengths contradict each other.
    pub(crate) fn parse(bytes: &'a [u8], at: usize) -> Option<Self> {
        let (raw, _) = RawRecord::ref_from_prefix(bytes).ok()?;
        let len = usize::from(raw.len);
        let name_len = usize::from(raw.name_len);
        let name = bytes.get(FIXED..FIXED + name_len)?;
        if name_len == 0 || len < FIXED + name_len || len > bytes.len() {
            return None;
        }
        // A name of even length is padded to one (9.1.12).
        let system_use = FIXED + name_len + usize::from(name_len.is_multiple_of(2));
        let agrees = raw.extent.agrees() && raw.size.agrees();
        // Zero is a size like any other; only a record of which the big-endian half alone was
        // written means the other.
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
            sequence: raw.sequence.get(),
            name,
            system_use: bytes.get(system_use..len).unwrap_or(&[]),
            agrees,
        })
    }

    /// True for the records of the directory itself and of its parent (6.8.2.2).
    pub(crate) fn is_dot(&self) -> bool {
        matches!(self.name, [0 | 1])
    }

    /// True if several records make up the file, and this is not the last.
    pub(crate) fn has_more(&self) -> bool {
        self.flags.contains(Flags::MORE_SECTIONS)
    }

    /// True for a directory.
    pub(crate) fn is_dir(&self) -> bool {
        self.flags.contains(Flags::DIRECTORY)
    }
}

/// Calls `take` with every record of a directory, whose bytes these are, and which begins at
/// `offset` of the image. A record that makes no sense ends its sector: the next one begins anew
/// (6.8.1.1).
///
/// # Errors
/// What `findings` and `take` said.
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
            // Where the next one begins is not known before the next sector.
            findings.tell(|| {
                let what = format!("a directory record of {len} bytes does not hold what it says");
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
                "directory record: the halves of a number differ".into()
            })?;
        }
        take(record, findings)?;
        at += len;
    }
    Ok(())
}
