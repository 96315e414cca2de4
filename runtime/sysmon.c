/* sysmon: a thread without a P that sees what the Ms are too busy to see.
 *
 * It sleeps 20 us between rounds; after 50 rounds without anything to do it doubles that up to
 * 10 ms; when all Ps have been idle for a while it sleeps until somebody takes a P (p_idle_get looks
 * at sysmon_waits). Each round:
 *
 *   - polls for a P that nobody polled for 10 ms, since its G does not stop;
 *   - wakes an M for timers of a busy P that are overdue;
 *   - takes Ps whose M is in a system call for more than one round, if there is anything to do;
 *   - tells a P that runs the same G for 10 ms to let others run (a cell looks between its Gs).
 */
#include "impl.h"

#include <signal.h>
#include <string.h>

enum { ROUND_MIN_US = 20, ROUND_MAX_US = 10000, IDLE_ROUNDS = 50, DEEP_ROUNDS = 500 };

typedef struct watch {
    uint32_t slicetick, syscalltick;
    int64_t sched_since_ns, syscall_since_ns;
} watch; /* what sysmon saw of a P, and since when */

void sysmon_wake(void) {
    if (atomic_exchange(&sched.sysmon_waits, false)) note_wake(&sched.sysmon_note);
}

/* Takes p out of a system call, and has another M run it. */
static bool retake(rt_p *p) {
    uint32_t status = P_SYSCALL;
    if (!atomic_compare_exchange_strong(&p->status, &status, P_IDLE)) return false;
    atomic_fetch_add(&sched.n_handoffs, 1);
    m_start(p, false);
    return true;
}

static bool watch_p(rt_p *p, watch *w, int64_t now) {
    bool did = false;
    uint32_t status = atomic_load(&p->status);
    uint32_t tick = atomic_load(&p->slicetick);
    if (status == P_RUNNING) {
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
            did = l.head != NULL;
            inject(NULL, &l);
        }
        int64_t timer = atomic_load(&p->timer_next_ns);
        if (timer != 0 && now - timer > NS_PER_MS) wakep();
    } else if (status == P_SYSCALL) {
        uint32_t calls = atomic_load(&p->syscalltick);
        if (calls != w->syscalltick) {
            w->syscalltick = calls;
            w->syscall_since_ns = now;
        } else {
            /* One round is long enough if Gs wait; 10 ms if only its poller or timers may. */
            bool work = !runq_empty(p) || atomic_load(&sched.n_runq) > 0;
            if (work || now - w->syscall_since_ns > SLICE_NS) did = retake(p);
        }
    }
    return did;
}

static void *sysmon(void *arg) {
    (void)arg;
    static watch watches[MAX_PROCS];
    int idle_rounds = 0;
    int64_t delay_us = ROUND_MIN_US;
    for (;;) {
        if (idle_rounds < IDLE_ROUNDS)
            delay_us = ROUND_MIN_US;
        else if (delay_us < ROUND_MAX_US)
            delay_us = delay_us * 2 < ROUND_MAX_US ? delay_us * 2 : ROUND_MAX_US;
        struct timespec t = {0, delay_us * 1000};
        nanosleep(&t, NULL);

        bool all_idle = atomic_load(&sched.n_idle_ps) == sched.procs;
        if (all_idle && idle_rounds > DEEP_ROUNDS) {
            note_clear(&sched.sysmon_note);
            atomic_store(&sched.sysmon_waits, true);
            /* Who took a P before the store has not seen it: look once more. */
            if (atomic_load(&sched.n_idle_ps) == sched.procs ||
                !atomic_exchange(&sched.sysmon_waits, false))
                note_sleep(&sched.sysmon_note);
            idle_rounds = 0;
        }
        bool did = false;
        int64_t now = rt_nanotime();
        for (int32_t i = 0; i < sched.procs; i++) did |= watch_p(&sched.ps[i], &watches[i], now);
        idle_rounds = did ? 0 : idle_rounds + 1;
    }
    return NULL;
}

void sysmon_start(void) {
    pthread_t t;
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int err = pthread_create(&t, NULL, sysmon, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err) rt_throw("cannot make sysmon's thread: %s", strerror(err));
    pthread_detach(t);
}
