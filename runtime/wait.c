/* Waits that several may end: one wait, many wakers, one winner.
 *
 * A sleeper is woken by its timer or by a cancellation, a joiner by the end of what it joins or by its deadline, and
 * these wakers race. So each wait has a ticket, a number never used again. The G's `wait` word holds the ticket of its
 * latest wait and the phase of this wait:
 *
 *     CLOSED --rt_wait_open--> OPEN --commit--> PARKED --rt_wake--> CLOSED + code, and rt_ready
 *                                |
 *                                +----rt_wake----> CLOSED + code; the commit refuses to park
 *
 * Every step is a CAS on the whole word. So a waker with an old ticket changes nothing, and exactly one waker of a
 * ticket wins. Only the waker that moved PARKED to CLOSED calls rt_ready: a G is readied once per park. A wake-up
 * before the park is kept in the word. Gs are never given back to the system, so a ticket may outlive its G. A G's next
 * life goes on counting where the last one stopped.
 *
 * Orders: the waker's CAS is a release, and the code is read with acquire. So the G sees after the wait what the waker
 * wrote before.
 *
 * The deadline is the G's one timer. It is set when a wait has a deadline, and stays in its heap when the wait ends
 * otherwise: stopping a timer is a store (timer.c). So wait_deadline reads the word, then asks the timer whether its
 * time has come, then tries to close the wait of the word that it read. If the G went on to another wait in between,
 * the CAS fails.
 *
 * A cancellation lasts: it ends the present wait and every later one. The G's `cancel` holds the id of the life that is
 * cancelled. Ids are never used again, so a late cancellation does nothing to the next life. A wait looks at `cancel`
 * when it begins, after the word says that the G waits. So one of the two sides sees the other:
 *
 *     rt_cancel:   cancel = id;        then read the word and try to close what it says
 *     commit_wait: OPEN -> PARKED;     then read cancel, and if it is this life's id, close the wait
 *
 * If both sides do, the CAS decides which one readies the G. A wait for a descriptor begins with WAIT in the pollDesc's
 * word and looks in the same order (rt_pd_prepare). Only waits look at `cancel`. A call that finds its data, its room
 * or its client goes on, so a canceled G can still tidy up, and a G is never ended between two waits. A wait that must
 * not be cut short uses rt_park, which neither an interrupt nor a cancellation ends (fdmutex_drain, so that no close
 * returns with users left).
 *
 * Rejected: a lock per wait object; a "sudog" allocated per wait (Go needs it for select; a ticket can be left in many
 * queues at once without memory of its own).
 */
#include "impl.h"

enum { PHASE_CLOSED, PHASE_OPEN, PHASE_PARKED, PHASE_MASK = 3, CODE_SHIFT = 2, TICKET_SHIFT = 8 };

static inline uint64_t word_of(uint64_t ticket, unsigned phase, unsigned code) {
    return ticket << TICKET_SHIFT | code << CODE_SHIFT | phase;
}

uint64_t rt_wait_open(rt_g *g) {
    uint64_t w = atomic_load_explicit(&g->wait, memory_order_relaxed);
    if ((w & PHASE_MASK) != PHASE_CLOSED) rt_throw("G %lld: two waits at once", (long long)g->id);
    uint64_t ticket = (w >> TICKET_SHIFT) + 1;
    atomic_store_explicit(&g->wait, word_of(ticket, PHASE_OPEN, 0), memory_order_release);
    return ticket;
}

/* Tries to close the wait whose word was `w`, with `code`, and readies g if it was parked. False: the wait has
 * ended. */
static bool close_wait(rt_g *g, uint64_t w, rt_wake_code code) {
    while ((w & PHASE_MASK) != PHASE_CLOSED) {
        uint64_t ticket = w >> TICKET_SHIFT;
        unsigned phase = w & PHASE_MASK;
        if (atomic_compare_exchange_strong_explicit(&g->wait, &w,
                                                    word_of(ticket, PHASE_CLOSED, code),
                                                    memory_order_acq_rel, memory_order_acquire)) {
            if (phase == PHASE_PARKED) rt_ready(g);
            return true;
        }
        if (w >> TICKET_SHIFT != ticket) return false;
    }
    return false;
}

bool rt_wake(rt_g *g, uint64_t ticket, rt_wake_code code) {
    uint64_t w = atomic_load_explicit(&g->wait, memory_order_acquire);
    return w >> TICKET_SHIFT == ticket && close_wait(g, w, code);
}

bool rt_interrupt(rt_g *g, rt_wake_code code) {
    return close_wait(g, atomic_load(&g->wait), code) || pd_leave(g);
}

