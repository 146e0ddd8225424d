//! Reading metadata of images.

use crate::error::{Error, Result};
use crate::storage::number::to_u64;
use crate::storage::source::Source;

/// Fills `buf` with bytes of `structure` from host offset `at`.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if the file ends before, [`Io`](crate::ErrorKind::Io) if
/// it cannot be read.
pub(crate) fn read(
    source: &dyn Source,
    buf: &mut [u8],
    at: u64,
    structure: &'static str,
) -> Result<()> {
    let end = at.checked_add(to_u64(buf.len()));
    if end.is_none_or(|end| end > source.len()) {
        let message = format!("its {} bytes extend beyond the end of the file", buf.len());
        return Err(Error::corrupt(structure, message)
            .at(at)
            .hint("the file is probably truncated"));
    }
    source
        .read_exact_at(buf, at)
        .map_err(|e| Error::io("cannot read it", e).in_structure(structure).at(at))
}
