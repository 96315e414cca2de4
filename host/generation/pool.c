/* Which VM answers a request, and what happens to VMs that are stuck.
 *
 * Each P has a VM, its current one. A spare VM has loaded the app as well. A VM is stuck when its Lua has run for 20 ms
 * without a wait. Then sysmon takes the P of the VM's M (syscall.c) and calls vm_away, before another M has the P. From
 * then on the stuck VM gets no request. Its requests that have not begun come back (cell.c) and go to another VM. The
 * P's next request makes a spare the P's current VM, and the keeper has another spare made, up to --max-vms. A stuck VM
 * that comes back is a spare: a spare is a VM that has loaded, is not stuck and is no P's current one.
 *
 * sysmon calls vm_away after it has taken the P, and the VM's M may come back before. So `away` is a sum: -1 means that
 * the return was counted first.
 *
 * A P whose VM is stuck while there is no spare shares another P's VM. When all VMs that there may be have been
 * stuck for a second, requests are answered 503 (http1_conn.c); until then, and while another VM is being made, they wait. A
 * thread that loses its CPU to other processes for 20 ms is stuck, too, and no reason to refuse anything.
 *
 * The keeper is a native G. It sleeps unless a VM is stuck. Then it looks every 100 ms: it logs which code holds a VM,
 * and has runaways ended (runaway.c). Both may wait, so the keeper does not hold the lock but works on a list of the
 * VMs that were stuck. The memory of a host_vm is never given back, so the list stays valid.
 *
 * VMs are numbered from 0 as they are made. A number is not used again.
 */
#include "pool.h"

#include "../base/base.h"
#include "../base/bell.h"
#include "../base/list.h"
#include "../base/log.h"
#include "../base/options.h"
#include "../vm/luag.h"
#include "../vm/runaway.h"
#include "../vm/vmend.h"
#include "generation.h"
#include "generation_ffi.h"
#include "message.h"
#include "singleton.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LOOK_MS = 100, KILL_MS = 10 };
/* When all VMs that there may be have been stuck for this long, requests are answered 503. */
#define FULL_NS NS_PER_SEC
/* With --dev, a VM that is stuck for this long is logged; else for a second. */
#define DEV_SAY_NS (100 * NS_PER_MS)

static struct {
    rt_lock lock;
    list_head stuck; /* lock */
    int n_stuck;     /* lock */
    bell look;       /* rung: the keeper shall look */
} pool;

static generation *serving(void) {
    return atomic_load_explicit(&vm_serving, memory_order_acquire);
}

/* ---- making VMs ---- */

static int max_vms(void) {
    int procs = rt_procs_in(), max = (int)options.max_vms;
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
    message_free(err);
}

/* lock held. */
static bool may_make(const generation *gen) {
    return gen->n + gen->making < max_vms() && rt_nanotime() >= gen->retry_ns;
}

static bool is_stuck(const host_vm *vm) {
    return atomic_load_explicit(&vm->stuck, memory_order_relaxed);
}

static bool is_spare(const host_vm *vm) {
    return vm->pool.n_current == 0 && !is_stuck(vm);
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
    if (make && !rt_go(make_spare, gen)) {
        pool_add(gen, NULL, -1); /* which has the keeper try again later */
        generation_lost_vm(gen);
    }
}

/* ---- choosing ---- */

/* lock held. */
static void set_current(generation *gen, int p, host_vm *vm) {
    host_vm *old = atomic_load_explicit(&gen->current[p], memory_order_relaxed);
    if (old) old->pool.n_current--;
    if (vm) vm->pool.n_current++;
    atomic_store_explicit(&gen->current[p], vm, memory_order_relaxed);
}

/* lock held. A VM that is not stuck, best a spare; NULL: all are stuck. `from` is where the search begins, so that Ps
 * share different VMs. */
static host_vm *find_vm(const generation *gen, int from) {
    host_vm *found = NULL;
    for (int i = 0; i < gen->n; i++) {
        host_vm *vm = gen->vms[(from + i) % gen->n];
        if (is_spare(vm)) return vm;
        if (!found && !is_stuck(vm)) found = vm;
    }
    return found;
}

