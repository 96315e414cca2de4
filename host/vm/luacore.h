/* The module lunapark.core. See luacore.c. */
#ifndef LUACORE_H
#define LUACORE_H

#include <lauxlib.h>
#include <lua.h>

/* A lua_CFunction: opens the module. */
int luaopen_lunapark_core(lua_State *L);

/* Adds functions of a room above to the module. The list must stay. Before any VM is made. */
void core_add(const luaL_Reg *functions);

/* Arguments of lua_CFunctions; each raises an error if argument i is something else. */

/* A string without a NUL, for use as a C string. */
const char *core_text(lua_State *L, int i);

/* The pointer that a cdata pointer holds. */
void *core_pointer(lua_State *L, int i);

/* A direction: 1 RT_R, 2 RT_W. */
int core_mode(lua_State *L, int i);

#endif
