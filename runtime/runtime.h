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
#include <stdio.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "fdmutex.h"
#include "runtime_ffi.h"

typedef struct rt_cell rt_cell;
typedef struct rt_pd rt_pd;

/* ---- start and end (boot.c) ---------------------------------------------------------------- */

typedef struct rt_options {
    int procs;               /* Ps; 0: the CPUs this process may use, capped by its cgroup quota */
    bool deadlock_is_normal; /* true: all Gs may wait forever without its being reported */
    uint64_t seed;           /* of victim choice; 0: from the kernel */
    bool keep_signals; /* true: SIGUSR1 and SIGQUIT do not dump, but keep their default action */
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
    RT_WAIT_SIGNAL,
    RT_WAIT_OTHER,
    RT_NREASONS
} rt_reason;

const char *rt_reason_name(rt_reason r);

/* Starts a native G that runs fn(arg) on a stack of its own. Any thread of the runtime. Never
 * fails: without memory it aborts, as Go does. */
rt_g *rt_go(void (*fn)(void *), void *arg);

/* The same with a stack of so many bytes at least. */
rt_g *rt_go_stack(void (*fn)(void *), void *arg, size_t stack_size);

/* A step G in state waiting, that nobody else knows yet: set its locals, then rt_ready it. `cell`
 * may be NULL. Any thread of the runtime. */
rt_g *rt_new_step(rt_step_fn step, rt_cell *cell);

/* Changes how and where a step G runs next. Only by its own step, which then returns RT_YIELD (to
 * move there at once) or RT_PARK. A G that moves to a cell may run outside of any once more, if the
 * cell gets stuck before the G's turn: see rt_current_cell. */
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

/* Cancels the life of g that has this id (rt_id) for good: every wait that it is in or begins later ends
 * at once, with RT_ECANCELED from rt_sleep, rt_fd_..., rt_pd_prepare and whatever else answers errors,
 * with RT_CANCELED from tickets. What need not wait is done all the same: a read that finds data, a write
 * that finds room, a call to the disk. Only rt_park, rt_fd_close and rt_yield wait on. Nothing is ended
 * for g: it goes on until it returns. A G that has ended, or lives anew, notices nothing. True: it ended a
 * wait. Any thread; never waits. */
bool rt_cancel(rt_g *g, int64_t id);

/* Has g been canceled? Only by g itself, as rt_clear_cancel, which lets its waits wait again. */
bool rt_canceled(const rt_g *g);
void rt_clear_cancel(rt_g *g);

/* Interrupts g with RT_TIMEOUT at deadline_ns; 0: not. rt_set_wait and rt_wait_code do it for
 * tickets; for a wait for a descriptor its G does it, before rt_pd_prepare. Only by g itself. */
void rt_set_deadline(rt_g *g, int64_t deadline_ns);

/* Waits until the open wait ends, at the latest at deadline_ns (rt_nanotime; 0: none). Native. */
rt_wake_code rt_wait(rt_reason reason, int64_t deadline_ns);

/* The same for step Gs: return RT_PARK after it; the code is rt_wait_code's when the step is called
 * again. */
void rt_set_wait(rt_g *g, rt_reason reason, int64_t deadline_ns);
rt_wake_code rt_wait_code(rt_g *g);

/* Waits delay_ns nanoseconds; 0 or less: as rt_yield. 0, or RT_ECANCELED: the G was canceled or
 * interrupted. Native Gs. */
int rt_sleep(int64_t delay_ns);

/* ---- cells (cell.c) ------------------------------------------------------------------------ */

/* A cell's loop runs on a stack of its own; `data` is the owner's. Cells live until the process
 * ends. */
rt_cell *rt_cell_new(void *data);
void *rt_cell_data(rt_cell *c);

/* The cell whose loop runs the caller, or NULL. */
rt_cell *rt_current_cell(void);

/* Bytes of a cell's loop stack. */
enum { RT_CELL_STACK = 2 << 20 };

/* For a G of a cell in the midst of its step: does what returning `step` (RT_PARK, RT_YIELD) from it would
 * do, and returns when the G runs again, on the same stack, perhaps on another thread. Meanwhile the
 * cell's other Gs run on another stack. It never returns in a cell that was dropped. */
void rt_leave_stack(rt_step step);

/* While c is dropped, its Gs have no stacks: one that left its own in the midst of a step begins a new step
 * instead. By the M that runs c; false by anybody, when c has no Gs. */
