/* A connection, which speaks HTTP/1: a C state machine, the steps of a G of its own, from its beginning to its end.
 *
 * The G reads and parses. When a whole request head is there, it makes a G for the handler (handler.c) and waits until
 * the handler has ended or has lost the connection (hold.c). Then it parses the next pipelined request or waits for
 * readability. The connection belongs to no VM, so an idle connection holds neither Lua memory nor buffers.
 *
 *     HEAD --whole head--> BOUND --handler ended--> [DRAIN] --> [FLUSH] --> HEAD
 *      |                                               |           |
 *      +--bad head: answer from C----------------------+-----------+--> LINGER --> closed
 *
 * While it is BOUND, the connection belongs to the handler, for --handler-timeout at most: see hold.c. Then the
 * connection goes on without the handler: REFUSE, or END.
 *
 * A client that shuts its side down, or vanishes, cancels its handler as soon as nothing more can come from the client:
 * when the request's body is read and no other request stands behind it. Each wait of the handler then answers
 * "canceled". The client still gets the handler's answer, since it may have shut only one side. A client that said that
 * it sends no further request (Connection: close, HTTP/1.0) may shut its side and wait: its handler goes on until the
 * connection is broken. The poller cancels the
 * connection's G (rt_pd_watch), and the G cancels its handler.
 *
 * The connection has one exchange at a time and says when the exchange is over (over.c): in end_exchange, where it
 * parts with the exchange; in after_response, before the next exchange; and before it lingers.
 *
 * Answers to pipelined requests leave together, but no answer waits for a client or a handler: what is queued leaves
 * before the next request's handler waits for anything (http1_exchange.c), its body included, and before the connection
 * waits for the rest of a head.
 *
 * Line ends before a request, and behind its body, are dropped where they come. They are no beginning of a request, so a
 * connection that brings nothing else stays idle.
 *
 * A request costs one read and one write: a short read drains a TCP socket, so the next read waits first (conn_read). A
 * short read does not drain a unix socket: rt_short_read_tells.
 *
 * LINGER: closing a socket with unread input makes the kernel send a reset, which may destroy the answer on its way. So
 * after an answer to a request that was not read to its end, the connection shuts its side down and reads on. It closes
 * when the peer has closed its side, sends less than --min-rate for LINGER_SILENT_NS, or LINGER_NS are over. So a
 * client that sends all of a large body before it looks for the answer finds one.
 *
 * Every wait has a deadline. An idle connection has --idle-timeout, or, while the server stops, a second (why:
 * server.c). An incomplete head has --header-timeout from its first byte. A body and a slow reader have what pace.c
 * says.
 *
 * The queued output of a connection has one bound, OUT_FULL. Above it nothing is parsed or begun for the connection
 * until the client has read. So a client that pipelines requests and reads no answers holds one answer.
 */
#include "conn.h"
#include "handler.h"
#include "hold.h"
#include "http1.h"
#include "over.h"
#include "pace.h"
#include "response.h"
#include "site.h"
#include "static.h"

#include "../base/log.h"
#include "../base/options.h"
#include "../serve/bind.h"
#include "../serve/conns.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LINGER_NS        (30 * NS_PER_SEC)
#define LINGER_SILENT_NS (2 * NS_PER_SEC)
#define CALL_NS          NS_PER_MS /* as a rule a handler's call (hold.c) is over by then */

/* Ids of exchanges that each P has reserved. Only the M that has the P. */
static struct {
    OF_ONE_P uint64_t last;
    uint64_t end;
} ids[MAX_PS];

typedef struct conn_local {
    host_conn *conn;
} conn_local; /* the locals of a connection's rt_g */

/* ---- reading ---- */

/* The bytes of this thread's last read. */
static __thread char arrived[BODY_READ];

ssize_t conn_read(host_conn *c, size_t room, const char **data) {
    *data = arrived;
    return stream_read(&c->io, arrived, room);
}

static bool stopping(host_conn *c) {
    return atomic_load_explicit(&c->base.server->stopping, memory_order_relaxed);
}

static const host_limits *limits_of(const host_conn *c) {
    return c->base.server->listener.limits;
}

/* ---- the end ---- */

/* The connection parts with its exchange. */
static void end_exchange(host_conn *c, int64_t now) {
    exchange_over(c->x, now);
    exchange_give(c->x);
    c->x = NULL;
}

