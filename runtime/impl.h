/* The runtime's own data: G, M, P, the scheduler. Only files of runtime/, and tests, include it.
 *
 * The comment of a field says who may touch it. "owner": the one that the state enum names. The name of a lock: its
 * holder. "atomic": anybody, by atomic operations. Fields without such a word never change after their object was made.
 *
 * The comment of a function says who may call it. "At the start": rt_main, before there are Gs. Without such words: an
 * M with a P. None waits, unless its comment says so. */
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
enum { SPARE_MS = 8 }; /* idle Ms that stay beyond one per P */
#endif
enum {
    MAX_PROCS = 256,
    GLOBAL_TICK = 61, /* once in so many Gs the global queue and the poller come first */
    TIMER_BATCH = 64, /* timers that fire before Gs have their turn again */
    CELL_SLICE = 64,  /* Gs that a cell runs before others get its M */
    CACHE_LINE = 64,
    G_BLOCK = 64, /* Gs that are made at a time */
};
#define NS_PER_MS   INT64_C(1000000)
#define NS_PER_SEC  INT64_C(1000000000)
#define SLICE_NS    (10 * NS_PER_MS) /* a cell that ran so long yields at its next wait */
#define UNPOLLED_NS (10 * NS_PER_MS) /* sysmon polls for a busy P that has not polled for so long */
#define FRESH_NS    (1 * NS_PER_MS)  /* a busy M polls no more often than this */
#define FOREIGN_NS  (20 * NS_PER_MS) /* an M that is so long in foreign code loses its P */

/* ---- G ------------------------------------------------------------------------------------- */

/* Who owns the G (its fields, its stack) in each state:
 *   idle      its maker
 *   runnable  the queue that holds it
 *   running   the M whose curg it is (a cell's loop: the M that runs the cell)
 *   syscall   its M, which runs C code that may block
 *   waiting   what its commit function handed it to; only this owner may rt_ready it
 *   dead      the free list */
typedef enum g_status { G_IDLE, G_RUNNABLE, G_RUNNING, G_SYSCALL, G_WAITING, G_DEAD } g_status;

struct rt_g {
    _Atomic uint32_t status; /* g_status; the owner writes, dumps read */
    _Atomic uint8_t reason;  /* rt_reason while waiting; the owner writes, dumps read */
    bool system;             /* the runtime's own G: neither dumped nor counted */
    bool trimmed;            /* dead, in sched.stack_gfree: its stack has given its pages back */
    bool fresh;              /* owner: the G moved to its cell and has not run there yet */
    rt_g *schedlink;         /* owner: next in the queue, mailbox or free list that holds it */
    rt_cell *cell;           /* owner: the cell whose loop runs the G; NULL: any M */
    rt_cell *drives;         /* the cell whose loop this G is */
    rt_step_fn step;         /* owner: NULL for a native G */
    rt_context ctx;          /* owner: native: its stack; of a cell: a loop's stack that it holds */
    union {
        struct {
            void (*fn)(void *); /* native: what it runs */
            void *arg;
        };
        _Alignas(8) char local[RT_G_LOCAL]; /* step, owner: room for its maker */
    };
    const void *site;      /* a return address in the caller of rt_go: where the G was made */
    rt_commit_fn commit;   /* owner: of the park that begins */
    void *commit_arg;      /* owner */
    _Atomic uint64_t wait; /* atomic: ticket and phase of a wait, see wait.c */
    _Atomic(_Atomic uintptr_t *) word; /* the owner writes: the rg or wg where the G waited last */
    rt_timer timer;                    /* owner: deadline of the wait */
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

/* Aborts and says: g is in state `now`, but was to go from `from` to `to`, or may not go so. Any thread. */
_Noreturn void g_bad_status(const rt_g *g, uint32_t now, g_status from, g_status to);

/* Moves g from one state to another: every transition of a G's state. Only the owner moves the state, so no CAS is
 * needed; the comparison finds a second owner, a bug, most of the time. Release: a thread that takes g over by loading
 * its state sees g's fields. Inlined, since each G that runs goes through two transitions. */
static inline void g_set_status(rt_g *g, g_status from, g_status to) {
    uint32_t now = atomic_load_explicit(&g->status, memory_order_relaxed);
    if (now != (uint32_t)from || !(g_legal >> (from * 8 + to) & 1)) g_bad_status(g, now, from, to);
    atomic_store_explicit(&g->status, to, memory_order_release);
}

/* A queue of Gs linked by schedlink. The field that holds the queue says who may touch it. */
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

/* Who owns the P in each state:
 *   idle     sched.lock; the P is in sched.idle_ps
 *   running  p->m
 *   foreign  p->m, which runs code that knows nothing of Ps (Lua) and may not come back for long; the word
 *            holds p->m's id above P_STATUS; sysmon may take the P by CAS to idle
 *   syscall  the M in the system call; sysmon may take the P by CAS to idle
 *   out      sched.lock; the P runs no Gs for now, see procs.c */
typedef enum p_status { P_IDLE, P_RUNNING, P_FOREIGN, P_SYSCALL, P_OUT } p_status;
enum { P_STATUS = 0xff, P_OWNER_SHIFT = 8 };

typedef struct timer_slot {
    int64_t key; /* copy of t->key, so that sifting touches only the heap */
    rt_timer *t;
} timer_slot;

struct rt_p {
    int32_t id;
    _Atomic uint32_t status; /* p_status; foreign: with p->m's id */
    _Atomic(rt_m *) m;       /* owner; NULL while idle */
    rt_cell *cell;           /* owner: in state foreign: the cell whose code p->m runs */
    rt_p *idle_link;         /* sched.lock */
    bool in_idle;            /* sched.lock */
    rt_m *poll_m; /* sched.lock: M that blocks in this P's poller while the P is idle or out */
    _Atomic bool leaves;       /* sched.lock writes, anybody reads: the P is to go out, or is out */
    _Atomic int32_t n_in_poll; /* atomic: Ms in the poller or about to be; see leave_poller */

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
    _Atomic int64_t now_ns;       /* owner and sysmon write: a recent time, where that is enough */
    g_list gfree;                 /* owner */
    g_list stack_gfree;           /* owner: dead native Gs that keep their stack */

