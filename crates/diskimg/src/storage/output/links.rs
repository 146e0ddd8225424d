//! Symbolic links in the path of an output.
//!
//! In a directory such as `/tmp`, any user can create a link under a name that somebody else will
//! write to. Linux follows such a link only for its own owner, and if it belongs to the owner of the
//! directory: `fs.protected_symlinks`, Documentation/admin-guide/sysctl/fs.rst. An output is replaced
//! after its links were resolved, so the same rule is applied here, whatever that setting is.
//!
//! Another user can also create a link after the path was examined. Therefore a path is resolved
//! once, each link is checked and read through one file descriptor, and a link that appears later
//! under the name that was found is not followed.

use crate::storage::os;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::path::{Component, Path, PathBuf};

/// Maximum number of symbolic links that are followed. Linux has the same limit.
const MAX_LINKS: usize = 40;

/// The file to which a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Destination {
    /// The path without symbolic links, where nothing need exist. If it leads to an open file, the
    /// path as it was given.
    pub path: PathBuf,
    /// The link to an open file, if the path leads to one: proc_pid_fd(5).
    pub open_file: Option<PathBuf>,
}

impl Destination {
    /// Resolves all symbolic links in `path`. The last part need not exist.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::PermissionDenied`] if a link belongs to another user, in a directory
    /// with the sticky bit in which others can create files, and the error of the system if the
    /// directory cannot be examined.
    pub fn of(path: &Path) -> io::Result<Self> {
        // What was resolved, and what is still to be resolved, the next part last.
        let (mut at, mut rest) = (PathBuf::new(), vec![path.to_owned()]);
        let (mut links, mut open_file) = (0, None);
        while let Some(path) = rest.pop() {
            let mut parts = path.components();
            let Some(part) = parts.next() else { continue };
            rest.push(parts.as_path().to_owned());
            open_file = None;
            match part {
                Component::CurDir => continue,
                Component::Normal(_) => {}
                _ => {
                    at.push(part);
                    continue;
                }
            }
            let next = at.join(part);
            let (found, target) = match os::examine(&next) {
                Ok(found) => found,
                Err(e) if e.kind() == io::ErrorKind::NotFound && is_empty(&rest) => {
                    at = next;
                    break;
                }
                Err(e) => return Err(e),
            };
            let Some(target) = target else {
                at = next;
                continue;
            };
            let directory = if at.as_os_str().is_empty() { Path::new(".") } else { &at };
            require_trusted(&next, &found, directory)?;
            if names_open_files(directory) {
                // Its target is not a path, so that it remains.
                open_file = Some(next.clone());
                at = next;
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(io::Error::other("too many levels of symbolic links"));
            }
            if target.is_absolute() {
                at = PathBuf::new();
            }
            rest.push(target);
        }
        let keeps_path = links == 0 || open_file.is_some();
        if !keeps_path && path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            at.push("");
        }
        Ok(Self { path: if keeps_path { path.to_owned() } else { at }, open_file })
    }

    /// Returns the metadata of the file.
    ///
    /// # Errors
    /// The error of the system, and an error if a link has appeared in its place.
    pub fn metadata(&self) -> io::Result<Metadata> {
        if self.open_file.is_some() {
            return std::fs::metadata(&self.path);
        }
        let found = std::fs::symlink_metadata(&self.path)?;
        if found.is_symlink() { Err(became_link()) } else { Ok(found) }
    }

    /// Opens the file.
    ///
    /// # Errors
    /// As [`metadata`](Self::metadata).
    pub fn open(&self, options: &OpenOptions) -> io::Result<File> {
        match self.open_file {
            Some(_) => options.open(&self.path),
            None => open_no_link(options, &self.path),
        }
    }
}

/// Opens `path`, which must not be a symbolic link.
pub(super) fn open_no_link(options: &OpenOptions, path: &Path) -> io::Result<File> {
    os::open_no_follow(options, path).map_err(|e| match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => became_link(),
        _ => e,
    })
}

fn became_link() -> io::Error {
    io::Error::other("another process has put a symbolic link in its place")
}

/// Returns true if nothing is left to be resolved.
fn is_empty(rest: &[PathBuf]) -> bool {
    rest.iter().all(|path| path.components().next().is_none())
}

/// Returns true for a directory in which the links to a process's open files are: proc_pid_fd(5).
fn names_open_files(directory: &Path) -> bool {
    let is_proc = |path: PathBuf| path.starts_with("/proc") && path.ends_with("fd");
    directory.canonicalize().is_ok_and(is_proc)
}

/// Links of all users are followed on other systems.
#[cfg(not(unix))]
fn require_trusted(_link: &Path, _found: &Metadata, _directory: &Path) -> io::Result<()> {
    Ok(())
}

