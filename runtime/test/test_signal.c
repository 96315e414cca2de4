/* signal: a G gets the signals it asked for, whichever thread they hit and whether it waits already
 * or not; those of a closed socket do not come at all. Every M can take one at any time, and none
 * harms what it does. A fault names its G. */
#include "harness.h"

/* To the process: any thread may get it. TSan calls a handler only when the thread makes a call that it
 * knows, which an M asleep on its futex does not; so there the sender is the one that is hit. */
static int send_signal(int signo) {
#ifdef RT_TSAN
    return pthread_kill(pthread_self(), signo);
#else
    return kill(getpid(), signo);
#endif
}

static void a_signal_before_the_wait_is_kept(void *arg) {
    (void)arg;
    CHECK_EQ(rt_signal_notify(SIGUSR1), 0);
    for (int i = 0; i < 100; i++) {
        CHECK_EQ(send_signal(SIGUSR1), 0);
        CHECK_EQ(rt_signal_wait(), SIGUSR1);
    }
}

static void *kill_later(void *arg) {
    usleep(20000);
    send_signal((int)(intptr_t)arg);
    return NULL;
}

static void a_signal_ends_the_wait(void *arg) {
    (void)arg;
    for (int i = 0; i < 5; i++) {
        pthread_t t = foreign(kill_later, (void *)(intptr_t)SIGUSR1);
        CHECK_EQ(rt_signal_wait(), SIGUSR1);
        join_foreign(t);
    }
}

static void different_signals_are_all_reported(void *arg) {
    (void)arg;
    CHECK_EQ(rt_signal_notify(SIGUSR2), 0);
    CHECK_EQ(rt_signal_notify(SIGHUP), 0);
    for (int i = 0; i < 50; i++) {
        uint64_t got = 0;
        send_signal(SIGUSR2);
        send_signal(SIGUSR1);
        send_signal(SIGHUP);
        for (int k = 0; k < 3; k++)
            got |= UINT64_C(1) << rt_signal_wait();
        CHECK_EQ(got, 1 << SIGUSR1 | 1 << SIGUSR2 | 1 << SIGHUP);
    }
}

static _Atomic int got;

static void count_signals(void *arg) {
    int signo = (int)(intptr_t)arg;
    while (atomic_load(&got) < 100) {
        CHECK_EQ(rt_signal_wait(), signo);
        atomic_fetch_add(&got, 1);
    }
}

/* Sent while the Ms go in and out of their polls: each must end one wait. */
static void none_is_lost_in_a_race_with_the_wait(void *arg) {
    (void)arg;
    crowd c = {0};
    atomic_store(&got, 0);
    crowd_go(&c, count_signals, (void *)(intptr_t)SIGUSR1);
    for (int i = 0; i < 100; i++) {
        EXPECT_SOON(atomic_load(&got) == i);
        send_signal(SIGUSR1);
    }
    crowd_wait(&c);
}

static void a_bad_number_is_refused(void *arg) {
    (void)arg;
    CHECK_EQ(rt_signal_notify(0), -EINVAL);
    CHECK_EQ(rt_signal_notify(64), -EINVAL);
    CHECK_EQ(rt_signal_notify(SIGKILL), -EINVAL);
}

static void a_closed_socket_gives_epipe_and_no_signal(void *arg) {
    (void)arg;
    int s[2];
    rt_fd f;
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, s), 0);
    CHECK_EQ(rt_fd_init(&f, s[0]), 0);
    close(s[1]);
    CHECK_EQ(rt_fd_write(&f, "x", 1), -EPIPE);
    CHECK_EQ(rt_fd_close(&f), 0);
}

/* ---- several waiters, ignore, reset ---- */

enum { WAITERS = 8 };

static void wait_once(void *arg) {
    (void)arg;
    CHECK_EQ(rt_signal_wait(), SIGUSR2);
    atomic_fetch_add(&got, 1);
}

static void several_wait_and_each_signal_wakes_one(void *arg) {
    (void)arg;
    crowd c = {0};
    CHECK_EQ(rt_signal_notify(SIGUSR2), 0);
    atomic_store(&got, 0);
    for (int i = 0; i < WAITERS; i++)
        crowd_go(&c, wait_once, NULL);
    rt_sleep(5 * MS);
    for (int i = 0; i < WAITERS; i++) {
        EXPECT_EQ(atomic_load(&got), i);
        send_signal(SIGUSR2);
        EXPECT_SOON(atomic_load(&got) == i + 1);
    }
    crowd_wait(&c);
}

