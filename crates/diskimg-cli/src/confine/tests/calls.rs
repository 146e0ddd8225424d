//! Which system calls remain, for each kind of command. Most are made with arguments that are
//! invalid, such as a descriptor that is not open: what the filter allows then fails for that
//! reason, and nothing happens.

use super::run_in_child;
use crate::confine::{Calls, Extract, imp};
use libc::c_long;
use std::path::Path;

/// Environment variable with the kind of command in the child process.
const KIND: &str = "DISKIMG_TEST_CALLS_OF";

/// The kinds of commands, in the order of the columns of [`CONDITIONAL`].
const KINDS: [&str; 10] = [
    "read",
    "read-pipe",
    "modify",
    "create",
    "replace",
    "extract",
    "extract-all",
    "network",
    "unix",
    "cluster",
];

fn calls_of(kind: &str) -> Calls {
    let create = Calls { modify: true, create: true, ..Calls::read() };
    match kind {
        "read" => Calls::read(),
        "read-pipe" => Calls::read().and_spool(),
        "modify" => Calls::modify(),
        "create" => create,
        "replace" => Calls { attributes: true, flags: true, ..create },
        "extract" => Calls::extract(Extract::default()),
        "extract-all" => {
            Calls::extract(Extract { owners: true, special_modes: true, devices: true })
        }
        "network" => Calls::read().and_network(true),
        "unix" => Calls::read().and_unix_sockets(true),
        "cluster" => Calls::read().and_clusters(true),
        other => panic!("{other}"),
    }
}

/// What the filter does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It reaches the kernel, and succeeds or fails for another reason.
    Allowed,
    /// EPERM.
    Denied,
    /// ENOSYS.
    Missing,
}

use Outcome::{Allowed, Denied, Missing};

