/* deadlock: when nothing can ever happen again the process says so and exits with 2; while a timer,
 * a descriptor, a system call or a signal may still end a wait it does not. The same for the other ways a
 * process ends. Each case is a child process. */
#include "harness.h"

static void park_for_ever(void *arg) {
    (void)arg;
    rt_park(NULL, NULL, RT_WAIT_PARK);
}

static void all_park(void *arg) {
    (void)arg;
    for (int i = 0; i < 10; i++)
        rt_go(park_for_ever, NULL);
    rt_sleep(5 * MS);
    rt_park(NULL, NULL, RT_WAIT_JOIN);
}

static void ignore(void *arg) {
    (void)arg;
}

static void only_stopped_timers(void *arg) {
    (void)arg;
    static rt_timer t;
    rt_timer_init(&t, ignore, NULL);
    rt_timer_set(&t, rt_nanotime() + 3600 * SEC);
    rt_timer_set(&t, 0);
    rt_park(NULL, NULL, RT_WAIT_PARK);
}

static void after_a_closed_descriptor(void *arg) {
    (void)arg;
    int p[2];
    rt_fd f;
    if (pipe2(p, O_NONBLOCK | O_CLOEXEC) || rt_fd_init(&f, p[0])) exit(1);
    rt_fd_close(&f);
    rt_park(NULL, NULL, RT_WAIT_PARK);
}

static void after_a_system_call(void *arg) {
    (void)arg;
    rt_entersyscall();
    usleep(50000);
    rt_exitsyscall();
    rt_park(NULL, NULL, RT_WAIT_PARK);
}

static void a_cell_without_work(void *arg) {
    (void)arg;
    rt_cell_new(NULL);
    rt_park(NULL, NULL, RT_WAIT_PARK);
}

static void signals_that_nobody_asked_for(void *arg) {
    (void)arg;
    rt_signal_wait();
}

static void a_signal_that_nobody_waits_for(void *arg) {
    (void)arg;
    if (rt_signal_notify(SIGTERM)) exit(1);
    rt_park(NULL, NULL, RT_WAIT_PARK);
}

static void wait_for_a_signal(void *arg) {
    (void)arg;
    rt_signal_wait();
}

static void a_signal_is_reset_meanwhile(void *arg) {
    (void)arg;
    if (rt_signal_notify(SIGTERM)) exit(1);
    rt_go(wait_for_a_signal, NULL);
    rt_sleep(5 * MS);
    if (rt_signal_reset(SIGTERM)) exit(1);
    rt_park(NULL, NULL, RT_WAIT_PARK);
}

static void *send_term_later(void *arg) {
    usleep(100000);
    kill(getpid(), SIGTERM);
    return arg;
}

/* Until it comes nothing is wrong, afterwards all is. */
static void after_the_signal(void *arg) {
    (void)arg;
    if (rt_signal_notify(SIGTERM)) exit(1);
    pthread_t t = foreign(send_term_later, NULL);
    if (rt_signal_wait() != SIGTERM) exit(1);
    join_foreign(t);
    rt_go(park_for_ever, NULL);
    rt_park(NULL, NULL, RT_WAIT_PARK);
}

static void after_a_signal_that_came_too_late(void *arg) {
    (void)arg;
    if (rt_signal_notify(SIGTERM)) exit(1);
    if (rt_signal_wait_until(rt_nanotime() + 20 * MS) != RT_ETIMEOUT) exit(1);
    rt_park(NULL, NULL, RT_WAIT_PARK);
}

/* ---- those that go on ---- */

static void a_sleeper(void *arg) {
    (void)arg;
    for (int i = 0; i < 20; i++)
        rt_sleep(5 * MS);
}

static rt_g *main_g;

static bool show_main(rt_g *g, void *arg) {
    (void)arg;
    main_g = g;
    return true;
}

static void ready_main(void *arg) {
    (void)arg;
    rt_ready(main_g);
}

static void a_timer(void *arg) {
    (void)arg;
    static rt_timer t;
    rt_timer_init(&t, ready_main, NULL);
    rt_timer_set(&t, rt_nanotime() + 50 * MS);
    rt_park(show_main, NULL, RT_WAIT_PARK);
}

static void *write_later(void *arg) {
    usleep(100000);
    if (write((int)(intptr_t)arg, "x", 1) != 1) abort();
    return NULL;
}

static void a_reader(void *arg) {
    (void)arg;
    int p[2];
    char b;
    rt_fd f;
    if (pipe2(p, O_NONBLOCK | O_CLOEXEC) || rt_fd_init(&f, p[0])) exit(1);
    pthread_t t = foreign(write_later, (void *)(intptr_t)p[1]);
    if (rt_fd_read(&f, &b, 1) != 1) exit(1);
    join_foreign(t);
}

static void a_signal(void *arg) {
    (void)arg;
    if (rt_signal_notify(SIGTERM)) exit(1);
    for (int i = 0; i < 5; i++) /* they wait for what it may bring */
        rt_go(park_for_ever, NULL);
    for (int i = 0; i < 2; i++) {
        pthread_t t = foreign(send_term_later, NULL);
        if (rt_signal_wait() != SIGTERM) exit(1);
        join_foreign(t);
    }
}

static void block(void *arg) {
    rt_entersyscall();
    usleep(100000);
    rt_exitsyscall();
    ready_main(arg);
}

static bool show_main_and_block(rt_g *g, void *arg) {
    main_g = g;
    rt_go(block, arg);
    return true;
}

