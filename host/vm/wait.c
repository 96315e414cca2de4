/* How a Lua G waits, and goes on.
 *
 * A wait begins in a lua_CFunction, which notes what to wait for and yields. The G's step then parks the G. When the G
 * is resumed, the yield returns the answer to the caller in Lua. So a waiting Lua G costs its coroutine and no C stack.
 *
 * An FFI call can not wait. Compiled code that makes one keeps live values in registers and on the C stack beneath the
 * call, where neither the collector nor a coroutine that is resumed would find them; it gives the function no lua_State
 * to yield; and LuaJIT goes on believing that the caller runs. So what the FFI declares (vm_ffi.h) tries and returns, and
 * what waits stands in lunapark.core. Of starting, parking and waking, the parts that need no wait are FFI calls, since
 * these are compiled with the Lua around them, and a lua_CFunction ends a trace:
 *  - host_ready wakes, without values. Values are moved by lunapark.core.ready.
 *  - host_go starts a function on a coroutine that is left over. lunapark.core.go makes one, and moves arguments.
 *  - host_park_begin and host_park_end stand on both sides of the yield: need the G wait, and what has ended the wait?
 *    lunapark.core.park between them yields.
 * Such a call may come in the midst of a trace, so it must not allocate in Lua, raise, or call Lua; it may push onto
 * another coroutine's stack, where there is room. Interpreted, it costs twice a lua_CFunction, for its arguments are
 * converted. lua/lunapark/init.lua calls each where that is compiled or saves another call.
 *
 * A plain yield works where the running coroutine is the G's own and no C function stands between it and the resume.
 * Elsewhere (a comparator of table.sort, the user's own coroutine) the loop's stack is left as it is, and the VM goes
 * on with another stack (rt_leave_stack): the wait is a call that returns later. LuaJIT's global state says which
 * coroutine runs (cur_L), and another one does when the call returns: lj_state_set_current sets it right. Nothing else
 * of this state outlives a C function, with two exceptions. The hook flags do, hence no waits in hooks. The state that
 * the collector and FFI callbacks keep on the C stack does, hence no waits in finalizers and callbacks.
 */
#include "wait.h"

#include "bubble.h"
#include "offload.h"
#include "runaway.h"
#include "vm.h"

#include <errno.h>
#include <lauxlib.h>

/* ---- words ---- */

enum { NOTHING = -4 /* in the registry, beside the words: the function below */ };

static int nothing(lua_State *L) {
    (void)L;
    return 0;
}

void wait_open(lua_State *L) {
    static const char *const words[] = {"canceled", "timeout", "closed"};
    for (int i = 0; i < 3; i++) {
        lua_pushstring(L, words[i]);
        lua_rawseti(L, LUA_REGISTRYINDEX, -1 - i);
    }
    lua_pushcfunction(L, nothing);
    lua_rawseti(L, LUA_REGISTRYINDEX, NOTHING);
}

static void count_answer(host_luag *lg, int word) {
    if (word == TIMEOUT && lg->deadline_ns != luag_limit(lg))
        spin_over(lg);
    else
        spin_count(lg, word);
}

int wait_answer(lua_State *L, host_luag *lg, int word) {
    count_answer(lg, word);
    lua_rawgeti(L, LUA_REGISTRYINDEX, word);
    return 1;
}

static int word_of(int err) {
    return err == RT_ETIMEOUT ? TIMEOUT : err == RT_ECLOSED ? CLOSED : CANCELED;
}

int wait_answer_error(lua_State *L, host_luag *lg, int err) {
    return wait_answer(L, lg, word_of(err));
}

/* ---- early ends: deadlines, cancellation ---- */

int64_t wait_until(const host_luag *lg, int64_t deadline_ns) {
    return lg->sheltered ? deadline_ns : luag_nearer(luag_limit(lg), deadline_ns);
}

/* A cancellation by the poller (rt_cancel) becomes one of the VM's reasons. */
bool wait_canceled(host_luag *lg) {
    if (lg->g && rt_canceled(lg->g)) {
        lg->canceled |= HOST_CANCELED_GONE;
        rt_clear_cancel(lg->g);
    }
    return lg->canceled != 0 && !lg->sheltered;
}

int host_canceled(void) {
    host_luag *lg = luag_current();
    wait_canceled(lg);
    return lg->canceled;
}

void host_shelter(int on) {
    luag_current()->sheltered = on;
}

void host_set_canceled(int why) {
    host_luag *lg = luag_current();
    lg->canceled = (uint8_t)why;
    if (!why) spin_over(lg);
}

int wait_refuse(lua_State *L, host_luag *lg) {
    return wait_spins(lg) ? spin_raise(L, lg) : wait_answer(L, lg, CANCELED);
}

/* ---- the beginning ---- */

static void wait_for_good(lua_State *L, host_luag *lg);

/* Gets the stack that a wait which leaves its stack goes on with. Before the wait begins, a lack of memory is an
 * error. */
static void reserve_stack(lua_State *L, host_vm *vm) {
    if (!rt_reserve_stack(vm->cell)) luaL_error(L, "cannot wait here: no memory for a stack");
}

