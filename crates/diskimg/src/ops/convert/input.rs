//! The source of a conversion: one image, or several end to end.

use crate::error::{Error, Result};
use crate::model::extent::ChainExtent;
use crate::model::image::Image;
use crate::storage::source::HostFileId;
use std::ops::Range;

/// The guest bytes of one or more images, end to end.
#[derive(Debug)]
pub(super) struct Input {
    images: Vec<Image>,
    parts: Vec<InputRange>,
    size: u64,
    /// Every image starts at a multiple of this many bytes of the whole.
    alignment: u64,
}

/// A range of an image at its place in the whole.
#[derive(Debug)]
struct InputRange {
    /// Where it stands in the whole.
    at: Range<u64>,
    /// Which image.
    image: usize,
    /// The image's guest offset that stands at `at.start`.
    from: u64,
}

/// A range of the whole that one extent of one image accounts for.
#[derive(Debug, Clone)]
pub(super) struct InputRun {
    /// Bytes of the whole; never empty.
    pub(super) at: Range<u64>,
    /// Which image answers; `None` where zeros fill the gap between two.
    pub(super) image: Option<usize>,
    /// What it answers, in its own guest offsets.
    pub(super) extent: ChainExtent,
}

impl Input {
    /// Each image starts at a multiple of `alignment`.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) if no disk can be that large.
    pub(super) fn concatenate(images: Vec<Image>, alignment: u64) -> Result<Self> {
        let mut input = Self { images: Vec::new(), parts: Vec::new(), size: 0, alignment };
        for image in images {
            let range = 0..image.size();
            input.push(image, range)?;
        }
        Ok(input)
    }

    /// Appends a range of a further image.
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

    /// Zeros follow up to `size`, which is not below what there is.
    pub(super) fn pad_to(&mut self, size: u64) {
        debug_assert!(size >= self.size);
        self.size = size;
    }

    /// Where each image stands as a disk of its own, of whole sectors; the last
    /// one has the padding.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if one is empty.
    pub(super) fn disks(&self, sector: u64) -> Result<Vec<Range<u64>>> {
        if let Some(empty) = self.images.iter().find(|image| image.size() == 0) {
            return Err(Error::invalid("an empty disk").in_file(empty.name(0)));
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

    /// The smallest unit in which an image of these allocates.
    pub(super) fn finest_unit(&self) -> u64 {
        // Raw allocates nothing itself; what its file system does is coarse.
        let units =
            self.images.iter().flat_map(Image::layers).map(|l| l.disk_layout().cluster_size);
        units.filter(|&unit| unit > 1).min().unwrap_or(u64::MAX)
    }

    pub(super) fn images(&self) -> usize {
        self.images.len()
    }

    /// What was damaged in the images and is made up for.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        self.images.iter().flat_map(Image::warnings)
    }

    pub(super) fn identities(&self) -> impl Iterator<Item = HostFileId> {
        self.images.iter().flat_map(Image::identities)
    }

    /// Verifies the images' files by the digests that came with them.
    pub(super) fn verify_manifests(&self, tick: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        for image in &self.images {
            for (depth, layer) in image.layers().enumerate() {
                layer.verify_manifest(tick).map_err(|e| image.in_layer(e, depth))?;
            }
        }
        Ok(())
    }

    /// As [`Image::next_window`].
    pub(super) fn next_window(&self, start: u64, end: u64, step: u64) -> u64 {
        let usual = end.min(start.saturating_add(step));
        let Some(part) = self.parts.iter().find(|part| part.at.contains(&start)) else {
            return usual;
        };
        let shift = |offset: u64| offset - part.at.start + part.from;
        let until = end.min(part.at.end);
        let far = self.images[part.image].next_window(shift(start), shift(until), step);
        usual.max(far - part.from + part.at.start)
    }

    /// Spans that cover `range` exactly, in order; stored runs end at holes.
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

impl InputRun {
    /// Zeros that no image holds.
    pub(super) fn zeros(at: Range<u64>) -> Self {
        use crate::model::extent::Kind;
        let extent = ChainExtent { guest: at.clone(), depth: 0, kind: Kind::Zero(None) };
        Self { at, image: None, extent }
    }

    /// The part within `range`, which must overlap it.
    pub(super) fn clip(&self, range: &Range<u64>) -> Self {
        let at = self.at.start.max(range.start)..self.at.end.min(range.end);
        let start = self.extent.guest.start + (at.start - self.at.start);
        let extent = self.extent.clip(&(start..start + (at.end - at.start)));
        Self { at, image: self.image, extent }
    }
}

fn push_gap(runs: &mut Vec<InputRun>, at: Range<u64>) {
    if !at.is_empty() {
        runs.push(InputRun::zeros(at));
    }
}
