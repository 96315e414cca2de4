/* Blocking C functions on other threads: what lp.offload stands on.
 *
 * A call is made by a native G between rt_entersyscall and rt_exitsyscall, on a stack of its own, while the Lua
 * G that asked for it waits. Lua has classified the arguments (offload.lua): whole numbers and pointers in
 * `ints`, floating-point numbers in `floats`, each in the order of the parameters. Both calling conventions
 * that we know (System V's on x86-64, AAPCS64) pass the two classes in registers of their own, so one call with
 * all of them set serves every function whose arguments fit in: what it does not look at does no harm.
 * The result comes in the first register of the one class or the other.
 *
 * The call outlives the wait if that ends by a timeout: `refs` counts the two sides. Memory of Lua's that the
 * arguments point to is kept by a Lua G, which stays until the call has ended (offload.lua). That does not help
 * where a VM is dropped with its heap, so vm_drop waits for its calls.
 *
 * `lock` guards who is to be woken: a wake-up that comes before the wait finds nobody, and the wait then
 * sees `done`.
 */
#include "host.h"

#include <errno.h>
#include <stdlib.h>

enum { CALL_STACK = 1 << 20 };

typedef struct call {
    host_call args; /* first: what Lua sees */
    rt_lock lock;
    rt_g *waiter; /* lock: who waits, or NULL */
    uint64_t ticket;
    _Atomic bool done;
    _Atomic int refs;
    host_vm *vm;
} call;

#define INTS(a)   (a)[0], (a)[1], (a)[2], (a)[3], (a)[4], (a)[5]
#define FLOATS(d) (d)[0], (d)[1], (d)[2], (d)[3], (d)[4], (d)[5], (d)[6], (d)[7]
#define PARAMETERS                                                                                 \
    int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, double, double, double, double, double,  \
        double, double, double

__attribute__((noinline)) static void set_errno(int err) {
    errno = err;
}

__attribute__((noinline)) static int get_errno(void) {
    return errno;
}

static void make(host_call *a) {
    set_errno(0);
    switch (a->result) {
    case HOST_RESULT_FLOAT:
        a->f = ((float (*)(PARAMETERS))a->fn)(INTS(a->ints), FLOATS(a->floats));
        break;
    case HOST_RESULT_DOUBLE:
        a->d = ((double (*)(PARAMETERS))a->fn)(INTS(a->ints), FLOATS(a->floats));
        break;
    default:
        a->i = ((int64_t(*)(PARAMETERS))a->fn)(INTS(a->ints), FLOATS(a->floats));
    }
    a->err = get_errno();
}

static void let_go(call *c) {
    if (atomic_fetch_sub(&c->refs, 1) == 1) free(c);
}

static void run(void *arg) {
    call *c = arg;
    rt_entersyscall();
    make(&c->args);
    rt_exitsyscall();
    rt_lock_acquire(&c->lock);
    atomic_store(&c->done, true);
    rt_g *g = c->waiter;
    uint64_t ticket = c->ticket;
    rt_lock_release(&c->lock);
    if (g) rt_wake(g, ticket, RT_WOKEN);
    atomic_fetch_sub(&c->vm->n_calls, 1); /* from here on the VM may go */
    let_go(c);
}

host_call *host_call_new(void) {
    call *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    atomic_store(&c->refs, 1);
    c->vm = vm_current();
    return &c->args;
}

void host_call_start(host_call *a) {
    call *c = (call *)a;
    atomic_fetch_add(&c->refs, 1);
    atomic_fetch_add(&c->vm->n_calls, 1);
    rt_go_stack(run, c, CALL_STACK);
}

int host_call_done(const host_call *a) {
    return atomic_load(&((const call *)a)->done);
}

void host_call_free(host_call *a) {
    let_go((call *)a);
}

bool call_open(host_call *a, host_luag *lg, uint64_t ticket) {
    call *c = (call *)a;
    rt_lock_acquire(&c->lock);
    c->waiter = lg->g;
    c->ticket = ticket;
    bool done = atomic_load(&c->done);
    rt_lock_release(&c->lock);
    return !done;
}
