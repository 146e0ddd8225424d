//! Correcting L1 and L2 entries.

use super::Step;
use super::tables::{entries, read_l1, replace_entries};
use crate::error::Result;
use crate::formats::qcow2::tables::L1_RESERVED;

/// Corrects the entries of all L1 and L2 tables that do not have an invalid one as well: clears
/// reserved bits, the copied flag and the bitmap of compressed clusters, and the offset of
/// preallocated clusters that is not aligned.
pub(super) fn correct(step: &Step) -> Result<()> {
    let layout = step.image.layout;
    for (&offset, &uses) in &step.found.l2_tables {
        let words = step.read_l2(offset)?;
        let is_correct = entries(layout, &words).all(|entry| step.corrected(entry) == Some(entry));
        if is_correct || !step.is_l2_table(offset, uses, &words) {
            continue;
        }
        let mut changed = words.clone();
        replace_entries(layout, &mut changed, |entry| step.corrected(entry).unwrap_or(entry));
        step.write_changed(offset, &words, &changed)?;
    }
    let snapshots = step.image.snapshots.iter().flat_map(|snapshots| &snapshots.entries);
    let tables = snapshots.map(|snapshot| snapshot.l1);
    for table in std::iter::once(step.image.header.l1).chain(tables) {
        // Otherwise the table may be too large to be read, too.
        if !step.has_uses(table.offset, table.bytes(), 1) {
            continue;
        }
        let words = read_l1(step, table)?;
        if step.is_l1_table(table, &words) {
            let changed: Vec<_> = words.iter().map(|entry| entry & !L1_RESERVED).collect();
            step.write_changed(table.offset, &words, &changed)?;
        }
    }
    step.barrier()
}
