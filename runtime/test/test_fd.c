/* fd: deadlines of all kinds, close against everything, many Gs on one descriptor, short reads, pieces,
 * broken pipes and what they do to a program. */
#include "../fd.h"
#include "net.h"

#include <sys/mman.h>

/* ---- deadlines ---- */

static void a_deadline_in_the_past_answers_at_once(void *arg) {
    (void)arg;
    rt_fd a, b;
    char buf[8];
    CHECK(open_tcp(&a, &b));
    CHECK_EQ(rt_fd_write(&b, "data", 4), 4);
    const int64_t past[] = {1, rt_nanotime() - SEC, rt_nanotime()};
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(rt_fd_set_deadline(&a, RT_RW, past[i]), 0);
        CHECK_EQ(rt_fd_read(&a, buf, 8), RT_ETIMEOUT); /* though there is data */
        CHECK_EQ(rt_fd_write(&a, "x", 1), RT_ETIMEOUT);
    }
    CHECK_EQ(rt_fd_set_deadline(&a, RT_R, 0), 0);
    CHECK_EQ(rt_fd_write(&a, "x", 1), RT_ETIMEOUT); /* the other one still holds */
    CHECK_EQ(rt_fd_read(&a, buf, 8), 4);
    CHECK_EQ(rt_fd_set_deadline(&a, RT_RW, rt_nanotime() + 3600 * SEC), 0);
    CHECK_EQ(rt_fd_write(&a, "x", 1), 1);
    CHECK_EQ(rt_fd_set_deadline(&a, 'x', 0), -EINVAL);
    close_pair(&a, &b);
    CHECK_EQ(rt_fd_set_deadline(&a, RT_R, 0), RT_ECLOSED);
}

static void fluctuating_deadlines_are_never_early(void *arg) {
    (void)arg;
    rt_fd a, b;
    char buf[8];
    uint64_t seed = 3;
    CHECK(open_tcp(&a, &b));
    fill(&a);
    fill(&a); /* what the kernel's buffers between took meanwhile */
    int64_t delay = MS;
    for (int i = 0; i < 60; i++) {
        int mode = i % 2 ? RT_R : RT_W;
        int64_t until = rt_nanotime() + delay;
        CHECK_EQ(rt_fd_set_deadline(&a, mode, until), 0);
        ssize_t r = mode == RT_R ? rt_fd_read(&a, buf, 8) : rt_fd_write(&a, "x", 1);
        if (r == 1 && mode == RT_W) continue; /* there was room yet */
        CHECK_EQ(r, RT_ETIMEOUT);
        CHECK(rt_nanotime() >= until);
        delay = 1 + (int64_t)random_below(&seed, i % 3 ? 1000 : 4 * MS);
    }
    close_pair(&a, &b);
}

static void a_deadline_moved_in_a_wait_holds(void *arg) {
    (void)arg;
    rt_fd a, b;
    crowd c = {0};
    one_call k;
    CHECK(open_tcp(&a, &b));
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(rt_fd_set_deadline(&a, RT_RW, i == 0 ? 0 : rt_nanotime() + 400 * MS), 0);
        start_call(&c, &k, &a, read_one);
        int64_t until = rt_nanotime() + (i == 1 ? 450 : 5) * MS; /* set, later, earlier */
        CHECK_EQ(rt_fd_set_deadline(&a, RT_RW, until), 0);
        crowd_wait(&c);
        CHECK_EQ(k.r, RT_ETIMEOUT);
        CHECK(k.at_ns >= until);
    }
    close_pair(&a, &b);
}

static void a_queue_of_readers_times_out(void *arg) {
    (void)arg;
    rt_fd a, b;
    crowd c = {0};
    one_call k[5];
    CHECK(open_tcp(&a, &b));
    for (int i = 0; i < 5; i++)
        start_call(&c, &k[i], &a, read_one);
    CHECK_EQ(rt_fd_set_deadline(&a, RT_R, rt_nanotime() + 5 * MS), 0);
    crowd_wait(&c);
    for (int i = 0; i < 5; i++)
        CHECK_EQ(k[i].r, RT_ETIMEOUT);
    CHECK_EQ(rt_fd_write(&a, "x", 1), 1);
    close_pair(&a, &b);
}

