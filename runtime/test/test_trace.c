/* trace: the file is JSON of the kind that Chrome and Perfetto read; Gs on a P's track do not overlap;
 * what the scheduler did is in it; a full buffer is counted; off, nothing is recorded. */
#include "harness.h"

#include "../trace.h"

static char path[64];

static char *read_file(void) {
    static char text[32 << 20];
    FILE *f = fopen(path, "re");
    if (!f) return NULL;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = 0;
    return text;
}

/* A reader of JSON that keeps nothing: past a value, or NULL where it is none. */
static const char *skip_value(const char *s, int depth);

static const char *skip_space(const char *s) {
    return s + strspn(s, " \n");
}

static const char *skip_string(const char *s) {
    if (*s++ != '"') return NULL;
    for (; *s && *s != '"'; s++)
        if (*s == '\\' && !*++s) return NULL;
    return *s ? s + 1 : NULL;
}

static const char *skip_list(const char *s, char end, bool keys, int depth) {
    s = skip_space(s + 1);
    if (*s == end) return s + 1;
    for (;;) {
        if (keys) {
            s = skip_string(skip_space(s));
            if (!s || *s++ != ':') return NULL;
        }
        s = skip_value(skip_space(s), depth + 1);
        if (!s) return NULL;
        s = skip_space(s);
        if (*s == end) return s + 1;
        if (*s++ != ',') return NULL;
    }
}

static const char *skip_value(const char *s, int depth) {
    if (depth > 10) return NULL;
    if (*s == '{') return skip_list(s, '}', true, depth);
    if (*s == '[') return skip_list(s, ']', false, depth);
    if (*s == '"') return skip_string(s);
    size_t n = strspn(s, "-0123456789.");
    return n ? s + n : NULL;
}

static bool is_json(const char *s) {
    s = skip_value(s, 0);
    return s && !*skip_space(s);
}

static int count(const char *text, const char *what) {
    int n = 0;
    for (const char *at = text; (at = strstr(at, what)); at++)
        n++;
    return n;
}

/* Slices of each P, one after the other or one within the other. Times are whole nanoseconds. */
enum { MAX_SLICES = 400000 };
typedef struct slice {
    int64_t from, to;
} slice;

static int by_from(const void *a, const void *b) {
    const slice *x = a, *y = b;
    if (x->from != y->from) return x->from < y->from ? -1 : 1;
    return (x->to < y->to) - (x->to > y->to); /* the outer one first */
}

static void check_track(const char *text, int p) {
    static slice s[MAX_SLICES];
    int n = 0;
    char want[64];
    snprintf(want, sizeof want, "{\"ph\":\"X\",\"pid\":1,\"tid\":%d,", p);
    for (const char *at = text; n < MAX_SLICES && (at = strstr(at, want)); at++) {
        long long us, ns, dus, dns;
        if (sscanf(at + strlen(want), "\"ts\":%lld.%3lld,\"dur\":%lld.%3lld,\"name\":\"", &us, &ns,
                   &dus, &dns) != 4)
            expect_at(false, __FILE__, __LINE__, "%.100s", at);
        s[n].from = us * 1000 + ns;
        s[n].to = s[n].from + dus * 1000 + dns;
        n++;
    }
    qsort(s, (size_t)n, sizeof *s, by_from);
    int64_t open[8];
    int depth = 0;
    for (int i = 0; i < n; i++) {
        while (depth && open[depth - 1] <= s[i].from)
            depth--;
        if (depth) CHECK(s[i].to <= open[depth - 1]);
        CHECK(depth < 8);
        open[depth++] = s[i].to;
    }
}

static void check_file(const char *text) {
    CHECK(text != NULL);
    CHECK(is_json(text));
    for (int i = 0; i < rt_procs(); i++)
        check_track(text, i);
}

/* ---- things to see ---- */

static void yields(void *arg) {
    for (int i = 0; i < (int)(intptr_t)arg; i++)
        rt_yield();
}

static void sleeps(void *arg) {
    (void)arg;
    rt_sleep(5 * MS);
}

