//! System use entries (SUSP 1.12). They are in the system use area at the end of a directory record
//! and may continue in continuation areas elsewhere.

use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::iso::finding::{FindingCode, Findings};
use crate::storage::number::{to_index, to_u64};
use crate::storage::source::Source;
use byteorder::{ByteOrder, LittleEndian};

/// A system use entry whose length is valid (4.1).
#[derive(Debug, Clone, Copy)]
pub(crate) struct SystemUse<'a> {
    /// Signature word.
    pub(crate) signature: [u8; 2],
    /// Data after the length and version fields.
    pub(crate) data: &'a [u8],
}

/// Location of a continuation area, from a CE entry (5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Continuation {
    offset: u64,
    len: u32,
}

/// Bounds on the continuation areas of one directory.
#[derive(Debug)]
pub(crate) struct ContinuationBudget {
    /// Maximum number of areas per directory record.
    areas: u64,
    /// Remaining bytes for all areas of the directory.
    bytes: u64,
    used: u64,
}

/// Minimum number of bytes that an area counts as. Even an empty area costs a read.
const MIN_CHARGE: u64 = 256;

impl ContinuationBudget {
    /// Creates the budget for a directory of `directory_bytes` bytes. The continuation areas for
    /// the longest name and the longest link target are less than 30 times as long as the directory
    /// record.
    pub(crate) fn new(areas: u64, directory_bytes: u64) -> Self {
        Self { areas, bytes: directory_bytes.saturating_mul(32), used: 0 }
    }

    /// Returns the number of bytes that the areas so far count as.
    pub(crate) fn used(&self) -> u64 {
        self.used
    }
}

/// Calls `take` with each entry in `area`, the system use area of a record, and in its continuation
/// areas. `offset` is the byte offset of the record in the image.
///
/// An invalid entry ends its area, because the start of the next one is not known.
///
/// # Errors
/// Returns the errors of `findings` and `take`, and [`Io`](crate::ErrorKind::Io) if reading a
/// continuation area fails.
pub(crate) fn each(
    image: &dyn Source,
    area: &[u8],
    offset: u64,
    budget: &mut ContinuationBudget,
    findings: &mut Findings<'_>,
    take: &mut dyn FnMut(SystemUse<'_>, &mut Findings<'_>) -> Result<()>,
) -> Result<()> {
    let mut next = each_in_area(area, offset, findings, take)?;
    // An area that overlaps an earlier one is a loop.
    let mut seen: Vec<Continuation> = Vec::new();
    while let Some(here) = next {
        let charge = u64::from(here.len).max(MIN_CHARGE);
        if to_u64(seen.len()) >= budget.areas {
            let found = "a directory record with more continuation areas";
            return findings.over_limit(offset, "continuations", found, budget.areas);
        }
        let fault = if charge > budget.bytes {
            Some("exceeds the maximum total length for its directory".to_owned())
        } else if seen.iter().any(|one| one.overlaps(here)) {
            Some("overlaps an earlier one of the same record".to_owned())
        } else if here.offset.checked_add(here.len.into()).is_none_or(|end| end > image.len()) {
            Some("is not within the image".to_owned())
        } else if u64::from(here.len) > SECTOR {
            Some(format!("has {} bytes; the maximum is one sector", here.len))
        } else {
            None
        };
        if let Some(fault) = fault {
            return findings
                .warn(FindingCode::SystemUse, offset, || format!("the continuation area {fault}"));
        }
        seen.push(here);
        budget.bytes -= charge;
        budget.used += charge;
        let mut area = vec![0; to_index(here.len)];
        image
            .read_exact_at(&mut area, here.offset)
            .map_err(|e| Error::io("cannot read a continuation area", e).at(here.offset))?;
        next = each_in_area(&area, here.offset, findings, take)?;
    }
    Ok(())
}

impl Continuation {
    fn overlaps(self, other: Self) -> bool {
        self.offset < other.offset.saturating_add(other.len.into())
            && other.offset < self.offset.saturating_add(self.len.into())
    }
}

/// Calls `take` with each entry of one area, and returns the location of the next area.
fn each_in_area(
    mut area: &[u8],
    offset: u64,
    findings: &mut Findings<'_>,
    take: &mut dyn FnMut(SystemUse<'_>, &mut Findings<'_>) -> Result<()>,
) -> Result<Option<Continuation>> {
    let mut next = None;
    // A remainder shorter than an entry is padding (4).
    while let &[a, b, len, _version, ..] = area {
        let len = usize::from(len);
        if [a, b] == [0, 0] {
            break; // Zero padding.
        }
        let Some(data) = area.get(4..len) else {
            findings.warn(FindingCode::SystemUse, offset, || {
                format!("invalid length {len} of a system use entry; {} bytes are left", area.len())
            })?;
            break;
        };
        match &[a, b] {
            b"ST" => break,
            b"CE" => match continuation(data) {
                Some(continuation) => next = Some(continuation),
                None => findings.warn(FindingCode::SystemUse, offset, || {
                    format!("a CE entry has {len} bytes; expected 28")
                })?,
            },
            b"PD" => {}
            signature => take(SystemUse { signature: *signature, data }, findings)?,
        }
        area = &area[len..];
    }
    Ok(next)
}

fn continuation(data: &[u8]) -> Option<Continuation> {
    let (block, within, len) = (number(data, 0)?, number(data, 8)?, number(data, 16)?);
    Some(Continuation { offset: u64::from(block) * SECTOR + u64::from(within), len })
}

/// Returns the little-endian half of the both-endian number at offset `at`.
pub(super) fn number(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..at + 4).map(LittleEndian::read_u32)
}
