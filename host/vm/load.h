/* Loading a module. See load.c. */
#ifndef LOAD_H
#define LOAD_H

#include <lua.h>

/* Adds `load` and `load_mark` to lunapark.core, which is on top. May raise. */
void load_open(lua_State *L);

#endif
