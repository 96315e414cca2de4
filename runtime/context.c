/* The portable part of context switches; see context.h. The registers are context_*.S's. */
#include "context.h"

#ifdef RT_ASAN
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/asan_interface.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#endif
#ifdef RT_TSAN
#include <sanitizer/tsan_interface.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#endif

/* context_*.S */
void rt_context_swap(void **from_sp, void *to_sp);
void *rt_context_prepare(void *top, void (*entry)(void *), void *arg);

#ifdef RT_ASAN
/* A new stack must tell ASan that it arrived before it does anything else. */
typedef struct first_call {
    void (*entry)(void *);
    void *arg;
} first_call;

static void arrive(void *p) {
    first_call call = *(first_call *)p;
    __sanitizer_finish_switch_fiber(NULL, NULL, NULL);
    call.entry(call.arg);
}

/* Frames that were left without a return have their redzones in the shadow of the stack. Later frames at the same place
 * would trip over the redzones. Whole pages of the shadow go back to the kernel: writing zeros would touch 1 MiB for a
 * stack of 8. */
static void clean_shadow(rt_stack s) {
    size_t scale, offset;
    __asan_get_shadow_mapping(&scale, &offset);
    size_t per_page = getauxval(AT_PAGESZ) << scale; /* bytes whose shadow is a page */
    char *lo = s.lo + (-(uintptr_t)s.lo & (per_page - 1)),
         *hi = s.hi - ((uintptr_t)s.hi & (per_page - 1));
    if ((size_t)(s.hi - s.lo) < 16 * per_page) lo = hi = s.hi;
    __asan_unpoison_memory_region(s.lo, (size_t)(lo - s.lo));
    __asan_unpoison_memory_region(hi, (size_t)(s.hi - hi));
    void *shadow = (void *)(((uintptr_t)lo >> scale) + offset); /* NOLINT: an address as a number */
    if (hi > lo && madvise(shadow, (size_t)(hi - lo) >> scale, MADV_DONTNEED) < 0)
        __asan_unpoison_memory_region(lo, (size_t)(hi - lo));
}
#endif

#ifdef RT_TSAN
/* TSan keeps a signal for the fiber that ran when it came, until this fiber calls a function of libc that TSan knows.
 * So a fiber calls one before it leaves: its next turn may be far. */
static void take_signals(void) {
    static void *(*volatile known)(const void *, int, size_t) = memchr;
    known("", 0, 1);
}

/* TSan loses a signal that comes while it makes a fiber's record of signals, when the fiber first calls a function that
 * may block. So the record is made here, with all signals blocked. Some signals are lost all the same. */
static void *make_fiber(void) {
    uint64_t all = UINT64_MAX, was;
    struct timespec none = {0, 0};
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &was, sizeof all);
    void *here = __tsan_get_current_fiber(), *fiber = __tsan_create_fiber(0);
    __tsan_switch_to_fiber(fiber, 0);
    nanosleep(&none, NULL);
    __tsan_switch_to_fiber(here, 0);
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &was, NULL, sizeof was);
    return fiber;
}
#endif

void rt_context_make(rt_context *c, rt_stack stack, void (*entry)(void *), void *arg) {
    char *top = stack.hi;
    c->stack = stack;
#ifdef RT_ASAN
    top -= sizeof(first_call);
    *(first_call *)top = (first_call){entry, arg};
    c->fake = NULL;
    entry = arrive;
    arg = top;
#endif
#ifdef RT_TSAN
    c->fiber = make_fiber();
#endif
    c->sp = rt_context_prepare(top, entry, arg);
}

void rt_context_adopt(rt_context *c, rt_stack stack) {
    c->sp = NULL;
    c->stack = stack;
#ifdef RT_ASAN
    c->fake = NULL;
#endif
#ifdef RT_TSAN
    c->fiber = __tsan_get_current_fiber();
#endif
}

void rt_context_destroy(rt_context *c) {
#ifdef RT_ASAN
    if (c->stack.lo) clean_shadow(c->stack);
#endif
#ifdef RT_TSAN
    if (c->fiber) __tsan_destroy_fiber(c->fiber);
    c->fiber = NULL;
#endif
    c->sp = NULL;
}

void rt_context_switch(rt_context *from, rt_context *to) {
#ifdef RT_ASAN
    __sanitizer_start_switch_fiber(&from->fake, to->stack.lo,
                                   (size_t)(to->stack.hi - to->stack.lo));
#endif
#ifdef RT_TSAN
    take_signals();
    __tsan_switch_to_fiber(to->fiber, 0);
#endif
    rt_context_swap(&from->sp, to->sp);
#ifdef RT_ASAN
    __sanitizer_finish_switch_fiber(from->fake, NULL, NULL);
#endif
}
