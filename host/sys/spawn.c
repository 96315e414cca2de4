/* Starting programs.
 *
 * A program starts as a shell would start it: no signal blocked or ignored, the descriptors that it is given and no
 * other, even if some code forgot O_CLOEXEC, and the limit of descriptors that we were given ourselves: the runtime
 * has raised ours to all that there may be (os_linux.c), and programs that use select, or close all numbers up to the
 * limit, are wrong or slow with that.
 *
 * The child shares our memory, on a stack of its own, and this thread stands still until the program runs (CLONE_VFORK).
 * So nothing is copied, however much memory we have, and the child says by a plain store what has failed. It calls
 * nothing that locks or allocates. No signal is handled there: all are blocked before, libc's own included, and by the time
 * they are let through, all handlers are the default.
 *
 * Rejected: posix_spawn, which works in this way, too, but cannot set limits; our own limit meanwhile, which other
 * threads need; the child's by prlimit from here, when the program runs already; a program in between, which costs a
 * start more and hides why the program did not start; fork, which copies page tables (milliseconds with large heaps).
 */
#include "spawn.h"

#include "../../runtime/runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    STACK = 65536,
    PATH_ROOM = 4096,
    SIGNALS = 64,
    SET = 8 /* bytes of the kernel's sets of signals */
};

/* The child leaves no call of a function by a return, so a sanitizer that counts calls in this thread's memory would
 * never see their ends. */
#define CHILD __attribute__((no_sanitize("thread", "address")))

/* clone, by its other name in libc: ThreadSanitizer's clone takes each child for a process with memory of its own, and
 * tells its notes about this thread so. */
int __clone(int (*fn)(void *), void *stack, int flags, void *arg, ...); /* NOLINT: libc's name */

typedef struct spawning {
    const spawn_program *p;
    const char *dirs; /* PATH */
    uint64_t files;
    int err; /* the child's: why it did not start the program */
} spawning;

/* ---- the child; each returns 0 or an errno ---- */

/* By the kernel's own calls: libc's sigaction refuses two signals, and a sanitizer's notes the handlers of ours. */
CHILD static int set_signals(void) {
    static const uint64_t usual[8] = {0}; /* the kernel's struct sigaction with SIG_DFL */
    uint64_t none = 0;
    for (int i = 1; i <= SIGNALS; i++)
        (void)syscall(SYS_rt_sigaction, i, usual, NULL, SET); /* two have no other */
    return syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, SET) < 0 ? errno : 0;
}

/* By the kernel's own calls: a sanitizer's would note descriptors of the child as ours. */
CHILD static int set_fd(int i, int from) {
    long fd = from == SPAWN_OUT ? 1 : from;
    if (from == SPAWN_NULL) fd = syscall(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC, 0);
    if (fd == i) return fcntl(i, F_SETFD, 0) < 0 ? errno : 0;
    return fd < 0 || syscall(SYS_dup3, fd, i, 0) < 0 ? errno : 0;
}

CHILD static int set_fds(const spawn_program *p) {
    int err = 0;
    for (int i = 0; i < p->n_fds && !err; i++)
        err = set_fd(i, p->fds[i]);
    if (!err) closefrom(p->n_fds);
    return err;
}

/* A kernel that refuses this has not let us raise the limit either. */
CHILD static void set_limit(uint64_t files) {
    struct rlimit r;
    if (files == 0 || getrlimit(RLIMIT_NOFILE, &r) < 0) return;
    r.rlim_cur = files < r.rlim_max ? files : r.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &r);
}

/* Runs the program if it is in a folder of PATH. */
CHILD static int run_found(const spawning *s) {
    const spawn_program *p = s->p;
    char path[PATH_ROOM];
    size_t len = strlen(p->path);
    int err = ENOENT;
    for (const char *dir = s->dirs, *end; dir; dir = *end ? end + 1 : NULL) {
        end = strchrnul(dir, ':');
        size_t n = (size_t)(end - dir);
        if (n + len + 2 > sizeof path) continue;
        memcpy(path, dir, n);
        if (n > 0) path[n++] = '/'; /* an empty name is the present folder */
        memcpy(path + n, p->path, len + 1);
        execve(path, p->argv, p->env);
        if (errno == EACCES)
            err = EACCES; /* unless another one can be run */
        else if (errno != ENOENT && errno != ENOTDIR && errno != ESTALE && errno != ENODEV &&
                 errno != ETIMEDOUT)
            return errno;
    }
    return err;
}

CHILD static int child(void *arg) {
    spawning *s = arg;
    const spawn_program *p = s->p;
    int err = p->own_group && setpgid(0, 0) < 0 ? errno : 0;
    if (!err) err = set_fds(p);
    if (!err && p->cwd && chdir(p->cwd) < 0) err = errno;
    set_limit(s->files);
    if (!err) err = set_signals();
    if (!err && !strchr(p->path, '/')) {
        err = *p->path ? run_found(s) : ENOENT;
    } else if (!err) {
        execve(p->path, p->argv, p->env);
        err = errno;
    }
    s->err = err;
    return 127; /* by which clone has the kernel end it; a sanitizer's _exit would end its work in our memory, too */
}

/* ---- */

static pid_t wait_for(pid_t pid) {
    pid_t r;
    do
        r = waitpid(pid, NULL, 0);
    while (r < 0 && errno == EINTR);
    return r;
}

int spawn(const spawn_program *p, pid_t *pid) {
    const char *dirs = getenv("PATH");
    spawning s = {.p = p, .dirs = dirs ? dirs : "/bin:/usr/bin", .files = rt_files_given()};
    char *stack = malloc(STACK);
    if (!stack) return -ENOMEM;
    uint64_t all = UINT64_MAX, before;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, SET);
    *pid = __clone(child, stack + STACK, CLONE_VM | CLONE_VFORK | SIGCHLD, &s);
    int err = *pid < 0 ? errno : s.err;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, SET);
    free(stack);
    if (*pid > 0 && err) wait_for(*pid);
    return -err;
}
