/* bell: no order of looking, waiting and ringing loses a ring; what was written before it is seen; a wait that ends
 * early leaves the bell fit for the next one; the ring that ends the last wait is the last to touch the bell. */
#include "../base/bell.h"

#include "../../runtime/test/harness.h"

/* Long enough for whatever comes, short enough that a lost ring is this test's failure and not its end. */
static int64_t soon(void) {
    return rt_nanotime() + 20 * SEC;
}

/* ---- one side answers the other ---- */

static struct {
    bell ping, pong;
    int64_t asked, answered; /* no atomics: the rings order them */
} table;

static void answer(void *arg) {
    int64_t rounds = *(int64_t *)arg;
    for (int64_t i = 1; i <= rounds; i++) {
        CHECK(bell_wait(&table.ping, soon()));
        CHECK_EQ(table.asked, i);
        table.answered = i;
        bell_ring(&table.pong);
    }
}

static void what_was_written_comes_with_the_ring(void *arg) {
    (void)arg;
    int64_t rounds = ROUNDS(100000);
    crowd c = {0};
    crowd_go(&c, answer, &rounds);
    for (int64_t i = 1; i <= rounds; i++) {
        table.asked = i;
        bell_ring(&table.ping);
        if (!EXPECT(bell_wait(&table.pong, soon())) || !EXPECT_EQ(table.answered, i)) break;
    }
    crowd_wait(&c);
}

/* ---- the moment between the look and the wait ---- */

static struct {
    bell bell;
    _Atomic int64_t made, seen; /* relaxed: it is the bell that is tried */
    int64_t rounds;
    _Atomic bool lost;
} hunt;

static void ring_a_little_later(uint64_t *random, int64_t made) {
    for (volatile uint64_t n = random_below(random, UINT64_C(1) << random_below(random, 11)); n > 0;
         n--)
        ;
    atomic_store_explicit(&hunt.made, made, memory_order_relaxed);
    bell_ring(&hunt.bell);
}

/* Rings twice after each look, at other moments each time: some fall between any two steps of the wait, and of the
 * taking of the one before. */
static void *ring_as_it_looks(void *arg) {
    uint64_t random = (uint64_t)(uintptr_t)arg;
    for (int64_t i = 2; i <= hunt.rounds; i += 2) {
        while (atomic_load_explicit(&hunt.seen, memory_order_relaxed) < i - 2)
            if (atomic_load(&hunt.lost)) return NULL;
        ring_a_little_later(&random, i - 1);
        ring_a_little_later(&random, i);
    }
    return NULL;
}

static void no_moment_loses_a_ring(void *arg) {
    (void)arg;
    hunt.rounds = ROUNDS(100000);
    pthread_t t = foreign(ring_as_it_looks, (void *)(uintptr_t)7);
    for (int64_t i = 2; i <= hunt.rounds; i += 2) {
        while (atomic_load_explicit(&hunt.made, memory_order_relaxed) < i)
            if (!EXPECT(bell_wait(&hunt.bell, soon()))) goto out;
        atomic_store_explicit(&hunt.seen, i, memory_order_relaxed);
    }
out:
    atomic_store(&hunt.lost, true);
    join_foreign(t);
}

/* ---- several ring ---- */

enum { RINGERS = 4 };

static struct {
    bell bell;
    _Atomic int64_t left;
} crew;

static void do_some(void *arg) {
    for (int64_t n = *(int64_t *)arg; n > 0; n--) {
        if (atomic_fetch_sub_explicit(&crew.left, 1, memory_order_relaxed) % 16 == 1)
            bell_ring(&crew.bell);
        if (n % 64 == 0) rt_yield();
    }
    bell_ring(&crew.bell);
}

static void many_ring_for_one(void *arg) {
    (void)arg;
    int64_t each = ROUNDS(20000);
    crowd c = {0};
    atomic_store(&crew.left, each * RINGERS);
    for (int i = 0; i < RINGERS; i++)
        crowd_go(&c, do_some, &each);
    while (atomic_load_explicit(&crew.left, memory_order_relaxed) > 0)
        if (!EXPECT(bell_wait(&crew.bell, soon()))) break;
    crowd_wait(&c);
}

/* ---- early and late ---- */

static void a_ring_is_kept_until_it_is_taken(void *arg) {
    (void)arg;
    bell b = {0};
    EXPECT(!bell_is_rung(&b));
    EXPECT(!bell_take(&b));
    bell_ring(&b);
    bell_ring(&b);
    EXPECT(bell_is_rung(&b));
    EXPECT(bell_wait(&b, soon()));
    EXPECT(!bell_is_rung(&b));
    EXPECT(!bell_wait(&b, rt_nanotime() + MS));
    bell_ring(&b); /* too late for that one */
    EXPECT(bell_take(&b));
    EXPECT(!bell_take(&b));
}

