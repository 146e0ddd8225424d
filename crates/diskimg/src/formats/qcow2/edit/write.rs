//! Writing guest data into an existing image.
//!
//! ```text
//!   cluster                       data is written            zeros
//!   allocated, refcount 1         in place                   unallocated, or a zero cluster
//!   shared with a snapshot,       to a new cluster           if there is a backing file
//!     compressed, unallocated
//!   of an external data file      at the same offset         to the data file
//! ```
//!
//! What changes in the tables is in memory until it is [stored](super::store).

use super::bitmaps::TrackedBitmaps;
use super::compressed::CompressedSpace;
use super::references;
use super::space::{Space, TableLocation};
use super::table::L2Table;
use super::{BitmapChanges, Qcow2Mut};
use crate::error::{Error, Result};
use crate::formats::qcow2::header::{Autoclear, Header};
use crate::formats::qcow2::tables::{
    ALL_STORED, ALL_ZERO, COPIED, Cluster, OFFSET_MASK, ZERO, read_words,
};
use crate::model::bitmap::DirtyBitmap;
use crate::model::target::{Allocate, Slot, Target};
use crate::remedy::Remedy;
use crate::storage::edit::Edits;
use crate::storage::edit::pending::PendingTables;
use crate::storage::number::to_usize;
use crate::storage::sink::Sink;
use std::ops::Range;
use std::sync::Arc;

/// An image to which guest data is written.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) image: Qcow2Mut,
    /// The image file and, if there is one, the external data file.
    pub(super) files: Vec<Arc<dyn Sink>>,
    pub(super) space: Space,
    /// The L1 table as it will be.
    pub(super) l1: Vec<u64>,
    /// The L2 tables that were read or created, by L1 index.
    pub(super) tables: PendingTables<L2Table>,
    pub(super) compressed: CompressedSpace,
    pub(super) bitmaps: TrackedBitmaps,
    /// Bitmaps that are added at the end.
    pub(super) new_bitmaps: Vec<DirtyBitmap>,
    /// Host offset of the end of the last cluster of the file before the modification.
    file_end: u64,
    /// Guest offset below which all data is written.
    pub(super) settled: u64,
    /// Host offset of the end of what may be in use.
    pub(super) end: u64,
    /// Zeros must be recorded, because the image has or gets a backing file.
    hides_backing: bool,
    /// Everything is stored.
    is_finished: bool,
}

/// Where the data of a cluster is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The host cluster at this offset.
    Existing(u64),
    /// A new cluster.
    New,
}

impl Writer {
    /// Prepares an image: features that would become wrong are cleared, and bitmaps are marked as
    /// in use.
    pub(super) fn start(image: Qcow2Mut, hides_backing: bool) -> Result<Self> {
        let mut space = Space::open(&image)?;
        references::verify(&image, &mut space)?;
        let bitmaps = TrackedBitmaps::find(&image, &mut space)?;
        let mut files: Vec<Arc<dyn Sink>> = vec![image.storage.clone()];
        if let Some(data_file) = image.data_file.clone() {
            files.push(data_file);
        }
        let writer = Self {
            files,
            space,
            file_end: image.header().padded(image.storage.current_len()),
            l1: image.old.l1.clone(),
            tables: PendingTables::default(),
            compressed: CompressedSpace::default(),
            bitmaps,
            new_bitmaps: Vec::new(),
            settled: 0,
            end: image.storage.current_len(),
            hides_backing: hides_backing || image.header().backing.is_some(),
            is_finished: false,
            image,
        };
        writer.begin()?;
        Ok(writer)
    }

    fn begin(&self) -> Result<()> {
        let (image, header) = (&self.image, self.header());
        let mut edits = Edits::new();
        if !header.autoclear.difference(Autoclear::all()).is_empty() {
            let l1 = TableLocation::of_l1(header);
            edits.phase([image.switch(header.size, l1, self.space.table_location())?]);
        }
        edits.phase(self.bitmaps.mark_in_use());
        edits.apply(&*image.storage).map_err(|e| Error::io("cannot modify the image", e))
    }

