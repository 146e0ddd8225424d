//! The files that may be opened, created or removed.

use super::kinds::has_parts;
use crate::args::common::Input;
use diskimg::open::{directory_read_later, local_path};
use diskimg::storage::output::{Destination, output_destination, reserved_output};
use diskimg::{ExternalFiles, Options};
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};

/// What may be done with a file, or with a directory and everything below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileAccess {
    /// List directories.
    List,
    /// Read files and list directories.
    Read,
    /// Read and overwrite existing files.
    Overwrite,
    /// List directories, and give names to and remove files.
    Name,
    /// Remove files.
    #[cfg_attr(not(feature = "nbd"), expect(dead_code, reason = "only servers do"))]
    Remove,
    /// Also create, rename and remove regular files, and list directories.
    Replace,
    /// Also create directories and links.
    Extract,
    /// Also create devices, named pipes and sockets.
    ExtractDevices,
}

/// The files that may still be opened, created or removed. Open files stay open.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    files: Vec<(PathBuf, FileAccess)>,
    /// Whether servers may be connected to.
    network: bool,
}

/// Pseudo file systems at the root, which have no images: other processes and the kernel.
const PSEUDO: [&str; 2] = ["/proc", "/sys"];

impl Rules {
    /// Allows nothing.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Returns what is allowed.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Path, FileAccess)> {
        self.files.iter().map(|(path, access)| (path.as_path(), *access))
    }

    /// Returns the files that may be read or overwritten, among them directories.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        let can_open = |access| matches!(access, FileAccess::Read | FileAccess::Overwrite);
        self.iter().filter(move |(_, access)| can_open(*access)).map(|(path, _)| path)
    }

    fn allow(mut self, path: impl Into<PathBuf>, access: FileAccess) -> Self {
        self.files.push((path.into(), access));
        self
    }

    /// Also allows reading these files and directory trees.
    pub(crate) fn allow_read<P: Into<PathBuf>>(self, paths: impl IntoIterator<Item = P>) -> Self {
        paths.into_iter().fold(self, |rules, path| rules.allow(path, FileAccess::Read))
    }

    /// Also allows reading all files, except those of `/proc` and `/sys`.
    pub(crate) fn allow_read_all(self) -> Self {
        self.allow("/", FileAccess::List).allow_read(below(Path::new("/")))
    }

    /// Also allows reading the time zone, which happens when the first time is formatted.
    pub(crate) fn allow_time_zone(self) -> Self {
        let custom = std::env::var_os("TZDIR").map(PathBuf::from);
        self.allow_read(["/etc/localtime", "/etc/timezone", "/usr/share/zoneinfo"])
            .allow_read(custom)
    }

    /// Also allows reading the number of available processors, which cgroups(7) limit.
    pub(crate) fn allow_cpu_count(self) -> Self {
        self.allow_read(["/proc/self/cgroup", "/proc/self/mountinfo", "/sys/fs/cgroup"])
    }

    /// Returns true if servers may be connected to.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "there is no sandbox"))]
    pub(super) fn allows_network(&self) -> bool {
        self.network
    }

    /// Also allows connecting to servers, and reading the files that this needs.
    pub(crate) fn allow_servers(self, files: &[PathBuf]) -> Self {
        Self { network: true, ..self.allow_read(files) }
    }

    /// Also allows connecting to servers, if the image is behind one, and reading the files that this
    /// needs.
    fn allow_network(self, input: &Input) -> Self {
        match &input.network {
            Some(files) => self.allow_servers(files),
            None => self,
        }
    }

    /// Also allows reading an image and, if its policy lets images refer to files, those files.
    pub(crate) fn allow_input(self, input: &Input) -> Self {
        let (names, rules) = (input.file_names(), self.allow_read(&input.parents));
        names.iter().fold(rules, |rules, name| {
            rules.allow_read([name]).allow_references(name, input.external_files)
        })
    }

    /// Also allows reading what an open image reads of files that it opens later.
    pub(crate) fn allow_read_later(self, input: &Input) -> Self {
        let rules = self.allow_network(input);
        match input.external_files {
            ExternalFiles::None => rules,
            _ => {
                let local = |name: PathBuf| local_path(&name).unwrap_or(name);
                let names = input.file_names().into_iter().map(local);
                rules.allow_read(names.filter_map(|name| directory_read_later(&name)))
            }
        }
    }

    /// Also allows reading the files that the image at `path` may refer to.
    pub(crate) fn allow_references(self, path: &Path, policy: ExternalFiles) -> Self {
        match policy {
            ExternalFiles::Any => self.allow_read_all(),
            ExternalFiles::SameDir => self.allow_read(same_directory(path)),
            _ => self,
        }
    }

    /// Also allows reading and replacing a file, and therefore all files in its directory, unless
    /// devices or processes are below it.
    pub(crate) fn allow_replace(self, path: Option<&Path>) -> Self {
        match path.map(parent) {
            Some(directory) if !has_devices(&directory) => {
                self.allow(directory, FileAccess::Replace)
            }
            _ => self,
        }
    }

    /// Also allows overwriting the existing image at `path` and the files that it may consist of,
    /// and reading those that it may refer to.
    pub(crate) fn allow_modify(self, path: &Path, policy: ExternalFiles) -> Self {
        if output_destination(path).is_err() {
            return self; // It will not be opened.
        }
        let parts = match policy {
            ExternalFiles::Any => below(Path::new("/")),
            ExternalFiles::SameDir => same_directory(path),
            _ => Vec::new(),
        };
        let rules = self.allow_overwrite(path).allow_references(path, policy);
        parts.into_iter().fold(rules, |rules, part| rules.allow(part, FileAccess::Overwrite))
    }

    /// Also allows removing the files in the directory of `path`.
    #[cfg(feature = "nbd")]
    pub(crate) fn allow_remove(self, path: &Path) -> Self {
        self.allow(parent(path), FileAccess::Remove)
    }

    /// Also allows overwriting this file or device.
    pub(crate) fn allow_overwrite(self, path: &Path) -> Self {
        match output_destination(path) {
            Ok(found) => self.allow_existing(&found),
            Err(_) => self, // It will not be written.
        }
    }

    /// Also allows creating, renaming and removing files in the directory of the existing image at
    /// `path`.
    pub(crate) fn allow_parts(self, path: &Path) -> Self {
        match output_destination(path) {
            Ok(found) if found.open_file.is_none() => {
                self.allow(parent(&found.path), FileAccess::Replace)
            }
            _ => self, // No file is replaced.
        }
    }

    fn allow_existing(self, found: &Destination) -> Self {
        self.allow(found.open_file.as_ref().unwrap_or(&found.path), FileAccess::Overwrite)
    }

    /// Also allows writing `path`. For a regular file this is the directory, because the file is
    /// written under a temporary name and renamed when it is complete. (A rule for the file itself
    /// would keep its blocks allocated for some time after it was removed.) If devices or processes
    /// are below the directory, files can only be renamed and removed there, and not even that if
    /// the output has no temporary file, unless an image with these options has several files.
    pub(crate) fn allow_write(self, path: &Path, options: &Options) -> Self {
        // A name such as `file:PATH`. If it is not one of a file, it will not be opened.
        let named = local_path(path).unwrap_or_else(|_| path.to_owned());
        // If it cannot be found, it will not be written.
        let Ok(found) = output_destination(&named) else { return self };
        self.allow_destination(&found, options)
    }

    fn allow_destination(self, found: &Destination, options: &Options) -> Self {
        let is_other = |metadata: Metadata| !metadata.is_file();
        if found.open_file.is_some() || found.metadata().is_ok_and(is_other) {
            return self.allow_existing(found);
        }
        let directory = parent(&found.path);
        if has_parts(options) || !has_devices(&directory) {
            return self.allow(directory, FileAccess::Replace);
        }
        let rules = self.allow(&found.path, FileAccess::Overwrite);
        // Without a temporary file, an existing file is overwritten, or the output fails.
        match reserved_output() {
            Some((temporary, output)) if output == found.path => {
                rules.allow(directory, FileAccess::Name).allow(temporary, FileAccess::Overwrite)
            }
            _ => rules,
        }
    }

    /// Also allows extracting files into `directory`, or into the directory in which it will be
    /// created.
    pub(crate) fn allow_extract(self, directory: &Path, devices: bool) -> Self {
        let mut existing = directory.to_owned();
        while !existing.exists() && existing.parent().is_some() {
            existing = parent(&existing);
        }
        let existing = match output_destination(&existing) {
            Ok(found) => found.path,
            Err(_) => return self, // Nothing will be extracted.
        };
        self.allow(existing, if devices { FileAccess::ExtractDevices } else { FileAccess::Extract })
    }

    /// Also allows creating an image at `path` with these options, including writing its data file,
    /// and reading its backing file and the files that this may refer to.
    pub(crate) fn allow_create(
        self,
        path: &Path,
        options: &Options,
        policy: ExternalFiles,
    ) -> Self {
        let mut rules = self.allow_write(path, options);
        if let Some(name) = options.get("data_file") {
            let main = local_path(path).unwrap_or_else(|_| path.to_owned());
            let main = output_destination(&main).map_or(main, |found| found.path);
            rules = rules.allow_write(&parent(&main).join(name), options);
        }
        rules.allow_backing(path, options, policy)
    }

    /// Also allows reading the backing file of an image that is created at `path` with these
    /// options, and the files that this may refer to.
    pub(crate) fn allow_backing(
        self,
        path: &Path,
        options: &Options,
        policy: ExternalFiles,
    ) -> Self {
        match options.get("backing_file") {
            None | Some("") => self,
            Some(name) => {
                let name = local_path(Path::new(name)).unwrap_or_else(|_| name.into());
                let resolved = parent(path).join(name);
                self.allow_read([&resolved]).allow_references(&resolved, policy)
            }
        }
    }
}

