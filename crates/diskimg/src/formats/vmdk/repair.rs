//! Repairing sparse extents in place: their two directories and the two copies of their tables.
//!
//! What the guest reads does not change: the copy that reading uses is stored in place of the other,
//! if that is incomplete or damaged. Two copies that are both plausible are left.

use super::check::check;
use super::edit::{open_to_write, uncleanness};
use super::extent::{Layout, VmdkExtent};
use super::extent_line::Access;
use super::header::Header;
use super::layer::Vmdk;
use super::sparse::{GTE_ZEROED, SparseExtent};
use super::{SECTOR, read_sector};
use crate::error::{Error, Result};
use crate::model::layer::Layer;
use crate::model::mutable::RepairRequest;
use crate::open::OpenContext;
use crate::report::check::{CheckReport, RepairScope};
use crate::storage::edit::{Edit, Edits, Reopened, Storage};
use crate::storage::number::to_u64;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::sync::Arc;

/// Number of table entries in a sector.
const SECTOR_ENTRIES: usize = 128;

/// Bytes of tables that are written together.
const MAX_PENDING: usize = 4 << 20;

/// Repairs the extents, if they are in the image's own file, or if further files may be written.
/// Compressed extents are left.
pub(super) fn repair(
    storage: &Arc<dyn Storage>,
    context: &OpenContext<'_>,
    request: &mut RepairRequest<'_>,
) -> Result<()> {
    let image = Vmdk::open(Reopened::of(storage), context)?;
    let mut storages = BTreeMap::from([(0, Arc::clone(storage))]);
    if request.further_files {
        for extent in image.extents().iter().filter(|extent| repairable(extent).is_some()) {
            if let Entry::Vacant(entry) = storages.entry(extent.file) {
                entry.insert(open_to_write(&*image.files()[extent.file])?);
            }
        }
    }
    for (index, extent) in image.extents().iter().enumerate() {
        let (Some(storage), Some(sparse)) = (storages.get(&extent.file), repairable(extent)) else {
            continue;
        };
        if let Some(repair) = Repair::new(sparse, &**storage, request.scope)? {
            repair.run()?;
        }
        // The mark is removed if everything else is as it should be.
        if sparse.header().unclean {
            let image = Vmdk::open(Reopened::of(&storages[&0]), context)?;
            close(&image.extents()[index], &**storage)?;
        }
    }
    Ok(())
}

/// Marks an extent as closed if a check finds nothing.
fn close(extent: &VmdkExtent, storage: &dyn Storage) -> Result<()> {
    let Some(sparse) = repairable(extent) else { return Ok(()) };
    let mut counts = CheckReport::default();
    check(sparse, &mut |_| {}, &mut counts)?;
    let mut edits = Edits::new();
    edits.phase((counts == CheckReport::default()).then(|| uncleanness(false)));
    edits.apply(storage).map_err(|e| Error::io("cannot modify the image", e))
}

/// Returns the extent if it is one that can be repaired.
fn repairable(extent: &VmdkExtent) -> Option<&SparseExtent> {
    match &extent.layout {
        Layout::Sparse(sparse)
            if extent.line.access == Access::ReadWrite
                && !sparse.header().compressed
                && sparse.missing().is_none()
                && read_sector(sparse.source(), 0, "extent header")
                    .is_ok_and(|sector| sector.starts_with(&super::header::MAGIC)) =>
        {
            Some(sparse)
        }
        _ => None,
    }
}

/// The directories of an extent, and where its metadata is.
struct Repair<'a> {
    extent: &'a SparseExtent,
    header: &'a Header,
    storage: &'a dyn Storage,
    scope: RepairScope,
    /// The primary and the redundant directory as they are stored.
    stored: [Vec<u32>; 2],
    /// Host ranges of metadata, in ascending order.
    metadata: Vec<Range<u64>>,
}

impl<'a> Repair<'a> {
    /// Returns `None` if there is no second copy, or structures overlap.
    fn new(
        extent: &'a SparseExtent,
        storage: &'a dyn Storage,
        scope: RepairScope,
    ) -> Result<Option<Self>> {
        let header = extent.header();
        let Some(redundant) = header.redundant() else { return Ok(None) };
        let read = |sector, what| match extent.read_entries(sector, header.tables(), what) {
            Ok(entries) => Ok(Some(entries)),
            Err(error) if error.is_storage_failure() => Err(error),
            Err(_) => Ok(None),
        };
        let primary = read(header.gd_offset, "grain directory")?;
        let redundant = read(redundant, "redundant directory")?;
        let (Some(primary), Some(redundant)) = (primary, redundant) else { return Ok(None) };
        let mut repair = Self {
            extent,
            header,
            storage,
            scope,
            stored: [primary, redundant],
            metadata: Vec::new(),
        };
        Ok((repair.find_metadata() && repair.grains_are_separate()?).then_some(repair))
    }

    fn table_bytes(&self) -> u64 {
        (u64::from(self.header.gtes) * 4).next_multiple_of(SECTOR)
    }

    /// Returns true if a table at this sector is in the file.
    fn fits(&self, sector: u32) -> bool {
        let end = u64::from(sector) * SECTOR + u64::from(self.header.gtes) * 4;
        sector != 0 && end <= self.extent.source().len()
    }

