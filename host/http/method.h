/* Request methods by number. See method.c. */
#ifndef METHOD_H
#define METHOD_H

#include <stddef.h>
#include <stdint.h>

/* Numbers that C itself asks for; the others follow. Lua keeps tables by number, which are arrays from 1 on. */
enum {
    METHOD_NONE,
    METHOD_GET,
    METHOD_HEAD,
    METHOD_POST,
    METHOD_OPTIONS,
    METHOD_CONNECT,
    METHODS_MAX = 256
};

/* Is it a byte of a token (RFC 9110, 5.6.2): of a method or a field's name? */
extern const uint8_t method_token[256];

/* The number of the method s[0 .. n); METHOD_NONE: nobody knows it. Any thread. Does not wait. */
uint8_t method_id(const char *s, size_t n);

#endif
