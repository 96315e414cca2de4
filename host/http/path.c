/* Paths: where raw bytes become names.
 *
 * A path is cut at its raw slashes first and each piece is percent-decoded once afterwards, so that an escaped slash
 * (%2F) stays inside its segment and nothing is ever decoded twice. Then "." and ".." are resolved, escaped ones
 * (%2e%2e) included: what a route or a handler sees is what a file server further down would see, and there is no
 * second spelling that slips past a check. So several slashes in a row are one, as they are to a file system; this comes
 * before dots are resolved: "/a//../b" is "/b".
 *
 * A segment whose slash was escaped is a name with a slash in it, and handlers put names together to paths of files:
 * "..%2Fetc" would climb there, where dots are not resolved any more. So a segment that holds a separator (a slash, or
 * a backslash, which is one to other systems) and beside it "." or ".." is an error. "a%2Fb" stays as it is. NUL is an
 * error: C ends the name of a file there, and what comes after it would be checked and then not be used.
 *
 * A "+" is a plus and a bad escape is an error, other than in queries (form.c), by which nothing is routed. Most paths
 * have nothing to decode or to resolve; their text is the raw one. Each byte is looked at a few times at most. */
#include "path.h"

#include "../base/chars.h"
#include "exchange.h"

#include <string.h>

int host_path_decode(const char *s, size_t n, char *out) {
    char *at = out;
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        if (c == '%') {
            int high = n - i > 2 ? char_hex(s[i + 1]) : -1,
                low = n - i > 2 ? char_hex(s[i + 2]) : -1;
            if (high < 0 || low < 0) return HOST_PATH_ESCAPE;
            c = (char)(high << 4 | low);
            i += 2;
        }
        *at++ = c;
    }
    return (int)(at - out);
}

static bool is_dot(const char *s, size_t n) {
    return n == 1 && *s == '.';
}

static bool is_dots(const char *s, size_t n) {
    return n == 2 && s[0] == '.' && s[1] == '.';
}

/* Is "." or ".." between separators of the segment's own? */
static bool hides_dots(const char *s, size_t n) {
    size_t from = 0;
    for (size_t i = 0; i <= n; i++) {
        if (i < n && s[i] != '/' && s[i] != '\\') continue;
        bool whole = from == 0 && i == n;
        if (!whole && (is_dot(s + from, i - from) || is_dots(s + from, i - from))) return true;
        from = i + 1;
    }
    return false;
}

/* Decodes the segment s[0 .. n) to out. Its length or HOST_PATH_*. */
static int take_segment(const char *s, size_t n, char *out) {
    int len = host_path_decode(s, n, out);
    if (len < 0) return len;
    if (hides_dots(out, (size_t)len)) return HOST_PATH_DOTS;
    return memchr(out, 0, (size_t)len) ? HOST_PATH_NUL : len;
}

int host_path_split(const char *raw, size_t len, char *text, uint32_t *at) {
    const char *s = raw, *end = raw + len;
    if (len == 0 || *s != '/') return HOST_PATH_NONE;
    uint32_t n = 0, w = 0; /* segments, bytes of text */
    while (s < end) {
        s++;
        const char *slash = memchr(s, '/', (size_t)(end - s));
        bool last = !slash;
        size_t raw_len = (size_t)((last ? end : slash) - s);
        if (raw_len == 0 && !last) continue;
        text[w] = '/';
        int got = take_segment(s, raw_len, text + w + 1);
        if (got < 0) return got;
        s += raw_len;
        bool up = is_dots(text + w + 1, (size_t)got);
        if (up) {
            if (n == 0) return HOST_PATH_ABOVE;
            w = at[--n] - 1;
        }
        /* At the end of a path a dot segment names a directory: "/a/." is "/a/", not "/a". */
        if (up || is_dot(text + w + 1, (size_t)got)) {
            if (!last) continue;
            got = 0;
            text[w] = '/';
        }
        at[n++] = w + 1;
        w += 1 + (uint32_t)got;
        if (last) break;
    }
    at[n] = w + 1;
    return (int)n;
}

/* Cuts a path that has neither escapes nor backslashes. False: it has segments of dots, or slashes in a row. */
static bool cut(const char *raw, size_t len, host_path *p) {
    const char *end = raw + len;
    uint32_t n = 0;
    for (const char *s = raw + 1;; s++) {
        p->at[n++] = (uint32_t)(s - raw);
        if (s < end && (*s == '.' || *s == '/')) {
            if (*s == '/') return false;
            size_t dots = 1 + (size_t)(end - s > 1 && s[1] == '.');
            if (s + dots == end || s[dots] == '/') return false;
        }
        s = s < end ? memchr(s, '/', (size_t)(end - s)) : NULL;
        if (!s) break;
    }
    p->text = raw;
    p->len = (uint32_t)len;
    p->n = n;
    p->at[n] = (uint32_t)len + 1;
    return true;
}

int path_split(const char *raw, size_t len, host_path *p) {
    static _Thread_local char text[TARGET_MAX + 1];
    static _Thread_local uint32_t at[TARGET_MAX + 2];
    p->at = at;
    if (len == 0) {
        raw = "/";
        len = 1;
    }
    if (*raw != '/' || len > TARGET_MAX) return HOST_PATH_NONE;
    if (!memchr(raw, '%', len) && !memchr(raw, '\\', len) && cut(raw, len, p)) return 0;
    int n = host_path_split(raw, len, text, at);
    if (n < 0) return n;
    p->text = text;
    p->n = (uint32_t)n;
    p->len = at[n] - 1;
    return 0;
}
