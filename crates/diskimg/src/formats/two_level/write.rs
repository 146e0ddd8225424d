//! Writing a new image.
//!
//! ```text
//!   ┌────────┬──────────┬──────────┬──────────┬───┬──────────┬──────────┬───┐
//!   │ header │ L1 table │ L2 table │ clusters │ … │ L2 table │ clusters │ … │
//!   └────────┴──────────┴──────────┴──────────┴───┴──────────┴──────────┴───┘
//! ```
//!
//! Everything is allocated in guest order and written once. The header is written last, so that an
//! incomplete file is not an image.

use super::{Entry, Location};
use crate::error::{Error, Result};
use crate::model::target::{Allocate, Slot, Target};
use crate::storage::number::{to_u64, to_usize};
use crate::storage::sink::Sink;
use crate::storage::zeros::is_zero;
use std::sync::Arc;

/// Part in bytes of a table that is not written if it is empty.
const PART: usize = 4096;

/// An image being written.
#[derive(Debug)]
pub(crate) struct TableTarget {
    files: [Arc<dyn Sink>; 1],
    location: Location,
    /// The bytes of the header.
    header: Vec<u8>,
    has_backing: bool,
    l1: Vec<u64>,
    /// The L2 table for the guest range placed last: its L1 index and the entries that the disk
    /// needs.
    l2: Option<(u64, Vec<u64>)>,
    /// Host offset of the next free byte.
    end: u64,
}

impl TableTarget {
    /// Starts an image. `header` is what is stored from offset 0 on.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for a pipe, [`Io`](crate::ErrorKind::Io) if
    /// writing fails.
    pub(crate) fn start(
        sink: Arc<dyn Sink>,
        location: Location,
        header: Vec<u8>,
        has_backing: bool,
    ) -> Result<Self> {
        let layout = location.layout;
        if sink.is_sequential() {
            let message = format!(
                "{} cannot be written to a pipe: the tables are written after the data",
                layout.format.name
            );
            return Err(Error::unsupported(message).hint("write to a file, or use raw"));
        }
        let end = location.l1_at + location.l1_bytes;
        let entries = layout.l1_entries(location.size);
        let target = Self {
            files: [sink],
            location,
            header,
            has_backing,
            l1: vec![0; to_usize(entries)],
            l2: None,
            end,
        };
        if !target.sink().is_zeroed() {
            target.zero(0, to_u64(PART).max(target.location.header_end))?;
        }
        Ok(target)
    }

    fn sink(&self) -> &dyn Sink {
        &*self.files[0]
    }

    fn zero(&self, at: u64, len: u64) -> Result<()> {
        let written = self.sink().write_zeros_at(at, len);
        written.map_err(|e| Error::io("cannot write zeros", e).at(at))
    }

    fn write(&self, bytes: &[u8], at: u64, what: &'static str) -> Result<()> {
        let written = self.sink().write_all_at(bytes, at);
        written.map_err(|e| Error::io(format!("cannot write the {what}"), e).at(at))
    }

    /// Writes the words of a table, then zeros up to `len` bytes.
    fn write_table(&self, words: &[u64], at: u64, len: u64, what: &'static str) -> Result<()> {
        let is_zeroed = self.sink().is_zeroed();
        let mut offset = at;
        for words in words.chunks(PART / 8) {
            let bytes = self.location.layout.format.encode(words);
            // Tables of large, sparse disks are mostly zeros, which need not be written.
            if !is_zeroed || !is_zero(&bytes) {
                self.write(&bytes, offset, what)?;
            }
            offset += to_u64(bytes.len());
        }
        let end = at + len;
        if !is_zeroed && offset < end { self.zero(offset, end - offset) } else { Ok(()) }
    }

    /// Makes the L2 table `l1_index` the one in memory. Writes the previous one.
    fn select_table(&mut self, l1_index: u64) -> Result<()> {
        if self.l2.as_ref().is_some_and(|(index, _)| *index == l1_index) {
            return Ok(());
        }
        self.write_l2()?;
        let layout = self.location.layout;
        let at = layout.align(self.end);
        self.end = at + layout.table_bytes();
        self.l1[to_usize(l1_index)] = at;
        let entries = layout.used_entries(l1_index, self.location.size);
        self.l2 = Some((l1_index, vec![0; to_usize(entries)]));
        Ok(())
    }

