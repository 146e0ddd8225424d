//! Path tables (ECMA-119, 9.4): location and parent of every directory, for access to a directory
//! without reading its parents.

use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::storage::number::to_index;
use crate::storage::source::Source;

/// Length of the fields before the directory identifier in bytes.
const FIXED: usize = 8;

/// Byte order of the numbers in a path table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ByteOrder {
    Little,
    Big,
}

/// A path table record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathRecord {
    /// First sector of the directory.
    pub(crate) sector: u32,
    /// Number of the parent's record in the table, starting at 1.
    pub(crate) parent: u16,
    /// Directory identifier.
    pub(crate) name: Vec<u8>,
}

/// Reads the path table of `len` bytes at `sector`.
///
/// # Errors
/// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if it is not within the image or a record is
/// invalid, [`Limit`](crate::ErrorKind::Limit) if it is longer than `limit` bytes,
/// [`Io`](crate::ErrorKind::Io) if reading fails.
pub(crate) fn read(
    image: &dyn Source,
    sector: u32,
    len: u32,
    order: ByteOrder,
    limit: u64,
) -> Result<Vec<PathRecord>> {
    let offset = u64::from(sector) * SECTOR;
    let bad = |message: &'static str| Error::corrupt("path table", message).at(offset);
    if u64::from(len) > limit {
        let found = format!("a path table of {len} bytes");
        return Err(Error::over_limit("directory_bytes", found, limit));
    }
    if offset + u64::from(len) > image.len() {
        return Err(bad("it is not within the image"));
    }
    let mut bytes = vec![0; to_index(len)];
    image
        .read_exact_at(&mut bytes, offset)
        .map_err(|e| Error::io("cannot read the path table", e))?;
    let mut records = Vec::new();
    let mut rest = &bytes[..];
    while let &[name_len, attribute_blocks, a, b, c, d, e, f, ..] = rest {
        let name_len = usize::from(name_len);
        let name = rest.get(FIXED..FIXED + name_len).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| bad("the name length of a record is invalid"))?.to_vec();
        let (sector, parent) = match order {
            ByteOrder::Little => (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f])),
            ByteOrder::Big => (u32::from_be_bytes([a, b, c, d]), u16::from_be_bytes([e, f])),
        };
        let sector = sector.saturating_add(attribute_blocks.into());
        records.push(PathRecord { sector, parent, name });
        rest = rest.get((FIXED + name_len).next_multiple_of(2)..).unwrap_or(&[]);
    }
    Ok(records)
}
