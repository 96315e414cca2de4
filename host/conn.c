/* A connection: a C state machine that becomes a Lua G while a handler runs.
 *
 * The connection's G is a step G. Outside of handlers it belongs to no VM: it reads, parses, and only
 * when a whole request head is there is it bound to the VM of the P that runs it, which means that it
 * joins that VM's cell and takes one of its coroutines. When the response is out, coroutine and VM
 * are released, and it parses the next pipelined request or waits for readability. So requests of one
 * connection may run in different VMs, and an idle connection holds neither Lua memory nor buffers.
 *
 *     HEAD --whole head--> BOUND --handler ended--> [DRAIN] --> [FLUSH] --> HEAD
 *      |                                               |           |
 *      +--bad head: answer from C----------------------+-----------+--> LINGER --> closed
 *
 * While it is BOUND the connection belongs to the handler, which may keep it for --handler-timeout: see
 * hold.c. Then it goes on here without the handler, on another G: REFUSE, or END.
 *
 * A client that shuts its side down, or vanishes, cancels its handler as soon as nothing more can come
 * from it, that is when the request's body is read and no other request stands behind it: each wait then
 * answers "canceled". It still gets what the handler answers, since it may have shut only one side. The
 * poller does it (rt_pd_watch), at no cost for a request: `watched` changes only for requests with a body.
 *
 * One read and one write per request: after a short read the socket is known to be drained, so the
 * next read waits first (conn_read).
 *
 * LINGER: closing a socket with unread input makes the kernel send a reset, which may destroy the
 * answer on its way. So after an answer to a request that was not read to its end, we shut our side
 * down and read until the peer has closed its own, for a second at most.
 *
 * Every wait has a deadline: an idle connection --idle-timeout, or, while the server stops, DRAIN_IDLE_NS (why: server.c);
 * an incomplete head --header-timeout from its first byte, a body or a slow reader --idle-timeout between two pieces.
 */
#include "conn.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    VM_WAIT_NS = 2000000,
    LINGER_NS = NS_PER_SEC,
    DRAIN_IDLE_NS = NS_PER_SEC,
    LINGER_BYTES = 256 << 10
};

static struct {
    OF_ONE_P _Atomic int64_t n; /* bound to a VM by this P; others read */
} requests[MAX_PS];

typedef struct conn_local {
    host_conn *conn; /* outside of handlers */
    host_xfer *x;    /* in a handler, which may have lost its connection */
} conn_local;        /* what the rt_g of a connection holds */

static inline conn_local *local_of(rt_g *g) {
    return rt_local(g);
}

static rt_step conn_step(rt_g *g);
static rt_step handler_step(rt_g *g);

/* ---- reading ---- */

/* What the last read of this thread has brought. */
static __thread char arrived[BODY_READ];

/* Reads into `arrived`. The count, 0 at the end, -EAGAIN or -errno. */
static ssize_t conn_read(host_conn *c, size_t room) {
    if (c->drained && !rt_pd_hup(c->pd)) {
        c->drained = false; /* whoever waits now waits for the edge */
        return -EAGAIN;
    }
    ssize_t n;
    do
        n = read(c->fd, arrived, room);
    while (n < 0 && errno == EINTR);
    if (n < 0) return -errno;
    c->drained = n > 0 && (size_t)n < room;
    return n;
}

static bool stopping(host_conn *c) {
    return atomic_load_explicit(&c->server->stopping, memory_order_relaxed);
}

static void set_timeout(host_conn *c, int mode, double seconds) {
    rt_pd_set_deadline(c->pd, mode, rt_nanotime() + (int64_t)(seconds * 1e9));
}

/* ---- the end ---- */

static void drop_xfer(host_conn *c) {
    xfer_give(c->x);
    c->x = NULL;
}

static rt_step close_conn(host_conn *c) {
    if (c->x) drop_xfer(c);
    rt_pd_watch(c->pd, NULL);
    server_remove_conn(c->server, c);
    rt_pd_close(c->pd);
    close(c->fd);
    free(c);
    return RT_EXIT;
}

/* ---- phases; each returns what the G does next, or NEXT to go on at once ---- */

enum { NEXT = -1 };

static int wait_for(host_conn *c, int mode) {
    rt_clear_cancel(c->g); /* that was for its handler */
    int r = rt_pd_prepare(c->pd, mode, mode == RT_R ? RT_WAIT_READ : RT_WAIT_WRITE, c->g);
    /* 0 and errors: the phase looks at rt_pd_check itself. */
    return r == RT_PARKED ? RT_PARK : NEXT;
}

