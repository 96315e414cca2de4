/* cancel: every wait of a canceled G ends at once, the one it is in and all later ones; what need not
 * wait is done; a cancellation that meets a wait which just begins is not lost, and neither is an
 * event that meets a cancellation; a G's next life knows nothing of it. */
#include "net.h"

/* ---- waits of every kind, which would last for ever ---- */

typedef struct world {
    rt_fd a, b;     /* nothing to read, no room to write */
    rt_fd busy;     /* its read lock is held */
    rt_fd l;        /* nobody connects */
    rt_fd never;    /* a socket whose peer does not answer */
    int port_never; /* a listener whose backlog is full */
    rt_acceptor acceptor;
} world;

static int wait_sleep(world *w) {
    (void)w;
    return rt_sleep(3600 * SEC);
}

static int wait_ticket(world *w) {
    (void)w;
    rt_wait_open(rt_self());
    return rt_wait(RT_WAIT_PARK, 0) == RT_CANCELED ? RT_ECANCELED : 0;
}

static int wait_ticket_until(world *w) {
    (void)w;
    rt_wait_open(rt_self());
    return rt_wait(RT_WAIT_PARK, rt_nanotime() + 3600 * SEC) == RT_CANCELED ? RT_ECANCELED : 0;
}

static int wait_read(world *w) {
    return (int)read_one(&w->a);
}

static int wait_write(world *w) {
    return (int)write_one(&w->a);
}

static int wait_both(world *w) {
    int r;
    do
        r = rt_pd_wait(w->a.pd, RT_RW, RT_WAIT_READ);
    while (r >= 0);
    return r;
}

static int wait_turn(world *w) {
    return (int)read_one(&w->busy);
}

static int wait_accept(world *w) {
    return rt_fd_accept(&w->l);
}

static int wait_accept_with(world *w) {
    int r = rt_fd_accept_with(&w->l, &w->acceptor);
    EXPECT_EQ(w->acceptor.failures, 0);
    return r;
}

static int wait_connect(world *w) {
    struct sockaddr_in sa = loopback(w->port_never);
    return rt_fd_connect(&w->never, (struct sockaddr *)&sa, sizeof sa);
}

static int wait_signal(world *w) {
    (void)w;
    return rt_signal_wait();
}

static const struct {
    const char *name;
    int (*fn)(world *);
} waits[] = {
    {"sleep", wait_sleep},     {"ticket", wait_ticket}, {"ticket_until", wait_ticket_until},
    {"read", wait_read},       {"write", wait_write},   {"both", wait_both},
    {"turn", wait_turn},       {"accept", wait_accept}, {"accept_with", wait_accept_with},
    {"connect", wait_connect}, {"signal", wait_signal},
};
enum { WAITS = sizeof waits / sizeof *waits };

/* A SYN to a listener whose backlog is full is dropped, and sent again after a second. */
static bool open_silent(world *w) {
    rt_fd l;
    if (!open_listener(&l, &w->port_never, 0)) return false;
    struct sockaddr_in sa = loopback(w->port_never);
    for (int i = 0; i < 4; i++) {
        int s = rt_socket(AF_INET, SOCK_STREAM, 0);
        int r = connect(s, (struct sockaddr *)&sa, sizeof sa);
        if (!EXPECT(r == 0 || errno == EINPROGRESS)) return false;
    }
    rt_sleep(5 * MS);
    return EXPECT_EQ(rt_fd_init(&w->never, rt_socket(AF_INET, SOCK_STREAM, 0)), 0);
}

static bool open_world(world *w) {
    rt_fd peer;
    int port;
    if (!open_pair(&w->a, &w->b) || !open_pair(&w->busy, &peer)) return false;
    fill_for_good(&w->a);
    rt_acceptor_init(&w->acceptor, NULL, 0);
    return EXPECT_EQ(fdmutex_lock(&w->busy.mu, RT_R, RT_WAIT_READ), 0) &&
           open_listener(&w->l, &port, 4) && open_silent(w);
}

/* Its descriptors are closed when the process ends; the locks that are held have no owner then. */
static world the_world;

static void be_canceled_before_each_wait(void *arg) {
    world *w = arg;
    CHECK(!rt_canceled(rt_self()));
    rt_cancel(rt_self(), rt_id(rt_self()));
    CHECK(rt_canceled(rt_self()));
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < WAITS; i++) {
            int r = waits[i].fn(w);
            expect_at(r == RT_ECANCELED, __FILE__, __LINE__, "%s: %d", waits[i].name, r);
        }
    for (int i = 0; i < 3; i++) /* without a try between them */
        CHECK_EQ(rt_pd_wait(w->l.pd, RT_R, RT_WAIT_READ), RT_ECANCELED);
    CHECK_EQ(rt_sleep(0), RT_ECANCELED);
}

