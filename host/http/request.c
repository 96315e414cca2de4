/* Calls of handlers about their request: its body, its client, whether the client still waits. Each call names the
 * request by pointer and id, takes the connection while it runs (hold.c), and does not wait. */
#include "../base/addr.h"
#include "../net/tls.h"
#include "conn.h"
#include "hold.h"
#include "over.h"

#include <errno.h>
#include <strings.h>
#include <sys/socket.h>

rt_pd *exchange_pd_take(host_req *r, double id, host_waitq **q) {
    host_exchange *x = hold_call(r, id);
    if (!x) return NULL;
    *q = &x->waitq;
    return x->ops->pd(x);
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

int host_req_fill(host_req *r, double id) {
    if (exchange_is((host_exchange *)r, id) && r->body_complete) return 1;
    host_exchange *x = hold_call(r, id);
    if (!x) return -ECONNRESET;
    int rc = x->broken ? -ECONNRESET : x->ops->fill(x);
    hold_give(x);
    return rc;
}

int host_req_header(const host_req *r, const char *name, size_t len, host_span *value) {
    int n = 0;
    for (int i = 0; i < r->nheaders; i++) {
        const host_header *h = &r->headers[i];
        if (h->name.len != len || strncasecmp(r->buf + h->name.off, name, len) != 0) continue;
        if (n++ == 0) *value = h->value;
    }
    return n;
}

const char *host_req_trailers(host_req *r, double id, size_t *len) {
    *len = 0;
    host_exchange *x = (host_exchange *)r;
    return exchange_is(x, id) ? x->ops->trailers(x, len) : NULL;
}

double host_req_sent(host_req *r, double id) {
    host_exchange *x = hold_call(r, id);
    if (!x) return -EPIPE;
    exchange_account a;
    exchange_account_of(x, x->begin_ns, &a);
    hold_give(x);
    return (double)a.out;
}

int host_req_tls(host_req *r, double id, char *buf, size_t cap) {
    host_exchange *x = hold_call(r, id);
    if (!x) return -EPIPE;
    int n = x->conn->io.tls ? (int)tls_print(&x->conn->io, buf, cap) : 0;
    hold_give(x);
    return n;
}

int host_req_remote(host_req *r, double id, char *buf, size_t cap) {
    struct sockaddr_storage sa;
    socklen_t len;
    host_exchange *x = hold_call(r, id);
    if (!x) return -EPIPE;
    int err = client_address(&x->conn->base.from, x->conn->io.fd, &sa, &len);
    hold_give(x);
    return err ? err : addr_format((struct sockaddr *)&sa, len, buf, cap);
}