bool rt_cancel(rt_g *g, int64_t id) {
    int64_t was = atomic_load(&g->cancel);
    do {
        if (was >= id) break; /* g is cancelled already, or lives anew */
    } while (!atomic_compare_exchange_weak(&g->cancel, &was, id));
    uint64_t w = atomic_load(&g->wait);
    /* After the word was read: if g lives anew by now, either the word that was read is not that of g's next wait, or
     * the id differs. At worst a wait for a descriptor ends without a reason and is begun again. */
    if (atomic_load(&g->id) != id) return false;
    return close_wait(g, w, RT_CANCELED) || pd_leave(g);
}

bool rt_canceled(const rt_g *g) {
    int64_t id = atomic_load_explicit(&g->cancel, memory_order_acquire);
    return __builtin_expect(id != 0, 0) && id == rt_id(g);
}

void rt_clear_cancel(rt_g *g) {
    if (atomic_load_explicit(&g->cancel, memory_order_relaxed)) atomic_store(&g->cancel, 0);
}

void wait_deadline(void *arg) {
    rt_g *g = arg;
    uint64_t w = atomic_load_explicit(&g->wait, memory_order_acquire);
    int64_t until = atomic_load_explicit(&g->timer.until, memory_order_acquire);
    if (until != 0 && until <= rt_nanotime() && !close_wait(g, w, RT_TIMEOUT)) pd_leave(g);
}

void rt_set_deadline(rt_g *g, int64_t deadline_ns) {
    if (deadline_ns || atomic_load_explicit(&g->timer.until, memory_order_relaxed))
        rt_timer_set(&g->timer, deadline_ns);
}

static bool commit_wait(rt_g *g, void *arg) {
    (void)arg;
    uint64_t w = atomic_load_explicit(&g->wait, memory_order_relaxed);
    uint64_t ticket = w >> TICKET_SHIFT, parked = word_of(ticket, PHASE_PARKED, 0);
    int64_t id = rt_id(g);
    if ((w & PHASE_MASK) != PHASE_OPEN || !atomic_compare_exchange_strong(&g->wait, &w, parked))
        return false;
    /* g may run from here on, and even live anew: only the thread that moves the word on owns g. */
    int64_t cancel = atomic_load(&g->cancel);
    return __builtin_expect(cancel == 0, 1) || cancel != id ||
           !atomic_compare_exchange_strong(&g->wait, &parked,
                                           word_of(ticket, PHASE_CLOSED, RT_CANCELED));
}

void rt_set_wait(rt_g *g, rt_reason reason, int64_t deadline_ns) {
    rt_set_deadline(g, deadline_ns);
    rt_set_park(g, commit_wait, NULL, reason);
}

static bool commit_wait_start(rt_g *g, void *arg) {
    rt_g *first = arg;
    g_set_status(first, G_IDLE, G_RUNNABLE);
    g_enqueue_here(first);
    return commit_wait(g, NULL);
}

void rt_set_wait_start(rt_g *g, rt_g *first, rt_reason reason, int64_t deadline_ns) {
    rt_set_deadline(g, deadline_ns);
    rt_set_park(g, first ? commit_wait_start : commit_wait, first, reason);
}

bool rt_wake_last(rt_g *g, uint64_t ticket, rt_wake_code code) {
    rt_m *m = rt_getm();
    m->leaving = true;
    bool woken = rt_wake(g, ticket, code);
    m->leaving = false;
    return woken;
}

rt_wake_code rt_wait_code(rt_g *g) {
    uint64_t w = atomic_load_explicit(&g->wait, memory_order_acquire);
    if ((w & PHASE_MASK) != PHASE_CLOSED) rt_throw("G %lld runs in its wait", (long long)g->id);
    rt_set_deadline(g, 0);
    return (rt_wake_code)(w >> CODE_SHIFT & 7);
}

rt_wake_code rt_wait(rt_reason reason, int64_t deadline_ns) {
    rt_g *g = rt_self();
    rt_set_wait(g, reason, deadline_ns);
    g_leave(g, RT_PARK);
    return rt_wait_code(g);
}

int rt_sleep(int64_t delay_ns) {
    if (delay_ns <= 0) {
        rt_yield();
        return rt_canceled(rt_self()) ? RT_ECANCELED : 0;
    }
    rt_wait_open(rt_self());
    return rt_wait(RT_WAIT_SLEEP, rt_nanotime() + delay_ns) == RT_CANCELED ? RT_ECANCELED : 0;
}
