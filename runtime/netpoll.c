/* Readiness of descriptors: the portable half of the poller.
 *
 * A pollDesc holds one registered descriptor and, per direction, one word (rg for reading, wg for
 * writing):
 *
 *     NIL    nobody waits, nothing is known
 *     READY  an event came and was not used yet
 *     WAIT   a G is about to wait; the word says which: its address + 1
 *     G      that G waits
 *
 *     NIL --prepare--> WAIT --commit--> G --event, deadline, shut, kick--> NIL, and the G is readied
 *      ^                 |
 *      |                 +--event ...--> READY or NIL; the commit fails and the G runs on
 *     READY <--event-- NIL;  READY --prepare--> NIL: no wait
 *
 * All moves are CAS. Whoever moves the word away from a G owns that G and readies it, once. An event
 * that nobody waits for is kept as READY, so an edge that comes between a read that said EAGAIN and
 * the wait is not lost.
 *
 * One G may wait for both directions at once, as a connection does that is blocked in writing and must go
 * on reading. It stands in rg alone, with the bit PD_BOTH, and wg says PD_BOTH: "who waits for me as well
 * stands in rg". So rg still decides alone who readies the G, and once:
 *
 *     rg  NIL --prepare--> WAIT+BOTH --commit--> G+BOTH --event--> READY, --the others--> NIL; G is readied
 *     wg  NIL --prepare--> BOTH --event--> READY, --the others--> NIL; then whoever moved it moves rg
 *                                                                 WAIT+BOTH or G+BOTH --> NIL
 *
 * What came stays in the words as READY, whoever woke the G, until it asks (answer_both): both directions may
 * have become ready by then. Invariants, which model/netpoll.pml checks:
 *
 *   - rg says WAIT+BOTH before wg says BOTH: who finds BOTH in wg finds the G in rg, or somebody took it out;
 *   - READY is in wg before the G is taken out of rg: a G that was taken out because of wg finds that;
 *   - BOTH leaves wg at the latest when the G asks, so it never stands there for a G that does not wait.
 *
 * Somebody that moved wg may come to rg when the G waits anew, again for both; it takes the G out then for
 * nothing, and the G answers 0. It never takes out one that waits for reading alone, which has no PD_BOTH.
 * All these are sequentially consistent; none could be less, since each is a store before a load of
 * something else (shut, until, hup, cancel, the other word).
 *
 * One reader and one writer at a time: a second is a bug of the caller, which keeps queues (fd.c,
 * sock.c of the host). WAIT is another word for each G, so that a G which was turned back between its
 * prepare and its commit finds that out even if another is about to wait by then (a connection that
 * was taken from its handler, hold.c of the host).
 *
 * Deadlines are the pollDesc's two timers, and `until` of a timer is the deadline itself: moving it
 * later is a store. When it fires it takes the waiting G out, if the deadline still is in the past;
 * the G looks at the deadline itself and answers RT_ETIMEOUT. A deadline in the past makes every
 * wait answer so, at once or when its timer, which is still in a heap, is looked at: a wait that begins reads the
 * clock only if the timer has been taken out (missed). A timer left over from a former use of the pollDesc finds `until` 0 or
 * another time and does nothing, so no sequence numbers are needed to kill it (Go's rseq, wseq).
 *
 * PollDescs come from a cache and are never given back, so an event or a timer always finds one. An
 * event carries the pointer and the low 16 bits of fdseq, which grows at each close: an event for an
 * earlier use is dropped. A false match after 65,536 uses between epoll_wait and its handling would
 * be a spurious wake-up, which every waiter survives: it tries, and waits again.
 *
 * hup: the peer has shut down its side (RDHUP). After a short read a socket is known to be drained
 * and the next edge will tell, but an edge that already told of data *and* end brings no second one;
 * so with hup set, readers read until 0 without waiting. Somebody else may be meant by the end, too:
 * `watcher` is the G that it cancels. It is named with the id of its life, so an event that comes late
 * does nothing to the next life; a pair of one G and the id of another means nobody.
 *
 * Source of the machine: Go's netpoll.go.
 */
