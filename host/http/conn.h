/* Connections of any protocol. See conn.c. */
#ifndef CONN_H
#define CONN_H

#include "../../runtime/runtime.h"
#include "../net/stream.h"
#include "../serve/conns.h"
#include "../serve/server.h"
#include "exchange.h"
#include "out.h"

/* What a connection does when its G runs. */
typedef enum conn_phase {
    CONN_SERVE,  /* the protocol has its turn */
    CONN_SHAKE,  /* of TLS: the handshake, before the protocol's first turn */
    CONN_FLUSH,  /* writes the queued output, then goes on to `after_flush` */
    CONN_SHUT,   /* of TLS: waits until the kernel has taken all, to shut its side down */
    CONN_LINGER, /* has shut its side down, reads until the peer has, too */
    CONN_END,    /* closes the connection */
} conn_phase;

/* What a turn answers if the G goes on at once, with the phase that c->phase says by then. */
enum { CONN_NEXT = -1 };

/* What is spoken on a connection. Only the connection's G calls these functions, refuse excepted. None waits. */
typedef struct conn_protocol {
    /* A turn: reads, begins and ends exchanges, prepares a wait. Answers RT_PARK, RT_YIELD or CONN_NEXT. */
    int (*serve)(host_conn *c);
    /* Sends the queued output. 0: all is sent. -EAGAIN: wait for RT_W, until *until_ns (rt_nanotime). -EINPROGRESS:
     * call again when other Gs have run. Another -errno: the client is gone or too slow. */
    int (*flush)(host_conn *c, int64_t *until_ns);
    /* True: the client may have sent what nobody has read. Asked before the connection lingers. */
    bool (*unread)(const host_conn *c);
    /* The connection ends: parts with its exchanges, which are over. */
    void (*end)(host_conn *c);
    /* A new connection shall answer this status, and nothing else: its first turns do so. Before the protocol's first
     * turn, with a P. 0 or -ENOMEM. */
    int (*refuse)(host_conn *c, int status);
} conn_protocol;

struct host_conn {
    server_conn base; /* first */
    rt_g *g;          /* the connection's own G, from its beginning to its end */
    stream io;
    host_out out;
    union {
        /* HTTP/1: the present exchange; NULL while idle: then the connection costs this struct, its G and its
         * pollDesc. A handler may have an older exchange: see hold.c. */
        host_exchange *x;
        struct conn_shake *shake; /* CONN_SHAKE: conn.c */
        struct {
            uint32_t since_ms; /* when it began; wraps */
            uint32_t seen;     /* bytes that came since the deadline was set */
        } linger;              /* CONN_SHUT, CONN_LINGER */
    };
    uint8_t phase, after_flush;
    uint8_t state; /* the protocol's: what its next turn does; 0 at first */
    bool served;   /* a handler has got a request of the connection */
};

_Static_assert(sizeof(struct host_conn) <= 120,
               "an idle connection must stay small: host/README.md");

/* The bytes of this thread's last read. */
extern __thread char conn_arrived[BODY_READ];

/* ---- for protocols; only the connection's G, which has the connection; none waits ---- */

/* Reads up to `room` bytes, at most BODY_READ, into a buffer of the thread: *data. Returns the count; 0: the end;
 * -EAGAIN: wait for RT_R; another -errno. Also for the handler that holds the connection (hold.c). */
static inline ssize_t conn_read(host_conn *c, size_t room, const char **data) {
    *data = conn_arrived;
    return stream_read(&c->io, conn_arrived, room);
}

/* Prepares a wait for the descriptor (RT_R, RT_W, RT_RW): what the turn answers. The next turn asks rt_pd_check. */
static inline int conn_wait(host_conn *c, int mode) {
    rt_clear_cancel(c->g); /* a cancellation so far was meant for a handler that has ended */
    int r = rt_pd_prepare(c->io.pd, mode, mode == RT_W ? RT_WAIT_WRITE : RT_WAIT_READ, c->g);
    /* 0 and errors: the next turn sees them. */
    return r == RT_PARKED ? (int)RT_PARK : CONN_NEXT;
}

/* Between two requests: prepares a wait of --idle-timeout for the next one. now_ns: rt_nanotime. The turn answers what
 * conn_wait_idle answers. */
int conn_wait_idle(host_conn *c, int64_t now_ns);

/* Sends what is queued, then goes on with phase `after`: CONN_SERVE, the protocol's next turn; CONN_LINGER, if the
 * client shall get all that was sent; CONN_END. */
static inline int conn_flush(host_conn *c, conn_phase after) {
    c->phase = CONN_FLUSH;
    c->after_flush = (uint8_t)after;
    return CONN_NEXT;
}

/* Closes the connection, without an orderly end. */
static inline int conn_close(host_conn *c) {
    c->phase = CONN_END;
    return CONN_NEXT;
}

/* True: the connection shall close to make room for others, unless a request has come. */
static inline bool conn_leaves(const host_conn *c) {
    return atomic_load_explicit(&c->base.leaves, memory_order_relaxed);
}

/* A request has come: the connection is idle no more. */
static inline void conn_wake(host_conn *c) {
    atomic_store_explicit(&c->base.idle_ns, 0, memory_order_relaxed);
    if (conn_leaves(c)) conns_stay(&c->base);
}

static inline bool conn_stopping(const host_conn *c) {
    return atomic_load_explicit(&c->base.server->stopping, memory_order_relaxed);
}

static inline const host_limits *conn_limits(const host_conn *c) {
    return c->base.server->listener.limits;
}

/* ---- for servers ---- */

/* Takes over fd, an accepted connection, and its client. p: what is spoken, within TLS if s has certificates. refusal: the only status that
 * the connection answers; 0: it serves. With a P. Does not wait. */
void conn_start(host_server *s, int fd, server_client client, const conn_protocol *p, int refusal);

/* The connection's G looks at what has changed: see server_protocol. Any thread. Does not wait. */
void conn_look(server_conn *base);

#endif
