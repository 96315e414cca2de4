/* Timers on one P.
 *
 *     timers stop [N [BATCHES]]    makes and stops timers of distinct far deadlines: "timer-stop NS"
 *     timers fire [N]              sets N timers, lets all come due within a millisecond, and runs a G
 *                                  beside that does nothing but yield and look at the clock:
 *                                  "timer-set NS", "timer-fire NS", "timer-all NS" (the sum), each per
 *                                  timer, and "timer-step MS", the longest time the G was kept away
 *
 * A stopped timer stays in its heap until its time comes, so each is made in memory of its own, as
 * Gs' and pollDescs' are; Go's time.AfterFunc allocates its own. */
#include "bench.h"

#define NS_PER_SEC INT64_C(1000000000)

enum { CLOSER_LOOK_NS = 50000 };

static int64_t n, batches, fired;
static rt_timer *timers;

static void count(void *arg) {
    (void)arg;
    fired++;
}

static void stop(void *arg) {
    (void)arg;
    double *ns = need(malloc((size_t)batches * sizeof *ns));
    int64_t far = rt_nanotime() + 3600 * NS_PER_SEC, size = n / batches;
    for (int64_t b = 0; b < batches; b++) {
        int64_t begin = cpu_ns();
        for (int64_t i = b * size; i < (b + 1) * size; i++) {
            rt_timer_init(&timers[i], count, NULL);
            rt_timer_set(&timers[i], far + shuffled(i, n) * 1000);
            rt_timer_set(&timers[i], 0);
        }
        ns[b] = (double)(cpu_ns() - begin) / (double)size;
    }
    printf("timer-stop %.2f\n", quantile(ns, (size_t)batches, 0.5));
    free(ns);
}

static void fire(void *arg) {
    (void)arg;
    int64_t due = rt_nanotime() + 2 * NS_PER_SEC; /* setting them takes less */
    int64_t begin = cpu_ns();
    for (int64_t i = 0; i < n; i++) {
        rt_timer_init(&timers[i], count, NULL);
        rt_timer_set(&timers[i], due + shuffled(i, n) * 1000000 / n);
    }
    int64_t set = cpu_ns() - begin;
    if (rt_nanotime() > due || fired) rt_throw("too slow: timers came due while they were set");
    /* The sleep may end late, and what fires then is not to be missed. */
    rt_sleep(due - rt_nanotime() - NS_PER_SEC / 20);
    int64_t last, off_cpu, step = 0;
    do {
        begin = cpu_ns();
        last = rt_nanotime();
        off_cpu = last - begin;
        rt_yield();
    } while (fired == 0);
    for (;;) {
        int64_t now = rt_nanotime(), gap = now - last;
        last = now;
        if (gap > CLOSER_LOOK_NS) { /* less the time that the kernel kept all of us away */
            int64_t off = now - cpu_ns();
            gap -= off - off_cpu;
            off_cpu = off;
        }
        if (gap > step) step = gap;
        if (fired == n) break;
        rt_yield();
    }
    double each_set = (double)set / (double)n, each_fire = (double)(cpu_ns() - begin) / (double)n;
    printf("timer-set %.2f\ntimer-fire %.2f\n", each_set, each_fire);
    printf("timer-all %.2f\ntimer-step %.3f\n", each_set + each_fire, (double)step / 1e6);
}

int main(int argc, char **argv) {
    void (*fn)(void *) = argc < 2                   ? NULL
                         : !strcmp(argv[1], "stop") ? stop
                         : !strcmp(argv[1], "fire") ? fire
                                                    : NULL;
    if (!fn) {
        fprintf(stderr, "timers stop [N [BATCHES]] | fire [N]\n");
        return 2;
    }
    n = arg_or(argc, argv, 2, fn == stop ? 400000 : 1000000);
    batches = arg_or(argc, argv, 3, 20);
    if (n < batches) batches = 1;
    timers = need(malloc((size_t)n * sizeof *timers));
    memset(timers, 1, (size_t)n * sizeof *timers); /* its pages are there before it counts */
    rt_main(&(rt_options){.procs = 1}, fn, NULL);
}
