//! cloop: the compressed loopback device of Knoppix and other live systems, version 2.0.
//!
//! ```text
//!   0                128          132      136                     136 + 8 (n + 1)
//!   ┌────────────────┬────────────┬────────┬───┬───┬───┬───┬───────┬─────────┬─────────┬───┐
//!   │ shell script   │ block size │ n      │ 0 │ 1 │ … │ n │  …    │ block 0 │ block 1 │ … │
//!   └────────────────┴────────────┴────────┴───┴───┴───┴───┴───────┴─────────┴─────────┴───┘
//!                                            host offsets            zlib streams
//! ```
//!
//! All numbers are big endian. A block ends where the next one begins; the last entry is the end of
//! the last block. Versions 3 and 4 have their table at the end, and other codecs.
//!
//! There is no specification but the source of the kernel module (`cloop.h`, `cloop.c`) and of
//! `create_compressed_fs`.

mod blocks;
mod check;
mod header;
#[cfg(feature = "inspect")]
mod inspect;
mod layer;

use crate::error::{Error, Result};
use crate::open::driver::{Driver, NodeKeys};
use crate::storage::number::to_u64;
use crate::storage::source::Source;

pub(crate) use layer::Cloop;

/// The unit of the size of a disk.
const SECTOR: u64 = 512;

pub(crate) static DRIVER: Driver = Driver {
    probe: |buffer| header::version(buffer.head).is_some(),
    probe_like_qemu: |buffer| buffer.head.starts_with(header::SCRIPT),
    sector: SECTOR,
    open: |source, context| {
        context.refuse_snapshot(crate::Format::Cloop)?;
        Ok(std::sync::Arc::new(Cloop::open(source, context)?))
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
