/* Readiness of descriptors: the portable half of the poller.
 *
 * A pollDesc holds one registered descriptor. Each direction has one word, rg for reading, wg for writing:
 *
 *     NIL    no G waits, no event is kept
 *     READY  an event came and was not used yet
 *     WAIT   a G is about to wait; the word is the G's address + 1
 *     G      the G at this address waits
 *
 *     NIL --prepare--> WAIT --commit--> G --event, deadline, shut, kick--> NIL, and the G is readied
 *      ^                 |
 *      |                 +--event ...--> READY or NIL; the commit fails and the G runs on
 *     READY <--event-- NIL;  READY --prepare--> NIL: no wait
 *
 * Every move is a CAS. The thread that moves the word away from a G owns the G and readies it, once. An event that
 * finds no waiting G is kept as READY. So an edge that comes between a read that said EAGAIN and the wait is not lost.
 *
 * One G may wait for both directions at once. A connection does so that is blocked in writing and must go on reading.
 * The G stands in rg alone, with the bit PD_BOTH. wg says PD_BOTH, which means: the G to wake stands in rg. So rg alone
 * decides which thread readies the G, and the G is readied once:
 *
 *     rg  NIL --prepare--> WAIT+BOTH --commit--> G+BOTH --event--> READY, --the others--> NIL; G is readied
 *     wg  NIL --prepare--> BOTH --event--> READY, --the others--> NIL; the same thread then moves rg:
 *                                                                 WAIT+BOTH or G+BOTH --> NIL
 *
 * Both words keep a READY, whichever of them woke the G, until the G asks (answer_both): both directions may have
 * become ready by then. Invariants, which model/netpoll.pml checks:
 *
 *   - rg says WAIT+BOTH before wg says BOTH. A thread that finds BOTH in wg finds the G in rg, unless another thread
 *     took the G out.
 *   - READY is in wg before the G is taken out of rg. A G that was taken out because of wg finds the READY.
 *   - BOTH leaves wg when the G asks, at the latest. BOTH never stands in wg for a G that does not wait.
 *
 * A thread that moved wg may reach rg only when the G already waits anew for both. Then the thread takes the G out for
 * nothing, and the G answers 0. The thread never takes out a G that waits for reading alone, since that word lacks
 * PD_BOTH. All these steps are sequentially consistent. None can be weaker: each is a store before a load of another
 * word (shut, until, hup, cancel, rg or wg).
 *
 * Each direction has one waiting G at a time. A second one is a bug of the caller: fd.c and the host's sock.c queue
 * their Gs. WAIT contains the G's address. So a G that was turned back between prepare and commit finds that out even
 * if another G is about to wait by then (a connection that was taken from its handler, the host's hold.c).
 *
 * Deadlines are the pollDesc's two timers. `until` of a timer is the deadline itself, so moving a deadline later is a
 * store. When the timer fires, it takes the waiting G out if the deadline is still in the past. The G then looks at the
 * deadline and answers RT_ETIMEOUT. A deadline in the past ends every later wait the same way: at once, or when the
 * timer is taken from its heap. A wait that begins reads the clock only if the timer stands in no heap (missed). A
 * timer that is left over from a former use of the pollDesc finds `until` 0 or another time and does nothing. So no
 * sequence numbers are needed to kill old timers (Go's rseq, wseq).
 *
 * PollDescs come from a cache and are never given back, so an event or a timer always finds one. An event carries the
 * pointer and the low 16 bits of fdseq. fdseq grows at each close, so an event for an earlier use is dropped. A false
 * match needs 65,536 uses between epoll_wait and the handling of its event. It would be a spurious wake-up, which every
 * waiter survives: it tries, and waits again.
 *
 * hup: the peer has shut down its side (RDHUP). A short read means that a socket is drained and that the next edge will
 * tell of more. But an edge that told of data *and* end brings no second edge. So with hup set, readers read until 0
 * without waiting.
 *
 * `watcher` is a G that the end cancels although the G does not read. The G's id stands beside it (watcher_id), so a
 * late event does nothing to the G's next life. A G paired with the id of another G means: cancel nobody.
 *
 * An error without data or end (EPOLLERR alone: nobody is where a datagram went, what the error queue of a socket has)
 * is an event for both directions: who waits is woken, or READY is kept. The pollDesc does not note it, as Go's `everr`
 * does. The kernel keeps the error until somebody takes it (SO_ERROR), and every waiter calls the kernel again when it
 * wakes, so its read, write, recvfrom or connect brings the error in its own words, and takes it. A note beside it
 * would say that there was an error when another call has taken it, and would have to be taken back. Go has everr for
 * descriptors that can be registered and never become readable; ours are refused when they are registered (EPERM), or
 * are the user's, who asks the kernel by poll (host_sock_ready). Of a reader and a writer, the first one gets the
 * error, and the other the end that comes with it. Who waits without a call to follow is the watcher alone, and a reset
 * brings RDHUP, too.
 *
 * Source of the machine: Go's netpoll.go.
 */
