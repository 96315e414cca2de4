/* The runtime's public API: Gs on Ps on Ms, waits, timers, descriptors. The runtime knows nothing of Lua or HTTP. A C
 * program can use the runtime alone.
 *
 * Words: README.md. How each mechanism works: the essay on top of its file.
 *
 * A comment ends with the rules for its callers. "Native Gs": the function may wait, and only native Gs may call it (Gs
 * with a stack of their own). A step G returns RT_PARK to its loop instead of waiting. "Any thread": any thread of the
 * process, whether the runtime made the thread or not. */
#ifndef RUNTIME_H
#define RUNTIME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "io.h"
#include "runtime_ffi.h"

typedef struct rt_cell rt_cell;
typedef struct rt_pd rt_pd;

/* ---- start and end (boot.c) ---------------------------------------------------------------- */

typedef struct rt_options {
    int procs;               /* Ps; 0: the CPUs this process may use, capped by its cgroup quota */
    bool deadlock_is_normal; /* true: no report when all Gs wait for ever */
    uint64_t seed;           /* of victim choice; 0: from the kernel */
    bool keep_signals; /* true: SIGUSR1 and SIGQUIT keep their default action and do not dump */
} rt_options;

/* Starts the runtime on the calling thread and runs fn(arg) as the main G. When fn returns, the process exits with 0,
 * whatever other Gs do. Call once. */
_Noreturn void rt_main(const rt_options *opts, void (*fn)(void *), void *arg);

/* How many CPUs this process may use: sched_getaffinity, capped by the cgroup's quota; 1 or more. Any thread. */
int rt_cpu_count(void);

/* on: the calling thread has short turns on the CPU, as Ms have (m.c); else the usual ones, for programs that the thread
 * starts, which inherit. Any thread. Does not wait. */
void rt_short_turns(bool on);

/* The limit of descriptors (RLIMIT_NOFILE, the soft one) that this process was given at its start, before the runtime
 * raised it; 0: the runtime has not started. Any thread. */
uint64_t rt_files_given(void);

/* The number of Ps that there are, which grows when rt_set_procs asks for more than ever: the bound of rt_p_id. Any
 * thread. */
int rt_procs(void);

/* The number of Ps that run Gs, and of those that are about to go out: rt_set_procs. Any thread. */
int rt_procs_in(void);

/* The number that rt_set_procs was last given, 0: as many as CPUs may be used; -1: rt_set_procs was never called. Any
 * thread. */
int rt_procs_asked(void);

/* ---- Gs (proc.c) --------------------------------------------------------------------------- */

/* What the step of a step G wants next. */
typedef enum rt_step {
    RT_PARK,  /* wait: rt_set_park or rt_set_wait was called before */
    RT_YIELD, /* run again after the others that are ready; also after rt_set_step */
    RT_EXIT,  /* end: nobody may touch the G any more */
} rt_step;

typedef rt_step (*rt_step_fn)(rt_g *g);

/* A commit function: hands a stopping G to the code that will ready it. It runs off the G's stack, on the M that ran
 * the G, after the G's state became waiting. False: the G runs on. Once the function has let anybody else see the G, it
 * must not touch the G again. Must not wait. */
typedef bool (*rt_commit_fn)(rt_g *g, void *arg);

/* Why a G waits. Dumps show it. */
typedef enum rt_reason {
    RT_WAIT_NONE,
    RT_WAIT_SLEEP,
    RT_WAIT_PARK,
    RT_WAIT_READ,
    RT_WAIT_WRITE,
    RT_WAIT_ACCEPT,
    RT_WAIT_CONNECT,
    RT_WAIT_JOIN,
    RT_WAIT_CELL,
    RT_WAIT_SYSCALL,
    RT_WAIT_SIGNAL,
    RT_WAIT_OTHER,
    RT_NREASONS
} rt_reason;

/* The name of r in dumps, "sleep" for RT_WAIT_SLEEP. Static. Any thread. */
const char *rt_reason_name(rt_reason r);

/* Starts a native G that runs fn(arg) on a stack of its own. NULL: there is no memory for the stack, fn is not called.
 * Any thread. Does not wait. */
rt_g *rt_go(void (*fn)(void *), void *arg);

/* Starts a native G that runs fn(arg) on a stack of at least stack_size bytes. NULL: no memory. Any thread. Does not
 * wait. */
