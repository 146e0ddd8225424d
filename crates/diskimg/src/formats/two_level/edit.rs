//! Writing guest data into an existing image.
//!
//! ```text
//!   cluster        data is written     zeros
//!   allocated      in place            in place
//!   compressed     to a new cluster    unallocated or, if there is a backing file, as below
//!   unallocated    to a new cluster    if there is a backing file: the entry for zeros or, in a
//!                                      format without one, a new cluster
//!
//!   written                            then
//!   guest data                         nothing refers to new clusters
//!   new L2 tables                      nor to these
//!   entries of L2 tables and of the    they are in use
//!     L1 table
//! ```
//!
//! What changes in the tables is in memory until it is stored: at the end, and before that if the
//! tables of what is completely written need much memory.

use super::{Entry, Layout, Location, Tables, check, read_words};
use crate::error::{Error, Result};
use crate::formats::cluster_encoder::ClusterEncoder;
use crate::model::target::{Allocate, Slot, Target, TargetSpec, UnitEncoder};
use crate::open::limits::Limits;
use crate::report::check::{Code, Finding};
use crate::storage::edit::pending::PendingTables;
use crate::storage::edit::{Edit, Edits, Storage};
use crate::storage::lock;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::output::Output;
use crate::storage::sink::Sink;
use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// Memory for L2 tables in bytes from which they are stored before the end.
const MAX_TABLE_BYTES: u64 = 16 << 20;

/// Number of table entries that are written together: those of a sector.
const SECTOR_ENTRIES: usize = 64;

/// An image to which guest data is to be written.
#[derive(Debug)]
pub(crate) struct ExistingImage {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) has_backing: bool,
    /// What changes in the header before anything else.
    pub(crate) before: Option<Edit>,
    /// What changes in the header when everything else is stored, or forgotten after a failure.
    pub(crate) after: Option<Edit>,
}

/// Specifies an image with these tables as a target.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if the tables are inconsistent,
/// [`Limit`](crate::ErrorKind::Limit) if an L2 table or the check of the tables needs too much
/// memory, [`Io`](crate::ErrorKind::Io) if they cannot be read.
pub(crate) fn specify(
    image: ExistingImage,
    tables: &Tables,
    compress: bool,
    limits: &Limits,
) -> Result<Box<dyn TargetSpec>> {
    let end = require_consistent(tables, limits)?;
    let writer = TableWriter::new(image, tables, end);
    Ok(Box::new(ExistingSpec {
        size: tables.size(),
        quantum: tables.layout().cluster_size(),
        compress,
        writer: Mutex::new(Some(writer)),
    }))
}

/// Verifies that an image with these tables can be modified. Returns the host offset of the end of
/// what is in use.
///
/// # Errors
/// As [`specify`].
pub(crate) fn require_consistent(tables: &Tables, limits: &Limits) -> Result<u64> {
    let layout = tables.layout();
    let table_bytes = layout.used_entries(0, tables.size()) * 8;
    if table_bytes > limits.table_bytes {
        let found = format!("L2 tables of {table_bytes} bytes");
        return Err(Error::over_limit("table_bytes", found, limits.table_bytes));
    }
    // Clusters that are in use twice would be overwritten.
    let mut damage = None;
    let mut note = |finding: Finding| {
        if finding.code != Code::Leak {
            damage.get_or_insert(finding.message);
        }
    };
    let end = check::check(tables, limits.check_bytes, &mut note)?.image_end_offset;
    if let Some(message) = damage {
        return Err(Error::corrupt(layout.format.l2, message)
            .hint("the image is damaged: convert it to a new image"));
    }
    // Words that are not aligned may be in two sectors, of which one alone may become durable.
    if [tables.location.l1_at].iter().chain(&tables.l1).any(|at| !at.is_multiple_of(8)) {
        let message =
            "an image whose tables are not aligned to 8 bytes cannot be modified in place";
        return Err(Error::unsupported(message));
    }
    // The last cluster may extend beyond the end of the file.
    Ok(end.unwrap_or(0).max(tables.end))
}

/// An existing image as the target of a conversion, before anything is written.
#[derive(Debug)]
struct ExistingSpec {
    size: u64,
    quantum: u64,
    compress: bool,
    /// Taken when writing starts.
    writer: Mutex<Option<TableWriter>>,
}

impl TargetSpec for ExistingSpec {
    fn size(&self) -> u64 {
        self.size
    }

    fn quantum(&self) -> u64 {
        self.quantum
    }

