/* wait: of all that may end a wait one does; an old ticket does nothing; wake-ups before the park
 * and deadlines count; sleeps are never short. */
#include "harness.h"

static void a_wake_up_before_the_wait_is_kept(void *arg) {
    (void)arg;
    rt_g *g = rt_self();
    for (int i = 0; i < 1000; i++) {
        rt_wake_code code = i % 2 ? RT_WOKEN : RT_CANCELED;
        uint64_t ticket = rt_wait_open(g);
        CHECK(rt_wake(g, ticket, code));
        CHECK(!rt_wake(g, ticket, RT_WOKEN));
        CHECK_EQ(rt_wait(RT_WAIT_PARK, 0), code);
    }
}

static void an_old_ticket_does_nothing(void *arg) {
    (void)arg;
    rt_g *g = rt_self();
    uint64_t old = rt_wait_open(g);
    CHECK(rt_wake(g, old, RT_WOKEN));
    CHECK_EQ(rt_wait(RT_WAIT_PARK, 0), RT_WOKEN);
    uint64_t ticket = rt_wait_open(g);
    CHECK(ticket != old);
    CHECK(!rt_wake(g, old, RT_WOKEN));
    int64_t until = rt_nanotime() + 20 * MS;
    CHECK_EQ(rt_wait(RT_WAIT_PARK, until), RT_TIMEOUT);
    CHECK(rt_nanotime() >= until);
    CHECK(!rt_wake(g, ticket, RT_WOKEN));
}

enum { LIVES = 64 };

static struct {
    rt_g *g;
    uint64_t ticket;
} lives[LIVES];

static void live_once(void *arg) {
    int i = (int)(uintptr_t)arg;
    lives[i].g = rt_self();
    lives[i].ticket = rt_wait_open(rt_self());
    rt_wait(RT_WAIT_PARK, rt_nanotime() + 1);
}

static void live_again(void *arg) {
    bool *met = arg;
    rt_wait_open(rt_self());
    for (int i = 0; i < LIVES; i++) {
        if (lives[i].g != rt_self()) continue;
        EXPECT(!rt_wake(lives[i].g, lives[i].ticket, RT_WOKEN));
        *met = true;
    }
    EXPECT_EQ(rt_wait(RT_WAIT_PARK, rt_nanotime() + MS), RT_TIMEOUT);
}

static void a_ticket_does_not_reach_the_next_life(void *arg) {
    (void)arg;
    crowd c = {0};
    for (uintptr_t i = 0; i < LIVES; i++) {
        crowd_go(&c, live_once, (void *)i);
        crowd_wait(&c);
        CHECK(!rt_wake(lives[i].g, lives[i].ticket, RT_WOKEN));
    }
    bool met = false;
    for (int i = 0; i < 500 && !met; i++) {
        crowd_go(&c, live_again, &met);
        crowd_wait(&c);
    }
    CHECK(met);
}

/* ---- many wakers ---- */

enum { WAKERS = 6 };

static struct {
    _Atomic(rt_g *) g;
    _Atomic uint64_t ticket;
    _Atomic int64_t wins;
    _Atomic int64_t sum; /* of the winners' codes */
    _Atomic bool over;
} race;

/* Reads the pair without care: with a ticket that is not the G's, rt_wake must do nothing. */
static void wake_whoever_waits(uint64_t *seed) {
    rt_g *g = atomic_load(&race.g);
    uint64_t ticket = atomic_load(&race.ticket);
    rt_wake_code code = random_below(seed, 2) ? RT_WOKEN : RT_CANCELED;
    if (!g || !rt_wake(g, ticket, code)) return;
    atomic_fetch_add(&race.wins, 1);
    atomic_fetch_add(&race.sum, code);
}

static void *wake_from_a_thread(void *arg) {
    uint64_t seed = (uint64_t)(uintptr_t)arg;
    while (!atomic_load(&race.over)) {
        wake_whoever_waits(&seed);
        if (random_below(&seed, 8) == 0) sched_yield();
    }
    return NULL;
}

static void wake_from_a_g(void *arg) {
    uint64_t seed = (uint64_t)(uintptr_t)arg;
    while (!atomic_load(&race.over)) {
        wake_whoever_waits(&seed);
        rt_yield();
    }
}

static void one_of_many_wakers_wins(void *arg) {
    (void)arg;
    memset(&race, 0, sizeof race);
    crowd c = {0};
    pthread_t t[2];
    for (uintptr_t i = 0; i < 2; i++)
        t[i] = foreign(wake_from_a_thread, (void *)(i + 1));
    for (uintptr_t i = 0; i < WAKERS; i++)
        crowd_go(&c, wake_from_a_g, (void *)(i + 3));
    int64_t waits = 0, sum = 0, timeouts = 0;
    uint64_t seed = 99;
    rt_g *g = rt_self();
    for (int64_t end = rt_nanotime() + SEC / 2; rt_nanotime() < end; waits++) {
        int64_t deadline =
            random_below(&seed, 2) ? rt_nanotime() + (int64_t)random_below(&seed, 50000) : 0;
        uint64_t ticket = rt_wait_open(g);
        atomic_store(&race.ticket, ticket);
        atomic_store(&race.g, g);
        rt_wake_code code = rt_wait(RT_WAIT_PARK, deadline);
        if (code == RT_TIMEOUT)
            timeouts++;
        else
            sum += code;
    }
    atomic_store(&race.over, true);
    for (int i = 0; i < 2; i++)
        join_foreign(t[i]);
    crowd_wait(&c);
    CHECK(waits > 100);
    CHECK_EQ(atomic_load(&race.wins) + timeouts, waits);
    CHECK_EQ(atomic_load(&race.sum), sum);
}

