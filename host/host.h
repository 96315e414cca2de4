/* The host's own data: VMs and their Lua Gs, connections, servers. Only files of host/ include it.
 *
 * Which thread may touch what: a VM and its Lua Gs belong to whoever runs the VM's cell; a connection
 * to whoever runs its G; a server's fields say. */
#ifndef HOST_H
#define HOST_H

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdatomic.h>

#include "../runtime/lock.h"
#include "../runtime/runtime.h"
#include "host_ffi.h"

typedef struct host_vm host_vm;
typedef struct host_luag host_luag;
typedef struct host_conn host_conn;
typedef struct host_xfer host_xfer;
typedef struct host_server host_server;
typedef struct generation generation;   /* generation.h */
typedef struct barrier barrier;         /* barrier.c */
typedef struct chan_wait chan_wait;     /* shared_chan.h */
typedef struct bubble_seat bubble_seat; /* bubble.h */

#define NS_PER_SEC INT64_C(1000000000)

/* As many as rt_procs can say; and what each has for itself stands in cache lines of its own. */
enum { MAX_PS = 256 };
#define OF_ONE_P _Alignas(64)

/* ---- options (options.c) ------------------------------------------------------------------- */

enum { MAX_LISTEN = 16 };

typedef struct host_options {
    const char *listen[MAX_LISTEN];
    int n_listen;
    _Atomic int64_t procs;   /* 0: as many as there are CPUs */
    _Atomic int64_t max_vms; /* 0: by the number of Ps */
    _Atomic int64_t max_body;
    _Atomic double header_timeout, idle_timeout, handler_timeout, kill_after, drain_timeout,
        upgrade_timeout;          /* seconds */
    _Atomic double load_timeout;  /* the same; 0: no limit */
    _Atomic double block_timeout; /* the same */
    _Atomic int64_t log_level;    /* a script may change it */
    _Atomic int64_t log_format;   /* LOG_TEXT or LOG_JSON */
    const char *pid_file, *admin;
    _Atomic int64_t vm_memory; /* bytes that LuaJIT may map for one VM; 0: no limit */
    _Atomic int64_t watch, dev, live_reload, strict; /* yes or no */
    _Atomic int64_t jobs;                            /* how many spec files run at once */
    const char *coverage_dir;
    _Atomic int64_t seed, rounds; /* -1: none; 1: one */
} host_options; /* those that are atomic change when a generation begins to serve */

extern host_options options;

enum { FROM_DEFAULT, FROM_APP, FROM_ENV, FROM_COMMAND_LINE };

/* Sets the option of that name (with - or _) unless a stronger source has set it. NULL, or what is
 * wrong, in a static buffer. */
const char *option_set(const char *name, const char *value, int source);
/* Takes --name value and --name=value out of argv from index 1 on, leaves the rest. Exits 64 at a
 * mistake. stop_at_word: words after the first that is none belong to the script. */
int options_parse(int argc, char **argv, const char *command, bool stop_at_word);
void options_from_env(void);
/* The value of that option: *text, or NULL there and *number. False: there is none. */
bool option_get(const char *name, double *number, const char **text);
/* From here on what the app sets is put aside, until it counts, or is forgotten. Who loads a generation. */
void options_stage(void);
void options_commit(void);
void options_drop(void);
void options_help(const char *command);

/* ---- VMs (vm.c) and Lua Gs (luag.c) -------------------------------------------------------- */

enum { HOST_SCRATCH = 16384, MAX_OLD_SLOTS = 24, HOST_LOST = -1 };
/* Why a Lua G is canceled, as host_canceled says it: by its handle, by its scope; its client is gone; its bubble ends. */
enum {
    HOST_CANCELED = 1,
    HOST_CANCELED_SCOPE = 2,
    HOST_CANCELED_GONE = 4,
    HOST_CANCELED_BUBBLE = 8,
};

/* What is to be given back when a VM goes (vmmem.c). */
typedef struct mem_range mem_range;
typedef struct mem_file mem_file;
typedef struct mem_code mem_code;
typedef struct vm_mem {
    struct {
        mem_range *v;
        int n, cap;
    } ranges; /* mapped, by address */
    struct {
        mem_file *v;
        int n, cap;
    } files;
    struct {
        mem_code *v;
        int n, cap;
    } code; /* areas of machine code; a signal handler on the same thread reads, and sets */
    struct {
        void **v;
        int n, cap;
    } tables;              /* of the unwinder */
    uintptr_t callbacks;   /* the page of FFI callbacks' entries, or 0 */
    bool refused;          /* an allocation was, since the last full collection */
    volatile bool busy;    /* `ranges` or `code` is being changed: for that signal handler */
    volatile bool stopped; /* vmmem_stop_code */
} vm_mem;

