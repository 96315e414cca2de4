/* The runtime's own data: G, M, P, the scheduler. Only files of runtime/ include it.
 *
 * Each field says who may touch it: "owner" the one that the state enum names, "lock" a lock, "atomic"
 * anybody by atomic operations. Fields without a word never change after their object was made. */
#ifndef IMPL_H
#define IMPL_H

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "context.h"
#include "lock.h"
#include "note.h"
#include "runtime.h"

typedef struct rt_m rt_m;
typedef struct rt_p rt_p;
typedef struct rt_poller rt_poller;

/* Sizes. A test build (-DRT_TINY) makes them hostile. */
#ifdef RT_TINY
enum { RUNQ_SIZE = 4, GFREE_MAX = 2, POLL_EVENTS = 1, TIMER_HEAP_MIN = 1, SPARE_MS = 0 };
#else
enum { RUNQ_SIZE = 256, GFREE_MAX = 64, POLL_EVENTS = 128, TIMER_HEAP_MIN = 64 };
enum { SPARE_MS = 8 }; /* so many idle Ms more than Ps stay */
#endif
enum {
    MAX_PROCS = 256,
    GLOBAL_TICK = 61, /* every so many Gs the global queue and the poller come first */
    TIMER_BATCH = 64, /* timers that fire before Gs have their turn */
    CELL_SLICE = 64,  /* Gs that a cell runs before others get its M */
    CACHE_LINE = 64,
    G_BLOCK = 64, /* Gs that are made at a time */
};
#define NS_PER_MS   INT64_C(1000000)
#define NS_PER_SEC  INT64_C(1000000000)
#define SLICE_NS    (10 * NS_PER_MS) /* after that a cell yields at its next wait */
#define UNPOLLED_NS (10 * NS_PER_MS) /* after that sysmon polls for a busy P */
#define FRESH_NS    (1 * NS_PER_MS)  /* a busy M polls no more often than this */
#define FOREIGN_NS  (20 * NS_PER_MS) /* after that an M in foreign code loses its P */

/* ---- G ------------------------------------------------------------------------------------- */

/* Who owns the G (its fields, its stack) in each state:
 *   idle      its maker
 *   runnable  the queue that holds it
 *   running   the M whose curg it is (a cell's loop: the M that runs the cell)
 *   syscall   its M, which runs C code that may block
 *   waiting   what its commit function handed it to; that alone may rt_ready it
 *   dead      the free list */
typedef enum g_status { G_IDLE, G_RUNNABLE, G_RUNNING, G_SYSCALL, G_WAITING, G_DEAD } g_status;

struct rt_g {
    _Atomic uint32_t status; /* g_status; the owner writes, dumps read */
    _Atomic uint8_t reason;  /* rt_reason while waiting; the owner writes, dumps read */
    bool system;             /* the runtime's own: neither dumped nor counted */
    bool trimmed;            /* dead, in sched.stack_gfree: its stack has given its pages back */
    bool fresh;              /* owner: moved to its cell, where it has not run yet */
    rt_g *schedlink;         /* owner: next in the queue, mailbox or free list that holds it */
    rt_cell *cell;           /* owner: it runs in that cell's loop; NULL: on any M */
    rt_cell *drives;         /* the cell whose loop this G is */
    rt_step_fn step;         /* owner: NULL for a native G */
    rt_context ctx;          /* owner: native, its stack; of a cell: a loop's stack that it holds */
    union {
        struct {
            void (*fn)(void *); /* native: what it runs */
            void *arg;
        };
        _Alignas(8) char local[RT_G_LOCAL]; /* step, owner: room for its maker */
    };
    const void *site;      /* where it was made: a return address in the caller of rt_go */
    rt_commit_fn commit;   /* owner: of the park that begins */
    void *commit_arg;      /* owner */
    _Atomic uint64_t wait; /* atomic: ticket and phase of a wait, see wait.c */
    _Atomic(_Atomic uintptr_t *) word; /* the owner writes: rg or wg that it waited at last */
    rt_timer timer;                    /* owner: deadline of that wait */
    _Atomic int64_t since_ns;          /* the owner writes, dumps read: when the wait began */
    _Atomic int64_t id;                /* owner writes: a new one each time the G is reused */
    _Atomic int64_t cancel; /* atomic: the id of the life that is cancelled, see wait.c */
};

