/* netpoll and fd: Gs wait for descriptors and are woken by data, room, shut, kick, interrupt and the
 * end of a stream, each wait by what ends it and nothing else; what belongs to a former use of a
 * descriptor is dropped. */
#include "net.h"

static void errors_have_names(void **state) {
    (void)state;
    assert_string_equal(rt_strerror(RT_ETIMEOUT), "timeout");
    assert_string_equal(rt_strerror(RT_ECLOSED), "closed");
    assert_string_equal(rt_strerror(RT_ECANCELED), "canceled");
    assert_string_equal(rt_strerror(-EPIPE), strerror(EPIPE));
}

static void what_cannot_be_polled_is_refused(void *arg) {
    (void)arg;
    rt_fd f;
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    rt_stats before, after;
    rt_read_stats(&before);
    CHECK_EQ(rt_fd_init(&f, fd), -EPERM);
    rt_read_stats(&after);
    CHECK_EQ(after.fds, before.fds);
    close(fd);
}

/* ---- one G that waits ---- */

static char got[16];

static ssize_t read_some(rt_fd *f) {
    return rt_fd_read(f, got, sizeof got);
}

static void reader_waits_for_data(void *arg) {
    (void)arg;
    rt_fd a, b;
    one_call w;
    crowd c = {0};
    CHECK(open_pair(&a, &b));
    for (int i = 0; i < 10; i++) {
        start_call(&c, &w, &a, read_some);
        EXPECT_EQ(rt_fd_write(&b, "hello", 5), 5);
        crowd_wait(&c);
        CHECK_EQ(w.r, 5);
        CHECK_EQ(memcmp(got, "hello", 5), 0);
    }
    close_pair(&a, &b);
}

static void a_pipe_ends_with_0(void *arg) {
    (void)arg;
    int p[2];
    rt_fd f;
    one_call w;
    crowd c = {0};
    CHECK_EQ(pipe2(p, O_NONBLOCK | O_CLOEXEC), 0);
    CHECK_EQ(rt_fd_init(&f, p[0]), 0);
    start_call(&c, &w, &f, read_some);
    CHECK_EQ(write(p[1], "ab", 2), 2);
    crowd_wait(&c);
    CHECK_EQ(w.r, 2);
    start_call(&c, &w, &f, read_one);
    close(p[1]);
    crowd_wait(&c);
    CHECK_EQ(w.r, 0);
    CHECK_EQ(rt_fd_close(&f), 0);
}

static void writer_waits_for_room(void *arg) {
    (void)arg;
    rt_fd a, b;
    one_call w;
    crowd c = {0};
    CHECK(open_pair(&a, &b));
    fill(&a);
    start_call(&c, &w, &a, write_one);
    char buf[4096];
    while (!atomic_load(&w.ended)) {
        if (recv(b.fd, buf, sizeof buf, MSG_DONTWAIT) < 0) rt_sleep(MS);
    }
    crowd_wait(&c);
    CHECK_EQ(w.r, 1);
    close_pair(&a, &b);
}

enum { BULK = 4 << 20 };

static void write_bulk(void *arg) {
    unsigned char *data = malloc(BULK);
    for (size_t i = 0; i < BULK; i++)
        data[i] = (unsigned char)(i * 7 + i / 251);
    EXPECT_EQ(rt_fd_write(arg, data, BULK), BULK);
    free(data);
}

static void read_bulk(void *arg) {
    unsigned char buf[5000];
    for (size_t at = 0; at < BULK;) {
        ssize_t r = rt_fd_read(arg, buf, sizeof buf);
        CHECK(r > 0);
        for (ssize_t i = 0; i < r; i++, at++)
            if (buf[i] != (unsigned char)(at * 7 + at / 251)) CHECK_EQ(at, -1);
    }
}

static void both_directions_are_independent(void *arg) {
    (void)arg;
    rt_fd a, b;
    crowd c = {0};
    CHECK(open_pair(&a, &b));
    crowd_go(&c, write_bulk, &a);
    crowd_go(&c, write_bulk, &b);
    crowd_go(&c, read_bulk, &a);
    crowd_go(&c, read_bulk, &b);
    crowd_wait(&c);
    close_pair(&a, &b);
}

