//! Bodies of responses, which may be longer, shorter or slower than they should be.

use super::answer::Unexpected;
#[cfg(any(feature = "s3", feature = "swift"))]
use super::transport::{Attempt, Failure};
use std::io::{self, Read};
use std::time::{Duration, Instant};
use ureq::Body;
#[cfg(any(feature = "s3", feature = "swift"))]
use ureq::http::Response;

/// Bytes that must arrive within the stall timeout: a server that sends a byte now and then is given
/// up.
pub(crate) const MIN_PROGRESS: usize = 64 << 10;

/// Fails if a stream is slower than [`MIN_PROGRESS`] bytes in an interval.
#[derive(Debug)]
pub(crate) struct Paced<R> {
    inner: R,
    interval: Duration,
    since: Instant,
    bytes: usize,
}

impl<R> Paced<R> {
    pub(crate) fn new(inner: R, interval: Duration) -> Self {
        Self { inner, interval, since: Instant::now(), bytes: 0 }
    }
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.bytes += n;
        if n > 0 && self.since.elapsed() > self.interval {
            if self.bytes < MIN_PROGRESS {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the server is too slow"));
            }
            (self.since, self.bytes) = (Instant::now(), 0);
        }
        Ok(n)
    }
}

/// Reads a body into `buf`. Returns how many bytes there were until it ended, or until the
/// connection was lost.
///
/// # Errors
/// Returns the error of the connection if nothing arrived, and an error if the body is longer than
/// `buf`.
pub(crate) fn read_body(body: &mut Body, buf: &mut [u8], interval: Duration) -> io::Result<usize> {
    let reader = body.with_config().limit(buf.len() as u64 + 1).reader();
    let mut reader = Paced::new(reader, interval);
    let mut filled = 0;
    while filled < buf.len() {
        match reader.read(&mut buf[filled..]) {
            Ok(0) => return Ok(filled),
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // What arrived before the connection was lost is kept.
            Err(_) if filled > 0 => return Ok(filled),
            Err(e) => return Err(e),
        }
    }
    // Reading to the end lets the connection be used again.
    match reader.read(&mut [0]) {
        Ok(0) => Ok(filled),
        Ok(_) => Err(io::Error::other(Unexpected("the answer is longer than the range".into()))),
        // All that was asked for is there.
        Err(_) => Ok(filled),
    }
}

/// Returns the text of a reply, at most 1 MiB.
#[cfg(any(feature = "s3", feature = "swift"))]
pub(crate) fn text(response: Response<Body>, stall_timeout: Duration) -> Attempt<String> {
    const MAX: u64 = 1 << 20;
    let reader = response.into_body().into_with_config().limit(MAX).reader();
    let mut bytes = Vec::new();
    Paced::new(reader, stall_timeout)
        .take(MAX)
        .read_to_end(&mut bytes)
        .map_err(|e| Failure::Temporary(e, None))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The error of a body that is shorter than it should be.
pub(crate) fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the server closed the connection too early")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that delivers `step` bytes at a time, with pauses.
    struct Slow {
        step: usize,
        pause: Duration,
    }

    impl Read for Slow {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            std::thread::sleep(self.pause);
            let n = buf.len().min(self.step);
            buf[..n].fill(1);
            Ok(n)
        }
    }

    #[test]
    fn a_stream_that_is_too_slow_fails() {
        let pause = Duration::from_millis(2);
        let interval = Duration::from_millis(20);
        let read = |step| {
            let mut paced = Paced::new(Slow { step, pause }, interval);
            let mut buf = vec![0; 1 << 20];
            (0..200).try_for_each(|_| paced.read(&mut buf).map(drop))
        };
        read(64 << 10).expect("is fast enough");
        assert_eq!(read(1).expect_err("is slow").kind(), io::ErrorKind::TimedOut);
    }
}
