/* lock: one thread at a time is in, what it wrote is seen by the next, and a thread that sleeps for
 * the lock is woken. */
#include "harness.h"

enum { THREADS = 4, TURNS = 100000 };

static rt_lock lock;
static int64_t counter; /* lock */
static bool inside;     /* lock */

static void *take_turns(void *arg) {
    (void)arg;
    for (int i = 0; i < ROUNDS(TURNS); i++) {
        rt_lock_acquire(&lock);
        EXPECT(!inside);
        inside = true;
        counter++;
        inside = false;
        rt_lock_release(&lock);
    }
    return NULL;
}

static void threads_exclude_each_other(void **state) {
    (void)state;
    pthread_t t[THREADS];
    counter = 0;
    for (int i = 0; i < THREADS; i++)
        t[i] = foreign(take_turns, NULL);
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    fail_if_recorded();
    assert_int_equal(counter, THREADS * ROUNDS(TURNS));
}

static void try_takes_a_free_lock_only(void **state) {
    (void)state;
    rt_lock l = {0};
    assert_true(rt_lock_try(&l));
    assert_false(rt_lock_try(&l));
    rt_lock_release(&l);
    assert_true(rt_lock_try(&l));
    rt_lock_release(&l);
}

static void *take_once(void *arg) {
    rt_lock_acquire(&lock);
    (*(int *)arg)++;
    rt_lock_release(&lock);
    return NULL;
}

static void sleepers_are_woken(void **state) {
    (void)state;
    pthread_t t[THREADS];
    int taken = 0;
    rt_lock_acquire(&lock);
    for (int i = 0; i < THREADS; i++)
        t[i] = foreign(take_once, &taken);
    usleep(20000); /* long enough for them to stop spinning */
    assert_int_equal(taken, 0);
    rt_lock_release(&lock);
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    assert_int_equal(taken, THREADS);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_exclude_each_other),
        cmocka_unit_test(try_takes_a_free_lock_only),
        cmocka_unit_test(sleepers_are_woken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
