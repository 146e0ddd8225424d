//! Setting refcounts to the numbers of references.

use super::copied::CopiedFlags;
use super::{Step, changes, rebuild, tables};
use crate::error::Result;
use crate::formats::qcow2::header::Autoclear;
use crate::formats::qcow2::refcount::{self, OFFSET_MASK, Refcounts};
use crate::formats::qcow2::tables::read_words;
use crate::model::mutable::RepairRequest;
use crate::report::check::RepairScope;
use std::collections::BTreeMap;

/// How refcounts may change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Refcounts that are too low become higher.
    raise: bool,
    /// Refcounts that are too high become lower.
    pub(super) lower: bool,
    /// The largest refcount.
    pub(super) max: u64,
}

impl Rules {
    /// Returns the same rules, but by which refcounts may become higher.
    pub(super) fn with_raising(self) -> Self {
        Self { raise: true, ..self }
    }

    /// Returns the refcount of a cluster that has this one and this number of references.
    pub(super) fn apply(self, recorded: u64, uses: u64) -> u64 {
        let may_change = if uses > recorded { self.raise } else { self.lower };
        if may_change { uses.min(self.max) } else { recorded }
    }
}

/// The refcounts as they will be.
pub(super) struct Wanted<'a> {
    recorded: Refcounts<'a>,
    step: &'a Step,
    rules: Rules,
}

impl<'a> Wanted<'a> {
    /// Returns the refcounts that the rules give.
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) if reading the refcount table fails.
    pub(super) fn new(step: &'a Step, rules: Rules) -> Result<Self> {
        let recorded = Refcounts::read(step.image.file(), &step.image.header)?;
        Ok(Self { recorded, step, rules })
    }

    /// Returns the refcount of a cluster, or `None` if the recorded one cannot be read.
    pub(super) fn count(&mut self, cluster: u64) -> Option<u64> {
        let recorded = self.recorded.get(cluster).ok()?;
        Some(self.rules.apply(recorded, self.step.found.use_counts.get(cluster)))
    }
}

/// Repairs refcounts and copied flags. Returns false, after reporting it, if metadata overlaps
/// something.
///
/// # Errors
/// Returns [`Io`](crate::ErrorKind::Io) if reading or writing fails, and
/// [`Limit`](crate::ErrorKind::Limit) if rebuilding the refcounts exceeds a limit.
pub(super) fn repair(step: &mut Step, request: &mut RepairRequest<'_>) -> Result<bool> {
    let all = step.scope == RepairScope::All;
    let has_valid_blocks = has_valid_blocks(step)?;
    let is_rebuilt = all && (!has_valid_blocks || lacks_blocks(step)?);
    let released = match is_rebuilt {
        true => rebuild::release_refcounts(step)?,
        false => BTreeMap::new(),
    };
    let overlaps = tables::overlaps(step);
    let has_no_overlaps = overlaps.is_empty();
    overlaps.into_iter().for_each(|message| request.left(message));
    let rules = Rules {
        raise: all,
        lower: !step.found.damage.incomplete && has_no_overlaps,
        max: refcount::mask(step.image.header.refcount_order),
    };
    if is_rebuilt {
        changes::report_rebuilding(step, rules, &released, request);
        let is_consistent = is_consistent_but_for_leaks(step);
        rebuild::rebuild(step, rules, is_consistent, request)?;
    } else if has_valid_blocks {
        repair_in_place(step, rules, request)?;
    }
    Ok(has_no_overlaps)
}

/// Repairs refcounts whose blocks are where they should be.
fn repair_in_place(step: &mut Step, rules: Rules, request: &mut RepairRequest<'_>) -> Result<()> {
    changes::report_counts(step, rules, request)?;
    if is_consistent_but_for_leaks(step) && changes_copied_flags(step, rules)? {
        // Refcounts and flags cannot be written at once, so that one of them would be wrong after a
        // crash, although nothing but leaks is wrong now.
        rebuild::release_refcounts(step)?;
        return rebuild::rebuild(step, rules, true, request);
    }
    write_counts(step, Rules { lower: false, ..rules })?;
    write_copied_flags(step, rules, request)?;
    if rules.lower && step.found.counts.leaks > 0 && has_unknown_autoclear_bits(step) {
        // They may stand for structures whose clusters become free.
        step.change_header(|_| ())?;
    }
    write_counts(step, rules)
}

/// Returns true if the check has found nothing but leaks, so that it must not find anything else
/// after a crash.
fn is_consistent_but_for_leaks(step: &Step) -> bool {
    step.found.counts.corruptions == 0 && step.found.counts.check_errors == 0
}

