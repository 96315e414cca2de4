/* refs: the last to let go is one, and sees what all have written; what ends is held by nobody anew. */
#include "../base/refs.h"

#include "../../runtime/test/harness.h"

enum { HOLDERS = 8 };

static struct {
    refs refs;
    int written[HOLDERS]; /* no atomics: the counting orders them */
    _Atomic int ends;     /* atomic */
    _Atomic int seen;     /* atomic */
} thing;

static void let_go(void) {
    if (!refs_drop(&thing.refs)) return;
    int sum = 0;
    for (int i = 0; i < HOLDERS; i++)
        sum += thing.written[i];
    atomic_store(&thing.seen, sum);
    atomic_fetch_add(&thing.ends, 1);
}

static void hold_and_let_go(void *arg) {
    int *mine = arg;
    for (int i = 0; i < 3; i++)
        refs_hold(&thing.refs);
    rt_yield();
    for (int i = 0; i < 3; i++)
        let_go();
    *mine = 1;
    let_go();
}

static void the_last_is_one_and_sees_all(void *arg) {
    (void)arg;
    for (int round = 0; round < ROUNDS(5000); round++) {
        crowd c = {0};
        refs_init(&thing.refs, HOLDERS);
        memset(thing.written, 0, sizeof thing.written);
        atomic_store(&thing.ends, 0);
        for (int i = 0; i < HOLDERS; i++)
            crowd_go(&c, hold_and_let_go, &thing.written[i]);
        crowd_wait(&c);
        CHECK_EQ(atomic_load(&thing.ends), 1);
        CHECK_EQ(atomic_load(&thing.seen), HOLDERS);
    }
}

static void what_ends_is_not_held(void **state) {
    (void)state;
    refs r;
    refs_init(&r, 1);
    assert_true(refs_alone(&r));
    assert_true(refs_try_hold(&r));
    assert_false(refs_alone(&r));
    assert_false(refs_drop(&r));
    assert_true(refs_alone(&r));
    assert_true(refs_drop(&r));
    assert_false(refs_try_hold(&r));
    assert_false(refs_alone(&r));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_ends_is_not_held),
        in_g_test(the_last_is_one_and_sees_all),
    };
    RUN_TESTS("refs", tests);
}