static void a_canceled_g_waits_no_more(void *arg) {
    (void)arg;
    crowd c = {0};
    CHECK(open_world(&the_world));
    crowd_go(&c, be_canceled_before_each_wait, &the_world);
    crowd_wait(&c);
}

typedef struct begun {
    int kind;
    _Atomic bool began, ended;
} begun;

static void wait_twice(void *arg) {
    begun *k = arg;
    for (int i = 0; i < 2; i++) {
        atomic_store(&k->began, true);
        int r = waits[k->kind].fn(&the_world);
        expect_at(r == RT_ECANCELED, __FILE__, __LINE__, "%s: %d", waits[k->kind].name, r);
    }
    atomic_store(&k->ended, true);
}

static void a_cancellation_ends_the_wait_that_is(void *arg) {
    (void)arg;
    for (int i = 0; i < WAITS; i++) {
        crowd c = {0};
        begun k = {.kind = i};
        rt_g *g = crowd_go(&c, wait_twice, &k);
        EXPECT_SOON(atomic_load(&k.began));
        rt_sleep(2 * MS);
        expect_at(!atomic_load(&k.ended), __FILE__, __LINE__, "%s does not wait", waits[i].name);
        rt_cancel(g, rt_id(g));
        crowd_wait(&c);
    }
}

/* ---- what a canceled G still does ---- */

static void go_on(void *arg) {
    (void)arg;
    rt_fd a, b, f;
    char buf[16];
    rt_cancel(rt_self(), rt_id(rt_self()));
    for (int tcp = 0; tcp < 2; tcp++) {
        CHECK(tcp ? open_tcp(&a, &b) : open_pair(&a, &b));
        for (int i = 0; i < 3; i++) {
            CHECK_EQ(rt_fd_write(&a, "data", 4), 4);
            CHECK_EQ(rt_fd_read(&b, buf, 2), 2);
            CHECK_EQ(rt_fd_read(&b, buf, sizeof buf), 2); /* short: the next one waits first */
            CHECK_EQ(rt_fd_read(&b, buf, sizeof buf), RT_ECANCELED);
        }
        CHECK_EQ(rt_fd_write(&a, "farewell", 8), 8);
        CHECK_EQ(rt_fd_shutdown(&a, SHUT_WR), 0);
        CHECK(read_full(&b, buf, 8));
        CHECK_EQ(rt_fd_read(&b, buf, 1), 0);
        close_pair(&a, &b);
    }
    CHECK_EQ(rt_file_open(&f, "/dev/null", O_RDWR, 0), 0);
    CHECK_EQ(rt_fd_write(&f, "x", 1), 1);
    CHECK_EQ(rt_fd_read(&f, buf, 1), 0);
    CHECK_EQ(rt_fd_close(&f), 0);
    rt_yield();
    CHECK(rt_canceled(rt_self()));
}

static void what_need_not_wait_is_done(void *arg) {
    (void)arg;
    crowd c = {0};
    crowd_go(&c, go_on, NULL);
    crowd_wait(&c);
}

static bool leave_it(rt_g *g, void *at) {
    atomic_store((_Atomic(rt_g *) *)at, g);
    return true;
}

static void park_canceled(void *at) {
    rt_cancel(rt_self(), rt_id(rt_self()));
    rt_park(leave_it, at, RT_WAIT_PARK);
}

static void a_park_is_none_of_its_business(void *arg) {
    (void)arg;
    crowd c = {0};
    _Atomic(rt_g *) parked = NULL;
    rt_g *g = crowd_go(&c, park_canceled, &parked);
    EXPECT_SOON(atomic_load(&parked) == g);
    rt_cancel(g, rt_id(g));
    rt_sleep(2 * MS);
    CHECK_EQ(atomic_load(&c.left), 1);
    rt_ready(g);
    crowd_wait(&c);
}

static void expect_a_new_life(void *arg) {
    (void)arg;
    CHECK(!rt_canceled(rt_self()));
    CHECK_EQ(rt_sleep(1000), 0);
    rt_cancel(rt_self(), rt_id(rt_self()));
}

static void the_next_life_knows_nothing(void *arg) {
    (void)arg;
    for (int i = 0; i < 300; i++) {
        crowd c = {0};
        for (int k = 0; k < 4; k++)
            crowd_go(&c, expect_a_new_life, NULL);
        crowd_wait(&c);
    }
}

/* ---- cancellation against the beginning of a wait ---- */

/* A wait that nothing else ends. The canceler knows about when it begins, and no cancellation comes
 * twice: one that is lost is a G that waits for ever, which the harness shows. */
