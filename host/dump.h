/* What VMs and their Gs do, for people; see dump.c. */
#ifndef DUMP_H
#define DUMP_H

#include "host.h"

/* Once, before any VM runs: SIGUSR1 and what else prints a dump shows the VMs too. */
void dump_init(void);

/* The Lua Gs of vm with their tracebacks, in lines; to be freed, or NULL. By who runs vm; L is one of its
 * states on which a function may be called: in a lua_CFunction its own. */
char *dump_vm(host_vm *vm, lua_State *L);

#endif
