//! Resizing, mainly making the disk larger.
//!
//! Added bytes read as zeros. Most of them are not recorded at all, because what is not allocated
//! reads as zeros. There are three exceptions: a backing file that is longer than the disk was, the
//! rest of the last cluster if the disk ended within it, and clusters beyond the end that another
//! program left.

use super::Qcow2Mut;
use super::references;
use super::resized_bitmaps::ResizedBitmaps;
use super::space::{Space, TableLocation};
use super::spec::open_data_file;
use crate::error::{Error, Result};
use crate::formats::qcow2::check::MIN_V3_SNAPSHOT_EXTRA;
use crate::formats::qcow2::header::{MAX_L1_BYTES, Table};
use crate::formats::qcow2::tables::{
    ALL_STORED, ALL_ZERO, COPIED, Cluster, OFFSET_MASK, ZERO, read_words, to_bytes,
};
use crate::model::flat::Preallocation;
use crate::model::image::Image;
use crate::model::layer::Layer;
use crate::model::mutable::ResizeRequest;
use crate::remedy::Remedy;
use crate::storage::edit::{Edit, Storage};
use crate::storage::number::{to_u32, to_u64, to_usize};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Changes the size of the disk.
pub(super) fn resize(image: &Qcow2Mut, request: &ResizeRequest<'_>) -> Result<()> {
    let old_size = image.header().size;
    require(image, request)?;
    match request.size.cmp(&old_size) {
        Ordering::Equal => Ok(()),
        Ordering::Less => super::shrink::shrink(image, request),
        Ordering::Greater => grow(image, request),
    }
}

/// Verifies, as far as this is possible before anything is written, that the size of the disk can be
/// changed, in an image that has the version `version` by then.
pub(super) fn verify(image: &Qcow2Mut, request: &ResizeRequest<'_>, version: u32) -> Result<()> {
    match version > image.header().version {
        // Snapshots get what they need with the new version.
        true => require_l1(image, request)?,
        false => require(image, request)?,
    }
    DataFile::open(image, request)?;
    ResizedBitmaps::find(image, request.size).map(drop)
}

/// Makes the disk larger.
fn grow(image: &Qcow2Mut, request: &ResizeRequest<'_>) -> Result<()> {
    let header = image.header();
    let data_file = DataFile::open(image, request)?;
    let bitmaps = ResizedBitmaps::find(image, request.size)?;
    let mut growth = Growth {
        image,
        backing: request.backing,
        format_probed: request.format_probed,
        added: header.size..request.size,
        space: Space::open(image)?,
        tables: BTreeMap::new(),
        edits: Vec::new(),
        unused: Vec::new(),
    };
    // A data file that can be read as a raw image has all clusters.
    let preallocation = match request.preallocation {
        Preallocation::Off if header.data_file_raw() => Preallocation::Metadata,
        mode => mode,
    };
    if let Some(data_file) = &data_file {
        if growth.backing_end() > header.size {
            let message = "an image with an external data file and a backing file that is longer \
                           than the disk cannot be resized yet";
            return Err(Error::unsupported(message));
        }
        data_file.grow(&growth.added, preallocation)?;
    } else {
        growth.clear_last_cluster(matches!(
            preallocation,
            Preallocation::Falloc | Preallocation::Full
        ))?;
    }
    let prepared = match preallocation {
        Preallocation::Off => growth.clear_clusters(),
        mode => growth.preallocate(mode, data_file.is_some()),
    };
    let is_simple = growth.edits.is_empty() && growth.unused.is_empty();
    let prepared = prepared.and_then(|()| match is_simple {
        true => Ok(()),
        false => references::verify(image, &mut growth.space),
    });
    if let Err(error) = prepared {
        let storage = &image.storage;
        if !storage.has_fixed_len() && storage.current_len() > storage.len() {
            // What was reserved is not used.
            let _ = storage.set_len(storage.len());
        }
        return Err(error);
    }
    bitmaps.begin(image)?;
    growth.apply()?;
    bitmaps.finish(image)
}

/// The external data file of an image that is resized.
#[derive(Debug)]
pub(super) struct DataFile(Arc<dyn Storage>);

