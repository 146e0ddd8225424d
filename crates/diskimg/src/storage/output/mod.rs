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
//! never mixed (`publish.rs`).
//!
//! A process that is killed leaves its temporary files. The next process that writes the same
//! output removes them if they are not locked by a running process (`stale_temp_files.rs`).
//!
//! Devices, pipes and files opened [in place](Output::in_place) are written directly: a device has
//! no directory in which a temporary file could be staged.

mod error;
mod output_file;
mod publish;
mod stale_temp_files;
#[cfg(test)]
mod tests;

pub use error::{OutputError, Result};

use crate::storage::caching::Caching;
use crate::storage::os;
use crate::storage::sink::{PipeSink, Sink};
use crate::storage::source::{HostFileId, Source};
use error::Concerning;
use output_file::{OutputFile, destination, is_replaceable};
use stale_temp_files::StaleTempFiles;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One or more files that are being written. They appear under their names when all are complete,
/// or not at all.
#[derive(Debug)]
pub struct Output {
    main: OutputFile,
    /// Additional files of the image: an external data file, extents.
    companions: Vec<OutputFile>,
    /// Canonical paths of all files.
    names: HashSet<PathBuf>,
    /// How all files use the page cache.
    caching: Caching,
    /// Files that no companion may replace, with the reason.
    protected: Vec<(HostFileId, &'static str)>,
    /// Temporary files left by killed processes.
    stale_temp_files: StaleTempFiles,
    /// A spare file handle. [`publish`](Self::publish) closes it so that it can open directories
    /// even if the companions have used up the process's limit of open files.
    spare: Option<File>,
}

/// Whether [`Output::commit`] flushes data to stable storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Data is flushed to stable storage before the files get their names.
    #[default]
    Flushed,
    /// Data remains in the page cache until the operating system writes it back.
    Cached,
}