/* What is known of its collector (vmgc.c). */
typedef struct vm_gc {
    int live_kb;       /* after the last cycle that we saw end */
    bool in_cycle;     /* which vm_gc_step has begun */
    bool again;        /* that one may have been half done before: another follows */
    bool ran;          /* Lua has, and the G below looks again soon */
    bool dirty;        /* Lua has, since the last cycle that we saw end */
    bool serves;       /* it is collected after two idle minutes in any case */
    bool forced;       /* that is due */
    _Atomic(rt_g *) g; /* atomic: collects when the VM is idle; NULL: there was nothing to do yet */
    host_luag *lg;     /* what finalizers see then */
    _Atomic uint64_t ticket; /* atomic: of its wait */
    enum { GC_RESTS, GC_WATCHES, GC_WORKS } state;
    int64_t clean_ns;               /* when the last cycle that we saw ended */
    int start_kb, peak_kb, n_steps; /* for gctrace */
    int64_t spent_ns;
    bool hurries; /* its memory nears the limit; meanwhile: */
    int usual_stepmul, usual_pause;
} vm_gc;

struct host_vm {
    host_view view; /* what Lua sees */
    lua_State *L;   /* the main state: handlers, tables; never resumed */
    rt_cell *cell;
    host_luag *
        *slots; /* all coroutines, by slot. It is replaced when it grows, as a dump may read the */
    int n_slots, cap_slots;
    host_luag **old_slots[MAX_OLD_SLOTS]; /* one of a VM that is stuck */
    int n_old_slots;
    host_luag *free; /* those that no G uses */
    double serial;   /* of the last G */
    int *handlers;   /* registry references by handler number; LUA_NOREF */
    int n_handlers;
    host_sock *socks;             /* of its Lua, sock.c */
    struct host_owned *owned;     /* of its Lua, job.c */
    _Atomic(host_luag *) running; /* atomic: whose Lua runs, or ran last */
    /* vmpool.c, runaway.c */
    _Atomic bool stuck;         /* atomic: its M has lost its P */
    _Atomic int64_t stuck_ns;   /* atomic: since when */
    int64_t said_ns;            /* the pool's lock: when the log said so last, or 0 */
    host_vm *next_stuck;        /* the pool's lock */
    int n_current;              /* the pool's lock: of so many Ps */
    _Atomic(host_luag *) kill;  /* atomic: whose Lua is to be ended */
    _Atomic int64_t kill_ns;    /* atomic: since when */
    bool raised;                /* kill_hook has raised its error */
    _Atomic uintptr_t seen_pc;  /* atomic: where its thread was interrupted last */
    _Atomic bool seen_compiled; /* atomic: that was in compiled code */
    char ending[256];           /* the keeper: what `kill` runs, for the log */
    char ended_at[128];  /* the file and line in which that was ended by an error, or empty */
    lua_Hook users_hook; /* while `kill` is ended by a hook */
    int users_mask, users_count;
    barrier *barriers; /* frames beneath which no G may wait, the innermost last */
    int n_barriers, cap_barriers;
    _Atomic int n_calls;        /* atomic: of its Gs' that run on other threads (offload.c) */
    const void *g_meta;         /* metatable of the handles of Gs */
    bool in_lua;                /* a G's Lua runs */
    bool closing;               /* no G may begin in it any more */
    bool ends;                  /* its Gs are canceled as they begin */
    int n_requests;             /* of its Gs: handlers, and what they have started */
    generation *generation;     /* it was made for; NULL: none (run, test) */
    struct source_set *sources; /* where it loads files from; NULL: the disk */
    /* atomic: it loads its app, or runs a block of a spec, and may take so long; 0: it does not */
    _Atomic int64_t loads_until_ns;
    int64_t shared_ns; /* when it last let others run (luag_share) */
    _Atomic int64_t
        drain_ns;        /* atomic: it is retired, and what it runs has so long; 0: it is not */
    struct block *block; /* that block, or the last one; NULL: none yet (block.c) */
    vm_mem mem;
    vm_gc gc;
    uint8_t scratch[HOST_SCRATCH];
    /* What follows outlives the VM that has ended. */
    _Atomic bool dropped; /* atomic: it was thrown away; its Gs end without touching its Lua */
    _Atomic(generation *)
        serves;            /* atomic: it has loaded for this one; NULL: it has not, or has ended */
    int away;              /* the pool's lock: see vmpool.c */
    host_vm *next_retired; /* vm.c */
    /* vm.c */
    host_vm *next_made;
    _Atomic bool open;  /* the visits' lock writes: it may be visited */
    int n_visits;       /* the visits' lock */
    _Atomic bool asked; /* atomic: dump.c has asked it and waits for the answer */
};

