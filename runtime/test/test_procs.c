/* procs: the number of Ps changes while Gs run. What stands in a P that is out, timers and descriptors, is served by
 * others; what it had to run, and what it was blocked in, goes on. test_stress changes it at random. */
#include "net.h"

#include <stdlib.h>
#include <sys/stat.h>

enum { MOST = 4 };

static rt_p *p_of(int i) {
    return &sched.ps[i];
}

static bool is_out(int i) {
    return i < rt_procs() && atomic_load(&p_of(i)->status) == P_OUT;
}

static int n_out(void) {
    int n = 0;
    for (int i = 0; i < rt_procs(); i++)
        n += is_out(i);
    return n;
}

/* Ps 0 to n - 1 are in, and all others are out. */
static void have(int n) {
    EXPECT_EQ(rt_set_procs(n), n);
    EXPECT_SOON(atomic_load(&sched.n_in) == n && n_out() == rt_procs() - n);
    for (int i = 0; i < rt_procs(); i++)
        EXPECT_EQ(is_out(i), i >= n);
}

static void back_to_the_first_number(void) {
    have(test_procs());
}

static void numbers_out_of_range(void *arg) {
    (void)arg;
    EXPECT_EQ(rt_set_procs(-1), -EINVAL);
    EXPECT_EQ(rt_set_procs(MAX_PROCS + 1), -EINVAL);
    EXPECT_EQ(rt_procs_in(), test_procs());
    EXPECT_EQ(rt_set_procs(0), rt_cpu_count());
    EXPECT(atomic_load(&sched.follows));
    back_to_the_first_number();
    EXPECT(!atomic_load(&sched.follows));
}

/* ---- where Gs run ---- */

static struct {
    _Atomic bool end;
    _Atomic int on[MAX_PROCS];   /* how often a G has seen itself on that P */
    _Atomic int turns[4 * MOST]; /* of each G */
} seen;

static void look_where(void *arg) {
    while (!atomic_load(&seen.end)) {
        atomic_fetch_add((_Atomic int *)arg, 1);
        atomic_fetch_add(&seen.on[rt_p_id()], 1);
        spin_for(20000);
        rt_yield();
    }
}

static void watch_for(int64_t ns) {
    for (int i = 0; i < MAX_PROCS; i++)
        atomic_store(&seen.on[i], 0);
    rt_sleep(ns);
}

static bool everywhere(int n) {
    for (int i = 0; i < n; i++)
        if (atomic_load(&seen.on[i]) == 0) return false;
    return true;
}

/* No G has stayed in the queue of a P that went out: the others never look there, since they have enough to do. */
static void all_go_on(void) {
    int before[4 * MOST];
    for (int i = 0; i < 4 * MOST; i++)
        before[i] = atomic_load(&seen.turns[i]);
    for (int i = 0; i < 4 * MOST; i++)
        EXPECT_SOON(atomic_load(&seen.turns[i]) > before[i]);
}

static void gs_run_on_the_ps_that_are_in(void *arg) {
    (void)arg;
    crowd c = {0};
    atomic_store(&seen.end, false);
    for (int i = 0; i < 4 * MOST; i++)
        crowd_go(&c, look_where, &seen.turns[i]);
    for (int round = 0; round < 3; round++) {
        have(MOST);
        watch_for(0);
        EXPECT_SOON(everywhere(MOST));
        have(1 + round % 2);
        watch_for(20 * MS);
        for (int i = 1 + round % 2; i < rt_procs(); i++)
            EXPECT_EQ(atomic_load(&seen.on[i]), 0);
        all_go_on();
    }
    atomic_store(&seen.end, true);
    crowd_wait(&c);
    back_to_the_first_number();
}

static void nap(void *arg) {
    rt_sleep(*(int64_t *)arg);
}

