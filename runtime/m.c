/* Ms: making threads, giving them Ps, putting them to sleep, ending them.
 *
 * An M that runs Gs has a P. An M without a P waits in one of three places: in the poller of an idle P (p->poll_m, see
 * proc.c), on its note in sched.idle_ms, or in a system call. m_start finds an M for a P in this order, or makes a new
 * M. The P travels in next_p, which is written under sched.lock before the wake-up and taken by the M afterwards.
 *
 * If no thread can be had (RLIMIT_NPROC, pids.max, no memory for its stacks), the P stays idle, and the existing Ms run
 * what waits for the P. An M in another idle P's poller gets its own P. Ms that come back from system calls take idle
 * Ps. sysmon tries again (sched.starved) and polls for such Ps meanwhile. All this needs Ms that come back. So calls
 * that block for long claim a thread first (rt_claim_thread), and wait if they cannot have one.
 *
 * Threads are made by pthread_create with all signals blocked, so no signal arrives before the M has its alternate
 * stack.
 *
 * Turns. A thread that wakes on a CPU where another one runs, of whatever process, waits until that one has had its
 * turn: 1.4 ms on two CPUs. Since version 6.12 Linux lets the waking thread interrupt the running one, if it has asked
 * for shorter turns. So Ms do (rt_short_turns): they wake often and mostly run for microseconds. An M that computes is
 * interrupted more often if others want its CPU, and gets as much of the CPU as before.
 *
 * The end of an M. Calls that block make Ms: 500 of them at once make 500 Ms, which are idle afterwards. While more
 * than procs + SPARE_MS other Ms sleep in sched.idle_ms, an M that begins to sleep there does so for LINGER_NS at most.
 * If there are still too many then, its thread ends. The list is a stack, so an occasional task wakes the same few Ms,
 * and the Ms below them end. m0 does not end, since its thread is the process's first.
 *
 *   - The ending M is in sched.idle_ms, and takes itself out under sched.lock. It has no P, stands in no poller, and
 *     next_p is NULL: no thread is about to wake it. A thread that took the M out of the list earlier has written
 *     next_p under the same lock. Then the M waits for the wake-up, which is certain.
 *   - rt_claim_thread counts its claim, then looks at n_ms. The ending M takes itself from n_ms, then looks at the
 *     claims (both sequentially consistent). One sees the other: n_ms > n_claims holds for each claim that was granted.
 *   - The M's signals are blocked, its tid is 0 and its CPU timer is gone before its thread ends.
 *   - An rt_m is never freed. An ended M lies in sched.dead_ms and in sched.all_ms, with its id and its trace buffer,
 *     until the next new M takes it. So a thread that holds the pointer for too long (m_interrupt, the walks of all_ms
 *     in prof.c and trace.c) finds an rt_m in any case. The worst outcome is a SIGURG for which no thread asked.
 *   - The thread is detached and its stack is pthreads', so no thread need wait for its last instructions. The thread
 *     lets go of its rt_m before it ends, and touches the rt_m no more. It frees its signal stack itself.
 */
#include "impl.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAY_NS    (10 * NS_PER_SEC)
#define LINGER_NS (60 * NS_PER_SEC) /* how long an M that is one too many sleeps before it ends */

/* xorshift64*: S. Vigna, "An experimental exploration of Marsaglia's xorshift generators". */
uint64_t m_rand(rt_m *m) {
    uint64_t x = m->rand;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    m->rand = x;
    return (x * UINT64_C(2685821657736338717)) >> 32;
}

/* ---- Ps ---- */

void p_acquire(rt_m *m, rt_p *p) {
    uint32_t status = atomic_load(&p->status);
    if (m->p || status != P_IDLE)
        rt_throw("M %d takes P %d: status %u, M has %d", m->id, p->id, status,
                 m->p ? m->p->id : -1);
    m->p = p;
    atomic_store(&p->m, m);
    atomic_store(&p->status, P_RUNNING);
}