/// Returns the directories in which the image at `path` may refer to files with `same-dir`.
fn same_directory(path: &Path) -> Vec<PathBuf> {
    let real = path.canonicalize().ok().map(|real| parent(&real));
    std::iter::once(parent(path)).chain(real).flat_map(|directory| below(&directory)).collect()
}

/// Returns a directory, or, instead of `/`, what is in it except `/proc` and `/sys`.
fn below(directory: &Path) -> Vec<PathBuf> {
    let is_root = directory.canonicalize().is_ok_and(|real| real == Path::new("/"));
    let Some(entries) = is_root.then(|| fs::read_dir("/").ok()).flatten() else {
        return vec![directory.to_owned()];
    };
    let paths = entries.flatten().map(|entry| entry.path());
    paths.filter(|path| PSEUDO.iter().all(|pseudo| path != Path::new(pseudo))).collect()
}

/// Returns the directory of a path.
pub(super) fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(directory) if directory != Path::new("") => directory.to_owned(),
        _ => ".".into(),
    }
}

/// Returns true if file systems with devices, processes or settings of the kernel are mounted in a
/// directory or below it. If that is not known, only `/` and `/dev` are such directories.
fn has_devices(directory: &Path) -> bool {
    const KINDS: [&str; 19] = [
        "binfmt_misc",
        "bpf",
        "cgroup",
        "cgroup2",
        "configfs",
        "debugfs",
        "devpts",
        "devtmpfs",
        "efivarfs",
        "fusectl",
        "mqueue",
        "nsfs",
        "proc",
        "pstore",
        "resctrl",
        "securityfs",
        "selinuxfs",
        "sysfs",
        "tracefs",
    ];
    let Ok(directory) = directory.canonicalize() else { return false };
    let is_special = |mount: &Mount| {
        mount.point.starts_with(&directory)
            && (KINDS.contains(&mount.kind.as_str())
                || mount.point.ends_with("dev")
                || mount.kind == "tmpfs" && lists_devices(&mount.point))
    };
    ["/", "/dev"].iter().any(|special| directory == Path::new(special))
        || mounts().iter().any(is_special)
}

