/* Connections: the data that conn.c, hold.c, http1.c and response.c share. See conn.c, hold.c. */
#ifndef CONN_H
#define CONN_H

#include "host.h"

#include <llhttp.h>

/* What a connection does when its G runs. */
typedef enum conn_phase {
    CONN_HEAD,   /* waits for a request head, or has part of one */
    CONN_BIND,   /* waits for a VM that is being made */
    CONN_BOUND,  /* a handler runs, or is about to */
    CONN_DRAIN,  /* reads the rest of a body that the handler did not want */
    CONN_FLUSH,  /* writes what is queued, then goes on to `after_flush` */
    CONN_LINGER, /* has shut its side down, reads until the peer has too */
    CONN_REFUSE, /* is to answer x->error from C */
    CONN_END,    /* is to be closed */
} conn_phase;

struct host_conn {
    rt_g *g;
    rt_pd *pd;
    host_server *server;
    host_xfer *x;           /* NULL while idle: then it costs this struct, its G and its pollDesc. A
                             * handler may have another one: see hold.c */
    host_conn *prev, *next; /* server->lock */
    int fd;
    uint8_t phase, after_flush;
    bool drained; /* the last read was short */
    bool watched; /* the pollDesc's hup cancels g */
};

/* The watchdog of a handler, and the word that says who has the connection; see hold.c. Never given
 * back to the system. */
typedef struct host_watch {
    rt_timer timer;         /* set by who begins, and in calls; `until` is when they part */
    _Atomic uint64_t word;  /* atomic: HOLD_..., a status above it, a turn above that */
    _Atomic int32_t wanted; /* atomic: the status that the timer means if it is not 504 */
    union {
        host_xfer *x; /* whoever has moved the word */
        struct host_watch *next_free;
    };
} host_watch;

enum {
    HOLD_NONE,
    HOLD_FREE,
    HOLD_CALL,
    HOLD_WANTED,
    HOLD_PARTING,
    HOLD_GONE,
    HOLD_ENDED,
    HOLD_MASK = 7,
    HOLD_BITS = 3,
    HOLD_TURN = 16, /* bits below the turn */
};

enum {
    XFER_ROOM = 240,
    XFER_ROOM_IN = 160, /* a head that comes whole and is not longer stands there */
    HEAD_READ = 4096,   /* at once, of what may be a head */
    BODY_READ = 16384,  /* of what is not */
    HEADERS_GROWN = 32, /* room for so many, if what is inline does not do, and then for all */
};

/* A request being read and answered. Taken from a pool when bytes come, given back when the
 * connection is idle. There are as many as handlers that wait, so it is small: what comes is read into
 * a buffer of the thread, and what must be kept is copied from there. */
struct host_xfer {
    host_req req; /* what Lua sees; first, so that one pointer is both */
    union {
        host_conn *conn;
        host_xfer *next_free; /* in the pool */
    };
    host_server *server;
    host_luag *lg;    /* whose coroutine runs the handler; NULL: it has not begun */
    host_waitq waitq; /* the handler's waits for the connection */
    int64_t limit_ns; /* the handler's deadline; 0: none */
    int64_t read_ns;  /* when the read came that brought the head; 0: it came in several */

    /* Input: bytes of the request head at in[0 .. head_end), not yet parsed ones at
     * in[in_pos .. in_end). NULL at first. */
    char *in;
    uint32_t in_pos, in_end, in_cap, head_end;
    llhttp_t *parser;     /* what has begun and is not over; NULL: nothing */
    host_header *headers; /* in room, or of their own if they are more than fit */
    uint16_t headers_cap;
    uint16_t n_hosts;
    int error; /* status that the parser's callbacks ask for, or 0 */
    bool head_done, message_done, in_value;
    bool keep_alive;            /* the request allows another one */
    bool expects_100;           /* and has not been told to go on */
    bool drop_body;             /* nobody wants it */
    bool hung_up;               /* before the handler began, and with nothing else to come */
    bool parted;                /* the handler has ended, without the connection */
    size_t body_cap, body_seen; /* room; bytes of the body so far */
    size_t raw_seen;            /* bytes on the wire after the head */
    size_t sent;                /* bytes that the kernel took */