/* A write that times out has written something: the peer gets exactly what iov does not tell. */
static void a_timed_out_write_says_how_far_it_came(void *arg) {
    (void)arg;
    enum { BIG = 4 << 20 };
    rt_fd a, b;
    CHECK(open_pair(&a, &b));
    int room = 32 << 10; /* so that it never comes to the end */
    CHECK_EQ(setsockopt(a.fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room), 0);
    char *big = malloc(BIG), *got = malloc(64 << 10);
    for (size_t i = 0; i < BIG; i++)
        big[i] = (char)(i % 251);
    struct iovec iov = {big, BIG};
    size_t seen = 0;
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(rt_fd_set_deadline(&a, RT_W, rt_nanotime() + 5 * MS), 0);
        CHECK_EQ(rt_fd_writev(&a, &iov, 1), RT_ETIMEOUT);
        size_t went = BIG - iov.iov_len;
        CHECK(went >= seen);
        while (seen < went) {
            ssize_t r = rt_fd_read(&b, got, 64 << 10);
            CHECK(r > 0);
            for (ssize_t k = 0; k < r; k++, seen++)
                if (got[k] != (char)(seen % 251)) CHECK_EQ(seen, -1);
        }
        CHECK_EQ(seen, went);
    }
    free(big);
    free(got);
    close_pair(&a, &b);
}

/* ---- close ---- */

static void close_wakes_everybody(void *arg) {
    (void)arg;
    for (int tcp = 0; tcp < 2; tcp++) {
        rt_fd a, b;
        crowd c = {0};
        one_call k[6];
        CHECK(tcp ? open_tcp(&a, &b) : open_pair(&a, &b));
        fill_for_good(&a);
        for (int i = 0; i < 6; i++)
            start_call(&c, &k[i], &a, i % 2 ? read_one : write_one);
        CHECK_EQ(rt_fd_close(&a), 0);
        crowd_wait(&c);
        for (int i = 0; i < 6; i++)
            CHECK_EQ(k[i].r, RT_ECLOSED);
        CHECK_EQ(rt_fd_close(&a), RT_ECLOSED);
        CHECK_EQ(read_one(&a), RT_ECLOSED);
        CHECK_EQ(write_one(&a), RT_ECLOSED);
        CHECK_EQ(accept_one(&a), RT_ECLOSED);
        CHECK_EQ(rt_fd_shutdown(&a, SHUT_WR), RT_ECLOSED);
        CHECK_EQ(rt_fd_close(&b), 0);
    }
}

static ssize_t close_one(rt_fd *f) {
    return rt_fd_close(f);
}

static void one_of_many_closers_closes(void *arg) {
    (void)arg;
    for (int i = 0; i < ROUNDS(200); i++) {
        rt_fd a, b;
        crowd c = {0};
        one_call k[5];
        CHECK(open_pair(&a, &b));
        for (int n = 0; n < 5; n++) {
            k[n] = (one_call){.f = &a, .fn = n < 3 ? close_one : n < 4 ? read_one : write_one};
            crowd_go(&c, make_call, &k[n]);
        }
        crowd_wait(&c);
        int closed = 0;
        for (int n = 0; n < 3; n++) {
            if (k[n].r == 0)
                closed++;
            else
                CHECK_EQ(k[n].r, RT_ECLOSED);
        }
        CHECK_EQ(closed, 1);
        CHECK_EQ(k[3].r, RT_ECLOSED);
        CHECK(k[4].r == RT_ECLOSED || k[4].r == 1);
        CHECK_EQ(rt_fd_close(&b), 0);
    }
}

/* Pairs come and go, so numbers are reused at once; whoever read another pair's bytes would see it. */
typedef struct lane {
    rt_fd *a, *b;
    unsigned char tag;
    _Atomic bool over;
    uint64_t seed;
} lane;

static void read_own_tag(void *arg) {
    lane *l = arg;
    unsigned char buf[64];
    for (;;) {
        ssize_t r = rt_fd_read(l->a, buf, sizeof buf);
        if (r == RT_ETIMEOUT) {
            rt_yield();
            continue;
        }
        if (r <= 0) {
            EXPECT_EQ(r, RT_ECLOSED);
            return;
        }
        for (ssize_t i = 0; i < r; i++)
            if (buf[i] != l->tag) CHECK_EQ(buf[i], l->tag);
    }
}

