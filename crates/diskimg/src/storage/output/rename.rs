//! Renaming: all files of an output get their names, or none does.
//!
//! A single file is renamed atomically. For several files, existing files are renamed first, the
//! main file before the companions:
//!
//! ```text
//!   x.vmdk       ──► .x.vmdk.XXXXXX.diskimg-old          1   only if a companion replaces a file
//!   x-s001.vmdk  ──► .x-s001.vmdk.XXXXXX.diskimg-old     2   ┐ for each companion
//!   .x-s001.vmdk.XXXXXX.diskimg-tmp  ──► x-s001.vmdk     3   ┘
//!   .x.vmdk.XXXXXX.diskimg-tmp       ──► x.vmdk          4   then the old files are deleted
//! ```
//!
//! An old main file is therefore never combined with new companions, even after a power failure:
//! between steps 1 and 4 no main file exists under its name, and the old one exists under the name
//! that ends in `.diskimg-old`. After an error, all steps are undone in reverse order.

use super::competing::{DirectoryLocks, Replaced};
use super::error::{Concerning, OutputError, Result};
use super::links::open_no_link;
use super::output_file::{TEMPORARY_SUFFIX, is_replaceable, require_same};
use super::{Durability, directory_of, existing_identity, temporary_prefix};
use crate::storage::locking::{Lock, require_unlocked};
use crate::storage::os;
use crate::storage::sink::{FileSink, Sink};
use crate::storage::source::{FileSource, HostFileId, Source};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempPath;

const OLD_SUFFIX: &str = ".diskimg-old";

/// Suffix of a complete file that could not be copied over the old one.
const NEW_SUFFIX: &str = ".diskimg-new";

/// Returns the error if two files of an image are one.
pub(super) fn same_file(path: &Path) -> OutputError {
    let message = "it is the same file as another file of the image";
    OutputError::new(Some(path.to_owned()), io::Error::new(io::ErrorKind::InvalidInput, message))
}

/// A complete temporary file that is ready to be renamed.
pub(super) struct Staged {
    pub(super) path: PathBuf,
    pub(super) file: TempPath,
    /// The open file, which stays locked until it is renamed.
    pub(super) sink: Arc<FileSink>,
    /// Its identity.
    pub(super) id: Option<HostFileId>,
    /// The file that it is to replace.
    pub(super) replaces: Replaced,
}

impl Staged {
    /// Renames the file. If an existing file turns out to be impossible to replace, overwrites it.
    ///
    /// # Errors
    /// Returns the error of the system, and an error if another process has created or changed the
    /// file that is to be replaced.
    fn publish(self, durability: Durability) -> Result<()> {
        self.replaces.verify(&self.path)?;
        self.require_named(&self.file)?;
        let (sink, path, replaces) = (&self.sink, &self.path, self.replaces);
        let mut from = self.file;
        // On Windows, too, this replaces a file that is open, if it was opened so that it can be.
        match os::rename(&from, path) {
            Ok(()) => {
                from.disable_cleanup(true);
                // Who owns the directory or the old file could replace it until now.
                require_same(self.id, HostFileId::of_name(path)).concerning(path)
            }
            Err(e) if os::keeps_existing(&e) && is_replaceable(path).unwrap_or(false) => {
                overwrite(from, sink, replaces, path, durability)
            }
            Err(e) => Err(e).concerning(path),
        }
    }

    /// Verifies that the temporary file still has its name.
    fn require_named(&self, name: &Path) -> Result<()> {
        require_same(self.id, HostFileId::of_name(name)).concerning(&self.path)
    }
}

