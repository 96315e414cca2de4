/* Responses: head and body into the connection's output, and out with as few calls as can be.
 *
 * A response that is known as a whole (host_respond) leaves in one sendmsg: queued output of
 * requests pipelined before it, its head, and its body from where Lua keeps it. If another request
 * has come in already, it is queued instead, so that responses to pipelined requests leave together.
 * What the kernel does not take is copied, since the Lua string may be gone when it does.
 *
 * The streamed form queues with chunk framing and sends when a few kilobytes have come together.
 *
 * There is an output buffer only while something is queued: the thread has a spare one for whoever begins.
 */
#include "conn.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    COPY_MAX = 2048,      /* bodies up to this are copied behind their head: one buffer, one send */
    HEAD_ROOM = 512,      /* of what we put into a head ourselves */
    STREAM_CHUNK = 16384, /* a stream sends when so much is queued */
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

/* The buffer that the thread's next output begins in: nearly always all of it goes out at once. */
static __thread char *spare;

/* Takes the first buffer, for n bytes. */
static int begin_out(host_xfer *x, size_t n) {
    size_t cap = OUT_SIZE;
    if (n <= cap && spare) {
        x->out = spare;
        spare = NULL;
    } else {
        while (cap < n)
            cap *= 2;
        if (!(x->out = malloc(cap))) return -ENOMEM;
    }
    x->out_cap = cap;
    return 0;
}

void response_drop(host_xfer *x) {
    x->out_pos = x->out_end = 0;
    if (x->out && x->out_cap == OUT_SIZE && !spare)
        spare = x->out;
    else
        free(x->out);
    x->out = NULL;
    x->out_cap = 0;
}

/* Room for n bytes more. */
static int make_room(host_xfer *x, size_t n) {
    if (!x->out) return begin_out(x, n);
    if (x->out_pos > 0) {
        memmove(x->out, x->out + x->out_pos, x->out_end - x->out_pos);
        x->out_end -= x->out_pos;
        x->out_pos = 0;
        if (x->out_cap - x->out_end >= n) return 0;
    }
    size_t cap = x->out_cap * 2;
    while (cap - x->out_end < n)
        cap *= 2;
    char *out = realloc(x->out, cap);
    if (!out) return -ENOMEM;
    x->out = out;
    x->out_cap = cap;
    return 0;
}

static inline int reserve(host_xfer *x, size_t n) {
    return x->out_cap - x->out_end >= n ? 0 : make_room(x, n);
}

int response_queue(host_xfer *x, const char *data, size_t len) {
    if (reserve(x, len) < 0) return -ENOMEM;
    memcpy(x->out + x->out_end, data, len);
    x->out_end += len;
    return 0;
}

/* The client is gone, or its connection can't go on: nothing more is written. */
static int give_up(host_xfer *x) {
    x->broken = x->close_after = true;
    response_drop(x);
    return -EPIPE;
}

/* Sends what is queued and then body[0 .. len); what is left of both is queued. 0, -EAGAIN, -EPIPE. */
static int send_with(host_xfer *x, const char *body, size_t len) {
    while (x->out_pos < x->out_end || len > 0) {
        struct iovec iov[2] = {{x->out + x->out_pos, x->out_end - x->out_pos}, {(void *)body, len}};
        struct msghdr msg = {.msg_iov = iov, .msg_iovlen = len > 0 ? 2 : 1};
        ssize_t n = msg.msg_iovlen == 1
                        ? send(x->conn->fd, iov[0].iov_base, iov[0].iov_len, MSG_NOSIGNAL)
                        : sendmsg(x->conn->fd, &msg, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EINTR) continue;
            if (errno != EAGAIN) return give_up(x);
            if (len > 0 && response_queue(x, body, len) < 0) return give_up(x);
            return -EAGAIN;
        }
        size_t queued = x->out_end - x->out_pos, sent = (size_t)n;
        x->sent += sent;
        size_t from_queue = sent < queued ? sent : queued;
        x->out_pos += from_queue;
        body += sent - from_queue;
        len -= sent - from_queue;
    }
    if (x->req.state == 1) /* a stream's next piece is about to come, as a rule */
        x->out_pos = x->out_end = 0;
    else if (x->out)
        response_drop(x);
    return 0;
}

int response_flush(host_xfer *x) {
    return x->broken ? -EPIPE : send_with(x, NULL, 0);
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
    int len;
    char line[48];
} date;

