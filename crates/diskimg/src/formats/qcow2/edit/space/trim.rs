//! Making the file shorter when clusters at its end are not used any more.

use super::Space;
use crate::error::{Error, Result};
use crate::formats::qcow2::edit::table::{sector_of, sectors};
use crate::storage::edit::{Edit, Edits};
use crate::storage::number::to_u64;
use std::collections::BTreeSet;

impl Space {
    /// Removes refcount blocks that describe no clusters in use but their own, and then the part of
    /// the file behind the last cluster in use. All changes of refcounts must be stored.
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) if reading or writing fails.
    pub(in crate::formats::qcow2::edit) fn trim(&mut self) -> Result<()> {
        let cannot_modify = |e| Error::io("cannot modify the image", e);
        loop {
            let unused = self.unused_blocks()?;
            if unused.is_empty() {
                break;
            }
            let mut changed = BTreeSet::new();
            let mut freed = Vec::new();
            for &index in &unused {
                let offset = std::mem::take(&mut self.table[index]);
                changed.insert(sector_of(index));
                freed.push(Edit::Discard { offset, len: self.cluster_size() });
            }
            let mut edits = Edits::new();
            edits.phase(sectors(&self.table, &changed, self.location.offset));
            for edit in &freed {
                let Edit::Discard { offset, .. } = edit else { continue };
                let cluster = offset >> self.cluster_bits;
                if self.has_block(cluster) {
                    let count = self.count(cluster)?;
                    self.set(cluster, count.saturating_sub(1))?;
                }
            }
            edits.phase(self.take_changes().counts).phase(freed);
            edits.apply(&*self.storage).map_err(cannot_modify)?;
            self.forget_stored();
        }
        let blocks = self.table.iter().copied().max().unwrap_or(0) + self.cluster_size();
        let used = self.end_of_used()? << self.cluster_bits;
        let end = used.max(blocks).max(self.metadata.end_of_others());
        if !self.storage.has_fixed_len() && end < self.storage.current_len() {
            let mut edits = Edits::new();
            edits.phase([Edit::SetLen(end)]);
            edits.apply(&*self.storage).map_err(cannot_modify)?;
        }
        Ok(())
    }

    /// Returns the indexes of the refcount blocks that describe no clusters in use but their own.
    fn unused_blocks(&mut self) -> Result<Vec<usize>> {
        let mut unused = Vec::new();
        for index in 0..self.table.len() {
            let own = self.table[index] >> self.cluster_bits;
            let first = to_u64(index) * self.per_block();
            if own != 0 && !self.describes_others(first, own)? {
                unused.push(index);
            }
        }
        // The first block describes the header. Without it, the image would be damaged.
        unused.retain(|&index| index != 0);
        Ok(unused)
    }

    /// Returns true if a cluster from `first` on that the same block describes is in use, other than
    /// `own` with refcount 1.
    fn describes_others(&mut self, first: u64, own: u64) -> Result<bool> {
        let per_page = self.per_page();
        for page in 0..self.per_block() / per_page {
            let start = first + page * per_page;
            let is_clear = match self.page(start / per_page)? {
                Some(words) => words.iter().all(|&word| word == 0),
                None => true,
            };
            if is_clear {
                continue;
            }
            for cluster in start..start + per_page {
                let count = self.count(cluster)?;
                if count > u64::from(cluster == own) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}
