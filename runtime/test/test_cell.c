/* cell: Gs of one cell never run two at once and keep the order of their posts; a cell is stolen as a G is; no post is
 * lost on a driver that goes to sleep; an endless cell, or one that shares without end, starves nobody. */
#include "harness.h"

/* ---- Gs that several post, again and again ---- */

enum { GS = 24 };

typedef struct post {
    rt_cell *cell;
    crowd *c;
    _Atomic(rt_g *) parked; /* the G while it waits; whoever takes it out may ready it */
    _Atomic int64_t posts, runs;
    _Atomic int *inside; /* of the cell */
    _Atomic bool *stop;
} post;

static post *post_of(rt_g *g) {
    return *(post **)rt_local(g);
}

static bool show_parked(rt_g *g, void *arg) {
    atomic_store(&((post *)arg)->parked, g);
    return true;
}

static rt_step run_and_park(rt_g *g) {
    post *p = post_of(g);
    EXPECT_EQ(atomic_fetch_add(p->inside, 1), 0);
    EXPECT(rt_current_cell() == p->cell);
    EXPECT(rt_self() == g);
    atomic_fetch_add(&p->runs, 1);
    for (volatile int i = 0; i < 50; i++)
        ;
    EXPECT_EQ(atomic_fetch_sub(p->inside, 1), 1);
    if (atomic_load(p->stop)) {
        crowd_leave(p->c);
        return RT_EXIT;
    }
    rt_set_park(g, show_parked, p, RT_WAIT_PARK);
    return RT_PARK;
}

static bool post_one(post *p) {
    rt_g *g = atomic_exchange(&p->parked, NULL);
    if (!g) return false;
    atomic_fetch_add(&p->posts, 1);
    rt_ready(g);
    return true;
}

static post posts[2][GS];
static _Atomic int insides[2];
static _Atomic bool stop, stop_posting;

static void start_posts(rt_cell *cell, int k, crowd *c) {
    atomic_store(&insides[k], 0);
    for (int i = 0; i < GS; i++) {
        post *p = &posts[k][i];
        memset(p, 0, sizeof *p);
        p->cell = cell;
        p->c = c;
        p->inside = &insides[k];
        p->stop = &stop;
        rt_g *g = rt_new_step(run_and_park, cell);
        *(post **)rt_local(g) = p;
        crowd_enter(c);
        atomic_store(&p->parked, g);
    }
}

static void *post_from_a_thread(void *arg) {
    uint64_t seed = (uint64_t)(uintptr_t)arg;
    while (!atomic_load(&stop_posting)) {
        post_one(&posts[random_below(&seed, 2)][random_below(&seed, GS)]);
        if (random_below(&seed, 16) == 0) usleep((useconds_t)random_below(&seed, 100));
    }
    return NULL;
}

static void post_from_a_g(void *arg) {
    uint64_t seed = (uint64_t)(uintptr_t)arg;
    while (!atomic_load(&stop_posting)) {
        for (int i = 0; i < 5; i++)
            post_one(&posts[random_below(&seed, 2)][random_below(&seed, GS)]);
        if (random_below(&seed, 8) == 0)
            rt_sleep((int64_t)random_below(&seed, 100000));
        else
            rt_yield();
    }
}

static void its_gs_never_run_two_at_once(void *arg) {
    (void)arg;
    rt_cell *cells[2] = {rt_cell_new(NULL), rt_cell_new(NULL)};
    crowd c = {0}, posters = {0};
    atomic_store(&stop, false);
    atomic_store(&stop_posting, false);
    for (int k = 0; k < 2; k++)
        start_posts(cells[k], k, &c);
    pthread_t t[3];
    for (uintptr_t i = 0; i < 3; i++)
        t[i] = foreign(post_from_a_thread, (void *)i);
    for (uintptr_t i = 0; i < 4; i++)
        crowd_go(&posters, post_from_a_g, (void *)(i + 10));
    rt_sleep(SEC / 2);
    atomic_store(&stop_posting, true);
    for (int i = 0; i < 3; i++)
        join_foreign(t[i]);
    crowd_wait(&posters);
    int64_t total = 0;
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < GS; i++) {
            post *p = &posts[k][i];
            EXPECT_SOON(atomic_load(&p->parked) != NULL); /* every post was followed by a run */
            EXPECT_EQ(atomic_load(&p->posts), atomic_load(&p->runs));
            total += atomic_load(&p->runs);
        }
    EXPECT(total > 100);
    atomic_store(&stop, true);
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < GS; i++)
            EXPECT(post_one(&posts[k][i]));
    crowd_wait(&c);
}

