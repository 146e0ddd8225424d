//! `check`: counts the references to every host cluster and compares them with the refcounts in the
//! image.
//!
//! ```text
//!   header, L1 tables ─► L2 tables ─► data ┐
//!   snapshot table, bitmaps, LUKS header   ├─► references per cluster ◄─ compared ─► refcounts
//!   refcount table ─► refcount blocks      ┘
//!   references > refcount: corruption (the cluster may be reallocated while in use)
//!   references < refcount: a leak
//! ```
//!
//! Findings and counts equal those of `qemu-img check`. An L2 table is read once, however many L1
//! entries point to it, so that a malicious image cannot multiply the work.

mod l2;

use super::bitmaps::{Bitmap, decode_table_entry};
use super::damage::Damage;
use super::header::{MAX_L1_BYTES, Table};
use super::layer::Qcow2;
use super::refcount::{self, Refcounts};
use super::tables::{COPIED, Cluster, L1_RESERVED, L2Layout, OFFSET_MASK, read_words};
use super::use_counts::UseCounts;
use crate::error::{Error, Result};
use crate::report::check::{CheckReport, Code, Finding};
use crate::storage::source::Source;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

/// Maximum number of host clusters that can be checked (QEMU's limit).
pub(super) const MAX_CLUSTERS: u64 = (1 << 31) - 1;

/// Bytes by which the L1 tables of all snapshots and all bitmap tables together may exceed the
/// file. Valid tables do not overlap, but in a malicious image thousands may share the same bytes.
const OVERLAPPING_TABLE_BYTES: u64 = 1 << 20;

/// Approximate memory use in bytes per entry of [`Check::l2_tables`].
const L2_TABLE_BYTES: u64 = 48;

/// Returns the maximum total length in bytes of the tables of snapshots and bitmaps.
fn max_table_bytes(image: &Qcow2) -> u64 {
    image.file().len().saturating_add(OVERLAPPING_TABLE_BYTES)
}

/// Number of words of a table that are read at a time.
const CHUNK_WORDS: u64 = 8192;

/// Minimum length in bytes of a snapshot's extra data in version 3. It ends with the disk size.
pub(super) const MIN_V3_SNAPSHOT_EXTRA: u32 = 16;

/// Checks the image.
///
/// # Errors
/// Returns [`Limit`](crate::ErrorKind::Limit) if the check exceeds a limit, and
/// [`Io`](crate::ErrorKind::Io) if the file cannot be read. Inconsistencies are findings.
pub(super) fn run(image: &Qcow2, report: &mut dyn FnMut(Finding)) -> Result<CheckReport> {
    examine(image, report).map(|examined| examined.counts)
}

/// What a check has found out, for a repair.
#[derive(Debug)]
pub(super) struct Examined {
    /// The result of the check.
    pub(super) counts: CheckReport,
    /// The references to each host cluster, including those that exceed the largest refcount.
    pub(super) use_counts: UseCounts,
    /// All L2 tables by host offset.
    pub(super) l2_tables: BTreeMap<u64, Uses>,
    pub(super) damage: Damage,
}

/// Checks the image, and returns what a repair needs to know.
///
/// # Errors
/// As [`run`].
pub(super) fn examine(image: &Qcow2, report: &mut dyn FnMut(Finding)) -> Result<Examined> {
    let header = &image.header;
    let cluster_size = header.cluster_size();
    let clusters = image.file().len().div_ceil(cluster_size);
    if clusters > MAX_CLUSTERS {
        return Err(Error::limit(format!(
            "the file has {clusters} clusters, but at most {MAX_CLUSTERS} can be checked"
        )));
    }
    let mut refcounts = Refcounts::read(image.file(), header)?;
    let mut check = Check {
        image,
        file: image.file(),
        layout: image.layout,
        cluster_size,
        clusters,
        max_refcount: u64::MAX >> (64 - header.refcount_bits()),
        use_counts: UseCounts::new(image.limits.check_bytes),
        l2_tables: BTreeMap::new(),
        damage: Damage::default(),
        table_budget: max_table_bytes(image).min(image.limits.shared_table_bytes),
        counts: CheckReport {
            total_clusters: header.size.div_ceil(cluster_size),
            ..CheckReport::default()
        },
        report,
    };
    check.count_references(&refcounts)?;
    let highest = check.compare(&mut refcounts)?;
    check.check_copied_flags(&mut refcounts)?;
    check.counts.image_end_offset = Some((highest + 1) * cluster_size);
    let Check { counts, use_counts, l2_tables, damage, .. } = check;
    Ok(Examined { counts, use_counts, l2_tables, damage })
}

