/* The list of what ends with a VM: see owned.c. */
#ifndef OWNED_H
#define OWNED_H

#include "../base/list.h"

typedef struct host_vm host_vm;
typedef struct host_owned host_owned;

/* The turn of a member at the end. */
typedef enum owned_order {
    OWNED_ROLES,   /* by which others give the VM work: from now on they look elsewhere */
    OWNED_THINGS,  /* what its Lua holds: descriptors, programs, waits */
    OWNED_USERS,   /* users of its memory from outside: waited for */
    OWNED_REMAINS, /* objects that may be used as long as the VM is there; its word to its maker */
    OWNED_ORDERS
} owned_order;

/* A constant of each mechanism. end(o): o is off the list; the mechanism's object ends, and may be freed. Called once,
 * by owned_free in the VM, or by owned_end. Must not wait, unless its order is OWNED_USERS. */
typedef struct owned_kind {
    owned_order order;
    void (*end)(host_owned *o);
} owned_kind;

/* A member of what ends with a VM. Zeroed: on no list. */
struct host_owned {
    list_link link; /* of the thread that runs or ends the VM, as all fields */
    host_vm *vm;
    const owned_kind *kind; /* NULL: on no list */
};

/* The lists of a VM, by order. */
typedef struct vm_owned {
    list_head of[OWNED_ORDERS];
} vm_owned;

/* o ends with vm. The maker of vm, before vm runs, or the thread that runs vm. Does not wait. */
void owned_add(host_vm *vm, host_owned *o, const owned_kind *kind);
/* o ends with the VM that runs. The thread that runs the VM. Does not wait. */
void owned_take(host_owned *o, const owned_kind *kind);
/* For a mechanism that has one entry in each VM, a member of host_vm: adds o, unless that was done. */
static inline void owned_once(host_vm *vm, host_owned *o, const owned_kind *kind) {
    if (!o->kind) owned_add(vm, o, kind);
}
/* o ends now: Lua lets go of it, by its finalizer or earlier. While the last finalizers of a VM run, which may still
 * use each other's objects, o stays on the list. The thread that runs the VM. Does not wait. */
void owned_free(host_owned *o);
/* Ends all members up to this order, in order; within an order the latest first. The thread that runs or ends vm. From
 * OWNED_USERS on it may wait: native Gs, when nobody runs vm. */
void owned_end(host_vm *vm, owned_order last);

#endif
