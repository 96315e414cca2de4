/* Slips of the pen, in names of commands and options: lunapark.core.near does this for names in Lua, by the same rule. A
 * name is near if one letter in four, at least one, makes it the other: added, removed, changed, or swapped with its
 * neighbour. */
#include "near.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* - and _ are one character, as in options_find. */
static char plain(char c) {
    return c == '_' ? '-' : c;
}

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

/* How many letters make b of a. Both have NEAR_MAX bytes at most. */
static size_t distance(const char *a, size_t n, const char *b, size_t m) {
    /* Of the prefixes of a with i - 2, i - 1 and i letters: the distances to those of b. */
    uint8_t rows[3][NEAR_MAX + 1];
    for (size_t j = 0; j <= m; j++)
        rows[0][j] = (uint8_t)j;
    for (size_t i = 1; i <= n; i++) {
        uint8_t *row = rows[i % 3], *last = rows[(i + 2) % 3], *before = rows[(i + 1) % 3];
        row[0] = (uint8_t)i;
        for (size_t j = 1; j <= m; j++) {
            bool same = plain(a[i - 1]) == plain(b[j - 1]);
            size_t d = least(least(last[j], row[j - 1]) + 1u, last[j - 1] + !same);
            bool swapped = i > 1 && j > 1 && plain(a[i - 1]) == plain(b[j - 2]) &&
                           plain(a[i - 2]) == plain(b[j - 1]);
            row[j] = (uint8_t)(swapped ? least(d, before[j - 2] + 1u) : d);
        }
    }
    return rows[n % 3][m];
}

void near_begin(near_search *search, const char *s, size_t n) {
    search->name = NULL;
    search->distance = NEAR_MAX;
    search->len = n <= NEAR_MAX ? n : 0;
    memcpy(search->given, s, search->len);
}

void near_look(near_search *search, const char *name) {
    size_t m = strlen(name), most = m < 8 ? 1 : m / 4;
    if (search->len == 0 || m > NEAR_MAX) return;
    size_t d = distance(search->given, search->len, name, m);
    if (d > most || d >= search->distance) return;
    search->distance = d;
    search->name = name;
}
