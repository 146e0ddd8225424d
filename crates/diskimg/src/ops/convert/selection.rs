//! Writing a part of a disk into an existing image: what `commit` and `rebase` have in common.
//!
//! Both write into an image of the chain whose contents they read. A task reads the clusters that it
//! writes, and nothing else, before it writes them, so that nothing is read after it was changed.

use super::existing::ModifiedImage;
use super::input::Input;
use super::run::Prepared;
use super::{Reflink, SECTOR, Settings};
use crate::error::{Error, Result};
use crate::model::extent::{ChainExtent, Kind};
use crate::model::format::Format;
use crate::model::image::Image;
use crate::model::mutable::{MutableLayer, WriteRequest};
use crate::model::options::Options;
use crate::model::target::{CreateRequest, TargetSpec};
use crate::ops::progress::Callback;
use crate::remedy::Remedy;
use crate::storage::caching::Caching;
use crate::storage::edit::Storage;
use crate::storage::output::Output;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The part of a disk that is written.
#[derive(Debug)]
pub(in crate::ops) enum Selection {
    /// What the layers of this image store, zeros included. They are the top layers of the input.
    StoredIn(Image),
    /// What this image shows differently than the input. Both have the same top layer.
    Differing(Image),
}

/// A range of a disk, in whole quanta of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// It is known to be zero.
    Zero(Range<u64>),
    /// It is read.
    Data(Range<u64>),
}

impl Part {
    fn range(&self) -> &Range<u64> {
        match self {
            Self::Zero(range) | Self::Data(range) => range,
        }
    }
}

impl Selection {
    /// Returns the image with which the input is compared cluster by cluster.
    pub(super) fn compared(&self) -> Option<&Image> {
        match self {
            Self::StoredIn(_) => None,
            Self::Differing(image) => Some(image),
        }
    }

    /// Returns the end of the window that starts at `start`; see [`Image::next_window`].
    pub(super) fn next_window(&self, start: u64, end: u64, step: u64) -> u64 {
        let (Self::StoredIn(image) | Self::Differing(image)) = self;
        let size = image.size();
        if start >= size {
            return end;
        }
        let next = image.next_window(start, end.min(size), step);
        // What follows the disk in its last quantum is read with it.
        if next < size { next } else { end }
    }

    /// Returns the selected parts of a window of the input, in order, extended to whole quanta and
    /// clipped to the window.
    pub(super) fn parts(
        &self,
        input: &Input,
        window: Range<u64>,
        quantum: u64,
    ) -> Result<Vec<Part>> {
        let (Self::StoredIn(image) | Self::Differing(image)) = self;
        let inside = window.start.min(image.size())..window.end.min(image.size());
        let found = match self {
            Self::StoredIn(image) => stored_in(image, inside)?,
            Self::Differing(image) => differing(input.image(0), image, inside)?,
        };
        Ok(whole_quanta(&found, quantum, window.end))
    }
}

/// Returns what the layers of `image` store.
fn stored_in(image: &Image, range: Range<u64>) -> Result<Vec<Part>> {
    let last = image.layers().len() - 1;
    let part = |extent: ChainExtent| match extent.kind {
        // Beyond the end of a layer, zeros are attributed to the layer above.
        Kind::Unallocated if extent.depth == last => None,
        Kind::Unallocated | Kind::Zero(_) => Some(Part::Zero(extent.guest)),
        Kind::Data(_) | Kind::Encoded(_) => Some(Part::Data(extent.guest)),
    };
    Ok(image.extents_and_holes(range)?.into_iter().filter_map(part).collect())
}

