//! System use entries (SUSP 1.12): a list of fields behind a record's name, which may go on
//! elsewhere.

use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::iso::finding::{FindingCode, Findings};
use crate::storage::number::{to_index, to_u64};
use crate::storage::source::Source;

/// A system use entry whose length is right (4.1).
#[derive(Debug, Clone, Copy)]
pub(crate) struct SystemUse<'a> {
    /// What it is.
    pub(crate) signature: [u8; 2],
    /// What follows length and version.
    pub(crate) data: &'a [u8],
}

/// Where system use fields go on, as a CE entry says (5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Continuation {
    offset: u64,
    len: u32,
}

/// How far the system use fields of one directory may go on elsewhere.
#[derive(Debug)]
pub(crate) struct Allowance {
    /// Areas that one field runs through.
    areas: u64,
    /// Bytes that all of them together have left.
    bytes: u64,
}

/// What even the smallest area counts for, in bytes: it is read, too.
const LEAST: u64 = 256;

impl Allowance {
    /// For a directory of so many bytes. The longest name and the longest link take less than
    /// thirty times the record that they go on from.
    pub(crate) fn new(areas: u64, directory_bytes: u64) -> Self {
        Self { areas, bytes: directory_bytes.saturating_mul(32) }
    }
}

/// Calls `take` with every entry of a record's system use field, which `area` is, and of the
/// areas it goes on in. `offset` is where the record is.
///
/// What is wrong ends its area: nothing behind it can be told apart.
///
/// # Errors
/// What `findings` and `take` said; [`Io`](crate::ErrorKind::Io).
pub(crate) fn each(
    image: &dyn Source,
    area: &[u8],
    offset: u64,
    allowance: &mut Allowance,
    findings: &mut Findings<'_>,
    take: &mut dyn FnMut(SystemUse<'_>, &mut Findings<'_>) -> Result<()>,
) -> Result<()> {
    let mut next = each_here(area, offset, findings, take)?;
    // Areas seen: an area that is entered twice is a loop.
    let mut seen: Vec<Continuation> = Vec::new();
    while let Some(here) = next {
        let charge = u64::from(here.len).max(LEAST);
        if to_u64(seen.len()) >= allowance.areas {
            let found = "a system use field goes on in more areas";
            return findings.over_limit(offset, "continuations", found, allowance.areas);
        }
        let fault = if charge > allowance.bytes {
            Some("goes on for longer than any file's would".to_owned())
        } else if seen.iter().any(|one| one.overlaps(here)) {
            Some("goes on in an area that it has been in".to_owned())
        } else if here.offset.checked_add(here.len.into()).is_none_or(|end| end > image.len()) {
            Some("goes on outside the image".to_owned())
        } else if u64::from(here.len) > SECTOR {
            Some(format!("goes on in an area of {} bytes; one sector is most", here.len))
        } else {
            None
        };
        if let Some(fault) = fault {
            return findings
                .warn(FindingCode::SystemUse, offset, || format!("the system use field {fault}"));
        }
        seen.push(here);
        allowance.bytes -= charge;
        let mut area = vec![0; to_index(here.len)];
        image
            .read_exact_at(&mut area, here.offset)
            .map_err(|e| Error::io("cannot read a continuation area", e).at(here.offset))?;
        next = each_here(&area, here.offset, findings, take)?;
    }
    Ok(())
}

impl Continuation {
    fn overlaps(self, other: Self) -> bool {
        self.offset < other.offset.saturating_add(other.len.into())
            && other.offset < self.offset.saturating_add(self.len.into())
    }
}

/// The entries of one area; gives where they go on.
fn each_here(
    mut area: &[u8],
    offset: u64,
    findings: &mut Findings<'_>,
    take: &mut dyn FnMut(SystemUse<'_>, &mut Findings<'_>) -> Result<()>,
) -> Result<Option<Continuation>> {
    let mut next = None;
    // What is shorter than an entry is padding (4).
    while let &[a, b, len, _version, ..] = area {
        let len = usize::from(len);
        if [a, b] == [0, 0] {
            break; // Padded with zeros.
        }
        let Some(data) = area.get(4..len) else {
            findings.warn(FindingCode::SystemUse, offset, || {
                format!("a system use entry of {len} bytes where {} are left", area.len())
            })?;
            break;
        };
        match &[a, b] {
            b"ST" => break,
            b"CE" => match continuation(data) {
                Some(place) => next = Some(place),
                None => findings.warn(FindingCode::SystemUse, offset, || {
                    format!("a CE entry of {len} bytes")
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

/// The little-endian half of the number at `at`.
pub(super) fn number(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}
