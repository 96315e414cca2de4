/* syscall: while a G blocks in the kernel its P goes on with others; coming back it finds a P, its
 * errno is kept, and neither it nor anything else is lost on the way. */
#include "harness.h"

static _Atomic int inside, seen;
static _Atomic bool stop;

/* Blocks until somebody else ran meanwhile: with one P that takes a hand-over. */
static void block_until_seen(void *arg) {
    (void)arg;
    rt_entersyscall();
    atomic_store(&inside, 1);
    for (int i = 0; i < 10000 && !atomic_load(&seen); i++)
        usleep(1000);
    rt_exitsyscall();
    EXPECT(atomic_load(&seen));
    CHECK(rt_p_id() >= 0);
}

static void others_run_while_one_blocks(void *arg) {
    (void)arg;
    for (int i = 0; i < 10; i++) {
        crowd c = {0};
        rt_stats before, after;
        rt_read_stats(&before);
        atomic_store(&inside, 0);
        atomic_store(&seen, 0);
        crowd_go(&c, block_until_seen, NULL);
        while (!atomic_load(&inside))
            rt_yield();
        rt_read_stats(&after);
        EXPECT_EQ(after.g_syscall, 1);
        if (rt_procs() == 1) EXPECT(after.handoffs > before.handoffs);
        atomic_store(&seen, 1);
        crowd_wait(&c);
    }
}

__attribute__((noinline)) static void put_errno(int e) {
    errno = e;
}

__attribute__((noinline)) static int current_errno(void) {
    return errno;
}

static void keep_errno(void *arg) {
    uint64_t seed = (uint64_t)(uintptr_t)arg;
    for (int i = 0; i < 50; i++) {
        int e = 1 + (int)random_below(&seed, 100);
        useconds_t us = (useconds_t)random_below(&seed, 500);
        rt_entersyscall();
        if (us > 50) usleep(us);
        put_errno(e);
        rt_exitsyscall();
        CHECK_EQ(current_errno(), e);
        CHECK(rt_p_id() >= 0);
    }
}

static void errno_is_kept(void *arg) {
    (void)arg;
    crowd c = {0};
    for (uintptr_t i = 0; i < 40; i++)
        crowd_go(&c, keep_errno, (void *)i);
    crowd_wait(&c);
}

enum { AT_ONCE = 60 };

static void block_until_all_do(void *arg) {
    (void)arg;
    rt_entersyscall();
    atomic_fetch_add(&inside, 1);
    for (int i = 0; i < 15000 && atomic_load(&inside) < AT_ONCE; i++)
        usleep(1000);
    rt_exitsyscall();
    EXPECT_EQ(atomic_load(&inside), AT_ONCE);
}

static void many_block_at_once(void *arg) {
    (void)arg;
    crowd c = {0};
    rt_stats s;
    atomic_store(&inside, 0);
    for (int i = 0; i < AT_ONCE; i++)
        crowd_go(&c, block_until_all_do, NULL);
    crowd_wait(&c);
    rt_read_stats(&s);
    CHECK_EQ(s.g_syscall, 0);
    CHECK(s.ms >= AT_ONCE);
}

/* ---- coming back just when everybody goes to sleep ---- */

static void busy_a_moment(void *arg) {
    (void)arg;
    spin_for(20000);
}

static void run_and_park(void *arg) {
    uint64_t *seed = arg;
    while (!atomic_load(&stop)) {
        spin_for((int64_t)random_below(seed, 100000));
        rt_sleep((int64_t)random_below(seed, 100000) + 1);
    }
}

static void a_return_is_not_lost(void *arg) {
    (void)arg;
    uint64_t seed = 21;
    uint64_t seeds[4] = {1, 2, 3, 4};
    crowd c = {0};
    atomic_store(&stop, false);
    for (int i = 0; i < rt_procs(); i++)
        crowd_go(&c, run_and_park, &seeds[i]);
    for (int64_t end = rt_nanotime() + SEC / 2; rt_nanotime() < end;) {
        rt_entersyscall();
        usleep((useconds_t)random_below(&seed, 300));
        rt_exitsyscall();
    }
    atomic_store(&stop, true);
    crowd_wait(&c);
}

/* An M that comes out of a call takes an idle P and sends away the M in its poller; then it goes in
 * there itself, perhaps before the other is out, and is woken at once. */
static struct {
    rt_g *g;
    _Atomic uint64_t ticket; /* UINT64_MAX: over */
} sitter;

static void *wake_at_once(void *arg) {
    uint64_t last = 0, seed = (uint64_t)(uintptr_t)arg;
    for (;;) {
        uint64_t ticket = atomic_load(&sitter.ticket);
        if (ticket == UINT64_MAX) return NULL;
        if (ticket == last) continue;
        last = ticket;
        spin_for((int64_t)random_below(&seed, 30000));
        EXPECT(rt_wake(sitter.g, ticket, RT_WOKEN));
    }
}