/* The Lua Gs of one VM that wait for one descriptor: in each direction ([0] read, [1] write) one that
 * the poller knows, and those whose turn is not yet. */
typedef struct host_waitq {
    host_luag *holder[2], *queue[2];
} host_waitq;

/* A Lua G in a host_queue (queue.c). */
struct host_waiter {
    host_queue *q; /* NULL: in none */
    host_luag *lg;
    host_waiter *prev, *next;
    int32_t index;
};

/* A coroutine and, while one runs on it, its G. */
struct host_luag {
    rt_g *g;         /* NULL while free */
    lua_State *L;    /* anchored in the VM's registry for good, or until it raised */
    lua_State *held; /* whose wait left the loop's stack: L, or the user's coroutine; else NULL */
    int ref, slot;
    host_vm *vm;
    union {
        host_luag *next_free; /* no G uses it */
        host_luag *next_wait; /* in waitq->queue */
    };
    host_xfer *x; /* whose handler runs on it, or NULL */
    int nargs;    /* on L's stack for the next resume */
    /* The wait it is in, set by the lua_CFunction that yields. */
    enum { WANT_NOTHING, WANT_TURN, WANT_TICKET, WANT_FD, WANT_QUEUE } want;
    rt_pd *pd; /* WANT_FD, WANT_QUEUE */
    host_waitq *waitq;
    uint8_t mode;
    bool steady;                /* --seed leaves it alone */
    bool answers;               /* it waits to write to its client */
    bool is_main;               /* it was started from outside of the VM */
    bool sheltered;             /* see host_shelter */
    uint8_t canceled;           /* HOST_CANCELED...: why its waits answer "canceled" */
    int64_t deadline_ns;        /* of that wait */
    _Atomic int64_t limit_ns;   /* its VM writes, others read: the G's own deadline; 0: none */
    _Atomic int64_t request_ns; /* the same, of a handler: when it has taken too long; 0: never */
    double serial;
    uint64_t ticket;        /* WANT_TICKET, WANT_QUEUE */
    host_waiter waiter;     /* queue.c */
    host_waiter *cases;     /* the same, of a select */
    int n_cases, cap_cases; /* of these, in use; allocated */
    chan_wait *shared;      /* the same, in shared channels; NULL: never stood in one */
    bubble_seat *seat;      /* its time is virtual (bubble.c); NULL: it is real */
    int fired;              /* what a wait in a queue answers; -1: nothing yet */
    bool resting;           /* the wait is one in queues */
    bool doomed;            /* its Lua raises an error wherever it is, until it has ended */
    bool of_request;        /* it answers one, or was started by who does */
    bool parking;           /* it waits in lunapark.park, */
    int16_t n_ready; /* for which so many values lie on its stack, 8,000 at most; -1: not readied */
    int16_t n_kept;  /* so many are kept for its next park; -1: none */
    int kept;        /* registry reference of a table of these, or LUA_NOREF */
    /* Runs when the coroutine has ended with `status` (0 or lua_resume's error, message on top); of a G that was
     * started from outside also with HOST_LOST when its VM was dropped. */
    void (*done)(host_luag *lg, int status);
    void *done_arg;
};

/* The VM whose cell runs the caller. Throws without one. */
host_vm *vm_current(void);
/* The same, NULL without one: for what LuaJIT calls in whatever thread. */
host_vm *vm_here(void);
/* A VM with the embedded modules, whose Lua has not run anything yet. Never fails: throws. */
host_vm *vm_new(int id);
/* The orderly end: finalizers run, everything goes back. No G of it lives and nobody runs it, nor
 * will. Any native G, which it keeps as long as the finalizers take. */
