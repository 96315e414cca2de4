/* HTTP/1 on a connection: what a turn does (conn_protocol), and the connection's states.
 *
 * The connection's G reads and parses. When a whole request head is there, it makes a G for the handler (handler.c) and
 * waits until the handler has ended or has lost the connection (hold.c). Then it parses the next pipelined request or
 * waits for readability.
 *
 *     HEAD --whole head--> [BIND] --> BOUND --handler ended--> [DRAIN] --> DONE --> HEAD
 *      |                                |                         |
 *      +--bad head---> refuse <---------+--lost, by [REFUSE]      |
 *                        |                                        |
 *                        +--[BOUND] to a handler for refusals-----+--> conn.c: FLUSH, LINGER, END
 *
 * While it is BOUND, the connection belongs to the handler, for --handler-timeout at most: see hold.c. Then the
 * connection goes on without the handler: it answers from C, or ends, or becomes DONE.
 *
 * A client that shuts its side down, or vanishes, cancels its handler as soon as nothing more can come from the client:
 * when the request's body is read and no other request stands behind it. Each wait of the handler then answers
 * "canceled". The client still gets the handler's answer, since it may have shut only one side. A client that said that
 * it sends no further request (Connection: close, HTTP/1.0) may shut its side and wait: its handler goes on until the
 * connection is broken. The poller cancels the connection's G (conn.c), and the G cancels its handler.
 *
 * The connection has one exchange at a time and says when the exchange is over (over.c): in end_exchange, where it
 * parts with the exchange, and in after_response, before the next exchange.
 *
 * Answers to pipelined requests leave together, but no answer waits for a client or a handler: what is queued leaves
 * before the next request's handler waits for anything (http1_exchange.c), its body included, and before the connection
 * waits for the rest of a head.
 *
 * Line ends before a request, and behind its body, are dropped where they come. They are no beginning of a request, so a
 * connection that brings nothing else stays idle.
 *
 * A request costs one read and one write: a short read drains a TCP socket, so the next read waits first (stream.h).
 *
 * An incomplete head has --header-timeout from its first byte. A body has what pace.c says.
 */
#include "conn.h"
#include "handler.h"
#include "hold.h"
#include "http1.h"
#include "over.h"
#include "pace.h"
#include "response.h"
#include "static.h"

#include "../base/base.h"
#include "../base/log.h"

#include <errno.h>
#include <stdatomic.h>

#define CALL_NS NS_PER_MS /* as a rule a handler's call (hold.c) is over by then */

/* ---- states; each returns what the turn answers, and is apart, so that a turn costs no more than its own ---- */

/* The connection parts with its exchange. */
static void end_exchange(host_conn *c, int64_t now) {
    exchange_over(c->x, now);
    exchange_give(c->x);
    c->x = NULL;
}

static int after_response(host_conn *c);

/* All VMs are gone or too busy: answers 503. */
static int refuse_busy(host_conn *c) {
    response_error(c->x, 503);
    return after_response(c);
}

/* Notes whether the end of the client's side cancels the handler: not while more is to come from the client. */
static void look_at_client(host_conn *c) {
    host_exchange *x = c->x;
    bool all_here = x->message_done && x->in_pos == x->in_end && !x->close_after;
    x->req.queued = c->out.n > 0;
    rt_clear_cancel(c->g); /* of a time without a handler */
    atomic_store_explicit(&x->all_here, all_here, memory_order_relaxed);
    x->hung_up = all_here && rt_pd_hup(c->io.pd);
}

/* Waits for a VM again, as long as a handler may take: the app may take longer, or get stuck, when it loads. */
static int ask_again(host_conn *c) {
    int64_t limit = handler_limit(c->x);
    if (limit > 0 && rt_nanotime() >= limit) return refuse_busy(c);
    (void)http1_flush(c->x); /* a client that is gone is noticed later */
    c->state = HTTP1_BIND;
    return (int)handler_await_vm(c->g, c->x);
}

/* The whole head is there, and C has answered. The G lets others run before it takes the next pipelined request. */
static int after_static(host_conn *c) {
    rt_pd_set_deadline(c->io.pd, RT_R, 0);
    c->served = true;
    int next = after_response(c);
    return next == CONN_NEXT ? (int)RT_YIELD : next;
}

