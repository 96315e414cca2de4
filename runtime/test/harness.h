/* What the runtime's test programs share.
 *
 * cmocka keeps thread-local state and a G may go on on another thread, so cmocka stays on the
 * process's main thread. The runtime runs beside it on threads of its own; its main G parks for
 * ever. A test is a function that runs as a G (in_g): the main thread starts it, sleeps on a note
 * until it ends, at most LIMIT_NS, and turns what CHECK recorded into a failure. A test that does
 * not end is shown by rt_dump, and those after it fail at once, since it may still hold anything.
 *
 * A process can have only one runtime, so each program runs itself once for each number of Ps
 * (RT_TEST_PROCS says which, and picks one by hand), and once more for each test that needs a
 * process that ends in a special way (RT_TEST_CHILD).
 *
 * No test asserts an upper bound on time that a busy machine could break: machines are shared. */
#ifndef HARNESS_H
#define HARNESS_H

#include "../impl.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#pragma GCC diagnostic ignored "-Wunused-function"

#define MS  NS_PER_MS
#define SEC NS_PER_SEC
/* Only a test that fails takes so long: to wait for what must come; all of it. */
#define PATIENCE_NS (60 * SEC)
#define LIMIT_NS    (100 * SEC)

/* Rounds of a loop, fewer where a sanitizer makes each slow. */
#if defined(RT_TSAN)
#define ROUNDS(n) ((n) / 10)
#elif defined(RT_ASAN)
#define ROUNDS(n) ((n) / 4)
#else
#define ROUNDS(n) (n)
#endif

/* ---- checks, in Gs and any thread -------------------------------------------------------------- */

enum { FAILURES_SHOWN = 8, FAILURE_MAX = 256 };

static struct {
    rt_lock lock;
    int n;                                  /* lock */
    char text[FAILURES_SHOWN][FAILURE_MAX]; /* lock */
} failures;

__attribute__((format(printf, 4, 5))) static bool expect_at(bool ok, const char *file, int line,
                                                            const char *fmt, ...) {
    if (ok) return true;
    rt_lock_acquire(&failures.lock);
    if (failures.n < FAILURES_SHOWN) {
        char *at = failures.text[failures.n];
        int n = snprintf(at, FAILURE_MAX, "%s:%d: ", file, line);
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(at + n, FAILURE_MAX - (size_t)n, fmt, ap);
        va_end(ap);
    }
    failures.n++;
    rt_lock_release(&failures.lock);
    return false;
}

static bool expect_equal_at(int64_t a, int64_t b, const char *file, int line, const char *what) {
    return expect_at(a == b, file, line, "%s: %lld != %lld", what, (long long)a, (long long)b);
}

/* EXPECT goes on and says whether it held; CHECK leaves the function. */
#define EXPECT(e)       expect_at((e), __FILE__, __LINE__, "%s", #e)
#define EXPECT_EQ(a, b) expect_equal_at((a), (b), __FILE__, __LINE__, #a " == " #b)
#define CHECK(e)                                                                                   \
    do {                                                                                           \
        if (!EXPECT(e)) return;                                                                    \
    } while (0)
#define CHECK_EQ(a, b)                                                                             \
    do {                                                                                           \
        if (!EXPECT_EQ(a, b)) return;                                                              \
    } while (0)

/* In a G: what will come true, given time. */
#define EXPECT_SOON(e)                                                                             \
    do {                                                                                           \
        int64_t until_ = rt_nanotime() + PATIENCE_NS;                                              \
        bool came_;                                                                                \
        while (!(came_ = (e)) && rt_nanotime() < until_)                                           \
            rt_sleep(MS);                                                                          \
        expect_at(came_, __FILE__, __LINE__, "%s", #e);                                            \
    } while (0)

/* On the main thread. */
static void fail_if_recorded(void) {
    rt_lock_acquire(&failures.lock);
    int n = failures.n;
    failures.n = 0;
    rt_lock_release(&failures.lock);
    for (int i = 0; i < n && i < FAILURES_SHOWN; i++)
        print_error("%s\n", failures.text[i]);
    if (n) fail_msg("%d checks failed", n);
}

/* ---- running a test as a G --------------------------------------------------------------------- */

typedef struct call {
    void (*fn)(void *);
    void *arg;
} call;

static struct {
    note up, done;
    call now;
    bool stuck;
} harness;

static void call_and_tell(void *arg) {
    call *c = arg;
    c->fn(c->arg);
    note_wake(&harness.done);
}

static void in_g_for(void (*fn)(void *), void *arg, int64_t limit_ns) {
    if (harness.stuck) fail_msg("not run: an earlier test did not end");
    harness.now = (call){fn, arg};
    note_clear(&harness.done);
    rt_go(call_and_tell, &harness.now);
    if (!note_sleep_for(&harness.done, limit_ns)) {
        harness.stuck = true;
        expect_at(false, __FILE__, __LINE__, "the test does not end");
        rt_dump();
    }
    fail_if_recorded();
}

static void in_g(void (*fn)(void *), void *arg) {
    in_g_for(fn, arg, LIMIT_NS);
}

/* A row for cmocka's table: the function runs as a G. Its argument is NULL. */
static void run_row(void **state) {
    in_g(((call *)*state)->fn, NULL);
}
#define in_g_test(f)                                                                               \
    {                                                                                              \
#f, run_row, NULL, NULL, &(call) {                                                         \
            f, NULL                                                                                \
        }                                                                                          \
    }

/* ---- starting several Gs and waiting for them -------------------------------------------------- */

/* Zeroed before use. Its memory must live until crowd_wait returned. */
typedef struct crowd {
    _Atomic int left; /* members that have not ended */
    rt_g *waiter;
    uint64_t ticket;
} crowd;

