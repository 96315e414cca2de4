/* What the runtime asks Linux once, at start. */
#include "impl.h"

#include <sched.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The first number comes from the kernel's 16 random bytes for this process, later ones from getrandom. */
uint64_t os_random(void) {
    static _Atomic bool used_auxv;
    uint64_t x = 0;
    const void *auxv = (const void *)getauxval(AT_RANDOM); /* NOLINT: the kernel passes it so */
    if (auxv && !atomic_exchange(&used_auxv, true)) {
        memcpy(&x, auxv, sizeof x);
        return x;
    }
    if (getrandom(&x, sizeof x, GRND_NONBLOCK) == (ssize_t)sizeof x) return x;
    return (uint64_t)rt_nanotime() * UINT64_C(0x9e3779b97f4a7c15);
}

/* The kernel's struct sched_attr, which libc does not declare. */
typedef struct sched_attributes {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime_ns, deadline_ns, period_ns;
} sched_attributes;

void rt_short_turns(bool on) {
    sched_attributes a = {.size = sizeof a};
    if (syscall(SYS_sched_getattr, 0, &a, sizeof a, 0) < 0 || a.policy != SCHED_OTHER) return;
    a.runtime_ns = on ? TURN_NS : 0;
    /* A kernel before 6.12 knows of no turns, and a sandbox may refuse: the turns stay the usual ones. */
    (void)syscall(SYS_sched_setattr, 0, &a, 0);
}

static uint64_t files_given; /* set once, before there are threads */

uint64_t rt_files_given(void) {
    return files_given;
}

void os_raise_fd_limit(void) {
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) < 0) return;
    files_given = r.rlim_cur;
    /* A process that may not raise the limit runs with what it has; accept reports when it is used up. */
    if (r.rlim_cur < r.rlim_max) {
        r.rlim_cur = r.rlim_max;
        setrlimit(RLIMIT_NOFILE, &r);
    }
}

rt_stack os_thread_stack(void) {
    rt_stack s = {0};
    pthread_attr_t attr;
    void *lo;
    size_t size;
    if (pthread_getattr_np(pthread_self(), &attr) != 0) return s;
    if (pthread_attr_getstack(&attr, &lo, &size) == 0) s = (rt_stack){lo, (char *)lo + size};
    pthread_attr_destroy(&attr);
    return s;
}

static const char *os_root = "";

void os_set_root(const char *root) {
    os_root = root;
}

int rt_cpu_count(void) {
    cpu_set_t set;
    int n = 1;
    if (sched_getaffinity(0, sizeof set, &set) == 0) n = CPU_COUNT(&set);
    int quota = cgroup_cpus(os_root);
    if (quota > 0 && quota < n) n = quota;
    return n < 1 ? 1 : n;
}
