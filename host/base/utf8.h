/* Characters of UTF-8. Any thread. Does not wait. */
#ifndef UTF8_H
#define UTF8_H

#include <stddef.h>

/* The length of the sequence of two to four bytes that begins at s, of which n bytes may be read; *c: its character. 0:
 * there is none. Overlong forms, surrogates and what lies above U+10FFFF are none. */
static inline int utf8_sequence(const unsigned char *s, size_t n, unsigned *c) {
    int len = s[0] >= 0xf0 && s[0] <= 0xf4   ? 4
              : s[0] >= 0xe0 && s[0] <= 0xef ? 3
              : s[0] >= 0xc2 && s[0] <= 0xdf ? 2
                                             : 0;
    if (len == 0 || (size_t)len > n) return 0;
    *c = s[0] & (0x7fU >> len);
    for (int i = 1; i < len; i++) {
        if ((s[i] & 0xc0) != 0x80) return 0;
        *c = *c << 6 | (s[i] & 0x3f);
    }
    if (len == 3 && (*c < 0x800 || (*c >= 0xd800 && *c <= 0xdfff))) return 0;
    if (len == 4 && (*c < 0x10000 || *c > 0x10ffff)) return 0;
    return len;
}

/* The length of the run of sequences of two to four bytes that begins at s, until a byte below 0x80; -1: a byte in it is
 * in no sequence. A byte below 0x80, such as a NUL, stands at the end of s. */
static inline ptrdiff_t utf8_run(const unsigned char *s) {
    const unsigned char *at = s;
    for (unsigned char c; (c = *at) >= 0x80;) {
        if (c < 0xc2 || c > 0xf4 || (at[1] & 0xc0) != 0x80) return -1;
        if (c < 0xe0) {
            at += 2;
            continue;
        }
        if ((at[2] & 0xc0) != 0x80) return -1;
        if ((c == 0xe0 && at[1] < 0xa0) || (c == 0xed && at[1] >= 0xa0)) return -1;
        if (c < 0xf0) {
            at += 3;
            continue;
        }
        if ((at[3] & 0xc0) != 0x80) return -1;
        if ((c == 0xf0 && at[1] < 0x90) || (c == 0xf4 && at[1] >= 0x90)) return -1;
        at += 4;
    }
    return at - s;
}

#endif
