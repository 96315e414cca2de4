/* The functions of lunapark.core for sockets. */
#include "net_core.h"

#include "../vm/luacore.h"
#include "../vm/wait.h"
#include "sock.h"

#include <sys/uio.h>

/* wait_sock(sock, mode[, deadline_ns[, wanted]]) -> nil | "timeout" | "canceled" | "closed". wanted: bytes that a
 * reader would like to have before it wakes; nil or 0: any. */
static int core_wait_sock(lua_State *L) {
    host_waitq *q;
    int mode = core_mode(L, 2);
    host_sock *s = core_pointer(L, 1);
    if (mode == RT_R && !sock_await(s, (size_t)lua_tonumber(L, 4))) return 0;
    mode = stream_wants(&s->io, mode);
    rt_pd *pd = sock_pd(s, mode, &q);
    if (!pd) {
        spin_answer_for(L, lua_topointer(L, 1), "closed");
        lua_pushliteral(L, "closed");
        return 1;
    }
    return luag_wait_fd(L, q, pd, mode, sock_until(s, (int64_t)luaL_optnumber(L, 3, 0)));
}

/* writev(sock, list, first, skip) -> code, first, skip: writes list[first ..] without the first `skip` bytes, as much
 * as the kernel takes in one call. code: 0 or more; -EAGAIN ... The new first and skip say where to go on; at the end,
 * first is behind the list. The elements are strings. */
static int core_writev(lua_State *L) {
    enum { PIECES = 64 };
    struct iovec iov[PIECES];
    host_sock *s = core_pointer(L, 1);
    int first = (int)luaL_checkinteger(L, 3), n = 0;
    size_t skip = (size_t)luaL_checknumber(L, 4), left;
    luaL_checkstack(L, PIECES, NULL);
    for (; n < PIECES; n++) {
        lua_rawgeti(L, 2, first + n);
        iov[n].iov_base = (void *)lua_tolstring(L, -1, &iov[n].iov_len);
        if (!iov[n].iov_base) break;
    }
    if (n > 0) {
        iov[0].iov_base = (char *)iov[0].iov_base + skip;
        iov[0].iov_len -= skip;
    }
    ssize_t r = n > 0 ? sock_writev(s, iov, n) : 0;
    left = r > 0 ? (size_t)r : 0;
    for (int i = 0; r >= 0 && i < n && left >= iov[i].iov_len; i++) {
        left -= iov[i].iov_len;
        first++;
        skip = 0;
    }
    lua_pushinteger(L, r < 0 ? (int)r : 0);
    lua_pushinteger(L, first);
    lua_pushnumber(L, (lua_Number)(skip + left));
    return 3;
}

void net_core_open(void) {
    static const luaL_Reg functions[] = {
        {"wait_sock", core_wait_sock},
        {"writev", core_writev},
        {NULL, NULL},
    };
    core_add(functions);
}
