/* cell: Gs that wait in the midst of their step keep their stack, whatever runs meanwhile and wherever they
 * wake; stacks are given back. Foreign code: it loses its P only when it lasts, nothing of its cell moves
 * until it is back, what has not begun there begins elsewhere. */
#include "harness.h"

#include <sys/mman.h>

/* ---- leaving a stack ---- */

enum { CELLS = 3, GS = 24, DEPTH = 5 };

typedef struct walker {
    rt_cell *cell;
    _Atomic int *inside;
    crowd *c;
    uint64_t random;
    int rounds;
    int64_t leaves;
} walker;

static bool refuse(rt_g *g, void *arg) {
    (void)g;
    (void)arg;
    return false;
}

/* One wait of a random kind, in the midst of everything. */
static void wait_here(walker *w) {
    rt_g *g = rt_self();
    atomic_fetch_sub(w->inside, 1);
    switch (random_below(&w->random, 4)) {
    case 0:
        rt_leave_stack(RT_YIELD);
        break;
    case 1:
        rt_set_park(g, refuse, NULL, RT_WAIT_PARK);
        rt_leave_stack(RT_PARK);
        break;
    default:
        rt_wait_open(g);
        rt_set_wait(g, RT_WAIT_SLEEP, rt_nanotime() + (int64_t)random_below(&w->random, 300000));
        rt_leave_stack(RT_PARK);
        EXPECT_EQ(rt_wait_code(g), RT_TIMEOUT);
    }
    EXPECT_EQ(atomic_fetch_add(w->inside, 1), 0);
    EXPECT(rt_self() == g && rt_current_cell() == w->cell);
    w->leaves++;
}

/* Recursion with memory of its own in each frame. */
static uint64_t descend(walker *w, int depth, uint64_t seed) {
    volatile uint64_t frame[64];
    for (int i = 0; i < 64; i++)
        frame[i] = seed * 31 + (uint64_t)i;
    uint64_t sum = depth ? descend(w, depth - 1, seed + 1) : 0;
    if (random_below(&w->random, 2)) wait_here(w);
    for (int i = 0; i < 64; i++)
        if (frame[i] != seed * 31 + (uint64_t)i) EXPECT(!"a frame is as it was left");
    return sum + seed;
}

static rt_step walk(rt_g *g) {
    walker *w = *(walker **)rt_local(g);
    EXPECT_EQ(atomic_fetch_add(w->inside, 1), 0);
    uint64_t seed = random_next(&w->random) >> 8;
    uint64_t sum = descend(w, DEPTH, seed);
    EXPECT_EQ((int64_t)sum, (int64_t)(seed * (DEPTH + 1) + DEPTH * (DEPTH + 1) / 2));
    bool done = --w->rounds == 0;
    atomic_fetch_sub(w->inside, 1);
    if (done) crowd_leave(w->c);
    return done ? RT_EXIT : RT_YIELD;
}

static int32_t held(void) {
    rt_stats s;
    rt_read_stats(&s);
    return s.held_stacks;
}

static void waits_in_the_midst_of_a_step(void *arg) {
    (void)arg;
    static walker ws[GS];
    _Atomic int inside[CELLS] = {0};
    crowd c = {0};
    rt_cell *cells[CELLS];
    for (int i = 0; i < CELLS; i++)
        cells[i] = rt_cell_new(NULL);
    rt_stats before, after;
    rt_read_stats(&before);
    for (int i = 0; i < GS; i++) {
        ws[i] = (walker){cells[i % CELLS], &inside[i % CELLS], &c, (uint64_t)i, ROUNDS(200), 0};
        rt_g *g = rt_new_step(walk, ws[i].cell);
        *(walker **)rt_local(g) = &ws[i];
        crowd_enter(&c);
        rt_ready(g);
    }
    crowd_wait(&c);
    int64_t leaves = 0;
    for (int i = 0; i < GS; i++)
        leaves += ws[i].leaves;
    EXPECT(leaves > ROUNDS(200) * GS);
    EXPECT_EQ(held(), 0);
    /* Some are spare, and 16 free ones of the size are kept; the others are gone. */
    rt_read_stats(&after);
    EXPECT(after.stack_bytes - before.stack_bytes <= (CELLS * 5 + 16) * (int64_t)RT_CELL_STACK);
}

/* ---- shrinking ---- */

enum { DEEP = 4 << 20, STAYS = 128 << 10 };

typedef struct deep {
    crowd *c;
    rt_cell *cell;
    char *lo[2]; /* of the two stacks */
    bool waits;
} deep;

__attribute__((noinline)) static char go_down(int64_t bytes) {
    volatile char frame[2048];
    frame[bytes % 2048] = (char)bytes;
    return bytes <= 0 ? 1 : (char)(go_down(bytes - 2048) + frame[bytes % 2048]);
}

/* Bytes of memory of the stack's lowest `size`. */
static size_t resident(char *lo, size_t size) {
    static unsigned char pages[RT_CELL_STACK >> 12];
    size_t page = (size_t)sysconf(_SC_PAGESIZE), n = 0;
    EXPECT_EQ(mincore(lo, size, pages), 0);
    for (size_t i = 0; i < size / page; i++)
        n += (pages[i] & 1) * page;
    return n;
}