void rt_cell_drop(rt_cell *c, bool dropped);

/* c's M runs foreign code for so long that it has lost its P. Any thread. */
bool rt_cell_is_away(rt_cell *c);

/* If c is away, calls fn(arg), during which its M may run on in its foreign code but can not come back,
 * and then, if fn says true, interrupts that M by SIGURG. Whether c is away. fn must be short and
 * call nothing of the runtime. Any thread. */
bool rt_cell_inspect(rt_cell *c, bool (*fn)(void *arg), void *arg);

/* For tests: from now on the cell takes its ready Gs of this step at random, by the seed; NULL: in order, as at first.
 * random: the next number of the same generator. By who runs the cell, or before it runs. */
void rt_cell_shuffle(rt_cell *c, uint64_t seed, rt_step_fn step);
uint64_t rt_cell_random(rt_cell *c);

/* For a G of a cell in the midst of its step: lets others have the P, those too for whom an event or a timer is there by
 * now, and returns on the same stack, perhaps on another thread. Meanwhile nothing runs in its cell. */
void rt_share(void);

/* Something else than the caller, a G of a cell, could run here now: in its cell, on its P, or on any. */
bool rt_others_ready(void);

/* fn runs in SIGURG's handler on an M in foreign code, with its ucontext_t. Set once, before. */
void rt_on_interrupt(void (*fn)(void *context));

/* The same in SIGSEGV's, before that is an error. True: it is none, the thread goes on as the ucontext_t
 * says. Set once, before. */
void rt_on_fault(bool (*fn)(void *context));

/* Brackets around code of a cell's G that may run for long without knowing of the runtime, such as Lua
 * (syscall.c). In between, sysmon may give the P to another M. What is not said to need a P or to wait may
 * be called there. False: the P was lost; the G may be on another thread now. */
void rt_enterforeign(void);
bool rt_exitforeign(void);

/* Sysmon calls fn when a cell has lost its P in foreign code, before another M gets that. Set once, before. */
void rt_on_away(void (*fn)(rt_cell *c));

/* ---- blocking calls (syscall.c) ------------------------------------------------------------ */

/* Brackets for C code that may block: between them the caller's P may go to another M. Nothing of
 * the runtime may be called between them. Native Gs. After the second the G may run on another P and
 * another thread; errno is as the call left it. */
void rt_entersyscall(void);
void rt_exitsyscall(void);

/* ---- descriptors and their readiness (netpoll.c) ------------------------------------------- */

/* Answers of everything below that waits: 0 or a count, or one of these, or -errno. */
enum {
    RT_ETIMEOUT = -10001,
    RT_ECLOSED = -10002,
    RT_ECANCELED = -10003,
    RT_ENODEADLINE = -10004, /* of files: nothing about them can be waited for */
};

/* The error in words: "timeout", "closed", "canceled", "no deadline", else strerror's. Static or thread-local. */
const char *rt_strerror(int err);

enum { RT_R = 'r', RT_W = 'w', RT_RW = 'b' /* of rt_fd_set_deadline alone */ };

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

/* Waits until the descriptor is ready, or may be: 0; or RT_ETIMEOUT, RT_ECLOSED, RT_ECANCELED. Try,
 * and wait again if it says EAGAIN. Native Gs. */
int rt_pd_wait(rt_pd *pd, int mode, rt_reason reason);

/* For step Gs. 0: ready now, or an error; RT_PARKED: return RT_PARK, and call rt_pd_check when the
 * step is called again. */
enum { RT_PARKED = 1 };
int rt_pd_prepare(rt_pd *pd, int mode, rt_reason reason, rt_g *g);
int rt_pd_check(rt_pd *pd, int mode);

/* Ends a wait of `mode` as if the descriptor had become ready. Any thread. */
void rt_pd_kick(rt_pd *pd, int mode);

/* fd is one of the runtime's own, which nobody else may close or poll. Any thread. */
bool rt_is_poll_descriptor(int fd);

/* When the peer shuts its side down, or the connection breaks, g is cancelled (rt_cancel). NULL:
 * nobody. It says nothing of an end that came before: look at rt_pd_hup after it. Whoever has the
 * descriptor. */
void rt_pd_watch(rt_pd *pd, rt_g *g);

/* The peer has shut its side down: a short read does not mean that nothing is left. */
bool rt_pd_hup(rt_pd *pd);

/* ---- descriptors for native Gs (fd.c) ------------------------------------------------------ */

