/* How a module is loaded: the part of `require` for a module that is not loaded yet. The rest is
 * lua/lunapark/std/require.lua.
 *
 * load_module does what LuaJIT's require does, with the same messages. When the load has ended, by a value or by an
 * error, it tells the Gs that wait for the module. An error is not caught, so that a message handler above sees the
 * whole stack. So a cleanup of this C frame notes the end, which the unwinder runs when an error passes (this file is
 * compiled with -fexceptions). The cleanup may neither raise nor take memory: it puts the value where a value stands
 * already.
 */
#include "load.h"

#include "luag.h"

#include <lauxlib.h>

typedef struct guard {
    lua_State *L;
    host_load *load;
    bool ok;
} guard;

/* package.loaded's value for a module while it is being loaded, and for good if the load failed. */
static const char mark;

/* Notes the end of a load. The value, or the error, is on top. */
static void end_load(guard *g) {
    host_load *load = g->load;
    lua_rawseti(g->L, LUA_REGISTRYINDEX, load->key);
    lua_rawgeti(g->L, LUA_REGISTRYINDEX, load->key);
    load->state = g->ok ? HOST_LOADED : HOST_LOAD_FAILED;
    while (host_queue_fire(&load->queue, 1) >= 0)
        ;
}

enum { LOADED = lua_upvalueindex(1), PACKAGE = lua_upvalueindex(2) };

/* Pushes the function that loads the module. */
static void find_loader(lua_State *L, const char *name) {
    lua_getfield(L, PACKAGE, "loaders");
    if (!lua_istable(L, -1)) luaL_error(L, "'package.loaders' must be a table");
    int loaders = lua_gettop(L);
    lua_pushliteral(L, ""); /* the loaders' messages */
    for (int i = 1;; i++) {
        lua_rawgeti(L, loaders, i);
        if (lua_isnil(L, -1))
            luaL_error(L, "module '%s' not found:%s", name, lua_tostring(L, loaders + 1));
        lua_pushstring(L, name);
        lua_call(L, 1, 1);
        if (lua_isfunction(L, -1)) return;
        if (lua_isstring(L, -1))
            lua_concat(L, 2);
        else
            lua_pop(L, 1);
    }
}

/* load(name, load) -> value. load: a host_load for whose key the registry has a value other than nil. Call it in place
 * of require (by a tail call): messages begin with the place of that call. */
static int load_module(lua_State *L) {
    const char *name = luaL_checkstring(L, 1);
    host_load *load = (host_load *)lua_topointer(L, 2); /* NOLINT: cdata's payload */
    if (!load) luaL_error(L, "bad argument #2");
    lua_settop(L, 2);
    luag_share();
    guard g __attribute__((cleanup(end_load))) = {L, load, false};
    find_loader(L, name);
    lua_pushlightuserdata(L, (void *)&mark);
    lua_setfield(L, LOADED, name);
    lua_pushstring(L, name);
    lua_call(L, 1, 1);
    if (lua_isnil(L, -1))
        lua_pop(L, 1);
    else
        lua_setfield(L, LOADED, name);
    lua_getfield(L, LOADED, name);
    if (lua_touserdata(L, -1) == &mark) { /* the module has set no value */
        lua_pushboolean(L, true);
        lua_pushvalue(L, -1);
        lua_setfield(L, LOADED, name);
    }
    g.ok = true;
    return 1;
}

void load_open(lua_State *L) {
    lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED");
    lua_getglobal(L, "package");
    lua_pushcclosure(L, load_module, 2);
    lua_setfield(L, -2, "load");
    lua_pushlightuserdata(L, (void *)&mark);
    lua_setfield(L, -2, "load_mark");
}
