/* Exchanges: a request and its response, from the first byte of the one to the last of the other. See exchange.c, over.c. */
#ifndef EXCHANGE_H
#define EXCHANGE_H

#include "../../runtime/runtime.h"
#include "../vm/luag.h"
#include "../vm/waitfd.h"
#include "http_ffi.h"
#include "server.h"

#include <llhttp.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct host_conn host_conn;

enum {
    HEAD_MAX = 16384,  /* bytes of a request head: else 431 */
    TARGET_MAX = 8192, /* of its target: else 414 */
    HEADERS_MAX = 100, /* header fields: else 431 */
};

enum {
    EXCHANGE_ROOM = 224,
    EXCHANGE_ROOM_IN = 160, /* a head that comes whole and is not longer stands there */
    HEAD_READ = 4096,       /* at once, of what may be a head */
    BODY_READ = 16384,      /* of what is not */
    HEADERS_GROWN = 32,     /* room for so many, if what is inline does not do, and then for all */
};

/* What the protocol of a connection does for an exchange. Each function is called by who has the connection (hold.c), and
 * does not wait. Output answers 0; -EAGAIN: the kernel takes no more; -EPIPE: nothing can be written any more, x->broken
 * says so. */
typedef struct exchange_ops {
    /* Reads more of the request's body into req.body. 1: the body is whole; 0: some came; -EAGAIN: x may wait for RT_R;
     * -EMSGSIZE, -EPROTO, -ENOMEM, -ETIMEDOUT, -ECONNRESET: the body has no end. */
    int (*fill)(host_exchange *x);
    /* Queues the head of a response whose body has `length` bytes, -1: so many as come. fields: lines, each with its
     * CRLF. x->no_body says whether the body is left out. 0, -EPIPE. */
    int (*head)(host_exchange *x, int status, int ctype, const char *fields, size_t n,
                int64_t length);
    /* Keeps a piece of the body, at least 1 byte, and sends if much has come together. -EAGAIN: wait for RT_W. */
    int (*write)(host_exchange *x, const char *data, size_t n);
    /* The response ends with this piece of its body, which stands at the caller's if it is long: x->left says how much of
     * it neither left nor was kept; then also -EAGAIN. */
    int (*end)(host_exchange *x, const char *data, size_t n);
    /* The response ends with the first n bytes of a file, at least 1. Takes fd over. What the kernel does not take at once
     * is the connection's to send, so x->left says nothing, nor does -EAGAIN. */
    int (*end_file)(host_exchange *x, int fd, size_t n);
    /* Sends what is queued, and then data[0 .. n), of which a rest is kept, unless it is more than `most`: then x->left
     * says how much. */
    int (*send)(host_exchange *x, const char *data, size_t n, size_t most);
    /* The response stops short of its end, and the client is to know. gone: it is not there any more, or too slow, so
     * what is queued is forgotten, and x is broken. */
    void (*cut)(host_exchange *x, bool gone);
    /* In which the handler waits for input and room. */
    rt_pd *(*pd)(host_exchange *x);
} exchange_ops;

/* A request being read and answered. Taken from a pool when bytes come, given back when the
 * connection is idle. There are as many as handlers that wait, so it is small: what comes is read into
 * a buffer of the thread, and what must be kept is copied from there.
 * Its memory is never given back to the system: Lua may still hold its pointer, with the id of a request that is
 * over. */
struct host_exchange {
    host_req req; /* what Lua sees; first, so that one pointer is both */
    union {
        host_conn *conn;
        host_exchange *next_free; /* in the pool */
    };
    const exchange_ops *ops; /* its protocol's */
    host_server *server;
    host_luag *lg;         /* whose coroutine runs the handler; NULL: it has not begun */
    host_waitq waitq;      /* the handler's waits for the connection */
    _Atomic uint64_t hold; /* atomic: who has the connection, see hold.c */
    rt_g *handler;         /* the handler's, and its id */
    int64_t handler_id;
    _Atomic int64_t limit_ns; /* atomic: the handler has the connection until then; 0: no limit */
    union {
        int64_t begin_ns;  /* when its first bytes were read */
        int64_t linger_ns; /* when LINGER began */
    };

