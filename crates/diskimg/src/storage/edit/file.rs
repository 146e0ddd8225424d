//! Files as storage.

use super::Storage;
use crate::storage::caching::Caching;
use crate::storage::lock;
use crate::storage::locking::Lock;
use crate::storage::os;
use crate::storage::output::Destination;
use crate::storage::sink::{FileSink, Sink};
use crate::storage::source::{
    FileSource, HostFileId, Segment, Source, SourceError, check_range, read_file, segment_of_file,
};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A regular file or block device, opened for reading and writing.
#[derive(Debug)]
pub struct FileStorage {
    // The same open file as the source's, which holds the lock: dropped first.
    sink: FileSink,
    source: FileSource,
    current_len: AtomicU64,
    /// The last segment with data that was found. It is right even if a part of it has become a hole,
    /// which reads as zeros. Finding the end of a segment takes as long as the segment is.
    last_data: Mutex<Range<u64>>,
    replaced: AtomicBool,
}

impl FileStorage {
    /// Opens `path` for reading and writing.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::InvalidInput`] if it is neither a regular file nor a block device,
    /// the errors of [`Destination::of`], and the error of the system if opening fails.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let source = FileSource::open_to_write(&Destination::of(path)?, path)?;
        let file = source.file().try_clone()?;
        Ok(Self {
            current_len: AtomicU64::new(source.len()),
            last_data: Mutex::default(),
            sink: FileSink::new(file, false)?,
            source,
            replaced: AtomicBool::new(false),
        })
    }

    /// Opens `path`, the path of the file that is open as `file`, for reading and writing, and locks
    /// it.
    ///
    /// # Errors
    /// As [`open`](Self::open), and if `path` names another file by now.
    pub(crate) fn reopen(path: &Path, file: &dyn Source) -> io::Result<Self> {
        let storage = Self::reopen_unlocked(path, file)?;
        storage.lock(Lock::WRITE)?;
        Ok(storage)
    }

    /// As [`reopen`](Self::reopen), without locking the file, for one that is locked as `file`.
    ///
    /// # Errors
    /// As [`reopen`](Self::reopen).
    pub(crate) fn reopen_unlocked(path: &Path, file: &dyn Source) -> io::Result<Self> {
        let storage = Self::open(path)?;
        if file.identity().is_some_and(|id| storage.source.identity() != Some(id)) {
            return Err(io::Error::other("another process has replaced it since it was opened"));
        }
        Ok(storage)
    }

    /// Returns true if a new file was put in the place of this one.
    pub(crate) fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::Relaxed)
    }

    /// Records how long the file is after a write that ends at `end`. A write that fails, for example
    /// because the disk is full, may have written a part.
    fn extend(&self, outcome: io::Result<()>, end: u64) -> io::Result<()> {
        let len = match &outcome {
            Ok(()) => end,
            Err(_) if self.has_fixed_len() => return outcome,
            Err(_) => self.source.file().metadata().map_or(0, |metadata| metadata.len()),
        };
        self.current_len.fetch_max(len, Ordering::Relaxed);
        outcome
    }
}

impl Source for FileStorage {
    fn len(&self) -> u64 {
        self.source.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        check_range(offset, buf.len(), self.current_len())?;
        read_file(self.source.file(), buf, offset)
    }

    fn segment_at(&self, offset: u64) -> Result<Segment, SourceError> {
        // Not the source's, which remembers holes, to which data may have been written since.
        let len = self.current_len();
        let mut last = lock(&self.last_data);
        if last.contains(&offset) && offset < len {
            return Ok(Segment { end: last.end.min(len), hole: false });
        }
        let segment = segment_of_file(self.source.file(), offset, len)?;
        if !segment.hole {
            *last = offset..segment.end;
        }
        Ok(segment)
    }

    fn as_file(&self) -> Option<(&File, u64)> {
        self.source.as_file()
    }

    fn path(&self) -> Option<&Path> {
        self.source.path()
    }

    fn is_device(&self) -> bool {
        self.source.is_device()
    }

    fn allocated_bytes(&self) -> io::Result<Option<u64>> {
        self.source.allocated_bytes()
    }

    fn lock(&self, lock: Lock) -> io::Result<()> {
        self.source.lock(lock)?;
        if !self.is_device() && self.source.file().metadata()?.len() != self.current_len() {
            return Err(io::Error::other("its length changed before it was locked"));
        }
        Ok(())
    }

