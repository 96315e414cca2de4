/* Barriers: frames beneath which a Lua G cannot wait (callbacks, finalizers, hooks). See barrier.c; vm_barrier in vm.h
 * asks. The functions run on the thread that runs the VM, unless their comments say otherwise. None waits. */
#ifndef BARRIER_H
#define BARRIER_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct host_vm host_vm;
typedef struct barrier barrier; /* barrier.c */

/* vm->barriers: frames beneath which no G may wait, the innermost last. Only barrier.c writes; vm_barrier reads `n`. */
typedef struct vm_barriers {
    barrier *v;
    int n, cap;
} vm_barriers;

typedef enum barrier_kind {
    BARRIER_CALLBACK,
    BARRIER_FINALIZER,
    BARRIER_HOOK,
    BARRIER_PROFILER,
    BARRIER_HOST, /* Lua that the host calls on the VM's main state */
} barrier_kind;

/* Until barrier_pop no G may wait. sp: an address in the caller's frame, as __builtin_frame_address(0). An error that
 * leaves the frame removes the barrier. */
void barrier_push(host_vm *vm, barrier_kind kind, const void *sp);
void barrier_pop(host_vm *vm);

/* Makes room for the first barriers, or for more. False: no memory. The maker of the VM may call it, too. */
bool barrier_room(host_vm *vm);

/* True: the frame at sp was called by an FFI callback, directly or not. Also for signal handlers, with the sp where Lua
 * was interrupted. */
bool barrier_callback(const host_vm *vm, const void *sp);

/* Why the running Lua cannot wait, for a VM with barriers: "in a finalizer"; NULL: it can. vm_barrier calls it. */
const char *barrier_why(host_vm *vm);

/* Writes where the innermost running finalizer was defined: " at app.lua:7". Empty: no finalizer runs, or it is a C
 * function. */
void barrier_finalizer(host_vm *vm, char *buf, size_t size);

/* Puts our debug.sethook and debug.gethook into a new VM. May raise. */
void barrier_open(lua_State *L);

#endif
