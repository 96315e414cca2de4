/* The VM, for Lua. The text between the two marks, here and in the other *_ffi.h, is copied into lunapark.cdef by
 * `make` (host/build/cdef.lua): plain C types only, no macros.
 *
 * None of these functions waits: a function tries, and answers -EAGAIN; Lua then calls a waiting function of
 * lunapark.core (luacore.c), which is a lua_CFunction. Unless a function says otherwise, the VM that owns the object
 * calls it, so no object here needs a lock. */
#ifndef VM_FFI_H
#define VM_FFI_H

#include <stddef.h>
#include <stdint.h>

/* ffi:begin */
/* ---- the VM (vm.c) ---- */

/* One per VM; lunapark.core.view is a pointer to it. */
typedef struct host_view {
    int32_t slot;     /* which coroutine of the VM runs: key of its G in Lua's tables */
    int32_t vm_id;    /* 0 .. */
    double serial;    /* which G of this slot runs: never used again in this VM */
    uint8_t *scratch; /* for one FFI call at a time */
    uint32_t scratch_size;
    int32_t n_live;    /* Lua Gs of the VM */
    int64_t mapped;    /* bytes that LuaJIT has mapped for it */
    int32_t index;     /* of the waiter that was fired last */
    int32_t retired;   /* its generation serves no more: no requests will come */
    double virtual_ns; /* the time of the G that runs, if it stands in a bubble; else 0 */
    double seed;       /* --seed and 1; 0: without */
    double started;    /* serial of the G that was started last */
} host_view;

/* ---- go, park, ready (luag.c, wait.c) ----
 *
 * Each has a part that an FFI call can do and one that it can not, which is a lua_CFunction of lunapark.core: to take
 * Lua values, to make a coroutine, to wait. */

/* Starts a G that calls the function of lunapark.core.set_body with the G's slot: the slot, with the G's serial in
 * host_view.started. place: as for host_set_place. -EAGAIN: the G needs more than a coroutine that is left over from
 * another; then lunapark.core.go. */
int host_go(int place);

/* lunapark.ready without values: ends the park that the Lua G of this slot and serial is in, or else its next one. 1;
 * 0: the G has ended. */
int host_ready(int32_t slot, double serial);

/* How a park ended: something but a ready woke the G, a deadline, a cancellation. */
enum { HOST_PARK_WOKEN, HOST_PARK_TIMEOUT, HOST_PARK_CANCELED };

/* The first half of a park. 0: a ready without values came before, and the park is over; -EAGAIN: the G is to wait in
 * lunapark.core.park, which yields. */
int host_park_begin(void);

/* The second half of a park that no ready has ended: HOST_PARK_... */
int host_park_end(void);

/* ---- the running G, and others by their slots (luag.c, wait.c) ---- */

/* Bytes that the VM holds outside of LuaJIT's memory, as --vm-memory counts them. */
double host_charged(void);

/* The deadline of the running Lua G, in rt_nanotime's nanoseconds; 0: none. Every wait ends there with "timeout"; Gs
 * that this G starts inherit the deadline. */
double host_deadline(void);

/* The deadline that was set for the running Lua G alone, without its request's; 0: none. */
double host_own_deadline(void);
void host_set_deadline(double ns);

/* The Lua G of `slot` was started at the place of this name (host_label). */
void host_set_place(int32_t slot, int label);

/* The name of the route of the request that the running G answers, or in which it was started; "": none. */
const char *host_route(void);

/* The serial of the Lua G that has `slot` now; 0: none has. */
double host_serial(int32_t slot);

/* Wakes the Lua G of `slot` from lunapark.core.wait. 1: it was waiting, 0: it was not. */
int host_wake(int32_t slot);

/* Takes the Lua G of `slot` out of the request in which it was started: the request's deadline no longer ends its
 * waits. */
void host_detach(int32_t slot);

/* Cancels the Lua G of `slot`: its wait, and each later one, answers "canceled". */
void host_cancel(int32_t slot);

/* Cancels the Lua G of `slot`, because a scope that the G stands in has failed, until the G has left that scope. */
void host_cancel_scope(int32_t slot);

/* Why the waits of the running Lua G answer "canceled": 0 they do not, else a sum of 1 host_cancel,
 * 2 host_cancel_scope, 4 its request's client is gone, 8 its bubble ends. */
int host_canceled(void);
void host_set_canceled(int why);

/* on: waits that the running Lua G begins from now on heed neither its deadlines nor its cancellation. For a G that has
 * to wait for the end of others. */
void host_shelter(int on);

/* ---- virtual time (bubble.c): outside of a bubble the functions do nothing and answer 0 ---- */

enum { HOST_BUBBLE_NONE, HOST_BUBBLE_DEADLOCK, HOST_BUBBLE_TIMEOUT };
/* Of sockets: the G that asks has virtual time; TLS was broken, see host_sock_tls_why. */
enum { HOST_EVIRTUAL = -20001, HOST_ETLS = -20002 };

