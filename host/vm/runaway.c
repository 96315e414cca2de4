/* Runaways: saying which G holds a VM, and ending handlers that never wait.
 *
 * A stuck VM (pool.c) runs on an M without a P, so it harms only its own Gs. It is left alone until its handler is
 * --kill-after past its deadline. Then SIGURG goes to the M, whose signal handler looks at where the thread was
 * interrupted:
 *
 *   - In machine code that LuaJIT compiled for this VM. No C code, ours, LuaJIT's or libc's, is half done then. But the
 *     heap may be, so nothing of the VM can be used any more: the thread goes on in `landing`, below what stands on its
 *     stack, which drops the VM whole. A compiled loop looks at no hook and no flag; there is no other way.
 *   - Anywhere else: in the interpreter, or in C that it called. LuaJIT lets a signal handler set a hook (lua_sethook).
 *     The interpreter runs the hook at its next instruction, at the latest when C comes back, and the hook raises an
 *     error. The hook stays until the G has ended or waits, so a handler that catches the error does not get far. The G
 *     is ended anywhere, perhaps with a lock taken or a table half filled. So a VM that serves is replaced
 *     (vm_keeper_ops.replace): it answers the requests that it has, and gets no more. A signal may hit LuaJIT while it
 *     changes its dispatch tables, and LuaJIT's change then undoes ours: so the hook is set anew each time. C that
 *     compiled code has called would come back to compiled code, which looks at no hook, and a loop that is mostly in C
 *     would hardly ever be met elsewhere. So all compiled code of the VM is made unfit to run, too: a return there gets
 *     a SIGSEGV, whose handler goes on as in the first case.
 *   - In the interpreter, when LAST_TRIES signals have not helped: LuaJIT calls no hook in a hook, in a finalizer, or
 *     in the message handler of an error that a hook has raised. Between two instructions only LuaJIT's own C code is
 *     half done, so this case is treated as compiled code.
 *   - Beneath an FFI callback: some C code is half done. No error is raised through it, and nothing is dropped before
 *     it comes back.
 *
 * All of this is repeated every 10 ms until it has worked.
 *
 * Once the hook has raised its error, the G is about to end, and the message handlers of pcall and xpcall run, which
 * LuaJIT may have compiled long ago. They have the time of LAST_TRIES signals, too: compiled code may run again until
 * then. A message handler that loops is met afterwards. Signals are counted, not seconds, since a thread that gets no
 * CPU for a second has had no chance: signals that come meanwhile are one.
 *
 * The same signal tells where the G that holds a VM is: in C, by the thread's address, and in Lua, by a hook that is
 * set for one instruction. The signal would end a sleep or a poll in C early. So --dev, which asks sooner, leaves such
 * threads asleep: an app's behaviour must not depend on our looks.
 *
 * Dropping a VM: vm_throw_away (vmend.c). The app that a VM loads is ended in the same ways, --load-timeout after it
 * began.
 *
 * Other threads read a stuck G only in rt_cell_inspect: then its M cannot come back meanwhile, and the G cannot end.
 *
 * The machine code is known by its address: the VM's own mappings hold no other code that runs, except the one page of
 * FFI callbacks' entries, which counts as C.
 */
#include "runaway.h"

#include "../base/base.h"
#include "../base/log.h"
#include "../base/options.h"
#include "block.h"
#include "cstack.h"
#include "keeper.h"
#include "vmend.h"

#include <lauxlib.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>

#define LAST_TRIES 100

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

void runaway_land(void *context, uintptr_t sp, void (*fn)(void)) {
    ucontext_t *uc = context;
    sp &= ~(uintptr_t)15;
#ifdef __x86_64__
    sp -= sizeof(uintptr_t); /* as if a return address had been pushed */
#endif
    *sp_of(uc) = sp;
    *pc_of(uc) = (uintptr_t)fn;
}

static void landing(void);

/* Goes on in `landing`, below the thread's red zone. */
static void land(ucontext_t *uc) {
    runaway_land(uc, *sp_of(uc) - 256, landing);
}