/* lock held. Whether a VM of gen, all of which are stuck, has been so for less than FULL_NS: its thread may only have lost
 * its CPU to other processes. */
static bool stuck_just_now(const generation *gen) {
    int64_t since = rt_nanotime() - FULL_NS;
    for (int i = 0; i < gen->n; i++)
        if (atomic_load(&gen->vms[i]->stuck_ns) > since) return true;
    return false;
}

static host_vm *other_vm(int p, bool *soon) {
    rt_lock_acquire(&pool.lock);
    generation *gen = serving();
    host_vm *vm = find_vm(gen, p);
    if (!vm) {
        *soon = gen->making > 0 || may_make(gen) || stuck_just_now(gen);
        if (!*soon && gen->full == FULL_NOT) gen->full = FULL_TO_SAY;
    } else if (is_spare(vm)) {
        set_current(gen, p, vm);
    }
    rt_lock_release(&pool.lock);
    bell_ring(&pool.look);
    return vm;
}

static host_vm *choose(bool *soon) {
    int p = rt_p_id();
    host_vm *vm = atomic_load_explicit(&serving()->current[p], memory_order_relaxed);
    return vm && !is_stuck(vm) ? vm : other_vm(p, soon);
}

generation *pool_switch(generation *gen) {
    rt_lock_acquire(&pool.lock);
    generation *old = serving();
    atomic_store_explicit(&vm_serving, gen, memory_order_release);
    gen->served = true;
    if (old) old->retired = true;
    rt_lock_release(&pool.lock);
    bell_ring(&pool.look);
    singleton_look();
    return old;
}

