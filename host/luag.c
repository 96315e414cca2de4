/* Lua Gs: how a coroutine becomes a G, waits, and goes on.
 *
 * A Lua G is a step G of its VM's cell. Its step resumes the coroutine and returns what that wants:
 * park, another turn, or the end. So a waiting Lua G costs its coroutine and no C stack.
 *
 * A wait begins in a lua_CFunction (never in an FFI call: a compiled trace keeps live values in
 * registers), which writes down what to wait for and yields. The step then parks the G. When it is
 * resumed, the answer is what the yield returns to the caller in Lua.
 *
 * A plain yield works where the running coroutine is the G's own and no C function stands between it
 * and the resume. Elsewhere (a comparator of table.sort, the user's own coroutine) the loop's stack is left
 * with all that stands on it, and the VM goes on with another (rt_leave_stack): the wait is a call that
 * returns later. LuaJIT keeps in its global state which coroutine runs (cur_L), which is another one when
 * the call returns; a call of a C function that does nothing sets it right. Nothing else of that state
 * outlives a C function, but for the hook flags, hence no waits in hooks, and what the
 * collector and FFI callbacks keep on the C stack, hence none in finalizers and callbacks.
 *
 * Lua is foreign code to the runtime (rt_enterforeign): while it runs, the M has no P of its own to speak of.
 */
#include "bubble.h"
#include "conn.h"
#include "costate.h"
#include "runaway.h"
#include "wait.h"

#include <stdio.h>
#include <stdlib.h>

#define SHARE_NS (100 * 1000) /* a VM that loads runs so long before it lets others run */

typedef struct luag_local {
    host_luag *lg;
} luag_local; /* what an rt_g of a plain Lua G holds */

host_luag *luag_current(void) {
    host_vm *vm = vm_current();
    return vm->slots[vm->view.slot];
}

/* ---- beginning a wait: lua_CFunctions ---- */

static void wait_for_good(lua_State *L, host_luag *lg);

static host_luag *waiter(lua_State *L) {
    host_vm *vm = vm_current();
    const char *why = vm_barrier(vm);
    if (why) luaL_error(L, "cannot wait here: %s", why);
    if (rt_debug()->gcwait) lua_gc(L, LUA_GCCOLLECT, 0);
    host_luag *lg = vm->slots[vm->view.slot];
    if (__builtin_expect(lg->seat != NULL, 0) && !bubble_may_wait(L, lg)) wait_for_good(L, lg);
    return lg;
}

host_luag *wait_begin(lua_State *L, const char *what) {
    host_luag *lg = waiter(L);
    if (lg->seat) bubble_refuse(L, what);
    return lg;
}

int wait_answer(lua_State *L, int word) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, word);
    return 1;
}

int wait_answer_error(lua_State *L, int err) {
    return wait_answer(L, err == RT_ETIMEOUT ? TIMEOUT : err == RT_ECLOSED ? CLOSED : CANCELED);
}

void luag_open(lua_State *L) {
    static const char *const words[] = {"canceled", "timeout", "closed"};
    for (int i = 0; i < 3; i++) {
        lua_pushstring(L, words[i]);
        lua_rawseti(L, LUA_REGISTRYINDEX, -1 - i);
    }
    costate_open(L);
}

static int64_t nearer(int64_t a, int64_t b) {
    return a == 0 || (b != 0 && b < a) ? b : a;
}

/* The nearest of its own and its request's. */
static int64_t limit_of(const host_luag *lg) {
    return nearer(atomic_load_explicit(&lg->limit_ns, memory_order_relaxed),
                  atomic_load_explicit(&lg->request_ns, memory_order_relaxed));
}

int64_t luag_limit(const host_luag *lg) {
    return limit_of(lg);
}

int64_t wait_until(const host_luag *lg, int64_t deadline_ns) {
    return lg->sheltered ? deadline_ns : nearer(limit_of(lg), deadline_ns);
}

void luag_name(const host_luag *lg, char *buf, size_t size) {
    if (lg->x)
        hold_name(lg->x, buf, size);
    else if (lg == lg->vm->gc.lg)
        snprintf(buf, size, "a finalizer");
    else
        snprintf(buf, size, "G %d.%.0f", lg->slot, lg->serial);
}

void luag_join_request(host_luag *lg) {
    lg->of_request = true;
    lg->vm->n_requests++;
}

void luag_leave_request(host_luag *lg) {
    if (!lg->of_request) return;
    lg->of_request = false;
    lg->vm->n_requests--;
}

