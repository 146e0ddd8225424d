//! `map`: where guest bytes are stored, in the terms of `qemu-img map`.

use crate::error::Result;
use crate::model::extent::{ChainExtent, HostOffset, Kind};
use crate::model::extents::Extents;
use crate::model::image::{Image, WINDOW};
use crate::storage::source::{Source, segments};
use std::iter::{FusedIterator, Peekable};
use std::ops::Range;

/// A range of guest bytes that are stored in the same way.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MapEntry {
    /// Guest offset in bytes.
    pub start: u64,
    /// Length in bytes; never 0.
    pub length: u64,
    /// Depth in the backing chain of the layer that the bytes come from: 0 is the image itself.
    pub depth: usize,
    /// Allocated in some layer, as data or as zeros.
    pub present: bool,
    /// Reads as zeros.
    pub zero: bool,
    /// Stored as data.
    pub data: bool,
    /// Stored compressed.
    pub compressed: bool,
    /// Host offset of the first byte, if the bytes are stored verbatim.
    pub offset: Option<u64>,
    /// The file that `offset` is in.
    pub filename: Option<String>,
}

impl MapEntry {
    fn new(image: &Image, Piece { extent, hole }: &Piece) -> Self {
        let (zero, data, compressed, host) = match &extent.kind {
            Kind::Data(host) => (*hole, true, false, Some(*host)),
            Kind::Zero(host) => (true, false, false, *host),
            Kind::Encoded(_) => (false, true, true, None),
            // What only says where something is stored has no zeros either.
            Kind::Unallocated => (has_data(image, extent.depth), false, false, None),
        };
        let filename = |host: HostOffset| {
            let path = image.file(extent.depth, host.file).path();
            path.map_or_else(|| image.name(extent.depth).to_owned(), |p| p.display().to_string())
        };
        Self {
            start: extent.guest.start,
            length: extent.len(),
            depth: extent.depth,
            present: extent.kind != Kind::Unallocated,
            zero,
            data,
            compressed,
            offset: host.map(|p| start_of(image.file(extent.depth, p.file)) + p.offset),
            filename: host.map(filename),
        }
    }

    /// Returns true if `next` continues this entry, which must end where `next` starts.
    fn continues(&self, next: &Self) -> bool {
        let host = match (self.offset, next.offset) {
            (Some(a), Some(b)) => a + self.length == b && self.filename == next.filename,
            (None, None) => true,
            _ => false,
        };
        let flags = |e: &Self| (e.depth, e.present, e.zero, e.data, e.compressed);
        host && flags(self) == flags(next)
    }
}

/// Returns true if the files of a layer have data.
fn has_data(image: &Image, depth: usize) -> bool {
    image.layer(depth).files().iter().all(|file| file.has_data())
}

/// Returns an iterator over the entries of `range`, in guest order, contiguous ones merged. The
/// range is clipped to the disk. Like [`Image::extents`], it reads the tables as it advances.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("disk.img");
/// # std::fs::write(&path, [3; 512]).unwrap();
/// let image = diskimg::Image::open(&path)?;
/// for entry in diskimg::map(&image, 0..image.size()) {
///     let entry = entry?;
///     println!("{:#x} {:#x} {}", entry.start, entry.length, entry.data);
///     # assert_eq!(entry.length, 512);
/// }
/// # Ok::<(), diskimg::Error>(())
/// ```
///
/// # Errors
/// The iterator returns the errors of [`Image::extents`], and ends after the first.
pub fn map(image: &Image, range: Range<u64>) -> MapEntries<'_> {
    let end = range.end.min(image.size());
    MapEntries { image, pieces: Pieces::new(image, range.start.min(end)..end).peekable() }
}

/// Iterator over the entries of a map. Returned by [`map`].
#[derive(Debug)]
pub struct MapEntries<'a> {
    image: &'a Image,
    pieces: Peekable<Pieces<'a>>,
}

/// An extent, or a part of one.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) extent: ChainExtent,
    /// The extent is data, but a hole of its file, because the image is preallocated.
    pub(super) hole: bool,
}

/// Iterator over the extents of a disk. If the image is preallocated, holes of the file split data.
#[derive(Debug)]
pub(super) struct Pieces<'a> {
    image: &'a Image,
    extents: Extents<'a>,
    /// Rest of an extent that was split.
    rest: Option<ChainExtent>,
}

impl<'a> Pieces<'a> {
    /// Returns an iterator over a range that is within the disk.
    pub(super) fn new(image: &'a Image, range: Range<u64>) -> Self {
        Self { image, extents: image.extents_by(range, WINDOW), rest: None }
    }

    fn piece(&mut self, extent: ChainExtent) -> Piece {
        let Kind::Data(host) = extent.kind else { return Piece { extent, hole: false } };
        if !self.image.layer(extent.depth).is_preallocated() {
            return Piece { extent, hole: false };
        }
        let file = self.image.file(extent.depth, host.file);
        let stored = host.offset..host.offset + extent.len();
        let Some((segment, hole)) = segments(file, stored).next() else {
            return Piece { extent, hole: false };
        };
        let end = extent.guest.start + (segment.end - segment.start);
        if end == extent.guest.end {
            return Piece { extent, hole };
        }
        self.rest = Some(extent.clip(&(end..extent.guest.end)));
        Piece { extent: extent.clip(&(extent.guest.start..end)), hole }
    }
}

impl Iterator for Pieces<'_> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        let extent = self.rest.take().map(Ok).or_else(|| self.extents.next())?;
        Some(extent.map(|extent| self.piece(extent)))
    }
}

impl Iterator for MapEntries<'_> {
    type Item = Result<MapEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        let image = self.image;
        let mut entry = match self.pieces.next()? {
            Ok(piece) => MapEntry::new(image, &piece),
            Err(error) => return Some(Err(error)),
        };
        while let Some(Ok(piece)) = self.pieces.peek() {
            let next = MapEntry::new(image, piece);
            if !entry.continues(&next) {
                break;
            }
            entry.length += next.length;
            self.pieces.next();
        }
        Some(Ok(entry))
    }
}

impl FusedIterator for MapEntries<'_> {}

/// Returns the file offset at which a source starts. It is not 0 for a disk inside an appliance.
pub(super) fn start_of(source: &dyn Source) -> u64 {
    source.as_file().map_or(0, |(_, start)| start)
}
