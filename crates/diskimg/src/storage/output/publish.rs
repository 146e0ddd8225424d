//! The last step: every file gets its name, or none does.
//!
//! One file is one atomic rename. Of several, those that are there already are
//! put aside first, the main file before the others:
//!
//! ```text
//!   x.vmdk       ──► .x.vmdk.XXXXXX.diskimg-old          1   only if a companion replaces a file
//!   x-s001.vmdk  ──► .x-s001.vmdk.XXXXXX.diskimg-old     2   ┐ for each companion
//!   .x-s001.vmdk.XXXXXX.diskimg-tmp  ──► x-s001.vmdk     3   ┘
//!   .x.vmdk.XXXXXX.diskimg-tmp       ──► x.vmdk          4   then what was put aside is deleted
//! ```
//!
//! So an old main file never stands over new companions, whenever the power
//! goes: between 1 and 4 no image is there under its name, and its old main
//! file waits under the other one. An error takes all steps back, last first.

use super::error::{Concerning, OutputError, Result};
use super::output_file::is_replaceable;
use super::{Durability, directory_of, temporary_prefix};
use crate::storage::sink::Sink;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempPath;

const OLD_SUFFIX: &str = ".diskimg-old";

/// A complete file that waits for its name.
pub(super) struct Staged {
    pub(super) path: PathBuf,
    pub(super) file: TempPath,
    /// What keeps it locked, until here it is closed.
    pub(super) held: Option<Arc<dyn Sink>>,
}

impl Staged {
    fn publish(self) -> Result<()> {
        let named = self.file.persist(&self.path).map_err(|e| e.error).concerning(&self.path);
        drop(self.held);
        named
    }
}

/// Gives all of them their names. `main` is `None` if it was written in place.
///
/// # Errors
/// What the system said, and of which file. The old files are back then; if only the last step
/// failed, the flushing of the directory, the new ones are there.
pub(super) fn publish(
    main: Option<Staged>,
    companions: Vec<Staged>,
    durability: Durability,
) -> Result<()> {
    let mut changes = Changes { steps: Vec::new(), durability };
    let path = main.as_ref().map(|main| main.path.clone());
    if let Err(error) = changes.make(main, companions) {
        return Err(changes.undo(error));
    }
    // Nothing is taken back any more: what was under the name is gone.
    let flushed = path.map_or(Ok(()), |path| {
        changes.flush(directory_of(&path)).concerning(&path).map_err(|mut error| {
            error.hint = Some("it has its name, but might lose it in a power cut".into());
            error
        })
    });
    changes.delete_old();
    flushed
}

/// What has been done to names so far, in order.
struct Changes {
    steps: Vec<Step>,
    durability: Durability,
}

enum Step {
    /// What stood under `path` is now called `old`.
    PutAside { path: PathBuf, old: PathBuf },
    /// A companion took this name, which was free.
    Named { path: PathBuf },
}

impl Changes {
    fn make(&mut self, main: Option<Staged>, companions: Vec<Staged>) -> Result<()> {
        let mut replaces = false;
        for companion in &companions {
            replaces |= is_replaceable(&companion.path)?;
        }
        if let Some(main) = main.as_ref().filter(|_| replaces) {
            self.put_aside(&main.path)?;
            self.flush(directory_of(&main.path)).concerning(&main.path)?;
        }
        let in_directories: BTreeMap<_, _> = companions
            .iter()
            .map(|part| (directory_of(&part.path).to_owned(), part.path.clone()))
            .collect();
        for companion in companions {
            let path = companion.path.clone();
            self.put_aside(&path)?;
            companion.publish()?;
            self.steps.push(Step::Named { path });
        }
        for (directory, path) in &in_directories {
            self.flush(directory).concerning(path)?;
        }
        main.map_or(Ok(()), Staged::publish)
    }

    /// Frees a name.
    fn put_aside(&mut self, path: &Path) -> Result<()> {
        if !is_replaceable(path)? {
            return Ok(());
        }
        let old = move_aside(path).concerning(path)?;
        self.steps.push(Step::PutAside { path: path.to_owned(), old });
        Ok(())
    }

    fn flush(&self, directory: &Path) -> io::Result<()> {
        match self.durability {
            Durability::Flushed => flush_directory(directory),
            Durability::Cached => Ok(()),
        }
    }

    /// Takes all steps back. Stops where one cannot be: the old main file
    /// comes back last, over its own companions or not at all.
    fn undo(self, mut error: OutputError) -> OutputError {
        for step in self.steps.iter().rev() {
            let (path, undone) = match step {
                Step::PutAside { path, old } => (path, fs::rename(old, path)),
                Step::Named { path } => (path, fs::remove_file(path)),
            };
            if undone.is_err() {
                let hint = "the old files could not all be put back: they are beside it, under \
                            names that end in";
                error.hint = Some(format!("{hint} {OLD_SUFFIX}").into());
                return error;
            }
            // It is the first error that counts.
            let _ = self.flush(directory_of(path));
        }
        error
    }

    /// The new image is there: no error of this is worth failing for.
    fn delete_old(self) {
        for step in self.steps {
            if let Step::PutAside { old, .. } = step {
                let _ = fs::remove_file(old);
            }
        }
    }
}

/// Renames a file to one of nobody's names beside it, and gives that.
fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let prefix = temporary_prefix(path)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(OLD_SUFFIX);
    // Never to be deleted on the way out: it will be what the user had.
    builder.disable_cleanup(true);
    let old = builder.tempfile_in(directory_of(path))?.into_temp_path().to_path_buf();
    match fs::rename(path, &old) {
        Ok(()) => Ok(old),
        Err(e) => {
            let _ = fs::remove_file(&old);
            Err(e)
        }
    }
}

/// Makes new names in it durable.
fn flush_directory(directory: &Path) -> io::Result<()> {
    if cfg!(unix) {
        match File::open(directory) {
            Ok(directory) => directory.sync_all()?,
            // A directory may be written and not read; the file is there all the same.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_main_file_does_not_come_back_without_its_companions() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = |name: &str| dir.path().join(name);
        let mut changes = Changes { steps: Vec::new(), durability: Durability::Cached };
        for name in ["a.img", "a-1"] {
            fs::write(path(name), name).expect("writes");
            changes.put_aside(&path(name)).expect("renames");
            assert!(!path(name).exists());
        }
        let Some(Step::PutAside { old, .. }) = changes.steps.last() else { panic!("no step") };
        fs::remove_file(old).expect("removes");
        let error = Err::<(), _>(io::ErrorKind::StorageFull.into()).concerning(&path("a-1"));
        let error = changes.undo(error.expect_err("is one"));
        assert!(error.hint.is_some_and(|hint| hint.contains(OLD_SUFFIX)));
        let left: Vec<_> = fs::read_dir(dir.path()).expect("lists").collect();
        let [Ok(old)] = &left[..] else { panic!("{left:?}") };
        assert!(old.file_name().to_string_lossy().ends_with(OLD_SUFFIX));
        assert_eq!(fs::read(old.path()).expect("reads"), b"a.img");
    }
}
