/* hold: whoever ends a handler, or takes its connection away, ends the wait of the connection's G, whatever that does
 * at the moment, and the exchange goes back once; a reader of a handler's name may have the scheduler's lock; a call
 * that gives the handler its time anew keeps it the connection. */
#include "../base/options.h"
#include "../http/conn.h"
#include "../http/hold.h"
#include "../http/http1.h"

#include "../../runtime/test/harness.h"

/* A connection's G, as conn.c has it, of a connection that nobody reads or writes. */
typedef struct fake {
    host_conn conn; /* its x: what the handler has */
    host_server server;
    int64_t look_ns; /* the longest wait; 0: none has an end */
    bool parts;      /* when the time is over */
    uint64_t random;
    crowd *c;
    _Atomic bool begun, comes, go; /* atomic */
    unsigned end;                  /* the state that ended it */
} fake;

enum { ROOMS = 4 };

static rt_step end_fake(fake *f) {
    f->end = hold_state(f->conn.x);
    if (f->end != HOLD_NONE) {
        server_hold(&f->server);
        hold_parted(f->conn.x);
    } else {
        exchange_give(f->conn.x);
    }
    crowd_leave(f->c);
    return RT_EXIT;
}

static int64_t next_ns(fake *f) {
    return f->look_ns && atomic_load(&f->go)
               ? rt_nanotime() + (int64_t)random_below(&f->random, (uint64_t)f->look_ns)
               : 0;
}

static rt_step fake_step(rt_g *g) {
    fake *f = *RT_LOCAL(g, fake *);
    host_exchange *x = f->conn.x;
    if (!atomic_load(&f->begun)) {
        x = f->conn.x = exchange_take(&f->conn, &http1_ops);
        uint64_t ticket = rt_wait_open(g);
        rt_set_wait(g, RT_WAIT_OTHER, next_ns(f));
        hold_begin(x, ticket);
        atomic_store(&f->begun, true);
        return RT_PARK;
    }
    rt_wait_code(g);
    atomic_store(&f->comes, true);
    while (!atomic_load(&f->go)) /* in its step: whoever sets it may have the scheduler's lock */
        ;
    unsigned state = hold_state(x);
    if (state != HOLD_FREE && state != HOLD_CALL) return end_fake(f);
    if (f->parts && hold_part(x, 504)) return end_fake(f);
    uint64_t ticket = rt_wait_open(g);
    rt_set_wait(g, RT_WAIT_OTHER, next_ns(f));
    if (!hold_again(x, ticket)) rt_wake(g, ticket, RT_WOKEN);
    return RT_PARK;
}

/* Its G has begun to wait for a handler that has the exchange. */
static host_exchange *begin(fake *f, crowd *c) {
    f->c = c;
    f->conn.base.server = &f->server;
    refs_init(&f->server.refs, 1 << 20);
    f->server.listener.limits = &options.limits;
    f->conn.g = rt_new_step(fake_step, NULL);
    *RT_LOCAL(f->conn.g, fake *) = f;
    crowd_enter(c);
    rt_ready(f->conn.g);
    while (!atomic_load(&f->begun))
        rt_yield();
    return f->conn.x;
}

/* ---- every end is noticed ---- */

static void one_handler(uint64_t *random) {
    fake f = {.look_ns = random_below(random, 2) ? 20000 : 0, .go = true, .random = *random};
    f.parts = f.look_ns && random_below(random, 2);
    crowd c = {0};
    host_exchange *x = begin(&f, &c);
    for (int n = (int)random_below(random, 200); n > 0 && hold_take(x); n--)
        hold_give(x);
    bool abandons = random_below(random, 2);
    if (abandons) hold_abandon(x, 502);
    if (hold_take(x)) {
        EXPECT(!abandons);
        hold_end(x);
    } else {
        EXPECT(abandons || f.parts);
        hold_forget(x);
    }
    crowd_wait(&c);
    EXPECT(f.end == HOLD_NONE || abandons || f.parts);
}

static void handlers(void *arg) {
    uint64_t random = (uint64_t)(uintptr_t)arg;
    for (int i = 0; i < ROUNDS(5000); i++)
        one_handler(&random);
}

static void every_end_is_noticed(void *arg) {
    (void)arg;
    crowd c = {0};
    for (uintptr_t i = 0; i < ROOMS; i++)
        crowd_go(&c, handlers, (void *)(i + 1)); /* NOLINT: a number */
    crowd_wait(&c);
}

/* ---- who reads a name ---- */

static struct {
    fake f;
    rt_cell *cell;
    _Atomic bool away, back; /* atomic */
} stuck;

/* The handler runs on and on. */
static rt_step run_on(rt_g *g) {
    (void)g;
    rt_enterforeign();
    atomic_store(&stuck.away, true);
    while (!atomic_load(&stuck.back))
        ;
    (void)rt_exitforeign();
    return RT_EXIT;
}

static bool is_parked(rt_g *g) {
    return atomic_load(&g->status) == G_WAITING;
}

/* With the scheduler's lock. The handler's time ends while its name is read. */
static bool read_name(void *arg) {
    (void)arg;
    host_exchange *x = stuck.f.conn.x;
    if (!EXPECT(hold_take(x))) return false;
    atomic_store(&stuck.f.go, true);
    for (int64_t until = rt_nanotime() + SEC; !is_parked(stuck.f.conn.g) && rt_nanotime() < until;)
        ;
    usleep(1000);
    hold_give(x);
    return false;
}

static void *inspect(void *arg) {
    (void)arg;
    while (!atomic_load(&stuck.f.comes) || !rt_cell_inspect(stuck.cell, read_name, NULL))
        usleep(1000);
    return NULL;
}

static void a_reader_of_names_may_have_the_lock(void *arg) {
    (void)arg;
    crowd c = {0};
    stuck.f = (fake){.look_ns = 50 * MS, .parts = true};
    stuck.cell = rt_cell_new(NULL);
    CHECK(stuck.cell);
    host_exchange *x = begin(&stuck.f, &c);
    rt_ready(rt_new_step(run_on, stuck.cell));
    EXPECT_SOON(atomic_load(&stuck.away));
    pthread_t reader = foreign(inspect, NULL);
    rt_interrupt(stuck.f.conn.g, RT_TIMEOUT);
    join_foreign(reader);
    crowd_wait(&c);
    EXPECT(stuck.f.end == HOLD_PARTING);
    EXPECT(!hold_take(x));
    hold_forget(x);
    atomic_store(&stuck.back, true);
}

/* ---- time anew ---- */

static void a_call_gives_time_anew(void *arg) {
    (void)arg;
    crowd c = {0};
    fake f = {.go = true};
    host_exchange *x = begin(&f, &c);
    options.limits.handler_timeout = 60;
    atomic_store(&x->limit_ns, rt_nanotime() - 1);
    CHECK(hold_take(x));
    EXPECT(!hold_part(x, 504)); /* the connection's G, just then */
    hold_renew(x);
    hold_give(x);
    EXPECT(hold_state(x) == HOLD_FREE);
    EXPECT(atomic_load(&x->limit_ns) > rt_nanotime());
    CHECK(hold_take(x));
    hold_end(x);
    crowd_wait(&c);
    EXPECT(f.end == HOLD_NONE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        in_g_test(every_end_is_noticed),
        in_g_test(a_reader_of_names_may_have_the_lock),
        in_g_test(a_call_gives_time_anew),
    };
    RUN_TESTS("hold", tests);
}
