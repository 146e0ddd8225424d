//! Output that is never half there.
//!
//! ```text
//!   create(dst)            sink() … writes …             commit()
//!   ───────────┬─────────────────────────────┬──────────────────────────────
//!   .dst.XXXXXX.diskimg-tmp beside dst       │ flush, mode and owner of the
//!   (dst itself untouched)                   │ old dst, rename over dst,
//!                                            │ flush the directory
//!                          drop without commit: the temporary file goes away
//! ```
//!
//! An image of several files replaces an older one as a whole, or not at all
//! if that fails. A kill or a power cut in the middle of the renames can leave
//! it missing under its name, with its old main file beside it as
//! `.dst.XXXXXX.diskimg-old`, but never old and new files mixed (`publish.rs`).
//!
//! A run that is killed leaves its temporary files. Whoever writes the same name
//! next removes them, if no living run holds them (`stale_temp_files.rs`).
//!
//! Devices, pipes and files opened [in place](Output::in_place) have no beside:
//! they are written directly.

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
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One or more files being written, which appear under their names when all is
/// complete and not at all otherwise.
#[derive(Debug)]
pub struct Output {
    main: OutputFile,
    /// Further files that belong to the image: an external data file, extents.
    companions: Vec<OutputFile>,
    /// The names of all of them, each in one spelling.
    names: HashSet<PathBuf>,
    /// How all of them are written.
    caching: Caching,
    /// What no companion may replace, and why not.
    protected: Vec<(HostFileId, &'static str)>,
    /// What killed runs left.
    stale_temp_files: StaleTempFiles,
    /// A handle to be given up for those that [`publish`](Self::publish) opens: hundreds of
    /// companions may have taken all that a process may have.
    spare: Option<File>,
}

/// How hard [`Output::commit`] tries to survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Data reaches stable storage before the name appears.
    #[default]
    Flushed,
    /// The operating system writes back when it likes.
    Cached,
}

