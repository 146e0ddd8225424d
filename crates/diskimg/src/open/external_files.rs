//! The policy for the files that an image references, and opening them.

use crate::error::{Error, Result};
use crate::open::lock_error;
use crate::open::protocol::Origin;
use crate::remedy::Remedy;
use crate::storage::locking::Lock;
use crate::storage::os;
use crate::storage::output::canonical;
use crate::storage::source::{FileSource, ReadMode, Source};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Which files an image may reference: backing files, external data files, extents.
///
/// Without such a policy, an untrusted image that names `/etc/shadow` as its backing file would
/// disclose its contents in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum ExternalFiles {
    /// No files.
    None,
    /// Regular files in the image's directory and its subdirectories, after resolving symbolic
    /// links. If the image's path is a symbolic link, the directory of its target is allowed as
    /// well. Devices and files of pseudo file systems (`/proc`, `/sys`) are never allowed.
    #[default]
    SameDir,
    /// Any regular file or block device of the host. On Windows, names that lead to another computer
    /// or to a device are refused under every policy, unless the image itself is on that share:
    /// opening them would send the user's credentials there.
    Any,
}

/// Resolves and opens the files that one image references.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resolver<'a> {
    /// The image's path as given; `None` if it is a pipe or in memory.
    pub(crate) image: Option<&'a Path>,
    /// The image's canonical path, if known.
    pub(crate) real: Option<&'a Path>,
    /// The policy for files that the image references by name.
    pub(crate) policy: ExternalFiles,
    /// The policy for files that are found by their contents (a UUID). It is the caller's policy;
    /// `policy` is stricter for an image that was itself found in this way.
    pub(crate) search: ExternalFiles,
    /// How opened files are locked, if they are.
    pub(crate) lock: Option<Lock>,
    /// How opened files are read.
    pub(crate) read_mode: ReadMode,
    /// Sources to use instead of files with these paths.
    pub(crate) stand_ins: &'a [StandIn],
    /// Where the image is, if it was opened by a URL. It then references no files of this host.
    pub(crate) origin: Option<&'a Origin>,
}

/// A resolver of files that are opened after the image, as they are read. It does not lock them.
#[derive(Debug)]
pub(crate) struct LaterResolver {
    image: Option<PathBuf>,
    real: Option<PathBuf>,
    policy: ExternalFiles,
    read_mode: ReadMode,
}

/// The path of a file and the source to use instead of it.
pub(crate) type StandIn = (PathBuf, Arc<dyn Source>);

impl<'a> Resolver<'a> {
    /// Creates a resolver for the image at path `image`; `None` if it is a pipe or in memory.
    pub(crate) fn new(image: Option<&'a Path>, policy: ExternalFiles) -> Self {
        Self {
            image,
            real: None,
            policy,
            search: policy,
            lock: None,
            read_mode: ReadMode::default(),
            stand_ins: &[],
            origin: None,
        }
    }

    /// Returns the path for `name`, which is interpreted as by QEMU and is relative to the image's
    /// directory. Accesses no files. `role` describes the file in messages ("backing file").
    ///
    /// # Errors
    /// Returns [`Refused`](crate::ErrorKind::Refused) if the name is not a file name, or if the
    /// policy is [`ExternalFiles::None`].
    pub(crate) fn resolve(&self, role: &str, name: &str) -> Result<PathBuf> {
        let path = plain_path(name).ok_or_else(|| {
            Error::refused(format!("its {role} '{name}' is not a file name"))
                .hint("an image may reference files only by path, not by protocol or json:")
        })?;
        self.refuse_none(role, name)?;
        Ok(self.directory().join(path))
    }

    /// Opens `name`, which is interpreted as by QEMU, for reading.
    ///
    /// # Errors
    /// Returns the errors of [`resolve`](Self::resolve) and [`open_at`](Self::open_at).
    pub(crate) fn open(&self, role: &str, name: &str) -> Result<Arc<dyn Source>> {
        if let Some(origin) = self.origin {
            return origin.join(self.policy, role, name)?.open(role);
        }
        self.open_at(role, name, &self.resolve(role, name)?)
    }

    /// Opens `name` for reading. It is always a path: a colon does not denote a protocol. If the
    /// file is not in the image's directory and the image's path is a symbolic link, tries the
    /// directory of its target.
    ///
    /// # Errors
    /// Returns the errors of [`open_at`](Self::open_at) for the image's directory, and
    /// [`Refused`](crate::ErrorKind::Refused) if the name is empty or contains a NUL byte.
    pub(crate) fn open_path(&self, role: &str, name: &str) -> Result<Arc<dyn Source>> {
        if name.is_empty() || name.contains('\0') {
            return Err(Error::refused(format!("its {role} '{name}' is not a file name")));
        }
        if let Some(origin) = self.origin {
            return origin.join(self.policy, role, name)?.open(role);
        }
        let open = |directory: &Path| self.open_at(role, name, &directory.join(name));
        open(self.directory()).or_else(|error| match self.real_directory() {
            Some(directory) => open(directory).map_err(|_| error),
            None => Err(error),
        })
    }

