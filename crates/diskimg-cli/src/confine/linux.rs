//! The sandbox on Linux: landlock(7) for files, seccomp(2) for system calls.

use super::Rules;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    PathFdError, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::fs::FileType;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter_all_threads, sock_filter,
};
use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::path::Path;

/// The newest Landlock ABI whose access rights are used (Linux 6.15). Older kernels apply the
/// subset that they support.
const NEWEST_ABI: ABI = ABI::V7;

/// System calls that no command makes: to run programs, use sockets, inspect other processes,
/// change users, change the system, or bypass the restrictions on files.
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

/// Denies access to all other files, TCP, and signals to processes outside the sandbox.
pub(super) fn restrict_files(rules: &Rules) -> Result<(), String> {
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
    let execute: BitFlags<AccessFs> = AccessFs::Execute.into();
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
    for path in &rules.read {
        allow(&mut ruleset, path, AccessFs::from_read(NEWEST_ABI) & !execute)?;
    }
    for path in &rules.write {
        allow(&mut ruleset, path, AccessFs::from_all(NEWEST_ABI) & !execute)?;
    }
    Ok(ruleset)
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

/// Makes the system calls in [`DENIED`] fail with EPERM in all threads.
pub(super) fn deny_syscalls() -> Result<(), String> {
    let failed = |e: &dyn std::fmt::Display| format!("seccomp: {e}");
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|e| failed(&e))?;
    let filter = SeccompFilter::new(
        DENIED.iter().map(|call| (*call, Vec::new())).collect::<BTreeMap<_, _>>(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        arch,
    );
    let program: BpfProgram = filter.and_then(TryInto::try_into).map_err(|e| failed(&e))?;
    let program = [deny_x32(), program].concat();
    apply_filter_all_threads(&program).map_err(|e| failed(&e))
}

/// Returns instructions that deny all x32 system calls, which duplicate those of x86-64 under other
/// numbers. All of them have this bit; no other architecture has such large numbers.
fn deny_x32() -> BpfProgram {
    const X32_BIT: u32 = 0x4000_0000;
    /// Offset of `nr` in `struct seccomp_data`.
    const NUMBER_OFFSET: u32 = 0;
    let instruction = |code: u32, k, jf| sock_filter { code: code as u16, jt: 0, jf, k };
    let eperm = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    vec![
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, NUMBER_OFFSET, 0),
        // Smaller numbers skip the next instruction.
        instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, X32_BIT, 1),
        instruction(libc::BPF_RET | libc::BPF_K, eperm, 0),
    ]
}
