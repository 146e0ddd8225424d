//! The extents of a disk as an iterator.

use crate::error::Result;
use crate::model::budget::Budget;
use crate::model::extent::ChainExtent;
use crate::model::image::{Image, WINDOW};
use std::iter::{FusedIterator, Peekable};
use std::ops::Range;

/// Iterator over the extents of a range of the guest's disk. Returned by [`Image::extents`].
#[derive(Debug)]
pub struct Extents<'a> {
    mapped: Peekable<Mapped<'a>>,
}

/// Iterator over the same extents, split where windows end.
#[derive(Debug)]
struct Mapped<'a> {
    image: &'a Image,
    /// Guest range that is not mapped yet.
    unmapped: Range<u64>,
    /// Number of bytes to map at a time.
    step: u64,
    budget: Budget,
    /// Extents of the current window.
    window: std::vec::IntoIter<ChainExtent>,
}

impl Image {
    /// Returns an iterator over the extents of the whole chain that cover `range` exactly. They are
    /// in ascending order, not empty, and merged where one continues the other.
    ///
    /// The iterator reads the images' tables as it advances, and needs a bounded amount of memory.
    /// Unallocated ranges take little time, however long they are.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("disk.img");
    /// # std::fs::write(&path, [3; 512]).unwrap();
    /// let image = diskimg::Image::open(&path)?;
    /// let mut stored = 0;
    /// for extent in image.extents(0..image.size())? {
    ///     let extent = extent?;
    ///     if !extent.kind.is_zero() {
    ///         stored += extent.len();
    ///     }
    /// }
    /// assert_eq!(stored, 512);
    /// # Ok::<(), diskimg::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if the range exceeds the disk. The iterator
    /// returns the errors of [`Layer::map`](crate::Layer::map), and
    /// [`Limit`](crate::ErrorKind::Limit) if [`Limits::data_sharing`](crate::Limits::data_sharing) or
    /// [`Limits::expansion`](crate::Limits::expansion) is exceeded, and ends after the first error.
    pub fn extents(&self, range: Range<u64>) -> Result<Extents<'_>> {
        self.require_inside(&range)?;
        Ok(self.extents_by(range, WINDOW))
    }

    /// As [`extents`](Self::extents), for a range that is within the disk, mapping `step` bytes at
    /// a time.
    pub(crate) fn extents_by(&self, range: Range<u64>, step: u64) -> Extents<'_> {
        let window = Vec::new().into_iter();
        let budget = Budget::new(self);
        let mapped = Mapped { image: self, unmapped: range, step, budget, window };
        Extents { mapped: mapped.peekable() }
    }
}

impl Iterator for Mapped<'_> {
    type Item = Result<ChainExtent>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(extent) = self.window.next() {
                return Some(Ok(extent));
            }
            if self.unmapped.is_empty() {
                return None;
            }
            let Range { start, end } = self.unmapped;
            let next = self.image.next_window(start, end, self.step);
            let extents = self.image.extents_in(start..next).and_then(|extents| {
                self.budget.spend(self.image, &extents)?;
                Ok(extents)
            });
            match extents {
                Ok(extents) => {
                    self.window = extents.into_iter();
                    self.unmapped.start = next;
                }
                Err(error) => {
                    self.unmapped.start = end;
                    return Some(Err(error));
                }
            }
        }
    }
}

impl Iterator for Extents<'_> {
    type Item = Result<ChainExtent>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut extent = match self.mapped.next()? {
            Ok(extent) => extent,
            error => return Some(error),
        };
        while let Some(Ok(next)) =
            self.mapped.next_if(|next| next.as_ref().is_ok_and(|next| extent.is_continued_by(next)))
        {
            extent.guest.end = next.guest.end;
        }
        Some(Ok(extent))
    }
}

