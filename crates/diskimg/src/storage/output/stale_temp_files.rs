//! Removal of temporary files left by killed processes.
//!
//! ```text
//!   process                                   next process that writes the same output
//!   ───────                                   ────────────────────────────────────────
//!   creates .dst.XXXXXX.diskimg-tmp
//!   locks it (flock), checks its name         lists and opens files with such names
//!   writes it, renames it                     tries to lock each:
//!   closes it (also when it is killed,          locked by another → in use, keeps it
//!   which releases the lock)                    lock acquired     → stale, removes it
//! ```
//!
//! A file with such a name may be one that this run reads, for example to recover what a killed run
//! has written: what is protected ([`Publish::protect`](super::Publish::protect)) is kept.
//!
//! Nothing is removed from file systems on which other processes may not see a lock (network file
//! systems). Files named `.diskimg-old` or `.diskimg-new` are never removed: they are the user's.

use super::output_file::TEMPORARY_SUFFIX;
use super::{directory_of, temporary_prefix};
use crate::storage::os::{self, FileLock, Located};
use crate::storage::source::HostFileId;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Number of random characters between the prefix and the suffix of a temporary file's name.
const RANDOM_LEN: usize = 6;

/// Temporary files that existed when an output was started.
#[derive(Debug, Default)]
pub(super) struct StaleTempFiles {
    /// Names by directory. Each directory is listed once, as an image may have hundreds of files.
    found: HashMap<PathBuf, Vec<String>>,
}

impl StaleTempFiles {
    /// Removes stale temporary files for the output `path`, except those with one of the names
    /// `own`, and those that `keep` returns true for. Ignores errors.
    pub(super) fn remove(
        &mut self,
        path: &Path,
        own: &[OsString],
        keep: impl Fn(HostFileId) -> bool,
    ) {
        let Ok(prefix) = temporary_prefix(path) else { return };
        let directory = directory_of(path);
        let names =
            self.found.entry(directory.to_owned()).or_insert_with(|| temporary_names(directory));
        let is_own = |name: &String| own.iter().any(|own| own == name.as_str());
        for name in names.iter().filter(|name| is_temporary(name, &prefix) && !is_own(name)) {
            let _ = remove_if_stale(&directory.join(name), &keep);
        }
    }
}

/// Returns the names of possible temporary files in a directory; none if it cannot be listed.
fn temporary_names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let names = entries.map_while(|entry| entry.ok()).map(|entry| entry.file_name());
    // Names of temporary files are UTF-8, even if the output's name is not.
    names.filter_map(|n| n.into_string().ok()).filter(|n| is_temporary(n, ".")).collect()
}

/// Returns true if `name` is that of a temporary file with this prefix. The prefix `.` matches the
/// temporary files of all outputs.
fn is_temporary(name: &str, prefix: &str) -> bool {
    let Some(rest) = name.strip_prefix(prefix) else { return false };
    let Some(random) = rest.strip_suffix(TEMPORARY_SUFFIX) else { return false };
    prefix == "." || random.len() == RANDOM_LEN && random.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Removes a regular file that no process has locked and that is not to be kept.
fn remove_if_stale(path: &Path, keep: impl Fn(HostFileId) -> bool) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if !found.is_file() || HostFileId::of_name(path).is_some_and(keep) {
        return Ok(());
    }
    // Check the type again with the looked-up file, so that no pipe or device is opened.
    let located = Located::at(path)?;
    if !located.metadata()?.is_file() {
        return Ok(());
    }
    let file = located.open()?;
    if os::try_lock_file(&file) == FileLock::Ours && is_named(&file, path) {
        fs::remove_file(path)?;
    }
    Ok(())
}

/// Locks a temporary file that was just created. Returns `None` if another process removed it as
/// stale before it was locked.
pub(super) fn lock_new(file: &File, path: &Path) -> Option<FileLock> {
    match os::try_lock_file(file) {
        FileLock::Ours => is_named(file, path).then_some(FileLock::Ours),
        FileLock::HeldByOther => None,
        FileLock::Unknown => Some(FileLock::Unknown),
    }
}

/// Returns true if `path` is a name of this file.
fn is_named(file: &File, path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|named| named.is_file())
        && HostFileId::of(file) == HostFileId::of_name(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_generated_names_are_recognized_as_temporary_files() {
        for (name, ours) in [
            (".a.img.Ab1Cd2.diskimg-tmp", true),
            (".a.img.Ab1Cd.diskimg-tmp", false),
            (".a.img.Ab1Cd23.diskimg-tmp", false),
            (".a.img.Ab1C.2.diskimg-tmp", false),
            (".a.img.Ab1Cd2.diskimg-old", false),
            (".a.img.b.Ab1Cd2.diskimg-tmp", false),
            (".b.img.Ab1Cd2.diskimg-tmp", false),
            ("a.img.Ab1Cd2.diskimg-tmp", false),
            (".a.img..diskimg-tmp", false),
        ] {
            assert_eq!(is_temporary(name, ".a.img."), ours, "{name}");
        }
    }

    #[test]
    fn locked_files_and_other_file_types_are_not_removed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = |name: &str| dir.path().join(format!(".a.{name}.diskimg-tmp"));
        for name in ["gone00", "held00"] {
            fs::write(path(name), name).expect("writes");
        }
        fs::write(dir.path().join(".a.xxxxxx.diskimg-old"), "old").expect("writes");
        fs::create_dir(path("dir000")).expect("mkdir");
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(path("held00"), path("link00")).expect("links");
            std::os::unix::fs::symlink("/dev/null", path("null00")).expect("links");
            let made = std::process::Command::new("mkfifo").arg(path("fifo00")).status();
            assert!(made.expect("mkfifo runs").success());
        }
        let held = File::open(path("held00")).expect("opens");
        let lock = lock_new(&held, &path("held00")).expect("exists");
        let before = fs::read_dir(dir.path()).expect("lists").count();
        StaleTempFiles::default().remove(&dir.path().join("a"), &[], |_| false);
        let after = fs::read_dir(dir.path()).expect("lists").count();
        let removed = usize::from(lock == FileLock::Ours);
        assert_eq!(after, before - removed, "one file is stale, if locks are supported");
        assert_eq!(path("gone00").exists(), removed == 0);
        drop(held);
        let own = HostFileId::at(&path("held00"));
        StaleTempFiles::default().remove(&dir.path().join("a"), &[], |id| Some(id) == own);
        assert!(path("held00").exists() || own.is_none(), "is protected");
        StaleTempFiles::default().remove(&dir.path().join("a"), &[], |_| false);
        assert_eq!(path("held00").exists(), removed == 0);
    }

    /// Another process may remove the file after it is created and before it is locked.
    #[test]
    fn a_new_file_that_another_process_removed_is_not_used() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join(".a.xxxxxx.diskimg-tmp");
        let file = File::create_new(&path).expect("creates");
        let taken = File::open(&path).expect("opens");
        if os::try_lock_file(&taken) != FileLock::Ours {
            return;
        }
        assert_eq!(lock_new(&file, &path), None, "locked by another process");
        fs::remove_file(&path).expect("removes");
        drop(taken);
        if File::open(&path).is_ok() {
            // Wine finds a file until it is closed.
            return;
        }
        assert_eq!(lock_new(&file, &path), None, "removed");
        File::create_new(&path).expect("creates");
        assert_eq!(lock_new(&file, &path), None, "replaced");
    }
}