/* A socket, a pipe, or a file. It lives where the caller wants it to, from rt_fd_init until
 * rt_fd_close has returned; a zeroed one is closed. The fields belong to the functions below. */
typedef struct rt_fd {
    int fd;          /* -1: closed */
    rt_pd *pd;       /* NULL: a file, whose calls are offloaded (file.c) */
    rt_fdmutex mu;   /* users, locks, closed */
    bool drained;    /* read lock: the last read was short, so the next one waits first */
    uint8_t stream;  /* read lock: does a short read tell? 0: not asked yet, 1 no, 2 yes */
    bool not_socket; /* write lock */
    bool append;     /* a file opened with O_APPEND */
} rt_fd;

/* What follows returns 0 or a count, or RT_ETIMEOUT, RT_ECLOSED, RT_ECANCELED or -errno, and is for
 * native Gs that may wait, if nothing else is said. Any number of Gs may use one descriptor at a time:
 * readers queue for each other and so do writers, a reader and a writer do not. */

/* Takes over a nonblocking descriptor that can be polled. On an error (-EPERM: a file) it stays the
 * caller's. Any thread; does not wait. */
int rt_fd_init(rt_fd *f, int fd);

/* Ends everybody's waits with RT_ECLOSED, waits for them to leave, closes. From then on everything
 * answers RT_ECLOSED, a second close too, as long as the memory is there. Without other users: any
 * thread, and it does not wait. */
int rt_fd_close(rt_fd *f);

/* Reads what is there, at most n bytes and 1 GiB: waits only if nothing is. 0: the end (or n is 0). */
ssize_t rt_fd_read(rt_fd *f, void *buf, size_t n);
ssize_t rt_fd_readv(rt_fd *f, const struct iovec *iov, int n);

/* Writes all of it and returns n, or an error, before which a part of it may have gone out: how much,
 * only rt_fd_writev tells. -EPIPE raises no signal, except on descriptors 1 and 2: see signal.c. */
ssize_t rt_fd_write(rt_fd *f, const void *buf, size_t n);

/* The same; `iov` is changed: after an error it tells what was not written. */
ssize_t rt_fd_writev(rt_fd *f, struct iovec *iov, int n);

/* Shuts one side of a connection, or both: SHUT_RD, SHUT_WR, SHUT_RDWR. Any thread; does not wait. */
int rt_fd_shutdown(rt_fd *f, int how);

/* Deadline for RT_R, RT_W or RT_RW, as rt_pd_set_deadline: it ends waits that began before, too. Files
 * have none: RT_ENODEADLINE. Any thread; does not wait. */
int rt_fd_set_deadline(rt_fd *f, int mode, int64_t when_ns);

/* ---- sockets (sock.c) ---------------------------------------------------------------------- */

/* A descriptor, nonblocking and close-on-exec, or -errno. Any thread; they do not wait. */
int rt_socket(int family, int type, int protocol);
int rt_listen(const struct sockaddr *sa, socklen_t len, int backlog);

/* accept4 until something else than ECONNABORTED or EINTR comes: a descriptor, -EAGAIN or -errno.
 * Any thread; does not wait. */
int rt_accept4(int fd, struct sockaddr_storage *sa, socklen_t *len);

/* After a connect in progress became writable: 0, -EAGAIN (not decided yet), or why it failed. Any
 * thread; does not wait. */
int rt_connected(int fd);

/* Waits for a connection; its descriptor, nonblocking and close-on-exec, or an error. */
int rt_fd_accept(rt_fd *f);

/* Connects, waiting until the write deadline. After an error the socket is good for nothing. A unix
 * listener whose backlog is full answers -EAGAIN at once, which is Linux' doing. */
int rt_fd_connect(rt_fd *f, const struct sockaddr *sa, socklen_t len);

/* What an accepting G does when the process has no descriptor (or memory) left: it turns one client
 * away with a few words and pauses 5 ms, twice as long each time up to a second. */
typedef struct rt_acceptor {
    const void *farewell; /* said to who is turned away */
    size_t farewell_len;
    int64_t pause_ns; /* the last pause; 0: the last accept succeeded */
    int failures;     /* in a row */
    int reserve_fd;   /* kept for that moment; -1: none */
} rt_acceptor;

/* `farewell` may be NULL and must live as long as the acceptor. One G at a time uses it. */
void rt_acceptor_init(rt_acceptor *a, const void *farewell, size_t len);
void rt_acceptor_close(rt_acceptor *a);

