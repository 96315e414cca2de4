/* timer: what is set fires once, never early, at the time it was moved to; what was set to 0 does
 * not; heaps of thousands keep their order; timers of a busy P are fired by others. */
#include "harness.h"

/* A timer that notes what happens to it. Never freed: it may stand in a heap. */
typedef struct probe {
    rt_timer t;
    _Atomic int fired;
    _Atomic int64_t at_ns;
    _Atomic int64_t due_ns; /* what the test set at last */
    _Atomic int place;      /* among those that fired */
} probe;

static _Atomic int n_fired;

static void fire(void *arg) {
    probe *p = arg;
    EXPECT(rt_nanotime() >= atomic_load(&p->due_ns));
    EXPECT(atomic_load(&p->due_ns) != 0);
    atomic_store(&p->at_ns, rt_nanotime());
    atomic_store(&p->place, atomic_fetch_add(&n_fired, 1));
    atomic_fetch_add(&p->fired, 1);
}

static probe *new_probe(void) {
    probe *p = calloc(1, sizeof *p);
    rt_timer_init(&p->t, fire, p);
    return p;
}

static void set(probe *p, int64_t when_ns) {
    atomic_store(&p->due_ns, when_ns);
    rt_timer_set(&p->t, when_ns);
}

static void a_timer_fires_once_and_not_early(void *arg) {
    (void)arg;
    probe *p = new_probe();
    set(p, rt_nanotime() + 5 * MS);
    EXPECT_SOON(atomic_load(&p->fired) > 0);
    rt_sleep(20 * MS);
    CHECK_EQ(atomic_load(&p->fired), 1);
}

static void a_timer_may_be_set_again(void *arg) {
    (void)arg;
    probe *p = new_probe();
    for (int i = 1; i <= 20; i++) {
        set(p, rt_nanotime() + MS / 2);
        EXPECT_SOON(atomic_load(&p->fired) == i);
    }
    set(p, 1); /* long past */
    EXPECT_SOON(atomic_load(&p->fired) == 21);
}

static void moved_earlier_it_fires_earlier(void *arg) {
    (void)arg;
    probe *p = new_probe();
    set(p, rt_nanotime() + 3600 * SEC);
    set(p, rt_nanotime() + 1800 * SEC);
    set(p, rt_nanotime() + 5 * MS);
    EXPECT_SOON(atomic_load(&p->fired) == 1);
}

static void moved_later_it_fires_later(void *arg) {
    (void)arg;
    probe *p = new_probe();
    int64_t start = rt_nanotime();
    set(p, start + 200 * MS);
    set(p, start + 250 * MS);
    EXPECT_SOON(atomic_load(&p->fired) == 1);
    CHECK(atomic_load(&p->at_ns) >= start + 250 * MS);
}

static void set_to_0_it_does_not_fire(void *arg) {
    (void)arg;
    probe *p = new_probe(), *q = new_probe();
    set(p, rt_nanotime() + 100 * MS);
    set(q, rt_nanotime() + 100 * MS);
    set(p, 0);
    EXPECT_SOON(atomic_load(&q->fired) == 1);
    rt_sleep(20 * MS);
    CHECK_EQ(atomic_load(&p->fired), 0);
    set(p, rt_nanotime() + MS);
    EXPECT_SOON(atomic_load(&p->fired) == 1);
    /* It stands in the heap, unset, with a key that is too late. */
    set(p, rt_nanotime() + 3600 * SEC);
    set(p, 0);
    set(p, rt_nanotime() + MS);
    EXPECT_SOON(atomic_load(&p->fired) == 2);
}

/* As a connection's deadline is: moved at each request, long before it comes. */
static void a_deadline_moved_on_and_on_fires_at_the_last(void *arg) {
    (void)arg;
    probe *p = new_probe();
    rt_stats before, after;
    rt_read_stats(&before);
    for (int i = 0; i < 50; i++) {
        set(p, rt_nanotime() + 300 * MS);
        rt_sleep(2 * MS);
        /* Fired all the same: then this G had no CPU for 300 ms, and fire has checked the time. */
        if (atomic_load(&p->fired)) return;
    }
    rt_read_stats(&after);
    int64_t last = atomic_load(&p->due_ns);
    EXPECT_SOON(atomic_load(&p->fired) == 1);
    CHECK(atomic_load(&p->at_ns) >= last);
    CHECK(after.timers <= before.timers + 2); /* it stands there once */
}

static void timers_fire_in_order(void *arg) {
    (void)arg;
    enum { N = 300 };
    static probe *ps[N];
    uint64_t seed = 17;
    int64_t start = rt_nanotime() + 30 * MS;
    atomic_store(&n_fired, 0);
    for (int i = 0; i < N; i++) {
        ps[i] = new_probe();
        set(ps[i], start + (int64_t)random_below(&seed, 20 * MS));
    }
    EXPECT_SOON(atomic_load(&n_fired) == N);
    /* With several Ps two Ms may look at one heap and fire neighbours at once. */
    for (int i = 0; rt_procs() == 1 && i < N; i++)
        for (int k = 0; k < N; k++)
            if (atomic_load(&ps[i]->due_ns) < atomic_load(&ps[k]->due_ns))
                CHECK(atomic_load(&ps[i]->place) < atomic_load(&ps[k]->place));
}

