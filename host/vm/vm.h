/* A VM: one lua_State, its cell, its Lua Gs. See vm.c.
 *
 * Fields without a rule of their own belong to the thread that runs the VM's cell, as do the Lua Gs of the VM. */
#ifndef VM_H
#define VM_H

#include "../../runtime/runtime.h"
#include "barrier.h"
#include "block.h"
#include "charge.h"
#include "luag.h"
#include "owned.h"
#include "runaway.h"
#include "spin.h"
#include "strbuf.h"
#include "vm_ffi.h"
#include "vmend.h"
#include "vmgc.h"
#include "vmmem.h"

#include <lua.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct host_vm host_vm;
typedef struct host_luag host_luag;
typedef struct generation generation; /* generation.h */

enum { HOST_SCRATCH = 16384 };

/* vm->pool: the keeper's (keeper.h) knowledge of a VM. Under the keeper's lock. */
typedef struct vm_pool {
    int64_t said_ns;      /* when the log said last that the VM is stuck; 0: never */
    list_link stuck_link; /* in the list of VMs that are stuck */
    int n_current;        /* number of Ps whose current VM this is */
    int away;             /* losses of the P by its M, less the returns; see pool.c */
} vm_pool;

/* vm->visits: threads that look at a VM that another thread runs. Under the lock of all visits. */
typedef struct vm_visits {
    _Atomic bool open; /* the VM may be visited; anybody reads */
    int n;
} vm_visits;

/* On vm->owned: entries of mechanisms that have one in each VM; each is its mechanism's. */
typedef struct vm_entries {
    host_owned pool, generation, singletons, calls;
} vm_entries;

/* vm->answers: requests that the VM has begun to answer, and handlers of these that have not ended. The thread that
 * runs the VM writes, anybody reads. handler.c's. */
typedef struct vm_answers {
    _Atomic int64_t begun, running;
} vm_answers;

/* What the requests, or connections, of a server call in a VM. Only the thread that runs the VM. */
typedef struct vm_handler {
    int fn;    /* registry reference: a function; LUA_NOREF: none */
    int doors; /* registry reference: a table of functions, each of which is called in place of fn for one route, by the
                * number of the route in `routes`; LUA_NOREF: none */
    const void *routes; /* host_routes, to find the route in (http/handler.c); NULL: fn finds it */
    void *match;        /* host_match: gets what the path says; doors read it */
} vm_handler;

struct host_vm {
    host_view view; /* what Lua sees */
    lua_State *L;   /* the main state: handlers, tables; never resumed */
    rt_cell *cell;
    vm_slots slots;
    vm_handler *handlers; /* by number */
    int n_handlers;
    const void *g_meta; /* metatable of the handles of Gs */
    int call_ref;       /* registry reference of the function that vmcall.c calls */
    int body_ref;       /* registry reference of what host_go's Gs run; 0: none */
    /* atomic, the thread that runs the VM writes: registry reference of the function that answers requests which C
     * refuses (http/handler.c); 0: no app of the VM asks for them */
    _Atomic int refuser;

    /* What runs. */
    _Atomic(host_luag *) running; /* atomic: the G whose Lua runs, or ran last */
    bool in_lua;                  /* a G's Lua runs */
    _Atomic bool stuck;           /* atomic: its M has lost its P */
    _Atomic int64_t stuck_ns;     /* atomic: since when */
    int64_t shared_ns;            /* when it last let others run (luag_share) */
    vm_barriers barriers;
    vm_spin spin;
    vm_runaway runaway;
    /* atomic: the VM loads its app, or runs a block of a spec, and may take so long; 0: neither */
    _Atomic int64_t loads_until_ns;
    vm_block block;