/// A call: what it is, its number and arguments.
type Call = (&'static str, c_long, [c_long; 5]);

/// A descriptor that is not open.
const FD: c_long = -1;
/// An address that is not mapped. Zero would be "no value" for some calls.
const BAD: c_long = 1;
const CWD: c_long = libc::AT_FDCWD as c_long;
const X: c_long = 0;

/// Opening, with these flags and mode. The path is invalid.
const fn open(what: &'static str, flags: i32, mode: c_long) -> Call {
    (what, libc::SYS_openat, [CWD, BAD, flags as c_long, mode, X])
}

const fn ioctl(what: &'static str, request: c_long) -> Call {
    (what, libc::SYS_ioctl, [FD, request, BAD, X, X])
}

const fn fcntl(what: &'static str, command: i32) -> Call {
    (what, libc::SYS_fcntl, [FD, command as c_long, BAD, X, X])
}

/// Arguments of fcntl(2) that let the system send signals.
const SET_ASYNC: [c_long; 5] = [FD, libc::F_SETFL as c_long, libc::O_ASYNC as c_long, X, X];

const fn clone(what: &'static str, flags: i32) -> Call {
    // The kernel rejects CLONE_SIGHAND without CLONE_VM.
    let invalid = libc::CLONE_SIGHAND as u32 as c_long;
    (what, libc::SYS_clone, [flags as u32 as c_long | invalid, X, X, X, X])
}

/// Calls that every command may make.
#[rustfmt::skip]
const ALWAYS: &[Call] = &[
    open("open for reading", libc::O_RDONLY | libc::O_CLOEXEC, X),
    open("open a directory", libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW, X),
    open("open with O_PATH and leftover mode", libc::O_PATH, 0o7777),
    open("open for direct reading", libc::O_RDONLY | libc::O_DIRECT, X),
    ("read", libc::SYS_read, [FD, BAD, 1, X, X]),
    ("write", libc::SYS_write, [FD, BAD, 1, X, X]),
    ("pwrite", libc::SYS_pwrite64, [FD, BAD, 1, X, X]),
    ("fstat", libc::SYS_fstat, [FD, BAD, X, X, X]),
    ("statx", libc::SYS_statx, [FD, BAD, X, X, BAD]),
    ("readlink", libc::SYS_readlinkat, [CWD, BAD, BAD, 1, X]),
    ("getdents", libc::SYS_getdents64, [FD, BAD, 1, X, X]),
    ("statfs", libc::SYS_statfs, [BAD, BAD, X, X, X]),
    ("mmap for reading and writing", libc::SYS_mmap, [X, X, 3, libc::MAP_PRIVATE as c_long, FD]),
    ("mprotect", libc::SYS_mprotect, [BAD, 1, 3, X, X]),
    ("clone a thread", libc::SYS_clone, [libc::CLONE_THREAD as c_long, X, X, X, X]),
    ("sched_getaffinity", libc::SYS_sched_getaffinity, [X, X, X, X, X]),
    ("prlimit of this process", libc::SYS_prlimit64, [X, 999, X, X, X]),
    ("prctl: name of the thread", libc::SYS_prctl, [libc::PR_SET_NAME as c_long, BAD, X, X, X]),
    ("membarrier", libc::SYS_membarrier, [X, X, X, X, X]),
    ("getrandom", libc::SYS_getrandom, [BAD, 1, X, X, X]),
    fcntl("fcntl: close on exec", libc::F_SETFD),
    fcntl("fcntl: flags", libc::F_SETFL),
    fcntl("fcntl: lock", libc::F_OFD_SETLK),
    ioctl("ioctl: is it a terminal?", libc::TCGETS as c_long),
    ioctl("ioctl: size of the terminal", libc::TIOCGWINSZ as c_long),
    ("landlock", libc::SYS_landlock_restrict_self, [FD, X, X, X, X]),
];

/// Calls that no command may make.
#[rustfmt::skip]
const NEVER: &[Call] = &[
    // Programs and processes.
    ("execve", libc::SYS_execve, [BAD, X, X, X, X]),
    ("execveat", libc::SYS_execveat, [FD, BAD, X, X, X]),
    clone("fork", 0),
    clone("vfork", libc::CLONE_VM | libc::CLONE_VFORK),
    clone("clone: user namespace", libc::CLONE_NEWUSER),
    clone("clone: thread in a new namespace", libc::CLONE_THREAD | libc::CLONE_NEWNET),
    ("unshare", libc::SYS_unshare, [libc::CLONE_NEWUSER as c_long, X, X, X, X]),
    ("setns", libc::SYS_setns, [FD, X, X, X, X]),
    ("ptrace", libc::SYS_ptrace, [16, 1, X, X, X]),
    ("process_vm_readv", libc::SYS_process_vm_readv, [1, X, X, X, X]),
    ("process_vm_writev", libc::SYS_process_vm_writev, [1, X, X, X, X]),
    ("kcmp", libc::SYS_kcmp, [1, 1, 99, X, X]),
    ("kill another process", libc::SYS_kill, [1, 0, X, X, X]),
    ("kill the process group", libc::SYS_kill, [0, 0, X, X, X]),
    ("kill everything", libc::SYS_kill, [-1, 0, X, X, X]),
    ("tgkill of another process", libc::SYS_tgkill, [1, 1, 0, X, X]),
    ("rt_sigqueueinfo", libc::SYS_rt_sigqueueinfo, [1, 0, BAD, X, X]),
    ("prlimit of another process", libc::SYS_prlimit64, [1, 999, X, X, X]),
    ("setpriority", libc::SYS_setpriority, [0, 1, 19, X, X]),
    ("setpriority of itself", libc::SYS_setpriority, [99, 0, 19, X, X]),
    ("sched_setaffinity", libc::SYS_sched_setaffinity, [1, X, X, X, X]),
    ("sched_setscheduler", libc::SYS_sched_setscheduler, [1, 99, BAD, X, X]),
    ("sched_setattr", libc::SYS_sched_setattr, [1, BAD, X, X, X]),
    ("ioprio_set", libc::SYS_ioprio_set, [1, 1, 99, X, X]),
    ("migrate_pages", libc::SYS_migrate_pages, [1, X, X, X, X]),
    ("move_pages", libc::SYS_move_pages, [1, X, X, X, X]),
    ("get_robust_list", libc::SYS_get_robust_list, [1, BAD, BAD, X, X]),
    ("setpgid", libc::SYS_setpgid, [0, -1, X, X, X]),
    ("setsid", libc::SYS_setsid, [X, X, X, X, X]),
    // Users and privileges.
    ("setuid", libc::SYS_setuid, [-1, X, X, X, X]),
    ("setgroups", libc::SYS_setgroups, [-1, X, X, X, X]),
    ("setfsuid", libc::SYS_setfsuid, [-1, X, X, X, X]),
    ("capset", libc::SYS_capset, [X, X, X, X, X]),
    ("prctl: keep capabilities", libc::SYS_prctl, [libc::PR_SET_KEEPCAPS as c_long, 9, X, X, X]),
    ("prctl: dumpable", libc::SYS_prctl, [libc::PR_SET_DUMPABLE as c_long, 9, X, X, X]),
    ("prctl: tracer", libc::SYS_prctl, [libc::PR_SET_PTRACER as c_long, -2, X, X, X]),
    ("seccomp", libc::SYS_seccomp, [99, X, X, X, X]),
    ("personality", libc::SYS_personality, [0xffff_ffff, X, X, X, X]),
    // Executable memory.
    ("mmap to execute", libc::SYS_mmap, [X, X, 5, libc::MAP_PRIVATE as c_long, FD]),
    ("mprotect to execute", libc::SYS_mprotect, [BAD, 1, 4, X, X]),
    ("pkey_mprotect", libc::SYS_pkey_mprotect, [BAD, 1, 4, -1, X]),
    ("memfd_create", libc::SYS_memfd_create, [BAD, X, X, X, X]),
    // Communication.
    ("socket", libc::SYS_socket, [999, 1, X, X, X]),
    ("socket: packets", libc::SYS_socket, [libc::AF_PACKET as c_long, 999, X, X, X]),
    ("socket: virtual machines", libc::SYS_socket, [libc::AF_VSOCK as c_long, 999, X, X, X]),
    ("listen", libc::SYS_listen, [FD, 1, X, X, X]),
    ("accept", libc::SYS_accept4, [FD, BAD, BAD, X, X]),
    ("socketpair", libc::SYS_socketpair, [999, 1, X, BAD, X]),
    ("shmget", libc::SYS_shmget, [-1, X, X, X, X]),
    ("msgget", libc::SYS_msgget, [-1, X, X, X, X]),
    ("mq_open", libc::SYS_mq_open, [BAD, X, X, X, X]),
    ioctl("ioctl: type into the terminal", libc::TIOCSTI as c_long),
    ioctl("ioctl: select text of the console", libc::TIOCLINUX as c_long),
    ioctl("ioctl: take the terminal", libc::TIOCSCTTY as c_long),
    ioctl("ioctl: set the terminal", libc::TCSETS as c_long),
    ioctl("ioctl: asynchronous input", libc::FIOASYNC as c_long),
    ioctl("ioctl: discard blocks", 0x1277),
    ioctl("ioctl: SCSI command", 0x2285),
    ("madvise: memory error", libc::SYS_madvise, [BAD, X, 100, X, X]),
    ("madvise: take memory offline", libc::SYS_madvise, [BAD, X, 101, X, X]),
    ("fcntl: asynchronous input", libc::SYS_fcntl, SET_ASYNC),
    fcntl("fcntl: owner of signals", libc::F_SETOWN),
    fcntl("fcntl: lease", libc::F_SETLEASE),
    fcntl("fcntl: notification", libc::F_NOTIFY),
    // The file system.
    ("mount", libc::SYS_mount, [BAD, BAD, BAD, X, X]),
    ("umount", libc::SYS_umount2, [BAD, X, X, X, X]),
    ("pivot_root", libc::SYS_pivot_root, [BAD, BAD, X, X, X]),
    ("chroot", libc::SYS_chroot, [BAD, X, X, X, X]),
    ("chdir", libc::SYS_chdir, [BAD, X, X, X, X]),
    ("name_to_handle_at", libc::SYS_name_to_handle_at, [FD, BAD, BAD, BAD, X]),
    ("open_by_handle_at", libc::SYS_open_by_handle_at, [FD, BAD, X, X, X]),
    ("truncate", libc::SYS_truncate, [BAD, X, X, X, X]),
    ("setxattr", libc::SYS_setxattr, [BAD, BAD, BAD, 1, X]),
    ("removexattr", libc::SYS_removexattr, [BAD, BAD, X, X, X]),
    ("remove a directory", libc::SYS_unlinkat, [CWD, BAD, libc::AT_REMOVEDIR as c_long, X, X]),
    ("quotactl", libc::SYS_quotactl, [X, X, X, X, X]),
    ("fanotify_init", libc::SYS_fanotify_init, [-1, X, X, X, X]),
    ("inotify_init", libc::SYS_inotify_init1, [-1, X, X, X, X]),
    ("sync", libc::SYS_sync, [X, X, X, X, X]),
    // The kernel and the machine.
    ("bpf", libc::SYS_bpf, [-1, X, X, X, X]),
    ("perf_event_open", libc::SYS_perf_event_open, [BAD, X, X, X, X]),
    ("userfaultfd", libc::SYS_userfaultfd, [-1, X, X, X, X]),
    ("add_key", libc::SYS_add_key, [BAD, X, X, X, X]),
    ("request_key", libc::SYS_request_key, [BAD, X, X, X, X]),
    ("keyctl", libc::SYS_keyctl, [999, X, X, X, X]),
    ("init_module", libc::SYS_init_module, [BAD, X, BAD, X, X]),
    ("kexec_load", libc::SYS_kexec_load, [X, 999, X, X, X]),
    ("reboot", libc::SYS_reboot, [X, X, X, X, X]),
    ("swapon", libc::SYS_swapon, [BAD, X, X, X, X]),
    ("syslog", libc::SYS_syslog, [999, X, X, X, X]),
    ("clock_settime", libc::SYS_clock_settime, [999, X, X, X, X]),
    ("sethostname", libc::SYS_sethostname, [BAD, -1, X, X, X]),
    ("timer_create", libc::SYS_timer_create, [999, X, BAD, X, X]),
    ("setitimer", libc::SYS_setitimer, [999, X, X, X, X]),
];

/// Calls with the numbers of only this architecture that no command may make.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const NEVER_HERE: &[Call] = &[
    ("fork", libc::SYS_fork, [X; 5]),
    ("vfork", libc::SYS_vfork, [X; 5]),
    ("modify_ldt", libc::SYS_modify_ldt, [999, X, X, X, X]),
    ("iopl", libc::SYS_iopl, [99, X, X, X, X]),
    ("chmod", libc::SYS_chmod, [BAD, X, X, X, X]),
    ("chown", libc::SYS_chown, [BAD, X, X, X, X]),
    ("mknod", libc::SYS_mknod, [BAD, X, X, X, X]),
    ("symlink", libc::SYS_symlink, [BAD, BAD, X, X, X]),
    ("rmdir", libc::SYS_rmdir, [BAD, X, X, X, X]),
    ("creat", libc::SYS_creat, [BAD, 0o4755, X, X, X]),
    ("open: new file with set-ID bit", libc::SYS_open, [BAD, libc::O_CREAT as c_long, 0o4755, X, X]),
];
#[cfg(not(target_arch = "x86_64"))]
const NEVER_HERE: &[Call] = &[];