rt_p *p_release(rt_m *m) {
    rt_p *p = m->p;
    uint32_t status = atomic_load(&p->status);
    if (status != P_RUNNING || atomic_load(&p->m) != m)
        rt_throw("M %d releases P %d: status %u", m->id, p->id, status);
    m->p = NULL;
    atomic_store(&p->m, NULL);
    atomic_store(&p->status, P_IDLE);
    return p;
}

void p_idle_put(rt_p *p) {
    if (p->in_idle) rt_throw("P %d is idle twice", p->id);
    p->in_idle = true;
    p->idle_link = sched.idle_ps;
    sched.idle_ps = p;
    atomic_fetch_add(&sched.n_idle_ps, 1);
}

rt_p *p_idle_get(rt_p *wanted) {
    rt_p **at = &sched.idle_ps;
    if (wanted && wanted->in_idle)
        while (*at != wanted)
            at = &(*at)->idle_link;
    rt_p *p = *at;
    if (!p) return NULL;
    *at = p->idle_link;
    p->idle_link = NULL;
    p->in_idle = false;
    /* The P is about to work, so sysmon must watch again. First the count, then the question: sysmon says that it
     * sleeps, then looks at the count. */
    atomic_fetch_sub(&sched.n_idle_ps, 1);
    if (atomic_load(&sched.sysmon_sleeps) == SYSMON_SLEEPS) sysmon_wake();
    return p;
}

void p_evict(rt_p *p, rt_m *taker) {
    rt_m *m = p->poll_m;
    p->poll_m = NULL;
    if (m && m != taker) netpoll_break(p->poller);
}

/* ---- Ms ---- */

/* Takes the P that was handed to m. sched.lock held; released. */
static void take_next(rt_m *m) {
    rt_p *p = m->next_p;
    m->next_p = NULL;
    bool spin = m->to_spin;
    rt_lock_release(&sched.lock);
    p_acquire(m, p);
    m->spinning = spin;
}

/* Gives the new M a number and puts it into all_ms, where it stays. */
static void enroll(rt_m *m) {
    m->id = atomic_fetch_add(&sched.next_m_id, 1);
    rt_m *head = atomic_load(&sched.all_ms);
    do
        m->all_link = head;
    while (!atomic_compare_exchange_weak(&sched.all_ms, &head, m));
}

/* The caller is m's thread. */
static void begin_m(rt_m *m) {
    rt_setm(m);
    rt_short_turns(true);
    m->rand = os_random() | 1;
    note_clear(&m->park);
}

static void end_thread(rt_m *m);

/* Names the calling thread after m, for ps and gdb. m0's thread keeps its name, which is the process's name in ps and
 * pgrep. */
static void name_thread(const rt_m *m) {
    char name[16];
    snprintf(name, sizeof name, "lp-m%d", m->id);
    pthread_setname_np(pthread_self(), name);
}

static void *thread_main(void *arg) {
    rt_m *m = arg;
    begin_m(m);
    name_thread(m);
    rt_context_adopt(&m->ctx, os_thread_stack());
    signal_init_m(m);
    rt_lock_acquire(&sched.lock);
    if (m->next_p)
        take_next(m);
    else
        m_stop(m);
    schedule_loop(m);
    end_thread(m);
    return NULL;
}

void m_init_main(void) {
    rt_m *m = &sched.m0;
    enroll(m);
    begin_m(m);
    atomic_store(&sched.n_ms, 1);
    if (!signal_stack_new(m)) debug_no_start("no memory for a signal stack");
    rt_context_adopt(&m->ctx, os_thread_stack());
    signal_init_m(m);
}

/* Starts a detached thread with all signals blocked. stack: bytes, with a guard as large (why: stack.c); 0: as other
 * threads of the process. 0 or an error number. */
