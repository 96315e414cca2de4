/* Which of two forms an answer of ours gets, one that C makes or that no handler has made: words, or JSON.
 *
 * A program that asks an API says "Accept: application/json", a browser says "text/html, ...", curl that anything will do.
 * JSON is sent to a client that gives it a higher quality than text, or the same quality and names it first. A client
 * that does not say gets text. */
#include "accept.h"

#include "../base/chars.h"

#include <string.h>
#include <strings.h>

/* How much a client likes a form: q in thousandths, and the place of the item that says so. */
typedef struct liking {
    int q,
        exact; /* exact: 0 by a wildcard for all, 1 by one for its kind, 2 by its name; -1: not at all */
    size_t at;
} liking;

/* s[at .. end) without blanks at both ends. */
static host_span trim(const char *s, size_t at, size_t end) {
    const char *from = s + at, *to = s + end;
    chars_trim(&from, &to);
    return (host_span){(uint32_t)(from - s), (uint32_t)(to - from)};
}

static bool is(const char *s, host_span w, const char *name) {
    return w.len == strlen(name) && strncasecmp(s + w.off, name, w.len) == 0;
}

/* "0.5" is 500; what is no quality is 0. */
static int quality(const char *s, size_t n) {
    if (n == 0 || (s[0] != '0' && s[0] != '1')) return 0;
    int q = (s[0] - '0') * 1000, unit = 100;
    if (n > 1 && s[1] != '.') return 0;
    for (size_t i = 2; i < n && i < 5; i++, unit /= 10) {
        if (s[i] < '0' || s[i] > '9') return 0;
        q += (s[i] - '0') * unit;
    }
    return q > 1000 ? 0 : q;
}

/* The quality that the parameters s[at .. end) name, ";q=0.5"; 1000 without one. */
static int quality_in(const char *s, size_t at, size_t end) {
    while (at < end) {
        const char *stop = memchr(s + at, ';', end - at);
        size_t next = stop ? (size_t)(stop - s) : end;
        host_span w = trim(s, at, next);
        if (w.len > 2 && (s[w.off] | 32) == 'q' && s[w.off + 1] == '=')
            return quality(s + w.off + 2, w.len - 2);
        at = next + 1;
    }
    return 1000;
}

/* The more exact item counts; of two that are alike the first. */
static void note(liking *l, int exact, int q, size_t at) {
    if (exact > l->exact) *l = (liking){q, exact, at};
}

static void look_at(const char *s, size_t at, size_t end, liking *json, liking *text) {
    const char *stop = memchr(s + at, ';', end - at);
    size_t name_end = stop ? (size_t)(stop - s) : end;
    host_span w = trim(s, at, name_end);
    int q = quality_in(s, name_end < end ? name_end + 1 : end, end);
    if (is(s, w, "application/json"))
        note(json, 2, q, at);
    else if (is(s, w, "application/*"))
        note(json, 1, q, at);
    else if (is(s, w, "text/plain") || is(s, w, "text/html"))
        note(text, 2, q, at);
    else if (is(s, w, "text/*"))
        note(text, 1, q, at);
    if (!is(s, w, "*/*")) return;
    note(json, 0, q, at);
    note(text, 0, q, at);
}

int host_likes_json(const char *accept, size_t n) {
    liking json = {.exact = -1}, text = {.exact = -1};
    for (size_t at = 0; at < n;) {
        const char *comma = memchr(accept + at, ',', n - at);
        size_t end = comma ? (size_t)(comma - accept) : n;
        look_at(accept, at, end, &json, &text);
        at = end + 1;
    }
    if (json.q != text.q) return json.q > text.q;
    return json.q > 0 && json.exact > 0 && (text.exact < 1 || json.at < text.at);
}

bool accept_json(const host_exchange *x) {
    const host_req *r = &x->req;
    /* The fields that have come, also of a head that was refused at a later one. */
    for (int i = 0; x->in && i < r->nheaders; i++)
        if (is(x->in, r->headers[i].name, "accept"))
            return host_likes_json(x->in + r->headers[i].value.off, r->headers[i].value.len);
    return false;
}
