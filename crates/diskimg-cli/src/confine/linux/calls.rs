//! The system calls that remain: seccomp(2).
//!
//! The filter is a list of what is allowed. What is not listed fails by number:
//!
//! | number | result |
//! |---|---|
//! | below 424 | EPERM |
//! | from 424 (calls since Linux 5.1, whose numbers are the same on all architectures) | ENOSYS, as from an older kernel: all runtimes then use an older call |
//! | of another architecture, such as the 32-bit and x32 calls of x86-64 | the process is killed |
//!
//! To find a call that is missing here, let the filter kill the process instead
//! (`SeccompAction::KillProcess`) and run the tests: the kernel's log has the number.
//!
//! Only numbers and integer arguments can be filtered. What a path or a file descriptor denotes is
//! restricted by Landlock and by permissions.

use crate::confine::{Calls, Problem};
use libc::{c_long, c_ulong};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter_all_threads, sock_filter,
};
use std::collections::BTreeMap;
use std::fmt::Display;

/// The first call whose number is the same on all architectures (pidfd_send_signal). Later ones
/// fail with ENOSYS if they are not allowed.
const FIRST_COMMON: u32 = 424;

/// Calls that the runtimes (glibc, musl, Rust's standard library) and all commands make, with any
/// arguments: memory, threads, clocks, signal handlers of this process, and open files.
const ALWAYS: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_faccessat,
    libc::SYS_fadvise64,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_futex,
    libc::SYS_getcpu,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_restrict_self,
    libc::SYS_lseek,
    libc::SYS_membarrier,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    // For the stack of a new thread. It reads the affinity of any process and changes nothing.
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sigaltstack,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Calls of `ALWAYS` under numbers that not all architectures have.
#[cfg(target_arch = "x86_64")]
const ALWAYS_HERE: &[c_long] = &[
    libc::SYS_access,
    libc::SYS_dup2,
    libc::SYS_getdents,
    libc::SYS_lstat,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_stat,
    libc::SYS_time,
];
#[cfg(target_arch = "aarch64")]
const ALWAYS_HERE: &[c_long] = &[];
/// riscv_hwprobe(2), by which the standard library detects instructions.
#[cfg(target_arch = "riscv64")]
const ALWAYS_HERE: &[c_long] = &[258];

/// Calls that change the contents of open files.
const MODIFY: &[c_long] = &[
    libc::SYS_copy_file_range,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
];
/// sync_file_range(2), which libc does not define for all of these.
#[cfg(target_arch = "x86_64")]
const MODIFY_HERE: &[c_long] = &[libc::SYS_sync_file_range];
#[cfg(not(target_arch = "x86_64"))]
const MODIFY_HERE: &[c_long] = &[84];

/// Calls that connect to servers and resolve their names. The sockets are those of TCP and UDP; none
/// can listen.
const NETWORK: &[c_long] = &[
    // musl's resolver binds its socket to any port.
    #[cfg(target_env = "musl")]
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_ppoll,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
];

/// Calls by which the library of a cluster waits for events. They concern only descriptors of this
/// process.
const EVENTS: &[c_long] = &[
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_getpid,
    libc::SYS_pipe2,
];
#[cfg(target_arch = "x86_64")]
const EVENTS_HERE: &[c_long] = &[libc::SYS_epoll_create, libc::SYS_epoll_wait, libc::SYS_pipe];
#[cfg(not(target_arch = "x86_64"))]
const EVENTS_HERE: &[c_long] = &[];

/// Calls that accept connections on a socket that listens already, and use them.
const SERVE: &[c_long] = &[
    libc::SYS_accept4,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
];

/// Calls that give names to new files and remove files. The capabilities of this process tell
/// whether it may replace files of others.
const CREATE: &[c_long] =
    &[libc::SYS_capget, libc::SYS_fgetxattr, libc::SYS_flistxattr, libc::SYS_linkat];
#[cfg(target_arch = "x86_64")]
const CREATE_HERE: &[c_long] =
    &[libc::SYS_link, libc::SYS_rename, libc::SYS_renameat, libc::SYS_unlink];
/// renameat(2), which libc does not define.
#[cfg(target_arch = "aarch64")]
const CREATE_HERE: &[c_long] = &[38];
#[cfg(target_arch = "riscv64")]
const CREATE_HERE: &[c_long] = &[];

/// Calls that set the owner and attributes of an open file. What is opened for reading only can be
/// changed, too, and Landlock does not apply, so that few commands may make them.
const ATTRIBUTES: &[c_long] = &[libc::SYS_fchown, libc::SYS_fremovexattr, libc::SYS_fsetxattr];

