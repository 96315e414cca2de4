/* runq: a ring keeps its order, overflows by halves into the global list, loses half of what it
 * holds to a thief; runnext comes before it, within a slice; and under a fight of their owner with
 * thieves each G comes out exactly once.
 *
 * No runtime runs here: the Ps are bare memory. */
#include "harness.h"

enum { GS = 4 * RUNQ_SIZE > 1000 ? 4 * RUNQ_SIZE : 1000, PS = 4 };

static rt_p ps[PS];
static rt_g gs[GS];

static int start_afresh(void **state) {
    (void)state;
    memset(ps, 0, sizeof ps);
    memset(gs, 0, sizeof gs);
    sched.procs = PS;
    sched.ps = ps;
    sched.runq = (g_list){0};
    atomic_store(&sched.n_runq, 0);
    for (int i = 0; i < GS; i++)
        gs[i].id = i;
    return 0;
}

static rt_g *get_global(rt_p *p, int32_t max) {
    rt_lock_acquire(&sched.lock);
    rt_g *g = global_get(p, max);
    rt_lock_release(&sched.lock);
    return g;
}

static void put_global(int from, int to) {
    g_list l = {0};
    for (int i = from; i < to; i++)
        g_list_push(&l, &gs[i]);
    rt_lock_acquire(&sched.lock);
    global_put(&l);
    rt_lock_release(&sched.lock);
}

static void gs_come_out_in_order(void **state) {
    (void)state;
    /* Several times around, at every offset of the ring. */
    for (int turn = 0; turn < 3 * RUNQ_SIZE; turn++) {
        int n = 1 + turn % RUNQ_SIZE;
        assert_true(runq_empty(&ps[0]));
        for (int i = 0; i < n; i++)
            runq_put(&ps[0], &gs[i]);
        assert_false(runq_empty(&ps[0]));
        for (int i = 0; i < n; i++)
            assert_ptr_equal(runq_get(&ps[0]), &gs[i]);
        assert_null(runq_get(&ps[0]));
    }
    assert_int_equal(sched.runq.n, 0);
}

static void indices_may_wrap(void **state) {
    (void)state;
    atomic_store(&ps[0].runq_head, UINT32_MAX - 1);
    atomic_store(&ps[0].runq_tail, UINT32_MAX - 1);
    for (int i = 0; i < 4; i++)
        runq_put(&ps[0], &gs[i]);
    rt_g *g = runq_steal(&ps[1], &ps[0], false);
    assert_ptr_equal(g, &gs[1]); /* of 0 and 1, the later one is run first */
    assert_ptr_equal(runq_get(&ps[1]), &gs[0]);
    assert_ptr_equal(runq_get(&ps[0]), &gs[2]);
    assert_ptr_equal(runq_get(&ps[0]), &gs[3]);
    assert_null(runq_get(&ps[0]));
}

static void a_full_ring_gives_its_older_half_away(void **state) {
    (void)state;
    for (int i = 0; i <= RUNQ_SIZE; i++)
        runq_put(&ps[0], &gs[i]);
    assert_int_equal(sched.runq.n, RUNQ_SIZE / 2 + 1);
    for (int i = RUNQ_SIZE / 2; i < RUNQ_SIZE; i++)
        assert_ptr_equal(runq_get(&ps[0]), &gs[i]);
    assert_null(runq_get(&ps[0]));
    for (int i = 0; i < RUNQ_SIZE / 2; i++)
        assert_ptr_equal(get_global(&ps[0], 1), &gs[i]);
    assert_ptr_equal(get_global(&ps[0], 1), &gs[RUNQ_SIZE]);
    assert_null(get_global(&ps[0], 1));
}

static void a_thief_takes_half(void **state) {
    (void)state;
    for (int n = 1; n <= RUNQ_SIZE; n++) {
        int half = n - n / 2;
        for (int i = 0; i < n; i++)
            runq_put(&ps[0], &gs[i]);
        assert_ptr_equal(runq_steal(&ps[1], &ps[0], false), &gs[half - 1]);
        for (int i = 0; i < half - 1; i++)
            assert_ptr_equal(runq_get(&ps[1]), &gs[i]);
        assert_null(runq_get(&ps[1]));
        for (int i = half; i < n; i++)
            assert_ptr_equal(runq_get(&ps[0]), &gs[i]);
        assert_null(runq_get(&ps[0]));
    }
    assert_null(runq_steal(&ps[1], &ps[0], false));
    assert_int_equal(count_get(&ps[1].n_steals), RUNQ_SIZE);
}

static void the_global_list_is_shared_out(void **state) {
    (void)state;
    put_global(0, 8);
    assert_ptr_equal(get_global(&ps[0], 1), &gs[0]);
    assert_true(runq_empty(&ps[0]));
    assert_int_equal(atomic_load(&sched.n_runq), 7);
    /* 7 / 4 + 1: one to run, one for the ring. */
    assert_ptr_equal(get_global(&ps[0], 0), &gs[1]);
    assert_ptr_equal(runq_get(&ps[0]), &gs[2]);
    assert_int_equal(atomic_load(&sched.n_runq), 5);
    for (int i = 3; i < 8; i++)
        assert_ptr_equal(get_global(&ps[i % 4], 1), &gs[i]);
    assert_null(get_global(&ps[0], 0));
}