/* ---- order ---- */

enum { LETTERS = 3000, POSTERS = 3 };

typedef struct letter {
    crowd *c;
    int poster, number;
} letter;

static int last_of[POSTERS]; /* the cell's own: no atomics needed */

static rt_step read_letter(rt_g *g) {
    letter *l = *(letter **)rt_local(g);
    EXPECT_EQ(l->number, last_of[l->poster] + 1);
    last_of[l->poster] = l->number;
    crowd_leave(l->c);
    return RT_EXIT;
}

typedef struct sender {
    rt_cell *cell;
    crowd *c;
    int poster;
    letter letters[LETTERS];
} sender;

static void send_letters(void *arg) {
    sender *s = arg;
    for (int i = 0; i < ROUNDS(LETTERS); i++) {
        s->letters[i] = (letter){s->c, s->poster, i};
        crowd_enter(s->c);
        rt_g *g = rt_new_step(read_letter, s->cell);
        *(letter **)rt_local(g) = &s->letters[i];
        rt_ready(g);
    }
    crowd_leave(s->c);
}

static void *send_from_a_thread(void *arg) {
    send_letters(arg);
    return NULL;
}

static void posts_of_one_poster_stay_in_order(void *arg) {
    (void)arg;
    static sender senders[POSTERS];
    rt_cell *cell = rt_cell_new(senders);
    crowd c = {0};
    pthread_t t[POSTERS];
    CHECK(rt_cell_data(cell) == senders);
    CHECK(rt_current_cell() == NULL);
    for (int i = 0; i < POSTERS; i++) {
        last_of[i] = -1;
        senders[i].cell = cell;
        senders[i].c = &c;
        senders[i].poster = i;
        crowd_enter(&c);
    }
    rt_go(send_letters, &senders[0]);
    for (int i = 1; i < POSTERS; i++)
        t[i] = foreign(send_from_a_thread, &senders[i]);
    crowd_wait(&c);
    for (int i = 1; i < POSTERS; i++)
        join_foreign(t[i]);
    for (int i = 0; i < POSTERS; i++)
        CHECK_EQ(last_of[i], ROUNDS(LETTERS) - 1);
}

/* ---- theft ---- */

static _Atomic int meeting;
static _Atomic uint32_t ps_seen;

static rt_step spin_until_two_met(rt_g *g) {
    (void)g;
    atomic_fetch_or(&ps_seen, 1u << rt_p_id());
    atomic_fetch_add(&meeting, 1);
    int64_t until = rt_nanotime() + PATIENCE_NS;
    while (atomic_load(&meeting) < 2 && rt_nanotime() < until)
        ;
    EXPECT(atomic_load(&meeting) >= 2);
    crowd_leave(*(crowd **)rt_local(g));
    return RT_EXIT;
}

static void a_cell_is_stolen(void *arg) {
    (void)arg;
    if (rt_procs() < 2) return;
    rt_cell *cells[2] = {rt_cell_new(NULL), rt_cell_new(NULL)};
    for (int round = 0; round < 20; round++) {
        crowd c = {0};
        atomic_store(&meeting, 0);
        atomic_store(&ps_seen, 0);
        for (int i = 0; i < 2; i++) { /* both drivers into this P's ring */
            rt_g *g = rt_new_step(spin_until_two_met, cells[i]);
            *(crowd **)rt_local(g) = &c;
            crowd_enter(&c);
            rt_ready(g);
        }
        crowd_wait(&c);
        CHECK_EQ(__builtin_popcount(atomic_load(&ps_seen)), 2);
    }
}

/* ---- the driver goes to sleep ---- */

static rt_step count_run(rt_g *g) {
    post *p = post_of(g);
    atomic_fetch_add(&p->runs, 1);
    if (atomic_load(p->stop)) {
        crowd_leave(p->c);
        return RT_EXIT;
    }
    rt_set_park(g, show_parked, p, RT_WAIT_PARK);
    return RT_PARK;
}

