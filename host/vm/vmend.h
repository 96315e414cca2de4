/* How VMs end. See vmend.c. */
#ifndef VMEND_H
#define VMEND_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct host_vm host_vm;
typedef struct host_luag host_luag;

/* vm->end: how near vm is to its end. The VM's. */
typedef struct vm_end {
    bool closing;   /* in vm_finalize: no G begins any more, and owned_free waits */
    bool ends;      /* its Gs are canceled as they begin */
    int n_requests; /* its Gs that are handlers, or were started by one */
    /* atomic: it is retired, and what it runs has time until then; 0: not retired */
    _Atomic int64_t drain_ns;
    int64_t end_ns; /* when what is left is thrown away; 0: nothing is canceled yet */
    int64_t
        retire_pause_ns;   /* the last pause between looks whether the VM can end; 0: no look yet */
    int64_t drop_pause_ns; /* the last such pause of a VM that was thrown away */
} vm_end;

/* Ends vm at once, without its Lua, which is never touched again: vm's Gs end, its sockets are closed, its requests are
 * answered 502, then its memory is given back. runaway: a G that never ends, or NULL. In vm's cell. */
void vm_throw_away(host_vm *vm, const host_luag *runaway);

/* Has vm thrown away as soon as no thread runs its Lua. Any native G that visits vm (vm_visit); the visit ends with
 * vm. */
void vm_abandon(host_vm *vm);

/* Ends vm, which gets no more requests, in order. When its requests are over, its other Gs are canceled; at
 * vm->end.drain_ns all are canceled. What is left a second later is thrown away. Any native G that visits vm; the visit
 * ends with vm. */
void vm_retire(host_vm *vm);

#endif
