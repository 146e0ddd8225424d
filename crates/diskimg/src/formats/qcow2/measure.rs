//! How large a new qcow2 image would be.
//!
//! The numbers are those of `qemu-img measure`, which clouds size volumes by:
//! an image with every table in place. What we write is never larger, because
//! tables over untouched ranges are left out.

use super::options::{CreateOptions, Preallocation};
use crate::vocabulary::error::{Error, Result};
use crate::vocabulary::target::{Measure, MeasureRequest};

pub(super) fn measure(request: &mut MeasureRequest<'_>) -> Result<Measure> {
    let options = CreateOptions::parse(request.options)?;
    options.l1_entries(request.size)?; // what cannot be created has no size
    let cluster = options.cluster_size();
    let overflow = || Error::limit(format!("a disk of {} bytes", request.size));
    let size = request.size.checked_next_multiple_of(cluster).ok_or_else(overflow)?;
    let fully_allocated = size.checked_add(metadata_size(&options, size)).ok_or_else(overflow)?;

    let mut data = 0;
    if options.preallocation == Preallocation::Off {
        let mut counted = 0; // everything below is accounted for
        (request.data)(&mut |range| {
            let start = (range.start / cluster * cluster).max(counted);
            let end = range.end.next_multiple_of(cluster);
            data += end.saturating_sub(start);
            counted = counted.max(end);
        })?;
    } else {
        data = size;
    }
    Ok(Measure { required: fully_allocated - size + data, fully_allocated })
}

/// Header, L1, all L2 tables and the refcounts of everything.
fn metadata_size(options: &CreateOptions, size: u64) -> u64 {
    let cluster = options.cluster_size();
    let layout = options.layout();
    let l2_bytes = (size / cluster).next_multiple_of(layout.entries()) * layout.entry_bytes();
    let l1_bytes = (l2_bytes / cluster * 8).next_multiple_of(cluster);
    let tables = cluster + l2_bytes + l1_bytes;
    tables + refcount_size(options, (tables + size) / cluster)
}

/// Refcount table and blocks for `clusters` others and themselves.
fn refcount_size(options: &CreateOptions, clusters: u64) -> u64 {
    let cluster = options.cluster_size();
    let per_block = (cluster * 8) >> options.refcount_order;
    let (mut blocks, mut table) = (0u64, 0u64);
    loop {
        let wanted_blocks = (clusters + table + blocks).div_ceil(per_block);
        let wanted_table = wanted_blocks.div_ceil(cluster / 8);
        if (wanted_blocks, wanted_table) == (blocks, table) {
            return (blocks + table) * cluster;
        }
        (blocks, table) = (wanted_blocks, wanted_table);
    }
}
