//! Completing the snapshot table.

use super::{Step, modifying};
use crate::error::{Error, Result};
use crate::storage::number::{to_u64, to_usize};

/// Writes a new snapshot table, in which each entry has the extra data that version 3 requires, to
/// new clusters, and switches to it. Returns false if an entry of the image refers to where it would
/// be, or if the image is on a device.
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
    let size = image.layout.cluster_size();
    let offset = step.clusters() << image.layout.cluster_bits;
    let end = offset + to_u64(table.len()).next_multiple_of(size);
    let is_taken = step.found.damage.first_beyond_end.is_some_and(|first| first < end);
    if is_taken || step.storage.has_fixed_len() {
        return Ok(false);
    }
    super::tables::pad(step, &mut table);
    step.storage.write_all_at(&table, offset).map_err(modifying)?;
    step.barrier()?;
    step.change_header(|header| header.snapshots_offset = offset.into())?;
    Ok(true)
}