static void a_break_reaches_the_m_it_is_meant_for(void *arg) {
    (void)arg;
    uint64_t seed = 33;
    sitter.g = rt_self();
    atomic_store(&sitter.ticket, 0);
    pthread_t t = foreign(wake_at_once, (void *)(uintptr_t)3);
    for (int64_t end = rt_nanotime() + SEC / 2; rt_nanotime() < end;) {
        crowd c = {0};
        crowd_go(&c, busy_a_moment, NULL);
        rt_entersyscall(); /* the P goes to another M, which is soon idle in its poller */
        usleep((useconds_t)(200 + random_below(&seed, 200)));
        rt_exitsyscall();
        uint64_t ticket = rt_wait_open(sitter.g);
        atomic_store(&sitter.ticket, ticket);
        rt_wait(RT_WAIT_PARK, 0);
        crowd_wait(&c);
    }
    atomic_store(&sitter.ticket, UINT64_MAX);
    join_foreign(t);
}

static bool run_on(rt_g *g, void *arg) {
    (void)g;
    (void)arg;
    return false;
}

/* Between entering and leaving, everything else of the runtime moves on the same P. */
static void calls_yields_and_parks_mix(void *arg) {
    uint64_t seed = (uint64_t)(uintptr_t)arg;
    for (int64_t end = rt_nanotime() + SEC / 2; rt_nanotime() < end;) {
        switch (random_below(&seed, 4)) {
        case 0:
            rt_entersyscall(); /* too short to be seen */
            rt_exitsyscall();
            break;
        case 1:
            rt_entersyscall();
            usleep((useconds_t)random_below(&seed, 200));
            rt_exitsyscall();
            break;
        case 2:
            rt_yield();
            break;
        default:
            rt_park(run_on, NULL, RT_WAIT_PARK);
        }
    }
}

static void short_and_long_calls_mix(void *arg) {
    (void)arg;
    crowd c = {0};
    for (uintptr_t i = 0; i < 12; i++)
        crowd_go(&c, calls_yields_and_parks_mix, (void *)i);
    crowd_wait(&c);
}

static _Atomic bool stop_pipe;

/* Data comes while the only G that runs is in the kernel with the P that polls for the other. */
static void read_pipe(void *arg) {
    rt_fd *f = arg;
    char b;
    for (int i = 0; i < 5; i++)
        CHECK_EQ(rt_fd_read(f, &b, 1), 1);
    atomic_store(&stop_pipe, true);
}

static void pollers_are_looked_after_meanwhile(void *arg) {
    (void)arg;
    int p[2];
    rt_fd f;
    crowd c = {0};
    CHECK_EQ(pipe2(p, O_NONBLOCK | O_CLOEXEC), 0);
    CHECK_EQ(rt_fd_init(&f, p[0]), 0);
    atomic_store(&stop_pipe, false);
    crowd_go(&c, read_pipe, &f);
    rt_sleep(MS);
    rt_entersyscall();
    for (int i = 0; i < 5; i++) {
        usleep(1000);
        EXPECT_EQ(write(p[1], "x", 1), 1);
        usleep(30000);
    }
    for (int i = 0; i < 10000 && !atomic_load(&stop_pipe); i++)
        usleep(1000);
    rt_exitsyscall();
    EXPECT(atomic_load(&stop_pipe));
    crowd_wait(&c);
    CHECK_EQ(rt_fd_close(&f), 0);
    close(p[1]);
}

/* It naps only when it has found nothing to do for a while, with this G as the only one. What is seen of it may be the
 * moment in which it finds that it need not, so one time is not enough. */
static void a_call_ends_a_nap_of_sysmon(void *arg) {
    (void)arg;
    int ended = 0;
    for (int i = 0; i < 10; i++) {
        int64_t until = rt_nanotime() + PATIENCE_NS;
        while (atomic_load(&sched.sysmon_sleeps) != SYSMON_NAPS && rt_nanotime() < until)
            spin_for(MS / 100);
        CHECK_EQ(atomic_load(&sched.sysmon_sleeps), SYSMON_NAPS);
        rt_entersyscall();
        ended += atomic_load(&sched.sysmon_sleeps) == SYSMON_UP;
        rt_exitsyscall();
    }
    EXPECT(ended >= 5);
}

/* Without the fast path each call waits until sysmon has taken its P. */
static void a_short_call_keeps_its_p(void *arg) {
    (void)arg;
    enum { CALLS = 200 };
    int64_t before = atomic_load(&sched.n_handoffs);
    for (int i = 0; i < CALLS; i++) {
        rt_entersyscall();
        rt_exitsyscall();
    }
    CHECK(atomic_load(&sched.n_handoffs) - before < CALLS / 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        in_g_test(a_short_call_keeps_its_p),
        in_g_test(others_run_while_one_blocks),
        in_g_test(errno_is_kept),
        in_g_test(a_call_ends_a_nap_of_sysmon),
        in_g_test(many_block_at_once),
        in_g_test(a_return_is_not_lost),
        in_g_test(a_break_reaches_the_m_it_is_meant_for),
        in_g_test(short_and_long_calls_mix),
        in_g_test(pollers_are_looked_after_meanwhile),
    };
    RUN_TESTS("syscall", tests);
}
