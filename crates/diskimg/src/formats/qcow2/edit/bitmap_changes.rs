//! Adding, removing, clearing, enabling, disabling and merging dirty bitmaps.
//!
//! Changes are collected in memory as a new list of bitmaps, whose bits are not computed yet. They
//! are stored with [`shadow`](super::shadow) metadata: the clusters and tables of bitmaps that
//! changed and a new directory are written to free clusters, and one write of the header's first
//! sector makes them effective.

use super::Qcow2Mut;
use super::header_area;
use super::references::Tree;
use super::shadow::Shadow;
use crate::error::{Error, Result};
use crate::formats::qcow2::bitmap_bits::{NewBits, require_fit, require_size};
use crate::formats::qcow2::bitmaps::{
    Bitmap, Flags, MAX_BITMAPS, MAX_DIRECTORY_BYTES, OFFSET_MASK,
};
use crate::formats::qcow2::extensions::{BitmapDirectory, MAX_BITMAP_NAME};
use crate::formats::qcow2::header::{Header, RawHeader, Table};
use crate::formats::qcow2::tables::{read_words, to_bytes};
use crate::model::bitmap::{self, DirtyBitmap, TableBudget};
use crate::report::info;
use crate::storage::edit::Edits;
use crate::storage::number::{to_u32, to_u64};
use std::collections::BTreeSet;

/// Default granularity: the cluster size within these limits, as in QEMU.
const DEFAULT_GRANULARITY: std::ops::RangeInclusive<u64> = 4096..=65_536;

/// Granularities of new bitmaps, of which powers of two are allowed.
const GRANULARITY: std::ops::RangeInclusive<u64> = 512..=1 << 31;

/// What an image must have for its bitmaps.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Disk {
    pub(in super::super) version: u32,
    /// Size of the disk in bytes.
    pub(in super::super) size: u64,
    pub(in super::super) cluster_size: u64,
}

impl Disk {
    /// Returns what a header says.
    pub(in super::super) fn of(header: &Header) -> Self {
        let (version, size) = (header.version, header.size);
        Self { version, size, cluster_size: header.cluster_size() }
    }
}

/// The bitmaps of an image as they will be.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct BitmapChanges {
    bitmaps: Vec<Changed>,
    /// Memory of the tables of bitmaps that are merged.
    tables: TableBudget,
    is_changed: bool,
}

#[derive(Debug, Clone)]
struct Changed {
    /// The directory entry; the location of the table is the old one.
    entry: Bitmap,
    /// The bitmaps whose bits it will have, or `None` if its bits and its table are not changed.
    sources: Option<Vec<DirtyBitmap>>,
}

impl BitmapChanges {
    /// Begins with the bitmaps as they are.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if the directory is damaged.
    pub(in super::super) fn of(image: &Qcow2Mut) -> Result<Self> {
        let unchanged = |entry: &Bitmap| Changed { entry: entry.clone(), sources: None };
        let bitmaps = image.bitmaps()?.iter().map(unchanged).collect();
        Ok(Self { bitmaps, tables: TableBudget::default(), is_changed: false })
    }

    /// Returns the bitmaps as they will be.
    pub(in super::super) fn list(&self) -> Vec<info::Bitmap> {
        self.bitmaps.iter().map(|changed| changed.entry.info()).collect()
    }

    /// Adds a bitmap.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid), [`Unsupported`](crate::ErrorKind::Unsupported)
    /// or [`Limit`](crate::ErrorKind::Limit) if the image cannot have it.
    pub(in super::super) fn add(
        &mut self,
        disk: Disk,
        name: &str,
        granularity: Option<u64>,
    ) -> Result<()> {
        let (min, max) = DEFAULT_GRANULARITY.into_inner();
        let granularity = granularity.unwrap_or(disk.cluster_size.clamp(min, max));
        let entry = new_entry(name, granularity)?;
        if self.position(name).is_ok() {
            return Err(Error::invalid(format!("Bitmap already exists: {name}")));
        }
        if disk.version < 3 {
            return Err(Error::unsupported("Cannot store dirty bitmaps in qcow2 v2 files"));
        }
        if disk.size == 0 {
            return Err(Error::unsupported("a disk without bytes has no bitmaps"));
        }
        require_size(granularity, disk.size)?;
        if name.len() > usize::try_from(MAX_BITMAP_NAME).unwrap_or(0) {
            let message = format!("Name length exceeds maximum ({MAX_BITMAP_NAME} characters)");
            return Err(Error::limit(message));
        }
        self.require_room(&entry)?;
        self.bitmaps.push(Changed { entry, sources: Some(Vec::new()) });
        self.is_changed = true;
        Ok(())
    }