static void write_own_tag(void *arg) {
    lane *l = arg;
    unsigned char buf[64];
    memset(buf, l->tag, sizeof buf);
    for (;;) {
        ssize_t r = rt_fd_write(l->b, buf, sizeof buf);
        if (r == RT_ETIMEOUT) {
            rt_yield();
            continue;
        }
        if (r < 0) {
            EXPECT(r == RT_ECLOSED || r == -EPIPE || r == -ECONNRESET);
            return;
        }
        rt_yield();
    }
}

static void set_deadlines_until_closed(void *arg) {
    lane *l = arg;
    uint64_t seed = l->seed;
    for (;;) {
        int64_t when =
            random_below(&seed, 3) ? rt_nanotime() + (int64_t)random_below(&seed, 100000) : 0;
        int r = rt_fd_set_deadline(random_below(&seed, 2) ? l->a : l->b, RT_RW, when);
        if (r == RT_ECLOSED) return;
        CHECK_EQ(r, 0);
        rt_yield();
    }
}

static void close_races(void *arg) {
    uint64_t seed = (uint64_t)(uintptr_t)arg;
    for (int64_t end = rt_nanotime() + 400 * MS; rt_nanotime() < end;) {
        lane l = {.a = malloc(sizeof *l.a),
                  .b = malloc(sizeof *l.b),
                  .tag = (unsigned char)(uintptr_t)arg,
                  .seed = random_next(&seed)};
        crowd c = {0};
        if (!open_pair(l.a, l.b)) return;
        for (int i = 0; i < 2; i++) {
            crowd_go(&c, read_own_tag, &l);
            crowd_go(&c, write_own_tag, &l);
        }
        crowd_go(&c, set_deadlines_until_closed, &l);
        rt_sleep((int64_t)random_below(&seed, MS));
        EXPECT_EQ(rt_fd_close(l.a), 0);
        EXPECT_EQ(rt_fd_close(l.b), 0);
        crowd_wait(&c);
        free(l.a);
        free(l.b);
    }
}

static void close_races_with_everything(void *arg) {
    (void)arg;
    crowd c = {0};
    for (uintptr_t i = 1; i <= 5; i++)
        crowd_go(&c, close_races, (void *)i);
    crowd_wait(&c);
}

/* ---- many Gs on one descriptor ---- */

enum { WRITERS = 12, RECORDS = 40, RECORD = 700 };

static void write_records(void *arg) {
    static _Atomic unsigned char next;
    unsigned char rec[RECORD];
    memset(rec, (unsigned char)(1 + atomic_fetch_add(&next, 1) % 200), sizeof rec);
    for (int i = 0; i < RECORDS; i++) {
        struct iovec iov[3] = {{rec, 100}, {rec, 0}, {rec + 100, RECORD - 100}};
        CHECK_EQ(i % 2 ? rt_fd_write(arg, rec, RECORD) : rt_fd_writev(arg, iov, 3), RECORD);
    }
}

