/* Counted references: of those that hold an object the last to let go frees it.
 *
 * A holder may make others (refs_hold): it has the object, so the count is not 0. Who has no hold on it must learn
 * of the object where its end is known too, and uses refs_try_hold under the lock that the end takes.
 *
 * Orders. To hold orders nothing: whoever hands the object on does that. To let go is a release, and for the last one an
 * acquire: all that any holder has written is seen by who frees.
 */
#ifndef REFS_H
#define REFS_H

#include <stdatomic.h>
#include <stdbool.h>

typedef struct refs {
    _Atomic int n; /* atomic; 0: it ends */
} refs;

/* n hold it, none of which has been told of it yet. Does not wait. */
static inline void refs_init(refs *r, int n) {
    atomic_init(&r->n, n);
}

/* One more holds it. By a holder. Any thread. Does not wait. */
static inline void refs_hold(refs *r) {
    atomic_fetch_add_explicit(&r->n, 1, memory_order_relaxed);
}

/* True: one more holds it. False: it ends. Any thread, while its memory is there. Does not wait. */
static inline bool refs_try_hold(refs *r) {
    int n = atomic_load_explicit(&r->n, memory_order_relaxed);
    while (n > 0)
        if (atomic_compare_exchange_weak_explicit(&r->n, &n, n + 1, memory_order_relaxed,
                                                  memory_order_relaxed))
            return true;
    return false;
}

/* A holder lets go. True: it was the last one, and frees the object. Any thread. Does not wait. */
static inline bool refs_drop(refs *r) {
    return atomic_fetch_sub_explicit(&r->n, 1, memory_order_acq_rel) == 1;
}

/* Nobody but the caller holds it. By a holder. Any thread. Does not wait. */
static inline bool refs_alone(refs *r) {
    return atomic_load_explicit(&r->n, memory_order_acquire) == 1;
}

#endif
