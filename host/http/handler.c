/* Handlers: the Lua G that answers a request.
 *
 * When a whole head is there, the connection's G chooses a VM and makes a step G for the handler. The handler's G joins
 * the VM's cell, takes one of the VM's coroutines and resumes the server's handler with the request. The connection's G
 * waits for the handler (hold.c). So requests of one connection may run in different VMs. A handler touches the
 * connection only in the calls that take it (request.c, response.c).
 *
 * A VM can get stuck, be dropped or retire between the choice and the beginning. The scheduler takes a G that has not
 * begun out of a stuck cell and runs it outside of any cell: the G then chooses again (bind_again).
 *
 * A handler ends in one of four ways: its function returned or failed (handler_done); its VM was dropped
 * (handler_drop); no VM can take it when it begins (not_served); it lost the connection before it began. In the first
 * and third case the handler's G completes the response before the connection goes back. In the others the connection
 * has gone on without the handler.
 */
#include "../base/log.h"
#include "../vm/keeper.h"
#include "conn.h"
#include "handler.h"
#include "hold.h"
#include "response.h"

#include <lauxlib.h>
#include <stdatomic.h>
#include <stdio.h>

enum { VM_WAIT_NS = 2000000 };

typedef struct handler_local {
    host_exchange *x;
} handler_local; /* the locals of a handler's rt_g */

static inline host_exchange *exchange_of(rt_g *g) {
    return RT_LOCAL(g, handler_local)->x;
}

static rt_step handler_step(rt_g *g);

/* ---- which VM ---- */

host_vm *handler_vm(host_server *s, bool *soon) {
    *soon = false;
    host_vm *only = s->listener.vm;
    if (only) return atomic_load_explicit(&s->vm_gone, memory_order_relaxed) ? NULL : only;
    host_vm *vm = vm_for_request(soon);
    return vm && !atomic_load_explicit(&vm->dropped, memory_order_relaxed) ? vm : NULL;
}

rt_step handler_await_vm(rt_g *g, host_exchange *x) {
    if (rt_canceled(g)) { /* a canceled G would not wait but run again and again */
        x->hung_up = true;
        rt_clear_cancel(g);
    }
    rt_wait_open(g);
    rt_set_wait(g, RT_WAIT_OTHER, rt_nanotime() + VM_WAIT_NS);
    return RT_PARK;
}

/* False: vm has retired, or even become another VM, since it was chosen. */
static bool may_begin(const host_server *s, host_vm *vm) {
    return s->listener.vm ? !atomic_load_explicit(&s->vm_gone, memory_order_relaxed)
                          : vm_serves(vm);
}

/* ---- its end ---- */

static void log_failure(host_luag *lg, bool gone) {
    host_exchange *x = lg->x;
    const char *msg = lua_tostring(lg->L, -1);
    int answered = hold_status(x);
    char when[64] = "";
    if (answered) snprintf(when, sizeof when, "after the client was answered %d: ", answered);
    log_line(gone && !answered ? LOG_DEBUG : LOG_ERROR, "%s %.*s: %s%s",
             host_method_name(x->req.method), (int)x->req.path.len, x->in + x->req.path.off, when,
             msg ? msg : "(no message)");
}

/* Completes the response of a handler that has ended. The handler's G has the connection. gone: the client is gone. */
static void complete(host_exchange *x, bool gone) {
    if (x->req.state == 0 && gone) {
        x->broken = true;
    } else if (x->req.state == 0) {
        response_error(x, 500);
    } else if (response_is_partial(x)) {
        /* Without an end, so that the client does not take the response for a whole one. Earlier answers must not be
         * lost. */
        x->ops->cut(x, false);
    }
}

/* Ends the handler's part in x: Lua's pointer and id name no request any more. held: the handler has the connection,
 * which goes back. */
static void let_go(host_exchange *x, bool held) {
    exchange_unname(x);
    if (x->lg) x->lg->x = NULL;
    x->lg = NULL;
    if (held)
        hold_end(x);
    else
        hold_forget(x);
}

/* The handler's coroutine has ended, in whatever way. While its finalizers may still have the VM dropped, x is the
 * handler's. */
