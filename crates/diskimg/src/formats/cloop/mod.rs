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

use crate::formats::metadata::read;
use crate::open::driver::Driver;

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
    #[cfg(feature = "inspect")]
    inspect: inspect::INSPECT,
    ..Driver::READ_ONLY
};