/* As rt_fd_accept. An error other than RT_ECLOSED, RT_ETIMEOUT and RT_ECANCELED is returned after the
 * pause: say it if a->failures is 1, and call again. */
int rt_fd_accept_with(rt_fd *f, rt_acceptor *a);

/* The same on a listener that several pollers share (rt_pd_open_listener). */
int rt_accept_with(rt_acceptor *a, int fd, rt_pd *pd);

/* ---- files (file.c) ------------------------------------------------------------------------ */

/* Opens with the flags of open(2): O_RDONLY, O_CREAT, O_APPEND, O_SYNC, O_EXCL ... and close-on-exec.
 * rt_fd_read, _write, _close and rt_copy go on from there; while they are in the kernel, other Gs run. */
int rt_file_open(rt_fd *f, const char *path, int flags, mode_t mode);

/* Takes over a descriptor that shall not become nonblocking, such as stdout. On an error it stays the
 * caller's. A read from a terminal or a pipe holds up rt_fd_close until something comes. */
int rt_file_init(rt_fd *f, int fd);

/* At an offset, without moving the file's own; pread returns less than n only at the end. An error may
 * come after a part was moved, which is then repeated by a call with the same offset. pwrite to a file
 * opened with O_APPEND is -EINVAL: Linux would ignore the offset. */
ssize_t rt_file_pread(rt_fd *f, void *buf, size_t n, int64_t offset);
ssize_t rt_file_pwrite(rt_fd *f, const void *buf, size_t n, int64_t offset);

/* The new offset; whence as for lseek. */
int64_t rt_file_seek(rt_fd *f, int64_t offset, int whence);

/* Waits until the disk has it; data_only: times and the like may come later. */
int rt_file_sync(rt_fd *f, bool data_only);

/* ---- pipes and counters (pipe.c) ----------------------------------------------------------- */

/* A pipe, nonblocking and close-on-exec. Any thread; does not wait. */
int rt_pipe(rt_fd *r, rt_fd *w);

/* A counter in the kernel, by which other threads and processes wake Gs: add adds (any thread, never
 * waits; -EAGAIN: it would run over), take waits until it is not 0, empties it and returns it. */
int rt_event_open(rt_fd *f);
int rt_event_add(rt_fd *f, uint32_t n);
int64_t rt_event_take(rt_fd *f);

/* ---- copying (copy.c) ---------------------------------------------------------------------- */

/* Moves n bytes, or all until the end if n < 0, inside the kernel where it can. Returns how many
 * arrived; *err (may be NULL) is 0, also at an early end, or why it stopped. Bytes that were taken from
 * src when dst failed are lost. Each side waits until its own deadline. */
int64_t rt_copy(rt_fd *dst, rt_fd *src, int64_t n, int *err);

/* ---- linked buffers (linkbuf.c) ------------------------------------------------------------ */

typedef struct rt_span rt_span;

/* Bytes in a chain of blocks. One G or thread at a time; buffers that share blocks are independent of
 * each other. Nothing here waits but fill and flush. Errors: -ENOBUFS (more than max), -ENOMEM. */
typedef struct rt_linkbuf {
    rt_span *head, *tail; /* unread */
    rt_span *spent;       /* read, but what pointed there may still be used */
    size_t len;           /* unread bytes */
    size_t max;
    uint32_t guess;  /* bytes that the next read may bring */
    bool was_small;  /* the last one brought much less */
    uint32_t booked; /* bytes handed out by book and not acknowledged */
} rt_linkbuf;

/* max: bytes it may hold; 0: any number, as in a zeroed one. Takes no memory until something comes in. */
void rt_linkbuf_init(rt_linkbuf *b, size_t max);

/* Drops everything; the buffer is as after init. */
void rt_linkbuf_free(rt_linkbuf *b);

/* Room for at least n bytes (n 0: for what reads brought recently) behind the last one: how many, and
 * where in *at. ack says how many of them came, which may be 0; nothing else in between. */
ssize_t rt_linkbuf_book(rt_linkbuf *b, size_t n, void **at);
void rt_linkbuf_ack(rt_linkbuf *b, size_t n);

/* The first n bytes in one piece, or NULL: fewer are there, or no memory. peek leaves them, next takes
 * them. They stay where they are until rt_linkbuf_release. */
const void *rt_linkbuf_peek(rt_linkbuf *b, size_t n);
const void *rt_linkbuf_next(rt_linkbuf *b, size_t n);

