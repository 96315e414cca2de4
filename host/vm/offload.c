/* Blocking C functions on other threads: the ground of lp.offload.
 *
 * A native G makes a call between rt_entersyscall and rt_exitsyscall, on a stack of its own, while the asking Lua G
 * waits. The call begins with the first wait for it.
 *
 * Lua has classified the arguments (core/offload.lua): whole numbers and pointers in `ints`, floating-point numbers in
 * `floats`, each in the order of the parameters. Both known calling conventions (System V's on x86-64, AAPCS64) pass the
 * two classes in registers of their own. So one call with all of these registers set serves every function whose
 * arguments fit in: registers that the function does not read do no harm. The result comes in the first register of one
 * class or the other.
 *
 * The call outlives a wait that ends by a timeout, so both sides hold the call. A Lua G keeps Lua's memory that the
 * arguments point to, and stays until the call has ended (core/offload.lua). This does not help when a VM is dropped
 * with its heap, so the end of a VM waits for the VM's calls.
 *
 * Does a call block? If this is unknown, the P goes to another M before the call, so that no other G is held up.
 * Handing over costs some 10 us, which is much for a function that takes 1 us. So calls are timed. A function that was
 * quick QUICK_CALLS times in a row is called with the P, until a call takes long once (sysmon takes the P of such a
 * call within a millisecond). A table keeps a count per address of a function. Two functions may share a place there,
 * which only makes each other slower.
 *
 * No other thread has a part in a quick call. The call's G starts when the asking G has stopped, as the next G of its P
 * (rt_set_wait_start), and wakes the asking G as the last thing that it does (rt_wake_last). Other Ms would be woken for
 * work that is done before they are awake.
 *
 * Each call blocks a thread. A call that finds no thread queues for the runners, native Gs with a thread each. If there
 * are no runners, the call gets one that has no thread yet and asks for it again and again. A runner that takes a call
 * from the queue and leaves others there hires another runner, if there is a thread by now. A runner counts itself when
 * it runs, so no call queues for a runner that never comes. A call fails only when there is no stack for a runner.
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
enum { PLACES = 256, QUICK_CALLS = 16 };
#define QUICK_NS                                                                                   \
    (50 * NS_PER_SEC / 1000000) /* some times the cost of handing a P over and coming back */
#define ASK_MIN_NS (NS_PER_SEC / 100)
#define ASK_MAX_NS (1 * NS_PER_SEC)