    pub(super) fn cluster_size(&self) -> u64 {
        self.image.old.layout.cluster_size()
    }

    pub(super) fn header(&self) -> &Header {
        self.image.header()
    }

    fn has_data_file(&self) -> bool {
        self.image.old.layout.data_file
    }

    /// Returns the L1 index and the L2 index of a guest offset.
    fn position(&self, guest: u64) -> (u64, u64) {
        let layout = self.image.old.layout;
        let index = (guest >> layout.cluster_bits) & (layout.entries() - 1);
        (guest >> layout.l1_shift(), index)
    }

    fn l1_entry(&self, l1_index: u64) -> Result<u64> {
        let entry = usize::try_from(l1_index).ok().and_then(|index| self.l1.get(index));
        entry.copied().ok_or_else(|| Error::invalid("the range is beyond the end of the disk"))
    }

    /// Returns an L2 table as it will be.
    fn table(&mut self, l1_index: u64) -> Result<&mut L2Table> {
        let entry = self.l1_entry(l1_index)?;
        let size = self.cluster_size();
        let (space, storage) = (&mut self.space, &*self.image.storage);
        self.tables.get_or_try_insert(l1_index, || {
            let offset = entry & OFFSET_MASK;
            if offset == 0 {
                return Ok(L2Table::new(vec![0; to_usize(size / 8)], None));
            }
            let words = read_words(storage, "L2 table", offset, size / 8)?;
            let is_own = entry & COPIED != 0 && required_count(space, offset)? == 1;
            let mut table = L2Table::new(words, is_own.then_some(offset));
            if !is_own {
                table.unused.push(offset..offset + size);
            }
            Ok(table)
        })
    }

    /// Returns the L2 entry of a guest offset and its bitmap (0 unless extended).
    fn entry(&mut self, at: u64) -> Result<(u64, u64)> {
        let (l1_index, index) = self.position(at);
        let extended = self.image.old.layout.extended;
        let words = &self.table(l1_index)?.words;
        Ok(match extended {
            true => (words[to_usize(2 * index)], words[to_usize(2 * index + 1)]),
            false => (words[to_usize(index)], 0),
        })
    }

    fn set_entry(&mut self, at: u64, (entry, bitmap): (u64, u64)) -> Result<()> {
        let (l1_index, index) = self.position(at);
        let extended = self.image.old.layout.extended;
        let table = self.table(l1_index)?;
        if extended {
            table.set(to_usize(2 * index), entry);
            table.set(to_usize(2 * index + 1), bitmap);
        } else {
            table.set(to_usize(index), entry);
        }
        Ok(())
    }

    /// Returns the host cluster that an entry points to, after verifying that guest data can be
    /// there.
    fn host_cluster(&self, at: u64, cluster: Cluster) -> Result<Option<u64>> {
        let end = self.space.end().max(self.file_end);
        self.space.metadata().host_cluster(self.image.old.layout, at, cluster, end)
    }

    /// Replaces the entry of a guest cluster. The clusters that it referred to become unused.
    fn replace(&mut self, at: u64, entry: (u64, u64)) -> Result<()> {
        let (old_entry, old_bitmap) = self.entry(at)?;
        let cluster = self.image.old.layout.decode(old_entry, old_bitmap);
        let unused = match (cluster, self.host_cluster(at, cluster)?) {
            (Cluster::Compressed { offset, len }, _) if !self.has_data_file() => {
                let range = offset..offset + u64::from(len);
                self.space.metadata().require_none(&range)?;
                Some(range)
            }
            (_, Some(offset)) if !self.has_data_file() => {
                Some(offset..offset + self.cluster_size())
            }
            _ => None,
        };
        self.set_entry(at, entry)?;
        let (l1_index, _) = self.position(at);
        self.table(l1_index)?.unused.extend(unused);
        Ok(())
    }

