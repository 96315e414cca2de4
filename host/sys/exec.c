/* Processes: started by a job, waited for by a pidfd. Their streams are pipes, which are sockets to Lua (sock.c).
 *
 * Starting a program (spawn.c) holds its thread until the program runs, which may be read from a disk: so it is a job
 * (job.c). The program leads a process group of its own, so that a timeout ends it with all processes that it has
 * started, as long as they stay in the group. Programs of os.execute and io.popen in scripts stay in this
 * process's group: they may use the terminal, which stops programs of other groups. Its turns on the CPU are the usual
 * ones, not ours (rt_short_turns).
 *
 * A pidfd is readable when the process has ended, so neither SIGCHLD nor a wait for any child is needed. The process
 * stays a zombie until it is reaped here, so no other process gets its pid or its group's number before. Code that lets
 * go of a running process leaves its pidfd to a native G that reaps it. A process that is bound to its owner
 * (exec.run's) is killed then: its VM was dropped, and no G will see its output. When a VM of a server ends, all
 * processes that it still has are killed.
 *
 * Rejected: socketpairs for streams, since programs that open /dev/stdin cannot open a socket.
 */
#include "../base/base.h"
#include "../net/sock.h"
#include "../vm/job.h"
#include "../vm/owned.h"
#include "../vm/vm.h"
#include "../vm/vmend.h"
#include "spawn.h"
#include "sys_ffi.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* glibc 2.36 has it only for C++, as it seems: linux/wait.h. */
#ifndef P_PIDFD
#define P_PIDFD 3
#endif

typedef struct exec_job {
    char *argv_block, *env_block, *cwd;
    char **argv, **env;
    int how[3];
    bool own_group;
    /* The result. */
    int err;
    bool bad_cwd;
    pid_t pid; /* 0: none was started, or another G has taken it */
    int pidfd;
    int ends[3]; /* ours; -1: none */
} exec_job;

struct host_proc {
    host_owned owned;
    pid_t pid;
    int pidfd; /* -1: reaped */
    int status;
    int ends[3];
    bool own_group;
    bool bound;
    host_sock *watch;
};

/* Signals the group that the process leads, or the process alone. */
static int send_signal(pid_t pid, bool own_group, int signo) {
    return kill(own_group ? -pid : pid, signo);
}

/* ---- reaping ---- */

static void close_ends(int *ends) {
    for (int i = 0; i < 3; i++) {
        if (ends[i] >= 0) close(ends[i]);
        ends[i] = -1;
    }
}

/* Reaps a child that has ended. Answers as host_proc_reap. */
static int reap(int pidfd, int flags) {
    siginfo_t si = {0};
    int r;
    do
        r = waitid((idtype_t)P_PIDFD, (id_t)pidfd, &si, WEXITED | WNOHANG | flags);
    while (r < 0 && errno == EINTR);
    if (r < 0) return 0; /* other code has reaped it */
    if (si.si_pid == 0) return -1000;
    return si.si_code == CLD_EXITED ? si.si_status : -si.si_status;
}

static void reap_later(void *arg) {
    int fd = (int)(intptr_t)arg, err;
    rt_pd *pd = rt_pd_open(fd, &err);
    while (reap(fd, 0) == -1000) {
        if (pd)
            rt_pd_wait(pd, RT_R, RT_WAIT_OTHER);
        else
            rt_sleep(NS_PER_SEC);
    }
    if (pd) rt_pd_close(pd);
    close(fd);
}

/* reap_later, without memory for its stack. */
static rt_step reap_step(rt_g *g) {
    int fd = *RT_LOCAL(g, int);
    if (reap(fd, 0) == -1000) {
        rt_wait_open(g);
        rt_set_wait(g, RT_WAIT_OTHER, rt_nanotime() + NS_PER_SEC);
        return RT_PARK;
    }
    close(fd);
    return RT_EXIT;
}

