//! One file of an output: staged beside its name, or written where it stands.

use super::error::{Concerning, OutputError, Result};
use super::publish::Staged;
use super::stale_temp_files::{StaleTempFiles, hold};
use super::{Durability, directory_of, temporary_prefix};
use crate::storage::caching::Caching;
use crate::storage::os::{self, FileLock};
use crate::storage::sink::{FileSink, PipeSink, Sink};
use crate::storage::source::{FileSource, Source};
use std::fs::{File, FileType, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::{NamedTempFile, TempPath};

/// What the names of files end in that have no name of their own yet.
pub(super) const TEMPORARY_SUFFIX: &str = ".diskimg-tmp";

/// How often a file is made anew that somebody took for left over.
const ATTEMPTS: u32 = 100;

/// How often a pipe is tried that nobody reads yet.
const PIPE_PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct OutputFile {
    pub(super) sink: Arc<dyn Sink>,
    /// The name it will have; `None` for a bare writer.
    pub(super) path: Option<PathBuf>,
    /// What waits for that name; `None` when written in place.
    pub(super) staged: Option<Staging>,
}

/// A file that has no name of its own yet.
#[derive(Debug)]
pub(super) struct Staging {
    file: TempPath,
    /// Whether it is locked, as long as it is open.
    hold: FileLock,
    /// The file whose mode and owner it takes, if that is there.
    model: PathBuf,
}

impl OutputFile {
    /// Under a name that the user gave. While it is a pipe that nobody reads,
    /// `stopped` is asked. Gives a second handle of a file that is staged.
    pub(super) fn create(
        path: &Path,
        stale_temp_files: &mut StaleTempFiles,
        stopped: &mut dyn FnMut() -> bool,
    ) -> io::Result<(Self, Option<File>)> {
        let path = destination(path)?;
        let mut stage = || {
            let (part, spare) = Self::stage(path.clone(), path.clone(), stale_temp_files)?;
            Ok((part, Some(spare)))
        };
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {
                Err(io::Error::new(io::ErrorKind::IsADirectory, "the output is a directory"))
            }
            Ok(metadata) if metadata.is_file() => stage(),
            Ok(metadata) if os::is_positioned(&metadata) => {
                let file = OpenOptions::new().write(true).open(&path)?;
                Ok((Self::direct(file, &path, false)?, None))
            }
            Ok(metadata) => {
                let sink = Arc::new(PipeSink::new(open_pipe(&path, &metadata, stopped)?));
                Ok((Self { sink, path: Some(path), staged: None }, None))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => stage(),
            Err(e) => Err(e),
        }
    }

    /// Starts a file that will be called `path`, with mode and owner of
    /// `model` if there is one. What killed runs left of the same file goes. Gives a second
    /// handle of the file, too.
    pub(super) fn stage(
        path: PathBuf,
        model: PathBuf,
        stale_temp_files: &mut StaleTempFiles,
    ) -> io::Result<(Self, File)> {
        if std::fs::metadata(&path).is_ok() {
            // Renaming over a file asks leave of its directory only; the
            // file's own mode must count too.
            OpenOptions::new().write(true).open(&path)?;
        }
        stale_temp_files.remove(&path);
        let (opened, file, hold) = make_temporary(&path, &model)?;
        let second = opened.try_clone()?;
        let part = Self {
            sink: Arc::new(FileSink::new(opened, true)?),
            path: Some(path),
            staged: Some(Staging { file, hold, model }),
        };
        Ok((part, second))
    }

    pub(super) fn direct(file: File, path: &Path, zeroed: bool) -> io::Result<Self> {
        Ok(Self {
            sink: Arc::new(FileSink::new(file, zeroed)?),
            path: Some(path.to_owned()),
            staged: None,
        })
    }

    pub(super) fn set_caching(&self, caching: Caching) -> Result<()> {
        self.sink.set_caching(caching).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: io::Error) -> OutputError {
        OutputError { path: self.path.clone(), error, refused: false, hint: None }
    }

    /// All that must be done while the file is open.
    pub(super) fn finish_data(&self, durability: Durability) -> Result<()> {
        let finish = || {
            if let Some(staging) = &self.staged {
                take_mode_and_owner(&staging.model, &staging.file)?;
            }
            // A pipe's flush only empties our own buffers: that is always due.
            if durability == Durability::Flushed || self.sink.is_sequential() {
                self.sink.flush()?;
            }
            Ok(())
        };
        finish().map_err(|error| self.failed(error))
    }

    /// The file as it is, under the name that it has or will have.
    pub(super) fn read_back(&self) -> Result<(PathBuf, Arc<dyn Source>)> {
        self.require_readable()?;
        let path = self.path.clone().unwrap_or_default();
        let stands_at = self.staged.as_ref().map_or(&*path, |staging| &*staging.file);
        let open = || {
            let file = FileSource::open(stands_at)?;
            if let Some((file, _)) = file.as_file() {
                // Clean pages are dropped by this, so that they come from the disk again.
                os::write_behind(file)?;
            }
            Ok(file)
        };
        let file = open().map_err(|error| self.failed(error))?;
        Ok((path, Arc::new(file)))
    }

    /// Sees that it can be read again: it is no pipe, and no writer of the caller's.
    pub(super) fn require_readable(&self) -> Result<()> {
        if self.path.is_some() && !self.sink.is_sequential() {
            return Ok(());
        }
        let message = "what is written to a pipe cannot be read again";
        Err(self.failed(io::Error::new(io::ErrorKind::Unsupported, message)))
    }

    /// Nothing more is written; `None` if it was written in place. A file that is held stays
    /// open until it has its name: else somebody could take it for left over.
    pub(super) fn close(self) -> Option<Staged> {
        let staging = self.staged?;
        let held = (staging.hold == FileLock::Ours).then_some(self.sink);
        Some(Staged { path: self.path?, file: staging.file, held })
    }
}

/// A new file beside `path`, and held where that is possible.
fn make_temporary(path: &Path, model: &Path) -> io::Result<(File, TempPath, FileLock)> {
    let prefix = temporary_prefix(path)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // A file that takes another one's mode stays private until then;
        // any other gets what the umask leaves.
        options.mode(if is_file(model) { 0o600 } else { 0o666 });
    }
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(TEMPORARY_SUFFIX);
    for _ in 0..ATTEMPTS {
        // Opened here: the system's own error must come out.
        let temporary = builder.make_in(directory_of(path), |path| options.open(path))?;
        let (opened, file) = NamedTempFile::into_parts(temporary);
        if let Some(hold) = hold(&opened, &file) {
            return Ok((opened, file, hold));
        }
    }
    Err(io::Error::other("somebody removes every new file"))
}

