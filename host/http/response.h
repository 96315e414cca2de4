/* Responses, of any protocol. See response.c. Only the holder of the connection calls these functions. None waits. */
#ifndef RESPONSE_H
#define RESPONSE_H

#include "exchange.h"

enum { REST_MAX = 65536 /* up to this a rest of a whole body is copied */ };

/* Answers x from C with this status, whose reason phrase is the body. */
void response_error(host_exchange *x, int status);

/* Answers x from C, as a whole. head: header lines, each with its CRLF, of the content type, too. The body is body[0 ..
 * body_len), at most REST_MAX bytes, or `size` bytes of the file f from `at` on, which the connection sends. */
void response_bytes(host_exchange *x, int status, const char *head, size_t head_len,
                    const char *body, size_t body_len);
void response_file(host_exchange *x, int status, const char *head, size_t head_len, out_fd *f,
                   int64_t at, int64_t size);

/* A text, at least 1 byte, and then `size` bytes of a file from `at` on. */
typedef struct response_part {
    const char *text;
    size_t text_len;
    int64_t at, size;
} response_part;

/* Answers x, a GET request, from C with n parts of the file f, or of bytes if f is NULL. All are queued, so the ranges
 * of f shall be few, and those of bytes REST_MAX bytes at most. */
void response_parts(host_exchange *x, int status, const char *head, size_t head_len,
                    const response_part *parts, int n, out_fd *f, const char *bytes);

/* What a call answers that has output which the kernel does not take: -EAGAIN: the handler shall wait until the client
 * has read some; -ETIMEDOUT: the client is too slow, and nothing more is sent. */
int response_wait(host_exchange *x);

/* True: the response has begun, and is not whole without its handler. */
static inline bool response_is_partial(const host_exchange *x) {
    return x->req.state == 1 || (x->req.state == 2 && x->left > 0);
}

#endif
