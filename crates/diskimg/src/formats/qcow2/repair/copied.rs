//! Setting the copied flags of the tables of the active disk.

use super::Step;
use super::refcounts::Wanted;
use super::tables::{read_l1, replace_entries};
use crate::error::Result;
use crate::formats::qcow2::tables::{COPIED, Cluster, OFFSET_MASK};

/// The copied flags as they should be.
pub(super) struct CopiedFlags<'a> {
    step: &'a Step,
    wanted: Wanted<'a>,
}

impl<'a> CopiedFlags<'a> {
    pub(super) fn new(step: &'a Step, wanted: Wanted<'a>) -> Self {
        Self { step, wanted }
    }

    /// Returns the active L1 table, and the same with its flags set. They are equal if the table
    /// must not be changed.
    pub(super) fn l1(&mut self) -> Result<(Vec<u64>, Vec<u64>)> {
        let table = self.step.image.header.l1;
        let words = read_l1(self.step, table)?;
        let mut changed = words.clone();
        if self.step.is_l1_table(table, &words) {
            for entry in changed.iter_mut().filter(|entry| **entry & OFFSET_MASK != 0) {
                *entry = self.with_flag(*entry, *entry & OFFSET_MASK);
            }
        }
        Ok((words, changed))
    }

    /// Calls `each` with the host offset, the words, and the words with their flags set, of each L2
    /// table of the active disk whose flags are not all set as they should be.
    pub(super) fn for_each_l2(
        &mut self,
        mut each: impl FnMut(u64, &[u64], Vec<u64>) -> Result<()>,
    ) -> Result<()> {
        let step = self.step;
        let layout = step.image.layout;
        for (&table, &uses) in step.found.l2_tables.iter().filter(|(_, uses)| uses.active > 0) {
            let words = step.read_l2(table)?;
            let mut changed = words.clone();
            replace_entries(layout, &mut changed, |(entry, bitmap)| {
                let offset = match layout.decode(entry, bitmap) {
                    Cluster::Data { offset } => Some(offset),
                    Cluster::Zero { offset } => offset,
                    Cluster::Subclusters(subclusters) => subclusters.offset,
                    Cluster::Compressed { .. } | Cluster::Unallocated => None,
                };
                let entry = match offset {
                    None => entry,
                    // Clusters of a data file have no refcount; each is referenced once.
                    Some(_) if layout.data_file => entry | COPIED,
                    Some(offset) => self.with_flag(entry, offset),
                };
                (entry, bitmap)
            });
            if changed != words && step.is_l2_table(table, uses, &words) {
                each(table, &words, changed)?;
            }
        }
        Ok(())
    }

    /// Sets or clears the flag of an entry that refers to a host offset, unless the refcount of the
    /// cluster will not be the number of references.
    fn with_flag(&mut self, entry: u64, offset: u64) -> u64 {
        let cluster = offset >> self.step.image.layout.cluster_bits;
        let uses = self.step.found.use_counts.get(cluster);
        match (uses, self.wanted.count(cluster)) {
            (1, Some(1)) => entry | COPIED,
            (uses, Some(count)) if uses == count => entry & !COPIED,
            _ => entry,
        }
    }
}