void luag_forget(host_luag *lg) {
    rt_set_deadline(lg->g, 0);
    lg->g = NULL;
    VIEW_ADD(lg->vm->view.n_live, -1);
    luag_leave_request(lg);
    if (lg->seat) bubble_leave(lg);
    if (lg->is_main) lg->done(lg, HOST_LOST);
}

double host_deadline(void) {
    return (double)limit_of(luag_current());
}

double host_own_deadline(void) {
    return (double)luag_current()->limit_ns;
}

void host_set_deadline(double ns) {
    atomic_store_explicit(&luag_current()->limit_ns, (int64_t)ns, memory_order_relaxed);
}

bool luag_client_gone(host_luag *lg) {
    return lg->canceled & HOST_CANCELED_GONE || rt_canceled(lg->g);
}

/* What the poller has told the G (rt_cancel) becomes one of the reasons that the VM knows. */
bool wait_canceled(host_luag *lg) {
    if (rt_canceled(lg->g)) {
        lg->canceled |= HOST_CANCELED_GONE;
        rt_clear_cancel(lg->g);
    }
    return lg->canceled != 0 && !lg->sheltered;
}

static int nothing(lua_State *L) {
    (void)L;
    return 0;
}

/* LuaJIT's cur_L is the coroutine that Lua was last called on, and compiled code that is left believes it: after a call on
 * another, and before anything is raised. */
static void set_current(lua_State *L) {
    lua_pushcfunction(L, nothing);
    lua_call(L, 0, 0);
}

/* What a wait in queues answers. */
static int rested(lua_State *L, host_luag *lg, int err) {
    lg->resting = false;
    int shared = __builtin_expect(lg->shared != NULL, 0) ? shared_wait_settle(lg) : -1;
    if (shared >= 0) {
        queue_leave(lg);
        lg->fired = shared;
    }
    if (lg->fired >= 0) {
        lua_pushinteger(L, lg->fired);
        lg->fired = -1;
        return 1;
    }
    if (!err) return 0;
    queue_leave(lg);
    return wait_answer_error(L, err);
}

/* ---- park and ready: values go from stack to stack ---- */

char luag_again;

static int unparked(lua_State *L, host_luag *lg, int err) {
    int n = lg->n_ready;
    lg->parking = false;
    lg->n_ready = -1;
    if (n >= 0) return n;
    lua_pushlightuserdata(L, &luag_again);
    return err ? 1 + wait_answer_error(L, err) : 1;
}

/* The values that came before the park. */
static int take_kept(lua_State *L, host_luag *lg) {
    int n = lg->n_kept;
    lg->n_kept = -1;
    luaL_checkstack(L, n + 1, "too many values");
    lua_rawgeti(L, LUA_REGISTRYINDEX, lg->kept);
    int table = lua_gettop(L);
    for (int i = 1; i <= n; i++)
        lua_rawgeti(L, table, i);
    luaL_unref(L, LUA_REGISTRYINDEX, lg->kept);
    lg->kept = LUA_NOREF;
    return n;
}

void luag_ready(lua_State *L, host_luag *lg) {
    int n = lua_gettop(L) - 1;
    if (lg->parking) {
        lua_State *to = lg->held ? lg->held : lg->L;
        if (!lua_checkstack(to, n + 2)) {
            set_current(L);
            luaL_error(L, "ready: no room for %d values", n);
        }
        if (lg->n_ready > 0) lua_pop(to, lg->n_ready); /* the latest counts */
        lua_xmove(L, to, n);
        lg->n_ready = (int16_t)n;
        luag_wake(lg);
        return;
    }
    lua_createtable(L, n, 0);
    lua_insert(L, 2);
    for (int i = n; i > 0; i--)
        lua_rawseti(L, 2, i);
    if (lg->kept == LUA_NOREF)
        lg->kept = luaL_ref(L, LUA_REGISTRYINDEX);
    else
        lua_rawseti(L, LUA_REGISTRYINDEX, lg->kept);
    lg->n_kept = (int16_t)n;
}

static int settle_wait(host_luag *lg);

void luag_enter(host_luag *lg) {
    lg->vm->view.slot = lg->slot;
    lg->vm->view.serial = lg->serial;
    lg->vm->view.virtual_ns = bubble_now(lg);
    vm_enter_lua(lg->vm);
    atomic_store_explicit(&lg->vm->running, lg, memory_order_relaxed);
    rt_enterforeign();
}