/// Returns what may differ between two images with the same top layer.
fn differing(old: &Image, new: &Image, range: Range<u64>) -> Result<Vec<Part>> {
    let common = CommonLayers::of(old, new);
    let old = old.extents_and_holes(range.clone())?;
    let new = new.extents_and_holes(range.clone())?;
    let (mut olds, mut news) = (old.iter().peekable(), new.iter().peekable());
    let mut parts = Vec::new();
    let mut at = range.start;
    while let (Some(old), Some(new)) = (olds.peek(), news.peek()) {
        let end = old.guest.end.min(new.guest.end);
        if !common.are_same(old, new) {
            parts.push(Part::Data(at..end));
        }
        at = end;
        olds.next_if(|extent| extent.guest.end == end);
        news.next_if(|extent| extent.guest.end == end);
    }
    Ok(parts)
}

/// The layers that two images have in common.
struct CommonLayers {
    /// For each layer of one image, its depth in the other.
    depths: Vec<Option<usize>>,
}

impl CommonLayers {
    fn of(old: &Image, new: &Image) -> Self {
        let is_same = |a: usize, b: usize| {
            let (a, b) = (old.layer(a), new.layer(b));
            let id = |layer: &dyn crate::Layer| layer.files().first().and_then(|f| f.identity());
            a.format() == b.format() && id(a).is_some() && id(a) == id(b)
        };
        let depth_of = |a: usize| match a {
            0 => Some(0),
            _ => (1..new.layers().len()).find(|&b| is_same(a, b)),
        };
        Self { depths: (0..old.layers().len()).map(depth_of).collect() }
    }

    /// Returns true if extents of the same guest range are known to have the same contents.
    fn are_same(&self, old: &ChainExtent, new: &ChainExtent) -> bool {
        match (old.kind.is_zero(), new.kind.is_zero()) {
            (true, true) => true,
            // A layer stores a range once.
            (false, false) => self.depths[old.depth] == Some(new.depth),
            _ => false,
        }
    }
}

/// Extends parts to whole quanta, up to `end`, and merges them.
fn whole_quanta(parts: &[Part], quantum: u64, end: u64) -> Vec<Part> {
    let mut out: Vec<Part> = Vec::new();
    let mut push = |part: Part| {
        if part.range().is_empty() {
            return;
        }
        match (out.last_mut(), &part) {
            (Some(Part::Zero(last)), Part::Zero(next))
            | (Some(Part::Data(last)), Part::Data(next))
                if last.end >= next.start =>
            {
                last.end = last.end.max(next.end);
            }
            (Some(last), _) if last.range().end > part.range().start => {
                // What is read includes its first quantum.
                let Part::Zero(next) = part else { return };
                let start = last.range().end;
                if start < next.end {
                    out.push(Part::Zero(start..next.end));
                }
            }
            _ => out.push(part),
        }
    };
    for part in parts {
        let range = part.range();
        let start = range.start / quantum * quantum;
        let stop = range.end.next_multiple_of(quantum).min(end);
        match part {
            Part::Data(_) => push(Part::Data(start..stop)),
            // Quanta of which only a part is zero are read.
            Part::Zero(_) => {
                let first = range.start.next_multiple_of(quantum).min(stop);
                let last = if range.end >= end { end } else { range.end / quantum * quantum };
                if first >= last {
                    push(Part::Data(start..stop));
                    continue;
                }
                push(Part::Data(start..first));
                push(Part::Zero(first..last));
                push(Part::Data(last..stop));
            }
        }
    }
    out
}

/// Writes a part of a disk into an image of its own chain.
pub(in crate::ops) struct Write<'a> {
    /// The disk.
    pub(in crate::ops) disk: Image,
    /// What is written of it.
    pub(in crate::ops) selection: Selection,
    /// The image that is written, with its backing chain.
    pub(in crate::ops) target: Image,
    /// What modifies it.
    pub(in crate::ops) layer: Box<dyn MutableLayer>,
    /// Its main file.
    pub(in crate::ops) storage: Arc<dyn Storage>,
    /// Its name in messages.
    pub(in crate::ops) name: String,
    /// How it is written.
    pub(in crate::ops) request: WriteRequest,
    pub(in crate::ops) threads: Option<usize>,
    pub(in crate::ops) rate_limit: Option<u64>,
    pub(in crate::ops) caching: Caching,
    /// Whether blocks are shared with the files of the disk.
    pub(in crate::ops) reflink: Reflink,
    pub(in crate::ops) progress: Option<Callback<'a>>,
}