static void those_that_nobody_fetched_coalesce(void *arg) {
    (void)arg;
    CHECK_EQ(rt_signal_notify(SIGUSR2), 0);
    for (int i = 0; i < 100; i++)
        send_signal(SIGUSR2);
    rt_sleep(50 * MS); /* other threads may have been hit, and run their handlers a little later */
    CHECK_EQ(rt_signal_wait(), SIGUSR2);
#ifndef RT_TSAN /* it calls the handler when it likes */
    CHECK_EQ(rt_signal_wait_until(rt_nanotime() + 5 * MS), RT_ETIMEOUT);
#endif
}

static void a_wait_has_a_deadline(void *arg) {
    (void)arg;
    for (int i = 0; i < 20; i++) {
        int64_t until = rt_nanotime() + i * MS / 4;
        int r;
        while ((r = rt_signal_wait_until(until)) > 0) /* left over from before, under TSan */
            ;
        CHECK_EQ(r, RT_ETIMEOUT);
        CHECK(rt_nanotime() >= until);
    }
}

static void *signals_at_random(void *arg) {
    uint64_t seed = 5;
    while (!atomic_load((_Atomic bool *)arg)) {
        send_signal(SIGUSR2);
        usleep((useconds_t)random_below(&seed, 300));
    }
    return NULL;
}

static void wait_with_deadlines(void *arg) {
    uint64_t seed = (uint64_t)(uintptr_t)arg;
    for (int i = 0; i < ROUNDS(500); i++) {
        int r = rt_signal_wait_until(rt_nanotime() + (int64_t)random_below(&seed, MS / 2) + 1);
        CHECK(r == SIGUSR2 || r == RT_ETIMEOUT);
    }
}

static void deadlines_race_with_signals(void *arg) {
    (void)arg;
    _Atomic bool end = false;
    crowd c = {0};
    CHECK_EQ(rt_signal_notify(SIGUSR2), 0);
    pthread_t t = foreign(signals_at_random, &end);
    for (uintptr_t i = 0; i < 6; i++)
        crowd_go(&c, wait_with_deadlines, (void *)i);
    crowd_wait(&c);
    atomic_store(&end, true);
    join_foreign(t);
    while (rt_signal_wait_until(rt_nanotime() + 20 * MS) > 0)
        ;
}

static void an_ignored_signal_does_not_come(void *arg) {
    (void)arg;
    CHECK_EQ(rt_signal_notify(SIGHUP), 0);
    send_signal(SIGHUP);
    rt_sleep(5 * MS);
    CHECK_EQ(rt_signal_ignore(SIGHUP), 0); /* drops what was not fetched */
    send_signal(SIGHUP);
#ifndef RT_TSAN
    CHECK_EQ(rt_signal_wait_until(rt_nanotime() + 5 * MS), RT_ETIMEOUT);
#endif
    CHECK_EQ(rt_signal_notify(SIGHUP), 0);
    while (rt_signal_wait_until(rt_nanotime() + 5 * MS) > 0)
        ;
    send_signal(SIGHUP);
    CHECK_EQ(rt_signal_wait(), SIGHUP);
    CHECK_EQ(rt_signal_reset(SIGHUP), 0);
    struct sigaction sa;
    CHECK_EQ(sigaction(SIGHUP, NULL, &sa), 0);
    CHECK(sa.sa_handler == SIG_DFL);
}

static void the_runtimes_own_are_refused(void *arg) {
    (void)arg;
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGURG, SIGPROF};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        CHECK_EQ(rt_signal_notify(own[i]), -EINVAL);
        CHECK_EQ(rt_signal_ignore(own[i]), -EINVAL);
        CHECK_EQ(rt_signal_reset(own[i]), -EINVAL);
    }
}

/* ---- what every M has ---- */

static void block_a_while(void *arg) {
    (void)arg;
    rt_entersyscall();
    usleep(20000);
    rt_exitsyscall();
}

/* SigBlk of a thread; ~0: it is gone. */
static uint64_t blocked_in(int32_t tid) {
    char path[64], line[256];
    unsigned long long set = ~0ull;
    snprintf(path, sizeof path, "/proc/self/task/%d/status", tid);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "SigBlk: %llx", &set) == 1) break;
    if (f) fclose(f);
    return set;
}

