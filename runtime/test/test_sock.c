/* sock: accepting and connecting with deadlines, against close and by many; a host that does not answer;
 * a process without descriptors. */
#include "net.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/un.h>

/* ---- accept ---- */

static void accept_times_out(void *arg) {
    (void)arg;
    rt_fd l, f;
    int port = 0;
    crowd c = {0};
    one_call k;
    CHECK(open_listener(&l, &port, 16));
    CHECK_EQ(rt_fd_set_deadline(&l, RT_R, 1), 0);
    CHECK_EQ(rt_fd_accept(&l), RT_ETIMEOUT);
    int64_t until = rt_nanotime() + 10 * MS;
    CHECK_EQ(rt_fd_set_deadline(&l, RT_RW, until), 0);
    CHECK_EQ(rt_fd_accept(&l), RT_ETIMEOUT);
    CHECK(rt_nanotime() >= until);
    CHECK_EQ(rt_fd_set_deadline(&l, RT_R, rt_nanotime() + 3600 * SEC), 0);
    start_call(&c, &k, &l, accept_one);
    CHECK_EQ(rt_fd_set_deadline(&l, RT_R, rt_nanotime() + 5 * MS), 0); /* moved earlier */
    crowd_wait(&c);
    CHECK_EQ(k.r, RT_ETIMEOUT);
    CHECK_EQ(rt_fd_set_deadline(&l, RT_R, 0), 0);
    CHECK_EQ(dial(&f, port), 0); /* the listener has not suffered */
    int fd = rt_fd_accept(&l);
    CHECK(fd >= 0);
    close(fd);
    close_pair(&l, &f);
}

static _Atomic int aborted; /* so many clients go away while they stand in the backlog */

/* In the place of libc's, which sock.c calls. */
int accept4(int fd, struct sockaddr *sa, socklen_t *len, int flags) {
    if (atomic_load(&aborted) > 0) {
        atomic_fetch_sub(&aborted, 1);
        errno = ECONNABORTED;
        return -1;
    }
    return (int)syscall(SYS_accept4, fd, sa, len, flags);
}

static void a_client_that_went_away_is_no_error(void *arg) {
    (void)arg;
    rt_fd l, f;
    int port = 0;
    CHECK(open_listener(&l, &port, 16));
    CHECK_EQ(dial(&f, port), 0);
    atomic_store(&aborted, 3);
    int fd = rt_fd_accept(&l);
    CHECK(fd >= 0);
    CHECK_EQ(atomic_load(&aborted), 0);
    close(fd);
    close_pair(&l, &f);
}

static void a_listener_does_not_wait_for_connections_before_it(void *arg) {
    (void)arg;
    rt_fd l;
    int port = 0, reuses = 0;
    socklen_t len = sizeof reuses;
    CHECK(open_listener(&l, &port, 16));
    CHECK_EQ(getsockopt(l.fd, SOL_SOCKET, SO_REUSEADDR, &reuses, &len), 0);
    CHECK(reuses);
    CHECK_EQ(rt_fd_close(&l), 0);
}

static void close_wakes_accepters(void *arg) {
    (void)arg;
    rt_fd l;
    int port = 0;
    crowd c = {0};
    one_call k[4];
    CHECK(open_listener(&l, &port, 16));
    for (int i = 0; i < 4; i++)
        start_call(&c, &k[i], &l, accept_one);
    CHECK_EQ(rt_fd_close(&l), 0);
    crowd_wait(&c);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(k[i].r, RT_ECLOSED);
}

static ssize_t accept_and_close(rt_fd *f) {
    int fd = rt_fd_accept(f);
    if (fd >= 0) close(fd);
    return fd;
}

static void many_accepters_take_one_each(void *arg) {
    (void)arg;
    enum { N = 20 };
    rt_fd l, f[N];
    int port = 0;
    crowd c = {0};
    one_call k[N];
    CHECK(open_listener(&l, &port, N));
    for (int i = 0; i < N; i++) {
        k[i] = (one_call){.f = &l, .fn = accept_and_close};
        crowd_go(&c, make_call, &k[i]);
    }
    for (int i = 0; i < N; i++)
        CHECK_EQ(dial(&f[i], port), 0);
    crowd_wait(&c);
    for (int i = 0; i < N; i++) {
        CHECK(k[i].r >= 0);
        CHECK_EQ(rt_fd_close(&f[i]), 0);
    }
    CHECK_EQ(rt_fd_close(&l), 0);
}

/* ---- connect: a full backlog stands for a host that does not answer ---- */

typedef struct silent_host {
    int fd, port;
    int filler[64];
    int n;
} silent_host;

static bool open_silent(silent_host *s) {
    struct sockaddr_in sa = loopback(0);
    s->n = 0;
    s->fd = rt_listen((struct sockaddr *)&sa, sizeof sa, 0);
    if (!EXPECT(s->fd >= 0)) return false;
    s->port = port_of(s->fd);
    sa = loopback(s->port);
    for (; s->n < 64; s->n++) { /* until one is left in its handshake */
        int fd = s->filler[s->n] = rt_socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&sa, sizeof sa) == 0) continue;
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        if (poll(&p, 1, 50) == 0) {
            s->n++;
            return true;
        }
    }
    return EXPECT(!"a full backlog");
}

