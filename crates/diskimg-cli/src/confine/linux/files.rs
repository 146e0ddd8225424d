//! Access to files, TCP and signals: landlock(7).

use crate::confine::rules::FileAccess;
use crate::confine::{Problem, Rules};
use diskimg::storage::output::reserved_output;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::fs::{FileType, Mode, OFlags, PROC_SUPER_MAGIC};
use rustix::io::retry_on_intr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// The newest Landlock ABI whose access rights are used (Linux 6.15). Older kernels apply the
/// subset that they support.
const NEWEST_ABI: ABI = ABI::V7;

/// Denies access to all other files, TCP, and signals to processes outside the sandbox.
pub(in crate::confine) fn restrict_files(rules: &Rules) -> Result<(), Problem> {
    let failed = |e: RulesetError| Problem::Unsupported(format!("Landlock: {e}"));
    let mut ruleset = ruleset(rules.allows_network()).map_err(failed)?;
    for (path, access) in rules.iter() {
        let is_output = matches!(access, FileAccess::Name | FileAccess::Replace);
        let opened = if access == FileAccess::Overwrite { open_output(path) } else { open(path) };
        let allowed = opened.and_then(|file| allow(&mut ruleset, &file, rights(access)));
        if let Err(e) = allowed
            && is_output
            && let Some((_, output)) = reserved_output()
        {
            let error = diskimg::Error::io("cannot open the directory", e).in_file(output);
            return Err(Problem::Output(error));
        }
    }
    let reason = match ruleset.restrict_self().map_err(failed)?.ruleset {
        RulesetStatus::FullyEnforced => return Ok(()),
        RulesetStatus::PartiallyEnforced => "only partly supported",
        RulesetStatus::NotEnforced => "not supported",
    };
    let reason = format!("Landlock is {reason} by this kernel (requires Linux 6.12)");
    Err(Problem::Unsupported(reason))
}

/// Creates a set of rules that allows nothing, except connections if `network`.
///
/// # Errors
/// If the kernel cannot create one.
fn ruleset(network: bool) -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        // The first Landlock version (Linux 5.13 to 5.18) denies links between directories, which
        // extraction needs; Landlock is not used there.
        .set_compatibility(CompatLevel::SoftRequirement)
        .handle_access(AccessFs::Refer)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST_ABI))?
        .handle_access(match network {
            true => AccessNet::BindTcp.into(),
            false => AccessNet::from_all(NEWEST_ABI),
        })?
        .scope(Scope::from_all(NEWEST_ABI))?
        .create()
}

/// Returns Landlock's access rights. Executing programs, removing directories and ioctl(2) on devices
/// are never allowed.
fn rights(access: FileAccess) -> BitFlags<AccessFs> {
    let list: BitFlags<AccessFs> = AccessFs::ReadDir.into();
    let overwrite = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate;
    let replace = list | overwrite | AccessFs::MakeReg | AccessFs::RemoveFile;
    let name = list | AccessFs::MakeReg | AccessFs::RemoveFile;
    let extract = replace | AccessFs::MakeDir | AccessFs::MakeSym | AccessFs::Refer;
    match access {
        FileAccess::List => list,
        FileAccess::Read => list | AccessFs::ReadFile,
        FileAccess::Overwrite => overwrite,
        FileAccess::Name => name,
        FileAccess::Remove => AccessFs::RemoveFile.into(),
        FileAccess::Replace => replace,
        FileAccess::Extract => extract,
        FileAccess::ExtractDevices => {
            let special = AccessFs::MakeFifo | AccessFs::MakeSock;
            extract | special | AccessFs::MakeChar | AccessFs::MakeBlock
        }
    }
}

/// Opens a file or directory, whose contents are not accessed.
fn open(path: &Path) -> io::Result<OwnedFd> {
    open_with(path, OFlags::empty())
}

fn open_with(path: &Path, more: OFlags) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | more;
    Ok(retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))?)
}

/// Opens a file that will be overwritten, whose path has no symbolic links. One that has appeared
/// meanwhile is not followed, except those of the system, which lead to open files.
fn open_output(path: &Path) -> io::Result<OwnedFd> {
    let file = open_with(path, OFlags::NOFOLLOW)?;
    let is_link = file_type(&file)? == FileType::Symlink;
    match is_link && rustix::fs::fstatfs(&file)?.f_type == PROC_SUPER_MAGIC {
        true => open(path),
        false => Ok(file),
    }
}

fn file_type(file: &OwnedFd) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode))
}

/// Allows access to a file, or to a directory and everything below it.
///
/// # Errors
/// If the file cannot be examined. It gets no rule then, so that access is denied: the others must
/// be restricted even if a file system that is mounted somewhere does not answer. Landlock does not
/// apply to files outside a file system, such as pipes.
fn allow(
    ruleset: &mut RulesetCreated,
    file: &OwnedFd,
    access: BitFlags<AccessFs>,
) -> io::Result<()> {
    let is_directory = file_type(file)? == FileType::Directory;
    let access = if is_directory { access } else { access & AccessFs::from_file(NEWEST_ABI) };
    ruleset.add_rule(PathBeneath::new(file, access)).map_err(io::Error::other)?;
    Ok(())
}
