/* Cookies as clients send them: `name=value` between ';', with blanks around each. A value may stand in quotes. An escape
 * is decoded, as response:cookie writes them; a value with a bad escape, because another program wrote it, stands as it
 * is. Each byte is looked at a few times at most. */
#include "path.h"

#include "../base/chars.h"

#include <string.h>

/* Around names, where clients have written anything. */
static bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* The value of the cookie s[0 .. *n) if it has this name: where it begins, and *n: its length. NULL: it has not. */
static const char *value_of(const char *s, size_t *n, const char *name, size_t len) {
    const char *end = s + *n;
    while (s < end && is_space(*s))
        s++;
    if (len == 0 || (size_t)(end - s) <= len || memcmp(s, name, len) != 0) return NULL;
    s += len;
    while (s < end && is_space(*s))
        s++;
    if (s == end || *s != '=') return NULL;
    s++;
    chars_trim(&s, &end);
    if (end - s >= 2 && *s == '"' && end[-1] == '"') {
        s++;
        end--;
    }
    *n = (size_t)(end - s);
    return s;
}

int host_cookie_get(const char *field, size_t n, const char *name, size_t len, char *out) {
    const char *end = field + n;
    for (size_t i = 0; i < len; i++)
        if (name[i] == '=' || is_space(name[i])) return -1;
    for (const char *s = field, *stop; s < end; s = stop + 1) {
        stop = memchr(s, ';', (size_t)(end - s));
        if (!stop) stop = end;
        size_t got = (size_t)(stop - s);
        const char *value = value_of(s, &got, name, len);
        if (!value) continue;
        int decoded = host_path_decode(value, got, out);
        if (decoded >= 0) return decoded;
        memcpy(out, value, got);
        return (int)got;
    }
    return -1;
}