static void close_silent(silent_host *s) {
    for (int i = 0; i < s->n; i++)
        close(s->filler[i]);
    close(s->fd);
}

static silent_host silent;

static ssize_t connect_to_silent(rt_fd *f) {
    struct sockaddr_in sa = loopback(silent.port);
    return rt_fd_connect(f, (struct sockaddr *)&sa, sizeof sa);
}

static void connect_ends_by_deadline_or_close(void *arg) {
    (void)arg;
    CHECK(open_silent(&silent));
    for (int i = 0; i < 4; i++) {
        rt_fd f;
        crowd c = {0};
        one_call k;
        CHECK_EQ(rt_fd_init(&f, rt_socket(AF_INET, SOCK_STREAM, 0)), 0);
        int64_t until = i == 0 ? 1 : rt_nanotime() + 10 * MS;
        if (i < 3)
            CHECK_EQ(rt_fd_set_deadline(&f, RT_W, i == 2 ? rt_nanotime() + 3600 * SEC : until), 0);
        if (i < 2) { /* past, to come */
            CHECK_EQ(connect_to_silent(&f), RT_ETIMEOUT);
            CHECK(rt_nanotime() >= until);
        } else {
            start_call(&c, &k, &f, connect_to_silent);
            if (i == 2)
                CHECK_EQ(rt_fd_set_deadline(&f, RT_RW, rt_nanotime() + 5 * MS), 0); /* moved */
            if (i == 3) CHECK_EQ(rt_fd_close(&f), 0);
            crowd_wait(&c);
            CHECK_EQ(k.r, i == 2 ? RT_ETIMEOUT : RT_ECLOSED);
        }
        CHECK_EQ(rt_fd_close(&f), i == 3 ? RT_ECLOSED : 0);
    }
    close_silent(&silent);
}

/* Registered before it connects, so pollers report it; the listener appears while it waits. */
static void a_wake_up_is_no_connection(void *arg) {
    (void)arg;
    CHECK(open_silent(&silent));
    rt_fd f;
    crowd c = {0};
    one_call k;
    CHECK_EQ(rt_fd_init(&f, rt_socket(AF_INET, SOCK_STREAM, 0)), 0);
    start_call(&c, &k, &f, connect_to_silent);
    for (int i = 0; i < 10; i++) {
        rt_pd_kick(f.pd, RT_W);
        rt_sleep(MS);
        CHECK(!atomic_load(&k.ended));
    }
    while (!atomic_load(&k.ended)) { /* now the host answers, when the kernel tries again */
        int fd = rt_accept4(silent.fd, NULL, NULL);
        if (fd >= 0) close(fd);
        rt_sleep(MS);
    }
    crowd_wait(&c);
    CHECK_EQ(k.r, 0);
    CHECK_EQ(connect_to_silent(&f), 0); /* EISCONN */
    CHECK_EQ(rt_fd_close(&f), 0);
    close_silent(&silent);
}

static void errors_of_connect(void *arg) {
    (void)arg;
    rt_fd f;
    struct sockaddr_in sa = loopback(0);
    int l = rt_listen((struct sockaddr *)&sa, sizeof sa, 1);
    int port = port_of(l);
    CHECK_EQ(
        rt_listen((struct sockaddr *)&(struct sockaddr_in){.sin_family = AF_INET,
                                                           .sin_port = htons((uint16_t)port),
                                                           .sin_addr = {htonl(INADDR_LOOPBACK)}},
                  sizeof sa, 1),
        -EADDRINUSE);
    close(l);
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(dial(&f, port), -ECONNREFUSED);
        CHECK_EQ(rt_fd_close(&f), 0);
    }
    CHECK_EQ(rt_socket(AF_INET, 77, 0), -EINVAL);
    struct sockaddr_un un = {.sun_family = AF_UNIX, .sun_path = "/nonexistent/socket"};
    CHECK_EQ(rt_fd_init(&f, rt_socket(AF_UNIX, SOCK_STREAM, 0)), 0);
    CHECK_EQ(rt_fd_connect(&f, (struct sockaddr *)&un, sizeof un), -ENOENT);
    CHECK_EQ(rt_fd_close(&f), 0);
}

/* ---- no descriptor left: a program of its own ---- */

static struct {
    rt_fd l;
    rt_acceptor a;
    int port;
    _Atomic int accepted, failed, ended;
    _Atomic int64_t longest_ns;
    int held[64];
} poor;

