//! The sandbox, which limits the damage if a crafted image takes over the process. At the start,
//! [`begin`] denies all system calls that the command does not need. Once a command has opened its
//! inputs, [`restrict_files`] denies access to all files that it does not need.
//!
//! The sandbox applies to the whole process and cannot be undone, so [`begin`] is called only in a
//! process of the command's own; without it, [`restrict_files`] does nothing. Landlock applies to
//! the calling thread and the threads that it creates later, so commands call [`restrict_files`]
//! before they start threads.

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
))]
mod linux;
#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
)))]
mod portable;
#[cfg(all(test, target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests;

use crate::failure::Failure;
use diskimg::Options;
use diskimg::open::local_path;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
))]
use linux as imp;
#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
)))]
use portable as imp;

/// `--sandbox`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Sandbox {
    /// Sandbox the process as far as the system supports it.
    #[default]
    On,
    /// No sandbox.
    Off,
    /// Fail unless the sandbox is fully supported.
    Require,
}

/// The sandbox of this process; unset if the process is shared with another program.
static SANDBOX: OnceLock<Sandbox> = OnceLock::new();

/// Sandboxes this process, which must be the command's own: irrevocably denies all system calls but
/// `calls` and those that every command makes.
///
/// # Errors
/// If the sandbox is required and not fully supported.
pub(crate) fn begin(sandbox: Sandbox, calls: &Calls) -> Result<(), Failure> {
    let mode = *SANDBOX.get_or_init(|| sandbox);
    confine(mode, || imp::restrict_calls(calls))
}

/// Irrevocably denies access to all files, except open files and those that `rules` allow.
///
/// # Errors
/// If the sandbox is required and not fully supported.
pub(crate) fn restrict_files(rules: &Rules) -> Result<(), Failure> {
    let mode = SANDBOX.get().copied().unwrap_or(Sandbox::Off);
    confine(mode, || imp::restrict_files(rules))
}

/// Runs a step of the sandbox, whose errors count only if the sandbox is required.
fn confine(mode: Sandbox, step: impl FnOnce() -> Result<(), String>) -> Result<(), Failure> {
    if mode == Sandbox::Off {
        return Ok(());
    }
    match step() {
        Err(reason) if mode == Sandbox::Require => {
            Err(Failure::error(format!("--sandbox=require: cannot sandbox this process: {reason}")))
        }
        _ => Ok(()),
    }
}

/// What a command does besides reading, which determines the system calls that it may make.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Calls {
    /// Open files to change their contents.
    pub(crate) modify: bool,
    /// Create, rename and remove files.
    pub(crate) create: bool,
    /// Give new files the owner and attributes of files that they replace.
    pub(crate) attributes: bool,
    /// Create unnamed temporary files.
    pub(crate) spool: bool,
    /// Extract files.
    pub(crate) extract: Option<Extract>,
}

/// What an extraction restores besides contents, permissions and times.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Extract {
    /// Owners and groups.
    pub(crate) owners: bool,
    /// Set-ID bits.
    pub(crate) special_modes: bool,
    /// Devices, named pipes and sockets.
    pub(crate) devices: bool,
}

impl Calls {
    /// Returns the calls of a command that only reads.
    pub(crate) fn read() -> Self {
        Self::default()
    }

    /// Returns the calls of a command that changes existing files.
    pub(crate) fn modify() -> Self {
        Self { modify: true, ..Self::default() }
    }

    /// Returns the calls of a command that creates `path` and files with similar names. Owners and
    /// attributes may be set if a file with such a name exists, which would be replaced.
    pub(crate) fn create(path: &Path) -> Self {
        Self { modify: true, create: true, attributes: may_replace(path), ..Self::default() }
    }

    /// Returns the calls of a command that extracts files.
    pub(crate) fn extract(extract: Extract) -> Self {
        Self { modify: true, extract: Some(extract), ..Self::default() }
    }

    /// Also allows unnamed temporary files.
    pub(crate) fn and_spool(self) -> Self {
        Self { spool: true, ..self }
    }
}

/// Returns false if there is neither a file at `path` nor one that could be a part of the same
/// image, such as `disk-s001.vmdk` of `disk.vmdk`.
fn may_replace(path: &Path) -> bool {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let Some(stem) = path.file_stem() else { return false };
    // If the names cannot be listed, any can exist.
    let Ok(entries) = parent(&path).read_dir() else { return true };
    let stem = stem.as_encoded_bytes();
    entries.flatten().any(|entry| entry.file_name().as_encoded_bytes().starts_with(stem))
}

/// The files that may still be opened, created or removed. Open files stay open.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// Files and directory trees that may be read.
    read: Vec<PathBuf>,
    /// Files and directory trees that may be read, written, created, renamed and removed.
    write: Vec<PathBuf>,
}

impl Rules {
    /// Allows nothing.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Also allows reading these files and directory trees.
    pub(crate) fn allow_read<P: Into<PathBuf>>(
        mut self,
        paths: impl IntoIterator<Item = P>,
    ) -> Self {
        self.read.extend(paths.into_iter().map(Into::into));
        self
    }

    /// Also allows reading all files.
    pub(crate) fn allow_read_all(self) -> Self {
        self.allow_read(["/"])
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

    /// Also allows temporary files.
    pub(crate) fn allow_temp_files(mut self) -> Self {
        self.write.push(std::env::temp_dir());
        self
    }

    /// Also allows writing `path`. For a regular file this is the directory, because the file is
    /// written under a temporary name and renamed when it is complete.
    pub(crate) fn allow_write(mut self, path: &Path) -> Self {
        /// Maximum number of symbolic links that are followed; see path_resolution(7).
        const MAX_LINKS: usize = 40;
        // A name such as `file:PATH`. If it is not one of a file, it will not be opened.
        let mut path = local_path(path).unwrap_or_else(|_| path.to_owned());
        if path.metadata().is_ok_and(|found| !found.is_file()) {
            self.write.push(path);
            return self;
        }
        for _ in 0..MAX_LINKS {
            let directory = parent(&path);
            let link = path.read_link().map(|target| directory.join(target));
            self.write.push(directory);
            match link {
                Ok(target) => path = target,
                Err(_) => break,
            }
        }
        self
    }

    /// Also allows writing below `directory`, which need not exist yet.
    pub(crate) fn allow_write_below(mut self, directory: &Path) -> Self {
        let mut existing = directory.to_owned();
        while !existing.exists() && existing.parent().is_some() {
            existing = parent(&existing);
        }
        self.write.push(existing);
        self
    }

    /// Also allows creating an image at `path` with these options, including writing its data file,
    /// and reading any file if there is a backing file, which may have backing files of its own.
    pub(crate) fn allow_create(self, path: &Path, options: &Options) -> Self {
        let mut rules = self.allow_write(path);
        if let Some(name) = options.get("data_file") {
            let resolved = parent(path).join(name);
            rules = rules.allow_write(Path::new(name)).allow_write(&resolved);
        }
        match options.get("backing_file") {
            None | Some("") => rules,
            Some(_) => rules.allow_read_all(),
        }
    }
}

/// Returns the directory of a path.
fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(directory) if directory != Path::new("") => directory.to_owned(),
        _ => ".".into(),
    }
}
