/* exhaust: no thread, no stack, no memory: the calls that need one say so, and what is there goes on. This program has
 * mmap, pthread_create and the allocator's functions of its own, which fail while a test says so. */
#include "harness.h"

#if defined(RT_ASAN) || defined(RT_TSAN)

static void nothing_to_do_here(void **state) {
    (void)state;
    skip(); /* the allocator is the sanitizer's */
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(nothing_to_do_here)};
    return cmocka_run_group_tests_name("exhaust", tests, NULL, NULL);
}

#else

#include <dlfcn.h>
#include <sys/mman.h>
#include <sys/syscall.h>

static struct { _Atomic bool memory, mappings, threads; } fails;

void *__libc_realloc(void *p, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

void *realloc(void *p, size_t size) {
    return atomic_load(&fails.memory) ? NULL : __libc_realloc(p, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
    return atomic_load(&fails.memory) ? NULL : __libc_memalign(alignment, size);
}

void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off) {
    if (atomic_load(&fails.mappings)) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, off); /* NOLINT: a pointer */
}

int pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg) {
    static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    if (atomic_load(&fails.threads)) return EAGAIN;
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    return real(t, attr, fn, arg);
}

/* ---- stacks and Gs ---- */

static _Atomic int n_ran;

static void ran(void *arg) {
    (void)arg;
    atomic_fetch_add(&n_ran, 1);
}

enum { LARGE = 8 << 20 }; /* a stack that nobody has left behind */

static void a_g_without_a_stack_is_none(void *arg) {
    (void)arg;
    atomic_store(&n_ran, 0);
    atomic_store(&fails.mappings, true);
    for (int i = 0; i < 100; i++)
        EXPECT(!rt_go_stack(ran, NULL, LARGE));
    EXPECT(rt_cell_new(NULL) == NULL);
    atomic_store(&fails.mappings, false);
    rt_stats before, after;
    rt_sleep(10 * MS);
    rt_read_stats(&before);
    EXPECT(rt_go_stack(ran, NULL, LARGE) != NULL);
    EXPECT_SOON(atomic_load(&n_ran) >= 1);
    rt_sleep(10 * MS);
    rt_read_stats(&after);
    EXPECT(after.g_dead >= before.g_dead - 64); /* those that got no stack are dead again */
}

static rt_step end_at_once(rt_g *g) {
    (void)g;
    ran(NULL);
    return RT_EXIT;
}

static void without_memory_there_is_a_reserve(void *arg) {
    (void)arg;
    enum { MANY = 100000, SURE = 100 };
    static rt_g *gs[MANY];
    int n = 0;
    atomic_store(&n_ran, 0);
    atomic_store(&fails.memory, true);
    while (n < MANY && (gs[n] = rt_new_step(end_at_once, NULL)))
        n++;
    EXPECT(n < MANY);
    rt_g *sure[SURE];
    for (int i = 0; i < SURE; i++)
        EXPECT((sure[i] = rt_new_step_sure(end_at_once, NULL)) != NULL);
    EXPECT(!rt_new_step(end_at_once, NULL));
    atomic_store(&fails.memory, false);
    for (int i = 0; i < SURE; i++)
        rt_ready(sure[i]);
    for (int i = 0; i < n; i++)
        rt_ready(gs[i]);
    EXPECT_SOON(atomic_load(&n_ran) == n + SURE);
    rt_g *g = rt_new_step(end_at_once, NULL);
    CHECK(g != NULL);
    rt_ready(g);
    EXPECT_SOON(atomic_load(&n_ran) == n + SURE + 1);
}

/* ---- timers ---- */

static _Atomic int n_fired;

static void fired(void *arg) {
    (void)arg;
    atomic_fetch_add(&n_fired, 1);
}

