/* copy: every pair of kinds moves every byte once, whole or cut short, slow readers, deadlines, close; and
 * the same where the kernel refuses splice and sendfile. */
#include "net.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

enum { TOTAL = 400000 };

static unsigned char byte_at(size_t i) {
    return (unsigned char)(i * 7 + i / 251 + i / 70000);
}

typedef enum end_kind { UNIX, TCP, PIPE, FILE_END, N_KINDS } end_kind;

static const char *const kind_names[] = {"unix", "tcp", "pipe", "file"};

/* A way from `in` to `out`; for a file both are the same file, at two offsets. */
typedef struct way {
    rt_fd in, out;
    char path[200];
} way;

static bool open_way(way *w, end_kind k, int id) {
    switch (k) {
    case UNIX:
        return open_pair(&w->in, &w->out);
    case TCP:
        return open_tcp(&w->in, &w->out);
    case PIPE:
        return EXPECT_EQ(rt_pipe(&w->out, &w->in), 0);
    default:
        snprintf(w->path, sizeof w->path, "/tmp/lunapark_copy_%d_%d", (int)getpid(), id);
        return EXPECT_EQ(rt_file_open(&w->in, w->path, O_RDWR | O_CREAT | O_TRUNC, 0600), 0) &&
               EXPECT_EQ(rt_file_open(&w->out, w->path, O_RDWR, 0600), 0);
    }
}

static void close_way(way *w, end_kind k) {
    rt_fd_close(&w->in);
    rt_fd_close(&w->out);
    if (k == FILE_END) unlink(w->path);
}

typedef struct stream {
    rt_fd *f;
    size_t n;
    bool slow, shut;
    uint64_t seed;
    _Atomic size_t done;
} stream;

static void produce(void *arg) {
    stream *s = arg;
    unsigned char buf[7000];
    for (size_t at = 0; at < s->n;) {
        size_t n = 1 + random_below(&s->seed, sizeof buf);
        if (n > s->n - at) n = s->n - at;
        for (size_t i = 0; i < n; i++)
            buf[i] = byte_at(at + i);
        CHECK_EQ(rt_fd_write(s->f, buf, n), (ssize_t)n);
        at += n;
        if (s->slow && random_below(&s->seed, 30) == 0) rt_sleep(MS / 2);
    }
    if (s->shut)
        EXPECT_EQ(rt_fd_shutdown(s->f, SHUT_WR), 0);
    else
        rt_fd_close(s->f);
}

static void consume(void *arg) {
    stream *s = arg;
    unsigned char buf[5000];
    while (s->done < s->n) {
        ssize_t r = rt_fd_read(s->f, buf, sizeof buf);
        if (r == 0) break;
        CHECK(r > 0);
        for (ssize_t i = 0; i < r; i++, s->done++)
            if (buf[i] != byte_at(s->done)) CHECK_EQ(s->done, -1);
        if (s->slow && random_below(&s->seed, 30) == 0) rt_sleep(MS / 2);
    }
    EXPECT_EQ(s->done, s->n);
}

static void copy_one(end_kind from, end_kind to, int64_t n, size_t total, uint64_t seed) {
    way src = {0}, dst = {0};
    crowd c = {0}, p = {0};
    if (!open_way(&src, from, 1) || !open_way(&dst, to, 2)) return;
    stream in = {.f = &src.in,
                 .n = total,
                 .slow = seed % 2,
                 .shut = from == UNIX || from == TCP,
                 .seed = seed};
    size_t want = n < 0 || (size_t)n > total ? total : (size_t)n;
    stream out = {.f = &dst.out, .n = want, .slow = seed % 3 == 1, .seed = seed + 1};
    crowd_go(&p, produce, &in);
    if (from == FILE_END) crowd_wait(&p);
    if (to != FILE_END) crowd_go(&c, consume, &out);
    int err = 1;
    int64_t moved = rt_copy(&dst.in, &src.out, n, &err);
    EXPECT_EQ(err, 0);
    if (!EXPECT_EQ(moved, want)) expect_at(false, kind_names[from], to, "n = %lld", (long long)n);
    if (to == FILE_END) consume(&out);
    crowd_wait(&c);
    if ((size_t)moved < total) { /* the rest is still there, right after what was moved */
        unsigned char b = 0;
        EXPECT_EQ(rt_fd_read(&src.out, &b, 1), 1);
        EXPECT_EQ(b, byte_at((size_t)moved));
        if (from != FILE_END) { /* let the producer end */
            static char spill[4096];
            while (rt_fd_read(&src.out, spill, sizeof spill) > 0)
                ;
        }
    }
    if (from != FILE_END) crowd_wait(&p);
    close_way(&src, from);
    close_way(&dst, to);
}