/* One that is idle, with an M in its poller or without. */
static void idle_ps_go_and_come(void *arg) {
    (void)arg;
    int64_t ns = MS;
    for (int i = 0; i < ROUNDS(100); i++) {
        crowd c = {0};
        have(1 + i % MOST);
        for (int k = 0; k < 8; k++)
            crowd_go(&c, nap, &ns);
        crowd_wait(&c);
    }
    have(MOST);
    EXPECT_SOON(atomic_load(&sched.n_claims) == 0); /* nobody attends any more */
    have(1);
    EXPECT_EQ(atomic_load(&sched.n_claims), rt_procs() - 1);
    back_to_the_first_number();
}

/* Their Ms find nothing more to run, while they are marked. */
static void ps_that_are_about_to_be_idle_go_out(void *arg) {
    (void)arg;
    uint64_t seed = 1;
    int64_t ns = 0;
    for (int i = 0; i < ROUNDS(300); i++) {
        crowd c = {0};
        have(MOST);
        for (int k = 0; k < 30; k++)
            crowd_go(&c, nap, &ns);
        crowd_wait(&c);
        spin_for((int64_t)random_below(&seed, 30000));
        have(1);
        if (rt_procs_in() != 1) break;
    }
    back_to_the_first_number();
}

static void dead_gs_do_not_stay(void *arg) {
    (void)arg;
    have(MOST);
    int64_t ns = 0;
    crowd c = {0};
    for (int i = 0; i < 500; i++)
        crowd_go(&c, nap, &ns);
    crowd_wait(&c);
    have(1);
    for (int i = 1; i < rt_procs(); i++) {
        EXPECT_EQ(p_of(i)->gfree.n, 0);
        EXPECT_EQ(p_of(i)->stack_gfree.n, 0);
        EXPECT(runq_empty(p_of(i)));
    }
    back_to_the_first_number();
}

/* ---- calls ---- */

static struct {
    int32_t p; /* where the call began */
    _Atomic int calls, back;
} in_call;

static void call_for_long(void *arg) {
    (void)arg;
    rt_entersyscall();
    atomic_fetch_add(&in_call.calls, 1);
    usleep(50000);
    rt_exitsyscall();
    atomic_fetch_add(&in_call.back, 1);
}

static void ps_in_system_calls_go_out(void *arg) {
    (void)arg;
    have(MOST);
    atomic_store(&in_call.calls, 0);
    atomic_store(&in_call.back, 0);
    crowd c = {0};
    for (int i = 0; i < 2 * MOST; i++)
        crowd_go(&c, call_for_long, NULL);
    EXPECT_SOON(atomic_load(&in_call.calls) > 0);
    have(1);
    crowd_wait(&c);
    EXPECT_EQ(atomic_load(&in_call.back), 2 * MOST);
    back_to_the_first_number();
}

/* ---- what stands in a P that is out ---- */

static struct {
    _Atomic int asleep, woken,
        elsewhere; /* elsewhere: whose timer stands in another heap than P 0's */
} sleepers;

static void sleep_where_it_is(void *arg) {
    (void)arg;
    spin_for(MS / 2); /* so that others are stolen */
    if (rt_p_id() != 0) atomic_fetch_add(&sleepers.elsewhere, 1);
    atomic_fetch_add(&sleepers.asleep, 1);
    rt_sleep(300 * MS);
    EXPECT(!is_out(rt_p_id()));
    atomic_fetch_add(&sleepers.woken, 1);
}

static void timers_of_ps_that_are_out_fire(void *arg) {
    (void)arg;
    atomic_store(&sleepers.elsewhere, 0);
    int64_t until = rt_nanotime() + PATIENCE_NS;
    do {
        crowd c = {0};
        have(MOST);
        atomic_store(&sleepers.asleep, 0);
        atomic_store(&sleepers.woken, 0);
        for (int i = 0; i < 40; i++)
            crowd_go(&c, sleep_where_it_is, NULL);
        EXPECT_SOON(atomic_load(&sleepers.asleep) == 40);
        have(1);
        crowd_wait(&c);
        EXPECT_EQ(atomic_load(&sleepers.woken), 40);
    } while (atomic_load(&sleepers.elsewhere) == 0 && rt_nanotime() < until);
    EXPECT(atomic_load(&sleepers.elsewhere) > 0);
    back_to_the_first_number();
}

