/* Responses: head and body into the connection's output, and out with as few calls as can be.
 *
 * A response that is known as a whole (host_respond) leaves in one sendmsg: queued output of
 * requests pipelined before it, its head, and its body from where Lua keeps it. If another request
 * has come in already, it is queued instead, so that responses to pipelined requests leave together.
 * What the kernel does not take is copied, since the Lua string may be gone when it does. A long rest (REST_MAX) is
 * not, but waited for: the handler's G goes on with it when the kernel has room (host_respond_rest), and holds the string
 * meanwhile. So a client that does not read costs the buffer of its connection, however large the answer is, and those
 * that are sent the same string share it. Such a response is partial until then, as a streamed one: the connection of a
 * handler that ends before is closed.
 *
 * The streamed form queues with chunk framing and sends when a few kilobytes have come together.
 */
#include "conn.h"
#include "hold.h"
#include "pace.h"
#include "response.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    COPY_MAX = 2048,      /* bodies up to this are copied behind their head: one buffer, one send */
    HEAD_ROOM = 512,      /* of what we put into a head ourselves */
    STREAM_CHUNK = 16384, /* a stream sends when so much is queued */
    REST_MAX = 65536,     /* of what is left of a body, so much is copied */
};

const char *host_status_reason(int status) {
    switch (status) {
#define REASON(num, text)                                                                          \
    case num:                                                                                      \
        return text;
        REASON(100, "Continue")
        REASON(101, "Switching Protocols")
        REASON(103, "Early Hints")
        REASON(200, "OK")
        REASON(201, "Created")
        REASON(202, "Accepted")
        REASON(203, "Non-Authoritative Information")
        REASON(204, "No Content")
        REASON(205, "Reset Content")
        REASON(206, "Partial Content")
        REASON(207, "Multi-Status")
        REASON(208, "Already Reported")
        REASON(226, "IM Used")
        REASON(300, "Multiple Choices")
        REASON(301, "Moved Permanently")
        REASON(302, "Found")
        REASON(303, "See Other")
        REASON(304, "Not Modified")
        REASON(305, "Use Proxy")
        REASON(307, "Temporary Redirect")
        REASON(308, "Permanent Redirect")
        REASON(400, "Bad Request")
        REASON(401, "Unauthorized")
        REASON(402, "Payment Required")
        REASON(403, "Forbidden")
        REASON(404, "Not Found")
        REASON(405, "Method Not Allowed")
        REASON(406, "Not Acceptable")
        REASON(407, "Proxy Authentication Required")
        REASON(408, "Request Timeout")
        REASON(409, "Conflict")
        REASON(410, "Gone")
        REASON(411, "Length Required")
        REASON(412, "Precondition Failed")
        REASON(413, "Content Too Large")
        REASON(414, "URI Too Long")
        REASON(415, "Unsupported Media Type")
        REASON(416, "Range Not Satisfiable")
        REASON(417, "Expectation Failed")
        REASON(418, "I'm a teapot")
        REASON(421, "Misdirected Request")
        REASON(422, "Unprocessable Content")
        REASON(423, "Locked")
        REASON(424, "Failed Dependency")
        REASON(425, "Too Early")
        REASON(426, "Upgrade Required")
        REASON(428, "Precondition Required")
        REASON(429, "Too Many Requests")
        REASON(431, "Request Header Fields Too Large")
        REASON(451, "Unavailable For Legal Reasons")
        REASON(500, "Internal Server Error")
        REASON(501, "Not Implemented")
        REASON(502, "Bad Gateway")
        REASON(503, "Service Unavailable")
        REASON(504, "Gateway Timeout")
        REASON(505, "HTTP Version Not Supported")
        REASON(507, "Insufficient Storage")
        REASON(508, "Loop Detected")
        REASON(511, "Network Authentication Required")
#undef REASON
    default:
        return "";
    }
}

/* ---- output ---- */

/* The client is gone, or its connection can't go on: nothing more is written. */
static int give_up(host_exchange *x) {
    x->broken = x->close_after = true;
    out_drop(&x->conn->out);
    return -EPIPE;
}

/* Sends what is queued and then body[0 .. len); what is left of both is queued, unless of the body more than `most` is:
 * then x->left says how much. 0, -EAGAIN, -EPIPE. */
static int send_with(host_exchange *x, const char *body, size_t len, size_t most) {
    host_conn *c = x->conn;
    size_t rest = len;
    int err = out_send(&c->out, &c->io, body, &rest, &x->sent);
    if (err == 0) return 0;
    if (err != -EAGAIN) return give_up(x);
    if (rest > most)
        x->left = (int64_t)rest;
    else if (out_bytes(&c->out, body + (len - rest), rest) < 0)
        return give_up(x);
    return -EAGAIN;
}

