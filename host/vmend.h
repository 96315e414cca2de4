/* How VMs end: see vmend.c. */
#ifndef VMEND_H
#define VMEND_H

#include "host.h"

/* In the VM, whose Lua is never touched again: its Gs end without it, its sockets are closed, its requests answered
 * 502, and then its memory goes back. runaway: one that never gets to that, or NULL. */
void vm_throw_away(host_vm *vm, const host_luag *runaway);

/* Has it thrown away as soon as nobody runs its Lua. Any native G, which visits it (vm_visit); that visit ends with it. */
void vm_abandon(host_vm *vm);

/* It gets no more requests. It ends when those that it has are over, and its other Gs, which are canceled then: at
 * drain_ns in any case those too, and what is not over a second later is thrown away. Any native G; visited as above. */
void vm_retire(host_vm *vm, int64_t drain_ns);

#endif
