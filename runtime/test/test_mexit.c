/* mexit: Ms that many calls at once have made end when nobody needs them, and give back what they had; not those that a
 * claim counts on, nor one that somebody wakes at that moment. Here they end after 100 ms. */
#include "harness.h"

#include <dirent.h>

enum { MANY = 60 };

static int32_t ms(void) {
    return atomic_load(&sched.n_ms);
}

/* The most that stay: idle ones, one for each P, m0. */
static int32_t few(void) {
    return 2 * sched.procs + SPARE_MS + 1;
}

static int count_all_ms(void) {
    int n = 0;
    for (rt_m *m = atomic_load(&sched.all_ms); m; m = m->all_link)
        n++;
    return n;
}

/* ---- many calls at once ---- */

static struct {
    _Atomic int inside;
    _Atomic bool end;
} calls;

static void block(void *arg) {
    (void)arg;
    rt_entersyscallblock();
    atomic_fetch_add(&calls.inside, 1);
    while (!atomic_load(&calls.end))
        usleep(1000);
    rt_exitsyscall();
}

static void block_at_once(int n) {
    crowd c = {0};
    atomic_store(&calls.inside, 0);
    atomic_store(&calls.end, false);
    for (int i = 0; i < n; i++)
        crowd_go(&c, block, NULL);
    EXPECT_SOON(atomic_load(&calls.inside) == n);
    EXPECT(ms() > n);
    atomic_store(&calls.end, true);
    crowd_wait(&c);
}

/* So long sleeps an M that is one too many. */
enum { LINGER_MS = 100 };

/* Threads of the process that are named as Ms are; one that ends is there a little longer than its M. */
static int named_as_ms(void) {
    int n = 0;
    DIR *d = opendir("/proc/self/task");
    if (!d) return -1;
    for (struct dirent *e; (e = readdir(d));) {
        char path[300], name[32] = "";
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", e->d_name);
        FILE *f = fopen(path, "re");
        if (!f) continue;
        int id;
        if (fgets(name, sizeof name, f) && sscanf(name, "lp-m%d", &id) == 1) n++;
        fclose(f);
    }
    closedir(d);
    return n;
}

static int mappings(void) {
    FILE *f = fopen("/proc/self/maps", "re");
    if (!f) return -1;
    int n = 0;
    for (int c; (c = getc(f)) != EOF;)
        n += c == '\n';
    fclose(f);
    return n;
}

static void threads_end_and_give_back_what_they_had(void *arg) {
    (void)arg;
    enum { TIMES = 8 };
    int known = 0, mapped = 0;
    for (int i = 0; i < TIMES; i++) {
        block_at_once(MANY);
        EXPECT_SOON(ms() <= few() && named_as_ms() <= few());
        EXPECT(ms() >= SPARE_MS);
        if (i == 0) known = count_all_ms();
        if (i == 0) mapped = mappings();
    }
    /* Of each M that is not given back there would be one more each time, and one mapping at least. */
    EXPECT(count_all_ms() < known + 2 * MANY);
#ifdef RT_TSAN
    (void)mapped; /* its shadow of stacks stays */
#else
    EXPECT(mappings() < mapped + 4 * MANY);
#endif
}

static void claims_keep_threads(void *arg) {
    (void)arg;
    for (int i = 0; i < MANY; i++)
        EXPECT(rt_claim_thread());
    EXPECT(ms() > MANY);
    /* All the while they are too many, and sleep long enough to end. */
    for (int i = 0; i < 20; i++) {
        rt_sleep(LINGER_MS * MS / 4);
        CHECK(ms() > MANY);
    }
    for (int i = 0; i < MANY; i++)
        rt_release_thread();
    EXPECT_SOON(ms() <= few());
}

/* ---- ends and wake-ups at the same time ---- */

/* Takes an M out of the list, as who hands a P over does, lets go of the claims that have kept all Ms, and holds
 * everybody up until that M and the others have slept long enough; then they all look whether they may end. False: there
 * was no idle P. */
