/* The admin listener (--admin): lunapark.command.admin, a Lua app of ours in a VM of its own. This VM belongs to no
 * generation: it answers while apps are loaded, get stuck or end. */
#include "admin.h"

#include "../base/log.h"
#include "../base/options.h"
#include "../generation/generation.h"
#include "../generation/history.h"
#include "../generation/message.h"
#include "../http/http.h"
#include "../vm/job.h"
#include "../vm/vm.h"
#include "../vm/vmcall.h"
#include "command_ffi.h"
#include "commands.h"

#include <stdlib.h>
#include <string.h>

/* The limits of the admin listener, which the app cannot change. A handler has no timeout. Its waits end by themselves:
 * a recording by its seconds, a reload by --load-timeout. And it is canceled when its client leaves. Its computing is
 * bounded by the size of a recording (runtime/prof.c). */
static const host_limits limits = {.max_body = 65536,
                                   .max_head = 16384,
                                   .max_headers = 100,
                                   .min_rate = 240,
                                   .header_timeout = 10,
                                   .idle_timeout = 75};

host_listener admin_listener(void) {
    host_vm *vm = vm_new(-1);
    if (!vm) start_failed("admin: not enough memory");
    vm->gc.serves = true;
    return (host_listener){.addr = options.admin,
                           .protocol = &http_protocol,
                           .is_private = true,
                           .vm = vm,
                           .limits = &limits};
}

void admin_load(host_vm *vm) {
    vm_call *c = vm_call_begin(vm, "admin", 0, NULL);
    vm_call_wait(c, 0);
    if (vm_call_error(c)) start_failed("admin: %s", vm_call_error(c));
    vm_call_free(c);
}

/* ---- reloads, for Lua ---- */

typedef struct reload_job {
    reload_ask ask;
    reload_result result;
    char *what;
} reload_job;

static void run(void *arg) {
    reload_job *r = arg;
    r->result = generation_reload(&r->ask, &r->what);
}

static void free_job(void *arg) {
    reload_job *r = arg;
    message_free(r->what);
    free((char *)r->ask.message);
    free((char *)r->ask.to);
    free(r);
}

host_job *host_reload(const char *to, const char *message) {
    reload_job *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->ask.cause = BY_ADMIN;
    r->ask.message = strdup(message);
    if (to) r->ask.to = strdup(to);
    if (r->ask.message && (r->ask.to || !to)) return job_new(run, free_job, r);
    free_job(r);
    return NULL;
}

const char *host_reload_result(host_job *job, int *result) {
    reload_job *r = job_arg(job);
    if (!r) return NULL;
    *result = r->result;
    return r->what;
}

static void put_id(const char *from, char *to, size_t cap) {
    if (cap == 0) return;
    strncpy(to, from, cap - 1);
    to[cap - 1] = 0;
}

int host_generation(char *id, char *commit, size_t cap) {
    char now[SOURCE_ID_SIZE], now_commit[SOURCE_ID_SIZE];
    int number = generation_now(now, now_commit);
    put_id(now, id, cap);
    put_id(now_commit, commit, cap);
    return number;
}

/* ---- the history, for Lua ---- */

typedef struct list_job {
    char *text; /* NULL: no memory */
    size_t len;
} list_job;

static void list(void *arg) {
    list_job *l = arg;
    rt_entersyscall();
    l->text = history_print(&l->len);
    rt_exitsyscall();
}

static void free_list_job(void *arg) {
    list_job *l = arg;
    free(l->text);
    free(l);
}

host_job *host_generations(void) {
    list_job *l = calloc(1, sizeof *l);
    return l ? job_new(list, free_list_job, l) : NULL;
}

const char *host_generations_text(host_job *job, size_t *len) {
    const list_job *l = job_arg(job);
    *len = l ? l->len : 0;
    return l ? l->text : NULL;
}

typedef struct tag_job {
    char *name, *to;
    history_result result;
    char *what;
} tag_job;

static void run_tag(void *arg) {
    tag_job *t = arg;
    rt_entersyscallblock();
    t->result = history_tag(t->name, t->to, &t->what);
    rt_exitsyscall();
}

static void free_tag_job(void *arg) {
    tag_job *t = arg;
    message_free(t->what);
    free(t->name);
    free(t->to);
    free(t);
}

host_job *host_tag(const char *name, const char *to) {
    tag_job *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    t->name = strdup(name);
    t->to = to ? strdup(to) : NULL;
    if (t->name && (t->to || !to)) return job_new(run_tag, free_tag_job, t);
    free_tag_job(t);
    return NULL;
}

const char *host_tag_result(host_job *job, int *result) {
    const tag_job *t = job_arg(job);
    if (!t) return NULL;
    *result = (int)t->result;
    return t->what;
}

/* ---- the caller, and the question ---- */

int host_admin_token(const char *given, size_t len) {
    const char *token = options.admin_token;
    if (!token) return -1;
    size_t n = strlen(token);
    unsigned differ = n != len;
    for (size_t i = 0; i < len; i++)
        differ |= (unsigned char)given[i] ^ (unsigned char)token[i < n ? i : 0];
    return !differ;
}

const char *host_version(void) {
    return LUNAPARK_VERSION;
}