    /* Input: bytes of the request head at in[0 .. head_end), not yet parsed ones at
     * in[in_pos .. in_end). NULL at first. */
    char *in;
    uint32_t in_pos, in_end, in_cap, head_end;
    llhttp_t *parser; /* what has begun and is not over; NULL: nothing */
    int16_t error;    /* status that the parser's callbacks ask for, or 0 */
    uint8_t headers_cap;
    uint8_t n_hosts; /* fields of that name, 255: or more */
    /* atomic: nothing more is to come, so the end of the client's side means that it does not wait any more */
    _Atomic bool all_here;
    /* The client was gone before the handler began. Written by the connection's G until then, by the handler's after. */
    bool hung_up;
    /* The bits are one memory location: whoever has the connection. */
    bool head_done : 1, message_done : 1, in_value : 1;
    bool in_pieces : 1;          /* the head came in several reads */
    bool keep_alive : 1;         /* the request allows another one */
    bool expects_100 : 1;        /* and has not been told to go on */
    bool drop_body : 1;          /* nobody wants it */
    bool close_after : 1;        /* no further request on this connection */
    bool broken : 1;             /* writing failed: the client is gone */
    bool no_body : 1;            /* HEAD, 204, 304: the body is left out */
    bool chunked : 1;            /* of the streamed response */
    bool paced : 1, waiting : 1; /* pace.c */
    bool in_trailers : 1;        /* of the body; and there, */
    bool line_begins : 1;        /* with the next byte */
    size_t body_seen;            /* bytes of the body so far */
    size_t raw_seen;             /* bytes on the wire after the head */
    int64_t sent;  /* bytes that the kernel took, less those that were queued when x began */
    int64_t taken; /* pace.c */
    struct {
        uint32_t left_ms, since_ms, moved;
    } pace;             /* pace.c */
    uint32_t answer_us; /* from begin_ns to the beginning of the answer; 0: over.c */

    /* Of a streamed response, bytes that its Content-Length still promises; -1: none does. Of a whole one, bytes of the
     * body that only its handler's Lua has. */
    int64_t left;

    /* What follows is not cleared for the next request: a small head and behind it its headers; or the headers alone. */
    _Alignas(host_header) char room[EXCHANGE_ROOM];
};

/* A fresh exchange for c, of the protocol that has these ops; NULL: no memory. With a P. Does not wait. */
host_exchange *exchange_take(host_conn *c, const exchange_ops *ops);
/* Gives x back to the pool, with what it holds. With a P. Does not wait. */
void exchange_give(host_exchange *x);

/* The handler has ended: what Lua holds of the request names nothing any more. By the VM of its handler. */
static inline void exchange_unname(host_exchange *x) {
    double none = 0;
    __atomic_store(&x->req.id, &none, __ATOMIC_RELAXED);
}

/* Is x the request of that id? Once its handler has ended the answer stays no, whatever x is used for then. Any thread. */
static inline bool exchange_is(const host_exchange *x, double id) {
    double is;
    __atomic_load(&x->req.id, &is, __ATOMIC_RELAXED);
    return is == id;
}

/* Makes x the next request of its connection, with the bytes of that request that are there. By who has the
 * connection. */
void exchange_next(host_exchange *x);

/* Appends to in[.. in_end). 0 or -ENOMEM. By who has the connection. */
int exchange_keep(host_exchange *x, const char *data, size_t len);

/* Appends to the body, behind req.body[.. body_len). 0; -ENOMEM: or more than the VM may have (charge.c). In the VM. */
int exchange_keep_body(host_exchange *x, const char *data, size_t len);

/* The header fields of the request, while they are being read. */
static inline host_header *exchange_headers(host_exchange *x) {
    return (host_header *)x->req.headers;
}

/* The pollDesc and the queue of a handler that waits for its connection; NULL: the handler has no connection any more, or
 * that request is over. Until exchange_pd_give nothing may raise. By the VM of the handler. */
rt_pd *exchange_pd_take(host_req *r, double id, host_waitq **q);
void exchange_pd_give(host_req *r);

#endif
