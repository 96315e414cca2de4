/* The functions of lunapark.core that read and watch the files of a generation. */
#include "generation_core.h"

#include "../base/addr.h"
#include "../net/net_ffi.h"
#include "../vm/keeper.h"
#include "../vm/luacore.h"
#include "../vm/vm.h"
#include "diskfile.h"
#include "listeners.h"
#include "source.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Bytes for Lua; what it was told is freed whether Lua has memory for them or not. */
typedef struct source_bytes {
    const char *bytes;
    size_t len;
} source_bytes;

static int push_bytes(lua_State *L) {
    source_bytes *b = lua_touserdata(L, 1);
    lua_pushlstring(L, b->bytes, b->len);
    return 1;
}

/* source(path) -> the file's bytes, as the VM's generation has them | nil, why not, was it opened at least */
static int core_source(lua_State *L) {
    const char *path = core_text(L, 1);
    host_vm *vm = vm_current();
    source_set *set = vm->sources;
    bool loads = atomic_load(&vm->loads_until_ns) != 0;
    source_bytes b = {0};
    int err = 0;
    bool opened = false;
    lua_pushcfunction(L, push_bytes);
    lua_pushlightuserdata(L, &b);
    char *own = set ? NULL : source_read(path, &b.len, &err, &opened);
    const source_file *f = !set    ? NULL
                           : loads ? source_get_to_load(set, path, &err, &opened)
                                   : source_get(set, path, &err, &opened);
    if (f) b = (source_bytes){f->bytes, f->len};
    if (own) b.bytes = own;
    if (b.bytes) {
        int status = lua_pcall(L, 1, 1, 0);
        free(own);
        return status ? lua_error(L) : 1;
    }
    lua_pushnil(L);
    if (err == EFBIG)
        lua_pushfstring(L, "larger than %d MiB", DISKFILE_MAX >> 20);
    else if (err == E2BIG)
        lua_pushfstring(L, "the app loads more than %d files or %d MiB", SOURCE_NAMES_MAX,
                        SOURCE_BYTES_MAX >> 20);
    else
        lua_pushstring(L, strerror(err));
    lua_pushboolean(L, opened);
    return 3;
}

/* watch_source(path) -> nothing | why not: it, or what lies in it, counts as loaded */
static int core_watch_source(lua_State *L) {
    const char *path = core_text(L, 1);
    source_set *set = vm_current()->sources;
    int err = set ? source_watch(set, path) : 0;
    if (!err) return 0;
    if (err == -E2BIG)
        lua_pushfstring(L, "the app watches more than %d files", SOURCE_NAMES_MAX);
    else
        lua_pushstring(L, strerror(-err));
    return 1;
}

/* listen(addr, max, backlog) -> the number of the handler that answers there | nil, why not */
static int core_listen(lua_State *L) {
    host_vm *vm = vm_current();
    const char *addr = core_text(L, 1);
    host_addr a;
    generation *serving = atomic_load_explicit(&vm_serving, memory_order_acquire);
    int n = strlen(addr) < HOST_ADDR_MAX ? addr_parse(addr, &a) : -ENAMETOOLONG;
    if (!n)
        n = listeners_ask(addr, (int)luaL_checkinteger(L, 2), (int)luaL_checkinteger(L, 3),
                          vm->generation == serving);
    lua_pushinteger(L, n);
    if (n >= 0) return 1;
    lua_pushnil(L);
    if (n == -ENOSPC)
        lua_pushfstring(L, "an app has %d listeners at most", MAX_APP_LISTEN);
    else if (n == -EBUSY)
        lua_pushliteral(L, "the VMs that loaded before did not ask for it");
    else
        lua_pushstring(L, host_strerror(n));
    return 2;
}

void generation_core_open(void) {
    static const luaL_Reg functions[] = {
        {"source", core_source},
        {"watch_source", core_watch_source},
        {"listen", core_listen},
        {NULL, NULL},
    };
    core_add(functions);
}
