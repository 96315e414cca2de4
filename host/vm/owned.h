/* What ends with a VM is one list: see owned.c. */
#ifndef OWNED_H
#define OWNED_H

#include "../base/list.h"

typedef struct host_vm host_vm;
typedef struct host_owned host_owned;

/* When its turn comes. */
typedef enum owned_order {
    OWNED_ROLES, /* what the VM is to others, by which it is given more to do: they look elsewhere */
    OWNED_THINGS, /* what its Lua holds: descriptors, programs, waits */
    OWNED_USERS,  /* those who use its memory from outside: waited for */
    OWNED_REMAINS, /* what may be looked at for as long as the VM is there, and its word to whoever made it */
    OWNED_ORDERS
} owned_order;

/* Of each mechanism a constant. end: o is on the list no more; what it is a member of ends, and may be freed. It is called
 * once, by owned_free in the VM, or by owned_end. It must not wait, unless its order is OWNED_USERS. */
typedef struct owned_kind {
    owned_order order;
    void (*end)(host_owned *o);
} owned_kind;

/* A member of what ends with a VM. Zeroed: on no list. */
struct host_owned {
    list_link link; /* who runs the VM, or ends it; as the others */
    host_vm *vm;
    const owned_kind *kind; /* NULL: on no list */
};

/* The lists of a VM, by order. */
typedef struct vm_owned {
    list_head of[OWNED_ORDERS];
} vm_owned;

/* o ends with vm. By who makes vm, before it runs, or who runs it. Does not wait. */
void owned_add(host_vm *vm, host_owned *o, const owned_kind *kind);
/* o ends with the VM that runs. By who runs it. Does not wait. */
void owned_take(host_owned *o, const owned_kind *kind);
/* For a mechanism that has one entry in each VM, a member of host_vm: it is on the list from the first call on. */
static inline void owned_once(host_vm *vm, host_owned *o, const owned_kind *kind) {
    if (!o->kind) owned_add(vm, o, kind);
}
/* o ends now: Lua lets go of it, by its finalizer or earlier. While the last finalizers of a VM run, which may still use
 * each other's objects, it stays on the list. By who runs the VM. Does not wait. */
void owned_free(host_owned *o);
/* All that is listed up to this order ends, in order; of one order the latest first. By who runs or ends vm. From
 * OWNED_USERS on, it may wait: native Gs, when nobody runs vm. */
void owned_end(host_vm *vm, owned_order last);

#endif
