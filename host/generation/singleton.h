/* Singletons: Gs of which there is one in all VMs. See singleton.c. */
#ifndef SINGLETON_H
#define SINGLETON_H

typedef struct host_vm host_vm;

/* Another generation serves, or another VM of it: a singleton that no VM runs goes to a VM that serves, and one that
 * runs in an old VM is canceled. Any thread with a P. */
void singleton_look(void);
/* vm, which is stuck, loses its singletons. A native G. */
void singleton_stuck(host_vm *vm);

#endif