typedef struct call {
    host_call args; /* first: what Lua sees */
    host_owned owned;
    list_link link; /* of queue.waiting */
    bell done;      /* rung once */
    int32_t state;  /* the VM's: HOST_CALL_..., but ENDED, which `done` says */
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

/* ---- quick functions ---- */

/* atomic: how many calls in a row were quick, QUICK_CALLS at most. Two writers at a time may lose a call. */
static _Atomic uint8_t quick_calls[PLACES];

static _Atomic uint8_t *place_of(const host_call *a) {
    return &quick_calls[((uintptr_t)a->fn * UINT64_C(0x9e3779b97f4a7c15)) >> 56];
}

static bool was_quick(const host_call *a) {
    return atomic_load_explicit(place_of(a), memory_order_relaxed) == QUICK_CALLS;
}

static void make_timed(host_call *a) {
    _Atomic uint8_t *place = place_of(a);
    uint8_t n = atomic_load_explicit(place, memory_order_relaxed);
    if (n < QUICK_CALLS)
        rt_entersyscallblock();
    else
        rt_entersyscall();
    int64_t start_ns = rt_nanotime();
    make(a);
    bool quick = rt_nanotime() - start_ns < QUICK_NS;
    rt_exitsyscall();
    uint8_t now = !quick ? 0 : n < QUICK_CALLS ? n + 1 : n;
    if (now != n) atomic_store_explicit(place, now, memory_order_relaxed);
}

/* ---- runners ---- */

/* Calls that wait for a thread. */
static struct {
    rt_lock lock;
    list_head waiting; /* lock */
    int runners;       /* lock: runners that will look into `waiting` before they end */
} queue;

static void run_one(call *c, void (*ring)(bell *b)) {
    if (!atomic_load(&c->owned.vm->dropped)) make_timed(&c->args);
    ring(&c->done);
    atomic_fetch_sub(&c->owned.vm->n_calls, 1); /* from here on the VM may go */
    let_go(c);
}

static void run(void *arg);

/* Adds a runner, if there is a thread for it. */
static void hire(void) {
    if (rt_claim_thread() && !rt_go_stack(run, NULL, CALL_STACK)) rt_release_thread();
}

/* The next call of the queue. NULL: there is none, and the runner is counted no more. */
static call *next_call(void) {
    rt_lock_acquire(&queue.lock);
    list_link *l = list_take_first(&queue.waiting);
    bool more = queue.waiting.first;
    if (!l) queue.runners--;
    rt_lock_release(&queue.lock);
    if (more) hire();
    return l ? list_of(l, call, link) : NULL;
}

static void begin_runner(void) {
    rt_lock_acquire(&queue.lock);
    queue.runners++;
    rt_lock_release(&queue.lock);
}

/* Runs c (may be NULL), then the queue, with a claimed thread. */
static void run_calls(call *c) {
    if (!c) c = next_call();
    for (; c; c = next_call())
        run_one(c, bell_ring);
    rt_release_thread();
}

/* Runs a call that was quick so far, with a claimed thread, and does not look into the queue. */
static void run_quick(void *arg) {
    run_one(arg, bell_ring_last);
    rt_release_thread();
}

static void run(void *arg) {
    begin_runner();
    run_calls(arg);
}

static void ask_and_run(void *arg) {
    begin_runner();
    int64_t pause_ns = ASK_MIN_NS;
    while (!rt_claim_thread()) {
        (void)rt_sleep(pause_ns); /* this G is never canceled */
        pause_ns = pause_ns * 2 < ASK_MAX_NS ? pause_ns * 2 : ASK_MAX_NS;
    }
    run_calls(arg);
}

/* False: no thread runs calls. */
static bool enqueue(call *c) {
    rt_lock_acquire(&queue.lock);
    bool busy = queue.runners > 0;
    if (busy) list_append(&queue.waiting, &c->link);
    rt_lock_release(&queue.lock);
    return busy;
}

/* Starts the call, or makes *first, a G that is to start when the asking G waits. 0 or -errno. */
static int start(call *c, rt_g **first) {
    bool claimed = rt_claim_thread();
    if (!claimed && enqueue(c)) return 0;
    if (claimed && was_quick(&c->args)) *first = rt_make(run_quick, c, CALL_STACK);
    if (*first) return 0;
    if (rt_go_stack(claimed ? run : ask_and_run, c, CALL_STACK)) return 0;
    if (claimed) rt_release_thread();
    return enqueue(c) ? 0 : -ENOMEM;
}

static void lua_lets_go(host_owned *o) {
    let_go(list_of(o, call, owned));
}

static const owned_kind call_kind = {OWNED_THINGS, lua_lets_go};

/* Waits for the VM's calls, which use Lua's memory. */
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

/* Begins the call. False: there is no memory. */
static bool begin(call *c, rt_g **first) {
    refs_hold(&c->refs);
    atomic_fetch_add(&c->owned.vm->n_calls, 1);
    c->state = HOST_CALL_RUNS;
    if (start(c, first) == 0) return true;
    c->state = HOST_CALL_FAILED;
    atomic_fetch_sub(&c->owned.vm->n_calls, 1);
    let_go(c);
    return false;
}

int host_call_state(const host_call *a) {
    const call *c = (const call *)a;
    return bell_is_rung(&c->done) ? HOST_CALL_ENDED : c->state;
}

void host_call_free(host_call *a) {
    owned_free(&((call *)a)->owned);
}

bool call_open(host_call *a, host_luag *lg, uint64_t ticket, rt_g **first) {
    call *c = (call *)a;
    if (!bell_arm(&c->done, lg->g, ticket)) return false;
    return c->state == HOST_CALL_NEW ? begin(c, first) : c->state == HOST_CALL_RUNS;
}
