/* Collecting the garbage of a VM. See vmgc.c. By the thread that runs the VM, unless a function says otherwise. Does
 * not wait. */
#ifndef VMGC_H
#define VMGC_H

#include "../base/bell.h"

#include <lua.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct host_vm host_vm;
typedef struct host_luag host_luag;

/* What the collector has done. The thread that runs the VM writes, anybody reads. */
typedef struct vm_gc_figures {
    _Atomic int64_t
        heap_kb; /* LuaJIT's heap when it was counted last: 10 ms ago at most, while Lua waits at times */
    _Atomic int64_t steps;    /* stretches of work in idle time */
    _Atomic int64_t idle;     /* collections that these have ended */
    _Atomic int64_t full;     /* whole collections at once, after an allocation was refused */
    _Atomic int64_t spent_ns; /* in steps and whole collections */
} vm_gc_figures;

/* vm->gc. vmgc.c's; `lg`, `ran`, `serves` and `hurries` are used elsewhere. */
typedef struct vm_gc {
    int live_kb;   /* after the last cycle that we saw end */
    bool in_cycle; /* vm_gc_step has begun a cycle */
    bool again;    /* the cycle may have been half done before: another follows */
    bool ran;      /* Lua has run, and the G below looks again soon */
    bool dirty;    /* Lua has run since the last cycle that we saw end */
    bool serves;   /* the VM is collected after two idle minutes in any case */
    bool forced;   /* this collection is due */
    bool has_g;    /* there is a G that collects when the VM is idle */
    host_luag *lg; /* the current G when no other's Lua runs; its g is NULL */
    bell wakes;    /* wakes the G that collects */
    enum { GC_RESTS, GC_WATCHES, GC_WORKS } state;
    int64_t clean_ns;               /* when the last cycle that we saw ended */
    int start_kb, peak_kb, n_steps; /* for gctrace */
    int64_t spent_ns;
    bool hurries; /* its memory nears the limit; meanwhile: */
    int usual_stepmul, usual_pause;
    vm_gc_figures figures;
} vm_gc;

/* For an idle VM: one step of its collector, if the heap has grown by a quarter since the last cycle. True: another
 * step is worthwhile. Finalizers may run. vmgc.c says how long a step takes. */
bool vm_gc_step(host_vm *vm);

/* Lua has run in vm. vm_gc_ran (vm.h) calls it, once until the collector has looked. */
void gc_ran(host_vm *vm);

/* The collector of a new state leaves a VM alone while it loads. Nothing was allocated yet. */
void vm_gc_begin(lua_State *L);

/* LUNAPARK_DEBUG=gctrace=1: begins the trace of a new VM, on its main state; may raise. */
void vm_gc_trace(lua_State *L);

/* LUNAPARK_DEBUG=gctrace=1: Lua has run, and the heap is perhaps larger than ever. */
void vm_gc_note_peak(host_vm *vm);

/* The G that collects in vm ends soon. No G of vm runs. */
void vm_gc_end(host_vm *vm);

/* A whole collection, also if the script has stopped the collector. */
void vm_gc_full(host_vm *vm);

/* Sets the collector's pace by the distance to the limit of memory. */
void vm_gc_tune(host_vm *vm);

/* More memory was mapped: sets the pace, and restarts a collector that the script has stopped. */
void vm_gc_grown(host_vm *vm);

#endif
