/* The scheduler: which G runs next, and what happens when a G stops.
 *
 * G, M, P are Go's words. A G is something to run, an M a thread. A P is the right to run Gs, with what running Gs
 * needs (a queue, timers, a poller). There are `procs` Ps (procs.c changes their number), so at most `procs` Gs run at
 * once. There are more Ms than Ps, since some Ms are in system calls.
 *
 * Each M runs schedule_loop on its own stack: find a runnable G, run it until it leaves, do what it left for. A native
 * G leaves by switching back to the loop's stack (g_leave), a step G by returning from its step. Either way the loop
 * then calls finish_step on its own stack. The G's stack is no longer in use, so the G may run on another M as soon as
 * its commit function lets another thread see the G. This order is all there is to parking: set the state to waiting,
 * commit, do not touch the G afterwards.
 *
 * Mostly the next G is a native G that lies in the ring. Then g_leave does not go through the loop but switches
 * straight to the next G. The next G does for the G that left what the loop would have done (settle): one switch
 * instead of two. The rule holds here, too: no stack is in use when its G is committed. But the commit function runs on
 * another G's stack, so it must be short and must not wait. The loop has its turn when the ring is empty, when the next
 * G is a step G, and every 61st time.
 *
 * Waking Ms. An M too few wastes a core, an M too many wastes energy and thrashes. As in Go, an M without work spins a
 * while, looking for something to steal. When work appears and no M spins, one more M is woken. The woken M spins,
 * finds the work, and wakes the next M before it runs the work. So:
 *
 *   - A thread that adds work publishes the work, does a full fence, then looks at n_spinning and n_idle_ps (wakep).
 *   - An M that drops a P raises n_idle_ps, lowers n_spinning if it was spinning, does a full fence, then looks at all
 *     queues.
 *
 * One of the two sees the other: no work lies while a P is idle. The second look is what Go calls the delicate dance;
 * ours is work_anywhere. Every M that drops a P takes the second look, also an M that was not spinning: a wakep may
 * have been held back by a count of spinning Ms, and the count may have come from another wakep, which found no P.
 * `make model` checks this (model/idle.pml), and that the protocol fails without either half.
 *
 * An M with nothing to do releases its P and blocks in this P's poller until the P's next timer. A thread that wants an
 * M for an idle P takes the P (sched.lock), leaves it in next_p of the M in its poller and breaks the poll. Such an M
 * has a warm cache for exactly the descriptors and timers of the P. If the P went to another M meanwhile, the M in the
 * poller hands what it polled to the global queue and sleeps on its note.
 *
 * Fairness: every 61st G the global queue and the poller come before the ring, so neither starves beneath Gs that ready
 * each other. sysmon polls for a P whose G does not stop at all.
 *
 * Rejected: one shared poller (every event wakes an M with a cold cache, and epoll's lock is contended); a limit of
 * spinning in time (a spin is four rounds over the Ps).
 */
#include "impl.h"

#include "trace.h"

rt_sched sched;

static __thread rt_m *tls_m;

__attribute__((noinline)) rt_m *rt_getm(void) {
    rt_m *m = tls_m;
    __asm__ volatile("" : "+r"(m)); /* neither inlined nor folded with another call */
    return m;
}

void rt_setm(rt_m *m) {
    tls_m = m;
}

rt_g *rt_self(void) {
    rt_m *m = rt_getm();
    return m ? m->curg : NULL;
}

int64_t rt_id(const rt_g *g) {
    return atomic_load_explicit(&g->id, memory_order_relaxed);
}

void *rt_local(rt_g *g) {
    return g->local;
}

int rt_p_id(void) {
    rt_m *m = rt_getm();
    return m && m->p ? m->p->id : -1;
}

int rt_procs(void) {
    return sched.procs;
}

int rt_procs_in(void) {
    return sched.n_in;
}

/* ---- leaving and coming back ---- */

/* g's commit function refused to park g: g runs next. */
static void run_on(rt_m *m, rt_g *g) {
    g_set_status(g, G_RUNNING, G_RUNNABLE);
    runq_put_next(m->p, g);
    wakep();
}

