//! Limits tables in holes that an archive does not store.

use crate::error::{Error, Result};
use crate::storage::source::{Source, stored_in};

/// Bytes of a table that may always be in holes.
const ALWAYS: u64 = 64 << 10;

/// Requires that the table of `len` bytes at `offset` is stored, or not longer than what is stored
/// of its file: reading holes takes time, but no bytes of an archive.
///
/// # Errors
/// Returns [`Limit`](crate::ErrorKind::Limit) if it is not.
pub(crate) fn require_stored(
    source: &dyn Source,
    table: &'static str,
    offset: u64,
    len: u64,
) -> Result<()> {
    let max = source.stored_len().max(ALWAYS);
    let end = offset.saturating_add(len).min(source.len());
    if len <= max || source.stored_len() == source.len() || offset >= end {
        return Ok(());
    }
    let holes = (end - offset).saturating_sub(stored_in(source, offset..end));
    if holes <= max {
        return Ok(());
    }
    let message = format!("{holes} of its {len} bytes are in holes; at most {max} are supported");
    Err(Error::limit(message)
        .in_structure(table)
        .at(offset)
        .hint("unpack the archive and open the image"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::storage::source::{Segment, SourceError};

    /// A megabyte of which the first 100 KiB are stored.
    #[derive(Debug)]
    struct Sparse;

    const STORED: u64 = 100 << 10;

    impl Source for Sparse {
        fn len(&self) -> u64 {
            1 << 20
        }

        fn stored_len(&self) -> u64 {
            STORED
        }

        fn read_exact_at(&self, buf: &mut [u8], _: u64) -> std::result::Result<(), SourceError> {
            buf.fill(0);
            Ok(())
        }

        fn segment_at(&self, offset: u64) -> std::result::Result<Segment, SourceError> {
            let hole = offset >= STORED;
            Ok(Segment { end: if hole { self.len() } else { STORED }, hole })
        }
    }

    #[test]
    fn a_table_in_a_hole_is_limited_to_what_is_stored() {
        let require = |offset, len| require_stored(&Sparse, "L1 table", offset, len);
        for (offset, len) in
            [(0, 2 * STORED), (STORED, STORED), (1 << 19, ALWAYS), (1 << 21, 1 << 20)]
        {
            require(offset, len).expect("fits");
        }
        for (offset, len) in [(0, 2 * STORED + 1), (STORED, STORED + 1), (1 << 19, u64::MAX)] {
            let error = require(offset, len).expect_err("too long");
            assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
        }
        let plain = crate::storage::source::MemorySource::new(vec![0; 1 << 20]);
        require_stored(&plain, "L1 table", 0, 1 << 20).expect("is stored");
    }
}