typedef struct race {
    rt_fd *f; /* NULL: a ticket */
    int mode;
    _Atomic(rt_g *) g;
    _Atomic bool go, over;
    uint64_t seed;
    int r;
} race;

static void begin_to_wait(void *arg) {
    race *k = arg;
    atomic_store(&k->g, rt_self());
    while (!atomic_load(&k->go)) /* a thread says so: no P is needed */
        ;
    spin_finely(&k->seed);
    if (k->f) {
        while ((k->r = rt_pd_wait(k->f->pd, k->mode, RT_WAIT_READ)) >= 0)
            ;
    } else {
        rt_wait_open(rt_self());
        k->r = rt_wait(RT_WAIT_PARK, 0) == RT_CANCELED ? RT_ECANCELED : 0;
    }
}

static void *cancel_many(void *arg) {
    race *k = arg;
    uint64_t seed = k->seed + 1;
    while (!atomic_load(&k->over)) {
        rt_g *g = atomic_exchange(&k->g, NULL);
        if (!g) {
            sched_yield();
            continue;
        }
        atomic_store(&k->go, true);
        spin_finely(&seed);
        rt_cancel(g, rt_id(g));
    }
    return NULL;
}

static void race_on(rt_fd *f, int mode) {
    race k = {.f = f, .mode = mode, .seed = 5};
    pthread_t t = foreign(cancel_many, &k);
    int64_t until = rt_nanotime() + SEC;
    for (int i = 0; i < ROUNDS(40000) && rt_nanotime() < until; i++) {
        crowd c = {0};
        atomic_store(&k.go, false);
        crowd_go(&c, begin_to_wait, &k);
        crowd_wait(&c);
        EXPECT_EQ(k.r, RT_ECANCELED);
    }
    atomic_store(&k.over, true);
    join_foreign(t);
}

static void no_cancellation_of_a_ticket_is_lost(void *arg) {
    (void)arg;
    race_on(NULL, 0);
}

static void no_cancellation_before_a_descriptor_is_lost(void *arg) {
    (void)arg;
    rt_fd a, b;
    CHECK(open_pair(&a, &b));
    CHECK_EQ(rt_fd_set_deadline(&a, RT_R, rt_nanotime() + 3600 * SEC), 0); /* more to look at */
    race_on(&a, RT_R);
    race_on(&a, RT_RW);
    close_pair(&a, &b);
}

/* ---- and against the event ---- */

typedef struct meeting {
    rt_fd *r, *w;
    uint64_t seed;
    rt_g *reader;
    ssize_t got;
} meeting;

static void read_for(void *arg) {
    meeting *k = arg;
    char b;
    k->got = rt_fd_read(k->r, &b, 1);
}

static void write_for(void *arg) {
    meeting *k = arg;
    spin_for((int64_t)random_below(&k->seed, 3000));
    EXPECT_EQ(rt_fd_write(k->w, "x", 1), 1);
}

/* The byte is the canceled reader's, or the next one's, who would wait for ever for its edge. */
static void no_event_is_lost_to_a_cancellation(void *arg) {
    (void)arg;
    uint64_t seed = 9;
    char b;
    for (int tcp = 0; tcp < 2; tcp++) {
        rt_fd r, w;
        int64_t until = rt_nanotime() + SEC;
        CHECK(tcp ? open_tcp(&r, &w) : open_pair(&r, &w));
        for (int i = 0; i < ROUNDS(3000) && rt_nanotime() < until; i++) {
            crowd c = {0}, reader = {0};
            meeting k = {.r = &r, .w = &w, .seed = random_next(&seed)};
            CHECK_EQ(rt_fd_set_deadline(&r, RT_R, rt_nanotime() + PATIENCE_NS), 0);
            rt_g *g = crowd_go(&reader, read_for, &k);
            crowd_go(&c, write_for, &k);
            rt_yield();
            spin_for((int64_t)random_below(&seed, 3000));
            rt_cancel(g,
                      rt_id(g)); /* it may have ended, but no other G begins before it is joined */
            crowd_wait(&reader);
            if (k.got != 1) {
                CHECK_EQ(k.got, RT_ECANCELED);
                CHECK_EQ(rt_fd_read(&r, &b, 1), 1);
            }
            crowd_wait(&c);
        }
        close_pair(&r, &w);
    }
}

/* The same for the moment in which a canceled G finds out: READY may stand there by then. */
typedef struct kicks {
    rt_pd *pd;
    _Atomic bool go, over;
    _Atomic int n;
    uint64_t seed;
} kicks;

