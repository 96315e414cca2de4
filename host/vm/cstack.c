/* The C stack beneath a VM's Lua, and VMs that cannot go on.
 *
 * Lua calls Lua without the C stack, so recursion in Lua ends at the limit of LuaJIT's own stack, by an error. Calls
 * that pass through C take C stack at each level: coroutine.wrap and resume 80 bytes, a callback of gsub 9 kB. A client
 * may choose how deep they go (brackets in brackets, for a template engine). So there are three lines of defence:
 *
 *   - Where Lua is called from C, LuaJIT compares the stack pointer with the stack that the cell's loop runs on. In the
 *     lowest 1 MiB of this stack it raises "C stack overflow" (host/build/luajit/c_stack.fix). The script may catch the
 *     error like any other; a handler that does not answers 500. The 1 MiB is for C that calls no Lua: LuaJIT's parser
 *     and compiler, patterns, printf, the unwinder that carries the error. Message handlers and finalizers have half of
 *     it, since they would be refused where they are needed. The limit is not written at each switch of stacks: LuaJIT
 *     is told once where the cell keeps the bounds of its loop's stack, and looks there. On any other stack the
 *     comparison is never true.
 *   - C that recurses by itself, or has large frames (a C module's, or a function's that the FFI calls), reaches the
 *     guard below the stack (runtime/stack.c): SIGSEGV. The code cannot go on, but has touched no other memory, so the
 *     VM is dropped, as a runaway's is (runaway.c): its requests get 502. The thread goes on in `landing`, in the
 *     lowest part of the same stack. The frames there were called after the last look at the limit: C code to which
 *     nothing returns. What this C code held stays with it, even a lock of libc's; ending the process would be certain
 *     harm.
 *   - In other code than a VM's, or on another stack (lp.offload's), the overflow is a fault of the process like any
 *     other.
 *
 * LuaJIT has one more way to give up: lua_atpanic's function. LuaJIT calls it for an error outside of any protected
 * call, and for a callback that a C function makes which compiled code has called ("bad callback"). Such a function was
 * given the callback before, or by a void pointer, since other calls with callbacks are not compiled
 * (build/luajit/calls_back.fix). The panic function must not return, since LuaJIT would end the process: the VM is
 * dropped there, too.
 *
 * Rejected: counting levels, as PUC Lua does (200 levels of gsub take more than 20,000 of resume; a count must survive
 * errors and switches of stacks); a limit in LuaJIT that each switch sets (each place that forgets it is a false error,
 * or none).
 *
 * The packaged library (host/build/luajit.sh) knows no limit: there the guard drops the VM.
 */
#include "cstack.h"

#include "luag.h"
#include "runaway.h"
#include "vm.h"

#include <stdio.h>

/* The part of the full stack for the log's line and the throwing away of the VM. */
enum { LANDING_BYTES = 256 << 10 };

/* LuaJIT's function. *lo: the lowest byte of the C stack, whenever L's state runs. */
__attribute__((weak)) void lj_state_set_cstack(lua_State *L, char *const *lo);

static void name_running(host_vm *vm, char *buf, size_t size) {
    const host_luag *lg = atomic_load(&vm->running);
    if (lg)
        luag_name(lg, buf, size);
    else
        snprintf(buf, size, "a finalizer");
}

static void landing(void) {
    host_vm *vm = vm_current();
    char name[RUNAWAY_NAME];
    name_running(vm, name, sizeof name);
    runaway_drop(vm, name, "by an overflow of the C stack");
}

void cstack_overflow(void *context, char *lo) {
    runaway_land(context, (uintptr_t)lo + LANDING_BYTES, landing);
}

static int on_panic(lua_State *L) {
    const char *err = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "no message";
    host_vm *vm = vm_here();
    rt_cell *cell = rt_current_cell();
    if (!vm || !cell || rt_cell_data(cell) != vm)
        rt_throw("an error in a VM that is being made or closed: %s", err);
    char name[RUNAWAY_NAME], how[RUNAWAY_NAME];
    name_running(vm, name, sizeof name);
    snprintf(how, sizeof how, "by an error that nothing can catch (%s)", err);
    runaway_drop(vm, name, how);
}

void cstack_open(host_vm *vm) {
    lua_atpanic(vm->L, on_panic);
    if (lj_state_set_cstack) lj_state_set_cstack(vm->L, rt_cell_stack(vm->cell));
}
