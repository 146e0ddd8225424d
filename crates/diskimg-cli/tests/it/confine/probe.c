/* A preloaded library (ld.so(8)) that stands for code of an attacker. It tries forbidden things at
 * two moments: when the first byte of an image is about to be parsed ("parse", the first pread(2)),
 * and when the first result is about to be written ("run").
 *
 *   PROBE_LOG   a log file with a line per attempt: MOMENT WHAT RESULT, where RESULT is 0 or errno
 *   PROBE_DIR   the directory with the files that the attempts are made on
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

static int log_fd = -1;
static char dir[4096];

__attribute__((constructor)) static void start(void) {
    const char *log = getenv("PROBE_LOG"), *home = getenv("PROBE_DIR");
    if (!log || !home) return;
    log_fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    snprintf(dir, sizeof dir, "%s", home);
    unsetenv("LD_PRELOAD");
}

static const char *at(const char *name) {
    static char paths[4][4200];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", dir, name);
    return path;
}

static void report(const char *moment, const char *what, long result) {
    dprintf(log_fd, "%s %s %d\n", moment, what, result < 0 ? errno : 0);
}

static long opens(const char *path, int flags, int mode) {
    int fd = open(path, flags | O_CLOEXEC, mode);
    if (fd >= 0) close(fd);
    return fd;
}

/* What is changed by a descriptor that is open for reading only. */
enum { MODE, OWNER, ATTRIBUTE, FLAGS };
static long change(const char *path, int what) {
    int fd = open(path, O_RDONLY | O_CLOEXEC), flags = 0;
    if (fd < 0) return -1;
    long result = what == MODE        ? fchmod(fd, 0666)
                  : what == OWNER     ? fchown(fd, -1, getgid())
                  : what == ATTRIBUTE ? fsetxattr(fd, "user.x", "x", 1, 0)
                                      : ioctl(fd, FS_IOC_SETFLAGS, &flags);
    int e = errno;
    close(fd);
    errno = e;
    return result;
}

#define TRY(what, call) (errno = 0, report(moment, what, (long)(call)))

