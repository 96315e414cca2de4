/* When something is wrong: throw, dump, deadlock. And the counters, for when it is not. */
#include "impl.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* write(2) only: this may run in a signal handler or with any lock held. */
static void emit(const char *s, size_t n) {
    while (n > 0) {
        ssize_t r = write(STDERR_FILENO, s, n);
        if (r <= 0) return; /* nowhere to say it */
        s += r;
        n -= (size_t)r;
    }
}

void rt_throw(const char *fmt, ...) {
    char buf[512] = "lunapark: fatal: ";
    size_t at = strlen(buf);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(buf + at, sizeof buf - at - 1, fmt, ap);
    va_end(ap);
    if (n > 0) at += (size_t)n < sizeof buf - at - 1 ? (size_t)n : sizeof buf - at - 2;
    buf[at++] = '\n';
    emit(buf, at);
    abort();
}

const char *rt_reason_name(rt_reason r) {
    static const char *const names[RT_NREASONS] = {
        [RT_WAIT_NONE] = "nothing",       [RT_WAIT_SLEEP] = "sleep",     [RT_WAIT_PARK] = "park",
        [RT_WAIT_READ] = "read",          [RT_WAIT_WRITE] = "write",     [RT_WAIT_ACCEPT] = "accept",
        [RT_WAIT_CONNECT] = "connect",    [RT_WAIT_JOIN] = "join",       [RT_WAIT_CELL] = "VM idle",
        [RT_WAIT_SYSCALL] = "system call", [RT_WAIT_OTHER] = "other",
    };
    return r < RT_NREASONS ? names[r] : "?";
}

static const char *const status_names[] = {"idle", "runnable", "running", "syscall", "waiting", "dead"};

enum { G_BLOCK = 64 };

/* Calls fn for every G that is not dead; their fields may change meanwhile. */
static void each_g(void (*fn)(rt_g *g, void *arg), void *arg) {
    rt_lock_acquire(&sched.gfree_lock);
    for (uint32_t b = 0; b < sched.n_blocks; b++)
        for (int i = 0; i < G_BLOCK; i++) fn(&sched.blocks[b][i], arg);
    rt_lock_release(&sched.gfree_lock);
}

static void dump_g(rt_g *g, void *arg) {
    uint32_t status = atomic_load_explicit(&g->status, memory_order_acquire);
    if (status == G_DEAD || status == G_IDLE) return;
    char buf[160];
    int n;
    const char *kind = g->drives ? "VM" : g->step ? g->cell ? "in VM" : "step" : "native";
    if (status == G_WAITING || status == G_SYSCALL) {
        rt_reason reason = atomic_load_explicit(&g->reason, memory_order_relaxed);
        double s = (double)(*(int64_t *)arg - atomic_load_explicit(&g->since_ns, memory_order_relaxed)) / 1e9;
        n = snprintf(buf, sizeof buf, "G %lld %s: %s, %s, %.3f s\n", (long long)g->id, kind,
                     status_names[status], rt_reason_name(reason), s < 0 ? 0 : s);
    } else {
        n = snprintf(buf, sizeof buf, "G %lld %s: %s\n", (long long)g->id, kind, status_names[status]);
    }
    emit(buf, (size_t)n);
}

void rt_dump(void) {
    int64_t now = rt_nanotime();
    each_g(dump_g, &now);
}

static void count_g(rt_g *g, void *arg) {
    rt_stats *s = arg;
    switch (atomic_load_explicit(&g->status, memory_order_relaxed)) {
    case G_RUNNABLE:
        s->g_runnable++;
        break;
    case G_RUNNING:
        s->g_running++;
        break;
    case G_SYSCALL:
        s->g_syscall++;
        break;
    case G_WAITING:
        s->g_waiting++;
        break;
    case G_DEAD:
        s->g_dead++;
        break;
    }
}

int rt_read_p_stats(int32_t id, rt_p_stats *s) {
    if (id < 0 || id >= sched.procs) return -EINVAL;
    rt_p *p = &sched.ps[id];
    *s = (rt_p_stats){
        .status = (int32_t)atomic_load(&p->status),
        .runq = (int32_t)(atomic_load(&p->runq_tail) - atomic_load(&p->runq_head)),
        .switches = atomic_load(&p->schedtick),
        .steals = count_get(&p->n_steals),
        .polls = count_get(&p->n_polls),
        .poll_events = count_get(&p->n_poll_events),
        .fds = count_get(&p->n_fds),
    };
    return 0;
}

void rt_read_stats(rt_stats *s) {
    memset(s, 0, sizeof *s);
    each_g(count_g, s);
    s->procs = sched.procs;
    s->idle_ps = atomic_load(&sched.n_idle_ps);
    m_count_ms(&s->ms, &s->idle_ms);
    s->spinning_ms = atomic_load(&sched.n_spinning);
    s->handoffs = count_get(&sched.n_handoffs);
    s->fds = count_get(&sched.n_fds);
    s->stack_bytes = stack_bytes();
    for (int32_t i = 0; i < sched.procs; i++) {
        rt_p *p = &sched.ps[i];
        rt_p_stats ps;
        rt_read_p_stats(i, &ps);
        s->switches += ps.switches;
        s->steals += ps.steals;
        s->polls += ps.polls;
        s->poll_events += ps.poll_events;
        s->timers_fired += count_get(&p->n_timers_fired);
        rt_lock_acquire(&p->timer_lock);
        s->timers += p->ntimers;
        rt_lock_release(&p->timer_lock);
    }
}

/* sched.lock held, by an M that is about to wait. If no P runs, no G is queued or in a system call,
 * no timer is set and no descriptor is polled, nothing can ever happen again. */
void check_dead(void) {
    if (sched.deadlock_is_normal || atomic_load(&sched.n_idle_ps) != sched.procs) return;
    if (sched.runq.n || atomic_load(&sched.n_syscalls) || count_get(&sched.n_fds) || timers_live()) return;
    for (int32_t i = 0; i < sched.procs; i++)
        if (!runq_empty(&sched.ps[i])) return;
    const char *msg = "lunapark: all Gs are asleep - deadlock!\n";
    emit(msg, strlen(msg));
    rt_dump();
    fflush(NULL);
    _exit(2);
}
