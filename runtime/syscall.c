/* Blocking calls: the P goes on without its M.
 *
 * rt_entersyscall leaves the P where it is, in state syscall, and does nothing else: a call that returns soon costs two
 * stores and a CAS. sysmon looks at the Ps in this state. When a call lasts and there is something else to run or to
 * poll, sysmon takes the P, by CAS from syscall to idle.
 *
 * rt_entersyscallblock is for a call that is known to block: it does at once what sysmon would do later. It costs its M
 * a system call or two, and another M a wake-up. This is too much for a call that turns out short, and much less than
 * other Gs would wait until sysmon comes.
 *
 * rt_exitsyscall tries, in this order: the old P, by CAS from syscall to running; any idle P; else the G goes to the
 * global queue and its M to sleep.
 *
 * The CAS on p->status decides between the two sides: the winner owns the P. The M also compares p->syscalltick with
 * old_tick, so that it does not mistake a later system call of another M on the same P for its own.
 *
 * Foreign code is Lua that a cell's G runs. It is entered and left a million times a second, mostly for microseconds,
 * so entering must cost less than a system call. Foreign code may also last: an endless loop, or a C library that
 * blocks. rt_enterforeign puts the P in state foreign, with the M's id in the same word. rt_exitforeign gets the P back
 * by CAS from exactly this word, so it never mistakes another M's foreign P for its own, and compares nothing else. In
 * between the M has no P. Calls of the runtime then take the path of any thread without a P (global queue, locks) and
 * know nothing of foreign code.
 *
 * sysmon takes a P that was foreign for FOREIGN_NS in one stretch. Under sched.lock it moves the word to idle and sends
 * the cell away (cell.c). Then it tells the cell's owner and finds another M for the P. The M that comes back and fails
 * its CAS takes sched.lock, so it sees all of this or none. It calls its cell back and goes on as after a long system
 * call.
 *
 * Orders: the store that enters is a release, so that a thread that takes the P sees what the M did with the P. The CAS
 * that leaves is an acquire. No other thread relies on seeing this store before a later store of the M to another word,
 * so nothing stronger is needed: 1.5 ns to enter, a CAS to leave.
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

static void enter(rt_m *m) {
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
    atomic_store(&p->status, P_SYSCALL); /* from here on sysmon may take p */
}

/* The state first, then the question whether sysmon naps. sysmon says that it naps, then looks at the states. */
void rt_entersyscall(void) {
    enter(rt_getm());
    if (atomic_load(&sched.sysmon_sleeps) == SYSMON_NAPS) sysmon_wake();
}

/* Takes m's old P back. False: another thread took it. */
static bool regain_old(rt_m *m) {
    rt_p *p = m->old_p;
    uint32_t status = P_SYSCALL;
    if (atomic_load(&p->syscalltick) != m->old_tick) return false;
    if (!atomic_compare_exchange_strong(&p->status, &status, P_RUNNING)) return false;
    m->p = p;
    atomic_store(&p->m, m);
    return true;
}

bool syscall_retake(rt_p *p) {
    uint32_t status = P_SYSCALL;
    if (!atomic_compare_exchange_strong(&p->status, &status, P_IDLE)) return false;
    atomic_fetch_add(&sched.n_handoffs, 1);
    TRACE(TRACE_RETAKE, NULL, NULL, p->id);
    m_start(p, false);
    return true;
}

/* Does sysmon's part at once. If sysmon has retaken the P already, and the next M with this P is in a call as well,
 * then that M loses the P early, which sysmon might do, too. */
void rt_entersyscallblock(void) {
    rt_m *m = rt_getm();
    enter(m);
    syscall_retake(m->old_p);
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

/* ---- foreign code ---- */

static void (*on_away)(rt_cell *c);

void rt_on_away(void (*fn)(rt_cell *c)) {
    on_away = fn;
}

void rt_enterforeign(void) {
    rt_m *m = rt_getm();
    rt_p *p = m->p;
    if (p->cell != m->cell) p->cell = m->cell;
    m->old_p = p;
    m->p = NULL;
    uint32_t tick = atomic_load_explicit(&p->syscalltick, memory_order_relaxed);
    atomic_store_explicit(&p->syscalltick, tick + 1, memory_order_relaxed);
    atomic_store_explicit(&p->status, P_FOREIGN | (uint32_t)m->id << P_OWNER_SHIFT,
                          memory_order_release);
}

/* The P was taken: m takes an idle P or queues for one, as after a long system call. */
static __attribute__((noinline)) void come_back(rt_m *m) {
    rt_cell *c = m->cell;
    rt_g *g = m->curg, *driver = cell_driver(c);
    rt_lock_acquire(&sched.lock);
    cell_back(c);
    rt_p *p = p_idle_get(m->old_p);
    if (p) p_evict(p, m);
    rt_lock_release(&sched.lock);
    m->old_p = NULL;
    if (p) {
        p_acquire(m, p);
        atomic_fetch_sub(&sched.n_syscalls, 1);
        return;
    }
    g_set_status(driver, G_RUNNING, G_SYSCALL);
    m->curg = driver;
    g_leave(driver, RT_YIELD); /* execute sees that there is no P */
    rt_getm()->curg = g;
}

bool rt_exitforeign(void) {
    rt_m *m = rt_getm();
    rt_p *p = m->old_p;
    uint32_t mine = P_FOREIGN | (uint32_t)m->id << P_OWNER_SHIFT;
    if (__builtin_expect(atomic_compare_exchange_strong_explicit(&p->status, &mine, P_RUNNING,
                                                                 memory_order_acquire,
                                                                 memory_order_relaxed),
                         1)) {
        m->p = p;
        return true;
    }
    come_back(m);
    return false;
}

bool foreign_retake(rt_p *p, uint32_t status) {
    rt_lock_acquire(&sched.lock);
    bool taken = atomic_compare_exchange_strong(&p->status, &status, P_IDLE);
    rt_cell *c = taken ? p->cell : NULL;
    if (taken) {
        atomic_fetch_add(&sched.n_syscalls, 1); /* check_dead needs the lock that we hold */
        cell_away(c, atomic_load(&p->m));
        atomic_store(&p->m, NULL);
    }
    rt_lock_release(&sched.lock);
    if (taken && on_away) on_away(c);
    return taken;
}