/* ---- deadlines ---- */

static struct {
    rt_g *g;
    _Atomic uint64_t ticket;
    _Atomic int64_t at_ns;
    _Atomic int won; /* -1: not tried yet */
} duel;

static void *wake_about_then(void *arg) {
    (void)arg;
    for (uint64_t last = 0;;) {
        uint64_t ticket = atomic_load(&duel.ticket);
        if (ticket == UINT64_MAX) return NULL;
        if (ticket == last) {
            sched_yield();
            continue;
        }
        last = ticket;
        while (rt_nanotime() < atomic_load(&duel.at_ns))
            ;
        atomic_store(&duel.won, rt_wake(duel.g, ticket, RT_WOKEN));
    }
}

static void deadline_and_wake_up_are_one_end(void *arg) {
    (void)arg;
    uint64_t seed = 5;
    int64_t rounds = 0;
    duel.g = rt_self();
    atomic_store(&duel.ticket, 0);
    pthread_t t = foreign(wake_about_then, NULL);
    /* On a busy machine few fit into the time. */
    for (int64_t end = rt_nanotime() + SEC / 2; rounds < 10 || rt_nanotime() < end; rounds++) {
        int64_t deadline = rt_nanotime() + 100000 + (int64_t)random_below(&seed, 100000);
        atomic_store(&duel.at_ns, deadline - 50000 + (int64_t)random_below(&seed, 150000));
        atomic_store(&duel.won, -1);
        uint64_t ticket = rt_wait_open(duel.g);
        atomic_store(&duel.ticket, ticket);
        rt_wake_code code = rt_wait(RT_WAIT_PARK, deadline);
        if (code == RT_TIMEOUT) EXPECT(rt_nanotime() >= deadline);
        while (atomic_load(&duel.won) < 0)
            rt_yield();
        EXPECT_EQ(atomic_load(&duel.won), code == RT_WOKEN);
    }
    atomic_store(&duel.ticket, UINT64_MAX);
    join_foreign(t);
}

static void a_deadline_in_the_past_ends_the_wait(void *arg) {
    (void)arg;
    for (int i = 0; i < 100; i++) {
        rt_wait_open(rt_self());
        CHECK_EQ(rt_wait(RT_WAIT_PARK, 1), RT_TIMEOUT);
    }
}

/* The timer of the first wait stands in the heap still when the second begins. */
static void the_deadline_of_an_ended_wait_is_forgotten(void *arg) {
    (void)arg;
    rt_g *g = rt_self();
    for (int i = 0; i < 10; i++) {
        uint64_t ticket = rt_wait_open(g);
        rt_wake(g, ticket, RT_WOKEN);
        CHECK_EQ(rt_wait(RT_WAIT_PARK, rt_nanotime() + 3 * MS), RT_WOKEN);
        int64_t left = atomic_load(&g->timer.until);
        CHECK_EQ(left, 0); /* else a wait for a descriptor would have it */
        int64_t until = rt_nanotime() + 10 * MS;
        rt_wait_open(g);
        CHECK_EQ(rt_wait(RT_WAIT_PARK, until), RT_TIMEOUT);
        CHECK(rt_nanotime() >= until);
    }
}

/* ---- interruption ---- */

static _Atomic int interrupted;

static void wait_for_long(void *arg) {
    (void)arg;
    rt_wait_open(rt_self());
    if (EXPECT_EQ(rt_wait(RT_WAIT_SLEEP, rt_nanotime() + 3600 * SEC), RT_CANCELED))
        atomic_fetch_add(&interrupted, 1);
}

static void an_interrupt_ends_a_wait(void *arg) {
    (void)arg;
    crowd c = {0};
    rt_g *gs[10];
    atomic_store(&interrupted, 0);
    for (int i = 0; i < 10; i++)
        gs[i] = crowd_go(&c, wait_for_long, NULL);
    for (int i = 0; i < 10; i++)
        EXPECT_SOON(rt_interrupt(gs[i], RT_CANCELED));
    crowd_wait(&c);
    CHECK_EQ(atomic_load(&interrupted), 10);
    CHECK(!rt_interrupt(rt_self(), RT_CANCELED)); /* it waits for nothing */
}

/* ---- sleep ---- */

static void sleep_at_random(void *arg) {
    uint64_t seed = (uint64_t)(uintptr_t)arg;
    for (int i = 0; i < 20; i++) {
        int64_t ns = (int64_t)random_below(&seed, 10 * MS);
        int64_t before = rt_nanotime();
        rt_sleep(ns);
        CHECK(rt_nanotime() - before >= ns);
    }
}