/* Though each goes out in many pieces. */
static void writes_do_not_mix(void *arg) {
    (void)arg;
    rt_fd a, b;
    crowd c = {0};
    CHECK(open_pair(&a, &b));
    int small = 4096;
    setsockopt(a.fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    for (int i = 0; i < WRITERS; i++)
        crowd_go(&c, write_records, &a);
    for (int i = 0; i < WRITERS * RECORDS; i++) {
        unsigned char rec[RECORD];
        if (!EXPECT(read_full(&b, rec, RECORD))) break;
        for (int k = 1; k < RECORD; k++)
            EXPECT(rec[k] == rec[0]);
    }
    crowd_wait(&c);
    close_pair(&a, &b);
}

static _Atomic int64_t read_sum;

static void read_some_bytes(void *arg) {
    unsigned char b;
    for (int i = 0; i < 10; i++) {
        if (!EXPECT_EQ(rt_fd_read(arg, &b, 1), 1)) return;
        atomic_fetch_add(&read_sum, b);
    }
}

static void many_readers_share_the_bytes(void *arg) {
    (void)arg;
    rt_fd a, b;
    crowd c = {0};
    int64_t sum = 0;
    CHECK(open_tcp(&a, &b));
    atomic_store(&read_sum, 0);
    for (int i = 0; i < 100; i++)
        crowd_go(&c, read_some_bytes, &a);
    for (int i = 0; i < 1000; i++) {
        unsigned char byte = (unsigned char)i;
        sum += byte;
        CHECK_EQ(rt_fd_write(&b, &byte, 1), 1);
        if (i % 100 == 0) rt_sleep(MS);
    }
    crowd_wait(&c);
    CHECK_EQ(atomic_load(&read_sum), sum);
    close_pair(&a, &b);
}

/* ---- reading ---- */

static void a_short_read_tells_of_tcp_only(void *arg) {
    (void)arg;
    rt_fd a, b;
    char buf[16];
    for (int tcp = 0; tcp < 2; tcp++) {
        CHECK(tcp ? open_tcp(&a, &b) : open_pair(&a, &b));
        for (int i = 0; i < 20; i++) {
            crowd c = {0};
            one_call k;
            CHECK_EQ(rt_fd_set_deadline(&a, RT_R, rt_nanotime() + PATIENCE_NS), 0);
            if (i % 2) start_call(&c, &k, &b, read_one); /* the other direction does not mind */
            CHECK_EQ(rt_fd_write(&b, "abc", 3), 3);
            CHECK_EQ(rt_fd_read(&a, buf, 16), 3);
            CHECK_EQ(a.drained, tcp);
            if (i % 3 == 0) rt_sleep(MS);
            CHECK_EQ(rt_fd_write(&b, "def", 3), 3); /* before the next read, or while it waits */
            CHECK_EQ(rt_fd_read(&a, buf, 1), 1);
            CHECK(!a.drained);
            CHECK_EQ(rt_fd_read(&a, buf, 2), 2); /* filled: no more is known */
            CHECK(!a.drained);
            if (i % 2) {
                CHECK_EQ(rt_fd_write(&a, "x", 1), 1);
                crowd_wait(&c);
            }
        }
        /* Data and end at once, after a short read. */
        CHECK_EQ(rt_fd_write(&b, "abc", 3), 3);
        CHECK_EQ(rt_fd_read(&a, buf, 16), 3);
        CHECK_EQ(rt_fd_write(&b, "def", 3), 3);
        CHECK_EQ(rt_fd_shutdown(&b, SHUT_WR), 0);
        CHECK_EQ(rt_fd_read(&a, buf, 16), 3);
        CHECK_EQ(rt_fd_read(&a, buf, 16), 0);
        CHECK_EQ(rt_fd_read(&a, buf, 16), 0);
        close_pair(&a, &b);
    }
}

static void one_side_is_shut(void *arg) {
    (void)arg;
    rt_fd a, b;
    char buf[8];
    CHECK(open_tcp(&a, &b));
    CHECK_EQ(rt_fd_shutdown(&a, SHUT_WR), 0);
    CHECK_EQ(rt_fd_read(&b, buf, 8), 0);
    CHECK_EQ(rt_fd_write(&a, "x", 1), -EPIPE);
    CHECK_EQ(rt_fd_write(&b, "back", 4), 4); /* the other side lives */
    CHECK_EQ(rt_fd_read(&a, buf, 8), 4);
    CHECK_EQ(rt_fd_shutdown(&b, SHUT_RDWR), 0);
    CHECK_EQ(rt_fd_read(&a, buf, 8), 0);
    CHECK_EQ(rt_fd_shutdown(&a, 99), -EINVAL);
    close_pair(&a, &b);
}

static void an_empty_read_waits_for_nothing(void *arg) {
    (void)arg;
    rt_fd a, b;
    char buf[1];
    CHECK(open_pair(&a, &b));
    CHECK_EQ(rt_fd_read(&a, buf, 0), 0);
    CHECK_EQ(rt_fd_write(&a, buf, 0), 0);
    CHECK_EQ(rt_fd_writev(&a, NULL, 0), 0);
    CHECK_EQ(rt_fd_readv(&a, NULL, 0), -EINVAL);
    CHECK_EQ(rt_fd_writev(&a, NULL, -1), -EINVAL);
    close_pair(&a, &b);
}

/* ---- pieces ---- */

enum { BULK = 1 << 20, PIECES = 3000 };

static void write_in_pieces(void *arg) {
    unsigned char *data = malloc(BULK);
    struct iovec *iov = calloc(PIECES, sizeof *iov);
    for (size_t i = 0; i < BULK; i++)
        data[i] = (unsigned char)(i * 7 + i / 251);
    size_t at = 0;
    for (int i = 0; i < PIECES; i++) { /* some are empty, the last is large */
        size_t n = i % 5 == 0 ? 0 : (size_t)(i % 97);
        if (i == PIECES - 1) n = BULK - at;
        iov[i] = (struct iovec){data + at, n};
        at += n;
    }
    EXPECT_EQ(rt_fd_writev(arg, iov, PIECES), BULK);
    for (int i = 0; i < PIECES; i++)
        EXPECT(iov[i].iov_len == 0);
    free(iov);
    free(data);
}

static void pieces_arrive_in_order(void *arg) {
    (void)arg;
    for (int kind = 0; kind < 3; kind++) {
        rt_fd r, w;
        crowd c = {0};
        CHECK(kind == 0 ? open_pair(&r, &w) : kind == 1 ? open_tcp(&r, &w) : open_pipe(&r, &w));
        crowd_go(&c, write_in_pieces, &w);
        for (size_t at = 0; at < BULK;) {
            unsigned char buf[3000];
            struct iovec iov[3] = {{buf, 1000}, {buf + 1000, 0}, {buf + 1000, 2000}};
            ssize_t n = rt_fd_readv(&r, iov, 3);
            CHECK(n > 0);
            for (ssize_t i = 0; i < n; i++, at++)
                if (buf[i] != (unsigned char)(at * 7 + at / 251)) CHECK_EQ(at, -1);
        }
        crowd_wait(&c);
        close_pair(&r, &w);
    }
}

/* ---- what breaks ---- */

static bool counts_sends;
static size_t largest_send;

/* In the place of libc's, which fd.c calls: a test looks at what the kernel is given at once, without so much memory. */
ssize_t send(int fd, const void *buf, size_t n, int flags) {
    if (!counts_sends) return sendto(fd, buf, n, flags, NULL, 0);
    if (n > largest_send) largest_send = n;
    return (ssize_t)n;
}

static void a_call_writes_a_gigabyte_at_most(void *arg) {
    (void)arg;
    rt_fd a, b;
    size_t len = (size_t)MAX_RW / 2 * 5;
    CHECK(open_tcp(&a, &b));
    char *bytes = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(bytes != MAP_FAILED);
    largest_send = 0;
    counts_sends = true;
    CHECK_EQ(rt_fd_write(&a, bytes, len), (ssize_t)len);
    counts_sends = false;
    CHECK(largest_send > 0 && largest_send <= (size_t)1 << 30);
    munmap(bytes, len);
    close_pair(&a, &b);
}

static void errors_of_a_broken_connection(void *arg) {
    (void)arg;
    rt_fd a, b;
    char buf[8];
    CHECK(open_pipe(&a, &b));
    CHECK_EQ(rt_fd_close(&a), 0);
    CHECK_EQ(rt_fd_write(&b, "x", 1), -EPIPE); /* and no signal */
    CHECK_EQ(rt_fd_close(&b), 0);
    CHECK(open_pair(&a, &b));
    CHECK_EQ(rt_fd_close(&a), 0);
    CHECK_EQ(rt_fd_write(&b, "x", 1), -EPIPE);
    CHECK_EQ(rt_fd_close(&b), 0);
    CHECK(open_tcp(&a, &b));
    struct linger hard = {.l_onoff = 1};
    CHECK_EQ(setsockopt(a.fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard), 0);
    CHECK_EQ(rt_fd_close(&a), 0);
    ssize_t r = rt_fd_read(&b, buf, 8);
    CHECK_EQ(r, -ECONNRESET);
    CHECK_EQ(rt_fd_write(&b, "x", 1), -EPIPE);
    CHECK_EQ(rt_fd_close(&b), 0);
}

static void no_descriptor_blocks_or_is_inherited(void *arg) {
    (void)arg;
    rt_fd f[3];
    int port = 0;
    CHECK(open_listener(&f[0], &port, 4));
    CHECK_EQ(rt_fd_init(&f[1], rt_socket(AF_INET, SOCK_STREAM, 0)), 0);
    struct sockaddr_in sa = loopback(port);
    CHECK_EQ(rt_fd_connect(&f[1], (struct sockaddr *)&sa, sizeof sa), 0);
    CHECK_EQ(rt_fd_init(&f[2], rt_fd_accept(&f[0])), 0);
    for (int i = 0; i < 3; i++) {
        CHECK(fcntl(f[i].fd, F_GETFD) & FD_CLOEXEC);
        CHECK(fcntl(f[i].fd, F_GETFL) & O_NONBLOCK);
        CHECK_EQ(rt_fd_close(&f[i]), 0);
    }
}

/* ---- SIGPIPE: each is a program of its own ---- */

static void break_stdout(void) {
    int p[2];
    CHECK_EQ(pipe2(p, O_CLOEXEC), 0);
    dup2(p[1], STDOUT_FILENO);
    close(p[0]);
    close(p[1]);
}

static void child_writes(const char *how) {
    rt_fd out;
    break_stdout();
    if (strcmp(how, "notified") == 0) rt_signal_notify(SIGPIPE);
    if (strcmp(how, "other") == 0) {
        rt_fd r, w;
        if (!open_pipe(&r, &w) || rt_fd_close(&r)) _exit(1);
        _exit(rt_fd_write(&w, "x", 1) == -EPIPE ? 42 : 2);
    }
    if (strcmp(how, "file") == 0) {
        int p[2];
        if (pipe2(p, O_CLOEXEC) || close(p[0]) || rt_file_init(&out, p[1])) _exit(1);
        _exit(rt_fd_write(&out, "x", 1) == -EPIPE ? 42 : 2);
    }
    if (strcmp(how, "stdio") == 0) {
        printf("hello\n");
        fflush(stdout);
        _exit(3);
    }
    if (rt_file_init(&out, STDOUT_FILENO)) _exit(4);
    _exit(rt_fd_write(&out, "x", 1) == -EPIPE ? 42 : 5);
}

static void child_g(void *arg) {
    child_writes(arg);
}

static void a_broken_stdout_ends_the_program(void **state) {
    (void)state;
    char said[512];
    int status = run_child("stdout", said, sizeof said);
    if (status < 0 || !WIFSIGNALED(status) || WTERMSIG(status) != SIGPIPE)
        fail_msg("status %#x, said: %s", (unsigned)status, said);
    status = run_child("stdio", said, sizeof said);
    if (status < 0 || !WIFSIGNALED(status) || WTERMSIG(status) != SIGPIPE)
        fail_msg("stdio: status %#x, said: %s", (unsigned)status, said);
    assert_child_exits("other", 42, said, sizeof said);
    assert_child_exits("file", 42, said, sizeof said);
    assert_child_exits("notified", 42, said, sizeof said);
}

int main(void) {
    char *child = getenv("RT_TEST_CHILD");
    if (child) rt_main(&(rt_options){.procs = test_procs()}, child_g, child);
    const struct CMUnitTest tests[] = {
        in_g_test(a_deadline_in_the_past_answers_at_once),
        in_g_test(fluctuating_deadlines_are_never_early),
        in_g_test(a_deadline_moved_in_a_wait_holds),
        in_g_test(a_queue_of_readers_times_out),
        in_g_test(a_timed_out_write_says_how_far_it_came),
        in_g_test(close_wakes_everybody),
        in_g_test(one_of_many_closers_closes),
        in_g_test(close_races_with_everything),
        in_g_test(writes_do_not_mix),
        in_g_test(many_readers_share_the_bytes),
        in_g_test(a_short_read_tells_of_tcp_only),
        in_g_test(one_side_is_shut),
        in_g_test(an_empty_read_waits_for_nothing),
        in_g_test(pieces_arrive_in_order),
        in_g_test(a_call_writes_a_gigabyte_at_most),
        in_g_test(errors_of_a_broken_connection),
        in_g_test(no_descriptor_blocks_or_is_inherited),
        cmocka_unit_test(a_broken_stdout_ends_the_program),
    };
    RUN_TESTS("fd", tests);
}
