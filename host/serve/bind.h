/* The Lua G that answers a request or a connection of a server: from the choice of a VM to its beginning there. See
 * bind.c. */
#ifndef BIND_H
#define BIND_H

#include "../../runtime/runtime.h"
#include "../vm/luag.h"
#include "server.h"

#include <stdbool.h>

/* A protocol's operations on `who`, a request or a connection that a Lua G answers. Only the step G of bind_make calls
 * them. None waits. */
typedef struct bind_ops {
    host_server *(*server)(void *who);
    /* The Lua G of who; NULL: it has not begun. */
    host_luag *(*luag)(void *who);
    /* True: no answer is needed any more. NULL: never so. */
    bool (*lost)(void *who);
    /* The G was canceled (rt_cancel) before it began. NULL: the G is never canceled. */
    void (*canceled)(void *who);
    /* Takes a coroutine of vm for who, and puts function and arguments on it, with lg->g, lg->nargs and lg->done set.
     * From then on luag(who) answers it, whether it begins or not. NULL: vm has no memory for it. */
    host_luag *(*begin)(void *who, rt_g *g, host_vm *vm);
    /* who ends without having begun: lost, or because no VM can take it. */
    void (*end)(void *who, bool lost);
    /* who ends: its Lua G has begun, and its VM was dropped. */
    void (*dropped)(void *who);
} bind_ops;

/* The VM that answers the next request or connection of s. NULL: no VM can take it; *soon: one is being made. With a P.
 * Does not wait. */
host_vm *bind_choose(host_server *s, bool *soon);

/* Prepares a wait of the step G g for a VM that is being made, of 2 ms. Returns RT_PARK, for g's step to return. Only
 * by g itself, which is not canceled. */
rt_step bind_await(rt_g *g);

/* Makes the G of who, to begin in vm; NULL: in the VM that it finds. The G waits until the caller readies it. NULL: no
 * memory. With a P. Does not wait. */
rt_g *bind_make(const bind_ops *ops, void *who, host_vm *vm);

#endif