void vm_free(host_vm *vm);
/* The same at once, without finalizers and without a look at its heap. Waits for its calls (offload.c). */
void vm_drop(host_vm *vm);
/* Who looks at a VM that others run says so, lest it end: vm_free and vm_drop wait. False: it has ended, or
 * is about to. Any thread; in between the VM's Lua is not the visitor's. */
bool vm_visit(host_vm *vm);
void vm_leave(host_vm *vm);
/* All VM structs there are, one after another, those that have ended too; NULL begins and ends. */
host_vm *vm_next(host_vm *vm);
int vm_add_handler(host_vm *vm, int n); /* pops the function; n < 0: a new number */

/* A coroutine for a new G; its L is empty. NULL: the VM has no memory for it, after a full collection
 * too, or closes. */
host_luag *luag_take(host_vm *vm);
void luag_give(host_luag *lg, int status);
/* The same for a G of a VM that was dropped. */
void luag_forget(host_luag *lg);
/* Its deadline, 0: none; what it runs, in words. By who runs its VM, or while that can not go on
 * (rt_cell_inspect). */
int64_t luag_limit(const host_luag *lg);
void luag_name(const host_luag *lg, char *buf, size_t size);
/* It answers a request, or was started by who does; and no more. By its VM. */
void luag_join_request(host_luag *lg);
void luag_leave_request(host_luag *lg);
/* Ends its wait, or the next: it answers "canceled", as do all that follow. why: HOST_CANCELED... By its VM. */
void luag_cancel(host_luag *lg, int why);
/* A slot for what is no G. NULL: no memory. */
host_luag *luag_reserve(host_vm *vm);
/* Around Lua of lg's that runs without a coroutine of its own. */
void luag_enter(host_luag *lg);
void luag_leave(host_luag *lg);
/* The Lua G that runs. Throws without one. */
host_luag *luag_current(void);
/* In Lua of a VM that loads its app: has those run who wait for the P, if the VM has run for a while. It is no wait:
 * nothing else runs in the VM. */
void luag_share(void);
/* Runs it until it waits or ends. RT_EXIT: it has ended, done was called. */
rt_step luag_resume(host_luag *lg);
/* The step of a Lua G that runs no handler. */
rt_step luag_step(rt_g *g);
/* Starts fn with nargs arguments, both on from's stack, popped. Only by the M that runs the VM. */
host_luag *luag_start(host_vm *vm, lua_State *from, int nargs);
/* The same from outside: calls boot(vm, lg->L, arg), which pushes function and arguments and returns
 * the number of the latter, in the VM. done as above, or lost if the G could not begin: the VM was dropped or has no
 * memory for it. Any native G. */
typedef int (*luag_boot)(host_vm *vm, lua_State *L, void *arg);
void luag_spawn(host_vm *vm, luag_boot boot, void *arg, void (*done)(host_luag *, int),
                void (*lost)(void *), void *done_arg);

int luaopen_lunapark_core(lua_State *L); /* luacore.c */
/* Adds `load` and `load_mark` to lunapark.core, which is on top (load.c). */
void load_open(lua_State *L);
/* For a new VM. May raise. */
void luag_open(lua_State *L);

/* Waits that a lua_CFunction begins: `return luag_wait...(L, ...)`. They yield, and answer nothing,
 * or "timeout", "canceled", "closed" when it is over. */
int luag_wait(lua_State *L, rt_reason reason, int64_t deadline_ns);
/* The same for those whom others wake: begun(lg, arg) is called when lg->ticket is open. */
int luag_wait_with(lua_State *L, rt_reason reason, int64_t deadline_ns,
                   void (*begun)(host_luag *lg, void *arg), void *arg);
/* In q, or in the queues that it stands in if q is NULL: answers as the others, or what host_queue_fire
 * says; nothing if it was woken otherwise, and stands in its queues still. */
