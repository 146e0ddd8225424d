//! Names of other files that an image holds, and who may follow them.

use crate::error::{Error, Result};
use crate::storage::os;
use crate::storage::output::unambiguous;
use crate::storage::source::{FileSource, ReadMode, Source};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Which files an image may name and have opened: backing files, external
/// data files, extents.
///
/// An image from a stranger that names `/etc/shadow` as its backing file would
/// otherwise carry it into the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[non_exhaustive]
pub enum ExternalFiles {
    /// None at all.
    None,
    /// Regular files in the image's own directory or below it, symbolic links
    /// resolved. If the image's path is itself a symbolic link, the directory of
    /// the file it leads to is its own, too. Devices, and files that the kernel
    /// makes up (`/proc`, `/sys`), are none, wherever the image is.
    #[default]
    SameDir,
    /// Any regular file or block device of the host.
    Any,
}

/// Resolves and opens the files that one image names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resolver<'a> {
    /// The image's path as it was given; `None` if it came from a pipe or memory.
    pub(crate) image: Option<&'a Path>,
    /// Its path without symbolic links, where that is of interest.
    pub(crate) real: Option<&'a Path>,
    /// The policy for files that the image names.
    pub(crate) policy: ExternalFiles,
    /// The policy for files that are searched for by what is in them. It is
    /// the caller's own; `policy` is narrower for an image that was so found.
    pub(crate) search: ExternalFiles,
    /// How the bytes of what it opens are got at.
    pub(crate) access: ReadMode,
    /// What is meant where the image names one of these.
    pub(crate) stand_ins: &'a [StandIn],
}

/// The path of a file, and what is read in its place.
pub(crate) type StandIn = (PathBuf, Arc<dyn Source>);

impl<'a> Resolver<'a> {
    /// Of the image at `image`, `None` if it came from a pipe or memory.
    pub(crate) fn new(image: Option<&'a Path>, policy: ExternalFiles) -> Self {
        Self {
            image,
            real: None,
            policy,
            search: policy,
            access: ReadMode::default(),
            stand_ins: &[],
        }
    }

    /// Where `name` leads, as QEMU reads names; relative ones start at the
    /// image's directory. No file is looked at. `role` is what the file is to
    /// the image ("backing file").
    ///
    /// # Errors
    /// [`Refused`](crate::ErrorKind::Refused) if the name is no file's, or no
    /// file may be named.
    pub(crate) fn resolve(&self, role: &str, name: &str) -> Result<PathBuf> {
        let path = plain_path(name).ok_or_else(|| {
            Error::refused(format!("its {role} '{name}' is not a file name"))
                .hint("protocols and json: descriptions are never followed from inside an image")
        })?;
        self.refuse_none(role, name)?;
        Ok(self.directory().join(path))
    }

    /// Opens `name` for reading, as QEMU reads names.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve) and [`open_at`](Self::open_at).
    pub(crate) fn open(&self, role: &str, name: &str) -> Result<Arc<dyn Source>> {
        self.open_at(role, name, &self.resolve(role, name)?)
    }

    /// Opens `name` for reading, which is a path whatever is in it: colons are
    /// no protocols. What is not in the image's directory is looked for beside
    /// the file that the image's path is a symbolic link to.
    ///
    /// # Errors
    /// As [`open_at`](Self::open_at), for the image's directory;
    /// [`Refused`](crate::ErrorKind::Refused) if no path has such a name.
    pub(crate) fn open_path(&self, role: &str, name: &str) -> Result<Arc<dyn Source>> {
        if name.is_empty() || name.contains('\0') {
            return Err(Error::refused(format!("its {role} '{name}' is not a file name")));
        }
        let open = |directory: &Path| self.open_at(role, name, &directory.join(name));
        open(self.directory()).or_else(|error| match self.real_directory() {
            Some(directory) => open(directory).map_err(|_| error),
            None => Err(error),
        })
    }

    /// Opens the file at `path`, where `name` has led, if the policy allows it.
    ///
    /// # Errors
    /// [`Refused`](crate::ErrorKind::Refused) if it does not, in the same words
    /// for what is elsewhere and for what is not: whoever wrote the image may
    /// read them. [`Io`](crate::ErrorKind::Io).
    pub(crate) fn open_at(&self, role: &str, name: &str, path: &Path) -> Result<Arc<dyn Source>> {
        self.refuse_none(role, name)?;
        if let Some((_, source)) = self.stand_ins.iter().find(|(meant, _)| is_same(meant, path)) {
            return Ok(Arc::clone(source));
        }
        let cannot = |e| Error::io(format!("cannot open its {role} '{}'", path.display()), e);
        if self.policy == ExternalFiles::Any {
            return FileSource::open(path).and_then(|file| self.access.to(file)).map_err(cannot);
        }
        let homes = self.homes(role, name)?;
        let mut inside = false;
        let opened = FileSource::open_if(path, |real| {
            inside = homes.iter().any(|home| real.starts_with(home));
            inside
        });
        match opened {
            Ok(Some(file)) => self.access.to(file).map_err(cannot),
            Ok(None) if inside => {
                Err(Error::refused(format!("its {role} '{name}' is not a regular file"))
                    .hint("a device may be named with ExternalFiles::Any, --external-files=any"))
            }
            Err(e) if inside || self.is_plainly_inside(path) => Err(cannot(e)),
            Ok(None) | Err(_) => {
                Err(Error::refused(format!("its {role} '{name}' is not in the image's directory"))
                    .hint("allow it with ExternalFiles::Any, --external-files=any"))
            }
        }
    }

