/* Connections. See conn.c. */
#ifndef CONN_H
#define CONN_H

#include "../../runtime/runtime.h"
#include "../net/stream.h"
#include "../serve/server.h"
#include "exchange.h"
#include "out.h"

/* What a connection does when its G runs. */
typedef enum conn_phase {
    CONN_HEAD,   /* waits for a request head, or for the rest of one */
    CONN_BIND,   /* waits for a VM that is being made */
    CONN_BOUND,  /* waits for the handler: hold.c */
    CONN_DRAIN,  /* reads the rest of a body that the handler did not want */
    CONN_FLUSH,  /* writes the queued output, then goes on to `after_flush` */
    CONN_LINGER, /* has shut its side down, reads until the peer has, too */
    CONN_REFUSE, /* C answers x->error */
    CONN_END,    /* closes the connection */
} conn_phase;

struct host_conn {
    server_conn base; /* first */
    rt_g *g;          /* the connection's own G, from its beginning to its end */
    stream io;
    host_out out;
    /* The present exchange; NULL while idle: then the connection costs this struct, its G and its pollDesc. A handler
     * may have an older exchange: see hold.c. */
    host_exchange *x;
    uint8_t phase, after_flush;
    bool served; /* a handler has got a request of the connection */
};

/* HTTP/1, for a listener. */
extern const server_protocol http_protocol;

/* Reads up to `room` bytes, at most BODY_READ, into a buffer of the thread: *data. Returns the count; 0: the end;
 * -EAGAIN: wait for RT_R; another -errno. Only the holder of the connection (hold.c). Does not wait. */
ssize_t conn_read(host_conn *c, size_t room, const char **data);

/* Takes over fd, an accepted connection, and its client. refusal: the only status that the connection
 * answers; 0: it serves. With a P. Does not wait. */
void conn_start(host_server *s, int fd, server_client client, int refusal);

#endif
