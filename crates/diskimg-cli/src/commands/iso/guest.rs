//! The guest's bytes of an image of any format, as a source: a disk that is an ISO image.

use diskimg::{Error, Image, Source};
use std::io;

/// What the guest sees.
#[derive(Debug)]
pub(super) struct GuestSource(Image);

impl GuestSource {
    /// Of this image.
    pub(super) fn new(image: Image) -> Self {
        Self(image)
    }
}

impl Source for GuestSource {
    fn len(&self) -> u64 {
        self.0.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.len()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.0.read_at(buf, offset).map_err(as_io)
    }
}

/// What the system said, if it said anything.
fn as_io(error: Error) -> io::Error {
    match error.io_error().map(io::Error::kind) {
        Some(kind) => io::Error::new(kind, error),
        None => io::Error::other(error),
    }
}
