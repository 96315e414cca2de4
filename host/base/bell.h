/* A bell: one G waits until something is so, others make it so and ring.
 *
 * The problem. Who waits looks, finds nothing to do and goes to sleep; who makes it so may come between the look and the
 * sleep, finds nobody asleep and wakes nobody. Hence a ring is kept: the bell remembers it until it is taken, and a wait
 * for a bell that has been rung is no wait. The two sides are
 *
 *     the one that waits                                   those that ring
 *
 *     while (!is_so)                                       is_so = true;
 *         if (!bell_wait(&bell, deadline_ns)) break;       bell_ring(&bell);
 *
 * Invariant: no ring is lost. Whatever was written before a bell_ring is seen by the look that follows the bell_wait or
 * bell_take that took this ring; a ring that comes after the taking is there for the next wait. So the look needs no
 * order of its own (a relaxed atomic will do, or a lock), and may come before the wait is published. A wait may end for
 * a ring whose reason has been seen to already: look again.
 *
 * `word` holds all: RUNG, WAITS, and above these the number of the wait that began last.
 *
 *     QUIET --bell_arm--> WAITS --bell_ring--> RUNG --bell_take--> QUIET
 *       |                                       ^
 *       +---------------bell_ring---------------+
 *
 * Every step is an atomic read-modify-write of `word`, so of a ring and the beginning of a wait one finds the other
 * there. bell_ring is a release and bell_take an acquire. A further ring, of a bell that is RUNG, is such a step as
 * well: what it tells must be seen by who takes the first one. No step needs a total order with other words, for no
 * side reads another word to learn what it shall do with this one.
 *
 * `g` and `ticket` (runtime/wait.c) are written before WAITS and never while it stands, and each wait has another
 * number. Who rings reads the two, then moves `word` from what it was: if that succeeds they belong to the wait that it
 * ends. Waits of several Gs, one after another, do not mix, though their tickets may be the same number.
 *
 * Who frees. The step that makes the bell RUNG is the last that bell_ring does with the bell. So a bell may lie on the
 * stack of the G that waits, or in memory that this G frees, if it is rung once, and G stays until it is. Where G may
 * lose patience first, or several ring, the memory is counted (refs.h) or static.
 *
 * Rejected: a flag beside the ticket, "publish the ticket, then look; set the flag, then read the ticket". It needs two
 * total orders, its ringer reads the bell after the other side may have gone, and each copy of it was written otherwise.
 *
 * Not for: Gs of one VM that wake each other, which nothing separates (queue.c); threads that are no Gs
 * (runtime/note.c); several that wait at once (chan_wait.c); a G that waits for a descriptor, too (dns.c).
 */
#ifndef BELL_H
#define BELL_H

#include <stdatomic.h>

#include "../../runtime/runtime.h"

/* Zeroed it is quiet. */
typedef struct bell {
    _Atomic uint64_t word;   /* atomic, as above */
    _Atomic(rt_g *) g;       /* atomic: the G that waits, or did last */
    _Atomic uint64_t ticket; /* atomic: of its wait */
} bell;

enum { BELL_RUNG = 1, BELL_WAITS = 2, BELL_ONE_WAIT = 4 };

/* Ends the wait for b, or the next one. Any thread. Does not wait. */
static inline void bell_ring(bell *b) {
    uint64_t word = atomic_load_explicit(&b->word, memory_order_acquire);
    for (;;) {
        rt_g *g = atomic_load_explicit(&b->g, memory_order_relaxed);
        uint64_t ticket = atomic_load_explicit(&b->ticket, memory_order_relaxed);
        uint64_t rung = (word | BELL_RUNG) & ~(uint64_t)BELL_WAITS;
        if (!atomic_compare_exchange_weak_explicit(&b->word, &word, rung, memory_order_acq_rel,
                                                   memory_order_acquire))
            continue;
        if (word & BELL_WAITS) rt_wake(g, ticket, RT_WOKEN);
        return;
    }
}

/* b has been rung, and nobody has taken that. Any thread. Does not wait. */
static inline bool bell_is_rung(const bell *b) {
    return atomic_load_explicit(&b->word, memory_order_acquire) & BELL_RUNG;
}

/* Takes the rings there were, and ends what bell_arm has begun. Whether there were any. The side that waits. Does not
 * wait. */
static inline bool bell_take(bell *b) {
    uint64_t both = BELL_RUNG | BELL_WAITS;
    return atomic_fetch_and_explicit(&b->word, ~both, memory_order_acq_rel) & BELL_RUNG;
}

/* A ring of b ends g's wait of this ticket, which is open. False: b has been rung, and g is not to wait. The side that
 * waits; a wait for b that another G has begun is over. Does not wait. */
static inline bool bell_arm(bell *b, rt_g *g, uint64_t ticket) {
    uint64_t quiet = ~(uint64_t)BELL_WAITS;
    uint64_t word = atomic_fetch_and_explicit(&b->word, quiet, memory_order_acq_rel) & quiet;
    if (word & BELL_RUNG) return false;
    atomic_store_explicit(&b->g, g, memory_order_relaxed);
    atomic_store_explicit(&b->ticket, ticket, memory_order_relaxed);
    return atomic_compare_exchange_strong_explicit(&b->word, &word,
                                                   word + BELL_ONE_WAIT + BELL_WAITS,
                                                   memory_order_acq_rel, memory_order_relaxed);
}

/* Waits until b is rung, and takes that: true. False: not until deadline_ns (rt_nanotime; 0: none), or the G was
 * canceled. One G at a time. Native Gs. */
static inline bool bell_wait(bell *b, int64_t deadline_ns) {
    rt_g *g = rt_self();
    uint64_t ticket = rt_wait_open(g);
    if (!bell_arm(b, g, ticket)) rt_wake(g, ticket, RT_WOKEN); /* an open wait must end */
    rt_wait(RT_WAIT_OTHER, deadline_ns);
    return bell_take(b);
}

#endif
