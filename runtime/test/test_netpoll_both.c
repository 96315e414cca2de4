/* netpoll: one G waits for both directions of a descriptor. Either ends the wait, the answer names what came and
 * nothing else; so do deadlines, shut, kicks and interrupts; what came is kept until somebody asks. With the poller
 * below, events come late and Gs in another order.
 *
 * RT_SEED repeats a mix (not a schedule). Cancellations: test_cancel.c. */
#include "net.h"

static uint64_t mix; /* RT_SEED */

/* ---- a poller that takes its time ---- */

static _Atomic uint64_t poll_seed;

static uint64_t chance(uint64_t n) {
    uint64_t s = atomic_fetch_add(&poll_seed, UINT64_C(0x9e3779b97f4a7c15));
    return random_below(&s, n);
}

static int poll_lazily(rt_poller *po, int64_t delay_ns, g_list *l) {
    if (delay_ns == 0 && chance(3) == 0) return 0; /* what there is stays there */
    if (delay_ns < 0 && chance(4) == 0) delay_ns = 1 + (int64_t)chance(MS);
    int n = epoll_ops.poll(po, delay_ns, l);
    for (uint64_t k = l->n ? chance((uint64_t)l->n) : 0; k > 0; k--)
        g_list_push(l, g_list_pop(l));
    return n;
}

/* ---- what ends a wait, and what it answers ---- */

enum { BOTH = RT_READABLE | RT_WRITABLE };

static ssize_t wait_both(rt_fd *f) {
    return rt_pd_wait(f->pd, RT_RW, RT_WAIT_OTHER);
}

/* Nothing to read, no room to write, and no event of a's is on its way. */
static bool open_full(rt_fd *a, rt_fd *b) {
    return open_pair(a, b) && EXPECT_EQ(wait_both(a), RT_WRITABLE) && EXPECT(fill(a) > 0);
}

static void drain(rt_fd *f) {
    char buf[4096];
    while (read(f->fd, buf, sizeof buf) > 0)
        ;
}

static void either_direction_ends_the_wait(void *arg) {
    (void)arg;
    for (int i = 0; i < 20; i++) {
        rt_fd a, b;
        one_call w;
        crowd c = {0};
        CHECK(open_full(&a, &b));
        start_call(&c, &w, &a, wait_both);
        if (i % 2)
            CHECK_EQ(write(b.fd, "x", 1), 1);
        else
            drain(&b);
        crowd_wait(&c);
        CHECK_EQ(w.r, i % 2 ? RT_READABLE : RT_WRITABLE);
        close_pair(&a, &b);
    }
}

static void both_directions_are_answered(void *arg) {
    (void)arg;
    rt_fd a, b;
    CHECK(open_full(&a, &b));
    for (int i = 0; i < 20; i++) {
        one_call w;
        crowd c = {0};
        start_call(&c, &w, &a, wait_both);
        rt_pd_kick(a.pd, i % 2 ? RT_R : RT_W);
        rt_pd_kick(a.pd, i % 2 ? RT_W : RT_R);
        crowd_wait(&c);
        if (rt_procs() == 1) CHECK_EQ(w.r, BOTH); /* the G had no turn between the two */
        if (w.r != BOTH) w.r |= wait_both(&a);
        CHECK_EQ(w.r, BOTH);
    }
    close_pair(&a, &b);
}

static void what_came_before_is_kept(void *arg) {
    (void)arg;
    rt_fd a, b;
    CHECK(open_full(&a, &b));
    for (int i = 0; i < 5; i++) {
        rt_pd_kick(a.pd, RT_W);
        CHECK_EQ(wait_both(&a), RT_WRITABLE);
        rt_pd_kick(a.pd, RT_R);
        CHECK_EQ(wait_both(&a), RT_READABLE);
        rt_pd_kick(a.pd, RT_R);
        rt_pd_kick(a.pd, RT_W);
        CHECK_EQ(wait_both(&a), BOTH);
    }
    close_pair(&a, &b);
}