/* Does what `left` wants. The G `left` switched straight to the running G. */
static void settle_left(rt_m *m, rt_g *left) {
    m->left = NULL;
    if (m->after == RT_YIELD) { /* behind the ring, whatever made `left` yield */
        g_set_status(left, G_RUNNING, G_RUNNABLE);
        runq_put(m->p, left);
        wakep();
    } else if (finish_step(left, m->after, NULL)) {
        run_on(m, left);
    }
}

/* The first thing that a native G does whenever it runs. */
static void settle(void) {
    rt_m *m = rt_getm();
    if (m->left) settle_left(m, m->left);
}

void native_main(void *arg) {
    rt_g *g = arg;
    settle();
    g->fn(g->arg);
    g_leave(g, RT_EXIT);
    rt_throw("G %lld runs on after its end", (long long)g->id);
}

/* Takes the next G of the ring. NULL: the ring is empty, m has no P, or the loop has its turn. */
static rt_g *pick(rt_m *m) {
    rt_p *p = m->p;
    if (!p || atomic_load_explicit(&p->schedtick, memory_order_relaxed) % GLOBAL_TICK == 0)
        return NULL;
    return runq_get(p);
}

__attribute__((always_inline)) static inline void count_start(rt_p *p, rt_g *g) {
    atomic_store_explicit(&p->schedtick,
                          atomic_load_explicit(&p->schedtick, memory_order_relaxed) + 1,
                          memory_order_relaxed);
    g_set_status(g, G_RUNNABLE, G_RUNNING);
    TRACE(TRACE_START, p, g, 0);
}

void g_leave(rt_g *g, rt_step step) {
    rt_m *m = rt_getm();
    m->after = step;
    rt_g *next = pick(m);
    if (next && !next->step) {
        count_start(m->p, next);
        m->left = g;
        m->curg = next;
        m->cell = next->drives;
        rt_context_switch(&g->ctx, &next->ctx);
    } else {
        m->picked = next;
        rt_context_switch(&g->ctx, &m->ctx);
    }
    settle();
}

void rt_yield(void) {
    g_leave(rt_self(), RT_YIELD);
}

void rt_set_park(rt_g *g, rt_commit_fn commit, void *arg, rt_reason reason) {
    g->commit = commit;
    g->commit_arg = arg;
    atomic_store_explicit(&g->reason, reason, memory_order_relaxed);
}

void rt_park(rt_commit_fn commit, void *arg, rt_reason reason) {
    rt_g *g = rt_self();
    rt_set_park(g, commit, arg, reason);
    g_leave(g, RT_PARK);
}

bool finish_step(rt_g *g, rt_step step, rt_cell *home) {
    switch (step) {
    case RT_PARK:
        TRACE(TRACE_PARK, rt_getm()->p, g, atomic_load_explicit(&g->reason, memory_order_relaxed));
        atomic_store_explicit(&g->since_ns, rt_getm()->p->now_ns, memory_order_relaxed);
        g_set_status(g, G_RUNNING, G_WAITING);
        if (!g->commit || g->commit(g, g->commit_arg)) return false; /* g may run elsewhere now */
        if (g->cell != home) { /* refused, but g has moved to another cell and may run only there */
            g_set_status(g, G_WAITING, G_RUNNABLE);
            g_enqueue(g);
            return false;
        }
        g_set_status(g, G_WAITING, G_RUNNING);
        return true;
    case RT_YIELD:
        g_set_status(g, G_RUNNING, G_RUNNABLE);
        if (home && g->cell == home)
            cell_requeue(home, g);
        else
            g_enqueue(g);
        return false;
    case RT_EXIT:
        TRACE(TRACE_EXIT, rt_getm()->p, g, 0);
        bury(g);
        return false;
    }
    rt_throw("G %lld: step %d", (long long)g->id, step);
}

/* Gs in the ring of p, which the caller runs; runnext is not in it. */
static uint32_t in_ring(rt_p *p) {
    return atomic_load_explicit(&p->runq_tail, memory_order_relaxed) -
           atomic_load_explicit(&p->runq_head, memory_order_relaxed);
}

/* Puts g where it will run. True: another M should be woken to run g. False: g's cell runs it, or this M takes g next:
 * its loop is between two Gs, or its G is about to leave (rt_wake_last). */
