/* proc: Gs run, yield, park and end, each exactly as often as asked for, in every order of park and
 * ready; none starves, work spreads over the Ps, and a second ready for one park is caught. */
#include "harness.h"

/* ---- spawning ---- */

static _Atomic int64_t count;

static void add_one(void *arg) {
    (void)arg;
    atomic_fetch_add(&count, 1);
}

static void many_gs_all_run(void *arg) {
    (void)arg;
    crowd c = {0};
    int n = ROUNDS(10000);
    atomic_store(&count, 0);
    for (int i = 0; i < n; i++)
        crowd_go(&c, add_one, NULL);
    crowd_wait(&c);
    CHECK_EQ(atomic_load(&count), n);
}

typedef struct branch {
    crowd *c;
    int depth;
} branch;

static void grow(void *arg) {
    branch b = *(branch *)arg;
    free(arg);
    atomic_fetch_add(&count, 1);
    if (b.depth == 0) return;
    for (int i = 0; i < 2; i++) {
        branch *child = malloc(sizeof *child);
        *child = (branch){b.c, b.depth - 1};
        crowd_go(b.c, grow, child);
    }
}

static void gs_start_gs(void *arg) {
    (void)arg;
    crowd c = {0};
    branch *root = malloc(sizeof *root);
    *root = (branch){&c, 9};
    atomic_store(&count, 0);
    crowd_go(&c, grow, root);
    crowd_wait(&c);
    CHECK_EQ(atomic_load(&count), (1 << 10) - 1);
}

static void *go_many(void *arg) {
    for (int i = 0; i < ROUNDS(2000); i++)
        crowd_go(arg, add_one, NULL);
    crowd_leave(arg);
    return NULL;
}

static void threads_without_a_p_start_gs(void *arg) {
    (void)arg;
    crowd c = {0};
    pthread_t t[3];
    atomic_store(&count, 0);
    for (int i = 0; i < 3; i++) {
        crowd_enter(&c);
        t[i] = foreign(go_many, &c);
    }
    crowd_wait(&c);
    for (int i = 0; i < 3; i++)
        join_foreign(t[i]);
    CHECK_EQ(atomic_load(&count), 3 * ROUNDS(2000));
}

static int64_t life_id;

static void note_life(void *arg) {
    (void)arg;
    life_id = rt_id(rt_self());
}

static int32_t all_gs(void) {
    rt_stats s;
    rt_read_stats(&s);
    return s.g_runnable + s.g_running + s.g_syscall + s.g_waiting + s.g_dead;
}

static void dead_gs_live_again_with_new_ids(void *arg) {
    (void)arg;
    int64_t last_id = rt_id(rt_self());
    int32_t before = all_gs();
    for (int i = 0; i < 1000; i++) {
        crowd c = {0};
        crowd_go(&c, note_life, NULL);
        crowd_wait(&c);
        CHECK(life_id > last_id);
        last_id = life_id;
    }
    CHECK(all_gs() - before < 500);
}

/* ---- yield ---- */

enum { YIELDERS = 12, YIELDS = 2000 };

static _Atomic int64_t yields[YIELDERS];
static _Atomic bool all_have_enough;

static void yield_until_all_have_enough(void *arg) {
    _Atomic int64_t *mine = arg;
    while (!atomic_load(&all_have_enough)) {
        atomic_fetch_add(mine, 1);
        rt_yield();
    }
}

static bool everybody_has(int64_t n) {
    for (int i = 0; i < YIELDERS; i++)
        if (atomic_load(&yields[i]) < n) return false;
    return true;
}

static void yielders_all_progress(void *arg) {
    (void)arg;
    crowd c = {0};
    atomic_store(&all_have_enough, false);
    for (int i = 0; i < YIELDERS; i++) {
        atomic_store(&yields[i], 0);
        crowd_go(&c, yield_until_all_have_enough, &yields[i]);
    }
    int64_t until = rt_nanotime() + PATIENCE_NS;
    while (!everybody_has(ROUNDS(YIELDS)) && rt_nanotime() < until)
        rt_yield();
    EXPECT(everybody_has(ROUNDS(YIELDS)));
    atomic_store(&all_have_enough, true);
    crowd_wait(&c);
}