static void set_many(void *arg) {
    probe **ps = arg;
    uint64_t seed = (uint64_t)(uintptr_t)arg;
    for (int i = 0; i < 1000; i++)
        set(ps[i], rt_nanotime() + (int64_t)random_below(&seed, 100 * MS));
}

static void thousands_of_timers_all_fire_once(void *arg) {
    (void)arg;
    enum { N = 5000 };
    static probe *ps[N];
    crowd c = {0};
    atomic_store(&n_fired, 0);
    for (int i = 0; i < N; i++)
        ps[i] = new_probe();
    for (int i = 0; i < N; i += 1000)
        crowd_go(&c, set_many, &ps[i]);
    crowd_wait(&c);
    EXPECT_SOON(atomic_load(&n_fired) >= N);
    rt_sleep(5 * MS);
    for (int i = 0; i < N; i++)
        CHECK_EQ(atomic_load(&ps[i]->fired), 1);
    rt_stats s;
    rt_read_stats(&s);
    CHECK(s.timers < N / 2);
}

/* ---- set while it is taken out ---- */

/* Who fires gets a time of the future, which nobody but this test sees come. */
typedef struct firing {
    rt_timer t;
    int64_t now_ns;
    _Atomic int begun, ended; /* rounds */
    _Atomic bool over;
} firing;

static void spin_finely(uint64_t *seed) {
    for (volatile uint64_t n = random_below(seed, 1000); n > 0; n--)
        ;
}

static void *fire_each_round(void *arg) {
    firing *k = arg;
    uint64_t seed = 6;
    for (int round = 1; !atomic_load(&k->over); round++) {
        while (atomic_load(&k->begun) < round)
            if (atomic_load(&k->over)) return NULL;
        spin_finely(&seed);
        int64_t now = k->now_ns;
        timers_run(&sched.ps[0], &now);
        atomic_store(&k->ended, round);
    }
    return NULL;
}

static void fire_nothing(void *arg) {
    (void)arg;
}

/* timers_run has found it due and takes it out; its owner still sees it in the heap and moves it
 * later by a mere store. It must be in a heap afterwards, whoever put it there. The heap is large, so
 * that taking out lasts. On the main thread: no G sleeps, whose timer would be fired, too. */
static void what_is_set_while_it_is_taken_out_stays(void **state) {
    (void)state;
    enum { OTHERS = 5000 };
    static firing k;
    static rt_timer others[OTHERS]; /* they stay in the heap */
    uint64_t seed = 7;
    int64_t base = rt_nanotime();
    int64_t due = base + 100 * SEC, later = base + 150 * SEC;
    for (int i = 0; i < OTHERS; i++) {
        rt_timer_init(&others[i], fire_nothing, NULL);
        rt_timer_set(&others[i], base + 3000 * SEC + (int64_t)random_below(&seed, SEC));
    }
    rt_timer_init(&k.t, fire_nothing, NULL);
    k.now_ns = due + 1;
    pthread_t t = foreign(fire_each_round, &k);
    int lost = 0;
    int64_t until = base + SEC;
    for (int round = 1; round <= ROUNDS(50000) && rt_nanotime() < until; round++) {
        rt_timer_set(&k.t, due);
        atomic_store(&k.begun, round);
        spin_finely(&seed);
        rt_timer_set(&k.t, later);
        while (atomic_load(&k.ended) < round)
            ;
        lost += atomic_load(&k.t.index) == 0 || atomic_load(&k.t.key) > later;
        rt_timer_set(&k.t, 0);
    }
    atomic_store(&k.over, true);
    pthread_join(t, NULL);
    for (int i = 0; i < OTHERS; i++)
        rt_timer_set(&others[i], 0);
    assert_int_equal(lost, 0);
}

/* ---- the heap, in a time of its own ---- */

static bool is_in_order(rt_p *p) {
    bool ok = true;
    rt_lock_acquire(&p->timer_lock);
    for (uint32_t i = 0; i < p->ntimers; i++) {
        ok = ok && atomic_load(&p->timers[i].t->index) == i + 1;
        ok = ok && (i == 0 || p->timers[(i - 1) / 4].key <= p->timers[i].key);
    }
    rt_lock_release(&p->timer_lock);
    return ok;
}

static void run_until(rt_p *p, int64_t now) {
    for (int64_t next; (next = atomic_load(&p->timer_next_ns)) != 0 && next <= now;)
        timers_run(p, &now);
}

static void mark(void *arg) {
    *(bool *)arg = true;
}

/* Moved earlier and later at random, each fires when the time has come to which it was moved last. On the main thread:
 * no G sleeps, whose timer would be fired, too. */
