/* Ms: making threads, giving them Ps, putting them to sleep.
 *
 * An M that runs Gs has a P. One without waits in one of three places: in the poller of an idle P
 * (p->poll_m, see proc.c), on its note in sched.idle_ms, or in a system call. m_start finds an M
 * for a P in that order, or makes a new one; the P travels in next_p, written under sched.lock
 * before the wake-up and taken by the M after it.
 *
 * Threads are made by pthread_create with all signals blocked, so that none arrives before the M
 * has its alternate stack. An M never ends.
 */
#include "impl.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

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
    /* Somebody starts to work, so sysmon must watch again. First the count, then the question:
     * sysmon says that it waits, then looks at the count. */
    atomic_fetch_sub(&sched.n_idle_ps, 1);
    if (atomic_load(&sched.sysmon_waits)) sysmon_wake();
    return p;
}

void p_evict(rt_p *p, rt_m *taker) {
    rt_m *m = p->poll_m;
    p->poll_m = NULL;
    if (m && m != taker) netpoll_break(p->poller);
}

/* ---- Ms ---- */

static void *thread_main(void *arg) {
    rt_m *m = arg;
    rt_setm(m);
    /* The context is this thread's own stack; its bounds are only the sanitizers' business. */
    rt_context_adopt(&m->ctx, m->ctx.stack);
    signal_init_m(m);
    rt_lock_acquire(&sched.lock);
    rt_p *p = m->next_p;
    m->next_p = NULL;
    rt_lock_release(&sched.lock);
    p_acquire(m, p);
    schedule_loop(m);
    return NULL;
}

static void init_m(rt_m *m) {
    m->id = atomic_fetch_add(&sched.n_ms, 1);
    m->rand = os_random() | 1;
    note_clear(&m->park);
    rt_m *head = atomic_load(&sched.all_ms);
    do
        m->all_link = head;
    while (!atomic_compare_exchange_weak(&sched.all_ms, &head, m));
}

void m_init_main(void) {
    rt_m *m = &sched.m0;
    rt_setm(m);
    init_m(m);
    rt_context_adopt(&m->ctx, os_thread_stack());
    m->thread = pthread_self();
    signal_init_m(m);
}

static void new_m(rt_p *p, bool spinning) {
    rt_m *m = calloc(1, sizeof *m);
    if (!m) rt_throw("out of memory for an M");
    init_m(m);
    m->next_p = p;
    m->spinning = spinning;
    m->ctx.stack = stack_alloc(STACK_M);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    int err =
        pthread_attr_setstack(&attr, m->ctx.stack.lo, (size_t)(m->ctx.stack.hi - m->ctx.stack.lo));
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    if (!err) err = pthread_create(&m->thread, &attr, thread_main, m);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    if (err) rt_throw("cannot make a thread: %s (%d threads run)", strerror(err), m->id);
}

void m_start(rt_p *p, bool spinning) {
    rt_lock_acquire(&sched.lock);
    rt_m *m = p->poll_m;
    if (m) {
        p->poll_m = NULL;
        m->next_p = p;
        m->to_spin = spinning;
        rt_lock_release(&sched.lock);
        netpoll_break(p->poller);
        return;
    }
    m = sched.idle_ms;
    if (!m) {
        rt_lock_release(&sched.lock);
        new_m(p, spinning);
        return;
    }
    sched.idle_ms = m->idle_link;
    atomic_fetch_sub(&sched.n_idle_ms, 1);
    m->next_p = p;
    m->to_spin = spinning;
    rt_lock_release(&sched.lock);
    note_wake(&m->park);
}

void p_attend(rt_p *p) {
    if (atomic_load(&p->status) != P_IDLE) return;
    rt_lock_acquire(&sched.lock);
    bool alone = p->in_idle && !p->poll_m;
    if (alone) p_idle_get(p);
    rt_lock_release(&sched.lock);
    if (alone) m_start(p, false);
}

void m_stop(rt_m *m) {
    m->idle_link = sched.idle_ms;
    sched.idle_ms = m;
    atomic_fetch_add(&sched.n_idle_ms, 1);
    check_dead();
    rt_lock_release(&sched.lock);
    note_sleep(&m->park);
    note_clear(&m->park);
    rt_lock_acquire(&sched.lock);
    rt_p *p = m->next_p;
    m->next_p = NULL;
    bool spin = m->to_spin;
    rt_lock_release(&sched.lock);
    p_acquire(m, p);
    m->spinning = spin;
}

void m_count_ms(int32_t *ms, int32_t *idle) {
    *ms = atomic_load(&sched.n_ms);
    *idle = atomic_load(&sched.n_idle_ms);
}
