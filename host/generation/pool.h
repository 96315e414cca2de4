/* Choosing the VM that answers a request, and looking after stuck VMs. See pool.c. */
#ifndef POOL_H
#define POOL_H

#include "../vm/keeper.h"
#include "source.h"

/* Sets the keeper's operations (keeper.h) and begins to look after stuck VMs. Once, before any VM runs. Any native
 * G. */
void pool_init(void);

/* Makes gen the generation that serves: requests that have not begun go to its VMs. Returns the generation before, or
 * NULL. Any native G. */
generation *pool_switch(generation *gen);

/* Ends a generation_make_vm. vm: the VM that has loaded for gen; NULL: none could be made. p: the P whose current VM vm
 * becomes; -1: vm is a spare. Any native G. */
void pool_add(generation *gen, host_vm *vm, int p);

/* Lists up to max VMs of gen, each visited (vm_visit). The caller leaves each with vm_leave. Returns the number. Any
 * native G. Does not wait. */
int pool_list(generation *gen, host_vm **list, int max);

/* The number and the id of the generation of vm, which the caller visits; 0 and "": vm has none, or it has not served
 * yet. Returns the number of Ps whose current VM vm is. Any thread. */
int pool_note(host_vm *vm, int *number, char id[SOURCE_ID_SIZE]);

/* From now on vm gets no requests. Any thread. Does not wait. */
void pool_forget(host_vm *vm);

/* True: the VMs that have left gen and have not ended are as many as may serve. Any thread. Does not wait. */
bool pool_crowded(generation *gen);

#endif
