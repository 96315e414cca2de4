/* When a VM's garbage is collected, besides when Lua allocates.
 *
 * LuaJIT collects in small steps as Lua allocates. A new cycle begins when the heap has doubled. Three things are left:
 *
 *   - An idle VM can do these steps for free: vm_gc_step, and "When idle" below. A step lasts 0.2 ms. Measured with a
 *     heap of 70 MB of small tables and strings, 25 MB of them garbage, in CPU time: 320 to 350 calls of 0.30 ms at
 *     most, 70 ms together. A piece of STEP_KB takes 0.5 us (chains of the string table) to 0.11 ms (sweeping); a piece
 *     of 16 kB would take up to 0.4 ms, one of 64 kB up to 1.4 ms. Work that LuaJIT does not divide takes longer: a
 *     table of a million slots is marked in 2.7 ms, and objects that changed while the cycle ran are marked at once
 *     when it turns from marking to sweeping.
 *   - A heap of more than half of --vm-memory would reach the limit before it has doubled. When much of the limit is
 *     mapped, every further mapping makes the collector go on at once, faster than usual, and begin its next cycle
 *     sooner: vm_gc_grown. This function is called in the midst of an allocation, so it only sets numbers that the next
 *     step uses. With a limit of 64 MiB, 55 MiB of live data leave room for garbage without end, at 4 times the usual
 *     price; without vm_gc_grown, 31 MiB are too much.
 *   - After an allocation was refused, everything that this handler has left is collected before the next handler
 *     begins: vm_gc_full.
 *
 * A heap below FIRST_KB is what our modules and an app of some hundred routes take, and nearly all of it is in use.
 * LuaJIT would begin its first cycle at 20 kB and others at each doubling, while a VM loads. So the first cycle begins
 * at FIRST_KB, in Lua and when idle.
 *
 * A script that has stopped the collector is obeyed, except by vm_gc_full, which leaves it stopped.
 *
 * When idle. Each VM has a G of its own in its cell for this. The G rests until Lua has left enough garbage for a
 * cycle, then looks every 10 ms. When no Lua has run in between, it collects: 0.2 ms at a time, and only while no other
 * G wants its P. Between two steps it lets the P look for events. So a busy VM pays a look at a flag, a VM that is
 * hardly used a look at its heap's size, and an idle VM is at rest soon, without a timer. A collection is two cycles.
 * The first may have been half done, by Lua's own steps, before the last garbage was made, and objects with finalizers
 * go only in the second.
 *
 * A server's VM that is idle with little garbage is collected two minutes after the last time, once, so that the
 * sockets in it do not stay open. Not in `run` and `test`, where a waiting timer would hide a deadlock.
 *
 * LUNAPARK_DEBUG=gctrace=1 prints a line for each collection:
 *
 *     GC VM 0: idle, 4310 -> 812 kB, 3.402 ms in 12 steps
 *     GC VM 0: in Lua, 4411 -> 815 kB
 *
 * The second kind is LuaJIT's own, in steps while Lua allocates, which LuaJIT does not report. A userdata without
 * references is finalized once in each cycle, which tells. The size of the heap before is known if Lua has waited in
 * between.
 *
 * Finalizers run in these steps. Their errors are logged: this version of LuaJIT throws them at the Lua that happened
 * to run the collector.
 */
#include "vmgc.h"

#include "../base/base.h"
#include "../base/count.h"
#include "../base/log.h"
#include "../base/options.h"
#include "luag.h"
#include "vm.h"

#include <stdio.h>

#define QUIET_NS (10 * NS_PER_MS)   /* a VM is idle after so long without Lua */
#define PAUSE_NS (100 * 1000)       /* between two steps */
#define FORCE_NS (120 * NS_PER_SEC) /* a VM that is idle and was not collected for so long */

