/* When something is wrong: throw, dump, deadlock. And the counters, for when nothing is.
 *
 * A dump has to work when little else does. It takes a lock only for the moment in which it learns where a block of Gs
 * lies, and reads other threads' Gs while they run. So a line may mix two moments of one G. Gs are never given back, so
 * the line is a G's in any case. The place where a G was made is kept as a return address (rt_g.site) and becomes a
 * name only here (symbol.c).
 *
 * Native Gs get a line each, since they are few. Step Gs may be as many as there are connections: after the first
 * STEPS_MAX they are only counted, by what they wait for. Gs of cells are only counted as well if a hook lists them
 * (rt_on_dump).
 */
#include "impl.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STDERR_WAIT_MS = 1000, STEPS_MAX = 100 };

void debug_emit(const char *s, size_t n) {
    while (n > 0) {
        ssize_t r = write(STDERR_FILENO, s, n);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0 && errno == EAGAIN) { /* another program that shares stderr made it nonblocking */
            struct pollfd pfd = {.fd = STDERR_FILENO, .events = POLLOUT};
            if (poll(&pfd, 1, STDERR_WAIT_MS) > 0) continue;
        }
        if (r <= 0) return; /* there is no place to report this */
        s += r;
        n -= (size_t)r;
    }
}

void debug_printf(const char *fmt, ...) {
    char buf[1024];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(buf, sizeof buf, fmt, ap);
    va_end(ap);
    if (n > 0) debug_emit(buf, (size_t)n < sizeof buf ? (size_t)n : sizeof buf - 1);
}

static void (*_Atomic end_hook)(void);

void rt_on_end(void (*fn)(void)) {
    atomic_store(&end_hook, fn);
}

void debug_before_end(void) {
    void (*fn)(void) = atomic_exchange(&end_hook, NULL);
    if (fn) fn();
}

void debug_no_start(const char *fmt, ...) {
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    debug_printf("lunapark: cannot start: %s\n", text);
    _exit(1);
}

void rt_throw(const char *fmt, ...) {
    debug_before_end();
    char buf[512] = "lunapark: fatal: ";
    size_t at = strlen(buf);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(buf + at, sizeof buf - at - 1, fmt, ap);
    va_end(ap);
    if (n > 0) at += (size_t)n < sizeof buf - at - 1 ? (size_t)n : sizeof buf - at - 2;
    buf[at++] = '\n';
    debug_emit(buf, at);
    abort();
}

const char *rt_reason_name(rt_reason r) {
    static const char *const names[RT_NREASONS] = {
        [RT_WAIT_NONE] = "nothing",        [RT_WAIT_SLEEP] = "sleep",   [RT_WAIT_PARK] = "park",
        [RT_WAIT_READ] = "read",           [RT_WAIT_WRITE] = "write",   [RT_WAIT_ACCEPT] = "accept",
        [RT_WAIT_CONNECT] = "connect",     [RT_WAIT_JOIN] = "join",     [RT_WAIT_CELL] = "VM idle",
        [RT_WAIT_SYSCALL] = "system call", [RT_WAIT_SIGNAL] = "signal", [RT_WAIT_OTHER] = "other",
    };
    return r < RT_NREASONS ? names[r] : "?";
}

static const char *const status_names[] = {"idle",    "runnable", "running",
                                           "syscall", "waiting",  "dead"};

/* Calls fn for every G that is not dead; their fields may change meanwhile. */
static void each_g(void (*fn)(rt_g *g, void *arg), void *arg) {
    for (uint32_t b = 0;; b++) {
        rt_lock_acquire(&sched.gfree_lock); /* the array may move, its blocks do not */
        rt_g *block = b < sched.n_blocks ? sched.blocks[b] : NULL;
        rt_lock_release(&sched.gfree_lock);
        if (!block) return;
        for (int i = 0; i < G_BLOCK; i++)
            fn(&block[i], arg);
    }
}

enum { SITES = 8, SITE_MAX = 96 };

