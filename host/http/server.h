/* Servers: a listener, its acceptors and connections. See server.c. */
#ifndef SERVER_H
#define SERVER_H

#include "../../runtime/runtime.h"
#include "../base/addr.h"
#include "../base/options.h"
#include "../base/refs.h"
#include "../net/sockpath.h"
#include "../vm/owned.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct host_vm host_vm;
typedef struct host_conn host_conn;
typedef struct host_server host_server;

/* Where clients are listened for, who answers them, and what they may take. HTTP/1 is spoken there. */
typedef struct host_listener {
    const char *addr; /* as it was said */
    bool
        is_private; /* the file of a unix socket is for its owner alone, from its first moment on */
    int handler;    /* its number in the VM that answers */
    host_vm *vm; /* the one VM that answers, with which the server ends; NULL: the one of the P */
    const host_limits *limits; /* outlive the server; may change at any time */
} host_listener;

struct host_server {
    int id;
    refs refs;              /* see server.c */
    host_owned owned;       /* of a server that only one VM answers */
    host_listener listener; /* its addr: asked */
    _Atomic bool vm_gone;   /* atomic: that VM has ended, or ends */
    int listen_fd;
    uint8_t tells;                                  /* of its connections: rt_short_read_tells */
    rt_pd **listen_pds;                             /* by P */
    char addr[HOST_ADDR_MAX], asked[HOST_ADDR_MAX]; /* as bound, and as it was said */
    sock_file file;                                 /* of a unix socket, from the beginning */
    _Atomic bool owns_path;                         /* atomic: that file goes with it */
    _Atomic int32_t n_acceptors;                    /* atomic */
    _Atomic bool stopping; /* atomic: answer what is in flight, then close */
};

/* A socket that listens on addr, for server_adopt. is_private: as in host_listener. Any thread. Does not wait. -errno. */
int server_bind(const char *addr, bool is_private);

/* Binds a server, which accepts from server_start on; that can not fail. The caller holds it. NULL: *err says why.
 * By who makes l->vm, before it runs, or who runs it; without one, any thread of the runtime. Does not wait. */
host_server *server_open(const host_listener *l, int *err);

/* server_open on the listening socket fd, which the server takes over also when it fails. owns_path: the file of a unix
 * socket goes with the server. */
host_server *server_adopt(int fd, bool owns_path, const host_listener *l, int *err);

/* Accepts from now on. Any native G, Lua. 0, or -ENOMEM: the server is stopped. */
int server_start(host_server *s);

/* server_hold: one holder more, while another holder is sure. server_release: one less; the last frees the server. Any
 * thread. Do not wait. */
void server_hold(host_server *s);
void server_release(host_server *s);

/* Forgets one of the servers that only vm answers, and that have ended: the number of its handler, which is free. -1:
 * there is none. By the thread that runs vm. */
int server_ended_of(host_vm *vm);

/* Accepts no more; what is in flight is answered (server.c). Calling it twice is harmless. */
void server_stop(host_server *s);

/* Stops a server whose socket another process goes on with. */
void server_hand_over(host_server *s);

/* Another process had the socket too, and has it no more: the acceptors look for connections that it was woken for. */
void server_look(host_server *s);

/* Is there a server that only vm answers, and that accepts? By the thread that runs vm. */
bool server_any_of(const host_vm *vm);

void server_add_conn(host_server *s, host_conn *c);
void server_remove_conn(host_server *s, host_conn *c);

/* After every server was stopped: waits until their connections are gone: true; false at the deadline. One native G at
 * a time. */
bool server_wait_all(int64_t deadline_ns);

#endif