/// Overwrites the file at `path` with the complete temporary file `from`, open as `sink`. If that
/// fails after the old content was removed, the temporary file remains, under a name that ends in
/// `.diskimg-new`.
fn overwrite(
    from: TempPath,
    sink: &FileSink,
    replaces: Replaced,
    path: &Path,
    durability: Durability,
) -> Result<()> {
    let file = open_no_link(File::options().read(true).write(true), path).concerning(path)?;
    replaces.verify_open(&file, path)?;
    require_unlocked(&file, Lock::WRITE).concerning(path)?;
    let available = os::free_space(directory_of(path));
    let available = available.map(|free| free.saturating_add(os::freeable_bytes(&file)));
    let needed = os::allocated_bytes(sink.file()).ok().flatten();
    if available.zip(needed).is_some_and(|(available, needed)| available < needed) {
        return Err(io::Error::from(io::ErrorKind::StorageFull)).concerning(path);
    }
    copy_over(sink.file(), file, durability).concerning(path).map_err(|mut error| {
        let kept = keep(from);
        let kept = format!("the old content is lost; the new file is '{}'", kept.display());
        error.hint = Some(kept.into());
        error
    })
}

/// Keeps a temporary file under a name under which no other run removes it, and returns its path.
pub(super) fn keep(file: TempPath) -> PathBuf {
    let name = file.to_string_lossy().into_owned();
    let name = name
        .strip_suffix(TEMPORARY_SUFFIX)
        .map(|start| PathBuf::from(format!("{start}{NEW_SUFFIX}")));
    let path = file.keep().unwrap_or_else(|e| e.path.to_path_buf());
    match name {
        Some(name) if !name.exists() && os::rename(&path, &name).is_ok() => name,
        _ => path,
    }
}

/// Overwrites `file` with the file `from`. Keeps holes.
fn copy_over(from: &File, file: File, durability: Durability) -> io::Result<()> {
    const STEP: u64 = 1 << 20;
    let source = FileSource::from_file(from.try_clone()?)?;
    file.set_len(0)?;
    let sink = FileSink::new(file, true)?;
    let mut buf = Vec::new();
    let mut at = 0;
    while at < source.len() {
        let segment = source.segment_at(at)?;
        let end = if segment.hole { segment.end } else { segment.end.min(at + STEP) };
        if !segment.hole && !sink.copy_from(&source, at, at, end - at)? {
            buf.resize((end - at) as usize, 0);
            source.read_exact_at(&mut buf, at)?;
            sink.write_all_at(&buf, at)?;
        }
        at = end;
    }
    sink.set_len(source.len())?;
    if durability == Durability::Flushed { sink.flush() } else { Ok(()) }
}

/// Renames all files to their names. `main` is `None` if the main file was written in place.
///
/// # Errors
/// Returns the error of the system with the path of the file, and an error if another process has
/// created or changed one of the files. The old files are then restored. If only the final flush of
/// the directory fails, the new files remain.
pub(super) fn publish(
    main: Option<Staged>,
    companions: Vec<Staged>,
    durability: Durability,
) -> Result<()> {
    let staged = || main.iter().chain(&companions);
    let several = !companions.is_empty();
    let _locks = DirectoryLocks::acquire(staged().map(|part| &*part.path), several)?;
    staged().try_for_each(|part| part.replaces.verify(&part.path))?;
    let mut changes = Changes { steps: Vec::new(), durability };
    let path = main.as_ref().map(|main| main.path.clone());
    if let Err(error) = changes.make(main, companions) {
        return Err(changes.undo(error));
    }
    if let (true, Some(path)) = (several, &path) {
        changes.record(path);
        if let Err(error) = changes.verify() {
            return Err(changes.undo(error));
        }
    }
    // The main file has replaced the old one, so the changes can no longer be undone.
    let flushed = path.map_or(Ok(()), |path| {
        changes.flush(directory_of(&path)).concerning(&path).map_err(|mut error| {
            error.hint =
                Some("the file is complete, but its name may be lost in a power failure".into());
            error
        })
    });
    changes.delete_old();
    flushed
}

/// The renames made so far, in order.
struct Changes {
    steps: Vec<Step>,
    durability: Durability,
}

/// Identity and revision of a file, if it exists.
type Published = Option<(Option<HostFileId>, u64)>;

enum Step {
    /// An existing file at `path` was renamed to `old`.
    MovedAside { path: PathBuf, old: PathBuf },
    /// A companion was renamed to `path`, which was free.
    Published { path: PathBuf, file: Published },
}