/* ---- shut, kick, interrupt ---- */

static void shut_wakes_reader_and_writer(void *arg) {
    (void)arg;
    rt_fd a, b;
    one_call r, w;
    crowd c = {0};
    char buf[8];
    CHECK(open_pair(&a, &b));
    fill(&a);
    start_call(&c, &r, &a, read_one);
    start_call(&c, &w, &a, write_one);
    rt_pd_shut(a.pd);
    crowd_wait(&c);
    CHECK_EQ(r.r, RT_ECLOSED);
    CHECK_EQ(w.r, RT_ECLOSED);
    CHECK_EQ(rt_fd_read(&a, buf, 8), RT_ECLOSED); /* and from now on */
    CHECK_EQ(rt_fd_write(&a, buf, 8), RT_ECLOSED);
    CHECK_EQ(rt_pd_wait(a.pd, RT_R, RT_WAIT_READ), RT_ECLOSED);
    rt_pd_set_deadline(a.pd, RT_R, 1); /* shut comes before timeout */
    CHECK_EQ(rt_fd_read(&a, buf, 8), RT_ECLOSED);
    close_pair(&a, &b);
    CHECK_EQ(rt_fd_close(&a), RT_ECLOSED);
    CHECK_EQ(rt_fd_read(&a, buf, 8), RT_ECLOSED);
    CHECK_EQ(rt_fd_write(&a, buf, 8), RT_ECLOSED);
    CHECK_EQ(rt_fd_accept(&a), RT_ECLOSED);
}

static ssize_t wait_for_kick(rt_fd *f) {
    return rt_pd_wait(f->pd, RT_R, RT_WAIT_OTHER);
}

static void a_kick_ends_one_wait(void *arg) {
    (void)arg;
    rt_fd a, b;
    crowd c = {0};
    CHECK(open_pair(&a, &b));
    for (int i = 0; i < 20; i++) {
        one_call w;
        if (i % 2) rt_pd_kick(a.pd, RT_R); /* before the wait: kept */
        go_call(&c, &w, &a, wait_for_kick);
        if (i % 2 == 0) {
            EXPECT_SOON(atomic_load(&w.began));
            rt_sleep(MS);
            EXPECT(!atomic_load(&w.ended));
            rt_pd_kick(a.pd, RT_R);
        }
        crowd_wait(&c);
        CHECK_EQ(w.r, 0);
    }
    close_pair(&a, &b);
}

static ssize_t wait_interruptibly(rt_fd *f) {
    int r = rt_pd_wait(f->pd, RT_R, RT_WAIT_READ);
    rt_set_deadline(rt_self(), 0);
    return r;
}

static void an_interrupt_ends_a_wait_for_a_descriptor(void *arg) {
    (void)arg;
    rt_fd a, b;
    crowd c = {0};
    CHECK(open_pair(&a, &b));
    for (int i = 0; i < 20; i++) {
        one_call w;
        rt_g *g = go_call(&c, &w, &a, wait_interruptibly);
        EXPECT_SOON(rt_interrupt(g, RT_CANCELED));
        crowd_wait(&c);
        CHECK_EQ(w.r, 0);
    }
    CHECK_EQ(rt_fd_write(&b, "x", 1), 1); /* the descriptor has not suffered */
    char buf[8];
    CHECK_EQ(rt_fd_read(&a, buf, 8), 1);
    close_pair(&a, &b);
}

/* ---- former uses ---- */

static uint64_t tag_of_use(rt_pd *pd, uint32_t use) {
    return (uint64_t)(uintptr_t)pd << 16 | use;
}

