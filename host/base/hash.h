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

/* The hash of these bytes: constant in a process, different in the next one. */
static inline uint64_t hash_bytes(const char *bytes, size_t len) {
    uint64_t h = hash_key[0] ^ len;
    size_t left = len;
    for (; left >= 16; left -= 16, bytes += 16)
        h = hash_fold(hash_load(bytes) ^ hash_key[1], hash_load(bytes + 8) ^ h);
    char tail[16] = {0};
    memcpy(tail, bytes, left);
    h = hash_fold(hash_load(tail) ^ hash_key[1], hash_load(tail + 8) ^ h);
    return hash_fold(h ^ hash_key[2], hash_key[1] | 1);
}

/* Draws the key if need be, then answers as hash_bytes. For names. */
uint64_t hash_name(const char *name, size_t len);

#endif
