//! What a repair must know of a table before it changes it.

use super::{Step, modifying};
use crate::error::Result;
use crate::formats::qcow2::check::Uses;
use crate::formats::qcow2::header::{Autoclear, Table};
use crate::formats::qcow2::tables::{
    COPIED, Cluster, L2_RESERVED, L2Layout, OFFSET_MASK, ZERO, read_words, to_bytes,
};
use crate::storage::number::{to_u64, to_usize};

/// Number of words in a sector, which is written as a whole.
const SECTOR_WORDS: usize = 64;

/// Maximum number of overlaps that are reported.
const MAX_OVERLAPS: usize = 100;

impl Step {
    /// Reads an L2 table.
    pub(super) fn read_l2(&self, offset: u64) -> Result<Vec<u64>> {
        let words = self.image.layout.cluster_size() / 8;
        read_words(self.image.file(), "L2 table", offset, words)
    }

    /// Writes the sectors of a table at a host offset in which words differ.
    pub(super) fn write_changed(&self, offset: u64, old: &[u64], new: &[u64]) -> Result<()> {
        for (number, (old, new)) in
            old.chunks(SECTOR_WORDS).zip(new.chunks(SECTOR_WORDS)).enumerate()
        {
            if old != new {
                let at = offset + to_u64(number * SECTOR_WORDS * 8);
                self.storage.write_all_at(&to_bytes(new), at).map_err(modifying)?;
            }
        }
        Ok(())
    }

    /// Returns true if all clusters of a range are referenced `times` times.
    pub(super) fn has_uses(&self, offset: u64, len: u64, times: u64) -> bool {
        let bits = self.image.layout.cluster_bits;
        let Some(end) = offset.checked_add(len).filter(|_| len > 0) else { return len == 0 };
        (offset >> bits..=(end - 1) >> bits)
            .all(|cluster| self.found.use_counts.get(cluster) == times)
    }

    /// Returns true if an L2 table may be changed: if its cluster is used as such only, and each of
    /// its entries is valid or can be corrected. A damaged pointer may point to guest data instead.
    pub(super) fn is_l2_table(&self, offset: u64, uses: Uses, words: &[u64]) -> bool {
        let uses = uses.active + uses.inactive;
        self.has_uses(offset, self.image.layout.cluster_size(), uses)
            && entries(self.image.layout, words).all(|entry| self.corrected(entry).is_some())
    }

    /// Returns true if the active L1 table, or that of a snapshot, may be changed.
    pub(super) fn is_l1_table(&self, table: Table, words: &[u64]) -> bool {
        let size = self.image.layout.cluster_size();
        self.has_uses(table.offset, table.bytes(), 1)
            && words.iter().all(|entry| {
                let offset = entry & OFFSET_MASK;
                offset.is_multiple_of(size) && offset < self.end()
            })
    }

    /// Returns an L2 entry and its bitmap (0 unless extended) without what readers ignore or refuse,
    /// or `None` if it is invalid: if it cannot be known what it meant.
    pub(super) fn corrected(&self, (entry, bitmap): (u64, u64)) -> Option<(u64, u64)> {
        let layout = self.image.layout;
        let is_in_file =
            |offset: u64, len| offset.checked_add(len).is_some_and(|end| end <= self.end());
        let (offset, holds_data) = match layout.decode(entry, bitmap) {
            Cluster::Compressed { offset, len } => {
                let is_valid = !layout.data_file && is_in_file(offset, u64::from(len));
                return is_valid.then_some((entry & !COPIED, 0));
            }
            Cluster::Zero { .. } if self.image.header.version < 3 => return None,
            Cluster::Unallocated | Cluster::Zero { offset: None } => (None, false),
            Cluster::Data { offset } => (Some(offset), true),
            Cluster::Zero { offset } => (offset, false),
            Cluster::Subclusters(subclusters) if subclusters.is_valid() => {
                (subclusters.offset, subclusters.allocated != 0)
            }
            Cluster::Subclusters(_) => return None,
        };
        let entry = entry & !L2_RESERVED;
        let Some(offset) = offset else { return Some((entry, bitmap)) };
        let size = layout.cluster_size();
        match (offset.is_multiple_of(size), holds_data) {
            (true, _) => (layout.data_file || is_in_file(offset, size)).then_some((entry, bitmap)),
            // The space is given up; what the guest reads does not depend on it.
            (false, false) => Some((entry & ZERO, bitmap)),
            (false, true) => None,
        }
    }
}

