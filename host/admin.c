/* The admin listener (--admin): lunapark.admin, a Lua app of ours in a VM of its own, which belongs to no generation: it
 * answers while apps are loaded, get stuck or end. */
#include "admin.h"

#include "commands.h"
#include "generation.h"
#include "job.h"
#include "vmcall.h"

#include <stdlib.h>
#include <string.h>

host_vm *admin_vm(void) {
    host_vm *vm = vm_new(-1);
    vm->gc.serves = true;
    vm_call *c = vm_call_begin(vm, "admin", 0, NULL);
    vm_call_wait(c, 0);
    if (vm_call_error(c)) rt_throw("lunapark.admin: %s", vm_call_error(c));
    vm_call_free(c);
    return vm;
}

/* ---- reloads, for Lua ---- */

typedef struct reload_job {
    reload_result result;
    char *what;
} reload_job;

static void run(void *arg) {
    reload_job *r = arg;
    r->result = generation_reload(&r->what);
}

static void free_job(void *arg) {
    reload_job *r = arg;
    free(r->what);
    free(r);
}

host_job *host_reload(void) {
    reload_job *r = calloc(1, sizeof *r);
    return r ? job_new(run, free_job, r) : NULL;
}

const char *host_reload_result(host_job *job, int *result) {
    reload_job *r = job_arg(job);
    *result = r->result;
    return r->what;
}

int host_generation(char *id, size_t cap) {
    char now[SOURCE_ID_SIZE];
    int number = generation_now(now);
    if (cap > 0) {
        strncpy(id, now, cap - 1);
        id[cap - 1] = 0;
    }
    return number;
}

const char *host_version(void) {
    return LUNAPARK_VERSION;
}
