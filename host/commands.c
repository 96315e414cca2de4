/* What serve, run, test, check and repl do, on the main G.
 *
 * Each makes its VMs and calls a function of lunapark.boot in them, as a Lua G of that VM, so that a
 * script may wait, start Gs and open sockets while it loads. What Lua reports comes back as the
 * values of that function: nothing when all is well, or a message.
 */
#include "commands.h"

#include "dump.h"
#include "admin.h"
#include "block.h"
#include "generation.h"
#include "inherit.h"
#include "notify.h"
#include "repl.h"
#include "upgrade.h"
#include "vmcall.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Ends the process: what is buffered and logged is written, other Gs end where they are. */
static _Noreturn void finish(int code) {
    repl_end();
    fflush(NULL);
    log_end();
    _exit(code);
}

/* ---- run, test, check, repl ---- */

static _Noreturn void one_vm(const char *fn, void *call) {
    command_call *c = call;
    pool_init();
    dump_init();
    struct iovec *args = calloc((size_t)c->argc + 1, sizeof *args);
    if (!args) rt_throw("out of memory for %d arguments", c->argc);
    for (int i = 0; i < c->argc; i++)
        args[i] = (struct iovec){c->argv[i], strlen(c->argv[i])};
    vm_call *main_call = vm_call_begin(vm_new(0), fn, c->argc, args);
    bool lost = vm_call_wait(main_call, 0) == CALL_LOST;
    const char *err = lost ? block_lost() : vm_call_error(main_call);
    log_end(); /* what was logged before it stands before it */
    if (err) fprintf(stderr, "lunapark: %s\n", err);
    finish(err ? 1 : 0);
}

void command_run(void *call) {
    one_vm("run", call);
}

void command_check(void *call) {
    signals_reserve(); /* as serve would */
    one_vm("check", call);
}

void command_test(void *call) {
    one_vm("test", call);
}

void command_repl(void *call) {
    one_vm("repl", call);
}

/* ---- serve ---- */

/* The admin listener is the last of them. */
static host_server *listeners[MAX_LISTEN + 1];
static int n_listeners;

/* ---- the pid file: of the process that serves, which an upgrade changes ---- */

static bool wrote_pid_file;

/* Replaced as a whole: who reads it meanwhile finds this pid or the one before. 0 or -errno. */
static int write_pid_file(void) {
    char path[PATH_MAX], text[32];
    if (!options.pid_file) return 0;
    if (snprintf(path, sizeof path, "%s.%d", options.pid_file, (int)getpid()) >= (int)sizeof path)
        return -ENAMETOOLONG;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) return -errno;
    int len = snprintf(text, sizeof text, "%d\n", (int)getpid());
    ssize_t n = write(fd, text, (size_t)len);
    int err = n == len ? 0 : n < 0 ? -errno : -ENOSPC;
    close(fd);
    if (!err && rename(path, options.pid_file) < 0) err = -errno;
    if (err) unlink(path);
    wrote_pid_file = !err;
    return err;
}

/* Another process may have put its own there. */
static bool pid_file_is_ours(void) {
    int pid = 0;
    FILE *f = wrote_pid_file ? fopen(options.pid_file, "re") : NULL;
    if (!f) return false;
    if (fscanf(f, "%d", &pid) != 1) pid = 0; /* NOLINT: a number that is too large is not ours */
    fclose(f);
    return pid == getpid();
}

/* ---- stopping ---- */

static _Noreturn void end_serving(void) {
    upgrade_end();
    if (pid_file_is_ours()) unlink(options.pid_file);
    finish(0);
}

static void drain_main(void *arg) {
    (void)arg;
    int64_t deadline = rt_nanotime() + (int64_t)(options.drain_timeout * 1e9);
    generation_stop(deadline);
    if (!server_wait_all(deadline))
        log_line(LOG_WARN, "stopped with requests unfinished after %g s", options.drain_timeout);
    upgrade_wait(deadline + 2 * NS_PER_SEC);
    end_serving();
}

/* Requests in flight are answered, within the drain timeout. False: that has begun before. */
static bool stop_serving(void (*stop)(host_server *)) {
    static _Atomic bool stopped;
    if (atomic_exchange(&stopped, true)) return false;
    for (int i = 0; i < n_listeners; i++)
        stop(listeners[i]);
    rt_go(drain_main, NULL);
    return true;
}

/* ---- upgrades ---- */

static void upgrade_ready(pid_t pid) {
    log_line(LOG_INFO, "SIGUSR2: process %d serves, this one stops", (int)pid);
    notify_main_pid(pid);
    stop_serving(server_hand_over);
}

