//! Output files that appear under their names only when they are complete.
//!
//! ```text
//!   create(dst)            sink() … writes …             commit()
//!   ───────────┬─────────────────────────────┬──────────────────────────────
//!   .dst.XXXXXX.diskimg-tmp next to dst      │ copy mode and owner of the old
//!   (dst itself unchanged)                   │ dst, flush, rename to dst,
//!                                            │ flush the directory
//!                          drop without commit: the temporary file is deleted
//! ```
//!
//! An image of several files replaces an older one as a whole, or not at all if an error occurs. If
//! the process is killed or power is lost during the renames, the image may be missing under its
//! name, with its old main file next to it as `.dst.XXXXXX.diskimg-old`, but old and new files are
//! never mixed (`rename.rs`).
//!
//! If several runs write the same files, the first one that is complete wins. The others find that
//! the files they were to replace have changed, and fail (`competing.rs`).
//!
//! A process that is killed leaves its temporary files. The next process that writes the same
//! output removes them if they are not locked by a running process (`stale_temp_files.rs`).
//!
//! Other places implement [`Publish`]: an upload that is completed, for example.
//!
//! An existing file that can be written but not replaced is overwritten (`overwrite.rs`).
//!
//! Devices, pipes and files opened [in place](Output::in_place) are written directly: a device has
//! no directory in which a temporary file could be staged.

mod capped;
mod competing;
mod error;
mod files;
mod links;
mod output_file;
mod overwrite;
mod planned;
mod publish;
mod rename;
mod reserved;
mod stale_temp_files;
mod temporary_names;
#[cfg(test)]
mod tests;

pub(crate) use competing::{verify_identity, verify_name};
pub use error::{OutputError, Result};
pub use links::Destination;
pub use planned::{FileAction, PlannedFile};
pub(crate) use planned::{Files, Planned};
pub use publish::{Publish, Transferred};
pub use reserved::{output_destination, release_output, reserve_output, reserved_output};
pub use temporary_names::remove_temporary_files;

use crate::storage::caching::Caching;
use crate::storage::edit::Storage;
use crate::storage::hints::AllocationHints;
use crate::storage::os;
use crate::storage::sink::{Cap, PipeSink, Sink};
use crate::storage::source::{HostFileId, Source};
use files::FileOutput;
use output_file::TEMPORARY_SUFFIX;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where an image is written. Its files appear under their names when all are complete, or not at
/// all.
#[derive(Debug)]
pub struct Output {
    place: Box<dyn Publish>,
    /// Its name in messages, if it has no path.
    name: Option<String>,
    /// The file that is written, if it has no path but is known.
    file: Option<HostFileId>,
}

/// Whether [`Output::commit`] flushes data to stable storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Durability {
    /// Data is flushed to stable storage before the files get their names.
    #[default]
    Flushed,
    /// Data remains in the page cache until the operating system writes it back.
    Cached,
}

