/* A hash of bytes, keyed by 24 random bytes: nobody outside of the process can foretell its values. See hash.c. Any
 * thread. Does not wait. */
#ifndef HASH_H
#define HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

extern uint64_t hash_key[3]; /* constant after hash_begin */

/* Draws the key, the first time. Before hash_bytes. */
void hash_begin(void);

static inline uint64_t hash_fold(uint64_t a, uint64_t b) {
    unsigned __int128 p = (unsigned __int128)a * b;
    return (uint64_t)p ^ (uint64_t)(p >> 64);
}

static inline uint64_t hash_load(const char *p) {
    uint64_t x;
    memcpy(&x, p, 8);
    return x;
}

/* Two numbers that together hold each of n bytes, n < 16: of two runs of the same length, different ones. Some bytes are in
 * both, so that there is no loop. */
static inline void hash_tail(const char *p, size_t n, uint64_t *a, uint64_t *b) {
    uint32_t low = 0, high = 0;
    if (n >= 8) {
        *a = hash_load(p);
        *b = hash_load(p + n - 8);
        return;
    }
    if (n >= 4) {
        memcpy(&low, p, 4);
        memcpy(&high, p + n - 4, 4);
    } else if (n > 0) {
        low = (uint8_t)p[0] | (uint32_t)(uint8_t)p[n / 2] << 8;
        high = (uint8_t)p[n - 1];
    }
    *a = low;
    *b = high;
}

/* The hash of these bytes: constant in a process, different in the next one. */
static inline uint64_t hash_bytes(const char *bytes, size_t len) {
    uint64_t h = hash_key[0] ^ len;
    size_t left = len;
    for (; left >= 16; left -= 16, bytes += 16)
        h = hash_fold(hash_load(bytes) ^ hash_key[1], hash_load(bytes + 8) ^ h);
    uint64_t a, b;
    hash_tail(bytes, left, &a, &b);
    h = hash_fold(a ^ hash_key[1], b ^ h);
    return hash_fold(h ^ hash_key[2], hash_key[1] | 1);
}

/* Draws the key if need be, then answers as hash_bytes. For names. */
uint64_t hash_name(const char *name, size_t len);

#endif
