/* Lua Gs: how a coroutine becomes a G, runs and ends.
 *
 * A Lua G is a step G of its VM's cell. Its step resumes the coroutine and returns what the coroutine wants: park,
 * another turn, or the end. How a Lua G waits: wait.c.
 *
 * Lua is foreign code to the runtime (rt_enterforeign): while Lua runs, its M has no P of its own.
 */
#include "luag.h"

#include "../base/base_ffi.h"
#include "../base/log.h"
#include "bubble.h"
#include "costate.h"
#include "keeper.h"
#include "runaway.h"
#include "vm.h"
#include "wait.h"

#include <errno.h>
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHARE_NS (100 * 1000) /* a VM that loads runs so long before it lets others run */

const luag_request_ops *luag_requests;

typedef struct luag_local {
    host_luag *lg;
} luag_local; /* the locals of a plain Lua G's rt_g */

host_luag *luag_current(void) {
    host_vm *vm = vm_current();
    return vm->slots.v[vm->view.slot];
}

void luag_open(lua_State *L) {
    wait_open(L);
    costate_open(L);
}

/* ---- facts about a G ---- */

void luag_name(const host_luag *lg, char *buf, size_t size) {
    if (lg->x)
        luag_requests->name(lg->x, buf, size);
    else if (lg == lg->vm->gc.lg)
        snprintf(buf, size, "a finalizer");
    else
        snprintf(buf, size, "G %d.%.0f", lg->slot, lg->serial);
}

int luag_route(const host_luag *lg) {
    return lg->x ? luag_requests->route(lg->x) : lg->route;
}

void luag_origin(const host_luag *lg, char *buf, size_t size) {
    const char *route = host_label_text(luag_route(lg)), *place = host_label_text(lg->place);
    buf[0] = 0;
    if (place[0])
        snprintf(buf, size, " (started at %s%s%s)", place, route[0] ? " in " : "", route);
    else if (route[0])
        snprintf(buf, size, " (%s)", route);
}

bool luag_script_line(lua_State *L, lua_Debug *ar) {
    static const char ours[] = "@lunapark/";
    for (int level = 1; lua_getstack(L, level, ar); level++) {
        lua_getinfo(L, "Sl", ar);
        if (ar->currentline > 0 && strncmp(ar->source, ours, sizeof ours - 1) != 0) return true;
    }
    return false;
}

const char *host_route(void) {
    return host_label_text(luag_route(luag_current()));
}

void host_set_place(int32_t slot, int label) {
    host_vm *vm = vm_current();
    if (slot >= 0 && slot < vm->slots.n) vm->slots.v[slot]->place = (uint16_t)label;
}

void luag_join_request(host_luag *lg) {
    lg->of_request = true;
    lg->vm->end.n_requests++;
}

void luag_leave_request(host_luag *lg) {
    if (!lg->of_request) return;
    lg->of_request = false;
    lg->vm->end.n_requests--;
}

int64_t luag_limit(const host_luag *lg) {
    return luag_nearer(atomic_load_explicit(&lg->limit_ns, memory_order_relaxed),
                       atomic_load_explicit(&lg->request_ns, memory_order_relaxed));
}

double host_deadline(void) {
    return (double)luag_limit(luag_current());
}

double host_own_deadline(void) {
    return (double)luag_current()->limit_ns;
}

void host_set_deadline(double ns) {
    host_luag *lg = luag_current();
    int64_t was = luag_limit(lg);
    atomic_store_explicit(&lg->limit_ns, (int64_t)ns, memory_order_relaxed);
    if (luag_limit(lg) != was && !lg->canceled) spin_over(lg);
}

bool luag_client_gone(host_luag *lg) {
    return lg->canceled & HOST_CANCELED_GONE || rt_canceled(lg->g);
}

double host_serial(int32_t slot) {
    host_vm *vm = vm_current();
    if (slot < 0 || slot >= vm->slots.n || !vm->slots.v[slot]->g) return 0;
    return vm->slots.v[slot]->serial;
}

