/* HTTP, of any version, as listeners know it. See http.c. */
#ifndef HTTP_H
#define HTTP_H

#include "../serve/server.h"

/* HTTP, for a listener. */
extern const server_protocol http_protocol;

#endif
