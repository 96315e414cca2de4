/* Choosing the VM that answers a request, and looking after stuck VMs. See pool.c. */
#ifndef POOL_H
#define POOL_H

#include "../vm/keeper.h"

/* Begins to keep VMs (keeper.h) and to look after stuck ones. Once, before any VM runs. A native G. */
void pool_init(void);

/* From now on requests that have not begun go to the VMs of gen. Returns the generation before, or NULL. Any native G. */
generation *pool_switch(generation *gen);

/* Follows each generation_make_vm. vm has loaded for gen; NULL: no VM could be made. p: the P whose current VM vm
 * becomes, -1: vm is a spare. Any native G. */
void pool_add(generation *gen, host_vm *vm, int p);

/* Lists up to max VMs of gen, each visited (vm_visit). Returns the number. Any native G. */
int pool_list(generation *gen, host_vm **list, int max);

/* vm gets no further requests. Any thread. */
void pool_forget(host_vm *vm);

/* True: as many VMs have left gen, and not ended, as may be in it. Any thread. */
bool pool_crowded(generation *gen);

#endif