int response_flush(host_exchange *x) {
    return x->broken ? -EPIPE : send_with(x, "", 0, 0);
}

/* ---- heads ---- */

static char *put(char *at, const char *s, size_t n) {
    memcpy(at, s, n);
    return at + n;
}

#define PUT(at, literal) put(at, literal, sizeof literal - 1)

static char *put_number(char *at, uint64_t n) {
    char digits[20];
    int i = 20;
    do
        digits[--i] = (char)('0' + n % 10);
    while (n /= 10);
    return put(at, digits + i, (size_t)(20 - i));
}

/* "Date: ...\r\n", made anew when the second changes. One per thread, so nothing is shared. */
static __thread struct {
    time_t second;
    char line[48];
} date;

enum { DATE_LEN = sizeof "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n" - 1 };

static char *put_date(char *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    if (now.tv_sec != date.second) {
        struct tm tm;
        static const char *const days[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
        static const char *const months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                             "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
        gmtime_r(&now.tv_sec, &tm);
        date.second = now.tv_sec;
        snprintf(date.line, sizeof date.line, "Date: %s, %02d %s %04d %02d:%02d:%02d GMT\r\n",
                 days[tm.tm_wday], tm.tm_mday, months[tm.tm_mon], tm.tm_year + 1900, tm.tm_hour,
                 tm.tm_min, tm.tm_sec);
    }
    return put(at, date.line, DATE_LEN);
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

/* A type that we name is meant: browsers are not to guess another one from the bytes. */
#define NOSNIFF "X-Content-Type-Options: nosniff\r\n"

static char *put_ctype(char *at, int ctype) {
    switch (ctype) {
    case 1:
        return PUT(at, "Content-Type: text/plain; charset=utf-8\r\n" NOSNIFF);
    case 2:
        return PUT(at, "Content-Type: text/html; charset=utf-8\r\n" NOSNIFF);
    case 3:
        return PUT(at, "Content-Type: application/json\r\n" NOSNIFF);
    default:
        return at;
    }
}

static bool has_no_body(host_exchange *x, int status) {
    return x->req.method == HTTP_HEAD || status < 200 || status == 204 || status == 304;
}

/* Queues a head. length: the body's; -1: chunked, or until close on HTTP/1.0. 0 or -ENOMEM. */
static int queue_head(host_exchange *x, int status, int ctype, const char *head, size_t head_len,
                      int64_t length) {
    char *at = out_room(&x->conn->out, HEAD_ROOM + head_len);
    if (!at) return -ENOMEM;
    x->no_body = has_no_body(x, status);
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
    if (!x->keep_alive || x->close_after || x->req.close || body_unasked ||
        atomic_load_explicit(&x->server->stopping, memory_order_relaxed)) {
        x->close_after = true;
        at = PUT(at, "Connection: close\r\n");
    } else if (x->req.minor == 0) {
        at = PUT(at, "Connection: keep-alive\r\n");
    }
    if (head_len > 0) at = put(at, head, head_len);
    at = PUT(at, "\r\n");
    out_took(&x->conn->out, at);
    return 0;
}

/* ---- whole responses ---- */

/* Another request has come in already, so this answer can leave with the next one's. */
static bool more_to_come(host_exchange *x) {
    return x->message_done && x->in_pos < x->in_end && !x->close_after && x->conn->out.n < OUT_FULL;
}

/* A handler is to wait until the client has read some: -EAGAIN, or -ETIMEDOUT: it is too slow. It is asked again in time
 * to get its time anew if the client reads, however slowly. */
static int wait_for_room(host_exchange *x) {
    bool moved;
    int64_t until = pace_write(x, &moved),
            limit = (int64_t)(x->server->listener.limits->handler_timeout * 1e9 / 2);
    if (until == 0) {
        give_up(x);
        return -ETIMEDOUT;
    }
    if (moved) hold_renew(x);
    if (limit > 0 && until > rt_nanotime() + limit) until = rt_nanotime() + limit;
    rt_pd_set_deadline(x->conn->io.pd, RT_W, until);
    return -EAGAIN;
}

/* A whole response. The caller has the connection. */
static inline __attribute__((always_inline)) int respond(host_exchange *x, int status, int ctype,
                                                         const char *head, size_t head_len,
                                                         const char *body, size_t body_len) {
    x->req.state = 2;
    if (x->broken) return -EPIPE;
    if (queue_head(x, status, ctype, head, head_len, (int64_t)body_len) < 0) return give_up(x);
    if (x->no_body) body_len = 0;
    if (body_len <= COPY_MAX || (body_len <= REST_MAX && more_to_come(x))) {
        if (out_bytes(&x->conn->out, body, body_len) < 0) return give_up(x);
        body_len = 0;
    }
    if (body_len == 0 && more_to_come(x)) return 0;
    if (send_with(x, body, body_len, REST_MAX) == -EPIPE) return -EPIPE;
    return x->left ? wait_for_room(x) : 0;
}

/* For a call from Lua: takes x if it is the request of that id, and its response stands at `state`. 0; -EALREADY; -EPIPE:
 * the request is over, or has lost its connection. */
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

void response_error(host_exchange *x, int status, bool close) {
    const char *body = host_status_reason(status);
    const char *head = status == 503 ? "Retry-After: 1\r\n" : "";
    if (close) x->close_after = true;
    respond(x, status, 1, head, strlen(head), body, strlen(body));
}

/* ---- streamed responses ---- */

static int streamed_begin(host_exchange *x, int status, int ctype, const char *head,
                          size_t head_len, int64_t length) {
    x->req.state = 1;
    x->left = length;
    if (x->broken) return -EPIPE;
    return queue_head(x, status, ctype, head, head_len, length) < 0 ? give_up(x) : 0;
}

static int streamed_write(host_exchange *x, const char *data, size_t len) {
    if (x->broken) return -EPIPE;
    if (x->left >= 0) {
        if ((uint64_t)len > (uint64_t)x->left) return -E2BIG;
        x->left -= (int64_t)len;
    }
    if (x->no_body) return 0;
    if (len == 0) {
        /* An empty chunk would end the body. */
    } else if (x->chunked) {
        char size[24];
        int n = snprintf(size, sizeof size, "%zx\r\n", len);
        if (out_bytes(&x->conn->out, size, (size_t)n) < 0 ||
            out_bytes(&x->conn->out, data, len) < 0 || out_bytes(&x->conn->out, "\r\n", 2) < 0)
            return give_up(x);
    } else if (out_bytes(&x->conn->out, data, len) < 0) {
        return give_up(x);
    }
    if (x->conn->out.n < STREAM_CHUNK) return 0;
    int err = response_flush(x);
    return err == -EAGAIN && x->conn->out.n < OUT_FULL ? 0 : err;
}

static int streamed_end(host_exchange *x) {
    bool is_short = x->left > 0;
    x->req.state = 2;
    x->left = 0;
    if (x->broken) return -EPIPE;
    if (is_short && !x->no_body) {
        /* Fewer bytes than promised: only closing tells the client. */
        x->close_after = true;
    } else if (x->chunked && !x->no_body && out_bytes(&x->conn->out, "0\r\n\r\n", 5) < 0) {
        return give_up(x);
    }
    if (more_to_come(x)) return 0;
    return response_flush(x) == -EPIPE ? -EPIPE : 0;
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

/* Something was written, or bytes went out that had waited: the handler has its time anew. */
static int after_write(host_exchange *x, int rc, size_t sent_before) {
    if (rc == 0 || x->sent != sent_before) hold_renew(x);
    if (rc == 0 && x->paced) pace_wrote(x);
    if (rc == -EAGAIN) rc = wait_for_room(x);
    hold_give(x);
    return rc;
}

int host_respond_rest(host_req *r, double id, const char *body, size_t len, int all) {
    host_exchange *x = (host_exchange *)r;
    int rc = take_at(x, id, 2);
    if (rc) return rc;
    size_t sent = x->sent, rest = (size_t)x->left;
    x->left = 0;
    if (rest > len || x->broken) return after_write(x, give_up(x), sent);
    rc = send_with(x, body + (len - rest), rest, all ? SIZE_MAX : REST_MAX);
    return after_write(x, rc == -EAGAIN && x->left == 0 ? 0 : rc, sent);
}

int host_stream_write(host_req *r, double id, const char *data, size_t len) {
    host_exchange *x = (host_exchange *)r;
    int rc = take_at(x, id, 1);
    if (rc) return rc;
    size_t sent = x->sent;
    return after_write(x, streamed_write(x, data, len), sent);
}

int host_stream_flush(host_req *r, double id) {
    host_exchange *x = (host_exchange *)r;
    if (exchange_is(x, id) && r->state == 0) return 0;
    if (!hold_call(r, id)) return -EPIPE;
    size_t sent = x->sent;
    int rc = response_flush(x);
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