int pool_note(host_vm *vm, int *number, char id[SOURCE_ID_SIZE]) {
    rt_lock_acquire(&pool.lock);
    const generation *gen = atomic_load(&vm->generation);
    bool served = gen && gen->served;
    int n_current = vm->pool.n_current;
    *number = served ? gen->number : 0;
    memcpy(id, served ? gen->id : "", served ? SOURCE_ID_SIZE : 1);
    rt_lock_release(&pool.lock);
    return n_current;
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

/* rt_on_away's function. On sysmon's thread, before another M has the P. */
static void vm_away(rt_cell *c) {
    host_vm *vm = rt_cell_data(c);
    rt_lock_acquire(&pool.lock);
    if (++vm->pool.away == 1) {
        atomic_store_explicit(&vm->stuck, true, memory_order_relaxed);
        atomic_store(&vm->stuck_ns, rt_nanotime() - 20 * NS_PER_MS);
        vm->pool.said_ns = 0;
        list_prepend(&pool.stuck, &vm->pool.stuck_link);
        pool.n_stuck++;
    }
    rt_lock_release(&pool.lock);
    bell_ring(&pool.look);
}

/* lock held. */
static void leave_stuck(host_vm *vm) {
    if (--vm->pool.away < 0) return; /* vm_away comes later */
    list_remove(&pool.stuck, &vm->pool.stuck_link);
    pool.n_stuck--;
    if (vm->generation) vm->generation->full = FULL_NOT;
    atomic_store_explicit(&vm->stuck, false, memory_order_relaxed);
}

static void vm_back(host_vm *vm, bool ended) {
    char what[RUNAWAY_NAME], origin[LUAG_ORIGIN];
    runaway_name(vm, what, sizeof what);
    luag_origin(atomic_load(&vm->running), origin, sizeof origin);
    rt_lock_acquire(&pool.lock);
    int64_t held_ns = rt_nanotime() - atomic_load(&vm->stuck_ns);
    bool said = vm->pool.away == 1 && vm->pool.said_ns != 0;
    leave_stuck(vm);
    rt_lock_release(&pool.lock);
    atomic_store(&vm->runaway.tell, NULL);
    if (said && !ended)
        log_line(LOG_WARN, "%s came back after %.1f s%s%s: VM %d is free again%s", what,
                 (double)held_ns / 1e9, vm->runaway.held_at[0] ? " at " : "", vm->runaway.held_at,
                 vm->view.vm_id, origin);
    vm->runaway.held_at[0] = 0;
}

static void unstick(host_vm *vm) {
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
    bell_ring(&pool.look);
}

bool pool_crowded(generation *gen) {
    rt_lock_acquire(&pool.lock);
    int left = atomic_load(&gen->n_left) - 1 - gen->n - gen->making;
    rt_lock_release(&pool.lock);
    return left >= max_vms();
}

/* ---- the keeper ---- */

/* A VM that was stuck a moment ago. */
typedef struct stuck_vm {
    host_vm *vm;
    bool ends; /* false: what it runs is never ended (the script of `run`) */
    bool say;  /* it is time to log it */
    bool lost; /* singletons that it holds are lost */
} stuck_vm;

static int list_stuck(stuck_vm *list, int64_t now) {
    int n = 0;
    rt_lock_acquire(&pool.lock);
    for (list_link *l = pool.stuck.first; l && n < MAX_VMS; l = l->next) {
        host_vm *vm = list_of(l, host_vm, pool.stuck_link);
        int64_t held_ns = now - atomic_load(&vm->stuck_ns);
        bool say =
            vm->generation && held_ns >= (options.dev ? DEV_SAY_NS : NS_PER_SEC) &&
            (vm->pool.said_ns == 0 || now - vm->pool.said_ns >= 10 * NS_PER_SEC ||
             (held_ns >= NS_PER_SEC && vm->pool.said_ns < atomic_load(&vm->stuck_ns) + NS_PER_SEC));
        if (say) vm->pool.said_ns = now;
        bool ends = vm->generation || atomic_load(&vm->loads_until_ns);
        list[n++] = (stuck_vm){vm, ends, say, vm->generation && held_ns >= NS_PER_SEC};
    }
    rt_lock_release(&pool.lock);
    return n;
}

static bool is_full_to_say(void) {
    rt_lock_acquire(&pool.lock);
    generation *gen = serving();
    bool is = gen && gen->full == FULL_TO_SAY;
    if (is) gen->full = FULL_SAID;
    rt_lock_release(&pool.lock);
    return is;
}

/* Logs that all VMs are stuck, and what holds them: the list has all VMs that there may be. */
static void say_full(const stuck_vm *list, int n) {
    char text[3072], who[RUNAWAY_NAME + LUAG_ORIGIN];
    size_t len = 0;
    int left = 0;
    text[0] = 0;
    for (int i = 0; i < n; i++) {
        if (!runaway_holder(list[i].vm, who, sizeof who)) continue;
        if (len + strlen(who) + 32 < sizeof text)
            len += (size_t)snprintf(text + len, sizeof text - len, "%s VM %d by %s",
                                    len ? ";" : ":", list[i].vm->view.vm_id, who);
        else
            left++;
    }
    if (left) snprintf(text + len, sizeof text - len, "; and %d more", left);
    log_line(LOG_ERROR, "all %d VMs are stuck: requests are answered 503 (--max-vms)%s", max_vms(),
             text);
}

/* Looks after the stuck VMs. Returns when to look again; 0: none is stuck. */
static int64_t look_at_stuck(void) {
    static stuck_vm list[MAX_VMS]; /* the keeper's */
    int64_t now = rt_nanotime(), next_ms = LOOK_MS;
    int n = list_stuck(list, now);
    if (is_full_to_say()) say_full(list, n);
    for (int i = 0; i < n; i++) {
        if (list[i].say) runaway_say(list[i].vm);
        if (list[i].lost) singleton_stuck(list[i].vm);
        if (list[i].ends && runaway_end(list[i].vm)) next_ms = KILL_MS;
    }
    return n ? rt_nanotime() + next_ms * NS_PER_MS : 0;
}

static void keep(void *arg) {
    (void)arg;
    for (;;) {
        keep_a_spare();
        bell_wait(&pool.look, look_at_stuck());
    }
}

/* ---- */

static const vm_keeper_ops keeper = {
    .choose = choose,
    .back = vm_back,
    .unstick = unstick,
    .replace = generation_replace_vm,
};

void pool_init(void) {
    vm_keeper = &keeper;
    rt_on_away(vm_away);
    runaway_init();
    if (!rt_go(keep, NULL)) start_failed("not enough memory");
}

static int count_all(void) {
    int n = 0;
    for (host_vm *vm = vm_next(NULL); vm; vm = vm_next(vm))
        n += atomic_load(&vm->visits.open);
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
