//! `map`: where guest bytes are stored, in the terms of `qemu-img map`.

use crate::error::Result;
use crate::model::extent::{ChainExtent, HostOffset, Kind};
use crate::model::image::Image;
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
    let mut last: Option<MapEntry> = None;
    for extent in image.extents(range.start.min(end)..end)? {
        for_each_entry(image, &extent?, &mut |entry| match &mut last {
            Some(last) if last.continues(&entry) => {
                last.length += entry.length;
                Ok(())
            }
            last => last.replace(entry).map_or(Ok(()), &mut *each),
        })?;
    }
    last.map_or(Ok(()), each)
}

/// Returns the file offset at which a source starts. It is not 0 for a disk inside an appliance.
fn start_of(source: &dyn Source) -> u64 {
    source.as_file().map_or(0, |(_, start)| start)
}

/// Calls `each` with the entry of an extent, or, if the image is preallocated, with the parts into
/// which holes of the file split it. Clusters in a hole are reported as both data and zero.
fn for_each_entry(
    image: &Image,
    extent: &ChainExtent,
    each: &mut dyn FnMut(MapEntry) -> Result<()>,
) -> Result<()> {
    let whole = MapEntry::new(image, extent);
    let preallocated = || image.layer(extent.depth).is_preallocated();
    let host = match extent.kind {
        Kind::Data(host) if preallocated() => host,
        _ => return each(whole),
    };
    let file = image.file(extent.depth, host.file);
    for (segment, zero) in segments(file, host.offset..host.offset + whole.length) {
        each(MapEntry {
            start: whole.start + (segment.start - host.offset),
            length: segment.end - segment.start,
            zero,
            offset: Some(start_of(file) + segment.start),
            ..whole.clone()
        })?;
    }
    Ok(())
}
