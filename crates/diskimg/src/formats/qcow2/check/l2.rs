//! Counting what L2 tables refer to.

use super::{Check, Uses};
use crate::error::Result;
use crate::formats::qcow2::header::Table;
use crate::formats::qcow2::tables::{COPIED, Cluster, L2_RESERVED};
use std::ops::ControlFlow;

impl Check<'_> {
    pub(super) fn check_l2_tables(&mut self) -> Result<()> {
        let tables = std::mem::take(&mut self.l2_tables);
        tables.iter().try_for_each(|(&offset, &uses)| self.check_l2_table(offset, uses))?;
        self.l2_tables = tables;
        Ok(())
    }

    fn check_l2_table(&mut self, offset: u64, uses: Uses) -> Result<()> {
        // Host offset of the next cluster if it is contiguous with the previous one.
        let mut expected = None;
        self.for_each_l2_entry(offset, |check, index, entry, bitmap| {
            check.check_l2_entry(index, entry, bitmap, uses, &mut expected)
        })
    }

    /// Calls `each` with index, entry and bitmap (0 unless extended) of each entry of an L2 table.
    pub(super) fn for_each_l2_entry(
        &mut self,
        offset: u64,
        mut each: impl FnMut(&mut Self, u64, u64, u64) -> Result<()>,
    ) -> Result<()> {
        let table = Table { offset, entries: self.cluster_size / 8 };
        let extended = self.layout.extended;
        let mut first = 0;
        self.for_each_word("L2 table", table, |check, index, word| {
            match (extended, index % 2) {
                (false, _) => each(check, index, word, 0)?,
                (true, 0) => first = word,
                (true, _) => each(check, index / 2, first, word)?,
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    fn check_l2_entry(
        &mut self,
        index: u64,
        entry: u64,
        bitmap: u64,
        uses: Uses,
        expected: &mut Option<u64>,
    ) -> Result<()> {
        let cluster = self.layout.decode(entry, bitmap);
        if let Cluster::Compressed { offset, len } = cluster {
            return self.check_compressed(index, entry, bitmap, (offset, len), uses);
        }
        if entry & L2_RESERVED != 0 {
            self.damage.entries = true;
            self.corruption(format!("ERROR found l2 entry with reserved bits set: {entry:x}"));
        }
        let (offset, holds_data) = match cluster {
            Cluster::Data { offset } => (offset, true),
            Cluster::Zero { offset: Some(offset) } => (offset, false),
            Cluster::Subclusters(subclusters) => {
                let Some(offset) = subclusters.offset else {
                    if subclusters.allocated != 0 {
                        self.lost_references(
                            "ERROR: Unallocated cluster has non-zero subcluster allocation map"
                                .into(),
                        );
                    }
                    return Ok(());
                };
                if !subclusters.is_valid() {
                    self.corruption(format!(
                        "ERROR offset={offset:x}: Allocated cluster has corrupted subcluster \
                         allocation bitmap"
                    ));
                }
                (offset, subclusters.allocated != 0)
            }
            Cluster::Compressed { .. } | Cluster::Zero { offset: None } | Cluster::Unallocated => {
                return Ok(());
            }
        };
        if !offset.is_multiple_of(self.cluster_size) {
            let what = if holds_data { "Data" } else { "Preallocated" };
            self.damage.entries |= !holds_data;
            self.lost_references(format!(
                "ERROR offset={offset:x}: {what} cluster is not properly aligned; L2 entry \
                 corrupted."
            ));
        }
        self.counts.allocated_clusters += uses.active;
        if expected.is_some_and(|expected| offset != expected) {
            self.counts.fragmented_clusters += uses.active;
        }
        *expected = Some(offset + self.cluster_size);
        if self.layout.data_file {
            return Ok(());
        }
        self.add_references(offset, self.cluster_size, uses.active + uses.inactive)
    }

    fn check_compressed(
        &mut self,
        index: u64,
        entry: u64,
        bitmap: u64,
        (offset, len): (u64, u32),
        uses: Uses,
    ) -> Result<()> {
        if entry & COPIED != 0 {
            self.damage.entries = true;
            self.corruption(format!(
                "ERROR: coffset={offset:#x}: copied flag must never be set for compressed clusters"
            ));
        }
        if self.layout.data_file {
            self.lost_references(format!(
                "ERROR compressed cluster {index} with data file, entry={entry:#x}"
            ));
            return Ok(());
        }
        if bitmap != 0 {
            self.damage.entries = true;
            self.lost_references(format!(
                "ERROR compressed cluster {index} with non-zero subcluster allocation bitmap, \
                 entry={entry:#x}"
            ));
            return Ok(());
        }
        self.counts.allocated_clusters += uses.active;
        self.counts.compressed_clusters += uses.active;
        // As in QEMU, every compressed cluster counts as fragmented.
        self.counts.fragmented_clusters += uses.active;
        self.add_references(offset, len.into(), uses.active + uses.inactive)
    }
}