/* An answer from C to a request that can't be parsed or served; the connection ends after it. */
static int refuse(host_conn *c, int status) {
    host_xfer *x = c->x;
    rt_pd_set_deadline(c->pd, RT_R, 0);
    response_error(x, status, true);
    c->phase = CONN_FLUSH;
    c->after_flush = CONN_LINGER;
    return NEXT;
}

/* NULL: none can take it. */
static host_vm *choose_vm(host_server *s, bool *soon) {
    *soon = false;
    if (s->vm) return atomic_load_explicit(&s->vm_gone, memory_order_relaxed) ? NULL : s->vm;
    host_vm *vm = vm_for_request(soon);
    return vm && !atomic_load_explicit(&vm->dropped, memory_order_relaxed) ? vm : NULL;
}

static int after_response(host_conn *c);

/* Its VMs are all gone or too busy: come back later. */
static int refuse_busy(host_conn *c) {
    response_error(c->x, 503, false);
    return after_response(c);
}

/* Whether the end of the client's side cancels the handler: not while more is to come from it. */
static void watch_client(host_conn *c, rt_g *g) {
    host_xfer *x = c->x;
    bool all_here = x->message_done && x->in_pos == x->in_end;
    if (all_here != c->watched) {
        rt_pd_watch(c->pd, all_here ? g : NULL);
        c->watched = all_here;
    }
    rt_clear_cancel(g); /* of a time when it had no handler */
    x->hung_up = all_here && rt_pd_hup(c->pd);
}

/* A VM is being made, as a rule in a few milliseconds. */
static rt_step wait_for_vm(rt_g *g) {
    rt_wait_open(g);
    rt_set_wait(g, RT_WAIT_OTHER, rt_nanotime() + VM_WAIT_NS);
    return RT_PARK;
}

/* As long as a handler may take: the app may take longer, or get stuck, when it loads. */
static int ask_again(host_conn *c) {
    host_xfer *x = c->x;
    int64_t now = rt_nanotime(), limit = (int64_t)(options.handler_timeout * 1e9);
    if (x->read_ns == 0) x->read_ns = now;
    if (limit > 0 && now - x->read_ns >= limit) return refuse_busy(c);
    c->phase = CONN_BIND;
    return (int)wait_for_vm(c->g);
}

/* The whole head is there: join a VM. */
static int bind_vm(host_conn *c) {
    host_xfer *x = c->x;
    rt_g *g = c->g;
    static _Atomic uint64_t next_id = 1;
    x->req.id = atomic_fetch_add_explicit(&next_id, 1, memory_order_relaxed);
    x->req.server = (int16_t)c->server->id;
    rt_pd_set_deadline(c->pd, RT_R, 0);
    bool soon;
    host_vm *vm = choose_vm(c->server, &soon);
    if (!vm && soon) return ask_again(c);
    if (!vm) return refuse_busy(c);
    c->phase = CONN_BOUND;
    watch_client(c, g);
    _Atomic int64_t *bound = &requests[rt_p_id()].n;
    atomic_store_explicit(bound, atomic_load_explicit(bound, memory_order_relaxed) + 1,
                          memory_order_relaxed);
    local_of(g)->x = x;
    rt_set_step(g, handler_step, vm->cell);
    hold_begin(x, x->read_ns ? x->read_ns : rt_nanotime()); /* from here on c may be another G's */
    return RT_YIELD;
}

/* How long it may be silent between two requests. Not so long that a stop is over before it. */
static double idle_seconds(host_conn *c) {
    double s = options.idle_timeout;
    if (!stopping(c)) return s;
    if (s > DRAIN_IDLE_NS / 1e9) s = DRAIN_IDLE_NS / 1e9;
    return s > options.drain_timeout / 2 ? options.drain_timeout / 2 : s;
}

/* Between two requests: nothing but the connection itself is held. */
static int wait_idle(host_conn *c) {
    if (c->x) drop_xfer(c);
    set_timeout(c, RT_R, idle_seconds(c));
    return wait_for(c, RT_R);
}

/* Bytes are there. Most heads come whole, and need no deadline. */
static int parse_head(host_conn *c) {
    host_xfer *x = c->x;
    int r = http1_head(x);
    if (r > 0) return bind_vm(c);
    if (r < 0) return refuse(c, -r);
    if (x->read_ns)
        rt_pd_set_deadline(c->pd, RT_R, x->read_ns + (int64_t)(options.header_timeout * 1e9));
    return NEXT;
}

