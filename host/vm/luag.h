/* Lua Gs: how a coroutine becomes a G, waits, and goes on. See luag.c. A Lua G belongs to its VM: the thread that runs
 * the VM, unless a function says otherwise. */
#ifndef LUAG_H
#define LUAG_H

#include "../../runtime/runtime.h"
#include "queue.h"
#include "waitfd.h"

#include <lua.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct host_vm host_vm;
typedef struct host_luag host_luag;
typedef struct host_req host_req;           /* http_ffi.h */
typedef struct host_exchange host_exchange; /* conn.h */
typedef struct bubble_seat bubble_seat;     /* bubble.h */

/* Why a Lua G is canceled, as host_canceled says it. */
enum {
    HOST_CANCELED = 1,        /* by its handle */
    HOST_CANCELED_SCOPE = 2,  /* by its scope */
    HOST_CANCELED_GONE = 4,   /* its client is gone */
    HOST_CANCELED_BUBBLE = 8, /* its bubble ends */
};

/* The status of a G whose VM was dropped; the other statuses are lua_resume's. */
enum { HOST_LOST = -1 };

enum { MAX_OLD_SLOTS = 24 };

/* vm->slots: the coroutines of a VM, by slot. vm.c's. A dump may read `v` and `n` of a stuck VM, so an array that has
 * become too small stays. */
typedef struct vm_slots {
    host_luag **v;
    int n, cap;
    host_luag **old[MAX_OLD_SLOTS];
    int n_old;
    host_luag *free; /* a list: no G uses them */
    double serial;   /* of the last G */
} vm_slots;

/* Operations of the room above, which makes handlers, on Lua Gs that answer requests (x is not NULL). By the thread
 * that runs the VM, unless an operation says otherwise. Do not wait. */
typedef struct luag_request_ops {
    /* Writes what is asked for, "GET /path". Any thread, while the handler does not end. */
    void (*name)(host_exchange *x, char *buf, size_t size);
    /* Writes what a handler that does not run was asked for. Returns the length. */
    int (*print_name)(const host_exchange *x, char *buf, size_t size);
    /* The number of the route's name (host_label), 0: none. Any thread, while the handler does not end. */
    int (*route)(const host_exchange *x);
    /* A deadline of the handler has passed. */
    void (*overdue)(host_exchange *x);
    /* The handler is about to wait. */
    void (*waits)(host_exchange *x);
    /* The pollDesc of the client, and the queue of the Gs that wait for the client; NULL: the request is over. Until
     * pd_give nothing may raise. */
    rt_pd *(*pd_take)(host_req *r, double id, host_waitq **q);
    void (*pd_give)(host_req *r);
    /* True: requests may come that only this VM answers. */
    bool (*awaited)(const host_vm *vm);
    /* Forgets one of vm's servers that have ended. Returns the number of the server's handler; -1: there is none. */
    int (*ended)(host_vm *vm);
} luag_request_ops;

/* Set before any VM is made. */
extern const luag_request_ops *luag_requests;

/* lg->park: values that luag_ready gave. wait.c's. */
typedef struct luag_parked {
    int16_t n_ready; /* values on the stack of the G that parks, 8,000 at most; -1: not readied */
    int16_t n_kept;  /* values kept for its next park; -1: none */
    int kept;        /* registry reference of a table of the kept values, or LUA_NOREF */
} luag_parked;

enum { PARKING = 255 };

/* A coroutine and, while one runs on it, its G. */
struct host_luag {
    rt_g *g;      /* NULL while free */
    lua_State *L; /* anchored in the VM's registry for good, or until it raised */
    /* The coroutine whose wait left the loop's stack: L, or one of the user's; NULL: none. */
    lua_State *held;
    int ref, slot;
    host_vm *vm;
    union {
        host_luag *next_free; /* no G uses it */
        host_luag *next_wait; /* in waitq->queue */
    };
    host_exchange *x; /* the request whose handler runs on it; NULL: none */
    int16_t nargs;    /* on L's stack for the next resume; a Lua call has 8,000 at most */
    /* The wait it is in, set by the lua_CFunction that yields. */
    enum __attribute__((packed)) {
        WANT_NOTHING,
        WANT_TURN, /* behind the Gs that are ready */
        WANT_LOOK, /* behind those, too, whose events have come by now */
        WANT_TICKET,
        WANT_FD,
        WANT_QUEUE,
    } want;
    /* host_label: where the G was started; the route of the request in which it was started. The route of a handler:
     * x. */
    uint16_t place, route;

    /* Its wait (wait.c, waitfd.c). */
    rt_pd *pd; /* WANT_FD, WANT_QUEUE */
    host_waitq *waitq;
    uint8_t mode;
    bool steady;                /* --seed leaves it alone */
    bool answers;               /* it waits to write to its client */
    bool is_main;               /* it was started from outside of the VM */
    bool sheltered;             /* see host_shelter */
    bool seen;                  /* its Lua may hold L, or has changed its globals: corolib.c */
    uint8_t canceled;           /* HOST_CANCELED...: why its waits answer "canceled" */
    uint8_t n_failed;           /* waits that have failed in a row (spin.c) */
    int64_t deadline_ns;        /* of the wait */
    _Atomic int64_t limit_ns;   /* its VM writes, anybody reads: the G's own deadline; 0: none */
    _Atomic int64_t request_ns; /* its VM writes, anybody reads: the handler's deadline; 0: none */
    double serial;
    uint64_t ticket; /* WANT_TICKET, WANT_QUEUE */
    luag_queues queues;
    outer_wait *outer;
    bubble_seat *seat; /* its time is virtual (bubble.c); NULL: it is real */
    int fired;         /* what a wait in queues answers; -1: nothing yet */
    bool resting;      /* the wait is one in queues */
    bool doomed;       /* its Lua raises an error wherever it is, until it has ended */
    bool of_request;   /* it answers a request, or was started by a G that does */
    uint8_t
        parking; /* PARKING: the wait is lunapark.park; else how the last one ended: HOST_PARK_... */
    luag_parked park;