/* The G has returned from Lua, or leaves it on its stack. */
void luag_leave(host_luag *lg) {
    host_vm *vm = lg->vm;
    vm_leave_lua(vm);
    if (!rt_exitforeign()) {
        bool kill = atomic_load_explicit(&vm->kill, memory_order_relaxed);
        vm_back(vm, kill && runaway_over(vm, lg->want != WANT_NOTHING));
    }
    if (__builtin_expect(rt_debug()->gctrace, 0)) vm_gc_note_peak(vm);
    vm_gc_ran(vm);
}

void luag_share(void) {
    host_vm *vm = vm_current();
    /* Not one that is late: only a VM that has its M for long can be ended. */
    bool loads = atomic_load_explicit(&vm->loads_until_ns, memory_order_relaxed) == INT64_MAX;
    if (!loads || rt_nanotime() - vm->shared_ns < SHARE_NS || vm_barrier(vm)) return;
    host_luag *lg = luag_current();
    luag_leave(lg);
    rt_share();
    luag_enter(lg);
    vm->shared_ns = rt_nanotime();
}

/* Waits as lg->want says, and leaves the stack; why the wait ended: 0 or an RT_E... */
static int leave_stack(lua_State *L, host_luag *lg) {
    lg->held = L;
    luag_leave(lg);
    rt_leave_stack(lg->want == WANT_TURN ? RT_YIELD : RT_PARK);
    lg->held = NULL;
    int err = settle_wait(lg);
    luag_enter(lg);
    set_current(L);
    if (__builtin_expect(lg->doomed, 0)) runaway_doom(lg->vm);
    return err;
}

/* The same in any way that works; what the lua_CFunction then returns. */
int wait_leave(lua_State *L, host_luag *lg) {
    if (lg->L == L && lua_isyieldable(L)) return lua_yield(L, 0);
    int err = leave_stack(L, lg);
    if (lg->parking) return unparked(L, lg, err);
    if (lg->resting) return rested(L, lg, err);
    return err ? wait_answer_error(L, err) : 0;
}

static inline void open_ticket(host_luag *lg, rt_reason reason, int64_t deadline_ns) {
    deadline_ns = wait_until(lg, deadline_ns);
    lg->want = WANT_TICKET;
    lg->deadline_ns = deadline_ns;
    lg->ticket = rt_wait_open(lg->g);
    if (__builtin_expect(lg->seat != NULL, 0)) {
        bubble_sleep(lg, deadline_ns);
        deadline_ns = 0;
    }
    rt_set_wait(lg->g, reason, deadline_ns);
}

static void wait_for_good(lua_State *L, host_luag *lg) {
    queue_leave(lg);
    for (;;) {
        open_ticket(lg, RT_WAIT_OTHER, 0);
        leave_stack(L, lg);
    }
}

static int wait_ticket(lua_State *L, host_luag *lg, rt_reason reason, int64_t deadline_ns) {
    open_ticket(lg, reason, deadline_ns);
    return wait_leave(L, lg);
}

int luag_wait(lua_State *L, rt_reason reason, int64_t deadline_ns) {
    host_luag *lg = waiter(L);
    if (wait_canceled(lg)) return wait_answer(L, CANCELED);
    return wait_ticket(L, lg, reason, deadline_ns);
}

int luag_park(lua_State *L) {
    host_luag *lg = waiter(L);
    if (lg->n_kept >= 0) return take_kept(L, lg);
    if (wait_canceled(lg)) return unparked(L, lg, RT_ECANCELED);
    lg->parking = true;
    return wait_ticket(L, lg, RT_WAIT_PARK, 0);
}

int luag_wait_with(lua_State *L, rt_reason reason, int64_t deadline_ns,
                   void (*begun)(host_luag *lg, void *arg), void *arg) {
    host_luag *lg = wait_begin(L, "a file, a program or a name");
    if (wait_canceled(lg)) return wait_answer(L, CANCELED);
    open_ticket(lg, reason, deadline_ns);
    begun(lg, arg);
    return wait_leave(L, lg);
}

int luag_rest(lua_State *L, host_queue *q, int64_t deadline_ns) {
    host_luag *lg = waiter(L);
    if (q) {
        /* A wait that was being prepared when an error came in between. */
        if (lg->n_cases || lg->fired >= 0) queue_leave(lg);
        if (lg->shared) shared_wait_settle(lg);
    } else if (lg->fired >= 0) {
        return rested(L, lg, 0);
    }
    if (wait_canceled(lg)) {
        queue_leave(lg);
        if (lg->shared) shared_wait_settle(lg);
        return wait_answer(L, CANCELED);
    }
    if (q) queue_join(q, lg);
    lg->resting = true;
    open_ticket(lg, RT_WAIT_OTHER, deadline_ns);
    if (__builtin_expect(lg->shared != NULL, 0) && !shared_wait_begin(lg)) luag_wake(lg);
    return wait_leave(L, lg);
}

