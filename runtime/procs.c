/* The number of Ps, and its changes while Gs run: by rt_set_procs, and with the cgroup's quota.
 *
 * Ps are made and never given back: sched.ps has room for MAX_PROCS, and sched.procs of them are made. The number of Ps
 * that are *in*, sched.n_in, changes both ways: P 0 to P n - 1 run Gs, the others are *out*. A P that is out has no
 * queue, but keeps its poller and its timers, with descriptors and deadlines of the time before. So code that holds a
 * descriptor, a timer or a P's number need not know of any of this.
 *
 * Going out. rt_set_procs marks the P (`leaves`). A running P is seen to by its own M when the M next looks for a G
 * (findrunnable, hence after 61 Gs or when the P's G waits). An idle P is given an M, which does the same. sysmon takes
 * a P in a system call or in foreign code, as always, and so the P comes to an M. This M, in p_out:
 *
 *   - moves the P's queue to the global queue, and the P's dead Gs to the global lists;
 *   - lets go of the P, whose state becomes P_OUT, and stays in the P's poller without a P (attend). The M blocks there
 *     until an event, or the P's next timer. Gs that become ready go to the global queue, for the Ps that are in.
 *
 * So each P that is out costs a sleeping thread, and an event in its poller costs one more switch between threads. New
 * descriptors go to Ps that are in (fewest_fds), new timers to the P of the M that sets them.
 *
 * Coming back: the state becomes P_IDLE, and m_start gives the P to the M in its poller. A P that was never there is
 * made, and gets an M by m_start as well. An M that was given a P looks for work. So a thread that published work
 * before the P was in, and found no idle P, need not be told.
 *
 * Invariants:
 *
 *   - sched.lock owns a P that is P_OUT. p->poll_m is the M that attends it. No thread takes this M away, since the P
 *     is neither in sched.idle_ps nor P_IDLE. Only rt_set_procs moves the state on, to P_IDLE.
 *   - a P is marked under sched.lock, and an M looks for the mark under that lock before it makes its P idle: so
 *     rt_set_procs finds the P idle, or the M finds the mark;
 *   - sched.procs grows, by a store that follows the making of the P (sequentially consistent, hence a release): a
 *     thread that reads sched.procs finds each P below it whole.
 *   - n_in changes under sched.lock, together with the P's state, and the P is not in sched.idle_ps at this moment. So
 *     n_idle_ps == n_in, read under the lock and without it, means that no P runs.
 *   - n_spinning may have told a thread that publishes work "an M spins", and this M may be the one that goes out. The
 *     M stops spinning first, then calls wakep. The fence in wakep stands between the two. So either this call sees the
 *     work, or its publisher sees n_spinning without the M (the dance of proc.c).
 *   - An M that attends runs no Gs. It is counted as a claimed thread (rt_claim_thread), so that calls that block do
 *     not use up all others. If no thread can be had to take its place, the P stays in.
 *   - Between taking a timer out of the heap and queueing its G, the M that attends has no P that runs. It is counted
 *     in n_syscalls, from before, under sched.lock, so that check_dead sees it or the timer.
 *
 * Rejected: stopping the world and moving timers and descriptors, as Go does. Every timer's `home` and every pollDesc's
 * P would become a word that changes beneath its users, for an event as rare as this one.
 *
 * The quota. If the user has named no number of Ps, sysmon asks again for the cgroup's quota and the CPUs of the
 * process every FOLLOW_NS, while anything runs at all.
 */
#include "impl.h"

#include "trace.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FOLLOW_NS (10 * NS_PER_SEC)

static rt_lock resizing; /* one rt_set_procs at a time; taken before sched.lock */

/* ---- out ---- */

/* Moves p's queue to l. Only the owner of p. */
static void take_queue(rt_p *p, g_list *l) {
    for (rt_g *g; (g = runq_get(p));)
        g_list_push(l, g);
}

/* m has no P and stands in the poller of p, which is out, until m gets p back. */
static void attend(rt_m *m, rt_p *p) {
    for (;;) {
        g_list ready = {0};
        int64_t now = poll_until_next(p, &ready);
        if (regain(m, p, false, true)) { /* the P that was handed over is p */
            leave_poller(p);
            p->now_ns = now;
            inject(m, &ready);
            return;
        }
        rt_lock_acquire(&sched.lock);
        if (!m->next_p && p->poll_m != m)
            rt_throw("P %d is out, and M %d no longer attends it", p->id, m->id);
        atomic_fetch_add(&sched.n_syscalls, 1);
        rt_lock_release(&sched.lock);
        timers_run(p, &now);
        inject(m, &ready);
        rt_lock_acquire(&sched.lock);
        atomic_fetch_sub(&sched.n_syscalls, 1);
        check_dead();
        rt_lock_release(&sched.lock);
    }
}