static void calls(void *arg) {
    (void)arg;
    rt_entersyscall();
    usleep(30000);
    rt_exitsyscall();
}

static rt_step in_cell(rt_g *g) {
    crowd *c;
    int left;
    memcpy(&c, rt_local(g), sizeof c);
    memcpy(&left, (char *)rt_local(g) + sizeof c, sizeof left);
    left++;
    memcpy((char *)rt_local(g) + sizeof c, &left, sizeof left);
    if (left < 5) return RT_YIELD;
    crowd_leave(c);
    return RT_EXIT;
}

static rt_g *_Atomic reader;
static rt_g *joiner; /* set before there is a writer */

static void reads(void *arg) {
    char b;
    atomic_store(&reader, rt_self());
    CHECK_EQ(rt_fd_read(arg, &b, 1), 1);
}

static bool waits(rt_g *g, rt_reason reason) {
    return g && atomic_load(&g->status) == G_WAITING && atomic_load(&g->reason) == reason;
}

/* The reader has waited, and so has the G that waits for all. */
static void writes(void *arg) {
    EXPECT_SOON(waits(atomic_load(&reader), RT_WAIT_READ) && waits(joiner, RT_WAIT_JOIN));
    CHECK_EQ(write(*(int *)arg, "x", 1), 1);
}

static void do_a_bit_of_everything(int n) {
    crowd c = {0}, *pc = &c;
    int p[2];
    rt_fd f = {0};
    atomic_store(&reader, NULL);
    joiner = rt_self();
    CHECK_EQ(pipe2(p, O_NONBLOCK | O_CLOEXEC), 0);
    CHECK_EQ(rt_fd_init(&f, p[0]), 0);
    for (int i = 0; i < n; i++)
        crowd_go(&c, yields, (void *)(intptr_t)10);
    crowd_go(&c, sleeps, NULL);
    crowd_go(&c, calls, NULL);
    crowd_go(&c, reads, &f);
    crowd_go(&c, writes, &p[1]);
    rt_cell *cell = rt_cell_new(NULL);
    for (int i = 0; i < 3; i++) {
        rt_g *g = rt_new_step(in_cell, cell);
        memset(rt_local(g), 0, RT_G_LOCAL);
        memcpy(rt_local(g), &pc, sizeof pc);
        crowd_enter(&c);
        rt_ready(g);
    }
    int64_t began = rt_nanotime();
    spin_for(MS);
    rt_trace_span("a \"step\"", began);
    rt_sleep(MS);
    crowd_wait(&c);
    CHECK_EQ(rt_fd_close(&f), 0);
    close(p[1]);
}

/* ---- the tests ---- */

static int stop_to(const char *name, int64_t *dropped) {
    FILE *f = fopen(name, "we");
    if (!EXPECT(f != NULL)) return -errno;
    int err = rt_trace_stop(f, dropped);
    fclose(f);
    return err;
}

static void what_happened_is_there(void *arg) {
    (void)arg;
    int64_t dropped = -1;
    CHECK_EQ(rt_trace_start(), 0);
    CHECK(rt_trace_on());
    do_a_bit_of_everything(3);
    CHECK_EQ(stop_to(path, &dropped), 0);
    CHECK(!rt_trace_on());
    const char *text = read_file();
    check_file(text);
    if (dropped) return; /* a tiny buffer */
    EXPECT(count(text, "\"ph\":\"X\",\"pid\":1") > 30);
    EXPECT(count(text, "\"end\":\"yield\"") >= 30);
    EXPECT(count(text, "\"end\":\"sleep\"") >= 1);
    EXPECT(count(text, "\"end\":\"read\"") >= 1);
    EXPECT(count(text, "\"end\":\"join\"") >= 1);
    EXPECT(count(text, "\"end\":\"VM idle\"") >= 1);
    EXPECT(count(text, "\"end\":\"exit\"") >= 6);
    EXPECT(count(text, "\"end\":\"system call\"") >= 1);
    EXPECT(count(text, "\"name\":\"system call\"") >= 1);
    EXPECT(count(text, "\"name\":\"ready\"") >= 3);
    EXPECT(count(text, "\"name\":\"poll\"") >= 1);
    EXPECT(count(text, "\"name\":\"a \\\"step\\\"\"") == 1);
    EXPECT(count(text, "\"name\":\"P 0\"") == 1);
    if (rt_procs() == 1) EXPECT(count(text, "\"name\":\"retake\"") >= 1);
    EXPECT(strstr(text, "\"otherData\":{\"dropped\":0}") != NULL);
}