static rt_step close_conn(host_conn *c) {
    out_drop(&c->out);
    if (c->x) end_exchange(c, rt_nanotime());
    rt_pd_watch(c->io.pd, NULL);
    server_remove_conn(&c->base);
    stream_close(&c->io, false);
    free(c);
    return RT_EXIT;
}

/* ---- phases; each returns what the G does next, or NEXT to go on at once ---- */

enum { NEXT = -1 };

static int wait_for(host_conn *c, int mode) {
    rt_clear_cancel(c->g); /* a cancellation so far was meant for its handler */
    int r = rt_pd_prepare(c->io.pd, mode, mode == RT_R ? RT_WAIT_READ : RT_WAIT_WRITE, c->g);
    /* 0 and errors: the phase asks rt_pd_check itself. */
    return r == RT_PARKED ? RT_PARK : NEXT;
}

/* Answers from C a request that cannot be parsed or served. The connection ends afterwards. */
static int refuse(host_conn *c, int status) {
    host_exchange *x = c->x;
    rt_pd_set_deadline(c->io.pd, RT_R, 0);
    x->close_after = true;
    response_error(x, status);
    c->phase = CONN_FLUSH;
    c->after_flush = CONN_LINGER;
    return NEXT;
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

static int64_t handler_limit_ns(const host_conn *c) {
    return (int64_t)(limits_of(c)->handler_timeout * 1e9);
}

/* Until when the handler has the connection, counted from when the head was whole; 0: no limit. */
static int64_t limit_of(host_conn *c) {
    host_exchange *x = c->x;
    int64_t limit = atomic_load_explicit(&x->limit_ns, memory_order_relaxed),
            s = handler_limit_ns(c);
    if (limit == 0 && s > 0) {
        limit = s + (x->in_pieces ? rt_nanotime() : x->begin_ns);
        atomic_store_explicit(&x->limit_ns, limit, memory_order_relaxed);
    }
    return limit;
}

/* Waits for a VM again, as long as a handler may take: the app may take longer, or get stuck, when it loads. */
static int ask_again(host_conn *c) {
    int64_t limit = limit_of(c);
    if (limit > 0 && rt_nanotime() >= limit) return refuse_busy(c);
    (void)http1_flush(c->x); /* a client that is gone is noticed later */
    c->phase = CONN_BIND;
    return (int)handler_await_vm(c->g, c->x);
}

/* Gives x an id that no other request of this process has. */
static void name_exchange(host_exchange *x) {
    enum { IDS = 64 };
    static _Atomic uint64_t n_taken;
    int p = rt_p_id();
    if (ids[p].last == ids[p].end) {
        ids[p].last = atomic_fetch_add_explicit(&n_taken, IDS, memory_order_relaxed);
        ids[p].end = ids[p].last + IDS;
    }
    double id = (double)++ids[p].last;
    __atomic_store(&x->req.id, &id, __ATOMIC_RELAXED);
}

/* The whole head is there: gives the connection to a handler and waits for the handler. */
static int bind_vm(host_conn *c) {
    host_exchange *x = c->x;
    rt_pd_set_deadline(c->io.pd, RT_R, 0);
    bool soon;
    host_vm *vm = bind_choose(c->base.server, &soon);
    if (!vm && soon) return ask_again(c);
    rt_g *handler = vm ? handler_make(x, vm) : NULL;
    if (!handler) return refuse_busy(c);
    c->phase = CONN_BOUND;
    c->served = true;
    look_at_client(c);
    name_exchange(x);
    exchange_handed();
    int64_t limit = limit_of(c);
    x->handler = handler;
    x->handler_id = rt_id(handler);
    uint64_t ticket = rt_wait_open(c->g);
    rt_set_wait(c->g, RT_WAIT_OTHER, limit);
    hold_begin(x, ticket);
    rt_ready(handler);
    return RT_PARK;
}

/* The whole head is there, and C has answered. The G lets others run before it takes the next pipelined request. */
static int after_static(host_conn *c) {
    rt_pd_set_deadline(c->io.pd, RT_R, 0);
    c->served = true;
    int next = after_response(c);
    return next == NEXT ? (int)RT_YIELD : next;
}

/* Waits for the handler, until until_ns at most; 0: no limit. */
static int wait_for_handler(host_conn *c, int64_t until_ns) {
    uint64_t ticket = rt_wait_open(c->g);
    rt_set_wait(c->g, RT_WAIT_OTHER, until_ns);
    if (!hold_again(c->x, ticket)) rt_wake(c->g, ticket, RT_WOKEN);
    return RT_PARK;
}

/* How long a client may be silent between two requests. While the server stops, drain_idle_ns at most, and half of
 * --drain-timeout, so that the wait ends before the stop does. */
static double idle_seconds(host_conn *c) {
    double s = limits_of(c)->idle_timeout;
    if (!stopping(c)) return s;
    double drain = (double)server_drain_idle_ns() / 1e9;
    if (s > drain) s = drain;
    return s > options.drain_timeout / 2 ? options.drain_timeout / 2 : s;
}

/* Between two requests: nothing but the connection itself is held. */
static int wait_idle(host_conn *c, int64_t now) {
    atomic_store_explicit(&c->base.idle_ns, conns_idle_since(now, c->served), memory_order_relaxed);
    rt_pd_set_deadline(c->io.pd, RT_R, now + (int64_t)(idle_seconds(c) * 1e9));
    return wait_for(c, RT_R);
}

/* The connection is idle no more: gives it an exchange. NULL: no memory. */
static host_exchange *wake_up(host_conn *c) {
    atomic_store_explicit(&c->base.idle_ns, 0, memory_order_relaxed);
    if (atomic_load_explicit(&c->base.leaves, memory_order_relaxed)) conns_stay(&c->base);
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
                           x->begin_ns + (int64_t)(limits_of(c)->header_timeout * 1e9));
    return NEXT;
}