static void accept_in_poverty(void *arg) {
    (void)arg;
    for (;;) {
        int fd = rt_fd_accept_with(&poor.l, &poor.a);
        if (fd == RT_ECLOSED) break;
        if (fd >= 0) {
            EXPECT(poor.a.failures == 0 && poor.a.pause_ns == 0);
            poor.held[atomic_fetch_add(&poor.accepted, 1) % 64] = fd;
            continue;
        }
        EXPECT_EQ(fd, -EMFILE);
        atomic_store(&poor.longest_ns, poor.a.pause_ns);
        atomic_fetch_add(&poor.failed, 1);
    }
    rt_acceptor_close(&poor.a);
    atomic_store(&poor.ended, 1);
}

/* The number of the first free descriptor is the limit: not one more. */
static void allow_no_more(void) {
    struct rlimit r;
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    getrlimit(RLIMIT_NOFILE, &r);
    r.rlim_cur = (rlim_t)fd;
    close(fd);
    EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &r), 0);
}

/* A close ends a pause, of a second: how long that has taken. */
static int64_t pause_until_closed(int *client) {
    allow_no_more();
    poor.a.pause_ns = 100 * SEC;
    close(*client);
    *client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT(*client >= 0);
    struct sockaddr_in sa = loopback(poor.port);
    EXPECT_EQ(connect(*client, (struct sockaddr *)&sa, sizeof sa), 0);
    rt_sleep(5 * MS);
    int64_t begun = rt_nanotime();
    EXPECT_EQ(rt_fd_close(&poor.l), 0);
    EXPECT_SOON(atomic_load(&poor.ended));
    return rt_nanotime() - begun;
}

static void be_poor(void *arg) {
    (void)arg;
    enum { CLIENTS = 8 };
    int client[CLIENTS];
    struct rlimit before;
    getrlimit(RLIMIT_NOFILE, &before);
    CHECK(open_listener(&poor.l, &poor.port, 16));
    rt_acceptor_init(&poor.a, "sorry", 5);
    CHECK(poor.a.reserve_fd >= 0);
    for (int i = 0; i < CLIENTS; i++)
        client[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    allow_no_more();
    rt_go(accept_in_poverty, NULL);
    struct sockaddr_in sa = loopback(poor.port);
    for (int i = 0; i < 3; i++) { /* each is turned away */
        char buf[16] = "";
        CHECK_EQ(connect(client[i], (struct sockaddr *)&sa, sizeof sa), 0);
        ssize_t n = 0;
        int64_t until = rt_nanotime() + PATIENCE_NS;
        while ((n = recv(client[i], buf, sizeof buf, MSG_DONTWAIT)) < 0 && rt_nanotime() < until)
            rt_sleep(MS);
        CHECK_EQ(n, 5);
        CHECK_EQ(memcmp(buf, "sorry", 5), 0);
        EXPECT(poor.a.reserve_fd >= 0);
    }
    CHECK_EQ(atomic_load(&poor.accepted), 0);
    EXPECT_SOON(atomic_load(&poor.failed) == 3);
    CHECK_EQ(atomic_load(&poor.longest_ns), 20 * MS); /* 5, 10, 20 */
    rt_sleep(50 * MS);
    CHECK_EQ(atomic_load(&poor.failed), 3); /* without clients there is no failure */
    setrlimit(RLIMIT_NOFILE, &before);
    for (int i = 3; i < CLIENTS; i++)
        CHECK_EQ(connect(client[i], (struct sockaddr *)&sa, sizeof sa), 0);
    EXPECT_SOON(atomic_load(&poor.accepted) == CLIENTS - 3);
    int64_t took = pause_until_closed(&client[0]);
    for (int i = 0; i < 4 && took >= SEC / 2; i++) { /* the machine may be busy */
        setrlimit(RLIMIT_NOFILE, &before);
        CHECK(open_listener(&poor.l, &poor.port, 16));
        rt_acceptor_init(&poor.a, "sorry", 5);
        atomic_store(&poor.ended, 0);
        rt_go(accept_in_poverty, NULL);
        took = pause_until_closed(&client[0]);
    }
    EXPECT(took < SEC / 2);
}

static void child_main(void *arg) {
    be_poor(arg);
    for (int i = 0; i < failures.n && i < FAILURES_SHOWN; i++)
        fprintf(stderr, "%s\n", failures.text[i]);
    _exit(failures.n ? 1 : 42);
}

static void without_descriptors_one_client_at_a_time_is_refused(void **state) {
    (void)state;
    char said[2000];
    assert_child_exits("poor", 42, said, sizeof said);
}

int main(void) {
    if (getenv("RT_TEST_CHILD")) rt_main(&(rt_options){.procs = test_procs()}, child_main, NULL);
    const struct CMUnitTest tests[] = {
        in_g_test(accept_times_out),
        in_g_test(a_client_that_went_away_is_no_error),
        in_g_test(a_listener_does_not_wait_for_connections_before_it),
        in_g_test(close_wakes_accepters),
        in_g_test(many_accepters_take_one_each),
        in_g_test(connect_ends_by_deadline_or_close),
        in_g_test(a_wake_up_is_no_connection),
        in_g_test(errors_of_connect),
        cmocka_unit_test(without_descriptors_one_client_at_a_time_is_refused),
    };
    RUN_TESTS("sock", tests);
}
