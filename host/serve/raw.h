/* Connections of which a Lua function gets the bytes as they come. See raw.c. */
#ifndef RAW_H
#define RAW_H

#include "server.h"

/* Any protocol, spoken by the handler of the listener: it is called with a host_sock, as lightuserdata. */
extern const server_protocol raw_protocol;

#endif
