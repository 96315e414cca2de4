/* Timers: a 4-ary heap per P, and deadlines that cost a store to move.
 *
 * Nearly all timers of a server are deadlines that never come: they move later at each request and are cleared when the
 * wait ends. So a timer has two times, the time in the heap (key) and the time that is meant (until):
 *
 *   - rt_timer_set stores `until`. Nothing else is needed if `until` is 0, or if the timer stands in a heap with a key
 *     that is not after `until`. Only a new timer, or one that moves earlier, takes a lock.
 *   - When a key comes up, timers_run looks at `until`. 0 drops the timer, a later time becomes the new key, and only a
 *     time that has come calls fn.
 *
 * Only timers_run removes a timer from a heap, so no stop races with a firing. fn may be called for a setting that was
 * changed just now, so fn looks at the present state itself (wait.c, netpoll.c). The memory of a timer is never given
 * back while the timer stands in a heap. Gs and pollDescs, which hold timers, are type-stable. Any other code that
 * frees a timer must see to this.
 *
 * Two callers may insert a timer: the owner, in rt_timer_set (one caller at a time for one timer), and timers_run, for
 * a timer that it just took out. Both hold the lock of t->home. The two cannot miss each other:
 *
 *     owner:      until = new; fence; if index != 0 and key <= new: done
 *     timers_run: index = 0;   fence; if until changed: put it back
 *     timers_run: key = later; fence; if until changed: key = that (follow)
 *
 * Either the owner sees index 0 and inserts, or the owner sees the later key and moves the timer, or timers_run sees
 * the new time. If both see the other, the lock and index decide which of them inserts. A clearing (until = 0) has no
 * fence, since its owner looks at nothing afterwards: a clearing that is seen late counts as one that came late. The
 * clearing is a release. So when a wait is seen to begin after the clearing (wait.c), the cleared time does not end the
 * wait. `home` changes only while index is 0, by the owner under the old home's lock, so timers_run does not hold the
 * timer then.
 *
 * The M in an idle P's poller waits for the P's first key, and is woken from the poller if that key moves earlier. A
 * busy P's heap is looked at between its Gs, by thieves, and by sysmon.
 *
 * Without memory for a larger heap a timer goes to the P's list of timers without room. timers_run looks at this list
 * every ROOMLESS_NS: a due timer fires, a timer that finds room moves to the heap. So setting a timer never fails; for
 * want of memory the timer is late. The key of such a timer is 0, hence not after any time that its owner may set.
 *
 * Four children a node: half the depth of a binary heap, and the children share a cache line.
 */
#include "impl.h"

#include <stdlib.h>

#define ROOMLESS_NS (10 * NS_PER_MS)
#define ROOMLESS    UINT32_MAX /* index of a timer in the list of timers without room */

int64_t rt_nanotime(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * NS_PER_SEC + t.tv_nsec;
}

void rt_timer_init(rt_timer *t, void (*fn)(void *), void *arg) {
    *t = (rt_timer){.fn = fn, .arg = arg};
}

/* ---- the heap: timer_lock is held ---- */

/* A release: a thread that sees that a timer stands in a heap sees its key. */
static inline void place(rt_p *p, uint32_t i, timer_slot s) {
    p->timers[i] = s;
    atomic_store_explicit(&s.t->index, i + 1, memory_order_release);
}

static void sift_up(rt_p *p, uint32_t i, timer_slot s) {
    while (i > 0) {
        uint32_t parent = (i - 1) / 4;
        if (p->timers[parent].key <= s.key) break;
        place(p, i, p->timers[parent]);
        i = parent;
    }
    place(p, i, s);
}

static void sift_down(rt_p *p, uint32_t i, timer_slot s) {
    for (;;) {
        uint32_t first = i * 4 + 1, least = i;
        int64_t key = s.key;
        for (uint32_t c = first; c < first + 4 && c < p->ntimers; c++)
            if (p->timers[c].key < key) {
                least = c;
                key = p->timers[c].key;
            }
        if (least == i) break;
        place(p, i, p->timers[least]);
        i = least;
    }
    place(p, i, s);
}

static void note_first(rt_p *p) {
    int64_t first = p->ntimers ? p->timers[0].key : 0;
    if (p->roomless && (first == 0 || p->roomless_ns < first)) first = p->roomless_ns;
    if (first != atomic_load_explicit(&p->timer_next_ns, memory_order_relaxed))
        atomic_store(&p->timer_next_ns, first);
}

static bool grow(rt_p *p) {
    uint32_t cap = p->timers_cap ? p->timers_cap * 2 : TIMER_HEAP_MIN;
    timer_slot *timers = realloc(p->timers, cap * sizeof *timers);
    if (!timers) return false;
    p->timers = timers;
    p->timers_cap = cap;
    return true;
}

static void put_aside(rt_p *p, rt_timer *t) {
    if (!p->roomless) p->roomless_ns = rt_nanotime() + ROOMLESS_NS;
    t->next = p->roomless;
    p->roomless = t;
    atomic_store_explicit(&t->key, 0, memory_order_relaxed);
    atomic_store_explicit(&t->index, ROOMLESS, memory_order_relaxed);
}

static void insert(rt_p *p, rt_timer *t, int64_t key) {
    if (p->ntimers == p->timers_cap && !grow(p)) {
        put_aside(p, t);
        return;
    }
    atomic_store_explicit(&t->key, key, memory_order_relaxed);
    sift_up(p, p->ntimers++, (timer_slot){key, t});
}