static void an_event_of_a_former_use_is_dropped(void *arg) {
    (void)arg;
    rt_fd a, b;
    CHECK(open_pair(&a, &b));
    rt_pd *pd = b.pd;
    g_list l = {0};
    uint32_t use = 0; /* which of all tags is the live one: it tells of an end */
    for (; use < 0x10000 && !rt_pd_hup(pd); use++)
        netpoll_event(tag_of_use(pd, use), false, false, true, false, &l);
    CHECK(rt_pd_hup(pd));
    use--;
    close_pair(&a, &b);

    CHECK(open_pair(&b, &a));
    CHECK(b.pd == pd);
    CHECK(!rt_pd_hup(pd));
    netpoll_event(tag_of_use(pd, use), true, true, true, true, &l);
    CHECK(!rt_pd_hup(pd));
    rt_pd_set_deadline(pd, RT_R, rt_nanotime() + 20 * MS);
    CHECK_EQ(rt_pd_wait(pd, RT_R, RT_WAIT_READ), RT_ETIMEOUT); /* it was not made ready either */
    netpoll_event(tag_of_use(pd, (use + 1) & 0xffff), true, false, true, false, &l);
    CHECK(rt_pd_hup(pd));
    CHECK(l.head == NULL);
    close_pair(&a, &b);
}

/* ---- the end of a stream ---- */

/* Reads as one does who knows that a short read has drained the socket. */
static ssize_t read_without_second_tries(rt_fd *f, size_t at_once) {
    ssize_t total = 0;
    char buf[4096];
    for (;;) {
        ssize_t r = read(f->fd, buf, at_once);
        if (r == 0) return total;
        if (r < 0 && errno != EAGAIN) return -errno;
        if (r > 0) total += r;
        if (r == (ssize_t)at_once) continue;
        int err = rt_pd_wait(f->pd, RT_R, RT_WAIT_READ);
        if (err) return err;
    }
}

typedef struct ending {
    rt_fd f;
    ssize_t got;
} ending;

static void read_ending(void *arg) {
    ending *e = arg;
    e->got = read_without_second_tries(&e->f, 1000);
}

static void data_and_end_in_one_event_are_both_seen(void *arg) {
    (void)arg;
    char data[1500] = {0};
    for (int i = 0; i < 60; i++) {
        ending e = {.got = -1};
        int peer;
        crowd c = {0};
        CHECK(open_tcp_to(&e.f, &peer));
        rt_pd_set_deadline(e.f.pd, RT_R, rt_nanotime() + PATIENCE_NS);
        if (i % 3 == 0) { /* before the reader looks */
            EXPECT_EQ(send(peer, data, sizeof data, MSG_NOSIGNAL), (ssize_t)sizeof data);
            close(peer);
        }
        crowd_go(&c, read_ending, &e);
        if (i % 3 == 1) rt_sleep(MS); /* while it waits */
        if (i % 3 != 0) {
            EXPECT_EQ(send(peer, data, sizeof data, MSG_NOSIGNAL), (ssize_t)sizeof data);
            close(peer);
        }
        crowd_wait(&c);
        CHECK_EQ(e.got, (ssize_t)sizeof data);
        CHECK_EQ(rt_fd_close(&e.f), 0);
    }
}

static void a_reset_is_an_error(void *arg) {
    (void)arg;
    rt_fd f;
    int peer;
    one_call w;
    crowd c = {0};
    CHECK(open_tcp_to(&f, &peer));
    start_call(&c, &w, &f, read_one);
    struct linger hard = {.l_onoff = 1};
    CHECK_EQ(setsockopt(peer, SOL_SOCKET, SO_LINGER, &hard, sizeof hard), 0);
    close(peer);
    crowd_wait(&c);
    CHECK_EQ(w.r, -ECONNRESET);
    CHECK_EQ(rt_fd_close(&f), 0);
}

static _Atomic int turns;

static void take_turns(void *arg) {
    int64_t *until = arg;
    while (rt_nanotime() < *until) {
        atomic_fetch_add(&turns, 1);
        rt_sleep(MS);
    }
}