rt_g *rt_go_stack(void (*fn)(void *), void *arg, size_t stack_size);

/* Makes a native G as rt_go_stack, which rt_set_wait_start is to start. NULL: no memory. Any thread. Does not wait. */
rt_g *rt_make(void (*fn)(void *), void *arg, size_t stack_size);

/* Makes a step G, which waits: the caller sets its locals, then calls rt_ready. cell: the cell to run in, or NULL.
 * NULL: no memory. Any thread. Does not wait. */
rt_g *rt_new_step(rt_step_fn step, rt_cell *cell);

/* Makes a step G, as rt_new_step, if need be from a reserve of 256: for work that gives memory back. Aborts when the
 * reserve is in use, too. Any thread. Does not wait. */
rt_g *rt_new_step_sure(rt_step_fn step, rt_cell *cell);

/* Changes the step of g and the cell that g runs in. The step of g calls it and then returns RT_YIELD, to move at once,
 * or RT_PARK. A G that moves to a cell may run once more outside of every cell, if the cell gets stuck before the G's
 * turn: rt_current_cell tells. Only by g itself. Does not wait. */
void rt_set_step(rt_g *g, rt_step_fn step, rt_cell *cell);

/* Room in g for its maker; the bytes stay until g ends. Any thread. */
enum { RT_G_LOCAL = 16 };
void *rt_local(rt_g *g);