static void keeps_busy(void *arg) {
    while (!atomic_load((_Atomic bool *)arg)) {
        spin_for(20000);
        rt_yield();
    }
}

static void steals_are_there(void *arg) {
    (void)arg;
    if (rt_procs() == 1) return;
    rt_stats before, after;
    int64_t dropped;
    rt_read_stats(&before);
    CHECK_EQ(rt_trace_start(), 0);
    _Atomic bool end = false;
    crowd c = {0};
    for (int i = 0; i < 8; i++)
        crowd_go(&c, keeps_busy, &end);
    for (int64_t until = rt_nanotime() + PATIENCE_NS; rt_nanotime() < until;) {
        rt_yield();
        rt_read_stats(&after);
        if (after.steals > before.steals) break;
    }
    atomic_store(&end, true);
    crowd_wait(&c);
    CHECK_EQ(stop_to(path, &dropped), 0);
    const char *text = read_file();
    check_file(text);
    if (!dropped) EXPECT(count(text, "\"name\":\"steal\"") > 0);
}

/* ---- a P that is taken ---- */

static _Atomic bool runs_on, may_come_back;

static rt_step run_on(rt_g *g) {
    (void)g;
    rt_enterforeign();
    atomic_store(&runs_on, true);
    while (!atomic_load(&may_come_back))
        ;
    spin_for(2 * MS); /* others run on that P meanwhile */
    (void)rt_exitforeign();
    return RT_EXIT;
}

typedef struct span {
    int tid;
    int64_t from_ns, to_ns;
} span;

/* The slices on the tracks of Ps, at most max: how many. */
static int spans_of(const char *text, span *to, int max) {
    int n = 0;
    for (const char *at = text; n < max && (at = strstr(at, "{\"ph\":\"X\",\"pid\":1,")); at++) {
        long long us, dur_us;
        int tid, ns, dur_ns;
        if (sscanf(at, "{\"ph\":\"X\",\"pid\":1,\"tid\":%d,\"ts\":%lld.%d,\"dur\":%lld.%d,",
                   &tid, /* NOLINT */
                   &us, &ns, &dur_us, &dur_ns) != 5)
            continue;
        int64_t from_ns = us * 1000 + ns;
        to[n++] = (span){tid, from_ns, from_ns + dur_us * 1000 + dur_ns};
    }
    return n;
}

static int overlaps(const span *s, int n) {
    int found = 0;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < n; k++)
            found += s[i].tid == s[k].tid && s[i].from_ns < s[k].from_ns &&
                     s[k].from_ns < s[i].to_ns && s[i].to_ns < s[k].to_ns;
    return found;
}

static void a_slice_ends_where_its_p_is_taken(void *arg) {
    (void)arg;
    enum { SPANS_MAX = 4000 };
    static span spans[SPANS_MAX];
    int64_t dropped;
    rt_cell *cell = rt_cell_new(NULL);
    CHECK(cell);
    CHECK_EQ(rt_trace_start(), 0);
    rt_stats before, after;
    rt_read_stats(&before); /* first: the P may be taken before we run again */
    rt_ready(rt_new_step(run_on, cell));
    while (!atomic_load(&runs_on))
        rt_yield();
    for (int64_t until = rt_nanotime() + PATIENCE_NS; rt_nanotime() < until; rt_yield()) {
        rt_read_stats(&after);
        if (rt_procs() == 1 || after.handoffs > before.handoffs) break;
        spin_for(MS / 2);
    }
    atomic_store(&may_come_back, true);
    for (int i = 0; i < 10; i++) {
        spin_for(MS);
        rt_yield();
    }
    rt_sleep(20 * MS);
    CHECK_EQ(stop_to(path, &dropped), 0);
    const char *text = read_file();
    check_file(text);
    if (dropped) return;
    EXPECT(count(text, "\"end\":\"retaken\"") >= 1);
    EXPECT_EQ(overlaps(spans, spans_of(text, spans, SPANS_MAX)), 0);
}

