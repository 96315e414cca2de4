/* What serve, run, test and check do, on the main G.
 *
 * Each makes its VMs and calls a function of lunapark.boot in them, as a Lua G of that VM, so that a
 * script may wait, start Gs and open sockets while it loads. What Lua reports comes back as the
 * values of that function: nothing when all is well, or a message.
 */
#include "commands.h"

#include "dump.h"
#include "host.h"
#include "inherit.h"
#include "notify.h"
#include "upgrade.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Ends the process: what is buffered is written, other Gs end where they are. */
static _Noreturn void finish(int code) {
    fflush(NULL);
    _exit(code);
}

/* ---- calling Lua and waiting for it ---- */

typedef struct boot_call {
    const char *fn; /* of lunapark.boot */
    int argc;
    char **argv;
    rt_g *waiter;
    uint64_t ticket;
    char *error; /* NULL: it returned nothing */
} boot_call;

/* In the VM: pushes a function that calls lunapark.boot's. require itself runs in the G, so that an
 * error there is reported as any other. */
static int push_call(host_vm *vm, lua_State *L, void *arg) {
    (void)vm;
    boot_call *c = arg;
    static const char trampoline[] = "local name = ...\n"
                                     "return require('lunapark.boot')[name](select(2, ...))";
    if (luaL_loadbuffer(L, trampoline, sizeof trampoline - 1, "=boot") != 0)
        rt_throw("boot: %s", lua_tostring(L, -1));
    lua_pushstring(L, c->fn);
    for (int i = 0; i < c->argc; i++)
        lua_pushstring(L, c->argv[i]);
    return c->argc + 1;
}

static void call_done(host_luag *lg, int status) {
    boot_call *c = lg->done_arg;
    const char *msg = lua_gettop(lg->L) > 0 ? lua_tostring(lg->L, -1) : NULL;
    if (status != 0 && !msg) msg = "(error object is not a string)";
    if (msg) c->error = strdup(msg);
    luag_give(lg, status);
    rt_wake(c->waiter, c->ticket, RT_WOKEN);
}

/* boot[fn](argv ...) in vm; the message it returned or raised, to be freed, or NULL. Waits. */
static char *call_boot(host_vm *vm, const char *fn, int argc, char **argv) {
    boot_call c = {.fn = fn, .argc = argc, .argv = argv, .waiter = rt_self()};
    c.ticket = rt_wait_open(c.waiter);
    luag_spawn(vm, push_call, &c, call_done, &c);
    rt_wait(RT_WAIT_OTHER, 0);
    return c.error;
}

/* ---- run, test, check ---- */

static _Noreturn void one_vm(const char *fn, void *call) {
    command_call *c = call;
    pool_init();
    dump_init();
    char *err = call_boot(vm_new(0), fn, c->argc, c->argv);
    if (err) fprintf(stderr, "lunapark: %s\n", err);
    finish(err ? 1 : 0);
}

void command_run(void *call) {
    one_vm("run", call);
}

void command_check(void *call) {
    one_vm("check", call);
}

void command_test(void *call) {
    one_vm("test", call);
}

/* ---- serve ---- */

static host_server *listeners[MAX_LISTEN];

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
    if (!server_wait_all(deadline))
        log_line(LOG_WARN, "stopped with requests unfinished after %g s", options.drain_timeout);
    upgrade_wait(deadline + 2 * NS_PER_SEC);
    end_serving();
}

/* Requests in flight are answered, within the drain timeout. False: that has begun before. */
static bool stop_serving(void (*stop)(host_server *)) {
    static _Atomic bool stopped;
    if (atomic_exchange(&stopped, true)) return false;
    for (int i = 0; i < options.n_listen; i++)
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

/* A second signal to stop does not wait. */
static _Noreturn void serve_until_signal(void) {
    bool asked = false;
    for (;;) {
        int signo = rt_signal_wait();
        if (signo == SIGUSR2) {
            upgrade_start(listeners, options.n_listen, upgrade_ready, upgrade_failed);
            continue;
        }
        if (asked) end_serving();
        asked = true;
        log_line(LOG_INFO, "%s: stopping", signo == SIGTERM ? "SIGTERM" : "SIGINT");
        upgrade_stop();
        if (stop_serving(server_stop)) notify_stopping(); /* else the service goes on without us */
    }
}

static char *app_path;

static char *load_app(host_vm *vm) {
    return call_boot(vm, "serve", 1, &app_path);
}

/* The first VM tells the options that the app wants; all must load. */
static void start_vms(char *path) {
    app_path = path;
    pool_init();
    dump_init();
    char *err = pool_start(load_app);
    if (!err) return;
    fprintf(stderr, "lunapark: %s\n", err);
    finish(1);
}

static host_server *open_listener(const char *addr) {
    int err;
    bool owns_path;
    int fd = inherit_take(addr, &owns_path);
    host_server *s = fd < 0 ? server_open(addr, 0, NULL, &err)
                            : server_adopt(fd, addr, owns_path, 0, NULL, &err);
    if (s) return s;
    fprintf(stderr, "lunapark: cannot listen on %s: %s\n", addr, rt_strerror(err));
    finish(1);
}

/* All are bound and the pid file is written before one client is accepted: see server.c. */
static void listen_all(void) {
    if (options.n_listen == 0) options.n_listen = inherit_given(options.listen, MAX_LISTEN);
    if (options.n_listen == 0) options.listen[options.n_listen++] = "127.0.0.1:8080";
    for (int i = 0; i < options.n_listen; i++)
        listeners[i] = open_listener(options.listen[i]);
    int err = write_pid_file();
    if (err) {
        fprintf(stderr, "lunapark: %s: %s\n", options.pid_file, rt_strerror(err));
        finish(1);
    }
    for (int i = 0; i < options.n_listen; i++)
        server_start(listeners[i]);
    for (int i = 0; i < options.n_listen; i++) {
        const char *addr = listeners[i]->addr;
        bool tcp = strncmp(addr, "unix:", 5) != 0;
        fprintf(stderr, "lunapark: listening on %s%s\n", tcp ? "http://" : "", addr);
    }
    /* systemd listens to its main process only, which after an upgrade the old one makes us. */
    if (!inherit_is_upgrade()) notify_ready();
    inherit_done();
}

void command_serve(void *call) {
    command_call *c = call;
    start_vms(c->argv[0]);
    catch_signals();
    listen_all();
    serve_until_signal();
}