/// Calls that extract files. Times are set by name, because a symbolic link cannot be opened.
const EXTRACT: &[c_long] = &[libc::SYS_linkat, libc::SYS_symlinkat, libc::SYS_utimensat];

/// Requests of ioctl(2) about a terminal: whether it is one, and its size. Recent versions of glibc
/// use `TCGETS2`.
const TERMINAL: &[c_ulong] =
    &[libc::TCGETS as c_ulong, libc::TIOCGWINSZ as c_ulong, /* TCGETS2 */ 0x802c_542a];

/// Requests of ioctl(2) that return the flags of a file, the size of its extents, and which of them
/// other files share.
const GET_FLAGS: &[c_ulong] = &[
    /* FS_IOC_FIEMAP */ 0xc020_660b,
    /* FS_IOC_GETFLAGS */ 0x8008_6601,
    /* FS_IOC_FSGETXATTR */ 0x801c_581f,
];

/// Requests of ioctl(2) that set "no copy on write" and the size of extents, and also other flags.
const SET_FLAGS: &[c_ulong] =
    &[/* FS_IOC_SETFLAGS */ 0x4008_6602, /* FS_IOC_FSSETXATTR */ 0x401c_5820];

/// `FICLONERANGE` of ioctl(2): a reflink.
const CLONE_RANGE: c_ulong = 0x4020_940d;

/// Commands of fcntl(2): on descriptors, flags and "open file description" locks. Not allowed are
/// those that send signals (`F_SETOWN`, `O_ASYNC`) or delay other processes (`F_SETLEASE`).
const FCNTL: &[libc::c_int] = &[
    libc::F_DUPFD,
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_GETFL,
    libc::F_OFD_GETLK,
    libc::F_OFD_SETLK,
    libc::F_SETFD,
];

/// `prctl` operations: names of threads and of memory, and that no privileges can be gained.
const PRCTL: &[libc::c_int] = &[libc::PR_SET_NAME, libc::PR_SET_VMA, libc::PR_SET_NO_NEW_PRIVS];

/// The bits of a mode that are never set, unless an extraction restores them.
const SET_ID: u64 = 0o6000;

/// The bit that distinguishes `O_TMPFILE` from `O_DIRECTORY`.
const TMPFILE_BIT: u64 = (libc::O_TMPFILE & !libc::O_DIRECTORY) as u64;

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// Makes all system calls that `calls` does not allow fail in all threads.
pub(in crate::confine) fn restrict_calls(calls: &Calls) -> Result<(), Problem> {
    let failed = |e: &dyn Display| Problem::Unsupported(format!("seccomp: {e}"));
    let program = program(calls).map_err(|e| failed(&e))?;
    apply_filter_all_threads(&program).map_err(|e| failed(&e))
}

fn program(calls: &Calls) -> Result<BpfProgram, BackendError> {
    let filter = SeccompFilter::new(
        rules(calls)?,
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
        TargetArch::try_from(std::env::consts::ARCH)?,
    )?;
    let program: BpfProgram = filter.try_into()?;
    Ok([by_number(), program].concat())
}

/// Returns instructions that kill the process for an x32 call, and return ENOSYS for a call that is
/// newer than [`FIRST_COMMON`] and not allowed. Other calls reach the instructions that follow.
fn by_number() -> BpfProgram {
    /// All x32 calls have this bit. They duplicate those of x86-64 under other numbers.
    const X32_BIT: u32 = 0x4000_0000;
    /// Offset of `nr` in `struct seccomp_data`.
    const NUMBER_OFFSET: u32 = 0;
    let is_new = |&&call: &&c_long| call >= c_long::from(FIRST_COMMON);
    let allowed: Vec<u32> = ALWAYS.iter().filter(is_new).map(|&call| call as u32).collect();
    let instruction = |code: u32, k, jt, jf| sock_filter { code: code as u16, jt, jf, k };
    let jump = |operator, k, jt, jf| instruction(libc::BPF_JMP | operator | libc::BPF_K, k, jt, jf);
    let end = |result| instruction(libc::BPF_RET | libc::BPF_K, result, 0, 0);
    let mut program = vec![
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, NUMBER_OFFSET, 0, 0),
        // Without this bit, skips the next two instructions. A number with the highest bit is none
        // of x32: a tracer sets -1 to skip a call.
        jump(libc::BPF_JSET, X32_BIT, 0, 2),
        jump(libc::BPF_JGE, 1 << 31, 1, 0),
        end(libc::SECCOMP_RET_KILL_PROCESS),
    ];
    // Jumps are relative to the next instruction. After the comparisons with what is allowed, there
    // is one more instruction to skip.
    let mut left = allowed.len() as u8;
    program.push(jump(libc::BPF_JGE, FIRST_COMMON, 0, left + 1));
    for call in allowed {
        program.push(jump(libc::BPF_JEQ, call, left, 0));
        left -= 1;
    }
    program.push(end(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32));
    program
}

