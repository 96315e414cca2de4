/* context: a switch keeps registers and floating point values, stacks are aligned and as deep as
 * they say, a context may go on on another thread, and an overflow is reported with its G. */
#include "harness.h"

static rt_context here, there;

/* Everything the compiler may keep over the switch is overwritten on the other stack. */
static void scramble(void *arg) {
    int64_t *turns = arg;
    for (;;) {
        ++*turns;
#ifdef __x86_64__
        __asm__ volatile("movq $-1, %%rbx; movq $-2, %%r12; movq $-3, %%r13; movq $-4, %%r14;"
                         "movq $-5, %%r15; pxor %%xmm0, %%xmm0; pxor %%xmm7, %%xmm7;"
                         "pxor %%xmm15, %%xmm15" ::
                             : "rbx", "r12", "r13", "r14", "r15", "xmm0", "xmm7", "xmm15");
#elif defined(__aarch64__)
        __asm__ volatile("mov x19, -1; mov x20, -2; mov x21, -3; mov x22, -4; mov x23, -5;"
                         "mov x24, -6; mov x25, -7; mov x26, -8; mov x27, -9; mov x28, -10;"
                         "fmov d8, xzr; fmov d9, xzr; fmov d10, xzr; fmov d11, xzr; fmov d12, xzr;"
                         "fmov d13, xzr; fmov d14, xzr; fmov d15, xzr" ::
                             : "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28",
                               "d8", "d9", "d10", "d11", "d12", "d13", "d14", "d15");
#endif
        rt_context_switch(&there, &here);
    }
}

static void start_there(rt_stack *s, void (*entry)(void *), void *arg) {
    *s = stack_alloc(STACK_NATIVE);
    rt_context_adopt(&here, os_thread_stack());
    rt_context_make(&there, *s, entry, arg);
}

/* The other context stands in the middle of entry; it never runs again. */
static void drop_there(rt_stack s) {
    rt_context_destroy(&there);
#ifdef RT_ASAN
    there.fake = NULL;
#endif
    stack_free(s);
}

__attribute__((noinline)) static bool values_live_over_a_switch(uint64_t x) {
    uint64_t a = x * 3, b = x * 5, c = x * 7, d = x * 11, e = x * 13, f = x * 17, g = x * 19;
    double p = (double)x * 0.5, q = (double)x * 0.25, r = (double)x * 0.125;
    rt_context_switch(&here, &there);
    __asm__ volatile("" : "+r"(x)); /* computed anew, not compared with itself */
    return a == x * 3 && b == x * 5 && c == x * 7 && d == x * 11 && e == x * 13 && f == x * 17 &&
           g == x * 19 && p == (double)x * 0.5 && q == (double)x * 0.25 && r == (double)x * 0.125;
}

static void a_switch_keeps_registers(void **state) {
    (void)state;
    rt_stack s;
    int64_t turns = 0;
    start_there(&s, scramble, &turns);
    for (uint64_t i = 1; i <= 10000; i++)
        assert_true(values_live_over_a_switch(i * 1000003));
    assert_int_equal(turns, 10000);
    drop_there(s);
}

static rt_stack deep_stack;
static int64_t deep_sum;

__attribute__((noinline)) static int64_t descend(int64_t n) {
    volatile char room[256];
    room[n % 256] = (char)n;
    char *at = __builtin_frame_address(0);
    if (at - deep_stack.lo < (deep_stack.hi - deep_stack.lo) / 8) return room[n % 256] != (char)n;
    return descend(n + 1) + (room[n % 256] == (char)n);
}

static void go_deep(void *arg) {
    (void)arg;
    for (;;) {
        deep_sum = descend(1);
        rt_context_switch(&there, &here);
    }
}

static void a_stack_is_as_deep_as_it_says(void **state) {
    (void)state;
    start_there(&deep_stack, go_deep, NULL);
    for (int i = 0; i < 3; i++) {
        deep_sum = 0;
        rt_context_switch(&here, &there);
        assert_true(deep_sum > 10);
    }
    drop_there(deep_stack);
}

static uintptr_t entry_frame;
static void *entry_arg;

static void look_around(void *arg) {
    entry_frame = (uintptr_t)__builtin_frame_address(0);
    entry_arg = arg;
    double a = 0;
    __asm__ volatile("" : "+m"(a)); /* vector moves of libc fault on an unaligned stack */
    char text[32];
    snprintf(text, sizeof text, "%f", a);
    rt_context_switch(&there, &here);
}

static void entry_gets_its_argument_on_an_aligned_stack(void **state) {
    (void)state;
    rt_stack s;
    start_there(&s, look_around, &s);
    rt_context_switch(&here, &there);
    assert_ptr_equal(entry_arg, &s);
    assert_int_equal(entry_frame % 16, 0);
    assert_true((char *)entry_frame > s.lo && (char *)entry_frame < s.hi);
    drop_there(s);
}

