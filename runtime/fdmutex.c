/* The lock of a descriptor: one reader and one writer at a time, and no close under a user.
 *
 * The kernel reuses a descriptor's number at once. So a G that is about to use a descriptor while another G closes it
 * could read another descriptor's bytes. So every use counts as a user, close only marks the descriptor, and the number
 * is given back when the last user has left. All of this stands in one atomic word, so a use without contention costs
 * two CAS:
 *
 *      0       open
 *      1, 2    a reader, a writer holds the lock of its direction
 *      3..22   users: Gs that hold a lock or queue for one, set a deadline, close
 *      23..42  how many queue to read
 *      43..62  how many queue to write
 *
 * Locks are handed over: an unlock that finds a waiter in its queue leaves the bit set and wakes the first waiter,
 * which owns the lock when it runs. No G overtakes a waiter, and no waiter wakes to find the lock taken. Queues hold
 * waiters that lie on their Gs' stacks. The queues and the word's counts of them change only under `lock`. The other
 * bits of the word can change meanwhile, so every change of the word is a CAS.
 *
 * A queueing G waits with a ticket (wait.c), so its deadline or an interrupt may end the wait at the same moment as the
 * hand-over: rt_wake says which of them won. An interrupted G is out of the queue or takes itself out, and the lock
 * goes to the next. Waking happens under `lock`. So an interrupted G that takes `lock` knows that no thread holds a
 * pointer to its waiter any more.
 *
 * Close clears the open bit, sends the Gs in the queues away, shuts the pollDesc (fd.c), and waits in fdmutex_drain for
 * the remaining users. These come out of their waits, see RT_ECLOSED, and leave. The last one sets `gone`. After close
 * has returned, the memory may be freed: the last user's release of `lock` is the last access, and the closer takes
 * this lock once more.
 *
 * Rejected: Go's own way, where an unlock wakes a waiter that competes for the lock again (against a fast G on another
 * P it may lose many times), and where the last user closes (so no caller gets the result of close). A lock bit per
 * direction and no count of users: close could not tell when a G that sets a deadline has left.
 *
 * Idea of the word: Go's fd_mutex.go.
 */
#include "impl.h"

#include <stddef.h>

enum { USERS_SHIFT = 3, QUEUE_SHIFT = 23, QUEUE_BITS = 20 };
#define OPEN      UINT64_C(1)
#define USER      (UINT64_C(1) << USERS_SHIFT)
#define COUNT_MAX ((UINT64_C(1) << QUEUE_BITS) - 1)

typedef struct fd_waiter {
    struct fd_waiter *next; /* lock: the last waiter's is the first */
    rt_g *g;
    uint64_t ticket;
    bool queued; /* lock */
    bool closed; /* the thread that ends the wait writes it before: no lock was handed over */
} fd_waiter;

static inline int side_of(int mode) {
    return mode == RT_W;
}

static inline uint64_t held(int side) {
    return UINT64_C(2) << side;
}

static inline uint64_t one_queued(int side) {
    return UINT64_C(1) << (QUEUE_SHIFT + side * QUEUE_BITS);
}

static inline uint64_t users(uint64_t s) {
    return s >> USERS_SHIFT & COUNT_MAX;
}

static inline uint64_t queued(uint64_t s, int side) {
    return s >> (QUEUE_SHIFT + side * QUEUE_BITS) & COUNT_MAX;
}

/* A count that runs over would open a closed descriptor. Go panics at the same number. */
static uint64_t one_user_more(uint64_t s) {
    if (users(s) == COUNT_MAX) rt_throw("a million users of one descriptor");
    return s + USER;
}

void fdmutex_open(rt_fdmutex *m) {
    *m = (rt_fdmutex){.state = OPEN};
}

/* ---- users ---- */

int fdmutex_enter(rt_fdmutex *m) {
    uint64_t s = atomic_load(&m->state);
    do
        if (!(s & OPEN)) return RT_ECLOSED;
    while (!atomic_compare_exchange_weak(&m->state, &s, one_user_more(s)));
    return 0;
}

/* Gives back the caller's use. True: it was the last one of a closed descriptor. */
static bool leave(rt_fdmutex *m) {
    uint64_t before = atomic_fetch_sub(&m->state, USER);
    if (users(before) == 0)
        rt_throw("a descriptor is left that was not entered: %#llx", (unsigned long long)before);
    return !(before & OPEN) && users(before) == 1;
}

static void tell_closer(rt_fdmutex *m) {
    rt_lock_acquire(&m->lock);
    m->gone = true;
    if (m->closer) rt_ready(m->closer);
    rt_lock_release(&m->lock);
}

void fdmutex_leave(rt_fdmutex *m) {
    if (leave(m)) tell_closer(m);
}

/* ---- queues; lock held ---- */

static void push(rt_fdmutex *m, int side, fd_waiter *w) {
    fd_waiter *last = m->last[side];
    w->next = last ? last->next : w;
    if (last) last->next = w;
    m->last[side] = w;
    w->queued = true;
}

/* Takes out the waiter after `before`. */
static fd_waiter *take_after(rt_fdmutex *m, int side, fd_waiter *before) {
    fd_waiter *w = before->next;
    before->next = w->next;
    if (m->last[side] == w) m->last[side] = before == w ? NULL : before;
    w->queued = false;
    return w;
}

