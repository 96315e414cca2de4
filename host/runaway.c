/* Runaways: saying who holds a VM, and ending handlers that never wait.
 *
 * A stuck VM (vmpool.c) runs on an M without a P, so it harms nobody but its own Gs. It is left alone until
 * its handler is --kill-after past its deadline. Then SIGURG goes to the M, whose handler looks at where
 * the thread was interrupted:
 *
 *   - in machine code that LuaJIT compiled for this VM. No C code of ours, of LuaJIT or of libc is half done then,
 *     but the heap may be, so nothing of the VM can be used any more: the thread goes on in `landing`, below
 *     what stands on its stack, which drops the VM whole. A compiled loop looks at no hook and
 *     no flag; there is no other way.
 *   - anywhere else: in the interpreter, or in C that it called. LuaJIT lets a signal handler set a
 *     hook (lua_sethook): the interpreter runs it at its next instruction, at the latest when C comes back, and
 *     it raises an error. The hook stays until the G has ended or waits, so that a handler which catches the error
 *     does not get far. The VM lives on. A signal may hit LuaJIT while it changes its dispatch tables, and
 *     what it does then undoes ours: so the hook is set anew each time.
 *     C that was called by compiled code would come back to that, which looks at no hook, and a loop that is
 *     mostly in C would hardly ever be met elsewhere. So all compiled code of the VM is made unfit to run too:
 *     who comes back there gets a SIGSEGV, whose handler goes on as in the first case.
 *   - in the interpreter, when that has not helped for LAST_NS: LuaJIT calls no hook in a hook, in a
 *     finalizer, or in the message handler of an error that a hook has raised. Between two instructions no C code
 *     is half done but LuaJIT's own, so it is as in compiled code.
 *   - beneath an FFI callback: C code of somebody is half done. No error is raised through it and nothing is
 *     dropped before it comes back.
 *
 * All of that is done again every 10 ms until it has worked.
 *
 * Dropping a VM: vm_throw_away (vmend.c). The app that a VM loads is ended in the same ways, --load-timeout after it
 * began.
 *
 * Everything that is read of a stuck G by others is read by rt_cell_inspect: then its M can't come
 * back meanwhile, and the G can't end.
 *
 * The machine code is told by address: the VM's own mappings hold nothing else that is run, but for the one
 * page of FFI callbacks' entries, which is C's.
 */
#include "runaway.h"

#include "block.h"
#include "conn.h"
#include "vmend.h"

#include <stdio.h>
#include <string.h>
#include <ucontext.h>

#define NS_PER_MS INT64_C(1000000)
#define LAST_NS   (1 * NS_PER_SEC)

/* ---- on the stuck M, in its signal handler ---- */

static uintptr_t *pc_of(ucontext_t *uc) {
#ifdef __x86_64__
    return (uintptr_t *)&uc->uc_mcontext.gregs[REG_RIP];
#else
    return (uintptr_t *)&uc->uc_mcontext.pc;
#endif
}

static uintptr_t *sp_of(ucontext_t *uc) {
#ifdef __x86_64__
    return (uintptr_t *)&uc->uc_mcontext.gregs[REG_RSP];
#else
    return (uintptr_t *)&uc->uc_mcontext.sp;
#endif
}

static void landing(void);

/* The thread calls `landing` when the handler returns, below its red zone. */
static void land(ucontext_t *uc) {
    uintptr_t sp = (*sp_of(uc) - 256) & ~(uintptr_t)15;
#ifdef __x86_64__
    sp -= sizeof(uintptr_t); /* as if a return address had been pushed */
#endif
    *sp_of(uc) = sp;
    *pc_of(uc) = (uintptr_t)landing;
}

static void kill_hook(lua_State *L, lua_Debug *ar);

static void set_kill_hook(host_vm *vm) {
    lua_Hook is = lua_gethook(vm->L);
    if (is != kill_hook) {
        vm->users_hook = is;
        vm->users_mask = lua_gethookmask(vm->L);
        vm->users_count = lua_gethookcount(vm->L);
    }
    lua_sethook(vm->L, kill_hook, LUA_MASKCOUNT, 1);
}

/* LuaJIT's own names: its bytecode instructions stand between the two. */
extern const char lj_vm_asm_begin[], lj_vm_returnp[];