    rt_lock timer_lock;
    timer_slot *timers;            /* timer_lock: 4-ary heap */
    uint32_t ntimers, timers_cap;  /* timer_lock */
    rt_timer *roomless;            /* timer_lock: timers for which the heap had no memory */
    int64_t roomless_ns;           /* timer_lock: when to look at `roomless` */
    _Atomic int64_t timer_next_ns; /* timer_lock writes, anybody reads: when to look; 0: never */

    rt_poller *poller;
    _Atomic int64_t last_poll_ns; /* atomic: time of the last poll; 0 while an M blocks there */

    /* Counters: the owner writes, anybody reads. */
    _Atomic int64_t n_steals, n_polls, n_poll_events, n_timers_fired;
    _Atomic int64_t n_fds; /* atomic */
};

/* ---- M ------------------------------------------------------------------------------------- */

struct rt_m {
    rt_context ctx; /* the stack of the M's loop */
    rt_g *curg;     /* this thread */
    rt_p *p;        /* this thread; NULL: no P */
    rt_cell *cell;  /* this thread: the cell whose loop runs on it */
    rt_p *next_p;   /* the P handed over before a wake-up: sched.lock, then this thread */
    rt_p *old_p;    /* this thread: its P before a system or foreign call */
    uint32_t old_tick;
    bool spinning; /* this thread; handed over with next_p */
    bool to_spin;  /* written with next_p: the M shall spin */
    bool ended;    /* this thread: its loop shall return, see m.c */
    bool leaving;  /* this thread: curg is about to leave, and readies a G: rt_wake_last */
    rt_step after; /* this thread: what the native G that just left wants */
    rt_g *left;    /* this thread: the G that switched straight to curg, which settles it */
    rt_g *picked;  /* this thread: a G taken from the ring, for the loop to run */
    uint64_t rand; /* this thread */
    note park;
    rt_m *idle_link; /* sched.lock: in idle_ms, dead_ms */
    rt_m *all_link;
    int32_t id;
    char *sigstack;               /* above its guard; the maker of the M sets it */
    _Atomic int32_t tid;          /* atomic: the kernel's number of the thread; 0: none */
    _Atomic bool urged;           /* atomic: a SIGURG is on its way */
    _Atomic bool interrupted;     /* atomic: a SIGURG came; the code that looks clears the flag */
    _Atomic int64_t n_interrupts; /* SIGURG's handler writes */
    timer_t prof_timer;           /* prof.c's lock */
    bool has_prof_timer;          /* prof.c's lock */
    _Atomic(struct trace_buf *) trace; /* this thread writes, see trace.c */
};

/* What ends sysmon's sleep. NAPS: a system call that begins. SLEEPS: a P that is taken. */
typedef enum sysmon_sleep { SYSMON_UP, SYSMON_NAPS, SYSMON_SLEEPS } sysmon_sleep;

/* ---- the scheduler ------------------------------------------------------------------------- */

typedef struct rt_sched {
    rt_lock lock;
    _Atomic int32_t procs; /* procs.c writes, anybody reads: Ps that are made; grows */
    _Atomic int32_t n_in;  /* lock writes, anybody reads: of these, not out */
    _Atomic bool follows; /* procs.c writes: their number follows the CPUs and the cgroup's quota */
    _Atomic int32_t
        procs_asked; /* procs.c writes: what rt_set_procs was last asked for; -1: never */
    rt_p *ps;        /* [MAX_PROCS] */

    rt_p *idle_ps;             /* lock */
    _Atomic int32_t n_idle_ps; /* lock writes, anybody reads */
    rt_m *idle_ms;             /* lock: Ms asleep on their notes */
    _Atomic int32_t n_idle_ms; /* lock writes */
    _Atomic(rt_m *) all_ms;    /* push only; ended Ms stay in it */
    rt_m *dead_ms;             /* lock: Ms without a thread */
    _Atomic int32_t n_ms;      /* atomic: Ms with a thread */
    _Atomic int32_t next_m_id;
    _Atomic int32_t n_claims;   /* threads claimed, see rt_claim_thread */
    _Atomic bool starved;       /* lock writes: a P is idle for want of a thread */
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
    _Atomic int64_t n_fds;      /* descriptors that are polled, without the runtime's own */
    _Atomic int32_t n_syscalls; /* Gs in system calls, and in foreign code without a P */
    rt_cell *away;              /* lock: cells whose M has lost its P */
    _Atomic int32_t n_held;     /* stacks that Gs of cells hold */
    bool deadlock_is_normal;

    _Atomic uint32_t sysmon_sleeps; /* atomic: a sysmon_sleep: how sysmon sleeps on sysmon_note */
    note sysmon_note;
    rt_m m0;
} rt_sched;

extern rt_sched sched;

/* ---- between the files --------------------------------------------------------------------- */

/* The running thread's M; NULL: the thread is no M. Not inlined: a native G may go on on another thread, and the
 * compiler may keep the address of a thread-local variable across a switch. Any thread, signal handlers too. */
rt_m *rt_getm(void);
void rt_setm(rt_m *m);

/* g.c. Sets the count of ids. At the start. */
void init_gs(void);
/* A native G in state idle that will run fn(arg) on a stack of stack_size bytes at least. NULL: no memory. Any
 * thread. */
rt_g *new_native(void (*fn)(void *), void *arg, size_t stack_size);
/* Ends g, which ran until now. The caller is on another stack than g's: the loop's or another G's. g keeps a stack of
 * the usual size. */
void bury(rt_g *g);
/* The dead Gs of p go to the global lists. Only the owner of p. */
void g_give_lists(rt_p *p);

/* proc.c. Where a native G begins, on its own stack. arg: the G. */
void native_main(void *arg);
/* Does what `step` wants of g, which left just now. home: the cell whose loop runs, or NULL. True: g's commit function
 * refused, run g again. */
bool finish_step(rt_g *g, rt_step step, rt_cell *home);
/* Leaves the stack of g, the running native G. The next G or the M's loop does what `step` wants. Returns when g runs
 * again. */
void g_leave(rt_g *g, rt_step step);
/* Finds and runs Gs on m's thread. Returns when m->ended. */
void schedule_loop(rt_m *m);
/* Queues a G whose state is runnable: to its cell, or to a run queue. Any thread. */
void g_enqueue(rt_g *g);
/* Queues a native G whose state is runnable to the ring of the P that runs the caller. Wakes another M only if this P or
 * the running cell has more to run. Between two Gs, or in a cell's loop. */
void g_enqueue_here(rt_g *g);
/* Queues all Gs of l, whose state is runnable. m: this M, with a P or without; NULL: the thread has none. Any
 * thread. */
void inject(rt_m *m, g_list *l);
/* Wakes one more M if a P is idle and no M looks for work. Any thread. */
void wakep(void);

/* m stops looking for work. Only on m's thread. */
void stop_spinning(rt_m *m);
/* m has released `last` and may stand in last->poll_m. Takes the P that was handed to m. If none was and there is work,
 * takes `last`, or else any idle P. Without spin and without work, takes `last` only if m still stands in its poll_m.
 * False: m has no P. Only on m's thread. */
bool regain(rt_m *m, rt_p *last, bool work, bool spin);
/* Blocks in the poller of p, which is idle or out, until an event, p's next timer or a break. Gs that become ready are
 * added to l. Returns the time. Only the M that was counted in p->n_in_poll. */
int64_t poll_until_next(rt_p *p, g_list *l);
/* This M leaves the poller of p. */
void leave_poller(rt_p *p);

/* procs.c. Makes the first Ps: P 0, owned by the caller, and others that are idle. procs: as in rt_options. */
void procs_init(int procs);
/* m's P is marked `leaves`: takes the P out. True: some time later, when m has a P again. False: the P stays. Only on
 * m's thread, between two Gs. */
bool p_out(rt_m *m);
/* Every 10 s makes as many Ps as the process may use CPUs, unless the user has named a number. sysmon. */
void procs_follow(int64_t now_ns);

/* runq.c. put, put_next (g runs before the ring), get (NULL: empty) and the p of steal: only the owner of p. steal
 * takes half of victim's ring into p's, which is empty, and returns one of the Gs, or NULL. next_too: takes victim's
 * runnext if the ring is empty, after a pause of some microseconds. */
void runq_put(rt_p *p, rt_g *g);
void runq_put_next(rt_p *p, rt_g *g);
rt_g *runq_get(rt_p *p);
bool runq_empty(rt_p *p);
rt_g *runq_steal(rt_p *p, rt_p *victim, bool next_too);
/* sched.lock held. Moves the Gs of l to the global queue; l is empty afterwards. */
void global_put(g_list *l);
/* sched.lock held. Takes a fair share of the global queue, at most max Gs if max > 0. Returns one, the others go to
 * p's ring; NULL: the queue is empty. Only the owner of p. */
rt_g *global_get(rt_p *p, int32_t max);

/* m.c. From p_acquire to p_release m and the P belong together. p_release returns the P. Only on m's thread. */
void p_acquire(rt_m *m, rt_p *p);
rt_p *p_release(rt_m *m);
/* Adds p to the idle Ps; takes `wanted` from them if it is idle, else any P, else NULL. sched.lock held. */
void p_idle_put(rt_p *p);
rt_p *p_idle_get(rt_p *wanted);
/* Breaks the M out that sits in the poller of p, unless it is `taker`: p was idle and goes to `taker`. sched.lock
 * held. */
void p_evict(rt_p *p, rt_m *taker);
/* If p is idle and no M sits in its poller (p has never run), sends an M there. Any thread. */
void p_attend(rt_p *p);
/* Finds or makes an M that runs p, which the caller owns (status idle). spinning: it is counted as spinning already. If
 * no M can be had, p is idle and sched.starved set, and sysmon tries again. sched.lock free. Any thread. */
void m_start(rt_p *p, bool spinning);
/* Called while sched.starved is set: tries again to find an M for an idle P. True: one was found, or none is missing
 * any more. sysmon. */
bool m_feed(void);
/* Sleeps until m is handed a P, then takes the P. If there are too many Ms, m ends instead: m->ended. Only on m's
 * thread, with sched.lock held, which is free when it returns. */
void m_stop(rt_m *m);
/* Makes m0 of the calling thread. Ends the process if there is no memory. At the start. */
void m_init_main(void);
/* The next of m's random numbers. Only on m's thread. */
uint64_t m_rand(rt_m *m);
/* How many Ms have a thread, and how many of these sleep on their notes. Any thread. */
void m_count_ms(int32_t *ms, int32_t *idle);

/* wait.c. Ends the wait of the G `arg` if its deadline has come. The function of g->timer. */
void wait_deadline(void *arg);

/* cell.c. Gives a runnable G to its cell c, and readies the driver if it waits. Any thread. */
void cell_post(rt_cell *c, rt_g *g);
/* Puts g at the end of the list of c. Only the M that runs c. */
void cell_requeue(rt_cell *c, rt_g *g);
/* The native G on whose stack c's loop runs. Any thread, signal handlers too. */
rt_g *cell_driver(rt_cell *c);
/* cell_away: m, which runs c, has lost its P; the Gs that have not begun go to the global queue. cell_back: the M of c
 * is back. sched.lock held. */
void cell_away(rt_cell *c, rt_m *m);
void cell_back(rt_cell *c);
/* Moves the Gs that have not begun and were posted to away cells since to the global queue. True: there were some.
 * sched.lock held. */
bool cell_relieve(void);
int32_t cells_away(void); /* sched.lock held */

/* timer.c */
/* Runs the due timers of p. True: some have fired. *now_ns: the time, read if 0. Afterwards p->timer_next_ns is p's
 * next key or 0. Any M with a P, and sysmon. */
bool timers_run(rt_p *p, int64_t *now_ns);
/* Is any timer set? With every P idle. */
bool timers_live(void);
/* The part of rt_timer_set that is a store. True: this was enough. Any thread, several at a time. */
bool timer_move_later(rt_timer *t, int64_t until);

/* A poller's operations, a table per kernel interface. Only netpoll.c calls them. */
typedef struct poller_ops {
    rt_poller *(*open)(void); /* NULL: errno says why */
    /* Registers fd for both directions, edge-triggered; exclusive: a listener, for reading only. 0 or -errno. Any
     * thread. */
    int (*add)(rt_poller *po, int fd, uint64_t tag, bool exclusive);
    int (*del)(rt_poller *po, int fd);         /* 0 or -errno. Any thread */
    bool (*owns)(const rt_poller *po, int fd); /* Is fd one of the poller's own? Any thread */
    /* Passes the events that came to netpoll_event, which adds Gs to l. Returns how many events came. delay_ns: how
     * long to wait for one, -1: for ever, 0: not at all. Any thread. */
    int (*poll)(rt_poller *po, int64_t delay_ns, g_list *l);
    /* Ends a poll that waits now, or the next one that would. Any thread, signal handlers too. */
    void (*wake)(rt_poller *po);
} poller_ops;

/* netpoll_epoll.c */
extern const poller_ops epoll_ops;

/* netpoll.c */
/* Sets the table to use, which is epoll_ops at first. At the start. */
void netpoll_choose(const poller_ops *ops);
/* A new poller. NULL: errno says why. At the start. */
rt_poller *netpoll_new(void);
/* Calls the operation `wake` of po. Any thread, signal handlers too. */
void netpoll_break(rt_poller *po);
/* Handles the events of the descriptor with this tag: readable, writable, end, error. Adds the Gs that they ready to l.
 * Any thread. */
void netpoll_event(uint64_t tag, bool r, bool w, bool hup, bool err, g_list *l);
/* Ends g's wait for a descriptor. False: g is in no such wait. Any thread. Does not wait. */
bool pd_leave(rt_g *g);
/* Polls p's poller as the operation `poll` does, and counts. Any thread. */
int netpoll_p(rt_p *p, int64_t delay_ns, g_list *l);
/* Registers a descriptor of the runtime itself as rt_pd_open does: check_dead does not count it. Any thread. */
rt_pd *pd_open_system(int fd, int *err);

/* stack.c. A stack of at least `size` bytes; lo NULL: no memory. Any thread. */
rt_stack stack_alloc(size_t size);
/* Frees a stack of stack_alloc. Any thread. */
void stack_free(rt_stack s);
/* Does `at` lie in the guard below s, so that an access there has overflowed s? Any thread, signal handlers too. */
bool stack_guards(rt_stack s, const char *at);
/* Gives pages back that free stacks, and those of dead Gs in the global list, have touched. Returns how many stacks.
 * Any thread. */
int stack_scavenge(void);
/* Gives the pages of s back that lie wholly below `below`. Any thread. */
void stack_trim(rt_stack s, const void *below);
/* Bytes of address space of all stacks. Any thread. */
int64_t stack_bytes(void);
#if defined(RT_ASAN) || defined(RT_TSAN) /* the sanitizers' frames are larger */
enum { STACK_NATIVE = 256 << 10, STACK_M = 4 << 20, STACK_SIGNAL = 256 << 10 };
#else
enum { STACK_NATIVE = 64 << 10, STACK_M = 256 << 10, STACK_SIGNAL = 64 << 10 };
#endif

/* syscall.c. Takes p out of a system call and finds another M for p. False: p is in no system call. sysmon, and the M
 * in the call. */
bool syscall_retake(rt_p *p);
/* Takes p from the M that has had it in foreign code since the word was `status`. True: the caller owns p. sysmon. */
bool foreign_retake(rt_p *p, uint32_t status);

/* sysmon.c. Makes sysmon's thread. At the start. */
void sysmon_start(void);
/* Ends sysmon's sleep on sysmon_note. Any thread, signal handlers too. */
void sysmon_wake(void);
/* The source of sysmon's time, so that tests can stop and move it. At the start. */
typedef struct sysmon_clock {
    int64_t (*now)(void);
    void (*sleep)(int64_t delay_ns); /* between rounds */
} sysmon_clock;
void sysmon_set_clock(const sysmon_clock *c);

/* signal.c. Sets the handlers. keep_default: SIGUSR1 and SIGQUIT keep their default action. At the start. */
void signal_init(bool keep_default);
/* Make and free the stack for m's handlers. False: no memory. Any thread. */
bool signal_stack_new(rt_m *m);
void signal_stack_free(rt_m *m);
/* Only on m's thread: when it begins, and before it ends. */
void signal_init_m(rt_m *m);
void signal_end_m(rt_m *m);
/* Makes the G that does the work of handlers. At the start, with a P. */
void signal_start(void);
/* Does a G wait for a signal, and may a notified signal come? With all Ps idle. */
bool signal_may_come(void);
/* Does what handlers have asked for if no P got round to it. sysmon. */
void signal_watch(int64_t now_ns);
/* Sends SIGURG to m's thread, if none is on its way. The handler sets m->interrupted and calls rt_on_interrupt's
 * function if m is in foreign code. System calls go on or return EINTR. Any thread. */
void m_interrupt(rt_m *m);

/* prof.c. prof_init_m: m's thread gets a timer if the profiler runs. prof_end_m: the timer goes, and m->tid with it.
 * Only on m's thread. */
void prof_init_m(rt_m *m);
void prof_end_m(rt_m *m);

/* symbol.c */
typedef struct rt_symbol {
    const char *name;   /* of the function; NULL: unknown */
    const char *module; /* file, without its directory; NULL: unknown */
    uintptr_t start;    /* of the function, else of the module */
} rt_symbol;
/* Fills *s for the code at pc. Any thread. */
void symbol_find(const void *pc, rt_symbol *s);

/* unwind.c. Notes the modules of the process, whose tables the profiler reads. At the start. */
void unwind_init(void);
/* Fills pcs with the return addresses of the frames below a signal's context uc (a ucontext_t), the interrupted pc
 * first, at most max. Returns how many. Reads nothing outside `stack`. Any thread, signal handlers too. */
int unwind(const void *uc, rt_stack stack, uintptr_t *pcs, int max);

#define TURN_NS (NS_PER_MS / 10) /* rt_short_turns: the shortest that Linux gives */
/* os_linux.c. A random number from the kernel. Any thread. */
uint64_t os_random(void);
/* Raises the limit of descriptors as far as this process may. At the start. */
void os_raise_fd_limit(void);
/* For tests: rt_cpu_count looks for the files of cgroups below this directory. Before rt_main, or while sysmon is
 * stopped. */
void os_set_root(const char *root);
/* The stack of the calling thread, {0} if it is unknown. Any thread. */
rt_stack os_thread_stack(void);

/* cgroup.c. CPUs' worth of time that the cgroups of this process allow, rounded up; 0: no limit is known. root: the
 * directory of the files, "": the system's. Any thread. */
int cgroup_cpus(const char *root);

/* debug.c. Reports a deadlock and ends the process if nothing can ever happen again. sched.lock held, by an M that is
 * about to wait. */
void check_dead(void);
/* Writes to stderr, by write(2) only. Any thread, signal handlers too. */
void debug_emit(const char *s, size_t n);
void debug_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Prints "lunapark: cannot start: ..." and ends the process with 1. Any thread. */
_Noreturn void debug_no_start(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Calls the function of rt_on_end, once. Any thread, signal handlers too. */
void debug_before_end(void);

/* debugenv.c. Parses LUNAPARK_DEBUG (NULL: not set). stderr gets a line for each part that is not understood. At the
 * start. */
void debugenv_init(const char *vars);

/* For functions that read what other threads write at the same time, and can do with torn values. */
#ifdef RT_TSAN
#define RT_PEEKS __attribute__((no_sanitize("thread")))
#else
#define RT_PEEKS
#endif

/* Stands between a store and a load that must not pass it. TSan knows no fences, so gcc refuses them in its build. TSan
 * sees the atomics on both sides, and the processor still gets its fence. */
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
