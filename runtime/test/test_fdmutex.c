/* fdmutex: one reader and one writer at a time, in the order in which they came; close sends away who
 * queues and waits for who is in; interrupts and deadlines end a place in the queue and nothing else. */
#include "harness.h"

static void a_zeroed_one_is_closed(void *arg) {
    (void)arg;
    rt_fdmutex m = {0};
    CHECK_EQ(fdmutex_enter(&m), RT_ECLOSED);
    CHECK_EQ(fdmutex_lock(&m, RT_R, RT_WAIT_READ), RT_ECLOSED);
    CHECK_EQ(fdmutex_close(&m), RT_ECLOSED);
    fdmutex_open(&m);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(fdmutex_lock(&m, RT_R, RT_WAIT_READ), 0);
        CHECK_EQ(fdmutex_lock(&m, RT_W, RT_WAIT_WRITE), 0); /* both directions at once */
        CHECK_EQ(fdmutex_enter(&m), 0);
        fdmutex_unlock(&m, RT_R);
        fdmutex_unlock(&m, RT_W);
        fdmutex_leave(&m);
    }
    CHECK_EQ(fdmutex_close(&m), 0);
    fdmutex_drain(&m);
    CHECK_EQ(fdmutex_close(&m), RT_ECLOSED);
    CHECK_EQ(fdmutex_lock(&m, RT_W, RT_WAIT_WRITE), RT_ECLOSED);
}

typedef struct queuer {
    rt_fdmutex *m;
    int mode, place;
    int64_t deadline_ns;
    _Atomic bool began, ended;
    int r;
    _Atomic int *turn; /* who is next; NULL: leaves the lock at once */
    rt_g *g;
} queuer;

static void queue_up(void *arg) {
    queuer *q = arg;
    atomic_store(&q->began, true);
    if (q->deadline_ns) rt_set_deadline(rt_self(), q->deadline_ns);
    q->r = fdmutex_lock(q->m, q->mode, RT_WAIT_READ);
    if (q->deadline_ns && q->r == 0) { /* it still has its deadline */
        int64_t t = atomic_load(&rt_self()->timer.until);
        EXPECT_EQ(t, q->deadline_ns);
    }
    rt_set_deadline(rt_self(), 0);
    if (q->r == 0) {
        if (q->turn) EXPECT_EQ(atomic_fetch_add(q->turn, 1), q->place);
        rt_yield();
        fdmutex_unlock(q->m, q->mode);
    }
    atomic_store(&q->ended, true);
}

static void start_queuer(crowd *c, queuer *q, queuer as) {
    memcpy(q, &as, sizeof as);
    q->g = crowd_go(c, queue_up, q);
    EXPECT_SOON(atomic_load(&q->began));
    rt_sleep(MS);
    EXPECT(!atomic_load(&q->ended));
}

static bool waits(rt_fdmutex *m, int side, uint64_t n) {
    return (atomic_load(&m->state) >> (23 + 20 * side) & 0xfffff) == n;
}

enum { QUEUERS = 8 };

static void the_lock_goes_to_who_came_first(void *arg) {
    (void)arg;
    rt_fdmutex m;
    queuer q[2][QUEUERS];
    _Atomic int turn[2] = {0, 0};
    crowd c = {0};
    fdmutex_open(&m);
    CHECK_EQ(fdmutex_lock(&m, RT_R, RT_WAIT_READ), 0);
    CHECK_EQ(fdmutex_lock(&m, RT_W, RT_WAIT_WRITE), 0);
    for (int i = 0; i < QUEUERS; i++) {
        start_queuer(&c, &q[0][i],
                     (queuer){.m = &m,
                              .mode = RT_R,
                              .place = i,
                              .turn = &turn[0],
                              .deadline_ns = i % 2 ? rt_nanotime() + 60 * SEC : 0});
        start_queuer(&c, &q[1][i], (queuer){.m = &m, .mode = RT_W, .place = i, .turn = &turn[1]});
        EXPECT_SOON(waits(&m, 0, (uint64_t)i + 1) && waits(&m, 1, (uint64_t)i + 1));
    }
    fdmutex_unlock(&m, RT_R);
    EXPECT_SOON(atomic_load(&turn[0]) == QUEUERS);
    CHECK_EQ(atomic_load(&turn[1]), 0); /* the other direction has not moved */
    fdmutex_unlock(&m, RT_W);
    crowd_wait(&c);
    CHECK_EQ(atomic_load(&turn[1]), QUEUERS);
    CHECK_EQ(fdmutex_close(&m), 0);
    fdmutex_drain(&m);
}

