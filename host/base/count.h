/* Counts that one thread at a time writes and any thread reads: of a P, by the M that has the P; of a VM, by the thread
 * that runs the VM. So an addition needs no locked instruction. Relaxed: a count says nothing of other memory. */
#ifndef COUNT_H
#define COUNT_H

#include <stdatomic.h>
#include <stdint.h>

/* Adds to a count. Only the count's writer. Does not wait. */
static inline void count_more(_Atomic int64_t *n, int64_t more) {
    int64_t now = atomic_load_explicit(n, memory_order_relaxed);
    atomic_store_explicit(n, now + more, memory_order_relaxed);
}

/* Any thread. Does not wait. */
static inline int64_t count_now(const _Atomic int64_t *n) {
    return atomic_load_explicit(n, memory_order_relaxed);
}

#endif