/* ---- running its Lua ---- */

static void become_current(host_luag *lg) {
    lg->vm->view.slot = lg->slot;
    lg->vm->view.serial = lg->serial;
    lg->vm->view.virtual_ns = bubble_now(lg);
    lg->vm->spin.failing = NULL;
}

static void enter_foreign(host_luag *lg) {
    atomic_store_explicit(&lg->vm->running, lg, memory_order_relaxed);
    rt_enterforeign();
}

static void leave_foreign(host_luag *lg) {
    host_vm *vm = lg->vm;
    if (rt_exitforeign()) return;
    bool kill = atomic_load_explicit(&vm->runaway.kill, memory_order_relaxed);
    vm_keeper->back(vm, kill && runaway_over(vm, lg->want != WANT_NOTHING));
}

int luag_cpcall(host_vm *vm, lua_CFunction fn, void *arg) {
    if (rt_p_id() < 0) return lua_cpcall(vm->L, fn, arg); /* the caller is within Lua already */
    enter_foreign(vm->gc.lg);
    int status = lua_cpcall(vm->L, fn, arg);
    leave_foreign(vm->gc.lg);
    return status;
}

void luag_enter(host_luag *lg) {
    become_current(lg);
    vm_enter_lua(lg->vm);
    enter_foreign(lg);
}

/* The G has returned from Lua, or leaves it on its stack. */
void luag_leave(host_luag *lg) {
    host_vm *vm = lg->vm;
    vm_leave_lua(vm);
    leave_foreign(lg);
    become_current(vm->gc.lg);
    if (__builtin_expect(rt_debug()->gctrace, 0)) vm_gc_note_peak(vm);
    vm_gc_ran(vm);
}

void luag_share(void) {
    host_vm *vm = vm_current();
    /* Not a VM that is late: only a VM that keeps its M for long can be ended. */
    bool loads = atomic_load_explicit(&vm->loads_until_ns, memory_order_relaxed) == INT64_MAX;
    if (!loads || rt_nanotime() - vm->shared_ns < SHARE_NS || vm_barrier(vm)) return;
    host_luag *lg = luag_current();
    luag_leave(lg);
    rt_share();
    luag_enter(lg);
    vm->shared_ns = rt_nanotime();
}

rt_step luag_resume(host_luag *lg) {
    lua_State *L = lg->L;
    bool waited = lg->want != WANT_NOTHING;
    int nargs = waited ? wait_end(lg) : lg->nargs;
    if (__builtin_expect(lg->doomed, 0)) runaway_doom(lg->vm);
    luag_enter(lg);
    costate_give(L, waited);
    int status = lua_resume(L, nargs);
    luag_leave(lg);
    if (status == LUA_YIELD) {
        if (lg->want != WANT_NOTHING) {
            costate_take(L);
            return wait_step(lg);
        }
        /* A C library has yielded the coroutine: coroutine.yield raises (corolib.c). */
        lua_settop(L, 0);
        lua_pushliteral(L, "attempt to yield outside of a coroutine");
        status = LUA_ERRRUN;
    }
    lg->done(lg, status);
    return RT_EXIT;
}

rt_step luag_step(rt_g *g) {
    host_luag *lg = RT_LOCAL(g, luag_local)->lg;
    if (atomic_load_explicit(&lg->vm->dropped, memory_order_relaxed)) {
        luag_forget(lg);
        return RT_EXIT;
    }
    return luag_resume(lg);
}

/* Not luag_step, which is what the cell shuffles. */
static rt_step steady_step(rt_g *g) {
    return luag_step(g);
}

void host_steady(void) {
    host_luag *lg = luag_current();
    lg->steady = true;
    rt_set_step(lg->g, steady_step, lg->vm->cell);
}

void luag_shuffle(host_vm *vm, int64_t seed) {
    rt_cell_shuffle(vm->cell, (uint64_t)seed, luag_step);
    vm->view.seed = (double)seed + 1;
}

