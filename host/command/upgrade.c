/* SIGUSR2: another binary takes over, and no client notices.
 *
 *     old                                        new
 *     ------------------------------------------------------------------------------------
 *     starts it, with the listening sockets      loads the app, checks the sockets (inherit.c)
 *     waits for a line from a pipe               binds what else it is to listen on
 *                                                writes its pid to --pid-file
 *                                                accepts, and writes its pid to the pipe
 *     MAINPID to systemd                         lets go of sockets that it does not need
 *     stops as on SIGTERM: server.c
 *     exits with 0 when all is answered
 *
 * From the first line to the last both processes have the sockets. So there is always one that accepts, and the
 * kernel's queue of connections stays. Until the new process says that it is ready, the old one does not change. If the
 * new process cannot be started, ends, or takes longer than --upgrade-timeout, it is ended (SIGTERM, and SIGKILL if it
 * stays), and the log says why. It has bound everything before it accepts anything (commands.c), so it does not fail
 * with clients in its hands. But the kernel may have woken it for a client, since listeners wake one poller for each
 * connection. So after a failure the old process's acceptors look for themselves (server_look).
 *
 * The binary is found by the path that started this process, made absolute at the start. So a file that was replaced,
 * or a symlink that was set to another version, is started now. argv[0] counts only if it names the running file; else
 * the kernel tells the path. Arguments and environment are the same again; a number of Ps that POST /procs has asked for
 * goes with the sockets, and so do the keys of session tickets (inherit.c).
 *
 * The new process is none of exec.c's: it stays in our process group, so that a terminal's Ctrl-C stops both. It gets
 * descriptors 0 to 2 and the sockets. Other descriptors that this process was started with were not for it.
 *
 * Rejected: SO_REUSEPORT with a socket for each process (connections that wait in the old one's queue are reset when
 * it closes); sending the sockets through a unix socket (needs a path and its permissions, and nothing here
 * comes later than the start); exec in place (no way back, and all requests in flight are lost).
 */
#include "upgrade.h"

#include "../base/base.h"
#include "../base/bell.h"
#include "../base/log.h"
#include "../base/options.h"
#include "../net/tls_ticket.h"
#include "../serve/server.h"
#include "../shared/dict_file.h"
#include "../sys/spawn.h"
#include "../sys/sys_ffi.h"
#include "inherit.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { NOTHING, STARTING, READY, STOPPED };

static struct {
    char *exe;
    char **argv;
    _Atomic int state;                 /* atomic: moved by CAS */
    _Atomic bool busy;                 /* atomic: the upgrade's G exists */
    _Atomic pid_t pid;                 /* atomic: of the new process until it is reaped; 0: none */
    rt_fd pipe;                        /* only the upgrade's G; upgrade_stop sets its deadline */
    host_server *servers[UPGRADE_MAX]; /* held while busy */
    int n;
    void (*ready)(pid_t pid);
    void (*failed)(void);
    bell over; /* rung when busy has become false */
} up = {.pipe = {.fd = -1}};

/* ---- how we were started ---- */

static bool is_running_file(const char *path) {
    struct stat st, self;
    return stat(path, &st) == 0 && stat("/proc/self/exe", &self) == 0 && st.st_dev == self.st_dev &&
           st.st_ino == self.st_ino;
}

/* dir/name as an absolute path, if it is the file that runs; else NULL. */
static char *try_path(const char *dir, size_t dir_len, const char *name) {
    char cwd[PATH_MAX], *path;
    int n;
    if (name[0] == '/') {
        n = asprintf(&path, "%s", name);
    } else if (dir_len > 0 && dir[0] == '/') {
        n = asprintf(&path, "%.*s/%s", (int)dir_len, dir, name);
    } else {
        if (!getcwd(cwd, sizeof cwd)) return NULL;
        n = asprintf(&path, "%s/%.*s%s%s", cwd, (int)dir_len, dir, dir_len ? "/" : "", name);
    }
    if (n < 0) return NULL;
    if (is_running_file(path)) return path;
    free(path);
    return NULL;
}

/* Finds a command as a shell does. */
static char *search(const char *name) {
    if (strchr(name, '/')) return try_path("", 0, name);
    const char *dirs = getenv("PATH");
    while (dirs) {
        size_t n = strcspn(dirs, ":");
        char *path = try_path(dirs, n, name);
        if (path) return path;
        dirs = dirs[n] ? dirs + n + 1 : NULL;
    }
    return NULL;
}

void upgrade_init(int argc, char **argv) {
    char self[PATH_MAX];
    up.exe = search(argv[0]);
    if (!up.exe) {
        ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
        if (n > 0) up.exe = strndup(self, (size_t)n);
    }
    up.argv = calloc((size_t)argc + 1, sizeof *up.argv);
    if (!up.argv) start_failed("not enough memory");
    memcpy(up.argv, argv, (size_t)argc * sizeof *argv);
}

/* ---- starting the new one ---- */

/* The variable for the new process's environment, in one string. tickets: there is a descriptor of keys, behind the
 * sockets. */
