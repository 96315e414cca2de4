/* Exchanges of HTTP/1: the exchange_ops that response.c and request.c call, for a connection that has one exchange at a
 * time.
 *
 * A whole response leaves in one sendmsg: the queued output of requests that were pipelined before, its head, and its
 * body from where Lua keeps it. If another request has come in already, the response is queued instead, so that
 * responses to pipelined requests leave together. What the kernel does not take is copied, since the Lua string may be
 * gone later. A long rest (REST_MAX) is not copied but stays with the handler (response.c). A file is a piece of the
 * connection's output.
 *
 * What is queued, of this response or of those before it, leaves at the latest when the handler waits for anything
 * (requests.c), so that no client waits for a handler that has nothing to do with the client's answer.
 *
 * A streamed response is queued with chunk framing, and sent when a few kilobytes are queued. On HTTP/1.0, and for a
 * response that stops short of what its head promised, only the end of the connection marks the end of the body.
 */
#include "../base/log.h"
#include "conn.h"
#include "date.h"
#include "hold.h"
#include "http1.h"
#include "pace.h"
#include "put.h"
#include "response.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum {
    COPY_MAX = 2048,      /* bodies up to this are copied behind their head: one buffer, one send */
    HEAD_ROOM = 512,      /* for the fields that we put into a head */
    STREAM_CHUNK = 16384, /* a streamed response sends when so much is queued */
};

/* ---- output ---- */

static void cut(host_exchange *x, bool gone) {
    x->close_after = true;
    if (!gone) return;
    x->broken = true;
    out_drop(&x->conn->out);
}

static int give_up(host_exchange *x) {
    cut(x, true);
    return -EPIPE;
}

/* A file has become shorter than the response's head promised. */
static void log_short(const host_exchange *x) {
    char what[256];
    hold_print_name(x, what, sizeof what);
    log_line(LOG_WARN, "%s: a file has become shorter, the response was broken off", what);
}

static int send_with(host_exchange *x, const char *data, size_t n, size_t most) {
    host_conn *c = x->conn;
    size_t rest = n, sent = 0;
    int err = out_send(&c->out, &c->io, data, &rest, &sent);
    x->sent += (int64_t)sent;
    x->req.queued = c->out.n > 0;
    if (err == 0 || err == -EINPROGRESS) return err;
    if (err == -ENODATA) log_short(x);
    if (err != -EAGAIN) return give_up(x);
    if (rest > most)
        x->left = (int64_t)rest;
    else if (out_bytes(&c->out, data + (n - rest), rest) < 0)
        return give_up(x);
    return -EAGAIN;
}

int http1_flush(host_exchange *x) {
    return x->broken ? -EPIPE : send_with(x, "", 0, 0);
}

/* True: another request has come in already, so this answer can leave with the next one. */
static bool more_to_come(host_exchange *x) {
    return x->message_done && x->in_pos < x->in_end && !x->close_after && x->conn->out.n < OUT_FULL;
}

/* ---- heads ---- */

/* "Date: ...\r\n", made anew each second. One per thread, so no lock is needed. */
static __thread struct {
    time_t second;
    char line[DATE_SIZE + 8];
} date;

enum { DATE_LINE = sizeof "Date: \r\n" - 1 + DATE_LEN };

static char *put_date(char *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    if (now.tv_sec != date.second) {
        char *text = PUT(date.line, "Date: ");
        date.second = now.tv_sec;
        date_print(text, now.tv_sec);
        PUT(text + DATE_LEN, "\r\n");
    }
    return put(at, date.line, DATE_LINE);
}

static char *put_status_line(char *at, int status) {
    if (status == 200) return PUT(at, "HTTP/1.1 200 OK\r\n");
    const char *reason = host_status_reason(status);
    at = PUT(at, "HTTP/1.1 ");
    at = put_number(at, (uint64_t)status);
    *at++ = ' ';
    at = put(at, reason, strlen(reason));
    return PUT(at, "\r\n");
}

/* Browsers shall use the named type and not guess another one from the bytes. */
#define NOSNIFF "X-Content-Type-Options: nosniff\r\n"

#define TEXT "Content-Type: text/plain; charset=utf-8\r\n"
#define HTML "Content-Type: text/html; charset=utf-8\r\n"
#define JSON "Content-Type: application/json\r\n"

static char *put_ctype(char *at, int ctype) {
    switch (ctype) {
    case 1:
        return PUT(at, TEXT NOSNIFF);
    case 2:
        return PUT(at, HTML NOSNIFF);
    case 3:
        return PUT(at, JSON NOSNIFF);
    case HOST_TYPE_ALONE + 1:
        return PUT(at, TEXT);
    case HOST_TYPE_ALONE + 2:
        return PUT(at, HTML);
    case HOST_TYPE_ALONE + 3:
        return PUT(at, JSON);
    default:
        return at;
    }
}

