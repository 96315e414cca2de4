/* Responses, of any protocol. See response.c. Only the holder of the connection calls these functions. None waits. */
#ifndef RESPONSE_H
#define RESPONSE_H

#include "exchange.h"

enum { REST_MAX = 65536 /* up to this a rest of a whole body is copied */ };

/* Answers x from C with this status, whose reason phrase is the body. */
void response_error(host_exchange *x, int status);

/* True: the response has begun, and is not whole without its handler. */
static inline bool response_is_partial(const host_exchange *x) {
    return x->req.state == 1 || (x->req.state == 2 && x->left > 0);
}

#endif
