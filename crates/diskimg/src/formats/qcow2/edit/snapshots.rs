//! Creating, applying and deleting internal snapshots.
//!
//! A snapshot is a copy of the L1 table, which refers to the same L2 tables:
//!
//! ```text
//!   create   every L2 table and every cluster of the disk is used once more, so `copied` is cleared
//!   apply    those of the snapshot are used once more, those of the disk once less
//!   delete   those of the snapshot are used once less; `copied` is set where the disk alone is left
//! ```
//!
//! L2 tables in which a flag changes are copied, and everything takes effect at once
//! ([`shadow`](super::shadow)).

use super::Qcow2Mut;
use super::references::Tree;
use super::shadow::Shadow;
use crate::error::{Error, Result};
use crate::formats::qcow2::header::Table;
use crate::formats::qcow2::snapshot::{
    MAX_NEW_NAME, MAX_SNAPSHOTS, MAX_TABLE_BYTES, NewSnapshot, Snapshot,
};
use crate::formats::qcow2::tables::{COPIED, Cluster, OFFSET_MASK, read_words, to_bytes};
use crate::open::SnapshotSelector;
use crate::report::info;
use crate::storage::number::{to_u32, to_u64, to_usize};
use std::time::Duration;

impl Qcow2Mut {
    /// Returns the snapshots, in the order of the table.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if the table is damaged.
    pub(in super::super) fn snapshot_list(&self) -> Result<Vec<info::Snapshot>> {
        let snapshots = self.snapshots()?;
        Ok(snapshots.entries.iter().map(|snapshot| snapshot.info.clone()).collect())
    }

    /// Creates a snapshot of the disk. `date` is the time since 1970. Returns its ID.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if the name cannot be stored,
    /// [`Limit`](crate::ErrorKind::Limit) if the image cannot have another snapshot, and the errors
    /// of [`Shadow::open`] and [`Shadow::switch`].
    pub(in super::super) fn create_snapshot(&self, name: &str, date: Duration) -> Result<String> {
        self.require_snapshots()?;
        if name.len() > MAX_NEW_NAME || name.contains('\0') {
            return Err(Error::invalid(format!(
                "the name of a snapshot has at most {MAX_NEW_NAME} bytes, and no zero bytes"
            )));
        }
        let snapshots = self.snapshots()?;
        let limits = &self.old.limits;
        if to_u64(snapshots.entries.len()) >= MAX_SNAPSHOTS.min(limits.snapshots) {
            return Err(Error::limit("the image cannot have more snapshots"));
        }
        let mut table = self.entries_except(None)?;
        let id = snapshots.next_id();
        let entries = to_u64(self.old.l1.len());
        let mut entry = NewSnapshot {
            id: &id,
            name,
            date,
            l1: Table { offset: 0, entries },
            disk_size: self.header().size,
        };
        let bytes = to_u64(table.len() + entry.encode().len());
        if bytes > MAX_TABLE_BYTES.min(limits.snapshot_table_bytes) {
            return Err(Error::limit("the snapshot table would be too large"));
        }
        let mut shadow = Shadow::open(self, self.tree(&self.old.l1), self.tree(&[]))?;
        let l1 = self.settle(&mut shadow, &self.old.l1, 2)?;
        let bytes = to_bytes(&l1);
        entry.l1.offset = shadow.store(&bytes)?;
        let active = Table { offset: shadow.store(&bytes)?, entries };
        table.extend(entry.encode());
        let count = self.header().snapshot_count + 1;
        self.switch_snapshots(shadow, active, self.header().size, Some((count, table)))?;
        Ok(id)
    }

    /// Makes the disk equal to a snapshot, which is kept. The disk gets the snapshot's size.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if there is no such snapshot,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if the image has bitmaps, or if it has
    /// version 2 and the snapshot another size, and the errors of [`Shadow::open`] and
    /// [`Shadow::switch`].
    pub(in super::super) fn apply_snapshot(&self, wanted: &SnapshotSelector) -> Result<()> {
        self.require_snapshots()?;
        let snapshot = self.snapshots()?.select(wanted)?;
        if !self.bitmaps()?.is_empty() {
            return Err(Error::unsupported("Device has active dirty bitmaps")
                .hint("snapshots do not contain bitmaps: remove them first"));
        }
        let header = self.header();
        if header.version < 3 && snapshot.disk_size != header.size {
            return Err(Error::unsupported("Can't resize a v2 image which has snapshots"));
        }
        let file_len = self.storage.current_len();
        let (table, size) = (snapshot.l1, snapshot.disk_size);
        header.validate_l1("snapshot's L1 table", table, size, file_len, &self.old.limits)?;
        let mut l1 = self.read_l1(snapshot)?;
        let mut shadow = Shadow::open(self, self.tree(&l1), self.tree(&self.old.l1))?;
        // VM state may be stored after the disk, so the table does not become shorter.
        l1.resize(l1.len().max(self.old.l1.len()), 0);
        let l1 = self.settle(&mut shadow, &l1, 1)?;
        let active = Table { offset: shadow.store(&to_bytes(&l1))?, entries: to_u64(l1.len()) };
        self.switch_snapshots(shadow, active, size, None)
    }

