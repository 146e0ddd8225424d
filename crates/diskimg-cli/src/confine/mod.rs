//! Confinement: what the process gives up, so that whoever takes it over by a crafted
//! image has little use of it. At once what no verb ever does ([`begin`]); when a verb has its
//! files open, all others ([`bound_files`]).
//!
//! It is of the process and cannot be undone: only a process that is the command's own
//! begins; elsewhere [`bound_files`] does nothing. Landlock holds for this thread and those
//! made from then on, so verbs bound their files before they make any.

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
))]
#[path = "linux.rs"]
mod imp;
#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
)))]
#[path = "portable.rs"]
mod imp;
#[cfg(all(test, target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests;

use crate::failure::Failure;
use diskimg::Options;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// `--sandbox`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Sandbox {
    /// As far as the system can.
    #[default]
    On,
    /// Not at all.
    Off,
    /// Wholly, or fail.
    Require,
}

/// Set where this process is ours to confine.
static WANTED: OnceLock<Sandbox> = OnceLock::new();

/// Says that this process is the command's own, and gives up for good what no verb ever does:
/// to run programs, to open sockets and the like.
///
/// # Errors
/// If that was required and could not be given up.
pub(crate) fn begin(sandbox: Sandbox) -> Result<(), Failure> {
    let wanted = *WANTED.get_or_init(|| sandbox);
    confine(wanted, imp::deny_calls)
}

/// Gives up for good all files that `rules` do not keep and that are not open.
///
/// # Errors
/// If that was required and not all of them could be given up.
pub(crate) fn bound_files(rules: &Rules) -> Result<(), Failure> {
    let wanted = WANTED.get().copied().unwrap_or(Sandbox::Off);
    confine(wanted, || imp::bound_files(rules))
}

/// A step of it: an error says what could not be given up. What can be is, even so.
fn confine(wanted: Sandbox, step: impl FnOnce() -> Result<(), String>) -> Result<(), Failure> {
    if wanted == Sandbox::Off {
        return Ok(());
    }
    match step() {
        Err(missing) if wanted == Sandbox::Require => Err(Failure::error(format!(
            "--sandbox=require: cannot confine this process: {missing}"
        ))),
        _ => Ok(()),
    }
}

/// What of the file system may still be opened, made or removed. What is open stays so.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// Files, and directories with all below them, to read.
    read: Vec<PathBuf>,
    /// The same, to read, write, make, rename and remove.
    write: Vec<PathBuf>,
}

impl Rules {
    /// Nothing at all.
    pub(crate) fn nothing() -> Self {
        Self::default()
    }

    /// And reading these, with all below them.
    pub(crate) fn reading<P: Into<PathBuf>>(mut self, paths: impl IntoIterator<Item = P>) -> Self {
        self.read.extend(paths.into_iter().map(Into::into));
        self
    }

    /// And reading everything.
    pub(crate) fn reading_all(self) -> Self {
        self.reading(["/"])
    }

    /// And the time zone, which is looked up when the first time is shown.
    pub(crate) fn telling_time(self) -> Self {
        let own = std::env::var_os("TZDIR").map(PathBuf::from);
        self.reading(["/etc/localtime", "/etc/timezone", "/usr/share/zoneinfo"]).reading(own)
    }

    /// And how many processors this process may use: cgroups(7) bound them.
    pub(crate) fn counting_processors(self) -> Self {
        self.reading(["/proc/self/cgroup", "/proc/self/mountinfo", "/sys/fs/cgroup"])
    }

    /// And temporary files.
    pub(crate) fn spooling(mut self) -> Self {
        self.write.push(std::env::temp_dir());
        self
    }

    /// And writing what is called `path`: a device itself; of a file the directory, for there
    /// it appears under another name and is renamed when it is complete.
    pub(crate) fn writing(mut self, path: &Path) -> Self {
        /// path_resolution(7): no more symbolic links than this are followed.
        const LINKS: usize = 40;
        if path.metadata().is_ok_and(|found| !found.is_file()) {
            self.write.push(path.to_owned());
            return self;
        }
        let mut path = path.to_owned();
        for _ in 0..LINKS {
            let directory = parent(&path);
            let link = path.read_link().map(|to| directory.join(to));
            self.write.push(directory);
            match link {
                Ok(to) => path = to,
                Err(_) => break,
            }
        }
        self
    }

    /// And writing below `directory`, which need not exist yet.
    pub(crate) fn filling(mut self, directory: &Path) -> Self {
        let mut existing = directory.to_owned();
        while !existing.exists() && existing.parent().is_some() {
            existing = parent(&existing);
        }
        self.write.push(existing);
        self
    }

    /// And a new image at `path` with these options, which name other files: one that it
    /// builds on may build on any other, one that its data go to is written.
    pub(crate) fn making(self, path: &Path, options: &Options) -> Self {
        let mut rules = self.writing(path);
        if let Some(name) = options.get("data_file") {
            let beside = parent(path).join(name);
            rules = rules.writing(Path::new(name)).writing(&beside);
        }
        match options.get("backing_file") {
            None | Some("") => rules,
            Some(_) => rules.reading_all(),
        }
    }
}

/// The directory that a path is in.
fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(directory) if directory != Path::new("") => directory.to_owned(),
        _ => ".".into(),
    }
}
