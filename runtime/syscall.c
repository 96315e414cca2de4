/* Blocking calls: the P goes on without its M.
 *
 * rt_entersyscall leaves the P where it is, in state syscall, and that is all: a call that returns
 * soon costs two stores and a CAS. sysmon looks at Ps in that state and takes one, by CAS from
 * syscall to idle, when its call lasts and there is something else to run (or anything to poll).
 *
 * rt_exitsyscall, in this order: the old P back by CAS from syscall to running; any idle P; else
 * the G goes to the global queue and its M to sleep.
 *
 * The CAS on p->status decides between the two sides. Who wins owns the P; the M reads old_tick, so
 * that it does not mistake a later system call of another M on the same P for its own.
 */
#include "impl.h"

#include "trace.h"

#include <errno.h>

__attribute__((noinline)) static int get_errno(void) {
    return errno;
}

__attribute__((noinline)) static void set_errno(int e) {
    errno = e;
}

void rt_entersyscall(void) {
    rt_m *m = rt_getm();
    rt_p *p = m->p;
    rt_g *g = m->curg;
    if (g->step) rt_throw("rt_entersyscall on a step G");
    TRACE(TRACE_ENTER, p, g, 0);
    g_set_status(g, G_RUNNING, G_SYSCALL);
    atomic_store_explicit(&g->since_ns, p->now_ns, memory_order_relaxed);
    atomic_store_explicit(&g->reason, RT_WAIT_SYSCALL, memory_order_relaxed);
    atomic_fetch_add(&sched.n_syscalls, 1);
    m->old_p = p;
    m->p = NULL;
    m->old_tick = atomic_load_explicit(&p->syscalltick, memory_order_relaxed) + 1;
    atomic_store_explicit(&p->syscalltick, m->old_tick, memory_order_relaxed);
    atomic_store(&p->m, NULL);
    atomic_store(&p->status, P_SYSCALL); /* from here on sysmon may take it */
}

/* The old P, if nobody took it. */
static bool regain_old(rt_m *m) {
    rt_p *p = m->old_p;
    uint32_t status = P_SYSCALL;
    if (atomic_load(&p->syscalltick) != m->old_tick) return false;
    if (!atomic_compare_exchange_strong(&p->status, &status, P_RUNNING)) return false;
    m->p = p;
    atomic_store(&p->m, m);
    return true;
}

void rt_exitsyscall(void) {
    int saved = get_errno();
    rt_m *m = rt_getm();
    rt_g *g = m->curg;
    bool have = regain_old(m);
    if (!have) {
        rt_lock_acquire(&sched.lock);
        rt_p *p = p_idle_get(m->old_p);
        if (p) p_evict(p, m);
        rt_lock_release(&sched.lock);
        if (p) p_acquire(m, p);
        have = p != NULL;
    }
    m->old_p = NULL;
    TRACE(TRACE_LEAVE, m->p, g, 0);
    if (have) {
        atomic_fetch_sub(&sched.n_syscalls, 1);
        g_set_status(g, G_SYSCALL, G_RUNNING);
    } else {
        g_leave(g, RT_YIELD); /* execute sees that there is no P */
    }
    set_errno(saved);
}
