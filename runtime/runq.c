/* Run queues: a ring per P and one global list.
 *
 * A P's ring holds up to 256 Gs. Its owner adds at the tail; the owner and thieves take at the head.
 * Head and tail only grow, the ring's index is their value modulo the size, and tail - head is how
 * many it holds.
 *
 *   tail  written by the owner alone. The release store publishes the slot before it; thieves load
 *         it with acquire, so a slot below the tail they saw is one they may read.
 *   head  moved by CAS, so each index is taken by exactly one. A thief copies the slots first and
 *         then claims them; had the owner reused a slot meanwhile, head would have moved beyond it
 *         and the CAS fails. The CAS is a release, and the owner loads head with acquire before it
 *         overwrites a slot, so the copy is over by then.
 *
 * When the ring is full, its older half goes to the global list, at the price of one lock for 128
 * Gs. A thief takes half of what it finds, so work spreads in log n steps.
 *
 * runnext holds one G that a running native G readied. This G runs next, so two Gs that hand work to
 * each other find the work in the cache. The two run in one slice: slicetick does not move, so after
 * 10 ms sysmon says yield_now, and the pair goes behind the ring once. The slot moves by exchange or
 * CAS. A thief takes runnext only when there is nothing else, and after a pause: mostly the owner is
 * about to take it.
 *
 * Source: Go's proc.go (runqput, runqgrab); D. Chase, Y. Lev, "Dynamic circular work-stealing
 * deque", from which it differs by taking at the head on both sides, which keeps Gs in order.
 */
#include "impl.h"

/* A G may move from runnext to the ring between the look at the one and the look at the other. Then the tail has moved
 * as well, so an answer counts only if the tail has not. */
bool runq_empty(rt_p *p) {
    for (;;) {
        uint32_t head = atomic_load_explicit(&p->runq_head, memory_order_acquire);
        uint32_t tail = atomic_load_explicit(&p->runq_tail, memory_order_acquire);
        rt_g *next = atomic_load_explicit(&p->runnext, memory_order_acquire);
        if (tail == atomic_load_explicit(&p->runq_tail, memory_order_acquire))
            return head == tail && !next;
    }
}

static inline rt_g *slot_get(rt_p *p, uint32_t i) {
    return atomic_load_explicit(&p->runq[i % RUNQ_SIZE], memory_order_relaxed);
}

static inline void slot_set(rt_p *p, uint32_t i, rt_g *g) {
    atomic_store_explicit(&p->runq[i % RUNQ_SIZE], g, memory_order_relaxed);
}

/* Moves the older half of the full ring, and g, to the global list. False: thieves were faster. */
static bool put_slow(rt_p *p, rt_g *g, uint32_t head) {
    rt_g *batch[RUNQ_SIZE / 2];
    for (uint32_t i = 0; i < RUNQ_SIZE / 2; i++)
        batch[i] = slot_get(p, head + i);
    if (!atomic_compare_exchange_strong_explicit(&p->runq_head, &head, head + RUNQ_SIZE / 2,
                                                 memory_order_release, memory_order_relaxed))
        return false;
    g_list l = {0};
    for (uint32_t i = 0; i < RUNQ_SIZE / 2; i++)
        g_list_push(&l, batch[i]);
    g_list_push(&l, g);
    rt_lock_acquire(&sched.lock);
    global_put(&l);
    rt_lock_release(&sched.lock);
    return true;
}

/* Owner of p only. */
void runq_put(rt_p *p, rt_g *g) {
    for (;;) {
        uint32_t head = atomic_load_explicit(&p->runq_head, memory_order_acquire);
        uint32_t tail = atomic_load_explicit(&p->runq_tail, memory_order_relaxed);
        if (tail - head < RUNQ_SIZE) {
            slot_set(p, tail, g);
            atomic_store_explicit(&p->runq_tail, tail + 1, memory_order_release);
            return;
        }
        if (put_slow(p, g, head)) return;
    }
}

/* Owner of p only. g runs next; the G that was to run next goes to the ring. */
void runq_put_next(rt_p *p, rt_g *g) {
    rt_g *old = atomic_exchange_explicit(&p->runnext, g, memory_order_acq_rel);
    if (old) runq_put(p, old);
}

static void new_slice(rt_p *p) {
    atomic_store_explicit(&p->slicetick,
                          atomic_load_explicit(&p->slicetick, memory_order_relaxed) + 1,
                          memory_order_relaxed);
}