static int step_head(host_conn *c) {
    host_xfer *x = c->x;
    if (x && x->in_pos < x->in_end) return parse_head(c);
    int timeout = rt_pd_check(c->pd, RT_R);
    if (timeout && x && x->in_end > 0) return refuse(c, 408);
    if (timeout) c->drained = false;    /* a request may have come at the same moment */
    if (x && x->out_pos < x->out_end) { /* responses that waited for a request that is not whole */
        c->phase = CONN_FLUSH;
        c->after_flush = CONN_HEAD;
        return NEXT;
    }
    ssize_t n = conn_read(c, HEAD_READ);
    if (n > 0) {
        if (!x && !(x = c->x = xfer_take(c))) return close_conn(c);
        x->read_ns = x->in_end == 0 ? rt_nanotime() : 0;
        if (xfer_keep(x, arrived, (size_t)n) < 0) return close_conn(c);
        return parse_head(c);
    }
    if (n != -EAGAIN || timeout) return close_conn(c); /* the end, a reset, or nothing to answer */
    return !x || x->in_end == 0 ? wait_idle(c) : wait_for(c, RT_R);
}

/* The response is complete: what is left of the request, and then the next one. */
static int after_response(host_conn *c) {
    host_xfer *x = c->x;
    if (x->broken) return close_conn(c);
    if (!x->message_done) {
        /* Not worth reading if the client waits to be told, or the connection ends anyway. */
        if (x->expects_100 || x->close_after) {
            x->close_after = true;
            c->phase = CONN_FLUSH;
            c->after_flush = CONN_LINGER;
        } else {
            c->phase = CONN_DRAIN;
        }
        return NEXT;
    }
    if (x->close_after) {
        c->phase = CONN_FLUSH;
        c->after_flush = CONN_LINGER;
        return NEXT;
    }
    c->phase = CONN_HEAD;
    if (x->in_pos == x->in_end && x->out_pos == x->out_end) {
        drop_xfer(c);
        if (!c->drained || rt_pd_hup(c->pd)) return NEXT;
        c->drained = false; /* the edge will tell */
        return wait_idle(c);
    }
    if (x->in_pos == x->in_end) {
        c->phase = CONN_FLUSH;
        c->after_flush = CONN_HEAD;
        return NEXT;
    }
    xfer_next(x); /* pipelined */
    x->read_ns = rt_nanotime();
    return NEXT;
}

static int step_drain(host_conn *c) {
    host_xfer *x = c->x;
    int r = x->in_pos < x->in_end ? http1_body(x, false) : 0;
    if (r == 0) {
        ssize_t n = conn_read(c, BODY_READ);
        if (n == -EAGAIN && rt_pd_check(c->pd, RT_R) == 0) {
            set_timeout(c, RT_R, options.idle_timeout);
            return wait_for(c, RT_R);
        }
        r = n > 0 ? http1_body_of(x, arrived, (size_t)n, false) : -ECONNRESET;
    }
    if (r > 0) return after_response(c);
    if (r == 0) return NEXT;
    /* Too long, malformed, gone or too slow: the answer is out or queued, and that is enough. */
    x->close_after = true;
    c->phase = CONN_FLUSH;
    c->after_flush = CONN_LINGER;
    return NEXT;
}

static int step_flush(host_conn *c) {
    host_xfer *x = c->x;
    int err = response_flush(x);
    if (err == -EAGAIN) {
        if (rt_pd_check(c->pd, RT_W) != 0) return close_conn(c);
        set_timeout(c, RT_W, options.idle_timeout);
        return wait_for(c, RT_W);
    }
    if (err) return close_conn(c);
    rt_pd_set_deadline(c->pd, RT_W, 0);
    c->phase = c->after_flush;
    if (c->phase == CONN_HEAD && x->message_done) return after_response(c);
    if (c->phase == CONN_LINGER) {
        /* Who stops does so unasked: the client may have written its next request already. */
        bool unread = !x->message_done || x->in_pos < x->in_end || x->error || stopping(c);
        shutdown(c->fd, SHUT_WR);
        if (!unread) return close_conn(c);
        x->raw_seen = 0;
        rt_pd_set_deadline(c->pd, RT_R, rt_nanotime() + LINGER_NS);
    }
    return NEXT;
}

static int step_linger(host_conn *c) {
    host_xfer *x = c->x;
    if (rt_pd_check(c->pd, RT_R) != 0 || x->raw_seen > LINGER_BYTES) return close_conn(c);
    ssize_t n = conn_read(c, BODY_READ);
    if (n > 0) {
        x->raw_seen += (size_t)n;
        return NEXT;
    }
    return n == -EAGAIN ? wait_for(c, RT_R) : (int)close_conn(c);
}

