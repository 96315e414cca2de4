/* A VM: one lua_State, its cell, its coroutines, and the source of its modules.
 *
 * Modules of Lunapark are inside the binary as bytecode, and lua-cjson is linked. LUNAPARK_LUA=dir reads the modules
 * from dir instead, for working on them; modules that dir lacks come from the binary.
 *
 * Coroutines are kept: a coroutine that ended without an error, and that Lua has not seen (corolib.c), is empty and
 * runs the next G. A slot is the coroutine's number in its VM and, in Lua's own tables, the key of the G that runs on
 * it.
 *
 * The first slot has no coroutine. It is the current G whenever no other G's Lua runs, for finalizers, which the
 * collector calls in the midst of any allocation.
 *
 * LuaJIT maps memory while a VM is made, when no cell runs it: meanwhile the thread's `made_here` names the VM. Nothing
 * waits in between.
 *
 * Cells live until the process ends, so an ended VM is kept, empty, for the next one. Dumps walk over all of these
 * structs, and a VM that a dump visits does not end before the dump leaves.
 */
#include "vm.h"

#include "../base/base.h"
#include "../base/options.h"
#include "block.h"
#include "bubble.h"
#include "corolib.h"
#include "cstack.h"
#include "embed.h"
#include "luacore.h"
#include "runaway.h"
#include "strbuf.h"
#include "vmcall.h"

#include <errno.h>
#include <lauxlib.h>
#include <luajit_config.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local host_vm *made_here;

/* noinline: a G may wake on another thread. */
__attribute__((noinline)) static void set_made_here(host_vm *vm) {
    made_here = vm;
}

__attribute__((noinline)) host_vm *vm_here(void) {
    if (made_here) return made_here;
    rt_cell *c = rt_current_cell();
    return c ? rt_cell_data(c) : NULL;
}

host_vm *vm_current(void) {
    host_vm *vm = vm_here();
    if (!vm) rt_throw("no VM runs here");
    return vm;
}

/* ---- modules ---- */

static int compare_name(const void *name, const void *module) {
    return strcmp(name, ((const host_embedded *)module)->name);
}

typedef struct module_file {
    FILE *f;
    char buf[4096];
} module_file;

static const char *read_some(lua_State *L, void *arg, size_t *n) {
    (void)L;
    module_file *m = arg;
    *n = fread(m->buf, 1, sizeof m->buf, m->f);
    return m->buf;
}

/* Loads lunapark/x.lua or lunapark/x/init.lua for lunapark.x, the file that dir has. Messages name it as the binary's
 * own module, by which our frames are told from users'. */
static int load_from_dir(lua_State *L, const char *dir, const char *name) {
    char path[1024], file[512], chunk[640];
    size_t n = strlen(name);
    if (n >= sizeof file) return 0;
    for (size_t i = 0; i <= n; i++)
        file[i] = name[i] == '.' ? '/' : name[i];
    static const char *const forms[] = {"@%s.lua", "@%s/init.lua"};
    for (int i = 0; i < 2; i++) {
        snprintf(chunk, sizeof chunk, forms[i], file);
        snprintf(path, sizeof path, "%s/%s", dir, chunk + 1);
        module_file m;
        m.f = fopen(path, "re");
        if (!m.f) continue;
        int rc = lua_load(L, read_some, &m, chunk);
        fclose(m.f);
        if (rc != 0) return lua_error(L);
        return 1;
    }
    return 0;
}

static int searcher(lua_State *L) {
    const char *name = luaL_checkstring(L, 1);
    const char *dir = getenv("LUNAPARK_LUA");
    if (dir && load_from_dir(L, dir, name)) return 1;
    const host_embedded *m = bsearch(name, host_embedded_modules, host_embedded_count,
                                     sizeof *host_embedded_modules, compare_name);
    if (!m) {
        lua_pushfstring(L, "\n\tno module '%s' in lunapark", name);
        return 1;
    }
    if (luaL_loadbuffer(L, m->data, m->size, m->path) != 0) return lua_error(L);
    return 1;
}

int luaopen_cjson(lua_State *L); /* the library's own, which is linked */
int luaopen_cjson_safe(lua_State *L);

