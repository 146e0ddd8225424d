//! The interface for modifying an image in place.

use crate::error::{Error, Result};
use crate::model::backing::Backing;
use crate::model::flat::Preallocation;
use crate::model::image::Image;
use crate::model::options::Options;
use crate::model::target::TargetSpec;
use crate::report::check::{Finding, RepairScope};
use crate::storage::edit::Edits;
use std::fmt::Debug;

/// An image that is open for modification.
///
/// If a modification fails, or the process is killed, or power is lost, the image is consistent,
/// except that some space may be allocated without being used.
pub(crate) trait MutableLayer: Send + Debug {
    /// Changes the virtual size, as a whole or not at all. Bytes beyond the old end read as zeros.
    ///
    /// # Errors
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if the image has a feature with which it
    ///   cannot be resized;
    /// - [`Invalid`](crate::ErrorKind::Invalid) if the format cannot have this size;
    /// - [`Corrupt`](crate::ErrorKind::Corrupt) if the image is damaged;
    /// - [`Io`](crate::ErrorKind::Io) if reading or writing fails.
    fn resize(&mut self, request: &ResizeRequest<'_>) -> Result<()>;

    /// Returns what guest data is written through, in place. Returns `None` if the format can only
    /// be written as a whole.
    ///
    /// The [target](crate::model::target::Target) keeps everything that is not written: the backing
    /// file, snapshots, bitmaps, space that was allocated in advance. Each guest byte is the old or
    /// the new one if writing fails.
    ///
    /// # Errors
    /// As [`resize`](Self::resize). Nothing has been written then.
    fn into_target(self: Box<Self>, request: &WriteRequest) -> Result<Option<Box<dyn TargetSpec>>> {
        let _ = request;
        Ok(None)
    }

    /// Returns the modifications of the image's main file that change its reference to the backing
    /// file, or remove it. They are those of the header as it is stored when this is called. At
    /// every point, the image refers to the old or to the new backing file.
    ///
    /// # Errors
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if the reference cannot be changed in images
    ///   of this format, or in this image;
    /// - [`Limit`](crate::ErrorKind::Limit) if the image has no room for the name;
    /// - [`Corrupt`](crate::ErrorKind::Corrupt) if the header is damaged;
    /// - [`Io`](crate::ErrorKind::Io) if it cannot be read.
    fn backing_edits(&self, backing: Option<&Backing>) -> Result<Edits> {
        let _ = backing;
        Err(Error::unsupported("Operation not supported"))
    }

    /// Makes every cluster unallocated, so that the disk reads as its backing file. The backing file
    /// must have the same content: while this runs, and after a crash, some clusters are unallocated
    /// and others are not. Snapshots and bitmaps are kept. Returns false if nothing was changed,
    /// because this is not possible in images of this format.
    ///
    /// # Errors
    /// As [`resize`](Self::resize).
    fn make_empty(self: Box<Self>) -> Result<bool> {
        Ok(false)
    }
}

/// How guest data is written into an existing image.
#[derive(Debug)]
pub(crate) struct WriteRequest {
    /// Whether clusters are compressed.
    pub(crate) compress: bool,
    /// Whether the image is about to get a backing file that it does not have yet, so that zeros
    /// must be recorded that would read as zeros without one.
    pub(crate) hides_backing: bool,
}

/// What is repaired in a damaged image.
pub(crate) struct RepairRequest<'a> {
    pub(crate) scope: RepairScope,
    /// Whether files that the image names may be written, too.
    pub(crate) further_files: bool,
    /// Called with damage that is left although the check of the format does not find it.
    pub(crate) report: &'a mut dyn FnMut(Finding),
    /// Called with what is being repaired, if the format says so.
    pub(crate) repaired: &'a mut dyn FnMut(Finding),
}

/// New values of options of an image.
pub(crate) struct AmendRequest<'a> {
    pub(crate) options: &'a Options,
    /// The format was probed, not named; see [`ResizeRequest`].
    pub(crate) format_probed: bool,
    /// The backing chain, if the image has one and the size changes.
    pub(crate) backing: Option<&'a Image>,
    /// Called with how much is done, and of how much.
    pub(crate) report: &'a mut dyn FnMut(u64, u64) -> Result<()>,
}

/// The result of [`Amend::run`](crate::Amend::run).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Amended {
    /// Number of bitmaps that were removed, because the image cannot have any now.
    pub removed_bitmaps: u64,
}

/// A new virtual size.
#[derive(Debug)]
pub(crate) struct ResizeRequest<'a> {
    /// The new size in bytes.
    pub(crate) size: u64,
    /// How space is allocated for added bytes.
    pub(crate) preallocation: Preallocation,
    /// The format was probed, not named. The image may then be a raw disk into which a guest wrote
    /// a header, so no data is copied into it from the backing file that it names.
    pub(crate) format_probed: bool,
    /// The backing chain, if the image has one.
    pub(crate) backing: Option<&'a Image>,
}
