//! A file on a server as a source.

use super::answer::Version;
use super::body::{MIN_PROGRESS, cut_off, read_body};
use super::client::part;
use super::transport::Attempt;
use diskimg::storage::source::{IoHints, RetryPolicy, Source, SourceError};
use std::fmt::Debug;
use std::ops::Range;
use std::time::Duration;
use ureq::Body;
use ureq::http::Response;

/// Requests for ranges of a file: what differs between HTTP and protocols that are built upon it.
pub(crate) trait Ranges: Send + Sync + Debug {
    /// Requests a range of this version of the file. Returns the response of any status, unless it
    /// is known what a refusal means.
    fn get(&self, range: &Range<u64>, version: &Version) -> Attempt<Response<Body>>;

    /// Returns the name of the protocol, for reports.
    fn protocol(&self) -> &'static str;

    /// Returns the maximum time between two parts of a response.
    fn stall_timeout(&self) -> Duration;
}

/// A file that is read by ranges. Each read is one request, or more if the connection is lost.
#[derive(Debug)]
pub(crate) struct RangeSource<F> {
    pub(crate) file: F,
    pub(crate) version: Version,
    pub(crate) len: u64,
    /// The first bytes of the file.
    pub(crate) first: Vec<u8>,
    pub(crate) retry: RetryPolicy,
}

impl<F: Ranges> RangeSource<F> {
    /// Reads a part of `buf`, and adds its length to `done`. What arrived is kept, but less than
    /// [`MIN_PROGRESS`] bytes are a failure, unless no more are missing.
    fn read_part(&self, buf: &mut [u8], offset: u64, done: &mut usize) -> Result<(), SourceError> {
        let (rest, from) = (&mut buf[*done..], offset + *done as u64);
        let range = from..from + rest.len() as u64;
        let known = (self.len, &self.version);
        let response = self.file.get(&range, &self.version).map_err(SourceError::from)?;
        let mut part = part(response, &range, Some(known)).map_err(SourceError::from)?;
        let read = read_body(&mut part.body, rest, self.file.stall_timeout());
        let read = read.map_err(SourceError::Transient)?;
        *done += read;
        match read < rest.len().min(MIN_PROGRESS) {
            true => Err(SourceError::Transient(cut_off())),
            false => Ok(()),
        }
    }
}

impl<F: Ranges> Source for RangeSource<F> {
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
        Some(self.file.protocol())
    }

    fn io(&self) -> IoHints {
        IoHints::remote()
    }
}
