/* Servers of any protocol: a listener, its acceptors and connections. See server.c. */
#ifndef SERVER_H
#define SERVER_H

#include "../../runtime/runtime.h"
#include "../base/addr.h"
#include "../base/list.h"
#include "../base/options.h"
#include "../base/refs.h"
#include "../net/sockpath.h"
#include "../vm/owned.h"
#include "client.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct host_vm host_vm;
typedef struct host_server host_server;
typedef struct certs certs; /* net/certs.h */

/* What servers know of a connection. Stands first in the connection's own struct. */
typedef struct server_conn {
    host_server *server;
    list_link link; /* conns.c */
    /* atomic, the connection's G writes: since when the connection is idle, see conns.c; 0: it is not, or its protocol
     * does not say */
    _Atomic int64_t idle_ns;
    struct sockaddr_in6 *from; /* of server_client; who has the connection sets it, once */
    uint32_t peer;             /* of server_client */
    _Atomic bool leaves;       /* atomic: the connection shall make room for others */
    bool
        is_apart; /* lock of conns.c: its protocol does not look at it: not yet (proxy.c), or no more (conns_set_apart) */
} server_conn;

/* What is spoken at a listener. A constant of each protocol. */
typedef struct server_protocol {
    /* Begins a connection of s on fd, and takes over fd and client. refuse: there may be no more connections: this one
     * tells the client so, and nothing else. With a P. Does not wait. */
    void (*start)(host_server *s, int fd, server_client client, bool refuse);
    /* Has c look at what has changed: its server stops, or c leaves. Under the lock of conns.c. Does not wait. */
    void (*look)(server_conn *c);
    /* A server's `data` is needed no more. NULL: there never is any. Any thread. Does not wait. */
    void (*ended)(void *data);
    /* What a client is told that gets no connection. NULL: nothing. */
    const char *busy;
    size_t busy_len;
    /* What a client is told that speaks the protocol without TLS, where TLS is spoken. NULL: nothing. */
    const char *plain;
    size_t plain_len;
} server_protocol;

/* An address to listen on, what is spoken there, the code that answers clients there, and their limits. */
typedef struct host_listener {
    const char *addr; /* as the user wrote it */
    const server_protocol *protocol;
    bool is_private; /* a unix socket's file is its owner's alone, from its making on */
    bool is_proxied; /* --proxy-protocol is about it: proxy.c */
    int handler;     /* number of the handler in the VM that answers */
    host_vm *vm;     /* the one VM that answers, and ends the server; NULL: the P's VM */
    int max;         /* connections at once, of a protocol that counts them; 0: no bound */
    int backlog;     /* clients that wait to be accepted; 0: as many as the system allows */
    certs *
        certs; /* TLS is spoken, with these; the server holds them. NULL: what is written goes as it is */
    const host_limits *limits; /* outlive the server; may change at any time */
    void *data;                /* the protocol's; a server that was made gives it back (ended) */
} host_listener;

struct host_server {
    int id;
    refs refs;              /* see server.c */
    host_owned owned;       /* of a server with listener.vm */
    host_listener listener; /* its addr is `asked` */
    host_limits limits;     /* of a server of Lua's */
    _Atomic bool vm_gone;   /* atomic: listener.vm has ended, or ends */
    int listen_fd;
    uint8_t tells;      /* rt_short_read_tells of its connections */
    rt_pd **listen_pds; /* by P, of those that there were at the start */
    int n_pds;          /* of them, hence of acceptors */
    char addr[HOST_ADDR_MAX], asked[HOST_ADDR_MAX]; /* as bound, and as the user wrote it */
    sock_file file;                                 /* of a unix socket; set once */
    _Atomic bool owns_path;                         /* atomic: `file` is removed with the server */
    _Atomic int32_t n_acceptors;                    /* atomic */
    _Atomic int32_t n_conns; /* atomic: connections, of a protocol that counts them */
    _Atomic bool stopping;   /* atomic: answer the requests in flight, then close */
};

/* A socket that listens on addr, for server_adopt: see listen.c. is_private, backlog: as in host_listener. Returns the
 * descriptor, or -errno. Any thread. Does not wait. */
int server_bind(const char *addr, bool is_private, int backlog);

/* Binds a server, which accepts from server_start on. The caller holds the server. NULL: *err says why. With l->vm: by
 * the VM's maker before it runs, or by the thread that runs it. Without: any thread of the runtime. Does not wait. */
host_server *server_open(const host_listener *l, int *err);

/* Makes a server as server_open, on the listening socket fd. Takes fd over, also after an error. owns_path: the file of
 * a unix socket is removed with the server. */
host_server *server_adopt(int fd, bool owns_path, const host_listener *l, int *err);

/* Begins to accept. 0, or -ENOMEM: the server is stopped. Any native G, or Lua. */
int server_start(host_server *s);

/* server_hold: adds a holder; another holder is sure to stay meanwhile. server_release: removes one; the last one frees
 * the server. Any thread. Do not wait. */
void server_hold(host_server *s);
void server_release(host_server *s);

/* Forgets one ended server that only vm answers. Returns the number of its handler, which is free now; -1: there is
 * none. By the thread that runs vm. */
int server_ended_of(host_vm *vm);

/* Accepts no more; requests in flight are answered (server.c). Calling it twice is harmless. Any thread. Does not
 * wait. */
void server_stop(host_server *s);

/* How long a client may be silent while its server stops: see server.c. Any thread. Does not wait. */
int64_t server_drain_idle_ns(void);

/* Stops a server whose socket another process goes on with: the socket's file stays. Any thread. Does not wait. */
void server_hand_over(host_server *s);

/* Another process had the socket, too, and has it no more: makes the acceptors look for connections that the process
 * was woken for. Any thread. Does not wait. */
void server_look(host_server *s);

/* The server of this id that only the running VM answers; NULL: it has ended, and was forgotten. By the thread that
 * runs the VM, which has it until it lets others run. */
host_server *server_named(int id);

/* True: a server that only vm answers accepts. By the thread that runs vm. */
bool server_any_of(const host_vm *vm);

/* Makes c a connection of s, with this client. By the connection's maker. Does not wait. */
void server_add_conn(server_conn *c, host_server *s, server_client client);
/* Takes c, whose descriptor is closed, from its server; the caller may free c. By the connection's G. Does not wait. */
void server_remove_conn(server_conn *c);

/* Says on fd that there is no room, and closes fd. Any thread. Does not wait. */
void server_turn_away(const host_server *s, int fd);

/* Opens and starts a server that the running VM answers by l->handler, for Lua. Returns the number of the server, and
 * writes the bound address to `bound`. An error: *err, and -1; or -2: the server has to end before the number of the
 * handler is free. By the thread that runs the VM. Does not wait. */
int server_serve(const host_listener *l, char *bound, size_t cap, int *err);

/* After every server was stopped: waits until their connections are gone. True: they are; false: deadline_ns
 * (rt_nanotime) came. One native G at a time. */
bool server_wait_all(int64_t deadline_ns);

#endif