static _Atomic int64_t moved;

static void count_turns(void *arg) {
    (void)arg;
    for (int64_t i = 1;; i++) {
        atomic_store(&moved, i);
        rt_context_switch(&there, &here);
    }
}

static void *go_on_there(void *arg) {
    (void)arg;
    rt_context_adopt(&here, os_thread_stack());
    rt_context_switch(&here, &there);
    return NULL;
}

static void a_context_goes_on_on_another_thread(void **state) {
    (void)state;
    rt_stack s;
    start_there(&s, count_turns, NULL);
    rt_context_switch(&here, &there);
    for (int i = 2; i < 50; i++) {
        pthread_join(foreign(go_on_there, NULL), NULL);
        assert_int_equal(atomic_load(&moved), i);
    }
    drop_there(s);
}

static void stacks_are_reused_and_come_back_clean(void **state) {
    (void)state;
    int64_t before = stack_bytes();
    rt_stack s[40];
    for (size_t size = 16 << 10; size <= 2 << 20; size *= 2) {
        for (int i = 0; i < 40; i++) {
            s[i] = stack_alloc(size);
            assert_int_equal(s[i].hi - s[i].lo, size);
            memset(s[i].lo, 0x55, size);
        }
        for (int i = 0; i < 40; i++)
            stack_free(s[i]);
        while (stack_scavenge() > 0)
            ;
        rt_stack again[3];
        for (int i = 0; i < 3; i++) {
            again[i] = stack_alloc(size);
            for (int k = 0; k < i; k++)
                assert_ptr_not_equal(again[k].lo, again[i].lo);
            if (size > 128 << 10) assert_int_equal(again[i].lo[0], 0); /* its pages are gone */
        }
        for (int i = 0; i < 3; i++)
            stack_free(again[i]);
    }
    /* A few of each size stay, most do not. */
    assert_true(stack_bytes() - before < 20 * (4 << 20));
}

/* In a child, since no sanitizer lives through a fault. */
static bool faults(const char *at) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGSEGV, SIG_DFL);
        *(volatile char *)at;
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

static void a_frame_that_is_larger_than_a_page_hits_the_guard(void **state) {
    (void)state;
    static const struct {
        size_t size, guard;
    } kinds[] = {{RT_CELL_STACK, 1 << 20},
                 {STACK_NATIVE, STACK_NATIVE},
                 {STACK_M, STACK_M < 1 << 20 ? STACK_M : 1 << 20}};
    for (int i = 0; i < 3; i++) {
        rt_stack s = stack_alloc(kinds[i].size);
        assert_true((size_t)(s.hi - s.lo) == kinds[i].size);
        assert_false(faults(s.lo));
        for (size_t below = 1; below <= kinds[i].guard; below = below * 2 + (below == 1))
            assert_true(faults(s.lo - below) && stack_guards(s, s.lo - below));
        assert_true(faults(s.lo - kinds[i].guard) && stack_guards(s, s.lo - kinds[i].guard));
        assert_false(stack_guards(s, s.lo - kinds[i].guard - 1));
        assert_false(stack_guards(s, s.lo));
        stack_free(s);
    }
}

/* ---- in a child: no way back ---- */

__attribute__((noinline)) static int64_t descend_forever(int64_t n) {
    volatile char room[512];
    room[n % 512] = 1;
    return n < 0 ? 0 : descend_forever(n + 1) + room[n % 512];
}

static void overflow(void *arg) {
    (void)arg;
    exit((int)descend_forever(0));
}

static void overflow_a_g(void *arg) {
    (void)arg;
    rt_go(overflow, NULL);
    rt_park(NULL, NULL, RT_WAIT_PARK);
}

static void an_overflow_says_whose(void **state) {
    (void)state;
#if defined(RT_ASAN) || defined(RT_TSAN)
    skip(); /* the sanitizers report faults by themselves */
#endif
    char said[4096];
    int status = run_child("overflow", said, sizeof said);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    assert_non_null(strstr(said, "stack overflow: G 2"));
}

int main(void) {
    if (getenv("RT_TEST_CHILD")) rt_main(&(rt_options){.procs = 2}, overflow_a_g, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_switch_keeps_registers),
        cmocka_unit_test(a_stack_is_as_deep_as_it_says),
        cmocka_unit_test(entry_gets_its_argument_on_an_aligned_stack),
        cmocka_unit_test(a_context_goes_on_on_another_thread),
        cmocka_unit_test(stacks_are_reused_and_come_back_clean),
        cmocka_unit_test(a_frame_that_is_larger_than_a_page_hits_the_guard),
        cmocka_unit_test(an_overflow_says_whose),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