#if !defined(RT_ASAN) && !defined(RT_TSAN)
_Static_assert(sizeof(struct rt_g) <= 192, "a G must stay small");
#endif

/* A bit for each legal transition: from * 8 + to. */
#define MAY(from, to) (UINT64_C(1) << ((from)*8 + (to)))
static const uint64_t g_legal =
    MAY(G_IDLE, G_WAITING) | MAY(G_IDLE, G_RUNNABLE) | MAY(G_RUNNABLE, G_RUNNING) |
    MAY(G_RUNNING, G_RUNNABLE) | MAY(G_RUNNING, G_WAITING) | MAY(G_RUNNING, G_SYSCALL) |
    MAY(G_RUNNING, G_DEAD) | MAY(G_SYSCALL, G_RUNNING) | MAY(G_SYSCALL, G_RUNNABLE) |
    MAY(G_WAITING, G_RUNNABLE) | MAY(G_WAITING, G_RUNNING) | MAY(G_DEAD, G_IDLE);
#undef MAY

/* Throws: g is to go from one state to another and may not, or is in a third. */
_Noreturn void g_bad_status(const rt_g *g, uint32_t now, g_status from, g_status to);

/* Every transition of a G's state. Only the owner moves the state, so no CAS is needed; a second owner is a bug that
 * the comparison finds most of the time. Release: who takes the G over by loading its state sees its fields. Inlined,
 * since each G that runs goes through two of them. */
static inline void g_set_status(rt_g *g, g_status from, g_status to) {
    uint32_t now = atomic_load_explicit(&g->status, memory_order_relaxed);
    if (now != (uint32_t)from || !(g_legal >> (from * 8 + to) & 1)) g_bad_status(g, now, from, to);
    atomic_store_explicit(&g->status, to, memory_order_release);
}

/* A queue of Gs linked by schedlink; whose it is, says who may touch it. */
typedef struct g_list {
    rt_g *head, *tail;
    int32_t n;
} g_list;

static inline void g_list_push(g_list *l, rt_g *g) {
    g->schedlink = NULL;
    if (l->tail)
        l->tail->schedlink = g;
    else
        l->head = g;
    l->tail = g;
    l->n++;
}

static inline void g_list_push_front(g_list *l, rt_g *g) {
    g->schedlink = l->head;
    if (!l->tail) l->tail = g;
    l->head = g;
    l->n++;
}

static inline rt_g *g_list_pop(g_list *l) {
    rt_g *g = l->head;
    if (!g) return NULL;
    l->head = g->schedlink;
    if (!l->head) l->tail = NULL;
    l->n--;
    g->schedlink = NULL;
    return g;
}

/* ---- P ------------------------------------------------------------------------------------- */

/*   idle     in sched.idle_ps, owned by sched.lock
 *   running  owned by p->m
 *   foreign  p->m runs code that knows nothing of Ps (Lua) and may not come back for long; the word holds
 *            p->m's id above P_STATUS; sysmon may take it by CAS to idle
 *   syscall  p->m is in a system call; sysmon may take it by CAS to idle
 *   dead     never used */
typedef enum p_status { P_IDLE, P_RUNNING, P_FOREIGN, P_SYSCALL, P_DEAD } p_status;
enum { P_STATUS = 0xff, P_OWNER_SHIFT = 8 };

typedef struct timer_slot {
    int64_t key; /* copy of t->key, so that sifting touches only the heap */
    rt_timer *t;
} timer_slot;

struct rt_p {
    int32_t id;
    _Atomic uint32_t status; /* p_status; foreign: with p->m's id */
    _Atomic(rt_m *) m;       /* owner; NULL while idle */
    rt_cell *cell;           /* owner: foreign: whose code p->m runs */
    rt_p *idle_link;         /* sched.lock */
    bool in_idle;            /* sched.lock */
    rt_m *poll_m;            /* sched.lock: M that blocks in this P's poller while the P is idle */
    _Atomic int32_t n_in_poll; /* atomic: Ms that block there or are about to; see leave_poller */