typedef struct waiter {
    rt_pd *pd;
    int fd;
    _Atomic int n;
} waiter;

static void read_bytes(void *arg) {
    waiter *w = arg;
    for (;;) {
        char byte;
        ssize_t n = read(w->fd, &byte, 1);
        if (n == 0) return;
        if (n == 1)
            atomic_fetch_add(&w->n, 1);
        else if (!EXPECT_EQ(rt_pd_wait(w->pd, RT_R, RT_WAIT_READ), 0))
            return;
    }
}

/* In the poller of the last P, which is out most of the time. */
static void descriptors_of_ps_that_are_out_are_ready(void *arg) {
    (void)arg;
    have(MOST);
    int p[2], err;
    CHECK_EQ(pipe2(p, O_NONBLOCK | O_CLOEXEC), 0);
    waiter w = {.fd = p[0], .pd = rt_pd_open_listener(p[0], MOST - 1, &err)};
    CHECK(w.pd != NULL);
    have(1);
    rt_pd_set_deadline(w.pd, RT_W, rt_nanotime() + MS); /* nothing else ends that wait */
    EXPECT_EQ(rt_pd_wait(w.pd, RT_W, RT_WAIT_WRITE), RT_ETIMEOUT);
    crowd c = {0};
    crowd_go(&c, read_bytes, &w);
    int bytes = ROUNDS(200);
    for (int i = 0; i < bytes; i++) {
        if (i == bytes / 2) have(MOST);
        if (i == bytes / 2 + 10) have(2);
        CHECK_EQ(write(p[1], "x", 1), 1);
        EXPECT_SOON(atomic_load(&w.n) == i + 1);
    }
    close(p[1]);
    crowd_wait(&c);
    rt_pd_close(w.pd);
    close(p[0]);
    back_to_the_first_number();
}

static void new_descriptors_go_to_ps_that_are_in(void *arg) {
    (void)arg;
    have(MOST);
    have(2);
    int64_t before[MAX_PROCS];
    rt_fd a[8], b[8];
    for (int i = 0; i < rt_procs(); i++)
        before[i] = count_get(&p_of(i)->n_fds);
    for (int i = 0; i < 8; i++)
        CHECK(open_pair(&a[i], &b[i]));
    for (int i = 2; i < rt_procs(); i++)
        EXPECT_EQ(count_get(&p_of(i)->n_fds), before[i]);
    for (int i = 0; i < 8; i++) {
        rt_fd_close(&a[i]);
        rt_fd_close(&b[i]);
    }
    back_to_the_first_number();
}

/* ---- deadlocks, the quota; in children ---- */

static void wait_for_all_to_settle(int n) {
    while (rt_procs_in() != n)
        rt_sleep(MS);
}

/* It must not be reported. */
static void come_and_go(void *arg) {
    (void)arg;
    for (int i = 0; i < ROUNDS(300); i++) {
        if (rt_set_procs(1 + i % 3) != 1 + i % 3) exit(1);
        rt_sleep(i % 5 * 100000);
    }
}

/* It is reported, with P 0 in alone. */
static void all_wait(void *arg) {
    (void)arg;
    int64_t ns = 30 * MS;
    if (rt_set_procs(3) != 3) exit(1);
    for (int i = 0; i < 20; i++)
        rt_go(nap, &ns); /* some timers stand elsewhere */
    rt_sleep(10 * MS);
    if (rt_set_procs(1) != 1) exit(1);
    wait_for_all_to_settle(1);
    rt_park(NULL, NULL, RT_WAIT_PARK);
}