enum {
    FIRST_KB = 1024,        /* a smaller heap is not worth a cycle */
    GROWTH_MIN_KB = 256,    /* less growth is not worth a cycle */
    STEP_NS = 200000,       /* about the length of an idle VM's step, */
    STEP_KB = 2,            /* in pieces of this size; LUA_GCSTEP's argument */
    HURRY_PART = 4,         /* hurries when less than limit / this is left */
    HURRY_STEPMUL = 1000,   /* percent of what is allocated meanwhile; 200 is usual */
    HURRY_BEGIN = 80,       /* percent */
    RAISING_FINALIZERS = 64 /* at most so many of them end a full collection */
};

static int count_kb(host_vm *vm) {
    int kb = lua_gc(vm->L, LUA_GCCOUNT, 0);
    atomic_store_explicit(&vm->gc.figures.heap_kb, kb, memory_order_relaxed);
    return kb;
}

/* ---- protected calls ---- */

/* Finalizers may raise. False: one did, which is logged. */
static bool protect(host_vm *vm, lua_CFunction fn, void *arg) {
    if (luag_cpcall(vm, fn, arg) == 0) return true;
    const char *msg = lua_tostring(vm->L, -1);
    log_line(LOG_ERROR, "a finalizer raised: %s", msg ? msg : "(no message)");
    lua_pop(vm->L, 1);
    return false;
}

static int collect_all(lua_State *L) {
    lua_gc(L, LUA_GCCOLLECT, 0);
    return 0;
}

/* Steps until STEP_NS have passed, or the cycle has ended, which *ended tells. */
static int collect_some(lua_State *L) {
    bool *ended = lua_touserdata(L, 1);
    int64_t until = rt_nanotime() + STEP_NS;
    do
        *ended = lua_gc(L, LUA_GCSTEP, STEP_KB);
    while (!*ended && rt_nanotime() < until);
    return 0;
}

/* ---- what is called from outside ---- */

/* LuaJIT takes no size for the next cycle, but a percentage of the present one. */
void vm_gc_begin(lua_State *L) {
    int bytes = lua_gc(L, LUA_GCCOUNT, 0) * 1024 + lua_gc(L, LUA_GCCOUNTB, 0);
    int usual = lua_gc(L, LUA_GCSETPAUSE, FIRST_KB * 1024 / (bytes / 100));
    lua_gc(L, LUA_GCRESTART, -1);
    lua_gc(L, LUA_GCSETPAUSE, usual);
}

static bool worthwhile(host_vm *vm) {
    int kb = count_kb(vm);
    if (kb < FIRST_KB) return false;
    if (vm->gc.live_kb > kb) vm->gc.live_kb = kb;
    return kb >= vm->gc.live_kb + vm->gc.live_kb / 4 + GROWTH_MIN_KB;
}

bool vm_gc_step(host_vm *vm) {
    if (!lua_gc(vm->L, LUA_GCISRUNNING, 0)) return false;
    if (!vm->gc.in_cycle) {
        if (!worthwhile(vm)) return false;
        vm->gc.in_cycle = true;
    }
    if (vm->gc.hurries) vm_gc_tune(vm);
    bool ended = false;
    if (!protect(vm, collect_some, &ended) || !ended) return true;
    vm->gc.in_cycle = false;
    vm->gc.live_kb = count_kb(vm);
    return false;
}

/* ---- gctrace ---- */

static void print_idle(host_vm *vm) {
    char line[160];
    int n = snprintf(line, sizeof line, "GC VM %d: idle, %d -> %d kB, %.3f ms in %d steps\n",
                     vm->view.vm_id, vm->gc.start_kb, count_kb(vm), (double)vm->gc.spent_ns / 1e6,
                     vm->gc.n_steps);
    rt_dump_text(line, (size_t)n);
}

static int on_cycle(lua_State *L) {
    host_vm *vm = vm_here();
    if (!vm || vm->end.closing || !vm->L) return 0;
    lua_newuserdata(L, 1);
    lua_getmetatable(L, 1);
    lua_setmetatable(L, -2);
    if (vm->gc.state == GC_WORKS) return 0;
    int kb = count_kb(vm);
    char line[160], before[32] = "";
    if (vm->gc.peak_kb > kb) snprintf(before, sizeof before, "%d -> ", vm->gc.peak_kb);
    int n = snprintf(line, sizeof line, "GC VM %d: in Lua, %s%d kB\n", vm->view.vm_id, before, kb);
    rt_dump_text(line, (size_t)n);
    vm->gc.peak_kb = 0;
    return 0;
}

