//! Runs that write the same files at the same time: one of them wins, and the others fail.
//!
//! ```text
//!   a run                                       another run
//!   ─────                                       ───────────
//!   notes which file it will replace
//!                                               notes which file it will replace
//!   writes its temporary files                  writes its temporary files
//!   locks the directory, renames, unlocks
//!                                               locks the directory
//!                                               finds another file than it noted: fails
//! ```
//!
//! The lock is flock(2) on the directory itself, so that no file is created for it. Each directory
//! into which files are renamed is locked, in the order of their identities, so that no two runs
//! wait for each other. If a directory cannot be locked, because this process may not read it or the
//! file system has no locks, the comparison is made without the lock; for a single file also if the
//! lock is not obtained within a few seconds. Each file is then still replaced as a whole. Therefore
//! a run that was stopped while it held the lock compares again before each file (`rename.rs`).

use super::error::{Concerning, OutputError, Result};
use super::links::open_no_link;
use super::{directory_of, existing_identity};
use crate::storage::locking::{Lock, require_unlocked};
use crate::storage::os::{self, FileId, FileLock};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long to wait for other processes before an image of several files is renamed. Renaming takes
/// milliseconds, and flushing directories perhaps seconds.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// The same for a single file, which is then renamed without the lock: another user may hold it
/// forever, and so does `flock DIRECTORY diskimg …`.
const MAX_WAIT_FOR_ONE: Duration = Duration::from_secs(10);

/// Why several files are not renamed.
const HELD: &str = "another process has held its lock (flock) for more than a minute";

/// Interval between attempts to lock.
const RETRY_INTERVAL: Duration = Duration::from_millis(5);

/// The file that an output will replace, as it was when the output was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Replaced(Option<(Option<FileId>, u64)>);

impl Replaced {
    /// Returns the open file.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        Ok(Self(Some((FileId::of(file), os::revision(&file.metadata()?)))))
    }

    /// Returns the file at `path`, if there is one. A symbolic link is not followed.
    pub(super) fn named(path: &Path) -> Self {
        let found = fs::symlink_metadata(path).ok();
        Self(found.map(|found| (FileId::of_name(path), os::revision(&found))))
    }

    /// Verifies that `path` still names this file, unchanged, and that no other process uses it. A
    /// file that was removed in the meantime is no obstacle.
    pub(super) fn verify(self, path: &Path) -> Result<()> {
        let found = Self::named(path);
        if found == Self::default() {
            return Ok(());
        }
        if found == self {
            // Another process may have begun to use it. One that cannot be opened is not in use.
            let file = open_no_link(File::options().read(true).write(true), path);
            return file
                .map_or(Ok(()), |file| require_unlocked(&file, Lock::WRITE))
                .concerning(path);
        }
        Err(self.differs(path))
    }

    /// Verifies that `file`, which was opened at `path`, is this file, unchanged.
    pub(super) fn verify_open(self, file: &File, path: &Path) -> Result<()> {
        let found = Self::of(file).concerning(path)?;
        if found == self { Ok(()) } else { Err(self.differs(path)) }
    }

    /// Verifies that the file that was renamed from `path` to `now` is this one.
    pub(super) fn verify_renamed(self, path: &Path, now: &Path) -> Result<()> {
        let found = Self::named(now);
        if found == self { Ok(()) } else { Err(self.differs(path)) }
    }

    fn differs(self, path: &Path) -> OutputError {
        let what = if self == Self::default() { "created" } else { "replaced or changed" };
        let message = format!("another process has {what} it since this one began to write it");
        let mut error = OutputError::refused(path, message);
        error.hint = Some("that file was kept; run the command again to replace it".into());
        error
    }
}

/// Verifies that `path` still names the open file `file`, which was written in place.
pub(crate) fn verify_name(file: &File, path: &Path) -> Result<()> {
    verify_identity(FileId::of(file), path)
}

/// Verifies that `path` still names the file with this identity, which was written in place.
pub(crate) fn verify_identity(written: Option<FileId>, path: &Path) -> Result<()> {
    if existing_identity(path) == written {
        return Ok(());
    }
    let message = "another process has replaced or removed it while it was written in place";
    let mut error = OutputError::refused(path, message);
    error.hint = Some("what was written is lost; run the command again".into());
    Err(error)
}

/// Calls `acquire`, which locks a file so that other processes see it. Waits for other processes that
/// do the same: otherwise two could see each other's locks, and both would fail.
pub(super) fn in_turn<T>(file: &File, acquire: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    /// Programs may hold a lock on the file for other purposes.
    const MAX_WAIT: Duration = Duration::from_secs(1);
    let begun = Instant::now();
    let turn = loop {
        match os::try_lock_shared_file(file) {
            FileLock::HeldByOther if begun.elapsed() < MAX_WAIT => {
                std::thread::sleep(RETRY_INTERVAL);
            }
            outcome => break outcome,
        }
    };
    let acquired = acquire();
    if turn == FileLock::Ours {
        os::unlock_file(file);
    }
    acquired
}