#include "impl.h"

#include "trace.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What a word holds: PD_NIL, PD_READY, or a G's address with PD_WAIT (the G is about to wait) and PD_BOTH (for both
 * directions). wg may hold PD_BOTH alone: see above. */
enum { PD_NIL, PD_READY, PD_WAIT = 1, PD_BOTH = 2, PD_BITS = PD_WAIT | PD_BOTH };

struct rt_pd {
    _Atomic uintptr_t rg, wg; /* atomic; see above */
    _Atomic uint64_t fdseq;   /* atomic; grows at close */
    rt_timer rt, wt;          /* deadlines; set under lock */
    union {
        rt_p *p;     /* whose poller it is registered with */
        rt_pd *link; /* cache.lock: the next free pollDesc */
    };
    rt_lock lock; /* of rt_timer_set */
    int fd;
    _Atomic bool shut; /* atomic: waits answer RT_ECLOSED */
    bool system;       /* not counted as something the program waits for */
    _Atomic uint32_t
        hup; /* atomic: 1 + low bits of fdseq: in that use the peer will send no more */
    _Atomic(rt_g *)
        watcher; /* atomic: cancelled at hup if its id is watcher_id; the owner writes */
    _Atomic int64_t watcher_id;
};

static struct {
    rt_lock lock;
    rt_pd *free; /* lock */
} cache;

enum { PD_BLOCK = 32 };

static const poller_ops *ops = &epoll_ops; /* does not change once a poller is open */

static inline _Atomic uintptr_t *word_of(rt_pd *pd, int mode) {
    return mode == RT_R ? &pd->rg : &pd->wg;
}

static inline rt_timer *timer_of(rt_pd *pd, int mode) {
    return mode == RT_R ? &pd->rt : &pd->wt;
}

/* The G that the word names, NULL: none. */
static inline rt_g *g_of(uintptr_t word) {
    return (rt_g *)(word & ~(uintptr_t)PD_BITS);
}

/* The word names a G that waits: the thread that moves the word must ready the G. */
static inline bool is_parked(uintptr_t word) {
    return g_of(word) && !(word & PD_WAIT);
}

/* For a wg that said BOTH: takes the G that waits for both directions out of rg, or turns the G back before its commit.
 * Returns the G to ready, or NULL: the G did not wait. */
static rt_g *unblock_both(rt_pd *pd) {
    uintptr_t old = atomic_load(&pd->rg);
    while (g_of(old) && old & PD_BOTH)
        if (atomic_compare_exchange_weak(&pd->rg, &old, PD_NIL))
            return is_parked(old) ? g_of(old) : NULL;
    return NULL;
}

/* Takes the waiting G out of the word and returns the G, which the caller readies. NULL: no G waited; the word is
 * `leave` now (NIL or READY), unless it was READY already. */
static inline rt_g *unblock(rt_pd *pd, int mode, uintptr_t leave) {
    _Atomic uintptr_t *word = word_of(pd, mode);
    uintptr_t old = atomic_load(word);
    for (;;) {
        if (old == PD_READY) return NULL;
        if (old == PD_NIL && leave == PD_NIL) return NULL;
        /* A G that is taken out looks itself why. READY is left only if no G waited for this event, or if the G waits
         * for both directions and asks both words. */
        uintptr_t to = is_parked(old) && !(old & PD_BOTH) ? PD_NIL : leave;
        if (!atomic_compare_exchange_weak(word, &old, to)) continue;
        if (old == PD_BOTH) return unblock_both(pd);
        return is_parked(old) ? g_of(old) : NULL;
    }
}

