/* The own coroutine of a G, as Lua's library of coroutines sees it. See corolib.c. */
#ifndef COROLIB_H
#define COROLIB_H

#include <lua.h>

/* Replaces coroutine.yield, isyieldable, running and setfenv of LuaJIT by ours. For a new VM. May raise. */
void corolib_open(lua_State *L);

#endif
