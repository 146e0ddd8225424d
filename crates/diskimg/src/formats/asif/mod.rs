//! ASIF: the Apple sparse image format of macOS 26.
//!
//! ```text
//!   chunk 0                     other chunks, in any order
//!   ┌────────┬────────────┬────────────┬───┬────────┬──────┬──────┬────────┬───┐
//!   │ header │ directory  │ directory  │   │ table  │ data │ data │ bitmap │ … │
//!   └────────┴────────────┴────────────┴───┴────────┴──────┴──────┴────────┴───┘
//!
//!   directory   sequence number, then the chunk of each table; 0: the table's part is zeros
//!   table       chunk groups: the entries of N chunks of the disk, then that of their bitmap
//!   bitmap      two bits for each sector of a group, the lowest first; 01: written, 00: zeros
//!
//!   entry of a chunk      63 62   61…55      54…0
//!                         state   reserved   chunk of the file
//!     00: zeros (chunk 0)      01: all sectors are written      11: the bitmap says which
//! ```
//!
//! All numbers are big endian. A chunk has 1 MiB. Of the two directories, the one with the higher
//! sequence number counts.
//!
//! Apple has published no specification. This is the format that the project *ASIF binary
//! specification* (huven/asif-format on GitHub) found out, and that dissect.hypervisor reads. What
//! neither has seen (the state 10, the bitmap's values 10 and 11, reserved bits) is an error, not a
//! guess.

mod check;
mod chunks;
mod directory;
mod header;
#[cfg(feature = "inspect")]
mod inspect;
mod layer;

use crate::error::{Error, Result};
use crate::open::driver::{Driver, NodeKeys};
use crate::storage::number::to_u64;
use crate::storage::source::Source;

pub(crate) static DRIVER: Driver = Driver {
    probe: |buffer| buffer.head.starts_with(header::PROBED),
    // QEMU does not know the format.
    probe_like_qemu: |_| false,
    sector: 512,
    open: |source, context| {
        context.refuse_snapshot(crate::Format::Asif)?;
        Ok(std::sync::Arc::new(layer::Asif::open(source, context)?))
    },
    require: None,
    create: None,
    open_mutable: None,
    options: &[],
    measure: None,
    #[cfg(feature = "inspect")]
    inspect: inspect::INSPECT,
    appliance: None,
    node: NodeKeys::NONE,
};

/// Fills `buf` with metadata from host offset `at`.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if the file ends before, [`Io`](crate::ErrorKind::Io) if
/// it cannot be read.
fn read(source: &dyn Source, buf: &mut [u8], at: u64, structure: &'static str) -> Result<()> {
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