static bool put(rt_m *m, rt_g *g) {
    if (g->cell) {
        cell_post(g->cell, g);
        return false;
    }
    if (m && m->p) {
        rt_p *p = m->p;
        if (m->curg && !m->curg->step && !g->drives && !m->cell) { /* one native G for another */
            runq_put_next(p, g);
            return !m->leaving || in_ring(p) > 0;
        }
        runq_put(p, g);
        return (m->curg && !m->leaving) || in_ring(p) > 1;
    }
    g_list l = {0};
    g_list_push(&l, g);
    rt_lock_acquire(&sched.lock);
    global_put(&l);
    rt_lock_release(&sched.lock);
    return true;
}

void g_enqueue(rt_g *g) {
    if (put(rt_getm(), g)) wakep();
}

/* A busy cell may go on for a while before its M looks into the ring. */
void g_enqueue_here(rt_g *g) {
    rt_m *m = rt_getm();
    bool busy = m->cell ? rt_others_ready() : !runq_empty(m->p);
    runq_put(m->p, g);
    if (busy) wakep();
}

void rt_ready(rt_g *g) {
    if (TRACE_ON()) {
        rt_m *m = rt_getm();
        trace_event(TRACE_READY, m ? m->p : NULL, g, 0);
    }
    g_set_status(g, G_WAITING, G_RUNNABLE);
    g_enqueue(g);
}

void inject(rt_m *m, g_list *l) {
    bool more = false;
    for (rt_g *g; (g = g_list_pop(l));)
        more |= put(m, g);
    if (more) wakep();
}

/* The caller has published work, see the essay. With one P that runs on this M no M is to be woken: this M looks at the
 * P's queues before it stops. Without a P at hand n_idle_ps tells. */
void wakep(void) {
    if (sched.procs == 1 && rt_getm() && rt_getm()->p) return;
    full_fence();
    if (atomic_load_explicit(&sched.n_idle_ps, memory_order_relaxed) == 0) return;
    int32_t none = 0;
    if (atomic_load_explicit(&sched.n_spinning, memory_order_relaxed) != 0 ||
        !atomic_compare_exchange_strong(&sched.n_spinning, &none, 1))
        return;
    rt_lock_acquire(&sched.lock);
    rt_p *p = p_idle_get(NULL);
    /* Under the lock, so before another M can put a P back: a thread that publishes work after this must not take our
     * n_spinning for an M that looks. */
    if (!p) atomic_fetch_sub(&sched.n_spinning, 1);
    rt_lock_release(&sched.lock);
    if (p) m_start(p, true);
}

/* ---- finding work ---- */

/* Polls the poller of m's P without waiting. The Gs that became ready go to the ring. */
static void poll_own(rt_m *m, int64_t now_ns) {
    rt_p *p = m->p;
    if (count_get(&p->n_fds) == 0) return;
    atomic_store_explicit(&p->last_poll_ns, now_ns ? now_ns : rt_nanotime(), memory_order_relaxed);
    g_list l = {0};
    netpoll_p(p, 0, &l);
    inject(m, &l);
}

void stop_spinning(rt_m *m) {
    if (!m->spinning) return;
    m->spinning = false;
    if (atomic_fetch_sub(&sched.n_spinning, 1) <= 0) rt_throw("negative count of spinning Ms");
}

static rt_g *steal_work(rt_m *m, int64_t *now_ns) {
    rt_p *p = m->p;
    for (int round = 0; round < 4; round++) {
        uint32_t at = (uint32_t)m_rand(m);
        for (int32_t i = 0; i < sched.procs; i++) {
            rt_p *victim = &sched.ps[(at + (uint32_t)i) % (uint32_t)sched.procs];
            if (victim == p) continue;
            rt_g *g = runq_steal(p, victim, round == 3);
            if (g) {
                TRACE(TRACE_STEAL, p, g, victim->id);
                return g;
            }
            if (round < 3) continue;
            /* The last round: timers that a busy P has let expire, then the own ring again. */
            if (timers_run(victim, now_ns) && (g = runq_get(p))) return g;
        }
    }
    return NULL;
}

