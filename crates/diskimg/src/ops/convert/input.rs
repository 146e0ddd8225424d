//! The source of a conversion: one image, or several concatenated ones.

use super::bitmaps::CopiedBitmaps;
use crate::error::{Error, Result};
use crate::model::budget::Budgets;
use crate::model::extent::ChainExtent;
use crate::model::image::Image;
use crate::open::external_files::StandIn;
use crate::storage::source::{HostFileId, IoHints};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// One or more images as one range of guest bytes.
#[derive(Debug)]
pub(super) struct Input {
    images: Vec<Image>,
    parts: Vec<InputRange>,
    size: u64,
    /// Every image starts at a multiple of this many bytes of the input.
    alignment: u64,
    pub(super) bitmaps: CopiedBitmaps,
}

/// A range of an image and its position in the input.
#[derive(Debug)]
struct InputRange {
    /// Position in the input.
    at: Range<u64>,
    /// Index of the image.
    image: usize,
    /// Guest offset in the image that corresponds to `at.start`.
    from: u64,
}

/// A range of the input that one extent of one image covers.
#[derive(Debug, Clone)]
pub(super) struct InputRun {
    /// Position in the input; never empty.
    pub(super) at: Range<u64>,
    /// Index of the image; `None` for the zeros between two images.
    pub(super) image: Option<usize>,
    /// The extent, in guest offsets of the image.
    pub(super) extent: ChainExtent,
}

impl Input {
    /// Concatenates images, each of which starts at a multiple of `alignment`.
    ///
    /// # Errors
    /// Returns [`Limit`](crate::ErrorKind::Limit) if the total exceeds `i64::MAX` bytes.
    pub(super) fn concatenate(images: Vec<Image>, alignment: u64) -> Result<Self> {
        let bitmaps = CopiedBitmaps::default();
        let mut input = Self { images: Vec::new(), parts: Vec::new(), size: 0, alignment, bitmaps };
        for image in images {
            let range = 0..image.size();
            input.push(image, range)?;
        }
        Ok(input)
    }

    /// Appends a range of an image.
    ///
    /// # Errors
    /// As [`concatenate`](Self::concatenate).
    pub(super) fn push(&mut self, image: Image, range: Range<u64>) -> Result<()> {
        let start = self.size.next_multiple_of(self.alignment);
        let end = start
            .checked_add(range.end - range.start)
            .filter(|&end| end <= i64::MAX as u64)
            .ok_or_else(|| Error::limit("the images together exceed the largest disk, 8 EiB"))?;
        if !range.is_empty() {
            let part = InputRange { at: start..end, image: self.images.len(), from: range.start };
            self.parts.push(part);
        }
        self.images.push(image);
        self.size = end;
        Ok(())
    }

    /// Appends zeros up to `size`, which must not be less than the current size.
    pub(super) fn pad_to(&mut self, size: u64) {
        debug_assert!(size >= self.size);
        self.size = size;
    }

    /// Returns the range of each image as a separate disk of whole sectors. Padding at the end of
    /// the input belongs to the last disk.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if an image is empty.
    pub(super) fn disks(&self, sector: u64) -> Result<Vec<Range<u64>>> {
        if let Some(empty) = self.images.iter().find(|image| image.size() == 0) {
            return Err(Error::invalid("an empty disk cannot be part of an appliance")
                .in_file(empty.name(0)));
        }
        let whole = |part: &InputRange| part.at.start..part.at.end.next_multiple_of(sector);
        let mut disks: Vec<_> = self.parts.iter().map(whole).collect();
        if let Some(last) = disks.last_mut() {
            last.end = self.size;
        }
        Ok(disks)
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn image(&self, index: usize) -> &Image {
        &self.images[index]
    }

    /// Returns the smallest cluster size of all layers, or `u64::MAX` if no layer has clusters.
    pub(super) fn min_cluster_size(&self) -> u64 {
        // Raw has no clusters, and holes of its file are large.
        let sizes =
            self.images.iter().flat_map(Image::layers).map(|l| l.disk_layout().cluster_size);
        sizes.filter(|&size| size > 1).min().unwrap_or(u64::MAX)
    }

    /// Returns the number of images.
    pub(super) fn images(&self) -> usize {
        self.images.len()
    }

    /// Returns the images' warnings ([`Image::warnings`]), and those about bitmaps.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        self.images.iter().flat_map(Image::warnings).chain(self.bitmaps.warnings())
    }

    /// Returns the size in bytes of the disks' logical sectors, if an image records one other than
    /// 512.
    pub(super) fn other_sector_size(&self) -> Option<u64> {
        let tops = self.images.iter().filter_map(|image| image.layers().next());
        let sizes = tops.filter_map(|layer| layer.sector_sizes());
        sizes.map(|[logical, _]| logical).find(|&logical| logical != 512)
    }

    /// Returns true if a file at `path` would be a part of an image that is a directory.
    pub(super) fn contains(&self, path: &Path) -> bool {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let Ok(parent) = parent.unwrap_or(Path::new(".")).canonicalize() else { return false };
        let directories = self.images.iter().flat_map(Image::layers);
        let directories = directories.flat_map(|layer| layer.directories());
        directories.filter_map(|own| own.canonicalize().ok()).any(|own| own == parent)
    }

