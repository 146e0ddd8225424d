//! Completing and shortening the snapshot table.

use super::{Step, modifying};
use crate::error::{Error, ErrorKind, Result};
use crate::formats::qcow2::snapshot::ShortTable;
use crate::storage::number::{to_u64, to_usize};

/// Writes a new snapshot table, in which each entry has the extra data that version 3 requires, and
/// switches to it. Returns false if there is no place for it.
pub(super) fn add_extra_data(step: &Step) -> Result<bool> {
    let image = &step.image;
    let Ok(snapshots) = &image.snapshots else { return Ok(false) };
    let mut old = vec![0; to_usize(snapshots.bytes)];
    let start = image.header.snapshots_offset;
    image
        .file()
        .read_exact_at(&mut old, start)
        .map_err(|e| Error::io("cannot read", e).in_structure("snapshot table").at(start))?;
    let mut table: Vec<u8> = Vec::with_capacity(old.len());
    let mut rest = old.as_slice();
    for snapshot in &snapshots.entries {
        table.resize(table.len().next_multiple_of(8), 0);
        let len = to_usize(snapshot.len).min(rest.len());
        let (entry, after) = rest.split_at(len);
        snapshot.encode_with_extra(entry, &mut table);
        rest = after.get(len.next_multiple_of(8) - len..).unwrap_or_default();
    }
    switch(step, image.header.snapshot_count, table)
}

/// Writes a new snapshot table without what exceeds QEMU's limits, as QEMU does, and switches to it:
/// the end of long extra data, and the last snapshots. Returns false if the table does not exceed
/// them, cannot be read, or if there is no place for the new one.
pub(super) fn shorten(step: &Step) -> Result<bool> {
    let image = &step.image;
    if image.snapshots.is_ok() {
        return Ok(false);
    }
    match ShortTable::read(image.file(), &image.header) {
        Ok(None) => Ok(false),
        Ok(Some(table)) => switch(step, table.count, table.bytes),
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes a snapshot table to new clusters, and switches to it. Returns false if an entry of the
/// image refers to where it would be, or if the image is on a device.
fn switch(step: &Step, count: u32, mut table: Vec<u8>) -> Result<bool> {
    let layout = step.image.layout;
    let offset = step.clusters() << layout.cluster_bits;
    let end = offset + to_u64(table.len()).next_multiple_of(layout.cluster_size());
    let is_taken = step.found.damage.first_beyond_end.is_some_and(|first| first < end);
    if is_taken || step.storage.has_fixed_len() {
        return Ok(false);
    }
    super::tables::pad(step, &mut table);
    step.storage.write_all_at(&table, offset).map_err(modifying)?;
    step.barrier()?;
    step.change_header(|header| {
        header.nb_snapshots = count.into();
        header.snapshots_offset = if count == 0 { 0 } else { offset }.into();
    })?;
    Ok(true)
}
