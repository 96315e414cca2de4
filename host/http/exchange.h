/* Exchanges: a request and its response, from the first byte of the request to the last byte of the response. See
 * exchange.c, over.c. */
#ifndef EXCHANGE_H
#define EXCHANGE_H

#include "../../runtime/runtime.h"
#include "../serve/server.h"
#include "../vm/luag.h"
#include "../vm/waitfd.h"
#include "http_ffi.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct host_conn host_conn;
typedef struct out_fd out_fd; /* out.h */
typedef struct stream stream; /* net/stream.h */

enum {
    TARGET_MAX = 8192, /* bytes of a request's target; more: 414. Its head: host_limits */
};

enum {
    EXCHANGE_ROOM = 192,
    EXCHANGE_ROOM_IN = 160, /* a head that comes whole and is no longer is kept in the exchange */
    HEAD_READ = 4096,       /* bytes of one read, where a head may come */
    BODY_READ = 16384,      /* bytes of one read, where no head comes */
    HEADERS_GROWN = 32,     /* fields in a larger room, whose size doubles */
};

/* What the protocol of a connection does for an exchange. The holder of the connection calls these functions (hold.c).
 * None waits. Output answers 0; -EAGAIN: the kernel takes no more; -EPIPE: nothing can be written any more, and
 * x->broken is set. */
typedef struct exchange_ops {
    /* Reads more of the request's body into req.body. 1: the body is whole; 0: some came; -EAGAIN: x may wait for RT_R;
     * -EMSGSIZE, -EPROTO, -ENOMEM, -ETIMEDOUT, -ECONNRESET: the body will not become whole. */
    int (*fill)(host_exchange *x);
    /* Queues the head of a response. length: bytes of the body; -1: as many as come. fields: header lines, each with
     * its CRLF. x->no_body: the body is left out. 0, -EPIPE. */
    int (*head)(host_exchange *x, int status, int ctype, const char *fields, size_t n,
                int64_t length);
    /* Queues a piece of the body, at least 1 byte, and sends when much is queued. -EAGAIN: wait for RT_W. */
    int (*write)(host_exchange *x, const char *data, size_t n);
    /* Ends the response with this piece of its body. A long piece stays with the caller: x->left says how much of it
     * was neither sent nor kept, and the answer is -EAGAIN. */
    int (*end)(host_exchange *x, const char *data, size_t n);
    /* Queues n bytes of a file, at least 1, from `at` on, as a piece of the body. The connection holds f until it has
     * sent them. 0, -EPIPE. */
    int (*file)(host_exchange *x, out_fd *f, off_t at, size_t n);
    /* Sends the queued output, then data[0 .. n). A rest of at most `most` bytes is kept. A longer rest stays with the
     * caller: x->left says how much. */
    int (*send)(host_exchange *x, const char *data, size_t n, size_t most);
    /* The response stops short of its end, and the client shall notice. gone: the client is gone or too slow, so the
     * queued output is dropped, and x is broken. */
    void (*cut)(host_exchange *x, bool gone);
    /* The lines of the trailers of a request whose body is whole: *n bytes. NULL: none. */
    const char *(*trailers)(const host_exchange *x, size_t *n);
    /* The pollDesc in which the handler waits for input and room. */
    rt_pd *(*pd)(host_exchange *x);
    /* The stream of the connection, for a handler that goes on with it alone: nothing is queued, and the request is read
     * to its end. *n bytes behind the request were read already: *rest. NULL: other exchanges use the stream. */
    stream *(*lend)(host_exchange *x, const char **rest, size_t *n);
} exchange_ops;

/* A request that is read and answered. Taken from a pool when bytes come, given back when the connection is idle. There
 * are as many as handlers that wait, so it is small: bytes are read into a buffer of the thread, and only the bytes to
 * keep are copied from there. Its memory is never given back to the system: Lua may still hold its pointer, with the id
 * of a request that is over. */
struct host_exchange {
    host_req req; /* what Lua sees; first, so that one pointer names both */
    union {
        host_conn *conn;
        host_exchange *next_free; /* in the pool */
    };
    const exchange_ops *ops; /* the protocol's */
    host_server *server;
    host_luag *lg;         /* its coroutine runs the handler; NULL: not begun */
    host_waitq waitq;      /* the handler's waits for the connection */
    _Atomic uint64_t hold; /* atomic: the holder of the connection, see hold.c */
    rt_g *handler;         /* the handler's G, and its id */
    int64_t handler_id;
    _Atomic int64_t limit_ns; /* atomic: until when the handler has the connection; 0: no limit */
    int64_t begin_ns;         /* when the first bytes were read */

