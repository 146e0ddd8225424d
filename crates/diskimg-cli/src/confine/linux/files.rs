//! Access to files, TCP and signals: landlock(7).

use crate::confine::Rules;
use crate::confine::rules::FileAccess;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    PathFdError, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::fs::FileType;
use std::error::Error;
use std::io;
use std::path::Path;

/// The newest Landlock ABI whose access rights are used (Linux 6.15). Older kernels apply the
/// subset that they support.
const NEWEST_ABI: ABI = ABI::V7;

/// Denies access to all other files, TCP, and signals to processes outside the sandbox.
pub(in crate::confine) fn restrict_files(rules: &Rules) -> Result<(), String> {
    let ruleset = ruleset(rules).map_err(|e| format!("Landlock: {e}"))?;
    match ruleset.restrict_self().map_err(|e| format!("Landlock: {e}"))?.ruleset {
        RulesetStatus::FullyEnforced => Ok(()),
        RulesetStatus::PartiallyEnforced => {
            Err("Landlock is only partly supported by this kernel (requires Linux 6.12)".into())
        }
        RulesetStatus::NotEnforced => {
            Err("Landlock is not supported by this kernel (requires Linux 6.12)".into())
        }
    }
}

/// Creates the rules.
///
/// # Errors
/// If a rule cannot be added. Without it, opening the file would fail with a misleading error.
fn ruleset(rules: &Rules) -> Result<RulesetCreated, Box<dyn Error>> {
    let mut ruleset = Ruleset::default()
        // The first Landlock version (Linux 5.13 to 5.18) denies links between directories, which
        // extraction needs; Landlock is not used there.
        .set_compatibility(CompatLevel::SoftRequirement)
        .handle_access(AccessFs::Refer)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST_ABI))?
        .handle_access(AccessNet::from_all(NEWEST_ABI))?
        .scope(Scope::from_all(NEWEST_ABI))?
        .create()?;
    for (path, access) in rules.iter() {
        allow(&mut ruleset, path, rights(access))?;
    }
    Ok(ruleset)
}

/// Returns Landlock's access rights. Executing programs, removing directories and ioctl(2) on devices
/// are never allowed.
fn rights(access: FileAccess) -> BitFlags<AccessFs> {
    let list: BitFlags<AccessFs> = AccessFs::ReadDir.into();
    let overwrite = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate;
    let replace = list | overwrite | AccessFs::MakeReg | AccessFs::RemoveFile;
    let extract = replace | AccessFs::MakeDir | AccessFs::MakeSym | AccessFs::Refer;
    match access {
        FileAccess::List => list,
        FileAccess::Read => list | AccessFs::ReadFile,
        FileAccess::Overwrite => overwrite,
        FileAccess::Replace => replace,
        FileAccess::Extract => extract,
        FileAccess::ExtractDevices => {
            let special = AccessFs::MakeFifo | AccessFs::MakeSock;
            extract | special | AccessFs::MakeChar | AccessFs::MakeBlock
        }
    }
}

/// Allows access to a file, or to a directory and everything below it. Files that do not exist or
/// are not accessible need no rule. Landlock does not apply to files outside a file system, such as
/// pipes.
fn allow(
    ruleset: &mut RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<(), Box<dyn Error>> {
    let file = match PathFd::new(path) {
        Ok(file) => file,
        Err(PathFdError::OpenCall { source, .. }) if is_inaccessible(&source) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let is_directory =
        FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) == FileType::Directory;
    let access = if is_directory { access } else { access & AccessFs::from_file(NEWEST_ABI) };
    let _ = ruleset.add_rule(PathBeneath::new(file, access));
    Ok(())
}

fn is_inaccessible(e: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(e.kind(), NotFound | NotADirectory | PermissionDenied)
}
