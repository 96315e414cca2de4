/* spinning: one wake-up is enough for any amount of work, since an M that has found work wakes the next one; and no two
 * Ms look for work in the same order. */
#include "harness.h"

static struct {
    _Atomic int met, ended;
    uint64_t randoms[4]; /* where the generators of their Ms stand */
} all;

/* Keeps its P until as many Gs run as there are Ps. */
static void meet(void *arg) {
    (void)arg;
    all.randoms[atomic_fetch_add(&all.met, 1)] = rt_getm()->rand;
    int64_t until = rt_nanotime() + PATIENCE_NS;
    while (atomic_load(&all.met) < rt_procs() && rt_nanotime() < until)
        ;
    EXPECT_EQ(atomic_load(&all.met), rt_procs());
    atomic_fetch_add(&all.ended, 1);
}

static bool soon(bool (*is)(void)) {
    for (int64_t until = rt_nanotime() + 2 * PATIENCE_NS; rt_nanotime() < until; usleep(1000))
        if (is()) return true;
    return false;
}

static bool all_sleep(void) {
    return atomic_load(&sched.n_idle_ps) == rt_procs() && atomic_load(&sched.n_spinning) == 0;
}

static bool all_ended(void) {
    return atomic_load(&all.ended) == rt_procs();
}

/* Gs for all Ps, and one wakep. */
static void wake_one_for_all(void) {
    g_list l = {0};
    assert_true(soon(all_sleep));
    atomic_store(&all.met, 0);
    atomic_store(&all.ended, 0);
    for (int i = 0; i < rt_procs(); i++) {
        rt_g *g = new_native(meet, NULL, STACK_NATIVE);
        assert_non_null(g);
        g_set_status(g, G_IDLE, G_RUNNABLE);
        g_list_push(&l, g);
    }
    inject(NULL, &l);
    assert_true(soon(all_ended));
    fail_if_recorded();
}

static void one_wake_up_is_enough(void **state) {
    (void)state;
    for (int i = 0; i < 10; i++)
        wake_one_for_all();
}

/* Are these two a few numbers of one generator apart? */
static bool are_near(uint64_t a, uint64_t b) {
    enum { FEW = 100000 };
    static rt_m m, n;
    m.rand = a;
    n.rand = b;
    for (int i = 0; i < FEW; i++) {
        if (m.rand == b || n.rand == a) return true;
        m_rand(&m);
        m_rand(&n);
    }
    return false;
}

static void each_m_looks_in_an_order_of_its_own(void **state) {
    (void)state;
    wake_one_for_all();
    for (int i = 0; i < rt_procs(); i++)
        for (int k = 0; k < i; k++)
            assert_false(are_near(all.randoms[i], all.randoms[k]));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_wake_up_is_enough), /* first: no timer of another test is due */
        cmocka_unit_test(each_m_looks_in_an_order_of_its_own),
    };
    RUN_TESTS("spinning", tests);
}
