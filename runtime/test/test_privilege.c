/* privilege: ids change on every thread, those in a system call included, and stay changed. In a child
 * that is root, for there is no way back. */
#include "harness.h"

#include <dirent.h>
#include <grp.h>
#include <pwd.h>

enum { BUSY = 6 };
static _Atomic int inside;
static int block_pipe[2];

static void block(void *arg) {
    (void)arg;
    char b;
    rt_entersyscall();
    atomic_fetch_add(&inside, 1);
    ssize_t r = read(block_pipe[0], &b, 1); /* goes on after the signal by which glibc does it */
    rt_exitsyscall();
    CHECK_EQ(r, 1);
    atomic_fetch_sub(&inside, 1);
}

/* Threads whose line `key` of status is `want`; all of them are counted in *all. */
static int threads_with(const char *key, const char *want, int *all) {
    DIR *d = opendir("/proc/self/task");
    int n = 0;
    *all = 0;
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        char path[300], line[256];
        snprintf(path, sizeof path, "/proc/self/task/%s/status", e->d_name);
        FILE *f = fopen(path, "re");
        if (!f) continue;
        (*all)++;
        while (fgets(line, sizeof line, f)) {
            if (strncmp(line, key, strlen(key)) != 0) continue;
            line[strcspn(line, "\n")] = 0;
            size_t len = strlen(line); /* Groups ends with a space */
            while (len && line[len - 1] == ' ')
                line[--len] = 0;
            const char *value = line + strlen(key);
            value += strspn(value, " \t");
            n += strcmp(value, want) == 0;
        }
        fclose(f);
    }
    if (d) closedir(d);
    return n;
}

static bool all_have(const char *key, const char *want) {
    int all, n = threads_with(key, want, &all);
    if (n == all && all >= BUSY + 2) return true; /* and sysmon */
    fprintf(stderr, "%s %s: %d of %d threads\n", key, want, n, all);
    return false;
}

static void start_threads(void) {
    if (pipe2(block_pipe, O_CLOEXEC) < 0) _exit(20);
    for (int i = 0; i < BUSY; i++)
        rt_go(block, NULL);
    while (atomic_load(&inside) < BUSY)
        rt_sleep(MS);
}

static void end_threads(void) {
    for (int i = atomic_load(&inside); i > 0; i--)
        if (write(block_pipe[1], "x", 1) != 1) _exit(21);
    while (atomic_load(&inside))
        rt_sleep(MS);
}

static void child_steps(void *arg) {
    (void)arg;
    start_threads();
    gid_t groups[] = {1234, 2345};
    if (rt_setgroups(2, groups) || !all_have("Groups:", "1234 2345")) _exit(1);
    if (rt_setgid(3456) || !all_have("Gid:", "3456\t3456\t3456\t3456")) _exit(2);
    if (rt_setuid(4567) || !all_have("Uid:", "4567\t4567\t4567\t4567")) _exit(3);
    if (rt_setuid(0) != -EPERM || rt_setgid(0) != -EPERM || rt_setgroups(0, NULL) != -EPERM)
        _exit(4);
    /* Threads that come now are no better. */
    for (int i = 0; i < BUSY; i++)
        rt_go(block, NULL);
    while (atomic_load(&inside) < 2 * BUSY)
        rt_sleep(MS);
    if (!all_have("Uid:", "4567\t4567\t4567\t4567")) _exit(5);
    end_threads();
    _exit(0);
}

static void child_drop(void *arg) {
    (void)arg;
    start_threads();
    struct passwd *pw = getpwnam("nobody");
    if (!pw) _exit(10);
    char uid[64], gid[64];
    unsigned u = pw->pw_uid, g = pw->pw_gid;
    snprintf(uid, sizeof uid, "%u\t%u\t%u\t%u", u, u, u, u);
    snprintf(gid, sizeof gid, "%u\t%u\t%u\t%u", g, g, g, g);
    if (rt_drop_privileges("no such user", NULL) != -ENOENT || !all_have("Uid:", "0\t0\t0\t0"))
        _exit(1);
    int err = rt_drop_privileges("nobody", NULL);
    if (err) {
        fprintf(stderr, "%s\n", strerror(-err));
        _exit(2);
    }
    if (!all_have("Uid:", uid) || !all_have("Gid:", gid)) _exit(3);
    if (threads_with("Groups:", "0", &(int){0})) _exit(4);
    if (setuid(0) == 0) _exit(5);
    if (rt_drop_privileges("root", NULL) != -EPERM) _exit(6);
    end_threads();
    _exit(0);
}

static void run_root_child(const char *name) {
    char said[4096];
    if (geteuid() != 0) skip();
    assert_child_exits(name, 0, said, sizeof said);
}

static void ids_change_on_every_thread(void **state) {
    (void)state;
    run_root_child("steps");
}

static void a_user_is_become_for_good(void **state) {
    (void)state;
    run_root_child("drop");
}

int main(void) {
    const char *child = getenv("RT_TEST_CHILD");
    if (child)
        rt_main(&(rt_options){.procs = 2}, strcmp(child, "drop") ? child_steps : child_drop, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_change_on_every_thread),
        cmocka_unit_test(a_user_is_become_for_good),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
