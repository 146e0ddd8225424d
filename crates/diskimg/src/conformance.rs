//! What every format promises, as a program: run it on any image.
//!
//! Tests run it on each format's images, fuzzers use it as their oracle. It
//! trusts neither [`Image::read_at`] nor [`Image::extents`]: each is held
//! against the other and against bytes rebuilt from the files themselves.

use crate::error::{Error, Result};
use crate::model::extent::{ChainExtent, Kind, push_chain};
use crate::model::fetch::Fetcher;
use crate::model::image::Image;
use crate::model::slices::Slice;
use crate::storage::codec::Decoder;
use std::ops::Range;

/// Guest bytes looked at in each window.
const WINDOW: u64 = 256 << 10;

/// Windows of a disk too large to be looked at whole.
const WINDOWS: u64 = 24;

/// Verifies that
///
/// - extents tile every range asked for, in order, none empty, none that
///   should have been merged;
/// - `extents(a..c)` is `extents(a..b)` and `extents(b..c)`, merged;
/// - `read_at` gives the bytes that the extents lead to, at any alignment;
/// - slices, one after the other, are those bytes.
///
/// A disk of more than a few megabytes is sampled at its ends and at even
/// distances between.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) naming the promise that was broken;
/// otherwise what reading the image said.
pub fn verify(image: &Image) -> Result<()> {
    for window in windows(image.size()) {
        let extents = image.extents(window.clone())?;
        verify_tiling(&extents, &window)?;
        verify_splitting(image, &extents, &window)?;
        let bytes = verify_bytes(image, &extents, &window)?;
        verify_slices(image, &window, &bytes)?;
        verify_single_slices(image, &window, &bytes)?;
    }
    Ok(())
}

/// Verifies that two images are alike: the same file, opened in two ways (read
/// and mapped), has the same extents and the same bytes. Looks where
/// [`verify`] does.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) naming what differs; otherwise what
/// reading the images said.
pub fn verify_alike(image: &Image, other: &Image) -> Result<()> {
    if (image.format(), image.disk_layout()) != (other.format(), other.disk_layout()) {
        return Err(broken("two ways to open it give disks of different geometry", 0));
    }
    for window in windows(image.size()) {
        if image.extents(window.clone())? != other.extents(window.clone())? {
            return Err(broken("two ways to open it give different extents", window.start));
        }
        let read = |image: &Image| {
            let mut bytes = vec![0xa5; (window.end - window.start) as usize];
            image.read_at(&mut bytes, window.start).map(|()| bytes)
        };
        if let Some(at) = first_difference(&read(image)?, &read(other)?) {
            return Err(broken("two ways to open it give different bytes", window.start + at));
        }
    }
    Ok(())
}

fn windows(size: u64) -> Vec<Range<u64>> {
    if size <= WINDOW * WINDOWS {
        return (0..size).step_by(WINDOW as usize).map(|s| s..size.min(s + WINDOW)).collect();
    }
    let step = (size - WINDOW) / (WINDOWS - 1);
    // Odd starts: nothing may depend on alignment.
    (0..WINDOWS)
        .map(|i| ((i * step) | u64::from(i % 2 == 1)).min(size - WINDOW))
        .map(|start| start..start + WINDOW)
        .chain(std::iter::once(size - WINDOW..size))
        .collect()
}

fn broken(promise: &'static str, at: u64) -> Error {
    Error::corrupt("conformance", format!("{promise}, guest offset {at:#x}"))
}

fn verify_tiling(extents: &[ChainExtent], window: &Range<u64>) -> Result<()> {
    let mut at = window.start;
    for extent in extents {
        if extent.guest.start != at || extent.guest.is_empty() {
            return Err(broken("extents do not tile the range", at));
        }
        at = extent.guest.end;
    }
    if at != window.end {
        return Err(broken("extents do not end with the range", at));
    }
    let mut merged = Vec::new();
    extents.iter().for_each(|e| push_chain(&mut merged, e.clone()));
    if merged != extents {
        return Err(broken("extents are not merged", window.start));
    }
    Ok(())
}

fn verify_splitting(image: &Image, whole: &[ChainExtent], window: &Range<u64>) -> Result<()> {
    let len = window.end - window.start;
    for cut in [1, 511, 512, len / 3, len / 2, len.saturating_sub(1)] {
        let middle = window.start + cut.min(len);
        let mut parts = Vec::new();
        for range in [window.start..middle, middle..window.end] {
            for extent in image.extents(range)? {
                push_chain(&mut parts, extent);
            }
        }
        if parts != whole {
            return Err(broken("extents of the parts differ from those of the whole", middle));
        }
    }
    Ok(())
}

