/* System calls that fail, for a program that does not know: preloaded (ld.so(8)), it has the
 * kernel hand it every call on files of one directory (seccomp(2), SIGSYS), also those that no
 * function of the C library makes.
 *
 *   FAULT_DIR   the directory
 *   FAULT_LOG   a file that takes a line per call: MET CALL PATH [PATH] RESULT, where MET is its number
 *               among those that the fault concerns, or -1
 *   FAULT       KIND:NUMBER, which of the calls that KIND concerns is met, counted from 0:
 *               eio      it fails, once
 *               dies     it fails, and all that follow
 *               enospc   there is no room, once
 *               eintr    a signal comes, once
 *               short    half of the bytes are read or written
 *               kill     the process is killed before it
 *               stop     the process is stopped before it (SIGCONT lets it go on)
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
#include <ucontext.h>
#include <unistd.h>

/* The one place whose calls are not handed back to us. */
long gate(long nr, long a, long b, long c, long d, long e, long f);
extern char gate_end[];
__asm__(".text\n.globl gate\ngate:\n"
        "mov %rdi,%rax\nmov %rsi,%rdi\nmov %rdx,%rsi\nmov %rcx,%rdx\n"
        "mov %r8,%r10\nmov %r9,%r8\nmov 8(%rsp),%r9\nsyscall\n"
        ".globl gate_end\ngate_end:\nret\n");

/* Which arguments are an open file or a name, and which faults a call can have. */
enum { EIO_ = 1, ENOSPC_ = 2, EINTR_ = 4, SHORT_ = 8 };
static const struct call {
    int nr;
    const char *name;
    int fd, path, second; /* numbers of arguments, or -1 */
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
static char kind[16];
static long at = -1;
static long met;

/* Where a name or an open file is, into `path`; 0 if that is elsewhere. */
static int place(const char *name, int fd, char *path, size_t room) {
    char link[64];
    if (name && name[0] != '/') {
        snprintf(path, room, "%s/%s", dir, name); /* the program runs in the directory */
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
    long n = gate(SYS_readlink, (long)link, (long)path, room - 1, 0, 0, 0);
    if (n <= 0)
        return 0;
    path[n] = 0;
    return !strncmp(path, dir, dir_len) && (path[dir_len] == '/' || !path[dir_len]);
}

/* Whether the call is not made, and what it gives then; its number among those concerned. */
static int meet(const struct call *call, long *args, long *number, long *result) {
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
    *number = __atomic_fetch_add(&met, 1, __ATOMIC_SEQ_CST);
    if (at < 0 || (dies ? *number < at : *number != at))
        return 0;
    if (all) {
        long pid = gate(SYS_getpid, 0, 0, 0, 0, 0, 0);
        gate(SYS_kill, pid, *kind == 'k' ? SIGKILL : SIGSTOP, 0, 0, 0, 0);
        return 0;
    }
    if (faults == SHORT_) {
        args[2] /= 2;
        return 0;
    }
    *result = -code;
    return 1;
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
    int given = 0, inside = 0;
    char path[1024], second[1024] = "";
    if (call < calls + CALLS) {
        const char *name = call->path < 0 ? NULL : (const char *)args[call->path];
        inside = place(name, call->fd < 0 ? -1 : (int)args[call->fd], path, sizeof path);
        if (call->second >= 0)
            place((const char *)args[call->second], -1, second, sizeof second);
        if (inside)
            given = meet(call, args, &number, &result);
    }
    if (!given)
        result = gate(nr, args[0], args[1], args[2], args[3], args[4], args[5]);
    if (inside && log_fd >= 0) {
        char line[2200];
        int n = snprintf(line, sizeof line, "%ld\t%s\t%s\t%s\t%ld\n", number, call->name, path, second, result);
        gate(SYS_write, log_fd, (long)line, n, 0, 0, 0);
    }
    regs[REG_RAX] = result;
}

__attribute__((constructor)) static void start(void) {
    const char *named = getenv("FAULT_DIR"), *log = getenv("FAULT_LOG"), *fault = getenv("FAULT");
    if (!named)
        return;
    dir_len = snprintf(dir, sizeof dir, "%s", named);
    if (log)
        log_fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fault)
        sscanf(fault, "%15[a-z]:%ld", kind, &at);
    struct sigaction action = {.sa_sigaction = on_call, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSYS, &action, NULL);

    struct sock_filter code[2 * CALLS + 8];
    int n = 0;
    unsigned long end = (unsigned long)gate_end;
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
        static const char text[] = "shim: the kernel hands over no system calls\n";
        _exit(write(2, text, sizeof text - 1) < 0 ? 98 : 97);
    }
}