    /// Returns where the data of a cluster is written.
    fn place_of(&mut self, at: u64) -> Result<Place> {
        if self.has_data_file() {
            return Ok(Place::Existing(at));
        }
        let (entry, bitmap) = self.entry(at)?;
        let cluster = self.image.old.layout.decode(entry, bitmap);
        match self.host_cluster(at, cluster)? {
            Some(offset)
                if entry & COPIED != 0 && required_count(&mut self.space, offset)? == 1 =>
            {
                Ok(Place::Existing(offset))
            }
            _ => Ok(Place::New),
        }
    }

    /// Returns the slot for the first of `len` bytes of data.
    fn place_data(&mut self, at: u64, len: u64) -> Result<Slot> {
        let size = self.cluster_size();
        let file = usize::from(self.has_data_file());
        let first = self.place_of(at)?;
        let table_end = (self.position(at).0 + 1) << self.image.old.layout.l1_shift();
        let end = (at + len).min(table_end);
        let mut next = at + size;
        while next < end {
            let expected = match first {
                Place::Existing(offset) => Place::Existing(offset + (next - at)),
                Place::New => Place::New,
            };
            if self.place_of(next)? != expected {
                break;
            }
            next += size;
        }
        let (offset, clusters) = match first {
            Place::Existing(offset) => (offset, (next - at) / size),
            Place::New => self.allocate((next - at) / size)?,
        };
        let next = at + clusters * size;
        let bitmap = if self.image.old.layout.extended { ALL_STORED } else { 0 };
        for done in (0..clusters).map(|n| n * size) {
            let entry = ((offset + done) | COPIED, bitmap);
            match first {
                Place::Existing(_) => self.set_entry(at + done, entry)?,
                Place::New => self.replace(at + done, entry)?,
            }
        }
        self.bitmaps.mark(at..(at + len).min(next));
        // Space beyond the end of the file is allocated once only.
        let is_zeroed =
            first == Place::New && offset >= self.file_end && !self.image.storage.has_fixed_len();
        Ok(Slot { file, offset, len: len.min(next - at), is_zeroed })
    }

    fn place_compressed(&mut self, at: u64, len: u64) -> Result<Slot> {
        if self.has_data_file() {
            let message = "an image with an external data file cannot have compressed clusters";
            return Err(Error::unsupported(message));
        }
        let offset = self.allocate_compressed(len)?;
        let entry = self.image.old.layout.encode_compressed(offset, len).ok_or_else(|| {
            Error::limit("the image file is too large for another compressed cluster")
        })?;
        self.replace(at, (entry, 0))?;
        self.bitmaps.mark(at..at + self.cluster_size());
        Ok(Slot { file: 0, offset, len, is_zeroed: false })
    }