    /* Input: the request head at in[0 .. head_end), bytes not yet parsed at in[in_pos .. in_end). NULL at first. Until
     * the head is whole, head_end is where the line that is not whole begins. */
    char *in;
    uint32_t in_pos, in_end, in_cap, head_end;
    struct host_trailers *trailers; /* http1_body.c; NULL: none */
    uint64_t chunk_left;            /* http1_body.c: bytes of the chunk that are still to come */
    int16_t error;                  /* the status with which the request is refused, or 0 */
    uint8_t headers_cap;            /* exchange_headers_cap */
    uint8_t place;                  /* http1_body.c: where in a chunked body the next byte stands */
    /* atomic: nothing more of this client is to come, so the end of its side means that it waits no more */
    _Atomic bool all_here;
    /* The client was gone before the handler began. The connection's G writes it first, then the handler's G. */
    bool hung_up;
    /* The request is refused, and the app was asked to answer it: handler.c. The connection's G writes it, before the
     * handler begins. */
    bool asked;
    /* The bits are one memory location: only the holder of the connection. */
    bool head_done : 1, message_done : 1;
    /* What the lines read so far say (http1.c): there are fields of these names; Connection has these members; the last
     * coding is chunked. */
    bool has_host : 1, has_length : 1, has_codings : 1;
    bool says_close : 1, says_keep_alive : 1, is_chunked : 1;
    bool in_pieces : 1;          /* the head came in several reads */
    bool expects_100 : 1;        /* the client waits for 100 Continue */
    bool close_after : 1;        /* no further request on this connection */
    bool broken : 1;             /* writing failed: the client is gone */
    bool no_body : 1;            /* HEAD, 204, 304: the body is left out */
    bool chunked : 1;            /* the streamed response is chunked */
    bool paced : 1, waiting : 1; /* pace.c */
    bool body_in : 1;            /* req.body is bytes of in */
    size_t body_seen;            /* bytes of the body so far */
    size_t raw_seen;             /* bytes on the wire after the head */
    int64_t sent;                /* bytes that the kernel took, less those queued when x began */
    union {
        int64_t taken; /* pace.c */
        host_sock *
            lent; /* HOLD_LENT: the socket that has the connection's stream (hijack.c); NULL: it is gone */
    };
    struct {
        uint32_t left_ms, since_ms, moved;
    } pace;             /* pace.c */
    uint32_t answer_us; /* from begin_ns to the beginning of the answer; 0: see over.c */

    /* Of a streamed response: bytes that its Content-Length still promises; -1: it has none. Of a whole one: bytes of
     * the body that only its handler's Lua has. */
    int64_t left;

    double number; /* req.id, also when the request has no name any more; 0: no handler has begun */
    uint32_t slot; /* constant: which of the process's exchanges it is, from 1 on */

    /* Not cleared for the next request: a small head and its headers behind it, or the headers alone. */
    _Alignas(host_header) char room[EXCHANGE_ROOM];
};

/* A fresh exchange for c, whose protocol has these ops. NULL: no memory. With a P. Does not wait. */
host_exchange *exchange_take(host_conn *c, const exchange_ops *ops);
/* Gives x back to the pool, and frees what x holds. With a P. Does not wait. */
void exchange_give(host_exchange *x);

/* The handler has ended: from now on the id that Lua holds names no request. By the VM of the handler. */
static inline void exchange_unname(host_exchange *x) {
    double none = 0;
    __atomic_store(&x->req.id, &none, __ATOMIC_RELAXED);
}

/* Is x the request with this id? Once its handler has ended, the answer stays no, whatever x is used for. Any
 * thread. */
static inline bool exchange_is(const host_exchange *x, double id) {
    double is;
    __atomic_load(&x->req.id, &is, __ATOMIC_RELAXED);
    return is == id;
}

/* The status of C's answer to x where C answers `status` to a request that was not refused. By the holder of the
 * connection, or in the VM. */
static inline int exchange_failure(const host_exchange *x, int status) {
    return x->asked ? x->error : status;
}

/* Makes x the next request of its connection; the bytes that came of it stay. By the holder of the connection. */
void exchange_next(host_exchange *x);

/* Appends to in[.. in_end). 0 or -ENOMEM. By the holder of the connection. */
int exchange_keep(host_exchange *x, const char *data, size_t len);

/* The body is whole, and is in[in_pos .. in_pos + len): it stays there, so that nothing is copied. Nothing comes to `in`
 * before the request is over. */
void exchange_body_in(host_exchange *x, size_t len);

/* Appends to the body, behind req.body[.. body_len). 0; -ENOMEM: no memory, or more than the VM may have (charge.c). In
 * the VM. */
int exchange_keep_body(host_exchange *x, const char *data, size_t len);

/* The header fields of the request, to be filled while the head is read. */
static inline host_header *exchange_headers(host_exchange *x) {
    return (host_header *)x->req.headers;
}

/* How many fields have room there. A larger room is a block of its own, of HEADERS_GROWN << n fields: then headers_cap
 * is HEADERS_GROWN + n. */
static inline uint32_t exchange_headers_cap(const host_exchange *x) {
    uint8_t cap = x->headers_cap;
    return cap < HEADERS_GROWN ? cap : (uint32_t)HEADERS_GROWN << (cap - HEADERS_GROWN);
}

/* The pollDesc of a handler's connection and the queue of its waits. NULL: the handler has no connection any more, or
 * the request is over. Until exchange_pd_give nothing may raise. By the VM of the handler. */
rt_pd *exchange_pd_take(host_req *r, double id, host_waitq **q);
void exchange_pd_give(host_req *r);

#endif