static void one_direction_and_both_in_turn(void *arg) {
    (void)arg;
    static const int modes[] = {RT_R, RT_RW, RT_W, RT_RW, RT_RW, RT_W, RT_R, RT_RW};
    rt_fd a, b;
    CHECK(open_full(&a, &b));
    for (int i = 0; i < 80; i++) {
        int mode = modes[i % 8], kick = mode == RT_RW ? (i % 3 ? RT_R : RT_W) : mode;
        one_call w;
        crowd c = {0};
        if (mode == RT_RW) {
            rt_g *g = go_call(&c, &w, &a, wait_both);
            if (i % 4 == 3) {
                EXPECT_SOON(rt_interrupt(g, RT_CANCELED));
                crowd_wait(&c);
                CHECK_EQ(w.r, 0);
                continue;
            }
            rt_pd_kick(a.pd, kick);
            crowd_wait(&c);
            CHECK_EQ(w.r, kick == RT_R ? RT_READABLE : RT_WRITABLE);
        } else {
            rt_pd_kick(a.pd, kick);
            CHECK_EQ(rt_pd_wait(a.pd, mode, RT_WAIT_OTHER), 0);
        }
    }
    close_pair(&a, &b);
}

/* ---- deadlines ---- */

static void the_deadline_of_either_ends_the_wait(void *arg) {
    (void)arg;
    rt_fd a, b;
    CHECK(open_full(&a, &b));
    for (int i = 0; i < 20; i++) {
        int mode = i % 2 ? RT_R : RT_W, other = i % 2 ? RT_W : RT_R;
        int64_t until = rt_nanotime() + i / 2 * MS;
        ssize_t r;
        rt_pd_set_deadline(a.pd, mode, until);
        rt_pd_set_deadline(a.pd, other, until + 3600 * SEC);
        do /* after a timeout of one direction its next wait tries first */
            r = wait_both(&a);
        while (r > 0);
        CHECK_EQ(r, RT_ETIMEOUT);
        CHECK(rt_nanotime() >= until);
        CHECK_EQ(rt_pd_check(a.pd, mode), RT_ETIMEOUT);
        CHECK_EQ(rt_pd_check(a.pd, other), 0);
    }
    close_pair(&a, &b);
}

static void a_deadline_moved_into_the_wait_ends_it(void *arg) {
    (void)arg;
    rt_fd a, b;
    CHECK(open_full(&a, &b));
    for (int i = 0; i < 8; i++) {
        int mode = i % 2 ? RT_R : RT_W;
        one_call w;
        crowd c = {0};
        rt_pd_set_deadline(a.pd, mode, i % 4 < 2 ? 0 : rt_nanotime() + 3600 * SEC);
        start_call(&c, &w, &a, wait_both);
        int64_t until = i < 4 ? rt_nanotime() + 3 * MS : 1;
        rt_pd_set_deadline(a.pd, mode, until);
        crowd_wait(&c);
        CHECK_EQ(w.r, RT_ETIMEOUT);
        CHECK(rt_nanotime() >= until);
        rt_pd_set_deadline(a.pd, mode, 0);
    }
    close_pair(&a, &b);
}

static void a_timeout_keeps_what_came(void *arg) {
    (void)arg;
    rt_fd a, b;
    CHECK(open_full(&a, &b));
    for (int i = 0; i < 10; i++) {
        int came = i % 2 ? RT_R : RT_W, late = i % 4 < 2 ? RT_R : RT_W;
        rt_pd_kick(a.pd, came);
        rt_pd_set_deadline(a.pd, late, 1);
        CHECK_EQ(wait_both(&a), RT_ETIMEOUT);
        rt_pd_set_deadline(a.pd, late, 0);
        CHECK_EQ(wait_both(&a), came == RT_R ? RT_READABLE : RT_WRITABLE);
    }
    close_pair(&a, &b);
}

static ssize_t wait_both_with_own_deadline(rt_fd *f) {
    int64_t until = rt_nanotime() + 5 * MS;
    ssize_t r;
    rt_set_deadline(rt_self(), until);
    do
        r = wait_both(f);
    while (r == 0 && rt_nanotime() < until);
    EXPECT(rt_nanotime() >= until);
    rt_set_deadline(rt_self(), 0);
    return r;
}

static void a_gs_own_deadline_ends_the_wait(void *arg) {
    (void)arg;
    rt_fd a, b;
    CHECK(open_full(&a, &b));
    for (int i = 0; i < 10; i++) {
        one_call w;
        crowd c = {0};
        go_call(&c, &w, &a, wait_both_with_own_deadline);
        crowd_wait(&c);
        CHECK(w.r == 0 || w.r == RT_ETIMEOUT);
    }
    close_pair(&a, &b);
}