/// Returns true if device nodes are in a directory, such as the `/dev` of a container.
#[cfg(unix)]
fn lists_devices(directory: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    let kinds = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut kinds = kinds.filter_map(|entry| entry.file_type().ok());
    kinds.any(|kind| kind.is_block_device() || kind.is_char_device())
}

#[cfg(not(unix))]
fn lists_devices(_directory: &Path) -> bool {
    false
}

/// A mounted file system.
struct Mount {
    point: PathBuf,
    kind: String,
}

/// Returns what is mounted; nothing if the system does not tell.
fn mounts() -> Vec<Mount> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter_map(parse_mount).collect()
}

/// Parses a line of `/proc/PID/mountinfo`; see proc(5).
fn parse_mount(line: &str) -> Option<Mount> {
    let (mount, source) = line.split_once(" - ")?;
    let point = mount.split(' ').nth(4)?;
    // Blanks and newlines are escaped in octal.
    let escapes = [("\\011", "\t"), ("\\012", "\n"), ("\\040", " "), ("\\134", "\\")];
    let point = escapes.iter().fold(point.to_owned(), |at, (code, text)| at.replace(code, text));
    Some(Mount { point: point.into(), kind: source.split(' ').next()?.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_directory_with_devices_below_it_is_found() {
        let own = tempfile::tempdir().expect("makes a directory");
        assert!(has_devices(Path::new("/")));
        assert!(!has_devices(own.path()));
        assert!(!lists_devices(own.path()));
        assert!(!cfg!(unix) || lists_devices(Path::new("/dev")));
    }

    #[test]
    fn mounts_are_parsed() {
        let line = r"27 20 0:24 / /a\040b/proc rw,nosuid shared:7 - proc none rw";
        let mount = parse_mount(line).expect("parses");
        assert_eq!((mount.point.as_path(), &*mount.kind), (Path::new("/a b/proc"), "proc"));
        let line = r"27 20 0:24 / /a\011b\012c rw - cgroup2 none rw";
        assert_eq!(parse_mount(line).expect("parses").point, Path::new("/a\tb\nc"));
        assert!(parse_mount("27 20 0:24").is_none());
    }
}