    /// The directories that the image's files may be in: its own and, if its
    /// path is a symbolic link, that of the file it leads to.
    pub(crate) fn directories(&self) -> impl Iterator<Item = &'a Path> {
        [self.directory()].into_iter().chain(self.real_directory())
    }

    fn directory(&self) -> &'a Path {
        self.image.and_then(Path::parent).unwrap_or(Path::new(""))
    }

    fn real_directory(&self) -> Option<&'a Path> {
        let real = self.real.and_then(Path::parent)?;
        let other = canonical_directory(self.directory()).is_ok_and(|home| home != real);
        other.then_some(real)
    }

    fn refuse_none(&self, role: &str, name: &str) -> Result<()> {
        match self.policy {
            ExternalFiles::None => {
                Err(Error::refused(format!("it names the {role} '{name}'")).hint(NONE_HINT))
            }
            _ => Ok(()),
        }
    }

    /// What [`ExternalFiles::SameDir`] allows, symbolic links resolved.
    fn homes(&self, role: &str, name: &str) -> Result<Vec<PathBuf>> {
        if self.image.is_none() {
            return Err(Error::refused(format!(
                "its {role} '{name}' cannot be beside an image that is not a file"
            ))
            .hint("open the image by its path, or allow any file: ExternalFiles::Any"));
        }
        let homes = self.directories().map(canonical_directory).collect::<io::Result<_>>();
        homes.map_err(|e| Error::io("cannot find its directory", e))
    }

    /// Its place can be told from the path alone, which has no `..` and no
    /// symbolic link below the image's directory.
    fn is_plainly_inside(&self, path: &Path) -> bool {
        let plain = |directory: &Path| {
            let Ok(below) = path.strip_prefix(directory) else { return false };
            let mut at = directory.to_owned();
            below.components().all(|component| {
                at.push(component);
                matches!(component, Component::Normal(_) | Component::CurDir) && !at.is_symlink()
            })
        };
        self.directories().any(plain)
    }
}

/// What to say where [`ExternalFiles::None`] is in force.
pub(crate) const NONE_HINT: &str =
    "references to other files are switched off: ExternalFiles::None, --external-files=none";

/// Two spellings of one path, of which nothing need be there but the directory.
fn is_same(a: &Path, b: &Path) -> bool {
    let same = || Ok::<_, io::Error>(unambiguous(a)? == unambiguous(b)?);
    a.file_name() == b.file_name() && same().unwrap_or(false)
}

fn canonical_directory(directory: &Path) -> io::Result<PathBuf> {
    // The empty path is the directory of a bare file name.
    if directory.as_os_str().is_empty() { Path::new(".") } else { directory }.canonicalize()
}

/// Where the file that was opened as [`Source::path`] is, symbolic links resolved.
pub(crate) fn real_path(source: &dyn Source) -> Option<PathBuf> {
    let path = source.path()?;
    let opened = source.as_file().and_then(|(file, _)| os::real_path(file));
    opened.or_else(|| path.canonicalize().ok())
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
        let resolver = Resolver::new(Some(&image), ExternalFiles::SameDir);
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
        let any = Resolver::new(Some(&image), ExternalFiles::Any);
        any.open("backing file", "../out.img").expect("any");
    }

    /// An image in the root directory has everything below its own.
    #[test]
    #[cfg(target_os = "linux")]
    fn what_the_kernel_makes_up_is_no_file_of_a_directory() {
        let image = Path::new("/image.qcow2");
        let resolver = Resolver::new(Some(image), ExternalFiles::SameDir);
        for name in ["proc/self/status", "/proc/self/exe", "dev/zero", "proc", "sys/kernel", "."] {
            let error = match resolver.open("backing file", name) {
                Ok(source) => {
                    // A program is a stored file, by whatever link it is reached.
                    assert!(name.ends_with("exe"), "{name}: {source:?}");
                    continue;
                }
                Err(error) => error,
            };
            assert_eq!(error.kind(), crate::ErrorKind::Refused, "{name}: {error}");
        }
    }
}