    pub(super) fn identities(&self) -> impl Iterator<Item = HostFileId> {
        self.images.iter().flat_map(Image::identities)
    }

    /// Returns the only file.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if there are several, or it is an appliance.
    pub(super) fn only_file(&self) -> Result<StandIn> {
        let [image] = self.images.as_slice() else {
            return Err(Error::invalid("the digest of several images cannot be verified"));
        };
        let mut layers = image.layers();
        match (layers.next().map(|layer| layer.files()), layers.next()) {
            (Some([file]), None) if image.format().name() != "ova" => {
                Ok((image.name(0).into(), Arc::clone(file)))
            }
            _ => Err(Error::invalid(
                "a digest can be verified only of an image in one file, without a backing file",
            )),
        }
    }

    /// Verifies the images' files against the digests that came with them.
    pub(super) fn verify_manifests(&self, tick: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        for image in &self.images {
            for (depth, layer) in image.layers().enumerate() {
                layer.verify_manifest(tick).map_err(|e| image.in_layer(e, depth))?;
            }
        }
        Ok(())
    }

    /// Returns how the files of all images are read efficiently.
    pub(super) fn io(&self) -> IoHints {
        let hints = self.images.iter().map(Image::io);
        hints.reduce(IoHints::combine).unwrap_or_default()
    }

    /// As [`Image::prefetch_tables`].
    pub(super) fn prefetch_tables(&self, range: Range<u64>) {
        for part in &self.parts {
            let inside = range.start.max(part.at.start)..range.end.min(part.at.end);
            if inside.start < inside.end {
                let shift = |offset: u64| offset - part.at.start + part.from;
                self.images[part.image].prefetch_tables(shift(inside.start)..shift(inside.end));
            }
        }
    }

    /// As [`Image::next_window`].
    pub(super) fn next_window(&self, start: u64, end: u64, step: u64) -> u64 {
        let one_step = end.min(start.saturating_add(step));
        let Some(part) = self.parts.iter().find(|part| part.at.contains(&start)) else {
            return one_step;
        };
        let shift = |offset: u64| offset - part.at.start + part.from;
        let until = end.min(part.at.end);
        let next = self.images[part.image].next_window(shift(start), shift(until), step);
        one_step.max(next - part.from + part.at.start)
    }

    /// Returns runs that cover `range` exactly, in order. Runs of data are split at holes of their
    /// file.
    pub(super) fn runs(&self, range: Range<u64>) -> Result<Vec<InputRun>> {
        let mut runs = Vec::new();
        let mut at = range.start;
        for part in &self.parts {
            if part.at.end <= at || part.at.start >= range.end {
                continue;
            }
            push_gap(&mut runs, at..part.at.start.max(at));
            let here = part.at.start.max(at)..part.at.end.min(range.end);
            let shift = |offset: u64| offset - part.at.start + part.from;
            let wanted = shift(here.start)..shift(here.end);
            let extents = self.images[part.image].extents_and_holes(wanted);
            for extent in extents.map_err(|e| e.moved(part.from, part.at.start))? {
                let start = extent.guest.start - part.from + part.at.start;
                let at = start..start + extent.len();
                runs.push(InputRun { at, image: Some(part.image), extent });
            }
            at = here.end;
        }
        push_gap(&mut runs, at..range.end);
        Ok(runs)
    }
}

impl Input {
    /// Returns the budgets for a pass over the images.
    pub(super) fn budgets(&self) -> Budgets {
        Budgets::new(&self.images)
    }

    /// Charges runs, which follow those before in guest order, to the budgets of a pass over the
    /// images.
    ///
    /// # Errors
    /// As [`Budget::spend`](Budgets::spend).
    pub(super) fn charge(&self, runs: &[InputRun], budgets: &mut Budgets) -> Result<()> {
        runs.iter().try_for_each(|run| match run.image {
            Some(index) => {
                let extent = std::slice::from_ref(&run.extent);
                budgets.spend(index, &self.images[index], extent)
            }
            None => Ok(()),
        })
    }
}

impl InputRun {
    /// Returns a run of zeros that belongs to no image.
    pub(super) fn zeros(at: Range<u64>) -> Self {
        use crate::model::extent::Kind;
        let extent = ChainExtent { guest: at.clone(), depth: 0, kind: Kind::Zero(None) };
        Self { at, image: None, extent }
    }

    /// Returns the part within `range`, which must overlap it.
    pub(super) fn clip(&self, range: &Range<u64>) -> Self {
        let at = self.at.start.max(range.start)..self.at.end.min(range.end);
        let start = self.extent.guest.start + (at.start - self.at.start);
        let extent = self.extent.clip(&(start..start + (at.end - at.start)));
        Self { at, image: self.image, extent }
    }
}

/// Appends zeros for the gap between two images.
fn push_gap(runs: &mut Vec<InputRun>, at: Range<u64>) {
    if !at.is_empty() {
        runs.push(InputRun::zeros(at));
    }
}