    /* Runs when the coroutine has ended with `status` (0 or lua_resume's error, message on top). For a G that was
     * started from outside, also with HOST_LOST when its VM was dropped. */
    void (*done)(host_luag *lg, int status);
    void *done_arg;
};

/* ---- slots and coroutines ---- */

/* For a new VM. May raise. */
void luag_open(lua_State *L);

/* A coroutine for a new G, with nothing on its L. NULL: the VM has no memory for it, after a full collection too, or
 * closes. */
host_luag *luag_take(host_vm *vm);

/* Gives back a coroutine that luag_take gave and that has not become a G. Lua may run. */
void luag_untake(host_luag *lg);

/* A slot for an object that is no G. NULL: no memory. */
host_luag *luag_reserve(host_vm *vm);

/* Lets go of what the Lua of an ended G has left; status: as for done. Finalizers may run and the VM may be dropped:
 * then luag_clear does not return, and lg's step runs again. So luag_clear comes before whatever that step must not do
 * twice. */
void luag_clear(host_luag *lg, int status);

/* Gives back lg, for which luag_undoom and luag_clear were called; luag_give calls these two first. */
void luag_give_cleared(host_luag *lg);
void luag_give(host_luag *lg, int status);

/* Gives back the G of a dropped VM, without a look at its Lua. */
void luag_forget(host_luag *lg);

/* ---- running ---- */

/* Starts a G that calls fn with nargs arguments, both on from's stack; pops them. Raises without memory. */
host_luag *luag_start(host_vm *vm, lua_State *from, int nargs);

/* Starts a G in vm from outside. In vm, boot(vm, L, arg) pushes the function and its arguments onto L, and returns the
 * number of the arguments, or -1 without memory. done(lg, status) follows the end of the G; lost(done_arg) instead, if
 * the G could not begin: vm was dropped, or has no memory for it. False: no memory, and none of the three is called.
 * Any native G. Does not wait. */
typedef int (*luag_boot)(host_vm *vm, lua_State *L, void *arg);
bool luag_spawn(host_vm *vm, luag_boot boot, void *arg, void (*done)(host_luag *, int),
                void (*lost)(void *), void *done_arg);

/* Runs lg until it waits or ends. RT_EXIT: it has ended, done was called. */
rt_step luag_resume(host_luag *lg);

/* The step of a Lua G that runs no handler. */
rt_step luag_step(rt_g *g);

/* The Lua G that runs. Throws without one. */
host_luag *luag_current(void);

/* Calls lua_cpcall on the main state. Between two Gs. The M may lose its P meanwhile, and finalizers that go on for
 * ever are ended: then luag_cpcall does not return, and the calling step begins anew, in a VM that was dropped. */
int luag_cpcall(host_vm *vm, lua_CFunction fn, void *arg);

/* Around Lua of lg's that runs without a coroutine of its own. */
void luag_enter(host_luag *lg);
void luag_leave(host_luag *lg);

/* In Lua of a VM that loads its app: lets Gs that wait for the P run, if the VM has run for a while. Nothing else runs
 * in the VM meanwhile. */
void luag_share(void);

/* The Gs of vm run in a random order from now on; the same seed (0 or more) repeats the order. The maker of vm too. */
void luag_shuffle(host_vm *vm, int64_t seed);

/* ---- what is known of a Lua G ---- */

/* The nearer of two deadlines; 0: none. */
static inline int64_t luag_nearer(int64_t a, int64_t b) {
    return a == 0 || (b != 0 && b < a) ? b : a;
}

/* The nearer deadline of lg's own and its request's; 0: none. Also while its VM can not go on (rt_cell_inspect). */
int64_t luag_limit(const host_luag *lg);

/* Writes what lg runs, in words. Also while its VM can not go on. */
void luag_name(const host_luag *lg, char *buf, size_t size);

/* Writes where lg is in the script, for the end of a line of the log: " (GET /users/:id, app.lua:7)", or "". Also while
 * its VM can not go on. */
enum { LUAG_ORIGIN = 520 };
void luag_origin(const host_luag *lg, char *buf, size_t size);

/* Finds the script's line that L runs, not a line of our modules: *ar, its short_src and currentline. False: none. In
 * L's VM. Raises nothing. */
bool luag_script_line(lua_State *L, lua_Debug *ar);

/* The label of the route of the request that lg answers or was started in; 0: none. Also in a signal handler on the
 * thread that runs lg's Lua. */
int luag_route(const host_luag *lg);

/* luag_join_request: lg answers a request, or was started by a G that does. luag_leave_request: no longer. */
void luag_join_request(host_luag *lg);
void luag_leave_request(host_luag *lg);

/* True: the client of the request that lg answers has hung up. */
bool luag_client_gone(host_luag *lg);

/* ---- waking and ending ---- */

/* Ends lg's wait for a ticket. False: lg is in no such wait, or the wait has ended. */
bool luag_wake(host_luag *lg);

/* Ends lg's wait, or the next one, with "canceled"; all later waits answer "canceled". why: HOST_CANCELED... */
void luag_cancel(host_luag *lg, int why);

/* The host stops ending lg's Lua. If lg was doomed and its VM serves, the VM is replaced. Out of lg's Lua. */
void luag_undoom(host_luag *lg);

#endif