/// Verifies that a link in `directory` may be followed.
#[cfg(unix)]
fn require_trusted(link: &Path, found: &Metadata, directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    /// The sticky bit, and write permission for others.
    const SHARED: u32 = 0o1002;
    let Ok(directory) = std::fs::metadata(directory) else { return Ok(()) };
    let is_shared = directory.mode() & SHARED == SHARED;
    let owner = found.uid();
    if !is_shared || owner == directory.uid() || owner == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    let message = format!(
        "the symbolic link '{}' belongs to another user, in a directory in which all users can \
         create files",
        link.display()
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, lchown, symlink};

    /// Requires root, who can create files of others.
    #[test]
    fn a_link_of_another_user_in_a_shared_directory_is_not_followed() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        const OTHER: u32 = 65534;
        let dir = tempfile::tempdir().expect("tempdir");
        let path = |name: &str| dir.path().join(name);
        let mode = |name: &str, mode| {
            fs::set_permissions(path(name), Permissions::from_mode(mode)).expect("sets the mode");
        };
        fs::create_dir(path("shared")).expect("creates");
        fs::create_dir(path("own")).expect("creates");
        fs::write(path("own/file"), "").expect("writes");
        for (name, target) in [
            ("shared/file", "../own/file"),
            ("shared/missing", "../own/missing"),
            ("shared/directory", "../own"),
        ] {
            symlink(target, path(name)).expect("links");
            lchown(path(name), Some(OTHER), Some(OTHER)).expect("changes the owner");
        }
        symlink(path("shared/file"), path("own/outside")).expect("links");
        symlink("shared/directory", path("chain")).expect("links");
        let names = [
            "shared/file",
            "shared/missing",
            "shared/directory/file",
            "shared/directory/missing",
            "own/outside",
            "chain/file",
            "own/../shared/./directory/file",
        ];
        let refused = |names: &[&str]| {
            names.iter().filter(|name| Destination::of(&path(name)).is_err()).count()
        };
        for trusted in [0o755, 0o1755, 0o777, 0o1770] {
            mode("shared", trusted);
            assert_eq!(refused(&names), 0, "{trusted:o}");
        }
        for shared in [0o1777, 0o1773] {
            mode("shared", shared);
            assert_eq!(refused(&names), names.len(), "{shared:o}");
        }
        assert_eq!(refused(&["own/file", "shared", "shared/new"]), 0);
        let error = Destination::of(&path("chain/file")).expect_err("is refused");
        assert!(error.to_string().contains("shared/directory' belongs to another"), "{error}");
        lchown(path("shared"), Some(OTHER), None).expect("changes the owner");
        assert_eq!(refused(&names), 0, "the directory's owner has created the links");
        for name in ["shared/file", "shared/directory"] {
            lchown(path(name), Some(0), None).expect("changes the owner");
        }
        lchown(path("shared"), Some(1), None).expect("changes the owner");
        assert_eq!(refused(&["shared/file", "chain/missing"]), 0, "own links");
    }

    #[test]
    fn links_are_resolved_once() {
        let dir = tempfile::tempdir().expect("tempdir");
        let root = dir.path().canonicalize().expect("exists");
        let path = |name: &str| root.join(name);
        fs::create_dir(path("a")).expect("creates");
        fs::write(path("a/file"), "old").expect("writes");
        symlink("a", path("b")).expect("links");
        symlink(path("b/file"), path("c")).expect("links");
        symlink("d", path("d")).expect("links");
        let found = |name: &str| Destination::of(&path(name));
        for (name, wanted) in [
            ("c", "a/file"),
            ("b/file", "a/file"),
            ("b/new", "a/new"),
            ("a/file", "a/file"),
            ("a/new", "a/new"),
        ] {
            let found = found(name).expect("resolves");
            assert_eq!(found, Destination { path: path(wanted), open_file: None }, "{name}");
        }
        assert!(found("b/../a/new").expect("resolves").path.ends_with("a/../a/new"));
        assert!(found("b/new/").expect("resolves").path.ends_with("a/new/"));
        assert_eq!(found("no/new").expect_err("fails").kind(), io::ErrorKind::NotFound);
        assert!(found("d").is_err() && found("c/new").is_err());
        // A link that appears later is not followed.
        let (file, new) = (found("c").expect("resolves"), found("b/new").expect("resolves"));
        fs::remove_file(path("a/file")).expect("removes");
        for name in ["a/file", "a/new"] {
            symlink(path("victim"), path(name)).expect("links");
        }
        fs::write(path("victim"), "precious").expect("writes");
        for found in [file, new] {
            assert!(found.metadata().is_err());
            let error = found.open(OpenOptions::new().write(true).truncate(true));
            assert!(error.expect_err("is a link").to_string().contains("symbolic link"));
        }
        assert_eq!(fs::read(path("victim")).expect("reads"), b"precious");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_link_to_an_open_file_remains() {
        use std::os::fd::AsRawFd;
        let file = tempfile::tempfile().expect("creates");
        let name = PathBuf::from(format!("/dev/fd/{}", file.as_raw_fd()));
        let found = Destination::of(&name).expect("resolves");
        assert_eq!(found.path, name);
        let process = format!("/proc/{}/", std::process::id());
        assert!(found.open_file.as_ref().is_some_and(|link| link.starts_with(process)));
        found.open(OpenOptions::new().write(true)).expect("opens");
        let directory = tempfile::tempdir().expect("creates");
        let handle = File::open(directory.path()).expect("opens");
        let name = format!("/proc/self/fd/{}/new", handle.as_raw_fd());
        assert!(Destination::of(Path::new(&name)).expect("resolves").open_file.is_none());
    }
}
