//! How large a new qcow2 image would be.
//!
//! The numbers are those of `qemu-img measure`, which clouds size volumes by:
//! an image with every table in place. What we write is never larger, because
//! tables over untouched ranges are left out.

use super::options::{CreateOptions, Preallocation};
use crate::error::{Error, Result};
use crate::model::target::{Measure, MeasureRequest};
use crate::report::info::{Info, Value};
use crate::storage::number::to_u64;

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
    let bitmaps = request.source.and_then(|source| bitmaps(source, cluster));
    Ok(Measure { required: fully_allocated - size + data, fully_allocated, bitmaps })
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

/// Bytes of a bitmap's entry in the directory, without its name.
const BITMAP_ENTRY: u64 = 24;

/// Bytes that the source's bitmaps would take in clusters of this size; `None` for a
/// source that can hold none.
fn bitmaps(source: &Info, cluster: u64) -> Option<u64> {
    let facts = &source.format_specific.as_ref()?.data;
    let facts = |key| facts.iter().find(|(k, _)| *k == key).map(|(_, value)| value);
    if facts("compat") != Some(&Value::from("1.1")) {
        return None;
    }
    let Some(Value::List(bitmaps)) = facts("bitmaps") else { return Some(0) };
    let (mut bytes, mut directory) = (0, 0);
    for bitmap in bitmaps {
        let (Some(Value::Number(granularity @ 1..)), Some(Value::Text(name))) =
            (fact(bitmap, "granularity"), fact(bitmap, "name"))
        else {
            continue;
        };
        let broken = Value::from("in-use"); // such a bitmap is not carried over
        if matches!(fact(bitmap, "flags"), Some(Value::List(flags)) if flags.contains(&broken)) {
            continue;
        }
        let clusters = source.virtual_size.div_ceil(*granularity).div_ceil(8).div_ceil(cluster);
        let table = (clusters * 8).next_multiple_of(cluster);
        bytes = u64::saturating_add(bytes, clusters * cluster + table);
        directory += (BITMAP_ENTRY + to_u64(name.len())).next_multiple_of(8);
    }
    Some(bytes.saturating_add(directory.next_multiple_of(cluster)))
}

/// What is said under `key`.
fn fact<'a>(facts: &'a Value, key: &str) -> Option<&'a Value> {
    let Value::Map(facts) = facts else { return None };
    facts.iter().find(|(k, _)| *k == key).map(|(_, value)| value)
}