static void kill_hook(lua_State *L, lua_Debug *ar);

static void set_kill_hook(host_vm *vm) {
    lua_Hook is = lua_gethook(vm->L);
    if (is != kill_hook) {
        vm->runaway.hook = is;
        vm->runaway.hook_mask = lua_gethookmask(vm->L);
        vm->runaway.hook_count = lua_gethookcount(vm->L);
    }
    lua_sethook(vm->L, kill_hook, LUA_MASKCOUNT, 1);
}

/* LuaJIT's own names: its bytecode instructions stand between the two. */
extern const char lj_vm_asm_begin[], lj_vm_returnp[];

static bool is_instruction(uintptr_t pc) {
    return pc >= (uintptr_t)lj_vm_asm_begin && pc < (uintptr_t)lj_vm_returnp;
}

/* True: only the VM is harmed if the thread never comes back to pc, and no milder way is left. */
static bool may_land(host_vm *vm, uintptr_t pc, bool last) {
    if (vmmem_has_code(vm, pc)) return last || !vm->runaway.raised;
    return last && is_instruction(pc);
}

/* SIGURG on an M in foreign code. */
static void on_interrupt(void *context) {
    host_vm *vm = rt_cell_data(rt_current_cell());
    ucontext_t *uc = context;
    uintptr_t pc = *pc_of(uc);
    atomic_store(&vm->runaway.seen_compiled, vmmem_has_code(vm, pc));
    atomic_store(&vm->runaway.seen_pc, pc);
    if (atomic_load(&vm->runaway.tell)) set_kill_hook(vm);
    host_luag *lg = atomic_load(&vm->runaway.kill);
    if (!lg || lg != atomic_load(&vm->running)) return;
    const void *sp = (const void *)*sp_of(uc); /* NOLINT: an address as a number */
    bool last = atomic_fetch_add(&vm->runaway.tries, 1) >= LAST_TRIES;
    bool callback = barrier_callback(vm, sp);
    if (may_land(vm, pc, last) && !callback) {
        land(uc);
    } else {
        set_kill_hook(vm);
        if (!callback && (last || !vm->runaway.raised)) vmmem_stop_code(vm, true);
    }
}

