/* The own coroutines of Gs, and that Lua can not resume them. See costate.c. */
#ifndef COSTATE_H
#define COSTATE_H

#include <lua.h>
#include <stdbool.h>
#include <stdint.h>

/* Where LuaJIT has these fields of a lua_State: `uint8_t status`, `void *cframe`. */
enum { COSTATE_STATUS = 11, COSTATE_CFRAME = 80 };

extern uint64_t costate_frame[32];

/* From now on only who calls costate_give can resume L, which has yielded or not begun. */
static inline void costate_take(lua_State *L) {
    *((uint8_t *)L + COSTATE_STATUS) = 0;
    *(void **)((char *)L + COSTATE_CFRAME) = costate_frame; /* NOLINT: an aligned field */
}

/* Before its lua_resume. yielded: it has begun. */
static inline void costate_give(lua_State *L, bool yielded) {
    *((uint8_t *)L + COSTATE_STATUS) = yielded ? LUA_YIELD : 0;
    *(void **)((char *)L + COSTATE_CFRAME) = NULL; /* NOLINT: an aligned field */
}

/* For a new VM: throws if the fields lie elsewhere. May raise. */
void costate_open(lua_State *L);

#endif
