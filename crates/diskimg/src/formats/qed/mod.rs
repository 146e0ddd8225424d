//! QED: QEMU's enhanced disk format, which preceded version 3 of qcow2.
//!
//! The file consists of clusters of 4 KiB to 64 MiB; all numbers are little endian. The L1 table and
//! the L2 tables have the same size, 1 to 16 clusters.
//!
//! ```text
//!   ┌────────┬─────────────┬──────────┬──────────┬─────────┬─────────┬───┐
//!   │ header │ name of the │ L1 table │ L2 table │ cluster │ cluster │ … │
//!   │        │ backing file│          │          │         │         │   │
//!   └────────┴─────────────┴──────────┴──────────┴─────────┴─────────┴───┘
//!   header_size clusters    └─► offset of an L2 table, or 0
//!                                      └─► offset of a cluster, 0 (the backing file's bytes) or
//!                                          1 (zeros)
//! ```
//!
//! An image that was not closed may have clusters that nothing refers to, and says so (need check).
//! What follows the last whole cluster of the file does not belong to the image.
//!
//! Specification: QEMU's `docs/interop/qed_spec`.

mod edit;
mod header;
#[cfg(feature = "inspect")]
mod inspect;
mod layer;
mod repair;
mod resize;
mod target;

use crate::formats::two_level::TableFormat;
use crate::model::options::{EXTENT_SIZE_HINT, NOCOW, OptionKind, OptionSpec};
use crate::open::driver::{Driver, NodeKeys};
use crate::open::probe::ProbeBuffer;
use std::sync::Arc;

/// The unit of the size of a disk.
const SECTOR: u64 = 512;

/// The tables of QED.
pub(crate) static TABLES: TableFormat = TableFormat {
    name: "QED",
    header: header::HEADER,
    l1: "QED L1 table",
    l2: "QED L2 table",
    from_bytes: u64::from_le_bytes,
    to_bytes: u64::to_le_bytes,
    zero: Some(1),
    compressed: false,
    whole_clusters: true,
};

pub(crate) static DRIVER: Driver = Driver {
    probe,
    probe_like_qemu: probe,
    sector: SECTOR,
    open: |source, context| {
        context.refuse_snapshot(crate::Format::Qed)?;
        Ok(Arc::new(layer::Qed::open(source, context)?))
    },
    require: None,
    create: Some(target::create),
    open_mutable: Some(edit::open),
    locks_further_files: false,
    repair: Some(repair::repair),
    amend: None,
    options: &[
        OptionSpec::new("size", OptionKind::Size, "Virtual disk size"),
        OptionSpec::new("backing_file", OptionKind::Text, "File name of a base image"),
        OptionSpec::new("backing_fmt", OptionKind::Text, "Image format of the base image"),
        OptionSpec::new("cluster_size", OptionKind::Size, "Cluster size (in bytes)")
            .default("65536"),
        OptionSpec::new("table_size", OptionKind::Size, "L1/L2 table size (in clusters)")
            .default("4"),
        NOCOW,
        EXTENT_SIZE_HINT,
    ],
    measure: None,
    #[cfg(feature = "inspect")]
    inspect: inspect::INSPECT,
    appliance: None,
    node: NodeKeys::NONE,
};

fn probe(buffer: &ProbeBuffer<'_>) -> bool {
    buffer.head.starts_with(&header::MAGIC)
}