static fd_waiter *pop(rt_fdmutex *m, int side) {
    return m->last[side] ? take_after(m, side, m->last[side]) : NULL;
}

static void take_out(rt_fdmutex *m, int side, fd_waiter *w) {
    fd_waiter *before = w;
    while (before->next != w)
        before = before->next;
    take_after(m, side, before);
}

/* ---- the locks ---- */

/* Waits as rt_wait does. The deadline is the G's own and stays set. */
static rt_wake_code wait_here(rt_g *g, rt_reason reason) {
    int64_t own = atomic_load(&g->timer.until);
    rt_wake_code code = rt_wait(reason, own);
    if (own) rt_set_deadline(g, own);
    return code;
}

/* Another G holds the lock: queues. */
static int lock_slowly(rt_fdmutex *m, int side, rt_reason reason) {
    rt_g *g = rt_self();
    if (!g || g->step) rt_throw("only a native G can queue for a descriptor");
    fd_waiter w = {.g = g};
    rt_lock_acquire(&m->lock);
    uint64_t s = atomic_load(&m->state), to;
    do {
        if (!(s & OPEN)) {
            rt_lock_release(&m->lock);
            return RT_ECLOSED;
        }
        to = one_user_more(s) + (s & held(side) ? one_queued(side) : held(side));
    } while (!atomic_compare_exchange_weak(&m->state, &s, to));
    bool wait = s & held(side); /* no count of waiters exceeds that of users */
    if (wait) {
        w.ticket = rt_wait_open(g);
        push(m, side, &w);
    }
    rt_lock_release(&m->lock);
    if (!wait) return 0;

    rt_wake_code code = wait_here(g, reason);
    if (code == RT_WOKEN && !w.closed) return 0;
    if (code != RT_WOKEN) {
        rt_lock_acquire(&m->lock);
        if (w.queued) {
            take_out(m, side, &w);
            atomic_fetch_sub(&m->state, one_queued(side));
        }
        rt_lock_release(&m->lock);
    }
    fdmutex_leave(m);
    return code == RT_WOKEN ? RT_ECLOSED : code == RT_TIMEOUT ? RT_ETIMEOUT : RT_ECANCELED;
}

int fdmutex_lock(rt_fdmutex *m, int mode, int reason) {
    int side = side_of(mode);
    uint64_t s = atomic_load(&m->state);
    for (;;) {
        if (!(s & OPEN)) return RT_ECLOSED;
        if (s & held(side)) return lock_slowly(m, side, reason);
        if (atomic_compare_exchange_weak(&m->state, &s, one_user_more(s) | held(side))) return 0;
    }
}

/* Hands the lock to the first waiter that still wants it, or frees it. */
static void hand_over(rt_fdmutex *m, int side) {
    bool done = false;
    rt_lock_acquire(&m->lock);
    for (fd_waiter *w; !done && (w = pop(m, side));) {
        atomic_fetch_sub(&m->state, one_queued(side));
        done = rt_wake(w->g, w->ticket, RT_WOKEN);
    }
    if (!done) atomic_fetch_and(&m->state, ~held(side));
    rt_lock_release(&m->lock);
}

void fdmutex_unlock(rt_fdmutex *m, int mode) {
    int side = side_of(mode);
    uint64_t s = atomic_load(&m->state);
    for (;;) {
        if (!(s & held(side)) || users(s) == 0)
            rt_throw("unlock of an unlocked descriptor: %#llx", (unsigned long long)s);
        if (queued(s, side)) {
            hand_over(m, side);
            fdmutex_leave(m);
            return;
        }
        if (!atomic_compare_exchange_weak(&m->state, &s, (s & ~held(side)) - USER)) continue;
        if (!(s & OPEN) && users(s) == 1) tell_closer(m);
        return;
    }
}

/* ---- the end ---- */

int fdmutex_close(rt_fdmutex *m) {
    rt_lock_acquire(&m->lock);
    uint64_t s = atomic_load(&m->state), to;
    do {
        if (!(s & OPEN)) {
            rt_lock_release(&m->lock);
            return RT_ECLOSED;
        }
        to = one_user_more(s) - OPEN;
        for (int side = 0; side < 2; side++)
            to -= queued(s, side) * one_queued(side);
    } while (!atomic_compare_exchange_weak(&m->state, &s, to));
    for (int side = 0; side < 2; side++) {
        for (fd_waiter *w; (w = pop(m, side));) {
            w->closed = true;
            rt_wake(w->g, w->ticket, RT_WOKEN); /* if that fails, w is on its way out already */
        }
    }
    rt_lock_release(&m->lock);
    return 0;
}

static bool commit_unlock(rt_g *g, void *lock) {
    (void)g;
    rt_lock_release(lock);
    return true;
}

void fdmutex_drain(rt_fdmutex *m) {
    if (leave(m)) return;
    rt_g *g = rt_self();
    if (!g || g->step) rt_throw("only a native G can wait for the users of a descriptor");
    rt_lock_acquire(&m->lock);
    if (!m->gone) {
        m->closer = g;
        /* Without a ticket: neither an interrupt, nor a cancellation, nor the G's deadline undoes a
         * close. */
        rt_park(commit_unlock, &m->lock, RT_WAIT_OTHER);
        rt_lock_acquire(&m->lock);
    }
    rt_lock_release(&m->lock);
}
