/* Which VM of the generation that serves answers a request, and VMs that are stuck. See pool.c. */
#ifndef POOL_H
#define POOL_H

#include "../vm/keeper.h"

/* Begins to keep VMs (keeper.h): to look after those that are stuck. Once, before any VM runs. A native G. */
void pool_init(void);

/* Gives requests that have not begun to the VMs of gen from now on: the generation before, or NULL. Any native G. */
generation *pool_switch(generation *gen);

/* The end of each generation_make_vm. vm has loaded for gen; NULL: it has failed. p: the P whose current VM it becomes,
 * -1: a spare. Any native G. */
void pool_add(generation *gen, host_vm *vm, int p);

/* Up to max of the VMs of gen, each visited (vm_visit): how many. Any native G. */
int pool_list(generation *gen, host_vm **list, int max);

/* vm is given no requests any more. Any thread. */
void pool_forget(host_vm *vm);

/* True: as many VMs have left gen, and not ended, as may be in it. Any thread. */
bool pool_crowded(generation *gen);

#endif
