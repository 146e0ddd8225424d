//! VDI: VirtualBox's virtual disk image.
//!
//! ```text
//!   0        map              data        + stride      + 2 · stride
//!   ┌────────┬─────────────┬──┬───────┬───┬───────┬─────┬───────┬───┐
//!   │ header │ block map   │  │ extra │ 0 │ extra │ 1   │ extra │ 2 │ …   blocks, in any order
//!   └────────┴─────────────┴──┴───────┴───┴───────┴─────┴───────┴───┘
//!              [ index of a block, ffffffff: free, fffffffe: zeros, … ]
//! ```
//!
//! The block map has an entry for each block of the disk, usually 1 MiB. A free block is zeros or, in
//! a differencing image, the parent's; a block of zeros hides the parent's data.
//!
//! Nothing names the parent's file: it is the one with the UUID that the child records
//! (`parent.rs`).
//!
//! There is no specification but VirtualBox's source: `VDICore.h` has the structures and `VDI.cpp`
//! the rules.

mod blocks;
mod check;
mod edit;
mod header;
#[cfg(feature = "inspect")]
mod inspect;
mod layer;
mod parent;
mod repair;
mod write;

use crate::formats::metadata::read;
use crate::model::options::{EXTENT_SIZE_HINT, NOCOW, OptionKind, OptionSpec};
use crate::open::driver::{Driver, NodeKeys};
use crate::open::probe::ProbeBuffer;
use header::{SIGNATURE, SIGNATURE_AT};

pub(crate) use layer::Vdi;

/// The unit of the size of a disk.
const SECTOR: u64 = 512;

pub(crate) static DRIVER: Driver = Driver {
    probe,
    probe_like_qemu: probe,
    sector: SECTOR,
    open: |source, context| {
        context.refuse_snapshot(crate::Format::Vdi)?;
        Ok(std::sync::Arc::new(Vdi::open(source, context)?))
    },
    require: None,
    create: Some(write::create),
    open_mutable: Some(edit::open),
    locks_further_files: false,
    repair: Some(repair::repair),
    amend: None,
    options: &[
        OptionSpec::new("size", OptionKind::Size, "Virtual disk size"),
        OptionSpec::new("backing_file", OptionKind::Text, "File name of a base image"),
        OptionSpec::new("backing_fmt", OptionKind::Text, "Must be 'vdi' if present"),
        OptionSpec::new("static", OptionKind::Switch, "VDI static (pre-allocated) image")
            .default("off"),
        OptionSpec::new("uuid", OptionKind::Text, "UUID of the disk"),
        NOCOW,
        OptionSpec::new(
            "preallocation",
            OptionKind::Text,
            "Preallocation mode (allowed values: off, metadata (the same as static); static \
             images: falloc, full)",
        ),
        EXTENT_SIZE_HINT,
    ],
    measure: Some(write::measure),
    #[cfg(feature = "inspect")]
    inspect: inspect::INSPECT,
    appliance: None,
    node: NodeKeys::NONE,
};

/// The text before the signature differs from program to program.
fn probe(buffer: &ProbeBuffer<'_>) -> bool {
    buffer.head.get(SIGNATURE_AT..SIGNATURE_AT + SIGNATURE.len()) == Some(&SIGNATURE)
}
