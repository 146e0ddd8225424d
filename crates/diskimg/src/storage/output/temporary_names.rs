//! Names of the temporary files of this process, for a handler of the signal that ends it.
//!
//! A small allocation that fails aborts the process, and so does the start of a thread for which
//! there is too little memory: no destructor runs then. Files that were renamed have their names
//! here, too, but no file has such a name any more.

use std::path::Path;

#[cfg(unix)]
mod imp {
    use super::Path;
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    use std::sync::OnceLock;

    /// Maximum number of names; further files are not removed.
    const MAX: usize = 1024;

    static NAMES: [OnceLock<CString>; MAX] = [const { OnceLock::new() }; MAX];

    pub(super) fn note(path: &Path) {
        let Ok(mut name) = CString::new(path.as_os_str().as_bytes()) else { return };
        for slot in &NAMES {
            match slot.set(name) {
                Ok(()) => return,
                Err(back) => name = back,
            }
        }
    }

    pub(super) fn remove() {
        for name in NAMES.iter().map_while(OnceLock::get) {
            let _ = rustix::fs::unlink(name.as_c_str());
        }
    }
}

/// Notes the name of a new temporary file.
pub(super) fn note(path: &Path) {
    #[cfg(unix)]
    imp::note(path);
    #[cfg(not(unix))]
    let _ = path;
}

/// Removes the temporary files of all outputs of this process, which must then end: a handler of
/// SIGABRT may call it, because it makes nothing but system calls. On systems other than Unix, it
/// does nothing.
pub fn remove_temporary_files() {
    #[cfg(unix)]
    imp::remove();
}