int luag_rest(lua_State *L, host_queue *q, int64_t deadline_ns);
int luag_wait_fd(lua_State *L, host_waitq *q, rt_pd *pd, int mode, int64_t deadline_ns);
/* For the connection of a request. */
int luag_wait_req(lua_State *L, host_req *r, int mode, int64_t deadline_ns);
int luag_yield(lua_State *L);
/* The same now and then in a VM with --seed, else nothing. Where a G may wait, but need not. */
int luag_yield_early(lua_State *L);
/* Its Gs run in a random order from now on, which the seed (0 or more) repeats. By who runs it, or before it runs. */
void luag_shuffle(host_vm *vm, int64_t seed);
/* Waits for luag_ready: its values, or `again` and why there are none: nothing (look again), "timeout",
 * "canceled". */
int luag_park(lua_State *L);
extern char luag_again;
/* Gives the values above the first on L's stack to lg's park, this one or the next. Pops them. */
void luag_ready(lua_State *L, host_luag *lg);
/* The client of the request that lg answers has hung up. By lg's VM. */
bool luag_client_gone(host_luag *lg);
/* Ends a wait for a ticket. By lg's VM. */
bool luag_wake(host_luag *lg);
/* queue.c. By lg itself, or by who fires it. */
void queue_join(host_queue *q, host_luag *lg);
void queue_leave(host_luag *lg);
/* shared_wait.c: lg's wait in the shared channels that it has joined, if any; lg->shared is not NULL. By who runs its VM.
 * begin: its ticket is open. False: one is ready, and lg stands in none. claim: false: the wait was ended by another.
 * settle: leaves them all; what a channel has answered, -1: none has. */
bool shared_wait_begin(host_luag *lg);
bool shared_wait_claim(host_luag *lg);
int shared_wait_settle(host_luag *lg);
/* The same, and what it was handed, and never took, goes back. free: and its memory. lg->shared may be NULL. */
void shared_wait_end(host_luag *lg);
void shared_wait_free(host_luag *lg);
/* shared.c: of a name; the same one as long as the process lives. */
uint64_t shared_hash(const char *name, size_t len);
/* The descriptor goes: every wait for it answers "closed". Nobody stands in its pollDesc then. */
void waitq_close(host_waitq *q);

/* ---- where a wait can not work (barrier.c) --------------------------------------------------
 * All of it only by who runs the VM. */

typedef enum barrier_kind {
    BARRIER_CALLBACK,
    BARRIER_FINALIZER,
    BARRIER_HOOK,
    BARRIER_PROFILER,
    BARRIER_HOST, /* Lua that the host calls on the VM's main state */
} barrier_kind;

/* From here to barrier_pop no G may wait. sp: an address in the caller's frame, as
 * __builtin_frame_address(0). An error that leaves the frame takes the barrier away. */
void barrier_push(host_vm *vm, barrier_kind kind, const void *sp);
void barrier_pop(host_vm *vm);

/* sp lies above the frame of an FFI callback. Also in a signal handler that has interrupted Lua at sp. */
bool barrier_callback(const host_vm *vm, const void *sp);

/* vm_barrier where there are records. */
const char *barrier_why(host_vm *vm);

/* NULL: a G may wait here; else why not: "cannot wait here: %s". */
static inline const char *vm_barrier(host_vm *vm) {
    return vm->n_barriers ? barrier_why(vm) : NULL;
}

/* Nothing of Lua stands on the C stack any more, or a stack without barriers goes on. */
static inline void barrier_reset(host_vm *vm) {
    vm->n_barriers = 0;
}

/* Puts our debug.sethook and gethook into the library of a new VM. May raise. */
void barrier_open(lua_State *L);

/* To a number of the view that a dump may read meanwhile; by who runs the VM. */
#define VIEW_ADD(number, by) __atomic_store_n(&(number), (number) + (by), __ATOMIC_RELAXED)

/* Bracket the Lua of a G: before lua_resume, or when the stack of one that waited goes on; and when
 * that has returned, or the stack is left. */
static inline void vm_enter_lua(host_vm *vm) {
    barrier_reset(vm);
    vm->in_lua = true;
}

static inline void vm_leave_lua(host_vm *vm) {
    vm->in_lua = false;
}

/* ---- memory of a VM (vmmem.c) and its garbage (vmgc.c) ----------------------------------------
 * All of it only by who runs the VM. */

/* Gives back every page that LuaJIT has mapped for it and closes its files. Its lua_State must not be
 * touched any more. Files that are pipes to processes are waited for by a G of their own. */
void vmmem_drop(host_vm *vm);