static void sleeps_are_never_short(void *arg) {
    (void)arg;
    crowd c = {0};
    for (uintptr_t i = 0; i < 100; i++)
        crowd_go(&c, sleep_at_random, (void *)i);
    crowd_wait(&c);
    rt_sleep(0);
    rt_sleep(-1);
}

enum { SLEEPERS = 16 };

static struct {
    _Atomic int begun, n;
    int64_t until[SLEEPERS]; /* of the first, the second ... that woke */
} woken;

static int64_t sleep_start;

static void sleep_in_turn(void *arg) {
    int64_t until = sleep_start + (int64_t)(uintptr_t)arg * MS;
    rt_wait_open(rt_self());
    atomic_fetch_add(&woken.begun, 1);
    EXPECT_EQ(rt_wait(RT_WAIT_SLEEP, until), RT_TIMEOUT);
    woken.until[atomic_fetch_add(&woken.n, 1)] = until;
}

static void sleepers_wake_in_order_of_their_times(void *arg) {
    (void)arg;
    crowd c = {0};
    atomic_store(&woken.n, 0);
    atomic_store(&woken.begun, 0);
    sleep_start = rt_nanotime() + 20 * MS;
    uint64_t seed = 11;
    for (uintptr_t i = 0; i < SLEEPERS; i++)
        crowd_go(&c, sleep_in_turn, (void *)(uintptr_t)random_below(&seed, 40));
    while (atomic_load(&woken.begun) < SLEEPERS)
        rt_yield();
    bool late = rt_nanotime() >= sleep_start; /* no CPU for 20 ms: some woke before others slept */
    crowd_wait(&c);
    CHECK_EQ(atomic_load(&woken.n), SLEEPERS);
    /* With more Ps they write their place at once; with a tiny ring they overtake by the global list. */
    if (late || rt_procs() > 1 || (int)RUNQ_SIZE < SLEEPERS) return;
    for (int i = 1; i < SLEEPERS; i++)
        CHECK(woken.until[i - 1] <= woken.until[i]);
}

/* ---- a G that starts with a wait, and ends it ---- */

static struct {
    rt_g *waiter;
    uint64_t ticket;
    int p, idle;
} started;

static void end_the_wait(void *arg) {
    (void)arg;
    started.p = rt_p_id();
    started.idle = atomic_load(&sched.n_idle_ps);
    EXPECT(rt_wake_last(started.waiter, started.ticket, RT_WOKEN));
}

static void a_g_that_starts_with_a_wait_wakes_no_other_m(void *arg) {
    (void)arg;
    enum { TIMES = 100 };
    int quiet = 0, others = rt_procs() - 1;
    started.waiter = rt_self();
    for (int i = 0; i < TIMES; i++) {
        for (int64_t until = rt_nanotime() + PATIENCE_NS;
             atomic_load(&sched.n_idle_ps) < others && rt_nanotime() < until;)
            rt_sleep(MS);
        int p = rt_p_id();
        started.p = -1;
        started.ticket = rt_wait_open(started.waiter);
        rt_g *first = rt_make(end_the_wait, NULL, STACK_NATIVE);
        CHECK(first != NULL);
        rt_set_wait_start(started.waiter, first, RT_WAIT_PARK, rt_nanotime() + PATIENCE_NS);
        CHECK_EQ(started.p, -1);
        g_leave(started.waiter, RT_PARK);
        CHECK_EQ(rt_wait_code(started.waiter), RT_WOKEN);
        bool same = started.p == p && rt_p_id() == p;
        quiet += same && started.idle == others && atomic_load(&sched.n_idle_ps) == others;
    }
    CHECK(quiet > TIMES / 2); /* not all: a timer or a signal may wake an M */
}

static void a_wait_may_start_no_g(void *arg) {
    (void)arg;
    rt_wait_open(rt_self());
    rt_set_wait_start(rt_self(), NULL, RT_WAIT_PARK, rt_nanotime() + MS);
    g_leave(rt_self(), RT_PARK);
    CHECK_EQ(rt_wait_code(rt_self()), RT_TIMEOUT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        in_g_test(a_wake_up_before_the_wait_is_kept),
        in_g_test(an_old_ticket_does_nothing),
        in_g_test(a_ticket_does_not_reach_the_next_life),
        in_g_test(one_of_many_wakers_wins),
        in_g_test(deadline_and_wake_up_are_one_end),
        in_g_test(a_deadline_in_the_past_ends_the_wait),
        in_g_test(the_deadline_of_an_ended_wait_is_forgotten),
        in_g_test(an_interrupt_ends_a_wait),
        in_g_test(sleeps_are_never_short),
        in_g_test(sleepers_wake_in_order_of_their_times),
        in_g_test(a_g_that_starts_with_a_wait_wakes_no_other_m),
        in_g_test(a_wait_may_start_no_g),
    };
    RUN_TESTS("wait", tests);
}