static bool is_instruction(uintptr_t pc) {
    return pc >= (uintptr_t)lj_vm_asm_begin && pc < (uintptr_t)lj_vm_returnp;
}

/* Nothing but the VM is harmed if the thread never comes back to pc. */
static bool may_land(host_vm *vm, uintptr_t pc, const void *sp) {
    bool there = atomic_load(&vm->seen_compiled) ||
                 (is_instruction(pc) && rt_nanotime() >= atomic_load(&vm->kill_ns) + LAST_NS);
    return there && !barrier_callback(vm, sp);
}

/* SIGURG on an M in foreign code. */
static void on_interrupt(void *context) {
    host_vm *vm = rt_cell_data(rt_current_cell());
    ucontext_t *uc = context;
    uintptr_t pc = *pc_of(uc);
    atomic_store(&vm->seen_compiled, vmmem_has_code(vm, pc));
    atomic_store(&vm->seen_pc, pc);
    host_luag *lg = atomic_load(&vm->kill);
    if (!lg || lg != atomic_load(&vm->running)) return;
    const void *sp = (const void *)*sp_of(uc); /* NOLINT: an address as a number */
    if (may_land(vm, pc, sp)) {
        land(uc);
    } else {
        set_kill_hook(vm);
        if (!barrier_callback(vm, sp)) vmmem_stop_code(vm, true);
    }
}

/* SIGSEGV on an M in foreign code: a call that came back to compiled code which was stopped. */
static bool on_fault(void *context) {
    host_vm *vm = rt_cell_data(rt_current_cell());
    ucontext_t *uc = context;
    if (!vm->mem.stopped || !vmmem_has_code(vm, *pc_of(uc))) return false;
    const void *sp = (const void *)*sp_of(uc); /* NOLINT: an address as a number */
    host_luag *lg = atomic_load(&vm->kill);
    if (lg && lg == atomic_load(&vm->running) && !barrier_callback(vm, sp)) {
        atomic_store(&vm->seen_compiled, true);
        land(uc);
    } else {
        vmmem_stop_code(vm, false);
    }
    return true;
}

void runaway_init(void) {
    rt_on_interrupt(on_interrupt);
    rt_on_fault(on_fault);
}

/* ---- in the VM ---- */

static void restore_hook(host_vm *vm) {
    if (lua_gethook(vm->L) != kill_hook) return;
    lua_sethook(vm->L, vm->users_hook, vm->users_mask, vm->users_count);
}

static void kill_hook(lua_State *L, lua_Debug *ar) {
    host_vm *vm = vm_current();
    host_luag *lg = luag_current();
    bool kill = atomic_load(&vm->kill) == lg;
    if (!kill && !lg->doomed) {
        restore_hook(vm);
        return;
    }
    if (barrier_callback(vm, __builtin_frame_address(0))) return;
    if (!kill) luaL_error(L, "ended by the test that it belongs to");
    /* The first error tells the place; its message handler, and who catches it, are ended too. */
    if (!vm->raised && lua_getinfo(L, "Sl", ar))
        snprintf(vm->ended_at, sizeof vm->ended_at, "%s:%d", ar->short_src, ar->currentline);
    vm->raised = true;
    luaL_error(L, "ended: it ran on past its deadline without waiting");
}

void runaway_doom(host_vm *vm) {
    set_kill_hook(vm);
}

bool runaway_over(host_vm *vm, bool waits) {
    bool raised = vm->raised;
    restore_hook(vm);
    vmmem_stop_code(vm, false);
    vm->raised = false;
    atomic_store(&vm->kill, NULL);
    if (raised)
        log_line(LOG_ERROR, "%s was ended by an error%s: VM %d is free again", vm->ending,
                 waits ? ", which it caught, and waits" : "", vm->view.vm_id);
    return raised;
}