static void *post_singly(void *arg) {
    post *p = arg;
    uint64_t seed = 5;
    for (int i = 0; i < ROUNDS(3000); i++) {
        int64_t until = rt_nanotime() + PATIENCE_NS;
        while (!atomic_load(&p->parked) && rt_nanotime() < until)
            sched_yield();
        spin_for((int64_t)random_below(&seed, 5000)); /* the driver is about to park, or has */
        if (!EXPECT(post_one(p))) return NULL;
    }
    return NULL;
}

static void no_post_is_lost_on_a_driver_that_parks(void *arg) {
    (void)arg;
    static post p;
    crowd c = {0};
    atomic_store(&stop, false);
    memset(&p, 0, sizeof p);
    p.cell = rt_cell_new(NULL);
    p.c = &c;
    p.stop = &stop;
    rt_g *g = rt_new_step(count_run, p.cell);
    *(post **)rt_local(g) = &p;
    crowd_enter(&c);
    atomic_store(&p.parked, g);
    pthread_t t = foreign(post_singly, &p);
    join_foreign(t);
    EXPECT_SOON(atomic_load(&p.parked) != NULL);
    EXPECT_EQ(atomic_load(&p.runs), ROUNDS(3000));
    int64_t runs = atomic_load(&p.runs);
    for (int i = 0; i < ROUNDS(3000); i++) { /* the same from a G */
        int64_t until = rt_nanotime() + PATIENCE_NS;
        while (!atomic_load(&p.parked) && rt_nanotime() < until)
            rt_yield();
        if (!EXPECT(post_one(&p))) break;
    }
    EXPECT_SOON(atomic_load(&p.parked) != NULL);
    EXPECT_EQ(atomic_load(&p.runs), runs + ROUNDS(3000));
    atomic_store(&stop, true);
    EXPECT(post_one(&p));
    crowd_wait(&c);
}

/* ---- fairness ---- */

static _Atomic int64_t cell_yields;

static rt_step yield_until_stopped(rt_g *g) {
    atomic_fetch_add(&cell_yields, 1);
    if (!atomic_load(&stop)) return RT_YIELD;
    crowd_leave(*(crowd **)rt_local(g));
    return RT_EXIT;
}

static _Atomic bool ran;

static void set_ran(void *arg) {
    (void)arg;
    atomic_store(&ran, true);
}

static void *go_ran(void *arg) {
    rt_go(set_ran, arg);
    return NULL;
}

/* Cells, two for each P, with three such Gs each. */
static void start_endless(rt_step_fn step, crowd *c) {
    atomic_store(&stop, false);
    atomic_store(&cell_yields, 0);
    for (int i = 0; i < 2 * rt_procs(); i++) {
        _Atomic int *n_inside = calloc(1, sizeof *n_inside);
        CHECK(n_inside != NULL);
        rt_cell *cell = rt_cell_new((void *)n_inside);
        for (int k = 0; k < 3; k++) {
            rt_g *g = rt_new_step(step, cell);
            *(crowd **)rt_local(g) = c;
            crowd_enter(c);
            rt_ready(g);
        }
    }
}

/* Who is ready, a timer, the poller and the global list have their turn. */
static void all_have_their_turn(void) {
    for (int i = 0; i < 10; i++)
        rt_yield();
    rt_sleep(2 * MS); /* timers */
    int s[2];
    rt_fd f;
    char b;
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, s), 0);
    CHECK_EQ(rt_fd_init(&f, s[0]), 0);
    for (int i = 0; i < 5; i++) { /* the poller */
        rt_pd_set_deadline(f.pd, RT_R, rt_nanotime() + MS);
        EXPECT_EQ(rt_fd_read(&f, &b, 1), RT_ETIMEOUT);
        rt_pd_set_deadline(f.pd, RT_R, 0);
        rt_pd_set_deadline(f.pd, RT_R, rt_nanotime() + PATIENCE_NS);
        EXPECT_EQ(write(s[1], "x", 1), 1);
        EXPECT_EQ(rt_fd_read(&f, &b, 1), 1);
    }
    EXPECT_EQ(rt_fd_close(&f), 0);
    close(s[1]);
    atomic_store(&ran, false);
    pthread_t t = foreign(go_ran, NULL); /* the global list */
    EXPECT_SOON(atomic_load(&ran));
    join_foreign(t);
    EXPECT(atomic_load(&cell_yields) > 100);
    atomic_store(&stop, true);
}

static void starve_nobody(rt_step_fn step) {
    crowd c = {0};
    start_endless(step, &c);
    all_have_their_turn();
    crowd_wait(&c);
}