/// Returns the entries of an L2 table and their bitmaps (0 unless extended).
pub(super) fn entries(layout: L2Layout, words: &[u64]) -> impl Iterator<Item = (u64, u64)> {
    let step = if layout.extended { 2 } else { 1 };
    words.chunks_exact(step).map(|entry| (entry[0], entry.get(1).copied().unwrap_or(0)))
}

/// Replaces each entry of an L2 table, and its bitmap.
pub(super) fn replace_entries(
    layout: L2Layout,
    words: &mut [u64],
    mut each: impl FnMut((u64, u64)) -> (u64, u64),
) {
    let step = if layout.extended { 2 } else { 1 };
    for entry in words.chunks_exact_mut(step) {
        match entry {
            [word] => *word = each((*word, 0)).0,
            [word, bitmap] => (*word, *bitmap) = each((*word, *bitmap)),
            _ => {}
        }
    }
}

/// Returns messages about metadata that is in clusters which are used for something else, too. Not
/// that of refcounts, which can be rebuilt elsewhere.
pub(super) fn overlaps(step: &Step) -> Vec<String> {
    let (image, found) = (&step.image, &step.found);
    let header = &image.header;
    let mut messages = Vec::new();
    let mut require = |name: &str, offset: u64, len: u64, times| {
        // What is beyond the end of the file has been reported already.
        let is_in_file = offset.checked_add(len).is_some_and(|end| end <= step.end());
        if is_in_file && !step.has_uses(offset, len, times) && messages.len() < MAX_OVERLAPS {
            messages.push(format!(
                "ERROR the {name} at {offset:#x} overlaps other metadata or data; it is left as it \
                 is"
            ));
        }
    };
    require("header", 0, header.cluster_size(), 1);
    require("L1 table", header.l1.offset, header.l1.bytes(), 1);
    if let Ok(snapshots) = &image.snapshots {
        require("snapshot table", header.snapshots_offset, snapshots.bytes, 1);
        for snapshot in &snapshots.entries {
            require("L1 table of a snapshot", snapshot.l1.offset, snapshot.l1.bytes(), 1);
        }
    }
    if let Some(encryption) = header.extensions.encryption {
        require("encryption header", encryption.offset, encryption.bytes, 1);
    }
    if let (Ok(bitmaps), Some(directory)) = (&image.bitmaps, header.extensions.bitmaps)
        && header.autoclear.contains(Autoclear::BITMAPS)
    {
        require("bitmap directory", directory.offset, directory.bytes, 1);
        for bitmap in bitmaps {
            require("bitmap table", bitmap.table.offset, bitmap.table.bytes(), 1);
        }
    }
    for (&offset, uses) in &found.l2_tables {
        require("L2 table", offset, header.cluster_size(), uses.active + uses.inactive);
    }
    messages
}

/// Reads an L1 table.
pub(super) fn read_l1(step: &Step, table: Table) -> Result<Vec<u64>> {
    read_words(step.image.file(), "L1 table", table.offset, table.entries)
}

/// Returns the number of clusters that `len` bytes take.
pub(super) fn clusters(step: &Step, len: usize) -> u64 {
    to_u64(len).div_ceil(step.image.layout.cluster_size())
}

/// Extends `bytes` with zeros to whole clusters.
pub(super) fn pad(step: &Step, bytes: &mut Vec<u8>) {
    let size = to_usize(step.image.layout.cluster_size());
    bytes.resize(bytes.len().next_multiple_of(size), 0);
}