/* Some at once, some later, some moved, some stopped. */
static void timers_without_room_fire(void *arg) {
    (void)arg;
    enum { TIMERS = 20000, LONE = 4 }; /* more than any heap of an earlier test has room for */
    static rt_timer timers[TIMERS];
    int64_t now = rt_nanotime();
    atomic_store(&n_fired, 0);
    atomic_store(&fails.memory, true);
    for (int i = 0; i < TIMERS; i++) {
        rt_timer_init(&timers[i], fired, NULL);
        rt_timer_set(&timers[i], i % LONE == 0 ? now + 3600 * SEC : now + (20 + i % 50) * MS);
    }
    for (int i = 0; i < TIMERS; i += LONE) /* a quarter: half of it sooner, half of it never */
        rt_timer_set(&timers[i], i % (2 * LONE) == 0 ? now + 30 * MS : 0);
    EXPECT_SOON(atomic_load(&n_fired) == TIMERS - TIMERS / LONE / 2);
    atomic_store(&fails.memory, false);
    rt_sleep(50 * MS);
    EXPECT_EQ(atomic_load(&n_fired), TIMERS - TIMERS / LONE / 2);
    for (int i = 0; i < TIMERS; i++)
        rt_timer_set(&timers[i], rt_nanotime() + MS);
    EXPECT_SOON(atomic_load(&n_fired) == TIMERS - TIMERS / LONE / 2 + TIMERS);
}

/* ---- threads ---- */

typedef struct blocked {
    crowd c;
    int fds[2];
    _Atomic int n_in;
} blocked;

static void block(void *arg) {
    blocked *b = arg;
    char byte;
    rt_entersyscall();
    atomic_fetch_add(&b->n_in, 1);
    ssize_t r = read(b->fds[0], &byte, 1);
    rt_exitsyscall();
    EXPECT_EQ(r, 1);
    rt_release_thread();
}

static void claims_leave_a_thread_that_runs_gs(void *arg) {
    (void)arg;
    enum { MOST = 10000 };
    blocked b = {0};
    int n = 0;
    CHECK_EQ(pipe2(b.fds, O_CLOEXEC), 0);
    atomic_store(&fails.threads, true);
    while (n < MOST && rt_claim_thread()) {
        crowd_go(&b.c, block, &b);
        n++;
    }
    EXPECT(n < MOST);
    EXPECT_SOON(atomic_load(&b.n_in) == n);
    atomic_store(&n_ran, 0);
    for (int i = 1; i <= 100; i++) {
        EXPECT(rt_go(ran, NULL) != NULL);
        EXPECT_SOON(atomic_load(&n_ran) == i);
    }
    EXPECT(!rt_claim_thread());
    for (int i = 0; i < n; i++)
        EXPECT_EQ(write(b.fds[1], "x", 1), 1);
    crowd_wait(&b.c);
    EXPECT(rt_claim_thread() == (n > 0));
    if (n > 0) rt_release_thread();
    atomic_store(&fails.threads, false);
    EXPECT(rt_claim_thread());
    rt_release_thread();
    close(b.fds[0]);
    close(b.fds[1]);
}

static void spin_and_count(void *arg) {
    spin_for(2 * MS);
    ran(arg);
}

/* All Ps have work, and only the Ms that there are: those that come back, and sysmon, see to it. */
static void ps_without_threads_lose_no_work(void *arg) {
    (void)arg;
    enum { EACH = 50 };
    crowd c = {0};
    atomic_store(&n_ran, 0);
    atomic_store(&fails.threads, true);
    for (int i = 0; i < EACH; i++) {
        crowd_go(&c, spin_and_count, NULL);
        if (i % 10 == 0) rt_sleep(MS);
    }
    crowd_wait(&c);
    EXPECT_EQ(atomic_load(&n_ran), EACH);
    atomic_store(&fails.threads, false);
    rt_stats s;
    rt_read_stats(&s);
    for (int i = 0; i < EACH; i++)
        crowd_go(&c, spin_and_count, NULL);
    crowd_wait(&c);
    EXPECT_EQ(atomic_load(&n_ran), 2 * EACH);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        in_g_test(ps_without_threads_lose_no_work), in_g_test(claims_leave_a_thread_that_runs_gs),
        in_g_test(a_g_without_a_stack_is_none),     in_g_test(without_memory_there_is_a_reserve),
        in_g_test(timers_without_room_fire),
    };
    RUN_TESTS("exhaust", tests);
}

#endif