impl DataFile {
    /// Opens the external data file for writing, if the image has one. It is locked for reading, as
    /// a part of the image, so that no other process can write to it.
    ///
    /// # Errors
    /// Returns [`Refused`](crate::ErrorKind::Refused) if the format was probed: a guest can write the
    /// header of an image that names any file.
    pub(super) fn open(image: &Qcow2Mut, request: &ResizeRequest<'_>) -> Result<Option<Self>> {
        let file = image.old.files().get(1).filter(|_| image.header().external_data());
        if file.is_some() && request.format_probed {
            let message = "its external data file is not modified, because its format is not named";
            return Err(Error::refused(message)
                .hint("a guest can write the header of any format into a raw disk")
                .with_remedy(Remedy::NameFormat));
        }
        file.map(|file| open_data_file(&**file, false).map(Self)).transpose()
    }

    /// Makes the file as long as the disk will be. The added bytes, which nothing refers to yet,
    /// become zero.
    fn grow(&self, added: &Range<u64>, preallocation: Preallocation) -> Result<()> {
        let (start, len) = (added.start, added.end - added.start);
        let grow = || {
            if self.0.has_fixed_len() {
                if self.0.current_len() < added.end {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                return self.0.write_zeros_at(start, len);
            }
            self.0.set_len(start)?;
            match preallocation {
                Preallocation::Falloc => self.0.preallocate(start, len)?,
                Preallocation::Full => self.0.fill_zeros_at(start, len)?,
                Preallocation::Off | Preallocation::Metadata => {}
            }
            self.0.set_len(added.end)?;
            self.0.flush()
        };
        grow().map_err(cannot_resize)
    }

    /// Makes the file as long as the disk, which has become smaller.
    pub(super) fn shrink(&self, size: u64) -> Result<()> {
        match self.0.has_fixed_len() || self.0.current_len() <= size {
            true => Ok(()),
            false => self.0.set_len(size).and_then(|()| self.0.flush()).map_err(cannot_resize),
        }
    }
}

fn cannot_resize(error: io::Error) -> Error {
    Error::io("cannot resize the external data file", error)
}

/// Verifies that the image can have this size.
fn require(image: &Qcow2Mut, request: &ResizeRequest<'_>) -> Result<()> {
    let header = image.header();
    if !request.size.is_multiple_of(512) {
        return Err(Error::invalid("The new size must be a multiple of 512"));
    }
    let snapshots = image.snapshots()?;
    if header.version < 3 && !snapshots.entries.is_empty() {
        return Err(Error::unsupported("Can't resize a v2 image which has snapshots"));
    }
    let sizeless = snapshots.entries.iter().find(|s| s.extra_bytes < MIN_V3_SNAPSHOT_EXTRA);
    if let Some(snapshot) = sizeless {
        let name = &snapshot.info.name;
        return Err(Error::unsupported(format!(
            "the snapshot '{name}' does not record its disk size, so the disk cannot be resized"
        )));
    }
    require_l1(image, request)
}

/// Verifies that the L1 table does not become too large.
fn require_l1(image: &Qcow2Mut, request: &ResizeRequest<'_>) -> Result<()> {
    let entries = request.size.div_ceil(image.header().guest_bytes_per_l1_entry());
    match entries * 8 > MAX_L1_BYTES {
        true => Err(Error::limit("The image size is too large for its cluster size")
            .hint("convert it to an image with a larger cluster_size")),
        false => Ok(()),
    }
}

/// A disk that is being made larger.
struct Growth<'a> {
    image: &'a Qcow2Mut,
    backing: Option<&'a Image>,
    format_probed: bool,
    /// The added guest bytes.
    added: Range<u64>,
    space: Space,
    /// The L2 tables that were read or created, by L1 index.
    tables: BTreeMap<u64, L2Table>,
    /// Modifications of clusters that nothing refers to, and of bytes that the guest does not see.
    edits: Vec<Edit>,
    /// Offset and length in bytes of what is no longer used afterwards.
    unused: Vec<(u64, u64)>,
}

/// An L2 table in memory.
struct L2Table {
    words: Vec<u64>,
    /// It differs from what is stored, so it must be stored in a new cluster.
    changed: bool,
}

