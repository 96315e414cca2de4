/* The own coroutines of Gs, which Lua cannot resume.
 *
 * For LuaJIT the coroutine of a G that waits by a yield is suspended like any other. Lua code that holds this coroutine
 * (coroutine.running gives it away) could resume it in the middle of a wait, and the wait would take the arguments for
 * its answer. Lua code that holds the coroutine of a G that has not begun, after another G has ended on it, could
 * resume it as well.
 *
 * So while only the host may resume a coroutine, the coroutine's state is that of a running one: status 0, and a C
 * frame. The checks that LuaJIT makes anyway then do the rest: coroutine.resume answers false, "cannot resume running
 * coroutine"; coroutine.status says "normal". This costs two stores after a yield and two before a resume. (A coroutine
 * that a G runs, and in which the G waits, has a true frame, on the stack that was left.)
 *
 * lua.h has no function for this. So two fields of lua_State are written at their places in LuaJIT 2.1 with GC64, and
 * two are read, for costate_has_room. Only a traceback reads the frame, and only beneath a Lua function on top; here a
 * C function is on top, the one that waits. The frame is a row of zeros all the same, which ends the chain of frames.
 */
#include "costate.h"

#include "../../runtime/runtime.h"

uint64_t costate_frame[32];

static int is_as_expected(lua_State *L, lua_State *co) {
    void *frame = *(void **)((char *)L + COSTATE_CFRAME); /* NOLINT: an aligned field */
    void *none = *(void **)((char *)co + COSTATE_CFRAME); /* NOLINT: an aligned field */
    return frame && !none && *((uint8_t *)L + COSTATE_STATUS) == 0;
}

static int yield(lua_State *L) {
    return lua_yield(L, 0);
}

static ptrdiff_t room(lua_State *L) {
    return *(char **)((char *)L + COSTATE_MAXSTACK) - /* NOLINT: an aligned field */
           *(char **)((char *)L + COSTATE_TOP);       /* NOLINT: an aligned field */
}

/* True: costate_has_room reads the right fields. A value takes 8 bytes; after lua_checkstack there is room that was not
 * there before. */
static bool tells_room(lua_State *co) {
    ptrdiff_t before = room(co);
    lua_pushnil(co);
    ptrdiff_t with_one = room(co);
    lua_pop(co, 1);
    return before > 0 && before < 1000 * 8 && with_one == before - 8 && lua_checkstack(co, 1000) &&
           room(co) >= 1000 * 8;
}

void costate_open(lua_State *L) {
    lua_State *co = lua_newthread(L);
    bool fits = is_as_expected(L, co) && *((uint8_t *)co + COSTATE_STATUS) == 0 && tells_room(co);
    lua_pushcfunction(co, yield);
    fits = fits && lua_resume(co, 0) == LUA_YIELD && is_as_expected(L, co) &&
           *((uint8_t *)co + COSTATE_STATUS) == LUA_YIELD;
    if (fits) {
        costate_take(co);
        fits = lua_status(co) == 0 && lua_resume(co, 0) == LUA_ERRRUN;
        lua_settop(co, 0);
    }
    if (!fits) rt_throw("this LuaJIT has other fields in its lua_State than costate.h says");
    lua_pop(L, 1);
}
