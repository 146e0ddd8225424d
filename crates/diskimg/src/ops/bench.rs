//! `bench`: measures how long requests to an image take.

use crate::error::{Error, Result};
use crate::model::format::Format;
use crate::model::image::Image;
use crate::open::OpenOptions;
use crate::ops::guest_writer::GuestWriter;
use crate::ops::in_place::modify_file;
use crate::remedy::Remedy;
use crate::storage::edit::Storage;
use crate::storage::lock;
use crate::storage::locking::Lock;
use std::fmt::Debug;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Maximum number of threads that make requests.
const MAX_THREADS: usize = 64;

/// Reads from an image, or writes to it, with requests of one length at regular intervals, and
/// measures the time: a builder that is configured and then run.
///
/// After the end of the disk, requests continue at its beginning.
///
/// ```no_run
/// use diskimg::{Bench, Image};
///
/// let image = Image::open("disk.qcow2")?;
/// let took = Bench::new().requests(10_000).length(65_536).read(&image)?;
/// println!("{took:?}");
/// # Ok::<(), diskimg::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Bench {
    options: OpenOptions,
    requests: u64,
    depth: usize,
    length: usize,
    offset: u64,
    step: Option<u64>,
    pattern: u8,
    flush_interval: Option<NonZeroU64>,
}

impl Default for Bench {
    fn default() -> Self {
        Self::new()
    }
}

impl Bench {
    /// Creates a builder for 75,000 requests of 4096 bytes one after another, 64 at a time, from the
    /// beginning of the disk.
    pub fn new() -> Self {
        Self {
            options: OpenOptions::new(),
            requests: 75_000,
            depth: 64,
            length: 4096,
            offset: 0,
            step: None,
            pattern: 0,
            flush_interval: None,
        }
    }

    /// Sets how an image that is written is opened: its format, which must be set, and limits.
    #[must_use]
    pub fn open_options(mut self, options: OpenOptions) -> Self {
        self.options = options;
        self
    }

    /// Sets the number of requests.
    #[must_use]
    pub fn requests(mut self, count: u64) -> Self {
        self.requests = count;
        self
    }

    /// Sets how many requests are made at the same time, each by a thread; at most 64 are.
    #[must_use]
    pub fn depth(mut self, requests: usize) -> Self {
        self.depth = requests;
        self
    }

    /// Sets the length of a request in bytes.
    #[must_use]
    pub fn length(mut self, bytes: usize) -> Self {
        self.length = bytes;
        self
    }

    /// Sets the offset of the first request in bytes.
    #[must_use]
    pub fn offset(mut self, bytes: u64) -> Self {
        self.offset = bytes;
        self
    }

    /// Sets the distance in bytes from the beginning of a request to that of the next one. The
    /// default is the length.
    #[must_use]
    pub fn step(mut self, bytes: u64) -> Self {
        self.step = Some(bytes);
        self
    }

    /// Sets the byte that is written.
    #[must_use]
    pub fn pattern(mut self, byte: u8) -> Self {
        self.pattern = byte;
        self
    }

    /// Flushes the file whenever this many requests have been made since the last time. By default,
    /// it is not flushed.
    #[must_use]
    pub fn flush_interval(mut self, requests: NonZeroU64) -> Self {
        self.flush_interval = Some(requests);
        self
    }

    /// Reads from an image. Returns the time that all requests took.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if a request exceeds the disk, and the errors
    /// of [`Image::read_at`].
    pub fn read(&self, image: &Image) -> Result<Duration> {
        let read = |buf: &mut [u8], at| image.read_at(buf, at);
        self.run(image.size(), &read, &|| Ok(()))
    }

