/* Ranges of a representation that a client asks for (RFC 9110, section 14).
 *
 * A range is cheap to ask for, and not to send: a thousand overlapping ranges ask for a thousand times the file. So
 * ranges that overlap, or lie closer together than the head of a part is long, become one, and a client that still asks
 * for more than HOST_RANGES gets the whole. */
#include "../base/chars.h"
#include "http_ffi.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>
#include <strings.h>

enum {
    ASKED_MAX = 64,
    GAP = 80, /* about what a part's head takes */
};

typedef struct list {
    int n;
    host_range v[ASKED_MAX];
} list;

/* Reads digits, if there are any. Moves *s behind them. */
static bool number(const char **s, const char *end, double *n) {
    const char *from = *s;
    for (*n = 0; *s < end && **s >= '0' && **s <= '9'; ++*s)
        *n = *n * 10 + (**s - '0');
    return *s > from;
}

/* Reads one range of s .. end, which has no blanks around it. 1: *r; 0: there are no such bytes; -1: it is none. */
static int bounds(const char *s, const char *end, double size, host_range *r) {
    double first, last;
    bool has_first = number(&s, end, &first);
    if (s == end || *s++ != '-') return -1;
    bool has_last = number(&s, end, &last);
    if (s != end || !(has_first || has_last)) return -1;
    if (!has_first) {
        *r = (host_range){last < size ? size - last : 0, size - 1};
        return last > 0;
    }
    if (!has_last) last = INFINITY;
    if (last < first) return -1;
    *r = (host_range){first, last < size ? last : size - 1};
    return first < size;
}

/* Puts a range among the others, in the place of the first one that it touches. */
static void add(list *l, host_range r) {
    int place = -1;
    for (int i = l->n - 1; i >= 0; i--) {
        host_range o = l->v[i];
        if (r.at > o.last + GAP || o.at > r.last + GAP) continue;
        r = (host_range){r.at < o.at ? r.at : o.at, r.last > o.last ? r.last : o.last};
        memmove(l->v + i, l->v + i + 1, (size_t)(--l->n - i) * sizeof r);
        place = i;
    }
    if (place < 0) place = l->n;
    memmove(l->v + place + 1, l->v + place, (size_t)(l->n++ - place) * sizeof r);
    l->v[place] = r;
}

/* Skips "bytes=", with blanks around the word. NULL: it is another unit. */
static const char *behind_unit(const char *s, const char *end) {
    const char *is = memchr(s, '=', (size_t)(end - s)), *to = is;
    if (!is) return NULL;
    chars_trim(&s, &to);
    return to - s == 5 && strncasecmp(s, "bytes", 5) == 0 ? is + 1 : NULL;
}

int host_ranges(const char *field, size_t len, double size, host_range *ranges) {
    const char *end = field + len, *s = behind_unit(field, end);
    list l = {.n = 0};
    int asked = 0;
    if (!s || size == 0) return -1;
    for (const char *stop; s < end; s = stop + 1) {
        stop = memchr(s, ',', (size_t)(end - s));
        if (!stop) stop = end;
        const char *to = stop;
        host_range r;
        chars_trim(&s, &to);
        if (s == to) continue;
        int there = bounds(s, to, size, &r);
        if (there < 0 || ++asked > ASKED_MAX) return -1;
        if (there) add(&l, r);
    }
    if (asked == 0 || l.n > HOST_RANGES) return -1;
    memcpy(ranges, l.v, (size_t)l.n * sizeof *ranges);
    return l.n;
}
