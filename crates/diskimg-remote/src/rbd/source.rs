//! An image in a cluster as a source.

use super::library::Image;
use diskimg::storage::source::{HostFileId, IoHints, Segment, Source, SourceError};
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of which it is found out at a time what is stored.
const WINDOW: u64 = 256 << 20;

/// An image that is read.
#[derive(Debug)]
pub(super) struct RbdSource {
    image: Image,
    len: u64,
    /// That of the image, unless a snapshot is read, which does not change.
    identity: Option<HostFileId>,
    /// What is stored, by the number of the window.
    stored: Mutex<HashMap<u64, Arc<Vec<Range<u64>>>>>,
}

impl RbdSource {
    pub(super) fn new(image: Image, identity: Option<HostFileId>) -> io::Result<Self> {
        let len = image.size()?;
        Ok(Self { image, len, identity, stored: Mutex::default() })
    }

    fn stored(&self, window: u64) -> Result<Arc<Vec<Range<u64>>>, SourceError> {
        let lock = || self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = lock().get(&window) {
            return Ok(Arc::clone(found));
        }
        let start = window * WINDOW;
        let range = start..start.saturating_add(WINDOW).min(self.len);
        let found = Arc::new(self.image.stored(range).map_err(failure)?);
        lock().insert(window, Arc::clone(&found));
        Ok(found)
    }
}

/// Reads bytes of an image whose current length is `len`.
pub(super) fn read(image: &Image, buf: &mut [u8], at: u64, len: u64) -> Result<(), SourceError> {
    let wanted = buf.len() as u64;
    if at.checked_add(wanted).is_none_or(|end| end > len) {
        return Err(SourceError::OutOfRange { offset: at, len: wanted, source_len: len });
    }
    let mut done = 0;
    while done < buf.len() {
        match image.read(&mut buf[done..], at + done as u64).map_err(failure)? {
            0 => {
                let error = io::Error::other("the image became smaller while it was read");
                return Err(SourceError::Storage(error));
            }
            n => done += n,
        }
    }
    Ok(())
}

/// Returns the kind of a failure: the library repeats requests itself until a time limit.
pub(super) fn failure(error: io::Error) -> SourceError {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::NotConnected => SourceError::Transient(error),
        _ => SourceError::Storage(error),
    }
}

impl Source for RbdSource {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        read(&self.image, buf, offset, self.len)
    }

    fn segment_at(&self, offset: u64) -> Result<Segment, SourceError> {
        let window = offset / WINDOW;
        let end = ((window + 1) * WINDOW).min(self.len);
        let stored = self.stored(window)?;
        let next = stored.iter().find(|range| range.end > offset);
        Ok(match next {
            Some(range) if range.start <= offset => {
                Segment { end: range.end.min(end), hole: false }
            }
            Some(range) => Segment { end: range.start.min(end), hole: true },
            None => Segment { end, hole: true },
        })
    }

    fn identity(&self) -> Option<HostFileId> {
        self.identity
    }

    fn protocol(&self) -> Option<&'static str> {
        Some("rbd")
    }

    fn io(&self) -> IoHints {
        IoHints::remote()
    }
}