static void endless_cells_starve_nobody(void *arg) {
    (void)arg;
    starve_nobody(yield_until_stopped);
}

/* The first of its cell: as long as it shares, the others do not run. */
static rt_step share_until_stopped(rt_g *g) {
    rt_cell *cell = rt_current_cell();
    _Atomic int *n_inside = rt_cell_data(cell);
    EXPECT_EQ(atomic_fetch_add(n_inside, 1), 0);
    while (!atomic_load(&stop)) {
        atomic_fetch_add(&cell_yields, 1);
        rt_share();
        EXPECT(rt_self() == g);
        EXPECT(rt_current_cell() == cell);
    }
    EXPECT_EQ(atomic_fetch_sub(n_inside, 1), 1);
    crowd_leave(*(crowd **)rt_local(g));
    return RT_EXIT;
}

static void who_shares_starves_nobody(void *arg) {
    (void)arg;
    starve_nobody(share_until_stopped);
}

/* Of a cell with a G that yields without end. The other G, which `begin` begins, is of p. */
static rt_g *beside_a_yielder(post *p, crowd *c, rt_step_fn begin, bool elsewhere) {
    atomic_store(&stop, false);
    *p = (post){.cell = rt_cell_new(NULL), .c = c, .stop = &stop};
    rt_g *g = rt_new_step(yield_until_stopped, p->cell);
    *(crowd **)rt_local(g) = c;
    crowd_enter(c);
    rt_ready(g);
    g = rt_new_step(begin, elsewhere ? NULL : p->cell);
    *(post **)rt_local(g) = p;
    crowd_enter(c);
    return g;
}

/* Others of the cell run that come by the mailbox. */
static void a_yielder_does_not_starve_its_own_cell(void *arg) {
    (void)arg;
    crowd c = {0};
    static post p;
    rt_g *g = beside_a_yielder(&p, &c, count_run, false);
    atomic_store(&p.parked, g);
    for (int i = 0; i < 20; i++)
        EXPECT_SOON(post_one(&p));
    EXPECT_SOON(atomic_load(&p.parked) != NULL);
    EXPECT_EQ(atomic_load(&p.runs), 20);
    atomic_store(&stop, true);
    EXPECT(post_one(&p));
    crowd_wait(&c);
}

static rt_step move_in(rt_g *g) {
    rt_set_step(g, count_run, post_of(g)->cell);
    return RT_YIELD;
}

/* Nor a G that comes from elsewhere and begins in it. */
static void a_yielder_does_not_starve_who_begins(void *arg) {
    (void)arg;
    crowd c = {0};
    static post p;
    rt_ready(beside_a_yielder(&p, &c, move_in, true));
    EXPECT_SOON(atomic_load(&p.runs) == 1);
    atomic_store(&stop, true);
    EXPECT_SOON(post_one(&p));
    crowd_wait(&c);
}

/* ---- moving ---- */

typedef struct traveller {
    rt_cell *cells[3]; /* the last is none */
    crowd *c;
    int at, laps;
} traveller;

static bool refuse(rt_g *g, void *arg) {
    (void)g;
    (void)arg;
    return false;
}

static rt_step travel(rt_g *g) {
    traveller *t = *(traveller **)rt_local(g);
    EXPECT(rt_current_cell() == t->cells[t->at]);
    t->at = (t->at + 1) % 3;
    if (t->at == 0 && --t->laps == 0) {
        crowd_leave(t->c);
        return RT_EXIT;
    }
    rt_set_step(g, travel, t->cells[t->at]);
    if (t->laps % 3 == 0) return RT_YIELD;
    if (t->laps % 3 == 1) { /* or by a wait that is over before it begins */
        rt_set_park(g, refuse, NULL, RT_WAIT_PARK);
        return RT_PARK;
    }
    rt_wait_open(g); /* or by one that is over at any time */
    rt_set_wait(g, RT_WAIT_SLEEP, rt_nanotime() + 10000);
    return RT_PARK;
}

static rt_step set_out(rt_g *g) {
    traveller *t = *(traveller **)rt_local(g);
    t->at = 0;
    rt_set_step(g, travel, t->cells[0]);
    return RT_YIELD;
}

