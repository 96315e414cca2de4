/* The own coroutines of Gs, which Lua can not resume. See costate.c. */
#ifndef COSTATE_H
#define COSTATE_H

#include <lua.h>
#include <stdbool.h>
#include <stdint.h>

/* The offsets at which LuaJIT has these fields of a lua_State: `uint8_t status`, `TValue *top`, `TValue *maxstack`,
 * `void *cframe`. */
enum { COSTATE_STATUS = 11, COSTATE_TOP = 40, COSTATE_MAXSTACK = 48, COSTATE_CFRAME = 80 };

extern uint64_t costate_frame[32];

/* Only costate_give makes L, which has yielded or not begun, resumable again. */
static inline void costate_take(lua_State *L) {
    *((uint8_t *)L + COSTATE_STATUS) = 0;
    *(void **)((char *)L + COSTATE_CFRAME) = costate_frame; /* NOLINT: an aligned field */
}

/* Before lua_resume of L. yielded: L has begun. */
static inline void costate_give(lua_State *L, bool yielded) {
    *((uint8_t *)L + COSTATE_STATUS) = yielded ? LUA_YIELD : 0;
    *(void **)((char *)L + COSTATE_CFRAME) = NULL; /* NOLINT: an aligned field */
}

/* True: a value can be pushed without moving L's stack, which would invalidate pointers into the stack. */
static inline bool costate_has_room(lua_State *L) {
    char *top = *(char **)((char *)L + COSTATE_TOP);      /* NOLINT: an aligned field */
    char *end = *(char **)((char *)L + COSTATE_MAXSTACK); /* NOLINT: an aligned field */
    return end - top > 16;
}

/* For a new VM: throws if the fields lie elsewhere. May raise. */
void costate_open(lua_State *L);

#endif
