//! Zero-copy access to the guest's bytes.
//!
//! ```text
//!   guest     cluster 0     │ cluster 1    │ cluster 2       │ cluster 3
//!   slices    Bytes(&[u8])  │ Zeros(65536) │ Fetch(extent)   │ Bytes(&[u8])
//!                 ▼                           compressed          ▼
//!   in memory  …██████……………………………………………░░░………………………………██████…
//! ```
//!
//! Bytes can only be borrowed if they are stored verbatim in a source that is in memory
//! ([`Source::as_slice`](crate::Source::as_slice)): a memory-mapped image
//! ([`OpenOptions::memory_map`](crate::OpenOptions::memory_map)) or an image in a buffer.

use crate::error::{Error, Result};
use crate::model::budget::Budget;
use crate::model::extent::{ChainExtent, HostOffset, Kind};
use crate::model::image::{Image, WINDOW};
use crate::storage::source::{Source, borrow};
use crate::storage::zeros::ZEROS;
use std::ops::Range;

/// Maximum length in bytes of a [`Slice::Fetch`] of uncompressed data: the largest cluster size of
/// qcow2.
const MAX_FETCH: u64 = 2 << 20;

/// A run of guest bytes, borrowed if it is in memory.
///
/// No variants will be added: whatever cannot be borrowed is a [`Fetch`](Self::Fetch).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slice<'a> {
    /// Stored bytes, borrowed; never empty.
    Bytes(&'a [u8]),
    /// A run of zeros of this length in bytes, at least 1. No memory contains them.
    Zeros(u64),
    /// Bytes that are compressed or not in memory. [`Fetcher::fetch`](crate::Fetcher::fetch) or
    /// [`Image::read_at`] reads them. At most one compressed unit or 2 MiB.
    Fetch(ChainExtent),
}

impl Slice<'_> {
    /// Returns the length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Zeros(len) => *len,
            Self::Fetch(extent) => extent.len(),
        }
    }

    /// Returns false: slices are never empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Iterator over the slices of a range of guest bytes. In ascending order, they cover the range
/// exactly.
///
/// Created by [`Image::slices`]. Maps the range lazily, 128 MiB of guest bytes at a time. Ends
/// after the first error.
#[derive(Debug)]
pub struct Slices<'a> {
    image: &'a Image,
    /// Guest range that is not mapped yet.
    unmapped: Range<u64>,
    budget: Budget,
    /// Extents of the current window.
    extents: std::vec::IntoIter<ChainExtent>,
    /// Rest of an extent that was split.
    rest: Option<ChainExtent>,
}

impl Image {
    /// Returns an iterator over the bytes of a range of the guest's disk, borrowed where they are
    /// stored verbatim in memory. Copies no bytes and allocates no buffers.
    ///
    /// ```
    /// use diskimg::{Fetcher, Image, Slice};
    ///
    /// fn count_ones(image: &Image) -> Result<u64, diskimg::Error> {
    ///     let (mut fetcher, mut buffer) = (Fetcher::default(), Vec::new());
    ///     let ones = |bytes: &[u8]| bytes.iter().map(|b| u64::from(b.count_ones())).sum::<u64>();
    ///     let mut sum = 0;
    ///     for slice in image.slices(0..image.size())? {
    ///         sum += match slice? {
    ///             Slice::Bytes(bytes) => ones(bytes),
    ///             Slice::Zeros(_) => 0,
    ///             Slice::Fetch(extent) => {
    ///                 buffer.resize(extent.len() as usize, 0);
    ///                 fetcher.fetch(image, &extent, &mut buffer)?;
    ///                 ones(&buffer)
    ///             }
    ///         };
    ///     }
    ///     Ok(sum)
    /// }
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("disk.img");
    /// # std::fs::write(&path, [3; 512]).unwrap();
    /// # assert_eq!(count_ones(&Image::open(&path)?)?, 1024);
    /// # Ok::<(), diskimg::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if the range exceeds the disk. The iterator
    /// returns the errors of [`extents`](Self::extents), and
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if an extent is beyond the end of its file.
    pub fn slices(&self, range: Range<u64>) -> Result<Slices<'_>> {
        self.require_inside(&range)?;
        Ok(Slices {
            image: self,
            unmapped: range,
            budget: Budget::new(self),
            extents: Vec::new().into_iter(),
            rest: None,
        })
    }

    /// Returns the longest contiguous run of at most `max` guest bytes at `offset` that can be
    /// borrowed, or `None` if the first byte cannot be borrowed and must be read with
    /// [`read_at`](Self::read_at). The run is empty only if `offset` is the end of the disk or
    /// `max` is 0.
    ///
    /// Usually a cluster is one run, but holes of its file, subclusters, or smaller clusters of a
    /// backing file may split it. Zeros are borrowed too, at most 64 KiB at a time.
    ///
    /// # Errors
    /// Returns the errors of [`slices`](Self::slices) and of its iterator.
    pub fn slice_at(&self, offset: u64, max: usize) -> Result<Option<&[u8]>> {
        let end = offset.saturating_add(max as u64).min(self.size());
        let first = self.slices(offset..end.max(offset))?.next().transpose()?;
        Ok(match first {
            None => Some(&[]),
            Some(Slice::Bytes(bytes)) => Some(bytes),
            Some(Slice::Zeros(len)) => Some(&ZEROS[..len.min(ZEROS.len() as u64) as usize]),
            Some(Slice::Fetch(_)) => None,
        })
    }
}

