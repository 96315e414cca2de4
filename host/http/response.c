/* Responses: a handler's or C's answer to a request, of any protocol (exchange_ops). This file sees to it that a
 * response begins once, ends once, and has as many bytes as it promised, and limits the time it may take.
 *
 * A response is known as a whole (host_respond), or streamed: begin, write, ..., end. A short rest of a whole response
 * that the client does not take at once is kept. A long rest (REST_MAX) is not kept but waited for: the handler's G
 * goes on with it when there is room (host_respond_rest), and holds the Lua string meanwhile. So a client that does not
 * read costs the buffer of its connection, however large the answer is, and clients that are sent the same string share
 * it. Until then such a response is partial, like a streamed one: if its handler ends before, the client notices that
 * the response was cut. A file (host_respond_file) needs no handler that waits: it is in no VM's memory, and the
 * connection sends it.
 */
#include "accept.h"
#include "hold.h"
#include "method.h"
#include "out.h"
#include "over.h"
#include "pace.h"
#include "response.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

/* True: HEAD, 1xx, 204, 304. The client would take a body for the next response. */
static bool has_no_body(const host_exchange *x, int status) {
    return x->req.method == METHOD_HEAD || status < 200 || status == 204 || status == 304;
}

/* Begins the response. state: its req.state from now on. 0, -EPIPE. */
static inline int begin(host_exchange *x, int state, int status, int ctype, const char *head,
                        size_t head_len, int64_t length) {
    x->req.state = (uint8_t)state;
    if (x->broken) return -EPIPE;
    x->req.status = (uint16_t)status;
    x->no_body = has_no_body(x, status);
    return x->ops->head(x, status, ctype, head, head_len, length);
}

/* ---- whole responses ---- */

/* The deadline is early enough for the handler to get its time anew if the client reads, however slowly. */
int response_wait(host_exchange *x) {
    bool moved;
    int64_t until = pace_write(x, &moved),
            limit = (int64_t)(x->server->listener.limits->handler_timeout * 1e9 / 2);
    if (until == 0) {
        x->ops->cut(x, true);
        return -ETIMEDOUT;
    }
    int64_t now = rt_nanotime();
    exchange_answers(x, now);
    if (moved) hold_renew(x);
    if (limit > 0 && until > now + limit) until = now + limit;
    rt_pd_set_deadline(x->ops->pd(x), RT_W, until);
    return -EAGAIN;
}

/* Answers x as a whole. The caller has the connection. */
static inline int respond(host_exchange *x, int status, int ctype, const char *head,
                          size_t head_len, const char *body, size_t body_len) {
    int rc = begin(x, 2, status, ctype, head, head_len, (int64_t)body_len);
    if (rc) return rc;
    rc = x->ops->end(x, body, x->no_body ? 0 : body_len);
    if (rc == -EPIPE) return rc;
    return x->left ? response_wait(x) : 0;
}

/* For a call from Lua: takes x if it is the request with this id and its response is at `state`. 0; -EALREADY: another
 * state; -EPIPE: the request is over, or has lost its connection. */
static inline int take_at(host_exchange *x, double id, int state) {
    if (!exchange_is(x, id)) return -EPIPE;
    if (x->req.state != state) return -EALREADY;
    return hold_take(x) ? 0 : -EPIPE;
}

int host_respond(host_req *r, double id, int status, int ctype, const char *head, size_t head_len,
                 const char *body, size_t body_len) {
    host_exchange *x = (host_exchange *)r;
    int rc = take_at(x, id, 0);
    if (rc) return rc;
    rc = respond(x, status, ctype, head, head_len, body, body_len);
    hold_give(x);
    return rc;
}

/* Answers x with a range of a file. The caller has the connection, and holds f. f NULL: the answer has no body. */
static int respond_file(host_exchange *x, int status, int ctype, const char *head, size_t head_len,
                        out_fd *f, int64_t at, int64_t size) {
    int rc = begin(x, 2, status, ctype, head, head_len, size);
    if (!rc && f) {
        exchange_answers(x, rt_nanotime());
        rc = x->ops->file(x, f, at, (size_t)size);
    }
    if (!rc) rc = x->ops->end(x, "", 0);
    return rc == -EPIPE ? rc : 0;
}

/* A descriptor of our own for Lua's fd. NULL: *err says why. */
static out_fd *own_fd(int fd, int *err) {
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    *err = own < 0 ? -errno : -ENOMEM;
    return own < 0 ? NULL : out_fd_new(own);
}

int host_respond_file(host_req *r, double id, int status, int ctype, const char *head,
                      size_t head_len, int fd, int64_t at, int64_t size) {
    host_exchange *x = (host_exchange *)r;
    int rc = take_at(x, id, 0);
    if (rc) return rc;
    bool empty = size == 0 || has_no_body(x, status);
    out_fd *f = empty ? NULL : own_fd(fd, &rc);
    if (f || empty) rc = respond_file(x, status, ctype, head, head_len, f, at, size);
    if (f) out_fd_drop(f);
    hold_give(x);
    return rc;
}

/* ---- from C ---- */

void response_bytes(host_exchange *x, int status, const char *head, size_t head_len,
                    const char *body, size_t body_len) {
    respond(x, status, 0, head, head_len, body, body_len);
}