typedef struct sleeper {
    bell *bell;
    _Atomic int state; /* 1: about to wait; 2: has given up; 3: has been woken since */
    _Atomic uint64_t ticket;
    rt_g *g;
} sleeper;

static void give_up_and_sleep(void *arg) {
    sleeper *s = arg;
    CHECK(!bell_wait(s->bell, rt_nanotime() + MS));
    s->g = rt_self();
    atomic_store(&s->ticket, rt_wait_open(s->g));
    atomic_store(&s->state, 2);
    rt_wait(RT_WAIT_OTHER, soon());
    atomic_store(&s->state, 3);
}

static void wait_for_it(void *arg) {
    sleeper *s = arg;
    atomic_store(&s->state, 1);
    EXPECT(bell_wait(s->bell, soon()));
}

/* One after another, whatever numbers their tickets have. */
static void a_ring_ends_the_wait_that_there_is(void *arg) {
    (void)arg;
    bell b = {0};
    sleeper was = {.bell = &b}, is = {.bell = &b};
    crowd c = {0};
    crowd_go(&c, give_up_and_sleep, &was);
    EXPECT_SOON(atomic_load(&was.state) == 2);
    crowd_go(&c, wait_for_it, &is);
    EXPECT_SOON(atomic_load(&b.word) & BELL_WAITS);
    bell_ring(&b);
    rt_sleep(5 * MS);
    EXPECT_EQ(atomic_load(&was.state), 2);
    EXPECT(rt_wake(was.g, atomic_load(&was.ticket), RT_WOKEN));
    crowd_wait(&c);
}

/* As a step G does it, and a Lua G. */
static void an_armed_wait_ends_or_does_not_begin(void *arg) {
    (void)arg;
    bell b = {0};
    rt_g *g = rt_self();
    uint64_t ticket = rt_wait_open(g);
    CHECK(bell_arm(&b, g, ticket));
    bell_ring(&b);
    EXPECT_EQ(rt_wait(RT_WAIT_OTHER, soon()), RT_WOKEN);
    ticket = rt_wait_open(g);
    EXPECT(!bell_arm(&b, g, ticket)); /* nobody has taken it */
    EXPECT(rt_wake(g, ticket, RT_TIMEOUT));
    EXPECT_EQ(rt_wait(RT_WAIT_OTHER, soon()), RT_TIMEOUT);
    EXPECT(bell_take(&b));
    ticket = rt_wait_open(g);
    CHECK(bell_arm(&b, g, ticket));
    EXPECT_EQ(rt_wait(RT_WAIT_OTHER, rt_nanotime() + MS), RT_TIMEOUT);
    ticket = rt_wait_open(g);
    CHECK(bell_arm(&b, g, ticket)); /* anew, without a taking */
    bell_ring(&b);
    EXPECT_EQ(rt_wait(RT_WAIT_OTHER, soon()), RT_WOKEN);
}

/* ---- who frees ---- */

static void ring_once(void *arg) {
    bell_ring(arg);
}

/* A sanitizer sees a ring that touches the bell after the wait has ended; else what is written over it is spoiled. */
static void the_side_that_waits_may_free(void *arg) {
    (void)arg;
    crowd c = {0};
    for (int i = ROUNDS(20000); i > 0; i--) {
        bell *b = calloc(1, sizeof *b);
        crowd_go(&c, ring_once, b);
        bool rung = bell_wait(b, soon());
        memset(b, 0x5a, sizeof *b);
        if (i % 4 == 0) rt_yield();
        for (size_t k = 0; k < sizeof *b; k++)
            if (!EXPECT(((unsigned char *)b)[k] == 0x5a)) goto out;
        if (!EXPECT(rung)) goto out;
        free(b);
    }
out:
    crowd_wait(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        in_g_test(a_ring_is_kept_until_it_is_taken),
        in_g_test(an_armed_wait_ends_or_does_not_begin),
        in_g_test(a_ring_ends_the_wait_that_there_is),
        in_g_test(what_was_written_comes_with_the_ring),
        in_g_test(no_moment_loses_a_ring),
        in_g_test(many_ring_for_one),
        in_g_test(the_side_that_waits_may_free),
    };
    RUN_TESTS("bell", tests);
}