static void attempts(const char *moment) {
    int parent = getppid(), e = errno, new = O_WRONLY | O_CREAT, parse = *moment == 'p';
    char *argv[] = {"true", 0}, *env[] = {0};
    struct rlimit limit = {99, 99};
    TRY("read-far", opens(at("far/secret"), O_RDONLY, 0));
    TRY("read-near", opens(at("in/near"), O_RDONLY, 0));
    TRY("write-near", opens(at("in/near"), O_WRONLY, 0));
    TRY("write-far", opens(at("far/secret"), O_RDWR, 0));
    TRY("create-near", opens(at("in/new"), new, 0600));
    TRY("create-far", opens(at("far/new"), new, 0600));
    TRY("create-out", opens(at("out/new"), new, 0600));
    TRY("create-set-id", opens(at("out/set-id"), new, 04755));
    TRY("overwrite-out", opens(at("out/other"), O_RDWR, 0));
    TRY("remove-out", unlinkat(AT_FDCWD, at("out/new"), 0));
    TRY("remove-far", unlink(at("far/secret")));
    TRY("remove-tmp", unlink(at("tmp/other")));
    TRY("write-tmp", opens(at("tmp/other"), O_WRONLY, 0));
    TRY("create-tmp", opens(at("tmp/new"), new, 0600));
    TRY("unnamed-tmp", opens(at("tmp"), O_RDWR | O_TMPFILE, 0600));
    TRY("rename-far", rename(at("out/other"), at("far/moved")));
    TRY("link-far", link(at("far/secret"), at("out/link")));
    TRY("mkdir-out", mkdir(at(parse ? "out/dir1" : "out/dir2"), 0700));
    TRY("symlink-out", symlinkat("/etc/passwd", AT_FDCWD, at(parse ? "out/link1" : "out/link2")));
    TRY("mkdir-far", mkdir(at("far/dir"), 0700));
    TRY("mknod-block", mknod(at("out/block"), S_IFBLK | 0600, makedev(7, 0)));
    TRY("mknod-char", mknod(at("out/char"), S_IFCHR | 0600, makedev(1, 1)));
    TRY("mknod-fifo", mknod(at("out/fifo"), S_IFIFO | 0600, 0));
    TRY("mknod-file", mknod(at("out/file"), S_IFREG | 0600, 0));
    TRY("chmod", chmod(at("far/secret"), 04755));
    TRY("chown", chown(at("far/secret"), 1, 1));
    TRY("setxattr", setxattr(at("far/secret"), "user.x", "x", 1, 0));
    TRY("fchmod-far", change(at("far/secret"), MODE));
    TRY("fchmod-out", change(at("out/other"), MODE));
    TRY("fchown-out", change(at("out/other"), OWNER));
    TRY("fsetxattr-out", change(at("out/other"), ATTRIBUTE));
    TRY("setflags-out", change(at("out/other"), FLAGS));
    TRY("async-input", fcntl(0, F_SETFL, O_ASYNC));
    TRY("whiteout", syscall(SYS_renameat2, AT_FDCWD, at("out/new"), AT_FDCWD, at("out/w"), 4));
    TRY("shadow-write", opens("/etc/shadow", O_WRONLY, 0));
    TRY("own-memory", opens("/proc/self/mem", O_RDWR, 0));
    char other[64];
    snprintf(other, sizeof other, "/proc/%d/environ", parent);
    TRY("other-environ", opens(other, O_RDONLY, 0));
    snprintf(other, sizeof other, "/proc/%d/mem", parent);
    TRY("other-memory", opens(other, O_RDONLY, 0));
    TRY("sys", opens("/sys/kernel/uevent_seqnum", O_RDONLY, 0));
    TRY("device", opens("/dev/kmsg", O_WRONLY, 0));
    TRY("terminal", opens("/dev/tty", O_RDWR, 0));
    TRY("tiocsti", ioctl(0, TIOCSTI, "x"));
    TRY("tioclinux", ioctl(0, TIOCLINUX, "\2"));
    TRY("execve", execve("/bin/true", argv, env));
    TRY("fork", fork());
    TRY("new-user-namespace", unshare(CLONE_NEWUSER));
    TRY("mount", mount("none", at("out"), "tmpfs", 0, 0));
    TRY("chroot", chroot(at("out")));
    TRY("socket", socket(AF_INET, SOCK_STREAM, 0));
    TRY("unix-socket", socket(AF_UNIX, SOCK_STREAM, 0));
    TRY("kill", kill(parent, 0));
    TRY("prlimit", prlimit(parent, RLIMIT_CORE, &limit, 0));
    TRY("setpriority", setpriority(PRIO_PROCESS, parent, 19));
    TRY("ptrace", ptrace(PTRACE_SEIZE, parent, 0, 0));
    TRY("memfd", syscall(SYS_memfd_create, "x", 0));
    TRY("io_uring", syscall(425, 1, 0));
    TRY("bpf", syscall(SYS_bpf, 0, 0, 0));
    TRY("userfaultfd", syscall(SYS_userfaultfd, 0));
    TRY("keyctl", syscall(SYS_keyctl, 0, -3, 1));
    TRY("by-handle", syscall(SYS_open_by_handle_at, AT_FDCWD, 1, 0));
    TRY("personality", syscall(SYS_personality, 0));
    void *code = mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    report(moment, "executable-memory", code == MAP_FAILED ? -1 : 0);
    errno = e;
}

static void once(const char *moment) {
    static int parsed, ran;
    int *done = *moment == 'p' ? &parsed : &ran;
    if (log_fd >= 0 && !(*done)++) attempts(moment);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t pread64(int fd, void *buf, size_t len, off_t offset) {
    once("parse");
    return NEXT(pread64)(fd, buf, len, offset);
}

ssize_t pwrite64(int fd, const void *buf, size_t len, off_t offset) {
    once("run");
    return NEXT(pwrite64)(fd, buf, len, offset);
}

ssize_t write(int fd, const void *buf, size_t len) {
    if (fd != log_fd) once("run");
    return NEXT(write)(fd, buf, len);
}