void response_file(host_exchange *x, int status, const char *head, size_t head_len, out_fd *f,
                   int64_t at, int64_t size) {
    bool empty = size == 0 || has_no_body(x, status);
    respond_file(x, status, 0, head, head_len, empty ? NULL : f, at, size);
}

void response_parts(host_exchange *x, int status, const char *head, size_t head_len,
                    const response_part *parts, int n, out_fd *f, const char *bytes) {
    int64_t length = 0;
    for (int i = 0; i < n; i++)
        length += (int64_t)parts[i].text_len + parts[i].size;
    if (begin(x, 2, status, 0, head, head_len, length) != 0) return;
    exchange_answers(x, rt_nanotime());
    int rc = 0;
    for (const response_part *p = parts; p < parts + n && rc != -EPIPE; p++) {
        rc = x->ops->write(x, p->text, p->text_len);
        if (rc == -EPIPE || p->size == 0) continue;
        rc = f ? x->ops->file(x, f, p->at, (size_t)p->size)
               : x->ops->write(x, bytes + p->at, (size_t)p->size);
    }
    if (rc != -EPIPE) x->ops->end(x, "", 0);
}

/* What the answer to a refused request has to say besides (RFC 9110): a 405 which methods there are. */
const char *host_status_field(int status) {
    if (status == 405) return "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n";
    return status == 503 ? "Retry-After: 1\r\n" : "";
}

void response_error(host_exchange *x, int status) {
    const char *reason = host_status_reason(status), *head = host_status_field(status);
    char json[128];
    int n = 0;
    if (accept_json(x))
        n = snprintf(json, sizeof json, "{\"error\":\"%s\",\"status\":%d}", reason, status);
    if (n > 0)
        respond(x, status, 3, head, strlen(head), json, (size_t)n);
    else
        respond(x, status, 1, head, strlen(head), reason, strlen(reason));
}

/* ---- streamed responses ---- */

static int streamed_begin(host_exchange *x, int status, int ctype, const char *head,
                          size_t head_len, int64_t length) {
    x->left = length;
    exchange_answers(x, rt_nanotime());
    return begin(x, 1, status, ctype, head, head_len, length);
}

static int streamed_write(host_exchange *x, const char *data, size_t len) {
    if (x->broken) return -EPIPE;
    if (x->left >= 0) {
        if ((uint64_t)len > (uint64_t)x->left) return -E2BIG;
        x->left -= (int64_t)len;
    }
    return x->no_body ? 0 : x->ops->write(x, data, len);
}

static int streamed_end(host_exchange *x) {
    bool is_short = x->left > 0 && !x->no_body;
    x->req.state = 2;
    x->left = 0;
    if (x->broken) return -EPIPE;
    if (is_short) x->ops->cut(x, false);
    int rc = is_short ? x->ops->send(x, "", 0, 0) : x->ops->end(x, "", 0);
    return rc == -EPIPE ? rc : 0;
}

int host_stream_begin(host_req *r, double id, int status, int ctype, const char *head,
                      size_t head_len, int64_t length) {
    host_exchange *x = (host_exchange *)r;
    int rc = take_at(x, id, 0);
    if (rc) return rc;
    rc = streamed_begin(x, status, ctype, head, head_len, length);
    hold_give(x);
    return rc;
}

/* Ends a call that wrote. If it wrote, or queued bytes went out, the handler's time begins anew. */
static int after_write(host_exchange *x, int rc, int64_t sent_before) {
    if (rc == 0 || x->sent != sent_before) hold_renew(x);
    if (rc == 0 && x->paced) pace_wrote(x);
    if (rc == -EAGAIN) rc = response_wait(x);
    hold_give(x);
    return rc;
}

int host_respond_rest(host_req *r, double id, const char *body, size_t len, int all) {
    host_exchange *x = (host_exchange *)r;
    int rc = take_at(x, id, 2);
    if (rc) return rc;
    int64_t sent = x->sent;
    size_t rest = (size_t)x->left;
    x->left = 0;
    if (x->broken || rest > len) {
        x->ops->cut(x, true);
        return after_write(x, -EPIPE, sent);
    }
    rc = x->ops->send(x, body + (len - rest), rest, all ? SIZE_MAX : REST_MAX);
    return after_write(x, rc == -EAGAIN && x->left == 0 ? 0 : rc, sent);
}

int host_stream_write(host_req *r, double id, const char *data, size_t len) {
    host_exchange *x = (host_exchange *)r;
    int rc = take_at(x, id, 1);
    if (rc) return rc;
    int64_t sent = x->sent;
    return after_write(x, streamed_write(x, data, len), sent);
}

int host_stream_flush(host_req *r, double id) {
    host_exchange *x = (host_exchange *)r;
    if (exchange_is(x, id) && r->state == 0) return 0;
    if (!hold_call(r, id)) return -EPIPE;
    int64_t sent = x->sent;
    int rc = x->broken ? -EPIPE : x->ops->send(x, "", 0, 0);
    return after_write(x, rc, sent);
}

int host_stream_end(host_req *r, double id) {
    host_exchange *x = (host_exchange *)r;
    int rc = take_at(x, id, 1);
    if (rc) return rc;
    rc = streamed_end(x);
    hold_give(x);
    return rc;
}