    /// Adds copies of bitmaps of another image. Returns false if images of the version have none.
    ///
    /// # Errors
    /// As [`add`](Self::add) and [`merge_from`](Self::merge_from), with QEMU's words before them.
    pub(in super::super) fn add_copies(
        &mut self,
        disk: Disk,
        bitmaps: Vec<DirtyBitmap>,
    ) -> Result<bool> {
        if disk.version < 3 {
            return Ok(false);
        }
        let old = self.bitmaps.len();
        // As QEMU, from the last one to the first, which matters for errors.
        for bitmap in bitmaps.into_iter().rev() {
            let info::Bitmap { name, granularity, enabled, .. } = bitmap.info().clone();
            let failed =
                |what: &str, e: Error| e.prefixed(&format!("Failed to {what} bitmap {name}"));
            let added = self.add(disk, &name, Some(granularity));
            added.map_err(|e| failed("create", e))?;
            require_same_size(disk.size, &bitmap).map_err(|e| failed("populate", e))?;
            if let Some(added) = self.bitmaps.last_mut() {
                added.entry.flags.set(Flags::AUTO, enabled);
                added.sources = Some(vec![bitmap]);
            }
        }
        self.bitmaps[old..].reverse();
        Ok(true)
    }

    fn require_room(&self, new: &Bitmap) -> Result<()> {
        if self.bitmaps.len() >= MAX_BITMAPS {
            return Err(Error::limit("Maximum number of persistent bitmaps is already reached"));
        }
        let lengths = self.bitmaps.iter().map(|changed| changed.entry.encoded_len());
        match lengths.sum::<u64>() + new.encoded_len() > MAX_DIRECTORY_BYTES {
            true => Err(Error::limit("Not enough space in the bitmap directory")),
            false => Ok(()),
        }
    }

    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if there is no such bitmap.
    fn position(&self, name: &str) -> Result<usize> {
        let is_named = |changed: &Changed| match std::str::from_utf8(&changed.entry.raw_name) {
            Ok(found) => found == name,
            Err(_) => changed.entry.name() == name,
        };
        self.bitmaps.iter().position(is_named).ok_or_else(|| bitmap::not_found(name))
    }

    /// Returns a bitmap that can be changed.
    ///
    /// # Errors
    /// As [`position`](Self::position); [`Unsupported`](crate::ErrorKind::Unsupported) if it is
    /// inconsistent, and [`Corrupt`](crate::ErrorKind::Corrupt) if it does not fit the disk.
    fn consistent(&mut self, image: &Qcow2Mut, name: &str) -> Result<&mut Changed> {
        let index = self.position(name)?;
        let changed = &mut self.bitmaps[index];
        if changed.entry.flags.contains(Flags::IN_USE) {
            return Err(bitmap::inconsistent(name));
        }
        if changed.sources.is_none() {
            let Disk { size, cluster_size, .. } = Disk::of(image.header());
            require_fit(&changed.entry, size, cluster_size)?;
        }
        Ok(changed)
    }

    /// Verifies that a bitmap can be changed.
    ///
    /// # Errors
    /// As [`consistent`](Self::consistent).
    pub(in super::super) fn require_consistent(
        &mut self,
        image: &Qcow2Mut,
        name: &str,
    ) -> Result<()> {
        self.consistent(image, name).map(drop)
    }

    /// Removes a bitmap.
    ///
    /// # Errors
    /// As [`position`](Self::position).
    pub(in super::super) fn remove(&mut self, name: &str) -> Result<()> {
        let index = self.position(name)?;
        self.bitmaps.remove(index);
        self.is_changed = true;
        Ok(())
    }

    /// Clears all bits of a bitmap.
    ///
    /// # Errors
    /// As [`consistent`](Self::consistent).
    pub(in super::super) fn clear(&mut self, image: &Qcow2Mut, name: &str) -> Result<()> {
        self.consistent(image, name)?.sources = Some(Vec::new());
        self.is_changed = true;
        Ok(())
    }

    /// Sets whether a bitmap records writes.
    ///
    /// # Errors
    /// As [`consistent`](Self::consistent).
    pub(in super::super) fn enable(
        &mut self,
        image: &Qcow2Mut,
        name: &str,
        enabled: bool,
    ) -> Result<()> {
        let entry = &mut self.consistent(image, name)?.entry;
        let is_changed = entry.flags.contains(Flags::AUTO) != enabled;
        entry.flags.set(Flags::AUTO, enabled);
        self.is_changed |= is_changed;
        Ok(())
    }