/// Calls since Linux 5.1, which seem not to exist.
const NEW: &[Call] = &[
    ("pidfd_send_signal", libc::SYS_pidfd_send_signal, [FD, X, X, X, X]),
    ("io_uring_setup", libc::SYS_io_uring_setup, [X, BAD, X, X, X]),
    ("io_uring_enter", libc::SYS_io_uring_enter, [FD, X, X, X, X]),
    ("io_uring_register", libc::SYS_io_uring_register, [FD, X, X, X, X]),
    ("open_tree", libc::SYS_open_tree, [FD, BAD, X, X, X]),
    ("move_mount", libc::SYS_move_mount, [FD, BAD, FD, BAD, X]),
    ("fsopen", libc::SYS_fsopen, [BAD, X, X, X, X]),
    ("pidfd_open", libc::SYS_pidfd_open, [-1, X, X, X, X]),
    ("clone3", libc::SYS_clone3, [BAD, X, X, X, X]),
    ("close_range", libc::SYS_close_range, [9, 1, X, X, X]),
    ("openat2", libc::SYS_openat2, [CWD, BAD, BAD, X, X]),
    ("pidfd_getfd", libc::SYS_pidfd_getfd, [FD, X, X, X, X]),
    ("faccessat2", libc::SYS_faccessat2, [CWD, BAD, X, X, X]),
    ("process_madvise", libc::SYS_process_madvise, [FD, X, X, X, X]),
    ("mount_setattr", libc::SYS_mount_setattr, [FD, BAD, X, X, X]),
    ("memfd_secret", libc::SYS_memfd_secret, [-1, X, X, X, X]),
    ("futex_waitv", libc::SYS_futex_waitv, [X, X, X, X, X]),
    ("fchmodat2", 452, [FD, BAD, X, X, X]),
    ("file_setattr", 469, [FD, BAD, X, X, X]),
    ("a future call", 1000, [X; 5]),
];