    fn identity(&self) -> Option<HostFileId> {
        self.source.identity()
    }
}

impl Sink for FileStorage {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.extend(self.sink.write_all_at(buf, offset), offset + buf.len() as u64)
    }

    fn set_caching(&self, caching: Caching) -> io::Result<()> {
        self.sink.set_caching(caching)
    }

    fn is_zeroed(&self) -> bool {
        false
    }

    fn has_fixed_len(&self) -> bool {
        self.sink.has_fixed_len()
    }

    fn write_zeros_at(&self, offset: u64, len: u64) -> io::Result<()> {
        self.extend(self.sink.write_zeros_at(offset, len), offset + len)
    }

    fn preallocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.extend(self.sink.preallocate(offset, len), offset + len)
    }

    /// Without the trial of a new file, which would make this one longer for a moment.
    fn shareable_block(&self, source: &dyn Source) -> io::Result<Option<u64>> {
        match source.as_file() {
            Some((file, _)) if !self.has_fixed_len() => {
                match os::can_reflink(file, self.sink.file()) {
                    true => os::block_size(self.sink.file()),
                    false => Ok(None),
                }
            }
            _ => Ok(None),
        }
    }

    fn share(
        &self,
        source: &dyn Source,
        source_offset: u64,
        offset: u64,
        len: u64,
    ) -> io::Result<bool> {
        match self.sink.share(source, source_offset, offset, len) {
            Ok(false) => Ok(false),
            shared => self.extend(shared.map(drop), offset + len).map(|()| true),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.sink.set_len(len)?;
        if !self.has_fixed_len() {
            self.current_len.store(len, Ordering::Relaxed);
        }
        Ok(())
    }

    fn start_flush(&self) {
        self.sink.start_flush();
    }

    fn flush(&self) -> io::Result<()> {
        self.sink.flush()
    }
}

impl Storage for FileStorage {
    fn current_len(&self) -> u64 {
        self.current_len.load(Ordering::Relaxed)
    }

    fn note_replaced(&self) {
        self.replaced.store(true, Ordering::Relaxed);
    }

    fn discard_at(&self, offset: u64, len: u64) -> io::Result<()> {
        os::punch_hole(self.source.file(), offset, len).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_file_that_was_replaced_after_it_was_opened_is_not_written() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = |name: &str| dir.path().join(name);
        for name in ["a", "b"] {
            std::fs::write(path(name), name).expect("writes");
        }
        let file = FileSource::open(path("a")).expect("opens");
        FileStorage::reopen(&path("a"), &file).expect("is the same");
        std::fs::remove_file(path("a")).expect("removes");
        std::os::unix::fs::symlink("b", path("a")).expect("links");
        FileStorage::reopen(&path("a"), &file).expect_err("is another file");
    }

    #[test]
    fn a_write_that_fails_may_have_made_the_file_longer() {
        let file = tempfile::NamedTempFile::new().expect("creates");
        std::fs::write(file.path(), [1; 10]).expect("writes");
        let storage = FileStorage::open(file.path()).expect("opens");
        std::fs::write(file.path(), [1; 17]).expect("writes");
        let full = || Err(io::ErrorKind::StorageFull.into());
        storage.extend(full(), 30).expect_err("is passed on");
        assert_eq!(storage.current_len(), 17);
        storage.extend(Ok(()), 30).expect("succeeded");
        assert_eq!(storage.current_len(), 30);
    }

    #[test]
    fn reads_see_what_was_written_beyond_the_original_end() {
        let file = tempfile::NamedTempFile::new().expect("creates");
        std::fs::write(file.path(), [1; 10]).expect("writes");
        let storage = FileStorage::open(file.path()).expect("opens");
        storage.write_all_at(&[2; 10], 8).expect("writes");
        storage.set_len(20).expect("grows");
        let mut bytes = [9; 20];
        storage.read_exact_at(&mut bytes, 0).expect("reads");
        assert_eq!(bytes, [1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 0, 0]);
        assert_eq!((storage.len(), storage.current_len()), (10, 20));
        storage.set_len(5).expect("shrinks");
        let error = storage.read_exact_at(&mut bytes, 0).expect_err("beyond the end");
        assert!(matches!(error, SourceError::OutOfRange { .. }));
    }
}
