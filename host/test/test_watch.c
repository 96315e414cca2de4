/* watch: whatever happens to a watched file is told, once for a burst; to others, nothing is; watches are given
 * back. */
#include "../generation/watch.h"

#include <malloc.h>
#include <sys/resource.h>

#include "../../runtime/test/harness.h"
#include "files.h"

/* ---- what they share ---- */

static _Atomic int told;
static void (*_Atomic when_told)(void);

static void count(void) {
    atomic_fetch_add(&told, 1);
    void (*fn)(void) = atomic_load(&when_told);
    if (fn) fn();
}

static void start_once(void) {
    static bool started;
    if (!started) watch_start(count);
    started = true;
}

/* Until nothing was told for that long. */
static void settle_for(int64_t ns) {
    int before;
    do {
        before = atomic_load(&told);
        rt_sleep(ns);
    } while (atomic_load(&told) != before);
}

/* Ten times as long as a burst needs to end. */
static void settle(void) {
    settle_for(500 * MS);
}

/* The shell's work, as that of another process: the G waits for it. */
static bool outside(const char *cmd) {
    rt_entersyscall();
    bool ok = shell("%s", cmd);
    rt_exitsyscall();
    return ok;
}

/* Watches a new set with these files, until `forget`. */
static source_set *watch_set(const char *const *files, size_t n) {
    int err;
    start_once();
    source_set *s = source_set_new(path_of("app/main.lua"));
    for (size_t i = 0; i < n; i++)
        (void)source_get(s, path_of(files[i]), &err, NULL);
    watch_files(s, NULL);
    atomic_store(&told, 0);
    return s;
}

static void forget(source_set *s) {
    watch_files(NULL, NULL);
    source_set_free(s);
    settle_for(200 * MS);
}

/* Something is told, soon; what comes late belongs to the next one. */
static void expect_told(const char *what) {
    int64_t until = rt_nanotime() + PATIENCE_NS;
    while (atomic_load(&told) == 0 && rt_nanotime() < until)
        rt_sleep(2 * MS);
    settle_for(80 * MS);
    expect_at(atomic_exchange(&told, 0) > 0, __FILE__, __LINE__, "not told: %s", what);
}

static void expect_silence(const char *what) {
    settle();
    int n = atomic_exchange(&told, 0);
    expect_at(n == 0, __FILE__, __LINE__, "told %d times: %s", n, what);
}

static void expect_each_told(const char *const *cmds, size_t n) {
    for (size_t i = 0; i < n; i++) {
        EXPECT(outside(cmds[i]));
        expect_told(cmds[i]);
    }
}

/* All together, after what may still come of before. */
static void expect_none_told(const char *const *cmds, size_t n) {
    settle_for(200 * MS);
    atomic_store(&told, 0);
    for (size_t i = 0; i < n; i++)
        EXPECT(outside(cmds[i]));
    expect_silence(cmds[0]);
}

#define COUNT(v) (sizeof(v) / sizeof *(v))

/* ---- what is told ---- */

static void every_way_to_save(void *arg) {
    (void)arg;
    CHECK(put("app/a.lua", "1") && put("app/b.lua", "1"));
    static const char *const files[] = {"app/a.lua", "app/b.lua"};
    source_set *s = watch_set(files, 2);
    static const char *const ways[] = {
        "echo 2 >app/a.lua",
        "echo 3 >>app/b.lua",
        "touch app/a.lua",
        "chmod 755 app/a.lua",
        /* a new file over it */
        "echo 4 >app/.a.tmp && mv app/.a.tmp app/a.lua",
        /* vim, backupcopy=no: the old one becomes the backup, a new one is written, the backup goes */
        "echo x >app/4913; rm app/4913; mv app/a.lua app/a~; echo 5 >app/a.lua; rm app/a~",
        /* emacs: a lock link, the old one is renamed, a new one written */
        "ln -s me app/.#a.lua; mv app/a.lua app/a~; echo 6 >app/a.lua; rm app/.#a.lua",
        /* again, now that it is another file than at first */
        "echo 7 >app/a.lua",
        "rm app/a.lua",
        "echo 8 >app/a.lua",
        "ln -f app/b.lua app/a.lua",
        "mkdir app/new && mv app/a.lua app/new/",
        "mv app/new/a.lua app/",
    };
    expect_each_told(ways, COUNT(ways));
    static const char *const others[] = {
        "echo 1 >app/c.lua",
        "cat app/a.lua app/b.lua >/dev/null",
        "mkdir app/sub && echo 1 >app/sub/a.lua",
        "ls -lR app >/dev/null",
        "rm app/c.lua",
    };
    expect_none_told(others, COUNT(others));
    forget(s);
    static const char *const afterwards[] = {"echo 9 >app/a.lua", "rm -rf app"};
    expect_none_told(afterwards, COUNT(afterwards));
}