/* Opens the wait of the connection's G for the handler, until until_ns at most; 0: no limit. Returns its ticket. */
static uint64_t open_wait(host_conn *c, int64_t until_ns) {
    uint64_t ticket = rt_wait_open(c->g);
    rt_set_wait(c->g, RT_WAIT_OTHER, until_ns);
    return ticket;
}

/* Gives the connection to a handler and waits for the handler. */
static inline int give_to(host_conn *c, rt_g *handler) {
    c->state = HTTP1_BOUND;
    look_at_client(c);
    hold_begin(c->x, open_wait(c, atomic_load_explicit(&c->x->limit_ns, memory_order_relaxed)));
    rt_ready(handler);
    return (int)RT_PARK;
}

/* Answers a request that cannot be parsed or served: by C, or by the app if it asks for that (handler.c). The connection
 * ends afterwards. */
static __attribute__((noinline)) int refuse(host_conn *c, int status) {
    host_exchange *x = c->x;
    rt_pd_set_deadline(c->io.pd, RT_R, 0);
    x->close_after = true;
    x->error = (int16_t)status;
    rt_g *handler = handler_refuse(x, status);
    if (handler) return give_to(c, handler);
    response_error(x, status);
    return conn_flush(c, CONN_LINGER);
}

/* The whole head is there: a handler answers it. */
static int bind_vm(host_conn *c) {
    host_exchange *x = c->x;
    rt_pd_set_deadline(c->io.pd, RT_R, 0);
    bool soon;
    rt_g *handler = handler_make(x, &soon);
    if (!handler) return soon ? ask_again(c) : refuse_busy(c);
    c->served = true;
    return give_to(c, handler);
}

static __attribute__((noinline)) int step_bind(host_conn *c) {
    rt_wait_code(c->g);
    return bind_vm(c);
}

/* Waits for the handler once more. */
static int wait_for_handler(host_conn *c, int64_t until_ns) {
    uint64_t ticket = open_wait(c, until_ns);
    if (!hold_again(c->x, ticket)) rt_wake(c->g, ticket, RT_WOKEN);
    return (int)RT_PARK;
}

/* The connection is idle no more: gives it an exchange. NULL: no memory. */
static host_exchange *wake_up(host_conn *c) {
    conn_wake(c);
    if ((c->x = exchange_take(c, &http1_ops))) c->x->begin_ns = rt_nanotime();
    return c->x;
}

/* Parses the bytes that are there. Most heads come whole and need no deadline. */
static int parse_head(host_conn *c) {
    host_exchange *x = c->x;
    int r = http1_head(x);
    if (r > 0) return static_answer(x) ? after_static(c) : bind_vm(c);
    if (r < 0) return refuse(c, -r);
    if (!x->in_pieces)
        rt_pd_set_deadline(c->io.pd, RT_R,
                           x->begin_ns + (int64_t)(conn_limits(c)->header_timeout * 1e9));
    return CONN_NEXT;
}

/* How many of data[0 .. n) are line ends before a request, which are no part of it and start no clock. */
static size_t line_ends(const char *data, size_t n) {
    size_t i = 0;
    while (i < n && (data[i] == '\r' || data[i] == '\n'))
        i++;
    return i;
}

static __attribute__((noinline)) int step_head(host_conn *c) {
    const char *data;
    host_exchange *x = c->x;
    if (x && x->in_pos < x->in_end) return parse_head(c);
    /* Responses that waited for a request which is not whole yet. */
    if (c->out.n > 0) return conn_flush(c, CONN_SERVE);
    ssize_t n = conn_read(c, HEAD_READ, &data);
    bool late = n == -EAGAIN && rt_pd_check(c->io.pd, RT_R) != 0;
    if (late) { /* a request may have come at the moment of the deadline */
        stream_doubt(&c->io);
        n = conn_read(c, HEAD_READ, &data);
    }
    if (n > 0) {
        size_t skip = x ? 0 : line_ends(data, (size_t)n);
        if (skip == (size_t)n) return n == HEAD_READ ? (int)RT_YIELD : CONN_NEXT;
        if (x)
            x->in_pieces = true;
        else if (!(x = wake_up(c)))
            return conn_close(c);
        if (exchange_keep(x, data + skip, (size_t)n - skip) < 0) return conn_close(c);
        return parse_head(c);
    }
    if (n == -EAGAIN && late && x) return refuse(c, 408);
    if (n != -EAGAIN || late) return conn_close(c); /* the end, a reset, or nothing to answer */
    if (!x && conn_leaves(c)) return conn_close(c);
    return x ? conn_wait(c, RT_R) : conn_wait_idle(c, rt_nanotime());
}