fn has_unknown_autoclear_bits(step: &Step) -> bool {
    let known = Autoclear::BITMAPS | Autoclear::DATA_FILE_RAW;
    !(step.image.header.autoclear - known).is_empty()
}

/// Returns true if the refcount table and its blocks are in the file, each used as such only.
fn has_valid_blocks(step: &Step) -> Result<bool> {
    let table = step.image.header.refcount_table;
    if step.found.damage.refcounts || !step.has_uses(table.offset, table.bytes(), 1) {
        return Ok(false);
    }
    let size = step.image.layout.cluster_size();
    let entries = Refcounts::read(step.image.file(), &step.image.header)?.table;
    let mut offsets = entries.iter().filter(|entry| **entry != 0);
    Ok(offsets.all(|entry| step.has_uses(entry & OFFSET_MASK, size, 1)))
}

/// Returns true if a cluster that is in use has no refcount block.
fn lacks_blocks(step: &Step) -> Result<bool> {
    let refcounts = Refcounts::read(step.image.file(), &step.image.header)?;
    let end = step.clusters();
    let per_block = refcounts.clusters_per_block();
    let mut first = 0;
    while first < end {
        let next = end.min(first + per_block);
        if refcounts.block_of(first)?.is_none() && step.is_any_used(first..next) {
            return Ok(true);
        }
        first = next;
    }
    Ok(false)
}

impl Step {
    /// Returns the number of clusters that may be referenced. A table may end in the cluster after
    /// the last one of the file.
    pub(super) fn clusters(&self) -> u64 {
        let clusters = self.end() >> self.image.layout.cluster_bits;
        clusters + u64::from(self.found.use_counts.get(clusters) > 0)
    }

    /// Returns true if one of these clusters is referenced.
    pub(super) fn is_any_used(&self, clusters: std::ops::Range<u64>) -> bool {
        let counts = &self.found.use_counts;
        let mut at = counts.next_counted(clusters.start, clusters.end);
        while at < clusters.end {
            if counts.get(at) > 0 {
                return true;
            }
            at = counts.next_counted(at + 1, clusters.end);
        }
        false
    }
}

/// Returns true if copied flags differ from what they should be after the repair.
fn changes_copied_flags(step: &Step, rules: Rules) -> Result<bool> {
    if step.found.counts.leaks == 0 {
        return Ok(false);
    }
    let mut flags = CopiedFlags::new(step, Wanted::new(step, rules)?);
    let (old, new) = flags.l1()?;
    let mut changes = old != new;
    flags.for_each_l2(|_, _, _| {
        changes = true;
        Ok(())
    })?;
    Ok(changes)
}

/// Writes the copied flags in place.
pub(super) fn write_copied_flags(
    step: &Step,
    rules: Rules,
    request: &mut RepairRequest<'_>,
) -> Result<()> {
    let mut flags = CopiedFlags::new(step, Wanted::new(step, rules)?);
    let (old, new) = flags.l1()?;
    changes::report_l1_flags(step, &old, &new, request);
    step.write_changed(step.image.header.l1.offset, &old, &new)?;
    let mut is_changed = old != new;
    flags.for_each_l2(|table, old, new| {
        is_changed = true;
        changes::report_l2_flags(step, old, &new, request);
        step.write_changed(table, old, &new)
    })?;
    if is_changed { step.barrier() } else { Ok(()) }
}

/// Writes the refcounts in place.
fn write_counts(step: &Step, rules: Rules) -> Result<()> {
    let header = &step.image.header;
    let (order, size) = (header.refcount_order, header.cluster_size());
    let per_block = refcount::per_block(size, order);
    let table = Refcounts::read(step.image.file(), header)?.table;
    let mut is_changed = false;
    for (index, block) in (0u64..).zip(table.iter().map(|entry| entry & OFFSET_MASK)) {
        if block == 0 {
            continue;
        }
        let words = read_words(step.image.file(), "refcount block", block, size / 8)?;
        let mut changed = words.clone();
        let per_word = 64u64 >> order;
        for (word, first) in changed.iter_mut().zip((index * per_block..).step_by(64 >> order)) {
            let is_unused =
                step.found.use_counts.next_counted(first, first + per_word) == first + per_word;
            if *word == 0 && is_unused {
                continue;
            }
            for number in 0..per_word {
                let (_, bit) = refcount::position(number, order);
                let recorded = refcount::extract(*word, order, bit);
                let uses = step.found.use_counts.get(first + number);
                let count = rules.apply(recorded, uses);
                if count != recorded {
                    *word = refcount::insert(*word, order, bit, count);
                }
            }
        }
        is_changed |= changed != words;
        step.write_changed(block, &words, &changed)?;
    }
    if is_changed { step.barrier() } else { Ok(()) }
}
