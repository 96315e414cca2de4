/* Servers: a listening address, its acceptors and connections. See server.c. */
#ifndef SERVER_H
#define SERVER_H

#include "../../runtime/runtime.h"
#include "../base/addr.h"
#include "../net/sockpath.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct host_vm host_vm;
typedef struct host_conn host_conn;
typedef struct host_server host_server;

struct host_server {
    int id, handler;
    _Atomic int32_t n_holders; /* atomic: see server.c */
    bool ended;                /* the table's lock: nobody holds it */
    host_vm *vm;               /* the one VM that answers; NULL: the one of the P */
    _Atomic bool vm_gone;      /* atomic: it was dropped */
    int listen_fd;
    uint8_t tells;                                  /* of its connections: rt_short_read_tells */
    rt_pd **listen_pds;                             /* by P */
    char addr[HOST_ADDR_MAX], asked[HOST_ADDR_MAX]; /* as bound, and as it was said */
    sock_file file;                                 /* of a unix socket, from the beginning */
    _Atomic bool owns_path;                         /* atomic: that file goes with it */
    _Atomic int32_t n_acceptors;                    /* atomic */
    _Atomic bool stopping; /* atomic: answer what is in flight, then close */
};

/* A socket that listens on addr, for server_adopt. is_private: as server_open. Any thread. Does not wait. -errno. */
int server_bind(const char *addr, bool is_private);

/* Binds a server, which accepts from server_start on; that can not fail. The caller holds it. NULL: *err says why.
 * is_private: the file of a unix socket is for its owner alone from its first moment on. Any thread of the runtime.
 * Does not wait. */
host_server *server_open(const char *addr, bool is_private, int handler, host_vm *vm, int *err);

/* A server on the listening socket fd, which it takes over also when it fails. asked: how its address was said. The
 * rest: as server_open. */
host_server *server_adopt(int fd, const char *asked, bool owns_path, int handler, host_vm *vm,
                          int *err);

/* Accepts from now on. Any native G, Lua. 0, or -ENOMEM: the server is stopped. */
int server_start(host_server *s);

/* server_hold: one holder more, while another holder is sure. server_release: one less; the last frees the server. Any
 * thread. Do not wait. */
void server_hold(host_server *s);
void server_release(host_server *s);

/* Forgets one of the servers that only vm answers, and that nobody holds: the number of its handler, which is free. -1:
 * there is none. Any thread. */
int server_ended_of(const host_vm *vm);

/* Accepts no more; what is in flight is answered (server.c). Calling it twice is harmless. */
void server_stop(host_server *s);

/* Stops a server whose socket another process goes on with. */
void server_hand_over(host_server *s);

/* Another process had the socket too, and has it no more: the acceptors look for connections that it was woken for. */
void server_look(host_server *s);

/* Is there a server that only vm answers? */
bool server_any_of(const host_vm *vm);

/* Servers that only vm answers stop when vm ends. By the thread that makes vm, before it runs, or that runs it. Does not
 * wait. */
void server_ends_with(host_vm *vm);

void server_add_conn(host_server *s, host_conn *c);
void server_remove_conn(host_server *s, host_conn *c);

/* After every server was stopped: waits until their connections are gone: true; false at the deadline. One native G at
 * a time. */
bool server_wait_all(int64_t deadline_ns);

#endif
