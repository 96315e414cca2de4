/* The commands serve, run, test, check, routes, repl and tag, on the main G.
 *
 * Each makes its VMs and calls a function of lunapark.command.boot in them, as a Lua G of the VM, so that a script may
 * wait, start Gs and open sockets while it loads. Lua reports by the values of this function: nothing when all is well,
 * or a message.
 */
#include "commands.h"

#include "../base/log.h"
#include "../base/options.h"
#include "../generation/generation.h"
#include "../generation/listeners.h"
#include "../generation/message.h"
#include "../generation/pool.h"
#include "../http/http.h"
#include "../serve/server.h"
#include "../shared/dict_file.h"
#include "../sys/signals.h"
#include "../vm/block.h"
#include "../vm/dump.h"
#include "../vm/vmcall.h"
#include "admin.h"
#include "command_ffi.h"
#include "https.h"
#include "inherit.h"
#include "logfiles.h"
#include "notify.h"
#include "pidfile.h"
#include "recording.h"
#include "repl.h"
#include "upgrade.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Ends the process: buffered and logged output is written, other Gs end where they are. */
static _Noreturn void finish(int code) {
    repl_end();
    fflush(NULL);
    dict_files_end();
    log_end();
    _exit(code);
}

/* ---- run, test, check, routes, repl, tag ---- */

