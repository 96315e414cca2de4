/* From a server to a VM: the way of a step G that becomes a Lua G there.
 *
 * A Lua G in one of the VMs that serve, or in the one VM of the server, answers what a server gets: a request
 * (http/handler.c) or a connection (raw.c). The step G joins the VM's cell, takes one of the VM's coroutines there, and
 * resumes it.
 *
 * A VM can get stuck, be dropped or retire between the choice and the beginning. The scheduler takes a G that has not
 * begun out of a stuck cell and runs it outside of any cell: the G then chooses again (bind_again). So a G that begins
 * after a reload's switch begins in the new generation.
 */
#include "bind.h"

#include "../base/base.h"
#include "../vm/keeper.h"

#include <stdatomic.h>

#define VM_WAIT_NS (2 * NS_PER_MS)

typedef struct bind_local {
    void *who;
    const bind_ops *ops;
} bind_local; /* the locals of the rt_g */

static rt_step bind_step(rt_g *g);

host_vm *bind_choose(host_server *s, bool *soon) {
    *soon = false;
    host_vm *only = s->listener.vm;
    if (only) return atomic_load_explicit(&s->vm_gone, memory_order_relaxed) ? NULL : only;
    host_vm *vm = vm_for_request(soon);
    return vm && !atomic_load_explicit(&vm->dropped, memory_order_relaxed) ? vm : NULL;
}

rt_step bind_await(rt_g *g) {
    rt_wait_open(g);
    rt_set_wait(g, RT_WAIT_OTHER, rt_nanotime() + VM_WAIT_NS);
    return RT_PARK;
}

/* False: vm has retired, or even become another VM, since it was chosen. */
static bool may_begin(const host_server *s, host_vm *vm) {
    return s->listener.vm ? !atomic_load_explicit(&s->vm_gone, memory_order_relaxed)
                          : vm_serves(vm);
}

static bool is_lost(const bind_local *l) {
    return l->ops->lost && l->ops->lost(l->who);
}

static rt_step end(const bind_local *l, bool lost) {
    l->ops->end(l->who, lost);
    return RT_EXIT;
}

static rt_step bind_again(rt_g *g);

static rt_step bind_later(rt_g *g) {
    rt_wait_code(g);
    return bind_again(g);
}

/* Chooses a VM: there is none yet, the G was taken out before it began, or its VM was dropped or retired. */
static rt_step bind_again(rt_g *g) {
    const bind_local *l = RT_LOCAL(g, bind_local);
    if (is_lost(l)) return end(l, true);
    bool soon;
    host_server *s = l->ops->server(l->who);
    host_vm *vm = bind_choose(s, &soon);
    if (vm && vm == s->listener.vm && atomic_load_explicit(&vm->stuck, memory_order_relaxed)) {
        /* There is no other VM, and sysmon would take the G out of this one again and again. */
        soon = true;
        vm = NULL;
    }
    if (vm) {
        rt_set_step(g, bind_step, vm->cell);
        return RT_YIELD;
    }
    if (!soon) return end(l, false);
    if (rt_canceled(g)) { /* a canceled G would not wait but run again and again */
        if (l->ops->canceled) l->ops->canceled(l->who);
        rt_clear_cancel(g);
    }
    rt_set_step(g, bind_later, NULL);
    return bind_await(g);
}

static rt_step bind_step(rt_g *g) {
    const bind_local *l = RT_LOCAL(g, bind_local);
    host_luag *lg = l->ops->luag(l->who);
    if (!lg) {
        rt_cell *cell = rt_current_cell();
        host_vm *vm = cell ? rt_cell_data(cell) : NULL;
        if (!vm || is_lost(l) || !may_begin(l->ops->server(l->who), vm)) return bind_again(g);
        if (!(lg = l->ops->begin(l->who, g, vm))) return end(l, false);
    } else if (atomic_load_explicit(&lg->vm->dropped, memory_order_relaxed)) {
        l->ops->dropped(l->who);
        return RT_EXIT;
    }
    return luag_resume(lg);
}

rt_g *bind_make(const bind_ops *ops, void *who, host_vm *vm) {
    rt_g *g = rt_new_step(vm ? bind_step : bind_again, NULL);
    if (!g) return NULL;
    *RT_LOCAL(g, bind_local) = (bind_local){who, ops};
    if (vm) rt_set_step(g, bind_step, vm->cell); /* g moves there: a stuck cell gives it back */
    return g;
}
