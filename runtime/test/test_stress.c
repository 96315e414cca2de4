/* stress: Gs by the thousand that spawn, yield, park, wait, sleep, block, read, write, shut and visit
 * cells at random. Nothing is lost and nothing happens twice: each park is ended by one ready, each
 * ticket by one end, each byte comes once and in order, and at the end everybody has ended.
 *
 * Once with as many Ps as there are, and once while their number changes.
 *
 * RT_SEED repeats a mix (not a schedule); RT_STRESS_S says how long each takes, 3 s unless told. */
#include "harness.h"

#include <sys/socket.h>

enum { SLOTS = 64, CELLS = 6, LIVE_MAX = 3000 };

static struct {
    uint64_t seed;
    int64_t end_ns;
    _Atomic int64_t started, ended, live;
    _Atomic int64_t parks, waits, talks, calls, visits, timeouts;
    _Atomic int64_t next_seed;
    _Atomic bool over; /* nobody parks in a slot any more */
    rt_cell *cells[CELLS];
    crowd all;
} st;

static uint64_t new_seed(void) {
    uint64_t s = st.seed + (uint64_t)atomic_fetch_add(&st.next_seed, 1) * 0x9e3779b9;
    return random_next(&s);
}

/* ---- parking: whoever comes by readies whoever lies in a slot ---- */

typedef struct sleeper {
    rt_g *g;
    _Atomic int readied;
} sleeper;

static _Atomic(sleeper *) slots[SLOTS];

static bool lie_down(rt_g *g, void *arg) {
    sleeper *s = arg;
    s->g = g;
    _Atomic(sleeper *) *slot = &slots[(uintptr_t)g / 64 % SLOTS];
    sleeper *none = NULL;
    return atomic_compare_exchange_strong(slot, &none, s); /* taken: runs on */
}

static bool ready_slot(uint64_t i) {
    sleeper *s = atomic_exchange(&slots[i % SLOTS], NULL);
    if (!s) return false;
    rt_g *g = s->g;
    atomic_fetch_add(&s->readied, 1);
    rt_ready(g);
    return true;
}

static void park_in_a_slot(void) {
    sleeper s = {0};
    rt_park(lie_down, &s, RT_WAIT_PARK);
    int readied = atomic_load(&s.readied);
    EXPECT(readied == 0 || readied == 1);
    for (int i = 0; i < SLOTS; i++)
        EXPECT(atomic_load(&slots[i]) != &s);
    atomic_fetch_add(&st.parks, readied);
}

/* None of the runtime's threads; it sees to it that nobody lies for ever. */
static void *ready_slots(void *arg) {
    (void)arg;
    uint64_t seed = new_seed();
    while (!atomic_load(&st.over)) {
        for (int i = 0; i < SLOTS; i++)
            if (random_below(&seed, 3) == 0) ready_slot((uint64_t)i);
        usleep((useconds_t)random_below(&seed, 500));
    }
    return NULL;
}

/* ---- tickets: a helper, a deadline and an interrupt for one wait ---- */

typedef struct race {
    rt_g *g;
    uint64_t ticket, seed;
    _Atomic int wins;
} race;

static void try_to_wake(void *arg) {
    race *r = arg;
    uint64_t seed = r->seed;
    if (random_below(&seed, 2)) rt_yield();
    if (random_below(&seed, 4) == 0) rt_sleep((int64_t)random_below(&seed, 300000));
    if (rt_wake(r->g, r->ticket, RT_WOKEN)) atomic_fetch_add(&r->wins, 1);
}

static void wait_for_a_race(uint64_t *seed) {
    race r = {.g = rt_self(), .seed = random_next(seed)};
    crowd helpers = {0};
    int64_t deadline =
        random_below(seed, 2) ? rt_nanotime() + (int64_t)random_below(seed, 300000) + 1 : 0;
    r.ticket = rt_wait_open(r.g);
    for (uint64_t n = 1 + random_below(seed, 3); n > 0; n--)
        crowd_go(&helpers, try_to_wake, &r);
    rt_wake_code code = rt_wait(RT_WAIT_OTHER, deadline);
    if (code == RT_TIMEOUT) {
        EXPECT(deadline != 0 && rt_nanotime() >= deadline);
        atomic_fetch_add(&st.timeouts, 1);
    }
    crowd_wait(&helpers);
    EXPECT_EQ(atomic_load(&r.wins), code == RT_WOKEN);
    atomic_fetch_add(&st.waits, 1);
}

/* ---- talking: bytes in order, through a pair of sockets ---- */

typedef struct talk {
    rt_fd a, b;
    uint64_t seed;
    int64_t written, read;
    bool ends_by_shut;
} talk;

