/* sysmon: each of its duties, with its clock stopped and moved by hand. Sysmon's thread sleeps in our
 * sleep function between two rounds; a test sets the time, lets one round go by, and looks. Nothing
 * here depends on how long anything takes, but for bounds on what does not come. */
#include "harness.h"

#include <sys/mman.h>

#include <sys/socket.h>

static struct {
    note go;                  /* the test lets the next round begin */
    note done;                /* sysmon stands: it asks for its sleep */
    _Atomic bool held;        /* else rounds go on by themselves, in real time: between tests */
    _Atomic int64_t time_ns;  /* 0: real time */
    _Atomic int64_t asked_ns; /* the sleep that it asked for last */
} hand;

static int64_t hand_now(void) {
    int64_t t = atomic_load(&hand.time_ns);
    return t ? t : rt_nanotime();
}

static void hand_sleep(int64_t delay_ns) {
    atomic_store(&hand.asked_ns, delay_ns);
    if (!atomic_load(&hand.held)) {
        usleep(100);
        return;
    }
    note_wake(&hand.done);
    note_sleep(&hand.go);
    note_clear(&hand.go);
}

static const sysmon_clock by_hand = {hand_now, hand_sleep};

static void wait_until_it_stands(void) {
    if (!note_sleep_for(&hand.done, LIMIT_NS)) rt_throw("sysmon does not come round");
}

/* Takes sysmon in hand: it stands between two rounds when this returns. The time now. */
static int64_t take_hand(void) {
    note_clear(&hand.done);
    atomic_store(&hand.held, true);
    wait_until_it_stands();
    return rt_nanotime();
}

static void begin_round_at(int64_t now) {
    note_clear(&hand.done);
    atomic_store(&hand.time_ns, now);
    note_wake(&hand.go);
}

/* One round. Blocks the thread: on a G its P stays busy, as the tests want it. */
static void round_at(int64_t now) {
    begin_round_at(now);
    wait_until_it_stands();
}

static void let_go(void) {
    atomic_store(&hand.held, false);
    atomic_store(&hand.time_ns, 0);
    note_wake(&hand.go);
}

static rt_p *own_p(void) {
    return rt_getm()->p;
}

/* ---- the tests, Gs whose P is busy with them ---- */

static void a_busy_ps_poller_is_polled_after_10_ms(void *arg) {
    (void)arg;
    take_hand();
    rt_p *p = own_p();
    atomic_fetch_add(&p->n_fds, 1); /* as if it had one */
    int64_t polled = rt_nanotime();
    atomic_store(&p->last_poll_ns, polled);
    int64_t polls = count_get(&p->n_polls);
    round_at(polled + 1);
    round_at(polled + UNPOLLED_NS);
    EXPECT_EQ(count_get(&p->n_polls), polls);
    EXPECT_EQ(atomic_load(&p->last_poll_ns), polled);
    round_at(polled + UNPOLLED_NS + 1);
    EXPECT_EQ(count_get(&p->n_polls), polls + 1);
    EXPECT_EQ(atomic_load(&p->last_poll_ns), polled + UNPOLLED_NS + 1);
    round_at(polled + UNPOLLED_NS + 2);
    EXPECT_EQ(count_get(&p->n_polls), polls + 1);
    atomic_fetch_sub(&p->n_fds, 1);
    let_go();
}

static void a_busy_p_is_told_to_yield_after_10_ms(void *arg) {
    (void)arg;
    int64_t t = take_hand();
    rt_yield(); /* a new slice, which it has not seen yet */
    rt_p *p = own_p();
    atomic_store(&p->yield_now, false);
    round_at(t); /* sees this slice */
    round_at(t + SLICE_NS);
    EXPECT(!atomic_load(&p->yield_now));
    round_at(t + SLICE_NS + 1);
    EXPECT(atomic_load(&p->yield_now));
    atomic_store(&p->yield_now, false);
    let_go();
}

static void a_busy_ps_time_is_kept(void *arg) {
    (void)arg;
    int64_t t = take_hand() + SEC;
    rt_p *p = own_p();
    atomic_store(&p->now_ns, t);
    round_at(t + SLICE_NS);
    EXPECT_EQ(atomic_load(&p->now_ns), t);
    round_at(t + SLICE_NS + 1);
    EXPECT_EQ(atomic_load(&p->now_ns), t + SLICE_NS + 1);
    atomic_store(&p->now_ns, rt_nanotime());
    let_go();
}

static _Atomic bool ran;