/* ---- shut, interrupt, the end of a stream ---- */

static void shut_ends_the_wait_and_later_ones(void *arg) {
    (void)arg;
    rt_fd a, b;
    one_call w;
    crowd c = {0};
    CHECK(open_full(&a, &b));
    start_call(&c, &w, &a, wait_both);
    rt_pd_shut(a.pd);
    crowd_wait(&c);
    CHECK_EQ(w.r, RT_ECLOSED);
    rt_pd_kick(a.pd, RT_R);
    rt_pd_set_deadline(a.pd, RT_W, 1); /* shut comes before both */
    CHECK_EQ(wait_both(&a), RT_ECLOSED);
    close_pair(&a, &b);
}

static void an_interrupted_wait_answers_0_and_loses_nothing(void *arg) {
    (void)arg;
    for (int i = 0; i < 20; i++) {
        rt_fd a, b;
        one_call w;
        crowd c = {0};
        CHECK(open_full(&a, &b));
        rt_g *g = go_call(&c, &w, &a, wait_both);
        EXPECT_SOON(rt_interrupt(g, RT_CANCELED));
        crowd_wait(&c);
        CHECK_EQ(w.r, 0);
        if (i % 2)
            CHECK_EQ(write(b.fd, "x", 1), 1);
        else
            drain(&b);
        CHECK_EQ(wait_both(&a), i % 2 ? RT_READABLE : RT_WRITABLE);
        close_pair(&a, &b);
    }
}

static void the_end_is_always_readable(void *arg) {
    (void)arg;
    rt_fd a;
    int peer = -1;
    ssize_t r;
    char buf[8];
    CHECK(open_tcp_to(&a, &peer));
    fill_for_good(&a);
    CHECK_EQ(shutdown(peer, SHUT_WR), 0);
    do
        r = wait_both(&a);
    while (r == 0 || r == RT_WRITABLE);
    for (int i = 0; i < 5; i++) {
        CHECK(r > 0 && r & RT_READABLE);
        CHECK_EQ(read(a.fd, buf, sizeof buf), 0);
        r = wait_both(&a);
    }
    CHECK_EQ(rt_fd_close(&a), 0);
    close(peer);
}

/* ---- one G that reads and writes at once ---- */

enum { BULK = 4 << 20 };

/* Both ends want to write more than fits, so each has to go on reading while it is blocked in writing. It tries only
 * what an answer has named. */
typedef struct duplex {
    rt_fd f;
    crowd *c;
    int64_t size, wrote, read;
    uint64_t seed;
    _Atomic(rt_g *) g; /* NULL: it has ended */
    bool parked;       /* the step G's */
} duplex;

static unsigned char byte_at(int64_t at) {
    return (unsigned char)(at * 7 + at / 251);
}

static bool read_on(duplex *d) {
    unsigned char buf[5000];
    for (;;) {
        ssize_t r = read(d->f.fd, buf, 1 + random_below(&d->seed, sizeof buf));
        if (r < 0 && errno == EAGAIN) return true;
        if (!EXPECT(r > 0)) return false;
        for (ssize_t i = 0; i < r; i++, d->read++)
            if (!EXPECT_EQ(buf[i], byte_at(d->read))) return false;
        if (d->read == d->size) return true;
    }
}

static bool write_on(duplex *d) {
    unsigned char buf[5000];
    while (d->wrote < d->size) {
        size_t n = 1 + random_below(&d->seed, sizeof buf);
        if ((int64_t)n > d->size - d->wrote) n = (size_t)(d->size - d->wrote);
        for (size_t i = 0; i < n; i++)
            buf[i] = byte_at(d->wrote + (int64_t)i);
        ssize_t r = write(d->f.fd, buf, n);
        if (r < 0 && errno == EAGAIN) return true;
        if (!EXPECT(r > 0)) return false;
        d->wrote += r;
    }
    return true;
}

/* False: it has all, or something is wrong. */
static bool go_on(duplex *d, int answer) {
    if (answer == RT_ETIMEOUT) {
        rt_pd_set_deadline(d->f.pd, RT_R, 0);
        rt_pd_set_deadline(d->f.pd, RT_W, 0);
        return true;
    }
    if (!EXPECT(answer >= 0)) return false;
    if (answer & RT_READABLE && d->read < d->size && !read_on(d)) return false;
    if (answer & RT_WRITABLE && !write_on(d)) return false;
    return d->read < d->size || d->wrote < d->size;
}