/* With one P there is an order, unless sysmon takes the P from an M that has lost its CPU. */
static void a_yielder_runs_behind_all_that_are_ready(void *arg) {
    (void)arg;
    if (rt_procs() > 1) return;
    int early = 0;
    atomic_store(&count, 0);
    for (int i = 1; i <= 100; i++) {
        for (int k = 0; k < 3; k++)
            rt_go(add_one, NULL);
        rt_yield();
        for (early += atomic_load(&count) < 3 * i; atomic_load(&count) < 3 * i;)
            rt_yield();
    }
    CHECK(early < 50);
}

/* ---- park and ready ---- */

static bool ready_at_once(rt_g *g, void *arg) {
    ++*(int *)arg;
    rt_ready(g); /* it may run already: nothing of it is touched from here */
    return true;
}

static void a_ready_within_the_commit_counts(void *arg) {
    (void)arg;
    int commits = 0;
    for (int i = 1; i <= ROUNDS(20000); i++) {
        rt_park(ready_at_once, &commits, RT_WAIT_PARK);
        CHECK_EQ(commits, i);
    }
}

static bool refuse(rt_g *g, void *arg) {
    (void)g;
    ++*(int *)arg;
    return false;
}

static void a_commit_may_refuse(void *arg) {
    (void)arg;
    int commits = 0;
    for (int i = 1; i <= 1000; i++) {
        rt_park(refuse, &commits, RT_WAIT_PARK);
        CHECK_EQ(commits, i);
    }
}

enum { EMPTY, TOKEN }; /* or a G */

/* A place where one G waits for a token, and the token may come first. */
typedef struct place {
    _Atomic uintptr_t word;
    _Atomic int64_t got;
} place;

static bool take_place(rt_g *g, void *arg) {
    uintptr_t empty = EMPTY;
    return atomic_compare_exchange_strong((_Atomic uintptr_t *)arg, &empty, (uintptr_t)g);
}

static void wait_for_token(place *p) {
    rt_park(take_place, &p->word, RT_WAIT_PARK);
    if (atomic_load(&p->word) == TOKEN) atomic_store(&p->word, EMPTY);
    atomic_fetch_add(&p->got, 1);
}

static void give_token(place *p) {
    uintptr_t old = EMPTY;
    if (atomic_compare_exchange_strong(&p->word, &old, TOKEN)) return;
    if (!EXPECT(old != TOKEN)) return;
    atomic_store(&p->word, EMPTY);
    rt_ready((rt_g *)old);
}

typedef struct table {
    place ping, pong;
    int64_t rounds;
} table;

static void answer_tokens(void *arg) {
    table *t = arg;
    for (int64_t i = 0; i < t->rounds; i++) {
        wait_for_token(&t->ping);
        give_token(&t->pong);
    }
}

static void gs_ready_each_other(void *arg) {
    (void)arg;
    static table tables[8];
    memset(tables, 0, sizeof tables);
    crowd c = {0};
    table *t = &tables[0];
    t->rounds = ROUNDS(20000);
    crowd_go(&c, answer_tokens, t);
    for (int64_t i = 0; i < t->rounds; i++) {
        give_token(&t->ping);
        wait_for_token(&t->pong);
        CHECK_EQ(atomic_load(&t->pong.got), i + 1);
    }
    crowd_wait(&c);
}

/* Half of the time it gives at once, half of the time it leaves the G a chance to park. */
static void *give_tokens(void *arg) {
    table *t = arg;
    uint64_t seed = 7;
    for (int64_t i = 0; i < t->rounds; i++) {
        int64_t until = rt_nanotime() + PATIENCE_NS;
        while (atomic_load(&t->ping.got) < i && rt_nanotime() < until)
            sched_yield();
        if (random_below(&seed, 2)) spin_for((int64_t)random_below(&seed, 20000));
        give_token(&t->ping);
    }
    return NULL;
}

