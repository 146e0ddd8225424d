//! Outputs in the file system: temporary files that are renamed, devices, pipes and sinks.

use super::error::{Concerning, OutputError, Result};
use super::links::Destination;
use super::output_file::{OutputFile, is_replaceable};
use super::publish::Publish;
use super::stale_temp_files::StaleTempFiles;
use super::{Durability, canonical, directory_of, existing_identity, rename};
use crate::storage::caching::Caching;
use crate::storage::hints::AllocationHints;
use crate::storage::os;
use crate::storage::sink::Sink;
use crate::storage::source::{HostFileId, Source};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One or more files that are being written.
#[derive(Debug)]
pub(super) struct FileOutput {
    main: OutputFile,
    /// Additional files of the image: an external data file, extents.
    companions: Vec<OutputFile>,
    /// Names of all files.
    names: HashSet<Name>,
    /// Identities of the files that exist under these names.
    existing: HashSet<HostFileId>,
    /// How all files use the page cache.
    caching: Caching,
    /// How the space of all files is allocated.
    hints: AllocationHints,
    /// Files that no companion may replace, with the reason.
    protected: Vec<(HostFileId, &'static str)>,
    /// Temporary files left by killed processes.
    stale_temp_files: StaleTempFiles,
    /// Spare file handles. [`publish`](Publish::publish) closes them so that it can open directories
    /// and lock files even if the companions have used up the process's limit of open files.
    spare: Option<[File; 2]>,
    /// The length of the image in bytes, as far as it is known.
    expected_len: Option<u64>,
    /// No file is replaced.
    create_only: bool,
}

/// The name of a file in its directory, which may have several paths.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Name {
    /// The identity of the directory; `None` on systems without identities.
    directory: Option<HostFileId>,
    /// The name in the directory, or the canonical path if its identity is unknown.
    name: PathBuf,
}

impl Name {
    fn of(path: &Path) -> Result<Self> {
        let directory = existing_identity(directory_of(path));
        let name = match directory {
            Some(_) => path.file_name().unwrap_or_default().into(),
            None => canonical(path).concerning(path)?,
        };
        Ok(Self { directory, name })
    }
}

impl FileOutput {
    /// Creates an output that will be named `path`; see [`Output::create`](super::Output::create).
    /// Calls `stopped` while it waits for the reader of a pipe.
    pub(super) fn create(path: &Path, stopped: &mut dyn FnMut() -> bool) -> io::Result<Self> {
        let (main, second) = OutputFile::create(path, stopped)?;
        let spare = match second {
            Some(file) => Some([file.try_clone()?, file]),
            None => None,
        };
        Ok(Self { spare, ..Self::of(main) })
    }

    /// As [`create`](Self::create), but replaces no file.
    pub(super) fn create_new(path: &Path) -> io::Result<Self> {
        // A device and a pipe would be opened.
        require_absent(path)?;
        let output = Self::create(path, &mut || false)?;
        // One that appears from now on is noticed when the output is renamed.
        require_absent(path)?;
        Ok(Self { create_only: true, ..output })
    }

    /// Opens an existing file or device to overwrite it in place.
    pub(super) fn in_place(path: &Path, zeroed: bool) -> io::Result<Self> {
        Ok(Self::of(OutputFile::in_place(path, zeroed)?))
    }

    /// Creates an output that writes to `sink`, with a path that the image may record.
    pub(super) fn to_sink(sink: Arc<dyn Sink>, path: Option<PathBuf>) -> Self {
        Self::of(OutputFile::to_sink(sink, path))
    }

    fn of(main: OutputFile) -> Self {
        Self {
            main,
            companions: Vec::new(),
            names: HashSet::new(),
            existing: HashSet::new(),
            caching: Caching::default(),
            hints: AllocationHints::default(),
            protected: Vec::new(),
            stale_temp_files: StaleTempFiles::default(),
            spare: None,
            expected_len: None,
            create_only: false,
        }
    }

    /// Resolves `name` relative to the directory of the main file.
    fn resolve(&self, name: &Path) -> PathBuf {
        self.path().and_then(Path::parent).unwrap_or(Path::new("")).join(name)
    }

    /// Checks that `path` is not a file of this image or a protected file, and records it.
    fn claim(&mut self, path: &Path) -> Result<()> {
        if let Some(main) = self.path().filter(|_| self.names.is_empty()).map(Path::to_owned) {
            self.names.insert(Name::of(&main)?);
            self.existing.extend(existing_identity(&main));
        }
        let existing = existing_identity(path);
        let is_new_name = self.names.insert(Name::of(path)?);
        let shares = |id: HostFileId| self.existing.iter().any(|own| own.shares_data_with(id));
        if !is_new_name || existing.is_some_and(shares) {
            return Err(rename::same_file(path));
        }
        self.existing.extend(existing);
        let is_protected = |file: HostFileId| existing.is_some_and(|id| id.shares_data_with(file));
        match self.protected.iter().find(|(file, _)| is_protected(*file)) {
            Some((_, why)) => Err(OutputError::refused(path, *why)),
            None => Ok(()),
        }
    }

    /// Fails if a companion exists, but may not be replaced.
    fn require_absent(&self, path: &Path) -> Result<()> {
        if self.create_only { require_absent(path).concerning(path) } else { Ok(()) }
    }

