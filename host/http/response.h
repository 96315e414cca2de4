/* Responses, of any protocol. See response.c. By whoever has the connection; nothing here waits. */
#ifndef RESPONSE_H
#define RESPONSE_H

#include "exchange.h"

enum { REST_MAX = 65536 /* of what is left of a whole body, so much is copied */ };

/* Answers x from C, shortly. */
void response_error(host_exchange *x, int status);

/* Is the response begun, and not whole without its handler? */
static inline bool response_is_partial(const host_exchange *x) {
    return x->req.state == 1 || (x->req.state == 2 && x->left > 0);
}

#endif
