/* Barriers: where a wait cannot work, and why.
 *
 * A wait leaves the C stack as it is, and the VM goes on with another stack. Three kinds of frames on the C stack would
 * not survive this. Nothing in Lua's own state tells of these frames:
 *
 *   - an FFI callback: between it and the scheduler stands C code that knows nothing of waiting (qsort, a parser) and,
 *     below this code, an FFI call;
 *   - a finalizer (__gc): the collector stands in the middle of a cycle, with its own steps turned off until the
 *     finalizer has returned;
 *   - a debug hook, or the profiler's callback: the VM has its hooks turned off until it has returned.
 *
 * So a VM keeps a small stack of barriers, one for each such frame that lives, each with its kind and its position on
 * the C stack. A G that begins a wait asks vm_barrier and raises its answer.
 *
 * How the frames become known: LuaJIT's library is two objects, the interpreter in assembly and the rest in C. The
 * linker's --wrap puts our functions between them:
 *
 *   - The assembly calls lj_ccallback_enter and lj_ccallback_leave around each callback.
 *   - The collector calls a finalizer by lj_vm_pcall, with -1 for the error function; no other caller passes -1. Our
 *     wrapper always returns: an error of a finalizer is logged and goes no further.
 *   - The interpreter calls the profiler's callback by lj_dispatch_profile.
 *   - debug.sethook is ours: it does what LuaJIT's does and calls the user's function beneath a barrier.
 *
 * All this is an agreement with one version of LuaJIT: spec/barrier_spec.lua fails if it is broken.
 *
 * An error that is thrown through a callback or a hook skips its end. Errors travel by the unwinder, which asks
 * LuaJIT's personality function (lj_err_unwind_dwarf, wrapped too) at each frame of the assembly. When the function
 * answers that this frame catches the error, every barrier below the frame is gone. A record that lies below the stack
 * pointer is gone as well, and a G that enters its VM's Lua anew begins without barriers (barrier_reset). Addresses
 * alone would not do: for a call that is deeper than a dead record was, the record could look alive.
 *
 * No barrier lives while a G waits, so the records never mix addresses of several stacks.
 */
#include "barrier.h"

#include "../base/log.h"
#include "costate.h"
#include "vm.h"

#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unwind.h>

struct barrier {
    barrier_kind kind;
    const char *sp;             /* an address in its frame; the frames that it called lie lower */
    const lua_Debug *finalizer; /* where the finalizer was defined; NULL: another kind */
};

static const char *const reasons[] = {
    [BARRIER_CALLBACK] = "beneath an FFI callback",
    [BARRIER_FINALIZER] = "in a finalizer",
    [BARRIER_HOOK] = "in a debug hook",
    [BARRIER_PROFILER] = "in a profiler's callback",
    [BARRIER_HOST] = "in a function that the host calls between two Gs",
};

/* ---- the records ---- */

bool barrier_room(host_vm *vm) {
    int cap = vm->barriers.cap ? vm->barriers.cap * 2 : 32;
    barrier *grown = realloc(vm->barriers.v, (size_t)cap * sizeof *grown);
    if (!grown) return false;
    vm->barriers.v = grown;
    vm->barriers.cap = cap;
    return true;
}

/* A callback or a finalizer cannot be refused. So the room grows long before it is needed. */
static void push(host_vm *vm, barrier record) {
    if (vm->barriers.n >= vm->barriers.cap / 2) (void)barrier_room(vm); /* else at the next push */
    if (vm->barriers.n == vm->barriers.cap)
        rt_throw("out of memory for %d barriers", vm->barriers.n);
    vm->barriers.v[vm->barriers.n++] = record;
}

void barrier_push(host_vm *vm, barrier_kind kind, const void *sp) {
    push(vm, (barrier){.kind = kind, .sp = sp});
}

/* Removes the barriers whose frames lay lower than `sp`: these frames are gone. */
static void drop_below(host_vm *vm, const void *sp) {
    while (vm->barriers.n > 0 && vm->barriers.v[vm->barriers.n - 1].sp < (const char *)sp)
        vm->barriers.n--;
}