    /// Opens the file at `path`, to which `name` was resolved, if the policy allows it.
    ///
    /// # Errors
    /// Returns [`Refused`](crate::ErrorKind::Refused) if the policy does not allow it. The message
    /// does not reveal whether a file outside the image's directory exists, because the author of
    /// the image might see it. Returns [`Io`](crate::ErrorKind::Io) if opening fails, and
    /// [`Locked`](crate::ErrorKind::Locked) if another process is writing to the file.
    pub(crate) fn open_at(&self, role: &str, name: &str, path: &Path) -> Result<Arc<dyn Source>> {
        let source = self.open_unlocked(role, name, path)?;
        if let Some(lock) = self.lock {
            source.lock(lock).map_err(|e| lock_error(e).in_file(path))?;
        }
        Ok(source)
    }

    fn open_unlocked(&self, role: &str, name: &str, path: &Path) -> Result<Arc<dyn Source>> {
        self.refuse_none(role, name)?;
        if self.origin.is_some() {
            return Err(Error::refused(format!("its {role} '{name}' is a file of this host"))
                .hint("the image was opened by a URL"));
        }
        if let Some((_, source)) = self.stand_ins.iter().find(|(name, _)| is_same(name, path)) {
            return Ok(Arc::clone(source));
        }
        // Whatever the policy: another computer would learn who opens it.
        if os::names_device_or_network(path) && !self.is_on_same_volume(path) {
            let what = "is not the name of a file on this computer";
            return Err(Error::refused(format!("its {role} '{name}' {what}"))
                .hint("give a share a drive letter"));
        }
        let cannot = |e| Error::io(format!("cannot open its {role} '{}'", path.display()), e);
        if self.policy == ExternalFiles::Any {
            return FileSource::open(path)
                .and_then(|file| self.read_mode.source(file))
                .map_err(cannot);
        }
        let allowed = self.allowed_directories(role, name)?;
        let mut inside = false;
        let opened = FileSource::open_if(path, |real| {
            inside = allowed.iter().any(|directory| real.starts_with(directory));
            inside
        });
        match opened {
            Ok(Some(file)) => self.read_mode.source(file).map_err(cannot),
            Ok(None) if inside => {
                Err(Error::refused(format!("its {role} '{name}' is not a regular file"))
                    .with_remedy(Remedy::AllowExternalFiles))
            }
            Err(e) if inside || self.is_plainly_inside(path) => Err(cannot(e)),
            Ok(None) | Err(_) => {
                Err(Error::refused(format!("its {role} '{name}' is not in the image's directory"))
                    .with_remedy(Remedy::AllowExternalFiles))
            }
        }
    }

    /// Returns the path of the directory `name` in the image's directory, if the policy allows the
    /// files in it. `role` describes these files in messages.
    ///
    /// # Errors
    /// Returns [`Refused`](crate::ErrorKind::Refused) if the policy does not allow them, or if the
    /// image is not a file of this host, and [`Io`](crate::ErrorKind::Io) if there is no such
    /// directory.
    pub(crate) fn directory_of(&self, role: &str, name: &str) -> Result<PathBuf> {
        self.refuse_none(role, name)?;
        if self.origin.is_some() {
            return Err(Error::refused(format!("its {role}s are in the directory '{name}'"))
                .hint("the image was opened by a URL, and a directory cannot be listed by one"));
        }
        let allowed = self.allowed_directories(role, name)?;
        let paths = self.directories().map(|directory| directory.join(name));
        let Some(path) = paths.into_iter().find(|path| path.is_dir()) else {
            let missing = io::Error::from(io::ErrorKind::NotFound);
            return Err(Error::io(format!("cannot open its directory '{name}'"), missing));
        };
        let real = path
            .canonicalize()
            .map_err(|e| Error::io(format!("cannot open its directory '{name}'"), e))?;
        let is_allowed = allowed.iter().any(|directory| real.starts_with(directory));
        if self.policy != ExternalFiles::Any && !is_allowed {
            let message = format!("its directory '{name}' is not in the image's directory");
            return Err(Error::refused(message).with_remedy(Remedy::AllowExternalFiles));
        }
        Ok(path)
    }