static char *describe_sockets(bool tickets) {
    size_t size = sizeof INHERIT_VARIABLE + 64 + (size_t)up.n * (HOST_ADDR_MAX + 32);
    char *text = malloc(size);
    if (!text) return NULL;
    size_t n = (size_t)snprintf(text, size, INHERIT_VARIABLE "=%d", INHERIT_READY_FD);
    int procs = rt_procs_asked();
    if (procs >= 0) n += (size_t)snprintf(text + n, size - n, "\nprocs %d", procs);
    for (int i = 0; i < up.n; i++)
        n += (size_t)inherit_print(up.servers[i], INHERIT_READY_FD + 1 + i, text + n, size - n);
    if (tickets) snprintf(text + n, size - n, "\ntickets %d", INHERIT_READY_FD + 1 + up.n);
    return text;
}

/* Our environment and one more variable. The caller frees the list. */
static char **environment_with(char *more) {
    size_t n = 0;
    while (environ[n])
        n++;
    char **env = calloc(n + 2, sizeof *env);
    if (!env) return NULL;
    memcpy(env, environ, n * sizeof *env);
    env[n] = more;
    return env;
}

/* Duplicates fd above all numbers of the child, so that no number is overwritten before its turn. */
static int move_up(int fd, int above) {
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, above);
    return copy < 0 ? -errno : copy;
}

/* fds[3 .. n) are the child's. */
static int spawn_with(const int *fds, int n, char **env) {
    pid_t pid;
    const spawn_program program = {
        .path = up.exe, .argv = up.argv, .env = env, .fds = fds, .n_fds = n};
    int err = spawn(&program, &pid);
    if (!err) atomic_store(&up.pid, pid);
    return err;
}

/* Starts the child. ready_fd: the child's end of the pipe. 0 or -errno. Blocks. */
static int spawn_new(int ready_fd) {
    int tickets = tls_ticket_hand_over(); /* without them sessions begin anew: no reason to fail */
    int n = INHERIT_READY_FD + up.n + 1 + (tickets >= 0), made = INHERIT_READY_FD, err = 0;
    int *fds = calloc((size_t)n, sizeof *fds);
    char *text = describe_sockets(tickets >= 0);
    char **env = text ? environment_with(text) : NULL;
    if (!fds || !env) err = -ENOMEM;
    while (!err && made < n) {
        int i = made - INHERIT_READY_FD;
        int from = i == 0 ? ready_fd : i <= up.n ? up.servers[i - 1]->listen_fd : tickets;
        int fd = move_up(from, n);
        if (fd < 0)
            err = fd;
        else
            fds[made++] = fd;
    }
    for (int i = 0; fds && i < INHERIT_READY_FD; i++)
        fds[i] = i;
    if (!err) err = spawn_with(fds, n, env);
    while (made > INHERIT_READY_FD)
        close(fds[--made]);
    if (tickets >= 0) close(tickets);
    free(env);
    free(text);
    free(fds);
    return err;
}

/* Starts the new process, with the pipe that it writes to. 0 or -errno. */
static int start(void) {
    int fds[2];
    if (!up.exe) return -ENOENT;
    if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0) return -errno;
    int err = rt_fd_init(&up.pipe, fds[0]);
    if (err) {
        close(fds[0]);
    } else {
        rt_entersyscallblock();
        err = spawn_new(fds[1]);
        rt_exitsyscall();
        if (err) rt_fd_close(&up.pipe);
    }
    close(fds[1]);
    return err;
}

/* ---- waiting for the new process ---- */

/* The new process's pid, as it tells it: a shell script may stand in between. 0: it has gone; RT_ETIMEOUT, or another
 * error. */
static int read_pid(int64_t deadline_ns) {
    char text[32];
    size_t n = 0;
    rt_fd_set_deadline(&up.pipe, RT_R, deadline_ns);
    if (atomic_load(&up.state) == STOPPED) return RT_ETIMEOUT; /* upgrade_stop came before that */
    while (n < sizeof text - 1) {
        ssize_t r = rt_fd_read(&up.pipe, text + n, sizeof text - 1 - n);
        if (r <= 0) return (int)r;
        n += (size_t)r;
        if (text[n - 1] == '\n') break;
    }
    text[n] = 0;
    long pid = strtol(text, NULL, 10);
    return pid > 0 ? (int)pid : -EPROTO;
}

/* Waits until the child has ended: its status for waitpid's macros, or -1 at the deadline. */
static int wait_end(pid_t pid, int64_t deadline_ns) {
    enum { POLL_NS = 10000000 };
    int status;
    /* A child ends once: polling is simpler than a pidfd, and works without a descriptor to spare. */
    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (rt_nanotime() >= deadline_ns) return -1;
        rt_sleep(POLL_NS);
    }
    atomic_store(&up.pid, 0);
    return status;
}

static int64_t drain_ns(void) {
    return (int64_t)(options.drain_timeout * 1e9) + NS_PER_SEC;
}

/* Ends the child, if it has not ended. It may have clients by now, which it answers on SIGTERM. ending: it has closed
 * its pipe, or said what no lunapark says, so it is probably about to end. */