static rt_step go_deep(rt_g *g) {
    deep *d = *(deep **)rt_local(g);
    bool first = !d->waits;
    d->lo[!first] = *rt_cell_stack(d->cell);
    go_down(DEEP);
    d->waits = true;
    if (first) {
        while (!d->lo[1]) /* the second's turn */
            rt_leave_stack(RT_YIELD);
        EXPECT(d->lo[0] == *rt_cell_stack(d->cell) && d->lo[1] && d->lo[1] != d->lo[0]);
        for (int i = 0; i < 2; i++)
            EXPECT(resident(d->lo[i], RT_CELL_STACK - STAYS) > DEEP / 2);
        rt_trim_stacks();
        for (int i = 0; i < 2; i++)
            EXPECT_EQ(resident(d->lo[i], RT_CELL_STACK - STAYS), 0);
        EXPECT(resident(d->lo[0], RT_CELL_STACK) > 0);
    }
    crowd_leave(d->c);
    return RT_EXIT;
}

static void what_was_deep_on_stacks_goes_back(void *arg) {
    (void)arg;
    crowd c = {0};
    deep d = {.c = &c, .cell = rt_cell_new(NULL)};
    for (int i = 0; i < 2; i++) {
        rt_g *g = rt_new_step(go_deep, d.cell);
        *(deep **)rt_local(g) = &d;
        crowd_enter(&c);
        rt_ready(g);
    }
    crowd_wait(&c);
    EXPECT(d.lo[0] && d.lo[1]);
}

/* ---- a cell that is dropped ---- */

typedef struct stuck_one {
    crowd *c;
    bool left;
} stuck_one;

static rt_step leave_for_good(rt_g *g) {
    stuck_one *s = *(stuck_one **)rt_local(g);
    if (!s->left) {
        s->left = true;
        rt_wait_open(g);
        rt_set_wait(g, RT_WAIT_PARK, 0);
        rt_leave_stack(RT_PARK);
        EXPECT(!"a G goes on with the stack of a dropped cell");
    }
    rt_wait_code(g);
    crowd_leave(s->c);
    return RT_EXIT;
}

static rt_step drop_it(rt_g *g) {
    (void)g;
    rt_cell_drop(rt_current_cell(), true);
    return RT_EXIT;
}

static void stacks_of_a_dropped_cell_go(void *arg) {
    (void)arg;
    enum { N = 40 };
    static stuck_one ones[N];
    rt_g *gs[N];
    crowd c = {0};
    rt_cell *cell = rt_cell_new(NULL);
    for (int i = 0; i < N; i++) {
        ones[i] = (stuck_one){&c, false};
        gs[i] = rt_new_step(leave_for_good, cell);
        *(stuck_one **)rt_local(gs[i]) = &ones[i];
        crowd_enter(&c);
        rt_ready(gs[i]);
    }
    EXPECT_SOON(held() == N);
    rt_ready(rt_new_step(drop_it, cell));
    rt_sleep(MS);
    for (int i = 0; i < N; i++)
        rt_interrupt(gs[i], RT_CANCELED);
    crowd_wait(&c);
    EXPECT_EQ(held(), 0);
}

/* ---- foreign code ---- */

typedef struct busy {
    crowd *c;
    int64_t ns;
    _Atomic bool *until; /* it is busy until that is true, if not NULL */
    _Atomic int64_t begun_ns;
    _Atomic bool lost;
    rt_cell *to;
} busy;

static rt_step be_busy(rt_g *g) {
    busy *b = *(busy **)rt_local(g);
    rt_cell *cell = rt_current_cell();
    rt_enterforeign();
    atomic_store(&b->begun_ns, rt_nanotime());
    spin_for(b->ns);
    while (b->until && !atomic_load(b->until))
        ;
    atomic_store(&b->lost, !rt_exitforeign());
    EXPECT(rt_self() == g && rt_current_cell() == cell && rt_p_id() >= 0);
    EXPECT(!rt_cell_is_away(cell));
    crowd_leave(b->c);
    return RT_EXIT;
}

static _Atomic bool end_busy;

static rt_g *go_busy(busy *b, crowd *c, rt_cell *cell, _Atomic bool *until) {
    *b = (busy){.c = c, .until = until};
    rt_g *g = rt_new_step(be_busy, cell);
    *(busy **)rt_local(g) = b;
    crowd_enter(c);
    rt_ready(g);
    return g;
}

/* More of them than Ps, and yet everybody else goes on. */
static void long_foreign_code_holds_up_nobody(void *arg) {
    (void)arg;
    enum { N = 5 };
    static busy bs[N];
    crowd c = {0};
    rt_cell *cells[N];
    atomic_store(&end_busy, false);
    for (int i = 0; i < N; i++) {
        cells[i] = rt_cell_new(NULL);
        go_busy(&bs[i], &c, cells[i], &end_busy);
    }
    int naps = 0, away = 0;
    for (int64_t until = rt_nanotime() + PATIENCE_NS;
         (naps < 10 || away == 0) && rt_nanotime() < until; naps++) {
        rt_sleep(MS);
        away = 0;
        for (int i = 0; i < N; i++)
            away += rt_cell_is_away(cells[i]);
    }
    EXPECT(naps >= 10 && away > 0);
    atomic_store(&end_busy, true);
    crowd_wait(&c);
    int lost = 0;
    for (int i = 0; i < N; i++)
        lost += atomic_load(&bs[i].lost);
    EXPECT(lost >= 1);
    rt_stats s;
    rt_read_stats(&s);
    EXPECT_EQ(s.away, 0);
}