    /// Overwrites guest bytes of the existing image at `path`, whose content is lost. Returns the
    /// time that all requests took, until what was written to an image of another format than raw
    /// is stored: it is collected in memory, and stored whenever 64 MiB are, and with a flush.
    ///
    /// # Errors
    /// - [`Invalid`](crate::ErrorKind::Invalid) if a request exceeds the disk;
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if the format is not
    ///   [set](Self::open_options), or if the image can only be written as a whole;
    /// - [`Locked`](crate::ErrorKind::Locked) if another process uses the image;
    /// - [`Io`](crate::ErrorKind::Io) if the file cannot be opened or written;
    /// - the other errors of [`OpenOptions::open`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<Duration> {
        let path = path.as_ref();
        let write = |storage, name: String| self.write_to(&storage, &name);
        modify_file(path, write).map_err(|e| e.in_file(path))
    }

    /// Overwrites guest bytes of an image in any storage. Errors refer to the image as `name`.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_on(&self, storage: Arc<dyn Storage>, name: impl Into<String>) -> Result<Duration> {
        let name = name.into();
        self.write_to(&storage, &name).map_err(|e| e.in_file(name))
    }

    fn write_to(&self, storage: &Arc<dyn Storage>, name: &str) -> Result<Duration> {
        if self.options.is_probed() {
            let message = "only an image whose format is named is overwritten";
            return Err(Error::unsupported(message).with_remedy(Remedy::NameFormat));
        }
        storage.lock(Lock::WRITE).map_err(|e| Error::io("cannot lock it", e))?;
        let writer = GuestWriter::open_locked(storage, &self.options, name)?;
        let write = |buf: &mut [u8], at| writer.write_at(buf, at);
        let begin = Instant::now();
        let took = self.run(writer.size(), &write, &|| writer.flush())?;
        if writer.format() == Format::Raw {
            return Ok(took);
        }
        // The last requests are stored, too.
        writer.flush()?;
        Ok(begin.elapsed())
    }

    /// Makes the requests, each by calling `request` with a buffer and an offset.
    fn run(
        &self,
        size: u64,
        request: &(dyn Fn(&mut [u8], u64) -> Result<()> + Sync),
        flush: &(dyn Fn() -> Result<()> + Sync),
    ) -> Result<Duration> {
        let next = Mutex::new(Next { number: 0, offset: self.offset });
        let step = self.step.unwrap_or(self.length as u64);
        let take = || {
            let mut next = lock(&next);
            let (number, offset) = (next.number, next.offset);
            if number == self.requests {
                return None;
            }
            next.number += 1;
            next.offset = offset.saturating_add(step).checked_rem(size).unwrap_or(0);
            Some((number, offset))
        };
        let work = || {
            let mut buf = vec![self.pattern; self.length];
            while let Some((number, offset)) = take() {
                let made = request(&mut buf, offset).and_then(|()| match self.flush_interval {
                    Some(interval) if (number + 1) % interval == 0 => flush(),
                    _ => Ok(()),
                });
                if made.is_err() {
                    lock(&next).number = self.requests; // The others stop, too.
                    return made;
                }
            }
            Ok(())
        };
        let threads = self.depth.clamp(1, MAX_THREADS);
        let threads = threads.min(usize::try_from(self.requests).unwrap_or(MAX_THREADS));
        let begin = Instant::now();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut outcome = work();
            for worker in workers {
                let made = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                outcome = outcome.and(made);
            }
            outcome
        })?;
        Ok(begin.elapsed())
    }
}

/// The next request.
struct Next {
    number: u64,
    offset: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Returns how often each offset was requested.
    fn requested(bench: &Bench, size: u64) -> BTreeMap<u64, usize> {
        let found = Mutex::new(BTreeMap::new());
        let request = |buf: &mut [u8], at| {
            assert_eq!(buf.len(), bench.length);
            *lock(&found).entry(at).or_default() += 1;
            Ok(())
        };
        bench.run(size, &request, &|| Ok(())).expect("runs");
        found.into_inner().expect("not poisoned")
    }

    #[test]
    fn requests_are_made_at_regular_intervals_and_start_again_at_the_end() {
        let bench = Bench::new().requests(10).length(512).step(1024).offset(2048);
        let expected = [(0, 2), (1024, 2), (2048, 3), (3072, 3)].into();
        assert_eq!(requested(&bench, 4096), expected);
        for depth in [0, 1, 1000] {
            assert_eq!(requested(&bench.clone().depth(depth), 4096), expected);
        }
        assert_eq!(requested(&bench.clone().requests(0), 4096), BTreeMap::new());
        assert_eq!(requested(&bench, 0), [(0, 9), (2048, 1)].into());
    }

    #[test]
    fn the_file_is_flushed_at_intervals_and_the_first_error_ends_the_run() {
        let flushes = Mutex::new(0);
        let bench = Bench::new().requests(10).flush_interval(NonZeroU64::new(3).expect("not 0"));
        let flush = || {
            *lock(&flushes) += 1;
            Ok(())
        };
        bench.run(4096, &|_, _| Ok(()), &flush).expect("runs");
        assert_eq!(*lock(&flushes), 3);
        let failing = bench.run(4096, &|_, _| Err(Error::invalid("x")), &flush);
        assert_eq!(failing.expect_err("fails").to_string(), "x");
        assert_eq!(*lock(&flushes), 3);
    }
}