    fn stage(&mut self, path: PathBuf) -> Result<Arc<dyn Sink>> {
        let replaces = std::fs::metadata(&path).is_ok();
        let model = self.path().filter(|_| !replaces).unwrap_or(&path).to_owned();
        self.remove_leftovers_of(&path);
        let staged = OutputFile::stage(path.clone(), model);
        self.add(staged.concerning(&path)?.0)
    }

    /// Removes the temporary files that killed processes have left of the output `path`.
    fn remove_leftovers_of(&mut self, path: &Path) {
        let protected = &self.protected;
        let keep = |found| protected.iter().any(|(file, _)| *file == found);
        // Locks are not supported everywhere, so that those of this output may not be locked.
        let parts = std::iter::once(&self.main).chain(&self.companions);
        let own: Vec<_> =
            parts.filter_map(OutputFile::temporary_name).map(OsStr::to_owned).collect();
        self.stale_temp_files.remove(path, &own, keep);
    }

    fn add(&mut self, mut part: OutputFile) -> Result<Arc<dyn Sink>> {
        if let Some(len) = self.expected_len {
            part.make_room(len)?;
        }
        part.set_caching(self.caching)?;
        part.sink.set_allocation_hints(self.hints);
        let sink = Arc::clone(&part.sink);
        self.companions.push(part);
        Ok(sink)
    }
}

/// Fails if there is a file of any kind at `path`, also a symbolic link to nothing.
fn require_absent(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "it exists already")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

impl Publish for FileOutput {
    fn sink(&self) -> Arc<dyn Sink> {
        Arc::clone(&self.main.sink)
    }

    fn path(&self) -> Option<&Path> {
        self.main.path.as_deref()
    }

    fn set_caching(&mut self, caching: Caching) -> Result<()> {
        self.caching = caching;
        let mut parts = std::iter::once(&self.main).chain(&self.companions);
        parts.try_for_each(|part| part.set_caching(caching))
    }

    fn set_allocation_hints(&mut self, hints: AllocationHints) {
        self.hints = hints;
        for part in std::iter::once(&self.main).chain(&self.companions) {
            part.sink.set_allocation_hints(hints);
        }
    }

    fn expect_len(&mut self, len: u64) -> Result<()> {
        self.expected_len = Some(len);
        self.main.make_room(len)?;
        self.main.sink.set_allocation_hints(self.hints);
        self.main.set_caching(self.caching)
    }

    fn notes(&self) -> Vec<String> {
        std::iter::once(&self.main).chain(&self.companions).filter_map(OutputFile::note).collect()
    }

    fn loss(&self) -> Option<String> {
        let mut parts = std::iter::once(&self.main).chain(&self.companions);
        let emptied =
            |part: &&OutputFile| part.overwritten.as_ref().is_some_and(|o| o.is_emptied());
        let note = parts.find(emptied)?.note()?;
        Some(format!("{note}: its old content is lost, and it is incomplete"))
    }

    fn protect(&mut self, files: &[HostFileId], why: &'static str) {
        self.protected.extend(files.iter().map(|&file| (file, why)));
    }

    fn remove_leftovers(&mut self) {
        if let Some(path) = self.main.path.clone().filter(|_| self.main.staged.is_some()) {
            self.remove_leftovers_of(&path);
        }
    }

    fn supports_companions(&self) -> bool {
        let is_file = |path: &Path| std::fs::metadata(path).is_ok_and(|m| m.is_file());
        self.main.staged.is_some() || self.path().is_some_and(is_file)
    }

    fn companion(&mut self, name: &Path) -> Result<Arc<dyn Sink>> {
        let path = self.resolve(name);
        self.require_absent(&path)?;
        is_replaceable(&path)?;
        self.claim(&path)?;
        self.stage(path)
    }

    fn named_companion(&mut self, name: &Path) -> Result<Arc<dyn Sink>> {
        let path = self.resolve(name);
        self.require_absent(&path)?;
        let found = Destination::of(&path).concerning(&path)?;
        let path = found.path.clone();
        self.claim(&path)?;
        match found.metadata() {
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

    fn path_of(&self, sink: &Arc<dyn Sink>) -> Option<&Path> {
        let mut parts = std::iter::once(&self.main).chain(&self.companions);
        parts.find(|part| Arc::ptr_eq(&part.sink, sink))?.path.as_deref()
    }

    fn require_readable(&self) -> Result<()> {
        let mut parts = std::iter::once(&self.main).chain(&self.companions);
        parts.try_for_each(OutputFile::require_readable)
    }

    fn read_back(&self) -> Result<Vec<(PathBuf, Arc<dyn Source>)>> {
        std::iter::once(&self.main).chain(&self.companions).map(OutputFile::read_back).collect()
    }

    /// Flushes the data and sets mode and owner.
    fn flush(&self, durability: Durability) -> Result<()> {
        let mut parts = self.companions.iter().chain([&self.main]);
        parts.try_for_each(|part| part.finish_data(durability))
    }

    /// Renames the files to their names. Companions are renamed before the main file, so that a main
    /// file always has its companions.
    fn publish(self: Box<Self>, durability: Durability) -> Result<()> {
        drop(self.spare);
        std::iter::once(&self.main)
            .chain(&self.companions)
            .try_for_each(OutputFile::verify_name)?;
        let companions = self.companions.into_iter().filter_map(OutputFile::close).collect();
        rename::publish(self.main.close(), companions, durability)
    }
}