impl Growth<'_> {
    fn cluster_size(&self) -> u64 {
        self.image.old.layout.cluster_size()
    }

    /// Returns the end of the guest bytes that the backing file provides.
    fn backing_end(&self) -> u64 {
        self.backing.map_or(0, Image::size)
    }

    /// Returns the entry of the old L1 table with this index.
    fn old_table(&self, l1_index: u64) -> u64 {
        let entry = usize::try_from(l1_index).ok().and_then(|index| self.image.old.l1.get(index));
        entry.copied().unwrap_or(0) & OFFSET_MASK
    }

    /// Makes the bytes between the end of the disk and the end of its last cluster read as zeros. If
    /// `allocates` is true, allocates their space where the cluster is stored verbatim.
    fn clear_last_cluster(&mut self, allocates: bool) -> Result<()> {
        let size = self.cluster_size();
        let start = self.added.start / size * size;
        if start == self.added.start {
            return Ok(());
        }
        // The whole cluster as the guest would see it if the disk ended with the cluster.
        let mut bytes = vec![0; to_usize(size)];
        let padded = self.padded_image(start + size);
        padded.read_at(&mut bytes, start)?;
        let rest = to_usize(self.added.start - start);
        let is_zero = bytes[rest..].iter().all(|&byte| byte == 0);
        if is_zero && !allocates {
            return Ok(());
        }
        let (l1_index, index) = self.position(start);
        let (entry, bitmap) = self.entry(l1_index, index)?;
        let layout = self.image.old.layout;
        if let Cluster::Data { offset } = layout.decode(entry, bitmap)
            && entry & COPIED != 0
            && self.space.count_at(offset)? == 1
        {
            // Nothing else refers to this cluster, and the guest does not see these bytes yet.
            self.require_data(offset)?;
            let offset = offset + to_u64(rest);
            self.edits.push(match allocates {
                true => Edit::Write { offset, bytes: vec![0; to_usize(size) - rest] },
                false => Edit::Zero { offset, len: size - to_u64(rest) },
            });
            return Ok(());
        }
        if is_zero {
            return Ok(());
        }
        let visible = padded.extents_in(start..self.added.start)?;
        if self.format_probed && visible.iter().any(|e| e.depth > 0 && !e.kind.is_zero()) {
            let message = "data of its backing file would be copied into the image";
            return Err(Error::refused(message)
                .hint("a guest can write the header of any format into a raw disk")
                .with_remedy(Remedy::NameFormat));
        }
        bytes[rest..].fill(0);
        let offset = self.space.allocate(1)?;
        self.edits.push(Edit::Write { offset, bytes });
        let bitmap = if layout.extended { ALL_STORED } else { 0 };
        self.replace(l1_index, index, (offset | COPIED, bitmap))
    }

    /// Returns the image with its backing chain, with a disk of `size` bytes.
    fn padded_image(&self, size: u64) -> Image {
        let image = self.image.padded(size);
        match self.backing {
            Some(backing) => image.over(backing),
            None => image,
        }
    }

    /// Makes whole clusters of the added range read as zeros.
    fn clear_clusters(&mut self) -> Result<()> {
        let size = self.cluster_size();
        let shift = self.image.old.layout.l1_shift();
        let first = self.added.start.next_multiple_of(size);
        let end = self.added.end.next_multiple_of(size);
        let mut at = first;
        while at < end {
            let l1_index = at >> shift;
            let table_end = end.min((l1_index + 1) << shift);
            let shows_backing = at < self.backing_end();
            if self.old_table(l1_index) != 0 || shows_backing {
                self.clear_table(l1_index, at..table_end)?;
            }
            at = table_end;
        }
        Ok(())
    }

    /// Makes the clusters of `range`, which one L2 table describes, read as zeros.
    fn clear_table(&mut self, l1_index: u64, range: Range<u64>) -> Result<()> {
        let size = self.cluster_size();
        for at in range.step_by(to_usize(size)) {
            let (_, index) = self.position(at);
            let (entry, bitmap) = self.entry(l1_index, index)?;
            let wanted = match at < self.backing_end() {
                false => (0, 0),
                true if self.image.old.layout.extended => (0, ALL_ZERO),
                true if self.image.header().version >= 3 => (ZERO, 0),
                true => (self.zero_cluster()? | COPIED, 0),
            };
            if (entry, bitmap) != wanted {
                self.replace(l1_index, index, wanted)?;
            }
        }
        if self.tables.get(&l1_index).is_some_and(|table| !table.changed) {
            self.tables.remove(&l1_index);
        }
        Ok(())
    }

    /// Allocates host clusters for all whole clusters of the added range, which read as zeros.
    fn preallocate(&mut self, mode: Preallocation, in_data_file: bool) -> Result<()> {
        let size = self.cluster_size();
        let bitmap = if self.image.old.layout.extended { ALL_STORED } else { 0 };
        let mut at = self.added.start.next_multiple_of(size);
        let end = self.added.end.next_multiple_of(size);
        while at < end {
            let table_end = (self.position(at).0 + 1) << self.image.old.layout.l1_shift();
            let clusters = (end.min(table_end) - at) / size;
            let (offset, clusters) = match in_data_file {
                true => (at, clusters),
                false => self.space.allocate_some(clusters)?,
            };
            if !in_data_file {
                self.reserve(offset, clusters * size, mode)?;
            }
            for done in (0..clusters).map(|n| n * size) {
                let (l1_index, index) = self.position(at + done);
                self.replace(l1_index, index, ((offset + done) | COPIED, bitmap))?;
            }
            self.require_memory(self.space.changed_bytes(), "changed refcounts")?;
            at += clusters * size;
        }
        Ok(())
    }

    /// Makes new host clusters zero, and allocates their space.
    fn reserve(&mut self, offset: u64, len: u64, mode: Preallocation) -> Result<()> {
        let storage = &self.image.storage;
        let reserved = match mode {
            Preallocation::Falloc if !storage.has_fixed_len() => storage.preallocate(offset, len),
            Preallocation::Full => storage.fill_zeros_at(offset, len),
            _ if storage.has_fixed_len() => storage.write_zeros_at(offset, len),
            // The file does not have them yet.
            _ => Ok(()),
        };
        reserved.map_err(|e| Error::io("cannot preallocate", e).at(offset))
    }

    /// Allocates a cluster of zeros, for version 2, which has no other way to hide the backing
    /// file. Returns its host offset.
    fn zero_cluster(&mut self) -> Result<u64> {
        let offset = self.space.allocate(1)?;
        self.edits.push(Edit::Zero { offset, len: self.cluster_size() });
        Ok(offset)
    }

    /// Returns the L1 index and the L2 index of a guest offset.
    fn position(&self, guest: u64) -> (u64, u64) {
        let layout = self.image.old.layout;
        let index = (guest >> layout.cluster_bits) & (layout.entries() - 1);
        (guest >> layout.l1_shift(), index)
    }

    /// Returns an L2 table as it will be.
    fn table(&mut self, l1_index: u64) -> Result<&mut L2Table> {
        if !self.tables.contains_key(&l1_index) {
            let bytes = (to_u64(self.tables.len()) + 1) * self.cluster_size();
            self.require_memory(bytes, "changed L2 tables")?;
            let words = self.read_table(l1_index)?;
            self.tables.insert(l1_index, L2Table { words, changed: false });
        }
        Ok(self.tables.get_mut(&l1_index).expect("it was read"))
    }

    /// # Errors
    /// Returns [`Limit`](crate::ErrorKind::Limit) if `bytes` of `what` are more than may be in
    /// memory. All of it is, until everything is known that changes.
    fn require_memory(&self, bytes: u64, what: &str) -> Result<()> {
        let max = self.image.old.limits.table_bytes;
        if bytes > max {
            return Err(Error::over_limit("table_bytes", format!("{bytes} bytes of {what}"), max));
        }
        Ok(())
    }

    /// Reads a stored L2 table. Where there is none, returns an empty one.
    fn read_table(&self, l1_index: u64) -> Result<Vec<u64>> {
        let (storage, size) = (&*self.image.storage, self.cluster_size());
        let offset = self.old_table(l1_index);
        if offset == 0 {
            return Ok(vec![0; to_usize(size / 8)]);
        }
        if !offset.is_multiple_of(size) || offset >= storage.current_len() {
            let what = format!("L1 entry {l1_index} does not point to an L2 table");
            return Err(Error::corrupt("L1 table", what).at(offset));
        }
        read_words(storage, "L2 table", offset, size / 8)
    }

    /// Returns an L2 entry and its bitmap (0 unless extended).
    fn entry(&mut self, l1_index: u64, index: u64) -> Result<(u64, u64)> {
        let extended = self.image.old.layout.extended;
        let words = &self.table(l1_index)?.words;
        Ok(match extended {
            true => (words[to_usize(2 * index)], words[to_usize(2 * index + 1)]),
            false => (words[to_usize(index)], 0),
        })
    }

    /// Replaces an L2 entry. What it referred to becomes unused.
    fn replace(&mut self, l1_index: u64, index: u64, (entry, bitmap): (u64, u64)) -> Result<()> {
        let layout = self.image.old.layout;
        let (old_entry, old_bitmap) = self.entry(l1_index, index)?;
        match layout.decode(old_entry, old_bitmap) {
            _ if layout.data_file => {}
            Cluster::Data { offset } | Cluster::Zero { offset: Some(offset) } => {
                self.release_later(offset)?;
            }
            Cluster::Compressed { offset, len } => {
                self.space.metadata().require_none(&(offset..offset + u64::from(len)))?;
                self.unused.push((offset, len.into()));
            }
            Cluster::Subclusters(subclusters) => {
                subclusters.offset.map_or(Ok(()), |offset| self.release_later(offset))?;
            }
            Cluster::Unallocated | Cluster::Zero { offset: None } => {}
        }
        let table = self.table(l1_index)?;
        table.changed = true;
        if layout.extended {
            table.words[to_usize(2 * index)] = entry;
            table.words[to_usize(2 * index + 1)] = bitmap;
        } else {
            table.words[to_usize(index)] = entry;
        }
        Ok(())
    }

    /// Verifies that guest data can be at a host offset.
    fn require_data(&self, offset: u64) -> Result<()> {
        let size = self.cluster_size();
        if !offset.is_multiple_of(size) {
            let what = format!("an entry points to {offset:#x}, which is not aligned to a cluster");
            return Err(Error::corrupt("L2 table", what));
        }
        self.space.metadata().require_none(&(offset..offset + size))
    }

    /// Records that a host cluster will not be used any more.
    fn release_later(&mut self, offset: u64) -> Result<()> {
        self.require_data(offset)?;
        self.unused.push((offset, self.cluster_size()));
        Ok(())
    }

    /// Stores the changed L2 tables in new clusters. Returns the L1 table that points to them.
    fn store_tables(&mut self, entries: u64) -> Result<Vec<u64>> {
        let size = self.cluster_size();
        let mut l1 = self.image.old.l1.clone();
        l1.resize(to_usize(entries), 0);
        for (l1_index, table) in std::mem::take(&mut self.tables) {
            if !table.changed {
                continue;
            }
            let bytes = to_bytes(&table.words);
            let offset = self.space.allocate(1)?;
            self.edits.push(Edit::Write { offset, bytes });
            let old = self.old_table(l1_index);
            if old != 0 {
                self.unused.push((old, size));
            }
            l1[to_usize(l1_index)] = offset | COPIED;
        }
        Ok(l1)
    }

    /// Returns where the L1 table with `entries` entries will be: in the same clusters if they have
    /// room and nothing changes in them, otherwise in new ones.
    fn place_l1(&mut self, entries: u64) -> Result<TableLocation> {
        let old = self.image.header().l1;
        let len = to_u32(entries);
        let changed = self.tables.values().any(|table| table.changed);
        if !changed && self.has_room(old, entries)? {
            return Ok(TableLocation { offset: old.offset, len });
        }
        let size = self.cluster_size();
        let mut bytes = to_bytes(&self.store_tables(entries)?);
        bytes.resize(bytes.len().next_multiple_of(to_usize(size)), 0);
        let offset = self.space.allocate(to_u64(bytes.len()) / size)?;
        self.edits.push(Edit::Write { offset, bytes });
        self.unused.push((old.offset, old.bytes()));
        Ok(TableLocation { offset, len })
    }

    /// Returns true if a table can be extended to `entries` entries in its own clusters: if they
    /// are large enough, and zero beyond the table.
    fn has_room(&self, table: Table, entries: u64) -> Result<bool> {
        let end = table.bytes().next_multiple_of(self.cluster_size());
        if entries * 8 > end {
            return Ok(false);
        }
        let added = entries - table.entries;
        let offset = table.offset + table.bytes();
        let words = read_words(&*self.image.storage, "L1 table", offset, added)?;
        Ok(words.iter().all(|&word| word == 0))
    }

    /// Makes all modifications.
    fn apply(mut self) -> Result<()> {
        let needed = self.added.end.div_ceil(self.image.header().guest_bytes_per_l1_entry());
        let entries = needed.max(self.image.header().l1.entries);
        let l1 = self.place_l1(entries)?;
        let old_refcounts = self.space.move_table()?;
        let used = self.space.take_changes();
        if let Some(table) = old_refcounts {
            self.unused.push((table.offset, u64::from(table.len) * self.cluster_size()));
        }
        for (offset, len) in std::mem::take(&mut self.unused) {
            self.space.release(offset, len, |_| ())?;
            self.require_memory(self.space.changed_bytes(), "changed refcounts")?;
        }
        let unused = self.space.take_changes();
        let mut free = Vec::new();
        let storage = &self.image.storage;
        if !storage.has_fixed_len() && self.space.end() > storage.current_len() {
            free.push(Edit::SetLen(self.space.end()));
        }
        free.append(&mut self.edits);
        let switch = self.image.switch(self.added.end, l1, self.space.table_location())?;
        self.image.apply(free, used, switch, unused)
    }
}
