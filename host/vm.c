/* A VM: one lua_State, its cell, its coroutines, and where its modules come from.
 *
 * Modules of Lunapark are inside the binary as bytecode, and lua-cjson is linked. LUNAPARK_LUA=dir reads them from dir
 * instead, for working on them; what dir does not have still comes from the binary.
 *
 * Coroutines are kept: one that ended without an error is empty and runs the next G. A slot is the
 * coroutine's number in its VM and, in Lua's own tables, the key of the G that runs on it.
 *
 * LuaJIT maps memory and calls finalizers while a VM is made or ends, when no cell runs it: meanwhile
 * the thread's `made_here` names it. Nothing waits in between.
 *
 * Cells live until the process ends, so a VM that has ended is kept, empty, for the next one. Dumps walk
 * over all of these structs, and a VM that one of them visits does not end before it leaves.
 */
#include "block.h"
#include "bubble.h"
#include "embed.h"

#include <errno.h>
#include <luajit_config.h>
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

/* lunapark/x/init.lua for lunapark.x, and so on: whichever of the two files dir has. */
static int load_from_dir(lua_State *L, const char *dir, const char *name) {
    char path[1024], file[512];
    size_t n = strlen(name);
    if (n >= sizeof file) return 0;
    for (size_t i = 0; i <= n; i++)
        file[i] = name[i] == '.' ? '/' : name[i];
    static const char *const forms[] = {"%s/%s.lua", "%s/%s/init.lua"};
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, forms[i], dir, file);
        FILE *f = fopen(path, "re");
        if (!f) continue;
        fclose(f);
        if (luaL_loadfile(L, path) != 0) return lua_error(L);
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

int luaopen_cjson(lua_State *L); /* the library's own; it is linked */
int luaopen_cjson_safe(lua_State *L);

/* Ours come right after package.preload, before any file on package.path. */
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

static int open_all(lua_State *L) {
    luaL_openlibs(L);
    /* host/build/luajit.sh says why. */
    if (!LUAJIT_SIDE_TRACES && luaL_dostring(L, "require('jit.opt').start('maxside=0')") != 0)
        return lua_error(L);
    barrier_open(L);
    luag_open(L);
    add_searcher(L);
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
    bool open = vm->open;
    if (open) vm->n_visits++;
    rt_lock_release(&visits);
    return open;
}

void vm_leave(host_vm *vm) {
    rt_lock_acquire(&visits);
    vm->n_visits--;
    rt_lock_release(&visits);
}

static void open_to_visits(host_vm *vm) {
    rt_lock_acquire(&visits);
    vm->open = true;
    rt_lock_release(&visits);
}

/* Returns when the last visitor has left. */
static void end_visits(host_vm *vm) {
    for (;;) {
        rt_lock_acquire(&visits);
        vm->open = false;
        int n = vm->n_visits;
        rt_lock_release(&visits);
        if (n == 0) return;
        vm_gc_end(vm);
        rt_sleep(NS_PER_SEC / 1000);
    }
}

/* One without anything but its cell. */
static host_vm *take_empty(void) {
    rt_lock_acquire(&retired.lock);
    host_vm *vm = retired.first;
    if (vm) retired.first = vm->next_retired;
    rt_lock_release(&retired.lock);
    if (vm) return vm;
    vm = calloc(1, sizeof *vm);
    if (!vm) rt_throw("out of memory for a VM");
    vm->cell = rt_cell_new(vm);
    vm->next_made = atomic_load(&all_made);
    while (!atomic_compare_exchange_weak(&all_made, &vm->next_made, vm))
        ;
    return vm;
}

host_vm *vm_new(int id) {
    host_vm *vm = take_empty();
    vm->dropped = false;
    vm->view = (host_view){.vm_id = id, .scratch = vm->scratch, .scratch_size = HOST_SCRATCH};
    vm->gc.clean_ns = rt_nanotime();
    if (options.seed >= 0) luag_shuffle(vm, options.seed);
    set_made_here(vm);
    lua_State *L = luaL_newstate();
    if (!L) rt_throw("out of memory for VM %d", id);
    vm->L = L;
    lua_pushcfunction(L, open_all);
    if (lua_pcall(L, 0, 0, 0) != 0) rt_throw("VM %d: %s", id, lua_tostring(L, -1));
    set_made_here(NULL);
    open_to_visits(vm);
    return vm;
}

typedef struct allocator {
    lua_Alloc fn;
    void *state;
} allocator;

/* For lua_close: vmmem_drop is about to unmap all that it would free piece by piece, which is 0.4 ms instead of 0.65 for a VM of
 * 0.8 MB. */
static void *allocate_only(void *arg, void *p, size_t old_size, size_t size) {
    const allocator *a = arg;
    return size ? a->fn(a->state, p, old_size, size) : NULL;
}

void vm_free(host_vm *vm) {
    end_visits(vm);
    vm->closing = true;
    rt_entersyscall(); /* a large heap takes long; finalizers need no P, as ever */
    set_made_here(vm);
    allocator heap;
    heap.fn = lua_getallocf(vm->L, &heap.state);
    lua_setallocf(vm->L, allocate_only, &heap);
    lua_close(vm->L);
    set_made_here(NULL);
    rt_exitsyscall(); /* perhaps on another thread */
    vm->L = NULL;
    vm_drop(vm);
}

