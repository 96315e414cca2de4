/* Connections of other protocols than HTTP: app:tcp and net.serve; and the figures of datagrams, which Lua serves.
 *
 * An accepted connection becomes a Lua G in one of the VMs that serve (bind.c), which calls the listener's handler with
 * a socket (net/sock.c). From then on the connection belongs to this VM and stays there over reloads. When the VM
 * retires, it waits for the connection as for a request, up to --drain-timeout (vmend.c). When the handler has ended,
 * in whatever way, the socket is closed here. So no error, no handler that was ended by force, and no dropped VM leaves
 * a connection open.
 *
 *     accepted --start--> [chooses a VM] --begin--> handler runs --done, dropped--> closed
 *                             \--end: no VM can take it--> closed
 *
 * The connection counts among all others for --max-conns (conns.c), but never makes room: only the protocol knows what
 * a silence means. A listener may have a bound of its own.
 *
 * The time that a connection may be silent is the socket's (sock.c, idle): each wait for the socket ends after this
 * time with "timeout". So no code looks at connections here. Lua tells handlers of a stop (lua/lunapark/net/serve.lua),
 * since it knows the sockets of its VM.
 *
 * The Lua object may live longer or shorter than the connection. So this file knows the socket by a pointer that the
 * socket clears when it goes (sock_known_to).
 */
#include "raw.h"

#include "../base/base.h"
#include "../base/count.h"
#include "../base/log.h"
#include "../net/sock.h"
#include "../vm/vm.h"
#include "bind.h"
#include "serve_ffi.h"

#include <lauxlib.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct raw_conn {
    server_conn base; /* first */
    int fd;           /* -1: the socket has it */
    host_sock *sock;  /* the VM's; NULL: not made yet, or gone */
    host_luag *lg;    /* NULL: not begun */
    int64_t begin_ns;
} raw_conn;

/* The M that has the P writes; any thread reads. */
static struct { OF_ONE_P _Atomic int64_t accepted, refused, ended, failed, ns; } counts[MAX_PS];

/* Of the P that runs the caller; a server that could not start may count without one. */
#define COUNT(field, more)                                                                         \
    do {                                                                                           \
        int p_ = rt_p_id();                                                                        \
        if (p_ >= 0) count_more(&counts[p_].field, more);                                          \
    } while (0)

/* ---- the end ---- */

/* Frees c, which has no descriptor and no Lua any more. */
static void free_conn(raw_conn *c) {
    COUNT(ended, 1);
    COUNT(ns, rt_nanotime() - c->begin_ns);
    atomic_fetch_sub(&c->base.server->n_conns, 1);
    server_remove_conn(&c->base);
    free(c);
}

/* Ends a connection that no VM can take. */
static void end(void *who, bool lost) {
    (void)lost;
    raw_conn *c = who;
    COUNT(failed, 1);
    if (c->sock) host_sock_free(c->sock);
    if (c->fd >= 0) close(c->fd);
    free_conn(c);
}

static void dropped(void *who) {
    raw_conn *c = who;
    luag_forget(c->lg);
    free_conn(c);
}

static void done(host_luag *lg, int status) {
    raw_conn *c = lg->done_arg;
    luag_undoom(lg);
    /* net/serve.lua has logged the handler's error, and returns true then, unless the handler was ended by force. */
    if (status != 0 || lua_toboolean(lg->L, 1)) COUNT(failed, 1);
    if (status != 0) {
        const char *msg = lua_tostring(lg->L, -1);
        char origin[LUAG_ORIGIN];
        luag_origin(lg, origin, sizeof origin);
        log_line(LOG_ERROR, "%s: %s%s", c->base.server->addr, msg ? msg : "(no message)", origin);
    }
    luag_clear(lg, status);
    if (c->sock) {
        host_sock_close(c->sock);
        sock_known_to(c->sock, NULL);
    }
    luag_give_cleared(lg);
    free_conn(c);
}

/* ---- the beginning ---- */