static void run(void *arg) {
    (void)arg;
    atomic_store(&ran, true);
}

static _Atomic bool fired;

static void fire(void *arg) {
    (void)arg;
    atomic_store(&fired, true);
}

typedef enum work { NO_WORK, A_G, A_TIMER, A_DESCRIPTOR } work;

/* With one P, as if it had a descriptor or none: those of the runtime itself do not count here. */
static void in_a_system_call(work with) {
    static rt_timer timer;
    int64_t t = take_hand();
    rt_p *p = own_p();
    bool with_work = with != NO_WORK;
    int64_t fds = atomic_exchange(&p->n_fds, with == A_DESCRIPTOR);
    if (with == A_G) {
        atomic_store(&ran, false);
        rt_go(run, NULL);
    } else if (with == A_TIMER) {
        rt_timer_init(&timer, fire, NULL);
        rt_timer_set(&timer, t + 3600 * SEC);
    }
    int64_t handoffs = count_get(&sched.n_handoffs);
    rt_entersyscall();
    round_at(t + 1); /* sees this call */
    bool early = count_get(&sched.n_handoffs) != handoffs;
    uint32_t status = atomic_load(&p->status);
    round_at(t + 2);
    bool at_once = count_get(&sched.n_handoffs) == handoffs + 1;
    round_at(t + 1 + SLICE_NS);
    bool before = count_get(&sched.n_handoffs) != handoffs;
    round_at(t + 2 + SLICE_NS);
    bool after = count_get(&sched.n_handoffs) == handoffs + 1;
    rt_exitsyscall();
    rt_timer_set(&timer, 0);
    atomic_fetch_add(&p->n_fds, fds - (with == A_DESCRIPTOR));
    EXPECT(!early);
    EXPECT_EQ(status, P_SYSCALL);
    EXPECT(after);
    EXPECT_EQ(at_once, with_work);
    EXPECT_EQ(before, with_work);
    let_go();
    if (with == A_G) EXPECT_SOON(atomic_load(&ran));
}

static void a_call_without_work_lasts_10_ms(void *arg) {
    (void)arg;
    if (rt_procs() == 1) in_a_system_call(NO_WORK);
}

/* With one P: else others may take the work first. */
static void a_call_with_work_lasts_a_round(void *arg) {
    (void)arg;
    if (rt_procs() > 1) return;
    in_a_system_call(A_G);
    in_a_system_call(A_DESCRIPTOR);
    in_a_system_call(A_TIMER); /* last: it leaves a key behind, which counts as one */
}

/* Sysmon stands all the while. */
static void a_call_that_is_known_to_block_keeps_no_p(void *arg) {
    (void)arg;
    take_hand();
    int64_t handoffs = count_get(&sched.n_handoffs);
    for (int i = 1; i <= 10; i++) {
        atomic_store(&ran, false);
        rt_go(run, NULL);
        rt_entersyscallblock();
        for (int k = 0; k < 10000 && !atomic_load(&ran); k++)
            usleep(1000);
        rt_exitsyscall();
        CHECK(atomic_load(&ran));
        EXPECT_EQ(count_get(&sched.n_handoffs), handoffs + i);
    }
    let_go();
}

static struct { _Atomic bool inside, back, too_early; } second;

/* Stays in its call until the G of the first one has queued for a P, or runs. */
static void call_second(void *arg) {
    (void)arg;
    rt_entersyscall();
    atomic_store(&second.inside, true);
    for (int i = 0; i < 10000 && !atomic_load(&sched.n_runq) && !atomic_load(&second.back); i++)
        usleep(1000);
    atomic_store(&second.too_early, atomic_load(&second.back));
    rt_exitsyscall();
}

/* With one P. The M of the first call has lost it, and the M that got it is in a call as well. Sysmon stands. */
static void a_later_call_keeps_the_p(void *arg) {
    (void)arg;
    if (rt_procs() > 1) return;
    crowd c = {0};
    take_hand();
    crowd_go(&c, call_second, NULL);
    rt_entersyscallblock();
    for (int i = 0; i < 10000 && !atomic_load(&second.inside); i++)
        usleep(1000);
    rt_exitsyscall();
    atomic_store(&second.back, true);
    crowd_wait(&c);
    EXPECT(atomic_load(&second.inside));
    EXPECT(!atomic_load(&second.too_early));
    let_go();
}