int luag_wait_call(lua_State *L, host_call *c, int64_t deadline_ns) {
    host_luag *lg = wait_begin(L, "offload");
    if (wait_canceled(lg)) return wait_answer(L, CANCELED);
    lg->want = WANT_TICKET;
    lg->deadline_ns = wait_until(lg, deadline_ns);
    lg->ticket = rt_wait_open(lg->g);
    if (!call_open(c, lg, lg->ticket)) rt_wake(lg->g, lg->ticket, RT_WOKEN);
    rt_set_wait(lg->g, RT_WAIT_SYSCALL, lg->deadline_ns);
    return wait_leave(L, lg);
}

bool wait_early(const host_luag *lg) {
    return __builtin_expect(lg->vm->view.seed != 0, 0) && !lg->steady &&
           rt_cell_random(lg->vm->cell) % 4 == 0;
}

int luag_yield_early(lua_State *L) {
    host_luag *lg = luag_current();
    return wait_early(lg) && !vm_barrier(lg->vm) ? luag_yield(L) : 0;
}

int luag_yield(lua_State *L) {
    host_luag *lg = waiter(L);
    lg->want = WANT_TURN;
    return wait_leave(L, lg);
}

/* ---- ending it ---- */

int wait_ticket_result(host_luag *lg) {
    rt_wake_code code = rt_wait_code(lg->g);
    return code == RT_WOKEN ? 0 : code == RT_TIMEOUT ? RT_ETIMEOUT : RT_ECANCELED;
}

/* Why the wait ended: 0 or an RT_E... */
static int wait_result(host_luag *lg) {
    switch (lg->want) {
    case WANT_TICKET:
        return wait_ticket_result(lg);
    case WANT_QUEUE:
    case WANT_FD:
        return wait_fd_result(lg);
    default:
        return 0;
    }
}

static int settle_wait(host_luag *lg) {
    int err = wait_result(lg);
    lg->want = WANT_NOTHING;
    if (__builtin_expect(lg->seat != NULL, 0)) bubble_wake(lg);
    if (err == RT_ETIMEOUT && lg->x) hold_overdue(lg->x);
    return err;
}

static int end_wait(host_luag *lg) {
    int err = settle_wait(lg);
    if (lg->parking) return unparked(lg->L, lg, err);
    if (lg->resting) return rested(lg->L, lg, err);
    return err ? wait_answer_error(lg->L, err) : 0;
}

rt_step luag_resume(host_luag *lg) {
    lua_State *L = lg->L;
    bool waited = lg->want != WANT_NOTHING;
    int nargs = waited ? end_wait(lg) : lg->nargs;
    luag_enter(lg);
    costate_give(L, waited);
    int status = lua_resume(L, nargs);
    luag_leave(lg);
    if (status == LUA_YIELD) {
        if (lg->want != WANT_NOTHING) {
            costate_take(L);
            return lg->want == WANT_TURN ? RT_YIELD : RT_PARK;
        }
        /* coroutine.yield outside of any coroutine of the user's. */
        lua_settop(L, 0);
        lua_pushliteral(L, "attempt to yield outside of a coroutine");
        status = LUA_ERRRUN;
    }
    lg->done(lg, status);
    return RT_EXIT;
}

rt_step luag_step(rt_g *g) {
    host_luag *lg = ((luag_local *)rt_local(g))->lg;
    if (atomic_load_explicit(&lg->vm->dropped, memory_order_relaxed)) {
        luag_forget(lg);
        return RT_EXIT;
    }
    if (__builtin_expect(lg->doomed, 0)) runaway_doom(lg->vm);
    return luag_resume(lg);
}

double host_serial(int32_t slot) {
    host_vm *vm = vm_current();
    if (slot < 0 || slot >= vm->n_slots || !vm->slots[slot]->g) return 0;
    return vm->slots[slot]->serial;
}

bool luag_wake(host_luag *lg) {
    if (!lg->g || lg->want != WANT_TICKET || !rt_wake(lg->g, lg->ticket, RT_WOKEN)) return false;
    if (__builtin_expect(lg->seat != NULL, 0)) bubble_wake(lg);
    return true;
}

int host_wake(int32_t slot) {
    host_vm *vm = vm_current();
    return slot >= 0 && slot < vm->n_slots && luag_wake(vm->slots[slot]);
}