    /// Returns a resolver that does not borrow anything.
    pub(crate) fn for_later(&self) -> LaterResolver {
        LaterResolver {
            image: self.image.map(Path::to_owned),
            real: self.real.map(Path::to_owned),
            policy: self.policy,
            read_mode: self.read_mode,
        }
    }

    /// Returns the image's directory and, if its path is a symbolic link, the directory of its
    /// target.
    pub(crate) fn directories(&self) -> impl Iterator<Item = &'a Path> {
        [self.directory()].into_iter().chain(self.real_directory())
    }

    fn directory(&self) -> &'a Path {
        self.image.and_then(Path::parent).unwrap_or(Path::new(""))
    }

    fn real_directory(&self) -> Option<&'a Path> {
        let real = self.real.and_then(Path::parent)?;
        let other = canonical_directory(self.directory()).is_ok_and(|directory| directory != real);
        other.then_some(real)
    }

    /// Returns an error if the policy is [`ExternalFiles::None`].
    fn refuse_none(&self, role: &str, name: &str) -> Result<()> {
        match self.policy {
            ExternalFiles::None => Err(Error::refused(format!("it names the {role} '{name}'"))
                .with_remedy(Remedy::AllowFilesInSameDir)),
            _ => Ok(()),
        }
    }

    /// Returns the canonical directories that [`ExternalFiles::SameDir`] allows.
    fn allowed_directories(&self, role: &str, name: &str) -> Result<Vec<PathBuf>> {
        if self.image.is_none() {
            return Err(Error::refused(format!(
                "its {role} '{name}' cannot be located, because the image is not a file"
            ))
            .hint("open the image by its path")
            .with_remedy(Remedy::AllowExternalFiles));
        }
        let allowed = self.directories().map(canonical_directory).collect::<io::Result<_>>();
        allowed.map_err(|e| Error::io("cannot resolve its directory", e))
    }

    /// Returns true if `path` has the same prefix as the image's directory, which is on another
    /// computer itself (`\\server\share`), and names no device.
    fn is_on_same_volume(&self, path: &Path) -> bool {
        let mut parts = path.components();
        let Some(Component::Prefix(prefix)) = parts.next() else { return false };
        let prefix_of = |directory: &Path| match directory.components().next() {
            Some(Component::Prefix(own)) => Some(own == prefix),
            _ => None,
        };
        let has_prefix = |directory: &Path| prefix_of(directory) == Some(true);
        let below: PathBuf = parts.filter(|part| matches!(part, Component::Normal(_))).collect();
        self.directories().any(has_prefix) && !os::names_device_or_network(&below)
    }

    /// Returns true if `path` is in an allowed directory and, below that, has neither `..` nor
    /// symbolic links.
    fn is_plainly_inside(&self, path: &Path) -> bool {
        let is_inside = |directory: &Path| {
            let Ok(below) = path.strip_prefix(directory) else { return false };
            let mut at = directory.to_owned();
            below.components().all(|component| {
                at.push(component);
                matches!(component, Component::Normal(_) | Component::CurDir) && !at.is_symlink()
            })
        };
        self.directories().any(is_inside)
    }
}

impl LaterResolver {
    /// As [`Resolver::open_at`].
    ///
    /// # Errors
    /// As [`Resolver::open_at`].
    pub(crate) fn open_at(&self, role: &str, name: &str, path: &Path) -> Result<Arc<dyn Source>> {
        let resolver = Resolver::new(self.image.as_deref(), self.policy);
        let real = self.real.as_deref();
        Resolver { real, read_mode: self.read_mode, ..resolver }.open_at(role, name, path)
    }
}

/// Returns true if the paths denote the same file, which need not exist.
fn is_same(a: &Path, b: &Path) -> bool {
    let same = || Ok::<_, io::Error>(canonical(a)? == canonical(b)?);
    a.file_name() == b.file_name() && same().unwrap_or(false)
}

fn canonical_directory(directory: &Path) -> io::Result<PathBuf> {
    // The empty path is the directory of a bare file name.
    if directory.as_os_str().is_empty() { Path::new(".") } else { directory }.canonicalize()
}

/// Returns the canonical path of the file that was opened as [`Source::path`].
pub(crate) fn real_path(source: &dyn Source) -> Option<PathBuf> {
    let path = source.path()?;
    let opened = source.as_file().and_then(|(file, _)| os::real_path(file));
    opened.or_else(|| path.canonicalize().ok())
}

