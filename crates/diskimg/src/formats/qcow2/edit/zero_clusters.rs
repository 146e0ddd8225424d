//! Zero clusters, which version 2 does not have.
//!
//! ```text
//!   entry                              becomes, in a copy of its L2 table
//!   zero, without a host cluster       unallocated, or with a backing file a new cluster of zeros
//!   zero, with a host cluster          this cluster, which is made zero before, or a new one if
//!                                        something else refers to it, too
//! ```

use super::Qcow2Mut;
use super::shadow::Shadow;
use crate::error::{Error, Result};
use crate::formats::qcow2::header::Table;
use crate::formats::qcow2::tables::{COPIED, Cluster, OFFSET_MASK, ZERO, read_words, to_bytes};
use crate::storage::codec::Codec;
use crate::storage::number::to_u64;
use std::collections::BTreeMap;

/// The L2 tables of an image that becomes one of version 2: those of the disk and of snapshots.
pub(super) struct Expansion<'a> {
    image: &'a Qcow2Mut,
    /// Where the tables will be, by host offset.
    places: BTreeMap<u64, u64>,
    /// A cluster that is used by a zero cluster and by something else gets a smaller refcount.
    changes_copied: bool,
    done: u64,
    total: u64,
    report: &'a mut dyn FnMut(u64, u64) -> Result<()>,
}

impl<'a> Expansion<'a> {
    /// Releases the host clusters of zero clusters that are not kept. Calls `report` later, with the
    /// number of L1 entries that are done and that of all.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if the snapshot table is damaged, and
    /// [`Io`](crate::ErrorKind::Io) if reading fails.
    pub(super) fn begin(
        image: &'a Qcow2Mut,
        shadow: &mut Shadow<'_>,
        report: &'a mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Result<Self> {
        let snapshots = image.snapshots()?.entries.iter().map(|snapshot| snapshot.l1.entries);
        let total = to_u64(image.old.l1.len()) + snapshots.sum::<u64>();
        let mut expansion =
            Self { image, places: BTreeMap::new(), changes_copied: false, done: 0, total, report };
        expansion.release_shared(shadow)?;
        Ok(expansion)
    }

    fn release_shared(&mut self, shadow: &mut Shadow<'_>) -> Result<()> {
        let size = self.image.header().cluster_size();
        for offset in shadow.l2_tables().to_vec() {
            let uses = shadow.l2_uses(offset);
            for entry in self.read(offset)? {
                if let Cluster::Zero { offset: Some(host) } = self.image.old.layout.decode(entry, 0)
                    && !self.is_kept(shadow, host, uses)?
                {
                    shadow.release(host, size, uses)?;
                    self.changes_copied = true;
                }
            }
        }
        Ok(())
    }

    /// Returns true if a host cluster is used by one zero cluster only, in a table to which `uses` L1
    /// entries refer. In an encrypted image, zero bytes in the file are not zeros.
    fn is_kept(&self, shadow: &mut Shadow<'_>, host: u64, uses: u64) -> Result<bool> {
        Ok(self.image.header().encryption.is_none() && shadow.old_count_at(host)? == uses)
    }

    fn read(&self, offset: u64) -> Result<Vec<u64>> {
        let words = self.image.header().cluster_size() / 8;
        read_words(&*self.image.storage, "L2 table", offset, words)
    }

    /// Writes copies of the L2 tables of an L1 table that have zero clusters. Returns the L1 table
    /// that refers to them.
    ///
    /// # Errors
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if a cluster cannot be represented in version
    ///   2;
    /// - the errors of [`Shadow::allocate`] and of `report`.
    pub(super) fn expand(&mut self, shadow: &mut Shadow<'_>, l1: &[u64]) -> Result<Vec<u64>> {
        let mut expanded = Vec::with_capacity(l1.len());
        for entry in l1 {
            let offset = entry & OFFSET_MASK;
            let place = match self.places.get(&offset) {
                _ if offset == 0 => 0,
                Some(place) => *place,
                None => {
                    let place = self.expand_table(shadow, offset)?;
                    self.places.insert(offset, place);
                    place
                }
            };
            expanded.push(entry & !OFFSET_MASK | place);
            self.done += 1;
            (self.report)(self.done, self.total)?;
        }
        Ok(expanded)
    }

