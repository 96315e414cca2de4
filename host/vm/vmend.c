/* The end of a VM, in order or at once.
 *
 * Both are the work of an undertaker, a step G of the VM's own cell, since only there may the VM's Gs be counted and
 * canceled. The undertaker looks every few milliseconds; an end is never urgent.
 *
 * In order (vm_retire): requests, and the Gs that they have started, end by themselves, for they have a deadline. Then
 * the other Gs, timers and the like, are canceled: each of their waits answers "canceled". When the last one has ended,
 * finalizers run (vm_finalize), in the cell as any Lua: a runaway among them is ended. Gs that remain are thrown away.
 *
 * In either case the VM's list ends, in order, the things that other mechanisms have made for the VM (owned.c).
 *
 * At once (vm_throw_away): `dropped` is set, and all Gs run once more. Their steps see `dropped` and end without a look
 * at Lua (luag.c, handler.c); the stacks that they hold are given back (cell.c). When the last one has ended, the
 * memory goes, on a native G (vm_drop).
 *
 * An end gives memory back, so it must work where there is none: the undertaker is a G of the runtime's reserve, and
 * when there is no stack for the native G, it looks again.
 *
 * The undertaker of a stuck VM gets its turn when the VM is stuck no more, if ever: see runaway.c.
 */
#include "vmend.h"

#include "../base/base.h"
#include "../base/log.h"
#include "luag.h"
#include "owned.h"
#include "vm.h"

#define GRACE_NS NS_PER_SEC /* how long canceled Gs have to end */
#define LOOK_NS  (16 * NS_PER_MS)

/* The local of an undertaker's rt_g: the VM. It is visited until it ends or is handed over, since another thread may
 * throw it away meanwhile. */
static inline host_vm **vm_of(rt_g *g) {
    return RT_LOCAL(g, host_vm *);
}

/* ---- the last step, on a native G: the cell does not run any more ---- */

static void bury(void *arg) {
    vm_drop(arg);
}

/* ---- in the VM's cell ---- */

static void start_undertaker(host_vm *vm, rt_step (*step)(rt_g *)) {
    rt_g *g = rt_new_step_sure(step, vm->cell);
    *vm_of(g) = vm;
    rt_ready(g);
}

static void cancel_all(host_vm *vm) {
    vm->end.ends = true;
    for (int i = 0; i < vm->slots.n; i++)
        if (vm->slots.v[i]->g) luag_cancel(vm->slots.v[i], HOST_CANCELED);
}

static rt_step look_later(rt_g *g, int64_t *pause_ns) {
    if (*pause_ns < LOOK_NS) *pause_ns *= 2;
    rt_wait_open(g);
    rt_set_wait(g, RT_WAIT_OTHER, rt_nanotime() + *pause_ns);
    return RT_PARK;
}

static rt_step leave_vm(host_vm *vm) {
    vm_leave(vm);
    return RT_EXIT;
}

static rt_step retire_step(rt_g *g) {
    host_vm *vm = *vm_of(g);
    vm_end *end = &vm->end;
    if (end->retire_pause_ns)
        rt_wait_code(g);
    else
        end->retire_pause_ns = NS_PER_MS / 2;
    if (atomic_load(&vm->dropped)) return leave_vm(vm); /* dropped meanwhile */
    int64_t now = rt_nanotime();
    if (vm->view.n_live == 0) {
        owned_end(vm, OWNED_ROLES);
        vm_finalize(vm);
        vm_throw_away(vm, NULL);
        return leave_vm(vm);
    }
    if (end->end_ns == 0 && (vm->end.n_requests == 0 || now >= atomic_load(&end->drain_ns))) {
        end->end_ns = now + GRACE_NS;
        end->retire_pause_ns = NS_PER_MS / 2;
        cancel_all(vm);
    } else if (end->end_ns != 0 && now >= end->end_ns) {
        log_line(LOG_WARN, "VM %d: %d of its Gs go on after they were canceled: it is thrown away",
                 vm->view.vm_id, vm->view.n_live);
        vm_throw_away(vm, NULL);
        return leave_vm(vm);
    }
    return look_later(g, &end->retire_pause_ns);
}

void vm_retire(host_vm *vm) {
    start_undertaker(vm, retire_step);
}

static rt_step abandon_step(rt_g *g) {
    host_vm *vm = *vm_of(g);
    if (!atomic_load(&vm->dropped)) vm_throw_away(vm, NULL);
    return leave_vm(vm);
}

void vm_abandon(host_vm *vm) {
    start_undertaker(vm, abandon_step);
}

/* ---- at once ---- */

/* A G that does not live but holds a stack is ready by now: the step in which a runaway finalizer stood (luag_cpcall).
 * So it has had its turn before the first look, which comes after a pause. */
static rt_step drop_step(rt_g *g) {
    host_vm *vm = *vm_of(g);
    int64_t *pause_ns = &vm->end.drop_pause_ns;
    if (*pause_ns == 0) {
        *pause_ns = NS_PER_MS / 4;
        return look_later(g, pause_ns);
    }
    rt_wait_code(g);
    if (vm->view.n_live > 0) return look_later(g, pause_ns);
    return rt_go(bury, vm) ? RT_EXIT : look_later(g, pause_ns);
}

void vm_throw_away(host_vm *vm, const host_luag *runaway) {
    atomic_store(&vm->dropped, true);
    rt_cell_drop(vm->cell, true);
    owned_end(vm, OWNED_ROLES);
    for (int i = 0; i < vm->slots.n; i++) {
        host_luag *lg = vm->slots.v[i];
        if (lg->g && lg != runaway) rt_interrupt(lg->g, RT_CANCELED);
    }
    owned_end(vm, OWNED_THINGS);
    start_undertaker(vm, drop_step);
}