impl Changes {
    fn make(&mut self, main: Option<Staged>, companions: Vec<Staged>) -> Result<()> {
        let mut replaces = false;
        for companion in &companions {
            replaces |= is_replaceable(&companion.path)?;
        }
        if let Some(main) = main.as_ref().filter(|_| replaces) {
            self.move_aside(&main.path, main.replaces)?;
            self.flush(directory_of(&main.path)).concerning(&main.path)?;
        }
        let directories: BTreeMap<_, _> = companions
            .iter()
            .map(|part| (directory_of(&part.path).to_owned(), part.path.clone()))
            .collect();
        for companion in companions {
            let path = companion.path.clone();
            self.require_unpublished(&path)?;
            self.move_aside(&path, companion.replaces)?;
            companion.publish(self.durability)?;
            self.record(&path);
        }
        for (directory, path) in &directories {
            self.flush(directory).concerning(path)?;
        }
        self.verify()?;
        main.map_or(Ok(()), |main| {
            self.require_unpublished(&main.path)?;
            main.publish(self.durability)
        })
    }

    /// Records that the file at `path` was published.
    fn record(&mut self, path: &Path) {
        let file = self.published(path).unwrap_or_default();
        self.steps.push(Step::Published { path: path.to_owned(), file });
    }

    /// Returns what is compared to notice that another process replaces or overwrites a published
    /// file. The time of a change is known only when the data has been flushed.
    fn published(&self, path: &Path) -> io::Result<Published> {
        let found = match fs::symlink_metadata(path) {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let revision = match self.durability {
            Durability::Flushed => os::revision(&found),
            Durability::Cached => 0,
        };
        Ok(Some((HostFileId::of_name(path), revision)))
    }

    /// Verifies that no other process has replaced the companions: a run of a single file does not
    /// wait for a process that was stopped.
    fn verify(&self) -> Result<()> {
        for step in &self.steps {
            if let Step::Published { path, file } = step
                && self.published(path).concerning(path)? != *file
            {
                let message = "another process has replaced or changed it meanwhile";
                let mut error = OutputError::refused(path, message);
                error.hint = Some("run the command again to replace it".into());
                return Err(error);
            }
        }
        Ok(())
    }

    /// Verifies that the file at `path` is none of the companions published so far: two names may
    /// be one, in directories that do not distinguish upper and lower case, for example.
    fn require_unpublished(&self, path: &Path) -> Result<()> {
        let found = existing_identity(path);
        let is_found = |step: &Step| matches!(step, Step::Published { file: Some((id, _)), .. } if found.is_some() && *id == found);
        if self.steps.iter().any(is_found) { Err(same_file(path)) } else { Ok(()) }
    }

    /// Renames the file at `path`, if one exists, which must be the one that is to be replaced.
    fn move_aside(&mut self, path: &Path, replaces: Replaced) -> Result<()> {
        if !is_replaceable(path)? {
            return Ok(());
        }
        let old = rename_to_old(path).concerning(path)?;
        let verified = replaces.verify_renamed(path, &old);
        self.steps.push(Step::MovedAside { path: path.to_owned(), old });
        verified
    }

    fn flush(&self, directory: &Path) -> io::Result<()> {
        match self.durability {
            Durability::Flushed => os::flush_directory(directory),
            Durability::Cached => Ok(()),
        }
    }

    /// Undoes all steps in reverse order. Stops at a step that cannot be undone, so that the old
    /// main file is restored only with its own companions.
    fn undo(self, mut error: OutputError) -> OutputError {
        for step in self.steps.iter().rev() {
            let (path, undone) = match step {
                Step::MovedAside { path, old } => (path, rename_back(old, path)),
                Step::Published { path, file } => match self.published(path) {
                    // The file of another process, which has replaced it, remains.
                    Ok(found) if found != *file => continue,
                    Ok(_) => (path, fs::remove_file(path)),
                    Err(e) => (path, Err(e)),
                },
            };
            if undone.is_err() {
                let hint = "not all old files could be restored: they are in the same directory, \
                            under names that end in";
                error.hint = Some(format!("{hint} {OLD_SUFFIX}").into());
                return error;
            }
            // Only the first error is reported.
            let _ = self.flush(directory_of(path));
        }
        error
    }

    /// Deletes the old files. Ignores errors, because the new image is complete.
    fn delete_old(self) {
        for step in self.steps {
            if let Step::MovedAside { old, .. } = step {
                let _ = fs::remove_file(old);
            }
        }
    }
}

/// Renames a file to a new, unused name in the same directory, and returns that name.
fn rename_to_old(path: &Path) -> io::Result<PathBuf> {
    let prefix = temporary_prefix(path)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(OLD_SUFFIX);
    // Never delete it automatically: it will be the user's file.
    builder.disable_cleanup(true);
    let old = builder.tempfile_in(directory_of(path))?.into_temp_path().to_path_buf();
    match os::rename(path, &old) {
        Ok(()) => Ok(old),
        Err(e) => {
            let _ = fs::remove_file(&old);
            Err(e)
        }
    }
}

/// Renames an old file back to `path`, unless another process has created a file there.
fn rename_back(old: &Path, path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => os::rename(old, path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_main_file_is_not_restored_without_its_companions() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = |name: &str| dir.path().join(name);
        let mut changes = Changes { steps: Vec::new(), durability: Durability::Cached };
        for name in ["a.img", "a-1"] {
            fs::write(path(name), name).expect("writes");
            let now = Replaced::named(&path(name));
            changes.move_aside(&path(name), now).expect("renames");
            assert!(!path(name).exists());
        }
        let Some(Step::MovedAside { old, .. }) = changes.steps.last() else { panic!("no step") };
        fs::remove_file(old).expect("removes");
        let error = Err::<(), _>(io::ErrorKind::StorageFull.into()).concerning(&path("a-1"));
        let error = changes.undo(error.expect_err("an error"));
        assert!(error.hint.is_some_and(|hint| hint.contains(OLD_SUFFIX)));
        let left: Vec<_> = fs::read_dir(dir.path()).expect("lists").collect();
        let [Ok(old)] = &left[..] else { panic!("{left:?}") };
        assert!(old.file_name().to_string_lossy().ends_with(OLD_SUFFIX));
        assert_eq!(fs::read(old.path()).expect("reads"), b"a.img");
    }

    /// What another process does while this one is stopped, although it holds the lock.
    #[test]
    fn files_that_another_process_has_renamed_are_kept() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = |name: &str| dir.path().join(name);
        let mut changes = Changes { steps: Vec::new(), durability: Durability::Cached };
        // A file that was replaced before it was moved aside is moved back.
        fs::write(path("a.img"), "old").expect("writes");
        let old = Replaced::named(&path("a.img"));
        fs::write(path("a.img"), "another").expect("writes");
        let error = changes.move_aside(&path("a.img"), old).expect_err("is another file");
        let error = changes.undo(error);
        assert!(error.refused && !error.to_string().contains(OLD_SUFFIX), "{error}");
        assert_eq!(fs::read(path("a.img")).expect("reads"), b"another");
        // A companion and a main file that were created afterwards.
        let mut changes = Changes { steps: Vec::new(), durability: Durability::Cached };
        let old = Replaced::named(&path("a.img"));
        changes.move_aside(&path("a.img"), old).expect("renames");
        fs::write(path("a-1"), "new").expect("writes");
        changes.record(&path("a-1"));
        changes.verify().expect("is unchanged");
        if !cfg!(unix) {
            return;
        }
        fs::write(path("b"), "of another run").expect("writes");
        fs::rename(path("b"), path("a-1")).expect("renames");
        fs::write(path("a.img"), "of another run").expect("writes");
        let error = changes.verify().expect_err("is another file");
        let error = changes.undo(error);
        assert!(error.to_string().contains(OLD_SUFFIX), "{error}");
        for name in ["a-1", "a.img"] {
            assert_eq!(fs::read(path(name)).expect("reads"), b"of another run");
        }
    }
}
