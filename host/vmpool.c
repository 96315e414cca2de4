/* Which VM answers a request, and what happens to VMs that are stuck.
 *
 * There is a VM per P, its current one, and a spare that has loaded the app as well. A VM is stuck when
 * its Lua has run for 20 ms without a wait: sysmon then takes its M's P (syscall.c) and tells us, before
 * another M has that P. From then on no request is given to that VM, and what it was given and has not
 * begun comes back (cell.c) to be given to another: the P's next request makes a spare its
 * current VM, and the keeper has another spare made, up to --max-vms. A VM that comes back is a spare.
 * A spare is nothing but a VM that has loaded, is not stuck and no P's current one.
 *
 * sysmon tells us of a VM after it has taken the P, and its M may come back before that: so `away` is a
 * sum, -1 when the news of the return is there first.
 *
 * A P whose VM is stuck while no spare is left shares another P's. When every VM there may be is stuck, requests
 * are answered 503 (conn.c); while one is being made, they wait for it.
 *
 * The keeper is a native G. It sleeps unless something is stuck; then it looks every 100 ms: says in
 * the log who holds his VM, and has runaways ended (runaway.c). It waits meanwhile, so not under the lock:
 * it looks at a list of those that were stuck. A host_vm's memory is never given back.
 *
 * VMs are numbered from 0 as they are made, and a number is not used again.
 */
#include "generation.h"
#include "runaway.h"
#include "singleton.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LOOK_MS = 100, KILL_MS = 10 };
#define NS_PER_MS INT64_C(1000000)

_Atomic(generation *) pool_serving; /* lock writes */

static struct {
    rt_lock lock;
    host_vm *stuck; /* lock */
    int n_stuck;    /* lock */
    rt_g *keeper;
    _Atomic uint64_t ticket; /* of the keeper's wait */
    _Atomic bool asked;      /* the keeper is to look */
} pool;

static generation *serving(void) {
    return atomic_load_explicit(&pool_serving, memory_order_acquire);
}

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

static int max_vms(void) {
    int procs = rt_procs(), max = (int)options.max_vms;
    if (max == 0) max = procs * 4 < 8 ? 8 : procs * 4;
    return max < procs ? procs : max;
}

static void set_current(generation *gen, int p, host_vm *vm);

void pool_add(generation *gen, host_vm *vm, int p) {
    rt_lock_acquire(&pool.lock);
    gen->making--;
    bool late = vm && gen->retired;
    if (!vm) {
        gen->retry_ns = rt_nanotime() + NS_PER_SEC;
    } else if (!late) {
        gen->vms[gen->n++] = vm;
        atomic_store_explicit(&vm->serves, gen, memory_order_release);
        if (p >= 0) set_current(gen, p, vm);
    }
    rt_lock_release(&pool.lock);
    if (late) generation_end_vm(vm);
    if (vm) singleton_look();
}

static void make_spare(void *arg) {
    generation *gen = arg;
    char *err;
    host_vm *vm = generation_make_vm(gen, false, &err);
    pool_add(gen, vm, -1);
    if (err) log_line(LOG_ERROR, "a further VM can not load the app: %s", err);
    free(err);
}

/* lock held. */
static bool may_make(const generation *gen) {
    return gen->n + gen->making < max_vms() && rt_nanotime() >= gen->retry_ns;
}

static bool is_stuck(const host_vm *vm) {
    return atomic_load_explicit(&vm->stuck, memory_order_relaxed);
}

static bool is_spare(const host_vm *vm) {
    return vm->n_current == 0 && !is_stuck(vm);
}

/* lock held. */
static int count_spares(const generation *gen) {
    int n = 0;
    for (int i = 0; i < gen->n; i++)
        n += is_spare(gen->vms[i]);
    return n;
}

static void keep_a_spare(void) {
    rt_lock_acquire(&pool.lock);
    generation *gen = serving();
    bool make = gen && count_spares(gen) + gen->making == 0 && may_make(gen);
    if (make) {
        gen->making++;
        generation_hold(gen);
    }
    rt_lock_release(&pool.lock);
    if (make) rt_go(make_spare, gen);
}

/* ---- choosing ---- */

/* lock held. */
static void set_current(generation *gen, int p, host_vm *vm) {
    host_vm *old = atomic_load_explicit(&gen->current[p], memory_order_relaxed);
    if (old) old->n_current--;
    if (vm) vm->n_current++;
    atomic_store_explicit(&gen->current[p], vm, memory_order_relaxed);
}

/* lock held. One that is not stuck, best a spare; another one for each `from`. */
static host_vm *find_vm(const generation *gen, int from) {
    host_vm *found = NULL;
    for (int i = 0; i < gen->n; i++) {
        host_vm *vm = gen->vms[(from + i) % gen->n];
        if (is_spare(vm)) return vm;
        if (!found && !is_stuck(vm)) found = vm;
    }
    return found;
}

static host_vm *other_vm(int p, bool *soon) {
    bool full = false;
    rt_lock_acquire(&pool.lock);
    generation *gen = serving();
    host_vm *vm = find_vm(gen, p);
    if (!vm) {
        *soon = gen->making > 0 || may_make(gen);
        full = !*soon && !gen->said_full;
        if (full) gen->said_full = true;
    } else if (is_spare(vm)) {
        set_current(gen, p, vm);
    }
    rt_lock_release(&pool.lock);
    if (full)
        log_line(LOG_ERROR, "all %d VMs are stuck: requests are answered 503 (--max-vms)",
                 max_vms());
    ring();
    return vm;
}

host_vm *vm_for_request(bool *soon) {
    int p = rt_p_id();
    host_vm *vm = atomic_load_explicit(&serving()->current[p], memory_order_relaxed);
    return vm && !is_stuck(vm) ? vm : other_vm(p, soon);
}