/* Takes the first n bytes, n <= len. */
void rt_linkbuf_skip(rt_linkbuf *b, size_t n);

/* Gives back what was read. An empty buffer then holds no memory. */
void rt_linkbuf_release(rt_linkbuf *b);

/* Moves the first n bytes to the end of `to`, which shares their blocks. n <= len. */
int rt_linkbuf_slice(rt_linkbuf *b, size_t n, rt_linkbuf *to);

/* Copies bytes to the end. */
int rt_linkbuf_write(rt_linkbuf *b, const void *data, size_t n);

/* Moves all of `from` to the end of b, or before its byte `at` (<= len), without copying. */
int rt_linkbuf_append(rt_linkbuf *b, rt_linkbuf *from);
int rt_linkbuf_insert(rt_linkbuf *b, size_t at, rt_linkbuf *from);

/* The unread bytes for writev, at most max pieces; how many. Then skip what was written. */
int rt_linkbuf_iov(const rt_linkbuf *b, struct iovec *iov, int max);

/* One rt_fd_read into the buffer; its result. */
ssize_t rt_linkbuf_fill(rt_linkbuf *b, rt_fd *f);

/* Writes all of it and releases; 0 or an error. What was not written is still there. */
int rt_linkbuf_flush(rt_linkbuf *b, rt_fd *f);

/* Bytes of all blocks in the process. */
int64_t rt_linkbuf_bytes(void);

/* ---- timers (timer.c) ---------------------------------------------------------------------- */

/* Calls fn(arg) on an M with a P, once, not before `until`. fn must not wait. */
typedef struct rt_timer {
    _Atomic int64_t until; /* when it is due, rt_nanotime; 0: not at all. Written by the owner */
    _Atomic int64_t key;   /* its place in the heap; home's timer_lock writes */
    _Atomic(struct rt_p *) home; /* P whose heap holds it, or held it last; see timer.c */
    _Atomic uint32_t index;      /* place in that heap + 1; 0: in none */
    void (*fn)(void *arg);
    void *arg;
} rt_timer;

void rt_timer_init(rt_timer *t, void (*fn)(void *), void *arg);

/* Due at when_ns; 0 stops it. One caller at a time for one timer. Any thread. fn may still be
 * called for an earlier setting: it must look at what it finds. */
void rt_timer_set(rt_timer *t, int64_t when_ns);

/* ---- signals (signal.c) -------------------------------------------------------------------- */

/* Every program that uses the runtime prints its Gs on SIGUSR1, and on SIGQUIT, which ends it with
 * 2; see rt_options. The following may be called on any thread of the process once rt_main runs, for
 * 1 <= signo < 64; they return 0 or -errno, -EINVAL for the signals that nobody can handle and for
 * SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGURG and SIGPROF, which are the runtime's. */

/* Lets rt_signal_wait report signo from now on instead of its default action. */
int rt_signal_notify(int signo);

/* Drops signo from now on; reports of it that nobody has fetched are dropped too. */
int rt_signal_ignore(int signo);

/* Gives signo the action back that it has under the runtime: a dump for SIGUSR1 and SIGQUIT, else
 * the system's default. Reports that nobody has fetched are dropped. */
int rt_signal_reset(int signo);

/* Waits for a notified signal and returns its number, or RT_ECANCELED as below. A signal that comes several times before it is
 * reported is reported once. Several Gs may wait: each signal is reported to one.
 * While a G waits here and any signal is notified, the program is not deadlocked, whatever the others
 * wait for. Native Gs. */
int rt_signal_wait(void);

/* The same until deadline_ns at the latest (rt_nanotime; 0: none): a signal, or RT_ETIMEOUT, or
 * RT_ECANCELED if rt_interrupt or rt_cancel ended the wait. Native Gs. */
int rt_signal_wait_until(int64_t deadline_ns);

/* ---- profiler (prof.c) --------------------------------------------------------------------- */

/* Samples the stacks of all threads that run Gs, hz times per second of CPU time of each, 1 .. 1000;
 * 0: 100. Returns 0, -EINVAL, -EBUSY if it runs already, or -errno. Any thread; never waits. */
int rt_prof_start(int hz);

/* What was sampled; `file` gets a line per stack, from the outermost function to the innermost:
 * "main;handle;parse 12", where 12 is the samples, each 1/hz s of CPU time. Both may be NULL.
 * Returns 0, -EINVAL if the profiler does not run, -ENOMEM, or -EIO if `file` failed; it has stopped
 * in any case. Any thread; on a native G its P goes on without it meanwhile. */
