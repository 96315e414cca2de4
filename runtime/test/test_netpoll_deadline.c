/* netpoll: deadlines end waits for descriptors and never early; moved, cleared and those of a former
 * use; no edge is lost to them, also where they race with data and shut. */
#include "net.h"

/* The deadline that was at until does not end it any more: data does, written to peer. */
static void expect_data_alone_to_end(one_call *w, crowd *c, int64_t until, rt_fd *peer) {
    while (rt_nanotime() < until + 20 * MS)
        rt_sleep(10 * MS);
    EXPECT(!atomic_load(&w->ended));
    EXPECT_EQ(rt_fd_write(peer, "x", 1), 1);
    crowd_wait(c);
    EXPECT_EQ(w->r, 1);
}

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
    one_call w;
    crowd c = {0};
    CHECK(open_pair(&a, &b));
    rt_pd_set_deadline(a.pd, RT_R, rt_nanotime() + 3600 * SEC);
    start_call(&c, &w, &a, read_one);
    rt_pd_set_deadline(a.pd, RT_R, rt_nanotime() + 5 * MS);
    crowd_wait(&c);
    CHECK_EQ(w.r, RT_ETIMEOUT);
    rt_pd_set_deadline(a.pd, RT_R, 0); /* none, then one in the past */
    start_call(&c, &w, &a, read_one);
    rt_pd_set_deadline(a.pd, RT_R, 1);
    crowd_wait(&c);
    CHECK_EQ(w.r, RT_ETIMEOUT);
    close_pair(&a, &b);
}

static void a_deadline_moved_later_holds_later(void *arg) {
    (void)arg;
    rt_fd a, b;
    one_call w;
    crowd c = {0};
    CHECK(open_pair(&a, &b));
    int64_t start = rt_nanotime();
    rt_pd_set_deadline(a.pd, RT_R, start + 200 * MS);
    start_call(&c, &w, &a, read_one);
    rt_pd_set_deadline(a.pd, RT_R, start + 300 * MS);
    crowd_wait(&c);
    CHECK_EQ(w.r, RT_ETIMEOUT);
    CHECK(w.at_ns >= start + 300 * MS);
    close_pair(&a, &b);
}

static void a_cleared_deadline_does_not_come(void *arg) {
    (void)arg;
    rt_fd a, b;
    one_call w;
    crowd c = {0};
    CHECK(open_pair(&a, &b));
    int64_t until = rt_nanotime() + 100 * MS;
    rt_pd_set_deadline(a.pd, RT_R, until);
    start_call(&c, &w, &a, read_one);
    rt_pd_set_deadline(a.pd, RT_R, 0);
    expect_data_alone_to_end(&w, &c, until, &b);
    close_pair(&a, &b);
}

/* The timer of the former use stands in a heap when the pollDesc is used again. */
static void a_deadline_ends_with_its_descriptor(void *arg) {
    (void)arg;
    rt_fd a, b;
    one_call w;
    crowd c = {0};
    CHECK(open_pair(&a, &b));
    rt_pd *pd = b.pd;
    int64_t until = rt_nanotime() + 50 * MS;
    rt_pd_set_deadline(b.pd, RT_R, until);
    close_pair(&a, &b);
    CHECK(open_pair(&b, &a));
    CHECK(b.pd == pd);
    start_call(&c, &w, &b, read_one);
    expect_data_alone_to_end(&w, &c, until, &a);
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
        rt_pd_set_deadline(a.pd, RT_R, rt_nanotime() + PATIENCE_NS);
        if (r == RT_ETIMEOUT) CHECK_EQ(rt_pd_wait(a.pd, RT_R, RT_WAIT_READ), 0);
        CHECK_EQ(read(a.fd, buf, 8), 1);
        rt_pd_set_deadline(a.pd, RT_R, 0);
    }
    close_pair(&a, &b);
}

static ssize_t wait_for_edge(rt_fd *f) {
    int r = rt_pd_wait(f->pd, RT_R, RT_WAIT_READ);
    if (r != RT_ETIMEOUT) return r;
    rt_pd_set_deadline(f->pd, RT_R, 0);
    rt_pd_set_deadline(f->pd, RT_R, rt_nanotime() + PATIENCE_NS);
    return rt_pd_wait(f->pd, RT_R, RT_WAIT_READ);
}

/* The same for a G that the event has taken out already, but that comes to run too late. */
static void a_deadline_on_the_way_to_the_p_does_not_either(void *arg) {
    (void)arg;
    for (int i = 0; i < 20; i++) {
        rt_fd a, b;
        crowd c = {0};
        CHECK(open_pair(&a, &b));
        one_call w;
        rt_pd_set_deadline(a.pd, RT_R, rt_nanotime() + 6 * MS);
        go_call(&c, &w, &a, wait_for_edge);
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

static ssize_t wait_with_own_deadline(rt_fd *f) {
    int64_t until = rt_nanotime() + 5 * MS;
    int r;
    rt_set_deadline(rt_self(), until);
    do
        r = rt_pd_wait(f->pd, RT_R, RT_WAIT_READ);
    while (r == 0 && rt_nanotime() < until);
    EXPECT(rt_nanotime() >= until);
    rt_set_deadline(rt_self(), 0);
    return r;
}

static void a_gs_own_deadline_ends_a_wait_for_a_descriptor(void *arg) {
    (void)arg;
    rt_fd a, b;
    crowd c = {0};
    CHECK(open_pair(&a, &b));
    for (int i = 0; i < 10; i++) {
        one_call w;
        go_call(&c, &w, &a, wait_with_own_deadline);
        crowd_wait(&c);
        CHECK(w.r == 0 || w.r == RT_ETIMEOUT);
    }
    close_pair(&a, &b);
}

/* ---- races ---- */

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

int main(void) {
    const struct CMUnitTest tests[] = {
        in_g_test(a_deadline_in_the_past_fails_at_once),
        in_g_test(deadlines_end_waits_and_not_early),
        in_g_test(a_deadline_moved_earlier_ends_the_wait),
        in_g_test(a_deadline_moved_later_holds_later),
        in_g_test(a_cleared_deadline_does_not_come),
        in_g_test(a_deadline_ends_with_its_descriptor),
        in_g_test(a_timeout_does_not_eat_the_edge),
        in_g_test(a_deadline_on_the_way_to_the_p_does_not_either),
        in_g_test(a_gs_own_deadline_ends_a_wait_for_a_descriptor),
        in_g_test(ends_race_with_each_other),
    };
    RUN_TESTS("netpoll_deadline", tests);
}
