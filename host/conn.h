/* Connections: the data that conn.c, http1.c and response.c share. See conn.c. */
#ifndef CONN_H
#define CONN_H

#include "host.h"

#include <llhttp.h>

/* What a connection does when its G runs. */
typedef enum conn_phase {
    CONN_HEAD,   /* waits for a request head, or has part of one */
    CONN_BOUND,  /* a handler runs, or is about to */
    CONN_DRAIN,  /* reads the rest of a body that the handler did not want */
    CONN_FLUSH,  /* writes what is queued, then goes on to `after_flush` */
    CONN_LINGER, /* has shut its side down, reads until the peer has too */
} conn_phase;

struct host_conn {
    rt_g *g;
    rt_pd *pd;
    host_server *server;
    host_xfer *x;           /* NULL while idle: then it costs this struct, its G and its pollDesc */
    host_conn *prev, *next; /* server->lock */
    int fd;
    uint8_t phase, after_flush;
    bool drained; /* the last read was short */
};

/* A request being read and answered. Taken from a pool when bytes come, given back when the
 * connection is idle. */
struct host_xfer {
    host_req req; /* what Lua sees; first, so that one pointer is both */
    host_conn *conn;
    host_xfer *next_free;
    llhttp_t parser;
    host_luag *lg;    /* whose coroutine runs the handler */
    host_waitq waitq; /* the handler's waits for the connection */

    /* Input: bytes of the request head at in[0 .. head_end), not yet parsed ones at
     * in[in_pos .. in_end). */
    char *in;
    size_t in_pos, in_end, in_cap, head_end;
    bool head_done, message_done, in_value;
    bool keep_alive;  /* the request allows another one */
    bool expects_100; /* and has not been told to go on */
    bool drop_body;   /* nobody wants it */
    int error;        /* status that the parser's callbacks ask for, or 0 */
    uint32_t n_hosts;
    size_t body_cap, body_seen; /* room; bytes of the body so far */
    size_t raw_seen;            /* bytes on the wire after the head */

    /* Output: out[out_pos .. out_end) is queued. */
    char *out;
    size_t out_pos, out_end, out_cap;
    bool close_after;    /* no further request on this connection */
    bool broken;         /* writing failed: the client is gone */
    bool no_body;        /* HEAD, 204, 304: the body is left out */
    bool chunked;        /* of the streamed response */
    int64_t stream_left; /* bytes that its Content-Length still promises; -1: none does */

    host_header headers[HEADERS_MAX];
    char in_first[IN_SIZE];
    char out_first[OUT_SIZE];
};

/* http1.c */
void http1_begin(host_xfer *x);
/* Parses in[in_pos .. in_end) until the head is done (1), all is used up (0), or wrong: -status. */
int http1_head(host_xfer *x);
/* The same for the body: 1 when the message is done, 0, or -errno (-EMSGSIZE, -EPROTO). keep: into
 * req.body; else it is dropped. */
int http1_body(host_xfer *x, bool keep);

/* response.c */
/* A short answer from C, which closes the connection afterwards if close is set. */
void response_error(host_xfer *x, int status, bool close);
/* Sends out[out_pos ..). 0: all of it, -EAGAIN, or -EPIPE. */
int response_flush(host_xfer *x);
/* Queues bytes. 0 or -ENOMEM. */
int response_queue(host_xfer *x, const char *data, size_t len);

/* conn.c: reads into in[in_end ..). The count, 0 at the end, -EAGAIN or -errno. */
ssize_t conn_read(host_xfer *x);

#endif