/* pc lies in machine code of the VM, not where FFI callbacks enter it. Also in a signal handler on the
 * thread that runs it. */
bool vmmem_has_code(host_vm *vm, uintptr_t pc);

/* Whoever enters or returns to machine code of the VM gets a SIGSEGV there, until it may again; what LuaJIT
 * compiles meanwhile is not stopped. Also in a signal handler on the thread that runs it. */
void vmmem_stop_code(host_vm *vm, bool stop);

/* For an idle VM: a step of its collector if the heap has grown by a quarter since the last cycle. True:
 * another is worthwhile. Finalizers may run. How long a step takes: vmgc.c. */
bool vm_gc_step(host_vm *vm);

/* Lua has run in it. */
void gc_ran(host_vm *vm);
static inline void vm_gc_ran(host_vm *vm) {
    if (__builtin_expect(!vm->gc.ran, 0)) gc_ran(vm);
}

/* For LUNAPARK_DEBUG=gctrace=1: once for a new VM, on its main state; may raise. And when Lua has run. */
void vm_gc_trace(lua_State *L);
void vm_gc_note_peak(host_vm *vm);

/* Its G that collects ends soon. No G of the VM runs. */
void vm_gc_end(host_vm *vm);

/* A whole collection, also if the script has stopped the collector. */
void vm_gc_full(host_vm *vm);

/* Sets the collector's pace by how near the limit is; and makes it go on, when more was mapped. */
void vm_gc_tune(host_vm *vm);
void vm_gc_grown(host_vm *vm);

/* ---- which VM serves (vmpool.c) ------------------------------------------------------------- */

/* Once, before any VM runs: from then on stuck VMs are seen to. On a native G. */
void pool_init(void);
/* The generation whose VMs are given requests; NULL: there is none yet. Any thread. */
extern _Atomic(generation *) pool_serving;
/* Requests that have not begun are for gen's VMs from now on. The one before, or NULL. Any native G. */
generation *pool_switch(generation *gen);
/* A VM for it has loaded, or will not; each generation_make_vm is followed by it. p: of so many Ps' current VM, -1: a
 * spare. vm: NULL: it has failed. Any native G. */
void pool_add(generation *gen, host_vm *vm, int p);
/* Up to max of the VMs of gen, each visited. Any native G. */
int pool_list(generation *gen, host_vm **list, int max);
/* The VM that answers the next request of this P. NULL: all are stuck; *soon: another is being made.
 * With a P; does not wait. */
host_vm *vm_for_request(bool *soon);
/* vm may begin to answer requests. On any thread. */
static inline bool vm_serves(const host_vm *vm) {
    generation *gen = atomic_load_explicit(&vm->serves, memory_order_acquire);
    return gen && gen == atomic_load_explicit(&pool_serving, memory_order_acquire);
}
/* vm has lost its P and has one again. ended: not of its own accord. By who runs it. */
void vm_back(host_vm *vm, bool ended);
/* The same of one that is thrown away. */
void pool_unstick(host_vm *vm);
/* vm is given no requests any more. Any thread. */
void pool_forget(host_vm *vm);

/* ---- C functions on other threads (offload.c) ------------------------------------------------ */

enum { HOST_RESULT_NONE, HOST_RESULT_INT, HOST_RESULT_DOUBLE, HOST_RESULT_FLOAT };

/* The end of c ends lg's wait of this ticket. False: it has ended. */
bool call_open(host_call *c, host_luag *lg, uint64_t ticket);
/* A lua_CFunction's wait for it, as above; it may answer nothing too early. */
int luag_wait_call(lua_State *L, host_call *c, int64_t deadline_ns);

/* ---- sockets of Lua (sock.c) ---------------------------------------------------------------- */

/* Closes and frees all of a VM that was dropped. */
void sock_close_all(host_vm *vm);

/* For who waits for it next: RT_R, RT_W. NULL: closed. */
rt_pd *sock_pd(host_sock *s, int mode, host_waitq **q);

/* How many bytes the kernel took, or -errno, or an RT_E... */
ssize_t sock_writev(host_sock *s, struct iovec *iov, int n);

/* ---- addresses (addr.c) -------------------------------------------------------------------- */

enum { HOST_ADDR_MAX = 128 }; /* bytes of one as text, with the 0 */

