//! Linux: landlock(7) for files, seccomp(2) for what else the kernel would do for us.

use super::Rules;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::fs::FileType;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter_all_threads};
use std::collections::BTreeMap;
use std::path::Path;

/// The newest whose rights we know the meaning of: Linux 6.15. An older kernel does what it can.
const KNOWN: ABI = ABI::V7;

/// System calls that nothing here makes: to run programs, to talk to others, to look into them,
/// to become another user, to change the system, or to get round the bounds of files.
const DENIED: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_personality,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    libc::SYS_vhangup,
];

/// Enters; an error says what could not be given up. What can be is, even so.
pub(super) fn enter(rules: &Rules) -> Result<(), String> {
    let files = bound_files(rules);
    let calls = deny_calls();
    match files {
        Ok(RulesetStatus::FullyEnforced) => {}
        Ok(RulesetStatus::PartiallyEnforced) => {
            return Err(
                "this kernel's Landlock knows only part of it (Linux 6.12 knows all)".into()
            );
        }
        Ok(RulesetStatus::NotEnforced) => return Err("this kernel has no Landlock".into()),
        Err(e) => return Err(format!("Landlock: {e}")),
    }
    calls
}

/// Leaves only these files, no TCP, and no signals to processes outside.
fn bound_files(rules: &Rules) -> Result<RulesetStatus, RulesetError> {
    let execute: BitFlags<AccessFs> = AccessFs::Execute.into();
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()?;
    for path in &rules.read {
        allow(&mut ruleset, path, AccessFs::from_read(KNOWN) & !execute);
    }
    for path in &rules.write {
        allow(&mut ruleset, path, AccessFs::from_all(KNOWN) & !execute);
    }
    Ok(ruleset.restrict_self()?.ruleset)
}

/// Allows this of a file, or of a directory and all below it. What does not exist cannot be
/// opened either; to what is no file of a file system (a pipe), Landlock does not apply.
fn allow(ruleset: &mut RulesetCreated, path: &Path, access: BitFlags<AccessFs>) {
    let Ok(file) = PathFd::new(path) else { return };
    let is_directory = rustix::fs::fstat(&file)
        .is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory);
    let access = if is_directory { access } else { access & AccessFs::from_file(KNOWN) };
    let _ = ruleset.add_rule(PathBeneath::new(file, access));
}

/// Has the kernel refuse the calls with EPERM, in all threads.
fn deny_calls() -> Result<(), String> {
    let said = |e: &dyn std::fmt::Display| format!("seccomp: {e}");
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|e| said(&e))?;
    let denied = DENIED.iter().copied().chain(x32());
    let filter = SeccompFilter::new(
        denied.map(|call| (call, Vec::new())).collect::<BTreeMap<_, _>>(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        arch,
    );
    let program: BpfProgram = filter.and_then(TryInto::try_into).map_err(|e| said(&e))?;
    apply_filter_all_threads(&program).map_err(|e| said(&e))
}

/// The same calls by their x32 numbers, which a kernel for x86-64 may know as well: the same
/// ones with this bit, but for a range that has all of those that differ.
#[cfg(target_arch = "x86_64")]
fn x32() -> impl Iterator<Item = libc::c_long> {
    const BIT: libc::c_long = 0x4000_0000;
    DENIED.iter().copied().chain(512..548).map(|call| call | BIT)
}

#[cfg(not(target_arch = "x86_64"))]
fn x32() -> impl Iterator<Item = libc::c_long> {
    std::iter::empty()
}