void vm_drop(host_vm *vm) {
    if (vm->view.n_live != 0) rt_throw("VM %d ends with %d Gs", vm->view.vm_id, vm->view.n_live);
    end_visits(vm);
    while (atomic_load(&vm->n_calls) > 0) /* they use its memory */
        rt_sleep(NS_PER_SEC / 100);
    vmmem_drop(vm);
    for (int i = 0; i < vm->n_slots; i++) {
        free(vm->slots[i]->cases);
        shared_wait_free(vm->slots[i]);
        free(vm->slots[i]);
    }
    free(vm->slots);
    for (int i = 0; i < vm->n_old_slots; i++)
        free(vm->old_slots[i]);
    free(vm->handlers);
    block_free(vm);
    free(vm->barriers);
    rt_cell *cell = vm->cell;
    memset(vm, 0, offsetof(host_vm, scratch));
    vm->cell = cell;
    vm->dropped = true; /* for who chose it when it still lived */
    rt_lock_acquire(&retired.lock);
    vm->next_retired = retired.first;
    retired.first = vm;
    rt_lock_release(&retired.lock);
}

int vm_add_handler(host_vm *vm, int n) {
    if (n < 0) n = vm->n_handlers;
    while (n >= vm->n_handlers) {
        int *grown = realloc(vm->handlers, (size_t)(vm->n_handlers + 1) * sizeof *grown);
        if (!grown) rt_throw("out of memory for a handler");
        vm->handlers = grown;
        vm->handlers[vm->n_handlers++] = LUA_NOREF;
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
        if (lua_cpcall(vm->L, new_thread, lg) == 0) {
            lua_setexdata2(lg->L, lg);
            return true;
        }
        lua_pop(vm->L, 1);
        lg->L = NULL;
        if (i == 0) vm_gc_full(vm);
    }
    return false;
}

/* A further slot. */
static host_luag *add_slot(host_vm *vm) {
    if (vm->n_slots == vm->cap_slots) {
        int cap = vm->cap_slots ? vm->cap_slots * 2 : 64;
        host_luag **slots = malloc((size_t)cap * sizeof(host_luag *));
        if (!slots) return NULL;
        if (vm->slots) {
            if (vm->n_old_slots == MAX_OLD_SLOTS) rt_throw("VM %d has too many Gs", vm->view.vm_id);
            memcpy(slots, vm->slots, (size_t)vm->n_slots * sizeof(host_luag *));
            vm->old_slots[vm->n_old_slots++] = vm->slots;
        }
        __atomic_store_n(&vm->slots, slots, __ATOMIC_RELEASE);
        vm->cap_slots = cap;
    }
    host_luag *lg = calloc(1, sizeof *lg);
    if (!lg) return NULL;
    lg->vm = vm;
    lg->slot = vm->n_slots;
    lg->fired = -1;
    lg->n_ready = lg->n_kept = -1;
    lg->kept = LUA_NOREF;
    vm->slots[vm->n_slots] = lg;
    __atomic_store_n(&vm->n_slots, vm->n_slots + 1, __ATOMIC_RELEASE);
    return lg;
}

host_luag *luag_reserve(host_vm *vm) {
    return add_slot(vm);
}

host_luag *luag_take(host_vm *vm) {
    if (vm->closing) return NULL;
    host_luag *lg = vm->free;
    if (lg)
        vm->free = lg->next_free;
    else if (!(lg = add_slot(vm)))
        return NULL;
    if (!lg->L && !make_thread(lg)) {
        lg->next_free = vm->free;
        vm->free = lg;
        return NULL;
    }
    VIEW_ADD(vm->view.n_live, 1);
    lg->serial = ++vm->serial;
    return lg;
}

/* Lets go of the coroutines that no G uses. */
static void drop_spare_threads(host_vm *vm) {
    for (host_luag *lg = vm->free; lg; lg = lg->next_free) {
        if (lg->L) luaL_unref(vm->L, LUA_REGISTRYINDEX, lg->ref);
        lg->L = NULL;
    }
}

void luag_give(host_luag *lg, int status) {
    host_vm *vm = lg->vm;
    if (status == 0) {
        lua_settop(lg->L, 0);
    } else {
        /* It stopped with C and Lua frames on it: nothing can run on it again. */
        luaL_unref(vm->L, LUA_REGISTRYINDEX, lg->ref);
        lg->L = NULL;
    }
    if (vm->mem.refused) {
        drop_spare_threads(vm);
        rt_enterforeign(); /* it may take as long as a handler */
        vm_gc_full(vm);
        if (!rt_exitforeign()) vm_back(vm, false);
    } else if (vm->gc.hurries) {
        vm_gc_tune(vm);
    }
    lg->g = NULL;
    lg->x = NULL;
    atomic_store_explicit(&lg->request_ns, 0, memory_order_relaxed);
    lg->done = NULL;
    lg->nargs = 0;
    atomic_store_explicit(&lg->limit_ns, 0, memory_order_relaxed);
    lg->canceled = 0;
    lg->is_main = false;
    queue_leave(lg);
    shared_wait_end(lg);
    if (lg->kept != LUA_NOREF) luaL_unref(vm->L, LUA_REGISTRYINDEX, lg->kept);
    lg->kept = LUA_NOREF;
    lg->n_kept = lg->n_ready = -1;
    lg->parking = lg->sheltered = lg->doomed = lg->steady = false;
    luag_leave_request(lg);
    if (lg->seat) bubble_leave(lg);
    lg->next_free = vm->free;
    vm->free = lg;
    VIEW_ADD(vm->view.n_live, -1);
}
