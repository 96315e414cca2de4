/* lunapark.core: the lua_CFunctions on which the Lua modules stand. A function that may wait, must see the coroutine it
 * runs in, or takes Lua values is here, or in a *_core.c of a room above. All other functions are FFI (vm_ffi.h).
 *
 * The Lua modules check arguments, and name them as their users do. */
#include "luacore.h"

#include "../base/options.h"
#include "bubble.h"
#include "dump.h"
#include "embed.h"
#include "job.h"
#include "json.h"
#include "load.h"
#include "vm.h"
#include "wait.h"

#include <errno.h>
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
    int n;
    const luaL_Reg *lists[8];
} added; /* written before any VM is made */

void core_add(const luaL_Reg *functions) {
    if (added.n == sizeof added.lists / sizeof *added.lists)
        rt_throw("core_add: %d lists", added.n);
    added.lists[added.n++] = functions;
}

const char *core_text(lua_State *L, int i) {
    size_t len;
    const char *text = luaL_checklstring(L, i, &len);
    if (strlen(text) != len) luaL_argerror(L, i, "contains a NUL byte");
    return text;
}

/* wait(reason, deadline_ns | nil) -> nil | "timeout" | "canceled" */
static int core_wait(lua_State *L) {
    rt_reason reason = (rt_reason)luaL_checkinteger(L, 1);
    int64_t deadline = (int64_t)luaL_optnumber(L, 2, 0);
    return luag_wait(L, reason, deadline);
}

/* wait_in(queue[, deadline_ns]), rest([deadline_ns]) -> host_queue_fire's value | "timeout" | "canceled" | nil: woken
 * otherwise, still in the queues, so rest again */
static int core_wait_in(lua_State *L) {
    host_queue *q = (host_queue *)lua_topointer(L, 1); /* NOLINT: cdata's payload */
    if (!q) luaL_error(L, "bad argument #1");
    return luag_rest(L, q, lua_gettop(L) > 1 ? (int64_t)lua_tonumber(L, 2) : 0);
}

static int core_rest(lua_State *L) {
    return luag_rest(L, NULL, (int64_t)lua_tonumber(L, 1));
}

/* barrier() -> nil, or why nothing can wait here */
static int core_barrier(lua_State *L) {
    const char *why = vm_barrier(vm_current());
    if (!why) return 0;
    lua_pushfstring(L, "cannot wait here: %s", why);
    return 1;
}

/* park() -> the values of ready, or `again`: host_park_end tells why */
static int core_park(lua_State *L) {
    return luag_park(L);
}

/* ready(g, ...) -> true: g is alive. g is a handle: its slot and serial stand in [1] and [2]. */
static int core_ready(lua_State *L) {
    host_vm *vm = vm_current();
    if (lua_gettop(L) == 0) lua_pushnil(L);
    bool is_g = lua_istable(L, 1) && lua_getmetatable(L, 1);
    if (!is_g || lua_topointer(L, -1) != vm->g_meta)
        return luaL_error(L, "ready: g must be a G, got %s", luaL_typename(L, 1));
    lua_rawgeti(L, 1, 1);
    lua_rawgeti(L, 1, 2);
    int slot = (int)lua_tointeger(L, -2);
    double serial = lua_tonumber(L, -1);
    lua_pop(L, 3);
    bool alive = slot >= 0 && slot < vm->slots.n && vm->slots.v[slot]->g &&
                 vm->slots.v[slot]->serial == serial;
    if (alive) luag_ready(L, vm->slots.v[slot]);
    lua_pushboolean(L, alive);
    return 1;
}

/* set_handles(metatable): the metatable of Gs' handles */
static int core_set_handles(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    vm_current()->g_meta = lua_topointer(L, 1);
    return 0;
}

void *core_pointer(lua_State *L, int i) {
    void **p = (void **)lua_topointer(L, i); /* NOLINT: cdata's payload */
    if (lua_type(L, i) != 10 /* cdata */ || !p || !*p) luaL_error(L, "bad argument #%d", i);
    return *p;
}

int core_mode(lua_State *L, int i) {
    return luaL_checkinteger(L, i) == 2 ? RT_W : RT_R;
}

/* wait_call(call[, deadline_ns]) -> as wait; see host_call_state */
static int core_wait_call(lua_State *L) {
    return luag_wait_call(L, core_pointer(L, 1), (int64_t)lua_tonumber(L, 2));
}

/* set_ctype(ctype, id): makes `ctype`, an object that no other code has, the ctype object of the type with this number
 * (ffi.typeinfo). LuaJIT has no other way from a function's type to those of its parameters. */
static int core_set_ctype(lua_State *L) {
    if (lua_type(L, 1) != 10 /* cdata */) luaL_error(L, "bad argument #1");
    *(int32_t *)lua_topointer(L, 1) =
        (int32_t)luaL_checkinteger(L, 2); /* NOLINT: cdata's payload */
    return 0;
}