static void duplex_native(void *arg) {
    duplex *d = arg;
    atomic_store(&d->g, rt_self());
    for (int answer = BOTH; go_on(d, answer);)
        answer = rt_pd_wait(d->f.pd, RT_RW, RT_WAIT_OTHER);
    atomic_store(&d->g, NULL);
}

static rt_step duplex_step(rt_g *g) {
    duplex *d = *(duplex **)rt_local(g);
    int answer = d->parked ? rt_pd_check(d->f.pd, RT_RW) : BOTH;
    while (go_on(d, answer)) {
        answer = rt_pd_prepare(d->f.pd, RT_RW, RT_WAIT_OTHER, g);
        if (answer != RT_PARKED) continue;
        d->parked = true;
        return RT_PARK;
    }
    atomic_store(&d->g, NULL);
    crowd_leave(d->c);
    return RT_EXIT;
}

/* a is a native G, b a step G. */
static bool start_duplex(duplex *a, duplex *b, crowd *c, int64_t size, uint64_t *seed) {
    *a = (duplex){.c = c, .size = size, .seed = random_next(seed)};
    *b = (duplex){.c = c, .size = size, .seed = random_next(seed)};
    if (!open_pair(&a->f, &b->f)) return false;
    crowd_go(c, duplex_native, a);
    crowd_enter(c);
    rt_g *g = rt_new_step(duplex_step, NULL);
    *(duplex **)rt_local(g) = b;
    atomic_store(&b->g, g);
    rt_ready(g);
    return true;
}

static void who_is_blocked_in_writing_reads_on(void *arg) {
    (void)arg;
    uint64_t seed = 6;
    duplex a, b;
    crowd c = {0};
    CHECK(start_duplex(&a, &b, &c, BULK, &seed));
    crowd_wait(&c);
    CHECK_EQ(a.read, BULK);
    CHECK_EQ(b.read, BULK);
    close_pair(&a.f, &b.f);
}

/* ---- one strike for one wait: one that is lost is a G that waits for ever ---- */

enum { KICK_R, KICK_W, KICK_BOTH, SHUT, STRIKES };

/* A thread for each direction, so that two strikes meet. */
typedef struct striker {
    rt_pd *pd;
    uint64_t seed;
    int what; /* the G writes before go */
    _Atomic bool go, over;
} striker;

/* Looks again at once, as long as it is likely that the other runs. */
static void look_again(int *looks) {
    if (++*looks % 500 == 0) sched_yield();
}

static void *strike(void *arg) {
    striker *k = arg;
    for (int looks = 0; !atomic_load(&k->over);) {
        if (!atomic_load(&k->go)) {
            look_again(&looks);
            continue;
        }
        spin_finely(&k->seed);
        if (k->what == SHUT)
            rt_pd_shut(k->pd);
        else
            rt_pd_kick(k->pd, k->what == KICK_R ? RT_R : RT_W);
        atomic_store(&k->go, false);
    }
    return NULL;
}

static void send_out(striker *k, rt_pd *pd, int what) {
    k->pd = pd;
    k->what = what;
    atomic_store(&k->go, true);
}

/* Until all is answered that the strikes bring. */
static void wait_for_all(rt_pd *pd, int what) {
    static const int all[STRIKES] = {RT_READABLE, RT_WRITABLE, BOTH, RT_ECLOSED};
    int r = rt_pd_wait(pd, RT_RW, RT_WAIT_OTHER);
    if (what == KICK_BOTH && (r == RT_READABLE || r == RT_WRITABLE))
        r |= rt_pd_wait(pd, RT_RW, RT_WAIT_OTHER);
    EXPECT_EQ(r, all[what]);
}

