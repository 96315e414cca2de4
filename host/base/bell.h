/* A bell: one G waits until something is so, others make it so and ring.
 *
 * The problem. The waiter looks, finds nothing to do and goes to sleep. A ringer that comes between the look and the
 * sleep finds nobody asleep and wakes nobody. So a bell keeps a ring until the waiter takes it, and a wait for a rung
 * bell ends at once. The two sides are
 *
 *     the waiter                                           a ringer
 *
 *     while (!is_so)                                       is_so = true;
 *         if (!bell_wait(&bell, deadline_ns)) break;       bell_ring(&bell);
 *
 * Invariant: no ring is lost. The look after the bell_wait or bell_take that took a ring sees all that was written
 * before this bell_ring. A ring that comes after the taking is kept for the next wait. So the look needs no order of
 * its own (a relaxed atomic or a lock will do), and may come before the wait is published. A wait may end for a ring
 * whose cause the waiter has dealt with: look again.
 *
 * `word` holds all: RUNG, WAITS, and above these the number of the wait that began last.
 *
 *     QUIET --bell_arm--> WAITS --bell_ring--> RUNG --bell_take--> QUIET
 *       |                                       ^
 *       +---------------bell_ring---------------+
 *
 * Every step is an atomic read-modify-write of `word`, so a ring and the beginning of a wait can not miss each other:
 * the later step finds the earlier one. bell_ring is a release and bell_take an acquire. A ring of a RUNG bell is a
 * read-modify-write as well: the waiter that takes the first ring must see what came before the second. No step needs a
 * total order with other words, for no side reads another word to choose its step.
 *
 * `g` and `ticket` (runtime/wait.c) are written before WAITS is set and never while WAITS is set, and each wait has
 * another number. A ringer reads `word`, then `g` and `ticket`, then exchanges `word`: on success `g` and `ticket`
 * belong to the wait that the ring ends. Waits of several Gs, one after another, do not mix, though their tickets may
 * be the same number.
 *
 * Freeing. bell_ring does not touch the bell after the step that makes it RUNG. So a bell that is rung once may lie on
 * the stack of the waiting G, or in memory that this G frees, if the G stays until the ring. Where the G may give up
 * first, or several ring, the memory is counted (refs.h) or static.
 *
 * Rejected: a flag beside the ticket, "publish the ticket, then look; set the flag, then read the ticket". This needs
 * two total orders, the ringer reads the bell after the waiter may have gone, and each copy was written otherwise.
 *
 * Not for: Gs of one VM that wake each other, of which one runs at a time (queue.c); threads that are no Gs
 * (runtime/note.c); several Gs that wait at once (chan_wait.c); a G that also waits for a descriptor (dns.c).
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

/* Rings b; wake: rt_wake or rt_wake_last. */
static inline void bell_ring_with(bell *b, bool (*wake)(rt_g *, uint64_t, rt_wake_code)) {
    uint64_t word = atomic_load_explicit(&b->word, memory_order_acquire);
    for (;;) {
        rt_g *g = atomic_load_explicit(&b->g, memory_order_relaxed);
        uint64_t ticket = atomic_load_explicit(&b->ticket, memory_order_relaxed);
        uint64_t rung = (word | BELL_RUNG) & ~(uint64_t)BELL_WAITS;
        if (!atomic_compare_exchange_weak_explicit(&b->word, &word, rung, memory_order_acq_rel,
                                                   memory_order_acquire))
            continue;
        if (word & BELL_WAITS) wake(g, ticket, RT_WOKEN);
        return;
    }
}

/* Ends the wait for b, or the next one. Any thread. Does not wait. */
static inline void bell_ring(bell *b) {
    bell_ring_with(b, rt_wake);
}

/* Rings b as the calling G is about to end or to wait: see rt_wake_last. Native Gs. Does not wait. */
static inline void bell_ring_last(bell *b) {
    bell_ring_with(b, rt_wake_last);
}

/* True: b is rung, and the ring is not taken yet. Any thread. Does not wait. */
static inline bool bell_is_rung(const bell *b) {
    return atomic_load_explicit(&b->word, memory_order_acquire) & BELL_RUNG;
}

/* Takes the rings so far, and ends the wait that bell_arm has begun. True: there was a ring. The waiter. Does not
 * wait. */
static inline bool bell_take(bell *b) {
    uint64_t both = BELL_RUNG | BELL_WAITS;
    return atomic_fetch_and_explicit(&b->word, ~both, memory_order_acq_rel) & BELL_RUNG;
}

/* From now on a ring of b ends g's wait of this ticket, which is open. False: b is rung, and g is not to wait. No other
 * G waits for b. The waiter. Does not wait. */
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

/* Waits until b is rung, and takes the ring: true. False: deadline_ns (rt_nanotime; 0: none) has passed, or the G was
 * canceled. One G at a time. Native Gs. */
static inline bool bell_wait(bell *b, int64_t deadline_ns) {
    rt_g *g = rt_self();
    uint64_t ticket = rt_wait_open(g);
    if (!bell_arm(b, g, ticket)) rt_wake(g, ticket, RT_WOKEN); /* an open wait must end */
    rt_wait(RT_WAIT_OTHER, deadline_ns);
    return bell_take(b);
}

#endif