    fn encoder(&self) -> Option<Box<dyn UnitEncoder>> {
        self.compress.then(|| ClusterEncoder::deflate(None))
    }

    fn start(&self, _: &mut Output) -> Result<Box<dyn Target>> {
        let writer = lock(&self.writer).take();
        let mut writer =
            writer.ok_or_else(|| Error::invalid("the image is being written already"))?;
        writer.begin()?;
        Ok(Box::new(writer))
    }
}

/// An L2 table in memory.
#[derive(Debug)]
struct PendingTable {
    /// The entries that the disk needs.
    words: Vec<u64>,
    /// Where it is stored; `None` for a new table.
    stored: Option<u64>,
    /// Sectors that differ from what is stored.
    changed: BTreeSet<usize>,
}

/// An image to which guest data is written.
#[derive(Debug)]
struct TableWriter {
    image: ExistingImage,
    sinks: [Arc<dyn Sink>; 1],
    location: Location,
    l1: Vec<u64>,
    /// The L1 entries that differ from what is stored.
    changed: BTreeSet<u64>,
    tables: PendingTables<PendingTable>,
    /// Host offset of the end of what is allocated.
    end: u64,
    /// Host offset of the end of what may be in use in the stored image.
    stored_end: u64,
    /// Host offset from which on new space reads as zeros.
    zeroed_from: u64,
    /// Clusters to which nothing will refer.
    unused: Vec<Range<u64>>,
    has_begun: bool,
    is_finished: bool,
}

/// Where the data of a cluster is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Existing(u64),
    New,
}

impl TableWriter {
    fn new(image: ExistingImage, tables: &Tables, end: u64) -> Self {
        let len = image.storage.current_len();
        let zeroed_from = if image.storage.has_fixed_len() { u64::MAX } else { len };
        Self {
            sinks: [image.storage.clone()],
            image,
            location: tables.location.clone(),
            l1: tables.l1.clone(),
            changed: BTreeSet::new(),
            tables: PendingTables::default(),
            end,
            stored_end: len,
            zeroed_from,
            unused: Vec::new(),
            has_begun: false,
            is_finished: false,
        }
    }

    fn layout(&self) -> Layout {
        self.location.layout
    }

    fn begin(&mut self) -> Result<()> {
        self.has_begun = true;
        self.edit_header(self.image.before.clone())
    }

    fn edit_header(&self, edit: Option<Edit>) -> Result<()> {
        let mut edits = Edits::new();
        edits.phase(edit);
        edits.apply(&*self.image.storage).map_err(cannot_modify)
    }

    /// Returns the L1 index, and the index in the L2 table, of a guest offset.
    fn position(&self, at: u64) -> (u64, usize) {
        let layout = self.layout();
        let index = (at >> layout.cluster_bits) & (layout.entries() - 1);
        (at >> layout.l1_shift(), to_usize(index))
    }

    fn l1_entry(&self, l1_index: u64) -> Result<u64> {
        let entry = self.l1.get(to_usize(l1_index)).copied();
        entry.ok_or_else(|| Error::invalid("the range is beyond the end of the disk"))
    }

    /// Returns an L2 table as it will be.
    fn table(&mut self, l1_index: u64) -> Result<&mut PendingTable> {
        let (entry, layout) = (self.l1_entry(l1_index)?, self.layout());
        let used = layout.used_entries(l1_index, self.location.size);
        let storage = &*self.image.storage;
        self.tables.get_or_try_insert(l1_index, || {
            let words = match entry {
                0 => vec![0; to_usize(used)],
                table => read_words(storage, layout, layout.format.l2, table, used)?,
            };
            let stored = (entry != 0).then_some(entry);
            Ok(PendingTable { words, stored, changed: BTreeSet::new() })
        })
    }

    fn entry(&mut self, at: u64) -> Result<u64> {
        let (l1_index, index) = self.position(at);
        let entry = self.table(l1_index)?.words.get(index).copied();
        entry.ok_or_else(|| Error::invalid("the range is beyond the end of the disk"))
    }

    fn set_entry(&mut self, at: u64, entry: u64) -> Result<()> {
        let (l1_index, index) = self.position(at);
        let table = self.table(l1_index)?;
        if let Some(word) = table.words.get_mut(index)
            && *word != entry
        {
            *word = entry;
            table.changed.insert(index / SECTOR_ENTRIES);
        }
        Ok(())
    }