bool p_out(rt_m *m) {
    rt_p *p = m->p;
    g_list l = {0};
    if (!rt_claim_thread()) {
        atomic_store(&p->leaves, false);
        return false;
    }
    take_queue(p, &l);
    g_give_lists(p);
    stop_spinning(m);
    rt_lock_acquire(&sched.lock);
    global_put(&l);
    bool out = atomic_load(&p->leaves);
    if (out) {
        p_release(m);
        atomic_store(&p->status, P_OUT);
        p->poll_m = m;
        atomic_fetch_add(&p->n_in_poll, 1);
        atomic_fetch_sub(&sched.n_in, 1);
        check_dead();
    }
    rt_lock_release(&sched.lock);
    wakep();
    if (out) {
        TRACE(TRACE_IDLE, p, NULL, 0);
        attend(m, p);
    }
    rt_release_thread();
    return out;
}

/* ---- in ---- */

/* Brings p in, whose state is idle, and finds an M for it. sysmon says that it sleeps, then looks whether a P is busy;
 * here the count comes first, then the question. */
static void bring_in(rt_p *p) {
    if (atomic_load(&sched.sysmon_sleeps) == SYSMON_SLEEPS) sysmon_wake();
    m_start(p, false);
}

/* Makes P number sched.procs, idle and in no list. 0 or -errno. */
static int make_p(void) {
    rt_p *p = &sched.ps[sched.procs];
    memset(p, 0, sizeof *p);
    p->poller = netpoll_new();
    if (!p->poller) return -errno;
    p->id = sched.procs;
    p->now_ns = rt_nanotime();
    atomic_store(&p->last_poll_ns, p->now_ns);
    rt_lock_acquire(&sched.lock);
    atomic_store(&sched.procs, p->id + 1);
    atomic_fetch_add(&sched.n_in, 1);
    rt_lock_release(&sched.lock);
    return 0;
}

void procs_init(int procs) {
    size_t size = sizeof(rt_p) * MAX_PROCS; /* address space: only Ps that are made are touched */
    sched.ps = aligned_alloc(CACHE_LINE, (size + CACHE_LINE - 1) & (size_t)-CACHE_LINE);
    if (!sched.ps) debug_no_start("out of memory for Ps");
    atomic_store(&sched.follows, procs == 0);
    atomic_store(&sched.procs_asked, -1);
    if (procs == 0) procs = rt_cpu_count();
    if (procs > MAX_PROCS) procs = MAX_PROCS;
    for (int i = 0; i < procs; i++) {
        int err = make_p();
        if (err) debug_no_start("cannot make a poller: %s", strerror(-err));
    }
    for (int i = procs - 1; i > 0; i--)
        p_idle_put(&sched.ps[i]);
}

static void let_out(rt_p *p) {
    rt_lock_acquire(&sched.lock);
    bool idle = p->in_idle;
    atomic_store(&p->leaves, true);
    if (idle) p_idle_get(p);
    rt_lock_release(&sched.lock);
    if (idle) m_start(p, false);
}

static void let_in(rt_p *p) {
    rt_lock_acquire(&sched.lock);
    bool was_out = atomic_load(&p->status) == P_OUT;
    atomic_store(&p->leaves, false);
    if (was_out) {
        atomic_store(&p->status, P_IDLE);
        atomic_fetch_add(&sched.n_in, 1);
    }
    rt_lock_release(&sched.lock);
    if (was_out) bring_in(p);
}

/* resizing held. 0 or -errno. */
static int set_procs(int n) {
    for (int i = 0; i < sched.procs; i++)
        if (i < n)
            let_in(&sched.ps[i]);
        else
            let_out(&sched.ps[i]);
    while (sched.procs < n) {
        int err = make_p();
        if (err) return err;
        bring_in(&sched.ps[sched.procs - 1]);
    }
    return 0;
}

static int cpus(void) {
    int n = rt_cpu_count();
    return n < MAX_PROCS ? n : MAX_PROCS;
}

int rt_set_procs(int n) {
    if (n < 0 || n > MAX_PROCS) return -EINVAL;
    rt_lock_acquire(&resizing);
    atomic_store(&sched.follows, n == 0);
    atomic_store(&sched.procs_asked, n);
    if (n == 0) n = cpus();
    int err = set_procs(n);
    rt_lock_release(&resizing);
    return err ? err : n;
}

int rt_procs_asked(void) {
    return atomic_load(&sched.procs_asked);
}

void procs_follow(int64_t now_ns) {
    static int64_t next_ns; /* sysmon's */
    if (!atomic_load(&sched.follows) || now_ns < next_ns) return;
    bool first = next_ns == 0;
    next_ns = now_ns + FOLLOW_NS;
    if (first) return; /* rt_main has just asked */
    int n = cpus();
    if (n == atomic_load(&sched.n_in)) return;
    rt_lock_acquire(&resizing);
    /* Without memory or descriptors for a poller there are fewer Ps until the next look. */
    if (atomic_load(&sched.follows)) (void)set_procs(n);
    rt_lock_release(&resizing);
}
