//! Conformance checks for images of any format, used by tests and fuzzers.
//!
//! They compare [`Image::read_at`], [`Image::extents`] and [`Image::slices`] with each other and
//! with bytes read directly from the files.

use crate::error::{Error, Result};
use crate::model::extent::{ChainExtent, Kind, push_chain};
use crate::model::fetch::Fetcher;
use crate::model::image::Image;
use crate::model::slices::Slice;
use crate::storage::codec::Decoder;
use crate::storage::source::SourceError;
use std::ops::Range;

/// Size in bytes of a window of guest bytes.
const WINDOW: u64 = 256 << 10;

/// Number of windows that are checked if the disk is too large to be checked completely.
const WINDOWS: u64 = 24;

/// Verifies that
///
/// - extents cover each range exactly, in order, and are not empty and merged where adjacent;
/// - `extents(a..c)` equals `extents(a..b)` and `extents(b..c)`, merged, however many bytes are
///   mapped at a time;
/// - `read_at` returns the bytes of the extents, at any alignment;
/// - slices contain the same bytes.
///
/// Disks of more than 6 MiB are checked only at their start, at their end, and at regular
/// intervals.
///
/// # Errors
/// Returns [`Corrupt`](crate::ErrorKind::Corrupt) with the violated rule, and the underlying error
/// if reading the image fails.
pub fn verify(image: &Image) -> Result<()> {
    for window in windows(image.size()) {
        let extents = image.extents_in(window.clone())?;
        verify_tiling(&extents, &window)?;
        verify_splitting(image, &extents, &window)?;
        let bytes = verify_bytes(image, &extents, &window)?;
        verify_slices(image, &window, &bytes)?;
        verify_single_slices(image, &window, &bytes)?;
    }
    Ok(())
}

/// Verifies that two images have the same extents and the same bytes, for a file that was opened in
/// two ways (read and mapped). Checks the same ranges as [`verify`].
///
/// # Errors
/// Returns [`Corrupt`](crate::ErrorKind::Corrupt) with the difference, and the underlying error if
/// reading an image fails.
pub fn verify_alike(image: &Image, other: &Image) -> Result<()> {
    if (image.format(), image.disk_layout()) != (other.format(), other.disk_layout()) {
        return Err(violation("the format, size or cluster size of the images differs", 0));
    }
    for window in windows(image.size()) {
        if image.extents_in(window.clone())? != other.extents_in(window.clone())? {
            return Err(violation("the extents of the images differ", window.start));
        }
        let read = |image: &Image| {
            let mut bytes = vec![0xa5; (window.end - window.start) as usize];
            image.read_at(&mut bytes, window.start).map(|()| bytes)
        };
        if let Some(at) = first_difference(&read(image)?, &read(other)?) {
            return Err(violation("the bytes of the images differ", window.start + at));
        }
    }
    Ok(())
}

fn windows(size: u64) -> Vec<Range<u64>> {
    if size <= WINDOW * WINDOWS {
        return (0..size).step_by(WINDOW as usize).map(|s| s..size.min(s + WINDOW)).collect();
    }
    let step = (size - WINDOW) / (WINDOWS - 1);
    // Some windows start at odd offsets, because nothing may depend on alignment.
    (0..WINDOWS)
        .map(|i| ((i * step) | u64::from(i % 2 == 1)).min(size - WINDOW))
        .map(|start| start..start + WINDOW)
        .chain(std::iter::once(size - WINDOW..size))
        .collect()
}

fn violation(message: &'static str, at: u64) -> Error {
    Error::corrupt("conformance", format!("{message}, guest offset {at:#x}"))
}

fn verify_tiling(extents: &[ChainExtent], window: &Range<u64>) -> Result<()> {
    let mut at = window.start;
    for extent in extents {
        if extent.guest.start != at || extent.guest.is_empty() {
            return Err(violation("extents do not cover the range without gaps", at));
        }
        at = extent.guest.end;
    }
    if at != window.end {
        return Err(violation("extents do not end with the range", at));
    }
    let mut merged = Vec::new();
    extents.iter().for_each(|e| push_chain(&mut merged, e.clone()));
    if merged != extents {
        return Err(violation("extents are not merged", window.start));
    }
    Ok(())
}

fn verify_splitting(image: &Image, whole: &[ChainExtent], window: &Range<u64>) -> Result<()> {
    let len = window.end - window.start;
    for cut in [1, 511, 512, len / 3, len / 2, len.saturating_sub(1)] {
        let middle = window.start + cut.min(len);
        let mut parts = Vec::new();
        for range in [window.start..middle, middle..window.end] {
            for extent in image.extents_in(range)? {
                push_chain(&mut parts, extent);
            }
        }
        if parts != whole {
            return Err(violation("extents of two parts differ from those of the whole", middle));
        }
    }
    let in_steps: Result<Vec<_>> = image.extents_by(window.clone(), 4096).collect();
    if in_steps? != whole {
        return Err(violation("extents differ if fewer are mapped at a time", window.start));
    }
    Ok(())
}

