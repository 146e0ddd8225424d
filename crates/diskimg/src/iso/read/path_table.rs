//! Path tables (ECMA-119, 9.4): every directory's place and parent, for who would rather not
//! read the directories.

use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::storage::number::to_index;
use crate::storage::source::Source;

/// Bytes before the name.
const FIXED: usize = 8;

/// Which order the numbers are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ByteOrder {
    Little,
    Big,
}

/// A directory, as a path table has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathRecord {
    /// First sector of the directory.
    pub(crate) sector: u32,
    /// The parent's number in the table, from 1 on.
    pub(crate) parent: u16,
    /// Its identifier.
    pub(crate) name: Vec<u8>,
}

/// Reads the table of `len` bytes from `sector` on.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if it is not within the image or its records do not
/// fill it, [`Limit`](crate::ErrorKind::Limit) if it is longer than `most`.
pub(crate) fn read(
    image: &dyn Source,
    sector: u32,
    len: u32,
    order: ByteOrder,
    most: u64,
) -> Result<Vec<PathRecord>> {
    let offset = u64::from(sector) * SECTOR;
    let bad = |message: &'static str| Error::corrupt("path table", message).at(offset);
    if u64::from(len) > most {
        let found = format!("a path table of {len} bytes");
        return Err(Error::over_limit("directory_bytes", found, most));
    }
    if offset + u64::from(len) > image.len() {
        return Err(bad("it lies outside the image"));
    }
    let mut bytes = vec![0; to_index(len)];
    image.read_exact_at(&mut bytes, offset).map_err(|e| Error::io("cannot read it", e))?;
    let mut records = Vec::new();
    let mut rest = &bytes[..];
    while let &[name_len, attribute_blocks, a, b, c, d, e, f, ..] = rest {
        let name_len = usize::from(name_len);
        let name = rest.get(FIXED..FIXED + name_len).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| bad("a record does not hold what it says"))?.to_vec();
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