static void no_m_blocks_a_signal(void *arg) {
    (void)arg;
    crowd c = {0};
    for (int i = 0; i < 10; i++)
        crowd_go(&c, block_a_while, NULL);
    crowd_wait(&c);
    int n = 0;
    for (rt_m *m = atomic_load(&sched.all_ms); m; m = m->all_link) {
        int32_t tid = atomic_load(&m->tid);
        if (tid == 0) continue;            /* it starts just now */
        EXPECT_SOON(blocked_in(tid) == 0); /* it may be about to open its mask, or in a handler */
        n++;
    }
    CHECK(n >= 1);
}

static void look_at_the_altstack(void *arg) {
    (void)arg;
    stack_t ss;
    CHECK_EQ(sigaltstack(NULL, &ss), 0);
#ifndef RT_ASAN /* has its own, of its own threads */
    CHECK(ss.ss_sp == rt_getm()->sigstack);
#endif
    CHECK_EQ(ss.ss_flags & SS_DISABLE, 0);
    rt_entersyscall();
    usleep(5000);
    rt_exitsyscall();
}

static void every_m_has_an_alternate_stack(void *arg) {
    (void)arg;
    crowd c = {0};
    for (int i = 0; i < 40; i++)
        crowd_go(&c, look_at_the_altstack, NULL);
    crowd_wait(&c);
}

/* ---- SIGURG ---- */

static void an_interrupt_sets_its_ms_flag(void *arg) {
    (void)arg;
    rt_m *m = rt_getm();
    for (int i = 0; i < 20; i++) {
        atomic_store(&m->interrupted, false);
        m_interrupt(m);
        int64_t until = rt_nanotime() + PATIENCE_NS;
        /* usleep: TSan calls handlers at calls of libc. No switch, so this stays on m. */
        while (!atomic_load(&m->interrupted) && rt_nanotime() < until)
            usleep(10);
        CHECK(atomic_load(&m->interrupted));
    }
}

static _Atomic bool stop_urging;

static void *urge_all(void *arg) {
    (void)arg;
    while (!atomic_load(&stop_urging)) {
        for (rt_m *m = atomic_load(&sched.all_ms); m; m = m->all_link)
            m_interrupt(m);
        usleep(20);
    }
    return NULL;
}

static void sleep_often(void *arg) {
    (void)arg;
    for (int i = 0; i < 50; i++) {
        int64_t before = rt_nanotime();
        rt_sleep(MS);
        CHECK(rt_nanotime() - before >= MS);
    }
}

typedef struct pipe_pair {
    int blocking[2];
    rt_fd r, w;
} pipe_pair;

static void read_in_the_kernel(void *arg) {
    pipe_pair *p = arg;
    for (int i = 0; i < 50; i++) {
        char b;
        rt_entersyscall();
        ssize_t r = read(p->blocking[0], &b, 1); /* restarts */
        rt_exitsyscall();
        CHECK_EQ(r, 1);
    }
}

static void read_by_the_poller(void *arg) {
    pipe_pair *p = arg;
    for (int i = 0; i < 50; i++) {
        char b;
        CHECK_EQ(rt_fd_read(&p->r, &b, 1), 1);
    }
}

static void write_both(void *arg) {
    pipe_pair *p = arg;
    for (int i = 0; i < 50; i++) {
        rt_sleep(MS);
        CHECK_EQ(write(p->blocking[1], "x", 1), 1);
        CHECK_EQ(rt_fd_write(&p->w, "x", 1), 1);
    }
}

/* Sleeps, polls, notes, blocking calls: all go on under a hail of SIGURG. */
static void interrupts_do_no_harm(void *arg) {
    (void)arg;
    pipe_pair p;
    int s[2];
    crowd c = {0};
    CHECK_EQ(pipe2(p.blocking, O_CLOEXEC), 0);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, s), 0);
    memset(&p.r, 0, sizeof p.r);
    memset(&p.w, 0, sizeof p.w);
    CHECK_EQ(rt_fd_init(&p.r, s[0]), 0);
    CHECK_EQ(rt_fd_init(&p.w, s[1]), 0);
    atomic_store(&stop_urging, false);
    pthread_t t = foreign(urge_all, NULL);
    crowd_go(&c, read_in_the_kernel, &p);
    crowd_go(&c, read_by_the_poller, &p);
    crowd_go(&c, write_both, &p);
    for (int i = 0; i < 4; i++)
        crowd_go(&c, sleep_often, NULL);
    crowd_wait(&c);
    atomic_store(&stop_urging, true);
    join_foreign(t);
    int64_t n = 0;
    for (rt_m *m = atomic_load(&sched.all_ms); m; m = m->all_link)
        n += count_get(&m->n_interrupts);
    EXPECT(n > 0);
    EXPECT_EQ(rt_fd_close(&p.r), 0);
    EXPECT_EQ(rt_fd_close(&p.w), 0);
    close(p.blocking[0]);
    close(p.blocking[1]);
}