/// Directories that are locked while files in them are renamed.
#[derive(Debug, Default)]
pub(super) struct DirectoryLocks(#[allow(dead_code, reason = "held")] Vec<File>);

impl DirectoryLocks {
    /// Locks the directories of `paths`. A single file needs the lock less than `several`.
    ///
    /// # Errors
    /// For several files, returns an error if another process holds a lock for longer than a
    /// minute, and the error of the system if a directory that may be read cannot be opened.
    pub(super) fn acquire<'a>(
        paths: impl IntoIterator<Item = &'a Path>,
        several: bool,
    ) -> Result<Self> {
        let max_wait = if several { MAX_WAIT } else { MAX_WAIT_FOR_ONE };
        Self::acquire_within(max_wait, paths, several)
    }

    fn acquire_within<'a>(
        max_wait: Duration,
        paths: impl IntoIterator<Item = &'a Path>,
        several: bool,
    ) -> Result<Self> {
        let paths: BTreeMap<_, _> =
            paths.into_iter().map(|path| (directory_of(path), path)).collect();
        let mut directories = BTreeMap::new();
        for (directory, path) in paths {
            match open_directory(directory) {
                Ok((Some(id), directory)) => {
                    directories.insert(id, (directory, path));
                }
                // Systems on which directories cannot be locked.
                Ok((None, _)) => {}
                Err(error) if !several || error.kind() == io::ErrorKind::PermissionDenied => {}
                Err(error) => return Err(cannot_lock(path, error.kind(), &error.to_string())),
            }
        }
        let mut locked = Vec::new();
        for (directory, path) in directories.into_values() {
            match lock_directory(&directory, max_wait) {
                FileLock::Ours => locked.push(directory),
                FileLock::HeldByOther if several => {
                    let mut error = cannot_lock(path, io::ErrorKind::WouldBlock, HELD);
                    error.hint =
                        Some("end that process; 'flock' itself may be that process".into());
                    return Err(error);
                }
                FileLock::HeldByOther | FileLock::Unknown => {}
            }
        }
        Ok(Self(locked))
    }
}

fn open_directory(path: &Path) -> io::Result<(Option<FileId>, File)> {
    let directory = File::open(path)?;
    Ok((FileId::of(&directory), directory))
}

/// Locks a directory, for which it waits until another process has unlocked it or the time is over.
fn lock_directory(directory: &File, max_wait: Duration) -> FileLock {
    let begun = Instant::now();
    loop {
        match os::try_lock_shared_file(directory) {
            FileLock::HeldByOther if begun.elapsed() < max_wait => {
                std::thread::sleep(RETRY_INTERVAL);
            }
            outcome => return outcome,
        }
    }
}

/// Returns the error for several files, of which `path` is one, in a directory that is not locked.
fn cannot_lock(path: &Path, kind: io::ErrorKind, why: &str) -> OutputError {
    let directory = directory_of(path).display();
    let message = format!("its directory '{directory}' cannot be locked: {why}");
    OutputError::new(Some(path.to_owned()), io::Error::new(kind, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_replaced_or_changed_is_noticed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("a");
        let now = || Replaced::named(&path);
        let none = now();
        none.verify(&path).expect("does not exist");
        fs::write(&path, "old").expect("writes");
        let error = none.verify(&path).expect_err("was created");
        assert!(error.refused && error.to_string().contains("has created it"), "{error}");
        let old = now();
        old.verify(&path).expect("is the same");
        fs::write(&path, "longer").expect("writes");
        assert!(old.verify(&path).expect_err("was changed").refused);
        fs::remove_file(&path).expect("removes");
        old.verify(&path).expect("nothing would be lost");
    }

    #[test]
    fn a_directory_is_locked_once_under_all_its_names() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (one, other) = (dir.path().join("a"), dir.path().join("./b"));
        let locks = DirectoryLocks::acquire([&*one, &other], true).expect("locks");
        assert!(locks.0.len() <= 1);
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_directory_that_remains_locked_is_an_error_for_several_files() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("a");
        let held = DirectoryLocks::acquire([&*path], true).expect("locks");
        let acquire =
            |several| DirectoryLocks::acquire_within(Duration::from_millis(20), [&*path], several);
        let error = acquire(true).expect_err("is locked");
        assert!(error.to_string().contains(&*dir.path().to_string_lossy()), "{error}");
        assert!(acquire(false).expect("is not needed").0.is_empty());
        drop(held);
        assert_eq!(acquire(true).expect("locks").0.len(), 1);
        fs::remove_dir(dir.path()).expect("removes");
        acquire(true).expect_err("does not exist");
        acquire(false).expect("is not needed");
    }
}