impl Output {
    /// Creates an output that will be named `path`. An existing regular file is not changed until
    /// [`commit`](Self::commit). Follows symbolic links. A device or a pipe is written directly;
    /// opening a pipe blocks until it has a reader.
    ///
    /// # Errors
    /// Returns the error of the system, for example if the directory does not exist or the existing
    /// file is not writable.
    pub fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::create_unless(path, &mut || false)
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
        let mut stale_temp_files = StaleTempFiles::default();
        let (main, spare) = OutputFile::create(path.as_ref(), &mut stale_temp_files, stopped)?;
        Ok(Self { spare, stale_temp_files, ..Self::of(main) })
    }

    /// Opens an existing file or device to overwrite it in place. `zeroed` must be true only if it
    /// reads as zeros now.
    ///
    /// # Errors
    /// Returns the error of the system if opening fails.
    pub fn in_place(path: impl AsRef<Path>, zeroed: bool) -> io::Result<Self> {
        Ok(Self::of(OutputFile::in_place(path.as_ref(), zeroed)?))
    }

    /// Creates an output that writes sequentially to `writer`.
    pub fn writer(writer: impl Write + Send + 'static) -> Self {
        Self::to_sink(Arc::new(PipeSink::new(writer)))
    }

    /// Creates an output that writes to `sink`.
    pub fn to_sink(sink: Arc<dyn Sink>) -> Self {
        Self::of(OutputFile { sink, path: None, staged: None, lock: None })
    }

    fn of(main: OutputFile) -> Self {
        Self {
            main,
            companions: Vec::new(),
            names: HashSet::new(),
            caching: Caching::default(),
            protected: Vec::new(),
            stale_temp_files: StaleTempFiles::default(),
            spare: None,
        }
    }

    /// Sets how all files of the image use the page cache. Must be called before anything is
    /// written.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::Unsupported`] if a file system does not support it.
    pub fn set_caching(&mut self, caching: Caching) -> Result<()> {
        self.caching = caching;
        let mut parts = std::iter::once(&self.main).chain(&self.companions);
        parts.try_for_each(|part| part.set_caching(caching))
    }

    /// Sets the path of the main file, which the image may record, for a sink that is part of a
    /// larger file. No file at that path is accessed.
    pub(crate) fn with_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.main.path = Some(path.into());
        self
    }

    /// Prevents companions from replacing any of `files`. `why` is the error message. Does not
    /// check the main file; that is the caller's responsibility.
    pub(crate) fn protect(
        &mut self,
        files: impl IntoIterator<Item = HostFileId>,
        why: &'static str,
    ) {
        self.protected.extend(files.into_iter().map(|file| (file, why)));
    }

    /// Returns the sink of the main file.
    pub fn sink(&self) -> Arc<dyn Sink> {
        Arc::clone(&self.main.sink)
    }

    /// Returns the path that the main file has or will have; `None` for a writer.
    pub fn path(&self) -> Option<&Path> {
        self.main.path.as_deref()
    }

    /// Returns true if the image can have companions: if the main file is a regular file with a
    /// path.
    pub(crate) fn supports_companions(&self) -> bool {
        let is_file = |path: &Path| std::fs::metadata(path).is_ok_and(|m| m.is_file());
        self.main.staged.is_some() || self.path().is_some_and(is_file)
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
        let path = self.resolve(name);
        is_replaceable(&path)?;
        self.claim(&path)?;
        self.stage(path)
    }

    /// Like [`companion`](Self::companion), with a name given by the user. A relative name is
    /// relative to the directory of the main file. Follows symbolic links and writes block devices
    /// in place.
    ///
    /// # Errors
    /// See [`companion`](Self::companion).
    pub fn named_companion(&mut self, name: &Path) -> Result<Arc<dyn Sink>> {
        let path = self.resolve(name);
        let path = destination(&path).concerning(&path)?;
        self.claim(&path)?;
        match std::fs::metadata(&path) {
            Ok(metadata) if !metadata.is_file() && os::is_seekable(&metadata) => {
                let part = OutputFile::in_place(&path, false).concerning(&path)?;
                self.add(part)
            }
            Ok(metadata) if !metadata.is_file() => {
                let message = "it exists and is neither a regular file nor a block device";
                Err(OutputError::refused(&path, message))
            }
            _ => self.stage(path),
        }
    }

    /// Returns the path that the file of one of this output's sinks has or will have.
    pub(crate) fn path_of(&self, sink: &Arc<dyn Sink>) -> Option<&Path> {
        let mut parts = std::iter::once(&self.main).chain(&self.companions);
        parts.find(|part| Arc::ptr_eq(&part.sink, sink))?.path.as_deref()
    }

    /// Checks that [`read_back`](Self::read_back) will be possible.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::Unsupported`] for a pipe or a writer.
    pub(crate) fn require_readable(&self) -> Result<()> {
        let mut parts = std::iter::once(&self.main).chain(&self.companions);
        parts.try_for_each(OutputFile::require_readable)
    }

    /// Opens all files for reading and returns them with the paths that they have or will have, the
    /// main file first. Drops [flushed](Self::flush) data from the page cache, so that it is read
    /// from the disk.
    ///
    /// # Errors
    /// Returns the errors of [`require_readable`](Self::require_readable), and the error of the
    /// system if opening fails.
    pub(crate) fn read_back(&self) -> Result<Vec<(PathBuf, Arc<dyn Source>)>> {
        std::iter::once(&self.main).chain(&self.companions).map(OutputFile::read_back).collect()
    }

    /// Resolves `name` relative to the directory of the main file.
    fn resolve(&self, name: &Path) -> PathBuf {
        self.path().and_then(Path::parent).unwrap_or(Path::new("")).join(name)
    }

    /// Checks that `path` is not a file of this image or a protected file, and records it.
    fn claim(&mut self, path: &Path) -> Result<()> {
        if let Some(main) = self.path().filter(|_| self.names.is_empty()) {
            self.names.insert(canonical(main).concerning(main)?);
        }
        let existing = existing_identity(path);
        let parts = std::iter::once(&self.main).chain(&self.companions);
        let mut in_place = parts.filter(|part| part.staged.is_none());
        let is_written_in_place = existing.is_some()
            && in_place.any(|part| part.path.as_deref().and_then(existing_identity) == existing);
        if !self.names.insert(canonical(path).concerning(path)?) || is_written_in_place {
            let message = "it is the same file as another file of the image";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message)).concerning(path);
        }
        match self.protected.iter().find(|(file, _)| Some(*file) == existing) {
            Some((_, why)) => Err(OutputError::refused(path, *why)),
            None => Ok(()),
        }
    }

    fn stage(&mut self, path: PathBuf) -> Result<Arc<dyn Sink>> {
        let replaces = std::fs::metadata(&path).is_ok();
        let model = self.path().filter(|_| !replaces).unwrap_or(&path).to_owned();
        let staged = OutputFile::stage(path.clone(), model, &mut self.stale_temp_files);
        self.add(staged.concerning(&path)?.0)
    }

    fn add(&mut self, part: OutputFile) -> Result<Arc<dyn Sink>> {
        part.set_caching(self.caching)?;
        let sink = Arc::clone(&part.sink);
        self.companions.push(part);
        Ok(sink)
    }

    /// Flushes all files and renames them to their names. Companions are renamed before the main
    /// file, so that a main file always has its companions.
    ///
    /// # Errors
    /// Returns the error of the system with the path of the file. The new files are then deleted
    /// and the old files restored. If only flushing the directory fails, the new files remain, and
    /// the error says so.
    pub fn commit(self, durability: Durability) -> Result<()> {
        self.flush(durability)?;
        self.publish(durability)
    }

    /// First part of [`commit`](Self::commit), which may take long: flushes the data. Changes no
    /// names.
    pub(crate) fn flush(&self, durability: Durability) -> Result<()> {
        let mut parts = self.companions.iter().chain([&self.main]);
        parts.try_for_each(|part| part.finish_data(durability))
    }

    /// Second part of [`commit`](Self::commit): renames the files.
    pub(crate) fn publish(self, durability: Durability) -> Result<()> {
        drop(self.spare);
        let companions = self.companions.into_iter().filter_map(OutputFile::close).collect();
        publish::publish(self.main.close(), companions, durability)
    }
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
    os::identity(&std::fs::metadata(path).ok()?)
}
