/* debug: SIGUSR1 and SIGQUIT show every G, even if no P is free to do it; LUNAPARK_DEBUG has sysmon
 * print a line every so often, asleep or not. All in children: they end, or must be asked from
 * outside. */
#include "harness.h"

static rt_fd child_pipe;

__attribute__((noinline)) static void sleeps(void *arg) {
    (void)arg;
    rt_sleep(60 * SEC);
}

static void parks(void *arg) {
    (void)arg;
    rt_park(NULL, NULL, RT_WAIT_PARK);
}

static void reads(void *arg) {
    (void)arg;
    char b;
    rt_fd_read(&child_pipe, &b, 1);
}

static void in_kernel(void *arg) {
    (void)arg;
    rt_entersyscall();
    for (int i = 0; i < 60; i++)
        sleep(1); /* which a signal cuts short */
    rt_exitsyscall();
}

static rt_step step_parks(rt_g *g) {
    rt_set_park(g, NULL, NULL, RT_WAIT_JOIN);
    return RT_PARK;
}

/* Not inlined and with something after each call: its name is what the dump must show. */
__attribute__((noinline)) static int makes_gs(void) {
    int p[2];
    if (pipe2(p, O_NONBLOCK | O_CLOEXEC) < 0 || rt_fd_init(&child_pipe, p[0]) < 0) return 1;
    rt_go(sleeps, NULL);
    rt_go(parks, NULL);
    rt_go(reads, NULL);
    rt_go(in_kernel, NULL);
    rt_ready(rt_new_step(step_parks, NULL));
    rt_ready(rt_new_step(step_parks, rt_cell_new(NULL)));
    return 0;
}

static void say(const char *s) {
    debug_emit(s, strlen(s));
}

/* From a thread: while it is handled, the main G waits, or no G moves any more. */
static void *signal_later(void *arg) {
    usleep(100000);
    kill(getpid(), (int)(intptr_t)arg);
    return NULL;
}

static void signal_self_soon(int signo) {
    pthread_detach(foreign(signal_later, (void *)(intptr_t)signo));
}

/* When the Gs of makes_gs, the VM's and the main G stand where the dump must show them. */
static void *signal_at_rest(void *arg) {
    rt_stats s;
    do {
        usleep(1000);
        rt_read_stats(&s);
    } while (s.g_syscall != 1 || s.g_waiting < 7 || s.g_runnable + s.g_running > 0);
    kill(getpid(), (int)(intptr_t)arg);
    return NULL;
}

static rt_g *main_g;

static void wake_main(rt_dump_how how) {
    if (how == RT_DUMP_WAITS) rt_interrupt(main_g, RT_CANCELED);
}

static void child_dump(void *arg) {
    (void)arg;
    main_g = rt_self();
    if (makes_gs()) _exit(9);
    rt_on_dump(wake_main);
    pthread_detach(foreign(signal_at_rest, (void *)(intptr_t)SIGUSR1));
    if (rt_sleep(60 * SEC) == 0) _exit(8);
    say("still here\n");
    _exit(0);
}

static void child_quit(void *arg) {
    (void)arg;
    if (makes_gs()) _exit(9);
    pthread_detach(foreign(signal_at_rest, (void *)(intptr_t)SIGQUIT));
    rt_sleep(60 * SEC);
}

static _Atomic int spinning;

static void spins(void *arg) {
    (void)arg;
    atomic_fetch_add(&spinning, 1);
    spin_for(60 * SEC);
}

/* Both Ps are held: a P whose M is still on its way would do it before sysmon does. */
static void *quit_when_stuck(void *arg) {
    while (atomic_load(&spinning) < 2)
        usleep(1000);
    kill(getpid(), SIGQUIT);
    return arg;
}

static void child_stuck(void *arg) {
    (void)arg;
    pthread_detach(foreign(quit_when_stuck, NULL));
    rt_go(spins, NULL);
    rt_yield();
    spins(NULL);
}

static void child_keeps(void *arg) {
    (void)arg;
    signal_self_soon(SIGUSR1);
    rt_sleep(60 * SEC);
}

/* The program's own wish comes first, and is taken back. */
static void child_takes(void *arg) {
    (void)arg;
    if (rt_signal_notify(SIGQUIT) < 0) _exit(9);
    kill(getpid(), SIGQUIT);
    if (rt_signal_wait() != SIGQUIT) _exit(8);
    if (rt_signal_reset(SIGQUIT) < 0) _exit(7);
    kill(getpid(), SIGQUIT);
    rt_sleep(60 * SEC);
}

