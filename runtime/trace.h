/* Hooks of the scheduler trace; see trace.c. Each is a load and a branch while no trace is recorded. */
#ifndef TRACE_H
#define TRACE_H

#include "impl.h"

typedef enum trace_kind {
    TRACE_START,  /* g begins to run; the slice that was open on this M ends */
    TRACE_PARK,   /* g stops; detail: rt_reason */
    TRACE_EXIT,   /* g is dead */
    TRACE_IDLE,   /* the M gives up its P */
    TRACE_READY,  /* g becomes runnable */
    TRACE_STEAL,  /* detail: the victim's P */
    TRACE_ENTER,  /* g enters a system call */
    TRACE_LEAVE,  /* g comes back from the system call */
    TRACE_POLL,   /* a poll of duration_ns; detail: Gs that it readied; p: its poller's P */
    TRACE_RETAKE, /* sysmon takes P `detail` out of a system call */
    TRACE_SPAN,   /* rt_trace_span, of duration_ns */
} trace_kind;

extern _Atomic bool trace_is_on;

#define TRACE_ON() __builtin_expect(atomic_load_explicit(&trace_is_on, memory_order_relaxed), 0)

/* Records an event of g (NULL: none) on p (NULL: none). detail: see trace_kind. Any thread. Does not wait. Cold, so
 * that the path without a trace pays nothing for the call. */
__attribute__((cold)) void trace_event(trace_kind kind, const rt_p *p, const rt_g *g,
                                       int32_t detail);
/* Records a poll of p's poller that began at start_ns (rt_nanotime), ends now and readied n Gs. Any thread. Does not
 * wait. */
void trace_poll(const rt_p *p, int64_t start_ns, int32_t n);

#define TRACE(kind, p, g, detail)                                                                  \
    do {                                                                                           \
        if (TRACE_ON()) trace_event(kind, p, g, detail);                                           \
    } while (0)

#endif