static rt_step be_brief(rt_g *g) {
    busy *b = *(busy **)rt_local(g);
    for (int i = 0; i < 1000; i++) {
        rt_enterforeign();
        if (!rt_exitforeign()) atomic_store(&b->lost, true);
    }
    if (--b->ns > 0) return RT_YIELD;
    crowd_leave(b->c);
    return RT_EXIT;
}

/* In and out without end, by several cells at a time: the right P comes back each time. */
static void brief_foreign_code_keeps_its_p(void *arg) {
    (void)arg;
    enum { N = 4 };
    static busy bs[N];
    crowd c = {0};
    for (int i = 0; i < N; i++) {
        bs[i] = (busy){.c = &c, .ns = ROUNDS(300)};
        rt_g *g = rt_new_step(be_brief, rt_cell_new(NULL));
        *(busy **)rt_local(g) = &bs[i];
        crowd_enter(&c);
        rt_ready(g);
    }
    crowd_wait(&c);
}

typedef struct letter {
    crowd *c;
    rt_cell *to, *began_in;
    int64_t began_ns;
} letter;

static rt_step begin(rt_g *g) {
    letter *l = *(letter **)rt_local(g);
    l->began_in = rt_current_cell();
    l->began_ns = rt_nanotime();
    crowd_leave(l->c);
    return RT_EXIT;
}

static rt_step move(rt_g *g) {
    rt_set_step(g, begin, (*(letter **)rt_local(g))->to);
    return RT_YIELD;
}

static rt_step move_busy(rt_g *g) {
    rt_set_step(g, be_busy, (*(busy **)rt_local(g))->to);
    return RT_YIELD;
}

enum { EARLY = 10, ALL = 20 };

static struct {
    busy busy;
    letter letters[ALL], own;
    crowd to_wait_for, late;
} post;

static void post_step(rt_step_fn step, rt_cell *cell, void *what, crowd *c) {
    rt_g *g = rt_new_step(step, cell);
    *(void **)rt_local(g) = what;
    crowd_enter(c);
    rt_ready(g);
}

/* A step, so that with one P all of it is posted before the cell's loop runs. */
static rt_step send_early(rt_g *g) {
    (void)g;
    post_step(move_busy, NULL, &post.busy, &post.late);
    for (int i = 0; i < EARLY; i++)
        post_step(move, NULL, &post.letters[i], &post.to_wait_for);
    post_step(begin, post.busy.to, &post.own, &post.late);
    crowd_leave(&post.late);
    return RT_EXIT;
}

/* Some were taken from the mailbox before the cell got stuck, some are posted when it is. */
static void what_has_not_begun_begins_elsewhere(void *arg) {
    (void)arg;
    rt_cell *cell = rt_cell_new(NULL);
    atomic_store(&end_busy, false);
    post.busy = (busy){.c = &post.late, .until = &end_busy, .to = cell};
    post.own = (letter){.c = &post.late, .to = cell};
    for (int i = 0; i < ALL; i++)
        post.letters[i] = (letter){.c = &post.to_wait_for, .to = cell};
    crowd_enter(&post.late);
    rt_ready(rt_new_step(send_early, NULL));
    EXPECT_SOON(rt_cell_is_away(cell));
    for (int i = EARLY; i < ALL; i++)
        post_step(move, NULL, &post.letters[i], &post.to_wait_for);
    crowd_wait(&post.to_wait_for);
    EXPECT(rt_cell_is_away(cell)); /* still: so they did not wait for it */
    int64_t begun_ns = atomic_load(&post.busy.begun_ns);
    for (int i = 0; i < ALL; i++) /* with several Ps an early one may have had its turn before */
        EXPECT(post.letters[i].began_in != cell || post.letters[i].began_ns < begun_ns);
    int64_t ended_ns = rt_nanotime();
    atomic_store(&end_busy, true);
    crowd_wait(&post.late);
    /* What was made in the cell belongs to it. */
    EXPECT(post.own.began_in == cell);
    EXPECT(post.own.began_ns < begun_ns ||
           post.own.began_ns > ended_ns); /* before or after, not meanwhile */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        in_g_test(waits_in_the_midst_of_a_step),
        in_g_test(what_was_deep_on_stacks_goes_back),
        in_g_test(stacks_of_a_dropped_cell_go),
        in_g_test(brief_foreign_code_keeps_its_p),
        in_g_test(long_foreign_code_holds_up_nobody),
        in_g_test(what_has_not_begun_begins_elsewhere),
    };
    RUN_TESTS("leave", tests);
}
