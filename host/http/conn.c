/* A connection: a stream, what is spoken there, and a place in a server. A C state machine, the steps of a G of its own,
 * from the connection's beginning to its end.
 *
 *     [SHAKE] --> SERVE <--> FLUSH --> [SHUT] --> LINGER --> closed
 *        |          |          |          |
 *        +----------+----------+----------+--> END --> closed
 *
 * SERVE is the protocol's (conn_protocol): each run of the G is a turn of the protocol, which reads, begins and ends
 * exchanges, and says what the G waits for. HTTP/1: http1_conn.c. The other phases are alike for all protocols. So a
 * protocol knows requests and no ends of connections, and this file knows no requests.
 *
 * The connection belongs to no VM, so an idle connection holds neither Lua memory nor buffers. A client that shuts its
 * side down, or vanishes, cancels the connection's G (rt_pd_watch). What this means for handlers says the protocol.
 *
 * SHAKE: the handshake of TLS, if the listener has certificates, in turns (shakes.c). The whole of it has --header-timeout, and the connection
 * counts as idle meanwhile. What is spoken is said after it, even to a client that is refused. A client that speaks the
 * protocol without TLS is told so, without TLS.
 *
 * FLUSH: the queued output has one bound, OUT_FULL. Above it nothing is parsed or begun for the connection until the
 * client has read. So a client that pipelines requests and reads no answers holds one answer. A protocol that has to
 * read on meanwhile stays in SERVE, sends what it can and waits for RT_RW.
 *
 * LINGER: closing a socket with unread input makes the kernel send a reset, which may destroy the answer on its way. So
 * after an answer to a request that was not read to its end, the connection shuts its side down and reads on. It closes
 * when the peer has closed its side, sends less than --min-rate for LINGER_SILENT_NS, or LINGER_NS are over. So a
 * client that sends all of a large body before it looks for the answer finds one. With TLS, the end of our side is bytes,
 * too: SHUT waits for room for them, LINGER_SILENT_NS at most.
 *
 * Every wait has a deadline. An idle connection has --idle-timeout, or, while the server stops, a second (why:
 * server.c). A slow reader has what pace.c says.
 */
#include "conn.h"
#include "shakes.h"

#include "../base/log.h"
#include "../base/options.h"
#include "../net/certs.h"
#include "../net/tls.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
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
    bool lent = c->io.fd < 0; /* the stream has another end: hijack.c */
    if (!lent) rt_pd_watch(c->io.pd, NULL);
    server_remove_conn(&c->base);
    if (!lent) stream_close(&c->io, false);
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

/* Our side is shut down: reads on. */
static int linger(host_conn *c) {
    int64_t now = rt_nanotime();
    c->phase = CONN_LINGER;
    c->linger.since_ms = ms_of(now);
    c->linger.seen = 0;
    rt_pd_set_deadline(c->io.pd, RT_R, now + LINGER_SILENT_NS);
    return CONN_NEXT;
}

/* All is sent that will be. */
static int begin_linger(host_conn *c) {
    bool unread = protocol_of(c)->unread(c);
    int err = c->io.ops->shutdown(&c->io); /* fails if the client is gone */
    if (!unread && err != -EAGAIN) return step_end(c);
    protocol_of(c)->end(c);
    if (err != -EAGAIN) return linger(c);
    c->phase = CONN_SHUT;
    rt_pd_set_deadline(c->io.pd, RT_W, rt_nanotime() + LINGER_SILENT_NS);
    return conn_wait(c, RT_W);
}

