/* What serve, run, test and check do, on the main G.
 *
 * Each makes its VMs and calls a function of lunapark.boot in them, as a Lua G of that VM, so that a
 * script may wait, start Gs and open sockets while it loads. What Lua reports comes back as the
 * values of that function: nothing when all is well, or a message.
 */
#include "commands.h"

#include "dump.h"
#include "host.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Ends the process: what is buffered and logged is written, other Gs end where they are. */
static _Noreturn void finish(int code) {
    fflush(NULL);
    log_end();
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

/* ---- serve ---- */

static host_server *listeners[MAX_LISTEN];
static char bound_pid_file[1024];

static void write_pid_file(void) {
    if (!options.pid_file) return;
    FILE *f = fopen(options.pid_file, "we");
    if (!f || fprintf(f, "%d\n", (int)getpid()) < 0 || fclose(f) != 0) {
        fprintf(stderr, "lunapark: %s: %s\n", options.pid_file, strerror(errno));
        finish(1);
    }
    snprintf(bound_pid_file, sizeof bound_pid_file, "%s", options.pid_file);
}

static _Noreturn void end_serving(void) {
    if (bound_pid_file[0]) unlink(bound_pid_file);
    finish(0);
}

static void drain_main(void *arg) {
    (void)arg;
    if (!server_wait_all(rt_nanotime() + (int64_t)(options.drain_timeout * 1e9)))
        log_line(LOG_WARN, "stopped with requests unfinished after %g s", options.drain_timeout);
    end_serving();
}

/* Before anybody is told that we listen: who knows may send one. It waits for serve_until_signal. */
static void catch_signals(void) {
    static const int wanted[] = {SIGTERM, SIGINT};
    for (int i = 0; i < 2; i++)
        if (rt_signal_notify(wanted[i]) < 0) rt_throw("cannot handle signal %d", wanted[i]);
}

/* Requests in flight are answered, within the drain timeout; a second signal does not wait. */
static _Noreturn void serve_until_signal(void) {
    bool asked = false;
    for (;;) {
        int signo = signals_wait();
        if (asked) end_serving();
        asked = true;
        log_line(LOG_INFO, "%s: stopping", signo == SIGTERM ? "SIGTERM" : "SIGINT");
        for (int i = 0; i < options.n_listen; i++)
            server_stop(listeners[i]);
        rt_go(drain_main, NULL);
    }
}

static char *app_path;

static char *load_app(host_vm *vm) {
    return call_boot(vm, "serve", 1, &app_path);
}

/* The first VM tells the options that the app wants; all must load. */
static void start_vms(char *path) {
    app_path = path;
    signals_reserve();
    pool_init();
    dump_init();
    char *err = pool_start(load_app);
    if (!err) return;
    log_end();
    fprintf(stderr, "lunapark: %s\n", err);
    finish(1);
}

static void listen_all(void) {
    if (options.n_listen == 0) options.listen[options.n_listen++] = "127.0.0.1:8080";
    for (int i = 0; i < options.n_listen; i++) {
        int err;
        listeners[i] = server_new(options.listen[i], 0, NULL, &err);
        if (listeners[i]) continue;
        fprintf(stderr, "lunapark: cannot listen on %s: %s\n", options.listen[i], rt_strerror(err));
        finish(1);
    }
    write_pid_file();
    for (int i = 0; i < options.n_listen; i++) {
        const char *addr = listeners[i]->addr;
        bool tcp = strncmp(addr, "unix:", 5) != 0;
        fprintf(stderr, "lunapark: listening on %s%s\n", tcp ? "http://" : "", addr);
    }
}

void command_serve(void *call) {
    command_call *c = call;
    start_vms(c->argv[0]);
    catch_signals();
    listen_all();
    serve_until_signal();
}
