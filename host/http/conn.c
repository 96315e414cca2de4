/* A connection: a stream, what is spoken there, and a place in a server. A C state machine, the steps of a G of its own,
 * from the connection's beginning to its end.
 *
 *     SERVE <--> FLUSH --> LINGER --> closed
 *       |          |
 *       +----------+--> END --> closed
 *
 * SERVE is the protocol's (conn_protocol): each run of the G is a turn of the protocol, which reads, begins and ends
 * exchanges, and says what the G waits for. HTTP/1: http1_conn.c. The other phases are alike for all protocols. So a
 * protocol knows requests and no ends of connections, and this file knows no requests.
 *
 * The connection belongs to no VM, so an idle connection holds neither Lua memory nor buffers. A client that shuts its
 * side down, or vanishes, cancels the connection's G (rt_pd_watch). What this means for handlers says the protocol.
 *
 * FLUSH: the queued output has one bound, OUT_FULL. Above it nothing is parsed or begun for the connection until the
 * client has read. So a client that pipelines requests and reads no answers holds one answer. A protocol that has to
 * read on meanwhile stays in SERVE, sends what it can and waits for RT_RW.
 *
 * LINGER: closing a socket with unread input makes the kernel send a reset, which may destroy the answer on its way. So
 * after an answer to a request that was not read to its end, the connection shuts its side down and reads on. It closes
 * when the peer has closed its side, sends less than --min-rate for LINGER_SILENT_NS, or LINGER_NS are over. So a
 * client that sends all of a large body before it looks for the answer finds one.
 *
 * Every wait has a deadline. An idle connection has --idle-timeout, or, while the server stops, a second (why:
 * server.c). A slow reader has what pace.c says.
 */
#include "conn.h"

#include "../base/log.h"
#include "../base/options.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#define LINGER_NS        (30 * NS_PER_SEC)
#define LINGER_SILENT_NS (2 * NS_PER_SEC)

/* The locals of a connection's rt_g. The protocol stands here, where there is room, and not in host_conn, which would
 * become larger by it. */
typedef struct conn_local {
    host_conn *conn;
    const conn_protocol *protocol;
} conn_local;

static const conn_protocol *protocol_of(const host_conn *c) {
    return RT_LOCAL(c->g, conn_local)->protocol;
}

__thread char conn_arrived[BODY_READ];

/* ---- between two requests ---- */

/* How long a client may be silent between two requests. While the server stops, drain_idle_ns at most, and half of
 * --drain-timeout, so that the wait ends before the stop does. */
static double idle_seconds(host_conn *c) {
    double s = conn_limits(c)->idle_timeout;
    if (!conn_stopping(c)) return s;
    double drain = (double)server_drain_idle_ns() / 1e9;
    if (s > drain) s = drain;
    return s > options.drain_timeout / 2 ? options.drain_timeout / 2 : s;
}

int conn_wait_idle(host_conn *c, int64_t now_ns) {
    atomic_store_explicit(&c->base.idle_ns, conns_idle_since(now_ns, c->served),
                          memory_order_relaxed);
    rt_pd_set_deadline(c->io.pd, RT_R, now_ns + (int64_t)(idle_seconds(c) * 1e9));
    return conn_wait(c, RT_R);
}

/* ---- the end ---- */

/* Closes a connection whose protocol has ended. */
static int close_conn(host_conn *c) {
    rt_pd_watch(c->io.pd, NULL);
    server_remove_conn(&c->base);
    stream_close(&c->io, false);
    free(c);
    return (int)RT_EXIT;
}

static int step_end(host_conn *c) {
    out_drop(&c->out);
    protocol_of(c)->end(c);
    return close_conn(c);
}

static uint32_t ms_of(int64_t ns) {
    return (uint32_t)(ns / NS_PER_MS);
}

/* All is sent that will be. */
static int begin_linger(host_conn *c) {
    bool unread = protocol_of(c)->unread(c);
    (void)c->io.ops->shutdown(&c->io); /* fails if the client is gone */
    if (!unread) return step_end(c);
    protocol_of(c)->end(c);
    int64_t now = rt_nanotime();
    c->phase = CONN_LINGER;
    c->linger.since_ms = ms_of(now);
    c->linger.seen = 0;
    rt_pd_set_deadline(c->io.pd, RT_R, now + LINGER_SILENT_NS);
    return CONN_NEXT;
}

static int step_linger(host_conn *c) {
    const char *data;
    ssize_t n = conn_read(c, BODY_READ, &data);
    int64_t now = rt_nanotime(), limit = conn_stopping(c) ? server_drain_idle_ns() : LINGER_NS,
            left = limit - (int64_t)(ms_of(now) - c->linger.since_ms) * NS_PER_MS;
    if (n == 0 || (n < 0 && n != -EAGAIN) || left <= 0) return close_conn(c);
    if (n > 0) c->linger.seen += (uint32_t)n;
    if (c->linger.seen > (uint64_t)conn_limits(c)->min_rate * (LINGER_SILENT_NS / NS_PER_SEC)) {
        c->linger.seen = 0;
        rt_pd_set_deadline(c->io.pd, RT_R, now + LINGER_SILENT_NS);
    } else if (rt_pd_check(c->io.pd, RT_R) != 0) {
        return close_conn(c);
    }
    if (n > 0) return n == BODY_READ ? (int)RT_YIELD : CONN_NEXT;
    if (left < LINGER_SILENT_NS) rt_pd_set_deadline(c->io.pd, RT_R, now + left);
    return conn_wait(c, RT_R);
}

/* ---- the G ---- */

static int step_flush(host_conn *c) {
    int64_t until;
    int err = protocol_of(c)->flush(c, &until);
    if (err == -EINPROGRESS) return (int)RT_YIELD;
    if (err == -EAGAIN) {
        rt_pd_set_deadline(c->io.pd, RT_W, until);
        return conn_wait(c, RT_W);
    }
    if (err) return step_end(c);
    rt_pd_set_deadline(c->io.pd, RT_W, 0);
    if (c->after_flush == CONN_LINGER) return begin_linger(c);
    c->phase = c->after_flush;
    return CONN_NEXT;
}

/* A phase in which the protocol has no turn. Apart, so that a turn costs no more than its own. */
static __attribute__((noinline)) int step_alone(host_conn *c) {
    if (c->phase == CONN_FLUSH) return step_flush(c);
    return c->phase == CONN_LINGER ? step_linger(c) : step_end(c);
}

static rt_step conn_step(rt_g *g) {
    const conn_local *l = RT_LOCAL(g, conn_local);
    host_conn *c = l->conn;
    int next;
    do
        next = c->phase == CONN_SERVE ? l->protocol->serve(c) : step_alone(c);
    while (next == CONN_NEXT);
    return (rt_step)next;
}

/* ---- the beginning ---- */

void conn_start(host_server *s, int fd, server_client client, const conn_protocol *p, int refusal) {
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
    *RT_LOCAL(g, conn_local) = (conn_local){c, p};
    c->g = g;
    c->io.tells = s->tells;
    c->base.server = s; /* the protocol asks for it */
    if (!refusal)
        c->base.idle_ns = conns_idle_since(rt_nanotime(), false);
    else if (p->refuse(c, refusal) < 0)
        c->phase = CONN_END;
    rt_pd_watch(c->io.pd, g);
    server_add_conn(&c->base, s, client);
    rt_ready(g);
}

void conn_look(server_conn *base) {
    rt_pd_kick(list_of(base, host_conn, base)->io.pd, RT_R);
}
