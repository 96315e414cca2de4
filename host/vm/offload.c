/* Blocking C functions on other threads: what lp.offload stands on.
 *
 * A call is made by a native G between rt_entersyscall and rt_exitsyscall, on a stack of its own, while the Lua
 * G that asked for it waits. Lua has classified the arguments (core/offload.lua): whole numbers and pointers in
 * `ints`, floating-point numbers in `floats`, each in the order of the parameters. Both calling conventions
 * that we know (System V's on x86-64, AAPCS64) pass the two classes in registers of their own, so one call with
 * all of them set serves every function whose arguments fit in: what it does not look at does no harm.
 * The result comes in the first register of the one class or the other.
 *
 * The call outlives the wait if that ends by a timeout, so the two sides hold it. Memory of Lua's that the
 * arguments point to is kept by a Lua G, which stays until the call has ended (core/offload.lua). That does not help
 * where a VM is dropped with its heap, so its end waits for its calls.
 *
 * Each call blocks a thread. When no more threads or stacks can be had, calls queue for those that run; when none runs,
 * the call fails. A start that fails between the end of the last runner's and its own look at the queue fails, too.
 */
#include "offload.h"

#include "../base/base.h"
#include "../base/bell.h"
#include "../base/list.h"
#include "../base/refs.h"
#include "luag.h"
#include "owned.h"
#include "vm.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { CALL_STACK = 1 << 20 };

typedef struct call {
    host_call args; /* first: what Lua sees */
    host_owned owned;
    list_link link; /* of queue.waiting */
    bell done;      /* rung once */
    refs refs;
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
    if (refs_drop(&c->refs)) free(c);
}

/* Calls that wait for a thread. */
static struct {
    rt_lock lock;
    list_head waiting; /* lock */
    int runners;       /* lock */
} queue;

static void run_one(call *c) {
    if (!atomic_load(&c->owned.vm->dropped)) {
        rt_entersyscall();
        make(&c->args);
        rt_exitsyscall();
    }
    bell_ring(&c->done);
    atomic_fetch_sub(&c->owned.vm->n_calls, 1); /* from here on the VM may go */
    let_go(c);
}

/* NULL: there is none, and the runner is one no more. */
static call *next_call(void) {
    rt_lock_acquire(&queue.lock);
    list_link *l = list_take_first(&queue.waiting);
    if (!l) queue.runners--;
    rt_lock_release(&queue.lock);
    return l ? list_of(l, call, link) : NULL;
}

static void run(void *arg) {
    for (call *c = arg; c; c = next_call())
        run_one(c);
    rt_release_thread();
}

/* 0 or -errno. */
static int start_runner(call *c) {
    if (!rt_claim_thread()) return -EAGAIN;
    rt_lock_acquire(&queue.lock);
    queue.runners++;
    rt_lock_release(&queue.lock);
    if (rt_go_stack(run, c, CALL_STACK)) return 0;
    rt_lock_acquire(&queue.lock);
    queue.runners--;
    rt_lock_release(&queue.lock);
    rt_release_thread();
    return -ENOMEM;
}

/* False: nobody runs calls. */
static bool enqueue(call *c) {
    rt_lock_acquire(&queue.lock);
    bool busy = queue.runners > 0;
    if (busy) list_append(&queue.waiting, &c->link);
    rt_lock_release(&queue.lock);
    return busy;
}

static void lua_lets_go(host_owned *o) {
    let_go(list_of(o, call, owned));
}

static const owned_kind call_kind = {OWNED_THINGS, lua_lets_go};

/* They use what Lua gave them. */
static void wait_for_calls(host_owned *o) {
    while (atomic_load(&o->vm->n_calls) > 0)
        rt_sleep(NS_PER_SEC / 100);
}

static const owned_kind calls_kind = {OWNED_USERS, wait_for_calls};

host_call *host_call_new(void) {
    call *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    refs_init(&c->refs, 1);
    owned_take(&c->owned, &call_kind);
    owned_once(c->owned.vm, &c->owned.vm->entries.calls, &calls_kind);
    return &c->args;
}

int host_call_start(host_call *a) {
    call *c = (call *)a;
    refs_hold(&c->refs);
    atomic_fetch_add(&c->owned.vm->n_calls, 1);
    int err = start_runner(c);
    if (!err || enqueue(c)) return 0;
    atomic_fetch_sub(&c->owned.vm->n_calls, 1);
    let_go(c);
    return err;
}

int host_call_done(const host_call *a) {
    return bell_is_rung(&((const call *)a)->done);
}

void host_call_free(host_call *a) {
    owned_free(&((call *)a)->owned);
}

bool call_open(host_call *a, host_luag *lg, uint64_t ticket) {
    return bell_arm(&((call *)a)->done, lg->g, ticket);
}
