//! Symbolic links in the path of an output.
//!
//! In a directory such as `/tmp`, any user can create a link under a name that somebody else will
//! write to. Linux follows such a link only for its own owner, and if it belongs to the owner of the
//! directory: `fs.protected_symlinks`, Documentation/admin-guide/sysctl/fs.rst. An output is replaced
//! after its links were resolved, so the same rule is applied here, whatever that setting is.

use std::io;
use std::path::Path;

/// Verifies that all symbolic links in `path`, and in the links themselves, may be followed.
///
/// # Errors
/// Returns [`io::ErrorKind::PermissionDenied`] if one belongs to another user, in a directory with
/// the sticky bit in which others can create files. What cannot be examined is no error here.
#[cfg(unix)]
pub fn require_trusted_links(path: &Path) -> io::Result<()> {
    use super::output_file::{MAX_LINKS, names_open_files};
    use std::path::{Component, PathBuf};

    let mut at = PathBuf::new();
    // What is still to be resolved, the next part last.
    let mut rest = vec![path.to_owned()];
    let mut links = 0;
    while let Some(path) = rest.pop() {
        let mut parts = path.components();
        let Some(part) = parts.next() else { continue };
        rest.push(parts.as_path().to_owned());
        match part {
            Component::CurDir => continue,
            Component::Normal(_) => {}
            _ => {
                at.push(part);
                continue;
            }
        }
        let next = at.join(part);
        let Ok(found) = std::fs::symlink_metadata(&next) else { return Ok(()) };
        if !found.is_symlink() {
            at = next;
            continue;
        }
        let directory = if at.as_os_str().is_empty() { Path::new(".") } else { &at };
        require_trusted(&next, &found, directory)?;
        links += 1;
        // The target of a link to an open file is not a path.
        if links > MAX_LINKS || names_open_files(directory) {
            return Ok(());
        }
        let Ok(target) = std::fs::read_link(&next) else { return Ok(()) };
        if target.is_absolute() {
            at = PathBuf::new();
        }
        rest.push(target);
    }
    Ok(())
}

/// Links are followed on other systems.
#[cfg(not(unix))]
pub fn require_trusted_links(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// Verifies that a link in `directory` may be followed.
#[cfg(unix)]
fn require_trusted(link: &Path, found: &std::fs::Metadata, directory: &Path) -> io::Result<()> {
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
            ("shared/loop", "loop"),
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
            "shared/loop",
            "own/outside",
            "chain/file",
            "own/../shared/./directory/file",
        ];
        let refused = |names: &[&str]| {
            names.iter().filter(|name| require_trusted_links(&path(name)).is_err()).count()
        };
        for trusted in [0o755, 0o1755, 0o777, 0o1770] {
            mode("shared", trusted);
            assert_eq!(refused(&names), 0, "{trusted:o}");
        }
        for shared in [0o1777, 0o1773] {
            mode("shared", shared);
            assert_eq!(refused(&names), names.len(), "{shared:o}");
        }
        assert_eq!(refused(&["own/file", "shared", "shared/new", "shared/no/file"]), 0);
        let error = require_trusted_links(&path("chain/file")).expect_err("is refused");
        assert!(error.to_string().contains("shared/directory' belongs to another"), "{error}");
        lchown(path("shared"), Some(OTHER), None).expect("changes the owner");
        assert_eq!(refused(&names), 0, "the directory's owner has created the links");
        for name in ["shared/file", "shared/directory"] {
            lchown(path(name), Some(0), None).expect("changes the owner");
        }
        lchown(path("shared"), Some(1), None).expect("changes the owner");
        assert_eq!(refused(&["shared/file", "chain/missing"]), 0, "own links");
    }
}
