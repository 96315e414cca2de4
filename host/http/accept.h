/* What a client accepts as an answer of ours: see accept.c. */
#ifndef ACCEPT_H
#define ACCEPT_H

#include "exchange.h"

/* Does the client of x like JSON better than text? No, if it does not say. By the holder of the connection, or in the VM.
 * Does not wait. */
bool accept_json(const host_exchange *x);

#endif
