/* Which VM answers a request, and what happens to VMs that are stuck.
 *
 * There is a VM per P, its current one, and a spare that has loaded the app as well. A VM is stuck when
 * its Lua has run for 20 ms without a wait: sysmon then takes its M's P (syscall.c) and tells us, before
 * another M has that P. From then on no request is given to that VM, and what it was given and has not
 * begun comes back (cell.c) to be given to another: the P's next request makes a spare its
 * current VM, and the keeper has another spare made, up to --max-vms. A VM that comes back is a spare.
 *
 * A P whose VM is stuck while no spare is left shares another P's. When every VM there may be is stuck, requests
 * are answered 503 (conn.c); while one is being made, they wait for it.
 *
 * The keeper is a native G. It sleeps unless something is stuck; then it looks every 100 ms: says in
 * the log who holds his VM, and has runaways ended (runaway.c).
 *
 * VMs are numbered from 0 as they are made, and a number is not used again.
 */
#include "host.h"

#include "runaway.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PS = 256, MAX_VMS = 4096, LOOK_MS = 100, KILL_MS = 10 };
#define NS_PER_MS INT64_C(1000000)

static struct {
    rt_lock lock;
    _Atomic(char *(*)(host_vm *)) load; /* atomic: set once, after max; NULL: nothing is served */
    host_vm *all[MAX_VMS];              /* lock: those that have loaded */
    int n, max;                         /* lock */
    host_vm *spares, *stuck;            /* lock */
    int n_spares, n_stuck;              /* lock */
    int making;                         /* lock */
    int64_t retry_ns;                   /* lock: after the app failed to load, when to try again */
    bool said_full;                     /* lock */
    _Atomic int32_t next_id;
    _Atomic(host_vm *) current[MAX_PS]; /* the M that has the P writes */
    rt_g *keeper;
    _Atomic uint64_t ticket; /* of the keeper's wait */
    _Atomic bool asked;      /* the keeper is to look */
} pool;

/* ---- the keeper's bell ---- */

/* Who rings stores, then reads the ticket; the keeper stores its ticket, then looks. Any thread. */
static void ring(void) {
    atomic_store(&pool.asked, true);
    if (pool.keeper) rt_wake(pool.keeper, atomic_load(&pool.ticket), RT_WOKEN);
}

static void wait_for_bell(int64_t until_ns) {
    uint64_t ticket = rt_wait_open(rt_self());
    atomic_store(&pool.ticket, ticket);
    if (atomic_load(&pool.asked)) rt_wake(rt_self(), ticket, RT_WOKEN);
    rt_wait(RT_WAIT_OTHER, until_ns);
    atomic_store(&pool.asked, false);
}

/* ---- making VMs ---- */

static void add_spare(host_vm *vm) {
    vm->next_spare = pool.spares;
    pool.spares = vm;
    pool.n_spares++;
}

/* The new VM, or NULL with what was wrong, to be freed. Waits. */
static host_vm *make_vm(char **err) {
    host_vm *vm = vm_new(atomic_fetch_add(&pool.next_id, 1));
    vm->gc.serves = true;
    *err = pool.load(vm);
    rt_lock_acquire(&pool.lock);
    if (!*err) pool.all[pool.n++] = vm;
    rt_lock_release(&pool.lock);
    if (!*err) return vm;
    vm_free(vm);
    return NULL;
}

static void make_spare(void *arg) {
    (void)arg;
    char *err;
    host_vm *vm = make_vm(&err);
    rt_lock_acquire(&pool.lock);
    pool.making--;
    if (vm)
        add_spare(vm);
    else
        pool.retry_ns = rt_nanotime() + NS_PER_SEC;
    rt_lock_release(&pool.lock);
    if (err) log_line(LOG_ERROR, "a further VM can not load the app: %s", err);
    free(err);
}

/* lock held. */
static bool may_make(void) {
    return pool.n + pool.making < pool.max && rt_nanotime() >= pool.retry_ns;
}

static void keep_a_spare(void) {
    rt_lock_acquire(&pool.lock);
    bool make = pool.n_spares + pool.making == 0 && may_make();
    if (make) pool.making++;
    rt_lock_release(&pool.lock);
    if (make) rt_go(make_spare, NULL);
}

/* ---- choosing ---- */

static bool is_stuck(const host_vm *vm) {
    return atomic_load_explicit(&vm->stuck, memory_order_relaxed);
}

/* lock held. One that is not stuck. */
static host_vm *any_vm(int from) {
    for (int i = 0; i < pool.n; i++) {
        host_vm *vm = pool.all[(from + i) % pool.n];
        if (!is_stuck(vm)) return vm;
    }
    return NULL;
}

static host_vm *other_vm(int p, bool *soon) {
    bool full = false;
    rt_lock_acquire(&pool.lock);
    host_vm *vm = pool.spares;
    if (vm) {
        pool.spares = vm->next_spare;
        pool.n_spares--;
        atomic_store_explicit(&pool.current[p], vm, memory_order_relaxed);
    } else if (!(vm = any_vm(p))) {
        *soon = pool.making > 0 || may_make();
        full = !*soon && !pool.said_full;
        if (full) pool.said_full = true;
    }
    rt_lock_release(&pool.lock);
    if (full)
        log_line(LOG_ERROR, "all %d VMs are stuck: requests are answered 503 (--max-vms)",
                 pool.max);
    ring();
    return vm;
}