void vm_gc_trace(lua_State *L) {
    lua_newuserdata(L, 1);
    lua_newtable(L);
    lua_pushcfunction(L, on_cycle);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    lua_pop(L, 1);
}

void vm_gc_note_peak(host_vm *vm) {
    int kb = vm->L ? count_kb(vm) : 0;
    if (kb > vm->gc.peak_kb) vm->gc.peak_kb = kb;
}

/* ---- when idle ---- */

typedef struct gc_local {
    host_vm *vm;
} gc_local;

static int64_t force_ns(void) {
    return rt_debug()->gcforce ? rt_debug()->gcforce * NS_PER_MS : FORCE_NS;
}

static rt_step gc_wait(rt_g *g, host_vm *vm, int state, int64_t until_ns) {
    vm->gc.state = state;
    uint64_t ticket = rt_wait_open(g);
    if (!bell_arm(&vm->gc.wakes, g, ticket)) rt_wake(g, ticket, RT_WOKEN);
    rt_set_wait(g, RT_WAIT_OTHER, until_ns);
    return RT_PARK;
}

/* Until gc_ran has something, or for what little there is. */
static rt_step gc_rest(rt_g *g, host_vm *vm) {
    bool force = vm->gc.dirty && vm->gc.serves;
    vm->gc.ran = false;
    return gc_wait(g, vm, GC_RESTS, force ? vm->gc.clean_ns + force_ns() : 0);
}

static rt_step gc_watch(rt_g *g, host_vm *vm) {
    vm->gc.ran = false;
    return gc_wait(g, vm, GC_WATCHES, rt_nanotime() + QUIET_NS);
}

/* A stretch of work. True: there is more. */
static bool collect(host_vm *vm) {
    int64_t start = rt_nanotime();
    bool more;
    vm->gc.ran = true; /* not by what finalizers do */
    luag_enter(vm->gc.lg);
    more = vm_gc_step(vm);
    if (!more && vm->gc.again) {
        vm->gc.again = false;
        vm->gc.in_cycle = more = true;
    }
    luag_leave(vm->gc.lg);
    vm->gc.ran = false;
    int64_t spent_ns = rt_nanotime() - start;
    vm->gc.n_steps++;
    vm->gc.spent_ns += spent_ns;
    count_more(&vm->gc.figures.steps, 1);
    count_more(&vm->gc.figures.spent_ns, spent_ns);
    rt_trace_span("GC", start);
    return more;
}

/* Quiet: begins, or goes on. */
static rt_step gc_work(rt_g *g, host_vm *vm) {
    bool stopped = !lua_gc(vm->L, LUA_GCISRUNNING, 0);
    if (stopped || (!vm->gc.in_cycle && !vm->gc.forced && !worthwhile(vm))) {
        if (stopped) vm->gc.dirty = false; /* not asked again before Lua has run */
        vm->gc.in_cycle = vm->gc.forced = false;
        return gc_rest(g, vm);
    }
    if (!vm->gc.in_cycle) {
        vm->gc.in_cycle = vm->gc.again = true;
        vm->gc.start_kb = count_kb(vm);
        vm->gc.n_steps = 0;
        vm->gc.spent_ns = 0;
    } else if (count_kb(vm) > vm->gc.start_kb) {
        vm->gc.start_kb = count_kb(vm); /* Lua has run in between */
    }
    vm->gc.state = GC_WORKS;
    if (collect(vm)) return gc_wait(g, vm, GC_WORKS, rt_nanotime() + PAUSE_NS);
    count_more(&vm->gc.figures.idle, 1);
    if (rt_debug()->gctrace) print_idle(vm);
    vm->gc.forced = vm->gc.dirty = false;
    vm->gc.clean_ns = rt_nanotime();
    rt_trim_stacks();
    return gc_rest(g, vm);
}

