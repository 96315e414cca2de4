/* The key of hash_bytes. */
#include "hash.h"

#include "../../runtime/runtime.h"

#include <pthread.h>
#include <sys/random.h>

uint64_t hash_key[3];

static void draw_key(void) {
    if (getrandom(hash_key, sizeof hash_key, 0) != sizeof hash_key)
        rt_throw("the kernel has no random bytes");
}

void hash_begin(void) {
    static pthread_once_t drawn = PTHREAD_ONCE_INIT;
    pthread_once(&drawn, draw_key);
}

uint64_t hash_name(const char *name, size_t len) {
    hash_begin();
    return hash_bytes(name, len);
}