static int step_shut(host_conn *c) {
    int err = c->io.ops->shutdown(&c->io);
    if (err == -EAGAIN && rt_pd_check(c->io.pd, RT_W) == 0) return conn_wait(c, RT_W);
    return err ? close_conn(c) : linger(c);
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

/* ---- the handshake ---- */

/* A connection that begins, or may speak at last: what it speaks is p. refusal: see conn_start. */
static void begin(host_conn *c, const conn_protocol *p, int refusal) {
    c->phase = CONN_SERVE;
    c->x = NULL;
    if (refusal && p->refuse(c, refusal) < 0) c->phase = CONN_END;
}

/* What a connection needs for its handshake, and not afterwards. */
struct conn_shake {
    shake_turn turn;
    int64_t until_ns; /* when it has to be done */
    int refusal;      /* the only status that the connection answers; 0: it serves */
    enum { NO_TURN, WAITS_FOR_TURN, HAS_TURN } turns;
};

static bool begin_shake(host_conn *c, int refusal, int64_t now) {
    struct conn_shake *s = calloc(1, sizeof *s);
    if (!s) return false;
    s->until_ns = now + (int64_t)(conn_limits(c)->header_timeout * 1e9);
    s->refusal = refusal;
    c->phase = CONN_SHAKE;
    c->shake = s;
    return true;
}

static void end_shake(host_conn *c) {
    free(c->shake);
    c->x = NULL;
}

static int leave_shake(host_conn *c) {
    end_shake(c);
    return close_conn(c);
}

/* Waits for more of the handshake. */
static int wait_for_shake(host_conn *c) {
    int64_t now = rt_nanotime(), drain = now + server_drain_idle_ns();
    if (conn_stopping(c) && c->shake->until_ns > drain) c->shake->until_ns = drain;
    if (c->shake->until_ns <= now || conn_leaves(c)) return leave_shake(c);
    int mode = stream_wants(&c->io, RT_R);
    rt_pd_set_deadline(c->io.pd, mode, c->shake->until_ns);
    return conn_wait(c, mode);
}

/* The handshake has failed. What is left of TLS, an alert, is out. The words for a client are few, and the first: they
 * go out, or the client is gone. */
static int shake_failed(host_conn *c, int err) {
    const host_server *s = c->base.server;
    const server_protocol *p = s->listener.protocol;
    const char *why = err == STREAM_ETLS ? tls_why(&c->io) : rt_strerror(err);
    bool is_plain = strcmp(why, TLS_PLAIN_HTTP) == 0;
    log_line(LOG_DEBUG, "%s: a connection ends in the handshake: %s", s->addr, why);
    if (err != STREAM_ETLS) return leave_shake(c);
    end_shake(c);
    tls_leave(&c->io);
    if (is_plain && p->plain) (void)stream_write(&c->io, p->plain, p->plain_len);
    (void)c->io.ops->shutdown(&c->io);
    return linger(c);
}

/* Asks for a turn. What the G's turn answers: it runs again when it has one. The Gs that are ready run before a turn is
 * used: those of handshakes among them stand in the list then, and no more in the ring. */
static int ask_for_turn(host_conn *c) {
    rt_clear_cancel(c->g); /* an end that has come already is read */
    bool has = shakes_take(&c->shake->turn, c->g);
    c->shake->turns = has ? HAS_TURN : WAITS_FOR_TURN;
    if (has) return (int)RT_YIELD;
    rt_set_wait(c->g, RT_WAIT_OTHER, c->shake->until_ns);
    return (int)RT_PARK;
}

static int step_shake(host_conn *c) {
    if (c->shake->turns == NO_TURN) return ask_for_turn(c);
    if (c->shake->turns == WAITS_FOR_TURN) {
        rt_wait_code(c->g);
        if (!shakes_given(&c->shake->turn)) return leave_shake(c); /* late, or the client is gone */
    }
    c->shake->turns = NO_TURN;
    int err = c->io.ops->shake(&c->io);
    shakes_give();
    if (err == -EAGAIN) return wait_for_shake(c);
    if (err) return shake_failed(c, err);
    rt_pd_set_deadline(c->io.pd, RT_R, 0);
    rt_pd_set_deadline(c->io.pd, RT_W, 0);
    int refusal = c->shake->refusal;
    end_shake(c);
    begin(c, protocol_of(c), refusal);
    return CONN_NEXT;
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
    if (c->after_flush == CONN_END && c->io.tls) tls_cut(&c->io);
    c->phase = c->after_flush;
    return CONN_NEXT;
}

/* A phase in which the protocol has no turn. Apart, so that a turn costs no more than its own. */
static __attribute__((noinline)) int step_alone(host_conn *c) {
    switch ((conn_phase)c->phase) {
    case CONN_SHAKE:
        return step_shake(c);
    case CONN_FLUSH:
        return step_flush(c);
    case CONN_SHUT:
        return step_shut(c);
    case CONN_LINGER:
        return step_linger(c);
    case CONN_SERVE:
    case CONN_END:
        break;
    }
    return step_end(c);
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

/* Makes the stream over fd, of the kind that s has. 0 or -errno; then fd is as it was. */
static int open_stream(host_server *s, stream *io, int fd) {
    int err = stream_open(io, fd, &stream_socket);
    if (err || !s->listener.certs) return err;
    tls_config *config = certs_config(s->listener.certs);
    err = tls_begin(io, config, NULL);
    tls_config_release(config);
    if (err) stream_close(io, true);
    return err;
}

void conn_start(host_server *s, int fd, server_client client, const conn_protocol *p, int refusal) {
    host_conn *c = calloc(1, sizeof *c);
    int err = c ? open_stream(s, &c->io, fd) : -ENOMEM;
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
    int64_t now = rt_nanotime();
    if (!refusal) c->base.idle_ns = conns_idle_since(now, false);
    if (!c->io.tls)
        begin(c, p, refusal);
    else if (!begin_shake(c, refusal, now))
        c->phase = CONN_END;
    rt_pd_watch(c->io.pd, g);
    server_add_conn(&c->base, s, client);
    rt_ready(g);
}

void conn_look(server_conn *base) {
    rt_pd_kick(list_of(base, host_conn, base)->io.pd, RT_R);
}
