/* What proxies say of the client of a request. See forwarded.c. */
#ifndef FORWARDED_H
#define FORWARDED_H

#include "exchange.h"

enum { FORWARDED_MAX = 256 }; /* bytes of an answer, with its NUL */

/* Writes what the client's address, scheme, host or the request's id is (HOST_CLIENT_...) into buf, as text with a NUL,
 * FORWARDED_MAX bytes at most. Returns its length; 0: no proxy that is trusted says so. But the address is always known,
 * without a port, "unix" for a unix socket, and the scheme of a connection with TLS is https. Or -errno. Only the holder of the connection. Does not wait. */
int forwarded_get(const host_exchange *x, int what, char *buf);

/* A field of a head, also of a head that was only copied (exchange_inherit). */
typedef struct head_field {
    const char *name, *value;
    size_t name_len, value_len;
} head_field;

/* The first field of this name, in small letters. False: the head has none. As forwarded_get. */
bool head_find(const host_exchange *x, const char *name, head_field *f);

#endif
