/* Figures of all VMs, read while the VMs run.
 *
 * The VM that a figure tells of can't be stopped for it, and its Lua must not be touched. So each figure is one of two:
 *
 *   - an atomic that the thread which runs the VM writes: Gs, memory that is mapped, requests, what the collector has
 *     done, and the heap's size, which the collector's looks leave behind (vmgc.c); and since when the VM is stuck,
 *     which sysmon writes;
 *   - read under the lock that guards it: the bytes of charge.c are an atomic written under vm->charges.lock; the
 *     generation's number and id, and how many Ps have the VM as their current one, are read under the pool's lock
 *     (pool_note).
 *
 * A visit (vm_visit) keeps the VM from ending meanwhile: no figure is of another life of the struct. Figures of one VM
 * are of different moments, some nanoseconds apart.
 */
#include "../base/base.h"
#include "../base/options.h"
#include "../vm/keeper.h"
#include "generation_ffi.h"
#include "pool.h"

#include <stdatomic.h>

static double count(const _Atomic int64_t *figure) {
    return (double)atomic_load_explicit(figure, memory_order_relaxed);
}

static int state_of(host_vm *vm, const host_vm_figures *f) {
    if (atomic_load(&vm->stuck)) return HOST_VM_STUCK;
    if (!atomic_load(&vm->generation)) return HOST_VM_ALONE;
    if (atomic_load(&vm->end.drain_ns)) return HOST_VM_RETIRES;
    if (!vm_serves(vm)) return f->generation > 0 ? HOST_VM_RETIRES : HOST_VM_LOADS;
    return f->ps > 0 ? HOST_VM_SERVES : HOST_VM_SPARE;
}

/* The caller visits vm. */
static void read_vm(host_vm *vm, host_vm_figures *f) {
    *f = (host_vm_figures){.id = vm->view.vm_id};
    _Static_assert(sizeof f->id_of >= SOURCE_ID_SIZE, "the id of a generation fits");
    f->ps = pool_note(vm, &f->generation, f->id_of);
    f->state = state_of(vm, f);
    f->gs = __atomic_load_n(&vm->view.n_live, __ATOMIC_RELAXED);
    int64_t since = atomic_load(&vm->stuck_ns);
    if (f->state == HOST_VM_STUCK) f->stuck_s = (double)(rt_nanotime() - since) / NS_PER_SEC;
    f->begun = count(&vm->answers.begun);
    f->running = count(&vm->answers.running);
    f->heap = count(&vm->gc.figures.heap_kb) * 1024;
    f->mapped = (double)__atomic_load_n(&vm->view.mapped, __ATOMIC_RELAXED);
    f->held = (double)charged(vm);
    f->limit = (double)options.vm_memory;
    f->gc_steps = count(&vm->gc.figures.steps);
    f->gc_idle = count(&vm->gc.figures.idle);
    f->gc_full = count(&vm->gc.figures.full);
    f->gc_s = count(&vm->gc.figures.spent_ns) / NS_PER_SEC;
}

int host_read_vms(host_vm_figures *to, int max) {
    int n = 0;
    for (host_vm *vm = vm_next(NULL); vm; vm = vm_next(vm)) {
        if (!vm_visit(vm)) continue;
        if (n < max) read_vm(vm, &to[n]);
        n++;
        vm_leave(vm);
    }
    return n;
}
