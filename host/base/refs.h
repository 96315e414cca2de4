/* Counted references: the last holder that lets go of an object frees it.
 *
 * A holder may make others (refs_hold): its own hold keeps the count above 0. Code without a hold must find the object
 * where the object's end is known too, and calls refs_try_hold under the lock that the end takes.
 *
 * Memory orders. refs_hold is relaxed: the way on which the object is handed over orders. refs_drop is a release, and
 * for the last holder an acquire: the holder that frees sees all that any holder has written.
 */
#ifndef REFS_H
#define REFS_H

#include <stdatomic.h>
#include <stdbool.h>

typedef struct refs {
    _Atomic int n; /* atomic; 0: it ends */
} refs;

/* Begins with n holders, none of which knows of the object yet. Does not wait. */
static inline void refs_init(refs *r, int n) {
    atomic_init(&r->n, n);
}

/* Adds a holder. A holder calls it. Any thread. Does not wait. */
static inline void refs_hold(refs *r) {
    atomic_fetch_add_explicit(&r->n, 1, memory_order_relaxed);
}

/* Adds a holder: true. False: the object ends. Any thread, as long as the memory of r is there. Does not wait. */
static inline bool refs_try_hold(refs *r) {
    int n = atomic_load_explicit(&r->n, memory_order_relaxed);
    while (n > 0)
        if (atomic_compare_exchange_weak_explicit(&r->n, &n, n + 1, memory_order_relaxed,
                                                  memory_order_relaxed))
            return true;
    return false;
}

/* Removes a holder. True: that was the last one, and the caller frees the object. Any thread. Does not wait. */
static inline bool refs_drop(refs *r) {
    return atomic_fetch_sub_explicit(&r->n, 1, memory_order_acq_rel) == 1;
}

/* True: the caller is the only holder. A holder calls it. Any thread. Does not wait. */
static inline bool refs_alone(refs *r) {
    return atomic_load_explicit(&r->n, memory_order_acquire) == 1;
}

#endif
