//! Names of the temporary files of this process, for a handler of the signal that ends it.
//!
//! A small allocation that fails aborts the process, and so does the start of a thread for which
//! there is too little memory: no destructor runs then. Files that were renamed have their names
//! here, too, but no file has such a name any more.

use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Maximum number of names; further files are not removed.
const MAX: usize = 1024;

/// A name, once it is set.
struct Slot {
    name: OnceLock<imp::Name>,
    /// No file of this process has had the name.
    unused: AtomicBool,
}

static NAMES: [Slot; MAX] =
    [const { Slot { name: OnceLock::new(), unused: AtomicBool::new(false) } }; MAX];

/// In a handler of a signal, only system calls may be made.
#[cfg(unix)]
mod imp {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    pub(super) type Name = CString;

    pub(super) fn name(path: &Path) -> Option<Name> {
        CString::new(path.as_os_str().as_bytes()).ok()
    }

    pub(super) fn remove(name: &Name) {
        let _ = rustix::fs::unlink(&**name);
    }
}

/// Handlers run in threads of their own.
#[cfg(not(unix))]
mod imp {
    use std::path::{Path, PathBuf};

    pub(super) type Name = PathBuf;

    pub(super) fn name(path: &Path) -> Option<Name> {
        std::path::absolute(path).ok()
    }

    pub(super) fn remove(name: &Name) {
        let _ = std::fs::remove_file(name);
    }
}

fn note(path: &Path) -> Option<&'static Slot> {
    let mut name = imp::name(path)?;
    for slot in &NAMES {
        match slot.name.set(name) {
            Ok(()) => return Some(slot),
            Err(back) => name = back,
        }
    }
    None
}

fn names() -> impl Iterator<Item = &'static imp::Name> {
    let noted = NAMES.iter().take_while(|slot| slot.name.get().is_some());
    let used = noted.filter(|slot| !slot.unused.load(Ordering::Relaxed));
    used.filter_map(|slot| slot.name.get())
}

/// Calls `create`, which creates the temporary file `path`, and notes the name. It is noted before:
/// a signal may arrive as soon as the file exists.
///
/// # Errors
/// The error of `create`. The name is not noted then.
pub(super) fn create<T>(path: &Path, create: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let slot = note(path);
    let created = create();
    if let (Err(_), Some(slot)) = (&created, slot) {
        // A file of this name is another's.
        slot.unused.store(true, Ordering::Relaxed);
    }
    created
}

/// Removes the temporary files of all outputs of this process, which must then end: a handler of
/// SIGABRT may call it, because it makes nothing but system calls on Unix.
pub fn remove_temporary_files() {
    names().for_each(imp::remove);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    #[test]
    fn a_name_is_noted_before_the_file_exists() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = |name: &str| dir.path().join(name);
        fs::write(path("others"), "").expect("writes");
        let taken = create(&path("others"), || File::create_new(path("others")));
        assert_eq!(taken.expect_err("exists").kind(), io::ErrorKind::AlreadyExists);
        let is_noted = |name| names().any(|noted| Some(noted) == imp::name(&path(name)).as_ref());
        let noted = || is_noted("own");
        assert!(!noted());
        create(&path("own"), || {
            assert!(noted(), "a signal may arrive as soon as it exists");
            File::create_new(path("own"))
        })
        .expect("creates");
        assert!(noted() && !is_noted("others"));
    }
}
