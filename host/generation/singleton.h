/* Singletons: Gs of which one runs in all VMs together. See singleton.c. */
#ifndef SINGLETON_H
#define SINGLETON_H

typedef struct host_vm host_vm;

/* Call when another generation, or another VM of it, serves. A singleton that no VM runs goes to a VM that serves. A
 * singleton that runs in an old VM is canceled. Any thread with a P. Does not wait. */
void singleton_look(void);
/* Takes its singletons from vm, which is stuck. Any native G. */
void singleton_stuck(host_vm *vm);

#endif