    /// Replaces an entry. The cluster that it referred to becomes unused.
    fn replace(&mut self, at: u64, entry: u64) -> Result<()> {
        if let Entry::Data(offset) = self.layout().decode(self.entry(at)?) {
            self.unused.push(offset..offset + self.layout().cluster_size());
        }
        self.set_entry(at, entry)
    }

    fn place_of(&mut self, at: u64) -> Result<Place> {
        Ok(match self.layout().decode(self.entry(at)?) {
            Entry::Data(offset) => Place::Existing(offset),
            Entry::Unallocated | Entry::Zero | Entry::Compressed { .. } => Place::New,
        })
    }

    /// Appends `len` bytes to the file, aligned to a cluster or not.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the file cannot grow.
    fn append(&mut self, len: u64, aligned: bool) -> Result<u64> {
        let start = if aligned { self.layout().align(self.end) } else { self.end };
        let end = start + len;
        if self.image.storage.has_fixed_len() && end > self.image.storage.current_len() {
            let full = io::Error::from(io::ErrorKind::StorageFull);
            return Err(Error::io("the device has no room for more clusters", full));
        }
        self.end = end;
        Ok(start)
    }

    /// Returns the slot for the first of `len` bytes of data, from the start of a cluster on.
    fn place_data(&mut self, at: u64, len: u64) -> Result<Slot> {
        let (layout, size) = (self.layout(), self.layout().cluster_size());
        let first = self.place_of(at)?;
        let table_end = (self.position(at).0 + 1) << layout.l1_shift();
        let (end, mut next) = ((at + len).min(table_end), at + size);
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
        let len = len.min(next - at);
        match first {
            Place::Existing(offset) => Ok(Slot { file: 0, offset, len, is_zeroed: false }),
            Place::New => {
                let offset = self.append(next - at, true)?;
                for done in (0..next - at).step_by(to_usize(size)) {
                    self.set_entry(at + done, offset + done)?;
                }
                let is_zeroed = offset >= self.zeroed_from;
                // The rest of the disk's last cluster.
                if !is_zeroed {
                    self.write_zeros(offset + len..offset + (next - at))?;
                }
                Ok(Slot { file: 0, offset, len, is_zeroed })
            }
        }
    }

    fn place_compressed(&mut self, at: u64, len: u64) -> Result<Slot> {
        let offset = self.append(len, false)?;
        let entry = self.layout().encode_compressed(offset, len).ok_or_else(|| {
            Error::limit("the host offset is too large for a compressed cluster").at(offset)
        })?;
        self.replace(at, entry)?;
        Ok(Slot { file: 0, offset, len, is_zeroed: false })
    }

    fn write_zeros(&self, range: Range<u64>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let written = self.image.storage.write_zeros_at(range.start, range.end - range.start);
        written.map_err(|e| Error::io("cannot write zeros", e).at(range.start))
    }

    /// Makes a range of clusters read as zeros.
    fn place_zeros(&mut self, mut at: u64, len: u64) -> Result<()> {
        let (end, size) = (at + len, self.layout().cluster_size());
        // Clusters next to each other in the file are overwritten together.
        let mut run = 0..0;
        while at < end {
            if !self.image.has_backing && self.is_absent(at)? {
                at = (self.position(at).0 + 1) << self.layout().l1_shift();
                continue;
            }
            if let Some(offset) = self.zero_cluster(at)? {
                if run.end != offset {
                    self.write_zeros(std::mem::replace(&mut run, offset..offset))?;
                }
                run.end = offset + size;
            }
            at += size;
        }
        self.write_zeros(run)
    }

    /// Returns true if there is no L2 table for a guest offset.
    fn is_absent(&self, at: u64) -> Result<bool> {
        let (l1_index, _) = self.position(at);
        Ok(self.l1_entry(l1_index)? == 0 && !self.tables.contains(l1_index))
    }

    /// Makes a cluster read as zeros. Returns its host offset if zeros must be written to it.
    fn zero_cluster(&mut self, at: u64) -> Result<Option<u64>> {
        let (layout, size) = (self.layout(), self.layout().cluster_size());
        let entry = layout.decode(self.entry(at)?);
        match (entry, layout.format.zero) {
            (Entry::Zero, _) => Ok(None),
            (Entry::Data(offset), _) => Ok(Some(offset)),
            (Entry::Unallocated | Entry::Compressed { .. }, _) if !self.image.has_backing => {
                self.set_entry(at, 0).map(|()| None)
            }
            (Entry::Unallocated | Entry::Compressed { .. }, Some(zero)) => {
                self.set_entry(at, zero).map(|()| None)
            }
            (Entry::Unallocated | Entry::Compressed { .. }, None) => {
                let offset = self.append(size, true)?;
                self.set_entry(at, offset)?;
                Ok((offset < self.zeroed_from).then_some(offset))
            }
        }
    }