impl FusedIterator for Extents<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::extent::{Extent, HostOffset, Kind, push};
    use crate::model::image::Link;
    use crate::model::sealed::Sealed;
    use crate::report::info::Details;
    use crate::storage::source::Source;
    use crate::{DiskLayout, Error, Format, Layer};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const STEP: u64 = 1000;
    const SIZE: u64 = 1 << 62;

    /// A disk with data at `data`, whose map cannot be read from `damaged` on.
    #[derive(Debug)]
    struct Disk {
        data: Range<u64>,
        damaged: u64,
        mapped: AtomicUsize,
    }

    impl Disk {
        fn image(data: Range<u64>, damaged: u64) -> (Arc<Self>, Image) {
            let disk = Arc::new(Self { data, damaged, mapped: AtomicUsize::new(0) });
            let layer = Arc::clone(&disk) as Arc<dyn Layer>;
            let name = "disk".to_owned();
            let link =
                Link { layer, name, is_local: true, compression: None, limits: Arc::default() };
            (disk, Image::from_links(vec![link]))
        }
    }

    impl Sealed for Disk {}

    impl Layer for Disk {
        fn format(&self) -> Format {
            Format::Raw
        }

        fn disk_layout(&self) -> DiskLayout {
            DiskLayout { size: SIZE, cluster_size: 1 }
        }

        fn files(&self) -> &[Arc<dyn Source>] {
            &[]
        }

        fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
            self.mapped.fetch_add(1, Ordering::Relaxed);
            if range.end > self.damaged {
                return Err(Error::corrupt("table", "damaged"));
            }
            let start = self.data.start.clamp(range.start, range.end);
            let end = self.data.end.clamp(range.start, range.end);
            push(out, range.start..start, Kind::Unallocated);
            push(out, start..end, Kind::Data(HostOffset { file: 0, offset: start }));
            push(out, end..range.end, Kind::Unallocated);
            Ok(())
        }

        fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
            match self.data.start > range.start {
                true => self.data.start.min(range.end),
                false if self.data.end <= range.start => range.end,
                false => range.start,
            }
        }

        fn details(&self) -> Details {
            Details::default()
        }
    }

    fn ranges(extents: Extents<'_>) -> Vec<Range<u64>> {
        extents.map(|extent| extent.expect("maps").guest).collect()
    }

    #[test]
    fn extents_are_merged_across_windows_and_sparse_ranges_are_skipped() {
        let (start, end) = (SIZE / 2 + 500, SIZE / 2 + 10 * STEP + 500);
        let (disk, image) = Disk::image(start..end, SIZE);
        let all = image.extents_by(0..SIZE, STEP);
        assert!(ranges(all) == [0..start, start..end, end..SIZE]);
        // Ten windows of data and, on each side of it, windows of up to 256 TiB.
        let max_windows = SIZE / (256 << 40) + 20;
        assert!(disk.mapped.load(Ordering::Relaxed) as u64 <= max_windows);
        let part = image.extents_by(start + 1..end - 1, 7);
        assert_eq!(ranges(part), vec![start + 1..end - 1; 1]);
        assert_eq!(ranges(image.extents(5..5).expect("in range")), []);
    }

    #[test]
    fn nothing_is_mapped_before_it_is_needed() {
        let (disk, image) = Disk::image(500..SIZE, SIZE);
        let mut extents = image.extents_by(0..SIZE, STEP);
        assert_eq!(disk.mapped.load(Ordering::Relaxed), 0);
        assert_eq!(extents.next().expect("one").expect("maps").guest, 0..500);
        assert_eq!(disk.mapped.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn the_iterator_ends_after_the_first_error_and_returns_what_precedes_it() {
        let (_, image) = Disk::image(500..SIZE, 3 * STEP);
        let mut extents = image.extents_by(0..SIZE, STEP);
        assert_eq!(extents.next().expect("one").expect("maps").guest, 0..500);
        assert_eq!(extents.next().expect("two").expect("maps").guest, 500..3 * STEP);
        let error = extents.next().expect("an error").expect_err("damaged");
        assert_eq!(error.to_string(), "disk: table: damaged");
        assert!(extents.next().is_none());
    }

    #[test]
    fn a_range_beyond_the_end_is_an_error() {
        let (_, image) = Disk::image(0..1, SIZE);
        let error = image.extents(1..SIZE + 1).expect_err("beyond");
        assert_eq!(error.kind(), crate::ErrorKind::Invalid);
    }
}