static void threads_without_a_p_ready_gs(void *arg) {
    (void)arg;
    static table t;
    memset(&t, 0, sizeof t);
    t.rounds = ROUNDS(5000);
    pthread_t giver = foreign(give_tokens, &t);
    for (int64_t i = 0; i < t.rounds; i++)
        wait_for_token(&t.ping);
    join_foreign(giver);
    CHECK_EQ(atomic_load(&t.ping.got), t.rounds);
}

/* ---- step Gs ---- */

typedef struct walker {
    crowd *c;
    int at;
    int commits;
} walker; /* stands in the G's local room as a pointer */

static rt_step walk(rt_g *g) {
    walker *w = *(walker **)rt_local(g);
    EXPECT(rt_self() == g);
    switch (w->at++) {
    case 0:
    case 1:
        return RT_YIELD;
    case 2: /* readied by its commit */
        rt_set_park(g, ready_at_once, &w->commits, RT_WAIT_PARK);
        return RT_PARK;
    case 3: /* runs on */
        rt_set_park(g, refuse, &w->commits, RT_WAIT_PARK);
        return RT_PARK;
    case 4:
        rt_wait_open(g);
        rt_set_wait(g, RT_WAIT_SLEEP, rt_nanotime() + MS);
        return RT_PARK;
    case 5:
        EXPECT_EQ(rt_wait_code(g), RT_TIMEOUT);
        return RT_YIELD;
    default:
        crowd_leave(w->c);
        return RT_EXIT;
    }
}

static void step_gs_yield_park_and_end(void *arg) {
    (void)arg;
    enum { WALKERS = 200 };
    static walker walkers[WALKERS];
    crowd c = {0};
    memset(walkers, 0, sizeof walkers);
    for (int i = 0; i < WALKERS; i++) {
        walkers[i].c = &c;
        crowd_enter(&c);
        rt_g *g = rt_new_step(walk, NULL);
        *(walker **)rt_local(g) = &walkers[i];
        rt_ready(g);
    }
    crowd_wait(&c);
    for (int i = 0; i < WALKERS; i++) {
        CHECK_EQ(walkers[i].at, 7);
        CHECK_EQ(walkers[i].commits, 2);
    }
}

/* ---- fairness ---- */

static _Atomic bool stop;

static void answer_until_stopped(void *arg) {
    table *t = arg;
    for (;;) {
        wait_for_token(&t->ping);
        if (t->rounds < 0) return;
        give_token(&t->pong);
    }
}

static void ask_until_stopped(void *arg) {
    table *t = arg;
    while (!atomic_load(&stop)) {
        give_token(&t->ping);
        wait_for_token(&t->pong);
    }
    t->rounds = -1; /* the last token says so */
    give_token(&t->ping);
}

static void *go_one(void *arg) {
    rt_go(add_one, arg);
    return NULL;
}

static void nobody_starves_beneath_gs_that_ready_each_other(void *arg) {
    (void)arg;
    static table tables[8];
    memset(tables, 0, sizeof tables);
    crowd c = {0};
    atomic_store(&stop, false);
    for (int i = 0; i < 2 * rt_procs(); i++) { /* enough that no P has any other reason to look */
        crowd_go(&c, answer_until_stopped, &tables[i]);
        crowd_go(&c, ask_until_stopped, &tables[i]);
    }
    rt_sleep(5 * MS); /* a timer beneath them */
    atomic_store(&count, 0);
    pthread_t t = foreign(go_one, NULL); /* into the global list */
    int64_t until = rt_nanotime() + PATIENCE_NS;
    while (atomic_load(&count) == 0 && rt_nanotime() < until)
        rt_sleep(MS);
    EXPECT_EQ(atomic_load(&count), 1);
    atomic_store(&stop, true);
    join_foreign(t);
    crowd_wait(&c);
}

/* More yielders than the rings hold, so that the global list is never empty and no ring either. */
static void yield_slowly_until_stopped(void *arg) {
    (void)arg;
    while (!atomic_load(&stop)) {
        spin_for(2000);
        rt_yield();
    }
}

static void *go_and_write_one(void *arg) {
    rt_go(add_one, NULL);
    usleep(5000);
    EXPECT_EQ(write(*(int *)arg, "x", 1), 1);
    return NULL;
}