static void folders_that_come_and_go(void *arg) {
    (void)arg;
    CHECK(put("app/x/y/a.lua", "1") && put("app/main.lua", "1"));
    static const char *const files[] = {"app/main.lua", "app/x/y/a.lua", "app/not/yet/b.lua"};
    source_set *s = watch_set(files, 3);
    static const char *const ways[] = {
        "mv app/x app/old && mkdir -p app/x/y",
        "echo 2 >app/x/y/a.lua",
        "rm -rf app/x",
        "mkdir app/x",
        "mkdir app/x/y",
        "echo 3 >app/x/y/a.lua",
        "rm -rf app/x && mv app/old app/x",
        "echo 4 >app/x/y/a.lua",
        "mkdir app/not",
        "mkdir app/not/yet",
        "echo 5 >app/not/yet/b.lua",
        "mv app gone",
        "mkdir app",
        "echo 6 >app/main.lua",
    };
    expect_each_told(ways, COUNT(ways));
    static const char *const others[] = {"echo 7 >gone/main.lua", "echo 8 >gone/x/y/a.lua"};
    expect_none_told(others, COUNT(others));
    forget(s);
}

static void links_are_followed(void *arg) {
    (void)arg;
    CHECK(put("1/main.lua", "1") && put("2/main.lua", "2") && put("lib/real.lua", "3"));
    CHECK(outside("ln -s 1 app && ln -s ../lib/mid.lua 1/l.lua && ln -s real.lua lib/mid.lua && "
                  "ln -s loop loop"));
    static const char *const files[] = {"app/main.lua", "app/l.lua", "loop/x.lua"};
    source_set *s = watch_set(files, 3);
    static const char *const ways[] = {
        "echo 2 >1/main.lua",
        "echo 3 >lib/real.lua",
        "echo 4 >lib/other.lua && ln -sfn other.lua lib/mid.lua",
        "echo 5 >lib/other.lua",
        "ln -sfn 2 app",
        "echo 6 >2/main.lua",
        "mv 2 3",
        "rm loop",
    };
    expect_each_told(ways, COUNT(ways));
    static const char *const others[] = {"echo 7 >1/main.lua", "echo 8 >lib/real.lua"};
    expect_none_told(others, COUNT(others));
    forget(s);
}

static void watched_folders(void *arg) {
    (void)arg;
    CHECK(put("app/t/a.html", "1") && put("app/t/sub/b.html", "1"));
    start_once();
    source_set *s = source_set_new(path_of("app/main.lua"));
    CHECK_EQ(source_watch(s, path_of("app/t")), 0);
    watch_files(s, NULL);
    settle();
    atomic_store(&told, 0);
    static const char *const ways[] = {
        "echo 2 >app/t/sub/b.html", "echo 3 >app/t/c.html",   "mkdir app/t/new",
        "mkdir app/t/new/er",       "echo 4 >app/t/new/er/d", "rm app/t/a.html",
        "mv app/t/new app/t/old",   "echo 5 >app/t/old/er/d",
    };
    expect_each_told(ways, COUNT(ways));
    static const char *const others[] = {
        "echo 6 >app/t/.a.html.swp",
        "mkdir app/t/.git && echo 7 >app/t/.git/x",
        "echo 8 >app/other",
    };
    expect_none_told(others, COUNT(others));
    forget(s);
}