static bool due(rt_timer *t) {
    int64_t until = atomic_load(&t->until);
    return until != 0 && until <= rt_nanotime();
}

/* Is t due? Asked by a G that stands in a word already. While t stands in a heap, the thread that takes t out finds the
 * G in the word: that thread stores index = 0, then reads the word (timer.c); the G stores the word, then reads index.
 * So the G reads the clock only if index is 0. */
static bool missed(rt_timer *t) {
    return atomic_load_explicit(&t->until, memory_order_relaxed) != 0 &&
           atomic_load(&t->index) == 0 && due(t);
}

static bool expired(rt_pd *pd, int mode) {
    return due(timer_of(pd, mode));
}

/* Ends g's wait for a descriptor, for g's own deadline or a cancellation: takes g out of the word where g waited last,
 * or turns g back before its commit. False: no word names g. Any thread. Does not wait. */
bool pd_leave(rt_g *g) {
    _Atomic uintptr_t *word = atomic_load(&g->word);
    if (!word) return false;
    uintptr_t old = atomic_load(word);
    while (g_of(old) == g) {
        if (!atomic_compare_exchange_weak(word, &old, PD_NIL)) continue;
        if (is_parked(old)) rt_ready(g);
        return true;
    }
    return false;
}

static void expire(rt_pd *pd, int mode) {
    if (!expired(pd, mode)) return;
    rt_g *g = unblock(pd, mode, PD_NIL);
    if (g) rt_ready(g);
}

static void expire_r(void *pd) {
    expire(pd, RT_R);
}

static void expire_w(void *pd) {
    expire(pd, RT_W);
}

/* ---- the cache ---- */

static rt_pd *take_pd(void) {
    rt_lock_acquire(&cache.lock);
    if (!cache.free) {
        rt_pd *pds = calloc(PD_BLOCK, sizeof *pds);
        if (!pds) {
            rt_lock_release(&cache.lock);
            return NULL;
        }
        for (int i = 0; i < PD_BLOCK; i++) {
            rt_timer_init(&pds[i].rt, expire_r, &pds[i]);
            rt_timer_init(&pds[i].wt, expire_w, &pds[i]);
            pds[i].link = cache.free;
            cache.free = &pds[i];
        }
    }
    rt_pd *pd = cache.free;
    cache.free = pd->link;
    rt_lock_release(&cache.lock);
    return pd;
}

static void give_pd(rt_pd *pd) {
    atomic_fetch_add(&pd->fdseq, 1);
    rt_lock_acquire(&cache.lock);
    pd->link = cache.free;
    cache.free = pd;
    rt_lock_release(&cache.lock);
}

/* User space ends below 2^47 on both architectures, which leaves 16 bits at least. */
static uint64_t tag_of(rt_pd *pd) {
    return (uint64_t)(uintptr_t)pd << 16 | (atomic_load(&pd->fdseq) & 0xffff);
}

/* ---- open and close ---- */

static rt_p *fewest_fds(void) {
    rt_p *best = &sched.ps[0];
    for (int32_t i = 1; i < sched.procs; i++)
        if (!atomic_load_explicit(&sched.ps[i].leaves, memory_order_relaxed) &&
            count_get(&sched.ps[i].n_fds) < count_get(&best->n_fds))
            best = &sched.ps[i];
    return best;
}

