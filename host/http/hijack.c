/* Connections that handlers take over: res:hijack().
 *
 * The connection's stream moves into a socket of the handler's VM, as app:tcp has them (serve/raw.c). The connection
 * itself stays, without a stream, until the handler ends: so it counts for --max-conns and the bounds of its address, a
 * stop waits for it, and it is one line of the access log, with status 101. When the handler has ended, in whatever
 * way, the socket is closed here; if its VM was dropped, the VM has closed it. Then the connection's G finds an exchange
 * that can write no more, and ends.
 *
 * While the stream is lent, no call of the handler touches the connection (HOLD_LENT in hold.c), and nobody else looks
 * at its stream: the poller cancels its G no more, and the list of connections leaves it alone (conns_set_apart).
 *
 * The handler has no deadline from then on. Instead each wait for the socket is bounded by the time that the client may
 * be silent (lua/lunapark/http/hijack.lua).
 */
#include "hijack.h"

#include "../net/sock.h"
#include "../serve/conns.h"
#include "conn.h"
#include "hold.h"
#include "over.h"
#include "response.h"

#include <errno.h>

/* 0: nothing is in the way of a move; an answer of host_req_hijack. The handler has the connection. */
static int may_move(host_exchange *x) {
    if (!x->message_done) return -EBUSY;
    if (x->broken) return -EPIPE;
    int rc = x->ops->send(x, "", 0, 0);
    return rc == -EAGAIN ? response_wait(x) : rc;
}

/* Moves the stream. The handler has the connection, and has lost it afterwards if the answer is 0. */
static int move(host_exchange *x) {
    host_conn *c = x->conn;
    const char *rest;
    size_t n;
    stream *io = x->ops->lend(x, &rest, &n);
    if (!io) return -EOPNOTSUPP;
    rt_pd *pd = io->pd;
    conns_set_apart(&c->base, true);
    host_sock *s = sock_of_stream(io, rest, n);
    if (!s) {
        conns_set_apart(&c->base, false);
        return -ENOMEM;
    }
    waitq_close(&x->waitq);
    rt_pd_watch(pd, NULL);
    rt_pd_set_deadline(pd, RT_R, 0);
    rt_pd_set_deadline(pd, RT_W, 0);
    exchange_answers(x, rt_nanotime());
    x->req.state = 2;
    x->req.status = 101;
    x->left = 0;
    x->broken = true; /* for all but the socket */
    atomic_store_explicit(&x->all_here, false, memory_order_relaxed);
    x->lent = s;
    sock_known_to(s, &x->lent);
    return 0;
}

host_sock *host_req_hijack(host_req *r, double id, int *err) {
    host_exchange *x = (host_exchange *)r;
    if (exchange_is(x, id) && r->state != 0) {
        *err = -EALREADY;
        return NULL;
    }
    *err = hold_call(r, id) ? 0 : -EPIPE;
    if (*err) return NULL;
    *err = may_move(x);
    if (!*err) *err = move(x);
    if (*err) {
        hold_give(x);
        return NULL;
    }
    hold_lend(x);
    return x->lent;
}

void hijack_end(host_exchange *x) {
    if (!x->lent) return;
    host_sock_close(x->lent);
    sock_known_to(x->lent, NULL);
    x->lent = NULL;
}