void luag_cancel(host_luag *lg, int why) {
    lg->canceled |= (uint8_t)why;
    rt_interrupt(lg->g, RT_CANCELED);
    if (lg->seat) bubble_wake(lg);
}

static void cancel(int32_t slot, int why) {
    host_vm *vm = vm_current();
    if (slot >= 0 && slot < vm->n_slots && vm->slots[slot]->g) luag_cancel(vm->slots[slot], why);
}

void host_cancel(int32_t slot) {
    cancel(slot, HOST_CANCELED);
}

void host_cancel_scope(int32_t slot) {
    cancel(slot, HOST_CANCELED_SCOPE);
}

int host_canceled(void) {
    host_luag *lg = luag_current();
    wait_canceled(lg);
    return lg->canceled;
}

void host_detach(int32_t slot) {
    host_vm *vm = vm_current();
    if (slot < 0 || slot >= vm->n_slots || !vm->slots[slot]->g) return;
    host_luag *lg = vm->slots[slot];
    atomic_store_explicit(&lg->limit_ns, 0, memory_order_relaxed);
    luag_leave_request(lg);
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

void host_shelter(int on) {
    luag_current()->sheltered = on;
}

void host_set_canceled(int why) {
    luag_current()->canceled = (uint8_t)why;
}

/* ---- starting one ---- */

/* Tells lunapark (init.lua) that a G of its ended without its knowing, for those who join it. */
static bool tell_lost(host_luag *lg, const char *msg) {
    lua_State *L = lg->vm->L;
    lua_getfield(L, LUA_REGISTRYINDEX, "lunapark.lost");
    bool told = false;
    if (lua_isfunction(L, -1)) {
        lua_pushinteger(L, lg->slot);
        lua_pushstring(L, msg);
        told = lua_pcall(L, 2, 1, 0) == 0 && lua_toboolean(L, -1);
    }
    lua_pop(L, 1);
    return told;
}

/* The G of a plain Lua G: Lua itself has reported an error by then, so what comes here is a plain
 * yield, a failure of that report, or one of a function started from C. */
static void plain_done(host_luag *lg, int status) {
    if (status == HOST_LOST) return;
    lg->doomed = false;
    if (status != 0) {
        const char *msg = lua_tostring(lg->L, -1);
        if (!msg) msg = "(no message)";
        if (!tell_lost(lg, msg)) log_line(LOG_ERROR, "a G ended with an error: %s", msg);
    }
    luag_give(lg, status);
}

host_luag *luag_start(host_vm *vm, lua_State *from, int nargs) {
    host_luag *lg = luag_take(vm); /* which may call the main state, for a further coroutine */
    set_current(from);
    if (!lg) luaL_error(from, "not enough memory");
    host_luag *starter = luag_current();
    if (starter->seat && !bubble_join(starter->seat->of, lg)) {
        luag_give(lg, 0);
        luaL_error(from, "not enough memory");
    }
    atomic_store_explicit(&lg->limit_ns, limit_of(starter), memory_order_relaxed);
    if (starter->of_request) luag_join_request(lg);
    if (vm->ends) lg->canceled = HOST_CANCELED;
    lg->g = rt_new_step(luag_step, vm->cell);
    ((luag_local *)rt_local(lg->g))->lg = lg;
    lg->nargs = nargs;
    lg->done = plain_done;
    lua_xmove(from, lg->L, nargs + 1);
    costate_take(lg->L);
    rt_ready(lg->g);
    return lg;
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
    spawn *s = *(spawn **)rt_local(g);
    if (atomic_load_explicit(&s->vm->dropped, memory_order_relaxed)) return spawn_lost(s);
    host_luag *lg = luag_take(s->vm);
    if (!lg) return spawn_lost(s);
    lg->g = g;
    lg->is_main = true;
    lg->done = s->done ? s->done : plain_done;
    lg->done_arg = s->done_arg;
    lg->nargs = s->boot(s->vm, lg->L, s->arg);
    ((luag_local *)rt_local(g))->lg = lg;
    rt_set_step(g, luag_step, s->vm->cell);
    free(s);
    return luag_step(g);
}

void luag_spawn(host_vm *vm, luag_boot boot, void *arg, void (*done)(host_luag *, int),
                void (*lost)(void *), void *done_arg) {
    spawn *s = malloc(sizeof *s);
    if (!s) rt_throw("out of memory for a G");
    *s = (spawn){vm, boot, arg, done, lost, done_arg};
    rt_g *g = rt_new_step(spawn_step, vm->cell);
    *(spawn **)rt_local(g) = s;
    rt_ready(g);
}
