/* sysmon: a thread without a P that sees what the Ms are too busy to see.
 *
 * sysmon sleeps 20 us between rounds. After 50 rounds without anything to do it doubles the sleep up to 10 ms. When all
 * Ps have been idle for a while, it sleeps until an M takes a P (p_idle_get looks at sysmon_sleeps). A system call that
 * begins does not wait for the end of a nap, a sleep of more than 1 ms: rt_entersyscall ends the nap, and for the next
 * rounds sleeps are short again, 250 us while a P is in a call. So a call that lasts, unannounced, holds other Gs up
 * for some 0.3 ms, and calls that do not last wake sysmon some 500 times a second at most. Each round:
 *
 *   - polls for a P that was not polled for 10 ms, since its G does not stop. This is no reason for short rounds: the
 *     next such poll is due in 10 ms;
 *   - wakes an M for overdue timers of a busy P;
 *   - takes Ps whose M is in a system call for more than one round, if there is anything to do or to wait for;
 *   - takes Ps whose M runs the same foreign code for 20 ms, and, from the cells that are stuck there, the Gs that have
 *     not begun (syscall.c, cell.c);
 *   - polls and runs timers for idle Ps for which no thread could be had, and tries again to have one (m.c);
 *   - tells a P that runs the same G for 10 ms to let other Gs run (a cell looks between its Gs);
 *   - keeps now_ns of a P whose G does not stop at most 10 ms behind;
 *   - gives pages of unused stacks back, every second;
 *   - asks, every 10 s, how many CPUs the process may use (procs.c);
 *   - does what a signal asked for if no P does (signal.c);
 *   - prints a line every N ms if LUNAPARK_DEBUG=schedtrace=N, for which it wakes from its deep sleep.
 *
 * The line has totals; events since the last line have a plus:
 *
 *     SCHED 1003ms: ps=4 idle=3 ms=5 idle=1 spinning=0 runq=0 [0 0 2 0] polls=+81 events=+80
 *     steals=+3 handoffs=+0 switches=+612 gs: runnable=2 running=1 syscall=0 waiting=70 dead=55
 *
 * Time comes from a table of two functions. A test replaces the table by its own: it stops the thread between two
 * rounds, moves the clock, and looks at what the next round did (test_sysmon.c).
 */
#include "impl.h"

#include "trace.h"

#include <stdio.h>
#include <string.h>

#define SCAVENGE_NS (1 * NS_PER_SEC)
#define FEED_MIN_NS (10 * NS_PER_MS)
#define FEED_MAX_NS (1 * NS_PER_SEC)

#define NAP_NS (1 * NS_PER_MS) /* a longer sleep ends when a system call begins */

enum { ROUND_MIN_US = 20, ROUND_MAX_US = 10000, IDLE_ROUNDS = 50, DEEP_ROUNDS = 500 };
enum { CALL_ROUND_US = 250 }; /* the most between two rounds while a P is in a system call */

typedef struct watch {
    uint32_t slicetick, syscalltick;
    int64_t sched_since_ns, syscall_since_ns;
} watch; /* what sysmon saw of a P, and since when */

static int64_t foreign_ns;
static bool called; /* sysmon's: a P is in a system call, or was just now */

void sysmon_wake(void) {
    if (atomic_exchange(&sched.sysmon_sleeps, SYSMON_UP) != SYSMON_UP)
        note_wake(&sched.sysmon_note);
}

/* Takes p out of foreign code and finds another M for p. */
static bool retake_foreign(rt_p *p, uint32_t word) {
    if (!foreign_retake(p, word)) return false;
    atomic_fetch_add(&sched.n_handoffs, 1);
    TRACE(TRACE_RETAKE, NULL, NULL, p->id);
    m_start(p, false);
    return true;
}

/* Moves Gs that were posted to away cells and have not begun to the global queue. */
static bool relieve_cells(void) {
    rt_lock_acquire(&sched.lock);
    bool any = sched.away && cell_relieve();
    rt_lock_release(&sched.lock);
    if (any) wakep();
    return any;
}

/* p's M is in a system call. Takes p after one round if something waits: Gs, or events that only an M in p's poller
 * sees in time. */
static bool watch_call(rt_p *p, watch *w, int64_t now) {
    uint32_t calls = atomic_load(&p->syscalltick);
    if (calls != w->syscalltick) {
        w->syscalltick = calls;
        w->syscall_since_ns = now;
        return false;
    }
    bool work = !runq_empty(p) || atomic_load(&sched.n_runq) > 0 || count_get(&p->n_fds) > 0 ||
                atomic_load(&p->timer_next_ns) != 0;
    return (work || now - w->syscall_since_ns > SLICE_NS) && syscall_retake(p);
}

