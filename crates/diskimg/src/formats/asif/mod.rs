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

use crate::formats::metadata::read;
use crate::open::driver::Driver;

pub(crate) static DRIVER: Driver = Driver {
    probe: |buffer| buffer.head.starts_with(header::PROBED),
    // QEMU does not know the format.
    probe_like_qemu: |_| false,
    sector: 512,
    open: |source, context| {
        context.refuse_snapshot(crate::Format::Asif)?;
        Ok(std::sync::Arc::new(layer::Asif::open(source, context)?))
    },
    #[cfg(feature = "inspect")]
    inspect: inspect::INSPECT,
    ..Driver::READ_ONLY
};
