/* Connections that handlers take over. See hijack.c. Nothing here waits. */
#ifndef HIJACK_H
#define HIJACK_H

#include "exchange.h"

/* The handler of x, HOLD_LENT, has ended: closes the socket. In the VM. */
void hijack_end(host_exchange *x);

#endif
