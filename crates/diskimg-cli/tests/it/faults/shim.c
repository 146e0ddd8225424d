/* A preloaded library (ld.so(8)) that makes system calls fail. seccomp(2) delivers every file system
 * call as SIGSYS, including those made without the C library; calls on files of one directory are
 * logged and can fail.
 *
 *   FAULT_DIR   the directory
 *   FAULT_LOG   a log file with a line per call: NUMBER CALL PATH [PATH] RESULT, where NUMBER counts the
 *               calls that the fault applies to, from 0, or is -1
 *   FAULT_DATA  a file to which what the calls change is written: for each a record of four 64-bit
 *               numbers (kind, offset, length, length of the path), the path and, of writes, the bytes
 *   FAULT       KIND:NUMBER, the fault of the call with this number:
 *               eio      fails with EIO
 *               dies     fails with EIO, as do all later calls
 *               enospc   fails with ENOSPC
 *               eintr    fails with EINTR
 *               short    reads or writes half of the bytes
 *               kill     the process is killed before the call
 *               stop     the process is stopped before the call, until SIGCONT
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

/* Makes a system call that the seccomp filter does not intercept. */
long raw_syscall(long nr, long a, long b, long c, long d, long e, long f);
extern char raw_syscall_end[];
__asm__(".text\n.globl raw_syscall\nraw_syscall:\n"
        "mov %rdi,%rax\nmov %rsi,%rdi\nmov %rdx,%rsi\nmov %rcx,%rdx\n"
        "mov %r8,%r10\nmov %r9,%r8\nmov 8(%rsp),%r9\nsyscall\n"
        ".globl raw_syscall_end\nraw_syscall_end:\nret\n");

/* The arguments that are a file descriptor or a path, and the faults that apply to each call. */
enum { EIO_ = 1, ENOSPC_ = 2, EINTR_ = 4, SHORT_ = 8 };
static const struct call {
    int nr;
    const char *name;
    int fd, path, second; /* index of the argument, or -1 */
    int faults;
} calls[] = {
    {SYS_read, "read", 0, -1, -1, EIO_ | EINTR_ | SHORT_},
    {SYS_pread64, "pread64", 0, -1, -1, EIO_ | EINTR_ | SHORT_},
    {SYS_write, "write", 0, -1, -1, EIO_ | ENOSPC_ | EINTR_ | SHORT_},
    {SYS_pwrite64, "pwrite64", 0, -1, -1, EIO_ | ENOSPC_ | EINTR_ | SHORT_},
    {SYS_writev, "writev", 0, -1, -1, EIO_ | ENOSPC_ | EINTR_},
    {SYS_copy_file_range, "copy_file_range", 2, -1, -1, EIO_ | ENOSPC_ | EINTR_},
    {SYS_lseek, "lseek", 0, -1, -1, EIO_},
    {SYS_fsync, "fsync", 0, -1, -1, EIO_ | ENOSPC_ | EINTR_},
    {SYS_fdatasync, "fdatasync", 0, -1, -1, EIO_ | ENOSPC_ | EINTR_},
    {SYS_ftruncate, "ftruncate", 0, -1, -1, EIO_ | ENOSPC_ | EINTR_},
    {SYS_fallocate, "fallocate", 0, -1, -1, EIO_ | ENOSPC_ | EINTR_},
    {SYS_open, "open", -1, 0, -1, EIO_ | ENOSPC_ | EINTR_},
    {SYS_openat, "openat", -1, 1, -1, EIO_ | ENOSPC_ | EINTR_},
    {SYS_rename, "rename", -1, 0, 1, EIO_ | ENOSPC_},
    {SYS_renameat, "renameat", -1, 1, 3, EIO_ | ENOSPC_},
    {SYS_renameat2, "renameat2", -1, 1, 3, EIO_ | ENOSPC_},
    {SYS_chmod, "chmod", -1, 0, -1, EIO_},
    {SYS_fchmodat, "fchmodat", -1, 1, -1, EIO_},
    {SYS_fchmod, "fchmod", 0, -1, -1, EIO_},
    {SYS_flock, "flock", 0, -1, -1, EIO_ | EINTR_},
    {SYS_getdents64, "getdents64", 0, -1, -1, EIO_},
    {SYS_unlink, "unlink", -1, 0, -1, 0},
    {SYS_unlinkat, "unlinkat", -1, 1, -1, 0},
};
enum { CALLS = sizeof calls / sizeof *calls };

static char dir[512];
static size_t dir_len;
static int log_fd = -1;
static int data_fd = -1;
static char kind[16];
static long fault_number = -1;
static long call_count;

/* Stores the path of a name or file descriptor in `path`. Returns 0 if it is outside the directory. */
static int resolve_path(const char *name, int fd, char *path, size_t room) {
    char link[64];
    if (name && name[0] != '/') {
        snprintf(path, room, "%s/%s", dir, name); /* the working directory is `dir` */
        return 1;
    }
    if (name && strncmp(name, "/proc/self/fd/", 14)) {
        snprintf(path, room, "%s", name);
        return !strncmp(path, dir, dir_len) && (path[dir_len] == '/' || !path[dir_len]);
    }
    if (name)
        snprintf(link, sizeof link, "%s", name);
    else
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long n = raw_syscall(SYS_readlink, (long)link, (long)path, room - 1, 0, 0, 0);
    if (n <= 0)
        return 0;
    path[n] = 0;
    return !strncmp(path, dir, dir_len) && (path[dir_len] == '/' || !path[dir_len]);
}

