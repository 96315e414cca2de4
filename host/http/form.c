/* Fields of queries and forms: `name=value` between '&', percent-encoded. Each byte is looked at once, so that time is
 * proportional to length, and Lua that calls is compiled (patterns are not).
 *
 * A '+' is a space. A bad escape stands for itself: forms typed by hand contain lone '%' signs, and nothing is routed
 * by fields. Nothing is decoded twice. */
#include "http_ffi.h"

#include <string.h>

static int hex(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Decodes s[0 .. n) to out. The number of bytes. */
static uint32_t decode(const char *s, size_t n, char *out) {
    char *at = out;
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        if (c == '+') {
            c = ' ';
        } else if (c == '%' && n - i > 2) {
            int high = hex(s[i + 1]), low = hex(s[i + 2]);
            if (high >= 0 && low >= 0) {
                c = (char)(high << 4 | low);
                i += 2;
            }
        }
        *at++ = c;
    }
    return (uint32_t)(at - out);
}

int host_field_next(const char *s, size_t len, size_t at, char *out, host_field *f) {
    while (at < len && s[at] == '&')
        at++;
    if (at >= len) return 0;
    const char *field = s + at, *end = memchr(field, '&', len - at);
    size_t n = end ? (size_t)(end - field) : len - at;
    const char *eq = memchr(field, '=', n);
    size_t name = eq ? (size_t)(eq - field) : n;
    f->name_len = decode(field, name, out);
    f->value_len = eq ? decode(eq + 1, n - name - 1, out + f->name_len) : 0;
    f->next = (uint32_t)(at + n);
    return 1;
}