typedef struct host_addr {
    struct sockaddr_storage sa;
    socklen_t len;
} host_addr;

/* `host:port`, `:port`, `[v6]:port` with numeric host (or localhost), `unix:path`. 0 or -EINVAL. */
int addr_parse(const char *s, host_addr *a);
int addr_format(const struct sockaddr *sa, socklen_t len, char *buf, size_t cap);

/* ---- connections (conn.c), parsing (http1.c), responses (response.c) ------------------------ */

enum {
    HEAD_MAX = 16384,  /* bytes of a request head: else 431 */
    TARGET_MAX = 8192, /* of its target: else 414 */
    HEADERS_MAX = 100, /* header fields: else 431 */
    OUT_SIZE = 4096,   /* output buffer to begin with */
    OUT_FULL = 65536,  /* queued output that makes the writer wait */
};

void conn_start(host_server *s, int fd);
/* What a handler that waits for its connection needs; NULL: it has none any more. Between the two
 * nothing may raise. */
rt_pd *conn_pd_take(host_req *r, host_waitq **q);
void conn_pd_give(host_req *r);
/* hold.c: takes the connection away from the handler of x, wherever that runs: the client is answered
 * `status` from C, or, if a response has begun, its connection ends; after a complete one it goes on.
 * From then on the handler's calls do nothing. False: it has no connection any more. If one of those
 * calls is in progress they part when it ends. On any M with a P, while x belongs to its handler. */
bool conn_abandon(host_xfer *x, int status);
/* A deadline of the handler of x has passed: perhaps the one that ends it. By x's VM. */
void hold_overdue(host_xfer *x);

/* ---- servers (server.c) -------------------------------------------------------------------- */

struct host_server {
    int id, handler;
    host_vm *vm;          /* the one VM that answers; NULL: the one of the P */
    _Atomic bool vm_gone; /* atomic: it was dropped */
    int listen_fd;
    rt_pd **listen_pds;                             /* by P */
    char addr[HOST_ADDR_MAX], asked[HOST_ADDR_MAX]; /* as bound, and as it was said */
    _Atomic bool owns_path; /* atomic: the file of a unix socket goes with it */
    rt_lock lock;
    host_conn *conns;            /* lock */
    _Atomic int32_t n_conns;     /* atomic */
    _Atomic int32_t n_acceptors; /* atomic */
    _Atomic bool stopping;       /* atomic: answer what is in flight, then close */
};

/* A server that is bound, but accepts only from server_start on, which can not fail. NULL: *err says why. Any
 * thread of the runtime; they do not wait. */
host_server *server_open(const char *addr, int handler, host_vm *vm, int *err);
/* The same on a listening socket, which it takes over also when it fails. asked: how its address was said. */
host_server *server_adopt(int fd, const char *asked, bool owns_path, int handler, host_vm *vm,
                          int *err);
void server_start(host_server *s);
host_server *server_by_id(int id);
/* Accepts no more; what is in flight is answered, see server.c. Calling it twice is harmless. */
void server_stop(host_server *s);
/* The same when another process goes on with the socket. */
void server_hand_over(host_server *s);
/* Another process had the socket too, and has it no more: its acceptors look for what that was woken for. */
void server_look(host_server *s);
/* Whether there are such; stops them. Those that only vm answers. */
bool server_any_of(const host_vm *vm);
void server_stop_all_of(host_vm *vm);
void server_add_conn(host_server *s, host_conn *c);
void server_remove_conn(host_server *s, host_conn *c);
/* After every server was stopped: waits until their connections are gone: true; false at the
 * deadline. One native G at a time. */
bool server_wait_all(int64_t deadline_ns);

/* ---- signals (signals.c) --------------------------------------------------------------------- */

/* serve keeps the signals by which it is told to stop, reload and upgrade: scripts can't ask for them. Before any
 * script runs. */
void signals_reserve(void);
/* After that: waits for one of those that rt_signal_notify was asked for, and meanwhile tells scripts of theirs. One
 * native G at a time, in place of rt_signal_wait. */
int signals_wait(void);

/* ---- log (log.c) ---------------------------------------------------------------------------- */

enum { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
/* Any thread; never waits. */
void log_line(int level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Before the process ends: what was logged is written, in a second at most. Any thread, signal handlers too. */
void log_end(void);

#endif