static void wait_while_struck(void *arg) {
    striker *k = arg;
    rt_fd a, b;
    uint64_t seed = mix;
    int err;
    CHECK(open_full(&a, &b));
    for (int64_t i = 0, until = rt_nanotime() + 2 * SEC;
         i < ROUNDS(100000) && rt_nanotime() < until; i++) {
        int what = (int)random_below(&seed, STRIKES);
        if (what == KICK_R || what == KICK_BOTH) send_out(&k[0], a.pd, KICK_R);
        if (what == KICK_W || what == KICK_BOTH) send_out(&k[1], a.pd, KICK_W);
        if (what == SHUT) send_out(&k[i % 2], a.pd, SHUT);
        spin_finely(&seed);
        wait_for_all(a.pd, what);
        for (int looks = 0; atomic_load(&k[0].go) || atomic_load(&k[1].go);)
            look_again(&looks);
        if (what ==
            SHUT) { /* the next round has the same pollDesc, which tells nothing: a is full */
            rt_pd_close(a.pd);
            a.pd = rt_pd_open(a.fd, &err);
        }
    }
    close_pair(&a, &b);
}

static void no_strike_is_lost(void *arg) {
    (void)arg;
    striker k[2] = {{.seed = mix + 1}, {.seed = mix + 2}};
    pthread_t t[2] = {foreign(strike, &k[0]), foreign(strike, &k[1])};
    crowd c = {0};
    crowd_go(&c, wait_while_struck, k);
    crowd_wait(&c);
    for (int i = 0; i < 2; i++) {
        atomic_store(&k[i].over, true);
        join_foreign(t[i]);
    }
}

/* ---- races ---- */

typedef struct disturbers {
    duplex *ends[2];
    uint64_t seed;
    _Atomic bool over;
} disturbers;

static void *disturb(void *arg) {
    disturbers *k = arg;
    uint64_t seed = k->seed;
    while (!atomic_load(&k->over)) {
        duplex *d = k->ends[random_below(&seed, 2)];
        int mode = random_below(&seed, 2) ? RT_R : RT_W;
        rt_g *g = atomic_load(&d->g);
        switch (random_below(&seed, 4)) {
        case 0:
            rt_pd_kick(d->f.pd, mode);
            break;
        case 1: /* what its next life waits for, nobody of this test does */
            if (g) rt_interrupt(g, RT_CANCELED);
            break;
        case 2:
            rt_pd_set_deadline(d->f.pd, mode, rt_nanotime() + (int64_t)random_below(&seed, 50000));
            break;
        default:
            rt_pd_set_deadline(d->f.pd, mode, 1);
        }
        spin_for((int64_t)random_below(&seed, 3000));
    }
    return NULL;
}

static void all_that_ends_a_wait_races(void *arg) {
    (void)arg;
    uint64_t seed = mix;
    for (int64_t until = rt_nanotime() + SEC; rt_nanotime() < until;) {
        duplex a, b;
        crowd c = {0};
        CHECK(start_duplex(&a, &b, &c, ROUNDS(500 << 10), &seed));
        disturbers k = {.ends = {&a, &b}, .seed = random_next(&seed)};
        pthread_t t = foreign(disturb, &k);
        crowd_wait(&c);
        atomic_store(&k.over, true);
        join_foreign(t);
        CHECK_EQ(a.read, a.size);
        CHECK_EQ(b.read, b.size);
        close_pair(&a.f, &b.f); /* the next ones use the same pollDescs */
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        in_g_test(either_direction_ends_the_wait),
        in_g_test(both_directions_are_answered),
        in_g_test(what_came_before_is_kept),
        in_g_test(one_direction_and_both_in_turn),
        in_g_test(the_deadline_of_either_ends_the_wait),
        in_g_test(a_deadline_moved_into_the_wait_ends_it),
        in_g_test(a_timeout_keeps_what_came),
        in_g_test(a_gs_own_deadline_ends_the_wait),
        in_g_test(shut_ends_the_wait_and_later_ones),
        in_g_test(an_interrupted_wait_answers_0_and_loses_nothing),
        in_g_test(the_end_is_always_readable),
        in_g_test(who_is_blocked_in_writing_reads_on),
        in_g_test(no_strike_is_lost),
        in_g_test(all_that_ends_a_wait_races),
    };
    const char *s = getenv("RT_SEED");
    mix = s ? strtoull(s, NULL, 10) : (uint64_t)rt_nanotime() % 1000000;
    if (test_procs()) fprintf(stderr, "RT_SEED=%llu\n", (unsigned long long)mix);
    static poller_ops lazy;
    lazy = epoll_ops;
    lazy.poll = poll_lazily;
    atomic_store(&poll_seed, mix);
    netpoll_choose(&lazy);
    RUN_TESTS("netpoll_both", tests);
}