    /// Finds all metadata. Returns false if it overlaps.
    fn find_metadata(&mut self) -> bool {
        let header = self.header;
        let descriptor = header.descriptor_offset * SECTOR;
        let mut found =
            vec![0..SECTOR, descriptor..descriptor + header.descriptor_sectors * SECTOR];
        let directory = header.tables() * 4;
        for sector in [Some(header.gd_offset), header.redundant()].into_iter().flatten() {
            found.push(sector * SECTOR..sector * SECTOR + directory);
        }
        for (&used, &other) in self.extent.directory().iter().zip(&self.stored[1]) {
            let other = Some(other).filter(|&other| other != used);
            for sector in [Some(used), other].into_iter().flatten().filter(|&s| self.fits(s)) {
                let start = u64::from(sector) * SECTOR;
                found.push(start..start + self.table_bytes());
            }
        }
        found.retain(|range| !range.is_empty());
        found.sort_unstable_by_key(|range| range.start);
        let is_separate = found.windows(2).all(|pair| pair[0].end <= pair[1].start);
        self.metadata = found;
        is_separate
    }

    /// Returns true if no grain that can be read is where metadata is.
    fn grains_are_separate(&self) -> Result<bool> {
        for &sector in self.extent.directory().iter().filter(|&&sector| self.fits(sector)) {
            let table = self.extent.read_table(sector)?;
            let mut stored = table.iter().filter(|&&entry| self.is_in_file(entry));
            if stored.any(|&entry| self.is_in_metadata(entry)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_in_file(&self, entry: u32) -> bool {
        let end = u64::from(entry) * SECTOR + self.header.grain_bytes();
        entry > GTE_ZEROED && end <= self.extent.source().len().next_multiple_of(SECTOR)
    }

    fn is_in_metadata(&self, entry: u32) -> bool {
        let start = u64::from(entry) * SECTOR;
        let after = self.metadata.partition_point(|range| range.end <= start);
        let range = self.metadata.get(after);
        range.is_some_and(|range| range.start < start + self.header.grain_bytes())
    }

    /// Returns true for an entry that may be right.
    fn is_plausible(&self, entry: u32) -> bool {
        match entry {
            0 => true,
            GTE_ZEROED => self.header.zeroed_grains(),
            entry => self.is_in_file(entry) && !self.is_in_metadata(entry),
        }
    }

    /// Stores what is used in place of what is damaged.
    fn run(&self) -> Result<()> {
        let mut tables = Vec::new();
        let mut pending = 0;
        if self.scope == RepairScope::All {
            self.apply(self.directories()?)?;
        }
        for (&used, &other) in self.extent.directory().iter().zip(&self.stored[1]) {
            if used == other || !self.fits(used) || !self.fits(other) {
                continue;
            }
            let (primary, copy) = (self.extent.read_table(used)?, self.extent.read_table(other)?);
            if let Some((sector, entries)) = self.restored((used, &primary), (other, &copy)) {
                pending += entries.len() * 4;
                tables.extend(write_table(sector, entries));
            }
            if pending > MAX_PENDING {
                self.apply(std::mem::take(&mut tables))?;
                pending = 0;
            }
        }
        self.apply(tables)
    }

    fn apply(&self, edits: Vec<Edit>) -> Result<()> {
        let mut phases = Edits::new();
        phases.phase(edits);
        phases.apply(self.storage).map_err(|e| Error::io("cannot modify the image", e))
    }

    /// Returns the modifications of entries of the directories. Both refer to the same table where
    /// one of the two copies cannot be found, if all entries of the other are plausible.
    fn directories(&self) -> Result<Vec<Edit>> {
        let places = [self.header.gd_offset, self.header.rgd_offset].map(|sector| sector * SECTOR);
        let mut edits = Vec::new();
        for (index, &used) in self.extent.directory().iter().enumerate() {
            let is_damaged = |stored: &Vec<u32>| !self.fits(stored[index]);
            if !self.fits(used) || !self.stored.iter().any(is_damaged) {
                continue;
            }
            // What is at this sector may not be a table.
            if !self.extent.read_table(used)?.iter().all(|&entry| self.is_plausible(entry)) {
                continue;
            }
            for (place, stored) in places.into_iter().zip(&self.stored) {
                if is_damaged(stored) {
                    let offset = place + to_u64(index) * 4;
                    edits.push(Edit::Write { offset, bytes: used.to_le_bytes().to_vec() });
                }
            }
        }
        Ok(edits)
    }

    /// Returns which of two copies of a table is replaced by what, if the evidence is clear.
    fn restored<'t>(
        &self,
        (used, primary): (u32, &'t [u32]),
        (other, copy): (u32, &'t [u32]),
    ) -> Option<(u32, &'t [u32])> {
        if primary == copy {
            return None;
        }
        let is_intact = primary.iter().all(|&entry| self.is_plausible(entry));
        if is_intact {
            let is_worse = |(&entry, &other): (&u32, &u32)| {
                entry == other || other == 0 || !self.is_plausible(other)
            };
            let is_older = self.header.unclean
                || self.scope == RepairScope::All && primary.iter().zip(copy).all(is_worse);
            return is_older.then_some((other, primary));
        }
        // As reading does: the copy has an entry wherever the primary table has none that is valid.
        let completes = |(&entry, &other): (&u32, &u32)| match self.is_plausible(entry) {
            true => entry == other,
            false => other != 0 && self.is_plausible(other),
        };
        let replaces = primary.iter().zip(copy).all(completes);
        (self.scope == RepairScope::All && replaces).then_some((used, copy))
    }
}

/// Returns the modifications that write a table at a sector.
fn write_table(sector: u32, entries: &[u32]) -> impl Iterator<Item = Edit> {
    let start = u64::from(sector) * SECTOR;
    entries.chunks(SECTOR_ENTRIES).zip(0u64..).map(move |(entries, index)| Edit::Write {
        offset: start + index * SECTOR,
        bytes: entries.iter().flat_map(|entry| entry.to_le_bytes()).collect(),
    })
}