/* wait_req(req, id, mode[, deadline_ns]) -> as wait_sock */
static int core_wait_req(lua_State *L) {
    return luag_wait_req(L, core_pointer(L, 1), luaL_checknumber(L, 2), core_mode(L, 3),
                         (int64_t)luaL_optnumber(L, 4, 0));
}

/* wait_job(job[, deadline_ns]) -> nil | "timeout" | "canceled"; starts the job. Call again until host_job_done. */
static int core_wait_job(lua_State *L) {
    return job_wait(L, core_pointer(L, 1), (int64_t)luaL_optnumber(L, 2, 0));
}

/* failed(word[, object]) -> word: a waiting function is about to answer `word`; with an object, which will answer so
 * again without a wait */
static int core_failed(lua_State *L) {
    const char *word = luaL_checkstring(L, 1);
    if (lua_gettop(L) > 1)
        spin_answer_for(L, lua_topointer(L, 2), word);
    else
        spin_answer(L);
    lua_settop(L, 1);
    return 1;
}

static int core_yield(lua_State *L) {
    return luag_yield(L);
}

/* look(): yields to the Gs, too, whose events have come by now: for work that takes long, and is followed by more of it */
static int core_look(lua_State *L) {
    return luag_look(L);
}

/* share(): lets other Gs run, between two parts of the load of an app */
static int core_share(lua_State *L) {
    (void)L;
    luag_share();
    return 0;
}

/* early(): lets other Gs run now and then, in a VM with --seed */
static int core_early(lua_State *L) {
    return luag_yield_early(L);
}

/* real(what): raises if the G has virtual time, in which there is no `what` */
static int core_real(lua_State *L) {
    if (luag_current()->seat) bubble_refuse(L, luaL_checkstring(L, 1));
    return 0;
}

/* set_body(fn): the function that Gs of host_go run */
static int core_set_body(lua_State *L) {
    host_vm *vm = vm_current();
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_settop(L, 1);
    if (vm->body_ref) luaL_unref(L, LUA_REGISTRYINDEX, vm->body_ref);
    vm->body_ref = 0;
    vm->body_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    return 0;
}

/* go(fn, ...) -> slot: fn(...) runs as a G of this VM. */
static int core_go(lua_State *L) {
    luaL_checktype(L, 1, LUA_TFUNCTION);
    host_luag *lg = luag_start(vm_current(), L, lua_gettop(L) - 1);
    lua_pushinteger(L, lg->slot);
    return 1;
}

static void clear_doors(lua_State *L, vm_handler *h) {
    h->routes = NULL;
    luaL_unref(L, LUA_REGISTRYINDEX, h->doors);
    h->doors = LUA_NOREF;
}

static void clear_handler(lua_State *L, vm_handler *h) {
    clear_doors(L, h);
    luaL_unref(L, LUA_REGISTRYINDEX, h->fn);
    h->fn = LUA_NOREF;
}

/* set_handler(n, fn): server n calls fn in this VM: for a request see push_call in http/handler.c, for a connection
 * serve/raw.c. new_handler(fn) -> n */
static int set_handler(lua_State *L, int n) {
    host_vm *vm = vm_current();
    n = vm_add_handler(vm, n);
    if (n < 0) return luaL_error(L, "not enough memory");
    clear_handler(L, &vm->handlers[n]);
    vm->handlers[n].fn = luaL_ref(L, LUA_REGISTRYINDEX);
    return n;
}

static int core_set_handler(lua_State *L) {
    int n = (int)luaL_checkinteger(L, 1);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    set_handler(L, n);
    return 0;
}

static int core_new_handler(lua_State *L) {
    host_vm *vm = vm_current();
    luaL_checktype(L, 1, LUA_TFUNCTION);
    for (int n; (n = luag_requests->ended(vm)) >= 0;)
        clear_handler(L, &vm->handlers[n]);
    lua_settop(L, 1);
    lua_pushinteger(L, set_handler(L, -1));
    return 1;
}

/* drop_handler(n): lets the function of handler n go; the number may be used again. For a handler that no server
 * has. */
static int core_drop_handler(lua_State *L) {
    host_vm *vm = vm_current();
    int n = (int)luaL_checkinteger(L, 1);
    if (n < 0 || n >= vm->n_handlers) return 0;
    clear_handler(L, &vm->handlers[n]);
    return 0;
}

/* set_doors(n, doors, routes, match): C finds the routes of requests of server n in `routes`, a host_routes *, writes what
 * paths say to `match`, a host_match, and calls doors[number of the route] in place of the handler, if it is there. The
 * table `doors` keeps both. set_doors(n): the handler finds them. */
