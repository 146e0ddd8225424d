//! Existing files that are overwritten, because they can be written but not replaced.
//!
//! ```text
//!   what prevents replacing it                        found
//!   something is mounted on it                        statx(2)
//!   it has other names (hard links)                   its metadata
//!   no file can be created in its directory           by trying
//!   its directory keeps the names of others' files    sticky bit, append-only attribute
//!   a new file would lose its owner, group, access    by trying, on the new file
//!     control list, label or other attributes
//!   there is no room for a second file                see `FileOutput::expect_len`
//!   it is named by an open file descriptor            its path is in proc_pid_fd(5)
//! ```
//!
//! The old content is removed when the first byte is written, not before.

use super::directory_of;
use crate::storage::caching::Caching;
use crate::storage::hints::AllocationHints;
use crate::storage::os;
use crate::storage::sink::{FileSink, Sink};
use crate::storage::source::Source;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::OnceLock;

/// Returns why the existing file at `path` cannot be replaced, as far as its metadata says it.
pub(super) fn obstacle(path: &Path, file: &File) -> io::Result<Option<String>> {
    let metadata = file.metadata()?;
    let obstacle = if os::is_mount_point(path) {
        Some("something is mounted on it")
    } else if os::links(file) > 1 {
        Some("it has other names (hard links)")
    } else {
        os::keeps_names(directory_of(path), &metadata)
    };
    Ok(obstacle.map(str::to_owned))
}

/// Returns why the file cannot be replaced, from the error of creating a file in its directory.
pub(super) fn obstacle_of(error: &io::Error) -> Option<String> {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Some(format!("no file can be created in its directory ({error})"))
        }
        _ => None,
    }
}

/// A regular file whose old content is removed when it is written for the first time.
#[derive(Debug)]
pub(super) struct Overwritten {
    file: File,
    sink: FileSink,
    /// Why the file is not replaced.
    reason: String,
    /// The outcome of removing the old content, when that was tried.
    emptied: OnceLock<Result<(), Option<i32>>>,
}

impl Overwritten {
    pub(super) fn new(file: File, reason: String) -> io::Result<Self> {
        let sink = FileSink::new(file.try_clone()?, true)?;
        Ok(Self { file, sink, reason, emptied: OnceLock::new() })
    }

    /// Returns why the file is not replaced.
    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    /// Returns true if the old content was removed.
    pub(super) fn is_emptied(&self) -> bool {
        self.emptied.get().is_some()
    }

    /// Returns the sink. Removes the old content first.
    fn emptied(&self) -> io::Result<&FileSink> {
        let empty = || self.file.set_len(0).map_err(|error| error.raw_os_error());
        match self.emptied.get_or_init(empty) {
            Ok(()) => Ok(&self.sink),
            Err(Some(code)) => Err(io::Error::from_raw_os_error(*code)),
            Err(None) => Err(io::Error::other("the old content cannot be removed")),
        }
    }
}

impl Sink for Overwritten {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.emptied()?.write_all_at(buf, offset)
    }

    fn is_zeroed(&self) -> bool {
        self.sink.is_zeroed()
    }

    fn fill_zeros_at(&self, offset: u64, len: u64) -> io::Result<()> {
        self.emptied()?.fill_zeros_at(offset, len)
    }

    fn write_zeros_at(&self, offset: u64, len: u64) -> io::Result<()> {
        self.emptied()?.write_zeros_at(offset, len)
    }

    fn preallocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.emptied()?.preallocate(offset, len)
    }

    fn shareable_block(&self, source: &dyn Source) -> io::Result<Option<u64>> {
        self.sink.shareable_block(source)
    }

    fn share(
        &self,
        source: &dyn Source,
        source_offset: u64,
        offset: u64,
        len: u64,
    ) -> io::Result<bool> {
        self.emptied()?.share(source, source_offset, offset, len)
    }

    fn copy_from(
        &self,
        source: &dyn Source,
        source_offset: u64,
        offset: u64,
        len: u64,
    ) -> io::Result<bool> {
        self.emptied()?.copy_from(source, source_offset, offset, len)
    }

    fn set_caching(&self, caching: Caching) -> io::Result<()> {
        self.sink.set_caching(caching)
    }

    fn set_allocation_hints(&self, hints: AllocationHints) {
        self.sink.set_allocation_hints(hints);
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.emptied()?.set_len(len)
    }

    fn start_flush(&self) {
        if let Ok(sink) = self.emptied() {
            sink.start_flush();
        }
    }

    fn flush(&self) -> io::Result<()> {
        self.emptied()?.flush()
    }
}