static void speak(void *arg) {
    talk *t = arg;
    uint64_t seed = t->seed;
    unsigned char buf[700];
    for (uint64_t n = random_below(&seed, 10); n > 0; n--) {
        size_t len = 1 + random_below(&seed, sizeof buf);
        for (size_t i = 0; i < len; i++)
            buf[i] = (unsigned char)(t->written + (int64_t)i);
        ssize_t r = rt_fd_write(&t->a, buf, len);
        if (!EXPECT_EQ(r, (ssize_t)len)) break;
        t->written += r;
        if (random_below(&seed, 4) == 0) rt_sleep((int64_t)random_below(&seed, 200000));
    }
    if (!t->ends_by_shut) shutdown(t->a.fd, SHUT_WR);
}

static void listen_to(void *arg) {
    talk *t = arg;
    uint64_t seed = t->seed ^ 1;
    unsigned char buf[300];
    for (;;) {
        bool hurry = random_below(&seed, 4) == 0;
        rt_pd_set_deadline(t->b.pd, RT_R,
                           hurry ? rt_nanotime() + (int64_t)random_below(&seed, 100000) : 0);
        ssize_t r = rt_fd_read(&t->b, buf, 1 + random_below(&seed, sizeof buf));
        if (r == RT_ETIMEOUT) {
            EXPECT(hurry);
            continue;
        }
        if (r == 0 || r == RT_ECLOSED) {
            EXPECT_EQ(r, t->ends_by_shut ? RT_ECLOSED : 0);
            return;
        }
        if (!EXPECT(r > 0)) return;
        for (ssize_t i = 0; i < r; i++)
            if (!EXPECT_EQ(buf[i], (unsigned char)(t->read + i))) return;
        t->read += r;
    }
}

static void talk_to_another(uint64_t *seed) {
    talk t = {.seed = random_next(seed), .ends_by_shut = random_below(seed, 4) == 0};
    int s[2];
    crowd speaker = {0}, listener = {0};
    int type = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC;
    if (socketpair(AF_UNIX, type, 0, s) < 0) {
        EXPECT(errno == EMFILE);
        return;
    }
    EXPECT_EQ(rt_fd_init(&t.a, s[0]), 0);
    EXPECT_EQ(rt_fd_init(&t.b, s[1]), 0);
    crowd_go(&listener, listen_to, &t);
    crowd_go(&speaker, speak, &t);
    crowd_wait(&speaker);
    if (t.ends_by_shut) rt_pd_shut(t.b.pd);
    crowd_wait(&listener);
    EXPECT(t.ends_by_shut ? t.read <= t.written : t.read == t.written);
    EXPECT_EQ(rt_fd_close(&t.a), 0);
    EXPECT_EQ(rt_fd_close(&t.b), 0);
    atomic_fetch_add(&st.talks, 1);
}

/* ---- visits: a step G that wanders through cells ---- */

typedef struct visitor {
    crowd *c;
    uint64_t seed;
    int stops;
    bool waits;
} visitor;

static rt_step visit(rt_g *g) {
    visitor *v = *(visitor **)rt_local(g);
    if (v->waits) EXPECT_EQ(rt_wait_code(g), RT_TIMEOUT);
    v->waits = false;
    atomic_fetch_add(&st.visits, 1);
    if (v->stops-- == 0) {
        crowd_leave(v->c);
        return RT_EXIT;
    }
    uint64_t to = random_below(&v->seed, CELLS + 2);
    if (to <= CELLS) rt_set_step(g, visit, to == CELLS ? NULL : st.cells[to]);
    ready_slot(random_next(&v->seed));
    if (random_below(&v->seed, 2)) return RT_YIELD;
    v->waits = true;
    rt_wait_open(g);
    rt_set_wait(g, RT_WAIT_SLEEP, rt_nanotime() + (int64_t)random_below(&v->seed, 100000) + 1);
    return RT_PARK;
}

static void send_a_visitor(uint64_t *seed) {
    crowd c = {0};
    visitor v = {&c, random_next(seed), (int)random_below(seed, 20), false};
    crowd_enter(&c);
    rt_g *g = rt_new_step(visit, st.cells[random_below(seed, CELLS)]);
    *(visitor **)rt_local(g) = &v;
    rt_ready(g);
    crowd_wait(&c);
}

static void block_a_while(uint64_t *seed) {
    useconds_t us = (useconds_t)random_below(seed, 200);
    int e = 1 + (int)random_below(seed, 100);
    if (us % 2)
        rt_entersyscall();
    else
        rt_entersyscallblock();
    if (us > 50) usleep(us);
    errno = e;
    rt_exitsyscall();
    atomic_fetch_add(&st.calls, 1);
}

/* ---- actors ---- */

static void act(void *arg);