static rt_step gc_step(rt_g *g) {
    host_vm *vm = RT_LOCAL(g, gc_local)->vm;
    rt_wake_code code = rt_wait_code(g);
    bell_take(&vm->gc.wakes);
    if (!atomic_load(&vm->visits.open)) {
        vm_leave(vm);
        return RT_EXIT;
    }
    if (atomic_load_explicit(&vm->dropped, memory_order_relaxed))
        return gc_wait(g, vm, GC_RESTS, 0); /* for vm_gc_end */
    if (vm->gc.state == GC_RESTS) {
        vm->gc.forced = code == RT_TIMEOUT;
        return vm->gc.forced || worthwhile(vm) ? gc_watch(g, vm) : gc_rest(g, vm);
    }
    if (vm->gc.ran && vm->gc.in_cycle)
        vm->gc.again = true; /* what Lua has made since may outlive this cycle */
    return vm->gc.ran || rt_others_ready() ? gc_watch(g, vm) : gc_work(g, vm);
}

static void make_g(host_vm *vm) {
    if (!vm_visit(vm)) return; /* it is a visitor until the VM ends */
    rt_g *g = rt_new_step(gc_step, vm->cell);
    if (!g) { /* the next time that Lua has run */
        vm_leave(vm);
        return;
    }
    RT_LOCAL(g, gc_local)->vm = vm;
    vm->gc.has_g = true;
    rt_ready(g);
}

void gc_ran(host_vm *vm) {
    if (vm->gc.state == GC_RESTS) {
        bool first = !vm->gc.dirty && vm->gc.serves;
        vm->gc.dirty = true;
        if (!first && !worthwhile(vm)) return;
        if (vm->gc.has_g)
            bell_ring(&vm->gc.wakes);
        else
            make_g(vm);
    }
    vm->gc.ran = true;
}

void vm_gc_end(host_vm *vm) {
    bell_ring(&vm->gc.wakes);
}

void vm_gc_full(host_vm *vm) {
    bool running = lua_gc(vm->L, LUA_GCISRUNNING, 0);
    int64_t start = rt_nanotime();
    for (int i = 0; i < RAISING_FINALIZERS; i++)
        if (protect(vm, collect_all, NULL)) break;
    if (!running) lua_gc(vm->L, LUA_GCSTOP, 0);
    count_more(&vm->gc.figures.full, 1);
    count_more(&vm->gc.figures.spent_ns, rt_nanotime() - start);
    vm->mem.refused = false;
    vm->gc.in_cycle = false;
    vm->gc.live_kb = count_kb(vm);
    vm_gc_tune(vm);
}

void vm_gc_tune(host_vm *vm) {
    lua_State *L = vm->L;
    int64_t limit = options.vm_memory;
    if (!L || limit == 0) return;
    int64_t begin_kb = limit / 1024 * HURRY_BEGIN / 100, now_kb = count_kb(vm) + 1;
    bool near = vm->view.mapped + charged(vm) > limit - limit / HURRY_PART && now_kb > begin_kb / 2;
    if (near && !vm->gc.hurries) {
        vm->gc.usual_stepmul = lua_gc(L, LUA_GCSETSTEPMUL, HURRY_STEPMUL);
        vm->gc.usual_pause = lua_gc(L, LUA_GCSETPAUSE, 100);
    } else if (!near && vm->gc.hurries) {
        lua_gc(L, LUA_GCSETSTEPMUL, vm->gc.usual_stepmul);
        lua_gc(L, LUA_GCSETPAUSE, vm->gc.usual_pause);
    }
    vm->gc.hurries = near;
    if (!near) return;
    /* The cycle after this one begins when the heap is HURRY_BEGIN of the limit again. */
    int64_t pause = 100 * begin_kb / now_kb;
    if (pause > vm->gc.usual_pause) pause = vm->gc.usual_pause;
    lua_gc(L, LUA_GCSETPAUSE, pause < 100 ? 100 : (int)pause);
}

void vm_gc_grown(host_vm *vm) {
    vm_gc_tune(vm);
    if (vm->gc.hurries && lua_gc(vm->L, LUA_GCISRUNNING, 0)) lua_gc(vm->L, LUA_GCRESTART, 0);
}
