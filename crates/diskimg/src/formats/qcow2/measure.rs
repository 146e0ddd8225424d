//! The size of a new qcow2 image.
//!
//! The numbers equal those of `qemu-img measure`, which cloud platforms use to size volumes: they
//! assume that every L2 table exists. A written image is never larger, because L2 tables of
//! unallocated ranges are left out.

use super::options::{CreateOptions, Preallocation};
use super::refcount;
use crate::error::{Error, Result};
use crate::model::target::{Measure, MeasureRequest};
use crate::report::info::{Info, Value};
use crate::storage::number::to_u64;

pub(super) fn measure(request: &mut MeasureRequest<'_>) -> Result<Measure> {
    let options = CreateOptions::parse(request.options)?;
    options.l1_entries(request.size)?; // fails if the image cannot be created
    let cluster = options.cluster_size();
    let overflow = || Error::limit(format!("a disk of {} bytes is too large", request.size));
    let size = request.size.checked_next_multiple_of(cluster).ok_or_else(overflow)?;
    let fully_allocated = size.checked_add(metadata_size(&options, size)).ok_or_else(overflow)?;

    let mut data = 0;
    // Metadata is always counted. How much of the data an overlay shares with its backing file is
    // not known, so everything is counted.
    let overlay = request.options.get("backing_file").is_some() && request.source.is_some();
    if !overlay && matches!(options.preallocation, Preallocation::Off | Preallocation::Metadata) {
        let mut counted = 0; // guest offset up to which data has been counted
        (request.data)(&mut |range| {
            let start = (range.start / cluster * cluster).max(counted);
            let end = range.end.next_multiple_of(cluster);
            data += end.saturating_sub(start);
            counted = counted.max(end);
        })?;
    } else {
        data = size;
    }
    // Version 2 has no bitmaps.
    let source = request.source.filter(|_| options.version >= 3);
    let bitmaps = source.and_then(|source| bitmaps(source, cluster));
    Ok(Measure { required: fully_allocated - size + data, fully_allocated, bitmaps })
}

/// Returns the total size in bytes of the header, the L1 table, all L2 tables, and the refcounts of
/// all clusters.
fn metadata_size(options: &CreateOptions, size: u64) -> u64 {
    let cluster = options.cluster_size();
    let layout = options.layout();
    let l2_bytes = (size / cluster).next_multiple_of(layout.entries()) * layout.entry_bytes();
    let l1_bytes = (l2_bytes / cluster * 8).next_multiple_of(cluster);
    let tables = cluster + l2_bytes + l1_bytes;
    tables + refcount_size(options, (tables + size) / cluster)
}

/// Returns the size in bytes of the refcount table and blocks that count `clusters` clusters and
/// their own.
fn refcount_size(options: &CreateOptions, clusters: u64) -> u64 {
    let cluster = options.cluster_size();
    let per_block = refcount::per_block(cluster, options.refcount_order);
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

/// Length in bytes of a bitmap directory entry without the name.
const BITMAP_ENTRY: u64 = 24;

/// Returns the total size in bytes of the source's bitmaps with this cluster size, or `None` if the
/// source's format has no bitmaps.
fn bitmaps(source: &Info, cluster: u64) -> Option<u64> {
    let values = &source.format_specific.as_ref()?.data;
    if value_of(values, "compat") != Some(&Value::from("1.1")) {
        return None;
    }
    let Some(Value::List(bitmaps)) = value_of(values, "bitmaps") else { return Some(0) };
    let (mut bytes, mut directory) = (0, 0);
    for bitmap in bitmaps {
        let (Some(Value::Number(granularity @ 1..)), Some(Value::Text(name))) =
            (field_of(bitmap, "granularity"), field_of(bitmap, "name"))
        else {
            continue;
        };
        let in_use = Value::from("in-use"); // inconsistent bitmaps are not copied
        if matches!(field_of(bitmap, "flags"), Some(Value::List(flags)) if flags.contains(&in_use))
        {
            continue;
        }
        let clusters = source.virtual_size.div_ceil(*granularity).div_ceil(8).div_ceil(cluster);
        let table = (clusters * 8).next_multiple_of(cluster);
        bytes = u64::saturating_add(bytes, clusters * cluster + table);
        directory += (BITMAP_ENTRY + to_u64(name.len())).next_multiple_of(8);
    }
    Some(bytes.saturating_add(directory.next_multiple_of(cluster)))
}

/// Returns the value of `key`.
fn value_of<'a>(values: &'a [(&'static str, Value)], key: &str) -> Option<&'a Value> {
    values.iter().find(|(k, _)| *k == key).map(|(_, value)| value)
}

/// Returns the value of `key` if `value` is a map.
fn field_of<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    let Value::Map(values) = value else { return None };
    value_of(values, key)
}
