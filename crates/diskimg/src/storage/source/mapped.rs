//! A file's bytes as memory: the zero-copy door ([`Source::as_slice`]).
//!
//! The conversions do not come this way. They read with `pread` into small
//! buffers that stay in the cache, which is as fast; and of a file that another
//! program cuts short they say so, where a mapping ends the process.

use super::{FileSource, HostFileId, Segment, Source};
use memmap2::{Mmap, MmapOptions};
use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

/// A regular file or block device, mapped into memory, read-only and shared.
pub struct MappedSource {
    file: FileSource,
    /// `None` of an empty file: there is nothing to map.
    map: Option<Mmap>,
}

impl MappedSource {
    /// Maps all of `file`, as long as it is now.
    ///
    /// # Safety
    /// As long as the source lives, nobody, in this process or another, may
    ///
    /// - truncate the file: reading what is gone raises SIGBUS, which ends the
    ///   process;
    /// - change its bytes: they are lent as `&[u8]`, and a change of what is
    ///   borrowed is undefined behaviour.
    ///
    /// # Errors
    /// [`io::ErrorKind::FileTooLarge`] if it does not fit into the address space;
    /// otherwise what the system said, as of a file system that maps no files.
    #[allow(unsafe_code)]
    pub unsafe fn new(file: FileSource) -> io::Result<Self> {
        let map = match isize::try_from(file.len()) {
            Ok(0) => None,
            // Its length is given: that of a device is in no metadata.
            // SAFETY: the caller answers for it that the file stays as it is.
            Ok(len) => Some(unsafe { MmapOptions::new().len(len as usize).map(file.file()) }),
            Err(_) => {
                let message = format!("{} bytes do not fit into memory addresses", file.len());
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
            }
        };
        let cannot = |e: io::Error| {
            io::Error::new(e.kind(), format!("it cannot be mapped into memory: {e}"))
        };
        let map = map.transpose().map_err(cannot)?;
        Ok(Self { file, map })
    }

    fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

impl fmt::Debug for MappedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MappedSource").field(&self.file).finish()
    }
}

impl Source for MappedSource {
    fn len(&self) -> u64 {
        self.bytes().len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        super::check_range(offset, buf.len(), self.len())?;
        let start = offset as usize;
        buf.copy_from_slice(&self.bytes()[start..start + buf.len()]);
        Ok(())
    }

    fn segment_at(&self, offset: u64) -> io::Result<Segment> {
        self.file.segment_at(offset)
    }

    fn as_slice(&self) -> Option<&[u8]> {
        Some(self.bytes())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(bytes: &[u8]) -> (tempfile::NamedTempFile, MappedSource) {
        let file = tempfile::NamedTempFile::new().expect("creates");
        std::fs::write(file.path(), bytes).expect("writes");
        let source = map(FileSource::open(file.path()).expect("opens"));
        (file, source.expect("maps"))
    }

    fn map(file: FileSource) -> io::Result<MappedSource> {
        // SAFETY: no test changes a file that it has mapped.
        #[allow(unsafe_code)]
        unsafe {
            MappedSource::new(file)
        }
    }

    #[test]
    fn every_range_reads_as_it_is_lent() {
        let bytes: Vec<u8> = (0..=99).collect();
        let (_file, source) = mapped(&bytes);
        assert_eq!((source.len(), source.as_slice()), (100, Some(&*bytes)));
        for (start, end) in [(0, 100), (0, 0), (1, 99), (99, 100), (100, 100)] {
            let mut buf = vec![0xa5; end - start];
            source.read_exact_at(&mut buf, start as u64).expect("inside");
            assert_eq!(buf, bytes[start..end]);
            let lent = crate::storage::source::borrow(&source, start as u64, end - start);
            assert_eq!(lent.expect("inside"), Some(&bytes[start..end]));
        }
    }

    #[test]
    fn a_range_that_leaves_the_file_is_an_error_for_who_reads_and_who_borrows() {
        let (_file, source) = mapped(&[7; 5000]);
        for (offset, len) in [(4999, 2), (5001, 0), (u64::MAX, 1), (1, 5000)] {
            let read = source.read_exact_at(&mut vec![0; len], offset).expect_err("outside");
            assert_eq!(read.kind(), io::ErrorKind::UnexpectedEof);
            let lent = crate::storage::source::borrow(&source, offset, len).expect_err("outside");
            assert_eq!(lent.to_string(), read.to_string());
        }
    }

    #[test]
    fn an_empty_file_is_an_empty_slice() {
        let (_file, source) = mapped(b"");
        assert_eq!((source.len(), source.as_slice()), (0, Some(&[][..])));
        source.read_exact_at(&mut [], 0).expect("nothing of nothing");
        source.read_exact_at(&mut [0], 0).expect_err("outside");
    }

    #[test]
    #[cfg(unix)]
    fn it_is_the_same_file_as_the_one_that_is_read() {
        let (file, source) = mapped(b"bytes");
        let read = FileSource::open(file.path()).expect("opens");
        assert_eq!(source.path(), Some(file.path()));
        assert!(source.identity().is_some() && source.identity() == read.identity());
        assert_eq!(
            source.allocated_bytes().expect("tells"),
            read.allocated_bytes().expect("tells")
        );
        assert!(!source.is_device() && source.as_file().is_some());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_hole_is_still_a_hole() {
        let file = tempfile::NamedTempFile::new().expect("creates");
        file.as_file().set_len(4 << 20).expect("grows");
        crate::storage::os::write_all_at(file.as_file(), b"data", 2 << 20).expect("writes");
        let read = FileSource::open(file.path()).expect("opens");
        let source = map(FileSource::open(file.path()).expect("opens")).expect("maps");
        let segment = source.segment_at(0).expect("tells");
        assert_eq!(segment, read.segment_at(0).expect("tells"));
        assert!(segment.hole);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_the_system_does_not_map_is_an_error_that_says_so() {
        // sysfs and the like map nothing.
        let file = FileSource::open("/sys/kernel/mm/transparent_hugepage/enabled");
        let Some(file) = file.ok().filter(|file| !file.is_empty()) else { return };
        let error = map(file).expect_err("not mapped");
        assert!(error.to_string().contains("cannot be mapped"), "{error}");
    }
}