/* The running G makes a bubble and enters it; start_s: seconds since 1970 at its beginning. 0; -EBUSY: the G stands in
 * a bubble; -EPERM: it answers a request; -ENOMEM. The functions that follow are for Gs inside of a bubble. */
int host_bubble_enter(double start_s);

/* Seconds of virtual time since the bubble was made; and start_s. */
double host_bubble_elapsed(void);
double host_bubble_start(void);

/* The G that made the bubble is done: cancels the others. */
void host_bubble_end(void);

/* The number of other Gs in the bubble that have not ended; 0 also when they never will. The running G is woken when
 * the number becomes 0. */
int host_bubble_others(void);

/* The state of the bubble: HOST_BUBBLE_... */
int host_bubble_verdict(void);

/* A text about the verdict, or NULL. Ends with host_bubble_leave. */
const char *host_bubble_text(void);

/* The running G leaves the bubble. */
void host_bubble_leave(void);

/* The Lua G of `slot`, which has not begun, is in no bubble. */
void host_bubble_put_out(int32_t slot);

/* --seed leaves the running Lua G alone: this G runs when it is ready, before others, and draws nothing. For a G that
 * watches others by the clock. */
void host_steady(void);

/* ---- queues of Gs (queue.c) ---- */

typedef struct host_waiter host_waiter;

/* Lua Gs of one VM that wait for something. Zeroed: empty. */
typedef struct host_queue {
    int32_t n; /* number of Gs */
    host_waiter *head, *tail;
} host_queue;

/* Ends the wait of the first G in q: the G's slot, with the index of its waiter in host_view.index; -1: q is empty.
 * The wait answers 2 * index + (ok ? 1 : 0). */
int host_queue_fire(host_queue *q, int ok);

/* The slot of the first G in q; -1: there is none. */
int host_queue_first(const host_queue *q);

/* A wait in several queues: host_queue_prepare, a host_queue_join for each, then lunapark.core.rest. */

/* Makes room for n waiters of the running G. 0, or -1 without memory. */
int host_queue_prepare(int n);

/* The running G joins q, if host_queue_prepare has made room. index: 1 or more. */
void host_queue_join(host_queue *q, int index);

/* The running G leaves all its queues. */
void host_queue_leave(void);

/* ---- loads of modules (load.c) ---- */

enum { HOST_LOADING, HOST_LOADED, HOST_LOAD_FAILED };

typedef struct host_load {
    host_queue queue; /* Gs that wait for its end */
    int32_t state;    /* HOST_LOAD... */
    int32_t key;      /* where the registry has the result */
} host_load;

/* ---- C functions on other threads (offload.c) ---- */

/* A call: fn and its arguments, by class and in the order of its parameters; then the result. */
typedef struct host_call {
    void (*fn)(void);
    int64_t ints[6];  /* whole numbers and pointers */
    double floats[8]; /* floating-point numbers; a float in the first 4 bytes */
    int32_t result;   /* which field has the result: 0 none, 1 i, 2 d, 3 f */
    int32_t err;      /* errno after it */
    int64_t i;
    double d;
    float f;
} host_call;

/* NULL: no memory. host_call_free is to follow, and may also come while the call runs. */
host_call *host_call_new(void);

enum { HOST_CALL_NEW, HOST_CALL_RUNS, HOST_CALL_ENDED, HOST_CALL_FAILED };

/* lunapark.core.wait_call begins c, if c is new, and waits for its end. FAILED: there was no memory to begin c. */
int host_call_state(const host_call *c);
void host_call_free(host_call *c);

/* ---- jobs on other threads (job.c) ---- */

/* Functions that return a job make it. lunapark.core.wait_job starts a job and waits for it. */
typedef struct host_job host_job;

/* 1: the job has ended; 2: the job has ended without having run, for want of memory. */
int host_job_done(host_job *job);

/* The finalizer. A job that runs goes on. */
void host_job_free(host_job *job);

/* A job that waits until the lines that were logged are written, for timeout_ns at most. NULL: no memory. */
host_job *host_log_flush(double timeout_ns);

/* 1: a job of host_log_flush has ended, and all lines are written. */
int host_log_flushed(host_job *job);

/* ---- blocks of specs (block.c) ---- */

/* --block-timeout in seconds; 0: no limit. */
double host_block_timeout(void);

/* A block begins, without a limit so far, and the running G waits for it. what: the block in words, for the message
 * that it is over its limit; "": the block has ended. */
void host_block_begin(const char *what);

/* From now on no Lua of this VM, except the G that waits for the block, may run past until_ns without a wait; 0: no
 * limit. */
void host_block_limit(double until_ns);

/* 0: some Lua G of this VM, beside the running one, may go on by itself. Else all wait for each other; the number
 * changes when one of them runs. */
double host_block_asleep(void);

/* Ends the Lua G of `slot`: ends its wait, and raises an error in its Lua, wherever that is, again and again. */
void host_block_doom(int32_t slot);
/* ffi:end */

#endif
