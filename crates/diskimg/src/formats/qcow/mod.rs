//! QCOW: version 1 of QEMU's copy-on-write format. Version 2 and later are
//! [qcow2](crate::formats::qcow2), a different format with the same first bytes.
//!
//! Clusters have 512 bytes to 64 KiB; all numbers are big endian. The L1 table follows the header
//! directly. A cluster is stored verbatim, compressed at any byte of the file, or not at all.
//!
//! ```text
//!   ┌────────┬──────────────┬──────────┬───┬──────────┬─────────┬────────────┬───┐
//!   │ header │ name of the  │ L1 table │   │ L2 table │ cluster │ compressed │ … │
//!   │        │ backing file │          │   │          │         │ cluster    │   │
//!   └────────┴──────────────┴──────────┴───┴──────────┴─────────┴────────────┴───┘
//!    48 bytes                 └─► host offset of an L2 table, or 0
//!   L2 entry   63 = 0 │ host offset, 0 for the backing file's bytes
//!              63 = 1 │ length in bytes │ host offset
//!                       cluster_bits      63 - cluster_bits bits
//! ```
//!
//! The format of the backing file is not recorded. Nothing says which parts of the file are in use,
//! and there is no entry for zeros.
//!
//! There is no specification; libyal's *QEMU Copy-On-Write (QCOW) image file format* describes the
//! format.

mod edit;
mod header;
#[cfg(feature = "inspect")]
mod inspect;
mod layer;
mod target;

use crate::formats::two_level::TableFormat;
use crate::model::options::{COMPRESSION_LEVEL, EXTENT_SIZE_HINT, NOCOW, OptionKind, OptionSpec};
use crate::open::driver::{Driver, NodeKeys};
use crate::open::probe::ProbeBuffer;
use std::sync::Arc;

/// The unit of the size of a disk.
const SECTOR: u64 = 512;

/// The tables of QCOW version 1.
pub(crate) static TABLES: TableFormat = TableFormat {
    name: "QCOW",
    header: header::HEADER,
    l1: "QCOW L1 table",
    l2: "QCOW L2 table",
    from_bytes: u64::from_be_bytes,
    to_bytes: u64::to_be_bytes,
    zero: None,
    compressed: true,
    whole_clusters: false,
};

pub(crate) static DRIVER: Driver = Driver {
    probe,
    probe_like_qemu: |buffer| buffer.head.starts_with(b"QFI\xfb\0\0\0\x01"),
    sector: SECTOR,
    open: |source, context| {
        context.refuse_snapshot(crate::Format::Qcow)?;
        Ok(Arc::new(layer::Qcow::open(source, context)?))
    },
    require: None,
    create: Some(target::create),
    open_mutable: Some(edit::open),
    locks_further_files: false,
    repair: None,
    amend: None,
    options: &[
        OptionSpec::new("size", OptionKind::Size, "Virtual disk size"),
        OptionSpec::new("backing_file", OptionKind::Text, "File name of a base image"),
        OptionSpec::new("backing_fmt", OptionKind::Text, "Format of the backing image"),
        OptionSpec::new("encryption", OptionKind::Switch, "Encrypt the image (must be off)"),
        COMPRESSION_LEVEL,
        NOCOW,
        EXTENT_SIZE_HINT,
    ],
    measure: None,
    #[cfg(feature = "inspect")]
    inspect: inspect::INSPECT,
    appliance: None,
    node: NodeKeys { encrypt: true, ..NodeKeys::NONE },
};

/// Recognizes the magic bytes with any version before 2, which is qcow2. Version 0 does not exist,
/// but no other format starts like it.
fn probe(buffer: &ProbeBuffer<'_>) -> bool {
    match buffer.head.strip_prefix(&header::MAGIC) {
        Some(rest) => rest.first_chunk().is_none_or(|bytes| u32::from_be_bytes(*bytes) < 2),
        None => false,
    }
}
