//! Reporting what a repair changes, in the words of `qemu-img check -r`.

use super::Step;
use super::refcounts::Rules;
use crate::error::Result;
use crate::formats::qcow2::refcount::Refcounts;
use crate::formats::qcow2::tables::OFFSET_MASK;
use crate::model::mutable::RepairRequest;
use crate::report::check::Code;
use std::collections::BTreeMap;

/// Reports the refcounts that the rules change.
///
/// # Errors
/// Returns [`Io`](crate::ErrorKind::Io) if reading the refcounts fails.
pub(super) fn report_counts(
    step: &Step,
    rules: Rules,
    request: &mut RepairRequest<'_>,
) -> Result<()> {
    let mut recorded = Refcounts::read(step.image.file(), &step.image.header)?;
    let end = step.clusters();
    let per_block = recorded.clusters_per_block();
    let mut first = 0;
    while first < end {
        let next = end.min(first + per_block);
        if let Some(block) = recorded.block_of(first)? {
            for cluster in first..next {
                let refcount = recorded.get_in(block, cluster - first)?;
                let uses = step.found.use_counts.get(cluster);
                if rules.apply(refcount, uses) != refcount {
                    report_cluster(cluster, (refcount, uses.min(rules.max)), request);
                }
            }
        }
        first = next;
    }
    Ok(())
}

/// Reports that the refcounts are rebuilt, and which clusters of the old ones become free: those
/// that were `released`, by how many references each has lost.
pub(super) fn report_rebuilding(
    step: &Step,
    rules: Rules,
    released: &BTreeMap<u64, u64>,
    request: &mut RepairRequest<'_>,
) {
    request.repaired(Code::Corruption, "Rebuilding refcount structure".into());
    for (&cluster, &times) in released.iter().filter(|_| rules.lower) {
        let uses = step.found.use_counts.get(cluster);
        let refcount = rules.max.min(uses + times);
        report_cluster(cluster, (refcount, uses.min(rules.max)), request);
    }
}

fn report_cluster(cluster: u64, (refcount, uses): (u64, u64), request: &mut RepairRequest<'_>) {
    let code = if refcount > uses { Code::Leak } else { Code::Corruption };
    let message = format!("Repairing cluster {cluster} refcount={refcount} reference={uses}");
    request.repaired(code, message);
}

/// Reports the entries of the active L1 table whose copied flags change.
pub(super) fn report_l1_flags(
    step: &Step,
    old: &[u64],
    new: &[u64],
    request: &mut RepairRequest<'_>,
) {
    for (index, (old, _)) in changed(old, new) {
        let refcount = refcount(step, old);
        request.repaired(
            Code::Corruption,
            format!(
                "Repairing OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={old:x} \
                 refcount={refcount}"
            ),
        );
    }
}

/// Reports the entries of an L2 table whose copied flags change.
pub(super) fn report_l2_flags(
    step: &Step,
    old: &[u64],
    new: &[u64],
    request: &mut RepairRequest<'_>,
) {
    for (_, (old, _)) in changed(old, new) {
        let refcount = if step.image.layout.data_file { 1 } else { refcount(step, old) };
        request.repaired(
            Code::Corruption,
            format!("Repairing OFLAG_COPIED data cluster: l2_entry={old:x} refcount={refcount}"),
        );
    }
}

/// Returns the words that differ, with their indexes.
fn changed<'a>(old: &'a [u64], new: &'a [u64]) -> impl Iterator<Item = (usize, (u64, u64))> + 'a {
    let pairs = old.iter().copied().zip(new.iter().copied());
    pairs.enumerate().filter(|(_, (old, new))| old != new)
}

/// Returns the refcount of the cluster that an entry refers to. A flag changes only if that is the
/// number of references.
fn refcount(step: &Step, entry: u64) -> u64 {
    let cluster = (entry & OFFSET_MASK) >> step.image.layout.cluster_bits;
    step.found.use_counts.get(cluster)
}
