/* Fields of queries and forms: `name=value` between '&', percent-encoded. Each byte is looked at once, so that time is
 * proportional to length, and Lua that calls is compiled (patterns are not).
 *
 * A '+' is a space. A bad escape stands for itself: forms typed by hand contain lone '%' signs, and nothing is routed
 * by fields. Nothing is decoded twice. */
#include "path.h"

#include "../base/chars.h"

#include <string.h>

/* Decodes s[0 .. n) to out. The number of bytes. */
static uint32_t decode(const char *s, size_t n, char *out) {
    char *at = out;
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        if (c == '+') {
            c = ' ';
        } else if (c == '%' && n - i > 2) {
            int high = char_hex(s[i + 1]), low = char_hex(s[i + 2]);
            if (high >= 0 && low >= 0) {
                c = (char)(high << 4 | low);
                i += 2;
            }
        }
        *at++ = c;
    }
    return (uint32_t)(at - out);
}

/* Decodes s[0 .. n), a field, to out + w. Where its value ends. */
static uint32_t take(const char *s, size_t n, char *out, uint32_t w, host_field *f) {
    const char *eq = memchr(s, '=', n);
    size_t name = eq ? (size_t)(eq - s) : n;
    f->name = w;
    f->name_len = decode(s, name, out + w);
    f->value = w + f->name_len;
    f->value_len = eq ? decode(eq + 1, n - name - 1, out + f->value) : 0;
    return f->value + f->value_len;
}

int host_fields(const char *s, size_t len, uint32_t *at, char *out, host_field *fields, int max) {
    size_t i = *at;
    uint32_t w = 0;
    int n = 0;
    for (;;) {
        while (i < len && s[i] == '&')
            i++;
        if (i >= len || n == max) break;
        const char *end = memchr(s + i, '&', len - i);
        size_t size = end ? (size_t)(end - s) - i : len - i;
        w = take(s + i, size, out, w, &fields[n++]);
        i += size;
    }
    *at = (uint32_t)i;
    return n;
}