static void full_queues_starve_neither_timers_nor_descriptors(void *arg) {
    (void)arg;
#ifdef RT_TSAN
    if (rt_procs() > 1) return; /* a turn of so many takes too long */
#endif
    crowd c = {0};
    rt_fd f;
    char b;
    int p[2];
    atomic_store(&stop, false);
    atomic_store(&count, 0);
    CHECK_EQ(pipe2(p, O_NONBLOCK | O_CLOEXEC), 0);
    CHECK_EQ(rt_fd_init(&f, p[0]), 0);
    for (int i = 0; i < (RUNQ_SIZE + RUNQ_SIZE / 8 + 1) * rt_procs(); i++)
        crowd_go(&c, yield_slowly_until_stopped, NULL);
    for (int i = 0; i < 3; i++)
        rt_sleep(MS);
    pthread_t t = foreign(go_and_write_one, &p[1]);
    rt_pd_set_deadline(f.pd, RT_R, rt_nanotime() + PATIENCE_NS);
    EXPECT_EQ(rt_fd_read(&f, &b, 1), 1);
    EXPECT_SOON(atomic_load(&count) == 1);
    atomic_store(&stop, true);
    crowd_wait(&c);
    join_foreign(t);
    EXPECT_EQ(rt_fd_close(&f), 0);
    close(p[1]);
}

static _Atomic int meeting;
static _Atomic uint32_t ps_seen; /* bit of each P that ran one of them */

static void spin_until_two_met(void *arg) {
    (void)arg;
    atomic_fetch_or(&ps_seen, 1u << rt_p_id());
    atomic_fetch_add(&meeting, 1);
    int64_t until = rt_nanotime() + PATIENCE_NS;
    while (atomic_load(&meeting) < 2 && rt_nanotime() < until)
        ;
    EXPECT(atomic_load(&meeting) >= 2);
}

static void work_spreads_over_ps(void *arg) {
    (void)arg;
    if (rt_procs() < 2) return;
    for (int i = 0; i < 20; i++) {
        crowd c = {0};
        atomic_store(&meeting, 0);
        atomic_store(&ps_seen, 0);
        /* Both into this P's ring; neither ends before the other has begun. */
        crowd_go(&c, spin_until_two_met, NULL);
        crowd_go(&c, spin_until_two_met, NULL);
        crowd_wait(&c);
        CHECK_EQ(__builtin_popcount(atomic_load(&ps_seen)), 2);
    }
}

/* All Ps but one go idle between two rounds, so that each round needs a wake-up that is not lost. */
static void no_wake_up_of_an_idle_p_is_lost(void *arg) {
    (void)arg;
    if (rt_procs() < 2) return;
    uint64_t seed = 3;
    for (int i = 0; i < ROUNDS(300); i++) {
        crowd c = {0};
        atomic_store(&meeting, 0);
        spin_for((int64_t)random_below(&seed, 100000));
        crowd_go(&c, spin_until_two_met, NULL);
        spin_until_two_met(NULL);
        crowd_wait(&c);
    }
}

static void *break_polls(void *arg) {
    uint64_t seed = (uint64_t)(uintptr_t)arg;
    while (!atomic_load(&stop)) {
        netpoll_break(sched.ps[random_below(&seed, (uint64_t)test_procs())].poller);
        spin_for((int64_t)random_below(&seed, 20000));
    }
    return NULL;
}

/* The same while Ms come out of their polls for nothing: one that has its P back, does not spin and
 * is about to go again must not be taken for one that will find the work. */
static void nor_while_ms_come_and_go(void *arg) {
    (void)arg;
    if (rt_procs() < 2) return;
    atomic_store(&stop, false);
    pthread_t t = foreign(break_polls, (void *)(uintptr_t)7);
    uint64_t seed = 4;
    for (int64_t end = rt_nanotime() + SEC / 2; rt_nanotime() < end;) {
        crowd c = {0};
        atomic_store(&meeting, 0);
        spin_for((int64_t)random_below(&seed, 20000));
        crowd_go(&c, spin_until_two_met, NULL);
        spin_until_two_met(NULL);
        crowd_wait(&c);
    }
    atomic_store(&stop, true);
    join_foreign(t);
}

