/* signal: a G gets the signals it asked for, whichever thread they hit and whether it waits already
 * or not; those of a closed socket do not come at all. */
#include "harness.h"

static void a_signal_before_the_wait_is_kept(void *arg) {
    (void)arg;
    CHECK_EQ(rt_signal_notify(SIGUSR1), 0);
    for (int i = 0; i < 100; i++) {
        CHECK_EQ(kill(getpid(), SIGUSR1), 0);
        CHECK_EQ(rt_signal_wait(), SIGUSR1);
    }
}

static void *kill_later(void *arg) {
    usleep(20000);
    kill(getpid(), (int)(intptr_t)arg);
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
        kill(getpid(), SIGUSR2);
        kill(getpid(), SIGUSR1);
        kill(getpid(), SIGHUP);
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
        kill(getpid(), SIGUSR1);
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

int main(void) {
    const struct CMUnitTest tests[] = {
        in_g_test(a_signal_before_the_wait_is_kept),
        in_g_test(a_signal_ends_the_wait),
        in_g_test(different_signals_are_all_reported),
        in_g_test(none_is_lost_in_a_race_with_the_wait),
        in_g_test(a_bad_number_is_refused),
        in_g_test(a_closed_socket_gives_epipe_and_no_signal),
    };
    RUN_TESTS("signal", tests);
}