static int queue_head(host_exchange *x, int status, int ctype, const char *fields, size_t n,
                      int64_t length) {
    char *at = out_room(&x->conn->out, HEAD_ROOM + n);
    if (!at) return give_up(x);
    x->chunked = length < 0 && x->req.minor > 0;
    if (length < 0 && !x->chunked) x->close_after = true;
    at = put_status_line(at, status);
    at = put_ctype(at, ctype);
    if (status >= 200 && status != 204) {
        if (length >= 0 && status != 304) {
            at = PUT(at, "Content-Length: ");
            at = put_number(at, (uint64_t)length);
            at = PUT(at, "\r\n");
        } else if (x->chunked && !x->no_body) {
            at = PUT(at, "Transfer-Encoding: chunked\r\n");
        }
    }
    at = put_date(at);
    bool body_unasked = x->expects_100 && !x->message_done; /* the client may send it or not */
    if (x->close_after || x->req.close || body_unasked ||
        atomic_load_explicit(&x->server->stopping, memory_order_relaxed)) {
        x->close_after = true;
        at = PUT(at, "Connection: close\r\n");
    } else if (x->req.minor == 0) {
        at = PUT(at, "Connection: keep-alive\r\n");
    }
    if (n > 0) at = put(at, fields, n);
    at = PUT(at, "\r\n");
    out_took(&x->conn->out, at);
    x->req.queued = true;
    return 0;
}

/* ---- bodies of responses ---- */

static int queue_chunk(host_out *o, const char *data, size_t n) {
    char size[24];
    int len = snprintf(size, sizeof size, "%zx\r\n", n);
    int err = out_bytes(o, size, (size_t)len);
    if (!err) err = out_bytes(o, data, n);
    return err ? err : out_bytes(o, "\r\n", 2);
}

static int write_piece(host_exchange *x, const char *data, size_t n) {
    host_out *o = &x->conn->out;
    if (n == 0) {
        /* An empty chunk would end the body. */
    } else if ((x->chunked ? queue_chunk(o, data, n) : out_bytes(o, data, n)) < 0) {
        return give_up(x);
    }
    x->req.queued = o->n > 0;
    if (o->n < STREAM_CHUNK) return 0;
    int err = send_with(x, "", 0, 0);
    return err == -EAGAIN && o->n < OUT_FULL ? 0 : err;
}

static int end(host_exchange *x, const char *data, size_t n) {
    host_out *o = &x->conn->out;
    if (x->chunked && !x->no_body && out_bytes(o, "0\r\n\r\n", 5) < 0) return give_up(x);
    if (n <= COPY_MAX || (n <= REST_MAX && more_to_come(x))) {
        if (out_bytes(o, data, n) < 0) return give_up(x);
        n = 0;
    }
    if (n == 0 && more_to_come(x)) return 0;
    return send_with(x, data, n, REST_MAX);
}

static int queue_file(host_exchange *x, out_fd *f, off_t at, size_t n) {
    return out_file(&x->conn->out, f, at, n) < 0 ? give_up(x) : 0;
}

/* ---- bodies of requests ---- */

/* The request is here. From now on the end of the client's side can only mean that the client does not wait any more,
 * unless the client knows that nobody reads on: the connection ends with this answer. */
static void body_is_here(host_exchange *x) {
    if (x->close_after) return;
    atomic_store(&x->all_here, true);
    if (rt_pd_hup(x->conn->io.pd)) rt_cancel(x->handler, x->handler_id);
}

static int read_body(host_exchange *x) {
    host_conn *c = x->conn;
    if (x->in_pos < x->in_end) return http1_body(x, true);
    if (x->expects_100 && x->req.state == 0) {
        static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
        x->expects_100 = false;
        if (out_bytes(&c->out, go_on, sizeof go_on - 1) < 0 || http1_flush(x) == -EPIPE)
            return -ECONNRESET;
    }
    int timeout = rt_pd_check(c->io.pd, RT_R);
    if (timeout) stream_doubt(&c->io); /* bytes may have come at the moment of the deadline */
    const char *data;
    ssize_t n = conn_read(c, BODY_READ, &data);
    if (n == -EAGAIN && timeout) return -ETIMEDOUT;
    if (n == -EAGAIN) {
        rt_pd_set_deadline(c->io.pd, RT_R, pace_read(x));
        return -EAGAIN;
    }
    if (n > 0) pace_got(x, (size_t)n);
    return n <= 0 ? -ECONNRESET : http1_body_of(x, data, (size_t)n, true);
}

/* A body that cannot be read to its end: the connection ends with the response. */
static int fill(host_exchange *x) {
    int rc = read_body(x);
    if (rc < 0 && rc != -EAGAIN) x->close_after = true;
    if (rc == -ECONNRESET) x->broken = true;
    if (x->req.body_complete && x->in_pos == x->in_end) body_is_here(x);
    return rc;
}

static rt_pd *pd_of(host_exchange *x) {
    return x->conn->io.pd;
}

static stream *lend(host_exchange *x, const char **rest, size_t *n) {
    *rest = x->in + x->in_pos;
    *n = x->in_end - x->in_pos;
    return &x->conn->io;
}

const exchange_ops http1_ops = {
    .fill = fill,
    .head = queue_head,
    .write = write_piece,
    .end = end,
    .file = queue_file,
    .send = send_with,
    .cut = cut,
    .trailers = http1_trailers,
    .pd = pd_of,
    .lend = lend,
};