typedef struct rt_prof_result {
    int64_t samples; /* in the lines */
    int64_t dropped; /* found the buffer full */
} rt_prof_result;
int rt_prof_stop(FILE *file, rt_prof_result *result);

/* ---- scheduler trace (trace.c) ------------------------------------------------------------- */

/* Records what the scheduler does until rt_trace_stop writes it to `path` as Chrome trace JSON, which
 * Perfetto (ui.perfetto.dev) shows. Returns 0, -EBUSY if one is being recorded, or -errno if the
 * file cannot be made. Any thread. */
int rt_trace_start(const char *path);

/* Ends the trace and writes the file. *dropped (may be NULL) is how many of the newest events found
 * their buffer full. Returns 0, -EINVAL without a trace, or -errno. Any thread; on a native G its P
 * goes on without it meanwhile. */
int rt_trace_stop(int64_t *dropped);

/* Is one being recorded? */
bool rt_trace_on(void);

/* Something that took the running thread from start_ns (rt_nanotime) until now, say a GC step. `name`
 * must live as long as the process. Costs nothing but a load if no trace is recorded. */
void rt_trace_span(const char *name, int64_t start_ns);

/* ---- privileges (privilege.c) -------------------------------------------------------------- */

/* The real, effective and saved ids, of every thread. 0 or -errno. Any thread. */
int rt_setuid(uid_t uid);
int rt_setgid(gid_t gid);
int rt_setgroups(size_t n, const gid_t *groups);

/* Becomes the named user for good: its groups, its group, its id. 0; -ENOENT: no such user; -EPERM:
 * only root may, or root could be had back; another -errno. After an error half of it may be done:
 * end the process. Reads the user database, so call it before there is work to do. */
int rt_drop_privileges(const char *user);

/* ---- LUNAPARK_DEBUG (debugenv.c) ----------------------------------------------------------- */

/* What LUNAPARK_DEBUG=key=number,key=number says; read by rt_main. */
typedef struct rt_debug_vars {
    int schedtrace; /* ms between two lines about the scheduler; 0: none */
    int gctrace;    /* for the host: 1: a line per collection */
    int retake;     /* ms of foreign code after which sysmon takes the P; 0: 20 */
    int gcwait;     /* for the host: 1: a full collection at every wait */
    int gcforce; /* for the host: ms after which an idle VM is collected in any case; 0: two minutes */
} rt_debug_vars;
const rt_debug_vars *rt_debug(void);

/* ---- when all is lost (debug.c) ------------------------------------------------------------ */

/* Prints the message, where, and aborts. Any thread, signal handlers too. */
_Noreturn void rt_throw(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* fn runs once, before the runtime ends the process by itself: rt_throw, a fault, a deadlock, SIGQUIT. It may be on any
 * thread, in a signal handler, with the runtime's locks held, so it must call nothing of the runtime but
 * rt_nanotime, and be bounded in time. Set once, before. */
void rt_on_end(void (*fn)(void));

/* Says where in the program pc is, "name+0x1c", "module+0x1234" or "0x1234"; its length, below size. */
size_t rt_symbol_print(const void *pc, char *buf, size_t size);

/* Prints every G to stderr: state, reason, how long, where it was made. Any thread. Waits for nothing but
 * stderr, except on a native G, where the hook below may wait. */
void rt_dump(void);

/* What the hook may do: */
typedef enum rt_dump_how {
    RT_DUMP_WAITS, /* a native G calls: it may wait */
    RT_DUMP_NOW,   /* any thread does: it may not */
    RT_DUMP_DEAD, /* nothing moves any more: it may look at everything, but must call nothing of the
                    * runtime but the two functions below and rt_nanotime */
} rt_dump_how;

/* fn runs at the end of each dump: what else there is to say. It is also who lists the Gs of cells; the
 * runtime then only counts them. Set once, before. */
void rt_on_dump(void (*fn)(rt_dump_how how));

/* Writes to stderr, by write(2) only. Any thread, signal handlers too. */
void rt_dump_text(const char *s, size_t n);

/* What g does, for dumps: it may run, and even live anew, meanwhile. Any thread. */
typedef struct rt_g_state {
    const char *status, *reason; /* reason NULL: it does not wait */
    int64_t waits_ns;
} rt_g_state;
void rt_read_g(const rt_g *g, rt_g_state *s);

#endif
