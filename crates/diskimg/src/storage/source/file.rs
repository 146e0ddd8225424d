//! Files as sources.

use super::{HostFileId, Segment, Source, SourceError};
use crate::storage::caching::DirectFile;
use crate::storage::locking::{HeldLock, Lock, release};
use crate::storage::output::Destination;
use crate::storage::{lock, os};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Minimum length in bytes of a direct read. Shorter reads use the page cache.
const MIN_DIRECT_READ: usize = 16 << 10;

/// A regular file or block device, opened read-only.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    path: Option<PathBuf>,
    len: u64,
    device: bool,
    /// The file opened for direct I/O, if that is used.
    direct: Option<DirectFile>,
    /// The last segment found and whether it is a hole. Consecutive queries usually hit the same
    /// segment, so a 16 TiB hole takes one `lseek` instead of one per query.
    last_segment: Mutex<Option<(Range<u64>, bool)>>,
    /// The lock on the file. Declared after it, so that the file is closed first.
    lock: Mutex<Option<HeldLock>>,
}

impl FileSource {
    /// Opens `path` for reading.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::InvalidInput`] if it is neither a regular file nor a block device
    /// (a directory or a pipe, for example), and the error of the system if opening fails.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::open_located(&os::Located::at(path.as_ref())?, path.as_ref())
    }

    /// Opens `path` if `allowed` returns true for its canonical path and it is a regular file with
    /// stored contents (not a file of procfs or sysfs, for example); returns `None` otherwise.
    ///
    /// The file that is opened is the one that was checked, even if a symbolic link changes in
    /// between. A file that is not opened is not accessed.
    pub(crate) fn open_if(
        path: &Path,
        allowed: impl FnOnce(&Path) -> bool,
    ) -> io::Result<Option<Self>> {
        let located = os::Located::at(path)?;
        if !allowed(&located.real_path()?) || !located.is_stored()? {
            return Ok(None);
        }
        Self::open_located(&located, path).map(Some)
    }

    fn open_located(located: &os::Located, path: &Path) -> io::Result<Self> {
        // Check the type before opening: opening a FIFO blocks until a writer opens it.
        let metadata = located.metadata()?;
        if !os::is_seekable(&metadata) {
            return Err(not_seekable(&metadata));
        }
        Self::new(located.open()?, Some(path.to_owned()))
    }

    /// Creates a source from an open file. The file's position is unspecified afterwards.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn from_file(file: File) -> io::Result<Self> {
        Self::new(file, None)
    }

    /// Uses direct I/O for long reads. Short reads still use the page cache: they are usually of
    /// tables, which are read repeatedly.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::Unsupported`] if the file system does not support direct I/O.
    pub fn direct_io(mut self) -> io::Result<Self> {
        self.direct = Some(DirectFile::reopen(&self.file, false)?);
        Ok(self)
    }

    /// Returns the open file.
    pub(in crate::storage) fn file(&self) -> &File {
        &self.file
    }

    /// Opens the file to which `path` leads for reading and writing, to be modified in place.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub(in crate::storage) fn open_to_write(found: &Destination, path: &Path) -> io::Result<Self> {
        // Check the type before opening: opening a FIFO blocks until the other end is opened.
        let metadata = found.metadata()?;
        if !os::is_seekable(&metadata) {
            return Err(not_seekable(&metadata));
        }
        let file = found.open(File::options().read(true).write(true))?;
        Self::new(file, Some(path.to_owned()))
    }

    fn new(file: File, path: Option<PathBuf>) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if !os::is_seekable(&metadata) {
            return Err(not_seekable(&metadata));
        }
        let len = if metadata.is_file() { metadata.len() } else { os::device_len(&file)? };
        Ok(Self {
            file,
            path,
            len,
            device: !metadata.is_file(),
            direct: None,
            last_segment: Mutex::new(None),
            lock: Mutex::new(None),
        })
    }
}

impl Drop for FileSource {
    fn drop(&mut self) {
        if lock(&self.lock).is_some() {
            release(&self.file);
        }
    }
}

/// Fills `buf` with the bytes at `offset` of `file`.
pub(in crate::storage) fn read_file(
    file: &File,
    buf: &mut [u8],
    offset: u64,
) -> Result<(), SourceError> {
    let len = buf.len();
    os::read_exact_at(file, buf, offset).map_err(|e| read_error(e, file, offset, len))
}

/// Returns the segment of `file` that contains `offset`, clipped to `len`.
pub(in crate::storage) fn segment_of_file(
    file: &File,
    offset: u64,
    len: u64,
) -> Result<Segment, SourceError> {
    let segment = os::segment_at(file, offset, len).map_err(|e| read_error(e, file, offset, 1))?;
    Ok(segment.unwrap_or(Segment { end: len, hole: false }))
}