    /// Adds the bits of another bitmap of the image.
    ///
    /// # Errors
    /// As [`consistent`](Self::consistent) for both; [`Invalid`](crate::ErrorKind::Invalid) if the
    /// bits of the other were changed; and the errors of reading its table.
    pub(in super::super) fn merge(
        &mut self,
        image: &Qcow2Mut,
        target: &str,
        source: &str,
    ) -> Result<()> {
        self.consistent(image, target)?;
        let Changed { entry, sources } = self.consistent(image, source)?;
        if target == source {
            return Ok(());
        }
        if sources.is_some() {
            let message = format!("the changes of bitmap '{source}' are not stored yet");
            return Err(Error::invalid(message).hint("store them before it is merged"));
        }
        let source = image.old.open_bitmap(entry)?;
        self.merge_from(image, target, source)
    }

    /// Adds the bits of a bitmap of any image.
    ///
    /// # Errors
    /// As [`consistent`](Self::consistent); [`Invalid`](crate::ErrorKind::Invalid) if the disks
    /// differ in size; and the errors of reading the target's table.
    pub(in super::super) fn merge_from(
        &mut self,
        image: &Qcow2Mut,
        target: &str,
        source: DirtyBitmap,
    ) -> Result<()> {
        let max = image.old.limits.table_bytes;
        require_same_size(image.header().size, &source)?;
        let Changed { entry, sources } = self.consistent(image, target)?;
        let own = match sources {
            Some(_) => None,
            None => Some(image.old.open_bitmap(entry)?),
        };
        for added in own.into_iter().chain([source]) {
            self.tables.add(&added, max)?;
            self.consistent(image, target)?.sources.get_or_insert_default().push(added);
        }
        self.is_changed = true;
        Ok(())
    }

    /// Adds copies of bitmaps of another image to those of an image.
    ///
    /// # Errors
    /// As [`add_copies`](Self::add_copies) and [`store`](Self::store).
    pub(super) fn store_copies(image: &Qcow2Mut, bitmaps: Vec<DirtyBitmap>) -> Result<()> {
        let mut changes = Self::of(image)?;
        changes.add_copies(Disk::of(image.header()), bitmaps)?;
        changes.store(image)
    }

    /// Makes all changes, as a whole or not at all.
    ///
    /// # Errors
    /// As [`Shadow::open`] and [`Shadow::switch_with`], and the errors of reading bitmaps.
    pub(in super::super) fn store(&self, image: &Qcow2Mut) -> Result<()> {
        if !self.is_changed {
            return Ok(());
        }
        // That the header has room is known before anything is written.
        let count = to_u32(self.bitmaps.len());
        let any = BitmapDirectory { count, bytes: 0, offset: 0 };
        header_edits(image, Some(any).filter(|_| count > 0), &|_| {})?;
        let none = || Tree::new(&[], 0, image.old.limits.check_bytes);
        let mut shadow = Shadow::open(image, none(), none())?;
        self.release_old(image, &mut shadow)?;
        let (size, cluster_size) = (image.header().size, image.header().cluster_size());
        let max = image.old.limits.table_bytes;
        let directory = self.store_all(size, cluster_size, max, |bytes| shadow.store(bytes))?;
        shadow.switch_with(|location| {
            header_edits(image, directory, &|raw| {
                raw.refcount_table_offset = location.offset.into();
                raw.refcount_table_clusters = location.len.into();
            })
        })
    }

    /// Stores the bits and tables that change, and the directory: `put` allocates clusters, writes
    /// bytes to them and returns their host offset. A table has at most `max_table_bytes` bytes.
    /// Returns where the directory is.
    ///
    /// # Errors
    /// Returns the errors of `put`, and of reading bitmaps.
    pub(in super::super) fn store_all(
        &self,
        disk_size: u64,
        cluster_size: u64,
        max_table_bytes: u64,
        mut put: impl FnMut(&[u8]) -> Result<u64>,
    ) -> Result<Option<BitmapDirectory>> {
        let mut directory = Vec::new();
        for Changed { entry, sources } in &self.bitmaps {
            let mut table = entry.table;
            if let Some(sources) = sources {
                let granularity = entry.granularity;
                let bits =
                    NewBits { sources, granularity, disk_size, cluster_size, max_table_bytes };
                let words = bits.store(&mut put)?;
                table = Table { entries: to_u64(words.len()), offset: put(&to_bytes(&words))? };
            }
            entry.encode(table, &mut directory);
        }
        Ok(match self.bitmaps.len() {
            0 => None,
            count => Some(BitmapDirectory {
                count: to_u32(count),
                bytes: to_u64(directory.len()),
                offset: put(&directory)?,
            }),
        })
    }