    /// Makes a range of clusters unallocated.
    fn unallocate(&mut self, mut at: u64, len: u64) -> Result<()> {
        let end = at + len;
        while at < end {
            if self.is_absent(at)? {
                at = (self.position(at).0 + 1) << self.layout().l1_shift();
                continue;
            }
            self.replace(at, 0)?;
            at += self.layout().cluster_size();
        }
        Ok(())
    }

    /// Stores the tables that map only guest offsets before `end`. All data before it is written.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the file cannot be written.
    fn store(&mut self, end: u64) -> Result<()> {
        let layout = self.layout();
        let tables = if end >= self.location.size { u64::MAX } else { end >> layout.l1_shift() };
        let (mut new, mut in_place) = (Vec::new(), Vec::new());
        for (l1_index, table) in self.tables.take_before(tables) {
            let at = match table.stored {
                _ if table.changed.is_empty() => continue,
                Some(at) => at,
                None => {
                    let offset = self.append(layout.table_bytes(), true)?;
                    let bytes = layout.format.encode(&table.words);
                    let rest = layout.table_bytes() - to_u64(bytes.len());
                    if offset < self.zeroed_from && rest > 0 {
                        new.push(Edit::Zero { offset: offset + to_u64(bytes.len()), len: rest });
                    }
                    new.push(Edit::Write { offset, bytes });
                    self.l1[to_usize(l1_index)] = offset;
                    self.changed.insert(l1_index);
                    continue;
                }
            };
            for sector in table.changed {
                let first = sector * SECTOR_ENTRIES;
                let words = &table.words[first..table.words.len().min(first + SECTOR_ENTRIES)];
                let offset = at + to_u64(first) * 8;
                in_place.push(Edit::Write { offset, bytes: layout.format.encode(words) });
            }
        }
        for l1_index in std::mem::take(&mut self.changed) {
            let bytes = (layout.format.to_bytes)(self.l1[to_usize(l1_index)]).to_vec();
            in_place.push(Edit::Write { offset: self.location.l1_at + l1_index * 8, bytes });
        }
        let storage = Arc::clone(&self.image.storage);
        let len = self.end.max(storage.current_len());
        let is_longer = !storage.has_fixed_len() && len > storage.current_len();
        let discard = |unused: Range<u64>| Edit::Discard {
            offset: unused.start,
            len: unused.end - unused.start,
        };
        let mut edits = Edits::new();
        edits.phase(is_longer.then_some(Edit::SetLen(len)).into_iter().chain(new));
        edits.phase(in_place);
        // The entries of tables that are not stored yet may still refer to what is unused.
        if end >= self.location.size {
            edits.phase(std::mem::take(&mut self.unused).into_iter().map(discard));
        }
        // From now on, something may refer to what is before it.
        self.stored_end = len;
        // Nothing may refer to data before it is durable.
        storage.flush().and_then(|()| edits.apply(&*storage)).map_err(cannot_modify)
    }

    /// After a failure, forgets what is not stored.
    fn abandon(&self) -> Result<()> {
        let storage = &self.image.storage;
        if !storage.has_fixed_len() && storage.current_len() > self.stored_end {
            storage.set_len(self.stored_end).map_err(cannot_modify)?;
        }
        self.edit_header(self.image.after.clone())
    }
}

impl Target for TableWriter {
    fn files(&self) -> &[Arc<dyn Sink>] {
        &self.sinks
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
        let layout = self.layout();
        let complete = self.tables.complete_before(end >> layout.l1_shift());
        let per_table = layout.used_entries(0, self.location.size) * 8;
        // Most of the memory must be of tables that can be stored.
        if to_u64(complete) * per_table >= MAX_TABLE_BYTES.max(4 * per_table) {
            self.store(end)?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.store(u64::MAX)?;
        self.edit_header(self.image.after.clone())?;
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for TableWriter {
    /// After a failure, leaves the image in order as far as possible. Errors are ignored.
    fn drop(&mut self) {
        if self.has_begun && !self.is_finished {
            let _ = self.abandon();
        }
    }
}

fn cannot_modify(error: io::Error) -> Error {
    Error::io("cannot modify the image", error)
}