impl<'a> Slices<'a> {
    /// Returns the next extent.
    fn next_extent(&mut self) -> Result<Option<ChainExtent>> {
        loop {
            if let Some(extent) = self.rest.take().or_else(|| self.extents.next()) {
                return Ok(Some(extent));
            }
            if self.unmapped.is_empty() {
                return Ok(None);
            }
            // Windows end at multiples of WINDOW, so that they split no compressed unit.
            let Range { start, end } = self.unmapped;
            let aligned_end = (start / WINDOW + 1).saturating_mul(WINDOW).min(end);
            let hint = self.image.next_window(start, end, WINDOW);
            let end = if hint < end { aligned_end.max(hint / WINDOW * WINDOW) } else { hint };
            let extents = self.image.extents_and_holes(start..end)?;
            self.budget.spend(self.image, &extents)?;
            self.extents = extents.into_iter();
            self.unmapped.start = end;
        }
    }

    fn slice(&mut self, extent: ChainExtent) -> Result<Slice<'a>> {
        match extent.kind {
            Kind::Zero(_) | Kind::Unallocated => Ok(Slice::Zeros(extent.len())),
            Kind::Encoded(_) => Ok(Slice::Fetch(extent)),
            Kind::Data(host) => {
                let file = self.image.file(extent.depth, host.file);
                let stored = stored(file, host, extent.len())
                    .map_err(|e| self.image.in_layer(e, extent.depth))?;
                Ok(stored.map_or_else(|| Slice::Fetch(self.split_for_fetch(extent)), Slice::Bytes))
            }
        }
    }

    /// Returns at most the first [`MAX_FETCH`] bytes of an extent and saves the rest.
    fn split_for_fetch(&mut self, extent: ChainExtent) -> ChainExtent {
        let Range { start, end } = extent.guest;
        let middle = start.saturating_add(MAX_FETCH);
        if middle >= end {
            return extent;
        }
        self.rest = Some(extent.clip(&(middle..end)));
        extent.clip(&(start..middle))
    }
}

/// Borrows stored bytes. Returns `None` if their file is not in memory.
fn stored(file: &dyn Source, host: HostOffset, len: u64) -> Result<Option<&[u8]>> {
    // A length that exceeds the address space also exceeds any file in memory.
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    borrow(file, host.offset, len)
        .map_err(|e| Error::io("cannot read guest data", e).at(host.offset))
}

impl<'a> Iterator for Slices<'a> {
    type Item = Result<Slice<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let extent = self.next_extent().transpose()?;
        let slice = extent.and_then(|extent| self.slice(extent));
        if slice.is_err() {
            self.unmapped.start = self.unmapped.end;
            self.extents = Vec::new().into_iter();
            self.rest = None;
        }
        Some(slice)
    }
}

impl std::iter::FusedIterator for Slices<'_> {}