/// Where a file that is called `path` really is: links are followed.
pub(super) fn destination(path: &Path) -> io::Result<PathBuf> {
    match std::fs::metadata(path) {
        // /dev/stdout leads to a pipe by a link that spells no name.
        Ok(metadata) if !metadata.is_file() => Ok(path.to_owned()),
        _ => follow_links(path),
    }
}

/// Follows symbolic links to the file that will be written, which need not
/// exist yet.
fn follow_links(path: &Path) -> io::Result<PathBuf> {
    const MAX_LINKS: usize = 40; // as Linux's own limit
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match std::fs::read_link(&path) {
            Ok(target) => {
                path = path.parent().unwrap_or(Path::new("")).join(target);
            }
            // Not a link, or nothing there: this is the name to write.
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other("too many levels of symbolic links"))
}

fn open_pipe(
    path: &Path,
    metadata: &std::fs::Metadata,
    stopped: &mut dyn FnMut() -> bool,
) -> io::Result<File> {
    loop {
        if let Some(file) = os::open_to_write(path, metadata)? {
            return Ok(file);
        }
        if stopped() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        std::thread::sleep(PIPE_PAUSE);
    }
}

#[cfg(unix)]
fn is_file(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
}

/// Whether a file is there, under a name that may be given to another.
///
/// # Errors
/// What stands there is anything but a regular file: a link would be written
/// through, a device's bytes overwritten.
pub(super) fn is_replaceable(path: &Path) -> Result<bool> {
    let kind = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e).concerning(path),
    };
    if kind.is_file() {
        return Ok(true);
    }
    let message = format!("{} stands where a regular file must be", describe(kind));
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

/// The new file takes the old one's mode and, where permitted, its owner.
#[cfg(unix)]
fn take_mode_and_owner(old: &Path, new: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let metadata = match std::fs::metadata(old) {
        Ok(metadata) if metadata.is_file() => metadata,
        _ => return Ok(()),
    };
    // Only root may give files away; for anyone else this is a wish. Owner
    // first: chown clears set-id bits, which the mode then restores.
    // The group is a wish of its own: its members may give it.
    let _ = std::os::unix::fs::chown(new, None, Some(metadata.gid()));
    let _ = std::os::unix::fs::chown(new, Some(metadata.uid()), None);
    std::fs::set_permissions(new, metadata.permissions())
}

#[cfg(not(unix))]
fn take_mode_and_owner(_old: &Path, _new: &Path) -> io::Result<()> {
    Ok(())
}