void barrier_pop(host_vm *vm) {
    drop_below(vm, __builtin_frame_address(0));
    if (vm->barriers.n == 0) rt_throw("VM %d: no barrier to take away", vm->view.vm_id);
    vm->barriers.n--;
}

bool barrier_callback(const host_vm *vm, const void *sp) {
    for (int i = 0; i < vm->barriers.n; i++)
        if (vm->barriers.v[i].kind == BARRIER_CALLBACK && vm->barriers.v[i].sp >= (const char *)sp)
            return true;
    return false;
}

void barrier_finalizer(host_vm *vm, char *buf, size_t size) {
    buf[0] = 0;
    drop_below(vm, __builtin_frame_address(0));
    for (int i = vm->barriers.n; i-- > 0 && !buf[0];) {
        const lua_Debug *ar = vm->barriers.v[i].finalizer;
        if (ar && ar->linedefined > 0)
            snprintf(buf, size, " at %s:%d", ar->short_src, ar->linedefined);
    }
}

const char *barrier_why(host_vm *vm) {
    drop_below(vm, __builtin_frame_address(0));
    return vm->barriers.n ? reasons[vm->barriers.v[vm->barriers.n - 1].kind] : NULL;
}

/* ---- between the assembly and the rest of LuaJIT ---- */

lua_State *__real_lj_ccallback_enter(void *cts, void *cf);
void __real_lj_ccallback_leave(void *cts, void *o);
int __real_lj_vm_pcall(lua_State *L, void *base, int nres1, ptrdiff_t ef);
void __real_lj_dispatch_profile(lua_State *L, const void *pc);
_Unwind_Reason_Code __real_lj_err_unwind_dwarf(int version, _Unwind_Action actions,
                                               _Unwind_Exception_Class class_,
                                               struct _Unwind_Exception *ex,
                                               struct _Unwind_Context *at);

/* cf: the stack pointer of the callback's frame. Raises where no callback is allowed. */
lua_State *__wrap_lj_ccallback_enter(void *cts, void *cf) {
    lua_State *L = __real_lj_ccallback_enter(cts, cf);
    host_vm *vm = vm_here();
    if (vm) barrier_push(vm, BARRIER_CALLBACK, cf);
    return L;
}

void __wrap_lj_ccallback_leave(void *cts, void *o) {
    host_vm *vm = vm_here();
    if (vm) barrier_pop(vm);
    __real_lj_ccallback_leave(cts, o);
}

/* Fills ar with the finalizer's place. The finalizer lies below two slots, a frame's and its object. The stack must not
 * move, since the collector has pointers into it: a full stack leaves the place unknown. */
static void look_at_finalizer(lua_State *L, lua_Debug *ar) {
    ar->linedefined = 0;
    if (lua_type(L, -3) != LUA_TFUNCTION || !costate_has_room(L)) return;
    lua_pushvalue(L, -3);
    lua_getinfo(L, ">S", ar);
}

int __wrap_lj_vm_pcall(lua_State *L, void *base, int nres1, ptrdiff_t ef) {
    host_vm *vm = ef == -1 ? vm_here() : NULL;
    if (!vm) return __real_lj_vm_pcall(L, base, nres1, ef);
    lua_Debug ar;
    look_at_finalizer(L, &ar);
    push(vm, (barrier){BARRIER_FINALIZER, __builtin_frame_address(0), &ar});
    /* 0: no message handler. -1 would call the running code's handler, and the error does not go there. */
    int status = __real_lj_vm_pcall(L, base, nres1, 0);
    barrier_pop(vm);
    if (status == 0) return 0;
    /* The collector would raise the error again, in the code that allocates now. This may be the exit of a trace, which
     * no error can pass: a crash. */
    log_line(LOG_ERROR, "a finalizer raised: %s",
             lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : luaL_typename(L, -1));
    lua_pop(L, 1);
    return 0;
}