impl Output {
    /// Starts a new file that will be called `path`. An existing regular file
    /// stays as it is until [`commit`](Self::commit); a symbolic link is
    /// followed. A device or a pipe is opened and written in place; a pipe is
    /// waited for until it has a reader.
    ///
    /// # Errors
    /// What the system said: no such directory, no permission to write the
    /// existing file.
    pub fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::create_unless(path, &mut || false)
    }

    /// As [`create`](Self::create), but asks while it waits.
    ///
    /// # Errors
    /// [`io::ErrorKind::Interrupted`] if it was `stopped`.
    pub(crate) fn create_unless(
        path: impl AsRef<Path>,
        stopped: &mut dyn FnMut() -> bool,
    ) -> io::Result<Self> {
        let mut stale_temp_files = StaleTempFiles::default();
        let (main, spare) = OutputFile::create(path.as_ref(), &mut stale_temp_files, stopped)?;
        Ok(Self { spare, stale_temp_files, ..Self::of(main) })
    }

    /// Opens an existing file or device to overwrite it where it stands.
    /// `zeroed` is the caller's promise that it reads as zeros now.
    ///
    /// # Errors
    /// What the system said.
    pub fn in_place(path: impl AsRef<Path>, zeroed: bool) -> io::Result<Self> {
        let path = path.as_ref();
        let file = OpenOptions::new().write(true).open(path)?;
        Ok(Self::of(OutputFile::direct(file, path, zeroed)?))
    }

    /// Writes to anything that takes bytes in order.
    pub fn writer(writer: impl Write + Send + 'static) -> Self {
        Self::to_sink(Arc::new(PipeSink::new(writer)))
    }

    /// Writes to a sink of the caller's.
    pub fn to_sink(sink: Arc<dyn Sink>) -> Self {
        Self::of(OutputFile { sink, path: None, staged: None })
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

    /// Says what shall become of the page cache, for all files of the image;
    /// before anything is written.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] if a file system cannot do it so.
    pub fn set_caching(&mut self, caching: Caching) -> Result<()> {
        self.caching = caching;
        let mut parts = std::iter::once(&self.main).chain(&self.companions);
        parts.try_for_each(|part| part.set_caching(caching))
    }

    /// With a name that the image may record, for a sink that is a file in a
    /// larger one. Nothing of that name is touched.
    pub(crate) fn called(mut self, name: impl Into<PathBuf>) -> Self {
        self.main.path = Some(name.into());
        self
    }

    /// From now on no companion may replace any of these `files`: `why` says
    /// what they are. The main file is the caller's to look at.
    pub(crate) fn protect(
        &mut self,
        files: impl IntoIterator<Item = HostFileId>,
        why: &'static str,
    ) {
        self.protected.extend(files.into_iter().map(|file| (file, why)));
    }

    /// Where the main file's bytes go.
    pub fn sink(&self) -> Arc<dyn Sink> {
        Arc::clone(&self.main.sink)
    }

    /// The name the main file will have; `None` for a writer.
    pub fn path(&self) -> Option<&Path> {
        self.main.path.as_deref()
    }

    /// Whether further files can stand beside the main one: it has a name, and
    /// is neither a device nor a pipe.
    pub(crate) fn has_beside(&self) -> bool {
        let is_file = |path: &Path| std::fs::metadata(path).is_ok_and(|m| m.is_file());
        self.main.staged.is_some() || self.path().is_some_and(is_file)
    }

    /// Starts a further file of the same image, whose name follows from the
    /// main one's and is beside it. What stands there may be a regular file or
    /// nothing. It gets mode and owner of that file or, if it is new, of the
    /// main file that is there already.
    ///
    /// # Errors
    /// What the system said; refused if anything else stands there, or one of
    /// the source's own files; [`io::ErrorKind::InvalidInput`] if it would be
    /// the main file itself, or another companion.
    pub fn companion(&mut self, name: &Path) -> Result<Arc<dyn Sink>> {
        let path = self.beside(name);
        is_replaceable(&path)?;
        self.claim(&path)?;
        self.stage(path)
    }

    /// As [`companion`](Self::companion), under a name that the user gave. A
    /// link is followed, a block device written in place; a relative name is
    /// beside the main file.
    ///
    /// # Errors
    /// As [`companion`](Self::companion).
    pub fn named_companion(&mut self, name: &Path) -> Result<Arc<dyn Sink>> {
        let path = self.beside(name);
        let path = destination(&path).concerning(&path)?;
        self.claim(&path)?;
        match std::fs::metadata(&path) {
            Ok(metadata) if !metadata.is_file() && os::is_positioned(&metadata) => {
                let file = OpenOptions::new().write(true).open(&path).concerning(&path)?;
                let part = OutputFile::direct(file, &path, false).concerning(&path)?;
                self.add(part)
            }
            Ok(metadata) if !metadata.is_file() => {
                let message = "neither a regular file nor a block device stands there";
                Err(OutputError::refused(&path, message))
            }
            _ => self.stage(path),
        }
    }

    /// The name that the file behind one of our sinks will have.
    pub(crate) fn path_of(&self, sink: &Arc<dyn Sink>) -> Option<&Path> {
        let mut parts = std::iter::once(&self.main).chain(&self.companions);
        parts.find(|part| Arc::ptr_eq(&part.sink, sink))?.path.as_deref()
    }

    /// Sees that [`read_back`](Self::read_back) will be possible.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] for what leaves us: a pipe, a writer.
    pub(crate) fn require_readable(&self) -> Result<()> {
        let mut parts = std::iter::once(&self.main).chain(&self.companions);
        parts.try_for_each(OutputFile::require_readable)
    }

    /// Every file that was written with the name that it has or will have, the main one
    /// first, to be read as it is on the disk: what is [flushed](Self::flush) leaves the page cache.
    ///
    /// # Errors
    /// As [`require_readable`](Self::require_readable), and what the system said.
    pub(crate) fn read_back(&self) -> Result<Vec<(PathBuf, Arc<dyn Source>)>> {
        std::iter::once(&self.main).chain(&self.companions).map(OutputFile::read_back).collect()
    }

    fn beside(&self, name: &Path) -> PathBuf {
        self.path().and_then(Path::parent).unwrap_or(Path::new("")).join(name)
    }

    /// Sees that `path` is nobody else's, before it is touched.
    fn claim(&mut self, path: &Path) -> Result<()> {
        if let Some(main) = self.path().filter(|_| self.names.is_empty()) {
            self.names.insert(unambiguous(main).concerning(main)?);
        }
        let existing = existing_identity(path);
        let parts = std::iter::once(&self.main).chain(&self.companions);
        let mut in_place = parts.filter(|part| part.staged.is_none());
        let written_now = existing.is_some()
            && in_place.any(|part| part.path.as_deref().and_then(existing_identity) == existing);
        if !self.names.insert(unambiguous(path).concerning(path)?) || written_now {
            let message = "it would be the same file as another one of the image";
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

    /// Gives every file its name. Companions come first: an image that is
    /// there has all its parts.
    ///
    /// # Errors
    /// What the system said, and of which file. The new files are removed, and
    /// the old ones as they were; if only the directory could not be flushed, the
    /// new ones are there, and the error says so.
    pub fn commit(self, durability: Durability) -> Result<()> {
        self.flush(durability)?;
        self.publish(durability)
    }

    /// The first half of [`commit`](Self::commit), which takes its time: all data
    /// in their files, and no name changed.
    pub(crate) fn flush(&self, durability: Durability) -> Result<()> {
        let mut parts = self.companions.iter().chain([&self.main]);
        parts.try_for_each(|part| part.finish_data(durability))
    }

    /// The second half: the names.
    pub(crate) fn publish(self, durability: Durability) -> Result<()> {
        drop(self.spare);
        let companions = self.companions.into_iter().filter_map(OutputFile::close).collect();
        publish::publish(self.main.close(), companions, durability)
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What the name of a file starts with that stands beside `path` for a while.
fn temporary_prefix(path: &Path) -> io::Result<String> {
    let name = path.file_name().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "the output has no file name")
    })?;
    // `NAME_MAX` is 255 bytes on every system we know: leave room for the suffix.
    let shown: String = name.to_string_lossy().chars().take(40).collect();
    Ok(format!(".{shown}."))
}

/// A name that two spellings of it (`a`, `./a`, `link/a`) share.
pub(crate) fn unambiguous(path: &Path) -> io::Result<PathBuf> {
    Ok(directory_of(path).canonicalize()?.join(path.file_name().unwrap_or_default()))
}

/// The identity of what stands under `path` now, if anything does.
pub(crate) fn existing_identity(path: &Path) -> Option<HostFileId> {
    os::identity(&std::fs::metadata(path).ok()?)
}
