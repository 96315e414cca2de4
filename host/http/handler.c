/* Handlers: the Lua G that answers a request.
 *
 * When a whole head is there, the connection's G chooses a VM and makes a step G for the handler. The handler's G joins
 * the VM's cell, takes one of the VM's coroutines and resumes the server's handler with the request. The connection's G
 * waits for the handler (hold.c). So requests of one connection may run in different VMs. A handler touches the
 * connection only in the calls that take it (request.c, response.c).
 *
 * How the G gets into a VM: serve/bind.c.
 *
 * What C refuses (a head that is wrong or too large, a client that is late or one too many, a handler that has lost its
 * connection) C answers by itself, unless the app has on_error or on_done, which are told of every exchange: then the VM
 * has a function for that (core.set_refuser, lua/lunapark/http/refusal.lua), and a handler calls it in place of the
 * app's. Refusing must stay cheap and certain. So no VM is waited for that is being made, and the handler is asked once
 * for each exchange, and for a second, in which the one VM of a server (of specs) may come back that is stuck. In
 * whatever way this handler fails, C answers the status that it would have answered without it.
 *
 * A handler may have taken the connection's stream (hijack.c). Its socket is closed with it, and the connection ends then.
 *
 * A handler ends in one of four ways: its function returned or failed (handler_done); its VM was dropped
 * (dropped); no VM can take it when it begins (end); it lost the connection before it began. In the first
 * and third case the handler's G completes the response before the connection goes back. In the others the connection
 * has gone on without the handler.
 */
#include "handler.h"

#include "../base/base.h"
#include "../base/base_ffi.h"
#include "../base/count.h"
#include "../base/log.h"
#include "../serve/bind.h"
#include "../vm/vm.h"
#include "conn.h"
#include "hijack.h"
#include "hold.h"
#include "over.h"
#include "response.h"

#include <lauxlib.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define REFUSAL_NS NS_PER_SEC /* the app has as long for a request that is refused */

rt_step handler_await_vm(rt_g *g, host_exchange *x) {
    if (rt_canceled(g)) { /* a canceled G would not wait but run again and again */
        x->hung_up = true;
        rt_clear_cancel(g);
    }
    return bind_await(g);
}

/* ---- its end ---- */

static host_log_pair pair_of(const char *key, const char *text, size_t n) {
    return (host_log_pair){.key = key,
                           .key_len = (uint32_t)strlen(key),
                           .kind = HOST_LOG_STRING,
                           .text = text,
                           .text_len = (uint32_t)n};
}

static void log_failure(host_luag *lg, bool gone) {
    host_exchange *x = lg->x;
    const char *msg = lua_tostring(lg->L, -1), *method = host_method_name(x->req.method);
    const char *path = x->in + x->req.path.off;
    int answered = hold_status(x), level = gone && !answered ? LOG_DEBUG : LOG_ERROR;
    char when[64] = "", line[4096], id[24];
    if (!msg) msg = "(no message)";
    if (answered) snprintf(when, sizeof when, "after the client was answered %d: ", answered);
    int n =
        snprintf(line, sizeof line, "%s %.*s: %s%s", method, (int)x->req.path.len, path, when, msg);
    int id_len = snprintf(id, sizeof id, "%.0f", x->req.id);
    const host_log_pair pairs[] = {
        pair_of("method", method, strlen(method)), pair_of("path", path, x->req.path.len),
        pair_of("id", id, (size_t)id_len), pair_of("error", msg, strlen(msg))};
    host_log_pairs(level, line, n < (int)sizeof line ? (size_t)n : sizeof line - 1, pairs,
                   host_log_is_json() ? 4 : 0);
}