/* How many of data[0 .. n) are line ends before a request, which are no part of it and start no clock. */
static size_t line_ends(const char *data, size_t n) {
    size_t i = 0;
    while (i < n && (data[i] == '\r' || data[i] == '\n'))
        i++;
    return i;
}

static int step_head(host_conn *c) {
    const char *data;
    host_exchange *x = c->x;
    if (x && x->in_pos < x->in_end) return parse_head(c);
    if (c->out.n > 0) { /* responses that waited for a request which is not whole yet */
        c->phase = CONN_FLUSH;
        c->after_flush = CONN_HEAD;
        return NEXT;
    }
    ssize_t n = conn_read(c, HEAD_READ, &data);
    bool late = n == -EAGAIN && rt_pd_check(c->io.pd, RT_R) != 0;
    if (late) { /* a request may have come at the moment of the deadline */
        stream_doubt(&c->io);
        n = conn_read(c, HEAD_READ, &data);
    }
    if (n > 0) {
        size_t skip = x ? 0 : line_ends(data, (size_t)n);
        if (skip == (size_t)n) return n == HEAD_READ ? (int)RT_YIELD : NEXT;
        if (x)
            x->in_pieces = true;
        else if (!(x = wake_up(c)))
            return close_conn(c);
        if (exchange_keep(x, data + skip, (size_t)n - skip) < 0) return close_conn(c);
        return parse_head(c);
    }
    if (n == -EAGAIN && late && x) return refuse(c, 408);
    if (n != -EAGAIN || late) return close_conn(c); /* the end, a reset, or nothing to answer */
    if (!x && atomic_load_explicit(&c->base.leaves, memory_order_relaxed)) return close_conn(c);
    return x ? wait_for(c, RT_R) : wait_idle(c, rt_nanotime());
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
    if (x->broken) return close_conn(c);
    rt_pd_set_deadline(c->io.pd, RT_W, 0);
    if (!x->message_done) {
        /* The body is not worth reading if the client waits for 100 Continue, or if the connection ends anyway. */
        if (x->expects_100 || x->close_after) {
            x->close_after = true;
            c->phase = CONN_FLUSH;
            c->after_flush = last_phase(x);
        } else {
            c->phase = CONN_DRAIN;
        }
        return NEXT;
    }
    if (x->close_after) {
        c->phase = CONN_FLUSH;
        c->after_flush = last_phase(x);
        return NEXT;
    }
    c->phase = CONN_HEAD;
    if (x->in_pos == x->in_end && c->out.n == 0) {
        int64_t now = rt_nanotime();
        end_exchange(c, now);
        return stream_is_dry(&c->io) ? wait_idle(c, now) : NEXT;
    }
    if (x->in_pos == x->in_end || c->out.n >= OUT_FULL) {
        c->phase = CONN_FLUSH;
        c->after_flush = CONN_HEAD;
        return NEXT;
    }
    int64_t now = rt_nanotime();
    exchange_over(x, now);
    exchange_next(x); /* the next request was pipelined */
    x->begin_ns = now;
    return NEXT;
}