static void interrupts_and_deadlines_end_a_place(void *arg) {
    (void)arg;
    rt_fdmutex m;
    queuer q[4];
    crowd c = {0};
    fdmutex_open(&m);
    CHECK_EQ(fdmutex_lock(&m, RT_R, RT_WAIT_READ), 0);
    for (int i = 0; i < 3; i++)
        start_queuer(&c, &q[i], (queuer){.m = &m, .mode = RT_R});
    int64_t until = rt_nanotime() + 20 * MS;
    memcpy(&q[3], &(queuer){.m = &m, .mode = RT_R, .deadline_ns = until}, sizeof *q);
    crowd_go(&c, queue_up, &q[3]);
    EXPECT_SOON(rt_interrupt(q[1].g, RT_CANCELED)); /* the middle one */
    EXPECT_SOON(atomic_load(&q[1].ended));
    EXPECT_SOON(atomic_load(&q[3].ended));
    EXPECT(rt_nanotime() >= until);
    EXPECT_SOON(waits(&m, 0, 2));
    fdmutex_unlock(&m, RT_R);
    crowd_wait(&c);
    CHECK_EQ(q[0].r, 0);
    CHECK_EQ(q[1].r, RT_ECANCELED);
    CHECK_EQ(q[2].r, 0);
    CHECK_EQ(q[3].r, RT_ETIMEOUT);
    CHECK_EQ(fdmutex_close(&m), 0);
    fdmutex_drain(&m);
}

/* With one P the first in the queue is still there when the lock is handed over, and its wait has ended. */
static void the_lock_does_not_go_to_who_gave_up(void *arg) {
    (void)arg;
    rt_fdmutex m;
    queuer q[2];
    fdmutex_open(&m);
    for (int i = 0; i < 10; i++) {
        crowd c = {0};
        CHECK_EQ(fdmutex_lock(&m, RT_R, RT_WAIT_READ), 0);
        for (uint64_t k = 0; k < 2; k++) {
            start_queuer(&c, &q[k], (queuer){.m = &m, .mode = RT_R});
            EXPECT_SOON(waits(&m, 0, k + 1));
        }
        EXPECT_SOON(rt_interrupt(q[0].g, RT_CANCELED));
        fdmutex_unlock(&m, RT_R);
        crowd_wait(&c);
        CHECK_EQ(q[0].r, RT_ECANCELED);
        CHECK_EQ(q[1].r, 0);
    }
    CHECK_EQ(fdmutex_close(&m), 0);
    fdmutex_drain(&m);
}

typedef struct closing {
    rt_fdmutex *m;
    _Atomic bool marked, drained;
} closing;

static void close_it(void *arg) {
    closing *k = arg;
    EXPECT_EQ(fdmutex_close(k->m), 0);
    atomic_store(&k->marked, true);
    fdmutex_drain(k->m);
    atomic_store(&k->drained, true);
}

static void close_waits_for_users_and_sends_queuers_away(void *arg) {
    (void)arg;
    rt_fdmutex m;
    queuer q[4];
    crowd c = {0}, closer = {0};
    fdmutex_open(&m);
    CHECK_EQ(fdmutex_lock(&m, RT_R, RT_WAIT_READ), 0);
    CHECK_EQ(fdmutex_lock(&m, RT_W, RT_WAIT_WRITE), 0);
    CHECK_EQ(fdmutex_enter(&m), 0);
    for (int i = 0; i < 4; i++)
        start_queuer(&c, &q[i], (queuer){.m = &m, .mode = i % 2 ? RT_R : RT_W});
    closing k = {.m = &m};
    rt_g *g = crowd_go(&closer, close_it, &k);
    crowd_wait(&c);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(q[i].r, RT_ECLOSED);
    EXPECT_SOON(atomic_load(&k.marked)); /* they are sent away before fdmutex_close returns */
    CHECK_EQ(fdmutex_close(&m), RT_ECLOSED);
    CHECK_EQ(fdmutex_enter(&m), RT_ECLOSED);
    fdmutex_unlock(&m, RT_R);
    rt_sleep(2 * MS);
    CHECK(!rt_interrupt(g, RT_CANCELED)); /* a close goes on */
    rt_cancel(g, rt_id(g));
    fdmutex_leave(&m);
    rt_sleep(2 * MS);
    CHECK(!atomic_load(&k.drained));
    fdmutex_unlock(&m, RT_W);
    crowd_wait(&closer);
    CHECK(atomic_load(&k.drained));
}