    /* Ring: the owner adds at the tail, anybody takes at the head by CAS. See runq.c. */
    _Alignas(CACHE_LINE) _Atomic uint32_t runq_head;
    _Atomic uint32_t runq_tail;
    _Atomic(rt_g *) runq[RUNQ_SIZE];
    _Atomic(rt_g *)
        runnext; /* atomic: runs before the ring, in the slice of the G that readied it */

    _Atomic uint32_t schedtick;   /* owner writes, others read: Gs run */
    _Atomic uint32_t slicetick;   /* owner writes, sysmon reads: slices begun */
    _Atomic uint32_t syscalltick; /* owner writes, sysmon reads: system and foreign calls entered */
    _Atomic bool yield_now;       /* atomic: sysmon found the slice used up */
    _Atomic int64_t now_ns; /* owner and sysmon write: a recent time, for what need not be exact */
    g_list gfree;           /* owner */
    g_list stack_gfree;     /* owner: dead native Gs that keep their stack */

    rt_lock timer_lock;
    timer_slot *timers;            /* timer_lock: 4-ary heap */
    uint32_t ntimers, timers_cap;  /* timer_lock */
    rt_timer *roomless;            /* timer_lock: timers for which the heap had no memory */
    int64_t roomless_ns;           /* timer_lock: when to look at them */
    _Atomic int64_t timer_next_ns; /* timer_lock writes, anybody reads: when to look, or 0 */

    rt_poller *poller;
    _Atomic int64_t last_poll_ns; /* atomic: when somebody polled last; 0 while an M blocks in it */

    /* Counters: the owner writes, anybody reads. */
    _Atomic int64_t n_steals, n_polls, n_poll_events, n_timers_fired;
    _Atomic int64_t n_fds; /* atomic */
};

/* ---- M ------------------------------------------------------------------------------------- */

struct rt_m {
    rt_context ctx; /* its loop's stack */
    rt_g *curg;     /* this thread */
    rt_p *p;        /* this thread; NULL: it has none */
    rt_cell *cell;  /* this thread: the cell whose loop runs on it */
    rt_p *next_p;   /* handed over before wake-up: sched.lock, then this thread */
    rt_p *old_p;    /* this thread: the P it had before a system call */
    uint32_t old_tick;
    bool spinning; /* this thread; handed over with next_p */
    bool to_spin;  /* with next_p: it is to spin */
    bool ended;    /* this thread: its loop is to return, see m.c */
    rt_step after; /* this thread: what the native G that just left wants */
    rt_g *left;    /* this thread: it switched straight to curg, which settles it */
    rt_g *picked;  /* this thread: taken from the ring, for the loop to run */
    uint64_t rand; /* this thread */
    note park;
    rt_m *idle_link; /* sched.lock: in idle_ms, dead_ms */
    rt_m *all_link;
    int32_t id;
    char *sigstack;                    /* above its guard; the maker of the M gives it */
    _Atomic int32_t tid;               /* atomic: the kernel's name of the thread; 0: it has none */
    _Atomic bool urged;                /* atomic: a SIGURG is on its way */
    _Atomic bool interrupted;          /* atomic: a SIGURG came; the code that looks clears it */
    _Atomic int64_t n_interrupts;      /* its handler writes */
    timer_t prof_timer;                /* prof.c's lock */
    bool has_prof_timer;               /* prof.c's lock */
    _Atomic(struct trace_buf *) trace; /* this thread writes, see trace.c */
};

/* What ends sysmon's sleep: naps, a call that begins; sleeps, a P that is taken. */
typedef enum sysmon_sleep { SYSMON_UP, SYSMON_NAPS, SYSMON_SLEEPS } sysmon_sleep;

/* ---- the scheduler ------------------------------------------------------------------------- */

