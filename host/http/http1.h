/* HTTP/1: requests from bytes (http1.c), what its exchanges do (http1_exchange.c). By whoever has the connection; nothing
 * here waits. */
#ifndef HTTP1_H
#define HTTP1_H

#include "exchange.h"

/* Parses in[in_pos .. in_end). 1: the head is whole; 0: all bytes are used up; -status: the head is wrong. */
int http1_head(host_exchange *x);

/* Parses in[in_pos .. in_end) as body. 1: the message is whole; 0: all bytes are used up; -EMSGSIZE, -EPROTO, -ENOMEM.
 * keep: the body goes into req.body; else it is dropped. */
int http1_body(host_exchange *x, bool keep);

/* Parses data[0 .. len) as body, while there are no bytes in `in`; the bytes behind the message go there. Answers as
 * http1_body. */
int http1_body_of(host_exchange *x, const char *data, size_t len, bool keep);

extern const exchange_ops http1_ops;

/* Sends what is queued. 0: all of it; -EAGAIN; -EINPROGRESS: call again, when others have had a turn; -EPIPE. */
int http1_flush(host_exchange *x);

#endif