static void a_g_moves_from_cell_to_cell(void *arg) {
    (void)arg;
    enum { TRAVELLERS = 20 };
    static traveller ts[TRAVELLERS];
    crowd c = {0};
    rt_cell *cells[2] = {rt_cell_new(NULL), rt_cell_new(NULL)};
    for (int i = 0; i < TRAVELLERS; i++) {
        ts[i] = (traveller){{cells[i % 2], cells[1 - i % 2], NULL}, &c, 0, 50};
        rt_g *g = rt_new_step(set_out, NULL);
        *(traveller **)rt_local(g) = &ts[i];
        crowd_enter(&c);
        rt_ready(g);
    }
    crowd_wait(&c);
    for (int i = 0; i < TRAVELLERS; i++)
        CHECK_EQ(ts[i].laps, 0);
}

/* ---- shuffled ---- */

enum { PLAYERS = 8, TURNS = 6, MOVES = PLAYERS * TURNS };

typedef struct game {
    rt_cell *cell;
    crowd *c;
    uint64_t seed;
    bool shuffled;
    int n, moves[MOVES]; /* the cell's own */
    int referee_at;      /* how many moves there were before the G of another step ran */
} game;

typedef struct player {
    game *of;
    int number, turns;
} player;

static rt_step move(rt_g *g) {
    player *p = rt_local(g);
    p->of->moves[p->of->n++] = p->number;
    if (++p->turns < TURNS) return RT_YIELD;
    crowd_leave(p->of->c);
    return RT_EXIT;
}

static rt_step referee(rt_g *g) {
    game *m = *(game **)rt_local(g);
    m->referee_at = m->n;
    crowd_leave(m->c);
    return RT_EXIT;
}

static rt_step open_game(rt_g *g) {
    game *m = *(game **)rt_local(g);
    if (m->shuffled) rt_cell_shuffle(m->cell, m->seed, move);
    for (int i = 0; i < PLAYERS; i++) {
        crowd_enter(m->c);
        rt_g *p = rt_new_step(move, m->cell);
        *(player *)rt_local(p) = (player){m, i, 0};
        rt_ready(p);
    }
    crowd_enter(m->c);
    rt_g *r = rt_new_step(referee, m->cell);
    *(game **)rt_local(r) = m;
    rt_ready(r);
    crowd_leave(m->c);
    return RT_EXIT;
}

static game play(bool shuffled, uint64_t seed) {
    crowd c = {0};
    game m = {.cell = rt_cell_new(NULL), .c = &c, .seed = seed, .shuffled = shuffled};
    crowd_enter(&c);
    rt_g *g = rt_new_step(open_game, m.cell);
    *(game **)rt_local(g) = &m;
    rt_ready(g);
    crowd_wait(&c);
    EXPECT_EQ(m.n, MOVES);
    return m;
}

static bool same_moves(const game *a, const game *b) {
    return memcmp(a->moves, b->moves, sizeof a->moves) == 0;
}

static void a_seed_repeats_a_random_order(void *arg) {
    (void)arg;
    game in_order = play(false, 0);
    for (int i = 0; i < MOVES; i++)
        CHECK_EQ(in_order.moves[i], i % PLAYERS);
    CHECK_EQ(in_order.referee_at, PLAYERS);
    int differ = 0;
    for (uint64_t seed = 0; seed < 10; seed++) {
        game a = play(true, seed), b = play(true, seed), next = play(true, seed + 1);
        CHECK(same_moves(&a, &b));
        CHECK(!same_moves(&a, &in_order));
        CHECK_EQ(a.referee_at, 0); /* it is not drawn, but has its turn */
        int turns[PLAYERS] = {0};
        for (int i = 0; i < MOVES; i++)
            turns[a.moves[i]]++;
        for (int i = 0; i < PLAYERS; i++)
            CHECK_EQ(turns[i], TURNS); /* none is lost, none runs twice */
        differ += !same_moves(&a, &next);
    }
    CHECK_EQ(differ, 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        in_g_test(its_gs_never_run_two_at_once),
        in_g_test(posts_of_one_poster_stay_in_order),
        in_g_test(a_cell_is_stolen),
        in_g_test(no_post_is_lost_on_a_driver_that_parks),
        in_g_test(endless_cells_starve_nobody),
        in_g_test(who_shares_starves_nobody),
        in_g_test(a_yielder_does_not_starve_its_own_cell),
        in_g_test(a_yielder_does_not_starve_who_begins),
        in_g_test(a_g_moves_from_cell_to_cell),
        in_g_test(a_seed_repeats_a_random_order),
    };
    RUN_TESTS("cell", tests);
}
