/* prof: what uses the CPU is what the lines say, with its callers, on every M, also on those that come
 * later; what sleeps is not there; a full buffer is counted. */
#include "harness.h"

static __thread volatile int64_t sink;

static int64_t cpu_time(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * SEC + t.tv_nsec;
}

/* Of CPU time: others use the machine too. Each does something after its call, so that no call is a
 * jump. */
__attribute__((noinline)) static void burn(int64_t ns) {
    for (int64_t until = cpu_time() + ns; cpu_time() < until;)
        for (int i = 0; i < 20000; i++)
            sink += i;
}

__attribute__((noinline)) static void prof_inner(int64_t ns) {
    burn(ns);
    sink++;
}

__attribute__((noinline)) static void prof_outer(int64_t ns) {
    prof_inner(ns);
    sink++;
}

__attribute__((noinline)) static void burns_native(void *arg) {
    prof_outer((int64_t)(intptr_t)arg);
    sink++;
}

static rt_step burns_step(rt_g *g) {
    crowd *c;
    memcpy(&c, rt_local(g), sizeof c);
    prof_outer(150 * MS);
    crowd_leave(c);
    return RT_EXIT;
}

/* Samples in lines that hold both; -1: no such line. */
static int64_t samples_with(char *folded, const char *a, const char *b) {
    int64_t sum = -1;
    for (char *line = folded, *next; line && *line; line = next) {
        next = strchr(line, '\n');
        if (next) *next = 0;
        const char *at = strstr(line, a);
        if (at && strstr(at, b)) sum = (sum < 0 ? 0 : sum) + atoll(strrchr(line, ' ') + 1);
        if (next) *next++ = '\n';
    }
    return sum;
}

/* To be freed. */
static char *stop_and_fold(rt_prof_result *r) {
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    EXPECT_EQ(rt_prof_stop(f, r), 0);
    fclose(f);
    return text;
}

#ifdef RT_TSAN
#define CHAIN "" /* it calls handlers later, when the stack is another */
#else
#define CHAIN "prof_outer;prof_inner;burn"
#endif

static void native_stacks_are_whole(void *arg) {
    (void)arg;
    rt_prof_result r;
    CHECK_EQ(rt_prof_start(1000), 0);
    burns_native((void *)(intptr_t)(200 * MS));
    char *text = stop_and_fold(&r);
    CHECK(r.samples > 10);
#ifndef RT_TSAN
    EXPECT(samples_with(text, "native_main;", CHAIN) > 0);
    EXPECT(samples_with(text, "burns_native;", CHAIN) > 0);
#endif
    free(text);
}

static void steps_and_cells_are_sampled(void *arg) {
    (void)arg;
    rt_prof_result r;
    crowd c = {0}, *pc = &c;
    CHECK_EQ(rt_prof_start(1000), 0);
    rt_cell *cells[2] = {NULL, rt_cell_new(NULL)};
    for (int i = 0; i < 2; i++) {
        rt_g *g = rt_new_step(burns_step, cells[i]);
        memcpy(rt_local(g), &pc, sizeof pc);
        crowd_enter(&c);
        rt_ready(g);
    }
    crowd_wait(&c);
    char *text = stop_and_fold(&r);
#if !defined(RT_TSAN) && !defined(RT_TINY) /* all would not fit */
    EXPECT(samples_with(text, "schedule_loop;", "burns_step;" CHAIN) > 0);
    EXPECT(samples_with(text, "native_main;loop;", "burns_step;" CHAIN) > 0);
#endif
    free(text);
}

static void sleeps_in_kernel(void *arg) {
    (void)arg;
    rt_entersyscall();
    usleep(100000);
    rt_exitsyscall();
}

static void burns_in_syscall(void *arg) {
    (void)arg;
    rt_entersyscall();
    prof_outer(100 * MS);
    rt_exitsyscall();
}

