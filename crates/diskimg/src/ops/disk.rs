//! What two verbs compare: guest bytes, wherever they come from.

use crate::error::Result;
use crate::model::extent::Kind;
use crate::model::fetch::Fetcher;
use crate::model::image::Image;
use std::ops::Range;

/// A disk that is read by many workers.
pub(super) trait Disk: Sync {
    /// Guest bytes.
    fn size(&self) -> u64;

    /// What `range` of the disk consists of: covers it exactly, in order, none empty.
    ///
    /// # Errors
    /// As [`Layer::map`](crate::Layer::map).
    fn runs(&self, range: Range<u64>) -> Result<Vec<Run>>;

    /// As [`Image::next_window`].
    fn next_window(&self, start: u64, end: u64, step: u64) -> u64;

    /// Fills `buf` with the disk's bytes from `at` on.
    ///
    /// # Errors
    /// As [`runs`](Self::runs) and [`Fetcher::fetch`].
    fn read(&self, fetchers: &mut Fetchers, buf: &mut [u8], at: u64) -> Result<()>;
}

/// A part of a disk that is all one thing.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) at: Range<u64>,
    /// It is known to read as zeros.
    pub(super) zero: bool,
    /// Some layer holds it.
    pub(super) held: bool,
}

impl Run {
    /// What an extent's kind says of a range.
    pub(super) fn new(at: Range<u64>, kind: &Kind) -> Self {
        Self { at, zero: kind.is_zero(), held: *kind != Kind::Unallocated }
    }
}

/// One reader for each image that a disk consists of.
#[derive(Debug, Default)]
pub(super) struct Fetchers(Vec<Fetcher>);

impl Fetchers {
    pub(super) fn of(&mut self, image: usize) -> &mut Fetcher {
        if self.0.len() <= image {
            self.0.resize_with(image + 1, Fetcher::default);
        }
        &mut self.0[image]
    }
}

impl Disk for Image {
    fn size(&self) -> u64 {
        Self::size(self)
    }

    fn runs(&self, range: Range<u64>) -> Result<Vec<Run>> {
        let extents = self.extents_and_holes(range)?;
        Ok(extents.into_iter().map(|e| Run::new(e.guest.clone(), &e.kind)).collect())
    }

    fn next_window(&self, start: u64, end: u64, step: u64) -> u64 {
        Self::next_window(self, start, end, step)
    }

    fn read(&self, fetchers: &mut Fetchers, buf: &mut [u8], at: u64) -> Result<()> {
        let fetcher = fetchers.of(0);
        for extent in self.extents(at..at + buf.len() as u64)? {
            let from = (extent.guest.start - at) as usize;
            fetcher.fetch(self, &extent, &mut buf[from..from + extent.len() as usize])?;
        }
        Ok(())
    }
}

/// A part of a disk as a disk of its own.
pub(super) struct DiskRange<'a> {
    disk: &'a dyn Disk,
    range: Range<u64>,
}

impl<'a> DiskRange<'a> {
    /// `range` lies inside `disk`.
    pub(super) fn new(disk: &'a dyn Disk, range: Range<u64>) -> Self {
        debug_assert!(range.start <= range.end && range.end <= disk.size());
        Self { disk, range }
    }
}

impl Disk for DiskRange<'_> {
    fn size(&self) -> u64 {
        self.range.end - self.range.start
    }

    fn runs(&self, range: Range<u64>) -> Result<Vec<Run>> {
        let from = self.range.start;
        let mut runs = self.disk.runs(range.start + from..range.end + from)?;
        for Run { at, .. } in &mut runs {
            *at = at.start - from..at.end - from;
        }
        Ok(runs)
    }

    fn next_window(&self, start: u64, end: u64, step: u64) -> u64 {
        let from = self.range.start;
        self.disk.next_window(start + from, end + from, step) - from
    }

    fn read(&self, fetchers: &mut Fetchers, buf: &mut [u8], at: u64) -> Result<()> {
        self.disk.read(fetchers, buf, at + self.range.start)
    }
}
