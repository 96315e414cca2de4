/* What serve, run, test and check do, on the main G.
 *
 * Each makes its VMs and calls a function of lunapark.boot in them, as a Lua G of that VM, so that a
 * script may wait, start Gs and open sockets while it loads. What Lua reports comes back as the
 * values of that function: nothing when all is well, or a message.
 */
#include "commands.h"

#include "dump.h"
#include "generation.h"
#include "vmcall.h"

#include <errno.h>
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

/* ---- run, test, check ---- */

static _Noreturn void one_vm(const char *fn, void *call) {
    command_call *c = call;
    pool_init();
    dump_init();
    struct iovec *args = calloc((size_t)c->argc + 1, sizeof *args);
    if (!args) rt_throw("out of memory for %d arguments", c->argc);
    for (int i = 0; i < c->argc; i++)
        args[i] = (struct iovec){c->argv[i], strlen(c->argv[i])};
    vm_call *main_call = vm_call_begin(vm_new(0), fn, c->argc, args);
    vm_call_wait(main_call, 0);
    const char *err = vm_call_error(main_call);
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
    static const int wanted[] = {SIGTERM, SIGINT, SIGHUP};
    for (int i = 0; i < 3; i++)
        if (rt_signal_notify(wanted[i]) < 0) rt_throw("cannot handle signal %d", wanted[i]);
}

/* Says in the log what came of it. */
static void reload(void *arg) {
    (void)arg;
    char *what;
    generation_reload(&what);
    free(what);
}

/* Requests in flight are answered, within the drain timeout; a second signal does not wait. */
static _Noreturn void serve_until_signal(void) {
    bool asked = false;
    for (;;) {
        int signo = rt_signal_wait();
        if (signo == SIGHUP) {
            rt_go(reload, NULL);
            continue;
        }
        if (asked) end_serving();
        asked = true;
        log_line(LOG_INFO, "%s: stopping", signo == SIGTERM ? "SIGTERM" : "SIGINT");
        for (int i = 0; i < options.n_listen; i++)
            server_stop(listeners[i]);
        rt_go(drain_main, NULL);
    }
}

/* The app tells further options. */
static void load_app(const char *path) {
    pool_init();
    dump_init();
    char *err = generation_start(path);
    if (!err) return;
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
    if (options.dev) options.watch = 1;
    load_app(c->argv[0]);
    catch_signals();
    listen_all();
    serve_until_signal();
}