static int step_drain(host_conn *c) {
    const char *data;
    host_exchange *x = c->x;
    int r = x->in_pos < x->in_end ? http1_body(x, false) : 0;
    if (r == 0) {
        ssize_t n = conn_read(c, BODY_READ, &data);
        if (n == -EAGAIN && rt_pd_check(c->io.pd, RT_R) == 0) {
            rt_pd_set_deadline(c->io.pd, RT_R, pace_read(x));
            return wait_for(c, RT_R);
        }
        if (n > 0) pace_got(x, (size_t)n);
        r = n > 0 ? http1_body_of(x, data, (size_t)n, false) : -ECONNRESET;
    }
    if (r > 0) return after_response(c);
    if (r == 0) return NEXT;
    /* The body is too long or malformed, or the client is gone or too slow: the answer is out or queued, which is
     * enough. */
    x->close_after = true;
    c->phase = CONN_FLUSH;
    c->after_flush = r == -ECONNRESET ? CONN_END : CONN_LINGER;
    return NEXT;
}

static int step_flush(host_conn *c) {
    host_exchange *x = c->x;
    int err = http1_flush(x);
    if (err == -EINPROGRESS) return (int)RT_YIELD;
    if (err == -EAGAIN) {
        bool moved;
        int64_t until = pace_write(x, &moved);
        if (until == 0) return close_conn(c);
        rt_pd_set_deadline(c->io.pd, RT_W, until);
        return wait_for(c, RT_W);
    }
    if (err) return close_conn(c);
    rt_pd_set_deadline(c->io.pd, RT_W, 0);
    c->phase = c->after_flush;
    if (c->phase == CONN_HEAD && x->message_done) return after_response(c);
    if (c->phase == CONN_LINGER) {
        /* A server that stops closes without being asked, so the client may have written its next request already; not
         * behind a response whose handler has said from the start that it is the last one (events: http/sse.lua). */
        bool unread =
            !x->message_done || x->in_pos < x->in_end || x->error || (stopping(c) && !x->req.close);
        (void)c->io.ops->shutdown(&c->io); /* fails if the client is gone */
        if (!unread) return close_conn(c);
        int64_t now = rt_nanotime();
        exchange_over(x, now);
        x->raw_seen = 0;
        x->linger_ns = now;
        rt_pd_set_deadline(c->io.pd, RT_R, x->linger_ns + LINGER_SILENT_NS);
    }
    return NEXT;
}

/* Closes a connection that lingers. Its exchange is over already and only gives its memory back. */
static rt_step end_linger(host_conn *c) {
    exchange_give(c->x);
    c->x = NULL;
    return close_conn(c);
}

static int step_linger(host_conn *c) {
    const char *data;
    host_exchange *x = c->x;
    ssize_t n = conn_read(c, BODY_READ, &data);
    int64_t now = rt_nanotime(),
            end = x->linger_ns + (stopping(c) ? server_drain_idle_ns() : LINGER_NS);
    if (n == 0 || (n < 0 && n != -EAGAIN) || now >= end) return end_linger(c);
    if (n > 0) x->raw_seen += (size_t)n;
    if (x->raw_seen > (size_t)limits_of(c)->min_rate * (LINGER_SILENT_NS / NS_PER_SEC)) {
        x->raw_seen = 0;
        rt_pd_set_deadline(c->io.pd, RT_R, now + LINGER_SILENT_NS);
    } else if (rt_pd_check(c->io.pd, RT_R) != 0) {
        return end_linger(c);
    }
    if (n > 0) return n == BODY_READ ? (int)RT_YIELD : NEXT;
    if (end < now + LINGER_SILENT_NS) rt_pd_set_deadline(c->io.pd, RT_R, end);
    return wait_for(c, RT_R);
}

/* The next phase of a connection whose handler has lost it. */
static conn_phase phase_without(host_conn *c, host_exchange *x, int status) {
    bool partial = response_is_partial(x);
    host_exchange *fresh = x->broken ? NULL : exchange_take(c, &http1_ops);
    c->x = fresh;
    if (!fresh) {
        out_drop(&c->out);
        exchange_over(x, rt_nanotime());
        return CONN_END;
    }
    exchange_inherit(fresh, x);
    if (x->req.state == 0) {
        fresh->error = status;
        return CONN_REFUSE;
    }
    /* A partial response: what is queued goes out, and closing tells that no more will come. A complete response: the
     * connection goes on as after any other, if nothing is left of the request. */
    c->after_flush = last_phase(x);
    if (!partial && x->message_done && !x->close_after &&
        exchange_keep(fresh, x->in + x->in_pos, x->in_end - x->in_pos) == 0) {
        fresh->message_done = true;
        c->after_flush = CONN_HEAD;
    }
    return CONN_FLUSH;
}