host_vm *vm_for_request(bool *soon) {
    int p = rt_p_id();
    host_vm *vm = atomic_load_explicit(&pool.current[p], memory_order_relaxed);
    return vm && !is_stuck(vm) ? vm : other_vm(p, soon);
}

/* ---- being stuck ---- */

/* On sysmon's thread, before the P that was taken runs anything. */
static void vm_away(rt_cell *c) {
    host_vm *vm = rt_cell_data(c);
    rt_lock_acquire(&pool.lock);
    atomic_store_explicit(&vm->stuck, true, memory_order_relaxed);
    vm->stuck_ns = rt_nanotime() - 20 * NS_PER_MS;
    vm->said_ns = 0;
    vm->next_stuck = pool.stuck;
    pool.stuck = vm;
    pool.n_stuck++;
    rt_lock_release(&pool.lock);
    ring();
}

/* lock held. */
static void leave_stuck(host_vm *vm) {
    host_vm **at = &pool.stuck;
    while (*at && *at != vm)
        at = &(*at)->next_stuck;
    if (!*at) return;
    *at = vm->next_stuck;
    pool.n_stuck--;
    pool.said_full = false;
}

/* lock held. */
static bool is_current(const host_vm *vm) {
    for (int i = 0; i < rt_procs(); i++)
        if (atomic_load_explicit(&pool.current[i], memory_order_relaxed) == vm) return true;
    return false;
}

/* lock held. */
static bool is_ours(const host_vm *vm) {
    for (int i = 0; i < pool.n; i++)
        if (pool.all[i] == vm) return true;
    return false;
}

void vm_back(host_vm *vm) {
    char what[RUNAWAY_NAME];
    runaway_name(vm, what, sizeof what);
    rt_lock_acquire(&pool.lock);
    int64_t held_ns = rt_nanotime() - vm->stuck_ns;
    bool said = vm->said_ns != 0;
    leave_stuck(vm);
    atomic_store_explicit(&vm->stuck, false, memory_order_relaxed);
    if (is_ours(vm) && !is_current(vm)) add_spare(vm);
    rt_lock_release(&pool.lock);
    if (said && !atomic_load(&vm->kill))
        log_line(LOG_WARN, "%s came back after %.1f s: VM %d is free again", what,
                 (double)held_ns / 1e9, vm->view.vm_id);
}

void pool_forget(host_vm *vm) {
    rt_lock_acquire(&pool.lock);
    leave_stuck(vm);
    for (int i = 0; i < pool.n; i++)
        if (pool.all[i] == vm) pool.all[i] = pool.all[--pool.n];
    for (host_vm **at = &pool.spares; *at; at = &(*at)->next_spare)
        if (*at == vm) {
            *at = vm->next_spare;
            pool.n_spares--;
            break;
        }
    for (int i = 0; i < rt_procs(); i++) {
        host_vm *is = vm;
        atomic_compare_exchange_strong(&pool.current[i], &is, NULL);
    }
    rt_lock_release(&pool.lock);
    ring();
}

/* ---- the keeper ---- */

/* What is to be done about one that is stuck; how soon to look again. */
static int64_t look_at(host_vm *vm, int64_t now) {
    int64_t held_ns = now - vm->stuck_ns;
    bool say = held_ns >= NS_PER_SEC && (vm->said_ns == 0 || now - vm->said_ns >= 10 * NS_PER_SEC);
    if (say) vm->said_ns = now;
    bool kill = runaway_is_due(vm, now, pool.load != NULL);
    if (say) runaway_say(vm, held_ns);
    if (kill) runaway_end(vm);
    return (kill ? KILL_MS : LOOK_MS) * NS_PER_MS;
}

/* Under the lock: a VM that comes back meanwhile waits for it in vm_back. */
static int64_t look_at_stuck(void) {
    int64_t now = rt_nanotime(), next = 0;
    rt_lock_acquire(&pool.lock);
    for (host_vm *vm = pool.stuck; vm; vm = vm->next_stuck) {
        int64_t in = look_at(vm, now);
        if (next == 0 || in < next) next = in;
    }
    rt_lock_release(&pool.lock);
    return next ? now + next : 0;
}

static void keep(void *arg) {
    (void)arg;
    pool.keeper = rt_self();
    for (;;) {
        if (pool.load) keep_a_spare();
        wait_for_bell(look_at_stuck());
    }
}

/* ---- */

void pool_init(void) {
    rt_on_away(vm_away);
    runaway_init();
    rt_go(keep, NULL);
}

char *pool_start(char *(*load)(host_vm *)) {
    char *err = NULL;
    int procs = rt_procs();
    pool.max = options.max_vms ? (int)options.max_vms : procs * 4 < 8 ? 8 : procs * 4;
    if (pool.max < procs) pool.max = procs;
    atomic_store(&pool.load, load); /* the keeper may look by now */
    for (int i = 0; i < procs && !err; i++)
        atomic_store(&pool.current[i], make_vm(&err));
    if (!err) ring();
    return err;
}

int host_vms(int which) {
    rt_lock_acquire(&pool.lock);
    int n = which == 0 ? pool.n : which == 1 ? pool.n_stuck : pool.n_spares;
    rt_lock_release(&pool.lock);
    return n;
}
