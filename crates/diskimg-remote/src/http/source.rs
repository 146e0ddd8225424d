//! A file on a server as a source.

use super::answer::Version;
use super::client::{Client, cut_off, read_body};
use super::request::Request;
use diskimg::storage::source::{IoHints, Source, SourceError};
use std::sync::Arc;

/// An attempt that delivers at least this many bytes is continued where it stopped. The stall timeout
/// bounds how long it takes, so that a server which sends a byte now and then is given up.
const MIN_PROGRESS: usize = 64 << 10;

/// A file that is read by ranges. Each read is one request, or more if the connection is lost.
#[derive(Debug)]
pub(super) struct RangeSource {
    client: Arc<Client>,
    request: Request,
    version: Version,
    len: u64,
    /// The first bytes of the file.
    first: Vec<u8>,
}

impl RangeSource {
    pub(super) fn new(
        client: Arc<Client>,
        request: Request,
        version: Version,
        len: u64,
        first: Vec<u8>,
    ) -> Self {
        Self { client, request, version, len, first }
    }

    /// Reads a part of `buf`, at least [`MIN_PROGRESS`] bytes unless it is shorter. Returns its length.
    fn read_part(&self, buf: &mut [u8], offset: u64) -> Result<usize, SourceError> {
        let range = offset..offset + buf.len() as u64;
        let known = (self.len, &self.version);
        let mut part =
            self.client.range(&self.request, &range, known).map_err(SourceError::from)?;
        let read = read_body(&mut part.body, buf).map_err(SourceError::Transient)?;
        match read < buf.len().min(MIN_PROGRESS) {
            true => Err(SourceError::Transient(cut_off())),
            false => Ok(read),
        }
    }
}

impl Source for RangeSource {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        let len = buf.len() as u64;
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(SourceError::OutOfRange { offset, len, source_len: self.len });
        }
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.first.len());
        let known = (self.first.len() - start).min(buf.len());
        buf[..known].copy_from_slice(&self.first[start..start + known]);
        let mut done = known;
        while done < buf.len() {
            done += self.read_part(&mut buf[done..], offset + done as u64)?;
        }
        Ok(())
    }

    fn protocol(&self) -> Option<&'static str> {
        Some(self.request.protocol())
    }

    fn io(&self) -> IoHints {
        IoHints::remote()
    }
}
