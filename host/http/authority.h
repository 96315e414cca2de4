/* host[:port], as a Host field or a target names it. See authority.c. */
#ifndef AUTHORITY_H
#define AUTHORITY_H

#include <stdbool.h>
#include <stddef.h>

/* Is s[0 .. n), at least 1 byte, a name or address and perhaps a port (RFC 3986, 3.2.2 and 3.2.3)? */
bool authority_is_valid(const char *s, size_t n);

#endif