static bool watch_p(rt_p *p, watch *w, int64_t now) {
    bool did = false;
    uint32_t word = atomic_load(&p->status), status = word & P_STATUS;
    uint32_t tick = atomic_load(&p->slicetick);
    if (status == P_RUNNING || status == P_FOREIGN) {
        if (now - atomic_load_explicit(&p->now_ns, memory_order_relaxed) > SLICE_NS)
            atomic_store_explicit(&p->now_ns, now, memory_order_relaxed);
        if (tick != w->slicetick) {
            w->slicetick = tick;
            w->sched_since_ns = now;
        } else if (now - w->sched_since_ns > SLICE_NS) {
            atomic_store(&p->yield_now, true);
        }
        int64_t polled = atomic_load(&p->last_poll_ns);
        if (count_get(&p->n_fds) > 0 && polled != 0 && now - polled > UNPOLLED_NS &&
            atomic_compare_exchange_strong(&p->last_poll_ns, &polled, now)) {
            g_list l = {0};
            netpoll_p(p, 0, &l);
            inject(NULL, &l);
        }
        int64_t timer = atomic_load(&p->timer_next_ns);
        if (timer != 0 && now - timer > NS_PER_MS) wakep();
    }
    if (status == P_FOREIGN) {
        uint32_t calls = atomic_load(&p->syscalltick);
        if (calls != w->syscalltick) {
            w->syscalltick = calls;
            w->syscall_since_ns = now;
        } else if (now - w->syscall_since_ns >= foreign_ns) {
            did |= retake_foreign(p, word);
        }
    } else if (status == P_SYSCALL) {
        called = true;
        did |= watch_call(p, w, now);
    }
    return did;
}

/* ---- Ps without an M ---- */

/* Polls and runs timers for an idle P without an M in its poller, for want of a thread. */
static void tend_p(rt_p *p, int64_t now) {
    rt_lock_acquire(&sched.lock);
    bool alone = p->in_idle && !p->poll_m;
    rt_lock_release(&sched.lock);
    if (!alone) return;
    timers_run(p, &now);
    g_list l = {0};
    if (count_get(&p->n_fds) > 0) netpoll_p(p, 0, &l);
    inject(NULL, &l);
}

/* Called each round while threads are missing. Tries to make a thread after FEED_MIN_NS, then ever more seldom. */
static void tend_starved(int64_t now) {
    static int64_t next_ns, pause_ns; /* sysmon's */
    for (int32_t i = 0; i < sched.procs; i++)
        tend_p(&sched.ps[i], now);
    if (now < next_ns) return;
    bool fed = m_feed();
    pause_ns = fed || pause_ns == 0         ? FEED_MIN_NS
               : pause_ns * 2 < FEED_MAX_NS ? pause_ns * 2
                                            : FEED_MAX_NS;
    next_ns = now + pause_ns;
}

/* ---- schedtrace ---- */

static int64_t started_ns;

/* Where the next text goes, when snprintf at `at` returned n. */
static size_t next_at(size_t at, size_t size, int n) {
    return n < 0 ? at : at + (size_t)n < size ? at + (size_t)n : size - 1;
}

static void print_line(int64_t now) {
    static rt_stats last; /* sysmon's */
    rt_stats s;
    char buf[1024];
    size_t at = 0, size = sizeof buf - 1;
    rt_read_stats(&s);
    at = next_at(at, size,
                 snprintf(buf, size,
                          "SCHED %lldms: ps=%d idle=%d ms=%d idle=%d spinning=%d runq=%d [",
                          (long long)((now - started_ns) / NS_PER_MS), s.procs, s.idle_ps, s.ms,
                          s.idle_ms, s.spinning_ms, atomic_load(&sched.n_runq)));
    for (int32_t i = 0; i < s.procs; i++) {
        rt_p_stats p;
        rt_read_p_stats(i, &p);
        at = next_at(at, size, snprintf(buf + at, size - at, i ? " %d" : "%d", p.runq));
    }
    at = next_at(
        at, size,
        snprintf(buf + at, size - at,
                 "] polls=+%lld events=+%lld steals=+%lld handoffs=+%lld switches=+%lld"
                 " gs: runnable=%d running=%d syscall=%d waiting=%d dead=%d",
                 (long long)(s.polls - last.polls), (long long)(s.poll_events - last.poll_events),
                 (long long)(s.steals - last.steals), (long long)(s.handoffs - last.handoffs),
                 (long long)(s.switches - last.switches), s.g_runnable, s.g_running, s.g_syscall,
                 s.g_waiting, s.g_dead));
    buf[at++] = '\n';
    debug_emit(buf, at);
    last = s;
}