/* The new process may have got as far as to write its pid. */
static void upgrade_failed(void) {
    int err = pid_file_is_ours() ? 0 : write_pid_file();
    if (err) log_line(LOG_ERROR, "%s: %s", options.pid_file, rt_strerror(err));
}

/* ---- signals ---- */

/* Before anybody is told that we listen: who knows may send one. It waits for serve_until_signal. */
static void catch_signals(void) {
    static const int wanted[] = {SIGTERM, SIGINT, SIGUSR2};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (rt_signal_notify(wanted[i]) < 0) rt_throw("cannot handle signal %d", wanted[i]);
}

/* Says in the log what came of it. */
static void reload(void *arg) {
    (void)arg;
    char *what;
    notify_reloading();
    generation_reload(&what);
    notify_ready();
    free(what);
}

/* A second signal to stop does not wait. */
static _Noreturn void serve_until_signal(void) {
    bool asked = false;
    for (;;) {
        int signo = signals_wait();
        if (signo == SIGHUP) {
            rt_go(reload, NULL);
            continue;
        }
        if (signo == SIGUSR2) {
            upgrade_start(listeners, n_listeners, upgrade_ready, upgrade_failed);
            continue;
        }
        if (asked) end_serving();
        asked = true;
        log_line(LOG_INFO, "%s: stopping", signo == SIGTERM ? "SIGTERM" : "SIGINT");
        upgrade_stop();
        if (stop_serving(server_stop)) notify_stopping(); /* else the service goes on without us */
    }
}

/* The app tells further options. */
static void load_app(const char *path) {
    signals_reserve();
    pool_init();
    dump_init();
    char *err = generation_start(path);
    if (!err) return;
    log_end();
    fprintf(stderr, "lunapark: %s\n", err);
    finish(1);
}

/* vm: that answers there; NULL: the generation's. */
static host_server *open_listener(const char *addr, host_vm *vm) {
    int err;
    bool owns_path;
    int fd = inherit_take(addr, &owns_path);
    host_server *s =
        fd < 0 ? server_open(addr, 0, vm, &err) : server_adopt(fd, addr, owns_path, 0, vm, &err);
    if (s) return s;
    fprintf(stderr, "lunapark: cannot listen on %s: %s\n", addr, rt_strerror(err));
    finish(1);
}

/* All are bound and the pid file is written before one client is accepted: see server.c. */
static void listen_all(void) {
    if (options.n_listen == 0) options.n_listen = inherit_given(options.listen, MAX_LISTEN);
    if (options.n_listen == 0) options.listen[options.n_listen++] = "127.0.0.1:8080";
    for (int i = 0; i < options.n_listen; i++)
        listeners[n_listeners++] = open_listener(options.listen[i], NULL);
    if (options.admin) {
        host_server *admin = listeners[n_listeners++] = open_listener(options.admin, admin_vm());
        /* A socket file is for its owner alone; who else may reach a port is the user's care. */
        if (strncmp(admin->addr, "unix:", 5) == 0) chmod(admin->addr + strlen("unix:"), 0600);
    }
    int err = write_pid_file();
    if (err) {
        fprintf(stderr, "lunapark: %s: %s\n", options.pid_file, rt_strerror(err));
        finish(1);
    }
    for (int i = 0; i < n_listeners; i++)
        server_start(listeners[i]);
    log_end(); /* what was logged before it stands before it */
    for (int i = 0; i < options.n_listen; i++) {
        const char *addr = listeners[i]->addr;
        bool tcp = strncmp(addr, "unix:", 5) != 0;
        fprintf(stderr, "lunapark: listening on %s%s\n", tcp ? "http://" : "", addr);
    }
    if (options.admin) {
        const char *addr = listeners[options.n_listen]->addr;
        bool unix_socket = strncmp(addr, "unix:", 5) == 0;
        fprintf(stderr, "lunapark: admin on %s%s\n", unix_socket ? "" : "http://", addr);
    }
    /* systemd listens to its main process only, which after an upgrade the old one makes us. */
    if (!inherit_is_upgrade()) notify_ready();
    inherit_done();
}

static void say_generation(void) {
    char id[SOURCE_ID_SIZE];
    int number = generation_now(id);
    if (number > 0) log_line(LOG_INFO, "generation %d (%s) serves", number, id);
}

void command_serve(void *call) {
    command_call *c = call;
    if (options.dev) options.watch = 1;
    if (rt_signal_notify(SIGHUP) < 0) rt_throw("cannot handle SIGHUP"); /* while it loads, too */
    load_app(c->argv[0]);
    catch_signals();
    listen_all();
    say_generation();
    serve_until_signal();
}
