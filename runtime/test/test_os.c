/* os: the runtime counts the CPUs that it may use, raises the limit of descriptors, and starts from
 * random numbers that differ. */
#include "harness.h"

#include <sys/resource.h>

static void cpus_are_those_of_the_affinity(void **state) {
    (void)state;
    cpu_set_t before, one;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    int n = rt_cpu_count();
    assert_in_range(n, 1, CPU_COUNT(&before));
    int first = 0;
    while (!CPU_ISSET(first, &before))
        first++;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(rt_cpu_count(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
    assert_int_equal(rt_cpu_count(), n);
}

static void the_descriptor_limit_goes_up_to_the_hard_one(void **state) {
    (void)state;
    struct rlimit r;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &r), 0);
    r.rlim_cur = 64;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &r), 0);
    os_raise_fd_limit();
    assert_int_equal(rt_files_given(), 64);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &r), 0);
    assert_int_equal(r.rlim_cur, r.rlim_max);
}

static void random_numbers_differ(void **state) {
    (void)state;
    uint64_t x[100];
    for (int i = 0; i < 100; i++) {
        x[i] = os_random();
        for (int k = 0; k < i; k++)
            assert_true(x[i] != x[k]);
    }
}

static void a_thread_knows_its_stack(void **state) {
    (void)state;
    rt_stack s = os_thread_stack();
    char *here = __builtin_frame_address(0);
    assert_true(s.lo < here && here < s.hi);
}

static void time_does_not_go_back(void **state) {
    (void)state;
    int64_t last = rt_nanotime();
    for (int i = 0; i < 1000; i++) {
        int64_t now = rt_nanotime();
        assert_true(now >= last);
        last = now;
    }
    usleep(2000);
    assert_true(rt_nanotime() - last >= 2 * MS);
}

/* ---- in children: the process from its start to its end ---- */

/* On some P: which one is not promised, since a thief may be faster than m0. */
static void check_main_g(void *arg) {
    if (rt_self() == NULL || rt_id(rt_self()) != 1) exit(1);
    if (rt_p_id() < 0 || rt_p_id() >= rt_procs()) exit(1);
    if (rt_procs() != (arg ? 3 : rt_cpu_count())) exit(1);
}

static void the_main_g_runs_and_its_end_is_the_process_s(void **state) {
    (void)state;
    char said[1024];
    assert_child_exits("default", 0, said, sizeof said);
    assert_child_exits("three", 0, said, sizeof said);
    assert_string_equal(said, "");
}

int main(void) {
    const char *child = getenv("RT_TEST_CHILD");
    bool three = child && strcmp(child, "three") == 0;
    if (child) rt_main(&(rt_options){.procs = three ? 3 : 0}, check_main_g, three ? &three : NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cpus_are_those_of_the_affinity),
        cmocka_unit_test(the_descriptor_limit_goes_up_to_the_hard_one),
        cmocka_unit_test(random_numbers_differ),
        cmocka_unit_test(a_thread_knows_its_stack),
        cmocka_unit_test(time_does_not_go_back),
        cmocka_unit_test(the_main_g_runs_and_its_end_is_the_process_s),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