/* The phase in which the connection ends when the queued output has gone out. If only the end of the connection marks
 * the end of a response, a client would take a part for the whole: such a connection ends without an orderly
 * shutdown. */
static conn_phase last_phase(const host_exchange *x) {
    bool ends_by_close = !x->chunked && x->left < 0;
    return response_is_partial(x) && ends_by_close ? CONN_END : CONN_LINGER;
}

/* The response is complete: goes on with the rest of the request, then with the next one. */
static int after_response(host_conn *c) {
    host_exchange *x = c->x;
    if (x->broken) return conn_close(c);
    if (x->answer_us) rt_pd_set_deadline(c->io.pd, RT_W, 0); /* it may have waited for room */
    /* The body is not worth reading if the client waits for 100 Continue, or if the connection ends anyway. */
    if (!x->message_done && x->expects_100) x->close_after = true;
    if (x->close_after) return conn_flush(c, last_phase(x));
    if (!x->message_done) {
        c->state = HTTP1_DRAIN;
        return CONN_NEXT;
    }
    c->state = HTTP1_HEAD;
    if (x->in_pos == x->in_end && c->out.n == 0) {
        int64_t now = rt_nanotime();
        end_exchange(c, now);
        return stream_is_dry(&c->io) ? conn_wait_idle(c, now) : CONN_NEXT;
    }
    if (x->in_pos == x->in_end || c->out.n >= OUT_FULL) {
        c->state = HTTP1_DONE;
        return conn_flush(c, CONN_SERVE);
    }
    int64_t now = rt_nanotime();
    exchange_over(x, now);
    exchange_next(x); /* the next request was pipelined */
    x->begin_ns = now;
    return CONN_NEXT;
}

static __attribute__((noinline)) int step_drain(host_conn *c) {
    const char *data;
    host_exchange *x = c->x;
    int r = x->in_pos < x->in_end ? http1_body(x, false) : 0;
    if (r == 0) {
        ssize_t n = conn_read(c, BODY_READ, &data);
        if (n == -EAGAIN && rt_pd_check(c->io.pd, RT_R) == 0) {
            rt_pd_set_deadline(c->io.pd, RT_R, pace_read(x));
            return conn_wait(c, RT_R);
        }
        if (n > 0) pace_got(x, (size_t)n);
        r = n > 0 ? http1_body_of(x, data, (size_t)n, false) : -ECONNRESET;
    }
    if (r > 0) return after_response(c);
    if (r == 0) return CONN_NEXT;
    /* The body is too long or malformed, or the client is gone or too slow: the answer is out or queued, which is
     * enough. */
    x->close_after = true;
    return conn_flush(c, r == -ECONNRESET ? CONN_END : CONN_LINGER);
}

/* ---- the handler ---- */

/* Reads a head that was read before, by another exchange. It says what it said. */
static void read_again(host_exchange *x) {
    if (!x->in) return; /* there was no memory for it */
    x->in_pos = x->head_end = 0;
    x->head_done = false;
    x->req.target = (host_span){0};
    (void)http1_head(x);
}

/* What a connection does whose handler has lost it. */
static int go_on_without(host_conn *c, host_exchange *x, int status) {
    bool partial = response_is_partial(x);
    host_exchange *fresh = x->broken ? NULL : exchange_take(c, &http1_ops);
    c->x = fresh;
    if (!fresh) {
        out_drop(&c->out);
        exchange_over(x, rt_nanotime());
        return conn_close(c);
    }
    exchange_inherit(fresh, x);
    if (x->req.state == 0) {
        read_again(fresh);
        fresh->error = (int16_t)status;
        c->state = HTTP1_REFUSE;
        return CONN_NEXT;
    }
    /* A partial response: what is queued goes out, and closing tells that no more will come. A complete response: the
     * connection goes on as after any other, if nothing is left of the request. */
    if (partial || !x->message_done || x->close_after ||
        exchange_keep(fresh, x->in + x->in_pos, x->in_end - x->in_pos) < 0)
        return conn_flush(c, last_phase(x));
    fresh->message_done = true;
    c->state = HTTP1_DONE;
    return conn_flush(c, CONN_SERVE);
}