typedef struct rt_sched {
    rt_lock lock;
    int32_t procs;
    rt_p *ps; /* [procs] */

    rt_p *idle_ps;             /* lock */
    _Atomic int32_t n_idle_ps; /* lock writes, anybody reads */
    rt_m *idle_ms;             /* lock: asleep on their notes */
    _Atomic int32_t n_idle_ms; /* lock writes */
    _Atomic(rt_m *) all_ms;    /* push only; those without a thread, too */
    rt_m *dead_ms;             /* lock: without a thread */
    _Atomic int32_t n_ms;      /* atomic: those with a thread */
    _Atomic int32_t next_m_id;
    _Atomic int32_t n_claims;   /* threads that were claimed, see rt_claim_thread */
    _Atomic bool starved;       /* lock writes: a P is idle for which no thread could be had */
    _Atomic int32_t n_spinning; /* atomic */

    g_list runq;            /* lock: the global queue */
    _Atomic int32_t n_runq; /* lock writes, anybody reads */

    rt_lock gfree_lock;
    g_list gfree;       /* gfree_lock */
    g_list stack_gfree; /* gfree_lock */
    rt_g **blocks;      /* gfree_lock: all Gs ever made, in blocks */
    uint32_t n_blocks, blocks_cap;
    _Atomic int64_t next_id;

    _Atomic int64_t n_handoffs;
    _Atomic int64_t n_fds;      /* user descriptors that are polled */
    _Atomic int32_t n_syscalls; /* Gs in system calls, and in foreign code without a P */
    rt_cell *away;              /* lock: cells whose M has lost its P */
    _Atomic int32_t n_held;     /* stacks that Gs of cells hold */
    bool deadlock_is_normal;

    _Atomic uint32_t sysmon_sleeps; /* atomic: sysmon_sleep: it sleeps on sysmon_note */
    note sysmon_note;
    rt_m m0;
} rt_sched;

extern rt_sched sched;

/* ---- between the files --------------------------------------------------------------------- */

/* The running thread's M. Not inlined: a native G may go on on another thread, and the compiler
 * may keep the address of a thread-local across a switch. */
rt_m *rt_getm(void);
void rt_setm(rt_m *m);

/* g.c */
void init_gs(void);
/* A native G in state idle, NULL without memory. Its stack has at least stack_size bytes. */
rt_g *new_native(void (*fn)(void *), void *arg, size_t stack_size);
/* Ends g, which ran until now. On the stack of the loop or of another G, so g's own is free; g keeps one of the usual
 * size. With a P. */
void bury(rt_g *g);

/* proc.c. Where a native G begins, on its own stack; arg is the G. */
void native_main(void *arg);
/* Does what `step` wants of g, which just left; `home` is the cell whose loop runs, or NULL. True:
 * the G's commit refused, run it again. */
bool finish_step(rt_g *g, rt_step step, rt_cell *home);
/* Leaves a native G's stack for its M's loop, which does `step`. */
void g_leave(rt_g *g, rt_step step);
/* Returns when m->ended. */
void schedule_loop(rt_m *m);
/* A runnable G whose state is set: to its cell, or to a run queue. */
void g_enqueue(rt_g *g);
/* Queues all Gs of l where they will run, their states are set. m: this M, with a P or without. */
void inject(rt_m *m, g_list *l);
/* Wakes one more M if there is an idle P and nobody looks for work yet. */
void wakep(void);

/* runq.c */
void runq_put(rt_p *p, rt_g *g);
void runq_put_next(rt_p *p, rt_g *g);
rt_g *runq_get(rt_p *p);
bool runq_empty(rt_p *p);
rt_g *runq_steal(rt_p *p, rt_p *victim, bool next_too);
void global_put(g_list *l);             /* sched.lock held */
rt_g *global_get(rt_p *p, int32_t max); /* sched.lock held */

/* m.c. acquire/release: this M and p belong together from/until now. */
void p_acquire(rt_m *m, rt_p *p);
rt_p *p_release(rt_m *m);
void p_idle_put(rt_p *p);       /* sched.lock held */
rt_p *p_idle_get(rt_p *wanted); /* sched.lock held; wanted if it is idle, else any, else NULL */
/* Sends the M away that sits in the poller of p, which was idle and goes to `taker`. sched.lock held. */
void p_evict(rt_p *p, rt_m *taker);
/* If p is idle and no M sits in its poller (nobody has run it yet), one goes there. */
void p_attend(rt_p *p);
/* Some M shall run p, which the caller owns (status idle). If none can be had, p is idle and sched.starved set: sysmon
 * tries again. Takes sched.lock released. */
