//! Checking the consistency of the tables: each cluster is in the file and used once.

use super::{Entry, SECTOR, Tables};
use crate::error::{Error, Result};
use crate::formats::findings::Findings;
use crate::report::check::{CheckReport, Code, Finding};
use crate::storage::number::{to_u64, to_usize};
use std::ops::Range;

/// Which units of a file are used, one bit for each.
#[derive(Debug, Clone)]
pub(super) struct UsedSpace {
    unit: u64,
    bits: Vec<u64>,
}

impl UsedSpace {
    pub(super) fn new(len: u64, unit: u64) -> Self {
        Self { unit, bits: vec![0; to_usize(len.div_ceil(unit).div_ceil(64))] }
    }

    /// Returns the memory in bytes that this needs for a file of `len` bytes.
    pub(super) fn bytes(len: u64, unit: u64) -> u64 {
        len.div_ceil(unit).div_ceil(64) * 8
    }

    fn units(&self, range: Range<u64>) -> Range<u64> {
        range.start / self.unit..range.end.div_ceil(self.unit).min(to_u64(self.bits.len()) * 64)
    }

    pub(super) fn contains(&self, unit: u64) -> bool {
        self.bits[to_usize(unit / 64)] >> (unit % 64) & 1 != 0
    }

    /// Returns true if a part of the range is used.
    pub(super) fn overlaps(&self, range: Range<u64>) -> bool {
        self.units(range).any(|unit| self.contains(unit))
    }

    pub(super) fn insert(&mut self, range: Range<u64>) {
        for unit in self.units(range) {
            self.bits[to_usize(unit / 64)] |= 1 << (unit % 64);
        }
    }
}

/// A check that is in progress.
struct Check<'a, 'b> {
    tables: &'a Tables,
    findings: Findings<'b>,
    /// What only one entry may refer to.
    used: UsedSpace,
    /// Compressed clusters, several of which may be in one sector.
    packed: Option<UsedSpace>,
    /// Host offset of the end of the cluster before, if that was stored verbatim.
    previous_end: Option<u64>,
}

/// Checks the tables and passes the findings to `report`. At most `max_bytes` of memory are used to
/// record which parts of the file are in use.
///
/// # Errors
/// Returns [`Limit`](crate::ErrorKind::Limit) if that is not enough. What cannot be read is a
/// finding.
pub(crate) fn check(
    tables: &Tables,
    max_bytes: u64,
    report: &mut dyn FnMut(Finding),
) -> Result<CheckReport> {
    let (layout, end) = (tables.layout(), tables.end);
    let unit = if layout.format.whole_clusters { layout.cluster_size() } else { SECTOR };
    let maps = 1 + u64::from(layout.format.compressed);
    let needed = UsedSpace::bytes(end, unit).saturating_mul(maps);
    if needed > max_bytes {
        let found = format!("recording which clusters are in use needs {needed} bytes");
        return Err(Error::over_limit("check_bytes", found, max_bytes));
    }
    let mut counts = CheckReport {
        total_clusters: tables.size().div_ceil(layout.cluster_size()),
        ..CheckReport::default()
    };
    let mut check = Check {
        tables,
        findings: Findings { report, counts: &mut counts },
        used: UsedSpace::new(end, unit),
        packed: layout.format.compressed.then(|| UsedSpace::new(end, unit)),
        previous_end: None,
    };
    // Of other files, compressed clusters may be in the sectors of the header and the L1 table. That
    // nothing overlaps their bytes is verified with the place of each cluster.
    if layout.format.whole_clusters {
        let location = &tables.location;
        check.used.insert(0..location.header_end);
        check.used.insert(location.l1_at..location.l1_at.saturating_add(location.l1_bytes));
    }
    for (l1_index, &table) in (0..).zip(&tables.l1) {
        if table != 0 {
            check.table(l1_index, table);
        }
    }
    if layout.format.whole_clusters {
        check.leaks();
    }
    Ok(counts)
}

impl Check<'_, '_> {
    /// Checks an L2 table and what it refers to.
    fn table(&mut self, l1_index: u64, table: u64) {
        let (tables, layout) = (self.tables, self.tables.layout());
        if let Err(error) = tables.require_table(l1_index, table) {
            return self.findings.unreadable(&format!("L1 entry {l1_index}"), &error);
        }
        let range = table..table + layout.table_bytes();
        if self.used.overlaps(range.clone()) {
            let message = format!("the {} at {table:#x} overlaps a cluster", layout.format.l2);
            self.findings.corruption(message);
        }
        self.extend_to(range.end);
        self.used.insert(range);
        let per_chunk = tables.chunk_entries();
        let first = l1_index << layout.table_bits;
        for chunk in first / per_chunk..(first + layout.entries()) / per_chunk {
            let words = match tables.chunk(chunk, table) {
                Ok(words) => words,
                Err(error) => {
                    let what = format!("the {} at {table:#x}", layout.format.l2);
                    self.findings.unreadable(&what, &error);
                    continue;
                }
            };
            for (cluster, &entry) in (chunk * per_chunk..).zip(words.iter()) {
                self.cluster(cluster.saturating_mul(layout.cluster_size()), entry);
            }
        }
    }

    /// Checks the entry of the cluster at a guest offset.
    fn cluster(&mut self, guest: u64, entry: u64) {
        let (tables, size) = (self.tables, self.tables.layout().cluster_size());
        let (placed, range, is_packed) = match tables.layout().decode(entry) {
            Entry::Unallocated | Entry::Zero => return,
            Entry::Data(offset) => {
                (tables.require_cluster(offset, guest), offset..offset.saturating_add(size), false)
            }
            Entry::Compressed { offset, len } => {
                let placed = tables.require_compressed(offset, len, guest);
                (placed, offset..offset.saturating_add(len.into()), true)
            }
        };
        if let Err(error) = placed {
            return self.findings.corruption(error.without_remedy());
        }
        self.findings.counts.allocated_clusters += 1;
        self.extend_to(range.end);
        if is_packed {
            self.findings.counts.compressed_clusters += 1;
        } else {
            let is_apart = self.previous_end.is_some_and(|end| end != range.start);
            self.findings.counts.fragmented_clusters += u64::from(is_apart);
            self.previous_end = Some(range.end);
        }
        let overlaps = |map: &UsedSpace| map.overlaps(range.clone());
        if overlaps(&self.used) || !is_packed && self.packed.as_ref().is_some_and(overlaps) {
            let message = format!(
                "guest offset {guest:#x} is stored at {:#x}, which is used more than once",
                range.start
            );
            self.findings.corruption(message);
        }
        match &mut self.packed {
            Some(packed) if is_packed => packed.insert(range),
            _ => self.used.insert(range),
        }
    }

    /// Notes the end of a table or cluster.
    fn extend_to(&mut self, end: u64) {
        let last = self.findings.counts.image_end_offset.get_or_insert(0);
        *last = end.max(*last);
    }

    /// Reports the clusters of the file that nothing refers to.
    fn leaks(&mut self) {
        let unit = self.used.unit;
        for cluster in 0..self.tables.end / unit {
            if !self.used.contains(cluster) {
                let message = format!("the cluster at {:#x} is leaked", cluster * unit);
                self.findings.found(Code::Leak, message);
            }
        }
    }
}