/* The room of g, as a T. */
#define RT_LOCAL(g, T)                                                                             \
    ({                                                                                             \
        _Static_assert(sizeof(T) <= RT_G_LOCAL, "a step G has no room for a " #T);                 \
        (T *)rt_local(g);                                                                          \
    })

/* The G that runs the caller; NULL: the thread runs none. rt_id: the number of g's present life, never used again. Any
 * thread. */
rt_g *rt_self(void);
int64_t rt_id(const rt_g *g);

/* Claims a thread for a call that may block for long between rt_entersyscall and rt_exitsyscall. True: at least one
 * more thread runs Gs meanwhile; the caller calls rt_release_thread when its call has returned. False: no more threads
 * can be had, and the call would block the last one. Any thread. Do not wait. */
bool rt_claim_thread(void);
void rt_release_thread(void);

/* Starts a detached thread of the caller's own, which has no M, with all signals blocked. 0 or -errno. Any thread. Does
 * not wait. */
int rt_start_thread(void *(*fn)(void *), void *arg);

/* Lets the other Gs that are ready run first. Native Gs. */
void rt_yield(void);

/* Makes the Gs ready whose timers and events have come by now, before those that the caller makes ready afterwards: for
 * a G whose work takes long, and is followed by more of its kind. With a P. Does not wait. */
void rt_look(void);

/* Waits until rt_ready, unless commit(g, arg) refuses. commit NULL: never refuses. Native Gs. */
void rt_park(rt_commit_fn commit, void *arg, rt_reason reason);

/* Prepares a wait of the step G g, whose step returns RT_PARK next: this RT_PARK waits as rt_park does. Only by g
 * itself. Does not wait. */
void rt_set_park(rt_g *g, rt_commit_fn commit, void *arg, rt_reason reason);

/* Makes a waiting G runnable, exactly once per park. The caller has taken g out of the place where g's commit function
 * put it. Any thread. Does not wait. */
void rt_ready(rt_g *g);

/* The index of the P that runs the caller, 0 .. procs-1; -1: the caller has none. Any thread. */
int rt_p_id(void);

/* ---- waits that several may end (wait.c) --------------------------------------------------- */

typedef enum rt_wake {
    RT_WOKEN, /* rt_wake ended the wait */
    RT_TIMEOUT,
    RT_CANCELED,
} rt_wake_code;

/* Opens a wait of g and returns its ticket. The caller hands the ticket to the code that may end the wait, then waits
 * with rt_wait or rt_set_wait. Only by g itself. Does not wait. */
uint64_t rt_wait_open(rt_g *g);

/* Ends the wait of g that has this ticket; the wait answers `code`. True for exactly one caller; false: the wait has
 * ended. g may have ended. Any thread. Does not wait. */
bool rt_wake(rt_g *g, uint64_t ticket, rt_wake_code code);

/* Ends g's present wait. A wait with a ticket answers `code`. In a wait for a descriptor, g tries again and finds
 * nothing. Other waits are not ended. True: a wait was ended. g may have ended. Any thread. Does not wait. */
bool rt_interrupt(rt_g *g, rt_wake_code code);

/* Cancels the life of g that has this id (rt_id), for good. Each wait that g is in or begins later ends at once: with
 * RT_ECANCELED where errors are answered (rt_sleep, rt_fd_..., rt_pd_prepare), with RT_CANCELED for a ticket. Only
 * rt_park, rt_fd_close and rt_yield wait on. A call that need not wait does its work: a read that finds data, a write
 * that finds room, a call to the disk. g itself goes on until it returns. A later life of g notices nothing. True: a
 * wait was ended. Any thread. Does not wait. */
bool rt_cancel(rt_g *g, int64_t id);

/* Has g been canceled? rt_clear_cancel makes g's waits wait again. Both only by g itself. Do not wait. */
bool rt_canceled(const rt_g *g);
void rt_clear_cancel(rt_g *g);

/* Interrupts g with RT_TIMEOUT at deadline_ns (rt_nanotime); 0: never. g calls it before a wait for a descriptor. Waits
 * with a ticket need no call: rt_set_wait and rt_wait_code set the deadline. Only by g itself. Does not wait. */
void rt_set_deadline(rt_g *g, int64_t deadline_ns);

/* Waits until the wait that the caller opened ends, at the latest at deadline_ns (rt_nanotime; 0: none). Native Gs. */
rt_wake_code rt_wait(rt_reason reason, int64_t deadline_ns);

/* For a step G: rt_set_wait says what to wait for, then the step returns RT_PARK. When the step is called again,
 * rt_wait_code answers as rt_wait. Only by g itself. Do not wait. */
void rt_set_wait(rt_g *g, rt_reason reason, int64_t deadline_ns);

/* Says as rt_set_wait what to wait for, and starts the G `first` of rt_make (NULL: none) when g has stopped, on the P of
 * g. No other M is woken for `first` unless g's cell or P has more to run: for a G that is about to wake g. Only by g
 * itself. Does not wait. */
void rt_set_wait_start(rt_g *g, rt_g *first, rt_reason reason, int64_t deadline_ns);

/* Ends a wait as rt_wake. The caller's G is about to end or to wait, so no other M is woken for g alone. Native Gs. Does
 * not wait. */
bool rt_wake_last(rt_g *g, uint64_t ticket, rt_wake_code code);
rt_wake_code rt_wait_code(rt_g *g);

/* Waits delay_ns nanoseconds; 0 or less: as rt_yield. 0; RT_ECANCELED: the G was canceled or interrupted. Native Gs. */
int rt_sleep(int64_t delay_ns);

/* ---- cells (cell.c) ------------------------------------------------------------------------ */

/* Makes a cell, whose loop has a stack of its own. data: the owner's, for rt_cell_data. A cell lives until the process
 * ends. NULL: no memory. Any thread. Does not wait. */
rt_cell *rt_cell_new(void *data);
/* The `data` of c. Any thread. Does not wait. */
void *rt_cell_data(rt_cell *c);

/* The cell whose loop runs the caller, or NULL. Any thread. */
rt_cell *rt_current_cell(void);

/* The address of the field that holds the lowest byte of the stack that c's loop runs on. Only the M of c reads the
 * field. Any thread. */
char *const *rt_cell_stack(const rt_cell *c);

/* Bytes of the stack of a cell's loop: address space, of which used pages take memory. */
enum { RT_CELL_STACK = 8 << 20 };

/* Waits or yields in the midst of a step: does what returning `step` (RT_PARK or RT_YIELD) would do. Returns when the G
 * runs again, on the same stack, perhaps on another thread. Meanwhile the cell's other Gs run on another stack. Does
 * not return in a dropped cell. Gs of cells. */
void rt_leave_stack(rt_step step);

/* Gives c a second stack for the next rt_leave_stack. Without it rt_leave_stack blocks its thread until there is
 * memory. False: no memory. Gs of c. Does not wait. */
bool rt_reserve_stack(rt_cell *c);

/* Gives pages deep in the cell's loop stacks back to the kernel, of the caller's stack and of the spare ones. Gs of
 * cells. Does not wait. */
void rt_trim_stacks(void);

/* While c is dropped, its Gs have no stacks: a G that left its stack in the midst of a step begins a new step instead.
 * dropped true: only the M that runs c. false: any thread, when c has no Gs. Does not wait. */
void rt_cell_drop(rt_cell *c, bool dropped);

/* Has the M of c lost its P because foreign code ran on for long? Any thread. Does not wait. */
bool rt_cell_is_away(rt_cell *c);

/* The kernel's number of the thread that runs c, if c is away; else 0. Any thread. Does not wait. */
int rt_cell_thread(rt_cell *c);

/* If c is away, calls fn(arg). If fn says true, interrupts the M of c by SIGURG. During fn the M may run on in its
 * foreign code, but cannot come back from it. fn must be short and call nothing of the runtime. True: c is away. Any
 * thread. Does not wait. */
bool rt_cell_inspect(rt_cell *c, bool (*fn)(void *arg), void *arg);

/* For tests. From now on c takes its ready Gs that have this step in a random order, by the seed; step NULL: in order,
 * as at first. rt_cell_random: the next number of c's generator. Only the M of c, or before c runs. */
void rt_cell_shuffle(rt_cell *c, uint64_t seed, rt_step_fn step);
uint64_t rt_cell_random(rt_cell *c);

/* Lets other Gs have the P in the midst of a step, also Gs whose event or timer has come by now. Returns on the same
 * stack, perhaps on another thread. Meanwhile nothing else runs in the cell. Gs of cells. */
void rt_share(void);

/* Could something else run now: in the caller's cell, on its P, or on any P? Gs of cells. Does not wait. */
bool rt_others_ready(void);

/* fn(context) runs in the handler of SIGURG on an M in foreign code; context: the ucontext_t. Set once, at the
 * start. */
void rt_on_interrupt(void (*fn)(void *context));

/* fn(context, overflowed) runs in the handler of SIGSEGV on an M in foreign code; context: the ucontext_t. overflowed:
 * the lowest byte of the cell's loop stack, if the fault is in the guard of that stack, where the thread may then go
 * on anywhere; else NULL. fn says true: the fault is no error, the thread goes on as the ucontext_t says. Set once, at
 * the start. */
void rt_on_fault(bool (*fn)(void *context, char *overflowed));

/* Brackets around foreign code: code of a cell's G, such as Lua, that knows nothing of the runtime and may run for long
 * (syscall.c). In between, sysmon may give the P to another M; call only functions that neither need a P nor wait.
 * rt_exitforeign false: the P was lost, and the G may be on another thread now. Gs of cells. */
void rt_enterforeign(void);
bool rt_exitforeign(void);

/* fn(c) runs on sysmon's thread when cell c has lost its P in foreign code, before another M gets that P. Set once, at
 * the start. */
void rt_on_away(void (*fn)(rt_cell *c));

/* ---- blocking calls (syscall.c) ------------------------------------------------------------ */

/* Brackets around C code that may block its thread. In between, the caller's P may go to another M; call nothing of the
 * runtime. After rt_exitsyscall the G may run on another P and another thread. errno is as the code left it. Native
 * Gs. */
void rt_entersyscall(void);
void rt_exitsyscall(void);

/* Begins a bracket around C code that is known to block. Hands the P to another M at once, which costs some
 * microseconds; rt_entersyscall leaves that to sysmon, which acts when a call lasts. rt_exitsyscall ends the bracket.
 * Native Gs. */
void rt_entersyscallblock(void);

/* ---- descriptors and their readiness (netpoll.c) ------------------------------------------- */

/* What functions that wait answer besides 0, a count or -errno. */
enum {
    RT_ETIMEOUT = -10001,
    RT_ECLOSED = -10002,
    RT_ECANCELED = -10003,
    RT_ENODEADLINE = -10004, /* a file: no wait for it has a deadline */
};

/* err in words: "timeout", "closed", "canceled", "no deadline", else strerror's. Static or thread-local. Any thread. */
const char *rt_strerror(int err);

/* Directions. RT_RW: both, for rt_pd_wait, rt_pd_prepare, rt_pd_check and rt_fd_set_deadline. */
enum { RT_R = 'r', RT_W = 'w', RT_RW = 'b' };

/* Registers a nonblocking descriptor with the poller that watches fewest. rt_pd_open_listener: registers a listener
 * that several pollers share with the poller of P number p. NULL: *err is -errno. Any thread. Do not wait. */
rt_pd *rt_pd_open(int fd, int *err);
rt_pd *rt_pd_open_listener(int fd, int p, int *err);

/* Ends every wait for pd with RT_ECLOSED, now and later. Any thread. Does not wait. */
void rt_pd_shut(rt_pd *pd);

/* Unregisters the descriptor. No G may wait for it. The caller closes the descriptor afterwards. Any thread. Does not
 * wait. */
void rt_pd_close(rt_pd *pd);

/* Sets the deadline of waits of `mode` (RT_R, RT_W), in rt_nanotime; 0: none. A deadline in the past ends the present
 * wait and later ones. Moving a deadline later is a store. Any thread. Does not wait. */
void rt_pd_set_deadline(rt_pd *pd, int mode, int64_t when_ns);

/* Waits until the descriptor may be ready: 0, or RT_ETIMEOUT, RT_ECLOSED, RT_ECANCELED. The caller tries its call, and
 * waits again after EAGAIN. Native Gs.
 *
 * RT_RW waits for both directions at once and answers which may be ready: RT_READABLE | RT_WRITABLE. 0: neither,
 * something else has ended the wait (rt_interrupt, the G's own deadline). The caller need not try a direction that the
 * answer does not name before the next wait. The deadline of either direction ends the wait; rt_pd_check of RT_R and of
 * RT_W tells which deadline came. Events that came before the end of the wait are kept for the next one. After
 * rt_pd_hup reading is always ready: a G that has read the end waits for RT_W alone. */
enum { RT_READABLE = 2, RT_WRITABLE = 4 };
int rt_pd_wait(rt_pd *pd, int mode, rt_reason reason);

/* For step Gs. rt_pd_prepare answers as rt_pd_wait if g need not wait, else RT_PARKED. Then the step returns RT_PARK.
 * When the step is called again, it calls rt_pd_check with the same mode, before another G waits for this direction.
 * rt_pd_check: 0 or an error; for RT_RW an answer of rt_pd_wait. Only by g itself. Do not wait. */
enum { RT_PARKED = 1 };
int rt_pd_prepare(rt_pd *pd, int mode, rt_reason reason, rt_g *g);
int rt_pd_check(rt_pd *pd, int mode);

/* Ends a wait of `mode` (RT_R, RT_W), or of RT_RW, as if that direction had become ready. Any thread. Does not wait. */
void rt_pd_kick(rt_pd *pd, int mode);

/* Is fd one of the runtime's own descriptors, which no other code may close or poll? Any thread. Does not wait. */
bool rt_is_poll_descriptor(int fd);

/* From now on g is canceled (rt_cancel) when the peer shuts its side down or the connection breaks; g NULL: no G is. An
 * end that came before cancels no G: call rt_pd_hup afterwards. Only the owner of the descriptor. Does not wait. */
void rt_pd_watch(rt_pd *pd, rt_g *g);

/* Has the peer shut its side down? If so, a short read does not mean that nothing is left. Any thread. Does not
 * wait. */
bool rt_pd_hup(rt_pd *pd);

/* Forgets the end of a FIFO that has got a new writer since: the kernel has said that there is neither data nor the
 * end. An end that comes meanwhile is not lost: its event ends the next wait. Any thread. Does not wait. */
void rt_pd_forget_hup(rt_pd *pd);

/* ---- timers (timer.c) ---------------------------------------------------------------------- */

/* A timer calls fn(arg) once, not before `until`, on an M with a P, or on sysmon's thread while a P has no M. fn must
 * not wait. */
typedef struct rt_timer {
    _Atomic int64_t until;  /* the owner writes: when it is due, rt_nanotime; 0: not at all */
    _Atomic int64_t key;    /* its place in the heap; home's timer_lock writes */
    _Atomic uint32_t home;  /* 1 + number of the P whose heap holds it, or held it last; 0: none */
    _Atomic uint32_t index; /* place in that heap + 1; 0: in none */
    struct rt_timer *next;  /* home's timer_lock: in its list of timers without room */
    void (*fn)(void *arg);
    void *arg;
} rt_timer;

/* Makes t a timer that is not set and will call fn(arg). The owner of t. Does not wait. */
void rt_timer_init(rt_timer *t, void (*fn)(void *), void *arg);

/* Sets t to when_ns (rt_nanotime); 0 stops t. fn may still be called for an earlier setting, so fn looks at the present
 * state. Any thread, one at a time for one timer. Does not wait. */
void rt_timer_set(rt_timer *t, int64_t when_ns);

/* ---- signals (signal.c) -------------------------------------------------------------------- */

/* Every program that uses the runtime prints its Gs on SIGUSR1 and on SIGQUIT. SIGQUIT then ends the program with 2.
 * See rt_options.
 *
 * The functions below take 1 <= signo < 64, once rt_main runs, and return 0 or -errno. -EINVAL: nobody can handle the
 * signal, or it is one of the runtime's own: SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGURG, SIGPROF. */

/* From now on rt_signal_wait reports signo, which has no other effect. Any thread. Does not wait. */
int rt_signal_notify(int signo);

/* From now on signo does nothing. Drops the reports that no G has fetched. Any thread. Does not wait. */
int rt_signal_ignore(int signo);

/* Gives signo its action under the runtime back: a dump for SIGUSR1 and SIGQUIT; for SIGPIPE and SIGXFSZ see signal.c;
 * else the system's default. Drops the reports that no G has fetched. Any thread. Does not wait. */
int rt_signal_reset(int signo);

/* Waits for a notified signal and returns its number; RT_ECANCELED: rt_interrupt or rt_cancel ended the wait. A signal
 * that comes several times before it is reported is reported once. Several Gs may wait: each signal is reported to one.
 * While a G waits here and any signal is notified, the program is not deadlocked, whatever the others wait for. Native
 * Gs. */
int rt_signal_wait(void);

/* Waits for a notified signal until deadline_ns (rt_nanotime; 0: for ever). Answers as rt_signal_wait; RT_ETIMEOUT: the
 * deadline came. Native Gs. */
int rt_signal_wait_until(int64_t deadline_ns);

/* ---- profiler (prof.c) --------------------------------------------------------------------- */

/* Begins to sample the stacks of all threads that run Gs, hz times per second of CPU time of each thread; hz: 1 ..
 * 1000, 0: 100. 0; -EBUSY: the profiler runs already, or other code handles SIGPROF; -EINVAL or another -errno. Any
 * thread. Does not wait. */
int rt_prof_start(int hz);

/* Hooks for code without unwind tables, an interpreter's. `edits` runs in the signal handler, on the thread of the
 * sample. It may change the n addresses of pcs, innermost first, in an array for max, and returns how many there are
 * then. It does only what a handler may. An address with the bit RT_PROF_NAMED is a number of the interpreter's.
 * `names` tells the name of such a number (without the bit) when the lines are written; the name lives as long as the
 * process. Set once, before the first start. */
#define RT_PROF_NAMED ((uintptr_t)1 << 63)
void rt_prof_on_sample(int (*edits)(const void *context, uintptr_t *pcs, int n, int max),
                       const char *(*names)(uintptr_t id));

/* Stops the profiler. `file` gets a line per stack, from the outermost function to the innermost: "main;handle;parse
 * 12", where 12 is the samples, each 1/hz s of CPU time. file and result may be NULL. 0; -EINVAL: the profiler does not
 * run; -ENOMEM; -EIO: `file` failed. After -ENOMEM and -EIO the profiler has stopped, too. Any thread, which may block;
 * Gs run on other threads meanwhile. */
typedef struct rt_prof_result {
    int64_t samples; /* in the lines */
    int64_t dropped; /* found the buffer full */
} rt_prof_result;
int rt_prof_stop(FILE *file, rt_prof_result *result);

/* ---- scheduler trace (trace.c) ------------------------------------------------------------- */

/* Records what the scheduler does until rt_trace_stop. 0; -EBUSY: a trace is being recorded. Any thread. Does not
 * wait. */
int rt_trace_start(void);

/* Ends the trace and writes it to `file` (NULL: nowhere) as Chrome trace JSON, which Perfetto (ui.perfetto.dev) shows.
 * *dropped (may be NULL): how many of the newest events found their buffer full. 0; -EINVAL: no trace is recorded;
 * -EIO: `file` failed, and the trace has ended. Any thread, which may block; Gs run on other threads meanwhile. */
int rt_trace_stop(FILE *file, int64_t *dropped);

/* Is a trace being recorded? Any thread. Does not wait. */
bool rt_trace_on(void);

/* Records that the calling thread was busy with `name` from start_ns (rt_nanotime) until now, say with a GC step.
 * `name` must live as long as the process. Costs a load if no trace is recorded. Any thread. Does not wait. */
void rt_trace_span(const char *name, int64_t start_ns);

/* ---- privileges (privilege.c) -------------------------------------------------------------- */

/* Sets the real, effective and saved ids of every thread. 0 or -errno. Any thread. */
int rt_setuid(uid_t uid);
int rt_setgid(gid_t gid);
int rt_setgroups(size_t n, const gid_t *groups);

/* Finds the ids of the named user and group; group NULL: the user's own. 0; -ENOENT: no such user; -ESRCH: no such
 * group; another -errno. Reads the user database and may block its thread. Any thread. */
int rt_find_user(const char *user, const char *group, uid_t *uid, gid_t *gid);

/* Makes the process the named user's for good: the groups that the user is in, `group` (NULL: the user's own), the
 * user's id. 0; an error of rt_find_user; -EPERM: only root may, or root could be had back; another -errno. An error
 * may leave half of the work done, so the caller ends the process. Reads the user database and may block its thread, so
 * call it before there is work to do. Any thread. */
int rt_drop_privileges(const char *user, const char *group);

/* ---- LUNAPARK_DEBUG (debugenv.c) ----------------------------------------------------------- */

/* The values of LUNAPARK_DEBUG=key=number,key=number. rt_main reads them. */
typedef struct rt_debug_vars {
    int schedtrace; /* ms between two lines about the scheduler; 0: none */
    int gctrace;    /* for the host: 1: a line per collection */
    int retake;     /* ms of foreign code after which sysmon takes the P; 0: 20 */
    int gcwait;     /* for the host: 1: a full collection at every wait */
    int sysmon; /* ms that each sleep of sysmon's lasts, whatever happens; 0: as sysmon.c says */
    int mexit;  /* ms after which an idle M that is one too many ends; 0: a minute */
    int gcforce; /* for the host: ms after which an idle VM is collected in any case; 0: two minutes */
    int drainidle; /* for the host: ms that a connection may be silent while the server stops; 0: a second */
} rt_debug_vars;
/* The values, which do not change once rt_main runs. Any thread. */
const rt_debug_vars *rt_debug(void);

/* ---- when all is lost (debug.c) ------------------------------------------------------------ */

/* Prints the message and aborts. Any thread, signal handlers too. */
_Noreturn void rt_throw(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* fn runs once, before the runtime ends the process by itself: rt_throw, a fault, a deadlock, SIGQUIT. fn may run on
 * any thread, in a signal handler, with the runtime's locks held; so fn must call nothing of the runtime but
 * rt_nanotime and be bounded in time. Set once, at the start. */
void rt_on_end(void (*fn)(void));

/* Writes the place of pc in the program into buf: "name+0x1c", "module+0x1234" or "0x1234". The length, below size. Any
 * thread. */
size_t rt_symbol_print(const void *pc, char *buf, size_t size);

/* Prints every G to stderr: its state, the reason and length of its wait, where it was made. Any thread. Blocks for
 * stderr alone; on a native G the hook below may wait. */
void rt_dump(void);

/* What the hook of a dump may do. */
typedef enum rt_dump_how {
    RT_DUMP_WAITS, /* a native G runs it: it may wait */
    RT_DUMP_NOW,   /* any thread runs it: it must not wait */
    /* Nothing moves any more: it may look at everything, and must call nothing of the runtime but the two functions
     * below and rt_nanotime. */
    RT_DUMP_DEAD,
} rt_dump_how;

/* fn(how) runs at the end of each dump and lists the Gs of cells. The runtime then only counts these Gs. Set once, at
 * the start. */
void rt_on_dump(void (*fn)(rt_dump_how how));

/* Writes n bytes to stderr, by write(2) only. Any thread, signal handlers too. */
void rt_dump_text(const char *s, size_t n);

/* What g does, for dumps. g may run meanwhile, and even live anew. Any thread. Does not wait. */
typedef struct rt_g_state {
    const char *status, *reason; /* reason NULL: g does not wait */
    int64_t waits_ns;
} rt_g_state;
void rt_read_g(const rt_g *g, rt_g_state *s);

#endif
