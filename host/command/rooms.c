/* Includes and calls point one way (host/build/edges.lua): a room knows nothing of the rooms above it. Where it needs
 * them, it has a table of operations, which is filled here, once, before there is any VM. */
#include "rooms.h"

#include "../base/log.h"
#include "../generation/generation_core.h"
#include "../http/http_core.h"
#include "../http/requests.h"
#include "../net/net_core.h"
#include "../shared/dict_file.h"
#include "../vm/luacore.h"
#include "repl.h"

#include <lauxlib.h>
#include <stdio.h>
#include <unistd.h>

/* exit(code): ends the process. Buffered and logged output is written; other Gs end where they are. */
static int core_exit(lua_State *L) {
    int code = (int)luaL_optinteger(L, 1, 0);
    repl_end();
    fflush(NULL);
    dict_files_end();
    log_end();
    _exit(code);
}

void rooms_open(void) {
    static const luaL_Reg functions[] = {{"exit", core_exit}, {NULL, NULL}};
    core_add(functions);
    net_core_open();
    http_core_open();
    generation_core_open();
    requests_open();
}