/* ---- everything at once ---- */

typedef struct brawl {
    rt_fdmutex *m;
    int64_t inside[2]; /* not atomic: the locks protect it */
    _Atomic int64_t got, closed, canceled, timed_out;
    _Atomic bool over;
    uint64_t seed;
    _Atomic(rt_g *) gs[12];
} brawl;

typedef struct fighter {
    brawl *b;
    int i;
} fighter;

static void fight(void *arg) {
    fighter *f = arg;
    brawl *b = f->b;
    uint64_t seed = b->seed + (uint64_t)f->i;
    atomic_store(&b->gs[f->i], rt_self());
    for (;;) {
        int mode = random_below(&seed, 2) ? RT_R : RT_W;
        if (random_below(&seed, 4) == 0)
            rt_set_deadline(rt_self(), rt_nanotime() + (int64_t)random_below(&seed, 50000));
        int r = fdmutex_lock(b->m, mode, RT_WAIT_READ);
        rt_set_deadline(rt_self(), 0);
        if (r == RT_ECLOSED) break;
        if (r) {
            atomic_fetch_add(r == RT_ETIMEOUT ? &b->timed_out : &b->canceled, 1);
            continue;
        }
        int64_t *in = &b->inside[mode == RT_W];
        EXPECT_EQ(*in, 0);
        *in = f->i + 1;
        if (random_below(&seed, 3) == 0) rt_yield();
        EXPECT_EQ(*in, f->i + 1);
        *in = 0;
        atomic_fetch_add(&b->got, 1);
        fdmutex_unlock(b->m, mode);
        if (random_below(&seed, 8) == 0 && fdmutex_enter(b->m) == 0) fdmutex_leave(b->m);
        if (random_below(&seed, 4) == 0) rt_yield();
    }
    atomic_fetch_add(&b->closed, 1);
    free(f);
}

static void *interrupt_fighters(void *arg) {
    brawl *b = arg;
    uint64_t seed = b->seed;
    while (!atomic_load(&b->over)) {
        rt_g *g = atomic_load(&b->gs[random_below(&seed, 12)]);
        if (g) rt_interrupt(g, RT_CANCELED);
        usleep(20);
    }
    return NULL;
}

static void a_brawl_loses_nobody(void *arg) {
    (void)arg;
    int64_t got = 0;
    for (int round = 0; round < ROUNDS(40); round++) {
        brawl b = {.m = malloc(sizeof *b.m), .seed = (uint64_t)round * 77};
        fdmutex_open(b.m);
        crowd c = {0};
        for (int i = 0; i < 12; i++) {
            fighter *f = malloc(sizeof *f);
            *f = (fighter){&b, i};
            crowd_go(&c, fight, f);
        }
        pthread_t t = foreign(interrupt_fighters, &b);
        rt_sleep(round % 4 * MS);
        CHECK_EQ(fdmutex_close(b.m), 0);
        fdmutex_drain(b.m);
        /* Who comes late finds it closed, at most after he has taken its lock: no queue is touched. */
        rt_lock_acquire(&b.m->lock);
        memset(b.m->last, 0xee, sizeof b.m->last);
        memset(&b.m->closer, 0xee, sizeof b.m->closer);
        rt_lock_release(&b.m->lock);
        crowd_wait(&c);
        atomic_store(&b.over, true);
        join_foreign(t);
        CHECK_EQ(atomic_load(&b.closed), 12);
        got += atomic_load(&b.got);
        free(b.m);
    }
    CHECK(got > 100);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        in_g_test(a_zeroed_one_is_closed),
        in_g_test(the_lock_goes_to_who_came_first),
        in_g_test(interrupts_and_deadlines_end_a_place),
        in_g_test(the_lock_does_not_go_to_who_gave_up),
        in_g_test(close_waits_for_users_and_sends_queuers_away),
        in_g_test(a_brawl_loses_nobody),
    };
    RUN_TESTS("fdmutex", tests);
}
