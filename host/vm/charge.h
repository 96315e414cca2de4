/* What a VM holds outside of LuaJIT's heap, for --vm-memory. See charge.c. */
#ifndef CHARGE_H
#define CHARGE_H

#include "../../runtime/lock.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct host_vm host_vm;

/* The bytes of one thing; the owner's. {0}: no bytes; the thing belongs to the VM that calls charge_set first. */
typedef struct vm_charge {
    host_vm *vm;
    uint64_t life;
    size_t bytes;
} vm_charge;

/* vm->charges: the sum of the charges of a VM. charge.c's. */
typedef struct vm_charges {
    rt_lock lock;
    uint64_t life;         /* lock: which life of the struct host_vm this is */
    _Atomic int64_t bytes; /* lock writes, anybody reads */
} vm_charges;

/* The thing belongs to the VM that runs here. For a charge_set on another thread later. */
void charge_begin(vm_charge *c);

/* The thing has so many bytes from now on. False: the VM may not have so many, and nothing has changed; fewer bytes
 * than before always succeed. Any thread, once the VM is known; else in the VM. Does not wait. */
bool charge_set(vm_charge *c, size_t bytes);

/* The bytes of all things of vm. Any thread. */
int64_t charged(host_vm *vm);

/* vm begins another life: charges of the life before no longer count. The maker of vm. */
void charge_new_life(host_vm *vm);

#endif
