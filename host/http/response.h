/* Responses to bytes. See response.c. By whoever has the connection; nothing here waits. */
#ifndef RESPONSE_H
#define RESPONSE_H

#include "exchange.h"

/* Queues a short answer from C, and sends what is queued. close: the connection ends after it. */
void response_error(host_exchange *x, int status, bool close);

/* Sends what is queued. 0: all of it, -EAGAIN, or -EPIPE. */
int response_flush(host_exchange *x);

/* Is the response begun, and not whole without its handler? */
static inline bool response_is_partial(const host_exchange *x) {
    return x->req.state == 1 || (x->req.state == 2 && x->left > 0);
}

#endif