/* A socket for datagrams, connected to a port where nobody is. */
static void open_udp_to_nobody(rt_fd *f) {
    int fd = rt_socket(AF_INET, SOCK_DGRAM, 0), other = rt_socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in sa = loopback(0);
    CHECK_EQ(bind(other, (struct sockaddr *)&sa, sizeof sa), 0);
    sa = loopback(port_of(other));
    close(other);
    CHECK_EQ(rt_fd_init(f, fd), 0);
    CHECK_EQ(rt_fd_connect(f, (struct sockaddr *)&sa, sizeof sa), 0);
}

/* EPOLLERR alone, without data or end: the reader that waits is woken, and its next call to the kernel says why. */
static void an_error_ends_a_wait(void *arg) {
    (void)arg;
    rt_fd f;
    one_call w;
    crowd c = {0};
    open_udp_to_nobody(&f);
    rt_pd_set_deadline(f.pd, RT_R, rt_nanotime() + PATIENCE_NS);
    start_call(&c, &w, &f, read_some);
    CHECK_EQ(rt_fd_write(&f, "x", 1), 1);
    crowd_wait(&c);
    CHECK_EQ(w.r, -ECONNREFUSED);
    CHECK_EQ(rt_fd_close(&f), 0);
}

/* Of reader and writer one gets the error, the other the end that comes with it. */
static void a_reset_ends_both_waits(void *arg) {
    (void)arg;
    rt_fd f;
    int peer;
    one_call r, w;
    crowd c = {0};
    CHECK(open_tcp_to(&f, &peer));
    fill_for_good(&f);
    rt_pd_set_deadline(f.pd, RT_R, rt_nanotime() + PATIENCE_NS);
    rt_pd_set_deadline(f.pd, RT_W, rt_nanotime() + PATIENCE_NS);
    start_call(&c, &r, &f, read_one);
    start_call(&c, &w, &f, write_one);
    close(peer); /* with bytes unread */
    crowd_wait(&c);
    CHECK((r.r == -ECONNRESET && w.r == -EPIPE) || (r.r == 0 && w.r == -ECONNRESET));
    CHECK_EQ(rt_fd_close(&f), 0);
}

/* A datagram's error is no end of the stream: after it a reader waits as before. */
static void an_error_is_not_an_end(void *arg) {
    (void)arg;
    rt_fd f;
    char buf[8];
    crowd c = {0};
    open_udp_to_nobody(&f);
    CHECK_EQ(rt_fd_write(&f, "x", 1), 1);
    rt_sleep(2 * MS); /* the poller sees the error before the reader does */
    rt_pd_set_deadline(f.pd, RT_R, rt_nanotime() + PATIENCE_NS);
    CHECK_EQ(rt_fd_read(&f, buf, 8), -ECONNREFUSED);
    CHECK(!rt_pd_hup(f.pd));
    int64_t until = rt_nanotime() + 50 * MS;
    rt_pd_set_deadline(f.pd, RT_R, until);
    atomic_store(&turns, 0);
    crowd_go(&c, take_turns, &until);
    CHECK_EQ(rt_fd_read(&f, buf, 8), RT_ETIMEOUT);
    crowd_wait(&c);
    CHECK(atomic_load(&turns) > 1); /* with one P: it did not spin */
    CHECK_EQ(rt_fd_close(&f), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_have_names),
        in_g_test(what_cannot_be_polled_is_refused),
        in_g_test(reader_waits_for_data),
        in_g_test(a_pipe_ends_with_0),
        in_g_test(writer_waits_for_room),
        in_g_test(both_directions_are_independent),
        in_g_test(shut_wakes_reader_and_writer),
        in_g_test(a_kick_ends_one_wait),
        in_g_test(an_interrupt_ends_a_wait_for_a_descriptor),
        in_g_test(an_event_of_a_former_use_is_dropped),
        in_g_test(data_and_end_in_one_event_are_both_seen),
        in_g_test(a_reset_is_an_error),
        in_g_test(an_error_ends_a_wait),
        in_g_test(a_reset_ends_both_waits),
        in_g_test(an_error_is_not_an_end),
    };
    RUN_TESTS("netpoll", tests);
}
