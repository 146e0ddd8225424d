//! Sparse image: Apple's sparse disk image in one file, usually named `.sparseimage`.
//!
//! ```text
//!   0        64                 4096
//!   ┌────────┬──────────────────┬────────┬────────┬───┬──────────┬────────────┬────────┬───┐
//!   │ header │ slots: 1008 band │ slot 0 │ slot 1 │ … │ slot 1007│ index node │ slot 0 │ … │
//!   │        │ numbers          │        │        │   │          │ 1010 slots │        │   │
//!   └────────┴──────────────────┴────────┴────────┴───┴──────────┴────────────┴────────┴───┘
//!              [ 3, 1, 0, … ]     band 2   band 0   unused
//! ```
//!
//! All numbers are big endian. A slot of the file holds the band of the disk whose number, counted
//! from 1, is in the table of slots; 0 stands for a slot without a band. A band that no slot holds
//! is zeros. If the slots of the header are used up, an index node with further slots follows their
//! bands, and so on.
//!
//! Apple has published no specification. The header and its slots are those of libmodi's
//! documentation (*Mac OS sparse image format*); the index nodes and the size of 64 bits those that
//! the readers of mac_apt and apfs-fuse agree on. An image in which index nodes are anywhere else
//! is an error.

mod bands;
mod check;
mod header;
#[cfg(feature = "inspect")]
mod inspect;
mod layer;

use crate::formats::metadata::read;
use crate::open::driver::Driver;

/// The unit of the size of a disk and of a band.
const SECTOR: u64 = 512;

pub(crate) static DRIVER: Driver = Driver {
    probe: |buffer| buffer.head.starts_with(header::PROBED),
    // QEMU does not know the format.
    probe_like_qemu: |_| false,
    sector: SECTOR,
    open: |source, context| {
        context.refuse_snapshot(crate::Format::Sparseimage)?;
        Ok(std::sync::Arc::new(layer::SparseImage::open(source, context)?))
    },
    #[cfg(feature = "inspect")]
    inspect: inspect::INSPECT,
    ..Driver::READ_ONLY
};