/* The handler of x has lost the connection, which goes on with an exchange of its own. */
static int part(host_conn *c) {
    host_exchange *x = c->x;
    char what[256];
    int status = hold_status(x), state = response_is_partial(x) ? 1 : x->req.state;
    bool asked = x->asked;
    hold_print_name(x, what, sizeof what);
    server_hold(x->server); /* for x, which may outlive the connection */
    int next = go_on_without(c, x, status);
    stream_doubt(&c->io); /* a G that was taken out of its wait may have used up the edge */
    rt_pd_set_deadline(c->io.pd, RT_R, 0);
    rt_pd_set_deadline(c->io.pd, RT_W, 0);
    rt_pd_kick(c->io.pd, RT_R);
    rt_pd_kick(c->io.pd, RT_W);
    hold_parted(x);
    if (asked && state == 0)
        log_line(LOG_WARN, "%s: on_error did not answer in time, the client was answered %d", what,
                 status);
    else if (status == 504 && state == 0)
        log_line(LOG_WARN, "%s: no answer in %g s, the client was answered 504", what,
                 conn_limits(c)->handler_timeout);
    else if (status == 504 && state == 1)
        log_line(LOG_WARN, "%s: nothing written for %g s, the response was broken off", what,
                 conn_limits(c)->handler_timeout);
    return next;
}

/* True: the client has reset the connection. The handler may be lending itself the stream just now. */
static bool is_reset(host_conn *c) {
    if (!hold_take(c->x)) return false;
    bool reset = stream_is_reset(&c->io);
    hold_give(c->x);
    return reset;
}

static __attribute__((noinline)) int step_bound(host_conn *c) {
    host_exchange *x = c->x;
    rt_wait_code(c->g);
    if (rt_canceled(c->g)) {
        rt_clear_cancel(c->g);
        if (atomic_load(&x->all_here) || is_reset(c)) rt_cancel(x->handler, x->handler_id);
    }
    unsigned state = hold_state(x);
    if (state == HOLD_NONE) return after_response(c);
    if (state >= HOLD_PARTING) return part(c);
    int64_t limit = atomic_load(&x->limit_ns);
    if (!limit || limit > rt_nanotime()) return wait_for_handler(c, limit);
    if (hold_part(x, 504)) return part(c);
    return wait_for_handler(c, rt_nanotime() + CALL_NS);
}

/* ---- the protocol ---- */

static int serve(host_conn *c) {
    if (c->state == HTTP1_HEAD) return step_head(c); /* the two of nearly each request */
    if (c->state == HTTP1_BOUND) return step_bound(c);
    switch ((http1_state)c->state) {
    case HTTP1_HEAD:
    case HTTP1_BOUND:
        break;
    case HTTP1_BIND:
        return step_bind(c);
    case HTTP1_DRAIN:
        return step_drain(c);
    case HTTP1_DONE:
        return after_response(c);
    case HTTP1_REFUSE:
        return refuse(c, c->x->error);
    }
    rt_throw("a connection in state %d", c->state);
}

static int flush(host_conn *c, int64_t *until_ns) {
    bool moved;
    int err = http1_flush(c->x);
    if (err == -EAGAIN && (*until_ns = pace_write(c->x, &moved)) == 0) return -ETIMEDOUT;
    return err;
}

/* A server that stops closes without being asked, so the client may have written its next request already; not behind a
 * response whose handler has said from the start that it is the last one (events: http/sse.lua). */
static bool unread(const host_conn *c) {
    const host_exchange *x = c->x;
    return !x->message_done || x->in_pos < x->in_end || x->error ||
           (conn_stopping(c) && !x->req.close);
}

static void end(host_conn *c) {
    if (c->x) end_exchange(c, rt_nanotime());
}

static int begin_refused(host_conn *c, int status) {
    if (!(c->x = exchange_take(c, &http1_ops))) return -ENOMEM;
    c->x->begin_ns = rt_nanotime();
    c->x->error = (int16_t)status;
    c->state = HTTP1_REFUSE;
    return 0;
}

const conn_protocol http1_protocol = {
    .serve = serve,
    .flush = flush,
    .unread = unread,
    .end = end,
    .refuse = begin_refused,
};