static void start_actor(void) {
    if (atomic_fetch_add(&st.live, 1) >= ROUNDS(LIVE_MAX)) {
        atomic_fetch_sub(&st.live, 1);
        return;
    }
    atomic_fetch_add(&st.started, 1);
    crowd_go(&st.all, act, NULL);
}

static void act(void *arg) {
    (void)arg;
    uint64_t seed = new_seed();
    for (uint64_t n = random_below(&seed, 40); n > 0 && rt_nanotime() < st.end_ns; n--) {
        switch (random_below(&seed, 12)) {
        case 0:
        case 1:
            start_actor();
            break;
        case 2:
            rt_sleep((int64_t)random_below(&seed, 2 * MS));
            break;
        case 3:
        case 4:
            park_in_a_slot();
            break;
        case 5:
            ready_slot(random_next(&seed));
            break;
        case 6:
            wait_for_a_race(&seed);
            break;
        case 7:
            talk_to_another(&seed);
            break;
        case 8:
            block_a_while(&seed);
            break;
        case 9:
            send_a_visitor(&seed);
            break;
        case 10:
            spin_for((int64_t)random_below(&seed, 20000));
            break;
        default:
            rt_yield();
        }
    }
    atomic_fetch_add(&st.ended, 1);
    atomic_fetch_sub(&st.live, 1);
}

enum { PS_MAX = 8 };

static void change_the_number_of_ps(void *arg) {
    (void)arg;
    uint64_t seed = new_seed();
    while (rt_nanotime() < st.end_ns) {
        int n = 1 + (int)random_below(&seed, PS_MAX);
        EXPECT_EQ(rt_set_procs(n), n);
        rt_sleep((int64_t)random_below(&seed, random_below(&seed, 4) ? 300000 : 20 * MS));
    }
    EXPECT_EQ(rt_set_procs(test_procs()), test_procs());
    EXPECT_SOON(rt_procs_in() == test_procs());
}

static void everybody_acts_at_random(void *arg) {
    rt_stats before, after;
    rt_read_stats(&before);
    atomic_store(&st.over, false);
    for (int i = 0; i < CELLS; i++)
        st.cells[i] = rt_cell_new(NULL);
    if (arg) crowd_go(&st.all, change_the_number_of_ps, NULL);
    pthread_t t = foreign(ready_slots, NULL);
    uint64_t seed = new_seed();
    while (rt_nanotime() < st.end_ns) { /* the actors may die out */
        if (atomic_load(&st.live) < ROUNDS(200)) start_actor();
        if (random_below(&seed, 10) == 0) rt_yield();
    }
    crowd_wait(&st.all);
    atomic_store(&st.over, true);
    join_foreign(t);
    CHECK_EQ(atomic_load(&st.ended), atomic_load(&st.started));
    CHECK_EQ(atomic_load(&st.live), 0);
    for (int i = 0; i < SLOTS; i++)
        CHECK(atomic_load(&slots[i]) == NULL);
    rt_read_stats(&after);
    CHECK_EQ(after.fds, before.fds);
    CHECK_EQ(after.g_syscall, 0);
    CHECK(atomic_load(&st.parks) > 0 && atomic_load(&st.waits) > 0 && atomic_load(&st.talks) > 0);
    CHECK(atomic_load(&st.calls) > 0 && atomic_load(&st.visits) > 0);
}

static void run_stress(void *resize) {
    const char *s = getenv("RT_STRESS_S");
    int64_t length = (s ? atoi(s) : 3) * SEC;
    st.end_ns = rt_nanotime() + length;
    in_g_for(everybody_acts_at_random, resize, length + 2 * LIMIT_NS);
    print_message(
        "%lld Gs, %lld parks, %lld waits (%lld timeouts), %lld talks, %lld calls, %lld visits\n",
        (long long)st.started, (long long)st.parks, (long long)st.waits, (long long)st.timeouts,
        (long long)st.talks, (long long)st.calls, (long long)st.visits);
}

static void stress(void **state) {
    (void)state;
    run_stress(NULL);
}

static void stress_while_ps_come_and_go(void **state) {
    (void)state;
    run_stress(&st);
}

int main(void) {
    if (!test_procs()) return run_for_each_procs();
    setenv("LUNAPARK_DEBUG", "mexit=1", 1);
    const struct CMUnitTest tests[] = {cmocka_unit_test(stress),
                                       cmocka_unit_test(stress_while_ps_come_and_go)};
    const char *s = getenv("RT_SEED");
    st.seed = s ? strtoull(s, NULL, 10) : (uint64_t)rt_nanotime() % 1000000;
    fprintf(stderr, "RT_SEED=%llu\n", (unsigned long long)st.seed);
    start_runtime(st.seed);
    char title[64];
    snprintf(title, sizeof title, "stress, %d Ps", test_procs());
    return cmocka_run_group_tests_name(title, tests, NULL, NULL);
}
