/* Arrays that double, and know their length alone: an array of n elements has room for n, rounded up to a power of
 * two. */
#ifndef ARRAY_H
#define ARRAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

static inline bool array_room(void **v, size_t n, size_t size) {
    if ((n & (n - 1)) != 0) return true; /* neither 0 nor a power of two: not full */
    void *grown = realloc(*v, (n ? n * 2 : 1) * size);
    if (grown) *v = grown;
    return grown;
}

/* Makes room for one more in the array v, a pointer, of n elements; NULL and 0: none yet. False: no memory, and v is as
 * it was. Does not wait. */
#define ARRAY_ROOM(v, n) array_room((void **)&(v), n, sizeof *(v))

#endif