static void every_kind_to_every_kind(void *arg) {
    (void)arg;
    size_t total = ROUNDS(TOTAL);
#ifdef RT_TINY
    total /= 10;
#endif
    uint64_t seed = 1;
    for (int from = 0; from < N_KINDS; from++)
        for (int to = 0; to < N_KINDS; to++) {
            copy_one(from, to, -1, total, seed++);
            copy_one(from, to, (int64_t)total / 3, total, seed++);
            copy_one(from, to, (int64_t)total + 1, total / 2, seed++); /* it ends early */
            copy_one(from, to, 0, 100, seed++);
        }
}

typedef struct copying {
    rt_fd *dst, *src;
    int64_t n, moved;
    int err;
    _Atomic bool ended;
} copying;

static void run_copy(void *arg) {
    copying *k = arg;
    k->moved = rt_copy(k->dst, k->src, k->n, &k->err);
    atomic_store(&k->ended, true);
}

/* The copy waits, so the edge of the ten bytes is used up when it takes five of them. */
static void a_short_read_before_a_copy_does_no_harm(void *arg) {
    (void)arg;
    rt_fd a, b, c, d;
    char buf[16];
    crowd k = {0};
    CHECK(open_tcp(&a, &b));
    CHECK(open_tcp(&c, &d));
    CHECK_EQ(rt_fd_write(&a, "abc", 3), 3);
    CHECK_EQ(rt_fd_read(&b, buf, 16), 3); /* drained, it says */
    copying x = {.dst = &c, .src = &b, .n = 5};
    crowd_go(&k, run_copy, &x);
    rt_sleep(5 * MS);
    CHECK_EQ(rt_fd_write(&a, "0123456789", 10), 10);
    crowd_wait(&k);
    CHECK_EQ(x.moved, 5);
    CHECK_EQ(rt_fd_set_deadline(&b, RT_R, rt_nanotime() + 2 * SEC), 0);
    CHECK(read_full(&b, buf, 5));
    CHECK_EQ(memcmp(buf, "56789", 5), 0);
    close_pair(&a, &b);
    close_pair(&c, &d);
}

static void both_ends_of_one_socket(void *arg) { /* an echo in one line */
    (void)arg;
    rt_fd a, b;
    crowd c = {0};
    CHECK(open_tcp(&a, &b));
    stream in = {.f = &a, .n = 200000, .seed = 5, .shut = true},
           out = {.f = &a, .n = 200000, .seed = 6};
    crowd_go(&c, produce, &in);
    crowd_go(&c, consume, &out);
    CHECK_EQ(rt_copy(&b, &b, -1, NULL), 200000);
    crowd_wait(&c);
    close_pair(&a, &b);
}

static void deadlines_and_close_end_a_copy(void *arg) {
    (void)arg;
    for (int i = 0; i < 8; i++) {
        rt_fd a, b, c, d;
        crowd k = {0};
        CHECK(open_tcp(&a, &b));
        CHECK(open_pair(&c, &d)); /* full is full */
        copying x = {.dst = &c, .src = &b, .n = -1};
        bool full = i % 2; /* dst has no room; else src has nothing */
        if (full) fill(&c);
        CHECK_EQ(rt_fd_write(&a, "12345", 5), 5);
        crowd_go(&k, run_copy, &x);
        char buf[5];
        if (!full) CHECK(read_full(&d, buf, 5));
        rt_sleep(3 * MS);
        CHECK(!atomic_load(&x.ended));
        if (i < 4)
            CHECK_EQ(full ? rt_fd_set_deadline(&c, RT_W, 1) : rt_fd_set_deadline(&b, RT_R, 1), 0);
        else
            CHECK_EQ(rt_fd_close(full ? &c : &b), 0);
        crowd_wait(&k);
        CHECK_EQ(x.err, i < 4 ? RT_ETIMEOUT : RT_ECLOSED);
        CHECK_EQ(x.moved, full ? 0 : 5);
        rt_fd_close(&a), rt_fd_close(&b), rt_fd_close(&c), rt_fd_close(&d);
    }
}

static void a_peer_that_goes_ends_a_copy(void *arg) {
    (void)arg;
    for (int file = 0; file < 2; file++) {
        rt_fd a, b, c, d, f;
        crowd k = {0};
        CHECK(open_pair(&a, &b));
        CHECK(open_pair(&c, &d));
        CHECK_EQ(rt_file_open(&f, "/proc/self/exe", O_RDONLY, 0), 0);
        CHECK_EQ(rt_fd_close(&d), 0);
        CHECK_EQ(rt_fd_write(&a, "12345", 5), 5);
        copying x = {.dst = &c, .src = file ? &f : &b, .n = -1};
        crowd_go(&k, run_copy, &x);
        crowd_wait(&k);
        CHECK_EQ(x.err, -EPIPE); /* and no signal */
        CHECK_EQ(x.moved, 0);
        rt_fd_close(&a), rt_fd_close(&b), rt_fd_close(&c), rt_fd_close(&f);
        CHECK_EQ(rt_copy(&c, &b, -1, &x.err), 0);
        CHECK_EQ(x.err, RT_ECLOSED);
    }
}

