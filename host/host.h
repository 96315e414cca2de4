/* The host's own data: VMs and their Lua Gs, connections, servers. Only files of host/ include it.
 *
 * Which thread may touch what: a VM and its Lua Gs belong to whoever runs the VM's cell; a connection
 * to whoever runs its G; a server's fields say. */
#ifndef HOST_H
#define HOST_H

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdatomic.h>

#include "../runtime/lock.h"
#include "../runtime/runtime.h"
#include "host_ffi.h"

typedef struct host_vm host_vm;
typedef struct host_luag host_luag;
typedef struct host_conn host_conn;
typedef struct host_xfer host_xfer;
typedef struct host_server host_server;

#define NS_PER_SEC INT64_C(1000000000)

/* ---- options (options.c) ------------------------------------------------------------------- */

enum { MAX_LISTEN = 16 };

typedef struct host_options {
    const char *listen[MAX_LISTEN];
    int n_listen;
    int64_t procs; /* 0: as many as there are CPUs */
    int64_t max_body;
    double header_timeout, idle_timeout, drain_timeout; /* seconds */
    int64_t log_level;
    const char *pid_file;
} host_options;

extern host_options options;

enum { FROM_DEFAULT, FROM_APP, FROM_ENV, FROM_COMMAND_LINE };

/* Sets the option of that name (with - or _) unless a stronger source has set it. NULL, or what is
 * wrong, in a static buffer. */
const char *option_set(const char *name, const char *value, int source);
/* Takes --name value and --name=value out of argv from index 1 on, leaves the rest. Exits 64 at a
 * mistake. stop_at_word: words after the first that is none belong to the script. */
int options_parse(int argc, char **argv, const char *command, bool stop_at_word);
void options_from_env(void);
void options_help(const char *command);

/* ---- VMs (vm.c) and Lua Gs (luag.c) -------------------------------------------------------- */

enum { HOST_SCRATCH = 16384 };
/* Why a Lua G is cancelled, as host_canceled says it. */
enum { HOST_CANCELED = 1, HOST_CANCELED_SCOPE = 2 };

struct host_vm {
    host_view view; /* what Lua sees */
    lua_State *L;   /* the main state: handlers, tables; never resumed */
    rt_cell *cell;
    host_luag **slots; /* all coroutines, by slot */
    int n_slots, cap_slots;
    host_luag *free; /* those that no G uses */
    double serial;   /* of the last G */
    int *handlers;   /* registry references by handler number; LUA_NOREF */
    int n_handlers;
    uint8_t scratch[HOST_SCRATCH];
};

/* The Lua Gs of one VM that wait for one descriptor: in each direction ([0] read, [1] write) one that
 * the poller knows, and those whose turn is not yet. */
typedef struct host_waitq {
    host_luag *holder[2], *queue[2];
} host_waitq;

/* A coroutine and, while one runs on it, its G. */
struct host_luag {
    rt_g *g;      /* NULL while free */
    lua_State *L; /* anchored in the VM's registry for good, or until it raised */
    int ref, slot;
    host_vm *vm;
    host_luag *next_free;
    host_conn *conn; /* whose handler runs on it, or NULL */
    int nargs;       /* on L's stack for the next resume */
    /* The wait it is in, set by the lua_CFunction that yields. */
    enum { WANT_NOTHING, WANT_TURN, WANT_TICKET, WANT_FD, WANT_QUEUE } want;
    rt_pd *pd; /* WANT_FD, WANT_QUEUE */
    host_waitq *waitq;
    int mode;
    host_luag *next_wait; /* in waitq->queue */
    int64_t deadline_ns;  /* of that wait */
    int64_t limit_ns;     /* the G's own deadline; 0: none */
    double serial;
    uint64_t ticket;  /* WANT_TICKET, WANT_QUEUE */
    uint8_t canceled; /* HOST_CANCELED...; any of them ends its waits */
    /* Runs when the coroutine has ended with `status` (0 or lua_resume's error, message on top). */
    void (*done)(host_luag *lg, int status);
    void *done_arg;
};

/* The VM whose cell runs the caller. Throws without one. */
host_vm *vm_current(void);
/* A VM with the embedded modules, whose Lua has not run anything yet. Never fails: throws. */
host_vm *vm_new(int id);
int vm_add_handler(host_vm *vm, int n); /* pops the function; n < 0: a new number */

