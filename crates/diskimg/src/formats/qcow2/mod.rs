//! qcow2: QEMU's copy-on-write format, versions 2 and 3.
//!
//! ```text
//!   cluster 0        header │ header extensions │ … │ backing file name
//!   other clusters   refcount table ─► refcount blocks     (references to each host cluster)
//!                    L1 table ─► L2 tables ─► guest data   (location of each guest cluster)
//!                    snapshot table ─► L1 tables of snapshots ─► L2 tables …
//!                    bitmap directory ─► bitmap tables ─► bitmaps
//! ```
//!
//! The file consists of clusters of 512 bytes to 2 MiB, which may be in any order. All numbers are
//! big-endian. A guest cluster is stored verbatim in a host cluster, compressed at any host offset,
//! known to be zeros, or unallocated. With extended L2 entries this is recorded for each of its 32
//! subclusters.
//!
//! Specification: QEMU's `docs/interop/qcow2`.

mod allocator;
mod bitmap_bits;
mod bitmaps;
mod check;
mod damage;
mod details;
mod edit;
mod encryption;
mod extensions;
mod header;
#[cfg(feature = "inspect")]
mod inspect;
mod layer;
mod measure;
mod modify;
mod node;
mod options;
mod refcount;
mod repair;
mod snapshot;
mod tables;
mod target;
mod use_counts;

pub use modify::{BitmapChanges, Qcow2Mut};

use crate::open::driver::{Amending, Driver, NodeKeys};
use crate::open::probe::ProbeBuffer;
use std::sync::Arc;

pub(crate) static DRIVER: Driver = Driver {
    probe,
    probe_like_qemu: probe,
    sector: 512,
    open: |source, context| Ok(Arc::new(layer::Qcow2::open(source, context)?)),
    require: None,
    create: Some(target::create),
    open_mutable: Some(edit::open),
    locks_further_files: false,
    repair: Some(repair::repair),
    amend: Some(Amending { options: options::AMEND_OPTIONS, amend: edit::amend }),
    options: options::OPTIONS,
    measure: Some(measure::measure),
    #[cfg(feature = "inspect")]
    inspect: inspect::INSPECT,
    appliance: None,
    node: NodeKeys { ignored: TUNING, encrypt: true, data_file: true },
};

/// Keys of a node that tune QEMU's caches and checks.
const TUNING: &[&str] = &[
    "lazy-refcounts",
    "pass-discard-request",
    "pass-discard-snapshot",
    "pass-discard-other",
    "discard-no-unref",
    "overlap-check",
    "overlap-check.template",
    "cache-size",
    "l2-cache-size",
    "l2-cache-entry-size",
    "refcount-cache-size",
    "cache-clean-interval",
];

/// Recognizes the magic bytes with version 2 or later. Version 1 is a different format (qcow).
fn probe(buffer: &ProbeBuffer<'_>) -> bool {
    match buffer.head.split_first_chunk::<8>() {
        Some(([magic @ .., a, b, c, d], _)) => {
            *magic == header::MAGIC && u32::from_be_bytes([*a, *b, *c, *d]) >= 2
        }
        None => false,
    }
}
