/* What handlers call for their request: its body, its client, whether it still waits. Each call names the request by
 * pointer and id, takes the connection for as long as it lasts (hold.c), and does not wait. */
#include "../base/addr.h"
#include "conn.h"
#include "hold.h"
#include "http1.h"
#include "pace.h"
#include "response.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/socket.h>

rt_pd *exchange_pd_take(host_req *r, double id, host_waitq **q) {
    host_exchange *x = hold_call(r, id);
    if (!x) return NULL;
    *q = &x->waitq;
    return x->conn->io.pd;
}

void exchange_pd_give(host_req *r) {
    hold_give((host_exchange *)r);
}

int host_req_lost(host_req *r, double id) {
    host_exchange *x = (host_exchange *)r;
    if (!exchange_is(x, id)) return 1;
    int status = hold_status(x);
    return status ? status : x->lg && luag_client_gone(x->lg);
}

/* What can't be read to its end ends the connection with the response. */
static int body_result(host_exchange *x, int r) {
    if (r < 0 && r != -EAGAIN) x->close_after = true;
    if (r == -ECONNRESET) x->broken = true;
    return r;
}

/* From now on the end of the client's side can only mean that it does not wait any more. */
static void body_is_here(host_exchange *x) {
    atomic_store(&x->all_here, true);
    if (rt_pd_hup(x->conn->io.pd)) rt_cancel(x->handler, x->handler_id);
}

static int fill(host_exchange *x) {
    host_conn *c = x->conn;
    if (x->in_pos < x->in_end) return http1_body(x, true);
    if (x->expects_100 && x->req.state == 0) {
        static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
        x->expects_100 = false;
        if (out_bytes(&c->out, go_on, sizeof go_on - 1) < 0 || response_flush(x) == -EPIPE)
            return -ECONNRESET;
    }
    int timeout = rt_pd_check(c->io.pd, RT_R);
    if (timeout) stream_doubt(&c->io); /* some may have come at the same moment */
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

int host_req_fill(host_req *r, double id) {
    if (exchange_is((host_exchange *)r, id) && r->body_complete) return 1;
    host_exchange *x = hold_call(r, id);
    if (!x) return -ECONNRESET;
    int rc = x->broken ? -ECONNRESET : body_result(x, fill(x));
    if (r->body_complete && x->in_pos == x->in_end) body_is_here(x);
    hold_give(x);
    return rc;
}

int host_req_remote(host_req *r, double id, char *buf, size_t cap) {
    struct sockaddr_storage sa = {0};
    socklen_t len = sizeof sa;
    host_exchange *x = hold_call(r, id);
    if (!x) return -EPIPE;
    int err = getpeername(x->conn->io.fd, (struct sockaddr *)&sa, &len) < 0 ? -errno : 0;
    hold_give(x);
    return err ? err : addr_format((struct sockaddr *)&sa, len, buf, cap);
}