typedef struct crowd {
    int n;
    int64_t longest_ns;
} crowd; /* Gs in the same state */

typedef struct dump {
    int64_t now_ns;
    int n_steps;                          /* step Gs that got a line */
    crowd crowds[2][G_DEAD][RT_NREASONS]; /* of no cell, of a cell */
    size_t n;                             /* bytes in buf */
    char buf[4096]; /* lines, so that they come out whole and with few system calls */
    struct {
        const void *site;
        char text[SITE_MAX];
    } sites[SITES]; /* sites seen lately: many Gs are made in few places */
    unsigned next_site;
} dump;

__attribute__((format(printf, 2, 3))) static void dump_line(dump *d, const char *fmt, ...) {
    enum { LINE_MAX_BYTES = 256 };
    if (sizeof d->buf - d->n < LINE_MAX_BYTES) {
        debug_emit(d->buf, d->n);
        d->n = 0;
    }
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(d->buf + d->n, LINE_MAX_BYTES, fmt, ap);
    va_end(ap);
    if (n < 0) return;
    if (n >= LINE_MAX_BYTES) {
        n = LINE_MAX_BYTES - 1;
        d->buf[d->n + LINE_MAX_BYTES - 2] = '\n';
    }
    d->n += (size_t)n;
}

static const char *site_name(dump *d, const void *site) {
    for (int i = 0; i < SITES; i++)
        if (d->sites[i].site == site) return d->sites[i].text;
    unsigned i = d->next_site++ % SITES;
    d->sites[i].site = site;
    /* The address of the call itself: the code behind it may be another function, if the call does not return. */
    rt_symbol_print((const char *)site - 1, d->sites[i].text, SITE_MAX);
    return d->sites[i].text;
}

static void (*dump_hook)(rt_dump_how how);

void rt_on_dump(void (*fn)(rt_dump_how how)) {
    dump_hook = fn;
}

void rt_dump_text(const char *s, size_t n) {
    debug_emit(s, n);
}

static bool waits(uint32_t status) {
    return status == G_WAITING || status == G_SYSCALL;
}

static int64_t waits_ns(const rt_g *g, int64_t now_ns) {
    int64_t ns = now_ns - atomic_load_explicit(&g->since_ns, memory_order_relaxed);
    return ns < 0 ? 0 : ns;
}

void rt_read_g(const rt_g *g, rt_g_state *s) {
    uint32_t status = atomic_load_explicit(&g->status, memory_order_acquire);
    *s = (rt_g_state){.status = status_names[status]};
    if (!waits(status)) return;
    s->reason = rt_reason_name(atomic_load_explicit(&g->reason, memory_order_relaxed));
    s->waits_ns = waits_ns(g, rt_nanotime());
}

RT_PEEKS static void dump_g(rt_g *g, void *arg) {
    dump *d = arg;
    uint32_t status = atomic_load_explicit(&g->status, memory_order_acquire);
    if (status == G_DEAD || status == G_IDLE || g->system) return;
    long long id = g->id;
    bool in_cell = g->cell != NULL;
    rt_reason reason =
        waits(status) ? atomic_load_explicit(&g->reason, memory_order_relaxed) : RT_WAIT_NONE;
    int64_t ns = waits(status) ? waits_ns(g, d->now_ns) : 0;
    if (g->step && ((in_cell && dump_hook) || d->n_steps++ >= STEPS_MAX)) {
        crowd *c = &d->crowds[in_cell][status][reason < RT_NREASONS ? reason : RT_WAIT_NONE];
        c->n++;
        if (c->longest_ns < ns) c->longest_ns = ns;
        return;
    }
    const char *kind = g->drives ? "VM" : g->step ? in_cell ? "in VM" : "step" : "native";
    const char *site = g->site ? site_name(d, g->site) : "?";
    if (waits(status))
        dump_line(d, "G %lld %s: %s, %s, %.3f s, created by %s\n", id, kind, status_names[status],
                  rt_reason_name(reason), (double)ns / 1e9, site);
    else
        dump_line(d, "G %lld %s: %s, created by %s\n", id, kind, status_names[status], site);
}

