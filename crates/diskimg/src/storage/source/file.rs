//! A regular file or block device.

use super::{HostFileId, Segment, Source};
use crate::storage::caching::DirectFile;
use crate::storage::{lock, os};
use std::fs::File;
use std::io::{self, Seek};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Shorter reads go through the page cache in any case.
const WORTH_PASSING: usize = 16 << 10;

/// A regular file or block device, opened read-only.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    path: Option<PathBuf>,
    len: u64,
    device: bool,
    /// The way past the page cache, if it is taken.
    direct: Option<DirectFile>,
    /// The segment found last: planning asks about neighbours, and a 16 TiB
    /// hole should cost one `lseek`, not one per question.
    last: Mutex<Option<(Range<u64>, bool)>>,
}

impl FileSource {
    /// Opens `path` for reading.
    ///
    /// # Errors
    /// What the system said; [`io::ErrorKind::InvalidInput`] for something that has no positions (a
    /// directory, a pipe).
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::located(&os::Located::at(path.as_ref())?, path.as_ref())
    }

    /// Opens `path` if its place, symbolic links resolved, is `allowed` and it is a regular file
    /// that keeps what was stored in it; else `None`. No link that changes in the meantime leads
    /// anywhere else, and what is not opened is not touched.
    pub(crate) fn open_if(
        path: &Path,
        allowed: impl FnOnce(&Path) -> bool,
    ) -> io::Result<Option<Self>> {
        let located = os::Located::at(path)?;
        if !allowed(&located.real_path()?) || !located.is_stored()? {
            return Ok(None);
        }
        Self::located(&located, path).map(Some)
    }

    fn located(located: &os::Located, path: &Path) -> io::Result<Self> {
        // Opening a FIFO blocks until a writer comes: look at the type first.
        let metadata = located.metadata()?;
        if !os::is_positioned(&metadata) {
            return Err(not_positioned(&metadata));
        }
        Self::new(located.open()?, Some(path.to_owned()))
    }

    /// Wraps an open file, whose position is left undefined.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_file(file: File) -> io::Result<Self> {
        Self::new(file, None)
    }

    /// The same, read past the page cache, but for short reads: those are of
    /// tables, which are asked for again.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] if its file system cannot do that.
    pub fn past_the_cache(mut self) -> io::Result<Self> {
        self.direct = Some(DirectFile::beside(&self.file, false)?);
        Ok(self)
    }

    /// The open file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    fn new(mut file: File, path: Option<PathBuf>) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if !os::is_positioned(&metadata) {
            return Err(not_positioned(&metadata));
        }
        // A block device's metadata has no length; its end has a position.
        let len =
            if metadata.is_file() { metadata.len() } else { file.seek(io::SeekFrom::End(0))? };
        Ok(Self {
            file,
            path,
            len,
            device: !metadata.is_file(),
            direct: None,
            last: Mutex::new(None),
        })
    }
}

fn not_positioned(metadata: &std::fs::Metadata) -> io::Error {
    let what =
        if metadata.is_dir() { "a directory" } else { "neither a regular file nor a block device" };
    io::Error::new(io::ErrorKind::InvalidInput, format!("it is {what}"))
}

impl Source for FileSource {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        super::check_range(offset, buf.len(), self.len)?;
        let Some(direct) = self.direct.as_ref().filter(|_| buf.len() >= WORTH_PASSING) else {
            return os::read_exact_at(&self.file, buf, offset);
        };
        let pages = DirectFile::pages(offset, buf.len());
        os::read_exact_at(&self.file, &mut buf[..pages.start], offset)?;
        direct.read_exact_at(&mut buf[pages.clone()], offset + pages.start as u64)?;
        os::read_exact_at(&self.file, &mut buf[pages.end..], offset + pages.end as u64)
    }

    fn segment_at(&self, offset: u64) -> io::Result<Segment> {
        let mut last = lock(&self.last);
        if let Some((range, hole)) = &*last
            && range.contains(&offset)
        {
            return Ok(Segment { end: range.end, hole: *hole });
        }
        let segment = os::segment_at(&self.file, offset, self.len)?
            .unwrap_or(Segment { end: self.len, hole: false });
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
        Ok(os::allocated_bytes(&self.file.metadata()?))
    }

    fn identity(&self) -> Option<HostFileId> {
        os::identity(&self.file.metadata().ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_opened_is_what_was_judged() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().expect("tempdir");
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("inside"), b"fine").expect("writes");
        std::fs::write(path("outside"), b"secret").expect("writes");
        symlink(path("inside"), path("link")).expect("links");
        let flip = |real: &Path| {
            assert!(real.ends_with("inside"), "{}", real.display());
            std::fs::remove_file(path("link")).expect("removes");
            symlink(path("outside"), path("link")).expect("links");
            true
        };
        let source = FileSource::open_if(&path("link"), flip).expect("opens").expect("allowed");
        let mut bytes = [0; 4];
        source.read_exact_at(&mut bytes, 0).expect("reads");
        assert_eq!((&bytes, source.len()), (b"fine", 4));
        let refused = FileSource::open_if(&path("link"), |real| !real.ends_with("outside"));
        assert!(refused.expect("looks").is_none());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_fifo_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fifo = dir.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().expect("runs");
        assert!(made.success());
        let error = FileSource::open(&fifo).expect_err("no positions");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_file_that_became_shorter_does_not_end_with_a_hole() {
        let file = tempfile::NamedTempFile::new().expect("creates");
        file.as_file().set_len(1 << 20).expect("grows");
        let source = FileSource::open(file.path()).expect("opens");
        file.as_file().set_len(1 << 19).expect("shrinks");
        for offset in [0, 1 << 19, (1 << 20) - 1] {
            let error = source.segment_at(offset).expect_err("shorter");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
