//! Linux: landlock(7) for files, seccomp(2) for what else the kernel would do for us.

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

/// The newest whose rights we know the parsed of: Linux 6.15. An older kernel does what it can.
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

/// Leaves only these files, no TCP, and no signals to processes outside.
pub(super) fn bound_files(rules: &Rules) -> Result<(), String> {
    let ruleset = ruleset(rules).map_err(|e| format!("Landlock: {e}"))?;
    match ruleset.restrict_self().map_err(|e| format!("Landlock: {e}"))?.ruleset {
        RulesetStatus::FullyEnforced => Ok(()),
        RulesetStatus::PartiallyEnforced => {
            Err("this kernel's Landlock knows only part of it (Linux 6.12 knows all)".into())
        }
        RulesetStatus::NotEnforced => {
            Err("this kernel has no Landlock, or its first (Linux 6.12 knows all)".into())
        }
    }
}

/// An error where a file cannot be allowed: whoever has it denied then would be told a wrong
/// reason why.
fn ruleset(rules: &Rules) -> Result<RulesetCreated, Box<dyn Error>> {
    let execute: BitFlags<AccessFs> = AccessFs::Execute.into();
    let mut ruleset = Ruleset::default()
        // The first Landlock (Linux 5.13 to 5.18) allows no link from one directory into
        // another, which extracting files makes: then rather none.
        .set_compatibility(CompatLevel::SoftRequirement)
        .handle_access(AccessFs::Refer)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()?;
    for path in &rules.read {
        allow(&mut ruleset, path, AccessFs::from_read(KNOWN) & !execute)?;
    }
    for path in &rules.write {
        allow(&mut ruleset, path, AccessFs::from_all(KNOWN) & !execute)?;
    }
    Ok(ruleset)
}

/// Allows this of a file, or of a directory and all below it. What does not exist or is out of
/// reach cannot be opened either; to what is no file of a file system (a pipe), Landlock does not
/// apply.
fn allow(
    ruleset: &mut RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<(), Box<dyn Error>> {
    let file = match PathFd::new(path) {
        Ok(file) => file,
        Err(PathFdError::OpenCall { source, .. }) if is_out_of_reach(&source) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let is_directory =
        FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) == FileType::Directory;
    let access = if is_directory { access } else { access & AccessFs::from_file(KNOWN) };
    let _ = ruleset.add_rule(PathBeneath::new(file, access));
    Ok(())
}

fn is_out_of_reach(e: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(e.kind(), NotFound | NotADirectory | PermissionDenied)
}

/// Has the kernel refuse the calls with EPERM, in all threads.
pub(super) fn deny_calls() -> Result<(), String> {
    let said = |e: &dyn std::fmt::Display| format!("seccomp: {e}");
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|e| said(&e))?;
    let filter = SeccompFilter::new(
        DENIED.iter().map(|call| (*call, Vec::new())).collect::<BTreeMap<_, _>>(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        arch,
    );
    let program: BpfProgram = filter.and_then(TryInto::try_into).map_err(|e| said(&e))?;
    let program = [deny_x32(), program].concat();
    apply_filter_all_threads(&program).map_err(|e| said(&e))
}

/// Instructions that deny a kernel for x86-64 all its x32 calls, which have numbers of their own
/// for what the others do: all that have this bit. Other architectures have none so large.
fn deny_x32() -> BpfProgram {
    const BIT: u32 = 0x4000_0000;
    /// Of the number in the `seccomp_data` that the kernel hands the filter.
    const NUMBER_OFFSET: u32 = 0;
    let instruction = |code: u32, k, jf| sock_filter { code: code as u16, jt: 0, jf, k };
    let eperm = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    vec![
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, NUMBER_OFFSET, 0),
        // A number below it passes over the next instruction.
        instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, BIT, 1),
        instruction(libc::BPF_RET | libc::BPF_K, eperm, 0),
    ]
}
