//! Names of other files that an image holds, and who may follow them.

use crate::host::source::{FileSource, Source};
use crate::vocabulary::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Which files an image may name and have opened: backing files, external
/// data files, extents.
///
/// An image from a stranger that names `/etc/shadow` as its backing file would
/// otherwise carry it into the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum References {
    /// None at all.
    None,
    /// Files in the image's own directory or below it, symbolic links resolved.
    #[default]
    SameDir,
    /// Any file of the host.
    Any,
}

/// Resolves and opens the files that one image names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resolver<'a> {
    /// The image's own path; `None` if it came from a pipe or memory.
    pub(crate) image: Option<&'a Path>,
    /// The policy.
    pub(crate) policy: References,
}

impl Resolver<'_> {
    /// Where `name` leads: relative names start at the image's directory.
    /// `role` is what the file is to the image ("backing file").
    ///
    /// # Errors
    /// [`Refused`](crate::ErrorKind::Refused) if the policy or the name's form forbids it.
    pub(crate) fn resolve(&self, role: &str, name: &str) -> Result<PathBuf> {
        let path = plain_path(name).ok_or_else(|| {
            Error::refused(format!("its {role} '{name}' is not a file name"))
                .hint("protocols and json: descriptions are never followed from inside an image")
        })?;
        if self.policy == References::None {
            return Err(Error::refused(format!("it names the {role} '{name}'")).hint(
                "references to other files are switched off: References::None, --references=none",
            ));
        }
        let directory = self.image.and_then(Path::parent).unwrap_or(Path::new(""));
        let path = directory.join(path);
        if self.policy == References::SameDir {
            self.require_same_dir(role, name, directory, &path)?;
        }
        Ok(path)
    }

    /// Opens `name` for reading.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve), and what opening said.
    pub(crate) fn open(&self, role: &str, name: &str) -> Result<Arc<dyn Source>> {
        let path = self.resolve(role, name)?;
        let source = FileSource::open(&path)
            .map_err(|e| Error::io(format!("cannot open its {role} '{}'", path.display()), e))?;
        Ok(Arc::new(source))
    }

    fn require_same_dir(&self, role: &str, name: &str, dir: &Path, path: &Path) -> Result<()> {
        let cannot = |e| Error::io(format!("cannot open its {role} '{}'", path.display()), e);
        if self.image.is_none() {
            return Err(Error::refused(format!(
                "its {role} '{name}' cannot be beside an image that is not a file"
            ))
            .hint("open the image by its path, or allow any file: References::Any"));
        }
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        let home = std::fs::canonicalize(dir).map_err(cannot)?;
        let real = std::fs::canonicalize(path).map_err(cannot)?;
        if real.starts_with(&home) {
            return Ok(());
        }
        Err(Error::refused(format!(
            "its {role} '{name}' is outside the image's directory (it is '{}')",
            real.display()
        ))
        .hint("allow it with References::Any, --references=any"))
    }
}

/// The path in a name that an image or a command line gives: as it is, or behind `file:`.
/// `None` for other protocols (`nbd:…`, `json:{…}`): a colon before any slash, as QEMU
/// reads it.
pub fn plain_path(name: &str) -> Option<&Path> {
    if let Some(rest) = name.strip_prefix("file:") {
        // file:///dir/x and file:/dir/x and file:x; file://host/x names another machine.
        return match rest.strip_prefix("//") {
            Some(path) if path.starts_with('/') => Some(Path::new(path)),
            Some(_) => None,
            None if rest.is_empty() => None,
            None => Some(Path::new(rest)),
        };
    }
    let before_slash = name.split(std::path::MAIN_SEPARATOR).next().unwrap_or(name);
    let drive_letter = cfg!(windows) && before_slash.len() == 2;
    if name.is_empty() || name.contains('\0') || (before_slash.contains(':') && !drive_letter) {
        return None;
    }
    Some(Path::new(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_no_paths() {
        for name in
            ["json:{}", "nbd://h/x", "http://h/x", "fat:rw:dir", "", "file://host/x", "a\0b"]
        {
            assert_eq!(plain_path(name), None, "{name}");
        }
        for (name, path) in [
            ("a.qcow2", "a.qcow2"),
            ("./a:b", "./a:b"),
            ("/x/a:b", "/x/a:b"),
            ("file:a", "a"),
            ("file:///x/a", "/x/a"),
            ("file:/x/a", "/x/a"),
        ] {
            assert_eq!(plain_path(name), Some(Path::new(path)), "{name}");
        }
    }

    #[test]
    fn same_dir_follows_links_before_it_judges() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out.img"));
        std::fs::create_dir(&inside).expect("mkdir");
        std::fs::write(&outside, b"secret").expect("writes");
        std::fs::write(inside.join("ok.img"), b"fine").expect("writes");
        let image = inside.join("top.qcow2");
        let resolver = Resolver { image: Some(&image), policy: References::SameDir };
        resolver.open("backing file", "ok.img").expect("same directory");
        for name in ["../out.img", outside.to_str().expect("utf-8")] {
            let error = resolver.open("backing file", name).expect_err("outside");
            assert_eq!(error.kind(), crate::ErrorKind::Refused, "{name}");
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(&outside, inside.join("link.img")).expect("links");
            let error = resolver.open("backing file", "link.img").expect_err("outside");
            assert_eq!(error.kind(), crate::ErrorKind::Refused);
        }
        let any = Resolver { image: Some(&image), policy: References::Any };
        any.open("backing file", "../out.img").expect("any");
    }
}