static int ms_without_timer(void) {
    int n = 0;
    for (rt_m *m = atomic_load(&sched.all_ms); m; m = m->all_link)
        n += !m->has_prof_timer;
    return n;
}

/* With all Ps in system calls, others come up for the rest while the profiler runs. */
static void new_ms_are_sampled(void *arg) {
    (void)arg;
    rt_prof_result r;
    crowd c = {0};
    int32_t before, idle, after;
    m_count_ms(&before, &idle);
    CHECK_EQ(rt_prof_start(1000), 0);
    for (int i = 0; i < before + 2; i++)
        crowd_go(&c, sleeps_in_kernel, NULL);
    for (int i = 0; i < 3; i++)
        crowd_go(&c, burns_in_syscall, NULL);
    crowd_wait(&c);
    m_count_ms(&after, &idle);
    CHECK(after > before);
    EXPECT_SOON(ms_without_timer() == 0); /* one may start just now */
    char *text = stop_and_fold(&r);
    EXPECT(samples_with(text, "", CHAIN) > 0);
    EXPECT_EQ(samples_with(text, "sleeps_in_kernel;", "burn"), -1);
    free(text);
    EXPECT_EQ(ms_without_timer(), atomic_load(&sched.n_ms));
}

/* CPU time, not time: a process that sleeps is hardly seen. */
static void sleep_is_not_sampled(void *arg) {
    (void)arg;
    rt_prof_result r;
    CHECK_EQ(rt_prof_start(1000), 0);
    rt_sleep(200 * MS);
    CHECK_EQ(rt_prof_stop(NULL, &r), 0);
    EXPECT(r.samples < 100);
}

static void wrong_uses_say_so(void *arg) {
    (void)arg;
    CHECK_EQ(rt_prof_stop(NULL, NULL), -EINVAL);
    CHECK_EQ(rt_prof_start(-1), -EINVAL);
    CHECK_EQ(rt_prof_start(1001), -EINVAL);
    CHECK_EQ(rt_prof_start(0), 0);
    CHECK_EQ(rt_prof_start(100), -EBUSY);
    FILE *full = fopen("/dev/full", "we");
    prof_outer(50 * MS);
    CHECK(full != NULL);
    rt_prof_result r;
    int err = rt_prof_stop(full, &r);
    EXPECT(r.samples ? err == -EIO : err == 0);
    fclose(full);
    CHECK_EQ(rt_prof_stop(NULL, NULL), -EINVAL);
}

/* ---- threads that start while the lines are written ---- */

enum { LATE_MS = 40 };

static struct {
    _Atomic bool writes, go; /* atomic */
    _Atomic int n;           /* atomic: of them */
} late;

static void needs_a_thread(void *arg) {
    (void)arg;
    rt_entersyscall();
    atomic_fetch_add(&late.n, 1);
    while (!atomic_load(&late.go))
        usleep(1000);
    rt_exitsyscall();
}

static void starts_threads(void *arg) {
    (void)arg;
    crowd c = {0};
    while (!atomic_load(&late.writes) && !atomic_load(&late.go))
        rt_sleep(MS);
    for (int i = 0; i < LATE_MS; i++)
        crowd_go(&c, needs_a_thread, NULL);
    crowd_wait(&c);
}

static ssize_t write_slowly(void *cookie, const char *buf, size_t n) {
    (void)cookie;
    (void)buf;
    atomic_store(&late.writes, true);
    for (int64_t until = rt_nanotime() + 20 * SEC;
         atomic_load(&late.n) < LATE_MS && rt_nanotime() < until;)
        usleep(1000);
    return (ssize_t)n;
}