typedef struct member {
    crowd *c;
    call call;
} member;

/* A member may end before the next is started, so the waiter counts as one: -1 + 1. */
static void crowd_leave(crowd *c) {
    if (atomic_fetch_sub(&c->left, 1) == 0) rt_wake(c->waiter, c->ticket, RT_WOKEN);
}

static void run_member(void *arg) {
    member m = *(member *)arg;
    free(arg);
    m.call.fn(m.call.arg);
    crowd_leave(m.c);
}

static void crowd_enter(crowd *c) {
    atomic_fetch_add(&c->left, 1);
}

static rt_g *crowd_go(crowd *c, void (*fn)(void *), void *arg) {
    member *m = malloc(sizeof *m);
    *m = (member){c, {fn, arg}};
    crowd_enter(c);
    return rt_go(run_member, m);
}

static void crowd_wait(crowd *c) {
    c->waiter = rt_self();
    c->ticket = rt_wait_open(c->waiter);
    crowd_leave(c);
    rt_wait(RT_WAIT_JOIN, 0);
    atomic_store(&c->left, 0);
}

/* ---- odds and ends ----------------------------------------------------------------------------- */

/* splitmix64; each user has a state of its own. */
static uint64_t random_next(uint64_t *state) {
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static uint64_t random_below(uint64_t *state, uint64_t n) {
    return random_next(state) % n;
}

/* Uses the CPU, without a wait. */
static void spin_for(int64_t ns) {
    for (int64_t until = rt_nanotime() + ns; rt_nanotime() < until;)
        ;
}

/* A thread that is none of the runtime's. */
static pthread_t foreign(void *(*fn)(void *), void *arg) {
    pthread_t t;
    if (pthread_create(&t, NULL, fn, arg) != 0) rt_throw("no thread for a test");
    return t;
}

/* From a G: the thread is about to end or the test fails, so the P may as well wait for it. */
static void join_foreign(pthread_t t) {
    rt_entersyscall();
    pthread_join(t, NULL);
    rt_exitsyscall();
}

static int test_procs(void) {
    const char *s = getenv("RT_TEST_PROCS");
    return s ? atoi(s) : 0;
}

/* ---- processes --------------------------------------------------------------------------------- */

/* Runs this program again with a variable set; its pid. err_fd: where its stderr goes, or -1. */
static pid_t run_self(const char *name, const char *value, int err_fd) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid != 0) return pid;
    if (err_fd >= 0) dup2(err_fd, STDERR_FILENO);
    setenv(name, value, 1);
    char self[] = "/proc/self/exe", *argv[] = {self, NULL};
    execv(self, argv);
    _exit(127);
}

/* Runs the child `name` of this program, at most 100 s, and returns its wait status; -1: it had to be
 * killed. What it says on stderr is in `said`. Main thread. */
static int run_child(const char *name, char *said, size_t size) {
    int p[2];
    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    pid_t pid = run_self("RT_TEST_CHILD", name, p[1]);
    assert_true(pid > 0);
    close(p[1]);
    size_t n = 0;
    bool late = false;
    for (;;) {
        struct pollfd pfd = {.fd = p[0], .events = POLLIN};
        late = poll(&pfd, 1, 100000) <= 0;
        if (late) break;
        char spill[256];
        ssize_t r =
            n < size - 1 ? read(p[0], said + n, size - 1 - n) : read(p[0], spill, sizeof spill);
        if (r <= 0) break;
        if (n < size - 1) n += (size_t)r;
    }
    said[n] = 0;
    close(p[0]);
    if (late) kill(pid, SIGKILL);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return late ? -1 : status;
}

static void assert_child_exits(const char *name, int code, char *said, size_t size) {
    int status = run_child(name, said, size);
    if (status < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != code)
        fail_msg("child %s: status %#x, said: %s", name, (unsigned)status, said);
}

#ifdef RT_TSAN
/* Its second of sleep at each exit serves detached threads, which the runtime's are not. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void) {
    return "atexit_sleep_ms=0";
}
#endif

/* ---- the program ------------------------------------------------------------------------------- */

static void main_g_of_tests(void *arg) {
    (void)arg;
    note_wake(&harness.up);
    for (;;)
        rt_park(NULL, NULL, RT_WAIT_OTHER);
}

static void *runtime_thread(void *arg) {
    rt_main(arg, main_g_of_tests, NULL);
}

static void start_runtime(uint64_t seed) {
    static rt_options opts;
    opts = (rt_options){.procs = test_procs(), .deadlock_is_normal = true, .seed = seed};
    foreign(runtime_thread, &opts);
    if (!note_sleep_for(&harness.up, LIMIT_NS)) rt_throw("the runtime does not start");
    /* Signals are for the runtime's threads. TSan would keep one that hits a thread in a bare futex
     * call until that ends. */
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
}

/* This program once for 1, 2 and 4 Ps; what main shall return. */
static int run_for_each_procs(void) {
    static const char *const procs[] = {"1", "2", "4"};
    int failed = 0;
    for (size_t i = 0; i < sizeof procs / sizeof *procs; i++) {
        int status = 0;
        pid_t pid = run_self("RT_TEST_PROCS", procs[i], -1);
        if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
            fprintf(stderr, "%s Ps: status %#x\n", procs[i], (unsigned)status);
            failed = 1;
        }
    }
    return failed;
}

/* The end of a test program's main. */
#define RUN_TESTS(name, tests)                                                                     \
    do {                                                                                           \
        if (!test_procs()) return run_for_each_procs();                                            \
        char title_[64];                                                                           \
        snprintf(title_, sizeof title_, "%s, %d Ps", name, test_procs());                          \
        start_runtime(0);                                                                          \
        return cmocka_run_group_tests_name(title_, tests, NULL, NULL);                             \
    } while (0)

#endif
