/* The runtime's public API: Gs on Ps on Ms, waits, timers, descriptors. It knows nothing of Lua or
 * HTTP; a C program can use it alone.
 *
 * Words: README.md. How each mechanism works: the essay on top of its file.
 *
 * Functions that may wait say so. They may only be called on a native G, that is, one with a stack
 * of its own; a step G returns RT_PARK to its loop instead. */
#ifndef RUNTIME_H
#define RUNTIME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "runtime_ffi.h"

typedef struct rt_cell rt_cell;
typedef struct rt_pd rt_pd;

/* ---- start and end (boot.c) ---------------------------------------------------------------- */

typedef struct rt_options {
    int procs;               /* Ps; 0: the CPUs this process may use, capped by its cgroup quota */
    bool deadlock_is_normal; /* true: all Gs may wait forever without its being reported */
    uint64_t seed;           /* of victim choice; 0: from the kernel */
} rt_options;

/* Starts the runtime on the calling thread and runs fn(arg) as the main G. When fn returns, the
 * process exits with 0; other Gs end with it. Call once. */
_Noreturn void rt_main(const rt_options *opts, void (*fn)(void *), void *arg);

/* CPUs this process may use: sched_getaffinity, capped by the cgroup's quota; 1 or more. */
int rt_cpu_count(void);

/* Number of Ps. */
int rt_procs(void);

/* ---- Gs (proc.c) --------------------------------------------------------------------------- */

/* What a step G's step wants next. */
typedef enum rt_step {
    RT_PARK,  /* wait: rt_set_park was called before */
    RT_YIELD, /* run again after the others that are ready; also after g moved to another cell */
    RT_EXIT,  /* the G is dead; do not touch it any more */
} rt_step;

typedef rt_step (*rt_step_fn)(rt_g *g);

/* Runs after the G's state became waiting, off the G's stack, on the M that ran it. False refuses:
 * the G runs on. Once it has let anybody else see the G, it must not touch the G again. */
typedef bool (*rt_commit_fn)(rt_g *g, void *arg);

/* Why a G waits; shown in dumps. */
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
    RT_WAIT_OTHER,
    RT_NREASONS
} rt_reason;

const char *rt_reason_name(rt_reason r);

/* Starts a native G that runs fn(arg) on a stack of its own. Any thread of the runtime. Never
 * fails: without memory it aborts, as Go does. */
rt_g *rt_go(void (*fn)(void *), void *arg);

/* A step G in state waiting, that nobody else knows yet: set its locals, then rt_ready it. `cell`
 * may be NULL. Any thread of the runtime. */
rt_g *rt_new_step(rt_step_fn step, rt_cell *cell);

/* Changes how and where a step G runs next. Only by its own step, which then returns RT_YIELD (to
 * move there at once) or RT_PARK. */
void rt_set_step(rt_g *g, rt_step_fn step, rt_cell *cell);

/* Room for the owner of a step G; survives until the G ends. */
enum { RT_G_LOCAL = 48 };
void *rt_local(rt_g *g);

/* The running G, NULL on a thread that runs none. */
rt_g *rt_self(void);
int64_t rt_id(const rt_g *g);

/* Lets the other ready Gs run first. Native Gs. */
void rt_yield(void);

/* Waits until rt_ready, if commit(g, arg) agrees. commit may be NULL. Native Gs. */
void rt_park(rt_commit_fn commit, void *arg, rt_reason reason);

/* For step Gs: what the RT_PARK that follows shall do. */
void rt_set_park(rt_g *g, rt_commit_fn commit, void *arg, rt_reason reason);

/* Makes a waiting G runnable. Exactly once per park: whoever calls it has taken the G out of where
 * its commit function put it. Any thread of the process, with or without a P; never waits. */
void rt_ready(rt_g *g);

/* Index of the P that runs the caller, 0 .. procs-1; -1 without one. */
int rt_p_id(void);

/* ---- waits that several may end (wait.c) --------------------------------------------------- */

typedef enum rt_wake {
    RT_WOKEN, /* by rt_wake */
    RT_TIMEOUT,
    RT_CANCELED,
} rt_wake_code;

/* Opens a wait of the running G and returns its ticket. Hand it to whoever may end the wait, then
 * wait with rt_wait or rt_set_wait. */
uint64_t rt_wait_open(rt_g *g);

/* Ends g's wait if `ticket` is still the open one; exactly one caller gets true. g need not live
 * any more. Any thread; never waits. */
bool rt_wake(rt_g *g, uint64_t ticket, rt_wake_code code);

/* Ends whatever g waits for, if that is a ticket (which answers `code`) or a descriptor (whose waiter
 * must find out by itself). g need not live any more. Any thread; never waits. */
bool rt_interrupt(rt_g *g, rt_wake_code code);

/* Interrupts g with RT_TIMEOUT at deadline_ns; 0: not. rt_set_wait and rt_wait_code do it for
 * tickets; for a wait for a descriptor its G does it, before rt_pd_prepare. Only by g itself. */
void rt_set_deadline(rt_g *g, int64_t deadline_ns);

/* Waits until the open wait ends, at the latest at deadline_ns (rt_nanotime; 0: none). Native. */
rt_wake_code rt_wait(rt_reason reason, int64_t deadline_ns);

/* The same for step Gs: return RT_PARK after it; the code is rt_wait_code's when the step is called
 * again. */
void rt_set_wait(rt_g *g, rt_reason reason, int64_t deadline_ns);
rt_wake_code rt_wait_code(rt_g *g);

/* Waits delay_ns nanoseconds. Native Gs. */
void rt_sleep(int64_t delay_ns);