static void a_full_ring_takes_none_from_the_global_list(void **state) {
    (void)state;
    put_global(RUNQ_SIZE, GS);
    for (int i = 0; i < RUNQ_SIZE; i++)
        runq_put(&ps[0], &gs[i]);
    assert_ptr_equal(get_global(&ps[0], 0), &gs[RUNQ_SIZE]);
    assert_int_equal(atomic_load(&sched.n_runq), GS - RUNQ_SIZE - 1);
}

static void next_runs_before_the_ring(void **state) {
    (void)state;
    runq_put(&ps[0], &gs[0]);
    runq_put_next(&ps[0], &gs[1]);
    runq_put_next(&ps[0], &gs[2]); /* 1 goes behind 0 */
    assert_ptr_equal(runq_get(&ps[0]), &gs[2]);
    assert_ptr_equal(runq_get(&ps[0]), &gs[0]);
    assert_ptr_equal(runq_get(&ps[0]), &gs[1]);
    assert_null(runq_get(&ps[0]));
    runq_put_next(&ps[0], &gs[0]);
    assert_false(runq_empty(&ps[0]));
    assert_ptr_equal(runq_get(&ps[0]), &gs[0]);
    assert_true(runq_empty(&ps[0]));
}

static void a_slice_that_is_over_ends_at_next(void **state) {
    (void)state;
    runq_put(&ps[0], &gs[0]);
    runq_put_next(&ps[0], &gs[1]);
    uint32_t slices = atomic_load(&ps[0].slicetick);
    assert_ptr_equal(runq_get(&ps[0]), &gs[1]);
    assert_int_equal(atomic_load(&ps[0].slicetick), slices); /* the same slice goes on */
    runq_put_next(&ps[0], &gs[1]);
    atomic_store(&ps[0].yield_now, true);
    assert_ptr_equal(runq_get(&ps[0]), &gs[0]);
    assert_int_equal(atomic_load(&ps[0].slicetick), slices + 1);
    assert_false(atomic_load(&ps[0].yield_now));
    assert_ptr_equal(runq_get(&ps[0]), &gs[1]);
}

static void a_thief_takes_next_last(void **state) {
    (void)state;
    runq_put_next(&ps[0], &gs[0]);
    assert_null(runq_steal(&ps[1], &ps[0], false));
    runq_put(&ps[0], &gs[1]);
    assert_ptr_equal(runq_steal(&ps[1], &ps[0], true), &gs[1]);
    assert_ptr_equal(runq_steal(&ps[1], &ps[0], true), &gs[0]);
    assert_null(runq_steal(&ps[1], &ps[0], true));
    assert_true(runq_empty(&ps[0]));
}

/* ---- the fight ---- */

static _Atomic int taken[GS];
static _Atomic int n_taken;
static _Atomic bool over;

static void take(rt_g *g) {
    atomic_fetch_add_explicit(&taken[g->id], 1, memory_order_relaxed);
    atomic_fetch_add(&n_taken, 1);
}

static void *steal_all(void *arg) {
    rt_p *p = arg;
    while (!atomic_load(&over)) {
        rt_g *g = runq_steal(p, &ps[0], p == &ps[1]);
        if (!g) sched_yield();
        for (; g; g = runq_get(p))
            take(g);
        if ((g = get_global(p, 1))) take(g);
    }
    return NULL;
}

static void owner_and_thieves_lose_and_double_nothing(void **state) {
    (void)state;
    pthread_t t[PS - 1];
    atomic_store(&over, false);
    for (int i = 1; i < PS; i++)
        t[i - 1] = foreign(steal_all, &ps[i]);
    uint64_t seed = 1;
    for (int round = 0; round < ROUNDS(300); round++) {
        for (int i = 0; i < GS; i++)
            atomic_store(&taken[i], 0);
        atomic_store(&n_taken, 0);
        int put = 0;
        while (put < GS) {
            for (uint64_t n = random_below(&seed, 2 * RUNQ_SIZE); n > 0 && put < GS; n--) {
                if (random_below(&seed, 4) == 0)
                    runq_put_next(&ps[0], &gs[put++]);
                else
                    runq_put(&ps[0], &gs[put++]);
            }
            for (uint64_t n = random_below(&seed, RUNQ_SIZE); n > 0; n--) {
                rt_g *g = runq_get(&ps[0]);
                if (g) take(g);
            }
        }
        int64_t until = rt_nanotime() + PATIENCE_NS;
        while (atomic_load(&n_taken) < GS && rt_nanotime() < until) {
            rt_g *g = runq_get(&ps[0]);
            if (g) take(g);
        }
        for (int i = 0; i < GS; i++)
            EXPECT_EQ(atomic_load(&taken[i]), 1);
    }
    atomic_store(&over, true);
    for (int i = 1; i < PS; i++)
        pthread_join(t[i - 1], NULL);
    fail_if_recorded();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(gs_come_out_in_order, start_afresh),
        cmocka_unit_test_setup(indices_may_wrap, start_afresh),
        cmocka_unit_test_setup(a_full_ring_gives_its_older_half_away, start_afresh),
        cmocka_unit_test_setup(a_thief_takes_half, start_afresh),
        cmocka_unit_test_setup(the_global_list_is_shared_out, start_afresh),
        cmocka_unit_test_setup(a_full_ring_takes_none_from_the_global_list, start_afresh),
        cmocka_unit_test_setup(next_runs_before_the_ring, start_afresh),
        cmocka_unit_test_setup(a_slice_that_is_over_ends_at_next, start_afresh),
        cmocka_unit_test_setup(a_thief_takes_next_last, start_afresh),
        cmocka_unit_test_setup(owner_and_thieves_lose_and_double_nothing, start_afresh),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