/// Returns the path in a name from an image or a command line: the name itself, or the part after
/// `file:`. Returns `None` for other protocols (`nbd:…`, `json:{…}`), which are denoted by a colon
/// before the first slash, as in QEMU.
pub fn plain_path(name: &str) -> Option<&Path> {
    if let Some(rest) = name.strip_prefix("file:") {
        // file:///dir/x, file:/dir/x and file:x. file://host/x is a file on another host.
        return match rest.strip_prefix("//") {
            Some(path) if path.starts_with('/') => Some(Path::new(after_root(path))),
            Some(_) => None,
            None if rest.is_empty() => None,
            None => Some(Path::new(after_root(rest))),
        };
    }
    let before_slash = name.split(std::path::is_separator).next().unwrap_or(name);
    let drive_letter = cfg!(windows) && is_drive(before_slash);
    if name.is_empty() || name.contains('\0') || (before_slash.contains(':') && !drive_letter) {
        return None;
    }
    Some(Path::new(name))
}

/// Returns true for `C:`.
fn is_drive(text: &str) -> bool {
    matches!(text.as_bytes(), [letter, b':'] if letter.is_ascii_alphabetic())
}

/// Returns the path after `file:` or `file://`: on Windows, `/C:/x` denotes `C:/x`.
fn after_root(path: &str) -> &str {
    match path.strip_prefix('/') {
        Some(rest) if cfg!(windows) && rest.get(..2).is_some_and(is_drive) => rest,
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(windows)]
    fn drives_are_paths_and_streams_of_files_are_not() {
        for (name, path) in [
            (r"C:\x\a", r"C:\x\a"),
            ("c:/x/a", "c:/x/a"),
            ("file:///C:/x/a", "C:/x/a"),
            ("file:C:/x/a", "C:/x/a"),
            (r"\\server\share\a", r"\\server\share\a"),
        ] {
            assert_eq!(plain_path(name), Some(Path::new(path)), "{name}");
        }
        for name in ["C:a", "a:b", "1:/x"] {
            assert_eq!(plain_path(name), None, "{name}");
        }
    }

    /// Opening them would send the user's credentials to another computer, or open a device.
    #[test]
    #[cfg(windows)]
    fn names_of_devices_and_of_other_computers_are_refused_before_they_are_opened() {
        let dir = tempfile::tempdir().expect("tempdir");
        let image = dir.path().join("top.qcow2");
        let own = Resolver::new(Some(&image), ExternalFiles::SameDir);
        let share = Resolver::new(Some(Path::new(r"\\nas\vm\top.qcow2")), ExternalFiles::SameDir);
        for name in [
            r"\\attacker\share\x",
            "//attacker/share/x",
            r"\\?\UNC\attacker\share\x",
            r"\??\UNC\attacker\share\x",
            r"\\.\PhysicalDrive0",
            r"\\.\pipe\x",
            "file://///attacker/share/x",
            "NUL",
            "sub/COM1.raw",
        ] {
            for resolver in [own, share] {
                // Below another directory, these are names on its drive or share, and the share of
                // this test does not exist.
                let is_below = name.starts_with(r"\??") || name.starts_with("file:");
                if is_below && resolver.image == share.image {
                    continue;
                }
                let error = resolver.open("backing file", name).expect_err("refused");
                assert_eq!(error.kind(), crate::ErrorKind::Refused, "{name}");
                let named = error.to_string().contains("on this computer");
                assert!(named || is_below, "{name}: {error}");
            }
        }
        // Names of VMDK extents have no protocols. A colon is that of a stream of a file.
        for name in [r"\\attacker\share\x", "NUL", "top.qcow2:x", r"sub\a:b:$DATA"] {
            let error = own.open_path("extent", name).expect_err("refused");
            assert_eq!(error.kind(), crate::ErrorKind::Refused, "{name}");
        }
        assert!(share.is_on_same_volume(Path::new(r"\\nas\vm\..\vm\base.raw")));
        assert!(!share.is_on_same_volume(Path::new(r"\\nas\vm\NUL")));
        assert!(!share.is_on_same_volume(Path::new(r"\\nas\other\base.raw")));
    }

    #[test]
    fn protocols_are_not_paths() {
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
    fn same_dir_resolves_symbolic_links_before_it_checks_the_directory() {
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

    /// All files are in subdirectories of an image's directory if that is the root directory.
    #[test]
    #[cfg(target_os = "linux")]
    fn same_dir_allows_no_devices_and_no_files_of_pseudo_file_systems() {
        let image = Path::new("/image.qcow2");
        let resolver = Resolver::new(Some(image), ExternalFiles::SameDir);
        for name in ["proc/self/status", "/proc/self/exe", "dev/zero", "proc", "sys/kernel", "."] {
            let error = match resolver.open("backing file", name) {
                Ok(source) => {
                    // The executable is a regular file, even if reached through /proc.
                    assert!(name.ends_with("exe"), "{name}: {source:?}");
                    continue;
                }
                Err(error) => error,
            };
            assert_eq!(error.kind(), crate::ErrorKind::Refused, "{name}: {error}");
        }
    }
}