static int core_set_doors(lua_State *L) {
    host_vm *vm = vm_current();
    int n = (int)luaL_checkinteger(L, 1);
    luaL_argcheck(L, n >= 0 && n < vm->n_handlers, 1, "there is no such handler");
    vm_handler *h = &vm->handlers[n];
    clear_doors(L, h);
    if (lua_isnoneornil(L, 2)) return 0;
    luaL_checktype(L, 2, LUA_TTABLE);
    const void *const *routes = lua_topointer(L, 3); /* cdata's payload, as that of match */
    void *match = (void *)lua_topointer(L, 4);       /* NOLINT */
    luaL_argcheck(L, routes && match, 3, "routes and a match are wanted");
    lua_settop(L, 2);
    h->doors = luaL_ref(L, LUA_REGISTRYINDEX);
    h->match = match;
    h->routes = *routes;
    return 0;
}

/* set_refuser(fn | nil): fn(slot, req, n, seconds) answers requests that C refuses, of server n, which began so long ago. nil: C
 * answers all of them. */
static int core_set_refuser(lua_State *L) {
    host_vm *vm = vm_current();
    if (!lua_isnoneornil(L, 1)) luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_settop(L, 1);
    int old = atomic_load_explicit(&vm->refuser, memory_order_relaxed);
    int ref = lua_isnil(L, 1) ? 0 : luaL_ref(L, LUA_REGISTRYINDEX);
    atomic_store_explicit(&vm->refuser, ref, memory_order_relaxed);
    if (old) luaL_unref(L, LUA_REGISTRYINDEX, old);
    return 0;
}

/* option(name, value) -> nil | what is wrong: the app sets an option. */
static int core_option(lua_State *L) {
    host_vm *vm = vm_current();
    /* An app that loads too late must not set options of another. */
    bool late = vm->generation && atomic_load(&vm->loads_until_ns) != INT64_MAX;
    if (late) return luaL_error(L, "options are told while the app loads");
    const char *err = option_set(core_text(L, 1), core_text(L, 2), FROM_APP);
    if (!err) return 0;
    lua_pushstring(L, err);
    return 1;
}

/* option_value(name) -> a string or a number; nil: the option has no value */
static int core_option_value(lua_State *L) {
    double number = 0;
    const char *text;
    if (!option_get(core_text(L, 1), &number, &text)) return 0;
    if (text)
        lua_pushstring(L, text);
    else
        lua_pushnumber(L, number);
    return 1;
}

/* apart(fn, ...) -> what fn returns. fn does not wait. Compiled code ends before such a call, and goes on behind it: the
 * JIT sees nothing of fn, so no loop of fn's spoils the code around the call. */
static int core_apart(lua_State *L) {
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    return lua_gettop(L);
}

/* dump() -> string: the Lua Gs of this VM, where they wait and since when, in lines. */
static int core_dump(lua_State *L) {
    char *text = dump_vm(vm_current(), L);
    lua_pushstring(L, text ? text : "");
    free(text);
    return 1;
}

/* modules() -> the names of all modules in the binary. */
static int core_modules(lua_State *L) {
    lua_createtable(L, (int)host_embedded_count, 0);
    for (size_t i = 0; i < host_embedded_count; i++) {
        lua_pushstring(L, host_embedded_modules[i].name);
        lua_rawseti(L, -2, (int)i + 1);
    }
    return 1;
}

int luaopen_lunapark_core(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"wait", core_wait},
        {"wait_in", core_wait_in},
        {"rest", core_rest},
        {"barrier", core_barrier},
        {"park", core_park},
        {"ready", core_ready},
        {"set_handles", core_set_handles},
        {"wait_call", core_wait_call},
        {"set_ctype", core_set_ctype},
        {"wait_req", core_wait_req},
        {"wait_job", core_wait_job},
        {"failed", core_failed},
        {"yield", core_yield},
        {"look", core_look},
        {"share", core_share},
        {"early", core_early},
        {"real", core_real},
        {"set_body", core_set_body},
        {"go", core_go},
        {"set_handler", core_set_handler},
        {"set_doors", core_set_doors},
        {"new_handler", core_new_handler},
        {"drop_handler", core_drop_handler},
        {"set_refuser", core_set_refuser},
        {"option", core_option},
        {"option_value", core_option_value},
        {"apart", core_apart},
        {"dump", core_dump},
        {"modules", core_modules},
        {"json_encode", json_encode},
        {"json_decode", json_decode},
        {NULL, NULL},
    };
    lua_newtable(L);
    luaL_register(L, NULL, functions);
    for (int i = 0; i < added.n; i++)
        luaL_register(L, NULL, added.lists[i]);
    lua_pushlightuserdata(L, &vm_current()->view);
    lua_setfield(L, -2, "view");
    lua_pushlightuserdata(L, &luag_again);
    lua_setfield(L, -2, "again");
    load_open(L);
    lua_newtable(L);
    for (int r = 0; r < RT_NREASONS; r++) {
        lua_pushinteger(L, r);
        lua_setfield(L, -2, rt_reason_name((rt_reason)r));
    }
    lua_setfield(L, -2, "reasons");
    return 1;
}
