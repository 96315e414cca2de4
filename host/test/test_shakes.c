/* shakes: as many turns as Ps; who waits for longest gets the next one; who has stopped waiting gets none. */
#include "../http/shakes.h"

#include "../../runtime/test/harness.h"

enum { WAITERS = 8 };

static struct {
    _Atomic int began, given, late, back; /* waiters; turns of theirs */
    _Atomic int order[WAITERS];           /* who was given the turns, in this order */
} seen;

static void wait_for_turn(int me, int64_t deadline_ns) {
    shake_turn t = {.waits = false};
    CHECK(!shakes_take(&t, rt_self()));
    atomic_fetch_add(&seen.began, 1);
    (void)rt_wait(RT_WAIT_OTHER, deadline_ns);
    if (!shakes_given(&t)) {
        atomic_fetch_add(&seen.late, 1);
        return;
    }
    atomic_store(&seen.order[atomic_fetch_add(&seen.given, 1)], me);
    shakes_give();
    atomic_fetch_add(&seen.back, 1);
}

static void patient(void *arg) {
    wait_for_turn((int)(intptr_t)arg, 0);
}

static void hasty(void *arg) {
    wait_for_turn((int)(intptr_t)arg, rt_nanotime() + MS);
}

static void turns_go_in_order_to_who_waits(void *arg) {
    (void)arg;
    int n = rt_procs();
    shake_turn t = {.waits = false};
    for (int i = 0; i < n; i++)
        CHECK(shakes_take(&t, rt_self()));
    for (int i = 0; i < WAITERS; i++) {
        CHECK(rt_go(i % 2 ? hasty : patient, (void *)(intptr_t)i));
        EXPECT_SOON(atomic_load(&seen.began) == i + 1);
    }
    EXPECT_SOON(atomic_load(&seen.late) == WAITERS / 2);
    EXPECT_EQ(atomic_load(&seen.given), 0);
    shakes_give();
    EXPECT_SOON(atomic_load(&seen.given) == WAITERS / 2);
    for (int i = 0; i < WAITERS / 2; i++)
        EXPECT_EQ(atomic_load(&seen.order[i]), 2 * i);
    EXPECT_SOON(atomic_load(&seen.back) == WAITERS / 2);
    for (int i = 1; i < n; i++)
        shakes_give();
    for (int i = 0; i < n; i++) /* all are back */
        EXPECT(shakes_take(&t, rt_self()));
    for (int i = 0; i < n; i++)
        shakes_give();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        in_g_test(turns_go_in_order_to_who_waits),
    };
    RUN_TESTS("shakes", tests);
}
