/* netpoll and fd: Gs wait for descriptors and are woken by data, room, deadlines, shut and kick, each
 * wait by what ends it and nothing else; no edge is lost; what belongs to a former use of a
 * descriptor is dropped; connections by the thousand. */
#include "harness.h"

#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>

/* ---- descriptors ---- */

static struct sockaddr_in loopback(int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

static int port_of(int fd) {
    struct sockaddr_in a;
    socklen_t len = sizeof a;
    return getsockname(fd, (struct sockaddr *)&a, &len) < 0 ? -errno : ntohs(a.sin_port);
}

static bool open_pair(rt_fd *a, rt_fd *b) {
    int s[2];
    return EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, s), 0) &&
           EXPECT_EQ(rt_fd_init(a, s[0]), 0) && EXPECT_EQ(rt_fd_init(b, s[1]), 0);
}

/* A TCP connection; b is a bare, blocking descriptor. */
static bool open_tcp(rt_fd *a, int *b) {
    struct sockaddr_in sa = loopback(0);
    int l = rt_listen((struct sockaddr *)&sa, sizeof sa, 16);
    if (!EXPECT(l >= 0)) return false;
    sa = loopback(port_of(l));
    *b = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT_EQ(connect(*b, (struct sockaddr *)&sa, sizeof sa), 0);
    int c = rt_accept4(l, NULL, NULL);
    close(l);
    return EXPECT(c >= 0) && EXPECT_EQ(rt_fd_init(a, c), 0);
}

static void close_pair(rt_fd *a, rt_fd *b) {
    EXPECT_EQ(rt_fd_close(a), 0);
    EXPECT_EQ(rt_fd_close(b), 0);
}

/* Writes until the socket takes no more. */
static void fill(rt_fd *f) {
    static const char zeros[4096];
    while (send(f->fd, zeros, sizeof zeros, MSG_NOSIGNAL | MSG_DONTWAIT) > 0)
        ;
}

/* ---- one G that waits ---- */

typedef struct waiter {
    rt_fd *f;
    int mode;
    _Atomic bool began, ended;
    int64_t at_ns;
    ssize_t r;
    char b[16];
} waiter;

static void wait_once(void *arg) {
    waiter *w = arg;
    atomic_store(&w->began, true);
    w->r = w->mode == RT_R ? rt_fd_read(w->f, w->b, sizeof w->b) : rt_fd_write(w->f, "x", 1);
    w->at_ns = rt_nanotime();
    atomic_store(&w->ended, true);
}

/* Starts it and gives it time to wait. */
static void start_waiter(crowd *c, waiter *w, rt_fd *f, int mode) {
    *w = (waiter){.f = f, .mode = mode};
    crowd_go(c, wait_once, w);
    EXPECT_SOON(atomic_load(&w->began));
    rt_sleep(5 * MS);
    EXPECT(!atomic_load(&w->ended));
}

static void reader_waits_for_data(void *arg) {
    (void)arg;
    rt_fd a, b;
    waiter w;
    crowd c = {0};
    CHECK(open_pair(&a, &b));
    for (int i = 0; i < 10; i++) {
        start_waiter(&c, &w, &a, RT_R);
        EXPECT_EQ(rt_fd_write(&b, "hello", 5), 5);
        crowd_wait(&c);
        CHECK_EQ(w.r, 5);
        CHECK_EQ(memcmp(w.b, "hello", 5), 0);
    }
    close_pair(&a, &b);
}

static void a_pipe_ends_with_0(void *arg) {
    (void)arg;
    int p[2];
    rt_fd f;
    waiter w;
    crowd c = {0};
    CHECK_EQ(pipe2(p, O_NONBLOCK | O_CLOEXEC), 0);
    CHECK_EQ(rt_fd_init(&f, p[0]), 0);
    start_waiter(&c, &w, &f, RT_R);
    CHECK_EQ(write(p[1], "ab", 2), 2);
    crowd_wait(&c);
    CHECK_EQ(w.r, 2);
    start_waiter(&c, &w, &f, RT_R);
    close(p[1]);
    crowd_wait(&c);
    CHECK_EQ(w.r, 0);
    CHECK_EQ(rt_fd_close(&f), 0);
}