    /// Calls `each` for the clusters of a range, except those of L2 tables that do not exist if
    /// `skips_tables` is set.
    fn for_clusters(
        &mut self,
        range: Range<u64>,
        skips_tables: bool,
        mut each: impl FnMut(&mut Self, u64) -> Result<()>,
    ) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let (l1_index, _) = self.position(at);
            let is_absent =
                self.l1_entry(l1_index)? & OFFSET_MASK == 0 && !self.tables.contains(l1_index);
            if is_absent && skips_tables {
                at = (l1_index + 1) << self.image.old.layout.l1_shift();
                continue;
            }
            each(self, at)?;
            at += self.cluster_size();
        }
        Ok(())
    }

    /// Makes a range of clusters read as zeros.
    fn place_zeros(&mut self, at: u64, len: u64) -> Result<()> {
        let hides_backing = self.hides_backing;
        if let Some(data_file) = self.files.get(1) {
            // Where the entry says so, the guest reads zeros already, but a raw data file is read
            // by others too.
            let message = "cannot write zeros to the external data file";
            if self.header().data_file_raw() {
                data_file.write_zeros_at(at, len).map_err(|e| Error::io(message, e).at(at))?;
            }
        }
        self.for_clusters(at..at + len, !hides_backing, |writer, at| {
            writer.zero_cluster(at, hides_backing)
        })?;
        self.bitmaps.mark(at..at + len);
        Ok(())
    }

    fn zero_cluster(&mut self, at: u64, hides_backing: bool) -> Result<()> {
        let layout = self.image.old.layout;
        let size = self.cluster_size();
        let (entry, bitmap) = self.entry(at)?;
        let cluster = layout.decode(entry, bitmap);
        let host = self.host_cluster(at, cluster)?;
        let is_zero = match cluster {
            Cluster::Unallocated => !hides_backing,
            Cluster::Zero { .. } => self.header().version >= 3,
            Cluster::Subclusters(s) => s.allocated == 0 && (s.zero == u32::MAX || !hides_backing),
            Cluster::Data { .. } | Cluster::Compressed { .. } => false,
        };
        if is_zero {
            return Ok(());
        }
        if let Some(data_file) = self.files.get(1)
            && let Some(offset) = host
        {
            let len = size.min(self.header().size - at);
            let written = data_file.write_zeros_at(offset, len);
            let message = "cannot write zeros to the external data file";
            written.map_err(|e| Error::io(message, e).at(offset))?;
            let bitmap = if layout.extended { ALL_STORED } else { 0 };
            return self.set_entry(at, (offset | COPIED, bitmap));
        }
        match (hides_backing, layout.extended) {
            (false, _) => self.replace(at, (0, 0)),
            (true, true) => self.replace(at, (0, ALL_ZERO)),
            (true, false) if self.header().version >= 3 => self.replace(at, (ZERO, 0)),
            // Version 2 has no other way to hide the backing file.
            (true, false) => {
                let slot = self.place_data(at, size)?;
                if slot.is_zeroed {
                    return Ok(());
                }
                let written = self.files[slot.file].write_zeros_at(slot.offset, size);
                written.map_err(|e| Error::io("cannot write zeros", e).at(slot.offset))
            }
        }
    }

    /// Makes a range of clusters unallocated.
    fn unallocate(&mut self, at: u64, len: u64) -> Result<()> {
        self.for_clusters(at..at + len, true, Self::unallocate_cluster)?;
        self.bitmaps.mark(at..at + len);
        Ok(())
    }

    fn unallocate_cluster(&mut self, at: u64) -> Result<()> {
        if self.entry(at)? != (0, 0) {
            self.replace(at, (0, 0))?;
        }
        Ok(())
    }
}

impl Target for Writer {
    fn files(&self) -> &[Arc<dyn Sink>] {
        &self.files
    }

    fn place(&mut self, at: u64, unit: Allocate) -> Result<Option<Slot>> {
        match unit {
            Allocate::Zero { len } => self.place_zeros(at, len).map(|()| None),
            Allocate::Backed { len } => self.unallocate(at, len).map(|()| None),
            Allocate::Data { len } => self.place_data(at, len).map(Some),
            Allocate::Compressed { len } => self.place_compressed(at, len).map(Some),
        }
    }

    fn settle(&mut self, end: u64) -> Result<()> {
        self.settle_tables(end)
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.store_all()?;
        self.is_finished = true;
        match std::mem::take(&mut self.new_bitmaps) {
            new if new.is_empty() => Ok(()),
            new => BitmapChanges::store_copies(&self.image.reread()?, new),
        }
    }
}

impl Drop for Writer {
    /// After a failure, leaves the image in order as far as possible. Errors are ignored.
    fn drop(&mut self) {
        if !self.is_finished {
            let _ = self.abandon();
        }
    }
}

/// Returns the refcount of a cluster that is in use.
fn required_count(space: &mut Space, offset: u64) -> Result<u64> {
    match space.count_at(offset)? {
        0 => Err(Error::corrupt("refcount block", "a cluster that is in use has refcount 0")
            .at(offset)
            .with_remedy(Remedy::Repair)),
        count => Ok(count),
    }
}