static void a_burst_is_told_once(void *arg) {
    (void)arg;
    static char names[200][32];
    static const char *files[200];
    for (int i = 0; i < 200; i++) {
        snprintf(names[i], sizeof names[i], "app/%d.lua", i);
        files[i] = names[i];
        CHECK(put(names[i], "1"));
    }
    source_set *s = watch_set(files, 200);
    int64_t began = rt_nanotime();
    for (int i = 0; i < 200; i++)
        CHECK(put(names[i], "2"));
    bool quick = rt_nanotime() - began < 40 * MS; /* else the machine made a pause of its own */
    EXPECT_SOON(atomic_load(&told) > 0);
    settle();
    if (quick) EXPECT_EQ(atomic_load(&told), 1);
    EXPECT(atomic_load(&told) < 20);
    /* One that does not end is told all the same: about once a second. */
    atomic_store(&told, 0);
    began = rt_nanotime();
    while (rt_nanotime() - began < 1500 * MS) {
        CHECK(put("app/0.lua", "3"));
        rt_sleep(5 * MS);
    }
    EXPECT(atomic_load(&told) >= 1);
    forget(s);
}

static _Atomic bool hold;

static void wait_for_hold(void) {
    while (atomic_load(&hold))
        rt_sleep(MS);
}

static void events_that_are_dropped_are_told(void *arg) {
    (void)arg;
    int most = 0;
    FILE *f = fopen("/proc/sys/fs/inotify/max_queued_events", "re");
    if (f && fscanf(f, "%d", &most) != 1) most = 0; /* NOLINT: the kernel's number */
    if (f) fclose(f);
    if (most == 0 || most > 200000) return;
    CHECK(put("app/a.lua", "1"));
    static const char *const files[] = {"app/a.lua"};
    source_set *s = watch_set(files, 1);
    atomic_store(&hold, true);
    atomic_store(&when_told, wait_for_hold);
    CHECK(put("app/a.lua", "2"));
    EXPECT_SOON(atomic_load(&told) > 0);
    settle();
    atomic_store(&told, 0);
    CHECK(put("app/x", "") && put("app/y", ""));
    for (int i = 0; i < most; i++) /* none of ours, and no two alike in a row */
        CHECK(chmod(path_of("app/x"), 0600) == 0 && chmod(path_of("app/y"), 0600) == 0);
    atomic_store(&hold, false);
    expect_told("events were dropped");
    atomic_store(&when_told, NULL);
    forget(s);
}

/* ---- who is told when ---- */

static void what_changed_before_is_told(void *arg) {
    (void)arg;
    int err;
    CHECK(put("app/a.lua", "1") && put("app/b.lua", "1"));
    start_once();
    source_set *old = source_set_new(path_of("app/main.lua"));
    CHECK(source_get(old, path_of("app/a.lua"), &err, NULL) != NULL);
    CHECK(put("app/a.lua", "2"));
    settle();
    atomic_store(&told, 0);
    watch_files(old, NULL);
    expect_told("a change before the watch");
    /* The failed one is newer: that the disk is not as the old one has it is known. */
    source_set *failed = source_set_new(path_of("app/main.lua"));
    CHECK(source_get(failed, path_of("app/a.lua"), &err, NULL) != NULL);
    EXPECT(!source_get(failed, path_of("app/missing.lua"), &err, NULL));
    settle();
    atomic_store(&told, 0);
    watch_files(old, failed);
    expect_silence("nothing new");
    EXPECT(put("app/missing.lua", "1"));
    expect_told("what was missing");
    source_set_free(failed);
    forget(old);
}

static source_set *watched_when_told;

static void watch_again(void) {
    rt_sleep(20 * MS);
    watch_files(watched_when_told, NULL);
}

static void who_is_told_may_wait_and_watch(void *arg) {
    (void)arg;
    CHECK(put("app/a.lua", "1"));
    static const char *const files[] = {"app/a.lua"};
    source_set *s = watch_set(files, 1);
    watched_when_told = s;
    atomic_store(&when_told, watch_again);
    for (int i = 0; i < 5; i++) {
        CHECK(outside("touch app/a.lua"));
        expect_told("touched");
    }
    atomic_store(&when_told, NULL);
    forget(s);
}

/* ---- nothing is kept ---- */

static int count_watches(void) {
    int n = 0;
    char path[64], line[512], link[64];
    for (int fd = 0; fd < 1024; fd++) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t len = readlink(path, link, sizeof link - 1);
        if (len <= 0) continue;
        link[len] = 0;
        if (strcmp(link, "anon_inode:inotify") != 0) continue;
        snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
        FILE *f = fopen(path, "re");
        while (f && fgets(line, sizeof line, f))
            n += strncmp(line, "inotify ", 8) == 0;
        if (f) fclose(f);
    }
    return n;
}

