/* The Lua G that answers a request. See handler.c. By the connection's G, but for handler_await_vm. */
#ifndef HANDLER_H
#define HANDLER_H

#include "exchange.h"

/* The G of a handler for x, which vm is to run; it waits to be made ready. NULL: no memory. By the connection's G. */
rt_g *handler_make(host_exchange *x, host_vm *vm);
/* The VM that answers the next request of s. NULL: none can take it; *soon: but one is being made. With a P. */
host_vm *handler_vm(host_server *s, bool *soon);
/* The step G g, which has no VM for x, waits for one that is being made, as a rule for a few milliseconds. */
rt_step handler_await_vm(rt_g *g, host_exchange *x);

#endif