/* ---- waking and ending it ---- */

bool luag_wake(host_luag *lg) {
    if (!lg->g || lg->want != WANT_TICKET || !rt_wake(lg->g, lg->ticket, RT_WOKEN)) return false;
    if (__builtin_expect(lg->seat != NULL, 0)) bubble_wake(lg);
    return true;
}

int host_wake(int32_t slot) {
    host_vm *vm = vm_current();
    return slot >= 0 && slot < vm->slots.n && luag_wake(vm->slots.v[slot]);
}

void luag_cancel(host_luag *lg, int why) {
    lg->canceled |= (uint8_t)why;
    rt_interrupt(lg->g, RT_CANCELED);
    if (lg->seat) bubble_wake(lg);
}

static void cancel(int32_t slot, int why) {
    host_vm *vm = vm_current();
    if (slot >= 0 && slot < vm->slots.n && vm->slots.v[slot]->g)
        luag_cancel(vm->slots.v[slot], why);
}

void host_cancel(int32_t slot) {
    cancel(slot, HOST_CANCELED);
}

void host_cancel_scope(int32_t slot) {
    cancel(slot, HOST_CANCELED_SCOPE);
}

void host_detach(int32_t slot) {
    host_vm *vm = vm_current();
    if (slot < 0 || slot >= vm->slots.n || !vm->slots.v[slot]->g) return;
    host_luag *lg = vm->slots.v[slot];
    atomic_store_explicit(&lg->limit_ns, 0, memory_order_relaxed);
    luag_leave_request(lg);
}

void luag_forget(host_luag *lg) {
    rt_set_deadline(lg->g, 0);
    lg->g = NULL;
    VIEW_ADD(lg->vm->view.n_live, -1);
    luag_leave_request(lg);
    if (lg->seat) bubble_leave(lg);
    if (lg->is_main) lg->done(lg, HOST_LOST);
}

/* ---- starting one ---- */

typedef struct lost_g {
    host_luag *lg;
    const char *msg;
    bool told;
} lost_g;

/* Tells lunapark (init.lua) that one of its Gs ended without its knowing, for the Gs that join it. */
static int call_lost(lua_State *L) {
    lost_g *lost = lua_touserdata(L, 1);
    lua_getfield(L, LUA_REGISTRYINDEX, "lunapark.lost");
    if (!lua_isfunction(L, -1)) return 0;
    lua_pushinteger(L, lost->lg->slot);
    lua_pushstring(L, lost->msg);
    lua_call(L, 2, 1);
    lost->told = lua_toboolean(L, -1);
    return 0;
}

static bool tell_lost(host_luag *lg, const char *msg) {
    lua_State *L = lg->vm->L;
    lost_g lost = {.lg = lg, .msg = msg};
    if (luag_cpcall(lg->vm, call_lost, &lost) != 0) lua_pop(L, 1);
    return lost.told;
}

/* The end of a plain Lua G. Lua itself has reported an error by then. So what comes here is a plain yield, a failure of
 * that report, or an error of a function that C started. */
static void plain_done(host_luag *lg, int status) {
    if (status == HOST_LOST) return;
    luag_undoom(lg);
    if (status != 0) {
        const char *msg = lua_tostring(lg->L, -1);
        if (!msg) msg = "(no message)";
        if (!tell_lost(lg, msg)) log_line(LOG_ERROR, "a G ended with an error: %s", msg);
    }
    luag_give(lg, status);
}

/* lg, on whose L a function and its arguments are, begins as the G g. */
static void begin(host_luag *lg, rt_g *g, const host_luag *starter, int nargs) {
    host_vm *vm = lg->vm;
    atomic_store_explicit(&lg->limit_ns, luag_limit(starter), memory_order_relaxed);
    if (starter->of_request) luag_join_request(lg);
    lg->route = (uint16_t)luag_route(starter);
    if (vm->end.ends) lg->canceled = HOST_CANCELED;
    lg->g = g;
    RT_LOCAL(g, luag_local)->lg = lg;
    lg->nargs = (int16_t)nargs;
    lg->done = plain_done;
    vm->view.started = lg->serial;
    costate_take(lg->L);
    rt_ready(g);
}