static void no_sleep(int64_t delay_ns) {
    (void)delay_ns;
}

/* Sysmon's rounds take no time, so it is in its deep sleep at once. */
static const sysmon_clock hasty = {rt_nanotime, no_sleep};

static void child_schedtrace(void *arg) {
    (void)arg;
    rt_sleep(500 * MS);
    _exit(0);
}

static const struct {
    const char *name;
    void (*fn)(void *);
    bool keep;
    const sysmon_clock *c;
} children[] = {
    {"dump", child_dump, false, NULL},
    {"quit", child_quit, false, NULL},
    {"stuck", child_stuck, false, NULL},
    {"keeps", child_keeps, true, NULL},
    {"takes", child_takes, false, NULL},
    {"schedtrace", child_schedtrace, false, NULL},
    {"schedtrace_deep", child_schedtrace, false, &hasty},
};

static void run_as_child(const char *name) {
    for (size_t i = 0; i < sizeof children / sizeof *children; i++) {
        if (strcmp(name, children[i].name) != 0) continue;
        if (children[i].c) sysmon_set_clock(children[i].c);
        rt_main(&(rt_options){.procs = 2, .keep_signals = children[i].keep}, children[i].fn, NULL);
    }
    _exit(99);
}

/* ---- the tests ---- */

static void assert_says(const char *said, const char *what) {
    if (!strstr(said, what)) fail_msg("\"%s\" is not in: %s", what, said);
}

/* And for how long: less than the child has lived. */
static void assert_shows_g(const char *said, const char *what) {
    assert_says(said, what);
    char *end, *at = strstr(said, what) + strlen(what);
    double s = strtod(at, &end);
    if (end == at || s < 0 || s > 100 || strncmp(end, " s, created by ", 15) != 0)
        fail_msg("no time after \"%s\": %s", what, said);
}

