//! Bochs: the growing disk image of the Bochs emulator.
//!
//! ```text
//!   0        header size    + 4 n         + stride      + 2 · stride
//!   ┌────────┬──────────────┬──┬───────┬───┬──┬───────┬───┐
//!   │ header │ catalog      │  │ bit-  │ 0 │  │ bit-  │ 1 │ …   extents, in any order
//!   │        │ u32 [n]      │  │ map   │   │  │ map   │   │
//!   └────────┴──────────────┴──┴───────┴───┴──┴───────┴───┘
//!              [ index of an extent, or ffffffff: absent ]
//! ```
//!
//! The catalog has an entry for each extent of the disk. In front of an extent is a bitmap with a
//! bit for each of its sectors: those whose bit is 0 are zeros. All numbers are little endian.
//!
//! The specification is the Bochs user manual, "Harddisk images", and its source (`hdimage.h`).
//! Undoable and volatile images contain changes to another image, which nothing in them names.

mod catalog;
mod check;
mod header;
#[cfg(feature = "inspect")]
mod inspect;
mod layer;

use crate::formats::metadata::read;
use crate::open::driver::Driver;
use crate::open::probe::ProbeBuffer;

pub(crate) use layer::Bochs;

/// The unit of the size of a disk, and of the bitmaps.
const SECTOR: u64 = 512;

pub(crate) static DRIVER: Driver = Driver {
    probe,
    probe_like_qemu: |buffer| header::is_growing(buffer.head),
    sector: SECTOR,
    open: |source, context| {
        context.refuse_snapshot(crate::Format::Bochs)?;
        Ok(std::sync::Arc::new(Bochs::open(source, context)?))
    },
    #[cfg(feature = "inspect")]
    inspect: inspect::INSPECT,
    ..Driver::READ_ONLY
};

fn probe(buffer: &ProbeBuffer<'_>) -> bool {
    buffer.head.starts_with(header::MAGIC) || buffer.head.starts_with(&header::SPARSE_MAGIC)
}
