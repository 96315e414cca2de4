/* The part of the runtime that LuaJIT parses: `make` copies the text between the two marks into lunapark.cdef. Plain C
 * types only, no macros. The rest of the API: runtime.h. */
#ifndef RUNTIME_FFI_H
#define RUNTIME_FFI_H

#include <stdint.h>

/* ffi:begin */
typedef struct rt_g rt_g;

/* What the scheduler counted since its start, and what it holds now. Numbers of several threads are
 * added up without stopping them, so they may be off by what happened meanwhile. */
typedef struct rt_stats {
    int32_t procs;        /* Ps */
    int32_t idle_ps;      /* Ps that nobody runs */
    int32_t ms;           /* threads that run Gs, sysmon not counted */
    int32_t idle_ms;      /* of these, asleep without a poller */
    int32_t spinning_ms;  /* of these, looking for work */
    int32_t g_runnable;   /* Gs by state */
    int32_t g_running;    /* */
    int32_t g_syscall;    /* */
    int32_t g_waiting;    /* */
    int32_t g_dead;       /* Gs in the free lists */
    int64_t switches;     /* Gs run */
    int64_t steals;       /* successful thefts of half a queue */
    int64_t polls;        /* calls of epoll_wait */
    int64_t poll_events;  /* Gs that the polls made ready */
    int64_t timers;       /* timers that stand in a heap */
    int64_t timers_fired; /* */
    int64_t handoffs;     /* Ps taken from an M in a system call */
    int64_t fds;          /* descriptors registered with a poller */
    int64_t stack_bytes;  /* address space of native stacks */
    int32_t held_stacks;  /* of these, held by Gs that wait in the midst of a C function */
    int32_t away;         /* VMs whose M has lost its P */
} rt_stats;

/* What the scheduler counted of one P. */
typedef struct rt_p_stats {
    int32_t status;      /* 0 idle, 1 running, 2 foreign, 3 syscall, 4 dead */
    int32_t runq;        /* Gs in its ring */
    int64_t switches;    /* */
    int64_t steals;      /* */
    int64_t polls;       /* */
    int64_t poll_events; /* */
    int64_t fds;         /* descriptors that its poller watches */
} rt_p_stats;

/* Monotonic time in nanoseconds. Any thread; never waits. */
int64_t rt_nanotime(void);

/* Fills *s. Any thread; never waits longer than for a short lock. */
void rt_read_stats(rt_stats *s);

/* Fills *s for P number `id`, 0 .. procs-1. Returns 0, or -EINVAL without such a P. Any thread. */
int rt_read_p_stats(int32_t id, rt_p_stats *s);
/* ffi:end */

#endif