static void writer_waits_for_room(void *arg) {
    (void)arg;
    rt_fd a, b;
    waiter w;
    crowd c = {0};
    CHECK(open_pair(&a, &b));
    fill(&a);
    start_waiter(&c, &w, &a, RT_W);
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

/* ---- deadlines ---- */

static void a_deadline_in_the_past_fails_at_once(void *arg) {
    (void)arg;
    rt_fd a, b;
    char buf[8];
    CHECK(open_pair(&a, &b));
    CHECK_EQ(rt_fd_write(&b, "data", 4), 4);
    rt_pd_set_deadline(a.pd, RT_R, rt_nanotime() - 1);
    rt_pd_set_deadline(a.pd, RT_W, 1);
    CHECK_EQ(rt_fd_read(&a, buf, 8), RT_ETIMEOUT); /* though there is data */
    CHECK_EQ(rt_fd_write(&a, "x", 1), RT_ETIMEOUT);
    CHECK_EQ(rt_pd_wait(a.pd, RT_R, RT_WAIT_READ), RT_ETIMEOUT);
    rt_pd_set_deadline(a.pd, RT_R, 0);
    rt_pd_set_deadline(a.pd, RT_W, rt_nanotime() + 3600 * SEC);
    CHECK_EQ(rt_fd_read(&a, buf, 8), 4);
    CHECK_EQ(rt_fd_write(&a, "x", 1), 1);
    close_pair(&a, &b);
}

static void deadlines_end_waits_and_not_early(void *arg) {
    (void)arg;
    rt_fd a, b;
    char buf[8];
    CHECK(open_pair(&a, &b));
    fill(&a);
    for (int i = 0; i < 10; i++) {
        int64_t until = rt_nanotime() + i * MS;
        rt_pd_set_deadline(a.pd, RT_R, until);
        CHECK_EQ(rt_fd_read(&a, buf, 8), RT_ETIMEOUT);
        CHECK(rt_nanotime() >= until);
        until = rt_nanotime() + i * MS;
        rt_pd_set_deadline(a.pd, RT_W, until);
        CHECK_EQ(rt_fd_write(&a, buf, 1), RT_ETIMEOUT);
        CHECK(rt_nanotime() >= until);
    }
    close_pair(&a, &b);
}

static void a_deadline_moved_earlier_ends_the_wait(void *arg) {
    (void)arg;
    rt_fd a, b;
    waiter w;
    crowd c = {0};
    CHECK(open_pair(&a, &b));
    rt_pd_set_deadline(a.pd, RT_R, rt_nanotime() + 3600 * SEC);
    start_waiter(&c, &w, &a, RT_R);
    rt_pd_set_deadline(a.pd, RT_R, rt_nanotime() + 5 * MS);
    crowd_wait(&c);
    CHECK_EQ(w.r, RT_ETIMEOUT);
    rt_pd_set_deadline(a.pd, RT_R, 0); /* none, then one in the past */
    start_waiter(&c, &w, &a, RT_R);
    rt_pd_set_deadline(a.pd, RT_R, 1);
    crowd_wait(&c);
    CHECK_EQ(w.r, RT_ETIMEOUT);
    close_pair(&a, &b);
}

static void a_deadline_moved_later_holds_later(void *arg) {
    (void)arg;
    rt_fd a, b;
    waiter w;
    crowd c = {0};
    CHECK(open_pair(&a, &b));
    int64_t start = rt_nanotime();
    rt_pd_set_deadline(a.pd, RT_R, start + 200 * MS);
    start_waiter(&c, &w, &a, RT_R);
    rt_pd_set_deadline(a.pd, RT_R, start + 300 * MS);
    crowd_wait(&c);
    CHECK_EQ(w.r, RT_ETIMEOUT);
    CHECK(w.at_ns >= start + 300 * MS);
    close_pair(&a, &b);
}

static void a_cleared_deadline_does_not_come(void *arg) {
    (void)arg;
    rt_fd a, b;
    waiter w;
    crowd c = {0};
    CHECK(open_pair(&a, &b));
    int64_t until = rt_nanotime() + 100 * MS;
    rt_pd_set_deadline(a.pd, RT_R, until);
    start_waiter(&c, &w, &a, RT_R);
    rt_pd_set_deadline(a.pd, RT_R, 0);
    while (rt_nanotime() < until + 20 * MS)
        rt_sleep(10 * MS);
    CHECK(!atomic_load(&w.ended));
    CHECK_EQ(rt_fd_write(&b, "x", 1), 1);
    crowd_wait(&c);
    CHECK_EQ(w.r, 1);
    close_pair(&a, &b);
}

/* The timer of the former use stands in a heap when the pollDesc is used again. */
static void a_deadline_ends_with_its_descriptor(void *arg) {
    (void)arg;
    rt_fd a, b;
    waiter w;
    crowd c = {0};
    CHECK(open_pair(&a, &b));
    rt_pd *pd = b.pd;
    int64_t until = rt_nanotime() + 50 * MS;
    rt_pd_set_deadline(b.pd, RT_R, until);
    close_pair(&a, &b);
    CHECK(open_pair(&b, &a));
    CHECK(b.pd == pd);
    start_waiter(&c, &w, &b, RT_R);
    while (rt_nanotime() < until + 20 * MS)
        rt_sleep(10 * MS);
    CHECK(!atomic_load(&w.ended));
    CHECK_EQ(rt_fd_write(&a, "x", 1), 1);
    crowd_wait(&c);
    CHECK_EQ(w.r, 1);
    close_pair(&a, &b);
}

/* Event and deadline both come before the G can run: whichever it is told of, it hears of the data
 * at its next wait at the latest. */
static void a_timeout_does_not_eat_the_edge(void *arg) {
    (void)arg;
    rt_fd a, b;
    CHECK(open_pair(&a, &b));
    for (int i = 0; i < 20; i++) {
        char buf[8];
        rt_pd_wait(a.pd, RT_W, RT_WAIT_WRITE); /* uses up the first edge of the write side */
        rt_pd_set_deadline(a.pd, RT_R, rt_nanotime() + 2 * MS);
        CHECK_EQ(write(b.fd, "x", 1), 1);
        if (i % 2) rt_sleep(MS / 2); /* the event first, as READY */
        spin_for(3 * MS);
        int r = rt_pd_wait(a.pd, RT_R, RT_WAIT_READ);
        CHECK(r == 0 || r == RT_ETIMEOUT);
        rt_pd_set_deadline(a.pd, RT_R, 0);
        rt_pd_set_deadline(a.pd, RT_R, rt_nanotime() + 5 * SEC);
        if (r == RT_ETIMEOUT) CHECK_EQ(rt_pd_wait(a.pd, RT_R, RT_WAIT_READ), 0);
        CHECK_EQ(read(a.fd, buf, 8), 1);
        rt_pd_set_deadline(a.pd, RT_R, 0);
    }
    close_pair(&a, &b);
}

static void wait_for_edge(void *arg) {
    waiter *w = arg;
    atomic_store(&w->began, true);
    w->r = rt_pd_wait(w->f->pd, RT_R, RT_WAIT_READ);
    if (w->r == RT_ETIMEOUT) {
        rt_pd_set_deadline(w->f->pd, RT_R, 0);
        rt_pd_set_deadline(w->f->pd, RT_R, rt_nanotime() + 5 * SEC);
        w->r = rt_pd_wait(w->f->pd, RT_R, RT_WAIT_READ);
    }
    atomic_store(&w->ended, true);
}

/* The same for a G that the event has taken out already, but that comes to run too late. */
static void a_deadline_on_the_way_to_the_p_does_not_either(void *arg) {
    (void)arg;
    for (int i = 0; i < 20; i++) {
        rt_fd a, b;
        crowd c = {0};
        CHECK(open_pair(&a, &b));
        waiter w = {.f = &a, .mode = RT_R};
        rt_pd_set_deadline(a.pd, RT_R, rt_nanotime() + 6 * MS);
        crowd_go(&c, wait_for_edge, &w);
        EXPECT_SOON(atomic_load(&w.began));
        CHECK_EQ(write(b.fd, "x", 1), 1);
        g_list l = {0};
        for (int k = 0; k < rt_procs(); k++)
            netpoll_p(&sched.ps[k], 0, &l); /* it is ready now */
        spin_for(8 * MS);
        inject(rt_getm(), &l);
        crowd_wait(&c);
        CHECK_EQ(w.r, 0);
        close_pair(&a, &b);
    }
}

/* ---- shut, kick, interrupt ---- */

static void shut_wakes_reader_and_writer(void *arg) {
    (void)arg;
    rt_fd a, b;
    waiter r, w;
    crowd c = {0};
    char buf[8];
    CHECK(open_pair(&a, &b));
    fill(&a);
    start_waiter(&c, &r, &a, RT_R);
    start_waiter(&c, &w, &a, RT_W);
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

static void wait_for_kick(void *arg) {
    waiter *w = arg;
    atomic_store(&w->began, true);
    w->r = rt_pd_wait(w->f->pd, w->mode, RT_WAIT_OTHER);
    atomic_store(&w->ended, true);
}

static void a_kick_ends_one_wait(void *arg) {
    (void)arg;
    rt_fd a, b;
    crowd c = {0};
    CHECK(open_pair(&a, &b));
    for (int i = 0; i < 20; i++) {
        waiter w = {.f = &a, .mode = RT_R, .r = -1};
        if (i % 2) rt_pd_kick(a.pd, RT_R); /* before the wait: kept */
        crowd_go(&c, wait_for_kick, &w);
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

static void wait_interruptibly(void *arg) {
    waiter *w = arg;
    atomic_store(&w->began, true);
    w->r = rt_pd_wait(w->f->pd, RT_R, RT_WAIT_READ);
    atomic_store(&w->ended, true);
    rt_set_deadline(rt_self(), 0);
}

static void an_interrupt_ends_a_wait_for_a_descriptor(void *arg) {
    (void)arg;
    rt_fd a, b;
    crowd c = {0};
    CHECK(open_pair(&a, &b));
    for (int i = 0; i < 20; i++) {
        waiter w = {.f = &a, .mode = RT_R};
        rt_g *g = crowd_go(&c, wait_interruptibly, &w);
        EXPECT_SOON(rt_interrupt(g, RT_CANCELED));
        crowd_wait(&c);
        CHECK_EQ(w.r, 0);
    }
    CHECK_EQ(rt_fd_write(&b, "x", 1), 1); /* the descriptor has not suffered */
    char buf[8];
    CHECK_EQ(rt_fd_read(&a, buf, 8), 1);
    close_pair(&a, &b);
}

static void wait_with_own_deadline(void *arg) {
    waiter *w = arg;
    int64_t until = rt_nanotime() + 5 * MS;
    rt_set_deadline(rt_self(), until);
    do
        w->r = rt_pd_wait(w->f->pd, RT_R, RT_WAIT_READ);
    while (w->r == 0 && rt_nanotime() < until);
    EXPECT(rt_nanotime() >= until);
    rt_set_deadline(rt_self(), 0);
}

static void a_gs_own_deadline_ends_a_wait_for_a_descriptor(void *arg) {
    (void)arg;
    rt_fd a, b;
    crowd c = {0};
    CHECK(open_pair(&a, &b));
    for (int i = 0; i < 10; i++) {
        waiter w = {.f = &a, .mode = RT_R};
        crowd_go(&c, wait_with_own_deadline, &w);
        crowd_wait(&c);
        CHECK(w.r == 0 || w.r == RT_ETIMEOUT);
    }
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

typedef struct contest {
    rt_fd f;
    _Atomic bool over;
    uint64_t seed;
} contest;

static void move_deadlines(void *arg) {
    contest *k = arg;
    uint64_t seed = k->seed;
    while (!atomic_load(&k->over)) {
        int64_t when = (int64_t)random_below(&seed, 3) * (int64_t)random_below(&seed, MS);
        rt_pd_set_deadline(k->f.pd, random_below(&seed, 2) ? RT_R : RT_W,
                           when ? rt_nanotime() + when : 0);
        rt_yield();
    }
}

static void read_to_the_end(void *arg) {
    contest *k = arg;
    char b[64];
    for (;;) {
        ssize_t r = rt_fd_read(&k->f, b, sizeof b);
        if (r == RT_ECLOSED) return;
        if (r == RT_ETIMEOUT)
            rt_yield();
        else if (!EXPECT(r > 0))
            return;
    }
}

static void write_to_the_end(void *arg) {
    contest *k = arg;
    char b[512] = {0};
    for (;;) {
        ssize_t r = rt_fd_write(&k->f, b, sizeof b);
        if (r == RT_ECLOSED) return;
        if (r == RT_ETIMEOUT)
            rt_yield();
        else if (!EXPECT(r > 0))
            return;
    }
}

static void deadlines_data_and_shut_race(void *arg) {
    uint64_t seed = (uint64_t)(uintptr_t)arg;
    for (int64_t end = rt_nanotime() + 400 * MS; rt_nanotime() < end;) {
        contest k = {.seed = random_next(&seed)};
        rt_fd b;
        crowd users = {0}, movers = {0};
        if (!open_pair(&k.f, &b)) return;
        crowd_go(&users, read_to_the_end, &k);
        crowd_go(&users, write_to_the_end, &k);
        crowd_go(&movers, move_deadlines, &k);
        for (uint64_t n = random_below(&seed, 20); n > 0; n--) {
            char buf[300];
            if (random_below(&seed, 2))
                EXPECT(send(b.fd, buf, random_below(&seed, 64), MSG_DONTWAIT) >= 0 ||
                       errno == EAGAIN);
            else
                recv(b.fd, buf, sizeof buf, MSG_DONTWAIT);
            if (random_below(&seed, 3) == 0) rt_sleep((int64_t)random_below(&seed, 200000));
        }
        rt_pd_shut(k.f.pd);
        crowd_wait(&users);
        atomic_store(&k.over, true);
        crowd_wait(&movers);
        close_pair(&k.f, &b); /* the next ones use the same pollDescs */
    }
}

static void ends_race_with_each_other(void *arg) {
    (void)arg;
    crowd c = {0};
    for (uintptr_t i = 0; i < 6; i++)
        crowd_go(&c, deadlines_data_and_shut_race, (void *)i);
    crowd_wait(&c);
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
        CHECK(open_tcp(&e.f, &peer));
        rt_pd_set_deadline(e.f.pd, RT_R, rt_nanotime() + 10 * SEC);
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
    waiter w;
    crowd c = {0};
    CHECK(open_tcp(&f, &peer));
    start_waiter(&c, &w, &f, RT_R);
    struct linger hard = {.l_onoff = 1};
    CHECK_EQ(setsockopt(peer, SOL_SOCKET, SO_LINGER, &hard, sizeof hard), 0);
    close(peer);
    crowd_wait(&c);
    CHECK_EQ(w.r, -ECONNRESET);
    CHECK_EQ(rt_fd_close(&f), 0);
}

/* ---- accept and connect ---- */

typedef struct server {
    rt_fd l;
    int port;
    crowd c;
    _Atomic int accepted, open;
} server;

typedef struct conn {
    server *s;
    rt_fd f;
} conn;

static void echo(void *arg) {
    conn *k = arg;
    char buf[256];
    for (;;) {
        ssize_t r = rt_fd_read(&k->f, buf, sizeof buf);
        if (r <= 0) {
            EXPECT_EQ(r, 0);
            break;
        }
        EXPECT_EQ(rt_fd_write(&k->f, buf, (size_t)r), r);
    }
    EXPECT_EQ(rt_fd_close(&k->f), 0);
    free(k);
}

static void accept_all(void *arg) {
    server *s = arg;
    for (;;) {
        int fd = rt_fd_accept(&s->l);
        if (fd == RT_ECLOSED) return;
        CHECK(fd >= 0);
        atomic_fetch_add(&s->accepted, 1);
        conn *k = malloc(sizeof *k);
        *k = (conn){.s = s};
        CHECK_EQ(rt_fd_init(&k->f, fd), 0);
        crowd_go(&s->c, echo, k);
    }
}

static bool serve(server *s) {
    memset(s, 0, sizeof *s);
    struct sockaddr_in sa = loopback(0);
    int fd = rt_listen((struct sockaddr *)&sa, sizeof sa, 4096);
    if (!EXPECT(fd >= 0) || !EXPECT_EQ(rt_fd_init(&s->l, fd), 0)) return false;
    s->port = port_of(fd);
    crowd_go(&s->c, accept_all, s);
    return true;
}

static void stop_serving(server *s) {
    rt_pd_shut(s->l.pd);
    crowd_wait(&s->c);
    EXPECT_EQ(rt_fd_close(&s->l), 0);
}

/* 0 or an error, as rt_fd_connect. pause_ns: between registering and connecting; a poller then sees
 * a socket that is not connected, which counts as hung up. */
static int dial_slowly(rt_fd *f, int port, int64_t pause_ns) {
    int fd = rt_socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0) return fd;
    int err = rt_fd_init(f, fd);
    if (err) return err;
    if (pause_ns) rt_sleep(pause_ns);
    struct sockaddr_in sa = loopback(port);
    return rt_fd_connect(f, (struct sockaddr *)&sa, sizeof sa);
}

static int dial(rt_fd *f, int port) {
    return dial_slowly(f, port, 0);
}

static void one_connects_and_talks(void *arg) {
    (void)arg;
    static server s;
    CHECK(serve(&s));
    for (int i = 0; i < 20; i++) {
        rt_fd f;
        char buf[8];
        CHECK_EQ(dial_slowly(&f, s.port, i % 2 * MS), 0);
        for (int k = 0; k < 5; k++) {
            CHECK_EQ(rt_fd_write(&f, "ping", 4), 4);
            CHECK_EQ(rt_fd_read(&f, buf, 8), 4); /* with one P: only if this G waits */
        }
        CHECK(!rt_pd_hup(f.pd));
        CHECK_EQ(rt_fd_close(&f), 0);
    }
    stop_serving(&s);
    CHECK_EQ(atomic_load(&s.accepted), 20);
}

static void a_refused_connection_says_so(void *arg) {
    (void)arg;
    struct sockaddr_in sa = loopback(0);
    int l = rt_listen((struct sockaddr *)&sa, sizeof sa, 1);
    CHECK(l >= 0);
    int port = port_of(l);
    close(l);
    for (int i = 0; i < 5; i++) {
        rt_fd f;
        CHECK_EQ(dial_slowly(&f, port, i % 2 * MS), -ECONNREFUSED);
        CHECK_EQ(rt_fd_close(&f), 0);
    }
}

static _Atomic int turns;

static void take_turns(void *arg) {
    int64_t *until = arg;
    while (rt_nanotime() < *until) {
        atomic_fetch_add(&turns, 1);
        rt_sleep(MS);
    }
}

/* A datagram's error is no end of the stream: after it a reader waits as before. */
static void an_error_is_not_an_end(void *arg) {
    (void)arg;
    rt_fd f;
    char buf[8];
    crowd c = {0};
    int fd = rt_socket(AF_INET, SOCK_DGRAM, 0), other = rt_socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in sa = loopback(0);
    CHECK_EQ(bind(other, (struct sockaddr *)&sa, sizeof sa), 0);
    sa = loopback(port_of(other));
    close(other);
    CHECK_EQ(rt_fd_init(&f, fd), 0);
    CHECK_EQ(rt_fd_connect(&f, (struct sockaddr *)&sa, sizeof sa), 0);
    CHECK_EQ(rt_fd_write(&f, "x", 1), 1);
    rt_sleep(2 * MS); /* the poller sees the error before the reader does */
    rt_pd_set_deadline(f.pd, RT_R, rt_nanotime() + 5 * SEC);
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

/* ---- all Ps and many connections ---- */

/* One G, so that most Ps have never run when descriptors are given to them. */
static void *write_one_each(void *arg) {
    int *fds = arg;
    for (int i = 0; i < 2 * test_procs(); i++) {
        usleep(5000);
        EXPECT_EQ(write(fds[i], "x", 1), 1);
    }
    return NULL;
}

static void descriptors_of_unused_ps_are_polled(void *arg) {
    (void)arg;
    rt_fd f[8];
    static int peer[8];
    for (int i = 0; i < 2 * rt_procs(); i++) {
        int s[2];
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, s), 0);
        CHECK_EQ(rt_fd_init(&f[i], s[0]), 0);
        peer[i] = s[1];
    }
    for (int i = 0; i < rt_procs(); i++) { /* they are spread evenly */
        rt_p_stats p;
        CHECK_EQ(rt_read_p_stats(i, &p), 0);
        EXPECT(p.fds >= 2);
    }
    pthread_t t = foreign(write_one_each, peer);
    for (int i = 0; i < 2 * rt_procs(); i++) {
        char b;
        EXPECT_EQ(rt_fd_read(&f[i], &b, 1), 1);
        EXPECT_EQ(rt_fd_close(&f[i]), 0);
    }
    join_foreign(t);
    for (int i = 0; i < 2 * rt_procs(); i++)
        close(peer[i]);
}

typedef struct shared_listener {
    int fd, p;
    _Atomic int *accepted;
    rt_pd *pd;
} shared_listener;

static void accept_shared(void *arg) {
    shared_listener *s = arg;
    for (;;) {
        int fd = rt_accept4(s->fd, NULL, NULL);
        if (fd >= 0) {
            atomic_fetch_add(s->accepted, 1);
            close(fd);
            continue;
        }
        CHECK_EQ(fd, -EAGAIN);
        int err = rt_pd_wait(s->pd, RT_R, RT_WAIT_ACCEPT);
        if (err == RT_ECLOSED) return;
        CHECK_EQ(err, 0);
    }
}

static void pollers_share_a_listener(void *arg) {
    (void)arg;
    struct sockaddr_in sa = loopback(0);
    int fd = rt_listen((struct sockaddr *)&sa, sizeof sa, 128);
    _Atomic int accepted = 0;
    shared_listener s[4];
    crowd c = {0};
    CHECK(fd >= 0);
    for (int i = 0; i < rt_procs(); i++) {
        int err;
        s[i] = (shared_listener){fd, i, &accepted, rt_pd_open_listener(fd, i, &err)};
        CHECK(s[i].pd != NULL);
        crowd_go(&c, accept_shared, &s[i]);
    }
    for (int i = 0; i < 50; i++) {
        rt_fd f;
        EXPECT_EQ(dial(&f, port_of(fd)), 0);
        EXPECT_EQ(rt_fd_close(&f), 0);
        if (i % 10 == 9) EXPECT_SOON(atomic_load(&accepted) == i + 1);
    }
    for (int i = 0; i < rt_procs(); i++)
        rt_pd_shut(s[i].pd);
    crowd_wait(&c);
    for (int i = 0; i < rt_procs(); i++)
        rt_pd_close(s[i].pd);
    close(fd);
}

static struct {
    server s;
    int n;
    _Atomic int connected, done;
} many;

static void talk(void *arg) {
    (void)arg;
    rt_fd f;
    if (!EXPECT_EQ(dial(&f, many.s.port), 0)) return;
    atomic_fetch_add(&many.connected, 1);
    EXPECT_SOON(atomic_load(&many.connected) == many.n); /* all are open at once */
    for (int i = 0; i < 3; i++) {
        char out[32], in[32];
        int n = snprintf(out, sizeof out, "%p %d", (void *)&f, i);
        EXPECT_EQ(rt_fd_write(&f, out, (size_t)n), n);
        int got = 0;
        while (got < n) {
            ssize_t r = rt_fd_read(&f, in + got, sizeof in - (size_t)got);
            if (!EXPECT(r > 0)) break;
            got += (int)r;
        }
        EXPECT(got == n && memcmp(in, out, (size_t)n) == 0);
    }
    EXPECT_EQ(rt_fd_close(&f), 0);
    atomic_fetch_add(&many.done, 1);
}

static void thousands_of_connections_echo(void *arg) {
    (void)arg;
    struct rlimit r;
    getrlimit(RLIMIT_NOFILE, &r);
    many.n = ROUNDS(2000);
    if (r.rlim_cur < (rlim_t)many.n * 2 + 100) many.n = (int)(r.rlim_cur - 100) / 2;
    atomic_store(&many.connected, 0);
    atomic_store(&many.done, 0);
    CHECK(serve(&many.s));
    crowd c = {0};
    rt_stats before, after;
    rt_read_stats(&before);
    for (int i = 0; i < many.n; i++)
        crowd_go(&c, talk, NULL);
    crowd_wait(&c);
    stop_serving(&many.s);
    CHECK_EQ(atomic_load(&many.done), many.n);
    CHECK_EQ(atomic_load(&many.s.accepted), many.n);
    rt_read_stats(&after);
    CHECK_EQ(after.fds, before.fds - 1); /* the listener is gone too */
}

static bool inherited[1024]; /* what this process was started with */

static void note_inherited(void) {
    for (int fd = 0; fd < 1024; fd++)
        inherited[fd] = fcntl(fd, F_GETFD) >= 0;
}

static void no_descriptor_goes_to_a_child(void *arg) {
    (void)arg;
    static server s;
    rt_fd f;
    CHECK(serve(&s));
    CHECK_EQ(dial(&f, s.port), 0);
    CHECK_EQ(rt_signal_notify(SIGUSR1), 0);
    EXPECT_SOON(atomic_load(&s.accepted) == 1);
    int seen = 0;
    for (int fd = 0; fd < 1024; fd++) {
        int flags = fcntl(fd, F_GETFD);
        if (flags < 0 || inherited[fd]) continue;
        seen++;
        EXPECT(flags & FD_CLOEXEC);
    }
    CHECK(seen >=
          2 * rt_procs() + 4); /* pollers with their eventfds, three sockets, the signals' */
    CHECK_EQ(rt_fd_close(&f), 0);
    stop_serving(&s);
}

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

/* Each poller is an epoll instance and an eventfd; nothing else is the runtime's own. */
static void the_pollers_know_their_descriptors(void *arg) {
    (void)arg;
    int own = 0;
    for (int fd = 0; fd < 256; fd++)
        own += rt_is_poll_descriptor(fd);
    CHECK(own == 2 * rt_procs());
    CHECK(!rt_is_poll_descriptor(STDERR_FILENO));
    CHECK(!rt_is_poll_descriptor(-1));
}

int main(void) {
    note_inherited();
    const struct CMUnitTest tests[] = {
        in_g_test(descriptors_of_unused_ps_are_polled), /* first: see there */
        cmocka_unit_test(errors_have_names),
        in_g_test(what_cannot_be_polled_is_refused),
        in_g_test(reader_waits_for_data),
        in_g_test(a_pipe_ends_with_0),
        in_g_test(writer_waits_for_room),
        in_g_test(both_directions_are_independent),
        in_g_test(a_deadline_in_the_past_fails_at_once),
        in_g_test(deadlines_end_waits_and_not_early),
        in_g_test(a_deadline_moved_earlier_ends_the_wait),
        in_g_test(a_deadline_moved_later_holds_later),
        in_g_test(a_cleared_deadline_does_not_come),
        in_g_test(a_deadline_ends_with_its_descriptor),
        in_g_test(a_timeout_does_not_eat_the_edge),
        in_g_test(a_deadline_on_the_way_to_the_p_does_not_either),
        in_g_test(shut_wakes_reader_and_writer),
        in_g_test(a_kick_ends_one_wait),
        in_g_test(an_interrupt_ends_a_wait_for_a_descriptor),
        in_g_test(a_gs_own_deadline_ends_a_wait_for_a_descriptor),
        in_g_test(an_event_of_a_former_use_is_dropped),
        in_g_test(ends_race_with_each_other),
        in_g_test(data_and_end_in_one_event_are_both_seen),
        in_g_test(a_reset_is_an_error),
        in_g_test(one_connects_and_talks),
        in_g_test(a_refused_connection_says_so),
        in_g_test(an_error_is_not_an_end),
        in_g_test(pollers_share_a_listener),
        in_g_test(the_pollers_know_their_descriptors),
        in_g_test(no_descriptor_goes_to_a_child),
        in_g_test(thousands_of_connections_echo),
    };
    RUN_TESTS("netpoll", tests);
}