static int end_child(pid_t pid, bool ending) {
    int status = wait_end(pid, ending ? rt_nanotime() + NS_PER_SEC : 0);
    if (status >= 0) return status;
    kill(pid, SIGTERM);
    status = wait_end(pid, rt_nanotime() + drain_ns());
    if (status >= 0) return status;
    kill(pid, SIGKILL);
    return wait_end(pid, INT64_MAX);
}

static void print_status(int status, char *buf, size_t size) {
    if (WIFSIGNALED(status))
        snprintf(buf, size, "was killed by SIG%s", host_signal_name(WTERMSIG(status)));
    else
        snprintf(buf, size, "exited with status %d", WEXITSTATUS(status));
}

/* Logs why there is no new process: pid's end, if pid has begun. */
static void say_failure(pid_t pid, int err, int status) {
    char how[64];
    if (!pid) {
        log_line(LOG_ERROR, "SIGUSR2: %s: %s: this process stays", up.exe ? up.exe : "own path",
                 rt_strerror(err));
        return;
    }
    print_status(status, how, sizeof how);
    if (err == RT_ETIMEOUT)
        log_line(LOG_ERROR,
                 "SIGUSR2: new process %d was not ready in %g s and %s: this process stays",
                 (int)pid, options.upgrade_timeout, how);
    else
        log_line(LOG_ERROR, "SIGUSR2: new process %d %s before it was ready: this process stays",
                 (int)pid, how);
}

static bool move(int from, int to) {
    return atomic_compare_exchange_strong(&up.state, &from, to);
}

/* The new process has not become ready, for the reason err. */
static void fail(pid_t pid, int err) {
    int status = pid ? end_child(pid, err != RT_ETIMEOUT) : 0;
    for (int i = 0; i < up.n; i++)
        server_look(up.servers[i]);
    if (atomic_load(&up.state) == STOPPED) {
        if (pid) log_line(LOG_INFO, "SIGUSR2: new process %d stopped too", (int)pid);
        return;
    }
    dict_files_share(false, false);
    say_failure(pid, err, status);
    up.failed();
    move(STARTING, NOTHING);
}

static void let_go(void) {
    for (int i = 0; i < up.n; i++)
        server_release(up.servers[i]);
    up.n = 0;
}

static void upgrade_main(void *arg) {
    (void)arg;
    int64_t deadline = rt_nanotime() + (int64_t)(options.upgrade_timeout * 1e9);
    dict_files_share(true, false);
    int r = start();
    pid_t pid = atomic_load(&up.pid);
    if (r == 0) {
        log_line(LOG_INFO, "SIGUSR2: starting %s as process %d", up.exe, (int)pid);
        r = read_pid(deadline);
        rt_fd_close(&up.pipe);
    }
    if (r > 0 && move(STARTING, READY)) {
        atomic_store(&up.pid, 0); /* the child has ended: there is none to end any more */
        up.ready((pid_t)r);
    } else {
        fail(pid, r);
    }
    let_go();
    atomic_store(&up.busy, false);
    bell_ring(&up.over);
}

/* ---- the signals' calls ---- */

void upgrade_start(host_server **servers, int n, void (*ready)(pid_t pid), void (*failed)(void)) {
    if (atomic_load(&up.busy) || !move(NOTHING, STARTING)) {
        int state = atomic_load(&up.state);
        log_line(LOG_WARN, "SIGUSR2: %s",
                 state == READY || state == STOPPED ? "this process is stopping"
                                                    : "a new process is being started already");
        return;
    }
    up.n = n < UPGRADE_MAX ? n : UPGRADE_MAX;
    for (int i = 0; i < up.n; i++) {
        up.servers[i] = servers[i];
        server_hold(servers[i]);
    }
    up.ready = ready;
    up.failed = failed;
    atomic_store(&up.busy, true);
    if (rt_go(upgrade_main, NULL)) return;
    let_go();
    atomic_store(&up.busy, false);
    move(STARTING, NOTHING);
    log_line(LOG_ERROR, "SIGUSR2: no new process: not enough memory");
}

void upgrade_stop(void) {
    if (!move(NOTHING, STOPPED) && move(STARTING, STOPPED))
        rt_fd_set_deadline(&up.pipe, RT_R, 1); /* closed, or not open yet: read_pid looks */
}

void upgrade_wait(int64_t deadline_ns) {
    while (atomic_load(&up.busy) && bell_wait(&up.over, deadline_ns))
        ;
}

void upgrade_end(void) {
    pid_t pid = atomic_load(&up.pid);
    if (!pid || atomic_load(&up.state) == READY) return;
    kill(pid, SIGKILL);
    log_line(LOG_WARN, "SIGUSR2: new process %d was killed, since this one ends", (int)pid);
    /* The child listens until it has ended: a client that sees us end shall not reach it any more. */
    for (int64_t until = rt_nanotime() + NS_PER_SEC; rt_nanotime() < until; usleep(1000))
        if (waitpid(pid, NULL, WNOHANG) != 0) break;
}