static char *put_date(char *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    if (now.tv_sec != date.second || date.len == 0) {
        struct tm tm;
        static const char *const days[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
        static const char *const months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                             "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
        gmtime_r(&now.tv_sec, &tm);
        date.second = now.tv_sec;
        date.len =
            snprintf(date.line, sizeof date.line, "Date: %s, %02d %s %d %02d:%02d:%02d GMT\r\n",
                     days[tm.tm_wday], tm.tm_mday, months[tm.tm_mon], tm.tm_year + 1900, tm.tm_hour,
                     tm.tm_min, tm.tm_sec);
    }
    return put(at, date.line, (size_t)date.len);
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

static char *put_ctype(char *at, int ctype) {
    switch (ctype) {
    case 1:
        return PUT(at, "Content-Type: text/plain; charset=utf-8\r\n");
    case 2:
        return PUT(at, "Content-Type: text/html; charset=utf-8\r\n");
    case 3:
        return PUT(at, "Content-Type: application/json\r\n");
    default:
        return at;
    }
}

static bool has_no_body(host_xfer *x, int status) {
    return x->req.method == HTTP_HEAD || status < 200 || status == 204 || status == 304;
}

/* Queues a head. length: the body's; -1: chunked, or until close on HTTP/1.0. 0 or -ENOMEM. */
static int queue_head(host_xfer *x, int status, int ctype, const char *head, size_t head_len,
                      int64_t length) {
    if (reserve(x, HEAD_ROOM + head_len) < 0) return -ENOMEM;
    char *at = x->out + x->out_end;
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
    at = put(at, head, head_len);
    at = PUT(at, "\r\n");
    x->out_end = (size_t)(at - x->out);
    return 0;
}

/* ---- whole responses ---- */

/* Another request has come in already, so this answer can leave with the next one's. */
static bool more_to_come(host_xfer *x) {
    return x->message_done && x->in_pos < x->in_end && !x->close_after &&
           x->out_end - x->out_pos < OUT_FULL;
}

/* A whole response. The caller has the connection. */
static inline __attribute__((always_inline)) int respond(host_xfer *x, int status, int ctype,
                                                         const char *head, size_t head_len,
                                                         const char *body, size_t body_len) {
    x->req.state = 2;
    if (x->broken) return -EPIPE;
    if (queue_head(x, status, ctype, head, head_len, (int64_t)body_len) < 0) return give_up(x);
    if (x->no_body) body_len = 0;
    if (body_len <= COPY_MAX || more_to_come(x)) {
        if (response_queue(x, body, body_len) < 0) return give_up(x);
        body_len = 0;
    }
    if (more_to_come(x)) return 0;
    return send_with(x, body, body_len) == -EPIPE ? -EPIPE : 0;
}

int host_respond(host_req *r, int status, int ctype, const char *head, size_t head_len,
                 const char *body, size_t body_len) {
    host_xfer *x = (host_xfer *)r;
    if (r->state != 0) return -EALREADY;
    if (!hold_take(x)) return -EPIPE;
    int rc = respond(x, status, ctype, head, head_len, body, body_len);
    hold_give(x);
    return rc;
}

void response_error(host_xfer *x, int status, bool close) {
    const char *body = host_status_reason(status);
    const char *head = status == 503 ? "Retry-After: 1\r\n" : "";
    if (close) x->close_after = true;
    respond(x, status, 1, head, strlen(head), body, strlen(body));
}

/* ---- streamed responses ---- */

static int stream_begin(host_xfer *x, int status, int ctype, const char *head, size_t head_len,
                        int64_t length) {
    x->req.state = 1;
    x->stream_left = length;
    if (x->broken) return -EPIPE;
    return queue_head(x, status, ctype, head, head_len, length) < 0 ? give_up(x) : 0;
}

static int stream_write(host_xfer *x, const char *data, size_t len) {
    if (x->broken) return -EPIPE;
    if (x->stream_left >= 0) {
        if ((uint64_t)len > (uint64_t)x->stream_left) return -E2BIG;
        x->stream_left -= (int64_t)len;
    }
    if (x->no_body || len == 0) return 0; /* an empty chunk would end the body */
    if (x->chunked) {
        char size[24];
        int n = snprintf(size, sizeof size, "%zx\r\n", len);
        if (response_queue(x, size, (size_t)n) < 0 || response_queue(x, data, len) < 0 ||
            response_queue(x, "\r\n", 2) < 0)
            return give_up(x);
    } else if (response_queue(x, data, len) < 0) {
        return give_up(x);
    }
    size_t queued = x->out_end - x->out_pos;
    if (queued < STREAM_CHUNK) return 0;
    int err = response_flush(x);
    if (err != -EAGAIN) return err;
    return x->out_end - x->out_pos < OUT_FULL ? 0 : -EAGAIN;
}

static int stream_end(host_xfer *x) {
    x->req.state = 2;
    if (x->broken) return -EPIPE;
    if (x->stream_left > 0 && !x->no_body) {
        /* Fewer bytes than promised: only closing tells the client. */
        x->close_after = true;
    } else if (x->chunked && !x->no_body && response_queue(x, "0\r\n\r\n", 5) < 0) {
        return give_up(x);
    }
    if (more_to_come(x)) return 0;
    return response_flush(x) == -EPIPE ? -EPIPE : 0;
}

int host_stream_begin(host_req *r, int status, int ctype, const char *head, size_t head_len,
                      int64_t length) {
    host_xfer *x = (host_xfer *)r;
    if (r->state != 0) return -EALREADY;
    if (!hold_take(x)) return -EPIPE;
    int rc = stream_begin(x, status, ctype, head, head_len, length);
    hold_give(x);
    return rc;
}

/* Something was written, or bytes went out that had waited: the handler has its time anew. */
static int after_write(host_xfer *x, int rc, size_t sent_before) {
    if (rc == 0 || x->sent != sent_before) hold_renew(x);
    hold_give(x);
    return rc;
}

int host_stream_write(host_req *r, const char *data, size_t len) {
    host_xfer *x = (host_xfer *)r;
    if (r->state != 1) return -EALREADY;
    if (!hold_take(x)) return -EPIPE;
    size_t sent = x->sent;
    return after_write(x, stream_write(x, data, len), sent);
}

int host_stream_flush(host_req *r) {
    host_xfer *x = (host_xfer *)r;
    if (r->state == 0) return 0;
    if (!hold_take(x)) return -EPIPE;
    size_t sent = x->sent;
    int rc = response_flush(x);
    if (rc == 0) response_drop(x); /* who flushes a stream may wait for long */
    return after_write(x, rc, sent);
}

int host_stream_end(host_req *r) {
    host_xfer *x = (host_xfer *)r;
    if (r->state != 1) return -EALREADY;
    if (!hold_take(x)) return -EPIPE;
    int rc = stream_end(x);
    hold_give(x);
    return rc;
}
