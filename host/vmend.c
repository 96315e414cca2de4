/* The end of a VM, in order or at once.
 *
 * Both are the work of an undertaker, a step G of the VM's own cell, since only there may its Gs be counted and
 * canceled. It looks every few milliseconds; an end is never urgent.
 *
 * In order (vm_retire): requests, and the Gs that they have started, end by themselves, for they have a deadline. Then the
 * others, timers and the like, are canceled: each of their waits answers "canceled". When the last has ended the VM is
 * closed, with its finalizers, on a native G (vm_free).
 *
 * At once (vm_throw_away): `dropped` is set, and all Gs are made to run once more: their steps see that and end without
 * a look at Lua (luag.c, conn.c); the stacks that they hold are given back (cell.c). When the last has ended the memory
 * goes (vm_drop).
 *
 * The undertaker of a VM that is stuck gets its turn when that is over, if ever: see runaway.c.
 */
#include "vmend.h"

#include "generation.h"
#include "job.h"
#include "shared_chan.h"
#include "singleton.h"

#define NS_PER_MS INT64_C(1000000)
#define GRACE_NS  NS_PER_SEC /* for what was canceled to end */
#define LOOK_NS   (16 * NS_PER_MS)

typedef struct undertaker {
    host_vm *vm; /* visited, until it ends or hands over: others may throw the VM away meanwhile */
    int64_t drain_ns; /* when requests are canceled too */
    int64_t end_ns;   /* when all is thrown away that is left; 0: nothing is canceled yet */
    int64_t pause_ns; /* of its last look; 0: there was none */
} undertaker;         /* what its rt_g holds */

/* ---- the last step, on a native G: the cell does not run any more ---- */

static void bury(void *arg) {
    host_vm *vm = arg;
    generation *gen = vm->generation;
    if (atomic_load(&vm->dropped)) {
        rt_cell_drop(vm->cell, false);
        vm_drop(vm);
    } else {
        server_stop_all_of(vm);
        if (gen) exec_bind_all(vm);
        vm_free(vm);
    }
    if (gen) generation_lost_vm(gen);
}

/* ---- in the VM's cell ---- */

static void start_undertaker(host_vm *vm, rt_step (*step)(rt_g *), undertaker u) {
    rt_g *g = rt_new_step(step, vm->cell);
    *(undertaker *)rt_local(g) = u;
    rt_ready(g);
}

static void cancel_all(host_vm *vm) {
    vm->ends = true;
    for (int i = 0; i < vm->n_slots; i++)
        if (vm->slots[i]->g) luag_cancel(vm->slots[i], HOST_CANCELED);
}

static rt_step look_later(rt_g *g, undertaker *u) {
    if (u->pause_ns < LOOK_NS) u->pause_ns *= 2;
    rt_wait_open(g);
    rt_set_wait(g, RT_WAIT_OTHER, rt_nanotime() + u->pause_ns);
    return RT_PARK;
}

static rt_step leave_vm(undertaker *u) {
    vm_leave(u->vm);
    return RT_EXIT;
}

static rt_step retire_step(rt_g *g) {
    undertaker *u = rt_local(g);
    host_vm *vm = u->vm;
    if (u->pause_ns)
        rt_wait_code(g);
    else
        u->pause_ns = NS_PER_MS / 2;
    if (atomic_load(&vm->dropped)) return leave_vm(u); /* by another */
    int64_t now = rt_nanotime();
    if (vm->view.n_live == 0) {
        vm->closing = true;
        rt_go(bury, vm);
        return leave_vm(u);
    }
    if (u->end_ns == 0 && (vm->n_requests == 0 || now >= u->drain_ns)) {
        u->end_ns = now + GRACE_NS;
        u->pause_ns = NS_PER_MS / 2;
        cancel_all(vm);
    } else if (u->end_ns != 0 && now >= u->end_ns) {
        log_line(LOG_WARN, "VM %d: %d of its Gs go on after they were canceled: it is thrown away",
                 vm->view.vm_id, vm->view.n_live);
        vm_throw_away(vm, NULL);
        return leave_vm(u);
    }
    return look_later(g, u);
}

void vm_retire(host_vm *vm, int64_t drain_ns) {
    start_undertaker(vm, retire_step, (undertaker){.vm = vm, .drain_ns = drain_ns});
}

static rt_step abandon_step(rt_g *g) {
    undertaker *u = rt_local(g);
    if (!atomic_load(&u->vm->dropped)) vm_throw_away(u->vm, NULL);
    return leave_vm(u);
}

void vm_abandon(host_vm *vm) {
    start_undertaker(vm, abandon_step, (undertaker){.vm = vm});
}

/* ---- at once ---- */

static rt_step drop_step(rt_g *g) {
    undertaker *u = rt_local(g);
    if (u->pause_ns)
        rt_wait_code(g);
    else
        u->pause_ns = NS_PER_MS / 2;
    if (u->vm->view.n_live > 0) return look_later(g, u);
    rt_go(bury, u->vm);
    return RT_EXIT;
}

void vm_throw_away(host_vm *vm, const host_luag *runaway) {
    atomic_store(&vm->dropped, true);
    rt_cell_drop(vm->cell, true);
    pool_forget(vm);
    for (int i = 0; i < vm->n_slots; i++) {
        host_luag *lg = vm->slots[i];
        if (lg->g && lg != runaway) rt_interrupt(lg->g, RT_CANCELED);
        shared_wait_end(lg);
    }
    singleton_forget(vm);
    sock_close_all(vm);
    /* What a runaway has ended, but not its app, leaves programs that may go on. */
    if (atomic_load(&vm->drain_ns) || atomic_load(&vm->loads_until_ns)) exec_bind_all(vm);
    owned_drop_all(vm);
    server_stop_all_of(vm);
    start_undertaker(vm, drop_step, (undertaker){.vm = vm});
}
