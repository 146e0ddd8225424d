//! The bands of a disk, and the slots of the file that hold them.
//!
//! ```text
//!   guest offset ──► band ──► slot, by a binary search ──► host offset
//! ```
//!
//! The table of the file has slots in the order of the file; the list here is in the order of the
//! disk. Its length depends on the slots in use, not on the size of the disk.

use super::header::{HEADER, Header, INDEX_NODE, NODE_BYTES, Slots};
use crate::error::{Error, Result};
use crate::model::extent::{Extent, HostOffset, Kind, push};
use crate::open::limits::Limits;
use crate::storage::number::to_u64;
use crate::storage::source::Source;
use std::ops::Range;

/// How messages call the table of slots.
pub(super) const SLOTS: &str = "sparse image slots";

/// A band of the disk that a slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Band {
    /// Number of the band, counted from 0.
    pub(super) index: u64,
    /// Host offset of its bytes.
    pub(super) host: u64,
}

/// The bands of a disk.
#[derive(Debug)]
pub(super) struct Bands {
    /// Size of the disk in bytes.
    size: u64,
    pub(super) band_bytes: u64,
    /// Bands that a slot holds, in ascending order.
    list: Vec<Band>,
    /// Length of the file in bytes.
    file_len: u64,
}

impl Bands {
    /// Reads the slots of the index nodes, which follow `slots` of the header.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if an index node is not where the bands before it
    /// end, [`Limit`](crate::ErrorKind::Limit) if there are too many bands,
    /// [`Io`](crate::ErrorKind::Io).
    pub(super) fn open(
        source: &dyn Source,
        header: &Header,
        mut slots: Slots,
        limits: &Limits,
    ) -> Result<Self> {
        let band_bytes = header.band_bytes;
        let mut list = Vec::new();
        let mut node = 0;
        loop {
            let first = node + NODE_BYTES;
            let used = (0..).zip(&slots.bands).filter(|(_, band)| **band != 0);
            list.extend(used.map(|(slot, &band): (u64, _)| Band {
                index: u64::from(band) - 1,
                host: first + slot * band_bytes,
            }));
            let bytes = to_u64(size_of_val(&*list));
            if bytes > limits.table_bytes {
                let found =
                    format!("the list of at least {} bands takes {bytes} bytes", list.len());
                return Err(
                    Error::over_limit("table_bytes", found, limits.table_bytes).in_structure(SLOTS)
                );
            }
            if slots.next_node == 0 {
                break;
            }
            let structure = if node == 0 { HEADER } else { INDEX_NODE };
            let at = if node == 0 { 20 } else { node + 12 };
            let end = first + to_u64(slots.bands.len()) * band_bytes;
            if slots.next_node != end {
                let message = format!(
                    "the next index node is at {:#x}, but the bands before it end at {end:#x}",
                    slots.next_node
                );
                return Err(Error::corrupt(structure, message).at(at));
            }
            node = end;
            slots = Slots::read_index_node(source, node)?;
        }
        list.sort_unstable();
        Ok(Self { size: header.size, band_bytes, list, file_len: source.len() })
    }

    /// Returns the bands that a slot holds, in ascending order. Those beyond the end of the disk
    /// are the last.
    pub(super) fn stored(&self) -> &[Band] {
        &self.list
    }

    /// Returns the range of guest offsets of a band of the disk.
    pub(super) fn guest(&self, index: u64) -> Range<u64> {
        let start = index.saturating_mul(self.band_bytes).min(self.size);
        start..start.saturating_add(self.band_bytes).min(self.size)
    }

    /// Returns the number of the first band in the list that is not before band `index`.
    fn first_from(&self, index: u64) -> usize {
        self.list.partition_point(|band| band.index < index)
    }

    /// Requires that the bytes of band number `at` of the list can be read.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if another slot holds the same band, or if the file
    /// ends before the last guest byte in it.
    pub(super) fn require_valid(&self, at: usize) -> Result<()> {
        let band = self.list[at];
        let others = [at.checked_sub(1), Some(at + 1)].into_iter().flatten();
        let mut others = others.filter_map(|other| self.list.get(other));
        if let Some(other) = others.find(|other| other.index == band.index) {
            let (first, second) = (band.host.min(other.host), band.host.max(other.host));
            let message = format!(
                "the slots at {first:#x} and {second:#x} hold the same band {}",
                band.index
            );
            return Err(Error::corrupt(SLOTS, message));
        }
        let guest = self.guest(band.index);
        let end = band.host.saturating_add(guest.end - guest.start);
        if end <= self.file_len {
            return Ok(());
        }
        let message = format!(
            "band {} extends to {end:#x}, beyond the end of the file at {:#x}",
            band.index, self.file_len
        );
        Err(Error::corrupt(SLOTS, message).at(band.host).hint("the file is probably truncated"))
    }

    /// Appends the extents that cover `range`.
    ///
    /// # Errors
    /// As [`Layer::map`](crate::Layer::map).
    pub(super) fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        let mut at = range.start;
        let first = self.first_from(range.start / self.band_bytes);
        for (number, band) in self.list.iter().enumerate().skip(first) {
            let guest = self.guest(band.index);
            if guest.start >= range.end || guest.is_empty() {
                break;
            }
            self.require_valid(number).map_err(|error| error.losing(guest.clone()))?;
            let (start, end) = (guest.start.max(range.start), guest.end.min(range.end));
            push(out, at..start.max(at), Kind::Unallocated);
            let host = HostOffset { file: 0, offset: band.host + (start - guest.start) };
            push(out, start..end, Kind::Data(host));
            at = end;
        }
        push(out, at..range.end, Kind::Unallocated);
        Ok(())
    }

    /// As [`Layer::next_allocated_hint`](crate::Layer::next_allocated_hint).
    pub(super) fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        let next = self.list.get(self.first_from(range.start / self.band_bytes));
        next.map_or(range.end, |band| self.guest(band.index).start).clamp(range.start, range.end)
    }
}