static bool want_one_late(void) {
    rt_lock_acquire(&sched.lock);
    rt_m *m = sched.idle_ms;
    rt_p *p = m ? p_idle_get(NULL) : NULL;
    for (int i = 0; i < MANY; i++)
        rt_release_thread();
    if (p) {
        p_evict(p, m);
        sched.idle_ms = m->idle_link;
        atomic_fetch_sub(&sched.n_idle_ms, 1);
        m->next_p = p;
        m->to_spin = false;
        usleep(LINGER_MS * 1000 + 20000);
    }
    rt_lock_release(&sched.lock);
    if (p) usleep(20000);
    if (p) note_wake(&m->park);
    return p != NULL;
}

static void one_that_is_wanted_does_not_end(void *arg) {
    (void)arg;
    if (rt_procs() == 1) return; /* no idle P */
    int64_t until = rt_nanotime() + PATIENCE_NS;
    int done = 0;
    while (done < 5 && rt_nanotime() < until) {
        for (int i = 0; i < MANY; i++)
            EXPECT(rt_claim_thread());
        EXPECT_SOON(atomic_load(&sched.n_idle_ms) > few() + 10);
        done += want_one_late();
    }
    EXPECT_EQ(done, 5);
    EXPECT_SOON(ms() <= few());
}

static struct { _Atomic bool stop; } chaos;

static void call_now_and_then(void *arg) {
    uint64_t seed = (uintptr_t)arg;
    while (!atomic_load(&chaos.stop)) {
        if (random_below(&seed, 2))
            rt_entersyscallblock();
        else
            rt_entersyscall();
        usleep((useconds_t)random_below(&seed, 3000));
        rt_exitsyscall();
        rt_sleep((int64_t)random_below(&seed, 8) * MS / 2);
    }
}

/* Everybody else who looks at Ms. */
static void *look_at_ms(void *arg) {
    (void)arg;
    while (!atomic_load(&chaos.stop)) {
        EXPECT_EQ(rt_trace_start(), 0);
#ifndef RT_TSAN /* signals and threads that end are more than it can take */
        EXPECT_EQ(rt_prof_start(100), 0);
        for (rt_m *m = atomic_load(&sched.all_ms); m; m = m->all_link)
            m_interrupt(m);
#endif
        usleep(1000);
#ifndef RT_TSAN
        EXPECT_EQ(rt_prof_stop(NULL, NULL), 0);
#endif
        EXPECT_EQ(rt_trace_stop(NULL, NULL), 0);
    }
    return NULL;
}

/* Again and again there are too many Ms, and some of them are wanted just when they are about to end. */
static void ends_race_with_work(void *arg) {
    (void)arg;
    crowd c = {0};
    uint64_t seed = 1;
    atomic_store(&chaos.stop, false);
    pthread_t t = foreign(look_at_ms, NULL);
    for (uintptr_t i = 0; i < MANY / 3; i++)
        crowd_go(&c, call_now_and_then, (void *)i); /* NOLINT: a number */
    for (int64_t end = rt_nanotime() + SEC; rt_nanotime() < end;) {
        block_at_once(MANY / 3);
        rt_sleep((int64_t)random_below(&seed, 4) * MS);
    }
    atomic_store(&chaos.stop, true);
    crowd_wait(&c);
    join_foreign(t);
    EXPECT_SOON(ms() <= few());
}

int main(void) {
    char vars[32];
    snprintf(vars, sizeof vars, "mexit=%d", LINGER_MS);
    setenv("LUNAPARK_DEBUG", vars, 1);
    const struct CMUnitTest tests[] = {
        in_g_test(threads_end_and_give_back_what_they_had),
        in_g_test(claims_keep_threads),
        in_g_test(one_that_is_wanted_does_not_end),
        in_g_test(ends_race_with_work),
    };
    RUN_TESTS("mexit", tests);
}