static void threads_start_while_lines_are_written(void *arg) {
    (void)arg;
    crowd c = {0};
    rt_prof_result r;
    FILE *f = fopencookie(NULL, "w", (cookie_io_functions_t){.write = write_slowly});
    CHECK(f != NULL);
    CHECK_EQ(rt_prof_start(1000), 0);
    crowd_go(&c, starts_threads, NULL);
    prof_outer(100 * MS);
    CHECK_EQ(rt_prof_stop(f, &r), 0);
    EXPECT(r.samples == 0 || atomic_load(&late.n) == LATE_MS);
    atomic_store(&late.go, true);
    crowd_wait(&c);
    fclose(f);
}

static void it_can_run_again_and_again(void *arg) {
    (void)arg;
    crowd c = {0};
    crowd_go(&c, burns_native, (void *)(intptr_t)(100 * MS));
    for (int i = 0; i < 30; i++) {
        CHECK_EQ(rt_prof_start(1000), 0);
        burn(2 * MS);
        CHECK_EQ(rt_prof_stop(NULL, NULL), 0);
        rt_yield();
    }
    crowd_wait(&c);
}

/* Who stands beneath whom is the tests' own: on the thread of a sample. */
static _Atomic bool edits;

static int add_below(const void *context, uintptr_t *pcs, int n, int max) {
    (void)context;
    if (!atomic_load(&edits) || n < 2 || n + 1 > max) return n;
    pcs[1] = RT_PROF_NAMED | 5;
    pcs[2] = RT_PROF_NAMED | 6;
    return 3;
}

static const char *name_below(uintptr_t id) {
    return id == 5 ? "five" : id == 6 ? "s;i\nx" : "none of ours";
}

static void frames_may_be_changed(void *arg) {
    (void)arg;
    rt_prof_result r;
    atomic_store(&edits, true);
    CHECK_EQ(rt_prof_start(1000), 0);
    prof_outer(100 * MS);
    char *text = stop_and_fold(&r);
    atomic_store(&edits, false);
#ifndef RT_TSAN
    EXPECT(samples_with(text, "s?i?x;five;", "five;burn") > 0);
#endif
    EXPECT(!strstr(text, "none of ours"));
    free(text);
}

static void other_handler(int signo) {
    (void)signo;
}

/* LuaJIT's profiler has one, and puts back what was there before. */
static void another_handler_is_left_alone(void *arg) {
    (void)arg;
    struct sigaction was, now, other = {.sa_handler = SIG_DFL};
    CHECK_EQ(sigaction(SIGPROF, &other, &was), 0);
    other.sa_handler = other_handler;
    CHECK_EQ(sigaction(SIGPROF, &other, NULL), 0);
    CHECK_EQ(rt_prof_start(100), -EBUSY);
    CHECK_EQ(sigaction(SIGPROF, NULL, &now), 0);
    CHECK(now.sa_handler == other_handler);
    other.sa_handler = SIG_DFL;
    CHECK_EQ(sigaction(SIGPROF, &other, NULL), 0);
    CHECK_EQ(rt_prof_start(100), 0);
    CHECK_EQ(rt_prof_stop(NULL, NULL), 0);
}

static void a_full_buffer_is_counted(void *arg) {
    (void)arg;
#if defined(RT_TINY) && !defined(RT_TSAN)
    rt_prof_result r;
    CHECK_EQ(rt_prof_start(1000), 0);
    prof_outer(500 * MS);
    CHECK_EQ(rt_prof_stop(NULL, &r), 0);
    CHECK(r.dropped > 0);
#endif
}

int main(void) {
    rt_prof_on_sample(add_below, name_below);
    const struct CMUnitTest tests[] = {
        in_g_test(native_stacks_are_whole),    in_g_test(steps_and_cells_are_sampled),
        in_g_test(new_ms_are_sampled),         in_g_test(sleep_is_not_sampled),
        in_g_test(wrong_uses_say_so),          in_g_test(threads_start_while_lines_are_written),
        in_g_test(it_can_run_again_and_again), in_g_test(a_full_buffer_is_counted),
        in_g_test(frames_may_be_changed),      in_g_test(another_handler_is_left_alone),
    };
    RUN_TESTS("prof", tests);
}