static void dump_crowds(dump *d) {
    for (int kind = 0; kind < 2; kind++)
        for (int status = 0; status < G_DEAD; status++)
            for (int reason = 0; reason < RT_NREASONS; reason++) {
                crowd *c = &d->crowds[kind][status][reason];
                const char *name = kind ? "in VMs" : "step", *gs = c->n == 1 ? "G" : "Gs";
                if (c->n == 0) continue;
                if (waits((uint32_t)status))
                    dump_line(d, "%d %s %s: %s, %s, up to %.3f s\n", c->n, gs, name,
                              status_names[status], rt_reason_name((rt_reason)reason),
                              (double)c->longest_ns / 1e9);
                else
                    dump_line(d, "%d %s %s: %s\n", c->n, gs, name, status_names[status]);
            }
}

static const char *const p_status_names[] = {"idle", "running", "foreign", "in a system call",
                                             "out"};

static void dump_all(rt_dump_how how) {
    dump d = {.now_ns = rt_nanotime()};
    int32_t ms, idle_ms;
    m_count_ms(&ms, &idle_ms);
    dump_line(&d,
              "lunapark: %d Ps (%d idle), %d Ms (%d idle, %d looking for work), %d Gs in the "
              "global queue\n",
              sched.procs, atomic_load(&sched.n_idle_ps), ms, idle_ms,
              atomic_load(&sched.n_spinning), atomic_load(&sched.n_runq));
    for (int32_t i = 0; i < sched.procs; i++) {
        rt_p_stats p;
        rt_read_p_stats(i, &p);
        dump_line(&d, "P %d: %s, %d Gs in its queue, %lld descriptors\n", i,
                  p_status_names[p.status], p.runq, (long long)p.fds);
    }
    each_g(dump_g, &d);
    dump_crowds(&d);
    debug_emit(d.buf, d.n);
    if (dump_hook) dump_hook(how);
}

void rt_dump(void) {
    rt_m *m = rt_getm();
    bool native = m && m->p && m->curg && !m->curg->step && !m->cell;
    dump_all(native ? RT_DUMP_WAITS : RT_DUMP_NOW);
}

RT_PEEKS static void count_g(rt_g *g, void *arg) {
    rt_stats *s = arg;
    if (g->system) return;
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
        .status = (int32_t)(atomic_load(&p->status) & P_STATUS),
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
    s->procs = sched.n_in;
    s->all_ps = sched.procs;
    s->idle_ps = atomic_load(&sched.n_idle_ps);
    m_count_ms(&s->ms, &s->idle_ms);
    s->spinning_ms = atomic_load(&sched.n_spinning);
    s->handoffs = count_get(&sched.n_handoffs);
    s->fds = count_get(&sched.n_fds);
    s->stack_bytes = stack_bytes();
    s->held_stacks = atomic_load(&sched.n_held);
    rt_lock_acquire(&sched.lock);
    s->away = cells_away();
    rt_lock_release(&sched.lock);
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

/* If no P runs, no G is queued or in a system call, no timer is set, no descriptor is polled and no G waits for a
 * signal that may come, nothing can ever happen again. */
void check_dead(void) {
    if (sched.deadlock_is_normal || atomic_load(&sched.n_idle_ps) != sched.n_in) return;
    if (sched.runq.n || atomic_load(&sched.n_syscalls) || count_get(&sched.n_fds) ||
        timers_live() || signal_may_come())
        return;
    for (int32_t i = 0; i < sched.procs; i++)
        if (!runq_empty(&sched.ps[i])) return;
    debug_before_end();
    const char *msg = "lunapark: all Gs are asleep - deadlock!\n";
    debug_emit(msg, strlen(msg));
    dump_all(RT_DUMP_DEAD); /* under the lock, so that nothing begins to move */
    fflush(NULL);
    _exit(2);
}