static void handler_done(host_luag *lg, int status) {
    host_exchange *x = lg->x;
    luag_undoom(lg);
    bool gone = (status != 0 || x->req.state == 0) && luag_client_gone(lg);
    if (status != 0) log_failure(lg, gone);
    luag_clear(lg, status);
    bool held = hold_take(x);
    if (held) complete(x, gone);
    waitq_close(&x->waitq);
    vm_count(&lg->vm->answers.running, -1);
    let_go(x, held); /* x may be another request's from here on */
    luag_give_cleared(lg);
}

/* The VM of a handler was dropped: its Lua is never touched again. */
static rt_step handler_drop(host_luag *lg) {
    host_exchange *x = lg->x;
    hold_overdue(x); /* if so, 504: the connection's G may not have noticed yet */
    hold_abandon(x, 502);
    luag_forget(lg); /* the deadline, too */
    vm_count(&lg->vm->answers.running, -1);
    let_go(x, false);
    return RT_EXIT;
}

/* ---- its beginning ---- */

/* No VM can serve x: answers 503. */
static rt_step not_served(host_exchange *x) {
    bool held = hold_take(x);
    if (held) response_error(x, 503);
    let_go(x, held);
    return RT_EXIT;
}

static rt_step bind_again(rt_g *g, host_exchange *x);

static rt_step bind_later(rt_g *g) {
    rt_wait_code(g);
    return bind_again(g, exchange_of(g));
}

/* x was bound to a VM, but was taken out before the handler began, or the VM was dropped or retired: binds x to another
 * VM. */
static rt_step bind_again(rt_g *g, host_exchange *x) {
    if (hold_lost(x)) {
        let_go(x, false);
        return RT_EXIT;
    }
    bool soon;
    host_vm *vm = handler_vm(x->server, &soon);
    if (vm && vm == x->server->listener.vm &&
        atomic_load_explicit(&vm->stuck, memory_order_relaxed)) {
        /* There is no other VM, and sysmon would take x out of this one again and again. */
        soon = true;
        vm = NULL;
    }
    if (vm) {
        rt_set_step(g, handler_step, vm->cell);
        return RT_YIELD;
    }
    if (!soon) return not_served(x);
    rt_set_step(g, bind_later, NULL);
    return handler_await_vm(g, x);
}

/* Makes the handler's coroutine. NULL: vm has no memory for it. */
static host_luag *start(rt_g *g, host_exchange *x, host_vm *vm) {
    host_luag *lg = x->lg = luag_take(vm);
    if (!lg) return NULL;
    int64_t limit = atomic_load_explicit(&x->limit_ns, memory_order_relaxed);
    lg->g = g;
    lg->x = x;
    lg->done = handler_done;
    luag_join_request(lg);
    vm_count(&vm->answers.begun, 1);
    vm_count(&vm->answers.running, 1);
    atomic_store_explicit(&lg->request_ns, limit ? limit + 1 : 0, memory_order_relaxed);
    if (x->hung_up) lg->canceled |= HOST_CANCELED_GONE;
    int n = x->server->listener.handler;
    lua_rawgeti(lg->L, LUA_REGISTRYINDEX, n < vm->n_handlers ? vm->handlers[n] : LUA_NOREF);
    lua_pushlightuserdata(lg->L, &x->req);
    lg->nargs = 1;
    return lg;
}

static rt_step handler_step(rt_g *g) {
    host_exchange *x = exchange_of(g);
    host_luag *lg = x->lg;
    if (!lg) {
        rt_cell *cell = rt_current_cell();
        host_vm *vm = cell ? rt_cell_data(cell) : NULL;
        if (!vm || hold_lost(x) || !may_begin(x->server, vm)) return bind_again(g, x);
        if (!(lg = start(g, x, vm))) return not_served(x);
    } else if (atomic_load_explicit(&lg->vm->dropped, memory_order_relaxed)) {
        return handler_drop(lg);
    }
    return luag_resume(lg);
}

rt_g *handler_make(host_exchange *x, host_vm *vm) {
    rt_g *g = rt_new_step(handler_step, NULL);
    if (!g) return NULL;
    rt_set_step(g, handler_step, vm->cell); /* g moves there: a stuck cell gives it back */
    RT_LOCAL(g, handler_local)->x = x;
    return g;
}