static int start_thread(size_t stack, void *(*fn)(void *), void *arg) {
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    int err = stack ? pthread_attr_setstacksize(&attr, stack) : 0;
    if (!err && stack) err = pthread_attr_setguardsize(&attr, stack);
    pthread_t t;
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    if (!err) err = pthread_create(&t, &attr, fn, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    return err;
}

int rt_start_thread(void *(*fn)(void *), void *arg) {
    return -start_thread(0, fn, arg);
}

/* Says that no thread could be made, in at most one line per SAY_NS. */
static void say_starved(int err) {
    static _Atomic int64_t said_ns;
    int64_t now = rt_nanotime(), last = atomic_load(&said_ns);
    if ((last && now - last < SAY_NS) || !atomic_compare_exchange_strong(&said_ns, &last, now))
        return;
    debug_printf("lunapark: cannot make a thread: %s (%d threads run)\n", strerror(err),
                 atomic_load(&sched.n_ms));
}

/* An M without a thread and without stacks, an ended one or a new one. NULL: no memory. */
static rt_m *take_dead(void) {
    rt_lock_acquire(&sched.lock);
    rt_m *m = sched.dead_ms;
    if (m) sched.dead_ms = m->idle_link;
    rt_lock_release(&sched.lock);
    if (m) return m;
    m = calloc(1, sizeof *m);
    if (m) enroll(m);
    return m;
}

static void give_dead(rt_m *m) {
    rt_lock_acquire(&sched.lock);
    m->idle_link = sched.dead_ms;
    sched.dead_ms = m;
    rt_lock_release(&sched.lock);
}

/* Makes an M that runs p, or sleeps if p is NULL. False: there is no memory or no thread for an M. */
static bool new_m(rt_p *p, bool spinning) {
    int err = ENOMEM;
    rt_m *m = take_dead();
    if (!m) goto no_m;
    m->next_p = p;
    m->to_spin = spinning;
    m->ended = false;
    atomic_store(&m->urged, false);
    atomic_store(&m->interrupted, false);
    if (!signal_stack_new(m)) goto no_stack;
    atomic_fetch_add(&sched.n_ms, 1);
    err = start_thread(STACK_M, thread_main, m);
    if (!err) return true;
    atomic_fetch_sub(&sched.n_ms, 1);
    signal_stack_free(m);
no_stack:
    m->next_p = NULL;
    give_dead(m);
no_m:
    say_starved(err);
    return false;
}

/* sched.lock held: gives p to an M that sleeps. True: done, the lock is released. False: no M sleeps, the lock is
 * held. */
static bool hand_to_sleeper(rt_p *p, bool spinning) {
    rt_m *polls = p->poll_m, *m = polls ? polls : sched.idle_ms;
    if (!m) return false;
    if (polls) {
        p->poll_m = NULL;
    } else {
        sched.idle_ms = m->idle_link;
        atomic_fetch_sub(&sched.n_idle_ms, 1);
    }
    m->next_p = p;
    m->to_spin = spinning;
    rt_lock_release(&sched.lock);
    if (polls)
        netpoll_break(p->poller);
    else
        note_wake(&m->park);
    return true;
}

/* sched.lock held: an idle P with an M in its poller, or NULL. */
static rt_p *polled_p(void) {
    for (rt_p *p = sched.idle_ps; p; p = p->idle_link)
        if (p->poll_m) return p;
    return NULL;
}

void m_start(rt_p *p, bool spinning) {
    rt_lock_acquire(&sched.lock);
    while (!hand_to_sleeper(p, spinning)) {
        rt_lock_release(&sched.lock);
        if (new_m(p, spinning)) return;
        rt_lock_acquire(&sched.lock);
        if (sched.idle_ms) continue;
        /* Any M will do: an idle P that has an M in its poller takes the place of p. */
        p_idle_put(p);
        atomic_store(&sched.starved, true);
        rt_p *other = polled_p();
        if (!other) {
            if (spinning) atomic_fetch_sub(&sched.n_spinning, 1);
            rt_lock_release(&sched.lock);
            return;
        }
        p = p_idle_get(other);
    }
}

bool m_feed(void) {
    rt_lock_acquire(&sched.lock);
    atomic_store(&sched.starved, false);
    rt_p *p = sched.idle_ps;
    while (p && p->poll_m)
        p = p->idle_link;
    if (p) p_idle_get(p);
    rt_lock_release(&sched.lock);
    if (p) m_start(p, false);
    return !atomic_load(&sched.starved);
}

bool rt_claim_thread(void) {
    int32_t claims = atomic_fetch_add(&sched.n_claims, 1) + 1;
    if (atomic_load(&sched.n_ms) > claims || new_m(NULL, false)) return true;
    atomic_fetch_sub(&sched.n_claims, 1);
    return false;
}

void rt_release_thread(void) {
    atomic_fetch_sub(&sched.n_claims, 1);
}

void p_attend(rt_p *p) {
    if (atomic_load(&p->status) != P_IDLE) return;
    rt_lock_acquire(&sched.lock);
    bool alone = p->in_idle && !p->poll_m;
    if (alone) p_idle_get(p);
    rt_lock_release(&sched.lock);
    if (alone) m_start(p, false);
}

/* sched.lock held: more Ms are idle than are kept, and m may end. */
static bool one_too_many(const rt_m *m) {
    return atomic_load(&sched.n_idle_ms) > sched.procs + SPARE_MS && m != &sched.m0;
}

/* sched.lock held: takes m out of idle_ms and marks it ended. False: m is not one too many, or a claim counts on it. */
static bool retire(rt_m *m) {
    if (!one_too_many(m) || atomic_load(&sched.n_ms) - 1 <= atomic_load(&sched.n_claims))
        return false;
    /* A claim that comes now sees n_ms without m, or is seen here. */
    if (atomic_fetch_sub(&sched.n_ms, 1) - 1 <= atomic_load(&sched.n_claims)) {
        atomic_fetch_add(&sched.n_ms, 1);
        return false;
    }
    rt_m **at = &sched.idle_ms;
    while (*at != m)
        at = &(*at)->idle_link;
    *at = m->idle_link;
    atomic_fetch_sub(&sched.n_idle_ms, 1);
    if (m->p || m->curg || m->cell || m->spinning || m->left || m->picked)
        rt_throw("M %d ends, and has something to do", m->id);
    m->ended = true;
    return true;
}

/* The rest of m's end, on m's thread. */
static void end_thread(rt_m *m) {
    signal_end_m(m);
    rt_setm(NULL);
    signal_stack_free(m);
    give_dead(m);
}

void m_stop(rt_m *m) {
    m->idle_link = sched.idle_ms;
    sched.idle_ms = m;
    atomic_fetch_add(&sched.n_idle_ms, 1);
    check_dead();
    int64_t linger_ns = rt_debug()->mexit ? rt_debug()->mexit * NS_PER_MS : LINGER_NS;
    bool patient = false; /* m was one too many, but was handed a P after all */
    for (;;) {
        bool ends = !patient && one_too_many(m);
        rt_lock_release(&sched.lock);
        bool woken = true;
        if (ends)
            woken = note_sleep_for(&m->park, linger_ns);
        else
            note_sleep(&m->park);
        rt_lock_acquire(&sched.lock);
        if (woken) break;
        if (m->next_p) { /* m was handed a P: the wake-up is on its way */
            patient = true;
        } else if (retire(m)) {
            rt_lock_release(&sched.lock);
            return;
        }
    }
    note_clear(&m->park);
    take_next(m);
}

void m_count_ms(int32_t *ms, int32_t *idle) {
    *ms = atomic_load(&sched.n_ms);
    *idle = atomic_load(&sched.n_idle_ms);
}
