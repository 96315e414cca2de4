/* A mutex of one word, for sections of a few dozen instructions. See lock.c. */
#ifndef LOCK_H
#define LOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct rt_lock {
    _Atomic uint32_t key; /* LOCK_FREE, LOCK_HELD or LOCK_CONTENDED; moved only as lock.c says */
} rt_lock;

/* The thread that holds l must not wait, switch stacks or take l again. rt_lock_try: false, l is held. Any thread. */
void rt_lock_acquire(rt_lock *l);
bool rt_lock_try(rt_lock *l);
void rt_lock_release(rt_lock *l);

#endif