static rt_pd *open_on(rt_p *p, int fd, bool exclusive, bool system, int *err) {
    rt_pd *pd = take_pd();
    if (!pd) {
        *err = -ENOMEM;
        return NULL;
    }
    pd->fd = fd;
    pd->p = p;
    pd->system = system;
    atomic_store(&pd->rg, PD_NIL);
    atomic_store(&pd->wg, PD_NIL);
    atomic_store(&pd->shut, false);
    atomic_store(&pd->hup, 0);
    rt_pd_set_deadline(pd, RT_R, 0);
    rt_pd_set_deadline(pd, RT_W, 0);
    rt_pd_watch(pd, NULL);
    /* Counted first, so that an M that goes idle now does not take the poller for an empty one. */
    atomic_fetch_add(&p->n_fds, 1);
    if (!system) atomic_fetch_add(&sched.n_fds, 1);
    *err = ops->add(p->poller, fd, tag_of(pd), exclusive);
    if (*err) {
        atomic_fetch_sub(&p->n_fds, 1);
        if (!system) atomic_fetch_sub(&sched.n_fds, 1);
        give_pd(pd);
        return NULL;
    }
    p_attend(p);
    return pd;
}

rt_pd *rt_pd_open(int fd, int *err) {
    return open_on(fewest_fds(), fd, false, false, err);
}

rt_pd *rt_pd_open_listener(int fd, int p, int *err) {
    return open_on(&sched.ps[p], fd, true, false, err);
}

rt_pd *pd_open_system(int fd, int *err) {
    return open_on(&sched.ps[0], fd, false, true, err);
}

void rt_pd_shut(rt_pd *pd) {
    atomic_store(&pd->shut, true);
    rt_g *g = unblock(pd, RT_R, PD_NIL);
    if (g) rt_ready(g);
    g = unblock(pd, RT_W, PD_NIL);
    if (g) rt_ready(g);
}

void rt_pd_close(rt_pd *pd) {
    if (is_parked(atomic_load(&pd->rg)) || is_parked(atomic_load(&pd->wg)))
        rt_throw("descriptor %d is closed while a G waits for it", pd->fd);
    rt_pd_set_deadline(pd, RT_R, 0);
    rt_pd_set_deadline(pd, RT_W, 0);
    /* Fails (EBADF, ENOENT) if the caller closed the descriptor too early. Then the kernel has forgotten the
     * descriptor. If a duplicate lives on, the kernel goes on telling of it, under a tag that give_pd makes stale:
     * netpoll_event drops these events. Either way the pollDesc is free. */
    (void)ops->del(pd->p->poller, pd->fd);
    atomic_fetch_sub(&pd->p->n_fds, 1);
    if (!pd->system) atomic_fetch_sub(&sched.n_fds, 1);
    give_pd(pd);
}

bool rt_is_poll_descriptor(int fd) {
    for (int32_t i = 0; i < sched.procs; i++)
        if (ops->owns(sched.ps[i].poller, fd)) return true;
    return false;
}

void rt_pd_watch(rt_pd *pd, rt_g *g) {
    if (!g) {
        atomic_store(&pd->watcher, NULL);
        return;
    }
    atomic_store_explicit(&pd->watcher_id, rt_id(g), memory_order_relaxed);
    atomic_store(&pd->watcher, g);
}

/* pd->hup says so already. Either this load finds the watcher, or the owner that sets the watcher finds hup set. */
static void cancel_watcher(rt_pd *pd, uint64_t tag) {
    rt_g *g = atomic_load(&pd->watcher);
    int64_t id = atomic_load(&pd->watcher_id);
    if (g && (atomic_load(&pd->fdseq) & 0xffff) == (tag & 0xffff)) rt_cancel(g, id);
}

void rt_pd_forget_hup(rt_pd *pd) {
    atomic_store(&pd->hup, 0);
}

bool rt_pd_hup(rt_pd *pd) {
    return atomic_load(&pd->hup) ==
           (atomic_load_explicit(&pd->fdseq, memory_order_relaxed) & 0xffff) + 1;
}

/* ---- deadlines ---- */

void rt_pd_set_deadline(rt_pd *pd, int mode, int64_t when_ns) {
    rt_timer *t = timer_of(pd, mode);
    /* Most calls clear a clear deadline or move a deadline later. Neither needs the lock. */
    if (when_ns == 0 && atomic_load_explicit(&t->until, memory_order_relaxed) == 0) return;
    if (timer_move_later(t, when_ns)) return;
    rt_lock_acquire(&pd->lock);
    rt_timer_set(t, when_ns);
    rt_lock_release(&pd->lock);
}

/* ---- waiting ---- */

