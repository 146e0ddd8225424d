//! Disks as `compare` and verification see them: guest bytes, whatever they are stored in.

use crate::error::Result;
use crate::model::budget::Budgets;
use crate::model::extent::Kind;
use crate::model::fetch::Fetcher;
use crate::model::image::Image;
use std::ops::Range;

/// A disk that several workers read.
pub(super) trait Disk: Sync {
    /// Returns the size in bytes.
    fn size(&self) -> u64;

    /// Returns the budgets for a pass over the disk.
    fn budgets(&self) -> Budgets;

    /// Returns runs that cover `range` exactly, in order, none of them empty.
    ///
    /// Charges them to `budgets`, those of a pass over the disk.
    ///
    /// # Errors
    /// As [`Layer::map`](crate::Layer::map), and [`Limit`](crate::ErrorKind::Limit) if a budget is
    /// exceeded.
    fn runs(&self, range: Range<u64>, budgets: &mut Budgets) -> Result<Vec<Run>>;

    /// As [`Image::next_window`].
    fn next_window(&self, start: u64, end: u64, step: u64) -> u64;

    /// Fills `buf` with the disk's bytes from offset `at`.
    ///
    /// # Errors
    /// As [`runs`](Self::runs) and [`Fetcher::fetch`].
    fn read(&self, fetchers: &mut Fetchers, buf: &mut [u8], at: u64) -> Result<()>;
}

/// A range of a disk with the same properties throughout.
#[derive(Debug)]
pub(super) struct Run {
    /// Offsets in the disk; never empty.
    pub(super) at: Range<u64>,
    /// Known to read as zeros.
    pub(super) zero: bool,
    /// Allocated in some layer, as data or as zeros.
    pub(super) allocated: bool,
}

impl Run {
    /// Returns the run for an extent of this kind.
    pub(super) fn new(at: Range<u64>, kind: &Kind) -> Self {
        Self { at, zero: kind.is_zero(), allocated: *kind != Kind::Unallocated }
    }
}

/// One fetcher for each image that a disk consists of.
#[derive(Debug, Default)]
pub(super) struct Fetchers(Vec<Fetcher>);

impl Fetchers {
    /// Returns the fetcher of an image, creating it if necessary.
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

    fn budgets(&self) -> Budgets {
        Budgets::new([self])
    }

    fn runs(&self, range: Range<u64>, budgets: &mut Budgets) -> Result<Vec<Run>> {
        let extents = self.extents_and_holes(range)?;
        budgets.spend(0, self, &extents)?;
        Ok(extents.into_iter().map(|e| Run::new(e.guest.clone(), &e.kind)).collect())
    }

    fn next_window(&self, start: u64, end: u64, step: u64) -> u64 {
        Self::next_window(self, start, end, step)
    }

    fn read(&self, fetchers: &mut Fetchers, buf: &mut [u8], at: u64) -> Result<()> {
        let fetcher = fetchers.of(0);
        for extent in self.extents_in(at..at + buf.len() as u64)? {
            let from = (extent.guest.start - at) as usize;
            fetcher.fetch(self, &extent, &mut buf[from..from + extent.len() as usize])?;
        }
        Ok(())
    }
}

/// A range of a disk as a separate disk.
pub(super) struct DiskRange<'a> {
    disk: &'a dyn Disk,
    range: Range<u64>,
}

impl<'a> DiskRange<'a> {
    /// Creates a disk of `range`, which must be within `disk`.
    pub(super) fn new(disk: &'a dyn Disk, range: Range<u64>) -> Self {
        debug_assert!(range.start <= range.end && range.end <= disk.size());
        Self { disk, range }
    }
}

impl Disk for DiskRange<'_> {
    fn size(&self) -> u64 {
        self.range.end - self.range.start
    }

    fn budgets(&self) -> Budgets {
        self.disk.budgets()
    }

    fn runs(&self, range: Range<u64>, budgets: &mut Budgets) -> Result<Vec<Run>> {
        let from = self.range.start;
        let mut runs = self.disk.runs(range.start + from..range.end + from, budgets)?;
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