static host_luag *begin(void *who, rt_g *g, host_vm *vm) {
    raw_conn *c = who;
    int err;
    host_luag *lg = luag_take(vm);
    if (!lg) return NULL;
    int fd = c->fd;
    c->fd = -1;
    c->sock = sock_new(fd, &err);
    if (!c->sock) {
        luag_untake(lg);
        return NULL;
    }
    sock_known_to(c->sock, &c->sock);
    c->lg = lg;
    lg->g = g;
    lg->done = done;
    lg->done_arg = c;
    luag_join_request(lg);
    int n = c->base.server->listener.handler;
    lua_rawgeti(lg->L, LUA_REGISTRYINDEX, n < vm->n_handlers ? vm->handlers[n].fn : LUA_NOREF);
    lua_pushlightuserdata(lg->L, c->sock);
    lg->nargs = 1;
    return lg;
}

static host_server *server_of(void *who) {
    return ((raw_conn *)who)->base.server;
}

static host_luag *luag_of(void *who) {
    return ((raw_conn *)who)->lg;
}

static const bind_ops ops = {
    .server = server_of,
    .luag = luag_of,
    .begin = begin,
    .end = end,
    .dropped = dropped,
};

static void refuse(int fd, server_client client) {
    COUNT(refused, 1);
    close(fd);
    client_leave(client);
}

static bool is_full(host_server *s) {
    int max = s->listener.max;
    bool full = atomic_fetch_add(&s->n_conns, 1) >= max && max > 0;
    if (full) atomic_fetch_sub(&s->n_conns, 1);
    return full;
}

static void start(host_server *s, int fd, server_client client, bool none_left) {
    if (none_left || is_full(s)) {
        refuse(fd, client);
        return;
    }
    bool soon;
    host_vm *vm = bind_choose(s, &soon);
    raw_conn *c = vm || soon ? calloc(1, sizeof *c) : NULL;
    rt_g *g = c ? bind_make(&ops, c, vm) : NULL;
    if (!g) {
        atomic_fetch_sub(&s->n_conns, 1);
        refuse(fd, client);
        free(c);
        return;
    }
    c->fd = fd;
    c->begin_ns = rt_nanotime();
    COUNT(accepted, 1);
    server_add_conn(&c->base, s, client);
    rt_ready(g);
}

/* Does nothing: the connection does not become idle, and Lua tells its handler of a stop. */
static void look(server_conn *c) {
    (void)c;
}

const server_protocol raw_protocol = {.start = start, .look = look};

/* ---- for Lua ---- */

int host_serve_raw(const char *addr, int handler, int max, int backlog, char *bound, size_t cap,
                   int *err) {
    const host_listener l = {.addr = addr,
                             .protocol = &raw_protocol,
                             .handler = handler,
                             .max = max,
                             .backlog = backlog};
    return server_serve(&l, bound, cap, err);
}

void host_read_connections(host_connections *sum) {
    *sum = (host_connections){0};
    for (int p = 0; p < MAX_PS; p++) {
        sum->accepted += (double)count_now(&counts[p].accepted);
        sum->refused += (double)count_now(&counts[p].refused);
        sum->ended += (double)count_now(&counts[p].ended);
        sum->failed += (double)count_now(&counts[p].failed);
        sum->seconds += (double)count_now(&counts[p].ns) / NS_PER_SEC;
    }
}

/* ---- datagrams ---- */

/* atomic. Lua counts, which has no P: see COUNT. */
static struct { _Atomic int64_t received, ended, failed; } datagrams;

static void count_one(_Atomic int64_t *n) {
    atomic_fetch_add_explicit(n, 1, memory_order_relaxed);
}

void host_datagram_begun(void) {
    count_one(&datagrams.received);
}

void host_datagram_ended(int failed) {
    count_one(&datagrams.ended);
    if (failed) count_one(&datagrams.failed);
}

void host_read_datagrams(host_datagrams *sum) {
    *sum =
        (host_datagrams){(double)count_now(&datagrams.received),
                         (double)count_now(&datagrams.ended), (double)count_now(&datagrams.failed)};
}