/// Gives the bytes.
fn verify_bytes(image: &Image, extents: &[ChainExtent], window: &Range<u64>) -> Result<Vec<u8>> {
    let mut rebuilt = Vec::with_capacity((window.end - window.start) as usize);
    for extent in extents {
        rebuild(image, extent, &mut rebuilt).map_err(|e| image.in_layer(e, extent.depth))?;
    }
    let mut read = vec![0xa5; rebuilt.len()];
    image.read_at(&mut read, window.start)?;
    if let Some(at) = first_difference(&read, &rebuilt) {
        return Err(broken("read_at differs from the extents", window.start + at));
    }
    // Again in unaligned pieces.
    for (i, piece) in rebuilt.chunks(4099).enumerate().step_by(7) {
        let start = window.start + (i * 4099) as u64;
        let read = &mut read[..piece.len()];
        image.read_at(read, start)?;
        if let Some(at) = first_difference(read, piece) {
            return Err(broken("an unaligned read_at differs", start + at));
        }
    }
    Ok(rebuilt)
}

/// What the slices give, glued together, is what was read.
fn verify_slices(image: &Image, window: &Range<u64>, read: &[u8]) -> Result<()> {
    let mut glued = Vec::with_capacity(read.len());
    let mut fetcher = Fetcher::default();
    for slice in image.slices(window.clone())? {
        let start = glued.len();
        let at = window.start + start as u64;
        match slice? {
            Slice::Bytes(bytes) => glued.extend_from_slice(bytes),
            Slice::Zeros(len) => glued.resize(start + len as usize, 0),
            Slice::Fetch(extent) if extent.guest.start == at => {
                glued.resize(start + extent.len() as usize, 0xa5);
                fetcher.fetch(image, &extent, &mut glued[start..])?;
            }
            Slice::Fetch(_) => return Err(broken("a slice to be fetched is out of place", at)),
        }
        if glued.len() == start {
            return Err(broken("a slice is empty", at));
        }
    }
    if glued.len() != read.len() {
        return Err(broken("slices do not end with the range", window.start + glued.len() as u64));
    }
    match first_difference(&glued, read) {
        Some(at) => Err(broken("slices differ from the bytes that were read", window.start + at)),
        None => Ok(()),
    }
}

/// What is lent from anywhere is what was read there.
fn verify_single_slices(image: &Image, window: &Range<u64>, read: &[u8]) -> Result<()> {
    for start in (0..read.len()).step_by(13 * 4099) {
        let (at, rest) = (window.start + start as u64, &read[start..]);
        let Some(lent) = image.slice_at(at, rest.len().min(5000))? else { continue };
        if lent.is_empty() || !rest.starts_with(lent) {
            return Err(broken("a single slice differs from the bytes that were read", at));
        }
    }
    Ok(())
}

/// Appends the extent's bytes, by way of the files alone.
fn rebuild(image: &Image, extent: &ChainExtent, out: &mut Vec<u8>) -> Result<()> {
    let start = out.len();
    out.resize(start + extent.len() as usize, 0);
    let out = &mut out[start..];
    let cannot = |e| Error::io("cannot read guest data", e);
    match &extent.kind {
        Kind::Zero(_) | Kind::Unallocated => {}
        Kind::Data(place) => {
            image
                .file(extent.depth, place.file)
                .read_exact_at(out, place.offset)
                .map_err(cannot)?;
        }
        Kind::Encoded(encoded) => {
            let mut stored = vec![0; encoded.stored as usize];
            let file = image.file(extent.depth, encoded.place.file);
            file.read_exact_at(&mut stored, encoded.place.offset).map_err(cannot)?;
            let mut unit = vec![0; (encoded.unit.end - encoded.unit.start) as usize];
            Decoder::default().decode(encoded.codec, &stored, &mut unit).map_err(cannot)?;
            let skip = (extent.guest.start - encoded.unit.start) as usize;
            out.copy_from_slice(&unit[skip..skip + out.len()]);
        }
    }
    Ok(())
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<u64> {
    a.iter().zip(b).position(|(x, y)| x != y).map(|at| at as u64)
}
