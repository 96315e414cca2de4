/* cgroup: the CPU time that cgroups allow, over directories that look like /proc and /sys/fs/cgroup. */
#include "harness.h"

#include <ftw.h>
#include <sys/stat.h>

static char root[] = "/tmp/lp_cgroup_XXXXXX";

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at) {
    (void)st, (void)type, (void)at;
    return remove(path);
}

static void clear(void) {
    nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    assert_int_equal(mkdir(root, 0700), 0);
}

/* Makes the folders of a path below root, and a file of that text. */
static void put(const char *path, const char *text) {
    char whole[512];
    snprintf(whole, sizeof whole, "%s/%s", root, path);
    for (char *at = whole + strlen(root) + 1; (at = strchr(at, '/')); at++) {
        *at = 0;
        (void)mkdir(whole, 0700); /* it may be there */
        *at = '/';
    }
    FILE *f = fopen(whole, "we");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void no_files_are_no_limit(void **state) {
    (void)state;
    clear();
    assert_int_equal(cgroup_cpus(root), 0);
    put("proc/self/cgroup", "0::/\n");
    assert_int_equal(cgroup_cpus(root), 0);
    put("sys/fs/cgroup/cpu.max", "max 100000\n");
    assert_int_equal(cgroup_cpus(root), 0);
    put("sys/fs/cgroup/cpu.max", "nonsense\n");
    assert_int_equal(cgroup_cpus(root), 0);
    put("sys/fs/cgroup/cpu.max", "");
    assert_int_equal(cgroup_cpus(root), 0);
    put("sys/fs/cgroup/cpu.max", "100000 0\n");
    assert_int_equal(cgroup_cpus(root), 0);
}

static void version_2(void **state) {
    (void)state;
    clear();
    put("sys/fs/cgroup/cpu.max", "250000 100000\n"); /* without /proc: a container's own */
    assert_int_equal(cgroup_cpus(root), 3);
    put("proc/self/cgroup", "0::/\n");
    assert_int_equal(cgroup_cpus(root), 3);
    put("sys/fs/cgroup/cpu.max", "200000 100000\n");
    assert_int_equal(cgroup_cpus(root), 2);
    put("sys/fs/cgroup/cpu.max", "1000 100000\n");
    assert_int_equal(cgroup_cpus(root), 1);
}

static void version_1(void **state) {
    (void)state;
    clear();
    put("proc/self/cgroup", "5:memory:/\n4:cpu,cpuacct:/\n1:name=systemd:/\n");
    put("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
    put("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    assert_int_equal(cgroup_cpus(root), 0);
    put("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "150000\n");
    assert_int_equal(cgroup_cpus(root), 2);
    put("sys/fs/cgroup/cpu/cpu.cfs_period_us", "50000\n");
    assert_int_equal(cgroup_cpus(root), 3);
}

static void nested_groups_of_version_2(void **state) {
    (void)state;
    clear();
    put("proc/self/cgroup", "0::/system.slice/app.service/worker\n");
    put("sys/fs/cgroup/system.slice/app.service/worker/cpu.max", "max 100000\n");
    put("sys/fs/cgroup/system.slice/app.service/cpu.max", "200000 100000\n");
    put("sys/fs/cgroup/system.slice/cpu.max", "600000 100000\n");
    assert_int_equal(cgroup_cpus(root), 2);
    put("sys/fs/cgroup/system.slice/app.service/worker/cpu.max", "800000 100000\n");
    assert_int_equal(cgroup_cpus(root), 2);
    put("sys/fs/cgroup/system.slice/app.service/worker/cpu.max", "100000 100000\n");
    assert_int_equal(cgroup_cpus(root), 1);
    put("sys/fs/cgroup/other.slice/cpu.max", "1000 100000\n"); /* not ours */
    put("sys/fs/cgroup/system.slice/app.service/worker/cpu.max", "700000 100000\n");
    put("sys/fs/cgroup/system.slice/app.service/cpu.max", "max 100000\n");
    assert_int_equal(cgroup_cpus(root), 6);
}

static void nested_groups_of_version_1(void **state) {
    (void)state;
    clear();
    put("proc/self/cgroup", "3:cpuset:/z\n2:cpuacct,cpu:/a/b\n0::/\n");
    put("sys/fs/cgroup/cpu/a/b/cpu.cfs_quota_us", "-1\n");
    put("sys/fs/cgroup/cpu/a/b/cpu.cfs_period_us", "100000\n");
    put("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "300000\n");
    put("sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n");
    assert_int_equal(cgroup_cpus(root), 3);
    put("sys/fs/cgroup/cpu/a/b/cpu.cfs_quota_us", "100000\n");
    assert_int_equal(cgroup_cpus(root), 1);
}

static void a_path_of_the_host_is_the_root_here(void **state) {
    (void)state;
    clear();
    put("proc/self/cgroup", "0::/docker/0123456789\n");
    put("sys/fs/cgroup/cpu.max", "200000 100000\n");
    assert_int_equal(cgroup_cpus(root), 2);
    put("proc/self/cgroup", "0::/../../etc\n"); /* a group outside of what this process sees */
    put("etc/cpu.max", "100000 100000\n");
    assert_int_equal(cgroup_cpus(root), 2);
    put("proc/self/cgroup", "0::\nnonsense\n::::\n\n:\n7:cpu\n");
    assert_int_equal(cgroup_cpus(root), 2);
}

static void the_runtime_counts_no_more_than_that(void **state) {
    (void)state;
    clear();
    int all = rt_cpu_count();
    os_set_root(root);
    put("sys/fs/cgroup/cpu.max", "100000 100000\n");
    assert_int_equal(rt_cpu_count(), 1);
    put("sys/fs/cgroup/cpu.max", "99900000 100000\n");
    assert_true(rt_cpu_count() >= all);
    os_set_root("");
}

static int set_up(void **state) {
    (void)state;
    return mkdtemp(root) ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    return nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_files_are_no_limit),
        cmocka_unit_test(version_2),
        cmocka_unit_test(version_1),
        cmocka_unit_test(nested_groups_of_version_2),
        cmocka_unit_test(nested_groups_of_version_1),
        cmocka_unit_test(a_path_of_the_host_is_the_root_here),
        cmocka_unit_test(the_runtime_counts_no_more_than_that),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
