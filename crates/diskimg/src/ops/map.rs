//! `map`: where guest bytes are stored, in the terms of `qemu-img map`.

use crate::error::Result;
use crate::model::extent::{ChainExtent, HostOffset, Kind};
use crate::model::image::{Image, WINDOW};
use crate::storage::source::{Source, segments};
use std::ops::Range;

/// A range of guest bytes that are stored in the same way.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    fn new(image: &Image, extent: &ChainExtent) -> Self {
        let (zero, data, compressed, host) = match &extent.kind {
            Kind::Data(host) => (false, true, false, Some(*host)),
            Kind::Zero(host) => (true, false, false, *host),
            Kind::Encoded(_) => (false, true, true, None),
            Kind::Unallocated => (true, false, false, None),
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

/// Calls `each` with the entries of `range`, in guest order, contiguous ones merged. The range is
/// clipped to the disk.
///
/// # Errors
/// As [`Image::extents`], and any error that `each` returns.
pub fn map(
    image: &Image,
    range: Range<u64>,
    each: &mut dyn FnMut(MapEntry) -> Result<()>,
) -> Result<()> {
    let end = range.end.min(image.size());
    let mut at = range.start;
    let mut last: Option<MapEntry> = None;
    while at < end {
        let next = image.next_window(at, end, WINDOW);
        for extent in image.extents(at..next)? {
            for entry in with_holes(image, &extent, MapEntry::new(image, &extent)) {
                match &mut last {
                    Some(last) if last.continues(&entry) => last.length += entry.length,
                    _ => {
                        if let Some(done) = last.replace(entry) {
                            each(done)?;
                        }
                    }
                }
            }
        }
        at = next;
    }
    last.map_or(Ok(()), each)
}

/// Returns the file offset at which a source starts. It is not 0 for a disk inside an appliance.
fn start_of(source: &dyn Source) -> u64 {
    source.as_file().map_or(0, |(_, start)| start)
}

/// Splits an entry at holes of the file, if the image is preallocated. Clusters in a hole are
/// reported as both data and zero.
fn with_holes(image: &Image, extent: &ChainExtent, whole: MapEntry) -> Vec<MapEntry> {
    let Kind::Data(host) = extent.kind else { return vec![whole] };
    if !image.layers().nth(extent.depth).is_some_and(|layer| layer.is_preallocated()) {
        return vec![whole];
    }
    let file = image.file(extent.depth, host.file);
    segments(file, host.offset..host.offset + whole.length)
        .map(|(segment, zero)| MapEntry {
            start: whole.start + (segment.start - host.offset),
            length: segment.end - segment.start,
            zero,
            offset: Some(start_of(file) + segment.start),
            ..whole.clone()
        })
        .collect()
}
