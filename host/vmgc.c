/* When a VM's garbage is collected, besides when Lua allocates.
 *
 * LuaJIT collects in small steps as Lua allocates, a new cycle beginning when the heap has doubled.
 * Three things that leaves to us:
 *
 *   - a VM that is idle can do those steps for nothing: vm_gc_step;
 *   - a heap of more than half of --vm-memory would reach the limit before it has doubled. When much of
 *     the limit is mapped, every further mapping makes the collector go on at once, faster than usual,
 *     and begin its next cycle sooner: vm_gc_hurry. It is called in the midst of an allocation, so it only sets numbers that the
 *     next step goes by;
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
    STEP_KB = 16,           /* LUA_GCSTEP's argument */
    HURRY_PART = 4,         /* hurries when less than limit / this is left */
    HURRY_STEPMUL = 1000,   /* of what is allocated meanwhile, in percent; 200 is usual */
    HURRY_BEGIN = 80,       /* percent */
    RAISING_FINALIZERS = 64 /* at most so many of them end a full collection */
};

static int count_kb(host_vm *vm) {
    return lua_gc(vm->L, LUA_GCCOUNT, 0);
}

/* ---- protected calls ---- */

typedef struct gc_call {
    int what, arg, result;
} gc_call;

static int call_gc(lua_State *L) {
    gc_call *c = lua_touserdata(L, 1);
    c->result = lua_gc(L, c->what, c->arg);
    return 0;
}

/* lua_gc(what, arg); false if a finalizer raised, which is logged. */
static bool run_gc(host_vm *vm, int what, int arg, int *result) {
    gc_call c = {what, arg, 0};
    int status = lua_cpcall(vm->L, call_gc, &c);
    *result = c.result;
    if (status == 0) return true;
    const char *msg = lua_tostring(vm->L, -1);
    log_line(LOG_ERROR, "a finalizer raised: %s", msg ? msg : "(no message)");
    lua_pop(vm->L, 1);
    return false;
}

/* ---- */

bool vm_gc_step(host_vm *vm) {
    int kb = count_kb(vm), ended;
    if (vm->gc.live_kb > kb) vm->gc.live_kb = kb;
    if (!vm->gc.in_cycle) {
        int least = vm->gc.live_kb + vm->gc.live_kb / 4 + GROWTH_MIN_KB;
        if (kb < least || !lua_gc(vm->L, LUA_GCISRUNNING, 0)) return false;
        vm->gc.in_cycle = true;
    }
    if (!run_gc(vm, LUA_GCSTEP, STEP_KB, &ended) || !ended) return true;
    vm->gc.in_cycle = false;
    vm->gc.live_kb = count_kb(vm);
    return false;
}

void vm_gc_full(host_vm *vm) {
    bool running = lua_gc(vm->L, LUA_GCISRUNNING, 0);
    int ignored;
    for (int i = 0; i < RAISING_FINALIZERS; i++)
        if (run_gc(vm, LUA_GCCOLLECT, 0, &ignored)) break;
    if (!running) lua_gc(vm->L, LUA_GCSTOP, 0);
    vm->mem.refused = false;
    vm->gc.in_cycle = false;
    vm->gc.live_kb = count_kb(vm);
}

void vm_gc_hurry(host_vm *vm) {
    lua_State *L = vm->L;
    int64_t limit = options.vm_memory;
    if (!L || limit == 0) return;
    bool near = vm->view.mapped > limit - limit / HURRY_PART;
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
    int64_t begin_kb = limit / 1024 * HURRY_BEGIN / 100,
            pause = 100 * begin_kb / (count_kb(vm) + 1);
    if (pause > vm->gc.usual_pause) pause = vm->gc.usual_pause;
    lua_gc(L, LUA_GCSETPAUSE, pause < 100 ? 100 : (int)pause);
    if (lua_gc(L, LUA_GCISRUNNING, 0)) lua_gc(L, LUA_GCRESTART, 0);
}