static void *kick_often(void *arg) {
    kicks *k = arg;
    while (!atomic_load(&k->over)) {
        if (!atomic_exchange(&k->go, false)) continue;
        spin_finely(&k->seed);
        rt_pd_kick(k->pd, RT_R);
        atomic_fetch_add(&k->n, 1);
    }
    return NULL;
}

static void wait_canceled_while_kicked(void *arg) {
    kicks *k = arg;
    uint64_t seed = 4;
    rt_cancel(rt_self(), rt_id(rt_self()));
    int64_t until = rt_nanotime() + SEC;
    for (int i = 0; i < ROUNDS(50000) && rt_nanotime() < until; i++) {
        atomic_store(&k->go, true);
        spin_finely(&seed);
        int r = rt_pd_wait(k->pd, RT_R, RT_WAIT_READ);
        while (atomic_load(&k->n) <= i)
            ;
        if (r == 0) continue;
        CHECK_EQ(r, RT_ECANCELED);
        CHECK_EQ(rt_pd_wait(k->pd, RT_R, RT_WAIT_READ), 0);
    }
}

static void what_came_is_kept_for_the_next_wait(void *arg) {
    (void)arg;
    rt_fd a, b;
    crowd c = {0};
    CHECK(open_pair(&a, &b));
    CHECK_EQ(rt_fd_set_deadline(&a, RT_R, rt_nanotime() + 3600 * SEC), 0);
    kicks k = {.pd = a.pd, .seed = 3};
    pthread_t t = foreign(kick_often, &k);
    crowd_go(&c, wait_canceled_while_kicked, &k);
    crowd_wait(&c);
    atomic_store(&k.over, true);
    join_foreign(t);
    close_pair(&a, &b);
}

/* ---- the watcher of a descriptor ---- */

static int park_until(int64_t deadline_ns) {
    rt_wait_open(rt_self());
    return rt_wait(RT_WAIT_PARK, deadline_ns);
}

static void a_hang_up_cancels_the_watcher(void *arg) {
    (void)arg;
    for (int i = 0; i < 50; i++) {
        rt_fd a;
        int peer;
        CHECK(open_tcp_to(&a, &peer));
        rt_pd_watch(a.pd, rt_self());
        CHECK_EQ(park_until(rt_nanotime() + MS / 10), RT_TIMEOUT); /* writable, and no more */
        if (i % 2)
            shutdown(peer, SHUT_WR);
        else
            close(peer);
        CHECK_EQ(park_until(rt_nanotime() + PATIENCE_NS), RT_CANCELED);
        CHECK(rt_canceled(rt_self()) && rt_pd_hup(a.pd));
        rt_clear_cancel(rt_self());
        /* Once is enough. */
        rt_pd_watch(a.pd, rt_self());
        CHECK_EQ(park_until(rt_nanotime() + MS / 10), RT_TIMEOUT);
        if (i % 2) close(peer);
        rt_pd_watch(a.pd, NULL);
        rt_fd_close(&a);
        rt_clear_cancel(rt_self());
    }
}

static void a_hang_up_cancels_nobody_else(void *arg) {
    (void)arg;
    for (int i = 0; i < 50; i++) {
        rt_fd a, b;
        int peer, other;
        CHECK(open_tcp_to(&a, &peer));
        CHECK(open_tcp_to(&b, &other));
        rt_pd_watch(a.pd, rt_self());
        rt_pd_watch(b.pd, rt_self());
        rt_pd_watch(a.pd, NULL);
        close(peer);
        EXPECT_SOON(rt_pd_hup(a.pd));
        CHECK(!rt_canceled(rt_self()));
        /* What watched in a former use of the pollDesc does not watch in the next one. */
        rt_fd_close(&b);
        close(other);
        CHECK(open_tcp_to(&b, &other));
        close(other);
        EXPECT_SOON(rt_pd_hup(b.pd));
        CHECK(!rt_canceled(rt_self()));
        rt_fd_close(&a);
        rt_fd_close(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        in_g_test(a_canceled_g_waits_no_more),
        in_g_test(a_cancellation_ends_the_wait_that_is),
        in_g_test(what_need_not_wait_is_done),
        in_g_test(a_park_is_none_of_its_business),
        in_g_test(the_next_life_knows_nothing),
        in_g_test(a_hang_up_cancels_the_watcher),
        in_g_test(a_hang_up_cancels_nobody_else),
        in_g_test(no_cancellation_of_a_ticket_is_lost),
        in_g_test(no_cancellation_before_a_descriptor_is_lost),
        in_g_test(no_event_is_lost_to_a_cancellation),
        in_g_test(what_came_is_kept_for_the_next_wait),
    };
    RUN_TESTS("cancel", tests);
}