bool regain(rt_m *m, rt_p *last, bool work, bool spin) {
    rt_lock_acquire(&sched.lock);
    rt_p *p = m->next_p;
    if (p) {
        m->next_p = NULL;
        spin = m->to_spin; /* the thread that handed the P over has counted m */
    } else if ((work || (!spin && last->in_idle && last->poll_m == m)) && (p = p_idle_get(last))) {
        if (spin) atomic_fetch_add(&sched.n_spinning, 1);
        p_evict(p, m);
    }
    if (p && last->poll_m == m) last->poll_m = NULL;
    rt_lock_release(&sched.lock);
    if (!p) return false;
    p_acquire(m, p);
    m->spinning = spin;
    return true;
}

/* The second look of the delicate dance, after the P was dropped and n_spinning went down. */
static bool work_anywhere(void) {
    full_fence();
    if (atomic_load_explicit(&sched.n_runq, memory_order_relaxed) > 0) return true;
    for (int32_t i = 0; i < sched.procs; i++)
        if (!runq_empty(&sched.ps[i])) return true;
    return false;
}

/* An evicted M may still be on its way out of a poller when the next M goes in, and may take the break that is meant
 * for the next M. So an M that leaves while another is in passes the break on. The other M was counted under sched.lock
 * when it became poll_m, hence before any thread could break it. */
void leave_poller(rt_p *p) {
    if (atomic_fetch_sub(&p->n_in_poll, 1) > 1) netpoll_break(p->poller);
}

int64_t poll_until_next(rt_p *p, g_list *l) {
    /* In this order: a thread that sets an earlier timer stores timer_next_ns, then looks for the 0. */
    atomic_store(&p->last_poll_ns, 0);
    int64_t next = atomic_load(&p->timer_next_ns);
    int64_t delay = -1;
    if (next) {
        delay = next - rt_nanotime();
        if (delay < 0) delay = 0;
    }
    netpoll_p(p, delay, l);
    int64_t now = rt_nanotime();
    atomic_store(&p->last_poll_ns, now);
    return now;
}

/* Blocks in the poller of p, which m has released, until an event, a timer or a break; longer if no P is free then.
 * Returns with a P, and the Gs that became ready are queued; or m->ended. */
static void idle(rt_m *m, rt_p *p) {
    g_list ready = {0};
    int64_t now = poll_until_next(p, &ready);
    leave_poller(p);
    /* With no ready G, m takes only the P in whose poller_m it still stands. If an evicted M took another idle P, it
     * would evict the M in this P's poller, which would take the next P: for ever. */
    if (regain(m, p, ready.head != NULL, false)) {
        m->p->now_ns = now;
        inject(m, &ready);
        return;
    }
    inject(m, &ready); /* m has no P: they go to the global queue */
    rt_lock_acquire(&sched.lock);
    if (m->next_p) { /* a P was handed over just now */
        rt_lock_release(&sched.lock);
        regain(m, p, false, false);
        return;
    }
    if (p->poll_m == m) p->poll_m = NULL;
    m_stop(m);
}

/* Calls global_get; the caller does not hold sched.lock. */
static rt_g *global_next(rt_p *p, int32_t max) {
    if (atomic_load_explicit(&sched.n_runq, memory_order_relaxed) == 0) return NULL;
    rt_lock_acquire(&sched.lock);
    rt_g *g = global_get(p, max);
    rt_lock_release(&sched.lock);
    return g;
}

void rt_look(void) {
    rt_m *m = rt_getm();
    int64_t now = 0;
    timers_run(m->p, &now);
    poll_own(m, now);
}

/* A G that shares often keeps the ring from ever being empty, so findrunnable never looks further. Hence rt_share looks
 * at timers and events itself, and at the global queue, which holds the Gs for which sysmon has found an event. */
void rt_share(void) {
    rt_m *m = rt_getm();
    rt_g *g = m->curg, *driver = cell_driver(m->cell);
    rt_look();
    rt_g *first = global_next(m->p, 0);
    if (first) runq_put(m->p, first);
    m->curg = driver;
    g_leave(driver, RT_YIELD);
    rt_getm()->curg = g;
}

