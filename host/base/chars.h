/* Characters of protocols. Any thread. Nothing here waits. */
#ifndef CHARS_H
#define CHARS_H

#include <stdbool.h>

/* The value of a hexadecimal digit; -1: c is none. */
static inline int char_hex(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* A space or a tab: what may stand around the parts of a field's value. */
static inline bool char_is_blank(char c) {
    return c == ' ' || c == '\t';
}

/* Moves *s and *end, between which a text lies, past the blanks at its two ends. */
static inline void chars_trim(const char **s, const char **end) {
    while (*s < *end && char_is_blank(**s))
        ++*s;
    while (*s < *end && char_is_blank((*end)[-1]))
        --*end;
}

#endif