/* Takes the G in runnext, unless its slice is over: then the G goes to the ring. */
static rt_g *get_next(rt_p *p) {
    if (!atomic_load_explicit(&p->runnext, memory_order_relaxed)) return NULL;
    rt_g *g = atomic_exchange_explicit(&p->runnext, NULL, memory_order_acq_rel);
    if (!g || !atomic_load_explicit(&p->yield_now, memory_order_relaxed)) return g;
    atomic_store_explicit(&p->yield_now, false, memory_order_relaxed);
    runq_put(p, g);
    return NULL;
}

/* Owner of p only. */
rt_g *runq_get(rt_p *p) {
    rt_g *next = get_next(p);
    if (next) return next;
    new_slice(p);
    uint32_t head = atomic_load_explicit(&p->runq_head, memory_order_acquire);
    for (;;) {
        uint32_t tail = atomic_load_explicit(&p->runq_tail, memory_order_relaxed);
        if (head == tail) return NULL;
        rt_g *g = slot_get(p, head);
        if (atomic_compare_exchange_weak_explicit(&p->runq_head, &head, head + 1,
                                                  memory_order_release, memory_order_acquire))
            return g;
    }
}

/* Takes victim's runnext, if its owner has not taken it after a few microseconds. */
static rt_g *steal_next(rt_p *victim) {
    if (!atomic_load_explicit(&victim->runnext, memory_order_relaxed)) return NULL;
    nanosleep(&(struct timespec){0, 3000}, NULL);
    return atomic_exchange_explicit(&victim->runnext, NULL, memory_order_acq_rel);
}

/* Takes half of victim's ring into p's, which is empty and the caller's. Returns one of these Gs; NULL: none. next_too:
 * takes the G in runnext if the ring has none. */
rt_g *runq_steal(rt_p *p, rt_p *victim, bool next_too) {
    uint32_t tail = atomic_load_explicit(&p->runq_tail, memory_order_relaxed);
    uint32_t n;
    uint32_t head = atomic_load_explicit(&victim->runq_head, memory_order_acquire);
    for (;;) {
        uint32_t vtail = atomic_load_explicit(&victim->runq_tail, memory_order_acquire);
        n = vtail - head;
        n -= n / 2;
        if (n == 0) {
            rt_g *next = next_too ? steal_next(victim) : NULL;
            if (next) count_add(&p->n_steals, 1);
            return next;
        }
        if (n > RUNQ_SIZE / 2) { /* head and tail belong to different moments */
            head = atomic_load_explicit(&victim->runq_head, memory_order_acquire);
            continue;
        }
        for (uint32_t i = 0; i < n; i++)
            slot_set(p, tail + i, slot_get(victim, head + i));
        if (atomic_compare_exchange_weak_explicit(&victim->runq_head, &head, head + n,
                                                  memory_order_acq_rel, memory_order_acquire))
            break;
    }
    count_add(&p->n_steals, 1);
    n--;
    rt_g *g = slot_get(p, tail + n);
    if (n > 0) atomic_store_explicit(&p->runq_tail, tail + n, memory_order_release);
    return g;
}

/* sched.lock held. Empties l. */
void global_put(g_list *l) {
    if (!l->head) return;
    if (sched.runq.tail)
        sched.runq.tail->schedlink = l->head;
    else
        sched.runq.head = l->head;
    sched.runq.tail = l->tail;
    sched.runq.n += l->n;
    atomic_store(&sched.n_runq, sched.runq.n);
    *l = (g_list){0};
}

/* sched.lock held. Takes a fair share, at most max if max > 0. Returns one of these Gs, the others go to p's ring. */
rt_g *global_get(rt_p *p, int32_t max) {
    if (sched.runq.n == 0) return NULL;
    int32_t n = sched.runq.n / sched.procs + 1;
    if (n > sched.runq.n) n = sched.runq.n;
    if (max > 0 && n > max) n = max;
    if (n > RUNQ_SIZE / 2) n = RUNQ_SIZE / 2;
    rt_g *g = g_list_pop(&sched.runq);
    for (int32_t i = 1; i < n; i++) {
        uint32_t head = atomic_load_explicit(&p->runq_head, memory_order_acquire);
        uint32_t tail = atomic_load_explicit(&p->runq_tail, memory_order_relaxed);
        if (tail - head >= RUNQ_SIZE) break; /* full: put_slow would take the lock again */
        runq_put(p, g_list_pop(&sched.runq));
    }
    atomic_store(&sched.n_runq, sched.runq.n);
    return g;
}