static host_luag *waiter(lua_State *L) {
    host_vm *vm = vm_current();
    const char *why = vm_barrier(vm);
    if (why) luaL_error(L, "cannot wait here: %s", why);
    if (rt_debug()->gcwait) lua_gc(L, LUA_GCCOLLECT, 0);
    host_luag *lg = vm->slots.v[vm->view.slot];
    if (lg->L != L || !lua_isyieldable(L)) reserve_stack(L, vm);
    if (__builtin_expect(lg->seat != NULL, 0) && !bubble_may_wait(L, lg)) wait_for_good(L, lg);
    return lg;
}

host_luag *wait_begin(lua_State *L, const char *what) {
    host_luag *lg = waiter(L);
    if (lg->seat) bubble_refuse(L, what);
    return lg;
}

/* LuaJIT's cur_L is the coroutine that Lua was last called on. Compiled code that is left believes it, and so do
 * errors. So it is set after a call on another coroutine, and before anything is raised or allocated. This function
 * raises nothing. LuaJIT's own function with this name takes its place and is not refused where a call would be
 * (cstack.c). The packaged library has no such function, and refuses no call. */
__attribute__((weak, noinline)) void lj_state_set_current(lua_State *L) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, NOTHING);
    lua_call(L, 0, 0);
}

/* Makes room for n values on the stack of `to`, for L, which runs. A stack that grows counts as called. */
bool wait_make_room(lua_State *L, lua_State *to, int n) {
    if (n <= LUA_MINSTACK) return true;
    bool has = lua_checkstack(to, n);
    lj_state_set_current(L);
    return has;
}

/* ---- the end ---- */

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
    bool turn = lg->want <= WANT_LOOK;
    lg->want = WANT_NOTHING;
    if (!err && !turn) spin_over(lg);
    if (__builtin_expect(lg->seat != NULL, 0)) bubble_wake(lg);
    if (err == RT_ETIMEOUT && lg->x) luag_requests->overdue(lg->x);
    return err;
}

/* The answer of a wait in queues. */
static int rested(lua_State *L, host_luag *lg, int err) {
    lg->resting = false;
    int outer = __builtin_expect(lg->outer != NULL, 0) ? lg->outer->ops->settle(lg) : -1;
    if (outer >= 0) {
        queue_leave(lg);
        lg->fired = outer;
    }
    if (lg->fired >= 0) {
        spin_over(lg);
        lua_pushinteger(L, lg->fired);
        lg->fired = -1;
        return 1;
    }
    if (!err) return 0;
    queue_leave(lg);
    return wait_answer_error(L, lg, err);
}

/* A park ends without a ready. word: why; 0: something else woke the G. */
static int park_in_vain(lua_State *L, host_luag *lg, int word) {
    if (word) count_answer(lg, word);
    lg->parking = word == TIMEOUT ? HOST_PARK_TIMEOUT : word ? HOST_PARK_CANCELED : HOST_PARK_WOKEN;
    lua_pushlightuserdata(L, &luag_again);
    return 1;
}

static int unparked(lua_State *L, host_luag *lg, int err) {
    int n = lg->park.n_ready;
    lg->parking = HOST_PARK_WOKEN;
    lg->park.n_ready = -1;
    return n >= 0 ? n : park_in_vain(L, lg, err ? word_of(err) : 0);
}

int wait_end(host_luag *lg) {
    int err = settle_wait(lg);
    if (lg->parking == PARKING) return unparked(lg->L, lg, err);
    if (lg->resting) return rested(lg->L, lg, err);
    return err ? wait_answer_error(lg->L, lg, err) : 0;
}

/* ---- the wait itself ---- */

/* Waits as lg->want says, and leaves the stack; why the wait ended: 0 or an RT_E... */
static int leave_stack(lua_State *L, host_luag *lg) {
    lg->held = L;
    luag_leave(lg);
    rt_leave_stack(wait_step(lg));
    lg->held = NULL;
    int err = settle_wait(lg);
    luag_enter(lg);
    lj_state_set_current(L);
    if (__builtin_expect(lg->doomed, 0)) runaway_doom(lg->vm);
    return err;
}

int wait_leave(lua_State *L, host_luag *lg) {
    if (lg->x) luag_requests->waits(lg->x);
    if (lg->L == L && lua_isyieldable(L)) return lua_yield(L, 0);
    int err = leave_stack(L, lg);
    if (lg->parking == PARKING) return unparked(L, lg, err);
    if (lg->resting) return rested(L, lg, err);
    return err ? wait_answer_error(L, lg, err) : 0;
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
    reserve_stack(L, lg->vm);
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
    if (wait_refused(lg)) return wait_refuse(L, lg);
    return wait_ticket(L, lg, reason, deadline_ns);
}

int luag_wait_with(lua_State *L, rt_reason reason, int64_t deadline_ns,
                   void (*begun)(host_luag *lg, void *arg), void *arg) {
    host_luag *lg = wait_begin(L, "a file, a program or a name");
    if (wait_refused(lg)) return wait_refuse(L, lg);
    open_ticket(lg, reason, deadline_ns);
    begun(lg, arg);
    return wait_leave(L, lg);
}