void __wrap_lj_dispatch_profile(lua_State *L, const void *pc) {
    host_vm *vm = vm_here();
    if (vm) barrier_push(vm, BARRIER_PROFILER, __builtin_frame_address(0));
    __real_lj_dispatch_profile(L, pc);
    if (vm) barrier_pop(vm);
}

/* For the personality function, the "CFA" is the stack pointer of the frame that it is asked about. */
_Unwind_Reason_Code __wrap_lj_err_unwind_dwarf(int version, _Unwind_Action actions,
                                               _Unwind_Exception_Class class_,
                                               struct _Unwind_Exception *ex,
                                               struct _Unwind_Context *at) {
    const char *sp = (const char *)_Unwind_GetCFA(at); /* NOLINT: an address as a number */
    _Unwind_Reason_Code answer = __real_lj_err_unwind_dwarf(version, actions, class_, ex, at);
    host_vm *vm = answer == _URC_INSTALL_CONTEXT ? vm_here() : NULL;
    if (vm) drop_below(vm, sp);
    return answer;
}

/* ---- debug.sethook, debug.gethook ---- */

/* The registry keeps the user's function under the address of hook_key. */
static const char hook_key;

static void call_hook(lua_State *L, lua_Debug *ar) {
    static const char *const names[] = {"call", "return", "line", "count", "tail return"};
    lua_pushlightuserdata(L, (void *)&hook_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    if (!lua_isfunction(L, -1)) return;
    lua_pushstring(L, names[ar->event]);
    if (ar->currentline >= 0)
        lua_pushinteger(L, ar->currentline);
    else
        lua_pushnil(L);
    host_vm *vm = vm_here();
    if (vm) barrier_push(vm, BARRIER_HOOK, __builtin_frame_address(0));
    lua_call(L, 2, 0);
    if (vm) barrier_pop(vm);
}

/* The arguments may begin with a thread, which is ignored as by LuaJIT: hooks are the VM's. */
static int first_arg(lua_State *L) {
    return lua_isthread(L, 1) ? 2 : 1;
}

/* sethook([thread,] function, mask[, count]); no function: removes the hook. */
static int debug_sethook(lua_State *L) {
    int i = first_arg(L), mask = 0, count = 0;
    if (lua_isnoneornil(L, i)) {
        lua_settop(L, i);
    } else {
        const char *chars = luaL_checkstring(L, i + 1);
        luaL_checktype(L, i, LUA_TFUNCTION);
        count = luaL_optint(L, i + 2, 0);
        if (strchr(chars, 'c')) mask |= LUA_MASKCALL;
        if (strchr(chars, 'r')) mask |= LUA_MASKRET;
        if (strchr(chars, 'l')) mask |= LUA_MASKLINE;
        if (count > 0) mask |= LUA_MASKCOUNT;
    }
    lua_pushlightuserdata(L, (void *)&hook_key);
    lua_pushvalue(L, i);
    lua_rawset(L, LUA_REGISTRYINDEX);
    lua_sethook(L, mask ? call_hook : NULL, mask, count);
    return 0;
}

/* gethook([thread]) -> function or nil, mask, count */
static int debug_gethook(lua_State *L) {
    lua_Hook hook = lua_gethook(L);
    if (hook && hook != call_hook) {
        lua_pushliteral(L, "external hook");
    } else {
        lua_pushlightuserdata(L, (void *)&hook_key);
        lua_rawget(L, LUA_REGISTRYINDEX);
    }
    int mask = lua_gethookmask(L), n = 0;
    char chars[4];
    if (mask & LUA_MASKCALL) chars[n++] = 'c';
    if (mask & LUA_MASKRET) chars[n++] = 'r';
    if (mask & LUA_MASKLINE) chars[n++] = 'l';
    lua_pushlstring(L, chars, (size_t)n);
    lua_pushinteger(L, lua_gethookcount(L));
    return 3;
}

void barrier_open(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"sethook", debug_sethook},
        {"gethook", debug_gethook},
        {NULL, NULL},
    };
    luaL_register(L, LUA_DBLIBNAME, functions);
    lua_pop(L, 1);
}
