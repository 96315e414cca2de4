/* Writing text into a buffer that has room for it, from `at` on. Each answers the end of what it wrote. Any thread.
 * Nothing here waits. */
#ifndef PUT_H
#define PUT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline char *put(char *at, const char *s, size_t n) {
    memcpy(at, s, n);
    return at + n;
}

#define PUT(at, literal) put(at, literal, sizeof(literal) - 1)

/* A number in decimal digits, 20 at most. */
static inline char *put_number(char *at, uint64_t n) {
    char digits[20];
    int i = 20;
    do
        digits[--i] = (char)('0' + n % 10);
    while (n /= 10);
    return put(at, digits + i, (size_t)(20 - i));
}

#endif