/* Adds the searcher of our modules, right after package.preload, before any file on package.path. */
static void add_searcher(lua_State *L) {
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "loaders");
    for (int i = (int)lua_objlen(L, -1); i >= 2; i--) {
        lua_rawgeti(L, -1, i);
        lua_rawseti(L, -2, i + 1);
    }
    lua_pushcfunction(L, searcher);
    lua_rawseti(L, -2, 2);
    lua_pop(L, 1);
    lua_getfield(L, -1, "preload");
    static const luaL_Reg in_c[] = {{"lunapark.core", luaopen_lunapark_core},
                                    {"cjson", luaopen_cjson},
                                    {"cjson.safe", luaopen_cjson_safe},
                                    {NULL, NULL}};
    for (const luaL_Reg *m = in_c; m->name; m++) {
        lua_pushcfunction(L, m->func);
        lua_setfield(L, -2, m->name);
    }
    lua_pop(L, 2);
}

/* ---- making one ---- */

/* The first references go to the array of the registry, where a request finds its handler quickly: a table that grows by
 * single keys keeps them in its hash part. */
static void make_references(lua_State *L) {
    enum { REFERENCES = 16 };
    int refs[REFERENCES];
    for (int i = 0; i < REFERENCES; i++) {
        lua_pushboolean(L, 1);
        refs[i] = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    for (int i = REFERENCES; i-- > 0;)
        luaL_unref(L, LUA_REGISTRYINDEX, refs[i]);
}

static int open_all(lua_State *L) {
    vm_gc_begin(L);
    make_references(L);
    luaL_openlibs(L);
    /* A request is one record (dispatch.lua), which has more constants than LuaJIT's 500 with some middleware. */
    if (luaL_dostring(L, "require('jit.opt').start('maxirconst=2000')") != 0) return lua_error(L);
    /* host/build/luajit.sh says why. */
    if (!LUAJIT_SIDE_TRACES && luaL_dostring(L, "require('jit.opt').start('maxside=0')") != 0)
        return lua_error(L);
    barrier_open(L);
    luag_open(L);
    corolib_open(L);
    add_searcher(L);
    vm_call_open(vm_here(), L);
    if (rt_debug()->gctrace) vm_gc_trace(L);
    return 0;
}

static struct {
    rt_lock lock;
    host_vm *first; /* lock */
} retired;

static _Atomic(host_vm *) all_made; /* atomic: push only */
static rt_lock visits;

host_vm *vm_next(host_vm *vm) {
    return vm ? vm->next_made : atomic_load(&all_made);
}

bool vm_visit(host_vm *vm) {
    rt_lock_acquire(&visits);
    bool open = vm->visits.open;
    if (open) vm->visits.n++;
    rt_lock_release(&visits);
    return open;
}

void vm_leave(host_vm *vm) {
    rt_lock_acquire(&visits);
    vm->visits.n--;
    rt_lock_release(&visits);
}

static void open_to_visits(host_vm *vm) {
    rt_lock_acquire(&visits);
    vm->visits.open = true;
    rt_lock_release(&visits);
}

/* Returns when the last visitor has left. */
static void end_visits(host_vm *vm) {
    for (;;) {
        rt_lock_acquire(&visits);
        vm->visits.open = false;
        int n = vm->visits.n;
        rt_lock_release(&visits);
        if (n == 0) return;
        vm_gc_end(vm);
        rt_sleep(NS_PER_SEC / 1000);
    }
}

/* An ended VM, or a new one, that has only its cell. */
static host_vm *take_empty(void) {
    rt_lock_acquire(&retired.lock);
    host_vm *vm = retired.first;
    if (vm) retired.first = vm->next_retired;
    rt_lock_release(&retired.lock);
    if (vm) return vm;
    vm = calloc(1, sizeof *vm);
    if (vm) vm->cell = rt_cell_new(vm);
    if (!vm || !vm->cell) {
        free(vm);
        return NULL;
    }
    vm->next_made = atomic_load(&all_made);
    while (!atomic_compare_exchange_weak(&all_made, &vm->next_made, vm))
        ;
    return vm;
}

static bool take_first_slot(host_vm *vm) {
    vm->gc.lg = luag_reserve(vm);
    if (vm->gc.lg) vm->gc.lg->serial = ++vm->slots.serial;
    return vm->gc.lg;
}

host_vm *vm_new(int id) {
    host_vm *vm = take_empty();
    if (!vm) return NULL;
    vm->dropped = false;
    charge_new_life(vm);
    vm->view = (host_view){.vm_id = id, .scratch = vm->scratch, .scratch_size = HOST_SCRATCH};
    vm->gc.clean_ns = rt_nanotime();
    if (options.seed >= 0) luag_shuffle(vm, options.seed);
    set_made_here(vm);
    bool open = take_first_slot(vm) && barrier_room(vm) && (vm->L = luaL_newstate()) &&
                lua_cpcall(vm->L, open_all, NULL) == 0;
    set_made_here(NULL);
    if (open) {
        cstack_open(vm);
        open_to_visits(vm);
        return vm;
    }
    vm_drop(vm);
    return NULL;
}

typedef struct allocator {
    lua_Alloc fn;
    void *state;
} allocator;

/* The allocator for lua_close: vmmem_drop is about to unmap the memory that lua_close would free piece by piece, which
 * takes 0.4 ms instead of 0.65 for a VM of 0.8 MB. So the memory can be read until then. */
static void *allocate_only(void *arg, void *p, size_t old_size, size_t size) {
    const allocator *a = arg;
    return size ? a->fn(a->state, p, old_size, size) : NULL;
}

void vm_finalize(host_vm *vm) {
    vm->end.closing = true;
    vm->gc.ran = true; /* nothing is collected after this */
    luag_enter(vm->gc.lg);
    allocator heap;
    heap.fn = lua_getallocf(vm->L, &heap.state);
    lua_setallocf(vm->L, allocate_only, &heap);
    lua_close(vm->L);
    luag_leave(vm->gc.lg);
    vm->L = NULL;
}

void vm_drop(host_vm *vm) {
    if (vm->view.n_live != 0) rt_throw("VM %d ends with %d Gs", vm->view.vm_id, vm->view.n_live);
    end_visits(vm);
    rt_cell_drop(vm->cell, false);
    owned_end(vm, OWNED_USERS);
    vmmem_drop(vm);
    for (int i = 0; i < vm->slots.n; i++) {
        free(vm->slots.v[i]->queues.cases);
        free(vm->slots.v[i]);
    }
    free(vm->slots.v);
    for (int i = 0; i < vm->slots.n_old; i++)
        free(vm->slots.old[i]);
    free(vm->handlers);
    free(vm->barriers.v);
    owned_end(vm, OWNED_REMAINS);
    rt_cell *cell = vm->cell;
    memset(vm, 0, offsetof(host_vm, scratch));
    vm->cell = cell;
    vm->dropped = true; /* for code that chose the VM while it still lived */
    rt_lock_acquire(&retired.lock);
    vm->next_retired = retired.first;
    retired.first = vm;
    rt_lock_release(&retired.lock);
}

int vm_add_handler(host_vm *vm, int n) {
    if (n < 0)
        for (n = VM_NAMED_HANDLERS; n < vm->n_handlers && vm->handlers[n].fn != LUA_NOREF;)
            n++;
    while (n >= vm->n_handlers) {
        vm_handler *grown = realloc(vm->handlers, (size_t)(vm->n_handlers + 1) * sizeof *grown);
        if (!grown) return -1;
        vm->handlers = grown;
        vm->handlers[vm->n_handlers++] = (vm_handler){.fn = LUA_NOREF, .doors = LUA_NOREF};
    }
    return n;
}

/* ---- coroutines ---- */

static int new_thread(lua_State *L) {
    host_luag *lg = lua_touserdata(L, 1);
    lg->L = lua_newthread(L);
    lg->ref = luaL_ref(L, LUA_REGISTRYINDEX);
    return 0;
}

/* Gives lg a coroutine, its L. False: there is no memory for one. */
static bool make_thread(host_luag *lg) {
    host_vm *vm = lg->vm;
    for (int i = 0; i < 2; i++) {
        if (luag_cpcall(vm, new_thread, lg) == 0) {
            lua_setexdata2(lg->L, lg);
            return true;
        }
        lua_pop(vm->L, 1);
        lg->L = NULL;
        if (i == 0) vm_gc_full(vm);
    }
    return false;
}

/* Adds a slot. */
static host_luag *add_slot(host_vm *vm) {
    if (vm->slots.n == vm->slots.cap) {
        int cap = vm->slots.cap ? vm->slots.cap * 2 : 64;
        host_luag **slots = malloc((size_t)cap * sizeof(host_luag *));
        if (!slots) return NULL;
        if (vm->slots.v) {
            if (vm->slots.n_old == MAX_OLD_SLOTS) {
                free(slots);
                return NULL;
            }
            memcpy(slots, vm->slots.v, (size_t)vm->slots.n * sizeof(host_luag *));
            vm->slots.old[vm->slots.n_old++] = vm->slots.v;
        }
        __atomic_store_n(&vm->slots.v, slots, __ATOMIC_RELEASE);
        vm->slots.cap = cap;
    }
    host_luag *lg = calloc(1, sizeof *lg);
    if (!lg) return NULL;
    lg->vm = vm;
    lg->slot = vm->slots.n;
    lg->fired = -1;
    lg->park.n_ready = lg->park.n_kept = -1;
    lg->park.kept = LUA_NOREF;
    vm->slots.v[vm->slots.n] = lg;
    __atomic_store_n(&vm->slots.n, vm->slots.n + 1, __ATOMIC_RELEASE);
    return lg;
}

host_luag *luag_reserve(host_vm *vm) {
    return add_slot(vm);
}

static void free_slot(host_luag *lg) {
    lg->next_free = lg->vm->slots.free;
    lg->vm->slots.free = lg;
}

host_luag *luag_take(host_vm *vm) {
    if (vm->end.closing) return NULL;
    host_luag *lg = vm->slots.free;
    if (lg)
        vm->slots.free = lg->next_free;
    else if (!(lg = add_slot(vm)))
        return NULL;
    if (!lg->L && !make_thread(lg)) {
        free_slot(lg);
        return NULL;
    }
    VIEW_ADD(vm->view.n_live, 1);
    lg->serial = ++vm->slots.serial;
    return lg;
}

void luag_untake(host_luag *lg) {
    if (lg->seat) bubble_leave(lg);
    free_slot(lg);
    VIEW_ADD(lg->vm->view.n_live, -1);
}

/* Lets go of the coroutines that no G uses. */
static void drop_spare_threads(host_vm *vm) {
    for (host_luag *lg = vm->slots.free; lg; lg = lg->next_free) {
        if (lg->L) luaL_unref(vm->L, LUA_REGISTRYINDEX, lg->ref);
        lg->L = NULL;
    }
}

void luag_clear(host_luag *lg, int status) {
    host_vm *vm = lg->vm;
    if (lg->L && status == 0) lua_settop(lg->L, 0);
    if (lg->L && (status != 0 || lg->seen)) {
        /* The coroutine stopped with C and Lua frames on it, so nothing can run on it again. Or Lua has left data of
         * this G with it that the next G must not find. */
        luaL_unref(vm->L, LUA_REGISTRYINDEX, lg->ref);
        lg->L = NULL;
    }
    if (vm->mem.refused) {
        drop_spare_threads(vm);
        vm_gc_full(vm);
    } else if (vm->gc.hurries) {
        vm_gc_tune(vm);
    }
}

void luag_give(host_luag *lg, int status) {
    luag_undoom(lg);
    luag_clear(lg, status);
    luag_give_cleared(lg);
}

void luag_give_cleared(host_luag *lg) {
    host_vm *vm = lg->vm;
    lg->g = NULL;
    lg->x = NULL;
    atomic_store_explicit(&lg->request_ns, 0, memory_order_relaxed);
    lg->done = NULL;
    lg->nargs = 0;
    lg->place = lg->route = 0;
    atomic_store_explicit(&lg->limit_ns, 0, memory_order_relaxed);
    lg->canceled = lg->n_failed = 0;
    lg->is_main = false;
    queue_leave(lg);
    if (lg->outer) lg->outer->ops->end(lg);
    if (lg->park.kept != LUA_NOREF) luaL_unref(vm->L, LUA_REGISTRYINDEX, lg->park.kept);
    lg->park.kept = LUA_NOREF;
    lg->park.n_kept = lg->park.n_ready = -1;
    lg->parking = HOST_PARK_WOKEN;
    lg->sheltered = lg->steady = lg->seen = false;
    luag_leave_request(lg);
    luag_untake(lg);
}