static void wrong_uses_say_so(void *arg) {
    (void)arg;
    CHECK_EQ(rt_trace_stop(NULL, NULL), -EINVAL);
    CHECK_EQ(rt_trace_start(), 0);
    CHECK_EQ(rt_trace_start(), -EBUSY);
    CHECK_EQ(rt_trace_stop(NULL, NULL), 0);
    CHECK(!rt_trace_on());
    CHECK_EQ(rt_trace_stop(NULL, NULL), -EINVAL);
    CHECK_EQ(rt_trace_start(), 0);
    CHECK_EQ(stop_to("/dev/full", NULL), -EIO);
}

static void each_is_a_new_one(void *arg) {
    (void)arg;
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(rt_trace_start(), 0);
        if (i % 2 == 0) do_a_bit_of_everything(1);
        CHECK_EQ(stop_to(path, NULL), 0);
        const char *text = read_file();
        check_file(text);
        CHECK_EQ(count(text, "\"name\":\"a \\\"step\\\"\"") > 1, 0);
        if (i % 2) CHECK_EQ(count(text, "\"end\":\"VM idle\""), 0);
    }
}

static void starts_and_stops_race_with_all(void *arg) {
    (void)arg;
    _Atomic bool end = false;
    crowd c = {0};
    for (int i = 0; i < 4; i++)
        crowd_go(&c, keeps_busy, &end);
    for (int i = 0; i < ROUNDS(60); i++) {
        CHECK_EQ(rt_trace_start(), 0);
        if (i % 3) rt_sleep(MS / 2);
        CHECK_EQ(stop_to(path, NULL), 0);
        if (i % 20 == 0) check_file(read_file());
    }
    atomic_store(&end, true);
    crowd_wait(&c);
}

static void a_full_buffer_is_counted(void *arg) {
    (void)arg;
    int64_t dropped = 0;
    crowd c = {0};
    CHECK_EQ(rt_trace_start(), 0);
#ifdef RT_TINY
    int n = 100;
#else
    int n = 600000 * rt_procs(); /* the yielders may be spread over all Ms */
#endif
    if (n > 1000) { /* written directly: a million yields take their time under sanitizers */
        for (int i = 0; i < n; i++)
            trace_event(TRACE_READY, NULL, NULL, 0);
    } else {
        for (int i = 0; i < 2 * rt_procs(); i++)
            crowd_go(&c, yields, (void *)(intptr_t)n);
        crowd_wait(&c);
    }
    CHECK_EQ(stop_to(path, &dropped), 0);
    CHECK(dropped > 0);
    char want[64];
    snprintf(want, sizeof want, "\"dropped\":%lld}", (long long)dropped);
    const char *text = read_file();
    if (strlen(text) < (32u << 20) - 1) EXPECT(strstr(text, want) != NULL);
}

int main(void) {
    snprintf(path, sizeof path, "/tmp/rt_test_trace.%d", (int)getpid());
    const struct CMUnitTest tests[] = {
        in_g_test(what_happened_is_there),
        in_g_test(steals_are_there),
        in_g_test(a_slice_ends_where_its_p_is_taken),
        in_g_test(wrong_uses_say_so),
        in_g_test(each_is_a_new_one),
        in_g_test(starts_and_stops_race_with_all),
        in_g_test(a_full_buffer_is_counted),
    };
    if (!test_procs()) return run_for_each_procs();
    char title[32];
    snprintf(title, sizeof title, "trace, %d Ps", test_procs());
    start_runtime(0);
    int failed = cmocka_run_group_tests_name(title, tests, NULL, NULL);
    unlink(path);
    return failed;
}