/* Idle Ms sleep in their pollers and do not look at others' timers. */
static void an_overdue_timer_of_a_busy_p_wakes_another(void *arg) {
    (void)arg;
    static rt_timer timer;
    if (rt_procs() == 1) return;
    take_hand();
    /* Those who look for work have found none, and sleep. */
    for (int64_t until = rt_nanotime() + PATIENCE_NS; rt_nanotime() < until;)
        if (atomic_load(&sched.n_idle_ps) == sched.procs - 1 && atomic_load(&sched.n_spinning) == 0)
            break;
    spin_for(20 * MS);
    rt_timer_init(&timer, fire, NULL);
    atomic_store(&fired, false);
    int64_t due = rt_nanotime() + MS;
    rt_timer_set(&timer, due);
    spin_for(20 * MS);
    bool alone = !atomic_load(&fired);
    round_at(due + NS_PER_MS);
    round_at(due + NS_PER_MS + 1);
    for (int64_t until = rt_nanotime() + PATIENCE_NS;
         !atomic_load(&fired) && rt_nanotime() < until;)
        ;
    EXPECT(atomic_load(&fired));
    EXPECT(alone);
    let_go();
}

static int untrimmed(void) {
    int n = 0;
    rt_lock_acquire(&sched.gfree_lock);
    for (rt_g *g = sched.stack_gfree.head; g; g = g->schedlink)
        n += !g->trimmed;
    rt_lock_release(&sched.gfree_lock);
    return n;
}

/* Pages of these Gs' stacks that are in memory, below the page at the top. */
static int resident(void) {
    static unsigned char in[STACK_NATIVE / 4096];
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    int n = 0;
    rt_lock_acquire(&sched.gfree_lock);
    for (rt_g *g = sched.stack_gfree.head; g; g = g->schedlink) {
        size_t size = (size_t)(g->ctx.stack.hi - g->ctx.stack.lo) - page;
        EXPECT_EQ(mincore(g->ctx.stack.lo, size, in), 0);
        for (size_t i = 0; i < size / page; i++)
            n += in[i] & 1;
    }
    rt_lock_release(&sched.gfree_lock);
    return n;
}

static _Atomic bool may_end;

static void wait_for_the_end(void *arg) {
    (void)arg;
    volatile char deep[3 * 4096];
    deep[0] = 1;
    EXPECT_EQ(deep[0], 1);
    while (!atomic_load(&may_end))
        rt_sleep(MS);
}

static void pages_of_free_stacks_go_back_every_second(void *arg) {
    (void)arg;
    crowd c = {0};
    rt_sleep(20 * MS); /* Gs of former tests are buried by now */
    int64_t t = take_hand() + 2 * SEC;
    for (int i = 0; i < 1000 && untrimmed(); i++)
        round_at(t); /* it is due; a batch per round */
    round_at(t);     /* nothing left: the next is due one second later */
    EXPECT_EQ(untrimmed(), 0);
    atomic_store(&may_end, false);
    for (int i = 0; i < 8 * GFREE_MAX; i++) /* at a time more than the Ps keep for themselves */
        crowd_go(&c, wait_for_the_end, NULL);
    atomic_store(&may_end, true);
    crowd_wait(&c);
    EXPECT(untrimmed() > 0);
    EXPECT(resident() > 0);
    round_at(t + SEC - 1);
    EXPECT(untrimmed() > 0);
    for (int i = 0; i < 1000 && untrimmed(); i++)
        round_at(t + SEC);
    EXPECT_EQ(untrimmed(), 0);
    EXPECT_EQ(resident(), 0);
    let_go();
}

static void it_sleeps_longer_when_there_is_nothing_to_do(void *arg) {
    (void)arg;
    int64_t t = take_hand();
    rt_entersyscall(); /* something to do: a P to take */
    round_at(t + 1);
    t += 2 + 2 * SLICE_NS;
    round_at(t);
    rt_exitsyscall();
    EXPECT_EQ(atomic_load(&hand.asked_ns), 20000);
    int64_t expected = 20000;
    for (int i = 1; i < 70; i++) {
        round_at(t + i);
        if (i >= 50 && expected < 10 * MS)
            expected = expected * 2 < 10 * MS ? expected * 2 : 10 * MS;
        CHECK_EQ(atomic_load(&hand.asked_ns), expected);
    }
    CHECK_EQ(expected, 10 * MS);
    let_go();
}

static _Atomic bool told;

static void wait_for_bytes(void *arg) {
    if (rt_pd_wait(arg, RT_R, RT_WAIT_OTHER) == 0) atomic_store(&told, true);
}