    /* What it has. */
    /* atomic: for which it was made; NULL: none (run, test, the admin listener's) */
    _Atomic(generation *) generation;
    struct source_set *sources; /* where it loads files from; NULL: the disk */
    vm_owned owned;             /* what ends with it: owned.c */
    vm_entries entries;
    _Atomic int n_calls; /* atomic: calls of its Gs on other threads (offload.c) */
    vm_answers answers;
    vm_json json;
    vm_mem mem;
    vm_gc gc;
    vm_end end;
    uint8_t scratch[HOST_SCRATCH];

    /* What follows outlives the VM that has ended. */
    _Atomic bool dropped; /* atomic: it was thrown away; its Gs end without touching its Lua */
    /* atomic: the generation for which it has loaded; NULL: it has not, or has ended */
    _Atomic(generation *) serves;
    vm_pool pool;
    vm_charges charges;
    vm_visits visits;
    host_vm *next_retired, *next_made; /* vm.c */
    _Atomic bool asked;                /* atomic: dump.c has asked it and waits for the answer */
};

/* The VM whose cell runs the caller. Throws without one. */
host_vm *vm_current(void);

/* The VM whose cell runs the caller, or the VM that the caller makes; NULL: none. For functions that LuaJIT calls on
 * any thread. */
host_vm *vm_here(void);

/* A VM with the embedded modules, whose Lua has not run anything yet. NULL: no memory. Native Gs. */
host_vm *vm_new(int id);

/* Calls the finalizers of all objects of vm's Lua, as Lua of vm->gc.lg; finalizers that run on for ever are ended.
 * Afterwards vm's Lua must not be touched: vm_throw_away follows. By the thread that runs vm, when no G of vm lives.
 * Does not wait. */
void vm_finalize(host_vm *vm);

/* Gives all memory of vm back, without finalizers and without a look at the heap. No G of vm lives, and nobody runs vm,
 * now or later. Any native G. Waits for vm's visitors and calls (offload.c). */
void vm_drop(host_vm *vm);

/* vm_visit keeps a VM that others run from ending: vm_drop waits for vm_leave. False: vm has ended, or is about to. In
 * between the visitor must not touch vm's Lua. Any thread. */
bool vm_visit(host_vm *vm);
void vm_leave(host_vm *vm);

/* All VM structs, one after another, ended VMs too. NULL begins and ends. Any thread. */
host_vm *vm_next(host_vm *vm);

/* Handlers with lower numbers have these from elsewhere: 0 is the generation's, the others its listeners'. */
enum { VM_NAMED_HANDLERS = 32 };

/* Makes room for handler number n; n < 0: for a free number. Returns the number; -1: no memory. By the thread that runs
 * vm. */
int vm_add_handler(host_vm *vm, int n);

/* Adds to a number of the view that a dump may read meanwhile. By the thread that runs the VM. */
#define VIEW_ADD(number, by) __atomic_store_n(&(number), (number) + (by), __ATOMIC_RELAXED)

/* May a G wait here? NULL: yes; else why not, for "cannot wait here: %s". By the thread that runs vm. */
static inline const char *vm_barrier(host_vm *vm) {
    return vm->barriers.n ? barrier_why(vm) : NULL;
}

/* Forgets all barriers: nothing of Lua stands on the C stack any more, or a stack without barriers goes on. */
static inline void barrier_reset(host_vm *vm) {
    vm->barriers.n = 0;
}

/* vm_enter_lua: before lua_resume, or when the stack of a G that waited goes on. vm_leave_lua: when lua_resume has
 * returned, or the stack is left. By the thread that runs vm. */
static inline void vm_enter_lua(host_vm *vm) {
    barrier_reset(vm);
    vm->in_lua = true;
}

static inline void vm_leave_lua(host_vm *vm) {
    vm->in_lua = false;
}

/* Lua has run in vm: has vm's garbage collected. By the thread that runs vm. Does not wait. */
static inline void vm_gc_ran(host_vm *vm) {
    if (__builtin_expect(!vm->gc.ran, 0)) gc_ran(vm);
}

#endif