/// Calls that some kinds of commands may make: one letter for each of [`KINDS`], `+` if allowed.
#[rustfmt::skip]
const CONDITIONAL: &[(&str, Call)] = &[
    ("--+++++---", open("open for writing", libc::O_WRONLY, X)),
    ("--+++++---", open("open for reading and writing", libc::O_RDWR, X)),
    ("--+++++---", open("truncate while opening", libc::O_RDONLY | libc::O_TRUNC, X)),
    ("---++++---", open("new file", libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL, 0o666)),
    ("----------", open("new file with set-ID bit", libc::O_WRONLY | libc::O_CREAT, 0o4755)),
    ("----------", open("new file with set-group-ID bit", libc::O_CREAT, 0o2755)),
    ("----------", open("unnamed file", libc::O_RDWR | libc::O_TMPFILE, 0o600)),
    ("----------", open("unnamed file with set-ID bit", libc::O_RDWR | libc::O_TMPFILE, 0o4700)),
    ("-++++++---", ("ftruncate", libc::SYS_ftruncate, [FD, X, X, X, X])),
    ("-++++++---", ("fallocate", libc::SYS_fallocate, [FD, X, X, 1, X])),
    ("--+++++---", ("fsync", libc::SYS_fsync, [FD, X, X, X, X])),
    ("--+++++---", ("copy_file_range", libc::SYS_copy_file_range, [FD, X, FD, X, 1])),
    ("--+++++---", ("flock", libc::SYS_flock, [FD, 2, X, X, X])),
    ("--+++++---", ioctl("reflink", 0x4020_940d)),
    ("--+++++---", ioctl("get the flags of a file", 0x8008_6601)),
    ("----+-----", ioctl("set the flags of a file", 0x4008_6602)),
    ("----+-----", ioctl("set extended flags of a file", 0x401c_5820)),
    ("---++-----", ("rename", libc::SYS_renameat2, [CWD, BAD, CWD, BAD, X])),
    ("---++-----", ("rename without replacing", libc::SYS_renameat2, [CWD, BAD, CWD, BAD, 1])),
    ("----------", ("rename, leaving a device", libc::SYS_renameat2, [CWD, BAD, CWD, BAD, 4])),
    ("---++++---", ("unlink", libc::SYS_unlinkat, [CWD, BAD, X, X, X])),
    ("---++++---", ("link", libc::SYS_linkat, [CWD, BAD, CWD, BAD, X])),
    ("----+++---", ("fchmod", libc::SYS_fchmod, [FD, 0o1777, X, X, X])),
    ("------+---", ("fchmod with set-ID bit", libc::SYS_fchmod, [FD, 0o4755, X, X, X])),
    ("------+---", ("chmod by name", libc::SYS_fchmodat, [CWD, BAD, 0o600, X, X])),
    ("------+---", ("chmod by name with set-ID bit", libc::SYS_fchmodat, [CWD, BAD, 0o4755, X, X])),
    ("----+-+---", ("fchown", libc::SYS_fchown, [FD, 1, 1, X, X])),
    ("------+---", ("chown by name", libc::SYS_fchownat, [CWD, BAD, 1, 1, X])),
    ("----+-----", ("fsetxattr", libc::SYS_fsetxattr, [FD, BAD, BAD, 1, X])),
    ("----+-----", ("fremovexattr", libc::SYS_fremovexattr, [FD, BAD, X, X, X])),
    ("-----++---", ("mkdir", libc::SYS_mkdirat, [CWD, BAD, 0o777, X, X])),
    ("----------", ("mkdir with set-ID bit", libc::SYS_mkdirat, [CWD, BAD, 0o2777, X, X])),
    ("-----++---", ("symlink", libc::SYS_symlinkat, [BAD, CWD, BAD, X, X])),
    ("-----++---", ("times", libc::SYS_utimensat, [CWD, BAD, X, X, X])),
    ("------+---", ("mknod: pipe", libc::SYS_mknodat, [CWD, BAD, 0o010_600, X, X])),
    ("------+---", ("mknod: block device", libc::SYS_mknodat, [CWD, BAD, 0o060_600, 0x700, X])),
    ("------+---", ("mknod: character device", libc::SYS_mknodat, [CWD, BAD, 0o020_600, 0x101, X])),
    ("------+---", ("mknod: regular file", libc::SYS_mknodat, [CWD, BAD, 0o100_600, X, X])),
    ("----------", ("mknod with set-ID bit", libc::SYS_mknodat, [CWD, BAD, 0o104_755, X, X])),
    // A protocol that does not exist is denied, so these succeed.
    ("---------+", ("epoll", libc::SYS_epoll_create1, [0, X, X, X, X])),
    ("---------+", ("eventfd", libc::SYS_eventfd2, [0, 0, X, X, X])),
    ("-------+-+", ("socket: TCP", libc::SYS_socket, [libc::AF_INET as c_long, 1, X, X, X])),
    ("-------+-+", ("socket: UDP", libc::SYS_socket, [libc::AF_INET6 as c_long, 2, 17, X, X])),
    ("----------", ("socket: raw", libc::SYS_socket, [libc::AF_INET as c_long, 3, 1, X, X])),
    ("----------", ("socket: MPTCP", libc::SYS_socket, [libc::AF_INET as c_long, 1, 262, X, X])),
    ("--------+-", ("socket: local", libc::SYS_socket, [libc::AF_UNIX as c_long, 1, X, X, X])),
    ("----------", ("socket: netlink", libc::SYS_socket, [libc::AF_NETLINK as c_long, 3, X, X, X])),
    ("-------+++", ("connect", libc::SYS_connect, [FD, BAD, X, X, X])),
    #[cfg(not(target_env = "musl"))]
    ("----------", ("bind", libc::SYS_bind, [FD, BAD, X, X, X])),
    ("-------+++", ("sendmsg", libc::SYS_sendmsg, [FD, BAD, X, X, X])),
    ("-------+++", ("recvmsg", libc::SYS_recvmsg, [FD, BAD, X, X, X])),
    ("-------+-+", ioctl("ioctl: do not block", libc::FIONBIO as c_long)),
];