    /// As [`expand`](Self::expand), for the L1 table at a location. Returns the location of a new
    /// table, or of the old one if nothing changes.
    ///
    /// # Errors
    /// As [`expand`](Self::expand).
    pub(super) fn expand_at(&mut self, shadow: &mut Shadow<'_>, table: Table) -> Result<Table> {
        let storage = &*self.image.storage;
        let old = read_words(storage, "L1 table", table.offset, table.entries)?;
        let new = self.expand(shadow, &old)?;
        if new == old {
            return Ok(table);
        }
        shadow.release(table.offset, table.bytes(), 1)?;
        Ok(Table { offset: shadow.store(&to_bytes(&new))?, entries: table.entries })
    }

    /// Returns the host offset of an L2 table without zero clusters: that of the table, or of a new
    /// one.
    fn expand_table(&self, shadow: &mut Shadow<'_>, offset: u64) -> Result<u64> {
        let (size, uses) = (self.image.header().cluster_size(), shadow.l2_uses(offset));
        let old = self.read(offset)?;
        let mut new = old.clone();
        for entry in &mut new {
            match self.image.old.layout.decode(*entry, 0) {
                Cluster::Zero { offset } => {
                    *entry = self.expand_cluster(shadow, *entry, offset, uses)?;
                }
                Cluster::Compressed { .. } if self.image.header().codec != Codec::Deflate => {
                    return Err(zstd());
                }
                Cluster::Data { offset } if self.changes_copied => {
                    let is_own = shadow.count_at(offset)? == 1;
                    *entry = *entry & !COPIED | if is_own { COPIED } else { 0 };
                }
                _ => {}
            }
        }
        if new == old {
            return Ok(offset);
        }
        shadow.release(offset, size, uses)?;
        let place = shadow.allocate(1)?;
        shadow.retain(place, uses.saturating_sub(1))?;
        shadow.write(place, &to_bytes(&new))?;
        Ok(place)
    }

    /// Returns what replaces the entry of a zero cluster, perhaps with a host cluster, in a table to
    /// which `uses` L1 entries refer.
    fn expand_cluster(
        &self,
        shadow: &mut Shadow<'_>,
        entry: u64,
        host: Option<u64>,
        uses: u64,
    ) -> Result<u64> {
        let header = self.image.header();
        let has_backing = header.backing.is_some();
        let is_encrypted = header.encryption.is_some();
        if is_encrypted && has_backing {
            let message =
                "Cannot downgrade an encrypted image with a backing file and zero clusters";
            return Err(Error::unsupported(message));
        }
        if let Some(host) = host
            && self.is_kept(shadow, host, uses)?
        {
            shadow.zero(host)?;
            return Ok(entry & !ZERO);
        }
        if !has_backing {
            return Ok(0);
        }
        let place = shadow.allocate(1)?;
        shadow.retain(place, uses.saturating_sub(1))?;
        shadow.zero(place)?;
        Ok(place | if uses == 1 { COPIED } else { 0 })
    }
}

fn zstd() -> Error {
    Error::unsupported(
        "Cannot downgrade an image with zstd compression type and existing compressed clusters",
    )
}

impl Qcow2Mut {
    /// Verifies that compressed clusters, if there are any, can be those of version 2.
    ///
    /// # Errors
    /// Returns [`Unsupported`](crate::ErrorKind::Unsupported) if not.
    pub(super) fn require_deflate(&self, shadow: &Shadow<'_>) -> Result<()> {
        if self.header().codec == Codec::Deflate {
            return Ok(());
        }
        let words = self.header().cluster_size() / 8;
        for &offset in shadow.l2_tables() {
            let table = read_words(&*self.storage, "L2 table", offset, words)?;
            let mut decoded = table.iter().map(|entry| self.old.layout.decode(*entry, 0));
            if decoded.any(|cluster| matches!(cluster, Cluster::Compressed { .. })) {
                return Err(zstd());
            }
        }
        Ok(())
    }

    /// Verifies that no L2 table of a version 2 image has an entry that would be a zero cluster in
    /// version 3.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if one has.
    pub(super) fn require_no_zero_clusters(&self, shadow: &Shadow<'_>) -> Result<()> {
        let words = self.header().cluster_size() / 8;
        for &offset in shadow.l2_tables() {
            let table = read_words(&*self.storage, "L2 table", offset, words)?;
            let decoded = table.iter().map(|entry| self.old.layout.decode(*entry, 0));
            if decoded.into_iter().any(|cluster| matches!(cluster, Cluster::Zero { .. })) {
                let message =
                    "an entry has the flag of zero clusters, which version 2 does not have";
                return Err(Error::corrupt("L2 table", message).at(offset));
            }
        }
        Ok(())
    }
}
