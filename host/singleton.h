/* Gs of which there is one in all VMs: see singleton.c. */
#ifndef SINGLETON_H
#define SINGLETON_H

#include "host.h"

/* Another generation serves, or another VM of it: what nobody runs is given to one that serves; who runs it in an old one
 * is canceled. Any thread with a P. */
void singleton_look(void);
/* vm, which is stuck, runs none any more. A native G. */
void singleton_stuck(host_vm *vm);
/* vm was thrown away, or ends. Any thread with a P. */
void singleton_forget(host_vm *vm);

#endif
