/* How much CPU time the cgroups allow this process.
 *
 * Version 2 has a file cpu.max in each cgroup: "quota period" or "max period", in microseconds. Version 1 has a file
 * for each of the two, and -1 for no quota. /proc/self/cgroup names the cgroup of a process, "0::/a/b" or, in version
 * 1, "4:cpu,cpuacct:/a/b". Every cgroup above limits the process as well, so the least limit counts. In a container
 * this path may be one of the host's, which is missing below /sys/fs/cgroup. A missing cgroup limits nothing, and the
 * root of the tree, which is the container's own cgroup then, is looked at in any case.
 */
#include "impl.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The first line of a file, without its end. False: there is none. */
static bool read_line(const char *path, char *buf, size_t n) {
    FILE *f = fopen(path, "re");
    if (!f) return false;
    bool read = fgets(buf, (int)n, f);
    fclose(f);
    return read;
}

/* CPUs' worth of time, rounded up; 0: no limit. */
static int cpus_of(long long quota, long long period) {
    if (quota <= 0 || period <= 0) return 0;
    long long n = quota / period + (quota % period != 0);
    return n < INT_MAX ? (int)n : INT_MAX;
}

static int limit_v2(const char *dir) {
    char path[PATH_MAX], buf[64];
    long long quota, period;
    snprintf(path, sizeof path, "%s/cpu.max", dir);
    if (!read_line(path, buf, sizeof buf)) return 0;
    return sscanf(buf, "%lld %lld", &quota, &period) == 2 ? cpus_of(quota, period) : 0;
}

static int limit_v1(const char *dir) {
    char path[PATH_MAX], quota[64], period[64];
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", dir);
    if (!read_line(path, quota, sizeof quota)) return 0;
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", dir);
    if (!read_line(path, period, sizeof period)) return 0;
    return cpus_of(atoll(quota), atoll(period));
}

static void lessen(int *least, int n) {
    if (n > 0 && (*least == 0 || n < *least)) *least = n;
}

/* The least limit of the cgroup `at` below `tree` and of those above it, `tree` included. `at` is changed. */
static void climb(const char *tree, char *at, int (*limit)(const char *dir), int *least) {
    char dir[PATH_MAX];
    if (strstr(at, "/..")) at[0] = 0; /* above the root that this process sees */
    for (;;) {
        size_t len = strlen(at);
        if (len && at[len - 1] == '/') at[len - 1] = 0;
        snprintf(dir, sizeof dir, "%s%s", tree, at);
        lessen(least, limit(dir));
        char *slash = strrchr(at, '/');
        if (!slash) return;
        *slash = 0;
    }
}

/* "cpu" is one of the names in "cpu,cpuacct". */
static bool has_cpu(const char *names) {
    for (const char *at = names; *at;) {
        size_t len = strcspn(at, ",");
        if (len == 3 && strncmp(at, "cpu", 3) == 0) return true;
        at += len + (at[len] != 0);
    }
    return false;
}

/* A line of /proc/self/cgroup: "number:names:path". */
static void look_at(const char *root, char *line, int *least) {
    char tree[PATH_MAX];
    line[strcspn(line, "\n")] = 0;
    char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
    if (!path) return;
    *path++ = 0;
    names++;
    if (!*names) {
        snprintf(tree, sizeof tree, "%s/sys/fs/cgroup", root);
        climb(tree, path, limit_v2, least);
    } else if (has_cpu(names)) {
        snprintf(tree, sizeof tree, "%s/sys/fs/cgroup/cpu", root);
        climb(tree, path, limit_v1, least);
    }
}

int cgroup_cpus(const char *root) {
    char path[PATH_MAX], line[PATH_MAX + 64];
    char v2[] = "0::/", v1[] = "1:cpu:/"; /* the roots of both trees, whatever /proc says */
    int least = 0;
    look_at(root, v2, &least);
    look_at(root, v1, &least);
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "re");
    if (!f) return least;
    while (fgets(line, sizeof line, f))
        look_at(root, line, &least);
    fclose(f);
    return least;
}