/* The handler of x has lost the connection, which goes on with an exchange of its own. */
static int part(host_conn *c) {
    host_exchange *x = c->x;
    char what[256];
    int status = hold_status(x), state = response_is_partial(x) ? 1 : x->req.state;
    hold_print_name(x, what, sizeof what);
    server_hold(x->server); /* for x, which may outlive the connection */
    c->phase = (uint8_t)phase_without(c, x, status);
    stream_doubt(&c->io); /* a G that was taken out of its wait may have used up the edge */
    rt_pd_set_deadline(c->io.pd, RT_R, 0);
    rt_pd_set_deadline(c->io.pd, RT_W, 0);
    rt_pd_kick(c->io.pd, RT_R);
    rt_pd_kick(c->io.pd, RT_W);
    hold_parted(x);
    if (status == 504 && state == 0)
        log_line(LOG_WARN, "%s: no answer in %g s, the client was answered 504", what,
                 limits_of(c)->handler_timeout);
    else if (status == 504 && state == 1)
        log_line(LOG_WARN, "%s: nothing written for %g s, the response was broken off", what,
                 limits_of(c)->handler_timeout);
    return NEXT;
}

/* True: the client has reset the connection. */
static bool is_reset(const host_conn *c) {
    int err = 0;
    socklen_t len = sizeof err;
    return getsockopt(c->io.fd, SOL_SOCKET, SO_ERROR, &err, &len) == 0 && err != 0;
}

static int step_bound(host_conn *c) {
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

static rt_step conn_step(rt_g *g) {
    host_conn *c = RT_LOCAL(g, conn_local)->conn;
    for (;;) {
        int next = NEXT;
        switch ((conn_phase)c->phase) {
        case CONN_HEAD:
            next = step_head(c);
            break;
        case CONN_BIND:
            rt_wait_code(g);
            next = bind_vm(c);
            break;
        case CONN_DRAIN:
            next = step_drain(c);
            break;
        case CONN_FLUSH:
            next = step_flush(c);
            break;
        case CONN_LINGER:
            next = step_linger(c);
            break;
        case CONN_REFUSE:
            next = refuse(c, c->x->error);
            break;
        case CONN_END:
            return close_conn(c);
        case CONN_BOUND:
            next = step_bound(c);
            break;
        }
        if (next != NEXT) return (rt_step)next;
    }
}

/* ---- the beginning ---- */

void conn_start(host_server *s, int fd, server_client client, int refusal) {
    host_conn *c = calloc(1, sizeof *c);
    int err = c ? stream_open(&c->io, fd, &stream_socket) : -ENOMEM;
    rt_g *g = err ? NULL : rt_new_step(conn_step, NULL);
    if (!g) {
        log_line(LOG_ERROR, "a connection is refused: %s", rt_strerror(err ? err : -ENOMEM));
        if (c && !err)
            stream_close(&c->io, false);
        else
            close(fd);
        free(c);
        client_leave(client);
        return;
    }
    c->g = g;
    c->io.tells = s->tells;
    int64_t now = rt_nanotime();
    if (!refusal) c->base.idle_ns = conns_idle_since(now, false);
    c->base.server = s; /* exchange_take asks for it */
    if (refusal && (c->x = exchange_take(c, &http1_ops))) {
        c->x->begin_ns = now;
        c->x->error = refusal;
        c->phase = CONN_REFUSE;
    } else if (refusal) {
        c->phase = CONN_END;
    }
    RT_LOCAL(g, conn_local)->conn = c;
    rt_pd_watch(c->io.pd, g);
    server_add_conn(&c->base, s, client);
    rt_ready(g);
}

static void start(host_server *s, int fd, server_client client, bool refuse) {
    conn_start(s, fd, client, refuse ? 503 : 0);
}

static void look(server_conn *base) {
    host_conn *c = list_of(base, host_conn, base);
    rt_pd_kick(c->io.pd, RT_R);
}

static const char busy[] = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n"
                           "Connection: close\r\nContent-Length: 0\r\n\r\n";

const server_protocol http_protocol = {
    .start = start,
    .look = look,
    .ended = site_drop,
    .busy = busy,
    .busy_len = sizeof busy - 1,
};