    /* Output: out[out_pos .. out_end) is queued. NULL: nothing is; see response.c. */
    char *out;
    size_t out_pos, out_end, out_cap;
    bool close_after;    /* no further request on this connection */
    bool broken;         /* writing failed: the client is gone */
    bool no_body;        /* HEAD, 204, 304: the body is left out */
    bool chunked;        /* of the streamed response */
    int64_t stream_left; /* bytes that its Content-Length still promises; -1: none does */

    /* What follows outlives a request. */
    host_watch *watch;
    /* A small head and behind it its headers; or the headers alone. */
    _Alignas(host_header) char room[XFER_ROOM];
};

/* http1.c */
/* Parses in[in_pos .. in_end) until the head is done (1), all is used up (0), or wrong: -status. */
int http1_head(host_xfer *x);
/* The same for the body: 1 when the message is done, 0, or -errno (-EMSGSIZE, -EPROTO, -ENOMEM). keep:
 * into req.body; else it is dropped. */
int http1_body(host_xfer *x, bool keep);
/* The same of data[0 .. len), while there are no bytes in `in`. What it does not use goes there. */
int http1_body_of(host_xfer *x, const char *data, size_t len, bool keep);

/* response.c */
/* A short answer from C, which closes the connection afterwards if close is set. */
void response_error(host_xfer *x, int status, bool close);
/* Sends out[out_pos ..). 0: all of it, -EAGAIN, or -EPIPE. */
int response_flush(host_xfer *x);
/* Queues bytes. 0 or -ENOMEM. */
int response_queue(host_xfer *x, const char *data, size_t len);
/* Lets go of the output and its buffer. */
void response_drop(host_xfer *x);

/* xfer.c */
/* A fresh xfer for c, or NULL; and back to the pool with what it holds. With a P. */
host_xfer *xfer_take(host_conn *c);
void xfer_give(host_xfer *x);
/* Begins anew for the next request, with the bytes of it that are there, and what is queued. */
void xfer_next(host_xfer *x);
/* Appends to in[.. in_end). 0 or -ENOMEM. */
int xfer_keep(host_xfer *x, const char *data, size_t len);

/* conn.c */
/* Starts a new G for a connection that has left the old one to its handler. The caller has c, and
 * afterwards not any more. */
void conn_go(host_conn *c);

/* hold.c */
bool watch_take(host_xfer *x);
void watch_give(host_xfer *x);
/* A handler gets the connection, until --handler-timeout from now_ns. From then on only who holds the
 * word may touch the connection. */
int64_t hold_begin(host_xfer *x, int64_t now_ns);
/* The handler has ended, or will not begin: true: the connection is its G's again. False: they have
 * parted; then hold_forget gives the xfer back, and the G exits. */
bool hold_end(host_xfer *x);
void hold_forget(host_xfer *x);
/* In a call: bytes of a streamed response went out. */
void hold_renew(host_xfer *x);
/* The status with which C has answered in the handler's place; 0: it has not. By the handler's VM. */
int hold_status(host_xfer *x);
static inline bool hold_lost(host_xfer *x) {
    return (atomic_load_explicit(&x->watch->word, memory_order_acquire) & HOLD_MASK) >=
           HOLD_PARTING;
}
void hold_leave(host_xfer *x);

/* What is asked for, "GET /path", by another thread than the handler's, which does not end meanwhile. */
void hold_name(host_xfer *x, char *buf, size_t size);
/* The same of a handler that does not run. */
int hold_print_name(const host_xfer *x, char *buf, size_t size);
bool hold_take_slowly(host_xfer *x);

/* Around each call by which a handler reaches its connection, on any M, with a P or without. False:
 * there is none any more. Nothing between the two may wait or raise. */
static inline bool hold_take(host_xfer *x) {
    uint64_t word = atomic_load_explicit(&x->watch->word, memory_order_relaxed);
    return ((word & HOLD_MASK) == HOLD_FREE &&
            atomic_compare_exchange_strong_explicit(&x->watch->word, &word,
                                                    word - HOLD_FREE + HOLD_CALL,
                                                    memory_order_acquire, memory_order_relaxed)) ||
           hold_take_slowly(x);
}

static inline void hold_give(host_xfer *x) {
    uint64_t word = atomic_load_explicit(&x->watch->word, memory_order_relaxed);
    if ((word & HOLD_MASK) != HOLD_CALL || !atomic_compare_exchange_strong_explicit(
                                               &x->watch->word, &word, word - HOLD_CALL + HOLD_FREE,
                                               memory_order_release, memory_order_relaxed))
        hold_leave(x);
}

#endif