static void counters_count(void *arg) {
    (void)arg;
    rt_stats a, b;
    rt_read_stats(&a);
    crowd c = {0};
    for (int i = 0; i < 100; i++)
        crowd_go(&c, add_one, NULL);
    crowd_wait(&c);
    rt_read_stats(&b);
    CHECK(b.switches - a.switches >= 100);
    CHECK_EQ(b.procs, rt_procs());
    CHECK(b.g_running >= 1 && b.g_waiting >= 1 && b.g_dead >= 1);
    CHECK(rt_p_id() >= 0 && rt_p_id() < rt_procs());
    rt_p_stats p;
    CHECK_EQ(rt_read_p_stats(rt_procs(), &p), -EINVAL);
    CHECK_EQ(rt_read_p_stats(-1, &p), -EINVAL);
    int64_t switches = 0;
    for (int i = 0; i < rt_procs(); i++) {
        CHECK_EQ(rt_read_p_stats(i, &p), 0);
        switches += p.switches;
    }
    CHECK(switches >= b.switches);
}

static void on_a_thread_without_a_g(void **state) {
    (void)state;
    assert_null(rt_self());
    assert_int_equal(rt_p_id(), -1);
}

/* ---- in a child: what must not be ---- */

static _Atomic(rt_g *) victim;

static bool show(rt_g *g, void *arg) {
    (void)arg;
    atomic_store(&victim, g);
    return true;
}

static void park_shown(void *arg) {
    (void)arg;
    rt_park(show, NULL, RT_WAIT_PARK);
    for (;;)
        rt_park(NULL, NULL, RT_WAIT_PARK);
}

static void ready_it_twice(void *arg) {
    (void)arg;
    rt_go(park_shown, NULL);
    while (!atomic_load(&victim))
        rt_yield();
    rt_ready(atomic_load(&victim));
    rt_ready(atomic_load(&victim));
}

static void a_second_ready_is_caught(void **state) {
    (void)state;
    char said[1024];
    int status = run_child("twice", said, sizeof said);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    assert_non_null(strstr(said, "lunapark: fatal: G 2: state 1, asked to go from 4 to 1"));
}

static void a_transition_that_is_none_is_caught(void **state) {
    (void)state;
    static const g_status moves[][2] = {
        {G_IDLE, G_RUNNING},    {G_WAITING, G_DEAD},  {G_RUNNABLE, G_WAITING},
        {G_SYSCALL, G_WAITING}, {G_DEAD, G_RUNNABLE},
    };
    for (size_t i = 0; i < sizeof moves / sizeof *moves; i++) {
        static rt_g g;
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0) {
            dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDERR_FILENO);
            atomic_store(&g.status, moves[i][0]);
            g_set_status(&g, moves[i][0], moves[i][1]);
            _exit(0);
        }
        int status = 0;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    }
}

int main(void) {
    if (getenv("RT_TEST_CHILD")) rt_main(&(rt_options){.procs = 1}, ready_it_twice, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(on_a_thread_without_a_g),
        in_g_test(many_gs_all_run),
        in_g_test(gs_start_gs),
        in_g_test(threads_without_a_p_start_gs),
        in_g_test(dead_gs_live_again_with_new_ids),
        in_g_test(yielders_all_progress),
        in_g_test(a_yielder_runs_behind_all_that_are_ready),
        in_g_test(a_ready_within_the_commit_counts),
        in_g_test(a_commit_may_refuse),
        in_g_test(gs_ready_each_other),
        in_g_test(threads_without_a_p_ready_gs),
        in_g_test(step_gs_yield_park_and_end),
        in_g_test(nobody_starves_beneath_gs_that_ready_each_other),
        in_g_test(full_queues_starve_neither_timers_nor_descriptors),
        in_g_test(work_spreads_over_ps),
        in_g_test(no_wake_up_of_an_idle_p_is_lost),
        in_g_test(nor_while_ms_come_and_go),
        in_g_test(counters_count),
        cmocka_unit_test(a_second_ready_is_caught),
        cmocka_unit_test(a_transition_that_is_none_is_caught),
    };
    RUN_TESTS("proc", tests);
}