/* A copy waits for src and keeps nobody from writing to dst. */
static void a_waiting_copy_holds_no_lock_of_dst(void *arg) {
    (void)arg;
    rt_fd a, b, c, d;
    char buf[8];
    crowd k = {0};
    CHECK(open_tcp(&a, &b));
    CHECK(open_tcp(&c, &d));
    copying x = {.dst = &c, .src = &b, .n = 2};
    crowd_go(&k, run_copy, &x);
    rt_sleep(2 * MS);
    CHECK_EQ(rt_fd_write(&c, "ping", 4), 4);
    CHECK_EQ(rt_fd_read(&d, buf, 8), 4);
    CHECK_EQ(rt_fd_write(&a, "ab", 2), 2);
    crowd_wait(&k);
    CHECK_EQ(x.moved, 2);
    close_pair(&a, &b);
    close_pair(&c, &d);
}

/* The kernel splices into no descriptor that is O_APPEND: it takes from src, then refuses. */
static void a_dst_that_takes_no_pages_gets_bytes(void *arg) {
    (void)arg;
    for (int i = 0; i < 2; i++) {
        rt_fd a, b, c, d;
        crowd k = {0};
        CHECK(open_tcp(&a, &b));
        CHECK(open_tcp(&c, &d));
        CHECK_EQ(fcntl(c.fd, F_SETFL, O_NONBLOCK | O_APPEND), 0);
        stream in = {.f = &a, .n = 100000, .seed = 5, .shut = true};
        stream out = {.f = &d, .n = 100000, .seed = 6, .slow = i};
        crowd_go(&k, produce, &in);
        crowd_go(&k, consume, &out);
        CHECK_EQ(rt_copy(&c, &b, -1, NULL), 100000);
        crowd_wait(&k);
        close_pair(&a, &b);
        close_pair(&c, &d);
    }
}

static int count_fds(void) {
    int n = 0;
    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void relay(void *arg) {
    uint64_t seed = (uint64_t)(uintptr_t)arg;
    for (int i = 0; i < 6; i++)
        copy_one(random_below(&seed, 2), random_below(&seed, 2), -1, 30000, seed);
}

static void many_copies_leak_no_pipe(void *arg) {
    (void)arg;
    crowd c = {0};
    int before = count_fds();
    for (uintptr_t i = 1; i <= 20; i++)
        crowd_go(&c, relay, (void *)i);
    crowd_wait(&c);
    deadlines_and_close_end_a_copy(NULL);          /* pipes with bytes in them */
    CHECK(count_fds() <= before + 2 * rt_procs()); /* those that are kept */
}

/* ---- where the kernel refuses ---- */

static void forbid(unsigned nr, int err) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0), /* seccomp_data.nr */
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)err),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = {4, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) < 0)
        _exit(77);
}

static void child_main(void *arg) {
    (void)arg;
    every_kind_to_every_kind(NULL);
    both_ends_of_one_socket(NULL);
    a_peer_that_goes_ends_a_copy(NULL);
    for (int i = 0; i < failures.n && i < FAILURES_SHOWN; i++)
        fprintf(stderr, "%s\n", failures.text[i]);
    _exit(failures.n ? 1 : 42);
}

static const struct {
    const char *name;
    int err;
} refusals[] = {
    {"enosys", ENOSYS}, {"einval", EINVAL}, {"eopnotsupp", EOPNOTSUPP}, {"eperm", EPERM}};

static void the_buffer_does_what_the_kernel_refuses(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        char said[2000];
        int status = run_child(refusals[i].name, said, sizeof said);
        if (status >= 0 && WIFEXITED(status) && WEXITSTATUS(status) == 77) skip();
        if (status < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 42)
            fail_msg("%s: status %#x, said: %s", refusals[i].name, (unsigned)status, said);
    }
}

static int run_without(const char *child) {
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        if (strcmp(child, refusals[i].name) != 0) continue;
        forbid(SYS_splice, refusals[i].err);
        forbid(SYS_sendfile, refusals[i].err);
    }
    rt_main(&(rt_options){.procs = test_procs()}, child_main, NULL);
}

int main(void) {
    const char *child = getenv("RT_TEST_CHILD");
    if (child) return run_without(child);
    const struct CMUnitTest tests[] = {
        in_g_test(every_kind_to_every_kind),
        in_g_test(a_short_read_before_a_copy_does_no_harm),
        in_g_test(both_ends_of_one_socket),
        in_g_test(deadlines_and_close_end_a_copy),
        in_g_test(a_peer_that_goes_ends_a_copy),
        in_g_test(a_waiting_copy_holds_no_lock_of_dst),
        in_g_test(a_dst_that_takes_no_pages_gets_bytes),
        in_g_test(many_copies_leak_no_pipe),
        cmocka_unit_test(the_buffer_does_what_the_kernel_refuses),
    };
    RUN_TESTS("copy", tests);
}