/* ---- the loop ---- */

/* Sleeps until sysmon_wake, at most limit_ns; 0: no limit. The event to wake for may have come before sysmon said how
 * it sleeps: `missed` looks once more. */
static void sleep_on_note(sysmon_sleep how, int64_t limit_ns, bool (*missed)(void)) {
    _Atomic uint32_t *sleeps = &sched.sysmon_sleeps;
    note_clear(&sched.sysmon_note);
    atomic_store(sleeps, how);
    if (missed() && atomic_exchange(sleeps, SYSMON_UP) != SYSMON_UP) return;
    /* The thread that took the word back to SYSMON_UP is about to wake sysmon. */
    if (limit_ns == 0 || (!note_sleep_for(&sched.sysmon_note, limit_ns) &&
                          atomic_exchange(sleeps, SYSMON_UP) == SYSMON_UP))
        note_sleep(&sched.sysmon_note);
}

static bool any_call(void) {
    for (int32_t i = 0; i < sched.procs; i++)
        if (atomic_load(&sched.ps[i].status) == P_SYSCALL) return true;
    return false;
}

static void real_sleep(int64_t delay_ns) {
    int64_t fixed_ns = rt_debug()->sysmon * NS_PER_MS;
    if (fixed_ns) delay_ns = fixed_ns;
    struct timespec t = {delay_ns / NS_PER_SEC, delay_ns % NS_PER_SEC};
    if (delay_ns > NAP_NS && !fixed_ns) {
        int64_t end = rt_nanotime() + delay_ns;
        sleep_on_note(SYSMON_NAPS, delay_ns, any_call);
        called = rt_nanotime() < end;
    } else {
        nanosleep(&t, NULL); /* sysmon's signals are blocked */
    }
}

static const sysmon_clock real_clock = {rt_nanotime, real_sleep};
static const sysmon_clock *the_clock = &real_clock;

void sysmon_set_clock(const sysmon_clock *c) {
    the_clock = c;
}

static bool any_busy(void) {
    return atomic_load(&sched.n_idle_ps) != atomic_load(&sched.n_in);
}

static void *sysmon(void *arg) {
    (void)arg;
    pthread_setname_np(pthread_self(), "lp-sysmon");
    static watch watches[MAX_PROCS];
    int idle_rounds = 0;
    int64_t delay_us = ROUND_MIN_US;
    foreign_ns = rt_debug()->retake ? rt_debug()->retake * NS_PER_MS : FOREIGN_NS;
    int64_t every_ns = rt_debug()->schedtrace * NS_PER_MS;
    int64_t next_line = every_ns ? started_ns + every_ns : 0,
            next_scavenge = started_ns + SCAVENGE_NS;
    for (;;) {
        if (idle_rounds < IDLE_ROUNDS)
            delay_us = ROUND_MIN_US;
        else if (delay_us < ROUND_MAX_US)
            delay_us = delay_us * 2 < ROUND_MAX_US ? delay_us * 2 : ROUND_MAX_US;
        if (called && delay_us > CALL_ROUND_US) delay_us = CALL_ROUND_US;
        called = false;
        the_clock->sleep(delay_us * 1000);

        int64_t now = the_clock->now();
        bool all_idle = !any_busy();
        bool starved = atomic_load(&sched.starved);
        if (starved) tend_starved(now);
        if (all_idle && !starved && idle_rounds > DEEP_ROUNDS) {
            if (!next_line) {
                sleep_on_note(SYSMON_SLEEPS, 0, any_busy);
                idle_rounds = 0;
            } else if (next_line > now) {
                sleep_on_note(SYSMON_SLEEPS, next_line - now, any_busy);
                if (any_busy()) idle_rounds = 0;
            }
            now = the_clock->now();
        }
        bool did = false;
        for (int32_t i = 0; i < sched.procs; i++)
            did |= watch_p(&sched.ps[i], &watches[i], now);
        if (atomic_load(&sched.n_syscalls) > 0) did |= relieve_cells();
        signal_watch(now);
        procs_follow(now);
        if (now >= next_scavenge) {
            /* A batch each time; the next one in the next round if there may be more. */
            if (stack_scavenge() == 0) next_scavenge = now + SCAVENGE_NS;
        }
        if (next_line && now >= next_line) {
            print_line(now);
            next_line += every_ns;
            if (next_line <= now) next_line = now + every_ns; /* never two lines for one period */
        }
        idle_rounds = did ? 0 : idle_rounds + 1;
    }
    return NULL;
}

void sysmon_start(void) {
    started_ns = the_clock->now();
    int err = rt_start_thread(sysmon, NULL);
    if (err) debug_no_start("cannot make sysmon's thread: %s", strerror(-err));
}