    fn write_l2(&mut self) -> Result<()> {
        let Some((l1_index, words)) = self.l2.take() else { return Ok(()) };
        let (at, layout) = (self.l1[to_usize(l1_index)], self.location.layout);
        self.write_table(&words, at, layout.table_bytes(), layout.format.l2)
    }

    /// Returns the L1 index, and the index in the L2 table, of a guest offset.
    fn position(&self, at: u64) -> (u64, usize) {
        let layout = self.location.layout;
        let index = (at >> layout.cluster_bits) & (layout.entries() - 1);
        (at >> layout.l1_shift(), to_usize(index))
    }

    /// Returns the entries from that of guest offset `at` on, of its L2 table.
    fn entries_at(&mut self, at: u64) -> Result<&mut [u64]> {
        let (l1_index, index) = self.position(at);
        self.select_table(l1_index)?;
        match &mut self.l2 {
            Some((_, words)) if index < words.len() => Ok(&mut words[index..]),
            _ => Err(Error::invalid("the range is beyond the end of the disk")),
        }
    }

    /// Allocates space for the start of a range. Returns its host offset and length.
    fn allocate(&mut self, at: u64, len: u64) -> Result<(u64, u64)> {
        let layout = self.location.layout;
        let (size, within) = (layout.cluster_size(), at % layout.cluster_size());
        if let Entry::Data(offset) = layout.decode(self.entries_at(at)?[0]) {
            // The rest of a cluster, whose start was placed before.
            return Ok((offset + within, len.min(size - within)));
        }
        let available = to_u64(self.entries_at(at)?.len());
        let clusters = (within + len).div_ceil(size).min(available);
        let offset = layout.align(self.end);
        self.end = offset + clusters * size;
        let entries = self.entries_at(at)?;
        for (entry, number) in entries.iter_mut().zip(0..clusters) {
            *entry = offset + number * size;
        }
        let len = len.min(clusters * size - within);
        if !self.sink().is_zeroed() {
            let (start, end) = (offset + within, offset + within + len);
            self.zero(offset, start - offset)?;
            self.zero(end, offset + clusters * size - end)?;
        }
        Ok((offset + within, len))
    }

    /// Makes a range of clusters read as zeros.
    fn place_zeros(&mut self, mut at: u64, len: u64) -> Result<()> {
        // What is not allocated, or was not placed in an allocated cluster, reads as zeros.
        if !self.has_backing {
            return Ok(());
        }
        let (end, layout) = (at + len, self.location.layout);
        while at < end {
            if let Some(zero) = layout.format.zero {
                let entries = self.entries_at(at)?;
                let count = (end - at).div_ceil(layout.cluster_size()).min(to_u64(entries.len()));
                entries[..to_usize(count)].fill(zero);
                at += count * layout.cluster_size();
            } else {
                let (offset, len) = self.allocate(at, end - at)?;
                if !self.sink().is_zeroed() {
                    self.zero(offset, len)?;
                }
                at += len;
            }
        }
        Ok(())
    }

    fn place_compressed(&mut self, at: u64, len: u64) -> Result<Slot> {
        self.entries_at(at)?;
        let offset = self.end;
        let encoded = self.location.layout.encode_compressed(offset, len);
        self.entries_at(at)?[0] = encoded.ok_or_else(|| {
            Error::limit("the host offset is too large for a compressed cluster").at(offset)
        })?;
        self.end += len;
        Ok(Slot { file: 0, offset, len, is_zeroed: false })
    }
}

impl Target for TableTarget {
    fn files(&self) -> &[Arc<dyn Sink>] {
        &self.files
    }

    fn place(&mut self, at: u64, unit: Allocate) -> Result<Option<Slot>> {
        match unit {
            Allocate::Zero { len } => self.place_zeros(at, len).map(|()| None),
            Allocate::Backed { .. } => Ok(None),
            Allocate::Data { len } => {
                // A cluster whose start was placed before was erased then.
                let is_zeroed = self.sink().is_zeroed();
                let (offset, len) = self.allocate(at, len)?;
                Ok(Some(Slot { file: 0, offset, len, is_zeroed }))
            }
            Allocate::Compressed { len } => self.place_compressed(at, len).map(Some),
        }
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.write_l2()?;
        let Location { layout, l1_at, l1_bytes, .. } = self.location;
        self.write_table(&self.l1, l1_at, l1_bytes, layout.format.l1)?;
        let len = self.end;
        self.sink()
            .set_len(len)
            .map_err(|e| Error::io(format!("cannot set the length to {len}"), e))?;
        self.write(&self.header, 0, layout.format.header)
    }
}