/* A machine with other work takes a P's thread off its CPU for more than 10 ms, again and again. */
static void events_of_a_busy_p_are_no_reason_for_short_rounds(void *arg) {
    (void)arg;
    if (rt_procs() > 1) return;
    int pair[2], err;
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    rt_pd *pd = rt_pd_open(pair[0], &err);
    CHECK(pd);
    rt_go(wait_for_bytes, pd);
    rt_yield();
    int64_t t = take_hand(), polls = count_get(&own_p()->n_polls);
    atomic_store(&own_p()->last_poll_ns, t);
    for (int i = 0; i < 70; i++)
        round_at(t + i);
    CHECK_EQ(atomic_load(&hand.asked_ns), 10 * MS);
    CHECK_EQ(write(pair[1], "x", 1), 1);
    round_at(t + UNPOLLED_NS + 1);
    CHECK_EQ(count_get(&own_p()->n_polls), polls + 1);
    CHECK_EQ(atomic_load(&hand.asked_ns), 10 * MS);
    let_go();
    EXPECT_SOON(atomic_load(&told));
    rt_pd_close(pd);
    close(pair[0]);
    close(pair[1]);
}

/* ---- on the main thread: no G runs ---- */

static _Atomic int runs;

static void count_run(void *arg) {
    (void)arg;
    atomic_fetch_add(&runs, 1);
}

static bool all_idle_soon(void) {
    for (int i = 0; i < 10000; i++) {
        if (atomic_load(&sched.n_idle_ps) == sched.procs) return true;
        usleep(1000);
    }
    return false;
}

static bool waits_soon(void) {
    for (int i = 0; i < 10000; i++) {
        if (atomic_load(&sched.sysmon_sleeps)) return true;
        usleep(1000);
    }
    return false;
}

static void it_sleeps_deeply_until_a_p_is_taken(void **state) {
    (void)state;
    assert_true(all_idle_soon());
    int64_t t = take_hand();
    bool deep = false;
    int rounds = 0;
    for (; !deep && rounds < 2000; rounds++) {
        begin_round_at(++t);
        /* It comes round, or sleeps on its own note. */
        while (!note_sleep_for(&hand.done, MS))
            if (atomic_load(&sched.sysmon_sleeps)) {
                deep = true;
                break;
            }
    }
    assert_true(deep);
    /* Work wakes it; the round goes on to its end, and it watches closely again. */
    atomic_store(&runs, 0);
    rt_go(count_run, NULL);
    wait_until_it_stands();
    assert_false(atomic_load(&sched.sysmon_sleeps));
    round_at(++t);
    assert_int_equal(atomic_load(&hand.asked_ns), 20000);
    let_go();
    for (int i = 0; i < 10000 && !atomic_load(&runs); i++)
        usleep(1000);
    assert_int_equal(atomic_load(&runs), 1);
}

/* The flag and the note in every order: nothing is lost. */
static void deep_sleeps_race_with_work(void **state) {
    (void)state;
    uint64_t seed = 3;
    atomic_store(&runs, 0);
    for (int i = 1; i <= 20; i++) {
        if (i % 4 == 0) assert_true(waits_soon());
        usleep((useconds_t)random_below(&seed, 3000));
        rt_go(count_run, NULL);
        for (int k = 0; k < 10000 && atomic_load(&runs) < i; k++)
            usleep(1000);
        assert_int_equal(atomic_load(&runs), i);
    }
}

/* A step in a cell, as all foreign code is. It tells what it saw and wakes the test. */
static struct {
    rt_g *waiter;
    uint64_t ticket;
    uint32_t status;
    bool before, after, away_before, away_after, kept;
} foreign_run;

static rt_step be_foreign(rt_g *g) {
    (void)g;
    rt_cell *c = rt_current_cell();
    int64_t t = take_hand();
    rt_p *p = own_p();
    int64_t handoffs = count_get(&sched.n_handoffs);
    rt_enterforeign();
    round_at(t + 1); /* sees this stretch */
    foreign_run.status = atomic_load(&p->status) & P_STATUS;
    round_at(t + FOREIGN_NS);
    foreign_run.before = count_get(&sched.n_handoffs) != handoffs;
    foreign_run.away_before = rt_cell_is_away(c);
    round_at(t + 1 + FOREIGN_NS);
    foreign_run.after = count_get(&sched.n_handoffs) == handoffs + 1;
    foreign_run.away_after = rt_cell_is_away(c);
    let_go();
    foreign_run.kept = rt_exitforeign();
    rt_wake(foreign_run.waiter, foreign_run.ticket, RT_WOKEN);
    return RT_EXIT;
}