static void remove_first(rt_p *p) {
    timer_slot last = p->timers[--p->ntimers];
    if (p->ntimers) sift_down(p, 0, last);
}

static void rekey(rt_p *p, rt_timer *t, int64_t key) {
    uint32_t i = atomic_load_explicit(&t->index, memory_order_relaxed) - 1;
    bool later = key > p->timers[i].key;
    atomic_store(&t->key, key);
    if (later)
        sift_down(p, i, (timer_slot){key, t});
    else
        sift_up(p, i, (timer_slot){key, t});
}

/* ---- the owner's side ---- */

bool timer_move_later(rt_timer *t, int64_t until) {
    if (until == 0) {
        atomic_store_explicit(&t->until, 0, memory_order_release);
        return true;
    }
    atomic_store(&t->until, until);
    return atomic_load(&t->index) != 0 && atomic_load(&t->key) <= until;
}

static void set_home(rt_timer *t, const rt_p *p) {
    atomic_store_explicit(&t->home, (uint32_t)p->id + 1, memory_order_relaxed);
}

void rt_timer_set(rt_timer *t, int64_t until) {
    if (timer_move_later(t, until)) return;
    rt_m *m = rt_getm();
    /* Any P will do. From foreign code the P that the M had, and most likely gets back. */
    rt_p *here = m && m->p ? m->p : m && m->old_p ? m->old_p : &sched.ps[0];
    uint32_t number = atomic_load_explicit(&t->home, memory_order_relaxed);
    rt_p *home = number ? &sched.ps[number - 1] : here;
    if (!number) set_home(t, here);
    rt_lock_acquire(&home->timer_lock);
    if (atomic_load_explicit(&t->index, memory_order_relaxed) != 0) {
        if (atomic_load_explicit(&t->key, memory_order_relaxed) > until) rekey(home, t, until);
    } else {
        if (home != here) {
            set_home(t, here);
            rt_lock_release(&home->timer_lock);
            home = here;
            rt_lock_acquire(&home->timer_lock);
        }
        insert(home, t, until);
    }
    bool first = home->roomless || home->timers[0].t == t;
    note_first(home);
    rt_lock_release(&home->timer_lock);
    /* The P's own M looks at the heap before it sleeps; any other sleeper must look again. */
    if (first && atomic_load(&home->last_poll_ns) == 0) netpoll_break(home->poller);
}

/* ---- time passes ---- */

/* timer_lock held; released while t's function runs. */
static void fire(rt_p *p, rt_timer *t) {
    note_first(p);
    rt_lock_release(&p->timer_lock);
    t->fn(t->arg);
    rt_lock_acquire(&p->timer_lock);
}

/* timer_lock held: t's key has come up, but t was moved to `until`, and perhaps back meanwhile. Moves t in the heap. */
static void follow(rt_p *p, rt_timer *t, int64_t until) {
    int64_t key;
    do {
        key = until;
        rekey(p, t, key);
        until = atomic_load(&t->until);
    } while (until != 0 && until < key);
}

/* timer_lock held: fires or inserts the timers without room. Returns how many have fired. */
static int64_t admit(rt_p *p, int64_t now_ns) {
    int64_t fired = 0;
    rt_timer *next, *t = p->roomless;
    p->roomless = NULL;
    for (; t; t = next) {
        next = t->next;
        atomic_store(&t->index, 0);
        int64_t until = atomic_load(&t->until);
        if (until > now_ns) {
            insert(p, t, until);
        } else if (until != 0) {
            fire(p, t);
            fired++;
        }
    }
    return fired;
}

bool timers_run(rt_p *p, int64_t *now_ns) {
    int64_t next = atomic_load_explicit(&p->timer_next_ns, memory_order_relaxed);
    if (next == 0) return false;
    if (*now_ns == 0) *now_ns = rt_nanotime();
    if (next > *now_ns) return false;
    int64_t fired = 0;
    rt_lock_acquire(&p->timer_lock);
    if (p->roomless && p->roomless_ns <= *now_ns) fired = admit(p, *now_ns);
    for (int left = TIMER_BATCH; left > 0 && p->ntimers && p->timers[0].key <= *now_ns; left--) {
        rt_timer *t = p->timers[0].t;
        int64_t until = atomic_load(&t->until);
        if (until > *now_ns) {
            follow(p, t, until);
            continue;
        }
        remove_first(p);
        atomic_store(&t->index, 0);
        int64_t again = atomic_load(&t->until);
        if (again != until && again != 0) { /* set meanwhile by an owner that saw t in the heap */
            insert(p, t, again);
            continue;
        }
        if (until == 0) continue;
        fire(p, t);
        fired++;
    }
    note_first(p);
    rt_lock_release(&p->timer_lock);
    atomic_fetch_add_explicit(&p->n_timers_fired, fired, memory_order_relaxed);
    return fired > 0;
}

/* Is any timer set? For the deadlock check, with every P idle. */
bool timers_live(void) {
    for (int32_t i = 0; i < sched.procs; i++) {
        rt_p *p = &sched.ps[i];
        bool live = false;
        rt_lock_acquire(&p->timer_lock);
        for (uint32_t k = 0; !live && k < p->ntimers; k++)
            live = atomic_load(&p->timers[k].t->until) != 0;
        for (rt_timer *t = p->roomless; !live && t; t = t->next)
            live = atomic_load(&t->until) != 0;
        rt_lock_release(&p->timer_lock);
        if (live) return true;
    }
    return false;
}