/// The state of a check.
struct Check<'a> {
    image: &'a Qcow2,
    file: &'a dyn Source,
    layout: L2Layout,
    cluster_size: u64,
    /// Number of host clusters of the file.
    clusters: u64,
    /// The largest refcount that can be stored.
    max_refcount: u64,
    /// References counted so far.
    use_counts: UseCounts,
    /// All L2 tables by host offset.
    l2_tables: BTreeMap<u64, Uses>,
    damage: Damage,
    /// Bytes of snapshots' and bitmaps' tables that may still be read.
    table_budget: u64,
    counts: CheckReport,
    report: &'a mut dyn FnMut(Finding),
}

/// The number of L1 entries that point to an L2 table.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Uses {
    /// Entries in the active L1 table.
    pub(super) active: u64,
    /// Entries in the L1 tables of snapshots.
    pub(super) inactive: u64,
}

impl Check<'_> {
    fn report_finding(&mut self, code: Code, message: String) {
        self.counts.count(code);
        (self.report)(Finding::of_check(code, message));
    }

    fn corruption(&mut self, message: String) {
        self.report_finding(Code::Corruption, message);
    }

    /// Reports damage because of which references may not have been counted: what is not
    /// referenced may still be in use.
    fn lost_references(&mut self, message: String) {
        self.damage.incomplete = true;
        self.corruption(message);
    }

    /// Counts references as [`count`](Self::count). If they are invalid, others may be missing.
    fn add_references(&mut self, offset: u64, len: u64, times: u64) -> Result<()> {
        if !self.count(offset, len, times)? {
            self.damage.incomplete = true;
            let first = self.damage.first_beyond_end.unwrap_or(u64::MAX);
            self.damage.first_beyond_end = Some(first.min(offset));
        }
        Ok(())
    }

    /// Counts `times` references to all clusters that `len` bytes at host offset `offset` touch.
    /// Returns false if they are beyond the end of the file.
    fn count(&mut self, offset: u64, len: u64, times: u64) -> Result<bool> {
        if len == 0 {
            return Ok(true);
        }
        // The last cluster of the file may be incomplete.
        let end = offset.checked_add(len);
        let Some(end) = end.filter(|end| end.saturating_sub(self.file.len()) < self.cluster_size)
        else {
            self.corruption(format!(
                "ERROR: counting reference for region exceeding the end of the file by one \
                 cluster or more: offset {offset:#x} size {len:#x}"
            ));
            return Ok(false);
        };
        let bits = self.layout.cluster_bits;
        for cluster in offset >> bits..=(end - 1) >> bits {
            if !self.use_counts.add(cluster, times, self.max_refcount)? {
                self.damage.overflown = true;
                self.corruption(format!("ERROR: overflow cluster offset={:#x}", cluster << bits));
            }
        }
        Ok(true)
    }

    /// Reserves the bytes of a table that will be read.
    ///
    /// # Errors
    /// Returns [`Limit`](crate::ErrorKind::Limit) if the budget is exhausted.
    fn spend_table_budget(&mut self, table: Table) -> Result<()> {
        let bytes = table.bytes().min(self.file.len().saturating_sub(table.offset));
        self.table_budget = self.table_budget.checked_sub(bytes).ok_or_else(|| {
            let max = self.image.limits.shared_table_bytes;
            if max < max_table_bytes(self.image) {
                let found = "the tables of snapshots and bitmaps take more bytes";
                return Error::over_limit("shared_table_bytes", found, max);
            }
            Error::limit(
                "the tables of snapshots and bitmaps take more bytes than the file has: they \
                 overlap",
            )
        })?;
        Ok(())
    }

    /// Calls `each` with the index and value of each word of a table. Stops at the end of the file,
    /// beyond which a table may extend for gigabytes.
    fn for_each_word(
        &mut self,
        name: &'static str,
        table: Table,
        mut each: impl FnMut(&mut Self, u64, u64) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let mut index = 0;
        while index < table.entries {
            let count = CHUNK_WORDS.min(table.entries - index);
            let offset = table.offset.saturating_add(index * 8);
            if offset >= self.file.len() {
                break;
            }
            for (i, word) in (index..).zip(read_words(self.file, name, offset, count)?) {
                if each(self, i, word)?.is_break() {
                    return Ok(());
                }
            }
            index += count;
        }
        Ok(())
    }

    /// Counts all references in the image.
    fn count_references(&mut self, refcounts: &Refcounts<'_>) -> Result<()> {
        let image = self.image;
        let header = &image.header;
        self.add_references(0, self.cluster_size, 1)?;
        self.walk_l1(header.l1, true)?;
        self.count_snapshots()?;
        self.check_l2_tables()?;
        if let Ok(snapshots) = &image.snapshots {
            self.add_references(header.snapshots_offset, snapshots.bytes, 1)?;
        }
        let table = header.refcount_table;
        self.damage.refcounts |= !self.count(table.offset, table.bytes(), 1)?;
        if let Some(encryption) = header.extensions.encryption {
            self.add_references(encryption.offset, encryption.bytes, 1)?;
        }
        self.count_bitmaps()?;
        self.check_refcount_blocks(refcounts)
    }

    /// Counts the references of an L1 table, and records the L2 tables that it points to.
    fn walk_l1(&mut self, table: Table, active: bool) -> Result<()> {
        self.add_references(table.offset, table.bytes(), 1)?;
        self.for_each_word("L1 table", table, |check, _, entry| {
            if entry == 0 {
                return Ok(ControlFlow::Continue(()));
            }
            if entry & L1_RESERVED != 0 {
                check.damage.entries = true;
                check.corruption(format!("ERROR found L1 entry with reserved bits set: {entry:x}"));
            }
            let offset = entry & OFFSET_MASK;
            check.add_references(offset, check.cluster_size, 1)?;
            if !offset.is_multiple_of(check.cluster_size) {
                check.lost_references(format!(
                    "ERROR l2_offset={offset:x}: Table is not cluster aligned; L1 entry corrupted"
                ));
            } else if offset != 0 && offset < check.file.len() {
                let uses = match check.l2_tables.entry(offset) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => {
                        check.use_counts.spend(L2_TABLE_BYTES)?;
                        new.insert(Uses::default())
                    }
                };
                *if active { &mut uses.active } else { &mut uses.inactive } += 1;
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    fn count_snapshots(&mut self) -> Result<()> {
        let image = self.image;
        let snapshots = match &image.snapshots {
            Ok(snapshots) => &snapshots.entries,
            Err(error) => {
                self.lost_references(format!(
                    "ERROR failed to read the snapshot table: {}",
                    error.without_remedy()
                ));
                return Ok(());
            }
        };
        if self.layout.data_file && !snapshots.is_empty() {
            self.lost_references(format!(
                "ERROR {} snapshots in image with data file",
                snapshots.len()
            ));
        }
        let mut known = HashMap::new();
        for (index, snapshot) in snapshots.iter().enumerate() {
            if image.header.version >= 3 && snapshot.extra_bytes < MIN_V3_SNAPSHOT_EXTRA {
                self.damage.snapshots = true;
                self.corruption(format!("ERROR snapshot table entry {index} is incomplete"));
            }
            let (id, name, l1) = (&snapshot.info.id, &snapshot.info.name, snapshot.l1);
            if !l1.offset.is_multiple_of(self.cluster_size) {
                self.lost_references(format!(
                    "ERROR snapshot {id} ({name}) l1_offset={:#x}: L1 table is not cluster \
                     aligned; snapshot table entry corrupted",
                    l1.offset
                ));
            } else if l1.bytes() > MAX_L1_BYTES.max(image.limits.table_bytes) {
                self.lost_references(format!(
                    "ERROR snapshot {id} ({name}) l1_size={:#x}: L1 table is too large; \
                     snapshot table entry corrupted",
                    l1.entries
                ));
            } else if l1.entries == 0 {
                // An empty disk, whose table may be anywhere.
            } else if let Some(other) = known.insert(l1.offset, index) {
                // Walking the table for each of them could take hours.
                self.lost_references(format!(
                    "ERROR snapshot {id} ({name}) l1_offset={:#x}: L1 table of snapshot table \
                     entry {other}, too",
                    l1.offset
                ));
                self.add_references(l1.offset, l1.bytes(), 1)?;
            } else {
                self.spend_table_budget(l1)?;
                self.walk_l1(l1, false)?;
            }
        }
        Ok(())
    }

    fn count_bitmaps(&mut self) -> Result<()> {
        let image = self.image;
        let bitmaps = match &image.bitmaps {
            Ok(bitmaps) => bitmaps,
            Err(error) => {
                self.damage.bitmaps = true;
                self.lost_references(format!(
                    "ERROR failed to read the bitmap directory: {}",
                    error.without_remedy()
                ));
                return Ok(());
            }
        };
        if let Some(directory) = image.header.extensions.bitmaps.filter(|_| !bitmaps.is_empty()) {
            self.add_references(directory.offset, directory.bytes, 1)?;
        }
        bitmaps.iter().try_for_each(|bitmap| self.count_bitmap(bitmap))
    }

    fn count_bitmap(&mut self, bitmap: &Bitmap) -> Result<()> {
        self.add_references(bitmap.table.offset, bitmap.table.bytes(), 1)?;
        self.spend_table_budget(bitmap.table)?;
        self.for_each_word("bitmap table", bitmap.table, |check, _, entry| {
            match decode_table_entry(entry, check.cluster_size) {
                Ok(None) => {}
                Ok(Some(offset)) => check.add_references(offset, check.cluster_size, 1)?,
                Err(error) => {
                    check.damage.bitmaps = true;
                    check.lost_references(format!("ERROR {}", error.without_remedy()));
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    fn check_refcount_blocks(&mut self, refcounts: &Refcounts<'_>) -> Result<()> {
        if refcounts.table.is_empty() {
            self.damage.refcounts = true;
            self.corruption("ERROR the image has no refcount table".into());
        }
        for (index, &entry) in refcounts.table.iter().enumerate() {
            let offset = entry & refcount::OFFSET_MASK;
            let cluster = offset >> self.layout.cluster_bits;
            if entry & !refcount::OFFSET_MASK != 0 {
                self.damage.refcounts = true;
                self.corruption(format!(
                    "ERROR refcount table entry {index} has reserved bits set"
                ));
            } else if !offset.is_multiple_of(self.cluster_size) {
                self.damage.refcounts = true;
                self.corruption(format!(
                    "ERROR refcount block {index} is not cluster aligned; refcount table entry \
                     corrupted"
                ));
            } else if cluster >= self.clusters {
                self.damage.refcounts = true;
                self.corruption(format!("ERROR refcount block {index} is outside image"));
            } else if offset != 0 {
                self.count(offset, self.cluster_size, 1)?;
                let count = self.uses(cluster);
                if count != 1 {
                    self.corruption(format!("ERROR refcount block {index} refcount={count}"));
                }
            }
        }
        Ok(())
    }

    /// Compares references with refcounts. Returns the last cluster with a nonzero count of either.
    fn compare(&mut self, refcounts: &mut Refcounts<'_>) -> Result<u64> {
        // A table may end in the cluster after the last one of the file.
        let end = self.clusters + u64::from(self.use_counts.get(self.clusters) > 0);
        let step = refcounts.clusters_per_block();
        let mut highest = 0;
        let mut start = 0;
        while start < end {
            let stop = end.min(start + step);
            match refcounts.block_of(start) {
                Err(error) => {
                    self.report_finding(
                        Code::CheckError,
                        format!(
                            "Can't get refcount for clusters {start} to {}: {}",
                            stop - 1,
                            error.without_remedy()
                        ),
                    );
                    self.counts.check_errors += stop - start - 1;
                }
                Ok(Some(block)) => {
                    for cluster in start..stop {
                        let refcount = refcounts.get_in(block, cluster - start)?;
                        self.compare_cluster(cluster, refcount, &mut highest);
                    }
                }
                Ok(None) => {
                    let mut cluster = self.use_counts.next_counted(start, stop);
                    while cluster < stop {
                        self.compare_cluster(cluster, 0, &mut highest);
                        cluster = self.use_counts.next_counted(cluster + 1, stop);
                    }
                }
            }
            start = stop;
        }
        Ok(highest)
    }

    /// Returns the number of references to a cluster, as far as a refcount can store it.
    fn uses(&self, cluster: u64) -> u64 {
        self.use_counts.get(cluster).min(self.max_refcount)
    }

    fn compare_cluster(&mut self, cluster: u64, refcount: u64, highest: &mut u64) {
        let uses = self.uses(cluster);
        if refcount > 0 || uses > 0 {
            *highest = cluster;
        }
        let (code, word) = match refcount.cmp(&uses) {
            std::cmp::Ordering::Equal => return,
            std::cmp::Ordering::Less => (Code::Corruption, "ERROR"),
            std::cmp::Ordering::Greater => (Code::Leak, "Leaked"),
        };
        self.report_finding(
            code,
            format!("{word} cluster {cluster} refcount={refcount} reference={uses}"),
        );
    }

    /// Verifies in the tables of the active disk that the copied flag is set exactly where the
    /// refcount is one.
    fn check_copied_flags(&mut self, refcounts: &mut Refcounts<'_>) -> Result<()> {
        let bits = self.layout.cluster_bits;
        self.for_each_word("L1 table", self.image.header.l1, |check, index, entry| {
            let offset = entry & OFFSET_MASK;
            // Errors of the refcount table have been reported already.
            if offset != 0
                && let Ok(refcount) = refcounts.get(offset >> bits)
                && (refcount == 1) != (entry & COPIED != 0)
            {
                check.corruption(format!(
                    "ERROR OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={entry:x} \
                     refcount={refcount}"
                ));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let tables = std::mem::take(&mut self.l2_tables);
        for (&table, _) in tables.iter().filter(|(_, uses)| uses.active > 0) {
            self.for_each_l2_entry(table, |check, _, entry, bitmap| {
                let offset = match check.layout.decode(entry, bitmap) {
                    Cluster::Data { offset } | Cluster::Zero { offset: Some(offset) } => offset,
                    Cluster::Subclusters(subclusters) => match subclusters.offset {
                        Some(offset) => offset,
                        None => return Ok(()),
                    },
                    _ => return Ok(()),
                };
                // Clusters of a data file have no refcount; each is referenced once.
                let refcount =
                    if check.layout.data_file { Ok(1) } else { refcounts.get(offset >> bits) };
                if let Ok(refcount) = refcount
                    && (refcount == 1) != (entry & COPIED != 0)
                {
                    check.corruption(format!(
                        "ERROR OFLAG_COPIED data cluster: l2_entry={entry:x} refcount={refcount}"
                    ));
                }
                Ok(())
            })?;
        }
        self.l2_tables = tables;
        Ok(())
    }
}
