//! Unnamed temporary files.
//!
//! By default, each is a file of its own. A program that will restrict its access to files, such as
//! with landlock(7), calls [`reserve_temporary_files`] first: they are then parts of one file, which
//! is open already.
//!
//! ```text
//!   0         len 1                  len 2
//!   ├─ part 1 ─┤··├───── part 2 ──────┤···►  the next part begins at a multiple of ALIGNMENT
//! ```
//!
//! A part that is no longer used becomes a hole.

use super::{FileSource, IoHints, Segment, Source, SourceError, WindowSource};
use crate::storage::{lock, os};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

/// Each part begins at a multiple of this, so that holes and direct I/O are possible.
const ALIGNMENT: u64 = 1 << 20;

static RESERVED: OnceLock<Reserved> = OnceLock::new();

/// The files that were reserved, or why that failed.
#[derive(Debug)]
struct Reserved {
    /// The file with the parts.
    shared: Result<File, io::ErrorKind>,
    /// Where the last part ends. Locked while a part is written.
    end: Mutex<u64>,
    /// A file of its own.
    separate: Mutex<Result<File, io::ErrorKind>>,
}

/// Creates the unnamed temporary files of this process now, in [`std::env::temp_dir`] (`TMPDIR`):
/// one file for all images that are read from streams or decompressed, and one for an output.
/// Without this, each is created when it is needed. If it fails, what needs the file will fail.
pub fn reserve_temporary_files() {
    RESERVED.get_or_init(Reserved::new);
}

/// Returns an empty unnamed temporary file, in [`std::env::temp_dir`] (`TMPDIR`).
///
/// # Errors
/// Returns the error of creating the file. If files were [reserved](reserve_temporary_files), there is
/// only one.
pub fn temporary_file() -> io::Result<File> {
    RESERVED.get().map_or_else(create, Reserved::take_separate)
}

fn create() -> io::Result<File> {
    let file = tempfile::tempfile()?;
    os::make_sparse(&file);
    Ok(file)
}

impl Reserved {
    fn new() -> Self {
        let create = || create().map_err(|e| e.kind());
        Self { shared: create(), end: Mutex::new(0), separate: Mutex::new(create()) }
    }

    fn take_separate(&self) -> io::Result<File> {
        let used = Err(io::ErrorKind::ResourceBusy);
        Ok(std::mem::replace(&mut *lock(&self.separate), used)?)
    }
}

/// A temporary file that is being written.
#[derive(Debug)]
pub(super) struct TemporaryWriter {
    file: File,
    /// Where it begins in `file`.
    start: u64,
    /// The end of the last part, if this is a part of the shared file.
    end: Option<MutexGuard<'static, u64>>,
}

impl TemporaryWriter {
    /// Waits until no other thread writes a part.
    pub(super) fn new() -> io::Result<Self> {
        Self::of(RESERVED.get())
    }

    fn of(reserved: Option<&'static Reserved>) -> io::Result<Self> {
        let Some(reserved) = reserved else {
            return Ok(Self { file: create()?, start: 0, end: None });
        };
        let file = reserved.shared.as_ref().map_err(|&kind| io::Error::from(kind))?.try_clone()?;
        let end = lock(&reserved.end);
        Ok(Self { file, start: end.next_multiple_of(ALIGNMENT), end: Some(end) })
    }

    pub(super) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        os::write_all_at(&self.file, bytes, self.start + offset)
    }

    /// Sets the length and returns the file for reading.
    pub(super) fn finish(mut self, len: u64) -> io::Result<Arc<dyn Source>> {
        self.file.set_len(self.start + len)?;
        let Some(end) = &mut self.end else {
            return Ok(Arc::new(FileSource::from_file(self.file.try_clone()?)?));
        };
        **end = self.start + len;
        let inner: Arc<dyn Source> = Arc::new(FileSource::from_file(self.file.try_clone()?)?);
        let range = self.start..self.start + len;
        let window = WindowSource::new(inner, range.clone())?;
        Ok(Arc::new(Part { window, space: Space { file: self.file.try_clone()?, range } }))
    }
}

impl Drop for TemporaryWriter {
    /// Removes what was written of a part that is not finished.
    fn drop(&mut self) {
        if let Some(end) = &self.end {
            let _ = self.file.set_len((**end).max(self.start));
        }
    }
}

/// A part of the shared file. It has no identity, because other parts have the same file.
#[derive(Debug)]
struct Part {
    window: WindowSource,
    #[allow(dead_code, reason = "frees the space when it is dropped")]
    space: Space,
}

impl Source for Part {
    fn len(&self) -> u64 {
        self.window.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        self.window.read_exact_at(buf, offset)
    }

    fn segment_at(&self, offset: u64) -> Result<Segment, SourceError> {
        self.window.segment_at(offset)
    }

    fn io(&self) -> IoHints {
        self.window.io()
    }

    fn as_file(&self) -> Option<(&File, u64)> {
        self.window.as_file()
    }
}

/// The space of a part, which is freed when this is dropped.
#[derive(Debug)]
struct Space {
    file: File,
    range: Range<u64>,
}

impl Drop for Space {
    fn drop(&mut self) {
        let len = self.range.end - self.range.start;
        if len > 0 {
            let _ = os::punch_hole(&self.file, self.range.start, len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(reserved: &'static Reserved, bytes: &[u8]) -> Arc<dyn Source> {
        let file = TemporaryWriter::of(Some(reserved)).expect("reserved");
        file.write_all_at(bytes, 0).expect("writes");
        file.finish(bytes.len() as u64).expect("finishes")
    }

    fn contents(source: &dyn Source) -> Vec<u8> {
        let mut bytes = vec![0; source.len() as usize];
        source.read_exact_at(&mut bytes, 0).expect("reads");
        bytes
    }

    fn allocated(reserved: &Reserved) -> u64 {
        let file = reserved.shared.as_ref().expect("created");
        os::allocated_bytes(file).expect("is open").unwrap_or(0)
    }

    #[test]
    fn parts_of_the_reserved_file_are_separate_sources() {
        let reserved: &'static Reserved = Box::leak(Box::new(Reserved::new()));
        let a = written(reserved, &[1; 3_000_000]);
        let abandoned = TemporaryWriter::of(Some(reserved)).expect("reserved");
        abandoned.write_all_at(&[9; 100], 5_000_000).expect("writes");
        drop(abandoned);
        let b = written(reserved, &[2; 70_001]);
        assert_eq!((a.len(), b.len()), (3_000_000, 70_001));
        assert!(contents(&*a).iter().all(|&byte| byte == 1));
        assert!(contents(&*b).iter().all(|&byte| byte == 2));
        assert_eq!(b.segment_at(0).expect("is inside"), Segment { end: 70_001, hole: false });
        b.read_exact_at(&mut [0], 70_001).expect_err("beyond the end");
        assert_eq!((a.identity(), b.identity()), (None, None));
        let before = allocated(reserved);
        drop(a);
        assert!(cfg!(not(target_os = "linux")) || allocated(reserved) < before);
        assert!(contents(&*b).iter().all(|&byte| byte == 2));
    }

    #[test]
    fn there_is_one_reserved_file_for_an_output() {
        let reserved = Reserved::new();
        reserved.take_separate().expect("the first");
        let error = reserved.take_separate().expect_err("the second");
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    }
}
