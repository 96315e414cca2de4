/* JSON, for lunapark.json: see json_encode.c, json_decode.c. */
#ifndef JSON_H
#define JSON_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    JSON_DEPTH = 128
}; /* a document nested deeper is an attack on the stack, or contains itself */

/* json_encode(value, array_mt[, kept]) -> text | nil, what is wrong with one of its values. An empty table with the
 * metatable array_mt is an array. kept: a table for memory from one call to the next. Raises without memory. A
 * lua_CFunction. Does not wait. */
int json_encode(lua_State *L);

/* json_decode(text, array_mt, big) -> value | nil, what is wrong and where. Arrays get the metatable array_mt. big: whole
 * numbers beyond 2^53 become strings of their digits. Raises without memory. A lua_CFunction. Does not wait. */
int json_decode(lua_State *L);

/* Does a string of JSON hold this byte as it is? Bytes from 0x80 on: only in sequences of UTF-8. */
static inline bool json_is_plain(unsigned char c) {
    return c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
}

/* Marks, in the highest bit of its byte, the first of eight bytes that is not plain; what is marked above it means
 * nothing. 0: all are plain. */
static inline uint64_t json_odd(uint64_t x) {
    const uint64_t ones = UINT64_MAX / 255, high = ones * 0x80;
    uint64_t quote = x ^ ones * '"', slash = x ^ ones * '\\';
    return (((x - ones * 0x20) & ~x) | ((quote - ones) & ~quote) | ((slash - ones) & ~slash) | x) &
           high;
}

/* The number of plain bytes at s, at most n. */
static inline size_t json_plain(const unsigned char *s, size_t n) {
    size_t i = 0;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    for (uint64_t x, odd; i + 8 <= n; i += 8) {
        memcpy(&x, s + i, 8);
        odd = json_odd(x);
        if (odd) return i + (size_t)(__builtin_ctzll(odd) >> 3);
    }
    if (n - i >= 4) {
        uint32_t first, last;
        memcpy(&first, s + i, 4);
        memcpy(&last, s + n - 4, 4);
        if (!json_odd(first | (uint64_t)last << 32)) return n;
    }
#endif
    while (i < n && json_is_plain(s[i]))
        i++;
    return i;
}

#endif
