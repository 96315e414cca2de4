/* Adding routes to a tree. What finds routes is in http_ffi.h. See routes.c. */
#ifndef ROUTES_H
#define ROUTES_H

#include "http_ffi.h"

/* Adds a route. method: a number; 0: any. pattern: segments, each behind a slash. A segment with a NUL stands for others,
 * which have the text before the NUL, a part that is not empty, and the text from the second byte behind the NUL on. The
 * byte behind the NUL says what the part is: ':' anything, 'i' an integer, 'u' a UUID, 'h' hex digits, 'a' letters of
 * ASCII, 's' a slug: letters, digits, '-', '_'. '*', in the last segment: the segment and all that follow, which may be
 * empty. Numbers are counted from 1. 0: there is a route for the same method and paths; -ENOMEM. The thread that runs
 * the tree's VM. Does not wait. */
int host_route_add(host_routes *t, int method, const char *pattern, size_t len);

#endif
