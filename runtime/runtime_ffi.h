/* The part of the runtime that LuaJIT parses: `make` copies the text between the two marks into lunapark.cdef. The text
 * has plain C types only and no macros. The rest of the API: runtime.h. */
#ifndef RUNTIME_FFI_H
#define RUNTIME_FFI_H

#include <stdint.h>

/* ffi:begin */
typedef struct rt_g rt_g;

/* What the scheduler counted since its start, and what it holds now. The numbers of several threads are added up while
 * the threads run, so a sum may miss what happens meanwhile. */
typedef struct rt_stats {
    int32_t procs;        /* Ps that run Gs, and those that are about to go out */
    int32_t all_ps;       /* Ps that there are, with those that are out: rt_set_procs */
    int32_t idle_ps;      /* Ps that nobody runs */
    int32_t ms;           /* threads that run Gs, sysmon not counted */
    int32_t idle_ms;      /* of these, asleep without a poller */
    int32_t spinning_ms;  /* of these, looking for work */
    int32_t g_runnable;   /* Gs by state: queued */
    int32_t g_running;    /* on an M */
    int32_t g_syscall;    /* in calls that may block */
    int32_t g_waiting;    /* until rt_ready */
    int32_t g_dead;       /* Gs in the free lists */
    int64_t switches;     /* Gs run */
    int64_t steals;       /* successful thefts of half a queue */
    int64_t polls;        /* calls of epoll_wait */
    int64_t poll_events;  /* Gs that the polls made ready */
    int64_t timers;       /* timers that stand in a heap */
    int64_t timers_fired; /* timers whose time came */
    int64_t handoffs;     /* Ps taken from an M in a system call */
    int64_t fds;          /* descriptors registered with a poller */
    int64_t stack_bytes;  /* address space of native stacks */
    int32_t held_stacks;  /* of these, held by Gs that wait in the midst of a C function */
    int32_t away;         /* VMs whose M has lost its P */
} rt_stats;

/* What the scheduler counted of one P. */
typedef struct rt_p_stats {
    int32_t status;      /* 0 idle, 1 running, 2 foreign, 3 syscall, 4 out */
    int32_t runq;        /* Gs in its ring */
    int64_t switches;    /* Gs run */
    int64_t steals;      /* successful thefts from other Ps */
    int64_t polls;       /* calls of epoll_wait for its poller */
    int64_t poll_events; /* Gs that these polls made ready */
    int64_t fds;         /* descriptors that its poller watches */
} rt_p_stats;

/* Monotonic time in nanoseconds. Any thread. Does not wait. */
int64_t rt_nanotime(void);

/* Fills *s. Any thread. Waits for short locks only. */
void rt_read_stats(rt_stats *s);

/* Fills *s for P number `id`, 0 .. all_ps-1. 0; -EINVAL: there is no such P. Any thread. Does not wait. */
int rt_read_p_stats(int32_t id, rt_p_stats *s);

/* From now on n Ps run Gs, 256 at most; 0: as many as the process may use CPUs, now and later (its affinity and the
 * quota of its cgroups are read every 10 s). A surplus P goes out when the G that it runs waits, or after some 60 Gs;
 * what comes to its descriptors and timers later goes to other Ps. Returns the number; -EINVAL: n is out of range;
 * -ENOMEM, -EMFILE: a further P can't be made. Any thread. Waits for short locks and for the start of threads. */
int rt_set_procs(int n);
/* ffi:end */

#endif
