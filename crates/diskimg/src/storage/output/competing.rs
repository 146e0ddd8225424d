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
//! The lock is a file named `.diskimg-lock` that exists while files are renamed; flock(2) on it
//! keeps other runs waiting. Each directory into which files are renamed is locked, in the order of
//! their identities, so that no two runs wait for each other. If a directory cannot be locked, or for a
//! single file not within a few seconds, the comparison is made without the lock: each file is then
//! still replaced as a whole.

use super::error::{Concerning, OutputError, Result};
use super::stale_temp_files::is_named;
use super::{directory_of, existing_identity};
use crate::storage::locking::{Lock, require_unlocked};
use crate::storage::os::{self, FileId, FileLock};
use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Name of the lock file.
const LOCK_NAME: &str = ".diskimg-lock";

/// How long to wait for other processes before an image of several files is renamed. Renaming takes
/// milliseconds, and flushing directories perhaps seconds.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// The same for a single file, which is then renamed without the lock: another user may hold it
/// forever.
const MAX_WAIT_FOR_ONE: Duration = Duration::from_secs(10);

/// Interval between attempts to lock.
const RETRY_INTERVAL: Duration = Duration::from_millis(5);

/// The file that an output will replace, as it was when the output was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Replaced(Option<(Option<FileId>, u64)>);

impl Replaced {
    /// Returns the file with this metadata; `None` if there is none.
    pub(super) fn new(file: Option<&Metadata>) -> Self {
        Self(file.map(|file| (os::identity(file), os::revision(file))))
    }

    /// Verifies that `path` still names this file, unchanged, and that no other process uses it. A
    /// file that was removed in the meantime is no obstacle.
    pub(super) fn verify(self, path: &Path) -> Result<()> {
        let found = Self::new(fs::symlink_metadata(path).ok().as_ref());
        if found == Self::default() {
            return Ok(());
        }
        if found == self {
            // Another process may have begun to use it. One that cannot be opened is not in use.
            let file = File::options().read(true).write(true).open(path);
            return file
                .map_or(Ok(()), |file| require_unlocked(&file, Lock::WRITE))
                .concerning(path);
        }
        let what = if self == Self::default() { "created" } else { "replaced or changed" };
        let message = format!("another process has {what} it since this one began to write it");
        let mut error = OutputError::refused(path, message);
        error.hint = Some("that file was kept; run the command again to replace it".into());
        Err(error)
    }
}

/// Verifies that `path` still names the open file `file`, which was written in place.
pub(crate) fn verify_name(file: &File, path: &Path) -> Result<()> {
    let written = file.metadata().concerning(path)?;
    if existing_identity(path) == os::identity(&written) {
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

/// Locks on directories, held while files in them are renamed.
#[derive(Debug, Default)]
pub(super) struct DirectoryLocks(#[allow(dead_code, reason = "held")] Vec<DirectoryLock>);

impl DirectoryLocks {
    /// Locks the directories of `paths`. A single file needs the lock less than `several`.
    ///
    /// # Errors
    /// Returns an error if there are several files and another process holds a lock for longer than
    /// a minute.
    pub(super) fn acquire<'a>(
        paths: impl IntoIterator<Item = &'a Path>,
        several: bool,
    ) -> Result<Self> {
        let directories: BTreeMap<_, _> = paths
            .into_iter()
            .map(directory_of)
            .filter_map(|path| Some((os::identity(&fs::metadata(path).ok()?)?, path)))
            .collect();
        let locks =
            directories.values().map(|directory| DirectoryLock::acquire(directory, several));
        Ok(Self(locks.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect()))
    }
}

/// An open and locked lock file, which is deleted at the end.
#[derive(Debug)]
struct DirectoryLock {
    path: PathBuf,
    _file: File,
}

impl DirectoryLock {
    /// Waits for the lock. Returns `None` if the directory cannot be locked.
    fn acquire(directory: &Path, several: bool) -> Result<Option<Self>> {
        let path = directory.join(LOCK_NAME);
        let begun = Instant::now();
        loop {
            let Ok(file) = open(&path) else { return Ok(None) };
            match os::try_lock_shared_file(&file) {
                FileLock::Ours if is_named(&file, &path) => {
                    return Ok(Some(Self { path, _file: file }));
                }
                // Its owner has deleted it: try again with a new one.
                FileLock::Ours => continue,
                FileLock::Unknown => {
                    let _ = fs::remove_file(&path);
                    return Ok(None);
                }
                FileLock::HeldByOther if !several && begun.elapsed() > MAX_WAIT_FOR_ONE => {
                    return Ok(None);
                }
                FileLock::HeldByOther if begun.elapsed() > MAX_WAIT => {
                    let message = "another process has locked it for more than a minute";
                    return Err(io::Error::new(io::ErrorKind::WouldBlock, message))
                        .concerning(&path);
                }
                FileLock::HeldByOther => std::thread::sleep(RETRY_INTERVAL),
            }
        }
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // While it is locked, so that no other process has locked the file that is deleted.
        let _ = fs::remove_file(&self.path);
    }
}

/// Opens or creates a lock file. A file of another user can perhaps only be read, which is enough.
fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // Another user may have created something else under this name.
        options.custom_flags(os::NOFOLLOW_NONBLOCK);
    }
    let file =
        options.clone().write(true).create(true).open(path).or_else(|_| options.open(path))?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::ErrorKind::InvalidInput.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_replaced_or_changed_is_noticed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("a");
        let now = || Replaced::new(fs::symlink_metadata(&path).ok().as_ref());
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
        drop(locks);
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn other_files_under_the_name_of_the_lock_are_kept() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join(LOCK_NAME);
        std::os::unix::fs::symlink("nowhere", &path).expect("links");
        DirectoryLocks::acquire([&*dir.path().join("a")], true).expect("is not locked");
        fs::remove_file(&path).expect("is still there");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().expect("runs").success());
        DirectoryLocks::acquire([&*dir.path().join("a")], true).expect("is not locked");
        fs::remove_file(&path).expect("is still there");
        fs::create_dir(&path).expect("mkdir");
        DirectoryLocks::acquire([&*dir.path().join("a")], true).expect("is not locked");
    }
}
