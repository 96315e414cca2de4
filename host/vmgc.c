/* When a VM's garbage is collected, besides when Lua allocates.
 *
 * LuaJIT collects in small steps as Lua allocates, a new cycle beginning when the heap has doubled.
 * Three things that leaves to us:
 *
 *   - a VM that is idle can do those steps for nothing: vm_gc_step. It keeps on for 0.2 ms. Measured with
 *     a heap of 70 MB of small tables and strings, 25 MB of them garbage, in CPU time: 320 to 350 calls of
 *     0.30 ms at most, 70 ms together. A piece of STEP_KB takes 0.5 us (chains of the string table) to
 *     0.11 ms (sweeping); one of 16 would take up to 0.4 ms, one of 64 up to 1.4 ms. What LuaJIT does not
 *     divide takes longer: a table of a million slots is marked in 2.7 ms, and what has changed while the
 *     cycle ran is marked at once when it turns from marking to sweeping;
 *   - a heap of more than half of --vm-memory would reach the limit before it has doubled. When much of
 *     the limit is mapped, every further mapping makes the collector go on at once, faster than usual,
 *     and begin its next cycle sooner: vm_gc_grown. It is called in the midst of an allocation, so it
 *     only sets numbers that the next step goes by. With a limit of 64 MiB, 55 MiB that live leave room for
 *     garbage without end, at 4 times the usual price; without this, 31 MiB are too much;
 *   - after an allocation was refused, whatever that handler has left is collected before the next one
 *     begins: vm_gc_full.
 *
 * A script that has stopped the collector is obeyed, but for vm_gc_full, which leaves it stopped.
 *
 * Finalizers run in these steps. What they raise is logged: LuaJIT of this version throws it at who
 * happened to run the collector.
 */
#include "host.h"

enum {
    GROWTH_MIN_KB = 256,    /* less growth is not worth a cycle */
    STEP_NS = 200000,       /* of an idle VM: about as long, */
    STEP_KB = 2,            /* in pieces of this; LUA_GCSTEP's argument */
    HURRY_PART = 4,         /* hurries when less than limit / this is left */
    HURRY_STEPMUL = 1000,   /* of what is allocated meanwhile, in percent; 200 is usual */
    HURRY_BEGIN = 80,       /* percent */
    RAISING_FINALIZERS = 64 /* at most so many of them end a full collection */
};

static int count_kb(host_vm *vm) {
    return lua_gc(vm->L, LUA_GCCOUNT, 0);
}

/* ---- protected calls ---- */

/* Finalizers may raise. False: one did, which is logged. */
static bool protect(host_vm *vm, lua_CFunction fn, void *arg) {
    if (lua_cpcall(vm->L, fn, arg) == 0) return true;
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

bool vm_gc_step(host_vm *vm) {
    int kb = count_kb(vm);
    if (!lua_gc(vm->L, LUA_GCISRUNNING, 0)) return false;
    if (vm->gc.live_kb > kb) vm->gc.live_kb = kb;
    if (!vm->gc.in_cycle) {
        int least = vm->gc.live_kb + vm->gc.live_kb / 4 + GROWTH_MIN_KB;
        if (kb < least) return false;
        vm->gc.in_cycle = true;
    }
    if (vm->gc.hurries) vm_gc_tune(vm);
    bool ended = false;
    if (!protect(vm, collect_some, &ended) || !ended) return true;
    vm->gc.in_cycle = false;
    vm->gc.live_kb = count_kb(vm);
    return false;
}

void vm_gc_full(host_vm *vm) {
    bool running = lua_gc(vm->L, LUA_GCISRUNNING, 0);
    for (int i = 0; i < RAISING_FINALIZERS; i++)
        if (protect(vm, collect_all, NULL)) break;
    if (!running) lua_gc(vm->L, LUA_GCSTOP, 0);
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
    bool near = vm->view.mapped > limit - limit / HURRY_PART && now_kb > begin_kb / 2;
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