#include "impl.h"

#include "trace.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Or a G, with PD_WAIT: it is about to wait, with PD_BOTH: for both directions. PD_BOTH alone: see above. */
enum { PD_NIL, PD_READY, PD_WAIT = 1, PD_BOTH = 2, PD_BITS = PD_WAIT | PD_BOTH };

struct rt_pd {
    _Atomic uintptr_t rg, wg; /* atomic; see above */
    _Atomic uint64_t fdseq;   /* atomic; grows at close */
    rt_timer rt, wt;          /* deadlines; set under lock */
    union {
        rt_p *p;     /* whose poller it is registered with */
        rt_pd *link; /* cache_lock: next free one */
    };
    rt_lock lock; /* of rt_timer_set */
    int fd;
    _Atomic bool shut; /* atomic: waits answer RT_ECLOSED */
    bool system;       /* not counted as something the program waits for */
    _Atomic uint32_t
        hup; /* atomic: 1 + low bits of fdseq: in that use the peer will send no more */
    _Atomic(rt_g *) watcher; /* atomic: cancelled at hup, if it has the id; who has the fd writes */
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

/* It waits, whoever moves the word has to ready it. */
static inline bool is_parked(uintptr_t word) {
    return g_of(word) && !(word & PD_WAIT);
}

/* wg said BOTH: takes the G that waits for both out of rg, or turns it back from there. NULL: none waited. */
static rt_g *unblock_both(rt_pd *pd) {
    uintptr_t old = atomic_load(&pd->rg);
    while (g_of(old) && old & PD_BOTH)
        if (atomic_compare_exchange_weak(&pd->rg, &old, PD_NIL))
            return is_parked(old) ? g_of(old) : NULL;
    return NULL;
}

/* Takes the waiting G out of the word, or leaves `leave` (NIL or READY) there. NULL: none waited. */
static inline rt_g *unblock(rt_pd *pd, int mode, uintptr_t leave) {
    _Atomic uintptr_t *word = word_of(pd, mode);
    uintptr_t old = atomic_load(word);
    for (;;) {
        if (old == PD_READY) return NULL;
        if (old == PD_NIL && leave == PD_NIL) return NULL;
        /* A G that is taken out sees why by itself; only an event nobody waited for is kept, or one that
         * might have come for the other direction. */
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

/* due, asked by a G that stands in a word already. While the timer stands in a heap, whoever takes it out finds the G
 * there: index = 0, then the word (timer.c); the word, then index here. So only then has the clock to be read. */
static bool missed(rt_timer *t) {
    return atomic_load_explicit(&t->until, memory_order_relaxed) != 0 &&
           atomic_load(&t->index) == 0 && due(t);
}

static bool expired(rt_pd *pd, int mode) {
    return due(timer_of(pd, mode));
}

/* A G's own deadline, or a cancellation: takes g out of the word where it waited at last, or turns
 * it back from there. It may not stand there any more. */
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

/* User space ends below 2^47 on both architectures we know, which leaves 16 bits and more. */
static uint64_t tag_of(rt_pd *pd) {
    return (uint64_t)(uintptr_t)pd << 16 | (atomic_load(&pd->fdseq) & 0xffff);
}

/* ---- open and close ---- */

static rt_p *fewest_fds(void) {
    rt_p *best = &sched.ps[0];
    for (int32_t i = 1; i < sched.procs; i++)
        if (count_get(&sched.ps[i].n_fds) < count_get(&best->n_fds)) best = &sched.ps[i];
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
    /* Counted first: an M that goes idle now must not take the poller for an empty one. */
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
    /* Fails (EBADF, ENOENT) if the caller closed the descriptor before its time. The kernel has
     * forgotten it then, or, if a duplicate lives on, goes on telling of it: under a tag of before
     * give_pd, which netpoll_event drops. Either way the pollDesc is free. */
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

/* The end has been noted in pd->hup: either we find the watcher here, or it finds that. */
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
    /* Most calls clear what is clear already, or move later: no lock for these. */
    if (when_ns == 0 && atomic_load_explicit(&t->until, memory_order_relaxed) == 0) return;
    if (timer_move_later(t, when_ns)) return;
    rt_lock_acquire(&pd->lock);
    rt_timer_set(t, when_ns);
    rt_lock_release(&pd->lock);
}

/* ---- waiting ---- */

/* Uses up an event that was kept. A look first: a CAS that fails costs as much as one that does not. */
static bool take_ready(_Atomic uintptr_t *word) {
    uintptr_t ready = PD_READY;
    return atomic_load(word) == PD_READY && atomic_compare_exchange_strong(word, &ready, PD_NIL);
}

/* What the wait for both directions has brought. The caller stands in rg no more. After an error, what came is kept. */
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

/* Puts `who` into the word. False: an event came just now. */
static bool stand(rt_pd *pd, int mode, uintptr_t who) {
    uintptr_t old = PD_NIL;
    if (atomic_compare_exchange_strong(word_of(pd, mode), &old, who)) return true;
    if (old != PD_READY) rt_throw("two Gs wait for descriptor %d (%c)", pd->fd, mode);
    return false;
}

/* rg first, see the essay. Then it looks again: who shut, expired, hung up or canceled before that has found nobody. */
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
    /* Fails if somebody has turned it back; an event that did so is kept. */
    atomic_compare_exchange_strong(&pd->rg, &wait, PD_NIL);
    r = answer_both(pd);
    if (r) return r;
    if (due(&g->timer)) return RT_ETIMEOUT;
    return rt_canceled(g) ? RT_ECANCELED : 0;
}

int rt_pd_prepare(rt_pd *pd, int mode, rt_reason reason, rt_g *g) {
    if (mode == RT_RW) return prepare_both(pd, reason, g);
    _Atomic uintptr_t *word = word_of(pd, mode);
    /* Mostly nothing is there, and the look that follows WAIT is the only one. */
    if (atomic_load(word) == PD_READY || (mode == RT_R && rt_pd_hup(pd))) {
        int err = rt_pd_check(pd, mode);
        if (err || (mode == RT_R && rt_pd_hup(pd))) return err;
        if (take_ready(word)) return 0;
    }
    /* Mostly it waits where it waited last. */
    if (atomic_load_explicit(&g->word, memory_order_relaxed) != word) atomic_store(&g->word, word);
    uintptr_t old = PD_NIL;
    if (!atomic_compare_exchange_strong(word, &old, (uintptr_t)g + PD_WAIT)) {
        if (old == PD_READY) { /* it came just now */
            atomic_store(word, PD_NIL);
            return 0;
        }
        rt_throw("two Gs wait for descriptor %d (%c)", pd->fd, mode);
    }
    /* Look again: who shut, expired or hung up before WAIT stood there has found nobody. */
    int err = 0;
    if (atomic_load(&pd->shut))
        err = RT_ECLOSED;
    else if (missed(timer_of(pd, mode)) || missed(&g->timer))
        err = RT_ETIMEOUT;
    if (!err && rt_canceled(g)) { /* the same for who canceled g: see wait.c */
        uintptr_t wait = (uintptr_t)g + PD_WAIT;
        /* Fails if an event came in between, which is kept. */
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
    /* The commit may have failed because the word was moved from WAIT to READY: use that up. */
    take_ready(word_of(pd, mode));
    return rt_pd_check(pd, mode);
}

void rt_pd_kick(rt_pd *pd, int mode) {
    rt_g *g = unblock(pd, mode, PD_READY);
    if (g) rt_ready(g);
}

/* ---- polling ---- */

/* The poller takes the waiting G: it is made runnable here, and queued by who polls, when that has
 * a P again. */
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
    /* Should the pollDesc have got a new use by now, this says nothing about it, and fails if the new
     * use has an end of its own. */
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