/* ---- cells (cell.c) ------------------------------------------------------------------------ */

/* A cell's loop runs on a stack of its own; `data` is the owner's. Cells live until the process
 * ends or rt_cell_free. */
rt_cell *rt_cell_new(void *data);
void *rt_cell_data(rt_cell *c);

/* The cell whose loop runs the caller, or NULL. */
rt_cell *rt_current_cell(void);

/* Bytes of a cell's loop stack. */
enum { RT_CELL_STACK = 2 << 20 };

/* ---- blocking calls (syscall.c) ------------------------------------------------------------ */

/* Brackets for C code that may block: between them the caller's P may go to another M. Nothing of
 * the runtime may be called between them. Native Gs. After the second the G may run on another P,
 * on the same thread; errno is as the call left it. */
void rt_entersyscall(void);
void rt_exitsyscall(void);

/* ---- descriptors and their readiness (netpoll.c) ------------------------------------------- */

/* Answers of everything below that waits: 0 or a count, or one of these, or -errno. */
enum {
    RT_ETIMEOUT = -10001,
    RT_ECLOSED = -10002,
    RT_ECANCELED = -10003,
};

/* The error in words: "timeout", "closed", "canceled", else strerror's. Static or thread-local. */
const char *rt_strerror(int err);

enum { RT_R = 'r', RT_W = 'w' };

/* Registers a nonblocking descriptor with the poller that watches fewest. *err is set to -errno
 * and NULL returned if the kernel refuses. `exclusive`: for listeners that several pollers share,
 * `p` then says which P's. */
rt_pd *rt_pd_open(int fd, int *err);
rt_pd *rt_pd_open_listener(int fd, int p, int *err);

/* Ends every wait with RT_ECLOSED, now and later. */
void rt_pd_shut(rt_pd *pd);

/* Unregisters; nobody waits any more. The caller closes the descriptor afterwards. */
void rt_pd_close(rt_pd *pd);

/* Deadline for waits of `mode` (RT_R, RT_W), absolute in rt_nanotime; 0: none; past: expires. Moving
 * it later is a store. Any thread. */
void rt_pd_set_deadline(rt_pd *pd, int mode, int64_t when_ns);

/* Waits until the descriptor is ready, or its deadline or shut. Native Gs. */
int rt_pd_wait(rt_pd *pd, int mode, rt_reason reason);

/* For step Gs. 0: ready now, or an error; RT_PARKED: return RT_PARK, and call rt_pd_check when the
 * step is called again. */
enum { RT_PARKED = 1 };
int rt_pd_prepare(rt_pd *pd, int mode, rt_reason reason, rt_g *g);
int rt_pd_check(rt_pd *pd, int mode);

/* Ends a wait of `mode` as if the descriptor had become ready. Any thread. */
void rt_pd_kick(rt_pd *pd, int mode);

/* The peer has shut its side down: a short read does not mean that nothing is left. */
bool rt_pd_hup(rt_pd *pd);

/* ---- sockets for native Gs (fd.c) ---------------------------------------------------------- */

typedef struct rt_fd {
    int fd; /* -1: closed */
    rt_pd *pd;
} rt_fd;

/* Each returns 0 or a count, or an error as above; each but close may wait. */
int rt_fd_init(rt_fd *f, int fd);
int rt_fd_close(rt_fd *f);
ssize_t rt_fd_read(rt_fd *f, void *buf, size_t n);
ssize_t rt_fd_write(rt_fd *f, const void *buf, size_t n);
int rt_fd_accept(rt_fd *f);
int rt_fd_connect(rt_fd *f, const struct sockaddr *sa, socklen_t len);

/* A descriptor, nonblocking and close-on-exec, or -errno. */
int rt_socket(int family, int type, int protocol);
int rt_listen(const struct sockaddr *sa, socklen_t len, int backlog);

/* After a connect in progress became writable: 0, -EAGAIN (not decided yet), or why it failed. */
int rt_connected(int fd);

/* accept4 until something else than ECONNABORTED or EINTR comes: a descriptor, -EAGAIN or -errno.
 * Never waits. */
int rt_accept4(int fd, struct sockaddr_storage *sa, socklen_t *len);

/* ---- timers (timer.c) ---------------------------------------------------------------------- */

/* Calls fn(arg) on an M with a P, once, not before `until`. fn must not wait. */
typedef struct rt_timer {
    _Atomic int64_t until;    /* when it is due, rt_nanotime; 0: not at all. Written by the owner */
    _Atomic int64_t key;      /* its place in the heap; home's timer_lock writes */
    _Atomic(struct rt_p *) home; /* P whose heap holds it, or held it last; see timer.c */
    _Atomic uint32_t index;   /* place in that heap + 1; 0: in none */
    void (*fn)(void *arg);
    void *arg;
} rt_timer;

void rt_timer_init(rt_timer *t, void (*fn)(void *), void *arg);

/* Due at when_ns; 0 stops it. One caller at a time for one timer. Any thread. fn may still be
 * called for an earlier setting: it must look at what it finds. */
void rt_timer_set(rt_timer *t, int64_t when_ns);

/* ---- signals (signal.c) -------------------------------------------------------------------- */

/* Lets rt_signal_wait report signo from now on instead of its default action. 0 or -errno. */
int rt_signal_notify(int signo);

/* Waits for a notified signal and returns its number. One native G at a time. */
int rt_signal_wait(void);

/* ---- when all is lost (debug.c) ------------------------------------------------------------ */

/* Prints the message, where, and aborts. Any thread, signal handlers too. */
_Noreturn void rt_throw(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Prints every G to stderr: state, reason, how long. Any thread. */
void rt_dump(void);

#endif