void m_start(rt_p *p, bool spinning);
/* sched.starved: tries again to find an M for an idle P. True: one was found, or none is missing any more. */
bool m_feed(void);
/* Sleeps until somebody hands this M a P, then takes it; or until there are too many Ms: m->ended. sched.lock held; returns
 * without it. */
void m_stop(rt_m *m);
void m_init_main(void);
uint64_t m_rand(rt_m *m);
void m_count_ms(int32_t *ms, int32_t *idle);

/* wait.c: the deadline of a G's wait may have come; arg is the G. */
void wait_deadline(void *arg);

/* cell.c */
void cell_post(rt_cell *c, rt_g *g);
void cell_requeue(rt_cell *c, rt_g *g);
/* The native G on whose stack c's loop runs. */
rt_g *cell_driver(rt_cell *c);
/* c's M has lost its P, c's M is back; what has not begun goes to the global queue. sched.lock held. */
void cell_away(rt_cell *c, rt_m *m);
void cell_back(rt_cell *c);
/* Moves what was posted to away cells since to the global queue. True: there was something. sched.lock held. */
bool cell_relieve(void);
int32_t cells_away(void); /* sched.lock held */

/* timer.c */
/* Runs what is due on p's heap; its next key or 0 is in p->timer_next_ns. *now_ns is read if 0. */
bool timers_run(rt_p *p, int64_t *now_ns);
bool timers_live(void);
/* The part of rt_timer_set that is a store. True: that was enough. Several callers at a time. */
bool timer_move_later(rt_timer *t, int64_t until);

/* A poller's operations, one table for each interface of a kernel. netpoll.c alone calls them. */
typedef struct poller_ops {
    rt_poller *(*open)(void); /* NULL: errno says why */
    /* Registers fd for both directions, edge-triggered; exclusive: a listener, for reading. 0 or -errno. Any thread. */
    int (*add)(rt_poller *po, int fd, uint64_t tag, bool exclusive);
    int (*del)(rt_poller *po, int fd);         /* 0 or -errno. Any thread */
    bool (*owns)(const rt_poller *po, int fd); /* fd is one of the poller's own. Any thread */
    /* Passes what came to netpoll_event, which adds Gs to l. delay_ns < 0: waits until something comes; 0: does not
     * wait. How many events came. Any thread. */
    int (*poll)(rt_poller *po, int64_t delay_ns, g_list *l);
    /* Ends a poll that waits now, or the next one that would. Any thread, signal handlers too. */
    void (*wake)(rt_poller *po);
} poller_ops;

/* netpoll_epoll.c */
extern const poller_ops epoll_ops;

/* netpoll.c */
/* The table to use: epoll_ops if nobody says another. Before rt_main. */
void netpoll_choose(const poller_ops *ops);
/* NULL: errno says why. */
rt_poller *netpoll_new(void);
/* As the operation `wake`. */
void netpoll_break(rt_poller *po);
/* Events of a tag. Adds the Gs that they ready to l. */
void netpoll_event(uint64_t tag, bool r, bool w, bool hup, bool err, g_list *l);
/* Ends g's wait for a descriptor, if that is what it does. */
bool pd_leave(rt_g *g);
/* Polls p's poller. */
int netpoll_p(rt_p *p, int64_t delay_ns, g_list *l);
/* As rt_pd_open, for descriptors of the runtime itself. */
rt_pd *pd_open_system(int fd, int *err);

/* stack.c */
/* lo is NULL without memory. */
rt_stack stack_alloc(size_t size);
void stack_free(rt_stack s);
/* Does `at` lie in the guard below s, so that an access there has overflowed s? Any thread, signal handlers too. */
bool stack_guards(rt_stack s, const char *at);
/* Gives pages back that the stacks of dead Gs in the global list have touched; how many stacks. Any
 * thread. */
int stack_scavenge(void);
/* Gives the pages of s back that lie whole below that address. */
void stack_trim(rt_stack s, const void *below);
int64_t stack_bytes(void);
#if defined(RT_ASAN) || defined(RT_TSAN) /* their frames are larger, and they ask for more */
enum { STACK_NATIVE = 256 << 10, STACK_M = 4 << 20, STACK_SIGNAL = 256 << 10 };
#else
enum { STACK_NATIVE = 64 << 10, STACK_M = 256 << 10, STACK_SIGNAL = 64 << 10 };
#endif