    /// Removes the references of the old directory, and of what was changed or removed.
    fn release_old(&self, image: &Qcow2Mut, shadow: &mut Shadow<'_>) -> Result<()> {
        let unchanged = self.bitmaps.iter().filter(|changed| changed.sources.is_none());
        let kept: BTreeSet<_> = unchanged.map(|changed| changed.entry.table.offset).collect();
        let cluster_size = shadow.cluster_size();
        for old in image.bitmaps()?.iter().filter(|old| !kept.contains(&old.table.offset)) {
            let Table { offset, entries } = old.table;
            let table = read_words(&*image.storage, "bitmap table", offset, entries)?;
            for cluster in table.iter().map(|entry| entry & OFFSET_MASK).filter(|&at| at != 0) {
                shadow.release(cluster, cluster_size, 1)?;
            }
            shadow.release(offset, old.table.bytes(), 1)?;
        }
        match image.header().extensions.bitmaps {
            Some(directory) if !image.bitmaps()?.is_empty() => {
                shadow.release(directory.offset, directory.bytes, 1)
            }
            _ => Ok(()),
        }
    }
}

/// Returns the modifications of the header's cluster that change the location of the directory, and
/// other fields.
fn header_edits(
    image: &Qcow2Mut,
    directory: Option<BitmapDirectory>,
    change: &dyn Fn(&mut RawHeader),
) -> Result<Edits> {
    header_area::edits(&*image.storage, image.header().cluster_size(), |contents| {
        change(&mut contents.fields);
        contents.set_bitmaps(directory);
        Ok(())
    })
}

/// Returns the directory entry of a new bitmap, without a table.
///
/// # Errors
/// Returns [`Invalid`](crate::ErrorKind::Invalid) if the name or the granularity is.
fn new_entry(name: &str, granularity: u64) -> Result<Bitmap> {
    if name.is_empty() {
        return Err(Error::invalid("Bitmap name cannot be empty"));
    }
    if name.contains('\0') {
        return Err(Error::invalid("the name of a bitmap has no zero bytes"));
    }
    if !granularity.is_power_of_two() || !GRANULARITY.contains(&granularity) {
        let error = Error::invalid("Granularity must be power of 2 and at least 512");
        return Err(match granularity > *GRANULARITY.end() {
            true => error.hint("and at most 2 GiB"),
            false => error,
        });
    }
    Ok(Bitmap {
        raw_name: name.as_bytes().to_vec(),
        granularity,
        flags: Flags::AUTO,
        flags_at: 0,
        table: Table { offset: 0, entries: 0 },
    })
}

/// Verifies that a bitmap describes a disk of this size, in QEMU's words.
fn require_same_size(disk_size: u64, source: &DirtyBitmap) -> Result<()> {
    match source.disk_size() == disk_size {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "Bitmaps are of different sizes (destination size is {disk_size}, source size is {}) \
             and can't be merged",
            source.disk_size()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_bitmaps_and_the_length_of_their_names_are_limited() {
        let disk = Disk { version: 3, size: 1 << 20, cluster_size: 512 };
        let add = |count: usize, name: &str| {
            let old = new_entry(&"n".repeat(1023), 512).expect("is valid");
            let bitmaps = vec![Changed { entry: old, sources: None }; count];
            let mut changes = BitmapChanges { bitmaps, ..BitmapChanges::default() };
            changes.add(disk, name, None).map_err(|e| e.to_string())
        };
        add(64_000, "x").expect("has room");
        let error = add(64_035, &"x".repeat(1023)).expect_err("is full");
        assert_eq!(error, "Not enough space in the bitmap directory");
        let error = add(MAX_BITMAPS, "x").expect_err("is full");
        assert_eq!(error, "Maximum number of persistent bitmaps is already reached");
        let error = add(0, &"x".repeat(1024)).expect_err("is too long");
        assert_eq!(error, "Name length exceeds maximum (1023 characters)");
    }

    #[test]
    fn a_bitmap_takes_at_most_512_mib() {
        let mut changes = BitmapChanges::default();
        let disk = Disk { version: 3, size: 2 << 40, cluster_size: 65_536 };
        changes.add(disk, "just fits", Some(512)).expect("fits");
        let larger = Disk { size: (2 << 40) + 512, ..disk };
        changes.add(larger, "too large", Some(512)).expect_err("is too large");
        changes.add(larger, "coarser", Some(1024)).expect("fits");
    }
}
