/* Connections. See conn.c. */
#ifndef CONN_H
#define CONN_H

#include "../../runtime/runtime.h"
#include "../base/list.h"
#include "../net/stream.h"
#include "exchange.h"
#include "out.h"
#include "server.h"

/* What a connection does when its G runs. */
typedef enum conn_phase {
    CONN_HEAD,   /* waits for a request head, or has part of one */
    CONN_BIND,   /* waits for a VM that is being made */
    CONN_BOUND,  /* its G waits for the handler: hold.c */
    CONN_DRAIN,  /* reads the rest of a body that the handler did not want */
    CONN_FLUSH,  /* writes what is queued, then goes on to `after_flush` */
    CONN_LINGER, /* has shut its side down, reads until the peer has too */
    CONN_REFUSE, /* is to answer x->error from C */
    CONN_END,    /* is to be closed */
} conn_phase;

struct host_conn {
    rt_g *g; /* its own, from its beginning to its end */
    stream io;
    host_out out;
    host_server *server;
    host_exchange *x; /* NULL while idle: then it costs this struct, its G and its pollDesc. A
                             * handler may have another one: see hold.c */
    list_link link;   /* conns.c */
    /* atomic, its G writes: since when it is idle, see conns.c; 0: it is not */
    _Atomic int64_t idle_ns;
    uint32_t peer; /* peers.c */
    uint8_t phase, after_flush;
    bool served;         /* a handler has got a request of it */
    _Atomic bool leaves; /* atomic: it is to make room for others */
};

/* Reads up to `room` bytes, at most BODY_READ, into a place of the thread: *data. The count, 0 at the end, -EAGAIN or
 * -errno. By whoever has the connection; does not wait. */
ssize_t conn_read(host_conn *c, size_t room, const char **data);

/* Takes over fd, an accepted connection, and its peer, of peer_enter. refusal: the only status that it answers; 0: it
 * serves. With a P. Does not wait. */
void conn_start(host_server *s, int fd, uint32_t peer, int refusal);

#endif
