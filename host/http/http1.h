/* HTTP/1: requests from bytes (http1.c, http1_body.c), its exchange_ops (http1_exchange.c), its connections
 * (http1_conn.c). Only the holder of the connection calls these functions. None waits. */
#ifndef HTTP1_H
#define HTTP1_H

#include "conn.h"
#include "exchange.h"

/* What the next turn of a connection does: its `state`. */
typedef enum http1_state {
    HTTP1_HEAD,   /* waits for a request head, or for the rest of one */
    HTTP1_BIND,   /* waits for a VM that is being made */
    HTTP1_BOUND,  /* waits for the handler: hold.c */
    HTTP1_DRAIN,  /* reads the rest of a body that the handler did not want */
    HTTP1_DONE,   /* the response and the rest of the request are done: goes on with the next one */
    HTTP1_REFUSE, /* C answers x->error */
} http1_state;

/* HTTP/1, for a connection. */
extern const conn_protocol http1_protocol;

/* Parses in[in_pos .. in_end) as a head. 1: the head is whole; 0: all bytes are used up; -status: the head is wrong
 * or asks for what is not served, and the answer has this status. */
int http1_head(host_exchange *x);

/* Parses in[in_pos .. in_end) as body. keep: the body goes into req.body; else it is dropped. 1: the message is whole;
 * 0: all bytes are used up; -EMSGSIZE; -EPROTO; -ENOMEM. */
int http1_body(host_exchange *x, bool keep);

/* Parses data[0 .. len) as body. `in` has no unparsed bytes before; afterwards it has the bytes behind the message.
 * Answers as http1_body. */
int http1_body_of(host_exchange *x, const char *data, size_t len, bool keep);

/* Moves in_pos behind line ends, which a client may send behind a request. They are no beginning of the next one. */
void http1_skip_lines(host_exchange *x);

/* A field of a head or of trailers. The value has no spaces around it. */
typedef struct http1_line {
    const char *name, *name_end, *value, *value_end;
} http1_line;

/* Reads the field whose line begins at *at. The bytes end at `end`. 1: *at is behind the line; 0: the line is not whole;
 * -400. */
int http1_field(const char **at, const char *end, http1_line *f);

/* The lines of the trailers of a message that is whole: *n bytes. NULL: none. */
const char *http1_trailers(const host_exchange *x, size_t *n);

/* HTTP/1, for an exchange. */
extern const exchange_ops http1_ops;

/* Sends the queued output. 0: all is sent; -EAGAIN: wait for RT_W; -EINPROGRESS: call again when other Gs have run;
 * -EPIPE. */
int http1_flush(host_exchange *x);

#endif
