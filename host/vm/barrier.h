/* Where a Lua G can not wait: beneath callbacks, finalizers, hooks. See barrier.c; vm_barrier in vm.h asks. The thread
 * that runs the VM, unless a function says otherwise. Does not wait. */
#ifndef BARRIER_H
#define BARRIER_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct host_vm host_vm;
typedef struct barrier barrier; /* barrier.c */

/* vm->barriers: frames beneath which no G may wait, the innermost last. barrier.c's; `n` is read by vm_barrier. */
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

/* From here to barrier_pop no G may wait. sp: an address in the caller's frame, as __builtin_frame_address(0). An error
 * that leaves the frame takes the barrier away. */
void barrier_push(host_vm *vm, barrier_kind kind, const void *sp);
void barrier_pop(host_vm *vm);

/* Makes room for the first barriers, or for more. False: no memory. The maker of the VM too. */
bool barrier_room(host_vm *vm);

/* True: sp lies above the frame of an FFI callback. Also in a signal handler that has interrupted Lua at sp. */
bool barrier_callback(const host_vm *vm, const void *sp);

/* The answer of vm_barrier where there are barriers. */
const char *barrier_why(host_vm *vm);

/* Where the innermost finalizer that runs was defined, as " at app.lua:7". Empty: no finalizer runs, or it is C. */
void barrier_finalizer(host_vm *vm, char *buf, size_t size);

/* Puts our debug.sethook and gethook into the library of a new VM. May raise. */
void barrier_open(lua_State *L);

#endif
