//! The clusters of an expandable image.
//!
//! ```text
//!   guest offset ──► block allocation table ──► cluster
//!                    u32 per cluster, in memory
//!   entry 0: zeros or, in an overlay, the bytes of the image below
//! ```

use super::header::{HEADER_BYTES, Header};
use super::{SECTOR, read};
use crate::error::{Error, Result};
use crate::formats::distinct::SharedTables;
use crate::formats::holes::require_stored;
use crate::model::layer::next_allocated_in_table;
use crate::open::limits::Limits;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::U32;

/// How errors call the table.
pub(super) const TABLE: &str = "Parallels block allocation table";

/// An expandable image: its header and its table.
#[derive(Debug)]
pub(super) struct Clusters {
    pub(super) source: Arc<dyn Source>,
    pub(super) header: Header,
    /// The entries that the disk needs.
    pub(super) table: Vec<u32>,
    /// The clusters that overlap others; found when guest data is first mapped.
    shared: OnceLock<SharedTables>,
}

impl Clusters {
    /// Reads the header and the table.
    ///
    /// # Errors
    /// As [`Header::read`]; [`Corrupt`](crate::ErrorKind::Corrupt) if the table is not within the
    /// file, [`Limit`](crate::ErrorKind::Limit) if it is too large.
    pub(super) fn open(source: Arc<dyn Source>, limits: &Limits) -> Result<Self> {
        let header = Header::read(&*source)?;
        let len = header.needed_entries() * 4;
        if len > limits.table_bytes {
            let found = format!("{len} bytes");
            return Err(Error::over_limit("table_bytes", found, limits.table_bytes)
                .in_structure(TABLE)
                .at(HEADER_BYTES));
        }
        if HEADER_BYTES + len > source.len() {
            let message = format!("its {len} bytes extend beyond the end of the file");
            return Err(Error::corrupt(TABLE, message)
                .at(HEADER_BYTES)
                .hint("the file is probably truncated"));
        }
        require_stored(&*source, TABLE, HEADER_BYTES, len)?;
        let mut raw = vec![U32::ZERO; to_usize(header.needed_entries())];
        read(&*source, raw.as_mut_bytes(), HEADER_BYTES, TABLE)?;
        let table = raw.iter().map(|entry| entry.get()).collect();
        Ok(Self { source, header, table, shared: OnceLock::new() })
    }

    /// Returns the size of the disk in bytes.
    pub(super) fn size(&self) -> u64 {
        self.header.size
    }

    /// Returns the host offset of the cluster of a table entry; `None` if none is allocated.
    pub(super) fn host_of(&self, entry: u32) -> Option<u64> {
        // Less than 2³² clusters of less than 2³¹ bytes.
        (entry != 0).then(|| u64::from(entry) * self.header.entry_unit())
    }

    /// Returns the end of the run that starts at `range.start`, and its host offset; `None` if it is
    /// not allocated. Offsets are relative to the start of the image's disk.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the cluster overlaps another or metadata, or if it
    /// is not in the file.
    pub(super) fn run(&self, range: &Range<u64>) -> Result<(u64, Option<u64>)> {
        let cluster = self.header.cluster_bytes;
        let index = range.start / cluster;
        let Some(start) = self.host_of(self.table[to_usize(index)]) else {
            return Ok((self.next_allocated_hint(range.clone()), None));
        };
        self.require_valid(index, start)?;
        let end = ((index + 1) * cluster).min(range.end);
        Ok((end, Some(start + range.start % cluster)))
    }