impl Write<'_> {
    /// Writes it. Returns the number of bytes of guest data that were written. All is durable then.
    ///
    /// # Errors
    /// Returns [`Unsupported`](crate::ErrorKind::Unsupported) if the image can only be written as a
    /// whole, and the errors of reading and writing.
    pub(in crate::ops) fn run(self) -> Result<u64> {
        let format = self.target.format();
        let settings = Settings {
            format,
            compress: self.request.compress,
            threads: self.threads,
            rate_limit: self.rate_limit,
            caching: self.caching,
            reflink: self.reflink,
            progress: self.progress,
            ..Settings::new()
        };
        let spec = match format == Format::default() {
            true => raw_spec(self.target.size())?,
            false => self.layer.into_target(&self.request)?.ok_or_else(|| {
                Error::unsupported("an image of this kind can only be written as a whole")
                    .in_file(&self.name)
                    .with_remedy(Remedy::WriteNewImage)
            })?,
        };
        if self.request.compress && spec.encoder().is_none() {
            return Err(Error::invalid("Compression not supported for this file format"));
        }
        let input = input(self.disk, &self.target, spec.quantum())?;
        let files = self.target.layers().take(1).flat_map(|layer| layer.files()).cloned().collect();
        let output = Output::to_place(Box::new(ModifiedImage {
            storage: Arc::clone(&self.storage),
            path: self.storage.path().map(Path::to_owned),
            files,
        }))
        .named(&*self.name);
        let selection = Some(self.selection);
        let report = settings.run_prepared(input, output, |_, input, _| {
            Ok(Prepared { spec, backing: None, existing: Some(input.size()), selection })
        })?;
        let flushed = self.storage.flush();
        flushed.map_err(|e| Error::io("cannot flush", e).in_file(PathBuf::from(self.name)))?;
        Ok(report.stored_bytes)
    }
}

fn raw_spec(size: u64) -> Result<Box<dyn TargetSpec>> {
    let options = Options::default();
    let request = CreateRequest { size, options: &options, backing: None, compress: false };
    Format::Raw.creator()?(request)
}

/// Returns the disk, and behind its end what follows it in the last quantum of a larger target.
fn input(disk: Image, target: &Image, quantum: u64) -> Result<Input> {
    let size = disk.size();
    let mut input = Input::concatenate(vec![disk], SECTOR)?;
    let from = size.next_multiple_of(SECTOR).min(target.size());
    let end = from.next_multiple_of(quantum).min(target.size());
    if from < end {
        input.push(target.clone(), from..end)?;
    }
    input.pad_to(end.max(size));
    Ok(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_extended_to_whole_quanta_and_read_if_they_are_not_all_zero() {
        use Part::{Data, Zero};
        for (parts, expected) in [
            (vec![], vec![]),
            (vec![Data(5..6)], vec![Data(0..10)]),
            (vec![Data(5..6), Data(15..16), Data(31..32)], vec![Data(0..20), Data(30..40)]),
            (vec![Zero(10..30)], vec![Zero(10..30)]),
            (vec![Zero(5..35)], vec![Data(0..10), Zero(10..30), Data(30..40)]),
            (vec![Zero(12..18)], vec![Data(10..20)]),
            (vec![Data(10..15), Zero(15..40)], vec![Data(10..20), Zero(20..40)]),
            (vec![Zero(10..35), Data(35..36)], vec![Zero(10..30), Data(30..40)]),
            (vec![Data(11..12), Zero(13..14), Data(15..16)], vec![Data(10..20)]),
            (vec![Zero(40..45)], vec![Zero(40..45)]),
            (vec![Data(41..45)], vec![Data(40..45)]),
        ] {
            assert_eq!(whole_quanta(&parts, 10, 45), expected, "{parts:?}");
        }
    }
}