/// Returns the allowed calls. Those without rules are allowed with any arguments, the others if one
/// of their rules applies.
fn rules(calls: &Calls) -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    allow(&mut rules, &[ALWAYS, ALWAYS_HERE]);
    restrict_runtime(&mut rules)?;
    if calls.modify {
        allow(&mut rules, &[MODIFY, MODIFY_HERE]);
    }
    if calls.network || calls.unix_sockets {
        allow(&mut rules, &[NETWORK]);
        rules.insert(libc::SYS_socket, sockets(calls)?);
    }
    if calls.clusters {
        allow(&mut rules, &[EVENTS, EVENTS_HERE]);
    }
    if calls.create {
        allow(&mut rules, &[CREATE, CREATE_HERE]);
        // Not RENAME_WHITEOUT, which creates a device node.
        let flags = [0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE];
        rules.insert(libc::SYS_renameat2, any(4, flags.map(c_ulong::from))?);
    }
    if calls.spool {
        allow(&mut rules, &[&[libc::SYS_fallocate, libc::SYS_ftruncate]]);
    }
    if calls.attributes {
        allow(&mut rules, &[ATTRIBUTES]);
    }
    let extract = calls.extract;
    if calls.serve {
        allow(&mut rules, &[SERVE]);
        #[cfg(target_arch = "x86_64")]
        allow(&mut rules, &[&[libc::SYS_unlink]]);
    }
    if calls.create || calls.serve || extract.is_some() {
        // Without AT_REMOVEDIR.
        rules.insert(libc::SYS_unlinkat, vec![all([is(2, 0)])?]);
    }
    if calls.attributes || extract.is_some() {
        rules.insert(libc::SYS_fchmod, vec![all([bits(1, SET_ID, 0)])?]);
    }
    if let Some(extract) = extract {
        allow(&mut rules, &[EXTRACT]);
        rules.insert(libc::SYS_mkdirat, vec![all([bits(2, SET_ID, 0)])?]);
        #[cfg(target_arch = "x86_64")]
        rules.insert(libc::SYS_mkdir, vec![all([bits(1, SET_ID, 0)])?]);
        if extract.devices {
            rules.insert(libc::SYS_mknodat, vec![all([bits(2, SET_ID, 0)])?]);
            rules.insert(libc::SYS_fchmodat, vec![all([bits(2, SET_ID, 0)])?]);
        }
        if extract.owners {
            allow(&mut rules, &[&[libc::SYS_fchown, libc::SYS_fchownat]]);
        }
        if extract.special_modes {
            allow(&mut rules, &[&[libc::SYS_fchmod]]);
            if extract.devices {
                allow(&mut rules, &[&[libc::SYS_fchmodat]]);
            }
        }
    }
    rules.insert(libc::SYS_openat, open(calls, 2)?);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, open(calls, 1)?);
    let mut requests = TERMINAL.to_vec();
    if calls.serve {
        requests.push(libc::FIONBIO as c_ulong);
    }
    if calls.network {
        // Resolvers ask how much can be read; connections with a timeout do not block.
        requests.extend([libc::FIONREAD, libc::FIONBIO].map(|request| request as c_ulong));
    }
    if calls.modify || calls.create {
        requests.extend([GET_FLAGS, &[CLONE_RANGE]].concat());
    }
    if calls.flags {
        requests.extend(SET_FLAGS);
    }
    rules.insert(libc::SYS_ioctl, any(1, requests)?);
    Ok(rules)
}

fn allow(rules: &mut Rules, calls: &[&[c_long]]) {
    rules.extend(calls.iter().flat_map(|list| list.iter()).map(|&call| (call, Vec::new())));
}