/* Returns whether the call is replaced by a failure with `result`; sets the number of the call. */
static int inject_fault(const struct call *call, long *args, long *number, long *result) {
    int all = !strcmp(kind, "kill") || !strcmp(kind, "stop");
    int dies = !strcmp(kind, "dies");
    int faults = 0, code = 0;
    if (!strcmp(kind, "eio") || dies)
        faults = EIO_, code = EIO;
    else if (!strcmp(kind, "enospc"))
        faults = ENOSPC_, code = ENOSPC;
    else if (!strcmp(kind, "eintr"))
        faults = EINTR_, code = EINTR;
    else if (!strcmp(kind, "short"))
        faults = SHORT_;
    int creates = call->nr == SYS_openat ? !!(args[2] & O_CREAT) : call->nr != SYS_open || (args[1] & O_CREAT);
    if (faults == ENOSPC_ && !creates)
        return 0;
    if (faults == SHORT_ && args[2] < 2)
        return 0;
    if (!all && !(call->faults & faults))
        return 0;
    *number = __atomic_fetch_add(&call_count, 1, __ATOMIC_SEQ_CST);
    if (fault_number < 0 || (dies ? *number < fault_number : *number != fault_number))
        return 0;
    if (all) {
        long pid = raw_syscall(SYS_getpid, 0, 0, 0, 0, 0, 0);
        raw_syscall(SYS_kill, pid, *kind == 'k' ? SIGKILL : SIGSTOP, 0, 0, 0, 0);
        return 0;
    }
    if (faults == SHORT_) {
        args[2] /= 2;
        return 0;
    }
    *result = -code;
    return 1;
}

/* What a record says of a file. */
enum { WRITE, SET_LEN, FLUSH, ZERO, OTHER };

/* Writes a record of a successful call. */
static void record_change(const struct call *call, const long *args, const char *path, long result) {
    long head[4] = {OTHER, 0, 0, strlen(path)};
    const char *bytes = "";
    long end = 0, now;
    switch (call->nr) {
    case SYS_pwrite64:
        head[0] = WRITE, head[1] = args[3], head[2] = result, bytes = (const char *)args[1];
        break;
    case SYS_ftruncate:
        head[0] = SET_LEN, head[1] = args[1];
        break;
    case SYS_fsync:
    case SYS_fdatasync:
        head[0] = FLUSH;
        break;
    case SYS_fallocate:
        if (args[1] & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) {
            head[0] = ZERO, head[1] = args[2], head[2] = args[3];
            break;
        }
        if (args[1] & FALLOC_FL_KEEP_SIZE)
            return;
        end = args[2] + args[3];
        now = raw_syscall(SYS_lseek, args[0], 0, SEEK_END, 0, 0, 0);
        head[0] = SET_LEN, head[1] = now > end ? now : end;
        break;
    case SYS_write:
    case SYS_writev:
    case SYS_copy_file_range:
        break;
    default:
        return;
    }
    struct iovec parts[3] = {{head, sizeof head}, {(void *)path, head[3]}, {(void *)bytes, head[0] == WRITE ? head[2] : 0}};
    raw_syscall(SYS_writev, data_fd, (long)parts, 3, 0, 0, 0);
}

static void on_call(int signal, siginfo_t *info, void *context) {
    (void)signal;
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    long nr = info->si_syscall;
    long args[6] = {regs[REG_RDI], regs[REG_RSI], regs[REG_RDX], regs[REG_R10], regs[REG_R8], regs[REG_R9]};
    const struct call *call = calls;
    while (call < calls + CALLS && call->nr != nr)
        call++;
    long result = 0, number = -1;
    int replaced = 0, inside = 0;
    char path[1024], second[1024] = "";
    if (call < calls + CALLS) {
        const char *name = call->path < 0 ? NULL : (const char *)args[call->path];
        inside = resolve_path(name, call->fd < 0 ? -1 : (int)args[call->fd], path, sizeof path);
        if (call->second >= 0)
            resolve_path((const char *)args[call->second], -1, second, sizeof second);
        if (inside)
            replaced = inject_fault(call, args, &number, &result);
    }
    if (!replaced)
        result = raw_syscall(nr, args[0], args[1], args[2], args[3], args[4], args[5]);
    if (inside && log_fd >= 0) {
        char line[2200];
        int n = snprintf(line, sizeof line, "%ld\t%s\t%s\t%s\t%ld\n", number, call->name, path, second, result);
        raw_syscall(SYS_write, log_fd, (long)line, n, 0, 0, 0);
    }
    if (inside && data_fd >= 0 && result >= 0)
        record_change(call, args, path, result);
    regs[REG_RAX] = result;
}

__attribute__((constructor)) static void start(void) {
    const char *named = getenv("FAULT_DIR"), *log = getenv("FAULT_LOG"), *data = getenv("FAULT_DATA"), *fault = getenv("FAULT");
    if (!named)
        return;
    dir_len = snprintf(dir, sizeof dir, "%s", named);
    if (log)
        log_fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (data)
        data_fd = open(data, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fault)
        sscanf(fault, "%15[a-z]:%ld", kind, &fault_number);
    struct sigaction action = {.sa_sigaction = on_call, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSYS, &action, NULL);

    struct sock_filter code[2 * CALLS + 8];
    int n = 0;
    unsigned long end = (unsigned long)raw_syscall_end;
    size_t ip = offsetof(struct seccomp_data, instruction_pointer);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ip);
    code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)end, 0, 3);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ip + 4);
    code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)(end >> 32), 0, 1);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (int i = 0; i < CALLS; i++) {
        code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[i].nr, 0, 1);
        code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
    }
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {n, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
        static const char text[] = "shim: cannot install the seccomp filter\n";
        _exit(write(2, text, sizeof text - 1) < 0 ? 98 : 97);
    }
}
