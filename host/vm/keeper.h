/* The keeper of VMs: operations of the room above, which gives VMs requests and replaces VMs, on the VM that runs. */
#ifndef KEEPER_H
#define KEEPER_H

#include "vm.h"

typedef struct vm_keeper_ops {
    /* The VM that answers the next request of this P. NULL: all are stuck; *soon: another is being made. With a P.
     * Does not wait. */
    host_vm *(*choose)(bool *soon);
    /* vm had lost its P and has one again. ended: the host has ended what vm ran. By the thread that runs vm. */
    void (*back)(host_vm *vm, bool ended);
    /* vm had lost its P, has one again, and is thrown away. By the thread that runs vm. */
    void (*unstick)(host_vm *vm);
    /* Something of vm was ended by force, and may have left app state half changed or locked: vm gets no more requests,
     * and another VM is made in its place. False: vm does not serve, or retires already. By the thread that runs vm,
     * out of its Lua, with a P. Does not wait. */
    bool (*replace)(host_vm *vm);
} vm_keeper_ops;

/* Set before any VM runs; until then, operations that do nothing. */
extern const vm_keeper_ops *vm_keeper;

/* The generation whose VMs are given requests; NULL: there is none yet. The keeper writes. Any thread. */
extern _Atomic(generation *) vm_serving;

/* True: vm may begin to answer requests. Any thread. */
static inline bool vm_serves(const host_vm *vm) {
    generation *gen = atomic_load_explicit(&vm->serves, memory_order_acquire);
    return gen && gen == atomic_load_explicit(&vm_serving, memory_order_acquire);
}

/* vm_keeper->choose. */
static inline host_vm *vm_for_request(bool *soon) {
    return vm_keeper->choose(soon);
}

#endif
