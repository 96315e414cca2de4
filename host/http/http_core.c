/* The functions of lunapark.core for routes. */
#include "http_core.h"

#include "../vm/luacore.h"
#include "routes.h"

/* add_route(routes, method, pattern) -> as host_route_add, but raises where there is no memory. An app with many routes
 * calls it for each route twice, in each VM, uncompiled: the FFI takes 1,300 instructions for such a call, as many as
 * host_route_add. */
static int core_add_route(lua_State *L) {
    size_t len;
    int method = (int)luaL_checkinteger(L, 2);
    const char *pattern = luaL_checklstring(L, 3, &len);
    int number = host_route_add(core_pointer(L, 1), method, pattern, len);
    if (number < 0) {
        lua_pushliteral(L, "not enough memory");
        return lua_error(L);
    }
    lua_pushinteger(L, number);
    return 1;
}

void http_core_open(void) {
    static const luaL_Reg functions[] = {
        {"add_route", core_add_route},
        {NULL, NULL},
    };
    core_add(functions);
}