static void a_system_call(void *arg) {
    (void)arg;
    rt_park(show_main_and_block, NULL, RT_WAIT_PARK);
}

/* Ps go idle and calls return, in every order, and always somebody will act. */
static void wake_main_by_ticket(void *arg) {
    uint64_t ticket = (uint64_t)(uintptr_t)arg;
    rt_entersyscall();
    usleep((useconds_t)(ticket % 300));
    rt_exitsyscall();
    spin_for((int64_t)(ticket % 50) * 1000);
    rt_wake(main_g, ticket, RT_WOKEN);
}

static void many_returns(void *arg) {
    (void)arg;
    main_g = rt_self();
    for (int64_t end = rt_nanotime() + SEC / 2; rt_nanotime() < end;) {
        uint64_t ticket = rt_wait_open(main_g);
        for (int i = 0; i < 3; i++)
            rt_go(wake_main_by_ticket, (void *)(uintptr_t)ticket);
        if (rt_wait(RT_WAIT_PARK, 0) != RT_WOKEN) exit(1);
    }
}

static void return_and_wake_main(void *arg) {
    uint64_t ticket = (uint64_t)(uintptr_t)arg;
    rt_entersyscall();
    usleep((useconds_t)(ticket * 7 % 200));
    rt_exitsyscall();
    rt_wake(main_g, ticket, RT_WOKEN);
}

/* The same with one call and nothing else: while it returns, main parks, and all Ps are idle. */
static void single_returns(void *arg) {
    (void)arg;
    uint64_t seed = 1;
    main_g = rt_self();
    for (int64_t end = rt_nanotime() + SEC / 2; rt_nanotime() < end;) {
        uint64_t ticket = rt_wait_open(main_g);
        rt_go(return_and_wake_main, (void *)(uintptr_t)ticket);
        rt_yield();
        spin_for((int64_t)random_below(&seed, 300000));
        if (rt_wait(RT_WAIT_PARK, 0) != RT_WOKEN) exit(1);
    }
}

static void returns_at_once(void *arg) {
    (void)arg;
}

static void leaves_others_behind(void *arg) {
    (void)arg;
    for (int i = 0; i < 10; i++)
        rt_go(park_for_ever, NULL);
    for (int i = 0; i < 10; i++)
        rt_go(a_sleeper, NULL);
    rt_sleep(5 * MS);
}

/* ---- the table ---- */

static const struct {
    const char *name;
    void (*fn)(void *);
    int code;
} children[] = {
    {"all_park", all_park, 2},
    {"only_stopped_timers", only_stopped_timers, 2},
    {"after_a_closed_descriptor", after_a_closed_descriptor, 2},
    {"after_a_system_call", after_a_system_call, 2},
    {"a_cell_without_work", a_cell_without_work, 2},
    {"signals_that_nobody_asked_for", signals_that_nobody_asked_for, 2},
    {"a_signal_that_nobody_waits_for", a_signal_that_nobody_waits_for, 2},
    {"a_signal_is_reset_meanwhile", a_signal_is_reset_meanwhile, 2},
    {"after_the_signal", after_the_signal, 2},
    {"after_a_signal_that_came_too_late", after_a_signal_that_came_too_late, 2},
    {"a_signal", a_signal, 0},
    {"a_sleeper", a_sleeper, 0},
    {"a_timer", a_timer, 0},
    {"a_reader", a_reader, 0},
    {"a_system_call", a_system_call, 0},
    {"many_returns", many_returns, 0},
    {"single_returns", single_returns, 0},
    {"returns_at_once", returns_at_once, 0},
    {"leaves_others_behind", leaves_others_behind, 0},
};
enum { CHILDREN = sizeof children / sizeof *children };

static const char message[] = "lunapark: all Gs are asleep - deadlock!\n";

static void run_children(int code) {
    char said[8192];
    for (int i = 0; i < CHILDREN; i++) {
        if (children[i].code != code) continue;
        assert_child_exits(children[i].name, code, said, sizeof said);
        if ((strncmp(said, message, strlen(message)) == 0) != (code == 2))
            fail_msg("child %s said: %s", children[i].name, said);
    }
}

static void nothing_can_happen_is_reported(void **state) {
    (void)state;
    run_children(2);
}

static void something_may_happen_is_not(void **state) {
    (void)state;
    run_children(0);
}

static void the_report_lists_the_gs(void **state) {
    (void)state;
    char said[8192];
    assert_child_exits("all_park", 2, said, sizeof said);
    assert_non_null(strstr(said, "G 1 native: waiting, join, "));
    for (int i = 2; i <= 11; i++) {
        char line[40];
        snprintf(line, sizeof line, "G %d native: waiting, park, ", i);
        assert_non_null(strstr(said, line));
    }
}

/* The harness's own runtime allows it: nothing has been reported while this program was idle. */
static void it_may_be_normal(void **state) {
    (void)state;
    usleep(50000);
    in_g(returns_at_once, NULL);
}

int main(void) {
    const char *child = getenv("RT_TEST_CHILD");
    for (int i = 0; child && i < CHILDREN; i++)
        if (strcmp(child, children[i].name) == 0)
            rt_main(&(rt_options){.procs = test_procs()}, children[i].fn, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_may_be_normal),
        cmocka_unit_test(nothing_can_happen_is_reported),
        cmocka_unit_test(something_may_happen_is_not),
        cmocka_unit_test(the_report_lists_the_gs),
    };
    RUN_TESTS("deadlock", tests);
}