/* syscall.c. Takes p out of a system call, and has another M run it. False: p is in none. sysmon, and the M in the call. */
bool syscall_retake(rt_p *p);
/* Takes p from the M that has it in foreign code since the word was `status`. sysmon. */
bool foreign_retake(rt_p *p, uint32_t status);

/* sysmon.c */
void sysmon_start(void);
/* Ends its sleep on sysmon_note, if it is in one. Any thread, signal handlers too. */
void sysmon_wake(void);
/* Where sysmon gets its time from, so that tests can stop and move it. Set before sysmon_start. */
typedef struct sysmon_clock {
    int64_t (*now)(void);
    void (*sleep)(int64_t delay_ns); /* between rounds */
} sysmon_clock;
void sysmon_set_clock(const sysmon_clock *c);

/* signal.c */
void signal_init(bool keep_default);
/* The stack for m's handlers. False: no memory. */
bool signal_stack_new(rt_m *m);
void signal_stack_free(rt_m *m);
/* On m's thread, when it begins and before it ends. */
void signal_init_m(rt_m *m);
void signal_end_m(rt_m *m);
/* Makes the G that does the work of handlers. With a P. */
void signal_start(void);
/* Some G waits for a signal, and one that it would be told of may come. With all Ps idle. */
bool signal_may_come(void);
/* Does what handlers have asked for, if no P got round to it. sysmon. */
void signal_watch(int64_t now_ns);
/* Sends SIGURG to m's thread, if none is on its way. Its handler sets m->interrupted and nothing
 * else; system calls go on or return EINTR. Any thread. */
void m_interrupt(rt_m *m);

/* prof.c: m's thread gets a timer if the profiler runs; m's timer goes, and m->tid with it. */
void prof_init_m(rt_m *m);
void prof_end_m(rt_m *m);

/* symbol.c */
typedef struct rt_symbol {
    const char *name;   /* of the function; NULL: unknown */
    const char *module; /* file, without its directory; NULL: unknown */
    uintptr_t start;    /* of the function, else of the module */
} rt_symbol;
void symbol_find(const void *pc, rt_symbol *s);
/* "name+0x1c", "module+0x1234" or "0x1234"; returns its length, below size. */

/* unwind.c */
void unwind_init(void);
/* Return addresses of the frames below a signal's context (ucontext_t), the interrupted pc first, at
 * most max. Reads nothing outside `stack`. Async-signal-safe. */
int unwind(const void *uc, rt_stack stack, uintptr_t *pcs, int max);

/* os_linux.c */
uint64_t os_random(void);
void os_raise_fd_limit(void);
rt_stack os_thread_stack(void);

/* debug.c */
void check_dead(void); /* sched.lock held */
/* Writes to stderr, by write(2) only. Any thread, signal handlers too. */
void debug_emit(const char *s, size_t n);
void debug_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Ends the process, which has not begun to work, with 1: "lunapark: cannot start: ..." */
_Noreturn void debug_no_start(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Calls what rt_on_end was given, once. */
void debug_before_end(void);

/* debugenv.c */
void debugenv_init(const char *vars);

/* Looks at what others write, and can do with torn values. */
#ifdef RT_TSAN
#define RT_PEEKS __attribute__((no_sanitize("thread")))
#else
#define RT_PEEKS
#endif

/* Between a store and a load that must not pass it. TSan knows no fences, so gcc refuses them in its
 * build; it sees the atomics on both sides, and the processor still gets its fence. */
static inline void full_fence(void) {
#ifdef RT_TSAN
    __asm__ volatile(
#ifdef __x86_64__
        "mfence"
#else
        "dmb ish"
#endif
        ::
            : "memory");
#else
    atomic_thread_fence(memory_order_seq_cst);
#endif
}

static inline int64_t count_get(const _Atomic int64_t *c) {
    return atomic_load_explicit(c, memory_order_relaxed);
}

/* For counters with one writer: no locked instruction. */
static inline void count_add(_Atomic int64_t *c, int64_t n) {
    atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

#endif
