//! The interface for modifying an image in place.

use crate::error::Result;
use crate::model::flat::Preallocation;
use crate::model::image::Image;
use crate::model::target::TargetSpec;
use crate::report::check::{Finding, RepairScope};
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
}

/// How guest data is written into an existing image.
#[derive(Debug)]
pub(crate) struct WriteRequest {
    /// Whether clusters are compressed.
    pub(crate) compress: bool,
}

/// What is repaired in a damaged image.
pub(crate) struct RepairRequest<'a> {
    pub(crate) scope: RepairScope,
    /// Called with damage that is left although the check of the format does not find it.
    pub(crate) report: &'a mut dyn FnMut(Finding),
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