host_luag *luag_start(host_vm *vm, lua_State *from, int nargs) {
    host_luag *lg = luag_take(vm); /* may call the main state, for a further coroutine */
    lj_state_set_current(from);
    if (!lg)
        luaL_error(from, vm->end.closing ? "no G can begin: its VM ends" : "not enough memory");
    host_luag *starter = luag_current();
    bool joined = !starter->seat || bubble_join(starter->seat->of, lg);
    bool fits = joined && wait_make_room(from, lg->L, nargs + 1);
    rt_g *g = fits ? rt_new_step(luag_step, vm->cell) : NULL;
    if (!g) {
        luag_untake(lg);
        luaL_error(from, "not enough memory");
    }
    lua_xmove(from, lg->L, nargs + 1);
    begin(lg, g, starter, nargs);
    return lg;
}

/* Called by the FFI, so in the midst of compiled code, whose values the collector would not see and whose stack is not
 * in order: nothing here may allocate in Lua, raise, or call Lua. A coroutine that is left over has room for what is
 * pushed, and a number and a value of the registry are pushed without an allocation. */
int host_go(int place) {
    host_vm *vm = vm_current();
    host_luag *starter = luag_current(), *spare = vm->slots.free;
    if (!spare || !spare->L || !costate_has_room(spare->L) || !vm->body_ref || starter->seat ||
        vm->end.closing)
        return -EAGAIN;
    rt_g *g = rt_new_step(luag_step, vm->cell);
    if (!g) return -EAGAIN;
    host_luag *lg = luag_take(vm);
    lua_rawgeti(lg->L, LUA_REGISTRYINDEX, vm->body_ref);
    lua_pushnumber(lg->L, lg->slot);
    begin(lg, g, starter, 1);
    lg->place = (uint16_t)place;
    return lg->slot;
}

typedef struct spawn {
    host_vm *vm;
    luag_boot boot;
    void *arg;
    void (*done)(host_luag *, int);
    void (*lost)(void *);
    void *done_arg;
} spawn;

static rt_step spawn_lost(spawn *s) {
    if (s->lost) s->lost(s->done_arg);
    free(s);
    return RT_EXIT;
}

/* The first step of a G that was spawned from outside: only here, in the VM, may its Lua be touched. */
static rt_step spawn_step(rt_g *g) {
    spawn *s = *RT_LOCAL(g, spawn *);
    if (atomic_load_explicit(&s->vm->dropped, memory_order_relaxed)) return spawn_lost(s);
    host_luag *lg = luag_take(s->vm);
    if (!lg) return spawn_lost(s);
    lg->g = g;
    lg->is_main = true;
    lg->done = s->done ? s->done : plain_done;
    lg->done_arg = s->done_arg;
    lg->nargs = (int16_t)s->boot(s->vm, lg->L, s->arg);
    if (lg->nargs < 0) {
        luag_give(lg, LUA_ERRMEM);
        return spawn_lost(s);
    }
    RT_LOCAL(g, luag_local)->lg = lg;
    rt_set_step(g, luag_step, s->vm->cell);
    free(s);
    return luag_step(g);
}

bool luag_spawn(host_vm *vm, luag_boot boot, void *arg, void (*done)(host_luag *, int),
                void (*lost)(void *), void *done_arg) {
    spawn *s = malloc(sizeof *s);
    rt_g *g = s ? rt_new_step(spawn_step, vm->cell) : NULL;
    if (!g) {
        free(s);
        return false;
    }
    *s = (spawn){vm, boot, arg, done, lost, done_arg};
    *RT_LOCAL(g, spawn *) = s;
    rt_ready(g);
    return true;
}