/* SIGSEGV on an M in foreign code: a call came back to compiled code which was stopped, or the stack is full. */
static bool on_fault(void *context, char *overflowed) {
    if (overflowed) {
        cstack_overflow(context, overflowed);
        return true;
    }
    host_vm *vm = rt_cell_data(rt_current_cell());
    ucontext_t *uc = context;
    if (!vm->mem.stopped || !vmmem_has_code(vm, *pc_of(uc))) return false;
    const void *sp = (const void *)*sp_of(uc); /* NOLINT: an address as a number */
    host_luag *lg = atomic_load(&vm->runaway.kill);
    if (lg && lg == atomic_load(&vm->running) && !barrier_callback(vm, sp)) {
        atomic_store(&vm->runaway.seen_compiled, true);
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
    lua_sethook(vm->L, vm->runaway.hook, vm->runaway.hook_mask, vm->runaway.hook_count);
}

static void kill_hook(lua_State *L, lua_Debug *ar) {
    host_vm *vm = vm_current();
    host_luag *lg = luag_current();
    bool kill = atomic_load(&vm->runaway.kill) == lg;
    if (atomic_exchange(&vm->runaway.tell, NULL) == lg && lua_getinfo(L, "Sl", ar))
        snprintf(vm->runaway.held_at, sizeof vm->runaway.held_at, "%s:%d", ar->short_src,
                 ar->currentline);
    if (!kill && !lg->doomed) {
        restore_hook(vm);
        return;
    }
    if (barrier_callback(vm, __builtin_frame_address(0))) return;
    if (!kill)
        luaL_error(L, lg->n_failed & SPIN_RAISED ? "ended: it went on with waits that fail"
                                                 : "ended by the test that it belongs to");
    /* The first error tells the place; its message handler, and Lua that catches it, are ended too. */
    if (!vm->runaway.raised && lua_getinfo(L, "Sl", ar))
        snprintf(vm->runaway.ended_at, sizeof vm->runaway.ended_at, "%s:%d", ar->short_src,
                 ar->currentline);
    if (!vm->runaway.raised) {
        vm->runaway.raised = true;
        atomic_store(&vm->runaway.tries, 0);
        vmmem_stop_code(vm, false);
    }
    luaL_error(L, "ended: it ran on past its deadline without waiting");
}

void runaway_doom(host_vm *vm) {
    set_kill_hook(vm);
}

bool runaway_over(host_vm *vm, bool waits) {
    bool raised = vm->runaway.raised;
    restore_hook(vm);
    vmmem_stop_code(vm, false);
    vm->runaway.raised = false;
    atomic_store(&vm->runaway.kill, NULL);
    if (!raised) return false;
    bool replaced = vm_keeper->replace(vm);
    char origin[LUAG_ORIGIN];
    luag_origin(atomic_load(&vm->running), origin, sizeof origin);
    log_line(LOG_ERROR, "%s was ended by an error%s: VM %d is %s, at %s%s", vm->runaway.ending,
             waits ? ", which it caught, and waits" : "", vm->view.vm_id,
             replaced ? "replaced" : "free again", vm->runaway.ended_at, origin);
    return true;
}

void runaway_drop(host_vm *vm, const char *name, const char *how) {
    host_luag *runaway = atomic_load(&vm->running);
    vm_leave_lua(vm);
    bool away =
        rt_p_id() < 0 && !rt_exitforeign(); /* from here on with a P, perhaps on another thread */
    char at[LUA_IDSIZE + 16];
    barrier_finalizer(vm, at, sizeof at);
    char origin[LUAG_ORIGIN] = "";
    if (runaway) luag_origin(runaway, origin, sizeof origin);
    log_line(LOG_ERROR, "%s was ended %s%s%s: VM %d is dropped%s", name, how,
             at[0] ? ", in the finalizer" : "", at, vm->view.vm_id, origin);
    if (away) vm_keeper->unstick(vm);
    vm_throw_away(vm, runaway);
    atomic_store(&vm->runaway.kill, NULL);
    rt_leave_stack(RT_YIELD);
    rt_throw("VM %d goes on after it was dropped", vm->view.vm_id);
}

/* Runs on the stack of the runaway, above frames to which nothing returns. */
static void landing(void) {
    host_vm *vm = vm_current();
    runaway_drop(vm, vm->runaway.ending,
                 atomic_load(&vm->runaway.seen_compiled) ? "in compiled code"
                                                         : "in the interpreter");
}

/* ---- on the keeper ---- */

typedef struct look {
    host_vm *vm;
    char *name;
    size_t size;
    char *origin;
    int64_t held_ns;
    bool interrupt, tell;
} look;

static bool inspect(void *arg) {
    look *l = arg;
    host_luag *lg = atomic_load(&l->vm->running);
    if (!lg) return false;
    l->held_ns = rt_nanotime() - atomic_load(&l->vm->stuck_ns);
    if (l->name) luag_name(lg, l->name, l->size);
    if (l->origin) luag_origin(lg, l->origin, LUAG_ORIGIN);
    if (l->tell) atomic_store(&l->vm->runaway.tell, lg);
    return l->interrupt;
}

void runaway_name(host_vm *vm, char *buf, size_t size) {
    luag_name(atomic_load(&vm->running), buf, size);
}

void runaway_place(host_vm *vm, char *buf, size_t size) {
    look l = {.vm = vm, .interrupt = true};
    atomic_store(&vm->runaway.seen_pc, 0);
    if (rt_cell_inspect(vm->cell, inspect, &l))
        for (int i = 0; i < 1000 && atomic_load(&vm->runaway.seen_pc) == 0; i++)
            rt_sleep(NS_PER_MS);
    uintptr_t pc = atomic_load(&vm->runaway.seen_pc);
    char symbol[128];
    if (pc == 0) {
        snprintf(buf, size, "a place that no signal reaches");
    } else if (atomic_load(&vm->runaway.seen_compiled)) {
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

/* True: vm's thread is in a system call that a signal ends early, with EINTR: a sleep, a poll. */
static bool is_asleep(host_vm *vm) {
    static const long calls[] = {
        SYS_nanosleep, SYS_clock_nanosleep, SYS_ppoll,      SYS_pselect6, SYS_epoll_pwait,
#ifdef SYS_poll
        SYS_poll,      SYS_select,          SYS_epoll_wait,
#endif
    };
    char path[64];
    long number = -1;
    snprintf(path, sizeof path, "/proc/self/task/%d/syscall", rt_cell_thread(vm->cell));
    FILE *f = fopen(path, "re");
    if (!f) return false;
    if (fscanf(f, "%ld", &number) != 1) number = -1; /* "running" */
    fclose(f);
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        if (number == calls[i]) return true;
    return false;
}

void runaway_say(host_vm *vm) {
    char name[RUNAWAY_NAME] = "a G", origin[LUAG_ORIGIN] = "",
         place[160] = "a sleep or a poll of C: lunapark check finds those";
    look l = {
        .vm = vm,
        .name = name,
        .size = sizeof name,
        .origin = origin,
        .tell = true,
    };
    if (!rt_cell_inspect(vm->cell, inspect, &l)) return;
    /* The app's behaviour must not depend on how soon we look, in --dev. */
    if (l.held_ns >= NS_PER_SEC || !is_asleep(vm)) runaway_place(vm, place, sizeof place);
    log_line(LOG_WARN, "%s has held VM %d for %.1f s without waiting, in %s%s", name,
             vm->view.vm_id, (double)l.held_ns / 1e9, place, origin);
}

bool runaway_holder(host_vm *vm, char *buf, size_t size) {
    char name[RUNAWAY_NAME], origin[LUAG_ORIGIN] = "";
    look l = {.vm = vm, .name = name, .size = sizeof name, .origin = origin};
    name[0] = 0;
    rt_cell_inspect(vm->cell, inspect, &l);
    if (name[0]) snprintf(buf, size, "%s%s", name, origin);
    return name[0] != 0;
}

/* When lg, which runs, is to be ended. A G without a deadline has the deadline of a request that began when the G got
 * stuck. In a retired VM it has the VM's, if that is sooner. */
static int64_t end_of(host_vm *vm, const host_luag *lg) {
    int64_t loads_ns = atomic_load(&vm->loads_until_ns);
    if (loads_ns) return lg == atomic_load(&vm->block.runner) ? INT64_MAX : loads_ns;
    int64_t limit = atomic_load(&vm->end.drain_ns);
    if (options.limits.handler_timeout > 0) {
        int64_t own = luag_limit(lg);
        if (own == 0)
            own = atomic_load(&vm->stuck_ns) + (int64_t)(options.limits.handler_timeout * 1e9);
        if (limit == 0 || own < limit) limit = own;
    }
    return limit == 0 ? INT64_MAX : limit + (int64_t)(options.kill_after * 1e9);
}

typedef struct end_look {
    host_vm *vm;
    bool end, due;
} end_look;

static bool look_for_end(void *arg) {
    end_look *l = arg;
    host_vm *vm = l->vm;
    host_luag *lg = atomic_load(&vm->running);
    l->due = lg && rt_nanotime() >= end_of(vm, lg);
    if (!l->end) return false;
    if (l->due && atomic_load(&vm->runaway.kill) != lg) {
        luag_name(lg, vm->runaway.ending, sizeof vm->runaway.ending);
        atomic_store(&vm->runaway.tries, 0);
        atomic_store(&vm->runaway.kill, lg);
    }
    return l->due;
}

bool runaway_end(host_vm *vm) {
    end_look l = {.vm = vm};
    rt_cell_inspect(vm->cell, look_for_end, &l);
    if (!l.due) return false;
    block_overdue(vm);
    l.end = true;
    rt_cell_inspect(vm->cell, look_for_end, &l);
    return l.due;
}
