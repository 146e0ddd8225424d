//! qcow2: QEMU's copy-on-write format, versions 2 and 3.
//!
//! ```text
//!   cluster 0        header │ header extensions │ … │ backing file's name
//!   other clusters   refcount table ─► refcount blocks     (how often each cluster is used)
//!                    L1 table ─► L2 tables ─► guest data   (where each guest cluster is)
//!                    snapshot table ─► L1 tables of snapshots ─► L2 tables …
//!                    bitmap directory ─► bitmap tables ─► bitmaps
//! ```
//!
//! The file consists of clusters of 512 bytes to 2 MiB, any of them anywhere.
//! All numbers are big-endian. A guest cluster is stored verbatim in a host
//! cluster, compressed in any bytes, known to be zeros, or left to the backing
//! file; with extended L2 entries each 32nd of it on its own.
//!
//! Specification: QEMU's `docs/interop/qcow2`.

mod allocator;
mod bitmaps;
mod check;
mod extensions;
mod header;
mod inspect;
mod layer;
mod measure;
mod options;
mod refcount;
mod snapshot;
mod tables;
mod target;
mod use_counts;

use crate::open::driver::Driver;
use crate::open::probe::ProbeBuffer;
use std::sync::Arc;

pub(crate) static DRIVER: Driver = Driver {
    probe,
    sector: 512,
    open: |source, context| Ok(Arc::new(layer::Qcow2::open(source, context)?)),
    require: None,
    create: target::create,
    options: options::OPTIONS,
    measure: Some(measure::measure),
    inspect: inspect::INSPECT,
    appliance: None,
};

/// Magic bytes and a version of 2 or more: version 1 is another format.
fn probe(head: &ProbeBuffer<'_>) -> bool {
    match head.bytes.split_first_chunk::<8>() {
        Some(([magic @ .., a, b, c, d], _)) => {
            *magic == header::MAGIC && u32::from_be_bytes([*a, *b, *c, *d]) >= 2
        }
        None => false,
    }
}
