/* Connections whose bytes go to a Lua function as they come. See raw.c. */
#ifndef RAW_H
#define RAW_H

#include "server.h"

/* Any protocol: the listener's handler speaks it. The handler gets a host_sock, as lightuserdata. */
extern const server_protocol raw_protocol;

#endif
