//! One file of an output: staged as a temporary file, or written in place.

use super::competing::{Replaced, in_turn, verify_name};
use super::error::{Concerning, OutputError, Result};
use super::links::{Destination, open_no_link};
use super::overwrite::{Overwritten, obstacle, obstacle_of};
use super::rename::Staged;
use super::reserved::{self, Reservation};
use super::stale_temp_files::lock_new;
use super::{Durability, directory_of, existing_identity, temporary_names, temporary_prefix};
use crate::storage::caching::Caching;
use crate::storage::locking::{HeldLock, Lock, release, require_unlocked};
use crate::storage::os;
use crate::storage::sink::{FileSink, PipeSink, Sink};
use crate::storage::source::{FileSource, HostFileId, Source};
use std::ffi::OsStr;
use std::fs::{File, FileType, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::{NamedTempFile, TempPath};

/// Suffix of the names of temporary files.
pub(super) const TEMPORARY_SUFFIX: &str = ".diskimg-tmp";

/// Number of attempts to create a temporary file, as another process may remove it before it is
/// locked.
const ATTEMPTS: u32 = 100;

/// Why a file that is named by a file descriptor is not replaced.
const OPEN_FILE: &str = "it is named by an open file descriptor, which would refer to the old file";

/// Interval between attempts to open a pipe that has no reader yet.
const PIPE_RETRY_INTERVAL: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct OutputFile {
    pub(super) sink: Arc<dyn Sink>,
    /// The path that it has or will have; `None` for a writer.
    pub(super) path: Option<PathBuf>,
    /// The temporary file; `None` if the file is written in place.
    pub(super) staged: Option<Staging>,
    /// The lock on a file that is written in place.
    #[allow(dead_code, reason = "held until the output is dropped")]
    pub(super) lock: Option<InPlaceLock>,
    /// The sink, if it is an existing file that cannot be replaced.
    pub(super) overwritten: Option<Arc<Overwritten>>,
}

/// The lock on a file that is written in place.
#[derive(Debug)]
pub(super) struct InPlaceLock {
    file: File,
    /// Whether it must still have its path in the end: not if it is a device or is named by a file
    /// descriptor.
    keeps_name: bool,
    _held: HeldLock,
}

impl InPlaceLock {
    fn acquire(file: &File) -> io::Result<Self> {
        let keeps_name = file.metadata()?.is_file();
        let held = in_turn(file, || Lock::WRITE.acquire(file))?;
        Ok(Self { keeps_name, file: file.try_clone()?, _held: held })
    }
}

impl Drop for InPlaceLock {
    fn drop(&mut self) {
        release(&self.file);
    }
}

/// A temporary file that will be renamed.
#[derive(Debug)]
pub(super) struct Staging {
    file: TempPath,
    /// The open file. Another user may put another file under its name.
    sink: Arc<FileSink>,
    /// Its identity.
    id: Option<HostFileId>,
    /// The file whose mode and owner it gets, if that exists.
    model: PathBuf,
    /// The file that it will replace.
    replaces: Replaced,
    /// Whether it has the mode and owner of `model` already.
    has_attributes: bool,
}

impl OutputFile {
    /// Creates a file at a path given by the user. Calls `stopped` while it waits for the reader of
    /// a pipe. Also returns a second handle if the file is staged.
    pub(super) fn create(
        path: &Path,
        stopped: &mut dyn FnMut() -> bool,
    ) -> io::Result<(Self, Option<File>)> {
        let found = match reserved::take(path) {
            Some(Reservation::Staged(reserved)) => {
                return reserved.map(|(part, second)| (part, Some(second)));
            }
            Some(Reservation::Overwritten(found, reason)) => {
                let file = existing(&found.path)?;
                return Ok((Self::overwrite(found.path, file, reason)?, None));
            }
            Some(Reservation::Direct(found)) => found,
            None => Destination::of(path)?,
        };
        match found.metadata() {
            Ok(metadata) if metadata.is_dir() => {
                Err(io::Error::new(io::ErrorKind::IsADirectory, "the output is a directory"))
            }
            Ok(metadata) if metadata.is_file() => match &found.open_file {
                Some(link) => Ok((Self::to_open_file(path, link)?, None)),
                None => Self::stage(found.path.clone(), found.path),
            },
            Ok(metadata) if os::is_seekable(&metadata) => {
                Ok((Self::to_destination(&found, path, false)?, None))
            }
            Ok(metadata) => {
                let sink = Arc::new(PipeSink::new(open_pipe(&found, &metadata, stopped)?));
                Ok((Self::to_sink(sink, Some(path.to_owned())), None))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Self::stage(found.path.clone(), found.path)
            }
            Err(e) => Err(e),
        }
    }

    /// Overwrites a file that is open under the name `link`, to which `path` leads.
    fn to_open_file(path: &Path, link: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(link)?;
        require_unlocked(&file, Lock::WRITE)?;
        // The file may have been renamed or deleted.
        let name = std::fs::read_link(link)?;
        let is_current = existing_identity(&name) == existing_identity(link);
        let named = if is_current { name } else { path.to_owned() };
        let mut part = Self::overwrite(named, file, OPEN_FILE.to_owned())?;
        part.lock.iter_mut().for_each(|lock| lock.keeps_name = false);
        Ok(part)
    }

    /// Creates an output that writes to `sink` directly.
    pub(super) fn to_sink(sink: Arc<dyn Sink>, path: Option<PathBuf>) -> Self {
        Self { sink, path, staged: None, lock: None, overwritten: None }
    }

    /// Returns the name of the temporary file, if there is one.
    pub(super) fn temporary_name(&self) -> Option<&OsStr> {
        self.staged.as_ref()?.file.file_name()
    }

    /// Creates a temporary file that will be renamed to `path`, with the mode and owner of `model`
    /// if that exists. Also returns a second handle of the file.
    ///
    /// If a file exists at `path` that cannot be replaced, opens it to overwrite it instead.
    pub(super) fn stage(path: PathBuf, model: PathBuf) -> io::Result<(Self, Option<File>)> {
        let old = match std::fs::symlink_metadata(&path) {
            Ok(_) => Some(existing(&path)?),
            Err(_) => None,
        };
        if let Some(old) = &old
            && let Some(reason) = obstacle(&path, old)?
        {
            return Ok((Self::overwrite(path, old.try_clone()?, reason)?, None));
        }
        let (opened, file) = match (make_temporary(&path, &model), old.as_ref()) {
            (Ok(made), _) => made,
            (Err(e), Some(old)) if obstacle_of(&e).is_some() => {
                let reason = obstacle_of(&e).unwrap_or_default();
                return Ok((Self::overwrite(path, old.try_clone()?, reason)?, None));
            }
            (Err(e), _) => return Err(e),
        };
        let replaces = old.as_ref().map(Replaced::of).transpose()?.unwrap_or_default();
        if let Some(old) = &old
            && let Some(lost) = os::copy_attributes(old, &opened)?
        {
            let reason = format!("a new file would lose {lost}");
            return Ok((Self::overwrite(path, old.try_clone()?, reason)?, None));
        }
        let (second, id) = (opened.try_clone()?, HostFileId::of(&opened));
        let sink = Arc::new(FileSink::new(opened, true)?);
        let part = Self {
            sink: Arc::clone(&sink) as Arc<dyn Sink>,
            path: Some(path),
            staged: Some(Staging { file, sink, id, model, replaces, has_attributes: false }),
            lock: None,
            overwritten: None,
        };
        Ok((part, Some(second)))
    }

    /// Locks an existing file, which will be overwritten for this reason.
    fn overwrite(path: PathBuf, file: File, reason: String) -> io::Result<Self> {
        let lock = InPlaceLock::acquire(&file)?;
        let overwritten = Arc::new(Overwritten::new(file, reason)?);
        Ok(Self {
            sink: Arc::clone(&overwritten) as Arc<dyn Sink>,
            path: Some(path),
            staged: None,
            lock: Some(lock),
            overwritten: Some(overwritten),
        })
    }

    /// Decides to overwrite the existing file if there is no room for a second one of `len` bytes,
    /// but enough once the existing one is removed. Nothing may have been written yet.
    pub(super) fn make_room(&mut self, len: u64) -> Result<()> {
        let (Some(_), Some(path)) = (&self.staged, &self.path) else { return Ok(()) };
        let Ok(old) = File::open(path) else { return Ok(()) };
        let old = os::freeable_bytes(&old);
        let Some(free) = os::free_space(directory_of(path)) else { return Ok(()) };
        if free >= len || free.saturating_add(old) < len {
            return Ok(());
        }
        let reason =
            format!("there is no room for a second file: {len} bytes are needed, {free} are free");
        let path = path.clone();
        let overwrite = || Self::overwrite(path.clone(), existing(&path)?, reason);
        *self = overwrite().concerning(&path)?;
        Ok(())
    }

    /// Returns why the file is overwritten in place, if it cannot be replaced.
    pub(super) fn note(&self) -> Option<String> {
        let (path, overwritten) = (self.path.as_ref()?, self.overwritten.as_ref()?);
        let reason = overwritten.reason();
        Some(format!("{} was overwritten in place, because {reason}", path.display()))
    }

    /// Opens an existing file or device to overwrite it in place, and locks it. `zeroed` must be
    /// true only if it reads as zeros now.
    pub(super) fn in_place(path: &Path, zeroed: bool) -> io::Result<Self> {
        Self::to_destination(&Destination::of(path)?, path, zeroed)
    }

    /// Like [`in_place`](Self::in_place), for the file to which `path` leads.
    fn to_destination(found: &Destination, path: &Path, zeroed: bool) -> io::Result<Self> {
        let file = found.open(OpenOptions::new().read(true).write(true))?;
        let lock = Some(InPlaceLock::acquire(&file)?);
        let sink = Arc::new(FileSink::new(file, zeroed)?);
        Ok(Self { lock, ..Self::to_sink(sink, Some(path.to_owned())) })
    }

    pub(super) fn set_caching(&self, caching: Caching) -> Result<()> {
        self.sink.set_caching(caching).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: io::Error) -> OutputError {
        OutputError { path: self.path.clone(), error, refused: false, hint: None }
    }

    /// Sets mode and owner of the temporary file now, instead of when it is complete.
    pub(super) fn take_attributes(&mut self) -> io::Result<()> {
        let Some(staging) = &mut self.staged else { return Ok(()) };
        os::take_mode_and_owner(&staging.model, staging.sink.file())?;
        staging.has_attributes = true;
        Ok(())
    }

    /// Returns the path of the temporary file, if there is one.
    pub(super) fn temporary_path(&self) -> Option<&Path> {
        self.staged.as_ref().map(|staging| &*staging.file)
    }

    /// Sets mode and owner and flushes the data.
    pub(super) fn finish_data(&self, durability: Durability) -> Result<()> {
        let finish = || {
            if let Some(staging) = &self.staged
                && !staging.has_attributes
            {
                os::take_mode_and_owner(&staging.model, staging.sink.file())?;
            }
            // Flushing a pipe only empties the writer's buffers, which is always necessary.
            if durability == Durability::Flushed || self.sink.is_sequential() {
                self.sink.flush()?;
            }
            Ok(())
        };
        finish().map_err(|error| self.failed(error))
    }

    /// Opens the file for reading and returns it with the path that it has or will have.
    pub(super) fn read_back(&self) -> Result<(PathBuf, Arc<dyn Source>)> {
        self.require_readable()?;
        let path = self.path.clone().unwrap_or_default();
        let current_path = self.staged.as_ref().map_or(&*path, |staging| &*staging.file);
        let open = || {
            let file = FileSource::open(current_path)?;
            if let (Some(staging), Some((file, _))) = (&self.staged, file.as_file()) {
                require_same(staging.id, HostFileId::of(file))?;
            }
            if let Some((file, _)) = file.as_file() {
                // Drops clean pages, so that they are read from the disk again.
                os::write_behind(file)?;
            }
            Ok(file)
        };
        let file = open().map_err(|error| self.failed(error))?;
        Ok((path, Arc::new(file)))
    }

    /// Checks that the file can be read: that it is neither a pipe nor a writer.
    pub(super) fn require_readable(&self) -> Result<()> {
        if self.path.is_some() && !self.sink.is_sequential() {
            return Ok(());
        }
        let message = "data written to a pipe cannot be read again";
        Err(self.failed(io::Error::new(io::ErrorKind::Unsupported, message)))
    }

    /// Verifies that a regular file that was written in place still has its name.
    pub(super) fn verify_name(&self) -> Result<()> {
        match (&self.lock, &self.path) {
            (Some(lock), Some(path)) if lock.keeps_name => verify_name(&lock.file, path),
            _ => Ok(()),
        }
    }

    /// Returns the complete temporary file, or `None` if the file was written in place. It stays open
    /// until it is renamed: a locked one is not removed as stale by another process, and its name is
    /// compared with the open file.
    pub(super) fn close(self) -> Option<Staged> {
        let Staging { file, sink, id, replaces, .. } = self.staged?;
        Some(Staged { path: self.path?, file, sink, id, replaces })
    }
}

/// Verifies that the `created` temporary file is the one that was `found` by its name.
pub(super) fn require_same(
    created: Option<HostFileId>,
    found: Option<HostFileId>,
) -> io::Result<()> {
    match created == found {
        true => Ok(()),
        false => Err(io::Error::other("another process has replaced the temporary file")),
    }
}

/// Creates a temporary file in the directory of `path` and locks it if possible.
fn make_temporary(path: &Path, model: &Path) -> io::Result<(File, TempPath)> {
    let prefix = temporary_prefix(path)?;
    // A file that will get the mode of another file is private until then.
    let is_private = std::fs::symlink_metadata(model).is_ok_and(|model| model.is_file());
    let mut options = if is_private { os::private_options() } else { OpenOptions::new() };
    options.read(true).write(true).create_new(true);
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(TEMPORARY_SUFFIX);
    for _ in 0..ATTEMPTS {
        // Opened with a closure, so that the error of the system is returned unchanged.
        let create = |path: &Path| temporary_names::create(path, || options.open(path));
        let temporary = builder.make_in(directory_of(path), create)?;
        let (opened, file) = NamedTempFile::into_parts(temporary);
        if lock_new(&opened, &file).is_some() {
            os::make_sparse(&opened);
            return Ok((opened, file));
        }
    }
    let message = format!("another process removed the temporary file {ATTEMPTS} times");
    Err(io::Error::other(message))
}

/// Opens an existing file to write it or to replace it. Renaming over a file requires write
/// permission only for its directory. Requires it for the file as well, and that no other process
/// uses the file.
pub(super) fn existing(path: &Path) -> io::Result<File> {
    let file = open_no_link(OpenOptions::new().read(true).write(true), path)?;
    require_unlocked(&file, Lock::WRITE)?;
    Ok(file)
}

fn open_pipe(
    found: &Destination,
    metadata: &std::fs::Metadata,
    stopped: &mut dyn FnMut() -> bool,
) -> io::Result<File> {
    loop {
        if let Some(file) = os::open_to_write(metadata, found.open_file.is_some(), &found.path)? {
            return Ok(file);
        }
        if stopped() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        std::thread::sleep(PIPE_RETRY_INTERVAL);
    }
}

/// Returns true if a regular file exists at `path`, which the output may replace, and false if
/// nothing exists there.
///
/// # Errors
/// Refuses any other file: writing would follow a link or overwrite a device.
pub(super) fn is_replaceable(path: &Path) -> Result<bool> {
    let kind = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e).concerning(path),
    };
    if kind.is_file() {
        return Ok(true);
    }
    let message = format!("it is {}, not a regular file", describe(kind));
    Err(OutputError::refused(path, message))
}

fn describe(kind: FileType) -> &'static str {
    if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_dir() {
        "a directory"
    } else {
        "a device or a pipe"
    }
}
