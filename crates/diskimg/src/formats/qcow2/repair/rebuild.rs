//! New refcounts, in clusters that nothing refers to.
//!
//! ```text
//!   old tables │ … │ end of the file │ new L2 tables │ new L1 table │ refcount blocks │ table
//!                                      └── only if their copied flags change ──┘
//! ```
//!
//! The header's first sector switches to them, so that the image is as before or as after the
//! repair. The old tables become free.

use super::copied::CopiedFlags;
use super::refcounts::{Rules, Wanted, write_copied_flags};
use super::tables::{clusters, pad};
use super::{Step, changes, modifying};
use crate::error::{Error, Result};
use crate::formats::qcow2::header::{MAX_REFCOUNT_TABLE_BYTES, Table};
use crate::formats::qcow2::refcount::{self, OFFSET_MASK, Refcounts};
use crate::formats::qcow2::tables::{COPIED, OFFSET_MASK as L2_OFFSET, to_bytes};
use crate::model::mutable::RepairRequest;
use crate::storage::number::{to_u32, to_u64, to_usize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;

/// Rebuilds the refcounts, of which the old ones were [released](release_refcounts). If
/// `moves_tables`, writes the tables of the active disk whose copied flags change to new clusters as
/// well; otherwise in place, afterwards.
///
/// # Errors
/// Returns [`Io`](crate::ErrorKind::Io) if reading or writing fails or a device is full, and
/// [`Limit`](crate::ErrorKind::Limit) if the refcounts would take too much space.
pub(super) fn rebuild(
    step: &mut Step,
    rules: Rules,
    moves_tables: bool,
    request: &mut RepairRequest<'_>,
) -> Result<()> {
    let mut moved = Moved::default();
    if moves_tables {
        moved.find(step, rules, request)?;
    }
    moved.release_old(step);
    let Some(plan) = Plan::make(step, rules, &moved, request)? else { return Ok(()) };
    let l1 = moved.store(step, plan.new.start)?;
    plan.store(step, rules)?;
    step.barrier()?;
    let size = step.image.layout.cluster_size();
    let table = plan.table_at(step);
    step.change_header(|header| {
        header.refcount_table_offset = table.into();
        header.refcount_table_clusters = to_u32(plan.table_clusters).into();
        if let Some(l1) = l1 {
            header.l1_table_offset = l1.into();
        }
    })?;
    if moves_tables {
        return Ok(());
    }
    // The flags depend on the new refcounts.
    step.image.header.refcount_table =
        Table { offset: table, entries: plan.table_clusters * size / 8 };
    write_copied_flags(step, rules, request)
}

/// Tables of the active disk that are written to new clusters.
#[derive(Default)]
struct Moved {
    /// The L2 tables with their flags set, by their old host offset.
    l2: BTreeMap<u64, Vec<u64>>,
    /// The L1 table.
    l1: Option<Vec<u64>>,
}

impl Moved {
    fn find(&mut self, step: &Step, rules: Rules, request: &mut RepairRequest<'_>) -> Result<()> {
        let max = step.image.limits.table_bytes;
        let mut flags = CopiedFlags::new(step, Wanted::new(step, rules)?);
        let (old, l1) = flags.l1()?;
        changes::report_l1_flags(step, &old, &l1, request);
        self.l1 = Some(l1);
        let size = step.image.layout.cluster_size();
        flags.for_each_l2(|offset, old, words| {
            changes::report_l2_flags(step, old, &words, request);
            let bytes = (to_u64(self.l2.len()) + 1) * size;
            if bytes > max {
                let found = format!("{bytes} bytes of changed L2 tables");
                return Err(Error::over_limit("table_bytes", found, max));
            }
            self.l2.insert(offset, words);
            Ok(())
        })
    }

    fn l1_bytes(&self) -> usize {
        self.l1.as_ref().map_or(0, |words| words.len() * 8)
    }

    /// Returns the number of clusters that the tables take.
    fn clusters(&self, step: &Step) -> u64 {
        to_u64(self.l2.len()) + clusters(step, self.l1_bytes())
    }

    /// Subtracts the references to the old tables from the counts.
    fn release_old(&self, step: &mut Step) {
        let size = step.image.layout.cluster_size();
        self.l2.keys().for_each(|&offset| step.release(offset, size));
        if self.l1.is_some() {
            let l1 = step.image.header.l1;
            step.release(l1.offset, l1.bytes());
        }
    }

    /// Writes the tables from the cluster with number `first` on. Returns the host offset of the L1
    /// table.
    fn store(self, step: &Step, first: u64) -> Result<Option<u64>> {
        let Some(mut l1) = self.l1 else { return Ok(None) };
        let size = step.image.layout.cluster_size();
        let mut at = first * size;
        let mut new = BTreeMap::new();
        for (old, words) in self.l2 {
            step.storage.write_all_at(&to_bytes(&words), at).map_err(modifying)?;
            new.insert(old, at);
            at += size;
        }
        for entry in &mut l1 {
            if let Some(new) = new.get(&(*entry & L2_OFFSET)) {
                // A table whose flags change is used once.
                *entry = new | COPIED;
            }
        }
        let mut bytes = to_bytes(&l1);
        pad(step, &mut bytes);
        step.storage.write_all_at(&bytes, at).map_err(modifying)?;
        Ok(Some(at))
    }
}

impl Step {
    /// Subtracts a reference to each cluster of a range from the counts.
    fn release(&mut self, offset: u64, len: u64) {
        let layout = self.image.layout;
        let end = (offset + len).div_ceil(layout.cluster_size());
        for cluster in offset >> layout.cluster_bits..end {
            self.found.use_counts.remove(cluster);
        }
    }
}

/// Subtracts the references to the refcount table and to its blocks from the counts. Returns their
/// clusters, and how often each was subtracted.
///
/// # Errors
/// Returns [`Io`](crate::ErrorKind::Io) if reading the table fails.
pub(super) fn release_refcounts(step: &mut Step) -> Result<BTreeMap<u64, u64>> {
    let (size, len) = (step.image.layout.cluster_size(), step.storage.current_len());
    let table = step.image.header.refcount_table;
    let entries = Refcounts::read(step.image.file(), &step.image.header)?.table;
    let mut released = BTreeMap::new();
    // Exactly those that the check has counted.
    let end = table.offset.checked_add(table.bytes());
    if end.is_some_and(|end| end.saturating_sub(len) < size) {
        step.release(table.offset, table.bytes());
        for cluster in table.offset / size..(table.offset + table.bytes()).div_ceil(size) {
            *released.entry(cluster).or_default() += 1;
        }
    }
    for entry in entries {
        let is_valid = entry & !OFFSET_MASK == 0 && entry.is_multiple_of(size) && entry < len;
        if is_valid && entry != 0 {
            step.release(entry, size);
            *released.entry(entry / size).or_default() += 1;
        }
    }
    Ok(released)
}

/// Where the new tables are.
struct Plan {
    /// Indexes of the new clusters.
    new: Range<u64>,
    /// Indexes of the refcount blocks.
    blocks: BTreeSet<u64>,
    /// Length of the refcount table.
    table_clusters: u64,
}

impl Plan {
    /// Returns `None` if the new clusters would be where an entry refers to.
    fn make(
        step: &Step,
        rules: Rules,
        moved: &Moved,
        request: &mut RepairRequest<'_>,
    ) -> Result<Option<Self>> {
        let size = step.image.layout.cluster_size();
        let per_block = refcount::per_block(size, step.image.header.refcount_order);
        let end = step.clusters();
        if !rules.lower {
            // Every cluster of the file gets a refcount.
            require_bytes(step, end.div_ceil(per_block) * size)?;
        }
        let used =
            |first: &u64| !rules.lower || step.is_any_used(*first..end.min(first + per_block));
        let firsts = (0..end).step_by(to_usize(per_block)).filter(used);
        let mut blocks: BTreeSet<u64> = firsts.map(|first| first / per_block).collect();
        let start = match step.storage.has_fixed_len() {
            true => last_used(step)? + 1,
            false => end,
        };
        loop {
            let entries = blocks.last().map_or(1, |last| last + 1);
            let table_clusters = (entries * 8).div_ceil(size);
            let added = moved.clusters(step) + to_u64(blocks.len()) + table_clusters;
            if table_clusters * size > MAX_REFCOUNT_TABLE_BYTES.max(size) {
                let message = "the image file is larger than what its refcounts can cover";
                return Err(Error::limit(message));
            }
            require_bytes(step, to_u64(blocks.len()) * size)?;
            let new = start..start + added;
            let needed = blocks.len();
            blocks.extend(start / per_block..=(new.end - 1) / per_block);
            if blocks.len() == needed {
                let plan = Self { new, blocks, table_clusters };
                return plan.has_room(step, request).map(|has_room| has_room.then_some(plan));
            }
        }
    }

    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) if the image is on a device that is full.
    fn has_room(&self, step: &Step, request: &mut RepairRequest<'_>) -> Result<bool> {
        let end = self.new.end << step.image.layout.cluster_bits;
        if step.storage.has_fixed_len() {
            let left = step.storage.current_len();
            if end > left {
                let message = format!("the refcounts need {} bytes more", end - left);
                let full = io::Error::from(io::ErrorKind::StorageFull);
                return Err(Error::io(message, full).hint("make the device larger"));
            }
        }
        let first = step.found.damage.first_beyond_end;
        match first.filter(|&first| first < end && !step.storage.has_fixed_len()) {
            None => Ok(true),
            Some(first) => {
                request.left(format!(
                    "ERROR the refcounts are not rebuilt, because an entry refers to {first:#x}, \
                     beyond the end of the file, where they would be: the file may be truncated"
                ));
                Ok(false)
            }
        }
    }

    /// Returns the host offset of the refcount table.
    fn table_at(&self, step: &Step) -> u64 {
        (self.new.end - self.table_clusters) << step.image.layout.cluster_bits
    }

    /// Writes the refcount blocks and the table.
    fn store(&self, step: &Step, rules: Rules) -> Result<()> {
        let size = step.image.layout.cluster_size();
        let order = step.image.header.refcount_order;
        let per_block = refcount::per_block(size, order);
        let mut recorded = Refcounts::read(step.image.file(), &step.image.header)?;
        let mut table = vec![0; to_usize(self.table_clusters * size / 8)];
        let table_at = self.table_at(step);
        let mut at = table_at - to_u64(self.blocks.len()) * size;
        for &index in &self.blocks {
            let mut words = vec![0; to_usize(size / 8)];
            for number in 0..per_block {
                let cluster = index * per_block + number;
                let count = self.count(step, rules, &mut recorded, cluster);
                if count > 0 {
                    let (word, bit) = refcount::position(number, order);
                    words[word] = refcount::insert(words[word], order, bit, count);
                }
            }
            step.storage.write_all_at(&to_bytes(&words), at).map_err(modifying)?;
            table[to_usize(index)] = at;
            at += size;
        }
        step.storage.write_all_at(&to_bytes(&table), table_at).map_err(modifying)
    }

    /// Returns the new refcount of a cluster.
    fn count(&self, step: &Step, rules: Rules, recorded: &mut Refcounts<'_>, cluster: u64) -> u64 {
        if self.new.contains(&cluster) {
            return 1;
        }
        let uses = step.found.use_counts.get(cluster);
        let is_in_file = cluster < step.clusters();
        let old = match rules.lower || !is_in_file {
            true => 0,
            // It may be in use, whatever its refcount is.
            false => recorded.get(cluster).unwrap_or(1).max(1),
        };
        rules.with_raising().apply(old, uses)
    }
}

/// # Errors
/// Returns [`Limit`](crate::ErrorKind::Limit) if the refcount blocks may not have `bytes` bytes.
fn require_bytes(step: &Step, bytes: u64) -> Result<()> {
    let max = step.image.limits.check_bytes;
    match bytes > max {
        false => Ok(()),
        true => {
            let found = format!("{bytes} bytes of new refcount blocks");
            Err(Error::over_limit("check_bytes", found, max))
        }
    }
}

/// Returns the index of the last cluster that is referenced or has a refcount.
fn last_used(step: &Step) -> Result<u64> {
    let mut refcounts = Refcounts::read(step.image.file(), &step.image.header)?;
    let mut is_used = |cluster: &u64| {
        step.found.use_counts.get(*cluster) > 0 || refcounts.get(*cluster).unwrap_or(1) > 0
    };
    Ok((0..step.clusters()).rev().find(&mut is_used).unwrap_or(0))
}