#[test]
fn a_command_can_make_the_system_calls_of_its_kind_only() {
    for kind in KINDS {
        run_in_child("calls::of_a_kind_of_command", KIND, Path::new(kind));
    }
}

#[test]
#[ignore = "sandboxes its process; run by the test above in child processes"]
fn of_a_kind_of_command() {
    let Ok(kind) = std::env::var(KIND) else { return };
    let column = KINDS.iter().position(|&other| other == kind).expect("a kind");
    imp::restrict_calls(&calls_of(&kind)).expect("seccomp");
    let mut wrong = Vec::new();
    let mut check = |expected: Outcome, (what, number, arguments): Call| {
        let found = outcome(number, arguments);
        if found != expected {
            wrong.push(format!("{what}: {found:?}, not {expected:?}"));
        }
    };
    ALWAYS.iter().for_each(|&call| check(Allowed, call));
    NEVER.iter().chain(NEVER_HERE).for_each(|&call| check(Denied, call));
    NEW.iter().for_each(|&call| check(Missing, call));
    for &(allowed, call) in CONDITIONAL {
        check(if allowed.as_bytes()[column] == b'+' { Allowed } else { Denied }, call);
    }
    // In another thread, which the filter applies to as well.
    std::thread::spawn(|| assert_eq!(outcome(libc::SYS_setsid, [X; 5]), Denied))
        .join()
        .expect("joins");
    assert!(wrong.is_empty(), "{kind}: {wrong:#?}");
}

