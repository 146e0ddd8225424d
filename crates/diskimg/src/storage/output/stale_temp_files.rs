//! What is left of runs that were killed.
//!
//! ```text
//!   a run                                     whoever writes the same name next
//!   ─────                                     ─────────────────────────────────
//!   makes  .dst.XXXXXX.diskimg-tmp
//!   locks it (flock), sees its name again     lists what is called so, opens it
//!   writes, renames                           locks it: no  → its run is alive
//!   closes it; so does the system if it              yes → nobody's: removes it
//!   is killed
//! ```
//!
//! Where it is not known that a lock reaches everyone who sees the file (network file
//! systems), nothing is removed. Nor is what was put aside (`.diskimg-old`): that is the
//! user's old image.

use super::output_file::TEMPORARY_SUFFIX;
use super::{directory_of, temporary_prefix};
use crate::storage::os::{self, FileLock, Located};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Characters between prefix and suffix of a temporary file's name.
const RANDOM: usize = 6;

/// The temporary files that were there when an output began.
#[derive(Debug, Default)]
pub(super) struct StaleTempFiles {
    /// Names by directory: an image may have hundreds of files in one.
    found: HashMap<PathBuf, Vec<String>>,
}

impl StaleTempFiles {
    /// Removes what is left of runs that wrote what was to be called `path`. What cannot be
    /// removed stays.
    pub(super) fn remove(&mut self, path: &Path) {
        let Ok(prefix) = temporary_prefix(path) else { return };
        let directory = directory_of(path);
        let names = self.found.entry(directory.to_owned()).or_insert_with(|| temporary(directory));
        for name in names.iter().filter(|name| is_temporary(name, &prefix)) {
            let _ = remove_if_left(&directory.join(name));
        }
    }
}

/// The names in a directory that a temporary file may have; none if it cannot be listed.
fn temporary(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let names = entries.map_while(|entry| entry.ok()).map(|entry| entry.file_name());
    // Ours are UTF-8, whatever the output's name is.
    names.filter_map(|n| n.into_string().ok()).filter(|n| is_temporary(n, ".")).collect()
}

/// Whether `name` is one that begins with `prefix` and goes on at random. The prefix `.` stands for all.
fn is_temporary(name: &str, prefix: &str) -> bool {
    let Some(rest) = name.strip_prefix(prefix) else { return false };
    let Some(random) = rest.strip_suffix(TEMPORARY_SUFFIX) else { return false };
    prefix == "." || random.len() == RANDOM && random.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Removes a regular file that no process holds.
fn remove_if_left(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Ok(());
    }
    // What it is by now, without opening a pipe or a device.
    let located = Located::at(path)?;
    if !located.metadata()?.is_file() {
        return Ok(());
    }
    let file = located.open()?;
    if os::try_lock_file(&file) == FileLock::Ours && is_called(&file, path) {
        fs::remove_file(path)?;
    }
    Ok(())
}

/// Takes hold of a temporary file that was just made. `None` if somebody took it for left over,
/// between then and now: it is gone.
pub(super) fn hold(file: &File, path: &Path) -> Option<FileLock> {
    match os::try_lock_file(file) {
        FileLock::Ours => is_called(file, path).then_some(FileLock::Ours),
        FileLock::HeldByOther => None,
        FileLock::Unknown => Some(FileLock::Unknown),
    }
}

/// Whether `path` is a name of this very file.
fn is_called(file: &File, path: &Path) -> bool {
    let (Ok(file), Ok(named)) = (file.metadata(), fs::symlink_metadata(path)) else { return false };
    named.is_file() && os::identity(&file) == os::identity(&named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_our_own_making_are_taken_for_left_over() {
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
    fn what_is_held_or_no_file_stays() {
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
        let hold = hold(&held, &path("held00")).expect("is there");
        let before = fs::read_dir(dir.path()).expect("lists").count();
        StaleTempFiles::default().remove(&dir.path().join("a"));
        let after = fs::read_dir(dir.path()).expect("lists").count();
        let removed = usize::from(hold == FileLock::Ours);
        assert_eq!(after, before - removed, "where locks are known to hold, one is left over");
        assert_eq!(path("gone00").exists(), removed == 0);
        drop(held);
        StaleTempFiles::default().remove(&dir.path().join("a"));
        assert_eq!(path("held00").exists(), removed == 0);
    }

    /// As when somebody tidies up between the making of a file and its locking.
    #[test]
    fn a_new_file_that_was_taken_for_left_over_is_made_again() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join(".a.xxxxxx.diskimg-tmp");
        let file = File::create_new(&path).expect("creates");
        let taken = File::open(&path).expect("opens");
        if os::try_lock_file(&taken) != FileLock::Ours {
            return;
        }
        assert_eq!(hold(&file, &path), None, "another holds it");
        fs::remove_file(&path).expect("removes");
        drop(taken);
        assert_eq!(hold(&file, &path), None, "it has no name");
        File::create_new(&path).expect("creates");
        assert_eq!(hold(&file, &path), None, "another has its name");
    }
}
