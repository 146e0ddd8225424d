//! Memory-mapped files, for zero-copy access ([`Source::as_slice`]).
//!
//! Conversions do not use mappings. They read with `pread` into small buffers that stay in the CPU
//! cache, which is as fast. If another program truncates the file, a read returns an error, whereas
//! access to a mapping kills the process.

use super::{FileSource, HostFileId, Segment, Source, SourceError};
use crate::storage::locking::Lock;
use memmap2::{Mmap, MmapOptions};
use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

/// A regular file or block device, mapped into memory, read-only and shared.
pub struct MappedSource {
    file: FileSource,
    /// `None` for an empty file, which cannot be mapped.
    map: Option<Mmap>,
}

impl MappedSource {
    /// Maps the whole `file` with its current length.
    ///
    /// # Safety
    /// While the source exists, no code in this or any other process may
    ///
    /// - truncate the file: access beyond the new end raises SIGBUS, which kills the process;
    /// - modify its bytes: they are borrowed as `&[u8]`, and modifying borrowed bytes is undefined
    ///   behavior.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::FileTooLarge`] if the file does not fit into the address space, and
    /// the error of the system if mapping fails (some file systems do not support it).
    #[allow(unsafe_code)]
    pub unsafe fn new(file: FileSource) -> io::Result<Self> {
        let map = match isize::try_from(file.len()) {
            Ok(0) => None,
            // The length is passed explicitly, because a device's metadata does not contain it.
            // SAFETY: the caller guarantees that the file is neither truncated nor modified.
            Ok(len) => Some(unsafe { MmapOptions::new().len(len as usize).map(file.file()) }),
            Err(_) => {
                let message = format!("{} bytes do not fit into the address space", file.len());
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
            }
        };
        let cannot_map = |e: io::Error| {
            io::Error::new(e.kind(), format!("it cannot be mapped into memory: {e}"))
        };
        let map = map.transpose().map_err(cannot_map)?;
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

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        super::check_range(offset, buf.len(), self.len())?;
        let start = offset as usize;
        buf.copy_from_slice(&self.bytes()[start..start + buf.len()]);
        Ok(())
    }

    fn segment_at(&self, offset: u64) -> Result<Segment, SourceError> {
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

    fn lock(&self, lock: Lock) -> io::Result<()> {
        self.file.lock(lock)
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
        // SAFETY: no test modifies a mapped file.
        #[allow(unsafe_code)]
        unsafe {
            MappedSource::new(file)
        }
    }

    #[test]
    fn reads_and_borrowed_slices_are_equal_for_every_range() {
        let bytes: Vec<u8> = (0..=99).collect();
        let (_file, source) = mapped(&bytes);
        assert_eq!((source.len(), source.as_slice()), (100, Some(&*bytes)));
        for (start, end) in [(0, 100), (0, 0), (1, 99), (99, 100), (100, 100)] {
            let mut buf = vec![0xa5; end - start];
            source.read_exact_at(&mut buf, start as u64).expect("inside");
            assert_eq!(buf, bytes[start..end]);
            let borrowed = crate::storage::source::borrow(&source, start as u64, end - start);
            assert_eq!(borrowed.expect("inside"), Some(&bytes[start..end]));
        }
    }

    #[test]
    fn reading_or_borrowing_beyond_the_end_of_the_file_is_an_error() {
        let (_file, source) = mapped(&[7; 5000]);
        for (offset, len) in [(4999, 2), (5001, 0), (u64::MAX, 1), (1, 5000)] {
            let read = source.read_exact_at(&mut vec![0; len], offset).expect_err("outside");
            assert!(matches!(read, SourceError::OutOfRange { .. }));
            let borrowed = crate::storage::source::borrow(&source, offset, len);
            let borrowed = borrowed.expect_err("outside");
            assert_eq!(borrowed.to_string(), read.to_string());
        }
    }

    #[test]
    fn an_empty_file_is_an_empty_slice() {
        let (_file, source) = mapped(b"");
        assert_eq!((source.len(), source.as_slice()), (0, Some(&[][..])));
        source.read_exact_at(&mut [], 0).expect("reads nothing");
        source.read_exact_at(&mut [0], 0).expect_err("outside");
    }

    #[test]
    #[cfg(unix)]
    fn a_mapped_file_has_the_identity_of_the_file() {
        let (file, source) = mapped(b"bytes");
        let read = FileSource::open(file.path()).expect("opens");
        assert_eq!(source.path(), Some(file.path()));
        assert!(source.identity().is_some() && source.identity() == read.identity());
        assert_eq!(
            source.allocated_bytes().expect("reads metadata"),
            read.allocated_bytes().expect("reads metadata")
        );
        assert!(!source.is_device() && source.as_file().is_some());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn holes_of_the_file_are_reported() {
        let file = tempfile::NamedTempFile::new().expect("creates");
        file.as_file().set_len(4 << 20).expect("grows");
        crate::storage::os::write_all_at(file.as_file(), b"data", 2 << 20).expect("writes");
        let read = FileSource::open(file.path()).expect("opens");
        let source = map(FileSource::open(file.path()).expect("opens")).expect("maps");
        let segment = source.segment_at(0).expect("finds");
        assert_eq!(segment, read.segment_at(0).expect("finds"));
        assert!(segment.hole);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_file_that_cannot_be_mapped_is_an_error_that_says_so() {
        // sysfs does not support mappings.
        let file = FileSource::open("/sys/kernel/mm/transparent_hugepage/enabled");
        let Some(file) = file.ok().filter(|file| !file.is_empty()) else { return };
        let error = map(file).expect_err("not mapped");
        assert!(error.to_string().contains("cannot be mapped"), "{error}");
    }
}