/// Makes a call. Its arguments must not refer to memory.
#[allow(unsafe_code)]
fn outcome(number: c_long, [a, b, c, d, e]: [c_long; 5]) -> Outcome {
    // SAFETY: no argument is the address of mapped memory, so the kernel changes none.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, X) };
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::EPERM) if result == -1 => Denied,
        Some(libc::ENOSYS) if result == -1 => Missing,
        _ => Allowed,
    }
}

/// Environment variable with the kind of foreign call in the child process.
const FOREIGN: &str = "DISKIMG_TEST_FOREIGN_CALL";

#[test]
#[cfg(target_arch = "x86_64")]
fn a_system_call_of_another_architecture_kills_the_process() {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    for kind in ["x32", "32-bit"] {
        let out = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "confine::tests::calls::of_another_architecture", "--ignored"])
            .env(FOREIGN, kind)
            .output()
            .expect("runs");
        assert_eq!(out.status.signal(), Some(libc::SIGSYS), "{kind}: {out:?}");
    }
}

#[test]
#[ignore = "is killed; run by the test above in a child process"]
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn of_another_architecture() {
    let Ok(kind) = std::env::var(FOREIGN) else { return };
    imp::restrict_calls(&Calls::read()).expect("seccomp");
    if kind == "x32" {
        // SAFETY: getpid(2), under its x32 number, has no arguments.
        unsafe { libc::syscall(0x4000_0000 | libc::SYS_getpid) };
    } else {
        // SAFETY: getpid(2), under its 32-bit number, has no arguments.
        unsafe { std::arch::asm!("int 0x80", inlateout("rax") 20_u64 => _) };
    }
}
