/* What VMs and their Gs do, for people; see dump.c. */
#ifndef DUMP_H
#define DUMP_H

#include "host.h"

/* Once, before any VM runs: SIGUSR1 and what else prints a dump shows the VMs too. */
void dump_init(void);

/* The Lua Gs of vm with their tracebacks, in lines; to be freed, or NULL. By who runs vm; L is one of its
 * states on which a function may be called: in a lua_CFunction its own. */
char *dump_vm(host_vm *vm, lua_State *L);

struct bubble; /* bubble.h */
/* The same of those in a bubble, but for one (NULL: of all), from outside of any Lua. */
char *dump_bubble(host_vm *vm, const struct bubble *b, const host_luag *but);

/* Where lg was started, "file:line", or "" if it was not by lp.go. L as above. */
void dump_where(lua_State *L, host_luag *lg, char *buf, size_t size);

#endif
