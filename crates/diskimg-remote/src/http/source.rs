//! A file on a server as a source.

use super::answer::Version;
use super::body::{MIN_PROGRESS, cut_off};
use super::client::Client;
use super::request::Request;
use diskimg::storage::source::{IoHints, RetryPolicy, Source, SourceError};
use std::sync::Arc;

/// A file that is read by ranges. Each read is one request, or more if the connection is lost.
#[derive(Debug)]
pub(super) struct RangeSource {
    pub(super) client: Arc<Client>,
    pub(super) request: Request,
    pub(super) version: Version,
    pub(super) len: u64,
    /// The first bytes of the file.
    pub(super) first: Vec<u8>,
    pub(super) retry: RetryPolicy,
}

impl RangeSource {
    /// Reads a part of `buf`, and adds its length to `done`. What arrived is kept, but less than
    /// [`MIN_PROGRESS`] bytes are a failure, unless no more are missing.
    fn read_part(&self, buf: &mut [u8], offset: u64, done: &mut usize) -> Result<(), SourceError> {
        let (rest, from) = (&mut buf[*done..], offset + *done as u64);
        let range = from..from + rest.len() as u64;
        let known = (self.len, &self.version);
        let mut part =
            self.client.range(&self.request, &range, known).map_err(SourceError::from)?;
        let read = self.client.read(&mut part, rest).map_err(SourceError::Transient)?;
        *done += read;
        match read < rest.len().min(MIN_PROGRESS) {
            true => Err(SourceError::Transient(cut_off())),
            false => Ok(()),
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
            // Each part may be repeated as often as the policy says.
            self.retry.repeat(|| self.read_part(buf, offset, &mut done))?;
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