/* `in_vm`: what it says of the G in a VM, which has a line of its own unless there is a hook that lists those. */
static void assert_lists_all(const char *said, const char *in_vm, int lines_of_gs) {
    static const char *const lines[] = {
        "lunapark: 2 Ps (", "P 0: ", "P 1: ", ", created by makes_gs+0x", ", created by main+0x",
    };
    static const char *const gs[] = {
        "G 1 native: waiting, sleep, ",    " native: waiting, sleep, ",
        " native: waiting, park, ",        " native: waiting, read, ",
        " native: syscall, system call, ", " step: waiting, join, ",
        " VM: waiting, VM idle, ",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        assert_says(said, lines[i]);
    for (size_t i = 0; i < sizeof gs / sizeof *gs; i++)
        assert_shows_g(said, gs[i]);
    assert_says(said, in_vm);
    /* Each on a line of its own. */
    int n = 0;
    for (const char *at = said; (at = strstr(at, "\nG ")); at++)
        n++;
    assert_int_equal(n, lines_of_gs);
}

static void sigusr1_shows_all_and_changes_nothing(void **state) {
    (void)state;
    char said[8192];
    assert_child_exits("dump", 0, said, sizeof said);
    assert_lists_all(said, "\n1 G in VMs: waiting, join, up to ", 7);
    assert_says(said, "still here");
}

static void sigquit_shows_all_and_ends(void **state) {
    (void)state;
    char said[8192];
    assert_child_exits("quit", 2, said, sizeof said);
    assert_says(said, "lunapark: SIGQUIT\n");
    assert_lists_all(said, " in VM: waiting, join, ", 8);
}

static void sysmon_does_it_if_nobody_can(void **state) {
    (void)state;
    char said[8192];
    assert_child_exits("stuck", 2, said, sizeof said);
    assert_says(said, "so sysmon does it");
    assert_says(said, "G 1 native: running, created by main+0x");
    assert_says(said, "G 2 native: running, created by child_stuck+0x");
}

static void an_option_keeps_the_default(void **state) {
    (void)state;
    char said[8192];
    int status = run_child("keeps", said, sizeof said);
    assert_true(status >= 0 && WIFSIGNALED(status) && WTERMSIG(status) == SIGUSR1);
    assert_string_equal(said, "");
}

static void the_programs_wish_comes_first(void **state) {
    (void)state;
    char said[8192];
    assert_child_exits("takes", 2, said, sizeof said);
    assert_says(said, "G 1 native: ");
}

/* *last_ms: when the last one came. */
static int count_lines(const char *said, int *last_ms) {
    int n = 0;
    *last_ms = 0;
    for (const char *at = said; (at = strstr(at, "SCHED ")); at++) {
        int ps;
        if (sscanf(at, "SCHED %dms: ps=%d idle=", last_ms, &ps) != 2 || ps != 2)
            fail_msg("line: %s", at);
        n++;
    }
    return n;
}

static void schedtrace(const char *child) {
    char said[16384];
    setenv("LUNAPARK_DEBUG", "schedtrace=20,gctrace=1", 1);
    int status = run_child(child, said, sizeof said);
    unsetenv("LUNAPARK_DEBUG");
    assert_int_equal(status, 0);
    int last_ms, n = count_lines(said, &last_ms);
    /* 24 in half a second when nobody disturbs us. */
    if (n < 3 || n > last_ms / 20) fail_msg("%d lines: %s", n, said);
    assert_says(said, " polls=+");
    assert_says(said, " gs: runnable=");
}

static void a_line_comes_every_so_often(void **state) {
    (void)state;
    schedtrace("schedtrace");
}

static void a_deep_sleep_does_not_stop_them(void **state) {
    (void)state;
    schedtrace("schedtrace_deep");
}

static void variables_are_read(void **state) {
    (void)state;
    debugenv_init("schedtrace=1000,gctrace=1");
    assert_int_equal(rt_debug()->schedtrace, 1000);
    assert_int_equal(rt_debug()->gctrace, 1);
    debugenv_init(NULL);
    assert_int_equal(rt_debug()->schedtrace, 0);
    assert_int_equal(rt_debug()->gctrace, 0);
    debugenv_init(",,gctrace=2,");
    assert_int_equal(rt_debug()->gctrace, 2);
}

/* What it says of each goes to stderr, here a pipe. */
static void others_are_a_warning(void **state) {
    (void)state;
    static const char *const bad[] = {"nonsense=1",
                                      "schedtrace",
                                      "schedtrace=",
                                      "schedtrace=x",
                                      "schedtrace=1x",
                                      "schedtrace=-1",
                                      "schedtrace=99999999999",
                                      "sched=1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int p[2], saved = dup(STDERR_FILENO);
        char said[512], all[128];
        assert_int_equal(pipe2(p, O_CLOEXEC | O_NONBLOCK), 0);
        dup2(p[1], STDERR_FILENO);
        snprintf(all, sizeof all, "%s,gctrace=1", bad[i]);
        debugenv_init(all);
        dup2(saved, STDERR_FILENO);
        ssize_t n = read(p[0], said, sizeof said - 1);
        close(p[0]);
        close(p[1]);
        close(saved);
        assert_true(n > 0);
        said[n] = 0;
        assert_says(said, bad[i]);
        assert_int_equal(rt_debug()->schedtrace, 0);
        assert_int_equal(rt_debug()->gctrace, 1); /* those after it count */
    }
}

static void addresses_have_names(void **state) {
    (void)state;
    char text[128];
    assert_true(rt_symbol_print((char *)addresses_have_names + 1, text, sizeof text) > 0);
    assert_string_equal(text, "addresses_have_names+0x1");
    rt_symbol_print((char *)(uintptr_t)&read, text, sizeof text);
    assert_non_null(strchr(text, '+'));
    rt_symbol_print((char *)1, text, sizeof text);
    assert_string_equal(text, "0x1");
    assert_int_equal(rt_symbol_print((char *)addresses_have_names, text, 5), 4);
}

int main(void) {
    const char *child = getenv("RT_TEST_CHILD");
    if (child) run_as_child(child);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(variables_are_read),
        cmocka_unit_test(others_are_a_warning),
        cmocka_unit_test(addresses_have_names),
        cmocka_unit_test(sigusr1_shows_all_and_changes_nothing),
        cmocka_unit_test(sigquit_shows_all_and_ends),
        cmocka_unit_test(sysmon_does_it_if_nobody_can),
        cmocka_unit_test(an_option_keeps_the_default),
        cmocka_unit_test(the_programs_wish_comes_first),
        cmocka_unit_test(a_line_comes_every_so_often),
        cmocka_unit_test(a_deep_sleep_does_not_stop_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
