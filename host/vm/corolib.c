/* The own coroutine of a G, as Lua's library of coroutines sees it.
 *
 * A G's Lua runs on a coroutine that belongs to the host: only the host resumes it, and when the G has ended, the next
 * G runs on it. Four functions of the standard library would break this, and are replaced:
 *
 *   - coroutine.yield in the own coroutine has no caller to yield to. The yield would come out in luag_resume, and the
 *     G's frames would stand there for good: no pcall and no cleanup would run. So it raises at the call. In coroutines
 *     of the user's it is lua_yield.
 *   - coroutine.isyieldable is false in the own coroutine, for libraries that ask before they yield.
 *   - coroutine.running gives the own coroutine away. Data that a script attaches to it (a weak table's entry, say)
 *     must not be found by the next G, which may answer another client. So this coroutine counts as seen, and is not
 *     used again.
 *   - setfenv(0, t) changes the globals of all code that is loaded in this coroutine from then on: the coroutine counts
 *     as seen, too.
 *
 * debug.getregistry reaches all coroutines of the VM: a script that changes these changes the host itself.
 *
 * A C library that yields the own coroutine itself, past these functions, ends its G with an error (luag_resume).
 */
#include "corolib.h"

#include "luag.h"

#include <lauxlib.h>
#include <lualib.h>

/* The G whose own coroutine L is, or NULL. */
static host_luag *owner_of(lua_State *L) {
    host_luag *lg = lua_getexdata2(L);
    return lg && lg->L == L ? lg : NULL;
}

static int co_yield (lua_State *L) {
    if (owner_of(L)) return luaL_error(L, "attempt to yield outside of a coroutine");
    return lua_yield(L, lua_gettop(L));
}

static int co_isyieldable(lua_State *L) {
    lua_pushboolean(L, !owner_of(L) && lua_isyieldable(L));
    return 1;
}

/* Calls the function of the first upvalue with the values on the stack. */
static int call_original(lua_State *L) {
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    return lua_gettop(L);
}

static int co_running(lua_State *L) {
    host_luag *lg = owner_of(L);
    if (lg) lg->seen = true;
    return call_original(L);
}

/* setfenv(f, t): f is a function, 0, or a level. LuaJIT's function sees our frame as a level, too. */
static int base_setfenv(lua_State *L) {
    if (lua_type(L, 1) == LUA_TNUMBER) {
        lua_Number level = lua_tonumber(L, 1);
        host_luag *lg = owner_of(L);
        if (level == 0 && lg) lg->seen = true;
        if (level > 0) {
            lua_pushnumber(L, level + 1);
            lua_replace(L, 1);
        }
    }
    return call_original(L);
}

/* Puts fn in the place of a function of the table on top of the stack, which becomes fn's upvalue. */
static void replace(lua_State *L, const char *name, lua_CFunction fn) {
    lua_getfield(L, -1, name);
    lua_pushcclosure(L, fn, 1);
    lua_setfield(L, -2, name);
}

void corolib_open(lua_State *L) {
    lua_getglobal(L, LUA_COLIBNAME);
    replace(L, "yield", co_yield );
    replace(L, "isyieldable", co_isyieldable);
    replace(L, "running", co_running);
    lua_pop(L, 1);
    lua_pushvalue(L, LUA_GLOBALSINDEX);
    replace(L, "setfenv", base_setfenv);
    lua_pop(L, 1);
}