static rt_step conn_step(rt_g *g) {
    host_conn *c = local_of(g)->conn;
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
            rt_throw("a bound connection runs outside of its VM");
        }
        if (next != NEXT) return (rt_step)next;
    }
}

/* ---- in the VM ---- */

/* The handler has ended, in whatever way. */
static void handler_done(host_luag *lg, int status) {
    host_xfer *x = lg->x;
    int answered = hold_end(x) ? 0 : hold_status(x);
    bool gone = (status != 0 || x->req.state == 0) && luag_client_gone(lg);
    if (status != 0) {
        const char *msg = lua_tostring(lg->L, -1);
        char when[64] = "";
        if (answered) snprintf(when, sizeof when, "after the client was answered %d: ", answered);
        log_line(gone && !answered ? LOG_DEBUG : LOG_ERROR, "%s %.*s: %s%s",
                 host_method_name(x->req.method), (int)x->req.path.len, x->in + x->req.path.off,
                 when, msg ? msg : "(no message)");
    }
    x->parted = answered != 0;
    if (answered) {
        /* Nothing here is ours any more but the xfer. */
    } else if (x->req.state == 0 && gone) {
        x->broken = true;
    } else if (x->req.state == 0) {
        response_error(x, 500, false);
    } else if (x->req.state == 1) {
        /* A stream without its end: the client must not take it for a whole one. */
        x->close_after = true;
        response_flush(x);
        x->broken = true;
    }
    waitq_close(&x->waitq);
    x->lg = NULL;
    luag_give(lg, status);
}

/* The connection has gone on without us: nothing is left but the xfer. */
static rt_step forget(rt_g *g, host_xfer *x) {
    rt_set_deadline(g, 0);
    hold_forget(x);
    return RT_EXIT;
}

/* Back to the connection's own steps; next: what comes first. */
static rt_step unbind(rt_g *g, int next) {
    if (next != NEXT) return (rt_step)next;
    return conn_step(g);
}

/* NULL: the VM has no memory for it. */
static host_luag *start_handler(rt_g *g, host_xfer *x, host_vm *vm) {
    host_luag *lg = x->lg = luag_take(vm);
    if (!lg) return NULL;
    lg->g = g;
    lg->x = x;
    lg->done = handler_done;
    luag_join_request(lg);
    atomic_store_explicit(&lg->request_ns, x->limit_ns, memory_order_relaxed);
    if (x->hung_up) lg->canceled |= HOST_CANCELED_GONE;
    int n = x->server->handler;
    lua_rawgeti(lg->L, LUA_REGISTRYINDEX, n < vm->n_handlers ? vm->handlers[n] : LUA_NOREF);
    lua_pushlightuserdata(lg->L, &x->req);
    lg->nargs = 1;
    return lg;
}

/* No VM can serve it. */
static rt_step not_served(rt_g *g, host_xfer *x) {
    if (!hold_end(x)) return forget(g, x);
    rt_set_step(g, conn_step, NULL);
    return unbind(g, refuse_busy(x->conn));
}

static rt_step bind_again(rt_g *g, host_xfer *x);

static rt_step bind_later(rt_g *g) {
    host_xfer *x = local_of(g)->x;
    rt_wait_code(g);
    return hold_status(x) ? forget(g, x) : bind_again(g, x);
}

/* It was bound to a VM, but taken out before the handler began, or the VM was dropped or retired: to another. */
static rt_step bind_again(rt_g *g, host_xfer *x) {
    bool soon;
    host_vm *vm = choose_vm(x->server, &soon);
    if (vm && vm == x->server->vm && atomic_load_explicit(&vm->stuck, memory_order_relaxed)) {
        soon =
            true; /* there is no other, and sysmon would take it out of that one again and again */
        vm = NULL;
    }
    if (vm) {
        rt_set_step(g, handler_step, vm->cell);
        return RT_YIELD;
    }
    if (soon) {
        rt_set_step(g, bind_later, NULL);
        return wait_for_vm(g);
    }
    return not_served(g, x);
}

/* The VM of a handler was dropped: its Lua is never touched again. */
static rt_step handler_drop(host_luag *lg) {
    host_xfer *x = lg->x;
    rt_g *g = lg->g;
    conn_abandon(x, 502);
    luag_forget(lg);
    return forget(g, x);
}

/* vm may have been retired, or even become another one, since it was chosen. */
static bool may_begin(const host_server *s, host_vm *vm) {
    return s->vm ? !atomic_load_explicit(&vm->dropped, memory_order_relaxed) : vm_serves(vm);
}