/* ---- in a child: faults ---- */

__attribute__((noinline)) static int64_t descend(int64_t n) {
    volatile char room[512];
    room[n % 512] = 1;
    return n < 0 ? 0 : descend(n + 1) + room[n % 512];
}

static void overflow_native(void *arg) {
    (void)arg;
    exit((int)descend(0));
}

static rt_step overflow_step(rt_g *g) {
    (void)g;
    exit((int)descend(0));
}

__attribute__((noinline)) static void write_to(volatile int *p) {
    *p = 1;
}

static void fault_native(void *arg) {
    (void)arg;
    write_to(NULL);
}

static void child_overflow(void *arg) {
    (void)arg;
    rt_go(overflow_native, NULL);
    rt_park(NULL, NULL, RT_WAIT_PARK);
}

static void child_overflow_in_cell(void *arg) {
    (void)arg;
    rt_ready(rt_new_step(overflow_step, rt_cell_new(NULL)));
    rt_park(NULL, NULL, RT_WAIT_PARK);
}

static void child_overflow_in_loop(void *arg) {
    (void)arg;
    rt_ready(rt_new_step(overflow_step, NULL));
    rt_park(NULL, NULL, RT_WAIT_PARK);
}

static void child_fault(void *arg) {
    (void)arg;
    rt_go(fault_native, NULL);
    rt_park(NULL, NULL, RT_WAIT_PARK);
}

static const struct {
    const char *name;
    void (*fn)(void *);
    int signo;
    const char *says, *says_too;
} faults[] = {
    {"overflow", child_overflow, SIGABRT, "stack overflow: G 2, stack of 65536 bytes",
     "child_overflow+"},
    {"overflow_in_cell", child_overflow_in_cell, SIGABRT,
     "stack overflow: G 3 of VM G 2, stack of 8388608", "child_overflow_in_cell+"},
    {"overflow_in_loop", child_overflow_in_loop, SIGABRT, "loop, stack of",
     "child_overflow_in_loop+"},
    {"fault", child_fault, SIGSEGV, "signal 11 at (nil) in G 2", "child_fault+"},
};
enum { FAULTS = sizeof faults / sizeof *faults };

static void faults_name_the_g(void **state) {
    (void)state;
#if defined(RT_ASAN) || defined(RT_TSAN)
    skip(); /* the sanitizers report faults by themselves */
#endif
    for (int i = 0; i < FAULTS; i++) {
        char said[4096];
        int status = run_child(faults[i].name, said, sizeof said);
        if (status < 0 || !WIFSIGNALED(status) || WTERMSIG(status) != faults[i].signo ||
            !strstr(said, faults[i].says) || !strstr(said, faults[i].says_too))
            fail_msg("child %s: status %#x, said: %s", faults[i].name, (unsigned)status, said);
    }
}

static void run_as_child(const char *name) {
    for (int i = 0; i < FAULTS; i++)
        if (strcmp(name, faults[i].name) == 0)
            rt_main(&(rt_options){.procs = 2}, faults[i].fn, NULL);
    _exit(99);
}

int main(void) {
    const char *child = getenv("RT_TEST_CHILD");
    if (child) run_as_child(child);
    const struct CMUnitTest tests[] = {
        in_g_test(a_signal_before_the_wait_is_kept),
        in_g_test(a_signal_ends_the_wait),
        in_g_test(different_signals_are_all_reported),
        in_g_test(none_is_lost_in_a_race_with_the_wait),
        in_g_test(several_wait_and_each_signal_wakes_one),
        in_g_test(those_that_nobody_fetched_coalesce),
        in_g_test(a_wait_has_a_deadline),
        in_g_test(deadlines_race_with_signals),
        in_g_test(an_ignored_signal_does_not_come),
        in_g_test(the_runtimes_own_are_refused),
        in_g_test(no_m_blocks_a_signal),
        in_g_test(every_m_has_an_alternate_stack),
        in_g_test(an_interrupt_sets_its_ms_flag),
        in_g_test(interrupts_do_no_harm),
        cmocka_unit_test(faults_name_the_g),
        in_g_test(a_bad_number_is_refused),
        in_g_test(a_closed_socket_gives_epipe_and_no_signal),
    };
    RUN_TESTS("signal", tests);
}