/* Runs on the stack of the runaway, above whatever stands there, which is never returned to. */
static void landing(void) {
    host_vm *vm = vm_current();
    host_luag *runaway = atomic_load(&vm->running);
    vm_leave_lua(vm);
    rt_exitforeign(); /* from here on with a P, perhaps on another thread */
    log_line(LOG_ERROR, "%s was ended in %s: VM %d is dropped", vm->ending,
             atomic_load(&vm->seen_compiled) ? "compiled code" : "the interpreter", vm->view.vm_id);
    pool_unstick(vm);
    vm_throw_away(vm, runaway);
    atomic_store(&vm->kill, NULL);
    rt_leave_stack(RT_YIELD);
    rt_throw("VM %d goes on after it was dropped", vm->view.vm_id);
}

/* ---- on the keeper ---- */

typedef struct look {
    host_vm *vm;
    char *name;
    size_t size;
    int64_t held_ns;
    bool interrupt;
} look;

static bool inspect(void *arg) {
    look *l = arg;
    host_luag *lg = atomic_load(&l->vm->running);
    if (!lg) return false;
    l->held_ns = rt_nanotime() - atomic_load(&l->vm->stuck_ns);
    if (l->name) luag_name(lg, l->name, l->size);
    return l->interrupt;
}

void runaway_name(host_vm *vm, char *buf, size_t size) {
    luag_name(atomic_load(&vm->running), buf, size);
}

void runaway_place(host_vm *vm, char *buf, size_t size) {
    look l = {.vm = vm, .interrupt = true};
    atomic_store(&vm->seen_pc, 0);
    if (rt_cell_inspect(vm->cell, inspect, &l))
        for (int i = 0; i < 100 && atomic_load(&vm->seen_pc) == 0; i++)
            rt_sleep(NS_PER_MS);
    uintptr_t pc = atomic_load(&vm->seen_pc);
    char symbol[128];
    if (pc == 0) {
        snprintf(buf, size, "a place that no signal reaches");
    } else if (atomic_load(&vm->seen_compiled)) {
        snprintf(buf, size, "compiled code");
    } else {
        rt_symbol_print((const void *)pc, symbol, sizeof symbol);
        static const char *const parts[] = {"lj_BC_", "lj_vm_", "lj_cont_", "lj_ff_"};
        bool interpreter = false;
        for (int i = 0; i < 4; i++)
            interpreter |= strncmp(symbol, parts[i], strlen(parts[i])) == 0;
        snprintf(buf, size, interpreter ? "Lua" : "C (%s)", symbol);
    }
}

void runaway_say(host_vm *vm) {
    char name[RUNAWAY_NAME] = "a G", place[160];
    look l = {.vm = vm, .name = name, .size = sizeof name};
    if (!rt_cell_inspect(vm->cell, inspect, &l)) return;
    runaway_place(vm, place, sizeof place);
    log_line(LOG_WARN, "%s has held VM %d for %.1f s without waiting, in %s", name, vm->view.vm_id,
             (double)l.held_ns / 1e9, place);
}

/* When the running G is to be ended. One without a deadline has that of a request which began when it
 * got stuck; in a VM that is retired, where that is sooner, that of all. */
static int64_t end_of(host_vm *vm, const host_luag *lg) {
    int64_t loads_ns = atomic_load(&vm->loads_until_ns);
    if (loads_ns) return loads_ns;
    int64_t limit = atomic_load(&vm->drain_ns);
    if (options.handler_timeout > 0) {
        int64_t own = luag_limit(lg);
        if (own == 0) own = atomic_load(&vm->stuck_ns) + (int64_t)(options.handler_timeout * 1e9);
        if (limit == 0 || own < limit) limit = own;
    }
    return limit == 0 ? INT64_MAX : limit + (int64_t)(options.kill_after * 1e9);
}

typedef struct end_look {
    host_vm *vm;
    bool due;
} end_look;

static bool end_if_due(void *arg) {
    end_look *l = arg;
    host_vm *vm = l->vm;
    host_luag *lg = atomic_load(&vm->running);
    int64_t now = rt_nanotime();
    l->due = lg && now >= end_of(vm, lg);
    if (l->due && atomic_load(&vm->kill) != lg) {
        luag_name(lg, vm->ending, sizeof vm->ending);
        atomic_store(&vm->kill_ns, now);
        atomic_store(&vm->kill, lg);
    }
    return l->due;
}

bool runaway_end(host_vm *vm) {
    block_overdue(vm);
    end_look l = {.vm = vm};
    rt_cell_inspect(vm->cell, end_if_due, &l);
    return l.due;
}
