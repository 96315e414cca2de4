/* note: no order of sleep and wake-up loses the wake-up, and a timed sleep ends either way exactly
 * once. */
#include "../note.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

enum { ROUNDS = 100000 };

static note ping, pong;
static int message; /* written before a wake-up, read after the sleep it ends */

static void *answer(void *arg) {
    (void)arg;
    for (int i = 0; i < ROUNDS; i++) {
        note_sleep(&ping);
        note_clear(&ping);
        message++;
        note_wake(&pong);
    }
    return NULL;
}

static void wakes_are_not_lost_and_carry_what_was_written(void **state) {
    (void)state;
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, answer, NULL), 0);
    for (int i = 0; i < ROUNDS; i++) {
        note_wake(&ping);
        assert_true(note_sleep_for(&pong, 5000000000));
        note_clear(&pong);
        assert_int_equal(message, i + 1);
    }
    pthread_join(t, NULL);
}

static void a_wake_before_the_sleep_counts(void **state) {
    (void)state;
    note n = {0};
    note_wake(&n);
    assert_true(note_sleep_for(&n, 0));
}

static void time_runs_out_and_the_note_is_clear_again(void **state) {
    (void)state;
    note n = {0};
    assert_false(note_sleep_for(&n, 1000000));
    note_wake(&n);
    note_sleep(&n);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wakes_are_not_lost_and_carry_what_was_written),
        cmocka_unit_test(a_wake_before_the_sleep_counts),
        cmocka_unit_test(time_runs_out_and_the_note_is_clear_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
