/* "did you mean ...": the name that is nearest to a name that does not exist. See near.c. */
#ifndef NEAR_H
#define NEAR_H

#include <stddef.h>

enum { NEAR_MAX = 40 }; /* bytes of the longest name that is compared */

/* A search. `name`: the nearest of the names so far; NULL: none is near. */
typedef struct near_search {
    char given[NEAR_MAX + 1];
    size_t len, distance;
    const char *name;
} near_search;

/* Begins to look for what s[0 .. n) may have been meant to be. Any thread. Does not wait. */
void near_begin(near_search *search, const char *s, size_t n);

/* Looks at a name, which outlives the search. Any thread. Does not wait. */
void near_look(near_search *search, const char *name);

#endif
