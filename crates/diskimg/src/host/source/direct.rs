//! A file that is read past the page cache.

use super::{FileSource, HostFileId, Segment, Source};
use crate::host::caching::DirectFile;
use std::fs::File;
use std::io;
use std::path::Path;

/// Shorter reads go through the cache: tables, which are asked for again.
const WORTH_IT: usize = 16 << 10;

/// A regular file or block device whose bytes leave no trace in the page cache.
#[derive(Debug)]
pub struct DirectSource {
    file: FileSource,
    direct: DirectFile,
}

impl DirectSource {
    /// Reads `file` so.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] if its file system cannot do that.
    pub fn new(file: FileSource) -> io::Result<Self> {
        let direct = DirectFile::beside(file.file(), false)?;
        Ok(Self { file, direct })
    }
}

impl Source for DirectSource {
    fn len(&self) -> u64 {
        self.file.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        super::check_range(offset, buf.len(), self.len())?;
        if buf.len() < WORTH_IT {
            return self.file.read_exact_at(buf, offset);
        }
        let pages = DirectFile::pages(offset, buf.len());
        self.file.read_exact_at(&mut buf[..pages.start], offset)?;
        self.direct.read_exact_at(&mut buf[pages.clone()], offset + pages.start as u64)?;
        self.file.read_exact_at(&mut buf[pages.end..], offset + pages.end as u64)
    }

    fn segment_at(&self, offset: u64) -> io::Result<Segment> {
        self.file.segment_at(offset)
    }

    fn as_file(&self) -> Option<(&File, u64)> {
        self.file.as_file()
    }

    fn path(&self) -> Option<&Path> {
        self.file.path()
    }

    fn is_device(&self) -> bool {
        self.file.is_device()
    }

    fn allocated_bytes(&self) -> io::Result<Option<u64>> {
        self.file.allocated_bytes()
    }

    fn identity(&self) -> Option<HostFileId> {
        self.file.identity()
    }
}