/* Completes the response of a handler that has ended. The handler's G has the connection. gone: the client is gone. */
static void complete(host_exchange *x, bool gone) {
    if (x->req.state == 0 && gone) {
        x->broken = true;
    } else if (x->req.state == 0) {
        response_error(x, exchange_failure(x, 500));
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
    if (held || hold_state(x) == HOLD_LENT)
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
    if (hold_state(x) == HOLD_LENT) hijack_end(x);
    waitq_close(&x->waitq);
    count_more(&lg->vm->answers.running, -1);
    let_go(x, held); /* x may be another request's from here on */
    luag_give_cleared(lg);
}

/* The VM of a handler was dropped: its Lua is never touched again. */
static void dropped(void *who) {
    host_exchange *x = who;
    hold_overdue(x); /* if so, 504: the connection's G may not have noticed yet */
    hold_abandon(x, 502);
    luag_forget(x->lg); /* the deadline, too */
    count_more(&x->lg->vm->answers.running, -1);
    let_go(x, false);
}

/* ---- its beginning ---- */

/* No VM can serve x: answers 503; or x is lost. */
static void end(void *who, bool lost) {
    host_exchange *x = who;
    bool held = !lost && hold_take(x);
    if (held) response_error(x, exchange_failure(x, 503));
    let_go(x, held);
}

/* For the access log. Atomic: the connection may part with x meanwhile, and hands both on. */
static inline void note_vm(host_exchange *x, const host_vm *vm) {
    int number = vm->view.vm_id + 1;
    __atomic_store_n(&x->req.vm, number < UINT16_MAX ? (uint16_t)number : 0, __ATOMIC_RELAXED);
    __atomic_store(&x->number, &x->req.id, __ATOMIC_RELAXED);
}

/* Pushes the door of the route that x asks for. False: there is none. */
static inline bool push_door(lua_State *L, const host_exchange *x, const vm_handler *h) {
    const host_req *r = &x->req;
    int n = host_route_find(h->routes, r->method, r->buf + r->path.off, r->path.len, h->match);
    if (n <= 0) return false;
    lua_rawgeti(L, LUA_REGISTRYINDEX, h->doors);
    lua_rawgeti(L, -1, n);
    lua_remove(L, -2);
    if (!lua_isnil(L, -1)) return true;
    lua_pop(L, 1);
    return false;
}

/* What the coroutine calls, with slot and address of the request: the door of its route, of which h->match tells; the
 * server's handler, which finds the route, and gets its own number while it has not said where its doors are; or the
 * function for what is refused, with number and seconds. Pushes no lightuserdata, which compiled code cannot cast. */
static inline void push_call(const host_exchange *x, host_vm *vm, host_luag *lg) {
    static const vm_handler none = {.fn = LUA_NOREF};
    lua_State *L = lg->L;
    int n = x->server->listener.handler;
    const vm_handler *h = n < vm->n_handlers ? &vm->handlers[n] : &none;
    bool finds = h->routes && !x->asked;
    if (!finds || !push_door(L, x, h)) {
        int refuser = atomic_load_explicit(&vm->refuser, memory_order_relaxed);
        lua_rawgeti(L, LUA_REGISTRYINDEX, x->asked ? refuser : h->fn);
    }
    lua_pushnumber(L, x->slot);
    lua_pushnumber(L, (double)(uintptr_t)&x->req); /* exact: an address has fewer than 53 bits */
    lg->nargs = 2;
    if (finds) return;
    lua_pushnumber(L, n);
    lg->nargs = 3;
    if (!x->asked) return;
    lua_pushnumber(L, (double)(rt_nanotime() - x->begin_ns) / NS_PER_SEC);
    lg->nargs = 4;
}

/* Makes the handler's coroutine. NULL: vm has no memory for it, or asks for no refused requests any more. */
static host_luag *begin(void *who, rt_g *g, host_vm *vm) {
    host_exchange *x = who;
    if (x->asked && !atomic_load_explicit(&vm->refuser, memory_order_relaxed)) return NULL;
    host_luag *lg = x->lg = luag_take(vm);
    if (!lg) return NULL;
    int64_t limit = atomic_load_explicit(&x->limit_ns, memory_order_relaxed);
    lg->g = g;
    lg->x = x;
    /* A handler that has lost the connection, and not one that answers in its place, is the one of the log. */
    if (!x->asked || !x->req.vm) note_vm(x, vm);
    lg->done = handler_done;
    luag_join_request(lg);
    count_more(&vm->answers.begun, 1);
    count_more(&vm->answers.running, 1);
    atomic_store_explicit(&lg->request_ns, limit ? limit + 1 : 0, memory_order_relaxed);
    if (x->hung_up) lg->canceled |= HOST_CANCELED_GONE;
    push_call(x, vm, lg);
    return lg;
}

static host_server *server_of(void *who) {
    return ((host_exchange *)who)->server;
}

static host_luag *luag_of(void *who) {
    return ((host_exchange *)who)->lg;
}

static bool is_lost(void *who) {
    return hold_lost(who);
}

static void hung_up(void *who) {
    ((host_exchange *)who)->hung_up = true;
}

static const bind_ops ops = {
    .server = server_of,
    .luag = luag_of,
    .lost = is_lost,
    .canceled = hung_up,
    .begin = begin,
    .end = end,
    .dropped = dropped,
};

/* Ids of exchanges that each P has reserved. Only the M that has the P. */
static struct {
    OF_ONE_P uint64_t last;
    uint64_t end;
} ids[MAX_PS];

/* An id that no other request of this process has. */
static inline double next_id(void) {
    enum { IDS = 64 };
    static _Atomic uint64_t n_taken;
    int p = rt_p_id();
    if (ids[p].last == ids[p].end) {
        ids[p].last = atomic_fetch_add_explicit(&n_taken, IDS, memory_order_relaxed);
        ids[p].end = ids[p].last + IDS;
    }
    return (double)++ids[p].last;
}

static inline int64_t limit_of(host_exchange *x) {
    int64_t limit = atomic_load_explicit(&x->limit_ns, memory_order_relaxed),
            ns = (int64_t)(x->server->listener.limits->handler_timeout * 1e9);
    if (limit == 0 && ns > 0) {
        limit = ns + (x->in_pieces ? rt_nanotime() : x->begin_ns);
        atomic_store_explicit(&x->limit_ns, limit, memory_order_relaxed);
    }
    return limit;
}

int64_t handler_limit(host_exchange *x) {
    return limit_of(x);
}

/* Makes the G of a handler that begins in vm. */
static inline rt_g *make(host_exchange *x, host_vm *vm, double id) {
    rt_g *g = bind_make(&ops, x, vm);
    if (!g) return NULL;
    __atomic_store(&x->req.id, &id, __ATOMIC_RELAXED);
    x->handler = g;
    x->handler_id = rt_id(g);
    return g;
}

rt_g *handler_make(host_exchange *x, bool *soon) {
    host_vm *vm = bind_choose(x->server, soon);
    if (!vm) return NULL;
    *soon = false;
    rt_g *g = make(x, vm, next_id());
    if (!g) return NULL;
    exchange_handed();
    (void)limit_of(x);
    return g;
}

/* What Lua sees of a request that is refused, perhaps in the midst of its head: no body. */
static void show_refused(host_exchange *x, int status) {
    if (!x->in) x->in = x->room;
    x->req.buf = x->in;
    x->req.has_body = 0;
    x->req.body_complete = 1;
    x->req.status = (uint16_t)status;
}

rt_g *handler_refuse(host_exchange *x, int status) {
    bool soon;
    host_vm *vm = x->asked ? NULL : bind_choose(x->server, &soon);
    if (!vm || !atomic_load_explicit(&vm->refuser, memory_order_relaxed)) return NULL;
    /* The id of a request whose handler has lost it stays: logs name it. Pointer and id are still of one request, since
     * the pointer is another one. */
    rt_g *g = make(x, vm, x->number > 0 ? x->number : next_id());
    if (!g) return NULL;
    x->asked = true;
    show_refused(x, status);
    int64_t ns = (int64_t)(x->server->listener.limits->handler_timeout * 1e9);
    if (ns == 0 || ns > REFUSAL_NS) ns = REFUSAL_NS;
    atomic_store_explicit(&x->limit_ns, rt_nanotime() + ns, memory_order_relaxed);
    return g;
}