static void a_heap_stays_in_order(void **state) {
    (void)state;
    enum { N = 300, STEPS = 20, MOVES = 200 };
    static rt_timer ts[N];
    static int64_t due[N];
    static bool fired[N];
    rt_p *p = &sched.ps[0]; /* of threads that have none */
    int64_t base = rt_nanotime() + 1000 * SEC;
    uint64_t seed = 11;
    for (int i = 0; i < N; i++) {
        rt_timer_init(&ts[i], mark, &fired[i]);
        rt_timer_set(&ts[i], due[i] = base + (int64_t)random_below(&seed, STEPS * SEC));
    }
    for (int step = 1; step <= STEPS; step++) {
        for (int k = 0; k < MOVES; k++) {
            int i = (int)random_below(&seed, N);
            if (fired[i]) continue;
            rt_timer_set(&ts[i], due[i] = base + (int64_t)random_below(&seed, STEPS * SEC));
            assert_true(is_in_order(p));
        }
        run_until(p, base + step * SEC);
        assert_true(is_in_order(p));
        for (int i = 0; i < N; i++)
            assert_int_equal(fired[i], due[i] <= base + step * SEC);
    }
}

/* ---- all at once ---- */

static void count_fire(void *arg) {
    atomic_fetch_add(&((probe *)arg)->fired, 1);
}

static void set_at_random(void *arg) {
    enum { N = 64 };
    uint64_t seed = (uint64_t)(uintptr_t)arg;
    probe *ps[N];
    for (int i = 0; i < N; i++) {
        ps[i] = new_probe();
        rt_timer_init(&ps[i]->t, count_fire, ps[i]);
    }
    for (int64_t end = rt_nanotime() + 300 * MS; rt_nanotime() < end;) {
        for (int i = 0; i < 20; i++) {
            probe *p = ps[random_below(&seed, N)];
            uint64_t what = random_below(&seed, 4);
            set(p, what == 0 ? 0 : rt_nanotime() + (int64_t)random_below(&seed, what * MS));
        }
        if (random_below(&seed, 2))
            rt_yield(); /* perhaps to another P, which becomes their next home */
        else
            rt_sleep((int64_t)random_below(&seed, MS));
    }
    for (int i = 0; i < N; i++)
        set(ps[i], 0);
    rt_sleep(5 * MS); /* calls for earlier settings may be under way */
    for (int i = 0; i < N; i++) {
        atomic_store(&ps[i]->fired, 0);
        set(ps[i], rt_nanotime() + (int64_t)random_below(&seed, 5 * MS));
    }
    for (int i = 0; i < N; i++)
        EXPECT_SOON(atomic_load(&ps[i]->fired) > 0);
}

static void none_is_lost_however_they_are_moved(void *arg) {
    (void)arg;
    crowd c = {0};
    for (uintptr_t i = 0; i < 12; i++)
        crowd_go(&c, set_at_random, (void *)i);
    crowd_wait(&c);
}

static void *set_from_outside(void *arg) {
    for (int i = 1; i <= 50; i++) {
        probe *p = arg;
        set(p, rt_nanotime() + 3600 * SEC);
        set(p, rt_nanotime() + MS);
        for (int64_t end = rt_nanotime() + PATIENCE_NS;
             atomic_load(&p->fired) < i && rt_nanotime() < end;)
            usleep(100);
        EXPECT_EQ(atomic_load(&p->fired), i);
    }
    return NULL;
}

/* All Ps are idle: the M in the poller must be broken out to look at the new first timer. */
static void a_thread_without_a_p_sets_timers(void **state) {
    (void)state;
    pthread_join(foreign(set_from_outside, new_probe()), NULL);
    fail_if_recorded();
}

static void timers_of_a_busy_p_are_fired_by_others(void *arg) {
    (void)arg;
    if (rt_procs() < 2) return;
    for (int i = 0; i < 5; i++) {
        probe *p = new_probe();
        set(p, rt_nanotime() + 2 * MS);
        int64_t until = rt_nanotime() + PATIENCE_NS;
        while (!atomic_load(&p->fired) && rt_nanotime() < until)
            ; /* this P looks at nothing */
        CHECK(atomic_load(&p->fired) == 1);
        rt_sleep(30 * MS); /* let the others go idle */
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_thread_without_a_p_sets_timers),
        in_g_test(a_timer_fires_once_and_not_early),
        in_g_test(a_timer_may_be_set_again),
        in_g_test(moved_earlier_it_fires_earlier),
        in_g_test(moved_later_it_fires_later),
        in_g_test(set_to_0_it_does_not_fire),
        in_g_test(a_deadline_moved_on_and_on_fires_at_the_last),
        in_g_test(timers_fire_in_order),
        in_g_test(thousands_of_timers_all_fire_once),
        in_g_test(none_is_lost_however_they_are_moved),
        in_g_test(timers_of_a_busy_p_are_fired_by_others),
        cmocka_unit_test(a_heap_stays_in_order),
        cmocka_unit_test(
            what_is_set_while_it_is_taken_out_stays), /* last: its others stay in a heap */
    };
    RUN_TESTS("timer", tests);
}
