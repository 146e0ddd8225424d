//! The files of an output that is planned: nothing is created, changed or written.
//!
//! The same questions are asked as when the output is created ([`OutputFile`]): may the file be
//! replaced, is it in use, can a file be created in its directory? What a format writes is
//! discarded, but the files that it names are recorded.
//!
//! [`OutputFile`]: super::output_file::OutputFile

use super::error::{Concerning, OutputError, Result};
use super::links::Destination;
use super::output_file::{existing, is_replaceable};
use super::overwrite::{obstacle, obstacle_of};
use super::publish::Publish;
use super::{Durability, directory_of, existing_identity};
use crate::storage::locking::{Lock, require_unlocked};
use crate::storage::os;
use crate::storage::sink::Sink;
use crate::storage::source::{FileSource, HostFileId, Source};
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// What happens to a file of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileAction {
    /// It does not exist and is created.
    Create,
    /// It exists and is replaced by a new file when that is complete.
    Replace,
    /// It is written in place: a device, a pipe, the target of
    /// [`run_existing`](crate::Convert::run_existing), or a file that cannot be replaced.
    Overwrite,
}

/// A file that would be written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlannedFile {
    /// Its path, without symbolic links, or its URL.
    pub path: PathBuf,
    /// What happens to it.
    pub action: FileAction,
    /// Why an existing file is overwritten instead of replaced.
    pub reason: Option<String>,
}

impl PlannedFile {
    /// Returns what creating an output at `path` would do, without creating or changing anything.
    ///
    /// # Errors
    /// The errors of [`Output::create`](super::Output::create), as far as they can be foreseen.
    pub fn of(path: impl AsRef<Path>) -> io::Result<Self> {
        let planned = Planned::create(path.as_ref())?;
        Ok(crate::storage::lock(&planned.files).remove(0))
    }

    /// Returns the bytes that are free in the file system in which the file is created, if that is
    /// known. `None` for a file that is overwritten.
    pub fn free_bytes(&self) -> Option<u64> {
        match self.action {
            FileAction::Overwrite => None,
            _ => os::free_space(directory_of(&self.path)),
        }
    }
}

/// The files that were planned so far, the main one first.
pub(crate) type Files = Arc<Mutex<Vec<PlannedFile>>>;

/// An output that records what would be written.
#[derive(Debug)]
pub(crate) struct Planned {
    path: Option<PathBuf>,
    sink: Arc<Discard>,
    files: Files,
    /// Existing files that companions must not replace, and why.
    protected: Vec<(HostFileId, &'static str)>,
    has_companions: bool,
}

impl Planned {
    /// Plans an output that will be named `path`.
    ///
    /// # Errors
    /// The errors of creating it, as far as they can be foreseen.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let found = Destination::of(path)?;
        let metadata = match found.metadata() {
            Ok(metadata) => metadata,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Ok(Self::of(plan_file(&found.path)?, Discard::new_file(), true));
            }
            Err(e) => return Err(e),
        };
        if metadata.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "the output is a directory"));
        }
        if metadata.is_file() && found.open_file.is_none() {
            return Ok(Self::of(plan_file(&found.path)?, Discard::new_file(), true));
        }
        let file =
            PlannedFile { path: path.to_owned(), action: FileAction::Overwrite, reason: None };
        if !os::is_seekable(&metadata) {
            // A pipe is not opened, which would end when it is closed.
            return Ok(Self::of(file, Discard::pipe(), false));
        }
        let opened = found.open(OpenOptions::new().read(true).write(true))?;
        require_unlocked(&opened, Lock::WRITE)?;
        let fixed_len = (!metadata.is_file()).then(|| FileSource::open(&found.path)).transpose()?;
        let fixed_len = fixed_len.map(|device| device.len());
        Ok(Self::of(
            file,
            Discard { sequential: false, is_zeroed: false, fixed_len },
            metadata.is_file(),
        ))
    }

    /// Plans an existing image or device that is written in place.
    pub(crate) fn in_place(path: &Path) -> Self {
        let file =
            PlannedFile { path: path.to_owned(), action: FileAction::Overwrite, reason: None };
        Self::of(file, Discard { is_zeroed: false, ..Discard::new_file() }, false)
    }

    /// Plans a new image called `name` that is not a file of this host.
    pub(crate) fn elsewhere(name: &str) -> Self {
        let file = PlannedFile { path: name.into(), action: FileAction::Create, reason: None };
        Self { path: None, ..Self::of(file, Discard::new_file(), false) }
    }

    /// Plans standard output.
    pub(crate) fn stdout() -> Self {
        Self {
            path: None,
            sink: Arc::new(Discard::pipe()),
            files: Files::default(),
            protected: Vec::new(),
            has_companions: false,
        }
    }

    fn of(file: PlannedFile, sink: Discard, has_companions: bool) -> Self {
        Self {
            path: Some(file.path.clone()),
            sink: Arc::new(sink),
            files: Arc::new(Mutex::new(vec![file])),
            protected: Vec::new(),
            has_companions,
        }
    }

    /// Returns the list to which files are added.
    pub(crate) fn files(&self) -> Files {
        Arc::clone(&self.files)
    }

    fn resolve(&self, name: &Path) -> PathBuf {
        self.path().and_then(Path::parent).unwrap_or(Path::new("")).join(name)
    }

    /// Records a companion, unless it must not be written.
    fn add(&self, file: PlannedFile) -> Result<Arc<dyn Sink>> {
        let path = &file.path;
        let found = existing_identity(path);
        let is_own = |own: &PlannedFile| {
            own.path == *path || found.is_some() && existing_identity(&own.path) == found
        };
        let mut files = crate::storage::lock(&self.files);
        if files.iter().any(is_own) {
            return Err(super::rename::same_file(path));
        }
        let is_protected = |id: HostFileId| found.is_some_and(|found| found.shares_data_with(id));
        if let Some((_, why)) = self.protected.iter().find(|(id, _)| is_protected(*id)) {
            return Err(OutputError::refused(path, *why));
        }
        files.push(file);
        Ok(Arc::new(Discard::new_file()))
    }
}