/* A coroutine for a new G; its L is empty. */
host_luag *luag_take(host_vm *vm);
void luag_give(host_luag *lg, int status);
/* The Lua G that runs. Throws without one. */
host_luag *luag_current(void);
/* Runs it until it waits or ends. RT_EXIT: it has ended, done was called. */
rt_step luag_resume(host_luag *lg);
/* The step of a Lua G that runs no handler. */
rt_step luag_step(rt_g *g);
/* Starts fn with nargs arguments, both on from's stack, popped. Only by the M that runs the VM. */
host_luag *luag_start(host_vm *vm, lua_State *from, int nargs);
/* The same from outside: calls boot(vm, lg->L, arg), which pushes function and arguments and returns
 * the number of the latter, in the VM. done as above. Any native G. */
typedef int (*luag_boot)(host_vm *vm, lua_State *L, void *arg);
void luag_spawn(host_vm *vm, luag_boot boot, void *arg, void (*done)(host_luag *, int),
                void *done_arg);

int luaopen_lunapark_core(lua_State *L); /* luacore.c */

/* Waits that a lua_CFunction begins: `return luag_wait...(L, ...)`. They yield, and answer nothing,
 * or "timeout", "canceled", "closed" when it is over. */
int luag_wait(lua_State *L, rt_reason reason, int64_t deadline_ns);
int luag_wait_fd(lua_State *L, host_waitq *q, rt_pd *pd, int mode, int64_t deadline_ns);
int luag_yield(lua_State *L);
/* The descriptor goes: every wait for it answers "closed". Nobody stands in its pollDesc then. */
void waitq_close(host_waitq *q);

/* ---- sockets of Lua (sock.c) ---------------------------------------------------------------- */

/* NULL: closed. */
rt_pd *sock_pd(host_sock *s, host_waitq **q);

/* ---- addresses (addr.c) -------------------------------------------------------------------- */

typedef struct host_addr {
    struct sockaddr_storage sa;
    socklen_t len;
} host_addr;

/* `host:port`, `:port`, `[v6]:port` with numeric host (or localhost), `unix:path`. 0 or -EINVAL. */
int addr_parse(const char *s, host_addr *a);
int addr_format(const struct sockaddr *sa, socklen_t len, char *buf, size_t cap);

/* ---- connections (conn.c), parsing (http1.c), responses (response.c) ------------------------ */

enum {
    HEAD_MAX = 16384,  /* bytes of a request head: else 431 */
    TARGET_MAX = 8192, /* of its target: else 414 */
    HEADERS_MAX = 100, /* header fields: else 431 */
    IN_SIZE = 4096,    /* input buffer to begin with */
    OUT_SIZE = 4096,   /* output buffer to begin with */
    OUT_FULL = 65536,  /* queued output that makes the writer wait */
};

void conn_start(host_server *s, int fd);
/* What a handler that waits for its connection needs. */
rt_pd *conn_pd(host_req *r, host_waitq **q);

/* ---- servers (server.c) -------------------------------------------------------------------- */

struct host_server {
    int id, handler;
    host_vm *vm; /* the one VM that answers; NULL: the one of the P */
    int listen_fd;
    rt_pd **listen_pds; /* by P */
    char addr[128];     /* as bound */
    rt_lock lock;
    host_conn *conns;            /* lock */
    _Atomic int32_t n_conns;     /* atomic */
    _Atomic int32_t n_acceptors; /* atomic */
    _Atomic bool stopping;       /* atomic: answer what is in flight, then close */
};

/* The VMs that serve, by P. */
extern host_vm **serve_vms;

host_server *server_new(const char *addr, int handler, host_vm *vm, int *err);
host_server *server_by_id(int id);
void server_stop(host_server *s);
void server_add_conn(host_server *s, host_conn *c);
void server_remove_conn(host_server *s, host_conn *c);
/* After every server was stopped: waits until their connections are gone: true; false at the
 * deadline. One native G at a time. */
bool server_wait_all(int64_t deadline_ns);

/* ---- log (log.c) ---------------------------------------------------------------------------- */

enum { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
void log_line(int level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