static _Noreturn void one_vm(const char *fn, void *call) {
    command_call *c = call;
    pool_init();
    dump_init();
    struct iovec *args = calloc((size_t)c->argc + 1, sizeof *args);
    host_vm *vm = vm_new(0);
    if (!args || !vm) start_failed("not enough memory");
    for (int i = 0; i < c->argc; i++)
        args[i] = (struct iovec){c->argv[i], strlen(c->argv[i])};
    vm_call *main_call = vm_call_begin(vm, fn, c->argc, args);
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

void command_routes(void *call) {
    signals_reserve(); /* as serve would */
    one_vm("routes", call);
}

void command_test(void *call) {
    one_vm("test", call);
}

void command_repl(void *call) {
    one_vm("repl", call);
}

void command_tag(void *call) {
    one_vm("tag", call);
}

/* ---- serve ---- */

/* The admin listener is the last of them. */
static host_server *listeners[MAX_LISTEN + 1];
_Static_assert((int)MAX_LISTEN + 1 + (int)MAX_APP_LISTEN <= (int)UPGRADE_MAX, "all listeners fit");
static int n_listeners;

/* ---- stopping ---- */

/* Stops that scripts ask for: lunapark.stop. */
static struct {
    _Atomic int code; /* atomic: the first code that was asked for; -1: none */
    _Atomic bool serving, begun;
} own_stop = {.code = -1};

static _Noreturn void end_serving(void) {
    upgrade_end();
    pidfile_unmake();
    int code = atomic_load(&own_stop.code);
    finish(code < 0 ? 0 : code);
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

/* Stops the listeners; requests in flight are answered within the drain timeout; then the process ends. Does nothing if
 * a stop has begun. tell (may be NULL) is called first, since the process may end at once. */
static void stop_serving(void (*stop)(host_server *), void (*tell)(void)) {
    static _Atomic bool stopped;
    if (atomic_exchange(&stopped, true)) return;
    if (tell) tell();
    recording_stop();
    for (int i = 0; i < n_listeners; i++)
        stop(listeners[i]);
    listeners_stop(stop);
    if (!rt_go(drain_main, NULL)) drain_main(NULL); /* no second signal is heard then */
}

/* ---- stopping because a script says so ---- */

static void stop_main(void *arg) {
    (void)arg;
    if (atomic_exchange(&own_stop.begun, true)) return;
    log_line(LOG_INFO, "lunapark.stop: stopping");
    upgrade_stop();
    stop_serving(server_stop, notify_stopping);
}

void host_stop(int code) {
    int none = -1;
    if (!atomic_compare_exchange_strong(&own_stop.code, &none, code)) return;
    if (!atomic_load(&own_stop.serving) || rt_go(stop_main, NULL)) return;
    log_line(LOG_ERROR, "lunapark.stop: not enough memory");
    atomic_store(&own_stop.code, -1);
}

/* A script may have called lunapark.stop while it was loaded. */
static void stop_if_told(void) {
    atomic_store(&own_stop.serving, true);
    if (atomic_load(&own_stop.code) >= 0 && !rt_go(stop_main, NULL)) stop_main(NULL);
}

/* ---- upgrades ---- */

static void upgrade_ready(pid_t pid) {
    log_line(LOG_INFO, "SIGUSR2: process %d serves, this one stops", (int)pid);
    notify_main_pid(pid);
    stop_serving(server_hand_over, NULL); /* the service goes on without this process */
}

/* The new process may have written its pid. */
static void upgrade_failed(void) {
    int err = pidfile_is_ours() ? 0 : pidfile_make();
    if (err) log_line(LOG_ERROR, "%s: %s", options.pid_file, rt_strerror(err));
}

static void upgrade(void) {
    host_server *all[UPGRADE_MAX];
    for (int i = 0; i < n_listeners; i++)
        all[i] = listeners[i];
    int n = listeners_list(all + n_listeners);
    upgrade_start(all, n_listeners + n, upgrade_ready, upgrade_failed);
    for (int i = 0; i < n; i++)
        server_release(all[n_listeners + i]);
}

/* ---- signals ---- */

/* Before any process is told that we listen, and may send a signal. Signals wait for serve_until_signal. */
static void catch_signals(void) {
    static const int wanted[] = {SIGTERM, SIGINT, SIGUSR2};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (rt_signal_notify(wanted[i]) < 0) start_failed("cannot handle signal %d", wanted[i]);
}

/* Reloads; the log says the result. */
static void reload(void *arg) {
    (void)arg;
    char *what;
    notify_reloading();
    generation_reload(&(reload_ask){.cause = BY_SIGNAL}, &what);
    notify_ready();
    message_free(what);
}

/* A second signal to stop does not wait. */
static _Noreturn void serve_until_signal(void) {
    bool asked = false;
    for (;;) {
        int signo = signals_wait();
        if (signo == SIGHUP) {
            logfiles_reopen();
            https_reload();
            if (!rt_go(reload, NULL)) log_line(LOG_ERROR, "reload failed: not enough memory");
            continue;
        }
        if (signo == SIGUSR2) {
            upgrade();
            continue;
        }
        if (asked) end_serving();
        asked = true;
        log_line(LOG_INFO, "%s: stopping", signo == SIGTERM ? "SIGTERM" : "SIGINT");
        upgrade_stop();
        stop_serving(server_stop, notify_stopping);
    }
}

/* Opens a listener, with a socket that the process was given if there is one. Who may reach a port is the user's
 * care. */
static host_server *find_or_open(const host_listener *l, int *err) {
    bool owns_path;
    int fd = inherit_take(l, &owns_path);
    return fd < 0 ? server_open(l, err) : server_adopt(fd, owns_path, l, err);
}

/* Loads the app, which may set further options. */
static void load_app(const char *path) {
    signals_reserve();
    pool_init();
    dump_init();
    recording_init();
    char *err = generation_start(path, !inherit_is_upgrade(), find_or_open);
    if (!err) return;
    log_end();
    fprintf(stderr, "lunapark: %s\n", err);
    finish(1);
}

static host_server *open_listener(const host_listener *l) {
    int err;
    host_server *s = find_or_open(l, &err);
    if (s) return s;
    fprintf(stderr, "lunapark: cannot listen on %s: %s\n", l->addr, rt_strerror(err));
    finish(1);
}

static void open_listeners(certs *tls) {
    for (int i = 0; i < options.n_listen; i++)
        listeners[n_listeners++] = open_listener(&(host_listener){.addr = options.listen[i],
                                                                  .protocol = &http_protocol,
                                                                  .is_proxied = true,
                                                                  .certs = tls,
                                                                  .limits = &options.limits});
    if (!options.admin) return;
    host_listener admin = admin_listener();
    listeners[n_listeners++] = open_listener(&admin);
    admin_load(admin.vm);
}

void check_reach(void) {
    for (int i = 0; options.dev == 1 && i < options.n_listen; i++) {
        if (addr_is_local(options.listen[i])) continue;
        fprintf(stderr,
                "lunapark: --dev shows the app's source, and other machines can reach %s: listen "
                "on 127.0.0.1, or\n"
                "say --dev=public\n",
                options.listen[i]);
        finish(64);
    }
    if (!options.admin || options.admin_token || addr_is_local(options.admin)) return;
    fprintf(stderr,
            "lunapark: --admin %s, which other machines can reach, needs --admin-token (or "
            "LUNAPARK_ADMIN_TOKEN)\n",
            options.admin);
    finish(64);
}

static void say_listener(const char *scheme, const host_server *s) {
    bool is_unix = strncmp(s->addr, "unix:", 5) == 0;
    fprintf(stderr, "lunapark: listening on %s%s\n", is_unix ? "" : scheme, s->addr);
}

/* All are bound and the pid file is written before one client is accepted: see server.c. */
static void listen_all(void) {
    if (options.n_listen == 0) options.n_listen = inherit_given(options.listen, MAX_LISTEN);
    if (options.n_listen == 0) options.listen[options.n_listen++] = "127.0.0.1:8080";
    check_reach();
    certs *tls = https_open();
    open_listeners(tls);
    int err = pidfile_make();
    if (err) {
        fprintf(stderr, "lunapark: %s: %s\n", options.pid_file, rt_strerror(err));
        finish(1);
    }
    for (int i = 0; i < n_listeners; i++) {
        err = server_start(listeners[i]);
        if (err) start_failed("cannot listen on %s: %s", listeners[i]->addr, rt_strerror(err));
    }
    char *wrong = listeners_begin();
    if (wrong) start_failed("%s", wrong);
    https_watch();
    log_end(); /* what was logged before it stands before it */
    for (int i = 0; i < options.n_listen; i++)
        say_listener(tls ? "https://" : "http://", listeners[i]);
    host_server *of_app[MAX_APP_LISTEN];
    int n = listeners_list(of_app);
    for (int i = 0; i < n; i++) {
        say_listener("tcp://", of_app[i]);
        server_release(of_app[i]);
    }
    if (options.admin) {
        const char *addr = listeners[options.n_listen]->addr;
        bool unix_socket = strncmp(addr, "unix:", 5) == 0;
        fprintf(stderr, "lunapark: admin on %s%s\n", unix_socket ? "" : "http://", addr);
    }
    /* systemd listens to its main process only. After an upgrade the old process makes us the main one. */
    if (!inherit_is_upgrade()) notify_ready();
    inherit_done();
}

static void say_generation(void) {
    char id[SOURCE_ID_SIZE];
    int number = generation_now(id, NULL);
    if (number > 0) log_line(LOG_INFO, "generation %d (%s) serves", number, id);
}

void command_serve(void *call) {
    command_call *c = call;
    if (options.dev) options.watch = 1;
    inherit_procs();
    if (rt_signal_notify(SIGHUP) < 0)
        start_failed("cannot handle SIGHUP"); /* also while the app loads */
    logfiles_open();
    load_app(c->argv[0]);
    logfiles_open(); /* those that the app names */
    catch_signals();
    listen_all();
    say_generation();
    stop_if_told();
    serve_until_signal();
}