static void deadlocks_are_seen_with_ps_that_are_out(void **state) {
    (void)state;
    char said[8192];
    assert_child_exits("come_and_go", 0, said, sizeof said);
    assert_child_exits("all_wait", 2, said, sizeof said);
    assert_non_null(strstr(said, "all Gs are asleep"));
}

/* 10 s are 50 ms. */
static int64_t fast_now(void) {
    static _Atomic int64_t start;
    int64_t now = rt_nanotime(), none = 0;
    atomic_compare_exchange_strong(&start, &none, now);
    return start + (now - start) * 200;
}

static void fast_sleep(int64_t delay_ns) {
    (void)delay_ns;
    usleep(200);
}

static char fake_root[] = "/tmp/lp_procs_XXXXXX";

static void set_quota(const char *text) {
    char path[256], temp[256];
    snprintf(path, sizeof path, "%s/sys/fs/cgroup/cpu.max", fake_root);
    snprintf(temp, sizeof temp, "%s/next", fake_root);
    FILE *f = fopen(temp, "we");
    if (!f || fputs(text, f) < 0 || fclose(f) || rename(temp, path)) exit(1);
}

static void remove_root(void) {
    static const char *const names[] = {"/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup", "/sys/fs",
                                        "/sys", ""};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s%s", fake_root, names[i]);
        (void)remove(path);
    }
}

/* With as many CPUs as there are, so with one it says little. */
static void follow_the_quota(void *arg) {
    int cpus = *(int *)arg;
    if (rt_procs_in() != 1) exit(1);
    set_quota("max 100000\n");
    wait_for_all_to_settle(cpus);
    set_quota("100000 100000\n");
    wait_for_all_to_settle(1);
    if (rt_set_procs(3) != 3) exit(1); /* somebody has said how many */
    set_quota("100000 100000\n");
    rt_sleep(200 * MS);
    if (rt_procs_in() != 3) exit(1);
    if (rt_set_procs(0) != 1) exit(1);
    set_quota("max 100000\n");
    wait_for_all_to_settle(cpus);
    remove_root();
}

_Noreturn static void run_under_a_quota(void) {
    static int cpus;
    static const char *const dirs[] = {"/sys", "/sys/fs", "/sys/fs/cgroup"};
    cpus = rt_cpu_count();
    if (!mkdtemp(fake_root)) exit(1);
    for (int i = 0; i < 3; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s%s", fake_root, dirs[i]);
        if (mkdir(path, 0700)) exit(1);
    }
    set_quota("100000 100000\n");
    os_set_root(fake_root);
    static const sysmon_clock fast = {fast_now, fast_sleep};
    sysmon_set_clock(&fast);
    rt_main(&(rt_options){0}, follow_the_quota, &cpus);
}

static void the_quota_is_followed(void **state) {
    (void)state;
    char said[1024];
    assert_child_exits("quota", 0, said, sizeof said);
    assert_string_equal(said, "");
}

int main(void) {
    const char *child = getenv("RT_TEST_CHILD");
    if (child && strcmp(child, "quota") == 0) run_under_a_quota();
    if (child)
        rt_main(&(rt_options){.procs = test_procs()},
                strcmp(child, "all_wait") == 0 ? all_wait : come_and_go, NULL);
    const struct CMUnitTest tests[] = {
        in_g_test(numbers_out_of_range),
        in_g_test(gs_run_on_the_ps_that_are_in),
        in_g_test(idle_ps_go_and_come),
        in_g_test(ps_that_are_about_to_be_idle_go_out),
        in_g_test(dead_gs_do_not_stay),
        in_g_test(ps_in_system_calls_go_out),
        in_g_test(timers_of_ps_that_are_out_fire),
        in_g_test(descriptors_of_ps_that_are_out_are_ready),
        in_g_test(new_descriptors_go_to_ps_that_are_in),
        cmocka_unit_test(deadlocks_are_seen_with_ps_that_are_out),
        cmocka_unit_test(the_quota_is_followed),
    };
    RUN_TESTS("procs", tests);
}