/* The process of pidfd has no owner any more. */
static void disown(int pidfd) {
    if (reap(pidfd, 0) != -1000) {
        close(pidfd);
    } else if (!rt_go(reap_later, (void *)(intptr_t)pidfd)) { /* NOLINT: a number */
        rt_g *g = rt_new_step_sure(reap_step, NULL);
        *RT_LOCAL(g, int) = pidfd;
        rt_ready(g);
    }
}

/* ---- starting ---- */

/* A descriptor like fd that is none of 0 to 2, which the child's own would overwrite. Takes fd over. */
static int move_up(int fd) {
    if (fd < 0 || fd > 2) return fd;
    int moved = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    int err = errno;
    close(fd);
    errno = err;
    return moved;
}

/* The child's end of stream i is *theirs. */
static int make_pipe(exec_job *x, int i, int *theirs) {
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) < 0) return -errno;
    int ours = i == 0;
    x->ends[i] = move_up(fds[ours]);
    *theirs = move_up(fds[!ours]);
    if (x->ends[i] < 0 || *theirs < 0 || fcntl(x->ends[i], F_SETFL, O_NONBLOCK) < 0) return -errno;
    return 0;
}

static int program_fd(int how, int i, int theirs) {
    if (how == HOST_PIPE) return theirs;
    return how == HOST_NOTHING ? SPAWN_NULL : how == HOST_STDOUT ? SPAWN_OUT : i;
}

static int spawn_with(exec_job *x, const int *theirs) {
    int fds[3];
    for (int i = 0; i < 3; i++)
        fds[i] = program_fd(x->how[i], i, theirs[i]);
    const spawn_program program = {.path = x->argv[0],
                                   .argv = x->argv,
                                   .env = x->env ? x->env : environ,
                                   .cwd = x->cwd,
                                   .fds = fds,
                                   .n_fds = 3,
                                   .own_group = x->own_group};
    int err = spawn(&program, &x->pid);
    if (err) x->pid = 0;
    return err;
}

static int start(exec_job *x) {
    int theirs[3] = {-1, -1, -1}, err = 0;
    for (int i = 0; i < 3 && !err; i++)
        if (x->how[i] == HOST_PIPE) err = make_pipe(x, i, &theirs[i]);
    if (!err) err = spawn_with(x, theirs);
    close_ends(theirs);
    if (err) return err;
    x->pidfd = (int)syscall(SYS_pidfd_open, x->pid, 0);
    if (x->pidfd >= 0) return 0;
    err = -errno; /* no descriptor is left: the job ends as if it had not begun */
    send_signal(x->pid, x->own_group, SIGKILL);
    waitpid(x->pid, NULL, 0);
    x->pid = 0;
    return err;
}