/// Verifies `read_at` and returns the bytes of the window.
fn verify_bytes(image: &Image, extents: &[ChainExtent], window: &Range<u64>) -> Result<Vec<u8>> {
    let mut rebuilt = Vec::with_capacity((window.end - window.start) as usize);
    for extent in extents {
        rebuild(image, extent, &mut rebuilt).map_err(|e| image.in_layer(e, extent.depth))?;
    }
    let mut read = vec![0xa5; rebuilt.len()];
    image.read_at(&mut read, window.start)?;
    if let Some(at) = first_difference(&read, &rebuilt) {
        return Err(violation("read_at differs from the extents", window.start + at));
    }
    // Read again in unaligned parts.
    for (i, part) in rebuilt.chunks(4099).enumerate().step_by(7) {
        let start = window.start + (i * 4099) as u64;
        let read = &mut read[..part.len()];
        image.read_at(read, start)?;
        if let Some(at) = first_difference(read, part) {
            return Err(violation("an unaligned read_at differs", start + at));
        }
    }
    Ok(rebuilt)
}

/// Verifies that the concatenation of all slices equals `read`.
fn verify_slices(image: &Image, window: &Range<u64>, read: &[u8]) -> Result<()> {
    let mut joined = Vec::with_capacity(read.len());
    let mut fetcher = Fetcher::default();
    for slice in image.slices(window.clone())? {
        let start = joined.len();
        let at = window.start + start as u64;
        match slice? {
            Slice::Bytes(bytes) => joined.extend_from_slice(bytes),
            Slice::Zeros(len) => joined.resize(start + len as usize, 0),
            Slice::Fetch(extent) if extent.guest.start == at => {
                joined.resize(start + extent.len() as usize, 0xa5);
                fetcher.fetch(image, &extent, &mut joined[start..])?;
            }
            Slice::Fetch(_) => return Err(violation("a slice to fetch has the wrong offset", at)),
        }
        if joined.len() == start {
            return Err(violation("a slice is empty", at));
        }
    }
    if joined.len() != read.len() {
        let end = window.start + joined.len() as u64;
        return Err(violation("slices do not end with the range", end));
    }
    match first_difference(&joined, read) {
        Some(at) => Err(violation("slices differ from read_at", window.start + at)),
        None => Ok(()),
    }
}

/// Verifies that slices borrowed at single offsets equal `read`.
fn verify_single_slices(image: &Image, window: &Range<u64>, read: &[u8]) -> Result<()> {
    for start in (0..read.len()).step_by(13 * 4099) {
        let (at, rest) = (window.start + start as u64, &read[start..]);
        let Some(borrowed) = image.slice_at(at, rest.len().min(5000))? else { continue };
        if borrowed.is_empty() || !rest.starts_with(borrowed) {
            return Err(violation("a slice at a single offset differs from read_at", at));
        }
    }
    Ok(())
}

/// Appends the extent's bytes, read directly from the files.
fn rebuild(image: &Image, extent: &ChainExtent, out: &mut Vec<u8>) -> Result<()> {
    let start = out.len();
    out.resize(start + extent.len() as usize, 0);
    let out = &mut out[start..];
    let cannot_read = |e: SourceError| Error::io("cannot read guest data", e);
    match &extent.kind {
        Kind::Zero(_) | Kind::Unallocated => {}
        Kind::Data(host) => {
            image
                .file(extent.depth, host.file)
                .read_exact_at(out, host.offset)
                .map_err(cannot_read)?;
        }
        Kind::Encoded(encoded) => {
            let mut stored = vec![0; encoded.stored as usize];
            let file = image.file(extent.depth, encoded.host.file);
            file.read_exact_at(&mut stored, encoded.host.offset).map_err(cannot_read)?;
            let mut unit = vec![0; (encoded.unit.end - encoded.unit.start) as usize];
            let decoded = Decoder::default().decode(encoded.codec, &stored, &mut unit);
            decoded.map_err(|e| Error::decode("cannot decompress guest data", e))?;
            let skip = (extent.guest.start - encoded.unit.start) as usize;
            out.copy_from_slice(&unit[skip..skip + out.len()]);
        }
    }
    Ok(())
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<u64> {
    a.iter().zip(b).position(|(x, y)| x != y).map(|at| at as u64)
}