static rt_step handler_step(rt_g *g) {
    host_xfer *x = local_of(g)->x;
    host_luag *lg = x->lg;
    if (!lg) {
        if (hold_lost(x)) return forget(g, x);
        rt_cell *cell = rt_current_cell();
        host_vm *vm = cell ? rt_cell_data(cell) : NULL;
        if (!vm || !may_begin(x->server, vm)) return bind_again(g, x);
        if (!(lg = start_handler(g, x, vm))) return not_served(g, x);
    } else if (atomic_load_explicit(&lg->vm->dropped, memory_order_relaxed)) {
        return handler_drop(lg);
    }
    rt_step step = luag_resume(lg);
    if (step != RT_EXIT) return step;
    if (x->parted) return forget(g, x);
    rt_set_step(g, conn_step, NULL);
    return unbind(g, after_response(x->conn));
}

/* ---- what handlers call ---- */

rt_pd *conn_pd_take(host_req *r, host_waitq **q) {
    host_xfer *x = (host_xfer *)r;
    if (!hold_take(x)) return NULL;
    *q = &x->waitq;
    return x->conn->pd;
}

void conn_pd_give(host_req *r) {
    hold_give((host_xfer *)r);
}

int host_req_lost(host_req *r) {
    host_xfer *x = (host_xfer *)r;
    int status = hold_status(x);
    return status ? status : x->lg && luag_client_gone(x->lg);
}

/* What can't be read to its end ends the connection with the response. */
static int body_result(host_xfer *x, int r) {
    if (r < 0 && r != -EAGAIN) x->close_after = true;
    if (r == -ECONNRESET) x->broken = true;
    return r;
}

/* From now on the end of the client's side can only mean that it does not wait any more. */
static void body_is_here(host_xfer *x) {
    host_conn *c = x->conn;
    if (!x->lg || c->watched) return;
    rt_pd_watch(c->pd, x->lg->g);
    c->watched = true;
    if (rt_pd_hup(c->pd)) rt_cancel(x->lg->g, rt_id(x->lg->g));
}

static int fill(host_xfer *x) {
    host_conn *c = x->conn;
    if (x->in_pos < x->in_end) return http1_body(x, true);
    if (x->expects_100 && x->req.state == 0) {
        static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
        x->expects_100 = false;
        if (response_queue(x, go_on, sizeof go_on - 1) < 0 || response_flush(x) == -EPIPE)
            return -ECONNRESET;
    }
    if (rt_pd_check(c->pd, RT_R) != 0) return -ETIMEDOUT;
    ssize_t n = conn_read(c, BODY_READ);
    if (n == -EAGAIN) {
        set_timeout(c, RT_R, options.idle_timeout);
        return -EAGAIN;
    }
    return n <= 0 ? -ECONNRESET : http1_body_of(x, arrived, (size_t)n, true);
}

int host_req_fill(host_req *r) {
    host_xfer *x = (host_xfer *)r;
    if (r->body_complete) return 1;
    if (!hold_take(x)) return -ECONNRESET;
    int rc = x->broken ? -ECONNRESET : body_result(x, fill(x));
    if (r->body_complete && x->in_pos == x->in_end) body_is_here(x);
    hold_give(x);
    return rc;
}

int64_t host_p_requests(int32_t p) {
    if (p < 0 || p >= rt_procs()) return -1;
    return atomic_load_explicit(&requests[p].n, memory_order_relaxed);
}

int host_req_remote(host_req *r, char *buf, size_t cap) {
    host_xfer *x = (host_xfer *)r;
    struct sockaddr_storage sa = {0};
    socklen_t len = sizeof sa;
    if (!hold_take(x)) return -EPIPE;
    int err = getpeername(x->conn->fd, (struct sockaddr *)&sa, &len) < 0 ? -errno : 0;
    hold_give(x);
    return err ? err : addr_format((struct sockaddr *)&sa, len, buf, cap);
}

/* ---- the beginning ---- */

void conn_go(host_conn *c) {
    rt_g *g = c->g = rt_new_step(conn_step, NULL);
    *local_of(g) = (conn_local){.conn = c};
    rt_ready(g);
}

/* Takes over fd, an accepted connection. */
void conn_start(host_server *s, int fd) {
    int err;
    host_conn *c = calloc(1, sizeof *c);
    rt_pd *pd = c ? rt_pd_open(fd, &err) : NULL;
    if (!pd) {
        log_line(LOG_ERROR, "a connection is refused: %s", c ? rt_strerror(err) : "out of memory");
        close(fd);
        free(c);
        return;
    }
    c->server = s;
    c->fd = fd;
    c->pd = pd;
    server_add_conn(s, c);
    conn_go(c);
}
