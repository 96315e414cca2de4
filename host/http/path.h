/* Paths of requests, taken apart. See path.c. */
#ifndef PATH_H
#define PATH_H

#include "http_ffi.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct host_path {
    const char *text; /* the segments, each behind a slash */
    uint32_t len, n;  /* bytes of text; segments, 1 or more */
    uint32_t *at;     /* segment i is text[at[i] .. at[i + 1] - 1) */
} host_path;

/* Takes raw[0 .. len) apart; "" is "/". The path has what it says until the thread's next call. 0; HOST_PATH_*: not a
 * path. Any thread. Does not wait. */
int path_split(const char *raw, size_t len, host_path *p);

#endif
