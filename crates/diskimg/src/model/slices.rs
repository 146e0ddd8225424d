//! The guest's bytes where they are, borrowed instead of copied.
//!
//! ```text
//!   guest     cluster 0     │ cluster 1    │ cluster 2       │ cluster 3
//!   slices    Bytes(&[u8])  │ Zeros(65536) │ Fetch(extent)   │ Bytes(&[u8])
//!                 ▼                           compressed          ▼
//!   in memory  …██████……………………………………………░░░………………………………██████…
//! ```
//!
//! Only bytes that are stored verbatim, in a source that is in memory
//! ([`Source::as_slice`](crate::Source::as_slice)), can be lent: of a mapped
//! image ([`OpenOptions::memory_map`](crate::OpenOptions::memory_map)) or one in
//! a buffer.

use crate::error::{Error, Result};
use crate::model::extent::{ChainExtent, HostOffset, Kind};
use crate::model::image::{Image, WINDOW};
use crate::storage::source::{Source, borrow};
use crate::storage::zeros::ZEROS;
use std::ops::Range;

/// The longest stored run that is to be fetched in one go, where no unit sets
/// another measure: the largest cluster of qcow2.
const FETCHED_RUN: u64 = 2 << 20;

/// A run of guest bytes, as far as memory has it.
///
/// The three are all there are: what a new format or source cannot lend is a
/// [`Fetch`](Self::Fetch).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slice<'a> {
    /// These bytes, where they are stored; never empty.
    Bytes(&'a [u8]),
    /// So many zeros, at least one, known without looking: nothing holds them.
    Zeros(u64),
    /// Not to be had without work (compressed, or in a file that is not in
    /// memory): [`Fetcher::fetch`](crate::Fetcher::fetch) brings them, or
    /// [`Image::read_at`]. At most one encoded unit or 2 MiB.
    Fetch(ChainExtent),
}

impl Slice<'_> {
    /// Guest bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Zeros(len) => *len,
            Self::Fetch(extent) => extent.len(),
        }
    }

    /// Never true: slices are not empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The slices of a range of guest bytes, in order; they cover it exactly.
///
/// Made by [`Image::slices`]. Asks the image's tables as it goes along, 128 MiB
/// of guest bytes at a time. After an error it is at its end.
#[derive(Debug)]
pub struct Slices<'a> {
    image: &'a Image,
    /// What the tables were not asked about yet.
    ahead: Range<u64>,
    /// What they said.
    known: std::vec::IntoIter<ChainExtent>,
    /// The rest of what was given in part.
    rest: Option<ChainExtent>,
}

impl Image {
    /// The bytes of a range of the guest's disk, borrowed as far as they are in
    /// memory as they are. Nothing is copied, and nothing allocated for bytes.
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
    /// # let image = Image::open("../../testdata/ext4-sparse.vmdk")?;
    /// # assert!(count_ones(&image)? > 0);
    /// # Ok::<(), diskimg::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if the range leaves the disk. The
    /// iterator's: as [`extents`](Self::extents), and
    /// [`Corrupt`](crate::ErrorKind::Corrupt) for bytes that should be behind
    /// the end of their file.
    pub fn slices(&self, range: Range<u64>) -> Result<Slices<'_>> {
        self.require_inside(&range)?;
        Ok(Slices { image: self, ahead: range, known: Vec::new().into_iter(), rest: None })
    }

    /// The longest run of guest bytes from `offset` on that can be borrowed as
    /// one, of at most `most` bytes; `None` if the byte there has to be fetched
    /// ([`read_at`](Self::read_at)). Empty only at the end of the disk, or for
    /// no bytes at all.
    ///
    /// A cluster is one run as a rule; holes of its file, subclusters, or the smaller
    /// clusters of a backing file may divide it. Zeros are lent, too, at most 64 KiB at
    /// a time.
    ///
    /// # Errors
    /// As [`slices`](Self::slices), and its iterator's.
    pub fn slice_at(&self, offset: u64, most: usize) -> Result<Option<&[u8]>> {
        let end = offset.saturating_add(most as u64).min(self.size());
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
    /// The next extent, if there is one.
    fn extent(&mut self) -> Result<Option<ChainExtent>> {
        loop {
            if let Some(extent) = self.rest.take().or_else(|| self.known.next()) {
                return Ok(Some(extent));
            }
            if self.ahead.is_empty() {
                return Ok(None);
            }
            // Windows end where units do.
            let ahead = self.ahead.clone();
            let usual = (ahead.start / WINDOW + 1).saturating_mul(WINDOW).min(ahead.end);
            let far = self.image.next_window(ahead.start, ahead.end, WINDOW);
            let end = if far < ahead.end { usual.max(far / WINDOW * WINDOW) } else { far };
            self.known = self.image.extents_and_holes(self.ahead.start..end)?.into_iter();
            self.ahead.start = end;
        }
    }

    fn slice(&mut self, extent: ChainExtent) -> Result<Slice<'a>> {
        match extent.kind {
            Kind::Zero(_) | Kind::Unallocated => Ok(Slice::Zeros(extent.len())),
            Kind::Encoded(_) => Ok(Slice::Fetch(extent)),
            Kind::Data(place) => {
                let file = self.image.file(extent.depth, place.file);
                let stored = stored(file, place, extent.len())
                    .map_err(|e| self.image.in_layer(e, extent.depth))?;
                Ok(stored.map_or_else(|| Slice::Fetch(self.cut(extent)), Slice::Bytes))
            }
        }
    }

    /// As much of a run as one buffer should hold; the rest is for later.
    fn cut(&mut self, extent: ChainExtent) -> ChainExtent {
        let Range { start, end } = extent.guest;
        let middle = start.saturating_add(FETCHED_RUN);
        if middle >= end {
            return extent;
        }
        self.rest = Some(extent.clip(&(middle..end)));
        extent.clip(&(start..middle))
    }
}

/// Stored bytes, borrowed; `None` if their file is not in memory.
fn stored(file: &dyn Source, place: HostOffset, len: u64) -> Result<Option<&[u8]>> {
    // Longer than the address space is longer than any file in it.
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    borrow(file, place.offset, len)
        .map_err(|e| Error::io("cannot read guest data", e).at(place.offset))
}

impl<'a> Iterator for Slices<'a> {
    type Item = Result<Slice<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let extent = self.extent().transpose()?;
        let slice = extent.and_then(|extent| self.slice(extent));
        if slice.is_err() {
            self.ahead.start = self.ahead.end;
            self.known = Vec::new().into_iter();
            self.rest = None;
        }
        Some(slice)
    }
}

impl std::iter::FusedIterator for Slices<'_> {}
