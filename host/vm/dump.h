/* What VMs and their Gs do, for people. See dump.c. */
#ifndef DUMP_H
#define DUMP_H

#include <lua.h>
#include <stddef.h>

typedef struct host_vm host_vm;
typedef struct host_luag host_luag;

/* Dumps (SIGUSR1, SIGQUIT, a deadlock) show the VMs from now on, too. Once, before any VM runs. */
void dump_init(void);

/* The Lua Gs of vm with their tracebacks, as text of several lines; NULL: no memory. The caller frees it. L: a state of
 * vm on which a function may be called; in a lua_CFunction its own. By the thread that runs vm. */
char *dump_vm(host_vm *vm, lua_State *L);

struct bubble; /* bubble.h */
/* The Lua Gs of bubble b as text, except `but`; NULL: no memory. The caller frees it. By the thread that runs vm. Not
 * callable from Lua. */
char *dump_bubble(host_vm *vm, const struct bubble *b, const host_luag *but);

/* The place where lp.go started lg, "file:line"; "": another function started lg. L: as for dump_vm. By the thread that
 * runs vm. */
void dump_where(lua_State *L, host_luag *lg, char *buf, size_t size);

#endif