    /// Deletes a snapshot.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if there is no such snapshot, and the errors
    /// of [`Shadow::open`] and [`Shadow::switch`].
    pub(in super::super) fn delete_snapshot(&self, wanted: &SnapshotSelector) -> Result<()> {
        self.require_snapshots()?;
        let snapshot = self.snapshots()?.select(wanted)?;
        let table = self.entries_except(Some(snapshot.at))?;
        let l1 = self.read_l1(snapshot)?;
        let mut shadow = Shadow::open(self, self.tree(&[]), self.tree(&l1))?;
        shadow.release(snapshot.l1.offset, snapshot.l1.bytes(), 1)?;
        let l1 = self.settle(&mut shadow, &self.old.l1, 1)?;
        let active = Table { offset: shadow.store(&to_bytes(&l1))?, entries: to_u64(l1.len()) };
        let count = self.header().snapshot_count - 1;
        self.switch_snapshots(shadow, active, self.header().size, Some((count, table)))
    }

    fn require_snapshots(&self) -> Result<()> {
        match self.header().external_data() {
            true => {
                let message = "an image with an external data file cannot have snapshots";
                Err(Error::unsupported(message))
            }
            false => Ok(()),
        }
    }

    /// Returns the references of an L1 table.
    fn tree(&self, l1: &[u64]) -> Tree {
        Tree::new(l1, 0, self.old.limits.check_bytes)
    }

    fn read_l1(&self, snapshot: &Snapshot) -> Result<Vec<u64>> {
        let Table { offset, entries } = snapshot.l1;
        read_words(&*self.storage, "snapshot's L1 table", offset, entries)
    }

    /// Returns the entries of the snapshot table as they are, except the one at a host offset. The
    /// length is a multiple of that of which the offset of another entry is a multiple.
    fn entries_except(&self, left_out: Option<u64>) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for entry in &self.snapshots()?.entries {
            if left_out == Some(entry.at) {
                continue;
            }
            bytes.append(&mut self.snapshot_entry(entry)?);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        Ok(bytes)
    }

    /// Returns an entry of the snapshot table as it is, without padding.
    pub(super) fn snapshot_entry(&self, snapshot: &Snapshot) -> Result<Vec<u8>> {
        let mut bytes = vec![0; to_usize(snapshot.len)];
        let read = self.storage.read_exact_at(&mut bytes, snapshot.at);
        read.map_err(|e| Error::io("cannot read", e).in_structure("snapshot table"))?;
        Ok(bytes)
    }

    /// Sets the `copied` flags of the disk's tables according to the future refcounts: copies L2
    /// tables in which one changes, to which `uses` of the future references refer. Returns the L1
    /// table.
    fn settle(&self, shadow: &mut Shadow<'_>, l1: &[u64], uses: u64) -> Result<Vec<u64>> {
        let mut settled = Vec::with_capacity(l1.len());
        for entry in l1 {
            let mut offset = entry & OFFSET_MASK;
            if offset != 0 {
                let size = self.header().cluster_size();
                let mut words = read_words(&*self.storage, "L2 table", offset, size / 8)?;
                if self.settle_table(shadow, &mut words)? {
                    shadow.release(offset, size, uses)?;
                    offset = shadow.allocate(1)?;
                    shadow.retain(offset, uses - 1)?;
                    shadow.write(offset, &to_bytes(&words))?;
                }
                offset |= if shadow.count_at(offset)? == 1 { COPIED } else { 0 };
            }
            settled.push(offset);
        }
        Ok(settled)
    }

    /// Sets the `copied` flags of an L2 table. Returns true if one changes.
    fn settle_table(&self, shadow: &mut Shadow<'_>, words: &mut [u64]) -> Result<bool> {
        let layout = self.old.layout;
        let mut is_changed = false;
        for entry in words.chunks_exact_mut(if layout.extended { 2 } else { 1 }) {
            let bitmap = entry.get(1).copied().unwrap_or(0);
            let host = match layout.decode(entry[0], bitmap) {
                Cluster::Data { offset } | Cluster::Zero { offset: Some(offset) } => Some(offset),
                Cluster::Subclusters(subclusters) => subclusters.offset,
                Cluster::Unallocated | Cluster::Zero { .. } | Cluster::Compressed { .. } => None,
            };
            let flag = match host {
                Some(offset) if shadow.count_at(offset)? == 1 => COPIED,
                _ => 0,
            };
            if entry[0] & COPIED != flag {
                entry[0] ^= COPIED;
                is_changed = true;
            }
        }
        Ok(is_changed)
    }

    /// Makes a new L1 table and, if it changes, a new snapshot table effective.
    fn switch_snapshots(
        &self,
        mut shadow: Shadow<'_>,
        l1: Table,
        size: u64,
        snapshots: Option<(u32, Vec<u8>)>,
    ) -> Result<()> {
        let header = self.header();
        shadow.release(header.l1.offset, header.l1.bytes(), 1)?;
        let mut new_table = None;
        if let Some((count, table)) = snapshots {
            shadow.release(header.snapshots_offset, self.snapshots()?.bytes, 1)?;
            new_table = Some((count, shadow.store(&table)?));
        }
        shadow.switch(|raw| {
            raw.size = size.into();
            raw.l1_size = to_u32(l1.entries).into();
            raw.l1_table_offset = l1.offset.into();
            if let Some((count, offset)) = new_table {
                raw.nb_snapshots = count.into();
                raw.snapshots_offset = offset.into();
            }
        })
    }
}
