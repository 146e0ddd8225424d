//! Writing a new image. Clusters are appended in guest order; those that have only zeros are not
//! stored. In a preallocated image, all of them are stored, in guest order.

use super::{ParallelsSpec, len};
use crate::error::{Error, Result};
use crate::formats::parallels::SECTOR;
use crate::formats::parallels::header::{HEADER_BYTES, Header};
use crate::model::flat::{FlatFile, Preallocation};
use crate::model::target::{Allocate, Slot, Target};
use crate::storage::number::{to_u32, to_u64, to_usize};
use crate::storage::sink::Sink;
use std::sync::Arc;

/// Entries of the table that are encoded together.
const ENTRIES_PER_WRITE: usize = 256 << 10;

/// An image being written.
#[derive(Debug)]
pub(super) struct NewImage {
    files: [Arc<dyn Sink>; 1],
    header: Header,
    /// The cluster of each guest cluster, counted from the start of the file.
    table: Vec<u32>,
    /// Number of clusters that are allocated.
    allocated: u64,
    /// The whole file, if it is preallocated.
    preallocated: Option<FlatFile>,
}

impl NewImage {
    /// Starts an image.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for a pipe, [`Io`](crate::ErrorKind::Io) if
    /// writing fails.
    pub(super) fn start(sink: Arc<dyn Sink>, spec: &ParallelsSpec) -> Result<Self> {
        if sink.is_sequential() {
            return Err(Error::unsupported("a Parallels image cannot be written to a pipe")
                .hint("raw and streamOptimized VMDK can"));
        }
        let header = spec.header.clone();
        let mut image = Self {
            table: vec![0; to_usize(u64::from(header.entries))],
            files: [Arc::clone(&sink)],
            header,
            allocated: 0,
            preallocated: None,
        };
        if !sink.is_zeroed() {
            image.zero(0, len(&image.header, 0))?;
        }
        if spec.preallocation != Preallocation::Off {
            let len = len(&image.header, u64::from(image.header.entries));
            image.preallocated = Some(FlatFile::start(sink, len, spec.preallocation)?);
            (0..image.header.entries).for_each(|index| image.allocate(u64::from(index)));
        }
        Ok(image)
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
        written.map_err(|e| Error::io(format!("cannot write {what}"), e).at(at))
    }

    /// Allocates the next cluster of the file for a guest cluster.
    fn allocate(&mut self, index: u64) {
        let first = u64::from(self.header.data_off) * SECTOR / self.header.cluster_bytes;
        // Fewer than 2³² clusters of the disk, and the table takes fewer than those.
        self.table[to_usize(index)] = to_u32(first + self.allocated);
        self.allocated += 1;
    }

    /// Returns the host offset and the length of the space for guest bytes, up to the end of their
    /// cluster.
    fn place_data(&mut self, at: u64, len: u64) -> Result<(u64, u64)> {
        let cluster = self.header.cluster_bytes;
        let (index, within) = (at / cluster, at % cluster);
        if self.table[to_usize(index)] == 0 {
            self.allocate(index);
            if !self.sink().is_zeroed() {
                self.zero(u64::from(self.table[to_usize(index)]) * cluster, cluster)?;
            }
        }
        let start = u64::from(self.table[to_usize(index)]) * cluster;
        Ok((start + within, len.min(cluster - within)))
    }

    /// Writes the table. Only entries that are not zero need to be: the space for it is zeroed.
    fn write_table(&self) -> Result<()> {
        let mut at = HEADER_BYTES;
        for part in self.table.chunks(ENTRIES_PER_WRITE) {
            if part.iter().any(|&entry| entry != 0) {
                let bytes: Vec<u8> = part.iter().flat_map(|entry| entry.to_le_bytes()).collect();
                self.write(&bytes, at, "the block allocation table")?;
            }
            at += to_u64(part.len()) * 4;
        }
        Ok(())
    }
}

impl Target for NewImage {
    fn files(&self) -> &[Arc<dyn Sink>] {
        &self.files
    }

    fn place(&mut self, at: u64, unit: Allocate) -> Result<Option<Slot>> {
        match unit {
            Allocate::Zero { len } | Allocate::Backed { len } => {
                if let Some(file) = &self.preallocated {
                    file.write_zeros(u64::from(self.header.data_off) * SECTOR + at, len)?;
                }
                Ok(None)
            }
            Allocate::Data { len } => {
                let (offset, len) = self.place_data(at, len)?;
                Ok(Some(Slot { file: 0, offset, len, is_zeroed: self.preallocated.is_none() }))
            }
            Allocate::Compressed { .. } => {
                Err(Error::invalid("a Parallels image cannot store compressed units"))
            }
        }
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let len = len(&self.header, self.allocated);
        self.sink()
            .set_len(len)
            .map_err(|e| Error::io(format!("cannot set the length to {len}"), e))?;
        self.write_table()?;
        // The header comes last, so that an unfinished image has none.
        self.write(&self.header.encode(), 0, "the header")
    }
}