static long heap_bytes(void) {
#if defined(RT_ASAN) || defined(RT_TSAN)
    return 0;
#else
    return (long)mallinfo2().uordblks;
#endif
}

static void a_thousand_sets_leave_nothing(void *arg) {
    (void)arg;
    CHECK(put("app/main.lua", "1") && put("app/lib/a.lua", "1") && put("app/t/x", "1"));
    static const char *const files[] = {"app/main.lua", "app/lib/a.lua", "app/none/b.lua"};
    source_set *s = watch_set(files, 3), *old = s;
    int before = 0;
    long heap = 0;
    for (int i = 0; i < ROUNDS(1000); i++) {
        int err;
        s = source_set_new(path_of("app/main.lua"));
        for (int k = 0; k < 3; k++)
            (void)source_get(s, path_of(files[k]), &err, NULL);
        if (i % 3) (void)source_watch(s, path_of("app/t"));
        watch_files(i % 7 ? s : old, i % 7 ? old : s);
        source_set_free(old);
        old = s;
        if (i != 20) continue;
        before = count_watches();
        heap = heap_bytes();
    }
    EXPECT(before > 3);
    EXPECT(count_watches() <= before + 1);
    EXPECT(heap_bytes() < heap + 100000);
    forget(s);
    EXPECT_EQ(count_watches(), 0);
}

/* ---- without inotify ---- */

/* In a process of its own, whose limit of descriptors was such that there was none for inotify. */
static void look_every_second(void *arg) {
    (void)arg;
    CHECK(put("app/a.lua", "1") && put("app/not/b.lua", "1"));
    static const char *const files[] = {"app/a.lua", "app/none.lua", "app/not/b.lua"};
    source_set *s = watch_set(files, 3);
    EXPECT(put("app/a.lua", "22"));
    expect_told("a save");
    EXPECT(put("app/none.lua", "3"));
    expect_told("a new file");
    EXPECT(unlink(path_of("app/none.lua")) == 0);
    expect_told("a file that went");
    forget(s);
}

static int exit_code(void) {
    rt_lock_acquire(&failures.lock);
    for (int i = 0; i < failures.n && i < FAILURES_SHOWN; i++)
        fprintf(stderr, "%s\n", failures.text[i]);
    int n = failures.n;
    rt_lock_release(&failures.lock);
    return n ? 1 : 7;
}

static void child_without_inotify(void *arg) {
    struct rlimit none = {.rlim_cur = 0, .rlim_max = 4096}, usual;
    getrlimit(RLIMIT_NOFILE, &usual);
    none.rlim_max = usual.rlim_max;
    setrlimit(RLIMIT_NOFILE, &none);
    start_once();
    setrlimit(RLIMIT_NOFILE, &usual);
    EXPECT_EQ(count_watches(), 0);
    look_every_second(arg);
    exit(exit_code());
}

static void without_inotify_it_looks(void **state) {
    (void)state;
    if (test_procs() != 2) return; /* it is the same each time, and slow */
    char said[4096];
    setenv("TEST_DIR", test_dir, 1);
    assert_child_exits("no-inotify", 7, said, sizeof said);
    if (!strstr(said, "are looked at every second")) fail_msg("%s", said);
}

int main(void) {
    struct CMUnitTest tests[] = {
        in_g_test(every_way_to_save),
        in_g_test(folders_that_come_and_go),
        in_g_test(links_are_followed),
        in_g_test(watched_folders),
        in_g_test(a_burst_is_told_once),
        in_g_test(events_that_are_dropped_are_told),
        in_g_test(what_changed_before_is_told),
        in_g_test(who_is_told_may_wait_and_watch),
        in_g_test(a_thousand_sets_leave_nothing),
        cmocka_unit_test(without_inotify_it_looks),
    };
    const char *child = getenv("RT_TEST_CHILD");
    if (child) {
        snprintf(test_dir, sizeof test_dir, "%s", getenv("TEST_DIR"));
        rt_options opts = {.procs = 2, .deadlock_is_normal = true};
        rt_main(&opts, child_without_inotify, NULL);
    }
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        tests[i].setup_func = make_dir;
        tests[i].teardown_func = remove_dir;
    }
    RUN_TESTS("watch", tests);
}