/* A runnable G for m; waits until there is one. NULL: m ends. */
static rt_g *findrunnable(rt_m *m) {
    if (m->picked) {
        rt_g *picked = m->picked;
        m->picked = NULL;
        return picked;
    }
    for (;;) {
        rt_p *p = m->p;
        rt_g *g;
        int64_t now = 0;
        if (atomic_load_explicit(&p->leaves, memory_order_relaxed) && p_out(m)) continue;
        uint32_t tick = atomic_load_explicit(&p->schedtick, memory_order_relaxed);
        if (tick % GLOBAL_TICK == 0) { /* every source in turn, whatever the others hold */
            now = rt_nanotime();
            p->now_ns = now;
            timers_run(p, &now);
            if (now - atomic_load_explicit(&p->last_poll_ns, memory_order_relaxed) > FRESH_NS)
                poll_own(m, now);
            if ((g = global_next(p, 1))) return g;
        }
        if ((g = runq_get(p))) return g;
        if (timers_run(p, &now) && (g = runq_get(p))) return g;
        if ((g = global_next(p, 0))) return g;
        poll_own(m, now);
        if ((g = runq_get(p))) return g;

        int32_t busy = sched.n_in - atomic_load_explicit(&sched.n_idle_ps, memory_order_relaxed);
        if (sched.procs > 1 &&
            (m->spinning ||
             2 * atomic_load_explicit(&sched.n_spinning, memory_order_relaxed) < busy)) {
            if (!m->spinning) {
                m->spinning = true;
                atomic_fetch_add(&sched.n_spinning, 1);
            }
            if ((g = steal_work(m, &now))) return g;
        }

        rt_lock_acquire(&sched.lock);
        if ((g = global_get(p, 0))) {
            rt_lock_release(&sched.lock);
            return g;
        }
        if (p->leaves) { /* marked since the look above, when p was not idle: see procs.c */
            rt_lock_release(&sched.lock);
            continue;
        }
        p_release(m);
        p->poll_m = m;
        atomic_fetch_add(&p->n_in_poll, 1);
        p_idle_put(p);
        check_dead();
        rt_lock_release(&sched.lock);
        stop_spinning(m);
        TRACE(TRACE_IDLE, p, NULL, 0);
        /* Every M takes the second look, spinning or not: a thread that published work may have found no idle P, or a
         * spinning M that stole elsewhere. The thread counts on this look. */
        if (regain(m, p, work_anywhere(), true)) {
            leave_poller(p);
            continue;
        }
        idle(m, p);
        if (m->ended) return NULL;
    }
}

static void execute(rt_m *m, rt_g *g) {
    if (m->spinning) {
        stop_spinning(m);
        wakep(); /* there may be more work */
    }
    count_start(m->p, g);
    for (;;) {
        rt_step step;
        m->curg = g;
        if (g->step) {
            step = g->step(g);
        } else {
            m->cell = g->drives;
            rt_context_switch(&m->ctx, &g->ctx);
            g = m->curg; /* native Gs may have switched among themselves */
            step = m->after;
            m->cell = NULL;
        }
        m->curg = NULL;
        if (!m->p) { /* g came out of a system call without a P: see rt_exitsyscall */
            g_list l = {0};
            g_set_status(g, G_SYSCALL, G_RUNNABLE);
            g_list_push(&l, g);
            rt_lock_acquire(&sched.lock);
            global_put(&l);
            atomic_fetch_sub(&sched.n_syscalls, 1); /* until now check_dead had to count g */
            /* All Ps may have gone idle since g asked for one. Then no other M looks. */
            rt_p *idle_p = p_idle_get(NULL);
            if (!idle_p) {
                m_stop(m);
                return;
            }
            p_evict(idle_p, m);
            rt_lock_release(&sched.lock);
            p_acquire(m, idle_p);
            return;
        }
        if (!finish_step(g, step, NULL)) return;
        if (g->step) {
            TRACE(TRACE_START, m->p, g, 0);
            continue;
        }
        run_on(m, g); /* not at once: g may have left m->picked */
        return;
    }
}

void schedule_loop(rt_m *m) {
    for (rt_g *g; !m->ended && (g = findrunnable(m));)
        execute(m, g);
}
