//! The sandbox, which limits the damage if a crafted image takes over the process.
//!
//! ```text
//!   begin            before inputs are opened: system calls; the output's temporary file is created
//!   open             while the inputs are opened: files that they may consist of, and the output's
//!                    directory
//!   restrict_files   afterwards: the output's directory, and the bands of a sparse bundle
//! ```
//!
//! No byte of an image is parsed before `begin` and the first restriction of files.
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

mod embedded;
#[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "there is no sandbox"))]
mod kinds;
mod rules;

pub use embedded::Confinement;
pub(crate) use kinds::{Calls, Extract};
pub(crate) use rules::Rules;

use crate::args::common::Input;
use crate::failure::Failure;
use crate::interrupt;
use diskimg::open::local_path;
use diskimg::storage::locking::note_lock_holders;
use diskimg::storage::output::{release_output, reserve_output};
use diskimg::storage::source::{note_block_devices, reserve_temporary_files};
use std::fmt::{self, Display, Formatter};
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
    if mode != Sandbox::Off {
        if calls.output.is_some() {
            interrupt::clean_up_until_watched();
        }
        reserve(calls);
    }
    confine(mode, || imp::restrict_calls(calls))
}

/// Creates the temporary files that a sandboxed process cannot create, or not with all attributes,
/// and reads what it could not read in `/proc` and `/sys`.
fn reserve(calls: &Calls) {
    if calls.modify || calls.stdout {
        note_block_devices();
    }
    if calls.spool {
        reserve_temporary_files();
    }
    if let Some(path) = &calls.output {
        let path = local_path(path).unwrap_or_else(|_| path.clone());
        note_lock_holders([&path]);
        reserve_output(&path);
    }
}

/// Removes what [`begin`] has created and the command has not used.
pub(crate) fn end() {
    release_output();
}

/// Calls `open`, which opens `inputs` and the files that they refer to. Until it returns, those may
/// be read in addition to what `rules` allow; afterwards, the files that an input opens later.
///
/// # Errors
/// The error of `open`, or if the sandbox is required and not fully supported.
pub(crate) fn open<T>(
    rules: &Rules,
    inputs: &[&Input],
    open: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let allow_later = |rules: Rules, input: &&Input| rules.allow_read_later(input);
    let later = inputs.iter().fold(rules.clone(), allow_later);
    restrict_files(&inputs.iter().fold(later.clone(), |rules, input| rules.allow_input(input)))?;
    let opened = open()?;
    restrict_files(&later)?;
    Ok(opened)
}

/// Irrevocably denies access to all files, except open files and those that `rules` allow.
///
/// # Errors
/// If the sandbox is required and not fully supported.
pub(crate) fn restrict_files(rules: &Rules) -> Result<(), Failure> {
    let mode = SANDBOX.get().copied().unwrap_or(Sandbox::Off);
    if mode != Sandbox::Off {
        note_lock_holders(rules.files());
    }
    confine(mode, || imp::restrict_files(rules))
}

/// Why a step of the sandbox is incomplete.
#[derive(Debug)]
#[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "there is no sandbox"))]
enum Problem {
    /// The system does not support all of it.
    Unsupported(String),
    /// Access to the output's directory cannot be allowed: the temporary file, which exists already,
    /// could be neither renamed nor removed.
    Output(diskimg::Error),
}

impl Display for Problem {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported(reason) => f.write_str(reason),
            Self::Output(error) => error.fmt(f),
        }
    }
}

/// Runs a step of the sandbox. What is not supported is an error only if the sandbox is required.
fn confine(mode: Sandbox, step: impl FnOnce() -> Result<(), Problem>) -> Result<(), Failure> {
    if mode == Sandbox::Off {
        return Ok(());
    }
    match step() {
        Err(Problem::Unsupported(reason)) if mode == Sandbox::Require => {
            Err(Failure::error(format!("--sandbox=require: cannot sandbox this process: {reason}")))
        }
        Err(Problem::Output(error)) => Err(error.into()),
        _ => Ok(()),
    }
}