/* Uses up a READY. Loads before the CAS, since a CAS that fails costs as much as one that succeeds. */
static bool take_ready(_Atomic uintptr_t *word) {
    uintptr_t ready = PD_READY;
    return atomic_load(word) == PD_READY && atomic_compare_exchange_strong(word, &ready, PD_NIL);
}

/* The answer of a wait for both directions; the caller stands in rg no more. An error leaves READY in the words. */
static int answer_both(rt_pd *pd) {
    uintptr_t both = PD_BOTH;
    if (atomic_load(&pd->wg) == PD_BOTH) atomic_compare_exchange_strong(&pd->wg, &both, PD_NIL);
    if (atomic_load(&pd->shut)) return RT_ECLOSED;
    if (expired(pd, RT_R) || expired(pd, RT_W)) return RT_ETIMEOUT;
    int ready = 0;
    if (take_ready(&pd->rg) || rt_pd_hup(pd)) ready |= RT_READABLE;
    if (take_ready(&pd->wg)) ready |= RT_WRITABLE;
    return ready;
}

int rt_pd_check(rt_pd *pd, int mode) {
    if (mode == RT_RW) return answer_both(pd);
    if (atomic_load(&pd->shut)) return RT_ECLOSED;
    if (__builtin_expect(!expired(pd, mode), 1)) return 0;
    /* An event may have ended the same wait, and will not come again: the next wait tries first. */
    uintptr_t none = PD_NIL;
    atomic_compare_exchange_strong(word_of(pd, mode), &none, PD_READY);
    return RT_ETIMEOUT;
}

static bool commit_pd(rt_g *g, void *word) {
    uintptr_t wait = (uintptr_t)g + PD_WAIT;
    return atomic_compare_exchange_strong((_Atomic uintptr_t *)word, &wait, (uintptr_t)g);
}

static bool commit_both(rt_g *g, void *word) {
    uintptr_t wait = (uintptr_t)g + PD_BOTH + PD_WAIT;
    return atomic_compare_exchange_strong((_Atomic uintptr_t *)word, &wait, (uintptr_t)g + PD_BOTH);
}

/* Puts `who` into the word. False: the word is READY, an event came just now. */
static bool stand(rt_pd *pd, int mode, uintptr_t who) {
    uintptr_t old = PD_NIL;
    if (atomic_compare_exchange_strong(word_of(pd, mode), &old, who)) return true;
    if (old != PD_READY) rt_throw("two Gs wait for descriptor %d (%c)", pd->fd, mode);
    return false;
}

/* rg before wg, see the essay. Then a second look: a shut, a deadline, a hup or a cancellation before both words were
 * set has found no G. */
static int prepare_both(rt_pd *pd, rt_reason reason, rt_g *g) {
    int r = answer_both(pd);
    if (r) return r;
    uintptr_t wait = (uintptr_t)g + PD_BOTH + PD_WAIT;
    atomic_store(&g->word, &pd->rg);
    if (stand(pd, RT_R, wait) && stand(pd, RT_W, PD_BOTH) && !atomic_load(&pd->shut) &&
        !expired(pd, RT_R) && !expired(pd, RT_W) && !rt_pd_hup(pd) && !due(&g->timer) &&
        !rt_canceled(g)) {
        rt_set_park(g, commit_both, &pd->rg, reason);
        return RT_PARKED;
    }
    /* Fails if another thread has turned g back. An event that did so stays as READY. */
    atomic_compare_exchange_strong(&pd->rg, &wait, PD_NIL);
    r = answer_both(pd);
    if (r) return r;
    if (due(&g->timer)) return RT_ETIMEOUT;
    return rt_canceled(g) ? RT_ECANCELED : 0;
}

