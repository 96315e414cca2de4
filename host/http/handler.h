/* The Lua G that answers a request. See handler.c. Only the connection's G calls these functions, except
 * handler_await_vm. None waits. */
#ifndef HANDLER_H
#define HANDLER_H

#include "exchange.h"

/* Makes the G of a handler for x, whose head is whole, in a VM that serves, and gives x its id and its limit_ns. The G
 * waits until the caller readies it. NULL: no VM can take x; *soon: one is being made. */
rt_g *handler_make(host_exchange *x, bool *soon);
/* Makes the G of a handler that answers x, which C refuses with `status`, as handler_make: if the app asks for that, and a
 * VM is there. The G has a second, and no more than --handler-timeout. NULL: C answers. */
rt_g *handler_refuse(host_exchange *x, int status);
/* Until when the handler of x has the connection (rt_nanotime), counted from when the head was whole; 0: no limit. */
int64_t handler_limit(host_exchange *x);
/* Prepares a wait of the step G g for a VM that is being made, of 2 ms. Returns RT_PARK, for g's step to return. Only
 * by g itself. */
rt_step handler_await_vm(rt_g *g, host_exchange *x);

#endif
