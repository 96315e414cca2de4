/* netpoll: the table of a poller's operations; the pollers of all Ps, unused ones too; a listener that they share;
 * connections accepted and made, by the thousand. */
#include "net.h"

#include <sys/resource.h>

/* ---- the table that this program chooses: epoll's, counted ---- */

static struct {
    _Atomic int opened, added, deleted, asked, polled, woken;
    _Atomic int refuse; /* what the next add answers instead; 0: nothing */
} calls;

static rt_poller *counted_open(void) {
    atomic_fetch_add(&calls.opened, 1);
    return epoll_ops.open();
}

static int counted_add(rt_poller *po, int fd, uint64_t tag, bool exclusive) {
    int refuse = atomic_exchange(&calls.refuse, 0);
    if (refuse) return refuse;
    atomic_fetch_add(&calls.added, 1);
    return epoll_ops.add(po, fd, tag, exclusive);
}

static int counted_del(rt_poller *po, int fd) {
    atomic_fetch_add(&calls.deleted, 1);
    return epoll_ops.del(po, fd);
}

static bool counted_owns(const rt_poller *po, int fd) {
    atomic_fetch_add(&calls.asked, 1);
    return epoll_ops.owns(po, fd);
}

static int counted_poll(rt_poller *po, int64_t delay_ns, g_list *l) {
    atomic_fetch_add(&calls.polled, 1);
    return epoll_ops.poll(po, delay_ns, l);
}

static void counted_wake(rt_poller *po) {
    atomic_fetch_add(&calls.woken, 1);
    epoll_ops.wake(po);
}

static const poller_ops counted = {
    .open = counted_open,
    .add = counted_add,
    .del = counted_del,
    .owns = counted_owns,
    .poll = counted_poll,
    .wake = counted_wake,
};

static void the_chosen_table_is_used(void *arg) {
    (void)arg;
    rt_fd a, b;
    char buf[8];
    CHECK_EQ(atomic_load(&calls.opened), rt_procs());
    int added = atomic_load(&calls.added), deleted = atomic_load(&calls.deleted);
    CHECK(open_pair(&a, &b));
    CHECK_EQ(atomic_load(&calls.added), added + 2);
    int polled = atomic_load(&calls.polled), woken = atomic_load(&calls.woken);
    rt_pd_set_deadline(a.pd, RT_R, rt_nanotime() + 20 * MS);
    CHECK_EQ(rt_fd_read(&a, buf, 8), RT_ETIMEOUT);
    CHECK(atomic_load(&calls.polled) > polled);
    netpoll_break(sched.ps[0].poller);
    CHECK(atomic_load(&calls.woken) > woken);
    close_pair(&a, &b);
    CHECK_EQ(atomic_load(&calls.deleted), deleted + 2);
    int asked = atomic_load(&calls.asked);
    CHECK(!rt_is_poll_descriptor(-1));
    CHECK_EQ(atomic_load(&calls.asked), asked + rt_procs());
}

static void what_the_table_refuses_is_refused(void *arg) {
    (void)arg;
    rt_fd a, b;
    rt_stats before, after;
    CHECK(open_pair(&a, &b));
    int fd = dup(b.fd), deleted = atomic_load(&calls.deleted);
    rt_fd f;
    rt_read_stats(&before);
    atomic_store(&calls.refuse, -ENOSPC);
    CHECK_EQ(rt_fd_init(&f, fd), -ENOSPC);
    rt_read_stats(&after);
    CHECK_EQ(after.fds, before.fds);
    CHECK_EQ(atomic_load(&calls.deleted), deleted);
    close(fd);
    close_pair(&a, &b);
}

/* ---- pollers ---- */

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

/* ---- pollers of no P ---- */

static void close_poller(rt_poller *po) {
    for (int fd = 0; fd < 1024; fd++)
        if (epoll_ops.owns(po, fd)) close(fd);
    free(po);
}

/* How many breaks were written to po's eventfd since it was read. */
static uint64_t written(const rt_poller *po) {
    uint64_t n = 0;
    for (int fd = 0; fd < 1024; fd++)
        if (epoll_ops.owns(po, fd) && read(fd, &n, sizeof n) == sizeof n) break;
    return n;
}

static void breaks_are_one_until_a_poll_takes_them(void *arg) {
    (void)arg;
    rt_poller *po = epoll_ops.open();
    g_list l = {0};
    CHECK(po);
    for (int i = 0; i < 3; i++)
        epoll_ops.wake(po);
    EXPECT_EQ(epoll_ops.poll(po, 0, &l), 1); /* leaves it */
    EXPECT_EQ(epoll_ops.poll(po, 10 * SEC, &l), 1);
    EXPECT_EQ(epoll_ops.poll(po, 0, &l), 0);
    for (int i = 0; i < 3; i++)
        epoll_ops.wake(po);
    EXPECT_EQ(written(po), 1);
    close_poller(po);
}