int rt_pd_prepare(rt_pd *pd, int mode, rt_reason reason, rt_g *g) {
    if (mode == RT_RW) return prepare_both(pd, reason, g);
    _Atomic uintptr_t *word = word_of(pd, mode);
    /* Mostly the word is NIL, and the look that follows WAIT is the only one. */
    if (atomic_load(word) == PD_READY || (mode == RT_R && rt_pd_hup(pd))) {
        int err = rt_pd_check(pd, mode);
        if (err || (mode == RT_R && rt_pd_hup(pd))) return err;
        if (take_ready(word)) return 0;
    }
    /* Mostly g waits where it waited last. */
    if (atomic_load_explicit(&g->word, memory_order_relaxed) != word) atomic_store(&g->word, word);
    uintptr_t old = PD_NIL;
    if (!atomic_compare_exchange_strong(word, &old, (uintptr_t)g + PD_WAIT)) {
        if (old == PD_READY) { /* the event came just now */
            atomic_store(word, PD_NIL);
            return 0;
        }
        rt_throw("two Gs wait for descriptor %d (%c)", pd->fd, mode);
    }
    /* A second look: a shut, a deadline or a hup before WAIT stood in the word has found no G. */
    int err = 0;
    if (atomic_load(&pd->shut))
        err = RT_ECLOSED;
    else if (missed(timer_of(pd, mode)) || missed(&g->timer))
        err = RT_ETIMEOUT;
    if (!err && rt_canceled(g)) { /* a second look for a cancellation, see wait.c */
        uintptr_t wait = (uintptr_t)g + PD_WAIT;
        /* Fails if an event came in between. The event stays as READY. */
        atomic_compare_exchange_strong(word, &wait, PD_NIL);
        return RT_ECANCELED;
    }
    if (err || (mode == RT_R && rt_pd_hup(pd))) {
        atomic_exchange(word, err ? PD_READY : PD_NIL); /* an event in between is kept */
        return err;
    }
    rt_set_park(g, commit_pd, word, reason);
    return RT_PARKED;
}

int rt_pd_wait(rt_pd *pd, int mode, rt_reason reason) {
    rt_g *g = rt_self();
    int r = rt_pd_prepare(pd, mode, reason, g);
    if (r != RT_PARKED) return r;
    g_leave(g, RT_PARK);
    if (mode == RT_RW) return answer_both(pd);
    /* The commit may have failed because an event moved the word from WAIT to READY: uses this READY up. */
    take_ready(word_of(pd, mode));
    return rt_pd_check(pd, mode);
}

void rt_pd_kick(rt_pd *pd, int mode) {
    rt_g *g = unblock(pd, mode, PD_READY);
    if (g) rt_ready(g);
}

/* ---- polling ---- */

/* Takes the waiting G out of the word, makes it runnable and adds it to l. The polling M queues l when it has a P
 * again. */
static void event_ready(rt_pd *pd, int mode, g_list *l) {
    rt_g *g = unblock(pd, mode, PD_READY);
    if (!g) return;
    g_set_status(g, G_WAITING, G_RUNNABLE);
    g_list_push(l, g);
}

void netpoll_event(uint64_t tag, bool r, bool w, bool hup, bool err, g_list *l) {
    rt_pd *pd = (rt_pd *)(uintptr_t)(tag >> 16);
    uint32_t known = atomic_load(&pd->hup);
    if ((atomic_load(&pd->fdseq) & 0xffff) != (tag & 0xffff)) return;
    /* If the pollDesc has a new use by now, the stored tag does not match that use. The CAS fails if the new use has an
     * end of its own. */
    if (hup) atomic_compare_exchange_strong(&pd->hup, &known, (uint32_t)(tag & 0xffff) + 1);
    if (r || hup || err) event_ready(pd, RT_R, l);
    if (w || err) event_ready(pd, RT_W, l);
    if (hup) cancel_watcher(pd, tag);
}

void netpoll_choose(const poller_ops *table) {
    ops = table;
}

rt_poller *netpoll_new(void) {
    return ops->open();
}

void netpoll_break(rt_poller *po) {
    ops->wake(po);
}

int netpoll_p(rt_p *p, int64_t delay_ns, g_list *l) {
    int32_t before = l->n;
    int64_t start_ns = TRACE_ON() ? rt_nanotime() : 0;
    int n = ops->poll(p->poller, delay_ns, l);
    if (start_ns && TRACE_ON()) trace_poll(p, start_ns, l->n - before);
    atomic_fetch_add_explicit(&p->n_polls, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&p->n_poll_events, l->n - before, memory_order_relaxed);
    return n;
}