impl Output {
    /// Creates an output that will be named `path`. An existing regular file is not changed until
    /// [`commit`](Self::commit), unless it [cannot be replaced](Self::notes). Follows symbolic
    /// links. A device or a pipe is written directly; opening a pipe blocks until it has a reader.
    ///
    /// # Errors
    /// Returns the error of the system, for example if the directory does not exist or the existing
    /// file is not writable.
    pub fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::create_unless(path, &mut || false)
    }

    /// As [`create`](Self::create), but replaces no file, device or link at `path`, and no other
    /// file of the image; also none that appears until [`commit`](Self::commit). (One that another
    /// program creates just when a file gets its name is not noticed.)
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::AlreadyExists`] if there is one, and the errors of
    /// [`create`](Self::create).
    pub fn create_new(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self::to_place(Box::new(FileOutput::create_new(path.as_ref())?)))
    }

    /// Like [`create`](Self::create), but calls `stopped` while it waits for the reader of a pipe.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::Interrupted`] if `stopped` returns true, and the errors of
    /// [`create`](Self::create).
    pub(crate) fn create_unless(
        path: impl AsRef<Path>,
        stopped: &mut dyn FnMut() -> bool,
    ) -> io::Result<Self> {
        Ok(Self::to_place(Box::new(FileOutput::create(path.as_ref(), stopped)?)))
    }

    /// Opens an existing file or device to overwrite it in place. `zeroed` must be true only if it
    /// reads as zeros now.
    ///
    /// # Errors
    /// Returns the error of the system if opening fails.
    pub fn in_place(path: impl AsRef<Path>, zeroed: bool) -> io::Result<Self> {
        Ok(Self::to_place(Box::new(FileOutput::in_place(path.as_ref(), zeroed)?)))
    }

    /// Creates an output that writes sequentially to `writer`.
    pub fn writer(writer: impl Write + Send + 'static) -> Self {
        Self::to_sink(Arc::new(PipeSink::new(writer)))
    }

    /// Creates an output that writes sequentially to an open file, such as standard output. Unlike
    /// with [`writer`](Self::writer), it is an error if that is one of the files that are read.
    pub fn stream(file: File) -> Self {
        let is_file = file.metadata().is_ok_and(|found| os::is_seekable(&found));
        let written = is_file.then(|| HostFileId::of(&file)).flatten();
        Self { file: written, ..Self::writer(file) }
    }

    /// Creates an output that writes to standard output, as [`stream`](Self::stream).
    ///
    /// # Errors
    /// Returns the error of the system if the descriptor cannot be duplicated.
    pub fn stdout() -> io::Result<Self> {
        Ok(Self::stream(os::stdout()?))
    }

    /// Creates an output that writes to `sink`.
    pub fn to_sink(sink: Arc<dyn Sink>) -> Self {
        Self::to_place(Box::new(FileOutput::to_sink(sink, None)))
    }

    /// Creates an output that overwrites existing `storage`, as a device.
    pub fn to_storage(storage: Arc<dyn Storage>) -> Self {
        let file = storage.identity();
        Self { file, ..Self::to_sink(storage) }
    }

    /// Creates an output that writes to `sink`, a part of a larger file, with a path that the image
    /// may record. No file at that path is accessed.
    pub(crate) fn to_part(sink: Arc<dyn Sink>, path: impl Into<PathBuf>) -> Self {
        Self::to_place(Box::new(FileOutput::to_sink(sink, Some(path.into()))))
    }

    /// Creates an output that writes to another place, such as an object store.
    pub fn to_place(place: Box<dyn Publish>) -> Self {
        Self { place, name: None, file: None }
    }

    /// Limits the bytes that all files of the image take together.
    #[must_use]
    pub(crate) fn capped(self, cap: Arc<Cap>) -> Self {
        Self { place: Box::new(capped::Capped::new(self.place, cap)), ..self }
    }

    /// Sets the name in messages, for a place without a path.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Returns the name in messages: the path, if there is one, or `-`, as for standard output.
    pub(crate) fn name(&self) -> String {
        let path = self.path().map(|path| path.display().to_string());
        path.or_else(|| self.name.clone()).unwrap_or_else(|| "-".to_owned())
    }

    /// Returns the identity of the existing file that it replaces or overwrites.
    pub(crate) fn existing(&self) -> Option<HostFileId> {
        self.file.or_else(|| existing_identity(self.path()?))
    }

    /// Returns the place to which it writes.
    pub(crate) fn into_place(self) -> Box<dyn Publish> {
        self.place
    }

    /// Sets how all files of the image use the page cache. Must be called before anything is
    /// written.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::Unsupported`] if a file system does not support it.
    pub fn set_caching(&mut self, caching: Caching) -> Result<()> {
        self.place.set_caching(caching)
    }

    /// Tells the file system how to allocate the space of all files of the image. Must be called
    /// before anything is written.
    pub fn set_allocation_hints(&mut self, hints: AllocationHints) {
        self.place.set_allocation_hints(hints);
    }

    /// Announces how many bytes will be written at most. If there is no room for them besides an
    /// existing file, but enough once that is removed, the existing file is
    /// [overwritten](Self::notes). Must be called before anything is written.
    ///
    /// # Errors
    /// Returns the underlying error if the existing file cannot be opened.
    pub fn expect_len(&mut self, len: u64) -> Result<()> {
        self.place.expect_len(len)
    }

    /// Returns a sentence about each existing file that cannot be replaced and is overwritten
    /// instead, with the reason. After a failure, such a file is incomplete.
    pub fn notes(&self) -> Vec<String> {
        self.place.notes()
    }

    /// Returns what was lost if the operation fails now; see [`Publish::loss`].
    pub(crate) fn loss(&self) -> Option<String> {
        self.place.loss()
    }

    /// Prevents companions from replacing any of `files`, and the removal of any of them as
    /// [leftover](Self::remove_leftovers). `why` is the error message. Does not check the main file;
    /// that is the caller's responsibility.
    pub(crate) fn protect(
        &mut self,
        files: impl IntoIterator<Item = HostFileId>,
        why: &'static str,
    ) {
        self.place.protect(&files.into_iter().collect::<Vec<_>>(), why);
    }

    /// Removes temporary files that killed processes have left of the same output. What is read
    /// must be [protected](Self::protect) before.
    pub(crate) fn remove_leftovers(&mut self) {
        self.place.remove_leftovers();
    }

    /// Returns the sink of the main file.
    pub fn sink(&self) -> Arc<dyn Sink> {
        self.place.sink()
    }

    /// Returns the path that the main file has or will have; `None` for a writer.
    pub fn path(&self) -> Option<&Path> {
        self.place.path()
    }

    /// Returns true if the image can have companions: if the main file is a regular file with a
    /// path.
    pub(crate) fn supports_companions(&self) -> bool {
        self.place.supports_companions()
    }

    /// Creates an additional file of the image, whose `name` is derived from the main file's, in
    /// the same directory. It may replace a regular file but no other file. It gets the mode and
    /// owner of the file it replaces or, if there is none, of an existing main file.
    ///
    /// # Errors
    /// Returns an error with [`io::ErrorKind::PermissionDenied`] if the path is one of the source's
    /// files or exists and is not a regular file, with [`io::ErrorKind::InvalidInput`] if it is the
    /// main file or another companion, and the error of the system if creating the file fails.
    pub fn companion(&mut self, name: &Path) -> Result<Arc<dyn Sink>> {
        self.place.companion(name)
    }

    /// Like [`companion`](Self::companion), with a name given by the user. A relative name is
    /// relative to the directory of the main file. Follows symbolic links and writes block devices
    /// in place.
    ///
    /// # Errors
    /// See [`companion`](Self::companion).
    pub fn named_companion(&mut self, name: &Path) -> Result<Arc<dyn Sink>> {
        self.place.named_companion(name)
    }

    /// Returns the path that the file of one of this output's sinks has or will have.
    pub(crate) fn path_of(&self, sink: &Arc<dyn Sink>) -> Option<&Path> {
        self.place.path_of(sink)
    }

    /// Checks that [`read_back`](Self::read_back) will be possible.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::Unsupported`] for a pipe or a writer.
    pub(crate) fn require_readable(&self) -> Result<()> {
        self.place.require_readable()
    }

    /// Opens all files for reading and returns them with the paths that they have or will have, the
    /// main file first. Drops [flushed](Self::flush) data from the page cache, so that it is read
    /// from the disk.
    ///
    /// # Errors
    /// Returns the errors of [`require_readable`](Self::require_readable), and the error of the
    /// system if opening fails.
    pub(crate) fn read_back(&self) -> Result<Vec<(PathBuf, Arc<dyn Source>)>> {
        self.place.read_back()
    }

    /// Flushes all files and renames them to their names. Companions are renamed before the main
    /// file, so that a main file always has its companions.
    ///
    /// # Errors
    /// Returns the error of the system with the path of the file, and an error if another process
    /// has created, replaced or changed one of the files since the output was created. The new
    /// files are then deleted and the old files restored. If only flushing the directory fails, the
    /// new files remain, and the error says so.
    pub fn commit(self, durability: Durability) -> Result<()> {
        self.flush(durability)?;
        self.publish(durability)
    }

    /// First part of [`commit`](Self::commit), which may take long: flushes the data. Changes no
    /// names.
    pub(crate) fn flush(&self, durability: Durability) -> Result<()> {
        self.place.flush(durability)
    }

    /// As [`flush`](Self::flush), unless `stopped` returns true meanwhile; see
    /// [`Publish::flush_unless`].
    pub(crate) fn flush_unless(
        &self,
        durability: Durability,
        stopped: &mut dyn FnMut() -> bool,
    ) -> Result<()> {
        self.place.flush_unless(durability, stopped)
    }

    /// Returns what [`Publish::transferred`] returns.
    pub(crate) fn transferred(&self) -> Option<Transferred> {
        self.place.transferred()
    }

    /// Second part of [`commit`](Self::commit): renames the files.
    pub(crate) fn publish(mut self, durability: Durability) -> Result<()> {
        self.remove_leftovers();
        self.place.publish(durability)
    }
}

/// Returns true if the name of the file could be that of a temporary file.
pub(crate) fn is_temporary_name(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.as_encoded_bytes().ends_with(TEMPORARY_SUFFIX.as_bytes())
}

/// Returns true if the file at `path` has other names (hard links), so that it would be overwritten
/// instead of replaced.
pub fn has_other_names(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| os::links(&file) > 1)
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns the prefix of the names of temporary files for `path`.
fn temporary_prefix(path: &Path) -> io::Result<String> {
    let name = path.file_name().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "the output has no file name")
    })?;
    // NAME_MAX is 255 bytes on all common systems. Leave room for the suffix.
    let start: String = name.to_string_lossy().chars().take(40).collect();
    Ok(format!(".{start}."))
}

/// Returns the path with its directory canonicalized, so that `a`, `./a` and `link/a` are equal.
/// The file need not exist.
pub(crate) fn canonical(path: &Path) -> io::Result<PathBuf> {
    Ok(directory_of(path).canonicalize()?.join(path.file_name().unwrap_or_default()))
}

/// Returns the identity of the file at `path`, if it exists.
pub(crate) fn existing_identity(path: &Path) -> Option<HostFileId> {
    HostFileId::at(path)
}