/* Stands for a pollDesc that had the tag in a former use, so its events are dropped. */
static _Alignas(64) char former[1024];

typedef struct sleeper {
    rt_poller *po;
    _Atomic int tid, events; /* events: -1 while it sleeps */
} sleeper;

static void *sleep_in_poller(void *arg) {
    sleeper *s = arg;
    g_list l = {0};
    atomic_store(&s->tid, (int)gettid());
    atomic_store(&s->events, epoll_ops.poll(s->po, -1, &l));
    return NULL;
}

static bool is_asleep(int tid) {
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
    FILE *f = fopen(path, "re");
    char *name_end = f && fgets(text, sizeof text, f) ? strrchr(text, ')') : NULL;
    if (f) fclose(f);
    return name_end && name_end[2] == 'S';
}

/* Two threads sleep, each in a poller; a connection comes, then a break for each. Which of the two has heard of the
 * connection is open, so all events of both are counted. */
static void a_connection_wakes_one_of_two(void *arg) {
    (void)arg;
    struct sockaddr_in sa = loopback(0);
    int fd = rt_listen((struct sockaddr *)&sa, sizeof sa, 128), events = 0;
    static sleeper s[2];
    pthread_t t[2];
    rt_fd f;
    g_list l = {0};
    CHECK(fd >= 0);
    for (int i = 0; i < 2; i++) {
        uint64_t tag = (uint64_t)(uintptr_t)former << 16 | 1;
        s[i] = (sleeper){.po = epoll_ops.open(), .events = -1};
        CHECK(s[i].po);
        EXPECT_EQ(epoll_ops.add(s[i].po, fd, tag, true), 0);
        t[i] = foreign(sleep_in_poller, &s[i]);
        EXPECT_SOON(atomic_load(&s[i].tid) && is_asleep(atomic_load(&s[i].tid)));
    }
    EXPECT_EQ(dial(&f, port_of(fd)), 0);
    EXPECT_SOON(atomic_load(&s[0].events) > 0 || atomic_load(&s[1].events) > 0);
    for (int i = 0; i < 2; i++)
        epoll_ops.wake(s[i].po);
    for (int i = 0; i < 2; i++) {
        join_foreign(t[i]);
        events += atomic_load(&s[i].events) + epoll_ops.poll(s[i].po, 0, &l);
        close_poller(s[i].po);
    }
    EXPECT_EQ(events, 3);
    EXPECT_EQ(rt_fd_close(&f), 0);
    close(fd);
}

/* ---- accept and connect ---- */

typedef struct server {
    rt_fd l;
    int port;
    crowd c;
    _Atomic int accepted;
} server;

static void echo(void *arg) {
    rt_fd *f = arg;
    char buf[256];
    for (;;) {
        ssize_t r = rt_fd_read(f, buf, sizeof buf);
        if (r <= 0) {
            EXPECT_EQ(r, 0);
            break;
        }
        EXPECT_EQ(rt_fd_write(f, buf, (size_t)r), r);
    }
    EXPECT_EQ(rt_fd_close(f), 0);
    free(f);
}

static void accept_all(void *arg) {
    server *s = arg;
    for (;;) {
        int fd = rt_fd_accept(&s->l);
        if (fd == RT_ECLOSED) return;
        CHECK(fd >= 0);
        atomic_fetch_add(&s->accepted, 1);
        rt_fd *f = malloc(sizeof *f);
        CHECK_EQ(rt_fd_init(f, fd), 0);
        crowd_go(&s->c, echo, f);
    }
}

static bool serve(server *s) {
    memset(s, 0, sizeof *s);
    if (!open_listener(&s->l, &s->port, 4096)) return false;
    crowd_go(&s->c, accept_all, s);
    return true;
}

static void stop_serving(server *s) {
    rt_pd_shut(s->l.pd);
    crowd_wait(&s->c);
    EXPECT_EQ(rt_fd_close(&s->l), 0);
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

int main(void) {
    note_inherited();
    const struct CMUnitTest tests[] = {
        in_g_test(descriptors_of_unused_ps_are_polled), /* first: see there */
        in_g_test(the_chosen_table_is_used),
        in_g_test(breaks_are_one_until_a_poll_takes_them),
        in_g_test(a_connection_wakes_one_of_two),
        in_g_test(what_the_table_refuses_is_refused),
        in_g_test(one_connects_and_talks),
        in_g_test(a_refused_connection_says_so),
        in_g_test(pollers_share_a_listener),
        in_g_test(the_pollers_know_their_descriptors),
        in_g_test(no_descriptor_goes_to_a_child),
        in_g_test(thousands_of_connections_echo),
    };
    netpoll_choose(&counted);
    RUN_TESTS("netpoll_pollers", tests);
}