static void a_p_in_foreign_code_is_taken_after_20_ms(void *arg) {
    (void)arg;
    foreign_run.waiter = rt_self();
    foreign_run.ticket = rt_wait_open(rt_self());
    rt_ready(rt_new_step(be_foreign, rt_cell_new(NULL)));
    rt_wait(RT_WAIT_OTHER, 0);
    EXPECT_EQ(foreign_run.status, P_FOREIGN);
    EXPECT(!foreign_run.before && !foreign_run.away_before);
    EXPECT(foreign_run.after && foreign_run.away_after);
    EXPECT(!foreign_run.kept);
}

/* ---- who shares a P ---- */

typedef struct sharer {
    crowd c;
    rt_fd read_end;
    int write_end;
    _Atomic bool reads, sleeps; /* not any more: it has ended */
    bool polled;                /* sysmon finds the event before it shares */
} sharer;

static void read_a_byte(void *arg) {
    sharer *s = arg;
    char b;
    EXPECT_EQ(rt_fd_read(&s->read_end, &b, 1), 1);
    atomic_store(&s->reads, false);
    crowd_leave(&s->c);
}

static void sleep_a_little(void *arg) {
    sharer *s = arg;
    rt_sleep(MS);
    atomic_store(&s->sleeps, false);
    crowd_leave(&s->c);
}

static rt_step share_once(rt_g *g) {
    sharer *s = *(sharer **)rt_local(g);
    EXPECT_EQ(write(s->write_end, "x", 1), 1);
    spin_for(2 * MS);
    int64_t events = count_get(&own_p()->n_poll_events);
    if (s->polled) {
        round_at(rt_nanotime() + UNPOLLED_NS + 1);
        EXPECT_EQ(count_get(&own_p()->n_poll_events), events + 1);
    }
    rt_share();
    EXPECT(!atomic_load(&s->reads));
    EXPECT(!atomic_load(&s->sleeps));
    crowd_leave(&s->c);
    return RT_EXIT;
}

/* With one P there is an order: whose event and timer were there before has run after it, whoever has found the
 * event. */
static void one_share_serves_events_and_timers(void *arg) {
    (void)arg;
    if (rt_procs() > 1) return;
    take_hand();
    sharer s = {.reads = true, .sleeps = true};
    int ends[2];
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
    CHECK_EQ(rt_fd_init(&s.read_end, ends[0]), 0);
    s.write_end = ends[1];
    for (int i = 0; i < 100; i++) {
        atomic_store(&s.reads, true);
        atomic_store(&s.sleeps, true);
        s.polled = i % 2;
        for (int k = 0; k < 3; k++)
            crowd_enter(&s.c);
        rt_go(read_a_byte, &s);
        rt_go(sleep_a_little, &s);
        rt_yield();
        rt_g *g = rt_new_step(share_once, rt_cell_new(NULL));
        *(sharer **)rt_local(g) = &s;
        rt_ready(g);
        crowd_wait(&s.c);
    }
    EXPECT_EQ(rt_fd_close(&s.read_end), 0);
    close(ends[1]);
    let_go();
}

int main(void) {
    sysmon_set_clock(&by_hand);
    const struct CMUnitTest tests[] = {
        in_g_test(a_busy_ps_poller_is_polled_after_10_ms),
        in_g_test(a_p_in_foreign_code_is_taken_after_20_ms),
        in_g_test(a_busy_p_is_told_to_yield_after_10_ms),
        in_g_test(a_busy_ps_time_is_kept),
        in_g_test(a_call_without_work_lasts_10_ms),
        in_g_test(a_call_with_work_lasts_a_round),
        in_g_test(a_call_that_is_known_to_block_keeps_no_p),
        in_g_test(a_later_call_keeps_the_p),
        in_g_test(an_overdue_timer_of_a_busy_p_wakes_another),
        in_g_test(one_share_serves_events_and_timers),
        in_g_test(pages_of_free_stacks_go_back_every_second),
        in_g_test(it_sleeps_longer_when_there_is_nothing_to_do),
        in_g_test(events_of_a_busy_p_are_no_reason_for_short_rounds),
        cmocka_unit_test(it_sleeps_deeply_until_a_p_is_taken),
        cmocka_unit_test(deep_sleeps_race_with_work),
    };
    RUN_TESTS("sysmon", tests);
}