static bool is_directory(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static void exec_run(void *arg) {
    exec_job *x = arg;
    rt_entersyscallblock(); /* making a process takes a millisecond */
    rt_short_turns(false);
    x->err = start(x);
    rt_short_turns(true);
    if (x->err) {
        close_ends(x->ends);
        x->bad_cwd = x->cwd && !is_directory(x->cwd);
    }
    rt_exitsyscall();
}

/* ---- the job ---- */

/* Also for a job whose process was not taken. */
static void exec_free(void *arg) {
    exec_job *x = arg;
    if (x->pid) {
        send_signal(x->pid, x->own_group, SIGKILL);
        close_ends(x->ends);
        disown(x->pidfd);
    }
    free(x->argv_block);
    free(x->env_block);
    free(x->cwd);
    free(x->argv);
    free(x->env);
    free(x);
}

/* The n strings of a block as a list that ends with NULL. *copy is to be freed. */
static char **strings(const char *block, size_t len, int n, char **copy) {
    char **list = calloc((size_t)n + 1, sizeof(char *));
    *copy = malloc(len + 1);
    if (!list || !*copy) {
        free(list);
        return NULL;
    }
    memcpy(*copy, block, len);
    (*copy)[len] = 0;
    char *at = *copy;
    for (int i = 0; i < n; i++) {
        list[i] = at;
        at += strlen(at) + 1;
    }
    return list;
}

host_job *host_exec(const char *argv, size_t argv_len, int argc, const char *env, size_t env_len,
                    int envc, const char *cwd, int in, int out, int err, int own_group) {
    exec_job *x = calloc(1, sizeof *x);
    if (!x) return NULL;
    *x = (exec_job){.how = {in, out, err}, .own_group = own_group, .ends = {-1, -1, -1}};
    x->argv = strings(argv, argv_len, argc, &x->argv_block);
    if (envc >= 0) x->env = strings(env, env_len, envc, &x->env_block);
    if (cwd) x->cwd = strdup(cwd);
    if (x->argv && (envc < 0 || x->env) && (!cwd || x->cwd)) return job_new(exec_run, exec_free, x);
    exec_free(x);
    return NULL;
}

int host_exec_bad_cwd(host_job *job) {
    exec_job *x = job_arg(job);
    return x && x->bad_cwd;
}

/* ---- the process ---- */

/* True: the VM of p ends, and was meant to. A VM that a runaway has ended, but not its app, leaves programs that may go
 * on. */
static bool ends_with_vm(const host_proc *p) {
    host_vm *vm = p->owned.vm;
    return atomic_load(&vm->dropped) &&
           (atomic_load(&vm->end.drain_ns) || atomic_load(&vm->loads_until_ns));
}

static void proc_let_go(host_owned *o) {
    host_proc *p = (host_proc *)o;
    close_ends(p->ends);
    if (p->pidfd >= 0) {
        if (p->bound || ends_with_vm(p)) send_signal(p->pid, p->own_group, SIGKILL);
        disown(p->pidfd);
    }
    free(p);
}

static const owned_kind proc_kind = {OWNED_THINGS, proc_let_go};

host_proc *host_exec_take(host_job *job, int *err) {
    exec_job *x = job_arg(job);
    *err = x ? x->err : -EAGAIN;
    if (*err || !x->pid) return NULL;
    host_proc *p = calloc(1, sizeof *p);
    if (!p) {
        *err = -ENOMEM;
        return NULL;
    }
    p->pid = x->pid;
    p->pidfd = x->pidfd;
    p->own_group = x->own_group;
    memcpy(p->ends, x->ends, sizeof p->ends);
    x->pid = 0;
    owned_take(&p->owned, &proc_kind);
    return p;
}

int host_proc_pid(host_proc *p) {
    return p->pid;
}

host_sock *host_proc_stream(host_proc *p, int i, int *err) {
    if (i < 0 || i > 2) {
        *err = -EINVAL;
        return NULL;
    }
    int fd = p->ends[i];
    p->ends[i] = -1;
    *err = 0;
    return fd < 0 ? NULL : sock_of_pipe(fd, err);
}

host_sock *host_proc_watch(host_proc *p, int *err) {
    *err = p->pidfd < 0 ? -ESRCH : 0;
    if (*err || p->watch) return p->watch;
    int fd = fcntl(p->pidfd, F_DUPFD_CLOEXEC, 3);
    if (fd < 0)
        *err = -errno;
    else
        p->watch = sock_of_pipe(fd, err);
    return p->watch;
}

int host_proc_ended(host_proc *p) {
    return p->pidfd < 0 || reap(p->pidfd, WNOWAIT) != -1000;
}

int host_proc_reap(host_proc *p) {
    if (p->pidfd < 0) return p->status;
    int status = reap(p->pidfd, 0);
    if (status == -1000) return status;
    p->status = status;
    close(p->pidfd);
    p->pidfd = -1;
    if (p->watch) host_sock_close(p->watch);
    return status;
}

int host_proc_kill(host_proc *p, int signo) {
    if (p->pidfd < 0) return -ESRCH;
    return send_signal(p->pid, p->own_group, signo) < 0 ? -errno : 0;
}

void host_proc_bind(host_proc *p, int on) {
    p->bound = on;
}

void host_proc_free(host_proc *p) {
    if (p->watch) host_sock_free(p->watch); /* the VM owns it, too */
    owned_free(&p->owned);
}

const char *host_signal_name(int signo) {
    return sigabbrev_np(signo);
}