int luag_rest(lua_State *L, host_queue *q, int64_t deadline_ns) {
    host_luag *lg = waiter(L);
    if (q) {
        /* Undoes a wait whose preparation an error has ended. */
        if (lg->queues.n || lg->fired >= 0) queue_leave(lg);
        if (lg->outer) lg->outer->ops->settle(lg);
    } else if (lg->fired >= 0) {
        return rested(L, lg, 0);
    }
    if (wait_refused(lg)) {
        queue_leave(lg);
        if (lg->outer) lg->outer->ops->settle(lg);
        return wait_refuse(L, lg);
    }
    if (q) queue_join(q, lg);
    lg->resting = true;
    open_ticket(lg, RT_WAIT_OTHER, deadline_ns);
    if (__builtin_expect(lg->outer != NULL, 0) && !lg->outer->ops->begin(lg)) luag_wake(lg);
    return wait_leave(L, lg);
}

int luag_wait_call(lua_State *L, host_call *c, int64_t deadline_ns) {
    host_luag *lg = wait_begin(L, "offload");
    if (wait_canceled(lg)) return wait_answer(L, lg, CANCELED);
    lg->want = WANT_TICKET;
    lg->deadline_ns = wait_until(lg, deadline_ns);
    lg->ticket = rt_wait_open(lg->g);
    rt_g *first = NULL;
    if (!call_open(c, lg, lg->ticket, &first)) rt_wake(lg->g, lg->ticket, RT_WOKEN);
    rt_set_wait_start(lg->g, first, RT_WAIT_SYSCALL, lg->deadline_ns);
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

int luag_look(lua_State *L) {
    host_luag *lg = waiter(L);
    lg->want = WANT_LOOK;
    return wait_leave(L, lg);
}

/* ---- park and ready: values go from stack to stack ---- */

char luag_again;

int host_park_begin(void) {
    host_luag *lg = luag_current();
    if (lg->park.n_kept != 0 || lg->park.kept != LUA_NOREF) return -EAGAIN;
    lg->park.n_kept = -1;
    spin_over(lg);
    return 0;
}

int host_park_end(void) {
    return luag_current()->parking;
}

/* Takes the values that came before the park. */
static int take_kept(lua_State *L, host_luag *lg) {
    int n = lg->park.n_kept;
    lg->park.n_kept = -1;
    spin_over(lg);
    if (lg->park.kept == LUA_NOREF) return 0;
    luaL_checkstack(L, n + 1, "too many values");
    lua_rawgeti(L, LUA_REGISTRYINDEX, lg->park.kept);
    int table = lua_gettop(L);
    for (int i = 1; i <= n; i++)
        lua_rawgeti(L, table, i);
    luaL_unref(L, LUA_REGISTRYINDEX, lg->park.kept);
    lg->park.kept = LUA_NOREF;
    return n;
}

/* Without values: calls nothing of Lua's that allocates, so the FFI may call it. */
static void ready_alone(host_luag *lg) {
    if (lg->parking == PARKING) {
        lua_State *to = lg->held ? lg->held : lg->L;
        if (lg->park.n_ready > 0) lua_pop(to, lg->park.n_ready);
        lg->park.n_ready = 0;
        luag_wake(lg);
        return;
    }
    lg->park.n_kept = 0;
}

int host_ready(int32_t slot, double serial) {
    host_vm *vm = vm_current();
    if (slot < 0 || slot >= vm->slots.n) return 0;
    host_luag *lg = vm->slots.v[slot];
    if (!lg->g || lg->serial != serial) return 0;
    ready_alone(lg);
    return 1;
}

void luag_ready(lua_State *L, host_luag *lg) {
    int n = lua_gettop(L) - 1;
    if (n == 0) {
        ready_alone(lg);
        return;
    }
    if (lg->parking == PARKING) {
        lua_State *to = lg->held ? lg->held : lg->L;
        if (!wait_make_room(L, to, n + 2)) luaL_error(L, "ready: no room for %d values", n);
        if (lg->park.n_ready > 0) lua_pop(to, lg->park.n_ready); /* the latest ready counts */
        lua_xmove(L, to, n);
        lg->park.n_ready = (int16_t)n;
        luag_wake(lg);
        return;
    }
    lua_createtable(L, n, 0);
    lua_insert(L, 2);
    for (int i = n; i > 0; i--)
        lua_rawseti(L, 2, i);
    if (lg->park.kept == LUA_NOREF)
        lg->park.kept = luaL_ref(L, LUA_REGISTRYINDEX);
    else
        lua_rawseti(L, LUA_REGISTRYINDEX, lg->park.kept);
    lg->park.n_kept = (int16_t)n;
}

int luag_park(lua_State *L) {
    host_luag *lg = waiter(L);
    if (lg->park.n_kept >= 0) return take_kept(L, lg);
    if (wait_refused(lg)) return wait_spins(lg) ? spin_raise(L, lg) : park_in_vain(L, lg, CANCELED);
    lg->parking = PARKING;
    return wait_ticket(L, lg, RT_WAIT_PARK, 0);
}
