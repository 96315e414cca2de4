/* How long it takes until something runs that another thread made ready, while its thread slept.
 *
 *     wakeup rt|bare CPU WAKER_CPU [TIMES]
 *
 * rt: a G of an idle runtime, readied by rt_ready from a thread that is none of the runtime's. bare: a
 * thread in epoll_wait, woken through an eventfd, which it then reads; less cannot be done if
 * descriptors are to be waited for too. Sleeper and waker are pinned to a CPU each, and the waker
 * pauses before each time, so that the sleeper really sleeps. Prints "wakeup MEDIAN_NS P99_NS". */
#include "bench.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum { PAUSE_MIN_US = 100, PAUSE_SPREAD_US = 200 };

static int64_t times;
static int waker_cpu;
static void (*wake)(void);
static double *latency_ns;
static int64_t woken_at_ns; /* the waker writes before it wakes, the sleeper reads after */
static _Atomic bool asleep; /* the sleeper is about to sleep: the waker may pause, then wake */

static void pin(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) < 0) die("sched_setaffinity");
}

static void *waker(void *arg) {
    (void)arg;
    pin(waker_cpu);
    for (int64_t i = 0; i < times; i++) {
        while (!atomic_load(&asleep))
            usleep(10);
        atomic_store(&asleep, false);
        usleep((useconds_t)(PAUSE_MIN_US + i * 37 % PAUSE_SPREAD_US));
        woken_at_ns = rt_nanotime();
        wake();
    }
    return NULL;
}

static void start_waker(void) {
    pthread_t t;
    errno = pthread_create(&t, NULL, waker, NULL);
    if (errno) die("pthread_create");
    pthread_detach(t);
}

static void report(void) {
    double median = quantile(latency_ns, (size_t)times, 0.5);
    printf("wakeup %.0f %.0f\n", median, quantile(latency_ns, (size_t)times, 0.99));
}

/* ---- a G ---- */

static rt_g *sleeper;

static void ready_sleeper(void) {
    rt_ready(sleeper);
}

static bool fall_asleep(rt_g *g, void *arg) {
    (void)arg;
    sleeper = g;
    atomic_store(&asleep, true);
    return true;
}

static void sleep_as_g(void *arg) {
    (void)arg;
    wake = ready_sleeper;
    start_waker();
    for (int64_t i = 0; i < times; i++) {
        rt_park(fall_asleep, NULL, RT_WAIT_PARK);
        latency_ns[i] = (double)(rt_nanotime() - woken_at_ns);
    }
    report();
}

/* ---- a bare thread ---- */

static int event_fd;

static void write_event(void) {
    uint64_t one = 1;
    if (write(event_fd, &one, sizeof one) < 0) die("write");
}

static void sleep_bare(void) {
    int epfd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event ev = {.events = EPOLLIN};
    event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (epfd < 0 || event_fd < 0 || epoll_ctl(epfd, EPOLL_CTL_ADD, event_fd, &ev) < 0) die("epoll");
    wake = write_event;
    start_waker();
    for (int64_t i = 0; i < times; i++) {
        uint64_t count;
        atomic_store(&asleep, true);
        while (epoll_wait(epfd, &ev, 1, -1) != 1)
            continue;
        if (read(event_fd, &count, sizeof count) < 0) die("read");
        latency_ns[i] = (double)(rt_nanotime() - woken_at_ns);
    }
    report();
}

int main(int argc, char **argv) {
    if (argc < 4 || (strcmp(argv[1], "rt") != 0 && strcmp(argv[1], "bare") != 0)) {
        fprintf(stderr, "wakeup rt|bare CPU WAKER_CPU [TIMES]\n");
        return 2;
    }
    waker_cpu = (int)strtol(argv[3], NULL, 10);
    times = arg_or(argc, argv, 4, 3000);
    latency_ns = need(calloc((size_t)times, sizeof *latency_ns));
    pin((int)strtol(argv[2], NULL, 10));
    if (strcmp(argv[1], "bare") == 0) {
        sleep_bare();
        return 0;
    }
    /* The waker is nothing the runtime knows of: to it all Gs wait for ever. */
    rt_main(&(rt_options){.procs = 1, .deadlock_is_normal = true}, sleep_as_g, NULL);
}