/// Plans a regular file, which may exist.
fn plan_file(path: &Path) -> io::Result<PlannedFile> {
    let planned = |action, reason| PlannedFile { path: path.to_owned(), action, reason };
    let exists = std::fs::symlink_metadata(path).is_ok();
    let directory = require_writable(directory_of(path));
    if !exists {
        directory?;
        return Ok(planned(FileAction::Create, None));
    }
    let old = existing(path)?;
    let reason = match directory {
        Ok(()) => obstacle(path, &old)?,
        Err(e) => Some(obstacle_of(&e).ok_or(e)?),
    };
    let action = if reason.is_some() { FileAction::Overwrite } else { FileAction::Replace };
    Ok(planned(action, reason))
}

/// Returns the error of creating a file in `directory`, as far as its permissions say it.
#[cfg(unix)]
fn require_writable(directory: &Path) -> io::Result<()> {
    use rustix::fs::{Access, access};
    Ok(access(directory, Access::WRITE_OK | Access::EXEC_OK)?)
}

#[cfg(not(unix))]
fn require_writable(_directory: &Path) -> io::Result<()> {
    Ok(())
}

impl Publish for Planned {
    fn sink(&self) -> Arc<dyn Sink> {
        Arc::clone(&self.sink) as Arc<dyn Sink>
    }

    fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    fn supports_companions(&self) -> bool {
        self.has_companions
    }

    fn companion(&mut self, name: &Path) -> Result<Arc<dyn Sink>> {
        let path = self.resolve(name);
        is_replaceable(&path)?;
        self.add(plan_file(&path).concerning(&path)?)
    }

    fn named_companion(&mut self, name: &Path) -> Result<Arc<dyn Sink>> {
        let path = self.resolve(name);
        let planned = Self::create(&path).concerning(&path)?;
        let file = crate::storage::lock(&planned.files).remove(0);
        if planned.sink.sequential {
            let message = "it exists and is neither a regular file nor a block device";
            return Err(OutputError::refused(&path, message));
        }
        self.add(file)
    }

    fn protect(&mut self, files: &[HostFileId], why: &'static str) {
        self.protected.extend(files.iter().map(|&file| (file, why)));
    }

    fn require_readable(&self) -> Result<()> {
        match self.sink.sequential {
            false => Ok(()),
            true => {
                let message = "data written to a pipe cannot be read again";
                let error = io::Error::new(io::ErrorKind::Unsupported, message);
                Err(OutputError::new(self.path.clone(), error))
            }
        }
    }

    fn read_back(&self) -> Result<Vec<(PathBuf, Arc<dyn Source>)>> {
        Ok(Vec::new())
    }

    fn flush(&self, _: Durability) -> Result<()> {
        Ok(())
    }

    fn publish(self: Box<Self>, _: Durability) -> Result<()> {
        Ok(())
    }
}

/// Discards what is written to it.
#[derive(Debug)]
struct Discard {
    sequential: bool,
    is_zeroed: bool,
    /// Length in bytes of a device.
    fixed_len: Option<u64>,
}

impl Discard {
    fn new_file() -> Self {
        Self { sequential: false, is_zeroed: true, fixed_len: None }
    }

    fn pipe() -> Self {
        Self { sequential: true, ..Self::new_file() }
    }
}

impl Sink for Discard {
    fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Ok(())
    }

    fn is_sequential(&self) -> bool {
        self.sequential
    }

    fn is_zeroed(&self) -> bool {
        self.is_zeroed
    }

    fn has_fixed_len(&self) -> bool {
        self.fixed_len.is_some()
    }

    fn fill_zeros_at(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn preallocate(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        match self.fixed_len {
            Some(fixed) if fixed < len => Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("the device has {fixed} bytes, but {len} are needed"),
            )),
            _ => Ok(()),
        }
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}
