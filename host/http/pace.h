/* How fast a client must be. See pace.c. Only the holder of the connection calls these functions. None waits. */
#ifndef PACE_H
#define PACE_H

#include "exchange.h"

/* A wait for more of the body begins. Returns its deadline (rt_nanotime). In the past: the client is too slow. */
int64_t pace_read(host_exchange *x);

/* n bytes of the body have come. */
void pace_got(host_exchange *x, size_t n);

/* The kernel takes no more of the response: a wait for room begins. Returns its deadline (rt_nanotime); 0: the client
 * is too slow. *moved: the client has taken some since the last call. */
int64_t pace_write(host_exchange *x, bool *moved);

/* The kernel has taken all of the response, or has room again. */
void pace_wrote(host_exchange *x);

#endif