/// Converts an error of reading `file`, which may have been truncated since it was opened.
fn read_error(error: io::Error, file: &File, offset: u64, len: usize) -> SourceError {
    match (error.kind(), file.metadata()) {
        // The metadata of a device has no length, and a device is not truncated.
        (io::ErrorKind::UnexpectedEof, Ok(metadata)) if metadata.is_file() => {
            SourceError::OutOfRange { offset, len: len as u64, source_len: metadata.len() }
        }
        _ => error.into(),
    }
}

fn not_seekable(metadata: &std::fs::Metadata) -> io::Error {
    let what =
        if metadata.is_dir() { "a directory" } else { "neither a regular file nor a block device" };
    io::Error::new(io::ErrorKind::InvalidInput, format!("it is {what}"))
}

impl Source for FileSource {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        super::check_range(offset, buf.len(), self.len)?;
        let Some(direct) = self.direct.as_ref().filter(|_| buf.len() >= MIN_DIRECT_READ) else {
            return read_file(&self.file, buf, offset);
        };
        let pages = DirectFile::pages(offset, buf.len());
        read_file(&self.file, &mut buf[..pages.start], offset)?;
        let at = offset + pages.start as u64;
        let read = direct.read_exact_at(&mut buf[pages.clone()], at);
        read.map_err(|e| read_error(e, &self.file, at, pages.len()))?;
        read_file(&self.file, &mut buf[pages.end..], offset + pages.end as u64)
    }

    fn segment_at(&self, offset: u64) -> Result<Segment, SourceError> {
        let mut last = lock(&self.last_segment);
        if let Some((range, hole)) = &*last
            && range.contains(&offset)
        {
            return Ok(Segment { end: range.end, hole: *hole });
        }
        let segment = segment_of_file(&self.file, offset, self.len)?;
        *last = Some((offset..segment.end, segment.hole));
        Ok(segment)
    }

    fn as_file(&self) -> Option<(&File, u64)> {
        Some((&self.file, 0))
    }

    fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    fn is_device(&self) -> bool {
        self.device
    }

    fn allocated_bytes(&self) -> io::Result<Option<u64>> {
        os::allocated_bytes(&self.file)
    }

    fn lock(&self, wanted: Lock) -> io::Result<()> {
        // A file that was opened by others (standard input) may be open in other processes, which
        // would keep the lock when this process ends.
        if self.path.is_none() {
            return Ok(());
        }
        let mut held = lock(&self.lock);
        if held.as_ref().is_none_or(|held| !held.includes(wanted)) {
            *held = Some(wanted.acquire(&self.file)?);
        }
        Ok(())
    }

    fn identity(&self) -> Option<HostFileId> {
        HostFileId::of(&self.file)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_file_that_is_opened_is_the_file_that_was_checked() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().expect("tempdir");
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("inside"), b"fine").expect("writes");
        std::fs::write(path("outside"), b"secret").expect("writes");
        symlink(path("inside"), path("link")).expect("links");
        let swap_link = |real: &Path| {
            assert!(real.ends_with("inside"), "{}", real.display());
            std::fs::remove_file(path("link")).expect("removes");
            symlink(path("outside"), path("link")).expect("links");
            true
        };
        let source = FileSource::open_if(&path("link"), swap_link).expect("opens");
        let source = source.expect("allowed");
        let mut bytes = [0; 4];
        source.read_exact_at(&mut bytes, 0).expect("reads");
        assert_eq!((&bytes, source.len()), (b"fine", 4));
        let refused = FileSource::open_if(&path("link"), |real| !real.ends_with("outside"));
        assert!(refused.expect("checks").is_none());
    }

    #[test]
    fn a_fifo_is_refused_without_waiting_for_a_writer() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fifo = dir.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().expect("runs");
        assert!(made.success());
        let error = FileSource::open(&fifo).expect_err("not seekable");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_file_that_was_truncated_does_not_end_with_a_hole() {
        let file = tempfile::NamedTempFile::new().expect("creates");
        file.as_file().set_len(1 << 20).expect("grows");
        let source = FileSource::open(file.path()).expect("opens");
        file.as_file().set_len(1 << 19).expect("shrinks");
        for offset in [0, 1 << 19, (1 << 20) - 1] {
            let error = source.segment_at(offset).expect_err("truncated");
            assert!(matches!(error, SourceError::OutOfRange { .. }));
        }
    }
}
