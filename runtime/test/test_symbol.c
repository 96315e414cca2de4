/* symbol: functions have names, static ones too; also if the first question came when there was no descriptor. */
#include "harness.h"

#include <sys/resource.h>

__attribute__((noinline)) static void some_function(void *arg) {
    (void)arg;
    __asm__ volatile("");
}

static bool has_name(void) {
    char text[256];
    rt_symbol_print((const void *)some_function, text, sizeof text); /* NOLINT: an address */
    return strncmp(text, "some_function+", 14) == 0;
}

static void a_name_is_found_when_there_is_a_descriptor_again(void *arg) {
    (void)arg;
    struct rlimit was, none;
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &was), 0);
    none = was;
    none.rlim_cur = 0;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    bool had = has_name();
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &was), 0);
    EXPECT(!had);
    EXPECT(has_name());
}

int main(void) {
    const struct CMUnitTest tests[] = {
        in_g_test(a_name_is_found_when_there_is_a_descriptor_again),
    };
    RUN_TESTS("symbol", tests);
}
