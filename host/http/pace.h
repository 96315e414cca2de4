/* How fast a client must be. See pace.c. By whoever has the connection; nothing here waits. */
#ifndef PACE_H
#define PACE_H

#include "exchange.h"

/* A wait for more of the body begins: until when. In the past: the client is too slow. */
int64_t pace_read(host_exchange *x);

/* n bytes of the body came. */
void pace_got(host_exchange *x, size_t n);

/* The kernel takes no more of the response: until when a wait for room lasts; 0: the client is too slow. *moved: the
 * client has taken some since the call before. */
int64_t pace_write(host_exchange *x, bool *moved);

/* The kernel has taken all of the response, or there is room again. */
void pace_wrote(host_exchange *x);

#endif