generation *pool_switch(generation *gen) {
    rt_lock_acquire(&pool.lock);
    generation *old = serving();
    atomic_store_explicit(&pool_serving, gen, memory_order_release);
    if (old) old->retired = true;
    rt_lock_release(&pool.lock);
    ring();
    singleton_look();
    return old;
}

int pool_list(generation *gen, host_vm **list, int max) {
    int n = 0;
    rt_lock_acquire(&pool.lock);
    for (int i = 0; i < gen->n && n < max; i++)
        if (vm_visit(gen->vms[i])) list[n++] = gen->vms[i];
    rt_lock_release(&pool.lock);
    return n;
}

/* ---- being stuck ---- */

/* On sysmon's thread, before the P that was taken runs anything. */
static void vm_away(rt_cell *c) {
    host_vm *vm = rt_cell_data(c);
    rt_lock_acquire(&pool.lock);
    if (++vm->away == 1) {
        atomic_store_explicit(&vm->stuck, true, memory_order_relaxed);
        atomic_store(&vm->stuck_ns, rt_nanotime() - 20 * NS_PER_MS);
        vm->said_ns = 0;
        vm->next_stuck = pool.stuck;
        pool.stuck = vm;
        pool.n_stuck++;
    }
    rt_lock_release(&pool.lock);
    ring();
}

/* lock held. */
static void leave_stuck(host_vm *vm) {
    if (--vm->away < 0) return; /* vm_away is about to come */
    host_vm **at = &pool.stuck;
    while (*at != vm)
        at = &(*at)->next_stuck;
    *at = vm->next_stuck;
    pool.n_stuck--;
    if (vm->generation) vm->generation->said_full = false;
    atomic_store_explicit(&vm->stuck, false, memory_order_relaxed);
}

void vm_back(host_vm *vm, bool ended) {
    char what[RUNAWAY_NAME];
    runaway_name(vm, what, sizeof what);
    rt_lock_acquire(&pool.lock);
    int64_t held_ns = rt_nanotime() - atomic_load(&vm->stuck_ns);
    bool said = vm->away == 1 && vm->said_ns != 0;
    leave_stuck(vm);
    rt_lock_release(&pool.lock);
    if (said && !ended)
        log_line(LOG_WARN, "%s came back after %.1f s: VM %d is free again", what,
                 (double)held_ns / 1e9, vm->view.vm_id);
}

void pool_unstick(host_vm *vm) {
    rt_lock_acquire(&pool.lock);
    leave_stuck(vm);
    rt_lock_release(&pool.lock);
}

void pool_forget(host_vm *vm) {
    generation *gen = vm->generation;
    if (!gen) return;
    rt_lock_acquire(&pool.lock);
    atomic_store_explicit(&vm->serves, NULL, memory_order_release);
    for (int i = 0; i < gen->n; i++)
        if (gen->vms[i] == vm) gen->vms[i] = gen->vms[--gen->n];
    for (int i = 0; i < rt_procs(); i++)
        if (atomic_load_explicit(&gen->current[i], memory_order_relaxed) == vm)
            set_current(gen, i, NULL);
    rt_lock_release(&pool.lock);
    ring();
}

/* ---- the keeper ---- */

/* One that was stuck a moment ago. */
typedef struct stuck_vm {
    host_vm *vm;
    bool ends; /* what it runs is to be ended some time: not the script of `run` */
    bool say;  /* it is time to */
} stuck_vm;

static int list_stuck(stuck_vm *list, int64_t now) {
    int n = 0;
    rt_lock_acquire(&pool.lock);
    for (host_vm *vm = pool.stuck; vm && n < MAX_VMS; vm = vm->next_stuck) {
        int64_t held_ns = now - atomic_load(&vm->stuck_ns);
        bool say = vm->generation && held_ns >= NS_PER_SEC &&
                   (vm->said_ns == 0 || now - vm->said_ns >= 10 * NS_PER_SEC);
        if (say) vm->said_ns = now;
        bool ends = vm->generation || atomic_load(&vm->loads_until_ns);
        list[n++] = (stuck_vm){vm, ends, say};
    }
    rt_lock_release(&pool.lock);
    return n;
}

/* When to look again; 0: nothing is stuck. */
static int64_t look_at_stuck(void) {
    static stuck_vm list[MAX_VMS]; /* the keeper's */
    int64_t now = rt_nanotime(), next_ms = LOOK_MS;
    int n = list_stuck(list, now);
    for (int i = 0; i < n; i++) {
        if (list[i].say) {
            runaway_say(list[i].vm);
            singleton_stuck(list[i].vm);
        }
        if (list[i].ends && runaway_end(list[i].vm)) next_ms = KILL_MS;
    }
    return n ? rt_nanotime() + next_ms * NS_PER_MS : 0;
}

static void keep(void *arg) {
    (void)arg;
    pool.keeper = rt_self();
    for (;;) {
        keep_a_spare();
        wait_for_bell(look_at_stuck());
    }
}

/* ---- */

void pool_init(void) {
    rt_on_away(vm_away);
    runaway_init();
    rt_go(keep, NULL);
}

static int count_all(void) {
    int n = 0;
    for (host_vm *vm = vm_next(NULL); vm; vm = vm_next(vm))
        n += atomic_load(&vm->open);
    return n;
}

int host_vms(int which) {
    if (which == 3) return count_all();
    rt_lock_acquire(&pool.lock);
    generation *gen = serving();
    int n = which == 1 ? pool.n_stuck : !gen ? 0 : which == 0 ? gen->n : count_spares(gen);
    rt_lock_release(&pool.lock);
    return n;
}