    /// As [`Layer::next_allocated_hint`](crate::Layer::next_allocated_hint).
    pub(super) fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        next_allocated_in_table(&self.table, self.header.cluster_bytes, range, |&entry| entry == 0)
    }

    /// Returns the guest bytes of a cluster, relative to the start of the image's disk.
    pub(super) fn guest(&self, index: u64) -> Range<u64> {
        let start = index * self.header.cluster_bytes;
        start..(start + self.header.cluster_bytes).min(self.header.size)
    }

    /// Requires that the cluster at host offset `start` belongs to one entry, and that the file has
    /// its guest bytes.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(super) fn require_valid(&self, index: u64, start: u64) -> Result<()> {
        if self.shared().contains(start) {
            return Err(self.shared().error(TABLE, "cluster"));
        }
        if let Some(message) = self.misplaced(index, start) {
            return Err(Error::corrupt(TABLE, message).at(HEADER_BYTES + index * 4));
        }
        let guest = self.guest(index);
        let end = start + (guest.end - guest.start);
        if end > self.source.len() {
            let message =
                format!("cluster {index} extends to {end:#x}, beyond the end of the file");
            return Err(Error::corrupt(TABLE, message)
                .at(HEADER_BYTES + index * 4)
                .hint("the file is probably truncated"));
        }
        Ok(())
    }

    /// Returns the clusters that overlap others.
    pub(super) fn shared(&self) -> &SharedTables {
        self.shared.get_or_init(|| {
            let starts = self.table.iter().map(|&entry| self.host_of(entry));
            SharedTables::find(starts, self.header.cluster_bytes)
        })
    }

    /// Describes which metadata the cluster at host offset `start` overlaps.
    fn misplaced(&self, index: u64, start: u64) -> Option<String> {
        (start < self.header.table_end())
            .then(|| format!("cluster {index} at {start:#x} overlaps the header or the table"))
    }

    /// Returns true if the cluster at host offset `start` overlaps the format extension. QEMU stores
    /// data there if it writes to an image with an extension: the data is right, the extension lost.
    pub(super) fn overlaps_extension(&self, start: u64) -> bool {
        let cluster = self.header.cluster_bytes;
        self.header.extension_at.is_some_and(|extension| {
            start < extension.saturating_add(cluster) && extension < start.saturating_add(cluster)
        })
    }

    /// Returns true if the cluster at host offset `start` is not a whole number of clusters from the
    /// start of the data area. Programs that count clusters there may take another for it.
    pub(super) fn is_misaligned(&self, start: u64) -> bool {
        let data_at = self.header.data_at(self.source.len());
        start < data_at || !(start - data_at).is_multiple_of(self.header.cluster_bytes)
    }

    /// Returns the host offset from which clusters that are allocated are counted: the start of the
    /// data area, which must be a multiple of a cluster if entries of the table count clusters.
    pub(super) fn data_base(&self) -> u64 {
        let data_at = self.header.data_at(self.source.len());
        data_at.next_multiple_of(self.header.entry_unit())
    }

    /// Returns the end of the last cluster in the file, or the start of the data area if there are
    /// none.
    pub(super) fn data_end(&self) -> u64 {
        let starts = self.table.iter().filter_map(|&entry| self.host_of(entry));
        let end = starts.max().map_or(0, |start| start + self.header.cluster_bytes);
        end.max(self.header.data_at(self.source.len()))
    }

    /// Returns warnings about contradictions in the header.
    pub(super) fn warnings(&self) -> Vec<String> {
        let header = &self.header;
        let mut warnings = Vec::new();
        if header.flags & super::header::FLAG_EMPTY != 0 && self.table.iter().any(|&e| e != 0) {
            let message = "the header says that the image is empty, but clusters are allocated: \
                           they are read, as by other programs";
            warnings.push(message.to_owned());
        }
        if let Some(problem) = header.data_off_problem(self.source.len()) {
            warnings.push(format!("the start of the data area is wrong: {problem}"));
        }
        warnings
    }

    /// Returns the largest power of two that divides the cluster size, which need not be one itself.
    pub(super) fn unit(&self) -> u64 {
        debug_assert!(self.header.cluster_bytes.is_multiple_of(SECTOR));
        1 << self.header.cluster_bytes.trailing_zeros()
    }

    /// Returns the number of entries as a count of clusters of the disk.
    pub(super) fn count(&self) -> u64 {
        to_u64(self.table.len())
    }
}