/// Returns the rules for socket(2): TCP and UDP, or streams to processes of this host, or both.
fn sockets(calls: &Calls) -> Result<Vec<SeccompRule>, BackendError> {
    // Without SOCK_CLOEXEC and SOCK_NONBLOCK.
    let kinds = [(libc::SOCK_STREAM, libc::IPPROTO_TCP), (libc::SOCK_DGRAM, libc::IPPROTO_UDP)];
    let mut rules = Vec::new();
    if calls.unix_sockets {
        let kind = bits(1, 0xf, libc::SOCK_STREAM as u64);
        rules.push(all([is(0, libc::AF_UNIX as u64), kind, is(2, 0)])?);
    }
    let families: &[_] = if calls.network { &[libc::AF_INET, libc::AF_INET6] } else { &[] };
    for &family in families {
        for (kind, protocol) in kinds {
            for protocol in [0, protocol] {
                let kind = bits(1, 0xf, kind as u64);
                rules.push(all([is(0, family as u64), kind, is(2, protocol as u64)])?);
            }
        }
    }
    Ok(rules)
}

/// Adds calls that all commands make, with restricted arguments.
fn restrict_runtime(rules: &mut Rules) -> Result<(), BackendError> {
    const NAMESPACES: c_ulong = (libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWUTS) as u32 as c_ulong;
    const THREAD: c_ulong = libc::CLONE_THREAD as c_ulong;
    let this_process = u64::from(std::process::id());
    rules.insert(libc::SYS_clone, vec![all([bits(0, NAMESPACES | THREAD, THREAD)])?]);
    // Everything that runs was loaded before.
    let not_executable = all([bits(2, libc::PROT_EXEC as u64, 0)])?;
    rules.insert(libc::SYS_mmap, vec![not_executable.clone()]);
    rules.insert(libc::SYS_mprotect, vec![not_executable]);
    // Not MADV_HWPOISON and MADV_SOFT_OFFLINE, which concern the memory of the machine.
    rules.insert(libc::SYS_madvise, vec![all([not(2, 100), not(2, 101)])?]);
    let mut fcntl = any(1, FCNTL.iter().map(|&command| command as c_ulong))?;
    // With O_ASYNC, a terminal sends signals to its foreground processes.
    fcntl.push(all([is(1, libc::F_SETFL as u64), bits(2, libc::O_ASYNC as u64, 0)])?);
    rules.insert(libc::SYS_fcntl, fcntl);
    rules.insert(libc::SYS_prctl, any(0, PRCTL.iter().map(|&operation| operation as c_ulong))?);
    // Limits of this process.
    rules.insert(libc::SYS_prlimit64, vec![all([is(0, 0)])?]);
    // Signals to this process: abort(3) and raise(3).
    rules.insert(libc::SYS_tgkill, vec![all([is(0, this_process)])?]);
    rules.insert(libc::SYS_kill, vec![all([is(0, this_process)])?]);
    // In musl, abort(3) and raise(3) pass only the ID of the thread, which can be any.
    #[cfg(target_env = "musl")]
    rules.insert(libc::SYS_tkill, Vec::new());
    Ok(())
}

/// Returns the rules for open(2), whose flags are the argument `flags`, before the mode.
fn open(calls: &Calls, flags: u8) -> Result<Vec<SeccompRule>, BackendError> {
    const CREATE: u64 = libc::O_CREAT as u64;
    const NEW: u64 = CREATE | TMPFILE_BIT;
    // Not O_ACCMODE, which includes O_PATH in musl.
    const WRITE: u64 = (libc::O_WRONLY | libc::O_RDWR | libc::O_TRUNC) as u64;
    let no_set_id = || bits(flags + 1, SET_ID, 0);
    let mut rules = vec![all([bits(flags, WRITE | NEW, libc::O_RDONLY as u64)])?];
    if calls.modify {
        rules.push(all([bits(flags, NEW, 0)])?);
    }
    if calls.create || calls.extract.is_some() {
        rules.push(all([bits(flags, NEW, CREATE), no_set_id()])?);
    }
    Ok(rules)
}

/// Returns a rule that applies if all conditions are true.
fn all<const N: usize>(
    conditions: [Result<SeccompCondition, BackendError>; N],
) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)
}

/// Returns rules of which one applies if the argument is one of these values.
fn any(
    argument: u8,
    values: impl IntoIterator<Item = c_ulong>,
) -> Result<Vec<SeccompRule>, BackendError> {
    values.into_iter().map(|value| all([is(argument, value)])).collect()
}

/// Compares the lower half of an argument: all arguments compared here are of at most 32 bits.
fn is(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

/// Like [`is`], but for all other values.
fn not(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)
}

/// Compares some bits of the lower half of an argument.
fn bits(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value)
}
